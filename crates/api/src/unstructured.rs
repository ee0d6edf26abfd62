//! [`Unstructured`]: an object without a compiled type (custom resources).

use crate::{AnyObject, Codec, DecodeError, ObjectMeta};
use serde_json::{Map, Value};
use std::any::Any;

/// Metadata is typed; everything else is a JSON map.
#[derive(Debug, Clone, Default)]
pub struct Unstructured {
    /// `group/version`.
    pub api_version: String,
    /// CamelCase kind.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// All top-level fields but `apiVersion`, `kind` and `metadata`.
    pub body: Map<String, Value>,
}

impl Unstructured {
    /// Takes a JSON value apart. Fails if it is not an object or its metadata has wrong types.
    pub fn from_value(value: Value) -> Result<Self, DecodeError> {
        let mut body = match value {
            Value::Object(map) => map,
            other => {
                return Err(DecodeError {
                    kind: "Unstructured",
                    source: serde::de::Error::custom(format!("expected an object, found {other}")),
                });
            }
        };
        let text = |v: Option<Value>| v.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let api_version = text(body.remove("apiVersion"));
        let kind = text(body.remove("kind"));
        let metadata = match body.remove("metadata") {
            None | Some(Value::Null) => ObjectMeta::default(),
            Some(meta) => ObjectMeta::decode(meta.to_string().as_bytes())?,
        };
        Ok(Unstructured { api_version, kind, metadata, body })
    }

    /// The whole object as one JSON value.
    pub fn to_value(&self) -> Value {
        let mut map = self.body.clone();
        map.insert("apiVersion".into(), self.api_version.clone().into());
        map.insert("kind".into(), self.kind.clone().into());
        let meta = serde_json::from_slice(&self.metadata.encode()).unwrap_or_default();
        map.insert("metadata".into(), meta);
        Value::Object(map)
    }
}

impl AnyObject for Unstructured {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"{\"apiVersion\":");
        out.extend_from_slice(Value::from(self.api_version.as_str()).to_string().as_bytes());
        out.extend_from_slice(b",\"kind\":");
        out.extend_from_slice(Value::from(self.kind.as_str()).to_string().as_bytes());
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(&self.metadata.encode());
        for (key, value) in &self.body {
            out.push(b',');
            out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(value.to_string().as_bytes());
        }
        out.push(b'}');
        out
    }
    fn boxed_clone(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_puts_identity_first_and_round_trips() {
        let v: Value =
            serde_json::from_str(r#"{"spec":{"a":1},"metadata":{"name":"x"},"kind":"Foo","apiVersion":"g/v1"}"#)
                .expect("literal is JSON");
        let u = Unstructured::from_value(v.clone()).expect("an object");
        let bytes = u.encode();
        assert!(bytes.starts_with(br#"{"apiVersion":"g/v1","kind":"Foo","metadata":{"name":"x"}"#));
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("we wrote JSON"), v);
        assert_eq!(u.to_value(), v);
    }
}
