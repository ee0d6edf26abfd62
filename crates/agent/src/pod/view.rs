//! Reads of a Pod that every file here needs, with upstream's defaults where an optional field is absent.
//!
//! Invariant: no decision is taken here that depends on what the node has seen.

use api::k8s::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec, Probe, Volume};
use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// `spec.terminationGracePeriodSeconds` if absent (`pkg/apis/core/v1/defaults.go`).
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The action of a restart rule that concerns the whole pod.
const RESTART_ALL: &str = "RestartAllContainers";

/// What part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one.
    Init,
    /// A restartable init container.
    Sidecar,
    /// A regular container.
    App,
    /// Added for debugging; never restarted.
    Ephemeral,
}

/// The pod's spec; an empty one if it is absent, which the API server does not let through.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

/// Init containers, sidecars among them.
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Regular containers.
pub fn app_containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// The containers of the spec in the order in which they begin.
pub fn containers_in_order(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(app_containers(pod))
}

/// Whether a container ends before others begin, and leaves what it has to them.
pub fn hands_on(pod: &Pod, container: &Container) -> bool {
    init_containers(pod).iter().any(|c| c.name == container.name && !is_sidecar(c))
}

/// The volume called `name`.
pub fn volume<'a>(pod: &'a Pod, name: &str) -> Option<&'a Volume> {
    spec(pod).volumes.iter().flatten().find(|v| v.name == name)
}

/// Ephemeral containers.
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// Whether an init container keeps running beside the app (`podutil.IsRestartableInitContainer`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The role of an init container.
pub fn init_role(container: &Container) -> Role {
    if is_sidecar(container) { Role::Sidecar } else { Role::Init }
}

/// Every container with its role: init, app, ephemeral, each in the order of the spec.
pub fn all_containers(pod: &Pod) -> Vec<(Role, Cow<'_, Container>)> {
    let init = init_containers(pod).iter().map(|c| (init_role(c), Cow::Borrowed(c)));
    let app = app_containers(pod).iter().map(|c| (Role::App, Cow::Borrowed(c)));
    let ephemeral = ephemeral_containers(pod).iter().map(|c| (Role::Ephemeral, Cow::Owned(ephemeral_as_container(c))));
    init.chain(app).chain(ephemeral).collect()
}

/// The container called `name` and its role.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, Cow<'a, Container>)> {
    if let Some(c) = init_containers(pod).iter().find(|c| c.name == name) {
        return Some((init_role(c), Cow::Borrowed(c)));
    }
    if let Some(c) = app_containers(pod).iter().find(|c| c.name == name) {
        return Some((Role::App, Cow::Borrowed(c)));
    }
    let ephemeral = ephemeral_containers(pod).iter().find(|c| c.name == name)?;
    Some((Role::Ephemeral, Cow::Owned(ephemeral_as_container(ephemeral))))
}

/// `spec.…{name}` as events about a container carry it (`kubecontainer.GenerateContainerRef`).
pub fn field_path(role: Role, name: &str) -> String {
    let list = match role {
        Role::Init | Role::Sidecar => "initContainers",
        Role::App => "containers",
        Role::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{name}}}")
}

/// An ephemeral container has all the fields of a regular one.
fn ephemeral_as_container(c: &EphemeralContainer) -> Container {
    Container {
        args: c.args.clone(),
        command: c.command.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        lifecycle: c.lifecycle.clone(),
        liveness_probe: c.liveness_probe.clone(),
        name: c.name.clone(),
        ports: c.ports.clone(),
        readiness_probe: c.readiness_probe.clone(),
        resize_policy: c.resize_policy.clone(),
        resources: c.resources.clone(),
        restart_policy: c.restart_policy.clone(),
        restart_policy_rules: c.restart_policy_rules.clone(),
        security_context: c.security_context.clone(),
        startup_probe: c.startup_probe.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
    }
}

/// `Always`, `OnFailure` or `Never`.
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether the pod uses the node's network.
pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// How long a running container may take to stop (`setTerminationGracePeriod`).
pub fn grace_period(pod: &Pod, probe: Option<&Probe>) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or_else(|| probe.and_then(|p| p.termination_grace_period_seconds))
        .or(spec(pod).termination_grace_period_seconds);
    seconds.map_or(DEFAULT_GRACE, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)))
}

/// Whether a container that exited with `code` is started again (`podutil.ContainerShouldRestart`).
pub fn restarts_after(pod: &Pod, container: &Container, code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        let action = matching_rule(container, code).map(|r| r.action.as_str());
        if matches!(action, Some("Restart" | RESTART_ALL)) {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match restart_policy(pod) {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

/// Whether an exit of `container` with `code` starts all containers of its pod again.
pub fn restarts_all(container: &Container, code: i32) -> bool {
    matching_rule(container, code).is_some_and(|r| r.action == RESTART_ALL)
}

/// Whether there is a container that can have all containers started again (`podutil.AllContainersCouldRestart`).
pub fn could_restart_all(pod: &Pod) -> bool {
    let mut rules =
        init_containers(pod).iter().chain(app_containers(pod)).flat_map(|c| &c.restart_policy_rules).flatten();
    rules.any(|r| r.action == RESTART_ALL)
}

/// Whether a container that is killed while running is started again: rules need an exit code, so only policies count.
pub fn restarts_after_kill(pod: &Pod, container: &Container) -> bool {
    container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) != "Never"
}

/// The first restart rule that fits (`podutil.FindMatchingContainerRestartRule`).
fn matching_rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.as_deref().unwrap_or_default().iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|on| {
            let listed = on.values.as_deref().unwrap_or_default().contains(&code);
            match on.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Changes of these fields restart a running container (`kubecontainer.HashContainer`): name and image.
pub fn definition(container: &Container) -> String {
    format!("{}@{}", container.name, container.image.as_deref().unwrap_or_default())
}

/// `name_namespace(uid)`, as upstream writes pods into messages (`util/format/pod.go`).
pub fn describe(pod: &Pod) -> String {
    use api::meta::MetaExt;
    format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid())
}

/// A positive number of seconds, or the default.
pub fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
}
