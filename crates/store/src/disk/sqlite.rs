//! The file: layout, opening with every check, loading, one durable write, checkpoints, backup.
//!
//! SQLite's settings are those of `CRATES.md` §c: WAL with `synchronous=FULL` (the WAL is synced in every commit), 8 KiB
//! pages, no automatic checkpoint but one on its own thread and connection, so that a commit does not pay for it.

use super::{BackupError, Disk, Group, OpenError, Seal};
use crate::plan::Root;
use crate::{Change, Entry, Event, Key, Revision};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};
use std::borrow::Cow;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

const DATABASE: &str = "store.db";
const LOCK: &str = "LOCK";
/// A database that is being made; harmless if a crash leaves it.
const UNFINISHED: &str = "store.db.new";

/// "dhow" in SQLite's header.
const APPLICATION_ID: i64 = 0x6468_6f77;
const LAYOUT: i64 = 1;

/// `id` of a row is the revision and, in so many low bits, the index of the op.
const OP_BITS: u32 = 16;

/// Of the file; the WAL has whole pages.
const PAGE: usize = 8192;

/// A checkpoint is asked for after so many pages of WAL: small enough that it is short, large enough that hot pages are
/// copied once for many commits.
const CHECKPOINT_PAGES: usize = (16 << 20) / PAGE;

/// From so many pages on, the writer does the checkpoint itself, and begins the WAL anew: while it writes, nobody else can. A commit that
/// writes over old frames costs half of one that makes the file longer, whose size must be synced too; and it looks past every older copy of a
/// page in the WAL's index.
const RESTART_PAGES: usize = (32 << 20) / PAGE;

/// A log of this length is emptied when the store is opened. Twice what a busy writer leaves: to make a log longer costs more than to write
/// over it.
const LONG_LOG: u64 = 80 << 20;

const SCHEMA: &str = "
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        created INTEGER NOT NULL,
        deleted INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 0), ('compacted', 0);
";

/// Why a group was not written.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    /// Certainly nothing was written; the next group may succeed.
    #[error("no space left for {}: nothing was written; free some space on its file system", .0.display())]
    Full(PathBuf),
    /// It is unknown what survives. The store stops.
    #[error("the disk failed: {0}")]
    Fatal(String),
}

#[derive(Debug, Error)]
enum InsertError {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Seal(String),
}

/// What was in the file.
pub(super) struct Loaded {
    pub(super) root: Root,
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    /// After `floor`.
    pub(super) events: Vec<Event>,
}

/// The open file. Fields are dropped in order: the lock goes last.
pub(super) struct Sqlite {
    db: Connection,
    path: PathBuf,
    checkpointer: Checkpointer,
    /// Pages in the WAL, as the last commit said.
    pages: Arc<AtomicUsize>,
    /// How many they were when the last checkpoint was asked for.
    checked: usize,
    seal: Option<Arc<dyn Seal>>,
    _lock: File,
}

impl Sqlite {
    pub(super) fn open(dir: &Path, seal: Option<Arc<dyn Seal>>) -> Result<(Self, Loaded), OpenError> {
        let path = dir.join(DATABASE);
        let new = prepare_directory(dir)?;
        let lock = take_lock(dir)?;
        if new {
            create(dir).map_err(|error| explain(&path, error))?;
        }
        let mut db = connect(&path).and_then(|db| check_identity(&path, db))?;
        let pages = count_pages(&mut db).map_err(|error| explain(&path, error))?;
        empty_long_log(&path, &db);
        let (loaded, outdated) = load(&path, &db, seal.as_deref())?;
        if let Some(seal) = seal.as_deref().filter(|_| !outdated.is_empty()) {
            reseal(&path, &mut db, seal, &outdated)?;
        }
        let checkpointer = Checkpointer::start(&path).map_err(|error| explain(&path, error))?;
        Ok((Sqlite { db, path, checkpointer, pages, checked: 0, seal, _lock: lock }, loaded))
    }

    fn insert(&mut self, group: &Group<'_>) -> Result<(), InsertError> {
        let seal = self.seal.clone();
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            let mut index = 0;
            let mut revision = Revision(0);
            for event in group.events {
                index = if event.revision == revision { index + 1 } else { 0 };
                revision = event.revision;
                let (entry, deleted) = match &event.change {
                    Change::Created(new) | Change::Updated { new, .. } => (new, false),
                    Change::Deleted { last, .. } => (last, true),
                };
                let key = entry.key.as_str();
                let value = match &seal {
                    Some(seal) => seal.seal(key, &entry.value).map_err(InsertError::Seal)?,
                    None => Cow::Borrowed(&*entry.value),
                };
                let sum = checksum(key, &value);
                insert.execute((row_id(revision, index), key, to_sql(entry.created), deleted, sum, &*value))?;
            }
        }
        if let Some(slice) = group.slice {
            let mut delete = transaction.prepare_cached("DELETE FROM entry WHERE id BETWEEN ?1 AND ?2 AND key = ?3")?;
            for (revision, key) in &slice.rows {
                delete.execute((row_id(*revision, 0), row_id(*revision, (1 << OP_BITS) - 1), key.as_str()))?;
            }
            // The newest row may be among them: from now on this number is what keeps revisions from being used again.
            let mut meta = transaction.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1 AND value < ?2")?;
            meta.execute(("revision", to_sql(group.revision)))?;
            meta.execute(("compacted", to_sql(slice.compacted)))?;
        }
        Ok(transaction.commit()?)
    }

    fn checkpoint_if_due(&mut self) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.checked {
            // It was begun anew.
            self.checked = 0;
        }
        if pages < self.checked + CHECKPOINT_PAGES {
            return;
        }
        if pages < RESTART_PAGES {
            self.checkpointer.ask();
        } else if !self.checkpoint_now("RESTART") {
            // The other thread is at it still: the next commit tries again.
            return;
        }
        self.checked = pages;
    }

    /// False if another checkpoint is under way.
    fn checkpoint_now(&mut self, mode: &str) -> bool {
        // A backup may be reading: then the WAL stays for now.
        let done = self.db.busy_timeout(Duration::ZERO).and_then(|()| checkpoint(&self.db, mode));
        let restored = self.db.busy_timeout(Duration::from_secs(5));
        match done.and_then(|begun| restored.map(|()| begun)) {
            Ok(begun) => begun,
            Err(error) => {
                tracing::debug!(%error, mode, path = %self.path.display(), "the write-ahead log goes on as it is");
                true
            }
        }
    }
}

impl Disk for Sqlite {
    fn write(&mut self, group: &Group<'_>) -> Result<(), WriteError> {
        match self.insert(group) {
            Ok(()) => {
                self.checkpoint_if_due();
                Ok(())
            }
            // SQLite has rolled back, and a commit that found no space has no commit mark. Only then is it certain.
            Err(InsertError::Sql(error)) if is_full(&error) && self.db.is_autocommit() => {
                Err(WriteError::Full(self.path.clone()))
            }
            Err(error) => Err(WriteError::Fatal(format!("{}: {error}", self.path.display()))),
        }
    }

    fn shrink(&mut self) {
        // Every step frees one page.
        let vacuum = |mut statement: rusqlite::Statement<'_>| {
            let mut rows = statement.query(())?;
            while rows.next()?.is_some() {}
            Ok(())
        };
        let done = self.db.prepare("PRAGMA incremental_vacuum").and_then(vacuum);
        let done = done.and_then(|()| checkpoint(&self.db, "PASSIVE"));
        if let Err(error) = done {
            tracing::warn!(%error, path = %self.path.display(), "free pages could not be given back");
        }
    }

    fn finish(&mut self) {
        self.checkpointer.stop();
        self.checkpoint_now("TRUNCATE");
    }
}

fn row_id(revision: Revision, index: u64) -> i64 {
    // 47 bits of revisions: 4,000 years at a thousand writes per second.
    ((revision.0 << OP_BITS) | index) as i64
}

/// SQLite's numbers are signed. What we write is never negative.
fn to_sql(revision: Revision) -> i64 {
    revision.0 as i64
}

fn from_sql(number: i64) -> Revision {
    Revision(number.max(0) as u64)
}

/// False if another one is under way (`sqlite3_wal_checkpoint_v2`): it knows the length of the log only when it has begun.
fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<bool> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| Ok(row.get::<_, i64>(1)? >= 0))
}

/// The number of pages in the WAL, from now on kept up by every commit of `db`.
fn count_pages(db: &mut Connection) -> rusqlite::Result<Arc<AtomicUsize>> {
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = pages.clone();
    db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, now: std::ffi::c_int| {
        counted.store(usize::try_from(now).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(pages)
}

/// Whether it means "no space", which leaves the file as it was.
fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if failure.code == ErrorCode::DiskFull || failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE)
}

/// Guards values against bits that flip under SQLite, which has no checksums. Not cryptographic.
fn checksum(key: &str, value: &[u8]) -> i64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = ODD ^ (key.len() as u64);
    for part in [key.as_bytes(), value] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(ODD).rotate_left(29);
        }
        for byte in rest {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(ODD).rotate_left(29);
        }
    }
    (sum ^ (sum >> 32)) as i64
}

// === opening ===

/// A log that is longer than any that the writer leaves before it begins anew was left by lives that were killed before they came that
/// far. Each would make it longer, and read all of it at its start.
fn empty_long_log(path: &Path, db: &Connection) {
    let length = std::fs::metadata(sibling(path, "-wal")).map_or(0, |log| log.len());
    if length > LONG_LOG
        && let Err(error) = checkpoint(db, "TRUNCATE")
    {
        tracing::warn!(%error, length, path = %path.display(), "the write-ahead log goes on as it is");
    }
}

/// Makes the directory if need be and refuses those that are not ours. True if a store must be created in it.
fn prepare_directory(dir: &Path) -> Result<bool, OpenError> {
    let unusable = |source| OpenError::Directory { path: dir.to_owned(), source };
    // Everything in it is for the server only: it may hold secrets.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let mut names = Vec::new();
    for file in std::fs::read_dir(dir).map_err(unusable)? {
        names.push(file.map_err(unusable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.iter().any(|name| name == DATABASE) {
        return Ok(false);
    }
    if let Some(orphan) = names.iter().find(|name| *name == "store.db-wal") {
        let found = format!("{orphan} is there without its {DATABASE}");
        return Err(OpenError::Damaged { path: dir.join(DATABASE), found });
    }
    match names.iter().find(|name| *name != LOCK && !name.starts_with(UNFINISHED) && *name != "lost+found") {
        Some(other) => Err(OpenError::Foreign { path: dir.to_owned(), found: format!("it contains {other}") }),
        None => Ok(true),
    }
}

fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let unusable = |source| OpenError::Directory { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned(), lock: path }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// Makes an empty database beside its final name, then gives it that name, so that there is never half a one.
fn create(dir: &Path) -> rusqlite::Result<()> {
    let (unfinished, path) = (dir.join(UNFINISHED), dir.join(DATABASE));
    for leftover in [unfinished.clone(), sibling(&unfinished, "-journal")] {
        match std::fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot_open(error)),
            _ => {}
        }
    }
    let db = Connection::open(&unfinished)?;
    db.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = FULL;
         BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LAYOUT}; {SCHEMA} COMMIT;"
    ))?;
    db.close().map_err(|(_, error)| error)?;
    std::fs::rename(&unfinished, &path).and_then(|()| base::files::sync_parent(&path)).map_err(cannot_open)
}

fn cannot_open(error: io::Error) -> rusqlite::Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull => ffi::SQLITE_FULL,
        _ => ffi::SQLITE_CANTOPEN,
    };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let open = || {
        let db =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(Duration::from_secs(5))?;
        Ok(db)
    };
    open().map_err(|error| explain(path, error))
}

/// Makes sure that it is our database before anything in it is changed, then switches to the settings we run with.
fn check_identity(path: &Path, db: Connection) -> Result<Connection, OpenError> {
    let number = |pragma: &str| db.query_row(&format!("PRAGMA {pragma}"), (), |row| row.get::<_, i64>(0));
    let identity = number("application_id").and_then(|id| Ok((id, number("user_version")?)));
    let (application, layout) = identity.map_err(|error| explain(path, error))?;
    if application != APPLICATION_ID {
        let found = if application == 0 {
            "a database without an owner".into()
        } else {
            format!("application {application:#x}")
        };
        return Err(OpenError::Foreign { path: path.to_owned(), found });
    }
    if layout > LAYOUT {
        return Err(OpenError::Newer { path: path.to_owned(), found: layout, known: LAYOUT });
    }
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
                    PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;";
    db.execute_batch(settings).map_err(|error| explain(path, error))?;
    Ok(db)
}

/// Turns SQLite's codes into what a person can act on.
fn explain(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match &error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::NotADatabase => OpenError::Damaged { path, found: "it is not a database file".into() },
            ErrorCode::DatabaseCorrupt => OpenError::Damaged { path, found: error.to_string() },
            ErrorCode::DiskFull => OpenError::Full { path },
            _ => OpenError::Database { path, source: error },
        },
        rusqlite::Error::SqlInputError { .. } => OpenError::Damaged { path, found: error.to_string() },
        _ => OpenError::Database { path, source: error },
    }
}

/// Replays all rows: the state, and the history after what was compacted; and the rows that are to be sealed anew.
fn load(path: &Path, db: &Connection, seal: Option<&dyn Seal>) -> Result<(Loaded, Vec<i64>), OpenError> {
    let failed = |error| explain(path, error);
    let meta =
        |name: &str| db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| Ok(from_sql(row.get(0)?)));
    let floor = meta("compacted").map_err(failed)?;
    let mut revision = meta("revision").map_err(failed)?;
    let mut root = Root::new();
    let mut events = Vec::new();
    let mut outdated = Vec::new();
    let mut select =
        db.prepare("SELECT id, key, created, deleted, sum, value FROM entry ORDER BY id").map_err(failed)?;
    let mut rows = select.query(()).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let damaged = |found| OpenError::Damaged { path: path.to_owned(), found };
        let (entry, deleted, current) = decode(row, seal).map_err(damaged)?;
        if !current {
            outdated.push(row.get(0).map_err(failed)?);
        }
        revision = revision.max(entry.modified);
        let after_floor = entry.modified > floor;
        let change = replay(&mut root, Arc::new(entry), deleted);
        events.extend(change.filter(|_| after_floor).map(|change| match &change {
            Change::Created(new) | Change::Updated { new, .. } => Event { revision: new.modified, change },
            Change::Deleted { last, .. } => Event { revision: last.modified, change },
        }));
    }
    Ok((Loaded { root, revision, floor, events }, outdated))
}

/// Writes rows as they would be written now, and leaves no trace of how they were.
fn reseal(path: &Path, db: &mut Connection, seal: &dyn Seal, rows: &[i64]) -> Result<(), OpenError> {
    let failed = |error| explain(path, error);
    let damaged = |found| OpenError::Damaged { path: path.to_owned(), found };
    db.pragma_update(None, "secure_delete", true).map_err(failed)?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    for id in rows {
        let read = "SELECT key, value FROM entry WHERE id = ?1";
        let (key, stored): (String, Vec<u8>) =
            transaction.query_row(read, [id], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        let plain = seal.open(&key, &stored).map_err(damaged)?;
        let value = seal.seal(&key, &plain).map_err(damaged)?;
        let change = "UPDATE entry SET value = ?2, sum = ?3 WHERE id = ?1";
        transaction.execute(change, (id, &*value, checksum(&key, &value))).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    db.pragma_update(None, "secure_delete", false).map_err(failed)?;
    tracing::info!(rows = rows.len(), path = %path.display(), "values were sealed anew");
    checkpoint(db, "TRUNCATE").map(drop).map_err(failed)
}

/// The entry, whether it is a deletion, and whether it is stored as it would be now.
fn decode(row: &rusqlite::Row<'_>, seal: Option<&dyn Seal>) -> Result<(Entry, bool, bool), String> {
    let id: i64 = row.get(0).map_err(|error| error.to_string())?;
    let wrong = |what: &dyn std::fmt::Display| format!("row {id}: {what}");
    let text = |error: rusqlite::Error| wrong(&error);
    let key = row.get_ref(1).map_err(text)?.as_str().map_err(|error| wrong(&error))?;
    let value = row.get_ref(5).map_err(text)?.as_blob().map_err(|error| wrong(&error))?;
    if row.get::<_, i64>(4).map_err(text)? != checksum(key, value) {
        return Err(wrong(&format!("the checksum of {key:?} does not match")));
    }
    let current = seal.is_none_or(|seal| seal.is_current(key, value));
    let plain = match seal {
        Some(seal) => seal.open(key, value).map_err(|error| wrong(&error))?,
        None => Cow::Borrowed(value),
    };
    let entry = Entry {
        key: Key::new(key),
        value: Bytes::from(plain.into_owned()),
        created: from_sql(row.get(2).map_err(text)?),
        modified: from_sql(id >> OP_BITS),
        derived: OnceLock::new(),
    };
    Ok((entry, row.get(3).map_err(text)?, current))
}

/// `None`: a tombstone of something whose last version is compacted already.
fn replay(root: &mut Root, entry: Arc<Entry>, deleted: bool) -> Option<Change> {
    if deleted {
        let old = root.remove(&entry.key)?;
        return Some(Change::Deleted { last: entry, old });
    }
    match root.insert(entry.key.clone(), entry.clone()) {
        None => Some(Change::Created(entry)),
        Some(old) => Some(Change::Updated { new: entry, old }),
    }
}

// === checkpoints and backup ===

/// A thread that copies the WAL into the database when told to.
struct Checkpointer {
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    fn start(path: &Path) -> rusqlite::Result<Self> {
        let db =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        let path = path.to_owned();
        let (ask, asked) = sync_channel(1);
        let run = move || {
            while asked.recv().is_ok() {
                if let Err(error) = checkpoint(&db, "PASSIVE") {
                    tracing::warn!(%error, path = %path.display(), "checkpoint failed; the write-ahead log keeps the data");
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".into()).spawn(run).map_err(cannot_open)?;
        Ok(Checkpointer { ask: Some(ask), thread: Some(thread) })
    }

    fn ask(&self) {
        if let Some(Err(TrySendError::Disconnected(()))) = self.ask.as_ref().map(|ask| ask.try_send(())) {
            tracing::warn!("the checkpoint thread is gone; the writer checkpoints by itself from time to time");
        }
    }

    fn stop(&mut self) {
        self.ask = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the checkpoint thread had panicked");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Bytes of the database and of its log; `None` if they cannot be seen.
pub(super) fn size(dir: &Path) -> Option<u64> {
    let path = dir.join(DATABASE);
    let of = |path: &Path| std::fs::metadata(path).ok().map(|found| found.len());
    Some(of(&path)? + of(&sibling(&path, "-wal")).unwrap_or_default())
}

/// Copies the database in `from` into the new directory `to`.
pub(super) fn backup(from: &Path, to: &Path) -> Result<(), BackupError> {
    let path = to.to_owned();
    if to.exists() {
        return Err(BackupError::Exists { path });
    }
    // The name with the suffix becomes the final one only when everything is on the disk.
    let unfinished = sibling(to, ".unfinished");
    let copied = copy(from, &unfinished, &path).and_then(|()| {
        let renamed = std::fs::rename(&unfinished, to).and_then(|()| base::files::sync_parent(to));
        renamed.map_err(|source| BackupError::Io { path: path.clone(), source })
    });
    if copied.is_err()
        && let Err(error) = std::fs::remove_dir_all(&unfinished)
    {
        tracing::debug!(%error, path = %unfinished.display(), "no unfinished backup to remove");
    }
    copied
}

fn copy(from: &Path, into: &Path, path: &Path) -> Result<(), BackupError> {
    let io = |source| BackupError::Io { path: path.to_owned(), source };
    let failed = |source| BackupError::Database { path: path.to_owned(), source };
    if into.exists() {
        std::fs::remove_dir_all(into).map_err(io)?; // Of an interrupted backup to the same place.
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(into).map_err(io)?;
    let file = into.join(DATABASE);
    let source = Connection::open_with_flags(from.join(DATABASE), OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let mut target = Connection::open(&file).map_err(failed)?;
    {
        let backup = rusqlite::backup::Backup::new(&source, &mut target).map_err(failed)?;
        // All pages in one step: one consistent state, and the writer's commits do not start it over.
        backup.step(-1).map_err(failed)?;
    }
    target.close().map_err(|(_, error)| failed(error))?;
    File::open(&file).and_then(|file| file.sync_all()).map_err(io)?;
    File::open(into).and_then(|dir| dir.sync_all()).map_err(io)
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_sees_single_bits_and_borders() {
        let base = checksum("/a", b"0123456789");
        assert_ne!(base, checksum("/a", b"0123456788"));
        assert_ne!(base, checksum("/a", b"1123456789"));
        assert_ne!(checksum("/a", b"b"), checksum("/ab", b""));
    }

    #[test]
    fn a_log_that_no_life_has_emptied_is_emptied_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = dir.path().join("store");
        drop(Sqlite::open(&store, None).expect("made"));
        let (path, mut written) = (store.join(DATABASE), 0);
        let length = || std::fs::metadata(sibling(&path, "-wal")).map_or(0, |log| log.len());
        // As many lives leave it that are killed: nobody closes this one before the store is opened again.
        let killed = Connection::open(&path).expect("opened");
        killed.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF").expect("set");
        while length() <= LONG_LOG {
            written += 1;
            killed.execute("UPDATE meta SET value = ?1 WHERE name = 'revision'", [written]).expect("written");
        }
        let (_store, loaded) = Sqlite::open(&store, None).expect("opened again");
        assert_eq!((length(), loaded.revision), (0, from_sql(written)));
    }
}
