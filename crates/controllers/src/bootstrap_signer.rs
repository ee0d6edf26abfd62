//! BootstrapSigner: signs `kube-public/cluster-info` with every bootstrap token that is for it, so that a machine that knows a token
//! knows that the cluster's address and CA in it are true (`pkg/controller/bootstrap/bootstrapsigner.go`).
//!
//! Watches   ConfigMap (that one: self), Secret (bootstrap tokens).
//! Writes    ConfigMap update.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use jiff::Timestamp;
use machinery::bootstrap_token::{self, Expiry};
use ring::hmac;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// What is signed.
const CONTENT: &str = "kubeconfig";
/// The signature by the token `abcdef` is called `jws-kubeconfig-abcdef`.
const PREFIX: &str = "jws-kubeconfig-";

pub(crate) struct BootstrapSigner;

pub(crate) struct View {
    info: Arc<ConfigMap>,
    tokens: Vec<Arc<Secret>>,
}

impl Controller for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        let key = || vec![Key::new(NAMESPACE, NAME)];
        watches.map::<ConfigMap>(move |_, change| {
            let map = change.latest();
            if map.name() == NAME && map.namespace() == NAMESPACE { key() } else { Vec::new() }
        });
        watches.map::<Secret>(move |_, change| if is_token(change.latest()) { key() } else { Vec::new() });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let info = ctx.cache::<ConfigMap>().get(&key.namespace, &key.name)?;
        let mut tokens = ctx.cache::<Secret>().list();
        tokens.retain(|secret| is_token(secret));
        Some(View { info, tokens })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(data) = view.info.data.as_ref().filter(|data| data.contains_key(CONTENT)) else { return plan };
        let mut signed: BTreeMap<String, String> = data.clone();
        signed.retain(|key, _| !key.starts_with(PREFIX));
        for token in &view.tokens {
            if bootstrap_token::value(token, "usage-bootstrap-signing") != "true" {
                continue;
            }
            match bootstrap_token::expiry(token, now) {
                Expiry::Never => {}
                Expiry::Over => continue,
                Expiry::In(left) => plan.again(Duration::try_from(left).unwrap_or_default()),
            }
            let (id, secret) =
                (bootstrap_token::value(token, "token-id"), bootstrap_token::value(token, "token-secret"));
            if !id.is_empty() && !secret.is_empty() {
                signed.insert(format!("{PREFIX}{id}"), signature(&data[CONTENT], id, secret));
            }
        }
        if signed != *data {
            plan.writes.push(Write::update(ConfigMap { data: Some(signed), ..view.info.as_ref().clone() }));
        }
        plan
    }
}

/// A JWS of `content` without the content itself, by HS256 (`cluster-bootstrap/token/jws/jws.go`).
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = B64.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signed = hmac::sign(&key, format!("{header}.{}", B64.encode(content)).as_bytes());
    format!("{header}..{}", B64.encode(signed))
}

fn is_token(secret: &Secret) -> bool {
    secret.namespace() == "kube-system" && secret.type_.as_deref() == Some(bootstrap_token::SECRET_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use serde_json::json;

    fn check(data: serde_json::Value, signing: &str) -> String {
        let info = object(json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data}));
        let base64 = |text: &str| data_encoding(text);
        let token = object(json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
            "type": bootstrap_token::SECRET_TYPE,
            "data": {"token-id": base64("abcdef"), "token-secret": base64("0123456789abcdef"),
                "usage-bootstrap-signing": base64(signing)}}));
        show(&BootstrapSigner::plan(&View { info, tokens: vec![token] }, at(0)))
    }

    fn data_encoding(text: &str) -> String {
        serde_json::to_value(api::k8s::ByteString(text.as_bytes().to_vec()))
            .expect("bytes")
            .as_str()
            .expect("text")
            .to_owned()
    }

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let signature = signature("x", "abcdef", "0123456789abcdef");
        // The header, and no content.
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signature}");
        let update = "update ConfigMap kube-public/cluster-info\n";
        assert_eq!(check(json!({"kubeconfig": "x"}), "true"), update);
        assert_eq!(check(json!({"kubeconfig": "x", "jws-kubeconfig-abcdef": signature}), "true"), "");
        assert_eq!(check(json!({"kubeconfig": "x", "jws-kubeconfig-abcdef": signature}), "false"), update);
        assert_eq!(check(json!({}), "true"), "");
    }
}
