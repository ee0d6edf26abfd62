//! A disk that fails on demand: what is answered, what is shown, what goes on.

use super::*;
use crate::conformance::{create, key, text_of};
use crate::plan::Root;
use crate::{Op, Value};
use std::sync::atomic::{AtomicU8, Ordering};

/// Keeps nothing; says what it is told to say.
struct FakeDisk(Arc<AtomicU8>);

const WORKS: u8 = 0;
const FULL: u8 = 1;
const BROKEN: u8 = 2;

impl Disk for FakeDisk {
    fn write(&mut self, _: &Group<'_>) -> Result<(), WriteError> {
        match self.0.load(Ordering::SeqCst) {
            FULL => Err(WriteError::Full("/data/store.db".into())),
            BROKEN => Err(WriteError::Fatal("/data/store.db: disk I/O error".into())),
            _ => Ok(()),
        }
    }
    fn shrink(&mut self) {}
    fn finish(&mut self) {}
}

fn store() -> (DiskStore, Arc<AtomicU8>) {
    let mode = Arc::new(AtomicU8::new(WORKS));
    let (mvcc, dropped) = Mvcc::new(Limits::default(), Root::new(), Revision(0), Revision(0), Vec::new());
    (DiskStore::start(Path::new("/data"), mvcc, dropped, Box::new(FakeDisk(mode.clone()))), mode)
}

fn new(name: &str) -> Txn {
    Txn { ops: vec![Op::Create { key: key(name), value: Value::plain("1") }] }
}

#[tokio::test]
async fn full_disk_refuses_and_goes_on() {
    let (store, disk) = store();
    create(&store, "/a/x", "1").await;
    let mut watch = store.watch(&Range::all("/a/"), Revision(1)).await.unwrap();
    disk.store(FULL, Ordering::SeqCst);
    let refused = store.commit(new("/a/y")).await.unwrap_err();
    expect_test::expect!["no space left for /data/store.db: nothing was written; free some space on its file system"]
        .assert_eq(&refused.to_string());
    assert_eq!(text_of(&store, "/", At::Latest).await, "/a/x=1@1/1");
    disk.store(WORKS, Ordering::SeqCst);
    create(&store, "/a/z", "1").await;
    assert_eq!(format!("{:?}", watch.next().await.unwrap()), "[created /a/z@2]");
}

#[tokio::test]
async fn failed_sync_closes() {
    let (store, disk) = store();
    create(&store, "/a/x", "1").await;
    let mut watch = store.watch(&Range::all("/a/"), Revision(1)).await.unwrap();
    disk.store(BROKEN, Ordering::SeqCst);
    let (one, two) = futures_util::future::join(store.commit(new("/a/y")), store.commit(new("/a/z"))).await;
    assert!(matches!(one, Err(StoreError::Backend(_))), "{one:?}");
    assert!(two.is_err());
    disk.store(WORKS, Ordering::SeqCst);
    assert!(matches!(store.commit(new("/a/w")).await, Err(StoreError::Closed)), "nothing is acknowledged afterwards");
    assert!(matches!(store.compact(Revision(1)).await, Err(StoreError::Closed)));
    assert!(matches!(watch.next().await, Err(StoreError::Closed)));
    assert_eq!(text_of(&store, "/", At::Latest).await, "/a/x=1@1/1", "what was acknowledged can still be read");
}

/// More than the queue has places for: whoever has one is served, the others learn that it is closed; nobody hangs.
#[tokio::test]
async fn close_finishes_what_is_queued() {
    let (store, _) = store();
    let names: Vec<String> = (0..QUEUE + 100).map(|i| format!("/a/{i}")).collect();
    // Without the runtime's budget all of them are queued in one go.
    let commits = futures_util::future::join_all(names.iter().map(|name| store.commit(new(name))));
    let commits = tokio::task::unconstrained(commits);
    tokio::pin!(commits);
    assert!(futures_util::poll!(commits.as_mut()).is_pending());
    store.close();
    let done = commits.await.into_iter().filter(Result::is_ok).count();
    assert!(done >= QUEUE, "{done} of {QUEUE}");
    assert_eq!(store.revision(), Revision(done as u64));
    assert!(matches!(store.commit(new("/b")).await, Err(StoreError::Closed)));
}

fn garbage(rows: impl IntoIterator<Item = u64>) -> Garbage {
    Garbage { rows: rows.into_iter().map(|by| (Revision(by), (Revision(1), key(&by.to_string())))).collect() }
}

#[test]
fn slices_wait_until_they_pay() {
    assert_eq!(garbage(0..255).slice(None), None);
    let slice = garbage(1..=256).slice(None).unwrap();
    assert_eq!((slice.rows.len(), slice.compacted), (256, Revision(256)));
}

#[test]
fn slices_do_not_tear_revisions() {
    let rows = (1..=255).chain([300; 10]).chain([301]);
    let slice = garbage(rows).slice(None).unwrap();
    assert_eq!((slice.rows.len(), slice.compacted), (265, Revision(300)));
}

#[test]
fn wanted_compaction_is_done_to_the_end() {
    let slice = garbage(1..=3).slice(Some(Revision(9))).unwrap();
    assert_eq!((slice.rows.len(), slice.compacted), (3, Revision(9)));
    let slice = garbage(1..=1000).slice(Some(Revision(2000))).unwrap();
    assert_eq!((slice.rows.len(), slice.compacted), (256, Revision(256)));
}
