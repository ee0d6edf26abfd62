//! Random operations against a model that is nothing but maps: after every step the store's newest state, any state of
//! the window, paged lists and watch replays are the model's. Memory and disk, the latter with reopenings.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::conformance::replay;
use store::{
    At, DiskStore, Entry, Key, Limits, MemoryStore, Op, Options, Page, Range, Revision, Store, StoreError, Txn, Value,
};
use tempfile::TempDir;

const LIMITS: Limits = Limits { events: 40, bytes: 4096 };

#[derive(Debug, Clone)]
enum Step {
    /// Per op: key, kind, whether the expectation is right.
    Commit(Vec<(u8, u8, bool)>),
    /// How many revisions back.
    ReadAt(u64),
    WatchFrom(u64),
    Pages(usize),
    Compact(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0..12u8, 0..8u8, prop::bool::weighted(0.9));
    prop_oneof![
        12 => prop::collection::vec(op, 1..4).prop_map(Step::Commit),
        2 => (0..50u64).prop_map(Step::ReadAt),
        2 => (0..50u64).prop_map(Step::WatchFrom),
        1 => (1..5usize).prop_map(Step::Pages),
        1 => (0..30u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

/// Key → (value, created, modified).
type State = BTreeMap<String, (String, u64, u64)>;

/// The state after each revision.
struct Model {
    states: Vec<State>,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// The transaction, and the state after it if it is to succeed.
    fn commit(&self, ops: &[(u8, u8, bool)]) -> (Txn, Option<State>) {
        let revision = self.revision() + 1;
        let mut next = self.now().clone();
        let (mut txn, mut holds) = (Txn::default(), true);
        for (number, kind, right) in ops {
            let name = format!("/{}/{number}", ["a", "ab", "b"][usize::from(number % 3)]);
            let key = Key::new(name.as_str());
            if txn.ops.iter().any(|op| *op.key() == key) {
                continue;
            }
            let there = self.now().get(&name).cloned();
            let expected = Revision(there.as_ref().map_or(0, |(_, _, modified)| *modified) + u64::from(!right));
            let value = Value { splice: Some(0), ..Value::plain(format!("-{kind}")) };
            let written = format!("{revision}-{kind}");
            let (op, fits) = match kind {
                0..=2 => (Op::Create { key, value }, there.is_none()),
                3 | 4 => (Op::Update { key, expected, value }, there.is_some() && *right),
                5 | 6 => (Op::Delete { key, expected, last: value }, there.is_some() && *right),
                _ => (Op::Check { key, expected }, *right),
            };
            match (&op, there) {
                (Op::Create { .. }, _) => drop(next.insert(name, (written, revision, revision))),
                (Op::Update { .. }, Some((_, created, _))) => drop(next.insert(name, (written, created, revision))),
                (Op::Delete { .. }, _) => drop(next.remove(&name)),
                _ => {}
            }
            txn.ops.push(op);
            holds &= fits;
        }
        (txn, holds.then_some(next))
    }
}

fn seen<'a>(entries: impl IntoIterator<Item = &'a Arc<Entry>>) -> State {
    let text = |entry: &Entry| String::from_utf8(entry.value.to_vec()).unwrap();
    entries.into_iter().map(|e| (e.key.0.to_string(), (text(e), e.created.0, e.modified.0))).collect()
}

async fn list(store: &dyn Store, prefix: &str, at: At, limit: usize) -> Result<State, StoreError> {
    let first = store.list(&Range::all(prefix), at, Page { limit }).await?;
    let (mut entries, mut more) = (first.value.entries, first.value.more);
    while more {
        let range = Range { after: entries.last().map(|e| e.key.clone()), ..Range::all(prefix) };
        let page = store.list(&range, At::Exactly(first.revision), Page { limit }).await?;
        assert_eq!(page.revision, first.revision);
        more = page.value.more;
        entries.extend(page.value.entries);
    }
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    Ok(seen(&entries))
}

fn below(state: &State, prefix: &str) -> State {
    state.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A past state is the model's, or is said to be gone with a floor that explains it.
async fn check_past(store: &dyn Store, model: &Model, back: u64) {
    let revision = model.revision().saturating_sub(back);
    match list(store, "/a/", At::Exactly(Revision(revision)), 0).await {
        Ok(state) => assert_eq!(state, below(&model.states[revision as usize], "/a/"), "at {revision}"),
        Err(StoreError::Compacted { oldest, .. }) => assert!(oldest.0 > revision),
        Err(other) => panic!("{other}"),
    }
}

/// A list at a revision and the events after it add up to the newest state.
async fn check_watch(store: &dyn Store, model: &Model, back: u64) {
    let from = Revision(model.revision().saturating_sub(back));
    let mut watch = match store.watch(&Range::all("/a/"), from).await {
        Ok(watch) => watch,
        Err(StoreError::Compacted { oldest, .. }) => return assert!(oldest > from),
        Err(other) => panic!("{other}"),
    };
    let start = store.list(&Range::all("/a/"), At::Exactly(from), Page { limit: 0 }).await.unwrap();
    let mut state: BTreeMap<Key, Arc<Entry>> = start.value.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    while watch.progress() < store.revision() {
        let last = replay(&mut state, watch.next().await.unwrap());
        assert_eq!(seen(state.values()), below(&model.states[last.0 as usize], "/a/"));
    }
    assert_eq!(seen(state.values()), below(model.now(), "/a/"));
}

async fn run(mut open: impl FnMut(Option<Box<dyn Store>>) -> Box<dyn Store>, steps: Vec<Step>) {
    let mut store = open(None);
    let mut model = Model { states: vec![State::new()] };
    for step in steps {
        match step {
            Step::Commit(ops) => {
                let (txn, next) = model.commit(&ops);
                let writes = txn.ops.iter().any(|op| !matches!(op, Op::Check { .. }));
                match (store.commit(txn).await, next) {
                    (Ok((revision, _)), Some(next)) => {
                        assert_eq!(revision.0, model.revision() + u64::from(writes));
                        if writes {
                            model.states.push(next);
                        }
                    }
                    (Err(StoreError::Conflict { .. }), None) => {}
                    (outcome, expected) => panic!("{outcome:?}, expected {expected:?}"),
                }
            }
            Step::ReadAt(back) => check_past(&*store, &model, back).await,
            Step::WatchFrom(back) => check_watch(&*store, &model, back).await,
            Step::Pages(limit) => {
                assert_eq!(list(&*store, "", At::Latest, limit).await.unwrap(), *model.now());
            }
            Step::Compact(back) => {
                store.compact(Revision(model.revision().saturating_sub(back))).await.unwrap();
            }
            Step::Reopen => store = open(Some(store)),
        }
        assert_eq!(store.revision().0, model.revision());
        assert_eq!(list(&*store, "", At::Latest, 0).await.unwrap(), *model.now());
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_is_the_model(steps in prop::collection::vec(step(), 1..120)) {
        block_on(run(|old| old.unwrap_or_else(|| Box::new(MemoryStore::new(LIMITS))), steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn disk_is_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let dir = TempDir::new().unwrap();
        let open = |old: Option<Box<dyn Store>>| -> Box<dyn Store> {
            drop(old);
            Box::new(DiskStore::open(dir.path(), Options { limits: LIMITS, ..Options::default() }).unwrap())
        };
        block_on(run(open, steps));
    }
}

use std::future::Future;
