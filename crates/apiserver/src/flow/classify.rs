//! Which flow a request belongs to (`apiserver/pkg/util/flowcontrol/rule.go`). Pure.

use crate::auth::{UserInfo, account_of};
use crate::request_info::RequestInfo;
use api::k8s::api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};
use api::prelude::MetaExt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The place of the first of `schemas` (in order of precedence) that matches.
pub(super) fn classify(schemas: &[FlowSchema], info: &RequestInfo, user: &UserInfo) -> Option<usize> {
    schemas.iter().position(|s| s.spec.iter().flat_map(|s| s.rules.iter().flatten()).any(|r| matches(r, info, user)))
}

/// A number for the flow: the schema, and the user or namespace where the schema tells them apart.
pub(super) fn flow_of(schema: &FlowSchema, info: &RequestInfo, user: &UserInfo) -> u64 {
    let method = schema.spec.as_ref().and_then(|s| s.distinguisher_method.as_ref()).map(|m| m.type_.as_str());
    let distinguisher = match method {
        Some("ByUser") => user.name.as_str(),
        Some("ByNamespace") => info.namespace.as_str(),
        _ => "",
    };
    let mut hasher = DefaultHasher::new();
    (schema.name(), distinguisher).hash(&mut hasher);
    hasher.finish()
}

fn matches(rule: &PolicyRulesWithSubjects, info: &RequestInfo, user: &UserInfo) -> bool {
    if !rule.subjects.iter().any(|s| is_subject(s, user)) {
        return false;
    }
    match info.is_resource {
        true => rule.resource_rules.iter().flatten().any(|r| is_resource(r, info)),
        false => rule.non_resource_rules.iter().flatten().any(|r| is_path(r, info)),
    }
}

fn is_subject(subject: &Subject, user: &UserInfo) -> bool {
    match subject.kind.as_str() {
        "User" => subject.user.as_ref().is_some_and(|u| u.name == "*" || u.name == user.name),
        "Group" => subject.group.as_ref().is_some_and(|g| g.name == "*" || user.is_in(&g.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|account| {
            account_of(&user.name)
                .is_some_and(|(ns, name)| ns == account.namespace && (account.name == "*" || account.name == name))
        }),
        _ => false,
    }
}

/// A star stands for everything, and alone (validation sees to that).
fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == "*" || item == value)
}

fn is_resource(rule: &ResourcePolicyRule, info: &RequestInfo) -> bool {
    let named = |list: &[String]| match info.subresource.as_str() {
        "" => has(list, &info.resource),
        sub => list
            .iter()
            .any(|item| item == "*" || item.split_once('/').is_some_and(|(r, s)| r == info.resource && s == sub)),
    };
    has(&rule.verbs, &info.verb)
        && named(&rule.resources)
        && has(&rule.api_groups, &info.group)
        && match info.namespace.as_str() {
            "" => rule.cluster_scope == Some(true),
            namespace => has(rule.namespaces.as_deref().unwrap_or_default(), namespace),
        }
}

fn is_path(rule: &NonResourcePolicyRule, info: &RequestInfo) -> bool {
    let path_matches = |rule: &String| {
        let prefix = rule.trim_end_matches('*').trim_end_matches('/');
        rule == "*" || *rule == info.path || info.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    has(&rule.verbs, &info.verb) && rule.non_resource_urls.iter().any(path_matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::Query;
    use expect_test::{Expect, expect};

    fn check(requests: &str, expected: Expect) {
        let mut schemas = super::super::defaults::schemas();
        super::super::sort(&mut schemas);
        let mut out = String::new();
        for line in requests.lines().map(str::trim) {
            let words: Vec<&str> = line.split(' ').collect();
            let info = RequestInfo::parse(&words[0].parse().expect("a method"), words[1], &Query::default());
            let user = UserInfo::new(words[2], &words[3..]);
            out.push_str(classify(&schemas, &info, &user).map_or("-", |place| schemas[place].name()));
            out.push('\n');
        }
        expected.assert_eq(&out);
    }

    #[test]
    fn requests_find_upstreams_schemas() {
        check(
            "GET /api/v1/pods admin system:masters system:authenticated
             GET /healthz system:anonymous system:unauthenticated
             GET /livez/ping system:anonymous system:unauthenticated
             PUT /api/v1/nodes/n/status system:node:n system:nodes system:authenticated
             GET /api/v1/namespaces/a/pods/p system:node:n system:nodes system:authenticated
             PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l system:kube-scheduler system:authenticated
             GET /api/v1/pods system:kube-scheduler system:authenticated
             GET /api/v1/pods system:serviceaccount:kube-system:job-controller system:serviceaccounts system:authenticated
             GET /api/v1/namespaces/a/pods system:serviceaccount:a:b system:serviceaccounts system:authenticated
             GET /api/v1/namespaces/a/pods jane system:authenticated
             GET /api/v1/namespaces/a/pods nobody",
            expect![[r#"
                exempt
                probes
                probes
                system-node-high
                system-nodes
                system-leader-election
                kube-scheduler
                kube-system-service-accounts
                service-accounts
                global-default
                -
            "#]],
        );
    }
}
