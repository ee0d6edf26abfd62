//! Options of requests, from query and body, checked as upstream checks them
//! (`apimachinery/pkg/apis/meta/v1/validation`, `…/meta/internalversion/validation`). Pure.

use crate::codec;
use crate::request_info::Query;
use crate::status;
use api::Status;
use machinery::field::{Errors, FieldError, Path};
use serde::Deserialize;
use serde_json::{Value, json};
use std::num::IntErrorKind::{NegOverflow, PosOverflow};
use std::num::ParseIntError;

const META: &str = "meta.k8s.io";

/// What becomes of fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// CreateOptions, UpdateOptions, PatchOptions.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
    /// For admission.
    pub(crate) json: Value,
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub(crate) fn parse(query: &Query, kind: &'static str) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        errors.extend(machinery::kinds::metadata::validate_field_manager(&field_manager, &Path::new("fieldManager")));
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let known = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported(&Path::new("fieldValidation"), other, &known));
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(status::invalid(META, kind, "", &errors));
        }
        let mut json = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if dry_run {
            json["dryRun"] = json!(["All"]);
        }
        for name in ["fieldManager", "fieldValidation"] {
            if let Some(value) = query.text(name) {
                json[name] = value.into();
            }
        }
        let force = query.flag("force");
        Ok(WriteOptions { dry_run, field_manager, field_validation, force, json })
    }

    /// What only apply may and must say (`ValidatePatchOptions`).
    pub(crate) fn check_patch(&self, is_apply: bool) -> Result<(), Status> {
        let mut errors = Vec::new();
        if is_apply {
            if self.field_manager.is_empty() {
                let detail = "is required for apply patch";
                errors.push(FieldError::required(&Path::new("fieldManager"), detail));
            }
        } else if self.force.is_some() {
            errors.push(FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        if errors.is_empty() { Ok(()) } else { Err(status::invalid(META, "PatchOptions", "", &errors)) }
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Errors) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), &json!(values), &["All"]));
    }
    !values.is_empty()
}

/// `spec.propagationPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// DeleteOptions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
    pub(crate) json: Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DeleteBody {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// The body wins; without one the query is read.
    pub(crate) fn parse(query: &Query, body: &[u8]) -> Result<Self, Status> {
        let parsed = if body.is_empty() { Self::from_query(query)? } else { Self::from_body(body)? };
        Self::check(parsed)
    }

    fn from_body(body: &[u8]) -> Result<DeleteBody, Status> {
        let value = codec::delete_options(body)?;
        serde_json::from_value(value).map_err(|e| status::bad_request(e.to_string()))
    }

    fn from_query(query: &Query) -> Result<DeleteBody, Status> {
        let grace = match query.get("gracePeriodSeconds") {
            None => None,
            Some(text) => Some(parse_int(text)?),
        };
        let dry_run: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
        Ok(DeleteBody {
            grace_period_seconds: grace,
            preconditions: None,
            orphan_dependents: query.flag("orphanDependents"),
            propagation_policy: query.get("propagationPolicy").map(str::to_owned),
            dry_run: Some(dry_run),
        })
    }

    fn check(body: DeleteBody) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let path = Path::new("propagationPolicy");
        if body.orphan_dependents.is_some() && body.propagation_policy.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, body.propagation_policy.as_deref().unwrap_or_default(), detail));
        }
        let propagation = match body.propagation_policy.as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.push(FieldError::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]));
                None
            }
        };
        let dry_run = dry_run(body.dry_run.iter().flatten().map(String::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(status::invalid(META, "DeleteOptions", "", &errors));
        }
        let mut json = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = body.grace_period_seconds {
            json["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = body.propagation_policy {
            json["propagationPolicy"] = policy.into();
        }
        if dry_run {
            json["dryRun"] = json!(["All"]);
        }
        let preconditions = body.preconditions.unwrap_or_default();
        Ok(DeleteOptions {
            // A negative period means one second, as upstream has it.
            grace_period_seconds: body.grace_period_seconds.map(|s| if s < 0 { 1 } else { s }),
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
            orphan_dependents: body.orphan_dependents,
            propagation,
            dry_run,
            json,
        })
    }
}

/// How `resourceVersion` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// ListOptions of lists and watches.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    /// `None` = unset; `Some(0)` = any.
    pub(crate) resource_version: Option<u64>,
    pub(crate) resource_version_match: Option<Match>,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) allow_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let match_text = query.text("resourceVersionMatch");
        let version_text = query.text("resourceVersion");
        let continue_token = query.text("continue").map(str::to_owned);
        let send_initial_events = query.flag("sendInitialEvents");
        // A watch from nowhere begins with what there is (`SetListOptionsDefaults` in `…/meta/internalversion/defaults.go`).
        let begins = watch && send_initial_events.is_none() && match_text.is_none();
        let (initial, wanted) = match version_text {
            None | Some("0") if begins => (Some(true), Some("NotOlderThan")),
            _ => (send_initial_events, match_text),
        };
        check_match(wanted, version_text, continue_token.is_some(), initial, watch, &mut errors);
        if !errors.is_empty() {
            return Err(status::invalid(META, "ListOptions", "", &errors));
        }
        Ok(ListOptions {
            resource_version: version_text.map(parse_revision).transpose()?,
            resource_version_match: match match_text {
                Some("Exact") => Some(Match::Exact),
                Some("NotOlderThan") => Some(Match::NotOlderThan),
                _ => None,
            },
            limit: number(query, "limit")?.unwrap_or(0) as usize,
            continue_token,
            label_selector: query.get("labelSelector").unwrap_or_default().to_owned(),
            field_selector: query.get("fieldSelector").unwrap_or_default().to_owned(),
            timeout_seconds: number(query, "timeoutSeconds")?,
            allow_bookmarks: query.flag("allowWatchBookmarks") == Some(true),
            send_initial_events,
        })
    }
}

/// A resourceVersion of a request (`storage/etcd3/api_object_versioner.go`, `ParseResourceVersion`).
pub(crate) fn parse_revision(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|e| {
        let detail = strconv("ParseUint", text, &e);
        let error = FieldError::invalid(&Path::new("resourceVersion"), text, &detail);
        let why = machinery::field::aggregate(&[error]);
        status::bad_request(format!("invalid resource version: {why}"))
    })
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Status> {
    query
        .get(name)
        .map(|text| {
            let number = parse_int(text)?;
            // What is negative asks for nothing.
            Ok(u64::try_from(number).unwrap_or(0))
        })
        .transpose()
}

fn parse_int(text: &str) -> Result<i64, Status> {
    text.parse().map_err(|e| status::bad_request(strconv("ParseInt", text, &e)))
}

/// What Go's `strconv` says of a text that it cannot read.
fn strconv(function: &str, text: &str, error: &ParseIntError) -> String {
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {text:?}: {why}")
}

fn check_match(
    wanted: Option<&str>,
    version: Option<&str>,
    continues: bool,
    initial: Option<bool>,
    watch: bool,
    errors: &mut Errors,
) {
    let path = Path::new("resourceVersionMatch");
    let mut forbid = |detail: &str| errors.push(FieldError::forbidden(&path, detail));
    if watch {
        if initial.is_some() && wanted != Some("NotOlderThan") {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if let Some(text) = wanted {
            if initial.is_none() {
                forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            if continues {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            if text != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, text, &["NotOlderThan"]));
            }
        }
        return;
    }
    if let Some(text) = wanted {
        if version.is_none() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if continues {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if text == "Exact" && version == Some("0") {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if text != "Exact" && text != "NotOlderThan" {
            errors.push(FieldError::not_supported(&path, text, &["Exact", "NotOlderThan", ""]));
        }
    }
    if initial.is_some() {
        let path = Path::new("sendInitialEvents");
        errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
}
