//! A SPDY/3.1 server connection: streams over any byte stream. Its frames are public for tests that play the client.
//!
//! ```text
//!   socket ─▶ reader ─▶ per stream a short queue ─▶ NewStream.input
//!   socket ◀─ writer ◀── one short queue ◀──────── StreamWriter
//! ```
//!
//! Flow control is by these queues and TCP alone: upstream's library (`vendor/github.com/moby/spdystream`) sends no
//! WINDOW_UPDATE and minds none, so whoever kept to windows would stop after 64 KiB.

mod connection;
mod dictionary;
mod frame;

pub(crate) use connection::{Connection, NewStream, StreamWriter};
pub use frame::{Decoder, Encoder, Frame, FrameError, Headers};
