//! What several crates' tests and the simulator share: a wall clock that follows tokio's (paused) time, a node that
//! only pretends, and drivers of volumes (CSI) and of dynamic resources. Knows the API through `client` alone, as any other user of it.

mod clock;
mod csi;
mod dice;
mod dra;
mod node;
mod rpc;

pub use clock::SimClock;
pub use csi::{CsiFixture, CsiOptions};
pub use dice::Dice;
pub use dra::{DraFixture, DraOptions};
pub use node::{FakeNode, Habits, NodeShape};
