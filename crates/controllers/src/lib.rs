//! Controllers: each a pure `plan` over what the caches show, run by the one loop in [`run`].
//!
//! `all()` is the table. A controller never loops, sleeps, retries or spawns, and sees nothing but [`client`].

mod deployment;
mod endpointslice;
mod plan;
mod pods;
mod replicaset;
mod root_ca;
pub mod run;
mod service_account;
#[cfg(test)]
mod testing;

pub use plan::{Key, Kinds, Plan, PlannedEvent, Target, Write};
pub use run::{Context, Controller, Facts, Runner, Watches};

/// Every controller, in the order they are started.
pub fn all() -> Vec<Runner> {
    vec![
        Runner::of::<deployment::Deployments>(),
        Runner::of::<replicaset::ReplicaSets>(),
        Runner::of::<service_account::ServiceAccounts>(),
        Runner::of::<root_ca::RootCa>(),
        Runner::of::<endpointslice::EndpointSlices>(),
    ]
}
