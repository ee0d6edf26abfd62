//! For tests of kinds: YAML in, text out.

use super::{Kind, find};
use api::AnyObject;
use expect_test::Expect;
use serde_json::Value;

/// A moment an hour after the objects of tests are created.
pub(super) const NOW: &str = "2024-01-01T01:00:00Z";

/// The kind of a YAML object, by its `apiVersion` and `kind`, and the object.
pub(super) fn read(yaml: &str) -> (&'static dyn Kind, Box<dyn AnyObject>) {
    let value: Value = serde_saphyr::from_str(yaml).expect("test objects are YAML");
    let version = value["apiVersion"].as_str().expect("test objects have an apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = value["kind"].as_str().expect("test objects have a kind");
    let info = super::table::info(group, version, kind).expect("test objects are of a served kind");
    let kind = find(group, version, &info.plural).expect("a served kind");
    let object = kind.decode(value.to_string().as_bytes()).expect("test objects decode");
    (kind, object)
}

fn value(object: &dyn AnyObject) -> Value {
    serde_json::from_slice(&object.encode()).expect("objects encode as JSON")
}

/// A flat text of JSON: a line per leaf.
pub(super) fn flat(value: &Value) -> String {
    fn walk(path: &str, value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(&format!("{path}{dot}{key}"), value, out);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (i, item) in items.iter().enumerate() {
                    walk(&format!("{path}[{i}]"), item, out);
                }
            }
            leaf => out.push(format!("{path}: {leaf}")),
        }
    }
    let mut out = Vec::new();
    walk("", value, &mut out);
    out.join("\n")
}

/// The object as it is after defaulting: what was added or changed, a line each.
pub(super) fn check_defaults(yaml: &str, expected: Expect) {
    let (kind, mut object) = read(yaml);
    let before: Vec<String> = flat(&value(&*object)).lines().map(str::to_owned).collect();
    kind.default(&mut *object);
    let after = flat(&value(&*object));
    let added: Vec<&str> = after.lines().filter(|l| !before.iter().any(|b| b == l)).collect();
    expected.assert_eq(&added.join("\n"));
}

/// The object as a create would store it: what defaulting and preparation added, or what is wrong.
pub(super) fn created(yaml: &str) -> (&'static dyn Kind, Box<dyn AnyObject>, String) {
    let (kind, mut object) = read(yaml);
    kind.default(&mut *object);
    let meta = object.meta_mut();
    if kind.info().namespaced && meta.namespace.is_none() {
        meta.namespace = Some("default".to_owned());
    }
    kind.prepare_create(&mut *object);
    let errors = kind.validate_create(&*object);
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    (kind, object, lines.join("\n"))
}

/// What is wrong with a new object.
pub(super) fn check_create(yaml: &str, expected: Expect) {
    expected.assert_eq(&created(yaml).2);
}

/// What is wrong with a change of the object (or of `subresource`), or the generation it gets.
pub(super) fn check_update(old: &str, new: &str, subresource: Option<&str>, expected: Expect) {
    let (kind, mut old, errors) = created(old);
    assert_eq!(errors, "", "the old object is valid");
    let meta = old.meta_mut();
    meta.uid.get_or_insert_with(|| "1".to_owned());
    meta.resource_version = Some("1".to_owned());
    let (_, mut new) = read(new);
    kind.default(&mut *new);
    new.meta_mut().namespace = old.meta().namespace.clone();
    kind.prepare_update(&mut *new, &*old, subresource);
    let errors = kind.validate_update(&*new, &*old, subresource);
    let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        lines.push(format!("generation {}", new.meta().generation.unwrap_or(0)));
    }
    expected.assert_eq(&lines.join("\n"));
}

/// What is warned of in a new object, or in a change of `old`.
pub(super) fn warnings(new: &str, old: Option<&str>) -> Vec<String> {
    let Some(old) = old else {
        let (kind, object, errors) = created(new);
        assert_eq!(errors, "", "the object is valid");
        return kind.warnings(&*object, None);
    };
    let (kind, old, _) = created(old);
    let (_, mut new) = read(new);
    kind.default(&mut *new);
    kind.prepare_update(&mut *new, &*old, None);
    kind.warnings(&*new, Some(&*old))
}

/// What is warned of in a new object, or in a change of `old`, a line each.
pub(super) fn check_warnings(new: &str, old: Option<&str>, expected: Expect) {
    expected.assert_eq(&warnings(new, old).join("\n"));
}

/// The row of `kubectl get -o wide`, header first.
pub(super) fn check_row(yaml: &str, expected: Expect) {
    let (kind, object) = read(yaml);
    let now = NOW.parse().expect("a literal");
    let header: Vec<&str> = kind.columns().iter().map(|c| c.name.as_ref()).collect();
    let cells = kind.cells(&*object, now);
    let cells: Vec<String> = cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
    expected.assert_eq(&format!("{}\n{}", header.join(" | "), cells.join(" | ")));
}
