//! Answers as HTTP. Refusals are plain text, as the kubelet's are (`go-restful`'s `WriteErrorString`).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Of every answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Plain text.
pub fn text(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    of_type(code, "text/plain; charset=utf-8", body)
}

/// Of another media type.
pub fn of_type(code: u16, media: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// No body.
pub fn empty(code: u16) -> Response<Body> {
    let mut response = text(code, Bytes::new());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

/// The answer to HEAD. Over HTTP/2 nobody else takes the body away.
pub fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Empty::new().map_err(|never| match never {}).boxed_unsync())
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub code: u16,
    /// For people.
    pub text: String,
    /// Beyond the usual ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// Without further headers.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Refusal { code, text: text.into(), headers: Vec::new() }
    }

    /// As HTTP.
    pub fn response(self) -> Response<Body> {
        let mut response = text(self.code, self.text);
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}
