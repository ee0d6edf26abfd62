//! TokenSecrets: fills Secrets of type `kubernetes.io/service-account-token` with a token of the account that they name, and deletes
//! them when it is gone (`pkg/controller/serviceaccount/tokens_controller.go`).
//!
//! Watches   Secret (self: such ones), ServiceAccount (its Secrets).
//! Writes    Secret update/delete.
//! Differs   from upstream: a deleted Secret stays in its account's list of secrets.

use crate::plan::{Done, Key, Plan, Task, Write};
use crate::run::{Context, Controller, Watches};
use api::k8s::ByteString;
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError};
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;

/// The type of such Secrets.
pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
/// The annotation that names the account.
pub(crate) const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// The annotation with the account's UID.
pub(crate) const UID: &str = "kubernetes.io/service-account.uid";

/// Makes tokens for Secrets.
pub trait TokenMaker: Send + Sync + fmt::Debug {
    /// The token of `account` that belongs into `secret`.
    fn token(&self, account: &ServiceAccount, secret: &Secret) -> Result<String, String>;
}

pub(crate) struct TokenSecrets;

pub(crate) struct View {
    secret: Arc<Secret>,
    account: Option<Arc<ServiceAccount>>,
    ca_pem: Arc<str>,
    maker: Option<Arc<dyn TokenMaker>>,
}

impl Controller for TokenSecrets {
    const NAME: &'static str = "tokens-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Secret>(|_, change| match &change.new {
            Some(secret) if is_token(secret) => vec![Key::of(secret.as_ref())],
            _ => Vec::new(),
        });
        watches.map::<ServiceAccount>(|ctx, change| {
            let account = change.latest();
            let all = ctx.cache::<Secret>().list();
            let own = all.iter().filter(|s| {
                is_token(s) && s.namespace() == account.namespace() && annotation(s, ACCOUNT) == account.name()
            });
            own.map(|s| Key::of(s.as_ref())).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let secret = ctx.cache::<Secret>().get(&key.namespace, &key.name).filter(|s| is_token(s))?;
        let account = account_of(&secret, ctx);
        Some(View { secret, account, ca_pem: ctx.facts().root_ca_pem.clone(), maker: ctx.facts().tokens.clone() })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let View { secret, account, ca_pem, maker } = view;
        let Some(account) = account else {
            // The cache may not show an account yet that there is.
            plan.writes.push(Write::run(DeleteOrphan { secret: secret.clone() }));
            return plan;
        };
        if let (Some(maker), false) = (maker, secret.is_deleting())
            && is_incomplete(secret, ca_pem)
        {
            let (account, ca_pem) = (account.clone(), ca_pem.clone());
            plan.writes.push(Write::run(Fill { secret: secret.clone(), account, ca_pem, maker: maker.clone() }));
        }
        plan
    }
}

pub(crate) fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

pub(crate) fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str).unwrap_or_default()
}

/// The account that a Secret names, if it is that one still.
pub(crate) fn account_of(secret: &Secret, ctx: &Context) -> Option<Arc<ServiceAccount>> {
    let account = ctx.cache::<ServiceAccount>().get(secret.namespace(), annotation(secret, ACCOUNT))?;
    let uid = annotation(secret, UID);
    (uid.is_empty() || uid == account.uid()).then_some(account)
}

fn data<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice()).unwrap_or_default()
}

/// `secretUpdateNeeded`
fn is_incomplete(secret: &Secret, ca_pem: &str) -> bool {
    (!ca_pem.is_empty() && data(secret, "ca.crt") != ca_pem.as_bytes())
        || data(secret, "namespace").is_empty()
        || data(secret, "token").is_empty()
}

/// The Secret with everything in it; `token` is used if it has none.
fn filled(secret: &Secret, account: &ServiceAccount, ca_pem: &str, token: String) -> Secret {
    let mut full = secret.clone();
    let contents = full.data.get_or_insert_default();
    contents.insert("ca.crt".into(), ByteString(ca_pem.as_bytes().to_vec()));
    let namespace = contents.entry("namespace".into()).or_insert_with(|| ByteString(Vec::new()));
    if namespace.0.is_empty() {
        namespace.0 = secret.namespace().as_bytes().to_vec();
    }
    let place = contents.entry("token".into()).or_insert_with(|| ByteString(Vec::new()));
    if place.0.is_empty() {
        place.0 = token.into_bytes();
    }
    let annotations = full.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT.into(), account.name().into());
    annotations.insert(UID.into(), account.uid().into());
    full
}

/// Signs a token and writes it.
struct Fill {
    secret: Arc<Secret>,
    account: Arc<ServiceAccount>,
    ca_pem: Arc<str>,
    maker: Arc<dyn TokenMaker>,
}

#[async_trait]
impl Task for Fill {
    fn title(&self) -> String {
        format!("fill Secret {}/{}", self.secret.namespace(), self.secret.name())
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let token = self.maker.token(&self.account, &self.secret);
        let token = token.map_err(|why| ClientError::Malformed(format!("a token cannot be signed: {why}")))?;
        let full = filled(&self.secret, &self.account, &self.ca_pem, token);
        match client.api::<Secret>().update(&full).await {
            Ok(_) => Ok(Done::default()),
            // Somebody else wrote; its event brings us back.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Done::default()),
            Err(error) => Err(error),
        }
    }
}

/// Deletes a Secret whose account the server does not know either.
struct DeleteOrphan {
    secret: Arc<Secret>,
}

#[async_trait]
impl Task for DeleteOrphan {
    fn title(&self) -> String {
        format!("delete Secret {}/{} without account", self.secret.namespace(), self.secret.name())
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let (name, uid) = (annotation(&self.secret, ACCOUNT), annotation(&self.secret, UID));
        let live = client.api::<ServiceAccount>().find(self.secret.namespace(), name).await?;
        if live.is_some_and(|account| uid.is_empty() || account.uid() == uid) {
            return Ok(Done::default());
        }
        let params =
            client::DeleteParams { uid: Some(self.secret.uid().to_owned()), ..client::DeleteParams::default() };
        match client.api::<Secret>().delete(self.secret.namespace(), self.secret.name(), &params).await {
            Ok(_) => Ok(Done::default()),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Done::default()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use serde_json::json;

    #[derive(Debug)]
    struct Maker;

    impl TokenMaker for Maker {
        fn token(&self, _: &ServiceAccount, _: &Secret) -> Result<String, String> {
            Ok("t".into())
        }
    }

    fn check(data: serde_json::Value, with_account: bool) -> String {
        let secret: Arc<Secret> = object(json!({"metadata": {"name": "s", "namespace": "a",
            "annotations": {"kubernetes.io/service-account.name": "bot"}}, "type": TYPE, "data": data}));
        let account = with_account.then(|| object(json!({"metadata": {"name": "bot", "namespace": "a", "uid": "u"}})));
        let view = View { secret, account, ca_pem: "ca".into(), maker: Some(Arc::new(Maker)) };
        show(&TokenSecrets::plan(&view, at(0)))
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        assert_eq!(check(json!({}), true), "fill Secret a/s\n");
        // "ca", "a", "t"
        assert_eq!(check(json!({"ca.crt": "Y2E=", "namespace": "YQ==", "token": "dA=="}), true), "");
        assert_eq!(check(json!({"ca.crt": "b2xk", "namespace": "YQ==", "token": "dA=="}), true), "fill Secret a/s\n");
        assert_eq!(check(json!({}), false), "delete Secret a/s without account\n");
    }

    #[test]
    fn what_a_secret_says_stays() {
        let secret: Arc<Secret> =
            object(json!({"metadata": {"name": "s", "namespace": "a"}, "data": {"token": "b2xk"}}));
        let account: Arc<ServiceAccount> = object(json!({"metadata": {"name": "bot", "namespace": "a", "uid": "u"}}));
        let full = filled(&secret, &account, "ca", "new".into());
        assert_eq!((data(&full, "token"), data(&full, "namespace")), (b"old".as_slice(), b"a".as_slice()));
        assert_eq!(annotation(&full, UID), "u");
    }
}
