//! Processes: fork and clone, namespaces, credentials, limits, exec. For single-threaded processes (zygote, supervisor,
//! launcher) and a few calls that are safe anywhere.
//!
//! Invariant: nothing forks unless [`SingleThreaded`] was proven, because a fork of a threaded process may deadlock on a lock
//! that another thread held (CRATES §0.3).

use crate::fd::{check, check_long, own};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub use libc::pid_t as Pid;

/// Proof that this process had one thread when it was made. Whoever holds it must not start threads.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old process; the child's id.
    Parent(Pid),
}

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The old process; the child's id and a descriptor that means exactly that process.
    Parent(Pid, OwnedFd),
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl SingleThreaded {
    /// Counts the threads of this process.
    pub fn prove() -> io::Result<Self> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads == 1 {
            Ok(SingleThreaded(()))
        } else {
            Err(io::Error::other(format!("this process must have one thread and has {threads}")))
        }
    }

    /// Forks; the child is a full copy.
    pub fn fork(self) -> io::Result<Forked> {
        // SAFETY: with one thread no lock can be held by somebody who does not exist in the child.
        match check(unsafe { libc::fork() })? {
            0 => Ok(Forked::Child),
            pid => Ok(Forked::Parent(pid)),
        }
    }

    /// Forks into new namespaces (`CLONE_NEW*`), optionally straight into a cgroup v2 directory.
    pub fn clone(self, namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
        let mut pidfd: i32 = -1;
        let mut args = CloneArgs {
            flags: namespaces as u32 as u64 | libc::CLONE_PIDFD as u64,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        if let Some(dir) = cgroup {
            const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = dir.as_raw_fd() as u64;
        }
        // SAFETY: `args` is a valid clone_args without CLONE_VM: the child runs on a copy of this stack. One thread only, so
        // no lock of libc or the allocator is held by anybody else. `pidfd` is a live int.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<CloneArgs>()) };
        match check_long(pid)? {
            0 => Ok(Cloned::Child),
            pid => Ok(Cloned::Parent(pid as Pid, own(pidfd))),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It called exit.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
}

impl Status {
    /// From the number that wait(2) gives.
    fn of_wait(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Status::Signaled(libc::WTERMSIG(status))
        } else {
            Status::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// Reaps one ended child, if there is one.
pub fn reap() -> io::Result<Option<(Pid, Status)>> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    match check(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }) {
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some((pid, Status::of_wait(status)))),
    }
}

/// How a process ended that is somebody else's child; none if the kernel no longer tells. It must have ended: its pidfd is readable.
///
/// Its parent may not have reaped it yet, then /proc tells; afterwards the pidfd does, since Linux 6.15. `pid` is looked at only while
/// the pidfd proves that it is not somebody else's by now.
pub fn pidfd_status(pidfd: BorrowedFd<'_>, pid: Pid) -> Option<Status> {
    let zombie = || zombie_status(pid).filter(|_| pidfd_kill(pidfd, 0).is_ok());
    reaped_status(pidfd).or_else(zombie).or_else(|| reaped_status(pidfd))
}

fn reaped_status(pidfd: BorrowedFd<'_>) -> Option<Status> {
    // SAFETY: pidfd_info is plain data; all zeroes is valid.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the number of the ioctl holds the size of the structure, and `info` is one.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) }).ok()?;
    (info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then(|| Status::of_wait(info.exit_code))
}

/// From the last field of /proc/PID/stat (proc_pid_stat(5)).
fn zombie_status(pid: Pid) -> Option<Status> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    (fields.next()? == "Z").then_some(())?;
    Some(Status::of_wait(fields.next_back()?.parse().ok()?))
}

/// A descriptor that means exactly this process, however ids are reused later.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    Ok(own(check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })? as i32))
}

/// Sends a signal to exactly this process.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no siginfo is passed.
    check_long(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0)
    })?;
    Ok(())
}

/// Sends a signal by process id. Only for processes that cannot have been reaped by anybody but the caller.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Ends this process at once, without destructors or atexit handlers of the parent's copy.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Waits until a signal ends this process.
pub fn sleep_forever() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// Moves this process into new namespaces.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no pointers; namespaces do not affect memory.
    check(unsafe { libc::unshare(flags) })?;
    Ok(())
}

/// Joins a namespace (or, with a pidfd, several).
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) })?;
    Ok(())
}

/// The user namespace that a namespace belongs to.
pub fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the request takes no argument and returns a new descriptor.
    Ok(own(check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) })?))
}

/// Maps the ids from 0 up to `length` of the user namespace that `pid` has just been born into to those from `first` of the machine.
pub fn map_ids(pid: Pid, first: u32, length: u32) -> io::Result<()> {
    let map = format!("0 {first} {length}");
    ["uid_map", "gid_map"].iter().try_for_each(|file| std::fs::write(format!("/proc/{pid}/{file}"), &map))
}

fn prctl(option: i32, arg: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: only options with integer arguments are passed by the callers in this file.
    check(unsafe { libc::prctl(option, arg, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}

/// Orphans among the descendants become children of this process.
pub fn set_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// The kernel sends this signal when the parent ends; 0 for none. A change of the user id takes it back.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong).map(drop)
}

/// Without it nobody unprivileged may look at this process through /proc or ptrace.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, on.into()).map(drop)
}

/// Exec can no longer give privileges.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Keeps the permitted capabilities over the change of the user id.
pub fn set_keep_caps(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, on.into()).map(drop)
}

/// The name shown by ps: the thread name and, as far as there is room, the command line.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: `name` is a valid C string; the kernel copies 16 bytes at most.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })?;
    Ok(())
}

/// Starts a session without a terminal.
pub fn setsid() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// Sets what a signal does by default: ignored or the kernel's default action.
pub fn set_signal_ignored(signal: i32, ignored: bool) -> io::Result<()> {
    // SAFETY: SIG_IGN and SIG_DFL are no functions of ours.
    let old = unsafe { libc::signal(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL }) };
    if old == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Default action for every signal and an empty mask, as a freshly executed program expects.
pub fn reset_signals() -> io::Result<()> {
    // The kernel's own structure, all zeroes: SIG_DFL, no flags, an empty mask. libc would leave out the two signals that it keeps for
    // itself, and whoever started us may have ignored them.
    let default = [0u64; 4];
    for s in 1..=64 {
        // SAFETY: `default` is as large as the kernel's sigaction of any 64-bit architecture. Refused for SIGKILL and SIGSTOP only.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, s, default.as_ptr(), std::ptr::null::<u8>(), 8usize) };
    }
    // SAFETY: sigset_t is plain data that sigemptyset initialises; the old mask is not wanted.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&mut set))?;
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()))?;
    }
    Ok(())
}

/// Sets the file mode creation mask.
pub fn umask(mask: u32) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) };
}

/// Sets the host name of the current UTS namespace.
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Sets the NIS domain name of the current UTS namespace.
pub fn set_domainname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Sets the supplementary groups of this thread.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length belong together. The raw call affects this thread, which is the only one.
    check_long(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Sets real, effective and saved group id of this thread.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: no pointers. The raw call affects this thread, which is the only one.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// Sets real, effective and saved user id of this thread.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: no pointers. The raw call affects this thread, which is the only one.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// What this thread makes from now on belongs to these; its rights stay in force.
pub fn set_file_owner(uid: u32, gid: u32) -> io::Result<()> {
    let before = caps()?;
    // SAFETY: no pointers. Both answer the old id, so only reading the new one back tells a failure.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        [libc::syscall(libc::SYS_setfsuid, u32::MAX), libc::syscall(libc::SYS_setfsgid, u32::MAX)]
    };
    if now != [i64::from(uid), i64::from(gid)] {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // The kernel takes the rights over files away from a thread whose files are not root's.
    set_caps(before)
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// In force now.
    pub effective: u64,
    /// May be brought in force.
    pub permitted: u64,
    /// Survive exec of a file with inheritable capabilities.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
const CAP_VERSION_3: u32 = 0x2008_0522;

/// The capability sets of this thread.
pub fn caps() -> io::Result<Caps> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 wants a header and two triples of u32.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |i: usize| u64::from(data[0][i]) | u64::from(data[1][i]) << 32;
    Ok(Caps { effective: join(0), permitted: join(1), inheritable: join(2) })
}

/// Sets the capability sets of this thread.
pub fn set_caps(caps: Caps) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| [caps.effective, caps.permitted, caps.inheritable].map(|m| (m >> shift) as u32);
    let data = [half(0), half(32)];
    // SAFETY: version 3 wants a header and two triples of u32.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Drops from the bounding set whatever is not in `keep`. Capabilities this kernel does not know are skipped.
pub fn limit_bounding_caps(keep: u64) -> io::Result<()> {
    for cap in 0..64 {
        if keep & (1 << cap) == 0 {
            match prctl(libc::PR_CAPBSET_READ, cap) {
                Err(_) => break, // past the last capability
                Ok(0) => {}
                Ok(_) => prctl(libc::PR_CAPBSET_DROP, cap).map(drop)?,
            }
        }
    }
    Ok(())
}

/// Sets the ambient set; each must be permitted and inheritable.
pub fn set_ambient_caps(caps: u64) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    for cap in (0..64u64).filter(|cap| caps & (1 << cap) != 0) {
        // SAFETY: integer arguments only.
        check(unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, cap, 0 as libc::c_ulong, 0 as libc::c_ulong)
        })?;
    }
    Ok(())
}

/// Soft and hard limit of a resource (`RLIMIT_*`) of this process.
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    // SAFETY: rlimit is plain data; getrlimit fills it.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(resource as _, &mut limit))?;
        Ok((limit.rlim_cur, limit.rlim_max))
    }
}

/// Sets soft and hard limit of a resource of this process.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is valid.
    check(unsafe { libc::setrlimit(resource as _, &limit) })?;
    Ok(())
}

/// Switches on the loopback interface of the current network namespace.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: ifreq is plain data with a name and flags; the socket is owned and closed on return.
    unsafe {
        let fd = own(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?);
        let mut req: libc::ifreq = std::mem::zeroed();
        req.ifr_name[0] = b'l' as libc::c_char;
        req.ifr_name[1] = b'o' as libc::c_char;
        req.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const req))?;
    }
    Ok(())
}

/// Replaces this process. Returns only on failure.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        let mut out: Vec<*const libc::c_char> = list.iter().map(|s| s.as_ptr()).collect();
        out.push(std::ptr::null());
        out
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays are NULL-terminated arrays of valid C strings that live until the call ends.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// The working directory as the kernel names it. Outside the root it does not start with `/`.
pub fn cwd() -> io::Result<String> {
    let mut buf = [0u8; 4096];
    // SAFETY: pointer and length belong together. The raw call, because libc hides "(unreachable)" in an emulation.
    let n = check_long(unsafe { libc::syscall(libc::SYS_getcwd, buf.as_mut_ptr(), buf.len()) })?;
    Ok(String::from_utf8_lossy(&buf[..(n as usize).saturating_sub(1)]).into_owned())
}

/// Major and minor number in one value, as mknod wants it.
pub fn device_number(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pidfd_tells_the_exit_code_before_and_after_reaping() {
        for (script, want) in [("exit 7", Status::Exited(7)), ("kill -9 $$", Status::Signaled(9))] {
            #[expect(clippy::disallowed_methods, reason = "any process will do")]
            let mut child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id() as Pid;
            let pidfd = pidfd_open(pid).unwrap();
            crate::fd::poll(&mut [crate::fd::PollFd::new(pidfd.as_fd(), true, false)], None).unwrap();
            assert_eq!(pidfd_status(pidfd.as_fd(), pid), Some(want));
            assert_eq!(zombie_status(pid), Some(want));
            child.wait().unwrap();
            // Kernels before 6.15 do not know.
            assert!(reaped_status(pidfd.as_fd()).is_none_or(|s| s == want));
            assert_eq!(zombie_status(pid), None);
        }
    }
}
