//! Kubernetes' protobuf encoding (`application/vnd.kubernetes.protobuf`), to and from JSON values, driven by the same
//! tables as everything else.
//!
//! ```text
//! body   = "k8s\0" Unknown{ 1: TypeMeta{ 1: apiVersion, 2: kind }, 2: message, 3: encoding, 4: content type }
//! stream = ( length as 4 bytes, big endian; WatchEvent{ 1: type, 2: RawExtension{ 1: body } } )*
//! ```
//!
//! Follows `apimachinery/pkg/runtime/serializer/protobuf/protobuf.go` and the generated `generated.pb.go` files: fields
//! in order of their numbers, plain Go fields always written, pointers only when set. So what upstream would write, we
//! write byte for byte; tests compare with its samples.
//!
//! Invariant: no input panics; lengths are checked against what is there, nesting against [`MAX_DEPTH`].

mod decode;
mod encode;
mod wire;

use crate::schema::{TypeId, builtin};
use serde_json::{Map, Value};

pub use crate::schema::check::MAX_DEPTH;

/// The media type of bodies.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watch streams.
pub const STREAM_CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What every body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// A body that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// Nothing at all.
    #[error("empty data")]
    Empty,
    /// Something, but not ours.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// Only the prefix.
    #[error("empty body")]
    EmptyBody,
    /// The message ends within a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A tag, length or number that protobuf does not allow; the text tells which.
    #[error("proto: {0}")]
    Malformed(&'static str),
    /// A field holds something that JSON cannot show, such as a raw extension that is no JSON.
    #[error("proto: field {field}: {problem}")]
    Field {
        /// The name of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("proto: exceeded max depth")]
    Depth,
    /// The kind is not in the tables: custom resources and foreign kinds have no protobuf encoding.
    #[error(
        "object {kind} in version {api_version:?} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    Kind {
        /// `group/version`.
        api_version: String,
        /// The kind.
        kind: String,
    },
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// `group/version` as the body says, or the default.
    pub api_version: String,
    /// The kind as the body says, or the default.
    pub kind: String,
    /// The object as JSON, with `apiVersion` and `kind`.
    pub value: Value,
}

/// Whether objects of this kind have a protobuf encoding. Others are answered in JSON or with 406.
pub fn is_supported(api_version: &str, kind: &str) -> bool {
    builtin().by_api_version(api_version, kind).is_some_and(|id| builtin().message(id).is_some())
}

/// Reads a body. `default` is the `apiVersion` and `kind` to assume where the body has none.
pub fn decode(bytes: &[u8], default: Option<(&str, &str)>) -> Result<Decoded, ProtobufError> {
    let unknown = decode::unknown(bytes)?;
    let or_default = |found: &str, fallback: Option<&str>| match (found, fallback) {
        ("", Some(fallback)) => fallback.to_owned(),
        (found, _) => found.to_owned(),
    };
    let api_version = or_default(unknown.api_version, default.map(|d| d.0));
    let kind = or_default(unknown.kind, default.map(|d| d.1));
    let mut value = decode::message(message_type(&api_version, &kind)?, unknown.raw)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), api_version.clone().into());
        map.insert("kind".to_owned(), kind.clone().into());
    }
    Ok(Decoded { api_version, kind, value })
}

/// Writes an object that has `apiVersion` and `kind`.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version.starts_with("meta.k8s.io/") {
        match kind {
            "PartialObjectMetadata" => return encode::body(api_version, kind, |out| encode::partial(object, out)),
            "PartialObjectMetadataList" => {
                return encode::body(api_version, kind, |out| encode::partial_list(object, out));
            }
            _ => {}
        }
    }
    let ty = message_type(api_version, kind)?;
    encode::body(api_version, kind, |out| encode::message(ty, object, out, MAX_DEPTH))
}

/// Writes a list from the JSON bytes of its items, one at a time. `kind` is the list's, e.g. `PodList`; `metadata` is a
/// ListMeta.
pub fn encode_list<B: AsRef<[u8]>>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = B>,
) -> Result<Vec<u8>, ProtobufError> {
    let b = builtin();
    let ty = message_type(api_version, kind)?;
    let item_type = b.structure(ty).and_then(|s| s.field("items")).map(|f| b.schema.get(f.ty));
    let Some(crate::schema::Type::List { item: item_type, .. }) = item_type else {
        return Err(ProtobufError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    let head = Value::Object(Map::from_iter([("metadata".to_owned(), metadata.clone())]));
    encode::body(api_version, kind, |out| {
        // Every list is { 1: metadata, 2: items }.
        encode::message(ty, &head, out, MAX_DEPTH)?;
        for item in items {
            let item: Value = serde_json::from_slice(item.as_ref())
                .map_err(|e| ProtobufError::Field { field: "items".to_owned(), problem: e.to_string() })?;
            wire::put_key(out, 2, wire::LEN);
            wire::nested(out, |out| encode::message(*item_type, &item, out, MAX_DEPTH))?;
        }
        Ok(())
    })
}

/// Writes one framed event of a watch stream (`ADDED`, …, `BOOKMARK`, `ERROR` with a Status).
pub fn encode_watch_event(event_type: &str, object: &Value) -> Result<Vec<u8>, ProtobufError> {
    Ok(frame_watch_event(event_type, &encode(object)?))
}

/// Like [`encode_watch_event`] for an object that is encoded already.
pub fn frame_watch_event(event_type: &str, body: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(body.len() + 32);
    wire::put_bytes(&mut event, 1, event_type.as_bytes());
    let mut raw = Vec::with_capacity(body.len() + 8);
    wire::put_bytes(&mut raw, 1, body);
    wire::put_bytes(&mut event, 2, &raw);
    let mut frame = Vec::with_capacity(event.len() + 4);
    // Bodies are bounded far below 4 GiB; a length that does not fit would be a bug and must not desynchronise silently.
    frame.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&event);
    frame
}

fn message_type(api_version: &str, kind: &str) -> Result<TypeId, ProtobufError> {
    let b = builtin();
    b.by_api_version(api_version, kind)
        .filter(|id| b.message(*id).is_some())
        .ok_or_else(|| ProtobufError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests;
