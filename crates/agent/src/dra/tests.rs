//! A driver of ours on a real socket, a fake cluster.

use super::*;
use crate::pod::fixture::object;
use crate::pod::view;
use crate::testing::FakeCluster;
use base::SystemClock;
use drivers::Version;
use node_api::dra_health::HealthStatus;
use testkit::{DraFixture, DraOptions};

const DRIVER: &str = "d.example";

struct Lab {
    dir: tempfile::TempDir,
    cluster: Arc<FakeCluster>,
    driver: DraFixture,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Lab {
    /// With a claim that these pods may use.
    fn new(pods: &[&str]) -> Lab {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = DraOptions { name: DRIVER.into(), cdi: dir.path().join("cdi"), services: Vec::new() };
        let driver = DraFixture::new(options);
        let server = driver.serve(&dir.path().join("dra.sock")).expect("a socket");
        let cluster = Arc::new(FakeCluster::default());
        let reserved: Vec<String> =
            pods.iter().map(|uid| format!(r#"{{"resource":"pods","name":"p","uid":"{uid}"}}"#)).collect();
        cluster.put_resource_claim(object(&format!(
            r#"{{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{{"name":"gpu","namespace":"default","uid":"cu"}},"spec":{{}},
                "status":{{"reservedFor":[{}],"allocation":{{"devices":{{"results":[
                    {{"driver":"{DRIVER}","pool":"pool","device":"gpu","request":"r"}}]}}}}}}}}"#,
            reserved.join(",")
        )));
        Lab { dir, cluster, driver, server }
    }

    /// The agent's part, as after a start, with its driver registered.
    fn start(&self, version: Version) -> Arc<DynamicResources> {
        let (dir, cluster) = (self.dir.path().to_owned(), self.cluster.clone());
        let dynamic = Arc::new(DynamicResources::new(dir, cluster, Arc::new(SystemClock), Arc::default()));
        dynamic.drivers.add(DRIVER, &self.dir.path().join("dra.sock"), version).expect("it is the first");
        dynamic
    }
}

fn pod(uid: &str) -> Pod {
    object(&format!(
        r#"{{"metadata":{{"name":"p","namespace":"default","uid":"{uid}"}},
            "spec":{{"containers":[{{"name":"a","resources":{{"claims":[{{"name":"c"}}]}}}}],
                "resourceClaims":[{{"name":"c","resourceClaimName":"gpu"}}]}}}}"#
    ))
}

async fn check_life(version: Version, method: &str) {
    let lab = Lab::new(&["one", "two"]);
    let dynamic = lab.start(version);
    dynamic.prepare(&pod("one")).await.expect("the driver is there");
    dynamic.prepare(&pod("two")).await.expect("it is prepared");
    assert_eq!(lab.driver.calls(), ["prepare gpu"]);
    let container = |pod: &Pod| view::app_containers(pod)[0].clone();
    let want = BTreeSet::from([format!("{DRIVER}/device=cu")]);
    assert_eq!(dynamic.cdi_devices(&pod("two"), &container(&pod("two"))), Ok(want.clone()));
    let shown = dynamic.shown(&pod("one"), &container(&pod("one"))).remove(0);
    assert_eq!((shown.claim_name.as_str(), shown.claim_resources[0].device_name.as_str()), ("gpu", "gpu"));
    let calls = dynamic.counters.spreads_of(&counters::DRA_CALLS);
    assert_eq!(calls[0].0, [DRIVER, method, "OK"]);

    // The agent is killed; one pod ends, the other one is gone meanwhile.
    let dynamic = lab.start(version);
    assert_eq!(dynamic.cdi_devices(&pod("two"), &container(&pod("two"))), Ok(want));
    dynamic.unprepare("one").await.expect("nothing to do");
    assert_eq!(lab.driver.calls(), ["prepare gpu"], "the other one has it");
    dynamic.undo_others(&BTreeSet::from(["one".to_owned()]));
    while dynamic.knows("two") {
        tokio::task::yield_now().await;
    }
    assert_eq!(lab.driver.calls(), ["prepare gpu", "unprepare gpu"]);
    dynamic.unprepare("two").await.expect("nothing is left");
    assert_eq!(lab.driver.calls().len(), 2);
}

#[tokio::test]
async fn a_claim_is_prepared_for_its_first_pod_and_undone_with_the_last() {
    check_life(Version::V1, "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources").await;
    check_life(Version::V1Beta1, "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources").await;
}

#[tokio::test]
async fn what_a_driver_refuses_is_tried_again() {
    let lab = Lab::new(&["one"]);
    let dynamic = lab.start(Version::V1);
    let denied = dynamic.prepare(&pod("two")).await.expect_err("it is not reserved for it");
    assert_eq!(denied, "prepare dynamic resources: pod p (two) is not allowed to use ResourceClaim gpu (cu)");
    assert!(!dynamic.knows("two"), "nothing to undo");
    lab.driver.refuse("prepare", Some("burnt"));
    let refused = dynamic.prepare(&pod("one")).await.expect_err("the driver refuses");
    assert_eq!(refused, "prepare dynamic resources: NodePrepareResources failed for ResourceClaim gpu: burnt");
    lab.driver.refuse("prepare", None);
    // Killed between the driver's answer and the pod's, the agent asks again.
    for _ in 0..2 {
        lab.start(Version::V1).prepare(&pod("one")).await.expect("now it does");
    }
    lab.driver.refuse("unprepare", Some("stuck"));
    let dynamic = lab.start(Version::V1);
    let refused = dynamic.unprepare("one").await.expect_err("the driver refuses");
    assert_eq!(refused, "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim gpu: stuck");
    dynamic.drivers.remove(DRIVER, &lab.dir.path().join("dra.sock"));
    let gone = dynamic.unprepare("one").await.expect_err("it is gone");
    assert_eq!(gone, format!("unprepare dynamic resources: DRA driver {DRIVER} is not registered"));
    assert!(dynamic.knows("one"));
}

#[tokio::test]
async fn nothing_is_known_that_is_not_on_disk() {
    let lab = Lab::new(&["one", "two"]);
    let dynamic = lab.start(Version::V1);
    // Where the new file would be made.
    let in_the_way = lab.dir.path().join(format!("{FILE}.tmp"));
    std::fs::create_dir(&in_the_way).expect("made");
    let failed = dynamic.prepare(&pod("one")).await.expect_err("it cannot be written down");
    assert!(failed.starts_with("prepare dynamic resources: checkpoint ResourceClaim state: "), "{failed}");
    assert!(!dynamic.knows("one") && lab.driver.calls().is_empty());
    std::fs::remove_dir(&in_the_way).expect("removed");
    dynamic.prepare(&pod("one")).await.expect("it can");
    std::fs::create_dir(&in_the_way).expect("made");
    dynamic.prepare(&pod("one")).await.expect("there is nothing new to be written down");
    dynamic.prepare(&pod("two")).await.expect_err("there is");
    assert!(dynamic.knows("one") && !dynamic.knows("two"));
}

#[tokio::test]
async fn how_devices_are_reaches_their_pods() {
    let lab = Lab::new(&["one"]);
    let dynamic = lab.start(Version::V1);
    dynamic.prepare(&pod("one")).await.expect("the driver is there");
    let (own, driver) = (dynamic.clone(), dynamic.drivers.get(DRIVER).expect("it is there"));
    let follow = base::tasks::spawn("follow", async move { own.follow(&driver).await });
    let health = |dynamic: &DynamicResources| {
        let status = dynamic.statuses(&pod("one"))["a"][0].resources.clone().unwrap_or_default().remove(0);
        format!("{} {}", status.health.unwrap_or_default(), status.message.unwrap_or_default())
    };
    assert_eq!(health(&dynamic), "Unknown ");
    lab.driver.tell("gpu", HealthStatus::Unhealthy, "hot");
    let only = BTreeSet::from(["one".to_owned()]);
    while health(&dynamic) != "Unhealthy hot" {
        assert_eq!(dynamic.concerned().await, only);
    }
    follow.abort();
    // It does not tell any more.
    dynamic.lose(DRIVER);
    assert_eq!(dynamic.concerned().await, only);
    assert_eq!(health(&dynamic), "Unknown ");
    dynamic.lose(DRIVER);
    assert_eq!(dynamic.look().0, BTreeSet::new(), "that is nothing new");
}
