//! ResourceQuota: counts what a namespace uses (`pkg/controller/resourcequota`); admission charges what is created, so that
//! this finds what is freed, and what was there before the quota.
//!
//! Watches   ResourceQuota (self), pods, services and claims (appearing, going, and changes of what they use), and the
//!           metadata of every other resource, custom or not, while some quota counts it.
//! Writes    ResourceQuota/status.
//! Invariant `used` has only resources of `hard`; those that nobody can measure (yet) are left out, as upstream does.
//! Differs   from upstream: no periodic recount.

use crate::plan::{Key, Plan, Write};
use crate::raw::{self, MetaEvent, Resource};
use crate::run::{Context, Controller, Source, Watches};
use api::k8s::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use api::k8s::api::resource::v1::ResourceClaim;
use api::prelude::*;
use base::backoff::Backoff;
use client::{Change, ClientError};
use jiff::Timestamp;
use machinery::quota::{self, Evaluator, ResourceList, Usage};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

pub(crate) struct ResourceQuotas;

pub(crate) struct View {
    quota: Arc<ResourceQuota>,
    pods: Vec<Arc<Pod>>,
    services: Vec<Arc<Service>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    device_claims: Vec<Arc<ResourceClaim>>,
    /// How many there are of those that are merely counted, by the name in `hard`.
    counts: BTreeMap<String, usize>,
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<ResourceQuota>(|_, change| match needs_count(change) {
            true => vec![Key::of(change.latest().as_ref())],
            false => Vec::new(),
        });
        watches.map::<Pod>(|ctx, change| {
            let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone());
            quotas(ctx, change, &Evaluator::Pods, |p| {
                (phase(p), p.metadata.deletion_timestamp.clone(), quota::is_terminating(p))
            })
        });
        watches.map::<Service>(|ctx, change| quotas(ctx, change, &Evaluator::Services, |_| ()));
        watches.map::<PersistentVolumeClaim>(|ctx, change| {
            let classes = |c: &PersistentVolumeClaim| -> Vec<String> {
                quota::attributes_classes(c).into_iter().map(str::to_owned).collect()
            };
            quotas(ctx, change, &Evaluator::Claims, classes)
        });
        watches.map::<ResourceClaim>(|ctx, change| quotas(ctx, change, &Evaluator::DeviceClaims, |_| ()));
        watches.source(|source| async move { count_what_is_asked_for(source).await });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let quota = ctx.cache::<ResourceQuota>().get(&key.namespace, &key.name)?;
        let counts = ctx.shared::<Shared>().lock().counts(&quota);
        Some(View {
            pods: ctx.cache::<Pod>().list_in(&key.namespace),
            services: ctx.cache::<Service>().list_in(&key.namespace),
            claims: ctx.cache::<PersistentVolumeClaim>().list_in(&key.namespace),
            device_claims: ctx.cache::<ResourceClaim>().list_in(&key.namespace),
            counts,
            quota,
        })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let hard = view.quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let old = view.quota.status.clone().unwrap_or_default();
        let mut used = quota::parse(old.used.as_ref());
        used.retain(|name, _| hard.contains_key(name));
        used.extend(usage(view, &hard, now));
        let used = quota::texts(&used);
        let same = |new: &ResourceList, old: &Option<ResourceList>| old.as_ref().is_some_and(|old| same(new, old));
        if !same(&hard, &old.hard) || !same(&used, &old.used) {
            let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
            plan.writes.push(Write::status(ResourceQuota { status: Some(status), ..view.quota.as_ref().clone() }));
        }
        // A pod that should be gone stops to count although nothing tells of it.
        let released = view.pods.iter().filter_map(|p| quota::pod_released_at(p)).filter(|at| *at >= now).min();
        if let Some(at) = released {
            plan.again(Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(1));
        }
        plan
    }
}

/// The names of `hard` that can be measured, and how much is used of each (`CalculateUsage`).
fn usage(view: &View, hard: &ResourceList, now: Timestamp) -> Usage {
    let scopes = quota::scopes(&view.quota);
    let mut total = Usage::new();
    for evaluator in Evaluator::MEASURING {
        let counted = |name: &&String| evaluator.counts(name);
        if !hard.keys().any(|name| counted(&name)) {
            continue;
        }
        hard.keys().filter(counted).for_each(|name| drop(total.insert(name.clone(), Default::default())));
        let objects: Vec<&dyn AnyObject> = match evaluator {
            Evaluator::Pods => view.pods.iter().map(|o| o.as_ref() as &dyn AnyObject).collect(),
            Evaluator::Services => view.services.iter().map(|o| o.as_ref() as &dyn AnyObject).collect(),
            Evaluator::Claims => view.claims.iter().map(|o| o.as_ref() as &dyn AnyObject).collect(),
            Evaluator::DeviceClaims => view.device_claims.iter().map(|o| o.as_ref() as &dyn AnyObject).collect(),
            Evaluator::Count { .. } => Vec::new(),
        };
        for object in objects.into_iter().filter(|o| evaluator.is_in(*o, &scopes)) {
            quota::add(&mut total, &evaluator.usage(object, now));
        }
    }
    for (name, number) in &view.counts {
        // Mere counts have no scopes, so a quota with scopes counts none.
        let number = if scopes.is_empty() { *number } else { 0 };
        if let Some((plural, group)) = Evaluator::counted(name)
            && let Some(evaluator) = Evaluator::of(group, plural)
        {
            total.extend(evaluator.count(number));
        }
    }
    total.retain(|name, _| hard.contains_key(name));
    total
}

/// A quota is counted when it appears and when its limits change. What admission wrote into its status needs no look: that
/// would find caches that do not show the new object yet.
fn needs_count(change: &Change<ResourceQuota>) -> bool {
    let Some(new) = &change.new else { return false };
    let hard = |q: &ResourceQuota| q.spec.as_ref().and_then(|s| s.hard.clone());
    let behind = hard(new) != new.status.as_ref().and_then(|s| s.hard.clone());
    behind || change.old.as_ref().is_none_or(|old| old.spec != new.spec)
}

/// The quotas of a namespace, if something appeared, went or changed in what counts.
fn quotas<K: Object, P: PartialEq>(
    ctx: &Context,
    change: &Change<K>,
    evaluator: &Evaluator,
    more: impl Fn(&K) -> P,
) -> Vec<Key> {
    let all = ctx.cache::<ResourceQuota>().list_in(change.latest().namespace());
    let used = |o: &K| evaluator.usage(o, Timestamp::MIN);
    if let (false, Some(old), Some(new)) = (all.is_empty(), &change.old, &change.new)
        && more(old) == more(new)
        && used(old) == used(new)
    {
        return Vec::new();
    }
    all.iter().map(|q| Key::of(q.as_ref())).collect()
}

// === mere counts ===

/// A group and a plural.
type GroupPlural = (String, String);

/// What there is of resources that some quota counts, shared by the watches that fill it and the views that read it.
type Shared = Mutex<Counted>;

/// By resource and namespace, the names. A resource is in here when its first list is.
#[derive(Default)]
struct Counted(BTreeMap<GroupPlural, BTreeMap<String, BTreeSet<String>>>);

impl Counted {
    fn counts(&self, quota: &ResourceQuota) -> BTreeMap<String, usize> {
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let number = |name: &String| {
            let (plural, group) = Evaluator::counted(name)?;
            let all = self.0.get(&(group.to_owned(), plural.to_owned()))?;
            Some((name.clone(), all.get(quota.namespace()).map_or(0, BTreeSet::len)))
        };
        hard.keys().filter_map(number).collect()
    }
}

/// The resources that quotas count.
fn wanted(ctx: &Context) -> BTreeSet<GroupPlural> {
    let all = ctx.cache::<ResourceQuota>().list();
    let names = all.iter().flat_map(|q| q.spec.iter().flat_map(|s| s.hard.iter().flat_map(|h| h.keys())));
    names.filter_map(|n| Evaluator::counted(n)).map(|(plural, group)| (group.into(), plural.into())).collect()
}

/// Watches the resources that quotas count, from when one asks for them until none does. One that is not served (yet) is
/// looked for again and again.
async fn count_what_is_asked_for(source: Source) {
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    let _told = source.ctx().cache::<ResourceQuota>().on_change(move |change| {
        let spec = |quota: &Option<Arc<ResourceQuota>>| quota.as_ref().and_then(|q| q.spec.clone());
        if spec(&change.old) != spec(&change.new) {
            wake.notify_one();
        }
    });
    source.ready();
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<GroupPlural, AbortHandle> = BTreeMap::new();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    loop {
        let wanted = wanted(source.ctx());
        running.retain(|resource, task| {
            let keep = wanted.contains(resource);
            if !keep {
                task.abort();
                source.ctx().shared::<Shared>().lock().0.remove(resource);
            }
            keep
        });
        let missing = wanted.iter().any(|w| !running.contains_key(w));
        let mut served = Vec::new();
        if missing {
            match raw::discover(source.client()).await {
                Ok(all) => served = all,
                Err(error) => tracing::debug!(error = %base::chain(&error), "discovery failed"),
            }
        }
        for resource in served {
            let key = (resource.group.clone(), resource.plural.clone());
            if wanted.contains(&key) && resource.namespaced && !running.contains_key(&key) {
                running.insert(key, tasks.spawn(follow(source.clone(), resource)));
            }
        }
        if wanted.iter().all(|w| running.contains_key(w)) {
            backoff.reset();
            changed.notified().await;
        } else {
            // Whoever asks next is not held up by those that wait.
            tokio::select! { biased; () = changed.notified() => {}, () = tokio::time::sleep(backoff.fail()) => {} }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Counts one resource for as long as it runs.
async fn follow(source: Source, resource: Resource) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
    let mut from: Option<String> = None;
    loop {
        match follow_once(&source, &resource, &mut from, &mut backoff).await {
            Ok(()) => {}
            Err(error) => {
                if error.is_gone() {
                    from = None;
                }
                tracing::debug!(resource = resource.plural, error = %base::chain(&error), "counting failed");
                tokio::time::sleep(backoff.fail()).await;
            }
        }
    }
}

async fn follow_once(
    source: &Source,
    resource: &Resource,
    from: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<(), ClientError> {
    let counted = source.ctx().shared::<Shared>();
    let key = (resource.group.clone(), resource.plural.clone());
    let wake = |namespace: Option<&str>| {
        let cache = source.ctx().cache::<ResourceQuota>();
        let all = namespace.map_or_else(|| cache.list(), |ns| cache.list_in(ns));
        all.iter().for_each(|quota| source.add(Key::of(quota.as_ref())));
    };
    let start = match from.clone() {
        Some(revision) => revision,
        None => {
            let (items, revision) = raw::list(source.client(), resource, "").await?;
            let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for meta in items {
                names.entry(meta.namespace().to_owned()).or_default().insert(meta.name().to_owned());
            }
            counted.lock().0.insert(key.clone(), names);
            wake(None);
            *from = Some(revision.clone());
            revision
        }
    };
    let mut watch = raw::MetaWatch::start(source.client(), resource, &start).await?;
    backoff.reset();
    while let Some(event) = watch.next().await? {
        let (meta, present) = match event {
            MetaEvent::Present(meta) => (meta, true),
            MetaEvent::Gone(meta) => (meta, false),
            MetaEvent::Bookmark(revision) => {
                *from = Some(revision);
                continue;
            }
        };
        *from = meta.resource_version.clone();
        let mut counted = counted.lock();
        let all = counted.0.entry(key.clone()).or_default();
        let names = all.entry(meta.namespace().to_owned()).or_default();
        let changed = if present { names.insert(meta.name().to_owned()) } else { names.remove(meta.name()) };
        if names.is_empty() {
            all.remove(meta.namespace());
        }
        drop(counted);
        if changed {
            wake(Some(meta.namespace()));
        }
    }
    Ok(())
}

// === helpers ===

/// Equal as quantities.
fn same(a: &ResourceList, b: &ResourceList) -> bool {
    a == b || a.len() == b.len() && quota::parse(Some(a)) == quota::parse(Some(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check_used(spec: Value, pods: Vec<Arc<Pod>>, expected: Expect) {
        let mut view = View {
            quota: object(json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": spec})),
            pods,
            services: vec![object(
                json!({"metadata": {}, "spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
            )],
            claims: vec![object(
                json!({"metadata": {}, "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
            )],
            device_claims: Vec::new(),
            counts: BTreeMap::from([("configmaps".to_owned(), 3)]),
        };
        let plan = ResourceQuotas::plan(&view, at(0));
        expected.assert_eq(&show(&plan));
        if let [Write { verb: crate::plan::Verb::UpdateStatus(o), .. }] = plan.writes.as_slice() {
            view.quota = Arc::new(o.as_any().downcast_ref::<ResourceQuota>().expect("quotas are written").clone());
            assert_eq!(show(&ResourceQuotas::plan(&view, at(0))), "", "a second round has nothing to do");
        }
    }

    fn hungry(name: &str, phase: &str) -> Arc<Pod> {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi", "example.com/gpu": "1"}, "limits": {"cpu": "2"}});
        pod(
            name,
            json!({
                "spec": {"containers": [{"name": "a", "resources": of("250m")}, {"name": "b", "resources": of("250m")}],
                         "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "800m"}}}]},
                "status": {"phase": phase},
            }),
        )
    }

    #[test]
    fn everything_with_a_limit_is_counted() {
        let hard = json!({"hard": {"pods": "5", "requests.cpu": "4", "memory": "9Gi", "limits.cpu": "9", "requests.example.com/gpu": "9",
            "services.nodeports": "3", "services.loadbalancers": "1", "requests.storage": "5Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "2", "configmaps": "9", "count/foos.ex.io": "1"}});
        check_used(
            hard,
            vec![hungry("x", "Running"), hungry("y", "Succeeded")],
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"configmaps":"9","count/foos.ex.io":"1","fast.storageclass.storage.k8s.io/persistentvolumeclaims":"2","limits.cpu":"9","memory":"9Gi","pods":"5","requests.cpu":"4","requests.example.com/gpu":"9","requests.storage":"5Gi","services.loadbalancers":"1","services.nodeports":"3"},"used":{"configmaps":"3","fast.storageclass.storage.k8s.io/persistentvolumeclaims":"1","limits.cpu":"4","memory":"2Gi","pods":"1","requests.cpu":"800m","requests.example.com/gpu":"2","requests.storage":"1Gi","services.loadbalancers":"1","services.nodeports":"2"}}
        "#]],
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |scope: &str| json!({"hard": {"pods": "5"}, "scopes": [scope]});
        let pods = || vec![hungry("x", "Running"), pod("idle", json!({"spec": {"activeDeadlineSeconds": 5}}))];
        check_used(
            quota("BestEffort"),
            pods(),
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"pods":"5"},"used":{"pods":"1"}}
        "#]],
        );
        check_used(
            quota("NotTerminating"),
            pods(),
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"pods":"5"},"used":{"pods":"1"}}
        "#]],
        );
        check_used(
            quota("PriorityClass"),
            pods(),
            expect![[r#"
            status ResourceQuota ns/q {"hard":{"pods":"5"},"used":{"pods":"0"}}
        "#]],
        );
    }
}
