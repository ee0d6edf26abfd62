//! What a pod sandbox and a container are, in OCI's words, as plain data that crosses the socket to the supervisor.
//!
//! Invariant: everything the launcher does is named here; nothing is read from the environment of the agent. Differs from the
//! OCI runtime `config.json` in that the root file system is described instead of mounted, and stdio and logs belong to it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a namespace of a pod comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// The pod has its own.
    #[default]
    Pod,
    /// The machine's.
    Host,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// Only its own.
    #[default]
    Container,
    /// Those of all containers of the pod that share (`shareProcessNamespace`).
    Pod,
    /// The machine's.
    Host,
    /// Those of the running container with this id (ephemeral containers with a target).
    Target(String),
}

/// Ids of the machine that a user namespace shows as those from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The machine's id that is 0 inside; never 0.
    pub first: u32,
    /// How many.
    pub length: u32,
}

/// A pod: the namespaces and the cgroup that its containers share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxSpec {
    /// Letters, digits, `-`, `_` and `.`; names the directory of the pod.
    pub id: String,
    /// Host name in its UTS namespace.
    pub hostname: Option<String>,
    /// NIS domain name in its UTS namespace.
    pub domainname: Option<String>,
    /// Network namespace.
    pub network: NamespaceMode,
    /// IPC namespace, and with it `/dev/shm`.
    pub ipc: NamespaceMode,
    /// UTS namespace.
    pub uts: NamespaceMode,
    /// With a user namespace of its own, to which its other namespaces, none of them the machine's, belong.
    pub users: Option<IdRange>,
    /// Set in the namespaces of the pod: `net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`.
    pub sysctls: BTreeMap<String, String>,
    /// Size of the shared `/dev/shm`; 64 MiB if unset.
    pub shm_size: Option<u64>,
    /// Parent of the cgroups of its containers; made and removed with the pod.
    pub cgroup: Option<Cgroup>,
    /// Where the machine has SELinux: what the pod's containers get unless they say otherwise; its `/dev/shm` gets that of files.
    pub selinux: Option<SelinuxLabels>,
    /// Kept and given back in snapshots, not looked at.
    pub labels: BTreeMap<String, String>,
}

/// SELinux labels, whole: `user:role:type:level`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxLabels {
    /// Of processes.
    pub process: String,
    /// Of files.
    pub mount: String,
}

/// A cgroup and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Below the root of the hierarchies, such as `/dhow/pod1/main`.
    pub path: String,
    /// Its limits.
    pub resources: Resources,
}

/// Limits. What is unset is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes; -1 is no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// In the units of cgroup v1: 1024 for a CPU.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; -1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Number of tasks; -1 is no limit.
    pub pids: Option<i64>,
    /// Such as `0-3`.
    pub cpuset_cpus: Option<String>,
    /// Such as `0`.
    pub cpuset_mems: Option<String>,
    /// Page size as the kernel writes it (`2MB`) to bytes.
    pub hugetlb: BTreeMap<String, u64>,
    /// Further files of cgroup v2 (`memory.high`).
    pub unified: BTreeMap<String, String>,
}

/// The root file system of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// Layers; mounted in the container's own mount namespace only.
    Overlay {
        /// Topmost first.
        lower: Vec<PathBuf>,
        /// Takes what is written. Made if missing.
        upper: PathBuf,
        /// On the file system of `upper`. Made if missing.
        work: PathBuf,
        /// Never sync: right for roots that need not survive a power cut.
        volatile: bool,
    },
    /// A directory, bound as it is.
    Path(PathBuf),
}

impl Default for Rootfs {
    fn default() -> Self {
        Rootfs::Path(PathBuf::new())
    }
}

/// How far a bind mount cannot be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnly {
    /// It can.
    #[default]
    No,
    /// The mount itself cannot; mounts below it can.
    Yes,
    /// Nor can anything below.
    Recursive,
}

/// Whether later mounts cross a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// No (`None` in Kubernetes).
    #[default]
    Private,
    /// From the host into the container (`HostToContainer`).
    Slave,
    /// Both ways (`Bidirectional`). The source must be on a shared mount of the host.
    Shared,
}

/// A mount in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path in the container. Made if missing.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether it can be written to.
    pub readonly: ReadOnly,
    /// Whether later mounts cross.
    pub propagation: Propagation,
    /// Its files belong to the users of the machine even if the pod has users of its own, who then own nothing there.
    pub unmapped: bool,
    /// Its files get the container's [`mount_label`](ContainerSpec::mount_label), on the machine: nobody but the pod may need them.
    pub relabel: bool,
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// Device files cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Relative path below `source` (`subPath`); must not leave it, not even by a symlink.
        sub_path: Option<PathBuf>,
        /// With the mounts below.
        recursive: bool,
    },
    /// Memory.
    Tmpfs {
        /// Options such as `size=65536k,mode=1777`.
        options: String,
    },
    /// Read-only layers (image volumes), topmost first.
    Overlay {
        /// Topmost first.
        lower: Vec<PathBuf>,
        /// Relative path below their root; must not leave it.
        sub_path: Option<PathBuf>,
    },
    /// `/proc`.
    Proc,
    /// `/sys`.
    Sysfs,
    /// `/dev` with the usual devices, links, `pts` and those of the spec.
    Dev,
    /// `/dev/shm` of the pod (of the host if the IPC namespace is the host's).
    Shm,
    /// POSIX message queues of the IPC namespace.
    Mqueue,
    /// `/sys/fs/cgroup`.
    Cgroup,
}

impl Default for MountKind {
    fn default() -> Self {
        MountKind::Tmpfs { options: String::new() }
    }
}

impl Mount {
    /// A recursive bind mount, writable and private.
    pub fn bind(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Mount {
        let kind = MountKind::Bind { source: source.into(), sub_path: None, recursive: true };
        Mount { destination: destination.into(), kind, ..Mount::default() }
    }

    /// A tmpfs with options such as `size=64m`.
    pub fn tmpfs(destination: impl Into<PathBuf>, options: &str) -> Mount {
        let kind = MountKind::Tmpfs { options: options.to_owned() };
        Mount { destination: destination.into(), kind, nosuid: true, nodev: true, ..Mount::default() }
    }

    /// The same, read-only.
    pub fn read_only(mut self) -> Mount {
        self.readonly = ReadOnly::Yes;
        self
    }

    /// What every container has, as containerd and Docker do it: `/proc`, `/dev`, `/dev/shm`, `/dev/mqueue`, and read-only
    /// `/sys` and `/sys/fs/cgroup`. Privileged ones get the last two writable.
    pub fn defaults(privileged: bool) -> Vec<Mount> {
        let readonly = if privileged { ReadOnly::No } else { ReadOnly::Yes };
        let mount = |destination: &str, kind, readonly| Mount {
            destination: destination.into(),
            kind,
            readonly,
            propagation: Propagation::Private,
            unmapped: false,
            relabel: false,
            nosuid: true,
            nodev: true,
            noexec: true,
        };
        vec![
            mount("/proc", MountKind::Proc, ReadOnly::No),
            Mount { nodev: false, ..mount("/dev", MountKind::Dev, ReadOnly::No) },
            mount("/dev/shm", MountKind::Shm, ReadOnly::No),
            mount("/dev/mqueue", MountKind::Mqueue, ReadOnly::No),
            mount("/sys", MountKind::Sysfs, readonly),
            mount("/sys/fs/cgroup", MountKind::Cgroup, readonly),
        ]
    }
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// `USER` of the image or of the caller: `name`, `uid`, `name:group`, `uid:gid`; resolved in the container's `/etc/passwd` and
    /// `/etc/group`. Numbers below win.
    pub name: Option<String>,
    /// Wins over `name`.
    pub uid: Option<u32>,
    /// Wins over `name`.
    pub gid: Option<u32>,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Adds the groups that the container's `/etc/group` lists the user in (`supplementalGroupsPolicy: Merge`).
    pub merge_image_groups: bool,
}

/// Capability sets, by name (`CAP_CHOWN` or `CHOWN`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The most that can ever be had, also through set-user-id programs.
    pub bounding: Vec<String>,
    /// In force, if the user is root or they are ambient.
    pub effective: Vec<String>,
    /// May be brought in force.
    pub permitted: Vec<String>,
    /// Survive exec of a file with inheritable capabilities.
    pub inheritable: Vec<String>,
    /// Given to any program, also without root.
    pub ambient: Vec<String>,
}

impl Capabilities {
    /// The same list as bounding, effective and permitted, as container engines do.
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        Capabilities { bounding: names.clone(), effective: names.clone(), permitted: names, ..Capabilities::default() }
    }
}

/// Which system calls are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// The default list of Docker, containerd and CRI-O, for the capabilities of the process.
    RuntimeDefault,
    /// A profile in OCI's or Docker's JSON format.
    Custom(String),
}

/// A resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, ….
    pub kind: String,
    /// In force.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// What is executed and with which rights.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// The program, looked up in `PATH` of `env` if it has no slash, and its arguments.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute; `/` if empty. Made if missing.
    pub cwd: PathBuf,
    /// Who it runs as.
    pub user: User,
    /// 0022 if unset.
    pub umask: Option<u32>,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Exec never gives privileges.
    pub no_new_privileges: bool,
    /// Which system calls are allowed.
    pub seccomp: Seccomp,
    /// The AppArmor profile that confines it, which must be loaded.
    pub apparmor: Option<String>,
    /// The SELinux label that confines it.
    pub selinux: Option<String>,
    /// -1000 to 1000. Lowering it without CAP_SYS_RESOURCE is tolerated and has no effect.
    pub oom_score_adj: Option<i32>,
    /// Hard limits above what this machine lets us give are clamped.
    pub rlimits: Vec<Rlimit>,
    /// On a terminal.
    pub tty: bool,
}

/// A device file in the container, and the permission to use it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// Where the output of a container goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// CRI log file; its directory is made if missing.
    pub path: PathBuf,
    /// Bytes after which it is rotated to `<path>.<time>`; 0 never.
    pub max_size: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
}

/// A program of the machine that is run while a container is made; the container's state is its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Where it is: for those that run after the root has changed, in the container.
    pub path: PathBuf,
    /// With the name of the program.
    pub args: Vec<String>,
    /// `NAME=value`, and nothing else.
    pub env: Vec<String>,
    /// After which it is killed, and the container is not made.
    pub timeout_seconds: Option<u32>,
}

/// Programs that take part in the making of a container: those that OCI runs in its namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// When everything is mounted, and the root has not changed yet.
    pub create_container: Vec<Hook>,
    /// Just before the program, with its rights.
    pub start_container: Vec<Hook>,
}

impl Hooks {
    /// Nobody takes part.
    pub fn is_empty(&self) -> bool {
        self.create_container.is_empty() && self.start_container.is_empty()
    }

    /// These and then those.
    pub fn extend(&mut self, more: Hooks) {
        self.create_container.extend(more.create_container);
        self.start_container.extend(more.start_container);
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Letters, digits, `-`, `_` and `.`; unique in the pod.
    pub id: String,
    /// Its root.
    pub rootfs: Rootfs,
    /// The root cannot be written to.
    pub readonly_rootfs: bool,
    /// Mounted in this order; see [`Mount::defaults`].
    pub mounts: Vec<Mount>,
    /// The SELinux label of its files: those of its root, of file systems in memory, and of mounts that are relabelled.
    pub mount_label: Option<String>,
    /// Its first process.
    pub process: Process,
    /// Whose processes it sees.
    pub pid: PidMode,
    /// Required: where its processes are counted and limited.
    pub cgroup: Cgroup,
    /// Hidden; see [`masked_paths`].
    pub masked_paths: Vec<PathBuf>,
    /// Not writable; see [`readonly_paths`].
    pub readonly_paths: Vec<PathBuf>,
    /// Beyond the usual ones.
    pub devices: Vec<Device>,
    /// May use every device of the machine (privileged).
    pub all_devices: bool,
    /// Written before the program starts. For namespaces of the pod use those of the pod.
    pub sysctls: BTreeMap<String, String>,
    /// Programs of the machine that take part.
    pub hooks: Hooks,
    /// Where output goes; nowhere if unset.
    pub log: Option<Log>,
    /// Has a standard input that can be attached to; else it is /dev/null.
    pub stdin: bool,
    /// Standard input ends with the first attached client's.
    pub stdin_once: bool,
    /// Kept and given back in snapshots, not looked at.
    pub labels: BTreeMap<String, String>,
}

/// What Docker and containerd hide in `/proc` and `/sys` (moby `daemon/pkg/oci/defaults.go`).
pub fn masked_paths() -> Vec<PathBuf> {
    let proc = [
        "acpi",
        "asound",
        "interrupts",
        "kcore",
        "keys",
        "latency_stats",
        "sched_debug",
        "scsi",
        "timer_list",
        "timer_stats",
    ];
    let mut out: Vec<PathBuf> = proc.iter().map(|p| format!("/proc/{p}").into()).collect();
    out.extend(["/sys/devices/virtual/powercap".into(), "/sys/firmware".into()]);
    out
}

/// What Docker and containerd make read-only in `/proc`.
pub fn readonly_paths() -> Vec<PathBuf> {
    ["bus", "fs", "irq", "sys", "sysrq-trigger"].iter().map(|p| format!("/proc/{p}").into()).collect()
}

/// The 14 capabilities that Docker and containerd give by default.
pub fn default_capabilities() -> Vec<String> {
    let names = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ];
    names.iter().map(|n| format!("CAP_{n}")).collect()
}

/// Whether `id` can name a directory and a cgroup.
pub fn is_valid_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
