//! JSON merge patch: `null` deletes, objects merge, everything else replaces.
//!
//! Follows `gopkg.in/evanphx/json-patch.v4/merge.go`: nulls inside a newly added value are dropped, also in objects
//! within arrays; an array that replaces an object is taken as it is.

use serde_json::{Map, Value};

pub(super) fn apply(current: &Value, patch: &Value) -> Value {
    merge(current.clone(), patch.clone())
}

fn merge(current: Value, patch: Value) -> Value {
    match (current, patch) {
        (Value::Object(mut current), Value::Object(patch)) => {
            merge_objects(&mut current, patch);
            Value::Object(current)
        }
        (Value::Object(_), patch) => patch,
        (_, mut patch) => {
            prune_nulls(&mut patch);
            patch
        }
    }
}

fn merge_objects(current: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        if value.is_null() {
            current.remove(&key);
            continue;
        }
        let old = current.get_mut(&key).map_or(Value::Null, Value::take);
        current.insert(key, merge(old, value));
    }
}

fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::patch::{PatchType, apply_patch};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(current: Value, patch: Value, want: Value) {
        let got = apply_patch(PatchType::Merge, None, &current, patch.to_string().as_bytes());
        assert_eq!(got, Ok(want));
    }

    #[test]
    fn objects_merge_and_null_deletes() {
        check(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null, "d": 3}}), json!({"a": {"c": 2, "d": 3}}));
        check(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
        check(
            json!({"a": 1}),
            json!({"b": null, "c": {"d": null, "e": [{"f": null}]}}),
            json!({"a": 1, "c": {"e": [{}]}}),
        );
        check(json!({"a": {"b": 1}}), json!({"a": [null]}), json!({"a": [null]}));
        check(json!({"a": null}), json!({"a": {"b": null}}), json!({"a": {}}));
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(current in crate::patch::any_json(), patch in crate::patch::any_json()) {
            let patch = json!({"x": patch, "y": {"z": null}}).to_string();
            // Nulls in an array survive where the array replaces something that is not an object.
            prop_assume!(!patch.contains('['));
            let current = json!({"x": current, "y": {"z": 1}});
            let once = apply_patch(PatchType::Merge, None, &current, patch.as_bytes()).expect("an object merges");
            let twice = apply_patch(PatchType::Merge, None, &once, patch.as_bytes());
            prop_assert_eq!(twice, Ok(once));
        }
    }
}
