//! Which API servers live: each keeps a Lease of its own, and the Service `kubernetes` has the addresses of all of them whose Lease
//! is young (`pkg/controlplane/reconcilers/lease.go`; the Leases are those of
//! `pkg/controlplane/controller/apiserverleasegc`, with the address in an annotation).
//!
//! For servers that share an etcd; one that is alone names itself once, at its start.

use crate::bootstrap::objects::{self, ApiAddress};
use api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use api::k8s::apimachinery::pkg::apis::meta::v1::MicroTime;
use api::prelude::*;
use base::Clock;
use client::{Client, ClientError, DeleteParams, ListParams};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
/// The label of such Leases, and its value.
const LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// Where a server is reached.
const ADDRESS: &str = "dhow.io/address";
/// Between renewals.
const RENEW: Duration = Duration::from_secs(10);
/// A server that has not renewed for so long is taken off the Service.
const LIFE: SignedDuration = SignedDuration::from_secs(30);
/// A Lease that is this old is nobody's (`IdentityLeaseDurationSeconds`).
const GONE: SignedDuration = SignedDuration::from_hours(1);

/// Keeps our Lease and the Service's addresses until `shutdown`; then takes us off.
pub(crate) async fn run(
    client: Client,
    name: String,
    own: ApiAddress,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    let lease_name = format!("apiserver-{name}");
    loop {
        if let Err(error) = look(&client, &lease_name, &own, clock.now(), true).await {
            tracing::warn!(error = %base::chain(&error), "failed to tell which API servers live");
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(RENEW) => {}
        }
    }
    if let Err(error) = look(&client, &lease_name, &own, clock.now(), false).await {
        tracing::debug!(error = %base::chain(&error), "failed to take this server off the Service");
    }
}

/// One round: our Lease, the dead ones, the addresses of the living.
async fn look(client: &Client, name: &str, own: &ApiAddress, now: Timestamp, alive: bool) -> Result<(), ClientError> {
    let leases = client.api::<Lease>();
    let (all, _) =
        leases.list(&ListParams::all().namespace(NAMESPACE).labels(&format!("{}={}", LABEL.0, LABEL.1))).await?;
    let ours = all.iter().find(|lease| lease.name() == name);
    match (ours, alive) {
        (Some(lease), true) => drop(leases.update(&renewed(lease.clone(), own, now)).await?),
        (None, true) => drop(leases.create(&renewed(new(name), own, now)).await?),
        (Some(lease), false) => drop(leases.delete(NAMESPACE, lease.name(), &DeleteParams::default()).await?),
        (None, false) => {}
    }
    for dead in all.iter().filter(|lease| lease.name() != name && age(lease, now) > GONE) {
        match leases.delete(NAMESPACE, dead.name(), &DeleteParams::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    let addresses = living(&all, name, alive.then_some(own), now);
    // The last one that goes stays named: somebody may come back there.
    if addresses.is_empty() { Ok(()) } else { objects::api_endpoints(client, &addresses, own.port).await }
}

fn new(name: &str) -> Lease {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
        ..ObjectMeta::default()
    };
    Lease { metadata, spec: None }
}

fn renewed(mut lease: Lease, own: &ApiAddress, now: Timestamp) -> Lease {
    let address = SocketAddr::new(own.node_ip, own.port).to_string();
    lease.metadata.annotations.get_or_insert_default().insert(ADDRESS.to_owned(), address);
    let holder = lease.name().to_owned();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder),
        lease_duration_seconds: Some(3600),
        renew_time: Some(MicroTime(now)),
        ..lease.spec.unwrap_or_default()
    });
    lease
}

fn age(lease: &Lease, now: Timestamp) -> SignedDuration {
    let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
    renewed.map_or(SignedDuration::MAX, |at| now.duration_since(at))
}

/// Addresses of the servers that live, sorted; `own` is ours, if we do. One Service has one port: servers at another are not in it.
fn living(all: &[Lease], name: &str, own: Option<&ApiAddress>, now: Timestamp) -> Vec<IpAddr> {
    let young = |lease: &&Lease| lease.name() != name && age(lease, now) <= LIFE;
    let address = |lease: &Lease| lease.annotation(ADDRESS)?.parse::<SocketAddr>().ok();
    let others = all.iter().filter(young).filter_map(address);
    let port = own.map(|own| own.port);
    let mut ips: Vec<IpAddr> =
        others.filter(|other| port.is_none_or(|port| other.port() == port)).map(|other| other.ip()).collect();
    ips.extend(own.map(|own| own.node_ip));
    ips.sort_unstable();
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn address(last: u8) -> ApiAddress {
        ApiAddress {
            service_ip: [10, 43, 0, 1].into(),
            node_ip: [10, 0, 0, last].into(),
            port: 6443,
            service_cidr: "10.43.0.0/16".into(),
        }
    }

    #[test]
    fn the_living_are_named() {
        let leases = [
            renewed(new("apiserver-a"), &address(1), at(100)),
            renewed(new("apiserver-b"), &address(2), at(90)),
            renewed(new("apiserver-c"), &address(3), at(60)),
        ];
        let check = |own: Option<&ApiAddress>| {
            let ips = living(&leases, "apiserver-a", own, at(100));
            ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(check(Some(&address(1))), "10.0.0.1 10.0.0.2");
        assert_eq!(check(None), "10.0.0.2", "who goes takes itself off");
    }
}
