//! [`Engine`] over crate `runtime`.
//!
//! A sandbox is one of `runtime`'s pods; its id is the pod's.

use crate::engine::*;
use crate::node;
use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::RwLock;
use runtime::SelinuxLabels;
use runtime::selinux::{self, Selinux};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::broadcast;

/// Container logs: as the kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
const LOG_MAX_BYTES: u64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;
/// What a probe or hook may write.
const OUTPUT_MAX_BYTES: usize = 64 * 1024;

const NAMESPACE: &str = "namespace";
const NAME: &str = "name";
const UID: &str = "uid";
const ATTEMPT: &str = "attempt";

/// The engine of this node.
pub struct RuntimeEngine {
    engine: runtime::Engine,
    events: tokio::sync::Mutex<runtime::Events>,
    pods: RwLock<HashMap<String, Known>>,
    /// Container id and exit code, for those who are attached.
    exits: broadcast::Sender<(String, i32)>,
    cgroup_root: String,
    /// If the node has it.
    selinux: Option<Selinux>,
}

/// A pod that runs.
#[derive(Clone)]
struct Known {
    pod: runtime::Pod,
    /// Those it was made with: a pod that has none, because dhow knew of none when it was made, stays without.
    selinux: Option<SelinuxLabels>,
}

impl RuntimeEngine {
    /// Takes the engine and its events over.
    pub fn new(engine: runtime::Engine, events: runtime::Events) -> Self {
        let (exits, _) = broadcast::channel(256);
        RuntimeEngine {
            engine,
            events: tokio::sync::Mutex::new(events),
            pods: RwLock::default(),
            exits,
            cgroup_root: String::new(),
            selinux: None,
        }
    }

    /// Labels pods, where the node has SELinux.
    #[must_use]
    pub fn labelling(mut self, selinux: Option<Selinux>) -> Self {
        self.selinux = selinux;
        self
    }

    /// Puts `kubepods` below this cgroup instead of the hierarchies' root.
    #[must_use]
    pub fn below_cgroup(mut self, path: &str) -> Self {
        self.cgroup_root = format!("/{}", path.trim_matches('/'));
        self
    }

    fn pod(&self, sandbox: &str) -> Result<runtime::Pod, EngineError> {
        Ok(self.known(sandbox)?.pod)
    }

    fn known(&self, sandbox: &str) -> Result<Known, EngineError> {
        self.pods.read().get(sandbox).cloned().ok_or_else(|| EngineError::NotFound(format!("sandbox {sandbox}")))
    }

    /// The labels of a new sandbox, which has its level from now on.
    fn label_sandbox(&self, spec: &SandboxSpec) -> Result<Option<SelinuxLabels>, EngineError> {
        let Some(selinux) = &self.selinux else { return Ok(None) };
        selinux.pod(&spec.id, &spec.selinux).map_err(mislabelled)
    }

    /// Gives a container the labels that confine it (containerd `internal/cri/server/container_create.go`).
    fn label_container(
        &self,
        known: &Known,
        spec: &ContainerSpec,
        formed: &mut runtime::ContainerSpec,
    ) -> Result<(), EngineError> {
        let Some(selinux) = &self.selinux else { return Ok(()) };
        let labels = selinux.container(&spec.sandbox, known.selinux.as_ref(), &spec.selinux, spec.privileged);
        let Some(labels) = labels.map_err(mislabelled)? else { return Ok(()) };
        formed.mount_label = Some(labels.mount);
        // What is privileged is not confined. The machine's process or IPC namespace alone lifts nothing.
        formed.process.selinux = Some(labels.process).filter(|_| !spec.privileged);
        Ok(())
    }

    /// Removes a sandbox, whose level stays in use.
    async fn take_away(&self, sandbox: &str) -> Result<(), EngineError> {
        let known = self.pods.read().get(sandbox).cloned();
        match known {
            Some(known) => self.engine.remove_pod(&known.pod).await.map_err(translate)?,
            None => self.sweep_orphan(sandbox).await?,
        }
        self.pods.write().remove(sandbox);
        Ok(())
    }

    fn reserve(&self, sandbox: &str, labels: Option<&SelinuxLabels>) {
        if let (Some(selinux), Some(labels)) = (&self.selinux, labels) {
            selinux.reserve(sandbox, &labels.process);
        }
    }

    fn release(&self, sandbox: &str) {
        self.selinux.iter().for_each(|s| s.release(sandbox));
    }

    async fn sweep_orphan(&self, sandbox: &str) -> Result<(), EngineError> {
        let orphans = self.engine.orphans().map_err(translate)?;
        match orphans.iter().find(|o| o.id == sandbox) {
            Some(orphan) => self.engine.sweep(orphan).await.map_err(translate),
            None => Ok(()),
        }
    }
}

fn translate(error: runtime::EngineError) -> EngineError {
    use runtime::Reason;
    match error {
        runtime::EngineError::Refused { reason: Reason::NotFound, message } => EngineError::NotFound(message),
        runtime::EngineError::Refused { reason: Reason::Start, message } => EngineError::NotStarted(message),
        runtime::EngineError::Refused { reason: Reason::Unsupported, message } => EngineError::Unsupported(message),
        runtime::EngineError::SupervisorLost { pod } => EngineError::NotFound(format!("supervisor of sandbox {pod}")),
        other => EngineError::Failed(base::chain(&other)),
    }
}

/// In the words of the API, as what is wrong is there.
fn mislabelled(error: selinux::Error) -> EngineError {
    EngineError::Failed(format!("seLinuxOptions: {error}"))
}

fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn exit_of(exit: &runtime::Exit) -> EngineExit {
    EngineExit { code: exit.code, oom: exit.oom_killed, lost: exit.lost, finished_at: timestamp(exit.finished_at_ns) }
}

#[async_trait]
impl Engine for RuntimeEngine {
    async fn recover(&self) -> Result<Vec<SandboxSnapshot>, EngineError> {
        let mut out = Vec::new();
        for found in self.engine.recover().await.map_err(translate)? {
            let containers = found.snapshot.containers.iter().map(container_snapshot).collect();
            out.push(sandbox_snapshot(&found.snapshot.spec, true, containers));
            let (id, selinux) = (found.pod.id().to_owned(), found.snapshot.spec.selinux.clone());
            self.reserve(&id, selinux.as_ref());
            for container in found.snapshot.containers.iter().filter_map(|c| c.selinux.as_deref()) {
                self.selinux.iter().for_each(|s| s.reserve(&id, container));
            }
            self.pods.write().insert(id, Known { pod: found.pod, selinux });
        }
        for orphan in self.engine.orphans().map_err(translate)? {
            let spec = orphan.spec.unwrap_or_else(|| runtime::PodSandboxSpec { id: orphan.id, ..Default::default() });
            self.reserve(&spec.id, spec.selinux.as_ref());
            out.push(sandbox_snapshot(&spec, false, Vec::new()));
        }
        Ok(out)
    }

    async fn fault(&self) -> Option<String> {
        let fatal: Vec<String> = self.engine.lacks().into_iter().filter(|l| l.fatal).map(|l| l.to_string()).collect();
        (!fatal.is_empty()).then(|| format!("container runtime is not ready: {}", fatal.join("; ")))
    }

    fn lacks(&self) -> Vec<String> {
        self.engine.lacks().into_iter().filter(|l| !l.fatal).map(|l| l.to_string()).collect()
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<String, EngineError> {
        if !node::HANDLERS.contains(&&*spec.runtime_handler) {
            // containerd's words.
            let text = format!("no runtime for {:?} is configured", spec.runtime_handler);
            return Err(EngineError::Failed(format!("failed to get sandbox runtime: {text}")));
        }
        let wanted =
            runtime::PodSandboxSpec { selinux: self.label_sandbox(spec)?, ..pod_spec(spec, &self.cgroup_root) };
        let made = match self.engine.create_pod(&wanted).await {
            // Left over from an attempt that broke off.
            Err(runtime::EngineError::Refused { reason: runtime::Reason::AlreadyExists, .. }) => {
                self.take_away(&spec.id).await?;
                self.engine.create_pod(&wanted).await
            }
            other => other,
        };
        let pod = made.map_err(translate).inspect_err(|_| self.release(&spec.id))?;
        self.pods.write().insert(spec.id.clone(), Known { pod, selinux: wanted.selinux });
        Ok(spec.id.clone())
    }

    async fn network(&self, sandbox: &str) -> Result<SandboxNetwork, EngineError> {
        self.engine.netns(&self.pod(sandbox)?).await.map(SandboxNetwork::Namespace).map_err(translate)
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), EngineError> {
        self.take_away(sandbox).await?;
        self.release(sandbox);
        Ok(())
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Started, EngineError> {
        let known = self.known(&spec.sandbox)?;
        let mut formed = container_spec(spec, &self.cgroup_root);
        if formed.process.args.is_empty() {
            return Err(EngineError::Failed("no command specified".into()));
        }
        if let Some(AppArmor::Profile(name)) = &spec.app_armor
            && !runtime::apparmor::is_loaded(name)
        {
            return Err(EngineError::Failed(format!("apparmor profile not found {name}")));
        }
        self.label_container(&known, spec, &mut formed)?;
        if spec.privileged {
            let others = runtime::devices::all_but(&formed.devices)
                .map_err(|e| EngineError::Failed(format!("failed to list the machine's devices: {e}")))?;
            formed.devices.extend(others);
        }
        let started = self.engine.start_container(&known.pod, &formed).await.map_err(translate)?;
        if !started.missing_controllers.is_empty() {
            tracing::warn!(container = spec.id, missing = ?started.missing_controllers, "limits that this node cannot set");
        }
        Ok(Started { id: spec.id.clone(), at: timestamp(started.started_at_ns), user: None })
    }

    async fn signal(&self, sandbox: &str, container: &str, signal: &str) -> Result<(), EngineError> {
        let pod = self.pod(sandbox)?;
        let number =
            runtime::signal::number(signal).ok_or_else(|| EngineError::Unsupported(format!("signal {signal}")))?;
        let sent = if signal == "SIGKILL" {
            self.engine.kill_all(&pod, container, number).await
        } else {
            self.engine.kill(&pod, container, number).await
        };
        sent.map_err(translate)
    }

    async fn remove(&self, sandbox: &str, container: &str) -> Result<(), EngineError> {
        self.engine.remove_container(&self.pod(sandbox)?, container).await.map_err(translate)
    }

    async fn update(&self, cgroup: &str, resources: &Resources) -> Result<(), EngineError> {
        self.engine
            .update_resources(&format!("{}/{cgroup}", self.cgroup_root), &limits(resources))
            .map(drop)
            .map_err(translate)
    }

    fn usage(&self, cgroup: &str) -> runtime::Stats {
        self.engine.stats(&format!("{}/{cgroup}", self.cgroup_root))
    }

    fn processes(&self, cgroup: &str) -> BTreeSet<i32> {
        self.engine.processes(&format!("{}/{cgroup}", self.cgroup_root))
    }

    async fn exec(
        &self,
        sandbox: &str,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        let pod = self.pod(sandbox)?;
        // Together, in the order in which they came.
        let output = runtime::Capture::new(OUTPUT_MAX_BYTES);
        match self.engine.run(&pod, container, command, timeout, [&output, &output]).await.map_err(translate)? {
            Some(code) => Ok(ExecOutput { code, output: output.take() }),
            None => Err(EngineError::Timeout(timeout.unwrap_or_default())),
        }
    }

    async fn exec_stream(
        &self,
        sandbox: &str,
        container: &str,
        request: StreamRequest,
    ) -> Result<Session, EngineError> {
        let pod = self.pod(sandbox)?;
        streaming::session::exec(&self.engine, &pod, container, request).await.map_err(translate)
    }

    async fn attach(&self, sandbox: &str, container: &str, request: StreamRequest) -> Result<Session, EngineError> {
        let pod = self.pod(sandbox)?;
        // Subscribed before the streams are there, so that no end is missed.
        let ended = Box::pin(end_of(container.to_owned(), self.exits.subscribe()));
        streaming::session::attach(&self.engine, &pod, container, &request, ended).await.map_err(translate)
    }

    async fn next_event(&self) -> Option<EngineEvent> {
        loop {
            match self.events.lock().await.recv().await? {
                runtime::EngineEvent::Pod { pod, event: runtime::Event::Exited { container, exit } } => {
                    // Nobody may be attached.
                    self.exits.send((container.clone(), exit.code)).ok();
                    return Some(EngineEvent::Exited { pod: uid_of(&pod), container, exit: exit_of(&exit) });
                }
                runtime::EngineEvent::Pod { pod, event: runtime::Event::LogFault { container, message } } => {
                    tracing::warn!(sandbox = pod, container, message, "a container's log cannot be written");
                }
                runtime::EngineEvent::Pod { .. } | runtime::EngineEvent::SupervisorReplaced { .. } => {}
                runtime::EngineEvent::SupervisorLost { pod } => {
                    self.pods.write().remove(&pod);
                    return Some(EngineEvent::SandboxLost { pod: uid_of(&pod), sandbox: pod });
                }
            }
        }
    }
}

/// A sandbox is called `<uid>-<attempt>` by the agent.
pub(crate) fn uid_of(sandbox: &str) -> String {
    sandbox.rsplit_once('-').map_or(sandbox, |(uid, _)| uid).to_owned()
}

/// The exit code of a container; `None` if nobody will tell it.
async fn end_of(container: String, mut exits: broadcast::Receiver<(String, i32)>) -> Option<i32> {
    loop {
        match exits.recv().await {
            Ok((ended, code)) if ended == container => return Some(code),
            // Others, or too many at once: the streams' end tells as well.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

fn sandbox_snapshot(
    spec: &runtime::PodSandboxSpec,
    alive: bool,
    containers: Vec<ContainerSnapshot>,
) -> SandboxSnapshot {
    let label = |key: &str| spec.labels.get(key).cloned().unwrap_or_default();
    SandboxSnapshot {
        id: spec.id.clone(),
        namespace: label(NAMESPACE),
        name: label(NAME),
        uid: label(UID),
        attempt: label(ATTEMPT).parse().unwrap_or(0),
        alive,
        containers,
    }
}

fn container_snapshot(c: &runtime::ContainerSnapshot) -> ContainerSnapshot {
    use runtime::ContainerState;
    let (started, exit) = match &c.state {
        ContainerState::Starting => (None, None),
        ContainerState::Running(started) => (Some(timestamp(started.started_at_ns)), None),
        ContainerState::Exited(exit) => (Some(timestamp(exit.started_at_ns)), Some(exit_of(exit))),
    };
    ContainerSnapshot { id: c.id.clone(), labels: c.labels.clone(), started_at: started, exit }
}

fn pod_spec(spec: &SandboxSpec, cgroup_root: &str) -> runtime::PodSandboxSpec {
    use runtime::NamespaceMode;
    let mode = |host: bool| if host { NamespaceMode::Host } else { NamespaceMode::Pod };
    let labels = [
        (NAMESPACE, spec.namespace.clone()),
        (NAME, spec.name.clone()),
        (UID, spec.uid.clone()),
        (ATTEMPT, spec.attempt.to_string()),
    ];
    runtime::PodSandboxSpec {
        id: spec.id.clone(),
        hostname: spec.hostname.clone(),
        network: mode(spec.host_network),
        ipc: mode(spec.host_ipc),
        uts: mode(spec.hostname.is_none()),
        users: spec.users.map(|ids| runtime::IdRange { first: ids.first, length: ids.length }),
        sysctls: spec.sysctls.clone(),
        cgroup: Some(runtime::Cgroup {
            path: format!("{cgroup_root}/{}", spec.cgroup),
            resources: limits(&spec.resources),
        }),
        labels: labels.map(|(k, v)| (k.to_owned(), v)).into(),
        ..runtime::PodSandboxSpec::default()
    }
}

fn container_spec(spec: &ContainerSpec, cgroup_root: &str) -> runtime::ContainerSpec {
    let mut mounts = runtime::Mount::defaults(spec.privileged);
    mounts.extend(spec.mounts.iter().map(mount));
    let hidden = |paths: fn() -> Vec<std::path::PathBuf>| if spec.unmasked_proc { Vec::new() } else { paths() };
    runtime::ContainerSpec {
        id: spec.id.clone(),
        rootfs: runtime::Rootfs::Overlay {
            lower: spec.rootfs.lower.clone(),
            upper: spec.rootfs.upper.clone(),
            work: spec.rootfs.work.clone(),
            volatile: true,
        },
        readonly_rootfs: spec.read_only_rootfs,
        mounts,
        process: process(spec),
        pid: match &spec.processes {
            Processes::Own => runtime::PidMode::Container,
            Processes::Pod => runtime::PidMode::Pod,
            Processes::Host => runtime::PidMode::Host,
            Processes::Of(id) => runtime::PidMode::Target(id.clone()),
        },
        cgroup: runtime::Cgroup {
            path: format!("{cgroup_root}/{}/{}", spec.cgroup, spec.id),
            resources: limits(&spec.resources),
        },
        masked_paths: hidden(runtime::spec::masked_paths),
        readonly_paths: hidden(runtime::spec::readonly_paths),
        all_devices: spec.privileged,
        log: Some(runtime::Log { path: spec.log_path.clone(), max_size: LOG_MAX_BYTES, max_files: LOG_MAX_FILES }),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        labels: spec.labels.clone(),
        devices: spec.devices.iter().map(device).collect(),
        hooks: spec.hooks.clone(),
        ..runtime::ContainerSpec::default()
    }
}

/// In the engine's own words.
pub(crate) fn runtime_user(user: &User) -> runtime::User {
    runtime::User {
        name: Some(user.name.clone()).filter(|n| !n.is_empty()),
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.groups.clone(),
        merge_image_groups: user.merge_image_groups,
    }
}

fn process(spec: &ContainerSpec) -> runtime::Process {
    let image = &spec.image.config;
    let (own, args) = (spec.command.clone(), spec.args.clone());
    let env = runtime::defaults::environment(&image.env, spec.env.iter().cloned(), &spec.hostname, spec.tty);
    let cwd = [spec.cwd.as_str(), image.working_dir.as_str()].into_iter().find(|d| !d.is_empty()).unwrap_or("/");
    runtime::Process {
        args: runtime::defaults::command(&image.entrypoint, &image.command, own, args),
        env: env.into_iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: cwd.into(),
        user: runtime_user(&spec.user),
        capabilities: runtime::Capabilities::of(spec.capabilities.iter().cloned()),
        no_new_privileges: spec.no_new_privileges,
        seccomp: match &spec.seccomp {
            Seccomp::RuntimeDefault => runtime::Seccomp::RuntimeDefault,
            Seccomp::Unconfined => runtime::Seccomp::Unconfined,
            Seccomp::Profile { json, .. } => runtime::Seccomp::Custom(json.clone()),
            // Refused by the runtime as no profile, rather than taken for "none".
            Seccomp::Localhost(name) => runtime::Seccomp::Custom(name.clone()),
        },
        apparmor: runtime::apparmor::profile(spec.app_armor.as_ref(), spec.privileged),
        oom_score_adj: Some(spec.oom_score_adj),
        tty: spec.tty,
        ..runtime::Process::default()
    }
}

fn device(device: &Device) -> runtime::Device {
    runtime::Device {
        path: device.target.clone(),
        kind: device.kind,
        major: device.major,
        minor: device.minor,
        mode: device.mode,
        uid: device.owner.0,
        gid: device.owner.1,
        access: device.access.clone(),
    }
}

fn mount(mount: &Mount) -> runtime::Mount {
    let sub_path = mount.sub_path.clone();
    let kind = match &mount.image {
        None => runtime::MountKind::Bind { source: mount.source.clone(), sub_path, recursive: true },
        Some(image) => runtime::MountKind::Overlay { lower: image.layers.clone(), sub_path },
    };
    runtime::Mount {
        destination: mount.target.clone(),
        kind,
        readonly: match (mount.read_only, mount.recursive_read_only) {
            (_, true) => runtime::ReadOnly::Recursive,
            (true, false) => runtime::ReadOnly::Yes,
            (false, false) => runtime::ReadOnly::No,
        },
        propagation: match mount.propagation {
            Propagation::Private => runtime::Propagation::Private,
            Propagation::HostToContainer => runtime::Propagation::Slave,
            Propagation::Bidirectional => runtime::Propagation::Shared,
        },
        relabel: mount.relabel,
        ..runtime::Mount::default()
    }
}

/// Limits in the engine's words.
pub(super) fn limits(resources: &Resources) -> runtime::Resources {
    runtime::Resources {
        memory_limit: resources.memory_bytes,
        memory_swap: resources.memory_bytes,
        cpu_shares: resources.cpu_shares,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_period_us: resources.cpu_period_us,
        pids: resources.pids,
        cpuset_cpus: resources.cpuset.clone(),
        cpuset_mems: resources.memory_nodes.clone(),
        // After `memory_swap`, whose place it takes.
        unified: resources.swap_bytes.map(|n| ("memory.swap.max".to_owned(), n.to_string())).into_iter().collect(),
        ..runtime::Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_process(command: &[&str], args: &[&str], want: &str) {
        let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect();
        let config = crate::images::ImageConfig {
            entrypoint: words(&["/entry"]),
            command: words(&["default"]),
            env: words(&["PATH=/image/bin", "FROM_IMAGE=1"]),
            working_dir: "/work".into(),
            ..Default::default()
        };
        let spec = ContainerSpec {
            image: crate::images::Image { config, ..Default::default() },
            command: words(command),
            args: words(args),
            env: vec![("X".into(), "1".into())],
            hostname: "web".into(),
            tty: true,
            ..ContainerSpec::default()
        };
        let p = process(&spec);
        assert_eq!(format!("{} in {}: {}", p.args.join(" "), p.cwd.display(), p.env.join(" ")), want);
    }

    #[test]
    fn the_image_says_what_the_container_leaves_open() {
        let env = "PATH=/image/bin HOSTNAME=web TERM=xterm FROM_IMAGE=1 X=1";
        check_process(&[], &[], &format!("/entry default in /work: {env}"));
        check_process(&[], &["a"], &format!("/entry a in /work: {env}"));
        check_process(&["sh"], &[], &format!("sh in /work: {env}"));
    }
}
