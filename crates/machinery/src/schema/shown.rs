//! Objects of built-in types as upstream's API server shows them: what Go's structs always print (`"status":{}`,
//! `"rules":null`) is there, what they leave out (`omitempty`) is not.
//!
//! Follows what two steps upstream do to every object on its way to a client: objects are kept as protobuf, which knows no
//! empty lists (`apimachinery/pkg/runtime/serializer/protobuf`), and `encoding/json` prints structs that are no pointers
//! even if nothing is set in them.

use super::{Field, Scalar, Schema, Struct, Type, TypeId, builtin};
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
    let mut writer = Writer { schema: &builtin().schema, json, keeps_empty, at: 0, out };
    match writer.value(ty) {
        Some(()) if writer.at == json.len() => writer.out,
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
    out: Vec<u8>,
}

/// `None`: the text is not what it should be.
type Walked = Option<()>;

impl Writer<'_> {
    fn value(&mut self, ty: TypeId) -> Walked {
        match (self.schema.get(ty), self.json.get(self.at)?) {
            (Type::Struct(s), b'{') => match presence::of(s) {
                Some(presences) => self.structure(s, presences),
                None => self.copy(),
            },
            (Type::Map { value, .. }, b'{') if self.is_deep(*value) => self.entries(*value),
            (Type::List { item, .. }, b'[') if self.is_deep(*item) => self.items(*item),
            (Type::Scalar(Scalar::Time | Scalar::MicroTime), b'"') => self.time(),
            (Type::Scalar(Scalar::Double), _) => self.double(),
            (Type::Any, b'{') => match builtin().inner(ty) {
                Some(schema) => self.value(schema),
                None => self.copy(),
            },
            _ => self.copy(),
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
        let start = self.open(b'{');
        let (mut seen, mut next) = (0u128, 0);
        while self.json.get(self.at)? != &b'}' {
            let key = self.at..skip_text(self.json, self.at)?;
            self.at = key.end + 1;
            let name = self.json.get(key.start + 1..key.end - 1)?;
            let field = find(s, next, name);
            next = field.map_or(next, |i| i + 1);
            let presence = field.map(|i| &presences[i]);
            seen |= field.map_or(0, |i| 1 << i);
            let empty = self.zero();
            match (empty, presence) {
                (Some(zero), Some(presence)) if presence.hides_text(zero) => self.at += zero.len(),
                (zero, presence) => {
                    self.comma(start);
                    self.out.extend_from_slice(self.json.get(key.start..self.at)?);
                    let is_list = !self.keeps_empty && field.is_some_and(|i| self.is_list(s.fields[i].ty));
                    match (zero, presence.and_then(|p| p.shown.as_deref())) {
                        (Some("[]" | "{}"), Some("null")) if is_list => {
                            self.out.extend_from_slice(b"null");
                            self.at += 2;
                        }
                        _ => match field {
                            Some(i) => self.value(s.fields[i].ty)?,
                            None => self.copy()?,
                        },
                    }
                }
            }
            self.next()?;
        }
        for (i, presence) in presences.iter().enumerate().filter(|(i, _)| seen & (1 << i) == 0) {
            let Some(text) = &presence.shown else { continue };
            self.comma(start);
            self.out.push(b'"');
            self.out.extend_from_slice(s.fields[i].name.as_bytes());
            self.out.extend_from_slice(b"\":");
            self.out.extend_from_slice(text.as_bytes());
        }
        self.close(b'}')
    }

    fn entries(&mut self, value: TypeId) -> Walked {
        let start = self.open(b'{');
        while self.json.get(self.at)? != &b'}' {
            self.comma(start);
            let end = skip_text(self.json, self.at)? + 1;
            self.out.extend_from_slice(self.json.get(self.at..end)?);
            self.at = end;
            self.value(value)?;
            self.next()?;
        }
        self.close(b'}')
    }

    fn items(&mut self, item: TypeId) -> Walked {
        let start = self.open(b'[');
        while self.json.get(self.at)? != &b']' {
            self.comma(start);
            self.value(item)?;
            self.next()?;
        }
        self.close(b']')
    }

    /// Go's zero time is null in JSON.
    fn time(&mut self) -> Walked {
        if self.json[self.at..].starts_with(b"\"0001-01-01T00:00:00") {
            self.at = skip_text(self.json, self.at)?;
            self.out.extend_from_slice(b"null");
            return Some(());
        }
        self.copy()
    }

    /// Go has no point in whole numbers.
    fn double(&mut self) -> Walked {
        self.copy()?;
        if self.out.ends_with(b".0") {
            self.out.truncate(self.out.len() - 2);
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

    fn copy(&mut self) -> Walked {
        let end = crate::scan::skip(self.json, self.at)?;
        self.out.extend_from_slice(self.json.get(self.at..end)?);
        self.at = end;
        Some(())
    }

    /// Begins an object or list; tells where its content starts.
    fn open(&mut self, bracket: u8) -> usize {
        self.at += 1;
        self.out.push(bracket);
        self.out.len()
    }

    fn close(&mut self, bracket: u8) -> Walked {
        self.at += 1;
        self.out.push(bracket);
        Some(())
    }

    fn comma(&mut self, start: usize) {
        if self.out.len() > start {
            self.out.push(b',');
        }
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
}

/// The field of this name; looked for from `next` on first, since our encoder writes fields in their order.
fn find(s: &Struct, next: usize, name: &[u8]) -> Option<usize> {
    let is_it = |f: &Field| f.name.as_bytes() == name;
    let ahead = s.fields.get(next..).and_then(|fields| fields.iter().position(is_it)).map(|i| next + i);
    ahead.or_else(|| s.fields.iter().position(is_it))
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
