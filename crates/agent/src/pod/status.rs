//! [`status`]: what the node has seen of a pod becomes its `status`.
//!
//! Follows `pkg/kubelet/kubelet_pods.go` (generateAPIPodStatus, convertToAPIContainerStatuses, getPhase),
//! `status/generate.go` (conditions) and `status/status_manager.go` (mergePodStatus, TerminatePod, normalizeStatus).
//!
//! Always holds: a terminal phase is not reported while anything of the pod may still run, and never taken back;
//! conditions of others are kept; the same `Seen` and object give the same status, so writing only what differs
//! writes nothing for nothing.

use super::preemption;
use super::seen::{ContainerSeen, Ending, Exit, RESTARTING_ALL, RESTARTING_ALL_MESSAGE, Run, Sandbox, Seen};
use super::spec::resources;
use super::view::{self, Role};
use api::Time;
use api::k8s::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceHealth, ResourceStatus, VolumeMountStatus,
};
use jiff::Timestamp;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// All termination messages of a pod together (`MaxPodTerminationMessageLogLength`).
const MESSAGES_MAX_BYTES: usize = 12 * 1024;

const UNKNOWN: &str = "ContainerStatusUnknown";
const NOT_LOCATED: &str = "The container could not be located when the pod was terminated";
const NOT_LOCATED_RUNNING: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";

/// Conditions that only the kubelet writes (`PodConditionByKubelet`).
const OURS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
    "PodResizeInProgress",
    "PodResizePending",
];

/// The pod's status as it should stand in the API. `containerID`s are `<runtime>://<id>`.
pub fn status(pod: &Pod, seen: &Seen, runtime: &str, host_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    if seen.ending == Some(Ending::AlreadyTerminal) {
        return old;
    }
    let finished = seen.ending.is_some() && !seen.may_run();
    let mut new = PodStatus {
        container_statuses: statuses(pod, seen, runtime, &old, Role::App, finished),
        init_container_statuses: statuses(pod, seen, runtime, &old, Role::Init, finished),
        ephemeral_container_statuses: statuses(pod, seen, runtime, &old, Role::Ephemeral, finished),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| resources::qos_class(pod).as_str().to_owned())),
        observed_generation: observed_generation(pod, seen, &old),
        start_time: old.start_time.clone().or_else(|| Some(time(seen.first_seen.unwrap_or(now)))),
        // Not ours.
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        node_allocatable_resource_claim_statuses: old.node_allocatable_resource_claim_statuses.clone(),
        resize: old.resize.clone(),
        ..PodStatus::default()
    };
    // `convertToAPIPodLevelResourcesStatus`
    let granted = seen.allocated.as_ref().map_or(Cow::Borrowed(pod), |a| a.apply(pod));
    let whole = resources::whole(&granted);
    new.allocated_resources = whole.requests.clone();
    let running = old.phase.as_deref() == Some("Running");
    new.resources = Some(match seen.actuated.as_ref().filter(|a| running && seen.allocated.as_ref() != Some(*a)) {
        Some(actuated) => {
            let made_for = actuated.apply(pod);
            resources::of_cgroup(&made_for, resources::whole(&made_for))
        }
        None if running => resources::of_cgroup(&granted, whole),
        None => whole,
    });
    let wanted = wanted_phase(pod, seen, &old, &new, finished);
    new.conditions = Some(conditions(pod, seen, &old, &new, wanted, now));
    let meanwhile = phase(pod, seen, &new, finished);
    set_phase(&mut new, &old, seen, wanted, if finished { wanted } else { meanwhile });
    set_addresses(pod, seen, &old, &mut new, host_ips);
    new
}

/// Resources that the node has not been asked for yet have not been observed: whoever waits for a resize looks at this
/// first, and only then for the conditions of one that goes on.
fn observed_generation(pod: &Pod, seen: &Seen, old: &PodStatus) -> Option<i64> {
    if seen.resize.asking { old.observed_generation } else { pod.metadata.generation }
}

// === containers ===

fn statuses(
    pod: &Pod,
    seen: &Seen,
    runtime: &str,
    old: &PodStatus,
    list: Role,
    finished: bool,
) -> Option<Vec<ContainerStatus>> {
    let (old, is_init) = match list {
        Role::App => (&old.container_statuses, false),
        Role::Init | Role::Sidecar => (&old.init_container_statuses, true),
        Role::Ephemeral => (&old.ephemeral_container_statuses, false),
    };
    let of_list = |role: Role| role == list || (is_init && role == Role::Sidecar);
    let find_old = |name: &str| old.iter().flatten().find(|s| s.name == name);
    let mut out: Vec<ContainerStatus> = view::all_containers(pod)
        .iter()
        .filter(|(role, _)| of_list(*role))
        .map(|(role, c)| container_status(pod, seen, runtime, c, *role, find_old(&c.name)))
        .collect();
    if finished && (list == Role::App || is_init) {
        terminate(pod, seen, &mut out, is_init);
    }
    let count = view::all_containers(pod).len().max(1);
    out.iter_mut().for_each(|s| shorten(s, MESSAGES_MAX_BYTES / count));
    if !is_init {
        out.sort_by(|a, b| a.name.cmp(&b.name));
    }
    (!out.is_empty()).then_some(out)
}

fn container_status(
    pod: &Pod,
    seen: &Seen,
    runtime: &str,
    c: &Container,
    role: Role,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let nothing = ContainerSeen::default();
    let s = seen.container(&c.name).unwrap_or(&nothing);
    let mut out = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        restart_count: i32::try_from(s.restarts).unwrap_or(i32::MAX),
        last_state: s.last.as_ref().map(|exit| terminated(exit, runtime)),
        volume_mounts: volume_mounts(c),
        ..ContainerStatus::default()
    };
    match &s.run {
        Run::Running(run) => {
            out.image = run.image.clone();
            out.image_id = run.image_id.clone();
            out.container_id = Some(format!("{runtime}://{}", run.id));
            out.user = run.user.clone();
            let running = ContainerStateRunning { started_at: Some(time(run.started_at)) };
            out.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
        }
        Run::Exited(exit) => {
            if !exit.id.is_empty() {
                out.image = exit.image.clone();
                out.image_id = exit.image_id.clone();
                out.container_id = Some(format!("{runtime}://{}", exit.id));
                out.user = exit.user.clone();
            }
            out.state = Some(terminated(exit, runtime));
        }
        Run::None => never_ran(pod, &mut out, s, old),
    }
    if !matches!(s.run, Run::None) {
        let granted = seen.allocated.as_ref().and_then(|a| a.containers.get(&c.name));
        let granted = granted.cloned().or_else(|| c.resources.clone()).unwrap_or_default();
        out.allocated_resources = granted.requests.clone();
        // What its cgroup was made for; what does not run will be made for what is granted.
        let actual = s.running().map(|r| r.resources.clone()).filter(|_| role != Role::Ephemeral);
        out.resources = Some(actual.unwrap_or(granted));
    }
    if role == Role::App {
        let devices = seen.devices.get(&c.name).map(device_status).into_iter().flatten();
        let all: Vec<ResourceStatus> =
            devices.chain(seen.dynamic.get(&c.name).into_iter().flatten().cloned()).collect();
        out.allocated_resources_status = (!all.is_empty()).then_some(all);
    }
    explain_waiting(pod, &mut out, s, c, role);
    set_readiness(&mut out, s, c, role);
    out
}

/// `UpdateAllocatedResourcesStatus` of the device manager.
fn device_status(resources: &BTreeMap<String, BTreeMap<String, bool>>) -> Vec<ResourceStatus> {
    let health = |(id, well): (&String, &bool)| ResourceHealth {
        resource_id: id.clone(),
        message: None,
        health: Some(if *well { "Healthy" } else { "Unhealthy" }.to_owned()),
    };
    let resource = |(name, devices): (&String, &BTreeMap<String, bool>)| ResourceStatus {
        name: name.clone(),
        resources: Some(devices.iter().map(health).collect()),
    };
    resources.iter().map(resource).collect()
}

/// No run is known: what the API knew, or a default reason to wait.
fn never_ran(pod: &Pod, out: &mut ContainerStatus, s: &ContainerSeen, old: Option<&ContainerStatus>) {
    if s.last.as_ref().is_some_and(|l| l.reason == RESTARTING_ALL) {
        out.restart_count += 1;
        out.state = Some(waiting(RESTARTING_ALL, RESTARTING_ALL_MESSAGE));
        return;
    }
    let initializing = !view::init_containers(pod).is_empty();
    let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
    if let Some(old) = old.filter(|_| s.last.is_none()) {
        let was = old.state.clone().unwrap_or_default();
        if was.terminated.is_some() {
            *out = old.clone();
            return;
        }
        out.restart_count = old.restart_count;
        out.last_state = old.last_state.clone();
        let last_known = out.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
        if was.running.is_some() && !last_known {
            out.last_state = Some(lost(NOT_LOCATED_RUNNING));
            out.restart_count += i32::from(pod.metadata.deletion_timestamp.is_none());
        }
    }
    out.state = Some(waiting(reason, ""));
}

/// A container that will be started again waits, and the reason says for what.
fn explain_waiting(pod: &Pod, out: &mut ContainerStatus, s: &ContainerSeen, c: &Container, role: Role) {
    let Some(why) = &s.waiting else { return };
    let will_start = pod.metadata.deletion_timestamp.is_none()
        && match &s.run {
            Run::None => true,
            Run::Running(_) => false,
            Run::Exited(exit) if role == Role::Init && exit.code == 0 => false,
            Run::Exited(_) if role == Role::Ephemeral => false,
            Run::Exited(exit) => exit.restart || view::restarts_after(pod, c, exit.code),
        };
    if !will_start {
        return;
    }
    if let Some(state) = out.state.take().filter(|s| s.terminated.is_some()) {
        out.last_state = Some(state);
    }
    out.state = Some(waiting(&why.reason, &why.message));
}

/// `prober_manager.go`, UpdatePodStatus.
fn set_readiness(out: &mut ContainerStatus, s: &ContainerSeen, c: &Container, role: Role) {
    if role == Role::Ephemeral {
        return;
    }
    let started = s.is_started(c.startup_probe.is_some());
    out.started = Some(started);
    out.ready = match role {
        Role::Init => {
            let ended = out.state.as_ref().and_then(|s| s.terminated.as_ref());
            ended.is_some_and(|t| t.exit_code == 0)
        }
        _ => started && (c.readiness_probe.is_none() || s.probes.readiness.result == Some(true)),
    };
}

fn volume_mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = c.volume_mounts.iter().flatten().map(volume_mount).collect();
    (!mounts.is_empty()).then_some(mounts)
}

fn volume_mount(mount: &api::k8s::api::core::v1::VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only == Some(true);
    let recursive = match mount.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        _ => "Disabled",
    };
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| recursive.to_owned()),
        volume_status: None,
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let text = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
    let waiting = ContainerStateWaiting { reason: text(reason), message: text(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(exit: &Exit, runtime: &str) -> ContainerState {
    let ended = ContainerStateTerminated {
        container_id: Some(format!("{runtime}://{}", exit.id)).filter(|_| !exit.id.is_empty()),
        exit_code: exit.code,
        reason: Some(exit.reason.clone()).filter(|r| !r.is_empty()),
        message: Some(exit.message.clone()).filter(|m| !m.is_empty()),
        started_at: exit.started_at.map(time),
        finished_at: exit.finished_at.map(time),
        signal: None,
    };
    ContainerState { terminated: Some(ended), ..ContainerState::default() }
}

fn lost(message: &str) -> ContainerState {
    let ended = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(UNKNOWN.into()),
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(ended), ..ContainerState::default() }
}

/// A pod that is over has no waiting containers (`TerminatePod`).
fn terminate(pod: &Pod, seen: &Seen, statuses: &mut [ContainerStatus], is_init: bool) {
    let waits = |s: &ContainerStatus| s.state.as_ref().is_none_or(|s| s.terminated.is_none());
    let begun = |s: &ContainerStatus| {
        s.state.as_ref().is_some_and(|st| st.waiting.is_none())
            || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some())
    };
    let end = if is_init {
        // All but the tail that never began; at least the first.
        statuses.iter().rposition(begun).map_or(1.min(statuses.len()), |i| i + 1)
    } else if is_initialized(pod, seen) {
        statuses.len()
    } else {
        0
    };
    for status in statuses[..end].iter_mut().filter(|s| waits(s)) {
        status.state = Some(lost(NOT_LOCATED));
        status.ready = false;
    }
}

/// Whether an app container was ever due (`hasPodInitialized`).
fn is_initialized(pod: &Pod, seen: &Seen) -> bool {
    let ran = |name: &str| seen.container(name).is_some_and(|s| !matches!(s.run, Run::None) || s.last.is_some());
    let Some(last) = view::init_containers(pod).last() else { return true };
    if view::app_containers(pod).iter().any(|c| ran(&c.name)) {
        return true;
    }
    seen.container(&last.name).is_some_and(|s| match (&s.run, view::is_sidecar(last)) {
        (_, true) => s.is_started(last.startup_probe.is_some()),
        (Run::Exited(exit), false) => exit.code == 0,
        _ => false,
    })
}

/// Messages share a bound; cut at a character.
fn shorten(status: &mut ContainerStatus, max: usize) {
    for state in [&mut status.state, &mut status.last_state].into_iter().flatten() {
        if let Some(message) = state.terminated.as_mut().and_then(|t| t.message.as_mut())
            && message.len() > max
        {
            let cut = (0..=max).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(cut);
        }
    }
}

// === phase ===

/// Phases (`status.phase`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have been started.
    Pending,
    /// At least one runs or will run again.
    Running,
    /// All ended well and stay so.
    Succeeded,
    /// All ended, one of them badly.
    Failed,
}

impl Phase {
    /// As it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }

    fn parse(text: Option<&str>) -> Phase {
        match text {
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Pending,
        }
    }
}

fn wanted_phase(pod: &Pod, seen: &Seen, old: &PodStatus, new: &PodStatus, finished: bool) -> Phase {
    let before = Phase::parse(old.phase.as_deref());
    if before.is_terminal() {
        return before;
    }
    if matches!(seen.ending, Some(Ending::Failed { .. })) {
        return Phase::Failed;
    }
    let phase = phase(pod, seen, new, finished);
    if finished && !phase.is_terminal() { Phase::Failed } else { phase }
}

/// `getPhase`.
fn phase(pod: &Pod, seen: &Seen, status: &PodStatus, terminal: bool) -> Phase {
    let restarts = |c: &Container, ended: &ContainerStateTerminated| {
        let with_all = seen.restarting_all || ended.reason.as_deref() == Some(RESTARTING_ALL);
        with_all || view::restarts_after(pod, c, ended.exit_code)
    };
    let init = InitCount::of(pod, status, &restarts);
    if init.failed_for_good {
        return Phase::Failed;
    }
    let app_begun =
        view::app_containers(pod).iter().any(|c| seen.container(&c.name).is_some_and(|s| !matches!(s.run, Run::None)));
    let app = AppCount::of(pod, status, &restarts);
    if init.pending_plain > 0 || (init.pending_sidecars > 0 && !app_begun) || app.waiting + init.waiting > 0 {
        return Phase::Pending;
    }
    if app.unknown + init.unknown > 0 {
        return Phase::Pending;
    }
    if app.running + init.running > 0 {
        return Phase::Running;
    }
    if app.stopped == 0 {
        return Phase::Pending;
    }
    match (terminal || app.stopped == app.stopped_for_good, app.stopped == app.succeeded) {
        (false, _) => Phase::Running,
        (true, true) => Phase::Succeeded,
        (true, false) => Phase::Failed,
    }
}

/// Whether a container that ended so is started again.
type Restarts<'a> = &'a dyn Fn(&Container, &ContainerStateTerminated) -> bool;

#[derive(Default)]
struct InitCount {
    pending_plain: u32,
    pending_sidecars: u32,
    failed_for_good: bool,
    running: u32,
    waiting: u32,
    unknown: u32,
}

impl InitCount {
    fn of(pod: &Pod, status: &PodStatus, restarts: Restarts<'_>) -> Self {
        let mut count = InitCount::default();
        for c in view::init_containers(pod) {
            let found = status.init_container_statuses.iter().flatten().find(|s| s.name == c.name);
            if view::is_sidecar(c) { count.sidecar(found) } else { count.plain(c, found, restarts) }
        }
        count
    }

    fn plain(&mut self, c: &Container, found: Option<&ContainerStatus>, restarts: Restarts<'_>) {
        let state = found.and_then(|s| s.state.as_ref());
        let ended = state.and_then(|s| s.terminated.as_ref());
        let waits = state.is_some_and(|s| s.waiting.is_some());
        let before = found.and_then(|s| s.last_state.as_ref()).and_then(|l| l.terminated.as_ref()).filter(|_| waits);
        match ended.or(before) {
            Some(t) if t.exit_code != 0 => self.failed_for_good |= !restarts(c, t),
            Some(_) => {}
            None => self.pending_plain += 1,
        }
    }

    fn sidecar(&mut self, found: Option<&ContainerStatus>) {
        let Some(status) = found else {
            self.unknown += 1;
            return;
        };
        let state = status.state.clone().unwrap_or_default();
        let before = status.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
        if state.running.is_some() {
            self.pending_sidecars += u32::from(status.started != Some(true));
            self.running += 1;
        } else if state.waiting.is_some() && !before {
            self.pending_sidecars += 1;
            self.waiting += 1;
        }
    }
}

#[derive(Default)]
struct AppCount {
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    stopped_for_good: u32,
    succeeded: u32,
}

impl AppCount {
    fn of(pod: &Pod, status: &PodStatus, restarts: Restarts<'_>) -> Self {
        let mut count = AppCount::default();
        for c in view::app_containers(pod) {
            let found = status.container_statuses.iter().flatten().find(|s| s.name == c.name);
            let state = found.and_then(|s| s.state.as_ref());
            let before = found.and_then(|s| s.last_state.as_ref()).and_then(|l| l.terminated.as_ref());
            match state {
                Some(ContainerState { running: Some(_), .. }) => count.running += 1,
                Some(ContainerState { terminated: Some(t), .. }) => {
                    count.stopped += 1;
                    count.stopped_for_good += u32::from(!restarts(c, t));
                    count.succeeded += u32::from(t.exit_code == 0);
                }
                Some(ContainerState { waiting: Some(_), .. }) => match before {
                    Some(t) => {
                        count.stopped += 1;
                        count.stopped_for_good += u32::from(!restarts(c, t));
                    }
                    None => count.waiting += 1,
                },
                _ => count.unknown += 1,
            }
        }
        count
    }
}

/// A terminal phase waits until nothing can run any more (`mergePodStatus`).
fn set_phase(new: &mut PodStatus, old: &PodStatus, seen: &Seen, wanted: Phase, meanwhile: Phase) {
    let before = Phase::parse(old.phase.as_deref());
    let finished = meanwhile == wanted && !seen.may_run();
    let phase = match (wanted.is_terminal() && !before.is_terminal() && !finished, meanwhile.is_terminal()) {
        (false, _) => wanted,
        (true, true) => before,
        (true, false) => meanwhile,
    };
    new.phase = Some(phase.as_str().to_owned());
    if phase == before {
        new.reason = old.reason.clone();
        new.message = old.message.clone();
    } else if let (Phase::Failed, Some(Ending::Failed { reason, message })) = (phase, &seen.ending) {
        new.reason = Some(reason.clone());
        new.message = Some(message.clone());
    }
}

// === conditions ===

fn conditions(
    pod: &Pod,
    seen: &Seen,
    old: &PodStatus,
    new: &PodStatus,
    phase: Phase,
    now: Timestamp,
) -> Vec<PodCondition> {
    let before = old.conditions.as_deref().unwrap_or_default();
    let mut out: Vec<PodCondition> = before.iter().filter(|c| !OURS.contains(&c.type_.as_str())).cloned().collect();
    out.extend(disruption(pod, seen, &out, now));
    let containers = containers_ready(pod, new, phase);
    let verdicts = [
        ("PodReadyToStartContainers", Verdict::of(matches!(seen.sandbox, Sandbox::Ready { .. }))),
        ("Initialized", initialized(pod, new, phase, is_true(before, "Initialized"))),
        ("Ready", if containers.ok { gates_ready(pod, &out) } else { containers.clone() }),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::of(true)),
    ];
    out.extend(verdicts.into_iter().map(|(type_, verdict)| {
        let status = if verdict.ok { "True" } else { "False" };
        let same = before.iter().find(|c| c.type_ == type_ && c.status == status);
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_probe_time: None,
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(now))),
            observed_generation: new.observed_generation,
        }
    }));
    out.extend(restarting_all(pod, seen, before, phase, now));
    out.extend(resize_conditions(seen, before, now));
    out
}

fn is_true(conditions: &[PodCondition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// `GenerateAllContainersRestartingCondition`, for pods that have a rule for it.
fn restarting_all(
    pod: &Pod,
    seen: &Seen,
    before: &[PodCondition],
    phase: Phase,
    now: Timestamp,
) -> Option<PodCondition> {
    const TYPE: &str = "AllContainersRestarting";
    if !view::could_restart_all(pod) {
        return None;
    }
    let (status, reason, message) = match phase {
        Phase::Succeeded => ("False", Some("PodCompleted"), None),
        Phase::Failed => ("False", Some("PodFailed"), None),
        _ if seen.restarting_all => {
            ("True", Some("RestartAllContainersStarted"), Some("container exited with restart policy rule"))
        }
        _ => ("False", None, None),
    };
    let same = before.iter().find(|c| c.type_ == TYPE && c.status == status);
    Some(PodCondition {
        type_: TYPE.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.map(str::to_owned),
        last_probe_time: None,
        last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(now))),
        observed_generation: None,
    })
}

/// Whoever counts failures of a pod's own is told that the node ended it.
fn disruption(pod: &Pod, seen: &Seen, conditions: &[PodCondition], now: Timestamp) -> Option<PodCondition> {
    const TYPE: &str = "DisruptionTarget";
    let Some(Ending::Failed { reason, message }) = &seen.ending else { return None };
    let known = conditions.iter().any(|c| c.type_ == TYPE);
    (seen.disrupted && !known).then(|| PodCondition {
        type_: TYPE.to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(match reason.as_str() {
            preemption::REASON => "Pod was preempted by Kubelet to accommodate a critical pod.".to_owned(),
            _ => message.clone(),
        }),
        last_probe_time: None,
        last_transition_time: Some(time(now)),
        observed_generation: pod.metadata.generation,
    })
}

/// `PodResizePending` and `PodResizeInProgress` are there only while they are true.
fn resize_conditions(seen: &Seen, before: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
    let condition =
        |type_: &str, reason: Option<&str>, message: Option<String>, generation: Option<i64>| PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_probe_time: None,
            last_transition_time: before
                .iter()
                .find(|c| c.type_ == type_ && c.status == "True")
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(time(now))),
            observed_generation: generation,
        };
    let pending = seen.resize.pending.as_ref();
    let pending =
        pending.map(|p| condition("PodResizePending", Some(p.reason()), Some(p.message.clone()), p.generation));
    let progress = seen.resize.progress.as_ref().filter(|_| seen.ending.is_none());
    let progress = progress
        .map(|p| condition("PodResizeInProgress", p.error.as_ref().map(|_| "Error"), p.error.clone(), p.generation));
    pending.into_iter().chain(progress).collect()
}

#[derive(Clone)]
struct Verdict {
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn of(ok: bool) -> Self {
        Verdict { ok, reason: None, message: None }
    }
    fn because(ok: bool, reason: &'static str, message: Option<String>) -> Self {
        Verdict { ok, reason: Some(reason), message }
    }
}

/// As Go prints a slice of strings with `%s`.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(pod: &Pod, new: &PodStatus, phase: Phase) -> Verdict {
    let sidecars = view::init_containers(pod).iter().filter(|c| view::is_sidecar(c));
    let known = |name: &str| {
        let all = new.container_statuses.iter().flatten().chain(new.init_container_statuses.iter().flatten());
        all.into_iter().any(|s| s.name == name && s.ready)
    };
    let unready: Vec<&str> =
        sidecars.chain(view::app_containers(pod)).map(|c| c.name.as_str()).filter(|n| !known(n)).collect();
    match phase {
        Phase::Succeeded => Verdict::because(false, "PodCompleted", None),
        Phase::Failed => Verdict::because(false, "PodFailed", None),
        _ if unready.is_empty() => Verdict::of(true),
        _ => {
            let message = format!("containers with unready status: {}", go_list(&unready));
            Verdict::because(false, "ContainersNotReady", Some(message))
        }
    }
}

fn gates_ready(pod: &Pod, conditions: &[PodCondition]) -> Verdict {
    let mut messages = Vec::new();
    for gate in view::spec(pod).readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match conditions.iter().find(|c| &c.type_ == type_) {
            None => messages.push(format!("corresponding condition of pod readiness gate \"{type_}\" does not exist.")),
            Some(c) if c.status != "True" => {
                messages
                    .push(format!("the status of pod readiness gate \"{type_}\" is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        return Verdict::of(true);
    }
    Verdict::because(false, "ReadinessGatesNotReady", Some(messages.join(", ")))
}

/// What was initialized once stays so, though its init containers may run again.
fn initialized(pod: &Pod, new: &PodStatus, phase: Phase, was: bool) -> Verdict {
    if phase == Phase::Succeeded {
        return Verdict::because(true, "PodCompleted", None);
    }
    let app_begun = new.container_statuses.iter().flatten().any(|s| {
        let state = s.state.clone().unwrap_or_default();
        let before = s.last_state.as_ref().is_some_and(|l| l.terminated.is_some() || l.running.is_some());
        state.running.is_some() || state.terminated.is_some() || before
    });
    if app_begun && !view::init_containers(pod).is_empty() {
        return Verdict::of(true);
    }
    let done = |c: &Container| {
        let found = new.init_container_statuses.iter().flatten().find(|s| s.name == c.name);
        found.is_some_and(|s| if view::is_sidecar(c) { s.started == Some(true) } else { s.ready })
    };
    let open: Vec<&str> = view::init_containers(pod).iter().filter(|c| !done(c)).map(|c| c.name.as_str()).collect();
    if open.is_empty() || was {
        return Verdict::of(true);
    }
    let message = format!("containers with incomplete status: {}", go_list(&open));
    Verdict::because(false, "ContainersNotInitialized", Some(message))
}

// === addresses and times ===

fn set_addresses(pod: &Pod, seen: &Seen, old: &PodStatus, new: &mut PodStatus, host_ips: &[IpAddr]) {
    let text: Vec<String> = host_ips.iter().map(IpAddr::to_string).collect();
    new.host_ip = text.first().cloned().or_else(|| old.host_ip.clone());
    new.host_ips = if text.is_empty() {
        old.host_ips.clone()
    } else {
        Some(text.iter().map(|ip| HostIP { ip: ip.clone() }).collect())
    };
    let mut ips: Vec<String> = seen.ips.iter().map(IpAddr::to_string).collect();
    if ips.is_empty() && view::is_host_network(pod) {
        ips = text;
    }
    if ips.is_empty() {
        new.pod_ip = old.pod_ip.clone().filter(|_| matches!(seen.sandbox, Sandbox::Stopped { .. }));
        new.pod_ips = old.pod_ips.clone().filter(|_| new.pod_ip.is_some());
        return;
    }
    new.pod_ip = ips.first().cloned();
    new.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
}

/// The API keeps whole seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
