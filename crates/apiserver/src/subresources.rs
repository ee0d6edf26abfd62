//! Subresources: status and its like go through the ordinary update; binding, eviction, token and scale are their own
//! questions about the object; the rest is a connection to a node ([`crate::connect`]).

use crate::admission::Operation;
use crate::api_server::{ApiServer, Call};
use crate::codec::{self, Expected};
use crate::negotiate;
use crate::options::WriteOptions;
use crate::pipeline::write_of;
use crate::reader::KindRef;
use crate::response::Answer;
use crate::{Body, connect, eviction, pipeline, scale, status};
use api::k8s::api::authentication::v1::TokenRequest;
use api::k8s::api::core::v1::{Binding, PodCondition};
use api::prelude::{MetaExt, Pod, ServiceAccount};
use api::{AnyObject, Codec, Status, Time};
use machinery::field::{FieldError, Path, aggregate};

/// Requests below one object, each in a box as [`pipeline`]'s.
pub(crate) async fn dispatch(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    let name = call.info.subresource.as_str();
    let Some(sub) = kind.info().subresource(name) else { return Err(status::no_such_path()) };
    let verb = call.info.verb.as_ref();
    // What is asked of a proxied server is that server's business; OPTIONS has no verb (`endpoints/installer.go`, CONNECT).
    let passes = name == "proxy" && call.head.method == http::Method::OPTIONS;
    if !passes && !sub.verbs.iter().any(|v| v == verb) {
        return Err(status::method_not_allowed());
    }
    match (name, verb) {
        ("status" | "approval" | "resize" | "ephemeralcontainers" | "finalize", "get") => {
            let stored = pipeline::existing(server, call, kind).await?;
            Ok(Answer::Object { code: 200, kind: kind.clone(), bytes: stored.bytes().clone() })
        }
        ("status" | "approval" | "resize" | "ephemeralcontainers" | "finalize", "update") => {
            Box::pin(pipeline::update(server, call, kind, name, body)).await
        }
        ("status" | "approval" | "resize" | "ephemeralcontainers" | "finalize", "patch") => {
            Box::pin(pipeline::patch(server, call, kind, name, body)).await
        }
        ("scale", _) => Box::pin(scale::answer(server, call, kind, body)).await,
        ("binding", _) => Box::pin(bind(server, call, kind, body)).await,
        ("eviction", _) => Box::pin(eviction::answer(server, call, kind, body)).await,
        ("token", _) => Box::pin(token(server, call, kind, body)).await,
        ("log" | "exec" | "attach" | "portforward" | "proxy", _) => {
            Box::pin(connect::answer(server, call, kind, body)).await
        }
        _ => Err(status::unsupported(&format!("{}/{name}", kind.info().plural))),
    }
}

/// The body of a POST to a subresource of another kind.
pub(crate) async fn decode_as<K: Codec>(
    call: &Call,
    body: Body,
    expected: Expected<'_>,
) -> Result<(K, WriteOptions), Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    let encoding = negotiate::input(&call.head.headers)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let json = codec::to_json(encoding, pipeline::read(body).await?, expected)?.json;
    codec::check_identity(&json, expected)?;
    let object = K::decode(&json).map_err(|e| status::bad_request(e.to_string()))?;
    Ok((object, options))
}

/// Runs admission over a POST to a subresource; gives the body back as the plugins left it.
pub(crate) async fn admit<K: api::Object>(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    options: &WriteOptions,
    object: K,
) -> Result<K, Status> {
    let write = write_of(call, kind, &call.info.subresource, &call.info.name, options, "");
    let mut request = write.admission(server, Operation::Create, &call.info.name, Some(Box::new(object)), None);
    server.admit(&mut request).await?;
    server.admit_final(&request).await?;
    let object = request.object.take().as_deref().and_then(|o| api::any::downcast_ref::<K>(o).cloned());
    object.ok_or_else(|| status::internal("admission dropped the object"))
}

/// 201 with nothing but success.
pub(crate) fn created() -> Answer {
    let status = Status {
        kind: "Status".into(),
        api_version: "v1".into(),
        status: "Success".into(),
        code: 201,
        ..Status::default()
    };
    Answer::Plain { code: 201, bytes: status.encode().into() }
}

// === binding ===

const BINDING: Expected<'_> = Expected { group: "", version: "v1", kind: "Binding" };

/// POST to `pods/binding`: the scheduler's decision (`pkg/registry/core/pod/storage/storage.go`, `BindingREST`).
async fn bind(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    let (binding, options) = decode_as::<Binding>(call, body, BINDING).await?;
    if binding.name() != call.info.name {
        return Err(status::bad_request("name in URL does not match name in Binding object"));
    }
    let binding = admit(server, call, kind, &options, binding).await?;
    assign(server, kind, &call.info.namespace, &binding, options.dry_run).await?;
    Ok(created())
}

/// POST of a Binding to `/bindings`, the old way.
pub(crate) async fn bind_by_body(
    server: &ApiServer,
    call: &Call,
    _kind: &KindRef,
    json: &[u8],
    options: &WriteOptions,
) -> Result<Answer, Status> {
    codec::check_identity(json, BINDING)?;
    let binding = Binding::decode(json).map_err(|e| status::bad_request(e.to_string()))?;
    let pods = server.find_kind("", "v1", "pods").ok_or_else(status::no_such_path)?;
    assign(server, &pods, &call.info.namespace, &binding, options.dry_run).await?;
    Ok(created())
}

async fn assign(
    server: &ApiServer,
    pods: &KindRef,
    namespace: &str,
    binding: &Binding,
    dry_run: bool,
) -> Result<(), Status> {
    check_target(binding)?;
    let now = crate::delete_plan::truncate(server.clock_now());
    let change = |object: &mut dyn AnyObject| {
        let pod = api::any::downcast_mut::<Pod>(object).ok_or_else(|| status::internal("not a pod"))?;
        assign_pod(pod, binding, now)
    };
    server.rewrite(pods, namespace, binding.name(), dry_run, &change).await?;
    Ok(())
}

/// `ValidatePodBinding`. Upstream answers 500 with the bare text.
fn check_target(binding: &Binding) -> Result<(), Status> {
    let path = Path::new("target");
    let kind = binding.target.kind.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::failure(500, "", aggregate(&errors))) }
}

fn assign_pod(pod: &mut Pod, binding: &Binding, now: jiff::Timestamp) -> Result<(), Status> {
    let name = pod.name().to_owned();
    let refuse = |why: String| {
        let text = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        let details =
            api::status::StatusDetails { name: name.clone(), kind: "pods/binding".into(), ..Default::default() };
        Err(Status::failure(409, "Conflict", text).with_details(details))
    };
    let (uid, version) = (binding.uid(), binding.metadata.resource_version.as_deref().unwrap_or_default());
    if !uid.is_empty() && uid != pod.uid() {
        return refuse(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", pod.uid()));
    }
    let stored = pod.metadata.resource_version.as_deref().unwrap_or_default();
    if !version.is_empty() && version != stored {
        return refuse(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {stored}"
        ));
    }
    if pod.is_deleting() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {node:?}"));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name = binding.target.name.clone();
    if let Some(annotations) = binding.metadata.annotations.clone() {
        pod.metadata.annotations.get_or_insert_default().extend(annotations);
    }
    if let Some(labels) = binding.metadata.labels.clone() {
        pod.metadata.labels.get_or_insert_default().extend(labels);
    }
    pod.status.get_or_insert_default().nominated_node_name = None;
    set_condition(pod, "PodScheduled", None, now);
    Ok(())
}

/// Sets a condition to True; the transition time moves only if it was not (`podutil.UpdatePodCondition`).
pub(crate) fn set_condition(pod: &mut Pod, type_: &str, reason: Option<(&str, &str)>, now: jiff::Timestamp) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let at = conditions.iter().position(|c| c.type_ == type_);
    let since = match at.map(|i| &conditions[i]) {
        Some(old) if old.status == "True" => old.last_transition_time.clone(),
        _ => Some(Time(now)),
    };
    let condition = PodCondition {
        type_: type_.into(),
        status: "True".into(),
        last_transition_time: since,
        reason: reason.map(|(r, _)| r.into()),
        message: reason.map(|(_, m)| m.into()),
        ..PodCondition::default()
    };
    match at {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

// === token ===

/// POST to `serviceaccounts/token`.
async fn token(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    let expected = Expected { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" };
    let (request, options) = decode_as::<TokenRequest>(call, body, expected).await?;
    let Some(issuer) = &server.inner.deps.token_issuer else {
        return Err(status::unsupported("serviceaccounts/token without a token issuer"));
    };
    let found = server.reader().get::<ServiceAccount>(&call.info.namespace, &call.info.name).await?;
    let account = found.ok_or_else(|| status::not_found(kind.info(), &call.info.name))?;
    let given = request.name();
    if !given.is_empty() && given != call.info.name {
        return Err(status::bad_request(format!(
            "metadata.name: Invalid value: {given:?}: must match the service account name if specified"
        )));
    }
    let mut request = admit(server, call, kind, &options, request).await?;
    request.metadata.name = Some(call.info.name.clone());
    request.metadata.namespace = Some(call.info.namespace.clone());
    let mut answer = issuer.issue(&account, request).await?;
    answer.metadata.creation_timestamp = Some(Time(crate::delete_plan::truncate(server.clock_now())));
    Ok(Answer::Plain { code: 201, bytes: Codec::encode(&answer).into() })
}
