//! Remote commands and forwarded ports: what clients of a node or of a container runtime do over an upgraded HTTP connection.
//!
//! ```text
//!   request ─▶ handshake ─▶ 101 ─▶ websocket │ spdy ─▶ streams ─▶ remote        ─▶ Session of the engine
//!                                                              └▶ port_forward  ─▶ dial into the pod
//! ```
//!
//! WebSocket (`v5.channel.k8s.io` and older, SPDY tunnelled in WebSocket for port-forward) and SPDY/3.1. Invariants: whatever a client
//! sends, no buffer grows without a limit; when a client goes away, everything that was started for it ends. Follows
//! `k8s.io/cri-streaming` and `k8s.io/streaming`.

pub mod answer;
pub mod port_forward;
pub mod remote;
pub mod session;
pub mod spdy;
mod streams;
mod upgrade;
mod websocket;

pub use answer::Refusal;
pub use session::{Io, Session, SessionControl, SessionError, StreamRequest};
pub use streams::Wanted;
pub use upgrade::upgraded;
