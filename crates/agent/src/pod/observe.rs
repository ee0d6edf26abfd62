//! [`observe`]: what has happened becomes what is known. The only function besides the plan that changes a [`Seen`].
//!
//! Pure: the time is an argument. An observation about a run that is no longer the newest changes nothing, so a late
//! message cannot undo a newer fact.

use super::allocation::{Allocation, Pending, Progress, Refusal};
use super::plan::ProbeKind;
use super::seen::{
    Claims, ContainerSeen, Doing, Ending, Exit, FIRST_PAUSE, LONGEST_PAUSE, PostStart, ProbeSeen, Probes, PulledImage,
};
use super::seen::{Run, Running, Sandbox, Seen, StopStage, Volumes, Waiting, signed};
use super::view;
use crate::devices::registry::Health;
use crate::dra::book::Statuses;
use api::k8s::api::core::v1::{Pod, Probe};
use jiff::Timestamp;
use std::net::IpAddr;
use std::time::Duration;

/// Something that happened to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// All volumes are set up.
    VolumesMounted,
    /// A volume could not be set up.
    VolumesFailed,
    /// All volumes are taken down.
    VolumesUnmounted,
    /// All claims are prepared.
    ClaimsPrepared,
    /// A claim could not be prepared.
    ClaimsFailed,
    /// Nothing is prepared for the pod any more.
    ClaimsUndone,
    /// A sandbox is ready.
    SandboxCreated {
        /// The engine's id.
        id: String,
        /// Its addresses; empty with the node's network.
        ips: Vec<IpAddr>,
    },
    /// A sandbox could not be made.
    SandboxFailed,
    /// Nothing of the sandbox runs, its network is released.
    SandboxStopped,
    /// The sandbox is gone without our doing.
    SandboxLost,
    /// Nothing of the sandbox is left.
    SandboxRemoved,
    /// An image is on the node.
    ImagePulled {
        /// For which container.
        container: String,
        /// The image.
        image: PulledImage,
    },
    /// An image could not be had.
    PullFailed {
        /// For which container.
        container: String,
        /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`, …
        reason: String,
        /// Why.
        message: String,
    },
    /// A container runs.
    Started {
        /// Its name.
        container: String,
        /// The run.
        running: Box<Running>,
    },
    /// A container could not be started.
    StartFailed {
        /// Its name.
        container: String,
        /// How far it came.
        failure: StartFailure,
        /// Why.
        message: String,
    },
    /// The postStart hook ended; `error` tells why it failed.
    PostStartEnded {
        /// Container name.
        container: String,
        /// The run's id.
        id: String,
        /// Its failure.
        error: Option<String>,
    },
    /// The preStop hook ended, well or not.
    PreStopEnded {
        /// Container name.
        container: String,
        /// The run's id.
        id: String,
    },
    /// A container's first process ended.
    Exited {
        /// The run's id.
        id: String,
        /// How.
        how: ExitFacts,
    },
    /// A probe answered.
    Probed {
        /// Container name.
        container: String,
        /// The run's id.
        id: String,
        /// Which probe.
        kind: ProbeKind,
        /// Success or failure; `None`: the probe itself could not run, its result is thrown away.
        answer: Option<bool>,
        /// How long it took; `None`: nobody was asked.
        took: Option<Duration>,
    },
    /// The server has taken a status.
    StatusWritten {
        /// Whether its phase is terminal.
        terminal: bool,
    },
    /// Our delete of the object did not succeed.
    DeleteFailed,
    /// The object is gone from the API.
    ObjectGone,
    /// The node has answered whether the pod may have other resources.
    ResourcesAnswered {
        /// What was asked for.
        wanted: Box<Allocation>,
        /// `metadata.generation` that asked.
        generation: Option<i64>,
        /// Why not.
        refused: Option<Refusal>,
    },
    /// Limits of cgroups have been changed, or not.
    Resized {
        /// What was granted.
        to: Box<Allocation>,
        /// Names and run ids of the containers that were asked to.
        running: Vec<(String, String)>,
        /// Why it did not work.
        error: Option<String>,
    },
    /// The node needs what the pod uses.
    Evicted {
        /// `status.reason`
        reason: String,
        /// `status.message`
        message: String,
        /// At most so long its containers have to stop.
        grace: Duration,
        /// Whether it is the node that could not go on with it (`DisruptionTarget`), and not the pod that took more than it may.
        disrupted: bool,
    },
    /// Devices of the pod are better or worse.
    Devices(Health),
    /// The same of what its claims gave it.
    DynamicDevices(Statuses),
    /// Another pod has given resources of the node back.
    RoomMade,
    /// A ConfigMap, Secret or Service that the pod refers to has changed: what failed for want of it is tried at once.
    ReferencesChanged,
}

/// How far a start came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    /// The spec could not be formed: `CreateContainerConfigError`.
    Config,
    /// The engine could not make it: `CreateContainerError`.
    Create,
    /// The first process could not be started: `RunContainerError`.
    Run,
}

impl StartFailure {
    /// The reason to wait that it is.
    pub fn reason(self) -> &'static str {
        match self {
            StartFailure::Config => "CreateContainerConfigError",
            StartFailure::Create => "CreateContainerError",
            StartFailure::Run => "RunContainerError",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExitFacts {
    /// Exit code; 128 + signal if killed.
    pub code: i32,
    /// The kernel killed it for want of memory.
    pub oom: bool,
    /// Overrides the reason that code and `oom` imply.
    pub reason: Option<String>,
    /// Termination message.
    pub message: String,
    /// When.
    pub finished_at: Timestamp,
}

/// After a start that failed before anything ran (`backOffPeriod`).
const START_RETRY: Duration = FIRST_PAUSE;

/// Claims that could not be prepared are tried again after this, however often they failed: nothing tells that their driver has come.
/// Upstream's worker takes its time until the next regular turn, a minute.
const CLAIMS_RETRY: Duration = FIRST_PAUSE;

/// A resize whose cgroups could not be written is tried again after this.
const RESIZE_RETRY: Duration = FIRST_PAUSE;

/// Applies one observation.
pub fn observe(pod: &Pod, seen: &mut Seen, happened: Observation, now: Timestamp) {
    match happened {
        Observation::VolumesMounted => seen.volumes = Volumes::Mounted,
        Observation::VolumesFailed => {
            let pause = next_pause(seen.last_volume_pause.unwrap_or_default());
            seen.last_volume_pause = Some(pause);
            seen.volumes = Volumes::Failed { retry_at: now + signed(pause), pause };
        }
        Observation::VolumesUnmounted => seen.volumes = Volumes::Unmounted,
        Observation::ClaimsPrepared => seen.claims = Claims::Prepared,
        Observation::ClaimsFailed => {
            seen.claims = Claims::Due { retry_at: Some(now + signed(CLAIMS_RETRY)) };
        }
        Observation::ClaimsUndone => seen.claims = Claims::Undone,
        Observation::SandboxCreated { id, ips } => sandbox_created(pod, seen, id, ips),
        Observation::SandboxFailed => {
            let pause = FIRST_PAUSE;
            seen.sandbox = Sandbox::Failed { retry_at: now + signed(pause), pause };
        }
        Observation::SandboxStopped => sandbox_stopped(seen),
        Observation::SandboxLost => sandbox_lost(seen, now),
        Observation::SandboxRemoved => {
            seen.sandbox = Sandbox::None;
            if seen.claims == Claims::Prepared {
                seen.claims = Claims::Due { retry_at: None };
            }
        }
        Observation::StatusWritten { terminal } => seen.terminal_reported |= terminal,
        Observation::DeleteFailed => {
            seen.deleting = false;
            seen.delete_retry_at = Some(now + signed(Duration::from_secs(1)));
        }
        Observation::ObjectGone => seen.object_gone = true,
        Observation::ReferencesChanged => references_changed(seen, now),
        Observation::ResourcesAnswered { wanted, generation, refused } => {
            resources_answered(seen, *wanted, generation, refused);
        }
        Observation::Resized { to, running, error } => resized(seen, *to, &running, error, now),
        Observation::Evicted { reason, message, grace, disrupted } => {
            // What ends already may be told to hurry, as a grace period only becomes shorter (`calculateEffectiveGracePeriod`).
            seen.grace_override = Some(seen.grace_override.map_or(grace, |before| before.min(grace)));
            if seen.ending.is_none() {
                seen.ending = Some(Ending::Failed { reason, message });
                seen.disrupted = disrupted;
            }
        }
        Observation::Devices(health) => seen.devices = health,
        Observation::DynamicDevices(statuses) => seen.dynamic = statuses,
        Observation::RoomMade => {
            if let Some(pending) = seen.resize.pending.as_mut().filter(|p| !p.infeasible) {
                pending.again = true;
            }
        }
        Observation::ImagePulled { container, image } => {
            let c = seen.containers.entry(container).or_default();
            c.doing = Doing::Nothing;
            c.volume_images = image.volumes.values().cloned().collect();
            c.image = Some(image);
            c.pull_error = None;
        }
        Observation::PullFailed { container, reason, message } => {
            let key = view::find_container(pod, &container).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
            let c = seen.containers.entry(container).or_default();
            c.doing = Doing::Nothing;
            c.pull.next(&key, now, now);
            c.pull_error = Some(format!("{reason}: {message}"));
            c.waiting = Some(Waiting { reason, message });
        }
        Observation::Started { container, running } => started(seen, container, *running),
        Observation::StartFailed { container, failure, message } => {
            start_failed(seen, container, failure, message, now)
        }
        Observation::PostStartEnded { container, id, error } => post_start_ended(seen, &container, &id, error),
        Observation::PreStopEnded { container, id } => {
            if let Some(run) = running_as(seen, &container, &id)
                && let Some(stop) = &mut run.stop
                && stop.stage == StopStage::PreStop
            {
                stop.stage = StopStage::Turn;
            }
        }
        Observation::Exited { id, how } => exited(seen, id, how),
        Observation::Probed { container, id, kind, answer, .. } => probed(pod, seen, &container, &id, kind, answer),
    }
}

fn resources_answered(seen: &mut Seen, wanted: Allocation, generation: Option<i64>, refused: Option<Refusal>) {
    seen.resize.asking = false;
    match refused {
        Some(Refusal { message, infeasible }) => {
            seen.resize.pending = Some(Pending { message, generation, again: false, infeasible });
        }
        None => {
            seen.allocated = Some(wanted);
            seen.resize.pending = None;
            seen.resize.progress = Some(Progress { generation, error: None, retry_at: None });
        }
    }
}

fn resized(seen: &mut Seen, to: Allocation, running: &[(String, String)], error: Option<String>, now: Timestamp) {
    seen.resize.acting = false;
    if let Some(error) = error {
        let generation = seen.resize.progress.as_ref().and_then(|p| p.generation);
        let retry_at = Some(now + signed(RESIZE_RETRY));
        seen.resize.progress = Some(Progress { generation, error: Some(error), retry_at });
        return;
    }
    for (name, id) in running {
        if let Some(run) = running_as(seen, name, id) {
            run.resources = to.of(name);
        }
    }
    seen.actuated = Some(to);
}

fn next_pause(last: Duration) -> Duration {
    /// Upstream's first pause of a failed mount (`exponentialbackoff`).
    const FIRST: Duration = Duration::from_millis(500);
    /// And the longest.
    const LONGEST: Duration = Duration::from_secs(122);
    if last.is_zero() { FIRST } else { (last * 2).min(LONGEST).min(LONGEST_PAUSE) }
}

/// A new sandbox begins with the first init container again (`purgeInitContainers`).
fn sandbox_created(pod: &Pod, seen: &mut Seen, id: String, ips: Vec<IpAddr>) {
    seen.sandbox = Sandbox::Ready { id };
    seen.ips = ips;
    seen.actuated = seen.allocated.clone();
    if seen.attempts <= 1 {
        return;
    }
    for init in view::init_containers(pod) {
        if let Some(c) = seen.containers.get_mut(&init.name) {
            if let Run::Exited(exit) = std::mem::take(&mut c.run) {
                c.last = Some(exit);
            }
            c.waiting = None;
            c.image = None;
            c.retry_at = None;
        }
    }
}

fn sandbox_stopped(seen: &mut Seen) {
    seen.sandbox = match std::mem::take(&mut seen.sandbox) {
        Sandbox::Stopping { id } | Sandbox::Ready { id } | Sandbox::Lost { id } | Sandbox::Stopped { id } => {
            Sandbox::Stopped { id }
        }
        _ => Sandbox::None,
    };
}

/// Whatever ran has ended in a way nobody saw.
fn sandbox_lost(seen: &mut Seen, now: Timestamp) {
    let ids: Vec<String> = seen.containers.values().filter_map(|c| c.running().map(|r| r.id.clone())).collect();
    for id in ids {
        exited(seen, id, unknown_exit(now));
    }
    for c in seen.containers.values_mut() {
        c.doing = Doing::Nothing;
    }
    seen.sandbox = match std::mem::take(&mut seen.sandbox) {
        Sandbox::Ready { id } | Sandbox::Stopping { id } | Sandbox::Lost { id } => Sandbox::Lost { id },
        other => other,
    };
}

/// The run ended, but nobody saw how (`ContainerReasonStatusUnknown`).
pub fn unknown_exit(now: Timestamp) -> ExitFacts {
    ExitFacts {
        code: 137,
        oom: false,
        reason: Some("ContainerStatusUnknown".into()),
        message: "The container could not be located when the pod was terminated".into(),
        finished_at: now,
    }
}

fn references_changed(seen: &mut Seen, now: Timestamp) {
    if let Volumes::Failed { retry_at, .. } = &mut seen.volumes {
        *retry_at = now;
    }
    for c in seen.containers.values_mut() {
        if c.retry_at.is_some() {
            c.retry_at = Some(now);
        }
    }
}

fn started(seen: &mut Seen, container: String, running: Running) {
    let id = running.id.clone();
    let c = seen.containers.entry(container).or_default();
    let next = next_restart(c);
    if let Run::Exited(before) = std::mem::replace(&mut c.run, Run::Running(running)) {
        c.last = Some(before);
    }
    c.restarts = next;
    c.doing = Doing::Nothing;
    c.image = None;
    c.waiting = None;
    c.retry_at = None;
    c.probes = Probes::default();
    if let Some(at) = seen.early_exits.iter().position(|e| e.id == id) {
        let early = seen.early_exits.swap_remove(at);
        exited(seen, early.id, early.how);
    }
}

/// `restartCount` of the next run.
pub fn next_restart(c: &ContainerSeen) -> u32 {
    let ran = !matches!(c.run, Run::None) || c.last.is_some();
    if ran { c.restarts + 1 } else { 0 }
}

fn start_failed(seen: &mut Seen, container: String, failure: StartFailure, message: String, now: Timestamp) {
    let c = seen.containers.entry(container).or_default();
    c.doing = Doing::Nothing;
    c.image = None;
    c.waiting = Some(Waiting { reason: failure.reason().into(), message: message.clone() });
    if failure != StartFailure::Run {
        c.retry_at = Some(now + signed(START_RETRY));
        return;
    }
    // As containerd reports it: the container exists and has exited with 128.
    c.restarts = next_restart(c);
    let exit = Exit {
        id: String::new(),
        image: String::new(),
        image_id: String::new(),
        code: 128,
        reason: "StartError".into(),
        message,
        started_at: None,
        finished_at: Some(now),
        restart: false,
        replaced: false,
        user: None,
    };
    if let Run::Exited(before) = std::mem::replace(&mut c.run, Run::Exited(exit)) {
        c.last = Some(before);
    }
}

fn running_as<'a>(seen: &'a mut Seen, container: &str, id: &str) -> Option<&'a mut Running> {
    match &mut seen.containers.get_mut(container)?.run {
        Run::Running(run) if run.id == id => Some(run),
        _ => None,
    }
}

fn post_start_ended(seen: &mut Seen, container: &str, id: &str, error: Option<String>) {
    let Some(run) = running_as(seen, container, id) else { return };
    let Some(message) = error else {
        run.post_start = PostStart::Done;
        return;
    };
    run.post_start = PostStart::Failed;
    if let Some(c) = seen.containers.get_mut(container) {
        c.waiting = Some(Waiting { reason: "PostStartHookError".into(), message });
    }
}

fn exited(seen: &mut Seen, id: String, how: ExitFacts) {
    let runs = |c: &&mut ContainerSeen| c.running().is_some_and(|r| r.id == id);
    let Some(c) = seen.containers.values_mut().find(runs) else {
        // It ended before the engine's answer that it started reached us.
        if seen.containers.values().any(|c| c.doing == Doing::Starting) {
            seen.early_exits.push(super::seen::EarlyExit { id, how });
        }
        return;
    };
    let Run::Running(run) = std::mem::take(&mut c.run) else { return };
    let reason = how.reason.clone().unwrap_or_else(|| exit_reason(&how).to_owned());
    // Its record is ours from now on; the engine's and its root file system can go.
    seen.leftovers.push(id.clone());
    c.run = Run::Exited(Exit {
        id,
        image: run.image,
        image_id: run.image_id,
        code: how.code,
        reason,
        message: how.message,
        started_at: Some(run.started_at),
        finished_at: Some(how.finished_at),
        replaced: run.post_start != PostStart::Failed && run.stop.as_ref().is_some_and(|s| s.restart),
        restart: run.stop.is_some_and(|s| s.restart),
        user: run.user,
    });
}

/// As containerd names exits (`internal/cri/server/events.go`).
fn exit_reason(how: &ExitFacts) -> &'static str {
    match (how.oom, how.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    }
}

/// Thresholds of `prober/worker.go`.
fn probed(pod: &Pod, seen: &mut Seen, container: &str, id: &str, kind: ProbeKind, answer: Option<bool>) {
    let Some((_, c)) = view::find_container(pod, container) else { return };
    let Some(spec) = kind.of(&c) else { return };
    if running_as(seen, container, id).is_none() {
        return;
    }
    let Some(c) = seen.containers.get_mut(container) else { return };
    let probe = match kind {
        ProbeKind::Startup => &mut c.probes.startup,
        ProbeKind::Readiness => &mut c.probes.readiness,
        ProbeKind::Liveness => &mut c.probes.liveness,
    };
    probe.running = false;
    if let Some(answer) = answer {
        count(probe, spec, kind, answer);
    }
}

fn count(probe: &mut ProbeSeen, spec: &Probe, kind: ProbeKind, answer: bool) {
    let threshold = if answer { spec.success_threshold.unwrap_or(1) } else { spec.failure_threshold.unwrap_or(3) };
    let threshold = u32::try_from(threshold).unwrap_or(1).max(1);
    let times = if probe.answer == Some(answer) { probe.times.saturating_add(1) } else { 1 };
    // Not counted further, so that a steady probe changes nothing that is kept.
    probe.times = times.min(threshold);
    probe.answer = Some(answer);
    if probe.times < threshold {
        return;
    }
    probe.result = Some(answer);
    if kind == ProbeKind::Startup || (kind == ProbeKind::Liveness && !answer) {
        probe.on_hold = true;
        probe.times = 0;
    }
}
