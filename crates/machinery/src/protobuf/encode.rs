//! JSON values to protobuf messages.

use super::wire::{FIXED64, LEN, VARINT, nested, put_bytes, put_int, put_key, put_varint};
use super::{MAX_DEPTH, ProtobufError};
use crate::schema::builtin::{Content, Message, Presence, Untyped};
use crate::schema::{Field, Scalar, Struct, Type, TypeId, builtin, time};
use base64::Engine;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Magic and envelope around a message.
pub(super) fn body(
    api_version: &str,
    kind: &str,
    message: impl FnOnce(&mut Vec<u8>) -> Result<(), ProtobufError>,
) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(super::MAGIC);
    put_key(&mut out, 1, LEN);
    nested(&mut out, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
        Ok(())
    })?;
    put_key(&mut out, 2, LEN);
    nested(&mut out, message)?;
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    Ok(out)
}

/// `PartialObjectMetadata{ 1: ObjectMeta }`, which no published schema has (`apimachinery/pkg/apis/meta/v1/generated.proto`).
pub(super) fn partial(object: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    metadata("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", object, out)
}

/// `PartialObjectMetadataList{ 1: ListMeta, 2: PartialObjectMetadata… }`.
pub(super) fn partial_list(list: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    metadata("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", list, out)?;
    for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        put_key(out, 2, LEN);
        nested(out, |out| partial(item, out))?;
    }
    Ok(())
}

fn metadata(definition: &str, object: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    let ty = builtin().by_name(definition).expect("the table has the types of all metadata");
    put_key(out, 1, LEN);
    nested(out, |out| message(ty, object.get("metadata").unwrap_or(&Value::Null), out, MAX_DEPTH))
}

/// The fields of a message of type `ty`, without its length.
pub(super) fn message(ty: TypeId, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtobufError> {
    let b = builtin();
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    match (b.schema.get(ty), b.message(ty)) {
        (Type::Struct(s), Some(m)) => {
            let map = match value {
                Value::Object(map) => map,
                Value::Null => &NOTHING,
                _ => return Err(wrong(&s.name, value)),
            };
            fields(s, m, map, out, depth)
        }
        (Type::Scalar(scalar), _) => special_scalar(*scalar, value, out),
        (Type::Any, _) => untyped(b.untyped(ty).unwrap_or(Untyped::RawExtension), value, out, depth),
        _ => Err(wrong("message", value)),
    }
}

fn fields(
    s: &Struct,
    m: &Message,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtobufError> {
    for f in &m.fields {
        match &f.content {
            Content::Inline(inner) => {
                put_key(out, f.number, LEN);
                nested(out, |out| fields(s, inner, map, out, depth))?;
            }
            Content::Field { index, presence, wrapped } => {
                let field = &s.fields[*index];
                let value = map.get(field.name.as_ref()).unwrap_or(&Value::Null);
                if *wrapped {
                    list_message(field, f.number, value, out, depth)?;
                } else {
                    self::field(field, f.number, *presence, value, out, depth)?;
                }
            }
        }
    }
    Ok(())
}

/// A named slice type: `{ 1: items }`, left out when null.
fn list_message(f: &Field, number: u32, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtobufError> {
    if value.is_null() {
        return Ok(());
    }
    put_key(out, number, LEN);
    nested(out, |out| field(f, 1, Presence::Always, value, out, depth))
}

fn field(
    f: &Field,
    number: u32,
    presence: Presence,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let b = builtin();
    match b.schema.get(f.ty) {
        Type::List { item, .. } => match value {
            Value::Null => Ok(()),
            Value::Array(items) => items.iter().try_for_each(|v| element(&f.name, number, *item, v, out, depth)),
            _ => Err(wrong(&f.name, value)),
        },
        Type::Map { value: item, .. } => match value {
            Value::Null => Ok(()),
            Value::Object(map) => entries(&f.name, number, *item, map, out, depth),
            _ => Err(wrong(&f.name, value)),
        },
        // A byte slice is absent or there, whatever its tag says.
        Type::Scalar(Scalar::Bytes) | Type::Any if value.is_null() && presence == Presence::Pointer => Ok(()),
        Type::Scalar(Scalar::Bytes) if value.is_null() => Ok(()),
        _ if value.is_null() && presence == Presence::Pointer => Ok(()),
        _ => element(&f.name, number, f.ty, value, out, depth),
    }
}

/// Entries are messages `{ 1: key, 2: value }`, sorted by key.
fn entries(
    name: &str,
    number: u32,
    item: TypeId,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let mut sorted: Vec<(&String, &Value)> = map.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in sorted {
        put_key(out, number, LEN);
        nested(out, |out| {
            put_bytes(out, 1, key.as_bytes());
            let Type::List { item: inner, .. } = builtin().schema.get(item) else {
                return element(name, 2, item, value, out, depth);
            };
            put_key(out, 2, LEN);
            nested(out, |out| match value {
                Value::Array(items) => items.iter().try_for_each(|v| element(name, 1, *inner, v, out, depth)),
                Value::Null => Ok(()),
                _ => Err(wrong(name, value)),
            })
        })?;
    }
    Ok(())
}

/// One value with its tag. Null is the zero value.
fn element(
    name: &str,
    number: u32,
    ty: TypeId,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let Type::Scalar(scalar) = builtin().schema.get(ty) else {
        put_key(out, number, LEN);
        return nested(out, |out| message(ty, value, out, depth));
    };
    match (scalar, value) {
        (Scalar::String, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Scalar::String | Scalar::Bytes, Value::Null) => put_bytes(out, number, b""),
        (Scalar::Bytes, Value::String(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| wrong(name, value))?;
            put_bytes(out, number, &bytes);
        }
        (Scalar::Bool, Value::Bool(flag)) => put_int(out, number, i64::from(*flag)),
        (Scalar::Bool | Scalar::Int32 | Scalar::Int64, Value::Null) => put_int(out, number, 0),
        (Scalar::Int32 | Scalar::Int64, Value::Number(n)) => {
            put_key(out, number, VARINT);
            put_varint(out, n.as_i64().ok_or_else(|| wrong(name, value))?.cast_unsigned());
        }
        (Scalar::Double, _) => {
            put_key(out, number, FIXED64);
            let double = if value.is_null() { Some(0.0) } else { value.as_f64() };
            out.extend_from_slice(&double.ok_or_else(|| wrong(name, value))?.to_bits().to_le_bytes());
        }
        (Scalar::Time | Scalar::MicroTime | Scalar::Duration | Scalar::Quantity | Scalar::IntOrString, _) => {
            put_key(out, number, LEN);
            nested(out, |out| special_scalar(*scalar, value, out).map_err(|_| wrong(name, value)))?;
        }
        _ => return Err(wrong(name, value)),
    }
    Ok(())
}

/// Leaves that are messages of their own.
fn special_scalar(scalar: Scalar, value: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    let text = value.as_str();
    match scalar {
        Scalar::Time | Scalar::MicroTime => {
            let Some(text) = text else { return null_only(value) };
            let layout = if scalar == Scalar::Time { time::SECONDS } else { time::MICROSECONDS };
            let (seconds, nanos) = time::parse(text, layout).map_err(|_| wrong("time", value))?;
            put_int(out, 1, seconds);
            put_int(out, 2, if scalar == Scalar::Time { 0 } else { i64::from(nanos) });
        }
        Scalar::Duration => {
            let nanos = text.map_or(Some(0), time::parse_go_duration).ok_or_else(|| wrong("duration", value))?;
            put_int(out, 1, nanos);
        }
        Scalar::Quantity => {
            let written = match value {
                Value::Null => "0".to_owned(),
                Value::Number(n) => n.to_string(),
                value => value.as_str().ok_or_else(|| wrong("quantity", value))?.to_owned(),
            };
            let canonical = crate::quantity::canonical(&written).map_err(|_| wrong("quantity", value))?;
            put_bytes(out, 1, canonical.as_bytes());
        }
        Scalar::IntOrString => {
            let number = if value.is_null() { Some(0) } else { value.as_i64() };
            if number.is_none() && text.is_none() {
                return Err(wrong("int-or-string", value));
            }
            put_int(out, 1, i64::from(text.is_some()));
            put_int(out, 2, number.unwrap_or(0));
            put_bytes(out, 3, text.unwrap_or_default().as_bytes());
        }
        _ => return Err(wrong("message", value)),
    }
    Ok(())
}

/// Types that hold raw JSON, or one of several shapes (`apiextensions/v1/marshal.go`).
fn untyped(kind: Untyped, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtobufError> {
    let schema = |number: u32, value: &Value, out: &mut Vec<u8>| {
        put_key(out, number, LEN);
        nested(out, |out| message(json_schema_props(), value, out, depth))
    };
    match (kind, value) {
        (Untyped::Json, _) => put_bytes(out, 1, value.to_string().as_bytes()),
        (_, Value::Null) => {}
        (Untyped::RawExtension | Untyped::FieldsV1, _) => put_bytes(out, 1, value.to_string().as_bytes()),
        (Untyped::JsonSchemaPropsOrBool, Value::Bool(allows)) => put_int(out, 1, i64::from(*allows)),
        (Untyped::JsonSchemaPropsOrBool, _) => {
            put_int(out, 1, 1);
            schema(2, value, out)?;
        }
        (Untyped::JsonSchemaPropsOrArray, Value::Array(items)) => {
            items.iter().try_for_each(|item| schema(2, item, out))?;
        }
        (Untyped::JsonSchemaPropsOrStringArray, Value::Array(items)) => {
            for item in items {
                put_bytes(out, 2, item.as_str().ok_or_else(|| wrong("dependencies", item))?.as_bytes());
            }
        }
        (Untyped::JsonSchemaPropsOrArray | Untyped::JsonSchemaPropsOrStringArray, _) => schema(1, value, out)?,
    }
    Ok(())
}

/// The type of the schemas inside custom resource definitions.
pub(super) fn json_schema_props() -> TypeId {
    static ID: LazyLock<TypeId> = LazyLock::new(|| {
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        builtin().by_name(name).expect("the table has every type of apiextensions/v1")
    });
    *ID
}

fn null_only(value: &Value) -> Result<(), ProtobufError> {
    if value.is_null() { Ok(()) } else { Err(wrong("time", value)) }
}

fn wrong(field: &str, value: &Value) -> ProtobufError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "this text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ProtobufError::Field { field: field.to_owned(), problem: format!("cannot hold {found}") }
}
