//! What every [`Store`] does, one documented behaviour per function. Ordinary code, so that every backend and every
//! wrapper (the simulator's fault injector too) runs the same suite:
//!
//! ```text
//! store::conformance_suite!(|limits| async move { MyStore::new(limits) });
//! ```
//!
//! A behaviour panics with a sentence when it does not hold. Each starts from a fresh, empty store.

use crate::{
    At, Change, Entry, Event, Key, Limits, Op, Page, Range, Revision, Store, StoreError, Txn, Value, WatchStream,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Declares one `#[tokio::test]` per behaviour. `$make` is called with [`Limits`] and returns a future of something
/// that derefs to a [`Store`] and may own what the store needs (a temporary directory).
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr) => {
        $crate::conformance_suite!(@each $make;
            create_then_get,
            create_of_existing_conflicts,
            update_needs_the_last_revision,
            delete_needs_the_last_revision,
            recreated_key_has_new_created_revision,
            failed_expectation_writes_nothing,
            transaction_shares_one_revision,
            check_guards_other_keys,
            transaction_without_writes_takes_no_revision,
            impossible_transaction_is_refused,
            revision_is_spliced,
            derived_is_kept_and_shared,
            list_is_ordered_and_exact,
            list_pages_at_one_revision,
            read_at_any_revision_of_the_window,
            read_of_the_future_is_refused,
            compacted_revision_is_gone,
            history_is_bounded,
            watch_replays_then_follows,
            watch_sees_only_its_range,
            watch_keeps_a_transaction_together,
            watch_of_the_future_is_refused,
            watch_from_compacted_is_refused,
            idle_watch_survives_compaction,
            slow_watch_ends_with_compacted,
            slow_watch_gets_little_at_once,
            dropped_wait_loses_nothing,
            progress_moves_without_events,
            concurrent_commits_are_serial,
            list_and_watch_add_up,
        );
    };
    (@each $make:expr; $($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let make = $make;
                let store = make($crate::conformance::limits_for(stringify!($name))).await;
                $crate::conformance::$name(&*store).await;
            }
        )*
    };
}

/// What the behaviour `name` wants kept.
pub fn limits_for(name: &str) -> Limits {
    match name {
        "history_is_bounded" | "slow_watch_ends_with_compacted" => Limits { events: 10, bytes: 1 << 20 },
        _ => Limits::default(),
    }
}

/// A key.
pub fn key(text: &str) -> Key {
    Key::new(text)
}

/// Writes a key that must not exist.
pub async fn create(store: &dyn Store, at: &str, value: &str) -> Arc<Entry> {
    one(store, Op::Create { key: key(at), value: Value::plain(value.to_owned()) }).await
}

/// Writes a key whose last write is `expected`.
pub async fn update(store: &dyn Store, at: &str, expected: Revision, value: &str) -> Arc<Entry> {
    one(store, Op::Update { key: key(at), expected, value: Value::plain(value.to_owned()) }).await
}

/// Deletes a key whose last write is `expected`.
pub async fn delete(store: &dyn Store, at: &str, expected: Revision) -> Arc<Entry> {
    one(store, Op::Delete { key: key(at), expected, last: Value::plain("last") }).await
}

async fn one(store: &dyn Store, op: Op) -> Arc<Entry> {
    let (revision, mut entries) = store.commit(Txn { ops: vec![op] }).await.expect("the expectation holds");
    let entry = entries.pop().flatten().expect("a write returns its entry");
    assert_eq!(entry.modified, revision);
    entry
}

/// "key=value@created/modified …" of a range.
pub async fn text_of(store: &dyn Store, prefix: &str, at: At) -> String {
    let read = store.list(&Range::all(prefix), at, Page { limit: 0 }).await.expect("the state is kept");
    read.value.entries.iter().map(|entry| text(entry)).collect::<Vec<_>>().join(" ")
}

fn text(entry: &Entry) -> String {
    let value = String::from_utf8_lossy(&entry.value);
    format!("{}={value}@{}/{}", entry.key, entry.created.0, entry.modified.0)
}

async fn watch(store: &dyn Store, prefix: &str, after: u64) -> Box<dyn WatchStream> {
    store.watch(&Range::all(prefix), Revision(after)).await.expect("the revision is kept")
}

async fn events(watch: &mut dyn WatchStream) -> String {
    watch
        .next()
        .await
        .expect("the cursor is in the log")
        .iter()
        .map(|e| format!("{e:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Asserts that the future does not end now.
async fn assert_waits<T>(future: impl Future<Output = T>) {
    tokio::pin!(future);
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(polled, "nothing has happened in the range, so there is nothing to return");
}

use std::future::Future;

/// A committed write is seen by the next read, with its revisions.
pub async fn create_then_get(store: &dyn Store) {
    assert_eq!(store.revision(), Revision(0));
    let written = create(store, "/pods/a/web", "1").await;
    let read = store.get(&key("/pods/a/web"), At::Latest).await.unwrap();
    assert_eq!(read.revision, Revision(1));
    assert_eq!(read.value.as_deref().map(text).as_deref(), Some("/pods/a/web=1@1/1"));
    assert!(Arc::ptr_eq(&written, &read.value.unwrap()), "writer and reader share one entry");
    let absent = store.get(&key("/pods/a/we"), At::Latest).await.unwrap();
    assert!(absent.value.is_none(), "absence is an answer, not an error");
}

/// Create of a key that exists is refused, with what is there.
pub async fn create_of_existing_conflicts(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    let txn = Txn { ops: vec![Op::Create { key: key("/a/x"), value: Value::plain("2") }] };
    match store.commit(txn).await {
        Err(StoreError::Conflict { key, expected: Revision(0), found: Some(found) }) => {
            assert_eq!((key.as_str(), text(&found).as_str()), ("/a/x", "/a/x=1@1/1"));
        }
        other => panic!("expected a conflict, got {other:?}"),
    }
    assert_eq!(store.revision(), Revision(1));
}

/// Update names the write it is based on; stale, future and absent are all conflicts.
pub async fn update_needs_the_last_revision(store: &dyn Store) {
    let one = create(store, "/a/x", "1").await;
    let two = update(store, "/a/x", one.modified, "2").await;
    assert_eq!(text(&two), "/a/x=2@1/2");
    for (at, expected, found) in
        [("/a/x", 1, Some(2)), ("/a/x", 3, Some(2)), ("/a/x", 0, Some(2)), ("/a/y", 0, None), ("/a/y", 2, None)]
    {
        let op = Op::Update { key: key(at), expected: Revision(expected), value: Value::plain("3") };
        match store.commit(Txn { ops: vec![op] }).await {
            Err(StoreError::Conflict { found: there, .. }) => {
                assert_eq!(there.map(|entry| entry.modified.0), found, "{at} expected {expected}");
            }
            other => panic!("{at} expected {expected}: {other:?}"),
        }
    }
    assert_eq!(text_of(store, "/a/", At::Latest).await, "/a/x=2@1/2");
}

/// Delete names the write it is based on, and its tombstone carries the deletion's revision.
pub async fn delete_needs_the_last_revision(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    let op = Op::Delete { key: key("/a/x"), expected: Revision(7), last: Value::plain("last") };
    assert!(matches!(store.commit(Txn { ops: vec![op] }).await, Err(StoreError::Conflict { .. })));
    let tombstone = delete(store, "/a/x", Revision(1)).await;
    assert_eq!(text(&tombstone), "/a/x=last@1/2");
    assert_eq!(text_of(store, "/", At::Latest).await, "");
    let again = Op::Delete { key: key("/a/x"), expected: Revision(2), last: Value::plain("last") };
    assert!(matches!(store.commit(Txn { ops: vec![again] }).await, Err(StoreError::Conflict { found: None, .. })));
}

/// The same name again is a new thing.
pub async fn recreated_key_has_new_created_revision(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    delete(store, "/a/x", Revision(1)).await;
    create(store, "/a/x", "2").await;
    assert_eq!(text_of(store, "/a/", At::Latest).await, "/a/x=2@3/3");
}

/// All or nothing, whichever op it is that fails.
pub async fn failed_expectation_writes_nothing(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    let good = Op::Create { key: key("/a/new"), value: Value::plain("2") };
    let bad = Op::Create { key: key("/a/x"), value: Value::plain("2") };
    for ops in [vec![good.clone(), bad.clone()], vec![bad, good]] {
        assert!(matches!(store.commit(Txn { ops }).await, Err(StoreError::Conflict { .. })));
    }
    assert_eq!(text_of(store, "/", At::Latest).await, "/a/x=1@1/1");
    assert_eq!(store.revision(), Revision(1), "a refused transaction takes no revision");
}

/// All writes of a transaction have its revision, and its answer has their order.
pub async fn transaction_shares_one_revision(store: &dyn Store) {
    create(store, "/a/old", "1").await;
    create(store, "/a/check", "1").await;
    let ops = vec![
        Op::Create { key: key("/a/z"), value: Value::plain("z") },
        Op::Check { key: key("/a/check"), expected: Revision(2) },
        Op::Delete { key: key("/a/old"), expected: Revision(1), last: Value::plain("gone") },
        Op::Create { key: key("/a/b"), value: Value::plain("b") },
    ];
    let (revision, entries) = store.commit(Txn { ops }).await.unwrap();
    assert_eq!(revision, Revision(3));
    let texts: Vec<String> = entries.iter().map(|e| e.as_deref().map(text).unwrap_or_default()).collect();
    assert_eq!(texts, ["/a/z=z@3/3", "", "/a/old=gone@1/3", "/a/b=b@3/3"]);
    assert_eq!(text_of(store, "/", At::Latest).await, "/a/b=b@3/3 /a/check=1@2/2 /a/z=z@3/3");
}

/// A check makes a write depend on keys that it does not write.
pub async fn check_guards_other_keys(store: &dyn Store) {
    create(store, "/ns/a", "active").await;
    let guarded = |name: &str, guard: &str, expected| Txn {
        ops: vec![
            Op::Check { key: key(guard), expected: Revision(expected) },
            Op::Create { key: key(name), value: Value::plain("1") },
        ],
    };
    store.commit(guarded("/pods/a/one", "/ns/a", 1)).await.unwrap();
    store.commit(guarded("/pods/a/two", "/ns/absent", 0)).await.unwrap();
    update(store, "/ns/a", Revision(1), "terminating").await;
    for (guard, expected) in [("/ns/a", 1), ("/ns/a", 0), ("/ns/absent", 1)] {
        let refused = store.commit(guarded("/pods/a/three", guard, expected)).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{guard}@{expected}");
    }
}

/// Only writes move the revision.
pub async fn transaction_without_writes_takes_no_revision(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    let check = Op::Check { key: key("/a/x"), expected: Revision(1) };
    let (revision, entries) = store.commit(Txn { ops: vec![check] }).await.unwrap();
    assert_eq!((revision, entries.len(), store.revision()), (Revision(1), 1, Revision(1)));
    assert!(entries[0].is_none());
    assert_eq!(store.commit(Txn::default()).await.unwrap().0, Revision(1));
}

/// What can never be done is refused, whole, and the store goes on.
pub async fn impossible_transaction_is_refused(store: &dyn Store) {
    let plain = |name: &str| Op::Create { key: key(name), value: Value::plain("1") };
    let outside = Value { splice: Some(4), ..Value::plain("abc") };
    for ops in [
        vec![plain("/a/x"), plain("/a/y"), plain("/a/x")],
        vec![plain("/a/x"), Op::Create { key: key("/a/z"), value: outside }],
    ] {
        assert!(matches!(store.commit(Txn { ops }).await, Err(StoreError::Invalid(_))));
    }
    assert_eq!(create(store, "/a/x", "1").await.modified, Revision(1));
}

/// The commit's revision goes into the bytes where the writer said.
pub async fn revision_is_spliced(store: &dyn Store) {
    for i in 1..=9 {
        create(store, &format!("/fill/{i}"), "").await;
    }
    let value = || Value { splice: Some(8), ..Value::plain("{\"rev\":\"\"}") };
    let mut entry = one(store, Op::Create { key: key("/a/x"), value: value() }).await;
    assert_eq!(entry.value, "{\"rev\":\"10\"}");
    entry = one(store, Op::Update { key: key("/a/x"), expected: entry.modified, value: value() }).await;
    assert_eq!(entry.value, "{\"rev\":\"11\"}");
    entry = one(store, Op::Delete { key: key("/a/x"), expected: entry.modified, last: value() }).await;
    assert_eq!(entry.value, "{\"rev\":\"12\"}");
}

/// What the layer above derived travels with the entry.
pub async fn derived_is_kept_and_shared(store: &dyn Store) {
    let value = Value { derived: Some(Arc::new(42u8)), ..Value::plain("1") };
    one(store, Op::Create { key: key("/a/x"), value }).await;
    create(store, "/a/y", "1").await;
    let x = store.get(&key("/a/x"), At::Latest).await.unwrap().value.unwrap();
    assert_eq!(x.derived.get().and_then(|any| any.downcast_ref::<u8>()), Some(&42));
    let y = store.get(&key("/a/y"), At::Latest).await.unwrap().value.unwrap();
    assert!(y.derived.set(Arc::new("later")).is_ok());
    let again = store.list(&Range::all("/a/"), At::Latest, Page { limit: 0 }).await.unwrap();
    assert!(again.value.entries[1].derived.get().is_some());
}

/// Lists are in bytewise key order, and `/pods/` does not cover `/podtemplates/`.
pub async fn list_is_ordered_and_exact(store: &dyn Store) {
    for name in ["/pods/b/a", "/podtemplates/a/a", "/pods/a/z", "/pods/a-b/c", "/pods/a/é", "/pod", "/pods", "/q"] {
        create(store, name, "").await;
    }
    let names = |listing: crate::Listing| listing.entries.iter().map(|e| e.key.0.to_string()).collect::<Vec<_>>();
    let all = store.list(&Range::all("/pods/"), At::Latest, Page { limit: 0 }).await.unwrap();
    assert_eq!(all.revision, Revision(8));
    assert_eq!((all.value.more, all.value.remaining), (false, Some(0)));
    assert_eq!(names(all.value), ["/pods/a-b/c", "/pods/a/z", "/pods/a/é", "/pods/b/a"]);
    let nothing = store.list(&Range::all("/none/"), At::Latest, Page { limit: 5 }).await.unwrap();
    assert_eq!((nothing.value.entries.len(), nothing.value.more), (0, false));
    for (after, expected) in [("/pods/a/z", 2), ("/", 4), ("/pods/zzz", 0), ("/zzz", 0)] {
        let range = Range { after: Some(key(after)), ..Range::all("/pods/") };
        let listing = store.list(&range, At::Latest, Page { limit: 0 }).await.unwrap().value;
        assert_eq!(listing.entries.len(), expected, "after {after}");
    }
    assert_eq!(store.list(&Range::all(""), At::Latest, Page { limit: 0 }).await.unwrap().value.entries.len(), 8);
}

/// Pages of one list show one state, whatever is written in between.
pub async fn list_pages_at_one_revision(store: &dyn Store) {
    for i in 0..10 {
        create(store, &format!("/a/{i}"), "old").await;
    }
    let first = store.list(&Range::all("/a/"), At::Latest, Page { limit: 4 }).await.unwrap();
    assert_eq!((first.value.more, first.value.remaining), (true, Some(6)));
    for i in 0..10 {
        let modified = update(store, &format!("/a/{i}"), Revision(i + 1), "new").await.modified;
        if i % 2 == 0 {
            delete(store, &format!("/a/{i}"), modified).await;
        }
    }
    create(store, "/a/55", "new").await;
    let mut seen = first.value.entries;
    loop {
        let range = Range { after: seen.last().map(|entry| entry.key.clone()), ..Range::all("/a/") };
        let page = store.list(&range, At::Exactly(first.revision), Page { limit: 4 }).await.unwrap();
        assert_eq!(page.revision, first.revision);
        seen.extend(page.value.entries);
        if !page.value.more {
            break;
        }
    }
    let texts: Vec<String> = seen.iter().map(|e| text(e)).collect();
    assert_eq!(texts, (0..10).map(|i| format!("/a/{i}=old@{0}/{0}", i + 1)).collect::<Vec<_>>());
}

/// Every state in the window can be read, the newest and the empty one too.
pub async fn read_at_any_revision_of_the_window(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    update(store, "/a/x", Revision(1), "2").await;
    create(store, "/a/y", "3").await;
    delete(store, "/a/x", Revision(2)).await;
    let expected = ["", "/a/x=1@1/1", "/a/x=2@1/2", "/a/x=2@1/2 /a/y=3@3/3", "/a/y=3@3/3"];
    for order in [[0, 1, 2, 3, 4], [4, 2, 3, 0, 1]] {
        for revision in order {
            let seen = text_of(store, "/", At::Exactly(Revision(revision))).await;
            assert_eq!(seen, expected[revision as usize], "at {revision}");
        }
    }
    let x = store.get(&key("/a/x"), At::Exactly(Revision(3))).await.unwrap();
    assert_eq!((x.revision, x.value.as_deref().map(text).as_deref()), (Revision(3), Some("/a/x=2@1/2")));
}

/// Nobody reads what has not happened.
pub async fn read_of_the_future_is_refused(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    match store.get(&key("/a/x"), At::Exactly(Revision(2))).await {
        Err(StoreError::Future { asked: Revision(2), current: Revision(1) }) => {}
        other => panic!("expected Future, got {other:?}"),
    }
}

/// After compaction older states are gone by name; the named one and all later ones are there.
pub async fn compacted_revision_is_gone(store: &dyn Store) {
    for i in 1..=5 {
        create(store, &format!("/a/{i}"), "").await;
    }
    store.list(&Range::all("/a/"), At::Exactly(Revision(2)), Page { limit: 1 }).await.unwrap();
    store.compact(Revision(3)).await.unwrap();
    for revision in [0, 2] {
        match store.list(&Range::all("/a/"), At::Exactly(Revision(revision)), Page { limit: 0 }).await {
            Err(StoreError::Compacted { asked, oldest: Revision(3) }) => assert_eq!(asked, Revision(revision)),
            other => panic!("at {revision}: {other:?}"),
        }
    }
    assert_eq!(text_of(store, "/a/", At::Exactly(Revision(3))).await.split(' ').count(), 3);
    store.compact(Revision(1)).await.expect("compacting less than before changes nothing");
    assert!(matches!(store.compact(Revision(6)).await, Err(StoreError::Future { .. })));
    store.compact(Revision(5)).await.unwrap();
    assert_eq!(text_of(store, "/a/", At::Latest).await.split(' ').count(), 5, "the current state stays");
    assert_eq!(create(store, "/a/6", "").await.modified, Revision(6));
}

/// History has an end without anybody asking for it (limits: 10 events).
pub async fn history_is_bounded(store: &dyn Store) {
    for i in 1..=30 {
        create(store, &format!("/a/{i:02}"), "").await;
    }
    let old = store.list(&Range::all("/a/"), At::Exactly(Revision(19)), Page { limit: 0 }).await;
    assert!(matches!(old, Err(StoreError::Compacted { oldest: Revision(20), .. })), "{old:?}");
    assert_eq!(text_of(store, "/a/", At::Exactly(Revision(20))).await.split(' ').count(), 20);
    assert!(store.watch(&Range::all("/a/"), Revision(20)).await.is_ok());
    // A list that has begun can be finished for as long as one more window.
    let begun = store.list(&Range::all("/a/"), At::Latest, Page { limit: 3 }).await.unwrap();
    for i in 31..=45 {
        create(store, &format!("/a/{i:02}"), "").await;
    }
    let rest = store.list(&Range::all("/a/"), At::Exactly(begun.revision), Page { limit: 0 }).await.unwrap();
    assert_eq!(rest.value.entries.len(), 30);
}

/// First what happened since, then what happens.
pub async fn watch_replays_then_follows(store: &dyn Store) {
    create(store, "/a/x", "1").await;
    create(store, "/a/y", "2").await;
    let mut all = watch(store, "/a/", 0).await;
    let mut later = watch(store, "/a/", 1).await;
    assert_eq!(events(&mut *all).await, "created /a/x@1, created /a/y@2");
    assert_eq!(events(&mut *later).await, "created /a/y@2");
    assert_waits(all.next()).await;
    update(store, "/a/x", Revision(1), "3").await;
    delete(store, "/a/y", Revision(2)).await;
    assert_eq!(events(&mut *all).await, "updated /a/x@3 from @1, deleted /a/y@4 from @2");
    let batch = later.next().await.unwrap();
    let Change::Deleted { last, old } = &batch[1].change else { panic!("{batch:?}") };
    assert_eq!((text(last), text(old)), ("/a/y=last@2/4".to_owned(), "/a/y=2@2/2".to_owned()));
    let Change::Updated { new, old } = &batch[0].change else { panic!("{batch:?}") };
    assert_eq!((text(new), text(old)), ("/a/x=3@1/3".to_owned(), "/a/x=1@1/1".to_owned()));
}

/// Neighbours, longer names and the range's start are kept apart.
pub async fn watch_sees_only_its_range(store: &dyn Store) {
    let mut all = watch(store, "", 0).await;
    let mut pods = watch(store, "/pods/", 0).await;
    let mut a = watch(store, "/pods/a/", 0).await;
    let mut single = watch(store, "/pods/a/x", 0).await;
    let range = Range { after: Some(key("/pods/b/x")), ..Range::all("/pods/") };
    let mut from = store.watch(&range, Revision(0)).await.unwrap();
    for name in ["/podtemplates/a/x", "/pods/a/x", "/pods/ab/x", "/pods/b/x", "/pods/b/y", "/pods"] {
        create(store, name, "").await;
    }
    assert_eq!(all.next().await.unwrap().len(), 6);
    assert_eq!(
        events(&mut *pods).await,
        "created /pods/a/x@2, created /pods/ab/x@3, created /pods/b/x@4, created /pods/b/y@5"
    );
    assert_eq!(events(&mut *a).await, "created /pods/a/x@2");
    assert_eq!(events(&mut *single).await, "created /pods/a/x@2");
    assert_eq!(events(&mut *from).await, "created /pods/b/y@5");
    drop((single, a));
    update(store, "/pods/b/y", Revision(5), "").await;
    assert_eq!(events(&mut *from).await, "updated /pods/b/y@7 from @5");
}

/// A batch never ends in the middle of a revision, so that a revision is a place to go on from.
pub async fn watch_keeps_a_transaction_together(store: &dyn Store) {
    let many = |from: usize| Txn {
        ops: (from..from + 700)
            .map(|i| Op::Create { key: key(&format!("/a/{i:05}")), value: Value::plain("") })
            .collect(),
    };
    create(store, "/a/first", "").await;
    store.commit(many(0)).await.unwrap();
    store.commit(many(1000)).await.unwrap();
    let mut watch = watch(store, "/a/", 0).await;
    let mut seen = Vec::new();
    while seen.len() < 1401 {
        let batch = watch.next().await.unwrap();
        let last = batch.last().unwrap().revision;
        seen.extend(batch);
        assert!(watch.progress() >= last);
        let complete = seen.iter().filter(|event| event.revision == last).count();
        assert_eq!(complete, if last == Revision(1) { 1 } else { 700 });
    }
    assert!(seen.is_sorted_by_key(|event| event.revision));
}

/// A watch cannot start after the newest revision.
pub async fn watch_of_the_future_is_refused(store: &dyn Store) {
    let refused = store.watch(&Range::all("/a/"), Revision(1)).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Future { asked: Revision(1), current: Revision(0) })), "{refused:?}");
}

/// A watch cannot start where events are missing.
pub async fn watch_from_compacted_is_refused(store: &dyn Store) {
    for i in 1..=4 {
        create(store, &format!("/a/{i}"), "").await;
    }
    store.compact(Revision(3)).await.unwrap();
    let refused = store.watch(&Range::all("/b/"), Revision(2)).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Compacted { asked: Revision(2), oldest: Revision(3) })), "{refused:?}");
    let mut kept = watch(store, "/a/", 3).await;
    assert_eq!(events(&mut *kept).await, "created /a/4@4");
}

/// A watcher that missed nothing goes on, however much was forgotten elsewhere.
pub async fn idle_watch_survives_compaction(store: &dyn Store) {
    create(store, "/a/x", "").await;
    let mut idle = watch(store, "/a/", 1).await;
    for i in 0..5 {
        create(store, &format!("/b/{i}"), "").await;
    }
    store.compact(Revision(6)).await.unwrap();
    update(store, "/a/x", Revision(1), "").await;
    assert_eq!(events(&mut *idle).await, "updated /a/x@7 from @1");
}

/// A watcher that missed something is told, and only that one (limits: 10 events).
pub async fn slow_watch_ends_with_compacted(store: &dyn Store) {
    let mut slow = watch(store, "/a/", 0).await;
    let mut quick = watch(store, "/a/", 0).await;
    for i in 1..=25 {
        create(store, &format!("/a/{i}"), "").await;
        assert_eq!(quick.next().await.unwrap().len(), 1);
    }
    assert_eq!(slow.progress(), Revision(0), "nothing has been returned");
    for _ in 0..2 {
        let ended = slow.next().await;
        assert!(matches!(ended, Err(StoreError::Compacted { oldest: Revision(15), .. })), "{ended:?}");
    }
}

/// What a watcher is behind with comes in pieces, whatever the size of the values.
pub async fn slow_watch_gets_little_at_once(store: &dyn Store) {
    let mut slow = watch(store, "/a/", 0).await;
    let value = "x".repeat(100 << 10);
    for i in 1..=5 {
        create(store, &format!("/a/{i}"), &value).await;
    }
    for expected in [2, 2, 1] {
        assert_eq!(slow.next().await.unwrap().len(), expected);
    }
}

/// `next` may be dropped at any time.
pub async fn dropped_wait_loses_nothing(store: &dyn Store) {
    let mut watch = watch(store, "/a/", 0).await;
    assert_waits(watch.next()).await;
    create(store, "/a/x", "").await;
    create(store, "/b/x", "").await;
    assert_eq!(events(&mut *watch).await, "created /a/x@1");
    assert_waits(watch.next()).await;
    assert_waits(watch.next()).await;
    create(store, "/a/y", "").await;
    assert_eq!(events(&mut *watch).await, "created /a/y@3");
}

/// Bookmarks: progress is the newest revision while nothing is due, and holds while something is.
pub async fn progress_moves_without_events(store: &dyn Store) {
    let mut watch = watch(store, "/a/", 0).await;
    create(store, "/b/x", "").await;
    create(store, "/b/y", "").await;
    assert_eq!(watch.progress(), Revision(2));
    create(store, "/a/x", "").await;
    create(store, "/b/z", "").await;
    assert!(watch.progress() < Revision(3), "revision 3 has not been returned");
    assert_eq!(events(&mut *watch).await, "created /a/x@3");
    assert_eq!(watch.progress(), Revision(4));
}

/// However many write at once: one order, each revision once, no lost update.
pub async fn concurrent_commits_are_serial(store: &dyn Store) {
    create(store, "/a/counter", "0").await;
    let writers = (0..8).map(|_| async {
        let mut revisions = Vec::new();
        for _ in 0..10 {
            loop {
                let seen = store.get(&key("/a/counter"), At::Latest).await.unwrap().value.unwrap();
                let next = std::str::from_utf8(&seen.value).unwrap().parse::<u32>().unwrap() + 1;
                let value = Value::plain(next.to_string());
                let op = Op::Update { key: key("/a/counter"), expected: seen.modified, value };
                match store.commit(Txn { ops: vec![op] }).await {
                    Ok((revision, _)) => {
                        assert!(store.revision() >= revision, "an acknowledged write is visible");
                        revisions.push(revision);
                        break;
                    }
                    Err(StoreError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
        revisions
    });
    let mut revisions: Vec<Revision> = futures_util::future::join_all(writers).await.concat();
    revisions.sort();
    assert_eq!(revisions, (2..=81).map(Revision).collect::<Vec<_>>());
    assert_eq!(text_of(store, "/a/", At::Latest).await, "/a/counter=80@1/81");
}

/// A list and the watch from its revision together are the state, at every later revision.
pub async fn list_and_watch_add_up(store: &dyn Store) {
    let write = async {
        let mut modified: BTreeMap<u64, Revision> = BTreeMap::new();
        for step in 0..600u64 {
            let name = format!("/a/{}", step * 7919 % 23);
            let slot = step * 7919 % 23;
            match modified.get(&slot).copied() {
                None => drop(modified.insert(slot, create(store, &name, &step.to_string()).await.modified)),
                Some(_) if step % 5 == 0 => {
                    delete(store, &name, modified.remove(&slot).unwrap()).await;
                }
                Some(at) => drop(modified.insert(slot, update(store, &name, at, &step.to_string()).await.modified)),
            }
        }
    };
    let follow = async {
        let mut followed = 0;
        while followed < 600 {
            tokio::task::yield_now().await;
            let listed = store.list(&Range::all("/a/"), At::Latest, Page { limit: 0 }).await.unwrap();
            let mut state: BTreeMap<Key, Arc<Entry>> =
                listed.value.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            let mut watch = watch(store, "/a/", listed.revision.0).await;
            followed = listed.revision.0;
            while followed < 600 {
                let batch = watch.next().await.unwrap();
                assert!(batch[0].revision.0 > followed, "an event that the list already had, or one twice");
                followed = replay(&mut state, batch).0;
                let expected = state.values().map(|entry| text(entry)).collect::<Vec<_>>().join(" ");
                assert_eq!(text_of(store, "/a/", At::Exactly(Revision(followed))).await, expected);
                if followed % 100 < 20 {
                    break; // List again.
                }
            }
        }
    };
    futures_util::future::join(write, follow).await;
}

/// Applies events to a state, insisting that each fits. Returns the last revision.
pub fn replay(state: &mut BTreeMap<Key, Arc<Entry>>, events: Vec<Event>) -> Revision {
    let mut last = Revision(0);
    for event in events {
        assert!(event.revision >= last, "revisions go up");
        last = event.revision;
        match event.change {
            Change::Created(new) => {
                assert!(state.insert(new.key.clone(), new).is_none(), "created twice");
            }
            Change::Updated { new, old } => {
                let before = state.insert(new.key.clone(), new).expect("updated without having been created");
                assert_eq!(before.modified, old.modified, "an update in between was not delivered");
            }
            Change::Deleted { last, old } => {
                let before = state.remove(&last.key).expect("deleted without having been created");
                assert_eq!(before.modified, old.modified, "an update in between was not delivered");
            }
        }
    }
    last
}
