//! Webhooks and policies as they are configured now, prepared once per version of their object.
//!
//! Invariant: every request sees the newest state of the store. Nothing is decoded for a request but what changed since the
//! last one; without any configuration a request costs one look at an empty range.

use crate::reader::Stored;
use crate::status;
use api::Status;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use store::Revision;

use super::Request;

/// All objects of one kind, each made into a `T`.
pub(super) struct Configured<T> {
    storage: &'static str,
    make: fn(&Stored) -> T,
    /// By name; only what is stored now.
    made: Mutex<HashMap<String, (Revision, Arc<T>)>>,
}

impl<T> Configured<T> {
    pub(super) fn new(storage: &'static str, make: fn(&Stored) -> T) -> Self {
        Configured { storage, make, made: Mutex::new(HashMap::new()) }
    }

    /// What is configured now, ordered by name.
    pub(super) async fn all(&self, request: &Request<'_>) -> Result<Vec<Arc<T>>, Status> {
        let (list, _) = request.reader().stored_list(self.storage, "").await.map_err(status::from_store)?;
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let mut made = self.made.lock();
        let mut all = Vec::with_capacity(list.len());
        let mut newest = HashMap::with_capacity(list.len());
        for stored in &list {
            let name = stored.entry.key.0.rsplit('/').next().unwrap_or_default().to_owned();
            let (revision, value) = match made.remove(&name) {
                Some((revision, value)) if revision == stored.revision() => (revision, value),
                _ => (stored.revision(), Arc::new((self.make)(stored))),
            };
            all.push(value.clone());
            newest.insert(name, (revision, value));
        }
        *made = newest;
        Ok(all)
    }
}
