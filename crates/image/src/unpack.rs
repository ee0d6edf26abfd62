//! A layer's tar becomes a directory in overlayfs form. Our own extractor: the `tar` crate only parses.
//!
//! Follows containerd `pkg/archive/tar.go` and the OCI image-spec `layer.md`, but never needs the layers below: `.wh.x`
//! becomes the character device 0/0, `.wh..wh..opq` the xattr `trusted.overlay.opaque=y`, and directories that the
//! archive does not list are made and reported as *implicit* (see `layers.rs`).
//!
//! Always holds: nothing outside of the root is touched, whatever names and links say (every look-up is `openat2` with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS` from the root's descriptor, every creation relative to a directory opened
//! that way); sizes and counts are bounded; the digest of the whole uncompressed stream is computed in the same pass.

use crate::Digest;
use crate::digest::Hasher;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use thiserror::Error;

/// What an archive may cost.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for UnpackLimits {
    /// The largest public layers (CUDA, machine learning) have 20 GiB and 400,000 entries.
    fn default() -> Self {
        UnpackLimits { bytes: 128 << 30, entries: 4_000_000 }
    }
}

/// Long names and attributes of one entry: no honest one needs a tenth of it, and it is held in memory.
const METADATA_BYTES: u64 = 1 << 20;

/// This much is left to the rest of the machine.
const FREE_BYTES: u64 = 64 << 20;

/// How often free space is looked at.
const FREE_CHECK_BYTES: u64 = 32 << 20;

/// Levels of directories: bounds removing them again.
const DEPTH: usize = 1024;

/// zstd frames that want a larger window than 128 MiB are bombs.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Why a layer was not unpacked. Nothing of it is used.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// A name or link leads out of the root.
    #[error("layer entry {entry:?} would escape the image: the image is malicious or damaged")]
    PathEscape {
        /// Its name.
        entry: String,
    },
    /// Not a tar, or one that contradicts itself.
    #[error("layer is damaged at {entry:?}: {why}")]
    Malformed {
        /// The name of the entry, empty if it is not about one.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// A kind of entry or compression that we do not know.
    #[error("layer entry {entry:?} is of an unsupported kind: {kind}")]
    Unsupported {
        /// Its name.
        entry: String,
        /// What it is.
        kind: String,
    },
    /// More than is allowed.
    #[error("layer is too large: more than {limit} {of}")]
    TooLarge {
        /// How many are allowed.
        limit: u64,
        /// Of what.
        of: &'static str,
    },
    /// No space.
    #[error("no space left to unpack into {}: free some space (dhow image prune), nothing is half done", dir.display())]
    DiskFull {
        /// Where.
        dir: PathBuf,
    },
    /// Not the content that the image's configuration names.
    #[error("layer unpacks to {found} instead of {expected}: the image is damaged, pull it again or from elsewhere")]
    Mismatch {
        /// What the configuration says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Any other failure of the file system.
    #[error("failed to unpack {entry:?}")]
    Io {
        /// Its name.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a layer turned out to be.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Of regular files.
    pub(crate) bytes: u64,
    /// Directories that had to be made without being listed, relative to the root.
    pub(crate) implicit: Vec<String>,
}

/// Unpacks `blob` (plain, gzip or zstd, told by its first bytes) into the existing directory `root`.
pub(crate) fn unpack(blob: impl Read + 'static, root: &Path, limits: UnpackLimits) -> Result<Unpacked, UnpackError> {
    let io = |source| fail("", root, source);
    let meter = Rc::new(Meter::default());
    let stream =
        Metered { inner: decompress(blob).map_err(io)?, hasher: Hasher::default(), meter: meter.clone(), limits };
    let mut archive = tar::Archive::new(stream);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root_fd = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|error| io(error.into()))?;
    let mut to = Extractor {
        root: root_fd,
        dir: root.to_owned(),
        last_parent: None,
        directories: Vec::new(),
        implicit: BTreeSet::new(),
        bytes: 0,
        unchecked: FREE_CHECK_BYTES,
    };
    let mut count = 0;
    let mut entries = archive.entries().map_err(io)?;
    loop {
        meter.allow(METADATA_BYTES);
        let Some(next) = entries.next() else { break };
        let mut entry = next.map_err(|error| meter.explain("", root, error))?;
        meter.unlimited();
        count += 1;
        if count > limits.entries {
            return Err(UnpackError::TooLarge { limit: limits.entries, of: "entries" });
        }
        to.extract(&mut entry).map_err(|error| meter.translate(error))?;
        // The parser skips what is left when it goes on; that must not count as metadata.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| meter.explain("", root, error))?;
    }
    to.finish_directories()?;
    meter.unlimited();
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|error| meter.explain("", root, error))?;
    Ok(Unpacked { diff_id: rest.hasher.finish(), bytes: to.bytes, implicit: to.implicit.into_iter().collect() })
}

/// The compression that the first bytes of a stream tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// OCI's name for a layer like that.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// The uncompressed stream.
pub(crate) fn decompress(mut from: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut start = Vec::new();
    from.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(from));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

// === metering ===

/// Shared between the stream under the parser and the loop above it.
#[derive(Default)]
struct Meter {
    read: Cell<u64>,
    /// Reading beyond is an error: the parser is in an entry's metadata.
    until: Cell<Option<u64>>,
    /// Which limit was hit, since the parser wraps our errors.
    hit: Cell<Option<(u64, &'static str)>>,
}

impl Meter {
    fn allow(&self, bytes: u64) {
        self.until.set(Some(self.read.get() + bytes));
    }

    fn unlimited(&self) {
        self.until.set(None);
    }

    fn explain(&self, entry: &str, dir: &Path, error: io::Error) -> UnpackError {
        self.translate(match error.kind() {
            io::ErrorKind::StorageFull => UnpackError::DiskFull { dir: dir.to_owned() },
            _ => UnpackError::Malformed { entry: entry.to_owned(), why: error.to_string() },
        })
    }

    fn translate(&self, error: UnpackError) -> UnpackError {
        match self.hit.get() {
            Some((limit, of)) => UnpackError::TooLarge { limit, of },
            None => error,
        }
    }
}

struct Metered {
    inner: Box<dyn Read>,
    hasher: Hasher,
    meter: Rc<Meter>,
    limits: UnpackLimits,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        let total = self.meter.read.get() + read as u64;
        self.meter.read.set(total);
        let hit = if total > self.limits.bytes {
            Some((self.limits.bytes, "bytes"))
        } else if self.meter.until.get().is_some_and(|until| total > until) {
            Some((METADATA_BYTES, "bytes in one entry's name and attributes"))
        } else {
            return Ok(read);
        };
        self.meter.hit.set(hit);
        Err(io::Error::other("limit"))
    }
}

// === Extractor ===

/// What an entry says about the file besides its content.
#[derive(Debug, Clone)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timespec,
    xattrs: Vec<(String, Vec<u8>)>,
}

struct Extractor {
    root: OwnedFd,
    dir: PathBuf,
    /// Most entries are in the same directory as the one before.
    last_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Set when all is there, because creating files changes times.
    directories: Vec<(Vec<u8>, Attributes)>,
    implicit: BTreeSet<String>,
    bytes: u64,
    unchecked: u64,
}

impl Extractor {
    fn extract(&mut self, entry: &mut tar::Entry<'_, Metered>) -> Result<(), UnpackError> {
        let raw = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&raw).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = clean(&raw).ok_or_else(|| UnpackError::PathEscape { entry: shown.clone() })?;
        let attributes = attributes(entry, &shown)?;
        let dir = self.dir.clone();
        let io = |error: io::Error| fail(&shown, &dir, error);
        let Some((parent, name)) = split(&path) else {
            // The root itself; any other kind of entry cannot be it.
            if kind.is_dir() {
                self.directories.push((Vec::new(), attributes));
                return Ok(());
            }
            return Err(UnpackError::Malformed { entry: shown, why: "it has no name".into() });
        };
        let parent_fd = self.parent(parent, &shown)?;
        let parent_fd = (*parent_fd).as_fd();
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent_fd, hidden, &shown);
        }
        match kind {
            tar::EntryType::Directory => {
                self.last_parent = None;
                make_directory(parent_fd, name).map_err(io)?;
                self.directories.push((path, attributes));
                return Ok(());
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.clear(parent_fd, name).map_err(io)?;
                return self.file(parent_fd, name, entry, &attributes, &shown);
            }
            tar::EntryType::Link => {
                self.clear(parent_fd, name).map_err(io)?;
                return self.hard_link(parent_fd, name, entry, &shown);
            }
            _ => {}
        }
        self.clear(parent_fd, name).map_err(io)?;
        match kind {
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                rustix::fs::symlinkat(&*target, parent_fd, name).map_err(|error| io(error.into()))?;
            }
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                let number = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
                let (major, minor) = (number(entry.header().device_major()), number(entry.header().device_minor()));
                let (file_type, device) = match kind {
                    tar::EntryType::Char => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
                    tar::EntryType::Block => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
                    _ => (FileType::Fifo, 0),
                };
                let mode = Mode::from_raw_mode(attributes.mode);
                rustix::fs::mknodat(parent_fd, name, file_type, mode, device).map_err(|error| io(error.into()))?;
            }
            other => {
                return Err(UnpackError::Unsupported {
                    entry: shown,
                    kind: format!("tar type {:?}", char::from(other.as_byte())),
                });
            }
        }
        self.decorate_special(parent_fd, name, kind, &attributes).map_err(|error| io(error.into()))
    }

    /// Owner, mode and time of what cannot be opened.
    fn decorate_special(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: tar::EntryType,
        attributes: &Attributes,
    ) -> rustix::io::Result<()> {
        let (uid, gid) = owner(attributes);
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !kind.is_symlink() {
            // Just made by us in a directory that nobody else knows: it is not a link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &mut tar::Entry<'_, Metered>,
        attributes: &Attributes,
        shown: &str,
    ) -> Result<(), UnpackError> {
        let dir = self.dir.clone();
        let io = |error: io::Error| fail(shown, &dir, error);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| io(error.into()))?;
        let mut file = File::from(fd);
        let mut buffer = [0; 64 << 10];
        loop {
            let read = match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(UnpackError::Malformed { entry: shown.into(), why: error.to_string() }),
            };
            self.reserve(read as u64)?;
            file.write_all(&buffer[..read]).map_err(io)?;
        }
        decorate(file.as_fd(), attributes).map_err(io)
    }

    /// Counts bytes and stops before the disk is full for everybody else.
    fn reserve(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.bytes += bytes;
        self.unchecked += bytes;
        if self.unchecked >= FREE_CHECK_BYTES {
            self.unchecked = 0;
            let found = rustix::fs::statvfs(&self.dir).map_err(|error| fail("", &self.dir, error.into()))?;
            if found.f_bavail.saturating_mul(found.f_frsize) < FREE_BYTES {
                return Err(UnpackError::DiskFull { dir: self.dir.clone() });
            }
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &tar::Entry<'_, Metered>,
        shown: &str,
    ) -> Result<(), UnpackError> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let target_shown = String::from_utf8_lossy(&target).into_owned();
        let escape = || UnpackError::PathEscape { entry: format!("{shown} -> {target_shown}") };
        let target = clean(&target).ok_or_else(escape)?;
        let wrong = |why: String| UnpackError::Malformed { entry: shown.into(), why };
        let (target_parent, target_name) = split(&target).ok_or_else(|| wrong("a link to the root".into()))?;
        let linked = self
            .open_directory(target_parent)
            .and_then(|dir| rustix::fs::linkat(dir, target_name, parent, name, AtFlags::empty()));
        linked.map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                wrong(format!("it is a link to {target_shown:?}, which is not in the layer"))
            }
            Errno::PERM => wrong(format!("it is a link to the directory {target_shown:?}")),
            other => fail(shown, &self.dir, other.into()),
        })
    }

    /// Says that a name of lower layers is gone. It says nothing about what this layer itself brings.
    fn whiteout(&mut self, parent: BorrowedFd<'_>, hidden: &[u8], shown: &str) -> Result<(), UnpackError> {
        let io = |error: Errno| fail(shown, &self.dir, error.into());
        if hidden == b".wh..opq" {
            let dir = reopen_directory(parent, b".").map_err(io)?;
            return set_opaque(dir.as_fd()).map_err(io);
        }
        if hidden.starts_with(b".wh.") {
            return Ok(()); // AUFS's own bookkeeping.
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackError::PathEscape { entry: shown.into() });
        }
        match rustix::fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                let dir = reopen_directory(parent, hidden).map_err(io)?;
                set_opaque(dir.as_fd()).map_err(io)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0).map_err(io)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Makes room for a new file: the later entry of two wins.
    fn clear(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => {
                self.last_parent = None; // It may have been a link that the path leads through.
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                self.last_parent = None;
                remove_tree(parent, name, 0)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The directory at `path`, made if it is not there.
    fn parent(&mut self, path: &[u8], shown: &str) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((known, fd)) = &self.last_parent
            && known == path
        {
            return Ok(fd.clone());
        }
        let opened = match self.open_directory(path) {
            Err(Errno::NOENT) => self.make_parents(path),
            other => other,
        };
        let fd = Rc::new(opened.map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => {
                UnpackError::Malformed { entry: shown.into(), why: "its directory is not a directory".into() }
            }
            other => fail(shown, &self.dir, other.into()),
        })?);
        self.last_parent = Some((path.to_owned(), fd.clone()));
        Ok(fd)
    }

    fn make_parents(&mut self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.collect::<Vec<_>>() {
            let here = &path[..end];
            let (parent, name) = split(here).ok_or(Errno::INVAL)?;
            match self.open_directory(here) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(other) => return Err(other),
            }
            let parent = self.open_directory(parent)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                // A link to nowhere inside of the layer: it leads to a lower layer, and we cannot follow it there.
                Err(Errno::EXIST) => return Err(Errno::NOTDIR),
                made => made?,
            }
            // `mkdirat` obeys the umask of the process.
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
            self.implicit.insert(String::from_utf8_lossy(here).into_owned());
        }
        self.open_directory(path)
    }

    fn open_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), inside())
    }

    /// Attributes of directories, deepest last entry first.
    fn finish_directories(&mut self) -> Result<(), UnpackError> {
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let shown = String::from_utf8_lossy(&path).into_owned();
            let at: &[u8] = if path.is_empty() { b"." } else { &path };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.root, at, flags, Mode::empty(), inside()) {
                Ok(dir) => decorate(dir.as_fd(), &attributes).map_err(|error| fail(&shown, &self.dir, error))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {} // A later entry replaced it.
                Err(error) => return Err(fail(&shown, &self.dir, error.into())),
            }
            self.implicit.remove(&shown);
        }
        Ok(())
    }
}

fn inside() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

fn fail(entry: &str, dir: &Path, source: io::Error) -> UnpackError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => UnpackError::DiskFull { dir: dir.to_owned() },
        _ => UnpackError::Io { entry: entry.to_owned(), source },
    }
}

/// A relative path without `.` and empty parts; `None` if it has `..` or a zero byte.
fn clean(raw: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = raw.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.iter().any(|part| *part == b".." || part.contains(&0)) || parts.len() > DEPTH {
        return None;
    }
    Some(parts.join(&b'/'))
}

/// Parent and name; `None` for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

fn attributes(entry: &mut tar::Entry<'_, Metered>, shown: &str) -> Result<Attributes, UnpackError> {
    let wrong = |why: String| UnpackError::Malformed { entry: shown.to_owned(), why };
    let mut modified = None;
    let mut xattrs = Vec::new();
    let extensions = entry.pax_extensions().map_err(|error| wrong(error.to_string()))?;
    for extension in extensions.into_iter().flatten() {
        let extension = extension.map_err(|error| wrong(error.to_string()))?;
        let Ok(name) = extension.key() else { continue };
        if let Some(xattr) = name.strip_prefix("SCHILY.xattr.") {
            // Overlayfs's own would let a layer redirect look-ups; nobody but the kernel may set them.
            if !xattr.starts_with("trusted.") && !xattr.starts_with("user.overlay.") {
                xattrs.push((xattr.to_owned(), extension.value_bytes().to_owned()));
            }
        } else if name == "mtime" {
            modified = extension.value().ok().and_then(parse_time);
        } else if name.starts_with("GNU.sparse.") {
            return Err(UnpackError::Unsupported { entry: shown.to_owned(), kind: "PAX sparse file".into() });
        }
    }
    let header = entry.header();
    let old = header.as_old();
    // A blank field is zero, as for Go's archive/tar, with which most layers are written and read.
    let number = |field: &[u8], value: io::Result<u64>, of: &str| {
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            return Ok(0);
        }
        let value = value.map_err(|error| wrong(error.to_string()))?;
        u32::try_from(value).map_err(|_| wrong(format!("{of} {value} is too large")))
    };
    let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    Ok(Attributes {
        mode: number(&old.mode, header.mode().map(u64::from), "mode")? & 0o7777,
        uid: number(&old.uid, header.uid(), "user id")?,
        gid: number(&old.gid, header.gid(), "group id")?,
        modified: modified.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 }),
        xattrs,
    })
}

/// PAX times: seconds with an optional fraction.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{:0<9.9}", fraction).parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    // Before 1970 the fraction counts away from zero.
    Some(if text.starts_with('-') && nanos > 0 {
        Timespec { tv_sec: seconds - 1, tv_nsec: 1_000_000_000 - nanos }
    } else {
        Timespec { tv_sec: seconds, tv_nsec: nanos }
    })
}

fn owner(attributes: &Attributes) -> (Uid, Gid) {
    (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid))
}

fn times(attributes: &Attributes) -> Timestamps {
    Timestamps { last_access: attributes.modified, last_modification: attributes.modified }
}

/// Owner first: changing it clears set-user-id bits and capabilities.
fn decorate(fd: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    let (uid, gid) = owner(attributes);
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in &attributes.xattrs {
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            // Labels of another system, or a file system without user attributes: the file is still the file.
            Err(Errno::NOTSUP) => tracing::debug!(xattr = name, "the file system does not keep this attribute"),
            set => set?,
        }
    }
    Ok(rustix::fs::futimens(fd, &times(attributes))?)
}

/// Makes `name` a directory. One that hides a lower layer's (made from a whiteout) stays hiding it.
fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(parent, name, mode) {
        Err(Errno::EXIST) => {}
        made => return Ok(made?),
    }
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Ok(()),
        kind => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            rustix::fs::mkdirat(parent, name, mode)?;
            if kind == FileType::CharacterDevice && found.st_rdev == 0 {
                set_opaque(reopen_directory(parent, name)?.as_fd())?;
            }
            Ok(())
        }
    }
}

fn reopen_directory(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn set_opaque(dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    let dir = reopen_directory(parent, name)?;
    let entries = Dir::read_from(&dir)?.collect::<rustix::io::Result<Vec<_>>>()?;
    for entry in entries {
        let child = entry.file_name().to_bytes();
        if matches!(child, b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(&dir, child, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(dir.as_fd(), child, depth + 1)?,
            removed => removed?,
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests;
