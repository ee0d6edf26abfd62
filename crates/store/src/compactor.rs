//! Forgets history by time, beside the bounds by number and size that every backend keeps: lists that are paged through and
//! watches may rely on the last interval, and on no more than two (`apiserver/pkg/storage/etcd3/compact.go`).

use crate::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// Every `interval`, forgets what was history at the interval before. Ends with the store.
pub async fn compact_periodically(store: Arc<dyn Store>, interval: Duration) {
    let mut before = store.revision();
    loop {
        tokio::time::sleep(interval).await;
        let now = store.revision();
        match store.compact(before).await {
            Ok(()) => before = now,
            Err(StoreError::Closed) => return,
            Err(error) => tracing::warn!(%error, "failed to compact the store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{At, Key, MemoryStore, Op, Revision, Txn, Value};

    #[tokio::test(start_paused = true)]
    async fn history_lives_for_one_to_two_intervals() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(crate::Limits::default()));
        let interval = Duration::from_secs(300);
        #[expect(clippy::disallowed_methods, reason = "a test's own task")]
        let running = tokio::spawn(compact_periodically(store.clone(), interval));
        tokio::time::sleep(interval / 2).await;
        for name in ["/a/1", "/a/2"] {
            let op = Op::Create { key: Key::new(name), value: Value::plain("{}") };
            store.commit(Txn { ops: vec![op] }).await.expect("commits");
        }
        let old = async || store.get(&Key::new("/a/1"), At::Exactly(Revision(1))).await;
        tokio::time::sleep(interval).await;
        assert!(old().await.is_ok());
        tokio::time::sleep(interval).await;
        assert!(matches!(old().await, Err(StoreError::Compacted { .. })));
        running.abort();
    }
}
