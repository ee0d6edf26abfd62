//! The scheduler: snapshot → filter → score → bind.
//!
//! [`decide`] is pure: a pod and a [`Snapshot`] in, a node or the reasons per node out. [`run`] owns caches, queue and
//! binding. A plugin is one file in `plugins/` and one line in its table.
//!
//! Invariant: a node is never over-committed. A decision is noted in the snapshot before it is sent (assumed), taken back
//! if the bind fails, and derived anew from the pods of the cache after a restart.
//! Differs from upstream (`pkg/scheduler`): all nodes are looked at, not a sample; no preemption, inter-pod affinity or
//! topology-spread constraints yet (pods that need them wait, by name).

mod decide;
mod plugins;
mod pod;
mod queue;
pub mod run;
mod snapshot;

pub use decide::{Decision, decide};
pub use plugins::names as plugin_names;
pub use pod::PodInfo;
pub use snapshot::{NodeInfo, Snapshot};
