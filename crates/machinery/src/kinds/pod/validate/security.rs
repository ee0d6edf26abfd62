//! Security contexts of pods and containers.

use super::{visit_containers, windows};
use crate::field::{Errors, FieldError, Path};
use crate::schema::go_shown;
use crate::validation::{Raw, is_valid_id, one_of, validate_local_descending_path};
use api::k8s::api::core::v1::{AppArmorProfile, Container, PodSpec, SeccompProfile, SecurityContext, Sysctl};
use serde_json::json;

fn validate_id(errors: &mut Errors, path: &Path, id: Option<i64>) {
    if let Some(id) = id {
        errors.extend(is_valid_id(id).iter().map(|message| FieldError::invalid(path, id, message)));
    }
}

pub(super) fn validate_pod_security(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let path = path.child("securityContext").child("shareProcessNamespace");
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path, true, detail));
    }
    let Some(context) = &spec.security_context else { return errors };
    let path = path.child("securityContext");
    validate_id(&mut errors, &path.child("fsGroup"), context.fs_group);
    validate_id(&mut errors, &path.child("runAsUser"), context.run_as_user);
    validate_id(&mut errors, &path.child("runAsGroup"), context.run_as_group);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(&mut errors, &path.child("supplementalGroups").index(i), Some(*group));
    }
    let sysctls = context.sysctls.as_deref().unwrap_or_default();
    errors.extend(validate_sysctls(sysctls, spec, &path.child("sysctls")));
    if let Some(policy) = &context.fs_group_change_policy {
        one_of(&mut errors, &path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    errors.extend(validate_seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile")));
    errors.extend(windows::validate_options(context.windows_options.as_ref(), &path.child("windowsOptions")));
    errors.extend(validate_app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile")));
    if let Some(policy) = &context.supplemental_groups_policy {
        one_of(&mut errors, &path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        one_of(&mut errors, &path.child("seLinuxChangePolicy"), policy, &["Recursive"]);
    }
    errors
}

/// `validateHostUsers`: user namespaces and host namespaces exclude each other.
pub(super) fn validate_host_users(spec: &PodSpec, path: &Path) -> Errors {
    if spec.host_users != Some(false) {
        return Vec::new();
    }
    // Upstream's spelling.
    let shared = [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
    let on = shared.iter().filter(|(_, value)| *value == Some(true));
    let mut errors: Errors =
        on.map(|(field, _)| FieldError::forbidden(&path.child(field), "when `hostUsers` is false")).collect();
    visit_containers(spec, path, |container, path| {
        if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            errors.push(FieldError::forbidden(&path().child("volumeDevices"), "when `hostUsers` is false"));
        }
    });
    errors
}

fn is_sysctl_name(name: &str) -> bool {
    // `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9]$`, a segment per dot or slash.
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|segment| {
            let bytes = segment.as_bytes();
            bytes.first().copied().is_some_and(edge)
                && bytes.last().copied().is_some_and(edge)
                && bytes.iter().all(|&b| edge(b) || b == b'-' || b == b'_')
        })
}

fn validate_sysctls(sysctls: &[Sysctl], spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl_name(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(&path, name, detail));
        } else if sysctls[..i].iter().any(|s| s.name == name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        let normal = name.replace('/', ".");
        if spec.host_network == Some(true) && normal.starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.push(FieldError::invalid(&path, name, detail));
        }
        let ipc = normal.starts_with("kernel.shm")
            || normal.starts_with("kernel.msg")
            || normal == "kernel.sem"
            || normal.starts_with("fs.mqueue.");
        if spec.host_ipc == Some(true) && ipc {
            let detail = "may not be specified when 'hostIPC' is true";
            errors.push(FieldError::invalid(&path, name, detail));
        }
    }
    errors
}

fn validate_seccomp(profile: Option<&SeccompProfile>, path: &Path) -> Errors {
    let Some(profile) = profile else { return Vec::new() };
    let mut errors = Vec::new();
    if profile.type_.is_empty() {
        let detail = "type is required when seccompProfile is set";
        errors.push(FieldError::required(&path.child("type"), detail));
    } else {
        one_of(&mut errors, &path.child("type"), &profile.type_, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    let path = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => errors.push(FieldError::required(&path, "must be set when seccomp type is Localhost")),
        (Some(local), true) => errors.extend(validate_local_descending_path(local, &path)),
        (Some(_), false) => {
            let value = go_shown("io.k8s.api.core.v1.SeccompProfile", profile);
            errors.push(FieldError::invalid(&path, value, "can only be set when seccomp type is Localhost"));
        }
        (None, false) => {}
    }
    errors
}

/// A security context as messages show it: upstream's internal struct, whose order is its own.
fn shown_context(context: &SecurityContext) -> Raw {
    Raw::go_struct(&[
        ("Capabilities", &go_shown("io.k8s.api.core.v1.Capabilities", &context.capabilities)),
        ("Privileged", &json!(context.privileged)),
        ("SELinuxOptions", &go_shown("io.k8s.api.core.v1.SELinuxOptions", &context.se_linux_options)),
        ("WindowsOptions", &go_shown("io.k8s.api.core.v1.WindowsSecurityContextOptions", &context.windows_options)),
        ("RunAsUser", &json!(context.run_as_user)),
        ("RunAsGroup", &json!(context.run_as_group)),
        ("RunAsNonRoot", &json!(context.run_as_non_root)),
        ("ReadOnlyRootFilesystem", &json!(context.read_only_root_filesystem)),
        ("AllowPrivilegeEscalation", &json!(context.allow_privilege_escalation)),
        ("ProcMount", &json!(context.proc_mount)),
        ("SeccompProfile", &go_shown("io.k8s.api.core.v1.SeccompProfile", &context.seccomp_profile)),
        ("AppArmorProfile", &go_shown("io.k8s.api.core.v1.AppArmorProfile", &context.app_armor_profile)),
    ])
}

pub(in crate::kinds::pod) fn validate_app_armor(profile: Option<&AppArmorProfile>, path: &Path) -> Errors {
    let Some(profile) = profile else { return Vec::new() };
    let mut errors = Vec::new();
    let local_path = path.child("localhostProfile");
    let needed = "must be set when AppArmor type is Localhost";
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => errors.push(FieldError::required(&local_path, needed)),
        ("Localhost", Some(local)) => {
            if local.trim() != local {
                errors.push(FieldError::invalid(&local_path, local, "must not be padded with whitespace"));
            } else if local.is_empty() {
                errors.push(FieldError::required(&local_path, needed));
            }
            if local.len() > 4095 {
                errors.push(FieldError::too_long(&local_path, 4095));
            }
        }
        ("RuntimeDefault" | "Unconfined", local) => {
            if let Some(local) = local {
                let detail = "can only be set when AppArmor type is Localhost";
                errors.push(FieldError::invalid(&local_path, local, detail));
            }
        }
        ("", _) => {
            let detail = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(&path.child("type"), detail));
        }
        (other, _) => {
            let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(&path.child("type"), other, &supported));
        }
    }
    errors
}

pub(super) fn validate_container_security(container: &Container, host_users: bool, path: &Path) -> Errors {
    let Some(context) = &container.security_context else { return Vec::new() };
    let mut errors = Vec::new();
    validate_id(&mut errors, &path.child("runAsUser"), context.run_as_user);
    validate_id(&mut errors, &path.child("runAsGroup"), context.run_as_group);
    if let Some(mount) = &context.proc_mount {
        one_of(&mut errors, &path.child("procMount"), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(&path.child("procMount"), mount, detail));
        }
    }
    errors.extend(validate_seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile")));
    if context.allow_privilege_escalation == Some(false) {
        let value = || shown_context(context);
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, value(), detail));
        }
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_deref()).unwrap_or_default();
        if added.iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, value(), detail));
        }
    }
    errors.extend(windows::validate_options(context.windows_options.as_ref(), &path.child("windowsOptions")));
    errors.extend(validate_app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile")));
    errors
}
