//! The API server: TLS and HTTP at the edge, one pipeline for every verb of every kind, objects as shared bytes
//! (DESIGN D1, D2). In-process callers use [`ApiServer::handle`]; remote ones reach the same function through [`serve`].
//!
//! Start reading at `pipeline.rs`: one function per verb whose body lists the steps in order.
//!
//! Invariant: every write to cluster state goes through the pipeline; nothing else here calls `Store::commit`.

pub mod admission;
pub mod auth;
pub mod reader;
pub mod status;

pub use reader::{Header, KindRef, ReadError, Reader, Stored};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or response's body: streamed, so that watches and logs work the same in-process and over TLS.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
