//! What a schema does to a value before anybody looks at it: unknown fields go, nulls that are no values go, absent fields get
//! their defaults (`apiextensions-apiserver/pkg/apiserver/schema/{pruning,defaulting}`).

use super::structural::{Additional, Structural};
use serde_json::{Map, Value};

/// Fields that every resource has, whatever its schema says.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Most unknown fields that are reported.
const MAX_REPORTED: usize = 100;

/// Drops fields that the schema does not have, and returns their paths, sorted. `fields` is the root of a resource.
pub fn prune_root(fields: &mut Map<String, Value>, schema: &Structural) -> Vec<String> {
    let mut walk = Walk { path: String::new(), dropped: Vec::new() };
    walk.object(fields, Some(schema), true);
    walk.sorted()
}

/// The same for a value somewhere inside, such as a default.
pub fn prune(value: &mut Value, schema: &Structural) -> Vec<String> {
    let mut walk = Walk { path: String::new(), dropped: Vec::new() };
    walk.value(value, Some(schema));
    walk.sorted()
}

struct Walk {
    path: String,
    dropped: Vec<String>,
}

impl Walk {
    fn sorted(mut self) -> Vec<String> {
        self.dropped.sort();
        self.dropped
    }

    fn inside<T>(&mut self, key: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let result = run(self);
        self.path.truncate(length);
        result
    }

    fn at<T>(&mut self, index: usize, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        let result = run(self);
        self.path.truncate(length);
        result
    }

    fn value(&mut self, value: &mut Value, schema: Option<&Structural>) {
        match value {
            Value::Object(map) => self.object(map, schema, schema.is_some_and(|s| s.embedded)),
            Value::Array(items) if schema.is_some_and(|s| s.preserve_unknown) => {
                // Items of a list that keeps unknown fields keep them, too; what is specified in them is still pruned.
                for (i, item) in items.iter_mut().enumerate() {
                    self.at(i, |walk| walk.preserved(item, schema.and_then(|s| s.items.as_deref())));
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.at(i, |walk| walk.value(item, schema.and_then(|s| s.items.as_deref())));
                }
            }
            _ => {}
        }
    }

    /// `skipPrune`: below a field that keeps unknown ones, only what is specified is looked at.
    fn preserved(&mut self, value: &mut Value, schema: Option<&Structural>) {
        let Some(schema) = schema else { return };
        match value {
            Value::Object(map) => self.specified(map, schema, schema.embedded),
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.at(i, |walk| walk.preserved(item, schema.items.as_deref()));
                }
            }
            _ => {}
        }
    }

    fn specified(&mut self, map: &mut Map<String, Value>, schema: &Structural, resource: bool) {
        for (key, value) in map.iter_mut().filter(|(key, _)| !(resource && META.contains(&key.as_str()))) {
            if let Some(property) = schema.properties.get(key) {
                self.inside(key, |walk| walk.value(value, Some(property)));
            } else if schema.additional.is_some() {
                self.inside(key, |walk| walk.value(value, schema.additional_schema()));
            }
        }
    }

    fn object(&mut self, map: &mut Map<String, Value>, schema: Option<&Structural>, resource: bool) {
        if let Some(schema) = schema.filter(|s| s.preserve_unknown) {
            return self.specified(map, schema, resource);
        }
        map.retain(|key, value| {
            if resource && META.contains(&key.as_str()) {
                return true;
            }
            self.inside(key, |walk| {
                let known = schema.and_then(|s| s.properties.get(key));
                if known.is_some() {
                    walk.value(value, known.map(Box::as_ref));
                } else if let Some(schema) = schema.filter(|s| s.additional.is_some()) {
                    walk.value(value, schema.additional_schema());
                } else {
                    if walk.dropped.len() < MAX_REPORTED {
                        walk.dropped.push(walk.path.clone());
                    }
                    return false;
                }
                true
            })
        });
    }
}

/// Removes nulls where null is no value and no default replaces it (`PruneNonNullableNullsWithoutDefaults`).
pub fn drop_nulls(fields: &mut Map<String, Value>, schema: &Structural) {
    fields.retain(|key, value| {
        let schema = schema.child(key);
        if value.is_null() && schema.is_some_and(|s| !s.nullable && s.default.is_none()) {
            return false;
        }
        drop_nulls_in(value, schema);
        true
    });
}

fn drop_nulls_in(value: &mut Value, schema: Option<&Structural>) {
    // Without a schema there is nothing that forbids a null further down.
    let Some(schema) = schema else { return };
    match value {
        Value::Object(map) => drop_nulls(map, schema),
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls_in(item, schema.items.as_deref())),
        _ => {}
    }
}

/// Fills in defaults.
pub fn default(fields: &mut Map<String, Value>, schema: &Structural) {
    for (key, property) in &schema.properties {
        let Some(value) = &property.default else { continue };
        match fields.get_mut(key) {
            None => {
                fields.insert(key.clone(), value.clone());
            }
            Some(present) if present.is_null() && !property.nullable => *present = value.clone(),
            Some(_) => {}
        }
    }
    for (key, value) in fields.iter_mut() {
        default_in(value, schema.child(key));
    }
}

fn default_in(value: &mut Value, schema: Option<&Structural>) {
    let Some(schema) = schema else { return };
    if value.is_null() && !schema.nullable {
        *value = schema.default.clone().unwrap_or_default();
    }
    match value {
        Value::Object(map) => default(map, schema),
        Value::Array(items) => items.iter_mut().for_each(|item| default_in(item, schema.items.as_deref())),
        _ => {}
    }
}

/// Prunes the defaults themselves, so that they can be filled in as they are (`defaulting/prune.go`).
pub fn prune_defaults(schema: &mut Structural) {
    // Metadata of embedded resources is checked when the definition is validated; here only unknown fields go.
    if let Some(mut value) = schema.default.take() {
        prune(&mut value, schema);
        schema.default = Some(value);
    }
    schema.properties.values_mut().for_each(|property| prune_defaults(property));
    if let Some(items) = schema.items.as_deref_mut() {
        prune_defaults(items);
    }
    if let Some(Additional::Schema(additional)) = &mut schema.additional {
        prune_defaults(additional);
    }
}
