//! Expand: tells who is waited for when a claim asks for more than it has (`pkg/controller/volume/expand`).
//!
//! Watches   PersistentVolumeClaim (self, when it grew). Reads PersistentVolume.
//! Writes    nothing but events: volumes are resized by the external resizer of their CSI driver and by the node.
//! Differs   from upstream: there is no kind of volume that this controller itself could resize, so none is tried.

use crate::plan::{Key, Plan, PlannedEvent};
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use client::EventKind;
use jiff::Timestamp;
use machinery::volumes;
use std::sync::Arc;

/// On a volume: how large it was before a resize that its file system has not followed yet.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

pub(crate) struct Expand;

pub(crate) struct View {
    claim: Arc<PersistentVolumeClaim>,
    volume: Arc<PersistentVolume>,
}

impl Controller for Expand {
    const NAME: &'static str = "volume_expand";
    const ACCOUNT: &'static str = "expand-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<PersistentVolumeClaim>(|_, change| {
            let grew = match (&change.old, &change.new) {
                (Some(old), Some(new)) => volumes::requested(new) > volumes::requested(old) || has(new) > has(old),
                (None, Some(_)) => true,
                _ => false,
            };
            grew.then(|| Key::of(change.latest().as_ref())).into_iter().collect()
        });
        watches.reads::<PersistentVolume>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let claim = ctx.cache::<PersistentVolumeClaim>().get(&key.namespace, &key.name)?;
        let volume = ctx.cache::<PersistentVolume>().get("", volumes::volume_name(&claim))?;
        Some(View { claim, volume })
    }

    fn plan(View { claim, volume }: &View, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
            && volumes::claim_ref(volume).is_some_and(|r| r.uid.as_deref() == Some(claim.uid()));
        if bound && (volumes::requested(claim) > has(claim) || volume.annotation(PRE_RESIZE).is_some()) {
            let text = "waiting for an external controller to expand this PVC";
            plan.events.push(PlannedEvent::new(claim.as_ref(), EventKind::Normal, "ExternalExpanding", text));
        }
        plan
    }
}

/// How much a claim has got.
fn has(claim: &PersistentVolumeClaim) -> Option<machinery::quantity::Quantity> {
    volumes::storage(claim.status.as_ref()?.capacity.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(wanted: &str, has: &str, expected: Expect) {
        let claim = object(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": wanted}}},
            "status": {"phase": "Bound", "capacity": {"storage": has}},
        }));
        let volume = object(json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "u"}}}));
        expected.assert_eq(&show(&Expand::plan(&View { claim, volume }, at(0))));
    }

    #[test]
    fn a_claim_that_asks_for_more_waits_for_somebody_else() {
        check(
            "2Gi",
            "1Gi",
            expect![["event Normal ExternalExpanding: waiting for an external controller to expand this PVC\n"]],
        );
        check("1Gi", "1024Mi", expect![[""]]);
    }
}
