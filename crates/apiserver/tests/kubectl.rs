//! Real kubectl against a server on loopback: TLS, discovery, tables, the verbs.
//!
//! kubectl is found in PATH; `KUBECTL` names another one.

use apiserver::auth::{AllowAll, AuthError, Authenticator, Peer, UserInfo};
use apiserver::{ApiServer, Deps, ServiceNetwork, Tls, TlsMaterial, serve};
use base::{SystemClock, SystemRandom};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::sync::Arc;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

struct Token;

#[async_trait::async_trait]
impl Authenticator for Token {
    async fn authenticate(&self, head: &http::request::Parts, _: &Peer) -> Result<Option<UserInfo>, AuthError> {
        match head.headers.get("authorization").map(http::HeaderValue::as_bytes) {
            Some(b"Bearer secret") => Ok(Some(UserInfo::new("admin", &["system:masters"]))),
            Some(_) => Err(AuthError("unknown token".into())),
            None => Ok(None),
        }
    }
}

struct Cluster {
    url: String,
    ca: tempfile::NamedTempFile,
    home: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Cluster {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
        let ca = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(ca.path(), made.cert.pem()).expect("writes");
        let tls = Tls::new(TlsMaterial {
            chain: CertificateDer::pem_slice_iter(made.cert.pem().as_bytes()).collect::<Result<_, _>>().expect("PEM"),
            key: PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("PEM"),
            client_ca: Vec::new(),
            front_proxy_ca: Vec::new(),
        })
        .expect("TLS");
        let server = ApiServer::new(Deps {
            store: Arc::new(store::MemoryStore::new(store::Limits::default())),
            authenticator: Arc::new(Token),
            authorizer: Arc::new(AllowAll),
            admission: vec![Box::new(apiserver::admission::NamespaceLifecycle)],
            token_issuer: None,
            services: ServiceNetwork::default(),
            node_client: None,
            audit: None,
            clock: SystemClock::shared(),
            random: Arc::new(SystemRandom),
        })
        .await
        .expect("an empty store");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let shutdown = CancellationToken::new();
        drop(base::tasks::spawn("test-server", serve(server, listener, tls, shutdown.clone())));
        let home = tempfile::tempdir().expect("a directory");
        let cluster = Cluster { url, ca, home, shutdown };
        cluster.run("create namespace default", "").await;
        cluster
    }

    #[expect(clippy::disallowed_methods, reason = "a test of a real client runs the real client")]
    fn command(&self, args: &str) -> Command {
        let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let mut command = Command::new(kubectl);
        command.env("HOME", self.home.path()).env_remove("KUBECONFIG").kill_on_drop(true);
        command.args(["--server", &self.url, "--token", "secret"]).arg("--certificate-authority").arg(self.ca.path());
        command.args(args.split_whitespace());
        command
    }

    /// Output and errors together.
    async fn run(&self, args: &str, stdin: &str) -> String {
        use tokio::io::AsyncWriteExt;
        let mut command = self.command(args);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child =
            command.spawn().expect("kubectl is installed; `apt-get install kubernetes-client` or set KUBECTL");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(stdin.as_bytes()).await.expect("kubectl reads");
        drop(input);
        let out = child.wait_with_output().await.expect("kubectl ends");
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    }

    async fn check(&self, args: &str, stdin: &str, expected: &str) {
        let got = self.run(args, stdin).await;
        assert!(got.contains(expected), "kubectl {args}\n--- got\n{got}\n--- expected to contain\n{expected}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() {
    let c = Cluster::start().await;
    c.check("version", "", "v1.36.2+dhow").await;
    c.check("api-resources", "", "configmaps").await;
    c.check("create configmap a --from-literal=k=v", "", "configmap/a created").await;
    c.check("create configmap a --from-literal=k=v", "", "configmaps \"a\" already exists").await;
    c.check("get configmaps", "", "NAME   DATA   AGE\na      1 ").await;
    c.check("get configmap a -o jsonpath={.data.k}", "", "v").await;
    c.check("get configmap b", "", "Error from server (NotFound): configmaps \"b\" not found").await;
    c.check("label configmap a x=y", "", "configmap/a labeled").await;
    c.check("get cm -l x=y -o name", "", "configmap/a").await;
    c.check("patch cm a --type=merge -p {\"data\":{\"k\":\"w\"}}", "", "configmap/a patched").await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {k: one}\n";
    c.check("apply -f -", yaml, "configmap/b created").await;
    c.check("apply -f -", &yaml.replace("one", "two"), "configmap/b configured").await;
    c.check("apply -f -", &yaml.replace("one", "two"), "configmap/b unchanged").await;
    c.check("apply --server-side -f -", &yaml.replace('b', "c"), "serverside-applied").await;
    c.check("diff -f -", &yaml.replace("one", "three"), "+  k: three").await;
    c.check("apply -f - --dry-run=server", &yaml.replace("one", "x"), "configured (server dry run)").await;
    c.check("explain deployment.spec.strategy", "", "RollingUpdate").await;
    c.check("create deployment web --image=i --replicas=2", "", "deployment.apps/web created").await;
    c.check("scale deployment web --replicas=3", "", "deployment.apps/web scaled").await;
    c.check("get deployment web -o jsonpath={.spec.replicas}", "", "3").await;
    c.check("create -f -", "apiVersion: apps/v1\nkind: Pod\nmetadata: {name: p}\n", "no matches for kind").await;
    c.check("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\nfoo: 1\n", "unknown field \"foo\"")
        .await;
    c.check("auth can-i list pods", "", "yes").await;
    c.check("auth whoami", "", "admin").await;
    c.check("get --raw /readyz", "", "ok").await;
    c.check("get cm --chunk-size=1 -o name", "", "configmap/a\nconfigmap/b").await;
    c.check("delete cm a --wait=true", "", "configmap \"a\" deleted").await;
    c.check("get all", "", "deployment.apps/web").await;
    c.check("describe deployment web", "", "Replicas:").await;
    c.check("delete cm --all", "", "deleted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_watches() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let c = Cluster::start().await;
    let mut command = c.command("get configmaps -w -o name");
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("kubectl is installed");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    c.run("create configmap one", "").await;
    assert_eq!(lines.next_line().await.expect("reads").as_deref(), Some("configmap/one"));
    c.run("create configmap two", "").await;
    assert_eq!(lines.next_line().await.expect("reads").as_deref(), Some("configmap/two"));
    child.kill().await.expect("ends");
}
