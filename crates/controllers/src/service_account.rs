//! ServiceAccounts: every namespace has the account `default` (`pkg/controller/serviceaccount/serviceaccounts_controller.go`).
//!
//! Watches   Namespace (self), ServiceAccount (by namespace).
//! Writes    ServiceAccount create.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::meta::MetaExt;
use api::prelude::*;
use jiff::Timestamp;

pub(crate) struct ServiceAccounts;

pub(crate) struct View {
    namespace: String,
    has_default: bool,
}

impl Controller for ServiceAccounts {
    const NAME: &'static str = "service-account-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Namespace>();
        watches.map::<ServiceAccount>(|_, change| vec![Key::new("", change.latest().namespace())]);
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        ctx.cache::<Namespace>().get("", &key.name).filter(|ns| is_active(ns))?;
        let has_default = ctx.cache::<ServiceAccount>().get(&key.name, "default").is_some();
        Some(View { namespace: key.name.clone(), has_default })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        if !view.has_default {
            let metadata = ObjectMeta {
                name: Some("default".into()),
                namespace: Some(view.namespace.clone()),
                ..ObjectMeta::default()
            };
            plan.writes.push(Write::ensure(ServiceAccount { metadata, ..ServiceAccount::default() }));
        }
        plan
    }
}

/// Not being deleted: things may be created in it.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    !namespace.is_deleting() && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}
