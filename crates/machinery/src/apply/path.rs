//! Path elements: how a child is named within an object or list. Follows `structured-merge-diff/v6/fieldpath`
//! (element.go, serialize-pe.go) and its order of values (`value/value.go`).

use super::set::write_text;
use crate::json::{escaped_for_html, to_text};
use crate::patch::go_text;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// One step of a field path. Ordered as upstream orders them: fields, keys, values, indexes.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// `f:name`: a field of an object.
    Field(String),
    /// `k:{"name":"x"}`: the list item with these key fields, sorted by name.
    Key(Vec<(String, Value)>),
    /// `v:"x"`: this value in a set.
    Value(Value),
    /// `i:0`: a position in a list.
    Index(i64),
}

impl PathElement {
    /// A field.
    pub fn field(name: &str) -> Self {
        PathElement::Field(name.to_owned())
    }

    /// Of a field.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            PathElement::Field(name) => Some(name),
            _ => None,
        }
    }

    /// As a key of FieldsV1.
    pub fn to_key(&self) -> String {
        match self {
            PathElement::Field(name) => ["f:", name].concat(),
            PathElement::Key(fields) => {
                let mut key = String::with_capacity(64);
                key.push_str("k:{");
                for (i, (name, value)) in fields.iter().enumerate() {
                    key.push_str(if i > 0 { "," } else { "" });
                    write_text(&mut key, name);
                    key.push(':');
                    key.push_str(&to_text(value));
                }
                key.push('}');
                escaped_for_html(key)
            }
            PathElement::Value(value) => escaped_for_html(format!("v:{}", to_text(value))),
            PathElement::Index(i) => format!("i:{i}"),
        }
    }

    /// From a key of FieldsV1. `Ok(None)`: a kind that we do not know, to be ignored.
    pub fn from_key(key: &str) -> Result<Option<Self>, String> {
        let (kind, rest) = match key.as_bytes() {
            [kind, b':', ..] => (*kind, &key[2..]),
            [_, _, ..] => return Err(format!("missing colon: {key}")),
            _ => return Err("key must be 2 characters long:".to_owned()),
        };
        let bad = |e: &dyn fmt::Display| format!("parsing key as path element: {e}");
        Ok(Some(match kind {
            b'f' => PathElement::Field(rest.to_owned()),
            b'v' => PathElement::Value(serde_json::from_str(rest).map_err(|e| bad(&e))?),
            b'i' => PathElement::Index(rest.parse().map_err(|e: std::num::ParseIntError| bad(&e))?),
            b'k' => {
                let fields: serde_json::Map<String, Value> = serde_json::from_str(rest).map_err(|e| bad(&e))?;
                PathElement::Key(fields.into_iter().collect())
            }
            _ => return Ok(None),
        }))
    }

    fn rank(&self) -> u8 {
        match self {
            PathElement::Field(_) => 0,
            PathElement::Key(_) => 1,
            PathElement::Value(_) => 2,
            PathElement::Index(_) => 3,
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (PathElement::Field(a), PathElement::Field(b)) => a.cmp(b),
            (PathElement::Key(a), PathElement::Key(b)) => compare_fields(a, b),
            (PathElement::Value(a), PathElement::Value(b)) => compare_values(a, b),
            (PathElement::Index(a), PathElement::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

/// As messages show it: `.name`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(fields) => {
                let shown: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={}", show(v))).collect();
                write!(f, "[{}]", shown.join(","))
            }
            PathElement::Value(value) => write!(f, "[={}]", show(value)),
            PathElement::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// A path as messages show it: `.spec.containers[name="a"].image`.
pub fn show_path(path: &[PathElement]) -> String {
    path.iter().map(PathElement::to_string).collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(s) => format!("{s:?}"),
        other => go_text(other),
    }
}

fn compare_fields(a: &[(String, Value)], b: &[(String, Value)]) -> Ordering {
    let pairs = a.iter().zip(b).map(|((ka, va), (kb, vb))| ka.cmp(kb).then_with(|| compare_values(va, vb)));
    first_difference(pairs).then(a.len().cmp(&b.len()))
}

fn first_difference(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// A total order of values; integers and floats compare as numbers.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |v: &Value| match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (integer(x), integer(y)) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or(0.0).total_cmp(&y.as_f64().unwrap_or(0.0)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            first_difference(x.iter().zip(y).map(|(x, y)| compare_values(x, y))).then(x.len().cmp(&y.len()))
        }
        (Value::Object(x), Value::Object(y)) => {
            let pairs = x.iter().zip(y).map(|((kx, vx), (ky, vy))| kx.cmp(ky).then_with(|| compare_values(vx, vy)));
            first_difference(pairs).then(x.len().cmp(&y.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn integer(n: &serde_json::Number) -> Option<i128> {
    n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from))
}

/// Equality of values; `1` equals `1.0`.
pub(super) fn same_value(a: &Value, b: &Value) -> bool {
    a == b || compare_values(a, b) == Ordering::Equal
}
