//! What changed between two objects, as sets of fields. Follows `structured-merge-diff/v6/typed/compare.go`.
//!
//! Upstream compares Go structs, in which some fields are always there and others vanish when zero; [`super::presence`]
//! says which, so that owning `.spec.replicas` does not mean owning `.spec`. Custom resources are plain JSON there and
//! here.

use super::path::{PathElement, same_value};
use super::presence::{self, Presences};
use super::set::{FieldSet, Filter};
use super::typed::{Ref, SchemaRef, Shape, TypeErrors, Types, field_type};
use crate::schema::{ListTopology, Struct};
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

/// How one side of a comparison is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A Go struct: fields are implied, zeros hidden.
    Typed,
    /// A Go struct into which plain JSON was merged: fields are implied, zeros stay.
    Merged,
    /// Plain JSON.
    Plain,
}

pub(super) fn compare(root: SchemaRef<'_>, old: (&Value, Side), new: (&Value, Side)) -> Result<Comparison, TypeErrors> {
    let out = Comparison::default();
    let mut walk = Walk { types: Types(root.schema), sides: (old.1, new.1), path: Vec::new(), out };
    let (old, new) = (old.0, new.0);
    walk.value(Ref::Type(root.ty), Some(old), Some(new))?;
    Ok(walk.out)
}

struct Walk<'s> {
    types: Types<'s>,
    sides: (Side, Side),
    path: Vec<PathElement>,
    out: Comparison,
}

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
                let presences = fields.and_then(presence::of);
                let view = |side, map| View { fields, presences, side, map };
                let (a, b) = (view(self.sides.0, a), view(self.sides.1, b));
                if atomic {
                    self.leaf(old, new);
                    return Ok(true);
                }
                if a.is_empty() && b.is_empty() {
                    // Empty is not null.
                    self.leaf(a.shown(old).as_ref(), b.shown(new).as_ref());
                    return Ok(true);
                }
                self.map(element, a, b)?;
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

    fn map(&mut self, element: Ref, old: View<'s, '_>, new: View<'s, '_>) -> Result<(), TypeErrors> {
        let fields = old.fields.or(new.fields);
        for key in old.keys().chain(new.keys().filter(|key| !old.has(key))) {
            let r = field_type(fields, element, key);
            self.field(key, r, old.get(key), new.get(key))?;
        }
        // Fields that one side always has, and of which neither says anything.
        let silent = |(name, _): &(&str, Ref)| !old.has(name) && !new.has(name);
        if old.implies() != new.implies() {
            for (name, r) in old.always().chain(new.always()).filter(silent) {
                self.field(name, r, old.get(name), new.get(name))?;
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

/// A map or struct, or its absence, as its side is seen.
#[derive(Clone, Copy)]
struct View<'s, 'v> {
    fields: Option<&'s Struct>,
    presences: Option<&'static Presences>,
    side: Side,
    map: Option<&'v Map<String, Value>>,
}

impl<'s, 'v> View<'s, 'v> {
    fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|m| m.contains_key(key))
    }

    fn keys(&self) -> impl Iterator<Item = &'v String> + use<'v> {
        self.map.into_iter().flat_map(Map::keys)
    }

    fn get(&self, key: &str) -> Option<&'v Value> {
        let value = self.map?.get(key);
        let Some((presences, at)) = self.presences.zip(self.fields.and_then(|s| position(s, key))) else {
            return value;
        };
        let presence: &'static presence::FieldPresence = &presences[at];
        let seen = value.filter(|value| self.side != Side::Typed || !presence.hides(value));
        seen.or(presence.implied.as_ref().filter(|_| self.side != Side::Plain))
    }

    /// Whether it has fields that nobody set.
    fn implies(&self) -> bool {
        self.map.is_some() && self.side != Side::Plain
    }

    fn is_empty(&self) -> bool {
        self.keys().all(|key| self.get(key).is_none()) && self.always().next().is_none()
    }

    /// An empty map in place of one whose fields are all hidden.
    fn shown(&self, value: Option<&Value>) -> Option<Value> {
        if self.map.is_some() { Some(Value::Object(Map::new())) } else { value.cloned() }
    }

    fn always(&self) -> impl Iterator<Item = (&'s str, Ref)> + use<'s> {
        let fields = self.fields.filter(|_| self.implies()).map_or(&[][..], |s| &s.fields);
        let presences = self.presences.map_or(&[][..], |p| p);
        let implied = fields.iter().zip(presences).filter(|(_, presence)| presence.implied.is_some());
        implied.map(|(field, _)| (field.name.as_ref(), Ref::Type(field.ty)))
    }
}

fn position(s: &Struct, name: &str) -> Option<usize> {
    s.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()
}
