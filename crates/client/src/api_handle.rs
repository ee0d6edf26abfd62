//! [`Api`]: typed requests for one kind. Building a request is pure (`url`, `query`); sending is one function.

use crate::{Body, Client, ClientError, DeleteParams, ListParams, Patch, Propagation, Watcher, collect};
use api::{Object, Status};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::marker::PhantomData;

/// Requests for one kind. Cheap to clone. The namespace is given per call; `""` for cluster-scoped kinds.
pub struct Api<K> {
    client: Client,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Api { client: self.client.clone(), kind: PhantomData }
    }
}

#[derive(Deserialize)]
struct ListBody<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// Page size of full lists: bounds the memory of one answer.
const PAGE: usize = 500;

impl<K: Object> Api<K> {
    pub(crate) fn new(client: Client) -> Self {
        Api { client, kind: PhantomData }
    }

    /// One object.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<K, ClientError> {
        self.object(Method::GET, url::<K>(namespace, name, ""), &[], None, Vec::new()).await
    }

    /// One object, or `None` if there is none.
    pub async fn find(&self, namespace: &str, name: &str) -> Result<Option<K>, ClientError> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All objects that match, and the revision of that state.
    pub async fn list(&self, params: &ListParams) -> Result<(Vec<K>, String), ClientError> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let mut query = selectors(params);
            query.push(("limit", PAGE.to_string()));
            if !token.is_empty() {
                query.push(("continue", token));
            }
            let path = url::<K>(params.namespace.as_deref().unwrap_or_default(), "", "");
            let bytes = self.bytes(Method::GET, path, &query, None, Vec::new()).await?;
            let body: ListBody<'_> = serde_json::from_slice(&bytes)
                .map_err(|e| ClientError::Malformed(format!("list of {}: {e}", K::PLURAL)))?;
            for item in body.items.unwrap_or_default() {
                items.push(crate::watch::without_owners(item.get().as_bytes())?);
            }
            if body.metadata.next.is_empty() {
                return Ok((items, body.metadata.resource_version));
            }
            token = body.metadata.next;
        }
    }

    /// Creates; returns what is stored.
    pub async fn create(&self, object: &K) -> Result<K, ClientError> {
        let path = url::<K>(namespace_of(object), "", "");
        self.object(Method::POST, path, &self.manager(), Some("application/json"), object.encode()).await
    }

    /// Replaces; fails with a conflict if `resourceVersion` is not the newest.
    pub async fn update(&self, object: &K) -> Result<K, ClientError> {
        self.put(object, "").await
    }

    /// Replaces the status subresource.
    pub async fn update_status(&self, object: &K) -> Result<K, ClientError> {
        self.put(object, "status").await
    }

    /// Replaces another subresource that has the object's own kind (`approval`).
    pub async fn update_subresource(&self, object: &K, subresource: &str) -> Result<K, ClientError> {
        self.put(object, subresource).await
    }

    async fn put(&self, object: &K, subresource: &str) -> Result<K, ClientError> {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let path = url::<K>(namespace_of(object), name, subresource);
        self.object(Method::PUT, path, &self.manager(), Some("application/json"), object.encode()).await
    }

    /// Changes an object, or one of its subresources (`subresource` = `""` for the object itself).
    pub async fn patch(&self, namespace: &str, name: &str, subresource: &str, patch: &Patch) -> Result<K, ClientError> {
        let mut query = self.manager();
        if let Patch::Apply { force: true, .. } = patch {
            query.push(("force", "true".into()));
        }
        let path = url::<K>(namespace, name, subresource);
        self.object(Method::PATCH, path, &query, Some(patch.content_type()), patch.body()).await
    }

    /// Deletes (or begins to).
    pub async fn delete(&self, namespace: &str, name: &str, params: &DeleteParams) -> Result<(), ClientError> {
        let body = delete_options(params);
        self.bytes(Method::DELETE, url::<K>(namespace, name, ""), &[], Some("application/json"), body).await.map(drop)
    }

    /// Deletes all that match.
    pub async fn delete_collection(&self, params: &ListParams) -> Result<(), ClientError> {
        let path = url::<K>(params.namespace.as_deref().unwrap_or_default(), "", "");
        let body = delete_options(&DeleteParams::default());
        self.bytes(Method::DELETE, path, &selectors(params), Some("application/json"), body).await.map(drop)
    }

    /// POSTs a body of another kind to a subresource (`binding`, `eviction`, `token`) and decodes the answer as `A`.
    pub async fn post_subresource<A: api::Codec>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: Vec<u8>,
    ) -> Result<A, ClientError> {
        let path = url::<K>(namespace, name, subresource);
        let bytes = self.bytes(Method::POST, path, &self.manager(), Some("application/json"), body).await?;
        Ok(A::decode(&bytes)?)
    }

    /// Events after `revision`, with bookmarks.
    pub async fn watch(&self, params: &ListParams, revision: &str) -> Result<Watcher<K>, ClientError> {
        let mut query = selectors(params);
        query.push(("watch", "true".into()));
        query.push(("allowWatchBookmarks", "true".into()));
        query.push(("resourceVersion", revision.to_owned()));
        let path = url::<K>(params.namespace.as_deref().unwrap_or_default(), "", "");
        let response = self.respond(Method::GET, path, &query, None, Vec::new()).await?;
        Ok(Watcher::new(response.into_body()))
    }

    fn manager(&self) -> Vec<(&'static str, String)> {
        vec![("fieldManager", self.client.user_agent().to_owned())]
    }

    async fn object(
        &self,
        method: Method,
        path: String,
        query: &[(&str, String)],
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<K, ClientError> {
        Ok(K::decode(&self.bytes(method, path, query, content_type, body).await?)?)
    }

    async fn bytes(
        &self,
        method: Method,
        path: String,
        query: &[(&str, String)],
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Bytes, ClientError> {
        Ok(collect(self.respond(method, path, query, content_type, body).await?.into_body()).await?)
    }

    async fn respond(
        &self,
        method: Method,
        path: String,
        query: &[(&str, String)],
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Response<Body>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(with_query(path, query))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, self.client.user_agent());
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Bytes::from(body)).map_err(|e| ClientError::Malformed(e.to_string()))?;
        let response = self.client.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(failure(response).await) }
    }
}

/// Turns a refusal into an error; a body that is no Status becomes its text, or what the code says.
async fn failure(response: Response<Body>) -> ClientError {
    let code = response.status().as_u16();
    let bytes = match collect(response.into_body()).await {
        Ok(bytes) => bytes,
        Err(e) => return e.into(),
    };
    let mut status: Status = serde_json::from_slice(&bytes).unwrap_or_else(|_| match code {
        // Groups that nobody serves are pages that are not there (`NewGenericServerResponse`).
        404 => Status::failure(404, "NotFound", "the server could not find the requested resource"),
        code => Status::failure(code, "", String::from_utf8_lossy(&bytes).into_owned()),
    });
    if status.code == 0 {
        status.code = code;
    }
    ClientError::Status(Box::new(status))
}

fn namespace_of<K: Object>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// `/api/v1/namespaces/ns/pods/name/sub`; empty parts are left out.
fn url<K: Object>(namespace: &str, name: &str, subresource: &str) -> String {
    let mut path =
        if K::GROUP.is_empty() { format!("/api/{}", K::VERSION) } else { format!("/apis/{}/{}", K::GROUP, K::VERSION) };
    let mut push = |part: &str| {
        if !part.is_empty() {
            path.push('/');
            path.extend(url::form_urlencoded::byte_serialize(part.as_bytes()));
        }
    };
    if K::NAMESPACED && !namespace.is_empty() {
        push("namespaces");
        push(namespace);
    }
    push(K::PLURAL);
    push(name);
    push(subresource);
    path
}

fn selectors(params: &ListParams) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    if let Some(selector) = &params.label_selector {
        query.push(("labelSelector", selector.clone()));
    }
    if let Some(selector) = &params.field_selector {
        query.push(("fieldSelector", selector.clone()));
    }
    query
}

fn with_query(mut path: String, query: &[(&str, String)]) -> String {
    if !query.is_empty() {
        let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        path.push('?');
        path.push_str(&text);
    }
    path
}

fn delete_options(params: &DeleteParams) -> Vec<u8> {
    let mut body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if let Some(seconds) = params.grace_period_seconds {
        body["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(uid) = &params.uid {
        body["preconditions"]["uid"] = uid.as_str().into();
    }
    if let Some(revision) = &params.resource_version {
        body["preconditions"]["resourceVersion"] = revision.as_str().into();
    }
    if let Some(propagation) = params.propagation {
        body["propagationPolicy"] = match propagation {
            Propagation::Orphan => "Orphan",
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
        }
        .into();
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::prelude::*;

    #[test]
    fn urls() {
        assert_eq!(url::<Pod>("default", "web", "status"), "/api/v1/namespaces/default/pods/web/status");
        assert_eq!(url::<Pod>("", "", ""), "/api/v1/pods");
        assert_eq!(url::<Node>("", "n1", ""), "/api/v1/nodes/n1");
        assert_eq!(url::<Deployment>("a", "", ""), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(
            with_query("/x".into(), &[("labelSelector", "a=b,c".into()), ("limit", "5".into())]),
            "/x?labelSelector=a%3Db%2Cc&limit=5"
        );
    }
}
