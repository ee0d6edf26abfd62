//! The OpenAPI v2 document as protobuf: kubectl's client-side validation reads no other form. Pure.
//!
//! Field numbers are those of `github.com/google/gnostic-models/openapiv2/OpenAPIv2.proto`. Holds the definitions, which is what
//! clients read; paths stay empty (they are in the JSON form and in v3). Extensions and defaults travel as YAML, and JSON is
//! YAML.

use serde_json::{Map, Value};

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, value: bool) {
        if value {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, number: u64, message: &Message) {
        self.bytes(number, &message.0);
    }
}

/// `Document` of an OpenAPI v2 document in JSON.
pub(crate) fn document(v2: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, v2.get("swagger"));
    let mut info = Message::default();
    info.text(1, v2["info"].get("title"));
    info.text(2, v2["info"].get("version"));
    out.message(2, &info);
    out.message(8, &Message::default());
    let mut definitions = Message::default();
    for (name, schema) in v2["definitions"].as_object().into_iter().flatten() {
        definitions.message(1, &named(name, &schema_of(schema)));
    }
    out.message(9, &definitions);
    out.0
}

fn named(name: &str, value: &Message) -> Message {
    let mut out = Message::default();
    out.bytes(1, name.as_bytes());
    out.message(2, value);
    out
}

/// `Any`
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

fn schema_of(schema: &Value) -> Message {
    let mut out = Message::default();
    let empty = Map::new();
    let fields = schema.as_object().unwrap_or(&empty);
    out.text(1, fields.get("$ref"));
    out.text(2, fields.get("format"));
    out.text(3, fields.get("title"));
    out.text(4, fields.get("description"));
    if let Some(default) = fields.get("default") {
        out.message(5, &any(default));
    }
    for required in fields.get("required").and_then(Value::as_array).into_iter().flatten() {
        out.text(19, Some(required));
    }
    for value in fields.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, &any(value));
    }
    match fields.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            item.flag(2, *allowed);
            out.message(21, &item);
        }
        Some(schema) => {
            let mut item = Message::default();
            item.message(1, &schema_of(schema));
            out.message(21, &item);
        }
        None => {}
    }
    if let Some(ty) = fields.get("type") {
        let mut item = Message::default();
        match ty {
            Value::Array(types) => types.iter().for_each(|t| item.text(1, Some(t))),
            one => item.text(1, Some(one)),
        }
        out.message(22, &item);
    }
    if let Some(items) = fields.get("items") {
        let mut item = Message::default();
        item.message(1, &schema_of(items));
        out.message(23, &item);
    }
    for part in fields.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        out.message(24, &schema_of(part));
    }
    if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
        let mut list = Message::default();
        for (name, schema) in properties {
            list.message(1, &named(name, &schema_of(schema)));
        }
        out.message(25, &list);
    }
    for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-")) {
        out.message(31, &named(name, &any(value)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_small_document() {
        let bytes = document(&json!({"swagger": "2.0", "definitions": {"a": {"type": "string", "x-k": 1}}}));
        let mut expected = b"\x0a\x032.0\x12\x00\x42\x00".to_vec();
        // definitions { additional_properties { name: a, value { type { value: string } vendor_extension { x-k: yaml 1 } } } }
        let schema = b"\xb2\x01\x08\x0a\x06string\xfa\x01\x0a\x0a\x03x-k\x12\x03\x12\x011";
        let mut definition = b"\x0a\x01a\x12".to_vec();
        definition.push(schema.len() as u8);
        definition.extend_from_slice(schema);
        expected.extend_from_slice(&[0x4a, definition.len() as u8 + 2, 0x0a, definition.len() as u8]);
        expected.extend_from_slice(&definition);
        assert_eq!(bytes, expected);
    }
}
