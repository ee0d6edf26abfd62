//! [`Cycle`]: what filters share during one attempt to place a pod, computed once before the nodes are looked at
//! (upstream's PreFilter and CycleState), and kept right when pods are added or taken away in thought.

use crate::events::Events;
use crate::plugins::{
    FILTERS, dynamic_resources, inter_pod_affinity, topology_spread, volume_binding, volume_restrictions, volume_zone,
};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::k8s::api::resource::v1::ResourceClaim;
use jiff::Timestamp;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Why a node, or the pod as a whole, is out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// One reason, or several (one per missing resource).
    pub(crate) reasons: Vec<Cow<'static, str>>,
    /// What would have to change.
    pub(crate) cause: Cause,
}

/// What has to change before a refusal can be another answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Other pods are in the way (`Unschedulable`).
    Pods,
    /// Whatever runs there (`UnschedulableAndUnresolvable`).
    Node,
    /// Something is wrong, and no other node may be tried before that is mended (`Error`).
    Error,
}

impl Refusal {
    /// Other pods are in the way.
    pub(crate) fn by_pods(reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal { reasons: vec![reason.into()], cause: Cause::Pods }
    }

    /// Whatever runs there.
    pub(crate) fn of_node(reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal { reasons: vec![reason.into()], cause: Cause::Node }
    }

    /// Something is wrong; `plugin` found it.
    pub(crate) fn error(plugin: &str, why: &str) -> Self {
        let reason = format!("running {plugin:?} filter plugin: {why}");
        Refusal { reasons: vec![reason.into()], cause: Cause::Error }
    }
}

/// See the file's head.
#[derive(Clone)]
pub(crate) struct Cycle<'a> {
    pub(crate) pod: &'a PodInfo,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) affinity: inter_pod_affinity::State,
    pub(crate) spread: topology_spread::State<'a>,
    pub(crate) volumes: volume_binding::State,
    pub(crate) zones: Arc<volume_zone::State>,
    /// How many others use claims that only one pod may use.
    pub(crate) exclusive: volume_restrictions::State,
    /// Claims of devices, if the pod has some.
    pub(crate) devices: Option<Rc<dynamic_resources::State>>,
    /// The only nodes to look at.
    pub(crate) only: Option<&'a BTreeSet<String>>,
}

impl<'a> Cycle<'a> {
    /// Prepares; `claims` are the pod's, of devices. `Err`: no node will do, and what may change that.
    pub(crate) fn begin(
        pod: &'a PodInfo,
        claims: Vec<Arc<ResourceClaim>>,
        snapshot: &'a Snapshot,
        now: Timestamp,
    ) -> Result<Self, (Refusal, Events)> {
        let storage = |refusal| (refusal, Events::STORAGE | Events::NODE);
        let devices = |refusal| (refusal, Events::CLAIM | Events::DEVICE);
        if pod.named_nodes.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err((Refusal::of_node("pod affinity terms conflict"), Events::NONE));
        }
        Ok(Cycle {
            pod,
            snapshot,
            exclusive: volume_restrictions::State::begin(pod, snapshot).map_err(storage)?,
            volumes: volume_binding::State::begin(pod, snapshot).map_err(storage)?,
            zones: Arc::new(volume_zone::State::begin(pod, snapshot).map_err(storage)?),
            affinity: inter_pod_affinity::State::begin(pod, snapshot),
            spread: topology_spread::State::begin(pod, snapshot),
            devices: dynamic_resources::State::begin(pod, claims, snapshot, now).map_err(devices)?.map(Rc::new),
            only: pod.named_nodes.as_ref(),
        })
    }

    /// Whether the pod may go to a node as it is now. `Err`: why not, and what may change that.
    pub(crate) fn check(&self, node: &NodeInfo) -> Result<(), (Refusal, Events)> {
        FILTERS.iter().try_for_each(|f| (f.check)(self, node).map_err(|refusal| (refusal, f.hears)))
    }

    /// The same with room left for pods of at least this priority to which the node was promised, and without them
    /// (`RunFilterPluginsWithNominatedPods`).
    pub(crate) fn check_with_promises(&self, node: &NodeInfo) -> Result<(), (Refusal, Events)> {
        let (own, priority) = (self.pod.pod.metadata.uid.as_ref(), self.pod.priority());
        let others = self.snapshot.nominated_on(node.name());
        let others = others.filter(|p| p.priority() >= priority && p.pod.metadata.uid.as_ref() != own);
        let mut others = others.peekable();
        if others.peek().is_some() {
            let (mut with, mut full) = (self.clone(), node.clone());
            for pod in others {
                full.add(pod.clone());
                with.count(pod, node, 1);
            }
            with.check(&full)?;
        }
        self.check(node)
    }

    /// A pod comes to a node or (`sign` -1) goes from it, in thought.
    pub(crate) fn count(&mut self, other: &PodInfo, node: &NodeInfo, sign: i64) {
        self.affinity.count(self.pod, self.snapshot, other, node, sign);
        self.spread.count(self.pod, other, node, sign);
        self.exclusive.count(self.pod, other, sign);
    }
}
