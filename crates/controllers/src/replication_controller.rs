//! ReplicationController: the ReplicaSet's elder, kept by the same plan (`replicaset.rs`).
//!
//! Watches, writes, invariant and differences: see there. Upstream: `pkg/controller/replication/conversion.go`.

use crate::replicaset::{Counts, Replicas, Replicated};
use api::k8s::api::core::v1::ReplicationControllerCondition;
use api::prelude::*;
use jiff::Timestamp;
use machinery::selector::LabelSelector;

/// `replication-controller`
pub(crate) type ReplicationControllers = Replicas<ReplicationController>;

const FAILURE: &str = "ReplicaFailure";

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }
    fn selector(&self) -> Option<LabelSelector> {
        let set = self.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())?;
        Some(LabelSelector::from_set(set))
    }
    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn failure(&self) -> Option<(String, String)> {
        let conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let found = conditions.into_iter().find(|c| c.type_ == FAILURE && c.status == "True")?;
        Some((found.reason.clone()?, found.message.clone()?))
    }
    fn with_status(&self, counts: &Counts, failure: Option<(String, String)>, now: Timestamp) -> Self {
        let changed = failure != self.failure();
        let mut next = self.clone();
        let status = next.status.get_or_insert_default();
        let some = |n: i32| Some(n).filter(|n| *n > 0);
        status.replicas = counts.replicas;
        status.fully_labeled_replicas = some(counts.fully_labeled);
        status.ready_replicas = some(counts.ready);
        status.available_replicas = some(counts.available);
        status.observed_generation = self.metadata.generation;
        if changed {
            let conditions = status.conditions.get_or_insert_default();
            conditions.retain(|c| c.type_ != FAILURE);
            conditions.extend(failure.map(|(reason, message)| ReplicationControllerCondition {
                type_: FAILURE.into(),
                status: "True".into(),
                reason: Some(reason),
                message: Some(message),
                last_transition_time: Some(api::Time(now)),
            }));
            status.conditions = status.conditions.take().filter(|c| !c.is_empty());
        }
        next
    }
    fn differs(&self, other: &Self) -> bool {
        self.status != other.status
    }
}
