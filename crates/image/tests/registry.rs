//! Pulling and pushing: Debian's docker-registry for the protocol as it is, a scripted one for what goes wrong.

mod support;

use image::{Credentials, ImageError, Progress, Reference, RegistryError, State, Transfer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Layout, Registry, file_in, layer, layout, store, store_with};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn example() -> Layout {
    layout(&[
        ("+gzip", layer(&[("etc/", ""), ("etc/os", "dhow")])),
        ("+zstd", layer(&[("bin", "binary")])),
        ("", layer(&[("plain", "text")])),
    ])
}

/// Puts the example into a registry by our own push.
async fn push_example(dir: &std::path::Path, name: &str, transfer: &Transfer) -> Result<image::Digest, ImageError> {
    let store = store(&dir.join("pusher"));
    example().write(&dir.join("layout"), "example:1");
    let image = store.import(&dir.join("layout")).await.unwrap()[0].clone();
    store.tag("example:1", &reference(name)).unwrap();
    store.push(&reference(name), transfer).await?;
    Ok(image.id.clone())
}

#[tokio::test]
async fn push_and_pull_round_trip_with_a_real_registry() {
    let registry = Registry::start("", &[]);
    let dir = TempDir::new().unwrap();
    let name = format!("{}/team/app:v1", registry.address);
    let id = push_example(dir.path(), &name, &Transfer::default()).await.unwrap();

    let news = Arc::new(Mutex::new(Vec::new()));
    let heard = news.clone();
    let progress: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(move |one| heard.lock().unwrap().push(one));
    let store = store(&dir.path().join("puller"));
    let transfer = Transfer { progress: Some(progress), ..Transfer::default() };
    let image = store.pull(&reference(&name), &transfer).await.unwrap();
    assert_eq!((&image.id, image.names.as_slice()), (&id, [name.clone()].as_slice()));
    assert_eq!(image.digests, [format!("{}/team/app@{}", registry.address, image.manifest.digest)]);
    let mount = store.prepare("c", &image).await.unwrap();
    assert_eq!(file_in(&mount.lower, "etc/os").as_deref(), Some("dhow"));
    assert_eq!(file_in(&mount.lower, "bin").as_deref(), Some("binary"));
    assert_eq!(file_in(&mount.lower, "plain").as_deref(), Some("text"));
    let ready =
        news.lock().unwrap().iter().filter(|n| matches!(n, Progress::Layer { state: State::Ready, .. })).count();
    assert_eq!(ready, 3);
    assert!(matches!(news.lock().unwrap()[0], Progress::Resolved { .. }));

    let by_digest = store.pull(&reference(&image.digests[0]), &Transfer::default()).await.unwrap();
    assert_eq!(by_digest.id, id);
    let error =
        store.pull(&reference(&format!("{}/team/app:none", registry.address)), &Transfer::default()).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let expected = format!("{0}/team/app:none not found in {0}: check the name and the tag", registry.address);
    assert_eq!(error.to_string(), expected);
}

/// `abc`, hashed by bcrypt (a test vector of jBCrypt).
const HTPASSWD: &str = "user:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i\n";

#[tokio::test]
async fn basic_authentication() {
    let registry = Registry::start("auth: {htpasswd: {realm: test, path: DIR/htpasswd}}\n", &[("htpasswd", HTPASSWD)]);
    let dir = TempDir::new().unwrap();
    let name = format!("{}/app:1", registry.address);
    let as_user = |password: &str| Transfer {
        credentials: Some(Credentials { username: "user".into(), password: password.into(), identity_token: None }),
        ..Transfer::default()
    };
    push_example(dir.path(), &name, &as_user("abc")).await.unwrap();
    let puller = store(&dir.path().join("puller"));
    for wrong in [Transfer::default(), as_user("wrong")] {
        let error = puller.pull(&reference(&name), &wrong).await.unwrap_err();
        assert!(matches!(error, ImageError::Registry(RegistryError::Unauthorized { .. })), "{error}");
    }
    puller.pull(&reference(&name), &as_user("abc")).await.unwrap();
    let error = puller.pull(&reference(&name), &Transfer::default()).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Registry(RegistryError::Unauthorized { .. })),
        "what one opened is open to all"
    );
    drop(puller);
    // The same from the configuration.
    let registries =
        serde_json::json!({ registry.address.to_string(): {"credentials": {"username": "user", "password": "abc"}} });
    let configured = store_with(&dir.path().join("configured"), registries);
    configured.pull(&reference(&name), &Transfer::default()).await.unwrap();
}

#[tokio::test]
async fn mirrors_are_asked_first_and_may_fail() {
    let registry = Registry::start("", &[]);
    let dir = TempDir::new().unwrap();
    push_example(dir.path(), &format!("{}/library/app:1", registry.address), &Transfer::default()).await.unwrap();
    let dead = free_port().await;
    let registries = serde_json::json!({"docker.io": {"mirrors": [
        {"url": format!("http://{dead}")}, {"url": format!("http://{}/", registry.address)}]}});
    let store = store_with(&dir.path().join("puller"), registries);
    let image = store.pull(&reference("app:1"), &Transfer::default()).await.unwrap();
    assert_eq!(image.names, ["docker.io/library/app:1"]);
}

#[tokio::test]
async fn servers_must_prove_who_they_are_unless_configured_otherwise() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = "  tls: {certificate: DIR/cert.pem, key: DIR/key.pem}\n";
    let registry = Registry::start(tls, &[("cert.pem", &certificate), ("key.pem", &key)]);
    let dir = TempDir::new().unwrap();
    // A registry on this machine is taken as it is.
    push_example(dir.path(), &format!("{}/library/app:1", registry.address), &Transfer::default()).await.unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &certificate).unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let url = format!("https://{}", registry.address);
    let pull = async |name: &str, mirror: serde_json::Value| {
        let registries = serde_json::json!({ "nowhere.invalid": {"mirrors": [mirror]} });
        let store = store_with(&dir.path().join(name), registries);
        store.pull(&reference("nowhere.invalid/library/app:1"), &Transfer::default()).await
    };
    pull("ca", serde_json::json!({"url": url, "ca": ca})).await.unwrap();
    pull("insecure", serde_json::json!({"url": url, "insecure": true})).await.unwrap();
    assert!(pull("unknown", serde_json::json!({"url": url})).await.is_err());
    assert!(pull("empty", serde_json::json!({"url": url, "ca": empty})).await.is_err());
}

async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn unreachable_registry_is_named() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let name = format!("{}/app:1", free_port().await);
    let error = store.pull(&reference(&name), &Transfer::default()).await.unwrap_err();
    let text = base::chain(&error);
    assert!(
        text.starts_with(&format!("failed to reach {} for {name}: cannot connect to", &name[..name.len() - 6])),
        "{text}"
    );
}

// === a registry that does as it is told ===

/// Answers requests by a function of method, path and headers; counts what it is asked.
struct Scripted {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// An answer. `cut`: close the connection after so many bytes of the body.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Answer {
    fn new(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new(), cut: None }
    }
    fn ok(body: &[u8]) -> Answer {
        Answer { body: body.to_vec(), ..Answer::new(200) }
    }
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

struct Asked {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    host: SocketAddr,
}

impl Scripted {
    async fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, script) = (asked.clone(), Arc::new(script));
        base::tasks::detach("scripted-registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script) = (log.clone(), script.clone());
                base::tasks::detach("scripted-connection", async move {
                    if let Err(error) = serve(stream, address, &log, &*script).await {
                        tracing::debug!(%error, "the client went away");
                    }
                });
            }
        });
        Scripted { address, asked }
    }

    fn asked(&self, pattern: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(pattern)).count()
    }
}

async fn serve(
    mut stream: tokio::net::TcpStream,
    host: SocketAddr,
    log: &Mutex<Vec<String>>,
    script: &(dyn Fn(&Asked) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await?;
        head.push(byte);
        if head[0] == 0x16 {
            return Ok(()); // A TLS hello: this is a plain server.
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
    let asked = Asked { method, path, headers, host };
    log.lock().unwrap().push(format!("{} {} {:?}", asked.method, asked.path, asked.headers.get("range")));
    let answer = script(&asked);
    let mut out =
        format!("HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    answer.headers.iter().for_each(|(name, value)| out.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{out}\r\n").as_bytes()).await?;
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    stream.write_all(body).await?;
    stream.flush().await
}

/// Serves a layout honestly.
fn honest(layout: &Layout, asked: &Asked) -> Answer {
    let name = asked.path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if asked.path.contains("/manifests/") {
        let manifest = &layout.blobs.last().unwrap().1;
        return Answer::ok(manifest).with("Content-Type", support::OCI_MANIFEST);
    }
    match layout.blobs.iter().find(|(digest, _)| digest.to_string() == name) {
        Some((_, bytes)) => {
            match asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()) {
                Some(from @ 0usize..) => {
                    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                    Answer { status: 206, ..Answer::ok(&bytes[from..]) }.with("Content-Range", range)
                }
                None => Answer::ok(bytes),
            }
        }
        None => Answer::new(404),
    }
}

/// One incompressible layer of 4 MiB.
fn big() -> Layout {
    let mut noise = String::new();
    let mut state = 1u64;
    while noise.len() < 4 << 20 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        noise.push_str(&format!("{state:016x}"));
    }
    layout(&[("", layer(&[("noise", &noise)]))])
}

#[tokio::test(start_paused = true)]
async fn broken_downloads_go_on_where_they_ended() {
    let layout = Arc::new(big());
    let (served, cuts) = (layout.clone(), Arc::new(AtomicUsize::new(0)));
    let blob = layout.blobs[0].0.to_string();
    let path = format!("/blobs/{blob}");
    let scripted = Scripted::start(move |asked| {
        let mut answer = honest(&served, asked);
        if asked.path.contains(&path) && cuts.fetch_add(1, Ordering::SeqCst) < 3 {
            answer.cut = Some(1 << 20);
        }
        answer
    })
    .await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let image = store.pull(&reference(&format!("{}/app:1", scripted.address)), &Transfer::default()).await.unwrap();
    assert_eq!(image.layers.len(), 1);
    assert_eq!(scripted.asked("/blobs/sha256"), 5, "the configuration, and the layer in four pieces");
    assert_eq!(scripted.asked("bytes=3145728-"), 1);
}

#[tokio::test]
async fn begun_downloads_survive_a_restart() {
    let layout = Arc::new(big());
    let served = layout.clone();
    let scripted = Scripted::start(move |asked| honest(&served, asked)).await;
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("store");
    drop(store(&root));
    let (digest, bytes) = &layout.blobs[0];
    std::fs::write(root.join(format!("ingest/{}.part", digest.hex())), &bytes[..1000]).unwrap();
    let store = store(&root);
    store.pull(&reference(&format!("{}/app:1", scripted.address)), &Transfer::default()).await.unwrap();
    assert_eq!(scripted.asked("bytes=1000-"), 1);
}

#[tokio::test]
async fn wrong_content_is_refused_and_thrown_away() {
    let layout = Arc::new(example());
    let served = layout.clone();
    let scripted = Scripted::start(move |asked| {
        let mut answer = honest(&served, asked);
        if asked.path.contains("/blobs/") && asked.path.ends_with(&served.blobs[1].0.to_string()) {
            *answer.body.last_mut().unwrap() ^= 1;
        }
        answer
    })
    .await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let name = format!("{}/app:1", scripted.address);
    let error = store.pull(&reference(&name), &Transfer::default()).await.unwrap_err();
    let text = base::chain(&error);
    assert!(text.contains(&format!("content of {} is not what it should be", layout.blobs[1].0)), "{text}");
    assert!(store.list().is_empty());
    let wrong = image::Digest::of(b"other");
    let error =
        store.pull(&reference(&format!("{}/app@{wrong}", scripted.address)), &Transfer::default()).await.unwrap_err();
    assert!(base::chain(&error).contains(&format!("content of {wrong} is not what it should be")), "{error}");
}

#[tokio::test]
async fn tokens_are_fetched_and_not_carried_elsewhere() {
    let layout = Arc::new(example());
    let storage = {
        let layout = layout.clone();
        Scripted::start(move |asked| {
            assert!(!asked.headers.contains_key("authorization"), "a token was sent to another host");
            honest(&layout, asked)
        })
        .await
    };
    let elsewhere = storage.address;
    let scripted = Scripted::start(move |asked| {
        if asked.path.starts_with("/token") {
            let ours = asked.path.contains("service=reg") && asked.path.contains("scope=repository%3Aapp%3Apull");
            assert!(ours, "{}", asked.path);
            assert_eq!(asked.headers["authorization"], "Basic dTpw");
            return Answer::ok(br#"{"token":"secret"}"#);
        }
        if asked.headers.get("authorization").map(String::as_str) != Some("Bearer secret") {
            let challenge =
                format!(r#"Bearer realm="http://{}/token",service="reg",scope="repository:app:pull""#, asked.host);
            return Answer::new(401).with("WWW-Authenticate", challenge);
        }
        if asked.path.contains("/blobs/") {
            return Answer::new(307).with("Location", format!("http://{elsewhere}{}", asked.path));
        }
        honest(&layout, asked)
    })
    .await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let credentials = Credentials { username: "u".into(), password: "p".into(), identity_token: None };
    let transfer = Transfer { credentials: Some(credentials), ..Transfer::default() };
    store.pull(&reference(&format!("{}/app:1", scripted.address)), &transfer).await.unwrap();
    assert_eq!(scripted.asked("/token"), 1, "a token is used again");
    assert_eq!(storage.asked("/blobs/"), 4);
}

#[tokio::test(start_paused = true)]
async fn busy_registries_are_asked_again_later() {
    let layout = example();
    let failures = AtomicUsize::new(0);
    let scripted = Scripted::start(move |asked| match failures.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(429).with("Retry-After", "7"),
        1 | 2 => Answer::new(503),
        _ => honest(&layout, asked),
    })
    .await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let start = tokio::time::Instant::now();
    store.pull(&reference(&format!("{}/app:1", scripted.address)), &Transfer::default()).await.unwrap();
    assert!(start.elapsed().as_secs() >= 7);
}

#[tokio::test]
async fn platforms_are_chosen_and_missing_ones_named() {
    let layout = Arc::new(example());
    let manifest = layout.manifest.to_string();
    let of = |architecture: &str, digest: &str| {
        serde_json::json!({"mediaType": support::OCI_MANIFEST, "digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let other = image::Digest::of(b"other").to_string();
    let good = serde_json::json!({"schemaVersion": 2, "manifests": [of("mips", &other), of(&support::architecture(), &manifest)]});
    let bad = serde_json::json!({"schemaVersion": 2, "manifests": [of("mips", &other)]});
    let chart = serde_json::json!({"schemaVersion": 2, "mediaType": support::OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": other, "size": 1},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": other, "size": 1}]});
    let scripted = Scripted::start(move |asked| {
        let index = "application/vnd.oci.image.index.v1+json";
        match asked.path.rsplit('/').next().unwrap_or_default() {
            "good" => Answer::ok(good.to_string().as_bytes()).with("Content-Type", index),
            "bad" => Answer::ok(bad.to_string().as_bytes()).with("Content-Type", index),
            "chart" => Answer::ok(chart.to_string().as_bytes()).with("Content-Type", support::OCI_MANIFEST),
            _ => honest(&layout, asked),
        }
    })
    .await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let pull = async |tag: &str| {
        store.pull(&reference(&format!("{}/app:{tag}", scripted.address)), &Transfer::default()).await
    };
    assert_eq!(pull("good").await.unwrap().layers.len(), 3);
    let text = pull("bad").await.unwrap_err().to_string();
    assert!(
        text.ends_with(&format!("has no image for linux/{}, only for linux/mips", support::architecture())),
        "{text}"
    );
    let error = pull("chart").await.unwrap_err();
    assert!(matches!(error, ImageError::UnsupportedMediaType { .. }), "{error}");
}

#[tokio::test]
async fn concurrent_pulls_fetch_and_unpack_once() {
    let layout = example();
    let scripted = Scripted::start(move |asked| honest(&layout, asked)).await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let name = reference(&format!("{}/app:1", scripted.address));
    let transfer = Transfer::default();
    let all = futures_util::future::join_all((0..10).map(|_| store.pull(&name, &transfer))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(scripted.asked("/blobs/"), 4, "three layers and a configuration");
    assert_eq!(std::fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 3);
}

#[tokio::test]
async fn pruning_during_pulls_takes_nothing_away() {
    let layout = example();
    let scripted = Scripted::start(move |asked| honest(&layout, asked)).await;
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let name = reference(&format!("{}/app:1", scripted.address));
    for _ in 0..10 {
        let transfer = Transfer::default();
        let pull = store.pull(&name, &transfer);
        let prune = async {
            for _ in 0..5 {
                store.prune(|_| true).await.unwrap();
            }
        };
        let (pulled, ()) = futures_util::future::join(pull, prune).await;
        let image = pulled.unwrap();
        let mount = store.prepare("c", &image).await.unwrap();
        assert_eq!(file_in(&mount.lower, "plain").as_deref(), Some("text"));
        store.remove_snapshot("c").await.unwrap();
        store.prune(|_| false).await.unwrap();
    }
}
