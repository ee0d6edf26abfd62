//! The task of one pod: plans, starts what the plan says, waits for what happens. One writer of the pod's status.
//!
//! ```text
//!   watch ──▶ ┌────────┐ plan ──▶ checkpoint ──▶ actions (tasks) ──┐
//!   exits ──▶ │ inbox  │                                           │ observations
//!   timer ──▶ └────────┘ ◀─────────────────────────────────────────┘
//! ```
//!
//! Sleeps until a message or the plan's own wake-up; nothing is polled. Always holds: the checkpoint is on disk before
//! an action begins; at most one status request is under way.

use super::allocation;
use super::checkpoint::Checkpoint;
use super::events::PodEvents;
use super::execute::{self, Executor, Message, Shown, VolumesTurn};
use super::observe::{Observation, next_restart, observe};
use super::plan::{Plan, PodAction, ProbeKind, plan};
use super::recover::exit_facts;
use super::seen::{Seen, Volumes};
use super::startup::Startup;
use super::status::status;
use super::termination;
use super::view;
use crate::cluster::ClusterError;
use crate::context::Context;
use crate::counters;
use crate::engine::EngineExit;
use crate::orphans;
use crate::static_pods;
use api::Codec;
use api::k8s::api::core::v1::{Pod, PodStatus};
use api::meta::MetaExt;
use base::backoff::Backoff;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What others may know of a pod; replaced as a whole.
#[derive(Debug, Clone)]
pub struct PodView {
    /// The newest object, with our own newest status.
    pub pod: Arc<Pod>,
    /// What the node knows.
    pub seen: Arc<Seen>,
}

/// A worker as the agent holds it. Dropping it does not end the worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    inbox: mpsc::UnboundedSender<Message>,
    view: watch::Receiver<PodView>,
}

impl WorkerHandle {
    /// Tells the worker something. One that has ended needs no telling.
    pub fn tell(&self, message: Message) {
        self.inbox.send(message).ok();
    }

    /// The pod as it is now.
    pub fn view(&self) -> PodView {
        self.view.borrow().clone()
    }

    /// Notices every change of [`Self::view`]; closed when the pod is over.
    pub fn views(&self) -> watch::Receiver<PodView> {
        self.view.clone()
    }
}

struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    seen: Seen,
    events: PodEvents,
    checkpoint: Checkpoint,
    outbox: mpsc::UnboundedSender<Message>,
    view: watch::Sender<PodView>,
    /// Pulls can be called back when the pod ends.
    pulls: BTreeMap<String, JoinHandle<()>>,
    writing: bool,
    write_backoff: Backoff,
    write_again_at: Option<Timestamp>,
    /// What the server says that it has changed last, until the next turn.
    changed: Option<Value>,
    /// It was told that the server shows a status otherwise than it was written.
    warned: bool,
    renew_at: Option<Timestamp>,
    volumes_turn: VolumesTurn,
    /// A static pod that the API does not show as it should.
    mirror_lost: bool,
    startup: Option<Startup>,
    /// Since when there is a status that the server does not have.
    status_since: Option<Instant>,
    /// What its turn is about, as `/metrics` says it.
    turn: &'static str,
    /// The sandbox, by its number, whose first containers are known to have failed.
    failed_in: u32,
}

/// Starts a pod's worker. `ended` is called when nothing of the pod is left.
pub fn spawn(context: Arc<Context>, pod: Arc<Pod>, seen: Seen, ended: impl FnOnce() + Send + 'static) -> WorkerHandle {
    let (outbox, inbox) = mpsc::unbounded_channel();
    let (view, watched) = watch::channel(PodView { pod: pod.clone(), seen: Arc::new(seen.clone()) });
    let handle = WorkerHandle { inbox: outbox.clone(), view: watched };
    let begun = Instant::now();
    let worker = Worker {
        startup: Startup::new(&pod, context.clock.now()),
        events: PodEvents::new(context.cluster.clone(), context.clock.clone()),
        checkpoint: Checkpoint::new(context.pod_dir(pod.uid())),
        context,
        pod,
        seen,
        outbox,
        view,
        pulls: BTreeMap::new(),
        writing: false,
        write_backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
        write_again_at: None,
        changed: None,
        warned: false,
        renew_at: None,
        volumes_turn: VolumesTurn::default(),
        mirror_lost: false,
        status_since: None,
        turn: "create",
        failed_in: 0,
    };
    base::tasks::detach("pod", async move {
        let counters = &worker.context.counters;
        counters.observe(&counters::POD_WORKER_START, &[], begun.elapsed().as_secs_f64());
        let containers = view::app_containers(&worker.pod).len();
        counters.observe(&counters::CONTAINERS_PER_POD, &[], containers as f64);
        if worker.run(inbox).await {
            ended();
        }
    });
    handle
}

impl Worker {
    /// Whether the pod is over (rather than the agent).
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) -> bool {
        loop {
            let begun = Instant::now();
            let now = self.context.clock.now();
            let Plan { actions, seen, wake_at } = plan(&self.pod, &self.seen, now);
            self.seen = seen;
            if let Err(error) = self.checkpoint.save(&self.pod, &self.seen) {
                // Going on is better than stopping: only a crash right now would forget something.
                tracing::error!(pod = view::describe(&self.pod), error = %base::chain(&error), "failed to save a checkpoint");
            }
            if self.seen.ending.is_some() {
                self.context.volumes.give_up(self.pod.uid());
                if !self.seen.may_run() {
                    self.context.give_back(self.pod.uid());
                }
                self.pulls.retain(|_, pull| {
                    pull.abort();
                    false
                });
            }
            for action in actions {
                if action == PodAction::Forget {
                    self.hide_mirror().await;
                    self.forget();
                    return true;
                }
                self.begin(action);
            }
            self.write_status(now);
            self.publish();
            self.count_turn(begun, now);
            let unsettled = self.seen.unsettled_until().filter(|at| now < *at);
            let wake_at = [wake_at, self.renew_at, self.write_again_at, unsettled].into_iter().flatten().min();
            let Some(message) = self.wait(&mut inbox, wake_at).await else { continue };
            if self.take(message) {
                return false;
            }
            // What is there already is one change, not many.
            while let Ok(message) = inbox.try_recv() {
                if self.take(message) {
                    return false;
                }
            }
        }
    }

    /// The next message; `None` when it is time to plan again.
    async fn wait(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<Message>,
        wake_at: Option<Timestamp>,
    ) -> Option<Message> {
        let Some(at) = wake_at else { return inbox.recv().await };
        let left = at.duration_since(self.context.clock.now());
        let left = Duration::try_from(left).unwrap_or_default();
        tokio::select! {
            message = inbox.recv() => message,
            () = tokio::time::sleep(left) => {
                self.tend();
                None
            }
        }
    }

    /// What is due besides the plan.
    fn tend(&mut self) {
        let now = self.context.clock.now();
        if self.renew_at.is_some_and(|at| now >= at) {
            self.renew_at = None;
            self.refresh_volumes();
        }
        if self.write_again_at.is_some_and(|at| now >= at) {
            self.write_again_at = None;
        }
    }

    /// Takes a message in. `true`: stop.
    fn take(&mut self, message: Message) -> bool {
        let now = self.context.clock.now();
        match message {
            Message::Detach => return true,
            Message::Pod(pod) => {
                self.turn = "update";
                self.take_pod(pod);
            }
            Message::RenewAt(at) => self.renew_at = at,
            Message::MirrorLost => self.mirror_lost = true,
            Message::Exited { id, exit } => {
                let message = self.last_words(&id, &exit);
                let happened = Observation::Exited { id: id.clone(), how: exit_facts(&exit, message) };
                observe(&self.pod, &mut self.seen, happened, now);
                self.count_end(&id);
            }
            Message::StatusWritten { result, change } => self.status_written(*result, change, now),
            Message::Observed(happened) => {
                if happened == Observation::ReferencesChanged {
                    self.refresh_volumes();
                }
                if let Observation::ImagePulled { container, .. } | Observation::PullFailed { container, .. } =
                    &happened
                {
                    self.pulls.remove(container);
                }
                if let Observation::StartFailed { container, .. } | Observation::PullFailed { container, .. } =
                    &happened
                {
                    self.count_failed_users(container);
                }
                if let Observation::Probed { container, kind, answer, took: Some(took), .. } = &happened {
                    self.count_probe(container, *kind, *answer, *took);
                }
                if let Observation::Started { container, running } = &happened {
                    self.hear_early_exit(container, &running.id);
                }
                observe(&self.pod, &mut self.seen, happened, now);
            }
        }
        false
    }

    fn count_turn(&mut self, begun: Instant, now: Timestamp) {
        let operation = match (&self.seen.ending, self.seen.may_run()) {
            (None, _) => self.turn,
            (Some(_), true) => "kill",
            (Some(_), false) => "terminated",
        };
        self.turn = "sync";
        let counters = &self.context.counters;
        counters.observe(&counters::POD_WORKER, &[operation], begun.elapsed().as_secs_f64());
        let Some(startup) = &mut self.startup else { return };
        startup.pulls(!self.pulls.is_empty(), now);
        let view = self.view.borrow();
        if let Some(took) = view.pod.status.as_ref().and_then(|status| startup.runs(status, now)) {
            counters.observe(&counters::POD_START, &[], took.as_secs_f64());
        }
    }

    fn count_start(&mut self, now: Timestamp) {
        let counters = &self.context.counters;
        if let Some(since) = self.status_since.take() {
            counters.observe(&counters::POD_STATUS, &[], since.elapsed().as_secs_f64());
        }
        if let Some(took) = self.startup.as_mut().and_then(|startup| startup.is_known(&self.pod, now)) {
            counters.observe(&counters::POD_START_TOTAL, &[], took.total.as_secs_f64());
            if let Some(sli) = took.sli {
                counters.observe(&counters::POD_START_SLI, &[], sli.as_secs_f64());
            }
        }
    }

    /// A pod with users of its own has failed to start, for `/metrics`, if its sandbox has not been made or one of the containers that
    /// begin with it has not; of one sandbox only the first failure counts (the deferred function in `SyncPod` of `kuberuntime_manager.go`).
    fn count_failed_users(&mut self, container: &str) {
        let tried = self.seen.containers.get(container).is_some_and(|c| c.waiting.is_some());
        let later = tried || self.seen.containers.values().any(|c| c.exited().is_some());
        let own_users = view::spec(&self.pod).host_users == Some(false);
        if own_users && !later && self.failed_in != self.seen.attempts {
            self.failed_in = self.seen.attempts;
            self.context.counters.count(&counters::USER_PODS_FAILED, &[]);
        }
    }

    /// Here, so that nothing is counted of a pod that was forgotten. Only answers are measured that do not say that something is
    /// wrong (`doProbe`).
    fn count_probe(&self, container: &str, kind: ProbeKind, answer: Option<bool>, took: Duration) {
        let result = match answer {
            Some(true) => "successful",
            Some(false) => "failed",
            None => "unknown",
        };
        let (counters, pod) = (&self.context.counters, &self.pod);
        let (namespace, name) = (pod.namespace(), pod.name());
        counters.count(&counters::PROBE_RESULTS, &[kind.title(), result, container, name, namespace, pod.uid()]);
        if answer != Some(false) {
            let labels = [kind.title(), container, name, namespace];
            counters.observe(&counters::PROBE_TIME, &labels, took.as_secs_f64());
        }
    }

    fn count_end(&self, id: &str) {
        let ended = self.seen.containers.iter().find_map(|(name, c)| Some((name, c.exited().filter(|e| e.id == id)?)));
        let Some((name, exit)) = ended else { return };
        if let Some((role, _)) = view::find_container(&self.pod, name) {
            let labels = [counters::container_type(role), &exit.code.to_string(), exit.reason.as_str()];
            self.context.counters.count(&counters::CONTAINERS_ENDED, &labels);
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        if pod.revision() != 0 && pod.revision() < self.pod.revision() {
            // Older than what the server has answered to our status.
            return;
        }
        for change in allocation::requested_changes(&self.pod, &pod) {
            self.context.counters.count(&counters::RESIZES_REQUESTED, &change);
        }
        let before = &self.pod.metadata;
        let shown = before.labels != pod.metadata.labels || before.annotations != pod.metadata.annotations;
        self.pod = pod;
        if shown {
            self.refresh_volumes();
        }
    }

    fn begin(&mut self, action: PodAction) {
        let executor = Executor {
            context: self.context.clone(),
            pod: self.granted_pod(),
            seen: self.seen.clone(),
            events: self.events.clone(),
            outbox: self.outbox.clone(),
            volumes_turn: self.volumes_turn.clone(),
        };
        let pull = match &action {
            PodAction::PullImage { container, .. } => Some(container.clone()),
            _ => None,
        };
        let outbox = self.outbox.clone();
        let task = base::tasks::spawn("pod action", async move {
            let copy = action.clone();
            let done = base::tasks::spawn("action", executor.execute(action));
            let stop = AbortOnDrop(done.abort_handle());
            if let Err(error) = done.await
                && error.is_panic()
            {
                tracing::error!(action = ?copy, "an action broke off");
                if let Some(happened) = execute::broken_off(&copy) {
                    // Nobody to tell is fine.
                    outbox.send(Message::Observed(happened)).ok();
                }
            }
            drop(stop);
        });
        if let Some(container) = pull {
            self.pulls.insert(container, task);
        }
    }

    /// The pod with the resources that the node has granted, which everything of it is made from.
    fn granted_pod(&self) -> Arc<Pod> {
        match self.seen.allocated.as_ref().map(|a| a.apply(&self.pod)) {
            Some(std::borrow::Cow::Owned(pod)) => Arc::new(pod),
            _ => self.pod.clone(),
        }
    }

    /// Brings what is mounted, or is being mounted from what may be old by now, up to date.
    fn refresh_volumes(&mut self) {
        if !matches!(self.seen.volumes, Volumes::Mounting | Volumes::Mounted) {
            return;
        }
        let turn = self.volumes_turn.clone();
        let (context, pod, events, outbox) =
            (self.context.clone(), self.granted_pod(), self.events.clone(), self.outbox.clone());
        let ips = self.seen.ips.clone();
        base::tasks::detach("refresh volumes", async move {
            let turn = turn.lock().await;
            if *turn != Shown::Set {
                return;
            }
            let now = context.clock.now();
            let facts = execute::facts(&context, &pod, &ips);
            match context.volumes.set_up(&pod, &facts, now).await {
                // Nobody to tell is fine.
                Ok(renew) => drop(outbox.send(Message::RenewAt(renew))),
                Err(e) => {
                    if let Some(reason) = e.reason() {
                        events.record(&pod, None, true, reason, &e.to_string());
                    }
                    let again = now + jiff::SignedDuration::from_secs(10);
                    drop(outbox.send(Message::RenewAt(Some(again))));
                }
            }
        });
    }

    fn last_words(&self, id: &str, exit: &EngineExit) -> String {
        let run = self.seen.containers.iter().find(|(_, c)| c.running().is_some_and(|r| r.id == id));
        let Some((name, seen)) = run else { return String::new() };
        last_words(&self.context, &self.pod, name, seen.restarts, exit.code)
    }

    /// A container may have ended before the answer that it started is here; only now it is known whose last words those are.
    fn hear_early_exit(&mut self, container: &str, id: &str) {
        let restarts = self.seen.containers.get(container).map_or(0, next_restart);
        if let Some(early) = self.seen.early_exits.iter_mut().find(|e| e.id == id) {
            early.how.message = last_words(&self.context, &self.pod, container, restarts, early.how.code);
        }
    }

    fn forget(&self) {
        let (uid, context) = (self.pod.uid(), &self.context);
        context.volumes.forget(uid);
        context.counters.forget_probes(&self.pod);
        let logs = context.pod_log_dir(self.pod.namespace(), self.pod.name(), uid);
        // The checkpoint goes last: until then a crash finds the rest again.
        [logs, context.pod_run_dir(uid), context.pod_dir(uid)].iter().for_each(|dir| orphans::remove(dir));
    }

    // === status ===

    fn publish(&self) {
        let mut pod = (*self.pod).clone();
        pod.status = Some(self.status(self.context.clock.now()));
        self.view.send_replace(PodView { pod: Arc::new(pod), seen: Arc::new(self.seen.clone()) });
    }

    fn status(&self, now: Timestamp) -> PodStatus {
        let config = &self.context.config;
        status(&self.pod, &self.seen, &config.runtime.name, &config.node_ips, now)
    }

    fn write_status(&mut self, now: Timestamp) {
        let not_yet = |at: Option<Timestamp>| at.is_some_and(|at| now < at);
        if self.writing || self.seen.object_gone || not_yet(self.write_again_at) || not_yet(self.seen.unsettled_until())
        {
            return;
        }
        let wanted = self.status(now);
        let before = self.pod.status.clone().unwrap_or_default();
        if static_pods::is_static(&self.pod) {
            if self.mirror_lost || status_patch(&before, &wanted).is_some() {
                self.show_mirror(wanted);
            }
            return;
        }
        let change = status_patch(&before, &wanted);
        if let Some(changed) = self.changed.take() {
            if change.as_ref() == Some(&changed) {
                return self.write_later(&changed, now);
            }
            self.write_backoff.reset();
        }
        let Some(change) = change else {
            if is_terminal(&before) && !self.seen.terminal_reported {
                self.tell_self(Observation::StatusWritten { terminal: true });
            }
            return;
        };
        let patch = json!({
            "metadata": {"uid": self.pod.uid(), "resourceVersion": self.pod.metadata.resource_version},
            "status": &change,
        });
        self.writing = true;
        self.status_since.get_or_insert_with(Instant::now);
        let (context, pod, outbox) = (self.context.clone(), self.pod.clone(), self.outbox.clone());
        base::tasks::detach("pod status", async move {
            let mut result = context.cluster.patch_pod_status(pod.namespace(), pod.name(), &patch).await;
            let change = result.is_ok().then_some(change);
            if let Err(ClusterError::Conflict(_)) = &result {
                // Somebody else wrote; the next status starts from theirs.
                result = match context.cluster.pod(pod.namespace(), pod.name()).await {
                    Ok(Some(newest)) if newest.uid() == pod.uid() => Ok(newest),
                    Ok(_) => Err(ClusterError::NotFound(view::describe(&pod))),
                    Err(e) => Err(e),
                };
            }
            outbox.send(Message::StatusWritten { result: Box::new(result), change }).ok();
        });
    }

    /// The server takes a change and does not show it: writing it again at once would never end.
    fn write_later(&mut self, change: &Value, now: Timestamp) {
        let wait = self.write_backoff.fail();
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(pod = view::describe(&self.pod), %change, ?wait, "the server shows a status otherwise than it was written");
        }
        self.write_again_at = Some(now + super::seen::signed(wait));
    }

    /// The status of a static pod is shown by its mirror.
    fn show_mirror(&mut self, wanted: PodStatus) {
        self.writing = true;
        self.mirror_lost = false;
        let (context, pod, outbox) = (self.context.clone(), self.pod.clone(), self.outbox.clone());
        base::tasks::detach("mirror pod", async move {
            let shown = static_pods::show(&*context.cluster, &context.config.node_name, &pod, &wanted).await;
            let result = Box::new(shown.map(|()| Pod { status: Some(wanted), ..(*pod).clone() }));
            outbox.send(Message::StatusWritten { result, change: None }).ok();
        });
    }

    /// One that stays is found when the agent starts the next time.
    async fn hide_mirror(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        if !static_pods::is_static(&self.pod) {
            return;
        }
        let hidden = tokio::time::timeout(PATIENCE, static_pods::hide(&*self.context.cluster, &self.pod)).await;
        if !matches!(hidden, Ok(Ok(()))) {
            tracing::warn!(pod = view::describe(&self.pod), "failed to remove a mirror pod");
        }
    }

    fn tell_self(&self, happened: Observation) {
        self.outbox.send(Message::Observed(happened)).ok();
    }

    fn status_written(&mut self, result: Result<Pod, ClusterError>, change: Option<Value>, now: Timestamp) {
        self.writing = false;
        match result {
            Ok(pod) => {
                // Whether it has changed what it says is seen with the next status.
                if change.is_none() {
                    self.write_backoff.reset();
                }
                self.changed = change;
                self.write_again_at = None;
                let terminal = is_terminal(&pod.status.clone().unwrap_or_default());
                self.take_pod(Arc::new(pod));
                self.count_start(now);
                observe(&self.pod, &mut self.seen, Observation::StatusWritten { terminal }, now);
            }
            Err(error) => {
                self.mirror_lost = static_pods::is_static(&self.pod);
                // A pod that is gone is told by the watch.
                let wait = self.write_backoff.fail();
                tracing::debug!(pod = view::describe(&self.pod), error = %base::chain(&error), ?wait, "status not written");
                self.write_again_at = Some(now + super::seen::signed(wait));
            }
        }
    }
}

/// Ends the inner task with the outer one.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The termination message of a run.
pub fn last_words(context: &Context, pod: &Pod, container: &str, restarts: u32, code: i32) -> String {
    let Some((_, c)) = view::find_container(pod, container) else { return String::new() };
    let file = context.termination_path(pod.uid(), container, restarts);
    let log = context.log_path(pod.namespace(), pod.name(), pod.uid(), container, restarts);
    termination::message(&c, &file, &log, code)
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// A JSON merge patch (RFC 7386) from one status to another; `None` if they are the same.
pub fn status_patch(before: &PodStatus, after: &PodStatus) -> Option<Value> {
    let value = |s: &PodStatus| {
        let mut value = serde_json::from_slice(&s.encode()).unwrap_or(Value::Null);
        leave_out_empty_states(&mut value);
        value
    };
    merge_patch(&value(before), &value(after))
}

/// The API shows the last state of a container that has none as an empty one, as Go leaves no struct out: that is no difference.
fn leave_out_empty_states(status: &mut Value) {
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in status.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(fields) = container.as_object_mut().filter(|c| c.get("lastState") == Some(&json!({}))) {
                fields.remove("lastState");
            }
        }
    }
}

pub(crate) fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    let (Value::Object(b), Value::Object(a)) = (before, after) else {
        return (before != after).then(|| after.clone());
    };
    let mut out = serde_json::Map::new();
    for (key, value) in a {
        match b.get(key) {
            Some(old) => {
                if let Some(change) = merge_patch(old, value) {
                    out.insert(key.clone(), change);
                }
            }
            None => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out.extend(b.keys().filter(|k| !a.contains_key(*k)).map(|k| (k.clone(), Value::Null)));
    (!out.is_empty()).then_some(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_shows_of_nothing_is_not_written_again() {
        let status = |text: &str| -> PodStatus { serde_json::from_str(text).expect("a status") };
        let written =
            status(r#"{"containerStatuses":[{"name":"a","ready":true,"restartCount":0,"image":"i","imageID":""}]}"#);
        let shown = status(
            r#"{"containerStatuses":[{"name":"a","ready":true,"restartCount":0,"image":"i","imageID":"","lastState":{}}]}"#,
        );
        assert_ne!(written, shown);
        assert_eq!(status_patch(&shown, &written), None);
    }

    #[test]
    fn merge_patches_hold_only_what_differs() {
        let before = json!({"a": 1, "b": {"c": 2, "d": [1]}, "gone": true});
        let after = json!({"a": 1, "b": {"c": 3, "d": [1]}, "new": {}});
        assert_eq!(merge_patch(&before, &after), Some(json!({"b": {"c": 3}, "gone": null, "new": {}})));
        assert_eq!(merge_patch(&after, &after), None);
    }
}
