//! The schema of a custom resource as OpenAPI documents show it (`apiextensions-apiserver/pkg/controller/openapi/{builder,v2}`,
//! `pkg/apiserver/schema/unfold.go`).

use api::Codec;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::{Map, Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The same schema for both versions of OpenAPI, without what every resource has (identity and metadata). It is kept as text:
/// documents are rarely asked for, and the schemas of a few operators are tens of megabytes as trees.
#[derive(Debug, Clone)]
pub struct Published {
    /// `None` publishes `type: object`.
    text: Option<Box<str>>,
    selectable: Vec<String>,
    fingerprint: u64,
}

impl Published {
    /// From a version's schema.
    pub fn new(props: Option<&JSONSchemaProps>, selectable: &[String]) -> Self {
        let text = props.and_then(|props| String::from_utf8(props.encode()).ok()).map(String::into_boxed_str);
        let mut hasher = DefaultHasher::new();
        (&text, selectable).hash(&mut hasher);
        Published { text, selectable: selectable.to_vec(), fingerprint: hasher.finish() }
    }

    /// Tells schemas apart that are not published alike.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// For OpenAPI v2, and whether apiVersion, kind and metadata are to be added. Nothing but its type if the root keeps unknown
    /// fields, because kubectl would refuse them otherwise.
    pub fn v2(&self) -> (Value, bool) {
        let mut schema = self.read();
        if schema["x-kubernetes-preserve-unknown-fields"] == true {
            return (json!({"type": "object"}), false);
        }
        to_v2(&mut schema);
        (schema, self.text.is_some())
    }

    /// For OpenAPI v3.
    pub fn v3(&self) -> Value {
        let mut schema = self.read();
        unfold(&mut schema);
        schema
    }

    /// `x-kubernetes-selectable-fields`
    pub fn selectable(&self) -> Option<Value> {
        let fields: Vec<Value> =
            self.selectable.iter().map(|path| json!({"fieldPath": path.trim_start_matches('.')})).collect();
        (!fields.is_empty()).then(|| fields.into())
    }

    fn read(&self) -> Value {
        let read = self.text.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let mut schema = read.unwrap_or_else(|| json!({"type": "object"}));
        clean(&mut schema);
        schema
    }
}

/// Runs `visit` on a schema and on all that are in its structure (not in junctors), from outside in.
fn walk(schema: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(map) = schema else { return };
    visit(map);
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|property| walk(property, visit));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            walk(inner, visit);
        }
    }
}

/// What Go's types leave out when they are written again.
fn clean(schema: &mut Value) {
    walk(schema, &mut |map| {
        for key in ["nullable", "exclusiveMaximum", "exclusiveMinimum", "uniqueItems", "x-kubernetes-embedded-resource"]
        {
            if map.get(key) == Some(&Value::Bool(false)) {
                map.remove(key);
            }
        }
        for key in ["description", "title", "format", "pattern", "type"] {
            if map.get(key) == Some(&Value::from("")) {
                map.remove(key);
            }
        }
        // The names of these are forbidden in structural schemas.
        for key in ["$schema", "$ref", "id", "definitions", "dependencies", "patternProperties", "additionalItems"] {
            map.remove(key);
        }
    });
}

/// An integer or a string is said in OpenAPI's own words, too.
fn unfold(schema: &mut Value) {
    walk(schema, &mut |map| {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        if map.get("x-kubernetes-int-or-string") != Some(&Value::Bool(true)) {
            return;
        }
        let first = map.get("allOf").and_then(|all| all.get(0)?.get("anyOf"));
        if map.get("anyOf") == Some(&either) || first == Some(&either) {
            return;
        }
        if !map.contains_key("anyOf") {
            map.insert("anyOf".into(), either);
            return;
        }
        let mut all = vec![json!({"anyOf": either})];
        all.extend(map.get("allOf").and_then(Value::as_array).into_iter().flatten().cloned());
        map.insert("allOf".into(), all.into());
    });
}

/// Leaves out what OpenAPI v2 does not know and what old kubectl stumbles over (`openapi/v2/conversion.go`).
fn to_v2(schema: &mut Value) {
    walk(schema, &mut |map| {
        for key in ["allOf", "oneOf", "anyOf", "not"] {
            map.remove(key);
        }
        if map.remove("nullable") == Some(Value::Bool(true)) {
            for key in ["type", "items", "properties"] {
                map.remove(key);
            }
        }
        let keeps_unknown = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        if keeps_unknown {
            map.remove("items");
            map.remove("properties");
        }
        let is = |map: &Map<String, Value>, ty: &str| map.get("type").is_some_and(|t| t == ty);
        if (is(map, "array") && !map.contains_key("items")) || (keeps_unknown && is(map, "object")) {
            map.remove("type");
        }
        let nullable = |schema: &Value| schema.get("nullable") == Some(&Value::Bool(true));
        let optional: Vec<String> = match map.get("properties") {
            Some(Value::Object(p)) => p.iter().filter(|(_, s)| nullable(s)).map(|(k, _)| k.clone()).collect(),
            _ => Vec::new(),
        };
        if let Some(Value::Array(required)) = map.get_mut("required") {
            required.retain(|name| optional.iter().all(|o| name != o));
        }
        let all_nullable = map.get("additionalProperties").is_some_and(nullable);
        if all_nullable || map.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            map.remove("required");
        }
    });
}

/// Adds what embedded resources have: identity and metadata. `reference` makes a reference to ObjectMeta with a description.
pub fn add_embedded(schema: &mut Value, v2: bool, reference: &dyn Fn(&str) -> Value) {
    walk(schema, &mut |map| {
        if map.get("x-kubernetes-embedded-resource") != Some(&Value::Bool(true)) {
            return;
        }
        if v2 && map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
            return;
        }
        let conventions =
            "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
        let version = format!(
            "apiVersion defines the versioned schema of this representation of an object. {conventions}#resources"
        );
        let kind = format!(
            "kind is a string value representing the type of this object. In CamelCase. {conventions}#types-kinds"
        );
        let meta = format!("Standard object's metadata. {conventions}#metadata");
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = json!({"type": "string", "description": version});
        properties["kind"] = json!({"type": "string", "description": kind});
        properties["metadata"] = reference(&meta);
        let required = map.entry("required").or_insert_with(|| json!([]));
        if let Value::Array(required) = required {
            for name in ["kind", "apiVersion"] {
                if required.iter().all(|r| r != name) {
                    required.push(name.into());
                }
            }
        }
    });
}
