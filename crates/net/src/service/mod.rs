//! Services as packet rules.
//!
//! [`ServiceIndex`] turns Services, EndpointSlices and this Node into a [`ServiceMap`] (who answers where); [`ruleset()`] turns that
//! into a [`Ruleset`] (what the kernel's table should be); [`ServiceProxy`] keeps the kernel so. The layout is flat: one lookup
//! finds the Service, one random number and one more lookup find the endpoint, however many Services there are, and a change
//! moves map elements only.
//!
//! What load balancers ask of a node ([`HealthServer`]) is answered from the same map, as soon as the kernel has it.
//!
//! Behaviour follows upstream's `pkg/proxy` (topology.go, healthcheck/, nftables/proxier.go, conntrack/cleanup.go), the layout does not.

mod apply;
mod conntrack;
mod health;
mod health_server;
mod index;
mod ruleset;

pub use apply::{Change as RulesetChange, ServiceProxy, ServiceProxyError, SyncReport};
pub use conntrack::{UdpFronts, stale_flows};
pub use health::{HealthCheck, HealthChecks, ProxyHealth, ServiceName};
pub use health_server::{HealthServer, OnFailure, PROXY_HEALTH_PORT};
pub use index::{Backend, HostPortMapping, PortName, Protocol, ServiceIndex, ServiceMap, ServicePort};
pub use ruleset::{ChainPlan, RulePlan, Ruleset, SetPlan, ruleset};
