//! Scripts for tests of plan, observe and status: one event per line in, what the pod does and shows out.
//!
//! ```text
//! +5 started a        five seconds later, container a has started
//! ```

use super::allocation::Refusal;
use super::fixture;
use super::observe::{ExitFacts, Observation, StartFailure, observe};
use super::plan::{PodAction, ProbeKind, go_duration, plan};
use super::seen::{PostStart, PulledImage, Running, Seen};
use super::status;
use super::view;
use api::k8s::api::core::v1::Pod;
use jiff::Timestamp;
use std::collections::BTreeMap;

pub(crate) struct Script {
    pub(crate) pod: Pod,
    pub(crate) seen: Seen,
    now: i64,
    runs: BTreeMap<String, u32>,
    out: String,
    status_line: String,
    /// Answers mounts, sandboxes, pulls and starts at once.
    pub(crate) smooth: bool,
    /// The node has no room for a resize.
    full: bool,
    /// Cgroups cannot be changed.
    tight: bool,
}

const BEGIN: i64 = 1_000_000;

impl Script {
    pub(crate) fn new(spec: &str) -> Self {
        Script {
            pod: fixture::pod(spec),
            seen: Seen::default(),
            now: BEGIN,
            runs: BTreeMap::new(),
            out: String::new(),
            status_line: String::new(),
            smooth: true,
            full: false,
            tight: false,
        }
    }

    /// Runs the script and returns what happened.
    pub(crate) fn run(mut self, script: &str) -> String {
        self.out += "[  0] bound\n";
        self.settle();
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let line = match line.strip_prefix('+') {
                Some(rest) => {
                    let (seconds, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                    self.now += seconds.parse::<i64>().expect("seconds");
                    rest
                }
                None => line,
            };
            self.out += &format!("[{:>3}] {}\n", self.now - BEGIN, if line.is_empty() { "(time)" } else { line });
            self.event(line);
            self.settle();
        }
        self.out
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_second(self.now).expect("small")
    }

    fn id(&self, container: &str) -> String {
        format!("{container}{}", self.runs.get(container).copied().unwrap_or(0))
    }

    fn event(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let container = words.get(1).map(|s| (*s).to_owned()).unwrap_or_default();
        let id = self.id(&container);
        let rest = words.get(2..).unwrap_or_default().join(" ");
        let happened = match words[0] {
            "" => return,
            "mounted" => Observation::VolumesMounted,
            "mount-failed" => Observation::VolumesFailed,
            "unmounted" => Observation::VolumesUnmounted,
            "prepared" => Observation::ClaimsPrepared,
            "prepare-failed" => Observation::ClaimsFailed,
            "undone" => Observation::ClaimsUndone,
            "sandbox" => Observation::SandboxCreated { id: format!("s{}", self.seen.attempts), ips: ips() },
            "sandbox-failed" => Observation::SandboxFailed,
            "sandbox-lost" => Observation::SandboxLost,
            "sandbox-stopped" => Observation::SandboxStopped,
            "sandbox-removed" => Observation::SandboxRemoved,
            "references-changed" => Observation::ReferencesChanged,
            "pull-failed" => Observation::PullFailed { container, reason: "ErrImagePull".into(), message: rest },
            "start-failed" => Observation::StartFailed { container, failure: StartFailure::Config, message: rest },
            "run-failed" => Observation::StartFailed { container, failure: StartFailure::Run, message: rest },
            "post-start-done" => Observation::PostStartEnded { container, id, error: None },
            "post-start-failed" => Observation::PostStartEnded { container, id, error: Some("hook failed".into()) },
            "pre-stop-done" => Observation::PreStopEnded { container, id },
            "exit" => {
                let how = ExitFacts {
                    code: words[2].parse().expect("code"),
                    oom: words.get(3) == Some(&"oom"),
                    reason: None,
                    message: String::new(),
                    finished_at: self.at(),
                };
                Observation::Exited { id, how }
            }
            "probe" => {
                let kind = match words[2] {
                    "startup" => ProbeKind::Startup,
                    "readiness" => ProbeKind::Readiness,
                    _ => ProbeKind::Liveness,
                };
                Observation::Probed { container, id, kind, answer: Some(words[3] == "ok"), took: None }
            }
            "status-written" => {
                let now = self.at();
                self.pod.status = Some(status::status(&self.pod, &self.seen, "dhow", &[], now));
                let phase = self.pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
                Observation::StatusWritten { terminal: phase == "Succeeded" || phase == "Failed" }
            }
            "gone" => Observation::ObjectGone,
            "delete" => {
                self.pod.metadata.deletion_timestamp = Some(api::Time(self.at()));
                self.pod.metadata.deletion_grace_period_seconds = words[1].parse().ok();
                return;
            }
            "image" => {
                let spec = self.pod.spec.as_mut().expect("fixture has one");
                let lists = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
                lists.filter(|c| c.name == container).for_each(|c| c.image = Some(rest.clone()));
                return;
            }
            "cpu" => {
                self.pod.metadata.generation = Some(self.pod.metadata.generation.unwrap_or(1) + 1);
                let spec = self.pod.spec.as_mut().expect("fixture has one");
                let amounts = [("cpu".to_owned(), api::k8s::apimachinery::pkg::api::resource::Quantity(rest.clone()))];
                let wanted = api::k8s::api::core::v1::ResourceRequirements {
                    requests: Some(amounts.into()),
                    ..Default::default()
                };
                spec.containers
                    .iter_mut()
                    .filter(|c| c.name == container)
                    .for_each(|c| c.resources = Some(wanted.clone()));
                return;
            }
            "evict" => {
                let (reason, message, grace) =
                    ("Evicted".into(), "no memory".into(), std::time::Duration::from_secs(1));
                Observation::Evicted { reason, message, grace, disrupted: container != "for-itself" }
            }
            "node" => {
                self.full = container == "full";
                self.tight = container == "tight";
                if self.full || self.tight {
                    return;
                }
                Observation::RoomMade
            }
            "restart-agent" => {
                self.seen = std::mem::take(&mut self.seen).recovered();
                return;
            }
            other => panic!("unknown event {other}"),
        };
        let now = self.at();
        observe(&self.pod, &mut self.seen, happened, now);
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let now = self.at();
            let plan = plan(&self.pod, &self.seen, now);
            self.seen = plan.seen;
            let mut answers = Vec::new();
            for action in plan.actions {
                self.out += &format!("      {}\n", describe(&action));
                answers.extend(self.answer(&action));
            }
            if answers.is_empty() {
                self.show(plan.wake_at);
                return;
            }
            answers.into_iter().for_each(|a| observe(&self.pod, &mut self.seen, a, now));
        }
        panic!("the plan does not settle:\n{}", self.out);
    }

    /// What a node without trouble answers.
    fn answer(&mut self, action: &PodAction) -> Option<Observation> {
        if !self.smooth {
            return None;
        }
        Some(match action {
            PodAction::MountVolumes => Observation::VolumesMounted,
            PodAction::UnmountVolumes => Observation::VolumesUnmounted,
            PodAction::PrepareClaims => Observation::ClaimsPrepared,
            PodAction::UndoClaims => Observation::ClaimsUndone,
            PodAction::CreateSandbox { .. } => {
                Observation::SandboxCreated { id: format!("s{}", self.seen.attempts), ips: ips() }
            }
            PodAction::StopSandbox { .. } => Observation::SandboxStopped,
            PodAction::RemoveSandbox { .. } => Observation::SandboxRemoved,
            PodAction::PullImage { container, image, .. } => {
                if image.starts_with("bad") {
                    return None;
                }
                Observation::ImagePulled {
                    container: container.clone(),
                    image: PulledImage { id: image.clone(), ..PulledImage::default() },
                }
            }
            PodAction::StartContainer { container, image, .. } => {
                let image = &image.id;
                if image.starts_with("odd") {
                    return None;
                }
                *self.runs.entry(container.clone()).or_default() += 1;
                let running = self.running(container, image);
                Observation::Started { container: container.clone(), running: Box::new(running) }
            }
            PodAction::AskForResources { wanted } => {
                let refused = self.full.then(|| Refusal { infeasible: false, message: "no room".to_owned() });
                let generation = self.pod.metadata.generation;
                Observation::ResourcesAnswered { wanted: wanted.clone(), generation, refused }
            }
            PodAction::Resize { to, running, .. } => {
                let error = self.tight.then(|| "in use".to_owned());
                Observation::Resized { to: to.clone(), running: running.clone(), error }
            }
            _ => return None,
        })
    }

    fn running(&self, name: &str, image: &str) -> Running {
        let (_, c) = view::find_container(&self.pod, name).expect("it is in the spec");
        Running {
            id: self.id(name),
            image: image.to_owned(),
            image_id: format!("sha256:{image}"),
            definition: view::definition(&c),
            started_at: self.at(),
            stop_signal: "SIGTERM".into(),
            post_start: if c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()) {
                PostStart::Runs
            } else {
                PostStart::Done
            },
            stop: None,
            resources: self.seen.allocated.as_ref().map(|a| a.of(name)).unwrap_or_default(),
            user: None,
        }
    }

    /// One line of status, if it changed, and when the plan wants to be asked again.
    fn show(&mut self, wake_at: Option<Timestamp>) {
        let status = status::status(&self.pod, &self.seen, "dhow", &[], self.at());
        let mut line = status.phase.clone().unwrap_or_default();
        if let Some(reason) = &status.reason {
            line += &format!("({reason})");
        }
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        for s in lists.into_iter().flatten().flatten() {
            let state = s.state.clone().unwrap_or_default();
            let what = match (&state.waiting, &state.running, &state.terminated) {
                (Some(w), ..) => w.reason.clone().unwrap_or_default(),
                (_, Some(_), _) => "running".into(),
                (.., Some(t)) => format!("{}={}", t.reason.clone().unwrap_or_default(), t.exit_code),
                _ => "?".into(),
            };
            let ready = if s.ready { " ready" } else { "" };
            let restarts = if s.restart_count > 0 { format!(" x{}", s.restart_count) } else { String::new() };
            line += &format!(" | {} {what}{ready}{restarts}", s.name);
        }
        let conditions: Vec<String> = status
            .conditions
            .iter()
            .flatten()
            .filter(|c| c.status == "True" && c.type_ != "PodScheduled")
            .map(|c| c.type_.clone())
            .collect();
        line += &format!(" | {}", conditions.join(","));
        if line != self.status_line {
            self.out += &format!("      = {line}\n");
            self.status_line = line;
        }
        if let Some(wake) = wake_at {
            self.out += &format!("      wake at {}\n", wake.as_second() - BEGIN);
        }
    }
}

fn ips() -> Vec<std::net::IpAddr> {
    vec!["10.42.0.5".parse().expect("literal")]
}

fn describe(action: &PodAction) -> String {
    match action {
        PodAction::MountVolumes => "mount volumes".into(),
        PodAction::UnmountVolumes => "unmount volumes".into(),
        PodAction::PrepareClaims => "prepare claims".into(),
        PodAction::UndoClaims => "undo claims".into(),
        PodAction::CreateSandbox { attempt } => format!("create sandbox {attempt}"),
        PodAction::StopSandbox { id } => format!("stop sandbox {id}"),
        PodAction::RemoveSandbox { id } => format!("remove sandbox {id}"),
        PodAction::PullImage { container, image, policy } => format!("pull {image} for {container} ({policy:?})"),
        PodAction::StartContainer { container, restarts, .. } => format!("start {container} #{restarts}"),
        PodAction::RunPreStop { id, timeout, .. } => format!("preStop {id} within {}", go_duration(*timeout)),
        PodAction::Signal { id, signal, .. } => format!("{signal} to {id}"),
        PodAction::AskForResources { .. } => "ask for resources".into(),
        PodAction::Resize { running, .. } => {
            let ids: Vec<&str> = running.iter().map(|(_, id)| id.as_str()).collect();
            format!("resize {}", ids.join(","))
        }
        PodAction::RemoveRun { id } => format!("remove {id}"),
        PodAction::Probe { id, kind, .. } => format!("probe {id} {kind:?}"),
        PodAction::DeleteObject => "delete object".into(),
        PodAction::Forget => "forget".into(),
        PodAction::Event(e) => {
            let kind = if e.warning { "Warning" } else { "Normal" };
            format!(
                "event {kind} {} {}\"{}\"",
                e.reason,
                e.container.as_ref().map(|c| format!("{c} ")).unwrap_or_default(),
                e.message
            )
        }
    }
}
