//! The request as webhooks and expressions see it: `admission.k8s.io/v1` AdmissionRequest
//! (`apiserver/pkg/admission/plugin/webhook/request/admissionreview.go`, `…/plugin/cel/condition.go`).

use super::{Operation, Request};
use crate::auth::UserInfo;
use crate::managed::Owners;
use crate::reader::KindRef;
use crate::{encode, status};
use api::{AnyObject, Status};
use machinery::kinds::KindInfo;
use serde_json::{Map, Value, json};

/// A request's facts, without its objects, seen as one of `kind`.
pub(super) fn request_of(request: &Request<'_>, kind: &KindRef) -> Map<String, Value> {
    let own = request.info();
    let mut out = Map::new();
    out.insert("kind".into(), kind_of(kind.info(), request.subresource));
    out.insert("resource".into(), resource_of(kind.info()));
    out.insert("requestKind".into(), kind_of(own, request.subresource));
    out.insert("requestResource".into(), resource_of(own));
    let mut text = |key: &str, value: &str| {
        if !value.is_empty() {
            out.insert(key.into(), value.into());
        }
    };
    text("subResource", request.subresource);
    text("requestSubResource", request.subresource);
    text("name", request.name);
    text("namespace", request.namespace);
    text("operation", request.operation.as_str());
    out.insert("userInfo".into(), user_of(request.user));
    out.insert("dryRun".into(), request.dry_run.into());
    let options = match request.operation {
        // The options of a connection are its object.
        Operation::Connect => Value::Null,
        _ => request.options.clone(),
    };
    out.insert("options".into(), options);
    out
}

/// The kind of the body: with some subresources another than the object's.
fn kind_of(info: &KindInfo, subresource: &str) -> Value {
    let sub = info.subresource(subresource);
    let or = |part: &str, whole: &str| if part.is_empty() { whole.to_owned() } else { part.to_owned() };
    match sub {
        None => json!({"group": info.group, "version": info.version, "kind": info.kind}),
        Some(sub) => {
            // A kind of the core group is told from "same as the parent" by its version.
            let group = if sub.version.is_empty() { or(&sub.group, &info.group) } else { sub.group.to_string() };
            json!({"group": group, "version": or(&sub.version, &info.version), "kind": or(&sub.kind, &info.kind)})
        }
    }
}

fn resource_of(info: &KindInfo) -> Value {
    json!({"group": info.group, "version": info.version, "resource": info.plural})
}

fn user_of(user: &UserInfo) -> Value {
    let mut out = Map::new();
    if !user.name.is_empty() {
        out.insert("username".into(), user.name.as_str().into());
    }
    if !user.uid.is_empty() {
        out.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        out.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        out.insert("extra".into(), json!(user.extra));
    }
    Value::Object(out)
}

/// Both objects of a request as JSON of `kind`; null if there is none.
pub(super) async fn objects_of(request: &Request<'_>, kind: &KindRef) -> Result<(Value, Value), Status> {
    let new = match request.operation {
        Operation::Connect => request.options.clone(),
        _ => json_of(request, request.object.as_deref(), &request.owners, kind).await?,
    };
    Ok((new, json_of(request, request.old_object, request.old_owners, kind).await?))
}

async fn json_of(
    request: &Request<'_>,
    object: Option<&dyn AnyObject>,
    owners: &Owners,
    kind: &KindRef,
) -> Result<Value, Status> {
    let Some(object) = object else { return Ok(Value::Null) };
    let value: Value =
        serde_json::from_slice(&encode::whole(&**request.kind, object, owners)).map_err(status::internal)?;
    if request.subresource == "scale" && value["kind"] != "Scale" {
        return crate::scale::shown(&value, request.kind);
    }
    match is_same(request.kind, kind) {
        true => Ok(value),
        false => request.cluster.convert(value, request.kind, kind).await,
    }
}

/// Whether two kinds are the same resource in the same version.
pub(super) fn is_same(a: &KindRef, b: &KindRef) -> bool {
    let (a, b) = (a.info(), b.info());
    a.group == b.group && a.version == b.version && a.plural == b.plural
}
