//! Namespaces: empties those that are being deleted, then lets them go.
//!
//! Watches   Namespace (self), Pod (gone ones: their namespace may go on).
//! Writes    everything in a terminating namespace: delete; Namespace/status and Namespace/finalize.
//! Invariant pods go first; the `kubernetes` finalizer is removed only after every resource was counted and none is left.
//! Differs   from upstream (`pkg/controller/namespace/deletion/namespaced_resources_deleter.go`): an empty collection is
//!           only listed, not deleted too; what remains is looked at again when a pod goes, or after a second.

use crate::plan::{Done, Key, Plan, Task, Write};
use crate::raw::{self, Resource};
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::NamespaceCondition;
use api::prelude::*;
use api::{Codec, Time};
use async_trait::async_trait;
use client::{Client, ClientError};
use http::Method;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Our entry in `spec.finalizers`.
const FINALIZER: &str = "kubernetes";
/// How soon to count again what waits for somebody else's finalizers.
const AGAIN: Duration = Duration::from_secs(1);
/// Condition types with reason and message for when all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

pub(crate) struct Namespaces;

impl Controller for Namespaces {
    const NAME: &'static str = "namespace-controller";
    type View = Arc<Namespace>;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Namespace>(|_, change| match &change.new {
            Some(namespace) if namespace.is_deleting() => vec![Key::of(namespace.as_ref())],
            _ => Vec::new(),
        });
        watches.map::<Pod>(|ctx, change| match &change.new {
            None if is_terminating(ctx, change.latest().namespace()) => {
                vec![Key::new("", change.latest().namespace())]
            }
            _ => Vec::new(),
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<Arc<Namespace>> {
        ctx.cache::<Namespace>().get("", &key.name)
    }

    fn plan(namespace: &Arc<Namespace>, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        if !namespace.is_deleting() {
            return plan;
        }
        if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            let mut next = namespace.as_ref().clone();
            next.status.get_or_insert_default().phase = Some("Terminating".into());
            plan.writes.push(Write::status(next));
        } else if finalizers(namespace).next().is_some() {
            plan.writes.push(Write::run(Empty { namespace: namespace.clone(), now }));
        }
        plan
    }
}

// === deciding ===

/// What was found while emptying a namespace.
#[derive(Debug, Default)]
struct Found {
    /// `resource.group` → how many are left.
    remaining: BTreeMap<String, usize>,
    /// Finalizer → on how many of them.
    finalizers: BTreeMap<String, usize>,
    /// Discovery failed.
    undiscovered: Option<String>,
    /// Resources that could not be deleted or counted.
    errors: Vec<String>,
    /// Pods are left: nothing else was counted yet.
    pods_first: bool,
}

impl Found {
    fn count(&mut self, resource: &Resource, left: &[ObjectMeta]) {
        if left.is_empty() {
            return;
        }
        self.remaining.insert(format!("{}.{}", resource.plural, resource.group), left.len());
        for finalizer in left.iter().flat_map(|m| m.finalizers.iter().flatten()) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.remaining.is_empty() && self.undiscovered.is_none() && self.errors.is_empty()
    }
}

/// The status with its conditions brought up to date (`status_condition_utils.go`); `None` if nothing changed.
fn with_conditions(namespace: &Namespace, found: &Found, now: Timestamp) -> Option<Namespace> {
    let listed = |of: &BTreeMap<String, usize>, text: &dyn Fn(&str, usize) -> String| {
        of.iter().map(|(name, n)| text(name, *n)).collect::<Vec<_>>().join(", ")
    };
    let bad = |kind: &str| -> Option<(&str, String)> {
        match kind {
            "NamespaceDeletionDiscoveryFailure" => Some(("DiscoveryFailed", found.undiscovered.clone()?)),
            "NamespaceDeletionContentFailure" if !found.errors.is_empty() => {
                let mut errors = found.errors.clone();
                errors.sort();
                let count = errors.len();
                let text = format!("Failed to delete all resource types, {count} remaining: {}", errors.join(", "));
                Some(("ContentDeletionFailed", text))
            }
            // While pods are left nothing else was counted, so the totals are not told.
            "NamespaceContentRemaining" if !found.remaining.is_empty() && !found.pods_first => {
                let all = listed(&found.remaining, &|name, n| format!("{name} has {n} resource instances"));
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {all}")))
            }
            "NamespaceFinalizersRemaining" if !found.finalizers.is_empty() && !found.pods_first => {
                let all = listed(&found.finalizers, &|name, n| format!("{name} in {n} resource instances"));
                let text = format!("Some content in the namespace has finalizers remaining: {all}");
                Some(("SomeFinalizersRemain", text))
            }
            _ => None,
        }
    };
    let mut next = namespace.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    for (kind, ok_reason, ok_message) in CONDITIONS {
        let (status, reason, message) = match bad(kind) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", ok_reason, ok_message.to_owned()),
        };
        let new = NamespaceCondition {
            last_transition_time: Some(Time(now)),
            message: Some(message),
            reason: Some(reason.to_owned()),
            status: status.to_owned(),
            type_: kind.to_owned(),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            None => conditions.push(new),
            Some(old) if old.status == new.status => {
                old.reason = new.reason;
                old.message = new.message;
            }
            Some(old) => *old = new,
        }
    }
    (next.status != namespace.status).then_some(next)
}

fn without_finalizer(namespace: &Namespace) -> Namespace {
    let mut next = namespace.clone();
    let kept = finalizers(namespace).filter(|f| *f != FINALIZER).map(str::to_owned).collect();
    next.spec.get_or_insert_default().finalizers = Some(kept);
    next
}

fn finalizers(namespace: &Namespace) -> impl Iterator<Item = &str> {
    namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).map(String::as_str)
}

fn is_terminating(ctx: &Context, namespace: &str) -> bool {
    ctx.cache::<Namespace>().get("", namespace).is_some_and(|ns| ns.is_deleting())
}

// === doing ===

/// Deletes and counts everything in a namespace, tells of it, and finalizes when nothing is left.
struct Empty {
    namespace: Arc<Namespace>,
    now: Timestamp,
}

#[async_trait]
impl Task for Empty {
    fn title(&self) -> String {
        format!("empty Namespace {}", self.namespace.name())
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let found = self.empty(client).await;
        let mut current = self.namespace.as_ref().clone();
        if let Some(next) = with_conditions(&current, &found, self.now) {
            current = client.api::<Namespace>().update_status(&next).await?;
        }
        if !found.is_empty() {
            return Ok(Done::again(AGAIN));
        }
        let path = format!("/api/v1/namespaces/{}/finalize", current.name());
        let body = Some(("application/json", Codec::encode(&without_finalizer(&current))));
        match raw::call(client, Method::PUT, &path, "application/json", body).await {
            Ok(_) => Ok(Done::default()),
            Err(e) if e.is_not_found() => Ok(Done::default()),
            Err(e) => Err(e),
        }
    }
}

impl Empty {
    async fn empty(&self, client: &Client) -> Found {
        let mut found = Found::default();
        let mut resources = match raw::discover(client).await {
            Ok(all) => all,
            Err(e) => {
                found.undiscovered = Some(base::chain(&e));
                return found;
            }
        };
        resources.retain(|r| r.namespaced && r.supports("delete"));
        let is_pods = |r: &Resource| r.group.is_empty() && r.plural == "pods";
        resources.sort_by_key(|r| !is_pods(r));
        for resource in &resources {
            match self.empty_one(client, resource).await {
                Ok(left) => found.count(resource, &left),
                Err(e) => found.errors.push(base::chain(&e)),
            }
            if is_pods(resource) && !found.remaining.is_empty() {
                found.pods_first = true;
                return found;
            }
        }
        found
    }

    async fn empty_one(&self, client: &Client, resource: &Resource) -> Result<Vec<ObjectMeta>, ClientError> {
        let namespace = self.namespace.name();
        // What cannot be listed (`localsubjectaccessreviews` and such) is not stored.
        if !resource.supports("list") {
            return Ok(Vec::new());
        }
        let (items, _) = raw::list(client, resource, namespace).await?;
        if items.iter().any(|m| !m.is_deleting()) {
            if resource.supports("deletecollection") {
                raw::delete_collection(client, resource, namespace).await?;
            } else {
                let options =
                    serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
                for item in &items {
                    match raw::delete(client, resource, namespace, item.name(), &options).await {
                        Err(e) if !e.is_not_found() => return Err(e),
                        _ => {}
                    }
                }
            }
        } else if items.is_empty() {
            return Ok(items);
        }
        Ok(raw::list(client, resource, namespace).await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn namespace(phase: &str, finalizers: Value) -> Arc<Namespace> {
        object(json!({
            "metadata": {"name": "ns", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": finalizers},
            "status": {"phase": phase},
        }))
    }

    fn check_plan(namespace: Arc<Namespace>, expected: Expect) {
        expected.assert_eq(&show(&Namespaces::plan(&namespace, at(0))));
    }

    #[test]
    fn first_the_phase_then_the_content_then_nothing() {
        check_plan(
            namespace("Active", json!(["kubernetes"])),
            expect![[r#"
            status Namespace ns {"phase":"Terminating"}
        "#]],
        );
        check_plan(
            namespace("Terminating", json!(["kubernetes"])),
            expect![[r#"
            empty Namespace ns
        "#]],
        );
        check_plan(namespace("Terminating", json!([])), expect![[""]]);
        check_plan(object(json!({"metadata": {"name": "ns"}, "spec": {"finalizers": ["kubernetes"]}})), expect![[""]]);
    }

    fn check_conditions(found: &Found, expected: Expect) {
        let ns = namespace("Terminating", json!(["kubernetes"]));
        let next = with_conditions(&ns, found, at(0)).expect("the first conditions are news");
        assert!(with_conditions(&next, found, at(9)).is_none(), "the same again is none");
        let conditions = next.status.and_then(|s| s.conditions).unwrap_or_default();
        let bad = conditions.iter().filter(|c| c.status == "True");
        let text: String = bad.map(|c| format!("{} {:?} {:?}\n", c.type_, c.reason, c.message)).collect();
        assert_eq!(conditions.len(), 5);
        expected.assert_eq(&text);
    }

    #[test]
    fn conditions_tell_what_remains() {
        let meta = |finalizers: &[&str]| ObjectMeta {
            finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
            ..ObjectMeta::default()
        };
        let resource = |plural: &str, group: &str| Resource {
            group: group.into(),
            version: "v1".into(),
            kind: String::new(),
            plural: plural.into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let mut found = Found::default();
        check_conditions(&found, expect![[""]]);
        assert!(found.is_empty());
        found.count(&resource("configmaps", ""), &[meta(&["a/b"]), meta(&["a/b", "c/d"])]);
        found.count(&resource("jobs", "batch"), &[meta(&["c/d"])]);
        found.count(&resource("secrets", ""), &[]);
        check_conditions(
            &found,
            expect![[r#"
            NamespaceContentRemaining Some("SomeResourcesRemain") Some("Some resources are remaining: configmaps. has 2 resource instances, jobs.batch has 1 resource instances")
            NamespaceFinalizersRemaining Some("SomeFinalizersRemain") Some("Some content in the namespace has finalizers remaining: a/b in 2 resource instances, c/d in 2 resource instances")
        "#]],
        );
        found.errors.push("no".into());
        found.pods_first = true;
        check_conditions(
            &found,
            expect![[r#"
            NamespaceDeletionContentFailure Some("ContentDeletionFailed") Some("Failed to delete all resource types, 1 remaining: no")
        "#]],
        );
    }

    #[test]
    fn only_our_finalizer_goes() {
        let ns = without_finalizer(&namespace("Terminating", json!(["kubernetes", "other"])));
        assert_eq!(ns.spec.and_then(|s| s.finalizers), Some(vec!["other".to_owned()]));
    }
}
