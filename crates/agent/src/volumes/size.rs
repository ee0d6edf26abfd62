//! [`Sizes`]: volumes of `dhow.dev/local` take no more than their size, by a project quota of their directory, where the file system has
//! them; elsewhere who asks is told why not (`docs/decisions/0005-…`).

use parking_lot::Mutex;
use runtime::quota;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Projects of ours begin here: apart from the kubelet's, which begin at 1048577, and from those that people number by hand.
const FIRST: u32 = 0x4448_0000;

/// Gives directories their projects. One at a time, so that no two get the same.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<()>);

impl Sizes {
    /// Limits what is below a directory. The error says why nobody enforces it.
    pub fn limit(&self, dir: &Path, bytes: u64) -> Result<(), String> {
        let _one = self.0.lock();
        let file = File::open(dir).map_err(|e| format!("failed to open {}: {e}", dir.display()))?;
        if !quota::enforces(file.as_fd()).unwrap_or(false) {
            return Err(format!("the file system of {} has no project quotas", dir.display()));
        }
        limit(dir, &file, bytes).map_err(|e| format!("failed to set the project quota of {}: {e}", dir.display()))
    }
}

fn limit(dir: &Path, file: &File, bytes: u64) -> io::Result<()> {
    let mut id = quota::project_of(file.as_fd())?;
    if id < FIRST {
        let others = siblings(dir);
        id = free_id(|id| others.contains(&id) || quota::get(file.as_fd(), id).is_ok_and(|p| p.used + p.limit > 0));
        // The limit is there before anything belongs to the project.
        quota::limit(file.as_fd(), id, bytes)?;
        return assign(dir, id);
    }
    quota::limit(file.as_fd(), id, bytes)
}

/// Projects of the directories beside this one: one that is empty yet has no use.
fn siblings(dir: &Path) -> BTreeSet<u32> {
    let entries = dir.parent().and_then(|parent| std::fs::read_dir(parent).ok()).into_iter().flatten().flatten();
    entries.filter_map(|e| quota::project_of(File::open(e.path()).ok()?.as_fd()).ok()).collect()
}

fn free_id(is_taken: impl Fn(u32) -> bool) -> u32 {
    (FIRST..).find(|id| !is_taken(*id)).unwrap_or(FIRST)
}

/// Directories first: what is made meanwhile inherits. Other kinds of files have no content.
fn assign(path: &Path, id: u32) -> io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        return Ok(());
    }
    quota::set_project(File::open(path)?.as_fd(), id, kind.is_dir())?;
    if kind.is_dir() {
        for entry in std::fs::read_dir(path)? {
            assign(&entry?.path(), id)?;
        }
    }
    Ok(())
}

/// Removes a directory and the limit that it had.
pub fn remove(dir: &Path) -> io::Result<()> {
    let id = File::open(dir).and_then(|file| quota::project_of(file.as_fd())).unwrap_or(0);
    runtime::remove_tree(dir)?;
    if id >= FIRST
        && let Some(parent) = dir.parent()
        && let Err(error) = File::open(parent).and_then(|file| quota::limit(file.as_fd(), id, 0))
    {
        // Its number is not given again; that is all.
        tracing::debug!(dir = %dir.display(), %error, "failed to remove a project quota");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_gets_a_project_of_its_own() {
        assert_eq!(free_id(|_| false), FIRST);
        assert_eq!(free_id(|id| id < FIRST + 3), FIRST + 3);
    }

    #[test]
    fn a_limit_is_set_or_it_is_said_why_not() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = root.path().join("pvc-a");
        std::fs::create_dir(&dir).expect("made");
        let set = Sizes::default().limit(&dir, 1 << 20);
        let enforced = File::open(&dir).is_ok_and(|f| quota::enforces(f.as_fd()).unwrap_or(false));
        let why = format!("the file system of {} has no project quotas", dir.display());
        assert_eq!(set, if enforced { Ok(()) } else { Err(why) });
        remove(&dir).expect("removed");
        assert!(!dir.exists());
        let missing = Sizes::default().limit(&dir, 1).expect_err("it is gone");
        assert!(missing.starts_with("failed to open "), "{missing}");
    }
}
