//! The store without a disk, for tests and the simulator.
//!
//! Deterministic: no threads, no timers, no randomness; a commit is done when its future is first polled. Everything is
//! lost when it is dropped.

use crate::mvcc::Mvcc;
use crate::plan::{Root, plan};
use crate::{At, Entry, Key, Limits, Listing, Page, Range, Read, Revision, Store, StoreError, Txn, WatchStream};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;

/// A [`Store`] that forgets.
pub struct MemoryStore {
    mvcc: Arc<Mvcc>,
    /// Held from the check to the publication.
    writer: Mutex<()>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new(Limits::default())
    }
}

impl MemoryStore {
    /// An empty store at revision 0.
    pub fn new(limits: Limits) -> Self {
        let (mvcc, _) = Mvcc::new(limits, Root::new(), Revision(0), Revision(0), Vec::new());
        MemoryStore { mvcc, writer: Mutex::new(()) }
    }

    /// Ends all watches and refuses all writes from now on.
    pub fn close(&self) {
        self.mvcc.close();
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key, at: At) -> Result<Read<Option<Arc<Entry>>>, StoreError> {
        self.mvcc.get(key, at)
    }

    async fn list(&self, range: &Range, at: At, page: Page) -> Result<Read<Listing>, StoreError> {
        self.mvcc.list(range, at, page)
    }

    async fn commit(&self, txn: Txn) -> Result<(Revision, Vec<Option<Arc<Entry>>>), StoreError> {
        let _writer = self.writer.lock();
        if self.mvcc.is_closed() {
            return Err(StoreError::Closed);
        }
        let (mut root, current) = self.mvcc.latest();
        let planned = plan(&mut root, current, txn)?;
        if !planned.events.is_empty() {
            self.mvcc.publish(planned.events, root, planned.revision);
        }
        Ok((planned.revision, planned.entries))
    }

    async fn watch(&self, range: &Range, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        Ok(Box::new(self.mvcc.watch(range, after)?))
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let _writer = self.writer.lock();
        self.mvcc.compact(before).map(drop)
    }

    fn revision(&self) -> Revision {
        self.mvcc.revision()
    }
}
