//! One directory per pod below the agent's data directory: `pod.json` (the object) and `seen.json` (what is known).
//!
//! Always holds: what an action begins is on disk before the action is done, so a crash leaves nothing that nobody
//! knows of. Renamed into place, not synced: what runs does not survive a power cut either.

use super::seen::Seen;
use api::Codec;
use api::k8s::api::core::v1::Pod;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A checkpoint that cannot be read or written.
#[derive(Debug, Error)]
#[error("failed to {what} {path}")]
pub struct CheckpointError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CheckpointError + 'a {
    move |source| CheckpointError { what, path: path.to_path_buf(), source }
}

/// Writes a pod's checkpoint; remembers what it wrote last and writes only what differs.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    pod: Vec<u8>,
    seen: Vec<u8>,
}

impl Checkpoint {
    /// The checkpoint in this directory.
    pub fn new(dir: PathBuf) -> Self {
        Checkpoint { dir, pod: Vec::new(), seen: Vec::new() }
    }

    /// Saves both.
    pub fn save(&mut self, pod: &Pod, seen: &Seen) -> Result<(), CheckpointError> {
        fs::create_dir_all(&self.dir).map_err(error("create", &self.dir))?;
        let pod = without_status(pod).encode();
        if pod != self.pod {
            put(&self.dir.join("pod.json"), &pod)?;
            self.pod = pod;
        }
        let path = self.dir.join("seen.json");
        let seen = serde_json::to_vec(seen).map_err(|e| error("encode", &path)(e.into()))?;
        if seen != self.seen {
            put(&path, &seen)?;
            self.seen = seen;
        }
        Ok(())
    }
}

/// The status changes often and is derived; `resourceVersion` changes with it.
fn without_status(pod: &Pod) -> Pod {
    let mut out = Pod { metadata: pod.metadata.clone(), spec: pod.spec.clone(), status: None };
    out.metadata.resource_version = None;
    out.metadata.managed_fields = None;
    out
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes).map_err(error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(error("replace", path))
}

/// All checkpoints below `dir`. One that cannot be read is reported in the log and left out: its pod then begins anew,
/// and what runs of it is found through the engine.
pub fn load_all(dir: &Path) -> Result<Vec<(Pod, Seen)>, CheckpointError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(error("list", dir))?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry.map_err(error("list", dir))?.path();
        match load(&path) {
            Ok(Some(found)) => out.push(found),
            Ok(None) => {}
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %base::chain(&e), "a pod's checkpoint is unreadable")
            }
        }
    }
    Ok(out)
}

fn load(dir: &Path) -> Result<Option<(Pod, Seen)>, CheckpointError> {
    let (pod_path, seen_path) = (dir.join("pod.json"), dir.join("seen.json"));
    if !pod_path.exists() || !seen_path.exists() {
        return Ok(None);
    }
    let pod = fs::read(&pod_path).map_err(error("read", &pod_path))?;
    let pod = Pod::decode(&pod).map_err(|e| error("decode", &pod_path)(io::Error::other(e)))?;
    let seen = fs::read(&seen_path).map_err(error("read", &seen_path))?;
    let seen = serde_json::from_slice(&seen).map_err(|e| error("decode", &seen_path)(e.into()))?;
    Ok(Some((pod, seen)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::pod::seen::{Sandbox, Volumes};

    #[test]
    fn what_is_saved_comes_back_and_damage_is_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pod = pod(r#"{"containers":[{"name":"a","image":"i"}]}"#);
        let seen = Seen { sandbox: Sandbox::Ready { id: "s".into() }, volumes: Volumes::Mounted, ..Seen::default() };
        let mut checkpoint = Checkpoint::new(dir.path().join("u1"));
        checkpoint.save(&pod, &seen).expect("saved");
        fs::create_dir(dir.path().join("u2")).expect("mkdir");
        fs::write(dir.path().join("u2/pod.json"), "{").expect("write");
        fs::write(dir.path().join("u2/seen.json"), "{").expect("write");
        let all = load_all(dir.path()).expect("listed");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1, seen);
        assert_eq!(all[0].0.spec, pod.spec);
        assert!(load_all(&dir.path().join("none")).expect("no directory is no error").is_empty());
    }
}
