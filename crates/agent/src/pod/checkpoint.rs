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
            let path = self.dir.join("pod.json");
            base::files::replace(&path, &pod).map_err(error("write", &path))?;
            self.pod = pod;
        }
        let path = self.dir.join("seen.json");
        let seen = serde_json::to_vec(seen).map_err(|e| error("encode", &path)(e.into()))?;
        if seen != self.seen {
            base::files::replace(&path, &seen).map_err(error("write", &path))?;
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

    /// As the first version wrote it, and as a later one may: what is not there is as before there was such a thing, what is not known is
    /// passed over. Only a state of its own that this version has no word for makes a pod begin anew.
    #[test]
    fn checkpoints_of_other_versions_are_understood() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |uid: &str, seen: &str| {
            let of_pod = dir.path().join(uid);
            fs::create_dir(&of_pod).expect("mkdir");
            let pod = format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{uid}","uid":"{uid}"}},"spec":{{"containers":[{{"name":"a","image":"i"}}]}}}}"#
            );
            fs::write(of_pod.join("pod.json"), pod).expect("written");
            fs::write(of_pod.join("seen.json"), seen).expect("written");
        };
        let running = r#""run":{"Running":{"id":"c1","image":"i","image_id":"i@sha256:1","definition":"d","started_at":"2026-01-01T00:00:00Z","stop_signal":"SIGTERM","post_start":"Done","stop":null}}"#;
        let sandbox = r#""sandbox":{"Ready":{"id":"old-0"}},"volumes":"Mounted""#;
        write("old", &format!(r#"{{{sandbox},"containers":{{"a":{{{running},"restarts":3}}}}}}"#));
        write("new", &format!(r#"{{{sandbox},"mood":{{"is":"good"}},"containers":{{"a":{{{running},"colour":1}}}}}}"#));
        write("strange", r#"{"sandbox":"Dreaming"}"#);
        let mut all = load_all(dir.path()).expect("listed");
        all.sort_by(|a, b| b.0.metadata.uid.cmp(&a.0.metadata.uid));
        let shown = |(pod, seen): &(Pod, Seen)| {
            let run = seen.containers["a"].running().map(|r| r.id.clone());
            (pod.metadata.uid.clone(), seen.sandbox.ready().map(str::to_owned), run, seen.containers["a"].restarts)
        };
        let known =
            |uid: &str, restarts| (Some(uid.to_owned()), Some("old-0".to_owned()), Some("c1".to_owned()), restarts);
        assert_eq!(all.iter().map(shown).collect::<Vec<_>>(), [known("old", 3), known("new", 0)]);
    }
}
