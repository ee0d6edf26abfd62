//! [`ClientAuth`]: TokenReview and SubjectAccessReview through the node's own client. Answers are kept for as long as the
//! kubelet keeps them (`pkg/kubelet/apis/config/v1beta1/defaults.go`: tokens 2 min, allowed 5 min, refused 30 s).

use super::auth::{Attributes, AuthError, NodeAuth, User};
use api::k8s::api::authentication::v1::{TokenReview, TokenReviewSpec};
use api::k8s::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use async_trait::async_trait;
use client::Client;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const REFUSED_TTL: Duration = Duration::from_secs(30);
/// Answers kept at one time; when there are more, those that are too old go, and if none is, all do.
const MAX_ENTRIES: usize = 4096;

/// Asks the API server.
pub struct ClientAuth {
    client: Client,
    // Digests, so that no token stays in memory.
    tokens: Cache<[u8; 32], Option<User>>,
    rights: Cache<(User, Attributes), bool>,
}

impl ClientAuth {
    /// The client's user must be allowed to create both reviews (`system:auth-delegator`).
    pub fn new(client: Client) -> Self {
        ClientAuth { client, tokens: Cache::default(), rights: Cache::default() }
    }
}

#[async_trait]
impl NodeAuth for ClientAuth {
    async fn authenticate(&self, token: &str) -> Result<Option<User>, AuthError> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.client.api::<TokenReview>().create(&review).await;
        let status = answer.map_err(|e| AuthError::Authenticate(e.into()))?.status.unwrap_or_default();
        let user = match status.user {
            Some(user) if status.authenticated == Some(true) => Some(User {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }),
            _ => None,
        };
        self.tokens.put(key, user.clone(), if user.is_some() { TOKEN_TTL } else { REFUSED_TTL });
        Ok(user)
    }

    async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<bool, AuthError> {
        let key = (user.clone(), attributes.clone());
        if let Some(known) = self.rights.get(&key) {
            return Ok(known);
        }
        let resource = ResourceAttributes {
            verb: Some(attributes.verb.to_owned()),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(attributes.subresource.to_owned()),
            name: Some(attributes.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(resource),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = self.client.api::<SubjectAccessReview>().create(&review).await;
        let allowed = answer.map_err(|e| AuthError::Authorize(e.into()))?.status.is_some_and(|s| s.allowed);
        self.rights.put(key, allowed, if allowed { ALLOWED_TTL } else { REFUSED_TTL });
        Ok(allowed)
    }
}

struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let entries = self.0.lock();
        entries.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, (_, until)| *until > now);
        }
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        entries.insert(key, (value, now + ttl));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_grow_old() {
        let cache: Cache<u8, bool> = Cache::default();
        cache.put(1, true, Duration::from_secs(10));
        assert_eq!(cache.get(&1), Some(true));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(cache.get(&1), None);
    }
}
