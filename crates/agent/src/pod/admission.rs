//! [`admit`]: whether the node takes a pod that is bound to it. Pure.
//!
//! Follows `pkg/kubelet/lifecycle/predicate.go`, `sysctl/allowlist.go` and `kubelet.go` (rejectPod).

use super::allocation::Shortage;
use super::spec::resources::{self, Qos};
use super::spec::security;
use super::view;
use crate::eviction::Pressure;
use crate::static_pods;
use api::k8s::api::core::v1::{Node, Pod, Toleration};
use api::meta::MetaExt;
use machinery::declared_features;
use machinery::selector::{RequiredNodeAffinity, tolerates};
use std::collections::BTreeMap;

/// Why the node does not take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason`
    pub reason: String,
    /// Of the event; `status.message` has `Pod was rejected: ` before it.
    pub message: String,
}

impl Rejection {
    /// What the pod wants is there, but not near enough to each other (`TopologyAffinityError`).
    pub fn topology() -> Self {
        Rejection {
            reason: "TopologyAffinityError".into(),
            message: "Resources cannot be allocated with Topology locality".into(),
        }
    }

    /// No room could be made for a pod that the node needs.
    pub fn without_room(message: String) -> Self {
        Rejection { reason: "UnexpectedAdmissionError".into(), message }
    }

    /// A manager of the node's resources could not give what it should (`cm/admission/errors.go`).
    pub fn unexpected(why: String) -> Self {
        Rejection {
            reason: "UnexpectedAdmissionError".into(),
            message: format!("Allocate failed due to {why}, which is unexpected"),
        }
    }
}

impl From<Shortage> for Rejection {
    fn from(shortage: Shortage) -> Self {
        Rejection { reason: format!("OutOf{}", shortage.resource), message: shortage.to_string() }
    }
}

/// Sysctls that every pod may set (`SafeSysctlAllowlist`).
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Everything but what the node has left, which [`super::allocation::Ledger`] knows.
pub fn admit(pod: &Pod) -> Result<(), Rejection> {
    if view::spec(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Rejection {
            reason: "PodOSNotSupported".into(),
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        });
    }
    sysctls(pod)
}

/// Whether the pod wants this node, and tolerates that it runs nothing (`generalFilter`).
pub fn admit_on(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    let failed = |predicate: &str, why: &str| {
        Err(Rejection { reason: predicate.into(), message: format!("Predicate {predicate} failed: {why}") })
    };
    let context = view::spec(pod).security_context.as_ref();
    let features = node.status.as_ref().and_then(|s| s.features.as_ref());
    if context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict")
        && features.and_then(|f| f.supplemental_groups_policy) != Some(true)
    {
        return Err(Rejection {
            reason: "SupplementalGroupsPolicyNotSupported".into(),
            message: "SupplementalGroupsPolicy=Strict is not supported in this node".into(),
        });
    }
    let (none, wanted) = (BTreeMap::new(), RequiredNodeAffinity::of(view::spec(pod)));
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    if !wanted.is_everything() && !wanted.matches(node.name(), labels).unwrap_or(false) {
        return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let tolerations = || view::spec(pod).tolerations.iter().flatten();
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute");
    if !static_pods::is_static(pod) && taints.any(|taint| !tolerations().any(|t| tolerates(t, taint))) {
        return failed("TaintToleration", "node(s) had untolerated taint(s)");
    }
    Ok(())
}

/// Whether the node declares what the pod needs (`declaredFeaturesAdmitHandler`).
pub fn admit_declared(pod: &Pod, declared: &[&str]) -> Result<(), Rejection> {
    let missing = declared_features::missing(declared_features::to_run(view::spec(pod)), declared);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Rejection {
        reason: "PodFeatureUnsupported".into(),
        message: format!("Pod requires node features that are not available: {}", missing.join(", ")),
    })
}

/// Whether the node's kernel confines the pod as it wants (`NewAppArmorAdmitHandler`).
pub fn admit_confined(pod: &Pod, enabled: bool) -> Result<(), Rejection> {
    if enabled || !security::requires_app_armor(pod) {
        return Ok(());
    }
    Err(Rejection {
        reason: "AppArmor".into(),
        message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".into(),
    })
}

/// Whether the node needs the pod to work, or its user says so (`IsCriticalPod`).
pub fn is_critical(pod: &Pod) -> bool {
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    static_pods::is_static(pod)
        || static_pods::is_mirror(pod)
        || view::spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL)
}

/// Whether a node that has too little of something takes the pod (`managerImpl.Admit` of the eviction manager).
pub fn admit_under(pod: &Pod, pressure: Pressure) -> Result<(), Rejection> {
    const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";
    let conditions = pressure.conditions();
    let tolerates = |t: &Toleration| {
        let key = t.key.as_deref().unwrap_or_default();
        let effect = t.effect.as_deref().unwrap_or_default();
        let exists = t.operator.as_deref() == Some("Exists");
        let same = key == MEMORY_TAINT && (exists || t.value.as_deref().unwrap_or_default().is_empty());
        (same || (key.is_empty() && exists)) && matches!(effect, "" | "NoSchedule")
    };
    let only_memory = conditions == ["MemoryPressure"]
        && (resources::qos_class(pod) != Qos::BestEffort
            || view::spec(pod).tolerations.iter().flatten().any(tolerates));
    if conditions.is_empty() || only_memory || is_critical(pod) {
        return Ok(());
    }
    Err(Rejection {
        reason: crate::evictor::REASON.into(),
        message: format!("The node had condition: [{}]. ", conditions.join(" ")),
    })
}

fn sysctls(pod: &Pod) -> Result<(), Rejection> {
    let spec = view::spec(pod);
    for sysctl in spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        let name = super::spec::dotted(&sysctl.name);
        let forbidden = |why: String| Err(Rejection { reason: "SysctlForbidden".into(), message: why });
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return forbidden(format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        if name.starts_with("net.") && spec.host_network == Some(true) {
            return forbidden(format!("forbidden sysctl: {name:?} not allowed with host Net enabled"));
        }
        if name.starts_with("kernel.") && spec.host_ipc == Some(true) {
            return forbidden(format!("forbidden sysctl: {name:?} not allowed with host IPC enabled"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    fn check(spec: &str, want: &str) {
        let got = admit(&pod(spec)).err().map(|r| format!("{}: {}", r.reason, r.message)).unwrap_or_default();
        assert_eq!(got, want, "{spec}");
    }

    #[test]
    fn who_wants_another_node_is_not_taken() {
        let node: Node = crate::pod::fixture::object(
            r#"{"metadata":{"name":"n","labels":{"disk":"ssd"}},"spec":{"taints":[{"key":"k","effect":"NoExecute"},{"key":"soft","effect":"NoSchedule"}]}}"#,
        );
        let check = |spec: &str, want: &str| {
            let got = admit_on(&pod(spec), &node).err().map(|r| format!("{}: {}", r.reason, r.message));
            assert_eq!(got.unwrap_or_default(), want, "{spec}");
        };
        let tolerant = r#""tolerations":[{"key":"k","operator":"Exists"}]"#;
        check(&format!(r#"{{"nodeSelector":{{"disk":"ssd"}},{tolerant},"containers":[]}}"#), "");
        check(
            &format!(r#"{{"nodeSelector":{{"disk":"hdd"}},{tolerant},"containers":[]}}"#),
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
        check(
            &format!(r#"{{"securityContext":{{"supplementalGroupsPolicy":"Strict"}},{tolerant},"containers":[]}}"#),
            "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node",
        );
        check(
            r#"{"containers":[]}"#,
            "TaintToleration: Predicate TaintToleration failed: node(s) had untolerated taint(s)",
        );
    }

    #[test]
    fn who_needs_a_feature_goes_where_it_is_declared() {
        let check = |spec: &str, want: &str| {
            let got = admit_declared(&pod(spec), &crate::node::DECLARED_FEATURES).err();
            assert_eq!(got.map(|r| format!("{}: {}", r.reason, r.message)).unwrap_or_default(), want, "{spec}");
        };
        check(r#"{"containers":[{"name":"a","restartPolicyRules":[{"action":"RestartAllContainers"}]}]}"#, "");
        check(
            r#"{"hostNetwork":true,"hostUsers":false,"containers":[{"name":"a"}]}"#,
            "PodFeatureUnsupported: Pod requires node features that are not available: UserNamespacesHostNetworkSupport",
        );
    }

    #[test]
    fn who_wants_app_armor_needs_a_kernel_with_it() {
        let check = |spec: &str, enabled: bool, want: &str| {
            let got = admit_confined(&pod(spec), enabled).err().map(|r| r.reason).unwrap_or_default();
            assert_eq!(got, want, "{spec}");
        };
        let of_pod = r#"{"securityContext":{"appArmorProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"a"}]}"#;
        check(of_pod, false, "AppArmor");
        check(of_pod, true, "");
        check(
            r#"{"containers":[{"name":"a","securityContext":{"appArmorProfile":{"type":"Localhost","localhostProfile":"x"}}}]}"#,
            false,
            "AppArmor",
        );
        check(
            r#"{"containers":[{"name":"a","securityContext":{"appArmorProfile":{"type":"Unconfined"}}}]}"#,
            false,
            "",
        );
        check(r#"{"containers":[{"name":"a"}]}"#, false, "");
    }

    #[test]
    fn pressure_keeps_pods_away() {
        let check = |spec: &str, pressure: Pressure, want: &str| {
            let got = admit_under(&pod(spec), pressure).err().map(|r| r.message).unwrap_or_default();
            assert_eq!(got, want, "{spec}");
        };
        let memory = Pressure { memory: true, ..Pressure::default() };
        let disk = Pressure { disk: true, ..memory };
        let best_effort = r#"{"containers":[{"name":"a"}]}"#;
        let burstable = r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}"#;
        let critical = r#"{"priority":2000000000,"containers":[{"name":"a"}]}"#;
        let tolerant = r#"{"tolerations":[{"key":"node.kubernetes.io/memory-pressure","operator":"Exists"}],"containers":[{"name":"a"}]}"#;
        check(best_effort, Pressure::default(), "");
        check(best_effort, memory, "The node had condition: [MemoryPressure]. ");
        check(tolerant, memory, "");
        check(burstable, memory, "");
        check(burstable, disk, "The node had condition: [MemoryPressure DiskPressure]. ");
        check(critical, disk, "");
    }

    #[test]
    fn pods_that_the_node_does_not_take() {
        let sysctl = |name: &str, more: &str| {
            format!(
                r#"{{"securityContext":{{"sysctls":[{{"name":"{name}","value":"1"}}]}}{more},"containers":[{{"name":"a"}}]}}"#
            )
        };
        check(r#"{"containers":[{"name":"a"}]}"#, "");
        check(&sysctl("kernel.shm_rmid_forced", ""), "");
        check(&sysctl("net/ipv4/tcp_wmem", ""), "");
        check(&sysctl("kernel.msgmax", ""), "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        check(
            &sysctl("net.ipv4.tcp_rmem", r#","hostNetwork":true"#),
            "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host Net enabled",
        );
        check(
            r#"{"os":{"name":"windows"},"containers":[{"name":"a"}]}"#,
            "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
        );
    }
}
