//! Does what the plan says: one function per action, no choices. Results come back as observations.
//!
//! Every action can be repeated: after a crash the plan asks for it again. Event texts are upstream's
//! (`images/image_manager.go`, `kuberuntime_container.go`, `prober/prober.go`).

use super::allocation::{self, Allocation, Demand, Refusal};
use super::events::{PodEvents, go_millis};
use super::observe::{Observation, StartFailure, unknown_exit};
use super::plan::{PodAction, ProbeKind, PullPolicy};
use super::recover;
use super::seen::{PostStart, PulledImage, Running, Seen};
use super::spec::{self, ContainerInput, dns, fields, hosts};
use super::view::{self, Role};
use crate::adapters::{logins, runtime_user};
use crate::cluster::ClusterError;
use crate::context::Context;
use crate::counters::{self, Counter};
use crate::engine::{
    ContainerSpec, EngineError, Handlers, IdRange, ImageFiles, Mount, Rootfs, SandboxNetwork, SandboxSpec, Seccomp,
    User,
};
use crate::images::{Credential, Image, ImageError, SecretId};
use crate::network::{AttachRequest, HostPort};
use crate::node;
use crate::probes::{self, Outcome, Ran, Target};
use crate::pull_records::{Name, Use};
use crate::volumes;
use api::k8s::api::core::v1::{Container, ContainerUser, LifecycleHandler, LinuxContainerUser, Pod, Secret};
use api::meta::MetaExt;
use base::backoff::Backoff;
use jiff::Timestamp;
use serde_json::Value;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What a worker is told.
#[derive(Debug)]
pub enum Message {
    /// The object changed.
    Pod(Arc<Pod>),
    /// Something happened.
    Observed(Observation),
    /// A token of the pod's volumes is to be renewed then.
    RenewAt(Option<Timestamp>),
    /// A container ended; its termination message is still to be read.
    Exited {
        /// The run's id.
        id: String,
        /// How.
        exit: crate::engine::EngineExit,
    },
    /// The mirror of a static pod is gone, or on its way.
    MirrorLost,
    /// The server's answer to a status.
    StatusWritten {
        /// The pod as the server has it now.
        result: Box<Result<Pod, ClusterError>>,
        /// What it says that it has changed in it.
        change: Option<Value>,
    },
    /// Stop working; the pod goes on.
    Detach,
}

/// Who may touch the pod's volumes now. Tasks take turns in the order in which they were started, and each reads what it
/// writes within its turn: the last one leaves the newest content, and its outcome is the one that counts.
pub type VolumesTurn = Arc<tokio::sync::Mutex<Shown>>;

/// What the last turn left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shown {
    /// Nothing that a refresh may bring up to date.
    #[default]
    Nothing,
    /// All volumes.
    Set,
}

/// One pod's surroundings while an action is done.
pub struct Executor {
    /// Shared by all pods.
    pub context: Arc<Context>,
    /// The pod as planned.
    pub pod: Arc<Pod>,
    /// What was known.
    pub seen: Seen,
    /// Events of this pod.
    pub events: PodEvents,
    /// Where results go.
    pub outbox: mpsc::UnboundedSender<Message>,
    /// Held while volumes are set up or taken down.
    pub volumes_turn: VolumesTurn,
}

/// Killing and cleaning up is tried until it works, with pauses up to here.
const STUBBORN: Duration = Duration::from_secs(10);

impl Executor {
    fn tell(&self, happened: Observation) {
        // A worker that is gone needs no answer.
        self.outbox.send(Message::Observed(happened)).ok();
    }

    fn uid(&self) -> &str {
        self.pod.uid()
    }

    /// Addresses and sizes for the downward API.
    fn facts(&self) -> fields::Facts {
        facts(&self.context, &self.pod, &self.seen.ips)
    }

    fn sandbox(&self) -> String {
        self.seen.sandbox.ready().unwrap_or_default().to_owned()
    }

    /// Does one action.
    pub async fn execute(self, action: PodAction) {
        match action {
            PodAction::MountVolumes => self.mount_volumes().await,
            PodAction::UnmountVolumes => self.unmount_volumes().await,
            PodAction::PrepareClaims => self.prepare_claims().await,
            PodAction::UndoClaims => self.undo_claims().await,
            PodAction::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            PodAction::StopSandbox { id } => {
                self.take_down(&id).await;
                self.tell(Observation::SandboxStopped);
            }
            PodAction::RemoveSandbox { id } => {
                self.take_down(&id).await;
                self.tell(Observation::SandboxRemoved);
            }
            PodAction::PullImage { container, image, policy } => self.pull(container, image, policy).await,
            PodAction::StartContainer { container, restarts, image } => self.start(container, restarts, image).await,
            PodAction::RunPreStop { container, id, timeout } => self.pre_stop(container, id, timeout).await,
            PodAction::Signal { container, id, signal } => self.signal(container, id, signal).await,
            PodAction::AskForResources { wanted } => self.ask_for_resources(*wanted),
            PodAction::Resize { from, to, running } => self.resize(&from, *to, running).await,
            PodAction::RemoveRun { id } => self.remove_run(&id).await,
            PodAction::Probe { container, id, kind } => self.probe(container, id, kind).await,
            PodAction::DeleteObject => self.delete_object().await,
            PodAction::Event(e) => {
                self.events.record(&self.pod, e.container.as_deref(), e.warning, &e.reason, &e.message);
            }
            // The worker's own.
            PodAction::Forget => {}
        }
    }

    // === volumes ===

    async fn mount_volumes(&self) {
        let mut turn = self.volumes_turn.lock().await;
        let now = self.context.clock.now();
        match self.context.volumes.set_up(&self.pod, &self.facts(), now).await {
            Ok(renew) => {
                *turn = Shown::Set;
                // As above: nobody to tell is fine.
                self.outbox.send(Message::RenewAt(renew)).ok();
                self.tell(Observation::VolumesMounted);
            }
            Err(e) => {
                if let Some(reason) = e.reason() {
                    self.events.record(&self.pod, None, true, reason, &e.to_string());
                }
                self.tell(Observation::VolumesFailed);
            }
        }
    }

    async fn unmount_volumes(&self) {
        let mut turn = self.volumes_turn.lock().await;
        *turn = Shown::Nothing;
        let mut backoff = Backoff::new(Duration::from_millis(200), STUBBORN);
        while let Err(error) = self.context.volumes.tear_down(self.uid(), Some(&self.pod)).await {
            let error = base::chain(&error);
            tracing::warn!(pod = view::describe(&self.pod), error, "failed to take volumes down");
            let message = format!("error killing pod: failed to take volumes down: {error}");
            self.events.record(&self.pod, None, true, "FailedKillPod", &message);
            tokio::time::sleep(backoff.fail()).await;
        }
        self.tell(Observation::VolumesUnmounted);
    }

    // === claims ===

    async fn prepare_claims(&self) {
        match self.context.dynamic.prepare(&self.pod).await {
            Ok(()) => self.tell(Observation::ClaimsPrepared),
            Err(error) => {
                let text = format!("Failed to prepare dynamic resources: {error}");
                self.events.record(&self.pod, None, true, "FailedPrepareDynamicResources", &text);
                self.tell(Observation::ClaimsFailed);
            }
        }
    }

    async fn undo_claims(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), STUBBORN);
        while let Err(error) = self.context.dynamic.unprepare(self.uid()).await {
            tracing::warn!(pod = view::describe(&self.pod), error, "failed to undo what was prepared");
            tokio::time::sleep(backoff.fail()).await;
        }
        self.tell(Observation::ClaimsUndone);
    }

    // === sandbox ===

    async fn create_sandbox(&self, attempt: u32) {
        let mut id = format!("{}-{attempt}", self.uid());
        let counters = &self.context.counters;
        let own_users = view::spec(&self.pod).host_users == Some(false);
        counters.count(&counters::PODS_STARTED, &[]);
        if own_users {
            counters.count(&counters::USER_PODS_STARTED, &[]);
        }
        match self.try_create_sandbox(&mut id, attempt).await {
            Ok(ips) => self.tell(Observation::SandboxCreated { id, ips }),
            Err(error) => {
                counters.count(&counters::PODS_FAILED, &[]);
                if own_users {
                    counters.count(&counters::USER_PODS_FAILED, &[]);
                }
                self.take_down(&id).await;
                let message = format!("Failed to create pod sandbox: {error}");
                self.events.record(&self.pod, None, true, "FailedCreatePodSandBox", &message);
                self.tell(Observation::SandboxFailed);
            }
        }
    }

    /// `id` is the one to try, and afterwards the one that the sandbox has.
    async fn try_create_sandbox(&self, id: &mut String, attempt: u32) -> Result<Vec<IpAddr>, String> {
        let (context, pod) = (&self.context, &*self.pod);
        let domain = &context.config.dns.domain;
        let mut spec = spec::sandbox_spec(pod, attempt, id.clone(), domain).map_err(|e| e.to_string())?;
        spec.runtime_handler = self.handler().await?;
        if view::spec(pod).host_users == Some(false) {
            spec.users = Some(self.users(&spec.runtime_handler)?);
        }
        spec.log_dir = context.pod_log_dir(pod.namespace(), pod.name(), pod.uid());
        let logs = &spec.log_dir;
        std::fs::create_dir_all(logs).map_err(|e| format!("failed to create {}: {e}", logs.display()))?;
        *id = self.run_sandbox(&spec).await.map_err(|e| base::chain(&e))?;
        context.pods_changed.notify_one();
        let ips = if spec.host_network { Vec::new() } else { self.connect(id, spec.host_ports).await? };
        self.write_pod_files(&ips)?;
        Ok(ips)
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, EngineError> {
        let (counters, handler) = (&self.context.counters, spec.runtime_handler.as_str());
        let begun = Instant::now();
        let made = counters.operation("run_podsandbox", self.context.engine.create_sandbox(spec)).await;
        counters.observe(&counters::SANDBOX, &[handler], begun.elapsed().as_secs_f64());
        if made.is_err() {
            counters.count(&counters::SANDBOXES_FAILED, &[handler]);
        }
        made
    }

    /// Gives a sandbox its network, if it has none yet.
    async fn connect(&self, sandbox: &str, host_ports: Vec<HostPort>) -> Result<Vec<IpAddr>, String> {
        match self.context.engine.network(sandbox).await.map_err(|e| base::chain(&e))? {
            SandboxNetwork::Connected(ips) => Ok(ips),
            SandboxNetwork::Namespace(netns) => {
                let request = AttachRequest { sandbox, netns: netns.as_fd(), host_ports };
                self.context.network.attach(&request).await.map_err(|e| base::chain(&e))
            }
        }
    }

    /// What the pod's RuntimeClass asks of the engine (`LookupRuntimeHandler`).
    async fn handler(&self) -> Result<String, String> {
        let Some(class) = view::spec(&self.pod).runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
            return Ok(String::new());
        };
        match self.context.cluster.runtime_handler(class).await {
            Ok(Some(handler)) => Ok(handler),
            Ok(None) => Err(format!("runtimeclass.node.k8s.io {class:?} not found")),
            Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
        }
    }

    /// Ids of the machine for the pod's users (`GetOrCreateUserNamespaceMappings`).
    fn users(&self, handler: &str) -> Result<IdRange, String> {
        if !node::has_user_namespaces(&self.context.config.runtime, handler, &self.context.images.root()) {
            return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into());
        }
        let pods = self.context.config.data_dir.join("pods");
        self.context.users.of(&pods, self.uid()).map_err(|e| format!("create user namespace: {e}"))
    }

    /// `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname` of the pod.
    fn write_pod_files(&self, ips: &[IpAddr]) -> Result<(), String> {
        let (context, pod) = (&self.context, &*self.pod);
        let spec = view::spec(pod);
        let dir = context.pod_run_dir(pod.uid());
        let (hostname, domain) = hosts::names(pod, &context.config.dns.domain).map_err(|e| e.to_string())?;
        let aliases = spec.host_aliases.as_deref().unwrap_or_default();
        let hosts = if view::is_host_network(pod) {
            let node = std::fs::read_to_string("/etc/hosts").map_err(|e| format!("failed to read /etc/hosts: {e}"))?;
            hosts::node_hosts(&node, aliases)
        } else {
            hosts::managed_hosts(ips, &hostname, &domain, aliases)
        };
        let (resolver, warnings) = dns::pod_dns(pod, &context.config.dns, &context.node_resolver());
        for warning in warnings {
            self.events.record(pod, None, true, "DNSConfigForming", &warning);
        }
        let kernel = if view::is_host_network(pod) {
            context.config.hostname.clone()
        } else {
            hosts::kernel_name(pod, &hostname, &domain).map_err(|e| e.to_string())?
        };
        std::fs::create_dir_all(&dir).map_err(|e| format!("failed to create {}: {e}", dir.display()))?;
        let files = [("hosts", hosts), ("resolv.conf", resolver.render()), ("hostname", format!("{kernel}\n"))];
        files.into_iter().try_for_each(|(name, text)| {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|e| format!("failed to write {}: {e}", path.display()))
        })
    }

    /// Ends whatever runs and releases the network, however long it takes.
    async fn take_down(&self, id: &str) {
        let mut backoff = Backoff::new(Duration::from_millis(200), STUBBORN);
        loop {
            let removing = self.context.engine.remove_sandbox(id);
            let removed = self.context.counters.operation("remove_podsandbox", removing).await;
            let removed = removed.map_err(|e| base::chain(&e));
            let error = match removed {
                Ok(()) => match self.context.network.detach(id).await {
                    Ok(()) => return,
                    Err(e) => base::chain(&e),
                },
                Err(e) => e,
            };
            self.events.record(&self.pod, None, true, "FailedKillPod", &format!("error killing pod: {error}"));
            tokio::time::sleep(backoff.fail()).await;
        }
    }

    // === images ===

    async fn pull(&self, container: String, image: String, policy: PullPolicy) {
        match self.ensure_images(&container, &image, policy).await {
            Ok(image) => {
                self.tell(Observation::ImagePulled { container, image });
            }
            Err((reason, message)) => {
                self.count_start(&container);
                self.count_failed_start(&container, reason);
                self.events.warning(&self.pod, &container, "Failed", &format!("Error: {reason}"));
                self.tell(Observation::PullFailed { container, reason: reason.to_owned(), message });
            }
        }
    }

    /// The container's image, and those of the image volumes that it mounts.
    async fn ensure_images(
        &self,
        container: &str,
        image: &str,
        policy: PullPolicy,
    ) -> Result<PulledImage, (&'static str, String)> {
        let mut out = PulledImage::default();
        let found = view::find_container(&self.pod, container);
        let mounts = found.iter().flat_map(|(_, c)| c.volume_mounts.iter().flatten());
        for volume in mounts.filter_map(|m| view::volume(&self.pod, &m.name)) {
            let Some(source) = volume.image.as_ref().filter(|_| !out.volumes.contains_key(&volume.name)) else {
                continue;
            };
            let reference = source.reference.as_deref().unwrap_or_default();
            let policy = PullPolicy::of(source.pull_policy.as_deref());
            let found = self.ensure_image(None, reference, policy).await?;
            out.volumes.insert(volume.name.clone(), found.id);
        }
        out.id = self.ensure_image(Some(container), image, policy).await?.id;
        Ok(out)
    }

    /// `EnsureImageExists`. The error is a waiting reason and its message.
    async fn ensure_image(
        &self,
        c: Option<&str>,
        image: &str,
        policy: PullPolicy,
    ) -> Result<Image, (&'static str, String)> {
        let pod = &*self.pod;
        if policy != PullPolicy::Always {
            match self.context.counters.operation("image_status", self.context.images.find(image)).await {
                Ok(Some(found)) if self.may_use(image, &found.id).await => {
                    let text = format!(
                        "Container image \"{image}\" already present on machine and can be accessed by the pod"
                    );
                    self.events.record(pod, c, false, "Pulled", &text);
                    return Ok(found);
                }
                // One that the pod may not use is as good as none: the registry is asked.
                Ok(_) => {}
                Err(e) => return Err(self.inspect_failed(c, image, &e)),
            }
        }
        if policy == PullPolicy::Never {
            let text = format!("Container image \"{image}\" is not present with pull policy of Never");
            self.events.record(pod, c, true, "ErrImageNeverPull", &text);
            return Err(("ErrImageNeverPull", text));
        }
        let credentials = self.credentials(image).await;
        self.events.record(pod, c, false, "Pulling", &format!("Pulling image \"{image}\""));
        let begun = Instant::now();
        let counters = &self.context.counters;
        let pulling = self.context.pulls.begin(Name::of(image)).await;
        match counters.operation("pull_image", self.context.images.pull(image, &credentials)).await {
            Ok(pulled) => {
                pulling.end(&pulled.id, pulled.pulled_with.as_ref()).await;
                let took = begun.elapsed();
                let size = counters::image_size(pulled.size);
                counters.observe(&counters::IMAGE_PULL, &[size], pulled.pull_time.unwrap_or(took).as_secs_f64());
                let text = format!(
                    "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                    go_millis(pulled.pull_time.unwrap_or(took)),
                    go_millis(took),
                    pulled.size
                );
                self.events.record(pod, c, false, "Pulled", &text);
                Ok(pulled)
            }
            Err(e @ ImageError::InvalidName { .. }) => Err(self.inspect_failed(c, image, &e)),
            Err(e) => {
                let error = base::chain(&e);
                self.events.record(pod, c, true, "Failed", &format!("Failed to pull image \"{image}\": {error}"));
                Err(("ErrImagePull", error))
            }
        }
    }

    /// Whether the pod may use an image that is on the node, without asking its registry.
    async fn may_use(&self, image: &str, id: &str) -> bool {
        let (pulls, name) = (&self.context.pulls, Name::of(image));
        match pulls.may_use(&name, id) {
            Use::Free => true,
            Use::Ask => false,
            Use::WithLogin => {
                let credentials = self.credentials(image).await;
                let Ok(reference) = image.parse() else { return false };
                pulls.knows(&name, id, &logins(&reference, &credentials)).await
            }
        }
    }

    fn inspect_failed(&self, c: Option<&str>, image: &str, error: &ImageError) -> (&'static str, String) {
        let (reason, text) = match error {
            ImageError::InvalidName { .. } => {
                ("InvalidImageName", format!("Failed to apply default image tag \"{image}\": {error}"))
            }
            ImageError::Failed(_) => {
                ("ImageInspectError", format!("Failed to inspect image \"{image}\": {}", base::chain(error)))
            }
        };
        self.events.record(&self.pod, c, true, "InspectFailed", &text);
        (reason, text)
    }

    /// Logins from the pod's image pull secrets (`getPullSecretsForPod`), then those of credential providers.
    async fn credentials(&self, image: &str) -> Vec<Credential> {
        let (mut out, mut missing) = (Vec::new(), Vec::new());
        for name in view::spec(&self.pod).image_pull_secrets.iter().flatten().map(|r| &r.name).filter(|n| !n.is_empty())
        {
            match self.context.cluster.secret(self.pod.namespace(), name).await {
                Ok(Some(secret)) => out.extend(credentials_of(&secret)),
                Ok(None) | Err(_) => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.events.record(&self.pod, None, true, "FailedToRetrieveImagePullSecret", &text);
        }
        // A name that is none fails when it is pulled.
        if let Ok(reference) = image.parse::<image::Reference>() {
            let context = &self.context;
            out.extend(context.credential_providers.credentials(&reference.name(), &*context.clock).await);
        }
        out
    }

    // === containers ===

    fn count_start(&self, container: &str) {
        if let Some((role, _)) = view::find_container(&self.pod, container) {
            self.context.counters.count(&counters::CONTAINERS_STARTED, &[counters::container_type(role)]);
        }
    }

    fn count_failed_start(&self, container: &str, code: &str) {
        if let Some((role, _)) = view::find_container(&self.pod, container) {
            self.context.counters.count(&counters::CONTAINERS_FAILED, &[counters::container_type(role), code]);
        }
    }

    /// Images that are volumes are counted by what became of the start that needed them (`incrementImageVolumeMetrics`).
    fn count_image_volumes(&self, image: &PulledImage, became: &Counter) {
        for counter in image.volumes.values().flat_map(|_| [&counters::IMAGE_VOLUMES_REQUESTED, became]) {
            self.context.counters.count(counter, &[]);
        }
    }

    async fn start(&self, name: String, restarts: u32, image: PulledImage) {
        self.count_start(&name);
        let Some((role, c)) = view::find_container(&self.pod, &name) else {
            // The spec lost an ephemeral container, which the API does not allow.
            let message = format!("container {name} is not in the pod");
            return self.tell(Observation::StartFailed { container: name, failure: StartFailure::Config, message });
        };
        let (spec, mut running) = match self.prepare(&c, role, restarts, &image).await {
            Ok(prepared) => prepared,
            Err(message) => {
                self.count_failed_start(&name, StartFailure::Config.reason());
                self.events.warning(&self.pod, &name, "Failed", &format!("Error: {message}"));
                return self.tell(Observation::StartFailed { container: name, failure: StartFailure::Config, message });
            }
        };
        let starting = self.context.engine.start(&spec);
        let started = match self.context.counters.operation("start_container", starting).await {
            Ok(started) => started,
            Err(error) => {
                self.count_image_volumes(&image, &counters::IMAGE_VOLUMES_FAILED);
                return self.start_failed(name, &spec.id, &error).await;
            }
        };
        self.count_image_volumes(&image, &counters::IMAGE_VOLUMES_MOUNTED);
        self.events.normal(&self.pod, &name, "Created", "Container created");
        self.events.normal(&self.pod, &name, "Started", "Container started");
        let id = started.id.clone();
        (running.id, running.started_at) = (started.id, started.at);
        running.user = started.user.or(running.user);
        self.tell(Observation::Started { container: name.clone(), running: Box::new(running) });
        self.remove_old_logs(&name, restarts);
        self.post_start(&c, id).await;
    }

    async fn start_failed(&self, name: String, id: &str, error: &EngineError) {
        let message = base::chain(error).replace(id, &name);
        let failure = match error {
            EngineError::NotStarted(_) => StartFailure::Run,
            _ => StartFailure::Create,
        };
        self.count_failed_start(&name, failure.reason());
        if failure == StartFailure::Run {
            self.events.normal(&self.pod, &name, "Created", "Container created");
        }
        self.events.warning(&self.pod, &name, "Failed", &format!("Error: {message}"));
        self.remove_run(id).await;
        self.tell(Observation::StartFailed { container: name, failure, message });
    }

    /// Looks up everything and forms the spec. The error is the message of `CreateContainerConfigError`.
    async fn prepare(
        &self,
        c: &Container,
        role: Role,
        restarts: u32,
        pulled: &PulledImage,
    ) -> Result<(ContainerSpec, Running), String> {
        let (context, pod) = (&self.context, &*self.pod);
        let image = &pulled.id;
        let found = context.images.find(image).await.map_err(|e| base::chain(&e))?;
        let found = found.ok_or_else(|| format!("image {image} is gone"))?;
        let mut sources = volumes::sources(&*context.cluster, pod, c).await.map_err(|e| base::chain(&e))?;
        sources.files = context.volumes.env_files(pod, c);
        let facts = self.facts();
        let environment = spec::env::environment(pod, c, &sources, &facts).map_err(|e| e.to_string())?;
        let mut mounts = context.volumes.mounts(pod, c, &environment).map_err(|e| e.to_string())?;
        mounts.extend(self.own_mounts(c, restarts)?);
        let (hostname, domain) = hosts::names(pod, &context.config.dns.domain).map_err(|e| e.to_string())?;
        let hostname = hosts::kernel_name(pod, &hostname, &domain).map_err(|e| e.to_string())?;
        let hostname = if view::is_host_network(pod) { context.config.hostname.clone() } else { hostname };
        let id = new_id(&*context.random);
        let user = spec::security::user(pod, c, &found.config.user).map_err(|e| e.to_string())?;
        let running = Running {
            id: id.clone(),
            image: found.names.first().cloned().unwrap_or_else(|| c.image.clone().unwrap_or_default()),
            image_id: found.digest_reference.clone(),
            definition: view::definition(c),
            started_at: context.clock.now(),
            stop_signal: spec::stop_signal(c, &found.config),
            post_start: match c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
                Some(_) => PostStart::Runs,
                None => PostStart::Done,
            },
            stop: None,
            resources: c.resources.clone().unwrap_or_default(),
            user: self.numbers(&user, &found.id)?,
        };
        let input = ContainerInput {
            sandbox: &self.sandbox(),
            id: id.clone(),
            labels: recover::labels(&c.name, restarts, &running),
            image: &found,
            restarts,
            rootfs: Rootfs::default(),
            sources: &sources,
            facts: &facts,
            mounts,
            devices: context.volumes.devices(pod, c).map_err(|e| e.to_string())?,
            hostname: &hostname,
            log_path: context.log_path(pod.namespace(), pod.name(), pod.uid(), &c.name, restarts),
            target: self.target(c, role)?,
            node_memory: context.memory,
            swap: &context.swap,
        };
        let mut spec = spec::container_spec(pod, c, input).map_err(|e| e.to_string())?;
        if let Seccomp::Localhost(name) = &spec.seccomp {
            let path = context.config.data_dir.join("seccomp").join(name);
            let json = std::fs::read_to_string(&path);
            let json = json.map_err(|e| format!("failed to load seccomp profile {}: {e}", path.display()))?;
            spec.seccomp = Seccomp::Profile { path, json };
        }
        spec.resources.cpuset = context.managers.cpus.of(pod.uid(), &c.name);
        spec.resources.memory_nodes = context.managers.memories.nodes(pod.uid(), &c.name);
        let mut grant = context.devices.ready(pod.uid(), &c.name).await?;
        grant.cdi_devices.extend(context.dynamic.cdi_devices(pod, c)?);
        if context.config.runtime.handlers == Handlers::Own {
            grant.resolve()?;
        }
        grant.apply(&mut spec);
        // Last, so that nothing is left behind by a spec that cannot be formed.
        for mount in c.volume_mounts.iter().flatten() {
            let Some(image) = pulled.volumes.get(&mount.name) else { continue };
            let layers = context.images.layers(image, &id, &mount.name).await.map_err(|e| base::chain(&e))?;
            let files = ImageFiles { id: image.clone(), layers };
            let target = volumes::target_of(mount);
            spec.mounts.iter_mut().filter(|m| m.target == target).for_each(|m| m.image = Some(files.clone()));
        }
        spec.rootfs = context.images.prepare(&found.id, &id).await.map_err(|e| base::chain(&e))?;
        Ok((spec, running))
    }

    /// The numbers that a process of the image will run as (`convertContainerStatusUser`). A user that is not there is for the engine
    /// to complain of.
    fn numbers(&self, user: &User, image: &str) -> Result<Option<ContainerUser>, String> {
        let files = self.context.images.user_files(image).map_err(|e| base::chain(&e))?;
        let Some((passwd, group)) = files else { return Ok(None) };
        let resolved = runtime::user::resolve(&runtime_user(user), &passwd, &group).ok();
        Ok(resolved.map(|numbers| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: numbers.uid.into(),
                gid: numbers.gid.into(),
                supplemental_groups: Some(numbers.groups.into_iter().map(i64::from).collect()),
            }),
        }))
    }

    /// The run whose processes an ephemeral container wants to see.
    fn target(&self, c: &Container, role: Role) -> Result<Option<String>, String> {
        if role != Role::Ephemeral {
            return Ok(None);
        }
        let ephemeral = view::ephemeral_containers(&self.pod).iter().find(|e| e.name == c.name);
        let Some(target) = ephemeral.and_then(|e| e.target_container_name.clone()).filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        let run = self.seen.container(&target).and_then(|s| s.running());
        run.map(|r| Some(r.id.clone())).ok_or_else(|| format!("unable to find target container {target}"))
    }

    /// `/etc/hosts` and its companions, and the termination message file.
    fn own_mounts(&self, c: &Container, restarts: u32) -> Result<Vec<Mount>, String> {
        let taken = |path: &str| c.volume_mounts.iter().flatten().any(|m| m.mount_path == path);
        let dir = self.context.pod_run_dir(self.uid());
        let mount = |source: &Path, target: &str| Mount {
            source: source.into(),
            target: target.into(),
            relabel: true,
            ..Mount::default()
        };
        let files = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")];
        let mut out: Vec<Mount> = files
            .iter()
            .filter(|(_, target)| !taken(target))
            .map(|(name, target)| mount(&dir.join(name), target))
            .collect();
        let path = c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log");
        let file = self.context.termination_path(self.uid(), &c.name, restarts);
        let failed = |e: std::io::Error| format!("failed to create {}: {e}", file.display());
        std::fs::create_dir_all(file.parent().unwrap_or(&file)).map_err(failed)?;
        std::fs::write(&file, b"").map_err(failed)?;
        // Any user of the container may write it (`makeMounts` in kuberuntime_container.go).
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&file, mode).map_err(failed)?;
        out.push(mount(&file, path));
        Ok(out)
    }

    /// The newest two logs of a container are kept: the current one and `logs --previous`.
    fn remove_old_logs(&self, container: &str, restarts: u32) {
        let pod = &*self.pod;
        let Some(old) = restarts.checked_sub(2) else { return };
        let path = self.context.log_path(pod.namespace(), pod.name(), pod.uid(), container, old);
        let prefix = format!("{old}.log");
        let Some(dir) = path.parent() else { return };
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "failed to remove an old log");
            }
        }
    }

    async fn post_start(&self, c: &Container, id: String) {
        let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return };
        let result = self.hook(&id, c, hook).await;
        if result.is_err() {
            // The cause may hold secrets; it goes into the status only.
            self.events.warning(&self.pod, &c.name, "FailedPostStartHook", "PostStartHook failed");
        }
        self.tell(Observation::PostStartEnded { container: c.name.clone(), id, error: result.err() });
    }

    /// Runs a hook of a container; the error is for the container's status.
    async fn hook(&self, id: &str, c: &Container, hook: &LifecycleHandler) -> Result<(), String> {
        let sandbox = self.sandbox();
        let ran = probes::run_hook(&self.asked(&sandbox, id, c), &view::describe(&self.pod), hook).await?;
        if let Ran::WithoutTls(host) = ran {
            self.context.counters.count(&counters::HOOKS_WITHOUT_TLS, &[]);
            let text = format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
            self.events.record(&self.pod, None, true, "LifecycleHTTPFallback", &text);
        }
        Ok(())
    }

    async fn pre_stop(&self, name: String, id: String, timeout: Duration) {
        let found = view::find_container(&self.pod, &name);
        if let Some((_, c)) = found
            && let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
            && let Ok(Err(error)) = tokio::time::timeout(timeout, self.hook(&id, &c, hook)).await
        {
            tracing::debug!(pod = view::describe(&self.pod), error, "a preStop hook failed");
            self.events.warning(&self.pod, &name, "FailedPreStopHook", "PreStopHook failed");
        }
        self.tell(Observation::PreStopEnded { container: name, id });
    }

    async fn signal(&self, container: String, id: String, signal: String) {
        let sandbox = self.sandbox();
        let signalling = self.context.engine.signal(&sandbox, &id, &signal);
        match self.context.counters.operation("stop_container", signalling).await {
            Ok(()) => {}
            // No exit will be told of a container that is not there.
            Err(EngineError::NotFound(_)) => {
                self.tell(Observation::Exited { id, how: unknown_exit(self.context.clock.now()) });
            }
            // The plan signals again.
            Err(error) => {
                tracing::warn!(container, signal, error = %base::chain(&error), "failed to signal a container")
            }
        }
    }

    async fn remove_run(&self, id: &str) {
        let sandbox = self.sandbox();
        if !sandbox.is_empty()
            && let Err(error) =
                self.context.counters.operation("remove_container", self.context.engine.remove(&sandbox, id)).await
            && !matches!(error, EngineError::NotFound(_))
        {
            // Removed with the sandbox at the latest.
            tracing::debug!(id, error = %base::chain(&error), "failed to remove an ended container");
        }
        if let Err(error) = self.context.images.release(id).await {
            // Released at the agent's next start at the latest.
            tracing::warn!(id, error = %base::chain(&error), "failed to release a root file system");
        }
    }

    // === resize ===

    fn ask_for_resources(&self, wanted: Allocation) {
        let (pod, generation) = (&self.pod, self.pod.metadata.generation);
        let wanted_pod = wanted.apply(pod);
        let refused = self.refuse(&wanted_pod).err();
        match &refused {
            None => {
                let text = allocation::event_text("Pod resize started", &wanted_pod, generation, "");
                self.events.record(pod, None, false, "ResizeStarted", &text);
            }
            // Told once per generation, as the plan keeps what was told.
            Some(Refusal { infeasible, message })
                if self.seen.resize.pending.as_ref().is_none_or(|p| p.generation != generation) =>
            {
                let (title, reason) = match infeasible {
                    true => ("Pod resize Infeasible", "ResizeInfeasible"),
                    false => ("Pod resize Deferred", "ResizeDeferred"),
                };
                let text = allocation::event_text(title, &wanted_pod, generation, message);
                self.events.record(pod, None, true, reason, &text);
            }
            Some(_) => {}
        }
        self.tell(Observation::ResourcesAnswered { wanted: Box::new(wanted), generation, refused });
    }

    /// Grants the pod what it wants now, or tells why not.
    fn refuse(&self, wanted: &Pod) -> Result<(), Refusal> {
        let context = &self.context;
        // The executor's pod is made of what is granted.
        let never = allocation::infeasible(wanted, &self.pod, &context.config.managers, &context.swap);
        if let Some((name, why)) = never {
            context.counters.count(&counters::RESIZES_INFEASIBLE, &[name]);
            return Err(Refusal { infeasible: true, message: why.to_owned() });
        }
        let answer = context.ledger.grant(wanted.uid(), Demand::of(wanted), &context.allocatable.read());
        answer.map_err(|shortage| Refusal { infeasible: false, message: shortage.to_string() })
    }

    async fn resize(&self, from: &Allocation, to: Allocation, running: Vec<(String, String)>) {
        let changes = allocation::cgroup_changes(&self.pod, from, &to, &running, &self.context.swap);
        let usage = |cgroup: &str| self.context.engine.usage(cgroup).memory_usage;
        let begun = Instant::now();
        let counters = &self.context.counters;
        let mut result = allocation::check_memory(&changes, usage);
        if result.is_ok() {
            for (cgroup, limits) in allocation::cgroup_steps(&changes) {
                let update = self.context.engine.update(&cgroup, &limits);
                result = counters.operation("update_container", update).await.map_err(|e| base::chain(&e));
                if result.is_err() {
                    break;
                }
            }
        }
        let success = if result.is_ok() { "true" } else { "false" };
        counters.observe(&counters::POD_RESIZE, &[success], begun.elapsed().as_secs_f64() * 1000.0);
        let error = result.err();
        let before = self.seen.resize.progress.as_ref().and_then(|p| p.error.as_ref());
        if let Some(error) = error.as_ref().filter(|e| before != Some(*e)) {
            let generation = self.seen.resize.progress.as_ref().and_then(|p| p.generation);
            let text = allocation::event_text("Pod resize error", &to.apply(&self.pod), generation, error);
            self.events.record(&self.pod, None, true, "ResizeError", &text);
        }
        self.tell(Observation::Resized { to: Box::new(to), running, error });
    }

    // === probes ===

    fn asked<'a>(&'a self, sandbox: &'a str, id: &'a str, container: &'a Container) -> Target<'a> {
        Target { engine: &*self.context.engine, sandbox, id, container, pod_ip: self.facts().pod_ips.first().copied() }
    }

    async fn probe(&self, name: String, id: String, kind: ProbeKind) {
        let sandbox = self.sandbox();
        let found = view::find_container(&self.pod, &name);
        let begun = Instant::now();
        let (answer, took) = match found.as_ref().and_then(|(_, c)| Some((c, kind.of(c)?))) {
            Some((c, spec)) => {
                let outcome = probes::probe(&self.asked(&sandbox, &id, c), spec).await;
                let took = begun.elapsed();
                (self.judge(&name, kind, &outcome), Some(took))
            }
            None => (None, None),
        };
        self.tell(Observation::Probed { container: name, id, kind, answer, took });
    }

    fn judge(&self, name: &str, kind: ProbeKind, outcome: &Outcome) -> Option<bool> {
        let title = kind.title();
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Warning(text) => {
                self.events.warning(&self.pod, name, "ProbeWarning", &format!("{title} probe warning: {text}"));
                Some(true)
            }
            Outcome::Failure(text) => {
                self.events.warning(&self.pod, name, "Unhealthy", &format!("{title} probe failed: {text}"));
                Some(false)
            }
            Outcome::Error(text) => {
                let text = format!("{title} probe errored and resulted in unknown state: {text}");
                self.events.warning(&self.pod, name, "Unhealthy", &text);
                None
            }
        }
    }

    async fn delete_object(&self) {
        match self.context.cluster.delete_pod(&self.pod).await {
            // The watch tells when it is gone; finalizers may keep it.
            Ok(()) => {}
            Err(ClusterError::NotFound(_)) => self.tell(Observation::ObjectGone),
            Err(error) => {
                tracing::warn!(pod = view::describe(&self.pod), error = %base::chain(&error), "failed to delete a pod");
                self.tell(Observation::DeleteFailed);
            }
        }
    }
}

/// What an action that broke off (a bug) is taken for, so that the pod does not hang.
pub fn broken_off(action: &PodAction) -> Option<Observation> {
    const TEXT: &str = "internal error";
    let container = |c: &String| c.clone();
    Some(match action {
        PodAction::MountVolumes => Observation::VolumesFailed,
        PodAction::PrepareClaims => Observation::ClaimsFailed,
        PodAction::CreateSandbox { .. } => Observation::SandboxFailed,
        PodAction::PullImage { container: c, .. } => {
            Observation::PullFailed { container: container(c), reason: "ErrImagePull".into(), message: TEXT.into() }
        }
        PodAction::StartContainer { container: c, .. } => {
            Observation::StartFailed { container: container(c), failure: StartFailure::Create, message: TEXT.into() }
        }
        PodAction::RunPreStop { container: c, id, .. } => {
            Observation::PreStopEnded { container: container(c), id: id.clone() }
        }
        PodAction::Probe { container: c, id, kind } => {
            Observation::Probed { container: container(c), id: id.clone(), kind: *kind, answer: None, took: None }
        }
        PodAction::DeleteObject => Observation::DeleteFailed,
        PodAction::AskForResources { wanted } => Observation::ResourcesAnswered {
            wanted: wanted.clone(),
            generation: None,
            refused: Some(Refusal { infeasible: false, message: TEXT.into() }),
        },
        PodAction::Resize { to, running, .. } => {
            Observation::Resized { to: to.clone(), running: running.clone(), error: Some(TEXT.into()) }
        }
        PodAction::UnmountVolumes
        | PodAction::UndoClaims
        | PodAction::StopSandbox { .. }
        | PodAction::RemoveSandbox { .. }
        | PodAction::Signal { .. }
        | PodAction::RemoveRun { .. }
        | PodAction::Event(_)
        | PodAction::Forget => return None,
    })
}

/// Addresses and sizes for the downward API.
pub fn facts(context: &Context, pod: &Pod, ips: &[IpAddr]) -> fields::Facts {
    let host_ips = context.config.node_ips.clone();
    let pod_ips = if view::is_host_network(pod) { host_ips.clone() } else { ips.to_vec() };
    fields::Facts { host_ips, pod_ips, allocatable: context.allocatable.read().clone() }
}

/// 64 hex digits, as other container engines have them.
fn new_id(random: &dyn base::Random) -> String {
    let mut bytes = [0u8; 32];
    random.fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `kubernetes.io/dockerconfigjson` and the older `kubernetes.io/dockercfg`.
fn credentials_of(secret: &Secret) -> Vec<Credential> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
    let auths = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(bytes), _) => json(bytes)["auths"].clone(),
        (None, Some(bytes)) => json(bytes),
        (None, None) => return Vec::new(),
    };
    let entries = auths.as_object().cloned().unwrap_or_default();
    let known = |part: &Option<String>| part.clone().unwrap_or_default();
    let meta = &secret.metadata;
    let id = SecretId { namespace: known(&meta.namespace), name: known(&meta.name), uid: known(&meta.uid) };
    let of_secret = |c: Credential| Credential { secret: Some(id.clone()), ..c };
    entries.into_iter().filter_map(|(registry, entry)| credential(registry, &entry).map(of_secret)).collect()
}

fn credential(registry: String, entry: &serde_json::Value) -> Option<Credential> {
    use base64::Engine as _;
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Credential { registry, username, password, secret: None });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let (username, password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
    Some(Credential { registry, username, password, secret: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;

    #[test]
    fn pull_secrets_in_both_forms() {
        use base64::Engine as _;
        let encode = |s: &str| base64::engine::general_purpose::STANDARD.encode(s);
        let auth = encode("me:pa:ss");
        let new = encode(&format!(r#"{{"auths":{{"r.example":{{"auth":"{auth}"}},"x":{{}}}}}}"#));
        let secret: Secret = object(&format!(r#"{{"metadata":{{}},"data":{{".dockerconfigjson":"{new}"}}}}"#));
        let id = SecretId { namespace: String::new(), name: String::new(), uid: String::new() };
        let (registry, username, password) = ("r.example".into(), "me".into(), "pa:ss".into());
        let want = vec![Credential { registry, username, password, secret: Some(id) }];
        assert_eq!(credentials_of(&secret), want);
        let old = encode(r#"{"r.example":{"username":"me","password":"pa:ss"}}"#);
        let secret: Secret = object(&format!(r#"{{"metadata":{{}},"data":{{".dockercfg":"{old}"}}}}"#));
        assert_eq!(credentials_of(&secret), want);
        let junk: Secret = object(r#"{"metadata":{},"data":{".dockercfg":"AAAA"}}"#);
        assert_eq!(credentials_of(&junk), []);
    }
}
