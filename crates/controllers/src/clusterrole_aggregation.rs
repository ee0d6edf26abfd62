//! ClusterRoleAggregation: fills roles that have an `aggregationRule`
//! (`pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go`).
//!
//! Watches   ClusterRole (any change concerns every aggregating role).
//! Writes    ClusterRole rules, by server-side apply.
//! Differs   from upstream: nothing.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::k8s::api::rbac::v1::PolicyRule;
use api::prelude::*;
use client::Patch;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) struct ClusterRoleAggregation;

pub(crate) struct View {
    role: Arc<ClusterRole>,
    /// All roles, by name.
    all: Vec<Arc<ClusterRole>>,
}

impl Controller for ClusterRoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<ClusterRole>(|ctx, change| {
            let all = ctx.cache::<ClusterRole>().list();
            let mut keys: Vec<Key> =
                all.iter().filter(|r| r.aggregation_rule.is_some()).map(|r| Key::of(r.as_ref())).collect();
            keys.extend(change.new.iter().filter(|r| r.aggregation_rule.is_some()).map(|r| Key::of(r.as_ref())));
            keys
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let cache = ctx.cache::<ClusterRole>();
        Some(View { role: cache.get("", &key.name)?, all: cache.list() })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(selectors) = view.role.aggregation_rule.as_ref().map(|a| a.cluster_role_selectors.iter().flatten())
        else {
            return plan;
        };
        let mut rules: Vec<PolicyRule> = Vec::new();
        let empty = BTreeMap::new();
        for selector in selectors {
            let Ok(selector) = LabelSelector::from_api(Some(selector)) else { return plan };
            let chosen = view.all.iter().filter(|r| r.name() != view.role.name());
            for role in chosen.filter(|r| selector.matches(r.metadata.labels.as_ref().unwrap_or(&empty))) {
                for rule in role.rules.iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        if rules != view.role.rules.clone().unwrap_or_default() {
            let config = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": view.role.name()}, "rules": rules,
            });
            plan.writes.push(Write::patch(view.role.as_ref(), "", Patch::Apply { config, force: true }));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Verb;
    use crate::testing::{at, object};
    use expect_test::{Expect, expect};
    use serde_json::Value;

    fn role(name: &str, label: Option<&str>, verbs: &[&str]) -> Arc<ClusterRole> {
        let labels = label.map(|l| json!({l: "true"})).unwrap_or(json!({}));
        let rules: Vec<Value> =
            verbs.iter().map(|v| json!({"verbs": [v], "apiGroups": [""], "resources": ["pods"]})).collect();
        object(json!({"metadata": {"name": name, "labels": labels}, "rules": rules}))
    }

    fn check_rules(all: Vec<Arc<ClusterRole>>, has: &[&str], expected: Expect) {
        let mut role = role("view", Some("to-view"), has).as_ref().clone();
        role.aggregation_rule = Some(api::k8s::api::rbac::v1::AggregationRule {
            cluster_role_selectors: Some(vec![api::LabelSelector {
                match_labels: Some(BTreeMap::from([("to-view".to_owned(), "true".to_owned())])),
                ..api::LabelSelector::default()
            }]),
        });
        let plan = ClusterRoleAggregation::plan(&View { role: Arc::new(role), all }, at(0));
        let text: Vec<String> = plan
            .writes
            .iter()
            .map(|w| match &w.verb {
                Verb::Patch(_, _, Patch::Apply { config, force: true }) => {
                    let verbs = config["rules"].as_array().into_iter().flatten().map(|r| r["verbs"][0].to_string());
                    verbs.collect::<Vec<_>>().join(" ")
                }
                _ => panic!("unexpected {w}"),
            })
            .collect();
        expected.assert_eq(&text.join("\n"));
    }

    #[test]
    fn rules_of_labelled_roles_are_collected_once() {
        let all = || {
            vec![
                role("a", Some("to-view"), &["get", "list"]),
                role("b", Some("to-view"), &["list", "watch"]),
                role("c", None, &["delete"]),
            ]
        };
        check_rules(all(), &[], expect![[r#""get" "list" "watch""#]]);
        check_rules(all(), &["get", "list", "watch"], expect![[""]]);
        check_rules(all(), &["get", "delete"], expect![[r#""get" "list" "watch""#]]);
    }
}
