//! What a client can read and what it sent (`apiserver/pkg/endpoints/handlers/negotiation`). Pure.

use crate::reader::KindRef;
use crate::request_info::Query;
use crate::status;
use api::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use machinery::accept::{self, Accepted};

/// Bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// Which view of an object or list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Full,
    Table(MetaVersion),
    /// The metadata of one object.
    Partial(MetaVersion),
    /// The metadata of each object of a list.
    PartialList(MetaVersion),
}

impl Form {
    /// 406 if an object of `kind` has no such form (`asPartialObjectMetadataList` in handlers/response.go).
    pub(crate) fn of_object(self, kind: &KindRef) -> Result<Self, Status> {
        let Form::PartialList(_) = self else { return Ok(self) };
        let asked = "you requested PartialObjectMetadataList, but the requested object is not a list";
        Err(status::not_acceptable(format!("{asked} ({})", go_type(kind, &kind.info().kind, "Unstructured"))))
    }

    /// 406 if a list of `kind` has no such form (`asPartialObjectMetadata`).
    pub(crate) fn of_list(self, kind: &KindRef) -> Result<Self, Status> {
        let Form::Partial(_) = self else { return Ok(self) };
        let asked = "you requested PartialObjectMetadata, but the requested object is a list";
        Err(status::not_acceptable(format!("{asked} ({})", go_type(kind, &kind.info().list_kind, "UnstructuredList"))))
    }

    /// An event holds one object. What has no such form comes as it is (`watchEmbeddedEncoder`).
    pub(crate) fn of_event(self) -> Self {
        if let Form::PartialList(_) = self { Form::Full } else { self }
    }
}

/// How Go shows the type that upstream's server holds an object or a list of `kind` in.
fn go_type(kind: &KindRef, name: &str, custom: &str) -> String {
    match (kind, kind.info().group.split('.').next()) {
        (KindRef::Custom(_), _) => format!("*unstructured.{custom}"),
        (_, None | Some("" | "events")) => format!("*core.{name}"),
        (_, Some("internal")) => format!("*apiserverinternal.{name}"),
        (_, Some(group)) => format!("*{group}.{name}"),
    }
}

/// The versions of `meta.k8s.io`, which have the same fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1beta1,
}

impl MetaVersion {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }

    /// Of a clause of an Accept header (`AllowsMediaTypeTransform` in handlers/rest.go).
    fn of(clause: &Accepted<'_>) -> Option<Self> {
        match (clause.param("g"), clause.param("v")) {
            ("meta.k8s.io", "v1") => Some(MetaVersion::V1),
            ("meta.k8s.io", "v1beta1") => Some(MetaVersion::V1beta1),
            _ => None,
        }
    }
}

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
    pub(crate) pretty: bool,
}

impl Output {
    pub(crate) const JSON: Output = Output { encoding: Encoding::Json, form: Form::Full, pretty: false };
}

/// The clauses of all Accept headers, best first; ties keep their order.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Accepted<'_>> {
    accept::clauses(headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()))
}

/// Which media types this server writes, as its refusals list them.
pub(crate) fn served() -> &'static str {
    "application/json, application/yaml, application/vnd.kubernetes.protobuf"
}

/// Which media types the paths of lists and watches write.
const LISTS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// Those of watches alone.
const STREAMS: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// 406 by go-restful, before anybody looks closer: none of these types is accepted.
pub(crate) fn restful(clauses: &[Accepted<'_>], available: &str) -> Result<(), Status> {
    let known = |media: &str| media == "*/*" || available.split(", ").any(|known| known == media);
    if clauses.is_empty() || clauses.iter().any(|clause| known(clause.media)) {
        return Ok(());
    }
    Err(status::restful(406, "NotAcceptable", &format!("Not Acceptable\n\nAvailable representations: {available}")))
}

/// 406.
pub(crate) fn refusal() -> Status {
    status::not_accepted(served())
}

/// The best form both sides know, of one object.
pub(crate) fn output(headers: &HeaderMap, query: &Query, watch: bool) -> Result<Output, Status> {
    negotiated(headers, query, watch, watch)
}

/// [`output`] of a list.
pub(crate) fn output_of_list(headers: &HeaderMap, query: &Query) -> Result<Output, Status> {
    negotiated(headers, query, false, true)
}

/// `watch` streams are never YAML; `lists` is a path where there are lists and watches.
fn negotiated(headers: &HeaderMap, query: &Query, watch: bool, lists: bool) -> Result<Output, Status> {
    let pretty = pretty(headers, query) && !watch;
    let clauses = accepted(headers);
    restful(&clauses, if lists { LISTS } else { served() })?;
    if clauses.is_empty() {
        return Ok(Output { pretty, ..Output::JSON });
    }
    for clause in &clauses {
        let encoding = match clause.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" if !watch => Encoding::Yaml,
            "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
            _ => continue,
        };
        // The version of the objects of `meta.k8s.io` around what is asked for.
        if !matches!(clause.param("sv"), "" | "v1") {
            continue;
        }
        let form = match (clause.param("as"), MetaVersion::of(clause)) {
            ("", _) if !clause.asks_for_another_kind() => Form::Full,
            // Cells are any JSON, which protobuf cannot hold.
            ("Table", Some(version)) if encoding != Encoding::Protobuf => Form::Table(version),
            ("PartialObjectMetadata", Some(version)) => Form::Partial(version),
            ("PartialObjectMetadataList", Some(version)) => Form::PartialList(version),
            _ => continue,
        };
        return Ok(Output { encoding, form, pretty });
    }
    // A watch is first refused what a list is.
    let streams = watch && clauses.iter().any(|c| c.media == "application/yaml" && !c.asks_for_another_kind());
    Err(if streams { status::not_accepted(STREAMS) } else { refusal() })
}

/// Whether an answer is laid out for people.
pub(crate) fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    query.flag("pretty").unwrap_or_else(|| wants_pretty(headers))
}

/// People at a terminal or in a browser.
fn wants_pretty(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla"].iter().any(|known| agent.starts_with(known))
}

/// The encoding of a request's body. No Content-Type means JSON.
pub(crate) fn input(headers: &HeaderMap) -> Result<Encoding, Status> {
    match media_type(headers).to_ascii_lowercase().as_str() {
        "" if headers.get(CONTENT_TYPE).is_none_or(http::HeaderValue::is_empty) => Ok(Encoding::Json),
        "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(status::unsupported_media_type(served())),
    }
}

/// The Content-Type without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Result<(Encoding, Form), u16>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        let got = output(&headers, &Query::default(), false).map(|o| (o.encoding, o.form)).map_err(|s| s.code);
        assert_eq!(got, expected, "{accept}");
    }

    #[test]
    fn accept_headers() {
        check("application/json", Ok((Encoding::Json, Form::Full)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Ok((Encoding::Json, Form::Table(MetaVersion::V1))),
        );
        check(
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
            Ok((Encoding::Json, Form::Table(MetaVersion::V1beta1))),
        );
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Ok((Encoding::Json, Form::PartialList(MetaVersion::V1))),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            Ok((Encoding::Protobuf, Form::PartialList(MetaVersion::V1))),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
            Ok((Encoding::Json, Form::Full)),
        );
        check("text/html;q=0.9,*/*;q=0.1", Ok((Encoding::Json, Form::Full)));
        check("text/html", Err(406));
        check("application/json;as=Table;v=v9;g=meta.k8s.io", Err(406));
        check("application/json;as=Table", Err(406));
        check("application/json;v=v1", Err(406));
        check("application/json;sv=1", Err(406));
        check("application/yaml", Ok((Encoding::Yaml, Form::Full)));
    }
}
