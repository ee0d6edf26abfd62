//! Strategic merge patch: a merge patch in which the schema says how lists merge and `$` keys give orders.
//!
//! Follows `apimachinery/pkg/util/strategicpatch/patch.go` (`mergeMap`, `mergeSlice`, `normalizeElementOrder`) and
//! `mergepatch/errors.go`. Directives: `$patch: replace|delete`, `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`.
//!
//! Differs: maps with arbitrary keys and untyped values (`RawExtension`) merge like structs whose lists are replaced,
//! where upstream answers 500; comparing objects as merge keys is an error, where upstream panics.

use super::PatchError;
use crate::schema::{PatchStrategy, Schema, Type, TypeId};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write;

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList";
const ORDER_PREFIX: &str = "$setElementOrder";

pub(super) fn apply(schema: &Schema, ty: TypeId, current: &Value, patch: Object) -> Result<Value, PatchError> {
    let current = match current {
        Value::Object(map) => map.clone(),
        Value::Null => Object::new(),
        other => return Err(bad_type("map[string]interface {}", other)),
    };
    Merger { schema }.map(current, patch, ty).map(Value::Object)
}

struct Merger<'s> {
    schema: &'s Schema,
}

/// How a field merges.
#[derive(Clone, Copy)]
struct Meta<'s> {
    ty: TypeId,
    strategy: Option<&'s PatchStrategy>,
    replace: bool,
}

impl Meta<'_> {
    fn merges_list(&self) -> bool {
        self.strategy.is_some_and(|s| s.merge)
    }
    fn merge_key(&self) -> &str {
        self.strategy.map_or("", |s| &s.merge_key)
    }
}

impl<'s> Merger<'s> {
    fn map(&self, mut original: Object, mut patch: Object, ty: TypeId) -> Result<Object, PatchError> {
        if let Some(directive) = patch.remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(patch),
                Some("delete") => Ok(Object::new()),
                _ => {
                    patch.insert(DIRECTIVE.to_owned(), directive.clone());
                    Err(unknown_directive(&directive, &patch))
                }
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, ty)?;
        for (key, value) in patch {
            self.field(&mut original, key, value, ty)?;
        }
        Ok(original)
    }

    fn field(&self, original: &mut Object, key: String, value: Value, ty: TypeId) -> Result<(), PatchError> {
        let is_delete_list = key.starts_with(DELETE_PREFIX);
        let key = if is_delete_list {
            directive_target(&key, DELETE_PREFIX).ok_or_else(bad_primitive_list)?.to_owned()
        } else {
            key
        };
        if value.is_null() {
            original.remove(&key);
            return Ok(());
        }
        let Some(old) = original.get_mut(&key) else {
            if !is_delete_list {
                put_new(original, key, value);
            }
            return Ok(());
        };
        match (old, value) {
            (Value::Object(old), Value::Object(new)) => {
                let meta = self.lookup(ty, &key)?;
                let merged = if meta.replace { new } else { self.map(std::mem::take(old), new, meta.ty)? };
                original.insert(key, Value::Object(merged));
            }
            (Value::Array(old), Value::Array(new)) => {
                let meta = self.lookup_list(ty, &key)?;
                let merged = self.list(std::mem::take(old), new, meta, is_delete_list)?;
                original.insert(key, Value::Array(merged));
            }
            (_, _) if is_delete_list => {}
            (_, value) => put_new(original, key, value),
        }
        Ok(())
    }

    /// `$setElementOrder/<list>`: merges the list that it belongs to and puts it into that order.
    fn ordered_lists(&self, original: &mut Object, patch: &mut Object, ty: TypeId) -> Result<(), PatchError> {
        let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
        for directive in keys {
            let order = match patch.remove(&directive) {
                Some(Value::Array(order)) => order,
                other => return Err(bad_type("[]interface {}", &other.unwrap_or(Value::Null))),
            };
            let key = directive_target(&directive, ORDER_PREFIX).ok_or_else(bad_element_order)?;
            let list_at = |map: &Object| match map.get(key) {
                None => Ok(None),
                Some(Value::Array(list)) => Ok(Some(list.clone())),
                Some(other) => Err(bad_type("[]interface {}", other)),
            };
            let (old, new) = (list_at(original)?, list_at(patch)?);
            let meta = self.lookup_list(ty, key)?;
            check_order(new.as_deref().unwrap_or_default(), &order, meta.merge_key())?;
            let merged = match (&old, &new) {
                (None, None) => continue,
                (Some(old), None) => old.clone(),
                (None, Some(new)) => without_directives(Value::Array(new.clone()))
                    .and_then(|v| if let Value::Array(list) = v { Some(list) } else { None })
                    .unwrap_or_default(),
                (Some(old), Some(new)) => self.list(old.clone(), new.clone(), meta, false)?,
            };
            let server_order = old.unwrap_or_default();
            let kind = element_kind(&[&server_order, new.as_deref().unwrap_or_default()])?;
            let sorted = order_elements(merged, &order, &server_order, meta.merge_key(), kind)?;
            original.insert(key.to_owned(), Value::Array(sorted));
            patch.remove(key);
        }
        Ok(())
    }

    fn list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        meta: Meta<'s>,
        is_delete_list: bool,
    ) -> Result<Vec<Value>, PatchError> {
        // Delete lists work whatever the field's strategy is.
        if !meta.merges_list() && !is_delete_list {
            return Ok(patch);
        }
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        let kind = element_kind(&[&original, &patch])?;
        let key = meta.merge_key();
        if kind != "map" {
            if is_delete_list {
                return Ok(original.into_iter().filter(|v| !patch.contains(v)).collect());
            }
            let mut merged = original.clone();
            merged.extend(patch.iter().cloned());
            dedup(&mut merged);
            return order_elements(merged, &patch, &original, key, kind);
        }
        if key.is_empty() {
            return Err(PatchError::Contradiction("cannot merge lists without merge key for struct".to_owned()));
        }
        let (original, patch) = special_elements(original, patch, key)?;
        let merged = self.elements(original.clone(), &patch, key, meta.ty)?;
        order_elements(merged, &patch, &original, key, kind)
    }

    /// Merges items with equal keys, appends the others.
    fn elements(
        &self,
        mut merged: Vec<Value>,
        patch: &[Value],
        key: &str,
        ty: TypeId,
    ) -> Result<Vec<Value>, PatchError> {
        for item in patch {
            let id = merge_key_of(item, key)?;
            match position(&merged, key, id)? {
                Some(i) => {
                    let (old, new) = (merged[i].take(), item.clone());
                    if let (Value::Object(old), Value::Object(new)) = (old, new) {
                        merged[i] = Value::Object(self.map(old, new, ty)?);
                    }
                }
                None => merged.push(item.clone()),
            }
        }
        Ok(merged)
    }

    fn lookup(&self, ty: TypeId, key: &str) -> Result<Meta<'s>, PatchError> {
        match self.schema.get(ty) {
            Type::Struct(s) => match s.field(key) {
                // The one `patchStrategy:"replace"` of the API (policy/v1 types.go).
                Some(f) => Ok(Meta {
                    ty: f.ty,
                    strategy: Some(&f.patch),
                    replace: key == "selector" && s.name == "io.k8s.api.policy.v1.PodDisruptionBudgetSpec",
                }),
                None if s.preserve_unknown => Ok(Meta { ty, strategy: None, replace: true }),
                None => {
                    let name = s.name.rsplit('.').next().unwrap_or_default();
                    let text = format!("unable to find api field in struct {name} for the json field {key:?}");
                    Err(PatchError::Contradiction(text))
                }
            },
            Type::Map { value, .. } => Ok(Meta { ty: *value, strategy: None, replace: false }),
            Type::Any => Ok(Meta { ty, strategy: None, replace: false }),
            Type::Scalar(_) | Type::List { .. } => Err(PatchError::Contradiction(
                "merging an object in json but data type is not struct, instead is: slice".to_owned(),
            )),
        }
    }

    /// As [`Self::lookup`], with the type of the items.
    fn lookup_list(&self, ty: TypeId, key: &str) -> Result<Meta<'s>, PatchError> {
        let meta = self.lookup(ty, key)?;
        match self.schema.get(meta.ty) {
            Type::List { item, .. } => Ok(Meta { ty: *item, ..meta }),
            Type::Any => Ok(meta),
            _ => Err(PatchError::Contradiction("expected slice or array type, but got: struct".to_owned())),
        }
    }
}

// === pieces ===

/// Takes the patch's value as it is, without its nulls and directives.
fn put_new(original: &mut Object, key: String, mut value: Value) {
    discard_nulls(&mut value);
    match without_directives(value) {
        Some(value) => original.insert(key, value),
        None => original.remove(&key),
    };
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// Drops every object with a `$patch` in it.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

/// `$retainKeys`: only the listed fields survive; the patch may set no other.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let bad = || PatchError::BadRequest("invalid patch format of retainKeys".to_owned());
    let Some(listed) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(listed) = listed else {
        return Err(bad());
    };
    let keep: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let allowed = |(key, value): (&String, &Value)| {
        value.is_null()
            || key.starts_with(DELETE_PREFIX)
            || key.starts_with(ORDER_PREFIX)
            || keep.contains(key.as_str())
    };
    if !patch.iter().all(allowed) {
        return Err(bad());
    }
    original.retain(|key, _| keep.contains(key.as_str()));
    Ok(())
}

/// The field that `$directive/field` is about.
fn directive_target<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

/// Every item of the patch list must be in the order list, in the same order.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut kept = Vec::new();
    for item in patch {
        match item {
            Value::Object(map) if !key.is_empty() => {
                if map.get(DIRECTIVE).is_none_or(|d| d != "delete") {
                    kept.push(item);
                }
            }
            _ if key.is_empty() => kept.push(item),
            other => return Err(bad_type("map[string]interface {}", other)),
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < kept.len() && j < order.len() {
        if kept[i].get(DIRECTIVE).is_some() {
            i += 1;
            continue;
        }
        if element_id(kept[i], key)? == element_id(&order[j], key)? {
            i += 1;
        }
        j += 1;
    }
    if i < kept.len() && j >= order.len() {
        let (patch, order) = (go(&Value::from(patch)), go(&Value::from(order)));
        let text = format!("The order in patch list:\n{patch}\n doesn't match {ORDER_PREFIX} list:\n{order}\n");
        return Err(PatchError::Contradiction(text));
    }
    Ok(())
}

/// Items of the patch with `$patch` in them: deletes, or replaces the whole list.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let id = merge_key_of(&item, key)?;
                while let Some(i) = position(&original, key, id)? {
                    original.remove(i);
                }
            }
            Some("replace") => replace = true,
            Some("merge") => {
                let text = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::Contradiction(text.to_owned()));
            }
            _ => return Err(unknown_directive(directive, item.as_object().unwrap_or(&Object::new()))),
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// Patch items in patch order, server-only items in server order, interleaved as the server had them.
fn order_elements(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: &str,
    kind: &str,
) -> Result<Vec<Value>, PatchError> {
    let key = if kind == "map" { key } else { "" };
    let rank = |list: &[Value], item: &Value| -> Result<Option<usize>, PatchError> {
        let id = element_id(item, key)?;
        for (i, other) in list.iter().enumerate() {
            if element_id(other, key)? == id {
                return Ok(Some(i));
            }
        }
        Ok(None)
    };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for item in merged {
        let server = rank(server_order, &item)?;
        match rank(patch_order, &item)? {
            Some(wanted) => ours.push((wanted, server, item)),
            None => theirs.push((server, item)),
        }
    }
    ours.sort_by_key(|(wanted, ..)| *wanted);
    theirs.sort_by_key(|(server, _)| server.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let mut theirs = theirs.into_iter().peekable();
    for (_, ours_rank, item) in ours {
        // A server-only item stays before the first item that the server had behind it.
        while let Some((_, earlier)) =
            theirs.next_if(|(rank, _)| rank.is_some() && ours_rank.is_some() && *rank < ours_rank)
        {
            out.push(earlier);
        }
        out.push(item);
    }
    out.extend(theirs.map(|(_, item)| item));
    Ok(out)
}

fn dedup(list: &mut Vec<Value>) {
    let mut kept: Vec<Value> = Vec::with_capacity(list.len());
    for item in list.drain(..) {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    *list = kept;
}

fn position(list: &[Value], key: &str, id: &Value) -> Result<Option<usize>, PatchError> {
    for (i, item) in list.iter().enumerate() {
        let Value::Object(map) = item else {
            return Err(PatchError::Contradiction(format!("value for key {i} is not a map")));
        };
        if map.get(key) == Some(id) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

fn element_id<'a>(item: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    if key.is_empty() { Ok(item) } else { merge_key_of(item, key) }
}

fn merge_key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    match item {
        Value::Object(map) => map.get(key).ok_or_else(|| {
            let text = format!("map: {} does not contain declared merge key: {key}", go(item));
            PatchError::Contradiction(text)
        }),
        other => Err(bad_type("map[string]interface {}", other)),
    }
}

/// The kind that all items share.
fn element_kind(lists: &[&[Value]]) -> Result<&'static str, PatchError> {
    let mut kind = None;
    for item in lists.iter().flat_map(|l| l.iter()) {
        let this = match item {
            Value::Array(_) => return Err(PatchError::Unprocessable("lists of lists are not supported".to_owned())),
            Value::Object(_) => "map",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            Value::Number(n) if n.is_f64() => "float64",
            Value::Number(_) => "int64",
            Value::Null => "nil",
        };
        if *kind.get_or_insert(this) != this {
            let all: Vec<String> = lists.iter().map(|l| go(&Value::from(*l))).collect();
            let text = format!("list element types are not identical: [{}]", all.join(" "));
            return Err(PatchError::Contradiction(text));
        }
    }
    kind.ok_or_else(|| PatchError::Contradiction("no elements in any of the given slices".to_owned()))
}

// === texts ===

fn bad_primitive_list() -> PatchError {
    PatchError::BadRequest("invalid patch format of primitive list".to_owned())
}

fn bad_element_order() -> PatchError {
    PatchError::BadRequest("invalid patch format of setElementOrder list".to_owned())
}

fn unknown_directive(directive: &Value, map: &Object) -> PatchError {
    let map = go(&Value::Object(map.clone()));
    PatchError::Contradiction(format!("unknown patch type: {} in map: {map}", go(directive)))
}

fn bad_type(expected: &str, found: &Value) -> PatchError {
    let found = match found {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    PatchError::Contradiction(format!("expected a {expected}, but received a {found}"))
}

/// A value as Go's `%v` prints it.
pub(crate) fn go(value: &Value) -> String {
    let mut out = String::new();
    write_go(&mut out, value);
    out
}

fn write_go(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(s) => out.push_str(s),
        Value::Array(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                out.push_str(if i > 0 { " " } else { "" });
                write_go(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (i, (key, item)) in map.iter().enumerate() {
                out.push_str(if i > 0 { " " } else { "" });
                out.push_str(key);
                out.push(':');
                write_go(out, item);
            }
            out.push(']');
        }
        // Writing to a String cannot fail.
        other => drop(write!(out, "{other}")),
    }
}

#[cfg(test)]
mod tests {
    use crate::patch::{PatchType, apply_patch};
    use crate::schema::{Field, ListTopology, PatchStrategy, Scalar, Schema, Struct, Type, TypeId};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn field(name: &'static str, ty: u32, merge: bool, key: &'static str) -> Field {
        let patch = PatchStrategy { merge, retain_keys: false, merge_key: key.into() };
        Field { name: name.into(), ty: TypeId(ty), required: false, default: None, patch, proto_number: 0 }
    }

    /// `Item{a, b, c, list: [Item] by name, map, name, plain: [Item], set: [string], spec: Item}`.
    fn schema() -> Schema {
        let list = |item| Type::List { item: TypeId(item), topology: ListTopology::Atomic };
        let fields = vec![
            field("a", 1, false, ""),
            field("b", 1, false, ""),
            field("c", 1, false, ""),
            field("list", 2, true, "name"),
            field("map", 3, false, ""),
            field("name", 1, false, ""),
            field("plain", 2, false, ""),
            field("set", 4, true, ""),
            field("spec", 0, false, ""),
        ];
        Schema {
            types: vec![
                Type::Struct(Struct { name: "io.example.Item".into(), fields, ..Struct::default() }),
                Type::Scalar(Scalar::String),
                list(0),
                Type::Map { value: TypeId(1), atomic: false },
                list(1),
            ],
        }
    }

    #[track_caller]
    fn check(current: Value, patch: Value, want: Value) {
        let got =
            apply_patch(PatchType::Strategic, Some((&schema(), TypeId(0))), &current, patch.to_string().as_bytes());
        assert_eq!(got, Ok(want), "{patch}");
    }

    #[track_caller]
    fn check_error(current: Value, patch: Value, code: u16, want: &str) {
        let got =
            apply_patch(PatchType::Strategic, Some((&schema(), TypeId(0))), &current, patch.to_string().as_bytes());
        let got = got.expect_err("a bad patch");
        assert_eq!((got.to_status().code, got.to_string().as_str()), (code, want));
    }

    /// `a b:1` → items named a and b, the latter with a = "1".
    fn items(text: &str) -> Value {
        let item = |w: &str| match w.split_once(':') {
            Some((name, a)) => json!({"name": name, "a": a}),
            None => json!({"name": w}),
        };
        text.split_whitespace().map(item).collect()
    }

    #[test]
    fn lists_merge_by_key_and_patch_items_lead() {
        check(json!({"list": items("x y:1")}), json!({"list": items("y:2")}), json!({"list": items("x y:2")}));
        check(json!({"list": items("x y")}), json!({"list": items("z")}), json!({"list": items("z x y")}));
        check(json!({"plain": items("x y")}), json!({"plain": items("z")}), json!({"plain": items("z")}));
        check(json!({}), json!({"list": items("z"), "a": null}), json!({"list": items("z")}));
    }

    #[test]
    fn directives_delete_and_replace() {
        let delete = json!({"list": [{"name": "x", "$patch": "delete"}]});
        check(json!({"list": items("x y x")}), delete, json!({"list": items("y")}));
        let replace = json!({"list": [{"$patch": "replace"}, {"name": "z"}]});
        check(json!({"list": items("x y")}), replace, json!({"list": items("z")}));
        check(
            json!({"spec": {"a": "1", "b": "2"}}),
            json!({"spec": {"$patch": "replace", "c": "3"}}),
            json!({"spec": {"c": "3"}}),
        );
        check(json!({"spec": {"a": "1"}}), json!({"spec": {"$patch": "delete"}}), json!({"spec": {}}));
        check(
            json!({}),
            json!({"spec": {"$patch": "delete"}, "list": [{"name": "x", "$patch": "delete"}]}),
            json!({"list": []}),
        );
        check(
            json!({"map": {"k": "v", "l": "w"}}),
            json!({"map": {"k": null, "m": "x"}}),
            json!({"map": {"l": "w", "m": "x"}}),
        );
    }

    #[test]
    fn lists_of_scalars_merge_and_shrink() {
        check(json!({"set": ["a", "b"]}), json!({"set": ["c", "a"]}), json!({"set": ["c", "a", "b"]}));
        let delete = json!({"$deleteFromPrimitiveList/set": ["a", "z"]});
        check(json!({"set": ["a", "b", "a"]}), delete.clone(), json!({"set": ["b"]}));
        check(json!({}), delete, json!({}));
        let both = json!({"$deleteFromPrimitiveList/set": ["a"], "$setElementOrder/set": ["c", "b"], "set": ["c"]});
        check(json!({"set": ["a", "b"]}), both, json!({"set": ["c", "b"]}));
    }

    #[test]
    fn element_order_is_set() {
        let order = |names: &str, patch: &str| json!({"$setElementOrder/list": items(names), "list": items(patch)});
        check(json!({"list": items("x y z")}), order("z y x", "y:1"), json!({"list": items("z y:1 x")}));
        // Server-only items stay near where they were.
        check(json!({"list": items("s1 x s2 y")}), order("y x", "x:1"), json!({"list": items("s1 s2 y x:1")}));
        check(
            json!({"list": items("x y")}),
            json!({"$setElementOrder/list": items("y x")}),
            json!({"list": items("y x")}),
        );
        check(json!({}), order("x y", "x y"), json!({"list": items("x y")}));
    }

    #[test]
    fn retain_keys_clears_the_rest() {
        let patch = json!({"spec": {"$retainKeys": ["b"], "b": "2", "a": null}});
        check(json!({"spec": {"a": "1", "c": "3"}}), patch, json!({"spec": {"b": "2"}}));
        let bad = json!({"spec": {"$retainKeys": ["b"], "a": "2"}});
        check_error(json!({"spec": {"c": "3"}}), bad, 400, "invalid patch format of retainKeys");
    }

    #[test]
    fn bad_patches_are_answered_as_upstream_does() {
        let live = || json!({"list": items("x"), "set": ["a"], "spec": {"a": "1"}});
        let no_key = "map: map[a:1] does not contain declared merge key: name";
        check_error(live(), json!({"list": [{"a": "1"}]}), 500, no_key);
        check_error(live(), json!({"$deleteFromPrimitiveList": ["a"]}), 400, "invalid patch format of primitive list");
        check_error(live(), json!({"$setElementOrder": []}), 400, "invalid patch format of setElementOrder list");
        check_error(live(), json!({"set": [["a"]]}), 422, "lists of lists are not supported");
        check_error(live(), json!({"set": [1]}), 500, "list element types are not identical: [[a] [1]]");
        check_error(live(), json!({"spec": {"$patch": "zap"}}), 500, "unknown patch type: zap in map: map[$patch:zap]");
        let wrong = json!({"$setElementOrder/list": items("x"), "list": items("y")});
        let text = "The order in patch list:\n[map[name:y]]\n doesn't match $setElementOrder list:\n[map[name:x]]\n";
        check_error(live(), wrong, 500, text);
    }

    proptest! {
        #[test]
        fn any_patch_is_merged_or_refused(current in crate::patch::any_json(), patch in crate::patch::any_json()) {
            let schema = schema();
            let (current, patch) = (json!({"spec": current, "list": [{"name": "a"}], "set": ["a"]}), json!({"spec": patch, "list": patch, "set": patch}));
            drop(apply_patch(PatchType::Strategic, Some((&schema, TypeId(0))), &current, patch.to_string().as_bytes()));
            drop(apply_patch(PatchType::Strategic, Some((&schema, TypeId(0))), &patch, current.to_string().as_bytes()));
        }

        #[test]
        fn merging_twice_is_merging_once(old in "([a-f](:[1-3])? ){0,5}", new in "([a-f](:[1-3])? ){0,5}", set in "[a-d]{0,4}", more in "[a-d]{0,4}") {
            let chars = |s: &str| { let mut v: Vec<String> = s.chars().map(String::from).collect(); v.sort(); v.dedup(); v };
            let schema = schema();
            let patch = json!({"list": items(&new), "set": chars(&more)}).to_string();
            let go = |v: &Value| apply_patch(PatchType::Strategic, Some((&schema, TypeId(0))), v, patch.as_bytes());
            let once = go(&json!({"list": items(&old), "set": chars(&set)})).expect("a good patch");
            prop_assert_eq!(go(&once), Ok(once));
        }
    }
}
