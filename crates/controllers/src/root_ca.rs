//! RootCa: every namespace has the ConfigMap `kube-root-ca.crt` by which pods check the API server
//! (`pkg/controller/certificates/rootcacertpublisher/publisher.go`).
//!
//! Watches   Namespace (self), ConfigMap (that one, by namespace).
//! Writes    ConfigMap create/update.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use crate::service_account::is_active;
use api::meta::MetaExt;
use api::prelude::*;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal \
     service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

pub(crate) struct RootCa;

pub(crate) struct View {
    namespace: String,
    current: Option<Arc<ConfigMap>>,
    ca_pem: Arc<str>,
}

impl Controller for RootCa {
    const NAME: &'static str = "root-ca-cert-publisher";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Namespace>();
        watches.map::<ConfigMap>(|_, change| match change.latest() {
            map if map.name() == NAME => vec![Key::new("", map.namespace())],
            _ => Vec::new(),
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        ctx.cache::<Namespace>().get("", &key.name).filter(|ns| is_active(ns))?;
        let current = ctx.cache::<ConfigMap>().get(&key.name, NAME);
        Some(View { namespace: key.name.clone(), current, ca_pem: ctx.facts().root_ca_pem.clone() })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let data = Some(BTreeMap::from([("ca.crt".to_owned(), view.ca_pem.to_string())]));
        let mut plan = Plan::done();
        match &view.current {
            Some(current) if current.data == data => {}
            Some(current) => plan.writes.push(Write::update(ConfigMap { data, ..current.as_ref().clone() })),
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.into()),
                    namespace: Some(view.namespace.clone()),
                    annotations: Some(BTreeMap::from([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())])),
                    ..ObjectMeta::default()
                };
                plan.writes.push(Write::ensure(ConfigMap { metadata, data, ..ConfigMap::default() }));
            }
        }
        plan
    }
}
