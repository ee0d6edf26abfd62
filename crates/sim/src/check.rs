//! [`Checker`]: a model of the stored state that judges every commit when it happens, and tells at the end whether the cluster
//! has become what was asked for.
//!
//! Judged at every commit: revisions only grow and are the ones in the bytes; a UID and a live pod's address belong to one pod;
//! what must not change does not; nothing goes away with finalizers or without its grace; no node has more than it can give;
//! `observedGeneration` is not ahead; ReplicaSets and pods stay within what the Deployment, resp. the ReplicaSet allows.
//!
//! A controller may act on a spec that is not the newest, but not on one older than it has told to have seen: bounds are
//! taken over all generations from `status.observedGeneration` on. A create whose answer was lost may be repeated, so each
//! such create loosens the bound on pods by one.

use machinery::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Entry, Op, Revision};

/// See the file's head.
#[derive(Default)]
pub struct Checker {
    /// By storage key.
    objects: BTreeMap<String, Arc<Value>>,
    /// Keys by kind.
    kinds: BTreeMap<String, BTreeSet<String>>,
    newest: u64,
    /// Every UID that ever was, with its key.
    uids: BTreeMap<String, String>,
    /// UIDs of what may go at once.
    forced: BTreeSet<String>,
    /// Creates of pods with an unknown result, by owner.
    unclear: BTreeMap<String, usize>,
    /// Specs by UID, oldest first, with their generation.
    specs: BTreeMap<String, Vec<(i64, Arc<Value>)>>,
    /// Commits that are no Lease's.
    writes: u64,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, path: &str) -> i64 {
    value.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

fn is_deleting(value: &Value) -> bool {
    value.pointer("/metadata/deletionTimestamp").is_some()
}

fn is_live(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn is_active(pod: &Value) -> bool {
    is_live(pod) && !is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The UID of the controlling owner.
fn controller(value: &Value) -> Option<&str> {
    let owners = value.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|o| o["controller"] == true)?["uid"].as_str()
}

fn milli(quantity: Option<&Value>) -> i64 {
    quantity.and_then(Value::as_str).and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| q.milli_value())
}

fn name(value: &Value) -> String {
    format!("{} {}/{}", text(value, "/kind"), text(value, "/metadata/namespace"), text(value, "/metadata/name"))
}

/// A Deployment's spec: wanted, most and fewest pods.
fn bounds(spec: &Value) -> (i64, i64, i64) {
    let wanted = spec.get("replicas").and_then(Value::as_i64).unwrap_or(1);
    if text(spec, "/strategy/type") == "Recreate" {
        return (wanted, wanted, 0);
    }
    let share = |path: &str, up: bool| match spec.pointer(path) {
        Some(Value::String(percent)) => {
            let percent = percent.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            if up { (wanted * percent + 99) / 100 } else { wanted * percent / 100 }
        }
        Some(n) => n.as_i64().unwrap_or(0),
        None => 0,
    };
    let surge = share("/strategy/rollingUpdate/maxSurge", true);
    let mut unavailable = share("/strategy/rollingUpdate/maxUnavailable", false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    (wanted, wanted + surge, (wanted - unavailable).max(0))
}

impl Checker {
    /// Judges a commit and takes it into the model.
    pub fn commit(&mut self, revision: Revision, op: &Op, entry: &Arc<Entry>) -> Result<(), String> {
        let key = entry.key.as_str();
        let new: Value =
            serde_json::from_slice(&entry.value).map_err(|e| format!("{key}: stored bytes are no JSON: {e}"))?;
        if revision.0 < self.newest {
            return Err(format!("{key}: revision {} after {}", revision.0, self.newest));
        }
        self.newest = revision.0;
        if text(&new, "/metadata/resourceVersion") != revision.0.to_string() {
            let told = text(&new, "/metadata/resourceVersion");
            return Err(format!("{key}: resourceVersion {told} in commit {}", revision.0));
        }
        if text(&new, "/kind") != "Lease" {
            self.writes += 1;
        }
        let old = self.objects.get(key).cloned();
        match op {
            Op::Create { .. } => self.created(key, &new)?,
            Op::Update { .. } => changed(old.as_deref().ok_or_else(|| format!("{key}: update of nothing"))?, &new)?,
            Op::Delete { .. } => {
                self.deleted(old.as_deref().ok_or_else(|| format!("{key}: delete of nothing"))?, &new)?
            }
            Op::Check { .. } => return Ok(()),
        }
        let kind = text(&new, "/kind").to_owned();
        if matches!(op, Op::Delete { .. }) {
            self.objects.remove(key);
            self.kinds.entry(kind).or_default().remove(key);
            return Ok(());
        }
        let new = Arc::new(new);
        self.objects.insert(key.to_owned(), new.clone());
        self.kinds.entry(kind.clone()).or_default().insert(key.to_owned());
        self.remember_spec(&new);
        if number(&new, "/status/observedGeneration") > number(&new, "/metadata/generation") {
            return Err(format!("{}: observedGeneration is ahead of generation", name(&new)));
        }
        match kind.as_str() {
            "Pod" => self.pod(old.as_deref(), &new),
            "ReplicaSet" => self.replica_set(old.as_deref(), &new),
            _ => Ok(()),
        }
    }

    fn created(&mut self, key: &str, new: &Value) -> Result<(), String> {
        if self.objects.contains_key(key) {
            return Err(format!("{key}: created twice"));
        }
        if let Some(other) = self.uids.insert(uid(new).to_owned(), key.to_owned()) {
            return Err(format!("{key}: UID {} was {other}'s", uid(new)));
        }
        Ok(())
    }

    fn deleted(&self, old: &Value, last: &Value) -> Result<(), String> {
        let what = name(old);
        let finalizers = last.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
        // A later delete may take back what an earlier one asked of the garbage collector; upstream removes the object
        // then without a write of its own (`store.go`, `errDeleteNow`).
        let namespace = self.objects.get(&format!("/namespaces/{}", text(old, "/metadata/namespace")));
        let again = self.forced.contains(uid(old)) || namespace.is_some_and(|n| is_deleting(n));
        let held = finalizers.into_iter().find(|f| !again || (*f != "orphan" && *f != "foregroundDeletion"));
        if let Some(finalizer) = held {
            return Err(format!("{what}: deleted with finalizer {finalizer}"));
        }
        let bound = !text(old, "/spec/nodeName").is_empty();
        if text(old, "/kind") == "Pod" && bound && is_active(old) && !self.forced.contains(uid(old)) {
            return Err(format!("{what}: deleted without its grace"));
        }
        Ok(())
    }

    fn remember_spec(&mut self, new: &Arc<Value>) {
        if !matches!(text(new, "/kind"), "Deployment" | "ReplicaSet") {
            return;
        }
        let (generation, observed) = (number(new, "/metadata/generation"), number(new, "/status/observedGeneration"));
        let specs = self.specs.entry(uid(new).to_owned()).or_default();
        if specs.last().is_none_or(|(g, _)| *g != generation) {
            specs.push((generation, new.clone()));
        }
        specs.retain(|(g, _)| *g >= observed);
    }

    /// The specs that a controller may still act on.
    fn specs_of(&self, uid: &str) -> impl Iterator<Item = &Value> {
        self.specs.get(uid).into_iter().flatten().filter_map(|(_, object)| object.get("spec"))
    }

    /// All objects of a kind.
    fn all(&self, kind: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.kinds.get(kind).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    fn controlled(&self, kind: &str, owner: &str) -> Vec<&Arc<Value>> {
        self.all(kind).filter(|o| controller(o) == Some(owner)).collect()
    }

    fn pod(&self, old: Option<&Value>, new: &Value) -> Result<(), String> {
        let what = name(new);
        let address = text(new, "/status/podIP");
        if !address.is_empty() && is_live(new) {
            let twin =
                self.all("Pod").find(|p| uid(p) != uid(new) && is_live(p) && text(p, "/status/podIP") == address);
            if let Some(twin) = twin {
                return Err(format!("{what}: address {address} is {}'s", name(twin)));
            }
        }
        let node = text(new, "/spec/nodeName");
        let was = old.map_or("", |o| text(o, "/spec/nodeName"));
        if node != was {
            self.fits(node)?;
        }
        match (old, controller(new)) {
            (None, Some(owner)) => self.pods_within(owner, new),
            _ => Ok(()),
        }
    }

    /// The node has room for all its pods.
    fn fits(&self, node: &str) -> Result<(), String> {
        let Some(object) = self.objects.get(&format!("/nodes/{node}")) else { return Ok(()) };
        let pods: Vec<_> = self.all("Pod").filter(|p| is_live(p) && text(p, "/spec/nodeName") == node).collect();
        let containers = pods.iter().flat_map(|p| p.pointer("/spec/containers").and_then(Value::as_array)).flatten();
        let asked: i64 = containers.map(|c| milli(c.pointer("/resources/requests/cpu"))).sum();
        let room = milli(object.pointer("/status/allocatable/cpu"));
        if asked > room {
            return Err(format!("node {node}: {asked}m CPU asked of {room}m"));
        }
        let (count, most) =
            (i64::try_from(pods.len()).unwrap_or(i64::MAX), milli(object.pointer("/status/allocatable/pods")) / 1000);
        if count > most { Err(format!("node {node}: {count} pods of {most}")) } else { Ok(()) }
    }

    /// A ReplicaSet has no more active pods than it may want.
    fn pods_within(&self, owner: &str, new: &Value) -> Result<(), String> {
        let Some(most) = self.specs_of(owner).map(|s| s.get("replicas").and_then(Value::as_i64).unwrap_or(1)).max()
        else {
            return Ok(());
        };
        let slack = self.unclear.get(owner).copied().unwrap_or(0);
        let active = self.controlled("Pod", owner).into_iter().filter(|p| is_active(p)).count();
        let allowed = usize::try_from(most).unwrap_or(0) + slack;
        if active > allowed {
            return Err(format!("{}: {active} active pods of its ReplicaSet, {allowed} allowed", name(new)));
        }
        Ok(())
    }

    /// The ReplicaSets of a Deployment together want neither too many nor too few.
    fn replica_set(&self, old: Option<&Value>, new: &Value) -> Result<(), String> {
        let Some(owner) = controller(new) else { return Ok(()) };
        let wanted = |rs: &Value| number(rs, "/spec/replicas");
        let change = wanted(new) - old.map_or(0, wanted);
        let total: i64 = self.controlled("ReplicaSet", owner).into_iter().map(|rs| wanted(rs)).sum();
        let limits: Vec<_> = self.specs_of(owner).map(bounds).collect();
        let most = limits.iter().map(|b| b.1).max();
        // The garbage collector removes the ReplicaSets of a Deployment that is gone one by one; who has not seen it end yet may still scale.
        let goes_on = self.all("Deployment").any(|d| uid(d) == owner && !is_deleting(d));
        let fewest = limits.iter().map(|b| b.2).min().filter(|_| goes_on);
        match (most, fewest) {
            (Some(most), _) if change > 0 && total > most => {
                Err(format!("{}: its Deployment's ReplicaSets want {total}, {most} allowed", name(new)))
            }
            (_, Some(fewest)) if change < 0 && total < fewest => {
                Err(format!("{}: its Deployment's ReplicaSets want {total}, at least {fewest} needed", name(new)))
            }
            _ => Ok(()),
        }
    }

    // === what scenarios tell and ask ===

    /// This object may go at once: without grace, without the garbage collector's leave.
    pub fn force(&mut self, uid: &str) {
        self.forced.insert(uid.to_owned());
    }

    /// Somebody does not know whether a pod of this owner was created.
    pub fn unclear_create(&mut self, owner: String) {
        *self.unclear.entry(owner).or_default() += 1;
    }

    /// Commits so far that are no Lease's.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.newest
    }

    /// Objects of a kind: namespace, name, UID, revision.
    pub fn index(&self, kind: &str) -> Vec<(String, String, String, u64)> {
        let entry = |o: &Arc<Value>| {
            let meta = |path| text(o, path).to_owned();
            let revision = meta("/metadata/resourceVersion").parse().unwrap_or(0);
            (meta("/metadata/namespace"), meta("/metadata/name"), meta("/metadata/uid"), revision)
        };
        let mut list: Vec<_> = self.all(kind).map(entry).collect();
        list.sort();
        list
    }

    /// Why the cluster is not yet what was asked for; `None` when it is. `running`: names of the controllers there are.
    pub fn unsettled(&self, running: &BTreeSet<&str>) -> Option<String> {
        let deleting = self.objects.values().find(|o| is_deleting(o));
        if let Some(object) = deleting {
            return Some(format!("{} is still being deleted", name(object)));
        }
        self.all("Deployment")
            .find_map(|d| self.deployment_unsettled(d))
            .or_else(|| self.all("Pod").find_map(|p| self.pod_unsettled(p, running)))
            .or_else(|| self.all("ReplicaSet").find_map(|rs| self.set_unsettled(rs)))
            .or_else(|| self.ownerless(running))
            .or_else(|| self.all("Service").find_map(|s| self.service_unsettled(s, running)))
            .or_else(|| self.all("Job").find_map(|j| job_unsettled(j, running)))
    }

    fn deployment_unsettled(&self, d: &Value) -> Option<String> {
        let wanted = bounds(&d["spec"]).0;
        let status = &d["status"];
        let told: Vec<i64> = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
            .iter()
            .map(|f| status.get(f).and_then(Value::as_i64).unwrap_or(0))
            .collect();
        if told.iter().any(|n| *n != wanted) {
            return Some(format!("{} tells {told:?}, wants {wanted}", name(d)));
        }
        if number(d, "/status/observedGeneration") != number(d, "/metadata/generation") {
            return Some(format!("{} has not been observed", name(d)));
        }
        let sets = self.controlled("ReplicaSet", uid(d));
        let pods: Vec<_> =
            sets.iter().flat_map(|rs| self.controlled("Pod", uid(rs))).filter(|p| is_active(p)).collect();
        let image = |template: &Value| template.pointer("/spec/containers/0/image").cloned();
        let right = pods.iter().filter(|p| is_ready(p) && image(p) == image(&d["spec"]["template"])).count();
        if i64::try_from(right).ok() != Some(wanted) || right != pods.len() {
            return Some(format!("{} has {} active pods, {right} of them ready and new", name(d), pods.len()));
        }
        None
    }

    fn set_unsettled(&self, rs: &Value) -> Option<String> {
        let active = self.controlled("Pod", uid(rs)).into_iter().filter(|p| is_active(p)).count();
        let wanted = number(rs, "/spec/replicas");
        let told = (number(rs, "/status/replicas"), number(rs, "/status/availableReplicas"));
        (i64::try_from(active).ok() != Some(wanted) || told != (wanted, wanted))
            .then(|| format!("{} wants {wanted}, tells {told:?}, has {active}", name(rs)))
    }

    fn pod_unsettled(&self, pod: &Value, running: &BTreeSet<&str>) -> Option<String> {
        let of_job = self.all("Job").any(|j| controller(pod) == Some(uid(j)));
        let ok = !is_live(pod) || is_ready(pod) || (of_job && !running.contains("job-controller"));
        (!ok).then(|| {
            format!(
                "{} on {:?} is {} and not ready",
                name(pod),
                text(pod, "/spec/nodeName"),
                text(pod, "/status/phase")
            )
        })
    }

    /// An object whose owners are all gone.
    fn ownerless(&self, running: &BTreeSet<&str>) -> Option<String> {
        if !running.contains("generic-garbage-collector") {
            return None;
        }
        let alive: BTreeSet<&str> = self.objects.values().map(|o| uid(o)).collect();
        let orphan = self.objects.values().find(|o| {
            let owners = o.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            owners.is_some_and(|list| {
                !list.is_empty() && !list.iter().any(|o| alive.contains(o["uid"].as_str().unwrap_or_default()))
            })
        });
        orphan.map(|o| format!("{} has owners that are all gone", name(o)))
    }

    fn service_unsettled(&self, service: &Value, running: &BTreeSet<&str>) -> Option<String> {
        let selector = service.pointer("/spec/selector")?.as_object()?;
        if !running.contains("endpointslice-controller") {
            return None;
        }
        let same_namespace = |o: &&Arc<Value>| text(o, "/metadata/namespace") == text(service, "/metadata/namespace");
        let ready: BTreeSet<&str> = self
            .all("Pod")
            .filter(same_namespace)
            .filter(|p| {
                selector.iter().all(|(k, v)| p["metadata"]["labels"].get(k) == Some(v)) && is_active(p) && is_ready(p)
            })
            .map(|p| text(p, "/status/podIP"))
            .collect();
        let slices = self
            .all("EndpointSlice")
            .filter(same_namespace)
            .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]);
        let endpoints = slices.flat_map(|s| s["endpoints"].as_array()).flatten();
        let told: BTreeSet<&str> = endpoints
            .filter(|e| e["conditions"]["ready"] != false)
            .filter_map(|e| e["addresses"][0].as_str())
            .collect();
        (ready != told).then(|| format!("{}: endpoints {told:?}, ready pods {ready:?}", name(service)))
    }
}

fn job_unsettled(job: &Value, running: &BTreeSet<&str>) -> Option<String> {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    let over = conditions
        .into_iter()
        .flatten()
        .any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")) && c["status"] == "True");
    (running.contains("job-controller") && !over).then(|| format!("{} is not over", name(job)))
}

/// What an update must not do.
fn changed(old: &Value, new: &Value) -> Result<(), String> {
    let what = name(new);
    if uid(old) != uid(new) {
        return Err(format!("{what}: its UID changed"));
    }
    if number(new, "/metadata/generation") < number(old, "/metadata/generation") {
        return Err(format!("{what}: its generation went back"));
    }
    if is_deleting(old) && !is_deleting(new) {
        return Err(format!("{what}: its deletion was taken back"));
    }
    let node = text(old, "/spec/nodeName");
    if text(old, "/kind") == "Pod" && !node.is_empty() && text(new, "/spec/nodeName") != node {
        return Err(format!("{what}: it moved from node {node}"));
    }
    if text(old, "/kind") == "Pod" && !is_live(old) && is_live(new) {
        return Err(format!("{what}: it came back from {}", text(old, "/status/phase")));
    }
    Ok(())
}
