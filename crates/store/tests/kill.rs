//! 200 times ([`MORE`] says how often else): a child process writes under load, is killed with SIGKILL, and the store is
//! opened again. No acknowledged write is lost, none is half applied, no revision is used twice. The same for a log whose
//! last transaction is torn at every byte, or has a wrong bit in any.
//!
//! The child is this test binary itself, running [`child`] with the directory in its environment. It says `try` before
//! and `ack` after every commit on its standard output.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use store::{At, DiskStore, Key, Limits, Op, Options, Revision, Store, Txn, Value};
use tempfile::TempDir;

const DIRECTORY: &str = "DHOW_STORE_KILL_TEST_DIRECTORY";
const KILLS: u32 = 200;
const MORE: &str = "DHOW_KILLS";
/// Writers in the child, so that groups have several transactions.
const WRITERS: u64 = 16;
/// Small, so that slices are deleted all the time.
const OPTIONS: Options = Options { limits: Limits { events: 300, bytes: 1 << 20 }, seal: None };

#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return; // Not the child: the parent is the test.
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = DiskStore::open(Path::new(&dir), OPTIONS).unwrap();
        say("\n"); // The harness has begun a line.
        futures_util::future::join_all((0..WRITERS).map(|writer| write_for_ever(&store, writer))).await;
    });
}

fn say(line: &str) {
    // One write call: a kill does not tear it, it is shorter than a pipe's atomic size.
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Each step, in one transaction: the counter goes up, its mirror too, and a third key comes and goes.
async fn write_for_ever(store: &DiskStore, writer: u64) {
    let keys = ["counter", "mirror", "flag"].map(|name| Key::new(format!("/w/{writer}/{name}")));
    loop {
        let mut ops = Vec::new();
        let mut counter = 0;
        for key in &keys {
            let there = store.get(key, At::Latest).await.unwrap().value;
            let expected = there.as_ref().map(|entry| entry.modified);
            if *key == keys[0] {
                counter = there.map_or(0, |entry| parse(&entry.value)) + 1;
            }
            // The mirror has its number behind much text, so that a transaction touches several pages.
            let padding = if *key == keys[1] { " ".repeat(3000) } else { String::new() };
            let value = Value::plain(format!("{padding}{counter}"));
            ops.push(match expected {
                None => Op::Create { key: key.clone(), value },
                Some(expected) if *key == keys[2] => Op::Delete { key: key.clone(), expected, last: value },
                Some(expected) => Op::Update { key: key.clone(), expected, value },
            });
        }
        say(&format!("try {writer} {counter}\n"));
        let (revision, _) = store.commit(Txn { ops }).await.unwrap();
        say(&format!("ack {writer} {counter} {}\n", revision.0));
    }
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().trim().parse().unwrap()
}

/// What the parent knows.
#[derive(Default)]
struct Known {
    tried: HashMap<u64, u64>,
    acked: HashMap<u64, u64>,
    /// Highest revision that was ever shown to anybody.
    revision: u64,
    acks: u64,
}

impl Known {
    /// `seen`: the revisions of this life.
    fn hear(&mut self, line: &str, born_at: u64) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words[i].parse::<u64>().unwrap();
        match words.first() {
            Some(&"try") => drop(self.tried.insert(number(1), number(2))),
            Some(&"ack") => {
                assert_eq!(self.tried[&number(1)], number(2));
                self.acked.insert(number(1), number(2));
                assert!(number(3) > born_at, "revision {} was used before", number(3));
                self.revision = self.revision.max(number(3));
                self.acks += 1;
            }
            _ => {} // The test harness talks too.
        }
    }
}

/// How many kills were asked for.
fn kills() -> u32 {
    let asked = std::env::var_os(MORE);
    asked.map_or(KILLS, |asked| asked.to_str().and_then(|text| text.parse().ok()).expect("DHOW_KILLS is a number"))
}

#[test]
fn acknowledged_writes_survive_kills() {
    let kills = kills();
    let dir = TempDir::new().unwrap();
    let mut known = Known::default();
    let start = Instant::now();
    for kill in 0..kills {
        let born_at = known.revision;
        live_and_die(dir.path(), &mut known, born_at, u64::from(kill));
        check(dir.path(), &mut known);
    }
    assert!(known.acks > u64::from(kills), "only {} writes were acknowledged: nothing was tested", known.acks);
    eprintln!("{kills} kills, {} acknowledged transactions, {:?}", known.acks, start.elapsed());
}

#[expect(clippy::disallowed_methods, reason = "a test may start its own binary")]
fn live_and_die(dir: &Path, known: &mut Known, born_at: u64, kill: u64) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // From the first commit on, one more pseudo-random while of up to 30 ms (every tenth is killed before it writes).
    let mut lines_left = if kill % 10 == 9 { 1 } else { 2 };
    let mut deadline = None;
    while deadline.is_none_or(|deadline| Instant::now() < deadline) {
        line.clear();
        if said.read_line(&mut line).unwrap() == 0 {
            panic!("the child ended by itself: {:?}", child.wait());
        }
        known.hear(&line, born_at);
        if line.starts_with("try") || line.starts_with("ack") || kill % 10 == 9 {
            lines_left -= 1;
        }
        if lines_left == 0 {
            deadline = Some(Instant::now() + Duration::from_micros(kill * 7919 % 30_000));
            lines_left = u32::MAX;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    // The last line may be torn; whole ones count.
    rest.split_inclusive('\n').filter(|line| line.ends_with('\n')).for_each(|line| known.hear(line, born_at));
}

fn check(dir: &Path, known: &mut Known) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = DiskStore::open(dir, OPTIONS).expect("opens after a kill");
    assert!(store.revision().0 >= known.revision, "an acknowledged revision is gone");
    known.revision = store.revision().0;
    runtime.block_on(async {
        for writer in 0..WRITERS {
            let read = |name: &str| {
                let key = Key::new(format!("/w/{writer}/{name}"));
                let store = &store;
                async move { store.get(&key, At::Latest).await.unwrap().value }
            };
            let (counter, mirror, flag) = (read("counter").await, read("mirror").await, read("flag").await);
            let number = counter.as_ref().map_or(0, |entry| parse(&entry.value));
            let acked = known.acked.get(&writer).copied().unwrap_or(0);
            let tried = known.tried.get(&writer).copied().unwrap_or(0);
            assert!((acked..=tried).contains(&number), "writer {writer}: {number}, acked {acked}, tried {tried}");
            assert_eq!(mirror.map_or(0, |entry| parse(&entry.value)), number, "half a transaction of writer {writer}");
            assert_eq!(flag.is_some(), number % 2 == 1, "half a transaction of writer {writer}");
            assert!(counter.is_none_or(|entry| entry.modified <= Revision(known.revision)));
        }
    });
}

/// One transaction on three keys, on more than one page.
async fn commit_round(store: &DiskStore, round: u64) -> Revision {
    let mut ops = Vec::new();
    for name in ["a", "b", "c"] {
        let key = Key::new(format!("/t/{name}"));
        let value = Value::plain(format!("{}{round}", " ".repeat(500)));
        ops.push(match store.get(&key, At::Latest).await.unwrap().value {
            None => Op::Create { key, value },
            Some(there) => Op::Update { key, expected: there.modified, value },
        });
    }
    store.commit(Txn { ops }).await.unwrap().0
}

/// What a crash left behind, to be opened with this and that log.
struct Crashed {
    /// Without what is made anew (the log's shared memory) or its owner's (the lock).
    files: Vec<(String, Vec<u8>)>,
    /// What the last transaction but one left.
    kept: usize,
    acked: Revision,
    /// With the last transaction.
    log: Vec<u8>,
    last: Revision,
}

impl Crashed {
    /// After five rounds and, in the log alone, a sixth.
    async fn make() -> Self {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path(), OPTIONS).unwrap();
        for round in 1..=5 {
            commit_round(&store, round).await;
        }
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let (kept, acked) = (read("store.db-wal").len(), store.revision());
        let last = commit_round(&store, 6).await;
        Crashed { files: vec![("store.db".into(), read("store.db"))], kept, acked, log: read("store.db-wal"), last }
    }

    /// What the store shows after it was opened with this log: the rounds of the three keys, and the revision.
    async fn open(&self, log: &[u8], goes_on: bool) -> ([u64; 3], Revision) {
        let dir = in_memory();
        for (name, content) in &self.files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        std::fs::write(dir.path().join("store.db-wal"), log).unwrap();
        let store = DiskStore::open(dir.path(), OPTIONS).expect("opens with a torn log");
        let mut rounds = [0; 3];
        for (round, name) in rounds.iter_mut().zip(["a", "b", "c"]) {
            let there = store.get(&Key::new(format!("/t/{name}")), At::Latest).await.unwrap().value;
            *round = parse(&there.expect("an acknowledged key").value);
        }
        let revision = store.revision();
        if goes_on {
            assert!(commit_round(&store, 99).await > revision, "revisions go on");
        }
        (rounds, revision)
    }

    /// Cuts the last transaction at every byte of `part`, and turns a bit of the byte instead: both times it did not happen.
    async fn tear(&self, part: impl Iterator<Item = usize>) -> usize {
        let before = ([5; 3], self.acked);
        let mut flipped = self.log.clone();
        let mut torn = 0;
        for at in part {
            let goes_on = at % 64 == 0;
            assert_eq!(self.open(&self.log[..at], goes_on).await, before, "the log was cut at byte {at}");
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(self.open(&flipped, goes_on).await, before, "a bit of byte {at} of the log was another");
            flipped[at] = self.log[at];
            torn += 1;
        }
        torn
    }
}

/// Where syncing costs nothing, if there is such a place: what is tested is what is read.
fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_log_torn_at_any_byte_loses_nothing_that_was_acknowledged_before() {
    let crashed = runtime().block_on(Crashed::make());
    let (kept, end) = (crashed.kept, crashed.log.len());
    assert!(kept < end, "the last transaction is in the log");
    let torn: usize = std::thread::scope(|scope| {
        let half = |first: usize| {
            let crashed = &crashed;
            scope.spawn(move || runtime().block_on(crashed.tear((kept + first..end).step_by(2))))
        };
        [half(0), half(1)].map(|thread| thread.join().unwrap()).into_iter().sum()
    });
    assert_eq!(torn, end - kept);
    assert_eq!(runtime().block_on(crashed.open(&crashed.log, true)), ([6; 3], crashed.last));
}
