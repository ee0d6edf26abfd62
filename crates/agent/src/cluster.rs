//! [`Cluster`]: what the agent wants of the API server. The adapter to crate `client` is `adapters/cluster.rs`.

use api::k8s::api::resource::v1::ResourceClaim;
use api::k8s::api::storage::v1::{CSIDriver, VolumeAttachment};
use api::prelude::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use async_trait::async_trait;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// A request that did not succeed.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// There is no such object (any more).
    #[error("{0} not found")]
    NotFound(String),
    /// Somebody else wrote first.
    #[error("conflict: {0}")]
    Conflict(String),
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// Refused.
    #[error("{0}")]
    Failed(String),
}

/// What the agent asks of the API server.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The newest pod, not from a cache.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError>;
    /// Applies a JSON merge patch to a pod's status.
    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<Pod, ClusterError>;
    /// Makes a pod.
    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ClusterError>;
    /// This node, as the server has it now.
    async fn read_node(&self) -> Result<Node, ClusterError>;
    /// Deletes this pod (and no other of its name) at once.
    async fn delete_pod(&self, pod: &Pod) -> Result<(), ClusterError>;
    /// A ConfigMap; `None` if there is none. Being asked is also being told of changes from then on, until
    /// [`Self::release`].
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError>;
    /// A Secret, likewise.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError>;
    /// A claim, as the server has it now.
    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError>;
    /// A claim to devices, likewise.
    async fn resource_claim(&self, namespace: &str, name: &str) -> Result<ResourceClaim, ClusterError>;
    /// A volume, likewise.
    async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError>;
    /// What a RuntimeClass calls the runtime; `None` if there is no such class.
    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError>;
    /// A Secret that a volume names, as the server has it now.
    async fn read_secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, ClusterError>;
    /// What is known of a CSI driver, as the watch shows it.
    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ClusterError>;
    /// Whether a volume is attached, as the server has it now.
    async fn volume_attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, ClusterError>;
    /// Applies a JSON merge patch to a claim's status.
    async fn patch_claim_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<PersistentVolumeClaim, ClusterError>;
    /// This node, as the watch shows it.
    fn node(&self) -> Option<Arc<Node>>;
    /// Moves when [`Self::node`] may have changed.
    fn node_moves(&self) -> watch::Receiver<Option<u64>>;
    /// Services of this namespace and `default/kubernetes`; waits until they have been listed once.
    async fn services(&self, namespace: &str) -> Result<Vec<Arc<Service>>, ClusterError>;
    /// A token for a service account, bound to a pod.
    async fn token(&self, request: &TokenRequest<'_>) -> Result<Token, ClusterError>;
    /// Lets go of everything but this, which is all that pods refer to.
    fn release(&self, wanted: &BTreeSet<ObjectReference>);
    /// Records an event. Never blocks.
    fn event(&self, event: ClusterEvent<'_>);
    /// Records an event about a claim. Never blocks.
    fn claim_event(&self, claim: &PersistentVolumeClaim, warning: bool, reason: &str, message: &str);
}

/// A ConfigMap or Secret by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectReference {
    /// Which kind.
    pub kind: ReferenceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Kinds that pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceKind {
    /// `v1 ConfigMap`
    ConfigMap,
    /// `v1 Secret`
    Secret,
}

/// Which token.
#[derive(Debug, Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The pod it is bound to; also gives namespace and service account.
    pub pod: &'a Pod,
    /// `None`: the API server's own.
    pub audience: Option<&'a str>,
    /// How long it should live.
    pub expiration_seconds: i64,
}

/// A service account's token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub value: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token belongs in no log.
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// An event about a pod, one of its containers, or the node.
#[derive(Debug)]
pub struct ClusterEvent<'a> {
    /// `None`: the node.
    pub pod: Option<&'a Pod>,
    /// `spec.containers{name}`
    pub field_path: Option<String>,
    /// Whether somebody should look.
    pub warning: bool,
    /// CamelCase.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
}
