//! DynamicResources: claims that have devices must be usable on the node, for the others there must be devices
//! (`plugins/dynamicresources`). The search is in `devices/`; what was found is written before the pod is bound (`reserve.rs`).

use super::{Filter, Score, highest_best};
use crate::cycle::{Cycle, Refusal};
use crate::devices::extended::{self, Extended};
use crate::devices::{self, ClaimPlan, ClaimStep, Devices, Effort, Failure, Wanted, readiness};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::k8s::api::resource::v1::{AllocationResult, ResourceClaim};
use api::meta::MetaExt;
use jiff::Timestamp;
use machinery::field::Path;
use machinery::resource_claims as claims;
use machinery::selector::NodeSelector;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

const NAME: &str = "DynamicResources";
const UNAVAILABLE: &str = "resourceclaim not available on the node";
/// What the first of alternatives is worth (`FirstAvailableDeviceRequestMaxSize`).
const FIRST_AVAILABLE: i64 = 8;

pub(super) const FILTER: Filter = Filter {
    name: NAME,
    hears: Events::NODE.and(Events::DEVICE).and(Events::CLAIM),
    check: |cycle, node| match &cycle.devices {
        Some(state) => state.allocations(cycle, node).map(drop),
        None => Ok(()),
    },
};

pub(super) const SCORE: Score = Score {
    name: NAME,
    weight: 2,
    score: |scoring, node| scoring.cycle.devices.as_ref().map_or(0, |state| state.score(scoring.cycle, node)),
    normalize: highest_best,
};

/// The pod's claims of devices.
#[derive(Debug, Default)]
pub(crate) struct State {
    claims: Vec<Known>,
    /// Those that have no devices yet, in the same order.
    wanted: Vec<Wanted>,
    resources: Option<ExtendedResources>,
    /// Whether alternatives are asked for.
    has_alternatives: bool,
    /// Of all nodes together.
    effort: Cell<Effort>,
    /// By node: what was found there. Who else is on the node does not matter.
    known: RefCell<BTreeMap<String, Allocations>>,
}

/// What is found on a node.
type Allocations = Result<Rc<Found>, Refusal>;

#[derive(Debug, Default)]
struct Found {
    /// What each claim without devices gets; last the one for extended resources.
    allocations: Vec<AllocationResult>,
    extended: Option<Extended>,
}

/// A pod asks for extended resources that may be devices.
#[derive(Debug)]
enum ExtendedResources {
    /// These.
    Wanted(Vec<String>),
    /// An attempt before made a claim for them and failed. It is deleted: which devices are right now is not known.
    Made(Arc<ResourceClaim>),
}

impl ExtendedResources {
    fn of(pod: &PodInfo, devices: &Devices) -> Option<Self> {
        let asked = pod.requests.scalar.iter().filter(|(_, amount)| **amount > 0).map(|(name, _)| name);
        let wanted: Vec<String> = asked.filter(|name| extended::class_of(devices, name).is_some()).cloned().collect();
        if wanted.is_empty() {
            return None;
        }
        Some(extended::find(devices, &pod.pod).map_or(ExtendedResources::Wanted(wanted), ExtendedResources::Made))
    }
}

#[derive(Debug)]
struct Known {
    claim: Arc<ResourceClaim>,
    /// Where its devices can be used, if it has some and they cannot be used everywhere.
    nodes: Option<NodeSelector>,
    /// They will not become ready.
    is_useless: bool,
}

/// The claims of a pod, or which of them is missing: until they are there, the pod is not tried (`foreachPodResourceClaim`).
/// Each once, though several of the pod's entries may name it.
pub(crate) fn find(pod: &PodInfo, snapshot: &Snapshot) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let (mut found, mut names) = (Vec::new(), BTreeSet::new());
    let pod = pod.pod.as_ref();
    for entry in claims::of_pod(pod) {
        let Some((name, own)) = claims::name_of(pod, entry).map_err(|why| why.to_string())? else { continue };
        let claim = snapshot.devices.claim(pod.namespace(), name);
        let claim = claim.ok_or_else(|| super::volume_binding::not_found("resourceclaim.resource.k8s.io", name))?;
        if claim.is_deleting() {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        if own {
            claims::check_owner(pod, claim)?;
        }
        if names.insert(name) {
            found.push(claim.clone());
        }
    }
    Ok(found)
}

impl State {
    /// `None`: there are none. `Err`: no node will do (`PreFilter`).
    pub(crate) fn begin(
        pod: &PodInfo,
        found: Vec<Arc<ResourceClaim>>,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        let resources = ExtendedResources::of(pod, &snapshot.devices);
        if found.is_empty() && resources.is_none() {
            return Ok(None);
        }
        let mut state = State { resources, ..State::default() };
        for claim in found {
            let nodes = claims::allocation(&claim).map(|allocation| allocation.node_selector.as_ref());
            if nodes.is_none() {
                if snapshot.devices.is_pending(&claim) {
                    let name = format!("{}/{}", claim.namespace(), claim.name());
                    let why = format!("resource claim {name} is in the process of being allocated");
                    return Err(Refusal::of_node(why));
                }
                state.wanted.push(Wanted::read(&claim, &snapshot.devices).map_err(Refusal::of_node)?);
            }
            state.has_alternatives |= alternatives(&claim).next().is_some();
            let nodes = nodes.flatten().map(|selector| NodeSelector::new(selector, &Path::new("nodeSelector")));
            let is_useless = readiness::check(&claim, now).is_err();
            state.claims.push(Known { claim, nodes, is_useless });
        }
        Ok(Some(state))
    }

    /// What is found on a node.
    fn allocations(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Allocations {
        if let Some(known) = self.known.borrow().get(node.name()) {
            return known.clone();
        }
        let found = self.look(cycle, node);
        self.known.borrow_mut().insert(node.name().to_owned(), found.clone());
        found
    }

    fn look(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Allocations {
        let extended = match &self.resources {
            Some(ExtendedResources::Made(_)) => {
                return Err(Refusal::of_node("cannot schedule extended resource claim"));
            }
            Some(ExtendedResources::Wanted(names)) => self.extended(cycle, node, names),
            None => None,
        };
        let found = self.search(cycle, node, extended)?;
        if self.claims.iter().any(|known| !known.is_available(node)) {
            return Err(Refusal::of_node(UNAVAILABLE));
        }
        Ok(Rc::new(found))
    }

    /// The claim for those of the resources that the node has as devices.
    fn extended(&self, cycle: &Cycle<'_>, node: &NodeInfo, names: &[String]) -> Option<Extended> {
        let devices = &cycle.snapshot.devices;
        let here = names.iter().map(String::as_str);
        let here = here.filter(|name| extended::is_of_devices(devices, name, &node.allocatable)).collect();
        extended::claim(devices, &cycle.pod.pod, &here)
    }

    fn search(&self, cycle: &Cycle<'_>, node: &NodeInfo, extended: Option<Extended>) -> Result<Found, Refusal> {
        let devices = &cycle.snapshot.devices;
        let made = extended.as_ref().map(|extended| Wanted::read(&extended.claim, devices)).transpose();
        let made = made.map_err(Refusal::of_node)?;
        let wanted: Vec<&Wanted> = self.wanted.iter().chain(&made).collect();
        if wanted.is_empty() {
            return Ok(Found::default());
        }
        let mut effort = self.effort.get();
        let found = devices::allocate(devices, &wanted, node, &mut effort);
        self.effort.set(effort);
        found.map(|allocations| Found { allocations, extended }).map_err(|failure| match failure {
            Failure::NotEnough => Refusal::of_node("cannot allocate all claims"),
            Failure::InvalidPools => Refusal::of_node("invalid resource pools were encountered"),
            Failure::Broken(why) => Refusal::error(NAME, &why),
            Failure::TooLong => {
                Refusal::error(NAME, &format!("node {}: timed out trying to allocate devices", node.name()))
            }
        })
    }

    /// Earlier alternatives are better (`computeScore`).
    fn score(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
        if !self.has_alternatives {
            return 0;
        }
        let found = self.allocations(cycle, node).unwrap_or_default();
        let mut found = found.allocations.iter();
        let of = |known: &Known| {
            let allocation = claims::allocation(&known.claim).or_else(|| found.next());
            let chosen: BTreeSet<&str> = claims::results(allocation).map(|result| result.request.as_str()).collect();
            let listed = alternatives(&known.claim).filter(|(_, name)| chosen.contains(name.as_str()));
            listed.map(|(place, _)| FIRST_AVAILABLE - place).sum::<i64>()
        };
        self.claims.iter().map(of).sum()
    }

    /// The claim that an attempt before made for extended resources, if it did.
    pub(crate) fn made_before(&self) -> Option<&Arc<ResourceClaim>> {
        match &self.resources {
            Some(ExtendedResources::Made(claim)) => Some(claim),
            _ => None,
        }
    }

    /// A claim whose devices are of no use where the pod could run otherwise, and that nobody else uses: it is better to
    /// give them back (`PostFilter`).
    pub(crate) fn to_give_back(
        &self,
        cycle: &Cycle<'_>,
        refused: &BTreeMap<&str, Refusal>,
    ) -> Option<Arc<ResourceClaim>> {
        let here = refused.iter().filter(|(_, refusal)| refusal.reasons.iter().any(|reason| reason == UNAVAILABLE));
        let nodes: Vec<&NodeInfo> = here.filter_map(|(name, _)| cycle.snapshot.node(name)).collect();
        let mut idle = self.claims.iter().filter(|known| claims::is_only_for(&known.claim, &cycle.pod.pod));
        idle.find(|known| nodes.iter().any(|node| !known.is_available(node))).map(|known| known.claim.clone())
    }
}

impl Known {
    /// Whether the devices it has can be used on the node. A mistake in where is one of whoever wrote the allocation.
    fn is_available(&self, node: &NodeInfo) -> bool {
        let here = |nodes: &NodeSelector| nodes.matches(node.name(), node.labels()).unwrap_or(false);
        !self.is_useless && self.nodes.as_ref().is_none_or(here)
    }
}

/// Place and name of each alternative of a claim's requests.
fn alternatives(claim: &ResourceClaim) -> impl Iterator<Item = (i64, String)> {
    let requests = claim.spec.devices.iter().flat_map(|d| d.requests.iter().flatten());
    requests.flat_map(|request| {
        let listed = (0..).zip(request.first_available.iter().flatten());
        listed.map(|(place, alternative)| (place, format!("{}/{}", request.name, alternative.name)))
    })
}

/// What is to be done about the pod's claims on this node.
pub(crate) fn plan(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<ClaimPlan, Refusal> {
    let Some(state) = &cycle.devices else { return Ok(ClaimPlan::default()) };
    let on_node = state.allocations(cycle, node)?;
    let mut found = on_node.allocations.iter().cloned();
    let step = |known: &Known| ClaimStep {
        claim: known.claim.clone(),
        allocation: if claims::allocation(&known.claim).is_none() { found.next() } else { None },
        makes: None,
    };
    let mut steps: Vec<ClaimStep> = state.claims.iter().map(step).collect();
    steps.extend(on_node.extended.iter().map(|extended| ClaimStep {
        claim: extended.claim.clone(),
        allocation: found.next(),
        makes: Some(extended.mappings.clone()),
    }));
    Ok(ClaimPlan(steps))
}
