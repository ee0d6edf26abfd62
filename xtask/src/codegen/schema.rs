//! OpenAPI v3, protobuf field numbers and Go facts to `schema.txt`.
//!
//! ```text
//!     D io.k8s.api.core.v1.Container          a definition with its flags: `a` = atomic, `-` = none
//!     G apps/v1/Deployment                    a group, version and kind of the definition above; `*` = of every group version
//!     name  type  number  flags  default  patch
//! ```
//!
//! Field lines start with a tab. `number` is the protobuf field number, with the numbers of inlined messages before it
//! (`2.1`), 0 if there is none. Flags: `!` required, `p` a Go pointer, `e` omitempty, `w` a list inside a message of its own (a named
//! slice type), `-` none. Default is JSON or
//! nothing. Patch is `merge`, `retainKeys` or both, then `:` and the merge key.
//!
//! Types: `s b i l d y t m u q x` string, bool, int32, int64, double, bytes, Time, MicroTime, Duration, Quantity,
//! IntOrString; `R F J A B S` the untyped RawExtension, FieldsV1, JSON and JSONSchemaPropsOr{Array,Bool,StringArray};
//! `.Name` of the same package, a full name of another; `~` before a reference = granular although its definition is
//! atomic; `{}T` map, `{a}T` atomic map; `[a]T` `[s]T` `[k1,k2]T` atomic, set and keyed list.

use super::go_types::GoTypes;
use super::{read_json, text, texts};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// Definitions that are written as a letter, not as a struct.
const LEAVES: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "q"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "t"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "m"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "u"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "x"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "R"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "F"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "R"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "J"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "A"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "B"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "S"),
];

type Definitions = BTreeMap<String, Value>;

struct Input<'a> {
    definitions: &'a Definitions,
    proto: &'a Value,
    go: &'a GoTypes,
}

/// The whole table, and remarks about what did not fit.
pub(super) fn table(api: &Path, go: &GoTypes) -> Result<(String, Vec<String>), String> {
    let definitions = definitions(api)?;
    let proto = read_json(&api.join("protobuf-fields.json"))?;
    let input = Input { definitions: &definitions, proto: &proto, go };
    let mut out = String::from(
        "# Types of Kubernetes 1.36; made by `cargo xtask codegen`, format in xtask/src/codegen/schema.rs.\n",
    );
    let mut notes = Vec::new();
    for name in reachable(&definitions) {
        definition(&mut out, &mut notes, &input, &name)?;
    }
    Ok((out, notes))
}

/// Every definition of every group version, once.
fn definitions(api: &Path) -> Result<Definitions, String> {
    let folder = api.join("openapi-v3");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut all = Definitions::new();
    for entry in entries.filter_map(Result::ok) {
        let document = read_json(&entry.path())?;
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let slot = all.entry(name.clone()).or_insert_with(|| schema.clone());
            let key = "x-kubernetes-group-version-kind";
            // A shared definition (DeleteOptions) lists in each document the kinds of that group version only.
            for kind in schema[key].as_array().into_iter().flatten() {
                if let Some(kinds) = slot[key].as_array_mut()
                    && !kinds.contains(kind)
                {
                    kinds.push(kind.clone());
                }
            }
        }
    }
    for (name, schema) in unpublished() {
        all.insert(name, schema);
    }
    Ok(all)
}

/// Kinds that are served in protobuf but that upstream's OpenAPI leaves out (`apis/meta/v1/types.go`).
fn unpublished() -> Vec<(String, Value)> {
    let meta = |name: &str| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{}", meta(name))});
    let kind = |name: &str| json!([{"group": "meta.k8s.io", "version": "v1", "kind": name}]);
    let text = json!({"type": "string"});
    let list = json!({"type": "array", "items": reference("PartialObjectMetadata")});
    let properties = |more: Value| {
        let mut all = json!({"apiVersion": text, "kind": text});
        all.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        all
    };
    let key = "x-kubernetes-group-version-kind";
    let one = json!({key: kind("PartialObjectMetadata"), "properties": properties(json!({"metadata": reference("ObjectMeta")}))});
    let many = properties(json!({"metadata": reference("ListMeta"), "items": list}));
    let many = json!({key: kind("PartialObjectMetadataList"), "required": ["items"], "properties": many});
    vec![(meta("PartialObjectMetadata"), one), (meta("PartialObjectMetadataList"), many)]
}

/// GA and meta definitions and all they refer to.
fn reachable(definitions: &Definitions) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut queue: Vec<String> = definitions
        .keys()
        .filter(|name| name.rsplit('.').nth(1).is_some_and(super::is_ga) || name.contains(".pkg.version."))
        .cloned()
        .collect();
    while let Some(name) = queue.pop() {
        if LEAVES.iter().any(|(leaf, _)| *leaf == name) || !seen.insert(name.clone()) {
            continue;
        }
        references(&definitions[&name], &mut queue);
    }
    seen
}

fn references(schema: &Value, queue: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value.as_str()) {
                    ("$ref", Some(target)) => queue.push(local(target).to_owned()),
                    _ => references(value, queue),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, queue)),
        _ => {}
    }
}

fn local(reference: &str) -> &str {
    reference.trim_start_matches("#/components/schemas/")
}

fn definition(out: &mut String, notes: &mut Vec<String>, input: &Input<'_>, name: &str) -> Result<(), String> {
    let schema = &input.definitions[name];
    let flags = if text(schema, "x-kubernetes-map-type") == "atomic" { "a" } else { "-" };
    put(out, format_args!("D {name} {flags}"));
    kinds(out, schema);
    let (package, message) = split(name);
    let proto_package = package.replacen("io.k8s.", "k8s.io.", 1).replace('-', "_");
    if input.proto[&proto_package][message].is_null() {
        notes.push(format!("{name} has no protobuf message"));
    }
    let required = texts(schema, "required");
    let properties = schema["properties"].as_object();
    let names: BTreeSet<String> = properties.into_iter().flatten().map(|(k, _)| normal(k)).collect();
    let sorted: BTreeMap<&String, &Value> = properties.into_iter().flatten().collect();
    for (field, property) in sorted {
        let ty = type_of(property, package)?;
        let found = locate(input, &proto_package, message, name, field, &names);
        let numbers = found.as_ref().map(|f| f.numbers.join(".")).unwrap_or_else(|| "0".to_owned());
        let type_meta = field == "apiVersion" || field == "kind";
        match &found {
            None if !type_meta => notes.push(format!("{name}.{field} has no protobuf number")),
            Some(f) if f.go.is_none() => notes.push(format!("{name}.{field} has no Go field")),
            _ => {}
        }
        let wrapped = ty.starts_with('[') && found.as_ref().is_some_and(|f| !f.repeated);
        let (pointer, omit_empty) = found.and_then(|f| f.go).unwrap_or((false, true));
        let mut flags = String::new();
        for (set, flag) in
            [(required.contains(&field.as_str()), '!'), (pointer, 'p'), (omit_empty, 'e'), (wrapped, 'w')]
        {
            if set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('-');
        }
        let default = property.get("default").map(Value::to_string).unwrap_or_default();
        let line = format!("\t{field}\t{ty}\t{numbers}\t{flags}\t{default}\t{}", patch(property));
        put(out, format_args!("{}", line.trim_end()));
    }
    Ok(())
}

fn kinds(out: &mut String, schema: &Value) {
    let all: Vec<&Value> = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().collect();
    if all.len() > 10 {
        put(out, format_args!("G */*/{}", text(all[0], "kind")));
        return;
    }
    for gvk in all {
        put(out, format_args!("G {}/{}/{}", text(gvk, "group"), text(gvk, "version"), text(gvk, "kind")));
    }
}

fn patch(property: &Value) -> String {
    let strategy = text(property, "x-kubernetes-patch-strategy");
    let key = text(property, "x-kubernetes-patch-merge-key");
    match (strategy, key) {
        ("", "") => String::new(),
        (strategy, "") => strategy.to_owned(),
        (strategy, key) => format!("{strategy}:{key}"),
    }
}

// === types ===

fn type_of(schema: &Value, package: &str) -> Result<String, String> {
    if let Some(target) = schema["allOf"][0]["$ref"].as_str().or_else(|| schema["$ref"].as_str()) {
        let granular = if text(schema, "x-kubernetes-map-type") == "granular" { "~" } else { "" };
        return Ok(format!("{granular}{}", reference(local(target), package)));
    }
    let leaf = match (text(schema, "type"), text(schema, "format")) {
        ("string", "byte") => "y",
        ("string", _) => "s",
        ("boolean", _) => "b",
        ("integer", "int32") => "i",
        ("integer", _) => "l",
        ("number", _) => "d",
        ("array", _) => return Ok(format!("[{}]{}", topology(schema)?, type_of(&schema["items"], package)?)),
        ("object", _) => return map(schema, package),
        other => return Err(format!("unknown type {other:?} in {schema}")),
    };
    Ok(leaf.to_owned())
}

fn map(schema: &Value, package: &str) -> Result<String, String> {
    let value = &schema["additionalProperties"];
    if value.is_null() {
        return Err(format!("an object without properties: {schema}"));
    }
    let atomic = if text(schema, "x-kubernetes-map-type") == "atomic" { "a" } else { "" };
    Ok(format!("{{{atomic}}}{}", type_of(value, package)?))
}

fn topology(schema: &Value) -> Result<String, String> {
    match text(schema, "x-kubernetes-list-type") {
        "" | "atomic" => Ok("a".to_owned()),
        "set" => Ok("s".to_owned()),
        // A key called `a` or `s` would be ambiguous; upstream has none.
        "map" => Ok(texts(schema, "x-kubernetes-list-map-keys").join(",")),
        other => Err(format!("unknown list type {other}")),
    }
}

fn reference(target: &str, package: &str) -> String {
    if let Some((_, letter)) = LEAVES.iter().find(|(leaf, _)| *leaf == target) {
        return (*letter).to_owned();
    }
    match split(target) {
        (own, name) if own == package => format!(".{name}"),
        _ => target.to_owned(),
    }
}

fn split(definition: &str) -> (&str, &str) {
    definition.rsplit_once('.').unwrap_or(("", definition))
}

// === protobuf and Go ===

struct Found {
    numbers: Vec<String>,
    repeated: bool,
    /// Whether it is a pointer, and whether JSON leaves out its zero value.
    go: Option<(bool, bool)>,
}

/// Where `field` lives in the message: directly, or in a message that JSON inlines.
fn locate(
    input: &Input<'_>,
    package: &str,
    message: &str,
    definition: &str,
    field: &str,
    names: &BTreeSet<String>,
) -> Option<Found> {
    let fields = input.proto[package][message].as_array()?;
    let wanted = normal(field);
    for entry in fields {
        if normal(entry[1].as_str()?) == wanted {
            return Some(Found {
                numbers: vec![entry[0].to_string()],
                repeated: entry[3] == "repeated",
                go: input.go.field(definition, field).map(|f| (f.pointer, f.omit_empty)),
            });
        }
    }
    for entry in fields {
        let inner = entry[2].as_str()?;
        if names.contains(&normal(entry[1].as_str()?)) || input.proto[package][inner].is_null() {
            continue;
        }
        let inner_definition = format!("{}.{inner}", split(definition).0);
        if let Some(mut found) = locate(input, package, inner, &inner_definition, field, names) {
            found.numbers.insert(0, entry[0].to_string());
            return Some(found);
        }
    }
    None
}

/// Names differ in case and punctuation between JSON and protobuf (`$ref` and `ref`, `uid` and `uID`).
fn normal(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("a String takes all text");
}
