//! Who asks ([`Authenticator`]), and whether they may ([`Authorizer`]).
//!
//! The traits are asked in order by the pipeline; implementations are lists of others where it takes several (upstream's `union`). Texts as `apiserver/pkg/endpoints/handlers/responsewriters/errors.go`.

pub mod bootstrap;
mod bootstrap_tokens;
mod cache;
mod certificates;
mod decisions;
pub mod jwt;
mod node;
mod rbac;
mod rbac_labels;
mod request_header;
mod tokens;
mod union;
pub mod webhook;

pub use bootstrap_tokens::BootstrapTokens;
pub use certificates::ClientCertificates;
pub use decisions::{Counted, Decisions};
pub use node::{NodeAuthorizer, node_name};
pub use rbac::{Policy, Rbac};
pub(crate) use rbac::{breakdown, covers};
pub use request_header::RequestHeaders;
pub(crate) use tokens::used_today;
pub use tokens::{KeyError, LegacyUses, Tokens};
pub use union::{Authenticators, Authorizers, Replaceable};

use api::Status;
use api::k8s::api::authentication::v1::TokenRequest;
use api::prelude::ServiceAccount;
use async_trait::async_trait;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// Members are in this group once they are authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The user of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of [`ANONYMOUS`].
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do everything, whatever the authorizers say.
pub const MASTERS: &str = "system:masters";

/// Who makes a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// Name, e.g. `system:serviceaccount:default:web`.
    pub name: String,
    /// UID, if the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More, e.g. `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..UserInfo::default() }
    }
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        UserInfo::new(ANONYMOUS, &[UNAUTHENTICATED])
    }
    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Namespace and name of the service account that goes by a user's name, if it is one's (`SplitUsername`).
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':').filter(|(_, name)| !name.contains(':'))
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connects from; `None` in-process.
    pub address: Option<SocketAddr>,
    /// What the connection itself proves.
    pub identity: PeerIdentity,
}

/// What a connection proves about its other end.
#[derive(Debug, Clone)]
pub enum PeerIdentity {
    /// Nothing; headers may.
    None,
    /// A client certificate that TLS verified against the client CA.
    Certificates(ClientChain),
    /// A chain that TLS verified against the front-proxy CA, and that no client CA signed.
    FrontProxy(Vec<CertificateDer<'static>>),
    /// A caller in this process. Needs no further authentication.
    Local(UserInfo),
}

/// The certificates of a client, and who it is, which is read from them once per connection.
#[derive(Debug, Clone)]
pub struct ClientChain {
    leaf: Option<CertificateDer<'static>>,
    user: Arc<OnceLock<Result<Option<UserInfo>, String>>>,
}

impl From<Vec<CertificateDer<'static>>> for ClientChain {
    fn from(chain: Vec<CertificateDer<'static>>) -> Self {
        ClientChain { leaf: chain.into_iter().next(), user: Arc::default() }
    }
}

impl Peer {
    /// A caller in this process.
    pub fn local(user: UserInfo) -> Self {
        Peer { address: None, identity: PeerIdentity::Local(user) }
    }
}

/// Credentials were given and are wrong; the answer is 401.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct AuthError(pub String);

/// Finds out who asks.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// `Ok(None)`: no credentials that this authenticator knows; others may. The group `system:authenticated` is added
    /// by the pipeline.
    async fn authenticate(&self, head: &http::request::Parts, peer: &Peer) -> Result<Option<UserInfo>, AuthError>;

    /// Whether a request for `path` without credentials is answered, as one of [`ANONYMOUS`].
    fn allows_anonymous(&self, _path: &str) -> bool {
        true
    }

    /// Checks a bearer token for TokenReview. `audiences` empty: the API server's own. Returns the user and the
    /// audiences that token and request share.
    async fn review_token(
        &self,
        _token: &str,
        _audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        Ok(None)
    }
}

/// What a request wants, for authorization.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-case HTTP method
    /// for paths that are no resources.
    pub verb: &'a str,
    /// API group; empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural; empty for non-resource requests.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Object name or empty.
    pub name: &'a str,
    /// URL path, for non-resource requests.
    pub path: &'a str,
    /// Whether this asks for a resource.
    pub is_resource_request: bool,
    /// Field selector of list, watch and deletecollection, as text (authorization with selectors).
    pub field_selector: &'a str,
    /// The same of labels.
    pub label_selector: &'a str,
}

/// An authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes. The text tells by what rule, if there is something to tell; it is for the audit log and reviews.
    Allow(Option<Arc<str>>),
    /// No, and nobody else is asked.
    Deny(String),
    /// Not by me. The text tells why, if there is something to tell; it is shown to the user.
    NoOpinion(String),
}

impl Decision {
    /// Yes, without a reason.
    pub const ALLOW: Decision = Decision::Allow(None);

    /// Whether the answer is yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// Why, or an empty text.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(reason) => reason.as_deref().unwrap_or_default(),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

/// What a user may do in a namespace, for SelfSubjectRulesReview.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Rules about resources.
    pub resource: Vec<ResourceRule>,
    /// Rules about paths.
    pub non_resource: Vec<NonResourceRule>,
    /// The list may miss something, and why.
    pub incomplete: Option<String>,
}

/// One rule about resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub api_groups: Vec<String>,
    /// Resources and subresources.
    pub resources: Vec<String>,
    /// Names, empty = all.
    pub resource_names: Vec<String>,
}

/// One rule about paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NonResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// Paths, `*` at the end allowed.
    pub urls: Vec<String>,
}

/// Decides whether somebody may do something.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Answers for one request.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision;

    /// Everything the user may do in `namespace`.
    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules;
}

/// Makes service-account tokens (`serviceaccounts/token`).
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// Fills `request.status`. `request` is validated for form (metadata, audiences, lifetime) by the issuer, and the
    /// bound object (pod, secret, node) is looked up by it.
    async fn issue(&self, account: &ServiceAccount, request: TokenRequest) -> Result<TokenRequest, Status>;

    /// A document of the issuer: `/.well-known/openid-configuration` or `/openid/v1/jwks`.
    fn document(&self, _path: &str) -> Option<(&'static str, Vec<u8>)> {
        None
    }
}

/// In a time that does not tell where they differ.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// The sentence of a refusal, `responsewriters.forbiddenMessage`.
pub fn forbidden_message(a: &Attributes<'_>) -> String {
    let user = format!("User {:?}", a.user.name);
    if !a.is_resource_request {
        return format!("{user} cannot {} path {:?}", a.verb, a.path);
    }
    let resource =
        if a.subresource.is_empty() { a.resource.to_owned() } else { format!("{}/{}", a.resource, a.subresource) };
    let scope = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    format!("{user} cannot {} resource {resource:?} in API group {:?} {scope}", a.verb, a.group)
}

/// 403 for a refused request: `pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace
/// "default"`, with the authorizer's reason appended.
pub fn forbidden(a: &Attributes<'_>, reason: &str) -> Status {
    let mut text = forbidden_message(a).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        text = format!("{text}: {reason}");
    }
    crate::status::forbidden(a.group, a.resource, a.name, &text)
}

// === for tests and the simulator ===

/// Everybody may do everything. For tests and the simulator only: `bin` never constructs it.
#[derive(Debug, Default, Clone, Copy)]
pub struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Decision {
        Decision::ALLOW
    }
    async fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        let star = || vec!["*".to_owned()];
        Rules {
            resource: vec![ResourceRule {
                verbs: star(),
                api_groups: star(),
                resources: star(),
                resource_names: Vec::new(),
            }],
            non_resource: vec![NonResourceRule { verbs: star(), urls: star() }],
            incomplete: None,
        }
    }
}

/// Knows only what the connection proves locally; every other request stays anonymous.
#[derive(Debug, Default, Clone, Copy)]
pub struct LocalOnly;

#[async_trait]
impl Authenticator for LocalOnly {
    async fn authenticate(&self, _head: &http::request::Parts, _peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        Ok(None)
    }
}
