//! Values seen through a schema: what is a leaf, what is granular, which list items are the same. Validation of applied
//! configurations and the set of fields that a value has.
//!
//! Follows `structured-merge-diff/v6/typed` (helpers.go, validate.go, tofieldset.go, reconcile_schema.go) and the types
//! that `kube-openapi/pkg/schemaconv` makes. Untyped values are granular maps with atomic lists (`__untyped_deduced_`),
//! except `RawExtension`, which is atomic.

use super::path::{PathElement, show_path};
use super::set::{FieldSet, Node};
use crate::json::{Json, Kind};
use crate::patch::go_text;
use crate::schema::builtin::Untyped;
use crate::schema::{ListTopology, Scalar, Schema, Struct, Type, TypeId, builtin};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// A type within its schema.
#[derive(Debug, Clone, Copy)]
pub struct SchemaRef<'a> {
    /// The schema.
    pub schema: &'a Schema,
    /// One of its types.
    pub ty: TypeId,
}

/// Mistakes of a value against its schema, in upstream's words: `.spec.foo: field not declared in schema`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeErrors(pub(super) Vec<(String, String)>);

impl TypeErrors {
    pub(super) fn one(path: &[PathElement], message: impl Into<String>) -> Self {
        TypeErrors(vec![(show_path(path), message.into())])
    }

    /// The same, seen from above.
    pub(super) fn below(mut self, element: &PathElement) -> Self {
        self.0.iter_mut().for_each(|(path, _)| path.insert_str(0, &element.to_string()));
        self
    }
}

impl fmt::Display for TypeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |(path, message): &(String, String)| {
            if path.is_empty() { message.clone() } else { format!("{path}: {message}") }
        };
        match self.0.as_slice() {
            [one] => f.write_str(&line(one)),
            many => {
                f.write_str("errors:")?;
                many.iter().try_for_each(|e| write!(f, "\n  {}", line(e)))
            }
        }
    }
}

impl std::error::Error for TypeErrors {}

/// A type, or one that the value itself decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ref {
    Type(TypeId),
    /// Maps are granular, lists atomic.
    Deduced,
    /// Maps and lists are atomic.
    Untyped,
    /// The schema has no such field.
    Nothing,
}

/// What rules ask of a JSON value, in hand or in a text.
pub(super) trait Datum: Copy {
    fn kind(self) -> Kind;
    /// Whether Go would call it zero: empty, 0 or false.
    fn is_zero(self) -> bool;
    fn member(self, key: &str) -> Option<Value>;
    fn to_value(self) -> Value;
}

impl Datum for &Value {
    fn kind(self) -> Kind {
        Kind::of(self)
    }
    fn is_zero(self) -> bool {
        match self {
            Value::Null => false,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::String(s) => s.is_empty(),
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_f64() == Some(0.0),
        }
    }
    fn member(self, key: &str) -> Option<Value> {
        self.get(key).cloned()
    }
    fn to_value(self) -> Value {
        self.clone()
    }
}

impl Datum for Json<'_> {
    fn kind(self) -> Kind {
        Json::kind(self)
    }
    fn is_zero(self) -> bool {
        match self.kind() {
            Kind::Null => false,
            Kind::Object | Kind::Array => self.is_empty(),
            Kind::String => self.json() == "\"\"",
            Kind::Bool => self.json() == "false",
            Kind::Number => self.json().parse() == Ok(0.0),
        }
    }
    fn member(self, key: &str) -> Option<Value> {
        self.get(key).map(Json::to_value)
    }
    fn to_value(self) -> Value {
        Json::to_value(self)
    }
}

/// How a value is walked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'s> {
    /// `None`: any scalar.
    Scalar(Option<Scalar>),
    List {
        item: Ref,
        /// `None`: atomic.
        keys: Option<&'s ListTopology>,
    },
    Map {
        fields: Option<&'s Struct>,
        /// The type of keys that are not fields.
        element: Ref,
        atomic: bool,
    },
}

/// The schema while walking.
#[derive(Clone, Copy)]
pub(super) struct Types<'s>(pub(super) &'s Schema);

impl<'s> Types<'s> {
    /// The shape of a value of type `r`. Untyped values take the shape of `value`; null and absent ones that of a map.
    pub(super) fn shape(self, r: Ref, value: Option<impl Datum>) -> Shape<'s> {
        self.shape_of(r, value.map(Datum::kind))
    }

    /// [`Types::shape`], told what the value is.
    pub(super) fn shape_of(self, r: Ref, value: Option<Kind>) -> Shape<'s> {
        let ty = match r {
            Ref::Type(id) => self.0.get(id),
            Ref::Deduced | Ref::Nothing => return untyped_shape(Ref::Deduced, value),
            Ref::Untyped => return untyped_shape(Ref::Untyped, value),
        };
        match ty {
            Type::Scalar(s) => Shape::Scalar(match s {
                Scalar::Quantity | Scalar::Time | Scalar::MicroTime | Scalar::IntOrString => None,
                s => Some(*s),
            }),
            Type::Any => untyped_shape(self.untyped(r), value),
            Type::Struct(s) => {
                let open = s.preserve_unknown || s.fields.is_empty();
                Shape::Map {
                    fields: Some(s),
                    element: if open { Ref::Deduced } else { Ref::Nothing },
                    atomic: s.atomic,
                }
            }
            Type::Map { value, atomic } => Shape::Map { fields: None, element: Ref::Type(*value), atomic: *atomic },
            Type::List { item, topology: ListTopology::Atomic } => Shape::List { item: Ref::Type(*item), keys: None },
            Type::List { item, topology } => Shape::List { item: Ref::Type(*item), keys: Some(topology) },
        }
    }

    /// Whether values of this type decide their shape themselves; and how.
    pub(super) fn is_untyped(self, r: Ref) -> bool {
        match r {
            Ref::Type(id) => matches!(self.0.get(id), Type::Any),
            _ => true,
        }
    }

    fn untyped(self, r: Ref) -> Ref {
        match r {
            Ref::Type(id) if std::ptr::eq(self.0, &builtin().schema) => match builtin().untyped(id) {
                Some(Untyped::RawExtension) => Ref::Untyped,
                _ => Ref::Deduced,
            },
            _ => Ref::Deduced,
        }
    }

    /// The name of a list item. Errors are upstream's.
    pub(super) fn item_element(self, item: Ref, keys: &ListTopology, value: impl Datum) -> Result<PathElement, String> {
        match keys {
            ListTopology::Map(keys) => self.keyed_element(item, keys, value),
            ListTopology::Set => match value.kind() {
                Kind::Object => Err("associative list without keys has an element that's a map type".to_owned()),
                Kind::Array => Err("not supported: associative list with lists as elements".to_owned()),
                Kind::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                _ => Ok(PathElement::Value(value.to_value())),
            },
            ListTopology::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        }
    }

    fn keyed_element(
        self,
        item: Ref,
        keys: &[std::borrow::Cow<'static, str>],
        value: impl Datum,
    ) -> Result<PathElement, String> {
        match value.kind() {
            Kind::Object => {}
            Kind::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        }
        let default = |key: &str| match self.shape_of(item, None) {
            Shape::Map { fields: Some(s), .. } => s.field(key).and_then(|f| f.default.clone()),
            _ => None,
        };
        let mut fields: Vec<(String, Value)> = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = value.member(key).or_else(|| default(key)) {
                fields.push((key.to_string(), value));
            }
        }
        if fields.is_empty() && !keys.is_empty() {
            let names: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                names.join(" ")
            ));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(PathElement::Key(fields))
    }
}

fn untyped_shape<'s>(r: Ref, value: Option<Kind>) -> Shape<'s> {
    match value {
        Some(Kind::Bool | Kind::Number | Kind::String) => Shape::Scalar(None),
        Some(Kind::Array) => Shape::List { item: Ref::Untyped, keys: None },
        Some(Kind::Object | Kind::Null) | None => Shape::Map { fields: None, element: r, atomic: r == Ref::Untyped },
    }
}

/// The type of a key in a map shape.
pub(super) fn field_type(fields: Option<&Struct>, element: Ref, key: &str) -> Ref {
    fields.and_then(|s| s.field(key)).map_or(element, |f| Ref::Type(f.ty))
}

// === validation ===

/// All mistakes of an applied configuration. Lists may not repeat an item.
pub(super) fn validate(root: SchemaRef<'_>, value: &Value) -> Result<(), TypeErrors> {
    let mut v = Validator { types: Types(root.schema), path: Vec::new(), errors: TypeErrors::default() };
    v.value(Ref::Type(root.ty), value);
    if v.errors.0.is_empty() { Ok(()) } else { Err(v.errors) }
}

struct Validator<'s> {
    types: Types<'s>,
    path: Vec<PathElement>,
    errors: TypeErrors,
}

impl Validator<'_> {
    fn error(&mut self, message: String) {
        self.errors.0.push((show_path(&self.path), message));
    }

    fn value(&mut self, r: Ref, value: &Value) {
        match (self.types.shape(r, Some(value)), value) {
            (_, Value::Null) => {}
            (Shape::Scalar(rule), value) => {
                if let Some(message) = wrong_scalar(rule, value) {
                    self.error(message);
                }
            }
            (Shape::List { item, keys }, Value::Array(list)) => self.list(item, keys, list),
            (Shape::List { .. }, other) => self.error(format!("expected list, got &{{{}}}", go_text(other))),
            (Shape::Map { fields, element, .. }, Value::Object(map)) => {
                for (key, value) in map {
                    self.path.push(PathElement::field(key));
                    match field_type(fields, element, key) {
                        Ref::Nothing => self.error("field not declared in schema".to_owned()),
                        r => self.value(r, value),
                    }
                    self.path.pop();
                }
            }
            (Shape::Map { .. }, other) => self.error(format!("expected map, got &{{{}}}", go_text(other))),
        }
    }

    fn list(&mut self, item: Ref, keys: Option<&ListTopology>, list: &[Value]) {
        let mut seen = BTreeSet::new();
        for (i, value) in list.iter().enumerate() {
            let element = match keys.map(|keys| self.types.item_element(item, keys, value)) {
                None => PathElement::Index(i64::try_from(i).unwrap_or(i64::MAX)),
                Some(Ok(element)) => element,
                Some(Err(message)) => return self.error(format!("element {i}: {message}")),
            };
            if keys.is_some() && !seen.insert(element.clone()) {
                self.error(format!("duplicate entries for key {element}"));
            }
            self.path.push(element);
            self.value(item, value);
            self.path.pop();
        }
    }
}

fn wrong_scalar(rule: Option<Scalar>, value: &Value) -> Option<String> {
    match (rule, value) {
        (None, Value::Bool(_) | Value::Number(_) | Value::String(_)) => None,
        (None, other) => Some(format!("expected any scalar, got &{{{}}}", go_text(other))),
        (Some(Scalar::Int32 | Scalar::Int64 | Scalar::Double), Value::Number(_)) => None,
        (Some(Scalar::Int32 | Scalar::Int64 | Scalar::Double), other) => {
            Some(format!("expected numeric (int or float), got {}", go_type(other)))
        }
        (Some(Scalar::Bool), Value::Bool(_)) => None,
        (Some(Scalar::Bool), other) => Some(format!("expected boolean, got &{{{}}}", go_text(other))),
        (Some(_), Value::String(_)) => None,
        (Some(_), other) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(other)))
        }
    }
}

/// Go's `%T` of a decoded JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's `%#v` of a decoded JSON value.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(s) => format!("{s:?}"),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map.iter().map(|(k, v)| format!("{k:?}:{}", go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", items.join(", "))
        }
        other => other.to_string(),
    }
}

// === field sets ===

/// The fields that a value has: leaves, list items, keys of maps, and empty containers.
pub(super) fn field_set(root: SchemaRef<'_>, value: &Value) -> FieldSet {
    node_of(Types(root.schema), Ref::Type(root.ty), value).children
}

fn node_of(types: Types<'_>, r: Ref, value: &Value) -> Node {
    let leaf = Node { member: true, children: FieldSet::new() };
    match (types.shape(r, Some(value)), value) {
        (Shape::Scalar(_), _) | (Shape::List { keys: None, .. }, _) | (Shape::Map { atomic: true, .. }, _) => leaf,
        (Shape::List { item, keys: Some(keys) }, Value::Array(list)) => {
            Node { member: false, children: items_of(types, item, keys, list) }
        }
        (Shape::Map { fields, element, .. }, Value::Object(map)) => {
            Node { member: false, children: fields_of(types, fields, element, map) }
        }
        _ => Node::default(),
    }
}

fn fields_of(types: Types<'_>, fields: Option<&Struct>, element: Ref, map: &Map<String, Value>) -> FieldSet {
    let mut set = FieldSet::new();
    for (key, value) in map {
        let mut node = node_of(types, field_type(fields, element, key), value);
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        let named = fields.is_some_and(|s| s.field(key).is_some());
        node.member |= empty || !named;
        set.put(PathElement::field(key), node);
    }
    set
}

fn items_of(types: Types<'_>, item: Ref, keys: &ListTopology, list: &[Value]) -> FieldSet {
    let mut set = FieldSet::new();
    for value in list {
        // Items without a name were reported by validation; live objects cannot own them.
        let Ok(element) = types.item_element(item, keys, value) else { continue };
        let mut node = node_of(types, item, value);
        node.member = true;
        if set.node(&element).is_some() {
            // Repeated items are owned together, as one leaf.
            node.children = FieldSet::new();
        }
        set.put(element, node);
    }
    set
}

/// Paths of all atomic lists, maps and structs that a value sets (`patch/smd.go`, `findAtomics`).
pub(super) fn atomics(root: SchemaRef<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_atomics(Types(root.schema), Ref::Type(root.ty), value, &mut Vec::new(), &mut found);
    found
}

fn find_atomics(types: Types<'_>, r: Ref, value: &Value, path: &mut Vec<PathElement>, found: &mut Vec<String>) {
    match (types.shape(r, Some(value)), value) {
        (Shape::Map { fields, element, atomic }, Value::Object(map)) => {
            if atomic {
                found.push(show_path(path));
            }
            for (key, value) in map {
                path.push(PathElement::field(key));
                find_atomics(types, field_type(fields, element, key), value, path, found);
                path.pop();
            }
        }
        (Shape::List { item, keys }, Value::Array(list)) => {
            if keys.is_none() {
                found.push(show_path(path));
            }
            for (i, value) in list.iter().enumerate() {
                path.push(PathElement::Index(i as i64));
                find_atomics(types, item, value, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

// === sets against schemas ===

/// Adds every declared field above a member: removing `.a.b` may then remove an emptied `.a`, if `.a` is a field and
/// not a key of a map.
pub(super) fn with_named_fields(types: Types<'_>, r: Ref, set: &FieldSet) -> FieldSet {
    let shape = types.shape_of(r, None);
    set.combine(|element, node| {
        let named = match (shape, element) {
            (Shape::Map { fields: Some(s), .. }, PathElement::Field(name)) => s.field(name).is_some(),
            _ => false,
        };
        Some(Node {
            member: node.member || (named && !node.children.is_empty()),
            children: with_named_fields(types, child_type(shape, element), &node.children),
        })
    })
}

/// Sets written when a type was granular, read when it is atomic: the owner of parts owns the whole. `None` if the set is
/// as it should be.
pub(super) fn reconcile(types: Types<'_>, r: Ref, set: &FieldSet) -> Option<FieldSet> {
    (!is_reconciled(types, r, set)).then(|| reconciled(types, r, set))
}

fn is_reconciled(types: Types<'_>, r: Ref, set: &FieldSet) -> bool {
    if types.is_untyped(r) {
        return true;
    }
    let shape = types.shape_of(r, None);
    set.nodes().filter(|(_, node)| !node.children.is_empty()).all(|(element, node)| {
        let child = child_type(shape, element);
        !is_atomic(types, child) && is_reconciled(types, child, &node.children)
    })
}

fn reconciled(types: Types<'_>, r: Ref, set: &FieldSet) -> FieldSet {
    if types.is_untyped(r) {
        return set.clone();
    }
    let shape = types.shape_of(r, None);
    set.combine(|element, node| {
        let child = child_type(shape, element);
        Some(if is_atomic(types, child) && !node.children.is_empty() {
            Node { member: true, children: FieldSet::new() }
        } else {
            Node { member: node.member, children: reconciled(types, child, &node.children) }
        })
    })
}

/// Whether it is a list, map or struct without owners of its parts.
fn is_atomic(types: Types<'_>, r: Ref) -> bool {
    !types.is_untyped(r)
        && matches!(types.shape_of(r, None), Shape::List { keys: None, .. } | Shape::Map { atomic: true, .. })
}

fn child_type(shape: Shape<'_>, element: &PathElement) -> Ref {
    match (shape, element) {
        (Shape::Map { fields, element, .. }, PathElement::Field(name)) => field_type(fields, element, name),
        (Shape::List { item, .. }, PathElement::Key(_)) => item,
        _ => Ref::Nothing,
    }
}
