//! [`plan`]: what the spec asks for and what the node has seen become what to do next. The whole pod contract is here.
//!
//! ```text
//!  volumes ─▶ claims ─▶ sandbox ─▶ init 1 ─▶ init 2 ─▶ … ─▶ app containers (start one after the other, pull side by side)
//!                          each:  pull ─▶ start ─▶ postStart ─▶ probes ─▶ … ─▶ exit ─▶ back-off ─▶ pull ─▶ start …
//!  ending:  preStop ─▶ TERM ─▶ (grace) ─▶ KILL ─▶ exits ─▶ stop sandbox ─▶ claims undone ─▶ volumes down ─▶ terminal status ─▶ delete
//! ```
//!
//! Pure: values in, values out; the time is an argument and `wake_at` says when to ask again even if nothing happens.
//! Asking twice is harmless: whatever a plan starts is marked as under way in the [`Seen`] it returns.
//!
//! Follows `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (computePodActions, doBackOff), `kuberuntime_container.go`
//! (computeInitContainerActions, killContainer), `prober/worker.go`, `active_deadline.go`. Differs: a pull, start or
//! stop of one container never blocks the pod, so deletion is seen at once; timers replace the periodic sync.

use super::allocation::{self, Allocation};
use super::observe::next_restart;
use super::seen::{
    Claims, ContainerSeen, Doing, Ending, PostStart, ProbeSeen, PulledImage, Run, Sandbox, Seen, Stop, StopStage,
    Volumes, Waiting, signed,
};
use super::view::{self, Role};
use crate::dra::uses::uses_any;
use api::k8s::api::core::v1::{Container, Pod, Probe};
use jiff::Timestamp;
use std::time::Duration;

/// One thing to do. Leaves no choices to whoever does it.
#[derive(Debug, Clone, PartialEq)]
pub enum PodAction {
    /// Set up all volumes.
    MountVolumes,
    /// Take down all volumes.
    UnmountVolumes,
    /// Have all claims to devices prepared.
    PrepareClaims,
    /// Have that undone.
    UndoClaims,
    /// Make the sandbox and its network.
    CreateSandbox {
        /// Counts from 0.
        attempt: u32,
    },
    /// End everything in the sandbox and release its network.
    StopSandbox {
        /// The engine's id.
        id: String,
    },
    /// Remove all traces of the sandbox.
    RemoveSandbox {
        /// The engine's id.
        id: String,
    },
    /// Have the image on the node.
    PullImage {
        /// For which container.
        container: String,
        /// As written in the spec.
        image: String,
        /// Whether to look first.
        policy: PullPolicy,
    },
    /// Make and start a container, then run its postStart hook.
    StartContainer {
        /// Its name.
        container: String,
        /// `restartCount` of the new run.
        restarts: u32,
        /// Its image and those of its volumes.
        image: PulledImage,
    },
    /// Run the preStop hook.
    RunPreStop {
        /// Container name.
        container: String,
        /// The run's id.
        id: String,
        /// When to give up.
        timeout: Duration,
    },
    /// Signal a container's first process.
    Signal {
        /// Container name.
        container: String,
        /// The run's id.
        id: String,
        /// `SIGTERM`, `SIGKILL`, …
        signal: String,
    },
    /// Ask the node whether the pod may have these resources.
    AskForResources {
        /// What the spec says.
        wanted: Box<Allocation>,
    },
    /// Change limits of the pod's cgroup and of those of its running containers to what is granted.
    Resize {
        /// What they were made for.
        from: Box<Allocation>,
        /// What is granted.
        to: Box<Allocation>,
        /// Names and run ids.
        running: Vec<(String, String)>,
    },
    /// Remove an old run's files.
    RemoveRun {
        /// The run's id.
        id: String,
    },
    /// Ask one probe once.
    Probe {
        /// Container name.
        container: String,
        /// The run's id.
        id: String,
        /// Which.
        kind: ProbeKind,
    },
    /// Delete the API object, now.
    DeleteObject,
    /// Nothing of the pod is left: end its worker.
    Forget,
    /// Record an event.
    Event(PodEvent),
}

/// An event about the pod or one of its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// The container it is about.
    pub container: Option<String>,
    /// Whether somebody should look.
    pub warning: bool,
    /// CamelCase (`pkg/kubelet/events/event.go`).
    pub reason: String,
    /// For people.
    pub message: String,
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Only if the node has none.
    IfNotPresent,
    /// Never ask the registry.
    Never,
}

impl PullPolicy {
    /// As it stands in the API; the API server has filled in the default.
    pub fn of(text: Option<&str>) -> Self {
        match text {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

/// The three probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// `startupProbe`
    Startup,
    /// `readinessProbe`
    Readiness,
    /// `livenessProbe`
    Liveness,
}

impl ProbeKind {
    /// In the order in which they are considered.
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

    /// Its spec, if the container has one.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
        }
    }

    /// As events begin: `Liveness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<PodAction>,
    /// The record with what `actions` begin marked as under way.
    pub seen: Seen,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// A container gets at least this long between TERM and KILL (`minimumGracePeriodInSeconds`).
const MINIMUM_GRACE: Duration = Duration::from_secs(2);
/// A pod that ends has at least this, so that its hooks are begun at all (`calculateEffectiveGracePeriod`).
const LEAST_GRACE: Duration = Duration::from_secs(1);
/// A killed container that does not exit is killed again.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// All containers are started again at most this often: there is no back-off upstream, but its relist of what runs.
const RESTART_ALL_PERIOD: Duration = Duration::from_secs(1);
/// `ErrImagePull` is shown this long before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(1);

/// A container that is not ready yet is asked again when it has run twice as long, at first after this long and at last every period: most
/// listen a moment after their start. Upstream asks whenever it looks at a pod with such a container, which it does at every step of its
/// start (`manualTriggerCh`, by `UpdatePodStatus` in `pkg/kubelet/prober/prober_manager.go`).
const READY_SOON: Duration = Duration::from_millis(500);

/// Decides. `pod` is the newest object (or the last one seen, if it is gone).
pub fn plan(pod: &Pod, seen: &Seen, now: Timestamp) -> Plan {
    let mut planner = Planner { pod, seen: seen.clone(), now, actions: Vec::new(), wake_at: None };
    planner.seen.first_seen.get_or_insert(now);
    planner.decide_ending();
    if planner.seen.ending.is_none() {
        planner.active();
    }
    if planner.seen.ending.is_some() {
        planner.ending();
    }
    planner.probes();
    for id in std::mem::take(&mut planner.seen.leftovers) {
        planner.actions.push(PodAction::RemoveRun { id });
    }
    Plan { actions: planner.actions, seen: planner.seen, wake_at: planner.wake_at }
}

struct Planner<'a> {
    pod: &'a Pod,
    seen: Seen,
    now: Timestamp,
    actions: Vec<PodAction>,
    wake_at: Option<Timestamp>,
}

impl Planner<'_> {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }

    fn event(&mut self, container: Option<&str>, warning: bool, reason: &str, message: String) {
        self.actions.push(PodAction::Event(PodEvent {
            container: container.map(str::to_owned),
            warning,
            reason: reason.to_owned(),
            message,
        }));
    }

    fn container(&mut self, name: &str) -> &mut ContainerSeen {
        self.seen.containers.entry(name.to_owned()).or_default()
    }

    // === whether the pod ends ===

    fn decide_ending(&mut self) {
        if self.seen.ending.is_some() {
            return;
        }
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if self.seen.object_gone || self.pod.metadata.deletion_timestamp.is_some() {
            self.seen.ending = Some(Ending::Deleted);
        } else if matches!(phase, Some("Succeeded" | "Failed")) {
            self.seen.ending = Some(Ending::AlreadyTerminal);
            self.seen.terminal_reported = true;
        } else if let Some(deadline) = self.deadline() {
            if self.now < deadline {
                self.wake(deadline);
                return;
            }
            let message = "Pod was active on the node longer than the specified deadline";
            self.event(None, false, "DeadlineExceeded", message.to_owned());
            self.seen.ending = Some(Ending::Failed { reason: "DeadlineExceeded".into(), message: message.into() });
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = u64::try_from(view::spec(self.pod).active_deadline_seconds?).unwrap_or(0);
        let started =
            self.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0).or(self.seen.first_seen)?;
        Some(started + signed(Duration::from_secs(seconds)))
    }

    // === a pod that goes on ===

    fn active(&mut self) {
        self.ask_for_resources();
        if !self.volumes_ready() || !self.sandbox_ready() {
            return;
        }
        self.resize();
        for ephemeral in view::all_containers(self.pod).into_iter().filter(|(role, _)| *role == Role::Ephemeral) {
            if matches!(self.container(&ephemeral.1.name).run, Run::None) {
                self.bring_up(&ephemeral.1);
            }
        }
        if !self.all_restarted() {
            return;
        }
        let Some(initialized) = self.init_containers() else { return };
        if initialized {
            self.app_containers();
        }
    }

    /// Ends all containers, the app before the rest, when one of them ended in a way that asks for it, and forgets that they
    /// ran (`getContainersToReset`). `false` while that goes on.
    fn all_restarted(&mut self) -> bool {
        let (init, app) = (view::init_containers(self.pod), view::app_containers(self.pod));
        let exited = |seen: &Seen, c: &Container| seen.container(&c.name).and_then(|s| s.exited().cloned());
        self.seen.restarting_all |=
            init.iter().chain(app).any(|c| exited(&self.seen, c).is_some_and(|e| view::restarts_all(c, e.code)));
        if !self.seen.restarting_all {
            return true;
        }
        for list in [app, init] {
            if !self.all_ended(list) {
                self.advance_stops();
                return false;
            }
        }
        let begun = init.iter().chain(app).filter_map(|c| exited(&self.seen, c)?.started_at).max();
        if let Some(next) = begun.map(|at| at + signed(RESTART_ALL_PERIOD)).filter(|at| self.now < *at) {
            self.wake(next);
            return false;
        }
        init.iter().chain(app).for_each(|c| self.container(&c.name).begin_anew());
        self.seen.restarting_all = false;
        true
    }

    /// Stops what runs of these at once. Whether nothing does.
    fn all_ended(&mut self, containers: &[Container]) -> bool {
        let mut ended = true;
        for c in containers {
            let s = self.container(&c.name);
            ended &= s.doing != Doing::Starting && s.running().is_none();
            if s.running().is_some_and(|r| r.stop.is_none()) {
                self.begin_stop(c, "killing".into(), Duration::ZERO, true);
            }
        }
        ended
    }

    fn volumes_ready(&mut self) -> bool {
        match self.seen.volumes {
            Volumes::Mounted => return true,
            Volumes::Mounting | Volumes::Unmounting => return false,
            Volumes::Failed { retry_at, .. } if self.now < retry_at => {
                self.wake(retry_at);
                return false;
            }
            Volumes::Failed { .. } | Volumes::Pending | Volumes::Unmounted => {}
        }
        self.seen.volumes = Volumes::Mounting;
        self.actions.push(PodAction::MountVolumes);
        false
    }

    /// As upstream (`SyncPod` in kuberuntime_manager.go), before a sandbox is made and not while it is there.
    fn claims_ready(&mut self) -> bool {
        match self.seen.claims {
            _ if !uses_any(self.pod) => return true,
            Claims::Prepared => return true,
            Claims::Preparing | Claims::Undoing => return false,
            Claims::Due { retry_at: Some(retry_at) } if self.now < retry_at => {
                self.wake(retry_at);
                return false;
            }
            Claims::Due { .. } | Claims::Unknown | Claims::Undone => {}
        }
        self.seen.claims = Claims::Preparing;
        self.actions.push(PodAction::PrepareClaims);
        false
    }

    fn sandbox_ready(&mut self) -> bool {
        match self.seen.sandbox.clone() {
            Sandbox::Ready { .. } => return true,
            Sandbox::Creating | Sandbox::Stopping { .. } | Sandbox::Removing => return false,
            Sandbox::Failed { retry_at, .. } if self.now < retry_at => {
                self.wake(retry_at);
                return false;
            }
            Sandbox::Lost { id } | Sandbox::Stopped { id } => {
                if !self.goes_on_in_new_sandbox() {
                    self.seen.ending = Some(Ending::Completed);
                    return false;
                }
                let text = "Pod sandbox changed, it will be killed and re-created.";
                self.event(None, false, "SandboxChanged", text.to_owned());
                self.seen.sandbox = Sandbox::Removing;
                self.actions.push(PodAction::RemoveSandbox { id });
                return false;
            }
            Sandbox::Failed { .. } | Sandbox::None => {}
        }
        if !self.goes_on_in_new_sandbox() {
            self.seen.ending = Some(Ending::Completed);
            return false;
        }
        if !self.claims_ready() {
            return false;
        }
        self.seen.sandbox = Sandbox::Creating;
        self.actions.push(PodAction::CreateSandbox { attempt: self.seen.attempts });
        self.seen.attempts += 1;
        false
    }

    /// Whether a pod that lost its sandbox is to run again.
    fn goes_on_in_new_sandbox(&self) -> bool {
        let any_ran = self.seen.containers.values().any(|c| !matches!(c.run, Run::None));
        if !any_ran || self.seen.restarting_all {
            return true;
        }
        view::app_containers(self.pod).iter().any(|c| match self.seen.container(&c.name).map(|s| &s.run) {
            Some(Run::Exited(exit)) => exit.restart || view::restarts_after(self.pod, c, exit.code),
            // It never ran because an init container failed or was interrupted.
            Some(Run::None) | None => view::restart_policy(self.pod) != "Never",
            Some(Run::Running(_)) => true,
        })
    }

    /// Starts, restarts and watches over init containers. `None`: the pod is ending; otherwise whether all are done.
    /// A port of `computeInitContainerActions`, backwards because finished init containers may be forgotten.
    fn init_containers(&mut self) -> Option<bool> {
        let pod = self.pod;
        let init = view::init_containers(pod);
        if init.is_empty() {
            return Some(true);
        }
        let app_runs = view::app_containers(pod)
            .iter()
            .any(|c| self.seen.container(&c.name).is_some_and(|s| s.running().is_some() || s.doing == Doing::Starting));
        let mut initialized = app_runs;
        let mut later_one_ran = app_runs;
        let mut to_start = Vec::new();
        for (i, c) in init.iter().enumerate().rev() {
            let sidecar = view::is_sidecar(c);
            let s = self.container(&c.name).clone();
            let begun = s.doing != Doing::Nothing || s.waiting.is_some() || s.image.is_some();
            if matches!(s.run, Run::None) && !begun {
                if later_one_ran && sidecar {
                    to_start.push(i);
                }
                continue;
            }
            if later_one_ran && !sidecar {
                continue;
            }
            match &s.run {
                Run::None => to_start.push(i),
                Run::Running(run) if sidecar => {
                    if run.stop.is_none() && !self.watch_over(c, "Init container") {
                        // Being stopped for a failed probe or a new image.
                    } else if s.is_started(c.startup_probe.is_some()) {
                        if i + 1 == init.len() {
                            initialized = true;
                        } else if !later_one_ran {
                            to_start.push(i + 1);
                        }
                    }
                }
                Run::Running(_) => {}
                Run::Exited(_) if sidecar => to_start.push(i),
                Run::Exited(exit) if exit.code != 0 || exit.reason == "OOMKilled" => {
                    if !exit.restart && !view::restarts_after(pod, c, exit.code) {
                        self.seen.ending = Some(Ending::Completed);
                        return None;
                    }
                    to_start.push(i);
                }
                Run::Exited(_) if i + 1 == init.len() => initialized = true,
                Run::Exited(_) => to_start.push(i + 1),
            }
            later_one_ran = true;
        }
        if !later_one_ran {
            to_start.push(0);
        }
        self.advance_stops();
        to_start.sort_unstable();
        to_start.dedup();
        // A sidecar that cannot start does not hold up the others; a plain init container does (SyncPod, step 7).
        for i in to_start {
            let c = &init[i];
            self.bring_up(c);
        }
        Some(initialized)
    }

    fn app_containers(&mut self) {
        let mut goes_on = false;
        for c in view::app_containers(self.pod) {
            let s = self.container(&c.name).clone();
            match &s.run {
                Run::Running(run) => {
                    let stays = run.stop.is_none() && self.watch_over(c, "Container");
                    let restarts = self
                        .container(&c.name)
                        .running()
                        .and_then(|r| r.stop.as_ref())
                        .is_some_and(|stop| stop.restart);
                    goes_on |= stays || restarts;
                }
                Run::None => {
                    goes_on = true;
                    self.bring_up(c);
                }
                Run::Exited(exit) => {
                    if exit.restart || view::restarts_after(self.pod, c, exit.code) {
                        goes_on = true;
                        self.bring_up(c);
                    }
                }
            }
        }
        self.advance_stops();
        if !goes_on {
            self.seen.ending = Some(Ending::Completed);
        }
    }

    /// Stops a running container whose definition changed or whose probes failed. `false` if it is being stopped.
    fn watch_over(&mut self, c: &Container, title: &str) -> bool {
        let s = self.container(&c.name);
        let Run::Running(run) = &s.run else { return false };
        let changed = run.definition != view::definition(c);
        let (why, probe) = if run.post_start == PostStart::Failed {
            let restart = view::restarts_after_kill(self.pod, c);
            self.begin_stop(c, "FailedPostStartHook".into(), view::grace_period(self.pod, None), restart);
            return false;
        } else if changed {
            ("definition changed", None)
        } else if s.probes.liveness.result == Some(false) {
            ("failed liveness probe", c.liveness_probe.as_ref())
        } else if s.probes.startup.result == Some(false) {
            ("failed startup probe", c.startup_probe.as_ref())
        } else {
            return true;
        };
        let restart = changed || view::restarts_after_kill(self.pod, c);
        let suffix = if restart && title == "Container" { ", will be restarted" } else { "" };
        self.begin_stop(c, format!("{title} {} {why}{suffix}", c.name), view::grace_period(self.pod, probe), restart);
        false
    }

    /// One step towards a running container: back-off, image, start.
    fn bring_up(&mut self, c: &Container) {
        let now = self.now;
        let image = c.image.clone().unwrap_or_default();
        let s = self.container(&c.name).clone();
        if s.doing != Doing::Nothing || self.crash_back_off(c, &s) {
            return;
        }
        if let Some(at) = s.retry_at.filter(|at| now < *at) {
            return self.wake(at);
        }
        let Some(pulled) = s.image else {
            if self.pull_back_off(c, &s) {
                return;
            }
            let action = PodAction::PullImage {
                container: c.name.clone(),
                image,
                policy: PullPolicy::of(c.image_pull_policy.as_deref()),
            };
            self.actions.push(action);
            self.container(&c.name).doing = Doing::Pulling;
            return;
        };
        let another_starts = self
            .seen
            .containers
            .values()
            .any(|o| o.doing == Doing::Starting || o.running().is_some_and(|r| r.post_start == PostStart::Runs));
        if another_starts {
            // Its end is an observation, which plans again.
            return;
        }
        let key = crash_key(c);
        let record = self.container(&c.name);
        if let Some(finished) = record.crashed_at() {
            record.crash.next(&key, finished, now);
        }
        record.doing = Doing::Starting;
        let restarts = next_restart(record);
        self.actions.push(PodAction::StartContainer { container: c.name.clone(), restarts, image: pulled });
    }

    /// `doBackOff`: whether the restart must wait.
    fn crash_back_off(&mut self, c: &Container, s: &ContainerSeen) -> bool {
        let (Some(exit), Some(since)) = (s.exited(), s.crashed_at()) else { return false };
        let Some(mut ends) = s.crash.ends_after(&crash_key(c), since, self.now) else { return false };
        let finished = exit.finished_at.unwrap_or(since);
        if exit.replaced {
            // It does not start in one go with its stop: from now on it is one that ended.
            if let Run::Exited(exit) = &mut self.container(&c.name).run {
                exit.replaced = false;
            }
            ends = s.crash.ends_after(&crash_key(c), finished, self.now).unwrap_or(ends);
        }
        self.wake(ends);
        let described = view::describe(self.pod);
        let message =
            format!("back-off {} restarting failed container={} pod={described}", go_duration(s.crash.length), c.name);
        let waiting = Waiting { reason: "CrashLoopBackOff".into(), message };
        if s.waiting.as_ref() != Some(&waiting) || s.backed_off_for != Some(finished) {
            let text = format!("Back-off restarting failed container {} in pod {described}", c.name);
            self.event(Some(&c.name), true, "BackOff", text);
            let record = self.container(&c.name);
            record.waiting = Some(waiting);
            record.backed_off_for = Some(finished);
        }
        true
    }

    /// `pullImage`'s back-off: whether the next pull must wait.
    fn pull_back_off(&mut self, c: &Container, s: &ContainerSeen) -> bool {
        let image = c.image.as_deref().unwrap_or_default();
        let Some(set_at) = s.pull.set_at.filter(|_| s.pull_error.is_some()) else { return false };
        let Some(ends) = s.pull.ends_after(image, set_at, self.now) else { return false };
        let shown_until = set_at + signed(PULL_ERROR_SHOWN);
        if self.now < shown_until {
            self.wake(shown_until.min(ends));
            return true;
        }
        self.wake(ends);
        // An image that policy or name rule out is no matter of back-off (`ErrImageNeverPull`, `InvalidImageName`).
        let error = s.pull_error.clone().unwrap_or_default();
        if error.starts_with("ErrImageNeverPull") || error.starts_with("InvalidImageName") {
            return true;
        }
        let back_off = format!("Back-off pulling image \"{image}\"");
        let waiting = Waiting { reason: "ImagePullBackOff".into(), message: format!("{back_off}: {error}") };
        if s.waiting.as_ref() != Some(&waiting) {
            self.event(Some(&c.name), false, "BackOff", back_off);
            self.event(Some(&c.name), true, "Failed", "Error: ImagePullBackOff".into());
            self.container(&c.name).waiting = Some(waiting);
        }
        true
    }

    // === stopping ===

    fn begin_stop(&mut self, c: &Container, message: String, grace: Duration, restart: bool) {
        let now = self.now;
        let hook = c.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()) && !grace.is_zero();
        let Run::Running(run) = &mut self.container(&c.name).run else { return };
        let stage = if hook { StopStage::PreStop } else { StopStage::Turn };
        run.stop = Some(Stop { since: now, grace, stage, restart });
        let id = run.id.clone();
        self.event(Some(&c.name), false, "Killing", message);
        if hook {
            self.actions.push(PodAction::RunPreStop { container: c.name.clone(), id, timeout: grace });
        }
    }

    /// Moves every stop on: TERM when it is its turn, KILL when the grace is over.
    fn advance_stops(&mut self) {
        for (role, c) in view::all_containers(self.pod) {
            let turn = role != Role::Sidecar || self.seen.ending.is_none() || self.sidecar_turn(&c.name);
            self.advance_stop(&c.name, turn);
        }
    }

    /// Sidecars stop after the app, the last one first (`newTerminationOrdering`).
    fn sidecar_turn(&self, name: &str) -> bool {
        let runs = |n: &str| self.seen.container(n).is_some_and(|s| s.running().is_some());
        if view::app_containers(self.pod).iter().any(|c| runs(&c.name)) {
            return false;
        }
        let later = view::init_containers(self.pod).iter().rev().take_while(|c| c.name != name);
        !later.into_iter().any(|c| runs(&c.name))
    }

    fn advance_stop(&mut self, name: &str, turn: bool) {
        let now = self.now;
        let ending = self.seen.ending.is_some();
        let shorter = view::grace_period(self.pod, None);
        let shorter = self.seen.grace_override.map_or(shorter, |s| shorter.min(s)).max(LEAST_GRACE);
        let Run::Running(run) = &mut self.container(name).run else { return };
        let Some(stop) = &mut run.stop else { return };
        if ending {
            // A second delete may have shortened the grace.
            stop.grace = stop.grace.min(shorter);
        }
        let over = stop.since + signed(stop.grace);
        if now >= over && matches!(stop.stage, StopStage::PreStop | StopStage::Turn) {
            stop.stage = StopStage::Turn;
        } else if matches!(stop.stage, StopStage::PreStop) || (stop.stage == StopStage::Turn && !turn) {
            return self.wake(over);
        }
        let (signal, at) = match stop.stage {
            StopStage::PreStop | StopStage::Turn => {
                stop.stage = StopStage::Asked(now);
                (Some(run.stop_signal.clone()), over.max(now + signed(MINIMUM_GRACE)))
            }
            StopStage::Asked(asked) => {
                let kill_at = over.max(asked + signed(MINIMUM_GRACE));
                if now < kill_at {
                    (None, kill_at)
                } else {
                    stop.stage = StopStage::Killed(now);
                    (Some("SIGKILL".to_owned()), now + signed(KILL_AGAIN))
                }
            }
            StopStage::Killed(at) if now >= at + signed(KILL_AGAIN) => {
                stop.stage = StopStage::Killed(now);
                (Some("SIGKILL".to_owned()), now + signed(KILL_AGAIN))
            }
            StopStage::Killed(at) => (None, at + signed(KILL_AGAIN)),
        };
        if let Some(signal) = signal {
            let id = run.id.clone();
            self.actions.push(PodAction::Signal { container: name.to_owned(), id, signal });
        }
        self.wake(at);
    }

    // === resize ===

    /// The spec asks for other resources than are granted.
    fn ask_for_resources(&mut self) {
        let wanted = Allocation::wanted(self.pod);
        let Some(allocated) = &self.seen.allocated else {
            self.seen.allocated = Some(wanted);
            return;
        };
        if *allocated == wanted {
            self.seen.resize.pending = None;
            return;
        }
        if self.seen.sandbox == Sandbox::Creating {
            // It is being made for what was granted before.
            return;
        }
        let generation = self.pod.metadata.generation;
        let told = self.seen.resize.pending.as_ref().is_some_and(|p| p.generation == generation && !p.again);
        if !told && !self.seen.resize.asking {
            self.seen.resize.asking = true;
            self.actions.push(PodAction::AskForResources { wanted: Box::new(wanted) });
        }
    }

    /// What runs was made for other resources than are granted.
    fn resize(&mut self) {
        let Some(to) = self.seen.allocated.clone() else { return };
        let from = self.actuated(&to);
        if from == to {
            if !self.stops_something() {
                self.resize_completed(&to);
            }
            return;
        }
        let granted = to.apply(self.pod).into_owned();
        for (role, c) in view::all_containers(&granted) {
            let run = self.container(&c.name).running();
            if role != Role::Ephemeral
                && run.is_some_and(|r| r.stop.is_none())
                && allocation::needs_restart(&c, &from, &to)
            {
                let message = format!("Container {} resize requires restart", c.name);
                self.begin_stop(&c, message, view::grace_period(self.pod, None), true);
            }
        }
        if let Some(at) = self.seen.resize.progress.as_ref().and_then(|p| p.retry_at).filter(|at| self.now < *at) {
            return self.wake(at);
        }
        if self.seen.resize.acting {
            return;
        }
        self.seen.resize.acting = true;
        let running = self.seen.containers.iter().filter_map(|(name, c)| {
            let run = c.running().filter(|r| r.stop.is_none() && to.containers.contains_key(name))?;
            Some((name.clone(), run.id.clone()))
        });
        let running = running.collect();
        self.actions.push(PodAction::Resize { from: Box::new(from), to: Box::new(to), running });
    }

    /// What the pod's cgroups are made for; what does not run has no cgroup to change, and what is being stopped gets a new
    /// one.
    fn actuated(&self, granted: &Allocation) -> Allocation {
        let mut out = Allocation {
            pod: self.seen.actuated.as_ref().map_or_else(|| granted.pod.clone(), |a| a.pod.clone()),
            containers: self.seen.actuated.as_ref().unwrap_or(granted).containers.clone(),
        };
        for (name, c) in &self.seen.containers {
            if let Some(run) = c.running().filter(|r| r.stop.is_none() && granted.containers.contains_key(name)) {
                out.containers.insert(name.clone(), run.resources.clone());
            }
        }
        out
    }

    /// What is being stopped still has its old resources (`isContainerResourceResizeInProgress` in
    /// `pkg/kubelet/kuberuntime/kuberuntime_manager.go`); it is made anew with those granted.
    fn stops_something(&self) -> bool {
        self.seen.containers.values().any(|c| c.running().is_some_and(|run| run.stop.is_some()))
    }

    fn resize_completed(&mut self, granted: &Allocation) {
        if let Some(done) = self.seen.resize.progress.take() {
            let text = allocation::event_text("Pod resize completed", &granted.apply(self.pod), done.generation, "");
            self.event(None, false, "ResizeCompleted", text);
        }
    }

    // === a pod that ends ===

    fn ending(&mut self) {
        let grace = view::grace_period(self.pod, None);
        let grace = self.seen.grace_override.map_or(grace, |shorter| grace.min(shorter)).max(LEAST_GRACE);
        let mut busy = false;
        for (_, c) in view::all_containers(self.pod) {
            let s = self.container(&c.name);
            // Whoever pulls is told to stop; a start cannot be called back and is stopped when it is done.
            busy |= s.doing == Doing::Starting || s.running().is_some();
            if s.running().is_some_and(|r| r.stop.is_none()) {
                self.begin_stop(&c, format!("Stopping container {}", c.name), grace, false);
            }
        }
        self.advance_stops();
        if busy || !self.sandbox_stopped() || !self.claims_undone() || !self.volumes_down() {
            return;
        }
        if self.seen.object_gone {
            return self.forget();
        }
        let wanted = self.pod.metadata.deletion_timestamp.is_some() && self.seen.terminal_reported;
        if !wanted || self.seen.deleting {
            return;
        }
        if let Some(at) = self.seen.delete_retry_at.filter(|at| self.now < *at) {
            return self.wake(at);
        }
        self.seen.deleting = true;
        self.actions.push(PodAction::DeleteObject);
    }

    fn sandbox_stopped(&mut self) -> bool {
        match self.seen.sandbox.clone() {
            Sandbox::None | Sandbox::Failed { .. } | Sandbox::Stopped { .. } => true,
            Sandbox::Creating | Sandbox::Stopping { .. } | Sandbox::Removing => false,
            Sandbox::Ready { id } | Sandbox::Lost { id } => {
                self.seen.sandbox = Sandbox::Stopping { id: id.clone() };
                self.actions.push(PodAction::StopSandbox { id });
                false
            }
        }
    }

    fn claims_undone(&mut self) -> bool {
        match self.seen.claims {
            Claims::Unknown | Claims::Undone => true,
            Claims::Preparing | Claims::Undoing => false,
            Claims::Prepared | Claims::Due { .. } => {
                self.seen.claims = Claims::Undoing;
                self.actions.push(PodAction::UndoClaims);
                false
            }
        }
    }

    fn volumes_down(&mut self) -> bool {
        match self.seen.volumes {
            Volumes::Unmounted => true,
            Volumes::Mounting | Volumes::Unmounting => false,
            Volumes::Pending | Volumes::Failed { .. } | Volumes::Mounted => {
                self.seen.volumes = Volumes::Unmounting;
                self.actions.push(PodAction::UnmountVolumes);
                false
            }
        }
    }

    fn forget(&mut self) {
        match self.seen.sandbox.clone() {
            Sandbox::Stopped { id } => {
                self.seen.sandbox = Sandbox::Removing;
                self.actions.push(PodAction::RemoveSandbox { id });
            }
            Sandbox::Removing => {}
            _ => self.actions.push(PodAction::Forget),
        }
    }

    // === probes ===

    fn probes(&mut self) {
        for (role, c) in view::all_containers(self.pod) {
            if matches!(role, Role::App | Role::Sidecar) {
                ProbeKind::ALL.into_iter().for_each(|kind| self.probe(&c, kind));
            }
        }
    }

    fn probe(&mut self, c: &Container, kind: ProbeKind) {
        let Some(spec) = kind.of(c) else { return };
        let now = self.now;
        let ending = self.seen.ending.is_some();
        let gated = kind != ProbeKind::Startup && c.startup_probe.is_some();
        let s = self.container(&c.name);
        let Run::Running(run) = &s.run else { return };
        // A pod that ends is only asked whether it is still ready (`StopLivenessAndStartup`).
        let skip = run.post_start != PostStart::Done
            || (ending && kind != ProbeKind::Readiness)
            || (run.stop.is_some() && !ending);
        if skip || (gated && s.probes.startup.result != Some(true)) {
            return;
        }
        let id = run.id.clone();
        let started_at = run.started_at;
        let earliest = started_at + signed(view::seconds(spec.initial_delay_seconds, 0));
        let period = view::seconds(spec.period_seconds, 10).max(Duration::from_secs(1));
        let seen = s.probes.of(kind);
        if seen.running || seen.on_hold {
            return;
        }
        let is_awaited = kind == ProbeKind::Readiness && seen.result != Some(true);
        let due = seen.asked_at.map_or(earliest, |asked| {
            let age = Duration::try_from(asked.duration_since(started_at)).unwrap_or_default();
            asked + signed(if is_awaited { age.clamp(READY_SOON, period) } else { period })
        });
        if now < due {
            return self.wake(due);
        }
        seen.asked_at = Some(now);
        seen.running = true;
        self.actions.push(PodAction::Probe { container: c.name.clone(), id, kind });
    }
}

impl super::seen::Probes {
    /// The record of one probe.
    pub fn of(&mut self, kind: ProbeKind) -> &mut ProbeSeen {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Liveness => &mut self.liveness,
        }
    }
}

/// What starts the restart back-off over when it changes (`GetBackoffKey`).
fn crash_key(c: &Container) -> String {
    c.image.clone().unwrap_or_default()
}

/// As Go prints a whole number of seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
