//! An APIService whose server is a small TLS server of this test: it becomes available, is discovered, gets requests with the
//! user's name under the front proxy's certificate, and is refused when its endpoint goes.

use apiserver::auth::{AllowAll, LocalOnly, Peer, UserInfo};
use apiserver::{ApiServer, Body, Deps, FrontProxy, ServiceNetwork};
use base::{SystemClock, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "wardle.example.com";

struct Pair {
    pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: String,
}

fn pair(name: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed(vec![name.into()]).expect("a certificate");
    let pem = made.cert.pem();
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("PEM");
    Pair { pem, chain, key: made.signing_key.serialize_pem() }
}

impl Pair {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }
}

/// Answers discovery the old way, and everything else with what it saw of the request. Asks for a certificate.
async fn extension(listener: TcpListener, own: Pair, front_proxy: CertificateDer<'static>) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(front_proxy).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(own.chain.clone(), own.key())
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        base::tasks::detach("test-extension", async move {
            let mut stream = BufReader::new(acceptor.accept(tcp).await.expect("a front proxy"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).await.expect("a head");
            }
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (code, body) = match path {
                "/apis" | "/openapi/v2" | "/openapi/v3" => (404, String::new()),
                "/apis/wardle.example.com/v1" => (200, json!({"kind": "APIResourceList", "resources": [
                    {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
                ]}).to_string()),
                _ => (200, head.to_lowercase()),
            };
            let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("writes");
        });
    }
}

async fn ask(server: &ApiServer, method: &str, uri: &str, body: Value) -> (u16, String) {
    let sent = if body.is_null() { String::new() } else { body.to_string() };
    let body: Body = Full::new(Bytes::from(sent)).map_err(|never| match never {}).boxed_unsync();
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("accept", if uri == "/apis" { aggregated } else { "application/json" })
        .header("authorization", "Bearer secret")
        .header("x-remote-group", "system:masters")
        .header("content-type", "application/json");
    let peer = Peer::local(UserInfo::new("jane", &["devs"]));
    let response = server.handle(request.body(body).expect("a request"), peer).await;
    let code = response.status().as_u16();
    let text = response.into_body().collect().await.expect("a body").to_bytes();
    (code, String::from_utf8_lossy(&text).into_owned())
}

async fn made(server: &ApiServer, uri: &str, body: Value) {
    let (code, text) = ask(server, "POST", uri, body).await;
    assert_eq!(code, 201, "{uri}: {text}");
}

/// Asks until the answer is as wanted.
async fn until(server: &ApiServer, uri: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
    let mut last = (0, String::new());
    let trying = async {
        loop {
            last = ask(server, "GET", uri, Value::Null).await;
            if wanted(last.0, &last.1) {
                return last.1.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(std::time::Duration::from_secs(20), trying).await {
        Ok(text) => text,
        Err(_) => panic!("{uri}: {last:?}"),
    }
}

#[tokio::test]
async fn an_aggregated_server_is_discovered_and_gets_requests() {
    let server = ApiServer::new(Deps {
        store: Arc::new(store::MemoryStore::new(store::Limits::default())),
        authenticator: Arc::new(LocalOnly),
        authorizer: Arc::new(AllowAll),
        admission: Vec::new(),
        token_issuer: None,
        services: ServiceNetwork::default(),
        node_client: None,
        audit: None,
        clock: SystemClock::shared(),
        random: Arc::new(SystemRandom),
    })
    .await
    .expect("an empty store");
    let (own, proxy) = (pair("sample.n.svc"), pair("front-proxy-client"));
    server.set_front_proxy(FrontProxy {
        client_ca_pem: proxy.pem.clone(),
        ca_pem: proxy.pem.clone(),
        chain: proxy.chain.clone(),
        key: proxy.key(),
    });
    let shutdown = CancellationToken::new();
    let running = base::tasks::spawn("test-aggregation", server.clone().run_aggregation(shutdown.clone()));
    let bundle = STANDARD.encode(&own.pem);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    base::tasks::detach("test-extensions", extension(listener, own, proxy.chain[0].clone()));

    let apps = "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps";
    assert!(until(&server, apps, |code, _| code == 200).await.contains("Local APIServices are always available"));
    made(&server, "/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let spec = json!({
        "group": GROUP, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": bundle,
        "service": {"namespace": "n", "name": "sample", "port": 7443},
    });
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    made(&server, services, json!({"metadata": {"name": "v1.wardle.example.com"}, "spec": spec})).await;
    let one = format!("{services}/v1.wardle.example.com");
    until(&server, &one, |_, text| text.contains("ServiceNotFound")).await;
    let flunders = "/apis/wardle.example.com/v1/namespaces/n/flunders?limit=5";
    assert_eq!(ask(&server, "GET", flunders, Value::Null).await, (503, "service unavailable\n".to_owned()));
    let listed = until(&server, "/apis", |_, text| text.contains(GROUP)).await;
    assert!(listed.contains(r#""freshness":"Stale""#), "{listed}");

    let port_spec = json!({"spec": {"ports": [{"port": 7443}]}, "metadata": {"name": "sample"}});
    made(&server, "/api/v1/namespaces/n/services", port_spec).await;
    let slice = json!({
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "sample"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"name": "", "port": port}],
    });
    // The address of this machine is refused by validation where users write it.
    let stored = store::Op::Create {
        key: store::Key::new("/discovery.k8s.io/endpointslices/n/s"),
        value: store::Value::plain(slice.to_string()),
    };
    server.reader().store().commit(store::Txn { ops: vec![stored] }).await.expect("stores");
    until(&server, &one, |_, text| text.contains("all checks passed")).await;
    let seen = until(&server, flunders, |code, _| code == 200).await;
    assert!(seen.starts_with("get /apis/wardle.example.com/v1/namespaces/n/flunders?limit=5 http/1.1"), "{seen}");
    assert!(seen.contains("x-remote-user: jane") && seen.contains("x-remote-group: devs"), "{seen}");
    assert!(!seen.contains("secret") && !seen.contains("system:masters"), "{seen}");
    let listed = until(&server, "/apis", |_, text| text.contains(r#""resource":"flunders""#)).await;
    assert!(!listed.contains(r#""freshness":"Stale""#), "{listed}");
    let group = ask(&server, "GET", "/apis/wardle.example.com", Value::Null).await;
    assert!(
        group.1.contains(r#""preferredVersion":{"groupVersion":"wardle.example.com/v1","version":"v1"}"#),
        "{group:?}"
    );

    assert_eq!(ask(&server, "DELETE", &one, Value::Null).await.0, 200);
    until(&server, flunders, |code, _| code == 404).await;
    shutdown.cancel();
    running.await.expect("ends");
}
