//! Files that change together: `..data` is a link to a directory, visible names are links through it, and an update
//! swaps `..data` (`pkg/volume/util/atomic_writer.go`). A reader sees the old set or the new one, never a mix.
//!
//! ```text
//!   color ─▶ ..data/color          ..data ─▶ ..2026_11_20_13_00_00.123456789/
//! ```
//!
//! Always holds: a crash at any point leaves a complete set visible; leftovers are removed by the next write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use thiserror::Error;

/// Path below the volume → content.
pub type Payload = BTreeMap<String, File>;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<u32>,
}

/// Why a set of files could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// A path that could leave the volume.
    #[error("invalid path: {why}: {path}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The file system refused.
    #[error("failed to {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WriteError + 'a {
    move |source| WriteError::Io { what, path: path.to_path_buf(), source }
}

/// Makes `dir` show exactly `payload`. `stamp` names the new directory; `group` is the pod's fsGroup.
/// Returns whether anything changed.
pub fn write(dir: &Path, payload: &Payload, stamp: &str, group: Option<u32>) -> Result<bool, WriteError> {
    let payload = clean(payload)?;
    fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    set_mode(dir, 0o777)?;
    let current = fs::read_link(dir.join(DATA)).ok();
    let same = match &current {
        Some(current) => is_same(&dir.join(current), &payload)?,
        None => false,
    };
    if !same {
        let fresh = unused_name(dir, stamp);
        write_set(&dir.join(&fresh), &payload, group)?;
        swap(dir, &fresh)?;
    }
    show(dir, &payload)?;
    own(dir, group)?;
    remove_others(dir, &payload)?;
    Ok(!same)
}

/// `..stamp`, or with a number behind it if the clock has shown the same time before.
fn unused_name(dir: &Path, stamp: &str) -> String {
    let mut names = std::iter::once(format!("..{stamp}")).chain((1..).map(|n: u64| format!("..{stamp}.{n}")));
    let is_free = |name: &String| dir.join(name).symlink_metadata().is_err();
    names.find(is_free).expect("there are more numbers than files")
}

fn clean(payload: &Payload) -> Result<Payload, WriteError> {
    let mut out = Payload::new();
    for (path, file) in payload {
        let refuse = |why| Err(WriteError::Path { path: path.clone(), why });
        let mut parts = Vec::new();
        for component in Path::new(path).components() {
            match component {
                Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
                Component::CurDir => {}
                Component::ParentDir => return refuse("must not contain '..'"),
                _ => return refuse("must be relative path"),
            }
        }
        match parts.first() {
            None => return refuse("must not be empty"),
            Some(first) if first.starts_with("..") => return refuse("must not start with '..'"),
            Some(_) if parts.iter().any(|p| p.len() > 255) || path.len() > 4096 => return refuse("is too long"),
            Some(_) => {}
        }
        out.insert(parts.join("/"), file.clone());
    }
    Ok(out)
}

/// Whether the set in `data` is `payload`, modes and owners included.
fn is_same(data: &Path, payload: &Payload) -> Result<bool, WriteError> {
    for (path, file) in payload {
        let path = data.join(path);
        match fs::read(&path) {
            Ok(now) if now == file.data => {}
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(io_error("read", &path)(e)),
        }
    }
    let mut files = BTreeSet::new();
    list_files(data, Path::new(""), &mut files)?;
    Ok(files.len() == payload.len())
}

fn list_files(root: &Path, below: &Path, out: &mut BTreeSet<PathBuf>) -> Result<(), WriteError> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
        let entry = entry.map_err(io_error("list", &dir))?;
        let path = below.join(entry.file_name());
        if entry.file_type().map_err(io_error("inspect", &dir))?.is_dir() {
            list_files(root, &path, out)?;
        } else {
            out.insert(path);
        }
    }
    Ok(())
}

fn write_set(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<(), WriteError> {
    fs::create_dir(dir).map_err(io_error("create", dir))?;
    set_mode(dir, 0o755)?;
    for (path, file) in payload {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        fs::write(&path, &file.data).map_err(io_error("write", &path))?;
        // Explicitly, because the process' umask took its share.
        set_mode(&path, file.mode & 0o7777)?;
        if let Some(owner) = file.owner {
            chown(&path, Some(owner), None).map_err(io_error("change the owner of", &path))?;
        }
    }
    own_all(dir, group)
}

fn swap(dir: &Path, fresh: &str) -> Result<(), WriteError> {
    let (new, data) = (dir.join(NEW_DATA), dir.join(DATA));
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &new)(e)),
        // Left over from a crash, or not there.
        _ => {}
    }
    symlink(fresh, &new).map_err(io_error("link", &new))?;
    fs::rename(&new, &data).map_err(io_error("swap", &data))
}

/// First components of the payload's paths.
fn visible(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().map(|p| p.split('/').next().unwrap_or(p)).collect()
}

fn show(dir: &Path, payload: &Payload) -> Result<(), WriteError> {
    for name in visible(payload) {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(io_error("link", &link))?;
        }
    }
    Ok(())
}

/// Names that are not in the payload, and old sets.
fn remove_others(dir: &Path, payload: &Payload) -> Result<(), WriteError> {
    let current = fs::read_link(dir.join(DATA)).map_err(io_error("read", dir))?;
    let keep = visible(payload);
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let path = entry.path();
        let is_dir = entry.file_type().map_err(io_error("inspect", &path))?.is_dir();
        if is_dir && text.starts_with("..") && Path::new(&name) != current {
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        } else if !is_dir && text != DATA && !keep.contains(text.as_ref()) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), WriteError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("change the mode of", path))
}

fn own(path: &Path, group: Option<u32>) -> Result<(), WriteError> {
    let Some(group) = group else { return Ok(()) };
    own_one(path, group, true)
}

fn own_all(dir: &Path, group: Option<u32>) -> Result<(), WriteError> {
    match group {
        Some(group) => own_tree(dir, group, true).map_err(io_error("change the group of", dir)),
        None => Ok(()),
    }
}

fn own_one(path: &Path, group: u32, read_only: bool) -> Result<(), WriteError> {
    give(path, group, read_only).map_err(io_error("change the group of", path))
}

/// Gives a tree to a group, as `pkg/volume/volume_linux.go` (changeFilePermission) does.
pub fn own_tree(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    give(path, group, read_only)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            own_tree(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group))?;
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mask = if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mask |= 0o2110;
    }
    fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, owner: None }))
            .collect()
    }

    /// Names with content; links are followed.
    fn shown(dir: &Path) -> String {
        let mut out = Vec::new();
        for entry in fs::read_dir(dir).expect("it is there") {
            let entry = entry.expect("readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("..") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                out.extend(shown(&path).split_whitespace().map(|s| format!("{name}/{s}")));
            } else {
                out.push(format!("{name}={}", fs::read_to_string(&path).expect("text")));
            }
        }
        out.sort();
        out.join(" ")
    }

    #[test]
    fn updates_swap_the_whole_set_and_leave_one_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = dir.path();
        assert!(write(at, &payload(&[("a", "1"), ("sub/b", "2")]), "t1", None).expect("write"));
        assert_eq!(shown(at), "a=1 sub/b=2");
        assert!(!write(at, &payload(&[("a", "1"), ("sub/b", "2")]), "t2", None).expect("write"));
        assert!(write(at, &payload(&[("a", "3"), ("c", "4")]), "t3", None).expect("write"));
        assert_eq!(shown(at), "a=3 c=4");
        let hidden: Vec<_> = fs::read_dir(at)
            .expect("list")
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| n.starts_with(".."))
            .collect();
        assert_eq!(hidden.len(), 2, "{hidden:?}: ..data and its target");
        let mode = fs::metadata(at.join("a")).expect("follow").mode() & 0o777;
        assert_eq!(mode, 0o640);
    }

    #[test]
    fn a_crash_before_the_swap_is_cleaned_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = dir.path();
        write(at, &payload(&[("a", "1")]), "t1", None).expect("write");
        fs::create_dir(at.join("..t2")).expect("a half-written set");
        symlink("..t2", at.join(NEW_DATA)).expect("a half-done swap");
        assert_eq!(shown(at), "a=1");
        write(at, &payload(&[("a", "2")]), "t3", None).expect("write");
        assert_eq!(shown(at), "a=2");
        assert!(!at.join("..t2").exists());
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for bad in ["../x", "/x", "", "a/../../x", "..x"] {
            let got = write(dir.path(), &payload(&[(bad, "1")]), "t", None);
            assert!(matches!(got, Err(WriteError::Path { .. })), "{bad}: {got:?}");
        }
    }
}
