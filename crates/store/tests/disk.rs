//! The disk backend passes the suite, and what only a disk can do wrong: reopening, foreign and damaged directories,
//! two openers, no space, backups.

use expect_test::{Expect, expect};
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::conformance::{create, delete, key, text_of, update};
use store::{At, DiskStore, Key, Limits, Op, OpenError, Options, Range, Revision, Store, StoreError, Txn, Value};
use tempfile::TempDir;

struct Temporary {
    store: DiskStore,
    _dir: TempDir,
}

impl Deref for Temporary {
    type Target = dyn Store;
    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

store::conformance_suite!(|limits| async move {
    let dir = TempDir::new().unwrap();
    Temporary {
        store: DiskStore::open(&dir.path().join("data"), Options { limits, ..Options::default() }).unwrap(),
        _dir: dir,
    }
});

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(dir, Options::default()).unwrap()
}

fn small() -> Options {
    Options { limits: Limits { events: 20, bytes: 1 << 20 }, seal: None }
}

#[tokio::test]
async fn reopening_shows_the_same_state_and_history() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    create(&store, "/a/x", "1").await;
    create(&store, "/a/y", "2").await;
    update(&store, "/a/x", Revision(1), "3").await;
    let value = Value { splice: Some(1), ..Value::plain("<>") };
    store.commit(Txn { ops: vec![Op::Create { key: key("/a/ü"), value }] }).await.unwrap();
    delete(&store, "/a/y", Revision(2)).await;
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.revision(), Revision(5));
    assert_eq!(text_of(&store, "/", At::Latest).await, "/a/x=3@1/3 /a/ü=<4>@4/4");
    assert_eq!(text_of(&store, "/", At::Exactly(Revision(2))).await, "/a/x=1@1/1 /a/y=2@2/2");
    let mut watch = store.watch(&Range::all("/a/"), Revision(2)).await.unwrap();
    let events = format!("{:?}", watch.next().await.unwrap());
    assert_eq!(events, "[updated /a/x@3 from @1, created /a/ü@4, deleted /a/y@5 from @2]");
    assert_eq!(create(&store, "/a/y", "4").await.modified, Revision(6));
}

/// The log that `store` leaves is below so many bytes, and what was written is found again.
fn check_log(dir: &TempDir, store: DiskStore, newest: Revision, most: u64) {
    let log = std::fs::metadata(dir.path().join("store.db-wal")).unwrap().len();
    assert!(log < most, "{log} bytes, at most {most}");
    drop(store);
    assert_eq!(open(dir.path()).revision(), newest);
}

/// Who writes without a pause leaves the checkpoint thread no moment at which the log could begin anew.
#[tokio::test]
async fn the_write_ahead_log_stays_short_while_writes_go_on() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let text = "x".repeat(256 << 10);
    let mut newest = create(&store, "/a/x", &text).await.modified;
    for _ in 0..320 {
        newest = update(&store, "/a/x", newest, &text).await.modified;
    }
    check_log(&dir, store, newest, 48 << 20);
}

/// Every commit writes several pages, however little it changes.
#[tokio::test]
async fn the_write_ahead_log_stays_short_while_many_small_things_are_written() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let text = "x".repeat(3 << 10);
    let mut newest = Revision(0);
    for n in 0..3000 {
        newest = create(&store, &format!("/a/{n}"), &text).await.modified;
    }
    check_log(&dir, store, newest, 40 << 20);
}

#[tokio::test]
async fn revision_survives_compaction_of_the_newest_deletions() {
    let dir = TempDir::new().unwrap();
    for round in 0..3 {
        let store = open(dir.path());
        assert_eq!(store.revision(), Revision(round * 4), "round {round}");
        for name in ["/a/x", "/a/y"] {
            let created = create(&store, name, "1").await;
            delete(&store, name, created.modified).await;
        }
        store.compact(store.revision()).await.unwrap();
        assert_eq!(text_of(&store, "", At::Latest).await, "", "no row is left that could tell the revision");
    }
    let store = open(dir.path());
    let refused = store.watch(&Range::all("/"), Revision(11)).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Compacted { oldest: Revision(12), .. })), "{refused:?}");
}

#[tokio::test]
async fn file_is_bounded_by_live_data_and_history() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path(), small()).unwrap();
    let value = "v".repeat(4000);
    let mut last = create(&store, "/a/x", &value).await.modified;
    create(&store, "/a/kept", "1").await;
    for _ in 0..3000 {
        last = update(&store, "/a/x", last, &value).await.modified;
    }
    drop(store);
    let size = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    assert!(size < 4 << 20, "12 MB were written, 80 KB are needed, {size} bytes are used");

    let store = DiskStore::open(dir.path(), small()).unwrap();
    assert_eq!(store.revision(), Revision(3002));
    let old = store.list(&Range::all("/a/"), At::Exactly(Revision(2981)), store::Page { limit: 0 }).await;
    assert!(matches!(old, Err(StoreError::Compacted { oldest: Revision(2982), .. })));
    store.compact(Revision(3002)).await.unwrap();
    drop(store);
    let size = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    assert!(size < 128 << 10, "compaction gives pages back, {size} bytes are used");
    let store = open(dir.path());
    assert_eq!(text_of(&store, "/a/kept", At::Latest).await, "/a/kept=1@2/2");
}

#[tokio::test]
async fn commits_go_on_during_compaction() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut last = create(&store, "/a/x", "1").await.modified;
    for _ in 0..1500 {
        last = update(&store, "/a/x", last, "1").await.modified;
    }
    let commit = async {
        tokio::task::yield_now().await;
        for i in 0..20 {
            create(&store, &format!("/b/{i}"), "1").await;
        }
    };
    let (compacted, ()) = futures_util::future::join(store.compact(last), commit).await;
    compacted.unwrap();
    drop(store);
    assert_eq!(open(dir.path()).revision(), Revision(1521));
}

#[tokio::test]
async fn backup_opens_as_a_store_of_its_own() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir.path().join("data"));
    for i in 0..50 {
        create(&store, &format!("/a/{i:02}"), &"x".repeat(1000)).await;
    }
    let to = dir.path().join("backup");
    store.backup(&to).unwrap();
    create(&store, "/a/later", "1").await;
    let again = store.backup(&to).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR");
    expect!["DIR/backup already exists: a backup is made into a new directory"].assert_eq(&again);
    let copy = open(&to);
    assert_eq!(copy.revision(), Revision(50));
    create(&copy, "/a/other", "1").await;
    assert_eq!(text_of(&copy, "/a/", At::Latest).await.split(' ').count(), 51);
    assert!(text_of(&store, "/a/", At::Latest).await.contains("later"));
}

fn check_refused(prepare: impl FnOnce(&Path), expected: Expect) {
    let dir = TempDir::new().unwrap();
    prepare(dir.path());
    let before = files(dir.path());
    let refused = DiskStore::open(dir.path(), Options::default()).map(drop).unwrap_err();
    expected.assert_eq(&base::chain(&refused).replace(&dir.path().display().to_string(), "DIR"));
    let left: Vec<_> = files(dir.path()).into_iter().filter(|(name, _)| !is_scratch(name)).collect();
    let before: Vec<_> = before.into_iter().filter(|(name, _)| !is_scratch(name)).collect();
    assert_eq!(left, before, "a refused directory is not changed");
}

fn is_scratch(name: &Path) -> bool {
    name.ends_with("LOCK") || name.to_string_lossy().ends_with("-shm") || name.to_string_lossy().ends_with("-wal")
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect();
    found.sort();
    found
}

fn with_objects(dir: &Path) -> PathBuf {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open(dir);
    runtime.block_on(async {
        for i in 0..200 {
            create(&store, &format!("/a/{i:03}"), &"needle ".repeat(100)).await;
        }
    });
    dir.join("store.db")
}

#[test]
fn foreign_directory_is_refused() {
    check_refused(
        |dir| std::fs::write(dir.join("photo.jpg"), "").unwrap(),
        expect!["DIR is not a dhow store (it contains photo.jpg): choose an empty or new directory"],
    );
}

#[test]
fn foreign_database_is_refused() {
    let make = |dir: &Path| {
        let db = rusqlite::Connection::open(dir.join("store.db")).unwrap();
        db.execute_batch("CREATE TABLE entry (x); INSERT INTO entry VALUES (1)").unwrap();
    };
    check_refused(
        make,
        expect![[
            r#"DIR/store.db is not a dhow store (a database without an owner): choose an empty or new directory"#
        ]],
    );
}

#[test]
fn newer_layout_is_refused() {
    let make = |dir: &Path| {
        let db = rusqlite::Connection::open(with_objects(dir)).unwrap();
        db.execute_batch("PRAGMA user_version = 7").unwrap();
    };
    check_refused(
        make,
        expect![
            "DIR/store.db has layout 7, this dhow knows up to 1: use the newer dhow, or restore a backup made before the upgrade"
        ],
    );
}

#[test]
fn overwritten_file_is_refused() {
    check_refused(
        |dir| std::fs::write(with_objects(dir), "not a database ".repeat(1000)).unwrap(),
        expect![
            "DIR/store.db is damaged (it is not a database file): restore a backup into an empty directory, or move this directory away to start empty; nothing was changed"
        ],
    );
}

#[test]
fn flipped_bit_in_a_value_is_noticed() {
    let flip = |dir: &Path| {
        let path = with_objects(dir);
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(7).rposition(|window| window == b"needle ").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().write_at(b"N", at as u64).unwrap();
    };
    let dir = TempDir::new().unwrap();
    flip(dir.path());
    let refused = DiskStore::open(dir.path(), Options::default()).map(drop).unwrap_err();
    assert!(matches!(&refused, OpenError::Damaged { found, .. } if found.contains("checksum")), "{refused}");
}

#[test]
fn truncated_file_is_noticed() {
    let dir = TempDir::new().unwrap();
    let path = with_objects(dir.path());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let refused = DiskStore::open(dir.path(), Options::default()).map(drop).unwrap_err();
    assert!(matches!(&refused, OpenError::Damaged { .. }), "{refused}");
}

#[test]
fn lost_database_is_not_taken_for_a_new_one() {
    check_refused(
        |dir| std::fs::write(dir.join("store.db-wal"), "x").unwrap(),
        expect![
            "DIR/store.db is damaged (store.db-wal is there without its store.db): restore a backup into an empty directory, or move this directory away to start empty; nothing was changed"
        ],
    );
}

#[test]
fn unfinished_creation_is_started_over() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("store.db.new"), "half").unwrap();
    std::fs::write(dir.path().join("store.db.new-journal"), "half").unwrap();
    assert_eq!(open(dir.path()).revision(), Revision(0));
}

#[test]
fn second_opener_is_refused_until_the_first_is_gone() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    let refused = DiskStore::open(dir.path(), Options::default()).map(drop).unwrap_err();
    let text = refused.to_string().replace(&dir.path().display().to_string(), "DIR");
    expect![
        "DIR is in use by another process (it holds DIR/LOCK): stop that one first, or choose another data directory"
    ]
    .assert_eq(&text);
    drop(first);
    open(dir.path());
}

/// A tmpfs that is gone when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &str) -> SmallDisk {
        let dir = TempDir::new().unwrap();
        run(&["mount", "-t", "tmpfs", "-o", options, "none", dir.path().to_str().unwrap()]);
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(&["umount", self.0.path().to_str().unwrap()]);
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may use the host's mount")]
fn run(command: &[&str]) {
    let status = std::process::Command::new(command[0]).args(&command[1..]).status().unwrap();
    assert!(status.success(), "{command:?} failed; this test needs root");
}

#[tokio::test]
async fn full_disk_loses_nothing_and_recovers() {
    let disk = SmallDisk::new("size=2m");
    let dir = disk.0.path();
    let store = Arc::new(open(&dir.join("data")));
    std::fs::write(dir.join("filler"), vec![0; 900 << 10]).unwrap();
    let mut acked = Vec::new();
    let refused = loop {
        let name = format!("/a/{:04}", acked.len());
        let op = Op::Create { key: key(&name), value: Value::plain("v".repeat(10_000)) };
        match store.commit(Txn { ops: vec![op] }).await {
            Ok((revision, _)) => acked.push(revision),
            Err(error) => break error,
        }
    };
    let text = refused.to_string().replace(&dir.display().to_string(), "DIR");
    expect!["no space left for DIR/data/store.db: nothing was written; free some space on its file system"]
        .assert_eq(&text);
    assert_eq!(text_of(&*store, "/a/", At::Latest).await.split(' ').count(), acked.len(), "reads go on");
    std::fs::remove_file(dir.join("filler")).unwrap();
    let after = create(&*store, "/a/after", "1").await.modified;
    assert!(after.0 > acked.len() as u64);
    drop(store);
    let store = open(&dir.join("data"));
    assert_eq!(text_of(&store, "/a/", At::Latest).await.split(' ').count(), acked.len() + 1);
}

#[test]
fn no_space_to_create_is_said() {
    let disk = SmallDisk::new("size=16k");
    std::fs::write(disk.0.path().join("filler"), vec![0; 8 << 10]).unwrap();
    let dir = disk.0.path().join("data");
    let refused = DiskStore::open(&dir, Options::default()).map(drop).unwrap_err();
    let text = refused.to_string().replace(&disk.0.path().display().to_string(), "DIR");
    expect![
        "no space left for DIR/data/store.db: free some space on its file system and start again; nothing was lost"
    ]
    .assert_eq(&text);
}

/// Turns letters round; the second kind can read the first's.
#[derive(Debug)]
struct Rot(&'static str);

impl store::Seal for Rot {
    fn seal<'a>(&self, key: &str, value: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>, String> {
        if !key.starts_with("/secrets/") {
            return Ok(value.into());
        }
        let turned = value.iter().map(|b| b ^ 0x55);
        Ok(self.0.bytes().chain(turned).collect::<Vec<_>>().into())
    }

    fn open<'a>(&self, _key: &str, stored: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>, String> {
        match stored.strip_prefix(b"rot:") {
            Some(rest) if rest.len() >= 2 => Ok(rest[2..].iter().map(|b| b ^ 0x55).collect::<Vec<_>>().into()),
            _ => Ok(stored.into()),
        }
    }

    fn is_current(&self, key: &str, stored: &[u8]) -> bool {
        !key.starts_with("/secrets/") || stored.starts_with(self.0.as_bytes())
    }
}

#[test]
fn sealed_values_are_plain_in_memory_only_and_old_ones_are_sealed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = |text: &[u8]| {
        ["store.db", "store.db-wal"].iter().any(|name| {
            let bytes = std::fs::read(dir.path().join(name)).unwrap_or_default();
            bytes.windows(text.len()).any(|w| w == text)
        })
    };
    let key = Key::new("/secrets/a");
    let with =
        |seal: Option<Rot>| Options { seal: seal.map(|s| Arc::new(s) as Arc<dyn store::Seal>), ..Options::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let read = |store: &DiskStore| {
        let found = runtime.block_on(store.get(&key, At::Latest)).unwrap().value.unwrap();
        String::from_utf8(found.value.to_vec()).unwrap()
    };
    let create = |store: &DiskStore, key: &str, text: &'static str| {
        let op = Op::Create { key: Key::new(key), value: Value::plain(text) };
        runtime.block_on(store.commit(Txn { ops: vec![op] })).unwrap();
    };
    let store = DiskStore::open(dir.path(), with(None)).unwrap();
    create(&store, "/secrets/a", "from before");
    drop(store);
    assert!(on_disk(b"from before"));
    for seal in ["rot:1:", "rot:2:"] {
        let store = DiskStore::open(dir.path(), with(Some(Rot(seal)))).unwrap();
        assert_eq!(read(&store), "from before");
        assert!(!on_disk(b"from before"), "{seal}");
        assert!(on_disk(seal.as_bytes()), "{seal}");
        create(&store, if seal == "rot:1:" { "/secrets/b" } else { "/pods/b" }, "written now");
        assert_eq!(on_disk(b"written now"), seal == "rot:2:");
    }
    assert!(!on_disk(b"rot:1:"));
}
