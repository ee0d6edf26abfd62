//! Features that a node declares (`Node.status.declaredFeatures`), and which of them a pod or a change of it needs.
//!
//! Follows `staging/src/k8s.io/component-helpers/nodedeclaredfeatures` (`features/*`, one each). Differs:
//! `ExtendWebSocketsToKubelet`, which no pod ever needs, has no row.

use api::k8s::api::core::v1::{Container, PodSpec};

/// One feature.
struct Feature {
    name: &'static str,
    /// Whether a pod needs it to run.
    to_run: fn(&PodSpec) -> bool,
    /// Whether a running pod needs it to go from one spec to another.
    to_change: fn(&PodSpec, &PodSpec) -> bool,
}

/// By name.
const FEATURES: [Feature; 4] = [
    Feature {
        name: "InPlacePodLevelResourcesVerticalScaling",
        to_run: |_| false,
        to_change: |old, new| old.resources != new.resources,
    },
    Feature { name: "InPlacePodVerticalScalingInitContainers", to_run: |_| false, to_change: init_container_resized },
    Feature { name: "RestartAllContainersOnContainerExits", to_run: restarts_all, to_change: |_, _| false },
    Feature {
        name: "UserNamespacesHostNetworkSupport",
        to_run: |spec| spec.host_network == Some(true) && spec.host_users == Some(false),
        to_change: |_, _| false,
    },
];

fn init_container_resized(old: &PodSpec, new: &PodSpec) -> bool {
    let (old, new) = (old.init_containers.iter().flatten(), new.init_containers.iter().flatten());
    let sidecar = |c: &Container| c.restart_policy.as_deref() == Some("Always");
    old.zip(new).any(|(old, new)| !sidecar(old) && old.resources != new.resources)
}

fn restarts_all(spec: &PodSpec) -> bool {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.flat_map(|c| c.restart_policy_rules.iter().flatten()).any(|rule| rule.action == "RestartAllContainers")
}

/// What a node must declare to run the pod.
pub fn to_run(spec: &PodSpec) -> impl Iterator<Item = &'static str> {
    FEATURES.iter().filter(|f| (f.to_run)(spec)).map(|f| f.name)
}

/// What the pod's node must declare for a change of its spec.
pub fn to_change(old: &PodSpec, new: &PodSpec) -> impl Iterator<Item = &'static str> {
    FEATURES.iter().filter(|f| (f.to_change)(old, new)).map(|f| f.name)
}

/// Those of `needed` that are not declared.
pub fn missing(needed: impl Iterator<Item = &'static str>, declared: &[impl AsRef<str>]) -> Vec<&'static str> {
    needed.filter(|name| !declared.iter().any(|d| d.as_ref() == *name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> PodSpec {
        serde_json::from_str(json).expect("it is a pod's spec")
    }

    #[test]
    fn what_pods_need_to_run() {
        let check = |json: &str, want: &[&str]| assert_eq!(to_run(&spec(json)).collect::<Vec<_>>(), want, "{json}");
        check(r#"{"containers":[{"name":"a"}],"hostNetwork":true}"#, &[]);
        check(
            r#"{"containers":[{"name":"a"}],"hostNetwork":true,"hostUsers":false}"#,
            &["UserNamespacesHostNetworkSupport"],
        );
        check(
            r#"{"containers":[],"initContainers":[{"name":"a","restartPolicyRules":[{"action":"RestartAllContainers"}]}]}"#,
            &["RestartAllContainersOnContainerExits"],
        );
        check(r#"{"containers":[{"name":"a","restartPolicyRules":[{"action":"Restart"}]}]}"#, &[]);
    }

    #[test]
    fn what_changes_need() {
        let check = |old: &str, new: &str, want: &[&str]| {
            assert_eq!(to_change(&spec(old), &spec(new)).collect::<Vec<_>>(), want, "{new}");
        };
        let pod = r#"{"containers":[],"resources":{"limits":{"cpu":"1"}}}"#;
        check(pod, pod, &[]);
        check(pod, r#"{"containers":[]}"#, &["InPlacePodLevelResourcesVerticalScaling"]);
        let init = |policy: &str, cpu: &str| {
            format!(
                r#"{{"containers":[],"initContainers":[{{"name":"a","restartPolicy":"{policy}","resources":{{"limits":{{"cpu":"{cpu}"}}}}}}]}}"#
            )
        };
        check(&init("Never", "1"), &init("Never", "2"), &["InPlacePodVerticalScalingInitContainers"]);
        check(&init("Always", "1"), &init("Always", "2"), &[]);
    }

    #[test]
    fn what_is_declared_is_not_missing() {
        let needed = || ["a", "b"].into_iter();
        assert_eq!(missing(needed(), &["b"]), ["a"]);
        assert!(missing(needed(), &["c", "b", "a"]).is_empty());
    }
}
