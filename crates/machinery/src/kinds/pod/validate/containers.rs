//! Containers: regular, init and ephemeral ones.

use super::{Scope, common_of, security, visit_containers};
use crate::field::{Errors, FieldError, Path};
use crate::kinds::common::str_of;
use crate::kinds::pod::is_sidecar;
use crate::kinds::resources::{self, ResourceList, validate_container_name, validate_requirements};
use crate::quantity::Quantity;
use crate::quota::{self, Side};
use crate::validation::{
    Messages, invalid_each, is_config_map_key, is_dns1123_label, is_dns1123_subdomain, is_http_header_name,
    is_label_key, is_relaxed_env_var_name, is_valid_port, is_valid_port_name, one_of, required, required_one_of,
    unique, validate_local_descending_path, validate_no_backsteps, validate_non_negative, validate_port_or_name,
};
use api::k8s::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, ExecAction, FileKeySelector, GRPCAction, HTTPGetAction, Lifecycle,
    ObjectFieldSelector, PodSpec, Probe, ResourceFieldSelector, ResourceRequirements, SleepAction, TCPSocketAction,
};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;

pub(super) fn validate_containers(scope: &Scope<'_>, path: &Path) -> Errors {
    if scope.spec.containers.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (i, container) in scope.spec.containers.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_common(container, scope, &path));
        if names.contains(&container.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        names.push(&container.name);
        errors.extend(validate_hooks_and_probes(container, scope, &path));
        errors.extend(validate_restart(container, &path));
    }
    errors.extend(validate_port_conflicts(&scope.spec.containers, path));
    errors
}

pub(super) fn validate_init_containers(scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut names: Vec<&str> = scope.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in scope.spec.init_containers.iter().flatten().enumerate() {
        let at = path.index(i);
        errors.extend(validate_common(container, scope, &at));
        errors.extend(validate_restart(container, &at));
        if names.contains(&container.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), &container.name));
        } else if !container.name.is_empty() {
            names.push(&container.name);
        }
        errors.extend(validate_port_conflicts(std::slice::from_ref(container), path));
        if is_sidecar(container) {
            errors.extend(validate_hooks_and_probes(container, scope, &at));
            continue;
        }
        let fields = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (field, _) in fields.iter().filter(|f| f.1) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&at.child(field), detail));
        }
        for (j, policy) in container.resize_policy.iter().flatten().enumerate() {
            if policy.restart_policy == "RestartContainer" {
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                let path = at.child("resizePolicy").index(j).child("restartPolicy");
                errors.push(FieldError::invalid(&path, &policy.restart_policy, detail));
            }
        }
    }
    errors
}

pub(super) fn validate_ephemeral_containers(scope: &Scope<'_>, path: &Path) -> Errors {
    let spec = scope.spec;
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: Vec<&str> = others.map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    let mut errors = Vec::new();
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(i);
        let container = common_of(ephemeral);
        errors.extend(validate_common(&container, scope, &path));
        errors.extend(validate_image(&container, &path));
        if names.contains(&ephemeral.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), &ephemeral.name));
        } else {
            names.push(&ephemeral.name);
        }
        let target = str_of(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(&target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        errors.extend(validate_ephemeral_fields(&container, &path));
    }
    errors
}

fn validate_ephemeral_fields(container: &Container, path: &Path) -> Errors {
    let detail = "cannot be set for an Ephemeral Container";
    let resources = container.resources.as_ref().is_some_and(|r| *r != ResourceRequirements::default());
    let fields = [
        ("ports", container.ports.as_ref().is_some_and(|p| !p.is_empty())),
        ("resources", resources),
        ("resizePolicy", container.resize_policy.as_ref().is_some_and(|p| !p.is_empty())),
        ("restartPolicy", container.restart_policy.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    let mut errors: Errors =
        fields.iter().filter(|f| f.1).map(|(field, _)| FieldError::forbidden(&path.child(field), detail)).collect();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(i);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !str_of(value).is_empty() {
                errors.push(FieldError::forbidden(&path.child(field), detail));
            }
        }
    }
    errors
}

/// What pods are stricter about than templates: white space around image names.
pub(super) fn validate_images(containers: &[Container], path: &Path) -> Errors {
    containers.iter().enumerate().flat_map(|(i, c)| validate_image(c, &path.index(i))).collect()
}

fn validate_image(container: &Container, path: &Path) -> Errors {
    let image = str_of(&container.image);
    if image.trim() == image {
        return Vec::new();
    }
    vec![FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace")]
}

fn validate_common(container: &Container, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if container.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        errors.extend(invalid_each(&path.child("name"), &container.name, is_dns1123_label(&container.name)));
    }
    required(&mut errors, &path.child("image"), str_of(&container.image));
    let policy = str_of(&container.termination_message_policy);
    let supported = ["File", "FallbackToLogsOnError"];
    required_one_of(&mut errors, &path.child("terminationMessagePolicy"), policy, &supported);
    errors.extend(validate_ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports")));
    errors.extend(validate_env(container.env.as_deref().unwrap_or_default(), &path.child("env")));
    errors.extend(validate_env_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom")));
    errors.extend(validate_mounts(container, scope, &path.child("volumeMounts")));
    errors.extend(validate_devices(container, scope, &path.child("volumeDevices")));
    let pull = str_of(&container.image_pull_policy);
    required_one_of(&mut errors, &path.child("imagePullPolicy"), pull, &["Always", "IfNotPresent", "Never"]);
    if let Some(resources) = &container.resources {
        let path = path.child("resources");
        let (limits, requests) = (resources.limits.as_ref(), resources.requests.as_ref());
        errors.extend(validate_requirements(limits, requests, validate_container_name, &path));
        errors.extend(validate_claims(resources, scope.spec, &path.child("claims")));
    }
    errors.extend(validate_resize_policy(container, scope, &path.child("resizePolicy")));
    let host_users = scope.spec.host_users != Some(false);
    errors.extend(security::validate_container_security(container, host_users, &path.child("securityContext")));
    errors
}

// === resources ===

/// Errors of a plain list of resources (overhead).
pub(in crate::kinds) fn validate_quantity_list(list: Option<&ResourceList>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (name, text) in list.into_iter().flatten() {
        errors.extend(validate_container_name(name, &path.key(name)));
        errors.extend(resources::validate_quantity(name, text, &path.key(name)));
    }
    errors
}

/// Errors of resources of a pod as a whole.
pub(super) fn validate_pod_resources(spec: &PodSpec, path: &Path) -> Errors {
    let Some(resources) = &spec.resources else { return Vec::new() };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return vec![FieldError::forbidden(path, "may not be set for a windows pod")];
    }
    let mut errors = Vec::new();
    if resources.claims.is_some() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    let name_errors: fn(&str, &Path) -> Errors = |name, path| {
        let mut errors = resources::validate_name(name, path);
        if errors.is_empty() && !matches!(name, "cpu" | "memory") && !resources::is_huge_page(name) {
            let supported = ["cpu", "hugepages-", "memory"];
            errors.push(FieldError::not_supported(path, name, &supported));
        }
        errors
    };
    errors.extend(validate_requirements(resources.limits.as_ref(), resources.requests.as_ref(), name_errors, path));
    errors.extend(validate_claims(resources, spec, &path.child("claims")));
    errors.extend(validate_consistency(spec, resources, path));
    errors
}

/// Errors of resources of a pod that its containers go beyond (`validatePodResourceConsistency`).
fn validate_consistency(spec: &PodSpec, resources: &ResourceRequirements, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let (requests, limits) = (quota::parse(resources.requests.as_ref()), quota::parse(resources.limits.as_ref()));
    let mut together = |side: Side, field: &str, what: &str, of_pod: &quota::Usage| {
        for (name, sum) in quota::containers_resources(spec, side) {
            let Some(most) = of_pod.get(&name).filter(|most| sum > **most) else { continue };
            if side == Side::Requests || resources::is_huge_page(&name) {
                let detail = format!("must be greater than or equal to aggregate container {what} of {sum}");
                errors.push(FieldError::invalid(&path.child(field).key(&name), most.to_string().as_str(), &detail));
            }
        }
    };
    together(Side::Requests, "requests", "requests", &requests);
    together(Side::Limits, "limits", "limits", &limits);
    for (i, container) in spec.containers.iter().enumerate() {
        for (name, limit) in quota::parse(container.resources.as_ref().and_then(|r| r.limits.as_ref())) {
            let Some(most) = limits.get(&name).filter(|most| limit > **most) else { continue };
            // Upstream's order of the path.
            let path = path.child("containers").index(i).key(&name).child("limits");
            let detail = format!("must be less than or equal to pod limits of {most}");
            errors.push(FieldError::invalid(&path, limit.to_string().as_str(), &detail));
        }
    }
    errors
}

fn validate_claims(resources: &ResourceRequirements, spec: &PodSpec, path: &Path) -> Errors {
    let names = spec.resource_claims.iter().flatten().map(|c| c.name.as_str());
    let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let mut errors = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for (i, claim) in resources.claims.iter().flatten().enumerate() {
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let request = str_of(&claim.request);
        if !request.is_empty() && !seen.contains(&claim.name) {
            errors.extend(invalid_each(&path.child("request"), request, is_dns1123_label(request)));
        }
        let key = if request.is_empty() { claim.name.clone() } else { format!("{}/{request}", claim.name) };
        let covers =
            |s: &String| *s == claim.name || *s == key || (request.is_empty() && s.starts_with(&format!("{key}/")));
        if seen.iter().any(covers) {
            errors.push(FieldError::duplicate(&path, &key));
        }
        seen.push(key);
        if !known.contains(&claim.name.as_str()) {
            let mut error = FieldError::not_found(&path, &claim.name);
            let mut sorted = known.clone();
            sorted.sort_unstable();
            error.body.push_str(": must be one of the names in pod.spec.resourceClaims");
            error.body.push_str(&if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", sorted.join(", "))
            });
            errors.push(error);
        }
    }
    errors
}

fn validate_resize_policy(container: &Container, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    unique(&mut errors, policies.iter().enumerate().map(|(i, p)| (path.index(i), p.resource_name.as_str())));
    for policy in policies {
        required_one_of(&mut errors, path, &policy.resource_name, &["cpu", "memory"]);
        required_one_of(&mut errors, path, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if str_of(&scope.spec.restart_policy) == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, &policy.restart_policy, detail));
        }
    }
    errors
}

fn validate_restart(container: &Container, path: &Path) -> Errors {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    match &container.restart_policy {
        None if !rules.is_empty() => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(&path.child("restartPolicy"), detail));
        }
        None => {}
        Some(policy) => {
            one_of(&mut errors, &path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
        }
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&path, rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        one_of(&mut errors, &path.child("action"), &rule.action, &["Restart", "RestartAllContainers"]);
        match &rule.exit_codes {
            None => errors.push(FieldError::required(&path.child("exitCodes"), "must be specified")),
            Some(codes) => {
                let path = path.child("exitCodes");
                one_of(&mut errors, &path.child("operator"), &codes.operator, &["In", "NotIn"]);
                let count = codes.values.as_ref().map_or(0, Vec::len);
                if count > 255 {
                    errors.push(FieldError::too_many(&path.child("values"), count, 255));
                }
            }
        }
    }
    errors
}

// === ports ===

fn validate_ports(ports: &[ContainerPort], path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(&port.name);
        if !name.is_empty() {
            let messages = is_valid_port_name(name);
            if !messages.is_empty() {
                errors.extend(invalid_each(&path.child("name"), name, messages));
            } else if names.contains(&name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            } else {
                names.push(name);
            }
        }
        let number = |errors: &mut Errors, field: &str, port: i32| {
            let messages = is_valid_port(i64::from(port));
            errors.extend(messages.iter().map(|m| FieldError::invalid(&path.child(field), port, m)));
        };
        if port.container_port == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            number(&mut errors, "containerPort", port.container_port);
        }
        if let Some(host) = port.host_port.filter(|p| *p != 0) {
            number(&mut errors, "hostPort", host);
        }
        let protocol = str_of(&port.protocol);
        required_one_of(&mut errors, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    errors
}

fn validate_port_conflicts(containers: &[Container], path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut taken: Vec<String> = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(host) = port.host_port.filter(|p| *p != 0) else { continue };
            let key = format!("{}/{}/{host}", str_of(&port.protocol), str_of(&port.host_ip));
            if taken.contains(&key) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::duplicate(&path, &key));
            } else {
                taken.push(key);
            }
        }
    }
    errors
}

/// On the host's network, a host port is the container port.
pub(super) fn validate_host_ports(scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if scope.spec.host_network != Some(true) {
        return errors;
    }
    for (i, container) in scope.spec.containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if (scope.is_pod || host != 0) && host != port.container_port {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path, host, detail));
            }
        }
    }
    errors
}

// === environment ===

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// All fields that the downward API knows anywhere.
const POD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn validate_env(vars: &[EnvVar], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        if var.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            errors.extend(invalid_each(&path.child("name"), &var.name, is_relaxed_env_var_name(&var.name)));
        }
        errors.extend(validate_env_source(var, &path.child("valueFrom")));
    }
    errors
}

fn validate_env_source(var: &EnvVar, path: &Path) -> Errors {
    let Some(from) = &var.value_from else { return Vec::new() };
    let mut errors = Vec::new();
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        errors.extend(validate_field_ref(field, ENV_FIELDS, &path.child("fieldRef")));
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        errors.extend(validate_resource_field_ref(resource, false, &path.child("resourceFieldRef")));
    }
    let map = from.config_map_key_ref.as_ref().map(|r| ("configMapKeyRef", &r.name, &r.key));
    let secret = from.secret_key_ref.as_ref().map(|r| ("secretKeyRef", &r.name, &r.key));
    for (field, name, key) in [map, secret].into_iter().flatten() {
        sources += 1;
        let path = path.child(field);
        errors.extend(invalid_each(&path.child("name"), name, is_dns1123_subdomain(name)));
        if key.is_empty() {
            errors.push(FieldError::required(&path.child("key"), ""));
        } else {
            errors.extend(invalid_each(&path.child("key"), key, is_config_map_key(key)));
        }
    }
    if let Some(file) = &from.file_key_ref {
        sources += 1;
        errors.extend(validate_file_key(file, &path.child("fileKeyRef")));
    }
    if sources == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if !str_of(&var.value).is_empty() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
    errors
}

fn validate_file_key(file: &FileKeySelector, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (field, value, validate) in [
        ("key", &file.key, is_relaxed_env_var_name as fn(&str) -> Messages),
        ("volumeName", &file.volume_name, is_dns1123_label),
    ] {
        let path = path.child(field);
        match value.as_str() {
            "" => errors.push(FieldError::required(&path, "")),
            value => errors.extend(invalid_each(&path, value, validate(value))),
        }
    }
    required(&mut errors, &path.child("path"), &file.path);
    errors.extend(validate_no_backsteps(&file.path, &path.child("path")));
    errors
}

/// Variables come from files of an emptyDir only (`validateFileKeyRefVolumes`).
pub(super) fn validate_file_key_volumes(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    visit_containers(spec, path, |container, path| {
        for (i, var) in container.env.iter().flatten().enumerate() {
            let Some(file) = var.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref()) else { continue };
            let path = path().child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            // The last of a name counts, as in upstream's map.
            match spec.volumes.iter().flatten().rfind(|volume| volume.name == file.volume_name) {
                None => errors.push(FieldError::not_found(&path, &file.volume_name)),
                Some(volume) if volume.empty_dir.is_none() => {
                    let detail = "referenced volume must be of type emptyDir";
                    errors.push(FieldError::invalid(&path, &file.volume_name, detail));
                }
                Some(_) => {}
            }
        }
    });
    errors
}

/// Errors of a downward API field; `supported` is sorted.
pub(super) fn validate_field_ref(field: &ObjectFieldSelector, supported: &[&str], path: &Path) -> Errors {
    let version = str_of(&field.api_version);
    let name = field.field_path.as_str();
    if version.is_empty() {
        return vec![FieldError::required(&path.child("apiVersion"), "")];
    }
    if name.is_empty() {
        return vec![FieldError::required(&path.child("fieldPath"), "")];
    }
    let refuse = |why: String| {
        let detail = format!("error converting fieldPath: {why}");
        vec![FieldError::invalid(&path.child("fieldPath"), name, &detail)]
    };
    if version != "v1" {
        return refuse(format!("unsupported pod version: {version}"));
    }
    // `metadata.labels['key']`
    if let Some((owner, key)) = name.strip_suffix("']").and_then(|n| n.split_once("['")) {
        return match owner {
            "metadata.annotations" => invalid_each(path, &key.to_lowercase(), is_label_key(&key.to_lowercase())),
            "metadata.labels" => invalid_each(path, key, is_label_key(key)),
            _ => refuse(format!("field label does not support subscript: {name}")),
        };
    }
    let name = if name == "spec.host" { "spec.nodeName" } else { name };
    if !POD_FIELDS.contains(&name) {
        return refuse(format!("field label not supported: {name}"));
    }
    let mut errors = Vec::new();
    one_of(&mut errors, &path.child("fieldPath"), name, supported);
    errors
}

/// Errors of a reference to a container's resource.
pub(super) fn validate_resource_field_ref(field: &ResourceFieldSelector, in_volume: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let name = field.resource.as_str();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if in_volume && str_of(&field.container_name).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !huge {
        one_of(&mut errors, &path.child("resource"), name, RESOURCE_FIELDS);
    }
    let divisor = field.divisor.as_ref().map_or("0", |d| d.0.as_str());
    if Quantity::parse(divisor).is_ok_and(|d| d.is_zero()) {
        return errors;
    }
    const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (fits, what) = match name.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => (matches!(divisor, "1m" | "1"), "1m and 1 are supported with the cpu resource".to_owned()),
        "memory" => (SIZES.contains(&divisor), format!("{} are supported with the memory resource", SIZES.join(", "))),
        "ephemeral-storage" => {
            let text = format!("{} are supported with the local ephemeral storage resource", SIZES.join(", "));
            (SIZES.contains(&divisor), text)
        }
        _ => (
            !huge || SIZES.contains(&divisor),
            format!("{} are supported with the hugepages resource", SIZES.join(", ")),
        ),
    };
    if !fits {
        let detail = format!("only divisor's values {what}");
        errors.push(FieldError::invalid(&path.child("divisor"), name, &detail));
    }
    errors
}

fn validate_env_from(sources: &[EnvFromSource], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = str_of(&source.prefix);
        if !prefix.is_empty() {
            errors.extend(invalid_each(&at.child("prefix"), prefix, is_relaxed_env_var_name(prefix)));
        }
        let map = source.config_map_ref.as_ref().map(|r| ("configMapRef", &r.name));
        let secret = source.secret_ref.as_ref().map(|r| ("secretRef", &r.name));
        let given: Vec<(&str, &String)> = [map, secret].into_iter().flatten().collect();
        for (field, name) in &given {
            let path = at.child(field).child("name");
            if name.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                errors.extend(invalid_each(&path, name, is_dns1123_subdomain(name)));
            }
        }
        match given.len() {
            0 => {
                errors.push(FieldError::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
            }
            1 => {}
            _ => errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time")),
        }
    }
    errors
}

// === mounts ===

fn validate_mounts(container: &Container, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mut taken: Vec<&str> = Vec::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = path.index(i);
        let target = mount.mount_path.as_str();
        required(&mut errors, &at.child("name"), &mount.name);
        if !scope.volumes.iter().any(|(name, _)| *name == mount.name) {
            errors.push(FieldError::not_found(&at.child("name"), &mount.name));
        }
        required(&mut errors, &at.child("mountPath"), target);
        if taken.contains(&target) {
            errors.push(FieldError::invalid(&at.child("mountPath"), target, "must be unique"));
        }
        taken.push(target);
        if devices.iter().any(|d| d.name == mount.name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(&at.child("name"), &mount.name, detail));
        }
        if devices.iter().any(|d| d.device_path == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&at.child("mountPath"), target, detail));
        }
        // Upstream reports these three at the list, not at the mount.
        let (sub_path, expression) = (str_of(&mount.sub_path), str_of(&mount.sub_path_expr));
        errors.extend(validate_local_descending_path(sub_path, &path.child("subPath")));
        if !expression.is_empty() && !sub_path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&at.child("subPathExpr"), expression, detail));
        }
        errors.extend(validate_local_descending_path(expression, &path.child("subPathExpr")));
        errors.extend(validate_propagation(container, mount, path));
    }
    errors
}

fn validate_propagation(container: &Container, mount: &api::k8s::api::core::v1::VolumeMount, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let privileged = container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    if let Some(propagation) = &mount.mount_propagation {
        let path = path.child("mountPropagation");
        one_of(&mut errors, &path, propagation, &["Bidirectional", "HostToContainer", "None"]);
        if propagation == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    let path = path.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.push(FieldError::forbidden(&path, "may only be specified when readOnly is true"));
            }
            if mount.mount_propagation.as_deref().is_some_and(|p| p != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
    errors
}

fn validate_devices(container: &Container, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    for (i, device) in devices.iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (device.name.as_str(), device.device_path.as_str());
        let before = &devices[..i];
        required(&mut errors, &at.child("name"), name);
        if before.iter().any(|d| d.name == name) {
            errors.push(FieldError::invalid(&at.child("name"), name, "must be unique"));
        }
        match scope.volumes.iter().find(|(volume, _)| *volume == name) {
            None => errors.push(FieldError::not_found(&at.child("name"), name)),
            Some((_, false)) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&at.child("name"), name, detail));
            }
            Some((_, true)) => {}
        }
        required(&mut errors, &at.child("devicePath"), target);
        if before.iter().any(|d| d.device_path == target) {
            errors.push(FieldError::invalid(&at.child("devicePath"), target, "must be unique"));
        }
        if !validate_no_backsteps(target, path).is_empty() {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&at.child("devicePath"), target, detail));
        }
        if mounts.iter().any(|m| m.name == name) {
            let detail = "must not already exist in volumeMounts";
            errors.push(FieldError::invalid(&at.child("name"), name, detail));
        }
        if mounts.iter().any(|m| m.mount_path == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(&at.child("devicePath"), target, detail));
        }
    }
    errors
}

// === probes and hooks ===

/// One way to look at or poke a container; a probe or hook has exactly one.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

fn validate_hooks_and_probes(container: &Container, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(lifecycle) = &container.lifecycle {
        errors.extend(validate_lifecycle(lifecycle, scope, &path.child("lifecycle")));
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        errors.extend(validate_probe(probe, scope, &path));
        if field == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                let path = path.child("terminationGracePeriodSeconds");
                errors.push(FieldError::invalid(&path, seconds, "must not be set for readinessProbes"));
            }
        } else if probe.success_threshold != Some(1) {
            let value = probe.success_threshold.unwrap_or(0);
            errors.push(FieldError::invalid(&path.child("successThreshold"), value, "must be 1"));
        }
    }
    errors
}

fn validate_probe(probe: &Probe, scope: &Scope<'_>, path: &Path) -> Errors {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    let mut errors = validate_handler(&handler, scope, path);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        errors.extend(validate_non_negative(i64::from(number.unwrap_or(0)), &path.child(field)));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
    }
    errors
}

const LINUX_SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn validate_lifecycle(lifecycle: &Lifecycle, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(hook) = hook else { continue };
        let handler = Handler {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        };
        errors.extend(validate_handler(&handler, scope, &path.child(field)));
    }
    if let Some(signal) = &lifecycle.stop_signal {
        let path = path.child("stopSignal");
        match scope.spec.os.as_ref().map(|os| os.name.as_str()) {
            None => {
                let detail = "may not be set for containers with empty `spec.os.name`";
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some("windows") => one_of(&mut errors, &path, signal, &["SIGKILL", "SIGTERM"]),
            Some("linux") => one_of(&mut errors, &path, signal, LINUX_SIGNALS),
            Some(_) => {}
        }
    }
    errors
}

fn validate_handler(handler: &Handler<'_>, scope: &Scope<'_>, path: &Path) -> Errors {
    let given = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http_get.is_some()),
        ("tcpSocket", handler.tcp_socket.is_some()),
        ("grpc", handler.grpc.is_some()),
        ("sleep", handler.sleep.is_some()),
    ];
    let mut given = given.iter().filter(|g| g.1).map(|g| g.0);
    let Some(first) = given.next() else {
        return vec![FieldError::required(path, "must specify a handler type")];
    };
    let mut errors = validate_first_handler(handler, first, scope, &path.child(first));
    let detail = "may not specify more than 1 handler type";
    errors.extend(given.map(|other| FieldError::forbidden(&path.child(other), detail)));
    errors
}

fn validate_first_handler(handler: &Handler<'_>, first: &str, scope: &Scope<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match (first, handler) {
        ("exec", Handler { exec: Some(exec), .. }) if exec.command.as_ref().is_none_or(Vec::is_empty) => {
            errors.push(FieldError::required(&path.child("command"), ""));
        }
        ("httpGet", Handler { http_get: Some(http), .. }) => {
            required(&mut errors, &path.child("path"), str_of(&http.path));
            errors.extend(validate_port_or_name(&http.port, &path.child("port")));
            one_of(&mut errors, &path.child("scheme"), str_of(&http.scheme), &["HTTP", "HTTPS"]);
            for header in http.http_headers.iter().flatten() {
                let messages = is_http_header_name(&header.name);
                errors.extend(invalid_each(&path.child("httpHeaders"), &header.name, messages));
            }
        }
        ("tcpSocket", Handler { tcp_socket: Some(tcp), .. }) => {
            errors.extend(validate_port_or_name(&tcp.port, &path.child("port")));
        }
        ("grpc", Handler { grpc: Some(grpc), .. }) => {
            errors.extend(validate_port_or_name(&IntOrString::Int(grpc.port), &path.child("port")));
        }
        ("sleep", Handler { sleep: Some(sleep), .. }) => {
            let grace = scope.spec.termination_grace_period_seconds;
            if let Some(grace) = grace.filter(|g| sleep.seconds < 0 || sleep.seconds > *g) {
                let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.push(FieldError::invalid(path, sleep.seconds, &detail));
            }
        }
        _ => {}
    }
    errors
}
