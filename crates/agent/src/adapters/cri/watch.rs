//! What happens in the runtime: its lists are read every second, and at once when there is reason to, and compared with what was
//! known (`pkg/kubelet/pleg/generic.go`). [`Known::compare`] is pure.
//!
//! Each event of a runtime that tells some (`GetContainerEvents`) is such a reason.

use super::{CriError, Runtime, call};
use super::{config, logs};
use crate::engine::{EngineEvent, EngineExit};
use base::Clock;
use jiff::Timestamp;
use node_api::cri::{
    Container, ContainerState, ContainerStatus, ContainerStatusRequest, GetEventsRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxState,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tonic::Code;

/// `genericPlegRelistPeriod`.
const PERIOD: Duration = Duration::from_secs(1);
/// Before events are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What was known of what is ours.
#[derive(Debug, Default)]
pub(super) struct Known {
    looked: bool,
    /// Sandboxes that are ready, with their pods.
    ready: BTreeMap<String, String>,
    /// Containers that have not ended, with their pods.
    live: BTreeMap<String, String>,
    /// Those that have, likewise.
    ended: BTreeMap<String, String>,
}

/// What has happened.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Containers that ended, with their pods.
    ended: BTreeMap<String, String>,
    /// Sandboxes that are ready no longer, with their pods.
    lost: BTreeMap<String, String>,
}

impl Known {
    /// Takes the lists over. What is found at the first look is nothing new.
    fn compare(&mut self, sandboxes: &[PodSandbox], containers: &[Container]) -> Changes {
        let ours = sandboxes.iter().filter(|s| config::own_sandbox(&s.annotations).is_some());
        let uid = |s: &PodSandbox| s.metadata.as_ref().map(|m| m.uid.clone()).unwrap_or_default();
        let pods: BTreeMap<&str, (String, bool)> =
            ours.map(|s| (s.id.as_str(), (uid(s), s.state() == PodSandboxState::SandboxReady))).collect();
        let mut now = Known { looked: true, ..Known::default() };
        for c in containers {
            let Some((pod, _)) = pods.get(c.pod_sandbox_id.as_str()) else { continue };
            let ended = c.state() == ContainerState::ContainerExited;
            let list = if ended { &mut now.ended } else { &mut now.live };
            list.insert(c.id.clone(), pod.clone());
        }
        let ready = pods.into_iter().filter(|(_, (_, ready))| *ready);
        now.ready = ready.map(|(id, (pod, _))| (id.to_owned(), pod)).collect();
        let mut changes = Changes::default();
        if self.looked {
            changes.ended = without(&now.ended, &self.ended);
            changes.ended.extend(without(&self.live, &now.live));
            changes.lost = without(&self.ready, &now.ready);
        }
        *self = now;
        changes
    }
}

fn without(all: &BTreeMap<String, String>, others: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    all.iter().filter(|(id, _)| !others.contains_key(*id)).map(|(id, pod)| (id.clone(), pod.clone())).collect()
}

/// How a container ended, if it did.
pub(super) fn exit_of(status: &ContainerStatus) -> Option<EngineExit> {
    (status.state() == ContainerState::ContainerExited).then(|| EngineExit {
        code: status.exit_code,
        oom: status.reason == "OOMKilled",
        lost: false,
        finished_at: timestamp(status.finished_at),
    })
}

pub(super) fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Tells of what happens.
pub(super) struct Watch {
    pub(super) runtime: Runtime,
    pub(super) clock: Arc<dyn Clock>,
    /// A reason to look at once.
    pub(super) look: Arc<Notify>,
    pub(super) events: mpsc::UnboundedSender<EngineEvent>,
}

impl Watch {
    /// Until nobody listens.
    pub(super) async fn run(self) {
        let mut known = Known::default();
        let hints = base::tasks::spawn("cri-events", hints(self.runtime.clone(), self.look.clone()));
        let logs = base::tasks::spawn("cri-logs", logs::run(self.runtime.clone(), self.clock.clone()));
        loop {
            tokio::select! {
                () = self.look.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
                () = self.events.closed() => break,
            }
            if let Err(error) = self.look(&mut known).await {
                tracing::warn!(%error, "failed to list what the container runtime has");
            }
        }
        hints.abort();
        logs.abort();
    }

    async fn look(&self, known: &mut Known) -> Result<(), CriError> {
        let (sandboxes, containers) = lists(&self.runtime).await?;
        let changes = known.compare(&sandboxes, &containers);
        for (container, pod) in changes.ended {
            let exit = match status(&self.runtime, &container).await {
                Ok(found) => exit_of(&found),
                Err(_) => None,
            };
            // It is gone, and its exit code with it.
            let lost = || EngineExit { code: 137, oom: false, lost: true, finished_at: self.clock.now() };
            let exit = exit.unwrap_or_else(lost);
            // Nobody listens any more when the agent ends.
            self.events.send(EngineEvent::Exited { pod, container, exit }).ok();
        }
        for (sandbox, pod) in changes.lost {
            self.events.send(EngineEvent::SandboxLost { pod, sandbox }).ok();
        }
        Ok(())
    }
}

/// All there are.
pub(super) async fn lists(runtime: &Runtime) -> Result<(Vec<PodSandbox>, Vec<Container>), CriError> {
    let sandboxes = call(runtime.clone().list_pod_sandbox(ListPodSandboxRequest::default())).await?.items;
    let containers = call(runtime.clone().list_containers(ListContainersRequest::default())).await?.containers;
    Ok((sandboxes, containers))
}

/// Of a container.
pub(super) async fn status(runtime: &Runtime, container: &str) -> Result<ContainerStatus, CriError> {
    let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
    call(runtime.clone().container_status(request)).await?.status.ok_or_else(|| CriError::Empty("ContainerStatus"))
}

/// Looks at once whenever the runtime tells that something happened, if it does.
async fn hints(runtime: Runtime, look: Arc<Notify>) {
    loop {
        match runtime.clone().get_container_events(GetEventsRequest {}).await {
            Ok(events) => {
                let mut events = events.into_inner();
                while let Ok(Some(_)) = events.message().await {
                    look.notify_one();
                }
            }
            Err(status) if status.code() == Code::Unimplemented => return,
            Err(error) => tracing::debug!(%error, "the container runtime gives no events now"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::config;
    use super::*;
    use crate::engine::SandboxSpec;

    fn sandbox(id: &str, state: PodSandboxState, ours: bool) -> PodSandbox {
        let spec = SandboxSpec { uid: "uid".into(), ..SandboxSpec::default() };
        let config = config::sandbox(&spec, "");
        let annotations = if ours { config.annotations } else { Default::default() };
        PodSandbox {
            id: id.into(),
            state: state.into(),
            annotations,
            metadata: config.metadata,
            ..PodSandbox::default()
        }
    }

    fn container(id: &str, state: ContainerState) -> Container {
        Container { id: id.into(), pod_sandbox_id: "s".into(), state: state.into(), ..Container::default() }
    }

    #[test]
    fn ends_are_told_once() {
        use ContainerState::{ContainerCreated as Created, ContainerExited as Exited, ContainerRunning as Running};
        let ready = [sandbox("s", PodSandboxState::SandboxReady, true)];
        let mut known = Known::default();
        let mut check = |containers: &[Container], want: &[&str]| {
            let changes = known.compare(&ready, containers);
            let got: Vec<String> = changes.ended.into_iter().map(|(c, s)| format!("{c} of {s}")).collect();
            assert_eq!(got, want);
        };
        // What had ended before is in the snapshot that the agent began with.
        check(&[container("old", Exited), container("a", Running), container("b", Created)], &[]);
        check(&[container("old", Exited), container("a", Exited), container("b", Running)], &["a of uid"]);
        check(&[container("a", Exited), container("quick", Exited)], &["b of uid", "quick of uid"]);
        check(&[container("a", Exited), container("quick", Exited)], &[]);
    }

    #[test]
    fn only_our_sandboxes_are_lost() {
        let mut known = Known::default();
        let ready = |id| sandbox(id, PodSandboxState::SandboxReady, true);
        known.compare(&[ready("a"), ready("b"), sandbox("theirs", PodSandboxState::SandboxReady, false)], &[]);
        let changes = known.compare(&[sandbox("a", PodSandboxState::SandboxNotready, true)], &[]);
        assert_eq!(changes.lost.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    }
}
