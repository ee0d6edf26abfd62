//! What several crates' tests and the simulator share: a wall clock that follows tokio's (paused) time, and a node that
//! only pretends. Knows the API through `client` alone, as any other user of it.

mod clock;
mod dice;
mod node;

pub use clock::SimClock;
pub use dice::Dice;
pub use node::{FakeNode, Habits, NodeShape};
