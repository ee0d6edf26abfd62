//! Paths that are no resources: health, version, metrics, discovery, OpenAPI.

use crate::api_server::{ApiServer, Call};
use crate::response::{Answer, plain};
use crate::{Body, discovery, health, metrics, negotiate, openapi, response, status, zpages};
use api::Status;
use http::Method;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde_json::{Value, json};

/// The form of metrics.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
/// The version this server is compatible with.
const GIT_VERSION: &str = "v1.36.2+dhow";

/// Answers a known path; 404 otherwise. What upstream serves by go-restful takes only GET and may end with a slash; the rest takes
/// any method and is meant exactly.
pub(crate) async fn non_resource(server: &ApiServer, call: &Call, _body: Body) -> Result<Answer, Status> {
    let path = call.info.path.trim_end_matches('/');
    let is_exact = path.len() == call.info.path.len();
    let is_get = call.head.method == Method::GET;
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match first {
        "" => Ok(Answer::Raw(plain(200, "application/json", json!({"paths": paths(server)}).to_string().into()))),
        "api" | "apis" if is_get || path == "/apis" => discovery::answer(server, call, path),
        "version" | ".well-known" | "openid" | "api" | "apis" if !is_get => Err(status::method_not_allowed()),
        ".well-known" | "openid" => issuer_document(server, path),
        "version" if rest.is_empty() => {
            negotiate::restful(&negotiate::accepted(&call.head.headers), "application/json")?;
            Ok(Answer::json(version().to_string()))
        }
        _ if !is_exact => Ok(response::no_such_page()),
        "healthz" | "livez" | "readyz" => health::answer(server, call, first, rest).await,
        "metrics" if rest.is_empty() => Ok(Answer::Raw(plain(200, METRICS, metrics::text(server).await.into()))),
        "metrics" if rest == "slis" => {
            let text = server.inner.metrics.health.text();
            Ok(Answer::Raw(plain(200, METRICS, text.into())))
        }
        "statusz" if rest.is_empty() => zpages::status(server, call),
        "flagz" if rest.is_empty() => match server.inner.flags.get() {
            Some(flags) => zpages::flags(server, call, flags),
            None => Ok(response::no_such_page()),
        },
        "openapi" => openapi::answer(server, call, rest).await,
        _ => Ok(response::no_such_page()),
    }
}

fn issuer_document(server: &ApiServer, path: &str) -> Result<Answer, Status> {
    let issuer = server.inner.deps.token_issuer.as_ref().ok_or_else(status::no_such_path)?;
    let Some((content_type, bytes)) = issuer.document(path) else { return Ok(response::no_such_page()) };
    let mut response = plain(200, content_type, bytes.into());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(Answer::Raw(response))
}

/// All that is served, but for the resources.
pub(crate) fn paths(server: &ApiServer) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"].map(Into::into).into();
    for (group, versions) in discovery::groups(server) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{}", v.version)));
    }
    paths.extend(["/healthz", "/livez", "/readyz"].into_iter().flat_map(|group| {
        let checks = health::names(server, &group[1..]).into_iter().map(move |check| format!("{group}/{check}"));
        std::iter::once(group.to_owned()).chain(checks)
    }));
    let rest =
        ["/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openid/v1/jwks", "/statusz"];
    paths.extend(rest.into_iter().chain(["/version"]).map(Into::into));
    paths.extend(server.inner.flags.get().map(|_| "/flagz".to_owned()));
    paths.sort_unstable();
    paths
}

/// What `/version` says.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", platform()),
    })
}

/// Go's name of this machine's architecture.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
