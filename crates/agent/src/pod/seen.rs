//! [`Seen`]: everything the node knows of one pod: sandbox, volumes, containers, probes, back-offs.
//!
//! It is at once the plan's input and the pod's checkpoint on disk. What is under way (`Doing`, `Sandbox::Creating`, …)
//! is a variant too; [`Seen::recovered`] turns it back into "not yet done" after a restart of the agent, and the
//! engine's own snapshot then says what really runs.
//!
//! Always holds: a container's newest finished run is never forgotten before the pod is.

use super::allocation::{Allocation, Resize};
use api::k8s::api::core::v1::{ContainerUser, ResourceRequirements};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// What the node knows of one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Namespaces, cgroup and supervisor of the pod.
    pub sandbox: Sandbox,
    /// How many sandboxes were made so far.
    pub attempts: u32,
    /// Addresses of the sandbox; kept after it stopped, as the status keeps them.
    pub ips: Vec<IpAddr>,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// The pod's claims to devices.
    pub claims: Claims,
    /// By container name.
    pub containers: BTreeMap<String, ContainerSeen>,
    /// Set once, when the pod must end; never unset.
    pub ending: Option<Ending>,
    /// How long containers may take to stop, whatever the pod says.
    pub grace_override: Option<Duration>,
    /// The pod ends because of the node, not of anything that it does.
    pub disrupted: bool,
    /// The API object is gone (force-deleted, or removed by us).
    pub object_gone: bool,
    /// Our delete request is under way.
    pub deleting: bool,
    /// When the agent first saw the pod; becomes `status.startTime` if the object has none yet.
    pub first_seen: Option<Timestamp>,
    /// Newest status that the server has taken is terminal (`Succeeded`/`Failed`).
    pub terminal_reported: bool,
    /// When to try our delete request again.
    pub delete_retry_at: Option<Timestamp>,
    /// The pause after the last failed mount.
    pub last_volume_pause: Option<Duration>,
    /// Ids of ended runs whose files can go.
    pub leftovers: Vec<String>,
    /// Exits that were reported before the start.
    pub early_exits: Vec<EarlyExit>,
    /// What the node has granted the pod.
    pub allocated: Option<Allocation>,
    /// What the pod's own cgroup was made for.
    pub actuated: Option<Allocation>,
    /// A resize under way.
    pub resize: Resize,
    /// A container ended in a way that starts all of them again, and not all of them have ended yet.
    pub restarting_all: bool,
    /// The devices of its containers, and which of them are well.
    pub devices: crate::devices::registry::Health,
    /// The same of what claims gave them. Not kept: after a restart it is asked again.
    #[serde(skip)]
    pub dynamic: crate::dra::book::Statuses,
}

/// A run that ended before its start was reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyExit {
    /// The engine's id.
    pub id: String,
    /// How it ended.
    pub how: super::observe::ExitFacts,
}

/// The pod's sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    /// None yet, or the last one is gone for good.
    #[default]
    None,
    /// Being made.
    Creating,
    /// Could not be made; tried again at `retry_at`.
    Failed {
        /// When to try again.
        retry_at: Timestamp,
        /// The pause that led to `retry_at`.
        pause: Duration,
    },
    /// Ready for containers.
    Ready {
        /// The engine's id.
        id: String,
    },
    /// Being stopped: processes end, network is released.
    Stopping {
        /// The engine's id.
        id: String,
    },
    /// Nothing runs and the network is released; files and records are still there.
    Stopped {
        /// The engine's id.
        id: String,
    },
    /// The engine lost it (host reboot, supervisor gone): to be cleaned up, then made again if the pod goes on.
    Lost {
        /// The engine's id.
        id: String,
    },
    /// Files and records are being removed.
    Removing,
}

impl Sandbox {
    /// The id of a sandbox that takes containers.
    pub fn ready(&self) -> Option<&str> {
        match self {
            Sandbox::Ready { id } => Some(id),
            _ => None,
        }
    }
}

/// The pod's volumes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Volumes {
    /// Not set up yet.
    #[default]
    Pending,
    /// Being set up.
    Mounting,
    /// Could not be set up; tried again at `retry_at`, or earlier if a referenced object changes.
    Failed {
        /// When to try again.
        retry_at: Timestamp,
        /// The pause that led to `retry_at`.
        pause: Duration,
    },
    /// Set up.
    Mounted,
    /// Being taken down.
    Unmounting,
    /// Taken down.
    Unmounted,
}

/// The pod's claims to devices. A pod without claims leaves them as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Claims {
    /// No driver has heard of them yet.
    #[default]
    Unknown,
    /// Being prepared.
    Preparing,
    /// Prepared.
    Prepared,
    /// To be prepared, and drivers may know of them: it was tried, or it was for a sandbox that is gone.
    Due {
        /// Not earlier, after a failure.
        retry_at: Option<Timestamp>,
    },
    /// Being undone.
    Undoing,
    /// Undone.
    Undone,
}

impl Claims {
    /// Whether drivers may have something prepared.
    fn are_held(&self) -> bool {
        !matches!(self, Claims::Unknown | Claims::Undone)
    }
}

/// What the node knows of one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSeen {
    /// The newest run.
    pub run: Run,
    /// What is under way towards the next run.
    pub doing: Doing,
    /// `restartCount` of the newest run.
    pub restarts: u32,
    /// The run before the newest one.
    pub last: Option<Exit>,
    /// Why the next run has not started (upstream's reason cache).
    pub waiting: Option<Waiting>,
    /// The image for the next run, pulled and not used yet.
    pub image: Option<PulledImage>,
    /// Ids of the images that are volumes of it, since they were last pulled.
    pub volume_images: BTreeSet<String>,
    /// Restarts.
    pub crash: Pause,
    /// The exit (by its time) whose back-off has been told in an event.
    pub backed_off_for: Option<Timestamp>,
    /// Pulls.
    pub pull: Pause,
    /// What the last failed pull said.
    pub pull_error: Option<String>,
    /// After a start that failed before anything ran: when to try again.
    pub retry_at: Option<Timestamp>,
    /// Probe states of the newest run.
    pub probes: Probes,
}

/// The newest run of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Run {
    /// Never ran.
    #[default]
    None,
    /// Runs.
    Running(Running),
    /// Ended.
    Exited(Exit),
}

/// What is under way for a container that does not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doing {
    /// Nothing.
    #[default]
    Nothing,
    /// Its image is being looked for or pulled.
    Pulling,
    /// It is being made and started.
    Starting,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// The engine's id, 64 hex digits.
    pub id: String,
    /// The image's name as the runtime resolved it.
    pub image: String,
    /// The image's digest reference (`imageID`).
    pub image_id: String,
    /// What it was started from ([`crate::pod::view::definition`]).
    pub definition: String,
    /// When its first process began.
    pub started_at: Timestamp,
    /// The signal that asks it to stop.
    pub stop_signal: String,
    /// The postStart hook; the container is not "started" before it has succeeded.
    pub post_start: PostStart,
    /// Set when it must stop.
    pub stop: Option<Stop>,
    /// What its cgroup was made for.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Who its first process began as.
    #[serde(default)]
    pub user: Option<ContainerUser>,
}

/// How far the postStart hook is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PostStart {
    /// Succeeded, or there is none.
    #[default]
    Done,
    /// Runs.
    Runs,
    /// Failed: the container is to be killed.
    Failed,
}

/// A container that is being stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// When it was decided.
    pub since: Timestamp,
    /// How long it may take from `since`.
    pub grace: Duration,
    /// How far it is.
    pub stage: StopStage,
    /// Start it again afterwards whatever the restart policy says (the definition changed).
    pub restart: bool,
}

/// Stages of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopStage {
    /// The preStop hook runs.
    PreStop,
    /// Hook done (or none); waits for the containers that must stop before it.
    Turn,
    /// Asked to stop at this time.
    Asked(Timestamp),
    /// Killed at this time.
    Killed(Timestamp),
}

/// The reason of an end that was for starting all containers of the pod again, and of the wait that follows.
pub const RESTARTING_ALL: &str = "RestartingAllContainers";
/// What is said of it.
pub const RESTARTING_ALL_MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// A container's run that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// The engine's id; empty if it is not known.
    pub id: String,
    /// The image's name as the runtime resolved it.
    pub image: String,
    /// The image's digest reference (`imageID`).
    pub image_id: String,
    /// Exit code; 128 + signal if killed.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`, …
    pub reason: String,
    /// Termination message.
    pub message: String,
    /// When its first process began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Start it again whatever the restart policy says.
    pub restart: bool,
    /// It was stopped only to be started again, and has not waited for that yet.
    #[serde(default)]
    pub replaced: bool,
    /// Who its first process began as.
    #[serde(default)]
    pub user: Option<ContainerUser>,
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// CamelCase, e.g. `ImagePullBackOff`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// An image that is on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImage {
    /// The image's id in the image store.
    pub id: String,
    /// Ids of the images that are volumes of the container, by the volume's name.
    #[serde(default)]
    pub volumes: BTreeMap<String, String>,
}

/// Upstream's `flowcontrol.Backoff` for one key: doubles, forgets after twice the maximum.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// The current pause.
    pub length: Duration,
    /// When it was set.
    pub set_at: Option<Timestamp>,
    /// What it is about; another value starts over (`GetBackoffKey`).
    pub key: String,
}

/// The kubelet stops and starts such a container within one synchronization, which nobody sees.
const RESTART_HIDDEN: Duration = Duration::from_secs(1);

/// First pause (`backOffPeriod`, `imageBackOffPeriod`).
pub const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause (`MaxCrashLoopBackOff`, `MaxImageBackOff`).
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Pause {
    /// The end of the pause that began at `since`, if it is still to come (`IsInBackOffSince`).
    pub fn ends_after(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let set_at = self.set_at?;
        if self.key != key || since.duration_since(set_at) > MEMORY {
            return None;
        }
        let ends = since + signed(self.length);
        (now < ends).then_some(ends)
    }

    /// The next pause, for something that happened at `event` (`Next`).
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let fresh = self.key != key || self.set_at.is_none_or(|at| event.duration_since(at) > MEMORY);
        self.length = if fresh { FIRST_PAUSE } else { (self.length * 2).min(LONGEST_PAUSE) };
        self.set_at = Some(now);
        self.key = key.to_owned();
    }
}

/// A pause that nothing renewed for this long is forgotten (`hasExpired`: twice the maximum).
const MEMORY: jiff::SignedDuration = jiff::SignedDuration::from_secs(2 * 300);

/// A duration that can be added to a timestamp; absurd lengths become a day.
pub fn signed(d: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(d).unwrap_or(jiff::SignedDuration::from_hours(24))
}

/// The three probes of a container's newest run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probes {
    /// Must succeed once before the others begin.
    pub startup: ProbeSeen,
    /// Failure takes the container out of Services.
    pub readiness: ProbeSeen,
    /// Failure restarts the container.
    pub liveness: ProbeSeen,
}

/// One probe's history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeSeen {
    /// When it was run last; `None` before the first time. Not kept: after a restart it is asked at once.
    #[serde(skip)]
    pub asked_at: Option<Timestamp>,
    /// A run is under way.
    #[serde(skip)]
    pub running: bool,
    /// Newest answer.
    pub answer: Option<bool>,
    /// How many times in a row.
    pub times: u32,
    /// Newest answer that passed its threshold.
    pub result: Option<bool>,
    /// No more runs for this container (a startup probe that decided, a liveness probe that failed).
    pub on_hold: bool,
}

/// Why a pod ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Its containers are done.
    Completed,
    /// The object is being deleted or is gone.
    Deleted,
    /// The node ends it: `status.phase` becomes `Failed` with these.
    Failed {
        /// `status.reason`, e.g. `DeadlineExceeded`, `Evicted`.
        reason: String,
        /// `status.message`
        message: String,
    },
    /// The API says it is terminal already; nothing may run.
    AlreadyTerminal,
}

impl Seen {
    /// The same after a restart of the agent: whatever was under way is to be decided again. Running containers stay as
    /// recorded; the caller then applies what the engine reports.
    #[must_use]
    pub fn recovered(mut self) -> Self {
        self.deleting = false;
        self.sandbox = match self.sandbox {
            Sandbox::Creating | Sandbox::Failed { .. } => Sandbox::None,
            Sandbox::Stopping { id } => Sandbox::Ready { id },
            Sandbox::Removing => Sandbox::None,
            other => other,
        };
        self.volumes = match self.volumes {
            Volumes::Mounting | Volumes::Failed { .. } | Volumes::Mounted => Volumes::Pending,
            // Taking down is idempotent.
            Volumes::Unmounting => Volumes::Pending,
            other => other,
        };
        self.claims = match self.claims {
            Claims::Preparing | Claims::Due { .. } | Claims::Undoing => Claims::Due { retry_at: None },
            // The machine may have been started anew; what runs has its devices.
            Claims::Prepared if self.sandbox.ready().is_none() => Claims::Due { retry_at: None },
            other => other,
        };
        for container in self.containers.values_mut() {
            container.doing = Doing::Nothing;
            container.image = None;
            if let Run::Running(run) = &mut container.run {
                if run.post_start == PostStart::Runs {
                    // Whether it ended is not known; it is not run twice.
                    run.post_start = PostStart::Done;
                }
                if let Some(stop) = &mut run.stop
                    && stop.stage == StopStage::PreStop
                {
                    // The hook's process may still run; it is not started twice.
                    stop.stage = StopStage::Turn;
                }
            }
            for probe in
                [&mut container.probes.startup, &mut container.probes.readiness, &mut container.probes.liveness]
            {
                probe.running = false;
            }
        }
        self
    }

    /// The container's record, if there is one.
    pub fn container(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.get(name)
    }

    /// Whether a process of the pod may still run, or devices of it are still prepared (`PodCouldHaveRunningContainers`).
    pub fn may_run(&self) -> bool {
        self.has_processes() || self.claims.are_held()
    }

    /// Whether a process of the pod may still run. What drivers hold for it afterwards takes nothing from the machine but devices.
    pub fn has_processes(&self) -> bool {
        self.anything_runs() || self.containers.values().any(|c| c.running().is_some())
    }

    /// A container that was stopped only to be started again is about to run: what it looks like meanwhile is worth no word
    /// before this time.
    pub fn unsettled_until(&self) -> Option<Timestamp> {
        let about_to_run = |c: &ContainerSeen| {
            let exit = c.exited().filter(|e| e.restart && c.doing != Doing::Nothing)?;
            Some(exit.finished_at? + signed(RESTART_HIDDEN))
        };
        self.containers.values().filter_map(about_to_run).max().filter(|_| self.ending.is_none())
    }

    /// Whether there is or may be a sandbox.
    pub fn anything_runs(&self) -> bool {
        matches!(
            self.sandbox,
            Sandbox::Creating | Sandbox::Ready { .. } | Sandbox::Stopping { .. } | Sandbox::Lost { .. }
        )
    }
}

impl ContainerSeen {
    /// The run that is going on.
    pub fn running(&self) -> Option<&Running> {
        match &self.run {
            Run::Running(run) => Some(run),
            _ => None,
        }
    }

    /// The newest run, if it ended.
    pub fn exited(&self) -> Option<&Exit> {
        match &self.run {
            Run::Exited(exit) => Some(exit),
            _ => None,
        }
    }

    /// When the back-off of its restart began. The kubelet stops a container whose probe failed and starts it again in one go, so that it
    /// sees the run before as the newest that ended (`doBackOff` in `pkg/kubelet/kuberuntime/kuberuntime_manager.go`).
    pub fn crashed_at(&self) -> Option<Timestamp> {
        let exit = self.exited()?;
        if exit.replaced { self.last.as_ref()?.finished_at } else { exit.finished_at }
    }

    /// Makes it one that is to begin anew, without back-off: how it ended is not kept (`convertToAPIContainerStatuses`).
    pub fn begin_anew(&mut self) {
        let Run::Exited(exit) = std::mem::take(&mut self.run) else { return };
        self.last = Some(Exit {
            id: String::new(),
            code: 137,
            reason: RESTARTING_ALL.into(),
            message: RESTARTING_ALL_MESSAGE.into(),
            started_at: None,
            finished_at: None,
            restart: false,
            ..exit
        });
        self.waiting = None;
        self.retry_at = None;
    }

    /// Whether it has passed postStart and its startup probe (`isContainerStarted`).
    pub fn is_started(&self, has_startup_probe: bool) -> bool {
        self.running().is_some_and(|r| r.post_start == PostStart::Done)
            && (!has_startup_probe || self.probes.startup.result == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("small number")
    }

    #[test]
    fn pause_doubles_to_five_minutes_and_forgets_after_ten() {
        let mut pause = Pause::default();
        let mut now = 1000;
        let mut lengths = Vec::new();
        for _ in 0..7 {
            pause.next("c", at(now), at(now));
            lengths.push(pause.length.as_secs());
            now += 1;
        }
        assert_eq!(lengths, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pause.ends_after("c", at(now), at(now)), Some(at(now + 300)));
        assert_eq!(pause.ends_after("other image", at(now), at(now)), None);
        pause.next("c", at(now + 700), at(now + 700));
        assert_eq!(pause.length.as_secs(), 10);
    }
}
