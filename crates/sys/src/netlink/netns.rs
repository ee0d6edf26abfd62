//! Network namespaces as file descriptors. A thread's namespace is part of the thread, and a tokio worker must never
//! leave home: everything here happens in a thread that ends before the call returns.

use super::NetlinkError;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A network namespace of a process.
#[derive(Debug)]
pub struct Owned {
    /// The namespace.
    pub netns: OwnedFd,
    /// The pidfd of the process. Nobody needs the namespace when that has ended.
    pub owner: OwnedFd,
}

/// Makes a network namespace that lives as long as somebody holds its descriptor (or a process is in it).
pub fn create() -> Result<OwnedFd, NetlinkError> {
    let made = in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    });
    made.map_err(|source| NetlinkError::Namespace { op: "create a network namespace".into(), source })
}

/// Runs `work` in a thread that is inside the network namespace, and returns what it returns. Sockets made by `work`
/// stay in that namespace and may be used anywhere afterwards; `/proc/sys/net` inside `work` is the namespace's.
pub fn within<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetlinkError> {
    let done = in_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    });
    done.map_err(|source| NetlinkError::Namespace { op: "enter a network namespace".into(), source })
}

/// The network namespace of the calling thread.
pub fn current() -> Result<OwnedFd, NetlinkError> {
    let file = File::open("/proc/thread-self/ns/net");
    file.map(Into::into)
        .map_err(|source| NetlinkError::Namespace { op: "open the current network namespace".into(), source })
}

/// Writes `/proc/sys/net/<path>` of the calling thread's namespace, unless it has that value already.
/// Returns the value before.
pub fn write_sysctl(path: &str, value: &str) -> Result<String, NetlinkError> {
    let file = format!("/proc/sys/net/{path}");
    let fail = |op: &str, source| NetlinkError::Namespace { op: format!("{op} {file}"), source };
    let before = std::fs::read_to_string(&file).map_err(|e| fail("read", e))?.trim().to_owned();
    if before != value {
        std::fs::write(&file, value).map_err(|e| fail(&format!("write {value:?} to"), e))?;
    }
    Ok(before)
}

/// A thread that may do what it likes to its namespaces, because it ends.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
