//! Who may change what of the status of a ResourceClaim (`pkg/registry/resource/utils.go`): to give devices and to reserve them
//! is the right of the subresource `binding`, what a driver says of its devices that of `driver`, by the driver's name. Its
//! verbs tell drivers of the claim's node from others.

use crate::api_server::ApiServer;
use crate::auth::{Attributes, UserInfo, account_of, forbidden};
use crate::write::Write;
use api::AnyObject;
use api::any::downcast_ref;
use api::k8s::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use api::k8s::api::resource::v1::{AllocatedDeviceStatus, AllocationResult, ResourceClaim, ResourceClaimStatus};
use machinery::field::{Errors, FieldError, Path};
use std::collections::{BTreeMap, BTreeSet};

/// Errors of a change of a claim's status that its writer may not make.
pub(crate) async fn validate(
    server: &ApiServer,
    w: &Write<'_>,
    verb: &str,
    new: &dyn AnyObject,
    old: &dyn AnyObject,
) -> Errors {
    let (Some(new), Some(old)) = (downcast_ref::<ResourceClaim>(new), downcast_ref::<ResourceClaim>(old)) else {
        return Vec::new();
    };
    let nothing = ResourceClaimStatus::default();
    let (new, old) = (new.status.as_ref().unwrap_or(&nothing), old.status.as_ref().unwrap_or(&nothing));
    let mut errors = Vec::new();
    if is_bound_otherwise(new, old) {
        let wanted = Attributes { subresource: "binding", namespace: "", name: "", ..w.attributes(verb) };
        errors.extend(refusal(server, &[wanted]).await.map(|why| {
            let what = "changing status.allocation or status.reservedFor requires";
            let detail = format!("{what} resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}");
            FieldError::forbidden(&Path::new("status").child("allocation"), &detail)
        }));
    }
    let Some(allocation) = &new.allocation else { return errors };
    let verbs = verbs(verb, w.user, allocation);
    for driver in changed_drivers(new, old) {
        let attributes = |verb| Attributes { subresource: "driver", name: driver, ..w.attributes(verb) };
        let wanted: Vec<Attributes<'_>> = verbs.iter().map(|verb| attributes(verb)).collect();
        errors.extend(refusal(server, &wanted).await.map(|why| {
            let (what, verbs) = ("changing status.devices requires", verbs.join(" "));
            let detail = format!("{what} resource=\"resourceclaims/driver\", verb=\"[{verbs}]\" permission: {why}");
            FieldError::forbidden(&Path::new("status").child("devices"), &detail)
        }));
    }
    errors
}

/// Why none of these rights is given; the first one's reason counts.
async fn refusal(server: &ApiServer, any: &[Attributes<'_>]) -> Option<String> {
    let mut first = None;
    for attributes in any {
        let decision = server.decide(attributes).await;
        if decision.is_allowed() {
            return None;
        }
        first.get_or_insert_with(|| forbidden(attributes, decision.reason()).message);
    }
    first
}

/// Whether devices or their consumers change.
fn is_bound_otherwise(new: &ResourceClaimStatus, old: &ResourceClaimStatus) -> bool {
    let consumers = |status: &ResourceClaimStatus| status.reserved_for.clone().unwrap_or_default();
    new.allocation != old.allocation || consumers(new) != consumers(old)
}

/// The drivers whose devices have another status (`getModifiedDrivers`).
fn changed_drivers<'a>(new: &'a ResourceClaimStatus, old: &'a ResourceClaimStatus) -> BTreeSet<&'a str> {
    let (before, after) = (by_id(old), by_id(new));
    let changed = after.iter().filter(|(id, device)| before.get(*id) != Some(device));
    let gone = before.iter().filter(|(id, _)| !after.contains_key(*id));
    changed.chain(gone).map(|(_, device)| device.driver.as_str()).collect()
}

/// By driver, pool, device and share.
type ById<'a> = BTreeMap<(&'a str, &'a str, &'a str, &'a str), &'a AllocatedDeviceStatus>;

fn by_id(status: &ResourceClaimStatus) -> ById<'_> {
    let devices = status.devices.iter().flatten();
    devices.map(|d| ((&*d.driver, &*d.pool, &*d.device, d.share_id.as_deref().unwrap_or_default()), d)).collect()
}

/// One of these is enough for a driver: the right for its own node, if it is there, and that for all.
fn verbs(verb: &str, user: &UserInfo, allocation: &AllocationResult) -> Vec<String> {
    let own = node_of(allocation).is_some_and(|node| account_node(user) == Some(node));
    let own = own.then(|| format!("associated-node:{verb}"));
    own.into_iter().chain([format!("arbitrary-node:{verb}")]).collect()
}

/// The one node where the devices are (`nodeNameFromAllocation`).
fn node_of(allocation: &AllocationResult) -> Option<&str> {
    let [term] = allocation.node_selector.as_ref()?.node_selector_terms.as_slice() else { return None };
    let NodeSelectorTerm { match_expressions, match_fields: Some(fields) } = term else { return None };
    let ([], [field]) = (match_expressions.as_deref().unwrap_or_default(), fields.as_slice()) else { return None };
    let NodeSelectorRequirement { key, operator, values: Some(values) } = field else { return None };
    match (key.as_str(), operator.as_str(), values.as_slice()) {
        ("metadata.name", "In", [name]) => Some(name).filter(|name| !name.is_empty()).map(String::as_str),
        _ => None,
    }
}

/// The node of a pod as which a service account speaks (`saAssociatedWithAllocatedNode`).
fn account_node(user: &UserInfo) -> Option<&str> {
    account_of(&user.name)?;
    match user.extra.get("authentication.kubernetes.io/node-name")?.as_slice() {
        [node] => Some(node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(value: Value) -> ResourceClaimStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn devices_and_consumers_are_one_right_and_each_drivers_words_another() {
        let device = |driver: &str, device: &str, data: i64| json!({"driver": driver, "pool": "p", "device": device, "data": {"x": data}});
        let with = |devices: &[Value]| status(json!({"allocation": {}, "devices": devices}));
        let changed = |new: &[Value], old: &[Value]| {
            changed_drivers(&with(new), &with(old)).into_iter().collect::<Vec<_>>().join(" ")
        };
        let (a, b) = (device("a", "x", 1), device("b", "x", 1));
        assert_eq!(changed(&[a.clone(), b.clone()], &[b.clone(), a.clone()]), "");
        assert_eq!(changed(&[device("a", "x", 2), b.clone()], &[a.clone(), b.clone()]), "a");
        assert_eq!(changed(&[a.clone(), device("b", "y", 1)], std::slice::from_ref(&a)), "b");
        assert_eq!(changed(&[], &[a.clone(), b]), "a b");
        assert!(!is_bound_otherwise(
            &with(std::slice::from_ref(&a)),
            &status(json!({"allocation": {}, "reservedFor": []}))
        ));
        assert!(is_bound_otherwise(&with(&[a]), &ResourceClaimStatus::default()));
        let reserved =
            status(json!({"allocation": {}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}));
        assert!(is_bound_otherwise(&reserved, &with(&[])));
    }

    #[test]
    fn a_driver_may_speak_for_its_own_node() {
        let on = |terms: Value| -> AllocationResult {
            serde_json::from_value(json!({"nodeSelector": {"nodeSelectorTerms": terms}})).expect("an allocation")
        };
        let here = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
        let mut driver = UserInfo::new("system:serviceaccount:ns:driver", &[]);
        driver.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec!["n".to_owned()]);
        let one = on(json!([{"matchFields": [here]}]));
        let no_account = UserInfo { name: "system:serviceaccount:driver".to_owned(), ..driver.clone() };
        assert_eq!(verbs("update", &no_account, &one), ["arbitrary-node:update"]);
        assert_eq!(verbs("update", &driver, &one), ["associated-node:update", "arbitrary-node:update"]);
        for elsewhere in [
            on(json!([])),
            on(json!([{"matchFields": [here]}, {"matchFields": [here]}])),
            on(json!([{"matchFields": [here], "matchExpressions": [{"key": "a", "operator": "Exists"}]}])),
            on(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}])),
            AllocationResult::default(),
        ] {
            assert_eq!(verbs("patch", &driver, &elsewhere), ["arbitrary-node:patch"]);
        }
        assert_eq!(verbs("update", &UserInfo::new("n", &[]), &one), ["arbitrary-node:update"]);
    }
}
