//! ServiceAddresses: every address that a Service holds is there as an IPAddress. Upstream's API server makes them when it gives
//! out addresses, and repairs them (`pkg/registry/core/service/ipallocator/{ipallocator,controller/repairip}.go`); here they
//! only show what the Services hold.
//!
//! Watches   Service and IPAddress (both by address and by Service).
//! Writes    IPAddress create/delete.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::ObjectMeta;
use api::k8s::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use api::prelude::*;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

pub(crate) struct ServiceAddresses;

pub(crate) enum View {
    /// A Service, and those of its addresses that have no object.
    Service(Arc<Service>, Vec<IpAddr>),
    /// An object of ours whose Service does not hold it.
    Orphan(Arc<IPAddress>),
}

/// Keys with a namespace are Services, those without are addresses.
impl Controller for ServiceAddresses {
    const NAME: &'static str = "service-addresses-controller";
    const OF_API_SERVER: bool = true;
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Service>(|_, change| {
            let mut keys: Vec<Key> = change.new.iter().map(|s| Key::of(s.as_ref())).collect();
            keys.extend(change.old.iter().flat_map(|s| held(s)).map(|ip| Key::new("", &ip.to_string())));
            keys
        });
        watches.map::<IPAddress>(|_, change| {
            let service = parent(change.latest()).map(|(namespace, name)| Key::new(namespace, name));
            service.into_iter().chain([Key::new("", change.latest().name())]).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let (services, addresses) = (ctx.cache::<Service>(), ctx.cache::<IPAddress>());
        if !key.namespace.is_empty() {
            let service = services.get(&key.namespace, &key.name)?;
            let missing = held(&service).filter(|ip| addresses.get("", &ip.to_string()).is_none()).collect();
            return Some(View::Service(service, missing));
        }
        let object = addresses.get("", &key.name).filter(|o| o.label(MANAGED_BY.0) == Some(MANAGED_BY.1))?;
        let (namespace, name) = parent(&object)?;
        let service = services.get(namespace, name);
        let is_held = service.iter().flat_map(|s| held(s)).any(|ip| ip.to_string() == key.name);
        (!is_held).then_some(View::Orphan(object))
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        match view {
            View::Service(service, missing) => {
                plan.writes.extend(missing.iter().map(|ip| Write::ensure(address(service, *ip))));
            }
            View::Orphan(object) => plan.writes.push(Write::delete(object.as_ref())),
        }
        plan
    }
}

/// The addresses of a Service.
pub(crate) fn held(service: &Service) -> impl Iterator<Item = IpAddr> + use<> {
    service.spec.as_ref().map(machinery::services::addresses).into_iter().flatten()
}

/// Namespace and name of the Service that an object of ours belongs to.
fn parent(object: &IPAddress) -> Option<(&str, &str)> {
    let parent = &object.spec.parent_ref;
    let ours = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    Some((parent.namespace.as_deref()?, parent.name.as_str())).filter(|_| ours)
}

fn address(service: &Service, ip: IpAddr) -> IPAddress {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = [(FAMILY, family), MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_string()),
            labels: Some(BTreeMap::from(labels)),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: Some(String::new()),
                resource: "services".into(),
                namespace: Some(service.namespace().to_owned()),
                name: service.name().to_owned(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, show};
    use serde_json::json;

    #[test]
    fn a_service_shows_its_addresses() {
        let service: Arc<Service> =
            object(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIPs": ["10.0.0.1", "None"]}}));
        let missing: Vec<IpAddr> = held(&service).collect();
        let plan = ServiceAddresses::plan(&View::Service(service.clone(), missing.clone()), Timestamp::UNIX_EPOCH);
        assert_eq!(show(&plan), "create IPAddress 10.0.0.1\n");
        let made = address(&service, missing[0]);
        assert_eq!(parent(&made), Some(("ns", "s")));
        let plan = ServiceAddresses::plan(&View::Orphan(Arc::new(made)), Timestamp::UNIX_EPOCH);
        assert_eq!(show(&plan), "delete IPAddress 10.0.0.1\n");
    }
}
