//! The control socket `<run>/control.sock` (root only): how `dhow image` and `dhow status` ask the dhow that runs.
//!
//! One request and its replies per connection, each a line of JSON. The image store has one owner; while dhow runs, that is
//! the running process, and commands go through here. Otherwise they open the store themselves ([`crate::images`]).

use crate::images::{self, ImageRequest};
use crate::tokens::{TokenRequest, Tokens};
use image::ImageStore;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Longest request line; a request names images and paths.
const MAX_REQUEST: usize = 64 * 1024;
/// Commands at once; the next one waits.
const MAX_CLIENTS: usize = 64;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Something about images.
    Image(ImageRequest),
    /// Something about tokens, if the server runs here.
    Token(TokenRequest),
    /// How things are.
    Status,
    /// Save the cluster to a file.
    Backup(PathBuf),
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// How far a layer is.
    Progress {
        /// Short digest.
        layer: String,
        /// `downloading`, `ready`, …
        state: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all; 0 if unknown.
        total: u64,
    },
    /// It worked; what came out.
    Done(Value),
    /// It did not work; a sentence.
    Error(String),
}

/// The socket could not be used.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    /// System call on the socket.
    #[error("failed to {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is a process, but nobody listens.
    #[error("dhow has not started completely yet; its log tells what it waits for")]
    Starting,
    /// The other side said no.
    #[error("{0}")]
    Refused(String),
    /// The other side went away or talks nonsense.
    #[error("dhow ended while it answered; see its log")]
    Ended,
}

/// Where the socket is.
pub(crate) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Saves the cluster to a file.
pub(crate) type BackupTo = Arc<dyn Fn(&Path) -> Result<(), crate::backup::Error> + Send + Sync>;

/// What the running process answers with.
#[derive(Clone)]
pub(crate) struct Answers {
    /// If a node runs here.
    pub(crate) images: Option<ImageStore>,
    /// If the server runs here.
    pub(crate) tokens: Option<Tokens>,
    /// If the server runs here: saves the cluster. Blocks.
    pub(crate) backup: Option<BackupTo>,
    pub(crate) status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// Serves until `shutdown`. We hold the instance lock, so an old socket file is nobody's.
pub(crate) async fn serve(run_dir: &Path, answers: Answers, shutdown: CancellationToken) -> Result<(), ControlError> {
    let path = path(run_dir);
    let failed = |verb| {
        let path = path.clone();
        move |source| ControlError::Io { verb, path, source }
    };
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove the old")(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed("listen on"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    base::tasks::detach("control", async move {
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let ((stream, _), slot) = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = base::accept::next(&slots, || listener.accept()) => accepted,
            };
            let answers = answers.clone();
            base::tasks::detach("control-request", async move {
                answer(stream, answers).await;
                drop(slot);
            });
        }
    });
    Ok(())
}

async fn answer(stream: UnixStream, answers: Answers) {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(read, MAX_REQUEST as u64));
    if reader.read_until(b'\n', &mut line).await.is_err() {
        return;
    }
    let (sender, mut replies) = mpsc::unbounded_channel();
    let work = async move {
        let result = match serde_json::from_slice(&line) {
            Ok(Request::Status) => Ok((answers.status)()),
            Ok(Request::Image(request)) => match &answers.images {
                Some(images) => images::run(images, request, sender.clone()).await,
                None => Err("this dhow runs no node, so it has no images".to_owned()),
            },
            Ok(Request::Token(request)) => match &answers.tokens {
                Some(tokens) => tokens.run(request).await,
                None => Err("this dhow runs no server; ask where the server runs".to_owned()),
            },
            Ok(Request::Backup(file)) => match answers.backup {
                Some(backup) => match tokio::task::spawn_blocking(move || backup(&file)).await {
                    Ok(Ok(())) => Ok(Value::Null),
                    Ok(Err(error)) => Err(base::chain(&error)),
                    Err(error) => Err(error.to_string()),
                },
                None => Err("this dhow runs no server; ask where the server runs".to_owned()),
            },
            Err(error) => Err(format!("not a request of this dhow: {error}")),
        };
        // The asker may have gone; the work is done all the same.
        drop(sender.send(match result {
            Ok(value) => Reply::Done(value),
            Err(text) => Reply::Error(text),
        }));
    };
    let send = async {
        while let Some(reply) = replies.recv().await {
            let mut line = serde_json::to_vec(&reply).unwrap_or_default();
            line.push(b'\n');
            if write.write_all(&line).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(work, send);
}

/// Asks the running dhow; `on_reply` sees progress.
pub(crate) async fn ask(
    run_dir: &Path,
    request: &Request,
    mut on_reply: impl FnMut(Reply),
) -> Result<Value, ControlError> {
    let path = path(run_dir);
    let failed = |verb| {
        let path = path.clone();
        move |source| ControlError::Io { verb, path, source }
    };
    let stream = UnixStream::connect(&path).await.map_err(|source| match source.kind() {
        // The socket is made last, and an old one is nobody's.
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::Starting,
        _ => failed("connect to")(source),
    })?;
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request).unwrap_or_default();
    line.push(b'\n');
    write.write_all(&line).await.map_err(failed("write to"))?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.map_err(failed("read from"))? {
        match serde_json::from_str(&line) {
            Ok(Reply::Done(value)) => return Ok(value),
            Ok(Reply::Error(text)) => return Err(ControlError::Refused(text)),
            Ok(progress) => on_reply(progress),
            Err(_) => return Err(ControlError::Ended),
        }
    }
    Err(ControlError::Ended)
}
