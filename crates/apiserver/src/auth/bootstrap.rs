//! The default roles and bindings, from the table in `data/rbac.txt` (whose head explains its lines).

use super::rbac_labels as labels;
use api::k8s::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use api::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

const TABLE: &str = include_str!("../../data/rbac.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// One default object.
#[derive(Debug, Clone)]
pub enum DefaultObject {
    /// Cluster-wide role.
    ClusterRole(ClusterRole),
    /// Role in a namespace.
    Role(Role),
    /// Cluster-wide binding.
    ClusterRoleBinding(ClusterRoleBinding),
    /// Binding in a namespace.
    RoleBinding(RoleBinding),
}

/// All default objects, roles before bindings.
pub fn default_objects() -> Vec<DefaultObject> {
    let mut all: Vec<DefaultObject> = Vec::new();
    for line in TABLE.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "role" => all.push(role(&words[1..])),
            "bind" => all.push(binding(&words[1..])),
            _ => {
                let rules = match all.last_mut() {
                    Some(DefaultObject::ClusterRole(r)) => &mut r.rules,
                    Some(DefaultObject::Role(r)) => &mut r.rules,
                    _ => panic!("data/rbac.txt: a rule without a role: {line}"),
                };
                rules.get_or_insert_default().push(rule(&words));
            }
        }
    }
    all
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

fn metadata(words: &[&str]) -> ObjectMeta {
    let mut set = BTreeMap::from([(labels::BOOTSTRAPPING.to_owned(), "rbac-defaults".to_owned())]);
    for label in words.iter().filter_map(|w| w.strip_prefix("label=")) {
        if let Some((key, value)) = label.split_once('=') {
            set.insert(key.to_owned(), value.to_owned());
        }
    }
    ObjectMeta {
        name: Some(words[0].to_owned()),
        namespace: option(words, "namespace").map(str::to_owned),
        labels: Some(set),
        annotations: Some(BTreeMap::from([(labels::AUTOUPDATE.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn role(words: &[&str]) -> DefaultObject {
    let metadata = metadata(words);
    if metadata.namespace.is_some() {
        return DefaultObject::Role(Role { metadata, rules: None });
    }
    let selectors: Vec<LabelSelector> = words
        .iter()
        .filter_map(|w| w.strip_prefix("aggregate="))
        .map(|key| LabelSelector {
            match_labels: Some(BTreeMap::from([(key.to_owned(), "true".to_owned())])),
            match_expressions: None,
        })
        .collect();
    let aggregation_rule =
        (!selectors.is_empty()).then_some(AggregationRule { cluster_role_selectors: Some(selectors) });
    DefaultObject::ClusterRole(ClusterRole { metadata, aggregation_rule, rules: None })
}

fn rule(words: &[&str]) -> PolicyRule {
    if words[0] == "paths" {
        return PolicyRule { verbs: list(words[1]), non_resource_urls: Some(list(words[2])), ..PolicyRule::default() };
    }
    PolicyRule {
        verbs: list(words[1]),
        api_groups: Some(list(words[2]).into_iter().map(|g| if g == "core" { String::new() } else { g }).collect()),
        resources: Some(list(words[3])),
        resource_names: option(words, "names").map(list),
        non_resource_urls: None,
    }
}

fn binding(words: &[&str]) -> DefaultObject {
    let metadata = metadata(words);
    let at = 1 + usize::from(metadata.namespace.is_some());
    let (kind, name) = words[at].split_once('/').unwrap_or(("ClusterRole", words[at]));
    let role_ref = RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: name.into() };
    let subjects = Some(words[at + 1..].iter().map(|w| subject(w)).collect());
    if metadata.namespace.is_some() {
        DefaultObject::RoleBinding(RoleBinding { metadata, role_ref, subjects })
    } else {
        DefaultObject::ClusterRoleBinding(ClusterRoleBinding { metadata, role_ref, subjects })
    }
}

fn subject(word: &str) -> Subject {
    let named = |kind: &str, name: &str| Subject {
        api_group: Some(GROUP.into()),
        kind: kind.into(),
        name: name.into(),
        namespace: None,
    };
    match word.split_once(':') {
        Some(("user", name)) => named("User", name),
        Some(("group", name)) => named("Group", name),
        Some(("account", account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or(("", account));
            Subject {
                api_group: None,
                kind: "ServiceAccount".into(),
                name: name.into(),
                namespace: Some(namespace.into()),
            }
        }
        _ => panic!("data/rbac.txt: not a subject: {word}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_roles_users_know() {
        let all = default_objects();
        let roles: Vec<&str> = all
            .iter()
            .filter_map(|o| match o {
                DefaultObject::ClusterRole(r) => r.metadata.name.as_deref(),
                _ => None,
            })
            .collect();
        for name in
            ["cluster-admin", "admin", "edit", "view", "system:node", "system:discovery", "system:kube-scheduler"]
        {
            assert!(roles.contains(&name), "{name} is missing");
        }
        let mut unique = roles.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), roles.len());
        assert!(all.iter().any(|o| matches!(o, DefaultObject::ClusterRoleBinding(b)
            if b.metadata.name.as_deref() == Some("cluster-admin")
                && b.subjects.as_ref().is_some_and(|s| s.iter().any(|s| s.name == "system:masters")))));
    }
}
