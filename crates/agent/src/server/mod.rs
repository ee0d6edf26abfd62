//! The node's API (kubelet's port 10250): pods, logs, exec, attach, port-forward.
//!
//! ```text
//!   TLS ─▶ edge ─▶ auth ─▶ routes ─┬▶ logs            file ─▶ select (pure) ─▶ body
//!                                  ├▶ exec, attach    crate `streaming` ─▶ Session of the engine
//!                                  ├▶ numbers         what the node uses, read when asked
//!                                  ├▶ process         health, flags, since when it runs
//!                                  └▶ portForward     crate `streaming` ─▶ dial
//! ```
//!
//! The API server only tunnels bytes to here, so the client's own handshake ends in this server.
//!
//! Invariants: nothing is answered to strangers; whatever a client sends, no buffer grows without a limit;
//! when a client goes away, everything that was started for it ends.
//!
//! Follows `pkg/kubelet/server/server.go`, `k8s.io/cri-streaming` and `k8s.io/streaming`. Differs: no read-only port, no
//! redirect to the container runtime, rotated logs are part of the log.

mod agent_pods;
mod auth;
mod client_auth;
mod edge;
mod log_query;
mod logs;
mod node_logs;
mod numbers;
mod process;
mod relay;
mod routes;
mod seams;

pub use agent_pods::AgentPods;
pub use auth::{Attributes, AuthError, NodeAuth, User};
pub use client_auth::ClientAuth;
pub use edge::{Tls, TlsError, TlsMaterial, serve};
pub use numbers::AgentNumbers;
pub use process::NodeProcess;
pub use seams::{LogSource, Numbers, Pods};

use base::{Clock, Random};
use std::sync::Arc;

/// What the server works with. Cheap to clone.
#[derive(Clone)]
pub struct NodeApi {
    /// `metadata.name` of this Node, for authorization.
    pub node_name: Arc<str>,
    /// The pods of this node.
    pub pods: Arc<dyn Pods>,
    /// What they use.
    pub numbers: Arc<dyn Numbers>,
    /// Who may do what.
    pub auth: Arc<dyn NodeAuth>,
    /// What it tells of its process.
    pub process: Arc<NodeProcess>,
    /// Wall time, for `sinceSeconds`.
    pub clock: Arc<dyn Clock>,
    /// For what no program should read.
    pub random: Arc<dyn Random>,
}

#[cfg(test)]
mod tests;
