//! Bearer tokens that a webhook knows: TokenReview out, TokenReview back
//! (`apiserver/plugin/pkg/authenticator/token/webhook/webhook.go`, `apiserver/pkg/authentication/token/cache`).

use super::post;
use crate::auth::cache::Cache;
use crate::auth::{AuthError, Authenticator, Peer, UserInfo, tokens};
use crate::webhook_client::{ClientConfig, WebhookClient};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// A review is answered within this time (`--authentication-token-webhook`, `WebhookRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(10);

/// A user and the audiences that it is for.
type Found = Option<(UserInfo, Vec<String>)>;

/// See the file's head.
pub struct WebhookTokens {
    client: WebhookClient,
    config: ClientConfig,
    /// `v1` or `v1beta1`
    version: &'static str,
    ttl: Duration,
    /// By hashes of tokens and audiences, so that no token stands in memory for its own sake.
    cache: Cache<[u8; 32], Found>,
    /// The API server's own audiences.
    audiences: Vec<String>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Option<Vec<String>>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl WebhookTokens {
    /// Asks the webhook at `config`; answers are kept for `ttl`. `audiences` are this server's own.
    pub fn new(
        client: WebhookClient,
        config: ClientConfig,
        version: &str,
        ttl: Duration,
        audiences: Vec<String>,
    ) -> Result<Self, String> {
        let version = match version {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            other => {
                return Err(format!(
                    "unsupported authentication webhook version {other:?}, supported versions are \"v1\", \"v1beta1\""
                ));
            }
        };
        Ok(WebhookTokens { client, config, version, ttl, cache: Cache::default(), audiences })
    }

    async fn check(&self, token: &str, audiences: &[String]) -> Result<Found, AuthError> {
        let mut hash = Sha256::new();
        hash.update(token);
        audiences.iter().for_each(|a| hash.update(format!("\0{a}")));
        let key: [u8; 32] = hash.finalize().into();
        if let Some(known) = self.cache.get(&key) {
            return Ok(known);
        }
        let found = self.ask(token, audiences).await?;
        // Refusals, too; failures are not.
        self.cache.keep(key, found.clone(), self.ttl);
        Ok(found)
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Found, AuthError> {
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let api_version = format!("authentication.k8s.io/{}", self.version);
        let review = json!({"kind": "TokenReview", "apiVersion": api_version, "metadata": {}, "spec": spec, "status": {"user": {}}});
        let body = Bytes::from(review.to_string());
        let answer = post(&self.client, &self.config, TIMEOUT, body, |answer, _| answer).await.map_err(|error| {
            tracing::error!(%error, "failed to make webhook authenticator request");
            AuthError(error.to_string())
        })?;
        let Review { status } = serde_json::from_slice(&answer).map_err(|error| AuthError(error.to_string()))?;
        verdict(status, audiences, &self.audiences)
    }
}

/// What a review says (`AuthenticateToken`).
fn verdict(status: Status, wanted: &[String], own: &[String]) -> Result<Found, AuthError> {
    let given = status.audiences.unwrap_or_default();
    let mut shared = Vec::new();
    if !wanted.is_empty() {
        let given = if given.is_empty() { own } else { &given };
        shared = wanted.iter().filter(|a| given.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Ok(None);
        }
    }
    if !status.authenticated {
        return if status.error.is_empty() { Ok(None) } else { Err(AuthError(status.error)) };
    }
    let User { username, uid, groups, extra } = status.user;
    let groups = groups.unwrap_or_default();
    Ok(Some((UserInfo { name: username, uid, groups, extra: extra.unwrap_or_default() }, shared)))
}

#[async_trait]
impl Authenticator for WebhookTokens {
    async fn authenticate(&self, head: &http::request::Parts, _peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        let Some(token) = tokens::bearer(head) else { return Ok(None) };
        Ok(self.check(token, &self.audiences).await?.map(|(user, _)| user))
    }

    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Found, AuthError> {
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        self.check(token, audiences).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: serde_json::Value, wanted: &[&str]) -> String {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let status = serde_json::from_value(status).expect("a status");
        match verdict(status, &list(wanted), &list(&["us"])) {
            Ok(Some((user, audiences))) => format!("{} {:?} {audiences:?}", user.name, user.groups),
            Ok(None) => "nobody".into(),
            Err(error) => error.0,
        }
    }

    #[test]
    fn audiences_must_meet() {
        let jane = |audiences: &[&str]| json!({"authenticated": true, "user": {"username": "jane", "groups": ["a"]}, "audiences": audiences});
        assert_eq!(check(jane(&[]), &["us"]), r#"jane ["a"] ["us"]"#);
        assert_eq!(check(jane(&["them"]), &["us"]), "nobody");
        assert_eq!(check(jane(&["them"]), &["them", "us"]), r#"jane ["a"] ["them"]"#);
        assert_eq!(check(json!({"authenticated": false, "error": "expired"}), &["us"]), "expired");
        assert_eq!(check(json!({"user": {"groups": null}}), &["us"]), "nobody");
    }
}
