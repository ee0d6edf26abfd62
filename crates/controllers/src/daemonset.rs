//! DaemonSet: one pod on every node that fits.
//!
//! Watches   DaemonSet (self), Pod (by controller; orphans by selector), Node (which may fit or fit no more),
//!           ControllerRevision (by controller).
//! Writes    Pod create/delete, Pod ownerReferences, ControllerRevision create/update/delete, DaemonSet/status.
//! Invariant never deletes a Pod it does not control; without surge never two running pods on a node.
//! Differs   from upstream (`pkg/controller/daemon`): a round plans one step; failed pods are deleted ten seconds after they
//!           were made instead of with a back-off per node; `SuccessfulCreate` names the pod as everywhere.

use crate::history::{self, HASH_LABEL, History};
use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods;
use crate::replicaset::{adopt, release};
use crate::run::{Context, Controller, Watches};
use api::k8s::api::apps::v1::{DaemonSetSpec, DaemonSetStatus};
use api::k8s::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};
use api::prelude::*;
use client::EventKind;
use jiff::Timestamp;
use machinery::selector::{LabelSelector, RequiredNodeAffinity, tolerates};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Creates or deletes of a round (`BurstReplicas`).
const BURST: usize = 250;
/// How long a failed pod stays, so that we do not fight with a kubelet that refuses it.
const FAILED_STAYS: Duration = Duration::from_secs(10);

pub(crate) struct DaemonSets;

pub(crate) struct View {
    ds: Arc<DaemonSet>,
    /// Pods it controls, or that match its selector and have no controller.
    pods: Vec<Arc<Pod>>,
    nodes: Vec<Arc<Node>>,
    /// All revisions of the namespace whose names could be its own.
    revisions: Vec<Arc<ControllerRevision>>,
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemon-set-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<DaemonSet>();
        watches.owned::<Pod, DaemonSet>();
        watches.owned::<ControllerRevision, DaemonSet>();
        watches.map::<Pod>(|ctx, change| orphan_keys(ctx, change.latest()));
        watches.map::<Node>(|ctx, change| {
            if let (Some(old), Some(new)) = (&change.old, &change.new)
                && old.metadata.labels == new.metadata.labels
                && old.spec.as_ref().map(|s| &s.taints) == new.spec.as_ref().map(|s| &s.taints)
            {
                return Vec::new();
            }
            ctx.cache::<DaemonSet>().list().iter().map(|ds| Key::of(ds.as_ref())).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let ds = ctx.cache::<DaemonSet>().get(&key.namespace, &key.name)?;
        let selector = selector(&ds)?;
        let cache = ctx.cache::<Pod>();
        let mut seen = cache.controlled_by(ds.uid());
        let orphans = cache.list_in(&key.namespace).into_iter().filter(|p| p.controller().is_none());
        seen.extend(orphans.filter(|p| matches(&selector, p)));
        let mut revisions = ctx.cache::<ControllerRevision>().list_in(&key.namespace);
        revisions.retain(|r| r.is_controlled_by(ds.uid()) || r.name().starts_with(key.name.as_str()));
        Some(View { ds, pods: seen, nodes: ctx.cache::<Node>().list(), revisions })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let (Some(spec), Some(selector)) = (&view.ds.spec, selector(&view.ds)) else { return plan };
        if view.ds.is_deleting() || selector.is_everything() {
            return plan;
        }
        let owned = claim(view, &selector, &mut plan);
        let collisions = view.ds.status.as_ref().and_then(|s| s.collision_count);
        let known = match history::step(view.ds.as_ref(), &spec.template, collisions, HASH_LABEL, &view.revisions) {
            history::Step::Ready(history) => history,
            history::Step::First(write) => {
                plan.writes.push(*write);
                return plan;
            }
            history::Step::Collision => {
                let mut next = view.ds.as_ref().clone();
                next.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
                plan.writes.push(Write::status(next));
                return plan;
            }
        };
        let world = World::new(view, spec, &known, owned, now);
        let mut steps = Steps::default();
        world.manage(&mut steps, &mut plan);
        if spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            world.roll(&mut steps);
        }
        world.write(steps, &mut plan);
        world.clean_up(&known, &mut plan);
        world.status(&mut plan);
        plan
    }
}

/// Nodes and their daemon pods.
struct World<'a> {
    ds: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    /// `controller-revision-hash` of pods with the wanted template.
    hash: &'a str,
    now: Timestamp,
    nodes: BTreeMap<&'a str, OnNode<'a>>,
}

#[derive(Default)]
struct OnNode<'a> {
    /// The node is there, and wants a pod.
    should_run: bool,
    /// The node is there, and keeps a pod that it has.
    may_stay: bool,
    is_there: bool,
    /// Oldest first, assigned ones before others.
    pods: Vec<&'a Arc<Pod>>,
}

#[derive(Default)]
struct Steps<'a> {
    create: BTreeSet<&'a str>,
    delete: BTreeMap<&'a str, &'a Arc<Pod>>,
}

impl<'a> World<'a> {
    fn new(
        view: &'a View,
        spec: &'a DaemonSetSpec,
        history: &'a History,
        owned: Vec<&'a Arc<Pod>>,
        now: Timestamp,
    ) -> Self {
        let mut nodes: BTreeMap<&str, OnNode<'_>> = BTreeMap::new();
        let template = pod_template(spec, "");
        for node in &view.nodes {
            let (should_run, may_stay) = fits(&template, node);
            nodes.insert(node.name(), OnNode { should_run, may_stay, is_there: true, pods: Vec::new() });
        }
        for pod in owned {
            if let Some(node) = target_node(pod) {
                nodes.entry(node).or_default().pods.push(pod);
            }
        }
        for on in nodes.values_mut() {
            let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
            on.pods.sort_by(|a, b| {
                assigned(b)
                    .cmp(&assigned(a))
                    .then_with(|| created(a).cmp(&created(b)))
                    .then_with(|| a.name().cmp(b.name()))
            });
        }
        let hash = history.current.label(HASH_LABEL).unwrap_or(history.current.name());
        World { ds: &view.ds, spec, hash, now, nodes }
    }

    /// `manage` and `podsShouldBeOnNode`
    fn manage(&self, steps: &mut Steps<'a>, plan: &mut Plan) {
        for (name, on) in &self.nodes {
            if !on.is_there {
                // The pod collector takes those that were assigned.
                steps.delete.extend(on.pods.iter().filter(|p| !assigned(p)).map(|p| (p.name(), *p)));
            } else if on.should_run && on.pods.is_empty() {
                steps.create.insert(name);
            } else if on.may_stay {
                self.tidy(name, on, steps, plan);
            } else {
                steps.delete.extend(on.pods.iter().filter(|p| !p.is_deleting()).map(|p| (p.name(), *p)));
            }
        }
    }

    /// Ended pods go, and more than there may be.
    fn tidy(&self, name: &'a str, on: &OnNode<'a>, steps: &mut Steps<'a>, plan: &mut Plan) {
        let mut running = Vec::new();
        for pod in on.pods.iter().copied().filter(|p| !p.is_deleting()) {
            let place = format!("{}/{} on node {name}", pod.namespace(), pod.name());
            match pods::phase(pod) {
                "Failed" => {
                    let age = pod.metadata.creation_timestamp.as_ref().map(|t| self.now.duration_since(t.0));
                    let age = age.and_then(|a| Duration::try_from(a).ok()).unwrap_or(FAILED_STAYS);
                    if let Some(left) = FAILED_STAYS.checked_sub(age).filter(|l| !l.is_zero()) {
                        plan.again(left);
                        continue;
                    }
                    let message = format!("Found failed daemon pod {place}, will try to kill it");
                    plan.events.push(PlannedEvent::new(self.ds, EventKind::Warning, "FailedDaemonPod", &message));
                    steps.delete.insert(pod.name(), pod);
                }
                "Succeeded" => {
                    let message = format!("Found succeeded daemon pod {place}, will try to delete it");
                    plan.events.push(PlannedEvent::new(self.ds, EventKind::Normal, "SucceededDaemonPod", &message));
                    steps.delete.insert(pod.name(), pod);
                }
                _ => running.push(pod),
            }
        }
        if self.limits().0 == 0 {
            steps.delete.extend(running.into_iter().skip(1).map(|p| (p.name(), p)));
            return;
        }
        if running.is_empty() && on.should_run {
            steps.create.insert(name);
        }
        if running.len() < 2 {
            return;
        }
        let newest = running.iter().copied().find(|p| self.is_updated(p));
        let oldest = running.iter().copied().find(|p| !self.is_updated(p));
        let kept: Vec<&str> = newest.into_iter().chain(oldest).map(|p| p.name()).collect();
        steps.delete.extend(running.iter().filter(|p| !kept.contains(&p.name())).map(|p| (p.name(), *p)));
        if let (Some(new), Some(old)) = (newest, oldest)
            && (!pods::is_ready(old) || self.is_available(new))
        {
            steps.delete.insert(old.name(), old);
        }
    }

    /// maxSurge and maxUnavailable.
    fn limits(&self) -> (usize, usize) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let desired = i32::try_from(self.nodes.values().filter(|n| n.should_run).count()).unwrap_or(i32::MAX);
        let scaled = |v: Option<&_>, default| v.map_or(default, |v| crate::deployment::scaled(Some(v), desired, true));
        let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), 0);
        let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        (usize::try_from(surge).unwrap_or(0), usize::try_from(unavailable).unwrap_or(0))
    }

    /// `rollingUpdate`
    fn roll(&self, steps: &mut Steps<'a>) {
        let (surge, unavailable) = self.limits();
        let counted = self.nodes.iter().filter(|(_, on)| on.should_run || !on.pods.is_empty());
        let mut used = 0;
        let mut candidates: Vec<(&'a str, &'a Arc<Pod>)> = Vec::new();
        for (name, on) in counted {
            let living = || on.pods.iter().copied().filter(|p| !p.is_deleting());
            let new: Vec<_> = living().filter(|p| self.is_updated(p)).collect();
            let old: Vec<_> = living().filter(|p| !self.is_updated(p)).collect();
            match (new.as_slice(), old.as_slice()) {
                ([new], []) if self.is_available(new) => {}
                ([], [old]) if !self.is_available(old) => {
                    // Nothing is lost by replacing it.
                    if surge == 0 || !on.should_run {
                        steps.delete.insert(old.name(), old);
                        used += usize::from(surge == 0);
                    } else {
                        steps.create.insert(name);
                    }
                }
                ([], [old]) if on.should_run => candidates.push((name, old)),
                ([new], [old]) if surge > 0 => {
                    if self.is_available(new) {
                        steps.delete.insert(old.name(), old);
                    } else {
                        used += 1;
                    }
                }
                ([_], []) | ([], []) if surge > 0 => {}
                _ => used += 1,
            }
        }
        let room = if surge > 0 { surge } else { unavailable }.saturating_sub(used);
        for (name, old) in candidates.into_iter().take(room) {
            if surge > 0 {
                steps.create.insert(name);
            } else {
                steps.delete.insert(old.name(), old);
            }
        }
    }

    fn write(&self, steps: Steps<'a>, plan: &mut Plan) {
        for name in steps.create.into_iter().take(BURST) {
            let mut template = pod_template(self.spec, self.hash);
            let spec = template.spec.get_or_insert_default();
            spec.affinity = Some(pinned(spec.affinity.take(), name));
            plan.writes.push(Write::create(pods::from_template(&template, self.ds)).telling(
                self.ds,
                ("SuccessfulCreate", "Created pod: {name}"),
                ("FailedCreate", "Error creating: {error}"),
            ));
        }
        for pod in steps.delete.into_values().take(BURST) {
            plan.writes.push(Write::delete(pod.as_ref()).telling(
                self.ds,
                ("SuccessfulDelete", &format!("Deleted pod: {}", pod.name())),
                ("FailedDelete", "Error deleting: {error}"),
            ));
        }
    }

    fn clean_up(&self, known: &History, plan: &mut Plan) {
        let hashes: BTreeSet<&str> =
            self.nodes.values().flat_map(|n| n.pods.iter()).filter_map(|p| p.label(HASH_LABEL)).collect();
        let live = known.old.iter().filter(|r| r.label(HASH_LABEL).is_some_and(|h| hashes.contains(h)));
        let live = live.map(|r| r.name().to_owned()).collect();
        plan.writes.extend(history::clean_up(&known.old, &live, self.spec.revision_history_limit));
    }

    /// `updateDaemonSetStatus`
    fn status(&self, plan: &mut Plan) {
        let old = self.ds.status.clone().unwrap_or_default();
        let mut next = DaemonSetStatus {
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
            observed_generation: self.ds.metadata.generation,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for on in self.nodes.values().filter(|n| n.is_there) {
            match (on.should_run, on.pods.first()) {
                (false, Some(_)) => next.number_misscheduled += 1,
                (false, None) => {}
                (true, first) => {
                    next.desired_number_scheduled += 1;
                    let Some(pod) = first else { continue };
                    next.current_number_scheduled += 1;
                    next.number_ready += i32::from(pods::is_ready(pod));
                    updated += i32::from(self.is_updated(pod));
                    match pods::available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now) {
                        Ok(()) => available += 1,
                        Err(Some(wait)) => plan.again(wait),
                        Err(None) => {}
                    }
                }
            }
        }
        let some = |n: i32| Some(n).filter(|n| *n > 0);
        next.updated_number_scheduled = some(updated);
        next.number_available = some(available);
        next.number_unavailable = some(next.desired_number_scheduled - available);
        if self.ds.status.as_ref() != Some(&next) {
            plan.writes.push(Write::status(DaemonSet { status: Some(next), ..self.ds.clone() }));
        }
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pod.label(HASH_LABEL) == Some(self.hash)
    }
    fn is_available(&self, pod: &Pod) -> bool {
        pods::available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now).is_ok()
    }
}

// === nodes ===

/// Whether a node is to run a pod, and whether it may keep one (`NodeShouldRunDaemonPod`).
fn fits(template: &PodTemplateSpec, node: &Node) -> (bool, bool) {
    let Some(spec) = &template.spec else { return (false, false) };
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == node.name());
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    if !named || !RequiredNodeAffinity::of(spec).matches(node.name(), labels).unwrap_or(false) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let untolerated: Vec<&str> = taints
        .filter(|t| !tolerations.iter().any(|toleration| tolerates(toleration, *t)))
        .map(|t| t.effect.as_str())
        .collect();
    let evicted = untolerated.contains(&"NoExecute");
    (!evicted && !untolerated.contains(&"NoSchedule"), !evicted)
}

/// The template with the tolerations that every daemon pod has, and its revision (`CreatePodTemplate`).
fn pod_template(spec: &DaemonSetSpec, hash: &str) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    if !hash.is_empty() {
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    }
    let pod = template.spec.get_or_insert_default();
    let mut wanted = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if pod.host_network == Some(true) {
        wanted.push(("network-unavailable", "NoSchedule"));
    }
    let tolerations = pod.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    template
}

/// The affinity that lets the scheduler choose this node only (`ReplaceDaemonSetPodNodeNameNodeAffinity`).
fn pinned(affinity: Option<Affinity>, node: &str) -> Affinity {
    let mut affinity = affinity.unwrap_or_default();
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None };
    let node_affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    affinity
}

/// The node a pod is on, or is meant for (`GetTargetNodeName`).
fn target_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &required.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let mut named = fields.filter(|f| f.key == "metadata.name" && f.operator == "In");
    named.next()?.values.as_ref()?.first().map(String::as_str)
}

fn assigned(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty())
}

// === owning ===

fn claim<'a>(view: &'a View, selector: &LabelSelector, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let mut owned = Vec::new();
    for pod in &view.pods {
        match (pod.is_controlled_by(view.ds.uid()), matches(selector, pod)) {
            (true, true) => owned.push(pod),
            (true, false) if !pod.is_deleting() => plan.writes.push(release(pod, view.ds.as_ref())),
            (false, true) if pods::is_active(pod) && pod.controller().is_none() => {
                plan.writes.push(adopt(pod, view.ds.as_ref()));
                owned.push(pod);
            }
            _ => {}
        }
    }
    owned
}

fn selector(ds: &DaemonSet) -> Option<LabelSelector> {
    LabelSelector::from_api(Some(&ds.spec.as_ref()?.selector)).ok()
}

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&empty))
}

fn orphan_keys(ctx: &Context, pod: &Pod) -> Vec<Key> {
    if pod.controller().is_some() || pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let sets = ctx.cache::<DaemonSet>().list_in(pod.namespace());
    sets.iter().filter(|ds| selector(ds).is_some_and(|s| matches(&s, pod))).map(|ds| Key::of(ds.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Verb;
    use crate::testing::{at, merge, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn set(image: &str, rolling: Value) -> Arc<DaemonSet> {
        object(json!({
            "metadata": {"name": "d", "namespace": "ns", "uid": "uid-d"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": {"rollingUpdate": rolling},
                     "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
    }

    fn revision(ds: &DaemonSet, number: i64) -> Arc<ControllerRevision> {
        let template = ds.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let history::Step::First(write) = history::step(ds, &template, None, HASH_LABEL, &[]) else {
            panic!("a new one")
        };
        let Verb::Create(made) = write.verb else { panic!("a new one is created") };
        let made = made.as_any().downcast_ref::<ControllerRevision>().expect("revisions are made").clone();
        Arc::new(ControllerRevision { revision: number, ..made })
    }

    fn node(name: &str, spec: Value) -> Arc<Node> {
        object(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": spec}))
    }

    fn daemon(node: &str, hash: &str, fields: Value) -> Arc<Pod> {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "uid-d", "controller": true});
        let mut value = json!({
            "metadata": {"labels": {"a": "b", HASH_LABEL: hash}, "ownerReferences": [owner]}, "spec": {"nodeName": node},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        merge(&mut value, fields);
        pod(&format!("on-{node}"), value)
    }

    /// What is created and deleted, and the status, short.
    fn check_plan(
        ds: Arc<DaemonSet>,
        old: &[Arc<ControllerRevision>],
        nodes: Vec<Arc<Node>>,
        pods: &[Arc<Pod>],
        expected: Expect,
    ) {
        let mut revisions = vec![revision(&ds, 9)];
        revisions.extend_from_slice(old);
        let plan = DaemonSets::plan(&View { ds, pods: pods.to_vec(), nodes, revisions }, at(0));
        let mut text = String::new();
        for line in show(&plan).lines() {
            text.push_str(line.split(" -> ").next().unwrap_or_default());
            text.push('\n');
        }
        for write in &plan.writes {
            if let Verb::Create(o) = &write.verb
                && let Some(pod) = o.as_any().downcast_ref::<Pod>()
            {
                text.push_str(&format!("  for {}\n", target_node(pod).unwrap_or("?")));
            }
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn every_fitting_node_gets_a_pod() {
        let taint = |effect: &str| json!({"taints": [{"key": "k", "effect": effect}]});
        let nodes = vec![
            node("n1", json!({})),
            node("n2", taint("NoSchedule")),
            node(
                "n3",
                json!({"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
            ),
        ];
        check_plan(
            set("i", json!({})),
            &[],
            nodes,
            &[],
            expect![[r#"
            create Pod ns/d-
            create Pod ns/d-
            status DaemonSet ns/d {"currentNumberScheduled":0,"desiredNumberScheduled":2,"numberMisscheduled":0,"numberReady":0,"numberUnavailable":2}
              for n1
              for n3
        "#]],
        );
        let ds = set("i", json!({}));
        let hash = revision(&ds, 1).label(HASH_LABEL).unwrap_or_default().to_owned();
        let pods = [daemon("n1", &hash, json!({})), daemon("n2", &hash, json!({}))];
        check_plan(
            ds,
            &[],
            vec![node("n1", taint("NoSchedule")), node("n2", taint("NoExecute"))],
            &pods,
            expect![[r#"
            delete Pod ns/on-n2
            status DaemonSet ns/d {"currentNumberScheduled":0,"desiredNumberScheduled":0,"numberMisscheduled":2,"numberReady":0}
        "#]],
        );
    }

    #[test]
    fn ended_pods_make_room() {
        let ds = set("i", json!({}));
        let hash = revision(&ds, 1).label(HASH_LABEL).unwrap_or_default().to_owned();
        let failed = |seconds| {
            daemon(
                "n1",
                &hash,
                json!({"metadata": {"creationTimestamp": at(seconds).to_string()}, "status": {"phase": "Failed", "conditions": []}}),
            )
        };
        check_plan(
            ds.clone(),
            &[],
            vec![node("n1", json!({}))],
            &[failed(-10)],
            expect![[r#"
            event Warning FailedDaemonPod: Found failed daemon pod ns/on-n1 on node n1, will try to kill it
            delete Pod ns/on-n1
            status DaemonSet ns/d {"currentNumberScheduled":1,"desiredNumberScheduled":1,"numberMisscheduled":0,"numberReady":0,"numberUnavailable":1,"updatedNumberScheduled":1}
        "#]],
        );
    }

    #[test]
    fn updates_stay_within_max_unavailable_or_surge() {
        let nodes = || vec![node("n1", json!({})), node("n2", json!({}))];
        let old = revision(&set("old", json!({})), 1);
        let hash = old.label(HASH_LABEL).unwrap_or_default().to_owned();
        let pods = [daemon("n1", &hash, json!({})), daemon("n2", &hash, json!({}))];
        check_plan(
            set("new", json!({})),
            std::slice::from_ref(&old),
            nodes(),
            &pods,
            expect![[r#"
            delete Pod ns/on-n1
            status DaemonSet ns/d {"currentNumberScheduled":2,"desiredNumberScheduled":2,"numberAvailable":2,"numberMisscheduled":0,"numberReady":2}
        "#]],
        );
        let surge = json!({"maxSurge": 1, "maxUnavailable": 0});
        check_plan(
            set("new", surge),
            &[old],
            nodes(),
            &pods,
            expect![[r#"
            create Pod ns/d-
            status DaemonSet ns/d {"currentNumberScheduled":2,"desiredNumberScheduled":2,"numberAvailable":2,"numberMisscheduled":0,"numberReady":2}
              for n1
        "#]],
        );
    }
}
