//! B6 of PERFORMANCE §4: what watchers that hardly read do to those that do, and what becomes of them. All watch the same fat pods,
//! which are changed at a steady rate; afterwards some resume from a recent revision and some from one that may be forgotten.
//!
//! Checked: a healthy watcher sees every write once and in order; a slow one sees a beginning of that, and then all of it, 410, or
//! a clean end from which it can go on; a resumed one sees exactly the rest, or 410 where history may be gone.

use crate::bystanders;
use crate::fail::{Result, check, refused, wrong};
use crate::http::{JSON, MERGE, Pool, revision};
use crate::load;
use crate::objects::Objects;
use crate::report::{Report, mb, quantile, us};
use crate::watchers::{Kind, Said, Stream};
use http::{Method, StatusCode};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Pods that are changed in turn.
const PODS: usize = 50;
/// What a slow watcher reads in a second.
const SLOW_BYTES: f64 = 1000.0;
/// Events that every server remembers.
const RECENT: usize = 50;

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SlowLoad {
    /// Watchers that read
    #[arg(long, default_value_t = 20)]
    pub(crate) healthy_watchers: usize,
    /// Watchers that read 1 KB a second
    #[arg(long, default_value_t = 20)]
    pub(crate) slow_watchers: usize,
    /// Changes of fat pods a second
    #[arg(long, default_value_t = 100)]
    pub(crate) slow_rate: usize,
    /// Seconds of that without, and with the slow ones
    #[arg(long, default_value_t = 20)]
    pub(crate) slow_seconds: usize,
}

/// What a slow watcher had read when it was over.
struct Crawled {
    revisions: Vec<u64>,
    end: Said,
}

/// What one stretch of writes showed.
struct Stretch {
    /// Where the watches began.
    from: u64,
    /// The revisions of the writes, in order.
    written: Vec<u64>,
    /// Microseconds from when a write was due to its event, sorted.
    latency: Vec<f64>,
    crawled: Vec<Crawled>,
}

struct Bench<'a> {
    pool: &'a Pool,
    pids: &'a [i32],
    load: &'a SlowLoad,
    objects: Objects,
    pods: String,
}

/// Runs it in a namespace of its own, which it removes.
pub(crate) async fn run(pool: &Pool, pids: &[i32], load: &SlowLoad, seed: u64, report: &mut Report) -> Result<()> {
    let namespace = format!("bench-slow-{seed:x}");
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let bench = Bench { pool, pids, load, objects: Objects::new(seed), pods };
    pool.make_namespace(&namespace).await?;
    let result = bench.all(&namespace, seed, report).await;
    pool.delete(&format!("/api/v1/namespaces/{namespace}")).await?;
    result
}

impl Bench<'_> {
    async fn all(&self, namespace: &str, seed: u64, report: &mut Report) -> Result<()> {
        for i in 0..PODS {
            let pod = self.objects.fat_pod(i, namespace).to_string();
            let answer = self.pool.call(i, Method::POST, &self.pods, JSON, pod.into()).await?;
            answer.revision(&self.pods, StatusCode::CREATED)?;
        }
        let first = self.now().await?;
        let mut rng = StdRng::seed_from_u64(seed);
        let alone = self.stretch(0, &mut rng).await?;
        self.add(report, "alone", &alone, String::new());
        let before = bystanders::resident(self.pids);
        let beside = self.stretch(self.load.slow_watchers, &mut rng).await?;
        let after = bystanders::resident(self.pids);
        let memory = match self.pids.is_empty() {
            true => String::new(),
            false => format!("; RSS {} → {}", mb(before), mb(after)),
        };
        let ends = self.check_slow(&beside).await?;
        self.add(
            report,
            &format!("beside {} slow ones", beside.crawled.len()),
            &beside,
            format!("; slow: {ends}{memory}"),
        );
        let written = [alone.written, beside.written].concat();
        self.resumes(&written, first, report).await
    }

    fn add(&self, report: &mut Report, what: &str, stretch: &Stretch, more: String) {
        let q = |share| us(quantile(&stretch.latency, share));
        let note = format!("{} events each, none lost, doubled or out of order{more}", stretch.written.len());
        let what = format!("B6 delivery to {} watchers, {what}", self.load.healthy_watchers);
        report.add("Watch", what, format!("p50 {} · **p99 {}**", q(0.5), q(0.99)), "p99 ≤ 20 ms", note);
    }

    async fn now(&self) -> Result<u64> {
        revision(&self.pool.get(&format!("{}?limit=1", self.pods)).await?, "list")
    }

    /// Writes at the rate while everybody watches.
    async fn stretch(&self, slow: usize, rng: &mut StdRng) -> Result<Stretch> {
        let (from, count) = (self.now().await?, self.load.slow_rate * self.load.slow_seconds);
        let mut healthy = Vec::new();
        for i in 0..self.load.healthy_watchers {
            let stream = Stream::open(self.pool, i, &self.pods, from).await?;
            healthy.push(base::tasks::spawn("healthy-watcher", follow(stream, count)));
        }
        // What a connection holds back, it holds back from all of its streams.
        let apart = self.pool.another()?;
        let hurry = CancellationToken::new();
        let mut slow_ones = Vec::new();
        for i in 0..slow {
            let stream = Stream::open(&apart, i, &self.pods, from).await?;
            slow_ones.push(base::tasks::spawn("slow-watcher", crawl(stream, count, hurry.clone())));
        }
        let due = self.writes(count, rng).await?;
        let written: Vec<u64> = due.iter().map(|(revision, _)| *revision).collect();
        let mut latency = Vec::with_capacity(count * healthy.len());
        for seen in all(healthy).await? {
            check(seen.iter().map(|(revision, _)| revision).eq(&written), "watch", || {
                "the events are not the writes".into()
            })?;
            let late = seen.iter().zip(&due).map(|((_, at), (_, due))| at.saturating_duration_since(*due));
            latency.extend(late.map(|late| late.as_secs_f64() * 1e6));
        }
        latency.sort_by(f64::total_cmp);
        hurry.cancel();
        Ok(Stretch { from, written, latency, crawled: all(slow_ones).await? })
    }

    /// The revisions of the writes in order, and when each was due.
    async fn writes(&self, count: usize, rng: &mut StdRng) -> Result<Vec<(u64, Instant)>> {
        let done = Mutex::new(Vec::with_capacity(count));
        let (rate, lap) = (self.load.slow_rate as f64, self.now().await?);
        load::open(self.pids, rng, rate, count, |i, due| {
            let done = &done;
            async move {
                let path = format!("{}/{}", self.pods, self.objects.name(i % PODS));
                let patch = json!({"metadata": {"annotations": {"lap": format!("{lap}-{i}")}}});
                let answer = self.pool.call(i, Method::PATCH, &path, MERGE, patch.to_string().into()).await?;
                let revision = answer.revision(&path, StatusCode::OK)?;
                done.lock().map_err(|_| wrong("a loop", "a worker panicked"))?.push((revision, due));
                Ok(())
            }
        })
        .await?;
        let mut done = done.into_inner().map_err(|_| wrong("a loop", "a worker panicked"))?;
        done.sort_unstable();
        Ok(done)
    }

    /// That the slow ones saw a beginning of what was written; how they ended.
    async fn check_slow(&self, stretch: &Stretch) -> Result<String> {
        let (mut whole, mut expired, mut ended) = (0, 0, 0);
        for crawled in &stretch.crawled {
            let count = crawled.revisions.len();
            check(stretch.written.starts_with(&crawled.revisions), "a slow watch", || {
                format!("its {count} events are not those that were written first")
            })?;
            match crawled.end {
                Said::Expired => expired += 1,
                Said::Ended => {
                    let (seen, rest) = stretch.written.split_at(count);
                    let from = seen.last().copied().unwrap_or(stretch.from);
                    replay(self.pool, &self.pods, from, rest).await?;
                    ended += 1;
                }
                Said::Event(..) => whole += 1,
            }
        }
        Ok(format!("{expired} ended with 410, {ended} were closed, {whole} saw everything"))
    }

    /// Resumes from a recent revision, and from the first.
    async fn resumes(&self, written: &[u64], first: u64, report: &mut Report) -> Result<()> {
        let recent = written.len().saturating_sub(RECENT + 1);
        let from = written.get(recent).copied().ok_or_else(|| wrong("a resumed watch", "nothing was written"))?;
        for _ in 0..self.load.healthy_watchers {
            let whole = replay(self.pool, &self.pods, from, &written[recent + 1..]).await?;
            check(whole, "a resumed watch", || format!("410 for one of the last {RECENT} events"))?;
        }
        let mut gone = 0;
        let old = self.load.healthy_watchers.div_ceil(2);
        for _ in 0..old {
            gone += usize::from(!replay(self.pool, &self.pods, first, written).await?);
        }
        let note = format!("{} from a recent revision saw exactly the rest", self.load.healthy_watchers);
        report.add(
            "Watch",
            "B6 resume from before all writes",
            format!("**{gone} of {old}** got 410"),
            "410 or all",
            note,
        );
        Ok(())
    }
}

async fn all<T>(tasks: Vec<JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    let mut done = Vec::with_capacity(tasks.len());
    for task in tasks {
        done.push(task.await.map_err(refused("wait for a watcher"))??);
    }
    Ok(done)
}

/// Reads as fast as it comes.
async fn follow(mut stream: Stream, count: usize) -> Result<Vec<(u64, Instant)>> {
    let mut seen = Vec::with_capacity(count);
    while seen.len() < count {
        match stream.next().await? {
            Said::Event(Kind::Modified, revision) => seen.push((revision, Instant::now())),
            other => return Err(wrong("watch", format!("{other:?} instead of MODIFIED"))),
        }
    }
    Ok(seen)
}

/// Reads slowly until `hurry`, then as fast as it comes.
async fn crawl(mut stream: Stream, count: usize, hurry: CancellationToken) -> Result<Crawled> {
    while !hurry.is_cancelled() {
        let piece = tokio::select! {
            piece = stream.more() => piece?,
            () = hurry.cancelled() => break,
        };
        let Some(bytes) = piece else { break };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / SLOW_BYTES)) => {}
            () = hurry.cancelled() => {}
        }
    }
    let mut revisions = Vec::new();
    loop {
        let said = stream.next().await?;
        if let Said::Event(_, revision) = said {
            revisions.push(revision);
        }
        if revisions.len() == count || !matches!(said, Said::Event(..)) {
            return Ok(Crawled { revisions, end: said });
        }
    }
}

/// Whether a watch from `from` begins with `expected`, nothing left out and nothing in between; if not, it must say 410.
async fn replay(pool: &Pool, path: &str, from: u64, expected: &[u64]) -> Result<bool> {
    let mut stream = Stream::open(pool, 0, path, from).await?;
    for wanted in expected {
        match stream.next().await? {
            Said::Event(_, revision) if revision == *wanted => {}
            Said::Expired => return Ok(false),
            other => return Err(wrong("a resumed watch", format!("{other:?} instead of revision {wanted}"))),
        }
    }
    Ok(true)
}
