//! Unpacked layers, by the digest of what they unpack from (diff id), each one a directory in overlayfs form that needs
//! no other layer to be made. Shared by all images and containers, never written to after it has its name.
//!
//! ```text
//!   layers/<n>/fs/         the files            <n> is short: 128 of them must fit into one page of mount options
//!   layers/<n>/layer.json  diff id, size, boot it was made in
//!   layers/<n>/synced      everything is on the disk
//!   layers/<n>.tmp/        being made; worthless after a crash
//! ```
//!
//! Always holds: a layer without `synced` from another boot is not used, because a power cut may have emptied its files
//! (containerd #5854): it is unpacked again from its blob. So nothing waits for a sync of the whole file system.
//!
//! A directory that an archive did not list (`implicit`) has no attributes of its own. It takes those of the directory
//! that it covers in the layers below, and if it covers a link to a directory (`lib -> usr/lib`), its content moves to
//! where the link leads, as if it had been unpacked on top of them. Once, when the first image with the layer is complete.

use crate::content::{ContentError, read_dir, write_atomically};
use crate::merged::Merged;
use crate::unpack::{UnpackError, UnpackLimits, Unpacked, unpack};
use crate::{Digest, ImageError};
use parking_lot::Mutex;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    diff_id: Digest,
    /// Of regular files.
    bytes: u64,
    boot_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    implicit: Vec<String>,
}

#[derive(Debug, Clone)]
struct Known {
    dir: PathBuf,
    record: Record,
}

pub(crate) struct Layers {
    root: PathBuf,
    trash: PathBuf,
    boot_id: String,
    known: Mutex<State>,
}

struct State {
    layers: BTreeMap<Digest, Known>,
    next: u64,
}

impl Layers {
    pub(crate) fn open(store: &Path) -> Result<Self, ContentError> {
        let (root, trash) = (store.join("layers"), store.join("trash"));
        for dir in [&root, &trash] {
            std::fs::create_dir_all(dir).map_err(ContentError::io("create", dir))?;
        }
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(boot).map_err(ContentError::io("read", boot))?.trim().to_owned();
        let mut state = State { layers: BTreeMap::new(), next: 0 };
        let mut worthless = Vec::new();
        for left in read_dir(&trash)? {
            let name = left.file_name().unwrap_or_default().to_string_lossy().into_owned();
            state.next = state.next.max(u64::from_str_radix(&name, 36).map_or(0, |n| n + 1));
        }
        for dir in read_dir(&root)? {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            state.next = state.next.max(u64::from_str_radix(name.trim_end_matches(".tmp"), 36).map_or(0, |n| n + 1));
            let record =
                std::fs::read(dir.join("layer.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let usable = |record: &Record| dir.join("synced").exists() || record.boot_id == boot_id;
            match record.filter(usable) {
                Some(record) if !name.ends_with(".tmp") => {
                    state.layers.insert(record.diff_id.clone(), Known { dir, record });
                }
                _ => worthless.push(dir),
            }
        }
        let layers = Layers { root, trash, boot_id, known: Mutex::new(state) };
        for dir in worthless {
            tracing::info!(dir = %dir.display(), "removing a layer that was not finished or not synced before a crash");
            layers.throw_away(&dir)?;
        }
        Ok(layers)
    }

    /// Where the layer's files are, and their size.
    pub(crate) fn get(&self, diff_id: &Digest) -> Option<(PathBuf, u64)> {
        self.known.lock().layers.get(diff_id).map(|known| (known.dir.join("fs"), known.record.bytes))
    }

    /// Makes the layer from its blob. Blocks. The caller makes sure that nobody else makes the same one.
    pub(crate) fn create(&self, diff_id: &Digest, blob: File, limits: UnpackLimits) -> Result<(), ImageError> {
        let number = {
            let mut state = self.known.lock();
            state.next += 1;
            base36(state.next - 1)
        };
        let unfinished = self.root.join(format!("{number}.tmp"));
        let made = self.fill(diff_id, blob, limits, &unfinished).and_then(|record| {
            let dir = self.root.join(&number);
            std::fs::rename(&unfinished, &dir).map_err(ContentError::io("rename", &unfinished))?;
            self.known.lock().layers.insert(diff_id.clone(), Known { dir, record });
            Ok(())
        });
        if made.is_err()
            && unfinished.exists()
            && let Err(error) = self.throw_away(&unfinished)
        {
            tracing::warn!(%error, "an unfinished layer is left until the next start");
        }
        made
    }

    fn fill(&self, diff_id: &Digest, blob: File, limits: UnpackLimits, dir: &Path) -> Result<Record, ImageError> {
        let fs = dir.join("fs");
        std::fs::create_dir_all(&fs).map_err(ContentError::io("create", &fs))?;
        let failed = |source| ImageError::Unpack { diff_id: diff_id.clone(), source };
        let Unpacked { diff_id: found, bytes, implicit } = unpack(blob, &fs, limits).map_err(failed)?;
        if found != *diff_id {
            return Err(failed(UnpackError::Mismatch { expected: diff_id.clone(), found }));
        }
        let record = Record { diff_id: found, bytes, boot_id: self.boot_id.clone(), implicit };
        write_record(dir, &record)?;
        Ok(record)
    }

    /// Gives implicit directories of `diff_ids` (bottom first) the attributes of what they cover.
    pub(crate) fn settle(&self, diff_ids: &[Digest]) -> Result<(), ImageError> {
        let mut state = self.known.lock();
        for (at, diff_id) in diff_ids.iter().enumerate() {
            let Some(known) = state.layers.get(diff_id).filter(|known| !known.record.implicit.is_empty()).cloned()
            else {
                continue;
            };
            let below: Vec<PathBuf> = diff_ids[..at]
                .iter()
                .rev()
                .filter_map(|below| state.layers.get(below).map(|known| known.dir.join("fs")))
                .collect();
            let below = Merged::new(below);
            for path in &known.record.implicit {
                settle_directory(&known.dir.join("fs"), path, &below)?;
            }
            let record = Record { implicit: Vec::new(), ..known.record };
            write_record(&known.dir, &record)?;
            state.layers.insert(diff_id.clone(), Known { record, ..known });
        }
        Ok(())
    }

    /// Syncs the file system and marks what is now certainly on it. Blocks.
    pub(crate) fn sync(&self) -> Result<(), ContentError> {
        let unsynced: Vec<PathBuf> = {
            let state = self.known.lock();
            state.layers.values().map(|known| known.dir.clone()).filter(|dir| !dir.join("synced").exists()).collect()
        };
        if unsynced.is_empty() {
            return Ok(());
        }
        let failed = || ContentError::io("sync", &self.root);
        let root = File::open(&self.root).map_err(failed())?;
        rustix::fs::syncfs(&root).map_err(|error| failed()(error.into()))?;
        for dir in unsynced.into_iter().filter(|dir| dir.exists()) {
            let mark = dir.join("synced");
            File::create(&mark).and_then(|mark| mark.sync_all()).map_err(ContentError::io("create", &mark))?;
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> Vec<Digest> {
        self.known.lock().layers.keys().cloned().collect()
    }

    /// Forgets a layer: from now on it is trash. Returns the bytes that emptying it frees.
    pub(crate) fn remove(&self, diff_id: &Digest) -> Result<u64, ContentError> {
        let Some(known) = self.known.lock().layers.remove(diff_id) else { return Ok(0) };
        self.throw_away(&known.dir)?;
        Ok(known.record.bytes)
    }

    /// One rename, so that it is gone at once, however large.
    pub(crate) fn throw_away(&self, dir: &Path) -> Result<(), ContentError> {
        let name = {
            let mut state = self.known.lock();
            state.next += 1;
            base36(state.next - 1)
        };
        std::fs::rename(dir, self.trash.join(name)).map_err(ContentError::io("remove", dir))
    }

    /// Removes what was thrown away, perhaps before a crash. Blocks.
    pub(crate) fn empty_trash(&self) -> Result<(), ContentError> {
        for path in read_dir(&self.trash)? {
            match std::fs::remove_dir_all(&path) {
                // Somebody else empties it too.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ContentError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn write_record(dir: &Path, record: &Record) -> Result<(), ContentError> {
    let bytes = serde_json::to_vec(record).expect("a record is JSON");
    write_atomically(&dir.join("layer.json"), &bytes)
}

/// Makes the implicit directory `path` of the layer `fs` what it would be on top of the layers `below`.
fn settle_directory(fs: &Path, path: &str, below: &Merged) -> Result<(), ContentError> {
    let Ok(Some((real, covered))) = below.directory(path) else { return Ok(()) };
    if real.as_os_str().is_empty() || !is_plain(fs, &real) || !is_plain(fs, Path::new(path)) {
        return Ok(()); // The layer has a link of its own there: nothing of it may be followed on the host.
    }
    let (from, to) = (fs.join(path), fs.join(&real));
    if from != to && from.is_dir() {
        let above: Vec<&Path> = real.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
        for above in above.into_iter().rev().filter(|above| !fs.join(above).exists()) {
            std::fs::create_dir(fs.join(above)).map_err(ContentError::io("create", &fs.join(above)))?;
            if let Ok(Some((_, covered))) = below.directory(&above.to_string_lossy()) {
                copy_attributes(&covered, &fs.join(above))?;
            }
        }
        merge(&from, &to)?;
    }
    if to.is_dir() { copy_attributes(&covered, &to) } else { Ok(()) }
}

/// Whether no component of `path` in `fs` is anything but a directory (or absent).
fn is_plain(fs: &Path, path: &Path) -> bool {
    path.ancestors().filter(|part| !part.as_os_str().is_empty()).all(|part| {
        match std::fs::symlink_metadata(fs.join(part)) {
            Ok(found) => found.is_dir(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    })
}

/// Moves a directory onto a place where one may be. Nobody else knows these directories yet.
fn merge(from: &Path, to: &Path) -> Result<(), ContentError> {
    let is_dir = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !is_dir(to) {
        return std::fs::rename(from, to).map_err(ContentError::io("move", from));
    }
    for child in read_dir(from)? {
        let target = to.join(child.file_name().unwrap_or_default());
        if is_dir(&child) && is_dir(&target) {
            merge(&child, &target)?;
        } else if !is_dir(&target) {
            std::fs::rename(&child, &target).map_err(ContentError::io("move", &child))?;
        }
    }
    std::fs::remove_dir_all(from).map_err(ContentError::io("remove", from))
}

fn copy_attributes(from: &Path, to: &Path) -> Result<(), ContentError> {
    let failed = || ContentError::io("set attributes of", to);
    let found = std::fs::symlink_metadata(from).map_err(ContentError::io("stat", from))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(to, flags, Mode::empty()).map_err(|error| failed()(error.into()))?;
    rustix::fs::fchown(&dir, Some(Uid::from_raw(found.uid())), Some(Gid::from_raw(found.gid())))
        .and_then(|()| rustix::fs::fchmod(&dir, Mode::from_raw_mode(found.mode() & 0o7777)))
        .map_err(|error| failed()(error.into()))
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0, 35, 36, 46655].map(super::base36).into();
        assert_eq!(shown, ["0", "z", "10", "zzz"]);
    }
}
