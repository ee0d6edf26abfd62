//! [`Engine`]: what the agent wants of a container engine, in the agent's words. The adapter to crate `runtime` is
//! `adapters/engine.rs`, the one to a foreign CRI runtime `adapters/cri/`; unit tests bring a fake.
//!
//! A sandbox is a pod's namespaces and cgroup; it outlives the agent. The agent proposes ids, and an engine that gives its own
//! answers with them. A start that broke off is found by [`Engine::recover`], so every call can be repeated.

use api::k8s::api::core::v1::ContainerUser;
use async_trait::async_trait;
use image::DiskUse;
use jiff::Timestamp;
use net::traffic::Traffic;
use runtime::Stats;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use url::Url;

use crate::images::Image;
use crate::network::HostPort;
use crate::volumes::persistent::{Local, Nfs};
pub use runtime::apparmor::Wish as AppArmor;
pub use runtime::selinux::Wish as SeLinux;
pub use streaming::{Session, SessionControl, StreamRequest};

/// A refused or failed engine call. The text is shown to users in events and waiting messages.
#[derive(Debug, Error)]
pub enum EngineError {
    /// There is no such sandbox or container (any more).
    #[error("{0} not found")]
    NotFound(String),
    /// The container exists but its first process could not be started (no such command, bad working directory …).
    #[error("{0}")]
    NotStarted(String),
    /// A command did not end in time.
    #[error("command timed out after {0:?}")]
    Timeout(Duration),
    /// Not built.
    #[error("{0} is not supported by dhow")]
    Unsupported(String),
    /// Anything else: what was tried and why it failed.
    #[error("{0}")]
    Failed(String),
}

/// What the agent asks of the engine.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Everything that exists, running or not. Called once, at start.
    async fn recover(&self) -> Result<Vec<SandboxSnapshot>, EngineError>;
    /// Makes a sandbox ready for containers; gives its id.
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<String, EngineError>;
    /// Its network; not asked of those that have the node's.
    async fn network(&self, sandbox: &str) -> Result<SandboxNetwork, EngineError>;
    /// Kills whatever runs in it and removes all traces but logs. Afterwards nothing of the pod runs. Fine if it is already so.
    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), EngineError>;
    /// Makes and starts a container.
    async fn start(&self, spec: &ContainerSpec) -> Result<Started, EngineError>;
    /// Signals the container's first process; `SIGKILL` reaches all its processes.
    async fn signal(&self, sandbox: &str, container: &str, signal: &str) -> Result<(), EngineError>;
    /// Removes an ended container's files.
    async fn remove(&self, sandbox: &str, container: &str) -> Result<(), EngineError>;
    /// Changes limits of a cgroup in place.
    async fn update(&self, cgroup: &str, resources: &Resources) -> Result<(), EngineError>;
    /// What the kernel has counted in a cgroup; zeros if there is none.
    fn usage(&self, cgroup: &str) -> Stats;
    /// Processes in a cgroup and below.
    fn processes(&self, cgroup: &str) -> BTreeSet<i32>;
    /// What only the engine itself knows of what is used: nothing, if the agent finds all of it on the node.
    async fn told_use(&self) -> ToldUse {
        ToldUse::default()
    }
    /// Runs a command in a container to its end and returns the beginning of what it wrote.
    async fn exec(
        &self,
        sandbox: &str,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError>;
    /// Where the engine itself serves these streams to clients; `None`: they are had by the calls below.
    async fn streams_at(&self, _: Streams<'_>) -> Result<Option<Url>, EngineError> {
        Ok(None)
    }
    /// Runs a command with streams.
    async fn exec_stream(&self, sandbox: &str, container: &str, request: StreamRequest)
    -> Result<Session, EngineError>;
    /// Streams of a container's first process.
    async fn attach(&self, sandbox: &str, container: &str, request: StreamRequest) -> Result<Session, EngineError>;
    /// Writes the state of a container's processes into a file (`CheckpointContainer`). A timeout of 0 seconds is the engine's own.
    async fn checkpoint(&self, _container: &str, _path: &Path, _timeout_seconds: i64) -> Result<(), EngineError> {
        // What the kubelet passes on of a runtime that has no such call.
        let text = "rpc error: code = Unimplemented desc = method CheckpointContainer not implemented";
        Err(EngineError::Failed(text.into()))
    }
    /// The next thing that happened; waits for it. One caller.
    async fn next_event(&self) -> Option<EngineEvent>;
    /// Why the node can run no pods now, if so.
    async fn fault(&self) -> Option<String> {
        None
    }
    /// What of their specs pods do not get on this node, and what to do about it.
    fn lacks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Mounts of volumes on the node, at existing directories. Each can be repeated, and survives the agent.
#[async_trait]
pub trait Mounts: Send + Sync {
    /// A tmpfs.
    async fn tmpfs(&self, path: &Path, size_bytes: Option<u64>) -> Result<(), EngineError>;
    /// A directory of an NFS server.
    async fn nfs(&self, path: &Path, nfs: &Nfs) -> Result<(), EngineError>;
    /// The file system of a block device. It is made if the device is empty.
    async fn disk(&self, path: &Path, disk: &Local, read_only: bool) -> Result<(), EngineError>;
    /// Undoes one; fine if nothing is mounted.
    async fn unmount(&self, path: &Path) -> Result<(), EngineError>;
}

/// Who runs the pods, in the statuses of node and containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `dhow`, `containerd` …
    pub name: String,
    /// Its version.
    pub version: String,
    /// What RuntimeClasses may ask for.
    pub handlers: Handlers,
}

/// What RuntimeClasses may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Handlers {
    /// dhow's own.
    #[default]
    Own,
    /// As a foreign runtime told.
    Foreign(Vec<Handler>),
}

/// A way of running pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handler {
    /// Empty: the default.
    pub name: String,
    /// Knows `recursiveReadOnly`.
    pub recursive_read_only: bool,
    /// Knows `hostUsers: false`.
    pub user_namespaces: bool,
}

/// How a sandbox comes by its network.
#[derive(Debug)]
pub enum SandboxNetwork {
    /// [`crate::network::PodNetwork`] connects this namespace.
    Namespace(OwnedFd),
    /// The engine has connected it, with these addresses.
    Connected(Vec<IpAddr>),
}

/// Streams that somebody asks for.
#[derive(Debug, Clone, Copy)]
pub enum Streams<'a> {
    /// Of a command in a container.
    Exec(&'a str, &'a StreamRequest),
    /// Of a container's first process.
    Attach(&'a str, &'a StreamRequest),
    /// To ports of a sandbox.
    PortForward(&'a str),
}

/// A container that was started.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// The engine's id.
    pub id: String,
    /// When its first process began.
    pub at: Timestamp,
    /// Whom it runs as, if the engine tells: the agent knows it of its own engine's images.
    pub user: Option<ContainerUser>,
}

/// What an engine tells of what is used, by the ids of containers and sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToldUse {
    /// What containers wrote to their roots.
    pub roots: BTreeMap<String, DiskUse>,
    /// What went through the links of sandboxes, as they see it.
    pub links: BTreeMap<String, Traffic>,
}

/// What to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxSpec {
    /// Chosen by the agent.
    pub id: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// Counts from 0.
    pub attempt: u32,
    /// As the RuntimeClass says; empty: the default.
    pub runtime_handler: String,
    /// `None`: the node's.
    pub hostname: Option<String>,
    /// Logs of its containers are below.
    pub log_dir: PathBuf,
    /// `hostPort`s, if the engine connects it.
    pub host_ports: Vec<HostPort>,
    /// Has privileged containers.
    pub privileged: bool,
    /// Kernel parameters of the pod's namespaces, with dots.
    pub sysctls: BTreeMap<String, String>,
    /// Path below the cgroup root, e.g. `kubepods/burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits of the whole pod.
    pub resources: Resources,
    /// Uses the node's network namespace.
    pub host_network: bool,
    /// Uses the node's process namespace.
    pub host_pid: bool,
    /// Uses the node's IPC namespace.
    pub host_ipc: bool,
    /// All containers see one process namespace.
    pub share_pid: bool,
    /// Has a user namespace of its own, with these ids of the machine.
    pub users: Option<IdRange>,
    /// What the pod says of its SELinux label. Without effect where the node has no SELinux.
    pub selinux: SeLinux,
}

/// Ids of the machine that a pod sees as those from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The machine's id that the pod's root is.
    pub first: u32,
    /// How many.
    pub length: u32,
}

/// A sandbox that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxSnapshot {
    /// The engine's id.
    pub id: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// Counts from 0.
    pub attempt: u32,
    /// Its supervisor lives; otherwise nothing of it can run.
    pub alive: bool,
    /// Its containers.
    pub containers: Vec<ContainerSnapshot>,
}

/// A container that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSnapshot {
    /// 64 hex digits.
    pub id: String,
    /// As given at start.
    pub labels: BTreeMap<String, String>,
    /// When its first process began.
    pub started_at: Option<Timestamp>,
    /// How it ended, if it did.
    pub exit: Option<EngineExit>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineExit {
    /// Exit code; 128 + signal if killed.
    pub code: i32,
    /// Killed for want of memory.
    pub oom: bool,
    /// Nobody saw the code.
    pub lost: bool,
    /// When.
    pub finished_at: Timestamp,
}

/// What to start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSpec {
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// Chosen by the agent: 64 hex digits.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// `restartCount`
    pub restarts: u32,
    /// Kept and given back in snapshots.
    pub labels: BTreeMap<String, String>,
    /// What it is made from; its configuration says what the fields below leave open.
    pub image: Image,
    /// Instead of the image's entrypoint.
    pub command: Vec<String>,
    /// Instead of the image's arguments.
    pub args: Vec<String>,
    /// The container's own environment, in order, names unique.
    pub env: Vec<(String, String)>,
    /// What `uname -n` says in it.
    pub hostname: String,
    /// Working directory; empty: the image's.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// The signal that asks it to stop.
    pub stop_signal: String,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Root file system cannot be written.
    pub read_only_rootfs: bool,
    /// In order.
    pub mounts: Vec<Mount>,
    /// Devices by what stands for them in CDI specs, for an engine that reads these itself.
    pub cdi_devices: BTreeSet<String>,
    /// Permitted and bounding set, with `CAP_`.
    pub capabilities: Vec<String>,
    /// All devices, no masked paths, writable cgroups and /sys.
    pub privileged: bool,
    /// `no_new_privs`
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// AppArmor profile, if anything was said about it.
    pub app_armor: Option<AppArmor>,
    /// What was said of its SELinux label. Without effect where the node has no SELinux, and for the processes of privileged containers.
    pub selinux: SeLinux,
    /// Do not mask anything in /proc.
    pub unmasked_proc: bool,
    /// The pod's cgroup; the container's is below.
    pub cgroup: String,
    /// Its limits.
    pub resources: Resources,
    /// `/proc/…/oom_score_adj`
    pub oom_score_adj: i32,
    /// Has a terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub stdin: bool,
    /// Standard input closes after the first attach.
    pub stdin_once: bool,
    /// Programs of the node that take part in the making of the container.
    pub hooks: runtime::Hooks,
    /// Log file in CRI format.
    pub log_path: PathBuf,
    /// Whose processes it sees.
    pub processes: Processes,
    /// Devices of the node that it may use.
    pub devices: Vec<Device>,
}

/// A device file in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its file on the node, if there is one.
    pub source: PathBuf,
    /// Where in the container.
    pub target: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Its numbers.
    pub major: u32,
    /// Its numbers.
    pub minor: u32,
    /// Mode bits of the file.
    pub mode: u32,
    /// User and group of the file.
    pub owner: (u32, u32),
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Processes {
    /// Its own.
    #[default]
    Own,
    /// Those of the pod's containers.
    Pod,
    /// The node's.
    Host,
    /// Those of this container of the same sandbox.
    Of(String),
}

/// Who a process runs as. Names are looked up in the container's own files by the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `USER` of the image: name or number, perhaps with a group. Numbers below win.
    pub name: String,
    /// User id.
    pub uid: Option<u32>,
    /// Primary group id.
    pub gid: Option<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Also those that the image's `/etc/group` lists the user in.
    pub merge_image_groups: bool,
}

/// An overlay: directories as data, mounted by the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rootfs {
    /// Read-only layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Takes the changes.
    pub upper: PathBuf,
    /// Overlayfs' own, beside `upper`.
    pub work: PathBuf,
}

/// A bind mount, or the files of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// File or directory on the node.
    pub source: PathBuf,
    /// Instead of `source`: an image; nothing of it can be executed.
    pub image: Option<ImageFiles>,
    /// A path below `source`, which no link may lead out of.
    pub sub_path: Option<PathBuf>,
    /// Where in the container.
    pub target: PathBuf,
    /// Cannot be written.
    pub read_only: bool,
    /// Nor can mounts below it.
    pub recursive_read_only: bool,
    /// How mounts travel.
    pub propagation: Propagation,
    /// Its files are the pod's, and get its SELinux label where the node has SELinux.
    pub relabel: bool,
}

/// An image whose files are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFiles {
    /// Its id.
    pub id: String,
    /// Its read-only layers, topmost first, for an engine that mounts them itself.
    pub layers: Vec<PathBuf>,
}

/// `mountPropagation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From node to container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// System call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The engine's default profile.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile file below the node's profile directory; the agent reads it before the engine sees this.
    Localhost(String),
    /// A profile.
    Profile {
        /// Its file.
        path: PathBuf,
        /// Its content.
        json: String,
    },
}

/// cgroup numbers in v1 terms; the engine converts for v2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// `cpu.shares`
    pub cpu_shares: Option<u64>,
    /// `cpu.cfs_quota_us`
    pub cpu_quota_us: Option<i64>,
    /// `cpu.cfs_period_us`
    pub cpu_period_us: Option<u64>,
    /// `memory.limit_in_bytes`
    pub memory_bytes: Option<i64>,
    /// `memory.swap.max`; where there is no such file, containers with a memory limit have no swap beyond it.
    pub swap_bytes: Option<i64>,
    /// `pids.max`
    pub pids: Option<i64>,
    /// `cpuset.cpus`
    pub cpuset: Option<String>,
    /// `cpuset.mems`
    pub memory_nodes: Option<String>,
}

/// What a command left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Standard output and standard error, bounded.
    pub output: Vec<u8>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// A container's first process ended.
    Exited {
        /// The pod's uid.
        pod: String,
        /// The container's id.
        container: String,
        /// How.
        exit: EngineExit,
    },
    /// Nothing can run in a sandbox any more.
    SandboxLost {
        /// The pod's uid.
        pod: String,
        /// Its id.
        sandbox: String,
    },
}
