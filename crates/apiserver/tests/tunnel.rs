//! Connections through the API server to a node agent: logs stream, upgrades are copied both ways, credentials stay.

use apiserver::auth::{AllowAll, LocalOnly, Peer, UserInfo};
use apiserver::{ApiServer, Body, Deps, ServiceNetwork, Tls, TlsMaterial, serve};
use base::{SystemClock, SystemRandom};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
    let chain = CertificateDer::pem_slice_iter(made.cert.pem().as_bytes()).collect::<Result<_, _>>().expect("PEM");
    Identity { chain, key: made.signing_key.serialize_pem().into_bytes() }
}

impl Identity {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(&self.key).expect("PEM")
    }
    fn client(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        self.chain.iter().for_each(|c| roots.add(c.clone()).expect("a root"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(builder.expect("TLS").with_root_certificates(roots).with_no_client_auth())
    }
}

/// An agent that answers one request: with its head as the log, or by echoing in capitals after an upgrade.
async fn agent(listener: TcpListener, identity: Identity) {
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key())
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let acceptor = acceptor.clone();
        base::tasks::detach("test-agent", async move {
            let mut stream = BufReader::new(acceptor.accept(tcp).await.expect("TLS"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).await.expect("a head");
            }
            if !head.to_lowercase().contains("upgrade: spdy/3.1") {
                // Whoever wants so many lines is refused.
                let code =
                    head.split_once("tailLines=4").map_or("200", |_| if head.contains("=404") { "404" } else { "400" });
                let answer = format!("HTTP/1.1 {code} So\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                return stream.write_all(answer.as_bytes()).await.expect("writes");
            }
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("writes");
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a line");
            stream
                .write_all(format!("{} {}", head.lines().next().unwrap_or_default(), line.to_uppercase()).as_bytes())
                .await
                .expect("writes");
            stream.shutdown().await.expect("ends");
        });
    }
}

async fn server(agent: &Identity) -> ApiServer {
    ApiServer::new(Deps {
        store: Arc::new(store::MemoryStore::new(store::Limits::default())),
        authenticator: Arc::new(LocalOnly),
        authorizer: Arc::new(AllowAll),
        admission: Vec::new(),
        token_issuer: None,
        services: ServiceNetwork::default(),
        node_client: Some(agent.client()),
        audit: None,
        clock: SystemClock::shared(),
        random: Arc::new(SystemRandom),
    })
    .await
    .expect("an empty store")
}

fn admin() -> Peer {
    Peer::local(UserInfo::new("admin", &["system:masters"]))
}

async fn post(server: &ApiServer, method: &str, uri: &str, body: String) {
    let body: Body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", if method == "POST" { "application/json" } else { "application/merge-patch+json" });
    let response = server.handle(request.body(body).expect("a request"), admin()).await;
    let code = response.status();
    let text = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(code.is_success(), "{uri}: {code} {}", String::from_utf8_lossy(&text));
}

async fn with_pod() -> ApiServer {
    let id = identity();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = server(&id).await;
    base::tasks::detach("test-agents", agent(listener, id));
    post(&server, "POST", "/api/v1/nodes", r#"{"metadata":{"name":"n"}}"#.into()).await;
    let status = format!(
        r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"127.0.0.1"}}],"daemonEndpoints":{{"kubeletEndpoint":{{"Port":{port}}}}}}}}}"#
    );
    post(&server, "PATCH", "/api/v1/nodes/n/status", status).await;
    let pod = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}"#;
    post(&server, "POST", "/api/v1/namespaces/default/pods", pod.into()).await;
    server
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let server = with_pod().await;
    let empty: Body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder()
        .uri("/api/v1/namespaces/default/pods/p/log?follow=true&tailLines=3&pretty=1")
        .header("authorization", "Bearer secret")
        .header("impersonate-user", "admin");
    let response = server.handle(request.body(empty).expect("a request"), admin()).await;
    assert_eq!(response.status(), 200);
    let seen = response.into_body().collect().await.expect("a body").to_bytes();
    let seen = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(seen.starts_with("get /containerlogs/default/p/c?follow=true&taillines=3 http/1.1"), "{seen}");
    assert!(!seen.contains("secret") && !seen.contains("impersonate"), "{seen}");
}

/// `kubectl logs` shows the message of a Status, and nothing of other answers.
#[tokio::test]
async fn what_a_node_refuses_is_said_as_a_status() {
    let server = with_pod().await;
    for (lines, code, reason, message) in [
        (400, 400, "BadRequest", "GET /containerLogs/default/p/c?tailLines=400 HTTP/1.1\r\n"),
        (404, 404, "NotFound", "the server could not find the requested resource ( pods/log p)"),
    ] {
        let empty: Body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().uri(format!("/api/v1/namespaces/default/pods/p/log?tailLines={lines}"));
        let response = server.handle(request.body(empty).expect("a request"), admin()).await;
        assert_eq!(response.status(), code);
        let said = response.into_body().collect().await.expect("a body").to_bytes();
        let said: api::Status = serde_json::from_slice(&said).expect("a Status");
        assert_eq!((said.code, &*said.reason), (code, reason));
        assert!(said.message.starts_with(message), "{}", said.message);
    }
}

#[tokio::test]
async fn a_proxied_server_sees_every_method() {
    let server = with_pod().await;
    for method in ["OPTIONS", "DELETE", "PATCH"] {
        let empty: Body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(method).uri("/api/v1/nodes/n/proxy/logs/?a=b");
        let response = server.handle(request.body(empty).expect("a request"), admin()).await;
        assert_eq!(response.status(), 200, "{method}");
        let seen = response.into_body().collect().await.expect("a body").to_bytes();
        let seen = String::from_utf8_lossy(&seen).to_lowercase();
        assert!(seen.starts_with(&format!("{} /logs/?a=b http/1.1", method.to_lowercase())), "{seen}");
        assert!(seen.contains("x-forwarded-uri: /api/v1/nodes/n/proxy/logs/"), "{seen}");
    }
}

#[tokio::test]
async fn upgrades_are_copied_both_ways() {
    let api = with_pod().await;
    let id = identity();
    let tls = Tls::new(TlsMaterial {
        chain: id.chain.clone(),
        key: id.key(),
        client_ca: Vec::new(),
        front_proxy_ca: Vec::new(),
    })
    .expect("TLS");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let shutdown = CancellationToken::new();
    let serving = base::tasks::spawn("test-server", serve(api, listener, tls, shutdown.clone()));

    let tcp = TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = TlsConnector::from(id.client()).connect(name, tcp).await.expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    base::tasks::detach("test-client", async move { drop(connection.with_upgrades().await) });
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/namespaces/default/pods/p/exec?command=cat&stdin=true&stdout=true")
        .header("host", "x")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1");
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let mut response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("upgraded"));
    io.write_all(b"hello\n").await.expect("writes");
    let mut got = String::new();
    io.read_to_string(&mut got).await.expect("reads");
    assert_eq!(got, "POST /exec/default/p/c?input=1&output=1&command=cat HTTP/1.1 HELLO\n");
    drop((io, sender));
    shutdown.cancel();
    serving.await.expect("ends");
}
