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
//! servers of one version. Differs from upstream: no texts of queries' parameters, and the
//! documents of version 3 have no protobuf form (clients that ask for it only, get 406 from the caller and fall back).

mod definitions;
mod descriptions;
mod enums;
mod paths;

use crate::custom::publish::{self, Published};
use crate::kinds::KindInfo;
use crate::schema::builtin;
use definitions::{Flavor, META};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

/// What documents say about the server.
const VERSION: &str = "v1.36.2";

/// A resource that is served.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// Names, scope, verbs and subresources.
    pub info: &'a KindInfo,
    /// The schema of a custom resource; `None` for built-in kinds.
    pub custom: Option<&'a Published>,
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

/// Names what the tables say, which another build may say otherwise.
static TABLES: LazyLock<u64> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    (enums::TEXT, descriptions::TEXT).hash(&mut hasher);
    hasher.finish()
});

/// Not for security: a name for "this content", so that clients know when to fetch again.
fn hash(served: &[Served<'_>]) -> String {
    let mut hasher = DefaultHasher::new();
    (VERSION, env!("CARGO_PKG_VERSION"), *TABLES).hash(&mut hasher);
    for s in served {
        // The derived text names every fact of the resource.
        format!("{:?}", s.info).hash(&mut hasher);
        s.custom.map(Published::fingerprint).hash(&mut hasher);
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
    for (s, published) in served.iter().filter_map(|s| Some((s, s.custom?))) {
        custom_definitions(s, published, flavor, &mut done, &mut queue);
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
    // What all groups have, the oldest one has, too.
    let group_versions: BTreeSet<(&str, &str)> = group_versions.iter().copied().chain([("", "v1")]).collect();
    for (kind, id) in b.everywhere() {
        if let Some(s) = b.structure(*id) {
            let kinds: Vec<Value> = group_versions.iter().map(|(g, v)| entry(g, v, kind)).collect();
            all.insert(&s.name, kinds.into());
        }
    }
    all
}

/// A custom resource and its list (`apiextensions-apiserver/pkg/controller/openapi/builder/builder.go`).
fn custom_definitions(
    s: &Served<'_>,
    published: &Published,
    flavor: Flavor,
    done: &mut BTreeMap<String, Value>,
    queue: &mut Vec<String>,
) {
    const CONVENTIONS: &str =
        "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    let info = s.info;
    let (name, list_name) = paths::definition_names(s);
    // Identity is described alike everywhere.
    let typed =
        |field: &str| json!({"type": "string", "description": description("io.k8s.api.core.v1.ConfigMap", field)});
    let reference = |definition: &str, text: &str| {
        let text = Map::from_iter([("description".to_owned(), Value::from(text))]);
        definitions::with(flavor.reference(&format!("{META}{definition}")), text, flavor)
    };
    let (mut schema, has_meta) = match flavor {
        Flavor::V2 => published.v2(),
        Flavor::V3 => (published.v3(), true),
    };
    let meta_text = format!("Standard object's metadata. {CONVENTIONS}#metadata");
    if has_meta {
        schema["properties"]["metadata"] = reference("ObjectMeta", &meta_text);
        schema["properties"]["apiVersion"] = typed("apiVersion");
        schema["properties"]["kind"] = typed("kind");
        publish::add_embedded(&mut schema, flavor == Flavor::V2, &|text| reference("ObjectMeta", text));
    }
    let mut list = json!({
        "type": "object",
        "description": format!("{} is a list of {}", info.list_kind, info.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": typed("apiVersion"),
            "kind": typed("kind"),
            "metadata": reference("ListMeta", &format!("Standard list metadata. {CONVENTIONS}#types-kinds")),
            "items": {
                "type": "array",
                "items": flavor.reference(&name),
                "description": format!("List of {}. {CONVENTIONS}", info.plural),
            },
        },
    });
    for (schema, kind) in [(&mut schema, &info.kind), (&mut list, &info.list_kind)] {
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": info.group, "kind": kind, "version": info.version}]);
        if let Some(fields) = published.selectable() {
            schema["x-kubernetes-selectable-fields"] = fields;
        }
    }
    done.insert(name, schema);
    done.insert(list_name, list);
    queue.extend([format!("{META}ObjectMeta"), format!("{META}ListMeta")]);
}

/// Upstream's prose about a field of a definition; empty if there is none.
pub fn description(definition: &str, field: &str) -> String {
    descriptions::unfold(descriptions::of(definition).fields.get(field).copied().unwrap_or_default())
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
