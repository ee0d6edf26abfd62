//! The node agent: runs the pods that are bound to this node. Sees the API only through `client`.
//!
//! ```text
//!   watch of this node's pods ──▶ Agent ──▶ one worker per pod:  plan (pure) ─▶ execute ─▶ observe (pure) ─▶ plan …
//!                                                     │
//!              seams, in the agent's words:  engine   images   network   cluster      (adapters/ ties them to crates)
//! ```
//!
//! Start reading at [`pod::plan`], then [`pod::status`], [`pod::worker`] and [`Agent`]. Invariants: a plan takes values and
//! gives values; restarting the agent restarts no container; what an action begins is on disk before it is done; nothing
//! is polled but a foreign runtime.

pub mod adapters;
mod agent;
pub mod cluster;
mod context;
pub mod counters;
pub mod credential_providers;
pub mod devices;
pub mod dra;
pub mod engine;
pub mod eviction;
pub mod evictor;
pub mod image_gc;
pub mod images;
pub mod managers;
pub mod network;
pub mod node;
pub mod oom;
mod orphans;
pub mod plugins;
pub mod pod;
pub mod probes;
pub mod pull_records;
pub mod qos;
pub mod revisions;
pub mod server;
pub mod shutdown;
pub mod static_pods;
pub mod stats;
pub mod swap;
pub mod volumes;

pub use agent::{Agent, AgentHandle, ContainerTarget, Feed, LogTarget, LookupError, Parts, PodFeed};
pub use context::{Config, Context};

#[cfg(test)]
pub(crate) mod testing;
