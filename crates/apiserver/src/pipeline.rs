//! One function per verb, whose body lists the steps in order. Who asks and whether they may was settled before
//! (`api_server.rs`); what differs between kinds is in `machinery::kinds`; what the cluster has to say is admission.
//!
//! Order as upstream's `apiserver/pkg/endpoints/handlers/{create,update,patch,delete,get}.go`.

use crate::admission::{self, Operation};
use crate::api_server::{ApiServer, Call};
use crate::codec::{self, Expected};
use crate::custom::{self, view};
use crate::delete_plan::{self, Step};
use crate::managed::Owners;
use crate::negotiate;
use crate::options::{DeleteOptions, ListOptions, WriteOptions};
use crate::patch::PatchChange;
use crate::reader::{Header, KindRef, Stored};
use crate::response::Answer;
use crate::select::Selection;
use crate::write::{Replace, Write, Written, ensure_namespace};
use crate::{Body, convert, discovery, encode, list, response, reviews, status, subresources, trace, watch};
use api::{AnyObject, Status};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use std::sync::Arc;
use store::{Op, Revision, StoreError, Txn};

/// The largest body (`MaxRequestBodyBytes`).
pub(crate) const MAX_BODY: usize = 3 << 20;
/// How often a delete starts over when others write in between.
const DELETE_ATTEMPTS: usize = 100;

/// Finds the kind and the verb's function.
pub(crate) async fn dispatch(server: &ApiServer, call: &Call, body: Body) -> Result<Answer, Status> {
    let info = &call.info;
    let Some(kind) = server.find_kind(&info.group, &info.version, &info.resource) else {
        return match info.group.is_empty() || discovery::is_group(server, &info.group) {
            true => Err(status::no_such_path()),
            false => Ok(response::no_such_page()),
        };
    };
    if call.head.method == http::Method::HEAD && info.subresource != "proxy" {
        return Err(status::method_not_allowed());
    }
    if kind.info().namespaced && info.namespace.is_empty() && !matches!(info.verb.as_ref(), "list" | "watch") {
        // Collections of all namespaces can be read, objects in no namespace are nowhere.
        let is_collection = info.name.is_empty() && info.subresource.is_empty();
        return Err(if is_collection { status::method_not_allowed() } else { status::no_such_path() });
    }
    if !kind.info().namespaced && !info.namespace.is_empty() && kind.info().kind != "Namespace" {
        return Err(status::no_such_path());
    }
    let deprecation = match &kind {
        KindRef::BuiltIn(kind) => kind.info().deprecation(),
        KindRef::Custom(custom) => custom.kind.deprecation(),
    };
    if deprecation.is_some() && matches!(kind, KindRef::BuiltIn(_)) {
        server.inner.metrics.requests.deprecated(kind.info(), &info.subresource);
    }
    call.warnings.add(deprecation.map(str::to_owned));
    let _step = trace::verb_name(&info.verb).and_then(|name| trace::enter(name, || trace::fields_of(call)));
    if !info.subresource.is_empty() {
        return subresources::dispatch(server, call, &kind, body).await;
    }
    let verb = info.verb.as_ref();
    if !kind.info().verbs.iter().any(|v| v == verb) {
        return Err(status::method_not_allowed());
    }
    let of_one = matches!(verb, "get" | "update" | "patch" | "delete");
    if of_one && info.name.is_empty() || verb == "create" && !info.name.is_empty() {
        return Err(status::method_not_allowed());
    }
    if let Some(why) = machinery::validation::is_path_segment_name(&info.name).first().filter(|_| of_one) {
        return Err(status::bad_request(format!("Name parameter invalid: {:?}: {why}", info.name)));
    }
    if reviews::is_virtual(kind.info()) {
        return reviews::answer(server, call, &kind, read(body).await?).await;
    }
    let answer = run(server, call, &kind, verb, body).await;
    if custom::is_definition(kind.info()) && !matches!(verb, "get" | "list" | "watch") {
        // Who changed a definition sees the change at once.
        server.load_definitions().await?;
    }
    answer
}

/// The verb's function. Each in a box of its own, so that a get does not carry the room that a patch takes.
async fn run(server: &ApiServer, call: &Call, kind: &KindRef, verb: &str, body: Body) -> Result<Answer, Status> {
    match verb {
        "create" => Box::pin(create(server, call, kind, body)).await,
        "get" => Box::pin(get(server, call, kind)).await,
        "list" => Box::pin(list::answer(server, call, kind)).await,
        "watch" => Box::pin(watch::answer(server, call, kind)).await,
        "update" => Box::pin(update(server, call, kind, "", body)).await,
        "patch" => Box::pin(patch(server, call, kind, "", body)).await,
        "delete" => Box::pin(delete(server, call, kind, body)).await,
        "deletecollection" => Box::pin(delete_collection(server, call, kind, body)).await,
        _ => Err(status::method_not_allowed()),
    }
}

/// The whole body, up to the limit.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, Status> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| status::bad_request(format!("failed to read the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > MAX_BODY {
            return Err(status::too_large(MAX_BODY));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// The body of a write of an object, which is counted.
async fn read_counted(server: &ApiServer, call: &Call, body: Body) -> Result<Bytes, Status> {
    let body = read(body).await?;
    server.inner.metrics.requests.body(call, body.len());
    Ok(body)
}

/// POST to a collection.
async fn create(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    let encoding = negotiate::input(&call.head.headers)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let sent = codec::to_json(encoding, read_counted(server, call, body).await?, Expected::of(&**kind))?;
    let mut warnings = Vec::new();
    let object = codec::decode(&**kind, sent, options.field_validation, &mut warnings)?.object;
    call.warnings.add(warnings);
    let name = object.meta().name.clone().unwrap_or_default();
    let manager = machinery::apply::manager_name(&options.field_manager, call.user_agent());
    let write = write_of(call, kind, "", &name, &options, &manager);
    let written = server.create_object(&write, object).await?;
    Ok(answer_of(kind, &written))
}

/// GET of one object.
async fn get(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<Answer, Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    let stored = existing(server, call, kind).await?;
    Ok(Answer::Object { code: 200, kind: kind.clone(), bytes: stored.bytes().clone() })
}

/// The object that the URL names; waits for the asked revision.
pub(crate) async fn existing(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<Stored, Status> {
    if let Some(text) = call.query.text("resourceVersion") {
        list::wait_for(server, crate::options::parse_revision(text)?).await?;
    }
    let info = kind.info();
    let namespace = if info.namespaced { call.info.namespace.as_str() } else { "" };
    let found = server.reader().stored(&info.storage, namespace, &call.info.name).await.map_err(status::from_store)?;
    let found = found.ok_or_else(|| status::not_found(info, &call.info.name))?;
    view::stored(server, kind, found).await
}

/// PUT of an object or of a subresource that has the object's kind.
pub(crate) async fn update(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    subresource: &str,
    body: Body,
) -> Result<Answer, Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    let encoding = negotiate::input(&call.head.headers)?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let sent = codec::to_json(encoding, read_counted(server, call, body).await?, Expected::of(&**kind))?;
    let mut warnings = Vec::new();
    let mut read = codec::decode(&**kind, sent, options.field_validation, &mut warnings)?;
    call.warnings.add(warnings);
    ensure_namespace(read.object.meta_mut(), kind.info().namespaced, &call.info.namespace)?;
    check_name(read.object.meta().name.as_deref().unwrap_or_default(), &call.info.name)?;
    let manager = machinery::apply::manager_name(&options.field_manager, call.user_agent());
    let write = write_of(call, kind, subresource, &call.info.name, &options, &manager);
    let written = server.modify_object(&write, &Replace::new(read)).await?;
    Ok(answer_of(kind, &written))
}

/// The body's name and namespace must be the URL's (`handlers/rest.go`, `checkName`).
pub(crate) fn check_names(object: &dyn AnyObject, namespace: &str, url: &str) -> Result<(), Status> {
    let given = object.meta().namespace.as_deref().unwrap_or_default();
    if !given.is_empty() && !namespace.is_empty() && given != namespace {
        return Err(status::other_namespace());
    }
    check_name(object.meta().name.as_deref().unwrap_or_default(), url)
}

/// The body's name must be the URL's.
pub(crate) fn check_name(name: &str, url: &str) -> Result<(), Status> {
    if name.is_empty() {
        return Err(status::bad_request(format!(
            "the name of the object ({url} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != url {
        return Err(status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        )));
    }
    Ok(())
}

/// PATCH of an object or of a subresource that has the object's kind.
pub(crate) async fn patch(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    subresource: &str,
    body: Body,
) -> Result<Answer, Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    let media = negotiate::media_type(&call.head.headers).to_owned();
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let manager = machinery::apply::manager_name(&options.field_manager, call.user_agent());
    let body = read_counted(server, call, body).await?;
    let write = write_of(call, kind, subresource, &call.info.name, &options, &manager);
    let change = PatchChange::parse(&media, &body, &write, write.manager_at(server))?;
    let written = server.modify_object(&write, &change).await?;
    Ok(answer_of(kind, &written))
}

/// DELETE of one object.
async fn delete(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    let options = delete_options(server, call, body).await?;
    call.warnings.add(delete_plan::warning(kind.info(), &options));
    let deleted = delete_one(server, call, kind, &call.info.name, &options).await?;
    Ok(deleted.answer(kind, &options))
}

async fn delete_options(server: &ApiServer, call: &Call, body: Body) -> Result<DeleteOptions, Status> {
    let encoding = negotiate::input(&call.head.headers)?;
    let body = read_counted(server, call, body).await?;
    let expected = Expected { group: "", version: "v1", kind: "DeleteOptions" };
    let json = if body.is_empty() { body } else { codec::to_json(encoding, body, expected)?.json };
    DeleteOptions::parse(&call.query, &json)
}

/// What a delete left behind.
pub(crate) struct Deleted {
    /// The object's last or newest state.
    bytes: Bytes,
    name: String,
    uid: String,
    /// It is gone.
    gone: bool,
}

impl Deleted {
    fn answer(self, kind: &KindRef, options: &DeleteOptions) -> Answer {
        // 202 only where somebody asked the oldest way (`handlers/delete.go`).
        let code = if !self.gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
        if self.gone && !delete_plan::returns_object(kind.info()) {
            let status = status::success(kind.info(), &self.name, &self.uid);
            return Answer::Plain { code, bytes: status.encode().into() };
        }
        Answer::Object { code, kind: kind.clone(), bytes: self.bytes }
    }
}

/// Admission, decision, and one or two commits; starts over when somebody else writes in between.
async fn delete_one(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let info = kind.info();
    let namespace = if info.namespaced { call.info.namespace.as_str() } else { "" };
    delete_in(server, call, kind, namespace, name, options).await
}

pub(crate) async fn delete_in(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let info = kind.info();
    let mut last_marked: Option<Deleted> = None;
    for _ in 0..DELETE_ATTEMPTS {
        let found = server.reader().stored(&info.storage, namespace, name).await.map_err(status::from_store)?;
        let Some(stored) = found.filter(|s| last_marked.as_ref().is_none_or(|l| l.uid == s.header().uid)) else {
            // Who saw our mark (a node agent) may have removed it before us: then it is gone as asked for
            // (`registry/generic/registry/store.go`, `lastExisting`).
            return last_marked.ok_or_else(|| status::not_found(info, name));
        };
        let doomed = decoded(server, kind, &stored).await?;
        admit_delete(server, call, kind, namespace, name, options, &doomed).await?;
        match delete_once(server, kind, stored, doomed, options).await? {
            Tried::Done(deleted) => return Ok(deleted),
            Tried::Raced { marked } => last_marked = marked.or(last_marked),
        }
    }
    Err(status::stale(info, name))
}

/// An object that is to be deleted, and its owners.
struct Doomed {
    object: Box<dyn AnyObject>,
    owners: Owners,
}

async fn decoded(server: &ApiServer, kind: &KindRef, stored: &Stored) -> Result<Doomed, Status> {
    let seen = view::stored(server, kind, stored.clone()).await?;
    let (bare, owners) = Owners::cut(&convert::view(&**kind, seen.bytes()));
    Ok(Doomed { object: kind.decode(&bare).map_err(status::internal)?, owners })
}

/// Deletes an object for the server's own reasons, without asking admission.
pub(crate) async fn delete_by_server(
    server: &ApiServer,
    kind: &KindRef,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let info = kind.info();
    for _ in 0..DELETE_ATTEMPTS {
        let found = server.reader().stored(&info.storage, namespace, name).await.map_err(status::from_store)?;
        let Some(stored) = found else { return Err(status::not_found(info, name)) };
        let doomed = decoded(server, kind, &stored).await?;
        if matches!(delete_once(server, kind, stored, doomed, options).await?, Tried::Done(_)) {
            return Ok(());
        }
    }
    Err(status::stale(info, name))
}

async fn admit_delete(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    doomed: &Doomed,
) -> Result<(), Status> {
    let mut request = admission::Request {
        operation: Operation::Delete,
        kind,
        subresource: "",
        namespace,
        name,
        user: &call.user,
        dry_run: options.dry_run,
        options: &options.json,
        object: None,
        old_object: Some(&*doomed.object),
        owners: Owners::default(),
        old_owners: &doomed.owners,
        remarks: &call.warnings,
        reinvocation: Default::default(),
        cluster: server,
    };
    server.admit(&mut request).await?;
    server.admit_final(&request).await?;
    Ok(())
}

/// What became of one try to delete.
enum Tried {
    Done(Deleted),
    /// Somebody else wrote first; `marked` is what we had written until then.
    Raced {
        marked: Option<Deleted>,
    },
}

/// One try.
async fn delete_once(
    server: &ApiServer,
    kind: &KindRef,
    stored: Stored,
    doomed: Doomed,
    options: &DeleteOptions,
) -> Result<Tried, Status> {
    let Doomed { mut object, owners } = doomed;
    custom::prepare_delete(&mut *object, delete_plan::truncate(server.clock_now()));
    let step = delete_plan::plan(&mut *object, &**kind, options, server.clock_now())?;
    let meta = object.meta();
    let (name, uid) = (meta.name.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
    let deleted = |bytes: Bytes, gone: bool| Deleted { bytes, name: name.clone(), uid: uid.clone(), gone };
    let done = |bytes: Bytes, gone: bool| Ok(Tried::Done(deleted(bytes, gone)));
    let mut marked = None;
    if step == Step::Pending {
        return done(view::stored(server, kind, stored).await?.bytes().clone(), false);
    }
    let mut current = stored;
    if step != Step::Remove {
        if options.dry_run {
            let bytes =
                encode::splice(&encode::to_value(&**kind, &mut *object, &owners)?, &current.revision().0.to_string());
            return done(bytes, step == Step::MarkThenRemove);
        }
        let value = view::to_stored(server, kind, &mut *object, &owners).await?;
        if !encode::is_same(&value, current.bytes()) {
            let op = Op::Update { key: current.entry.key.clone(), expected: current.revision(), value };
            let Some(written) = commit(server, kind, op).await? else { return Ok(Tried::Raced { marked }) };
            let seen = view::stored(server, kind, written.clone()).await?;
            marked = Some(deleted(seen.bytes().clone(), true));
            current = written;
        }
        if step == Step::Mark {
            return done(view::stored(server, kind, current).await?.bytes().clone(), false);
        }
    }
    if options.dry_run {
        return done(view::stored(server, kind, current).await?.bytes().clone(), true);
    }
    let mut last = encode::without_revision(current.bytes())?;
    last.derived = Some(Arc::new(Header::of(&*object, &**kind)));
    let op = Op::Delete { key: current.entry.key.clone(), expected: current.revision(), last };
    match commit(server, kind, op).await? {
        None => Ok(Tried::Raced { marked }),
        Some(tombstone) => {
            server.inner.allocator.release(&*object);
            done(view::stored(server, kind, tombstone).await?.bytes().clone(), true)
        }
    }
}

async fn commit(server: &ApiServer, kind: &KindRef, op: Op) -> Result<Option<Stored>, Status> {
    match server.commit(kind.info(), Txn { ops: vec![op] }).await {
        Ok((_, entries)) => match entries.into_iter().next().flatten() {
            Some(entry) => Ok(Some(Stored { entry })),
            None => Err(status::internal("the store returned no entry for a write")),
        },
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(status::from_store(error)),
    }
}

/// DELETE of a collection: each object on its own, as upstream, not atomically.
async fn delete_collection(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    let output = negotiate::output(&call.head.headers, &call.query, false)?;
    let list_options = ListOptions::parse(&call.query, false)?;
    let options = delete_options(server, call, body).await?;
    let selection = Selection::parse(&list_options, &**kind, &call.info)?;
    let info = kind.info();
    call.warnings.add(delete_plan::warning(info, &options));
    let mut found = list::find(server, kind, &call.info.namespace, &list_options, &selection).await?;
    let mut items = Vec::new();
    for stored in std::mem::take(&mut found.items) {
        let header = stored.header();
        match delete_in(server, call, kind, &header.namespace, &header.name, &options).await {
            // As it was found, not as the deletion left it.
            Ok(_) => items.push(stored),
            // Somebody else was faster.
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    found.items = items;
    list::respond(server, call, kind, found, output)
}

/// The write that a call makes.
pub(crate) fn write_of<'a>(
    call: &'a Call,
    kind: &'a KindRef,
    subresource: &'a str,
    name: &'a str,
    options: &'a WriteOptions,
    manager: &'a str,
) -> Write<'a> {
    Write {
        kind,
        subresource,
        // A namespace is "in" itself for admission and authorization.
        namespace: if kind.info().kind == "Namespace" && kind.info().group.is_empty() {
            name
        } else {
            &call.info.namespace
        },
        name,
        user: &call.user,
        options,
        manager,
        warnings: &call.warnings,
    }
}

/// 201 for what is new, 200 otherwise.
pub(crate) fn answer_of(kind: &KindRef, written: &Written) -> Answer {
    let code = if written.created() { 201 } else { 200 };
    Answer::Object { code, kind: kind.clone(), bytes: written.bytes().clone() }
}

/// The revision as lists and bookmarks print it.
pub(crate) fn text_of(revision: Revision) -> String {
    revision.0.to_string()
}
