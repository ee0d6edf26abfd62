//! Which objects a list or a watch shows.

use crate::options::ListOptions;
use crate::reader::Stored;
use crate::request_info::RequestInfo;
use crate::status;
use api::Status;
use machinery::kinds::Kind;
use machinery::selector::{FieldSelector, LabelSelector};

/// Label and field selectors together.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Refuses selectors that do not parse, and fields that the kind does not have.
    pub(crate) fn parse(options: &ListOptions, kind: &dyn Kind, info: &RequestInfo) -> Result<Self, Status> {
        let labels = LabelSelector::parse(&options.label_selector).map_err(|e| status::bad_request(e.to_string()))?;
        let fields = FieldSelector::parse(&options.field_selector).map_err(|e| status::bad_request(e.to_string()))?;
        let known = |field: &str| {
            field == "metadata.name"
                || field == "metadata.namespace"
                || kind.selectable_field_names().iter().any(|name| name == field)
        };
        for field in fields.requirements().iter().map(|r| r.field.as_str()) {
            if !known(field) {
                return Err(status::bad_request(unknown_field(kind, field)));
            }
        }
        if !info.name.is_empty() && info.watch_prefix {
            let by_name = FieldSelector::parse(&format!("metadata.name={}", info.name));
            return Ok(Selection { labels, fields: by_name.map_err(|e| status::bad_request(e.to_string()))? });
        }
        Ok(Selection { labels, fields })
    }

    /// The one value of a field that is asked for.
    pub(crate) fn wanted(&self, field: &str) -> Option<&str> {
        self.fields.requirements().iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Everything matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether an object is shown.
    pub(crate) fn matches(&self, kind: &dyn Kind, stored: &Stored) -> bool {
        if self.is_everything() {
            return true;
        }
        let header = stored.header();
        if !self.labels.matches(&header.labels) {
            return false;
        }
        if self.fields.is_everything() {
            return true;
        }
        stored.with_fields(kind, |values| {
            self.fields.matches_by(|field| match field {
                "metadata.name" => Some(header.name.as_str()),
                "metadata.namespace" => Some(header.namespace.as_str()),
                other => values.iter().find(|(name, _)| name == other).map(|(_, value)| value.as_str()),
            })
        })
    }
}

/// As the conversion functions say it (`pkg/apis/core/v1/conversion.go` and the scheme's default).
fn unknown_field(kind: &dyn Kind, field: &str) -> String {
    let info = kind.info();
    match (info.group.as_ref(), info.kind.as_ref()) {
        ("batch", "Job") => return format!("field label {field:?} not supported for Job"),
        ("resource.k8s.io", "ResourceSlice") => {
            let version = info.api_version();
            return format!("field label not supported for {version}, Kind=ResourceSlice: {field}");
        }
        // Its selectable field has no conversion.
        ("apps", "ReplicaSet") => return unknown_to_the_scheme(field),
        _ => {}
    }
    if kind.revision() == 0 && kind.selectable_field_names().is_empty() {
        return unknown_to_the_scheme(field);
    }
    format!("field label not supported: {field}")
}

fn unknown_to_the_scheme(field: &str) -> String {
    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}
