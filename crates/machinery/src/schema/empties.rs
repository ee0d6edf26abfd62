//! Lists and maps that are empty. Go tells them from absent ones until they are stored, but takes both for the same wherever it asks
//! whether something changed (`apimachinery/pkg/api/equality`); our types tell them apart.

use super::{Schema, Type, TypeId};
use serde_json::{Map, Value};

/// Gives an object of type `ty` the empty lists and maps that another was sent with, where it has none: what did not change
/// is equal then.
pub fn adopt_empties(schema: &Schema, ty: TypeId, sent: &Value, object: &mut Value) {
    match (schema.get(ty), sent, object) {
        (Type::Struct(s), Value::Object(sent), Value::Object(object)) => {
            for (name, sent) in sent {
                let Some(field) = s.field(name) else { continue };
                match object.get_mut(name) {
                    Some(own) if !own.is_null() => adopt_empties(schema, field.ty, sent, own),
                    _ if is_empty(schema, field.ty, sent) => drop(object.insert(name.clone(), sent.clone())),
                    _ => {}
                }
            }
        }
        (Type::Map { value, .. }, Value::Object(sent), Value::Object(object)) => {
            for (key, own) in object.iter_mut() {
                if let Some(sent) = sent.get(key) {
                    adopt_empties(schema, *value, sent, own);
                }
            }
        }
        (Type::List { item, .. }, Value::Array(sent), Value::Array(object)) => {
            sent.iter().zip(object).for_each(|(sent, own)| adopt_empties(schema, *item, sent, own));
        }
        _ => {}
    }
}

fn is_empty(schema: &Schema, ty: TypeId, value: &Value) -> bool {
    match schema.get(ty) {
        Type::List { .. } => value.as_array().is_some_and(Vec::is_empty),
        Type::Map { .. } => value.as_object().is_some_and(Map::is_empty),
        // An empty struct is something.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use serde_json::json;

    #[test]
    fn only_lists_and_maps_are_adopted() {
        let pod = builtin().by_kind("", "v1", "Pod").expect("there are pods");
        let sent = json!({
            "metadata": {"labels": {}, "annotations": {"a": "b"}},
            "spec": {"tolerations": [], "securityContext": {}, "containers": [{"args": [], "env": []}, {"args": []}]},
        });
        let mut old = json!({
            "metadata": {"labels": null},
            "spec": {"containers": [{"env": [{"name": "E"}]}]},
        });
        adopt_empties(&builtin().schema, pod, &sent, &mut old);
        let expected = json!({
            "metadata": {"labels": {}},
            "spec": {"tolerations": [], "containers": [{"args": [], "env": [{"name": "E"}]}]},
        });
        assert_eq!(old, expected);
    }
}
