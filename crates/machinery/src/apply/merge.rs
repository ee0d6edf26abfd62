//! Merging an applied configuration into the live object, and removing fields. Follows
//! `structured-merge-diff/v6/typed` (merge.go, remove.go).

use super::path::PathElement;
use super::set::FieldSet;
use super::typed::{Ref, SchemaRef, Shape, TypeErrors, Types, field_type};
use crate::schema::{ListTopology, Struct};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// `live` with everything that `config` says. Lists keep the live order as far as the configuration's order allows.
pub(super) fn merge(root: SchemaRef<'_>, live: &Value, config: &Value) -> Result<Value, TypeErrors> {
    let mut walk = Walk { types: Types(root.schema), path: Vec::new() };
    Ok(walk.value(Ref::Type(root.ty), Some(live), Some(config))?.unwrap_or(Value::Null))
}

struct Walk<'s> {
    types: Types<'s>,
    path: Vec<PathElement>,
}

static NULL: Value = Value::Null;

impl<'s> Walk<'s> {
    fn value(&mut self, r: Ref, live: Option<&Value>, config: Option<&Value>) -> Result<Option<Value>, TypeErrors> {
        let leaf = || config.or(live).cloned();
        match self.types.shape(r, config.or(live)) {
            Shape::Scalar(_) => Ok(leaf()),
            Shape::List { item, keys } => {
                let (a, b) = (live.and_then(Value::as_array), config.and_then(Value::as_array));
                let empty = |l: Option<&Vec<Value>>| l.is_none_or(Vec::is_empty);
                let Some(keys) = keys.filter(|_| !(empty(a) && empty(b))) else { return Ok(leaf()) };
                let items = self.list(item, keys, a.map_or(&[], Vec::as_slice), b.map_or(&[], Vec::as_slice))?;
                Ok((!items.is_empty()).then_some(Value::Array(items)))
            }
            Shape::Map { fields, element, atomic } => {
                let (a, b) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
                let empty = |m: Option<&Map<String, Value>>| m.is_none_or(Map::is_empty);
                if atomic || (empty(a) && empty(b)) {
                    return Ok(leaf());
                }
                let none = Map::new();
                let merged = self.map(fields, element, a.unwrap_or(&none), b.unwrap_or(&none))?;
                Ok((!merged.is_empty()).then_some(Value::Object(merged)))
            }
        }
    }

    fn map(
        &mut self,
        fields: Option<&'s Struct>,
        element: Ref,
        live: &Map<String, Value>,
        config: &Map<String, Value>,
    ) -> Result<Map<String, Value>, TypeErrors> {
        let mut out = Map::new();
        let added = config.keys().filter(|key| !live.contains_key(*key));
        for key in live.keys().chain(added) {
            let r = field_type(fields, element, key);
            if let Some(value) = self.child(PathElement::field(key), r, live.get(key), config.get(key))? {
                out.insert(key.clone(), value);
            }
        }
        Ok(out)
    }

    fn child(
        &mut self,
        element: PathElement,
        r: Ref,
        live: Option<&Value>,
        config: Option<&Value>,
    ) -> Result<Option<Value>, TypeErrors> {
        match (live, config) {
            (None, None) => return Ok(None),
            // Nothing is said about it: no need to look inside.
            (Some(live), None) => return Ok(Some(live.clone())),
            _ => {}
        }
        self.path.push(element);
        let merged = self.value(r, live, config);
        self.path.pop();
        merged
    }

    fn list(
        &mut self,
        item: Ref,
        keys: &ListTopology,
        live: &[Value],
        config: &[Value],
    ) -> Result<Vec<Value>, TypeErrors> {
        let right = self.index(item, keys, config, false)?;
        let left = self.index(item, keys, live, true)?;
        // Items of both, in the configuration's order: they have to come out in that order.
        let mut shared: VecDeque<&PathElement> =
            right.elements.iter().filter(|e| left.values.contains_key(e)).collect();
        let mut next_shared = shared.pop_front();
        let mut taken: BTreeSet<&PathElement> = BTreeSet::new();
        let mut out = Vec::with_capacity(left.elements.len().max(right.elements.len()));
        let (mut l, mut r) = (0, 0);
        while l < left.elements.len() || r < right.elements.len() {
            if let (Some(ours), Some(theirs)) = (left.elements.get(l), right.elements.get(r)) {
                if ours == theirs {
                    taken.insert(ours);
                    let merged = self.child(ours.clone(), item, left.get(ours), right.get(ours))?;
                    out.extend(merged);
                    (l, r) = (l + 1, r + 1);
                    next_shared = shared.pop_front();
                    continue;
                }
                if right.values.contains_key(ours) && next_shared.is_some_and(|next| next != ours) {
                    // Its turn comes later, where the configuration has it.
                    l += 1;
                    continue;
                }
            }
            if let Some(ours) = left.elements.get(l) {
                if !right.values.contains_key(ours) {
                    out.push(live[left.positions[l]].clone());
                    l += 1;
                    continue;
                }
                if taken.contains(ours) {
                    l += 1;
                }
            }
            if let Some(theirs) = right.elements.get(r) {
                taken.insert(theirs);
                let merged = self.child(theirs.clone(), item, left.get(theirs), right.get(theirs))?;
                out.extend(merged);
                r += 1;
                if next_shared == Some(theirs) {
                    next_shared = shared.pop_front();
                }
            }
        }
        Ok(out)
    }

    fn index<'v>(
        &self,
        item: Ref,
        keys: &ListTopology,
        list: &'v [Value],
        allow_repeats: bool,
    ) -> Result<Indexed<'v>, TypeErrors> {
        let mut indexed = Indexed::default();
        for (i, value) in list.iter().enumerate() {
            let named = self.types.item_element(item, keys, value);
            let element = named.map_err(|m| TypeErrors::one(&self.path, format!("element {i}: {m}")))?;
            if let Some(seen) = indexed.values.get_mut(&element) {
                if !allow_repeats {
                    return Err(TypeErrors::one(&self.path, format!("duplicate entries for key {element}")));
                }
                // Repeated items are not merged with the new value.
                *seen = &NULL;
            } else {
                indexed.values.insert(element.clone(), value);
            }
            indexed.elements.push(element);
            indexed.positions.push(i);
        }
        Ok(indexed)
    }
}

#[derive(Default)]
struct Indexed<'v> {
    elements: Vec<PathElement>,
    positions: Vec<usize>,
    values: BTreeMap<PathElement, &'v Value>,
}

impl<'v> Indexed<'v> {
    fn get(&self, element: &PathElement) -> Option<&'v Value> {
        self.values.get(element).copied()
    }
}

/// `value` without the fields and items of `set`. Containers from which something was taken stay, even if empty.
pub(super) fn remove(root: SchemaRef<'_>, value: &Value, set: &FieldSet) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    remove_at(Types(root.schema), Ref::Type(root.ty), value, set)
}

fn remove_at(types: Types<'_>, r: Ref, value: &Value, set: &FieldSet) -> Value {
    match (types.shape(r, Some(value)), value) {
        (Shape::Scalar(_), _) => value.clone(),
        (Shape::Map { fields, element, atomic: false }, Value::Object(map)) => {
            let kept = map.iter().filter_map(|(key, value)| {
                let kept = match set.node(&PathElement::field(key)) {
                    Some(node) if node.member => return None,
                    Some(node) => remove_at(types, field_type(fields, element, key), value, &node.children),
                    None => value.clone(),
                };
                Some((key.clone(), kept))
            });
            Value::Object(kept.collect())
        }
        (Shape::List { item, keys: Some(keys) }, Value::Array(list)) => {
            let kept = list.iter().filter_map(|value| {
                let node = types.item_element(item, keys, value).ok().and_then(|e| set.node(&e));
                match node {
                    Some(node) if node.member => None,
                    Some(node) => Some(remove_at(types, item, value, &node.children)),
                    None => Some(value.clone()),
                }
            });
            Value::Array(kept.collect())
        }
        // Parts of something atomic were to go: upstream empties it.
        (_, Value::Object(_)) => Value::Object(Map::new()),
        (_, Value::Array(_)) => Value::Array(Vec::new()),
        (_, other) => other.clone(),
    }
}
