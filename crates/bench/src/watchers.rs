//! Watches that are replayed: resource versions rise, an end is a clean one. [`Watchers`] are many on one namespace: only ADDED,
//! no object twice, the same sequence for everybody.

use crate::fail::{Fail, Result, check, refused, wrong};
use crate::http::{JSON, Pool};
use bytes::Bytes;
use client::Body;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A stream that is silent for so long has lost an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One watch, read event by event.
pub(crate) struct Stream {
    body: Body,
    buffer: Vec<u8>,
    /// Where the next event begins in it.
    start: usize,
    /// The newest revision that came.
    last: u64,
    /// It was refused with 410.
    refused: bool,
}

/// What comes of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Event(Kind, u64),
    /// 410: history is gone.
    Expired,
    /// The server ended it.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Kind,
    object: Head,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
    /// Of a Status.
    #[serde(default)]
    code: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    resource_version: String,
}

impl Stream {
    /// A watch of `path`, a collection, from `revision`.
    pub(crate) async fn open(pool: &Pool, worker: usize, path: &str, revision: u64) -> Result<Stream> {
        let path = format!("{path}?watch=1&resourceVersion={revision}");
        let response = pool.send(worker, Method::GET, &path, JSON, Bytes::new()).await?;
        let status = response.status();
        let fine = [StatusCode::OK, StatusCode::GONE].contains(&status);
        check(fine, &path, || status.to_string())?;
        let refused = status == StatusCode::GONE;
        Ok(Stream { body: response.into_body(), buffer: Vec::new(), start: 0, last: revision, refused })
    }

    /// The next event, or the end.
    pub(crate) async fn next(&mut self) -> Result<Said> {
        loop {
            if self.refused {
                return Ok(Said::Expired);
            }
            if let Some(said) = self.parsed()? {
                return Ok(said);
            }
            let last = self.last;
            let silent = |_| wrong("watch", format!("nothing after {last} for {PATIENCE:?}"));
            if tokio::time::timeout(PATIENCE, self.more()).await.map_err(silent)??.is_none() {
                check(self.buffer.is_empty(), "watch", || "it ended within an event".into())?;
                return Ok(Said::Ended);
            }
        }
    }

    /// Reads some bytes and tells how many. May be dropped while it waits.
    pub(crate) async fn more(&mut self) -> Result<Option<usize>> {
        let Some(frame) = self.body.frame().await else { return Ok(None) };
        let frame = frame.map_err(|e| Fail::Refused { what: "read a watch".into(), why: e.to_string() })?;
        let Ok(data) = frame.into_data() else { return Ok(Some(0)) };
        self.buffer.extend_from_slice(&data);
        Ok(Some(data.len()))
    }

    /// The next event of those that were read.
    fn parsed(&mut self) -> Result<Option<Said>> {
        let rest = &self.buffer[self.start..];
        let Some(length) = rest.iter().position(|b| *b == b'\n') else {
            self.buffer.drain(..self.start);
            self.start = 0;
            return Ok(None);
        };
        let event: Event = serde_json::from_slice(&rest[..length]).map_err(|e| wrong("watch", e))?;
        self.start += length + 1;
        if event.kind == Kind::Error {
            check(event.object.code == 410, "watch", || format!("an error of code {}", event.object.code))?;
            return Ok(Some(Said::Expired));
        }
        let revision: u64 = event.object.metadata.resource_version.parse().map_err(|e| wrong("watch", e))?;
        check(revision > self.last, "watch", || format!("event of {revision} after {}", self.last))?;
        self.last = revision;
        Ok(Some(Said::Event(event.kind, revision)))
    }
}

/// Open watches.
pub(crate) struct Watchers {
    tasks: Vec<JoinHandle<Result<Seen>>>,
}

struct Seen {
    revisions: Vec<u64>,
    last: Instant,
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
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let mut tasks = Vec::with_capacity(count);
        for i in 0..count {
            let stream = Stream::open(pool, i, &path, revision).await?;
            tasks.push(base::tasks::spawn("watcher", read(stream, events)));
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

async fn read(mut stream: Stream, events: usize) -> Result<Seen> {
    let mut seen = Seen { revisions: Vec::with_capacity(events), last: Instant::now() };
    while seen.revisions.len() < events {
        match stream.next().await? {
            Said::Event(Kind::Added, revision) => seen.revisions.push(revision),
            other => return Err(wrong("watch", format!("{other:?} instead of ADDED"))),
        }
        seen.last = Instant::now();
    }
    Ok(seen)
}
