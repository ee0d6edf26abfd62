//! DeviceTaintEviction: deletes pods whose devices have NoExecute taints that their claims do not tolerate, or not any longer
//! (`pkg/controller/devicetainteviction/device_taint_eviction.go`).
//!
//! Watches   Pod (self), ResourceClaim (by the pods it is reserved for), ResourceSlice (by the pods of claims with devices of
//!           its pool).
//! Writes    Pod/status (DisruptionTarget), Pod delete.
//! Differs   from upstream: no event says that a pod is not going to be deleted after all; no DeviceTaintRules, which are off
//!           there.

use crate::plan::{Key, Plan};
use crate::pods::{self, Eviction};
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::PodResourceClaimStatus;
use api::k8s::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use api::prelude::*;
use client::Change;
use jiff::{SignedDuration, Timestamp};
use machinery::resource_claims as claims;
use machinery::selector::tolerates;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NO_EXECUTE: &str = "NoExecute";

pub(crate) struct DeviceTaintEviction;

/// Driver and name.
type PoolId = (String, String);

/// NoExecute taints, by the names of the devices that have some.
type Taints = BTreeMap<String, Vec<DeviceTaint>>;

/// Slices by pool and name.
#[derive(Default)]
pub(crate) struct Pools(BTreeMap<PoolId, BTreeMap<String, Slice>>);

/// What of a slice matters.
struct Slice {
    generation: i64,
    taints: Taints,
}

pub(crate) struct View {
    pod: Arc<Pod>,
    /// Its devices with NoExecute taints.
    tainted: Vec<Tainted>,
}

/// A device's NoExecute taints, and what the claim that got it tolerates.
struct Tainted {
    taints: Vec<DeviceTaint>,
    tolerations: Vec<DeviceToleration>,
}

impl Controller for DeviceTaintEviction {
    const NAME: &'static str = "device-taint-eviction-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Pod>(|_, change| {
            let old = change.old.as_deref().map(what_matters);
            let news = change.new.iter().filter(|pod| old != Some(what_matters(pod)));
            let news = news.filter(|pod| pods::is_placed(pod) && claims::of_pod(pod).next().is_some());
            news.map(|pod| Key::of(pod.as_ref())).collect()
        });
        watches.map::<ResourceClaim>(|_, change| {
            let both = change.old.iter().chain(&change.new);
            let mut keys: Vec<Key> = both.filter(|claim| claims::allocation(claim).is_some()).flat_map(users).collect();
            keys.sort();
            keys.dedup();
            keys
        });
        watches.map::<ResourceSlice>(slice_keys);
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let pod = ctx.cache::<Pod>().get(&key.namespace, &key.name)?;
        let (all, pools) = (ctx.cache::<ResourceClaim>(), ctx.shared::<Mutex<Pools>>());
        let used: Vec<_> = of_pod(&pod, |name| all.get(&key.namespace, name));
        let pools = pools.lock();
        let tainted = used.iter().flat_map(|claim| claims::results(claims::allocation(claim)));
        let tainted = tainted.filter_map(|result| pools.tainted(result)).collect();
        Some(View { pod, tainted })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let pod = view.pod.as_ref();
        if pod.is_deleting() || !pods::is_placed(pod) {
            return plan;
        }
        match view.tainted.iter().filter_map(Tainted::ends).min() {
            Some(end) if end > now => plan.again(Duration::try_from(end.duration_since(now)).unwrap_or_default()),
            Some(_) => pods::evict(pod, &EVICTION, now, &mut plan),
            None => {}
        }
        plan
    }
}

const EVICTION: Eviction = Eviction {
    event: "DeviceTaintManagerEviction",
    text: "Marking for deletion",
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
};

/// What of a pod decides which claims it uses, and whether it is somewhere.
fn what_matters(pod: &Pod) -> (Option<&str>, Option<&Vec<PodResourceClaimStatus>>) {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    (node, pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref()))
}

/// The allocated claims that a pod uses and that are reserved for it (`podEvictionTime`).
fn of_pod(pod: &Pod, claim: impl Fn(&str) -> Option<Arc<ResourceClaim>>) -> Vec<Arc<ResourceClaim>> {
    let named = claims::of_pod(pod).filter_map(|entry| claims::name_of(pod, entry).ok()?);
    let known = named.filter_map(|(name, own)| Some((claim(name)?, own)));
    let its = known.filter(|(claim, own)| !own || claims::check_owner(pod, claim).is_ok());
    its.map(|(claim, _)| claim).filter(|claim| claims::is_reserved_for(claim, pod)).collect()
}

fn users(claim: &Arc<ResourceClaim>) -> impl Iterator<Item = Key> {
    let pods = claims::reserved_for(claim).iter().filter(|consumer| claims::is_pod(consumer));
    pods.map(|consumer| Key::new(claim.namespace(), &consumer.name))
}

/// Keeps the taints of pools. Wakes the pods that have devices of the slice's pool, if those are tainted otherwise now.
fn slice_keys(ctx: &Context, change: &Change<ResourceSlice>) -> Vec<Key> {
    let shared = ctx.shared::<Mutex<Pools>>();
    let moved: Vec<PoolId> = shared.lock().apply(change);
    if moved.is_empty() {
        return Vec::new();
    }
    let of_pool = |result: &DeviceRequestAllocationResult| {
        moved.iter().any(|(driver, pool)| *driver == result.driver && *pool == result.pool)
    };
    let all = ctx.cache::<ResourceClaim>().list();
    let concerned = all.iter().filter(|claim| claims::results(claims::allocation(claim)).any(of_pool));
    concerned.flat_map(users).collect()
}

fn pool_of(slice: &ResourceSlice) -> PoolId {
    (slice.spec.driver.clone(), slice.spec.pool.name.clone())
}

impl Slice {
    fn of(slice: &ResourceSlice) -> Self {
        let evicting = |device: &Device| -> Vec<DeviceTaint> {
            device.taints.iter().flatten().filter(|taint| taint.effect == NO_EXECUTE).cloned().collect()
        };
        let devices = slice.spec.devices.iter().flatten().map(|device| (device.name.clone(), evicting(device)));
        let taints = devices.filter(|(_, taints)| !taints.is_empty()).collect();
        Slice { generation: slice.spec.pool.generation, taints }
    }
}

impl Pools {
    /// Takes a change in; the pools whose devices are tainted otherwise now.
    fn apply(&mut self, change: &Change<ResourceSlice>) -> Vec<PoolId> {
        let mut concerned: Vec<PoolId> = change.old.iter().chain(&change.new).map(|slice| pool_of(slice)).collect();
        concerned.dedup();
        let before: Vec<Taints> = concerned.iter().map(|pool| self.taints(pool)).collect();
        if let Some(old) = &change.old
            && let Some(slices) = self.0.get_mut(&pool_of(old))
        {
            slices.remove(old.name());
            if slices.is_empty() {
                self.0.remove(&pool_of(old));
            }
        }
        if let Some(new) = &change.new {
            self.0.entry(pool_of(new)).or_default().insert(new.name().to_owned(), Slice::of(new));
        }
        let both = concerned.into_iter().zip(before);
        both.filter(|(pool, before)| self.taints(pool) != *before).map(|(pool, _)| pool).collect()
    }

    /// The slices of a pool's newest generation.
    fn newest(&self, pool: &PoolId) -> impl Iterator<Item = &Slice> {
        let slices = self.0.get(pool).into_iter().flat_map(BTreeMap::values);
        let newest = slices.clone().map(|slice| slice.generation).max();
        slices.filter(move |slice| Some(slice.generation) == newest)
    }

    fn taints(&self, pool: &PoolId) -> Taints {
        self.newest(pool).flat_map(|slice| slice.taints.clone()).collect()
    }

    /// A device that a claim has, if it has NoExecute taints.
    fn tainted(&self, result: &DeviceRequestAllocationResult) -> Option<Tainted> {
        let pool = (result.driver.clone(), result.pool.clone());
        let taints = self.newest(&pool).find_map(|slice| slice.taints.get(&result.device))?.clone();
        Some(Tainted { taints, tolerations: result.tolerations.clone().unwrap_or_default() })
    }
}

impl Tainted {
    /// When the first of the taints is tolerated no longer; `None`: never (`claimEvictionTime`).
    fn ends(&self) -> Option<Timestamp> {
        self.taints.iter().filter_map(|taint| tolerated_until(taint, &self.tolerations)).min()
    }
}

fn tolerated_until(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    // The API server says since when it is there.
    let since = taint.time_added.as_ref()?.0;
    // One for all effects does not count.
    let fitting = tolerations.iter().filter(|t| t.effect.as_deref() == Some(NO_EXECUTE) && tolerates(*t, taint));
    let mut least = None;
    for toleration in fitting {
        let seconds = toleration.toleration_seconds?.max(0);
        least = Some(least.map_or(seconds, |least: i64| least.min(seconds)));
    }
    let left = SignedDuration::from_secs(least.unwrap_or(0));
    Some(since.saturating_add(left).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, pod, show};
    use serde_json::{Value, json};

    /// A slice of the pool `p`.
    fn slice(name: &str, generation: i64, devices: Value) -> Arc<ResourceSlice> {
        let pool = json!({"name": "p", "generation": generation, "resourceSliceCount": 1});
        object(json!({"metadata": {"name": name}, "spec": {"driver": "d", "pool": pool, "devices": devices}}))
    }

    /// The device `x` with taints, 100 seconds old if they do not say otherwise.
    fn x(taints: Value) -> Value {
        let mut taints = taints;
        for taint in taints.as_array_mut().expect("a list") {
            let mut whole = json!({"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": at(-100).to_string()});
            merge(&mut whole, taint.clone());
            *taint = whole;
        }
        json!([{"name": "x", "taints": taints}, {"name": "y"}])
    }

    /// A claim that has `x` and tolerates this.
    fn claim(tolerations: Value) -> Arc<ResourceClaim> {
        let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x", "tolerations": tolerations});
        object(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "uid-c"}, "spec": {},
            "status": {
                "allocation": {"devices": {"results": [result]}},
                "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}],
            },
        }))
    }

    fn user(fields: Value) -> Arc<Pod> {
        let mut all = json!({"spec": {"nodeName": "n", "resourceClaims": [{"name": "d", "resourceClaimName": "c"}]}});
        merge(&mut all, fields);
        pod("p", all)
    }

    fn planned(pod: Arc<Pod>, claim: &Arc<ResourceClaim>, slices: &[Arc<ResourceSlice>]) -> String {
        let mut pools = Pools::default();
        for slice in slices {
            pools.apply(&Change { old: None, new: Some(slice.clone()) });
        }
        let used = of_pod(&pod, |name| Some(claim.clone()).filter(|claim| claim.name() == name));
        let results = used.iter().flat_map(|claim| claims::results(claims::allocation(claim)));
        let tainted = results.filter_map(|result| pools.tainted(result)).collect();
        show(&DeviceTaintEviction::plan(&View { pod, tainted }, at(0)))
    }

    const EVICTED: &str = r#"event Normal DeviceTaintManagerEviction: Marking for deletion
patch Pod ns/p status {"metadata":{"uid":"uid-p"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Device Taint manager: deleting due to NoExecute taint","reason":"DeletionByDeviceTaintManager","status":"True","type":"DisruptionTarget"}]}}
delete Pod ns/p
"#;

    #[track_caller]
    fn check(taints: Value, tolerations: Value, expected: &str) {
        assert_eq!(planned(user(json!({})), &claim(tolerations), &[slice("s", 1, x(taints))]), expected);
    }

    #[test]
    fn a_pod_goes_when_its_claim_tolerates_a_taint_no_longer() {
        check(json!([]), json!([]), "");
        check(json!([{}]), json!([]), EVICTED);
        check(json!([{"effect": "NoSchedule"}, {"effect": "None"}]), json!([]), "");
        let tolerates =
            |seconds: Value| json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        check(json!([{}]), tolerates(Value::Null), "");
        check(json!([{}]), tolerates(json!(160)), "again in 60s\n");
        check(json!([{}]), tolerates(json!(100)), EVICTED);
        check(json!([{}]), tolerates(json!(-1)), EVICTED);
        // The shortest counts, of taints and of tolerations.
        check(json!([{}, {"key": "l", "timeAdded": at(-110).to_string()}]), tolerates(json!(160)), "again in 50s\n");
        let both = json!([
            {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 160},
            {"key": "k", "value": "v", "operator": "Equal", "effect": "NoExecute", "tolerationSeconds": 130},
        ]);
        check(json!([{}]), both, "again in 30s\n");
        check(json!([{}]), json!([{"operator": "Exists"}]), EVICTED);
        check(json!([{}]), json!([{"key": "other", "operator": "Exists", "effect": "NoExecute"}]), EVICTED);
    }

    #[test]
    fn only_pods_that_use_the_device_go() {
        let tainted = [slice("s", 1, x(json!([{}])))];
        let forever = claim(json!([]));
        assert_eq!(planned(user(json!({"spec": {"nodeName": ""}})), &forever, &tainted), "");
        let deleting = json!({"metadata": {"deletionTimestamp": at(0).to_string()}});
        assert_eq!(planned(user(deleting), &forever, &tainted), "");
        // The reservation is of an earlier pod of this name.
        assert_eq!(planned(user(json!({"metadata": {"uid": "other"}})), &forever, &tainted), "");
        // A claim made from a template must have been made for the pod.
        let named = json!({"spec": {"resourceClaims": [{"name": "d", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "d", "resourceClaimName": "c"}]}});
        assert_eq!(planned(user(named), &forever, &tainted), "");
    }

    #[test]
    fn only_the_newest_generation_of_a_pool_counts() {
        let (old, new) = (slice("a", 1, x(json!([{}]))), slice("b", 2, x(json!([]))));
        assert_eq!(planned(user(json!({})), &claim(json!([])), &[old.clone(), new.clone()]), "");
        let mut pools = Pools::default();
        let mut moved = |old: Option<&Arc<ResourceSlice>>, new: Option<&Arc<ResourceSlice>>| {
            pools.apply(&Change { old: old.cloned(), new: new.cloned() }).len()
        };
        assert_eq!((moved(None, Some(&new)), moved(None, Some(&old))), (0, 0));
        // The older slice is the newest again.
        assert_eq!((moved(Some(&new), None), moved(Some(&old), None)), (1, 1));
    }

    #[test]
    fn pods_are_looked_at_again_only_for_other_taints() {
        let mut pools = Pools::default();
        let mut last = None;
        let mut moved = |devices: Value| {
            let new = Some(slice("a", 1, devices));
            pools.apply(&Change { old: std::mem::replace(&mut last, new.clone()), new }).len()
        };
        assert_eq!((moved(x(json!([]))), moved(x(json!([{"effect": "NoSchedule"}])))), (0, 0));
        assert_eq!((moved(x(json!([{}]))), moved(x(json!([{}])))), (1, 0));
        assert_eq!((moved(x(json!([{"key": "l"}]))), moved(json!([]))), (1, 1));
    }
}
