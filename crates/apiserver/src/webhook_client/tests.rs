//! Calls against a small TLS server on a port of its own.

use super::*;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Hook {
    port: u16,
    ca: Vec<u8>,
    connections: Arc<AtomicUsize>,
}

/// Who has a certificate that signs itself, and that certificate.
fn certified(names: &[&str]) -> (TlsAcceptor, Vec<u8>) {
    let mut params =
        rcgen::CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem().into_bytes();
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("PEM");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    (TlsAcceptor::from(Arc::new(config)), pem)
}

/// A webhook with a certificate that signs itself: answers `code` with the request line and the body it got; a body `hang` is never answered.
async fn hook(names: &[&str], code: &'static str) -> Hook {
    let (acceptor, ca) = certified(names);
    serve(acceptor, ca, code).await
}

async fn serve(acceptor: TlsAcceptor, ca: Vec<u8>, code: &'static str) -> Hook {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    base::tasks::detach("test-hook", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            base::tasks::detach("test-hook-connection", async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                answer_all(BufReader::new(stream), code).await;
            });
        }
    });
    Hook { port, ca, connections }
}

async fn answer_all<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: BufReader<S>, code: &str) {
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).await.is_ok_and(|n| n > 2) {
            head.push_str(&std::mem::take(&mut line).to_lowercase());
        }
        let Some(length) = head.split("content-length: ").nth(1).and_then(|r| r.lines().next()?.parse().ok()) else {
            return;
        };
        let mut body = vec![0u8; length];
        if stream.read_exact(&mut body).await.is_err() || body == b"hang" {
            return std::future::pending().await;
        }
        let text = format!("{} {}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body));
        let answer =
            format!("HTTP/1.1 {code}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// `service`: the port of a Service, and of its endpoint.
async fn client_with(service: Option<(u16, u16)>) -> WebhookClient {
    let store = Arc::new(store::MemoryStore::new(store::Limits::default()));
    if let Some((port, endpoint)) = service {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook", "namespace": "ns"},
            "spec": {"ports": [{"port": port}]}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "hook-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}},
            "ports": [{"name": "", "port": endpoint}],
            "endpoints": [{"addresses": ["127.0.0.2"], "conditions": {"ready": false}}, {"addresses": ["127.0.0.1"]}]});
        let create = |storage, name, object: Value| store::Op::Create {
            key: crate::reader::key_of(storage, "ns", name),
            value: store::Value::plain(object.to_string()),
        };
        let ops = vec![create("services", "hook", service), create("discovery.k8s.io/endpointslices", "hook-1", slice)];
        store::Store::commit(&*store, store::Txn { ops }).await.expect("an empty store");
    }
    WebhookClient::new(Reader::new(store))
}

async fn ask(client: &WebhookClient, hook: &Hook, target: Target, body: &'static str) -> String {
    ask_by(client, hook, target, body, Reach::default()).await
}

async fn ask_by(client: &WebhookClient, hook: &Hook, target: Target, body: &'static str, reach: Reach) -> String {
    let config = ClientConfig { target, ca_bundle: hook.ca.clone(), credentials: Default::default(), reach };
    let timeout = Some(Duration::from_secs(if body == "hang" { 0 } else { 10 }));
    let text = match client.post(&config, timeout, Bytes::from(body), None).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    };
    text.replace(&hook.port.to_string(), "PORT")
}

#[tokio::test]
async fn calls_reuse_their_connection() {
    let hook = hook(&["127.0.0.1"], "200 OK").await;
    let client = client_with(None).await;
    let target = || Target::Url(format!("https://127.0.0.1:{}/convert", hook.port));
    for body in ["a", "b"] {
        let answer = ask(&client, &hook, target(), body).await;
        assert_eq!(answer, format!("post /convert?timeout=10s http/1.1 {body}"));
    }
    assert_eq!(hook.connections.load(Ordering::SeqCst), 1);
}

/// A proxy for one connection, which says what it was asked for.
async fn proxy(acceptor: Option<TlsAcceptor>) -> (u16, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (tell, asked) = tokio::sync::oneshot::channel();
    base::tasks::detach("test-proxy", async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let stream: super::Stream = match acceptor {
            Some(acceptor) => Box::new(acceptor.accept(tcp).await.expect("TLS")),
            None => Box::new(tcp),
        };
        let mut stream = BufReader::new(stream);
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).await.is_ok_and(|n| n > 2) {
            head.push_str(&std::mem::take(&mut line));
        }
        let to = head.split(' ').nth(1).expect("an address").to_owned();
        tell.send(head).expect("the test waits");
        let mut other = TcpStream::connect(to).await.expect("the hook listens");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("is read");
        tokio::io::copy_bidirectional(&mut stream, &mut other).await.ok();
    });
    (port, asked)
}

#[tokio::test]
async fn a_kubeconfig_may_say_how_to_get_there() {
    let other = hook(&["other.example"], "200 OK").await;
    let client = client_with(None).await;
    let target = || Target::Url(format!("https://127.0.0.1:{}/", other.port));
    let named = Reach { server_name: Some("other.example".into()), ..Reach::default() };
    assert_eq!(ask_by(&client, &other, target(), "x", named.clone()).await, "post /?timeout=10s http/1.1 x");
    let unknown = Hook { port: other.port, ca: Vec::new(), connections: other.connections.clone() };
    let unchecked = Reach { unchecked: true, ..Reach::default() };
    assert_eq!(ask_by(&client, &unknown, target(), "x", unchecked).await, "post /?timeout=10s http/1.1 x");

    let (port, asked) = proxy(None).await;
    let proxy = Proxy::parse(&format!("http://me:p%40ss@127.0.0.1:{port}")).expect("a URL");
    let through = Reach { proxy: Some(proxy), ..named };
    assert_eq!(ask_by(&client, &other, target(), "x", through).await, "post /?timeout=10s http/1.1 x");
    let head = asked.await.expect("was asked").replace(&other.port.to_string(), "PORT").to_lowercase();
    let wanted =
        "connect 127.0.0.1:port http/1.1\r\nhost: 127.0.0.1:port\r\nproxy-authorization: basic bwu6cebzcw==\r\n";
    assert_eq!(head, wanted);
}

#[tokio::test]
async fn services_are_called_by_their_name() {
    let hook = hook(&["hook.ns.svc"], "200 OK").await;
    let target =
        |name: &str| Target::Service { namespace: "ns".into(), name: name.into(), path: "/p".into(), port: 8443 };
    let client = client_with(Some((8443, hook.port))).await;
    assert_eq!(ask(&client, &hook, target("hook"), "x").await, "post /p?timeout=10s http/1.1 x");
    let answer = ask(&client, &hook, target("none"), "x").await;
    assert_eq!(answer, r#"Post "https://none.ns.svc:8443/p?timeout=10s": service "none" not found"#);
    let client = client_with(Some((1, hook.port))).await;
    let answer = ask(&client, &hook, target("hook"), "x").await;
    let wanted = r#"Post "https://hook.ns.svc:8443/p?timeout=10s": no service port 8443 found for service "hook""#;
    assert_eq!(answer, wanted);
}

#[tokio::test]
async fn what_goes_wrong_is_said_as_upstream_says_it() {
    let refusing = hook(&["127.0.0.1"], "500 Oops").await;
    let client = client_with(None).await;
    let target = |hook: &Hook| Target::Url(format!("https://127.0.0.1:{}/", hook.port));
    let wanted =
        r#"an error on the server ("post /?timeout=10s http/1.1 x") has prevented the request from succeeding"#;
    assert_eq!(ask(&client, &refusing, target(&refusing), "x").await, wanted);

    let other = hook(&["other.example"], "200 OK").await;
    let wanted = r#"Post "https://127.0.0.1:PORT/?timeout=10s": tls: failed to verify certificate: x509: certificate is valid for other.example, not 127.0.0.1"#;
    assert_eq!(ask(&client, &other, target(&other), "x").await, wanted);

    let unknown = Hook { port: other.port, ca: refusing.ca.clone(), connections: other.connections.clone() };
    let wanted = r#"Post "https://127.0.0.1:PORT/?timeout=10s": tls: failed to verify certificate: x509: certificate signed by unknown authority"#;
    assert_eq!(ask(&client, &unknown, target(&unknown), "x").await, wanted);

    let wanted = r#"Post "https://127.0.0.1:PORT/?timeout=0ms": context deadline exceeded"#;
    assert_eq!(ask(&client, &refusing, target(&refusing), "hang").await, wanted);

    let nonsense = Hook { port: 1, ca: b"nonsense".to_vec(), connections: refusing.connections.clone() };
    let wanted = "unable to load root certificates: unable to parse bytes as PEM block";
    assert_eq!(ask(&client, &nonsense, target(&nonsense), "x").await, wanted);
}

#[tokio::test]
async fn a_proxy_under_tls_is_trusted_as_the_webhook_is() {
    let (acceptor, ca) = certified(&["127.0.0.1"]);
    let hook = serve(acceptor.clone(), ca.clone(), "200 OK").await;
    let client = client_with(None).await;
    let (port, asked) = proxy(Some(acceptor)).await;
    let through = |port: u16, ca: Vec<u8>| ClientConfig {
        target: Target::Url(format!("https://127.0.0.1:{}/", hook.port)),
        ca_bundle: ca,
        credentials: Credentials::default(),
        reach: Reach {
            proxy: Some(Proxy::parse(&format!("https://127.0.0.1:{port}")).expect("a URL")),
            ..Reach::default()
        },
    };
    let answer = client.post(&through(port, ca), None, "hello".into(), None).await.expect("an answer");
    assert_eq!(answer, "post / http/1.1 hello");
    assert!(asked.await.expect("it was asked").starts_with(&format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n", hook.port)));
    let (stranger, _) = certified(&["127.0.0.1"]);
    let (_, other) = certified(&["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    base::tasks::detach("test-stranger", async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        stranger.accept(tcp).await.ok();
    });
    let error = client.post(&through(port, other), None, "hello".into(), None).await.expect_err("nobody we trust");
    assert!(error.to_string().contains("proxyconnect tcp: "), "{error}");
}
