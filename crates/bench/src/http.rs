//! One client for any Kubernetes: a kubeconfig, eight HTTP/2 connections, every answer with its status.

use crate::fail::{Fail, Result, check, io, refused, wrong};
use base64::Engine;
use bytes::Bytes;
use client::{Body, HttpTransport, TlsIdentity, Transport};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections of the load generator (PERFORMANCE §4.0, rule 3).
pub(crate) const CONNECTIONS: usize = 8;
/// Where the server is worked on.
pub(crate) const JSON: &str = "application/json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const MERGE: &str = "application/merge-patch+json";

/// Eight connections to one API server.
pub(crate) struct Pool {
    connections: Vec<HttpTransport>,
    kubeconfig: PathBuf,
    /// Sent with every request.
    headers: HeaderMap,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From sending to the first byte of the body.
    pub(crate) first_byte: Duration,
}

impl Pool {
    /// Reads the current context of a kubeconfig.
    pub(crate) fn open(kubeconfig: &Path) -> Result<Pool> {
        let text = std::fs::read_to_string(kubeconfig).map_err(io(format!("read {}", kubeconfig.display())))?;
        let config: Value =
            serde_saphyr::from_str(&text).map_err(refused(format!("parse {}", kubeconfig.display())))?;
        let context = named(&config, "contexts", config["current-context"].as_str().unwrap_or_default())?;
        let cluster = named(&config, "clusters", context["context"]["cluster"].as_str().unwrap_or_default())?;
        let user = named(&config, "users", context["context"]["user"].as_str().unwrap_or_default())?;
        let ca = material(&cluster["cluster"], "certificate-authority")?;
        let identity = || -> Result<TlsIdentity> {
            match user["user"]["token"].as_str() {
                Some(token) => Ok(TlsIdentity::Token(token.to_owned())),
                None => Ok(TlsIdentity::Certificate {
                    cert_pem: material(&user["user"], "client-certificate")?,
                    key_pem: material(&user["user"], "client-key")?,
                }),
            }
        };
        let server = cluster["cluster"]["server"].as_str().unwrap_or_default();
        let connect = |_| HttpTransport::new(server, &ca, identity()?).map_err(refused(format!("use server {server}")));
        let connections = (0..CONNECTIONS).map(connect).collect::<Result<_>>()?;
        Ok(Pool { connections, kubeconfig: kubeconfig.into(), headers: HeaderMap::new() })
    }

    /// Connections of its own to the same server.
    pub(crate) fn another(&self) -> Result<Pool> {
        Pool::open(&self.kubeconfig)
    }

    /// The same, as somebody else.
    pub(crate) fn impersonating(&self, user: &str, group: &str) -> Result<Pool> {
        let mut pool = self.another()?;
        for (name, value) in [("impersonate-user", user), ("impersonate-group", group)] {
            pool.headers.insert(name, HeaderValue::from_str(value).map_err(refused(format!("be {user}")))?);
        }
        Ok(pool)
    }

    /// Sends; returns when the head of the answer is there.
    pub(crate) async fn send(
        &self,
        worker: usize,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<http::Response<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", JSON)
            .header("content-type", kind)
            .header("user-agent", "bench/1")
            .body(body)
            .map_err(refused(format!("make a request of {path}")))?;
        request.headers_mut().extend(self.headers.clone());
        let connection = &self.connections[worker % self.connections.len()];
        connection.send(request).await.map_err(refused(format!("ask for {path}")))
    }

    /// Sends and reads the whole answer.
    pub(crate) async fn call(
        &self,
        worker: usize,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Answer> {
        let start = Instant::now();
        let response = self.send(worker, method, path, kind, body).await?;
        let (head, mut stream) = response.into_parts();
        let (mut first_byte, mut chunks, mut size) = (None, Vec::new(), 0);
        while let Some(frame) = stream.frame().await {
            let frame =
                frame.map_err(|e| Fail::Refused { what: format!("read the answer to {path}"), why: e.to_string() })?;
            first_byte.get_or_insert_with(|| start.elapsed());
            if let Ok(data) = frame.into_data() {
                size += data.len();
                chunks.push(data);
            }
        }
        let body = match <[Bytes; 1]>::try_from(chunks) {
            Ok([one]) => one,
            Err(many) => {
                let mut whole = Vec::with_capacity(size);
                many.iter().for_each(|c| whole.extend_from_slice(c));
                whole.into()
            }
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            first_byte: first_byte.unwrap_or_else(|| start.elapsed()),
        })
    }

    /// Reads one object or list; anything but 200 is a wrong answer.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.call(0, Method::GET, path, JSON, Bytes::new()).await?.object(path, StatusCode::OK)
    }

    /// Creates an object; that it is there already is fine.
    pub(crate) async fn ensure(&self, path: &str, object: &Value) -> Result<()> {
        let answer = self.call(0, Method::POST, path, JSON, object.to_string().into()).await?;
        let fine = [StatusCode::CREATED, StatusCode::CONFLICT].contains(&answer.status);
        check(fine, path, || answer.text())
    }

    /// A namespace with the service account that admission wants, where no controller makes it.
    pub(crate) async fn make_namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.ensure("/api/v1/namespaces", &namespace).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.ensure(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await
    }

    /// Deletes an object or collection; that it is gone already is fine.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let body = Bytes::from_static(br#"{"propagationPolicy":"Background"}"#);
        let answer = self.call(0, Method::DELETE, path, JSON, body).await?;
        let fine = answer.status.is_success() || answer.status == StatusCode::NOT_FOUND;
        check(fine, path, || answer.text())
    }
}

impl Answer {
    /// The body as JSON if the status is `expected`.
    pub(crate) fn object(&self, what: &str, expected: StatusCode) -> Result<Value> {
        check(self.status == expected, what, || self.text())?;
        serde_json::from_slice(&self.body).map_err(|e| wrong(what, e))
    }

    /// The resource version of the object if the status is `expected`, without building the object.
    pub(crate) fn revision(&self, what: &str, expected: StatusCode) -> Result<u64> {
        check(self.status == expected, what, || self.text())?;
        let head: Head = serde_json::from_slice(&self.body).map_err(|e| wrong(what, e))?;
        head.metadata.resource_version.parse().map_err(|e| wrong(what, e))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!("{}: {}", self.status, body.chars().take(400).collect::<String>())
    }
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    resource_version: String,
}

/// The resource version of an object or list.
pub(crate) fn revision(object: &Value, what: &str) -> Result<u64> {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    text.parse().map_err(|_| wrong(what, format!("resourceVersion {text:?} is no number")))
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Result<&'a Value> {
    let found = config[list].as_array().and_then(|items| items.iter().find(|i| i["name"] == name));
    found.ok_or_else(|| Fail::Refused {
        what: "use the kubeconfig".into(),
        why: format!("it has no {name:?} in {list}"),
    })
}

/// `field-data`, or the file that `field` names.
fn material(from: &Value, field: &str) -> Result<Vec<u8>> {
    if let Some(data) = from[format!("{field}-data")].as_str() {
        return base64::engine::general_purpose::STANDARD.decode(data).map_err(refused(format!("decode {field}-data")));
    }
    let Some(path) = from[field].as_str() else {
        let why = format!("it has neither {field} nor {field}-data");
        return Err(Fail::Refused { what: "use the kubeconfig".into(), why });
    };
    std::fs::read(path).map_err(io(format!("read {path}")))
}
