//! Cluster DNS, answered on every node from an index: no query to the API, no hop to another node.
//!
//! [`DnsIndex`] takes Services and EndpointSlices; [`answer()`] is the zone, pure; [`DnsServer`] speaks UDP and TCP and forwards what is not
//! ours. It binds the cluster's DNS address, which [`crate::pod::PodNetwork::setup`] has put on the node's own link, so packets to it
//! never leave the node and need no translation.
//!
//! Names and answers follow the Kubernetes DNS specification 1.1.0 and CoreDNS' `kubernetes` plugin (`pods insecure`) where that leaves room.

mod answer;
mod forward;
mod index;
mod server;

pub use answer::{Answer, answer};
pub use index::DnsIndex;
pub use server::{DnsConfig, DnsError, DnsServer, DnsSockets, parse_resolv_conf};
