//! The scheduler: snapshot → filter → score → bind.
//!
//! [`decide`] is pure: a pod and a [`Snapshot`] in, a node or the reasons per node out. [`run`] owns caches, queue and
//! binding. A plugin is one file in `plugins/` and one line in its table.
//!
//! Invariant: a node is never over-committed. A decision is noted in the snapshot before it is sent (assumed), taken back
//! if the bind fails, and derived anew from the pods of the cache after a restart.
//! Differs from upstream (`pkg/scheduler`): all nodes are looked at, not a sample; affinity and spreading count groups of
//! like pods instead of pods; no devices for extended resources, no profiles, no extenders.

mod affinity;
mod bind;
mod cycle;
mod decide;
mod devices;
mod events;
mod groups;
mod metrics;
mod owners;
mod plugins;
mod pod;
mod preempt;
mod queue;
mod reserve;
mod resources;
pub mod run;
mod snapshot;
mod spread;
mod volumes;

pub use affinity::{PodTerms, Term};
pub use decide::{Decision, Preparation, Waiting, decide};
pub use devices::{ClaimPlan, ClaimStep, Devices};
pub use events::Events;
pub use metrics::SchedulerMetrics;
pub use owners::Owners;
pub use plugins::names as plugin_names;
pub use pod::{HostPort, Needs, PodInfo};
pub use preempt::Room;
pub use resources::Resources;
pub use snapshot::{NodeInfo, Snapshot};
pub use spread::Constraint;
pub use volumes::{VolumePlan, Volumes};
