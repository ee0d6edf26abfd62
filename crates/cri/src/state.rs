//! [`State`]: all sandboxes and containers, in memory and on disk, and the ways to their supervisors.

use crate::record::{ContainerRecord, Records, SandboxRecord};
use parking_lot::Mutex;
use runtime::Pod;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;

/// All of it. Calls are short and never wait for anybody.
pub(crate) struct State {
    inner: Mutex<Inner>,
    records: Records,
    /// Told of every change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Inner {
    sandboxes: BTreeMap<String, Arc<SandboxRecord>>,
    containers: BTreeMap<String, Arc<ContainerRecord>>,
    /// Of sandboxes whose supervisor lives.
    pods: BTreeMap<String, Pod>,
}

impl State {
    /// Reads the records of a process before us.
    pub(crate) fn load(dir: &Path) -> io::Result<Self> {
        let records = Records::open(dir)?;
        let inner = Inner {
            sandboxes: records.load()?.into_iter().map(|(id, r)| (id, Arc::new(r))).collect(),
            containers: records.load()?.into_iter().map(|(id, r)| (id, Arc::new(r))).collect(),
            pods: BTreeMap::new(),
        };
        Ok(State { inner: Mutex::new(inner), records, changed: watch::Sender::new(()) })
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<SandboxRecord>> {
        self.inner.lock().sandboxes.values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<ContainerRecord>> {
        self.inner.lock().containers.values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<ContainerRecord>> {
        self.inner.lock().containers.values().filter(|c| c.sandbox == sandbox).cloned().collect()
    }

    /// By its id or the unique beginning of it.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<SandboxRecord>, Status> {
        find(&self.inner.lock().sandboxes, id).ok_or_else(|| Status::not_found(format!("sandbox {id:?} not found")))
    }

    /// By its id or the unique beginning of it.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<ContainerRecord>, Status> {
        find(&self.inner.lock().containers, id).ok_or_else(|| Status::not_found(format!("container {id:?} not found")))
    }

    /// The way to a sandbox' supervisor.
    pub(crate) fn pod(&self, sandbox: &str) -> Result<Pod, Status> {
        let pod = self.inner.lock().pods.get(sandbox).cloned();
        pod.ok_or_else(|| Status::not_found(format!("sandbox {sandbox:?} does not run")))
    }

    pub(crate) fn put_pod(&self, pod: Pod) {
        self.inner.lock().pods.insert(pod.id().to_owned(), pod);
    }

    pub(crate) fn take_pod(&self, sandbox: &str) -> Option<Pod> {
        self.inner.lock().pods.remove(sandbox)
    }

    /// A new sandbox, unless its name is taken.
    pub(crate) fn add_sandbox(&self, record: SandboxRecord) -> Result<(), Status> {
        let mut inner = self.inner.lock();
        if let Some(other) = inner.sandboxes.values().find(|s| s.config.metadata == record.config.metadata) {
            let name = record.config.metadata.as_ref().map_or("", |m| &m.name);
            return Err(Status::already_exists(format!("sandbox name {name:?} is reserved for {:?}", other.id)));
        }
        self.records.save(&record).map_err(|e| not_kept(&e))?;
        inner.sandboxes.insert(record.id.clone(), Arc::new(record));
        Ok(())
    }

    /// A new container, unless its name is taken in its sandbox.
    pub(crate) fn add_container(&self, record: ContainerRecord) -> Result<(), Status> {
        let mut inner = self.inner.lock();
        let same =
            |c: &&Arc<ContainerRecord>| c.sandbox == record.sandbox && c.config.metadata == record.config.metadata;
        if let Some(other) = inner.containers.values().find(same) {
            let name = record.config.metadata.as_ref().map_or("", |m| &m.name);
            return Err(Status::already_exists(format!("container name {name:?} is reserved for {:?}", other.id)));
        }
        self.records.save(&record).map_err(|e| not_kept(&e))?;
        inner.containers.insert(record.id.clone(), Arc::new(record));
        Ok(())
    }

    pub(crate) fn update_sandbox(&self, id: &str, change: impl FnOnce(&mut SandboxRecord)) {
        let mut inner = self.inner.lock();
        if let Some(record) = inner.sandboxes.get_mut(id) {
            change(Arc::make_mut(record));
            self.keep(self.records.save(&**record));
        }
    }

    pub(crate) fn update_container(&self, id: &str, change: impl FnOnce(&mut ContainerRecord)) {
        let mut inner = self.inner.lock();
        if let Some(record) = inner.containers.get_mut(id) {
            change(Arc::make_mut(record));
            self.keep(self.records.save(&**record));
        }
    }

    pub(crate) fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let mut inner = self.inner.lock();
        self.records.remove::<SandboxRecord>(id).map_err(|e| not_kept(&e))?;
        inner.sandboxes.remove(id);
        Ok(())
    }

    pub(crate) fn remove_container(&self, id: &str) -> Result<(), Status> {
        let mut inner = self.inner.lock();
        self.records.remove::<ContainerRecord>(id).map_err(|e| not_kept(&e))?;
        inner.containers.remove(id);
        Ok(())
    }

    /// What happened is known to us in any case; after a restart the engine tells it again.
    fn keep(&self, saved: io::Result<()>) {
        if let Err(error) = saved {
            tracing::warn!(%error, "a record could not be written");
        }
        self.changed.send_replace(());
    }

    /// Waits until a container has ended; false if it still runs after `limit`.
    pub(crate) async fn ended(&self, id: &str, limit: Duration) -> bool {
        let mut changes = self.changed.subscribe();
        let over = || self.inner.lock().containers.get(id).is_none_or(|c| !c.is_running());
        let waiting = async { while !over() && changes.changed().await.is_ok() {} };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }
}

fn not_kept(error: &io::Error) -> Status {
    Status::unknown(format!("a record could not be written: {error}"))
}

fn find<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    let mut matching = all.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    let (key, first) = matching.next()?;
    (key == id || matching.next().is_none()).then(|| first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::cri::{PodSandboxConfig, PodSandboxMetadata};

    fn sandbox(id: &str, name: &str, attempt: u32) -> SandboxRecord {
        let metadata = PodSandboxMetadata { name: name.into(), attempt, ..PodSandboxMetadata::default() };
        let config = PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() };
        SandboxRecord { id: id.into(), config, ..SandboxRecord::default() }
    }

    #[test]
    fn found_by_a_unique_beginning_and_named_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::load(dir.path()).expect("loaded");
        for (id, attempt) in [("abc", 0), ("abcd", 1), ("ax", 2)] {
            state.add_sandbox(sandbox(id, "web", attempt)).expect("added");
        }
        let found = |id: &str| state.sandbox(id).map(|s| s.id.clone()).ok();
        assert_eq!(found("abc").as_deref(), Some("abc"));
        assert_eq!(found("abcd").as_deref(), Some("abcd"));
        assert_eq!(found("ax").as_deref(), Some("ax"));
        assert_eq!((found("a"), found(""), found("b")), (None, None, None));
        let again = state.add_sandbox(sandbox("y", "web", 2)).expect_err("is taken");
        assert_eq!(again.code(), tonic::Code::AlreadyExists);
        let after = State::load(dir.path()).expect("loaded");
        assert_eq!(after.sandboxes().len(), 3);
    }
}
