//! WATCH: a cursor into the store's log, a selection, and a connection. No task, no queue, no copy of events: the client's
//! reading drives it, so a slow one hurts only itself (PERFORMANCE §5 D6).
//!
//! Always holds: events of one watch come in revision order, without gap or repetition after the initial state; what a
//! selector loses sight of is a DELETED with the object as it was and the revision of the change; a bookmark is never ahead
//! of an undelivered event; history that is gone is an ERROR event with code 410 (`storage/cacher`, `handlers/watch.go`).

use crate::api_server::{ApiServer, Call};
use crate::custom::view;
use crate::flow::Watching;
use crate::list;
use crate::metrics::WatchMetrics;
use crate::negotiate::{self, Encoding, Form, MetaVersion};
use crate::options::ListOptions;
use crate::reader::{KindRef, Stored, range_of};
use crate::response::{Answer, plain};
use crate::select::Selection;
use crate::table::{self, Include};
use crate::{BoxError, convert, encode, status};
use api::Status;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::time::Duration;
use store::{Change, Event, Revision, StoreError, WatchStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a bookmark comes (`cacher`, `defaultBookmarkFrequency`).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A last bookmark comes this long before the end, so that the client goes on from there.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// The shortest time a watch without `timeoutSeconds` lives; the longest is twice that (`--min-request-timeout`).
const MIN_LIFE: Duration = Duration::from_secs(1800);
/// Initial events are written in pieces of this size.
const CHUNK: usize = 48 << 10;

/// GET with `watch=true`.
pub(crate) async fn answer(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<Answer, Status> {
    let output = negotiate::output(&call.head.headers, &call.query, true)?;
    let options = ListOptions::parse(&call.query, true)?;
    let selection = Selection::parse(&options, &**kind, &call.info)?;
    let form = output.form.of_event();
    let include = Include::of(form, &call.query)?;
    let speaks_protobuf = machinery::protobuf::is_supported(&kind.info().api_version(), &kind.info().kind);
    let encoding = if speaks_protobuf { output.encoding } else { Encoding::Json };
    let writer = EventWriter {
        kind: kind.clone(),
        form,
        encoding,
        include,
        header_sent: false,
        clock: server.inner.deps.clock.clone(),
        metrics: server.inner.metrics.requests.watch_started(call, kind),
    };
    let watch = Watch::start(server, call, kind, &options, selection, writer).await?;
    let mut response = plain(200, content_type(encoding), Bytes::new());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    let stream = futures_util::stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next_chunk().await?;
        Some((Ok::<_, BoxError>(Frame::data(chunk)), watch))
    });
    *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(stream));
    Ok(Answer::Raw(response))
}

fn content_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    }
}

/// What a watch is in the middle of.
enum Phase {
    /// Writing the initial state.
    Initial { items: std::vec::IntoIter<Stored>, end_bookmark: bool },
    /// Following the log.
    Live,
    /// Nothing more comes.
    Over,
}

struct Watch {
    phase: Phase,
    /// What the cursor could not be opened for, to be told as an event.
    broken: Option<Box<Status>>,
    cursor: Option<Box<dyn WatchStream>>,
    /// Everything up to here was delivered or is of no interest.
    delivered: Revision,
    selection: Selection,
    writer: EventWriter,
    bookmarks: bool,
    next_bookmark: Instant,
    last_bookmark: Revision,
    end: Instant,
    shutdown: CancellationToken,
    /// For conversions.
    server: ApiServer,
    _counted: Option<Watching>,
}

/// Events with their objects as the watched custom resource shows them.
async fn in_version(server: &ApiServer, kind: &KindRef, events: Vec<Event>) -> Result<Vec<Event>, Status> {
    let mut list = Vec::new();
    for event in &events {
        match &event.change {
            Change::Created(new) => list.push(new.clone()),
            Change::Updated { new: a, old: b } | Change::Deleted { last: a, old: b } => {
                list.extend([a.clone(), b.clone()]);
            }
        }
    }
    let mut list = view::entries(server, kind, list).await?.into_iter();
    let mut next = || list.next().ok_or_else(|| status::internal("a conversion lost its object"));
    let seen = |event: Event| {
        let change = match &event.change {
            Change::Created(_) => Change::Created(next()?),
            Change::Updated { .. } => Change::Updated { new: next()?, old: next()? },
            Change::Deleted { .. } => Change::Deleted { last: next()?, old: next()? },
        };
        Ok(Event { change, ..event })
    };
    events.into_iter().map(seen).collect()
}

/// Ends when the watched resource is no longer served as it was.
async fn closed(kind: &KindRef) {
    match kind {
        KindRef::BuiltIn(_) => std::future::pending().await,
        KindRef::Custom(custom) => custom.closed.cancelled().await,
    }
}

impl Watch {
    async fn start(
        server: &ApiServer,
        call: &Call,
        kind: &KindRef,
        options: &ListOptions,
        selection: Selection,
        writer: EventWriter,
    ) -> Result<Self, Status> {
        let info = kind.info();
        let range = range_of(&info.storage, if info.namespaced { &call.info.namespace } else { "" });
        let from = options.resource_version.unwrap_or(0);
        let wants_state =
            options.send_initial_events == Some(true) || (from == 0 && options.send_initial_events.is_none());
        let store = &server.inner.deps.store;
        let (phase, after) = if wants_state {
            list::wait_for(server, from).await?;
            let found = list::find(server, kind, &call.info.namespace, &ListOptions::default(), &selection).await?;
            let end_bookmark = options.send_initial_events == Some(true) && options.allow_bookmarks;
            (Phase::Initial { items: found.items.into_iter(), end_bookmark }, found.revision)
        } else {
            (Phase::Live, if from == 0 { store.revision() } else { Revision(from) })
        };
        // A revision that has not happened yet is waited for: nothing up to it is shown.
        let opened = store.watch(&range, after.min(store.revision())).await;
        let (cursor, broken) = match opened {
            Ok(cursor) => (Some(cursor), None),
            Err(error) => (None, Some(Box::new(gone(error, after)))),
        };
        let counted = server.inner.flow.watchers().begin(&call.info, selection.wanted("spec.nodeName"));
        let now = Instant::now();
        let life = match options.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => MIN_LIFE + Duration::from_secs(server.inner.deps.random.next_u64() % MIN_LIFE.as_secs()),
        };
        Ok(Watch {
            phase,
            broken,
            cursor,
            delivered: after,
            selection,
            writer,
            bookmarks: options.allow_bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            last_bookmark: Revision(0),
            end: now.checked_add(life).unwrap_or(now + MIN_LIFE * 2),
            shutdown: server.inner.shutdown.clone(),
            server: server.clone(),
            _counted: counted,
        })
    }

    /// The next piece of the stream, or its end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.initial_chunk() {
            return Some(chunk);
        }
        if let Some(status) = self.broken.take() {
            return Some(self.fail(&status));
        }
        loop {
            if matches!(self.phase, Phase::Over) {
                return None;
            }
            let cursor = self.cursor.as_mut()?;
            let wake = if self.bookmarks { self.next_bookmark.min(self.end) } else { self.end };
            let events = tokio::select! {
                biased;
                events = cursor.next() => events,
                () = tokio::time::sleep_until(wake) => {
                    match self.on_time() {
                        Some(chunk) => return Some(chunk),
                        None => continue,
                    }
                }
                () = self.shutdown.cancelled() => {
                    self.phase = Phase::Over;
                    return None;
                }
                () = closed(&self.writer.kind) => {
                    self.phase = Phase::Over;
                    return None;
                }
            };
            match events {
                Ok(events) => {
                    let shown = match &self.writer.kind {
                        KindRef::BuiltIn(_) => Ok(events),
                        // Boxed: every idle watch would hold the 6 KB that a conversion takes.
                        kind @ KindRef::Custom(_) => Box::pin(in_version(&self.server, kind, events)).await,
                    };
                    let events = match shown {
                        Ok(events) => events,
                        Err(status) => return Some(self.fail(&status)),
                    };
                    if let Some(chunk) = self.write_events(&events) {
                        return Some(chunk);
                    }
                }
                Err(StoreError::Closed) => return None,
                Err(error) => {
                    let status = gone(error, self.delivered);
                    return Some(self.fail(&status));
                }
            }
        }
    }

    fn fail(&mut self, status: &Status) -> Bytes {
        self.phase = Phase::Over;
        self.writer.error(status)
    }

    /// A piece of the initial state; `None` when that is written.
    fn initial_chunk(&mut self) -> Option<Bytes> {
        let Phase::Initial { items, end_bookmark } = &mut self.phase else { return None };
        let mut out = BytesMut::new();
        while out.len() < CHUNK {
            match items.next() {
                Some(item) => self.writer.event(&mut out, "ADDED", item.bytes()),
                None => {
                    if *end_bookmark {
                        self.writer.bookmark(&mut out, self.delivered, true);
                        self.last_bookmark = self.delivered;
                    }
                    self.phase = Phase::Live;
                    break;
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn write_events(&mut self, events: &[Event]) -> Option<Bytes> {
        let mut out = BytesMut::new();
        for event in events {
            if event.revision <= self.delivered {
                continue;
            }
            if let Some((kind, bytes)) = show(&self.selection, &self.writer.kind, event) {
                self.writer.event(&mut out, kind, &bytes);
            }
        }
        if let Some(last) = events.last() {
            self.delivered = self.delivered.max(last.revision);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Time for a bookmark, or for the end.
    fn on_time(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        if now >= self.end {
            self.phase = Phase::Over;
            return None;
        }
        let before_end = self.end - BOOKMARK_BEFORE_END.min(self.end - now);
        self.next_bookmark = if now + BOOKMARK_EVERY < before_end {
            now + BOOKMARK_EVERY
        } else {
            before_end.max(now + BOOKMARK_BEFORE_END)
        };
        // The cursor knows how far the log went without anything of interest.
        let reached = self.cursor.as_ref().map_or(self.delivered, |c| c.progress()).max(self.delivered);
        if reached == self.last_bookmark {
            return None;
        }
        self.last_bookmark = reached;
        let mut out = BytesMut::new();
        self.writer.bookmark(&mut out, reached, false);
        Some(out.freeze())
    }
}

/// History that is gone: list again.
fn gone(error: StoreError, after: Revision) -> Status {
    match error {
        StoreError::Compacted { oldest, .. } => {
            status::expired(format!("too old resource version: {} ({})", after.0, oldest.0))
        }
        other => status::from_store(other),
    }
}

/// What a selection makes of an event: entering is ADDED, leaving is DELETED with the old object and the new revision.
fn show(selection: &Selection, kind: &KindRef, event: &Event) -> Option<(&'static str, Bytes)> {
    let sees = |entry: &std::sync::Arc<store::Entry>| selection.matches(&**kind, &Stored { entry: entry.clone() });
    match &event.change {
        Change::Created(new) => sees(new).then(|| ("ADDED", new.value.clone())),
        Change::Updated { new, old } => match (sees(old), sees(new)) {
            (true, true) => Some(("MODIFIED", new.value.clone())),
            (false, true) => Some(("ADDED", new.value.clone())),
            (true, false) => Some(("DELETED", at_revision(&old.value, event.revision))),
            (false, false) => None,
        },
        Change::Deleted { last, old } => sees(old).then(|| {
            if sees(last) {
                ("DELETED", last.value.clone())
            } else {
                ("DELETED", at_revision(&old.value, event.revision))
            }
        }),
    }
}

fn at_revision(bytes: &Bytes, revision: Revision) -> Bytes {
    match encode::without_revision(bytes) {
        Ok(value) => encode::splice(&value, &revision.0.to_string()),
        Err(_) => bytes.clone(),
    }
}

/// Events on the wire.
struct EventWriter {
    kind: KindRef,
    form: Form,
    encoding: Encoding,
    include: Include,
    /// Tables carry their columns in the first event only.
    header_sent: bool,
    clock: std::sync::Arc<dyn base::Clock>,
    metrics: WatchMetrics,
}

impl EventWriter {
    fn event(&mut self, out: &mut BytesMut, event: &str, bytes: &Bytes) {
        let bytes = &convert::view(&*self.kind, bytes);
        match self.form {
            Form::Full => self.frame(out, event, bytes),
            Form::Partial(version) | Form::PartialList(version) => {
                let mut partial = Vec::with_capacity(512);
                encode::write_partial(&mut partial, version, bytes);
                self.frame(out, event, &partial);
            }
            Form::Table(version) => {
                let table = self.table_of(version, bytes);
                self.frame(out, event, &table);
            }
        }
    }

    fn table_of(&mut self, version: MetaVersion, bytes: &[u8]) -> Vec<u8> {
        let revision = encode::revision(bytes).map(|at| String::from_utf8_lossy(&bytes[at]).into_owned());
        let meta = serde_json::json!({"resourceVersion": revision.unwrap_or_default()}).to_string();
        let mut table = if std::mem::replace(&mut self.header_sent, true) {
            format!(
                r#"{{"kind":"Table","apiVersion":"{}","metadata":{meta},"columnDefinitions":null,"rows":["#,
                version.api_version()
            )
            .into_bytes()
        } else {
            table::open(&self.kind, version, &meta)
        };
        table::write_row(&mut table, &self.kind, version, bytes, self.include, self.clock.now());
        table.extend_from_slice(b"]}");
        table
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, initial_end: bool) {
        let mut meta = serde_json::json!({"resourceVersion": revision.0.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = serde_json::json!({"k8s.io/initial-events-end": "true"});
        }
        let info = self.kind.info();
        let (kind, api_version) = match self.form {
            Form::Partial(version) | Form::PartialList(version) => {
                ("PartialObjectMetadata".to_owned(), version.api_version().to_owned())
            }
            _ => (info.kind.to_string(), info.api_version()),
        };
        let object = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{meta}}}"#);
        if let Form::Table(version) = self.form {
            let api_version = version.api_version();
            let list_meta = serde_json::json!({"resourceVersion": revision.0.to_string()}).to_string();
            let mut table = format!(
                r#"{{"kind":"Table","apiVersion":"{api_version}","metadata":{list_meta},"columnDefinitions":null,"rows":[{{"cells":[],"object":"#
            );
            table.push_str(&format!(
                r#"{{"kind":"PartialObjectMetadata","apiVersion":"{api_version}","metadata":{meta}}}}}]}}"#
            ));
            return self.frame(out, "BOOKMARK", table.as_bytes());
        }
        self.frame(out, "BOOKMARK", object.as_bytes());
    }

    fn error(&mut self, status: &Status) -> Bytes {
        let mut out = BytesMut::new();
        self.frame(&mut out, "ERROR", &status.encode());
        out.freeze()
    }

    fn frame(&self, out: &mut BytesMut, event: &str, object: &[u8]) {
        self.metrics.sent(object.len());
        if self.encoding == Encoding::Protobuf {
            let framed = serde_json::from_slice(object)
                .map_err(|e| e.to_string())
                .and_then(|v| machinery::protobuf::encode_watch_event(event, &v).map_err(|e| e.to_string()));
            match framed {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(error) => tracing::error!(%error, "failed to encode an event"),
            }
            return;
        }
        out.reserve(object.len() + 32);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        out.extend_from_slice(object);
        out.extend_from_slice(b"}\n");
    }
}
