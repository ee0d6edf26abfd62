//! Nobody grants by RBAC what they do not have (`pkg/registry/rbac/{clusterrole,role,…}/policybased/storage.go`,
//! `pkg/registry/rbac/validation/rule.go`): roles need the rules themselves or the right to `escalate`; bindings the rules of
//! the role or the right to `bind` it.
//!
//! Upstream does this around the storage of these kinds and not as an admission plugin; the effect is the same.

use super::{Admission, Operation, Request};
use crate::auth::{Attributes, MASTERS, Rules, breakdown, covers};
use crate::status;
use api::k8s::api::rbac::v1::{PolicyRule, RoleRef};
use api::prelude::*;
use api::{ObjectMeta, Status};
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use std::collections::BTreeSet;

const GROUP: &str = "rbac.authorization.k8s.io";

/// See the file's head.
pub struct RoleEscalation;

#[async_trait]
impl Admission for RoleEscalation {
    fn name(&self) -> &'static str {
        "RoleEscalation"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && kind.group == GROUP && subresource.is_empty()
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        if request.user.is_in(MASTERS) || only_collector_fields(request) {
            return Ok(());
        }
        let role_ref = |r: &RoleRef| r.clone();
        let binding = request
            .object_as::<RoleBinding>()
            .map(|b| role_ref(&b.role_ref))
            .or_else(|| request.object_as::<ClusterRoleBinding>().map(|b| role_ref(&b.role_ref)));
        if let Some(role) = binding {
            if may(request, "bind", &role.kind, &role.name).await {
                return Ok(());
            }
            let rules = rules_of(request, &role).await?;
            return confirm(request, &rules).await.map_err(|why| request.forbidden(&why));
        }
        if may(request, "escalate", &request.info().kind, request.name).await {
            return Ok(());
        }
        let rules = request
            .object_as::<Role>()
            .map(|r| &r.rules)
            .or_else(|| request.object_as::<ClusterRole>().map(|r| &r.rules))
            .cloned()
            .flatten()
            .unwrap_or_default();
        confirm(request, &rules).await.map_err(|why| request.forbidden(&why))?;
        let gathers = |role: Option<&ClusterRole>| {
            let rule = role.and_then(|r| r.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref());
            rule.is_some_and(|s| !s.is_empty())
        };
        let aggregates = gathers(request.object_as()) || gathers(request.old_object_as());
        if aggregates && confirm(request, &everything()).await.is_err() {
            return Err(request.forbidden("must have cluster-admin privileges to use the aggregationRule"));
        }
        Ok(())
    }
}

/// What the garbage collector changes grants nothing (`IsOnlyMutatingGCFields`).
fn only_collector_fields(request: &Request<'_>) -> bool {
    let (Some(new), Some(old)) = (request.object.as_deref(), request.old_object) else { return false };
    let bare = |object: &dyn AnyObject| {
        let mut copy = object.boxed_clone();
        let meta: &mut ObjectMeta = copy.meta_mut();
        (meta.owner_references, meta.finalizers, meta.managed_fields) = (None, None, None);
        copy.encode()
    };
    bare(new) == bare(old)
}

/// Whether the user may `bind` or `escalate` this role where the request goes.
async fn may(request: &Request<'_>, verb: &str, kind: &str, name: &str) -> bool {
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        _ => return false,
    };
    let attributes = Attributes {
        user: request.user,
        verb,
        group: GROUP,
        version: "*",
        resource,
        subresource: "",
        namespace: request.namespace,
        name,
        path: "",
        is_resource_request: true,
        field_selector: "",
        label_selector: "",
    };
    request.cluster.allowed(&attributes).await
}

/// `GetRoleReferenceRules`
async fn rules_of(request: &Request<'_>, role: &RoleRef) -> Result<Vec<PolicyRule>, Status> {
    let reader = request.reader();
    let (plural, rules) = match role.kind.as_str() {
        "ClusterRole" => ("clusterroles", reader.get::<ClusterRole>("", &role.name).await?.map(|r| r.rules)),
        "Role" => ("roles", reader.get::<Role>(request.namespace, &role.name).await?.map(|r| r.rules)),
        other => return Err(status::internal(format!("unsupported role reference kind: {other:?}"))),
    };
    let rules = rules.ok_or_else(|| status::not_found_in(GROUP, plural, &role.name))?;
    Ok(rules.unwrap_or_default())
}

async fn confirm(request: &Request<'_>, rules: &[PolicyRule]) -> Result<(), String> {
    let own = request.cluster.rules(request.user, request.namespace).await;
    let missing = missing(&own, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let (name, groups) = (&request.user.name, list(&request.user.groups));
    Err(format!(
        "user {name:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        missing.join("\n")
    ))
}

fn everything() -> [PolicyRule; 2] {
    let star = || Some(vec!["*".to_owned()]);
    let verbs = vec!["*".to_owned()];
    let resources = PolicyRule { verbs: verbs.clone(), api_groups: star(), resources: star(), ..PolicyRule::default() };
    [resources, PolicyRule { verbs, non_resource_urls: star(), ..PolicyRule::default() }]
}

/// What of `wanted` no rule of `own` covers, in upstream's short form, sorted (`Covers`, `CompactRules`,
/// `CompactString`).
fn missing(own: &Rules, wanted: &[PolicyRule]) -> Vec<String> {
    let of_resources = own.resource.iter().map(|r| PolicyRule {
        verbs: r.verbs.clone(),
        api_groups: Some(r.api_groups.clone()),
        resources: Some(r.resources.clone()),
        resource_names: Some(r.resource_names.clone()),
        non_resource_urls: None,
    });
    let of_paths = own.non_resource.iter().map(|r| PolicyRule {
        verbs: r.verbs.clone(),
        non_resource_urls: Some(r.urls.clone()),
        ..PolicyRule::default()
    });
    let own: Vec<PolicyRule> = of_resources.chain(of_paths).collect();
    let mut compact: Vec<PolicyRule> = Vec::new();
    for rule in wanted.iter().flat_map(breakdown).filter(|w| !own.iter().any(|o| covers(o, w))) {
        let same = |other: &&mut PolicyRule| PolicyRule { verbs: rule.verbs.clone(), ..(**other).clone() } == rule;
        match compact.iter_mut().filter(|_| rule.non_resource_urls.is_none()).find(same) {
            Some(known) => known.verbs.extend(rule.verbs),
            None => compact.push(rule),
        }
    }
    compact.iter().map(short).collect::<BTreeSet<_>>().into_iter().collect()
}

fn short(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", rule.api_groups.as_deref()),
        ("Resources", rule.resources.as_deref()),
        ("NonResourceURLs", rule.non_resource_urls.as_deref()),
        ("ResourceNames", rule.resource_names.as_deref()),
        ("Verbs", Some(rule.verbs.as_slice())),
    ];
    let texts = fields.iter().filter_map(|(name, values)| {
        let values = values.filter(|v| !v.is_empty())?;
        Some(format!("{name}:{}", list(values)))
    });
    format!("{{{}}}", texts.collect::<Vec<_>>().join(", "))
}

/// As Go prints quoted lists.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ResourceRule;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> PolicyRule {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            verbs: list(verbs),
            api_groups: Some(list(groups)),
            resources: Some(list(resources)),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn what_is_missing_is_told_in_short() {
        let own = Rules {
            resource: vec![ResourceRule {
                verbs: vec!["get".into()],
                api_groups: vec!["".into()],
                resources: vec!["pods".into()],
                resource_names: Vec::new(),
            }],
            ..Rules::default()
        };
        let wanted = [rule(&["get", "list", "watch"], &[""], &["pods", "secrets"])];
        assert_eq!(
            missing(&own, &wanted),
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list" "watch"]}"#,
            ]
        );
        assert!(missing(&own, &[rule(&["get"], &[""], &["pods"])]).is_empty());
        assert_eq!(
            missing(&own, &everything()),
            [r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#, r#"{NonResourceURLs:["*"], Verbs:["*"]}"#]
        );
    }
}
