//! Keeps the logs of containers within bounds: the runtime writes them, whoever runs it cuts them and says when to open them anew
//! (`pkg/kubelet/logs/container_log_manager.go`). Differs: old files are not compressed.

use super::{CriError, Runtime, call, config, watch};
use base::Clock;
use node_api::cri::{Container, ContainerState, PodSandbox, ReopenContainerLogRequest};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `containerLogMonitorInterval`.
const PERIOD: Duration = Duration::from_secs(10);
/// `containerLogMaxSize` and `containerLogMaxFiles`.
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;

/// Until it is aborted.
pub(super) async fn run(runtime: Runtime, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        if let Err(error) = look(&runtime, &*clock).await {
            tracing::warn!(%error, "failed to look at the logs of containers");
        }
    }
}

async fn look(runtime: &Runtime, clock: &dyn Clock) -> Result<(), CriError> {
    let (sandboxes, containers) = watch::lists(runtime).await?;
    for (container, path) in written(&sandboxes, &containers) {
        if std::fs::metadata(&path).map_or(0, |m| m.len()) <= MAX_BYTES {
            continue;
        }
        let cut = cut(&path, &clock.now().strftime("%Y%m%d-%H%M%S").to_string());
        if let Err(error) = cut {
            tracing::warn!(path = %path.display(), %error, "failed to cut a log");
            continue;
        }
        call(runtime.clone().reopen_container_log(ReopenContainerLogRequest { container_id: container })).await?;
    }
    Ok(())
}

/// Our containers that run, with their logs.
fn written(sandboxes: &[PodSandbox], containers: &[Container]) -> Vec<(String, PathBuf)> {
    let path = |c: &Container| {
        let sandbox = sandboxes.iter().find(|s| s.id == c.pod_sandbox_id)?;
        let dir = PathBuf::from(config::own_sandbox(&sandbox.annotations)?.log_directory);
        let run = c.metadata.as_ref()?;
        Some((c.id.clone(), dir.join(&run.name).join(format!("{}.log", run.attempt))))
    };
    containers.iter().filter(|c| c.state() == ContainerState::ContainerRunning).filter_map(path).collect()
}

/// Renames the log, and removes the oldest of those before it.
fn cut(path: &Path, time: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    let prefix = PathBuf::from(&name);
    name.push(time);
    std::fs::rename(path, &name)?;
    let (dir, prefix) = (path.parent().unwrap_or(path), prefix.file_name().unwrap_or_default().to_string_lossy());
    let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&*prefix))
        .map(|e| e.path())
        .collect();
    old.sort();
    let surplus = old.len().saturating_sub(MAX_FILES - 1);
    old.iter().take(surplus).try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("0.log");
        for second in 0..7 {
            std::fs::write(&log, "x").expect("written");
            cut(&log, &format!("20260102-15040{second}")).expect("cut");
        }
        std::fs::write(dir.path().join("10.log"), "another's").expect("written");
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .expect("read")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let kept = ["3", "4", "5", "6"].map(|s| format!("0.log.20260102-15040{s}"));
        assert_eq!(names[..4], kept);
        assert_eq!(names[4..], ["10.log"]);
    }
}
