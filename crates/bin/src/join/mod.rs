//! How a machine becomes a node of a cluster whose server is elsewhere: kubeadm's TLS bootstrap, on dhow's terms.
//!
//! ```text
//!   token + hash of the CA's key ─▶ TLS to a server with that CA ─▶ CertificateSigningRequest ─▶ client certificate
//!   client certificate ─▶ the cluster's network, pod addresses, serving certificate; renewed with itself ever after
//! ```
//!
//! The node's keys are made here and never leave. Folder `<data>/pki`: `ca.crt`, `node-client.{crt,key}`, `node.{crt,key}`, and
//! `NAME.next.key` while a request for a certificate is under way. After the first contact the token is of no more use.

mod certificates;
mod requests;

pub(crate) use certificates::Certificates;

use crate::bootstrap::files;
use crate::bootstrap::pki::{self, KeyCert, Leaf, State};
use crate::commands::CommandError;
use crate::config::Config;
use crate::membership::Memory;
use base64::{Engine, engine::general_purpose::STANDARD};
use client::{CaPin, Client, HttpTransport, TlsIdentity};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the first certificate may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was said on the command line.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) server: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) ca_hash: Option<String>,
}

/// What makes this machine a node, on disk.
#[derive(Clone)]
pub(crate) struct Identity {
    dir: PathBuf,
    node_name: String,
    /// The cluster's CA.
    pub(crate) ca_pem: String,
    /// The node's client certificate.
    pub(crate) client: KeyCert,
}

pub(crate) fn client_leaf(node_name: &str) -> Leaf {
    Leaf::client("node-client", &format!("system:node:{node_name}"), Some("system:nodes"))
}

impl Identity {
    /// `None`: this machine is no node yet.
    pub(crate) fn load(config: &Config) -> Result<Option<Identity>, CommandError> {
        let dir = config.data_dir.join("pki");
        let ca = files::read(&dir.join("ca.crt"))?;
        let (Some(ca), Some(client)) = (ca, pki::read_pair(&dir, &client_leaf("").file)?) else { return Ok(None) };
        Ok(Some(Identity { dir, node_name: config.node_name.clone(), ca_pem: String::from_utf8(ca)?, client }))
    }

    fn state(&self, now: i64) -> State {
        pki::state(&self.ca_pem, &client_leaf(&self.node_name), &self.client, now)
    }

    /// For requests as this node.
    pub(crate) fn tls(&self) -> TlsIdentity {
        let KeyCert { cert_pem, key_pem } = self.client.clone();
        TlsIdentity::Certificate { cert_pem: cert_pem.into(), key_pem: key_pem.into() }
    }
}

/// Makes sure that this machine has an identity, by what was said if it has none yet.
pub(crate) async fn ensure(config: &Config, said: Said, clock: &dyn base::Clock) -> Result<(), CommandError> {
    let mut memory = Memory::load(config)?;
    let name = &config.node_name;
    if let Some(known) = memory.node_name.as_ref().filter(|known| *known != name) {
        return Err(format!(
            "{} belongs to node {known}, not {name}; use --node-name {known}, or `dhow reset`",
            config.data_dir.display()
        )
        .into());
    }
    let state = Identity::load(config)?.map(|identity| identity.state(clock.now().as_second()));
    if !matches!(state, Some(State::Good | State::Ageing)) {
        let why = match state {
            None => "this machine is no node of a cluster yet",
            Some(_) => "this node's certificate is not valid any more",
        };
        let missing =
            || format!("{why}: give --server, --token and --ca-hash as `dhow token create` prints them on the server");
        let server = said.server.clone().or(memory.server.clone()).ok_or_else(missing)?;
        let token = said.token.ok_or_else(missing)?;
        let hash = said.ca_hash.ok_or_else(missing)?;
        let pin: CaPin = hash.parse().map_err(|()| {
            format!("ca-hash {hash:?} is not sha256: and 64 hexadecimal digits, as `dhow token create` prints it")
        })?;
        first_contact(config, &server, token, pin, clock).await?;
    }
    memory.node_name = Some(name.clone());
    memory.server = said.server.or(memory.server);
    memory.store(config)?;
    Ok(())
}

async fn first_contact(
    config: &Config,
    server: &str,
    token: String,
    pin: CaPin,
    clock: &dyn base::Clock,
) -> Result<(), CommandError> {
    let dir = config.data_dir.join("pki");
    files::private_dir(&dir)?;
    let (transport, verifier) = HttpTransport::pinned(server, pin, TlsIdentity::Token(token))?;
    let client = Client::new(Arc::new(transport), "dhow-agent");
    let leaf = client_leaf(&config.node_name);
    let asking = requests::obtain(&client, &dir, &leaf, requests::CLIENT);
    let pair = tokio::time::timeout(PATIENCE, asking).await.map_err(|_| {
        format!("{server} gave no certificate within {PATIENCE:?}; `kubectl get csr` there tells why")
    })??;
    let ca = verifier.certificate().ok_or("the server did not show its CA")?;
    let ca_pem = pem("CERTIFICATE", &ca);
    if pki::state(&ca_pem, &leaf, &pair, clock.now().as_second()) == State::Bad {
        return Err(
            "the server gave a certificate that is not what was asked for, or not valid by this machine's clock".into(),
        );
    }
    files::write(&dir.join("ca.crt"), ca_pem.as_bytes(), 0o644)?;
    pki::write_pair(&dir, &leaf.file, &pair)?;
    requests::done(&dir, &leaf)?;
    Ok(())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
