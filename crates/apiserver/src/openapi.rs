//! `/openapi/v2` and `/openapi/v3` for what is served. The documents are `machinery::openapi`'s, written on demand.

use crate::api_server::{ApiServer, Call};
use crate::negotiate::accepted;
use crate::response::{Answer, plain};
use crate::status;
use api::Status;
use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use machinery::openapi::{self, Served};

const JSON: &str = "application/json";

/// Paths below `/openapi`.
pub(crate) fn answer(server: &ApiServer, call: &Call, rest: &str) -> Result<Answer, Status> {
    let clauses = accepted(&call.head.headers);
    let json =
        clauses.is_empty() || clauses.iter().any(|c| matches!(c.media, "application/json" | "*/*" | "application/*"));
    if !json {
        return Err(status::not_acceptable(JSON));
    }
    let table = server.inner.kinds.load();
    let served: Vec<Served<'_>> = table.all().iter().map(|k| Served::from(k.info())).collect();
    match rest {
        "v2" => {
            let hash = openapi::v2_hash(&served);
            Ok(tagged(call, &hash, || openapi::v2(&served)))
        }
        "v3" => Ok(Answer::Raw(plain(200, JSON, openapi::v3_index(&served).into()))),
        _ => {
            let name = rest.strip_prefix("v3/").ok_or_else(status::no_such_path)?;
            let (group, version) = match name.split('/').collect::<Vec<_>>().as_slice() {
                ["api", version] => ("", *version),
                ["apis", group, version] => (*group, *version),
                _ => return Err(status::no_such_path()),
            };
            let hash = openapi::v3_hash(group, version, &served).ok_or_else(status::no_such_path)?;
            Ok(tagged(call, &hash, || openapi::v3(group, version, &served).unwrap_or_default()))
        }
    }
}

/// A document under its hash; not written at all if the client has it.
fn tagged(call: &Call, hash: &str, document: impl FnOnce() -> Vec<u8>) -> Answer {
    let tag = format!("\"{hash}\"");
    let mut known = call.head.headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let mut response = match known.any(|v| v.split(',').any(|v| v.trim() == tag)) {
        true => plain(304, JSON, Bytes::new()),
        false => plain(200, JSON, document().into()),
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    Answer::Raw(response)
}
