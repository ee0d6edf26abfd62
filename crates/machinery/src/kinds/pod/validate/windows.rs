//! What a pod says of its operating system: options of Windows containers, and fields that only the other system knows
//! (`validateOS`, `validateLinux`, `validateWindows*` in `pkg/apis/core/validation/validation.go`).

use super::visit_containers;
use crate::field::{Errors, FieldError, Path};
use crate::validation::{invalid_each, is_dns1123_subdomain};
use api::k8s::api::core::v1::{PodSecurityContext, PodSpec, SecurityContext, WindowsSecurityContextOptions};
use regex::Regex;
use std::sync::LazyLock;

const MAX_CREDENTIAL_SPEC: usize = 64 * 1024;
const MAX_DOMAIN: usize = 256;
const MAX_USER: usize = 104;

/// Errors of the options of a container or of a pod as a whole.
pub(super) fn validate_options(options: Option<&WindowsSecurityContextOptions>, path: &Path) -> Errors {
    let Some(options) = options else { return Vec::new() };
    let mut errors = Vec::new();
    if let Some(name) = &options.gmsa_credential_spec_name {
        errors.extend(invalid_each(&path.child("gmsaCredentialSpecName"), name, is_dns1123_subdomain(name)));
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let detail = match spec.len() {
            0 => Some("gmsaCredentialSpec cannot be an empty string"),
            length if length > MAX_CREDENTIAL_SPEC => Some("gmsaCredentialSpec size must be under 64 KiB"),
            _ => None,
        };
        errors.extend(detail.map(|detail| FieldError::invalid(&path.child("gmsaCredentialSpec"), spec, detail)));
    }
    if let Some(user) = &options.run_as_user_name {
        let path = path.child("runAsUserName");
        errors.extend(wrong_with_user(user).into_iter().map(|detail| FieldError::invalid(&path, user, detail)));
    }
    errors
}

/// What is wrong with `USER` or `DOMAIN\USER`.
fn wrong_with_user(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.contains(|c: char| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => return vec!["runAsUserName cannot contain more than one backslash"],
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut wrong = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MAX_DOMAIN {
            wrong.push("runAsUserName's Domain length must be under 256 characters");
        }
        if !is_domain(domain) {
            wrong.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        wrong.push("runAsUserName's User cannot be empty");
    } else if user.len() > MAX_USER {
        wrong.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        wrong.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        wrong.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
    wrong
}

/// A NetBIOS name or a DNS name.
fn is_domain(domain: &str) -> bool {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
        let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
        let net_bios = r#"[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}"#;
        Regex::new(&format!(r"\A(?:{net_bios}|{label}(?:\.{label})*)\z")).expect("a constant pattern")
    });
    PATTERN.is_match(domain)
}

/// Containers that are processes of the host: all of a pod's or none, and only in the host's network.
pub(super) fn validate_host_process(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let of_pod = spec.security_context.as_ref().and_then(|c| c.windows_options.as_ref()?.host_process);
    let (mut all, mut of_host) = (0, 0);
    visit_containers(spec, path, |container, path| {
        all += 1;
        let own = container.security_context.as_ref().and_then(|c| c.windows_options.as_ref()?.host_process);
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let path = path().child("securityContext").child("windowsOptions").child("hostProcess");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
            errors.push(FieldError::invalid(&path, own, &detail));
        }
        of_host += usize::from(own.or(of_pod) == Some(true));
    });
    if of_host == 0 {
        return errors;
    }
    if of_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", detail));
    }
    if spec.host_network != Some(true) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(&path.child("hostNetwork"), false, detail));
    }
    errors
}

/// Errors of `spec.os`, and of what the system that it names does not know.
pub(super) fn validate_os(spec: &PodSpec, path: &Path) -> Errors {
    let at = path.child("os");
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        None => Vec::new(),
        Some("") => vec![FieldError::required(&at.child("name"), "")],
        Some("linux") => validate_linux(spec, path),
        Some("windows") => validate_windows(spec, path),
        Some(other) => vec![FieldError::not_supported(&at, other, &["linux", "windows"])],
    }
}

fn validate_linux(spec: &PodSpec, path: &Path) -> Errors {
    let detail = "windows options cannot be set for a linux pod";
    let at = |path: &Path| path.child("securityContext").child("windowsOptions");
    let mut errors = Vec::new();
    if spec.security_context.as_ref().is_some_and(|c| c.windows_options.is_some()) {
        errors.push(FieldError::forbidden(&at(path), detail));
    }
    visit_containers(spec, path, |container, path| {
        if container.security_context.as_ref().is_some_and(|c| c.windows_options.is_some()) {
            errors.push(FieldError::forbidden(&at(&path()), detail));
        }
    });
    errors
}

fn validate_windows(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut forbid = |path: &Path, fields: &[(&str, bool)]| {
        let given = fields.iter().filter(|(_, given)| *given);
        errors.extend(
            given.map(|(field, _)| FieldError::forbidden(&path.child(field), "cannot be set for a windows pod")),
        );
    };
    // Upstream keeps the host's namespaces in the security context, so without one it does not look at them either; a
    // conversion makes one whenever a pod has any of these.
    let none = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&none);
    let at = path.child("securityContext");
    forbid(
        &at,
        &[
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
        ],
    );
    forbid(
        path,
        &[
            ("hostUsers", spec.host_users.is_some()),
            ("hostPID", spec.host_pid == Some(true)),
            ("hostIPC", spec.host_ipc == Some(true)),
        ],
    );
    forbid(
        &at,
        &[
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("fsGroup", context.fs_group.is_some()),
            ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
            ("sysctls", context.sysctls.as_ref().is_some_and(|s| !s.is_empty())),
        ],
    );
    forbid(path, &[("shareProcessNamespace", spec.share_process_namespace.is_some())]);
    forbid(
        &at,
        &[
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
            ("supplementalGroups", context.supplemental_groups.is_some()),
            ("supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
            ("seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
        ],
    );
    visit_containers(spec, path, |container, path| {
        if let Some(context) = &container.security_context {
            forbid(&path().child("securityContext"), &of_linux(context));
        }
    });
    errors
}

/// The fields of a container's context that only Linux knows, and whether they are set.
fn of_linux(context: &SecurityContext) -> [(&'static str, bool); 10] {
    [
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("seccompProfile", context.seccomp_profile.is_some()),
        ("capabilities", context.capabilities.is_some()),
        ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
        ("privileged", context.privileged.is_some()),
        ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
        ("procMount", context.proc_mount.is_some()),
        ("runAsUser", context.run_as_user.is_some()),
        ("runAsGroup", context.run_as_group.is_some()),
    ]
}

#[cfg(test)]
mod tests {
    use super::wrong_with_user;
    use crate::kinds::testing::check_create;
    use expect_test::expect;

    #[test]
    fn users_have_a_domain_at_most() {
        for good in ["ContainerUser", r"NT AUTHORITY\NETWORK SERVICE", r"a.example.com\joe"] {
            assert!(wrong_with_user(good).is_empty(), "{good}");
        }
        for bad in ["", "a\tb", r"a\b\c", r".a\b", r"a\", "..", "a@b"] {
            assert_eq!(wrong_with_user(bad).len(), 1, "{bad}: {:?}", wrong_with_user(bad));
        }
    }

    #[test]
    fn what_only_the_other_system_knows() {
        let pod = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: b}
spec:
  os: {name: windows}
  hostPID: true
  securityContext: {fsGroup: 1, windowsOptions: {hostProcess: true, runAsUserName: a@b}}
  containers: [{name: a, image: a, securityContext: {privileged: true}}]
";
        check_create(
            pod,
            expect![[r#"
            spec.securityContext.windowsOptions.runAsUserName: Invalid value: "a@b": runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]
            spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers
            spec.hostPID: Forbidden: cannot be set for a windows pod
            spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod
            spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod"#]],
        );
        check_create(
            &pod.replace("name: windows", "name: linux"),
            expect![[r#"
            spec.securityContext.windowsOptions.runAsUserName: Invalid value: "a@b": runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]
            spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers
            spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"#]],
        );
    }
}
