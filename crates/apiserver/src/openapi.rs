//! `/openapi/v2` and `/openapi/v3` for what is served. The documents are `machinery::openapi`'s, written on demand.

use crate::api_server::{ApiServer, Call};
use crate::list::wants_gzip;
use crate::negotiate::accepted;
use crate::reader::KindRef;
use crate::response::{Answer, no_such_page, plain};
use crate::{Body, aggregate, openapi_proto};
use api::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use machinery::kinds::Kind;
use machinery::openapi::{self, Served};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;

const JSON: &str = "application/json";
/// Two spellings of one form; clients send the second.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// Paths below `/openapi`.
pub(crate) async fn answer(server: &ApiServer, call: &Call, rest: &str) -> Result<Answer, Status> {
    let clauses = accepted(&call.head.headers);
    let json =
        clauses.is_empty() || clauses.iter().any(|c| matches!(c.media, "application/json" | "*/*" | "application/*"));
    let proto = rest == "v2" && clauses.iter().any(|c| PROTOBUF.contains(&c.media));
    if !json && !proto && rest != "v3" {
        return Ok(Answer::Raw(plain(406, JSON, Bytes::new())));
    }
    let table = server.inner.kinds.load();
    let served: Vec<Served<'_>> = table.published().map(served).collect();
    match rest {
        "v2" => {
            let remote: Vec<(String, Bytes)> =
                server.inner.aggregation.remotes().iter().filter_map(|r| r.documents.v2()).collect();
            let hash = v2_hash(&served, &remote);
            let whole = || v2(&served, &remote);
            if proto {
                let of = |json: Vec<u8>| serde_json::from_slice(&json).map(|v| openapi_proto::document(&v));
                return Ok(tagged(call, &format!("{hash}-pb"), PROTOBUF[0], || of(whole()).unwrap_or_default()));
            }
            Ok(tagged(call, &hash, JSON, whole))
        }
        "v3" => Ok(Answer::Raw(plain(200, JSON, v3_index(server, &served).into()))),
        _ => {
            let Some(name) = rest.strip_prefix("v3/") else { return Ok(no_such_page()) };
            let (group, version) = match name.split('/').collect::<Vec<_>>().as_slice() {
                ["api", version] => ("", *version),
                ["apis", group, version] => (*group, *version),
                _ => return Ok(no_such_document()),
            };
            if let Some(remote) = server.inner.aggregation.remote(group, version) {
                let query = call.head.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
                return Ok(aggregate::document(server, call, &remote, &format!("/openapi/{rest}{query}")).await);
            }
            let Some(hash) = openapi::v3_hash(group, version, &served) else { return Ok(no_such_document()) };
            if let Some(asked) = call.query.text("hash").filter(|asked| *asked != hash) {
                tracing::debug!(asked, hash, "a client asks for an older document");
                return Ok(moved(&format!("/openapi/{rest}?hash={hash}")));
            }
            let document = || openapi::v3(group, version, &served).unwrap_or_default();
            let mut answer = tagged(call, &hash, JSON, document);
            if let (Answer::Raw(response), Some(_)) = (&mut answer, call.query.text("hash")) {
                forever(response.headers_mut(), server.clock_now());
            }
            Ok(answer)
        }
    }
}

fn served(kind: &KindRef) -> Served<'_> {
    match kind {
        KindRef::BuiltIn(kind) => Served::from(kind.info()),
        KindRef::Custom(custom) => Served { info: custom.kind.info(), custom: Some(custom.kind.published()) },
    }
}

/// The index of the documents here, and of those that aggregated servers have.
fn v3_index(server: &ApiServer, served: &[Served<'_>]) -> Vec<u8> {
    let own = openapi::v3_index(served);
    let remotes = server.inner.aggregation.remotes();
    if remotes.is_empty() {
        return own;
    }
    let Ok(mut index) = serde_json::from_slice::<Value>(&own) else { return own };
    for remote in remotes {
        let name = openapi::v3_name(&remote.group, &remote.version);
        if let Some(hash) = remote.documents.v3_hash() {
            index["paths"][&name] = json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")});
        }
    }
    index.to_string().into_bytes()
}

fn v2_hash(served: &[Served<'_>], remote: &[(String, Bytes)]) -> String {
    let own = openapi::v2_hash(served);
    if remote.is_empty() {
        return own;
    }
    let mut hasher = Sha256::new();
    hasher.update(&own);
    remote.iter().for_each(|(_, part)| hasher.update(part));
    hasher.finalize().iter().take(8).map(|b| format!("{b:02X}")).collect()
}

/// With the parts of aggregated servers, if there are any.
fn v2(served: &[Served<'_>], remote: &[(String, Bytes)]) -> Vec<u8> {
    let own = openapi::v2(served);
    if remote.is_empty() {
        return own;
    }
    let Ok(mut whole) = serde_json::from_slice::<Value>(&own) else { return own };
    remote.iter().for_each(|(_, part)| aggregate::merge_v2(&mut whole, part));
    whole.to_string().into_bytes()
}

/// There is no document of that name.
fn no_such_document() -> Answer {
    Answer::Raw(plain(404, JSON, Bytes::new()))
}

/// The document with the hash that was asked for is no more; this one is.
fn moved(to: &str) -> Answer {
    let mut response = plain(301, JSON, Bytes::new());
    if let Ok(value) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, value);
    }
    Answer::Raw(response)
}

/// Who asked with the hash may keep the document: another one has another hash (`kube-openapi/pkg/handler3/handler.go`).
fn forever(headers: &mut http::HeaderMap, now: jiff::Timestamp) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    let expires = now + jiff::SignedDuration::from_hours(365 * 24);
    if let Ok(value) = HeaderValue::from_str(&expires.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()) {
        headers.insert(EXPIRES, value);
    }
}

/// A document under its hash; not written at all if the client has it.
fn tagged(call: &Call, hash: &str, media: &'static str, document: impl FnOnce() -> Vec<u8>) -> Answer {
    let tag = format!("\"{hash}\"");
    let mut known = call.head.headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let mut response = match known.any(|v| v.split(',').any(|v| v.trim() == tag)) {
        true => plain(304, media, Bytes::new()),
        false if wants_gzip(call) => zipped(media, &document()),
        false => plain(200, media, document().into()),
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    Answer::Raw(response)
}

/// The documents are large, and compress well.
fn zipped(media: &'static str, document: &[u8]) -> Response<Body> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // A Vec takes everything.
    let written = encoder.write_all(document).and_then(|()| encoder.finish());
    let mut response = plain(200, media, written.unwrap_or_default().into());
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}
