//! The agent's seams over the real crates: `runtime`, `image`, `net`, `client`. Thin: names and errors are translated,
//! nothing is decided.

mod cluster;
mod engine;
mod images;
mod network;
mod nfs;

pub use cluster::{ApiCluster, ClusterOptions};
pub use engine::RuntimeEngine;
pub(crate) use engine::runtime_user;
pub use images::StoreImages;
pub use network::{NodePodNetwork, OnHostPorts};
