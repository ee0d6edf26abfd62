//! What becomes of a CustomResourceDefinition's names, and which conditions say so
//! (`apiextensions-apiserver/pkg/controller/{status/naming_controller,establish/establishing_controller,
//! nonstructuralschema/nonstructuralschema_controller,apiapproval/apiapproval_controller}.go`), as one pure step.

use super::Outline;
use api::Time;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use api::prelude::MetaExt;
use std::collections::HashSet;
use std::sync::Arc;

/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether a condition is true.
pub fn is_true(crd: &CustomResourceDefinition, condition: &str) -> bool {
    find(crd, condition).is_some_and(|c| c.status == "True")
}

fn find<'a>(crd: &'a CustomResourceDefinition, condition: &str) -> Option<&'a CustomResourceDefinitionCondition> {
    crd.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == condition)
}

/// Sets a condition; its time moves only when its status does.
pub fn set_condition(
    crd: &mut CustomResourceDefinition,
    condition: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &Time,
) {
    let conditions = crd.status.get_or_insert_default().conditions.get_or_insert_default();
    let new = CustomResourceDefinitionCondition {
        type_: condition.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(now.clone()),
        ..CustomResourceDefinitionCondition::default()
    };
    match conditions.iter_mut().find(|c| c.type_ == condition) {
        None => conditions.push(new),
        Some(old) => {
            let time = if old.status == new.status {
                old.last_transition_time.take()
            } else {
                new.last_transition_time.clone()
            };
            *old = CustomResourceDefinitionCondition { last_transition_time: time, ..new };
        }
    }
}

/// The next status of a definition, given all of them; `None` if it is as it should be.
///
/// First the names are accepted; a definition whose names are is served, and in the next step called established.
pub fn next_status(outline: &Outline, all: &[Arc<Outline>], now: &Time) -> Option<CustomResourceDefinitionStatus> {
    let crd = &outline.crd;
    let mut next = crd.clone();
    if is_true(crd, "NamesAccepted") && !is_true(crd, "Established") {
        establish(&mut next, now);
    }
    accept_names(&mut next, all, now);
    note_violations(&mut next, &outline.violations, now);
    check_approval(&mut next, now);
    if next.status == crd.status { None } else { next.status }
}

fn establish(crd: &mut CustomResourceDefinition, now: &Time) {
    let webhook = crd.spec.conversion.as_ref().and_then(|c| c.webhook.as_ref()?.client_config.as_ref());
    let bundle = webhook.and_then(|w| w.ca_bundle.as_ref()).map(|b| b.0.as_slice()).unwrap_or_default();
    if !super::check::is_ca_bundle(bundle) {
        let why = "The conversion webhook CABundle is invalid";
        return set_condition(crd, "Established", "False", "InvalidCABundle", why, now);
    }
    let why = "the initial names have been accepted";
    set_condition(crd, "Established", "True", "InitialNamesAccepted", why, now);
}

fn accept_names(crd: &mut CustomResourceDefinition, all: &[Arc<Outline>], now: &Time) {
    let accepted = crd.status.as_ref().and_then(|s| s.accepted_names.clone()).unwrap_or_default();
    if crd.spec.names == accepted {
        return;
    }
    let (names, conflict) = decide(crd, &accepted, all);
    match &conflict {
        Some((reason, message)) => set_condition(crd, "NamesAccepted", "False", reason, message, now),
        None => set_condition(crd, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
    }
    if !is_true(crd, "Established") {
        let (reason, message) = match conflict {
            None => ("Installing", "the initial names have been accepted"),
            Some(_) => ("NotAccepted", "not all names are accepted"),
        };
        set_condition(crd, "Established", "False", reason, message, now);
    }
    crd.status.get_or_insert_default().accepted_names = Some(names);
}

type Conflict = Option<(&'static str, String)>;

fn decide(
    crd: &CustomResourceDefinition,
    accepted: &CustomResourceDefinitionNames,
    all: &[Arc<Outline>],
) -> (CustomResourceDefinitionNames, Conflict) {
    let mut resources: HashSet<&str> = HashSet::new();
    let mut kinds: HashSet<&str> = HashSet::new();
    let group = all.iter().map(|other| &other.crd).filter(|other| other.spec.group == crd.spec.group);
    for names in group.filter_map(|other| other.status.as_ref()?.accepted_names.as_ref()) {
        resources.insert(&names.plural);
        resources.extend(names.singular.as_deref());
        resources.extend(names.short_names.iter().flatten().map(String::as_str));
        kinds.insert(&names.kind);
        kinds.extend(names.list_kind.as_deref());
    }
    let wanted = &crd.spec.names;
    let mut names = accepted.clone();
    let mut conflict: Conflict = None;
    let taken = |name: &str, own: &str, used: &HashSet<&str>| {
        (name != own && used.contains(name)).then(|| format!("{name:?} is already in use"))
    };
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    match taken(&wanted.plural, &accepted.plural, &resources) {
        Some(why) => conflict = Some(("PluralConflict", why)),
        None => names.plural.clone_from(&wanted.plural),
    }
    match taken(&text(&wanted.singular), &text(&accepted.singular), &resources) {
        Some(why) => conflict = Some(("SingularConflict", why)),
        None => names.singular.clone_from(&wanted.singular),
    }
    let own: Vec<&String> = accepted.short_names.iter().flatten().collect();
    let new = wanted.short_names.iter().flatten().filter(|name| !own.contains(name));
    let wrong: Vec<String> = new.filter_map(|name| taken(name, "", &resources)).collect();
    match wrong.as_slice() {
        [] => names.short_names.clone_from(&wanted.short_names),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    match taken(&wanted.kind, &accepted.kind, &kinds) {
        Some(why) => conflict = Some(("KindConflict", why)),
        None => names.kind.clone_from(&wanted.kind),
    }
    match taken(&text(&wanted.list_kind), &text(&accepted.list_kind), &kinds) {
        Some(why) => conflict = Some(("ListKindConflict", why)),
        None => names.list_kind.clone_from(&wanted.list_kind),
    }
    names.categories.clone_from(&wanted.categories);
    (names, conflict)
}

fn note_violations(crd: &mut CustomResourceDefinition, violations: &str, now: &Time) {
    if !violations.is_empty() {
        return set_condition(crd, "NonStructuralSchema", "True", "Violations", violations, now);
    }
    if let Some(conditions) = crd.status.as_mut().and_then(|s| s.conditions.as_mut()) {
        conditions.retain(|c| c.type_ != "NonStructuralSchema");
    }
}

fn check_approval(crd: &mut CustomResourceDefinition, now: &Time) {
    const KEY: &str = "api-approved.kubernetes.io";
    if !super::check::is_protected_group(&crd.spec.group) {
        return;
    }
    let approval = crd.annotation(KEY).unwrap_or_default().to_owned();
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url = approval.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    let (status, reason, message) = if approval.is_empty() {
        ("False", "MissingAnnotation", format!("protected groups must have approval annotation {KEY:?}, {see}"))
    } else if approval.starts_with("unapproved") {
        ("False", "UnapprovedAnnotation", format!("not approved: {approval:?}"))
    } else if is_url {
        ("True", "ApprovedAnnotation", format!("approved in {approval}"))
    } else {
        let why = format!(
            "protected groups must have approval annotation {KEY:?} with either a URL or a reason starting with \
             \"unapproved\", {see}"
        );
        ("False", "InvalidAnnotation", why)
    };
    set_condition(crd, "KubernetesAPIApprovalPolicyConformant", status, reason, &message, now);
}
