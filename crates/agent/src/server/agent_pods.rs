//! [`AgentPods`]: the server's view of the running agent.

use super::seams::{LogSource, Place, Pods};
use crate::agent::{AgentHandle, ContainerTarget, LookupError};
use crate::engine::{EngineError, Session, StreamRequest, Streams};
use crate::pod::seen::ContainerSeen;
use crate::pod::worker::PodView;
use api::ObjectMeta;
use api::k8s::api::core::v1::{Container, PodSpec};
use api::prelude::Pod;
use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use streaming::port_forward::Dialed;
use url::Url;

/// [`Pods`] over an [`AgentHandle`].
pub struct AgentPods {
    agent: AgentHandle,
}

impl AgentPods {
    /// Sees what the agent sees, at every call anew.
    pub fn new(agent: AgentHandle) -> Self {
        AgentPods { agent }
    }
}

/// What the engine would say of a pod if only it were asked (`ToAPIPod` in `pkg/kubelet/container/runtime.go`).
fn what_runs(view: &PodView) -> Option<Pod> {
    view.seen.sandbox.ready()?;
    let container = |(name, seen): (&String, &ContainerSeen)| {
        let image = Some(seen.running()?.image.clone());
        Some(Container { name: name.clone(), image, ..Container::default() })
    };
    let containers = view.seen.containers.iter().filter_map(container).collect();
    let known = &view.pod.metadata;
    let (name, namespace, uid) = (known.name.clone(), known.namespace.clone(), known.uid.clone());
    Some(Pod {
        metadata: ObjectMeta { name, namespace, uid, ..ObjectMeta::default() },
        spec: Some(PodSpec { containers, ..PodSpec::default() }),
        status: None,
    })
}

fn some(uid: &str) -> Option<&str> {
    (!uid.is_empty()).then_some(uid)
}

#[async_trait]
impl Pods for AgentPods {
    fn all(&self) -> Vec<Arc<Pod>> {
        self.agent.pods()
    }

    fn running(&self) -> Vec<Pod> {
        self.agent.views().iter().filter_map(what_runs).collect()
    }

    async fn checkpoint(
        &self,
        target: &ContainerTarget,
        file: &str,
        timeout_seconds: i64,
    ) -> Result<PathBuf, EngineError> {
        self.agent.checkpoint(target, file, timeout_seconds).await
    }

    fn find(&self, namespace: &str, pod: &str, uid: &str) -> Result<(), LookupError> {
        self.agent.pod(namespace, pod, some(uid)).map(drop)
    }

    fn container(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        container: &str,
    ) -> Result<ContainerTarget, LookupError> {
        self.agent.container(namespace, pod, some(uid), container)
    }

    fn log(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogSource, LookupError> {
        let mut target = self.agent.log(namespace, pod, None, container, previous)?;
        Ok(LogSource {
            path: target.path.clone(),
            ended: Box::pin(async move {
                if target.running {
                    target.ended().await;
                }
            }),
        })
    }

    async fn streams_at(&self, place: &Place<'_>) -> Result<Option<Url>, EngineError> {
        match place {
            Place::Exec(target, request) => self.agent.streams_at(Streams::Exec(&target.id, request)).await,
            Place::Attach(target, request) => self.agent.streams_at(Streams::Attach(&target.id, request)).await,
            Place::PortForward(namespace, pod, uid) => {
                let sandbox = self.agent.sandbox(namespace, pod, some(uid))?;
                self.agent.streams_at(Streams::PortForward(&sandbox)).await
            }
        }
    }

    async fn exec(&self, target: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError> {
        self.agent.exec(target, request).await
    }

    async fn attach(&self, target: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError> {
        self.agent.attach(target, request).await
    }

    async fn dial(&self, namespace: &str, pod: &str, uid: &str, port: u16) -> Result<Dialed, EngineError> {
        let netns = self.agent.netns(namespace, pod, some(uid)).await?;
        let dialed = streaming::port_forward::connect(netns, port).await;
        dialed.map_err(|e| EngineError::Failed(e.to_string()))
    }
}
