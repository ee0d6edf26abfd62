//! What changed between two objects, as sets of fields. Follows `structured-merge-diff/v6/typed/compare.go`.
//!
//! Upstream compares Go structs, in which nested structs and required fields are always there; here they are implied
//! by the schema (a published default of `{}` or a required field), so that owning `.spec.replicas` does not mean
//! owning `.spec`. Custom resources have no such structs there, and none here.

use super::path::{PathElement, same_value};
use super::set::{FieldSet, Filter};
use super::typed::{Ref, SchemaRef, Shape, TypeErrors, Types, field_type};
use crate::schema::{Field, ListTopology, Struct, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// No path is in more than one of these.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) added: FieldSet,
}

impl Comparison {
    pub(super) fn filter(self, filter: &Filter) -> Self {
        Comparison {
            removed: filter.apply(self.removed),
            modified: filter.apply(self.modified),
            added: filter.apply(self.added),
        }
    }

    /// Everything that is now different: added or modified.
    pub(super) fn changed(&self) -> FieldSet {
        self.modified.clone().union(self.added.clone())
    }
}

pub(super) fn compare(root: SchemaRef<'_>, old: &Value, new: &Value) -> Result<Comparison, TypeErrors> {
    let mut walk = Walk { types: Types(root.schema), path: Vec::new(), out: Comparison::default() };
    walk.value(Ref::Type(root.ty), Some(old), Some(new))?;
    Ok(walk.out)
}

struct Walk<'s> {
    types: Types<'s>,
    path: Vec<PathElement>,
    out: Comparison,
}

static NULL: Value = Value::Null;

impl<'s> Walk<'s> {
    fn value(&mut self, r: Ref, old: Option<&Value>, new: Option<&Value>) -> Result<(), TypeErrors> {
        let leaf = match (old, new) {
            (None, None) => return Ok(()),
            (Some(old), Some(new)) if self.types.is_untyped(r) && kind(old) != kind(new) => {
                // Each side is walked in its own shape.
                self.shape(self.types.shape(r, Some(old)), Some(old), Some(new))?;
                self.shape(self.types.shape(r, Some(new)), Some(old), Some(new))?
            }
            _ => self.shape(self.types.shape(r, new.or(old)), old, new)?,
        };
        if !leaf {
            match (old, new) {
                (None, _) => self.out.added.insert(&self.path),
                (_, None) => self.out.removed.insert(&self.path),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns whether it was a leaf.
    fn shape(&mut self, shape: Shape<'s>, old: Option<&Value>, new: Option<&Value>) -> Result<bool, TypeErrors> {
        match shape {
            Shape::Scalar(_) => self.leaf(old, new),
            Shape::List { item, keys } => {
                let (a, b) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
                let empty = |l: Option<&Vec<Value>>| l.is_none_or(Vec::is_empty);
                let Some(keys) = keys.filter(|_| !(empty(a) && empty(b))) else {
                    self.leaf(old, new);
                    return Ok(true);
                };
                // Equal lists need no names for their items.
                if a.is_none() || a != b {
                    self.list(item, keys, a.map_or(&[], Vec::as_slice), b.map_or(&[], Vec::as_slice))?;
                }
                return Ok(false);
            }
            Shape::Map { fields, element, atomic } => {
                let (a, b) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                let empty =
                    |m: Option<&Map<String, Value>>| m.is_none_or(|m| m.is_empty() && !implies(self.types, fields));
                if atomic || (empty(a) && empty(b)) {
                    self.leaf(old, new);
                    return Ok(true);
                }
                self.map(fields, element, a, b)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.out.added.insert(&self.path),
            (_, None) => self.out.removed.insert(&self.path),
            (Some(old), Some(new)) if !same_value(old, new) => self.out.modified.insert(&self.path),
            _ => {}
        }
    }

    fn map(
        &mut self,
        fields: Option<&'s Struct>,
        element: Ref,
        old: Option<&Map<String, Value>>,
        new: Option<&Map<String, Value>>,
    ) -> Result<(), TypeErrors> {
        let none = Map::new();
        let (a, b) = (old.unwrap_or(&none), new.unwrap_or(&none));
        for (key, value) in a {
            let r = field_type(fields, element, key);
            let other = b.get(key).or_else(|| self.implied(fields, key).filter(|_| new.is_some()));
            self.field(key, r, Some(value), other)?;
        }
        for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
            let r = field_type(fields, element, key);
            let other = self.implied(fields, key).filter(|_| old.is_some());
            self.field(key, r, other, Some(value))?;
        }
        // A struct that comes or goes brings or takes its implied fields.
        if old.is_some() != new.is_some() {
            for f in fields.map_or(&[][..], |s| &s.fields).iter().filter(|f| !a.contains_key(f.name.as_ref())) {
                if let Some(value) = implied_value(self.types, fields, f).filter(|_| !b.contains_key(f.name.as_ref())) {
                    let side = |present: bool| present.then_some(value);
                    self.field(&f.name, Ref::Type(f.ty), side(old.is_some()), side(new.is_some()))?;
                }
            }
        }
        Ok(())
    }

    fn field(&mut self, key: &str, r: Ref, old: Option<&Value>, new: Option<&Value>) -> Result<(), TypeErrors> {
        self.path.push(PathElement::field(key));
        let result = self.value(r, old, new);
        self.path.pop();
        result
    }

    fn implied(&self, fields: Option<&'s Struct>, key: &str) -> Option<&'s Value> {
        implied_value(self.types, fields, fields?.field(key)?)
    }

    fn list(&mut self, item: Ref, keys: &ListTopology, old: &[Value], new: &[Value]) -> Result<(), TypeErrors> {
        let mut sides: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (i, value) in old.iter().enumerate() {
            sides.entry(self.element(item, keys, i, value)?).or_default().0.push(value);
        }
        for (i, value) in new.iter().enumerate() {
            sides.entry(self.element(item, keys, i, value)?).or_default().1.push(value);
        }
        for (element, (old, new)) in sides {
            self.path.push(element);
            let result = self.item(item, &old, &new);
            self.path.pop();
            result?;
        }
        Ok(())
    }

    fn element(&self, item: Ref, keys: &ListTopology, i: usize, value: &Value) -> Result<PathElement, TypeErrors> {
        let found = self.types.item_element(item, keys, value);
        found.map_err(|message| TypeErrors::one(&self.path, format!("element {i}: {message}")))
    }

    /// Repeated items are one leaf together.
    fn item(&mut self, item: Ref, old: &[&Value], new: &[&Value]) -> Result<(), TypeErrors> {
        match (old, new) {
            ([] | [_], [] | [_]) => return self.value(item, old.first().copied(), new.first().copied()),
            ([_, _, ..], [_, _, ..]) => {
                let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same_value(a, b));
                if !same {
                    self.out.modified.insert(&self.path);
                }
            }
            ([_, _, ..], _) => {
                self.value(item, None, new.first().copied())?;
                self.out.removed.insert(&self.path);
            }
            (_, _) => {
                self.value(item, old.first().copied(), None)?;
                self.out.added.insert(&self.path);
            }
        }
        Ok(())
    }
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
        Value::Array(_) => 2,
        Value::Object(_) => 3,
    }
}

/// What a Go struct has in a field that nobody set.
fn implied_value<'s>(types: Types<'s>, fields: Option<&'s Struct>, field: &'s Field) -> Option<&'s Value> {
    if fields?.name.is_empty() {
        return None;
    }
    match (&field.default, types.0.get(field.ty)) {
        (Some(default @ Value::Object(_)), Type::Struct(_)) => Some(default),
        (Some(default), Type::Scalar(_)) if field.required => Some(default),
        _ if field.required => Some(&NULL),
        _ => None,
    }
}

fn implies(types: Types<'_>, fields: Option<&Struct>) -> bool {
    fields.is_some_and(|s| s.fields.iter().any(|f| implied_value(types, fields, f).is_some()))
}
