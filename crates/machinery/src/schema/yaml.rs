//! YAML bodies as upstream reads them (`sigs.k8s.io/yaml`, which makes JSON of go-yaml's 1.1): `yes` is true, `0644` is octal, of several
//! documents the first is meant, and keys are what their scalars are (`0x10: a` is `"16"`).
//!
//! Differs: of fields that occur twice only the first is told; what is no YAML is told in other words.

use super::check::{BodyError, Checked};
use crate::json;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Error;
use serde_saphyr::options::DuplicateKeyPolicy;
use std::fmt;

/// What a strict server says before the lines about fields that occur twice.
const ERRORS: &str = "yaml: unmarshal errors:\n";

/// Reads any YAML; finds a duplicate field. Anchors are expanded within a budget, and nesting ends at 64 levels.
pub fn parse(bytes: &[u8]) -> Result<Checked, BodyError> {
    let text = std::str::from_utf8(bytes).map_err(|e| BodyError::Yaml(format!("not UTF-8: {e}")))?;
    let refuse = |error: Error| BodyError::Yaml(line_first(&error));
    match first_document(text, DuplicateKeyPolicy::Error) {
        Ok(value) => Ok(Checked { value, problems: Vec::new() }),
        Err(error) => {
            let Some(problem) = duplicate_key(&error) else { return Err(refuse(error)) };
            let value = first_document(text, DuplicateKeyPolicy::LastWins).map_err(refuse)?;
            Ok(Checked { value, problems: vec![problem] })
        }
    }
}

/// What a server that is not strict warns of: as it is told to others, but a line each of what is wrong with the YAML
/// (`AddWarnings` of `runtime.StrictDecodingError` in `handlers/rest.go`).
pub fn warnings(problems: Vec<String>) -> impl Iterator<Item = String> {
    problems.into_iter().flat_map(|problem| match problem.strip_prefix(ERRORS) {
        Some(lines) => lines.lines().map(|line| line.trim().to_owned()).collect(),
        None => vec![problem],
    })
}

fn first_document(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let mut reader = text.as_bytes();
    let mut documents = serde_saphyr::read_with_options::<_, Node>(&mut reader, options);
    documents.next().map_or(Ok(Value::Null), |document| document.map(|node| node.0))
}

/// `error: … at line 9, column 3` as `line 9: …`.
fn line_first(error: &Error) -> String {
    let text = error.to_string();
    let Some(location) = error.location() else { return text };
    let what = text.split_once(" at line ").map_or(&*text, |(what, _)| what);
    format!("line {}: {what}", location.line())
}

/// What a strict server complains about, if that is all that is wrong.
fn duplicate_key(error: &Error) -> Option<String> {
    match error.without_snippet() {
        Error::DuplicateMappingKey { key, location } => {
            let key = key.as_deref().unwrap_or_default();
            Some(format!("{ERRORS}  line {}: key {key:?} already set in map", location.line()))
        }
        _ => None,
    }
}

/// A value of JSON.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Node)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }
    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        let number = number.ok_or_else(|| E::custom(format_args!("unsupported value: {value}")))?;
        let mut value = Value::Number(number);
        json::make_whole(&mut value);
        Ok(value)
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Node(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((Key(key), Node(value))) = members.next_entry()? {
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// A key of a mapping as a text (`convertToJSONableObject` in `sigs.k8s.io/yaml`).
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Node::deserialize(deserializer)?.0 {
            Value::String(text) => Ok(Key(text)),
            Value::Number(number) => Ok(Key(number.to_string())),
            Value::Bool(value) => Ok(Key(value.to_string())),
            other => Err(de::Error::custom(format_args!("unsupported map key: {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(body: &str, expected: Expect) {
        let shown = match parse(body.as_bytes()) {
            Ok(checked) => {
                let warnings: Vec<String> = warnings(checked.problems).collect();
                format!("{}\n{}", checked.value, warnings.join("\n"))
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(shown.trim_end());
    }

    #[test]
    fn scalars_are_of_yaml_1_1() {
        check(
            "{a: yes, b: 0644, c: 0x10, d: ~, e: 1.50, f: '1', g: 12345678901234567890123, h: 1_000, i: 2001-01-01}",
            expect![[
                r#"{"a":true,"b":420,"c":16,"d":null,"e":1.5,"f":"1","g":1.2345678901234568e+22,"h":1000,"i":"2001-01-01"}"#
            ]],
        );
        check("a: .inf", expect!["yaml: line 1: non-finite float `.inf` rejected by the configured policy"]);
    }

    #[test]
    fn keys_are_what_their_scalars_are() {
        check(
            "{yes: a, 1: b, 1.50: c, 0x10: d, 'no': e, <<: {f: g}}",
            expect![[r#"{"1":"b","1.5":"c","16":"d","f":"g","no":"e","true":"a"}"#]],
        );
        check("{~: a}", expect!["yaml: line 1: unsupported map key: null"]);
        check("{? [a] : b}", expect![[r#"yaml: line 1: unsupported map key: ["a"]"#]]);
    }

    #[test]
    fn the_first_of_several_documents_is_meant() {
        check("a: 1\n---\na: 2\n", expect![[r#"{"a":1}"#]]);
        check("a: 1\n---\n", expect![[r#"{"a":1}"#]]);
        check("--- \na: 1\n...\n", expect![[r#"{"a":1}"#]]);
        check("# nothing\n", expect!["null"]);
        check("", expect!["null"]);
    }

    #[test]
    fn the_last_of_two_fields_wins_and_is_told() {
        check(
            "a: 1\nb: 2\na: 3\n",
            expect![[r#"
            {"a":3,"b":2}
            line 3: key "a" already set in map"#]],
        );
        let strict = parse(b"a: {b: 1,\n b: 2}").expect("read").problems;
        assert_eq!(strict, ["yaml: unmarshal errors:\n  line 2: key \"b\" already set in map"]);
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line() {
        check("a: b\nb: [", expect!["yaml: line 2: unclosed bracket '['"]);
        check("a:\n\tb: c", expect!["yaml: line 2: tabs disallowed within this context (block indentation)"]);
        let nested = |depth, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(64, "x").as_bytes()).is_ok());
        check(&nested(65, "x"), expect!["yaml: line 1: budget breached: Depth { depth: 65 }"]);
        check(
            &format!("a: &a {}\nb: {}", nested(40, "x"), nested(40, "*a")),
            expect!["yaml: line 2: budget breached: Depth { depth: 65 }"],
        );
        let bomb = format!(
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n{}",
            (b'b'..b'z').fold(String::new(), |mut s, c| {
                let (c, p) = (c as char, (c - 1) as char);
                s.push_str(&format!("{c}: &{c} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n"));
                s
            })
        );
        assert!(parse(bomb.as_bytes()).is_err());
        assert!(parse(b"a: \xff").is_err());
    }
}
