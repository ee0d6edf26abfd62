//! What the tests of controllers share: objects from JSON, plans as text.

use crate::plan::{Plan, Verb};
use api::Object;
use client::{EventKind, Patch};
use serde_json::{Value, json};
use std::sync::Arc;

/// An object from its JSON; panics with the decoder's words.
pub(crate) fn object<K: Object>(value: Value) -> Arc<K> {
    Arc::new(K::decode(value.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e} in {value}")))
}

/// `2026-01-01T00:00:00Z` plus seconds.
pub(crate) fn at(seconds: i64) -> jiff::Timestamp {
    let epoch: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a literal timestamp");
    epoch + jiff::SignedDuration::from_secs(seconds)
}

/// A pod of namespace `ns` with `fields` merged over metadata, spec and status.
pub(crate) fn pod(name: &str, fields: Value) -> Arc<api::k8s::api::core::v1::Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut pod, fields);
    object(pod)
}

/// RFC 7386, without deletions.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// One line per event and write: `create Pod ns/a`, `status Job ns/j {…}`, `patch Pod ns/a {…}`, `again in 5s`.
pub(crate) fn show(plan: &Plan) -> String {
    let mut out = String::new();
    for e in &plan.events {
        out.push_str(&format!("event {} {}: {}\n", kind(e.kind), e.reason, e.message));
    }
    for write in &plan.writes {
        out.push_str(&write.to_string());
        match &write.verb {
            Verb::UpdateStatus(o) => {
                let value: Value = serde_json::from_slice(&o.encode()).expect("we encode JSON");
                out.push_str(&format!(" {}", value["status"]));
            }
            Verb::Patch(_, _, Patch::Merge(v) | Patch::Strategic(v) | Patch::Json(v)) => out.push_str(&format!(" {v}")),
            _ => {}
        }
        if let Some(e) = &write.on_success {
            out.push_str(&format!(" -> {} {}", e.reason, e.message));
        }
        out.push('\n');
    }
    if let Some(wait) = plan.again_after {
        out.push_str(&format!("again in {wait:?}\n"));
    }
    out
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    }
}
