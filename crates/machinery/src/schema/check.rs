//! Bodies to values: JSON in ([`super::yaml`] makes it of YAML), a [`Value`] and what a strict server complains about out.
//!
//! | body | function | unknown fields | wrong types |
//! |---|---|---|---|
//! | built-in kind | [`check_json`] | dropped and reported | an error |
//! | patch, apply, custom resource | [`parse_json`] | kept | kept |
//! | value in hand | [`check_value`] | dropped and reported | an error |
//! | custom resource | [`prune`] | dropped and reported | kept |
//!
//! Follows `apimachinery/pkg/runtime/serializer/json/json.go` and, for custom resources,
//! `apiextensions-apiserver/pkg/apiserver/schema/pruning`. What to do with the problems (`fieldValidation`: ignore,
//! warn, refuse with [`strict_error`]) is the caller's.
//!
//! Invariant: in a checked value, null never stands for an absent field of a built-in kind: such fields are left out.

use super::json::{self, Target};
use super::{Schema, Type, TypeId};
use serde_json::Value;

pub use super::json::MAX_DEPTH;

/// A body that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// The body.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`, in the order found, each once, 100 at most.
    pub problems: Vec<String>,
}

impl Checked {
    fn of(outcome: json::Outcome) -> Self {
        Checked { value: outcome.value, problems: outcome.problems }
    }
}

/// What is to be known of a body before it is decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// As in [`Checked`].
    pub problems: Vec<String>,
    /// The value that [`check_json`] reads is not what the text says, but what Go makes of it: built-in types have no empty
    /// text, lists and maps where Go would not show them (`omitempty`), zero values for nulls, one object where a field
    /// occurs twice, and U+FFFD for what is no UTF-8.
    pub adjusted: bool,
}

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not JSON. Upstream prefixes `couldn't get version/kind; json parse error: `, see [`BodyError::upstream`].
    #[error("{0}")]
    Syntax(String),
    /// JSON, but a value has a type that its field cannot take.
    #[error("{0}")]
    Type(String),
    /// Not YAML, or beyond the limits.
    #[error("yaml: {0}")]
    Yaml(String),
}

impl BodyError {
    /// The text that upstream puts into its 400: syntax errors come from the look at kind and version.
    pub fn upstream(&self) -> String {
        match self {
            BodyError::Syntax(message) => format!("couldn't get version/kind; json parse error: {message}"),
            other => other.to_string(),
        }
    }
}

/// The text of a refused strict body (`runtime.NewStrictDecodingError`).
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

/// Reads a JSON body of a known type.
pub fn check_json(schema: &Schema, ty: TypeId, bytes: &[u8]) -> Result<Checked, BodyError> {
    read(schema, Target::Typed(ty), bytes)
}

/// [`check_json`] of an object on its way in: lists and maps that are empty are kept for validation, which tells some of them
/// from absent ones. They are not shown any more ([`super::shown`]). A selector that must be there and is empty has labels, but
/// none, since our types cannot tell it from an absent one.
pub fn check_sent_json(schema: &Schema, ty: TypeId, bytes: &[u8]) -> Result<Checked, BodyError> {
    json::read_sent(schema, Target::Typed(ty), bytes).map(Checked::of)
}

/// [`check_json`] for those who do not want the value yet.
pub fn verdict(schema: &Schema, ty: TypeId, bytes: &[u8]) -> Result<Verdict, BodyError> {
    json::check(schema, Target::Typed(ty), bytes).map(|o| Verdict { problems: o.problems, adjusted: o.adjusted })
}

/// Reads any JSON; finds duplicate fields.
pub fn parse_json(bytes: &[u8]) -> Result<Checked, BodyError> {
    read(&Schema::default(), Target::Free, bytes)
}

/// Checks a value that was made otherwise (a patch result) as if it had been a JSON body.
pub fn check_value(schema: &Schema, ty: TypeId, value: &Value) -> Result<Checked, BodyError> {
    // As upstream: both paths meet in JSON text, so there is one reader and one set of messages.
    check_json(schema, ty, value.to_string().as_bytes())
}

/// The `apiVersion` and `kind` of a JSON body, empty where absent; nothing else is built.
pub fn type_meta(bytes: &[u8]) -> Result<(String, String), BodyError> {
    use super::{Field, PatchStrategy, Scalar, Struct};
    let field = |name: &'static str| Field {
        name: name.into(),
        ty: TypeId(1),
        required: false,
        default: None,
        patch: PatchStrategy::default(),
        proto_number: 0,
    };
    let structure = Struct { fields: vec![field("apiVersion"), field("kind")], ..Struct::default() };
    let schema = Schema { types: vec![Type::Struct(structure), Type::Scalar(Scalar::String)] };
    let found = json::read(&schema, Target::Typed(TypeId(0)), bytes)?.value;
    let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((text("apiVersion"), text("kind")))
}

/// Drops fields the type does not have and returns their paths (`spec.containers[0].foo`), in document order of the
/// value's map.
pub fn prune(schema: &Schema, ty: TypeId, value: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    prune_at(schema, ty, value, &mut String::new(), &mut dropped);
    dropped
}

fn prune_at(schema: &Schema, ty: TypeId, value: &mut Value, path: &mut String, dropped: &mut Vec<String>) {
    let len = path.len();
    match (schema.get(ty), value) {
        (Type::Struct(s), Value::Object(map)) => map.retain(|key, value| {
            if len > 0 {
                path.push('.');
            }
            path.push_str(key);
            let known = match s.field(key) {
                Some(field) => {
                    prune_at(schema, field.ty, value, path, dropped);
                    true
                }
                None => s.preserve_unknown,
            };
            if !known {
                dropped.push(path.clone());
            }
            path.truncate(len);
            known
        }),
        (Type::Map { value: item, .. }, Value::Object(map)) => {
            for (key, value) in map.iter_mut() {
                if len > 0 {
                    path.push('.');
                }
                path.push_str(key);
                prune_at(schema, *item, value, path, dropped);
                path.truncate(len);
            }
        }
        (Type::List { item, .. }, Value::Array(items)) => {
            for (i, value) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                prune_at(schema, *item, value, path, dropped);
                path.truncate(len);
            }
        }
        // A leaf, or a wrong type that validation reports.
        _ => {}
    }
}

fn read(schema: &Schema, target: Target, bytes: &[u8]) -> Result<Checked, BodyError> {
    json::read(schema, target, bytes).map(Checked::of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use expect_test::{Expect, expect};

    fn show(result: Result<Checked, BodyError>) -> String {
        match result {
            Ok(checked) => format!("{}\n{}", checked.value, checked.problems.join("\n")),
            Err(error) => format!("error: {}", error.upstream()),
        }
    }

    fn pod() -> TypeId {
        builtin().by_kind("", "v1", "Pod").expect("there are pods")
    }

    fn check(body: &str, expected: Expect) {
        expected.assert_eq(&show(check_json(&builtin().schema, pod(), body.as_bytes())));
    }

    #[test]
    fn unknown_and_duplicate_fields_are_reported_with_their_paths() {
        check(
            r#"{"kind":"Pod","foo":{"a":1,"a":2},"spec":{"containers":[{"name":"a","name":"b","imagee":"x"}],"nodeSelector":{"a":"1","a":"2"}},
               "metadata":{"labels":{"a/b.c":"x","a/b.c":"y"}},"spec":{"hostPID":true}}"#,
            expect![[r#"
                {"kind":"Pod","metadata":{"labels":{"a/b.c":"y"}},"spec":{"containers":[{"name":"b"}],"hostPID":true,"nodeSelector":{"a":"2"}}}
                unknown field "foo"
                duplicate field "spec.containers[0].name"
                unknown field "spec.containers[0].imagee"
                duplicate field "spec.nodeSelector.a"
                duplicate field "metadata.labels.a/b.c"
                duplicate field "spec""#]],
        );
    }

    #[test]
    fn names_are_case_sensitive_and_nulls_mean_absent() {
        check(
            r#"{"Kind":"Pod","spec":null,"metadata":{"labels":{"a":null},"creationTimestamp":null}}"#,
            expect![[r#"
                {"metadata":{"labels":{"a":""}}}
                unknown field "Kind""#]],
        );
    }

    #[test]
    fn structs_of_nulls_are_empty_and_no_bytes_may_be_a_list() {
        let b = builtin();
        let verdict = |kind: (&str, &str), json: &str| {
            let ty = b.by_kind(kind.0, "v1", kind.1).expect("a kind");
            super::verdict(&b.schema, ty, json.as_bytes()).expect("JSON").adjusted
        };
        let secret = b.by_kind("", "v1", "Secret").expect("a kind");
        let read = check_json(&b.schema, secret, br#"{"data":{"a":[ ]}}"#).expect("JSON").value;
        assert_eq!(read.to_string(), r#"{"data":{"a":""}}"#);
        assert!(verdict(("", "Secret"), r#"{"data":{"a":[ ]}}"#));
        assert!(verdict(("apps", "Deployment"), r#"{"spec":{"selector":{"matchLabels":null}}}"#));
        assert!(!verdict(("apps", "Deployment"), r#"{"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#));
    }

    #[test]
    fn types_that_read_themselves_are_not_looked_into() {
        check(
            r#"{"metadata":{"managedFields":[{"fieldsV1":{"f:x":{},"f:x":{}}}]}}"#,
            expect![[r#"
                {"metadata":{"managedFields":[{"fieldsV1":{"f:x":{}}}]}}
            "#]],
        );
    }

    #[test]
    fn wrong_types_are_refused_in_gos_words() {
        let refuse = |body: &str, expected: Expect| {
            check(body, expected);
        };
        refuse(
            r#"{"spec":{"terminationGracePeriodSeconds":"5"}}"#,
            expect![
                "error: json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"
            ],
        );
        refuse(
            r#"{"spec":{"containers":{"name":"a"}}}"#,
            expect![
                "error: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
            ],
        );
        refuse(
            r#"{"spec":{"containers":["a"]}}"#,
            expect![
                "error: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container"
            ],
        );
        refuse(
            r#"{"metadata":{"labels":{"a":1}}}"#,
            expect![
                "error: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
            ],
        );
        refuse(
            r#"{"spec":{"priority":3000000000,"containers":[]}}"#,
            expect![
                "error: json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32"
            ],
        );
        refuse(
            r#"{"spec":{"priority":"x","containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#,
            expect![
                "error: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            ],
        );
        refuse(
            r#"{"spec":{"containers":[{"livenessProbe":{"tcpSocket":{"port":true}}}]}}"#,
            expect![
                "error: json: cannot unmarshal bool into Go struct field TCPSocketAction.spec.containers.livenessProbe.ProbeHandler.tcpSocket.port of type int32"
            ],
        );
        refuse(
            r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
            expect![[
                r#"error: parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#
            ]],
        );
        refuse("[]", expect!["error: json: cannot unmarshal array into Go value of type v1.Pod"]);
    }

    #[test]
    fn syntax_errors_come_first_and_in_gos_words() {
        for (body, expected) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            (r#"{"spec":5,}"#, "invalid character '}' looking for beginning of object key string"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("tru}", "invalid character '}' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            (r#""\u12g4""#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("yaml: 1", "invalid character 'y' looking for beginning of value"),
            ("'", "invalid character '\\'' looking for beginning of value"),
        ] {
            let got = check_json(&builtin().schema, pod(), body.as_bytes());
            assert_eq!(got, Err(BodyError::Syntax(expected.to_owned())), "{body}");
        }
        let deep = "[".repeat(100_000);
        let got = parse_json(deep.as_bytes());
        assert_eq!(got, Err(BodyError::Syntax("invalid character '[' exceeded max depth".into())));
    }

    #[test]
    fn strings_and_numbers_survive() {
        let got =
            parse_json(br#"{"a":"\u00e9\ud83d\ude00\ud800x\n","b":[1,-2,1.5,1e2,12345678901234567890],"c":"\\"}"#);
        let value = got.expect("it is JSON").value;
        assert_eq!(value["a"], "é😀\u{fffd}x\n");
        assert_eq!(value["c"], "\\");
        assert_eq!(value["b"].to_string(), "[1,-2,1.5,100.0,1.2345678901234567e+19]");
        let lossy = parse_json(b"[\"\xff\"]").expect("broken UTF-8 is replaced");
        assert_eq!(lossy.value[0], "\u{fffd}");
        let huge = parse_json(b"[1e999]").expect_err("too large");
        assert_eq!(huge.to_string(), "json: cannot unmarshal number 1e999 into Go value of type float64");
    }

    #[test]
    fn pruning_tells_what_it_dropped() {
        let mut value =
            serde_json::json!({"spec":{"x":1,"containers":[{"name":"a","y":{}}]},"metadata":{"labels":{"z":"1"}}});
        let dropped = prune(&builtin().schema, pod(), &mut value);
        assert_eq!(dropped, ["spec.containers[0].y", "spec.x"]);
        assert_eq!(value.to_string(), r#"{"metadata":{"labels":{"z":"1"}},"spec":{"containers":[{"name":"a"}]}}"#);
    }

    #[test]
    fn kind_and_version_are_found_without_the_rest() {
        let got = type_meta(br#"{"spec":{"kind":"no"},"kind":"Pod","apiVersion":"v1"}"#);
        assert_eq!(got, Ok(("v1".to_owned(), "Pod".to_owned())));
        assert!(type_meta(b"{\"kind\":5}").is_err());
    }

    #[test]
    fn problems_are_the_same_without_the_value() {
        use proptest::prelude::*;
        let key = "spec|metadata|labels|containers|name|image|resources|limits|cpu|priority|hostPID|foo";
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "[0-9]{1,2}m?|true".prop_map(|s| s.replace('m', ".5")),
            "\"[a-c]{0,2}\""
        ];
        let any = leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                proptest::collection::vec((key, inner), 0..6).prop_map(|m| {
                    let members: Vec<String> = m.into_iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        });
        proptest!(|(body in any)| {
            let checked = check_json(&builtin().schema, pod(), body.as_bytes()).map(|c| c.problems);
            prop_assert_eq!(verdict(&builtin().schema, pod(), body.as_bytes()).map(|v| v.problems), checked);
        });
        let many: Vec<String> = (0..100).map(|i| format!("\"k{}\":\"\"", i % 90)).collect();
        let body = format!(r#"{{"metadata":{{"labels":{{{}}}}}}}"#, many.join(","));
        assert_eq!(verdict(&builtin().schema, pod(), body.as_bytes()).map(|v| v.problems.len()), Ok(10));
    }

    #[test]
    fn no_input_panics() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\u0d8e1-+.tfn ".to_vec()), 0..40))| {
            let mine = parse_json(&bytes);
            let theirs: Result<Value, _> = serde_json::from_slice(&bytes);
            // Lone surrogates and huge numbers are ours alone.
            if theirs.is_ok() {
                prop_assert!(mine.is_ok(), "{:?} {:?}", String::from_utf8_lossy(&bytes), mine);
            }
        });
    }
}
