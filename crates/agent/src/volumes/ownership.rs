//! Giving a whole volume to a pod's group, file by file, beside everything else: a large one takes minutes, and whoever waits for the pod is told
//! what would help (`pkg/volume/volume_linux.go`).

use super::atomic;
use crate::cluster::{Cluster, ClusterEvent};
use api::k8s::api::core::v1::Pod;
use api::meta::MetaExt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;

/// After this it is told of once (`firstEventReportDuration`). Differs: not every minute again.
const SLOW: Duration = Duration::from_secs(30);

/// Gives what is in `root` to this group. `dir` is what the volume is called for people, who may know `root` by a link.
pub(super) async fn give(cluster: &dyn Cluster, pod: &Pod, dir: &Path, root: PathBuf, group: u32) -> io::Result<()> {
    let changing = tokio::task::spawn_blocking(move || atomic::own_tree(&root, group, false));
    wait(cluster, pod, dir, changing).await
}

/// Waits for `changing` to end, which works on the directory `dir`.
async fn wait(
    cluster: &dyn Cluster,
    pod: &Pod,
    dir: &Path,
    mut changing: JoinHandle<io::Result<()>>,
) -> io::Result<()> {
    let ended = tokio::select! {
        ended = &mut changing => ended,
        () = tokio::time::sleep(SLOW) => {
            tell(cluster, pod, dir);
            changing.await
        }
    };
    ended.map_err(io::Error::other)?
}

fn tell(cluster: &dyn Cluster, pod: &Pod, dir: &Path) {
    // From the pod's uid on, as upstream shows it.
    let shown = dir.display().to_string();
    let shown = shown.find(pod.uid()).map_or(shown.as_str(), |at| &shown[at..]);
    let message = format!(
        "Setting volume ownership for {shown} is taking longer than expected, consider using OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods"
    );
    let reason = "VolumePermissionChangeInProgress";
    cluster.event(ClusterEvent { pod: Some(pod), field_path: None, warning: true, reason, message: &message });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::testing::FakeCluster;

    #[tokio::test(start_paused = true)]
    async fn only_slow_ones_are_told_of() {
        let (cluster, mut pod) = (FakeCluster::default(), pod(r#"{"containers":[]}"#));
        pod.metadata.uid = Some("u-1".into());
        let takes = |seconds| {
            base::tasks::spawn("changing", async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(())
            })
        };
        wait(&cluster, &pod, Path::new("/d/pods/u-1/v"), takes(29)).await.expect("done");
        assert!(cluster.events().is_empty());
        wait(&cluster, &pod, Path::new("/d/pods/u-1/v"), takes(300)).await.expect("done");
        let events = cluster.events();
        assert!(events.len() == 1 && events[0].contains("ownership for u-1/v is taking"), "{events:?}");
        let lost = base::tasks::spawn("changing", async { Err(io::ErrorKind::NotFound.into()) });
        assert!(wait(&cluster, &pod, Path::new("/x"), lost).await.is_err());
    }
}
