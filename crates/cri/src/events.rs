//! What happens to sandboxes and containers, for clients that want to be told (`GetContainerEvents`). A sandbox is told of as a
//! container with its id, as containerd has it.

use crate::{Shared, view};
use futures_util::stream::{self, BoxStream, StreamExt};
use node_api::cri::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;
use tonic::Status;

/// Events that a slow client may be behind.
const BEHIND: usize = 1000;

/// Tells everybody who listens.
pub(crate) struct Events(broadcast::Sender<ContainerEventResponse>);

impl Default for Events {
    fn default() -> Self {
        Events(broadcast::Sender::new(BEHIND))
    }
}

impl Shared {
    /// Something happened to container (or sandbox) `id` of a sandbox.
    pub(crate) fn tell(&self, id: &str, sandbox: &str, kind: ContainerEventType) {
        if self.events.0.receiver_count() == 0 {
            return;
        }
        let containers = self.state.containers_of(sandbox);
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: self.now_ns(),
            pod_sandbox_status: self.state.sandbox(sandbox).ok().map(|s| view::sandbox_status(&s)),
            containers_statuses: containers.iter().map(|c| view::container_status(c)).collect(),
        };
        // The last listener may just have gone.
        self.events.0.send(event).ok();
    }

    /// Everything from now on, until we end. A client that is too slow is told so; it lists and listens again.
    pub(crate) fn listen(&self) -> BoxStream<'static, Result<ContainerEventResponse, Status>> {
        stream::unfold(Some(self.events.0.subscribe()), |events| async {
            let mut events = events?;
            match events.recv().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(broadcast::error::RecvError::Closed) => None,
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    Some((Err(Status::data_loss(format!("{lost} events were lost: too slow a client"))), None))
                }
            }
        })
        .take_until(self.shutdown.clone().cancelled_owned())
        .boxed()
    }
}
