//! Paths that are no resources: health, version, metrics, discovery, OpenAPI.

use crate::api_server::{ApiServer, Call};
use crate::response::{Answer, plain};
use crate::{Body, discovery, health, metrics, openapi, status};
use api::Status;
use http::Method;
use serde_json::{Value, json};

/// The version this server is compatible with.
const GIT_VERSION: &str = "v1.36.2+dhow";

/// Answers a GET of a known path; 404 otherwise.
pub(crate) async fn non_resource(server: &ApiServer, call: &Call, _body: Body) -> Result<Answer, Status> {
    let path = call.info.path.trim_end_matches('/');
    if !matches!(call.head.method, Method::GET | Method::HEAD) {
        return Err(if is_known(path) { status::method_not_allowed() } else { status::no_such_path() });
    }
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match first {
        "" => Ok(Answer::json(json!({"paths": paths(server)}).to_string())),
        "healthz" | "livez" | "readyz" => health::answer(server, call, first, rest).await,
        "version" if rest.is_empty() => Ok(Answer::json(version().to_string())),
        "metrics" if rest.is_empty() => {
            Ok(Answer::Raw(plain(200, "text/plain; version=0.0.4; charset=utf-8", metrics::text(server).await.into())))
        }
        "metrics" if rest == "slis" => {
            let text = server.inner.metrics.health.text();
            Ok(Answer::Raw(plain(200, "text/plain; version=0.0.4; charset=utf-8", text.into())))
        }
        "api" | "apis" => discovery::answer(server, call, path),
        "openapi" => openapi::answer(server, call, rest).await,
        ".well-known" | "openid" => issuer_document(server, path),
        _ => Err(status::no_such_path()),
    }
}

fn is_known(path: &str) -> bool {
    matches!(
        path,
        "" | "/healthz" | "/livez" | "/readyz" | "/version" | "/metrics" | "/metrics/slis" | "/api" | "/apis"
    )
}

fn issuer_document(server: &ApiServer, path: &str) -> Result<Answer, Status> {
    let issuer = server.inner.deps.token_issuer.as_ref().ok_or_else(status::no_such_path)?;
    let (content_type, bytes) = issuer.document(path).ok_or_else(status::no_such_path)?;
    Ok(Answer::Raw(plain(200, content_type, bytes.into())))
}

fn paths(server: &ApiServer) -> Vec<String> {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(Into::into).into();
    for (group, versions) in discovery::groups(server) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{}", v.version)));
    }
    let rest = ["/healthz", "/livez", "/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    paths.extend(rest.map(Into::into));
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
