//! [`Watcher`]: a watch response taken apart line by line.

use crate::{Body, ClientError, TransportError};
use api::{Object, Status};
use bytes::BytesMut;
use http_body_util::BodyExt;
use machinery::scan;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::marker::PhantomData;

/// One line of a watch.
#[derive(Debug, Clone)]
pub enum WatchEvent<K> {
    /// The object came into view.
    Added(K),
    /// The object changed.
    Modified(K),
    /// The object left the view; its last state.
    Deleted(K),
    /// Everything up to this revision was delivered.
    Bookmark(String),
}

/// Reads events until the server ends the watch.
pub struct Watcher<K> {
    body: Body,
    buffer: BytesMut,
    /// How much of `buffer` is known to have no newline, so that big objects in small chunks stay linear.
    scanned: usize,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct BookmarkObject {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
struct BookmarkMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

impl<K: Object> Watcher<K> {
    pub(crate) fn new(body: Body) -> Self {
        Watcher { body, buffer: BytesMut::new(), scanned: 0, kind: PhantomData }
    }

    /// The next event; `None` when the server ended the watch (watch again from the last revision).
    /// A 410 comes as [`ClientError::is_gone`]: list again.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<K>>, ClientError> {
        loop {
            if let Some(end) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.scanned + end + 1);
                self.scanned = 0;
                if line.len() > 1 {
                    return parse(&line).map(Some);
                }
                continue;
            }
            self.scanned = self.buffer.len();
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(TransportError(e).into()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// An object of a list or a watch. Its `managedFields` are left out: they are half of most objects, and in a process that
/// only reads nobody looks at them. An update without them leaves them as they are.
pub(crate) fn without_owners<K: Object>(json: &[u8]) -> Result<K, api::DecodeError> {
    match scan::begin(json, b"metadata").and_then(|metadata| scan::cut(json, metadata, b"managedFields")) {
        Some((rest, _)) => K::decode(&rest),
        None => K::decode(json),
    }
}

fn parse<K: Object>(line: &[u8]) -> Result<WatchEvent<K>, ClientError> {
    let malformed = |e: serde_json::Error| ClientError::Malformed(format!("watch of {}: {e}", K::PLURAL));
    let line: Line<'_> = serde_json::from_slice(line).map_err(malformed)?;
    let object = line.object.get().as_bytes();
    match line.kind {
        "ADDED" => Ok(WatchEvent::Added(without_owners(object)?)),
        "MODIFIED" => Ok(WatchEvent::Modified(without_owners(object)?)),
        "DELETED" => Ok(WatchEvent::Deleted(without_owners(object)?)),
        "BOOKMARK" => {
            let bookmark: BookmarkObject = serde_json::from_slice(object).map_err(malformed)?;
            Ok(WatchEvent::Bookmark(bookmark.metadata.resource_version))
        }
        "ERROR" => {
            let status: Status = serde_json::from_slice(object).map_err(malformed)?;
            Err(ClientError::Status(Box::new(status)))
        }
        other => Err(ClientError::Malformed(format!("watch of {}: unknown event type {other:?}", K::PLURAL))),
    }
}
