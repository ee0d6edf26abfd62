//! Requests for kinds that are known only at run time: discovery, metadata of any resource, deletion of collections.
//!
//! Thin: builds a request, sends it through [`Client::send`], takes the answer apart. Decides nothing.

use api::{ObjectMeta, Status};
use bytes::Bytes;
use client::{Body, Client, ClientError, Lines, collect};
use http::{Method, Request, Response, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

const JSON: &str = "application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// What stands as it is in a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// A served resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    /// As in URLs.
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Resource {
    /// `v1` or `group/version`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The collection, or one object of it.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = if self.group.is_empty() { "/api/".to_owned() } else { format!("/apis/{}/", self.group) };
        path.push_str(&self.version);
        let mut push = |part: &str| {
            path.push('/');
            path.extend(utf8_percent_encode(part, SEGMENT));
        };
        if self.namespaced && !namespace.is_empty() {
            push("namespaces");
            push(namespace);
        }
        push(&self.plural);
        if !name.is_empty() {
            push(name);
        }
        path
    }

    pub(crate) fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

// === discovery ===

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Served>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Served {
    resource: String,
    #[serde(default)]
    response_kind: Option<ServedKind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct ServedKind {
    #[serde(default)]
    kind: String,
}

/// Every served resource once, in the version its group prefers.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Resource>, ClientError> {
    let mut all: Vec<Resource> = Vec::new();
    for root in ["/api", "/apis"] {
        let bytes = call(client, Method::GET, root, DISCOVERY, None).await?;
        let list: GroupList = serde_json::from_slice(&bytes)
            .map_err(|e| ClientError::Malformed(format!("aggregated discovery at {root}: {e}")))?;
        for group in list.items {
            for version in group.versions {
                for served in version.resources {
                    let known = all.iter().any(|r| r.group == group.metadata.name && r.plural == served.resource);
                    if !known {
                        all.push(Resource {
                            group: group.metadata.name.clone(),
                            version: version.version.clone(),
                            kind: served.response_kind.map(|k| k.kind).unwrap_or_default(),
                            plural: served.resource,
                            namespaced: served.scope == "Namespaced",
                            verbs: served.verbs,
                        });
                    }
                }
            }
        }
    }
    Ok(all)
}

// === metadata ===

#[derive(Deserialize)]
struct PartialList<'a> {
    #[serde(default)]
    metadata: PartialListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PartialListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// The metadata of all objects (of a namespace, or `""` for all), and the revision of that state.
pub(crate) async fn list(
    client: &Client,
    resource: &Resource,
    namespace: &str,
) -> Result<(Vec<ObjectMeta>, String), ClientError> {
    let mut items = Vec::new();
    let mut next = String::new();
    loop {
        let mut path = format!("{}?limit=500", resource.path(namespace, ""));
        if !next.is_empty() {
            path.push_str("&continue=");
            path.extend(utf8_percent_encode(&next, SEGMENT));
        }
        let bytes = call(client, Method::GET, &path, PARTIAL_LIST, None).await?;
        let malformed = |e| ClientError::Malformed(format!("metadata of {}: {e}", resource.plural));
        let list: PartialList<'_> = serde_json::from_slice(&bytes).map_err(malformed)?;
        for item in list.items.unwrap_or_default() {
            items.push(client::metadata_of(item.get().as_bytes()).map_err(malformed)?);
        }
        if list.metadata.next.is_empty() {
            return Ok((items, list.metadata.resource_version));
        }
        next = list.metadata.next;
    }
}

/// The metadata of one object; `None` if there is none.
pub(crate) async fn find(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Option<ObjectMeta>, ClientError> {
    let bytes = match call(client, Method::GET, &resource.path(namespace, name), PARTIAL, None).await {
        Ok(bytes) => bytes,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = client::metadata_of(&bytes)
        .map_err(|e| ClientError::Malformed(format!("metadata of {} {name}: {e}", resource.plural)))?;
    Ok(Some(meta))
}

/// What a metadata watch tells.
pub(crate) enum MetaEvent {
    /// It is there, in this state.
    Present(Box<ObjectMeta>),
    /// It is gone; its last state.
    Gone(Box<ObjectMeta>),
    /// Everything up to this revision was told.
    Bookmark(String),
}

/// A watch over the metadata of a resource.
pub(crate) struct MetaWatch(Lines);

impl MetaWatch {
    /// Events after `revision`.
    pub(crate) async fn start(client: &Client, resource: &Resource, revision: &str) -> Result<Self, ClientError> {
        let path = format!("{}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}", resource.path("", ""));
        let response = respond(client, Method::GET, &path, PARTIAL, None).await?;
        Ok(MetaWatch(Lines::new(response.into_body())))
    }

    /// The next event; `None` when the server ended the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<MetaEvent>, ClientError> {
        match self.0.next().await? {
            Some(line) => meta_event(&line).map(Some),
            None => Ok(None),
        }
    }
}

fn meta_event(line: &[u8]) -> Result<MetaEvent, ClientError> {
    let malformed = |e: serde_json::Error| ClientError::Malformed(format!("metadata watch: {e}"));
    let (kind, object) = client::event_of(line).map_err(malformed)?;
    if kind == "ERROR" {
        let status: Status = serde_json::from_slice(object).map_err(malformed)?;
        return Err(ClientError::Status(Box::new(status)));
    }
    let meta = Box::new(client::metadata_of(object).map_err(malformed)?);
    match kind {
        "ADDED" | "MODIFIED" => Ok(MetaEvent::Present(meta)),
        "DELETED" => Ok(MetaEvent::Gone(meta)),
        "BOOKMARK" => Ok(MetaEvent::Bookmark(meta.resource_version.unwrap_or_default())),
        other => Err(ClientError::Malformed(format!("metadata watch: unknown event type {other:?}"))),
    }
}

// === changes ===

/// Deletes everything in a collection, dependents in the background.
pub(crate) async fn delete_collection(
    client: &Client,
    resource: &Resource,
    namespace: &str,
) -> Result<(), ClientError> {
    let body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let body = Some((JSON, body.to_string().into_bytes()));
    call(client, Method::DELETE, &resource.path(namespace, ""), JSON, body).await.map(drop)
}

/// Deletes one object with these `DeleteOptions`.
pub(crate) async fn delete(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
    options: &serde_json::Value,
) -> Result<(), ClientError> {
    let body = Some((JSON, options.to_string().into_bytes()));
    call(client, Method::DELETE, &resource.path(namespace, name), JSON, body).await.map(drop)
}

/// Merge-patches one object.
pub(crate) async fn merge_patch(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
    patch: &serde_json::Value,
) -> Result<(), ClientError> {
    let body = Some(("application/merge-patch+json", patch.to_string().into_bytes()));
    call(client, Method::PATCH, &resource.path(namespace, name), PARTIAL, body).await.map(drop)
}

/// Any request; a refusal becomes an error.
pub(crate) async fn call(
    client: &Client,
    method: Method,
    path: &str,
    accept: &str,
    body: Option<(&str, Vec<u8>)>,
) -> Result<Bytes, ClientError> {
    Ok(collect(respond(client, method, path, accept, body).await?.into_body()).await?)
}

async fn respond(
    client: &Client,
    method: Method,
    path: &str,
    accept: &str,
    body: Option<(&str, Vec<u8>)>,
) -> Result<Response<Body>, ClientError> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, accept)
        .header(header::USER_AGENT, client.user_agent());
    let bytes = match body {
        Some((content_type, bytes)) => {
            request = request.header(header::CONTENT_TYPE, content_type);
            bytes
        }
        None => Vec::new(),
    };
    let request = request.body(Bytes::from(bytes)).map_err(|e| ClientError::Malformed(e.to_string()))?;
    let response = client.send(request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let bytes = collect(response.into_body()).await?;
    let mut status: Status = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Status::failure(code, "", String::from_utf8_lossy(&bytes).into_owned()));
    if status.code == 0 {
        status.code = code;
    }
    Err(ClientError::Status(Box::new(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_core_and_groups() {
        let resource = |group: &str, namespaced| Resource {
            group: group.into(),
            version: "v1".into(),
            kind: "X".into(),
            plural: "xs".into(),
            namespaced,
            verbs: Vec::new(),
        };
        assert_eq!(resource("", true).path("ns", "a"), "/api/v1/namespaces/ns/xs/a");
        assert_eq!(resource("g.io", false).path("", "system:a b"), "/apis/g.io/v1/xs/system:a%20b");
        assert_eq!(resource("g.io", true).path("", ""), "/apis/g.io/v1/xs");
    }
}
