//! The certificates of a node that runs: asked for, kept, and renewed at two thirds of their life, without a restart.

use super::requests::{self, Kind};
use super::{Identity, client_leaf};
use crate::bootstrap::pki::{self, KeyCert, Leaf, State};
use crate::commands::CommandError;
use crate::server::material;
use agent::server::{Tls, TlsMaterial};
use base::Clock;
use base::backoff::Backoff;
use client::{Client, HttpTransport};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often certificates are looked at.
const CHECK: Duration = Duration::from_secs(600);
/// A request that nobody answered for so long is made anew at the next check.
const PATIENCE: Duration = Duration::from_secs(900);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// See the file's head.
pub(crate) struct Certificates {
    pub(crate) identity: Identity,
    pub(crate) transport: Arc<HttpTransport>,
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    /// What others know the node by.
    pub(crate) node_ip: IpAddr,
}

impl Certificates {
    fn serving_leaf(&self) -> Leaf {
        let name = &self.identity.node_name;
        Leaf {
            organization: Some("system:nodes".into()),
            ..Leaf::server("node", &format!("system:node:{name}"), vec![name.clone()], vec![self.node_ip])
        }
    }

    fn state(&self, leaf: &Leaf, pair: &KeyCert) -> State {
        pki::state(&self.identity.ca_pem, leaf, pair, self.clock.now().as_second())
    }

    /// TLS for the node's API, as soon as there is a certificate; from then on both certificates are kept fresh. Asks until `shutdown`.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) -> Option<Arc<Tls>> {
        let leaf = self.serving_leaf();
        let stored = pki::read_pair(&self.identity.dir, &leaf.file).unwrap_or_else(|error| {
            tracing::error!(error = %base::chain(&error), "failed to read the node's serving certificate; asking for another");
            None
        });
        let mut pair = stored.filter(|pair| self.state(&leaf, pair) != State::Bad);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let tls = loop {
            let made = match pair.take() {
                Some(pair) => self.tls(&pair),
                None => self.obtain(&leaf, requests::SERVING).await.and_then(|pair| self.tls(&pair)),
            };
            match made {
                Ok(tls) => break tls,
                Err(error) => {
                    tracing::warn!(error = %base::chain(error.as_ref()), "the node has no serving certificate yet; trying again");
                    tokio::select! {
                        () = shutdown.cancelled() => return None,
                        () = tokio::time::sleep(backoff.fail()) => {}
                    }
                }
            }
        };
        let shown = tls.clone();
        base::tasks::detach("node-certificates", async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(CHECK) => {}
                }
                if let Err(error) = self.renew(&shown).await {
                    tracing::error!(error = %base::chain(error.as_ref()), "failed to renew a certificate of the node");
                }
            }
        });
        Some(tls)
    }

    /// Renews what is due.
    async fn renew(&mut self, tls: &Tls) -> Result<(), CommandError> {
        let leaf = client_leaf(&self.identity.node_name);
        if self.state(&leaf, &self.identity.client) != State::Good {
            self.identity.client = self.obtain(&leaf, requests::CLIENT).await?;
            self.transport.reload(self.identity.ca_pem.as_bytes(), self.identity.tls()).await?;
            tracing::info!("renewed the node's client certificate");
        }
        let leaf = self.serving_leaf();
        let stored = pki::read_pair(&self.identity.dir, &leaf.file)?;
        if !stored.is_some_and(|pair| self.state(&leaf, &pair) == State::Good) {
            let pair = self.obtain(&leaf, requests::SERVING).await?;
            tls.reload(self.material(&pair)?)?;
            tracing::info!("renewed the node's serving certificate");
        }
        Ok(())
    }

    /// Asks for a certificate and stores it.
    async fn obtain(&self, leaf: &Leaf, kind: Kind) -> Result<KeyCert, CommandError> {
        let dir = &self.identity.dir;
        let asking = requests::obtain(&self.client, dir, leaf, kind);
        let pair = tokio::time::timeout(PATIENCE, asking).await.map_err(|_| {
            format!("nobody approved the request for the certificate {} within {PATIENCE:?}", leaf.file)
        })??;
        if self.state(leaf, &pair) == State::Bad {
            requests::done(dir, leaf)?;
            return Err("the server gave a certificate that is not what was asked for".into());
        }
        pki::write_pair(dir, &leaf.file, &pair)?;
        requests::done(dir, leaf)?;
        Ok(pair)
    }

    fn material(&self, pair: &KeyCert) -> Result<TlsMaterial, CommandError> {
        let own = material(&self.identity.ca_pem, pair)?;
        Ok(TlsMaterial { chain: own.chain, key: own.key, client_ca: own.client_ca })
    }

    fn tls(&self, pair: &KeyCert) -> Result<Arc<Tls>, CommandError> {
        Ok(Tls::new(self.material(pair)?)?)
    }
}
