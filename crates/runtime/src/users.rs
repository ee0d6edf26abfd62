//! User namespaces: the root of such a pod is nobody on the machine.
//!
//! The supervisor makes the pod's namespaces in a child that is born into a new user namespace, so that they belong to it, joins them
//! (but not that one) and lets the child go; whatever belongs to it keeps the user namespace. A launcher prepares the container with
//! the rights of the machine and enters at the end, in a copy of its mounts that nobody inside can change. Differs from runc: the PID
//! namespace is the machine's, so nothing inside can mount a `/proc` of it; programs that want one make a PID namespace, too.

use crate::spec::{IdRange, PodSandboxSpec};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use sys::fd::PollFd;
use sys::process::{Cloned, SingleThreaded};

/// The user namespace of a pod, seen from outside.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) namespace: OwnedFd,
    pub(crate) ids: IdRange,
}

impl Users {
    /// That of the pod whose other namespaces the caller is in.
    pub(crate) fn of_pod(pod: &PodSandboxSpec) -> io::Result<Option<Users>> {
        let Some(ids) = pod.users else { return Ok(None) };
        let ipc = std::fs::File::open("/proc/self/ns/ipc")?;
        Ok(Some(Users { namespace: sys::process::owner_of(ipc.as_fd())?, ids }))
    }

    /// An id inside, as the machine has it; none if it has none.
    pub(crate) fn on_machine(&self, id: u32) -> Option<u32> {
        (id < self.ids.length).then(|| self.ids.first.saturating_add(id))
    }

    /// Enters, with a copy of the mounts and the cgroups that belongs to it.
    pub(crate) fn enter_new(&self) -> io::Result<()> {
        sys::process::setns(self.namespace.as_fd(), libc::CLONE_NEWUSER)?;
        sys::process::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP)
    }
}

/// Makes namespaces (`CLONE_NEW*`) that belong to a new user namespace, and joins them. `furnish` runs inside, as its root.
pub(crate) fn make(
    single: SingleThreaded,
    ids: IdRange,
    namespaces: i32,
    furnish: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let said = |e: io::Error| crate::launcher::reason(&e);
    let (ours, theirs) = sys::socket::pair().map_err(said)?;
    match single.clone(libc::CLONE_NEWUSER | namespaces, None).map_err(said)? {
        Cloned::Child => {
            let answer = inside(theirs.as_fd(), furnish).err().unwrap_or_default();
            // Nobody to be told is nobody to care.
            sys::socket::send(theirs.as_fd(), &[b"A", answer.as_bytes()], &[], false).ok();
            sys::process::exit_now(0)
        }
        Cloned::Parent(pid, pidfd) => {
            drop(theirs);
            let made = outside(pid, ids, namespaces, ours.as_fd());
            // It may have ended by itself.
            sys::process::pidfd_kill(pidfd.as_fd(), libc::SIGKILL).ok();
            let ended = sys::fd::poll(&mut [PollFd::new(pidfd.as_fd(), true, false)], None);
            ended.and_then(|_| sys::process::reap()).map_err(said)?;
            made
        }
    }
}

fn inside(parent: std::os::fd::BorrowedFd<'_>, furnish: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let said = |e: io::Error| crate::launcher::reason(&e);
    sys::process::set_parent_death_signal(libc::SIGKILL).map_err(said)?;
    sys::socket::recv(parent, &mut [0; 1], false).map_err(said)?;
    sys::process::set_gid(0).and_then(|()| sys::process::set_uid(0)).map_err(said)?;
    furnish()
}

fn outside(pid: i32, ids: IdRange, namespaces: i32, child: std::os::fd::BorrowedFd<'_>) -> Result<(), String> {
    let said = |what: &'static str| move |e: io::Error| format!("{what}: {}", crate::launcher::reason(&e));
    sys::process::map_ids(pid, ids.first, ids.length).map_err(said("failed to map ids"))?;
    for (flag, name) in [(libc::CLONE_NEWNET, "net"), (libc::CLONE_NEWIPC, "ipc"), (libc::CLONE_NEWUTS, "uts")] {
        if namespaces & flag != 0 {
            std::fs::File::open(format!("/proc/{pid}/ns/{name}"))
                .and_then(|ns| sys::process::setns(ns.as_fd(), flag))
                .map_err(said("failed to join"))?;
        }
    }
    sys::socket::send(child, &[b"G"], &[], false).map_err(said("failed to go on"))?;
    let mut answer = [0; 4096];
    let (n, _) = sys::socket::recv(child, &mut answer, false).map_err(said("failed to go on"))?;
    match &answer[..n] {
        [] => Err("the process in the user namespace ended without a word".into()),
        [_] => Ok(()),
        [_, words @ ..] => Err(String::from_utf8_lossy(words).into_owned()),
    }
}

/// Whether pods whose files lie below `dir` can have users of their own on this machine: user namespaces are allowed, and both its tmpfs
/// (Linux 6.3) and that file system show owners as a namespace maps them. What a volume's own file system cannot is told when its
/// pod starts.
pub fn can_map_users(dir: &Path) -> bool {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let max = text("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0);
    let file_system = rustix::fs::statfs(dir).map_or(0, |s| u64::try_from(s.f_type).unwrap_or(0));
    possible(&text("/proc/sys/kernel/osrelease"), max, file_system)
}

fn possible(kernel: &str, user_namespaces_max: u64, file_system: u64) -> bool {
    // ext4, xfs, btrfs and f2fs, by `statfs.f_type`.
    const ABLE: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];
    let mut numbers = kernel.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 3) && user_namespaces_max > 0 && ABLE.contains(&file_system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_and_other_file_systems_cannot() {
        assert!(possible("6.18.44-fc-v657", 1000, 0xef53));
        assert!(possible("6.3.0", 1, 0x5846_5342));
        assert!(!possible("6.1.0-13-amd64", 1000, 0xef53));
        assert!(!possible("6.18.0", 0, 0xef53));
        assert!(!possible("6.18.0", 1000, 0x794c_7630));
    }
}
