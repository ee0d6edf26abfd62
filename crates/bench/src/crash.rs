//! B15 of PERFORMANCE §4: the server is killed while it writes, again and again, and started anew; and it is started from copies of
//! its store whose log was cut at many places, as a power failure leaves it.
//!
//! Checked: every write that was acknowledged is there as it was answered, what was deleted stays away, and no revision comes twice or goes back; of
//! a cut log what is left is a beginning of the history, all of it if nothing was cut off, and not all if much was.

use crate::fail::{Fail, Result, check, io, wrong};
use crate::http::{JSON, Pool, revision};
use crate::load::{self, Revisions};
use crate::measure;
use crate::report::{Report, mb, spread};
use crate::servers::{Server, directory};
use futures_util::future::join_all;
use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Works in here.
const NAMESPACE: &str = "bench-crash";
const OBJECTS: &str = "/api/v1/namespaces/bench-crash/configmaps";
/// Places at which the log is cut are in this much of its end: some commits of many writers, of which nobody was told of the last one.
const TAIL: usize = 256 << 10;
/// The store's log.
const LOG: &str = "store.db-wal";
const LOG_INDEX: &str = "store.db-shm";
/// When there are more, all are deleted: a thousand lives write millions.
const LIVE: usize = 50_000;

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CrashLoad {
    /// Objects that are there before
    #[arg(long, default_value_t = 2000)]
    pub(crate) crash_objects: usize,
    /// Times that the server is killed
    #[arg(long, default_value_t = 10)]
    pub(crate) kills: usize,
    /// Writers meanwhile
    #[arg(long, default_value_t = 64)]
    pub(crate) crash_writers: usize,
    /// Places at which the log is cut
    #[arg(long, default_value_t = 16)]
    pub(crate) cuts: usize,
}

/// What was answered over all lives of the server.
#[derive(Default)]
struct Acknowledged {
    /// Name and revision, of what was not deleted since.
    objects: Mutex<BTreeMap<String, u64>>,
    /// How many were ever made.
    made: AtomicUsize,
    /// When all were deleted last, as a revision.
    emptied: AtomicU64,
    revisions: Revisions,
    names: AtomicUsize,
}

/// The API server alone, in a directory of its own, which goes with it.
pub(crate) async fn run(load: &CrashLoad, seed: u64, report: &mut Report) -> Result<()> {
    let dir = directory()?;
    let acked = Acknowledged::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = Server::alone(dir.path())?;
    let pool = server.pool()?;
    pool.make_namespace(NAMESPACE).await?;
    load::closed(&[], 64, load.crash_objects, |_, worker| create(&pool, worker, &acked)).await?;
    let (mut starts, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..load.kills {
        killed_while_writing(&mut server, load, &acked, &mut rng).await?;
        server = restarted(dir.path(), &acked, &mut starts, &mut reads).await?;
    }
    let memory = measure::memory(server.pid());
    killed_while_writing(&mut server, load, &acked, &mut rng).await?;
    let (store, mut kills) = (dir.path().join("store"), load.kills + 1);
    // Right after a checkpoint the log says nothing that the database does not: cutting it would take nothing away.
    while !log_counts(&store)? {
        server = restarted(dir.path(), &acked, &mut starts, &mut reads).await?;
        killed_while_writing(&mut server, load, &acked, &mut rng).await?;
        kills += 1;
    }
    // What the last life left is read below.
    cuts(&store, load, &acked, report).await?;
    let (count, made) = (acked.objects.lock().map_err(poisoned)?.len(), acked.made.load(Ordering::SeqCst));
    let note = format!("{made} acknowledged; no revision twice; {} after the last start", mb(memory.rss));
    report.add("Crash", format!("B15 killed {kills} times: lost writes"), "**0**", "0", note);
    let note = format!("{} objects at the end; the process starts in {}", count, spread(starts));
    let target = "≤ 50 ms + 10 ms per 10,000 objects";
    report.add("Crash", "B15 killed → first consistent read", spread(reads), target, note);
    Ok(())
}

/// Writers without pause, and a kill in between.
async fn killed_while_writing(
    server: &mut Server,
    load: &CrashLoad,
    acked: &Acknowledged,
    rng: &mut StdRng,
) -> Result<()> {
    let pool = server.pool()?;
    let dead = AtomicBool::new(false);
    let writer = |worker: usize| {
        let (pool, dead) = (&pool, &dead);
        async move {
            loop {
                match create(pool, worker, acked).await {
                    Ok(()) => {}
                    // Nobody answers any more.
                    Err(Fail::Refused { .. }) if dead.load(Ordering::SeqCst) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
    };
    let kill = async {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..500))).await;
        dead.store(true, Ordering::SeqCst);
        server.kill()
    };
    let (written, killed) = tokio::join!(join_all((0..load.crash_writers).map(writer)), kill);
    killed?;
    written.into_iter().collect()
}

/// Starts it again, and compares what is there with what was answered.
async fn restarted(dir: &Path, acked: &Acknowledged, starts: &mut Vec<f64>, reads: &mut Vec<f64>) -> Result<Server> {
    let start = Instant::now();
    let server = Server::alone(dir)?;
    let pool = server.pool()?;
    pool.get(&format!("{OBJECTS}?limit=1")).await?;
    reads.push(start.elapsed().as_secs_f64() * 1e6);
    starts.push(server.started_in.as_secs_f64() * 1e6);
    let (at, found) = everything(&pool).await?;
    let floor = acked.revisions.floor();
    check(at >= floor, "the list after a kill", || format!("it is of revision {at}, and {floor} was acknowledged"))?;
    for (name, revision) in acked.objects.lock().map_err(poisoned)?.iter() {
        let there = found.get(name);
        check(there == Some(revision), "the list after a kill", || {
            format!("{name} was acknowledged at {revision}, and is there at {there:?}")
        })?;
    }
    let emptied = acked.emptied.load(Ordering::SeqCst);
    let back = found.iter().find(|(_, revision)| **revision <= emptied);
    check(back.is_none(), "the list after a kill", || format!("{back:?} is there, but was deleted at {emptied}"))?;
    // What was written but not answered before the kill has used its revision, too.
    acked.revisions.reached(at);
    if found.len() > LIVE {
        empty(&pool, acked).await?;
    }
    create(&pool, 0, acked).await?;
    Ok(server)
}

async fn create(pool: &Pool, worker: usize, acked: &Acknowledged) -> Result<()> {
    let name = format!("c-{}", acked.names.fetch_add(1, Ordering::SeqCst));
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "0123456789"}});
    let floor = acked.revisions.floor();
    let answer = pool.call(worker, Method::POST, OBJECTS, JSON, object.to_string().into()).await?;
    let revision = answer.revision(OBJECTS, StatusCode::CREATED)?;
    acked.revisions.answered(floor, revision, OBJECTS)?;
    acked.objects.lock().map_err(poisoned)?.insert(name, revision);
    acked.made.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Deletes all of them.
async fn empty(pool: &Pool, acked: &Acknowledged) -> Result<()> {
    let answer = pool.call(0, Method::DELETE, OBJECTS, JSON, Default::default()).await?;
    check(answer.status == StatusCode::OK, OBJECTS, || format!("deleting all was answered with {}", answer.status))?;
    let (at, left) = everything(pool).await?;
    check(left.is_empty(), OBJECTS, || format!("{} are left after all were deleted", left.len()))?;
    acked.objects.lock().map_err(poisoned)?.clear();
    acked.emptied.store(at, Ordering::SeqCst);
    acked.revisions.reached(at);
    Ok(())
}

/// The list's revision, and the objects' by name.
async fn everything(pool: &Pool) -> Result<(u64, BTreeMap<String, u64>)> {
    let list = pool.get(OBJECTS).await?;
    let mut found = BTreeMap::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        found.insert(name, revision(item, "an object of a list")?);
    }
    Ok((revision(&list, OBJECTS)?, found))
}

/// Starts from copies of `store`, the first whole, the others with a log that ends early.
async fn cuts(store: &Path, load: &CrashLoad, acked: &Acknowledged, report: &mut Report) -> Result<()> {
    let log = std::fs::read(store.join(LOG)).map_err(io("read the store's log"))?;
    let end = written_end(&log);
    let acknowledged = acked.objects.lock().map_err(poisoned)?.clone();
    let (mut most_lost, step) = (0, TAIL.min(end) / load.cuts.max(1));
    for i in 0..=load.cuts {
        let copy = directory()?;
        let to = copy.path().join("store");
        copy_files(store, &to)?;
        // An odd place each: within pages, and within their heads.
        let length = end - (step * i).saturating_sub(i % step.max(1)).min(end);
        std::fs::write(to.join(LOG), &log[..length]).map_err(io("cut the store's log"))?;
        let server = Server::alone(copy.path())?;
        let (at, found) = everything(&server.pool()?).await?;
        let what = format!("the list after a cut at {length} of {end} bytes");
        let newest = found.values().max().copied().unwrap_or_default();
        check(newest <= at, &what, || format!("an object of revision {newest} in a list of {at}"))?;
        let hole =
            acknowledged.iter().find(|(name, revision)| **revision <= newest && found.get(*name) != Some(revision));
        check(hole.is_none(), &what, || format!("{hole:?} is missing, but {newest} is there"))?;
        let lost = acknowledged.values().filter(|revision| **revision > newest).count();
        check(i > 0 || lost == 0, &what, || format!("{lost} acknowledged writes are missing"))?;
        most_lost = most_lost.max(lost);
        server.stop()?;
    }
    let is_felt = load.cuts == 0 || most_lost > 0;
    check(is_felt, "the cuts of the log", || "none of them lost a write, so they cut what does not count".to_owned())?;
    let note = format!(
        "in the last {} of the log; what was cut off is gone, at most {most_lost} writes",
        mb(step as u64 * load.cuts as u64)
    );
    report.add(
        "Crash",
        "B15 log cut: starts with a beginning of the history",
        format!("**{} of {0}**", load.cuts),
        "all",
        note,
    );
    Ok(())
}

/// Whether there is something in the log that is not in the database: its newest frame (`mxFrame`) is beyond those that a checkpoint copied
/// (`nBackfill`; sqlite.org/walformat.html, section 2.1).
fn log_counts(store: &Path) -> Result<bool> {
    let index = std::fs::read(store.join(LOG_INDEX)).map_err(io("read the index of the store's log"))?;
    let number = |at: usize| {
        let bytes = index.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(|| wrong("the index of the store's log", "it is too short"))
    };
    Ok(number(16)? > number(96)?)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let what = || io("copy the store");
    std::fs::create_dir(to).map_err(what())?;
    for entry in std::fs::read_dir(from).map_err(what())? {
        let entry = entry.map_err(what())?;
        if entry.file_type().map_err(what())?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(what())?;
        }
    }
    Ok(())
}

/// Where the newest frame of a log of SQLite ends: later ones are of an earlier turn, which have another salt
/// (sqlite.org/fileformat2.html, section 4.1).
fn written_end(log: &[u8]) -> usize {
    const HEADER: usize = 32;
    const FRAME: usize = 24;
    let (Some(page), Some(salt)) = (log.get(8..12), log.get(16..24)) else { return log.len() };
    let page = page.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let frames = log.get(HEADER..).unwrap_or_default().chunks_exact(FRAME + page);
    HEADER + frames.take_while(|frame| &frame[8..16] == salt).count() * (FRAME + page)
}

fn poisoned<T>(_: T) -> Fail {
    wrong("a loop", "a worker panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_where_an_older_turn_begins() {
        let frame = |salt: &[u8; 8]| [&[0; 8][..], salt, &[0; 8], &[1; 512]].concat();
        let header = [&[0; 8][..], &512u32.to_be_bytes(), &[0; 4], b"saltsalt", &[0; 8]].concat();
        let log = [header, frame(b"saltsalt"), frame(b"saltsalt"), frame(b"oldoldol")].concat();
        assert_eq!((written_end(&log), written_end(b"short")), (32 + 2 * 536, 5));
    }
}
