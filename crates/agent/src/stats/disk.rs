//! How much a file system has.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use image::DiskUse;

/// What a file system has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub capacity: u64,
    /// Of these, free for anybody.
    pub available: u64,
    /// Of these, free for root, too.
    pub free: u64,
    /// Files.
    pub inodes: u64,
    /// Of these, free.
    pub inodes_free: u64,
    /// The path is the root of its file system, which holds nothing else then.
    pub is_alone: bool,
}

impl Space {
    /// Of the file system that has `path`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        let device = |p: &Path| fs::symlink_metadata(p).map(|m| m.dev()).ok();
        Ok(Space {
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            available: found.f_bavail.saturating_mul(found.f_frsize),
            free: found.f_bfree.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_ffree,
            is_alone: path.parent().is_some_and(|above| device(above) != device(path)),
        })
    }

    /// What is not free.
    pub fn used(&self) -> DiskUse {
        DiskUse { bytes: self.capacity.saturating_sub(self.free), inodes: self.inodes.saturating_sub(self.inodes_free) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_room() {
        assert!(Space::of(Path::new("/")).expect("a file system").capacity > 0);
    }
}
