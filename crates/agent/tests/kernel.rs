//! Whole pods on the real kernel, as root: the agent over crate `runtime`, with busybox as image. The API server and the
//! network are small stand-ins; everything else is the product.

use agent::cluster::{Cluster, ClusterError, ClusterEvent, ObjectReference, Token, TokenRequest};
use agent::engine::{Rootfs, RuntimeInfo};
use agent::images::{Credential, Image, ImageConfig, ImageError, Images};
use agent::network::{AttachRequest, NetworkError, PodNetwork};
use agent::pod::spec::dns::ClusterDns;
use agent::{Agent, AgentHandle, Config, Feed, Parts, PodFeed, adapters::NodeMounts, adapters::RuntimeEngine};
use api::Codec;
use api::k8s::api::resource::v1::ResourceClaim;
use api::k8s::api::storage::v1::{CSIDriver, VolumeAttachment};
use api::meta::MetaExt;
use api::prelude::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use async_trait::async_trait;
use base::{SystemClock, SystemRandom};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const APPLETS: &[&str] =
    &["sh", "cat", "echo", "sleep", "id", "ls", "touch", "true", "false", "hostname", "env", "df", "kill", "sync"];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One image, a directory, under every name.
struct DirImages {
    layer: PathBuf,
    roots: PathBuf,
}

#[async_trait]
impl Images for DirImages {
    async fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let config =
            ImageConfig { command: vec!["sh".into()], env: vec!["PATH=/bin".into()], ..ImageConfig::default() };
        Ok(Some(Image { id: reference.into(), digest_reference: "sha256:0".into(), config, ..Image::default() }))
    }
    async fn pull(&self, reference: &str, _: &[Credential]) -> Result<Image, ImageError> {
        self.find(reference).await?.ok_or_else(|| ImageError::Failed("there is one".into()))
    }
    async fn prepare(&self, _: &str, container: &str) -> Result<Rootfs, ImageError> {
        let at = |what: &str| self.roots.join(container).join(what);
        for dir in [at("upper"), at("work")] {
            std::fs::create_dir_all(&dir).map_err(|e| ImageError::Failed(e.to_string()))?;
        }
        Ok(Rootfs { lower: vec![self.layer.clone()], upper: at("upper"), work: at("work") })
    }
    async fn layers(&self, _: &str, _: &str, _: &str) -> Result<Vec<PathBuf>, ImageError> {
        Ok(vec![self.layer.clone()])
    }
    fn user_files(&self, _: &str) -> Result<Option<(String, String)>, ImageError> {
        Ok(Default::default())
    }
    async fn release(&self, container: &str) -> Result<(), ImageError> {
        match std::fs::remove_dir_all(self.roots.join(container)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ImageError::Failed(e.to_string())),
            _ => Ok(()),
        }
    }
    async fn retain(&self, containers: &[String]) -> Result<(), ImageError> {
        for entry in std::fs::read_dir(&self.roots).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !containers.contains(&name) {
                self.release(&name).await?;
            }
        }
        Ok(())
    }
    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }
    async fn in_use(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }
    async fn remove(&self, _: &str) -> Result<u64, ImageError> {
        Err(ImageError::Failed("nothing is removed here".into()))
    }
    fn upper(&self, container: &str) -> Option<PathBuf> {
        Some(self.roots.join(container).join("upper"))
    }
    fn root(&self) -> PathBuf {
        self.roots.clone()
    }
}

struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(&self, _: &AttachRequest<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(vec![IpAddr::from([10, 42, 0, 9])])
    }
    async fn detach(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
    fn link(&self, _: &str) -> Option<String> {
        None
    }
    fn fault(&self) -> Option<agent::network::NoNetwork> {
        None
    }
    async fn retain(&self, _: &[String]) -> Result<(), NetworkError> {
        Ok(())
    }
}

#[derive(Default)]
struct OneCluster {
    pods: Mutex<BTreeMap<String, Pod>>,
    config_maps: Mutex<BTreeMap<String, Arc<ConfigMap>>>,
    claims: Mutex<BTreeMap<String, (PersistentVolumeClaim, PersistentVolume)>>,
    events: Mutex<Vec<String>>,
    feed: Mutex<Option<mpsc::UnboundedSender<Feed>>>,
    revision: AtomicU64,
}

impl OneCluster {
    fn tell(&self, feed: Feed) {
        if let Some(sender) = self.feed.lock().as_ref() {
            // The agent may be down.
            sender.send(feed).ok();
        }
    }
    fn put(&self, pod: Pod) {
        self.write(&mut self.pods.lock(), pod);
    }
    /// Nobody else's change gets lost.
    fn change(&self, name: &str, change: impl FnOnce(Pod) -> Pod) -> Option<Pod> {
        let mut pods = self.pods.lock();
        let pod = pods.get(name).cloned()?;
        Some(self.write(&mut pods, change(pod)))
    }
    fn write(&self, pods: &mut BTreeMap<String, Pod>, mut pod: Pod) -> Pod {
        pod.metadata.resource_version = Some((1 + self.revision.fetch_add(1, Ordering::SeqCst)).to_string());
        pods.insert(pod.name().to_owned(), pod.clone());
        self.tell(Feed::Pod(Arc::new(pod.clone())));
        pod
    }
    fn get(&self, name: &str) -> Option<Pod> {
        self.pods.lock().get(name).cloned()
    }
}

#[async_trait]
impl Cluster for OneCluster {
    async fn pod(&self, _: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        Ok(self.get(name))
    }
    async fn patch_pod_status(&self, _: &str, name: &str, patch: &Value) -> Result<Pod, ClusterError> {
        let patched = self.change(name, |pod| {
            let mut value: Value = serde_json::from_slice(&pod.encode()).expect("we encoded it");
            merge(&mut value["status"], &patch["status"]);
            Pod::decode(value.to_string().as_bytes()).expect("a pod")
        });
        patched.ok_or_else(|| ClusterError::NotFound(name.into()))
    }
    async fn create_pod(&self, _: &Pod) -> Result<Pod, ClusterError> {
        Err(ClusterError::Failed("no pods are made here".into()))
    }
    async fn read_node(&self) -> Result<Node, ClusterError> {
        Err(ClusterError::Failed("there is no node here".into()))
    }
    async fn resource_claim(&self, _: &str, name: &str) -> Result<ResourceClaim, ClusterError> {
        Err(ClusterError::NotFound(name.into()))
    }
    async fn delete_pod(&self, pod: &Pod) -> Result<(), ClusterError> {
        if let Some(pod) = self.pods.lock().remove(pod.name()) {
            self.tell(Feed::Gone(Arc::new(pod)));
        }
        Ok(())
    }
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        Ok(self.config_maps.lock().get(name).cloned())
    }
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Arc<Secret>>, ClusterError> {
        Ok(None)
    }
    async fn claim(&self, _: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        Ok(self.claims.lock().get(name).map(|(claim, _)| claim.clone()))
    }
    async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        Ok(self.claims.lock().values().find(|(_, volume)| volume.name() == name).map(|(_, volume)| volume.clone()))
    }
    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError> {
        Ok(Some(class.to_owned()))
    }
    async fn services(&self, _: &str) -> Result<Vec<Arc<Service>>, ClusterError> {
        Ok(Vec::new())
    }
    async fn token(&self, _: &TokenRequest<'_>) -> Result<Token, ClusterError> {
        Err(ClusterError::Failed("no tokens here".into()))
    }
    async fn read_secret(&self, _: &str, _: &str) -> Result<Option<Secret>, ClusterError> {
        Ok(None)
    }

    async fn csi_driver(&self, _: &str) -> Result<Option<Arc<CSIDriver>>, ClusterError> {
        Ok(None)
    }

    async fn volume_attachment(&self, _: &str) -> Result<Option<VolumeAttachment>, ClusterError> {
        Ok(None)
    }

    async fn patch_claim_status(
        &self,
        _: &str,
        name: &str,
        _: &serde_json::Value,
    ) -> Result<PersistentVolumeClaim, ClusterError> {
        Err(ClusterError::NotFound(name.to_owned()))
    }

    fn node(&self) -> Option<Arc<Node>> {
        None
    }

    fn node_moves(&self) -> tokio::sync::watch::Receiver<Option<u64>> {
        tokio::sync::watch::channel(None).1
    }

    fn claim_event(&self, _: &PersistentVolumeClaim, _: bool, _: &str, _: &str) {}

    fn release(&self, _: &BTreeSet<ObjectReference>) {}
    fn event(&self, event: ClusterEvent<'_>) {
        self.events.lock().push(format!("{} {}", event.reason, event.message));
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("made one").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// The machine of one test; the agent on it can be started again.
struct World {
    dir: tempfile::TempDir,
    cgroup: String,
    cluster: Arc<OneCluster>,
}

struct Running {
    handle: AgentHandle,
    runtime: runtime::Engine,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let me = std::fs::metadata("/proc/self").expect("there");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&me), 0, "the kernel tests need root");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let layer = dir.path().join("layer");
        for sub in ["bin", "etc", "tmp"] {
            std::fs::create_dir_all(layer.join(sub)).expect("made");
        }
        std::fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("Debian's busybox-static");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).expect("linked");
        }
        std::fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("written");
        runtime::selinux::label_layers(&layer).expect("labelled, where there is SELinux");
        let cgroup = format!("/dhow-agent-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        World { dir, cgroup, cluster: Arc::default() }
    }

    fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    fn runtime_config(&self) -> runtime::Config {
        runtime::Config {
            run_dir: self.path("runtime-run"),
            state_dir: self.path("runtime-state"),
            exe: env!("CARGO_BIN_EXE_agent-zygote").into(),
            supervisor_cgroup: None,
            patience: runtime::Config::PATIENCE,
        }
    }

    fn start(&self) -> Running {
        let (runtime, events) = runtime::Engine::start(self.runtime_config()).expect("the engine starts");
        let engine = RuntimeEngine::new(runtime.clone(), events).below_cgroup(&self.cgroup);
        let engine = engine.labelling(runtime::selinux::Selinux::of_machine(Arc::new(SamePlace)));
        std::fs::create_dir_all(self.path("roots")).expect("created");
        let images = DirImages { layer: self.path("layer"), roots: self.path("roots") };
        let parts = Parts {
            engine: Arc::new(engine),
            mounts: Arc::new(NodeMounts),
            images: Arc::new(images),
            network: Arc::new(NoNetwork),
            cluster: self.cluster.clone(),
            clock: SystemClock::shared(),
            random: Arc::new(SystemRandom),
            memory: 8 << 30,
            credential_providers: Default::default(),
            managers: Default::default(),
        };
        let config = Config {
            node_name: "n1".into(),
            node_ips: vec![IpAddr::from([192, 168, 0, 1])],
            hostname: "n1".into(),
            data_dir: self.path("data"),
            run_dir: self.path("run"),
            log_dir: self.path("log"),
            kubelet_dir: self.path("kubelet"),
            remembers: false,
            static_pod_dir: self.path("manifests"),
            dns: ClusterDns::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            port: 10250,
            max_pods: 110,
            pod_cidrs: Vec::new(),
            eviction: agent::eviction::Policy::default(),
            managers: Default::default(),
            swap: Default::default(),
            shutdown: Default::default(),
            labels: BTreeMap::new(),
            runtime: RuntimeInfo { name: "dhow".into(), ..RuntimeInfo::default() },
        };
        let agent = Agent::new(config, parts);
        let handle = agent.handle();
        let (sender, changes) = mpsc::unbounded_channel();
        *self.cluster.feed.lock() = Some(sender);
        let initial = self.cluster.pods.lock().values().cloned().map(Arc::new).collect();
        let stop = CancellationToken::new();
        let task = base::tasks::spawn("agent", agent.run(PodFeed { initial, changes }, stop.clone()));
        Running { handle, runtime, stop, task }
    }

    fn phase(&self) -> String {
        self.cluster.get("web").and_then(|p| p.status?.phase).unwrap_or_default()
    }

    fn log(&self, container: &str, restarts: u32) -> String {
        let path = self.path(&format!("log/default_web_1-2-3/{container}/{restarts}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    fn delete(&self, grace: i64) {
        self.delete_pod("web", grace);
    }

    fn delete_pod(&self, name: &str, grace: i64) {
        let deleted = self.cluster.change(name, |mut pod| {
            pod.metadata.deletion_timestamp = Some(api::Time(SystemClock::shared().now()));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            pod
        });
        deleted.expect("there");
    }

    async fn assert_nothing_left(&self, running: &Running) {
        until(self, "the worker ends", || running.handle.pods().is_empty()).await;
        for dir in ["data/pods", "run/pods", "log", "roots", "runtime-run/pods", "runtime-state/pods"] {
            let left = std::fs::read_dir(self.path(dir)).map(|entries| entries.count()).unwrap_or(0);
            assert_eq!(left, 0, "{dir}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
        let here = self.dir.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&here), "{mounts}");
        running.runtime.remove_cgroup(&self.cgroup).await.expect("removed");
    }
}

/// Draws the same place every time: only what is known to be in use is not drawn again.
struct SamePlace;

impl base::Random for SamePlace {
    fn fill(&self, buf: &mut [u8]) {
        buf.fill(9);
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }
}

async fn until(world: &World, what: &str, check: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !check() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "never: {what}\nevents: {:#?}\nstatus: {:#?}",
            world.cluster.events.lock(),
            world.cluster.get("web").and_then(|p| p.status)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a test; when it fails, ends what it started.
async fn in_world<F: Future<Output = ()> + Send + 'static>(body: impl FnOnce(Arc<World>) -> F) {
    let world = Arc::new(World::new());
    let result = base::tasks::spawn("test", body(world.clone())).await;
    let Err(failure) = result else { return };
    let (engine, _events) = runtime::Engine::start(world.runtime_config()).expect("the engine starts");
    for found in engine.recover().await.expect("recovered") {
        engine.remove_pod(&found.pod).await.expect("removed");
    }
    for mount in std::fs::read_to_string("/proc/self/mountinfo").expect("read").lines() {
        let target = mount.split(' ').nth(4).unwrap_or_default();
        if target.starts_with(world.dir.path().to_string_lossy().as_ref()) {
            rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
        }
    }
    engine.remove_cgroup(&world.cgroup).await.expect("removed");
    std::panic::resume_unwind(failure.into_panic());
}

fn pod(spec: &Value) -> Pod {
    let object = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "1-2-3"}, "spec": spec});
    Pod::decode(object.to_string().as_bytes()).expect("a pod")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_everything_runs_and_leaves_nothing() {
    everything(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_everything_and_users_of_its_own_runs_and_leaves_nothing() {
    everything(false).await;
}

async fn everything(host_users: bool) {
    in_world(move |world| async move {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cfg", "namespace": "default"}, "data": {"color": "blue"}});
    let map = ConfigMap::decode(map.to_string().as_bytes()).expect("a ConfigMap");
    world.cluster.config_maps.lock().insert("cfg".into(), Arc::new(map));
    let agent = world.start();
    let script = "echo color $(cat /cfg/color) $COLOR; hostname; id -u; cat /etc/hosts | while read l; do case $l in 10.*) echo hosts $l;; esac; done; \
        df -k /mem | while read a b c; do case $a in tmpfs) echo mem $b;; esac; done; echo x > /data/sub/file; ls /data/sub; \
        echo done > /dev/termination-log; trap 'exit 7' TERM; while true; do sleep 0.1; done";
    world.cluster.put(pod(&json!({
        "terminationGracePeriodSeconds": 5,
        "hostUsers": host_users,
        "securityContext": {"runAsUser": 1234, "fsGroup": 77},
        "volumes": [
            {"name": "cfg", "configMap": {"name": "cfg", "defaultMode": 420}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "data", "emptyDir": {}}],
        "initContainers": [{"name": "init", "image": "i", "command": ["sh", "-c", "mkdir -p /data; echo first"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", script],
            "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "color"}}}],
            "readinessProbe": {"exec": {"command": ["ls", "/data/sub/file"]}, "periodSeconds": 1, "timeoutSeconds": 2},
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "volumeMounts": [
                {"name": "cfg", "mountPath": "/cfg"},
                {"name": "mem", "mountPath": "/mem"},
                {"name": "data", "mountPath": "/data/sub", "subPath": "deep/er"}]}],
    })));
    until(&world, "it is ready", || {
        let status = world.cluster.get("web").and_then(|p| p.status).unwrap_or_default();
        status.container_statuses.iter().flatten().any(|s| s.ready)
    })
    .await;
    let log = world.log("main", 0);
    let lines: Vec<&str> = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
    assert_eq!(lines, ["color blue blue", "web", "1234", "hosts 10.42.0.9 web", "mem 1024", "file"], "{log}");
    // Files of volumes have the owners that the pod knows; its processes are somebody else's for the machine.
    let written = std::fs::metadata(world.path("data/pods/1-2-3/volumes/data/deep/er/file")).expect("there");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&written), 1234);
    assert_eq!(world.path("data/pods/1-2-3/userns").exists(), !host_users);
    world.delete(5);
    until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
    world.assert_nothing_left(&agent).await;
    let killing = world.cluster.events.lock().iter().any(|e| e == "Killing Stopping container main");
    assert!(killing);
    agent.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_the_agent_and_no_exit_is_missed() {
    in_world(|world| async move {
    let agent = world.start();
    let script = "echo started $$; while [ ! -e /data/end ]; do sleep 0.05; done; echo last words > /dev/termination-log; exit 9";
    world.cluster.put(pod(&json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    })));
    until(&world, "it runs", || world.phase() == "Running" && world.log("main", 0).contains("started")).await;
    agent.stop().await;

    std::fs::write(Path::new(&world.path("data/pods/1-2-3/volumes/data/end")), "").expect("written");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.phase(), "Running", "nobody was there to say otherwise");
    let agent = world.start();
    until(&world, "it failed", || world.phase() == "Failed").await;
    let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("there").remove(0);
    let ended = status.state.and_then(|s| s.terminated).expect("it ended");
    assert_eq!((ended.exit_code, ended.message.as_deref()), (9, Some("last words\n")));
    assert_eq!(status.restart_count, 0);
    assert_eq!(world.log("main", 0).matches("started").count(), 1);
    world.delete(0);
    until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
    world.assert_nothing_left(&agent).await;
    agent.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_named_and_a_memory_limit_is_told() {
    in_world(|world| async move {
        let agent = world.start();
        world.cluster.put(pod(&json!({
        "restartPolicy": "Never",
        "containers": [
            {"name": "nope", "image": "i", "command": ["/does/not/exist"]},
            {"name": "big", "image": "i", "command": ["sh", "-c", "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done"],
             "resources": {"limits": {"memory": "20Mi"}, "requests": {"memory": "20Mi"}}}],
    })));
        until(&world, "it failed", || world.phase() == "Failed").await;
        let statuses = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("there");
        let reason = |name: &str| {
            let found = statuses.iter().find(|s| s.name == name).and_then(|s| s.state.clone()?.terminated);
            found.map(|t| format!("{} {}", t.reason.unwrap_or_default(), t.exit_code)).unwrap_or_default()
        };
        assert_eq!(reason("nope"), "StartError 128");
        assert_eq!(reason("big"), "OOMKilled 137");
        world.delete(0);
        until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
        world.assert_nothing_left(&agent).await;
        agent.stop().await;
    })
    .await;
}

/// A claim and the volume it is bound to.
fn bound(name: &str, source: &Value) -> (PersistentVolumeClaim, PersistentVolume) {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "uid": "u"},
        "spec": {"volumeName": format!("{name}-volume")}, "status": {"phase": "Bound"}});
    let mut spec = json!({"claimRef": {"uid": "u"}});
    merge(&mut spec, source);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "spec": spec,
        "metadata": {"name": format!("{name}-volume"), "annotations": {"pv.kubernetes.io/provisioned-by": "dhow.dev/local"}}});
    let claim = PersistentVolumeClaim::decode(claim.to_string().as_bytes()).expect("a claim");
    (claim, PersistentVolume::decode(volume.to_string().as_bytes()).expect("a volume"))
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_images_are_mounted_and_claims_outlive_the_pod() {
    in_world(|world| async move {
        let made = world.path("made");
        let claim = bound("data", &json!({"local": {"path": made}, "capacity": {"storage": "1Mi"}}));
        world.cluster.claims.lock().insert("data".into(), claim);
        let enforced = std::fs::File::open(world.dir.path()).expect("a directory");
        let enforced = runtime::quota::enforces(enforced.as_fd()).unwrap_or(false);
        let agent = world.start();
        let script = "if $ENFORCED; then cat /dev/zero 2>/dev/null > /data/big || echo full; : > /data/big; fi; id -G; ls -ld /data | while read m l u g r; do echo $m $g; done; echo kept > /data/sub/file; \
            ls /image/bin/busybox; cat /passwd/passwd; touch /image/x 2>/dev/null || echo read-only; /image/bin/busybox echo runs";
        world.cluster.put(pod(&json!({
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 1234, "fsGroup": 77},
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "image", "image": {"reference": "anything"}}],
            "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", script],
                "env": [{"name": "ENFORCED", "value": enforced.to_string()}],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "data", "mountPath": "/data/sub", "subPath": "sub"},
                    {"name": "image", "mountPath": "/image"},
                    {"name": "image", "mountPath": "/passwd", "subPath": "etc"}]}],
        })));
        until(&world, "it is over", || matches!(world.phase().as_str(), "Succeeded" | "Failed")).await;
        let log = world.log("main", 0);
        let lines: Vec<&str> = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
        let want =
            ["full", "0 77", "drwxrwsrwx 77", "/image/bin/busybox", "root:x:0:0::/root:/bin/sh", "read-only", "runs"];
        let want = if enforced { &want[..] } else { &want[1..] };
        assert_eq!(lines, want, "{log}");
        world.delete(0);
        until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
        world.assert_nothing_left(&agent).await;
        assert_eq!(std::fs::read_to_string(made.join("sub/file")).expect("kept"), "kept\n");
        let file = std::fs::File::open(&made).expect("a directory");
        let space = rustix::fs::fstatvfs(&file).expect("a file system");
        assert_eq!(space.f_blocks * space.f_frsize == 1 << 20, enforced, "the directory is as large as its claim");
        let told = world.cluster.events.lock().iter().filter(|e| e.starts_with("VolumeSizeNotEnforced volume \"data\"")).count();
        assert_eq!(told, usize::from(!enforced), "once, and only if it is so");
        agent.stop().await;
    })
    .await;
}

/// A file as a block device, until it is dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path, size: u64) -> Self {
        std::fs::File::create(file).and_then(|f| f.set_len(size)).expect("made");
        let made = losetup(&["--find", "--show", &file.display().to_string()]);
        Loop(made.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        losetup(&["--detach", &self.0]);
    }
}

fn losetup(args: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "a test may run programs of the host")]
    let done = std::process::Command::new("losetup").args(args).output().expect("Debian's mount has it");
    assert!(done.status.success(), "losetup {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_a_block_device_that_is_written_only_where_it_may_be() {
    in_world(|world| async move {
        // The kernel knows devices by their numbers, so one that is not to be written is another one.
        let files = ["disk", "source"].map(|name| world.path(name));
        let disks = files.each_ref().map(|file| Loop::new(file, 64 << 10));
        for (name, disk) in ["disk", "source"].into_iter().zip(&disks) {
            let claim = bound(name, &json!({"volumeMode": "Block", "local": {"path": disk.0}}));
            world.cluster.claims.lock().insert(name.into(), claim);
        }
        let agent = world.start();
        let script = "[ -b /dev/disk ] && echo block; echo written > /dev/disk; sync; read line < /dev/disk; echo $line; \
            cat /dev/source > /dev/null && echo read; (echo more > /dev/source) 2>/dev/null || echo read-only";
        world.cluster.put(pod(&json!({
            "restartPolicy": "Never",
            "volumes": [
                {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "source", "persistentVolumeClaim": {"claimName": "source", "readOnly": true}}],
            "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", script], "volumeDevices": [
                {"name": "disk", "devicePath": "/dev/disk"}, {"name": "source", "devicePath": "/dev/source"}]}],
        })));
        until(&world, "it is over", || matches!(world.phase().as_str(), "Succeeded" | "Failed")).await;
        let log = world.log("main", 0);
        let lines: Vec<&str> = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
        assert_eq!(lines, ["block", "written", "read", "read-only"], "{log}");
        world.delete(0);
        until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
        world.assert_nothing_left(&agent).await;
        drop(disks);
        let kept = std::fs::read(&files[0]).expect("the disk outlives the pod");
        assert!(kept.starts_with(b"written\n"));
        agent.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_reaches_the_running_processes() {
    in_world(|world| async move {
        let agent = world.start();
        let sized = |cpu: &str, memory: &str| {
            let amounts = json!({"cpu": cpu, "memory": memory});
            pod(&json!({
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", "while true; do sleep 0.1; done"],
                    "resources": {"requests": amounts, "limits": amounts}}],
            }))
        };
        world.cluster.put(sized("500m", "64Mi"));
        until(&world, "it runs", || world.phase() == "Running").await;
        let mut larger = sized("1", "128Mi");
        larger.status = world.cluster.get("web").and_then(|p| p.status);
        world.cluster.put(larger);
        let resources = || {
            let statuses = world.cluster.get("web").and_then(|p| p.status?.container_statuses).unwrap_or_default();
            statuses.first().and_then(|s| s.resources.clone()?.limits).unwrap_or_default()
        };
        until(&world, "the status tells", || resources().get("cpu").is_some_and(|q| q.0 == "1")).await;
        let statuses = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("there");
        let id = statuses[0].container_id.clone().expect("it runs").replace("dhow://", "");
        let pod_cgroup = format!("{}/kubepods/pod1-2-3", world.cgroup);
        let limits = |cgroup: &str| {
            let first =
                |paths: [String; 2]| paths.iter().find_map(|p| std::fs::read_to_string(p).ok()).unwrap_or_default();
            let memory = first([
                format!("/sys/fs/cgroup/memory{cgroup}/memory.limit_in_bytes"),
                format!("/sys/fs/cgroup{cgroup}/memory.max"),
            ]);
            let cpu = first([
                format!("/sys/fs/cgroup/cpu{cgroup}/cpu.cfs_quota_us"),
                format!("/sys/fs/cgroup{cgroup}/cpu.max"),
            ]);
            format!("{} {}", memory.trim(), cpu.split_whitespace().next().unwrap_or_default())
        };
        for cgroup in [pod_cgroup.clone(), format!("{pod_cgroup}/{id}")] {
            assert_eq!(limits(&cgroup), format!("{} 100000", 128 << 20), "{cgroup}");
        }
        assert_eq!(statuses[0].restart_count, 0);
        let told = world.cluster.events.lock().clone();
        assert!(told.iter().any(|e| e.starts_with("ResizeCompleted Pod resize completed: {")), "{told:#?}");
        world.delete(0);
        until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
        world.assert_nothing_left(&agent).await;
        agent.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_device_gets_a_file_system_which_outlives_the_pod() {
    in_world(|world| async move {
        let device = Loop::new(&world.path("disk"), 64 << 20);
        world.cluster.claims.lock().insert("data".into(), bound("data", &json!({"local": {"path": device.0}})));
        let agent = world.start();
        for script in ["echo kept > /data/file; cat /data/file", "cat /data/file"] {
            world.cluster.put(pod(&json!({
                "restartPolicy": "Never",
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            })));
            until(&world, "it is over", || world.phase() == "Succeeded").await;
            assert!(world.log("main", 0).ends_with("kept\n"), "{}", world.log("main", 0));
            world.delete(0);
            until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
            world.assert_nothing_left(&agent).await;
        }
        agent.stop().await;
    })
    .await;
}

/// `tests/cgroup2` boots a kernel with AppArmor; other machines reject the pod.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_not_loaded_keeps_the_container_from_being_made() {
    in_world(|world| async move {
        let agent = world.start();
        world.cluster.put(pod(&json!({
            "containers": [{"name": "main", "image": "i", "command": ["true"], "securityContext":
                {"appArmorProfile": {"type": "Localhost", "localhostProfile": "dhow-none"}}}],
        })));
        let said = || {
            let status = world.cluster.get("web").and_then(|p| p.status).unwrap_or_default();
            let waiting = status.container_statuses.unwrap_or_default().into_iter().find_map(|c| c.state?.waiting);
            let waiting = waiting.map(|w| (w.reason.unwrap_or_default(), w.message.unwrap_or_default()));
            waiting
                .filter(|(reason, _)| reason != "ContainerCreating")
                .or_else(|| Some((status.reason?, status.message?)))
        };
        until(&world, "the status tells", || said().is_some()).await;
        let want = if runtime::apparmor::is_enabled() {
            ("CreateContainerError", "apparmor profile not found dhow-none")
        } else {
            ("AppArmor", "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host")
        };
        let (reason, message) = said().expect("it does");
        assert_eq!((reason.as_str(), message.as_str()), want);
        world.delete(0);
        until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
        world.assert_nothing_left(&agent).await;
        agent.stop().await;
    })
    .await;
}

/// The label of a file as the kernel sees it.
fn label_of(path: PathBuf) -> String {
    let mut buffer = [0u8; 256];
    let length = rustix::fs::lgetxattr(&path, "security.selinux", &mut buffer[..]).expect("a label");
    String::from_utf8_lossy(&buffer[..length]).trim_end_matches('\0').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel with SELinux and the policy of tests/cgroup2"]
async fn selinux_keeps_pods_apart_and_options_arrive() {
    in_world(|world| async move {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cfg", "namespace": "default"}, "data": {"color": "blue"}});
        let map = ConfigMap::decode(map.to_string().as_bytes()).expect("a ConfigMap");
        world.cluster.config_maps.lock().insert("cfg".into(), Arc::new(map));
        let agent = world.start();
        let lines = |name: &str| -> Vec<String> {
            let log = world.path(&format!("log/default_{name}_{name}-id/main/0.log"));
            let text = std::fs::read_to_string(log).unwrap_or_default().replace('\0', "");
            text.lines().filter_map(|l| l.splitn(4, ' ').nth(3).map(str::to_owned)).collect()
        };
        let put = |name: &str, mut spec: Value, script: &str| {
            spec["containers"][0]["name"] = "main".into();
            spec["containers"][0]["image"] = "i".into();
            let whole = format!("cat /proc/self/attr/current; echo; {script}; trap 'exit 7' TERM; while true; do sleep 0.1; done");
            spec["containers"][0]["command"] = json!(["sh", "-c", whole]);
            let mut pod = pod(&spec);
            (pod.metadata.name, pod.metadata.uid) = (Some(name.into()), Some(format!("{name}-id")));
            world.cluster.put(pod);
        };
        let script = "cat /cfg/color; echo; echo secret > /data/file; echo m > /mem/file; echo s > /dev/shm/file; cat /dev/shm/file; \
            while read l; do case $l in 10.*) echo $l;; esac; done < /etc/hosts; echo end > /dev/termination-log && echo told";
        put("web", json!({
            "volumes": [
                {"name": "cfg", "configMap": {"name": "cfg"}},
                {"name": "mem", "emptyDir": {"medium": "Memory"}},
                {"name": "data", "emptyDir": {}}],
            "containers": [{
                "readinessProbe": {"exec": {"command": ["sh", "-c", "cat /proc/self/attr/current > /data/exec"]}, "periodSeconds": 1},
                "volumeMounts": [
                    {"name": "cfg", "mountPath": "/cfg"},
                    {"name": "mem", "mountPath": "/mem"},
                    {"name": "data", "mountPath": "/data"}]}],
        }), script);
        until(&world, "it says all", || lines("web").len() >= 5).await;
        let web = lines("web");
        assert_eq!(web[1..], ["blue", "s", "10.42.0.9 web", "told"]);
        let level = web[0].strip_prefix("system_u:system_r:container_t:").expect("the policy's").to_owned();
        assert!(level.starts_with("s0:c") && level.contains(",c"), "{level}");
        let files = format!("system_u:object_r:container_file_t:{level}");
        let data = world.path("data/pods/web-id/volumes/data");
        until(&world, "a command has run in it", || data.join("exec").exists()).await;
        until(&world, "it has a label", || std::fs::read_to_string(data.join("exec")).is_ok_and(|l| !l.is_empty())).await;
        let said = std::fs::read_to_string(data.join("exec")).expect("written");
        assert_eq!(said.trim_end_matches('\0'), web[0], "of a command");
        for path in [data.clone(), data.join("file")] {
            assert_eq!(label_of(path.clone()), files, "{path:?}");
        }

        // What keeps this one from the other's files is the level alone: it may do everything else with them.
        let theirs = json!({"volumes": [{"name": "theirs", "hostPath": {"path": data}}],
            "containers": [{"volumeMounts": [{"name": "theirs", "mountPath": "/theirs"}]}]});
        put("thief", theirs.clone(), "cat /theirs/file 2>&1 || echo no");
        until(&world, "it has tried", || lines("thief").len() >= 3).await;
        assert_eq!(lines("thief")[1..], ["cat: can't open '/theirs/file': Permission denied", "no"]);
        assert_eq!(label_of(data.join("file")), files, "a path of the host is not relabelled");

        // After a restart levels of what runs are in use still.
        agent.stop().await;
        let agent = world.start();
        put("late", theirs.clone(), "cat /theirs/file 2>&1 || echo no");
        until(&world, "it has tried", || lines("late").len() >= 3).await;
        let all: BTreeSet<String> = ["web", "thief", "late"].map(|name| lines(name)[0].clone()).into();
        assert_eq!(all.len(), 3, "{all:?}");

        // What a pod says is what it gets: with the other's level it reads the other's files.
        let mut friend = theirs.clone();
        friend["securityContext"] = json!({"seLinuxOptions": {"user": "other_u", "type": "other_t", "level": level}});
        put("friend", friend, "cat /theirs/file 2>&1 || echo no");
        until(&world, "it has tried", || lines("friend").len() >= 2).await;
        assert_eq!(lines("friend"), [format!("other_u:system_r:other_t:{level}"), "secret".into()]);
        let mut privileged = theirs;
        privileged["containers"][0]["securityContext"] = json!({"privileged": true});
        put("master", privileged, "cat /theirs/file 2>&1 || echo no");
        until(&world, "it has tried", || lines("master").len() >= 2).await;
        assert_eq!(lines("master"), ["system_u:system_r:kernel_t:s0-s0:c0.c1023", "secret"], "as dhow itself");

        // A type that the policy does not know, until it does.
        put("early", json!({"containers": [{"securityContext": {"seLinuxOptions": {"type": "later_t"}}}]}), "true");
        let said = || {
            let status = world.cluster.get("early").and_then(|p| p.status).unwrap_or_default();
            let waiting = status.container_statuses.into_iter().flatten().find_map(|c| c.state?.waiting)?;
            Some((waiting.reason?, waiting.message?))
        };
        until(&world, "the status tells", || said().is_some()).await;
        let (reason, message) = said().expect("it does");
        assert_eq!(reason, "CreateContainerError");
        assert!(message.starts_with("seLinuxOptions: \"system_u:system_r:later_t:s0:c"), "{message}");
        assert!(message.ends_with("is not a valid SELinux context in this machine's policy"), "{message}");
        let policy = std::fs::read("/etc/selinux/dhow/policy-later").expect("another policy");
        std::fs::write("/sys/fs/selinux/load", policy).expect("loaded");
        until(&world, "it runs", || lines("early").iter().any(|l| l.starts_with("system_u:system_r:later_t:"))).await;

        for name in ["web", "thief", "late", "friend", "master", "early"] {
            world.delete_pod(name, 0);
            until(&world, "it is gone", || world.cluster.get(name).is_none()).await;
        }
        world.assert_nothing_left(&agent).await;
        agent.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the NFS server that tests/cgroup2 starts"]
async fn a_claim_is_a_directory_of_an_nfs_server() {
    const EXPORT: &str = "/srv/nfs";
    in_world(|world| async move {
        std::fs::write(Path::new(EXPORT).join("theirs"), "from the server\n").expect("the export is here");
        let claim = bound("data", &json!({"nfs": {"server": "127.0.0.1", "path": "/"}}));
        world.cluster.claims.lock().insert("data".into(), claim);
        let agent = world.start();
        let script = "cat /data/theirs; echo from the pod > /data/ours; (echo > /no/x) 2>/dev/null || echo read-only";
        world.cluster.put(pod(&json!({
            "restartPolicy": "Never",
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "no", "nfs": {"server": "127.0.0.1", "path": "/", "readOnly": true}}],
            "containers": [{"name": "main", "image": "i", "command": ["sh", "-c", script], "volumeMounts": [
                {"name": "data", "mountPath": "/data"}, {"name": "no", "mountPath": "/no"}]}],
        })));
        until(&world, "it is over", || world.phase() == "Succeeded").await;
        let log = world.log("main", 0);
        let lines: Vec<&str> = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
        assert_eq!(lines, ["from the server", "read-only"], "{log}");
        assert_eq!(std::fs::read_to_string(Path::new(EXPORT).join("ours")).expect("written"), "from the pod\n");
        world.delete(0);
        until(&world, "it is gone", || world.cluster.get("web").is_none()).await;
        world.assert_nothing_left(&agent).await;
        agent.stop().await;
    })
    .await;
}
