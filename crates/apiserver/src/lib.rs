//! The API server: TLS and HTTP at the edge, one pipeline for every verb of every kind, objects as shared bytes
//! (DESIGN D1, D2). In-process callers use [`ApiServer::handle`]; remote ones reach the same function through [`serve`].
//!
//! Start reading at `pipeline.rs`: one function per verb whose body lists the steps in order.
//!
//! Invariant: every write to cluster state goes through the pipeline; nothing else here calls `Store::commit`.

#![expect(
    clippy::result_large_err,
    reason = "a Status is the answer of a refused request; it is moved once, not passed around in a loop"
)]

mod access_reviews;
pub mod admission;
mod aggregate;
mod api_server;
pub mod audit;
pub mod auth;
mod codec;
mod connect;
mod convert;
pub mod custom;
mod delete_plan;
mod device_rights;
mod devices;
mod discovery;
mod encode;
mod eviction;
mod flow;
mod gather;
mod health;
mod kinds_table;
mod list;
mod managed;
mod metrics;
mod negotiate;
mod node_metrics;
mod openapi;
mod openapi_proto;
mod options;
mod patch;
mod pipeline;
mod proxy_links;
pub mod reader;
mod remarks;
mod request_info;
mod response;
mod reviews;
mod routes;
mod scale;
mod select;
mod server;
mod service_client;
mod services;
pub mod status;
mod subresources;
mod table;
#[cfg(test)]
mod tests;
pub mod trace;
mod watch;
pub mod webhook_client;
mod websocket;
mod write;
mod zpages;

pub use aggregate::{FRONT_PROXY, FrontProxy};
pub use api_server::{ApiServer, Deps};
pub use health::{LogCheck, StartHook};
pub use managed::Owners;
pub use metrics::AdmissionMetrics;
pub use reader::{Header, KindRef, ReadError, Reader, Stored};
pub use server::{Tls, TlsError, TlsMaterial, serve};
pub use services::ServiceNetwork;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or response's body: streamed, so that watches and logs work the same in-process and over TLS.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
