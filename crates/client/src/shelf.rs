//! [`Shelf`]: what caches knew last, on disk, for a program that has to go on while its server is away.
//!
//! One file per cache, written at once and then some seconds after a change, at most that often; whole or not there. Readable by root only: among
//! the objects may be Secrets.

use crate::ListParams;
use api::Object;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory with one file per cache.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// Makes the directory if it is missing.
    pub fn open(dir: PathBuf) -> io::Result<Shelf> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Shelf { dir })
    }

    /// Names may be longer than a file's may be, so what is selected is only told apart.
    fn file<K: Object>(&self, params: &ListParams) -> PathBuf {
        let selected = format!("{:?}", (&params.namespace, &params.label_selector, &params.field_selector));
        let digest = ring::digest::digest(&ring::digest::SHA256, selected.as_bytes());
        let name: String = digest.as_ref().iter().take(16).map(|b| format!("{b:02x}")).collect();
        self.dir.join(format!("{}-{name}.json", K::PLURAL))
    }

    /// What was stored, if anything was.
    pub(crate) fn load<K: Object>(&self, params: &ListParams) -> io::Result<Option<Vec<K>>> {
        let text = match fs::read(self.file::<K>(params)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let objects: Vec<&RawValue> = serde_json::from_slice(&text)?;
        let decoded: Result<Vec<K>, _> = objects.into_iter().map(|o| K::decode(o.get().as_bytes())).collect();
        decoded.map(Some).map_err(io::Error::other)
    }

    /// Replaces what was stored.
    pub(crate) fn store<K: Object>(&self, params: &ListParams, objects: &[Arc<K>]) -> io::Result<()> {
        let file = self.file::<K>(params);
        base::files::replace_durably(&file, base::files::PRIVATE, |out| {
            out.write_all(b"[")?;
            for (at, object) in objects.iter().enumerate() {
                out.write_all(if at == 0 { b"\n" } else { b",\n" })?;
                out.write_all(&object.encode())?;
            }
            out.write_all(b"\n]\n")
        })
    }

    /// Nobody will ask for others of this kind any more.
    pub(crate) fn retain<K: Object>(&self, selections: impl Iterator<Item = ListParams>) -> io::Result<()> {
        let wanted: BTreeSet<PathBuf> = selections.map(|params| self.file::<K>(&params)).collect();
        let prefix = format!("{}-", K::PLURAL);
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // What a kill left half written goes with its file.
            let of_kind = name.starts_with(&prefix) && (name.ends_with(".json") || name.ends_with(".tmp"));
            let stored = name.strip_suffix(".tmp").unwrap_or(&name);
            if of_kind && !wanted.contains(&self.dir.join(stored)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}
