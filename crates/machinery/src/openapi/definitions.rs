//! Types to OpenAPI schemas.
//!
//! The two versions differ in where references point, in how a reference carries a description (`allOf` in v3), and in
//! that only v3 has defaults (`k8s.io/kube-openapi/pkg/schemaconv` and `builder`).

use super::descriptions::{Descriptions, of, unfold};
use super::enums;
use crate::schema::builtin::Untyped;
use crate::schema::{Builtin, Field, ListTopology, Scalar, Struct, Type, TypeId, builtin};
use serde_json::{Map, Value, json};

/// Which OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    V2,
    V3,
}

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

impl Flavor {
    /// `{"$ref": …}`
    pub(super) fn reference(self, definition: &str) -> Value {
        let prefix = if self == Flavor::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({"$ref": format!("{prefix}{definition}")})
    }
}

/// The schema of a definition with the definitions it refers to.
pub(super) fn definition(name: &str, flavor: Flavor, references: &mut Vec<String>) -> Option<Value> {
    let b = builtin();
    match b.by_name(name).and_then(|id| b.structure(id)) {
        Some(s) => Some(structure(b, s, flavor, references)),
        None => leaf(name, flavor).map(|schema| described(schema, of(name).text)),
    }
}

fn structure(b: &Builtin, s: &Struct, flavor: Flavor, references: &mut Vec<String>) -> Value {
    let texts: Descriptions = of(&s.name);
    let mut schema = json!({"type": "object"});
    if !s.fields.is_empty() {
        let mut properties: Map<String, Value> = s
            .fields
            .iter()
            .map(|f| {
                let text = texts.fields.get(f.name.as_ref()).copied().unwrap_or_default();
                (f.name.to_string(), property(b, f, text, flavor, references))
            })
            .collect();
        for (field, values) in enums::of(&s.name) {
            if let Some(property) = properties.get_mut(field) {
                enums::add(property, &values);
            }
        }
        schema["properties"] = properties.into();
    }
    // Fields are in the order of their names; upstream's are in that of their declaration, as mostly are their numbers.
    let mut required: Vec<&Field> = s.fields.iter().filter(|f| f.required).collect();
    required.sort_by_key(|f| f.proto_number);
    if !required.is_empty() {
        let names: Vec<&str> = required.iter().map(|f| f.name.as_ref()).collect();
        schema["required"] = json!(names);
    }
    if let Some((discriminator, fields)) = union(&s.name) {
        let fields: Map<String, Value> =
            fields.iter().map(|(field, value)| ((*field).to_owned(), Value::from(*value))).collect();
        let mut union = json!({"fields-to-discriminateBy": fields});
        if !discriminator.is_empty() {
            union["discriminator"] = discriminator.into();
        }
        schema["x-kubernetes-unions"] = json!([union]);
    }
    if is_list(s) {
        // Lists of objects are no values that somebody applies.
        if let Some(items) = schema["properties"]["items"].as_object_mut() {
            items.remove("x-kubernetes-list-type");
        }
    }
    if s.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    described(schema, texts.text)
}

/// A list of objects of one kind.
fn is_list(s: &Struct) -> bool {
    s.name.ends_with("List")
        && s.fields.iter().any(|f| f.name == "metadata")
        && s.fields.iter().any(|f| f.name == "items")
}

/// What is said about a union (`+union` in upstream's types): the field that says which, and each field with its value of that one.
fn union(definition: &str) -> Option<(&'static str, &'static [(&'static str, &'static str)])> {
    Some(match definition.strip_prefix("io.k8s.api.")? {
        "core.v1.AppArmorProfile" | "core.v1.SeccompProfile" => ("type", &[("localhostProfile", "LocalhostProfile")]),
        "core.v1.PodSchedulingGroup" => ("", &[("podGroupName", "PodGroupName")]),
        "flowcontrol.v1.LimitResponse" => ("type", &[("queuing", "Queuing")]),
        "flowcontrol.v1.PriorityLevelConfigurationSpec" => ("type", &[("exempt", "Exempt"), ("limited", "Limited")]),
        "flowcontrol.v1.Subject" => {
            ("kind", &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")])
        }
        _ => return None,
    })
}

fn property(b: &Builtin, f: &Field, text: &str, flavor: Flavor, references: &mut Vec<String>) -> Value {
    let mut extra = Map::new();
    if flavor == Flavor::V3
        && let Some(default) = &f.default
    {
        extra.insert("default".into(), default.clone());
    }
    if !text.is_empty() {
        extra.insert("description".into(), unfold(text).into());
    }
    let strategies: Vec<&str> = [(f.patch.merge, "merge"), (f.patch.retain_keys, "retainKeys")]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    if !strategies.is_empty() {
        extra.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    if !f.patch.merge_key.is_empty() {
        extra.insert("x-kubernetes-patch-merge-key".into(), f.patch.merge_key.clone().into());
    }
    if is_granular(b, f.ty) {
        extra.insert("x-kubernetes-map-type".into(), "granular".into());
    }
    with(type_schema(b, f.ty, flavor, references), extra, flavor)
}

/// A field that overrides the atomic map type of its definition has a copy of the struct.
fn is_granular(b: &Builtin, ty: TypeId) -> bool {
    let Type::Struct(s) = b.schema.get(ty) else { return false };
    let original = b.by_name(&s.name).and_then(|id| b.structure(id));
    !s.atomic && original.is_some_and(|o| o.atomic)
}

/// A field's schema with what is said about the field. A v3 reference moves into `allOf` to have siblings.
pub(super) fn with(schema: Value, extra: Map<String, Value>, flavor: Flavor) -> Value {
    if extra.is_empty() {
        return schema;
    }
    let mut map = match schema {
        Value::Object(map) if flavor == Flavor::V3 && map.contains_key("$ref") => {
            Map::from_iter([("allOf".to_owned(), json!([map]))])
        }
        Value::Object(map) => map,
        other => return other,
    };
    map.extend(extra);
    Value::Object(map)
}

fn described(mut schema: Value, text: &str) -> Value {
    if !text.is_empty() {
        schema["description"] = unfold(text).into();
    }
    schema
}

fn type_schema(b: &Builtin, ty: TypeId, flavor: Flavor, references: &mut Vec<String>) -> Value {
    let mut refer = |name: String| {
        let reference = flavor.reference(&name);
        references.push(name);
        reference
    };
    match b.schema.get(ty) {
        Type::Scalar(scalar) => match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Time => refer(format!("{META}Time")),
            Scalar::MicroTime => refer(format!("{META}MicroTime")),
            Scalar::Duration => refer(format!("{META}Duration")),
            Scalar::Quantity => refer("io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned()),
            Scalar::IntOrString => refer("io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned()),
        },
        Type::Any => refer(match b.untyped(ty).unwrap_or(Untyped::RawExtension) {
            Untyped::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
            Untyped::FieldsV1 => format!("{META}FieldsV1"),
            Untyped::Json => format!("{APIEXTENSIONS}JSON"),
            Untyped::JsonSchemaPropsOrArray => format!("{APIEXTENSIONS}JSONSchemaPropsOrArray"),
            Untyped::JsonSchemaPropsOrBool => format!("{APIEXTENSIONS}JSONSchemaPropsOrBool"),
            Untyped::JsonSchemaPropsOrStringArray => format!("{APIEXTENSIONS}JSONSchemaPropsOrStringArray"),
        }),
        Type::Struct(s) => refer(s.name.to_string()),
        Type::Map { value, atomic } => {
            let item = type_schema(b, *value, flavor, references);
            let mut schema = json!({"type": "object", "additionalProperties": item});
            if *atomic {
                schema["x-kubernetes-map-type"] = "atomic".into();
            }
            schema
        }
        Type::List { item, topology } => {
            let items = type_schema(b, *item, flavor, references);
            let mut schema = json!({"type": "array", "items": items});
            let list_type = match topology {
                ListTopology::Atomic => "atomic",
                ListTopology::Set => "set",
                ListTopology::Map(keys) => {
                    schema["x-kubernetes-list-map-keys"] = json!(keys);
                    "map"
                }
            };
            schema["x-kubernetes-list-type"] = list_type.into();
            schema
        }
    }
}

/// Definitions that are no structs.
fn leaf(name: &str, flavor: Flavor) -> Option<Value> {
    let v3 = flavor == Flavor::V3;
    let short = name.rsplit('.').next().unwrap_or_default();
    Some(match short {
        "Quantity" if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "Quantity" | "Duration" => json!({"type": "string"}),
        "IntOrString" if v3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        "IntOrString" => json!({"type": "string", "format": "int-or-string"}),
        "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
        "RawExtension" | "FieldsV1" | "Patch" => json!({"type": "object"}),
        _ if name.starts_with(APIEXTENSIONS) && short.starts_with("JSON") => json!({}),
        _ => return None,
    })
}
