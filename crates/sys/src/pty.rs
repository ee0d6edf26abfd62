//! Pseudo-terminals: opened from a given devpts instance, so that a container sees its own `/dev/pts/N`.

use crate::fd::{check, own};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Master and slave from an opened `ptmx` of a devpts instance.
pub fn pair_of(master: OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a descriptor. It cannot be led astray by a path.
    let slave = own(check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?);
    Ok((master, slave))
}

/// Sets the size of the window; the foreground process group gets SIGWINCH.
pub fn resize(master: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Makes the terminal the controlling one of this session, which has none yet.
pub fn make_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an int by value.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// Whether the descriptor is on a devpts file system: the check that a `ptmx` found in a container's root is a real one.
pub fn is_devpts(fd: BorrowedFd<'_>) -> io::Result<bool> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    // SAFETY: statfs is plain data that fstatfs fills.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        check(libc::fstatfs(fd.as_raw_fd(), &mut stat))?;
        Ok(stat.f_type as i64 == DEVPTS_SUPER_MAGIC)
    }
}
