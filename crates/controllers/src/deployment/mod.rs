//! Deployment: rolls its ReplicaSets from one template to the next.
//!
//! Watches   Deployment (self), ReplicaSet (by controller; orphans by selector), Pod (Recreate waits for them).
//! Writes    ReplicaSet create/update/delete, ReplicaSet ownerReferences (adopt, release), Deployment annotations and status.
//! Invariant never more than replicas + maxSurge pods wanted, never fewer than replicas - maxUnavailable available by its own doing.
//! Differs   from upstream (`pkg/controller/deployment`): a round plans one step from what it sees; upstream does several calls
//!           in one sync. The template hash is our own FNV of the template's JSON, not of Go's debug print.

mod rollout;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use rollout::scaled;

use crate::plan::{Key, Plan, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::meta::MetaExt;
use api::prelude::*;
use client::Patch;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH_LABEL: &str = "pod-template-hash";
/// Longest revision-history annotation (`maxRevHistoryLengthInChars`).
const HISTORY_CHARS: usize = 2000;

pub(crate) struct Deployments;

pub(crate) struct View {
    d: Arc<Deployment>,
    /// ReplicaSets it controls, or that match its selector and have no controller.
    sets: Vec<Arc<ReplicaSet>>,
    /// Pods of old ReplicaSets that have not ended: Recreate waits for them.
    running: BTreeMap<String, usize>,
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Deployment>();
        watches.owned::<ReplicaSet, Deployment>();
        watches.map::<ReplicaSet>(|ctx, change| orphan_keys(ctx, change.latest()));
        // Only an ended pod can let Recreate go on; everything else shows in the ReplicaSet's status.
        watches.map::<Pod>(|ctx, change| match &change.new {
            Some(pod) if !pods::is_terminal(pod) => Vec::new(),
            _ => deployment_of(ctx, change.latest()),
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let d = ctx.cache::<Deployment>().get(&key.namespace, &key.name)?;
        let selector = selector(&d)?;
        let cache = ctx.cache::<ReplicaSet>();
        let mut sets = cache.controlled_by(d.uid());
        let orphans = cache.list_in(&key.namespace).into_iter().filter(|rs| rs.controller().is_none());
        sets.extend(orphans.filter(|rs| matches(&selector, rs.as_ref())));
        let running = sets
            .iter()
            .map(|rs| {
                let pods = ctx.cache::<Pod>().controlled_by(rs.uid());
                (rs.uid().to_owned(), pods.iter().filter(|p| !pods::is_terminal(p)).count())
            })
            .collect();
        Some(View { d, sets, running })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(selector) = selector(&view.d) else { return plan };
        let owned = claim(view, &selector, &mut plan);
        let set = Sets::sort(&view.d, owned);
        if view.d.is_deleting() {
            status::sync(&view.d, &set, now, &mut plan);
            return plan;
        }
        let paused = spec(&view.d).paused == Some(true);
        let needs_new = !paused && !rollout::is_scaling(&view.d, &set);
        // Recreate: the new ReplicaSet comes when the old pods are gone (`recreate.go`, `createIfNotExisted`).
        let too_early = is_recreate(&view.d) && set.new.is_none() && !rollout::is_vacated(&set, &view.running);
        if needs_new && !too_early && revise(view, &set, now, &mut plan) {
            return plan;
        }
        if paused || !needs_new {
            rollout::scale(&view.d, &set, &mut plan);
            if paused && plan.writes.is_empty() {
                clean_up(&view.d, &set, &mut plan);
            }
        } else if is_recreate(&view.d) {
            rollout::recreate(&view.d, &set, &view.running, &mut plan);
        } else {
            rollout::rolling(&view.d, &set, &mut plan);
        }
        if status::is_complete(&view.d, &status::calculate(&view.d, &set)) {
            clean_up(&view.d, &set, &mut plan);
        }
        status::sync(&view.d, &set, now, &mut plan);
        plan
    }
}

/// The ReplicaSets of a Deployment, apart.
pub(crate) struct Sets<'a> {
    /// The one with the current template.
    pub(crate) new: Option<&'a ReplicaSet>,
    /// All others, oldest first.
    pub(crate) old: Vec<&'a ReplicaSet>,
}

impl<'a> Sets<'a> {
    /// Of several with the current template (a race) the oldest counts (`FindNewReplicaSet`).
    fn sort(d: &Deployment, mut all: Vec<&'a ReplicaSet>) -> Self {
        all.sort_by(|a, b| {
            let created = |rs: &ReplicaSet| rs.metadata.creation_timestamp.as_ref().map(|t| t.0);
            created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name()))
        });
        let wanted = without_hash(spec(d).template.clone());
        let new = all.iter().position(|rs| without_hash(template(rs)) == wanted).map(|at| all.remove(at));
        Sets { new, old: all }
    }
    pub(crate) fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        self.old.iter().copied().chain(self.new)
    }
    pub(crate) fn active(&self) -> Vec<&'a ReplicaSet> {
        self.all().filter(|rs| wanted(rs) > 0).collect()
    }
    pub(crate) fn active_old(&self) -> Vec<&'a ReplicaSet> {
        self.old.iter().copied().filter(|rs| wanted(rs) > 0).collect()
    }
}

// === the new ReplicaSet and its revision (sync.go, getNewReplicaSet) ===

/// Makes sure that the current template has a ReplicaSet with the highest revision. True: that was to be done first.
fn revise(view: &View, set: &Sets<'_>, now: Timestamp, plan: &mut Plan) -> bool {
    let d = &view.d;
    let revision = set.old.iter().map(|rs| revision_of(rs)).max().unwrap_or(0) + 1;
    let Some(new) = set.new else {
        create_new(view, set, revision, now, plan);
        return true;
    };
    let mut next = new.clone();
    annotate(d, &mut next, revision);
    if let Some(rs_spec) = next.spec.as_mut() {
        rs_spec.min_ready_seconds = spec(d).min_ready_seconds;
    }
    if next != *new {
        plan.writes.push(Write::update(next));
        return true;
    }
    let text = new.annotation(REVISION).unwrap_or_default();
    if d.annotation(REVISION) != Some(text) {
        // The role may update Deployments but not patch them.
        let mut next = d.as_ref().clone();
        next.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), text.to_owned());
        plan.writes.push(Write::update(next));
        return true;
    }
    false
}

fn create_new(view: &View, set: &Sets<'_>, revision: i64, now: Timestamp, plan: &mut Plan) {
    let d = &view.d;
    let spec = spec(d);
    let hash = template_hash(&spec.template, d.status.as_ref().and_then(|s| s.collision_count));
    let name = format!("{}-{hash}", d.name());
    if view.sets.iter().any(|rs| rs.name() == name) || set.old.iter().any(|rs| rs.name() == name) {
        // The name is taken by another template: count the collision and hash anew.
        let mut next = d.as_ref().clone();
        let status = next.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        plan.writes.push(Write::status(next));
        return;
    }
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = with_hash(meta.labels.take());
    let mut rs_selector = spec.selector.clone();
    rs_selector.match_labels = with_hash(rs_selector.match_labels.take());
    let mut rs = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: d.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            owner_references: Some(vec![pods::controller_ref(d.as_ref())]),
            ..ObjectMeta::default()
        },
        spec: Some(api::k8s::api::apps::v1::ReplicaSetSpec {
            replicas: None,
            min_ready_seconds: spec.min_ready_seconds,
            selector: rs_selector,
            template: Some(template),
        }),
        status: None,
    };
    let replicas = rollout::new_replicas(d, set, 0);
    if let Some(rs_spec) = rs.spec.as_mut() {
        rs_spec.replicas = Some(replicas);
    }
    annotate(d, &mut rs, revision);
    rollout::annotate_size(d, &mut rs);
    let created = format!("Scaled up replica set {name} from 0 to {replicas}");
    let mut write = Write::create(rs);
    if replicas > 0 {
        write = write.telling(
            d.as_ref(),
            ("ScalingReplicaSet", &created),
            ("ReplicaSetCreateError", "Failed to create new replica set: {error}"),
        );
        write.on_failure = write.on_failure.map(|mut e| {
            e.message = format!("Failed to create new replica set {name:?}: {{error}}");
            e
        });
    }
    plan.writes.push(write);
    status::note_new(d, &name, now, plan);
}

/// `SetNewReplicaSetAnnotations`: the Deployment's annotations, the revision, and the revisions it had before.
fn annotate(d: &Deployment, rs: &mut ReplicaSet, revision: i64) {
    let before = revision_of(rs);
    let had = rs.annotation(REVISION).is_some();
    let annotations = rs.metadata.annotations.get_or_insert_default();
    let own = [
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAX,
        "deprecated.deployment.rollback.to",
    ];
    for (key, value) in d.metadata.annotations.iter().flatten().filter(|(k, _)| !own.contains(&k.as_str())) {
        annotations.insert(key.clone(), value.clone());
    }
    if before >= revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if had {
        let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
        let mut past: Vec<&str> = history.split(',').filter(|p| !p.is_empty()).collect();
        let text = before.to_string();
        past.push(&text);
        while past.len() > 1 && past.iter().map(|p| p.len() + 1).sum::<usize>() > HISTORY_CHARS {
            past.remove(0);
        }
        *history = past.join(",");
    }
}

/// FNV-1a of the template and the collision count, in letters that cannot form words.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    use api::Codec;
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    let mut eat = |bytes: &[u8]| bytes.iter().for_each(|b| hash = (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    eat(&template.encode());
    if let Some(n) = collisions {
        eat(&n.to_le_bytes());
    }
    hash.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

// === owning ===

/// `ClaimReplicaSets`: adopts matching orphans, releases what matches no more.
fn claim<'a>(view: &'a View, selector: &LabelSelector, plan: &mut Plan) -> Vec<&'a ReplicaSet> {
    let d = &view.d;
    let mut owned = Vec::new();
    for rs in &view.sets {
        match (rs.is_controlled_by(d.uid()), matches(selector, rs.as_ref())) {
            (true, true) => owned.push(rs.as_ref()),
            (true, false) if !d.is_deleting() && !rs.is_deleting() => {
                let patch =
                    json!({"metadata": {"uid": rs.uid(), "ownerReferences": [{"$patch": "delete", "uid": d.uid()}]}});
                plan.writes.push(Write::patch(rs.as_ref(), "", Patch::Strategic(patch)));
            }
            (false, true) if !d.is_deleting() && !rs.is_deleting() && rs.controller().is_none() => {
                let owner = serde_json::to_value(pods::controller_ref(d.as_ref())).unwrap_or_default();
                let patch = json!({"metadata": {"uid": rs.uid(), "ownerReferences": [owner]}});
                plan.writes.push(Write::patch(rs.as_ref(), "", Patch::Strategic(patch)));
                owned.push(rs.as_ref());
            }
            _ => {}
        }
    }
    owned
}

/// `cleanupDeployment`: empty old ReplicaSets beyond the history limit go, lowest revisions first.
fn clean_up(d: &Deployment, set: &Sets<'_>, plan: &mut Plan) {
    let Some(limit) = spec(d).revision_history_limit.filter(|l| *l != i32::MAX) else { return };
    let mut old: Vec<&ReplicaSet> = set.old.iter().copied().filter(|rs| !rs.is_deleting()).collect();
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|rs| revision_of(rs));
    for rs in old.into_iter().take(surplus) {
        let observed = rs.status.as_ref().and_then(|s| s.observed_generation) >= rs.metadata.generation;
        if observed && wanted(rs) == 0 && rs.status.as_ref().is_none_or(|s| s.replicas == 0) {
            plan.writes.push(Write::delete(rs));
        }
    }
}

// === helpers ===

fn spec(d: &Deployment) -> api::k8s::api::apps::v1::DeploymentSpec {
    d.spec.clone().unwrap_or_default()
}

fn replicas(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn is_recreate(d: &Deployment) -> bool {
    spec(d).strategy.and_then(|s| s.type_).as_deref() == Some("Recreate")
}

fn wanted(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn template(rs: &ReplicaSet) -> PodTemplateSpec {
    rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
}

/// Empty label maps equal absent ones.
fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(meta) = template.metadata.as_mut() {
        if let Some(labels) = meta.labels.as_mut() {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    }
    template
}

fn revision_of(rs: &ReplicaSet) -> i64 {
    rs.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn selector(d: &Deployment) -> Option<LabelSelector> {
    LabelSelector::from_api(Some(&d.spec.as_ref()?.selector)).ok()
}

fn matches<K: Object>(selector: &LabelSelector, object: &K) -> bool {
    let empty = BTreeMap::new();
    selector.matches(object.meta().labels.as_ref().unwrap_or(&empty))
}

fn orphan_keys(ctx: &Context, rs: &ReplicaSet) -> Vec<Key> {
    if rs.controller().is_some() {
        return Vec::new();
    }
    let all = ctx.cache::<Deployment>().list_in(rs.namespace());
    all.iter().filter(|d| selector(d).is_some_and(|s| matches(&s, rs))).map(|d| Key::of(d.as_ref())).collect()
}

fn deployment_of(ctx: &Context, pod: &Pod) -> Vec<Key> {
    let set = pod.controller().filter(|c| c.kind == "ReplicaSet").map(|c| c.name.clone());
    let rs = set.and_then(|name| ctx.cache::<ReplicaSet>().get(pod.namespace(), &name));
    let owner = rs.as_ref().and_then(|rs| rs.controller()).filter(|c| c.kind == "Deployment");
    owner.map(|o| Key::new(pod.namespace(), &o.name)).into_iter().collect()
}
