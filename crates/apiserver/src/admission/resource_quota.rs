//! ResourceQuota (`apiserver/pkg/admission/plugin/resourcequota/controller.go`, `CheckRequest`): nothing is created or grown
//! beyond what the quotas of its namespace allow.
//!
//! Differs from upstream, which counts the usage first and creates then: here usage and object are one commit, so that
//! usage never counts what was refused later, and never misses what was created.

use super::{Admission, Companion, LimitedResource, Operation, Request, Together};
use api::any::downcast_ref;
use api::k8s::api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement};
use api::prelude::*;
use api::{AnyObject, Status};
use async_trait::async_trait;
use jiff::Timestamp;
use machinery::kinds::KindInfo;
use machinery::quantity::Quantity;
use machinery::quota::{self, Evaluator, Usage};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Requests that charge quotas of one namespace go one after the other; namespaces share this many locks. The locks only
/// spare lost races: what keeps the count right is that a quota changes from the revision that was read.
const LOCKS: usize = 64;

/// See the file's head.
pub struct ResourceQuotas {
    locks: Vec<Arc<Mutex<()>>>,
    /// What is only for namespaces whose quota speaks of it.
    limited: Vec<LimitedResource>,
}

impl ResourceQuotas {
    /// With resources that are limited everywhere.
    pub fn new(limited: Vec<LimitedResource>) -> Self {
        ResourceQuotas { locks: (0..LOCKS).map(|_| Arc::default()).collect(), limited }
    }
}

impl Default for ResourceQuotas {
    fn default() -> Self {
        ResourceQuotas::new(Vec::new())
    }
}

#[async_trait]
impl Admission for ResourceQuotas {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, _operation: Operation, _kind: &KindInfo, _subresource: &str) -> bool {
        false
    }

    fn joins(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        let Some(evaluator) = Evaluator::of(&kind.group, &kind.plural).filter(|_| kind.namespaced) else {
            return false;
        };
        match (operation, subresource) {
            (Operation::Create, "") => true,
            (Operation::Update, "") => !matches!(evaluator, Evaluator::Count { .. }),
            (Operation::Update, "resize") => evaluator == Evaluator::Pods,
            (Operation::Update, "status") => evaluator == Evaluator::Claims,
            _ => false,
        }
    }

    async fn together(&self, request: &Request<'_>) -> Result<Together, Status> {
        let info = request.info();
        let Some(evaluator) = Evaluator::of(&info.group, &info.plural) else { return Ok(Together::default()) };
        let Some(new) = request.object.as_deref() else { return Ok(Together::default()) };
        let old = request.old_object;
        if !is_counted_anew(request.subresource, new, old) {
            return Ok(Together::default());
        }
        let Some(kind) = machinery::kinds::find(ResourceQuota::GROUP, ResourceQuota::VERSION, ResourceQuota::PLURAL)
        else {
            return Ok(Together::default());
        };
        let list = || request.reader().stored_list(&kind.info().storage, request.namespace);
        if self.limited.is_empty() && list().await.map_err(crate::status::from_store)?.0.is_empty() {
            return Ok(Together::default());
        }
        let hold = self.lock(request.namespace).lock_owned().await;
        let stored = list().await.map_err(crate::status::from_store)?.0;
        let quotas: Vec<ResourceQuota> =
            stored.iter().map(|s| s.decode()).collect::<Result<_, _>>().map_err(crate::status::internal)?;
        let asked = Asked { evaluator: &evaluator, new, old, checked: request.subresource != "status" };
        let limits = limits(&self.limited, info, &asked, request.cluster.now());
        limits.check(&quotas, &asked).map_err(|why| request.forbidden(&why))?;
        let charges = charge(&quotas, &asked, request.cluster.now()).map_err(|why| request.forbidden(&why))?;
        let changes = charges.into_iter().filter_map(|(i, used)| {
            let mut quota = quotas.get(i)?.clone();
            quota.status.get_or_insert_default().used = Some(quota::texts(&used));
            Some(Companion { kind, stored: stored.get(i)?.clone(), object: Box::new(quota) })
        });
        Ok(Together { changes: changes.collect(), hold: Some(hold) })
    }
}

impl ResourceQuotas {
    fn lock(&self, namespace: &str) -> Arc<Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        hasher.write(namespace.as_bytes());
        let index = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        self.locks[index].clone()
    }
}

/// Whether a change may change what is used (`Handles`).
fn is_counted_anew(subresource: &str, new: &dyn AnyObject, old: Option<&dyn AnyObject>) -> bool {
    let Some(old) = old else { return true };
    if let (Some(new), Some(old)) = (downcast_ref::<Pod>(new), downcast_ref::<Pod>(old)) {
        return subresource == "resize" || quota::is_terminating(new) != quota::is_terminating(old);
    }
    if let ("status", Some(new), Some(old)) =
        (subresource, downcast_ref::<PersistentVolumeClaim>(new), downcast_ref::<PersistentVolumeClaim>(old))
    {
        let given = |c: &PersistentVolumeClaim| c.status.as_ref().and_then(|s| s.allocated_resources.clone());
        return given(new) != given(old) || quota::attributes_classes(new) != quota::attributes_classes(old);
    }
    true
}

/// What a request wants, for the pure part.
struct Asked<'a> {
    evaluator: &'a Evaluator,
    new: &'a dyn AnyObject,
    old: Option<&'a dyn AnyObject>,
    /// Whether too much is refused; what the system itself reports is only counted.
    checked: bool,
}

/// What a request uses of what is limited everywhere.
struct Limits<'a> {
    names: BTreeSet<String>,
    scopes: Vec<&'a ScopedResourceSelectorRequirement>,
}

/// `limitedByDefault`, `getMatchedLimitedScopes`
fn limits<'a>(limited: &'a [LimitedResource], info: &KindInfo, asked: &Asked<'_>, now: Timestamp) -> Limits<'a> {
    let own = |l: &&LimitedResource| l.api_group == info.group && l.resource == info.plural;
    let mut names = BTreeSet::new();
    if limited.iter().any(|l| own(&l)) {
        for (name, value) in asked.evaluator.usage(asked.new, now) {
            let is_limited = |l: &LimitedResource| l.match_contains.iter().any(|part| name.contains(part));
            if value.sign() > 0 && limited.iter().filter(own).any(is_limited) {
                names.insert(name);
            }
        }
    }
    let scopes = limited.iter().flat_map(|l| &l.match_scopes);
    let is_in = |s: &&ScopedResourceSelectorRequirement| asked.evaluator.is_in(asked.new, std::slice::from_ref(*s));
    Limits { names, scopes: scopes.filter(is_in).collect() }
}

impl Limits<'_> {
    /// Whether some quota speaks of each.
    fn check(&self, quotas: &[ResourceQuota], asked: &Asked<'_>) -> Result<(), String> {
        let mut names = self.names.clone();
        let mut covered: BTreeSet<String> = BTreeSet::new();
        for quota in quotas {
            let scopes = quota::scopes(quota);
            let is_in =
                |s: &&ScopedResourceSelectorRequirement| asked.evaluator.is_in(asked.new, std::slice::from_ref(*s));
            covered.extend(scopes.iter().filter(is_in).map(|s| s.scope_name.clone()));
            if asked.evaluator.is_in(asked.new, &scopes) {
                let hard = quota.status.as_ref().and_then(|s| s.hard.as_ref());
                let spoken_of: Vec<&String> = hard.into_iter().flatten().map(|(name, _)| name).collect();
                names.retain(|name| !spoken_of.contains(&name));
            }
        }
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(format!("insufficient quota to consume: {}", names.join(",")));
        }
        let missing = self.scopes.iter().filter(|s| !covered.contains(&s.scope_name));
        let missing: Vec<String> = missing
            .map(|s| {
                format!("{{{} {} [{}]}}", s.scope_name, s.operator, s.values.clone().unwrap_or_default().join(" "))
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("insufficient quota to match these scopes: [{}]", missing.join(" ")))
    }
}

/// `CheckRequest`: the quotas (by index) whose `used` changes, and to what; or why the request is refused.
fn charge(quotas: &[ResourceQuota], asked: &Asked<'_>, now: Timestamp) -> Result<Vec<(usize, Usage)>, String> {
    let evaluator = asked.evaluator;
    let mut interesting = Vec::new();
    for (i, quota) in quotas.iter().enumerate() {
        let status = quota.status.clone().unwrap_or_default();
        let (hard, used) = (quota::parse(status.hard.as_ref()), quota::parse(status.used.as_ref()));
        let restricted: Vec<&str> = hard.keys().map(String::as_str).filter(|n| evaluator.counts(n)).collect();
        let scopes = quota::scopes(quota);
        if restricted.is_empty() || !evaluator.is_in(asked.new, &scopes) {
            continue;
        }
        let name = quota.name();
        evaluator
            .constraints(restricted.iter().copied(), asked.new)
            .map_err(|why| format!("failed quota: {name}: {why}"))?;
        if restricted.iter().any(|n| !used.contains_key(*n)) {
            return Err(format!("status unknown for quota: {name}, resources: {}", restricted.join(",")));
        }
        interesting.push((i, name, hard, used, scopes));
    }
    let wanted = evaluator.usage(asked.new, now);
    let negative: Vec<&str> = wanted.iter().filter(|(_, v)| v.sign() < 0).map(|(n, _)| n.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let mut charges = Vec::new();
    for (i, name, hard, mut used, scopes) in interesting {
        // What the quota counted before is not charged again.
        let before = asked.old.filter(|old| evaluator.is_in(*old, &scopes)).map(|old| evaluator.usage(old, now));
        let mut more = growth(&wanted, &before.unwrap_or_default());
        more.retain(|name, value| !value.is_zero() && hard.contains_key(name));
        if more.is_empty() {
            continue;
        }
        let had = used.clone();
        quota::add(&mut used, &more);
        let over = |name: &String| matches!((used.get(name), hard.get(name)), (Some(u), Some(h)) if u > h);
        let exceeded: Vec<&String> = more.keys().filter(|n| over(n)).collect();
        if asked.checked && !exceeded.is_empty() {
            let of = |list: &BTreeMap<String, Quantity>| {
                let texts = exceeded.iter().filter_map(|n| Some(format!("{n}={}", list.get(*n)?)));
                texts.collect::<Vec<_>>().join(",")
            };
            return Err(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                of(&more),
                of(&had),
                of(&hard)
            ));
        }
        charges.push((i, used));
    }
    Ok(charges)
}

/// `SubtractWithNonNegativeResult`
fn growth(new: &Usage, old: &Usage) -> Usage {
    let mut more = new.clone();
    for (name, value) in &mut more {
        if let Some(before) = old.get(name) {
            value.sub(before);
        }
    }
    more.retain(|_, value| value.sign() > 0);
    more
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn object<K: Object>(value: Value) -> K {
        K::decode(value.to_string().as_bytes()).expect("a literal")
    }

    fn pod(cpu: &str, deadline: Option<i64>) -> Pod {
        object(json!({"metadata": {"name": "p"}, "spec": {"activeDeadlineSeconds": deadline,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
    }

    /// Quotas as `(spec, hard, used)`; what becomes of `used`, or the refusal.
    fn check_charge(quotas: &[(Value, Value, Value)], new: &Pod, old: Option<&Pod>, expected: Expect) {
        let quotas: Vec<ResourceQuota> = quotas
            .iter()
            .map(|(spec, hard, used)| {
                object(json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}}))
            })
            .collect();
        let old = old.map(|o| o as &dyn AnyObject);
        let asked = Asked { evaluator: &Evaluator::Pods, new, old, checked: true };
        let text = match charge(&quotas, &asked, Timestamp::UNIX_EPOCH) {
            Ok(charges) => charges.iter().map(|(i, used)| format!("{i}: {}\n", json!(quota::texts(used)))).collect(),
            Err(why) => format!("{why}\n"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn what_fits_is_charged_and_the_rest_refused() {
        let quota =
            (json!({}), json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "500m"}));
        check_charge(
            std::slice::from_ref(&quota),
            &pod("500m", None),
            None,
            expect![[r#"
                0: {"pods":"2","requests.cpu":"1"}
            "#]],
        );
        check_charge(
            std::slice::from_ref(&quota),
            &pod("501m", None),
            None,
            expect![[r#"
                exceeded quota: q, requested: requests.cpu=501m, used: requests.cpu=500m, limited: requests.cpu=1
            "#]],
        );
        check_charge(
            &[(json!({}), json!({"limits.cpu": "1"}), json!({"limits.cpu": "0"}))],
            &pod("1", None),
            None,
            expect![[r#"
                failed quota: q: must specify limits.cpu for: c
            "#]],
        );
        check_charge(
            &[(json!({}), json!({"pods": "1", "requests.cpu": "1"}), json!({"pods": "0"}))],
            &pod("1", None),
            None,
            expect![[r#"
                status unknown for quota: q, resources: pods,requests.cpu
            "#]],
        );
    }

    #[test]
    fn what_is_limited_everywhere_needs_a_quota() {
        let limited = LimitedResource {
            resource: "pods".into(),
            match_contains: vec!["cpu".into()],
            match_scopes: vec![ScopedResourceSelectorRequirement {
                scope_name: "Terminating".into(),
                operator: "Exists".into(),
                values: None,
            }],
            ..LimitedResource::default()
        };
        let kind = machinery::kinds::find("", "v1", "pods").expect("pods");
        let check = |pod: &Pod, quotas: &[Value]| {
            let quotas: Vec<ResourceQuota> = quotas.iter().map(|quota| object(quota.clone())).collect();
            let asked = Asked { evaluator: &Evaluator::Pods, new: pod, old: None, checked: true };
            let limited = std::slice::from_ref(&limited);
            limits(limited, kind.info(), &asked, Timestamp::UNIX_EPOCH).check(&quotas, &asked)
        };
        let none = check(&pod("1", None), &[]).expect_err("no quota");
        assert_eq!(none, "insufficient quota to consume: cpu,requests.cpu");
        let of_cpu = json!({"metadata": {"name": "q"}, "status": {"hard": {"cpu": "2", "requests.cpu": "2"}}});
        assert_eq!(check(&pod("1", None), std::slice::from_ref(&of_cpu)), Ok(()));
        let none = check(&pod("1", Some(5)), std::slice::from_ref(&of_cpu)).expect_err("no scope");
        assert_eq!(none, "insufficient quota to match these scopes: [{Terminating Exists []}]");
        let scoped =
            json!({"metadata": {"name": "s"}, "spec": {"scopes": ["Terminating"]}, "status": {"hard": {"pods": "2"}}});
        assert_eq!(check(&pod("1", Some(5)), &[of_cpu, scoped]), Ok(()));
    }

    #[test]
    fn a_change_is_charged_where_it_is_new() {
        let scoped = |scope: &str| (json!({"scopes": [scope]}), json!({"pods": "5"}), json!({"pods": "1"}));
        let quotas = [scoped("Terminating"), scoped("NotTerminating"), scoped("BestEffort")];
        check_charge(
            &quotas,
            &pod("1", Some(5)),
            Some(&pod("1", None)),
            expect![[r#"
                0: {"pods":"2"}
            "#]],
        );
        let quota = [(json!({}), json!({"cpu": "3"}), json!({"cpu": "1"}))];
        check_charge(
            &quota,
            &pod("3", None),
            Some(&pod("1", None)),
            expect![[r#"
                0: {"cpu":"3"}
            "#]],
        );
        check_charge(&quota, &pod("1", None), Some(&pod("2", None)), expect![""]);
    }
}
