//! Looking into stacked layers as overlayfs would show them, without mounting: for `/etc/passwd` and the like.
//!
//! Always holds: a link of an image is followed inside of the image only, because every component is looked up by us.

use std::collections::VecDeque;
use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Files that are parsed may have this much.
const FILE_BYTES: u64 = 16 << 20;

/// As the kernel.
const LINKS: usize = 40;

/// Layers, top first (a container's upper directory may be one).
#[derive(Debug, Clone)]
pub struct Merged {
    layers: Vec<PathBuf>,
}

/// What a path leads to; links are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The topmost directory of its name; what is in it is merged with those below.
    Directory(PathBuf),
    /// Anything else.
    File(PathBuf),
}

impl Merged {
    /// Of `layers`, top first.
    pub fn new(layers: Vec<PathBuf>) -> Self {
        Merged { layers }
    }

    /// What `path` (absolute or relative to the root) leads to; `None` if there is nothing.
    pub fn find(&self, path: &str) -> io::Result<Option<Found>> {
        Ok(self.walk(path)?.map(|end| match end {
            End::Directory { full, .. } => Found::Directory(full),
            End::File(full) => Found::File(full),
        }))
    }

    /// The directory that `path` leads to: its path without links, relative to the root, and where its topmost part is.
    pub(crate) fn directory(&self, path: &str) -> io::Result<Option<(PathBuf, PathBuf)>> {
        Ok(match self.walk(path)? {
            Some(End::Directory { real, full }) => Some((real, full)),
            _ => None,
        })
    }

    fn walk(&self, path: &str) -> io::Result<Option<End>> {
        let mut left: VecDeque<String> = parts(path).collect();
        let mut here = Place { path: PathBuf::new(), layers: self.layers.clone() };
        let mut above: Vec<Place> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                here = above.pop().unwrap_or(here);
                continue;
            }
            match here.step(&part)? {
                Step::Nothing => return Ok(None),
                Step::Directory(next) => above.push(std::mem::replace(&mut here, next)),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(io::Error::other(format!("too many links on the way to {path}")));
                    }
                    if target.starts_with('/')
                        && let Some(root) = above.first()
                    {
                        here = root.clone();
                        above.clear();
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                }
                Step::File(file) if left.is_empty() => return Ok(Some(End::File(file))),
                Step::File(_) => return Ok(None),
            }
        }
        Ok(here.layers.first().map(|layer| End::Directory { full: layer.join(&here.path), real: here.path.clone() }))
    }

    /// The text of a regular file; `None` if there is none.
    pub fn read(&self, path: &str) -> io::Result<Option<String>> {
        let Some(Found::File(file)) = self.find(path)? else { return Ok(None) };
        // The upper directory of a running container may change under us: do not follow, do not block on a pipe.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits() as i32).open(file)?;
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn parts(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned)
}

enum End {
    Directory { real: PathBuf, full: PathBuf },
    File(PathBuf),
}

/// A merged directory.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    /// Those that take part in it, top first.
    layers: Vec<PathBuf>,
}

enum Step {
    Nothing,
    Directory(Place),
    Link(String),
    File(PathBuf),
}

impl Place {
    fn step(&self, name: &str) -> io::Result<Step> {
        let path = self.path.join(name);
        let mut merged = Vec::new();
        for layer in &self.layers {
            let full = layer.join(&path);
            let found = match std::fs::symlink_metadata(&full) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                found => found?,
            };
            let kind = found.file_type();
            if kind.is_dir() {
                merged.push(layer.clone());
                if is_opaque(&full) {
                    break;
                }
            } else if !merged.is_empty() || is_whiteout(&found, kind) {
                break;
            } else if kind.is_symlink() {
                return Ok(Step::Link(std::fs::read_link(&full)?.to_string_lossy().into_owned()));
            } else {
                return Ok(Step::File(full));
            }
        }
        Ok(if merged.is_empty() { Step::Nothing } else { Step::Directory(Place { path, layers: merged }) })
    }
}

fn is_whiteout(found: &Metadata, kind: FileType) -> bool {
    kind.is_char_device() && found.rdev() == 0
}

fn is_opaque(dir: &Path) -> bool {
    matches!(xattr::get(dir, "trusted.overlay.opaque"), Ok(Some(value)) if value == b"y")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::TempDir::new().unwrap();
        for (path, content) in entries {
            let full = dir.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            match content.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, full).unwrap(),
                None => std::fs::write(full, content).unwrap(),
            }
        }
        dir
    }

    #[test]
    fn upper_wins_and_links_stay_inside() {
        let lower = tree(&[
            ("etc/passwd", "lower"),
            ("etc/group", "lower group"),
            ("usr/lib/os-release", "os"),
            ("etc/os-release", "-> ../usr/lib/os-release"),
            ("etc/out", "-> ../../../../../../etc/hostname"),
            ("lib", "-> /usr/lib"),
            ("loop", "-> loop"),
        ]);
        let upper = tree(&[("etc/passwd", "upper")]);
        let merged = Merged::new(vec![upper.path().into(), lower.path().into()]);
        let read = |path: &str| merged.read(path).unwrap();
        assert_eq!(read("/etc/passwd").as_deref(), Some("upper"));
        assert_eq!(read("etc/group").as_deref(), Some("lower group"));
        assert_eq!(read("/etc/os-release").as_deref(), Some("os"));
        assert_eq!(read("/lib/os-release").as_deref(), Some("os"));
        assert_eq!(read("/etc/out"), None, "the host's file is not reached");
        assert_eq!(read("/etc/none"), None);
        assert_eq!(read("/etc/passwd/x"), None);
        assert_eq!(merged.find("/etc/../usr/./lib").unwrap(), Some(Found::Directory(lower.path().join("usr/lib"))));
        assert!(merged.read("/loop").is_err());
    }
}
