//! Values of expressions: cheap to clone, compared and converted as CEL says.

use super::library::authz::Check;
use super::library::format::Format;
use super::library::semver::Version;
use super::types::{Decl, Type, escape, unescape};
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map as JsonMap, Number, Value as Json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A value.
#[derive(Debug, Clone)]
pub enum Value {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// 64 bits, signed.
    Int(i64),
    /// 64 bits, unsigned.
    Uint(u64),
    /// IEEE double.
    Double(f64),
    /// Text.
    String(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A span in nanoseconds.
    Duration(i64),
    /// A list.
    List(Arc<List>),
    /// A map.
    Map(Arc<Map>),
    /// An object of a declared or constructed type.
    Object(Arc<Object>),
    /// A type.
    Type(Arc<str>),
    /// A value or none.
    Optional(Option<Arc<Value>>),
    /// `quantity('1Gi')`
    Quantity(Arc<Quantity>),
    /// `url('https://…')`
    Url(Arc<crate::go_url::Url>),
    /// `ip('10.0.0.1')`
    Ip(IpAddr),
    /// `cidr('10.0.0.0/8')`
    Cidr(IpAddr, u8),
    /// `semver('1.2.3')`
    Semver(Arc<Version>),
    /// `format.dns1123Label()`
    Format(&'static Format),
    /// `authorizer` and what is made from it.
    Authorizer(Arc<Check>),
}

/// A list and how its items are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Default)]
pub struct List {
    /// The items.
    pub items: Vec<Value>,
    pub(super) kind: ListKind,
}

/// Lists of schemas with list types are compared and added as what they stand for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum ListKind {
    #[default]
    Plain,
    Set,
    Map(Arc<[Arc<str>]>),
}

/// Entries by key.
#[derive(Debug, Clone, Default)]
pub struct Map {
    entries: BTreeMap<Key, Value>,
    /// What looking up a key gives that is not there.
    pub(super) absent: Option<Value>,
}

/// What may be a key of a map. Numbers are one kind: `1`, `1u` and `1.0` find the same entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A truth value.
    Bool(bool),
    /// A number that fits.
    Int(i64),
    /// A number that is larger than any `Int`.
    Uint(u64),
    /// Text.
    String(Arc<str>),
}

/// An object: its type's name and the fields that are set, by the names that expressions use.
#[derive(Debug, Clone)]
pub struct Object {
    /// Qualified name of the type.
    pub name: Arc<str>,
    /// Fields that are there.
    pub fields: BTreeMap<Arc<str>, Value>,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Bool(truth)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Value::List(Arc::new(List { items, kind: ListKind::Plain }))
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Value::Map(Arc::new(map))
    }
}

impl Map {
    /// No entries.
    pub fn new() -> Self {
        Map::default()
    }

    /// What looking up a key gives.
    pub(super) fn find(&self, key: &Key) -> Option<&Value> {
        self.entries.get(key).or(self.absent.as_ref())
    }
}

impl Deref for Map {
    type Target = BTreeMap<Key, Value>;
    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl DerefMut for Map {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.entries
    }
}

impl FromIterator<(Key, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (Key, Value)>>(entries: I) -> Self {
        Map { entries: entries.into_iter().collect(), absent: None }
    }
}

impl Key {
    /// The key that a value stands for.
    pub fn of(value: &Value) -> Option<Key> {
        Some(match value {
            Value::Bool(truth) => Key::Bool(*truth),
            Value::Int(number) => Key::Int(*number),
            Value::Uint(number) => i64::try_from(*number).map_or(Key::Uint(*number), Key::Int),
            Value::Double(number) => {
                let whole = *number as i64;
                (whole as f64 == *number).then_some(Key::Int(whole))?
            }
            Value::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value(&self) -> Value {
        match self {
            Key::Bool(truth) => Value::Bool(*truth),
            Key::Int(number) => Value::Int(*number),
            Key::Uint(number) => Value::Uint(*number),
            Key::String(text) => Value::String(text.clone()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(truth) => write!(f, "{truth}"),
            Key::Int(number) => write!(f, "{number}"),
            Key::Uint(number) => write!(f, "{number}"),
            Key::String(text) => write!(f, "{text}"),
        }
    }
}

// === impl Value ===

impl Value {
    /// The name of the value's type.
    pub fn type_name(&self) -> Arc<str> {
        let ty = match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => return "list".into(),
            Value::Map(_) => return "map".into(),
            Value::Object(object) => return object.name.clone(),
            Value::Type(_) => Type::Type(None),
            Value::Optional(_) => return "optional_type".into(),
            Value::Quantity(_) => Type::Library("kubernetes.Quantity"),
            Value::Url(_) => Type::Library("kubernetes.URL"),
            Value::Ip(_) => Type::Library("net.IP"),
            Value::Cidr(..) => Type::Library("net.CIDR"),
            Value::Semver(_) => Type::Library("kubernetes.Semver"),
            Value::Format(_) => Type::Library("kubernetes.NamedFormat"),
            Value::Authorizer(check) => Type::Library(check.type_name()),
        };
        ty.name().into()
    }

    /// Some value.
    pub(super) fn some(value: Value) -> Value {
        Value::Optional(Some(Arc::new(value)))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// As CEL's `==`.
    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::List(a), Value::List(b)) => same_lists(a, b),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| v.equals(w)))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields.iter().all(|(k, v)| b.fields.get(k).is_some_and(|w| v.equals(w)))
            }
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (Value::Quantity(a), Value::Quantity(b)) => a == b,
            (Value::Url(a), Value::Url(b)) => a == b,
            (Value::Ip(a), Value::Ip(b)) => a == b,
            (Value::Cidr(a, n), Value::Cidr(b, m)) => a == b && n == m,
            (Value::Semver(a), Value::Semver(b)) => a.compare(b) == Ordering::Equal,
            (Value::Format(a), Value::Format(b)) => a.name == b.name,
            (Value::Authorizer(a), Value::Authorizer(b)) => a == b,
            _ => compare_numbers(self, other) == Some(Ordering::Equal),
        }
    }

    /// As CEL's `<`; `None` if there is no order between the two.
    pub(super) fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            _ => compare_numbers(self, other),
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Uint(_) | Value::Double(_))
    }

    /// The number of characters, bytes, items or entries; `None` if the value has no size.
    pub(super) fn size(&self) -> Option<u64> {
        Some(match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.items.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Ip(ip) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Value::Cidr(ip, _) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => return None,
        })
    }

    /// Whether the value is its type's zero (`optional.ofNonZeroValue`).
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(truth) => !truth,
            Value::Int(number) => *number == 0,
            Value::Uint(number) => *number == 0,
            Value::Double(number) => *number == 0.0,
            Value::Duration(nanos) => *nanos == 0,
            Value::Timestamp(time) => time.as_nanosecond() == -62_135_596_800_000_000_000,
            Value::Optional(inner) => inner.as_ref().is_none_or(|v| v.is_zero()),
            Value::Object(object) => object.fields.is_empty(),
            other => other.size() == Some(0),
        }
    }

    // --- JSON ---

    /// A JSON value without a schema: objects become maps, numbers integers where they are written so.
    pub fn from_json(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(truth) => Value::Bool(*truth),
            Json::Number(number) => number_of(number),
            Json::String(text) => Value::String(text.as_str().into()),
            Json::Array(items) => items.iter().map(Value::from_json).collect::<Vec<_>>().into(),
            Json::Object(fields) => fields
                .iter()
                .map(|(key, value)| (Key::String(key.as_str().into()), Value::from_json(value)))
                .collect::<Map>()
                .into(),
        }
    }

    /// A JSON value as its declaration says (`UnstructuredToVal`): only declared fields are seen. A value that is not what
    /// was declared becomes what it looks like, and expressions fail on it at run time.
    pub fn from_declared_json(json: &Json, decl: &Decl) -> Value {
        match (json, &decl.ty) {
            (Json::Object(fields), Type::Object(ty)) => {
                let seen = fields.iter().filter(|(_, value)| !value.is_null()).filter_map(|(name, value)| {
                    let name = escape(name)?;
                    let field = ty.field(&name)?;
                    Some((Arc::from(name.as_str()), Value::from_declared_json(value, &field)))
                });
                Value::Object(Arc::new(Object { name: ty.name.clone(), fields: seen.collect() }))
            }
            (Json::Object(fields), Type::Map(_)) => match decl.item() {
                Some(item) => fields
                    .iter()
                    .map(|(key, value)| (Key::String(key.as_str().into()), Value::from_declared_json(value, item)))
                    .collect::<Map>()
                    .into(),
                None => Value::from_json(json),
            },
            (Json::Array(items), Type::List(_)) => {
                let items = match decl.item() {
                    Some(item) => items.iter().map(|i| Value::from_declared_json(i, item)).collect(),
                    None => items.iter().map(Value::from_json).collect(),
                };
                Value::List(Arc::new(List { items, kind: decl.list_kind().clone() }))
            }
            (Json::String(text), Type::Bytes) => match BASE64.decode(text) {
                Ok(bytes) => Value::Bytes(bytes.into()),
                Err(_) => Value::from(text.as_str()),
            },
            (Json::String(text), Type::Timestamp) => match parse_time(text) {
                Some(time) => Value::Timestamp(time),
                None => Value::from(text.as_str()),
            },
            (Json::String(text), Type::Duration) => match super::library::time::parse_duration(text) {
                Some(nanos) => Value::Duration(nanos),
                None => Value::from(text.as_str()),
            },
            (Json::Number(number), Type::Double) => match number.as_f64() {
                Some(number) => Value::Double(number),
                None => number_of(number),
            },
            (Json::Number(number), Type::Int) => match number.as_f64() {
                // Whole numbers may be written with a point.
                Some(double) if number.as_i64().is_none() && double.fract() == 0.0 => Value::Int(double as i64),
                _ => number_of(number),
            },
            _ => Value::from_json(json),
        }
    }

    /// The value as JSON; `None` if it has no such form (types, optionals, authorizers).
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(truth) => Json::Bool(*truth),
            Value::Int(number) => Json::from(*number),
            Value::Uint(number) => Json::from(*number),
            Value::Double(number) => Json::Number(Number::from_f64(*number)?),
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => Json::String(BASE64.encode(bytes)),
            Value::Timestamp(time) => Json::String(time.to_string()),
            Value::Duration(nanos) => Json::String(super::library::time::show_duration(*nanos)),
            Value::List(list) => Json::Array(list.items.iter().map(Value::to_json).collect::<Option<_>>()?),
            Value::Map(map) => {
                let entries = map.iter().map(|(key, value)| Some((key.to_string(), value.to_json()?)));
                Json::Object(entries.collect::<Option<JsonMap<_, _>>>()?)
            }
            Value::Object(object) => {
                let fields = object.fields.iter().map(|(name, value)| Some((unescape(name)?, value.to_json()?)));
                Json::Object(fields.collect::<Option<JsonMap<_, _>>>()?)
            }
            Value::Quantity(quantity) => Json::String(quantity.to_string()),
            Value::Ip(ip) => Json::String(ip.to_string()),
            Value::Cidr(ip, bits) => Json::String(format!("{ip}/{bits}")),
            _ => return None,
        })
    }
}

fn number_of(number: &Number) -> Value {
    // Integers beyond Go's are floats.
    match number.as_i64() {
        Some(int) => Value::Int(int),
        None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
    }
}

/// RFC 3339, or a date alone.
fn parse_time(text: &str) -> Option<Timestamp> {
    match text.parse::<jiff::civil::Date>() {
        Ok(date) if text.len() == 10 => date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp()),
        _ => text.parse().ok(),
    }
}

fn compare_numbers(a: &Value, b: &Value) -> Option<Ordering> {
    let integer = |value: &Value| match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), other) => compare_mixed(*a, integer(other)?),
        (other, Value::Double(b)) => compare_mixed(*b, integer(other)?).map(Ordering::reverse),
        _ => Some(integer(a)?.cmp(&integer(b)?)),
    }
}

fn compare_mixed(double: f64, integer: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    let whole = double.floor();
    // Beyond every 64-bit integer the sign decides; i128 saturates there.
    match (whole as i128).cmp(&integer) {
        Ordering::Equal if double > whole => Some(Ordering::Greater),
        order => Some(order),
    }
}

fn same_lists(a: &List, b: &List) -> bool {
    if a.items.len() != b.items.len() {
        return false;
    }
    match &a.kind {
        ListKind::Plain => a.items.iter().zip(&b.items).all(|(x, y)| x.equals(y)),
        _ => a.items.iter().all(|x| b.items.iter().any(|y| x.equals(y))),
    }
}

impl List {
    /// `a + b`: lists of sets and maps are merged, others are put one after the other.
    pub(super) fn extend(&mut self, other: &List) {
        match self.kind.clone() {
            ListKind::Plain => self.items.extend(other.items.iter().cloned()),
            ListKind::Set => {
                for item in &other.items {
                    if !self.items.iter().any(|i| i.equals(item)) {
                        self.items.push(item.clone());
                    }
                }
            }
            ListKind::Map(keys) => {
                for item in &other.items {
                    match self.items.iter_mut().find(|i| keys.iter().all(|k| same_field(i, item, k))) {
                        Some(same) => *same = item.clone(),
                        None => self.items.push(item.clone()),
                    }
                }
            }
        }
    }
}

fn same_field(a: &Value, b: &Value, name: &str) -> bool {
    let field = |value: &Value| match value {
        Value::Object(object) => object.fields.get(escape(name)?.as_str()).cloned(),
        Value::Map(map) => map.get(&Key::String(name.into())).cloned(),
        _ => None,
    };
    match (field(a), field(b)) {
        (Some(a), Some(b)) => a.equals(&b),
        (None, None) => true,
        _ => false,
    }
}
