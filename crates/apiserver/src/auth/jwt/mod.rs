//! Tokens of other issuers: OpenID Connect (`plugin/pkg/authenticator/token/oidc/oidc.go`), by an AuthenticationConfiguration that
//! may change while we run.
//!
//! ```text
//!  file ──▶ config.rs: rules ──▶ Provider: document and keys of the issuer, fetched when needed
//!  token ──▶ keys.rs: who signed it ──▶ claims.rs: the user
//! ```
//!
//! Groups that a token does not hold are fetched from where it says (`distributed.rs`).
//!
//! Differs from upstream: the document of an issuer is asked for when the first token of it comes, not at start, so that an issuer
//! that runs in the cluster needs no retries.

mod claims;
mod config;
mod distributed;
mod keys;
mod metrics;

pub use config::{
    Anonymous, Authenticator as JwtIssuer, ClaimRule, Condition, Configuration, ExtraMapping, Issuer, Mapping,
    Mappings, UserRule,
};
pub(crate) use keys::ALGORITHMS;
pub use metrics::JwtMetrics;

use super::cache::Cache;
use super::{AuthError, Authenticator, Peer, UserInfo, tokens};
use crate::webhook_client::{ClientConfig, Target, WebhookClient, WebhookError};
use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use base::Clock;
use config::Rules;
use keys::{Keys, Token};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// An issuer answers within this time (`http.Client.Timeout` in `oidc.New`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// After a failure, and after keys that did not help, an issuer is not asked for this long.
const PAUSE: Duration = Duration::from_secs(10);
/// Whose a good token is, is known for this long (`TokenSuccessCacheTTL`).
const KNOWN: Duration = Duration::from_secs(10);
/// Of no more issuers of distributed claims are keys kept, per issuer that points to them.
const MAX_OTHERS: usize = 64;

/// See the file's head.
pub struct JwtTokens {
    state: ArcSwap<State>,
    client: WebhookClient,
    clock: Arc<dyn Clock>,
    /// The issuer of the cluster's own tokens, which nobody else may be.
    own: String,
    metrics: JwtMetrics,
}

/// A configuration in force.
#[derive(Default)]
struct State {
    providers: Vec<Provider>,
    anonymous: Option<Anonymous>,
    /// Users and audiences of good tokens, by the tokens' SHA-256.
    known: Cache<[u8; 32], (UserInfo, Vec<String>)>,
}

/// An issuer whose tokens are good.
struct Provider {
    rules: Rules,
    algorithms: Vec<String>,
    /// As which metrics know it.
    hash: String,
    source: KeySource,
    /// Who signs the claims that its tokens only point to, by URL.
    others: parking_lot::Mutex<HashMap<String, Arc<KeySource>>>,
}

/// The keys of an issuer, fetched when they are needed.
struct KeySource {
    issuer: Issuer,
    /// As which metrics know it; `None`: it is not in the configuration.
    hash: Option<String>,
    keys: ArcSwapOption<Keys>,
    /// Held by who asks the issuer; where its keys are, and when it was asked last.
    asking: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    keys_url: Option<String>,
    last: Option<Instant>,
}

impl JwtTokens {
    /// Nobody else's tokens, until a configuration says otherwise. `own` is the issuer of the cluster's own tokens.
    pub fn new(client: WebhookClient, clock: Arc<dyn Clock>, own: &str) -> Arc<Self> {
        let metrics = JwtMetrics::default();
        Arc::new(JwtTokens { state: ArcSwap::default(), client, clock, own: own.to_owned(), metrics })
    }

    /// What is counted.
    pub fn metrics(&self) -> &JwtMetrics {
        &self.metrics
    }

    /// From now on, `configuration`. On an error the old one stays. `algorithms` empty: all that are known.
    pub fn configure(&self, configuration: &Configuration, algorithms: &[String]) -> Result<(), String> {
        if let Some(unknown) = algorithms.iter().find(|a| !ALGORITHMS.contains(&a.as_str())) {
            return Err(format!("oidc: unsupported signing alg: {unknown:?}"));
        }
        let algorithms: Vec<String> = match algorithms {
            [] => ALGORITHMS.map(str::to_owned).into(),
            some => some.to_vec(),
        };
        let rules = configuration.compile(&self.own)?;
        let provider = |(one, rules): (&JwtIssuer, Rules)| {
            let hash = metrics::hash(&one.issuer.url);
            Provider {
                rules,
                algorithms: algorithms.clone(),
                source: KeySource::of(one.issuer.clone(), Some(hash.clone())),
                hash,
                others: parking_lot::Mutex::default(),
            }
        };
        let providers: Vec<Provider> = configuration.jwt.iter().zip(rules).map(provider).collect();
        for gone in self.state.load().providers.iter().filter(|old| !providers.iter().any(|p| p.hash == old.hash)) {
            self.metrics.forget(&gone.hash);
        }
        self.state.store(Arc::new(State {
            providers,
            anonymous: configuration.anonymous.clone(),
            known: Cache::default(),
        }));
        Ok(())
    }

    /// The user of a token, with its audiences of those that the issuer is configured for; `None` if nobody that we know issued it.
    async fn check(&self, text: &str) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        let Some(token) = Token::parse(text) else { return Ok(None) };
        let state = self.state.load_full();
        let Some(provider) = state.providers.iter().find(|p| p.source.issuer.url == token.issuer()) else {
            return Ok(None);
        };
        let key: [u8; 32] = Sha256::digest(text).into();
        if let Some(known) = state.known.get(&key) {
            return Ok(Some(known));
        }
        let begun = Instant::now();
        let user = self.user_of(provider, &token).await;
        self.metrics.authenticated(&provider.hash, user.is_ok(), begun.elapsed());
        let user = user?;
        let own = token.audiences();
        let shared = provider.source.issuer.audiences.iter().filter(|a| own.contains(&a.as_str())).cloned().collect();
        let found: (UserInfo, Vec<String>) = (user, shared);
        state.known.keep(key, found.clone(), KNOWN);
        Ok(Some(found))
    }

    async fn user_of(&self, provider: &Provider, token: &Token<'_>) -> Result<UserInfo, AuthError> {
        let verified = provider.verify(self, &provider.source, token).await;
        verified.map_err(|why| AuthError(format!("oidc: verify token: {why}")))?;
        let elsewhere = provider.groups_elsewhere(self, token).await;
        let elsewhere = elsewhere.map_err(|why| format!("oidc: could not expand distributed claims: {why}"));
        match elsewhere.map_err(AuthError)? {
            None => claims::user_of(&provider.rules, &token.claims),
            Some((claim, value)) => {
                let mut claims = token.claims.clone();
                claims.insert(claim, value);
                claims::user_of(&provider.rules, &claims)
            }
        }
        .map_err(AuthError)
    }
}

impl Provider {
    /// Whether a token is good, which who has the keys of `source` signed.
    async fn verify(&self, of: &JwtTokens, source: &KeySource, token: &Token<'_>) -> Result<(), String> {
        token.check(&self.source.issuer.audiences, &self.algorithms, of.clock.now().as_second())?;
        source.verify(of, token).await
    }

    /// The claim with the groups, and its value, if a token says that it is elsewhere.
    async fn groups_elsewhere(
        &self,
        of: &JwtTokens,
        token: &Token<'_>,
    ) -> Result<Option<(String, serde_json::Value)>, String> {
        let Some(config::Source::Claim { name: claim, .. }) = &self.rules.groups else { return Ok(None) };
        let Some(endpoint) = distributed::endpoint_of(claim, &token.claims)? else { return Ok(None) };
        let url = &endpoint.url;
        let config = self.source.config(url.clone())?;
        let got = match endpoint.access_token.as_str() {
            "" => of.client.get(&config, TIMEOUT).await,
            token => of.client.get_as(&config, &format!("Bearer {token}"), TIMEOUT).await,
        };
        let got = got.map_err(|error| match error {
            WebhookError::Answered { code, .. } => format!("error while getting distributed claim JWT: {code}"),
            other => other.to_string(),
        });
        let got = got.map_err(|why| format!("while getting distributed claim {claim:?}: {why}"))?;
        let found = std::str::from_utf8(&got).ok().and_then(Token::parse).ok_or_else(|| {
            format!("getting untrusted issuer from endpoint {url} failed for claim {claim:?}: malformed token")
        })?;
        let source = self.other(found.issuer());
        let verified = self.verify(of, &source, &found).await;
        verified.map_err(|why| format!("verify distributed claim token: {why}"))?;
        match found.claims.get(claim) {
            Some(value) => Ok(Some((claim.clone(), value.clone()))),
            None => Err(format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}")),
        }
    }

    /// The keys of another issuer, which our own vouches for by pointing to its tokens.
    fn other(&self, url: &str) -> Arc<KeySource> {
        let mut others = self.others.lock();
        if others.len() >= MAX_OTHERS && !others.contains_key(url) {
            others.clear();
        }
        let made = || {
            let issuer = Issuer { url: url.to_owned(), discovery_url: None, ..self.source.issuer.clone() };
            Arc::new(KeySource::of(issuer, None))
        };
        others.entry(url.to_owned()).or_insert_with(made).clone()
    }
}

impl KeySource {
    fn of(issuer: Issuer, hash: Option<String>) -> Self {
        KeySource { issuer, hash, keys: ArcSwapOption::empty(), asking: Mutex::default() }
    }

    async fn verify(&self, of: &JwtTokens, token: &Token<'_>) -> Result<(), String> {
        let known = self.keys.load_full();
        if known.as_ref().is_some_and(|keys| keys.verify(token)) {
            return Ok(());
        }
        let fresh = self.fetch(of, known).await?;
        match fresh.verify(token) {
            true => Ok(()),
            false => Err("failed to verify signature: failed to verify id token signature".into()),
        }
    }

    /// The issuer's keys, newer than `seen`. Who comes while somebody asks gets what that one gets.
    async fn fetch(&self, of: &JwtTokens, seen: Option<Arc<Keys>>) -> Result<Arc<Keys>, String> {
        let mut asked = self.asking.lock().await;
        let known = self.keys.load_full();
        let is_newer = match (&known, &seen) {
            (Some(known), Some(seen)) => !Arc::ptr_eq(known, seen),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let paused = asked.last.is_some_and(|last| last.elapsed() < PAUSE);
        if let Some(known) = known.filter(|_| is_newer || paused) {
            return Ok(known);
        }
        if paused {
            return Err("oidc: authenticator not initialized".into());
        }
        asked.last = Some(Instant::now());
        let fetched = self.ask(&of.client, &mut asked).await;
        if let Some(hash) = &self.hash {
            of.metrics.fetched(hash, fetched.is_ok(), of.clock.now());
        }
        let keys = Arc::new(fetched.inspect_err(
            |why| tracing::warn!(issuer = %self.issuer.url, %why, "an issuer of tokens cannot be asked"),
        )?);
        self.keys.store(Some(keys.clone()));
        Ok(keys)
    }

    async fn ask(&self, client: &WebhookClient, asked: &mut Asked) -> Result<Keys, String> {
        let url = match &asked.keys_url {
            Some(url) => url.clone(),
            None => asked.keys_url.insert(self.discover(client).await?).clone(),
        };
        let body = self.get(client, url).await.map_err(|why| format!("fetching keys {why}"))?;
        Keys::parse(&body)
    }

    /// Where the keys are.
    async fn discover(&self, client: &WebhookClient) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let own = || format!("{}/.well-known/openid-configuration", self.issuer.url.trim_end_matches('/'));
        let url = self.issuer.discovery_url.clone().filter(|u| !u.is_empty()).unwrap_or_else(own);
        let body = self.get(client, url).await?;
        let document: Document = serde_json::from_slice(&body)
            .map_err(|error| format!("oidc: failed to decode provider discovery object: {error}"))?;
        if document.issuer != self.issuer.url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer.url, document.issuer
            ));
        }
        Ok(document.jwks_uri)
    }

    async fn get(&self, client: &WebhookClient, url: String) -> Result<bytes::Bytes, String> {
        client.get(&self.config(url)?, TIMEOUT).await.map_err(|error| error.to_string())
    }

    /// How to ask at `url`, which a document or a token may have named: who could answer for it on the way would say who anybody is.
    fn config(&self, url: String) -> Result<ClientConfig, String> {
        if !url.starts_with("https://") {
            return Err(format!("{url:?} must use https"));
        }
        let ca_bundle = self.issuer.certificate_authority.as_bytes().to_vec();
        Ok(ClientConfig {
            target: Target::Url(url),
            ca_bundle,
            credentials: Default::default(),
            reach: Default::default(),
        })
    }
}

#[async_trait]
impl Authenticator for JwtTokens {
    async fn authenticate(&self, head: &http::request::Parts, _peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        let Some(token) = tokens::bearer(head) else { return Ok(None) };
        Ok(self.check(token).await?.map(|(user, _)| user))
    }

    async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        let Some((user, own)) = self.check(token).await? else { return Ok(None) };
        if audiences.is_empty() {
            return Ok(Some((user, Vec::new())));
        }
        let shared: Vec<String> = audiences.iter().filter(|a| own.contains(a)).cloned().collect();
        Ok((!shared.is_empty()).then_some((user, shared)))
    }

    fn allows_anonymous(&self, path: &str) -> bool {
        match &self.state.load().anonymous {
            None => true,
            Some(anonymous) => {
                let is_named = anonymous.conditions.iter().any(|c| c.path == path);
                anonymous.enabled && (anonymous.conditions.is_empty() || is_named)
            }
        }
    }
}

#[cfg(test)]
mod tests;
