//! Bodies to objects and back: JSON, YAML, protobuf; identity checks and strict field checks
//! (`apiserver/pkg/endpoints/handlers/{create,rest}.go`).

use crate::negotiate::Encoding;
use crate::options::FieldValidation;
use crate::reader::KindRef;
use crate::status;
use api::{AnyObject, Status};
use bytes::Bytes;
use machinery::field::{FieldError, Path};
use machinery::kinds::Kind;
use machinery::patch::Patched;
use machinery::schema::check::{BodyError, check_json, check_sent_json, strict_error, type_meta};
use machinery::schema::yaml;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

#[derive(Deserialize, Default)]
struct Identity<'a> {
    #[serde(rename = "apiVersion", borrow, default)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
}

/// What a body must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
}

impl<'a> Expected<'a> {
    pub(crate) fn of(kind: &'a dyn Kind) -> Self {
        let info = kind.info();
        Expected { group: &info.group, version: &info.version, kind: &info.kind }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A body that was sent, as JSON.
pub(crate) struct Sent {
    pub(crate) json: Bytes,
    /// What a strict server complains about that the JSON does not tell.
    problems: Vec<String>,
}

/// A body as JSON.
pub(crate) fn to_json(encoding: Encoding, body: Bytes, expected: Expected<'_>) -> Result<Sent, Status> {
    let unreadable = |why: &str| status::bad_request(unrecognizable(expected.kind, why, &body));
    match encoding {
        Encoding::Json => Ok(Sent { json: body, problems: Vec::new() }),
        Encoding::Yaml => {
            let read = yaml::parse(&body).map_err(|e| unreadable(&e.to_string()))?;
            Ok(Sent { json: read.value.to_string().into(), problems: read.problems })
        }
        Encoding::Protobuf => {
            let api_version = expected.api_version();
            let decoded = machinery::protobuf::decode(&body, Some((&api_version, expected.kind)))
                .map_err(|e| unreadable(&format!("couldn't get version/kind; {e}")))?;
            Ok(Sent { json: decoded.value.to_string().into(), problems: Vec::new() })
        }
    }
}

fn unrecognized(kind: &str, why: &str, body: &[u8]) -> String {
    unrecognizable(kind, &format!("couldn't get version/kind; {why}"), body)
}

fn unrecognizable(kind: &str, why: &str, body: &[u8]) -> String {
    format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body))
}

/// `summarizeData`: enough of a body to recognise it.
fn summary(body: &[u8]) -> String {
    match body {
        [] => "<empty>".to_owned(),
        [b'{', ..] => {
            let text = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
            if body.len() > 30 { format!("{text} ...") } else { text }
        }
        _ => {
            let text = hex(&body[..body.len().min(30)]);
            if body.len() > 30 { format!("{text} ...") } else { text }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Refuses a body that says it is something else. A body that does not say is what the URL says. Tells whether it says so with
/// empty texts.
pub(crate) fn check_identity(json: &[u8], expected: Expected<'_>) -> Result<bool, Status> {
    if is_plainly(json, expected) {
        return Ok(false);
    }
    let unreadable = |why: &str| {
        let why = format!("json parse error: {}", go_error(json, why));
        status::bad_request(unrecognized(expected.kind, &why, json))
    };
    // A list would be read as the fields in their order.
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(unreadable(""));
    }
    let identity: Identity<'_> = serde_json::from_slice(json).map_err(|e| unreadable(&e.to_string()))?;
    if machinery::schema::builtin().by_kind(expected.group, expected.version, expected.kind).is_none() {
        return check_custom_identity(json, &identity, expected).map(|()| false);
    }
    let is_blank = [&identity.api_version, &identity.kind].iter().any(|text| text.as_deref() == Some(""));
    let wanted = expected.api_version();
    let api_version = identity.api_version.as_deref().filter(|v| !v.is_empty()).unwrap_or(&wanted);
    let kind = identity.kind.as_deref().filter(|k| !k.is_empty()).unwrap_or(expected.kind);
    let version = api_version.rsplit('/').next().unwrap_or_default();
    let known = machinery::schema::builtin().by_api_version(api_version, kind).is_some();
    if kind == expected.kind && api_version == wanted {
        return Ok(is_blank);
    }
    let why = if kind == expected.kind && known {
        format!("the API version in the data ({api_version}) does not match the expected API version ({wanted})")
    } else if known {
        let cannot = format!("{kind} in version {version:?} cannot be handled as a {}", expected.kind);
        let group = expected.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
        format!("{cannot}: converting ({version}.{kind}) to ({group}.{}): unknown conversion", expected.kind)
    } else {
        format!(
            "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {api_version:?} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
            expected.kind
        )
    };
    Err(status::bad_request(why))
}

/// A custom resource must say what it is (`unstructuredDecoder` and `schemaCoercingDecoder` in
/// `apiextensions-apiserver/pkg/apiserver/customresource_handler.go`).
fn check_custom_identity(json: &[u8], identity: &Identity<'_>, expected: Expected<'_>) -> Result<(), Status> {
    let (kind, wanted) = (identity.kind.as_deref().unwrap_or_default(), expected.api_version());
    let api_version = identity.api_version.as_deref().unwrap_or_default();
    if kind.is_empty() {
        let why = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(json));
        return Err(status::bad_request(unrecognizable(expected.kind, &why, json)));
    }
    if api_version != wanted {
        let why =
            format!("the API version in the data ({api_version}) does not match the expected API version ({wanted})");
        return Err(status::bad_request(why));
    }
    if kind == expected.kind {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(json).map_err(status::internal)?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let error = FieldError::invalid(&Path::new("kind"), kind, &format!("must be {}", expected.kind));
    Err(status::invalid(expected.group, kind, name, &vec![error]))
}

/// Whether a body says without ado what it should be. Whatever else is wrong with it, reading it tells.
fn is_plainly(json: &[u8], expected: Expected<'_>) -> bool {
    let text = |name: &[u8]| match json.get(machinery::scan::member(json, 0, name)?)? {
        [b'"', text @ .., b'"'] => Some(text),
        _ => None,
    };
    let version = || match expected.group {
        "" => text(b"apiVersion") == Some(expected.version.as_bytes()),
        group => text(b"apiVersion").is_some_and(|v| {
            v.strip_prefix(group.as_bytes()).and_then(|v| v.strip_prefix(b"/")) == Some(expected.version.as_bytes())
        }),
    };
    text(b"kind") == Some(expected.kind.as_bytes()) && version()
}

/// What Go says of a body whose kind and version cannot be read.
fn go_error(json: &[u8], error: &str) -> String {
    if let Err(syntax) = machinery::schema::check::parse_json(json) {
        return syntax.to_string();
    }
    let found = match json.trim_ascii_start().first() {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'-' | b'0'..=b'9') => "number",
        _ => return error.to_owned(),
    };
    format!(
        r#"json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}"#
    )
}

/// `Pod in version "v1" cannot be handled as a Pod: why`.
fn cannot_be_handled(expected: Expected<'_>, why: &str) -> Status {
    let Expected { version, kind, .. } = expected;
    status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// A body that was read.
pub(crate) struct Read {
    pub(crate) object: Box<dyn AnyObject>,
    /// The body as Go reads it, if its text does not say that: with lists and maps that are empty, which only validation sees.
    pub(crate) sent: Option<Value>,
}

/// JSON as an object of `kind`, and what a strict server complains about.
pub(crate) fn read(kind: &dyn Kind, json: &[u8]) -> Result<(Read, Vec<String>), Status> {
    read_new(kind, json, json, cannot_be_handled)
}

/// [`read`] of a patched object, whose mistakes are told without its kind (`applyJSPatch` in handlers/patch.go). What is stored of a built-in kind was checked when it was written, so only what is new is now.
pub(crate) fn read_patched(kind: &KindRef, patched: &Patched) -> Result<(Read, Vec<String>), Status> {
    let new = if matches!(kind, KindRef::BuiltIn(_)) { &patched.mentioned } else { &patched.text };
    read_new(&**kind, &patched.text, new, |_, why| status::bad_request(why))
}

/// Reads `json`, of which `new` is all that may be wrong. `cannot` says that it is not of the kind, and why.
fn read_new(
    kind: &dyn Kind,
    json: &[u8],
    new: &[u8],
    cannot: fn(Expected<'_>, &str) -> Status,
) -> Result<(Read, Vec<String>), Status> {
    let expected = Expected::of(kind);
    // Go reads null into nothing.
    let json = if json.trim_ascii() == b"null" { b"{}" } else { json };
    let is_blank = check_identity(json, expected)?;
    let refuse = |error: BodyError| match error {
        BodyError::Type(why) => cannot(expected, &why),
        other => refused(expected, other, json),
    };
    let verdict = kind.check(new).map_err(refuse)?;
    let decode = |json: &[u8]| kind.decode(json).map_err(|e| cannot(expected, &e.source.to_string()));
    let Some(schema) = kind.schema().filter(|_| verdict.adjusted || is_blank) else {
        return Ok((Read { object: decode(json)?, sent: None }, verdict.problems));
    };
    let mut sent = check_sent_json(schema.schema, schema.ty, json).map_err(refuse)?.value;
    if let (true, Some(fields)) = (is_blank, sent.as_object_mut()) {
        fields.retain(|key, value| !matches!(key.as_str(), "apiVersion" | "kind") || value.as_str() != Some(""));
    }
    Ok((Read { object: decode(sent.to_string().as_bytes())?, sent: Some(sent) }, verdict.problems))
}

/// A body as an object of `kind`, with unknown and duplicate fields treated as asked. Texts for warnings go to `warnings`.
pub(crate) fn decode(
    kind: &dyn Kind,
    sent: Sent,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Read, Status> {
    let (read, problems) = read(kind, &sent.json)?;
    complain(Expected::of(kind), [sent.problems, problems].concat(), validation, warnings)?;
    Ok(read)
}

/// [`decode`] for what is no stored kind, like a Scale: its JSON as Go reads it.
pub(crate) fn decode_value(
    expected: Expected<'_>,
    sent: Sent,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let (value, problems) = read_value(expected, &sent.json)?;
    complain(expected, [sent.problems, problems].concat(), validation, warnings)?;
    Ok(value)
}

/// The JSON of DeleteOptions, which are read by rules of their own: they may be of any group's version (`DeleteResource` in
/// handlers/delete.go).
pub(crate) fn delete_options(json: &[u8]) -> Result<Value, Status> {
    let unreadable = |why: String| status::bad_request(format!("couldn't get version/kind; json parse error: {why}"));
    let json = if json.trim_ascii() == b"null" { b"{}" } else { json };
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(unreadable(go_error(json, "")));
    }
    let (api_version, kind) = type_meta(json).map_err(|error| unreadable(error.to_string()))?;
    let api_version = if api_version.is_empty() { "meta.k8s.io/v1" } else { &api_version };
    if !matches!(kind.as_str(), "" | "DeleteOptions") {
        return Err(status::bad_request(format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
        )));
    }
    let builtin = machinery::schema::builtin();
    let ty = builtin.by_kind("meta.k8s.io", "v1", "DeleteOptions");
    let ty = ty.ok_or_else(|| status::internal("DeleteOptions have no schema"))?;
    let checked = check_json(&builtin.schema, ty, json).map_err(|error| status::bad_request(error.to_string()))?;
    Ok(checked.value)
}

/// [`read`] for what is no stored kind.
pub(crate) fn read_value(expected: Expected<'_>, json: &[u8]) -> Result<(Value, Vec<String>), Status> {
    check_identity(json, expected)?;
    let builtin = machinery::schema::builtin();
    let ty = builtin.by_kind(expected.group, expected.version, expected.kind);
    let ty = ty.ok_or_else(|| status::internal(format!("{} has no schema", expected.kind)))?;
    let checked = check_json(&builtin.schema, ty, json).map_err(|error| refused(expected, error, json))?;
    Ok((checked.value, checked.problems))
}

/// Unknown and duplicate fields, treated as asked.
fn complain(
    expected: Expected<'_>,
    problems: Vec<String>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            return Err(cannot_be_handled(expected, &strict_error(&problems)));
        }
        FieldValidation::Warn => warnings.extend(yaml::warnings(problems)),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    Ok(())
}

fn refused(expected: Expected<'_>, error: BodyError, json: &[u8]) -> Status {
    match error {
        BodyError::Type(why) => cannot_be_handled(expected, &why),
        other => status::bad_request(unrecognized(expected.kind, &format!("json parse error: {other}"), json)),
    }
}

/// JSON in another encoding, with its Content-Type.
pub(crate) fn from_json(encoding: Encoding, json: Bytes, pretty: bool) -> Result<(&'static str, Bytes), Status> {
    match encoding {
        Encoding::Json if pretty => Ok(("application/json", crate::encode::pretty(&json).into())),
        Encoding::Json => Ok(("application/json", json)),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&json).map_err(status::internal)?;
            let text = serde_saphyr::to_string(&value).map_err(status::internal)?;
            Ok(("application/yaml", text.into()))
        }
        Encoding::Protobuf => {
            let value: Value = serde_json::from_slice(&json).map_err(status::internal)?;
            match machinery::protobuf::encode(&value) {
                Ok(bytes) => Ok(("application/vnd.kubernetes.protobuf", bytes.into())),
                // Custom resources and the like have no protobuf form; clients that ask for it read JSON, too.
                Err(_) => Ok(("application/json", json)),
            }
        }
    }
}
