//! The zygote: a small single-threaded process from the same binary that forks one supervisor per pod on request.
//!
//! It exists so that a supervisor costs a fork of something tiny instead of an exec of a large binary (ENGINE §6.1). Some are there
//! in advance, with namespaces, so that a pod waits for neither; whoever wants to is told of these, to furnish them. It holds no state:
//! when the agent is gone it ends with all spare ones, and the supervisors go on. Invariant: entered before any thread, runtime or logging.

use crate::protocol::{self, Kind, Packet, Reason, Reply, Request};
use crate::supervisor::{self, Beginning};
use std::os::fd::{AsFd, OwnedFd};
use sys::cgroup::Cgroups;
use sys::fd::PollFd;
use sys::netlink::netns;
use sys::process::{Forked, SingleThreaded};

/// Arguments of the zygote in `argv`, after the word `zygote`: the cgroup for it and the supervisors (`-` for none), and how many open
/// files containers may have unless they ask for more. The control socket is standard input.
pub(crate) const WORD: &str = "zygote";

/// Runs the zygote until the agent closes its socket. Returns the exit code of the process.
///
/// `args` is what follows `zygote` on the command line. Must be called first thing in `main`.
pub fn main(args: &[String]) -> i32 {
    match serve(args) {
        Ok(()) => 0,
        Err(e) => {
            say!("zygote: {e}");
            1
        }
    }
}

fn serve(args: &[String]) -> std::io::Result<()> {
    let single = SingleThreaded::prove()?;
    sys::process::set_name("dhow-zygote")?;
    sys::process::umask(0o022);
    // Stopping a service signals its whole cgroup; containers must outlive that, and only the agent may end us.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGCHLD] {
        sys::process::set_signal_ignored(signal, true)?;
    }
    sys::process::setsid().ok(); // fails only for a process group leader, which then has its own group already
    let control = sys::fd::dup_above(std::io::stdin().as_fd(), 3)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    sys::fd::dup_onto(null.as_fd(), 0)?;
    drop(null);
    if let Some(path) = args.first().filter(|p| p.as_str() != "-")
        && let Err(e) = join_cgroup(path)
    {
        say!("zygote: supervisors stay in the cgroup of the agent: {}", base::chain(&e));
    }
    if let Some(soft) = args.get(1).and_then(|n| n.parse().ok()) {
        // The agent raised its own.
        let (_, hard) = sys::process::rlimit(libc::RLIMIT_NOFILE)?;
        sys::process::set_rlimit(libc::RLIMIT_NOFILE, soft, hard)?;
    }
    // Once for all supervisors to come, who inherit it.
    crate::seccomp::prepare();
    let cgroups = Cgroups::detect().map_err(std::io::Error::other)?;
    Zygote { single, cgroups, control, spares: Vec::new(), listener: None, refill: true }.run()
}

/// How many supervisors wait for a pod.
pub(crate) const SPARES: usize = 2;
/// How long nothing must have been asked for before a missing one is forked. Namespaces cost a millisecond of a processor, and what a
/// pod does at its start comes first.
const REFILL_AFTER_MS: i32 = 10;

struct Zygote {
    single: SingleThreaded,
    cgroups: Cgroups,
    control: OwnedFd,
    /// Oldest first.
    spares: Vec<Spare>,
    /// Who wants to know of network namespaces in advance.
    listener: Option<OwnedFd>,
    /// False after one failed: until the next request there is no reason why another should not.
    refill: bool,
}

/// A supervisor without a pod. It ends when its socket does.
struct Spare {
    socket: OwnedFd,
    /// Once it has namespaces.
    network: Option<netns::Owned>,
}

impl Zygote {
    fn run(mut self) -> std::io::Result<()> {
        loop {
            let timeout = match self.spares.len() {
                _ if !self.refill => None,
                0 => Some(0),
                n if n < SPARES => Some(REFILL_AFTER_MS),
                _ => None,
            };
            let all = std::iter::once(&self.control).chain(self.spares.iter().map(|s| &s.socket));
            let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd.as_fd(), true, false)).collect();
            let quiet = sys::fd::poll(&mut fds, timeout)? == 0;
            let ready: Vec<bool> = fds.iter().map(PollFd::any).collect();
            if quiet && timeout.is_some() {
                self = self.fork_spare();
            }
            // From behind: one that is taken out moves none that is still to come.
            for at in (0..ready.len() - 1).rev().filter(|at| ready[at + 1]) {
                self.hear(at);
            }
            if ready[0] {
                let Some(packet) = protocol::receive(self.control.as_fd(), false)? else { return Ok(()) };
                self = self.serve(packet);
            }
        }
    }

    fn serve(mut self, mut packet: Packet) -> Self {
        self.refill = true;
        let client = (packet.fds.len() == 1).then(|| packet.fds.pop()).flatten();
        match (packet.parse::<Request>(), client) {
            (Ok(request @ Request::CreatePod { .. }), Some(client)) => return self.create_pod(request, client),
            (Ok(Request::TellNetworks), Some(client)) => {
                let known = self.spares.iter().filter_map(|s| s.network.as_ref());
                known.for_each(|network| drop(tell(&client, network)));
                self.listener = Some(client);
            }
            (Ok(_), Some(client)) => refuse(&client, Reason::Unsupported, "not a request to the zygote".into()),
            (Err(e), Some(client)) => refuse(&client, Reason::Unsupported, e.to_string()),
            (_, None) => say!("zygote: a request without its socket was ignored"),
        }
        self
    }

    fn create_pod(mut self, request: Request, client: OwnedFd) -> Self {
        while supervisor::wants_own_namespaces(&request) && !self.spares.is_empty() {
            if hand_over(&self.spares.remove(0).socket, &request, &client) {
                return self;
            }
        }
        match self.single.fork() {
            Ok(Forked::Parent(_)) => self,
            Ok(Forked::Child) => {
                let (single, cgroups) = self.let_go();
                supervise(single, request, cgroups, Beginning::Bare, client);
            }
            Err(e) => {
                refuse(&client, Reason::Internal, format!("failed to fork a supervisor: {e}"));
                self
            }
        }
    }

    /// In a child: a copy of a socket would keep a spare one waiting when the zygote is gone, one of a namespace would keep that.
    fn let_go(self) -> (SingleThreaded, Cgroups) {
        (self.single, self.cgroups)
    }

    fn fork_spare(mut self) -> Self {
        let forked = sys::socket::pair().and_then(|(ours, theirs)| Ok((self.single.fork()?, ours, theirs)));
        match forked {
            Ok((Forked::Parent(_), socket, _theirs)) => self.spares.push(Spare { socket, network: None }),
            Ok((Forked::Child, parents, socket)) => {
                // With both ends it would never see the other one close.
                drop(parents);
                let (single, cgroups) = self.let_go();
                wait_for_pod(single, cgroups, socket);
            }
            Err(e) => {
                say!("zygote: failed to fork a supervisor in advance: {e}");
                self.refill = false;
            }
        }
        self
    }

    /// A spare one has its namespaces, or is gone.
    fn hear(&mut self, at: usize) {
        let packet = protocol::receive(self.spares[at].socket.as_fd(), true);
        match packet.ok().flatten().and_then(network_of) {
            Some(network) => {
                if self.listener.as_ref().is_some_and(|to| tell(to, &network).is_err()) {
                    self.listener = None;
                }
                self.spares[at].network = Some(network);
            }
            None => {
                self.spares.remove(at);
                self.refill = false;
            }
        }
    }
}

/// Tells of a network namespace. Who does not take it in time does without.
fn tell(to: &OwnedFd, network: &netns::Owned) -> std::io::Result<()> {
    let fds = [network.netns.as_fd(), network.owner.as_fd()];
    protocol::encode(Kind::Reply, 0, &Reply::Done)?.send(to.as_fd(), &fds, true)
}

/// What [`tell`] told.
pub(crate) fn network_of(packet: Packet) -> Option<netns::Owned> {
    let [netns, owner] = packet.fds.try_into().ok()?;
    Some(netns::Owned { netns, owner })
}

/// False if the spare one is gone.
fn hand_over(spare: &OwnedFd, request: &Request, client: &OwnedFd) -> bool {
    let sent = protocol::encode(Kind::Request, 0, request).and_then(|m| m.send(spare.as_fd(), &[client.as_fd()], true));
    sent.is_ok()
}

/// Ends with the zygote, unless its pod comes before.
fn wait_for_pod(single: SingleThreaded, cgroups: Cgroups, socket: OwnedFd) -> ! {
    let prepare = || {
        sys::process::set_name("dhow-spare")?;
        let prepared = supervisor::prepare()?;
        let netns = std::fs::File::open("/proc/self/ns/net")?.into();
        Ok::<_, std::io::Error>((
            prepared,
            netns::Owned { netns, owner: sys::process::pidfd_open(std::process::id() as sys::process::Pid)? },
        ))
    };
    // A supervisor that is forked when it is needed fails alike, and tells why.
    let Ok((prepared, network)) = prepare() else { sys::process::exit_now(1) };
    // Nobody hears it if its pod has come already: the zygote has closed its end then.
    tell(&socket, &network).ok();
    drop(network);
    let packet = match protocol::receive(socket.as_fd(), false) {
        // The zygote has closed its end without having read our word. The kernel says that first, then what was sent before.
        Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => protocol::receive(socket.as_fd(), false),
        other => other,
    };
    drop(socket);
    let Some(mut packet) = packet.ok().flatten() else { sys::process::exit_now(0) };
    match (packet.parse::<Request>(), packet.fds.pop()) {
        (Ok(request), Some(client)) => supervise(single, request, cgroups, Beginning::Prepared(prepared), client),
        _ => sys::process::exit_now(1),
    }
}

fn supervise(single: SingleThreaded, request: Request, cgroups: Cgroups, begin: Beginning, client: OwnedFd) -> ! {
    let Request::CreatePod { spec, run_dir, state_dir, adopt } = request else { sys::process::exit_now(1) };
    let begin = if adopt { Beginning::Adopting } else { begin };
    sys::process::exit_now(supervisor::main(single, *spec, cgroups, run_dir, state_dir, begin, client))
}

fn join_cgroup(path: &str) -> sys::cgroup::Result<()> {
    let cgroup = sys::cgroup::Cgroups::detect()?.cgroup(path);
    cgroup.create()?;
    cgroup.join()
}

fn refuse(client: &OwnedFd, reason: Reason, message: String) {
    let sent = protocol::encode(Kind::Reply, 0, &Reply::Failed { reason, message })
        .and_then(|m| m.send(client.as_fd(), &[], true));
    if let Err(e) = sent {
        say!("zygote: failed to answer: {e}");
    }
}
