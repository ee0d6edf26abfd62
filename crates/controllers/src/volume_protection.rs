//! ClaimProtection and VolumeProtection: claims that pods use, and volumes that claims use, are not deleted before that ends
//! (`pkg/controller/volume/pvcprotection`, `pkg/controller/volume/pvprotection`).
//!
//! Watches   PersistentVolumeClaim (self) and Pod (by the claims it uses); PersistentVolume (self).
//! Writes    the finalizers `kubernetes.io/pvc-protection` and `kubernetes.io/pv-protection`.
//! Reads     pods from the server, too, before a claim goes: the cache may not know the newest.

use crate::plan::{Done, Key, Plan, Task, Write};
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError, ListParams};
use jiff::Timestamp;
use machinery::volumes;
use std::sync::Arc;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

pub(crate) struct ClaimProtection;
pub(crate) struct VolumeProtection;

pub(crate) struct View {
    claim: Arc<PersistentVolumeClaim>,
    used: bool,
}

impl Controller for ClaimProtection {
    const NAME: &'static str = "pvc-protection-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<PersistentVolumeClaim>();
        watches.map::<Pod>(|_, change| {
            let pods = [&change.old, &change.new].into_iter().flatten();
            pods.flat_map(|pod| claims(pod).map(|(name, _)| Key::new(pod.namespace(), &name))).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let claim = ctx.cache::<PersistentVolumeClaim>().get(&key.namespace, &key.name)?;
        let pods = ctx.cache::<Pod>();
        let used = claim.is_deleting() && pods.list_in(&key.namespace).iter().any(|pod| uses(pod, &claim));
        Some(View { claim, used })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let write = protect(view.claim.as_ref(), CLAIM_FINALIZER, view.used);
        plan.writes.extend(match write {
            Some(_) if view.claim.is_deleting() => Some(Write::run(GiveUp { claim: view.claim.clone() })),
            other => other,
        });
        plan
    }
}

impl Controller for VolumeProtection {
    const NAME: &'static str = "pv-protection-controller";
    type View = Arc<PersistentVolume>;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<PersistentVolume>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<Arc<PersistentVolume>> {
        ctx.cache::<PersistentVolume>().get("", &key.name)
    }

    fn plan(volume: &Arc<PersistentVolume>, _: Timestamp) -> Plan {
        let used = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let mut plan = Plan::done();
        plan.writes.extend(protect(volume.as_ref(), VOLUME_FINALIZER, used));
        plan
    }
}

fn claims(pod: &Pod) -> impl Iterator<Item = (String, bool)> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| volumes::claim_of(pod, v))
}

/// `podUsesPVCForDeletion`: pods without a node do not start with it any more; pods that ended keep it until they are gone.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let placed = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let shut_down = pod.is_deleting() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let mut named = claims(pod).filter(|(name, _)| name == claim.name());
    placed && named.any(|(_, own)| !own || (!shut_down && volumes::check_owner(pod, claim).is_ok()))
}

/// The finalizer is there while the object is not to go, and taken away when it may.
fn protect<K: Object + Clone>(object: &K, finalizer: &str, used: bool) -> Option<Write> {
    let has = object.has_finalizer(finalizer);
    let mut next = object.clone();
    let finalizers = next.meta_mut().finalizers.get_or_insert_default();
    match (object.is_deleting(), has) {
        (true, true) if !used => finalizers.retain(|f| f != finalizer),
        (false, false) => finalizers.push(finalizer.to_owned()),
        _ => return None,
    }
    Some(Write::update(next))
}

/// Takes the finalizer from a claim that no pod uses, not even one that the cache does not show yet.
struct GiveUp {
    claim: Arc<PersistentVolumeClaim>,
}

#[async_trait]
impl Task for GiveUp {
    fn title(&self) -> String {
        format!("give up PersistentVolumeClaim {}", Key::of(self.claim.as_ref()))
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let params = ListParams { namespace: self.claim.metadata.namespace.clone(), ..ListParams::all() };
        let (pods, _) = client.api::<Pod>().list(&params).await?;
        if pods.iter().any(|pod| uses(pod, &self.claim)) {
            // Its changes wake us.
            return Ok(Done::default());
        }
        let mut next = self.claim.as_ref().clone();
        next.metadata.finalizers.get_or_insert_default().retain(|f| f != CLAIM_FINALIZER);
        client.api::<PersistentVolumeClaim>().update(&next).await?;
        Ok(Done::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check(metadata: Value, pods: &[Value], expected: Expect) {
        let claim: Arc<PersistentVolumeClaim> = object(json!({"metadata": metadata}));
        let used = pods.iter().any(|fields| uses(&pod("p", fields.clone()), &claim));
        expected.assert_eq(&show(&ClaimProtection::plan(&View { claim, used }, at(0))));
    }

    fn deleting() -> Value {
        json!({"name": "c", "namespace": "ns", "deletionTimestamp": at(0).to_string(), "finalizers": [CLAIM_FINALIZER, "other"]})
    }

    #[test]
    fn a_claim_is_protected_from_the_start() {
        check(json!({"name": "c", "namespace": "ns"}), &[], expect![["update PersistentVolumeClaim ns/c\n"]]);
        check(json!({"name": "c", "namespace": "ns", "finalizers": [CLAIM_FINALIZER]}), &[], expect![""]);
    }

    #[test]
    fn a_deleted_claim_stays_while_a_placed_pod_uses_it() {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        check(deleting(), &[json!({"spec": {"nodeName": "n", "volumes": volumes}})], expect![""]);
        check(deleting(), &[json!({"spec": {"volumes": volumes}})], expect![["give up PersistentVolumeClaim ns/c\n"]]);
        check(deleting(), &[], expect![["give up PersistentVolumeClaim ns/c\n"]]);
    }
}
