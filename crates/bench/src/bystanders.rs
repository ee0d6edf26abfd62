//! B5 and B16 of PERFORMANCE §4: watchers that see nothing, what a write costs beside them and what memory they take; and what
//! stored pods take of it.

use crate::api::Bench;
use crate::fail::{Result, check};
use crate::http::{CONNECTIONS, JSON, Pool, revision};
use crate::load::closed;
use crate::measure;
use crate::report::{Report, mb, us};
use bytes::Bytes;
use http::{Method, StatusCode};

/// Pods made without and with the bystanders.
const WRITES: usize = 300;
/// Where their names begin: nobody else's pods have these.
const FIRST: usize = 20_000_000;

/// The same creates without and with watchers of nodes on which nothing happens.
pub(crate) async fn run(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let namespace = bench.namespace(bench.load.namespaces);
    let create = |from: usize| {
        let namespace = &namespace;
        closed(bench.pids, 1, WRITES, move |i, worker| async move {
            bench.create(FIRST + from + i, worker, namespace).await.map(drop)
        })
    };
    let without = create(0).await?;
    let at = revision(&bench.pool.get(&format!("/api/v1/namespaces/{namespace}/pods?limit=1")).await?, "list")?;
    let mut open = Vec::with_capacity(bench.load.watchers);
    for i in 0..bench.load.watchers {
        // As a node's agent watches its pods.
        let path = format!("/api/v1/pods?watch=1&resourceVersion={at}&fieldSelector=spec.nodeName%3Dbystander-{i}");
        let response = bench.pool.send(i, Method::GET, &path, JSON, Bytes::new()).await?;
        check(response.status() == StatusCode::OK, &path, || response.status().to_string())?;
        open.push(response);
    }
    let with = create(WRITES).await?;
    let each = (with.server_us() - without.server_us()) / open.len() as f64;
    let note = format!(
        "{} watchers of other nodes; creates {} → {}; {}",
        open.len(),
        us(without.server_us()),
        us(with.server_us()),
        with.note()
    );
    report.add(
        "API",
        "B5 write beside a watcher that does not see it",
        format!("**{}**", us(each)),
        "≤ 0.05 of a write",
        note,
    );
    Ok(())
}

/// What idle watches take that share connections, and those that have one each. Of a fresh server: later there is memory that others
/// gave back.
pub(crate) async fn memory_of_watches(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    if bench.pids.is_empty() {
        return Ok(());
    }
    let path = format!("/api/v1/namespaces/{}/configmaps", bench.namespace(0));
    let at = revision(&bench.pool.get(&format!("{path}?limit=1")).await?, "list")?;
    let path = format!("{path}?watch=1&resourceVersion={at}");
    // Watches on each connection, connections, whether these are there before.
    let cases = [("on shared connections", 250, CONNECTIONS, true, "≤ 3 KB"), ("on its own", 1, 200, false, "≤ 16 KB")];
    for (name, watches, connections, warm, target) in cases {
        let pools: Vec<Pool> = (0..connections / CONNECTIONS).map(|_| bench.pool.another()).collect::<Result<_>>()?;
        let all = || pools.iter().flat_map(|pool| (0..CONNECTIONS).map(move |worker| (pool, worker)));
        for (pool, worker) in all().filter(|_| warm) {
            pool.call(worker, Method::GET, "/version", JSON, Bytes::new()).await?;
        }
        let before = dirty(bench.pids);
        let mut open = Vec::with_capacity(watches * connections);
        for (pool, worker) in (0..watches).flat_map(|_| all()) {
            let response = pool.send(worker, Method::GET, &path, JSON, Bytes::new()).await?;
            check(response.status() == StatusCode::OK, &path, || response.status().to_string())?;
            open.push(response);
        }
        let now = dirty(bench.pids);
        let each = now.saturating_sub(before) as f64 / open.len() as f64 / 1000.0;
        let note = format!(
            "private dirty {} → {} by {} watches on {connections} HTTP/2 connections over TLS",
            mb(before),
            mb(now),
            open.len()
        );
        report.add("API", format!("B16 memory per idle watch {name}"), format!("**{each:.1} KB**"), target, note);
    }
    Ok(())
}

fn dirty(pids: &[i32]) -> u64 {
    pids.iter().map(|pid| measure::memory(*pid).private_dirty).sum()
}

/// What the stored pods take: `before` is what was resident without them.
pub(crate) fn memory_of_pods(bench: &Bench<'_>, before: u64, report: &mut Report) {
    if bench.pids.is_empty() {
        return;
    }
    let now = resident(bench.pids);
    let each = now.saturating_sub(before) as f64 / bench.load.objects as f64 / 1000.0;
    let note = format!("RSS {} → {} by {} pods", mb(before), mb(now), bench.load.objects);
    report.add("API", "B16 memory per pod", format!("**{each:.1} KB**"), "≤ 1/7 of the peer's", note);
}

/// Memory of all processes of the server.
pub(crate) fn resident(pids: &[i32]) -> u64 {
    pids.iter().map(|pid| measure::memory(*pid).rss).sum()
}
