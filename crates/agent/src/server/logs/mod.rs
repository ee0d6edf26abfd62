//! A container's log as a response body: the lines that the options choose, from the rotated files and the newest one.
//!
//! ```text
//!   files (which, where to begin) ─▶ read in chunks ─▶ select (pure) ─▶ body
//!                         └─ follow: inotify on the directory, until the container has ended and all is read
//! ```
//!
//! Follows `staging/src/k8s.io/cri-client/pkg/logs/logs.go`. Differs: files that were rotated belong to the log, a file
//! that is rotated while it is read is read to its end and its successor after it, and nothing is asked every second.

mod files;
mod options;
mod select;
mod watch;

pub(super) use options::LogOptions;

use super::seams::LogSource;
use bytes::{Bytes, BytesMut};
use files::LogFiles;
use futures_util::stream::poll_fn;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use select::{Flow, Selector};
use std::io;
use std::path::PathBuf;
use streaming::answer::{Body, BoxError};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch::DirWatch;

/// Bytes of one read.
const CHUNK: usize = 256 * 1024;
/// Longest line of a log file: 16 KiB, and what stands before it. Longer ones are not ours.
const MAX_ENTRY: usize = 1 << 20;
/// Chunks that wait for the client.
const QUEUE: usize = 4;

/// A log that cannot be read.
#[derive(Debug, Error)]
pub(super) enum LogError {
    #[error("failed to open log file {path:?}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to read log file {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to watch log directory {path:?}")]
    Watch {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Opens the log, so that what cannot be opened is an answer and not a broken body.
pub(super) async fn body(
    source: LogSource,
    options: LogOptions,
    shutdown: CancellationToken,
) -> Result<Body, LogError> {
    // Before the first read: what is written after it is told.
    let watch = if options.follow { Some(DirWatch::new(&source.path)?) } else { None };
    let tail = options.tail;
    let path = source.path.clone();
    let files = tokio::task::spawn_blocking(move || LogFiles::open(&path, tail)).await;
    let files = files.map_err(|e| LogError::Open { path: source.path.clone(), source: io::Error::other(e) })??;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUE);
    let reading = Reading { files, selector: Selector::new(options), watch, source, sender, pending: BytesMut::new() };
    base::tasks::detach("container-log", async move {
        tokio::select! {
            result = reading.run() => if let Err(error) = result {
                tracing::warn!(error = %base::chain(&error), "failed to read a container's log");
            },
            () = shutdown.cancelled() => {}
        }
    });
    let frames = poll_fn(move |cx| receiver.poll_recv(cx).map(|b| b.map(|b| Ok::<_, BoxError>(Frame::data(b)))));
    Ok(StreamBody::new(frames).boxed_unsync())
}

struct Reading {
    files: LogFiles,
    selector: Selector,
    watch: Option<DirWatch>,
    source: LogSource,
    sender: mpsc::Sender<Bytes>,
    /// The beginning of a line whose end is not there yet.
    pending: BytesMut,
}

impl Reading {
    async fn run(mut self) -> Result<(), LogError> {
        if self.read_all().await? == Flow::Stop {
            return Ok(());
        }
        if let Some(mut watch) = self.watch.take() {
            loop {
                let ended = tokio::select! {
                    () = self.sender.closed() => return Ok(()),
                    changed = watch.changed() => {
                        changed.map_err(|source| LogError::Watch { path: self.source.path.clone(), source })?;
                        false
                    }
                    () = &mut self.source.ended => true,
                };
                if self.read_all().await? == Flow::Stop {
                    return Ok(());
                }
                if ended {
                    break;
                }
            }
        }
        // A last line without its end is shown, too.
        let mut out = Vec::new();
        if !self.pending.is_empty() {
            self.selector.entry(&self.pending, &mut out);
        }
        self.send(out).await;
        Ok(())
    }

    /// Everything that is there now.
    async fn read_all(&mut self) -> Result<Flow, LogError> {
        loop {
            self.pending.reserve(CHUNK);
            let read = self.files.current().read_buf(&mut self.pending).await;
            let read = read.map_err(|source| LogError::Read { path: self.source.path.clone(), source })?;
            if read == 0 {
                if self.files.next().await? {
                    continue;
                }
                return Ok(Flow::Continue);
            }
            if self.take_lines().await == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
    }

    async fn take_lines(&mut self) -> Flow {
        let Some(end) = self.pending.iter().rposition(|b| *b == b'\n') else {
            if self.pending.len() > MAX_ENTRY {
                tracing::warn!(path = %self.source.path.display(), "dropping a line without end");
                self.pending.clear();
            }
            return Flow::Continue;
        };
        let lines = self.pending.split_to(end + 1);
        let mut out = Vec::with_capacity(lines.len());
        let mut flow = Flow::Continue;
        for line in lines.split_inclusive(|b| *b == b'\n') {
            flow = self.selector.entry(line, &mut out);
            if flow == Flow::Stop {
                break;
            }
        }
        if self.send(out).await { flow } else { Flow::Stop }
    }

    /// Whether the client is still there.
    async fn send(&mut self, out: Vec<u8>) -> bool {
        out.is_empty() || self.sender.send(out.into()).await.is_ok()
    }
}

#[cfg(test)]
mod tests;
