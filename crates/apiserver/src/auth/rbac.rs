//! RBAC: who may do what by Roles and bindings (`plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation`).
//!
//! [`Policy`] is a pure index (subject → bindings → rules) fed from the store's watch, so that a decision reads no objects.
//! Differs from upstream: bindings are found by subject instead of being scanned for every request.

use super::{Attributes, Authorizer, Decision, NonResourceRule, ResourceRule, Rules, UserInfo, account_of};
use crate::reader::{Reader, Stored};
use api::k8s::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use api::meta::MetaExt;
use api::{Codec, Object};
use async_trait::async_trait;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use store::{Change, Range, Revision, StoreError};

/// What a binding names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
    Account(String, String),
}

/// Namespace (empty for cluster-wide) and name.
type Name = (String, String);

#[derive(Debug, Clone)]
struct Binding {
    /// Each with the reason that it gives for what it allows.
    subjects: Vec<(Who, Arc<str>)>,
    /// `ClusterRole` or `Role`, and its name.
    cluster_role: bool,
    role: String,
}

/// All roles and bindings, indexed by subject.
#[derive(Debug, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, Arc<[PolicyRule]>>,
    roles: HashMap<Name, Arc<[PolicyRule]>>,
    bindings: HashMap<Name, Binding>,
    by_subject: HashMap<Who, Vec<Name>>,
}

impl Policy {
    /// Sets or (with `None`) removes a ClusterRole.
    pub fn cluster_role(&mut self, name: &str, role: Option<ClusterRole>) {
        match role {
            Some(role) => self.cluster_roles.insert(name.to_owned(), role.rules.unwrap_or_default().into()),
            None => self.cluster_roles.remove(name),
        };
    }

    /// Sets or removes a Role.
    pub fn role(&mut self, namespace: &str, name: &str, role: Option<Role>) {
        let key = (namespace.to_owned(), name.to_owned());
        match role {
            Some(role) => self.roles.insert(key, role.rules.unwrap_or_default().into()),
            None => self.roles.remove(&key),
        };
    }

    /// Sets or removes a ClusterRoleBinding (empty namespace) or RoleBinding.
    pub fn binding(&mut self, namespace: &str, name: &str, binding: Option<(RoleRef, Vec<Subject>)>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(old) = self.bindings.remove(&key) {
            for (who, _) in &old.subjects {
                if let Some(names) = self.by_subject.get_mut(who) {
                    names.retain(|n| *n != key);
                }
            }
        }
        let Some((role, subjects)) = binding else { return };
        let reason = |s: &Subject| reason(namespace, name, &role, s);
        let subjects: Vec<(Who, Arc<str>)> =
            subjects.iter().filter_map(|s| Some((who(s, namespace)?, reason(s).into()))).collect();
        for (who, _) in &subjects {
            self.by_subject.entry(who.clone()).or_default().push(key.clone());
        }
        self.bindings.insert(key, Binding { subjects, cluster_role: role.kind == "ClusterRole", role: role.name });
    }

    /// Runs `visit` on the rules that apply to `user` in `namespace` (cluster-wide ones included) until it returns true;
    /// returns the reason if it did, and the roles that are bound but missing.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut visit: impl FnMut(&PolicyRule) -> bool,
    ) -> (Option<Arc<str>>, Vec<String>) {
        let mut missing = Vec::new();
        let subjects = subjects_of(user);
        let bound = subjects.iter().filter_map(|who| Some((who, self.by_subject.get(who)?)));
        for (who, name) in bound.flat_map(|(who, names)| names.iter().map(move |name| (who, name))) {
            if !name.0.is_empty() && name.0 != namespace {
                continue;
            }
            let Some(binding) = self.bindings.get(name) else { continue };
            let rules = if binding.cluster_role {
                self.cluster_roles.get(&binding.role)
            } else {
                self.roles.get(&(name.0.clone(), binding.role.clone()))
            };
            match rules {
                Some(rules) if rules.iter().any(&mut visit) => {
                    let reason = binding.subjects.iter().find(|(of, _)| of == who).map(|(_, reason)| reason.clone());
                    return (reason, missing);
                }
                Some(_) => {}
                None => {
                    let kind = if binding.cluster_role { "clusterrole" } else { "role" };
                    missing.push(format!("{kind}.rbac.authorization.k8s.io {:?} not found", binding.role));
                }
            }
        }
        (None, missing)
    }

    /// Allow, or no opinion with the roles that are missing.
    pub fn decide(&self, a: &Attributes<'_>) -> Decision {
        let (allowed, missing) = self.visit(a.user, a.namespace, |rule| rule_allows(rule, a));
        match (allowed, missing.as_slice()) {
            (reason @ Some(_), _) => Decision::Allow(reason),
            (None, []) => Decision::NoOpinion(String::new()),
            (None, [one]) => Decision::NoOpinion(format!("RBAC: {one}")),
            (None, many) => Decision::NoOpinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    /// All rules of `user` in `namespace`.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        self.visit(user, namespace, |rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }
}

fn who(subject: &Subject, namespace: &str) -> Option<Who> {
    let name = subject.name.clone();
    match subject.kind.as_str() {
        "User" => Some(Who::User(name)),
        "Group" => Some(Who::Group(name)),
        "ServiceAccount" => {
            let of = subject.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| namespace.to_owned());
            Some(Who::Account(of, name))
        }
        _ => None,
    }
}

/// What the audit log and reviews are told (`clusterRoleBindingDescriber`, `roleBindingDescriber`).
fn reason(namespace: &str, binding: &str, role: &RoleRef, subject: &Subject) -> String {
    let (kind, place) = match namespace {
        "" => ("ClusterRoleBinding", binding.to_owned()),
        namespace => ("RoleBinding", format!("{binding}/{namespace}")),
    };
    let of = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
    let name = match subject.kind.as_str() {
        "ServiceAccount" => format!("{}/{of}", subject.name),
        _ => subject.name.clone(),
    };
    let to = format!("{} {name:?}", subject.kind);
    format!("RBAC: allowed by {kind} {place:?} of {} {:?} to {to}", role.kind, role.name)
}

fn subjects_of(user: &UserInfo) -> Vec<Who> {
    let mut all = vec![Who::User(user.name.clone())];
    all.extend(user.groups.iter().cloned().map(Who::Group));
    if let Some((namespace, name)) = account_of(&user.name) {
        all.push(Who::Account(namespace.to_owned(), name.to_owned()));
    }
    all
}

/// `RuleAllows`.
fn rule_allows(rule: &PolicyRule, a: &Attributes<'_>) -> bool {
    let has = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
    if !has(&rule.verbs, a.verb) {
        return false;
    }
    if !a.is_resource_request {
        return rule.non_resource_urls.iter().flatten().any(|url| path_matches(url, a.path));
    }
    has(rule.api_groups.as_deref().unwrap_or_default(), a.group)
        && rule.resources.iter().flatten().any(|r| resource_matches(r, a))
        && rule.resource_names.as_ref().is_none_or(|names| names.is_empty() || names.iter().any(|n| n == a.name))
}

fn path_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(rule: &str, a: &Attributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => a.subresource.is_empty() && rule == a.resource,
        Some((resource, subresource)) => subresource == a.subresource && (resource == "*" || resource == a.resource),
    }
}

/// The authorizer over the live policy.
pub struct Rbac {
    policy: Arc<RwLock<Policy>>,
}

const GROUP: &str = "rbac.authorization.k8s.io";

impl Rbac {
    /// Reads all roles and bindings, then follows the store.
    pub async fn start(reader: &Reader) -> Result<Arc<Self>, StoreError> {
        let policy = Arc::new(RwLock::new(Policy::default()));
        let revision = load(reader, &policy).await?;
        base::tasks::detach("rbac", follow(reader.clone(), policy.clone(), revision));
        Ok(Arc::new(Rbac { policy }))
    }
}

/// One rule per (verb, group, resource, name) or (verb, path).
pub(crate) fn breakdown(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut all = Vec::new();
    for verb in &rule.verbs {
        for url in rule.non_resource_urls.iter().flatten() {
            all.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![url.clone()]),
                ..PolicyRule::default()
            });
        }
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let one = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    ..PolicyRule::default()
                };
                match rule.resource_names.as_deref() {
                    None | Some([]) => all.push(one),
                    Some(names) => all.extend(
                        names.iter().map(|n| PolicyRule { resource_names: Some(vec![n.clone()]), ..one.clone() }),
                    ),
                }
            }
        }
    }
    all
}

/// Whether `owner` grants the single-item rule `wanted`.
pub(crate) fn covers(owner: &PolicyRule, wanted: &PolicyRule) -> bool {
    let has = |list: Option<&[String]>, value: &str| list.unwrap_or_default().iter().any(|x| x == "*" || x == value);
    let first = |list: &Option<Vec<String>>| list.as_ref().and_then(|l| l.first()).cloned().unwrap_or_default();
    if !wanted.verbs.first().is_some_and(|v| has(Some(&owner.verbs), v)) {
        return false;
    }
    if let Some(url) = wanted.non_resource_urls.as_ref().and_then(|u| u.first()) {
        return owner.non_resource_urls.iter().flatten().any(|o| path_matches(o, url));
    }
    let resource = first(&wanted.resources);
    let resource_ok = owner.resources.iter().flatten().any(|o| {
        o == "*"
            || *o == resource
            || matches!((o.split_once('/'), resource.split_once('/')), (Some(("*", a)), Some((_, b))) if a == b)
    });
    let names_ok = match owner.resource_names.as_deref() {
        None | Some([]) => true,
        Some(names) => wanted.resource_names.as_ref().and_then(|n| n.first()).is_some_and(|n| names.contains(n)),
    };
    has(owner.api_groups.as_deref(), &first(&wanted.api_groups)) && resource_ok && names_ok
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.policy.read().decide(attributes)
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for rule in self.policy.read().rules(user, namespace) {
            if let Some(urls) = rule.non_resource_urls.filter(|u| !u.is_empty()) {
                all.non_resource.push(NonResourceRule { verbs: rule.verbs, urls });
            } else {
                all.resource.push(ResourceRule {
                    verbs: rule.verbs,
                    api_groups: rule.api_groups.unwrap_or_default(),
                    resources: rule.resources.unwrap_or_default(),
                    resource_names: rule.resource_names.unwrap_or_default(),
                });
            }
        }
        all
    }
}

// === following the store ===

async fn load(reader: &Reader, policy: &RwLock<Policy>) -> Result<Revision, StoreError> {
    let mut fresh = Policy::default();
    let mut oldest = Revision(u64::MAX);
    for plural in [ClusterRole::PLURAL, Role::PLURAL, ClusterRoleBinding::PLURAL, RoleBinding::PLURAL] {
        let (objects, revision) = reader.stored_list(&format!("{GROUP}/{plural}"), "").await?;
        oldest = oldest.min(revision);
        objects.iter().for_each(|o| apply(&mut fresh, o, true));
    }
    *policy.write() = fresh;
    Ok(oldest)
}

async fn follow(reader: Reader, policy: Arc<RwLock<Policy>>, mut from: Revision) {
    let range = Range { prefix: format!("/{GROUP}/").into(), after: None };
    let mut backoff =
        base::backoff::Backoff::new(std::time::Duration::from_millis(50), std::time::Duration::from_secs(5));
    loop {
        match watch(&reader, &policy, &range, &mut from).await {
            StoreError::Closed => return,
            StoreError::Compacted { .. } => match load(&reader, &policy).await {
                Ok(revision) => from = revision,
                Err(error) => tracing::error!(error = %base::chain(&error), "failed to read RBAC objects"),
            },
            error => tracing::error!(error = %base::chain(&error), "failed to watch RBAC objects"),
        }
        tokio::time::sleep(backoff.fail()).await;
    }
}

/// Follows until the watch ends; returns why it did.
async fn watch(reader: &Reader, policy: &RwLock<Policy>, range: &Range, from: &mut Revision) -> StoreError {
    let mut stream = match reader.store().watch(range, *from).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    loop {
        let events = match stream.next().await {
            Ok(events) => events,
            Err(error) => return error,
        };
        let mut policy = policy.write();
        for event in events {
            *from = event.revision;
            let (entry, present) = match event.change {
                Change::Created(entry) | Change::Updated { new: entry, .. } => (entry, true),
                Change::Deleted { last, .. } => (last, false),
            };
            apply(&mut policy, &Stored { entry }, present);
        }
    }
}

fn apply(policy: &mut Policy, stored: &Stored, present: bool) {
    let key = stored.entry.key.0.clone();
    let bytes = stored.bytes();
    let done = match key.split('/').nth(2).unwrap_or_default() {
        p if p == ClusterRole::PLURAL => ClusterRole::decode(bytes).map(|o| {
            let name = o.name().to_owned();
            policy.cluster_role(&name, present.then_some(o));
        }),
        p if p == Role::PLURAL => Role::decode(bytes).map(|o| {
            let (namespace, name) = (o.namespace().to_owned(), o.name().to_owned());
            policy.role(&namespace, &name, present.then_some(o));
        }),
        p if p == ClusterRoleBinding::PLURAL => ClusterRoleBinding::decode(bytes).map(|o| {
            let name = o.name().to_owned();
            policy.binding("", &name, present.then(|| (o.role_ref, o.subjects.unwrap_or_default())));
        }),
        p if p == RoleBinding::PLURAL => RoleBinding::decode(bytes).map(|o| {
            let (namespace, name) = (o.namespace().to_owned(), o.name().to_owned());
            policy.binding(&namespace, &name, present.then(|| (o.role_ref, o.subjects.unwrap_or_default())));
        }),
        _ => Ok(()),
    };
    if let Err(error) = done {
        tracing::error!(%key, %error, "stored RBAC object is damaged; it grants nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            verbs: list(verbs),
            api_groups: Some(list(groups)),
            resources: Some(list(resources)),
            resource_names: Some(list(names)),
            non_resource_urls: None,
        }
    }

    fn subject(kind: &str, name: &str, namespace: &str) -> Subject {
        Subject { kind: kind.into(), name: name.into(), namespace: Some(namespace.into()), api_group: None }
    }

    fn policy() -> Policy {
        let mut policy = Policy::default();
        let rules = Some(vec![
            rule(&["get", "list"], &[""], &["pods", "pods/log"], &[]),
            rule(&["get"], &[""], &["secrets"], &["one"]),
        ]);
        policy.cluster_role("reader", Some(ClusterRole { rules: rules.clone(), ..ClusterRole::default() }));
        let role =
            |name: &str| RoleRef { kind: "ClusterRole".into(), name: name.into(), api_group: Some(GROUP.into()) };
        policy.binding("", "everybody", Some((role("gone"), vec![subject("Group", "devs", "")])));
        policy.binding(
            "a",
            "bots",
            Some((role("reader"), vec![subject("ServiceAccount", "bot", "a"), subject("User", "ann", "")])),
        );
        policy
    }

    fn check(who: &UserInfo, request: &str) -> Decision {
        let p: Vec<&str> = request.split_whitespace().collect();
        let (resource, subresource) = p[1].split_once('/').unwrap_or((p[1], ""));
        let attributes = Attributes {
            user: who,
            verb: p[0],
            group: "",
            version: "v1",
            resource,
            subresource,
            namespace: p.get(2).copied().unwrap_or_default(),
            name: p.get(3).copied().unwrap_or_default(),
            path: "",
            is_resource_request: true,
            field_selector: "",
            label_selector: "",
        };
        policy().decide(&attributes)
    }

    #[test]
    fn role_bindings_grant_only_in_their_namespace() {
        let bot = UserInfo::new("system:serviceaccount:a:bot", &[]);
        let reason = r#"RBAC: allowed by RoleBinding "bots/a" of ClusterRole "reader" to ServiceAccount "bot/a""#;
        assert_eq!(check(&bot, "list pods a"), Decision::Allow(Some(reason.into())));
        assert!(check(&bot, "get pods/log a").is_allowed());
        assert_eq!(check(&bot, "list pods b"), Decision::NoOpinion(String::new()));
        assert_eq!(check(&bot, "get pods/exec a"), Decision::NoOpinion(String::new()));
        assert_eq!(check(&bot, "delete pods a"), Decision::NoOpinion(String::new()));
    }

    #[test]
    fn resource_names_limit_a_rule() {
        let ann = UserInfo::new("ann", &[]);
        assert!(check(&ann, "get secrets a one").is_allowed());
        assert_eq!(check(&ann, "get secrets a two"), Decision::NoOpinion(String::new()));
    }

    #[test]
    fn a_missing_role_is_named() {
        let dev = UserInfo::new("bob", &["devs"]);
        let text = "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found";
        assert_eq!(check(&dev, "list pods a"), Decision::NoOpinion(text.into()));
    }

    #[test]
    fn a_removed_binding_grants_no_more() {
        let mut policy = policy();
        policy.binding("a", "bots", None);
        assert!(policy.rules(&UserInfo::new("ann", &[]), "a").is_empty());
    }

    #[test]
    fn covering_is_item_by_item() {
        let owner = rule(&["*"], &["apps"], &["*"], &[]);
        let wanted = breakdown(&rule(&["get", "list"], &["apps", "batch"], &["jobs"], &[]));
        let covered: Vec<bool> = wanted.iter().map(|w| covers(&owner, w)).collect();
        assert_eq!(covered, [true, false, true, false]);
    }
}
