//! The etcd backend passes the suite, each behaviour on an etcd of its own; two of them on one etcd see each other's writes; TLS
//! with client certificates works.

use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Stdio};
use store::conformance::{create, delete, key, text_of, update};
use store::{At, EtcdError, EtcdOptions, EtcdStore, Limits, Op, Range, Revision, Store, StoreError, Txn, Value};
use tempfile::TempDir;

/// A member of its own, ended with the test.
struct Member {
    child: Child,
    url: String,
    dir: TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it was killed");
    }
}

impl Member {
    fn start(scheme: &str, dir: TempDir, flags: &[String]) -> Member {
        // Free ports, as far as anybody can know; both are held until both are known, so that they differ.
        let held = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [url, peer] = held.map(|listener| listener.local_addr().unwrap());
        let (url, peer) = (format!("{scheme}://{url}"), format!("http://{peer}"));
        #[expect(clippy::disallowed_methods, reason = "etcd is a program")]
        let mut command = std::process::Command::new("etcd");
        command
            .args(["--name", "test", "--log-level", "error", "--unsafe-no-fsync", "--max-txn-ops", "10000"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--data-dir"])
            .arg(dir.path().join("data"))
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().expect("etcd is installed (Debian: etcd-server)");
        Member { child, url, dir }
    }

    async fn open(&self, options: EtcdOptions) -> EtcdStore {
        let options = EtcdOptions { endpoints: vec![self.url.clone()], prefix: "/dhow".into(), ..options };
        let opening = async {
            loop {
                match EtcdStore::open(options.clone()).await {
                    Ok(store) => return store,
                    Err(EtcdError::Unreachable { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), opening).await.expect("etcd starts")
    }
}

fn plain() -> Member {
    Member::start("http", TempDir::new().unwrap(), &[])
}

struct Alone {
    store: EtcdStore,
    _member: Member,
}

impl Deref for Alone {
    type Target = dyn Store;
    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

store::conformance_suite!(|limits| async move {
    let member = plain();
    let store = member.open(EtcdOptions { limits, ..EtcdOptions::default() }).await;
    Alone { store, _member: member }
});

#[tokio::test]
async fn two_servers_see_each_others_writes() {
    let member = plain();
    let (a, b) = (member.open(EtcdOptions::default()).await, member.open(EtcdOptions::default()).await);
    let mut watch = b.watch(&Range::all("/x/"), Revision(0)).await.unwrap();
    let spliced = Value { splice: Some(1), ..Value::plain("<>") };
    a.commit(Txn { ops: vec![Op::Create { key: key("/x/1"), value: spliced }] }).await.unwrap();
    assert_eq!(text_of(&b, "/x/", At::Latest).await, "/x/1=<1>@1/1", "acknowledged by one, read from the other");
    update(&b, "/x/1", Revision(1), "two").await;
    let stale = Op::Update { key: key("/x/1"), expected: Revision(1), value: Value::plain("three") };
    match a.commit(Txn { ops: vec![stale] }).await {
        Err(StoreError::Conflict { found: Some(found), .. }) => assert_eq!(found.modified, Revision(2)),
        other => panic!("{:?}", other.map(|(revision, _)| revision)),
    }
    delete(&a, "/x/1", Revision(2)).await;
    let mut seen = String::new();
    while !seen.contains("deleted") {
        for event in watch.next().await.unwrap() {
            seen.push_str(&format!("{event:?}; "));
        }
    }
    assert_eq!(seen, "created /x/1@1; updated /x/1@2 from @1; deleted /x/1@3 from @2; ");
}

#[tokio::test]
async fn a_new_server_loads_what_is_there_and_goes_on() {
    let member = plain();
    let first = member.open(EtcdOptions::default()).await;
    for i in 0..5 {
        create(&first, &format!("/x/{i}"), "v").await;
    }
    drop(first);
    let second =
        member.open(EtcdOptions { limits: Limits { events: 3, bytes: 1 << 20 }, ..EtcdOptions::default() }).await;
    assert_eq!(second.revision(), Revision(5));
    assert_eq!(text_of(&second, "/x/3", At::Latest).await, "/x/3=v@4/4");
    assert!(matches!(
        second.list(&Range::all("/x/"), At::Exactly(Revision(4)), store::Page { limit: 0 }).await,
        Err(StoreError::Compacted { .. })
    ));
    assert_eq!(create(&second, "/x/9", "v").await.modified, Revision(6));
}

fn write(dir: &Path, name: &str, pem: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, pem).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let dir = TempDir::new().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(ca.der(), &ca_key).unwrap();
    let leaf = |usages: &[rcgen::ExtendedKeyUsagePurpose]| {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = usages.to_vec();
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    // etcd's own gateway connects to itself with the serving certificate.
    let both = [rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let (cert, cert_key) = leaf(&both);
    let flags = [
        format!("--cert-file={}", write(dir.path(), "server.crt", &cert)),
        format!("--key-file={}", write(dir.path(), "server.key", &cert_key)),
        format!("--trusted-ca-file={}", write(dir.path(), "ca.crt", &ca.pem())),
        "--client-cert-auth".to_owned(),
    ];
    let (client, client_key) = leaf(&[rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    let member = Member::start("https", dir, &flags);
    let ca_pem = Some(ca.pem().into_bytes());
    let identity = Some((client.into_bytes(), client_key.into_bytes()));
    let store = member.open(EtcdOptions { ca_pem: ca_pem.clone(), identity, ..EtcdOptions::default() }).await;
    assert_eq!(create(&store, "/x/1", "v").await.modified, Revision(1));
    let endpoints = vec![member.url.clone()];
    let nobody = EtcdStore::open(EtcdOptions { ca_pem, endpoints, ..EtcdOptions::default() }).await;
    assert!(matches!(nobody, Err(EtcdError::Unreachable { .. })));
    assert!(member.dir.path().exists());
}
