//! [`Watcher`]: a watch response taken apart line by line.

use crate::{Body, ClientError, TransportError};
use api::{Object, ObjectMeta, Status};
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
    /// The object left the view; its last metadata.
    Deleted(Box<ObjectMeta>),
    /// Everything up to this revision was delivered.
    Bookmark(String),
}

/// A body's lines, as they come.
pub struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of `buffer` is known to have no newline, so that big objects in small chunks stay linear.
    scanned: usize,
}

impl Lines {
    /// Those of a response.
    pub fn new(body: Body) -> Self {
        Lines { body, buffer: BytesMut::new(), scanned: 0 }
    }

    /// The next that is not empty; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<BytesMut>, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
                let line = self.buffer.split_to(self.scanned + end + 1);
                self.scanned = 0;
                if line.len() > 1 {
                    return Ok(Some(line));
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

/// Reads events until the server ends the watch.
pub struct Watcher<K> {
    lines: Lines,
    kind: PhantomData<fn() -> K>,
}

impl<K: Object> Watcher<K> {
    pub(crate) fn new(body: Body) -> Self {
        Watcher { lines: Lines::new(body), kind: PhantomData }
    }

    /// The next event; `None` when the server ended the watch (watch again from the last revision).
    /// A 410 comes as [`ClientError::is_gone`]: list again.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<K>>, ClientError> {
        match self.lines.next().await? {
            Some(line) => parse(&line).map(Some),
            None => Ok(None),
        }
    }
}

/// An object of a list or a watch. Its `managedFields` are left out: they are half of most objects, and in a process that
/// only reads nobody looks at them. An update without them leaves them as they are.
pub(crate) fn without_owners<K: Object>(json: &[u8]) -> Result<K, api::DecodeError> {
    match cut_owners(json) {
        Some(rest) => K::decode(&rest),
        None => K::decode(json),
    }
}

fn cut_owners(json: &[u8]) -> Option<Vec<u8>> {
    let (rest, _) = scan::cut(json, scan::begin(json, b"metadata")?, b"managedFields")?;
    Some(rest)
}

/// Type and object of a line of a watch.
pub fn event_of(line: &[u8]) -> Result<(&str, &[u8]), serde_json::Error> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    // What an API server writes needs no look into the object; whoever decodes that sees all of it.
    if let Some(parts) = event_as_written(line) {
        return Ok(parts);
    }
    let line: Line<'_> = serde_json::from_slice(line)?;
    Ok((line.kind, line.object.get().as_bytes()))
}

/// The two, if the line is compact and has them in the usual order.
fn event_as_written(line: &[u8]) -> Option<(&str, &[u8])> {
    let rest = line.strip_prefix(br#"{"type":""#)?;
    let (kind, rest) = rest.split_at(rest.iter().position(|b| *b == b'"')?);
    let object = rest.strip_prefix(br#"","object":"#)?.trim_ascii_end().strip_suffix(b"}")?;
    Some((std::str::from_utf8(kind).ok()?, object))
}

/// The metadata of an object, but for `managedFields`.
pub fn metadata_of(json: &[u8]) -> Result<ObjectMeta, serde_json::Error> {
    #[derive(Deserialize)]
    struct Partial {
        metadata: ObjectMeta,
    }
    let partial: Partial = match cut_owners(json) {
        Some(rest) => serde_json::from_slice(&rest)?,
        None => serde_json::from_slice(json)?,
    };
    Ok(partial.metadata)
}

fn parse<K: Object>(line: &[u8]) -> Result<WatchEvent<K>, ClientError> {
    let malformed = |e: serde_json::Error| ClientError::Malformed(format!("watch of {}: {e}", K::PLURAL));
    let (kind, object) = event_of(line).map_err(malformed)?;
    match kind {
        "ADDED" => Ok(WatchEvent::Added(without_owners(object)?)),
        "MODIFIED" => Ok(WatchEvent::Modified(without_owners(object)?)),
        "DELETED" => Ok(WatchEvent::Deleted(Box::new(metadata_of(object).map_err(malformed)?))),
        "BOOKMARK" => {
            let metadata = metadata_of(object).map_err(malformed)?;
            Ok(WatchEvent::Bookmark(metadata.resource_version.unwrap_or_default()))
        }
        "ERROR" => {
            let status: Status = serde_json::from_slice(object).map_err(malformed)?;
            Err(ClientError::Status(Box::new(status)))
        }
        other => Err(ClientError::Malformed(format!("watch of {}: unknown event type {other:?}", K::PLURAL))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_taken_apart_however_it_is_written() {
        let object = r#"{"metadata":{"name":"a","managedFields":[{"manager":"m"}]},"spec":{"x":"}"}}"#;
        let lines = [
            format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"),
            format!("{{ \"type\": \"ADDED\", \"object\": {object} }}"),
            format!("{{\"object\":{object},\"type\":\"ADDED\"}}"),
        ];
        for line in lines {
            assert_eq!(event_of(line.as_bytes()).expect("an event"), ("ADDED", object.as_bytes()), "{line}");
        }
        let meta = metadata_of(object.as_bytes()).expect("metadata");
        assert_eq!((meta.name.as_deref(), meta.managed_fields), (Some("a"), None));
        for flawed in ["", "{}", r#"{"type":"ADDED"#, r#"{"type":"ADDED","object":"#] {
            assert!(event_of(flawed.as_bytes()).is_err(), "{flawed}");
        }
        let cut = event_of(br#"{"type":"ADDED","object":{"metadata":{}}"#).expect("as far as this looks");
        assert!(metadata_of(cut.1).is_err());
    }
}
