//! What the health checks say while the server starts.

use super::Fixture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::MemoryStore;
use tokio_util::sync::CancellationToken;

/// A store that does not list APIServices while it is broken.
struct Unreadable {
    store: MemoryStore,
    broken: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl store::Store for Unreadable {
    async fn get(
        &self,
        key: &store::Key,
        at: store::At,
    ) -> Result<store::Read<Option<Arc<store::Entry>>>, store::StoreError> {
        self.store.get(key, at).await
    }
    async fn list(
        &self,
        range: &store::Range,
        at: store::At,
        page: store::Page,
    ) -> Result<store::Read<store::Listing>, store::StoreError> {
        if range.prefix.contains("apiservices") && self.broken.load(Ordering::Relaxed) {
            return Err(store::StoreError::Closed);
        }
        self.store.list(range, at, page).await
    }
    async fn commit(
        &self,
        txn: store::Txn,
    ) -> Result<(store::Revision, Vec<Option<Arc<store::Entry>>>), store::StoreError> {
        self.store.commit(txn).await
    }
    async fn watch(
        &self,
        range: &store::Range,
        after: store::Revision,
    ) -> Result<Box<dyn store::WatchStream>, store::StoreError> {
        self.store.watch(range, after).await
    }
    async fn compact(&self, before: store::Revision) -> Result<(), store::StoreError> {
        self.store.compact(before).await
    }
    fn revision(&self) -> store::Revision {
        self.store.revision()
    }
}

#[tokio::test(start_paused = true)]
async fn aggregation_has_not_started_before_the_apiservices_are_read() {
    let broken = Arc::new(AtomicBool::new(true));
    let store = MemoryStore::new(store::Limits::default());
    let f = Fixture::over(Arc::new(Unreadable { store, broken: broken.clone() })).await;
    let stop = CancellationToken::new();
    let running = base::tasks::spawn("aggregation", f.server.clone().run_aggregation(stop.clone()));
    let check = async || {
        tokio::time::sleep(Duration::from_secs(120)).await;
        f.ask("GET /livez/autoregister-completion").await.0
    };
    assert_eq!(check().await, 500);
    broken.store(false, Ordering::Relaxed);
    assert_eq!(check().await, 200);
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn the_log_is_asked() {
    let f = Fixture::new().await;
    assert_eq!(f.ask("GET /livez/log").await.0, 200);
    f.server.check_log(|| Err("lost".to_owned()));
    assert_eq!(f.ask("GET /livez/log").await, (500, "internal server error: lost\n".into()));
}
