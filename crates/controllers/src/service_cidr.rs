//! ServiceCidrs: ranges of Services are ready, and stay while they hold an address that no other range holds
//! (`pkg/controller/servicecidrs/servicecidrs_controller.go`).
//!
//! Watches   ServiceCIDR (self and the others), Service (all ranges, when addresses are given up).
//! Writes    ServiceCIDR: the finalizer, `status.conditions`.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use crate::service_addresses::held;
use api::Time;
use api::k8s::api::networking::v1::ServiceCIDR;
use api::k8s::apimachinery::pkg::apis::meta::v1::Condition;
use api::prelude::*;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use machinery::services::ranges;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Between the deletion of a range and its end; who was about to give out one of its addresses has done so then.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
const IN_USE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

pub(crate) struct ServiceCidrs;

pub(crate) struct View {
    range: Arc<ServiceCIDR>,
    others: Vec<Arc<ServiceCIDR>>,
    /// Of all Services.
    held: Vec<IpAddr>,
}

impl Controller for ServiceCidrs {
    const NAME: &'static str = "service-cidrs-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<ServiceCIDR>();
        watches.map::<ServiceCIDR>(|ctx, _| leaving(ctx));
        watches.map::<Service>(|ctx, change| if change.old.is_some() { leaving(ctx) } else { Vec::new() });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let ranges = ctx.cache::<ServiceCIDR>();
        let range = ranges.get("", &key.name)?;
        if !range.is_deleting() {
            return Some(View { range, others: Vec::new(), held: Vec::new() });
        }
        let others = ranges.list().into_iter().filter(|r| r.name() != key.name).collect();
        let held = ctx.cache::<Service>().list().iter().flat_map(|s| held(s)).collect();
        Some(View { range, others, held })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let range = view.range.as_ref();
        let mut plan = Plan::done();
        if let Some(deleted) = range.metadata.deletion_timestamp.as_ref().map(|t| t.0) {
            if is_needed(view) {
                plan.writes.extend(told(range, "False", "Terminating", IN_USE, now));
            } else if now < deleted + GRACE {
                plan.again(Duration::try_from(deleted + GRACE - now).unwrap_or_default());
            } else if range.has_finalizer(FINALIZER) {
                let mut free = range.clone();
                free.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
                plan.writes.push(Write::update(free));
            }
            return plan;
        }
        if !range.has_finalizer(FINALIZER) {
            // The condition comes with the next look, which this write brings about.
            let mut kept = range.clone();
            kept.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            plan.writes.push(Write::update(kept));
            return plan;
        }
        plan.writes.extend(told(range, "True", "", "Kubernetes Service CIDR is ready", now));
        plan
    }
}

fn leaving(ctx: &Context) -> Vec<Key> {
    let ranges = ctx.cache::<ServiceCIDR>().list();
    ranges.iter().filter(|r| r.is_deleting()).map(|r| Key::of(r.as_ref())).collect()
}

/// `canDeleteCIDR`: whether a Service would be left with an address of no range.
fn is_needed(view: &View) -> bool {
    let others: Vec<IpNet> = view.others.iter().flat_map(|r| ranges(r)).collect();
    let own = ranges(&view.range);
    let mut orphans = view.held.iter().filter(|ip| own.iter().any(|c| c.contains(*ip)));
    orphans.any(|ip| !others.iter().any(|c| c.contains(ip)))
}

/// The condition `Ready`, if it says something else.
fn told(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Option<Write> {
    let mut next = range.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    let found = conditions.iter().position(|c| c.type_ == "Ready");
    if let Some(old) = found.map(|i| &conditions[i])
        && old.status == status
        && (old.reason == reason || status == "True")
    {
        return None;
    }
    let condition = Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    };
    match found {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    Some(Write::status(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use serde_json::json;

    fn range(name: &str, cidr: &str, deleted: bool, finalizers: &[&str], ready: Option<&str>) -> Arc<ServiceCIDR> {
        let conditions: Vec<_> = ready.map(|s| json!({"type": "Ready", "status": s, "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})).into_iter().collect();
        let at = deleted.then_some("2026-01-01T00:00:00Z");
        object(json!({"metadata": {"name": name, "finalizers": finalizers, "deletionTimestamp": at},
            "spec": {"cidrs": [cidr]}, "status": {"conditions": conditions}}))
    }

    /// What is written, and whether it says that the range is ready.
    fn shown(view: &View, seconds: i64) -> String {
        let text = show(&ServiceCidrs::plan(view, at(seconds)));
        let ready = ["True", "False"].iter().find(|status| text.contains(&format!(r#""status":"{status}""#)));
        [text.split(" {").next().unwrap_or_default().trim(), ready.unwrap_or(&"")].join(" ").trim().to_owned()
    }

    #[test]
    fn a_range_is_kept_and_ready() {
        let check = |range| shown(&View { range, others: Vec::new(), held: Vec::new() }, 0);
        assert_eq!(check(range("r", "10.0.0.0/24", false, &[], None)), "update ServiceCIDR r");
        assert_eq!(check(range("r", "10.0.0.0/24", false, &[FINALIZER], None)), "status ServiceCIDR r True");
        assert_eq!(check(range("r", "10.0.0.0/24", false, &[FINALIZER], Some("True"))), "");
    }

    #[test]
    fn a_range_goes_when_no_service_needs_it() {
        let check = |held: &str, other: Option<&str>, seconds: i64| {
            let range = range("r", "10.0.0.0/24", true, &[FINALIZER], Some("True"));
            let others = other.map(|cidr| self::range("o", cidr, false, &[FINALIZER], Some("True")));
            let held = vec![held.parse().expect("an address")];
            shown(&View { range, others: others.into_iter().collect(), held }, seconds)
        };
        assert_eq!(check("10.0.0.7", None, 20), "status ServiceCIDR r False");
        assert_eq!(check("10.0.0.7", Some("10.1.0.0/16"), 20), "status ServiceCIDR r False");
        assert_eq!(check("10.0.0.7", Some("10.0.0.0/16"), 20), "update ServiceCIDR r");
        assert_eq!(check("10.1.0.7", None, 20), "update ServiceCIDR r");
        assert_eq!(check("10.1.0.7", None, 4), "again in 6s");
    }
}
