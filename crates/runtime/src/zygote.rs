//! The zygote: a small single-threaded process from the same binary that forks one supervisor per pod on request.
//!
//! It exists so that a supervisor costs a fork of something tiny instead of an exec of a large binary (ENGINE §6.1). It holds no
//! state: when the agent is gone it ends, and the supervisors go on. Invariant: entered before any thread, runtime or logging.

use crate::protocol::{self, Kind, Reason, Reply, Request};
use crate::supervisor;
use std::os::fd::{AsFd, OwnedFd};
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
    let cgroups = sys::cgroup::Cgroups::detect().map_err(std::io::Error::other)?;
    loop {
        let Some(mut packet) = protocol::receive(control.as_fd(), false)? else { return Ok(()) };
        let client = (packet.fds.len() == 1).then(|| packet.fds.pop()).flatten();
        match (packet.parse::<Request>(), client) {
            (Ok(Request::CreatePod { spec, run_dir, state_dir, adopt }), Some(client)) => match single.fork() {
                Ok(Forked::Parent(_)) => {}
                Ok(Forked::Child) => {
                    drop(control);
                    let code = supervisor::main(single, *spec, cgroups, run_dir, state_dir, adopt, client);
                    sys::process::exit_now(code);
                }
                Err(e) => refuse(&client, Reason::Internal, format!("failed to fork a supervisor: {e}")),
            },
            (Ok(_), Some(client)) => refuse(&client, Reason::Unsupported, "not a request to the zygote".into()),
            (Err(e), Some(client)) => refuse(&client, Reason::Unsupported, e.to_string()),
            (_, None) => eprintln!("zygote: a request without its socket was ignored"),
        }
    }
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
