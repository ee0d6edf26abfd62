//! Messages between the agent and a supervisor: one header and one JSON body per packet, descriptors beside it.
//!
//! Invariants: a body over [`INLINE`] bytes travels in a memfd, the last descriptor of the packet; within a major version
//! everything is additive; what a supervisor does not know it answers as unsupported. Follows ENGINE §6.3.

use crate::spec::{ContainerSpec, Log, PidMode, PodSandboxSpec, Process};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Raised when an older supervisor could misunderstand.
pub(crate) const MAJOR: u16 = 1;
const MAGIC: [u8; 4] = *b"dhow";
const HEADER: usize = 16;
const INLINE: usize = 32 * 1024;
/// A body larger than this is refused.
const MAX_BODY: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request = 1,
    Reply = 2,
    Event = 3,
}

/// What the agent asks. Descriptors that go with a request are named here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// To the zygote, with one end of a socket pair: fork a supervisor for this pod, which answers on that pair.
    CreatePod {
        spec: Box<PodSandboxSpec>,
        run_dir: std::path::PathBuf,
        state_dir: std::path::PathBuf,
        /// The pod exists and its supervisor is dead: the new one takes over what the next requests bring.
        #[serde(default)]
        adopt: bool,
    },
    /// To the zygote, with one end of a socket pair: answer there with the network namespace of every supervisor in advance.
    TellNetworks,
    /// Are you there? Any answer will do, so that of a supervisor that does not know this word.
    Ping,
    /// State of everything; the reply carries no descriptors.
    Snapshot,
    /// Create and start.
    StartContainer { spec: Box<ContainerSpec> },
    /// Likewise, with hooks: a word of its own, because a supervisor from before there were any would leave them out.
    StartContainerWithHooks { spec: Box<ContainerSpec> },
    /// Likewise, with SELinux labels, and perhaps with hooks: a supervisor from before would start it without.
    StartContainerWithLabels { spec: Box<ContainerSpec> },
    /// Run one more process. Without tty: three descriptors for stdin, stdout, stderr. With tty: none; the reply brings the master.
    Exec { container: String, exec: Box<ExecSpec> },
    /// Signal the first process, or all.
    Kill { container: String, signal: i32, all: bool },
    /// Signal a process started by exec.
    KillExec { exec: u64, signal: i32 },
    /// Descriptors: as many of stdin, stdout, stderr as are true here.
    Attach { container: String, stdin: bool, stdout: bool, stderr: bool },
    /// Change the window of a container's terminal.
    Resize { container: String, columns: u16, rows: u16 },
    /// Open the log file anew, after somebody renamed it.
    ReopenLog { container: String },
    /// Rename the log file away and start a new one.
    RotateLog { container: String },
    /// Forget an exited container and its record.
    RemoveContainer { container: String },
    /// The reply brings the network namespace.
    NetworkNamespace,
    /// Kill what runs, remove what is left of the pod, end.
    RemovePod,
    /// Descriptors by which another supervisor could go on: of the pod, or of a container, and then not before it has started.
    Keep { container: Option<String> },
    /// To a supervisor that adopts, first: the pod, with its [`Part`]s.
    AdoptPod { created_at_ns: i64, parts: Vec<Part> },
    /// A container, with its parts unless it has ended.
    AdoptContainer { record: Box<ContainerRecord>, state: ContainerState, parts: Vec<Part> },
    /// A process started by exec, with its pidfd.
    AdoptExec { exec: u64, pid: i32 },
    /// That was all.
    Adopted,
}

/// What a descriptor is that one process keeps for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// Of a pod: its namespaces and `/dev/shm`.
    Network,
    Ipc,
    Uts,
    Shm,
    /// The init of the PID namespace that containers share.
    Pause,
    /// The first process of a container.
    Process,
    /// Write end, or the terminal's master.
    Stdin,
    /// Read ends, or the terminal's master and nothing.
    Stdout,
    Stderr,
    /// What was read of them and is not in the log ([`crate::spool`]).
    StdoutSpool,
    StderrSpool,
    /// Something newer.
    #[serde(other)]
    Other,
}

/// What a supervisor must know of a container beyond its descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) process: Process,
    /// Ends with its first process, because that is the init of its PID namespace.
    pub(crate) own_pid_namespace: bool,
    pub(crate) cgroup: String,
    pub(crate) log: Option<Log>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
}

impl ContainerRecord {
    pub(crate) fn of(spec: &ContainerSpec) -> Self {
        ContainerRecord {
            id: spec.id.clone(),
            labels: spec.labels.clone(),
            process: spec.process.clone(),
            own_pid_namespace: spec.pid == PidMode::Container,
            cgroup: spec.cgroup.path.clone(),
            log: spec.log.clone(),
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
        }
    }
}

/// A process to run in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// On a new terminal.
    pub tty: bool,
    /// Everything else; that of the container's first process if unset. Its `args` and `tty` are ignored.
    pub process: Option<Process>,
}

/// What the supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Snapshot(Box<PodSnapshot>),
    Started {
        #[serde(flatten)]
        started: Started,
        /// What the descriptors are.
        #[serde(default)]
        parts: Vec<Part>,
    },
    /// With `pidfd` it is the first descriptor; a terminal's master is the last.
    ExecStarted {
        exec: u64,
        pid: i32,
        #[serde(default)]
        pidfd: bool,
    },
    KeptPod {
        created_at_ns: i64,
        parts: Vec<Part>,
    },
    KeptContainer {
        record: Box<ContainerRecord>,
        state: ContainerState,
        parts: Vec<Part>,
    },
    Failed {
        reason: Reason,
        message: String,
    },
}

/// Why a request was refused, for programs; people get the sentence beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No such container, or it does not run.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request cannot be right.
    Invalid,
    /// This supervisor does not know how.
    Unsupported,
    /// The container or process could not be started.
    Start,
    /// The kernel or the disk said no.
    Internal,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Id of its first process on the machine.
    pub pid: i32,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    /// Limits that this machine could not set.
    pub missing_controllers: Vec<String>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// A process of it was killed for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    /// Nanoseconds since 1970.
    pub finished_at_ns: i64,
    /// Nobody saw the exit code, and `code` is 255: the supervisor had been replaced, and Linux before 6.15 tells it to the parent only.
    #[serde(default)]
    pub lost: bool,
}

/// Where in its life a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// The launcher works on it.
    Starting,
    /// It runs.
    Running(Started),
    /// It has ended.
    Exited(Exit),
}

/// A container as its supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSnapshot {
    /// Its id.
    pub id: String,
    /// Where in its life it is.
    #[serde(flatten)]
    pub state: ContainerState,
    /// Path of its cgroup.
    pub cgroup: String,
    /// Its log file.
    pub log_path: Option<std::path::PathBuf>,
    /// As given at start.
    pub labels: BTreeMap<String, String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it can be attached to with standard input.
    pub stdin: bool,
    /// The SELinux label of its processes.
    #[serde(default)]
    pub selinux: Option<String>,
}

/// A pod as its supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSnapshot {
    /// As given at creation.
    pub spec: PodSandboxSpec,
    /// The supervisor's process id.
    pub supervisor_pid: i32,
    /// Nanoseconds since 1970.
    pub created_at_ns: i64,
    /// By id.
    pub containers: Vec<ContainerSnapshot>,
}

/// What happened. Every connected agent is told; who was not connected reads the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container ended. Its exit record is on disk already.
    Exited {
        /// Its id.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A process started by exec ended.
    ExecExited {
        /// Number from its start.
        exec: u64,
        /// Exit code; 128 + signal if a signal ended it.
        code: i32,
    },
    /// A log file cannot be written; lines are lost until it can again.
    LogFault {
        /// Whose.
        container: String,
        /// Why.
        message: String,
    },
}

/// A received packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) kind: u16,
    pub(crate) id: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Packet {
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// An encoded packet, ready to be sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    large: Option<OwnedFd>,
}

/// Encodes a message.
pub(crate) fn encode<T: Serialize>(kind: Kind, id: u32, body: &T) -> io::Result<Encoded> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend(MAGIC);
    bytes.extend(MAJOR.to_le_bytes());
    bytes.extend((kind as u16).to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend([0; 4]);
    serde_json::to_writer(&mut bytes, body)?;
    let large = if bytes.len() > INLINE {
        let fd = sys::fd::sealed_memfd("dhow-message", &mut &bytes[HEADER..])?;
        bytes.truncate(HEADER);
        bytes[12] = 1;
        Some(fd)
    } else {
        None
    };
    Ok(Encoded { bytes, large })
}

impl Encoded {
    /// Sends; `WouldBlock` only if `nonblocking`.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>], nonblocking: bool) -> io::Result<()> {
        let mut all = fds.to_vec();
        all.extend(self.large.as_ref().map(|fd| fd.as_fd()));
        sys::socket::send(socket, &[&self.bytes], &all, nonblocking)
    }
}

/// Receives one packet; `None` at the end of the connection.
pub(crate) fn receive(socket: BorrowedFd<'_>, nonblocking: bool) -> io::Result<Option<Packet>> {
    let mut buf = [0u8; INLINE];
    let (n, mut fds) = sys::socket::recv(socket, &mut buf, nonblocking)?;
    if n == 0 {
        return Ok(None);
    }
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let header = buf[..n].first_chunk::<HEADER>().ok_or_else(|| bad("packet without header"))?;
    let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if header[..4] != MAGIC || short(4) != MAJOR {
        return Err(bad("packet of another protocol"));
    }
    let id = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let body = if header[12] == 1 {
        let fd = fds.pop().ok_or_else(|| bad("large packet without its memfd"))?;
        let mut body = Vec::new();
        std::fs::File::from(fd).take(MAX_BODY + 1).read_to_end(&mut body)?;
        if body.len() as u64 > MAX_BODY {
            return Err(bad("packet too large"));
        }
        body
    } else {
        buf[HEADER..n].to_vec()
    };
    Ok(Some(Packet { kind: short(6), id, body, fds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_arrive_with_their_descriptors() {
        let (a, b) = sys::socket::pair().unwrap();
        for size in [10, 5_000_000] {
            let text = "x".repeat(size);
            let (pipe, _w) = sys::fd::pipe().unwrap();
            encode(Kind::Request, 7, &text).unwrap().send(a.as_fd(), &[pipe.as_fd()], false).unwrap();
            let packet = receive(b.as_fd(), false).unwrap().unwrap();
            assert_eq!((packet.kind, packet.id, packet.fds.len()), (1, 7, 1));
            assert_eq!(packet.parse::<String>().unwrap().len(), size);
        }
        drop(a);
        assert!(receive(b.as_fd(), false).unwrap().is_none());
    }

    #[test]
    fn another_protocol_is_refused() {
        let (a, b) = sys::socket::pair().unwrap();
        for junk in [&b"short"[..], &[0; 64], b"dhow\x02\0\x01\0aaaabbbbcccc{}"] {
            sys::socket::send(a.as_fd(), &[junk], &[], false).unwrap();
            assert_eq!(receive(b.as_fd(), false).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest::proptest! {
        /// Whatever comes over the socket: a packet or an error, and what it says is understood or not.
        #[test]
        fn any_bytes_are_a_packet_or_an_error(
            junk in proptest::collection::vec(proptest::num::u8::ANY, 1..200),
            flag in proptest::bool::ANY,
            body in "\\PC{0,80}|[{}\":,a-z0-9\\[\\]]{0,80}",
        ) {
            let (a, b) = sys::socket::pair().unwrap();
            sys::socket::send(a.as_fd(), &[&junk], &[], false).unwrap();
            let honest = junk.starts_with(&MAGIC);
            assert!(receive(b.as_fd(), true).is_err() || honest);
            let header = [&MAGIC[..], &MAJOR.to_le_bytes(), &junk[..junk.len().min(2)], &[0; 6], &[u8::from(flag), 0, 0, 0]].concat();
            let (pipe, mut end) = sys::fd::pipe().map(|(r, w)| (r, std::fs::File::from(w))).unwrap();
            std::io::Write::write_all(&mut end, body.as_bytes()).unwrap();
            drop(end);
            sys::socket::send(a.as_fd(), &[&header, body.as_bytes()], &[pipe.as_fd()], false).unwrap();
            if let Ok(Some(packet)) = receive(b.as_fd(), true) {
                packet.parse::<Request>().ok();
                packet.parse::<Reply>().ok();
                packet.parse::<Event>().ok();
            }
        }
    }

    #[test]
    fn an_unknown_request_is_told_apart() {
        assert!(
            serde_json::from_str::<Request>(r#"{"op":"teleport"}"#)
                .unwrap_err()
                .to_string()
                .contains("unknown variant")
        );
    }
}
