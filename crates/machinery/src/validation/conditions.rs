//! Conditions of objects (`ValidateConditions` in `k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go`).

use super::{Messages, invalid_each, names::regex_error, one_of, validate_label_key};
use crate::field::{Errors, FieldError, Path};
use api::k8s::apimachinery::pkg::apis::meta::v1::Condition;

/// Go's zero time, which stands where none was sent.
const ZERO_TIME: jiff::Timestamp = jiff::Timestamp::constant(-62_135_596_800, 0);
const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;

/// Errors of a list of conditions, each of its own type.
pub fn validate_conditions(conditions: &[Condition], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let earlier = conditions[..i].iter().filter(|other| other.type_ == condition.type_);
        errors.extend(earlier.take(1).map(|_| FieldError::duplicate(&path.child("type"), &condition.type_)));
        errors.extend(validate_condition(condition, &path));
    }
    errors
}

fn validate_condition(condition: &Condition, path: &Path) -> Errors {
    let mut errors = validate_label_key(&condition.type_, &path.child("type"));
    one_of(&mut errors, &path.child("status"), &condition.status, &["False", "True", "Unknown"]);
    if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&path.child("observedGeneration"), generation, detail));
    }
    if condition.last_transition_time.0 == ZERO_TIME {
        errors.push(FieldError::required(&path.child("lastTransitionTime"), ""));
    }
    let at = path.child("reason");
    match condition.reason.as_str() {
        "" => errors.push(FieldError::required(&at, "")),
        reason => {
            errors.extend(invalid_each(&at, reason, is_reason(reason)));
            if reason.len() > MAX_REASON {
                errors.push(FieldError::too_long(&at, MAX_REASON));
            }
        }
    }
    if condition.message.len() > MAX_MESSAGE {
        errors.push(FieldError::too_long(&path.child("message"), MAX_MESSAGE));
    }
    errors
}

fn is_reason(reason: &str) -> Messages {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = reason.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && reason.bytes().last().is_some_and(word)
        && reason.bytes().all(|b| word(b) || matches!(b, b',' | b':'));
    if ok {
        return Vec::new();
    }
    let message = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    vec![regex_error(
        message,
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}
