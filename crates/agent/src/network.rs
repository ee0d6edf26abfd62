//! [`PodNetwork`]: what the agent wants of the network. The adapter to crate `net` is `adapters/network.rs`.

use async_trait::async_trait;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use thiserror::Error;

/// Why a pod got no network.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// Why the node has no network for another pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoNetwork {
    /// All addresses are in use.
    Address(String),
    /// The rules of the packet filter cannot be set, so pods would reach no Service.
    Rules(String),
}

/// What the agent asks of the network.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Gives the namespace an interface, an address and routes. Repeating it with the same sandbox gives the same.
    async fn attach(&self, request: &AttachRequest<'_>) -> Result<Vec<IpAddr>, NetworkError>;
    /// Takes all that back. Fine if there is nothing.
    async fn detach(&self, sandbox: &str) -> Result<(), NetworkError>;
    /// Name of the node's end of a sandbox's link, if it has one.
    fn link(&self, sandbox: &str) -> Option<String>;
    /// Why another pod would get no network now.
    fn fault(&self) -> Option<NoNetwork>;
    /// Takes back what belongs to none of these sandboxes. Called once, at start.
    async fn retain(&self, sandboxes: &[String]) -> Result<(), NetworkError>;
}

/// Which namespace is to be connected, and how.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    /// The engine's id of the sandbox.
    pub sandbox: &'a str,
    /// The network namespace.
    pub netns: BorrowedFd<'a>,
    /// `hostPort`s.
    pub host_ports: Vec<HostPort>,
}

/// A container port that the node offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// `None`: on all addresses.
    pub host_ip: Option<IpAddr>,
    /// Port of the node.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}
