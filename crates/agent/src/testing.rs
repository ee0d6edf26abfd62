//! Fakes of the agent's seams. They keep the promises of the traits: ids are given by the caller, calls can be repeated,
//! what does not exist is `NotFound`, and what runs survives the agent that started it.

use crate::cluster::{Cluster, ClusterError, ClusterEvent, ObjectReference, Token, TokenRequest};
use crate::engine::*;
use crate::images::{Credential, Image, ImageError, Images};
use crate::network::{AttachRequest, NetworkError, PodNetwork};
use api::Codec;
use api::k8s::api::resource::v1::ResourceClaim;
use api::k8s::api::storage::v1::{CSIDriver, VolumeAttachment};
use api::meta::MetaExt;
use api::prelude::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use async_trait::async_trait;
use base::Clock;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Wall time that moves with tokio's, which tests pause.
#[derive(Debug)]
pub(crate) struct TokioClock {
    start: tokio::time::Instant,
}

impl TokioClock {
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(TokioClock { start: tokio::time::Instant::now() })
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let passed = jiff::SignedDuration::try_from(self.start.elapsed()).expect("short");
        Timestamp::from_second(1_000_000).expect("small") + passed
    }
}

#[derive(Debug, Clone)]
struct FakeContainer {
    spec: ContainerSpec,
    started_at: Timestamp,
    exit: Option<EngineExit>,
}

#[derive(Default)]
struct EngineState {
    sandboxes: BTreeMap<String, (SandboxSpec, BTreeMap<String, FakeContainer>)>,
    calls: Vec<String>,
    /// Signals that containers obey.
    obeyed: Vec<String>,
    /// How many more updates fail.
    refused_updates: usize,
}

pub(crate) struct FakeEngine {
    state: Mutex<EngineState>,
    sender: mpsc::UnboundedSender<EngineEvent>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<EngineEvent>>,
    changed: Notify,
}

impl Default for FakeEngine {
    fn default() -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let state = EngineState { obeyed: vec!["SIGKILL".into()], ..EngineState::default() };
        FakeEngine { state: Mutex::new(state), sender, events: tokio::sync::Mutex::new(events), changed: Notify::new() }
    }
}

impl FakeEngine {
    fn call(&self, what: String) {
        self.state.lock().calls.push(what);
        self.changed.notify_waiters();
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn refuse_updates(&self, count: usize) {
        self.state.lock().refused_updates = count;
    }

    pub(crate) fn obey(&self, signal: &str) {
        self.state.lock().obeyed.push(signal.to_owned());
    }

    pub(crate) fn sandboxes(&self) -> Vec<String> {
        self.state.lock().sandboxes.keys().cloned().collect()
    }

    /// The id of the newest run of a container that runs.
    pub(crate) fn running(&self, name: &str) -> Option<(String, String)> {
        let state = self.state.lock();
        state.sandboxes.iter().find_map(|(sandbox, (_, containers))| {
            let found = containers
                .values()
                .find(|c| c.exit.is_none() && c.spec.labels.get("name").map(String::as_str) == Some(name));
            found.map(|c| (sandbox.clone(), c.spec.id.clone()))
        })
    }

    pub(crate) fn spec_of(&self, name: &str) -> Option<ContainerSpec> {
        let (sandbox, id) = self.running(name)?;
        Some(self.state.lock().sandboxes.get(&sandbox)?.1.get(&id)?.spec.clone())
    }

    /// Ends a container and tells of it.
    pub(crate) fn end(&self, sandbox: &str, id: &str, code: i32, at: Timestamp) {
        let exit = EngineExit { code, oom: false, lost: false, finished_at: at };
        if let Some(c) = self.state.lock().sandboxes.get_mut(sandbox).and_then(|(_, cs)| cs.get_mut(id)) {
            c.exit = Some(exit.clone());
        }
        let event = EngineEvent::Exited { pod: crate::adapters::uid_of(sandbox), container: id.to_owned(), exit };
        self.sender.send(event).expect("the engine holds the receiver");
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn recover(&self) -> Result<Vec<SandboxSnapshot>, EngineError> {
        let state = self.state.lock();
        let snapshot =
            |(id, (spec, containers)): (&String, &(SandboxSpec, BTreeMap<String, FakeContainer>))| SandboxSnapshot {
                id: id.clone(),
                namespace: spec.namespace.clone(),
                name: spec.name.clone(),
                uid: spec.uid.clone(),
                attempt: spec.attempt,
                alive: true,
                containers: containers
                    .values()
                    .map(|c| ContainerSnapshot {
                        id: c.spec.id.clone(),
                        labels: c.spec.labels.clone(),
                        started_at: Some(c.started_at),
                        exit: c.exit.clone(),
                    })
                    .collect(),
            };
        Ok(state.sandboxes.iter().map(snapshot).collect())
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<String, EngineError> {
        self.call(format!("create sandbox {}", spec.id));
        self.state.lock().sandboxes.entry(spec.id.clone()).or_insert_with(|| (spec.clone(), BTreeMap::new()));
        Ok(spec.id.clone())
    }

    async fn network(&self, _: &str) -> Result<SandboxNetwork, EngineError> {
        let netns = std::fs::File::open("/dev/null").map_err(|e| EngineError::Failed(e.to_string()))?;
        Ok(SandboxNetwork::Namespace(netns.into()))
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), EngineError> {
        self.call(format!("remove sandbox {sandbox}"));
        self.state.lock().sandboxes.remove(sandbox);
        Ok(())
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Started, EngineError> {
        let image = &spec.image.config;
        let (own, args) = (spec.command.clone(), spec.args.clone());
        let args = runtime::defaults::command(&image.entrypoint, &image.command, own, args);
        self.call(format!("start {} {}", spec.name, args.join(" ")));
        if args.first().map(String::as_str) == Some("nope") {
            return Err(EngineError::NotStarted("exec: \"nope\": executable file not found in $PATH".into()));
        }
        let started_at = Timestamp::from_second(1_000_000).expect("small");
        {
            let mut state = self.state.lock();
            let sandbox =
                state.sandboxes.get_mut(&spec.sandbox).ok_or_else(|| EngineError::NotFound(spec.sandbox.clone()))?;
            sandbox.1.insert(spec.id.clone(), FakeContainer { spec: spec.clone(), started_at, exit: None });
        }
        if args.first().map(String::as_str) == Some("quick") {
            // It ends before the answer that it started is on its way.
            let words = spec
                .mounts
                .iter()
                .find(|m| m.target == Path::new("/dev/termination-log"))
                .expect("every container has one");
            std::fs::write(&words.source, "gone already").expect("the agent made the file");
            self.end(&spec.sandbox, &spec.id, 0, started_at);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.changed.notify_waiters();
        Ok(Started { id: spec.id.clone(), at: started_at, user: None })
    }

    async fn signal(&self, sandbox: &str, container: &str, signal: &str) -> Result<(), EngineError> {
        self.call(signal.to_owned());
        let obeyed = self.state.lock().obeyed.iter().any(|s| s == signal);
        if obeyed {
            let code = if signal == "SIGKILL" { 137 } else { 143 };
            self.end(sandbox, container, code, Timestamp::from_second(1_000_500).expect("small"));
        }
        Ok(())
    }

    async fn remove(&self, sandbox: &str, container: &str) -> Result<(), EngineError> {
        if let Some((_, containers)) = self.state.lock().sandboxes.get_mut(sandbox) {
            containers.remove(container);
        }
        Ok(())
    }

    async fn update(&self, cgroup: &str, resources: &Resources) -> Result<(), EngineError> {
        let limits = [
            resources.memory_bytes.map(|n| format!(" memory={n}")),
            resources.cpu_quota_us.map(|n| format!(" quota={n}")),
        ];
        let place =
            if cgroup.rsplit('/').next().is_some_and(|last| last.starts_with("pod")) { "pod" } else { "container" };
        self.call(format!("update {place}{}", limits.into_iter().flatten().collect::<String>()));
        let mut state = self.state.lock();
        if state.refused_updates > 0 {
            state.refused_updates -= 1;
            return Err(EngineError::Failed("device or resource busy".into()));
        }
        Ok(())
    }

    fn processes(&self, _: &str) -> BTreeSet<i32> {
        BTreeSet::new()
    }
    fn usage(&self, _: &str) -> runtime::Stats {
        runtime::Stats::default()
    }

    async fn exec(
        &self,
        _: &str,
        _: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        match command.first().map(String::as_str) {
            Some("fail") => Ok(ExecOutput { code: 1, output: command[1].clone().into_bytes() }),
            Some("hang") => Err(EngineError::Timeout(timeout.unwrap_or_default())),
            Some("sleep") => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(ExecOutput::default())
            }
            _ => Ok(ExecOutput::default()),
        }
    }

    async fn exec_stream(&self, _: &str, _: &str, _: StreamRequest) -> Result<Session, EngineError> {
        Err(EngineError::Unsupported("exec_stream of the fake engine".into()))
    }

    async fn attach(&self, _: &str, _: &str, _: StreamRequest) -> Result<Session, EngineError> {
        Err(EngineError::Unsupported("attach of the fake engine".into()))
    }

    async fn next_event(&self) -> Option<EngineEvent> {
        self.events.lock().await.recv().await
    }
}

#[async_trait]
impl Mounts for FakeEngine {
    async fn tmpfs(&self, path: &Path, _: Option<u64>) -> Result<(), EngineError> {
        self.call(format!("tmpfs {}", path.file_name().unwrap_or_default().to_string_lossy()));
        Ok(())
    }

    async fn nfs(&self, path: &Path, _: &crate::volumes::persistent::Nfs) -> Result<(), EngineError> {
        self.call(format!("nfs {}", path.file_name().unwrap_or_default().to_string_lossy()));
        Ok(())
    }

    async fn disk(&self, path: &Path, _: &crate::volumes::persistent::Local, _: bool) -> Result<(), EngineError> {
        self.call(format!("disk {}", path.file_name().unwrap_or_default().to_string_lossy()));
        Ok(())
    }

    async fn unmount(&self, _: &Path) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Has every image but those whose name begins with `missing`; those that begin with `private` are pulled only with a login.
#[derive(Default)]
pub(crate) struct FakeImages {
    roots: Mutex<Vec<String>>,
}

impl FakeImages {
    pub(crate) fn roots(&self) -> usize {
        self.roots.lock().len()
    }
}

#[async_trait]
impl Images for FakeImages {
    async fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let config = crate::images::ImageConfig { command: vec!["run".into()], ..Default::default() };
        let image = Image {
            id: reference.to_owned(),
            digest_reference: format!("{reference}@sha256:0"),
            config,
            ..Image::default()
        };
        Ok((!reference.starts_with("missing")).then_some(image))
    }
    async fn pull(&self, reference: &str, credentials: &[Credential]) -> Result<Image, ImageError> {
        if reference.starts_with("private") && credentials.is_empty() {
            return Err(ImageError::Failed("access denied".into()));
        }
        match self.find(reference).await? {
            Some(image) => Ok(Image { pulled_with: credentials.first().cloned(), ..image }),
            None => Err(ImageError::Failed("not found".into())),
        }
    }
    async fn prepare(&self, _: &str, container: &str) -> Result<Rootfs, ImageError> {
        self.roots.lock().push(container.to_owned());
        Ok(Rootfs::default())
    }
    async fn layers(&self, image: &str, _: &str, _: &str) -> Result<Vec<std::path::PathBuf>, ImageError> {
        Ok(vec![format!("/layers/{image}").into()])
    }
    fn user_files(&self, _: &str) -> Result<Option<(String, String)>, ImageError> {
        Ok(Some(("web:x:33:44::/srv:/bin/false\n".into(), "log:x:50:web\n".into())))
    }
    async fn release(&self, container: &str) -> Result<(), ImageError> {
        self.roots.lock().retain(|r| r != container);
        Ok(())
    }
    async fn retain(&self, containers: &[String]) -> Result<(), ImageError> {
        self.roots.lock().retain(|r| containers.contains(r));
        Ok(())
    }
    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }
    async fn in_use(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }
    async fn remove(&self, _: &str) -> Result<u64, ImageError> {
        Ok(0)
    }
    fn upper(&self, _: &str) -> Option<std::path::PathBuf> {
        None
    }
    fn root(&self) -> std::path::PathBuf {
        "/".into()
    }
}

#[derive(Default)]
pub(crate) struct FakeNetwork {
    attached: Mutex<BTreeMap<String, IpAddr>>,
}

impl FakeNetwork {
    pub(crate) fn attached(&self) -> usize {
        self.attached.lock().len()
    }
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, request: &AttachRequest<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        let mut attached = self.attached.lock();
        let next = IpAddr::from([10, 42, 0, 2 + attached.len() as u8]);
        Ok(vec![*attached.entry(request.sandbox.to_owned()).or_insert(next)])
    }
    async fn detach(&self, sandbox: &str) -> Result<(), NetworkError> {
        self.attached.lock().remove(sandbox);
        Ok(())
    }
    fn link(&self, _: &str) -> Option<String> {
        None
    }
    fn fault(&self) -> Option<crate::network::NoNetwork> {
        None
    }
    async fn retain(&self, sandboxes: &[String]) -> Result<(), NetworkError> {
        self.attached.lock().retain(|s, _| sandboxes.contains(s));
        Ok(())
    }
}

/// Keeps pods as the API server does: revisions, conflicts, deletion at grace 0.
#[derive(Default)]
pub(crate) struct FakeCluster {
    pods: Mutex<BTreeMap<(String, String), Pod>>,
    config_maps: Mutex<BTreeMap<String, Arc<ConfigMap>>>,
    secrets: Mutex<BTreeMap<String, Arc<Secret>>>,
    claims: Mutex<BTreeMap<String, PersistentVolumeClaim>>,
    resource_claims: Mutex<BTreeMap<String, ResourceClaim>>,
    volumes: Mutex<BTreeMap<String, PersistentVolume>>,
    drivers: Mutex<BTreeMap<String, Arc<CSIDriver>>>,
    attachments: Mutex<BTreeMap<String, VolumeAttachment>>,
    node: Mutex<Option<Arc<Node>>>,
    node_moves: tokio::sync::watch::Sender<Option<u64>>,
    events: Mutex<Vec<String>>,
    feed: Mutex<Option<mpsc::UnboundedSender<crate::Feed>>>,
    revision: std::sync::atomic::AtomicU64,
    away: std::sync::atomic::AtomicBool,
    hidden: Mutex<Option<&'static str>>,
}

impl FakeCluster {
    /// Gives no more tokens.
    pub(crate) fn go_away(&self) {
        self.away.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Takes this field of a pod's status, and does not show it.
    pub(crate) fn hide(&self, field: &'static str) {
        *self.hidden.lock() = Some(field);
    }

    pub(crate) fn feed_into(&self, feed: mpsc::UnboundedSender<crate::Feed>) {
        *self.feed.lock() = Some(feed);
    }

    fn tell(&self, feed: crate::Feed) {
        if let Some(sender) = self.feed.lock().as_ref() {
            // A test may have dropped its agent.
            sender.send(feed).ok();
        }
    }

    pub(crate) fn put(&self, mut pod: Pod) -> Pod {
        let revision = 1 + self.revision.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        pod.metadata.resource_version = Some(revision.to_string());
        self.pods.lock().insert((pod.namespace().to_owned(), pod.name().to_owned()), pod.clone());
        self.tell(crate::Feed::Pod(Arc::new(pod.clone())));
        pod
    }

    pub(crate) fn put_config_map(&self, map: ConfigMap) {
        let name = map.name().to_owned();
        self.config_maps.lock().insert(name.clone(), Arc::new(map));
        let kind = crate::cluster::ReferenceKind::ConfigMap;
        self.tell(crate::Feed::Reference(ObjectReference { kind, namespace: "default".into(), name }));
    }

    pub(crate) fn put_secret(&self, secret: Secret) {
        self.secrets.lock().insert(secret.name().to_owned(), Arc::new(secret));
    }

    pub(crate) fn put_claim(&self, claim: PersistentVolumeClaim, volume: PersistentVolume) {
        self.claims.lock().insert(claim.name().to_owned(), claim);
        self.volumes.lock().insert(volume.name().to_owned(), volume);
    }

    pub(crate) fn put_resource_claim(&self, claim: ResourceClaim) {
        self.resource_claims.lock().insert(claim.name().to_owned(), claim);
    }

    pub(crate) fn put_driver(&self, driver: CSIDriver) {
        self.drivers.lock().insert(driver.name().to_owned(), Arc::new(driver));
    }

    pub(crate) fn put_attachment(&self, attachment: VolumeAttachment) {
        self.attachments.lock().insert(attachment.name().to_owned(), attachment);
    }

    pub(crate) fn put_node(&self, node: Node) {
        *self.node.lock() = Some(Arc::new(node));
        self.node_moves.send_modify(|revision| *revision = Some(revision.unwrap_or(0) + 1));
    }

    pub(crate) fn get_claim(&self, name: &str) -> Option<PersistentVolumeClaim> {
        self.claims.lock().get(name).cloned()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Pod> {
        self.pods.lock().get(&("default".to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().cloned().map(Arc::new).collect()
    }

    pub(crate) fn take_away(&self, name: &str) {
        if let Some(pod) = self.pods.lock().remove(&("default".to_owned(), name.to_owned())) {
            self.tell(crate::Feed::Gone(Arc::new(pod)));
        }
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.events.lock().clone()
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        Ok(self.pods.lock().get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<Pod, ClusterError> {
        let pod = self.pod(namespace, name).await?.ok_or_else(|| ClusterError::NotFound(name.to_owned()))?;
        if patch["metadata"]["resourceVersion"].as_str() != pod.metadata.resource_version.as_deref() {
            return Err(ClusterError::Conflict(name.to_owned()));
        }
        let mut value: serde_json::Value = serde_json::from_slice(&pod.encode()).expect("we encoded it");
        let mut status = value["status"].take();
        merge(&mut status, &patch["status"]);
        if let Some((fields, hidden)) = status.as_object_mut().zip(*self.hidden.lock()) {
            fields.remove(hidden);
        }
        value["status"] = status;
        let patched = Pod::decode(value.to_string().as_bytes()).map_err(|e| ClusterError::Failed(e.to_string()))?;
        Ok(self.put(patched))
    }

    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ClusterError> {
        let mut pod = pod.clone();
        pod.metadata.uid = Some(format!("mirror-{}", self.revision.load(std::sync::atomic::Ordering::SeqCst)));
        Ok(self.put(pod))
    }

    async fn read_node(&self) -> Result<Node, ClusterError> {
        let mut node = self.node.lock().as_deref().cloned().unwrap_or_default();
        node.metadata.uid = Some("node-uid".into());
        Ok(node)
    }

    async fn delete_pod(&self, pod: &Pod) -> Result<(), ClusterError> {
        self.take_away(pod.name());
        Ok(())
    }

    async fn config_map(&self, _: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        Ok(self.config_maps.lock().get(name).cloned())
    }

    async fn secret(&self, _: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError> {
        Ok(self.secrets.lock().get(name).cloned())
    }

    async fn claim(&self, _: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        Ok(self.get_claim(name))
    }

    async fn resource_claim(&self, _: &str, name: &str) -> Result<ResourceClaim, ClusterError> {
        let found = self.resource_claims.lock().get(name).cloned();
        found.ok_or_else(|| ClusterError::NotFound(format!("resourceclaims.resource.k8s.io {name:?}")))
    }

    async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        Ok(self.volumes.lock().get(name).cloned())
    }

    async fn read_secret(&self, _: &str, _: &str) -> Result<Option<Secret>, ClusterError> {
        Ok(None)
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ClusterError> {
        Ok(self.drivers.lock().get(name).cloned())
    }

    async fn volume_attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, ClusterError> {
        Ok(self.attachments.lock().get(name).cloned())
    }

    async fn patch_claim_status(
        &self,
        _: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<PersistentVolumeClaim, ClusterError> {
        let claim = self.get_claim(name).ok_or_else(|| ClusterError::NotFound(name.to_owned()))?;
        let mut value: serde_json::Value = serde_json::from_slice(&claim.encode()).expect("we encoded it");
        merge(&mut value["status"], &patch["status"]);
        let patched = PersistentVolumeClaim::decode(value.to_string().as_bytes());
        let patched = patched.map_err(|e| ClusterError::Failed(e.to_string()))?;
        self.claims.lock().insert(name.to_owned(), patched.clone());
        Ok(patched)
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.lock().clone()
    }

    fn node_moves(&self) -> tokio::sync::watch::Receiver<Option<u64>> {
        self.node_moves.subscribe()
    }

    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError> {
        Ok((class != "missing").then(|| class.to_owned()))
    }

    async fn services(&self, _: &str) -> Result<Vec<Arc<Service>>, ClusterError> {
        Ok(Vec::new())
    }

    async fn token(&self, request: &TokenRequest<'_>) -> Result<Token, ClusterError> {
        if self.away.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(ClusterError::Unreachable("connection refused".into()));
        }
        let expires_at = Timestamp::from_second(1_000_000 + request.expiration_seconds).expect("small");
        Ok(Token { value: format!("token for {}", request.pod.name()), expires_at })
    }

    fn release(&self, _: &BTreeSet<ObjectReference>) {}

    fn event(&self, event: ClusterEvent<'_>) {
        let kind = if event.warning { "Warning" } else { "Normal" };
        let about = event.field_path.map(|p| format!("{p} ")).unwrap_or_default();
        self.events.lock().push(format!("{kind} {} {about}\"{}\"", event.reason, event.message));
    }

    fn claim_event(&self, claim: &PersistentVolumeClaim, warning: bool, reason: &str, message: &str) {
        let kind = if warning { "Warning" } else { "Normal" };
        self.events.lock().push(format!("{kind} {reason} {} \"{message}\"", claim.name()));
    }
}

/// RFC 7386.
fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let serde_json::Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("made one").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
