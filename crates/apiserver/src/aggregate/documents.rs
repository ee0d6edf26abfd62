//! What aggregated servers say about themselves: discovery of their group version, and their part of OpenAPI
//! (`kube-aggregator/pkg/apiserver/handler_discovery.go`, `…/pkg/controllers/openapi{,v3}`).
//!
//! Fetched when a server is found available, and again with every check; an ETag makes that cheap.

use super::{Remote, proxy};
use crate::api_server::ApiServer;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, ETAG, HeaderName, IF_NONE_MATCH};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// One server's documents, the newest that could be had.
#[derive(Debug, Default)]
pub(crate) struct Documents(ArcSwap<State>);

#[derive(Debug, Default, Clone)]
struct State {
    /// The resources of the group version, as aggregated discovery lists them.
    resources: Arc<Value>,
    fresh: bool,
    /// Its own group version's hash in its `/openapi/v3`.
    v3_hash: Option<String>,
    /// Paths and definitions of its group version in its `/openapi/v2`, and the document's ETag.
    v2: Option<(String, Bytes)>,
}

impl Documents {
    /// An entry of `versions` in aggregated discovery.
    pub(crate) fn discovery(&self, version: &str) -> Value {
        let state = self.0.load();
        let freshness = if state.fresh { "Current" } else { "Stale" };
        let mut entry = json!({"version": version, "freshness": freshness});
        if state.resources.as_array().is_some_and(|r| !r.is_empty()) {
            entry["resources"] = (*state.resources).clone();
        }
        entry
    }

    /// The hash of its OpenAPI v3 document, if it has one.
    pub(crate) fn v3_hash(&self) -> Option<String> {
        self.0.load().v3_hash.clone()
    }

    /// Tag and content of its part of OpenAPI v2.
    pub(crate) fn v2(&self) -> Option<(String, Bytes)> {
        self.0.load().v2.clone()
    }

    /// What is known may not be true any more.
    pub(super) fn mark_stale(&self) {
        let state = self.0.load();
        if state.fresh {
            self.0.store(Arc::new(State { fresh: false, ..(**state).clone() }));
        }
    }

    /// Fetches what changed.
    pub(super) async fn refresh(&self, server: &ApiServer, remote: &Arc<Remote>) {
        let mut state = (**self.0.load()).clone();
        match discovery_of(server, remote).await {
            Ok(resources) => {
                state.resources = Arc::new(resources);
                state.fresh = true;
            }
            Err(error) => {
                tracing::debug!(name = remote.name, error, "failed to fetch discovery of an aggregated server");
                state.fresh = false;
            }
        }
        // A server without these documents is a server without them; nothing else depends on it.
        match v3_hash_of(server, remote).await {
            Ok(hash) => state.v3_hash = hash,
            Err(error) => tracing::debug!(name = remote.name, error, "no OpenAPI v3"),
        }
        match v2_of(server, remote, state.v2.as_ref().map(|(tag, _)| tag.as_str())).await {
            Ok(Some(found)) => state.v2 = Some(found),
            Ok(None) => {}
            Err(error) => tracing::debug!(name = remote.name, error, "no OpenAPI v2"),
        }
        self.0.store(Arc::new(state));
    }
}

async fn fetch(
    server: &ApiServer,
    remote: &Remote,
    path: &str,
    headers: &[(HeaderName, &str)],
) -> Result<proxy::Got, String> {
    let mut targets = proxy::targets(server, remote, path).await?;
    let target = targets.swap_remove(server.inner.deps.random.next_u64() as usize % targets.len());
    proxy::get(server, &target, headers).await
}

/// Aggregated discovery where the server has it, else its APIResourceList.
async fn discovery_of(server: &ApiServer, remote: &Remote) -> Result<Value, String> {
    let got = fetch(server, remote, "/apis", &[(ACCEPT, AGGREGATED)]).await?;
    let content_type = got.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if got.code == 200 && content_type.contains("as=APIGroupDiscoveryList") {
        let list: Value = serde_json::from_slice(&got.body).map_err(|e| e.to_string())?;
        let found = entry_of(&list, &remote.group, &remote.version);
        return found.ok_or_else(|| format!("it does not list {}/{}", remote.group, remote.version));
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let got = fetch(server, remote, &path, &[(ACCEPT, "application/json")]).await?;
    if got.code != 200 {
        return Err(format!("failed to download legacy discovery for {path}: {}", got.code));
    }
    let list: Value = serde_json::from_slice(&got.body).map_err(|e| e.to_string())?;
    Ok(from_resource_list(&list, &remote.group, &remote.version))
}

fn entry_of(list: &Value, group: &str, version: &str) -> Option<Value> {
    let group = list["items"].as_array()?.iter().find(|g| g["metadata"]["name"] == group)?;
    let version = group["versions"].as_array()?.iter().find(|v| v["version"] == version)?;
    Some(version["resources"].clone())
}

/// `endpoints.ConvertGroupVersionIntoToDiscovery`.
fn from_resource_list(list: &Value, group: &str, version: &str) -> Value {
    let empty = Vec::new();
    let all = list["resources"].as_array().unwrap_or(&empty);
    let text = |r: &Value, key: &str| r[key].as_str().unwrap_or_default().to_owned();
    let kind = |r: &Value| {
        let or = |key: &str, default: &str| Some(text(r, key)).filter(|t| !t.is_empty()).unwrap_or(default.to_owned());
        json!({"group": or("group", group), "version": or("version", version), "kind": text(r, "kind")})
    };
    let mut out: Vec<Value> = Vec::new();
    for r in all.iter().filter(|r| !text(r, "name").contains('/')) {
        let mut entry = json!({
            "resource": r["name"], "responseKind": kind(r), "singularResource": text(r, "singularName"),
            "scope": if r["namespaced"] == true { "Namespaced" } else { "Cluster" }, "verbs": r["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if !r[key].is_null() {
                entry[key] = r[key].clone();
            }
        }
        let prefix = format!("{}/", text(r, "name"));
        let below: Vec<Value> = all
            .iter()
            .filter_map(|s| Some((s, text(s, "name").strip_prefix(&prefix)?.to_owned())))
            .map(|(s, name)| json!({"subresource": name, "responseKind": kind(s), "verbs": s["verbs"]}))
            .collect();
        if !below.is_empty() {
            entry["subresources"] = below.into();
        }
        out.push(entry);
    }
    out.into()
}

async fn v3_hash_of(server: &ApiServer, remote: &Remote) -> Result<Option<String>, String> {
    let got = fetch(server, remote, "/openapi/v3", &[(ACCEPT, "application/json")]).await?;
    if got.code != 200 {
        return Err(format!("status {}", got.code));
    }
    let index: Value = serde_json::from_slice(&got.body).map_err(|e| e.to_string())?;
    let url = index["paths"][format!("apis/{}/{}", remote.group, remote.version)]["serverRelativeURL"].as_str();
    Ok(url.and_then(|u| u.split_once("hash=")).map(|(_, hash)| hash.to_owned()))
}

/// `None` if it has not changed.
async fn v2_of(server: &ApiServer, remote: &Remote, known: Option<&str>) -> Result<Option<(String, Bytes)>, String> {
    let mut headers = vec![(ACCEPT, "application/json")];
    headers.extend(known.map(|tag| (IF_NONE_MATCH, tag)));
    let got = fetch(server, remote, "/openapi/v2", &headers).await?;
    match got.code {
        304 => return Ok(None),
        200 => {}
        code => return Err(format!("status {code}")),
    }
    let tag = got.headers.get(ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if !tag.is_empty() && Some(tag.as_str()) == known {
        return Ok(None);
    }
    let mut document: Value = serde_json::from_slice(&got.body).map_err(|e| e.to_string())?;
    let part = part_of(&mut document, &format!("/apis/{}/{}/", remote.group, remote.version));
    Ok(Some((tag, part.to_string().into())))
}

/// The paths below `prefix` and the definitions they need (`aggregator.FilterSpecByPaths`).
fn part_of(document: &mut Value, prefix: &str) -> Value {
    let take = |value: &mut Value| match value.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let mut paths = take(&mut document["paths"]);
    paths.retain(|path, _| path.starts_with(prefix));
    let mut definitions = take(&mut document["definitions"]);
    let mut needed = Map::new();
    let mut queue = Vec::new();
    paths.values().for_each(|v| references(v, &mut queue));
    while let Some(name) = queue.pop() {
        if let Some(definition) = definitions.remove(&name) {
            references(&definition, &mut queue);
            needed.insert(name, definition);
        }
    }
    json!({"paths": paths, "definitions": needed})
}

const DEFINITION: &str = "#/definitions/";

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(DEFINITION)) {
                found.push(name.to_owned());
            }
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// Adds a server's part to the document of everything. Definitions of one name that differ get another name, as upstream's
/// `MergeSpecsIgnorePathConflictRenamingDefinitionsAndGVKs` does; paths that are there already stay.
pub(crate) fn merge_v2(whole: &mut Value, part: &[u8]) {
    let Ok(mut part) = serde_json::from_slice::<Value>(part) else { return };
    let Value::Object(definitions) = part["definitions"].take() else { return };
    let known = whole["definitions"].as_object().cloned().unwrap_or_default();
    let mut renamed: Map<String, Value> = Map::new();
    for (name, definition) in &definitions {
        if known.get(name).is_none_or(|have| same_definition(have, definition)) {
            continue;
        }
        let free =
            (2..).map(|i| format!("{name}_v{i}")).find(|n| !known.contains_key(n) && !definitions.contains_key(n));
        renamed.insert(name.clone(), free.unwrap_or_default().into());
    }
    for (name, mut definition) in definitions {
        rename(&mut definition, &renamed);
        let name = renamed.get(&name).and_then(Value::as_str).map_or(name, str::to_owned);
        if !known.contains_key(&name) {
            whole["definitions"][name] = definition;
        }
    }
    let Value::Object(paths) = part["paths"].take() else { return };
    for (path, mut value) in paths {
        rename(&mut value, &renamed);
        if whole["paths"][&path].is_null() {
            whole["paths"][path] = value;
        }
    }
}

fn same_definition(a: &Value, b: &Value) -> bool {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    let fields = |v: &Value| v.as_object().into_iter().flatten().filter(|(k, _)| *k != KINDS).count();
    let of = |v: &Value| v.as_object().cloned().unwrap_or_default();
    fields(a) == fields(b) && of(a).iter().filter(|(k, _)| *k != KINDS).all(|(k, v)| b[k] == *v)
}

fn rename(value: &mut Value, renamed: &Map<String, Value>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(name) =
                    reference.strip_prefix(DEFINITION).and_then(|n| renamed.get(n)).and_then(Value::as_str)
            {
                *reference = format!("{DEFINITION}{name}");
            }
            map.values_mut().for_each(|v| rename(v, renamed));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| rename(v, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_discovery_becomes_new() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        let kind = json!({"group": "g", "version": "v1", "kind": "Flunder"});
        let expected = json!([{
            "resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder",
            "verbs": ["get"], "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}],
        }]);
        assert_eq!(from_resource_list(&list, "g", "v1"), expected);
    }

    #[test]
    fn definitions_that_differ_get_another_name() {
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let mut theirs = json!({
            "paths": {"/apis/g/v1/x": {"get": reference("X")}, "/apis/": {}},
            "definitions": {"X": {"properties": {"m": reference("Meta"), "s": reference("Same")}}, "Meta": {"a": 1}, "Same": {"b": 1}, "Unused": {}},
        });
        let part = part_of(&mut theirs, "/apis/g/v1/").to_string();
        assert!(!part.contains("Unused"));
        let mut whole = json!({"paths": {}, "definitions": {"Meta": {"a": 2}, "Same": {"b": 1}}});
        merge_v2(&mut whole, part.as_bytes());
        assert_eq!(whole["definitions"]["Meta_v2"], json!({"a": 1}));
        assert_eq!(whole["definitions"]["X"]["properties"], json!({"m": reference("Meta_v2"), "s": reference("Same")}));
        assert_eq!(whole["paths"], json!({"/apis/g/v1/x": {"get": reference("X")}}));
    }
}
