//! File descriptors: pipes, memfds, polling, signals as descriptors. Everything made here is close-on-exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Turns a `-1` of libc into the errno.
pub(crate) fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// Turns a `-1` of a raw system call into the errno.
pub(crate) fn check_long(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// A path for the kernel; a NUL inside is `EINVAL`, as the kernel itself could never see it.
pub(crate) fn cstr(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Takes ownership of a descriptor that the kernel has just returned.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass the fresh, checked return value of a system call that creates a descriptor; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A pipe: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` is a writable array of two ints, as pipe2 wants.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// Asks for a larger pipe buffer. Returns the size the kernel granted.
pub fn set_pipe_size(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<i32> {
    // SAFETY: fcntl with an int argument on a valid descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
}

/// Switches O_NONBLOCK on the open file description.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: fcntl without pointers on a valid descriptor.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// Reads once; `WouldBlock` on an empty non-blocking descriptor, `Ok(0)` at the end.
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is valid for writes of its length.
        let n = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        match check_long(n as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(n) => return Ok(n as usize),
        }
    }
}

/// Writes once; may write less than asked.
pub fn write(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is valid for reads of its length.
        let n = unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) };
        match check_long(n as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(n) => return Ok(n as usize),
        }
    }
}

/// A sealed, anonymous file with these bytes: nobody can change it any more, by no path.
pub fn sealed_memfd(name: &str, content: &mut dyn io::Read) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: `name` is a valid C string.
    let fd = own(check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })?);
    let mut file = std::fs::File::from(fd);
    io::copy(content, &mut file)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: fcntl with an int argument on a valid descriptor.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

/// An anonymous file in memory.
pub fn memfd(name: &str) -> io::Result<std::fs::File> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: `name` is a valid C string.
    Ok(own(check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?).into())
}

/// Moves bytes from a pipe to where a file is positioned, and the position with them: a process that is killed has done both or
/// neither. `WouldBlock` on an empty pipe, `Ok(0)` at the end.
pub fn splice(pipe: BorrowedFd<'_>, file: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    loop {
        // SAFETY: null offsets mean the files' own positions; no other pointers.
        let n = unsafe {
            let (from, to) = (pipe.as_raw_fd(), file.as_raw_fd());
            libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), max, libc::SPLICE_F_NONBLOCK)
        };
        match check_long(n as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(n) => return Ok(n as usize),
        }
    }
}

/// Gives back the memory of a range of a file in memory; it reads as zeroes then.
pub fn punch_hole(file: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start as libc::off_t, len as libc::off_t) })?;
    Ok(())
}

/// One descriptor to poll and what it is waited for.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct PollFd(libc::pollfd);

impl PollFd {
    /// Waits for input, output or both; errors and hang-ups are always reported.
    pub fn new(fd: BorrowedFd<'_>, input: bool, output: bool) -> Self {
        let events = if input { libc::POLLIN } else { 0 } | if output { libc::POLLOUT } else { 0 };
        PollFd(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 })
    }

    /// There is something to read, or the other end is gone, which reading will tell.
    pub fn readable(&self) -> bool {
        self.0.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Writing will not block, or will fail.
    pub fn writable(&self) -> bool {
        self.0.revents & (libc::POLLOUT | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// The other end is gone.
    pub fn hung_up(&self) -> bool {
        self.0.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Anything happened.
    pub fn any(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one descriptor is ready or the time is over (`None`: for ever). Returns how many are ready.
pub fn poll(fds: &mut [PollFd], timeout_ms: Option<i32>) -> io::Result<usize> {
    // SAFETY: PollFd is repr(transparent) over pollfd, so the slice is an array of pollfd.
    let n = unsafe { libc::poll(fds.as_mut_ptr().cast(), fds.len() as libc::nfds_t, timeout_ms.unwrap_or(-1)) };
    match check(n) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(e) => Err(e),
        Ok(n) => Ok(n as usize),
    }
}

/// Waits until the kernel says that a file of /sys has changed since it was read; false if the time is over first.
pub fn await_change(fd: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<bool> {
    let mut wanted = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one valid pollfd.
    match check(unsafe { libc::poll(&mut wanted, 1, timeout_ms) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true), // then it is looked at once too often
        other => other.map(|n| n > 0),
    }
}

/// Blocks `signals` for this thread and returns a non-blocking descriptor that becomes readable when one arrives.
pub fn signalfd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: sigset_t is plain data that sigemptyset initialises.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid.
    check(unsafe { libc::sigemptyset(&mut set) })?;
    for &s in signals {
        // SAFETY: `set` is valid; a bad number is answered with EINVAL.
        check(unsafe { libc::sigaddset(&mut set, s) })?;
    }
    // SAFETY: `set` is valid and the old mask is not wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) })?;
    // SAFETY: `set` is valid.
    Ok(own(check(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?))
}

/// Empties a signalfd: coalesced signals are one wake-up.
pub fn drain_signalfd(fd: BorrowedFd<'_>) {
    let mut buf = [0u8; 8 * std::mem::size_of::<libc::signalfd_siginfo>()];
    while matches!(read(fd, &mut buf), Ok(n) if n > 0) {}
}

/// Duplicates onto exactly `target`, without close-on-exec: this is how a process gets its stdio.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: fcntl without pointers on a valid descriptor.
        check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) })?;
        return Ok(());
    }
    // SAFETY: both are plain numbers; `target` is 0, 1 or 2 by convention of the callers and thus owned by nobody.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
    Ok(())
}

/// Duplicates to a number of at least `min`, close-on-exec.
pub fn dup_above(fd: BorrowedFd<'_>, min: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl without pointers on a valid descriptor.
    Ok(own(check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, min) })?))
}

/// Marks every descriptor from `first` on as close-on-exec, whoever forgot to.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: sets flags only; no descriptor is closed under its owner.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Opens with O_PATH: a name for a file that gives no access to its content.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    // SAFETY: `path` is a valid C string.
    Ok(own(check(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) })?))
}

/// `/proc/self/fd/N`: a path that means exactly this descriptor.
pub fn proc_path(fd: impl AsFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

/// Closes every descriptor from `first` on. For a child that keeps nothing of what it inherited and never returns.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: only called by processes that will not use or drop any owned descriptor again.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}
