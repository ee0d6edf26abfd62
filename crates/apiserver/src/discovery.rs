//! Discovery, derived from the table of kinds: plain (`/api`, `/apis`, group, version) and aggregated v2.

use crate::aggregate::GroupVersion;
use crate::api_server::{ApiServer, Call};
use crate::negotiate::{self, accepted};
use crate::reader::KindRef;
use crate::response::{Answer, no_such_page, plain};
use crate::{node_metrics, status};
use api::Status;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use machinery::accept::Accepted;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// `metav1.APIResource`, its members in upstream's order: there are scripts that read them as text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    name: String,
    singular_name: &'a str,
    namespaced: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    kind: &'a str,
    verbs: Vec<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'a [Cow<'static, str>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'a [Cow<'static, str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

/// `metav1.APIResourceList`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceList<'a> {
    kind: &'static str,
    /// Upstream's list of the oldest group does not say its own version.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    group_version: String,
    resources: Vec<Resource<'a>>,
}

/// `metav1.APIGroup`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    name: &'a str,
    versions: Vec<Version<'a>>,
    preferred_version: Version<'a>,
}

/// `metav1.GroupVersionForDiscovery`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    group_version: String,
    version: &'a str,
}

/// `metav1.APIGroupList`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupList<'a> {
    kind: &'static str,
    api_version: &'static str,
    groups: Vec<Group<'a>>,
}

/// Groups with their versions in order of preference, without core.
pub(crate) fn groups(server: &ApiServer) -> Vec<(String, Vec<GroupVersion>)> {
    let kinds = server.inner.kinds.load();
    let local = kinds.published().map(|k| (k.info().group.as_ref(), k.info().version.as_ref()));
    server.inner.aggregation.groups(local.chain([(node_metrics::GROUP, node_metrics::VERSION)]))
}

/// `/api…` and `/apis…`.
pub(crate) fn answer(server: &ApiServer, call: &Call, path: &str) -> Result<Answer, Status> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if let ["api"] | ["apis"] = parts.as_slice()
        && wants_aggregated(call)
    {
        return Ok(aggregated(server, call, parts[0] == "api"));
    }
    refuse_other_forms(call)?;
    let text = match parts.as_slice() {
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host(call)}],
        })
        .to_string(),
        ["apis"] => {
            let groups = groups(server);
            let groups = groups.iter().filter_map(|(name, versions)| group(name, versions)).collect();
            json(&GroupList { kind: "APIGroupList", api_version: "v1", groups })?
        }
        ["api", "v1"] => resources(server, "", "v1")?,
        ["apis", name] => {
            let Some((name, versions)) = groups(server).into_iter().find(|(g, _)| g == name) else {
                return Ok(no_such_page());
            };
            let Some(group) = group(&name, &versions) else { return Ok(no_such_page()) };
            json(&Group { kind: Some("APIGroup"), api_version: Some("v1"), ..group })?
        }
        ["apis", group, version] if is_group(server, group) => resources(server, group, version)?,
        ["apis", ..] => return Ok(no_such_page()),
        _ => return Err(status::no_such_path()),
    };
    Ok(Answer::json(text))
}

fn json(value: &impl Serialize) -> Result<String, Status> {
    serde_json::to_string(value).map_err(|e| status::internal(&e))
}

fn host(call: &Call) -> String {
    let header = call.head.headers.get(http::header::HOST).and_then(|v| v.to_str().ok());
    header.or(call.head.uri.authority().map(|a| a.as_str())).unwrap_or_default().to_owned()
}

/// A group that has versions.
fn group<'a>(name: &'a str, versions: &'a [GroupVersion]) -> Option<Group<'a>> {
    let version = |v: &'a GroupVersion| Version { group_version: format!("{name}/{}", v.version), version: &v.version };
    let preferred_version = version(versions.first()?);
    let versions = versions.iter().map(version).collect();
    Some(Group { kind: None, api_version: None, name, versions, preferred_version })
}

fn resources(server: &ApiServer, group: &str, version: &str) -> Result<String, Status> {
    let table = server.inner.kinds.load();
    let of = |k: &&KindRef| k.info().group == group && k.info().version == version;
    let mut resources: Vec<Resource<'_>> = table.published().filter(of).flat_map(resource).collect();
    if (group, version) == (node_metrics::GROUP, node_metrics::VERSION) {
        resources.extend(node_metrics::RESOURCES.map(|(plural, kind, namespaced)| Resource {
            verbs: node_metrics::VERBS.to_vec(),
            ..Resource::new(plural.to_owned(), kind, namespaced)
        }));
    }
    if resources.is_empty() {
        return Err(status::no_such_path());
    }
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let api_version = (!group.is_empty()).then_some("v1");
    json(&ResourceList { kind: "APIResourceList", api_version, group_version, resources })
}

/// What may be asked of a resource: of one whose definition is being deleted, nothing that makes or changes objects.
fn verbs(kind: &KindRef) -> Vec<&str> {
    let changes = ["create", "patch", "update"];
    let all = kind.info().verbs.iter().map(AsRef::as_ref);
    match kind {
        KindRef::Custom(custom) if custom.terminating => all.filter(|v| !changes.contains(v)).collect(),
        _ => all.collect(),
    }
}

/// The group and version in which upstream stores objects (`pkg/kubeapiserver/default_storage_factory_builder.go`): clients compare
/// hashes of them.
fn storage_version(kind: &KindRef) -> (&str, &str) {
    let info = kind.info();
    match (kind, info.kind.as_ref()) {
        (KindRef::Custom(custom), _) => (&info.group, &custom.definition.storage_version),
        (_, "Event") => ("", "v1"),
        (_, "CustomResourceDefinition" | "MutatingAdmissionPolicy" | "MutatingAdmissionPolicyBinding") => {
            (&info.group, "v1beta1")
        }
        _ => (&info.group, &info.version),
    }
}

impl<'a> Resource<'a> {
    /// One of which nothing may be asked yet.
    fn new(name: String, kind: &'a str, namespaced: bool) -> Self {
        Resource {
            name,
            singular_name: "",
            namespaced,
            group: "",
            version: "",
            kind,
            verbs: Vec::new(),
            short_names: &[],
            categories: &[],
            storage_version_hash: None,
        }
    }
}

/// A kind's resource and its subresources.
fn resource<'a>(kind: &'a KindRef) -> Vec<Resource<'a>> {
    let info = kind.info();
    let hash = info.verbs.iter().any(|verb| verb == "watch").then(|| {
        let (group, version) = storage_version(kind);
        storage_version_hash(group, version, &info.kind)
    });
    let main = Resource {
        singular_name: &info.singular,
        verbs: verbs(kind),
        short_names: &info.short_names,
        categories: &info.categories,
        storage_version_hash: hash,
        ..Resource::new(info.plural.to_string(), &info.kind, info.namespaced)
    };
    let subresource = |sub: &'a machinery::kinds::Subresource| Resource {
        group: &sub.group,
        version: &sub.version,
        verbs: sub.verbs.iter().map(AsRef::as_ref).collect(),
        ..Resource::new(format!("{}/{}", info.plural, sub.name), &sub.kind, info.namespaced)
    };
    std::iter::once(main).chain(info.subresources.iter().map(subresource)).collect()
}

/// `discovery.StorageVersionHash`: base64 of the first eight bytes of a SHA-256 of `group/version/kind`.
fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    use base64::Engine;
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// Whether a group is served, here or by another server.
pub(crate) fn is_group(server: &ApiServer, group: &str) -> bool {
    groups(server).iter().any(|(known, _)| known == group)
}

/// Discovery is no object that could be a table.
fn refuse_other_forms(call: &Call) -> Result<(), Status> {
    let clauses = accepted(&call.head.headers);
    negotiate::restful(&clauses, negotiate::served())?;
    let is_plain = |clause: &Accepted<'_>| clause.param("as").is_empty();
    if clauses.is_empty() || clauses.iter().any(is_plain) { Ok(()) } else { Err(negotiate::refusal()) }
}

/// Whether a client asks for everything at once before it asks for less. There is one version of that, v2.
fn wants_aggregated(call: &Call) -> bool {
    for clause in accepted(&call.head.headers) {
        if clause.param("g") == "apidiscovery.k8s.io" && clause.param("as") == "APIGroupDiscoveryList" {
            if clause.param("v") == "v2" {
                return true;
            }
        } else if clause.media == "application/json" && clause.param("as").is_empty() {
            return false;
        }
    }
    false
}

fn aggregated(server: &ApiServer, call: &Call, core: bool) -> Answer {
    let table = server.inner.kinds.load();
    let wanted = if core {
        vec![(String::new(), vec![GroupVersion { version: "v1".to_owned(), remote: None }])]
    } else {
        groups(server)
    };
    let items: Vec<Value> = wanted
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|GroupVersion { version, remote }| {
                    if let Some(remote) = remote {
                        return remote.documents.discovery(version);
                    }
                    let of = |k: &&KindRef| k.info().group == *group && k.info().version == *version;
                    let mut list: Vec<Value> = table.published().filter(of).map(aggregated_resource).collect();
                    if (group.as_str(), version.as_str()) == (node_metrics::GROUP, node_metrics::VERSION) {
                        list.extend(node_metrics::RESOURCES.map(|(plural, kind, namespaced)| {
                            json!({
                                "resource": plural, "singularResource": "", "verbs": node_metrics::VERBS,
                                "responseKind": {"group": group, "version": version, "kind": kind},
                                "scope": if namespaced { "Namespaced" } else { "Cluster" },
                            })
                        }));
                    }
                    list.sort_by_key(|r| r["resource"].as_str().unwrap_or_default().to_owned());
                    json!({"version": version, "resources": list, "freshness": "Current"})
                })
                .collect();
            let mut meta = json!({});
            if !group.is_empty() {
                meta["name"] = group.as_str().into();
            }
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
    .to_string();
    with_etag(call, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", body.into_bytes())
}

fn aggregated_resource(kind: &KindRef) -> Value {
    let info = kind.info();
    // Empty means the list's own; custom resources say it all the same.
    let own = match kind {
        KindRef::BuiltIn(_) => ("", ""),
        KindRef::Custom(_) => (&*info.group, &*info.version),
    };
    let response = |kind: &str, group: &str, version: &str| json!({"group": group, "version": version, "kind": kind});
    let mut value = json!({
        "resource": info.plural, "responseKind": response(&info.kind, own.0, own.1),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": info.singular,
        "verbs": verbs(kind),
    });
    if !info.short_names.is_empty() {
        value["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        value["categories"] = json!(info.categories);
    }
    let subresource = |sub: &machinery::kinds::Subresource| {
        let (group, version) = if sub.version.is_empty() { own } else { (&*sub.group, &*sub.version) };
        json!({"subresource": sub.name, "responseKind": response(&sub.kind, group, version), "verbs": sub.verbs})
    };
    if !info.subresources.is_empty() {
        value["subresources"] = info.subresources.iter().map(subresource).collect();
    }
    value
}

/// A document with an ETag; 304 if the client has it.
pub(crate) fn with_etag(call: &Call, content_type: &'static str, body: Vec<u8>) -> Answer {
    let hash = Sha256::digest(&body);
    let tag = format!("\"{}\"", hash.iter().map(|b| format!("{b:02X}")).collect::<String>());
    let known = call.head.headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let unchanged = known.flat_map(|v| v.split(',')).any(|v| v.trim() == tag);
    let mut response = match unchanged {
        true => plain(304, content_type, bytes::Bytes::new()),
        false => plain(200, content_type, body.into()),
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Answer::Raw(response)
}
