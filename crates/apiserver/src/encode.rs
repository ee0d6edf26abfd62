//! Bytes of objects: where the revision goes, and the forms that are derived from the one that is stored
//! (PartialObjectMetadata, pretty).
//!
//! Invariant: a stored object is compact JSON that begins with `{"apiVersion":…,"kind":…,"metadata":{` and has exactly one
//! `metadata.resourceVersion`.

use api::AnyObject;
use bytes::Bytes;
use std::ops::Range;
use store::Value;

/// Where things are in an object's JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The value of `metadata`.
    pub(crate) metadata: Range<usize>,
    /// The digits of `metadata.resourceVersion`, without quotes.
    pub(crate) revision: Range<usize>,
}

/// Finds `metadata` and its `resourceVersion`. `None` if the bytes are no object of ours.
pub(crate) fn layout(bytes: &[u8]) -> Option<Layout> {
    let metadata = member(bytes, 0, b"metadata")?;
    let quoted = member(bytes, metadata.start, b"resourceVersion")?;
    let text = bytes.get(quoted.clone())?;
    let is_text = text.len() >= 2 && text[0] == b'"' && text[text.len() - 1] == b'"';
    is_text.then(|| Layout { metadata, revision: quoted.start + 1..quoted.end - 1 })
}

/// The value of a member of the object that begins at `at`. Compact JSON only.
fn member(bytes: &[u8], at: usize, name: &[u8]) -> Option<Range<usize>> {
    if bytes.get(at)? != &b'{' {
        return None;
    }
    let mut at = at + 1;
    loop {
        let key = skip(bytes, at)?;
        if bytes.get(key)? != &b':' {
            return None;
        }
        let value = skip(bytes, key + 1)?;
        if bytes.get(at + 1..key - 1)? == name {
            return Some(key + 1..value);
        }
        if bytes.get(value)? != &b',' {
            return None;
        }
        at = value + 1;
    }
}

/// The end of the JSON value that begins at `at`.
fn skip(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = skip_text(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' if depth == 0 => return Some(at),
            _ => at += 1,
        }
        if depth == 0 && matches!(bytes.get(at), None | Some(b',' | b'}' | b']' | b':')) {
            return Some(at);
        }
    }
}

fn skip_text(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// An object as it is committed: its JSON with an empty resourceVersion and the place where the digits go.
pub(crate) fn to_value(object: &mut dyn AnyObject) -> Result<Value, api::Status> {
    object.meta_mut().resource_version = Some(String::new());
    let bytes = Bytes::from(object.encode());
    let Some(layout) = layout(&bytes) else {
        return Err(crate::status::internal("the object has no place for a resourceVersion"));
    };
    Ok(Value { splice: Some(layout.revision.start), bytes, derived: None })
}

/// Stored bytes as they were before their revision was spliced in, for the last event of a deletion.
pub(crate) fn without_revision(bytes: &[u8]) -> Result<Value, api::Status> {
    let Some(layout) = layout(bytes) else {
        return Err(crate::status::internal("the stored object is damaged"));
    };
    let mut cut = Vec::with_capacity(bytes.len());
    cut.extend_from_slice(&bytes[..layout.revision.start]);
    cut.extend_from_slice(&bytes[layout.revision.end..]);
    Ok(Value { bytes: cut.into(), splice: Some(layout.revision.start), derived: None })
}

/// The bytes with a revision (or none) spliced in, for answers of dry runs.
pub(crate) fn splice(value: &Value, revision: &str) -> Bytes {
    let Some(at) = value.splice else { return value.bytes.clone() };
    let mut out = Vec::with_capacity(value.bytes.len() + revision.len());
    out.extend_from_slice(&value.bytes[..at]);
    out.extend_from_slice(revision.as_bytes());
    out.extend_from_slice(&value.bytes[at..]);
    out.into()
}

/// Whether committing `value` over `stored` would change nothing but the revision.
pub(crate) fn is_same(value: &Value, stored: &[u8]) -> bool {
    let (Some(at), Some(layout)) = (value.splice, layout(stored)) else { return false };
    layout.revision.start == at
        && stored[..at] == value.bytes[..at]
        && stored[layout.revision.end..] == value.bytes[at..]
}

/// `{"kind":"PartialObjectMetadata",…}` of an object.
pub(crate) fn write_partial(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    match member(bytes, 0, b"metadata") {
        Some(metadata) => out.extend_from_slice(&bytes[metadata]),
        None => out.extend_from_slice(b"{}"),
    }
    out.push(b'}');
}

/// Two-space indentation, as `json.Indent` does.
pub(crate) fn pretty(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    let mut depth = 0usize;
    let mut at = 0;
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = skip_text(bytes, at).unwrap_or(bytes.len());
                out.extend_from_slice(&bytes[at..end]);
                at = end;
                continue;
            }
            b'{' | b'[' if matches!(bytes.get(at + 1), Some(b'}' | b']')) => {
                out.extend_from_slice(&bytes[at..at + 2]);
                at += 2;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                out.push(byte);
                newline(&mut out, depth);
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\t' | b'\r' => {}
            other => out.push(other),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_revision_and_nothing_that_looks_like_it() {
        let json = br#"{"apiVersion":"v1","kind":"X","metadata":{"annotations":{"resourceVersion":"","a\"b":"\\"},"n":[1,{"resourceVersion":"9"}],"resourceVersion":"42","uid":"u"},"resourceVersion":"7"}"#;
        let found = layout(json).expect("well-formed");
        assert_eq!(&json[found.revision.clone()], b"42");
        let value = without_revision(json).expect("well-formed");
        assert_eq!(splice(&value, "42").as_ref(), json);
        assert!(is_same(&value, json));
        assert_eq!(layout(br#"{"metadata":{}}"#), None);
        assert_eq!(layout(br#"{"metadata":{"resourceVersion":1}}"#), None);
        assert_eq!(layout(b"[]"), None);
        assert_eq!(layout(br#"{"metadata":{"resourceVersion":"1"#), None);
    }

    #[test]
    fn pretty_indents() {
        let text = String::from_utf8(pretty(br#"{"a":[1,{"b":"x,{}"}],"c":{}}"#)).expect("text");
        assert_eq!(text, "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,{}\"\n    }\n  ],\n  \"c\": {}\n}");
    }
}
