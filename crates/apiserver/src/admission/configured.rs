//! Webhooks and policies as they are configured now, prepared once per version of their object.
//!
//! Invariant: every request sees the newest state of the store. Nothing is decoded for a request but what changed since the
//! last one; without any configuration a request costs one look at an empty range.

use crate::reader::storage_of;
use crate::status;
use api::{Object, Status};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use store::Revision;

use super::Request;

/// All objects of the kind `K`, each made into a `T`; a damaged one into the default, which does nothing.
pub(super) struct Configured<K, T> {
    storage: Cow<'static, str>,
    make: fn(K) -> T,
    /// By name; only what is stored now.
    made: Mutex<HashMap<String, (Revision, Arc<T>)>>,
}

impl<K: Object, T: Default> Configured<K, T> {
    pub(super) fn new(make: fn(K) -> T) -> Self {
        Configured { storage: storage_of::<K>(), make, made: Mutex::new(HashMap::new()) }
    }

    /// What is configured now, ordered by name.
    pub(super) async fn all(&self, request: &Request<'_>) -> Result<Vec<Arc<T>>, Status> {
        let (list, _) = request.reader().stored_list(&self.storage, "").await.map_err(status::from_store)?;
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
                _ => {
                    let made = stored.decode().map(self.make).unwrap_or_else(|error| {
                        tracing::error!(key = %stored.entry.key.0, %error, "a stored configuration is damaged");
                        T::default()
                    });
                    (stored.revision(), Arc::new(made))
                }
            };
            all.push(value.clone());
            newest.insert(name, (revision, value));
        }
        *made = newest;
        Ok(all)
    }
}
