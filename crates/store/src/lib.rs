//! Keys and bytes with revisions (DESIGN D3). Knows no kinds.
//!
//! One global revision counter; every commit takes the next revision, and all writes of one transaction share it.
//! A watch delivers every committed revision of its range once, in order, or ends with [`StoreError::Compacted`];
//! it never skips silently. There is no `put`: a write names the revision it expects, so a lost update cannot be
//! spelled.
//!
//! Three backends, one suite ([`conformance`]): [`MemoryStore`] for tests and the simulation, [`DiskStore`] for one server,
//! [`EtcdStore`] for several. All answer reads and watches from the same shared state in memory (`mvcc`), so a read never waits
//! for the disk.

mod compactor;
#[doc(hidden)]
pub mod conformance;
mod disk;
mod etcd;
mod memory;
mod mvcc;
mod plan;

pub use compactor::compact_periodically;
pub use disk::{BackupError, DiskStore, OpenError, Options, Seal};
pub use etcd::{EtcdError, EtcdOptions, EtcdStore};
pub use memory::MemoryStore;
pub use mvcc::Limits;

use async_trait::async_trait;
use bytes::Bytes;
use std::any::Any;
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// A position in the history of the store. 0 means "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// Where a value lives: `/`-separated text, e.g. `/apps/deployments/default/web`. Ordered bytewise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Arc<str>);

impl Key {
    /// A key from text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Key(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// All keys with a prefix, from a start (inclusive) on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Every key begins with this. Ends with `/` so that `/pods/` does not cover `/podtemplates/`.
    pub prefix: Arc<str>,
    /// Only keys greater than this one (for pages).
    pub after: Option<Key>,
}

impl Range {
    /// Everything below `prefix`.
    pub fn all(prefix: impl Into<Arc<str>>) -> Self {
        Range { prefix: prefix.into(), after: None }
    }

    /// Whether `key` is inside.
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&*self.prefix) && self.after.as_ref().is_none_or(|after| key > after.as_str())
    }
}

/// One stored value. Shared: get, list, watch and history hold the same one.
pub struct Entry {
    /// Where.
    pub key: Key,
    /// The final bytes, revision included.
    pub value: Bytes,
    /// Revision of the commit that created the key.
    pub created: Revision,
    /// Revision of the commit that wrote this value.
    pub modified: Revision,
    /// What the layer above derived from `value` (parsed header, other encodings), computed at most once.
    /// The store never looks inside. A writer may fill it through [`Value::derived`].
    pub derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Which state a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest state: everything that was acknowledged before the read began.
    Latest,
    /// Exactly the state after this revision; [`StoreError::Compacted`] if it is gone.
    Exactly(Revision),
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.key.0, self.modified.0)
    }
}

/// A read with the revision of the state that was seen.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// What was asked for.
    pub value: T,
    /// The store's revision at that state (not the entry's).
    pub revision: Revision,
}

/// How much of a range to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// At most this many entries; 0 = all.
    pub limit: usize,
}

/// Some entries of a range.
#[derive(Debug, Clone)]
pub struct Listing {
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// More keys follow the last one.
    pub more: bool,
    /// How many follow, if that is cheap to know.
    pub remaining: Option<u64>,
}

/// Bytes to be written. The commit's revision is spliced in, as decimal digits, at `splice`.
#[derive(Clone)]
pub struct Value {
    /// Everything but the revision.
    pub bytes: Bytes,
    /// Offset in `bytes` where the digits go; `None` = store as is.
    pub splice: Option<usize>,
    /// Becomes [`Entry::derived`].
    pub derived: Option<Arc<dyn Any + Send + Sync>>,
}

impl Value {
    /// Bytes that are stored as they are.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Value { bytes: bytes.into(), splice: None, derived: None }
    }
}

/// What must hold for a write to happen, and the write.
#[derive(Clone)]
pub enum Op {
    /// The key must not exist.
    Create {
        /// Where.
        key: Key,
        /// What.
        value: Value,
    },
    /// The key's last write must be `expected`.
    Update {
        /// Where.
        key: Key,
        /// Revision of the entry the change was made from.
        expected: Revision,
        /// What.
        value: Value,
    },
    /// The key's last write must be `expected`. `last` is the deletion event's value: the object's final state with the
    /// deletion's revision spliced in.
    Delete {
        /// Where.
        key: Key,
        /// Revision of the entry that is deleted.
        expected: Revision,
        /// The value watchers see.
        last: Value,
    },
    /// Writes nothing; the key's last write must be `expected` (`Revision(0)`: must not exist).
    Check {
        /// Where.
        key: Key,
        /// Revision of the entry that a decision was based on.
        expected: Revision,
    },
}

impl Op {
    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Op::Create { key, .. } | Op::Update { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } => key,
        }
    }
}

/// All or nothing.
#[derive(Clone, Default)]
pub struct Txn {
    /// At most one op per key.
    pub ops: Vec<Op>,
}

/// What happened to a key.
#[derive(Clone)]
pub struct Event {
    /// The commit.
    pub revision: Revision,
    /// What.
    pub change: Change,
}

/// Before and after, so that a selector's watcher can tell entering from leaving.
#[derive(Clone)]
pub enum Change {
    /// The key did not exist before.
    Created(Arc<Entry>),
    /// The key had the value `old`.
    Updated {
        /// After.
        new: Arc<Entry>,
        /// Before.
        old: Arc<Entry>,
    },
    /// The key is gone.
    Deleted {
        /// The final state with the deletion's revision (`modified` is the deletion's).
        last: Arc<Entry>,
        /// Before.
        old: Arc<Entry>,
    },
}

impl Change {
    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Change::Created(new) | Change::Updated { new, .. } => &new.key,
            Change::Deleted { last, .. } => &last.key,
        }
    }

    /// The value that it left.
    pub(crate) fn value(&self) -> &Bytes {
        match self {
            Change::Created(new) | Change::Updated { new, .. } => &new.value,
            Change::Deleted { last, .. } => &last.value,
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.change {
            Change::Created(new) => write!(f, "created {new:?}"),
            Change::Updated { new, old } => write!(f, "updated {new:?} from @{}", old.modified.0),
            Change::Deleted { last, old } => write!(f, "deleted {last:?} from @{}", old.modified.0),
        }
    }
}

/// A cursor into the shared log. Holds no copy of events; costs nothing while nothing happens in its range.
#[async_trait]
pub trait WatchStream: Send {
    /// Waits for the next events of the range, oldest first, at least one; those of one revision are never torn apart.
    /// Dropping the future before it is ready loses nothing. [`StoreError::Compacted`] if the cursor fell
    /// out of the log: the caller lists again.
    async fn next(&mut self) -> Result<Vec<Event>, StoreError>;

    /// The revision up to which everything in the range has been returned by [`Self::next`] (for bookmarks): moves on
    /// even when nothing happens in the range.
    fn progress(&self) -> Revision;
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// An expectation of a transaction did not hold. Nothing was written.
    #[error("revision conflict on {}: expected {expected:?}, found {found:?}", key.0)]
    Conflict {
        /// The first key whose expectation failed.
        key: Key,
        /// What the caller expected; `Revision(0)` = absent.
        expected: Revision,
        /// What is there, if anything.
        found: Option<Arc<Entry>>,
    },
    /// The revision is older than the log or the oldest kept state.
    #[error("revision {} is compacted, oldest is {}", asked.0, oldest.0)]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that would be served.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {} is in the future, current is {}", asked.0, current.0)]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        current: Revision,
    },
    /// The transaction can never be done: it names a key twice, or splices outside of its bytes. Nothing was written.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    /// The disk, the file or the remote store failed. Writes may or may not have happened.
    #[error("{0}")]
    Backend(String),
    /// The store is shutting down or has stopped after a failed fsync.
    #[error("the store is closed")]
    Closed,
}

/// The five verbs. `dyn`-compatible: callers hold `Arc<dyn Store>`.
#[async_trait]
pub trait Store: Send + Sync {
    /// One key.
    async fn get(&self, key: &Key, at: At) -> Result<Read<Option<Arc<Entry>>>, StoreError>;

    /// Keys of a range in order.
    async fn list(&self, range: &Range, at: At, page: Page) -> Result<Read<Listing>, StoreError>;

    /// Checks all expectations, then does all writes, atomically and durably: when this returns, the writes survive
    /// kill -9 and power loss. Returns the commit's revision and the new entries in the order of the ops (`None` for
    /// checks; the tombstone for deletes).
    ///
    /// A transaction that writes nothing takes no revision: it returns the revision at which its checks held.
    /// A caller that stops waiting does not know whether the write happened; it is never half done.
    async fn commit(&self, txn: Txn) -> Result<(Revision, Vec<Option<Arc<Entry>>>), StoreError>;

    /// All events of the range after `after`.
    async fn watch(&self, range: &Range, after: Revision) -> Result<Box<dyn WatchStream>, StoreError>;

    /// Forgets history up to `before`; the current state stays. Backends also compact by themselves within a bound.
    async fn compact(&self, before: Revision) -> Result<(), StoreError>;

    /// The newest revision.
    fn revision(&self) -> Revision;

    /// How many bytes it takes where it is kept; `None` if it is kept nowhere or that cannot be found out now.
    async fn size(&self) -> Option<u64> {
        None
    }
}
