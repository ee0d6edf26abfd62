//! The store on one machine's disk: SQLite as a durable append-only log of rows, everything read from memory.
//!
//! ```text
//!   commit() ──queue──> writer thread: plan against the newest state ─> INSERT … COMMIT (one fsync per group)
//!                                      └ durable? publish to memory, then answer   └ failed? answer so, or close
//!   get/list/watch ───> memory (mvcc), never the disk          checkpoint thread: WAL → database, beside the writer
//! ```
//!
//! One table: a row per write, `id = revision << 16 | index of the op`, deletions are rows too. Opening replays it, which
//! gives the state *and* the recent history: a watch may go on from before a restart, within [`Limits`] and down to what
//! was compacted. Rows that neither the state nor the kept history needs are deleted a slice at a time inside ordinary
//! commits, so the file is bounded by live data plus history; freed pages are used again, and given back by
//! [`Store::compact`].
//!
//! Always holds: what was acknowledged or shown is in the file and synced; a revision is never used twice, because the
//! newest one is written down in the transaction that deletes old rows; after a failed sync nothing is acknowledged.

use crate::mvcc::Mvcc;
use crate::plan::{Planned, plan};
use crate::{
    At, Change, Entry, Event, Key, Limits, Listing, Page, Range, Read, Revision, Store, StoreError, Txn, WatchStream,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

mod sqlite;
#[cfg(test)]
mod tests;

use sqlite::{Sqlite, WriteError};

/// Transactions that may wait for the writer; more wait for a place, which slows the callers down to the disk's pace.
const QUEUE: usize = 1024;

/// Most transactions in one fsync: bounds how long the first of them waits for the last.
const GROUP_TXNS: usize = 512;

/// Most bytes in one fsync, for the same reason.
const GROUP_BYTES: usize = 8 << 20;

/// Old rows deleted in one go: about 5 ms, hidden in a commit that syncs anyway.
const SLICE_ROWS: usize = 256;

/// How a [`DiskStore`] is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How much history is kept, in memory and in the file.
    pub limits: Limits,
    /// What values look like in the file; without one, as they are.
    pub seal: Option<Arc<dyn Seal>>,
}

/// Makes values unreadable in the file, e.g. by encryption. In memory they are always plain.
pub trait Seal: Send + Sync + std::fmt::Debug {
    /// A value as it goes into the file. Keys it does not care for it leaves as they are.
    fn seal<'a>(&self, key: &str, value: &'a [u8]) -> Result<Cow<'a, [u8]>, String>;

    /// A value from the file. One that was written before there was a seal is left as it is.
    fn open<'a>(&self, key: &str, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, String>;

    /// Whether this is how the value would be written now. Others are written anew when the store is opened.
    fn is_current(&self, key: &str, stored: &[u8]) -> bool;
}

/// Why a data directory cannot be used. Every text names the file and what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory cannot be made or read.
    #[error("cannot use the data directory {}: check that its parent exists and is writable", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another process (it holds {}): stop that one first, or choose another data directory", dir.display(), lock.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// It is somebody else's.
    #[error("{} is not a dhow store ({found}): choose an empty or new directory", path.display())]
    Foreign {
        /// The directory or file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A newer dhow wrote it.
    #[error("{} has layout {found}, this dhow knows up to {known}: use the newer dhow, or restore a backup made before the upgrade", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Its contents are not what was written.
    #[error("{} is damaged ({found}): restore a backup into an empty directory, or move this directory away to start empty; nothing was changed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// No space to open it.
    #[error("no space left for {}: free some space on its file system and start again; nothing was lost", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed otherwise.
    #[error("failed to open {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// Why a backup was not made. Nothing is left at the destination.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The destination is there already.
    #[error("{} already exists: a backup is made into a new directory", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// Files could not be made.
    #[error("failed to write the backup {}", path.display())]
    Io {
        /// The destination.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Reading the store or writing the copy failed.
    #[error("failed to copy the store to {}", path.display())]
    Database {
        /// The destination.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// A [`Store`] in a directory that belongs to it alone.
pub struct DiskStore {
    mvcc: Arc<Mvcc>,
    dir: PathBuf,
    queue: mpsc::UnboundedSender<Job>,
    /// What bounds the queue. Closed together with the store.
    places: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

type Committed = Result<(Revision, Vec<Option<Arc<Entry>>>), StoreError>;

enum Job {
    Commit {
        txn: Txn,
        answer: oneshot::Sender<Committed>,
        _place: OwnedSemaphorePermit,
    },
    Compact {
        before: Revision,
        answer: oneshot::Sender<Result<(), StoreError>>,
        _place: OwnedSemaphorePermit,
    },
    /// The last one.
    Close,
}

impl DiskStore {
    /// Opens or creates the store in `dir` and loads it. Blocks: 100,000 objects of 2 KiB take about half a second.
    pub fn open(dir: &Path, options: Options) -> Result<DiskStore, OpenError> {
        let (sqlite, loaded) = Sqlite::open(dir, options.seal)?;
        let (mvcc, dropped) = Mvcc::new(options.limits, loaded.root, loaded.revision, loaded.floor, loaded.events);
        Ok(DiskStore::start(dir, mvcc, dropped, Box::new(sqlite)))
    }

    fn start(dir: &Path, mvcc: Arc<Mvcc>, dropped: Vec<Event>, disk: Box<dyn Disk>) -> DiskStore {
        let (queue, jobs) = mpsc::unbounded_channel();
        let mut writer = Writer { mvcc: mvcc.clone(), disk, garbage: Garbage::default(), compactions: Vec::new() };
        writer.garbage.add(&dropped);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(jobs))
            .expect("a thread can be started while the process starts");
        let places = Arc::new(Semaphore::new(QUEUE));
        DiskStore { mvcc, dir: dir.to_owned(), queue, places, writer: Mutex::new(Some(thread)) }
    }

    /// Finishes what is queued, ends all watches, moves the log into the database and releases the directory.
    /// Blocks for some milliseconds. Dropping the store does the same.
    pub fn close(&self) {
        self.places.close();
        drop(self.queue.send(Job::Close).err()); // The writer may have ended already.
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(dir = %self.dir.display(), "the store's writer had panicked");
        }
    }

    /// Copies the newest committed state and its history into the new directory `to`, which [`DiskStore::open`] takes as
    /// is. Writes go on meanwhile. Blocks for as long as copying takes.
    ///
    /// A restored copy continues at the copy's revision, so clients must not carry over revisions that are newer.
    pub fn backup(&self, to: &Path) -> Result<(), BackupError> {
        sqlite::backup(&self.dir, to)
    }

    async fn send<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>, OwnedSemaphorePermit) -> Job,
    ) -> Result<T, StoreError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.queue.send(job(answer, place)).map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Store for DiskStore {
    async fn get(&self, key: &Key, at: At) -> Result<Read<Option<Arc<Entry>>>, StoreError> {
        self.mvcc.get(key, at)
    }

    async fn list(&self, range: &Range, at: At, page: Page) -> Result<Read<Listing>, StoreError> {
        self.mvcc.list(range, at, page)
    }

    async fn commit(&self, txn: Txn) -> Committed {
        self.send(|answer, _place| Job::Commit { txn, answer, _place }).await
    }

    async fn watch(&self, range: &Range, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        Ok(Box::new(self.mvcc.watch(range, after)?))
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.send(|answer, _place| Job::Compact { before, answer, _place }).await
    }

    fn revision(&self) -> Revision {
        self.mvcc.revision()
    }

    async fn size(&self) -> Option<u64> {
        sqlite::size(&self.dir)
    }
}

// === impl Writer ===

/// What is written in one durable step.
struct Group<'a> {
    /// In order.
    events: &'a [Event],
    /// The store's revision after it.
    revision: Revision,
    /// Old rows to delete with it.
    slice: Option<&'a Slice>,
}

/// Rows that nobody needs any more.
#[derive(Debug, Default, PartialEq, Eq)]
struct Slice {
    /// Revision and key of each row.
    rows: Vec<(Revision, Key)>,
    /// With these gone, history begins here.
    compacted: Revision,
}

/// Where groups go. The second implementation is the failing disk of the tests.
trait Disk: Send {
    /// Writes and syncs all of it or, unless [`WriteError::Fatal`], nothing.
    fn write(&mut self, group: &Group<'_>) -> Result<(), WriteError>;
    /// Gives free pages back to the file system.
    fn shrink(&mut self);
    /// Leaves the file tidy. The last call.
    fn finish(&mut self);
}

struct Writer {
    mvcc: Arc<Mvcc>,
    disk: Box<dyn Disk>,
    garbage: Garbage,
    /// Asked for and not yet done.
    compactions: Vec<(Revision, oneshot::Sender<Result<(), StoreError>>)>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        loop {
            let first = if self.compactions.is_empty() { jobs.blocking_recv() } else { jobs.try_recv().ok() };
            if first.is_none() && self.compactions.is_empty() {
                break;
            }
            let txns = self.drain(first, &mut jobs);
            if let Err(fatal) = self.commit(txns) {
                tracing::error!(error = %fatal, "the store is closed: the disk failed; restart after the disk is repaired");
                return; // Whoever waits or comes later finds the queue gone: Closed.
            }
        }
        self.disk.finish();
    }

    /// Takes what is queued, as much as goes into one group. Nobody is waited for: the group is what came in while the
    /// one before was synced.
    fn drain(
        &mut self,
        first: Option<Job>,
        jobs: &mut mpsc::UnboundedReceiver<Job>,
    ) -> Vec<(Txn, oneshot::Sender<Committed>)> {
        let mut txns = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        while let Some(job) = next {
            match job {
                Job::Commit { txn, answer, _place } => {
                    bytes += size(&txn);
                    txns.push((txn, answer));
                }
                Job::Compact { before, answer, _place } => self.begin_compaction(before, answer),
                Job::Close => jobs.close(),
            }
            if txns.len() >= GROUP_TXNS || bytes >= GROUP_BYTES {
                break;
            }
            next = jobs.try_recv().ok();
        }
        txns
    }

    fn begin_compaction(&mut self, before: Revision, answer: oneshot::Sender<Result<(), StoreError>>) {
        match self.mvcc.compact(before) {
            Ok(dropped) => {
                self.garbage.add(&dropped);
                self.compactions.push((before, answer));
            }
            Err(refused) => reply(answer, Err(refused)),
        }
    }

    /// One group: plan all, write once, publish, answer. `Err` only if it is unknown whether it was written.
    fn commit(&mut self, txns: Vec<(Txn, oneshot::Sender<Committed>)>) -> Result<(), WriteError> {
        let (mut root, mut revision) = self.mvcc.latest();
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(txns.len());
        for (txn, answer) in txns {
            let outcome = plan(&mut root, revision, txn).map(|Planned { revision: took, entries, events: mut new }| {
                revision = took;
                events.append(&mut new);
                (took, entries)
            });
            // Refusals wait too: what they saw may be a write of this group, which is not true before it is durable.
            answers.push((answer, outcome));
        }
        let slice = self.garbage.slice(self.compactions.iter().map(|(before, _)| *before).max());
        if !events.is_empty() || slice.is_some() {
            let written = self.disk.write(&Group { events: &events, revision, slice: slice.as_ref() });
            if let Err(error) = written {
                let text = error.to_string();
                answers.into_iter().for_each(|(answer, _)| reply(answer, Err(StoreError::Backend(text.clone()))));
                self.compactions.drain(..).for_each(|(_, a)| reply(a, Err(StoreError::Backend(text.clone()))));
                return if let WriteError::Fatal(_) = error { Err(error) } else { Ok(()) };
            }
        }
        if !events.is_empty() {
            let dropped = self.mvcc.publish(events, root, revision);
            self.garbage.add(&dropped);
        }
        answers.into_iter().for_each(|(answer, outcome)| reply(answer, outcome));
        if let Some(slice) = slice {
            self.end_compactions(&slice);
        }
        Ok(())
    }

    /// Takes the slice off the list and answers compactions that are complete with it.
    fn end_compactions(&mut self, slice: &Slice) {
        self.garbage.rows.drain(..slice.rows.len());
        let before = self.compactions.len();
        for (asked, answer) in std::mem::take(&mut self.compactions) {
            if asked <= slice.compacted {
                reply(answer, Ok(()));
            } else {
                self.compactions.push((asked, answer));
            }
        }
        if before > 0 && self.compactions.is_empty() {
            self.disk.shrink();
        }
    }
}

impl Drop for Writer {
    /// However the writer ends, by request, a failed disk or a panic: watches end too.
    fn drop(&mut self) {
        self.mvcc.close();
    }
}

/// Answers a caller who may have gone.
fn reply<T>(answer: oneshot::Sender<T>, outcome: T) {
    drop(answer.send(outcome).err()); // Gone means that nobody wants to know.
}

fn size(txn: &Txn) -> usize {
    txn.ops
        .iter()
        .map(|op| match op {
            crate::Op::Create { value, .. } | crate::Op::Update { value, .. } => value.bytes.len(),
            crate::Op::Delete { last, .. } => last.bytes.len(),
            crate::Op::Check { .. } => 0,
        })
        .sum()
}

// === impl Garbage ===

/// Rows that may be deleted, with the revision of the event that let go of them, ascending.
#[derive(Default)]
struct Garbage {
    rows: VecDeque<(Revision, (Revision, Key))>,
}

impl Garbage {
    /// `dropped` fell out of the history: the versions they replaced are needed by nobody, nor are their tombstones.
    fn add(&mut self, dropped: &[Event]) {
        for event in dropped {
            match &event.change {
                Change::Created(_) => {}
                Change::Updated { old, .. } => self.rows.push_back((event.revision, (old.modified, old.key.clone()))),
                Change::Deleted { last, old } => {
                    self.rows.push_back((event.revision, (old.modified, old.key.clone())));
                    self.rows.push_back((event.revision, (last.modified, last.key.clone())));
                }
            }
        }
    }

    /// What to delete now: a slice when there is enough for one, or when somebody waits for `wanted`. Never a part of
    /// a revision, so that what is left is a history that begins at `compacted`.
    fn slice(&self, wanted: Option<Revision>) -> Option<Slice> {
        if wanted.is_none() && self.rows.len() < SLICE_ROWS {
            return None;
        }
        let mut slice = Slice::default();
        for (by, row) in &self.rows {
            if slice.rows.len() >= SLICE_ROWS && *by != slice.compacted {
                return Some(slice);
            }
            slice.compacted = *by;
            slice.rows.push(row.clone());
        }
        // Everything is on it: history begins where it was asked to.
        slice.compacted = slice.compacted.max(wanted.unwrap_or_default());
        Some(slice)
    }
}
