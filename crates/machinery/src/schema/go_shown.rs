//! Objects as Go's `encoding/json` writes the structs that upstream's server holds them in: those have no JSON names, so all
//! fields are there under the names of the struct, in its order. Messages about a whole struct show that.
//!
//! The structs of `pkg/apis` are taken to have the fields of their versioned ones in the order of their numbers; where that is
//! not so, whoever shows one writes it down ([`Raw::go_struct`]).

use super::builtin::{Content, Message, Presence};
use super::{Scalar, Type, TypeId, builtin};
use crate::json::escaped_for_html;
use crate::validation::Raw;
use serde_json::Value;

/// A value of a built-in struct, by its definition in OpenAPI (`io.k8s.api.storage.v1.CSINodeDriver`). None is null.
pub(crate) fn go_shown(definition: &str, value: &impl serde::Serialize) -> Raw {
    // Serializing our own types to a value does not fail.
    let value = serde_json::to_value(value).unwrap_or_default();
    let Some(ty) = builtin().by_name(definition) else { return Raw::from(value) };
    let mut out = String::new();
    show(ty, Some(&value), Presence::Pointer, &mut out);
    Raw(escaped_for_html(out))
}

fn show(ty: TypeId, value: Option<&Value>, presence: Presence, out: &mut String) {
    let value = value.filter(|v| !v.is_null());
    match (builtin().schema.get(ty), value) {
        (Type::Struct(s), Some(value)) if has_json_names(&s.name) => out.push_str(&value.to_string()),
        (Type::Struct(_), None) if presence == Presence::Pointer => out.push_str("null"),
        (Type::Struct(_), value) => structure(ty, value, out),
        (Type::List { item, .. }, Some(Value::Array(items))) => {
            let shown = items.iter().map(|v| text_of(*item, v)).collect::<Vec<_>>().join(",");
            out.push_str(&format!("[{shown}]"));
        }
        (Type::Map { value, .. }, Some(Value::Object(map))) => {
            let entry = |(key, v): (&String, &Value)| format!("{}:{}", Value::from(key.as_str()), text_of(*value, v));
            let shown = map.iter().map(entry).collect::<Vec<_>>().join(",");
            out.push_str(&format!("{{{shown}}}"));
        }
        (_, Some(value)) => out.push_str(&value.to_string()),
        (Type::Scalar(scalar), None) if presence != Presence::Pointer => out.push_str(zero(*scalar)),
        (_, None) => out.push_str("null"),
    }
}

fn text_of(ty: TypeId, value: &Value) -> String {
    let mut out = String::new();
    show(ty, Some(value), Presence::Always, &mut out);
    out
}

fn structure(ty: TypeId, value: Option<&Value>, out: &mut String) {
    let b = builtin();
    let (Type::Struct(s), Some(message)) = (b.schema.get(ty), b.message(ty)) else { return out.push_str("{}") };
    out.push('{');
    let mut first = true;
    each_field(message, &mut |index, presence| {
        let field = &s.fields[index];
        out.push_str(if std::mem::take(&mut first) { "\"" } else { ",\"" });
        out.push_str(&go_name(&field.name));
        out.push_str("\":");
        show(field.ty, value.and_then(|v| v.get(field.name.as_ref())), presence, out);
    });
    out.push('}');
}

/// Fields of embedded structs stand where these are.
fn each_field(message: &Message, visit: &mut impl FnMut(usize, Presence)) {
    for field in &message.fields {
        match &field.content {
            Content::Field { index, presence, .. } => visit(*index, *presence),
            Content::Inline(inner) => each_field(inner, visit),
        }
    }
}

/// Of `meta/v1` there is one set of structs, and it has names.
fn has_json_names(name: &str) -> bool {
    name.starts_with("io.k8s.apimachinery.")
}

/// The name of a field in Go.
fn go_name(json: &str) -> String {
    let spelled = [
        ("uid", "UID"),
        ("cel", "CEL"),
        ("cidrs", "CIDRs"),
        ("apiVersion", "APIVersion"),
        ("apiGroup", "APIGroup"),
        ("gmsaCredentialSpec", "GMSACredentialSpec"),
        ("gmsaCredentialSpecName", "GMSACredentialSpecName"),
    ];
    if let Some((_, name)) = spelled.iter().find(|(field, _)| *field == json) {
        return (*name).to_owned();
    }
    let mut chars = json.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn zero(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "\"\"",
        Scalar::Bool => "false",
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => "0",
        Scalar::Quantity => "\"0\"",
        Scalar::Bytes | Scalar::Time | Scalar::MicroTime => "null",
        Scalar::Duration => "\"0s\"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn structs_show_all_their_fields() {
        let shown = |definition: &str, value: Value| go_shown(definition, &value).0;
        assert_eq!(shown("io.k8s.api.storage.v1.CSINodeDriver", Value::Null), "null");
        assert_eq!(
            shown("io.k8s.api.storage.v1.CSINodeDriver", json!({"name": "a", "nodeID": "<"})),
            r#"{"Name":"a","NodeID":"\u003c","TopologyKeys":null,"Allocatable":null}"#
        );
        assert_eq!(
            shown("io.k8s.api.storage.v1.VolumeAttachmentSpec", json!({"attacher": "a", "nodeName": "n"})),
            r#"{"Attacher":"a","Source":{"PersistentVolumeName":null,"InlineVolumeSpec":null},"NodeName":"n"}"#
        );
        assert_eq!(
            shown(
                "io.k8s.api.policy.v1.PodDisruptionBudgetSpec",
                json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}})
            ),
            r#"{"MinAvailable":1,"Selector":{"matchLabels":{"a":"b"}},"MaxUnavailable":null,"UnhealthyPodEvictionPolicy":null}"#
        );
    }
}
