//! [`Pods`]: what the server wants of the agent.

use crate::agent::{ContainerTarget, LookupError};
use crate::engine::{EngineError, Session, StreamRequest};
use crate::stats::{Also, NodeSample};
use api::prelude::Pod;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use streaming::port_forward::Dialed;
use url::Url;

/// What the node uses.
#[async_trait]
pub trait Numbers: Send + Sync {
    /// What is counted anyway, and what else is asked for.
    async fn collect(&self, also: Also) -> std::io::Result<NodeSample>;
    /// What the agent tells of itself (`/metrics`).
    async fn own(&self) -> String;
    /// What probes of its pods said (`/metrics/probes`).
    fn probes(&self) -> String;
    /// How the agent is set up (`/configz`).
    fn settings(&self) -> serde_json::Value;
    /// The directory whose files `/logs` shows.
    fn log_dir(&self) -> PathBuf;
    /// Why pods are not looked after, if so.
    fn fault(&self) -> Option<String>;
}

/// Where the log of one run of a container is.
pub struct LogSource {
    /// File in CRI format; rotated ones beside it as `<path>.<time>`.
    pub path: PathBuf,
    /// Ready when nothing more will be written; at once if the container does not run.
    pub ended: BoxFuture<'static, ()>,
}

/// Whose streams.
pub enum Place<'a> {
    /// A command's in a container.
    Exec(&'a ContainerTarget, &'a StreamRequest),
    /// A container's own.
    Attach(&'a ContainerTarget, &'a StreamRequest),
    /// To ports of a pod: its namespace, name and uid.
    PortForward(&'a str, &'a str, &'a str),
}

/// The pods of this node. An empty `uid` is any.
#[async_trait]
pub trait Pods: Send + Sync {
    /// All, with their newest statuses.
    fn all(&self) -> Vec<Arc<Pod>>;
    /// Those of which something runs, with what runs, and nothing else of them.
    fn running(&self) -> Vec<Pod>;
    /// Writes the state of a container's processes into this file of the node's `checkpoints`; where that is. A timeout of 0 seconds is the
    /// engine's own.
    async fn checkpoint(
        &self,
        target: &ContainerTarget,
        file: &str,
        timeout_seconds: i64,
    ) -> Result<PathBuf, EngineError>;
    /// Whether there is such a pod.
    fn find(&self, namespace: &str, pod: &str, uid: &str) -> Result<(), LookupError>;
    /// A running container.
    fn container(&self, namespace: &str, pod: &str, uid: &str, container: &str)
    -> Result<ContainerTarget, LookupError>;
    /// A container's log.
    fn log(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogSource, LookupError>;
    /// Where a container runtime serves these streams itself; `None`: they are had by the calls below.
    async fn streams_at(&self, _: &Place<'_>) -> Result<Option<Url>, EngineError> {
        Ok(None)
    }
    /// Runs a command with streams.
    async fn exec(&self, target: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError>;
    /// Streams of the container's first process.
    async fn attach(&self, target: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError>;
    /// Connects to `localhost:port` inside the pod's network namespace.
    async fn dial(&self, namespace: &str, pod: &str, uid: &str, port: u16) -> Result<Dialed, EngineError>;
}
