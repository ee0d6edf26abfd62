//! Types of expressions, and declarations: a type together with what the cost estimate and the conversion from JSON need
//! to know (`apiserver/pkg/cel/types.go`, `…/common/schemas.go`).

use super::value::ListKind;
use crate::schema::{self, Scalar, TypeId};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// `MaxRequestSizeBytes`: no value can be larger.
const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// The type of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Known only at run time.
    Dyn,
    /// Of an expression that did not check; complaints about it were made already.
    Error,
    /// `null`
    Null,
    /// `true`, `false`
    Bool,
    /// 64 bits, signed.
    Int,
    /// 64 bits, unsigned.
    Uint,
    /// IEEE double.
    Double,
    /// Unicode text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A span of time.
    Duration,
    /// `list(item)`
    List(Arc<Type>),
    /// `map(key, value)`
    Map(Arc<(Type, Type)>),
    /// `optional_type(value)`
    Optional(Arc<Type>),
    /// The type of a type, or of any type.
    Type(Option<Arc<Type>>),
    /// A parameter of a signature.
    Param(char),
    /// A type that inference has yet to find.
    Free(usize),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A type of a Kubernetes library, e.g. `kubernetes.Quantity`.
    Library(&'static str),
    /// `Object`, `Object.spec`, …: what policies construct; any field goes.
    Patch(Arc<str>),
}

impl Type {
    /// `list(item)`
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// `map(key, value)`
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// `optional_type(value)`
    pub fn optional(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    /// As cel-go's `Type.String` shows it.
    pub(super) fn name_with_parameters(&self) -> String {
        match self {
            Type::Null => "null_type".into(),
            other => other.to_string(),
        }
    }

    /// cel-go's name of the type, without parameters.
    pub(super) fn name(&self) -> String {
        match self {
            Type::Dyn => "dyn".into(),
            Type::Error => "!error!".into(),
            Type::Null => "null_type".into(),
            Type::Bool => "bool".into(),
            Type::Int => "int".into(),
            Type::Uint => "uint".into(),
            Type::Double => "double".into(),
            Type::String => "string".into(),
            Type::Bytes => "bytes".into(),
            Type::Timestamp => "google.protobuf.Timestamp".into(),
            Type::Duration => "google.protobuf.Duration".into(),
            Type::List(_) => "list".into(),
            Type::Map(_) => "map".into(),
            Type::Optional(_) => "optional_type".into(),
            Type::Type(_) => "type".into(),
            Type::Param(name) => name.to_string(),
            Type::Free(n) => format!("_var{n}"),
            Type::Object(object) => object.name.to_string(),
            Type::Library(name) => (*name).into(),
            Type::Patch(name) => name.to_string(),
        }
    }
}

/// As messages show it (`FormatCELType`).
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => write!(f, "null"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(both) => write!(f, "map({}, {})", both.0, both.1),
            Type::Optional(value) => write!(f, "optional_type({value})"),
            Type::Type(Some(of)) => write!(f, "type({of})"),
            other => f.write_str(&other.name()),
        }
    }
}

/// A declared object type. Two are the same if their names are.
#[derive(Debug)]
pub struct ObjectType {
    /// Qualified name.
    pub name: Arc<str>,
    fields: Fields,
}

#[derive(Debug)]
enum Fields {
    Declared(BTreeMap<String, Decl>),
    /// Looked up in the tables of the built-in API, which refer to themselves.
    BuiltIn(TypeId),
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl ObjectType {
    /// An object with these fields, by the names that expressions use ([`escape`]).
    pub fn new(name: &str, fields: impl IntoIterator<Item = (String, Decl)>) -> Self {
        ObjectType { name: name.into(), fields: Fields::Declared(fields.into_iter().collect()) }
    }

    /// The declaration of a field.
    pub fn field(&self, name: &str) -> Option<Decl> {
        match &self.fields {
            Fields::Declared(fields) => fields.get(name).cloned(),
            Fields::BuiltIn(id) => {
                let structure = schema::builtin().structure(*id)?;
                let field = structure.field(&unescape(name)?)?;
                built_in(field.ty)
            }
        }
    }
}

/// A type with the limits of its schema.
#[derive(Debug, Clone)]
pub struct Decl {
    /// The type.
    pub ty: Type,
    /// The largest number of items, entries, characters or bytes; `None` if nothing says.
    max_elements: Option<u64>,
    /// The fewest bytes of JSON that such a value takes.
    min_bytes: u64,
    item: Option<Arc<Decl>>,
    list: ListKind,
}

impl From<Type> for Decl {
    fn from(ty: Type) -> Self {
        let item = match &ty {
            Type::List(item) => Some(Arc::new(Decl::from((**item).clone()))),
            Type::Map(both) => Some(Arc::new(Decl::from(both.1.clone()))),
            _ => None,
        };
        Decl { ty, max_elements: None, min_bytes: 1, item, list: ListKind::Plain }
    }
}

impl Decl {
    /// An object of a declared type.
    pub fn object(ty: ObjectType) -> Self {
        Decl { min_bytes: 2, ..Decl::from(Type::Object(Arc::new(ty))) }
    }

    /// A map from names to such values.
    pub fn map_of(item: Decl) -> Self {
        Decl { item: Some(Arc::new(item.clone())), ..Decl::from(Type::map(Type::String, item.ty)) }
    }

    /// The same with so many items, entries or characters at most.
    #[must_use]
    pub fn at_most(self, elements: u64) -> Self {
        Decl { max_elements: Some(elements), ..self }
    }

    /// Of a list or map: what is in it.
    pub fn item(&self) -> Option<&Decl> {
        self.item.as_deref()
    }

    pub(super) fn max_elements(&self) -> Option<u64> {
        self.max_elements
    }

    pub(super) fn list_kind(&self) -> &ListKind {
        &self.list
    }

    /// The fewest bytes of JSON that a value of this type takes.
    pub fn min_bytes(&self) -> u64 {
        self.min_bytes
    }

    /// The most items, entries or characters that a value of this type has.
    pub fn max_size(&self) -> Option<u64> {
        self.max_elements
    }

    /// The declaration at the end of a path of `@items`, `@values`, `@keys` and field names.
    pub(super) fn at(&self, path: &[String]) -> Option<Decl> {
        let Some((first, rest)) = path.split_first() else { return Some(self.clone()) };
        let next = match (first.as_str(), &self.ty) {
            ("@items" | "@values", _) => self.item.as_deref()?.clone(),
            // Upstream's type of keys is a string without limits, which its estimates take for one of no length (`EstimateSize` in
            // `apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go`).
            ("@keys", Type::Map(_)) => Decl::from(Type::String),
            (field, Type::Object(object)) => object.field(field)?,
            // `map.field` is the value under a key.
            (_, Type::Map(_)) => self.item.as_deref()?.clone(),
            _ => return None,
        };
        next.at(rest)
    }
}

// === from JSON schemas ===

/// The declaration of a JSON schema (a CRD's `openAPIV3Schema` or a part of it), or `None` if expressions cannot see such
/// values. `name` is that of the root type; `is_resource_root` gives it `apiVersion`, `kind` and `metadata`.
/// (`SchemaDeclType`)
pub fn from_json_schema(schema: &Json, name: &str, is_resource_root: bool) -> Option<Decl> {
    let flag = |key: &str| schema.get(key).and_then(Json::as_bool).unwrap_or(false);
    let number = |key: &str| schema.get(key).and_then(Json::as_i64).map(|n| u64::try_from(n).unwrap_or(0));
    let text = |key: &str| schema.get(key).and_then(Json::as_str).unwrap_or_default();
    let simple = |ty: Type, min_bytes: u64, max: u64| {
        Some(Decl { ty, max_elements: Some(max), min_bytes, item: None, list: ListKind::Plain })
    };
    let longest = number("maxLength").map(|n| n.saturating_mul(4));
    if flag("x-kubernetes-int-or-string") {
        return simple(Type::Dyn, 1, longest.unwrap_or(MAX_REQUEST_BYTES - 2));
    }
    let embedded =
        |schema: &Json| schema.get("x-kubernetes-embedded-resource").and_then(Json::as_bool).unwrap_or(false);
    match if is_resource_root { "object" } else { text("type") } {
        "array" => {
            let items = schema.get("items").filter(|i| i.is_object())?;
            let item = from_json_schema(items, &format!("{name}.@idx"), embedded(items))?;
            let max = number("maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (item.min_bytes + 1));
            let list = match text("x-kubernetes-list-type") {
                "set" => ListKind::Set,
                "map" => ListKind::Map(keys_of(schema)),
                _ => ListKind::Plain,
            };
            let ty = Type::list(item.ty.clone());
            Some(Decl { ty, max_elements: Some(max), min_bytes: 2, item: Some(Arc::new(item)), list })
        }
        "object" => {
            if let Some(values) = schema.get("additionalProperties").filter(|a| a.is_object())
                && !is_resource_root
            {
                let item = from_json_schema(values, &format!("{name}.@elem"), embedded(values))?;
                let max = number("maxProperties").unwrap_or((MAX_REQUEST_BYTES - 2) / (item.min_bytes + 6));
                let ty = Type::map(Type::String, item.ty.clone());
                let (item, list) = (Some(Arc::new(item)), ListKind::Plain);
                return Some(Decl { ty, max_elements: Some(max), min_bytes: 2, item, list });
            }
            Some(object_of(schema, name, is_resource_root))
        }
        "string" => match text("format") {
            "byte" => simple(Type::Bytes, 2, number("maxLength").unwrap_or(MAX_REQUEST_BYTES - 2)),
            "duration" => simple(Type::Duration, 3, 32),
            "date" => simple(Type::Timestamp, 12, 12),
            "date-time" => simple(Type::Timestamp, 21, 32),
            _ => {
                let listed = schema.get("enum").and_then(Json::as_array).filter(|e| !e.is_empty());
                let listed = listed.map(|e| e.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64);
                simple(Type::String, 2, longest.or(listed).unwrap_or(MAX_REQUEST_BYTES - 2))
            }
        },
        "boolean" => Some(Decl { min_bytes: 4, ..Decl::from(Type::Bool) }),
        "number" => Some(Decl::from(Type::Double)),
        "integer" => Some(Decl::from(Type::Int)),
        _ => None,
    }
}

fn keys_of(schema: &Json) -> Arc<[Arc<str>]> {
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
    keys.into_iter().flatten().filter_map(Json::as_str).map(Arc::from).collect()
}

fn object_of(schema: &Json, name: &str, is_resource_root: bool) -> Decl {
    let mut fields = BTreeMap::new();
    let mut min_bytes = 2;
    let required: Vec<&str> =
        schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    for (property, schema) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let Some(escaped) = escape(property) else { continue };
        let embedded = schema.get("x-kubernetes-embedded-resource").and_then(Json::as_bool).unwrap_or(false);
        let Some(decl) = from_json_schema(schema, &format!("{name}.{escaped}"), embedded) else { continue };
        if required.contains(&property.as_str()) && schema.get("default").is_none_or(Json::is_null) {
            min_bytes += property.len() as u64 + decl.min_bytes + 4;
        }
        fields.insert(escaped, decl);
    }
    if is_resource_root {
        let text = || Decl { max_elements: Some(MAX_REQUEST_BYTES - 2), min_bytes: 2, ..Decl::from(Type::String) };
        let names = [("name".to_owned(), text()), ("generateName".to_owned(), text())];
        let metadata = ObjectType::new(&format!("{name}.metadata"), names);
        fields.insert("kind".into(), text());
        fields.insert("apiVersion".into(), text());
        fields.insert("metadata".into(), Decl::object(metadata));
    }
    Decl { min_bytes, ..Decl::object(ObjectType { name: name.into(), fields: Fields::Declared(fields) }) }
}

// === from the built-in tables ===

/// The declaration of a type of the built-in API, for checking policies against it; `None` if expressions cannot see it.
pub fn built_in(id: TypeId) -> Option<Decl> {
    Some(match schema::builtin().schema.get(id) {
        schema::Type::Any => return None,
        schema::Type::Scalar(scalar) => Decl::from(match scalar {
            Scalar::String | Scalar::Quantity => Type::String,
            Scalar::Bool => Type::Bool,
            Scalar::Int32 | Scalar::Int64 => Type::Int,
            Scalar::Double => Type::Double,
            Scalar::Bytes => Type::Bytes,
            Scalar::Time | Scalar::MicroTime => Type::Timestamp,
            Scalar::Duration => Type::String,
            Scalar::IntOrString => Type::Dyn,
        }),
        schema::Type::Struct(structure) => {
            Decl::object(ObjectType { name: structure.name.as_ref().into(), fields: Fields::BuiltIn(id) })
        }
        schema::Type::Map { value, .. } => Decl::from(Type::map(Type::String, built_in(*value)?.ty)),
        schema::Type::List { item, .. } => Decl::from(Type::list(built_in(*item)?.ty)),
    })
}

// === names ===

const KEYWORDS: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A property name as expressions write it (`apiserver/pkg/cel/escaping.go`), or `None` if they cannot.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if KEYWORDS.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (text, taken) = match c {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            c if c.is_ascii_alphanumeric() || c == '_' => (&rest[..1], 1),
            _ => return None,
        };
        out.push_str(text);
        rest = &rest[taken..];
    }
    Some(out)
}

/// The property that an escaped name stands for, or `None` if it is not well-formed.
pub fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find("__") {
        let inner = &rest[start + 2..];
        let Some(end) = inner.find("__").filter(|end| *end > 0 && !inner[..*end].contains('_')) else {
            // No sequence begins here.
            out.push_str(&rest[..start + 1]);
            rest = &rest[start + 1..];
            continue;
        };
        out.push_str(&rest[..start]);
        match &inner[..end] {
            "underscores" => out.push_str("__"),
            "dot" => out.push('.'),
            "dash" => out.push('-'),
            "slash" => out.push('/'),
            word if KEYWORDS.contains(&word) && name.len() == word.len() + 4 => out.push_str(word),
            _ => return None,
        }
        rest = &inner[end + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_back() {
        for (name, escaped) in [
            ("a", "a"),
            ("my_field", "my_field"),
            ("a__b", "a__underscores__b"),
            ("a-b.c/d", "a__dash__b__dot__c__slash__d"),
            ("namespace", "__namespace__"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(escaped));
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
        assert_eq!(escape("9a"), None);
        assert_eq!(escape("a$"), None);
        assert_eq!(unescape("a__nonsense__"), None);
    }
}
