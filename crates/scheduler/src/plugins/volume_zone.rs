//! VolumeZone: a volume labelled with zones or regions is used only there (`plugins/volumezone`).

use super::{Filter, volume_binding::not_found};
use crate::cycle::{Cycle, Refusal};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::meta::MetaExt;
use machinery::volumes;

pub(super) const FILTER: Filter = Filter { name: "VolumeZone", hears: Events::NODE.and(Events::STORAGE), check };

/// Labels with a place as value, and the name that replaced them.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// Label of a volume, its newer name, and the places it may be.
type Place = (&'static str, &'static str, Vec<String>);

/// Where the pod's volumes are.
#[derive(Debug, Default)]
pub(crate) struct State(Vec<Place>);

impl State {
    /// `getPVbyPod`
    pub(crate) fn begin(pod: &PodInfo, snapshot: &Snapshot) -> Result<Self, Refusal> {
        let mut state = State::default();
        for (name, _) in pod.claims.iter().filter(|(_, ephemeral)| !ephemeral) {
            let Some(claim) = snapshot.volumes.claim(pod.pod.namespace(), name) else {
                return Err(Refusal::of_node(not_found("persistentvolumeclaim", name)));
            };
            let volume = volumes::volume_name(claim);
            if volume.is_empty() {
                // Claims that are not bound and do not wait for a consumer were refused before.
                continue;
            }
            let Some(volume) = snapshot.volumes.volume(volume) else {
                return Err(Refusal::of_node(not_found("persistentvolume", volume)));
            };
            for (label, newer) in LABELS {
                let places = volume.label(label).map(|v| v.split("__").map(str::to_owned).collect());
                state.0.extend(places.map(|p| (label, newer, p)));
            }
        }
        Ok(state)
    }
}

fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Refusal> {
    if cycle.zones.0.is_empty() || !LABELS.iter().any(|(label, _)| node.labels().contains_key(*label)) {
        return Ok(());
    }
    let fits = |(label, newer, places): &Place| {
        let here = node.labels().get(*label).or_else(|| node.labels().get(*newer));
        here.is_some_and(|value| places.contains(value))
    };
    if cycle.zones.0.iter().all(fits) { Ok(()) } else { Err(Refusal::of_node("node(s) had no available volume zone")) }
}
