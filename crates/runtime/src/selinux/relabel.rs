//! Gives all files of a volume a label (`go-selinux/selinux_linux.go`, `chcon` and `rchcon`).
//!
//! The tree belongs to a container that may change it meanwhile: names are opened below the root without following any symlink, and what
//! is labelled is what was opened. Differs: the walk is in the launcher, so what it costs is the container's; home directories other
//! than `/root` and `/home` are not looked up.

use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the label is kept.
pub(super) const ATTRIBUTE: &str = "security.selinux";

/// What belongs to the machine, and would keep it from working with another label.
const FORBIDDEN: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Labels what `root` means and everything below. Its path is looked up, because what it is called does not matter.
pub(crate) fn relabel(root: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let path = std::fs::read_link(sys::fd::proc_path(root))?;
    if is_forbidden(&path) {
        let text = format!("relabeling of {} is not allowed", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let now = label_of(root);
    if now.as_deref().is_some_and(|now| !stores_labels(root, now)) {
        return Ok(());
    }
    // If the top has the label, all has been labelled before, and only what is different is written: the top is the last.
    let done = now.as_deref() == Some(label);
    let mut names = names_in(root, Path::new(""))?;
    while let Some(name) = names.pop() {
        let file = match open_below(root, &name) {
            // Its owner was faster.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound) || e.raw_os_error() == Some(libc::ELOOP) => continue,
            other => other?,
        };
        names.extend(names_in(file.as_fd(), &name)?);
        set(file.as_fd(), label, done)?;
    }
    set(root, label, done)
}

fn is_forbidden(path: &Path) -> bool {
    FORBIDDEN.iter().any(|forbidden| path == Path::new(forbidden))
}

/// Whether the file system keeps labels of single files; one that was mounted with a label does not. Nothing changes by asking.
fn stores_labels(file: BorrowedFd<'_>, now: &str) -> bool {
    let again = rustix::fs::setxattr(sys::fd::proc_path(file), ATTRIBUTE, now.as_bytes(), XattrFlags::empty());
    again != Err(rustix::io::Errno::OPNOTSUPP)
}

fn set(file: BorrowedFd<'_>, label: &str, compare: bool) -> io::Result<()> {
    if compare && label_of(file).as_deref() == Some(label) {
        return Ok(());
    }
    super::set_file_label(file, label)
}

/// As it is stored, or as the kernel sees it.
pub(super) fn label_of(file: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = [0u8; 512];
    let length = rustix::fs::getxattr(sys::fd::proc_path(file), ATTRIBUTE, &mut buffer[..]).ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

/// A name only, and if it is a symlink, then that.
fn open_below(root: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    // The last part of a path may be a symlink with these flags, if it is not followed.
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, name, how, Mode::empty(), resolve)?)
}

/// What is in a file that is called `name`, if it is a directory.
fn names_in(file: BorrowedFd<'_>, name: &Path) -> io::Result<Vec<PathBuf>> {
    if !sys::mount::file_kind(file)?.directory {
        return Ok(Vec::new());
    }
    std::fs::read_dir(sys::fd::proc_path(file))?.map(|entry| Ok(name.join(entry?.file_name()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_directories_are_forbidden() {
        for path in ["/", "/etc", "/etc/passwd", "/usr", "/usr/", "/var/lib"] {
            assert!(is_forbidden(Path::new(path)), "{path}");
        }
        for path in ["/etc/hosts", "/var/lib/dhow", "/data", "/tmp/x"] {
            assert!(!is_forbidden(Path::new(path)), "{path}");
        }
        let e = relabel(sys::fd::open_path(Path::new("/usr")).unwrap().as_fd(), "u:r:t:s0").unwrap_err();
        assert_eq!(e.to_string(), "relabeling of /usr is not allowed");
    }
}
