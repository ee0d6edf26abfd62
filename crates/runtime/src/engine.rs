//! The agent's door to zygote and supervisors.
//!
//! Holds connections and no truth: everything it knows can be had again from the supervisors with [`Engine::recover`]. A task
//! per pod turns packets into answers and events, keeps what another supervisor would need, and starts one if the pod's dies
//! ([`repair`]). Invariant: dropping an [`Engine`] stops the zygote and nothing else.

mod repair;
mod run;

pub use run::Capture;

use crate::features::{Features, Lack};
use crate::keep::{Kept, KeptContainer, Parts};
use crate::protocol::{
    self, ContainerRecord, ContainerState, Event, ExecSpec, Exit, Kind, PodSnapshot, Reason, Reply, Request, Started,
};
use crate::spec::{ContainerSpec, PodSandboxSpec, Resources, is_valid_id};
use crate::stream::Stream;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use sys::cgroup::{Cgroups, Missing, Stats};
use sys::netlink::netns;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

/// What the engine needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sockets and mount points; on a tmpfs, gone after a reboot (`/run/dhow`).
    pub run_dir: PathBuf,
    /// Exit records and the zygote's log (`/var/lib/dhow/runtime`).
    pub state_dir: PathBuf,
    /// The program that calls [`crate::zygote::main`] when its first argument is `zygote`; usually this one.
    pub exe: PathBuf,
    /// Where zygote and supervisors live, so that nobody's limits or service stop hit them (`/dhow/.supervisors`).
    pub supervisor_cgroup: Option<String>,
    /// How long a supervisor may be silent before it is asked whether it is there, and then before it counts as dead.
    pub patience: Duration,
}

impl Config {
    /// What `patience` is outside of tests. A supervisor answers within milliseconds; a machine may be busy.
    pub const PATIENCE: Duration = Duration::from_secs(15);
}

/// An operation of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The supervisor (or zygote) refused, and why. The sentence is for people, e.g. `exec: "/nope": no such file or directory`.
    #[error("{message}")]
    Refused {
        /// For programs.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// The pod's supervisor is gone.
    #[error("the supervisor of pod {pod:?} is gone")]
    SupervisorLost {
        /// Which pod.
        pod: String,
    },
    /// The zygote could not be started or spoken to.
    #[error("zygote: failed to {verb}")]
    Zygote {
        /// What was tried.
        verb: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file, socket or descriptor could not be used.
    #[error("failed to {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Limits could not be read or set.
    #[error(transparent)]
    Cgroup(#[from] sys::cgroup::Error),
}

/// How long a start that was under way before this agent may still take before the agent goes on without it.
const START_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Result<T> = std::result::Result<T, EngineError>;

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// Told by its supervisor.
    Pod {
        /// Which pod.
        pod: String,
        /// What.
        event: Event,
    },
    /// The supervisor was gone without having been told to, and another one has taken its place; no container noticed.
    SupervisorReplaced {
        /// Which pod.
        pod: String,
    },
    /// The supervisor is gone without having been told to, and nothing replaces it: its containers may still run. See
    /// [`Engine::orphans`].
    SupervisorLost {
        /// Which pod.
        pod: String,
    },
}

/// Events of all pods, in the order in which each pod told them.
pub type Events = mpsc::UnboundedReceiver<EngineEvent>;

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    cgroups: Cgroups,
    zygote: Mutex<Option<OwnedFd>>,
    /// How many open files this process could have before it asked for more; containers begin with that.
    open_files: u64,
    events: mpsc::UnboundedSender<EngineEvent>,
    /// Takes the connection on which a zygote tells of network namespaces in advance, if anybody wants to know.
    networks: Mutex<Option<mpsc::UnboundedSender<Connection>>>,
}

/// The way to the supervisor of a pod, whichever process that is at the time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pod {
    link: Arc<Link>,
}

type Answer = (Reply, Vec<OwnedFd>);

#[derive(Debug)]
struct Link {
    pod: String,
    state: watch::Sender<Way>,
    next: AtomicU32,
    execs: Mutex<HashMap<u64, ExecWait>>,
    kept: Mutex<Kept>,
    /// Until the pod is made and from when it is removed: then the end of the connection is no loss.
    end_expected: AtomicBool,
}

/// Whether the supervisor can be asked.
#[derive(Debug, Clone)]
enum Way {
    Open(Arc<Connection>),
    /// Another supervisor is about to take over.
    Repaired,
    Gone,
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// `None` once the connection is lost.
    pending: Mutex<Option<HashMap<u32, Pending>>>,
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Answer>,
    /// What to keep if the answer is that it has started.
    record: Option<Box<ContainerRecord>>,
}

#[derive(Debug)]
struct ExecWait {
    exit: oneshot::Sender<i32>,
    taken: Option<oneshot::Receiver<i32>>,
    /// Of a process that has not ended.
    process: Option<(i32, Arc<OwnedFd>)>,
}

/// A pod found alive.
#[derive(Debug)]
pub struct Recovered {
    /// The connection.
    pub pod: Pod,
    /// Everything its supervisor knows, exits that happened meanwhile included.
    pub snapshot: PodSnapshot,
}

/// What is left of a pod without a supervisor.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// The pod.
    pub id: String,
    /// As it was created, if that could be read.
    pub spec: Option<PodSandboxSpec>,
    /// Exits that were recorded, by container.
    pub exits: BTreeMap<String, Exit>,
    /// Processes that still run in its cgroup.
    pub processes: usize,
}

/// Local ends of attached streams.
#[derive(Debug, Default)]
pub struct StdioStreams {
    /// Write here; dropping it is the end of input.
    pub stdin: Option<Stream>,
    /// Read from here until the end.
    pub stdout: Option<Stream>,
    /// Read from here until the end.
    pub stderr: Option<Stream>,
}

/// Changes the window size of an exec's terminal.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// Sets the window size.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        sys::pty::resize(self.0.as_fd(), columns, rows)
    }
}

/// A process started by [`Engine::exec`]. Dropping it does not end the process, but closes its streams.
#[derive(Debug)]
pub struct ExecSession {
    /// For [`Engine::kill_exec`].
    pub exec: u64,
    /// On the machine.
    pub pid: i32,
    /// With a terminal: `stdin` and `stdout` are its master, `stderr` is none.
    pub streams: StdioStreams,
    /// If it has a terminal.
    pub terminal: Option<Terminal>,
    exit: oneshot::Receiver<i32>,
    pod: String,
}

impl ExecSession {
    /// Waits for the exit code (128 + signal if a signal ended it).
    pub async fn wait(&mut self) -> Result<i32> {
        (&mut self.exit).await.map_err(|_| EngineError::SupervisorLost { pod: self.pod.clone() })
    }
}

// === impl Engine ===

impl Engine {
    /// How many supervisors wait for a pod.
    pub const SPARES: usize = crate::zygote::SPARES;

    /// Makes the directories and starts the zygote. Needs root. Events of all pods come out of the second value.
    pub fn start(config: Config) -> Result<(Engine, Events)> {
        for dir in [config.run_dir.join("pods"), config.state_dir.join("pods")] {
            std::fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        }
        let (events, receiver) = mpsc::unbounded_channel();
        let cgroups = Cgroups::detect()?;
        let open_files = raise_open_files();
        let engine = Engine {
            inner: Arc::new(Inner {
                config,
                cgroups,
                zygote: Mutex::default(),
                open_files,
                events,
                networks: Mutex::default(),
            }),
        };
        *engine.inner.zygote.lock() = Some(engine.spawn_zygote()?);
        Ok((engine, receiver))
    }

    /// The hierarchies of this machine.
    pub fn cgroups(&self) -> &Cgroups {
        &self.inner.cgroups
    }

    /// What the kernel lacks of what containers need, as it is now.
    pub fn lacks(&self) -> Vec<Lack> {
        Features::read(&self.inner.cgroups).lacks()
    }

    fn run_dir(&self, pod: &str) -> PathBuf {
        self.inner.config.run_dir.join("pods").join(pod)
    }

    fn state_dir(&self, pod: &str) -> PathBuf {
        self.inner.config.state_dir.join("pods").join(pod)
    }

    /// Network namespaces that pods to come will have, each as soon as it is there: whoever furnishes one before its pod comes saves the
    /// pod that time. At most [`Engine::SPARES`] wait for a pod. Call it once, within tokio.
    pub fn networks_in_advance(&self) -> mpsc::Receiver<netns::Owned> {
        let (sender, receiver) = mpsc::channel(Self::SPARES);
        let (connections, mut zygotes) = mpsc::unbounded_channel::<Connection>();
        base::tasks::detach("networks-in-advance", async move {
            // One after another: what a zygote told is void when the next one tells.
            while let Some(connection) = zygotes.recv().await {
                while let Some(packet) = connection.receive("zygote").await {
                    let Some(network) = crate::zygote::network_of(packet) else { continue };
                    if sender.send(network).await.is_err() {
                        return;
                    }
                }
            }
        });
        *self.inner.networks.lock() = Some(connections);
        if let Some(zygote) = &*self.inner.zygote.lock() {
            self.ask_for_networks(zygote);
        }
        receiver
    }

    /// Without an answer pods start all the same.
    fn ask_for_networks(&self, zygote: &OwnedFd) {
        let Some(connections) = self.inner.networks.lock().clone() else { return };
        let ask = || -> Result<Connection> {
            let fail = |source| EngineError::Zygote { verb: "ask for namespaces in advance", source };
            let (ours, theirs) = sys::socket::pair().map_err(fail)?;
            let request = protocol::encode(Kind::Request, 0, &Request::TellNetworks).map_err(fail)?;
            request.send(zygote.as_fd(), &[theirs.as_fd()], false).map_err(fail)?;
            Connection::new("zygote", ours)
        };
        match ask() {
            // A failure means that nobody wants to know any more.
            Ok(connection) => drop(connections.send(connection)),
            Err(e) => tracing::warn!(error = %base::chain(&e), "networks of pods are not prepared"),
        }
    }

    /// Starts this binary as the zygote, from a copy that no container can write to (CVE-2019-5736).
    fn spawn_zygote(&self) -> Result<OwnedFd> {
        let fail = |verb| move |source| EngineError::Zygote { verb, source };
        let config = &self.inner.config;
        let (ours, theirs) = sys::socket::pair().map_err(fail("create a socket pair"))?;
        let log_path = config.state_dir.join("zygote.log");
        let log =
            std::fs::File::options().create(true).append(true).open(&log_path).map_err(io_error("open", &log_path))?;
        let exe = read_only_exe(&config.exe).map_err(fail("make a read-only copy of the program"))?;
        #[expect(clippy::disallowed_methods, reason = "starts itself, not a tool of the host")]
        let mut command = std::process::Command::new(sys::fd::proc_path(&exe));
        command.arg(crate::zygote::WORD).arg(config.supervisor_cgroup.as_deref().unwrap_or("-"));
        command.arg(self.inner.open_files.to_string());
        command
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(io_stdio(&log).map_err(fail("copy a descriptor"))?)
            .stderr(log);
        // jemalloc would start a thread, and the zygote must have one only. Memory is given back when there has been time for it: at
        // once would be a system call and a page fault for almost everything that is freed.
        for key in ["_RJEM_MALLOC_CONF", "MALLOC_CONF"] {
            command.env(key, "background_thread:false,narenas:1,tcache:false,dirty_decay_ms:1000,muzzy_decay_ms:0");
        }
        let mut child = command.spawn().map_err(fail("start"))?;
        // It lives as long as this process or dies alone; either way somebody must reap it.
        std::thread::Builder::new()
            .name("zygote-reaper".into())
            .spawn(move || child.wait().is_ok())
            .map_err(fail("start a thread to reap it"))?;
        Ok(ours)
    }

    /// Makes a pod's supervisor, namespaces and cgroup.
    pub async fn create_pod(&self, spec: &PodSandboxSpec) -> Result<Pod> {
        if !is_valid_id(&spec.id) {
            return refused(Reason::Invalid, format!("pod id {:?} is not valid", spec.id));
        }
        let (run_dir, state_dir) = (self.run_dir(&spec.id), self.state_dir(&spec.id));
        if run_dir.join("sock").exists() {
            return refused(Reason::AlreadyExists, format!("pod {:?} exists already", spec.id));
        }
        std::fs::create_dir_all(&run_dir).map_err(io_error("create", &run_dir))?;
        std::fs::create_dir_all(&state_dir).map_err(io_error("create", &state_dir))?;
        let record = state_dir.join("pod.json");
        let json = serde_json::to_vec(spec).map_err(|e| io_error("encode", &record)(e.into()))?;
        std::fs::write(&record, json).map_err(io_error("write", &record))?;
        let (ours, theirs) = sys::socket::pair().map_err(io_error("create a socket for", &run_dir))?;
        let request = Request::CreatePod {
            spec: Box::new(spec.clone()),
            run_dir: run_dir.clone(),
            state_dir: state_dir.clone(),
            adopt: false,
        };
        self.ask_zygote(&request, theirs)?;
        let connection = Connection::new(&spec.id, ours)?;
        // Answer 0 is the first word of a new supervisor, which answers no request of ours.
        let first_word = connection.expect(0, None);
        let pod = self.tend(&spec.id, connection, true);
        let created = match first_word {
            Some(word) => word.await.map_err(|_| pod.lost()).and_then(accepted),
            None => Err(pod.lost()),
        };
        match created {
            Ok(_) => Ok(pod),
            Err(e) => {
                if let Err(left) = self.sweep(&self.orphan(spec.id.clone())).await {
                    // The refusal is the news; what cannot be removed now is found at the next start.
                    tracing::warn!(pod = spec.id, error = %base::chain(&left), "a pod that was not made left something");
                }
                Err(e)
            }
        }
    }

    /// Sends to the zygote; starts a new one if it has died.
    fn ask_zygote(&self, request: &Request, client: OwnedFd) -> Result<()> {
        let fail = |verb| move |source| EngineError::Zygote { verb, source };
        let message = protocol::encode(Kind::Request, 0, request).map_err(fail("encode a request"))?;
        let mut zygote = self.inner.zygote.lock();
        let send = |zygote: &OwnedFd| message.send(zygote.as_fd(), &[client.as_fd()], false);
        match zygote.as_ref().map(send) {
            Some(Ok(())) => Ok(()),
            _ => {
                let new = self.spawn_zygote()?;
                self.ask_for_networks(&new);
                send(&new).map_err(fail("send a request"))?;
                *zygote = Some(new);
                Ok(())
            }
        }
    }

    /// Begins to listen to a supervisor.
    fn tend(&self, pod: &str, connection: Connection, end_expected: bool) -> Pod {
        let connection = Arc::new(connection);
        let link = Arc::new(Link {
            pod: pod.to_owned(),
            state: watch::Sender::new(Way::Open(connection.clone())),
            next: AtomicU32::new(1),
            execs: Mutex::default(),
            kept: Mutex::default(),
            end_expected: end_expected.into(),
        });
        let (engine, events) = (Arc::downgrade(&self.inner), self.inner.events.clone());
        base::tasks::detach("pod-connection", repair::tend(engine, events, link.clone(), connection));
        Pod { link }
    }

    /// Connects to every supervisor that lives: after a restart of the agent.
    pub async fn recover(&self) -> Result<Vec<Recovered>> {
        let mut found = Vec::new();
        for id in self.known_pods()? {
            let Ok(socket) = sys::socket::connect(&self.run_dir(&id).join("sock")) else { continue };
            let pod = self.tend(&id, Connection::new(&id, socket)?, true);
            match self.recover_pod(&pod).await {
                Ok(snapshot) => {
                    pod.link.end_expected.store(false, Ordering::SeqCst);
                    found.push(Recovered { pod, snapshot });
                }
                Err(EngineError::SupervisorLost { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// A snapshot in which nothing is about to start, of a pod that is kept from now on.
    async fn recover_pod(&self, pod: &Pod) -> Result<PodSnapshot> {
        let before = self.snapshot(pod).await?;
        if let Err(EngineError::Refused { message, .. }) = pod.ask(&Request::Keep { container: None }, &[]).await {
            tracing::warn!(pod = pod.id(), message, "the supervisor is older: if it dies, its pod must be made anew");
            return Ok(before);
        }
        for container in before.containers {
            let id = container.id;
            let keep = Request::Keep { container: Some(id.clone()) };
            // Answered when it has started.
            match tokio::time::timeout(START_PATIENCE, pod.ask(&keep, &[])).await {
                Ok(Ok(_)) | Ok(Err(EngineError::Refused { .. })) => {}
                Ok(Err(e)) => return Err(e),
                Err(_) => tracing::warn!(pod = pod.id(), container = id, "a container does not finish starting"),
            }
        }
        self.snapshot(pod).await
    }

    fn known_pods(&self) -> Result<Vec<String>> {
        let mut ids = std::collections::BTreeSet::new();
        for dir in [self.inner.config.run_dir.join("pods"), self.inner.config.state_dir.join("pods")] {
            for entry in std::fs::read_dir(&dir).map_err(io_error("list", &dir))? {
                ids.insert(entry.map_err(io_error("list", &dir))?.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// What is left of pods whose supervisor does not live: after a crash of it, or a reboot.
    pub fn orphans(&self) -> Result<Vec<Orphan>> {
        let ids = self.known_pods()?;
        let dead = ids.into_iter().filter(|id| sys::socket::connect(&self.run_dir(id).join("sock")).is_err());
        Ok(dead.map(|id| self.orphan(id)).collect())
    }

    fn orphan(&self, id: String) -> Orphan {
        let dir = self.state_dir(&id);
        let read = |path: PathBuf| std::fs::read(path).ok();
        let spec: Option<PodSandboxSpec> = read(dir.join("pod.json")).and_then(|b| serde_json::from_slice(&b).ok());
        let exit = |entry: std::fs::DirEntry| {
            let exit = serde_json::from_slice(&read(entry.path().join("exit.json"))?).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), exit))
        };
        let exits = std::fs::read_dir(&dir).into_iter().flatten().flatten().filter_map(exit).collect();
        let cgroup = spec.as_ref().and_then(|s| s.cgroup.as_ref());
        let processes = cgroup.map_or(0, |c| self.inner.cgroups.cgroup(&c.path).procs().len());
        Orphan { id, spec, exits, processes }
    }

    /// Ends and removes what is left of a pod without a supervisor: processes, cgroup, mounts, directories.
    pub async fn sweep(&self, orphan: &Orphan) -> Result<()> {
        if let Some(c) = orphan.spec.as_ref().and_then(|s| s.cgroup.as_ref()) {
            self.remove_cgroup(&c.path).await?;
        }
        let run_dir = self.run_dir(&orphan.id);
        if run_dir.join("shm").exists() {
            sys::mount::unmount_lazily(&run_dir.join("shm")).ok(); // EINVAL: it is not mounted, which is as well
        }
        for dir in [run_dir, self.state_dir(&orphan.id)] {
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &dir)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills everything in a cgroup and removes it and all below.
    pub async fn remove_cgroup(&self, path: &str) -> Result<()> {
        crate::hierarchies::remove(&self.inner.cgroups, path).await
    }

    /// Everything the supervisor knows.
    pub async fn snapshot(&self, pod: &Pod) -> Result<PodSnapshot> {
        match pod.ask(&Request::Snapshot, &[]).await?.0 {
            Reply::Snapshot(snapshot) => Ok(*snapshot),
            _ => unexpected(),
        }
    }

    /// Creates and starts a container. When this returns its program runs.
    pub async fn start_container(&self, pod: &Pod, spec: &ContainerSpec) -> Result<Started> {
        let boxed = Box::new(spec.clone());
        let request = if spec.process.selinux.is_some() || spec.mount_label.is_some() {
            Request::StartContainerWithLabels { spec: boxed }
        } else if !spec.hooks.is_empty() {
            Request::StartContainerWithHooks { spec: boxed }
        } else {
            Request::StartContainer { spec: boxed }
        };
        let record = ContainerRecord::of(spec);
        loop {
            match pod.ask_once(&request, &[], Some(&record)).await {
                // Whatever was half started is ended by the new supervisor.
                Err(EngineError::SupervisorLost { .. }) => pod.repaired().await?,
                Ok((Reply::Started { started, .. }, _)) => return Ok(started),
                Ok(_) => return unexpected(),
                Err(e) => return Err(e),
            }
        }
    }

    /// Runs one more process in a running container. `stdin` false: it reads nothing.
    pub async fn exec(&self, pod: &Pod, container: &str, exec: ExecSpec, stdin: bool) -> Result<ExecSession> {
        let fail =
            |source| EngineError::Io { verb: "create streams for an exec in", path: container.to_owned(), source };
        let tty = exec.tty;
        let request = Request::Exec { container: container.to_owned(), exec: Box::new(exec) };
        let mut streams = StdioStreams::default();
        let (reply, mut fds) = if tty {
            pod.ask_once(&request, &[], None).await?
        } else {
            let (theirs, local) = make_pipes([stdin, true, true]).map_err(fail)?;
            let [input, out, err] = theirs;
            let input = match input {
                Some(fd) => fd,
                None => std::fs::File::open("/dev/null").map_err(fail)?.into(),
            };
            streams = local;
            let borrowed: Vec<BorrowedFd<'_>> =
                [Some(&input), out.as_ref(), err.as_ref()].into_iter().flatten().map(|f| f.as_fd()).collect();
            pod.ask_once(&request, &borrowed, None).await?
        };
        let Reply::ExecStarted { exec, pid, .. } = reply else { return unexpected() };
        let mut terminal = None;
        if tty {
            let Some(master) = fds.pop() else { return unexpected() };
            terminal = Some(Terminal(sys::fd::dup_above(master.as_fd(), 3).map_err(fail)?));
            if stdin {
                let copy = sys::fd::dup_above(master.as_fd(), 3).map_err(fail)?;
                streams.stdin = Some(Stream::new(copy).map_err(fail)?);
            }
            streams.stdout = Some(Stream::new(master).map_err(fail)?);
        }
        let lost = || EngineError::SupervisorLost { pod: pod.id().to_owned() };
        let exit = pod.link.take_exec(exec).ok_or_else(lost)?;
        Ok(ExecSession { exec, pid, streams, terminal, exit, pod: pod.id().to_owned() })
    }

    /// Signals a process started by [`exec`](Self::exec).
    pub async fn kill_exec(&self, pod: &Pod, exec: u64, signal: i32) -> Result<()> {
        pod.ask(&Request::KillExec { exec, signal }, &[]).await.map(drop)
    }

    /// Connects to the streams of a running container from now on. A terminal has no stderr of its own.
    pub async fn attach(
        &self,
        pod: &Pod,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<StdioStreams> {
        let fail = |source| EngineError::Io { verb: "create streams to attach to", path: container.to_owned(), source };
        let (theirs, local) = make_pipes([stdin, stdout, stderr]).map_err(fail)?;
        let borrowed: Vec<BorrowedFd<'_>> = theirs.iter().flatten().map(|f| f.as_fd()).collect();
        let request = Request::Attach { container: container.to_owned(), stdin, stdout, stderr };
        pod.ask_once(&request, &borrowed, None).await?;
        Ok(local)
    }

    /// Signals the first process of a running container.
    pub async fn kill(&self, pod: &Pod, container: &str, signal: i32) -> Result<()> {
        pod.ask(&Request::Kill { container: container.to_owned(), signal, all: false }, &[]).await.map(drop)
    }

    /// Signals every process of a running container.
    pub async fn kill_all(&self, pod: &Pod, container: &str, signal: i32) -> Result<()> {
        pod.ask(&Request::Kill { container: container.to_owned(), signal, all: true }, &[]).await.map(drop)
    }

    /// Sets the window size of a container's terminal.
    pub async fn resize(&self, pod: &Pod, container: &str, columns: u16, rows: u16) -> Result<()> {
        pod.ask(&Request::Resize { container: container.to_owned(), columns, rows }, &[]).await.map(drop)
    }

    /// Opens the log file anew, after it was renamed.
    pub async fn reopen_log(&self, pod: &Pod, container: &str) -> Result<()> {
        pod.ask(&Request::ReopenLog { container: container.to_owned() }, &[]).await.map(drop)
    }

    /// Starts a new log file now.
    pub async fn rotate_log(&self, pod: &Pod, container: &str) -> Result<()> {
        pod.ask(&Request::RotateLog { container: container.to_owned() }, &[]).await.map(drop)
    }

    /// Forgets a container that has ended, and its exit record. Its upper directory is the caller's.
    pub async fn remove_container(&self, pod: &Pod, container: &str) -> Result<()> {
        pod.ask(&Request::RemoveContainer { container: container.to_owned() }, &[]).await?;
        pod.link.kept.lock().removed(container);
        Ok(())
    }

    /// The network namespace of the pod (the machine's own if it has none).
    pub async fn netns(&self, pod: &Pod) -> Result<OwnedFd> {
        if let Some(kept) = pod.link.kept.lock().network() {
            let fail = |source| EngineError::Io { verb: "keep the network of", path: pod.id().to_owned(), source };
            return sys::fd::dup_above(kept, 3).map_err(fail);
        }
        let (_, mut fds) = pod.ask(&Request::NetworkNamespace, &[]).await?;
        fds.pop().map_or_else(unexpected, Ok)
    }

    /// Changes limits of a container or pod in place. Returns the names of what this machine cannot limit.
    pub fn update_resources(&self, cgroup: &str, resources: &Resources) -> Result<Missing> {
        Ok(self.inner.cgroups.cgroup(cgroup).apply(&crate::supervisor::limits(resources, None))?)
    }

    /// Counters of a container or pod.
    pub fn stats(&self, cgroup: &str) -> Stats {
        self.inner.cgroups.cgroup(cgroup).stats()
    }

    /// Processes of a container or pod.
    pub fn processes(&self, cgroup: &str) -> BTreeSet<i32> {
        self.inner.cgroups.cgroup(cgroup).procs()
    }

    /// Kills what runs in the pod, removes every trace of it and ends its supervisor.
    pub async fn remove_pod(&self, pod: &Pod) -> Result<()> {
        pod.link.end_expected.store(true, Ordering::SeqCst);
        match pod.ask(&Request::RemovePod, &[]).await {
            Err(EngineError::SupervisorLost { .. }) => self.sweep(&self.orphan(pod.id().to_owned())).await,
            other => other.map(drop),
        }
    }
}

// === impl Pod ===

impl Pod {
    /// The pod's id.
    pub fn id(&self) -> &str {
        &self.link.pod
    }

    fn lost(&self) -> EngineError {
        EngineError::SupervisorLost { pod: self.link.pod.clone() }
    }

    /// Waits while the supervisor is being replaced.
    async fn way(&self) -> Result<Arc<Connection>> {
        let mut states = self.link.state.subscribe();
        loop {
            match &*states.borrow_and_update() {
                Way::Open(connection) if !connection.is_lost() => return Ok(connection.clone()),
                Way::Gone => return Err(self.lost()),
                Way::Open(_) | Way::Repaired => {}
            }
            states.changed().await.map_err(|_| self.lost())?;
        }
    }

    /// After a loss: another supervisor is there.
    async fn repaired(&self) -> Result<()> {
        self.way().await.map(drop)
    }

    /// Asks, and asks again if the supervisor dies: for what can be asked twice.
    async fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        loop {
            match self.ask_once(request, fds, None).await {
                Err(EngineError::SupervisorLost { .. }) => self.repaired().await?,
                other => return other,
            }
        }
    }

    async fn ask_once(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        record: Option<&ContainerRecord>,
    ) -> Result<Answer> {
        let connection = self.way().await?;
        let id = self.link.next.fetch_add(1, Ordering::Relaxed);
        let receiver = connection.expect(id, record.cloned().map(Box::new)).ok_or_else(|| self.lost())?;
        if !connection.send(&self.link.pod, id, request, fds).await? {
            connection.lose();
            return Err(self.lost());
        }
        accepted(receiver.await.map_err(|_| self.lost())?)
    }
}

// === impl Connection and Link ===

impl Connection {
    fn new(pod: &str, socket: OwnedFd) -> Result<Self> {
        let fail = |source| EngineError::Io { verb: "connect to the supervisor of", path: pod.to_owned(), source };
        sys::fd::set_nonblocking(socket.as_fd(), true).map_err(fail)?;
        #[expect(
            deprecated,
            reason = "`register` is unsafe only for types that may give their descriptor away; OwnedFd cannot"
        )]
        let socket = AsyncFd::new(socket).map_err(fail)?;
        Ok(Connection { socket, pending: Mutex::new(Some(HashMap::new())) })
    }

    /// Registers for an answer; `None` if the connection is lost.
    fn expect(&self, id: u32, record: Option<Box<ContainerRecord>>) -> Option<oneshot::Receiver<Answer>> {
        let (answer, receiver) = oneshot::channel();
        self.pending.lock().as_mut()?.insert(id, Pending { answer, record });
        Some(receiver)
    }

    fn is_lost(&self) -> bool {
        self.pending.lock().is_none()
    }

    /// Whoever waits for an answer learns that none will come.
    fn lose(&self) {
        self.pending.lock().take();
    }

    /// False if nobody is at the other end.
    async fn send(&self, pod: &str, id: u32, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<bool> {
        let fail = |source| EngineError::Io { verb: "ask the supervisor of", path: pod.to_owned(), source };
        let message = protocol::encode(Kind::Request, id, request).map_err(fail)?;
        loop {
            let mut guard = self.socket.writable().await.map_err(fail)?;
            match guard.try_io(|socket| message.send(socket.get_ref().as_fd(), fds, true)) {
                Ok(Ok(())) => return Ok(true),
                Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) => {
                    return Ok(false);
                }
                Ok(Err(e)) => return Err(fail(e)),
                Err(_would_block) => {}
            }
        }
    }

    /// The next packet; `None` at the end.
    async fn receive(&self, pod: &str) -> Option<protocol::Packet> {
        loop {
            let mut guard = self.socket.readable().await.ok()?;
            match guard.try_io(|socket| protocol::receive(socket.get_ref().as_fd(), true)) {
                Err(_would_block) => {}
                Ok(Ok(packet)) => return packet,
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ECONNRESET) => return None,
                Ok(Err(e)) => {
                    tracing::warn!(pod, error = %e, "the connection to a supervisor broke");
                    return None;
                }
            }
        }
    }
}

impl Link {
    fn take_exec(&self, exec: u64) -> Option<oneshot::Receiver<i32>> {
        let mut execs = self.execs.lock();
        let wait = execs.get_mut(&exec)?;
        let receiver = wait.taken.take();
        // It ended before anybody asked: the code is in the receiver, and the entry has done its work.
        if wait.exit.is_closed() {
            execs.remove(&exec);
        }
        receiver
    }

    fn exec_exited(&self, exec: u64, code: i32) {
        let mut execs = self.execs.lock();
        let Some(wait) = execs.remove(&exec) else { return };
        let receiver = wait.taken;
        // A failure means that the session was dropped.
        wait.exit.send(code).ok();
        if let Some(receiver) = receiver {
            let (closed, _) = oneshot::channel();
            execs.insert(exec, ExecWait { exit: closed, taken: Some(receiver), process: None });
        }
    }

    fn dispatch(
        &self,
        connection: &Connection,
        mut packet: protocol::Packet,
        events: &mpsc::UnboundedSender<EngineEvent>,
    ) {
        if packet.kind == Kind::Event as u16 {
            match packet.parse::<Event>() {
                Ok(event) => self.happened(event, events),
                Err(e) => tracing::warn!(pod = self.pod, error = %e, "an unknown event of a supervisor was ignored"),
            }
            return;
        }
        let reply = packet.parse::<Reply>().unwrap_or_else(|e| Reply::Failed {
            reason: Reason::Unsupported,
            message: format!("the answer of the supervisor was not understood: {e}"),
        });
        let mut fds = std::mem::take(&mut packet.fds);
        let waiting = connection.pending.lock().as_mut().and_then(|p| p.remove(&packet.id));
        let Some(Pending { answer, record }) = waiting else { return };
        self.keep(&reply, record, &mut fds);
        // The caller has given up waiting; its descriptors close here.
        drop(answer.send((reply, fds)));
    }

    fn happened(&self, event: Event, events: &mpsc::UnboundedSender<EngineEvent>) {
        match &event {
            Event::ExecExited { exec, code } => return self.exec_exited(*exec, *code),
            Event::Exited { container, exit } => self.kept.lock().exited(container, exit),
            Event::LogFault { .. } => {}
        }
        // Nobody listens only when the engine is gone.
        events.send(EngineEvent::Pod { pod: self.pod.clone(), event }).ok();
    }

    /// Takes out of an answer what is to be kept.
    fn keep(&self, reply: &Reply, record: Option<Box<ContainerRecord>>, fds: &mut Vec<OwnedFd>) {
        let mut kept = self.kept.lock();
        match reply {
            Reply::KeptPod { created_at_ns, parts } => {
                kept.pod = Some((*created_at_ns, Parts::new(parts, std::mem::take(fds))));
                self.end_expected.store(false, Ordering::SeqCst);
            }
            Reply::KeptContainer { record, state, parts } => {
                let parts = Parts::new(parts, std::mem::take(fds));
                kept.put(KeptContainer { record: *record.clone(), state: state.clone(), parts });
            }
            Reply::Started { started, parts } => {
                if let Some(record) = record {
                    kept.started(*record, started.clone(), Parts::new(parts, std::mem::take(fds)));
                }
            }
            Reply::ExecStarted { exec, pid, pidfd } => {
                let process = (*pidfd && !fds.is_empty()).then(|| (*pid, Arc::new(fds.remove(0))));
                let (exit, receiver) = oneshot::channel();
                self.execs.lock().insert(*exec, ExecWait { exit, taken: Some(receiver), process });
            }
            Reply::Done | Reply::Snapshot(_) | Reply::Failed { .. } => {}
        }
    }
}

fn accepted(answer: Answer) -> Result<Answer> {
    match answer.0 {
        Reply::Failed { reason, message } => Err(EngineError::Refused { reason, message }),
        _ => Ok(answer),
    }
}

fn refused<T>(reason: Reason, message: String) -> Result<T> {
    Err(EngineError::Refused { reason, message })
}

fn unexpected<T>() -> Result<T> {
    refused(Reason::Internal, "the supervisor gave an answer to another question".into())
}

fn io_error(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> EngineError {
    let path = path.display().to_string();
    move |source| EngineError::Io { verb, path: path.clone(), source }
}

fn io_stdio(file: &std::fs::File) -> io::Result<std::process::Stdio> {
    file.try_clone().map(Into::into)
}

/// The other side's ends of stdin, stdout, stderr, and ours.
fn make_pipes(wanted: [bool; 3]) -> io::Result<([Option<OwnedFd>; 3], StdioStreams)> {
    let (mut theirs, mut local) = ([None, None, None], StdioStreams::default());
    if wanted[0] {
        let (r, w) = sys::fd::pipe()?;
        theirs[0] = Some(r);
        local.stdin = Some(Stream::new(w)?);
    }
    for (at, slot) in [(1, &mut local.stdout), (2, &mut local.stderr)] {
        if wanted[at] {
            let (r, w) = sys::fd::pipe()?;
            theirs[at] = Some(w);
            *slot = Some(Stream::new(r)?);
        }
    }
    Ok((theirs, local))
}

/// The program through a detached read-only mount: even a container that gets hold of `/proc/<pid>/exe` cannot open it for
/// writing, and unlike a memfd it costs no memory. Then a sealed memfd, then the plain file with a warning.
fn read_only_exe(exe: &Path) -> io::Result<OwnedFd> {
    let mounted = sys::mount::Detached::clone_path(exe, false).and_then(|tree| {
        tree.set(sys::mount::Attr::RDONLY, Some(sys::mount::Propagation::Private), false)?;
        sys::fd::dup_above(tree.as_fd(), 3)
    });
    if let Ok(fd) = mounted {
        return Ok(fd);
    }
    let mut file = std::fs::File::open(exe)?;
    sys::fd::sealed_memfd("dhow", &mut file).or_else(|e| {
        tracing::warn!(error = %e, "the zygote runs from the plain program file, which privileged containers could overwrite");
        Ok(std::fs::File::open(exe)?.into())
    })
}

/// Some descriptors per container are kept, and 1024 is what systems begin with. Returns what it was.
fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = sys::process::rlimit(libc::RLIMIT_NOFILE) else { return 1024 };
    if let Err(e) = sys::process::set_rlimit(libc::RLIMIT_NOFILE, hard, hard) {
        tracing::warn!(error = %e, "the number of open files stays limited to {soft}");
    }
    soft
}
