//! What may change in a pod, and through which path (`ValidatePodUpdate`, `ValidatePodStatusUpdate`, …).

use crate::field::{Errors, FieldError, Path};
use crate::kinds::common::{spec_changed, str_of};
use crate::pod_references::is_mirror;
use crate::validation::{
    IMMUTABLE, inclusive_range_error, invalid_each, is_dns1123_subdomain, is_label_key, is_valid_ip,
};
use api::k8s::api::core::v1::{
    Container, ContainerStatus, PodCondition, PodSpec, PodStatus, ResourceRequirements, Toleration,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::Pod;
use std::collections::BTreeMap;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Errors of a change of the pod itself, beyond what is wrong with the new one alone.
pub(in crate::kinds::pod) fn validate_update(new: &Pod, old: &Pod) -> Errors {
    let path = Path::new("spec");
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return Vec::new() };
    let init = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    let lists = [
        ("containers", new_spec.containers.len(), old_spec.containers.len()),
        ("initContainers", init(new_spec).len(), init(old_spec).len()),
    ];
    for (field, new, old) in lists {
        if new != old {
            let detail = "pod updates may not add or remove containers";
            return vec![FieldError::forbidden(&path.child(field), detail)];
        }
    }
    let mut errors = Vec::new();
    match validate_deadline(new_spec, old_spec, &path.child("activeDeadlineSeconds")) {
        Err(last) => return vec![last],
        Ok(error) => errors.extend(error),
    }
    errors.extend(validate_tolerations(new_spec, old_spec, &path.child("tolerations")));
    errors.extend(validate_gates(new_spec, old_spec, &path.child("schedulingGates")));
    if new_spec == old_spec {
        return errors;
    }
    let mut munged = new.clone();
    if let Some(spec) = &mut munged.spec {
        munge(spec, old_spec);
        if old_spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
            errors.extend(munge_gated(spec, old_spec, &path));
        }
    }
    let same = munged.spec == old.spec;
    if spec_changed(&munged, old, same) {
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{}", difference(&munged, old));
        errors.push(FieldError::forbidden(&path, &detail));
    }
    errors
}

/// Gives back to `spec` what may change, so that the rest can be compared.
fn munge(spec: &mut PodSpec, old: &PodSpec) {
    for (new, old) in spec.containers.iter_mut().zip(&old.containers) {
        new.image = old.image.clone();
    }
    let old_init = old.init_containers.as_deref().unwrap_or_default();
    for (new, old) in spec.init_containers.iter_mut().flatten().zip(old_init) {
        new.image = old.image.clone();
    }
    spec.active_deadline_seconds = old.active_deadline_seconds;
    spec.scheduling_gates = old.scheduling_gates.clone();
    spec.tolerations = old.tolerations.clone();
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && spec.termination_grace_period_seconds == Some(1) {
        spec.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
}

/// A gated pod may be tied to fewer nodes: node selectors and required terms may be added.
fn munge_gated(spec: &mut PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let empty = BTreeMap::new();
    let kept = spec.node_selector.as_ref().unwrap_or(&empty);
    for (key, value) in old.node_selector.iter().flatten() {
        if kept.get(key) != Some(value) {
            let value = serde_json::json!(kept);
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&path.child("nodeSelector"), &value, detail));
            break;
        }
    }
    spec.node_selector = old.node_selector.clone();
    errors
}

fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path) -> Result<Option<FieldError>, FieldError> {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            Err(FieldError::invalid(path, seconds, &inclusive_range_error(0, i64::from(i32::MAX))))
        }
        (Some(seconds), Some(before)) if before < seconds => {
            Err(FieldError::invalid(path, seconds, "must be less than or equal to previous value"))
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            Ok(Some(FieldError::invalid(path, &serde_json::Value::Null, detail)))
        }
        _ => Ok(None),
    }
}

fn validate_tolerations(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let new = new.tolerations.as_deref().unwrap_or_default();
    let kept = |old: &Toleration| {
        new.iter().any(|n| Toleration { toleration_seconds: n.toleration_seconds, ..old.clone() } == *n)
    };
    if old.tolerations.iter().flatten().all(kept) {
        return Vec::new();
    }
    vec![FieldError::forbidden(path, "existing toleration can not be modified except its tolerationSeconds")]
}

fn validate_gates(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let old = old.scheduling_gates.as_deref().unwrap_or_default();
    let added = new.scheduling_gates.iter().flatten().enumerate().filter(|(_, gate)| !old.contains(gate));
    added
        .map(|(i, gate)| {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            FieldError::forbidden(&path.index(i).child("name"), &detail)
        })
        .collect()
}

/// The fields that differ, a line each: `-` before, `+` after.
fn difference(new: &Pod, old: &Pod) -> String {
    fn walk(path: &str, old: &serde_json::Value, new: &serde_json::Value, lines: &mut Vec<String>) {
        use serde_json::Value::{Array, Object};
        if old == new {
            return;
        }
        match (old, new) {
            (Object(o), Object(n)) => {
                let none = serde_json::Value::Null;
                let keys: std::collections::BTreeSet<&String> = o.keys().chain(n.keys()).collect();
                for key in keys {
                    walk(&format!("{path}.{key}"), o.get(key).unwrap_or(&none), n.get(key).unwrap_or(&none), lines);
                }
            }
            (Array(o), Array(n)) if o.len() == n.len() => {
                for (i, (o, n)) in o.iter().zip(n).enumerate() {
                    walk(&format!("{path}[{i}]"), o, n, lines);
                }
            }
            _ => lines.extend([format!("- {path}: {old}"), format!("+ {path}: {new}")]),
        }
    }
    let value = |pod: &Pod| {
        let mut whole: serde_json::Value = serde_json::from_slice(&api::Codec::encode(pod)).unwrap_or_default();
        whole.get_mut("spec").map(serde_json::Value::take).unwrap_or_default()
    };
    let mut lines = Vec::new();
    walk("spec", &value(old), &value(new), &mut lines);
    lines.join("\n")
}

/// Errors of a status update.
pub(in crate::kinds::pod) fn validate_status_update(new: &Pod, old: &Pod) -> Errors {
    let path = Path::new("status");
    let no_status = PodStatus::default();
    let (new_status, old_status) =
        (new.status.as_ref().unwrap_or(&no_status), old.status.as_ref().unwrap_or(&no_status));
    let mut errors =
        validate_conditions(new_status.conditions.as_deref().unwrap_or_default(), &path.child("conditions"));
    let node = |pod: &Pod| pod.spec.as_ref().map(|s| str_of(&s.node_name).to_owned()).unwrap_or_default();
    let nominated = str_of(&new_status.nominated_node_name);
    if !nominated.is_empty() && nominated != str_of(&old_status.nominated_node_name) {
        let path = path.child("nominatedNodeName");
        errors.extend(invalid_each(&path, nominated, is_dns1123_subdomain(nominated)));
        if !node(old).is_empty() {
            let detail = "may not be set on pods that are already bound to a node";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    if let Some(generation) = new_status.observed_generation.filter(|g| *g < 0) {
        let detail = "must be a non-negative integer";
        errors.push(FieldError::invalid(&path.child("observedGeneration"), generation, detail));
    }
    if str_of(&new_status.qos_class) != str_of(&old_status.qos_class) {
        errors.push(FieldError::invalid(&path.child("qosClass"), str_of(&new_status.qos_class), IMMUTABLE));
    }
    if let Some(spec) = &old.spec {
        errors.extend(validate_transitions(spec, new_status, old_status, &path));
    }
    errors.extend(validate_ips(new_status, &path));
    errors
}

fn validate_conditions(conditions: &[PodCondition], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            let detail = "must be a non-negative integer";
            errors.push(FieldError::invalid(&path.child("observedGeneration"), generation, detail));
        }
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            errors.extend(invalid_each(&path.child("Type"), &condition.type_, is_label_key(&condition.type_)));
        }
    }
    errors
}

/// Containers that ended stay ended, unless they may restart (`ValidateContainerStateTransition` and its siblings). Ephemeral ones never do.
fn validate_transitions(spec: &PodSpec, new: &PodStatus, old: &PodStatus, path: &Path) -> Errors {
    let (app, init) = (&spec.containers, spec.init_containers.as_deref().unwrap_or_default());
    let rules = init.iter().chain(app).flat_map(|c| c.restart_policy_rules.iter().flatten());
    let all_may = rules.into_iter().any(|r| r.action == "RestartAllContainers");
    let may = |containers: &[Container], name: &str, code| {
        all_may || containers.iter().find(|c| c.name == name).is_some_and(|c| may_restart(c, spec, code))
    };
    let mut errors =
        stay_ended(&new.container_statuses, &old.container_statuses, &path.child("containerStatuses"), |name, code| {
            may(app, name, code)
        });
    let path_of_init = path.child("initContainerStatuses");
    errors.extend(stay_ended(
        &new.init_container_statuses,
        &old.init_container_statuses,
        &path_of_init,
        |name, code| may(init, name, code),
    ));
    let path = path.child("ephemeralContainerStatuses");
    errors
        .extend(stay_ended(&new.ephemeral_container_statuses, &old.ephemeral_container_statuses, &path, |_, _| false));
    errors
}

fn stay_ended(
    new: &Option<Vec<ContainerStatus>>,
    old: &Option<Vec<ContainerStatus>>,
    path: &Path,
    may_restart: impl Fn(&str, i32) -> bool,
) -> Errors {
    let mut errors = Vec::new();
    let ended =
        |status: &ContainerStatus| status.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    for (i, before) in old.iter().flatten().enumerate() {
        let Some(code) = ended(before) else { continue };
        let goes_on = new.iter().flatten().any(|s| s.name == before.name && ended(s).is_none());
        if goes_on && !may_restart(&before.name, code) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(&path.index(i).child("state"), detail));
        }
    }
    errors
}

fn may_restart(container: &Container, spec: &PodSpec, code: i32) -> bool {
    if container.restart_policy.is_some() {
        for rule in container.restart_policy_rules.iter().flatten().filter(|r| r.action == "Restart") {
            let Some(codes) = &rule.exit_codes else { continue };
            let listed = codes.values.iter().flatten().any(|v| *v == code);
            if listed == (codes.operator == "In") {
                return true;
            }
        }
    }
    match container.restart_policy.as_deref().unwrap_or(str_of(&spec.restart_policy)) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn validate_ips(status: &PodStatus, path: &Path) -> Errors {
    let pods: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let hosts: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let mut errors = Vec::new();
    for (field, ips) in [("podIPs", pods), ("hostIPs", hosts)] {
        let path = path.child(field);
        for (i, ip) in ips.iter().enumerate() {
            errors.extend(is_valid_ip(&path.index(i), ip));
            if ips[..i].contains(ip) {
                errors.push(FieldError::duplicate(&path.index(i), *ip));
            }
        }
    }
    errors
}

/// Errors of a change through `ephemeralcontainers`: they can only be added.
pub(in crate::kinds::pod) fn validate_ephemeral_update(new: &Pod, old: &Pod) -> Errors {
    let path = Path::new("spec").child("ephemeralContainers");
    let containers = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default();
    let new = containers(new);
    let mut errors = Vec::new();
    for before in containers(old) {
        let name = before.name.clone();
        match new.iter().find(|c| c.name == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden(&path, &detail));
            }
            Some(now) if *now != before => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(FieldError::forbidden(&path, &detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Errors of a change through `resize` (`ValidatePodResize`): the QoS class and the containers stay, nothing that is set can be
/// taken away, and only CPU and memory change.
pub(in crate::kinds::pod) fn validate_resize(new: &Pod, old: &Pod) -> Errors {
    let none = Path::new("");
    let path = Path::new("spec");
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return Vec::new() };
    if is_mirror(old) {
        return vec![FieldError::forbidden(&none, "static pods cannot be resized")];
    }
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return vec![FieldError::forbidden(&none, "windows pods cannot be resized")];
    }
    let mut errors = Vec::new();
    let before = old.status.as_ref().and_then(|s| s.qos_class.as_deref());
    if before.unwrap_or(super::super::qos::qos_class(old)) != super::super::qos::qos_class(new) {
        let class = new.status.as_ref().map(|s| str_of(&s.qos_class)).unwrap_or_default();
        errors.push(FieldError::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    let statuses = old.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let mut running = statuses.filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    if running.next().is_some_and(|s| s.resources.is_none()) {
        errors.push(FieldError::forbidden(&path, "Pod running on node without support for resize"));
    }
    errors.extend(validate_pod_level_resize(new_spec, old_spec, &path));
    let order = validate_resize_order(new_spec, old_spec, &path);
    if !order.is_empty() {
        errors.extend(order);
        return errors;
    }
    let new_init = new_spec.init_containers.as_deref().unwrap_or_default();
    let old_init = old_spec.init_containers.as_deref().unwrap_or_default();
    for (field, new, old) in
        [("initContainers", new_init, old_init), ("containers", &new_spec.containers[..], &old_spec.containers[..])]
    {
        for (i, (new, old)) in new.iter().zip(old).enumerate() {
            let path = path.child(field).index(i).child("resources");
            errors.extend(validate_removed(new.resources.as_ref(), old.resources.as_ref(), &path, "resource"));
        }
    }
    for (new, old) in new_spec.containers.iter().zip(&old_spec.containers) {
        if without_cpu_and_memory(new, old) != *old {
            errors.push(FieldError::forbidden(&path, "only cpu and memory resources are mutable"));
        }
    }
    for (i, (new, old)) in new_init.iter().zip(old_init).enumerate() {
        let path = path.child("initContainers").index(i);
        if without_cpu_and_memory(new, old) != *old {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(&path, detail));
        }
        let restarts = new.resize_policy.iter().flatten().filter(|p| p.restart_policy == "RestartContainer");
        if new != old && !super::super::is_sidecar(new) {
            let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.extend(restarts.map(|_| FieldError::forbidden(&path, detail)));
        }
    }
    errors
}

fn validate_pod_level_resize(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let resources = path.child("resources");
    let (Some(after), before) = (&new.resources, &old.resources) else {
        let removed = old.resources.is_some();
        return removed
            .then(|| FieldError::forbidden(&resources, "pod-level resources cannot be removed"))
            .into_iter()
            .collect();
    };
    let mut errors = Vec::new();
    if before.is_some() {
        errors.extend(validate_removed(Some(after), before.as_ref(), &resources, "pod-level resource"));
    }
    let nothing = ResourceRequirements::default();
    let munged = kept_cpu_and_memory(after, before.as_ref().unwrap_or(&nothing));
    let same = match before {
        Some(before) => munged == *before,
        None => munged == nothing,
    };
    if !same {
        errors.push(FieldError::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
    errors
}

fn validate_resize_order(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let lists = [
        ("containers", &new.containers[..], &old.containers[..]),
        (
            "initContainers",
            new.init_containers.as_deref().unwrap_or_default(),
            old.init_containers.as_deref().unwrap_or_default(),
        ),
    ];
    let mut errors = Vec::new();
    for (field, new, old) in lists {
        let path = path.child(field);
        if new.len() != old.len() {
            errors.push(FieldError::forbidden(&path, &format!("{field} may not be added or removed on resize")));
            continue;
        }
        for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (n, o))| n.name != o.name) {
            let detail = format!("{field} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(&path.index(i).child("name"), &detail));
        }
    }
    errors
}

fn validate_removed(
    new: Option<&ResourceRequirements>,
    old: Option<&ResourceRequirements>,
    path: &Path,
    what: &str,
) -> Errors {
    let removed = |pick: fn(&ResourceRequirements) -> &Option<BTreeMap<String, Quantity>>| {
        let names = |r: Option<&ResourceRequirements>| -> Vec<String> {
            r.and_then(|r| pick(r).as_ref()).map(|m| m.keys().cloned().collect()).unwrap_or_default()
        };
        let new = names(new);
        names(old).iter().any(|name| !new.contains(name))
    };
    let mut errors = Vec::new();
    if removed(|r| &r.requests) {
        errors.push(FieldError::forbidden(&path.child("requests"), &format!("{what} requests cannot be removed")));
    }
    if removed(|r| &r.limits) {
        errors.push(FieldError::forbidden(&path.child("limits"), &format!("{what} limits cannot be removed")));
    }
    errors
}

/// `new` with the CPU and memory of `old` (`dropCPUMemoryResourcesFromContainer`).
fn without_cpu_and_memory(new: &Container, old: &Container) -> Container {
    let nothing = ResourceRequirements::default();
    let before = old.resources.as_ref().unwrap_or(&nothing);
    let resources = new.resources.as_ref().map(|r| kept_cpu_and_memory(r, before));
    // Absent and empty are the same to upstream.
    let resources = if resources.as_ref() == Some(&nothing) { old.resources.clone() } else { resources };
    Container { resources, ..new.clone() }
}

fn kept_cpu_and_memory(new: &ResourceRequirements, old: &ResourceRequirements) -> ResourceRequirements {
    let list = |new: &Option<BTreeMap<String, Quantity>>, old: &Option<BTreeMap<String, Quantity>>| {
        let mut out = new.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            out.remove(name);
            if let Some(quantity) = old.as_ref().and_then(|o| o.get(name)) {
                out.insert(name.to_owned(), quantity.clone());
            }
        }
        (!out.is_empty()).then_some(out)
    };
    let empty = |list: &Option<BTreeMap<String, Quantity>>| list.clone().filter(|l| !l.is_empty());
    let (limits, requests) = (list(&new.limits, &old.limits), list(&new.requests, &old.requests));
    ResourceRequirements {
        limits: if limits == empty(&old.limits) { old.limits.clone() } else { limits },
        requests: if requests == empty(&old.requests) { old.requests.clone() } else { requests },
        claims: new.claims.clone(),
    }
}
