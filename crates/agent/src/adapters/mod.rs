//! The agent's seams over the real crates: `runtime`, `image`, `net`, `client`; and over a foreign container runtime, by the
//! Container Runtime Interface. Thin: names and errors are translated, nothing is decided.

mod cluster;
mod cri;
mod disk;
mod engine;
mod images;
mod mounts;
mod network;
mod nfs;

pub use cluster::{ApiCluster, ClusterOptions};
pub use cri::{CriError, CriImages, CriRuntime, Endpoints};
pub use engine::RuntimeEngine;
pub(crate) use engine::runtime_user;
#[cfg(test)]
pub(crate) use engine::uid_of;
pub use images::StoreImages;
pub(crate) use images::logins;
pub use mounts::NodeMounts;
pub use network::NodePodNetwork;
