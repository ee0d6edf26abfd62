//! Fields of pods whose feature gates are off in 1.36: they are dropped unless the object had them before
//! (`pkg/api/pod/util.go`, `dropDisabledFields`): trust bundles and pod certificates of projected volumes, stop signals,
//! scheduling groups.

use api::k8s::api::core::v1::{Lifecycle, PodSpec, VolumeProjection};

fn sources(spec: &mut PodSpec) -> impl Iterator<Item = &mut VolumeProjection> {
    let volumes = spec.volumes.iter_mut().flatten().filter_map(|v| v.projected.as_mut());
    volumes.flat_map(|p| p.sources.iter_mut().flatten())
}

fn lifecycles(spec: &mut PodSpec) -> impl Iterator<Item = &mut Option<Lifecycle>> {
    let plain = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).map(|c| &mut c.lifecycle);
    plain.chain(spec.ephemeral_containers.iter_mut().flatten().map(|c| &mut c.lifecycle))
}

/// What of the gated is in a spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::kinds) struct Uses {
    bundles: bool,
    certificates: bool,
    signals: bool,
    groups: bool,
}

/// Whether a spec has any of it.
pub(in crate::kinds) fn uses(spec: &mut PodSpec) -> Uses {
    let bundles = sources(spec).any(|s| s.cluster_trust_bundle.is_some());
    let certificates = sources(spec).any(|s| s.pod_certificate.is_some());
    let signals = lifecycles(spec).flatten().any(|l| l.stop_signal.is_some());
    Uses { bundles, certificates, signals, groups: spec.scheduling_group.is_some() }
}

/// Drops what is not in `kept`.
pub(in crate::kinds) fn drop_all_but(kept: Uses, spec: &mut PodSpec) {
    spec.scheduling_group.take_if(|_| !kept.groups);
    for source in sources(spec) {
        source.cluster_trust_bundle.take_if(|_| !kept.bundles);
        source.pod_certificate.take_if(|_| !kept.certificates);
    }
    for lifecycle in lifecycles(spec).filter(|_| !kept.signals) {
        let had = lifecycle.as_mut().is_some_and(|l| l.stop_signal.take().is_some());
        lifecycle.take_if(|l| had && *l == Lifecycle::default());
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{created, flat, read};
    use serde_json::Value;

    const TEMPLATE: &str = "{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {spec: {schedulingGroup: {podGroupName: g}, containers: [{name: c, image: i, lifecycle: {stopSignal: SIGUSR1}}], volumes: [{name: v, projected: {sources: [{clusterTrustBundle: {name: b, path: p}}, {secret: {name: s}}]}}]}}}";

    fn text(object: &dyn api::AnyObject) -> String {
        flat(&serde_json::from_slice::<Value>(&object.encode()).expect("JSON"))
    }

    #[test]
    fn what_is_off_is_dropped_from_new_objects() {
        let new = text(&*created(TEMPLATE).1);
        assert!(
            !new.contains("lifecycle") && !new.contains("schedulingGroup") && !new.contains("clusterTrustBundle"),
            "{new}"
        );
        assert!(new.contains("secret.name: \"s\""), "{new}");
    }

    #[test]
    fn what_was_there_stays() {
        let (kind, old) = read(TEMPLATE);
        let mut new = old.boxed_clone();
        kind.prepare_update(&mut *new, &*old, None);
        let new = text(&*new);
        assert!(new.contains("stopSignal") && new.contains("clusterTrustBundle"), "{new}");
    }
}
