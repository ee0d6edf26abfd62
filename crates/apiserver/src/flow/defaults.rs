//! The flow schemas and priority levels that every cluster has (`apiserver/pkg/apis/flowcontrol/bootstrap/default.go`), and when
//! they are put back (`pkg/registry/flowcontrol/ensurer/strategy.go`). Pure.

use api::k8s::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use api::prelude::{MetaExt, Object};
use serde_json::{Value, json};

/// `"true"`: the spec is kept as it is here; `"false"`: it is the user's.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// Kept whatever users say.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Name, nominal shares, lendable per cent, and queues, hand size, queue length.
const LIMITED: [(&str, i32, i32, [i32; 3]); 6] = [
    ("system", 30, 33, [64, 6, 50]),
    ("node-high", 40, 25, [64, 6, 50]),
    ("leader-election", 10, 0, [16, 4, 50]),
    ("workload-high", 40, 50, [128, 6, 50]),
    ("workload-low", 100, 90, [128, 6, 50]),
    ("global-default", 20, 50, [128, 6, 50]),
];

/// All priority levels.
pub(super) fn levels() -> Vec<PriorityLevelConfiguration> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let catch_all = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
    }});
    let limited = LIMITED.iter().map(|(name, shares, lendable, [queues, hand_size, length])| {
        let queuing = json!({"queues": queues, "handSize": hand_size, "queueLengthLimit": length});
        let spec = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        }});
        made(name, spec)
    });
    [made("exempt", exempt), made("catch-all", catch_all)].into_iter().chain(limited).collect()
}

/// All flow schemas.
pub(super) fn schemas() -> Vec<FlowSchema> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let system_accounts =
        json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}});
    let everybody = json!([group("system:unauthenticated"), group("system:authenticated")]);
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let resources = |verbs: Value, groups: &str, resources: Value, cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": [groups], "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let everything = || {
        json!({
            "resourceRules": [resources(json!(["*"]), "*", json!(["*"]), true)],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        })
    };
    let leases = |verbs: Value| resources(verbs, "coordination.k8s.io", json!(["leases"]), false);
    let probes =
        json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let election = json!({"resourceRules": [leases(json!(["get", "create", "update"]))]});
    let node_high = json!({"resourceRules": [
        resources(json!(["*"]), "", json!(["nodes", "nodes/status"]), true), leases(json!(["*"])),
    ]});
    let nodes = json!([group("system:nodes")]);
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    let table: Vec<(&str, &str, i32, Option<&str>, Value, Value)> = vec![
        ("exempt", "exempt", 1, None, json!([group("system:masters")]), everything()),
        ("catch-all", "catch-all", 10000, by_user, everybody.clone(), everything()),
        ("system-nodes", "system", 500, by_user, nodes.clone(), everything()),
        ("system-node-high", "node-high", 400, by_user, nodes, node_high),
        ("probes", "exempt", 2, None, everybody.clone(), probes),
        (
            "system-leader-election",
            "leader-election",
            100,
            by_user,
            json!([manager.clone(), scheduler.clone(), system_accounts.clone()]),
            election,
        ),
        ("kube-controller-manager", "workload-high", 800, by_namespace, json!([manager]), everything()),
        ("kube-scheduler", "workload-high", 800, by_namespace, json!([scheduler]), everything()),
        ("kube-system-service-accounts", "workload-high", 900, by_namespace, json!([system_accounts]), everything()),
        ("service-accounts", "workload-low", 9000, by_user, json!([group("system:serviceaccounts")]), everything()),
        ("global-default", "global-default", 9900, by_user, everybody, everything()),
    ];
    table
        .into_iter()
        .map(|(name, level, precedence, distinguisher, subjects, mut rule)| {
            rule["subjects"] = subjects;
            let mut spec = json!({
                "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
            });
            if let Some(method) = distinguisher {
                spec["distinguisherMethod"] = json!({"type": method});
            }
            made(name, spec)
        })
        .collect()
}

fn made<K: Object>(name: &str, spec: Value) -> K {
    let object = json!({"metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec});
    K::decode(object.to_string().as_bytes()).expect("the tables above are valid objects")
}

/// What a default object must become, given what is stored; `None` = leave it.
pub(super) fn revised<K: Object + MetaExt>(
    current: Option<&K>,
    default: &K,
    same_spec: impl Fn(&K, &K) -> bool,
    take_spec: impl Fn(&mut K, &K),
) -> Option<K> {
    let Some(current) = current else { return Some(default.clone()) };
    let said = current.annotation(AUTO_UPDATE).and_then(|text| text.parse::<bool>().ok());
    let automatic = MANDATORY.contains(&default.name())
        || said.unwrap_or_else(|| current.meta().generation.unwrap_or_default() == 1);
    let spec_differs = automatic && !same_spec(current, default);
    if said == Some(automatic) && !spec_differs {
        return None;
    }
    let mut next = current.clone();
    if spec_differs {
        take_spec(&mut next, default);
    }
    let annotations = next.meta_mut().annotations.get_or_insert_default();
    annotations.insert(AUTO_UPDATE.to_owned(), automatic.to_string());
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let levels = levels();
        for schema in schemas() {
            let spec = schema.spec.clone().unwrap_or_default();
            let level = spec.priority_level_configuration.name;
            assert!(levels.iter().any(|l| l.name() == level), "{}: {level}", schema.name());
        }
    }

    #[test]
    fn users_keep_what_they_claim_but_the_mandatory() {
        let same = |a: &FlowSchema, b: &FlowSchema| a.spec == b.spec;
        let take = |a: &mut FlowSchema, b: &FlowSchema| a.spec.clone_from(&b.spec);
        for default in schemas() {
            assert!(revised(None, &default, same, take).is_some());
            assert!(revised(Some(&default), &default, same, take).is_none());
            let mut changed = default.clone();
            changed.spec.get_or_insert_default().matching_precedence = Some(77);
            assert!(same(&revised(Some(&changed), &default, same, take).expect("put back"), &default));
            let annotations = changed.metadata.annotations.get_or_insert_default();
            annotations.insert(AUTO_UPDATE.to_owned(), "false".to_owned());
            let kept = revised(Some(&changed), &default, same, take).is_none();
            assert_eq!(kept, !MANDATORY.contains(&default.name()), "{}", default.name());
        }
    }
}
