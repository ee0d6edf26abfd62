//! Protobuf messages to JSON values.

use super::encode::json_schema_props;
use super::wire::{Fields, Raw};
use super::{MAGIC, MAX_DEPTH, ProtobufError};
use crate::schema::builtin::{Content, Message, Presence, Untyped};
use crate::schema::{Scalar, Struct, Type, TypeId, builtin, time};
use base64::Engine;
use serde_json::{Map, Number, Value};

/// The envelope of a body.
#[derive(Debug, Default)]
pub(super) struct Unknown<'a> {
    pub(super) api_version: &'a str,
    pub(super) kind: &'a str,
    pub(super) raw: &'a [u8],
}

/// Opens the envelope.
pub(super) fn unknown(bytes: &[u8]) -> Result<Unknown<'_>, ProtobufError> {
    if bytes.is_empty() {
        return Err(ProtobufError::Empty);
    }
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    if body.is_empty() {
        return Err(ProtobufError::EmptyBody);
    }
    let mut unknown = Unknown::default();
    for field in Fields::new(body) {
        match field? {
            (1, Raw::Len(meta)) => {
                for field in Fields::new(meta) {
                    match field? {
                        (1, Raw::Len(text)) => unknown.api_version = utf8(text)?,
                        (2, Raw::Len(text)) => unknown.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Raw::Len(raw)) => unknown.raw = raw,
            _ => {}
        }
    }
    Ok(unknown)
}

/// A message of type `ty`.
pub(super) fn message(ty: TypeId, bytes: &[u8]) -> Result<Value, ProtobufError> {
    value_message(ty, bytes, MAX_DEPTH)
}

fn value_message(ty: TypeId, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let b = builtin();
    match (b.schema.get(ty), b.message(ty)) {
        (Type::Struct(s), Some(m)) => {
            let mut map = Map::new();
            fields(s, m, bytes, &mut map, depth)?;
            Ok(Value::Object(map))
        }
        (Type::Scalar(scalar), _) => special_scalar(*scalar, bytes),
        (Type::Any, _) => untyped(b.untyped(ty).unwrap_or(Untyped::RawExtension), bytes, depth),
        _ => Err(ProtobufError::Malformed("a list or map is no message")),
    }
}

fn fields(
    s: &Struct,
    m: &Message,
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    for field in Fields::new(bytes) {
        let (number, raw) = field?;
        let Ok(at) = m.fields.binary_search_by_key(&number, |f| f.number) else { continue };
        match &m.fields[at].content {
            Content::Inline(inner) => {
                let Raw::Len(bytes) = raw else { return Err(ProtobufError::Malformed("wrong wireType")) };
                fields(s, inner, bytes, map, depth)?;
            }
            Content::Field { index, presence, wrapped } => {
                let field = &s.fields[*index];
                if *wrapped {
                    let Raw::Len(bytes) = raw else { return Err(ProtobufError::Malformed("wrong wireType")) };
                    map.insert(field.name.to_string(), wrapped_list(field.ty, bytes, depth)?);
                } else {
                    self::field(&field.name, field.ty, *presence, raw, map, depth)?;
                }
            }
        }
    }
    always(s, m, map);
    Ok(())
}

/// Go always shows plain fields without `omitempty`, sent or not.
fn always(s: &Struct, m: &Message, map: &mut Map<String, Value>) {
    for f in &m.fields {
        if let Content::Field { index, presence: Presence::Always, .. } = &f.content {
            let field = &s.fields[*index];
            let zero: Value = match builtin().schema.get(field.ty) {
                Type::Scalar(Scalar::String) => "".into(),
                Type::Scalar(Scalar::Bool) => false.into(),
                Type::Scalar(Scalar::Int32 | Scalar::Int64) => 0.into(),
                _ => continue,
            };
            if !map.contains_key(field.name.as_ref()) {
                map.insert(field.name.to_string(), zero);
            }
        }
    }
}

fn field(
    name: &str,
    ty: TypeId,
    presence: Presence,
    raw: Raw<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match builtin().schema.get(ty) {
        Type::List { item, .. } => {
            let slot = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = slot {
                repeated(name, *item, raw, items, depth)?;
            }
        }
        Type::Map { value, .. } => {
            let (key, value) = entry(name, *value, raw, depth)?;
            let slot = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = slot {
                entries.insert(key, value);
            }
        }
        _ => {
            let value = element(name, ty, raw, depth)?;
            let hidden = value.is_null() || (presence == Presence::OmitZero && is_zero(&value));
            if hidden {
                map.remove(name);
            } else {
                map.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// Structs are never "empty" to Go's JSON, so objects stay.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

/// One item, or several packed ones.
fn repeated(name: &str, item: TypeId, raw: Raw<'_>, items: &mut Vec<Value>, depth: usize) -> Result<(), ProtobufError> {
    let Type::Scalar(scalar) = builtin().schema.get(item) else {
        items.push(element(name, item, raw, depth)?);
        return Ok(());
    };
    match (scalar, raw) {
        (Scalar::Bool | Scalar::Int32 | Scalar::Int64, Raw::Len(packed)) => {
            let mut packed = Fields::new(packed);
            while !packed.is_empty() {
                let raw = Raw::Varint(packed.varint()?);
                items.push(element(name, item, raw, depth)?);
            }
        }
        (Scalar::Double, Raw::Len(packed)) => {
            let mut packed = Fields::new(packed);
            while !packed.is_empty() {
                let raw = Raw::Fixed64(packed.fixed64()?);
                items.push(element(name, item, raw, depth)?);
            }
        }
        _ => items.push(element(name, item, raw, depth)?),
    }
    Ok(())
}

fn entry(name: &str, ty: TypeId, raw: Raw<'_>, depth: usize) -> Result<(String, Value), ProtobufError> {
    let Raw::Len(bytes) = raw else { return Err(ProtobufError::Malformed("wrong wireType")) };
    let mut key = String::new();
    let mut value = None;
    for field in Fields::new(bytes) {
        match field? {
            (1, Raw::Len(text)) => key = utf8(text)?.to_owned(),
            (2, raw) => {
                value = Some(match (builtin().schema.get(ty), raw) {
                    (Type::List { .. }, Raw::Len(bytes)) => wrapped_list(ty, bytes, depth)?,
                    _ => element(name, ty, raw, depth)?,
                });
            }
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => match builtin().schema.get(ty) {
            Type::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
            Type::List { .. } => Value::Array(Vec::new()),
            Type::Scalar(Scalar::Quantity) => "0".into(),
            Type::Struct(_) => value_message(ty, &[], depth)?,
            _ => Value::Null,
        },
    };
    Ok((key, value))
}

/// `{ 1: items }`.
fn wrapped_list(ty: TypeId, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let Type::List { item, .. } = builtin().schema.get(ty) else {
        return Err(ProtobufError::Malformed("only lists are wrapped"));
    };
    let mut items = Vec::new();
    for field in Fields::new(bytes) {
        if let (1, raw) = field? {
            repeated("items", *item, raw, &mut items, depth)?;
        }
    }
    Ok(Value::Array(items))
}

fn element(name: &str, ty: TypeId, raw: Raw<'_>, depth: usize) -> Result<Value, ProtobufError> {
    let scalar = match builtin().schema.get(ty) {
        Type::Scalar(scalar) => Some(*scalar),
        _ => None,
    };
    Ok(match (scalar, raw) {
        (Some(Scalar::String), Raw::Len(text)) => String::from_utf8_lossy(text).into_owned().into(),
        (Some(Scalar::Bytes), Raw::Len(bytes)) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        (Some(Scalar::Bool), Raw::Varint(n)) => (n != 0).into(),
        (Some(Scalar::Int64), Raw::Varint(n)) => n.cast_signed().into(),
        // As Go does, the upper half is dropped.
        (Some(Scalar::Int32), Raw::Varint(n)) => (n as u32).cast_signed().into(),
        (Some(Scalar::Double), Raw::Fixed64(bits)) => Number::from_f64(f64::from_bits(bits))
            .map(Value::Number)
            .ok_or_else(|| problem(name, "is not a finite number"))?,
        (Some(Scalar::Double), Raw::Fixed32(bits)) => Number::from_f64(f64::from(f32::from_bits(bits)))
            .map(Value::Number)
            .ok_or_else(|| problem(name, "is not a finite number"))?,
        (
            Some(Scalar::Time | Scalar::MicroTime | Scalar::Duration | Scalar::Quantity | Scalar::IntOrString) | None,
            raw,
        ) => {
            let Raw::Len(bytes) = raw else { return Err(problem(name, "has the wrong wireType")) };
            value_message(ty, bytes, depth)?
        }
        _ => return Err(problem(name, "has the wrong wireType")),
    })
}

fn special_scalar(scalar: Scalar, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut first, mut second, mut text) = (0i64, 0i64, None);
    for field in Fields::new(bytes) {
        match field? {
            (1, Raw::Varint(n)) => first = n.cast_signed(),
            (2, Raw::Varint(n)) => second = n.cast_signed(),
            (1 | 3, Raw::Len(t)) => text = Some(utf8(t)?),
            _ => {}
        }
    }
    Ok(match scalar {
        Scalar::Time | Scalar::MicroTime if bytes.is_empty() => Value::Null,
        Scalar::Time | Scalar::MicroTime => {
            // Years 1 to 9999; anything else has no RFC 3339 form.
            if !(-62_135_596_800..=253_402_300_799).contains(&first) || !(0..1_000_000_000).contains(&second) {
                return Err(problem("time", "is out of range"));
            }
            let micros = scalar == Scalar::MicroTime;
            time::format(first, i32::try_from(second).unwrap_or(0), micros).into()
        }
        Scalar::Duration => time::format_go_duration(first).into(),
        Scalar::Quantity => match text {
            None | Some("") => "0".into(),
            Some(text) => text.into(),
        },
        Scalar::IntOrString if first == 1 => text.unwrap_or_default().into(),
        Scalar::IntOrString => second.into(),
        _ => return Err(ProtobufError::Malformed("this type is no message")),
    })
}

fn untyped(kind: Untyped, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let mut result = Value::Null;
    let mut list = Vec::new();
    for field in Fields::new(bytes) {
        match (kind, field?) {
            (Untyped::RawExtension, (1, Raw::Len(raw))) => result = raw_extension(raw)?,
            (Untyped::FieldsV1 | Untyped::Json, (1, Raw::Len(raw))) => result = json(raw)?,
            (Untyped::JsonSchemaPropsOrBool, (1, Raw::Varint(n))) if !result.is_object() => result = (n != 0).into(),
            (Untyped::JsonSchemaPropsOrBool, (2, Raw::Len(schema)))
            | (Untyped::JsonSchemaPropsOrArray | Untyped::JsonSchemaPropsOrStringArray, (1, Raw::Len(schema))) => {
                result = value_message(json_schema_props(), schema, depth)?;
            }
            (Untyped::JsonSchemaPropsOrArray, (2, Raw::Len(schema))) => {
                list.push(value_message(json_schema_props(), schema, depth)?);
            }
            (Untyped::JsonSchemaPropsOrStringArray, (2, Raw::Len(text))) => list.push(utf8(text)?.into()),
            _ => {}
        }
    }
    let empty_bool = kind == Untyped::JsonSchemaPropsOrBool && result.is_null();
    Ok(match (list.is_empty(), empty_bool) {
        (false, _) => Value::Array(list),
        (true, true) => false.into(),
        (true, false) => result,
    })
}

/// JSON, or a body of ours within a body.
fn raw_extension(raw: &[u8]) -> Result<Value, ProtobufError> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    // One level only: a body within a body within a body has no use and would nest without bound.
    if raw.starts_with(MAGIC) {
        return Err(problem("raw", "holds protobuf where JSON is expected"));
    }
    json(raw)
}

fn json(raw: &[u8]) -> Result<Value, ProtobufError> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(raw).map_err(|e| problem("raw", &e.to_string()))
}

fn utf8(bytes: &[u8]) -> Result<&str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Malformed("text is not UTF-8"))
}

fn problem(field: &str, problem: &str) -> ProtobufError {
    ProtobufError::Field { field: field.to_owned(), problem: problem.to_owned() }
}
