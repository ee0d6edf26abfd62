//! The whole server over real TLS, with clients written here: HTTP, WebSocket and SPDY.

use super::*;
use crate::agent::{ContainerTarget, LookupError};
use crate::engine::{EngineError, Session, SessionControl, StreamRequest};
use api::prelude::Pod;
use async_trait::async_trait;
use base::SystemClock;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use machinery::zpages::Process;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use std::collections::BTreeMap;
use std::io::Write;
use streaming::port_forward::{self, Dialed};
use streaming::spdy::{Decoder, Encoder, Frame};
use streaming::{Io, SessionError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

// === fakes ===

/// A node that uses nothing.
struct NoNumbers;

#[async_trait]
impl Numbers for NoNumbers {
    async fn collect(&self, _: crate::stats::Also) -> std::io::Result<crate::stats::NodeSample> {
        Ok(crate::stats::NodeSample::default())
    }
    async fn own(&self) -> String {
        String::new()
    }
    fn probes(&self) -> String {
        String::new()
    }
    fn settings(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn fault(&self) -> Option<String> {
        None
    }
    fn log_dir(&self) -> std::path::PathBuf {
        "/nonexistent".into()
    }
}

/// A pod `default/web` with a container `app`. Commands are understood by their first word:
/// `echo` writes its words and ends, `exit` ends with its code and a word on stderr, `cat` repeats its input and ends with
/// it, `size` waits for a terminal size and prints it, `missing` is not there.
struct FakePods {
    log: tempfile::NamedTempFile,
    /// Where `dial` goes, whatever the port; port 1 is refused.
    echo_port: u16,
    detached: Arc<watch::Sender<u32>>,
}

struct FakeControl {
    exit: watch::Receiver<Option<i32>>,
    size: watch::Sender<Option<(u16, u16)>>,
    detached: Arc<watch::Sender<u32>>,
}

#[async_trait]
impl SessionControl for FakeControl {
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), SessionError> {
        self.size.send_replace(Some((columns, rows)));
        Ok(())
    }
    async fn wait(&self) -> Result<i32, SessionError> {
        let mut exit = self.exit.clone();
        let code = *exit.wait_for(Option::is_some).await?;
        code.ok_or_else(|| "no code".into())
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        self.detached.send_modify(|n| *n += 1);
    }
}

impl FakePods {
    fn start(&self, request: StreamRequest) -> Session {
        let (stdin, process_in) = tokio::io::duplex(1024);
        let (stdout, mut out) = tokio::io::duplex(1024);
        let (stderr, mut err) = tokio::io::duplex(1024);
        let (size, mut sizes) = watch::channel(None);
        let (ended, exit) = watch::channel(None);
        let command = request.command.clone();
        base::tasks::detach("fake-process", async move {
            let words = command.get(1..).unwrap_or_default().join(" ");
            let code = match command.first().map(String::as_str) {
                Some("echo") => out.write_all(format!("{words}\n").as_bytes()).await.map(|()| 0),
                Some("exit") => err.write_all(b"oh no\n").await.map(|()| words.parse().unwrap_or(1)),
                Some("size") => {
                    let size = sizes.wait_for(Option::is_some).await.map(|s| *s).unwrap_or_default();
                    out.write_all(format!("{:?}\n", size.unwrap_or_default()).as_bytes()).await.map(|()| 0)
                }
                _ => {
                    let mut process_in = process_in;
                    tokio::io::copy(&mut process_in, &mut out).await.map(|_| 0)
                }
            };
            drop((out, err));
            ended.send(code.ok()).ok();
        });
        let control = FakeControl { exit, size, detached: self.detached.clone() };
        Session {
            stdin: request.stdin.then(|| Box::new(stdin) as _),
            stdout: request.stdout.then(|| Box::new(stdout) as _),
            stderr: request.stderr.then(|| Box::new(stderr) as _),
            control: Box::new(control),
        }
    }
}

#[async_trait]
impl Pods for FakePods {
    fn all(&self) -> Vec<Arc<Pod>> {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        vec![Arc::new(pod)]
    }
    fn running(&self) -> Vec<Pod> {
        self.all().iter().map(|pod| Pod::clone(pod)).collect()
    }
    async fn checkpoint(&self, _: &ContainerTarget, _: &str, _: i64) -> Result<std::path::PathBuf, EngineError> {
        Err(EngineError::Failed("no such call".into()))
    }
    fn find(&self, namespace: &str, pod: &str, _: &str) -> Result<(), LookupError> {
        if (namespace, pod) == ("default", "web") { Ok(()) } else { Err(LookupError::NoPod(pod.into())) }
    }
    fn container(&self, ns: &str, pod: &str, uid: &str, container: &str) -> Result<ContainerTarget, LookupError> {
        self.find(ns, pod, uid)?;
        match container {
            "app" => Ok(ContainerTarget { sandbox: "s".into(), id: "c".into(), tty: false, stdin: true }),
            other => Err(LookupError::NotRunning(other.into())),
        }
    }
    fn log(&self, namespace: &str, pod: &str, _: &str, previous: bool) -> Result<LogSource, LookupError> {
        self.find(namespace, pod, "")?;
        if previous {
            return Err(LookupError::NoLog("previous terminated container \"app\" in pod \"web\" not found".into()));
        }
        Ok(LogSource { path: self.log.path().to_owned(), ended: Box::pin(std::future::ready(())) })
    }
    async fn exec(&self, _: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError> {
        match request.command.first().map(String::as_str) {
            Some("missing") => {
                Err(EngineError::NotStarted("exec: \"missing\": executable file not found in $PATH".into()))
            }
            _ => Ok(self.start(request)),
        }
    }
    async fn attach(&self, _: &ContainerTarget, request: StreamRequest) -> Result<Session, EngineError> {
        Ok(self.start(StreamRequest { command: vec!["cat".into()], ..request }))
    }
    async fn dial(&self, _: &str, _: &str, _: &str, port: u16) -> Result<Dialed, EngineError> {
        if port == 1 {
            return Err(EngineError::Failed("connection refused".into()));
        }
        if port == 81 {
            // Whoever says something gets it back at once.
            let (ours, theirs) = tokio::io::duplex(1024);
            let (mut reader, mut writer) = tokio::io::split(theirs);
            base::tasks::detach("echo", async move { drop(tokio::io::copy(&mut reader, &mut writer).await) });
            return Ok(Box::new(ours));
        }
        let stream = TcpStream::connect(("127.0.0.1", self.echo_port)).await;
        stream.map(|s| Box::new(s) as Dialed).map_err(|e| EngineError::Failed(e.to_string()))
    }
}

/// Token `t-<user>`; `viewer` may `get nodes/metrics` and nothing else, `admin` everything.
#[derive(Default)]
struct FakeAuth {
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl NodeAuth for FakeAuth {
    async fn authenticate(&self, token: &str) -> Result<Option<User>, AuthError> {
        Ok(token.strip_prefix("t-").map(|name| User { name: name.into(), ..User::default() }))
    }
    async fn authorize(&self, user: &User, a: &Attributes) -> Result<bool, AuthError> {
        self.asked.lock().push(format!("{} {} nodes/{} {}", user.name, a.verb, a.subresource, a.node));
        Ok(user.name == "admin" || user.name == "viewer" && a.subresource == "metrics")
    }
}

// === harness ===

struct Cluster {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Cluster {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA");
        Cluster { ca }
    }

    fn issue(
        &self,
        name: &str,
        group: &str,
    ) -> (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.ca).expect("certificate");
        (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

struct Node {
    address: std::net::SocketAddr,
    cluster: Cluster,
    auth: Arc<FakeAuth>,
    detached: watch::Receiver<u32>,
    shutdown: CancellationToken,
    _echo: AbortOnDropHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Node {
    async fn start() -> Self {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let echo_port = echo.local_addr().expect("address").port();
        // Answers what it got, backwards, when the client has ended its side.
        let echo = base::tasks::spawn("echo", async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                base::tasks::detach("echo-one", async move {
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).await.expect("read");
                    got.reverse();
                    stream.write_all(&got).await.expect("write");
                });
            }
        });
        let mut log = tempfile::Builder::new().suffix(".log").tempfile().expect("log");
        log.write_all(b"2026-01-02T03:04:05.000000006Z stdout F hello\n").expect("log");
        let detached = Arc::new(watch::channel(0).0);
        let pods = FakePods { log, echo_port, detached: detached.clone() };
        let auth = Arc::new(FakeAuth::default());
        let process = Process {
            component: "kubelet",
            started: jiff::Timestamp::UNIX_EPOCH,
            binary_version: "1.36.2".into(),
            emulation_version: "1.36".into(),
            go_version: "none".into(),
        };
        let api = NodeApi {
            node_name: "n1".into(),
            pods: Arc::new(pods),
            numbers: Arc::new(NoNumbers),
            auth: auth.clone(),
            process: Arc::new(NodeProcess::new(process, [("node-ip".to_owned(), "1.2.3.4".to_owned())].into(), || {
                Ok(())
            })),
            clock: SystemClock::shared(),
            random: Arc::new(base::SeededRandom::new(1)),
        };
        let cluster = Cluster::new();
        let (chain, key) = cluster.issue("system:node:n1", "system:nodes");
        let tls = Tls::new(TlsMaterial { chain, key, client_ca: vec![cluster.ca.der().clone()] }).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let shutdown = CancellationToken::new();
        base::tasks::detach("node-api", serve(api, listener, tls, shutdown.clone()));
        let detached = detached.subscribe();
        Node { address, cluster, auth, detached, shutdown, _echo: AbortOnDropHandle::new(echo) }
    }

    async fn connect(&self, user: Option<(&str, &str)>) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.cluster.ca.der().clone()).expect("CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let config = match user {
            Some((name, group)) => {
                let (chain, key) = self.cluster.issue(name, group);
                config.with_client_auth_cert(chain, key).expect("identity")
            }
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(self.address).await.expect("connect");
        let name = ServerName::try_from("localhost").expect("name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("handshake")
    }

    async fn as_master(&self) -> TlsStream<TcpStream> {
        self.connect(Some(("root", "system:masters"))).await
    }

    /// Status code and body of a plain request.
    async fn get(&self, user: Option<(&str, &str)>, head: &str) -> (u16, String) {
        let mut stream = self.connect(user).await;
        let request = format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (line, headers) = request.split_once("\r\n").expect("line");
        stream.write_all(format!("{line} HTTP/1.1\r\n{headers}").as_bytes()).await.expect("request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answer");
        let answer = String::from_utf8(answer).expect("UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head");
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("code");
        (code, body.to_owned())
    }

    async fn websocket(&self, path: &str, protocol: &str) -> (WebSocketStream<TlsStream<TcpStream>>, String) {
        let mut request = format!("wss://localhost{path}").into_client_request().expect("request");
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("protocol"));
        let stream = self.as_master().await;
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await.expect("upgrade");
        let chosen = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().expect("text").to_owned());
        (socket, chosen.unwrap_or_default())
    }

    async fn spdy(&self, path: &str, protocol: &str) -> Spdy<BufReader<TlsStream<TcpStream>>> {
        let mut stream = self.as_master().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v9.channel.k8s.io\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("request");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).await.expect("head") > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_ascii_lowercase().contains(&format!("x-stream-protocol-version: {protocol}")), "{head}");
        Spdy::new(stream)
    }
}

/// A client's end of a SPDY connection; opens streams 1, 3, 5 …
struct Spdy<S> {
    stream: S,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
    next: u32,
}

impl<S: Io> Spdy<S> {
    fn new(stream: S) -> Self {
        Spdy { stream, encoder: Encoder::new(), decoder: Decoder::new(), input: BytesMut::new(), next: 1 }
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(&frame, &mut out);
        self.stream.write_all(&out).await.expect("write");
        self.stream.flush().await.expect("flush");
    }

    async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input).expect("frames") {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.input).await.expect("read") == 0 {
                return None;
            }
        }
    }

    /// Opens a stream and waits for the answer, as upstream's client does.
    async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = headers.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        self.send(Frame::SynStream { id, fin: false, headers }).await;
        assert_eq!(self.receive().await, Some(Frame::SynReply { id, fin: false, headers: BTreeMap::new() }));
        id
    }

    async fn data(&mut self, id: u32, text: &'static str, fin: bool) {
        self.send(Frame::Data { id, fin, bytes: Bytes::from_static(text.as_bytes()) }).await;
    }

    /// What arrives on each stream until the server says goodbye, or all of `streams` have ended; `!` after a reset.
    async fn collect(&mut self, streams: &[u32]) -> BTreeMap<u32, String> {
        let mut got: BTreeMap<u32, String> = BTreeMap::new();
        let mut open: Vec<u32> = streams.to_vec();
        while !open.is_empty() {
            let Some(frame) = self.receive().await else { break };
            match frame {
                Frame::Data { id, fin, bytes } => {
                    got.entry(id).or_default().push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
                    open.retain(|s| !(fin && *s == id));
                }
                Frame::RstStream { id, .. } => {
                    got.entry(id).or_default().push('!');
                    open.retain(|s| *s != id);
                }
                Frame::GoAway { .. } => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        got
    }
}

/// What arrives on each channel until the socket closes.
async fn channels(socket: &mut WebSocketStream<TlsStream<TcpStream>>) -> BTreeMap<u8, String> {
    let mut got: BTreeMap<u8, String> = BTreeMap::new();
    while let Some(message) = socket.next().await {
        let bytes = match message.expect("message") {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => continue,
        };
        got.entry(bytes[0]).or_default().push_str(std::str::from_utf8(&bytes[1..]).expect("UTF-8"));
    }
    got
}

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

// === who may ===

#[tokio::test]
async fn strangers_get_nothing() {
    let node = Node::start().await;
    for path in
        ["/healthz", "/pods", "/metrics", "/containerLogs/default/web/app", "/no/such/path", "/exec/default/web/app"]
    {
        assert_eq!(node.get(None, &format!("GET {path}")).await, (401, "Unauthorized".into()), "{path}");
    }
    assert_eq!(node.get(None, "GET /pods\r\nAuthorization: Bearer x").await.0, 401);
    assert!(node.auth.asked.lock().is_empty());
}

#[tokio::test]
async fn others_are_asked_about() {
    let node = Node::start().await;
    let viewer = "Authorization: Bearer t-viewer";
    let (code, text) = node.get(None, &format!("GET /pods\r\n{viewer}")).await;
    let expected = "Forbidden (user=viewer, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!((code, text.as_str()), (403, expected));
    assert_eq!(node.get(None, &format!("GET /metrics\r\n{viewer}")).await.0, 200);
    assert_eq!(node.get(Some(("eve", "people")), "GET /pods").await.0, 403);
    assert_eq!(node.get(Some(("admin", "people")), "GET /healthz").await, (200, "ok".into()));
    let (code, text) = node.get(Some(("admin", "people")), "GET /pods").await;
    assert_eq!(code, 200);
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&"PodList".into(), &"web".into()));
    expect_test::expect![[r#"
        viewer get nodes/pods n1
        viewer get nodes/proxy n1
        viewer get nodes/metrics n1
        eve get nodes/pods n1
        eve get nodes/proxy n1
        admin get nodes/healthz n1
        admin get nodes/pods n1
    "#]]
    .assert_eq(&node.auth.asked.lock().iter().map(|l| format!("{l}\n")).collect::<String>());
}

#[tokio::test]
async fn the_process_tells_of_itself() {
    let node = Node::start().await;
    let ask = async |head: &str| node.get(Some(("root", "system:masters")), head).await;
    let object = |kind: &str, version: &str| format!("Accept: application/json;as={kind};v={version};g=config.k8s.io");
    let (code, body) = ask("GET /statusz").await;
    assert!(code == 200 && body.starts_with("\nkubelet statusz\nWarning: ") && body.contains("1.36.2\n"), "{body}");
    let (code, body) = ask(&format!("GET /statusz\r\n{}", object("Statusz", "v1beta1"))).await;
    let found: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (code, &found["metadata"]["name"], &found["startTime"]),
        (200, &"kubelet".into(), &"1970-01-01T00:00:00Z".into())
    );
    assert_eq!(found["paths"], serde_json::json!(["/configz", "/flagz", "/healthz", "/metrics"]));
    let yaml = "Accept: application/yaml;as=Flagz;v=v1alpha1;g=config.k8s.io";
    let (code, body) = ask(&format!("GET /flagz\r\n{yaml}")).await;
    assert!(code == 200 && body.contains("node-ip: \"1.2.3.4\"") && body.contains("config.k8s.io/v1alpha1"), "{body}");
    let (code, body) = ask("GET /flagz\r\nAccept: application/json").await;
    assert!(code == 406 && body.contains("application/json, application/yaml, text/plain"), "{body}");

    assert_eq!(ask("GET /healthz?exclude=log").await, (200, "ok".into()));
    assert_eq!(ask("GET /healthz/syncloop").await, (200, "ok".into()));
    assert_eq!(ask("GET /healthz/no").await.0, 404);
    let lines = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n";
    assert_eq!(ask("GET /healthz?verbose").await, (200, lines.into()));
    let (_, slis) = ask("GET /metrics/slis").await;
    assert!(slis.contains("kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 1\n"), "{slis}");
    let total = "kubernetes_healthchecks_total{name=\"syncloop\",status=\"success\",type=\"healthz\"} 3\n";
    assert!(slis.contains(total), "{slis}");

    let running = ask("GET /runningpods/").await;
    assert!(
        running.0 == 200 && running.1.contains("\"kind\":\"PodList\"") && running.1.contains("\"web\""),
        "{running:?}"
    );
    assert_eq!(ask("GET /debug/pprof/heap").await, (501, "debug/pprof is not supported by dhow\n".into()));
    assert_eq!(ask("GET /debug/no").await.0, 404);
}

#[tokio::test]
async fn checkpoints_that_the_engine_does_not_write_are_refused() {
    let node = Node::start().await;
    let post = async |path: &str| node.get(Some(("root", "system:masters")), &format!("POST /checkpoint/{path}")).await;
    assert_eq!(post("default/no/app").await, (404, "pod does not exist".into()));
    assert_eq!(post("default/web/app?timeout=x").await, (404, "cannot parse value of timeout parameter".into()));
    let failed = |container: &str, why: &str| (500, format!("checkpointing of default/web/{container} failed ({why})"));
    assert_eq!(post("default/web/over").await, failed("over", "container over not found"));
    assert_eq!(post("default/web/app?timeout=5").await, failed("app", "no such call"));
}

#[tokio::test]
async fn logs_and_their_refusals() {
    let node = Node::start().await;
    let get = async |path: &str| node.get(Some(("root", "system:masters")), &format!("GET {path}")).await;
    let (code, body) = get("/containerLogs/default/web/app?timestamps=true").await;
    assert_eq!(code, 200);
    assert!(body.contains("2026-01-02T03:04:05.000000006Z hello\n"), "{body}");
    assert_eq!(get("/containerLogs/default/nope/app").await, (404, "pod \"nope\" does not exist".into()));
    assert_eq!(get("/containerLogs/default/web/app?previous=true").await.0, 400);
    assert_eq!(get("/containerLogs/default/web/app?tailLines=-1").await.0, 422);
    assert!(node.auth.asked.lock().is_empty(), "masters are not asked about");
}

// === exec, attach ===

#[tokio::test]
async fn exec_over_websocket_v5() {
    let node = Node::start().await;
    let path = "/exec/default/web/app?command=echo&command=hi&command=there&output=1&error=1";
    let (mut socket, protocol) = node.websocket(path, "v5.channel.k8s.io,v4.channel.k8s.io").await;
    assert_eq!(protocol, "v5.channel.k8s.io");
    let got = channels(&mut socket).await;
    assert_eq!(got, BTreeMap::from([(1, "hi there\n".into()), (3, SUCCESS.into())]));
}

#[tokio::test]
async fn the_end_of_input_reaches_the_process() {
    let node = Node::start().await;
    let (mut socket, _) =
        node.websocket("/exec/default/web/app?command=cat&input=1&output=1", "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\x00some ".to_vec())).await.expect("send");
    socket.send(Message::binary(b"\x00words".to_vec())).await.expect("send");
    socket.send(Message::binary(vec![255, 0])).await.expect("send");
    let got = channels(&mut socket).await;
    assert_eq!(got, BTreeMap::from([(1, "some words".into()), (3, SUCCESS.into())]));
}

#[tokio::test]
async fn exit_codes_and_stderr_over_websocket() {
    let node = Node::start().await;
    let path = "/exec/default/web/app?command=exit&command=7&output=1&error=1";
    let (mut socket, protocol) = node.websocket(path, "v4.channel.k8s.io").await;
    assert_eq!(protocol, "v4.channel.k8s.io");
    let got = channels(&mut socket).await;
    assert_eq!(got[&2], "oh no\n");
    let status: serde_json::Value = serde_json::from_str(&got[&3]).expect("JSON");
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "7"}));
}

#[tokio::test]
async fn base64_and_text_statuses() {
    let node = Node::start().await;
    let path = "/exec/default/web/app?command=exit&command=7&output=1&error=1";
    let (mut socket, _) = node.websocket(path, "base64.channel.k8s.io").await;
    let got = channels(&mut socket).await;
    assert_eq!(got[&b'2'], "b2ggbm8K");
    assert!(got[&b'3'].starts_with("Y29tbWFuZCB0ZXJtaW5hdGVk"), "{got:?}");
}

#[tokio::test]
async fn a_command_that_does_not_start() {
    let node = Node::start().await;
    let (mut socket, _) = node.websocket("/exec/default/web/app?command=missing&output=1", "v5.channel.k8s.io").await;
    let status: serde_json::Value = serde_json::from_str(&channels(&mut socket).await[&3]).expect("JSON");
    assert_eq!((&status["reason"], &status["code"]), (&"InternalError".into(), &500.into()));
    assert!(status["message"].as_str().is_some_and(|m| m.contains("executable file not found")), "{status}");
}

#[tokio::test]
async fn terminal_sizes_over_websocket() {
    let node = Node::start().await;
    let (mut socket, _) =
        node.websocket("/exec/default/web/app?command=size&output=1&tty=1", "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\x04{\"Width\":132,\"Height\":43}\n".to_vec())).await.expect("send");
    assert_eq!(channels(&mut socket).await[&1], "(132, 43)\n");
}

#[tokio::test]
async fn a_client_that_goes_away_detaches() {
    let mut node = Node::start().await;
    let (mut socket, _) = node.websocket("/attach/default/web/app?input=1&output=1", "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\x00hi".to_vec())).await.expect("send");
    let mut got: Vec<u8> = Vec::new();
    while got.len() < 3 {
        got.extend(
            socket.next().await.expect("open").expect("message").into_data().iter().skip(usize::from(!got.is_empty())),
        );
    }
    assert_eq!(got, b"\x01hi");
    drop(socket);
    node.detached.wait_for(|n| *n == 1).await.expect("server");
}

#[tokio::test]
async fn refusals_before_the_upgrade() {
    let node = Node::start().await;
    let get = async |head: &str| node.get(Some(("root", "system:masters")), head).await;
    assert_eq!(get("GET /exec/default/nope/app?command=x&output=1").await, (404, "pod does not exist".into()));
    let (code, text) = get("GET /exec/default/web/other?command=x&output=1").await;
    assert_eq!((code, text.as_str()), (500, "container not found (\"other\")"));
    assert_eq!(get("GET /exec/default/web/app?command=x").await.0, 400);
    assert_eq!(get("GET /exec/default/web/app?output=1").await.0, 400);
    assert_eq!(get("POST /exec/default/web/app?command=x&output=1").await.0, 400);
    let (code, text) = get("POST /exec/default/web/app?command=x&output=1\r\nX-Stream-Protocol-Version: v9").await;
    assert_eq!(code, 403, "{text}");
    assert_eq!(get("POST /run/default/web/app?cmd=echo+a+b").await, (200, "a b\n".into()));
    assert_eq!(get("POST /run/default/web/app?cmd=exit+4").await.0, 500);
}

#[tokio::test]
async fn exec_over_spdy() {
    let node = Node::start().await;
    let mut spdy = node.spdy("/exec/default/web/app?command=cat&input=1&output=1&error=1", "v4.channel.k8s.io").await;
    let error = spdy.open(&[("streamtype", "error")]).await;
    let stdin = spdy.open(&[("streamtype", "stdin")]).await;
    let stdout = spdy.open(&[("streamtype", "stdout")]).await;
    let stderr = spdy.open(&[("streamtype", "stderr")]).await;
    spdy.send(Frame::Ping { id: 1 }).await;
    assert_eq!(spdy.receive().await, Some(Frame::Ping { id: 1 }));
    spdy.data(stdin, "some words", false).await;
    spdy.data(stdin, "", true).await;
    let got = spdy.collect(&[error, stdout, stderr]).await;
    let expected = BTreeMap::from([(error, SUCCESS.into()), (stdout, "some words".into()), (stderr, String::new())]);
    assert_eq!(got, expected);
    assert_eq!(spdy.receive().await, Some(Frame::GoAway { last: 0 }));
    assert_eq!(spdy.receive().await, None);
}

#[tokio::test]
async fn terminal_sizes_over_spdy() {
    let node = Node::start().await;
    let mut spdy = node.spdy("/exec/default/web/app?command=size&output=1&tty=1", "v4.channel.k8s.io").await;
    let error = spdy.open(&[("streamtype", "error")]).await;
    let stdout = spdy.open(&[("streamtype", "stdout")]).await;
    let resize = spdy.open(&[("streamtype", "resize")]).await;
    spdy.data(resize, "{\"Width\":80,\"Height\":24}", false).await;
    assert_eq!(spdy.collect(&[error, stdout]).await[&stdout], "(80, 24)\n");
}

#[tokio::test]
async fn more_than_a_window_of_data_goes_through_spdy() {
    let node = Node::start().await;
    let mut spdy = node.spdy("/exec/default/web/app?command=cat&input=1&output=1", "v4.channel.k8s.io").await;
    let error = spdy.open(&[("streamtype", "error")]).await;
    let stdin = spdy.open(&[("streamtype", "stdin")]).await;
    let stdout = spdy.open(&[("streamtype", "stdout")]).await;
    const PIECE: &str = "0123456789abcdef0123456789abcdef";
    let mut seen = 0;
    // Each piece is read back before the next, so that neither side fills up.
    for _ in 0..4096 {
        spdy.data(stdin, PIECE, false).await;
        let target = seen + PIECE.len();
        while seen < target {
            match spdy.receive().await {
                Some(Frame::Data { id, bytes, .. }) if id == stdout => seen += bytes.len(),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    spdy.data(stdin, "", true).await;
    assert_eq!(spdy.collect(&[error, stdout]).await[&error], SUCCESS);
}

// === port-forward ===

async fn forward(spdy: &mut Spdy<impl Io>, port: &str, request: &str) -> (u32, u32) {
    let error = spdy.open(&[("streamtype", "error"), ("port", port), ("requestid", request)]).await;
    let data = spdy.open(&[("streamtype", "data"), ("port", port), ("requestid", request)]).await;
    (error, data)
}

async fn check_forwards(mut spdy: Spdy<impl Io>) {
    let (error, data) = forward(&mut spdy, "80", "0").await;
    let (error2, data2) = forward(&mut spdy, "80", "1").await;
    spdy.data(data2, "second", true).await;
    assert_eq!(spdy.collect(&[error2, data2]).await, BTreeMap::from([(error2, "".into()), (data2, "dnoces".into())]));
    spdy.data(data, "first", true).await;
    assert_eq!(spdy.collect(&[error, data]).await, BTreeMap::from([(error, "".into()), (data, "tsrif".into())]));
    let (error, data) = forward(&mut spdy, "1", "2").await;
    let got = spdy.collect(&[error, data]).await;
    assert_eq!(got[&error], "error forwarding port 1 to pod web, uid : connection refused");
    assert_eq!(got[&data], "!");
}

#[tokio::test]
async fn port_forward_over_spdy() {
    let node = Node::start().await;
    check_forwards(node.spdy("/portForward/default/web", "portforward.k8s.io").await).await;
}

#[tokio::test]
async fn port_forward_inside_a_websocket() {
    let node = Node::start().await;
    let (socket, protocol) = node.websocket("/portForward/default/web", "SPDY/3.1+portforward.k8s.io").await;
    assert_eq!(protocol, "SPDY/3.1+portforward.k8s.io");
    let (ours, theirs) = tokio::io::duplex(4096);
    let (mut sink, mut stream) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let _out = AbortOnDropHandle::new(base::tasks::spawn("tunnel-out", async move {
        let mut buffer = vec![0; 1000];
        while let Ok(n @ 1..) = reader.read(&mut buffer).await {
            sink.send(Message::binary(buffer[..n].to_vec())).await.expect("send");
        }
    }));
    let _in = AbortOnDropHandle::new(base::tasks::spawn("tunnel-in", async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message
                && writer.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
    }));
    check_forwards(Spdy::new(ours)).await;
}

#[tokio::test]
async fn port_forward_over_channels_of_a_websocket() {
    let node = Node::start().await;
    let (mut socket, protocol) = node.websocket("/portForward/default/web?port=81%2C1", "v4.channel.k8s.io").await;
    assert_eq!(protocol, "v4.channel.k8s.io");
    socket.send(Message::binary(b"\x00first".to_vec())).await.expect("sent");
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while channels.get(&3).is_none_or(|error| error.len() < 3) || channels.get(&0).is_none_or(|data| data.len() < 7) {
        match socket.next().await.expect("open").expect("a message") {
            Message::Binary(bytes) => channels.entry(bytes[0]).or_default().extend(&bytes[1..]),
            other => panic!("unexpected {other:?}"),
        }
    }
    // Each channel says its port first.
    assert_eq!([&channels[&0][..], &channels[&1], &channels[&2]], [b"\x51\0first", &[81, 0][..], &[1, 0]]);
    assert_eq!(channels[&3][..2], [1, 0]);
    assert_eq!(channels[&3][2..], *b"error forwarding port 1 to pod web, uid : connection refused");
}

#[tokio::test]
async fn streams_without_sense_are_reset() {
    let node = Node::start().await;
    let mut spdy = node.spdy("/portForward/default/web", "portforward.k8s.io").await;
    for headers in [
        vec![("streamtype", "data")],
        vec![("port", "0"), ("streamtype", "data")],
        vec![("port", "80"), ("streamtype", "x")],
    ] {
        let id = spdy.next;
        spdy.next += 2;
        let headers = headers.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        spdy.send(Frame::SynStream { id, fin: false, headers }).await;
        assert_eq!(spdy.receive().await, Some(Frame::RstStream { id, status: 5 }));
    }
    // An even number is the server's.
    spdy.send(Frame::SynStream { id: 8, fin: false, headers: BTreeMap::new() }).await;
    assert_eq!(spdy.receive().await, Some(Frame::RstStream { id: 8, status: 1 }));
}

#[tokio::test(start_paused = true)]
async fn halves_of_pairs_are_given_up() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let dial: port_forward::Dial = Arc::new(|_| Box::pin(std::future::ready(Err("nobody is there".into()))));
    let pod = port_forward::PodRef { dial, name: "web".into() };
    base::tasks::detach("forward", port_forward::serve(theirs, port_forward::Carrier::Spdy, pod));
    let mut spdy = Spdy::new(ours);
    let error = spdy.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
    assert_eq!(spdy.collect(&[error]).await[&error], "timed out waiting for streams!");
}
