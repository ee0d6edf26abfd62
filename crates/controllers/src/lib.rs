//! Controllers: each a pure `plan` over what the caches show, run by the one loop in [`run`].
//!
//! `all()` is the table. A controller never loops, sleeps, retries or spawns, and sees nothing but [`client`].

mod plan;
mod pods;
mod replicaset;
pub mod run;

pub use plan::{Key, Kinds, Plan, PlannedEvent, Target, Write};
pub use run::{Context, Controller, Watches};

use run::Runner;

/// Every controller, in the order they are started.
pub fn all() -> Vec<Runner> {
    vec![Runner::of::<replicaset::ReplicaSets>()]
}
