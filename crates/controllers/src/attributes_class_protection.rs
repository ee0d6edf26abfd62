//! Keeps VolumeAttributesClasses until no claim and no volume names them: takes their finalizer off then
//! (`pkg/controller/volume/vacprotection`). Admission puts it on.
//!
//! Watches   VolumeAttributesClass (self), PersistentVolumeClaim, PersistentVolume.
//! Writes    VolumeAttributesClass: `metadata.finalizers`.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::k8s::api::storage::v1::VolumeAttributesClass;
use api::prelude::*;
use jiff::Timestamp;
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/vac-protection";

pub(crate) struct AttributesClassProtection;

pub(crate) struct View {
    class: Arc<VolumeAttributesClass>,
    used: bool,
}

impl Controller for AttributesClassProtection {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<VolumeAttributesClass>();
        watches.map::<PersistentVolumeClaim>(|_, change| {
            let old = change.old.as_deref().map(of_claim).unwrap_or_default();
            old.into_iter().map(|name| Key::new("", &name)).collect()
        });
        watches.map::<PersistentVolume>(|_, change| {
            let old = change.old.as_deref().and_then(of_volume);
            old.into_iter().map(|name| Key::new("", &name)).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let class = ctx.cache::<VolumeAttributesClass>().get("", &key.name)?;
        let claims = ctx.cache::<PersistentVolumeClaim>().list();
        let volumes = ctx.cache::<PersistentVolume>().list();
        let used = claims.iter().any(|c| of_claim(c).contains(&key.name))
            || volumes.iter().any(|v| of_volume(v).as_ref() == Some(&key.name));
        Some(View { class, used })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let mut class = view.class.as_ref().clone();
        let finalizers = class.metadata.finalizers.get_or_insert_default();
        match (view.class.is_deleting(), view.class.has_finalizer(FINALIZER)) {
            (true, true) if !view.used => finalizers.retain(|f| f != FINALIZER),
            (false, false) => finalizers.push(FINALIZER.to_owned()),
            _ => return plan,
        }
        plan.writes.push(Write::update(class));
        plan
    }
}

fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    machinery::quota::attributes_classes(claim).into_iter().map(str::to_owned).collect()
}

fn of_volume(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.volume_attributes_class_name.clone().filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, show};
    use serde_json::json;

    #[test]
    fn a_class_goes_when_nobody_names_it() {
        let check = |deleted: bool, used: bool, finalizers: &[&str]| {
            let at = deleted.then_some("2026-01-01T00:00:00Z");
            let class = json!({"metadata": {"name": "gold", "deletionTimestamp": at, "finalizers": finalizers}, "driverName": "d"});
            show(&AttributesClassProtection::plan(&View { class: object(class), used }, Timestamp::UNIX_EPOCH))
        };
        assert_eq!(check(true, true, &[FINALIZER]), "");
        assert_eq!(check(true, false, &[FINALIZER]), "update VolumeAttributesClass gold\n");
        assert_eq!(check(false, false, &[]), "update VolumeAttributesClass gold\n");
        assert_eq!(check(false, false, &[FINALIZER]), "");
    }
}
