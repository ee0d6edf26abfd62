//! The zygote: a small single-threaded process from the same binary that forks one supervisor per pod on request.
//!
//! It exists so that a supervisor costs a fork of something tiny instead of an exec of a large binary (ENGINE §6.1). One is always there
//! in advance, with namespaces, so that a pod waits for neither. It holds no state: when the agent is gone it ends, and the
//! supervisors go on. Invariant: entered before any thread, runtime or logging.

use crate::protocol::{self, Kind, Reason, Reply, Request};
use crate::supervisor::{self, Beginning};
use std::os::fd::{AsFd, OwnedFd};
use sys::cgroup::Cgroups;
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
            eprintln!("zygote: {e}");
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
        eprintln!("zygote: supervisors stay in the cgroup of the agent: {}", base::chain(&e));
    }
    if let Some(soft) = args.get(1).and_then(|n| n.parse().ok()) {
        // The agent raised its own.
        let (_, hard) = sys::process::rlimit(libc::RLIMIT_NOFILE)?;
        sys::process::set_rlimit(libc::RLIMIT_NOFILE, soft, hard)?;
    }
    // Once for all supervisors to come, who inherit it.
    crate::seccomp::prepare();
    let cgroups = Cgroups::detect().map_err(std::io::Error::other)?;
    let mut spare: Option<OwnedFd> = None;
    loop {
        if spare.is_none() {
            match fork_spare(single) {
                Ok((Forked::Parent(_), socket)) => spare = Some(socket),
                Ok((Forked::Child, socket)) => {
                    drop(control);
                    wait_for_pod(single, cgroups, socket);
                }
                // Then supervisors are forked when they are needed.
                Err(e) => eprintln!("zygote: failed to fork a supervisor in advance: {e}"),
            }
        }
        let Some(mut packet) = protocol::receive(control.as_fd(), false)? else { return Ok(()) };
        let client = (packet.fds.len() == 1).then(|| packet.fds.pop()).flatten();
        match (packet.parse::<Request>(), client) {
            (Ok(request @ Request::CreatePod { .. }), Some(client)) => {
                let waits = if supervisor::wants_own_namespaces(&request) { spare.take() } else { None };
                if waits.is_some_and(|spare| hand_over(&spare, &request, &client)) {
                    continue;
                }
                match single.fork() {
                    Ok(Forked::Parent(_)) => {}
                    Ok(Forked::Child) => {
                        // A copy of this would keep the spare one waiting when the zygote is gone.
                        drop((control, spare));
                        supervise(single, request, cgroups, Beginning::Bare, client);
                    }
                    Err(e) => refuse(&client, Reason::Internal, format!("failed to fork a supervisor: {e}")),
                }
            }
            (Ok(_), Some(client)) => refuse(&client, Reason::Unsupported, "not a request to the zygote".into()),
            (Err(e), Some(client)) => refuse(&client, Reason::Unsupported, e.to_string()),
            (_, None) => eprintln!("zygote: a request without its socket was ignored"),
        }
    }
}

/// Forks a supervisor without a pod; with either side's end of a socket between both.
fn fork_spare(single: SingleThreaded) -> std::io::Result<(Forked, OwnedFd)> {
    let (ours, theirs) = sys::socket::pair()?;
    let forked = single.fork()?;
    let end = if matches!(forked, Forked::Child) { theirs } else { ours };
    Ok((forked, end))
}

/// False if the spare one is gone.
fn hand_over(spare: &OwnedFd, request: &Request, client: &OwnedFd) -> bool {
    let sent = protocol::encode(Kind::Request, 0, request).and_then(|m| m.send(spare.as_fd(), &[client.as_fd()], true));
    sent.is_ok()
}

/// Ends with the zygote, unless its pod comes before.
fn wait_for_pod(single: SingleThreaded, cgroups: Cgroups, socket: OwnedFd) -> ! {
    if sys::process::set_name("dhow-spare").is_err() || supervisor::make_namespaces().is_err() {
        // A supervisor that is forked when it is needed fails alike, and tells why.
        sys::process::exit_now(1);
    }
    let packet = protocol::receive(socket.as_fd(), false).ok().flatten();
    drop(socket);
    let Some(mut packet) = packet else { sys::process::exit_now(0) };
    match (packet.parse::<Request>(), packet.fds.pop()) {
        (Ok(request), Some(client)) => supervise(single, request, cgroups, Beginning::Prepared, client),
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
        eprintln!("zygote: failed to answer: {e}");
    }
}
