//! `x-kubernetes-list-type` set and map: no item twice (`apiextensions-apiserver/pkg/apiserver/schema/listtype`).

use super::structural::Structural;
use crate::field::{Errors, FieldError, Path};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// All repetitions in an object.
pub(super) fn validate_lists(schema: &Structural, object: &Map<String, Value>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (key, value) in object {
        if let Some(property) = schema.properties.get(key) {
            errors.extend(value_errors(property, value, &path.child(key)));
        } else if let Some(additional) = schema.additional_schema() {
            errors.extend(value_errors(additional, value, &path.key(key)));
        }
    }
    errors
}

fn value_errors(schema: &Structural, value: &Value, path: &Path) -> Errors {
    match value {
        Value::Object(map) => validate_lists(schema, map, path),
        Value::Array(items) => list_errors(schema, items, path),
        _ => Vec::new(),
    }
}

fn list_errors(schema: &Structural, items: &[Value], path: &Path) -> Errors {
    let mut errors = match schema.list_type.as_deref() {
        Some("set") => repeated(items.iter().cloned(), path),
        Some("map") => keyed(schema, items, path),
        _ => Vec::new(),
    };
    if let Some(of) = &schema.items {
        let inner = items.iter().enumerate();
        errors.extend(inner.flat_map(|(i, item)| value_errors(of, item, &path.index(i))));
    }
    errors
}

fn keyed(schema: &Structural, items: &[Value], path: &Path) -> Errors {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        return vec![FieldError::invalid(&path.index(i), item, detail)];
    }
    let key_of = |item: &Value| {
        let keys = schema.list_map_keys.iter();
        Value::Object(keys.filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect())
    };
    repeated(items.iter().map(key_of), path)
}

/// The second of each group of equals; a third is not told again.
fn repeated(items: impl Iterator<Item = Value>, path: &Path) -> Errors {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut errors = Vec::new();
    for (i, item) in items.enumerate() {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(FieldError::duplicate(&path.index(i), &item));
        }
    }
    errors
}
