//! TokenCleaner: deletes bootstrap tokens whose time is over (`pkg/controller/bootstrap/tokencleaner.go`).
//!
//! Watches   Secret (self: bootstrap tokens in kube-system).
//! Writes    Secret delete.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use jiff::Timestamp;
use machinery::bootstrap_token::{self, Expiry};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct TokenCleaner;

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner";
    type View = Arc<Secret>;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Secret>(|_, change| match &change.new {
            Some(secret) if is_token(secret) => vec![Key::of(secret.as_ref())],
            _ => Vec::new(),
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<Arc<Secret>> {
        ctx.cache::<Secret>().get(&key.namespace, &key.name).filter(|s| is_token(s))
    }

    fn plan(secret: &Arc<Secret>, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        match bootstrap_token::expiry(secret, now) {
            Expiry::Never => {}
            Expiry::Over => plan.writes.push(Write::delete(secret.as_ref())),
            Expiry::In(left) => plan.again(Duration::try_from(left).unwrap_or_default()),
        }
        plan
    }
}

fn is_token(secret: &Secret) -> bool {
    secret.namespace() == "kube-system" && secret.type_.as_deref() == Some(bootstrap_token::SECRET_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use serde_json::json;

    #[test]
    fn a_token_goes_when_its_time_is_over() {
        // 2026-01-01T00:00:05Z
        let secret = object(
            json!({"metadata": {"name": "t", "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
            "data": {"expiration": "MjAyNi0wMS0wMVQwMDowMDowNVo="}}),
        );
        assert_eq!(show(&TokenCleaner::plan(&secret, at(0))), "again in 5s\n");
        assert_eq!(show(&TokenCleaner::plan(&secret, at(5))), "delete Secret kube-system/t\n");
    }
}
