//! Patches: JSON patch, JSON merge patch and strategic merge patch. Server-side apply is [`crate::apply`].
//!
//! A patch is parsed once ([`Patch::parse`]) and may be applied many times, since a write that meets a conflict is
//! tried again on the newer object. Always holds: the current object is not changed; bad input is an error with the
//! answer upstream gives (`apiserver/pkg/endpoints/handlers/patch.go`), never a panic.

mod error;
mod json;
mod merge;
mod strategic;

pub use error::PatchError;
pub(crate) use strategic::go as go_text;

use crate::json::{Doc, to_text};
use crate::schema::check::parse_json;
use crate::schema::{Schema, TypeId, restore_error};
use serde_json::{Map, Value};

/// The kinds of patches, by their media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatchType {
    /// `application/json-patch+json`, RFC 6902.
    Json,
    /// `application/merge-patch+json`, RFC 7386.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchType {
    /// From a `Content-Type` without parameters.
    pub fn from_media_type(media_type: &str) -> Option<PatchType> {
        Some(match media_type {
            "application/json-patch+json" => PatchType::Json,
            "application/merge-patch+json" => PatchType::Merge,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            _ => return None,
        })
    }
}

/// A patch that was understood.
#[derive(Debug, Clone)]
pub struct Patch {
    kind: Kind,
    problems: Vec<String>,
}

/// What a patch made of an object's JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patched {
    /// The object.
    pub text: Vec<u8>,
    /// The object without those of its members that the patch does not mention, which are as they were.
    pub mentioned: Vec<u8>,
}

impl Patched {
    fn all(value: Value) -> Self {
        let text: Vec<u8> = value.to_string().into();
        Patched { mentioned: text.clone(), text }
    }
}

#[derive(Debug, Clone)]
enum Kind {
    Json(Vec<json::Operation>),
    Merge(Value),
    Strategic(Map<String, Value>),
}

impl Patch {
    /// Reads a request body.
    pub fn parse(kind: PatchType, body: &[u8]) -> Result<Patch, PatchError> {
        let read = parse_json(body).map_err(|e| match kind {
            // Strategic patches are decoded without the prefix.
            PatchType::Strategic => PatchError::BadRequest(e.to_string()),
            _ => PatchError::BadRequest(format!("error decoding patch: {e}")),
        })?;
        let mut problems = read.problems;
        if kind == PatchType::Json {
            problems.extend(json::unknown_fields(&read.value));
            problems.iter_mut().for_each(|p| p.insert_str(0, "json patch "));
        }
        Ok(Patch { problems, ..Self::from_value(kind, read.value)? })
    }

    /// What a strict server complains about in the patch itself (duplicate fields, unknown fields of operations).
    /// Ignored, warned of or refused by `fieldValidation`, together with the problems of the patched object.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// What refusals of the patched object name, and why it is no object of its type if Go finds that out before it decodes
    /// (`patch.go`, `applyPatch` and `applyPatchToObject`): the patch itself if it is a strategic one, else what it made.
    pub fn to_blame(&self, schema: Option<(&Schema, TypeId)>, patched: &[u8]) -> (String, Option<String>) {
        let Kind::Strategic(patch) = &self.kind else { return (String::from_utf8_lossy(patched).into_owned(), None) };
        let value = serde_json::from_slice(patched).unwrap_or(Value::Null);
        let why = schema.and_then(|(schema, ty)| restore_error(schema, ty, &value));
        (go_text(&Value::Object(patch.clone())), why)
    }

    /// Takes an already parsed document.
    pub fn from_value(kind: PatchType, value: Value) -> Result<Patch, PatchError> {
        let not_an_object = |found: &Value, prefix: &str| {
            let why = crate::json::cannot_unmarshal(found, "map[string]interface {}");
            PatchError::BadRequest(format!("{prefix}{why}"))
        };
        let kind = match (kind, value) {
            (PatchType::Json, value) => Kind::Json(json::read(value)?),
            (PatchType::Merge, value @ Value::Object(_)) => Kind::Merge(value),
            (PatchType::Merge, Value::Null) => return Err(PatchError::BadRequest("Invalid JSON Patch".into())),
            (PatchType::Merge, other) => return Err(not_an_object(&other, "error decoding patch: ")),
            (PatchType::Strategic, Value::Object(mut map)) => {
                // Upstream applies it to fields, which are not what makes an object of a kind.
                map.retain(|key, _| key != "apiVersion" && key != "kind");
                // What comes of it is converted, which takes a whole float for an integer (`runtime/converter.go`).
                map.values_mut().for_each(crate::json::make_whole);
                Kind::Strategic(map)
            }
            (PatchType::Strategic, Value::Null) => Kind::Strategic(Map::new()),
            (PatchType::Strategic, other) => return Err(not_an_object(&other, "")),
        };
        Ok(Patch { kind, problems: Vec::new() })
    }

    /// The patched object. `schema` drives strategic merge; without one (custom resources) that type is refused.
    pub fn apply(&self, schema: Option<(&Schema, TypeId)>, current: &Value) -> Result<Value, PatchError> {
        match &self.kind {
            Kind::Json(operations) => json::apply(operations, current),
            Kind::Merge(patch) => Ok(merge::apply(current, patch)),
            Kind::Strategic(patch) => {
                let (schema, ty) = schema.ok_or_else(|| {
                    PatchError::BadRequest("strategic merge patch format is not supported".to_owned())
                })?;
                strategic::apply(schema, ty, current, patch.clone())
            }
        }
    }

    /// [`Patch::apply`] to an object's JSON. What the patch does not mention is copied as it stands.
    pub fn apply_text(&self, schema: Option<(&Schema, TypeId)>, current: &Doc<'_>) -> Result<Patched, PatchError> {
        let current = current.root();
        let Some(said) = self.members().filter(|_| current.kind() == crate::json::Kind::Object) else {
            return Ok(Patched::all(self.apply(schema, &current.to_value())?));
        };
        // Members are patched each for itself, so the others need not be there.
        let mentioned = current.members().filter(|(key, _)| said.contains_key(key.as_ref()));
        let part = Value::Object(mentioned.map(|(key, value)| (key.into_owned(), value.to_value())).collect());
        let mut patched = match self.apply(schema, &part)? {
            Value::Object(patched) => patched,
            other => return Ok(Patched::all(other)),
        };
        let (mut out, mut mentioned) = (String::with_capacity(current.json().len() + 256), String::new());
        let mut write_new = |out: &mut String, key: &str, new: &Value| {
            let new = to_text(new);
            write_member(out, key, &new);
            write_member(&mut mentioned, key, &new);
        };
        for (key, value) in current.members() {
            match patched.remove(key.as_ref()) {
                Some(new) => write_new(&mut out, &key, &new),
                None if said.contains_key(key.as_ref()) => {}
                None => write_member(&mut out, &key, value.json()),
            }
        }
        for (key, new) in patched {
            write_new(&mut out, &key, &new);
        }
        for out in [&mut out, &mut mentioned] {
            out.push_str(if out.is_empty() { "{}" } else { "}" });
        }
        Ok(Patched { text: out.into(), mentioned: mentioned.into() })
    }

    /// What the patch says, if it says it member by member.
    fn members(&self) -> Option<&Map<String, Value>> {
        let map = match &self.kind {
            Kind::Json(_) => return None,
            Kind::Merge(value) => value.as_object()?,
            Kind::Strategic(map) => map,
        };
        (!map.keys().any(|key| key.starts_with('$'))).then_some(map)
    }

    /// Whether `metadata.managedFields` matters to the patch.
    pub fn touches_owners(&self) -> bool {
        let Some(members) = self.members() else { return true };
        let is_directive = |key: &String| key.starts_with('$') || key == "managedFields";
        members.get("metadata").is_some_and(|m| m.as_object().is_none_or(|m| m.keys().any(is_directive)))
    }
}

fn write_member(out: &mut String, key: &str, json: &str) {
    out.push(if out.is_empty() { '{' } else { ',' });
    out.push_str(&to_text(key));
    out.push(':');
    out.push_str(json);
}

/// [`Patch::parse`] and [`Patch::apply`] in one step.
pub fn apply_patch(
    kind: PatchType,
    schema: Option<(&Schema, TypeId)>,
    current: &Value,
    body: &[u8],
) -> Result<Value, PatchError> {
    Patch::parse(kind, body)?.apply(schema, current)
}

/// Arbitrary small JSON, with the words that mean something to patches among its keys.
#[cfg(test)]
pub(crate) fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0i64..5).prop_map(Value::from),
        "[a-c]|delete|replace|merge".prop_map(Value::from),
    ];
    let key = "a|b|c|name|spec|list|set|map|\\$patch|\\$retainKeys|\\$setElementOrder/list|\\$setElementOrder/set|\\$deleteFromPrimitiveList/set|\\$setElementOrder";
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_that_are_not_patches_are_bad_requests() {
        let check = |kind, body: &str, want: &str| {
            let e = Patch::parse(kind, body.as_bytes()).expect_err("not a patch");
            assert_eq!((e.to_string().as_str(), e.to_status().code), (want, 400));
        };
        let map = "json: cannot unmarshal array into Go value of type map[string]interface {}";
        check(PatchType::Merge, "[]", &format!("error decoding patch: {map}"));
        check(PatchType::Merge, "null", "Invalid JSON Patch");
        check(PatchType::Strategic, "[]", map);
        check(PatchType::Strategic, "{", "unexpected end of JSON input");
        check(
            PatchType::Json,
            "{}",
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        );
    }

    #[test]
    fn problems_of_the_patch_itself_are_told() {
        let problems = |kind, body: &str| Patch::parse(kind, body.as_bytes()).map(|p| p.problems().join("; "));
        assert_eq!(problems(PatchType::Merge, r#"{"a":1,"a":2}"#), Ok(r#"duplicate field "a""#.to_owned()));
        assert_eq!(
            problems(PatchType::Json, r#"[{"op":"test","path":"","foo":1}]"#),
            Ok(r#"json patch unknown field "[0].foo""#.to_owned())
        );
    }

    proptest::proptest! {
        #[test]
        fn text_is_patched_as_values_are(current in any_json(), patch in any_json(), strategic in proptest::bool::ANY) {
            let b = crate::schema::builtin();
            let pod = b.by_kind("", "v1", "Pod").expect("there are pods");
            let kind = if strategic { PatchType::Strategic } else { PatchType::Merge };
            let current = json!({"metadata": current, "spec": {"a": 1}, "status": [current]});
            let patch = json!({"metadata": patch, "status": null, "x": patch});
            let patch = Patch::from_value(kind, patch).expect("an object");
            let schema = Some((&b.schema, pod));
            let text = patch.apply_text(schema, &Doc::of(&current));
            let value = |json: &[u8]| serde_json::from_slice::<Value>(json).expect("JSON");
            let text = text.map(|t| (value(&t.text), value(&t.mentioned)));
            let whole = patch.apply(schema, &current);
            let mentioned = whole.clone().map(|mut whole| {
                whole.as_object_mut().expect("an object").remove("spec");
                whole
            });
            proptest::prop_assert_eq!(text, whole.and_then(|whole| Ok((whole, mentioned?))));
        }
    }

    #[test]
    fn patches_that_matter_to_owners_are_told() {
        let touches = |kind, body: &str| Patch::parse(kind, body.as_bytes()).expect("a patch").touches_owners();
        assert!(!touches(PatchType::Merge, r#"{"spec":{"managedFields":1},"metadata":{"labels":{"a":"b"}}}"#));
        for body in [r#"{"metadata":{"managedFields":[]}}"#, r#"{"metadata":null}"#, r#"{"$patch":"replace"}"#] {
            assert!(touches(PatchType::Strategic, body), "{body}");
        }
        assert!(touches(PatchType::Json, r#"[{"op":"test","path":"","value":1}]"#));
    }

    #[test]
    fn custom_resources_have_no_strategic_merge() {
        let e = apply_patch(PatchType::Strategic, None, &json!({}), b"{}").expect_err("no schema");
        assert_eq!(e.to_string(), "strategic merge patch format is not supported");
    }

    #[test]
    fn whole_floats_are_integers_in_strategic_patches() {
        let b = crate::schema::builtin();
        let ty = b.by_kind("", "v1", "Pod").expect("there are pods");
        let patched = apply_patch(
            PatchType::Strategic,
            Some((&b.schema, ty)),
            &json!({}),
            br#"{"spec":{"priority":2.0,"x":2.5}}"#,
        );
        assert_eq!(patched.expect("a patch"), json!({"spec": {"priority": 2, "x": 2.5}}));
    }
}
