//! What several crates' tests and the simulator share: a wall clock that follows tokio's (paused) time, a node that
//! only pretends, and a CSI driver. Knows the API through `client` alone, as any other user of it.

mod clock;
mod csi;
mod dice;
mod node;

pub use clock::SimClock;
pub use csi::{CsiFixture, CsiOptions};
pub use dice::Dice;
pub use node::{FakeNode, Habits, NodeShape};
