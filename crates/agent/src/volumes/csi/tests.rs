//! A real driver on a socket, a fake cluster.

use super::*;
use crate::counters;
use crate::pod::fixture::{object, pod};
use crate::testing::FakeCluster;
use api::k8s::api::storage::v1::VolumeAttachment;
use std::path::Path;
use testkit::{CsiFixture, CsiOptions};

struct Lab {
    dir: tempfile::TempDir,
    cluster: Arc<FakeCluster>,
    driver: CsiFixture,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Lab {
    /// `spec` of the CSIDriver.
    fn new(spec: &str) -> Lab {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = CsiOptions {
            name: "d".into(),
            state: dir.path().join("state"),
            node_id: "n".into(),
            stages: true,
            mounts: false,
        };
        let driver = CsiFixture::new(options);
        let server = driver.serve(&dir.path().join("csi.sock")).expect("a socket");
        let cluster = Arc::new(FakeCluster::default());
        let modes = if spec.contains("Ephemeral") { "" } else { r#","volumeLifecycleModes":["Persistent"]"# };
        cluster.put_driver(object(&format!(
            r#"{{"apiVersion":"storage.k8s.io/v1","kind":"CSIDriver","metadata":{{"name":"d"}},"spec":{{"seLinuxMount":true,{spec}{modes}}}}}"#
        )));
        Lab { dir, cluster, driver, server }
    }

    /// The agent's part, as after a start.
    fn volumes(&self) -> Arc<CsiVolumes> {
        let volumes =
            CsiVolumes::new(self.dir.path().join("kubelet"), "n1".into(), self.cluster.clone(), Arc::default());
        volumes.drivers().set("d", &self.dir.path().join("csi.sock"), vec![1, 0, 0]);
        Arc::new(volumes)
    }

    /// On a node with SELinux.
    fn labelling(&self) -> CsiVolumes {
        let mut volumes = Arc::into_inner(self.volumes()).expect("nobody else's");
        volumes.label = |wish| Some(format!("u:r:t:{}", wish.level));
        volumes
    }

    fn files(&self) -> usize {
        count_files(&self.dir.path().join("kubelet"))
    }
}

fn count_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count_files(&e.path()) } else { 1 }).sum()
}

fn user(uid: &str) -> Pod {
    let mut pod = pod(r#"{"serviceAccountName":"sa","containers":[]}"#);
    pod.metadata.uid = Some(uid.to_owned());
    pod
}

fn persistent(capacity: &str, status: &str) -> Persistent {
    Persistent {
        volume: object(&format!(
            r#"{{"metadata":{{"name":"v"}},"spec":{{"accessModes":["ReadWriteMany"],"capacity":{{"storage":"{capacity}"}},"csi":{{"driver":"d","volumeHandle":"h","volumeAttributes":{{"a":"b"}}}}}}}}"#
        )),
        claim: object(&format!(
            r#"{{"metadata":{{"name":"c","namespace":"default","resourceVersion":"7"}},"spec":{{"volumeName":"v"}},"status":{{{status}}}}}"#
        )),
    }
}

fn plain() -> Persistent {
    persistent("1Gi", r#""capacity":{"storage":"1Gi"}"#)
}

async fn use_it(volumes: &CsiVolumes, uid: &str, persistent: &Persistent) -> Result<Place, VolumeError> {
    volumes
        .set_up_persistent(&user(uid), "data", persistent, false, Timestamp::UNIX_EPOCH)
        .await
        .map(|(place, _)| place)
}

#[tokio::test]
async fn staged_once_published_per_pod_and_all_undone() {
    let lab = Lab::new(r#""attachRequired":false"#);
    let volumes = lab.volumes();
    let place = use_it(&volumes, "1", &plain()).await.expect("it is there");
    assert!(place.path.ends_with("pods/1/volumes/kubernetes.io~csi/v/mount") && place.path.is_dir());
    use_it(&volumes, "2", &plain()).await.expect("it is there");
    assert_eq!(lab.driver.calls(), ["stage h", "publish h a=b", "publish h a=b"]);
    assert!(volumes.in_use().is_empty(), "nobody attaches it");
    lab.driver.forget_calls();
    volumes.tear_down("1").await.expect("gone");
    assert_eq!(lab.driver.calls(), ["unpublish h"]);
    // The agent starts anew: what is left is found on disk.
    let volumes = lab.volumes();
    volumes.tear_down("2").await.expect("gone");
    let of = |family| volumes.counters.spreads_of(family).into_iter().map(|(labels, s)| (labels.join(" "), s.count));
    let operations: Vec<(String, u64)> = of(&counters::STORAGE_OPERATION).collect();
    let named = |operation: &str| (format!("kubernetes.io/csi:d {operation} success false"), 1);
    assert_eq!(operations, [named("unmount_device"), named("volume_unmount")]);
    let calls: Vec<(String, u64)> = of(&counters::CSI_OPERATION).collect();
    let named = |method: &str, count| (format!("d /csi.v1.Node/{method} OK false"), count);
    let wanted = [("NodeGetCapabilities", 2), ("NodeUnpublishVolume", 1), ("NodeUnstageVolume", 1)];
    assert_eq!(calls, wanted.map(|(method, count)| named(method, count)));
    assert_eq!(lab.driver.calls(), ["unpublish h", "unpublish h", "unstage h"]);
    assert_eq!(lab.files(), 0);
}

#[tokio::test]
async fn a_volume_is_mounted_with_its_pods_label_and_anew_for_another() {
    let lab = Lab::new(r#""attachRequired":false"#);
    let volumes = lab.labelling();
    let mut alone = plain();
    alone.volume.spec.get_or_insert_default().access_modes = Some(vec!["ReadWriteOncePod".into()]);
    let use_it = async |uid: &str, level: &str| {
        let mut pod = pod(&format!(
            r#"{{"securityContext":{{"seLinuxOptions":{{"level":"{level}"}}}},"containers":[{{"name":"a","volumeMounts":[{{"name":"data","mountPath":"/d"}}]}}]}}"#
        ));
        pod.metadata.uid = Some(uid.to_owned());
        volumes.set_up_persistent(&pod, "data", &alone, false, Timestamp::UNIX_EPOCH).await.expect("it is there");
    };
    use_it("1", "s0:c1,c2").await;
    let with = |level: &str| {
        [format!("stage h [context=\"u:r:t:{level}\"]"), format!("publish h a=b [context=\"u:r:t:{level}\"]")]
    };
    assert_eq!(lab.driver.calls(), with("s0:c1,c2"));
    lab.driver.forget_calls();
    // It could not be unstaged when the first pod had gone.
    lab.driver.refuse("unstage", Some(tonic::Status::internal("busy")));
    assert!(volumes.tear_down("1").await.is_err());
    lab.driver.refuse("unstage", None);
    lab.driver.forget_calls();
    use_it("2", "s0:c3").await;
    volumes.tear_down("1").await.expect("tried again, and the other's stays");
    assert_eq!(lab.driver.calls(), [&["unstage h".to_owned()][..], &with("s0:c3")].concat());
    lab.driver.forget_calls();
    volumes.tear_down("2").await.expect("gone");
    use_it("3", "").await;
    assert_eq!(lab.driver.calls(), ["unpublish h", "unstage h", "stage h", "publish h a=b"]);
    volumes.tear_down("3").await.expect("gone");
    assert_eq!(lab.files(), 0);
}

#[tokio::test]
async fn what_a_driver_refuses_is_told_and_leaves_nothing() {
    let lab = Lab::new(r#""attachRequired":false"#);
    let volumes = lab.volumes();
    lab.driver.refuse("publish", Some(tonic::Status::internal("no room")));
    let error = use_it(&volumes, "1", &plain()).await.expect_err("refused").to_string();
    assert_eq!(error, r#"MountVolume.SetUp failed for volume "v" : rpc error: code = Internal desc = no room"#);
    lab.driver.refuse("publish", None);
    volumes.drivers().remove("d");
    let error = use_it(&volumes, "1", &plain()).await.expect_err("nobody to ask").to_string();
    let lost = "driver name d not found in the list of registered CSI drivers";
    assert!(error.ends_with(&format!("mounter.SetUpAt failed to get CSI client: {lost}")), "{error}");
    assert!(volumes.tear_down("1").await.is_err(), "it is staged, and nobody can undo that");
    let volumes = lab.volumes();
    volumes.sweep("d").await;
    assert_eq!(lab.driver.calls(), ["stage h", "publish h a=b", "unstage h"]);
    assert_eq!(lab.files(), 0);
}

fn node(status: &str) -> Node {
    object(&format!(r#"{{"metadata":{{"name":"n1"}},"status":{{{status}}}}}"#))
}

#[tokio::test]
async fn an_attached_volume_is_in_use_from_before_it_is_attached_until_it_is_unstaged() {
    let lab = Lab::new(r#""attachRequired":true"#);
    let volumes = lab.volumes();
    lab.cluster.put_node(node(""));
    let task = {
        let volumes = volumes.clone();
        base::tasks::spawn("pod", async move { use_it(&volumes, "1", &plain()).await })
    };
    volumes.in_use_changed().await;
    const NAME: &str = "kubernetes.io/csi/d^h";
    assert_eq!(volumes.in_use(), [NAME]);
    let name = CsiVolume { driver: "d".into(), handle: "h".into() }.attachment_name("n1");
    let attachment: VolumeAttachment = object(&format!(
        r#"{{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttachment","metadata":{{"name":"{name}"}},"spec":{{"attacher":"d","nodeName":"n1","source":{{}}}},"status":{{"attached":true,"attachmentMetadata":{{"slot":"1"}}}}}}"#
    ));
    lab.cluster.put_attachment(attachment);
    lab.cluster.put_node(node(&format!(
        r#""volumesInUse":["{NAME}"],"volumesAttached":[{{"name":"{NAME}","devicePath":""}}]"#
    )));
    task.await.expect("no panic").expect("it is there");
    assert_eq!(lab.driver.calls(), ["stage h", "publish h a=b slot=1"]);
    let again = lab.volumes();
    assert_eq!(again.in_use(), [NAME], "read from disk");
    again.tear_down("1").await.expect("gone");
    assert!(again.in_use().is_empty());
    assert_eq!(lab.files(), 0);
}

#[tokio::test]
async fn a_pod_that_ends_waits_for_nothing() {
    let lab = Lab::new(r#""attachRequired":true"#);
    let volumes = lab.volumes();
    let task = {
        let volumes = volumes.clone();
        base::tasks::spawn("pod", async move { use_it(&volumes, "1", &plain()).await })
    };
    volumes.in_use_changed().await;
    volumes.give_up("1");
    assert!(matches!(task.await.expect("no panic"), Err(VolumeError::GaveUp)));
    volumes.tear_down("1").await.expect("nothing to do");
    assert!(volumes.in_use().is_empty() && lab.driver.calls().is_empty());
}

#[tokio::test]
async fn an_inline_volume_is_told_about_its_pod_and_never_staged() {
    let lab =
        Lab::new(r#""podInfoOnMount":true,"volumeLifecycleModes":["Ephemeral"],"tokenRequests":[{"audience":"x"}]"#);
    let volumes = lab.volumes();
    let source = CSIVolumeSource { driver: "d".into(), read_only: Some(true), ..CSIVolumeSource::default() };
    let (place, _) =
        volumes.set_up_inline(&user("1"), "tmp", &source, Timestamp::UNIX_EPOCH).await.expect("it is there");
    assert!(place.read_only);
    let calls = lab.driver.calls();
    let told = &calls[0];
    let token = r#"csi.storage.k8s.io/serviceAccount.tokens={"x":{"expirationTimestamp":"1970-01-12T14:46:40Z","token":"token for web"}}"#;
    for part in ["csi.storage.k8s.io/ephemeral=true", "csi.storage.k8s.io/serviceAccount.name=sa", token, " ro "] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    volumes.tear_down("1").await.expect("gone");
    assert_eq!((lab.driver.calls().len(), lab.files()), (2, 0));
}

#[tokio::test]
async fn a_volume_grows_when_it_is_the_nodes_turn() {
    let lab = Lab::new(r#""attachRequired":false"#);
    let volumes = lab.volumes();
    let grown = persistent(
        "2Gi",
        r#""capacity":{"storage":"1Gi"},"allocatedResources":{"storage":"2Gi"},"allocatedResourceStatuses":{"storage":"NodeResizePending"}"#,
    );
    lab.cluster.put_claim(grown.claim.clone(), grown.volume.clone());
    use_it(&volumes, "1", &grown).await.expect("it is there");
    assert_eq!(lab.driver.calls().last().map(String::as_str), Some("expand h 2147483648"));
    let status = lab.cluster.get_claim("c").and_then(|c| c.status).expect("a status");
    assert_eq!(status.capacity.expect("set")["storage"].0, "2Gi");
    assert_eq!(status.allocated_resource_statuses, None);
    let text = r#""MountVolume.NodeExpandVolume succeeded for volume "v" n1""#;
    assert_eq!(
        lab.cluster.events(),
        [format!("Normal FileSystemResizeSuccessful {text}"), format!("Normal FileSystemResizeSuccessful c {text}")]
    );
    let stats = volumes.stats("1").await;
    assert_eq!(stats.into_values().next().expect("one volume").bytes, [2 << 30, (2 << 30) - 1, 1]);
}
