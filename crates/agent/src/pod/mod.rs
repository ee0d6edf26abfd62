//! One pod: what is known ([`seen`]), what to do ([`plan`]), what happened ([`observe`]), what the API is told
//! ([`status`]), what the engine is told ([`spec`]); and the task that does it ([`worker`]).

pub mod admission;
pub mod allocation;
pub mod checkpoint;
pub mod events;
pub mod execute;
pub mod host_ports;
pub mod observe;
pub mod plan;
pub mod preemption;
pub mod recover;
pub mod seen;
pub mod spec;
mod startup;
pub mod status;
pub mod termination;
pub mod users;
pub mod view;
pub mod worker;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
