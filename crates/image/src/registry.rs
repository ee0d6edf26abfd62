//! A client of the OCI distribution protocol: manifests and blobs, tokens, redirects, retries.
//!
//! Always holds: credentials go to the endpoint they are for and to the token server it names, never along with a
//! redirect to another host; what is tried again is only what may be (no answer, 429, 5xx).

use crate::http::{Body, Http, HttpError, collect, host_of};
use crate::registries::{Credentials, Endpoint};
use crate::{Digest, Reference, spec};
use base::backoff::Backoff;
use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// Manifests are small; registries themselves refuse more than 4 MiB.
const MANIFEST_BYTES: usize = 4 << 20;

/// A token, or an error's text.
const SMALL_BYTES: usize = 1 << 20;

/// Tries of one request, the first included.
const TRIES: u32 = 5;

/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

const REDIRECTS: usize = 10;

/// Why a registry did not do what was asked.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// It does not have it.
    #[error("{what} not found in {registry}: check the name and the tag")]
    NotFound {
        /// A reference or a digest.
        what: String,
        /// Who was asked.
        registry: String,
    },
    /// It wants to know who we are, or knows and refuses.
    #[error(
        "{registry} refused access to {what}: {why}; check that it exists and give credentials that may {action} it"
    )]
    Unauthorized {
        /// A reference.
        what: String,
        /// Who was asked.
        registry: String,
        /// `pull` or `push`.
        action: &'static str,
        /// Its words.
        why: String,
    },
    /// No answer.
    #[error("failed to reach {registry} for {what}")]
    Http {
        /// A reference or a digest.
        what: String,
        /// Who was asked.
        registry: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// It asks us to stop for now.
    #[error("{registry} limits the rate of requests ({why}): try later or log in")]
    RateLimited {
        /// Who was asked.
        registry: String,
        /// Its words.
        why: String,
    },
    /// Any other answer.
    #[error("{registry} answered {status} for {what}: {why}")]
    Status {
        /// A reference or a digest.
        what: String,
        /// Who was asked.
        registry: String,
        /// The status.
        status: u16,
        /// Its words.
        why: String,
    },
    /// An answer that the protocol does not allow.
    #[error("{registry} broke the protocol for {what}: {why}")]
    Protocol {
        /// A reference or a digest.
        what: String,
        /// Who was asked.
        registry: String,
        /// How.
        why: String,
    },
}

/// A manifest as the registry sent it.
pub(crate) struct Fetched {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

/// What is done to a repository, for tokens and for errors.
#[derive(Clone, Copy)]
struct Purpose<'a> {
    /// For errors.
    what: &'a str,
    repository: &'a str,
    action: &'static str,
}

impl Purpose<'_> {
    fn scope(&self) -> String {
        let actions = if self.action == "push" { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.repository)
    }
}

/// A request that can be made again.
struct Plan<'a> {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Payload<'a>,
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    Empty,
    Bytes(&'a Bytes),
    File(&'a Path, u64),
}

impl<'a> Plan<'a> {
    fn new(method: Method, url: String) -> Self {
        Plan { method, url, headers: HeaderMap::new(), body: Payload::Empty }
    }

    fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// The client. Remembers connections and tokens.
#[derive(Default)]
pub(crate) struct Client {
    http: Http,
    authorizations: Mutex<HashMap<Access, HeaderValue>>,
}

/// What an `Authorization` is good for. The credentials are a part of it: what one pod's secret opened stays closed to
/// another pod.
#[derive(PartialEq, Eq, Hash)]
struct Access {
    base: String,
    scope: String,
    credentials: Option<Credentials>,
}

impl Access {
    fn new(endpoint: &Endpoint, purpose: Purpose<'_>) -> Self {
        Access { base: endpoint.base.clone(), scope: purpose.scope(), credentials: endpoint.credentials.clone() }
    }
}

impl Client {
    /// The manifest or index that `reference` names, from the first endpoint that has it.
    pub(crate) async fn manifest(
        &self,
        endpoints: &[Endpoint],
        reference: &Reference,
        identifier: &str,
    ) -> Result<Fetched, RegistryError> {
        let mut attempts = Attempts::default();
        for endpoint in endpoints {
            match self.manifest_at(endpoint, reference, identifier).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => attempts.failed(endpoint, error),
            }
        }
        Err(attempts.error())
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        identifier: &str,
    ) -> Result<Fetched, RegistryError> {
        let what = reference.to_string();
        let purpose = Purpose { what: &what, repository: &reference.repository, action: "pull" };
        let url = url(endpoint, &reference.repository, &format!("manifests/{identifier}"));
        let plan = Plan::new(Method::GET, url).header(header::ACCEPT, &spec::ACCEPT.join(", "));
        let response = self.request(endpoint, purpose, plan).await?;
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or("").trim().to_owned();
        let host = host(endpoint);
        let bytes = collect(&host, response.into_body(), MANIFEST_BYTES).await;
        Ok(Fetched { media_type, bytes: bytes.map_err(|source| no_answer(&host, purpose, source))? })
    }

    /// The content of a blob from `offset` on. The second value tells whether the answer begins at `offset` or at 0.
    pub(crate) async fn blob(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        digest: &Digest,
        offset: u64,
    ) -> Result<(Response<Incoming>, bool), RegistryError> {
        let what = digest.to_string();
        let purpose = Purpose { what: &what, repository, action: "pull" };
        let mut plan = Plan::new(Method::GET, url(endpoint, repository, &format!("blobs/{digest}")));
        if offset > 0 {
            plan = plan.header(header::RANGE, &format!("bytes={offset}-"));
        }
        let response = self.request(endpoint, purpose, plan).await?;
        let begins = format!("bytes {offset}-");
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT && range.is_some_and(|r| r.starts_with(&begins));
        if response.status() == StatusCode::PARTIAL_CONTENT && !resumed {
            let why = format!("asked for bytes from {offset}, got {range:?}");
            return Err(RegistryError::Protocol { what, registry: host(endpoint), why });
        }
        Ok((response, resumed))
    }

    /// Sends a blob unless the registry has it.
    pub(crate) async fn push_blob(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        digest: &Digest,
        file: &Path,
        size: u64,
    ) -> Result<bool, RegistryError> {
        let what = digest.to_string();
        let purpose = Purpose { what: &what, repository, action: "push" };
        let probe = Plan::new(Method::HEAD, url(endpoint, repository, &format!("blobs/{digest}")));
        match self.request(endpoint, purpose, probe).await {
            Ok(_) => return Ok(false),
            Err(RegistryError::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
        let start = Plan::new(Method::POST, url(endpoint, repository, "blobs/uploads/"));
        let started = self.request(endpoint, purpose, start.header(header::CONTENT_LENGTH, "0")).await?;
        let location = started.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.and_then(|location| absolute(&endpoint.base, location)).ok_or_else(|| {
            let why = "an upload without a place to send it to".to_owned();
            RegistryError::Protocol { what: what.clone(), registry: host(endpoint), why }
        })?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let mut send = Plan::new(Method::PUT, format!("{location}{separator}digest={digest}"))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, &size.to_string());
        send.body = Payload::File(file, size);
        self.request(endpoint, purpose, send).await?;
        Ok(true)
    }

    /// Sends a manifest under a tag or digest.
    pub(crate) async fn push_manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), RegistryError> {
        let what = reference.to_string();
        let purpose = Purpose { what: &what, repository: &reference.repository, action: "push" };
        let path = format!("manifests/{}", reference.identifier());
        let mut plan = Plan::new(Method::PUT, url(endpoint, &reference.repository, &path))
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, &bytes.len().to_string());
        plan.body = Payload::Bytes(bytes);
        self.request(endpoint, purpose, plan).await.map(drop)
    }

    /// The first endpoint of a registry that answers at all (TLS before plain HTTP).
    pub(crate) async fn reach(
        &self,
        endpoints: Vec<Endpoint>,
        reference: &Reference,
    ) -> Result<Endpoint, RegistryError> {
        let what = reference.to_string();
        let purpose = Purpose { what: &what, repository: &reference.repository, action: "push" };
        let mut attempts = Attempts::default();
        for endpoint in endpoints {
            let request = self.build(&Plan::new(Method::GET, format!("{}/v2/", endpoint.base)), None).await?;
            match self.http.send(&endpoint.tls, request).await {
                Ok(_) => return Ok(endpoint),
                Err(source) => attempts.failed(&endpoint, no_answer(&host(&endpoint), purpose, source)),
            }
        }
        Err(attempts.error())
    }

    // === one request ===

    /// With authorization, redirects and retries. Only success is `Ok`.
    async fn request(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose<'_>,
        mut plan: Plan<'_>,
    ) -> Result<Response<Incoming>, RegistryError> {
        if let Some(registry) = &endpoint.mirror_of {
            let separator = if plan.url.contains('?') { '&' } else { '?' };
            plan.url = format!("{}{separator}ns={registry}", plan.url);
        }
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(10));
        let mut authorized = false;
        loop {
            let known = self.authorizations.lock().get(&Access::new(endpoint, purpose)).cloned();
            let outcome = self.follow(endpoint, purpose, &plan, known).await;
            let last = backoff.failures() + 1 >= TRIES;
            let pause = match outcome {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    authorized = true;
                    self.authorize(endpoint, purpose, &response).await?;
                    continue;
                }
                Ok(response) if is_transient(response.status()) && !last => {
                    let asked = retry_after(&response);
                    backoff.fail().max(asked).min(LONGEST_PAUSE)
                }
                Ok(response) => return Err(refusal(endpoint, purpose, response).await),
                // A host that cannot be connected to has alternatives (mirror, plain HTTP): the caller goes there.
                Err(RegistryError::Http { source, .. })
                    if source.is_transient() && !matches!(source, HttpError::Connect { .. }) && !last =>
                {
                    backoff.fail()
                }
                Err(error) => return Err(error),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One request and where it is redirected to.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose<'_>,
        plan: &Plan<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut url = plan.url.clone();
        for _ in 0..=REDIRECTS {
            let here =
                Plan { method: plan.method.clone(), url: url.clone(), headers: plan.headers.clone(), body: plan.body };
            // Storage servers refuse requests with two authorizations, and it is none of their business.
            let own = same_origin(&url, &endpoint.base);
            let request = self.build(&here, authorization.clone().filter(|_| own)).await?;
            let target = host_of(request.uri());
            let answer = self.http.send(&endpoint.tls, request).await;
            let response = answer.map_err(|source| no_answer(&target, purpose, source))?;
            let moved = response.status().is_redirection() && matches!(plan.method, Method::GET | Method::HEAD);
            let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            match next.and_then(|next| absolute(&url, next)).filter(|_| moved) {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        let why = format!("more than {REDIRECTS} redirects");
        Err(RegistryError::Protocol { what: purpose.what.to_owned(), registry: host(endpoint), why })
    }

    async fn build(&self, plan: &Plan<'_>, authorization: Option<HeaderValue>) -> Result<Request<Body>, RegistryError> {
        let wrong = |why: String| RegistryError::Protocol { what: plan.url.clone(), registry: "the URL".into(), why };
        let body = match plan.body {
            Payload::Empty => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Payload::Bytes(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
            Payload::File(path, size) => {
                let file = tokio::fs::File::open(path).await.map_err(|error| wrong(error.to_string()))?;
                let file = tokio::io::AsyncReadExt::take(file, size);
                let pieces = tokio_util::io::ReaderStream::with_capacity(file, 64 << 10);
                StreamBody::new(futures_util::TryStreamExt::map_ok(pieces, Frame::data)).boxed_unsync()
            }
        };
        let mut request = Request::builder()
            .method(plan.method.clone())
            .uri(&plan.url)
            .body(body)
            .map_err(|error| wrong(error.to_string()))?;
        *request.headers_mut() = plan.headers.clone();
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("dhow"));
        if let Some(value) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    // === authorization ===

    /// Answers a challenge and remembers the answer.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose<'_>,
        response: &Response<Incoming>,
    ) -> Result<(), RegistryError> {
        let refused = |why: &str| RegistryError::Unauthorized {
            what: purpose.what.to_owned(),
            registry: host(endpoint),
            action: purpose.action,
            why: why.to_owned(),
        };
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> = challenges.iter().filter_map(|v| parse_challenge(v.to_str().ok()?)).collect();
        let bearer = challenges.iter().find(|challenge| challenge.scheme == "bearer");
        let value = match (bearer, &endpoint.credentials) {
            (Some(bearer), credentials) => {
                let token = self.token(endpoint, purpose, bearer, credentials.as_ref()).await?;
                format!("Bearer {token}")
            }
            (None, Some(credentials)) if challenges.iter().any(|c| c.scheme == "basic") => basic(credentials),
            (None, None) => return Err(refused("authentication is required")),
            (None, Some(_)) => return Err(refused("it asks for an unsupported kind of authentication")),
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| refused("the token is not text"))?;
        value.set_sensitive(true);
        self.authorizations.lock().insert(Access::new(endpoint, purpose), value);
        Ok(())
    }

    /// `distribution/docs/spec/auth/token.md` and `oauth.md`.
    async fn token(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose<'_>,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
    ) -> Result<String, RegistryError> {
        let protocol = |why: &str| RegistryError::Protocol {
            what: purpose.what.to_owned(),
            registry: host(endpoint),
            why: why.to_owned(),
        };
        let parameter = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let realm = parameter("realm").ok_or_else(|| protocol("a token is needed, but not said from where"))?;
        let plain = realm.starts_with("http://") && endpoint.tls.insecure;
        if !plain && !realm.starts_with("https://") {
            return Err(protocol(
                "tokens would come over an unprotected connection; mark the registry as insecure to allow it",
            ));
        }
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let service = encode(parameter("service").unwrap_or_default());
        let query = format!("service={service}&scope={}", encode(&purpose.scope()));
        let refresh = credentials.and_then(|credentials| credentials.identity_token.as_deref());
        let form;
        let mut plan;
        let mut authorization = None;
        if let Some(refresh) = refresh {
            form = Bytes::from(format!(
                "grant_type=refresh_token&client_id=dhow&refresh_token={}&{query}",
                encode(refresh)
            ));
            plan = Plan::new(Method::POST, realm.to_owned())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            plan.body = Payload::Bytes(&form);
        } else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            plan = Plan::new(Method::GET, format!("{realm}{separator}{query}"));
            authorization = credentials.and_then(|credentials| HeaderValue::from_str(&basic(credentials)).ok());
        }
        let request = self.build(&plan, authorization).await?;
        let server = host_of(request.uri());
        let answer = self.http.send(&endpoint.tls, request).await;
        let response = answer.map_err(|source| no_answer(&server, purpose, source))?;
        if !response.status().is_success() {
            let at = Endpoint { base: realm.to_owned(), ..endpoint.clone() };
            return Err(refusal(&at, purpose, response).await);
        }
        let bytes = collect(&server, response.into_body(), SMALL_BYTES).await;
        let bytes = bytes.map_err(|source| no_answer(&server, purpose, source))?;
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| protocol("the token server's answer is not JSON"))?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
        token.ok_or_else(|| protocol("the token server's answer has no token"))
    }
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What went wrong at the endpoints tried so far, and which of it to tell.
#[derive(Default)]
pub(crate) struct Attempts {
    /// And whether a mirror said it.
    told: Option<(RegistryError, bool)>,
}

impl Attempts {
    /// The registry's own word counts more than a mirror's, an answer more than silence, the later more than the earlier.
    pub(crate) fn failed(&mut self, endpoint: &Endpoint, error: RegistryError) {
        let mirror = endpoint.mirror_of.is_some();
        if mirror && !matches!(error, RegistryError::NotFound { .. }) {
            // Another endpoint may still succeed, and then nobody would hear of a wrong configuration.
            tracing::warn!(endpoint = %endpoint.base, error = %base::chain(&error), "registry mirror failed");
        }
        let silent = matches!(error, RegistryError::Http { .. });
        let tell = match &self.told {
            None | Some((_, true)) => true,
            Some((told, false)) => !silent || matches!(told, RegistryError::Http { .. }),
        };
        if tell {
            self.told = Some((error, mirror));
        }
    }

    pub(crate) fn error(self) -> RegistryError {
        self.told.map(|(error, _)| error).unwrap_or_else(|| RegistryError::Protocol {
            what: "the request".into(),
            registry: "the configuration".into(),
            why: "no endpoint is configured".into(),
        })
    }
}

fn url(endpoint: &Endpoint, repository: &str, path: &str) -> String {
    format!("{}/v2/{repository}/{path}", endpoint.base)
}

pub(crate) fn host(endpoint: &Endpoint) -> String {
    let rest = endpoint.base.split_once("://").map_or(endpoint.base.as_str(), |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

fn absolute(base: &str, location: &str) -> Option<String> {
    let joined = url::Url::parse(base).ok()?.join(location).ok()?;
    matches!(joined.scheme(), "http" | "https").then(|| joined.to_string())
}

fn same_origin(url: &str, base: &str) -> bool {
    match (url::Url::parse(url), url::Url::parse(base)) {
        (Ok(one), Ok(other)) => one.origin() == other.origin(),
        _ => false,
    }
}

fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn is_transient(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}

fn retry_after(response: &Response<Incoming>) -> Duration {
    let value = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Duration::from_secs(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

fn no_answer(registry: &str, purpose: Purpose<'_>, source: HttpError) -> RegistryError {
    RegistryError::Http { what: purpose.what.to_owned(), registry: registry.to_owned(), source }
}

/// Turns a refusal into an error with the registry's own words.
async fn refusal(endpoint: &Endpoint, purpose: Purpose<'_>, response: Response<Incoming>) -> RegistryError {
    let (status, registry) = (response.status(), host(endpoint));
    let text = collect(&registry, response.into_body(), SMALL_BYTES).await.unwrap_or_default();
    let words = words(&text);
    let why = if words.is_empty() { status.canonical_reason().unwrap_or("no reason given").to_owned() } else { words };
    let what = purpose.what.to_owned();
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what, registry },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RegistryError::Unauthorized { what, registry, action: purpose.action, why }
        }
        StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { registry, why },
        _ => RegistryError::Status { what, registry, status: status.as_u16(), why },
    }
}

/// `{"errors":[{"code":…,"message":…}]}` as a sentence.
fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            errors.iter().map(|one| format!("{}: {}", one.code, one.message)).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).lines().next().unwrap_or_default().chars().take(200).collect(),
    }
}

/// One of a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

/// `Bearer realm="…",service="…"`. Quoted values may contain commas and escaped quotes.
fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let mut parameters = HashMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if rest.is_empty() {
            break;
        }
        let (name, after) = rest.split_once('=')?;
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            loop {
                match chars.next()? {
                    (end, '"') => {
                        rest = &quoted[end + 1..];
                        break;
                    }
                    (_, '\\') => value.push(chars.next()?.1),
                    (_, other) => value.push(other),
                }
            }
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value.push_str(after[..end].trim());
            rest = &after[end..];
        }
        parameters.insert(name.trim().to_ascii_lowercase(), value);
    }
    Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let text =
            r#"Bearer realm="https://auth/token",service="a, \"b\"",scope="repository:x:pull",error=insufficient"#;
        let challenge = parse_challenge(text).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.parameters["realm"], "https://auth/token");
        assert_eq!(challenge.parameters["service"], r#"a, "b""#);
        assert_eq!(challenge.parameters["error"], "insufficient");
        assert_eq!(parse_challenge("Basic").unwrap().scheme, "basic");
        assert_eq!(parse_challenge(r#"Bearer realm="never ends"#), None);
    }

    #[test]
    fn locations_are_resolved_and_origins_compared() {
        assert_eq!(absolute("http://r:5000/v2/", "/v2/x?a=b").as_deref(), Some("http://r:5000/v2/x?a=b"));
        assert_eq!(absolute("http://r:5000", "https://s3/x").as_deref(), Some("https://s3/x"));
        assert_eq!(absolute("http://r:5000", "file:///etc/passwd"), None);
        assert!(same_origin("https://r/v2/", "https://r:443"));
        assert!(!same_origin("http://r/v2/", "https://r"));
        assert!(!same_origin("https://r.evil/v2/", "https://r"));
    }

    #[test]
    fn words_of_a_registry_are_kept() {
        assert_eq!(words(br#"{"errors":[{"code":"DENIED","message":"no","detail":[]}]}"#), "DENIED: no");
        assert_eq!(words(b"<html>\nlong"), "<html>");
    }
}
