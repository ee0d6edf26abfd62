//! Unix sequenced-packet sockets that carry descriptors: whole messages, no framing, no partial reads.

use crate::fd::{check, check_long, open_path, own};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// More descriptors than this in one message are refused.
pub const MAX_FDS: usize = 16;
/// More bytes than this in one message are refused; larger bodies travel in a memfd.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// A connected pair.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` is a writable array of two ints.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    Ok((own(fds[0]), own(fds[1])))
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    Ok(own(check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })?))
}

/// The address of `path` through a descriptor of its directory, so that the 108-byte limit of sun_path never bites.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, OwnedFd)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let dir = open_path(dir)?;
    let short = crate::fd::proc_path(&dir).join(name);
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(short.as_os_str());
    // SAFETY: sockaddr_un is plain data; all zeroes is valid.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() >= addr.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((addr, dir))
}

/// Listens at `path`, mode 0600. An old socket file there is replaced.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (addr, _dir) = address(path)?;
    let fd = socket()?;
    // SAFETY: umask cannot fail; the calling process is single-threaded or tolerates a stricter mask for an instant.
    let old = unsafe { libc::umask(0o177) };
    // SAFETY: `addr` is a valid sockaddr_un of the given size.
    let bound = check(unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), std::mem::size_of_val(&addr) as libc::socklen_t)
    });
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    bound?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), 64) })?;
    Ok(fd)
}

/// Connects to the listener at `path`.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (addr, _dir) = address(path)?;
    let fd = socket()?;
    // SAFETY: `addr` is a valid sockaddr_un of the given size.
    check(unsafe {
        libc::connect(fd.as_raw_fd(), (&raw const addr).cast(), std::mem::size_of_val(&addr) as libc::socklen_t)
    })?;
    Ok(fd)
}

/// Takes the next connection.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the peer address is not wanted.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    Ok(own(check(fd)?))
}

/// Who is at the other end, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id at the time of connect or socketpair.
    pub pid: i32,
    /// Effective user id at that time.
    pub uid: u32,
}

/// Asks the kernel who is at the other end.
pub fn peer(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = std::mem::size_of_val(&cred) as libc::socklen_t;
    // SAFETY: `cred` and `len` are valid for writes.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut cred).cast(), &raw mut len)
    })?;
    Ok(Peer { pid: cred.pid, uid: cred.uid })
}

/// The process at the other end, as a descriptor that cannot come to mean another one.
pub fn peer_process(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut process: libc::c_int = -1;
    let mut len = std::mem::size_of_val(&process) as libc::socklen_t;
    // SAFETY: `process` and `len` are valid for writes.
    let known = check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut process).cast(), &raw mut len)
    });
    match known {
        Ok(_) => Ok(own(process)),
        // Linux before 6.5. The connection stands, so its other end has only just gone, if at all.
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => crate::process::pidfd_open(peer(fd)?.pid),
        Err(e) => Err(e),
    }
}

const CONTROL: usize = 64 + MAX_FDS * 4;
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Sends one message with descriptors. Fails with `WouldBlock` if the socket is non-blocking and full.
pub fn send(fd: BorrowedFd<'_>, parts: &[&[u8]], fds: &[BorrowedFd<'_>], nonblocking: bool) -> io::Result<()> {
    if fds.len() > MAX_FDS || parts.iter().map(|p| p.len()).sum::<usize>() > MAX_MESSAGE {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut iov: Vec<libc::iovec> =
        parts.iter().map(|p| libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: p.len() }).collect();
    let mut control = Control([0; CONTROL]);
    // SAFETY: msghdr is plain data; all zeroes is valid.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = iov.len() as _;
    if !fds.is_empty() {
        let bytes = std::mem::size_of_val(fds) / std::mem::size_of::<BorrowedFd<'_>>() * std::mem::size_of::<i32>();
        msg.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: pure arithmetic.
        msg.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as u32) } as _;
        // SAFETY: the control buffer is aligned and larger than CMSG_SPACE of MAX_FDS ints, so the first header and its
        // data lie inside it.
        unsafe {
            let cmsg = libc::CMSG_FIRSTHDR(&msg);
            (*cmsg).cmsg_level = libc::SOL_SOCKET;
            (*cmsg).cmsg_type = libc::SCM_RIGHTS;
            (*cmsg).cmsg_len = libc::CMSG_LEN(bytes as u32) as _;
            for (i, fd) in fds.iter().enumerate() {
                libc::CMSG_DATA(cmsg).cast::<i32>().add(i).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | if nonblocking { libc::MSG_DONTWAIT } else { 0 };
    loop {
        // SAFETY: `msg` points to live buffers for the duration of the call.
        let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, flags) };
        match check_long(n as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message into `buf`. `Ok((0, _))` is the end of the connection. A message larger than `buf` is an error.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], nonblocking: bool) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: msghdr is plain data; all zeroes is valid.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.0.as_mut_ptr().cast();
    msg.msg_controllen = CONTROL as _;
    let flags = libc::MSG_CMSG_CLOEXEC | if nonblocking { libc::MSG_DONTWAIT } else { 0 };
    let n = loop {
        // SAFETY: `msg` points to live buffers for the duration of the call.
        let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, flags) };
        match check_long(n as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(n) => break n as usize,
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer; the CMSG macros stay inside msg_controllen, and each int of an
    // SCM_RIGHTS message is a fresh descriptor that is ours alone.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(&msg);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_SOCKET && (*cmsg).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*cmsg).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / std::mem::size_of::<i32>();
                for i in 0..count {
                    fds.push(own(libc::CMSG_DATA(cmsg).cast::<i32>().add(i).read_unaligned()));
                }
            }
            cmsg = libc::CMSG_NXTHDR(&msg, cmsg);
        }
    }
    if msg.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((n, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn messages_keep_their_borders_and_carry_descriptors() {
        let (a, b) = pair().unwrap();
        let (r, w) = crate::fd::pipe().unwrap();
        send(a.as_fd(), &[b"he", b"llo"], &[w.as_fd()], false).unwrap();
        send(a.as_fd(), &[b"second"], &[], false).unwrap();
        drop(w);
        let mut buf = [0; 100];
        let (n, fds) = recv(b.as_fd(), &mut buf, false).unwrap();
        assert_eq!((&buf[..n], fds.len()), (&b"hello"[..], 1));
        crate::fd::write(fds[0].as_fd(), b"x").unwrap();
        assert_eq!(crate::fd::read(r.as_fd(), &mut buf).unwrap(), 1);
        let (n, _) = recv(b.as_fd(), &mut buf, false).unwrap();
        assert_eq!(&buf[..n], b"second");
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut buf, false).unwrap().0, 0);
    }

    #[test]
    fn a_message_larger_than_the_buffer_is_an_error() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[&[7; 100]], &[], false).unwrap();
        assert_eq!(recv(b.as_fd(), &mut [0; 10], false).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let listener = listen(&deep.join("sock")).unwrap();
        let _client = connect(&deep.join("sock")).unwrap();
        let server = accept(listener.as_fd()).unwrap();
        assert_eq!(peer(server.as_fd()).unwrap().pid, std::process::id() as i32);
        let me = peer_process(server.as_fd()).unwrap();
        assert!(crate::process::pidfd_kill(me.as_fd(), 0).is_ok());
    }
}
