//! StatefulSet: pods with a name and storage of their own, made, replaced and removed in order.
//!
//! Watches   StatefulSet (self), Pod (by controller; orphans by selector), ControllerRevision (by controller),
//!           PersistentVolumeClaim (read).
//! Writes    Pod create/delete, Pod ownerReferences, PersistentVolumeClaim create/update, ControllerRevision
//!           create/update/delete, StatefulSet/status.
//! Invariant a pod is made only when no pod of its name is left; unless `Parallel`, only when all before it are available.
//! Differs   from upstream (`pkg/controller/statefulset`): a round plans one step from what it sees; pods whose identity
//!           labels were taken off are not repaired; `maxUnavailable` of a rolling update is not used (upstream's gate
//!           `MaxUnavailableStatefulSet` is off by default).

use crate::history::{self, HASH_LABEL, History};
use crate::plan::{Key, Plan, Write};
use crate::pods;
use crate::replicaset::{adopt, release};
use crate::run::{Context, Controller, Watches};
use api::OwnerReference;
use api::k8s::api::apps::v1::{StatefulSetSpec, StatefulSetStatus};
use api::k8s::api::core::v1::{PersistentVolumeClaimVolumeSource, Volume};
use api::prelude::*;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label of revisions (`history.ControllerRevisionHashLabel`).
const REVISION_HASH: &str = "controller.kubernetes.io/hash";

pub(crate) struct StatefulSets;

pub(crate) struct View {
    set: Arc<StatefulSet>,
    /// Pods it controls, or that match its selector and name and have no controller.
    pods: Vec<Arc<Pod>>,
    /// All claims of the namespace that its pods could have, by name.
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// All revisions of the namespace whose names could be its own.
    revisions: Vec<Arc<ControllerRevision>>,
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.reads::<PersistentVolumeClaim>();
        watches.own::<StatefulSet>();
        watches.owned::<Pod, StatefulSet>();
        watches.owned::<ControllerRevision, StatefulSet>();
        watches.map::<Pod>(|ctx, change| orphan_keys(ctx, change.latest()));
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let set = ctx.cache::<StatefulSet>().get(&key.namespace, &key.name)?;
        let selector = selector(&set)?;
        let cache = ctx.cache::<Pod>();
        let mut seen = cache.controlled_by(set.uid());
        let orphans = cache.list_in(&key.namespace).into_iter().filter(|p| p.controller().is_none());
        seen.extend(orphans.filter(|p| matches(&selector, p) && ordinal(&set, p).is_some()));
        let mut claims = BTreeMap::new();
        if set.spec.as_ref().is_some_and(|s| s.volume_claim_templates.as_ref().is_some_and(|t| !t.is_empty())) {
            let all = ctx.cache::<PersistentVolumeClaim>().list_in(&key.namespace);
            let infix = format!("-{}-", key.name);
            let ours = all.into_iter().filter(|c| c.name().contains(&infix));
            claims.extend(ours.map(|c| (c.name().to_owned(), c)));
        }
        let mut revisions = ctx.cache::<ControllerRevision>().list_in(&key.namespace);
        revisions.retain(|r| r.is_controlled_by(set.uid()) || r.name().starts_with(key.name.as_str()));
        Some(View { set, pods: seen, claims, revisions })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let (Some(spec), Some(selector)) = (&view.set.spec, selector(&view.set)) else { return plan };
        let owned = claim(view, &selector, &mut plan);
        let collisions = view.set.status.as_ref().and_then(|s| s.collision_count);
        let known = match history::step(view.set.as_ref(), &spec.template, collisions, REVISION_HASH, &view.revisions) {
            history::Step::Ready(history) => history,
            _ if view.set.is_deleting() => return plan,
            history::Step::First(write) => {
                plan.writes.push(*write);
                return plan;
            }
            history::Step::Collision => {
                let mut next = view.set.as_ref().clone();
                next.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
                plan.writes.push(Write::status(next));
                return plan;
            }
        };
        let world = World::new(view, spec, &known, owned, now);
        let replaced = if view.set.is_deleting() { 0 } else { world.update(&mut plan) };
        world.clean_up(&known, &mut plan);
        world.status(replaced, &mut plan);
        plan
    }
}

/// A StatefulSet with its pods in order.
struct World<'a> {
    view: &'a View,
    spec: &'a StatefulSetSpec,
    now: Timestamp,
    /// The revision that pods not yet updated have.
    current: Arc<ControllerRevision>,
    /// The revision that is wanted.
    update: Arc<ControllerRevision>,
    start: i64,
    /// By ordinal from `start` on; `None` = there is none.
    replicas: Vec<Option<&'a Arc<Pod>>>,
    /// Beyond the wanted ordinals, highest first.
    condemned: Vec<&'a Arc<Pod>>,
}

/// Go on with the next pod, or leave it at that for now.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Stop,
}

impl<'a> World<'a> {
    fn new(
        view: &'a View,
        spec: &'a StatefulSetSpec,
        history: &History,
        owned: Vec<&'a Arc<Pod>>,
        now: Timestamp,
    ) -> Self {
        let start = i64::from(spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0));
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let mut replicas = vec![None; wanted];
        let mut condemned = Vec::new();
        for pod in owned {
            let Some(ordinal) = ordinal(&view.set, pod) else { continue };
            match usize::try_from(ordinal - start).ok().and_then(|at| replicas.get_mut(at)) {
                Some(place) => *place = Some(pod),
                None => condemned.push(pod),
            }
        }
        condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(&view.set, p)));
        let named = view.set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = history.old.iter().find(|r| Some(r.name()) == named).unwrap_or(&history.current).clone();
        World { view, spec, now, current, update: history.current.clone(), start, replicas, condemned }
    }

    /// `updateStatefulSet`; how many pods of the current revision go for the update.
    fn update(&self, plan: &mut Plan) -> i32 {
        let monotonic = self.spec.pod_management_policy.as_deref() != Some("Parallel");
        for at in 0..self.replicas.len() {
            if self.replica(at, monotonic, plan) == Flow::Stop && monotonic {
                return 0;
            }
        }
        self.claims_of_condemned(plan);
        let first_unavailable = self.first_unavailable();
        for pod in &self.condemned {
            if self.condemn(pod, first_unavailable, monotonic, plan) == Flow::Stop && monotonic {
                return 0;
            }
        }
        let pending = |p: &Option<&Arc<Pod>>| p.is_none_or(|p| pods::is_terminal(p));
        if self.replicas.iter().any(pending) { 0 } else { self.roll(plan) }
    }

    /// `processReplica`
    fn replica(&self, at: usize, monotonic: bool, plan: &mut Plan) -> Flow {
        let ordinal = self.start + i64::try_from(at).unwrap_or(i64::MAX);
        let Some(pod) = self.replicas[at] else {
            self.create(ordinal, plan);
            return Flow::Stop;
        };
        if pods::is_terminal(pod) {
            if !pod.is_deleting() {
                self.delete(pod, plan);
            }
            return Flow::Stop;
        }
        if pods::phase(pod) == "Pending" {
            self.make_claims(ordinal, plan);
        }
        if monotonic && (pod.is_deleting() || !is_running_and_ready(pod) || !self.is_available(pod, plan)) {
            return Flow::Stop;
        }
        self.own_claims(ordinal, None, plan);
        Flow::On
    }

    /// `processCondemned`
    fn condemn(&self, pod: &Arc<Pod>, first: Option<&str>, monotonic: bool, plan: &mut Plan) -> Flow {
        if pod.is_deleting() {
            return Flow::Stop;
        }
        let healthy = is_running_and_ready(pod) && self.is_available(pod, plan);
        if monotonic && !healthy && first != Some(pod.name()) {
            return Flow::Stop;
        }
        self.delete(pod, plan);
        Flow::Stop
    }

    /// One pod with an old revision goes, highest first, unless a newer one is not available yet.
    fn roll(&self, plan: &mut Plan) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return 0;
        }
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0);
        let partition = usize::try_from(partition).unwrap_or(0);
        for pod in self.replicas.iter().skip(partition).rev().flatten() {
            if pod.label(HASH_LABEL) != Some(self.update.name()) && !pod.is_deleting() {
                self.delete(pod, plan);
                return i32::from(pod.label(HASH_LABEL) == Some(self.current.name()));
            }
            if pod.is_deleting() || !self.is_available(pod, plan) {
                return 0;
            }
        }
        0
    }

    fn is_available(&self, pod: &Pod, plan: &mut Plan) -> bool {
        match pods::available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now) {
            Ok(()) => true,
            Err(wait) => {
                wait.into_iter().for_each(|w| plan.again(w));
                false
            }
        }
    }

    /// The lowest replica, or else the lowest condemned pod, that is not available.
    fn first_unavailable(&self) -> Option<&str> {
        let mut none = Plan::done();
        let mut unavailable = |p: &Pod| p.is_deleting() || !self.is_available(p, &mut none);
        let missing = self.replicas.iter().any(Option::is_none);
        let all = self.replicas.iter().flatten().copied().chain(self.condemned.iter().rev().copied());
        let mut found = all.into_iter().filter(|p| unavailable(p));
        found.next().filter(|_| !missing).map(|p| p.name())
    }

    // === pods ===

    /// `newVersionedStatefulSetPod` and `CreateStatefulPod`
    fn create(&self, ordinal: i64, plan: &mut Plan) {
        self.make_claims(ordinal, plan);
        let name = self.pod_name(ordinal);
        let revision = self.revision_for(ordinal);
        let template = history::template(revision).unwrap_or_else(|| self.spec.template.clone());
        let mut pod = pods::from_template(&template, self.view.set.as_ref());
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.to_owned(), name.clone());
        labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
        labels.insert(HASH_LABEL.to_owned(), revision.name().to_owned());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name.clone());
        spec.subdomain = self.spec.service_name.clone().filter(|s| !s.is_empty());
        let claims = self.claim_names(ordinal);
        let mut volumes: Vec<Volume> = claims
            .iter()
            .map(|(volume, claim)| Volume {
                name: volume.clone(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: None,
                }),
                ..Volume::default()
            })
            .collect();
        volumes.extend(spec.volumes.take().into_iter().flatten().filter(|v| !claims.iter().any(|(n, _)| *n == v.name)));
        spec.volumes = Some(volumes).filter(|v| !v.is_empty());
        let set = self.view.set.name();
        plan.writes.push(Write::create(pod).telling(
            self.view.set.as_ref(),
            ("SuccessfulCreate", &format!("create Pod {name} in StatefulSet {set} successful")),
            ("FailedCreate", &format!("create Pod {name} in StatefulSet {set} failed error: {{error}}")),
        ));
    }

    fn delete(&self, pod: &Pod, plan: &mut Plan) {
        let (name, set) = (pod.name(), self.view.set.name());
        plan.writes.push(Write::delete(pod).telling(
            self.view.set.as_ref(),
            ("SuccessfulDelete", &format!("delete Pod {name} in StatefulSet {set} successful")),
            ("FailedDelete", &format!("delete Pod {name} in StatefulSet {set} failed error: {{error}}")),
        ));
    }

    fn pod_name(&self, ordinal: i64) -> String {
        format!("{}-{ordinal}", self.view.set.name())
    }

    /// Below the partition, or among those not updated yet, a pod comes back as it was.
    fn revision_for(&self, ordinal: i64) -> &ControllerRevision {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let is_rolling = strategy.and_then(|s| s.type_.as_deref()).is_none_or(|t| t == "RollingUpdate");
        let below = match rolling {
            Some(r) => i64::from(r.partition.unwrap_or(0)),
            None if is_rolling => {
                i64::from(self.view.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0))
            }
            None => 0,
        };
        if ordinal < self.start + below { &self.current } else { &self.update }
    }

    // === storage ===

    /// Volume and claim names of an ordinal.
    fn claim_names(&self, ordinal: i64) -> Vec<(String, String)> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        templates.map(|t| (t.name().to_owned(), format!("{}-{}", t.name(), self.pod_name(ordinal)))).collect()
    }

    fn make_claims(&self, ordinal: i64, plan: &mut Plan) {
        for (template, (_, name)) in self.spec.volume_claim_templates.iter().flatten().zip(self.claim_names(ordinal)) {
            if self.view.claims.contains_key(&name) {
                continue;
            }
            let mut claim = template.clone();
            claim.metadata.name = Some(name.clone());
            claim.metadata.namespace = Some(self.view.set.namespace().to_owned());
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
            claim.metadata.owner_references = Some(self.claim_owners(&[], None)).filter(|o| !o.is_empty());
            claim.status = None;
            let of = format!("Claim {name} Pod {} in StatefulSet {}", self.pod_name(ordinal), self.view.set.name());
            plan.writes.push(Write::ensure(claim).telling(
                self.view.set.as_ref(),
                ("SuccessfulCreate", &format!("create {of} success")),
                ("FailedCreate", &format!("create {of} failed error: {{error}}")),
            ));
        }
    }

    /// Owners of a claim by the retention policy (`updateClaimOwnerRefForSetAndPod`); `condemned`: the pod that goes.
    fn claim_owners(&self, old: &[OwnerReference], condemned: Option<&Pod>) -> Vec<OwnerReference> {
        let set = &self.view.set;
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |p: Option<&String>| p.is_some_and(|p| p == "Delete");
        let when_scaled = deletes(policy.and_then(|p| p.when_scaled.as_ref()));
        let when_deleted = deletes(policy.and_then(|p| p.when_deleted.as_ref()));
        let is_ours = |o: &OwnerReference| {
            (o.kind == "StatefulSet" && o.name == set.name())
                || (o.kind == "Pod" && ordinal_of_name(set.name(), &o.name).is_some())
        };
        let mut owners: Vec<OwnerReference> = old.iter().filter(|o| !is_ours(o)).cloned().collect();
        if owners.iter().any(|o| o.controller == Some(true)) {
            return owners;
        }
        match condemned {
            Some(pod) if when_scaled => owners.push(pods::controller_ref(pod)),
            Some(_) | None if when_deleted => owners.push(pods::controller_ref(set.as_ref())),
            _ => {}
        }
        owners
    }

    fn claims_of_condemned(&self, plan: &mut Plan) {
        for pod in &self.condemned {
            if let Some(ordinal) = ordinal(&self.view.set, pod) {
                self.own_claims(ordinal, Some(pod), plan);
            }
        }
    }

    fn own_claims(&self, ordinal: i64, condemned: Option<&Pod>, plan: &mut Plan) {
        for (_, name) in self.claim_names(ordinal) {
            let Some(claim) = self.view.claims.get(&name) else { continue };
            let old = claim.metadata.owner_references.as_deref().unwrap_or_default();
            let owners = self.claim_owners(old, condemned);
            let uids = |o: &[OwnerReference]| o.iter().map(|o| (o.uid.clone(), o.controller)).collect::<BTreeSet<_>>();
            if uids(&owners) != uids(old) {
                let mut next = claim.as_ref().clone();
                next.metadata.owner_references = Some(owners);
                plan.writes.push(Write::update(next));
            }
        }
    }

    // === status and history ===

    fn clean_up(&self, known: &History, plan: &mut Plan) {
        let mut live: BTreeSet<String> =
            BTreeSet::from([self.current.name().to_owned(), self.update.name().to_owned()]);
        let all = self.replicas.iter().flatten().chain(&self.condemned);
        live.extend(all.filter_map(|p| p.label(HASH_LABEL).map(str::to_owned)));
        plan.writes.extend(history::clean_up(&known.old, &live, self.spec.revision_history_limit));
    }

    /// `updateStatus` and `completeRollingUpdate`
    fn status(&self, replaced: i32, plan: &mut Plan) {
        let set = &self.view.set;
        let old = set.status.clone().unwrap_or_default();
        let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
        for pod in self.replicas.iter().flatten().chain(&self.condemned) {
            replicas += 1;
            if is_running_and_ready(pod) {
                ready += 1;
                available += i32::from(self.is_available(pod, plan));
            }
            if !pod.is_deleting() {
                current += i32::from(pod.label(HASH_LABEL) == Some(self.current.name()));
                updated += i32::from(pod.label(HASH_LABEL) == Some(self.update.name()));
            }
        }
        let some = |n: i32| Some(n).filter(|n| *n > 0);
        let mut next = StatefulSetStatus {
            available_replicas: Some(available),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions.clone(),
            current_replicas: some(current - replaced),
            current_revision: Some(self.current.name().to_owned()),
            observed_generation: set.metadata.generation,
            ready_replicas: some(ready),
            replicas,
            update_revision: Some(self.update.name().to_owned()),
            updated_replicas: some(updated),
        };
        let wanted = self.spec.replicas.unwrap_or(1);
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        if strategy.is_none_or(|t| t == "RollingUpdate") && [updated, ready, replicas] == [wanted; 3] {
            next.current_replicas = next.updated_replicas;
            next.current_revision = next.update_revision.clone();
        }
        if set.status.as_ref() != Some(&next) {
            plan.writes.push(Write::status(StatefulSet { status: Some(next), ..set.as_ref().clone() }));
        }
    }
}

// === owning ===

fn claim<'a>(view: &'a View, selector: &LabelSelector, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let set = &view.set;
    let mut owned = Vec::new();
    for pod in &view.pods {
        match (pod.is_controlled_by(set.uid()), matches(selector, pod) && ordinal(set, pod).is_some()) {
            (true, true) => owned.push(pod),
            (true, false) if !set.is_deleting() && !pod.is_deleting() => plan.writes.push(release(pod, set.as_ref())),
            (false, true) if !set.is_deleting() && pods::is_active(pod) && pod.controller().is_none() => {
                plan.writes.push(adopt(pod, set.as_ref()));
                owned.push(pod);
            }
            _ => {}
        }
    }
    owned
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    ordinal_of_name(set.name(), pod.name())
}

fn ordinal_of_name(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i32>().ok().map(i64::from)).flatten()
}

fn selector(set: &StatefulSet) -> Option<LabelSelector> {
    LabelSelector::from_api(Some(&set.spec.as_ref()?.selector)).ok()
}

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&empty))
}

fn orphan_keys(ctx: &Context, pod: &Pod) -> Vec<Key> {
    if pod.controller().is_some() || pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let sets = ctx.cache::<StatefulSet>().list_in(pod.namespace());
    let wants = |s: &Arc<StatefulSet>| selector(s).is_some_and(|x| matches(&x, pod)) && ordinal(s, pod).is_some();
    sets.iter().filter(|s| wants(s)).map(|s| Key::of(s.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Verb;
    use crate::testing::{at, merge, object, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    /// Does what plans say; pods become ready or vanish when told.
    struct World2 {
        set: Arc<StatefulSet>,
        pods: BTreeMap<String, Arc<Pod>>,
        claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
        revisions: BTreeMap<String, Arc<ControllerRevision>>,
    }

    impl World2 {
        fn new(spec: Value) -> Self {
            let mut set = json!({
                "metadata": {"name": "s", "namespace": "ns", "uid": "uid-s"},
                "spec": {"replicas": 2, "serviceName": "svc", "selector": {"matchLabels": {"a": "b"}},
                         "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}},
            });
            merge(&mut set["spec"], spec);
            World2 { set: object(set), pods: BTreeMap::new(), claims: BTreeMap::new(), revisions: BTreeMap::new() }
        }

        /// Rounds until nothing changes; status lines shortened to replicas/ready/current/updated.
        fn settle(&mut self) -> String {
            let mut text = String::new();
            for round in 0.. {
                assert!(round < 20, "does not settle:\n{text}");
                let view = View {
                    set: self.set.clone(),
                    pods: self.pods.values().cloned().collect(),
                    claims: self.claims.clone(),
                    revisions: self.revisions.values().cloned().collect(),
                };
                let plan = StatefulSets::plan(&view, at(0));
                if plan.writes.is_empty() {
                    break;
                }
                for line in show(&plan).lines().filter(|l| !l.contains("ControllerRevision")) {
                    match line.strip_prefix("status StatefulSet ns/s ") {
                        Some(status) => {
                            let v: Value = serde_json::from_str(status).unwrap_or_default();
                            let n = |f: &str| v[f].as_i64().unwrap_or(0);
                            let rolled = v["currentRevision"] == v["updateRevision"];
                            let rolled = if rolled { "" } else { " rolling" };
                            text.push_str(&format!(
                                "status {} ready {} current {} updated {}{rolled}\n",
                                n("replicas"),
                                n("readyReplicas"),
                                n("currentReplicas"),
                                n("updatedReplicas")
                            ));
                        }
                        None => text.push_str(&format!("{}\n", line.split(" -> ").next().unwrap_or_default())),
                    }
                }
                plan.writes.into_iter().for_each(|w| self.apply(w.verb));
            }
            text
        }

        fn apply(&mut self, verb: Verb) {
            match verb {
                Verb::Create(o) | Verb::Update(o) => {
                    let name = o.meta().name.clone().unwrap_or_default();
                    if let Some(pod) = o.as_any().downcast_ref::<Pod>() {
                        let mut pod = pod.clone();
                        pod.metadata.uid = Some(format!("uid-{name}"));
                        pod.status.get_or_insert_default().phase = Some("Pending".into());
                        self.pods.insert(name, Arc::new(pod));
                    } else if let Some(claim) = o.as_any().downcast_ref::<PersistentVolumeClaim>() {
                        self.claims.insert(name, Arc::new(claim.clone()));
                    } else if let Some(revision) = o.as_any().downcast_ref::<ControllerRevision>() {
                        self.revisions.insert(name, Arc::new(revision.clone()));
                    }
                }
                Verb::UpdateStatus(o) => {
                    self.set = Arc::new(o.as_any().downcast_ref::<StatefulSet>().expect("its own status").clone());
                }
                Verb::Delete(target, _) => drop(self.pods.remove(&target.key.name)),
                _ => panic!("a StatefulSet does nothing else here"),
            }
        }

        fn ready(&mut self, name: &str) -> &mut Self {
            let status: Arc<Pod> = object(json!({"metadata": {},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
            let pod = self.pods.get_mut(name).unwrap_or_else(|| panic!("no pod {name}"));
            Arc::make_mut(pod).status = status.status.clone();
            self
        }

        fn spec(&mut self, change: impl FnOnce(&mut StatefulSetSpec)) -> &mut Self {
            change(Arc::make_mut(&mut self.set).spec.get_or_insert_default());
            self
        }
    }

    fn check_settles(world: &mut World2, expected: Expect) {
        expected.assert_eq(&world.settle());
    }

    #[test]
    fn pods_come_in_order_with_names_and_claims() {
        let mut w = World2::new(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
        check_settles(
            &mut w,
            expect![[r#"
            create PersistentVolumeClaim ns/data-s-0
            create Pod ns/s-0
            status 0 ready 0 current 0 updated 0
            status 1 ready 0 current 1 updated 1
        "#]],
        );
        let pod = w.pods["s-0"].clone();
        let spec = pod.spec.as_ref().expect("pods have specs");
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("s-0"), Some("svc")));
        assert_eq!((pod.label(POD_NAME), pod.label(POD_INDEX)), (Some("s-0"), Some("0")));
        check_settles(
            w.ready("s-0"),
            expect![[r#"
            create PersistentVolumeClaim ns/data-s-1
            create Pod ns/s-1
            status 1 ready 1 current 1 updated 1
            status 2 ready 1 current 2 updated 2
        "#]],
        );
    }

    #[test]
    fn parallel_does_not_wait() {
        check_settles(
            &mut World2::new(json!({"podManagementPolicy": "Parallel"})),
            expect![[r#"
            create Pod ns/s-0
            create Pod ns/s-1
            status 0 ready 0 current 0 updated 0
            status 2 ready 0 current 2 updated 2
        "#]],
        );
    }

    fn two_ready() -> World2 {
        let mut w = World2::new(json!({}));
        w.settle();
        w.ready("s-0").settle();
        w.ready("s-1").settle();
        w
    }

    #[test]
    fn updates_go_from_the_highest_down_and_wait_for_each() {
        let mut w = two_ready();
        w.spec(|s| s.template.spec.get_or_insert_default().containers[0].image = Some("two".into()));
        check_settles(
            &mut w,
            expect![[r#"
                delete Pod ns/s-1
                status 2 ready 2 current 1 updated 0 rolling
                create Pod ns/s-1
                status 1 ready 1 current 1 updated 0 rolling
                status 2 ready 1 current 1 updated 1 rolling
            "#]],
        );
        check_settles(
            w.ready("s-1"),
            expect![[r#"
                delete Pod ns/s-0
                status 2 ready 2 current 0 updated 1 rolling
                create Pod ns/s-0
                status 1 ready 1 current 0 updated 1 rolling
                status 2 ready 1 current 0 updated 2 rolling
            "#]],
        );
        check_settles(
            w.ready("s-0"),
            expect![[r#"
            status 2 ready 2 current 2 updated 2
        "#]],
        );
    }

    #[test]
    fn a_partition_keeps_the_lower_ones() {
        let mut w = two_ready();
        w.spec(|s| {
            s.template.spec.get_or_insert_default().containers[0].image = Some("two".into());
            let rolling = s.update_strategy.get_or_insert_default().rolling_update.get_or_insert_default();
            rolling.partition = Some(1);
        });
        w.settle();
        w.ready("s-1").settle();
        assert_ne!(w.pods["s-0"].label(HASH_LABEL), w.pods["s-1"].label(HASH_LABEL));
        w.pods.remove("s-0");
        w.settle();
        let image = w.pods["s-0"].spec.as_ref().and_then(|s| s.containers[0].image.clone());
        assert_eq!(image.as_deref(), Some("one"), "below the partition a pod comes back as it was");
    }

    #[test]
    fn the_highest_goes_first_when_scaling_down() {
        check_settles(
            two_ready().spec(|s| s.replicas = Some(0)),
            expect![[r#"
                delete Pod ns/s-1
                delete Pod ns/s-0
                status 1 ready 1 current 1 updated 1
                status 0 ready 0 current 0 updated 0
            "#]],
        );
    }

    #[test]
    fn claims_belong_to_whom_the_policy_says() {
        let mut w = World2::new(json!({
            "replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        }));
        w.settle();
        let owner = |w: &World2| w.claims["data-s-0"].controller().map(|c| c.kind.clone());
        assert_eq!(owner(&w).as_deref(), Some("StatefulSet"));
        w.ready("s-0").settle();
        w.spec(|s| s.replicas = Some(0));
        w.settle();
        assert_eq!(owner(&w).as_deref(), Some("Pod"));
    }
}
