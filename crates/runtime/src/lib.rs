//! Containers: from a spec to a running process and back to an exit code, in processes that outlive the agent.
//!
//! ```text
//!  agent (tokio) ── Engine ──┐ SOCK_SEQPACKET + descriptors
//!    zygote (one thread) ──fork──▶ supervisor, one per pod ──clone──▶ launcher ══exec══▶ the program
//! ```
//!
//! [`Engine`] is what the agent calls; [`zygote::main`] is what the binary's `main` calls first of all when it is started as the
//! zygote. Invariants: OCI's words only, no Kubernetes; the end of agent and zygote stops nothing; an exit is on disk before it is
//! announced; a root file system is mounted in its container's mount namespace and nowhere else.

pub mod apparmor;
/// A line on standard error, for processes whose log that is. Unlike `eprintln` it goes on if that is a file on a full disk.
macro_rules! say {
    ($($text:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($text)*))))
    };
}

pub mod caps;
pub mod cdi;
pub mod defaults;
pub mod devices;
mod engine;
mod features;
mod files;
mod hierarchies;
mod hooks;
mod keep;
mod launcher;
mod log;
pub mod metrics;
mod protocol;
pub mod seccomp;
pub mod selinux;
pub mod signal;
pub mod spec;
mod spool;
mod stream;
mod supervisor;
mod syscalls;
pub mod user;
mod users;
pub mod zygote;

pub use engine::{
    Capture, Config, Engine, EngineError, EngineEvent, Events, ExecSession, Orphan, Pod, Recovered, StdioStreams,
    Terminal,
};
pub use features::Lack;
pub use files::remove_tree;
pub use hierarchies::Hierarchies;
pub use protocol::{ContainerSnapshot, ContainerState, Event, ExecSpec, Exit, PodSnapshot, Reason, Started};
pub use spec::{
    Capabilities, Cgroup, ContainerSpec, Device, Hook, Hooks, IdRange, Log, Mount, MountKind, NamespaceMode, PidMode,
    PodSandboxSpec, Process, Propagation, ReadOnly, Resources, Rlimit, Rootfs, Seccomp, SelinuxLabels, User,
};
pub use stream::Stream;
pub use sys::cgroup::{DiskIo, Missing, Pressure, Stall, Stats};
pub use sys::quota;
pub use users::can_map_users;
