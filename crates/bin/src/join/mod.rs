//! How a machine becomes a node of a cluster whose server is elsewhere: kubeadm's TLS bootstrap, on dhow's terms.
//!
//! ```text
//!   token + hash of the CA's key ─▶ TLS to a server with that CA ─▶ CertificateSigningRequest ─▶ client certificate
//!   client certificate ─▶ the cluster's network, pod addresses, serving certificate; renewed with itself ever after
//! ```
//!
//! A server that is not dhow's is reached by a kubeconfig instead ([`given`]); from the first certificate on both are the same.
//!
//! The node's keys are made here and never leave. Folder `<data>/pki`: `ca.crt`, `node-client.{crt,key}`, `node.{crt,key}`, and
//! `NAME.next.key` while a request for a certificate is under way. After the first contact the token is of no more use.

mod certificates;
mod given;
mod requests;

pub(crate) use certificates::Certificates;

use crate::bootstrap::files;
use crate::bootstrap::pki::{self, KeyCert, Leaf, State};
use crate::commands::CommandError;
use crate::config::Config;
use crate::membership::Memory;
use base64::{Engine, engine::general_purpose::STANDARD};
use client::{CaPin, Client, HttpTransport, PinnedCa, TlsIdentity};
use given::{Credentials, Given};
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
    /// Instead of all three.
    pub(crate) kubeconfig: Option<PathBuf>,
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
        let contact = match said.kubeconfig {
            Some(path) => Contact::given(Given::read(&path)?)?,
            None => Contact::said(&said, memory.server.as_deref(), why)?,
        };
        memory.server = Some(contact.server.clone());
        first_contact(config, contact, clock).await?;
    }
    memory.node_name = Some(name.clone());
    memory.server = said.server.or(memory.server);
    memory.store(config)?;
    Ok(())
}

/// A server, and by what it lets us in.
struct Contact {
    server: String,
    way: Way,
}

enum Way {
    /// Asks for a certificate, with a token. The CA is known, or shown by the server.
    Ask { transport: HttpTransport, ca: CaSource },
    /// Has one.
    Certificate { ca_pem: String, pair: KeyCert },
}

enum CaSource {
    Known(String),
    Shown(Arc<PinnedCa>),
}

impl Contact {
    /// By what `dhow token create` printed.
    fn said(said: &Said, remembered: Option<&str>, why: &str) -> Result<Self, CommandError> {
        let missing =
            || format!("{why}: give --server, --token and --ca-hash as `dhow token create` prints them on the server");
        let server = said.server.as_deref().or(remembered).ok_or_else(missing)?.to_owned();
        let token = said.token.clone().ok_or_else(missing)?;
        let hash = said.ca_hash.as_ref().ok_or_else(missing)?;
        let pin: CaPin = hash.parse().map_err(|()| {
            format!("ca-hash {hash:?} is not sha256: and 64 hexadecimal digits, as `dhow token create` prints it")
        })?;
        let (transport, verifier) = HttpTransport::pinned(&server, pin, TlsIdentity::Token(token))?;
        Ok(Contact { server, way: Way::Ask { transport, ca: CaSource::Shown(verifier) } })
    }

    /// By a kubeconfig.
    fn given(given: Given) -> Result<Self, CommandError> {
        let Given { server, ca_pem, credentials } = given;
        let way = match credentials {
            Credentials::Certificate(pair) => Way::Certificate { ca_pem, pair },
            Credentials::Token(token) => Way::Ask {
                transport: HttpTransport::new(&server, ca_pem.as_bytes(), TlsIdentity::Token(token))?,
                ca: CaSource::Known(ca_pem),
            },
        };
        Ok(Contact { server, way })
    }
}

async fn first_contact(config: &Config, contact: Contact, clock: &dyn base::Clock) -> Result<(), CommandError> {
    let dir = config.data_dir.join("pki");
    files::private_dir(&dir)?;
    let leaf = client_leaf(&config.node_name);
    let (ca_pem, pair) = match contact.way {
        Way::Certificate { ca_pem, pair } => (ca_pem, pair),
        Way::Ask { transport, ca } => {
            let client = Client::new(Arc::new(transport), "dhow-agent");
            let asking = requests::obtain(&client, &dir, &leaf, requests::CLIENT);
            let pair = tokio::time::timeout(PATIENCE, asking).await.map_err(|_| {
                format!("{} gave no certificate within {PATIENCE:?}; `kubectl get csr` there tells why", contact.server)
            })??;
            let ca_pem = match ca {
                CaSource::Known(ca_pem) => ca_pem,
                CaSource::Shown(verifier) => {
                    pem("CERTIFICATE", &verifier.certificate().ok_or("the server did not show its CA")?)
                }
            };
            (ca_pem, pair)
        }
    };
    if pki::state(&ca_pem, &leaf, &pair, clock.now().as_second()) == State::Bad {
        let user = format!("system:node:{}", config.node_name);
        return Err(
            format!("the certificate is not one of {user} by this CA, or not valid by this machine's clock").into()
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
