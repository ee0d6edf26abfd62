//! Subresources: status and its like go through the ordinary update; scale, binding and eviction are views of the object.

use crate::api_server::{ApiServer, Call};
use crate::options::WriteOptions;
use crate::reader::KindRef;
use crate::response::Answer;
use crate::{Body, pipeline, status};
use api::Status;

/// Requests below one object.
pub(crate) async fn dispatch(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    let name = call.info.subresource.as_str();
    let Some(sub) = kind.info().subresource(name) else { return Err(status::no_such_path()) };
    let verb = call.info.verb.as_ref();
    if !sub.verbs.iter().any(|v| v == verb) {
        return Err(status::method_not_allowed());
    }
    match (name, verb) {
        ("status" | "approval" | "resize" | "ephemeralcontainers" | "finalize", "get") => {
            let stored = pipeline::existing(server, call, kind).await?;
            Ok(Answer::Object { code: 200, kind: kind.clone(), bytes: stored.bytes().clone() })
        }
        ("status" | "approval" | "resize" | "ephemeralcontainers" | "finalize", "update") => {
            pipeline::update(server, call, kind, name, body).await
        }
        ("status" | "approval" | "resize" | "ephemeralcontainers" | "finalize", "patch") => {
            pipeline::patch(server, call, kind, name, body).await
        }
        _ => Err(status::unsupported(&format!("{}/{name}", kind.info().plural))),
    }
}

/// POST of a Binding to `/bindings`.
pub(crate) async fn bind_by_body(
    _server: &ApiServer,
    _call: &Call,
    _kind: &KindRef,
    _json: &[u8],
    _options: &WriteOptions,
) -> Result<Answer, Status> {
    Err(status::unsupported("bindings"))
}
