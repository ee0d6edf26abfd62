//! What std could have had: clock, randomness, back-off, named tasks, files replaced whole, connections
//! taken, watches of directories, error chains.
//!
//! Invariant: nothing here knows a Kubernetes noun, opens a socket or reads the environment.

pub mod accept;
pub mod backoff;
pub mod clock;
pub mod dir_watch;
pub mod error;
pub mod files;
pub mod random;
pub mod tasks;

pub use clock::{Clock, SystemClock};
pub use dir_watch::DirWatch;
pub use error::chain;
pub use random::{Random, SeededRandom, SystemRandom};
