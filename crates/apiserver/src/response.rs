//! Answers as HTTP responses: encodings, forms, warnings, compression.

use crate::api_server::{ApiServer, Call, plain_output};
use crate::negotiate::{self, Form, Output};
use crate::reader::KindRef;
use crate::{Body, codec, convert, encode, status, table};
use api::Status;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};

/// What the pipeline answers.
pub(crate) enum Answer {
    /// One object of a kind; may be shown as a table or as metadata alone.
    Object { code: u16, kind: KindRef, bytes: Bytes },
    /// JSON of something else.
    Plain { code: u16, bytes: Bytes },
    /// A response that is complete already.
    Raw(Response<Body>),
}

impl Answer {
    /// 200 with some JSON.
    pub(crate) fn json(bytes: impl Into<Bytes>) -> Self {
        Answer::Plain { code: 200, bytes: bytes.into() }
    }
    /// 200 with text.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Answer::Raw(plain(200, "text/plain; charset=utf-8", text.into()))
    }
}

/// A body of known bytes.
pub(crate) fn body_from(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A complete response.
pub(crate) fn plain(code: u16, content_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(body_from(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A failure.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let mut response = plain(status.code, "application/json", status.encode().into());
    let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    let headers = response.headers_mut();
    if seconds > 0 {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code == 403 {
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    }
    response
}

/// A path that nobody serves, as Go's library says it.
pub(crate) fn no_such_page() -> Answer {
    let mut response = plain(404, "text/plain; charset=utf-8", Bytes::from_static(b"404 page not found\n"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Answer::Raw(response)
}

/// What all answers have (`filters/{cachecontrol,with_auditid}.go`).
pub(crate) fn complete(headers: &mut http::HeaderMap, audit_id: Option<&str>) {
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some(Ok(id)) = audit_id.map(HeaderValue::from_str) {
        headers.insert("audit-id", id);
    }
}

/// A request that took longer than it may (`apiserver/pkg/server/filters/timeout.go`).
pub(crate) fn too_late() -> Response<Body> {
    let mut response = failure(&status::timeout("request did not complete within the allotted timeout", 0));
    complete(response.headers_mut(), None);
    response
}

/// The answer to HEAD. Over HTTP/2 nobody else takes the body away.
pub(crate) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, body_from(Bytes::new()))
}

/// The texts of warnings as an answer has them: whole if all of them are 4096 characters at most; else the first 256
/// characters of each, until there are so many (`recorder` in `staging/src/k8s.io/apiserver/pkg/endpoints/filters/warning.go`).
fn fitting(warnings: &[String]) -> Vec<&str> {
    const ALL: usize = 4096;
    const EACH: usize = 256;
    let length = |text: &str| text.chars().count();
    if warnings.iter().map(|text| length(text)).sum::<usize>() <= ALL {
        return warnings.iter().map(String::as_str).collect();
    }
    let short = |text| -> &str { str::char_indices(text).nth(EACH).map_or(text, |(end, _)| &text[..end]) };
    let mut written = 0;
    let mut texts = Vec::new();
    for text in warnings.iter().map(|text| short(text)) {
        if written >= ALL {
            break;
        }
        written += length(text);
        texts.push(text);
    }
    texts
}

/// Adds `Warning:` headers (`299 - "text"`).
pub(crate) fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for text in fitting(warnings) {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// An answer in the form the client asked for.
pub(crate) fn write(server: &ApiServer, call: &Call, answer: Answer, warnings: &[String]) -> Response<Body> {
    let written = match answer {
        Answer::Raw(response) => Ok(response),
        Answer::Plain { code, bytes } => output(call).and_then(|o| encoded(code, bytes, plain_output(o))),
        Answer::Object { code, kind, bytes } => output(call).and_then(|output| {
            let bytes = convert::view(&*kind, &bytes);
            match output.form.of_object(&kind)? {
                Form::Full => encoded(code, bytes, output),
                Form::Partial(version) | Form::PartialList(version) => {
                    let mut out = Vec::with_capacity(512);
                    encode::write_partial(&mut out, version, &bytes);
                    encoded(code, out.into(), output)
                }
                Form::Table(version) => {
                    let table = table::of_one(&kind, version, &bytes, &call.query, server.clock_now())?;
                    encoded(code, table, output)
                }
            }
        }),
    };
    with_warnings(written.unwrap_or_else(|status| failure(&status)), warnings)
}

fn output(call: &Call) -> Result<Output, Status> {
    negotiate::output(&call.head.headers, &call.query, false)
}

fn encoded(code: u16, json: Bytes, output: Output) -> Result<Response<Body>, Status> {
    let (content_type, bytes) = codec::from_json(output.encoding, json, output.pretty)?;
    Ok(plain(code, content_type, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_that_are_too_much_for_headers_are_cut() {
        let long = vec!["é".repeat(300); 20];
        let cut = fitting(&long);
        assert_eq!((cut.len(), cut[0].chars().count()), (16, 256));
        assert_eq!(fitting(&long[..13])[0].chars().count(), 300);
    }

    #[tokio::test]
    async fn the_answer_to_head_says_how_long_the_body_would_be() {
        let answer = without_body(plain(200, "text/plain", Bytes::from_static(b"four")));
        assert_eq!(answer.headers()[CONTENT_LENGTH], "4");
        assert!(answer.into_body().collect().await.expect("a body").to_bytes().is_empty());
    }
}
