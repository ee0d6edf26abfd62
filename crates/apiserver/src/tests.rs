//! Requests as text in, answers as text out, against a server in this process.

use crate::auth::{AllowAll, Authorizer, LocalOnly, MASTERS, Peer, UserInfo};
use crate::{ApiServer, Body, Deps, ServiceNetwork, response};
use base::SeededRandom;
use base::clock::ManualClock;
use bytes::Bytes;
use expect_test::{Expect, expect};
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use store::MemoryStore;

mod admission;
mod audits;
mod custom;
mod deletes;
mod edge;
mod forms;
mod hostile;
mod lists;
mod metrics;
mod quotas;
mod services;
mod starts;
mod subresources;
mod traces;
mod watches;
mod writes;
mod zpages;

/// A server over an empty memory store, with the namespace `default`.
struct Fixture {
    server: ApiServer,
    clock: Arc<ManualClock>,
}

/// A store that holds these objects at these keys.
pub(crate) async fn store_with(objects: Vec<(&'static str, Value)>) -> Arc<dyn store::Store> {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let create = |(key, object): (&'static str, Value)| store::Op::Create {
        key: store::Key::new(key),
        value: store::Value::plain(object.to_string()),
    };
    let ops = objects.into_iter().map(create).collect();
    store::Store::commit(&*store, store::Txn { ops }).await.expect("an empty store");
    store
}

impl Fixture {
    async fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new(store::Limits::default()))).await
    }

    async fn over(store: Arc<dyn store::Store>) -> Self {
        Self::with(store, vec![Box::new(crate::admission::NamespaceLifecycle)], None).await
    }

    async fn with(
        store: Arc<dyn store::Store>,
        admission: Vec<Box<dyn crate::admission::Admission>>,
        audit: Option<Arc<crate::audit::Audit>>,
    ) -> Self {
        Self::made(store, admission, audit, ServiceNetwork::default(), Arc::new(AllowAll)).await
    }

    async fn with_network(store: Arc<dyn store::Store>, services: ServiceNetwork) -> Self {
        let admission: Vec<Box<dyn crate::admission::Admission>> = vec![Box::new(crate::admission::NamespaceLifecycle)];
        Self::made(store, admission, None, services, Arc::new(AllowAll)).await
    }

    /// Not everybody may do everything; `admin`, who asks by default, may.
    async fn guarded(authorizer: Arc<dyn Authorizer>) -> Self {
        let store = Arc::new(MemoryStore::new(store::Limits::default()));
        Self::made(store, Vec::new(), None, ServiceNetwork::default(), authorizer).await
    }

    async fn made(
        store: Arc<dyn store::Store>,
        admission: Vec<Box<dyn crate::admission::Admission>>,
        audit: Option<Arc<crate::audit::Audit>>,
        services: ServiceNetwork,
        authorizer: Arc<dyn Authorizer>,
    ) -> Self {
        let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().expect("a time"));
        let server = ApiServer::new(Deps {
            store,
            authenticator: Arc::new(LocalOnly),
            authorizer,
            admission,
            token_issuer: None,
            services,
            node_client: None,
            audit,
            clock: clock.clone(),
            random: Arc::new(SeededRandom::new(1)),
        })
        .await
        .expect("an empty store");
        let fixture = Fixture { server, clock };
        fixture.ask("POST /api/v1/namespaces\n{\"metadata\":{\"name\":\"default\"}}").await;
        fixture
    }

    async fn send(&self, request: &str) -> Response<Body> {
        self.send_as(UserInfo::new("admin", &[MASTERS]), request).await
    }

    async fn send_as(&self, user: UserInfo, request: &str) -> Response<Body> {
        let (head, body) = request.split_once('\n').unwrap_or((request, ""));
        let mut lines = head.split(" | ");
        let (method, uri) = lines.next().unwrap_or_default().split_once(' ').expect("METHOD uri");
        let mut builder = Request::builder().method(method).uri(uri);
        for header in lines {
            let (name, value) = header.split_once(": ").expect("name: value");
            builder = builder.header(name, value);
        }
        let request = builder.body(response::body_from(body.to_owned())).expect("a request");
        self.server.handle(request, Peer::local(user)).await
    }

    async fn ask(&self, request: &str) -> (u16, Bytes) {
        let response = self.send(request).await;
        let code = response.status().as_u16();
        (code, response.into_body().collect().await.expect("a body").to_bytes())
    }

    /// The answer as JSON.
    async fn json(&self, request: &str) -> Value {
        serde_json::from_slice(&self.ask(request).await.1).expect("JSON")
    }

    /// Asks all requests (separated by blank lines) and shows the answers, a line each.
    async fn check_http(&self, script: &str, expected: Expect) {
        let mut out = String::new();
        for request in script.trim().split("\n\n") {
            let request = request.lines().map(str::trim).collect::<Vec<_>>().join("\n");
            let (code, body) = self.ask(&request).await;
            out.push_str(&format!("{code} {}\n", show(&body)));
        }
        expected.assert_eq(&out);
    }
}

/// What matters of an answer: a failure's text, an object's identity and data, a list's names.
fn show(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return String::from_utf8_lossy(body).into_owned();
    };
    let text = |v: &Value, k: &str| v[k].as_str().unwrap_or_default().to_owned();
    match text(&value, "kind").as_str() {
        "Status" if text(&value, "status") == "Success" => format!("Success {}", value["details"]),
        "Status" => format!("{}: {}", text(&value, "reason"), text(&value, "message")),
        kind if kind.ends_with("List") => {
            let names: Vec<String> =
                value["items"].as_array().into_iter().flatten().map(|i| text(&i["metadata"], "name")).collect();
            format!("{kind}@{} [{}]", text(&value["metadata"], "resourceVersion"), names.join(" "))
        }
        kind => {
            let meta = &value["metadata"];
            let mut out = format!("{kind} {}@{}", text(meta, "name"), text(meta, "resourceVersion"));
            for field in ["labels", "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                if !meta[field].is_null() {
                    out.push_str(&format!(" {field}={}", meta[field]));
                }
            }
            for field in ["data", "spec"] {
                if !value[field].is_null() && kind != "Pod" {
                    out.push_str(&format!(" {field}={}", value[field]));
                }
            }
            out
        }
    }
}

/// The next events of a watch, one line each, until `count` came.
async fn events(body: &mut Body, count: usize) -> String {
    let mut out = String::new();
    let mut seen = 0;
    while seen < count {
        let Some(frame) = body.frame().await else {
            out.push_str("end\n");
            break;
        };
        let data = frame.expect("a frame").into_data().expect("data");
        for line in data.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let event: Value = serde_json::from_slice(line).expect("JSON");
            let object = event["object"].to_string();
            let marks = event["object"]["metadata"]["annotations"].as_object().map(|a| format!(" {a:?}"));
            out.push_str(&format!(
                "{} {}{}\n",
                event["type"].as_str().expect("text"),
                show(object.as_bytes()),
                marks.unwrap_or_default()
            ));
            seen += 1;
        }
    }
    out
}

#[tokio::test(start_paused = true)]
async fn discovery_lists_what_is_served() {
    let f = Fixture::new().await;
    let list = f.json("GET /api/v1").await;
    let names: Vec<&str> =
        list["resources"].as_array().expect("list").iter().filter_map(|r| r["name"].as_str()).collect();
    for name in ["configmaps", "namespaces", "namespaces/status", "pods", "pods/exec", "pods/eviction"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let response = f.send(&format!("GET /apis | accept: {v2}")).await;
    assert_eq!(response.headers()["content-type"], v2);
    let tag = response.headers()["etag"].to_str().expect("text").to_owned();
    let (code, body) = f.ask(&format!("GET /apis | accept: {v2} | if-none-match: {tag}")).await;
    assert_eq!((code, body.len()), (304, 0));
}

#[tokio::test(start_paused = true)]
async fn the_url_may_limit_the_time() {
    let f = Fixture::new().await;
    f.check_http(
        "GET /api/v1/namespaces?timeout=invalid

        GET /api/v1/nodes?timeout=0s

        GET /api/v1/nodes?timeout=3m",
        expect![[r#"
            400 BadRequest: invalid timeout specified in the request URL - time: invalid duration "invalid"
            200 NodeList@1 []
            200 NodeList@1 []
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn health_and_version() {
    let f = Fixture::new().await;
    f.check_http(
        "GET /readyz

        GET /livez?verbose

        GET /healthz/nothing

        POST /healthz

        GET /nothing",
        expect![[r#"
            200 ok
            200 [+]ping ok
            [+]log ok
            [+]etcd ok
            [+]poststarthook/storage-readiness ok
            [+]poststarthook/start-apiserver-admission-initializer ok
            [+]poststarthook/generic-apiserver-start-informers ok
            [+]poststarthook/start-apiextensions-informers ok
            [+]poststarthook/start-apiextensions-controllers ok
            [+]poststarthook/crd-informer-synced ok
            [+]poststarthook/start-service-ip-repair-controllers ok
            livez check passed

            404 404 page not found

            200 ok
            404 404 page not found

        "#]],
    )
    .await;
    assert_eq!(f.json("GET /version").await["gitVersion"], "v1.36.2+dhow");
    let (_, slis) = f.ask("GET /metrics/slis").await;
    let slis = String::from_utf8_lossy(&slis);
    assert!(slis.contains(r#"kubernetes_healthcheck{name="etcd",type="livez"} 1"#), "{slis}");
    f.server.begin_shutdown();
    assert_eq!(f.ask("GET /readyz").await.0, 500);
}

#[tokio::test(start_paused = true)]
async fn time_is_what_the_clock_says() {
    let f = Fixture::new().await;
    f.clock.advance(Duration::from_millis(1500));
    let made = f.json("POST /api/v1/namespaces\n{\"metadata\":{\"name\":\"x\"}}").await;
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-01-01T00:00:01Z");
}

#[tokio::test(start_paused = true)]
async fn reviews_have_no_table() {
    let f = Fixture::new().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let review = r#"{"spec":{"nonResourceAttributes":{"path":"/x","verb":"get"}}}"#;
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(f.ask(&format!("POST {uri} | accept: {table}\n{review}")).await.0, 406);
    assert_eq!(f.ask(&format!("POST {uri} | accept: {table},application/json\n{review}")).await.0, 406);
    assert_eq!(f.ask(&format!("POST {uri}\n{review}")).await.0, 201);
}
