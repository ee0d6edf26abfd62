//! Closed loops: `concurrency` workers, each sending its next request when the last is answered. Open loops: requests at a rate,
//! whatever the answers do. Every answer is checked by the operation itself; the first wrong one ends the loop without a number.

use crate::fail::{Fail, Result, check};
use crate::measure::{Cost, Stretch};
use crate::report::{quantile, us};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::HashSet;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a loop measured.
pub(crate) struct Loop {
    pub(crate) operations: usize,
    pub(crate) cost: Cost,
    /// Microseconds, sorted.
    latency: Vec<f64>,
}

impl Loop {
    /// Server CPU of one operation, in microseconds.
    pub(crate) fn server_us(&self) -> f64 {
        self.cost.server_us / self.operations as f64
    }

    /// The latency, in microseconds, below which `share` of the operations were.
    pub(crate) fn latency(&self, share: f64) -> f64 {
        quantile(&self.latency, share)
    }

    /// Operations that were answered within `limit`.
    pub(crate) fn within(&self, limit: Duration) -> usize {
        self.latency.partition_point(|us| *us <= limit.as_secs_f64() * 1e6)
    }

    /// Everything that is not the main number.
    pub(crate) fn note(&self) -> String {
        let q = |share| us(quantile(&self.latency, share));
        let rate = self.operations as f64 / self.cost.wall.as_secs_f64();
        let client = us(self.cost.client_us / self.operations as f64);
        let foreign = self.cost.foreign * 100.0;
        format!("p50 {}, p99 {}, {rate:.0}/s; client {client}/op; others {foreign:.0} % of the box", q(0.5), q(0.99))
    }
}

/// Runs `operation(index, worker)` for every index below `operations`.
pub(crate) async fn closed<F, Fut>(pids: &[i32], concurrency: usize, operations: usize, operation: F) -> Result<Loop>
where
    F: Fn(usize, usize) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let next = AtomicUsize::new(0);
    let latency = Mutex::new(Vec::with_capacity(operations));
    let worker = |worker: usize| {
        let (next, latency, operation) = (&next, &latency, &operation);
        async move {
            let mut own = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= operations {
                    break;
                }
                let start = Instant::now();
                operation(index, worker).await?;
                own.push(start.elapsed().as_secs_f64() * 1e6);
            }
            latency.lock().map_err(poisoned)?.extend(own);
            Ok::<(), Fail>(())
        }
    };
    let stretch = Stretch::begin(pids);
    // One task: parsing and checking on one core leaves the other to the server.
    futures_all((0..concurrency).map(worker)).await?;
    let cost = stretch.end();
    let mut latency = latency.into_inner().map_err(poisoned)?;
    latency.sort_by(f64::total_cmp);
    Ok(Loop { operations, cost, latency })
}

/// Begins `operation(index, due)` `rate` times a second on average, as strangers do (Poisson). Latency counts from when a request
/// was due, so a client that comes late does not hide what the server made others wait.
pub(crate) async fn open<F, Fut>(
    pids: &[i32],
    rng: &mut StdRng,
    rate: f64,
    operations: usize,
    operation: F,
) -> Result<Loop>
where
    F: Fn(usize, Instant) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let timed = |index: usize, due: Instant| {
        let operation = operation(index, due);
        async move { operation.await.map(|()| due.elapsed().as_secs_f64() * 1e6) }
    };
    let stretch = Stretch::begin(pids);
    let mut running = FuturesUnordered::new();
    let mut latency = Vec::with_capacity(operations);
    let mut due = Instant::now();
    for index in 0..operations {
        due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate);
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()) => break,
                Some(done) = running.next() => latency.push(done?),
            }
        }
        running.push(timed(index, due));
    }
    while let Some(done) = running.next().await {
        latency.push(done?);
    }
    let cost = stretch.end();
    latency.sort_by(f64::total_cmp);
    Ok(Loop { operations, cost, latency })
}

fn poisoned<T>(_: T) -> Fail {
    Fail::Refused { what: "go on".into(), why: "a worker panicked".into() }
}

/// All at once; the first failure ends it.
async fn futures_all<Fut: Future<Output = Result<()>>>(all: impl Iterator<Item = Fut>) -> Result<()> {
    futures_util::future::try_join_all(all).await.map(drop)
}

/// Checks what writes promise: no resource version twice, and one that begins after another was answered has a greater one.
#[derive(Default)]
pub(crate) struct Revisions {
    seen: Mutex<HashSet<u64>>,
    acknowledged: AtomicU64,
}

impl Revisions {
    /// Before a write is sent.
    pub(crate) fn floor(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Others wrote up to here.
    pub(crate) fn reached(&self, revision: u64) {
        self.acknowledged.fetch_max(revision, Ordering::SeqCst);
    }

    /// After it was answered.
    pub(crate) fn answered(&self, floor: u64, revision: u64, what: &str) -> Result<()> {
        check(revision > floor, what, || format!("resourceVersion {revision} after {floor} had been acknowledged"))?;
        let new = self.seen.lock().map_err(poisoned)?.insert(revision);
        check(new, what, || format!("resourceVersion {revision} was given twice"))?;
        self.acknowledged.fetch_max(revision, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_that_goes_back_or_repeats_is_no_number() {
        let r = Revisions::default();
        assert!(r.answered(r.floor(), 5, "x").is_ok());
        assert!(r.answered(r.floor(), 4, "x").is_err());
        assert!(r.answered(3, 5, "x").is_err());
        assert!(r.answered(3, 6, "x").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_does_not_wait_for_answers() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut rng = rand::SeedableRng::seed_from_u64(7);
        let done = open(&[], &mut rng, 1000.0, 20, |_, _| async {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(60)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        });
        let done = done.await.unwrap();
        assert_eq!((done.operations, done.latency.len(), most.into_inner()), (20, 20, 20));
    }

    #[tokio::test]
    async fn every_index_is_done_once_and_the_first_failure_ends_it() {
        let sum = AtomicUsize::new(0);
        let done = closed(&[], 4, 10, |i, _| {
            sum.fetch_add(i, Ordering::Relaxed);
            async { Ok(()) }
        });
        assert_eq!((done.await.unwrap().operations, sum.into_inner()), (10, 45));
        let failed = closed(&[], 4, 10, |i, _| async move { check(i != 3, "x", || "three".into()) }).await;
        assert!(failed.is_err());
    }
}
