//! Rules over objects: kinds and their strategies, schemas, selectors, patches, server-side apply.
//!
//! Invariant: pure. No async, no IO, no clock, no randomness; everything is a value in and a value out.

pub mod accept;
pub mod apply;
pub mod bootstrap_token;
pub mod cel;
pub mod certificates;
pub mod cron;
pub mod csi;
pub mod custom;
pub mod declared_features;
pub mod digest;
pub mod field;
pub mod go_regex;
pub mod go_url;
pub mod healthz;
pub mod json;
pub mod key_pair;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod pod_references;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resource_claims;
pub mod scan;
pub mod schema;
pub mod selector;
pub mod services;
pub mod time_zone;
pub mod validation;
pub mod volumes;
pub mod zpages;
