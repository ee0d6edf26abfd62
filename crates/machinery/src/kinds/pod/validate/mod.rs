//! Validation of pods, pod specs and pod templates (`ValidatePodSpec` and around in
//! `pkg/apis/core/validation/validation.go`), in upstream's order and words.
//!
//! Not checked (accepted as they are): rules that tie container statuses to the spec.

mod containers;
mod scheduling;
mod security;
mod volumes;
mod windows;

pub(in crate::kinds) use containers::validate_quantity_list;
pub(in crate::kinds) use scheduling::{validate_node_selector, validate_taint_effect, validate_tolerations};
pub(super) use security::validate_app_armor;
pub(super) use update::{validate_ephemeral_update, validate_resize, validate_status_update, validate_update};
pub(in crate::kinds) use volumes::{validate_driver_name, validate_host_path, validate_nfs};
mod update;

use super::annotations;
use crate::field::{Errors, FieldError, Path};
use crate::kinds::common::str_of;
use crate::schema::go_shown;
use crate::validation::{
    inclusive_range_error, invalid_each, is_dns1123_label, is_dns1123_subdomain, is_dns1123_subdomain_with_underscore,
    is_label_key, is_valid_ip_legacy, required_one_of, unique, validate_annotations, validate_labels,
};
use api::ObjectMeta;
use api::k8s::api::core::v1::{Container, EphemeralContainer, PodDNSConfig, PodSpec};
use api::prelude::{Pod, PodTemplateSpec};

/// What the checks of containers need to know of their pod.
struct Scope<'a> {
    spec: &'a PodSpec,
    is_pod: bool,
    /// Names of volumes that are sound, and whether they may be block devices.
    volumes: Vec<(&'a str, bool)>,
}

/// Errors of a new pod beyond its metadata.
pub(super) fn validate_pod(pod: &Pod) -> Errors {
    let path = Path::new("spec");
    let no_spec = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let annotations_path = Path::new("metadata").child("annotations");
    let mut errors = annotations::validate(pod.metadata.annotations.as_ref(), spec, &annotations_path);
    errors.extend(validate_spec(spec, Some(&pod.metadata), &path));
    if str_of(&spec.service_account_name).is_empty() {
        errors.extend(validate_no_tokens(spec, &path.child("volumes")));
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    errors.extend(containers::validate_images(&spec.containers, &path.child("containers")));
    errors.extend(containers::validate_images(init, &path.child("initContainers")));
    errors
}

/// Errors of a pod that only creation can have.
pub(super) fn validate_pod_create(pod: &Pod) -> Errors {
    let path = Path::new("spec");
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut errors = Vec::new();
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    if gated && !str_of(&spec.node_name).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors.extend(annotations::validate_match(pod.metadata.annotations.as_ref(), spec, &path));
    errors
}

fn validate_no_tokens(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let sources = volume.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default();
        for (j, source) in sources.iter().enumerate() {
            if source.service_account_token.is_some() {
                let path = path.index(i).child("projected").child("sources").index(j).child("serviceAccountToken");
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
    }
    errors
}

/// Errors of a pod template at `path`.
pub(in crate::kinds) fn validate_template(template: &PodTemplateSpec, path: &Path) -> Errors {
    let meta = template.metadata.as_ref();
    let mut errors = validate_labels(meta.and_then(|m| m.labels.as_ref()), &path.child("labels"));
    let annotations = meta.and_then(|m| m.annotations.as_ref());
    errors.extend(validate_annotations(annotations, &path.child("annotations")));
    let no_spec = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    errors.extend(annotations::validate(annotations, spec, &path.child("annotations")));
    let path = path.child("spec");
    errors.extend(validate_spec(spec, None, &path));
    errors.extend(annotations::validate_match(annotations, spec, &path));
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), detail));
    }
    errors
}

/// Errors of a pod spec at `path`: of the pod with this metadata, or of a template.
fn validate_spec(spec: &PodSpec, pod: Option<&ObjectMeta>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::validate_volumes(spec.volumes.as_deref().unwrap_or_default(), pod, path, &mut errors);
    let scope = Scope { spec, is_pod: pod.is_some(), volumes };
    errors.extend(validate_resource_claims(spec, &path.child("resourceClaims")));
    errors.extend(containers::validate_containers(&scope, &path.child("containers")));
    errors.extend(containers::validate_init_containers(&scope, &path.child("initContainers")));
    errors.extend(containers::validate_ephemeral_containers(&scope, &path.child("ephemeralContainers")));
    errors.extend(containers::validate_pod_resources(spec, &path.child("resources")));
    errors.extend(containers::validate_host_ports(&scope, &path.child("containers")));
    let restart = str_of(&spec.restart_policy);
    required_one_of(&mut errors, &path.child("restartPolicy"), restart, &["Always", "OnFailure", "Never"]);
    const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(&mut errors, &path.child("dnsPolicy"), str_of(&spec.dns_policy), DNS);
    errors.extend(validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector")));
    errors.extend(security::validate_pod_security(spec, path));
    errors.extend(scheduling::validate_affinity(spec.affinity.as_ref(), &path.child("affinity")));
    errors.extend(validate_dns(spec.dns_config.as_ref(), str_of(&spec.dns_policy), &path.child("dnsConfig")));
    errors.extend(validate_gates(spec, path));
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    errors.extend(scheduling::validate_spread(constraints, &path.child("topologySpreadConstraints")));
    errors.extend(windows::validate_host_process(spec, path));
    errors.extend(security::validate_host_users(spec, path));
    errors.extend(validate_names(spec, path));
    errors.extend(scheduling::validate_tolerations(
        spec.tolerations.as_deref().unwrap_or_default(),
        &path.child("tolerations"),
    ));
    errors.extend(validate_host_aliases(spec, &path.child("hostAliases")));
    errors.extend(validate_classes(spec, path));
    errors.extend(windows::validate_os(spec, path));
    errors.extend(containers::validate_file_key_volumes(spec, path));
    errors
}

/// Calls `visit` with every container and how to make its path, in upstream's order (`VisitContainersWithPath`).
pub(super) fn visit_containers(spec: &PodSpec, path: &Path, mut visit: impl FnMut(&Container, &dyn Fn() -> Path)) {
    for (field, list) in [("initContainers", spec.init_containers.as_ref()), ("containers", Some(&spec.containers))] {
        for (i, container) in list.into_iter().flatten().enumerate() {
            visit(container, &|| path.child(field).index(i));
        }
    }
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        visit(&common_of(ephemeral), &|| path.child("ephemeralContainers").index(i));
    }
}

fn validate_resource_claims(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (i, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else if names.contains(&claim.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), &claim.name));
        } else {
            errors.extend(invalid_each(&path.child("name"), &claim.name, is_dns1123_label(&claim.name)));
            names.push(&claim.name);
        }
        let shown = || go_shown("io.k8s.api.core.v1.PodResourceClaim", claim);
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(FieldError::invalid(&path, shown(), detail));
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(FieldError::invalid(&path, shown(), detail));
            }
            _ => {}
        }
        for (key, reference) in [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ] {
            let messages = reference.as_deref().map(is_dns1123_subdomain).unwrap_or_default();
            errors.extend(invalid_each(&path.child(key), reference.as_deref().unwrap_or_default(), messages));
        }
    }
    errors
}

fn validate_gates(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        errors.extend(invalid_each(&path, &gate.condition_type, is_label_key(&gate.condition_type)));
    }
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let at = |i: usize| path.child("schedulingGates").index(i);
    for (i, gate) in gates.iter().enumerate() {
        errors.extend(invalid_each(&at(i), &gate.name, is_label_key(&gate.name)));
    }
    unique(&mut errors, gates.iter().enumerate().map(|(i, g)| (at(i), g.name.as_str())));
    errors
}

fn validate_names(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(name) = &spec.hostname_override {
        let path = path.child("hostnameOverride");
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.push(FieldError::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
        }
        if spec.host_network == Some(true) {
            errors.push(FieldError::forbidden(&path, "may not be specified when hostNetwork is true"));
        }
        if name.len() > 64 {
            errors.push(FieldError::too_long(&path, 64));
        }
        errors.extend(invalid_each(&path, name, is_dns1123_subdomain(name)));
    }
    let check = |errors: &mut Errors, field: &str, value: &Option<String>, label: bool| {
        let value = str_of(value);
        if !value.is_empty() {
            let messages = if label { is_dns1123_label(value) } else { is_dns1123_subdomain(value) };
            errors.extend(invalid_each(&path.child(field), value, messages));
        }
    };
    check(&mut errors, "serviceAccountName", &spec.service_account_name, false);
    check(&mut errors, "nodeName", &spec.node_name, false);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = inclusive_range_error(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, &detail));
    }
    check(&mut errors, "hostname", &spec.hostname, true);
    check(&mut errors, "subdomain", &spec.subdomain, true);
    errors
}

fn validate_host_aliases(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        errors.extend(is_valid_ip_legacy(&path.index(i).child("ip"), &alias.ip, &[]));
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            let path = path.index(i).child("hostnames").index(j);
            errors.extend(invalid_each(&path, name, is_dns1123_subdomain(name)));
        }
    }
    errors
}

fn validate_classes(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let priority_class = str_of(&spec.priority_class_name);
    if !priority_class.is_empty() {
        let messages = is_dns1123_subdomain(priority_class);
        errors.extend(invalid_each(&path.child("priorityClassName"), priority_class, messages));
    }
    if let Some(name) = &spec.runtime_class_name {
        errors.extend(invalid_each(&path.child("runtimeClassName"), name, is_dns1123_subdomain(name)));
    }
    if let Some(policy) = &spec.preemption_policy {
        let supported = ["PreemptLowerPriority", "Never"];
        required_one_of(&mut errors, &path.child("preemptionPolicy"), policy, &supported);
    }
    errors.extend(validate_quantity_list(spec.overhead.as_ref(), &path.child("overhead").child("limits")));
    errors
}

fn validate_dns(config: Option<&PodDNSConfig>, policy: &str, path: &Path) -> Errors {
    let nameservers = config.and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if policy == "None" {
        if config.is_none() {
            return vec![FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None")];
        }
        if nameservers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return vec![FieldError::required(&path.child("nameservers"), detail)];
        }
    }
    let Some(config) = config else { return Vec::new() };
    let mut errors = Vec::new();
    if nameservers.len() > 3 {
        let value = serde_json::Value::from(nameservers.to_vec());
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(&path.child("nameservers"), &value, detail));
    }
    for (i, server) in nameservers.iter().enumerate() {
        errors.extend(is_valid_ip_legacy(&path.child("nameservers").index(i), server, &[]));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let value = serde_json::Value::from(searches.to_vec());
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(&path.child("searches"), &value, detail));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(&path.child("searches"), &value, detail));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        let messages = is_dns1123_subdomain_with_underscore(search);
        errors.extend(invalid_each(&path.child("searches").index(i), search, messages));
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if str_of(&option.name).is_empty() {
            errors.push(FieldError::required(&path.child("options").index(i), "must not be empty"));
        }
    }
    errors
}

/// An ephemeral container as a container, to check what they share.
fn common_of(ephemeral: &EphemeralContainer) -> Container {
    let mut copy = ephemeral.clone();
    let mut common = Container::default();
    super::defaults::as_container(&mut copy, |c| common = c.clone());
    common
}
