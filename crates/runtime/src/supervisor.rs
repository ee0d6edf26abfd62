//! The supervisor: one small single-threaded process per pod, parent of the pod's processes.
//!
//! It lives in the pod's network, IPC and UTS namespaces and so holds them; it has the containers' standard streams, writes their
//! logs, reaps, records exits and serves agents on a socket. Agents come and go; nothing here depends on one. It may be killed itself:
//! an agent that has kept its descriptors starts another one in its place ([`adopt`]).
//! Invariants: an exit record is on disk before anybody is told; no request blocks the loop - launchers are children; a container
//! is in exactly one [`Phase`]; nothing polls - the loop sleeps until a descriptor is ready, except while a cgroup refuses removal.

mod adopt;

use crate::keep::Parts;
use crate::launcher::{self, Launch, LaunchExec, SYNC_FAILURE, SYNC_READY, SYNC_TERMINAL, Stdio};
use crate::log::{Lines, LogFile, Stream};
use crate::protocol::{
    self, ContainerRecord, ContainerSnapshot, ContainerState, Event, ExecSpec, Exit, Kind, Packet, Part, PodSnapshot,
    Reason, Reply, Request, Started,
};
use crate::spec::{ContainerSpec, MountKind, NamespaceMode, PidMode, PodSandboxSpec, is_valid_id};
use crate::spool::Spool;
use crate::users;
use base::{Clock, SystemClock};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::cgroup::{Cgroup, Cgroups};
use sys::fd::PollFd;
use sys::mount::{Attr, Detached};
use sys::process::{Cloned, Pid, SingleThreaded, Status};

/// A refusal: for programs and for people.
type Refusal = (Reason, String);

fn refuse<T>(reason: Reason, message: impl Into<String>) -> Result<T, Refusal> {
    Err((reason, message.into()))
}

/// A failed start, in words.
fn start_failure(what: &str) -> impl Fn(io::Error) -> Refusal + '_ {
    move |e| (Reason::Start, format!("{what}: {}", launcher::reason(&e)))
}

/// Output that an attached client has not taken yet; above this its container is not read.
const ATTACH_BUFFER: usize = 256 * 1024;
/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// How long to wait before a cgroup whose processes are still dying is removed again.
const CGROUP_RETRY_MS: i32 = 5;

struct Client {
    number: u32,
    socket: OwnedFd,
}

enum Phase {
    /// `keepers` are clients and their requests to keep it when it has started.
    Starting {
        client: u32,
        request: u32,
        sync: OwnedFd,
        /// Its launcher has said so.
        ready: bool,
        failure: Option<String>,
        keepers: Vec<(u32, u32)>,
    },
    Running(Started),
    Exited(Exit),
}

struct Attached {
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
    pending: [Vec<u8>; 2],
    /// Gets what is pending and nothing more.
    ending: bool,
}

/// A process, and whether wait(2) tells its end: that of one that was a dead supervisor's child its pidfd tells.
struct Task {
    pid: Pid,
    pidfd: OwnedFd,
    ours: bool,
}

struct Container {
    record: ContainerRecord,
    phase: Phase,
    /// Its first process, until that has ended.
    task: Option<Task>,
    cgroup: Cgroup,
    missing: Vec<String>,
    log: Option<LogFile>,
    log_fault: bool,
    /// Read ends of stdout and stderr, or the terminal's master and nothing.
    outputs: [Option<OwnedFd>; 2],
    lines: [Lines; 2],
    /// None if there is no log, or no memory for them: then what was read dies with this process.
    spools: [Option<Spool>; 2],
    /// Write end of stdin; for a terminal the master again.
    stdin: Option<OwnedFd>,
    stdin_pending: Vec<u8>,
    attached: Vec<Attached>,
}

struct Exec {
    task: Task,
    /// Until started: whom to answer, and what came over `sync`.
    starting: Option<(u32, u32, OwnedFd)>,
    master: Option<OwnedFd>,
    ready: bool,
    failure: Option<String>,
}

enum Shm {
    None,
    Detached(Detached),
    /// Kernels before 6.15 cannot clone a detached mount, so it is attached here.
    Attached(PathBuf),
}

enum Token {
    Signal,
    /// A process that is no child of ours.
    Stranger,
    Listener,
    Client(u32),
    Sync(u32),
    ExecSync(u64),
    Output(u32, usize),
    StdinSink(u32),
    AttachIn(u32, usize),
    AttachOut(u32, usize, usize),
}

struct Supervisor {
    single: SingleThreaded,
    clock: Box<dyn Clock>,
    spec: PodSandboxSpec,
    run_dir: PathBuf,
    state_dir: PathBuf,
    listener: OwnedFd,
    signals: OwnedFd,
    cgroups: Cgroups,
    pod_cgroup: Option<Cgroup>,
    shm: Shm,
    /// To be cloned; none where the kernel cannot or nobody has prepared it.
    sysfs: Option<Detached>,
    own_pid_namespace: OwnedFd,
    pause: Option<Task>,
    clients: Vec<Client>,
    next_client: u32,
    containers: BTreeMap<u32, Container>,
    next_container: u32,
    execs: BTreeMap<u64, Exec>,
    next_exec: u64,
    dying_cgroups: Vec<Cgroup>,
    removing: Option<(u32, u32)>,
    created_at_ns: i64,
}

/// Runs the supervisor; returns the exit code. `run_dir` gets the socket, `state_dir` the exit records; both are the pod's own.
pub(crate) fn main(
    single: SingleThreaded,
    spec: PodSandboxSpec,
    cgroups: Cgroups,
    run_dir: PathBuf,
    state_dir: PathBuf,
    begin: Beginning,
    client: OwnedFd,
) -> i32 {
    let id = spec.id.clone();
    let made = match begin {
        Beginning::Adopting => adopt::receive(client.as_fd())
            .and_then(|estate| Supervisor::adopt(single, spec, cgroups, run_dir, state_dir, estate)),
        Beginning::Bare => Supervisor::new(single, spec, cgroups, run_dir, state_dir, Origin::New(None)),
        Beginning::Prepared(prepared) => {
            Supervisor::new(single, spec, cgroups, run_dir, state_dir, Origin::New(Some(prepared)))
        }
    };
    match made.and_then(|s| s.keep().map(|kept| (s, kept))) {
        Ok((mut supervisor, (word, fds))) => {
            supervisor.add_client(client);
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            supervisor.reply(1, 0, &word, &fds);
            match supervisor.run() {
                Ok(()) => 0,
                Err(e) => {
                    say!("shim-{id}: {e}");
                    1
                }
            }
        }
        Err((reason, message)) => {
            let sent = protocol::encode(Kind::Reply, 0, &Reply::Failed { reason, message: message.clone() })
                .and_then(|m| m.send(client.as_fd(), &[], true));
            if sent.is_err() {
                say!("shim-{id}: {message}");
            }
            1
        }
    }
}

/// What a supervisor begins with.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// Nothing.
    Bare,
    /// What an ordinary pod has.
    Prepared(Prepared),
    /// What comes over the socket of another supervisor's pod.
    Adopting,
}

/// Where the pod comes from.
enum Origin {
    New(Option<Prepared>),
    /// A dead supervisor: when the pod was made, and its namespaces.
    Adopted(i64, Parts),
}

impl Supervisor {
    fn new(
        single: SingleThreaded,
        spec: PodSandboxSpec,
        cgroups: Cgroups,
        run_dir: PathBuf,
        state_dir: PathBuf,
        origin: Origin,
    ) -> Result<Self, Refusal> {
        let fail =
            |what: &'static str| move |e: io::Error| (Reason::Internal, format!("{what}: {}", launcher::reason(&e)));
        sys::process::setsid().map_err(fail("failed to start a session"))?;
        sys::process::set_name(&format!("shim-{}", spec.id)).map_err(fail("failed to set the name"))?;
        sys::process::set_subreaper().map_err(fail("failed to become a subreaper"))?;
        sys::process::set_signal_ignored(libc::SIGCHLD, false).map_err(fail("failed to reset SIGCHLD"))?;
        if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-998") {
            // Not permitted everywhere; then we are as likely a victim as anybody.
            drop(e);
        }
        let signals = sys::fd::signalfd(&[libc::SIGCHLD]).map_err(fail("failed to create a signalfd"))?;
        let pod_cgroup = spec.cgroup.as_ref().map(|c| cgroups.cgroup(&c.path));
        let clock = Box::new(SystemClock);
        let (shm, sysfs, created_at_ns) = match origin {
            Origin::New(prepared) => {
                enter_namespaces(single, &spec, prepared.is_some())?;
                if let (Some(cgroup), Some(c)) = (&pod_cgroup, &spec.cgroup) {
                    cgroup
                        .create()
                        .and_then(|()| cgroup.apply(&limits(&c.resources, None)))
                        .map_err(|e| (Reason::Start, base::chain(&e)))?;
                }
                let Prepared { shm, sysfs } = prepared.unwrap_or_default();
                let shm = match shm.filter(|_| spec.shm_size.is_none_or(|size| size == SHM_SIZE)) {
                    Some(tree) => Shm::Detached(tree),
                    None => make_shm(&spec, &run_dir)?,
                };
                label_shm(&spec, &shm)?;
                (shm, sysfs, now_ns(&*clock))
            }
            Origin::Adopted(created_at_ns, parts) => (adopt::pod(&spec, &run_dir, parts)?, None, created_at_ns),
        };
        let listener = sys::socket::listen(&run_dir.join("sock")).map_err(fail("failed to listen"))?;
        let own_pid_namespace =
            std::fs::File::open("/proc/self/ns/pid").map_err(fail("failed to open /proc/self/ns/pid"))?.into();
        std::fs::create_dir_all(run_dir.join("root")).map_err(fail("failed to create the directory for roots"))?;
        Ok(Supervisor {
            single,
            clock,
            spec,
            run_dir,
            state_dir,
            listener,
            signals,
            cgroups,
            pod_cgroup,
            shm,
            sysfs,
            own_pid_namespace,
            pause: None,
            clients: Vec::new(),
            next_client: 1,
            containers: BTreeMap::new(),
            next_container: 1,
            execs: BTreeMap::new(),
            next_exec: 1,
            dying_cgroups: Vec::new(),
            removing: None,
            created_at_ns,
        })
    }

    fn now(&self) -> i64 {
        now_ns(&*self.clock)
    }

    fn add_client(&mut self, socket: OwnedFd) {
        self.clients.push(Client { number: self.next_client, socket });
        self.next_client += 1;
    }

    // === the loop ===

    fn run(&mut self) -> io::Result<()> {
        loop {
            self.retry_cgroups();
            if self.try_finish_removal() {
                return Ok(());
            }
            let (mut fds, tokens) = self.interests();
            let timeout = if self.dying_cgroups.is_empty() { None } else { Some(CGROUP_RETRY_MS) };
            sys::fd::poll(&mut fds, timeout)?;
            let mut signaled = false;
            for (fd, token) in fds.iter().zip(tokens) {
                if !fd.any() {
                    continue;
                }
                match token {
                    Token::Signal | Token::Stranger => signaled = true,
                    Token::Listener => self.accept(),
                    Token::Client(number) => self.serve(number),
                    Token::Sync(number) => self.on_sync(number, false),
                    Token::ExecSync(number) => self.on_exec_sync(number, false),
                    Token::Output(number, stream) => self.on_output(number, stream),
                    Token::StdinSink(number) => self.flush_stdin(number),
                    Token::AttachIn(number, at) => self.on_attach_input(number, at),
                    Token::AttachOut(number, at, stream) => self.on_attach_output(number, at, stream, fd.hung_up()),
                }
            }
            for c in self.containers.values_mut() {
                c.attached.retain(|a| a.stdin.is_some() || a.outputs.iter().any(Option::is_some));
            }
            if signaled {
                self.reap();
                self.reap_strangers();
            }
        }
    }

    fn interests(&self) -> (Vec<PollFd>, Vec<Token>) {
        let mut fds = Vec::with_capacity(16);
        let mut tokens = Vec::with_capacity(16);
        let mut want = |fd: BorrowedFd<'_>, input, output, token| {
            fds.push(PollFd::new(fd, input, output));
            tokens.push(token);
        };
        want(self.signals.as_fd(), true, false, Token::Signal);
        want(self.listener.as_fd(), true, false, Token::Listener);
        let containers = self.containers.values().filter_map(|c| c.task.as_ref());
        for task in containers.chain(self.execs.values().map(|e| &e.task)).chain(&self.pause).filter(|t| !t.ours) {
            want(task.pidfd.as_fd(), true, false, Token::Stranger);
        }
        for c in &self.clients {
            want(c.socket.as_fd(), true, false, Token::Client(c.number));
        }
        for (&number, e) in &self.execs {
            if let Some((_, _, sync)) = &e.starting {
                want(sync.as_fd(), true, false, Token::ExecSync(number));
            }
        }
        for (&number, c) in &self.containers {
            if let Phase::Starting { sync, .. } = &c.phase {
                want(sync.as_fd(), true, false, Token::Sync(number));
            }
            for (stream, fd) in c.outputs.iter().enumerate() {
                let held_up = c.attached.iter().any(|a| a.pending[stream].len() > ATTACH_BUFFER);
                if let Some(fd) = fd.as_ref().filter(|_| !held_up) {
                    want(fd.as_fd(), true, false, Token::Output(number, stream));
                }
            }
            if let Some(fd) = c.stdin.as_ref().filter(|_| !c.stdin_pending.is_empty()) {
                want(fd.as_fd(), false, true, Token::StdinSink(number));
            }
            for (at, a) in c.attached.iter().enumerate() {
                if let Some(fd) = a.stdin.as_ref().filter(|_| c.stdin_pending.is_empty()) {
                    want(fd.as_fd(), true, false, Token::AttachIn(number, at));
                }
                for (stream, fd) in a.outputs.iter().enumerate() {
                    if let Some(fd) = fd {
                        // Without pending output only the loss of the reader is of interest, which poll always reports.
                        want(fd.as_fd(), false, !a.pending[stream].is_empty(), Token::AttachOut(number, at, stream));
                    }
                }
            }
        }
        (fds, tokens)
    }

    // === clients ===

    fn accept(&mut self) {
        match sys::socket::accept(self.listener.as_fd()) {
            Ok(socket) => match sys::socket::peer(socket.as_fd()) {
                Ok(peer) if peer.uid == 0 => self.add_client(socket),
                other => say!("shim-{}: refused a client: {other:?}", self.spec.id),
            },
            Err(e) => say!("shim-{}: failed to accept: {e}", self.spec.id),
        }
    }

    fn serve(&mut self, number: u32) {
        let Some(client) = self.clients.iter().find(|c| c.number == number) else { return };
        match protocol::receive(client.socket.as_fd(), true) {
            Ok(Some(packet)) => self.handle(number, packet),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.clients.retain(|c| c.number != number),
        }
    }

    fn reply(&mut self, client: u32, request: u32, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        reply_to(&mut self.clients, client, request, reply, fds);
    }

    fn announce(&mut self, event: &Event) {
        let Ok(message) = protocol::encode(Kind::Event, 0, event) else { return };
        self.clients.retain(|c| message.send(c.socket.as_fd(), &[], true).is_ok());
    }

    fn handle(&mut self, client: u32, mut packet: Packet) {
        let id = packet.id;
        let fds = std::mem::take(&mut packet.fds);
        let answer = match packet.parse::<Request>() {
            Err(e) => refuse(Reason::Unsupported, format!("this supervisor does not understand the request: {e}")),
            Ok(Request::CreatePod { .. } | Request::TellNetworks) => {
                refuse(Reason::Unsupported, "only the zygote creates pods")
            }
            Ok(Request::Ping) => Ok(Some(Reply::Done)),
            Ok(Request::Snapshot) => Ok(Some(Reply::Snapshot(Box::new(self.snapshot())))),
            Ok(
                Request::StartContainer { spec }
                | Request::StartContainerWithHooks { spec }
                | Request::StartContainerWithLabels { spec },
            ) => self.start(client, id, &spec).map(|()| None),
            Ok(Request::Exec { container, exec }) => self.exec(client, id, &container, *exec, fds).map(|()| None),
            Ok(Request::Kill { container, signal, all }) => {
                self.kill(&container, signal, all).map(|()| Some(Reply::Done))
            }
            Ok(Request::KillExec { exec, signal }) => self.kill_exec(exec, signal).map(|()| Some(Reply::Done)),
            Ok(Request::Attach { container, stdin, stdout, stderr }) => {
                self.attach(&container, [stdin, stdout, stderr], fds).map(|()| Some(Reply::Done))
            }
            Ok(Request::Resize { container, columns, rows }) => {
                self.resize(&container, columns, rows).map(|()| Some(Reply::Done))
            }
            Ok(Request::ReopenLog { container }) => {
                self.with_log(&container, |log, _| log.reopen()).map(|()| Some(Reply::Done))
            }
            Ok(Request::RotateLog { container }) => {
                self.with_log(&container, LogFile::rotate).map(|()| Some(Reply::Done))
            }
            Ok(Request::RemoveContainer { container }) => self.remove_container(&container).map(|()| Some(Reply::Done)),
            Ok(Request::NetworkNamespace) => match std::fs::File::open("/proc/self/ns/net") {
                Ok(ns) => {
                    self.reply(client, id, &Reply::Done, &[ns.as_fd()]);
                    Ok(None)
                }
                Err(e) => refuse(Reason::Internal, format!("failed to open the network namespace: {e}")),
            },
            Ok(Request::RemovePod) => {
                self.begin_removal(client, id);
                Ok(None)
            }
            Ok(Request::Keep { container: None }) => self.keep().map(|(reply, fds)| {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
                self.reply(client, id, &reply, &fds);
                None
            }),
            Ok(Request::Keep { container: Some(container) }) => {
                self.keep_container(client, id, &container).map(|()| None)
            }
            Ok(
                Request::AdoptPod { .. }
                | Request::AdoptContainer { .. }
                | Request::AdoptExec { .. }
                | Request::Adopted,
            ) => refuse(Reason::Invalid, "this supervisor has its pod already"),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(client, id, &reply, &[]),
            Err((reason, message)) => self.reply(client, id, &Reply::Failed { reason, message }, &[]),
        }
    }

    fn number_of(&self, id: &str) -> Result<u32, Refusal> {
        match self.containers.iter().find(|(_, c)| c.record.id == id) {
            Some((number, _)) => Ok(*number),
            None => refuse(Reason::NotFound, format!("container {id:?} not found")),
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        let number = self.number_of(id)?;
        self.containers.get_mut(&number).ok_or((Reason::NotFound, format!("container {id:?} not found")))
    }

    fn running(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        let c = self.container(id)?;
        match c.phase {
            Phase::Running(_) => Ok(c),
            _ => refuse(Reason::NotFound, format!("container {id:?} is not running")),
        }
    }

    fn snapshot(&self) -> PodSnapshot {
        let one = |c: &Container| ContainerSnapshot {
            id: c.record.id.clone(),
            state: c.state(),
            cgroup: c.cgroup.path().to_owned(),
            log_path: c.log.as_ref().map(|l| l.path().to_owned()),
            labels: c.record.labels.clone(),
            tty: c.record.process.tty,
            stdin: c.record.stdin,
            selinux: c.record.process.selinux.clone(),
        };
        PodSnapshot {
            spec: self.spec.clone(),
            supervisor_pid: std::process::id() as i32,
            created_at_ns: self.created_at_ns,
            containers: self.containers.values().map(one).collect(),
        }
    }

    // === what others keep ===

    /// The pod, for a client to keep.
    fn keep(&self) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let fail = |e: io::Error| (Reason::Internal, format!("failed to duplicate a descriptor of the pod: {e}"));
        let own = [
            (self.spec.network, Part::Network, "net"),
            (self.spec.ipc, Part::Ipc, "ipc"),
            (self.spec.uts, Part::Uts, "uts"),
        ];
        let (mut parts, mut fds) = (Vec::new(), Vec::new());
        for (_, part, name) in own.into_iter().filter(|(mode, ..)| *mode == NamespaceMode::Pod) {
            fds.push(std::fs::File::open(format!("/proc/self/ns/{name}")).map_err(fail)?.into());
            parts.push(part);
        }
        if let Shm::Detached(tree) = &self.shm {
            fds.push(sys::fd::dup_above(tree.as_fd(), 3).map_err(fail)?);
            parts.push(Part::Shm);
        }
        Ok((Reply::KeptPod { created_at_ns: self.created_at_ns, parts }, fds))
    }

    fn keep_container(&mut self, client: u32, request: u32, id: &str) -> Result<(), Refusal> {
        let number = self.number_of(id)?;
        if let Some(Phase::Starting { keepers, .. }) = self.containers.get_mut(&number).map(|c| &mut c.phase) {
            keepers.push((client, request));
            return Ok(());
        }
        self.give_container(client, request, number);
        Ok(())
    }

    fn give_container(&mut self, client: u32, request: u32, number: u32) {
        let Some(c) = self.containers.get(&number) else { return };
        let (parts, fds) = c.parts(self.pause.as_ref());
        let reply = Reply::KeptContainer { record: Box::new(c.record.clone()), state: c.state(), parts };
        reply_to(&mut self.clients, client, request, &reply, &fds);
    }

    // === start ===

    fn start(&mut self, client: u32, request: u32, spec: &ContainerSpec) -> Result<(), Refusal> {
        if self.removing.is_some() {
            return refuse(Reason::Invalid, "the pod is being removed");
        }
        if !is_valid_id(&spec.id) {
            return refuse(Reason::Invalid, format!("container id {:?} is not valid", spec.id));
        }
        if self.number_of(&spec.id).is_ok() {
            return refuse(Reason::AlreadyExists, format!("container {:?} exists already", spec.id));
        }
        if spec.cgroup.path.trim_matches('/').is_empty() {
            return refuse(Reason::Invalid, "a container needs a cgroup path");
        }
        let cgroup = self.cgroups.cgroup(&spec.cgroup.path);
        self.await_burial(cgroup.path())?;
        let started = self.launch(client, request, spec, &cgroup);
        match started {
            Ok(mut container) => {
                container.cgroup = cgroup;
                self.containers.insert(self.next_container, container);
                self.next_container += 1;
                Ok(())
            }
            Err(refusal) => {
                self.bury(cgroup);
                Err(refusal)
            }
        }
    }

    fn launch(
        &mut self,
        client: u32,
        request: u32,
        spec: &ContainerSpec,
        cgroup: &Cgroup,
    ) -> Result<Container, Refusal> {
        let cgroup_failed = |e: sys::cgroup::Error| (Reason::Start, base::chain(&e));
        cgroup.create().map_err(cgroup_failed)?;
        let devices = (!spec.all_devices).then(|| device_rules(spec));
        let missing = cgroup.apply(&limits(&spec.cgroup.resources, devices)).map_err(cgroup_failed)?;
        let entry = cgroup.entry(None).map_err(cgroup_failed)?;
        let log = match &spec.log {
            None => None,
            Some(l) => Some(LogFile::open(&l.path, l.max_size, l.max_files).map_err(|e| {
                (Reason::Start, format!("failed to open the log {:?}: {}", l.path, launcher::reason(&e)))
            })?),
        };
        let spools = if log.is_some() { [Spool::new().ok(), Spool::new().ok()] } else { [None, None] };
        let Streams { stdio, outputs, stdin } = make_streams(spec).map_err(start_failure("failed to create stdio"))?;
        let (sync, child_sync) = sys::socket::pair().map_err(start_failure("failed to create a socket pair"))?;
        let shm = self.clone_shm()?;
        let sysfs = self.clone_sysfs(spec);
        let scratch = self.run_dir.join("root");
        let joined = self.enter_pid_namespace(&spec.pid)?;
        let flags = libc::CLONE_NEWNS | if spec.pid == PidMode::Container { libc::CLONE_NEWPID } else { 0 };
        let cloned = self.single.clone(flags, entry.birthplace());
        if let Ok(Cloned::Child) = cloned {
            let v1_mounts = self.cgroups.v1_mounts();
            launcher::run(Launch {
                spec,
                pod: &self.spec,
                scratch: &scratch,
                shm,
                sysfs,
                cgroup: entry,
                cgroup_mode: self.cgroups.mode(),
                v1_mounts,
                stdio,
                sync: child_sync,
            });
        }
        if joined {
            self.leave_pid_namespace()?;
        }
        let Cloned::Parent(pid, pidfd) = cloned.map_err(start_failure("failed to clone a process"))? else {
            sys::process::exit_now(1)
        };
        Ok(Container {
            record: ContainerRecord::of(spec),
            phase: Phase::Starting { client, request, sync, ready: false, failure: None, keepers: Vec::new() },
            task: Some(Task { pid, pidfd, ours: true }),
            cgroup: self.cgroups.cgroup(&spec.cgroup.path),
            missing: missing.0.into_iter().map(str::to_owned).collect(),
            log,
            log_fault: false,
            outputs,
            lines: [Lines::new(Stream::Stdout), Lines::new(Stream::Stderr)],
            spools,
            stdin,
            stdin_pending: Vec::new(),
            attached: Vec::new(),
        })
    }

    /// Puts the children to come into another PID namespace. True if [`leave_pid_namespace`](Self::leave_pid_namespace) is due.
    fn enter_pid_namespace(&mut self, mode: &PidMode) -> Result<bool, Refusal> {
        let pidfd = match mode {
            PidMode::Container | PidMode::Host => return Ok(false),
            PidMode::Target(id) => self.running(id)?.task()?.pidfd.as_fd(),
            PidMode::Pod => {
                if self.pause.is_none() {
                    self.pause = Some(self.start_pause()?);
                }
                match &self.pause {
                    Some(task) => task.pidfd.as_fd(),
                    None => return refuse(Reason::Internal, "no process holds the PID namespace of the pod"),
                }
            }
        };
        sys::process::setns(pidfd, libc::CLONE_NEWPID).map_err(start_failure("failed to join the PID namespace"))?;
        Ok(true)
    }

    fn leave_pid_namespace(&self) -> Result<(), Refusal> {
        sys::process::setns(self.own_pid_namespace.as_fd(), libc::CLONE_NEWPID)
            .map_err(|e| (Reason::Internal, format!("failed to leave a PID namespace: {e}")))
    }

    /// The init of the shared PID namespace: reaps and does nothing else.
    fn start_pause(&self) -> Result<Task, Refusal> {
        match self
            .single
            .clone(libc::CLONE_NEWPID, None)
            .map_err(start_failure("failed to clone the init of the pod"))?
        {
            Cloned::Parent(pid, pidfd) => Ok(Task { pid, pidfd, ours: true }),
            Cloned::Child => {
                let prepared = sys::process::reset_signals()
                    .and_then(|()| sys::process::set_signal_ignored(libc::SIGCHLD, true))
                    .and_then(|()| sys::process::set_dumpable(false))
                    .and_then(|()| sys::process::set_name("pause"))
                    .and_then(|()| sys::process::setsid())
                    .and_then(|()| sys::fd::close_from(3));
                if prepared.is_err() {
                    sys::process::exit_now(1);
                }
                sys::process::sleep_forever()
            }
        }
    }

    /// For the container that has it in one place, as all have.
    fn clone_sysfs(&self, spec: &ContainerSpec) -> Option<Detached> {
        let wanted = spec.mounts.iter().filter(|m| m.kind == MountKind::Sysfs).count() == 1;
        let tree = self.sysfs.as_ref().filter(|_| wanted && self.spec.users.is_none())?;
        Detached::clone_fd(tree.as_fd(), false).ok()
    }

    fn clone_shm(&self) -> Result<Option<Detached>, Refusal> {
        match &self.shm {
            Shm::None => Ok(None),
            Shm::Detached(tree) => Detached::clone_fd(tree.as_fd(), false).map(Some),
            Shm::Attached(path) => Detached::clone_path(path, false).map(Some),
        }
        .map_err(start_failure("failed to clone /dev/shm of the pod"))
    }

    /// The launcher has something to say, or has become the program. Of one that has `ended` there is nothing to come, though somebody may still
    /// have a copy of its end: the init of a shared PID namespace, which is made for the first container and has not closed it yet.
    fn on_sync(&mut self, number: u32, ended: bool) {
        let Some(c) = self.containers.get_mut(&number) else { return };
        loop {
            let Phase::Starting { sync, ready, failure, .. } = &mut c.phase else { return };
            let mut buf = [0u8; 8192];
            match sys::socket::recv(sync.as_fd(), &mut buf, true) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !ended => return,
                Ok((n, mut fds)) if n > 0 => match (buf[0], fds.pop()) {
                    (SYNC_READY, _) => *ready = true,
                    (SYNC_FAILURE, _) => *failure = Some(String::from_utf8_lossy(&buf[1..n]).into_owned()),
                    (SYNC_TERMINAL, Some(master)) => {
                        // The read and the write end of a terminal are the same; both are kept non-blocking.
                        let copy = sys::fd::set_nonblocking(master.as_fd(), true)
                            .and_then(|()| sys::fd::dup_above(master.as_fd(), 3));
                        c.stdin = copy.ok();
                        c.outputs[0] = Some(master);
                    }
                    _ => {}
                },
                Ok(_) | Err(_) => break,
            }
        }
        self.on_launched(number);
    }

    fn on_launched(&mut self, number: u32) {
        let now = self.now();
        let Some(c) = self.containers.get_mut(&number) else { return };
        let Phase::Starting { client, request, ready, failure, keepers, .. } = &mut c.phase else { return };
        // Otherwise answered when it is reaped, because only then is its cgroup empty and its id free again.
        if failure.is_some() || !*ready {
            return;
        }
        let (client, request, keepers) = (*client, *request, std::mem::take(keepers));
        let Some(pid) = c.task.as_ref().map(|t| t.pid) else { return };
        let started = Started { pid, started_at_ns: now, missing_controllers: c.missing.clone() };
        c.phase = Phase::Running(started.clone());
        let (parts, fds) = c.parts(self.pause.as_ref());
        reply_to(&mut self.clients, client, request, &Reply::Started { started, parts }, &fds);
        for (client, request) in keepers {
            self.give_container(client, request, number);
        }
    }

    // === exec ===

    fn exec(&mut self, client: u32, request: u32, id: &str, exec: ExecSpec, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let c = self.running(id)?;
        let init = c.task()?;
        let mut process = exec.process.unwrap_or_else(|| c.record.process.clone());
        (process.args, process.tty) = (exec.args, exec.tty);
        let stdio = if exec.tty {
            Stdio::Terminal
        } else {
            let three: Result<[OwnedFd; 3], _> = fds.try_into();
            Stdio::Given(
                three.map_err(|_| (Reason::Invalid, "exec without a terminal needs three descriptors".to_owned()))?,
            )
        };
        // If its id is somebody else's by now, joining its namespaces below fails, before anything is done with this.
        let entry = c.cgroup.entry(Some(init.pid)).map_err(|e| (Reason::Start, base::chain(&e)))?;
        let target = sys::fd::dup_above(init.pidfd.as_fd(), 3).map_err(start_failure("failed to duplicate a pidfd"))?;
        let (sync, child_sync) = sys::socket::pair().map_err(start_failure("failed to create a socket pair"))?;
        sys::process::setns(target.as_fd(), libc::CLONE_NEWPID)
            .map_err(start_failure("failed to join the PID namespace"))?;
        let cloned = self.single.clone(0, entry.birthplace());
        if let Ok(Cloned::Child) = cloned {
            let ids = self.spec.users;
            launcher::run_exec(LaunchExec { process: &process, target, ids, cgroup: entry, stdio, sync: child_sync });
        }
        self.leave_pid_namespace()?;
        let Cloned::Parent(pid, pidfd) = cloned.map_err(start_failure("failed to clone a process"))? else {
            sys::process::exit_now(1)
        };
        let starting = Some((client, request, sync));
        self.execs.insert(
            self.next_exec,
            Exec { task: Task { pid, pidfd, ours: true }, starting, master: None, ready: false, failure: None },
        );
        self.next_exec += 1;
        Ok(())
    }

    /// As [`Self::on_sync`].
    fn on_exec_sync(&mut self, number: u64, ended: bool) {
        let Some(e) = self.execs.get_mut(&number) else { return };
        loop {
            let Some((_, _, sync)) = &e.starting else { return };
            let mut buf = [0u8; 8192];
            match sys::socket::recv(sync.as_fd(), &mut buf, true) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !ended => return,
                Ok((n, mut fds)) if n > 0 => match (buf[0], fds.pop()) {
                    (SYNC_READY, _) => e.ready = true,
                    (SYNC_FAILURE, _) => e.failure = Some(String::from_utf8_lossy(&buf[1..n]).into_owned()),
                    (SYNC_TERMINAL, Some(master)) => e.master = Some(master),
                    _ => {}
                },
                Ok(_) | Err(_) => break,
            }
        }
        let Some((client, request, _)) = e.starting.take() else { return };
        let silent = (!e.ready).then(|| "the launcher ended without a word".to_owned());
        let (pid, master, failure) = (e.task.pid, e.master.take(), e.failure.take().or(silent));
        match failure {
            None => {
                let fds: Vec<BorrowedFd<'_>> =
                    [&e.task.pidfd].into_iter().chain(&master).map(|fd| fd.as_fd()).collect();
                let reply = Reply::ExecStarted { exec: number, pid, pidfd: true };
                reply_to(&mut self.clients, client, request, &reply, &fds);
            }
            Some(message) => {
                self.execs.remove(&number);
                self.reply(client, request, &Reply::Failed { reason: Reason::Start, message }, &[]);
            }
        }
    }

    // === small requests ===

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<(), Refusal> {
        if !(1..=64).contains(&signal) {
            return refuse(Reason::Invalid, format!("{signal} is not a signal"));
        }
        let c = self.running(id)?;
        if all && signal == libc::SIGKILL {
            return c.cgroup.kill().map_err(|e| (Reason::Internal, base::chain(&e)));
        }
        if all {
            for pid in c.cgroup.procs() {
                // Gone in the meantime is as good as signaled.
                sys::process::kill(pid, signal).ok();
            }
            return Ok(());
        }
        match sys::process::pidfd_kill(c.task()?.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                refuse(Reason::Internal, format!("failed to signal: {e}"))
            }
            _ => Ok(()),
        }
    }

    fn kill_exec(&mut self, exec: u64, signal: i32) -> Result<(), Refusal> {
        let Some(e) = self.execs.get(&exec) else { return refuse(Reason::NotFound, format!("exec {exec} not found")) };
        match sys::process::pidfd_kill(e.task.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                refuse(Reason::Internal, format!("failed to signal: {e}"))
            }
            _ => Ok(()),
        }
    }

    fn resize(&mut self, id: &str, columns: u16, rows: u16) -> Result<(), Refusal> {
        let c = self.running(id)?;
        let (true, Some(master)) = (c.record.process.tty, &c.outputs[0]) else {
            return refuse(Reason::Invalid, format!("container {id:?} has no terminal"));
        };
        sys::pty::resize(master.as_fd(), columns, rows)
            .map_err(|e| (Reason::Internal, format!("failed to resize: {e}")))
    }

    fn with_log(&mut self, id: &str, what: impl FnOnce(&mut LogFile, i64) -> io::Result<()>) -> Result<(), Refusal> {
        let now = self.now();
        match &mut self.container(id)?.log {
            None => refuse(Reason::Invalid, format!("container {id:?} has no log")),
            Some(log) => what(log, now).map_err(|e| (Reason::Internal, format!("log {:?}: {e}", log.path()))),
        }
    }

    fn remove_container(&mut self, id: &str) -> Result<(), Refusal> {
        let number = self.number_of(id)?;
        if !matches!(self.containers.get(&number).map(|c| &c.phase), Some(Phase::Exited(_))) {
            return refuse(Reason::Invalid, format!("container {id:?} has not ended"));
        }
        self.containers.remove(&number);
        match std::fs::remove_dir_all(self.state_dir.join(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                refuse(Reason::Internal, format!("failed to remove its record: {e}"))
            }
            _ => Ok(()),
        }
    }

    // === streams ===

    fn attach(&mut self, id: &str, wanted: [bool; 3], fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        if fds.len() != wanted.iter().filter(|w| **w).count() {
            return refuse(Reason::Invalid, "attach needs one descriptor per stream");
        }
        let c = self.running(id)?;
        if wanted[0] && !c.record.stdin {
            return refuse(Reason::Invalid, format!("container {id:?} has no standard input"));
        }
        let mut fds = fds.into_iter();
        let mut next = |wanted: bool| if wanted { fds.next() } else { None };
        let [stdin, stdout, stderr] = wanted.map(&mut next);
        for fd in [&stdin, &stdout, &stderr].into_iter().flatten() {
            sys::fd::set_nonblocking(fd.as_fd(), true).map_err(|e| (Reason::Invalid, format!("attach: {e}")))?;
        }
        c.attached.push(Attached {
            stdin,
            outputs: [stdout, stderr],
            pending: [Vec::new(), Vec::new()],
            ending: false,
        });
        Ok(())
    }

    fn on_output(&mut self, number: u32, stream: usize) {
        if let Some(fault) = self.read_output(number, stream) {
            self.announce(&fault);
        }
    }

    /// Reads once, to log and attached clients. At the end of the stream its descriptor is dropped.
    fn read_output(&mut self, number: u32, stream: usize) -> Option<Event> {
        let now = self.now();
        let c = self.containers.get_mut(&number)?;
        let mut buf = [0u8; CHUNK];
        match c.read(stream, &mut buf)? {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Ok(n) if n > 0 => {
                for a in c.attached.iter_mut().filter(|a| a.outputs[stream].is_some() && !a.ending) {
                    a.pending[stream].extend_from_slice(&buf[..n]);
                    a.flush(stream);
                }
                c.log_bytes(stream, Some(&buf[..n]), now)
            }
            // A terminal answers EIO when its last slave is closed.
            Ok(_) | Err(_) => {
                c.outputs[stream] = None;
                c.log_bytes(stream, None, now)
            }
        }
    }

    fn on_attach_input(&mut self, number: u32, at: usize) {
        let Some(c) = self.containers.get_mut(&number) else { return };
        let Some(fd) = c.attached.get(at).and_then(|a| a.stdin.as_ref()) else { return };
        let mut buf = [0u8; CHUNK];
        match sys::fd::read(fd.as_fd(), &mut buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(n) if n > 0 => {
                c.stdin_pending.extend_from_slice(&buf[..n]);
                self.flush_stdin(number);
            }
            Ok(_) | Err(_) => {
                c.attached[at].stdin = None;
                if c.record.stdin_once && !c.record.process.tty {
                    c.stdin = None;
                } else {
                    // The container goes on reading, so that its client would wait for ever (containerd `ContainerIO.Attach`).
                    c.attached[at].end();
                }
            }
        }
    }

    fn flush_stdin(&mut self, number: u32) {
        let Some(c) = self.containers.get_mut(&number) else { return };
        let Some(fd) = &c.stdin else {
            c.stdin_pending.clear();
            return;
        };
        while !c.stdin_pending.is_empty() {
            match sys::fd::write(fd.as_fd(), &c.stdin_pending) {
                Ok(n) => drop(c.stdin_pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // Nobody reads any more.
                    c.stdin_pending.clear();
                    c.stdin = None;
                    return;
                }
            }
        }
    }

    fn on_attach_output(&mut self, number: u32, at: usize, stream: usize, hung_up: bool) {
        let Some(c) = self.containers.get_mut(&number) else { return };
        let ended = c.outputs[stream].is_none();
        let Some(a) = c.attached.get_mut(at) else { return };
        if hung_up {
            a.outputs[stream] = None;
            a.pending[stream] = Vec::new();
        } else {
            a.flush(stream);
            if (ended || a.ending) && a.pending[stream].is_empty() {
                a.outputs[stream] = None;
            }
        }
    }

    // === the end ===

    fn reap(&mut self) {
        sys::fd::drain_signalfd(self.signals.as_fd());
        while let Ok(Some((pid, status))) = sys::process::reap() {
            let is = |task: &Task| task.ours && task.pid == pid;
            let container = self.containers.iter().find(|(_, c)| c.task.as_ref().is_some_and(is)).map(|(n, _)| *n);
            if let Some(number) = container {
                // It may have become the program and ended before we looked.
                self.on_sync(number, true);
                self.on_exit(number, Some(status));
            } else if let Some(number) = self.execs.iter().find(|(_, e)| is(&e.task)).map(|(n, _)| *n) {
                self.on_exec_sync(number, true);
                self.on_exec_exit(number, Some(status));
            } else if self.pause.as_ref().is_some_and(is) {
                self.pause = None;
            }
        }
    }

    fn on_exec_exit(&mut self, number: u64, status: Option<Status>) {
        if self.execs.remove(&number).is_some() {
            self.announce(&Event::ExecExited { exec: number, code: code_of(status).0 });
        }
    }

    /// `status` is none if nobody can tell it any more.
    fn on_exit(&mut self, number: u32, status: Option<Status>) {
        let now = self.now();
        let Some(c) = self.containers.get(&number) else { return };
        let started_at_ns = match &c.phase {
            Phase::Running(started) => started.started_at_ns,
            Phase::Starting { .. } => return self.on_failed_start(number, status),
            Phase::Exited(_) => return,
        };
        let oom_killed = c.cgroup.oom_kills() > 0;
        if !c.record.own_pid_namespace
            && let Err(e) = c.cgroup.kill()
        {
            say!("shim-{}: {}", self.spec.id, base::chain(&e));
        }
        for stream in 0..2 {
            self.drain(number, stream);
        }
        let (code, signal) = code_of(status);
        let exit = Exit { code, signal, oom_killed, started_at_ns, finished_at_ns: now, lost: status.is_none() };
        let Some(c) = self.containers.get_mut(&number) else { return };
        c.stdin = None;
        for a in &mut c.attached {
            a.end();
        }
        c.spools = [None, None];
        c.task = None;
        let id = c.record.id.clone();
        c.phase = Phase::Exited(exit.clone());
        let path = c.cgroup.path().to_owned();
        self.bury(self.cgroups.cgroup(&path));
        if let Err(e) = self.record(&id, &exit) {
            say!("shim-{}: failed to record the exit of {id}: {e}", self.spec.id);
        }
        self.announce(&Event::Exited { container: id, exit });
    }

    /// The launcher has ended instead of becoming the program.
    fn on_failed_start(&mut self, number: u32, status: Option<Status>) {
        let Some(c) = self.containers.remove(&number) else { return };
        self.bury(c.cgroup);
        if let Phase::Starting { client, request, failure, keepers, .. } = c.phase {
            let silent = || format!("the launcher ended without a word ({})", code_of(status).0);
            let message = failure.unwrap_or_else(silent);
            for (client, request) in keepers {
                let (reason, message) = (Reason::NotFound, message.clone());
                self.reply(client, request, &Reply::Failed { reason, message }, &[]);
            }
            self.reply(client, request, &Reply::Failed { reason: Reason::Start, message }, &[]);
        }
    }

    /// Reads what is left in a stream whose writers are dead or dying.
    fn drain(&mut self, number: u32, stream: usize) {
        let now = self.now();
        while let Some(c) = self.containers.get(&number) {
            let Some(fd) = &c.outputs[stream] else { return };
            let mut ready = [PollFd::new(fd.as_fd(), true, false)];
            if !matches!(sys::fd::poll(&mut ready, Some(0)), Ok(n) if n > 0) {
                break;
            }
            self.on_output(number, stream);
        }
        let Some(c) = self.containers.get_mut(&number) else { return };
        c.outputs[stream] = None;
        if let Some(fault) = c.log_bytes(stream, None, now) {
            self.announce(&fault);
        }
    }

    /// The record is whole or not there, also after a power cut.
    fn record(&self, id: &str, exit: &Exit) -> io::Result<()> {
        let dir = self.state_dir.join(id);
        std::fs::create_dir_all(&dir)?;
        let exit = serde_json::to_vec(exit)?;
        base::files::replace_durably(&dir.join("exit.json"), base::files::PRIVATE, |out| out.write_all(&exit))
    }

    /// Removes a cgroup now, or as soon as its last process is gone.
    fn bury(&mut self, cgroup: Cgroup) {
        if cgroup.delete().is_err() {
            self.dying_cgroups.push(cgroup);
        }
    }

    /// A new container must not move into a cgroup whose last inhabitants are still dying. The one wait inside the loop, for the
    /// rare case that an id comes back within milliseconds, and bounded.
    fn await_burial(&mut self, path: &str) -> Result<(), Refusal> {
        for _ in 0..50 {
            self.retry_cgroups();
            if self.dying_cgroups.iter().all(|c| c.path() != path) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        refuse(Reason::Start, format!("the processes of an earlier container are still dying in cgroup {path}"))
    }

    fn retry_cgroups(&mut self) {
        self.dying_cgroups.retain(|cgroup| {
            // Whatever is still in there belongs to a container that has ended.
            cgroup.kill().is_err() || cgroup.delete().is_err()
        });
    }

    fn begin_removal(&mut self, client: u32, request: u32) {
        self.removing = Some((client, request));
        for c in self.containers.values().filter(|c| !c.exited()) {
            if let Err(e) = c.cgroup.kill() {
                say!("shim-{}: {}", self.spec.id, base::chain(&e));
            }
            // A launcher that has not joined its cgroup yet.
            c.task.iter().for_each(|t| drop(sys::process::pidfd_kill(t.pidfd.as_fd(), libc::SIGKILL)));
        }
        for e in self.execs.values() {
            sys::process::pidfd_kill(e.task.pidfd.as_fd(), libc::SIGKILL).ok();
        }
        if let Some(pause) = &self.pause {
            sys::process::pidfd_kill(pause.pidfd.as_fd(), libc::SIGKILL).ok();
        }
    }

    /// True when nothing is left but this process.
    fn try_finish_removal(&mut self) -> bool {
        let Some((client, request)) = self.removing else { return false };
        let busy = self.containers.values().any(|c| !c.exited()) || !self.execs.is_empty() || self.pause.is_some();
        if busy || !self.dying_cgroups.is_empty() {
            return false;
        }
        if let Some(cgroup) = self.pod_cgroup.take()
            && cgroup.delete().is_err()
        {
            self.pod_cgroup = Some(self.cgroups.cgroup(cgroup.path()));
            self.dying_cgroups.push(cgroup);
            return false;
        }
        if let Shm::Attached(path) = &self.shm {
            sys::mount::unmount_lazily(path).ok(); // the sweep finds what is left
        }
        let removed = [&self.run_dir, &self.state_dir].map(|dir| match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("failed to remove {dir:?}: {e}")),
            _ => Ok(()),
        });
        let reply = match removed.into_iter().collect::<Result<(), String>>() {
            Ok(()) => Reply::Done,
            Err(message) => Reply::Failed { reason: Reason::Internal, message },
        };
        self.reply(client, request, &reply, &[]);
        true
    }
}

// === impl Container and Attached ===

impl Container {
    fn exited(&self) -> bool {
        matches!(self.phase, Phase::Exited(_))
    }

    /// Logs bytes, or (`None`) the end of the stream. Returns an event when the log begins to fail.
    fn log_bytes(&mut self, stream: usize, bytes: Option<&[u8]>, now: i64) -> Option<Event> {
        let log = self.log.as_mut()?;
        let border = self.lines.iter().all(Lines::at_border);
        let mut entries = Vec::new();
        match bytes {
            Some(bytes) => self.lines[stream].push(bytes, now, &mut entries),
            None => self.lines[stream].finish(now, &mut entries),
        }
        if entries.is_empty() {
            return None;
        }
        let spool = &mut self.spools[stream];
        let begun = spool.as_mut().map_or(Ok(()), |s| s.begin(now));
        let result = log.write(&entries, border, now);
        let (kept, continued) = (self.lines[stream].partial_len(), !self.lines[stream].at_border());
        let logged = begun.and_then(|()| spool.as_mut().map_or(Ok(()), |s| s.logged(kept, continued)));
        if logged.is_err() {
            // Out of memory. A spool that says something wrong is worse than none.
            spool.take().into_iter().for_each(Spool::void);
        }
        let first = result.is_err() && !self.log_fault;
        self.log_fault = result.is_err();
        let message = result.err()?.to_string();
        first.then(|| Event::LogFault { container: self.record.id.clone(), message })
    }

    /// Reads once, by way of the spool if there is one. None if the stream has ended.
    fn read(&mut self, stream: usize, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let fd = self.outputs[stream].as_ref()?.as_fd();
        let spool = &mut self.spools[stream];
        if let Some(s) = spool.as_mut().filter(|_| !self.record.process.tty) {
            match s.fill(fd, buf) {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {}
                other => return Some(other),
            }
            spool.take().into_iter().for_each(Spool::void);
        }
        let read = sys::fd::read(fd, buf);
        if let (Ok(n), Some(s)) = (&read, spool.as_mut())
            && s.append(&buf[..*n]).is_err()
        {
            spool.take().into_iter().for_each(Spool::void);
        }
        Some(read)
    }

    fn task(&self) -> Result<&Task, Refusal> {
        self.task.as_ref().ok_or_else(|| (Reason::NotFound, format!("container {:?} is not running", self.record.id)))
    }

    fn state(&self) -> ContainerState {
        match &self.phase {
            Phase::Starting { .. } => ContainerState::Starting,
            Phase::Running(started) => ContainerState::Running(started.clone()),
            Phase::Exited(exit) => ContainerState::Exited(exit.clone()),
        }
    }

    /// What another supervisor needs to go on with it. Standard input that is to end with its client ends with this process.
    fn parts<'a>(&'a self, pause: Option<&'a Task>) -> (Vec<Part>, Vec<BorrowedFd<'a>>) {
        let Some(task) = &self.task else { return (Vec::new(), Vec::new()) };
        let tty = self.record.process.tty;
        let stdin = self.stdin.as_ref().filter(|_| !self.record.stdin_once && !tty);
        let spool = |at: usize| self.spools[at].as_ref().map(|s| s.as_fd());
        let all = [
            (Part::Pause, pause.map(|p| p.pidfd.as_fd())),
            (Part::Process, Some(task.pidfd.as_fd())),
            (Part::Stdin, stdin.map(|fd| fd.as_fd())),
            (Part::Stdout, self.outputs[0].as_ref().map(|fd| fd.as_fd())),
            (Part::Stderr, self.outputs[1].as_ref().map(|fd| fd.as_fd())),
            (Part::StdoutSpool, spool(0)),
            (Part::StderrSpool, spool(1)),
        ];
        all.into_iter().filter_map(|(part, fd)| Some((part, fd?))).unzip()
    }
}

impl Attached {
    fn flush(&mut self, stream: usize) {
        let Some(fd) = &self.outputs[stream] else { return };
        while !self.pending[stream].is_empty() {
            match sys::fd::write(fd.as_fd(), &self.pending[stream]) {
                Ok(n) => drop(self.pending[stream].drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.outputs[stream] = None;
                    self.pending[stream] = Vec::new();
                    return;
                }
            }
        }
    }

    /// No more output comes: streams without pending bytes are closed, the others when they are flushed.
    fn end(&mut self) {
        self.stdin = None;
        self.ending = true;
        for stream in 0..2 {
            self.flush(stream);
            if self.pending[stream].is_empty() {
                self.outputs[stream] = None;
            }
        }
    }
}

/// A client that does not take its messages is let go; it finds everything in the snapshot when it comes back.
fn reply_to(clients: &mut Vec<Client>, client: u32, request: u32, reply: &Reply, fds: &[BorrowedFd<'_>]) {
    let Some(c) = clients.iter().find(|c| c.number == client) else { return };
    let sent = protocol::encode(Kind::Reply, request, reply).and_then(|m| m.send(c.socket.as_fd(), fds, true));
    if sent.is_err() {
        clients.retain(|c| c.number != client);
    }
}

// === pure helpers and set-up ===

fn now_ns(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Code and signal; 255 if nobody knows.
fn code_of(status: Option<Status>) -> (i32, Option<i32>) {
    match status {
        Some(Status::Exited(code)) => (code, None),
        Some(Status::Signaled(signal)) => (128 + signal, Some(signal)),
        None => (255, None),
    }
}

/// Whether a pod is an ordinary one: new, nothing of it is the machine's, and its root is.
pub(crate) fn wants_own_namespaces(request: &Request) -> bool {
    let own = |s: &PodSandboxSpec| [s.network, s.ipc, s.uts].iter().all(|mode| *mode == NamespaceMode::Pod);
    matches!(request, Request::CreatePod { spec, adopt: false, .. } if own(spec) && spec.users.is_none())
}

/// What a supervisor has of an ordinary pod before it knows which: mounts that can be cloned for its containers, where the kernel can.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    shm: Option<Detached>,
    /// Shows the network namespace. For a new one the kernel looks at those of all pods.
    sysfs: Option<Detached>,
}

/// Makes and enters the namespaces of an ordinary pod, and makes what else every such pod has.
pub(crate) fn prepare() -> io::Result<Prepared> {
    sys::process::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)?;
    sys::process::loopback_up()?;
    let shm = Some(new_shm(SHM_SIZE, 0)?).filter(can_be_cloned);
    let sysfs = if shm.is_some() { Detached::new_fs("sysfs", &[], Attr::default()).ok() } else { None };
    Ok(Prepared { shm, sysfs })
}

fn enter_namespaces(single: SingleThreaded, spec: &PodSandboxSpec, prepared: bool) -> Result<(), Refusal> {
    let own = |mode: NamespaceMode, flag: i32| if mode == NamespaceMode::Pod { flag } else { 0 };
    let flags =
        own(spec.network, libc::CLONE_NEWNET) | own(spec.ipc, libc::CLONE_NEWIPC) | own(spec.uts, libc::CLONE_NEWUTS);
    if let Some(name) = spec.sysctls.keys().find(|name| !is_namespaced(name, spec)) {
        return refuse(Reason::Invalid, format!("sysctl {name:?} is not in a namespace of the pod"));
    }
    match spec.users {
        Some(_) if [spec.network, spec.ipc, spec.uts].contains(&NamespaceMode::Host) => {
            refuse(Reason::Invalid, "a pod with a user namespace cannot have namespaces of the machine")
        }
        Some(ids) => users::make(single, ids, flags, || furnish(spec).map_err(|(_, why)| why))
            .map_err(|why| (Reason::Start, format!("failed to create the user namespace of the pod: {why}"))),
        None => {
            if !prepared {
                sys::process::unshare(flags).map_err(start_failure("failed to create the namespaces of the pod"))?;
            }
            furnish(spec)
        }
    }
}

/// Loopback, names and kernel parameters of new namespaces that this process is in.
fn furnish(spec: &PodSandboxSpec) -> Result<(), Refusal> {
    if spec.network == NamespaceMode::Pod {
        sys::process::loopback_up().map_err(start_failure("failed to bring up the loopback interface"))?;
    }
    if spec.uts == NamespaceMode::Pod {
        if let Some(name) = &spec.hostname {
            sys::process::set_hostname(name).map_err(start_failure("failed to set the host name"))?;
        }
        if let Some(name) = &spec.domainname {
            sys::process::set_domainname(name).map_err(start_failure("failed to set the domain name"))?;
        }
    }
    for (name, value) in &spec.sysctls {
        launcher::write_sysctl(name, value).map_err(start_failure(&format!("failed to set sysctl {name}={value}")))?;
    }
    Ok(())
}

/// The same list as runc's (`libcontainer/configs/validate/validator.go`): a sysctl of the machine is never written.
pub(crate) fn is_namespaced(name: &str, spec: &PodSandboxSpec) -> bool {
    let name = name.replace('/', ".");
    let ipc = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match name.as_str() {
        n if n.starts_with("net.") => spec.network == NamespaceMode::Pod,
        n if ipc.contains(&n) || n.starts_with("fs.mqueue.") => spec.ipc == NamespaceMode::Pod,
        "kernel.domainname" | "kernel.hostname" => spec.uts == NamespaceMode::Pod,
        _ => false,
    }
}

/// Of `/dev/shm`, unless the pod says otherwise.
const SHM_SIZE: u64 = 64 << 20;

fn new_shm(size: u64, owner: u32) -> io::Result<Detached> {
    let (size, owner) = (size.to_string(), owner.to_string());
    let attr = Attr::NOSUID.and(Attr::NODEV).and(Attr::NOEXEC);
    Detached::new_fs("tmpfs", &[("size", &*size), ("mode", "1777"), ("uid", &owner), ("gid", &owner)], attr)
}

/// Not before Linux 6.15.
fn can_be_cloned(tree: &Detached) -> bool {
    Detached::clone_fd(tree.as_fd(), false).is_ok()
}

fn make_shm(spec: &PodSandboxSpec, run_dir: &Path) -> Result<Shm, Refusal> {
    if spec.ipc == NamespaceMode::Host {
        return Ok(Shm::None);
    }
    let fail = start_failure("failed to create /dev/shm of the pod");
    let owner = spec.users.map_or(0, |ids| ids.first);
    let tree = new_shm(spec.shm_size.unwrap_or(SHM_SIZE), owner).map_err(&fail)?;
    if can_be_cloned(&tree) {
        return Ok(Shm::Detached(tree));
    }
    let path = run_dir.join("shm");
    std::fs::create_dir_all(&path).map_err(&fail)?;
    let target = sys::fd::open_path(&path).map_err(&fail)?;
    tree.attach(target.as_fd()).map_err(&fail)?;
    Ok(Shm::Attached(path))
}

/// What is made in it later has the type of its root (containerd's `linuxContainerMounts` has it relabelled).
fn label_shm(spec: &PodSandboxSpec, shm: &Shm) -> Result<(), Refusal> {
    let Some(labels) = &spec.selinux else { return Ok(()) };
    match shm {
        Shm::None => Ok(()),
        Shm::Detached(tree) => crate::selinux::set_file_label(tree.as_fd(), &labels.mount),
        Shm::Attached(path) => {
            sys::fd::open_path(path).and_then(|dir| crate::selinux::set_file_label(dir.as_fd(), &labels.mount))
        }
    }
    .map_err(start_failure(&format!("failed to give /dev/shm of the pod the SELinux label {:?}", labels.mount)))
}

struct Streams {
    stdio: Stdio,
    outputs: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
}

fn make_streams(spec: &ContainerSpec) -> io::Result<Streams> {
    if spec.process.tty {
        return Ok(Streams { stdio: Stdio::Terminal, outputs: [None, None], stdin: None });
    }
    let (out_r, out_w) = sys::fd::pipe()?;
    let (err_r, err_w) = sys::fd::pipe()?;
    for fd in [&out_r, &err_r] {
        sys::fd::set_nonblocking(fd.as_fd(), true)?;
    }
    let (child_in, stdin) = if spec.stdin {
        let (r, w) = sys::fd::pipe()?;
        sys::fd::set_nonblocking(w.as_fd(), true)?;
        (r, Some(w))
    } else {
        (OwnedFd::from(std::fs::File::open("/dev/null")?), None)
    };
    Ok(Streams { stdio: Stdio::Given([child_in, out_w, err_w]), outputs: [Some(out_r), Some(err_r)], stdin })
}

pub(crate) fn limits(r: &crate::spec::Resources, devices: Option<Vec<sys::device::Rule>>) -> sys::cgroup::Resources {
    sys::cgroup::Resources {
        memory_limit: r.memory_limit,
        memory_swap: r.memory_swap,
        cpu_shares: r.cpu_shares,
        cpu_quota_us: r.cpu_quota_us,
        cpu_period_us: r.cpu_period_us,
        pids: r.pids,
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        hugetlb: r.hugetlb.iter().map(|(k, v)| (k.clone(), *v)).collect(),
        devices,
        unified: r.unified.clone(),
    }
}

/// What every container may use, and what its spec adds (opencontainers/cgroups `devices` "AllowedDevices", runc).
fn device_rules(spec: &ContainerSpec) -> Vec<sys::device::Rule> {
    use sys::device::{Kind, Rule};
    let rule = |kind, major, minor, access: &str| Rule {
        kind,
        major,
        minor,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    };
    let mut rules = vec![rule(Kind::Char, None, None, "m"), rule(Kind::Block, None, None, "m")];
    // null, zero, full, random, urandom, tty, console, ptmx, pts.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(Kind::Char, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(Kind::Char, Some(136), None, "rwm"));
    for d in &spec.devices {
        let kind = if d.kind == 'b' { Kind::Block } else { Kind::Char };
        let access = if d.access.is_empty() { "rwm" } else { &d.access };
        rules.push(rule(kind, Some(d.major), Some(d.minor), access));
    }
    rules
}
