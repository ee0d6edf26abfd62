//! Checks of names, labels, addresses and other formats that many kinds share, in upstream's words
//! (`k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validate/content`).
//!
//! Functions that look at one text return what is wrong with it ([`Messages`]); functions that know a field path return
//! field errors. An empty list means valid. Nothing here allocates for valid input, and no regular expression is run:
//! the patterns are simple enough for byte scans, and they are printed in messages only.

mod ip;
mod labels;
mod names;

pub use ip::{
    Family, canonical_ip, is_valid_cidr, is_valid_cidr_legacy, is_valid_ip, is_valid_ip_legacy, parse_cidr_sloppy,
    parse_ip_sloppy,
};
pub use labels::{
    is_label_key, is_label_value, validate_annotations, validate_label_key, validate_label_selector, validate_labels,
};
pub use names::*;

use crate::field::{Errors, FieldError, Path};

/// What is wrong with a text; empty if nothing.
pub type Messages = Vec<String>;

/// `must be between 1 and 65535, inclusive`
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A message per thing wrong with a port number.
pub fn is_valid_port(port: i64) -> Messages {
    is_in_range(port, 1, 65535)
}

/// A message if `value` is outside of `low..=high`.
pub fn is_in_range(value: i64, low: i64, high: i64) -> Messages {
    if (low..=high).contains(&value) { Vec::new() } else { vec![inclusive_range_error(low, high)] }
}

/// A message if `id` is not a user or group id.
pub fn is_valid_id(id: i64) -> Messages {
    is_in_range(id, 0, i64::from(i32::MAX))
}

/// An error if `value` is negative.
pub fn validate_non_negative(value: i64, path: &Path) -> Errors {
    if value < 0 { vec![FieldError::invalid(path, value, NEGATIVE)] } else { Vec::new() }
}

/// What upstream says of a value below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";

/// What upstream says of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// One `Invalid value` per message.
pub fn invalid_each(path: &Path, value: &str, messages: Messages) -> Errors {
    messages.iter().map(|message| FieldError::invalid(path, value, message)).collect()
}
