//! Objects as rows of a `meta.k8s.io` Table, for `kubectl get`.

use crate::encode;
use crate::negotiate::{Form, MetaVersion};
use crate::reader::KindRef;
use crate::request_info::Query;
use crate::status;
use api::Status;
use bytes::Bytes;
use jiff::Timestamp;
use machinery::field::{FieldError, Path};
use serde_json::json;

/// How much of the object goes with its row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// What a table is asked for with; nobody else looks at it (`optionsForTransform` in handlers/response.go).
    pub(crate) fn of(form: Form, query: &Query) -> Result<Self, Status> {
        match (form, query.get("includeObject").unwrap_or_default()) {
            (Form::Full | Form::Partial(_) | Form::PartialList(_), _) | (_, "" | "Metadata") => Ok(Include::Metadata),
            (_, "None") => Ok(Include::None),
            (_, "Object") => Ok(Include::Object),
            (_, other) => {
                let detail = "must be 'Metadata', 'Object', 'None', or empty";
                let error = FieldError::invalid(&Path::new("includeObject"), other, detail);
                Err(status::bad_request(format!("Unable to convert to Table as requested: {error}")))
            }
        }
    }
}

/// `{"kind":"Table",…,"columnDefinitions":[…],"rows":[`
pub(crate) fn open(kind: &KindRef, version: MetaVersion, list_meta: &str) -> Vec<u8> {
    let columns: Vec<_> = kind
        .columns()
        .iter()
        .map(|c| {
            json!({"name": c.name, "type": c.ty, "format": c.format, "description": c.description, "priority": c.priority})
        })
        .collect();
    let columns = serde_json::Value::from(columns);
    format!(
        r#"{{"kind":"Table","apiVersion":"{}","metadata":{list_meta},"columnDefinitions":{columns},"rows":["#,
        version.api_version()
    )
    .into_bytes()
}

/// One row. An object that cannot be read shows its name alone.
pub(crate) fn write_row(
    out: &mut Vec<u8>,
    kind: &KindRef,
    version: MetaVersion,
    bytes: &[u8],
    include: Include,
    now: Timestamp,
) {
    let cells = match kind.decode(bytes) {
        Ok(object) => kind.cells(&*object, now),
        Err(error) => {
            tracing::error!(%error, "stored object is damaged");
            Vec::new()
        }
    };
    out.extend_from_slice(b"{\"cells\":");
    out.extend_from_slice(serde_json::Value::from(cells).to_string().as_bytes());
    match include {
        Include::None => out.extend_from_slice(b",\"object\":null"),
        Include::Metadata => {
            out.extend_from_slice(b",\"object\":");
            encode::write_partial(out, version, bytes);
        }
        Include::Object => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(bytes);
        }
    }
    out.push(b'}');
}

/// A table of one object.
pub(crate) fn of_one(
    kind: &KindRef,
    version: MetaVersion,
    bytes: &[u8],
    query: &Query,
    now: Timestamp,
) -> Result<Bytes, Status> {
    let include = Include::of(Form::Table(version), query)?;
    let revision = encode::revision(bytes).map(|at| String::from_utf8_lossy(&bytes[at]).into_owned());
    let meta = json!({"resourceVersion": revision.unwrap_or_default()}).to_string();
    let mut out = open(kind, version, &meta);
    write_row(&mut out, kind, version, bytes, include, now);
    out.extend_from_slice(b"]}");
    Ok(out.into())
}
