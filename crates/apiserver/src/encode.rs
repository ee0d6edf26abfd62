//! Bytes of objects: where the revision goes, and the forms that are derived from the one that is stored
//! (PartialObjectMetadata, pretty).
//!
//! Invariant: a stored object is compact JSON that begins with `{"apiVersion":…,"kind":…,"metadata":{` and has exactly one
//! `metadata.resourceVersion`.

use crate::managed::Owners;
use crate::negotiate::MetaVersion;
use api::AnyObject;
use bytes::Bytes;
use machinery::kinds::Kind;
use machinery::scan::{begin, member, members, skip_text};
use std::ops::Range;
use store::Value;

/// The digits of `metadata.resourceVersion`, without quotes. `None` if the bytes are no object of ours.
pub(crate) fn revision(bytes: &[u8]) -> Option<Range<usize>> {
    let quoted = members(bytes, begin(bytes, b"metadata")?).find(|m| m.name(bytes) == b"resourceVersion")?.value;
    let text = bytes.get(quoted.clone())?;
    let is_text = text.len() >= 2 && text[0] == b'"' && text[text.len() - 1] == b'"';
    is_text.then(|| quoted.start + 1..quoted.end - 1)
}

/// An object's JSON with its owners.
pub(crate) fn whole(kind: &dyn Kind, object: &dyn AnyObject, owners: &Owners) -> Vec<u8> {
    with_owners(kind.encode(object), owners)
}

/// Puts owners where a typed object would have them: the members of metadata are sorted.
fn with_owners(bare: Vec<u8>, owners: &Owners) -> Vec<u8> {
    let Some((entries, metadata)) = owners.json().zip(begin(&bare, b"metadata")) else { return bare };
    let mut at = metadata + 1;
    let mut rest = members(&bare, metadata);
    let next = rest.find(|m| {
        let after = m.name(&bare) > b"managedFields".as_slice();
        at = if after { m.key.start } else { m.value.end };
        after
    });
    let (before, after) = match (at == metadata + 1, next.is_some()) {
        (_, true) => ("", ","),
        (true, false) => ("", ""),
        (false, false) => (",", ""),
    };
    let name = b"\"managedFields\":";
    [&bare[..at], before.as_bytes(), name, entries, after.as_bytes(), &bare[at..]].concat()
}

/// An object as it is committed, but for its owners.
pub(crate) struct Bare {
    /// Its JSON with an empty resourceVersion.
    json: Vec<u8>,
    /// Where the digits go.
    splice: usize,
}

impl Bare {
    pub(crate) fn of(kind: &dyn Kind, object: &mut dyn AnyObject) -> Result<Self, api::Status> {
        // An empty one would not be shown.
        let asked = object.meta_mut().resource_version.replace("0".to_owned());
        let mut json = kind.encode(object);
        object.meta_mut().resource_version = asked;
        let Some(revision) = revision(&json) else {
            return Err(crate::status::internal("the object has no place for a resourceVersion"));
        };
        json.drain(revision.clone());
        Ok(Bare { json, splice: revision.start })
    }

    /// Whether an object without owners differs in nothing but the revision.
    pub(crate) fn is_same(&self, other: &[u8]) -> bool {
        is_spliced(&self.json, self.splice, other)
    }

    /// With owners, which come before the revision.
    pub(crate) fn with(self, owners: &Owners) -> Value {
        let length = self.json.len();
        let bytes = Bytes::from(with_owners(self.json, owners));
        Value { splice: Some(self.splice + (bytes.len() - length)), bytes, derived: None }
    }
}

/// An object as it is committed: its JSON with an empty resourceVersion and the place where the digits go.
pub(crate) fn to_value(kind: &dyn Kind, object: &mut dyn AnyObject, owners: &Owners) -> Result<Value, api::Status> {
    Ok(Bare::of(kind, object)?.with(owners))
}

/// Stored bytes as they were before their revision was spliced in, for the last event of a deletion.
pub(crate) fn without_revision(bytes: &[u8]) -> Result<Value, api::Status> {
    let Some(revision) = revision(bytes) else {
        return Err(crate::status::internal("the stored object is damaged"));
    };
    let mut cut = Vec::with_capacity(bytes.len());
    cut.extend_from_slice(&bytes[..revision.start]);
    cut.extend_from_slice(&bytes[revision.end..]);
    Ok(Value { bytes: cut.into(), splice: Some(revision.start), derived: None })
}

/// The bytes with a revision spliced in, for answers of dry runs.
pub(crate) fn splice(value: &Value, revision: &str) -> Bytes {
    let Some(at) = value.splice else { return value.bytes.clone() };
    let mut out = Vec::with_capacity(value.bytes.len() + revision.len());
    out.extend_from_slice(&value.bytes[..at]);
    out.extend_from_slice(revision.as_bytes());
    out.extend_from_slice(&value.bytes[at..]);
    out.into()
}

/// The bytes without a place for a revision, for the answer of a dry run that would create the object.
pub(crate) fn unrevised(value: &Value) -> Bytes {
    let Some(at) = value.splice else { return value.bytes.clone() };
    let (mut start, mut end) = (at - br#""resourceVersion":""#.len(), at + 1);
    match value.bytes.get(end) {
        Some(b',') => end += 1,
        _ if value.bytes[start - 1] == b',' => start -= 1,
        _ => {}
    }
    [&value.bytes[..start], &value.bytes[end..]].concat().into()
}

/// Whether committing `value` over `stored` would change nothing but the revision.
pub(crate) fn is_same(value: &Value, stored: &[u8]) -> bool {
    value.splice.is_some_and(|at| is_spliced(&value.bytes, at, stored))
}

fn is_spliced(json: &[u8], at: usize, stored: &[u8]) -> bool {
    let Some((head, tail)) = json.split_at_checked(at) else { return false };
    let Some(rest) = stored.strip_prefix(head) else { return false };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    &rest[digits..] == tail
}

/// `{"kind":"PartialObjectMetadata",…}` of an object.
pub(crate) fn write_partial(out: &mut Vec<u8>, version: MetaVersion, bytes: &[u8]) {
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":""#);
    out.extend_from_slice(version.api_version().as_bytes());
    out.extend_from_slice(br#"","metadata":"#);
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
        let found = revision(json).expect("well-formed");
        assert_eq!(&json[found], b"42");
        let value = without_revision(json).expect("well-formed");
        assert_eq!(splice(&value, "42").as_ref(), json);
        assert!(is_same(&value, json));
        assert!(!is_same(&value, &json[..json.len() - 1]));
        assert_eq!(revision(br#"{"metadata":{}}"#), None);
        assert_eq!(revision(br#"{"metadata":{"resourceVersion":1}}"#), None);
        assert_eq!(revision(b"[]"), None);
        assert_eq!(revision(br#"{"metadata":{"resourceVersion":"1"#), None);
    }

    #[test]
    fn owners_go_where_they_were_taken_from() {
        let owners = r#"[{"manager":"m"}]"#;
        for (before, after) in
            [("", ""), (r#""labels":{"a":"b"}"#, ""), ("", r#""name":"x""#), (r#""labels":{"c":"d"}"#, r#""name":"x""#)]
        {
            let comma = |a: &str, b: &str| if a.is_empty() || b.is_empty() { "" } else { "," };
            let with = format!(r#"{before}{}"managedFields":{owners}{}{after}"#, comma(before, "x"), comma("x", after));
            let pod = |meta: &str| format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{{meta}}}}}"#);
            let (bare, cut) = Owners::cut(&Bytes::from(pod(&with)));
            assert_eq!(bare, pod(&format!("{before}{}{after}", comma(before, after))));
            assert_eq!(cut.json(), Some(owners.as_bytes()));
            let kind = machinery::kinds::find("", "v1", "configmaps").expect("a kind");
            let object = kind.decode(&bare).expect("a ConfigMap");
            assert_eq!(String::from_utf8(whole(kind, &*object, &cut)).expect("text"), pod(&with));
        }
    }

    #[test]
    fn pretty_indents() {
        let text = String::from_utf8(pretty(br#"{"a":[1,{"b":"x,{}"}],"c":{}}"#)).expect("text");
        assert_eq!(text, "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,{}\"\n    }\n  ],\n  \"c\": {}\n}");
    }
}
