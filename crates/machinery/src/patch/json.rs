//! JSON patch, with the leniencies of the library upstream uses (`gopkg.in/evanphx/json-patch.v4`): indices may count
//! from the end, `replace` may create a key, an absent value is `null`, a failed operation undoes all.

use super::PatchError;
use crate::json::{cannot_unmarshal, go_kind};
use serde_json::{Map, Value};

/// `maxJSONPatchOperations` of handlers/patch.go.
const MAX_OPERATIONS: usize = 10_000;
/// `JSONPatchMaxCopyBytes` of apiserver/pkg/server/config.go: what `copy` may add to the object.
const MAX_COPY_BYTES: usize = 3 * 1024 * 1024;

/// One step. Paths are kept as text for messages.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    op: String,
    path: Option<String>,
    from: Option<String>,
    value: Value,
}

pub(super) fn read(value: Value) -> Result<Vec<Operation>, PatchError> {
    let bad = |found: &Value, wanted: &str| {
        PatchError::BadRequest(format!("error decoding patch: {}", cannot_unmarshal(found, wanted)))
    };
    let items = match value {
        Value::Array(items) => items,
        Value::Null => return Ok(Vec::new()),
        other => return Err(bad(&other, "[]handlers.jsonPatchOp")),
    };
    if items.len() > MAX_OPERATIONS {
        let text = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", items.len());
        return Err(PatchError::TooLarge(text));
    }
    let text = |item: &mut Map<String, Value>, key: &str| match item.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(other) => {
            let go = go_kind(&other);
            let text = format!(
                "error decoding patch: json: cannot unmarshal {go} into Go struct field jsonPatchOp.{key} of type string"
            );
            Err(PatchError::BadRequest(text))
        }
    };
    let read_one = |item: Value| match item {
        Value::Object(mut item) => Ok(Operation {
            op: text(&mut item, "op")?.unwrap_or_else(|| "unknown".to_owned()),
            path: text(&mut item, "path")?,
            from: text(&mut item, "from")?,
            value: item.remove("value").unwrap_or(Value::Null),
        }),
        other => Err(bad(&other, "handlers.jsonPatchOp")),
    };
    items.into_iter().map(read_one).collect()
}

/// Fields of operations that mean nothing.
pub(super) fn unknown_fields(patch: &Value) -> Vec<String> {
    let known = ["op", "path", "from", "value"];
    let of = |(i, item): (usize, &Value)| {
        let keys = item.as_object().into_iter().flat_map(Map::keys).filter(|k| !known.contains(&k.as_str()));
        keys.map(|key| format!("unknown field \"[{i}].{key}\"")).collect::<Vec<_>>()
    };
    patch.as_array().into_iter().flatten().enumerate().flat_map(of).collect()
}

pub(super) fn apply(operations: &[Operation], current: &Value) -> Result<Value, PatchError> {
    let mut document = current.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        operation.apply(&mut document, &mut copied_bytes).map_err(|why| match operation.op.as_str() {
            "test" => PatchError::TestFailed(why),
            _ => PatchError::Unprocessable(why),
        })?;
    }
    Ok(document)
}

impl Operation {
    fn apply(&self, document: &mut Value, copied_bytes: &mut usize) -> Result<(), String> {
        let path = || {
            self.path.as_deref().ok_or_else(|| format!("{} operation failed to decode path: missing value", self.op))
        };
        let from = || {
            self.from.as_deref().ok_or_else(|| format!("{} operation failed to decode from: missing value", self.op))
        };
        match self.op.as_str() {
            "add" => add(document, path()?, self.value.clone()),
            "remove" => remove(document, path()?).map(drop),
            "replace" => replace(document, path()?, self.value.clone()),
            "move" => {
                let (from, path) = (from()?, path()?);
                let value = remove(document, from)?;
                add(document, path, value)
            }
            "copy" => {
                let value = get(document, from()?)?.clone();
                *copied_bytes += value.to_string().len();
                if *copied_bytes > MAX_COPY_BYTES {
                    return Err(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {MAX_COPY_BYTES}"
                    ));
                }
                add(document, path()?, value)
            }
            "test" => {
                let path = path()?;
                let found = if path.is_empty() { &*document } else { get(document, path)? };
                if *found == self.value { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
            }
            other => Err(format!("Unexpected kind: {other}")),
        }
    }
}

/// What holds the last step of a path, and that step.
enum Place<'a> {
    Object(&'a mut Map<String, Value>, String),
    Array(&'a mut Vec<Value>, String),
}

fn find<'a>(document: &'a mut Value, path: &str) -> Result<Place<'a>, String> {
    let missing = || format!("doc is missing path: \"{path}\": missing value");
    let (_, steps) = path.split_once('/').ok_or_else(missing)?;
    let mut steps: Vec<String> = steps.split('/').map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    let last = steps.pop().ok_or_else(missing)?;
    let mut here = document;
    for step in &steps {
        here = match here {
            Value::Object(map) => map.get_mut(step),
            Value::Array(list) => index(step, list.len()).and_then(|i| list.get_mut(i)),
            _ => None,
        }
        .ok_or_else(missing)?;
    }
    match here {
        Value::Object(map) => Ok(Place::Object(map, last)),
        Value::Array(list) => Ok(Place::Array(list, last)),
        _ => Err(missing()),
    }
}

/// A position among `count`, maybe from the end.
fn index(step: &str, count: usize) -> Option<usize> {
    let i: i64 = step.parse().ok()?;
    let count = i64::try_from(count).ok()?;
    usize::try_from(if i < 0 { i + count } else { i }).ok().filter(|i| (*i as i64) < count)
}

fn get<'a>(document: &'a mut Value, path: &str) -> Result<&'a Value, String> {
    const NULL: &Value = &Value::Null;
    match find(document, path)? {
        Place::Object(map, key) => Ok(map.get(&key).unwrap_or(NULL)),
        Place::Array(list, key) => {
            index(&key, list.len()).and_then(|i| list.get(i)).ok_or_else(|| invalid_index(path, &key))
        }
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    match find(document, path)? {
        Place::Object(map, key) => {
            map.insert(key, value);
        }
        Place::Array(list, key) if key == "-" => list.push(value),
        Place::Array(list, key) => {
            let i = index(&key, list.len() + 1).ok_or_else(|| invalid_index(path, &key))?;
            list.insert(i, value);
        }
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    match find(document, path)? {
        Place::Object(map, key) => map.remove(&key).ok_or_else(|| {
            format!("error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value")
        }),
        Place::Array(list, key) => {
            let i = index(&key, list.len()).ok_or_else(|| invalid_index(path, &key))?;
            Ok(list.remove(i))
        }
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return Err("replace operation value must be object or array".to_owned());
        }
        *document = value;
        return Ok(());
    }
    match find(document, path)? {
        Place::Object(map, key) => {
            map.insert(key, value);
        }
        Place::Array(list, key) => {
            let i = index(&key, list.len()).ok_or_else(|| invalid_index(path, &key))?;
            list[i] = value;
        }
    }
    Ok(())
}

fn invalid_index(path: &str, key: &str) -> String {
    format!("doc is missing key: {path}: Unable to access invalid index: {key}")
}

#[cfg(test)]
mod tests {
    use crate::patch::{PatchError, PatchType, apply_patch};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(current: Value, patch: Value, want: Result<Value, &str>) {
        let got = apply_patch(PatchType::Json, None, &current, patch.to_string().as_bytes());
        assert_eq!(got.map_err(|e| e.to_string()), want.map_err(str::to_owned));
    }

    #[test]
    fn operations_do_what_rfc_6902_says() {
        let doc = || json!({"a": {"b/c": 1}, "l": [1, 2, 3]});
        let op = |op, path| json!([{"op": op, "path": path, "value": 9}]);
        check(doc(), op("add", "/a/x"), Ok(json!({"a": {"b/c": 1, "x": 9}, "l": [1, 2, 3]})));
        check(doc(), op("add", "/l/1"), Ok(json!({"a": {"b/c": 1}, "l": [1, 9, 2, 3]})));
        check(doc(), op("add", "/l/-"), Ok(json!({"a": {"b/c": 1}, "l": [1, 2, 3, 9]})));
        check(doc(), op("remove", "/a/b~1c"), Ok(json!({"a": {}, "l": [1, 2, 3]})));
        check(doc(), op("replace", "/l/-1"), Ok(json!({"a": {"b/c": 1}, "l": [1, 2, 9]})));
        let two = json!([{"op": "move", "from": "/l/0", "path": "/x"}, {"op": "copy", "from": "/x", "path": "/y"}]);
        check(doc(), two, Ok(json!({"a": {"b/c": 1}, "l": [2, 3], "x": 1, "y": 1})));
        check(doc(), json!([{"op": "test", "path": "/no", "value": null}]), Ok(doc()));
    }

    #[test]
    fn failures_are_unprocessable() {
        let fails = |patch: Value, want: &str| check(json!({"l": []}), patch, Err(want));
        fails(json!([{"op": "test", "path": "/l", "value": 1}]), "testing value /l failed: test failed");
        fails(json!([{"op": "add", "path": "/x/y"}]), "doc is missing path: \"/x/y\": missing value");
        fails(json!([{"op": "frob", "path": "/x"}]), "Unexpected kind: frob");
        fails(json!([{"op": "add"}]), "add operation failed to decode path: missing value");
        fails(json!([{"op": "remove", "path": "/l/0"}]), "doc is missing key: /l/0: Unable to access invalid index: 0");
        let e = apply_patch(PatchType::Json, None, &json!({}), br#"[{"op":"remove","path":"/x"}]"#);
        let status = e.expect_err("nothing to remove").to_status();
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
        assert_eq!(status.message, "the server rejected our request due to an error in our request");
    }

    #[test]
    fn size_is_limited() {
        let many = Value::Array(vec![json!({"op": "test", "path": ""}); 10_001]);
        let e = apply_patch(PatchType::Json, None, &json!({}), many.to_string().as_bytes()).expect_err("too many");
        assert_eq!(e.to_status().code, 413);
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let bomb = Value::Array(vec![double; 40]);
        let e = apply_patch(PatchType::Json, None, &json!({"a": ["0123456789"]}), bomb.to_string().as_bytes());
        assert!(matches!(e, Err(PatchError::Unprocessable(text)) if text.starts_with("Unable to complete the copy")));
    }

    proptest! {
        #[test]
        fn any_patch_is_applied_or_refused(current in crate::patch::any_json(), patch in crate::patch::any_json(), path in "(/[a-c0-2~-]{0,2}){0,3}", op in "(add|remove|replace|move|copy|test)") {
            drop(apply_patch(PatchType::Json, None, &current, patch.to_string().as_bytes()));
            let one = json!([{"op": op, "path": path, "from": path, "value": patch}]);
            drop(apply_patch(PatchType::Json, None, &current, one.to_string().as_bytes()));
        }
    }
}
