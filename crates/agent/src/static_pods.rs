//! Static pods: manifests in a directory of the node become pods that run without the API; a mirror of each shows there.
//!
//! [`read_manifest`] is pure: a file's text becomes pods as they would come from the API. [`Directory`] watches. Follows
//! `pkg/kubelet/config/{common,file}.go` and `pkg/kubelet/pod/mirror_client.go`. Differs: a file that cannot be read or is
//! not valid leaves the pods of its last good version alone.

use crate::agent::Feed;
use crate::cluster::{Cluster, ClusterError};
use crate::pod::view;
use crate::pod::worker::status_patch;
use api::k8s::api::core::v1::{Pod, PodStatus, Toleration};
use api::meta::MetaExt;
use api::{AnyObject, Codec, OwnerReference};
use base::DirWatch;
pub use machinery::pod_references::is_mirror;
use machinery::pod_references::{self, MIRROR};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where a pod comes from; absent on those from the API.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// The hash of a static pod's manifest.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Changes that nobody tells of are found after this (`fileCheckFrequency`).
const PERIOD: Duration = Duration::from_secs(20);
/// Editors write in several steps.
const SETTLE: Duration = Duration::from_millis(100);
/// Larger files are no manifests.
const MANIFEST_MAX_BYTES: u64 = 10 << 20;

/// Whether the pod comes from a manifest of this node.
pub fn is_static(pod: &Pod) -> bool {
    pod.annotation(SOURCE).is_some_and(|s| s != "api") && !is_mirror(pod)
}

/// The mirror of a static pod, as it is created.
pub fn mirror_of(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut mirror = Pod { metadata: pod.metadata.clone(), spec: pod.spec.clone(), status: None };
    let hash = pod.annotation(HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    mirror.metadata.generation = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror
}

/// Whether a pod of the API is the mirror of this static pod as it is now: mirrors have the hash of what they show.
pub fn shows(mirror: &Pod, pod: &Pod) -> bool {
    mirror.annotation(MIRROR).is_some() && mirror.annotation(MIRROR) == pod.annotation(HASH)
}

/// Lets the API show a static pod with this status: makes its mirror, or makes it anew.
pub async fn show(cluster: &dyn Cluster, node: &str, pod: &Pod, status: &PodStatus) -> Result<(), ClusterError> {
    let mirror = match cluster.pod(pod.namespace(), pod.name()).await? {
        Some(found) if shows(&found, pod) && found.metadata.deletion_timestamp.is_none() => found,
        Some(found) if is_mirror(&found) => {
            cluster.delete_pod(&found).await?;
            create(cluster, node, pod).await?
        }
        Some(_) => {
            let described = view::describe(pod);
            return Err(ClusterError::Failed(format!(
                "a pod that is no mirror has the name of static pod {described}"
            )));
        }
        None => create(cluster, node, pod).await?,
    };
    let Some(change) = status_patch(&mirror.status.clone().unwrap_or_default(), status) else { return Ok(()) };
    let patch = serde_json::json!({
        "metadata": {"uid": mirror.uid(), "resourceVersion": mirror.metadata.resource_version},
        "status": change,
    });
    cluster.patch_pod_status(pod.namespace(), pod.name(), &patch).await.map(drop)
}

async fn create(cluster: &dyn Cluster, node: &str, pod: &Pod) -> Result<Pod, ClusterError> {
    let uid = cluster.read_node().await?.uid().to_owned();
    cluster.create_pod(&mirror_of(pod, node, &uid)).await
}

/// Takes the mirror of a static pod away, if it is this one's.
pub async fn hide(cluster: &dyn Cluster, pod: &Pod) -> Result<(), ClusterError> {
    match cluster.pod(pod.namespace(), pod.name()).await? {
        Some(found) if shows(&found, pod) => cluster.delete_pod(&found).await,
        _ => Ok(()),
    }
}

/// The pods in a manifest: one pod, or a list of them.
pub fn read_manifest(text: &str, file: &Path, node: &str) -> Result<Vec<Pod>, String> {
    let document: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let items = match document["kind"].as_str() {
        _ if document.is_null() => Vec::new(),
        Some("PodList" | "List") => document["items"].as_array().cloned().unwrap_or_default(),
        _ => vec![document],
    };
    items.into_iter().map(|item| read_pod(item, file, node)).collect()
}

fn read_pod(mut value: Value, file: &Path, node: &str) -> Result<Pod, String> {
    value["apiVersion"] = "v1".into();
    match value["kind"].as_str() {
        Some("Pod") => {}
        None => value["kind"] = "Pod".into(),
        Some(other) => return Err(format!("{other} is no Pod")),
    }
    let mut pod = Pod::decode(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
    let mut hash = Sha256::new();
    hash.update(format!("host:{node}\nfile:{}\n", file.display()));
    hash.update(Codec::encode(&pod));
    let hash: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    let meta = &mut pod.metadata;
    let name = meta.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err("metadata.name is required".into());
    }
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace = Some(meta.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()));
    meta.uid = Some(meta.uid.clone().filter(|u| !u.is_empty()).unwrap_or_else(|| hash.clone()));
    meta.generation = Some(1);
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(SOURCE.into(), "file".into());
    annotations.insert(HASH.into(), hash);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    let kind = machinery::kinds::find("", "v1", "pods").ok_or("there is no kind Pod")?;
    kind.default(&mut pod as &mut dyn AnyObject);
    let errors = kind.validate_create(&pod as &dyn AnyObject);
    if !errors.is_empty() {
        return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    }
    if view::app_containers(&pod).is_empty() {
        return Err("spec.containers: Required value".into());
    }
    match pod.spec.as_ref().and_then(pod_references::first) {
        Some(kind) => Err(format!("static pods may not reference {kind}")),
        None => Ok(pod),
    }
}

/// What changed between two readings: pods that are new or different, and pods that are gone.
pub fn changes(before: &BTreeMap<String, Arc<Pod>>, after: &BTreeMap<String, Arc<Pod>>) -> Vec<Feed> {
    // A manifest that changes makes another pod of the same name: the old one goes first.
    let gone = before.iter().filter(|(uid, _)| !after.contains_key(*uid)).map(|(_, pod)| Feed::Gone(pod.clone()));
    let new = after.iter().filter(|(uid, _)| !before.contains_key(*uid)).map(|(_, pod)| Feed::Pod(pod.clone()));
    gone.chain(new).collect()
}

/// The manifests of a directory.
pub struct Directory {
    path: PathBuf,
    node: String,
    /// By file, what it said when it was last good.
    good: BTreeMap<PathBuf, Vec<Arc<Pod>>>,
}

impl Directory {
    /// Reads nothing yet.
    pub fn new(path: PathBuf, node: &str) -> Self {
        Directory { path, node: node.to_owned(), good: BTreeMap::new() }
    }

    /// All pods, by uid. A directory that is not there has none.
    pub fn read(&mut self) -> BTreeMap<String, Arc<Pod>> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if hidden || !path.metadata().is_ok_and(|m| m.is_file() && m.len() <= MANIFEST_MAX_BYTES) {
                continue;
            }
            let read = std::fs::read_to_string(&path).map_err(|e| e.to_string());
            let pods = match read.and_then(|text| read_manifest(&text, &path, &self.node)) {
                Ok(pods) => pods.into_iter().map(Arc::new).collect(),
                Err(error) => {
                    tracing::error!(file = %path.display(), error, "a manifest cannot be used");
                    self.good.get(&path).cloned().unwrap_or_default()
                }
            };
            found.insert(path, pods);
        }
        self.good = found;
        self.pods()
    }

    fn pods(&self) -> BTreeMap<String, Arc<Pod>> {
        self.good.values().flatten().map(|p| (p.uid().to_owned(), p.clone())).collect()
    }

    /// Tells of every change until `shutdown`.
    pub async fn run(mut self, feed: mpsc::UnboundedSender<Feed>, shutdown: CancellationToken) {
        // There from the start, so that the kernel can tell of the first manifest.
        if let Err(error) = std::fs::create_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "failed to make the directory for static pods");
        }
        // As of the last reading, which whoever starts this has acted on.
        let mut before = self.pods();
        let mut watch = DirWatch::new([self.path.as_path()]);
        // What came before the watch.
        let mut at_once = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = std::future::ready(()), if at_once => {}
                () = tokio::time::sleep(PERIOD) => {}
                () = watch.changed() => tokio::time::sleep(SETTLE).await,
            }
            at_once = false;
            watch = DirWatch::new([self.path.as_path()]);
            let after = self.read();
            for change in changes(&before, &after) {
                if feed.send(change).is_err() {
                    return;
                }
            }
            before = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\nspec:\n  containers: [{name: c, image: nginx}]\n";

    fn read(text: &str) -> Result<Vec<Pod>, String> {
        read_manifest(text, Path::new("/m/web.yaml"), "node-1")
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pods = read(MANIFEST).expect("valid");
        let pod = &pods[0];
        assert_eq!((pod.name(), pod.namespace()), ("web-node-1", "kube-system"));
        assert!(is_static(pod) && !is_mirror(pod));
        let spec = pod.spec.as_ref().expect("a spec");
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"), "defaults are filled in");
        assert_eq!(pod.uid(), read(MANIFEST).expect("valid")[0].uid(), "the same text is the same pod");
        assert_ne!(pod.uid(), read(&MANIFEST.replace("nginx", "other")).expect("valid")[0].uid());
        let mirror = mirror_of(pod, "node-1", "n");
        assert!(is_mirror(&mirror) && !is_static(&mirror) && shows(&mirror, pod));
        assert_eq!(mirror.metadata.uid, None);
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        assert!(read("kind: Service").expect_err("no pod").contains("Service is no Pod"));
        assert!(read("kind: Pod\nmetadata: {}\nspec: {}").expect_err("no name").contains("metadata.name"));
        let bad = MANIFEST.replace("name: c", "name: C_");
        assert!(read(&bad).expect_err("bad name").contains("spec.containers[0].name"));
        for (rest, kind) in [
            ("resourceClaims: [{name: c, resourceClaimName: c}]", "resourceclaims"),
            ("volumes: [{name: v, secret: {secretName: s}}]", "secrets"),
        ] {
            let refused = read(&format!("{MANIFEST}  {rest}\n")).expect_err("there may be no API");
            assert_eq!(refused, format!("static pods may not reference {kind}"));
        }
        assert_eq!(read("").expect("nothing").len(), 0);
    }

    #[test]
    fn a_broken_file_leaves_its_pods_alone_and_a_changed_one_replaces_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("web.yaml");
        std::fs::write(&file, MANIFEST).expect("written");
        std::fs::write(dir.path().join(".swp"), "junk").expect("written");
        let mut directory = Directory::new(dir.path().to_owned(), "n");
        let first = directory.read();
        assert_eq!(first.len(), 1);
        std::fs::write(&file, "kind: [").expect("written");
        assert_eq!(directory.read().keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
        std::fs::write(&file, MANIFEST.replace("nginx", "other")).expect("written");
        let second = directory.read();
        let told: Vec<&str> = changes(&first, &second)
            .iter()
            .map(|c| match c {
                Feed::Pod(_) => "new",
                Feed::Gone(_) => "gone",
                Feed::Reference(_) => "reference",
            })
            .collect();
        assert_eq!(told, ["gone", "new"]);
    }
}
