//! OpenAPI documents of what is served, made from the tables on demand.
//!
//! ```text
//! /openapi/v2                     v2
//! /openapi/v3                     v3_index: { "paths": { "apis/apps/v1": { "serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=…" } } }
//! /openapi/v3/apis/apps/v1        v3
//! ```
//!
//! A document is written straight into its bytes, one definition at a time, and is not kept here: it takes a few
//! milliseconds, clients keep it by its hash, and memory that nobody reads is memory lost.
//!
//! Invariant: hashes depend on what is served and on this program's tables only, so they are cheap, and equal on all
//! servers of one version. Differs from upstream: no deprecated watch paths, and no protobuf form of the documents
//! (clients that ask for it only, get 406 from the caller and fall back).

mod definitions;
mod descriptions;
mod paths;

use crate::kinds::KindInfo;
use crate::schema::builtin;
use definitions::{Flavor, META};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What documents say about the server.
const VERSION: &str = "v1.36.2";

/// A resource that is served.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// Names, scope, verbs and subresources.
    pub info: &'a KindInfo,
    /// `openAPIV3Schema` of a custom resource; `None` for built-in kinds.
    pub custom: Option<&'a Value>,
}

impl<'a> From<&'a KindInfo> for Served<'a> {
    fn from(info: &'a KindInfo) -> Self {
        Served { info, custom: None }
    }
}

/// The name of a group version below `/openapi/v3/`: `api/v1` or `apis/apps/v1`.
pub fn v3_name(group: &str, version: &str) -> String {
    paths::prefix(group, version)[1..].to_owned()
}

/// The document at `/openapi/v3`.
pub fn v3_index(served: &[Served<'_>]) -> Vec<u8> {
    let groups: BTreeSet<(&str, &str)> = served.iter().map(|s| group_version(s)).collect();
    let all: Map<String, Value> = groups
        .into_iter()
        .map(|(group, version)| {
            let name = v3_name(group, version);
            let url = format!("/openapi/v3/{name}?hash={}", hash(&of_group(served, group, version)));
            (name, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": all}).to_string().into_bytes()
}

/// The hash of a group version's document, as in the index and in its `Etag`; `None` if nothing of it is served.
pub fn v3_hash(group: &str, version: &str, served: &[Served<'_>]) -> Option<String> {
    let mine = of_group(served, group, version);
    (!mine.is_empty()).then(|| hash(&mine))
}

/// The document of one group version; `None` if nothing of it is served.
pub fn v3(group: &str, version: &str, served: &[Served<'_>]) -> Option<Vec<u8>> {
    let mine = of_group(served, group, version);
    if mine.is_empty() {
        return None;
    }
    let mut out = Out::default();
    let info = json!({"title": "Kubernetes", "version": VERSION});
    out.begin();
    out.member("openapi", &json!("3.0.0"));
    out.member("info", &info);
    let references = write_paths(&mut out, &mine, Flavor::V3);
    out.key("components");
    out.begin();
    out.key("schemas");
    write_definitions(&mut out, &mine, references, Flavor::V3);
    out.member("securitySchemes", &security());
    out.end();
    out.end();
    Some(out.bytes)
}

/// The hash of the v2 document, for its `Etag`.
pub fn v2_hash(served: &[Served<'_>]) -> String {
    hash(served)
}

/// The document at `/openapi/v2`, of everything.
pub fn v2(served: &[Served<'_>]) -> Vec<u8> {
    let mut out = Out::default();
    out.begin();
    out.member("swagger", &json!("2.0"));
    out.member("info", &json!({"title": "Kubernetes", "version": VERSION}));
    let references = write_paths(&mut out, served, Flavor::V2);
    out.key("definitions");
    write_definitions(&mut out, served, references, Flavor::V2);
    out.member("securityDefinitions", &security());
    out.member("security", &json!([{"BearerToken": []}]));
    out.end();
    out.bytes
}

fn group_version<'a>(served: &Served<'a>) -> (&'a str, &'a str) {
    (&served.info.group, &served.info.version)
}

fn of_group<'a>(served: &[Served<'a>], group: &str, version: &str) -> Vec<Served<'a>> {
    served.iter().filter(|s| group_version(s) == (group, version)).copied().collect()
}

fn security() -> Value {
    json!({"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}})
}

/// Not for security: a name for "this content", so that clients know when to fetch again.
fn hash(served: &[Served<'_>]) -> String {
    let mut hasher = DefaultHasher::new();
    (VERSION, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    for s in served {
        // The derived text names every fact of the resource.
        format!("{:?}", s.info).hash(&mut hasher);
        s.custom.map(Value::to_string).hash(&mut hasher);
    }
    format!("{:016X}", hasher.finish())
}

// === writing ===

fn write_paths(out: &mut Out, served: &[Served<'_>], flavor: Flavor) -> Vec<String> {
    let mut references = Vec::new();
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for (group, version) in served.iter().map(group_version).collect::<BTreeSet<_>>() {
        all.extend([paths::resource_list(group, version, flavor, &mut references)]);
    }
    out.key("paths");
    out.begin();
    for s in served {
        all.extend(paths::of(s, flavor, &mut references));
    }
    for (path, value) in &all {
        out.member(path, value);
    }
    out.end();
    references
}

fn write_definitions(out: &mut Out, served: &[Served<'_>], references: Vec<String>, flavor: Flavor) {
    let group_versions: BTreeSet<(&str, &str)> = served.iter().map(group_version).collect();
    let kinds = kinds_by_definition(&group_versions);
    let mut queue = references;
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    queue.push(format!("{META}WatchEvent"));
    for s in served.iter().filter(|s| s.custom.is_some()) {
        custom_definitions(s, flavor, &mut done, &mut queue);
    }
    while let Some(name) = queue.pop() {
        if done.contains_key(&name) {
            continue;
        }
        let Some(mut schema) = definitions::definition(&name, flavor, &mut queue) else { continue };
        if let Some(kinds) = kinds.get(name.as_str()) {
            schema["x-kubernetes-group-version-kind"] = kinds.clone();
        }
        done.insert(name, schema);
    }
    out.begin();
    for (name, schema) in &done {
        out.member(name, schema);
    }
    out.end();
}

/// `x-kubernetes-group-version-kind` of the built-in definitions.
fn kinds_by_definition(group_versions: &BTreeSet<(&str, &str)>) -> BTreeMap<&'static str, Value> {
    let b = builtin();
    let entry = |group: &str, version: &str, kind: &str| json!({"group": group, "kind": kind, "version": version});
    let mut all: BTreeMap<&'static str, Value> = BTreeMap::new();
    for (group, version, kind, id) in b.kinds() {
        if let Some(s) = b.structure(id) {
            all.insert(&s.name, json!([entry(group, version, kind)]));
        }
    }
    for (kind, id) in b.everywhere() {
        if let Some(s) = b.structure(*id) {
            let kinds: Vec<Value> = group_versions.iter().map(|(g, v)| entry(g, v, kind)).collect();
            all.insert(&s.name, kinds.into());
        }
    }
    all
}

/// A custom resource and its list (`apiextensions-apiserver/pkg/controller/openapi/builder/builder.go`).
fn custom_definitions(s: &Served<'_>, flavor: Flavor, done: &mut BTreeMap<String, Value>, queue: &mut Vec<String>) {
    let info = s.info;
    let (name, list_name) = paths::definition_names(s);
    let kind = |kind: &str| json!([{"group": info.group, "kind": kind, "version": info.version}]);
    let mut schema = s.custom.cloned().unwrap_or_else(|| json!({}));
    if flavor == Flavor::V2 {
        to_v2(&mut schema);
    }
    if !schema.is_object() {
        schema = json!({});
    }
    schema["type"] = "object".into();
    let texts = descriptions::of(&format!("{META}PartialObjectMetadata"));
    let described = |field: &str| {
        let text = texts.fields.get(field).copied().unwrap_or_default();
        json!({"type": "string", "description": descriptions::unfold(text)})
    };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let meta = format!("{META}ObjectMeta");
    schema["properties"]["apiVersion"] = described("apiVersion");
    schema["properties"]["kind"] = described("kind");
    schema["properties"]["metadata"] = flavor.reference(&meta);
    schema["x-kubernetes-group-version-kind"] = kind(&info.kind);
    let list_kind = format!("{}List", info.kind);
    let list_meta = format!("{META}ListMeta");
    let list = json!({
        "type": "object",
        "description": format!("{list_kind} is a list of {}", info.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": described("apiVersion"),
            "kind": described("kind"),
            "metadata": flavor.reference(&list_meta),
            "items": {"type": "array", "items": flavor.reference(&name), "description": format!("List of {}", info.plural)},
        },
        "x-kubernetes-group-version-kind": kind(&list_kind),
    });
    done.insert(name, schema);
    done.insert(list_name, list);
    queue.extend([meta, list_meta]);
}

/// Leaves out what OpenAPI v2 does not know (`pkg/controller/openapi/v2/conversion.go`).
fn to_v2(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for key in ["oneOf", "anyOf", "allOf", "not", "nullable", "default"] {
                map.remove(key);
            }
            if map.remove("x-kubernetes-int-or-string").is_some() {
                map.insert("x-kubernetes-int-or-string".to_owned(), true.into());
                map.remove("type");
            }
            if let Some(Value::Object(properties)) = map.get_mut("properties") {
                // Names of properties are no keywords.
                properties.values_mut().for_each(to_v2);
            }
            for key in ["items", "additionalProperties"] {
                if let Some(inner) = map.get_mut(key) {
                    to_v2(inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(to_v2),
        _ => {}
    }
}

/// JSON text in the making.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
}

impl Out {
    fn begin(&mut self) {
        self.bytes.push(b'{');
    }

    fn end(&mut self) {
        self.bytes.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if self.bytes.last() != Some(&b'{') {
            self.bytes.push(b',');
        }
        self.value(&Value::from(key));
        self.bytes.push(b':');
    }

    fn member(&mut self, key: &str, value: &Value) {
        self.key(key);
        self.value(value);
    }

    fn value(&mut self, value: &Value) {
        serde_json::to_writer(&mut self.bytes, value).expect("a Value always has a text, and a Vec takes it");
    }
}

#[cfg(test)]
mod tests;
