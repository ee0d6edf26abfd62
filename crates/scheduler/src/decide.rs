//! [`decide`]: one pod, all nodes. Pure.

use crate::cycle::{Cause, Cycle, Refusal};
use crate::devices::ClaimPlan;
use crate::events::Events;
use crate::plugins::{SCORES, Scoring, dynamic_resources, volume_binding};
use crate::pod::PodInfo;
use crate::preempt::{self, Room};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::volumes::VolumePlan;
use api::k8s::api::resource::v1::ResourceClaim;
use jiff::Timestamp;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What becomes of a pod.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It goes to this node, after this was done.
    Bind(String, Preparation),
    /// Others make room for it.
    Preempt(Room, Waiting),
    /// Nowhere for now.
    Wait(Waiting),
    /// It is not ready to be placed before one of these.
    Hold(Events),
    /// Something is wrong that nodes cannot help; what.
    Fail(String),
}

/// What is done before a pod is bound.
#[derive(Debug, Clone, Default)]
pub struct Preparation {
    /// About its claims of volumes.
    pub volumes: VolumePlan,
    /// About its claims of devices.
    pub claims: ClaimPlan,
}

/// What becomes of a claim of devices that is of no use to its pod.
#[derive(Debug, Clone)]
pub enum Undo {
    /// Its devices are given back.
    GiveBack(Arc<ResourceClaim>),
    /// It was made for the pod by an attempt before, and is deleted.
    Delete(Arc<ResourceClaim>),
}

/// Why a pod has to wait, and for what.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Says why on how many nodes.
    pub why: String,
    /// What may help.
    pub hears: Events,
    /// A node that was promised to it is of no use any more.
    pub ends_promise: bool,
    /// A claim of its is of no use to it.
    pub undoes: Option<Undo>,
}

/// Filters all nodes, scores the rest, takes the best; of equals the one `tie` picks (any number). If no node fits, looks
/// whether pods of less priority can make room. By `now`, devices may have taken too long to become ready.
pub fn decide(pod: &PodInfo, snapshot: &Snapshot, now: Timestamp, tie: u64) -> Decision {
    let total = snapshot.len();
    let Ok(claims) = dynamic_resources::find(pod, snapshot) else { return Decision::Hold(Events::CLAIM) };
    if total == 0 {
        let why = "no nodes available to schedule pods".into();
        return Decision::Wait(Waiting { why, hears: Events::NODE, ends_promise: true, undoes: None });
    }
    let cycle = match Cycle::begin(pod, claims, snapshot, now) {
        Ok(cycle) => cycle,
        Err((refusal, hears)) => {
            let why = format!("0/{total} nodes are available: {}.", refusal.reasons.join(", "));
            let room = preempt::find(pod, None, snapshot, &BTreeMap::new(), tie);
            return without_node(Claims::None, room, why, hears);
        }
    };
    let uid = pod.pod.metadata.uid.as_deref().unwrap_or_default();
    let promised = snapshot.promised_to(uid).and_then(|name| snapshot.node(name));
    if let Some(node) = promised.filter(|node| cycle.check_with_promises(node).is_ok()) {
        return bind(&cycle, node);
    }
    let mut refused: BTreeMap<&str, Refusal> = BTreeMap::new();
    let mut hears = Events::NONE;
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let nodes: Vec<&NodeInfo> = match cycle.only {
        None => snapshot.nodes().map(|(_, info)| info).collect(),
        Some(only) => only.iter().filter_map(|name| snapshot.node(name)).collect(),
    };
    for info in nodes {
        match cycle.check_with_promises(info) {
            Ok(()) => fitting.push(info),
            Err((error, _)) if error.cause == Cause::Error => return Decision::Fail(error.reasons.join(", ")),
            Err((refusal, events)) => {
                hears |= events;
                refused.insert(info.name(), refusal);
            }
        }
    }
    let Some(best) = best(&cycle, &fitting, tie) else {
        let why = fit_error(total, &refused, "node(s) didn't satisfy plugin(s) [NodeAffinity]");
        let room = preempt::find(pod, Some(&cycle), snapshot, &refused, tie);
        return without_node(Claims::of(&cycle, &refused), room, why, hears | Events::NODE);
    };
    bind(&cycle, best)
}

fn bind(cycle: &Cycle<'_>, node: &NodeInfo) -> Decision {
    // The filter has found that this works.
    let volumes = volume_binding::plan(cycle, node).unwrap_or_default();
    let claims = dynamic_resources::plan(cycle, node).unwrap_or_default();
    Decision::Bind(node.name().to_owned(), Preparation { volumes, claims })
}

/// What becomes of the claims of devices of a pod without a node (`DynamicResources.PostFilter`).
enum Claims {
    None,
    Stay,
    Undo(Undo),
}

impl Claims {
    fn of(cycle: &Cycle<'_>, refused: &BTreeMap<&str, Refusal>) -> Self {
        let Some(state) = &cycle.devices else { return Claims::None };
        let given_back = state.to_give_back(cycle, refused).map(Undo::GiveBack);
        let undone = given_back.or_else(|| state.made_before().cloned().map(Undo::Delete));
        undone.map_or(Claims::Stay, Claims::Undo)
    }
}

fn without_node(claims: Claims, room: Result<Room, preempt::No>, why: String, hears: Events) -> Decision {
    let (said, undoes) = match claims {
        Claims::None => ("no new claims to deallocate", None),
        Claims::Stay => ("still not schedulable", None),
        Claims::Undo(undo @ Undo::GiveBack(_)) => ("deallocation of ResourceClaim completed", Some(undo)),
        Claims::Undo(undo @ Undo::Delete(_)) => ("deletion of ResourceClaim completed", Some(undo)),
    };
    match room {
        Ok(room) => {
            let hears = hears | Events::POD_GONE;
            Decision::Preempt(room, Waiting { why, hears, ends_promise: false, undoes })
        }
        Err(no) => {
            let why = format!("{why} {said}, preemption: {}", no.why);
            Decision::Wait(Waiting { why, hears, ends_promise: no.ends_promise, undoes })
        }
    }
}

/// `FitError.Error`: how many nodes are out for which reason; nodes that nobody looked at are out for `others`.
pub(crate) fn fit_error(total: usize, refused: &BTreeMap<&str, Refusal>, others: &'static str) -> String {
    let mut counts: BTreeMap<Cow<'static, str>, usize> = BTreeMap::new();
    for reason in refused.values().flat_map(|r| &r.reasons) {
        *counts.entry(reason.clone()).or_default() += 1;
    }
    if refused.len() < total {
        *counts.entry(others.into()).or_default() += total - refused.len();
    }
    let mut list: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    list.sort();
    format!("0/{total} nodes are available: {}.", list.join(", "))
}

fn best<'a>(cycle: &Cycle<'_>, fitting: &[&'a NodeInfo], tie: u64) -> Option<&'a NodeInfo> {
    if fitting.len() <= 1 {
        return fitting.first().copied();
    }
    let scoring = Scoring::begin(cycle, fitting);
    let mut totals = vec![0i64; fitting.len()];
    let mut scores = vec![0i64; fitting.len()];
    for plugin in SCORES {
        for (slot, info) in scores.iter_mut().zip(fitting) {
            *slot = (plugin.score)(&scoring, info);
        }
        (plugin.normalize)(&mut scores);
        totals.iter_mut().zip(&scores).for_each(|(t, s)| *t += s * plugin.weight);
    }
    let best = totals.iter().copied().max()?;
    let equals = || fitting.iter().zip(&totals).filter(|(_, t)| **t == best).map(|(info, _)| *info);
    let count = equals().count() as u64;
    equals().nth(usize::try_from(tie % count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use api::prelude::*;
    use expect_test::{Expect, expect};

    /// Lines: `node NAME cpu=2 memory=4Gi pods=10 [label=k:v,…] [taint=k:effect] [declares=feature] [has=resource] [cordoned]`, `pvc`, `pv`, `class`, `pdb`, `ns`,
    /// `claim`, `deviceclass`, `slice` with JSON, `on NODE POD cpu=1 [port=80] [owner=uid] …`, `promised NODE POD …`, and last the pod to place: `pod cpu=1 …`.
    #[track_caller]
    fn check(script: &str, expected: Expect) {
        expected.assert_eq(&show(&decided(script)));
    }

    fn decided(script: &str) -> Decision {
        let mut snapshot = Snapshot::default();
        let mut decision = None;
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let info = |name| Arc::new(PodInfo::of(Arc::new(pod(name, &words))));
            match words[0] {
                "node" => {
                    snapshot.apply_node(words[1], Some(Arc::new(node(&words))));
                }
                "on" => snapshot.place(info(words[2]), words[1]),
                "promised" => snapshot.promise(info(words[2]), words[1]),
                "ns" => {
                    snapshot.apply_namespace(words[1], Some(pairs(words[2])));
                }
                "service" => snapshot.owners.apply_service("ns", words[1], Some(pairs(words[2]))),
                "pvc" => {
                    snapshot.volumes.apply_claim("ns", words[1], Some(json(words[1], words[2])));
                }
                "pv" => {
                    snapshot.volumes.apply_volume(words[1], Some(json(words[1], words[2])));
                }
                "class" => {
                    snapshot.volumes.apply_class(words[1], Some(json(words[1], words[2])));
                }
                "csi" => {
                    snapshot.volumes.apply_csi_node(words[1], Some(json(words[1], words[2])));
                }
                "claim" => {
                    snapshot.devices.apply_claim("ns", words[1], Some(json(words[1], words[2])));
                }
                "deviceclass" => {
                    snapshot.devices.apply_class(words[1], Some(json(words[1], words[2])));
                }
                "slice" => {
                    snapshot.devices.apply_slice(words[1], Some(json(words[1], words[2])));
                }
                "pdb" => {
                    snapshot.apply_budget("ns", words[1], Some(json(words[1], words[2])));
                }
                _ => decision = Some(decide(&info("new"), &snapshot, Timestamp::UNIX_EPOCH, 0)),
            }
        }
        decision.expect("a pod to place")
    }

    fn show(decision: &Decision) -> String {
        let names = |pods: &[Arc<Pod>]| pods.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>().join(" ");
        match decision {
            Decision::Bind(node, Preparation { volumes, claims }) if volumes.is_empty() && claims.is_empty() => {
                format!("bind {node}")
            }
            Decision::Bind(node, Preparation { volumes, claims }) if claims.is_empty() => {
                format!("bind {node} {volumes:?}")
            }
            Decision::Bind(node, Preparation { claims, .. }) => format!("bind {node}{}", steps(claims)),
            Decision::Preempt(room, waiting) => {
                format!(
                    "{} must leave {}; {}; {}",
                    names(&room.victims),
                    room.node,
                    names(&room.disappointed),
                    waiting.why
                )
            }
            Decision::Wait(waiting) => waiting.why.clone(),
            Decision::Hold(_) => "hold".to_owned(),
            Decision::Fail(why) => why.clone(),
        }
    }

    /// ` claim=device,…` for each claim.
    fn steps(claims: &ClaimPlan) -> String {
        let devices = |step: &crate::devices::ClaimStep| {
            let results = machinery::resource_claims::results(&step.allocation);
            results.map(|r| r.device.clone()).collect::<Vec<_>>().join(",")
        };
        claims.0.iter().map(|step| format!(" {}={}", step.claim.name(), devices(step))).collect()
    }

    fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
        words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }

    /// `k:v,k:v`
    fn pairs(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|p| p.split_once(':')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// The object with the name, in the namespace.
    fn json<K: Object>(name: &str, fields: &str) -> Arc<K> {
        let meta = format!(r#""metadata":{{"name":"{name}","namespace":"ns","uid":"{name}"}},"#);
        let meta = if fields.contains("metadata") { "" } else { &meta };
        let text = format!("{{{meta}{}", &fields[1..]);
        Arc::new(<K as Codec>::decode(text.as_bytes()).unwrap_or_else(|e| panic!("{e} in {text}")))
    }

    fn node(words: &[&str]) -> Node {
        let mut labels = option(words, "label").map(pairs).unwrap_or_default();
        labels.insert("kubernetes.io/hostname".into(), words[1].into());
        let taints = option(words, "taint").and_then(|t| t.split_once(':'));
        let taints = taints.map(|(k, e)| format!(r#"{{"key":"{k}","effect":"{e}"}}"#)).unwrap_or_default();
        let get = |key, or| option(words, key).unwrap_or(or);
        let json = format!(
            r#"{{"metadata":{{"name":"{}","labels":{}}},"spec":{{"unschedulable":{},"taints":[{taints}]}},
            "status":{{"allocatable":{{"cpu":"{}","memory":"{}","pods":"{}"{}}},"declaredFeatures":{}}}}}"#,
            words[1],
            serde_json::json!(labels),
            words.contains(&"cordoned"),
            get("cpu", "4"),
            get("memory", "8Gi"),
            get("pods", "110"),
            option(words, "has").map(|resource| format!(r#","{resource}":"1""#)).unwrap_or_default(),
            serde_json::json!(option(words, "declares").into_iter().collect::<Vec<_>>()),
        );
        Codec::decode(json.as_bytes()).expect("test node")
    }

    /// Options: `cpu asks port hostip owner selector tolerate label priority started promised claim device`, and with JSON `affinity spread`.
    fn pod(name: &str, words: &[&str]) -> Pod {
        let mut value = serde_json::json!({
            "metadata": {"name": name, "uid": name, "namespace": option(words, "ns").unwrap_or("ns")},
            "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {},
        });
        let mut set = |path: &str, new: serde_json::Value| {
            let at = path.rfind('/').unwrap_or(0);
            value.pointer_mut(&path[..at]).expect("a path of the pod")[&path[at + 1..]] = new;
        };
        let parsed =
            |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}")) };
        for word in words {
            let Some((key, text)) = word.split_once('=') else { continue };
            let number = || text.parse::<i64>().expect("a number");
            match key {
                "asks" => set("/spec/containers/0/resources", serde_json::json!({"requests": {text: "1"}})),
                "cpu" => set("/spec/containers/0/resources", serde_json::json!({"requests": {"cpu": text}})),
                "port" => {
                    let ip = option(words, "hostip").unwrap_or_default();
                    let port = serde_json::json!([{"hostPort": number(), "containerPort": 1, "hostIP": ip}]);
                    set("/spec/containers/0/ports", port);
                }
                "owner" => set(
                    "/metadata/ownerReferences",
                    serde_json::json!([
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": text, "controller": true}]),
                ),
                "selector" => set("/spec/nodeSelector", serde_json::json!(pairs(text))),
                "tolerate" => set("/spec/tolerations", serde_json::json!([{"key": text, "operator": "Exists"}])),
                "label" => set("/metadata/labels", serde_json::json!(pairs(text))),
                "onexit" => {
                    set("/spec/containers/0/restartPolicyRules", serde_json::json!([{"action": text}]));
                }
                "priority" => set("/spec/priority", number().into()),
                "policy" => set("/spec/preemptionPolicy", text.into()),
                "started" => set("/status/startTime", format!("2026-01-01T00:00:{text}Z").into()),
                "claim" => set(
                    "/spec/volumes",
                    serde_json::json!([{"name": "v", "persistentVolumeClaim": {"claimName": text}}]),
                ),
                "device" => {
                    let entry = |(i, claim)| serde_json::json!({"name": format!("d{i}"), "resourceClaimName": claim});
                    set("/spec/resourceClaims", text.split(',').enumerate().map(entry).collect());
                }
                "affinity" => set("/spec/affinity", parsed(text)),
                "spread" => set("/spec/topologySpreadConstraints", parsed(text)),
                "leaving" => {
                    set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z".into());
                    set(
                        "/status/conditions",
                        serde_json::json!([
                        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
                    );
                }
                _ => {}
            }
        }
        Codec::decode(value.to_string().as_bytes()).expect("test pod")
    }

    #[test]
    fn a_pod_goes_where_its_features_are_declared() {
        let nodes = "node a\nnode b declares=RestartAllContainersOnContainerExits cpu=1";
        check(&format!("{nodes}\npod onexit=RestartAllContainers"), expect!["bind b"]);
        check(
            &format!("{nodes}\npod onexit=RestartAllContainers cpu=2"),
            expect![
                "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's required features. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn the_emptier_node_wins() {
        check("node a\nnode b\non a x cpu=2\npod cpu=1", expect!["bind b"]);
    }

    #[test]
    fn every_reason_is_counted() {
        check(
            "node a cpu=1\nnode b taint=key:NoSchedule\nnode c cordoned\nnode d pods=0 cpu=1\npod cpu=2",
            expect![
                "0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu. no new claims to deallocate, preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn a_toleration_opens_a_tainted_node() {
        check("node a taint=key:NoSchedule\npod tolerate=key", expect!["bind a"]);
    }

    #[test]
    fn selectors_and_ports_limit() {
        check(
            "node a label=disk:ssd\nnode b\non a x port=80\npod selector=disk:ssd port=80",
            expect![
                "0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
            ],
        );
        check("node a\non a x port=80 hostip=127.0.0.1\npod port=80 hostip=127.0.0.2", expect!["bind a"]);
        check(
            "node a\non a x port=80 hostip=127.0.0.1\npod port=80",
            expect![
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
    }

    #[test]
    fn siblings_of_a_service_spread() {
        check("node a cpu=64\nnode b cpu=4\nservice s app:x\non a x label=app:x\npod label=app:x", expect!["bind b"]);
    }

    #[test]
    fn no_node_says_so() {
        check("pod cpu=1", expect!["no nodes available to schedule pods"]);
    }

    #[test]
    fn a_pod_that_names_its_node_looks_at_no_other() {
        let affinity = r#"affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["b"]}]}]}}}"#;
        check(&format!("node a\nnode b cpu=1\npod cpu=1 {affinity}"), expect!["bind b"]);
        check(
            &format!("node a\nnode b cpu=1\npod cpu=2 {affinity}"),
            expect![
                "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
    }

    const ANTI: &str = r#"affinity={"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"labelSelector":{"matchLabels":{"app":"x"}},"topologyKey":"zone"}]}}"#;
    const NEAR: &str = r#"affinity={"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"labelSelector":{"matchLabels":{"app":"x"}},"topologyKey":"zone"}]}}"#;
    const ZONES: &str = "node a label=zone:1\nnode b label=zone:1\nnode c label=zone:2\n";

    #[test]
    fn affinity_keeps_pods_in_one_zone_and_anti_affinity_apart() {
        check(&format!("{ZONES}on a x label=app:x\npod cpu=1 {ANTI}"), expect!["bind c"]);
        check(&format!("{ZONES}on c x label=app:x\npod cpu=1 {NEAR}"), expect!["bind c"]);
        // The other way round: who is there may not want the new one.
        check(&format!("{ZONES}on a x {ANTI}\npod label=app:x"), expect!["bind c"]);
        check(
            &format!("node a label=zone:1\non a x {ANTI}\npod label=app:x"),
            expect![
                "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
    }

    #[test]
    fn the_first_of_pods_that_want_each_other_may_start() {
        check(&format!("node a label=zone:1\npod label=app:x {NEAR}"), expect!["bind a"]);
        check(
            &format!("node a label=zone:1\npod label=app:y {NEAR}"),
            expect![
                "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        check(
            &format!("node a\npod label=app:x {NEAR}"),
            expect![
                "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn affinity_looks_into_other_namespaces_only_if_asked() {
        let all = NEAR.replace("\"topologyKey\"", r#""namespaceSelector":{"matchLabels":{"team":"t"}},"topologyKey""#);
        check(
            &format!("{ZONES}on c x label=app:x ns=other\npod cpu=1 {NEAR}"),
            expect![
                "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
            ],
        );
        check(&format!("{ZONES}ns other team:t\non c x label=app:x ns=other\npod cpu=1 {all}"), expect!["bind c"]);
    }

    #[test]
    fn hard_spreading_bounds_the_skew_and_soft_prefers_the_emptier() {
        let spread = |when: &str, more: &str| {
            format!(
                r#"spread=[{{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"{when}","labelSelector":{{"matchLabels":{{"app":"x"}}}}{more}}}]"#
            )
        };
        let (hard, soft) = (spread("DoNotSchedule", ""), spread("ScheduleAnyway", ""));
        check(&format!("{ZONES}on a x label=app:x\npod label=app:x {hard}"), expect!["bind c"]);
        check(&format!("{ZONES}on a x label=app:x\npod label=app:x {soft}"), expect!["bind c"]);
        check(
            &format!("node a label=zone:1\nnode c cordoned label=zone:2\non a x label=app:x\npod label=app:x {hard}"),
            expect![
                "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
            ],
        );
        let taints = spread("DoNotSchedule", r#","nodeTaintsPolicy":"Honor""#);
        check(
            &format!(
                "node a label=zone:1\nnode c taint=k:NoSchedule label=zone:2\non a x label=app:x\npod label=app:x {taints}"
            ),
            expect!["bind a"],
        );
        let domains = spread("DoNotSchedule", r#","minDomains":3"#);
        check(
            &format!("node a label=zone:1\non a x label=app:x\npod label=app:x {domains}"),
            expect![
                "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        check(
            &format!("node a\npod label=app:x {hard}"),
            expect![
                "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label). no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn the_least_important_pods_make_room() {
        let pods = "node a cpu=2\non a low cpu=1 priority=1 started=01\non a mid cpu=1 priority=5\n";
        check(
            &format!("{pods}pod cpu=1 priority=10"),
            expect!["low must leave a; ; 0/1 nodes are available: 1 Insufficient cpu."],
        );
        check(
            &format!("{pods}pod cpu=2 priority=10"),
            expect!["mid low must leave a; ; 0/1 nodes are available: 1 Insufficient cpu."],
        );
        check(
            &format!("{pods}pod cpu=1 priority=1"),
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        check(
            &format!("{pods}pod cpu=1 priority=10 policy=Never"),
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
            ],
        );
        check(
            &format!("{pods}pod cpu=3 priority=10"),
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn of_equals_the_younger_goes_and_budgets_are_kept_if_possible() {
        let pods = "node a cpu=2\non a old cpu=1 started=01 label=app:o\non a young cpu=1 started=02 label=app:y\n";
        check(
            &format!("{pods}pod cpu=1 priority=10"),
            expect!["young must leave a; ; 0/1 nodes are available: 1 Insufficient cpu."],
        );
        let budget = r#"pdb b {"spec":{"selector":{"matchLabels":{"app":"y"}}},"status":{"disruptionsAllowed":0}}"#;
        check(
            &format!("{pods}{budget}\npod cpu=1 priority=10"),
            expect!["old must leave a; ; 0/1 nodes are available: 1 Insufficient cpu."],
        );
        check(
            &format!("{pods}{budget}\npod cpu=2 priority=10"),
            expect!["old young must leave a; ; 0/1 nodes are available: 1 Insufficient cpu."],
        );
    }

    #[test]
    fn a_promised_node_is_kept_free_for_whom_it_was_promised() {
        let promised = "node a cpu=2\npromised a vip cpu=2 priority=10\n";
        check(
            &format!("{promised}pod cpu=1 priority=1"),
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        check(&format!("{promised}pod cpu=1 priority=11"), expect!["bind a"]);
        let waiting = "node a cpu=2\non a low cpu=2 leaving=yes\npromised a new cpu=2 priority=10\n";
        check(
            &format!("{waiting}pod cpu=2 priority=10"),
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node."
            ],
        );
    }

    const CLAIM: &str = r#"{"spec":{"storageClassName":"wait","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}"#;
    const CLASS: &str =
        r#"class wait {"provisioner":"kubernetes.io/no-provisioner","volumeBindingMode":"WaitForFirstConsumer"}"#;

    fn volume_on(node: &str) -> String {
        format!(
            r#"pv pv-{node} {{"spec":{{"storageClassName":"wait","capacity":{{"storage":"2Gi"}},"accessModes":["ReadWriteOnce"],"nodeAffinity":{{"required":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"In","values":["{node}"]}}]}}]}}}}}},"status":{{"phase":"Available"}}}}"#
        )
    }

    #[test]
    fn a_claim_that_waits_takes_a_volume_of_the_node() {
        let start = format!("node a\nnode b\n{CLASS}\npvc c {CLAIM}\n");
        check(
            &format!("{start}{}\npod claim=c", volume_on("b")),
            expect![[r#"bind b VolumePlan { bind: [("pv-b", ("ns", "c"))], provision: [] }"#]],
        );
        check(
            &format!("{start}pod claim=c"),
            expect![
                "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        let making = CLASS.replace("kubernetes.io/no-provisioner", "dhow.dev/local");
        check(
            &format!("node a\n{making}\npvc c {CLAIM}\npod claim=c"),
            expect![[r#"bind a VolumePlan { bind: [], provision: [("ns", "c")] }"#]],
        );
    }

    #[test]
    fn claims_that_are_not_ready_say_so() {
        check(
            "node a\npod claim=c",
            expect![[
                r#"0/1 nodes are available: persistentvolumeclaim "c" not found. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."#
            ]],
        );
        check(
            &format!("node a\npvc c {}\npod claim=c", CLAIM.replace("wait", "now")),
            expect![
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn bound_volumes_decide_by_place_use_and_count() {
        let bound = r#"pvc c {"metadata":{"name":"c","namespace":"ns","annotations":{"pv.kubernetes.io/bind-completed":"yes"}},"spec":{"volumeName":"pv-b","accessModes":["ReadWriteOncePod"]}}"#;
        let start = format!("node a\nnode b\n{bound}\n{}\n", volume_on("b"));
        check(&format!("{start}pod claim=c"), expect!["bind b"]);
        check(
            &format!("{start}on b x claim=c\npod claim=c"),
            expect![
                "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
            ],
        );
        let csi = r#"pv pv-b {"spec":{"csi":{"driver":"d","volumeHandle":"h"}}}"#;
        let limit = r#"csi b {"spec":{"drivers":[{"name":"d","nodeID":"b","allocatable":{"count":0}}]}}"#;
        check(
            &format!("node b\n{bound}\n{csi}\n{limit}\npod claim=c"),
            expect![
                "0/1 nodes are available: 1 node(s) exceed max volume count. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
    }

    const SLICE: &str = r#"slice s {"spec":{"driver":"d","pool":{"name":"p","generation":1,"resourceSliceCount":1},"nodeName":"b","devices":[{"name":"x"}]}}"#;
    const WANTS: &str = r#"{"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"any"}}]}}}"#;

    fn given(node: &str, users: &str) -> String {
        let nodes = format!(
            r#"[{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"In","values":["{node}"]}}]}}]"#
        );
        format!(
            r#"{{"status":{{"reservedFor":[{users}],"allocation":{{"nodeSelector":{{"nodeSelectorTerms":{nodes}}},"devices":{{"results":[{{"request":"r","driver":"d","pool":"p","device":"x"}}]}}}}}}}}"#
        )
    }

    #[test]
    fn a_pod_goes_where_its_claim_gets_devices() {
        let start = format!("node a\nnode b\ndeviceclass any {{\"spec\":{{}}}}\n{SLICE}\n");
        check(&format!("{start}pod device=c"), expect!["hold"]);
        check(&format!("{start}claim c {WANTS}\npod device=c"), expect!["bind b c=x"]);
        // One claim, whatever the pod calls it: there is only one device.
        check(&format!("{start}claim c {WANTS}\npod device=c,c"), expect!["bind b c=x"]);
        check(
            &format!("{start}claim c {WANTS}\nclaim other {}\npod device=c", given("b", "")),
            expect![
                "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        check(
            &format!("node a\nclaim c {WANTS}\npod device=c"),
            expect![
                "0/1 nodes are available: request r: device class any does not exist. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        let wrong = r#"deviceclass any {"spec":{"selectors":[{"cel":{"expression":"device.attributes['d'].n"}}]}}"#;
        check(
            &format!("{start}{wrong}\nclaim c {WANTS}\npod device=c"),
            expect![[
                r#"running "DynamicResources" filter plugin: class any: selector #0: CEL runtime error: no such key: n"#
            ]],
        );
    }

    #[test]
    fn a_pod_without_devices_hears_of_claims() {
        // The claim may be made again and want less.
        let Decision::Wait(waiting) =
            decided(&format!("node a\ndeviceclass any {{\"spec\":{{}}}}\n{SLICE}\nclaim c {WANTS}\npod device=c"))
        else {
            panic!("the only device is of another node")
        };
        assert!(waiting.hears.touches(Events::CLAIM));
    }

    #[test]
    fn a_claim_with_devices_decides_where_and_is_given_back_if_nobody_else_uses_it() {
        let start = "node a\nnode b cpu=1\n".to_owned();
        check(&format!("{start}claim c {}\npod device=c", given("b", "")), expect!["bind b c="]);
        // Devices need not be searched for: others' broken slices do no harm.
        let broken = r#"slice broken {"spec":{"driver":"d","pool":{"name":"q","generation":1,"resourceSliceCount":1},"nodeSelector":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"k","operator":"Gt","values":["x"]}]}]}}}"#;
        check(&format!("{start}{broken}\nclaim c {}\npod device=c", given("b", "")), expect!["bind b c="]);
        check(
            &format!("{start}{broken}\ndeviceclass any {{\"spec\":{{}}}}\nclaim c {WANTS}\npod device=c"),
            expect![[
                r#"running "DynamicResources" filter plugin: gather pool information: failed to perform node selection for slice broken: nodeSelector.nodeSelectorTerms[0].matchExpressions[0].values[0]: Invalid value: "x": for 'Gt', 'Lt' operators, the value must be an integer"#
            ]],
        );
        check(
            &format!("{start}claim c {}\npod device=c cpu=2", given("b", "")),
            expect![
                "0/2 nodes are available: 1 Insufficient cpu, 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        let user = r#"{"resource":"pods","name":"o","uid":"o"}"#;
        check(
            &format!("{start}claim c {}\npod device=c cpu=2", given("b", user)),
            expect![
                "0/2 nodes are available: 1 Insufficient cpu, 1 resourceclaim not available on the node. still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
    }
    #[test]
    fn devices_that_do_not_become_ready_are_given_back() {
        let check_since = |since: &str, expected: Expect| {
            let slow = r#"{"request":"r","driver":"d","pool":"p","device":"x","bindingConditions":["up"]}"#;
            let allocation = format!(r#"{{"allocationTimestamp":"{since}","devices":{{"results":[{slow}]}}}}"#);
            let claim = format!(r#"{{"status":{{"allocation":{allocation}}}}}"#);
            check(&format!("node a\nclaim c {claim}\npod device=c"), expected);
        };
        check_since("1969-12-31T23:50:00Z", expect!["bind a c="]);
        check_since(
            "1969-12-31T23:49:59Z",
            expect![
                "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }
    #[test]
    fn a_node_may_have_extended_resources_as_devices() {
        let class = r#"deviceclass gpu {"spec":{"extendedResourceName":"e.com/gpu"}}"#;
        let start = format!("node a\nnode b\n{class}\n{SLICE}\n");
        check(&format!("{start}pod asks=e.com/gpu"), expect!["bind b =x"]);
        check(&format!("{start}pod asks=deviceclass.resource.kubernetes.io/gpu"), expect!["bind b =x"]);
        // By a device plugin, no claim is needed.
        check(&format!("node a has=e.com/gpu\n{class}\npod asks=e.com/gpu"), expect!["bind a"]);
        check(
            &format!("node a has=e.com/gpu\nnode b\n{class}\n{SLICE}\non a x asks=e.com/gpu\npod asks=e.com/gpu"),
            expect!["bind b =x"],
        );
        // With a claim of its own, which takes the only device.
        check(
            &format!("{start}deviceclass any {{\"spec\":{{}}}}\nclaim c {WANTS}\npod device=c asks=e.com/gpu"),
            expect![
                "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        check(
            &format!("node a\n{SLICE}\npod asks=e.com/gpu"),
            expect![
                "0/1 nodes are available: 1 Insufficient e.com/gpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn a_claim_that_an_attempt_before_made_is_deleted() {
        let owner = r#"[{"apiVersion":"v1","kind":"Pod","name":"new","uid":"new","controller":true}]"#;
        let annotations = r#"{"resource.kubernetes.io/extended-resource-claim":"true"}"#;
        let meta = format!(
            r#"{{"name":"made","namespace":"ns","uid":"made","annotations":{annotations},"ownerReferences":{owner}}}"#
        );
        let class = r#"deviceclass gpu {"spec":{"extendedResourceName":"e.com/gpu"}}"#;
        check(
            &format!("node b\n{class}\n{SLICE}\nclaim made {{\"metadata\":{meta},\"spec\":{{}}}}\npod asks=e.com/gpu"),
            expect![
                "0/1 nodes are available: 1 cannot schedule extended resource claim. deletion of ResourceClaim completed, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }
}
