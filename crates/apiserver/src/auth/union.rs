//! Several authenticators or authorizers in order (`apiserver/pkg/authentication/request/union`,
//! `apiserver/pkg/authorization/union`).

use super::{Attributes, AuthError, Authenticator, Authorizer, Counted, Decision, Peer, Rules, UserInfo};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::sync::Arc;

/// Asks each authenticator until one knows the credentials.
pub struct Authenticators(pub Vec<Arc<dyn Authenticator>>);

#[async_trait]
impl Authenticator for Authenticators {
    async fn authenticate(&self, head: &http::request::Parts, peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        let mut refusal = None;
        for authenticator in &self.0 {
            match authenticator.authenticate(head, peer).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    fn allows_anonymous(&self, path: &str) -> bool {
        self.0.iter().all(|authenticator| authenticator.allows_anonymous(path))
    }

    async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        let mut refusal = None;
        for authenticator in &self.0 {
            match authenticator.review_token(token, audiences).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(None), Err)
    }
}

/// Asks each authorizer until one allows or denies.
pub struct Authorizers(pub Vec<Counted>);

#[async_trait]
impl Authorizer for Authorizers {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut reasons = Vec::new();
        for counted in &self.0 {
            let decision = counted.authorizer.authorize(attributes).await;
            counted.count(&decision);
            match decision {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for counted in &self.0 {
            let rules = counted.authorizer.rules_for(user, namespace).await;
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            all.incomplete = all.incomplete.or(rules.incomplete);
        }
        all
    }
}

/// Authorizers that can be exchanged while we run.
pub struct Replaceable(ArcSwap<Authorizers>);

impl Replaceable {
    /// These, until others come.
    pub fn new(first: Authorizers) -> Arc<Self> {
        Arc::new(Replaceable(ArcSwap::from_pointee(first)))
    }

    /// From the next question on, `next`.
    pub fn replace(&self, next: Authorizers) {
        self.0.store(Arc::new(next));
    }
}

#[async_trait]
impl Authorizer for Replaceable {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.0.load_full().authorize(attributes).await
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        self.0.load_full().rules_for(user, namespace).await
    }
}
