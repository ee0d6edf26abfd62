//! Objects of built-in types as upstream's API server shows them: what Go's structs always print (`"status":{}`,
//! `"rules":null`) is there, what they leave out (`omitempty`) is not.
//!
//! Follows what two steps upstream do to every object on its way to a client: objects are kept as protobuf, which knows no
//! empty lists (`apimachinery/pkg/runtime/serializer/protobuf`), and `encoding/json` prints structs that are no pointers
//! even if nothing is set in them.

use super::{Scalar, Schema, Struct, Type, TypeId, builtin};
use crate::apply::presence::{self, FieldPresence};
use crate::scan::skip_text;

/// The JSON of an object of a built-in type, as it is shown. The text is one of our own encoder: compact and without flaws.
pub fn shown(ty: TypeId, json: &[u8]) -> Vec<u8> {
    write(ty, json, false)
}

/// [`shown`] of an object that was not stored yet: of the lists that are always there, empty ones are not null.
pub fn shown_before_storage(ty: TypeId, json: &[u8]) -> Vec<u8> {
    write(ty, json, true)
}

fn write(ty: TypeId, json: &[u8], keeps_empty: bool) -> Vec<u8> {
    let out = Vec::with_capacity(json.len() + 64);
    let mut writer = Writer { schema: &builtin().schema, json, keeps_empty, at: 0, written: 0, out };
    match writer.value(ty) {
        Some(()) if writer.at == json.len() => {
            writer.write_up_to(json.len());
            writer.out
        }
        // Not what our encoder writes: better as it is than cut.
        _ => json.to_vec(),
    }
}

struct Writer<'a> {
    schema: &'static Schema,
    json: &'a [u8],
    /// Lists that are always there are not null when they are empty.
    keeps_empty: bool,
    at: usize,
    /// What comes before this is in `out`. Most texts differ in few places, and what is between them is written in one go.
    written: usize,
    out: Vec<u8>,
}

/// `None`: the text is not what it should be.
type Walked = Option<()>;

impl Writer<'_> {
    fn value(&mut self, ty: TypeId) -> Walked {
        match (self.schema.get(ty), self.json.get(self.at)?) {
            (Type::Struct(s), b'{') => match presence::of(s) {
                Some(presences) => self.structure(s, presences),
                None => self.skip(),
            },
            (Type::Map { value, .. }, b'{') if self.is_deep(*value) => self.entries(*value),
            (Type::List { item, .. }, b'[') if self.is_deep(*item) => self.items(*item),
            (Type::Scalar(Scalar::Time | Scalar::MicroTime), b'"') => self.time(),
            (Type::Scalar(Scalar::Double), _) => self.double(),
            (Type::Any, b'{') => match builtin().inner(ty) {
                Some(schema) => self.value(schema),
                None => self.skip(),
            },
            _ => self.skip(),
        }
    }

    fn is_list(&self, ty: TypeId) -> bool {
        matches!(self.schema.get(ty), Type::Map { .. } | Type::List { .. })
    }

    /// Whether something within a value of this type may be shown differently.
    fn is_deep(&self, ty: TypeId) -> bool {
        matches!(self.schema.get(ty), Type::Struct(_) | Type::Map { .. } | Type::List { .. })
    }

    fn structure(&mut self, s: &Struct, presences: &[FieldPresence]) -> Walked {
        self.at += 1;
        let (mut seen, mut next) = (0u128, 0);
        while self.json.get(self.at)? != &b'}' {
            let key = self.at..skip_text(self.json, self.at)?;
            self.at = key.end + 1;
            let name = self.json.get(key.start + 1..key.end - 1)?;
            let field = s.position(next, name);
            next = field.map_or(next, |i| i + 1);
            let presence = field.map(|i| &presences[i]);
            seen |= field.map_or(0, |i| 1 << i);
            match (self.zero(), presence) {
                (Some(zero), Some(presence)) if presence.hides_text(zero) => {
                    self.leave_out(key.start, zero.len())?;
                    continue;
                }
                (Some("[]" | "{}"), Some(FieldPresence { shown: Some(shown), .. }))
                    if shown == "null" && !self.keeps_empty && field.is_some_and(|i| self.is_list(s.fields[i].ty)) =>
                {
                    self.replace(2, b"null");
                }
                _ => match field {
                    Some(i) => self.value(s.fields[i].ty)?,
                    None => self.skip()?,
                },
            }
            self.next()?;
        }
        for (i, presence) in presences.iter().enumerate().filter(|(i, _)| seen & (1 << i) == 0) {
            let Some(text) = &presence.shown else { continue };
            self.write_up_to(self.at);
            if self.out.last() != Some(&b'{') {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(s.fields[i].name.as_bytes());
            self.out.extend_from_slice(b"\":");
            self.out.extend_from_slice(text.as_bytes());
        }
        self.at += 1;
        Some(())
    }

    fn entries(&mut self, value: TypeId) -> Walked {
        self.at += 1;
        while self.json.get(self.at)? != &b'}' {
            self.at = skip_text(self.json, self.at)? + 1;
            self.value(value)?;
            self.next()?;
        }
        self.at += 1;
        Some(())
    }

    fn items(&mut self, item: TypeId) -> Walked {
        self.at += 1;
        while self.json.get(self.at)? != &b']' {
            self.value(item)?;
            self.next()?;
        }
        self.at += 1;
        Some(())
    }

    /// Go's zero time is null in JSON.
    fn time(&mut self) -> Walked {
        let end = skip_text(self.json, self.at)?;
        if self.json[self.at..].starts_with(b"\"0001-01-01T00:00:00") {
            self.replace(end - self.at, b"null");
        }
        self.at = end;
        Some(())
    }

    /// Go has no point in whole numbers.
    fn double(&mut self) -> Walked {
        let start = self.at;
        self.skip()?;
        if self.json[start..self.at].ends_with(b".0") {
            self.write_up_to(self.at - 2);
            self.written = self.at;
        }
        Some(())
    }

    /// What stands here, if Go would call it zero.
    fn zero(&self) -> Option<&'static str> {
        let rest = self.json.get(self.at..)?;
        let zero = match rest.first()? {
            b'"' => "\"\"",
            b'[' => "[]",
            b'{' => "{}",
            b'0' => "0",
            b'f' => "false",
            b'n' => "null",
            _ => return None,
        };
        let ends = |rest: &[u8]| matches!(rest.first(), Some(b',' | b'}' | b']'));
        rest.strip_prefix(zero.as_bytes()).is_some_and(ends).then_some(zero)
    }

    fn skip(&mut self) -> Walked {
        self.at = crate::scan::skip(self.json, self.at)?;
        Some(())
    }

    /// Over a comma, or to the end of the object or list.
    fn next(&mut self) -> Walked {
        match self.json.get(self.at)? {
            b',' => self.at += 1,
            b'}' | b']' => {}
            _ => return None,
        }
        Some(())
    }

    fn write_up_to(&mut self, end: usize) {
        self.out.extend_from_slice(&self.json[self.written..end]);
        self.written = end;
    }

    /// Writes `text` in place of so many bytes.
    fn replace(&mut self, length: usize, text: &[u8]) {
        self.write_up_to(self.at);
        self.out.extend_from_slice(text);
        self.at += length;
        self.written = self.at;
    }

    /// Goes over a member that begins at `start` and whose value is of this length, and over one comma.
    fn leave_out(&mut self, start: usize, length: usize) -> Walked {
        self.write_up_to(start);
        self.at += length;
        self.next()?;
        self.written = self.at;
        if self.json.get(self.at) == Some(&b'}') && self.out.last() == Some(&b',') {
            self.out.pop();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(definition: &str, json: &str, expected: &str) {
        let ty = builtin().by_name(definition).expect("a definition");
        let text = String::from_utf8(shown(ty, json.as_bytes())).expect("text");
        assert_eq!(text, expected, "of {json}");
    }

    #[test]
    fn lists_that_are_always_there_are_null_when_empty() {
        check(
            "io.k8s.api.rbac.v1.Role",
            r#"{"kind":"Role","metadata":{},"rules":[]}"#,
            r#"{"kind":"Role","metadata":{},"rules":null}"#,
        );
        check(
            "io.k8s.api.discovery.v1.EndpointSlice",
            r#"{"addressType":"IPv4","endpoints":[],"metadata":{},"ports":[]}"#,
            r#"{"addressType":"IPv4","endpoints":null,"metadata":{},"ports":null}"#,
        );
    }

    #[test]
    fn lists_that_are_always_there_are_empty_until_they_are_stored() {
        let ty = builtin().by_name("io.k8s.api.rbac.v1.Role").expect("a definition");
        let json = br#"{"kind":"Role","metadata":{},"rules":[]}"#;
        assert_eq!(shown_before_storage(ty, json), json);
        assert_eq!(shown_before_storage(ty, b"{}"), br#"{"metadata":{},"rules":null}"#);
    }

    #[test]
    fn structs_that_are_no_pointers_are_there_with_what_they_always_have() {
        check(
            "io.k8s.api.core.v1.PodTemplate",
            r#"{"metadata":{},"template":{"spec":{"containers":[]}}}"#,
            r#"{"metadata":{},"template":{"spec":{"containers":null},"metadata":{}}}"#,
        );
        check(
            "io.k8s.api.resource.v1.ResourceClaim",
            r#"{"metadata":{},"spec":{}}"#,
            r#"{"metadata":{},"spec":{"devices":{"requests":null}},"status":{}}"#,
        );
        check(
            "io.k8s.api.core.v1.Service",
            r#"{"metadata":{"name":"\"}"}}"#,
            r#"{"metadata":{"name":"\"}"},"spec":{},"status":{"loadBalancer":{}}}"#,
        );
    }

    #[test]
    fn what_go_leaves_out_is_not_there() {
        check(
            "io.k8s.api.core.v1.ServiceAccount",
            r#"{"imagePullSecrets":[{"name":"a"},{"name":""}],"metadata":{"labels":{}},"secrets":[]}"#,
            r#"{"imagePullSecrets":[{"name":"a"},{}],"metadata":{}}"#,
        );
        check(
            "io.k8s.api.core.v1.PodSpec",
            r#"{"containers":[{"name":"c","securityContext":{}}],"hostNetwork":false,"priority":0}"#,
            r#"{"containers":[{"name":"c","securityContext":{},"resources":{}}],"priority":0}"#,
        );
    }

    #[test]
    fn whole_numbers_have_no_point() {
        check(
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
            r#"{"items":{"maximum":10.0,"minimum":0.0,"multipleOf":0.5},"multipleOf":1.0}"#,
            r#"{"items":{"maximum":10,"minimum":0,"multipleOf":0.5},"multipleOf":1}"#,
        );
    }

    #[test]
    fn the_zero_time_is_null() {
        check(
            "io.k8s.apimachinery.pkg.apis.meta.v1.Condition",
            r#"{"lastTransitionTime":"0001-01-01T00:00:00Z","message":"","reason":"R","status":"True","type":"T"}"#,
            r#"{"lastTransitionTime":null,"message":"","reason":"R","status":"True","type":"T"}"#,
        );
    }

    #[test]
    fn what_is_no_object_of_ours_stays_as_it_is() {
        check("io.k8s.api.core.v1.PodSpec", r#"{"containers":["#, r#"{"containers":["#);
        check("io.k8s.api.core.v1.PodSpec", r#"[1] "#, r#"[1] "#);
    }
}
