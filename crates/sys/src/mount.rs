//! Mounts by descriptor: detached trees are made and configured first, then attached to a target that was opened safely.
//!
//! Invariant: a target inside a container's root is always resolved with `openat2(RESOLVE_IN_ROOT | NO_MAGICLINKS)`, so
//! neither a symlink in an image nor a racing rename leads outside. Needs Linux 5.12 (mount_setattr).

use crate::fd::{check, check_long, cstr, own, proc_path};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// Mount attributes (`MOUNT_ATTR_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr(pub u64);

impl Attr {
    /// Read-only.
    pub const RDONLY: Attr = Attr(0x1);
    /// Set-user-id bits have no effect.
    pub const NOSUID: Attr = Attr(0x2);
    /// Device files cannot be opened.
    pub const NODEV: Attr = Attr(0x4);
    /// Nothing can be executed.
    pub const NOEXEC: Attr = Attr(0x8);

    /// Both.
    pub const fn and(self, other: Attr) -> Attr {
        Attr(self.0 | other.0)
    }

    /// The same as flags of mount(2).
    fn flags(self) -> libc::c_ulong {
        // The four low bits agree: MS_RDONLY 1, MS_NOSUID 2, MS_NODEV 4, MS_NOEXEC 8.
        self.0 as libc::c_ulong & 0xf
    }
}

/// What happens to mounts made later on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing crosses.
    Private,
    /// They come in, none go out.
    Slave,
    /// They cross both ways.
    Shared,
}

impl Propagation {
    fn flags(self) -> libc::c_ulong {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
        }
    }
}

/// A mounted tree that is not, or not yet, anywhere in the file system.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[repr(C)]
#[derive(Default)]
struct MountAttrArg {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

impl Detached {
    /// One that another process made and handed over.
    pub fn received(fd: OwnedFd) -> Detached {
        Detached(fd)
    }

    /// A bind mount of `path`, as `mount --bind` (or `--rbind`) would make it.
    pub fn clone_path(path: &Path, recursive: bool) -> io::Result<Detached> {
        let path = cstr(path)?;
        Self::open_tree(libc::AT_FDCWD, &path, 0, recursive)
    }

    /// A bind mount of what a descriptor means.
    pub fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<Detached> {
        Self::open_tree(fd.as_raw_fd(), c"", AT_EMPTY_PATH, recursive)
    }

    fn open_tree(dir: i32, path: &std::ffi::CStr, flags: libc::c_uint, recursive: bool) -> io::Result<Detached> {
        const OPEN_TREE_CLONE: libc::c_uint = 1;
        let flags =
            flags | OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
        // SAFETY: `path` is a valid C string.
        let fd = check_long(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })?;
        Ok(Detached(own(fd as i32)))
    }

    /// A new instance of a file system with options (`key`, `value`) through fsopen.
    pub fn new_fs(kind: &str, options: &[(&str, &str)], attr: Attr) -> io::Result<Detached> {
        let fs = FsContext::open(kind)?;
        for (key, value) in options {
            fs.set(key, OsStr::new(value))?;
        }
        fs.mount(attr)
    }

    /// Changes attributes and propagation before anybody can see the tree.
    pub fn set(&self, attr: Attr, propagation: Option<Propagation>, recursive: bool) -> io::Result<()> {
        set_attr(self.as_fd(), attr, propagation, recursive)
    }

    /// Shows the owners of the tree's files as the user namespace maps them: what is 0 on disk is that namespace's 0 here. Fails
    /// (`EINVAL`) on file systems that cannot (Linux 5.12 and newer: ext4; tmpfs since 6.3).
    pub fn map_ids(&self, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
        let arg =
            MountAttrArg { attr_set: MOUNT_ATTR_IDMAP, userns_fd: users.as_raw_fd() as u64, ..MountAttrArg::default() };
        mount_setattr(self.as_fd(), &arg, recursive)
    }

    /// Attaches the tree onto the file or directory that `target` means.
    pub fn attach(&self, target: BorrowedFd<'_>) -> io::Result<()> {
        const F_EMPTY: libc::c_uint = 0x4;
        const T_EMPTY: libc::c_uint = 0x40;
        // SAFETY: both paths are empty C strings.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                target.as_raw_fd(),
                c"".as_ptr(),
                F_EMPTY | T_EMPTY,
            )
        })?;
        Ok(())
    }
}

/// Changes attributes and propagation of the mount that `fd` is the root of.
pub fn set_attr(fd: BorrowedFd<'_>, attr: Attr, propagation: Option<Propagation>, recursive: bool) -> io::Result<()> {
    let arg =
        MountAttrArg { attr_set: attr.0, propagation: propagation.map_or(0, |p| p.flags()), ..MountAttrArg::default() };
    mount_setattr(fd, &arg, recursive)
}

fn mount_setattr(fd: BorrowedFd<'_>, arg: &MountAttrArg, recursive: bool) -> io::Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `arg` is a valid mount_attr of the given size.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(arg),
            std::mem::size_of::<MountAttrArg>(),
        )
    })?;
    Ok(())
}

struct FsContext(OwnedFd);

impl FsContext {
    fn open(kind: &str) -> io::Result<FsContext> {
        const FSOPEN_CLOEXEC: libc::c_uint = 1;
        let kind = cstr(Path::new(kind))?;
        // SAFETY: `kind` is a valid C string.
        let fd = check_long(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
        Ok(FsContext(own(fd as i32)))
    }

    fn set(&self, key: &str, value: &OsStr) -> io::Result<()> {
        const FSCONFIG_SET_STRING: libc::c_uint = 1;
        let (key, value) = (cstr(Path::new(key))?, cstr(Path::new(value))?);
        // SAFETY: key and value are valid C strings.
        check_long(unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
        })?;
        Ok(())
    }

    fn set_flag(&self, key: &str) -> io::Result<()> {
        const FSCONFIG_SET_FLAG: libc::c_uint = 0;
        let key = cstr(Path::new(key))?;
        // SAFETY: `key` is a valid C string; the value must be NULL.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_FLAG,
                key.as_ptr(),
                std::ptr::null::<u8>(),
                0,
            )
        })?;
        Ok(())
    }

    fn mount(&self, attr: Attr) -> io::Result<Detached> {
        const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
        const FSMOUNT_CLOEXEC: libc::c_uint = 1;
        // SAFETY: the command takes no key and no value.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                std::ptr::null::<u8>(),
                std::ptr::null::<u8>(),
                0,
            )
        })?;
        // SAFETY: no pointers.
        let fd = check_long(unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attr.0 as libc::c_uint)
        })?;
        Ok(Detached(own(fd as i32)))
    }
}

/// Layers of an overlay file system.
#[derive(Debug, Clone)]
pub struct Overlay<'a> {
    /// Topmost first.
    pub lower: &'a [PathBuf],
    /// Writable layer and its work directory on the same file system; without, the mount is read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Never sync the upper layer: right for roots that do not outlive the boot.
    pub volatile: bool,
    /// The SELinux label of all its files, whatever those of the layers are.
    pub context: Option<&'a str>,
}

impl Overlay<'_> {
    /// Mounts detached. Layer by layer with `lowerdir+` (Linux 6.8), else with mount(2) at `scratch`, an existing directory
    /// in the caller's private mount namespace, whose mount is then detached again.
    pub fn mount(&self, scratch: &Path) -> io::Result<Detached> {
        match self.mount_new() {
            Ok(mount) => Ok(mount),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) => {
                // The old way gives the same answer to a real mistake, and works where only the new way is missing.
                self.mount_old(scratch).map_err(|_| e)
            }
            Err(e) => Err(e),
        }
    }

    fn mount_new(&self) -> io::Result<Detached> {
        let fs = FsContext::open("overlay")?;
        for lower in self.lower {
            fs.set("lowerdir+", lower.as_os_str())?;
        }
        if let Some((upper, work)) = self.upper {
            fs.set("upperdir", upper.as_os_str())?;
            fs.set("workdir", work.as_os_str())?;
            if self.volatile {
                fs.set_flag("volatile")?;
            }
        }
        if let Some(context) = self.context {
            fs.set("context", OsStr::new(context))?;
        }
        fs.mount(if self.upper.is_none() { Attr::RDONLY } else { Attr::default() })
    }

    /// mount(2) takes one page of options, so the longest directory that all lower layers share becomes the working directory
    /// and the layers are named relative to it.
    fn mount_old(&self, scratch: &Path) -> io::Result<Detached> {
        let base = common_parent(self.lower);
        let before = std::env::current_dir()?;
        std::env::set_current_dir(&base)?;
        let mounted = mount("overlay", scratch, "overlay", 0, &self.options(&base));
        std::env::set_current_dir(before)?;
        mounted?;
        let clone = Detached::clone_path(scratch, false);
        unmount_lazily(scratch)?;
        clone
    }

    fn options(&self, base: &Path) -> String {
        let escape = |p: &Path| {
            let text = p.strip_prefix(base).unwrap_or(p).display().to_string();
            text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
        };
        let mut out = format!("lowerdir={}", self.lower.iter().map(|p| escape(p)).collect::<Vec<_>>().join(":"));
        if let Some((upper, work)) = self.upper {
            out += &format!(",upperdir={},workdir={}", upper.display(), work.display());
            if self.volatile {
                out += ",volatile";
            }
        }
        if let Some(context) = self.context {
            // Categories are separated by commas, as options are.
            out += &format!(",context=\"{context}\"");
        }
        out
    }
}

fn common_parent(paths: &[PathBuf]) -> PathBuf {
    let mut parents = paths.iter().map(|p| p.parent().unwrap_or(Path::new("/")));
    let mut common = parents.next().unwrap_or(Path::new("/")).to_path_buf();
    for p in parents {
        while !p.starts_with(&common) {
            common.pop();
        }
    }
    common
}

/// mount(2).
fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let (source, target, kind) = (cstr(Path::new(source))?, cstr(target)?, cstr(Path::new(kind))?);
    let data = CString::new(data).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: four valid C strings.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })?;
    Ok(())
}

/// Mounts a new file system onto what `target` means. Needs a mounted /proc, as the launcher has before it changes root.
pub fn mount_at(kind: &str, source: &str, target: BorrowedFd<'_>, attr: Attr, options: &str) -> io::Result<()> {
    mount(source, &proc_path(target), kind, attr.flags(), options)
}

/// Makes every mount of this namespace receive, and never send, mounts.
pub fn make_all_slaves() -> io::Result<()> {
    // SAFETY: only the target is used, a valid C string.
    check(unsafe {
        libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), libc::MS_SLAVE | libc::MS_REC, std::ptr::null())
    })?;
    Ok(())
}

/// Takes a mount out of the tree; it ends when its last user is gone.
pub fn unmount_lazily(path: &Path) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: `path` is a valid C string.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) })?;
    Ok(())
}

/// Where something is mounted at or below `dir`, the deepest first.
pub fn mounted_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    // The table shows no symlinks.
    let dir = match dir.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    Ok(points_below(&std::fs::read("/proc/self/mountinfo")?, &dir))
}

fn points_below(mountinfo: &[u8], dir: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    let points = lines.filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescaped);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// Spaces and the like are written as three octal digits (proc(5)).
fn unescaped(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Makes the mount at `root` the root of this namespace and drops the old one.
pub fn pivot_root(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: valid C strings and descriptors; the new root is stacked over the old one, which "." then means.
    unsafe {
        check(libc::fchdir(root.as_raw_fd()))?;
        check_long(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))?;
    }
    Ok(())
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_IN_ROOT: u64 = 0x10;

fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    let path = cstr(if path.as_os_str().is_empty() { Path::new(".") } else { path })?;
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: mode.into(), resolve };
    for _ in 0..64 {
        // SAFETY: `path` is a valid C string and `how` a valid open_how of the given size.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                std::mem::size_of::<OpenHow>(),
            )
        };
        match check_long(fd) {
            // A rename ran while the kernel walked; it asks to try again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(e) => return Err(e),
            Ok(fd) => return Ok(own(fd as i32)),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// How symlinks on the way are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// As if the directory were `/`.
    InRoot,
    /// As InRoot, and a symlink is an error (`ELOOP`).
    NoSymlinks,
    /// Anything that would leave the directory is an error (`EXDEV`).
    Beneath,
}

impl Resolve {
    fn bits(self) -> u64 {
        RESOLVE_NO_MAGICLINKS
            | match self {
                Resolve::InRoot => RESOLVE_IN_ROOT,
                Resolve::NoSymlinks => RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
                Resolve::Beneath => RESOLVE_BENEATH,
            }
    }
}

/// Opens `path` below `root` as a name only (O_PATH).
pub fn open_below(root: BorrowedFd<'_>, path: &Path, resolve: Resolve) -> io::Result<OwnedFd> {
    let path = if resolve == Resolve::Beneath { path.strip_prefix("/").unwrap_or(path) } else { path };
    openat2(root, path, libc::O_PATH, 0, resolve.bits())
}

/// Opens or creates a regular file below `root` for reading or writing.
pub fn open_file_below(root: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    openat2(root, path, flags, 0, Resolve::InRoot.bits())
}

/// Opens the directory `path` below `root`, making what is missing with mode 0755.
pub fn make_dir_below(root: BorrowedFd<'_>, path: &Path, resolve: Resolve) -> io::Result<OwnedFd> {
    match openat2(root, path, libc::O_PATH | libc::O_DIRECTORY, 0, resolve.bits()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut done = PathBuf::new();
    let mut dir = openat2(root, Path::new("."), libc::O_PATH | libc::O_DIRECTORY, 0, resolve.bits())?;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        done.push(name);
        let next = match openat2(root, &done, libc::O_PATH | libc::O_DIRECTORY, 0, resolve.bits()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let name = cstr(Path::new(name))?;
                // SAFETY: `name` is a valid C string of one component. An existing entry (a dangling symlink, or somebody was
                // faster) is found out by the open below.
                match check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), 0o755) }) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
                openat2(root, &done, libc::O_PATH | libc::O_DIRECTORY, 0, resolve.bits())?
            }
            other => other?,
        };
        dir = next;
    }
    Ok(dir)
}

/// Opens the file `path` below `root` as a name, making an empty one (and its directories) if it is missing.
pub fn make_file_below(root: BorrowedFd<'_>, path: &Path, resolve: Resolve) -> io::Result<OwnedFd> {
    match open_below(root, path, resolve) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let dir = make_dir_below(root, parent, resolve)?;
    let how = libc::O_CREAT | libc::O_WRONLY | libc::O_NOFOLLOW;
    drop(openat2(dir.as_fd(), Path::new(name), how, 0o644, Resolve::NoSymlinks.bits())?);
    open_below(root, path, resolve)
}

/// What kind of file a descriptor means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKind {
    /// It is a directory.
    pub directory: bool,
    /// Major and minor number of a character device.
    pub char_device: Option<(u32, u32)>,
}

/// Asks what kind of file a descriptor means.
pub fn file_kind(fd: BorrowedFd<'_>) -> io::Result<FileKind> {
    // SAFETY: stat is plain data that fstat fills.
    let stat = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd.as_raw_fd(), &mut stat))?;
        stat
    };
    let kind = stat.st_mode & libc::S_IFMT;
    Ok(FileKind {
        directory: kind == libc::S_IFDIR,
        char_device: (kind == libc::S_IFCHR).then(|| (libc::major(stat.st_rdev), libc::minor(stat.st_rdev))),
    })
}

/// Makes a device file (or fifo, by `kind` = `S_IF*`) in the directory `dir` with exactly this mode and owner.
pub fn make_node(
    dir: BorrowedFd<'_>,
    name: &Path,
    kind: u32,
    mode: u32,
    device: u64,
    owner: (u32, u32),
) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a valid C string; the two changes of metadata do not follow symlinks out of a directory that only this
    // process can write to yet.
    unsafe {
        check(libc::mknodat(dir.as_raw_fd(), name.as_ptr(), kind | mode, device))?;
        check(libc::fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, 0))?;
        if owner != (0, 0) {
            check(libc::fchownat(dir.as_raw_fd(), name.as_ptr(), owner.0, owner.1, libc::AT_SYMLINK_NOFOLLOW))?;
        }
    }
    Ok(())
}

/// Makes a symlink in the directory `dir`. One that is already there stays.
pub fn make_symlink(dir: BorrowedFd<'_>, name: &str, to: &str) -> io::Result<()> {
    let (name, to) = (cstr(Path::new(name))?, cstr(Path::new(to))?);
    // SAFETY: two valid C strings.
    match check(unsafe { libc::symlinkat(to.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_in_the_root_cannot_lead_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/../../../etc", dir.path().join("evil")).unwrap();
        let root = crate::fd::open_path(dir.path()).unwrap();
        make_file_below(root.as_fd(), Path::new("/evil/hosts"), Resolve::InRoot).unwrap_err();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        make_file_below(root.as_fd(), Path::new("/evil/hosts"), Resolve::InRoot).unwrap();
        assert!(dir.path().join("etc/hosts").exists());
        let e = make_dir_below(root.as_fd(), Path::new("/evil"), Resolve::NoSymlinks).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ELOOP));
        let e = open_below(root.as_fd(), Path::new("evil"), Resolve::Beneath).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EXDEV));
    }

    #[test]
    fn mounts_are_found_whatever_their_names_are() {
        let table = b"21 1 0:5 / /proc rw - proc proc rw\n22 1 8:1 / /d/a\\040b rw - ext4 x rw\n23 22 8:1 / /d/a\\040b/c rw - ext4 x rw\n\
            24 1 8:1 / /dd rw - ext4 x rw\n25 1 8:1 / /d/back\\134slash rw - ext4 x rw\n";
        let want = ["/d/a b/c", "/d/a b", "/d/back\\slash"].map(PathBuf::from);
        assert_eq!(points_below(table, Path::new("/d")), want);
        assert!(points_below(table, Path::new("/nothing")).is_empty());
    }

    #[test]
    fn missing_directories_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::fd::open_path(dir.path()).unwrap();
        make_dir_below(root.as_fd(), Path::new("/a/b/c"), Resolve::InRoot).unwrap();
        make_file_below(root.as_fd(), Path::new("x/y"), Resolve::InRoot).unwrap();
        assert!(dir.path().join("a/b/c").is_dir() && dir.path().join("x/y").is_file());
        make_dir_below(root.as_fd(), Path::new("/a/../q"), Resolve::InRoot).unwrap_err();
    }

    #[test]
    fn the_old_overlay_options_are_relative_to_the_shared_parent() {
        let lower = ["/var/lib/l/1/fs", "/var/lib/l/22/fs"].map(PathBuf::from);
        let base = common_parent(&lower);
        assert_eq!(base, Path::new("/var/lib/l"));
        let upper = Some((Path::new("/u"), Path::new("/w")));
        let mut overlay = Overlay { lower: &lower, upper, volatile: true, context: None };
        assert_eq!(overlay.options(&base), "lowerdir=1/fs:22/fs,upperdir=/u,workdir=/w,volatile");
        overlay.context = Some("u:r:t:s0:c1,c2");
        assert!(overlay.options(&base).ends_with(",volatile,context=\"u:r:t:s0:c1,c2\""));
    }
}
