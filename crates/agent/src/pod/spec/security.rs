//! Who a container runs as and what it may do (`pkg/securitycontext`, `kuberuntime/security_context*.go`).
//!
//! Differs: without a profile seccomp is `RuntimeDefault` (upstream: only with `--seccomp-default`).

use crate::engine::{AppArmor, SeLinux, Seccomp, User};
use crate::pod::view;
use api::k8s::api::core::v1::{AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SecurityContext};
use thiserror::Error;

/// A security context that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecurityError {
    /// `runAsUser: 0` with `runAsNonRoot`.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RootAsked {
        /// Described.
        pod: String,
        /// Its name.
        container: String,
    },
    /// The image's user is root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RootImage {
        /// Described.
        pod: String,
        /// Its name.
        container: String,
    },
    /// The image's user is a name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NamedUser {
        /// The name.
        user: String,
        /// Described.
        pod: String,
        /// Its name.
        container: String,
    },
    /// Not a capability.
    #[error("unknown capability \"{0}\"")]
    Capability(String),
    /// `Localhost` without a name.
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    SeccompName,
    /// `Localhost` without a name.
    #[error("missing localhost apparmor profile name")]
    AppArmorName,
}

/// The container's settings over the pod's (`DetermineEffectiveSecurityContext` of `pkg/securitycontext/util.go`); each as a whole, so
/// that the `seLinuxOptions` of a container hide all of the pod's.
pub fn effective(pod: &Pod, c: &Container) -> SecurityContext {
    let of_pod = pod_context(pod).cloned().unwrap_or_default();
    let mut out = c.security_context.clone().unwrap_or_default();
    out.run_as_user = out.run_as_user.or(of_pod.run_as_user);
    out.run_as_group = out.run_as_group.or(of_pod.run_as_group);
    out.run_as_non_root = out.run_as_non_root.or(of_pod.run_as_non_root);
    out.seccomp_profile = out.seccomp_profile.or(of_pod.seccomp_profile);
    out.app_armor_profile = out.app_armor_profile.or(of_pod.app_armor_profile);
    out.se_linux_options = out.se_linux_options.or(of_pod.se_linux_options);
    out
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    view::spec(pod).security_context.as_ref()
}

/// The bounding set, with `CAP_`, in the kernel's order.
pub fn capabilities(context: &SecurityContext) -> Result<Vec<String>, SecurityError> {
    if context.privileged == Some(true) {
        return Ok(runtime::caps::all());
    }
    let own = context.capabilities.as_ref();
    let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
    let (add, drop) = (list(own.and_then(|c| c.add.as_ref())), list(own.and_then(|c| c.drop.as_ref())));
    runtime::caps::select(&add, &drop).map_err(SecurityError::Capability)
}

/// The system call filter.
pub fn seccomp(context: &SecurityContext) -> Result<Seccomp, SecurityError> {
    if context.privileged == Some(true) {
        return Ok(Seccomp::Unconfined);
    }
    let Some(profile) = &context.seccomp_profile else { return Ok(Seccomp::RuntimeDefault) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = profile.localhost_profile.clone().filter(|n| !n.is_empty()).ok_or(SecurityError::SeccompName)?;
            Ok(Seccomp::Localhost(name))
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

/// The AppArmor profile (`getAppArmorProfile`).
pub fn app_armor(context: &SecurityContext) -> Result<Option<AppArmor>, SecurityError> {
    let Some(profile) = &context.app_armor_profile else { return Ok(None) };
    Ok(Some(match profile.type_.as_str() {
        "Localhost" => {
            let name = profile.localhost_profile.clone().filter(|n| !n.trim().is_empty());
            AppArmor::Profile(name.ok_or(SecurityError::AppArmorName)?)
        }
        "Unconfined" => AppArmor::Unconfined,
        _ => AppArmor::Default,
    }))
}

/// What is said of a SELinux label.
pub fn selinux(options: Option<&SELinuxOptions>) -> SeLinux {
    let part = |said: fn(&SELinuxOptions) -> &Option<String>| options.and_then(|o| said(o).clone()).unwrap_or_default();
    SeLinux { user: part(|o| &o.user), role: part(|o| &o.role), kind: part(|o| &o.type_), level: part(|o| &o.level) }
}

/// What the pod as a whole says of its SELinux label.
pub fn of_pod(pod: &Pod) -> SeLinux {
    selinux(pod_context(pod).and_then(|c| c.se_linux_options.as_ref()))
}

/// Whether a container of the pod is to be confined by AppArmor (`pkg/security/apparmor`, `isRequired`).
pub fn requires_app_armor(pod: &Pod) -> bool {
    let confines = |profile: &AppArmorProfile| profile.type_ != "Unconfined";
    let of_container = |c: &Container| c.security_context.as_ref()?.app_armor_profile.as_ref().map(confines);
    pod_context(pod).and_then(|c| c.app_armor_profile.as_ref()).is_some_and(confines)
        || view::all_containers(pod).iter().any(|(_, c)| of_container(c) == Some(true))
}

/// Who the container runs as. Names are for the engine to look up.
pub fn user(pod: &Pod, c: &Container, image_user: &str) -> Result<User, SecurityError> {
    let context = effective(pod, c);
    verify_non_root(pod, c, &context, image_user)?;
    let id = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let merge = pod_context(pod).and_then(|p| p.supplemental_groups_policy.as_deref()) != Some("Strict");
    Ok(User {
        // A user that the pod names does not take the image's group with it.
        name: if context.run_as_user.is_some() { String::new() } else { image_user.to_owned() },
        uid: id(context.run_as_user),
        gid: id(context.run_as_group),
        groups: supplementary(pod),
        merge_image_groups: merge,
    })
}

fn verify_non_root(pod: &Pod, c: &Container, context: &SecurityContext, image_user: &str) -> Result<(), SecurityError> {
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let (pod, container) = (view::describe(pod), c.name.clone());
    match context.run_as_user {
        Some(0) => return Err(SecurityError::RootAsked { pod, container }),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match number(user) {
        Some(0) => Err(SecurityError::RootImage { pod, container }),
        Some(_) => Ok(()),
        None if user.is_empty() => Err(SecurityError::RootImage { pod, container }),
        None => Err(SecurityError::NamedUser { user: user.to_owned(), pod, container }),
    }
}

/// `fsGroup` and `supplementalGroups` of the pod.
fn supplementary(pod: &Pod) -> Vec<u32> {
    let Some(context) = pod_context(pod) else { return Vec::new() };
    let all = context.fs_group.iter().chain(context.supplemental_groups.iter().flatten());
    all.filter_map(|g| u32::try_from(*g).ok()).collect()
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    fn check_user(pod_context: &str, container_context: &str, image: &str, want: &str) {
        let pod = pod(&format!(
            r#"{{"securityContext":{pod_context},"containers":[{{"name":"a","securityContext":{container_context}}}]}}"#
        ));
        let got = match user(&pod, &view::app_containers(&pod)[0], image) {
            Ok(u) => format!("{:?} {:?}:{:?} {:?} merge={}", u.name, u.uid, u.gid, u.groups, u.merge_image_groups),
            Err(e) => format!("error: {e}"),
        };
        assert_eq!(got, want, "{pod_context} {container_context} {image}");
    }

    #[test]
    fn users() {
        check_user("{}", "{}", "", r#""" None:None [] merge=true"#);
        check_user("{}", "{}", "web:root", r#""web:root" None:None [] merge=true"#);
        check_user(
            r#"{"runAsUser":100,"fsGroup":9,"supplementalGroups":[8,7]}"#,
            "{}",
            "web",
            r#""" Some(100):None [9, 8, 7] merge=true"#,
        );
        check_user(
            r#"{"runAsUser":100,"supplementalGroupsPolicy":"Strict"}"#,
            r#"{"runAsUser":2,"runAsGroup":3}"#,
            "web",
            r#""" Some(2):Some(3) [] merge=false"#,
        );
    }

    #[test]
    fn non_root_is_verified() {
        let describe = "(pod: \"web_default(1-2-3)\", container: a)";
        check_user(
            r#"{"runAsNonRoot":true}"#,
            "{}",
            "",
            &format!("error: container has runAsNonRoot and image will run as root {describe}"),
        );
        check_user(
            r#"{"runAsNonRoot":true}"#,
            "{}",
            "web",
            &format!(
                "error: container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {describe}"
            ),
        );
        check_user(
            r#"{"runAsNonRoot":true}"#,
            r#"{"runAsUser":0}"#,
            "5",
            &format!("error: container's runAsUser breaks non-root policy {describe}"),
        );
        check_user(r#"{"runAsNonRoot":true}"#, "{}", "5", r#""5" None:None [] merge=true"#);
    }

    #[test]
    fn selinux_options_are_the_containers_or_the_pods_as_a_whole() {
        let check = |container: &str, want: &str| {
            let of_pod = r#"{"seLinuxOptions":{"user":"u","level":"s0:c1"}}"#;
            let pod = pod(&format!(
                r#"{{"securityContext":{of_pod},"containers":[{{"name":"a","securityContext":{container}}}]}}"#
            ));
            let got = selinux(effective(&pod, &view::app_containers(&pod)[0]).se_linux_options.as_ref());
            assert_eq!(format!("{}:{}:{}:{}", got.user, got.role, got.kind, got.level), want, "{container}");
        };
        check("{}", "u:::s0:c1");
        check(r#"{"seLinuxOptions":{"type":"t"}}"#, "::t:");
    }

    fn check_capabilities(context: &str, want: &str) {
        let pod = pod(&format!(r#"{{"containers":[{{"name":"a","securityContext":{context}}}]}}"#));
        let context = effective(&pod, &view::app_containers(&pod)[0]);
        let got = capabilities(&context).map_or_else(|e| format!("error: {e}"), |c| c.join(" ").replace("CAP_", ""));
        assert_eq!(got, want);
    }

    #[test]
    fn capability_sets() {
        check_capabilities(r#"{"capabilities":{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}}"#, "NET_BIND_SERVICE");
        check_capabilities(
            r#"{"capabilities":{"drop":["CAP_NET_RAW","MKNOD"],"add":["SYS_TIME"]}}"#,
            "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SYS_TIME AUDIT_WRITE SETFCAP",
        );
        check_capabilities(r#"{"capabilities":{"add":["FLY"]}}"#, "error: unknown capability \"FLY\"");
    }
}
