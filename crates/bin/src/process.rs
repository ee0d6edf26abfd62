//! One dhow per run directory: who runs, starting one in the background, ending it.
//!
//! The running process holds a lock on `<run>/dhow.lock` and writes its pid there; the lock dies with it, so a stale file
//! is never mistaken for a running dhow.

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use thiserror::Error;

/// The line on standard output by which a background dhow says that it is ready.
const READY: &str = "ready";

/// Starting, finding or ending the process failed.
#[derive(Debug, Error)]
pub(crate) enum ProcessError {
    /// Somebody else has the run directory.
    #[error("dhow already runs as process {pid}; see `dhow status`")]
    Running {
        /// The other process.
        pid: i32,
    },
    /// A file or system call failed.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The background process ended before it was ready.
    #[error("dhow did not start; the end of {}:\n{tail}", log.display())]
    Died {
        /// The whole log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ProcessError {
    let what = what.into();
    move |source| ProcessError::Io { what, source }
}

/// Proof that we are the only dhow of a run directory.
pub(crate) struct Instance {
    _lock: File,
}

fn lock_path(run_dir: &Path) -> PathBuf {
    run_dir.join("dhow.lock")
}

fn open_lock(run_dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(lock_path(run_dir))
}

impl Instance {
    /// Takes the run directory, or says who has it.
    pub(crate) fn acquire(run_dir: &Path) -> Result<Self, ProcessError> {
        std::fs::create_dir_all(run_dir).map_err(io_error(format!("create {}", run_dir.display())))?;
        let what = || format!("open {}", lock_path(run_dir).display());
        let mut lock = open_lock(run_dir).map_err(io_error(what()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ProcessError::Running { pid: read_pid(&mut lock).unwrap_or(0) });
        }
        lock.set_len(0).map_err(io_error(what()))?;
        write!(lock, "{}", std::process::id()).map_err(io_error(what()))?;
        Ok(Instance { _lock: lock })
    }

    /// The process that has the run directory, if any.
    pub(crate) fn find(run_dir: &Path) -> Option<i32> {
        let mut lock = OpenOptions::new().read(true).open(lock_path(run_dir)).ok()?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => read_pid(&mut lock),
        }
    }
}

fn read_pid(lock: &mut File) -> Option<i32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Starts this binary again with `args`, detached, its log in `log`; passes on what it says until it is ready.
#[expect(clippy::disallowed_methods, reason = "the program that is started is dhow itself")]
pub(crate) fn start_in_background(args: &[String], log: &Path, mut say: impl FnMut(&str)) -> Result<(), ProcessError> {
    let folder = log.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(io_error(format!("create {}", folder.display())))?;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let mut file = file.map_err(io_error(format!("open {}", log.display())))?;
    let begin = file.seek(io::SeekFrom::End(0)).map_err(io_error(format!("open {}", log.display())))?;
    let program = std::env::current_exe().map_err(io_error("find dhow's own binary"))?;
    let mut child = std::process::Command::new(program)
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(io_error("start dhow in the background"))?;
    let output = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if line == READY {
            return Ok(());
        }
        say(&line);
    }
    // It ended; reap it so that nothing is left behind.
    drop(child.wait());
    Err(ProcessError::Died { log: log.to_owned(), tail: tail(log, begin) })
}

/// The last lines that were written after `begin`.
fn tail(log: &Path, begin: u64) -> String {
    const LINES: usize = 12;
    let mut text = String::new();
    let read = File::open(log).and_then(|mut f| {
        f.seek(io::SeekFrom::Start(begin))?;
        f.read_to_string(&mut text)
    });
    if read.is_err() {
        return "(the log cannot be read)".into();
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Leaves the terminal and session of whoever started us.
pub(crate) fn detach() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "already a session leader");
    }
}

/// Tells the starter that we are ready and lets go of its pipe.
pub(crate) fn tell_ready() -> Result<(), ProcessError> {
    let mut out = io::stdout();
    // The starter may be gone already; that is no reason to stop.
    drop(writeln!(out, "{READY}").and_then(|()| out.flush()));
    let null = OpenOptions::new().write(true).open("/dev/null").map_err(io_error("open /dev/null"))?;
    rustix::stdio::dup2_stdout(&null).map_err(|e| io_error("let go of standard output")(e.into()))
}

/// Asks process `pid` to end and waits until it has.
pub(crate) fn end(pid: i32) -> Result<(), ProcessError> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    let what = |verb: &str| format!("{verb} process {}", pid.as_raw_nonzero());
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(e) => return Err(io_error(what("find"))(e.into())),
    };
    match rustix::process::pidfd_send_signal(&pidfd, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(e) => return Err(io_error(what("signal"))(e.into())),
    }
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut poll, None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io_error(what("wait for"))(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_has_one_owner_until_it_lets_go() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(Instance::find(dir.path()), None);
        let first = Instance::acquire(dir.path()).expect("free");
        let pid = i32::try_from(std::process::id()).expect("fits");
        assert_eq!(Instance::find(dir.path()), Some(pid));
        assert!(matches!(Instance::acquire(dir.path()), Err(ProcessError::Running { pid: p }) if p == pid));
        drop(first);
        assert_eq!(Instance::find(dir.path()), None);
        Instance::acquire(dir.path()).expect("free again");
    }
}
