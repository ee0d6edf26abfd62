//! Parameters of requests: upstream's texts about them (`data/parameters.tsv`, made by `cargo xtask parameters`), and how the v2
//! document shares them (`kube-openapi/pkg/builder/parameters.go`).

use super::Flavor;
use super::descriptions::unfold;
use crate::json::escaped_for_html;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE as BASE64;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

pub(super) const TEXT: &str = include_str!("../../data/parameters.tsv");
/// What all parameters that are no one kind's refer to.
const GENERAL: &str = "#/definitions/io.k8s.apimachinery";

/// Name and type of a parameter in a query.
pub(super) type Parameter = (&'static str, &'static str);

/// A parameter in a query. The text may be of its own where it is used: `patch`, `log`, or the kind that describes a connection.
pub(super) fn query(flavor: Flavor, at: &str, (name, ty): &Parameter) -> Value {
    let mut parameter = match flavor {
        Flavor::V2 => json!({"in": "query", "name": name, "type": ty, "uniqueItems": true}),
        Flavor::V3 => json!({"in": "query", "name": name, "schema": {"type": ty, "uniqueItems": true}}),
    };
    if let Some(text) = text(at, name) {
        parameter["description"] = unfold(text).into();
    }
    parameter
}

fn text(at: &str, name: &str) -> Option<&'static str> {
    static TEXTS: LazyLock<HashMap<(&str, &str), &str>> = LazyLock::new(|| {
        let line = |line: &'static str| {
            let (at, rest) = line.split_once('\t')?;
            let (name, text) = rest.split_once('\t')?;
            Some(((at, name), text))
        };
        TEXT.lines().filter_map(line).collect()
    });
    TEXTS.get(&(at, name)).or_else(|| TEXTS.get(&("", name))).copied()
}

/// Parameters that operations of the v2 document share, by their names there.
#[derive(Default)]
pub(super) struct Shared(BTreeMap<String, Value>);

impl Shared {
    /// Takes them out of a path and its operations, and puts references in their places.
    pub(super) fn take(&mut self, path: &mut Value) {
        for (_, part) in path.as_object_mut().into_iter().flatten() {
            let parameters = match part {
                Value::Array(parameters) => Some(parameters),
                operation => operation.get_mut("parameters").and_then(Value::as_array_mut),
            };
            for parameter in parameters.into_iter().flatten().filter(|p| is_general(p)) {
                let Some(name) = shared_name(parameter) else { continue };
                let reference = json!({"$ref": format!("#/parameters/{name}")});
                self.0.insert(name, std::mem::replace(parameter, reference));
            }
        }
    }

    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0.into_iter().collect::<Map<String, Value>>())
    }
}

/// Whether a parameter may be the same elsewhere. Old clients look for some in the operations themselves.
fn is_general(parameter: &Value) -> bool {
    let schema = parameter["schema"]["$ref"].as_str();
    match parameter["name"].as_str() {
        Some("name" | "fieldValidation" | "dryRun") => false,
        _ => schema.is_none_or(|schema| schema.starts_with(GENERAL)),
    }
}

/// The parameter as Go writes it, in the order of its members there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(skip_serializing_if = "Value::is_null")]
    unique_items: &'a Value,
    #[serde(rename = "type", skip_serializing_if = "Value::is_null")]
    type_: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    description: &'a Value,
    name: &'a Value,
    #[serde(rename = "in")]
    in_: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    required: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    schema: &'a Value,
}

/// `limit-1NfNmdNH`: the name, and a hash (FNV-1) of all of it.
fn shared_name(parameter: &Value) -> Option<String> {
    let written = Written {
        unique_items: &parameter["uniqueItems"],
        type_: &parameter["type"],
        description: &parameter["description"],
        name: &parameter["name"],
        in_: &parameter["in"],
        required: &parameter["required"],
        schema: &parameter["schema"],
    };
    let text = escaped_for_html(serde_json::to_string(&written).ok()?);
    let step = |hash: u64, byte: u8| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    Some(format!("{}-{}", parameter["name"].as_str()?, BASE64.encode(&hash.to_be_bytes()[..6])))
}
