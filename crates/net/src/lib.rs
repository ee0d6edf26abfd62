//! The network of a node: addresses and links of pods, Services as packet rules, cluster DNS, ways to other nodes.
//!
//! Everywhere the same three steps (DESIGN D4): an **index** takes Kubernetes objects ([`Change`]) and is pure; a **value** says
//! what the kernel or an answer should be (`NodePlan`, `PodPlan`, `Ruleset`, `Answer`, `OverlayPlan`); a thin **apply** makes it
//! so, from whatever state it finds. No program of the host is called.
//!
//! * [`pod`]: a veth pair and a /32 per pod, everything routed: a packet to a neighbour passes the packet rules like any other, and no
//!   `br_netfilter` is needed.
//! * [`service`]: ClusterIPs, NodePorts, external addresses, host ports and masquerade as one nftables table per IP family.
//! * [`dns`]: cluster DNS on every node.
//! * [`overlay`]: routes or VXLAN to the pods of other nodes.
//! * [`traffic`]: what has gone through links.
//!
//! Calls that touch the kernel block for up to some milliseconds (removing a veth: about 18); use `spawn_blocking`. They act on the
//! network namespace of the calling thread, which in the product is always the host's.
//!
//! Invariants: the kernel is read back, not remembered; every apply is idempotent; [`teardown`] removes every trace.

mod change;
mod config;
pub mod dns;
pub mod overlay;
pub mod pod;
pub mod service;
mod teardown;
pub mod traffic;

pub use change::{Apply, Change};
pub use config::{ConfigError, NetConfig};
pub use teardown::{TeardownError, teardown};
