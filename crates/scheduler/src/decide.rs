//! [`decide`]: one pod, all nodes. Pure.

use crate::plugins::{FILTERS, SCORES};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use std::collections::BTreeMap;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// To this node.
    Bind(String),
    /// Nowhere for now; the message says why on how many nodes.
    Unschedulable(String),
}

/// Filters all nodes, scores the rest, takes the best; of equals the one `tie` picks (any number).
pub fn decide(pod: &PodInfo, snapshot: &Snapshot, tie: u64) -> Decision {
    let total = snapshot.nodes().count();
    if total == 0 {
        return Decision::Unschedulable("no nodes available to schedule pods".into());
    }
    if let Some(why) = pod.unsupported {
        return Decision::Unschedulable(format!("0/{total} nodes are available: {why}."));
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    for (name, info) in snapshot.nodes() {
        match FILTERS.iter().find_map(|f| (f.check)(pod, info).err()) {
            None => fitting.push((name, info)),
            Some(why) => why.into_iter().for_each(|r| *reasons.entry(r).or_default() += 1),
        }
    }
    if fitting.is_empty() {
        let mut list: Vec<String> = reasons.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        list.sort();
        return Decision::Unschedulable(format!("0/{total} nodes are available: {}.", list.join(", ")));
    }
    let mut totals = vec![0i64; fitting.len()];
    if fitting.len() > 1 {
        for plugin in SCORES {
            let mut scores: Vec<i64> = fitting.iter().map(|(_, info)| (plugin.score)(pod, info, snapshot)).collect();
            (plugin.normalize)(&mut scores);
            totals.iter_mut().zip(scores).for_each(|(t, s)| *t += s * plugin.weight);
        }
    }
    let best = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<&String> = fitting.iter().zip(&totals).filter(|(_, t)| **t == best).map(|((n, _), _)| *n).collect();
    let pick = usize::try_from(tie % equals.len() as u64).unwrap_or(0);
    Decision::Bind(equals[pick].clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use api::prelude::*;
    use expect_test::{Expect, expect};
    use std::sync::Arc;

    /// Lines: `node NAME cpu=2 memory=4Gi pods=10 [label=k:v] [taint=k:effect] [cordoned]`,
    /// `on NODE POD cpu=1 [port=80] [owner=uid]`, and last the pod to place: `pod cpu=1 …`.
    fn check(script: &str, expected: Expect) {
        let mut snapshot = Snapshot::default();
        let mut decision = String::new();
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "node" => snapshot.apply_node(words[1], Some(Arc::new(node(&words)))),
                "on" => snapshot.place(Arc::new(PodInfo::of(Arc::new(pod(words[2], &words)))), words[1]),
                _ => decision = format!("{:?}", decide(&PodInfo::of(Arc::new(pod("new", &words))), &snapshot, 0)),
            }
        }
        expected.assert_eq(&decision);
    }

    fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
        words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }

    fn node(words: &[&str]) -> Node {
        let labels = option(words, "label").and_then(|l| l.split_once(':')).map(|(k, v)| format!(r#""{k}":"{v}""#));
        let taints = option(words, "taint").and_then(|t| t.split_once(':'));
        let taints = taints.map(|(k, e)| format!(r#"{{"key":"{k}","effect":"{e}"}}"#)).unwrap_or_default();
        let get = |key, or| option(words, key).unwrap_or(or);
        let json = format!(
            r#"{{"metadata":{{"name":"{}","labels":{{{}}}}},"spec":{{"unschedulable":{},"taints":[{taints}]}},
            "status":{{"allocatable":{{"cpu":"{}","memory":"{}","pods":"{}"}}}}}}"#,
            words[1],
            labels.unwrap_or_default(),
            words.contains(&"cordoned"),
            get("cpu", "4"),
            get("memory", "8Gi"),
            get("pods", "110"),
        );
        Node::decode(json.as_bytes()).expect("test node")
    }

    fn pod(name: &str, words: &[&str]) -> Pod {
        let port = option(words, "port").unwrap_or("0");
        let requests = match option(words, "cpu") {
            Some(cpu) => format!(r#"{{"cpu":"{cpu}"}}"#),
            None => "{}".into(),
        };
        let owner = option(words, "owner").map(|o| {
            format!(r#"{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"x","uid":"{o}","controller":true}}"#)
        });
        let selector =
            option(words, "selector").and_then(|l| l.split_once(':')).map(|(k, v)| format!(r#""{k}":"{v}""#));
        let tolerate = option(words, "tolerate").map(|k| format!(r#"{{"key":"{k}","operator":"Exists"}}"#));
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}","ownerReferences":[{}]}},"spec":{{"nodeSelector":{{{}}},
            "tolerations":[{}],"containers":[{{"name":"c","image":"i","ports":[{{"hostPort":{port},"containerPort":1}}],
            "resources":{{"requests":{requests}}}}}]}}}}"#,
            owner.unwrap_or_default(),
            selector.unwrap_or_default(),
            tolerate.unwrap_or_default(),
        );
        Pod::decode(json.as_bytes()).expect("test pod")
    }

    #[test]
    fn the_emptier_node_wins() {
        check("node a\nnode b\non a x cpu=2\npod cpu=1", expect![[r#"Bind("b")"#]]);
    }

    #[test]
    fn every_reason_is_counted() {
        check(
            "node a cpu=1\nnode b taint=key:NoSchedule\nnode c cordoned\nnode d pods=0 cpu=1\npod cpu=2",
            expect![[
                r#"Unschedulable("0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu.")"#
            ]],
        );
    }

    #[test]
    fn a_toleration_opens_a_tainted_node() {
        check("node a taint=key:NoSchedule\npod tolerate=key", expect![[r#"Bind("a")"#]]);
    }

    #[test]
    fn selectors_and_ports_limit() {
        check(
            "node a label=disk:ssd\nnode b\non a x port=80\npod selector=disk:ssd port=80",
            expect![[
                r#"Unschedulable("0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 1 node(s) didn't match Pod's node affinity/selector.")"#
            ]],
        );
    }

    #[test]
    fn siblings_spread() {
        check("node a cpu=64\nnode b cpu=4\non a x owner=rs\npod owner=rs", expect![[r#"Bind("b")"#]]);
    }

    #[test]
    fn no_node_says_so() {
        check("pod cpu=1", expect![[r#"Unschedulable("no nodes available to schedule pods")"#]]);
    }
}
