//! Whole requests to the API server, several in a row, as text:
//!
//! ```text
//!   POST /api/v1/namespaces/default/configmaps | content-type: application/json
//!   {"metadata":{"name":"a"}}
//! ```
//!
//! with a byte 0 between two of them.

use apiserver::auth::{AllowAll, LocalOnly, Peer, UserInfo};
use apiserver::{ApiServer, Deps, ServiceNetwork};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use std::sync::Arc;
use std::time::Duration;
use store::MemoryStore;
use testkit::{Dice, SimClock};

const CM: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let create =
        format!("POST {CM}\n{{\"metadata\":{{\"name\":\"a\",\"labels\":{{\"x\":\"y\"}}}},\"data\":{{\"a\":\"b\"}}}}");
    let scripts = [
        format!("{create}\0GET {CM}?labelSelector=x%3Dy&limit=1\n\0GET {CM}/a | accept: application/yaml\n"),
        format!("{create}\0PATCH {CM}/a | content-type: application/merge-patch+json\n{{\"data\":{{\"a\":null}}}}\0DELETE {CM}/a\n{{\"gracePeriodSeconds\":0}}"),
        format!("{create}\0PATCH {CM}/a?fieldManager=m&force=true | content-type: application/apply-patch+yaml\napiVersion: v1\nkind: ConfigMap\ndata: {{c: d}}\n"),
        format!("{create}\0GET {CM}?watch=true&resourceVersion=0&timeoutSeconds=1 | accept: application/json;as=Table;v=v1;g=meta.k8s.io\n"),
        format!("{create}\0PUT {CM}/a\n{{\"metadata\":{{\"name\":\"a\",\"resourceVersion\":\"3\"}}}}\0DELETE {CM}?fieldSelector=metadata.name%3Da\n"),
        "POST /apis/apps/v1/namespaces/default/deployments?dryRun=All&fieldValidation=Strict\n{\"metadata\":{\"name\":\"d\"},\"spec\":{\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"template\":{\"metadata\":{\"labels\":{\"a\":\"b\"}},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}}}\0GET /apis/apps/v1/namespaces/default/deployments/d/scale\n".into(),
        "GET /openapi/v2\n\0GET /openapi/v3/apis/apps/v1\n\0GET /apis | accept: application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io\n\0GET /readyz?verbose\n".into(),
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews\n{\"spec\":{\"resourceAttributes\":{\"verb\":\"get\",\"resource\":\"pods\"}}}\0POST /api/v1/namespaces/default/pods/a/eviction\n{\"metadata\":{\"name\":\"a\"}}".into(),
    ];
    scripts.into_iter().map(String::into_bytes).collect()
}

fn request(text: &[u8]) -> Option<Request<apiserver::Body>> {
    let (head, body) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], text[end + 1..].to_vec()),
        None => (text, Vec::new()),
    };
    let mut head = std::str::from_utf8(head).ok()?.split(" | ");
    let (method, uri) = head.next()?.split_once(' ')?;
    let mut builder = Request::builder().method(method).uri(uri);
    for header in head {
        let (name, value) = header.split_once(": ")?;
        builder = builder.header(name, value);
    }
    let body: apiserver::Body = Full::from(body).map_err(|never| match never {}).boxed_unsync();
    builder.body(body).ok()
}

/// No request makes the server panic; each is answered.
pub(crate) fn requests(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let random = Dice::new(1).random();
        let deps = Deps {
            store: Arc::new(MemoryStore::default()),
            authenticator: Arc::new(LocalOnly),
            authorizer: Arc::new(AllowAll),
            admission: apiserver::admission::default_plugins(random.clone()),
            token_issuer: None,
            services: ServiceNetwork::default(),
            node_client: None,
            audit: None,
            clock: SimClock::new("2026-01-01T00:00:00Z".parse().expect("a time")),
            random,
        };
        let server = ApiServer::new(deps).await.expect("an empty store");
        let peer = || Peer::local(UserInfo::new("admin", &["system:masters"]));
        let namespace = request(b"POST /api/v1/namespaces\n{\"metadata\":{\"name\":\"default\"}}").expect("a request");
        assert_eq!(server.handle(namespace, peer()).await.status(), 201);
        for text in input.split(|byte| *byte == 0).take(8) {
            let Some(request) = request(text) else { continue };
            let answer = tokio::time::timeout(Duration::from_secs(3600), server.handle(request, peer())).await;
            let answer = answer.expect("an answer");
            let failed = answer.status().is_server_error();
            // What streams, does so for a while.
            let body = tokio::time::timeout(Duration::from_secs(60), answer.into_body().collect()).await;
            let Ok(Ok(body)) = body else { continue };
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            assert!(!(failed && body.contains("panic")), "{}: {body}", String::from_utf8_lossy(text));
        }
    });
}
