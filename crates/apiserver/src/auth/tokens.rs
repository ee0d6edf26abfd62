//! Service-account tokens: made by `serviceaccounts/token`, checked on every request
//! (`pkg/serviceaccount/{claims,jwt}.go`, `pkg/registry/core/serviceaccount/storage/token.go`).
//!
//! Tokens that stand in Secrets (`legacy.go`) have no end; they are good while their Secret holds them, and who uses one is told to
//! [`LegacyUses`].
//!
//! A token is a JWT signed with ECDSA P-256 (ES256). It is good while its account, and the pod, secret or node it is bound
//! to, exist with the same UID: deleting any of them revokes it at once. Differs from upstream: no extended lifetime for
//! tokens injected by admission (`--service-account-extend-token-expiration=false`).

use super::{AuthError, Authenticator, Peer, TokenIssuer, UserInfo};
use crate::reader::{ReadError, Reader};
use crate::status;
use api::Status;
use api::k8s::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use api::meta::MetaExt;
use api::prelude::*;
use async_trait::async_trait;
use base::{Clock, Random};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use machinery::field::{FieldError, Path};
use parking_lot::Mutex;
use prometheus::IntCounter;
use prometheus::core::Collector;
use ring::signature::{self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Notify;

/// Shortest life that may be asked for (`validateTokenRequest`): 10 minutes.
const MIN_SECONDS: i64 = 600;
/// Longest: 2^32 seconds.
const MAX_SECONDS: i64 = 1 << 32;
/// What a request without a life gets: one hour (`pkg/apis/authentication/v1/defaults.go`).
const DEFAULT_SECONDS: i64 = 3600;

/// Who signs tokens of Secrets (`LegacyIssuer`).
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// The day on which a Secret's token was used last.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Since this day a Secret's token is good no more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Secrets whose use waits to be written down. One that finds no place is written down at its next use.
const MAX_USES: usize = 64;

/// Secrets whose tokens were used on a day that their label does not tell yet. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct LegacyUses {
    waiting: Arc<Mutex<BTreeSet<(String, String)>>>,
    wake: Arc<Notify>,
}

impl LegacyUses {
    /// `patchSecretWithLastUsedDate`
    fn note(&self, secret: &Secret, now: jiff::Timestamp) {
        let tomorrow = now + jiff::SignedDuration::from_hours(24);
        let said = secret.label(LAST_USED);
        if said.is_some_and(|said| said == day(now) || said == day(tomorrow)) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_USES && waiting.insert((secret.namespace().to_owned(), secret.name().to_owned())) {
            self.wake.notify_one();
        }
    }

    /// The next Secret, by namespace and name.
    pub(crate) async fn next(&self) -> (String, String) {
        loop {
            if let Some(first) = self.waiting.lock().pop_first() {
                return first;
            }
            self.wake.notified().await;
        }
    }
}

/// A day as labels tell it.
fn day(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// The Secret with today as the day of its last use; `None` if it says so already.
pub(crate) fn used_today(mut secret: Secret, now: jiff::Timestamp) -> Option<Secret> {
    let labels = secret.metadata.labels.get_or_insert_default();
    let before = labels.insert(LAST_USED.to_owned(), day(now));
    (before.as_deref() != Some(&day(now))).then_some(secret)
}

/// The signing key is unusable.
#[derive(Debug, Error)]
#[error("failed to load the service-account signing key: {0}")]
pub struct KeyError(String);

/// Makes and checks tokens.
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    /// What a token is for if nothing else is asked: the API server.
    audiences: Vec<String>,
    reader: Reader,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    signing: ring::rand::SystemRandom,
    uses: LegacyUses,
    counted: Counted,
}

/// How often tokens were good (`pkg/serviceaccount/metrics.go`). There are no stale ones: none lives longer than it says.
struct Counted {
    bound: IntCounter,
    legacy: IntCounter,
    refused_legacy: IntCounter,
}

impl Default for Counted {
    fn default() -> Self {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("the name is well-formed");
        Counted {
            bound: counter(
                "serviceaccount_valid_tokens_total",
                "[ALPHA] Cumulative valid projected service account tokens used",
            ),
            legacy: counter(
                "serviceaccount_legacy_tokens_total",
                "[ALPHA] Cumulative legacy service account tokens used",
            ),
            refused_legacy: counter(
                "serviceaccount_invalid_legacy_auto_token_uses_total",
                "[ALPHA] Cumulative invalid auto-generated legacy tokens used",
            ),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Private,
    nbf: i64,
    sub: String,
}

#[derive(Serialize, Deserialize)]
struct Private {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Ref>,
    serviceaccount: Ref,
}

#[derive(Serialize, Deserialize, Clone)]
struct Ref {
    name: String,
    #[serde(default)]
    uid: String,
}

/// The claims of a token that stands in a Secret.
#[derive(Serialize, Deserialize)]
struct LegacyClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

/// A token of ours whose signature is good.
enum Proven {
    Bound(Claims),
    Legacy(LegacyClaims),
}

impl Tokens {
    /// `key_pem` is an ECDSA P-256 key in PKCS #8 PEM; `issuer` an https URL, which is also the default audience.
    pub fn new(
        key_pem: &str,
        issuer: &str,
        reader: Reader,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Arc<Self>, KeyError> {
        use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        let signing = ring::rand::SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &signing)
            .map_err(|e| KeyError(e.to_string()))?;
        let key_id = B64.encode(Sha256::digest(key.public_key().as_ref()));
        let (issuer, audiences) = (issuer.to_owned(), vec![issuer.to_owned()]);
        let (uses, counted) = (LegacyUses::default(), Counted::default());
        Ok(Arc::new(Tokens { key, key_id, issuer, audiences, reader, clock, random, signing, uses, counted }))
    }

    /// What is counted, for whoever shows it.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Counted { bound, legacy, refused_legacy } = &self.counted;
        vec![Box::new(bound.clone()), Box::new(legacy.clone()), Box::new(refused_legacy.clone())]
    }

    /// Who used tokens of Secrets.
    pub fn legacy_uses(&self) -> LegacyUses {
        self.uses.clone()
    }

    /// The token that belongs into a Secret of this account (`LegacyClaims`).
    pub fn for_secret(&self, account: &ServiceAccount, secret: &Secret) -> Result<String, Status> {
        self.sign(&LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: account.namespace().to_owned(),
            secret: secret.name().to_owned(),
            account: account.name().to_owned(),
            uid: account.uid().to_owned(),
            sub: format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
        })
    }

    fn sign(&self, claims: &impl Serialize) -> Result<String, Status> {
        let header = B64.encode(json!({"alg": "ES256", "kid": self.key_id}).to_string());
        let body = B64.encode(serde_json::to_vec(claims).map_err(status::internal)?);
        let text = format!("{header}.{body}");
        let signed = self.key.sign(&self.signing, text.as_bytes()).map_err(|e| status::internal(e.to_string()))?;
        Ok(format!("{text}.{}", B64.encode(signed)))
    }

    /// The claims of a token of ours; `None` if it is somebody else's.
    fn verify(&self, token: &str) -> Result<Option<Proven>, AuthError> {
        let bad = |why: &str| AuthError(format!("invalid bearer token, {why}"));
        let parts: Vec<&str> = token.split('.').collect();
        let [header, body, signed] = parts.as_slice() else { return Ok(None) };
        let Some(claims) = B64.decode(body).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok())
        else {
            return Ok(None);
        };
        let is_legacy = claims["iss"] == LEGACY_ISSUER;
        if claims["iss"] != self.issuer.as_str() && !is_legacy {
            return Ok(None);
        }
        let signed = B64.decode(signed).map_err(|_| bad("malformed signature"))?;
        let key = signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        key.verify(format!("{header}.{body}").as_bytes(), &signed).map_err(|_| bad("wrong signature"))?;
        if is_legacy {
            let claims = serde_json::from_value(claims).map_err(|_| bad("unexpected claims"))?;
            return Ok(Some(Proven::Legacy(claims)));
        }
        let claims: Claims = serde_json::from_value(claims).map_err(|_| bad("unexpected claims"))?;
        let now = self.clock.now().as_second();
        if now >= claims.exp {
            return Err(bad("service account token has expired"));
        }
        if now < claims.nbf {
            return Err(bad("service account token is not valid yet"));
        }
        Ok(Some(Proven::Bound(claims)))
    }

    /// Account and bound objects still exist with the same UIDs (`Validator.Validate`).
    async fn is_alive(&self, claims: &Private) -> Result<(), AuthError> {
        let dead =
            |what: &str| AuthError(format!("invalid bearer token, service account token has been invalidated: {what}"));
        let failed = |e: ReadError| AuthError(base::chain(&e));
        let namespace = &claims.namespace;
        let account: Option<ServiceAccount> =
            self.reader.get(namespace, &claims.serviceaccount.name).await.map_err(failed)?;
        if !is_same(account.as_ref(), &claims.serviceaccount) {
            return Err(dead("the service account is gone"));
        }
        if let Some(pod) = &claims.pod {
            let live: Option<Pod> = self.reader.get(namespace, &pod.name).await.map_err(failed)?;
            if !is_same(live.as_ref(), pod) {
                return Err(dead("the pod is gone"));
            }
        }
        if let Some(secret) = &claims.secret {
            let live: Option<Secret> = self.reader.get(namespace, &secret.name).await.map_err(failed)?;
            if !is_same(live.as_ref(), secret) {
                return Err(dead("the secret is gone"));
            }
        }
        Ok(())
    }

    async fn check(&self, token: &str, audiences: &[String]) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        let claims = match self.verify(token)? {
            None => return Ok(None),
            Some(Proven::Bound(claims)) => claims,
            Some(Proven::Legacy(claims)) => return self.check_legacy(token, &claims, audiences).await,
        };
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let shared: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Err(AuthError(format!(
                "invalid bearer token, token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.aud
            )));
        }
        self.is_alive(&claims.kubernetes).await?;
        self.counted.bound.inc();
        Ok(Some((user_of(&claims), shared)))
    }
}

impl Tokens {
    /// `legacyValidator.Validate`
    async fn check_legacy(
        &self,
        token: &str,
        claims: &LegacyClaims,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        let refuse = |why: String| Err(AuthError(format!("invalid bearer token, {why}")));
        let failed = |e: ReadError| AuthError(base::chain(&e));
        let LegacyClaims { namespace, secret: name, account, uid, .. } = claims;
        // Such a token is for the API server, whoever else is asked for.
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let shared: Vec<String> = wanted.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        if shared.is_empty() {
            return refuse(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                self.audiences
            ));
        }
        let secret: Option<Secret> = self.reader.get(namespace, name).await.map_err(failed)?;
        let Some(secret) = secret.filter(|s| !s.is_deleting()) else {
            return refuse("Token has been invalidated".into());
        };
        let stored = secret.data.as_ref().and_then(|d| d.get("token")).map(|t| t.0.as_slice()).unwrap_or_default();
        if !super::is_equal(stored, token.as_bytes()) {
            return refuse("Token does not match server's copy".into());
        }
        let live: Option<ServiceAccount> = self.reader.get(namespace, account).await.map_err(failed)?;
        let Some(live) = live.filter(|a| !a.is_deleting()) else {
            return refuse(format!("ServiceAccount {namespace}/{account} has been deleted"));
        };
        if live.uid() != uid {
            return refuse(format!("ServiceAccount UID ({}) does not match claim ({uid})", live.uid()));
        }
        self.uses.note(&secret, self.clock.now());
        if secret.label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
            self.counted.refused_legacy.inc();
            return refuse(format!(
                "the token in secret {namespace}/{name} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        self.counted.legacy.inc();
        Ok(Some((account_user(namespace, account, uid), shared)))
    }
}

fn account_user(namespace: &str, account: &str, uid: &str) -> UserInfo {
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    UserInfo {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        uid: uid.to_owned(),
        groups: groups.into(),
        extra: Default::default(),
    }
}

fn is_same<K: Object>(object: Option<&K>, expected: &Ref) -> bool {
    object.is_some_and(|o| o.uid() == expected.uid)
}

fn user_of(claims: &Claims) -> UserInfo {
    let k = &claims.kubernetes;
    let mut user = account_user(&k.namespace, &k.serviceaccount.name, &k.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    extra("credential-id", &format!("JTI={}", claims.jti));
    for (kind, bound) in [("pod", &k.pod), ("node", &k.node)] {
        if let Some(bound) = bound {
            extra(&format!("{kind}-name"), &bound.name);
            extra(&format!("{kind}-uid"), &bound.uid);
        }
    }
    user
}

/// The bearer token of a request: the Authorization header, or the WebSocket subprotocol browsers use.
pub(super) fn bearer(head: &http::request::Parts) -> Option<&str> {
    let value = head.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|t| !t.is_empty())
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, head: &http::request::Parts, _peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        let Some(token) = bearer(head) else { return Ok(None) };
        match self.check(token, &[]).await? {
            Some((user, _)) => Ok(Some(user)),
            None => Err(AuthError("invalid bearer token".into())),
        }
    }

    async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        self.check(token, audiences).await
    }
}

#[async_trait]
impl TokenIssuer for Tokens {
    async fn issue(&self, account: &ServiceAccount, mut request: TokenRequest) -> Result<TokenRequest, Status> {
        let spec = request.spec.get_or_insert_default();
        let audiences = spec.audiences.get_or_insert_default();
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let audiences = audiences.clone();
        let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
        let path = Path::new("spec").child("expirationSeconds");
        let too = |why: &str| {
            let errors = vec![FieldError::invalid(&path, seconds, why)];
            status::invalid("authentication.k8s.io", "TokenRequest", "", &errors)
        };
        if seconds < MIN_SECONDS {
            return Err(too("may not specify a duration less than 10 minutes"));
        }
        if seconds > MAX_SECONDS {
            return Err(too("may not specify a duration larger than 2^32 seconds"));
        }
        let mut private = Private {
            namespace: account.namespace().to_owned(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Ref { name: account.name().to_owned(), uid: account.uid().to_owned() },
        };
        self.bind(account, &mut request, &mut private).await?;
        let now = self.clock.now();
        let claims = Claims {
            aud: audiences,
            exp: now.as_second() + seconds,
            iat: now.as_second(),
            iss: self.issuer.clone(),
            jti: self.random.uuid(),
            sub: format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
            kubernetes: private,
            nbf: now.as_second(),
        };
        let expires = jiff::Timestamp::from_second(claims.exp).map_err(status::internal)?;
        request.status = Some(TokenRequestStatus {
            token: Some(self.sign(&claims)?),
            expiration_timestamp: Some(api::Time(expires)),
        });
        Ok(request)
    }

    fn document(&self, path: &str) -> Option<(&'static str, Vec<u8>)> {
        let point = self.key.public_key().as_ref();
        match path {
            "/.well-known/openid-configuration" => Some((
                "application/json",
                json!({
                    "issuer": self.issuer,
                    "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                })
                .to_string()
                .into_bytes(),
            )),
            // An uncompressed point: 0x04, x, y.
            "/openid/v1/jwks" if point.len() == 65 => Some((
                "application/jwk-set+json",
                json!({"keys": [{
                    "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
                    "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65]),
                }]})
                .to_string()
                .into_bytes(),
            )),
            _ => None,
        }
    }
}

impl Tokens {
    /// Looks the bound object up and notes its UID.
    async fn bind(
        &self,
        account: &ServiceAccount,
        request: &mut TokenRequest,
        private: &mut Private,
    ) -> Result<(), Status> {
        let Some(bound) = request.spec.as_mut().and_then(|s| s.bound_object_ref.as_mut()) else { return Ok(()) };
        let name = bound.name.clone().unwrap_or_default();
        let namespace = account.namespace();
        let asked = bound.uid.clone().unwrap_or_default();
        let check = |resource: &str, real: &str| {
            if asked.is_empty() || asked == real {
                return Ok(());
            }
            Err(Status::failure(
                409,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {resource} {name:?}: the UID in the bound object reference ({asked}) does \
                     not match the UID in record. The object might have been deleted and then recreated"
                ),
            ))
        };
        match (bound.api_version.as_deref(), bound.kind.as_deref()) {
            (Some("v1"), Some("Pod")) => {
                let pod: Option<Pod> = self.reader.get(namespace, &name).await?;
                let pod = pod.ok_or_else(|| status::not_found_in("", "pods", &name))?;
                check("pods", pod.uid())?;
                let of = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or_default();
                if of != account.name() {
                    let why = format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        account.name()
                    );
                    return Err(Status::failure(400, "BadRequest", why));
                }
                private.pod = Some(Ref { name: name.clone(), uid: pod.uid().to_owned() });
                if let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()) {
                    let live: Option<Node> = self.reader.get("", node).await?;
                    private.node =
                        Some(Ref { name: node.to_owned(), uid: live.map(|n| n.uid().to_owned()).unwrap_or_default() });
                }
                bound.uid = Some(pod.uid().to_owned());
            }
            (Some("v1"), Some("Secret")) => {
                let secret: Option<Secret> = self.reader.get(namespace, &name).await?;
                let secret = secret.ok_or_else(|| status::not_found_in("", "secrets", &name))?;
                check("secrets", secret.uid())?;
                private.secret = Some(Ref { name: name.clone(), uid: secret.uid().to_owned() });
            }
            (Some("v1"), Some("Node")) => {
                let node: Option<Node> = self.reader.get("", &name).await?;
                let node = node.ok_or_else(|| status::not_found_in("", "nodes", &name))?;
                check("nodes", node.uid())?;
                private.node = Some(Ref { name: name.clone(), uid: node.uid().to_owned() });
            }
            (version, kind) => {
                let why = format!(
                    "cannot bind token to object of type {}, Kind={}",
                    version.unwrap_or_default(),
                    kind.unwrap_or_default()
                );
                return Err(Status::failure(400, "BadRequest", why));
            }
        }
        Ok(())
    }
}
