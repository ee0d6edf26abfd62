//! EphemeralVolumes: makes the claims of pods' `ephemeral` volumes (`pkg/controller/volume/ephemeral/controller.go`).
//!
//! Watches   Pod (self), PersistentVolumeClaim (by its pod).
//! Writes    PersistentVolumeClaim create, owned by the pod.

use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use client::EventKind;
use jiff::Timestamp;
use machinery::volumes;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) struct EphemeralVolumes;

pub(crate) struct View {
    pod: Arc<Pod>,
    /// Claims of the right names that exist.
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
}

impl Controller for EphemeralVolumes {
    const NAME: &'static str = "ephemeral-volume-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.owned::<PersistentVolumeClaim, Pod>();
        watches.map::<Pod>(|_, change| {
            let new = change.new.iter().filter(|pod| wanted(pod).next().is_some());
            new.map(|pod| Key::of(pod.as_ref())).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let pod = ctx.cache::<Pod>().get(&key.namespace, &key.name)?;
        let known =
            |name: String| Some((name.clone(), ctx.cache::<PersistentVolumeClaim>().get(&key.namespace, &name)?));
        let claims = wanted(&pod).filter_map(|(_, _, name)| known(name)).collect();
        Some(View { pod, claims })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let pod = view.pod.as_ref();
        if pod.is_deleting() {
            return plan;
        }
        let failed = |volume: &str, why: &str| {
            PlannedEvent::new(pod, EventKind::Warning, "FailedBinding", &format!("ephemeral volume {volume}: {why}"))
        };
        for (volume, template, name) in wanted(pod) {
            match view.claims.get(&name) {
                Some(claim) => {
                    if let Err(why) = volumes::check_owner(pod, claim) {
                        plan.events.push(failed(&volume, &why));
                    }
                }
                None => {
                    let meta = template.metadata.unwrap_or_default();
                    let mut write = Write::create(PersistentVolumeClaim {
                        metadata: ObjectMeta {
                            name: Some(name.clone()),
                            namespace: pod.metadata.namespace.clone(),
                            labels: meta.labels,
                            annotations: meta.annotations,
                            owner_references: Some(vec![pods::controller_ref(pod)]),
                            ..ObjectMeta::default()
                        },
                        spec: Some(template.spec),
                        status: None,
                    });
                    write.on_failure = Some(failed(&volume, &format!("create PVC {name}: {{error}}")));
                    plan.writes.push(write);
                }
            }
        }
        plan
    }
}

type Template = api::k8s::api::core::v1::PersistentVolumeClaimTemplate;

/// Volume, template and name of each claim.
fn wanted(pod: &Pod) -> impl Iterator<Item = (String, Template, String)> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
        Some((volume.name.clone(), template, volumes::claim_of(pod, volume)?.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(claims: &[Arc<PersistentVolumeClaim>], expected: Expect) {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}});
        let volumes =
            json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "x", "emptyDir": {}}]);
        let claims = claims.iter().map(|c| (c.name().to_owned(), c.clone())).collect();
        let view = View { pod: pod("p", json!({"spec": {"volumes": volumes}})), claims };
        expected.assert_eq(&show(&EphemeralVolumes::plan(&view, at(0))));
    }

    #[test]
    fn a_missing_claim_is_made_and_a_foreign_one_is_told_of() {
        check(&[], expect![["create PersistentVolumeClaim ns/p-v\n"]]);
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]);
        let own = object(json!({"metadata": {"name": "p-v", "namespace": "ns", "ownerReferences": owner}}));
        check(&[own], expect![""]);
        let foreign = object(json!({"metadata": {"name": "p-v", "namespace": "ns"}}));
        check(
            &[foreign],
            expect![[r#"
            event Warning FailedBinding: ephemeral volume v: PVC ns/p-v was not created for pod ns/p (pod is not owner)
        "#]],
        );
    }
}
