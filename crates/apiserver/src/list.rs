//! LIST: one consistent state, streamed in chunks (PERFORMANCE §3.2: never one contiguous buffer).
//!
//! Revision rules as `apiserver/pkg/storage/etcd3/store.go` (`GetList`) and `storage/continue.go`. The items are the stored
//! bytes themselves, but for the `apiVersion` and `kind` at their beginning, which the lists of built-in kinds leave out.

use crate::api_server::{ApiServer, Call};
use crate::custom::view;
use crate::negotiate::{self, Encoding, Form, Output};
use crate::options::{ListOptions, Match};
use crate::pipeline::text_of;
use crate::reader::{KindRef, Stored, range_of};
use crate::response::{Answer, body_from, plain};
use crate::select::Selection;
use crate::table::{self, Include};
use crate::{Body, BoxError, codec, convert, encode, status};
use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, VARY};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::{At, Entry, Key, Page, Range, Revision, StoreError};

/// How long a read waits for a revision that has not happened yet (`cacher`, `blockTimeout`).
const WAIT: Duration = Duration::from_secs(3);
/// Size of the pieces of an answer.
const CHUNK: usize = 48 << 10;
/// Answers smaller than this are not worth compressing (`responsewriters`, `defaultGzipThresholdBytes`).
const GZIP_FROM: usize = 128 << 10;
/// Entries read at once when a selector throws most away.
const SCAN_PAGE: usize = 500;

const EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// What was found.
pub(crate) struct Found {
    pub(crate) items: Vec<Stored>,
    pub(crate) revision: Revision,
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<u64>,
}

/// GET of a collection.
pub(crate) async fn answer(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<Answer, Status> {
    let output = negotiate::output_of_list(&call.head.headers, &call.query)?;
    let options = ListOptions::parse(&call.query, false)?;
    let selection = Selection::parse(&options, &**kind, &call.info)?;
    let found = find(server, kind, &call.info.namespace, &options, &selection).await?;
    server.inner.metrics.lists.found(kind.info(), found.items.len());
    respond(server, call, kind, found, output)
}

/// Finds what the options ask for.
pub(crate) async fn find(
    server: &ApiServer,
    kind: &KindRef,
    namespace: &str,
    options: &ListOptions,
    selection: &Selection,
) -> Result<Found, Status> {
    let info = kind.info();
    let whole = range_of(&info.storage, if info.namespaced { namespace } else { "" });
    let (range, at) = start(server, &whole, options).await?;
    scan(server, kind, &whole, range, at, options, selection).await
}

/// Where to begin, and in which state.
async fn start(server: &ApiServer, whole: &Range, options: &ListOptions) -> Result<(Range, At), Status> {
    if let Some(token) = &options.continue_token {
        let token = Token::decode(token)?;
        if options.resource_version.is_some_and(|v| v != 0) {
            return Err(status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let range = Range { prefix: whole.prefix.clone(), after: Some(token.after(&whole.prefix)) };
        let at = u64::try_from(token.rv).map_or(At::Latest, |rv| At::Exactly(Revision(rv)));
        return Ok((range, at));
    }
    let at = match (options.resource_version, options.resource_version_match) {
        (None | Some(0), _) => At::Latest,
        (Some(version), Some(Match::Exact)) => exactly(server, version).await?,
        // Old clients that page from a revision mean exactly that one.
        (Some(version), None) if options.limit > 0 => exactly(server, version).await?,
        (Some(version), _) => {
            wait_for(server, version).await?;
            At::Latest
        }
    };
    Ok((whole.clone(), at))
}

async fn exactly(server: &ApiServer, version: u64) -> Result<At, Status> {
    wait_for(server, version).await?;
    Ok(At::Exactly(Revision(version)))
}

/// Waits until `version` has happened; 504 if it does not.
pub(crate) async fn wait_for(server: &ApiServer, version: u64) -> Result<(), Status> {
    let store = &server.inner.deps.store;
    let current = store.revision();
    if version <= current.0 {
        return Ok(());
    }
    // A watch of everything wakes with every commit.
    let mut watch = store.watch(&Range::all("/"), current).await.map_err(status::from_store)?;
    let reached = async {
        while store.revision().0 < version {
            if watch.next().await.is_err() {
                return;
            }
        }
    };
    // Whether it timed out is seen from the revision.
    drop(tokio::time::timeout(WAIT, reached).await);
    let current = store.revision().0;
    if version <= current { Ok(()) } else { Err(status::too_large_resource_version(version, current)) }
}

async fn scan(
    server: &ApiServer,
    kind: &KindRef,
    whole: &Range,
    mut range: Range,
    mut at: At,
    options: &ListOptions,
    selection: &Selection,
) -> Result<Found, Status> {
    let everything = selection.is_everything();
    let mut items: Vec<Stored> = Vec::new();
    loop {
        let page = match (options.limit, everything) {
            (0, _) => 0,
            (limit, true) => limit - items.len(),
            (limit, false) => limit.max(SCAN_PAGE),
        };
        let read = server.inner.deps.store.list(&range, at, Page { limit: page }).await;
        let read = read.map_err(|error| explain(error, &range, options))?;
        at = At::Exactly(read.revision);
        let count = read.value.entries.len();
        let entries = view::entries(server, kind, read.value.entries).await?;
        for (i, entry) in entries.into_iter().enumerate() {
            range.after = Some(entry.key.clone());
            let stored = Stored { entry };
            if !selection.matches(&**kind, &stored) {
                continue;
            }
            items.push(stored);
            let more = i + 1 < count || read.value.more;
            if options.limit > 0 && items.len() >= options.limit && more {
                let rest = (count - i - 1) as u64;
                let remaining = read.value.remaining.filter(|_| everything).map(|r| r + rest);
                let last = range.after.as_ref().map_or("", |k| &k.0);
                let next = Some(Token::encode(last, &whole.prefix, read.revision));
                return Ok(Found { items, revision: read.revision, next, remaining });
            }
        }
        if !read.value.more {
            return Ok(Found { items, revision: read.revision, next: None, remaining: None });
        }
    }
}

/// 410 with a token that goes on inconsistently, if the client was paging.
fn explain(error: StoreError, range: &Range, options: &ListOptions) -> Status {
    match error {
        StoreError::Compacted { .. } if options.continue_token.is_some() => {
            let mut gone = status::expired(INCONSISTENT);
            let after = range.after.as_ref().map_or("", |k| &k.0);
            let start = after.strip_prefix(&*range.prefix).unwrap_or_default();
            let token = Token { v: "meta.k8s.io/v1".into(), rv: -1, start: format!("{start}\0") };
            gone.metadata.insert("continue".into(), token.text().into());
            gone
        }
        StoreError::Compacted { .. } => status::expired(EXPIRED),
        other => status::from_store(other),
    }
}

/// A continue token: upstream's form, so that what looks inside keeps working.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    fn encode(last: &str, prefix: &str, revision: Revision) -> String {
        let start = format!("{}\0", last.strip_prefix(prefix).unwrap_or(last));
        let rv = i64::try_from(revision.0).unwrap_or(i64::MAX);
        Token { v: "meta.k8s.io/v1".into(), rv, start }.text()
    }

    fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"v": self.v, "rv": self.rv, "start": self.start}).to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let invalid =
            |why: String| status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| invalid(e.to_string()))?;
        machinery::schema::check::parse_json(&bytes).map_err(|e| invalid(e.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(status::bad_request(format!(
                "invalid continue token: continue key is not valid: server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(status::bad_request(
                "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ));
        }
        if token.start.is_empty() {
            return Err(status::bad_request(
                "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
            ));
        }
        Ok(token)
    }

    /// The key after which to go on. It stays below the prefix whatever the token says.
    fn after(&self, prefix: &str) -> Key {
        let start = self.start.strip_suffix('\0').unwrap_or(&self.start);
        Key(format!("{prefix}{start}").into())
    }
}

// === the answer ===

/// `{"resourceVersion":…,"continue":…,"remainingItemCount":…}`. Lists of custom resources, which have no type in Go, always say
/// how they go on.
fn list_meta(kind: &KindRef, form: Form, revision: Revision, next: Option<&str>, remaining: Option<u64>) -> String {
    let mut meta = json!({"resourceVersion": text_of(revision)});
    let untyped = matches!((kind, form), (KindRef::Custom(_), Form::Full));
    if let Some(next) = next.or(untyped.then_some("")) {
        meta["continue"] = next.into();
    }
    if let Some(remaining) = remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    meta.to_string()
}

fn open(kind: &KindRef, form: Form, meta: &str) -> Vec<u8> {
    let info = kind.info();
    match form {
        Form::Full => format!(
            r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
            info.list_kind,
            info.api_version()
        )
        .into_bytes(),
        Form::Partial(version) | Form::PartialList(version) => format!(
            r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{}","metadata":{meta},"items":["#,
            version.api_version()
        )
        .into_bytes(),
        Form::Table(version) => table::open(kind, version, meta),
    }
}

/// How objects of a built-in kind begin. Go's typed lists have items without kind and version; those of custom resources have them.
fn type_meta_of_items(kind: &KindRef) -> Vec<u8> {
    let info = kind.info();
    match kind {
        KindRef::Custom(_) => Vec::new(),
        _ => format!(r#"{{"apiVersion":"{}","kind":"{}","#, info.api_version(), info.kind).into_bytes(),
    }
}

/// A list of objects that are not stored.
pub(crate) fn of_virtual(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    objects: Vec<Bytes>,
) -> Result<Answer, Status> {
    let output = negotiate::output(&call.head.headers, &call.query, false)?;
    let stored = |value| Stored {
        entry: Arc::new(Entry {
            key: Key("".into()),
            value,
            created: Revision(0),
            modified: Revision(0),
            derived: OnceLock::new(),
        }),
    };
    let items = objects.into_iter().map(stored).collect();
    respond(server, call, kind, Found { items, revision: Revision(0), next: None, remaining: None }, output)
}

/// A list of what was found.
pub(crate) fn respond(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    found: Found,
    output: Output,
) -> Result<Answer, Status> {
    let form = output.form.of_list(kind)?;
    let include = Include::of(form, &call.query)?;
    let meta = list_meta(kind, form, found.revision, found.next.as_deref(), found.remaining);
    let size: usize = found.items.iter().map(|i| i.bytes().len()).sum();
    let writer = Writer {
        kind: kind.clone(),
        type_meta: type_meta_of_items(kind),
        form,
        include,
        now: server.clock_now(),
        buffer: BytesMut::from(open(kind, form, &meta).as_slice()),
        items: found.items.into_iter(),
        first: true,
        done: false,
    };
    if output.encoding != Encoding::Json || output.pretty {
        return whole(writer, output);
    }
    let gzip = size > GZIP_FROM && wants_gzip(call);
    let mut response = plain(200, "application/json", Bytes::new());
    let headers = response.headers_mut();
    if gzip {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    *response.body_mut() = if gzip { zipped(writer) } else { streamed(writer) };
    Ok(Answer::Raw(response))
}

pub(crate) fn wants_gzip(call: &Call) -> bool {
    let accepted = call.head.headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|e| e.split(';').next().unwrap_or_default().trim() == "gzip")
}

/// YAML, protobuf and pretty-printing need the whole answer.
fn whole(mut writer: Writer, output: Output) -> Result<Answer, Status> {
    let mut all = Vec::new();
    while let Some(chunk) = writer.next_chunk() {
        all.extend_from_slice(&chunk);
    }
    let (content_type, bytes) = codec::from_json(output.encoding, all.into(), output.pretty)?;
    Ok(Answer::Raw(plain(200, content_type, bytes)))
}

fn streamed(writer: Writer) -> Body {
    // One chunk is usually all there is.
    let mut writer = writer;
    let first = writer.next_chunk();
    if writer.done {
        return body_from(first.unwrap_or_default());
    }
    let rest = futures_util::stream::unfold((first, writer), |(ready, mut writer)| async move {
        let chunk = match ready {
            Some(chunk) => chunk,
            None => {
                // Small requests get their turn between the chunks of a big one.
                tokio::task::yield_now().await;
                writer.next_chunk()?
            }
        };
        Some((Ok::<_, BoxError>(Frame::data(chunk)), (None, writer)))
    });
    BodyExt::boxed_unsync(StreamBody::new(rest))
}

fn zipped(writer: Writer) -> Body {
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    let stream = futures_util::stream::unfold((writer, encoder), |(mut writer, encoder)| async move {
        let mut encoder = encoder?;
        loop {
            tokio::task::yield_now().await;
            let step = match writer.next_chunk() {
                Some(chunk) => encoder.write_all(&chunk).map(|()| false),
                None => Ok(true),
            };
            match step {
                Err(error) => return Some((Err(BoxError::from(error)), (writer, None))),
                Ok(true) => {
                    let last = encoder.finish().map(|bytes| Frame::data(bytes.into())).map_err(BoxError::from);
                    return Some((last, (writer, None)));
                }
                Ok(false) if encoder.get_ref().len() >= CHUNK / 2 => {
                    let bytes = std::mem::take(encoder.get_mut());
                    return Some((Ok(Frame::data(bytes.into())), (writer, Some(encoder))));
                }
                Ok(false) => {}
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(stream))
}

/// Writes a list piece by piece.
struct Writer {
    kind: KindRef,
    /// What each item begins with and its list does not show.
    type_meta: Vec<u8>,
    form: Form,
    include: Include,
    now: jiff::Timestamp,
    buffer: BytesMut,
    items: std::vec::IntoIter<Stored>,
    first: bool,
    done: bool,
}

impl Writer {
    /// The next piece; `None` when everything is written.
    fn next_chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        self.buffer.reserve(self.next_size());
        while self.buffer.len() < CHUNK {
            let Some(item) = self.items.next() else {
                self.buffer.extend_from_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                self.buffer.extend_from_slice(b",");
            }
            let bytes = convert::view(&*self.kind, item.bytes());
            self.write_item(&bytes);
        }
        Some(self.buffer.split().freeze())
    }

    /// About how much the next piece takes: what grows in steps leaves memory behind in as many sizes.
    fn next_size(&self) -> usize {
        let mut size = 64;
        for item in self.items.as_slice() {
            size += item.bytes().len();
            if size >= CHUNK {
                break;
            }
        }
        size
    }

    fn write_item(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        match self.form {
            Form::Full => match bytes.strip_prefix(self.type_meta.as_slice()) {
                Some(rest) if !self.type_meta.is_empty() => {
                    self.buffer.extend_from_slice(b"{");
                    return self.buffer.extend_from_slice(rest);
                }
                _ => return self.buffer.extend_from_slice(bytes),
            },
            Form::Table(version) => table::write_row(&mut out, &self.kind, version, bytes, self.include, self.now),
            Form::Partial(version) | Form::PartialList(version) => encode::write_partial(&mut out, version, bytes),
        }
        self.buffer.extend_from_slice(&out);
    }
}
