//! [`FaultStore`]: the memory store behind slow and failing commits. Checkers see every commit at the moment it happens.

use crate::world::{World, hash};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use store::{
    At, Entry, Key, Listing, MemoryStore, Op, Page, Range, Read, Revision, Store, StoreError, Txn, WatchStream,
};

/// A [`Store`] that has bad days. Errors are of the kinds that the trait allows.
pub struct FaultStore {
    inner: MemoryStore,
    world: Arc<World>,
}

impl FaultStore {
    /// An empty store.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(FaultStore { inner: MemoryStore::default(), world })
    }

    /// Some time passes: every commit is a point at which a process can crash.
    async fn pause(&self) {
        let slow = self.world.faults().slow;
        let wait =
            if self.world.dice.chance(slow) { self.world.dice.millis(10, 1000) } else { Duration::from_micros(300) };
        tokio::time::sleep(wait).await;
    }

    fn observe(&self, revision: Revision, txn: &Txn, entries: &[Option<Arc<Entry>>]) {
        for (op, entry) in txn.ops.iter().zip(entries) {
            let Some(entry) = entry else { continue };
            let verb = match op {
                Op::Create { .. } => "create",
                Op::Update { .. } => "update",
                Op::Delete { .. } => "delete",
                Op::Check { .. } => continue,
            };
            self.world.note(|| format!("  #{} {verb} {} {:016x}", revision.0, entry.key, hash(&entry.value)));
            let found = self.world.checker.lock().commit(revision, op, entry);
            if let Err(violation) = found {
                self.world.violate(violation);
            }
        }
    }
}

#[async_trait]
impl Store for FaultStore {
    async fn get(&self, key: &Key, at: At) -> Result<Read<Option<Arc<Entry>>>, StoreError> {
        self.inner.get(key, at).await
    }

    async fn list(&self, range: &Range, at: At, page: Page) -> Result<Read<Listing>, StoreError> {
        self.inner.list(range, at, page).await
    }

    async fn commit(&self, txn: Txn) -> Result<(Revision, Vec<Option<Arc<Entry>>>), StoreError> {
        self.pause().await;
        let faults = self.world.faults();
        if self.world.dice.chance(faults.commit_fails) {
            return Err(StoreError::Backend("simulated: the disk failed before the commit".into()));
        }
        let (revision, entries) = self.inner.commit(txn.clone()).await?;
        self.observe(revision, &txn, &entries);
        self.pause().await;
        if self.world.dice.chance(faults.commit_fails_late) {
            return Err(StoreError::Backend("simulated: the disk failed after the commit".into()));
        }
        Ok((revision, entries))
    }

    async fn watch(&self, range: &Range, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        self.inner.watch(range, after).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.inner.compact(before).await
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}
