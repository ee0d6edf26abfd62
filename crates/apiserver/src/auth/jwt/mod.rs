//! Tokens of other issuers: OpenID Connect (`plugin/pkg/authenticator/token/oidc/oidc.go`), by an AuthenticationConfiguration that
//! may change while we run.
//!
//! ```text
//!  file ──▶ config.rs: rules ──▶ Provider: document and keys of the issuer, fetched when needed
//!  token ──▶ keys.rs: who signed it ──▶ claims.rs: the user
//! ```
//!
//! Differs from upstream: distributed claims are not looked up, and the document of an issuer is asked for when the first token of
//! it comes, not at start, so that an issuer that runs in the cluster needs no retries.

mod claims;
mod config;
mod keys;
mod metrics;

pub use config::{
    Anonymous, Authenticator as JwtIssuer, ClaimRule, Condition, Configuration, ExtraMapping, Issuer, Mapping,
    Mappings, UserRule,
};
pub(crate) use keys::ALGORITHMS;
pub use metrics::JwtMetrics;

use super::{AuthError, Authenticator, Peer, UserInfo, tokens};
use crate::webhook_client::{ClientConfig, Target, WebhookClient};
use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use base::Clock;
use config::Rules;
use keys::{Keys, Token};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// An issuer answers within this time (`http.Client.Timeout` in `oidc.New`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// After a failure, and after keys that did not help, an issuer is not asked for this long.
const PAUSE: Duration = Duration::from_secs(10);

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
}

/// An issuer.
struct Provider {
    issuer: Issuer,
    rules: Rules,
    algorithms: Vec<String>,
    /// As which metrics know it.
    hash: String,
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
        let provider = |(one, rules): (&JwtIssuer, Rules)| Provider {
            issuer: one.issuer.clone(),
            rules,
            algorithms: algorithms.clone(),
            hash: metrics::hash(&one.issuer.url),
            keys: ArcSwapOption::empty(),
            asking: Mutex::default(),
        };
        let providers: Vec<Provider> = configuration.jwt.iter().zip(rules).map(provider).collect();
        for gone in self.state.load().providers.iter().filter(|old| !providers.iter().any(|p| p.hash == old.hash)) {
            self.metrics.forget(&gone.hash);
        }
        self.state.store(Arc::new(State { providers, anonymous: configuration.anonymous.clone() }));
        Ok(())
    }

    /// The user of a token, with its audiences of those that the issuer is configured for; `None` if nobody that we know issued it.
    async fn check(&self, text: &str) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        let Some(token) = Token::parse(text) else { return Ok(None) };
        let state = self.state.load_full();
        let Some(provider) = state.providers.iter().find(|p| p.issuer.url == token.issuer()) else { return Ok(None) };
        let begun = Instant::now();
        let user = self.user_of(provider, &token).await;
        self.metrics.authenticated(&provider.hash, user.is_ok(), begun.elapsed());
        let user = user?;
        let own = token.audiences();
        let shared = provider.issuer.audiences.iter().filter(|a| own.contains(&a.as_str())).cloned().collect();
        Ok(Some((user, shared)))
    }

    async fn user_of(&self, provider: &Provider, token: &Token<'_>) -> Result<UserInfo, AuthError> {
        let verified = async {
            token.check(&provider.issuer.audiences, &provider.algorithms, self.clock.now().as_second())?;
            provider.verify(self, token).await
        };
        verified.await.map_err(|why| AuthError(format!("oidc: verify token: {why}")))?;
        claims::user_of(&provider.rules, &token.claims).map_err(AuthError)
    }
}

impl Provider {
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
        of.metrics.fetched(&self.hash, fetched.is_ok(), of.clock.now());
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
        let ca_bundle = self.issuer.certificate_authority.as_bytes().to_vec();
        let config = ClientConfig { target: Target::Url(url), ca_bundle, credentials: Default::default() };
        client.get(&config, TIMEOUT).await.map_err(|error| error.to_string())
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
