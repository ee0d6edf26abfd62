//! Who asks, and whether they may: certificate or token, then `nodes/<subresource>`.
//!
//! Deciding what to ask is pure ([`attributes`]); asking is [`NodeAuth`]. Follows `pkg/kubelet/server/auth.go`. Members of
//! `system:masters` are not asked about, so the node can be looked into while its API server is away.

use super::NodeApi;
use async_trait::async_trait;
use http::{HeaderMap, Method, header};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use streaming::Refusal;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User {
    /// User name.
    pub name: String,
    /// Unique id, if known.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More that authorizers may want.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is asked: `verb` on `nodes/<subresource>` of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// `get`, `create` …
    pub verb: &'static str,
    /// The node.
    pub node: String,
    /// `proxy`, `log`, `stats`, `metrics`, `pods` …
    pub subresource: &'static str,
}

/// The API server did not say.
#[derive(Debug, Error)]
pub enum AuthError {
    /// A token could not be checked.
    #[error("failed to review a token: {0}")]
    Authenticate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A right could not be checked.
    #[error("failed to review access: {0}")]
    Authorize(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The API server's judgement.
#[async_trait]
pub trait NodeAuth: Send + Sync {
    /// Whose token this is (TokenReview); `None`: nobody's.
    async fn authenticate(&self, token: &str) -> Result<Option<User>, AuthError>;
    /// Whether they may (SubjectAccessReview).
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<bool, AuthError>;
}

/// The user that a verified client certificate names (`apiserver/pkg/authentication/request/x509`).
pub(super) fn user_of(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).ok();
    let name = subject.iter_common_name().filter_map(text).last()?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
    groups.push("system:authenticated".into());
    (!name.is_empty()).then(|| User { name, groups, ..User::default() })
}

/// Lets the request in, or says why not: 401, 403, or 500 if nobody could be asked.
pub(super) async fn admit(
    server: &NodeApi,
    certificate: Option<&User>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let user = match certificate {
        Some(user) => user.clone(),
        None => match bearer(headers) {
            Some(token) => match server.auth.authenticate(token).await {
                Ok(Some(user)) => user,
                Ok(None) => return Err(unauthorized()),
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "unable to authenticate a request");
                    return Err(unauthorized());
                }
            },
            None => return Err(unauthorized()),
        },
    };
    if user.groups.iter().any(|g| g == MASTERS) {
        return Ok(());
    }
    let asked = attributes(&server.node_name, method, path);
    for attributes in &asked {
        match server.auth.authorize(&user, attributes).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %base::chain(&error), user = user.name, "unable to authorize a request");
                let text = format!(
                    "Authorization error (user={}, verb={}, resource=nodes, subresource={})",
                    user.name, attributes.verb, attributes.subresource
                );
                return Err(Refusal::new(500, text));
            }
        }
    }
    let subresources: Vec<&str> = asked.iter().map(|a| a.subresource).collect();
    let verb = asked.first().map_or("", |a| a.verb);
    let text = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
        user.name,
        subresources.join(" ")
    );
    Err(Refusal::new(403, text))
}

fn unauthorized() -> Refusal {
    Refusal::new(401, "Unauthorized")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

/// What has to be allowed, any one of them (`GetRequestAttributes`).
fn attributes(node: &str, method: &Method, path: &str) -> Vec<Attributes> {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let fine = [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
    let coarse = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    let first = fine.iter().find(|(root, _)| below(root)).map(|(_, s)| *s);
    let second = coarse.iter().find(|(root, _)| below(root)).map_or("proxy", |(_, s)| *s);
    first
        .into_iter()
        .chain([second])
        .map(|subresource| Attributes { verb, node: node.to_owned(), subresource })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_attributes(method: Method, path: &str, expected: &str) {
        let found: Vec<String> =
            attributes("n1", &method, path).iter().map(|a| format!("{} nodes/{}", a.verb, a.subresource)).collect();
        assert_eq!(found.join(", "), expected, "{method} {path}");
    }

    #[test]
    fn paths_ask_for_subresources() {
        check_attributes(Method::GET, "/pods", "get nodes/pods, get nodes/proxy");
        check_attributes(Method::GET, "/podsx", "get nodes/proxy");
        check_attributes(Method::POST, "/exec/a/b/c", "create nodes/proxy");
        check_attributes(Method::GET, "/stats/summary", "get nodes/stats");
        check_attributes(Method::GET, "/metrics", "get nodes/metrics");
        check_attributes(Method::GET, "/logs/", "get nodes/log");
        check_attributes(Method::GET, "/configz", "get nodes/configz, get nodes/proxy");
        check_attributes(Method::GET, "/containerLogs/a/b/c", "get nodes/proxy");
        check_attributes(Method::GET, "/healthz/ping", "get nodes/healthz, get nodes/proxy");
        check_attributes(Method::GET, "/runningpods/", "get nodes/pods, get nodes/proxy");
        check_attributes(Method::GET, "/statusz", "get nodes/statusz");
        check_attributes(Method::GET, "/flagz", "get nodes/configz");
        check_attributes(Method::GET, "/metrics/slis", "get nodes/metrics");
        check_attributes(Method::POST, "/checkpoint/a/b/c", "create nodes/checkpoint");
        check_attributes(Method::PUT, "/debug/flags/v", "update nodes/proxy");
    }
}
