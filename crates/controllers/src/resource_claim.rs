//! PodClaims and ClaimReservations: makes the ResourceClaims that pods ask for by template, reserves allocated claims for
//! pods that name their node themselves, and takes reservations back when pods are done: a claim that nobody uses any more
//! is deallocated, and deleted if it was made for a pod (`pkg/controller/resourceclaim/controller.go`).
//!
//! Watches   Pod (self; by the claims it uses), ResourceClaim (self; by its pods), ResourceClaimTemplate (by the pods that
//!           name it).
//! Writes    ResourceClaim create, status, finalizer `resource.kubernetes.io/delete-protection`, delete; Pod status.
//! Reads     pods that the cache does not show from the server, before their reservations go.
//! Differs: upstream makes the claim of a pod that has ended again after deleting it; here that pod gets none.

use crate::plan::{Done, Key, Kinds, Plan, PlannedEvent, Seen, SeenUntil, Task, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::OwnerReference;
use api::k8s::api::core::v1::PodResourceClaim;
use api::k8s::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError, EventKind, Patch};
use jiff::Timestamp;
use machinery::resource_claims::{self as claims, NameError};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const ACCOUNT: &str = "resource-claim-controller";
/// Leaves room for a hyphen and five random characters in a name of 63.
const MAX_BASE: usize = 57;

// === PodClaims ===

pub(crate) struct PodClaims;

pub(crate) struct PodView {
    pod: Arc<Pod>,
    /// Claims that the pod names, and those it controls, by name.
    claims: BTreeMap<String, Arc<ResourceClaim>>,
    templates: BTreeMap<String, Arc<ResourceClaimTemplate>>,
}

impl Controller for PodClaims {
    /// As upstream's events say it.
    const NAME: &'static str = "resource_claim";
    const ACCOUNT: &'static str = ACCOUNT;
    type View = PodView;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Pod>(|_, change| {
            let new = change.new.iter().filter(|pod| claims::of_pod(pod).next().is_some());
            new.map(|pod| Key::of(pod.as_ref())).collect()
        });
        watches.owned::<ResourceClaim, Pod>();
        watches.map::<ResourceClaim>(|ctx, change| {
            let news = change.new.iter().filter(|claim| has_room_for_more(change.old.as_deref(), claim));
            news.flat_map(|c| pods_with(ctx, c.namespace(), |pod| may_need_reservation(pod, c))).collect()
        });
        watches.map::<ResourceClaimTemplate>(|ctx, change| {
            let uses = |c: &PodResourceClaim, t: &str| c.resource_claim_template_name.as_deref() == Some(t);
            let new = change.new.iter();
            new.flat_map(|t| pods_with(ctx, t.namespace(), |pod| claims::of_pod(pod).any(|c| uses(c, t.name()))))
                .collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<PodView> {
        let pod = ctx.cache::<Pod>().get(&key.namespace, &key.name)?;
        let all = ctx.cache::<ResourceClaim>();
        let named = claims::names(&pod).filter_map(|name| all.get(&key.namespace, name));
        let claims = named.chain(all.controlled_by(pod.uid())).map(|c| (c.name().to_owned(), c)).collect();
        let wanted = claims::of_pod(&pod).filter_map(|c| c.resource_claim_template_name.as_deref());
        let templates = ctx.cache::<ResourceClaimTemplate>();
        let known = |name: &str| Some((name.to_owned(), templates.get(&key.namespace, name)?));
        let templates = wanted.filter_map(known).collect();
        Some(PodView { pod, claims, templates })
    }

    fn plan(view: &PodView, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let pod = view.pod.as_ref();
        if pod.is_deleting() || is_done(pod) {
            return plan;
        }
        let mut found = Vec::new();
        for claim in claims::of_pod(pod) {
            match make(view, claim) {
                Ok(Made::Nothing) => {}
                Ok(Made::Found(name)) => found.push(json!({"name": claim.name, "resourceClaimName": name})),
                Ok(Made::Create(new)) => {
                    let mut write = Write::create(*new);
                    write.on_failure = Some(failed(pod, claim, "create ResourceClaim : {error}"));
                    plan.writes.push(write);
                }
                Err(why) => {
                    plan.events.push(failed(pod, claim, &why));
                    return plan;
                }
            }
        }
        if !found.is_empty() {
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"resourceClaimStatuses": found}});
            plan.writes.push(Write::patch(pod, "status", Patch::Strategic(patch)));
        }
        // For pods without a node, the scheduler does it.
        let named = claims::names(pod).filter_map(|name| view.claims.get(name));
        let unreserved = named.filter(|c| claims::allocation(c).is_some() && may_need_reservation(pod, c));
        plan.writes.extend(unreserved.map(|c| Write::status(claims::reserved(c.as_ref().clone(), pod))));
        plan
    }
}

fn pods_with(ctx: &Context, namespace: &str, wanted: impl Fn(&Pod) -> bool) -> Vec<Key> {
    let pods = ctx.cache::<Pod>().list_in(namespace);
    pods.iter().filter(|pod| wanted(pod)).map(|pod| Key::of(pod.as_ref())).collect()
}

/// Whether pods may lack a reservation that did not before: the claim was allocated, or lost a reservation.
fn has_room_for_more(old: Option<&ResourceClaim>, claim: &ResourceClaim) -> bool {
    let is_kept = |consumer: &ResourceClaimConsumerReference| claims::reserved_for(claim).contains(consumer);
    let old = old.filter(|old| old.uid() == claim.uid() && claims::allocation(old).is_some());
    claims::allocation(claim).is_some() && old.is_none_or(|old| !claims::reserved_for(old).iter().all(is_kept))
}

/// The pod has its node, uses the claim and has no reservation.
fn may_need_reservation(pod: &Pod, claim: &ResourceClaim) -> bool {
    let mut named = claims::of_pod(pod).filter_map(|c| claims::name_of(pod, c).ok()?);
    let is_its = |(name, own): (&str, bool)| name == claim.name() && (!own || claims::check_owner(pod, claim).is_ok());
    pods::is_placed(pod) && !claims::is_reserved_for(claim, pod) && named.any(is_its)
}

/// No container runs or ever will (`isPodDone`).
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pod.is_deleting() && !pods::is_placed(pod))
}

fn failed(pod: &Pod, claim: &PodResourceClaim, why: &str) -> PlannedEvent {
    let message = format!("PodResourceClaim {}: {why}", claim.name);
    PlannedEvent::new(pod, EventKind::Warning, "FailedResourceClaimCreation", &message)
}

enum Made {
    Nothing,
    /// It exists and the pod's status does not say so.
    Found(String),
    Create(Box<ResourceClaim>),
}

/// What is to be done for one claim of the pod (`handleClaim`).
fn make(view: &PodView, claim: &PodResourceClaim) -> Result<Made, String> {
    let pod = view.pod.as_ref();
    match claims::name_of(pod, claim) {
        Err(NameError::NotCreated(_)) => {}
        Err(why) => return Err(format!("checking for claim before creating it: {why}")),
        Ok(None) => return Ok(Made::Nothing),
        Ok(Some((name, own))) => {
            let known = view.claims.get(name);
            if known.is_some_and(|known| !own || claims::check_owner(pod, known).is_ok()) {
                return Ok(Made::Nothing);
            }
        }
    }
    let Some(template) = &claim.resource_claim_template_name else { return Ok(Made::Nothing) };
    // Made before, but the status was not written.
    let is_it = |c: &&Arc<ResourceClaim>| {
        claims::check_owner(pod, c).is_ok() && c.annotation(claims::POD_CLAIM_NAME) == Some(&claim.name)
    };
    if let Some(made) = view.claims.values().find(is_it) {
        return Ok(Made::Found(made.name().to_owned()));
    }
    let Some(known) = view.templates.get(template) else {
        let not_found = format!("resourceclaimtemplate.resource.k8s.io {template:?} not found");
        return Err(format!("resource claim template {template:?}: {not_found}"));
    };
    Ok(Made::Create(Box::new(from_template(known, pod, &claim.name))))
}

fn from_template(template: &ResourceClaimTemplate, pod: &Pod, name: &str) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(claims::POD_CLAIM_NAME.to_owned(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(pod.name(), name)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference { block_owner_deletion: None, ..pods::controller_ref(pod) }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// Both names are cut in proportion to their lengths, so that something of the second stays.
fn generate_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let cut = |name: &str| name.chars().take(name.len() * MAX_BASE / whole.len()).collect::<String>();
    format!("{}-{}", cut(pod), cut(claim))
}

// === ClaimReservations ===

pub(crate) struct ClaimReservations;

pub(crate) struct ClaimView {
    claim: Arc<ResourceClaim>,
    /// Pods of the names that the claim is reserved for or owned by, as far as the cache shows them.
    pods: BTreeMap<String, Arc<Pod>>,
}

impl Controller for ClaimReservations {
    const NAME: &'static str = "resource_claim_reservations";
    const ACCOUNT: &'static str = ACCOUNT;
    type View = ClaimView;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<ResourceClaim>();
        watches.map::<Pod>(|_, change| {
            let of = |pod: &Arc<Pod>| -> BTreeSet<Key> {
                let names = claims::names(pod).chain(extended(pod));
                names.map(|name| Key::new(pod.namespace(), name)).collect()
            };
            let mut keys: BTreeSet<Key> = change.old.iter().chain(&change.new).flat_map(of).collect();
            // Those it needs may stay as they are.
            if let Some(needed) = change.new.as_ref().filter(|pod| !is_done(pod)).map(of) {
                keys.retain(|key| !needed.contains(key));
            }
            keys.into_iter().collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<ClaimView> {
        let claim = ctx.cache::<ResourceClaim>().get(&key.namespace, &key.name)?;
        let reserved = claims::reserved_for(&claim).iter().filter(|r| claims::is_pod(r)).map(|r| &r.name);
        let owner = owner(&claim).map(|owner| &owner.name);
        let known = |name: &String| Some((name.clone(), ctx.cache::<Pod>().get(&key.namespace, name)?));
        let pods = reserved.chain(owner).filter_map(known).collect();
        Some(ClaimView { claim, pods })
    }

    fn plan(view: &ClaimView, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let claim = view.claim.as_ref();
        let (mut gone, mut unknown) = (BTreeSet::new(), Vec::new());
        for reserved in claims::reserved_for(claim).iter().filter(|r| claims::is_pod(r)) {
            match view.pods.get(&reserved.name) {
                Some(pod) if pod.uid() == reserved.uid && !is_done(pod) => {}
                Some(_) => drop(gone.insert(reserved.uid.clone())),
                None => unknown.push(reserved.clone()),
            }
        }
        let unused = claims::reserved_for(claim).len() == gone.len();
        if !unknown.is_empty() || released(claim, &gone).is_some() {
            plan.writes.push(Write::run(Release { claim: view.claim.clone(), gone, unknown }));
        }
        // If the cache does not show the pod, the garbage collector knows better.
        let over = |pod: &Pod, owner: &OwnerReference| pod.uid() != owner.uid || is_done(pod);
        let ended = owner(claim).is_some_and(|owner| view.pods.get(&owner.name).is_some_and(|pod| over(pod, owner)));
        if unused && ended && !claim.is_deleting() {
            plan.writes.push(Write::delete(claim));
        }
        plan
    }
}

/// The claim that the scheduler made for a pod's extended resources.
fn extended(pod: &Pod) -> Option<&str> {
    Some(&pod.status.as_ref()?.extended_resource_claim_status.as_ref()?.resource_claim_name)
}

/// `owningPod`
fn owner(claim: &ResourceClaim) -> Option<&OwnerReference> {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|o| o.controller == Some(true) && o.api_version == "v1" && o.kind == "Pod")
}

/// The claim without these consumers, and without its allocation if they were the last ones or it is being deleted; `None`
/// if it may stay as it is. A claim that was allocated and never used keeps its allocation.
fn released(claim: &ResourceClaim, gone: &BTreeSet<String>) -> Option<ResourceClaim> {
    let is_ours = claim.has_finalizer(claims::FINALIZER);
    let before = claims::reserved_for(claim);
    let remaining: Vec<_> = before.iter().filter(|r| !gone.contains(&r.uid)).cloned().collect();
    let unused = remaining.is_empty() && is_ours;
    if remaining.len() == before.len() && !(unused && claim.is_deleting()) {
        return None;
    }
    let mut next = claim.clone();
    let status: &mut ResourceClaimStatus = next.status.get_or_insert_default();
    status.reserved_for = Some(remaining);
    if unused {
        status.allocation = None;
    }
    Some(next)
}

/// Takes reservations back, also of pods that the server does not know either, and with the last one what it protected.
struct Release {
    claim: Arc<ResourceClaim>,
    gone: BTreeSet<String>,
    unknown: Vec<ResourceClaimConsumerReference>,
}

#[async_trait]
impl Task for Release {
    fn title(&self) -> String {
        let of = |uids: Vec<&str>| uids.join(" ");
        let unknown = of(self.unknown.iter().map(|r| r.name.as_str()).collect());
        let gone = of(self.gone.iter().map(String::as_str).collect());
        format!("release ResourceClaim {}, gone: [{gone}], unknown: [{unknown}]", Key::of(self.claim.as_ref()))
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let mut gone = self.gone.clone();
        for reserved in &self.unknown {
            let pod = client.api::<Pod>().find(self.claim.namespace(), &reserved.name).await?;
            if pod.is_none_or(|pod| pod.uid() != reserved.uid || is_done(&pod)) {
                gone.insert(reserved.uid.clone());
            }
        }
        let Some(mut next) = released(&self.claim, &gone) else { return Ok(Done::default()) };
        let api = client.api::<ResourceClaim>();
        if next.status != self.claim.status {
            next = api.update_status(&next).await?;
        }
        if next.has_finalizer(claims::FINALIZER) && claims::allocation(&next).is_none() {
            next.metadata.finalizers.get_or_insert_default().retain(|f| f != claims::FINALIZER);
            next = api.update(&next).await?;
        }
        let until = SeenUntil::Revision(next.revision());
        Ok(Done { seen: vec![Seen { kind: Kinds::of::<ResourceClaim>(), until }], again_after: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::Value;

    fn claim(name: &str, fields: Value) -> Arc<ResourceClaim> {
        let mut claim =
            json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")}, "spec": {}});
        merge(&mut claim, fields);
        object(claim)
    }

    fn template() -> Arc<ResourceClaimTemplate> {
        object(json!({
            "metadata": {"name": "t", "namespace": "ns"},
            "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [{"name": "r"}]}}},
        }))
    }

    fn own(annotation: &str) -> Value {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]);
        json!({"metadata": {"ownerReferences": owner, "annotations": {claims::POD_CLAIM_NAME: annotation}}})
    }

    /// A pod that asks for the template `t` as `c` and for the claim `shared`.
    fn user(fields: Value) -> Arc<Pod> {
        let wanted = json!([
            {"name": "c", "resourceClaimTemplateName": "t"},
            {"name": "s", "resourceClaimName": "shared"},
        ]);
        let mut value = json!({"spec": {"resourceClaims": wanted}});
        merge(&mut value, fields);
        pod("p", value)
    }

    fn check_pod(pod: Arc<Pod>, known: &[Arc<ResourceClaim>], templates: bool, expected: Expect) {
        let claims = known.iter().map(|c| (c.name().to_owned(), c.clone())).collect();
        let templates = templates.then(|| ("t".to_owned(), template())).into_iter().collect();
        expected.assert_eq(&show(&PodClaims::plan(&PodView { pod, claims, templates }, at(0))));
    }

    #[test]
    fn a_template_becomes_a_claim_and_then_the_status_says_so() {
        check_pod(user(json!({})), &[], true, expect![["create ResourceClaim ns/p-c-\n"]]);
        check_pod(
            user(json!({})),
            &[claim("p-c-x", own("c")), claim("other", own("d"))],
            true,
            expect![[r#"
                patch Pod ns/p status {"metadata":{"uid":"uid-p"},"status":{"resourceClaimStatuses":[{"name":"c","resourceClaimName":"p-c-x"}]}}
            "#]],
        );
        let status = json!({"status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "p-c-x"}]}});
        check_pod(user(status.clone()), &[claim("p-c-x", own("c"))], true, expect![""]);
        // Somebody deleted it, or put another in its place.
        check_pod(user(status.clone()), &[], true, expect![["create ResourceClaim ns/p-c-\n"]]);
        check_pod(user(status), &[claim("p-c-x", json!({}))], true, expect![["create ResourceClaim ns/p-c-\n"]]);
        let without = json!({"status": {"resourceClaimStatuses": [{"name": "c"}]}});
        check_pod(user(without), &[], true, expect![""]);
        check_pod(user(json!({"status": {"phase": "Failed"}})), &[], true, expect![""]);
    }

    #[test]
    fn a_missing_template_is_told_of() {
        check_pod(
            user(json!({})),
            &[],
            false,
            expect![[r#"
                event Warning FailedResourceClaimCreation: PodResourceClaim c: resource claim template "t": resourceclaimtemplate.resource.k8s.io "t" not found
            "#]],
        );
    }

    #[test]
    fn a_new_claim_is_the_pods_own() {
        let made = from_template(&template(), &user(json!({})), "c");
        let made: Value = serde_json::from_slice(&made.encode()).expect("we encode JSON");
        let expected = r#"{"annotations":{"resource.kubernetes.io/pod-claim-name":"c"},"generateName":"p-c-","labels":{"a":"b"},"namespace":"ns","ownerReferences":[{"apiVersion":"v1","controller":true,"kind":"Pod","name":"p","uid":"uid-p"}]}"#;
        assert_eq!(made["metadata"].to_string(), expected);
        let long = generate_name(&"p".repeat(63), &"c".repeat(21));
        assert_eq!(long, format!("{}-{}", "p".repeat(41), "c".repeat(13)));
    }

    #[test]
    fn an_allocated_claim_is_reserved_for_a_pod_that_named_its_node() {
        let status = json!({"resourceClaimStatuses": [{"name": "c"}]});
        let placed = user(json!({"spec": {"nodeName": "n"}, "status": status}));
        let waiting = user(json!({"status": status}));
        let allocated = claim("shared", json!({"status": {"allocation": {}}}));
        check_pod(
            placed.clone(),
            std::slice::from_ref(&allocated),
            true,
            expect![[r#"
                status ResourceClaim ns/shared {"allocation":{},"reservedFor":[{"name":"p","resource":"pods","uid":"uid-p"}]}
            "#]],
        );
        check_pod(waiting, &[allocated], true, expect![""]);
        check_pod(placed, &[claim("shared", json!({}))], true, expect![""]);
    }

    fn check_claim(claim: &Arc<ResourceClaim>, pods: &[Arc<Pod>], expected: Expect) {
        let pods = pods.iter().map(|p| (p.name().to_owned(), p.clone())).collect();
        let view = ClaimView { claim: claim.clone(), pods };
        expected.assert_eq(&show(&ClaimReservations::plan(&view, at(0))));
    }

    fn in_use(fields: Value) -> Arc<ResourceClaim> {
        let mut value = json!({
            "metadata": {"finalizers": [claims::FINALIZER]},
            "status": {"allocation": {}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}]},
        });
        merge(&mut value, fields);
        claim("c", value)
    }

    #[test]
    fn reservations_go_with_the_pods_that_are_done() {
        check_claim(&in_use(json!({})), &[user(json!({}))], expect![""]);
        let ended = user(json!({"status": {"phase": "Succeeded"}}));
        let mut release = expect![["release ResourceClaim ns/c, gone: [uid-p], unknown: []\n"]];
        check_claim(&in_use(json!({})), std::slice::from_ref(&ended), release);
        release = expect![["release ResourceClaim ns/c, gone: [], unknown: [p]\n"]];
        check_claim(&in_use(json!({})), &[], release);
        check_claim(
            &in_use(own("c")),
            &[ended],
            expect![["release ResourceClaim ns/c, gone: [uid-p], unknown: []\ndelete ResourceClaim ns/c\n"]],
        );
    }

    #[test]
    fn the_last_consumer_takes_the_allocation_with_it() {
        let gone = |uid: &str| [uid.to_owned()].into();
        let shown = |claim: Option<ResourceClaim>| {
            let claim = claim.map(|c| serde_json::from_slice::<Value>(&c.encode()).expect("we encode JSON"));
            claim.map(|c| c["status"].to_string()).unwrap_or_default()
        };
        assert_eq!(shown(released(&in_use(json!({})), &gone("uid-p"))), r#"{"reservedFor":[]}"#);
        assert_eq!(shown(released(&in_use(json!({})), &gone("x"))), "");
        let foreign = in_use(json!({"metadata": {"finalizers": []}}));
        assert_eq!(shown(released(&foreign, &gone("uid-p"))), r#"{"allocation":{},"reservedFor":[]}"#);
        let unused = json!({"status": {"reservedFor": []}});
        assert_eq!(shown(released(&in_use(unused.clone()), &BTreeSet::new())), "");
        let mut deleted = unused;
        merge(&mut deleted, json!({"metadata": {"deletionTimestamp": at(0).to_string()}}));
        assert_eq!(shown(released(&in_use(deleted), &BTreeSet::new())), r#"{"reservedFor":[]}"#);
    }
}
