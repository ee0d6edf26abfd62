//! The node agent: runs the pods that are bound to this node. Sees the API only through `client`.
//!
//! Start reading at [`pod::plan`]; then [`pod::status`] and [`pod::worker`].

pub mod cluster;
pub mod engine;
pub mod images;
pub mod network;
pub mod pod;
pub mod volumes;
