//! Many watches on one namespace. Each stream is replayed: only ADDED, no object twice, resource versions rising, the same
//! sequence for everybody.

use crate::fail::{Fail, Result, check, refused, wrong};
use crate::http::{JSON, Pool};
use bytes::Bytes;
use client::Body;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Open watches.
pub(crate) struct Watchers {
    tasks: Vec<JoinHandle<Result<Seen>>>,
}

struct Seen {
    revisions: Vec<u64>,
    last: Instant,
}

/// A stream that is silent for so long has lost an event.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    object: Head,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    resource_version: String,
}

impl Watchers {
    /// Opens `count` watches from `revision`, each of which will wait for `events`; returns when all are open.
    pub(crate) async fn start(
        pool: &Pool,
        namespace: &str,
        revision: u64,
        count: usize,
        events: usize,
    ) -> Result<Self> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?watch=1&resourceVersion={revision}");
        let mut tasks = Vec::with_capacity(count);
        for i in 0..count {
            let response = pool.send(i, Method::GET, &path, JSON, Bytes::new()).await?;
            check(response.status() == StatusCode::OK, &path, || response.status().to_string())?;
            tasks.push(base::tasks::spawn("watcher", read(response.into_body(), revision, events)));
        }
        Ok(Watchers { tasks })
    }

    /// Waits for all events of all; returns when the last one came.
    pub(crate) async fn finish(self) -> Result<Instant> {
        let mut all: Vec<Seen> = Vec::with_capacity(self.tasks.len());
        for task in self.tasks {
            all.push(task.await.map_err(refused("wait for a watcher"))??);
        }
        let first = all.first().ok_or_else(|| wrong("watch", "no watcher"))?;
        let same = all.iter().all(|s| s.revisions == first.revisions);
        check(same, "watch", || "two watchers saw different sequences".into())?;
        Ok(all.iter().map(|s| s.last).max().unwrap_or(first.last))
    }
}

async fn read(mut body: Body, from: u64, events: usize) -> Result<Seen> {
    let mut seen = Seen { revisions: Vec::with_capacity(events), last: Instant::now() };
    let mut buffer: Vec<u8> = Vec::new();
    while seen.revisions.len() < events {
        let silent =
            |_| wrong("watch", format!("{} of {events} events after {PATIENCE:?} of silence", seen.revisions.len()));
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.map_err(silent)?;
        let frame = frame.ok_or_else(|| wrong("watch", "the stream ended"))?;
        let frame = frame.map_err(|e| Fail::Refused { what: "read a watch".into(), why: e.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        seen.last = Instant::now();
        buffer.extend_from_slice(&data);
        let mut start = 0;
        while let Some(length) = buffer[start..].iter().position(|b| *b == b'\n') {
            let revision = parse(&buffer[start..start + length])?;
            let last = seen.revisions.last().copied().unwrap_or(from);
            check(revision > last, "watch", || format!("event of {revision} after {last}"))?;
            seen.revisions.push(revision);
            start += length + 1;
        }
        buffer.drain(..start);
    }
    Ok(seen)
}

fn parse(line: &[u8]) -> Result<u64> {
    let event: Event<'_> = serde_json::from_slice(line).map_err(|e| wrong("watch", e))?;
    check(event.kind == "ADDED", "watch", || format!("{} instead of ADDED", event.kind))?;
    event.object.metadata.resource_version.parse().map_err(|e| wrong("watch", e))
}
