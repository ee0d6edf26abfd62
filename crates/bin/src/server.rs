//! The server half, assembled: store, API server, controllers, scheduler. The only place where they meet.

use crate::access::{self, OwnAuthorizers};
use crate::audit_log;
use crate::bootstrap::objects::{self, ApiAddress};
use crate::bootstrap::pki::{Authority, KeyCert, Leaf, PkiError};
use crate::config::{Config, NODE_PREFIX};
use crate::leaders::Leaders;
use crate::local::LocalTransport;
use crate::membership::Network;
use crate::presence;
use crate::reload::Reloads;
use crate::spans;
use crate::storage::{Storage, StorageError};
use api::prelude::{ConfigMap, Secret, ServiceAccount};
use apiserver::admission::{Admission, Settings};
use apiserver::auth::webhook::AuthorizationMetrics;
use apiserver::auth::{
    Authenticator, Authenticators, BootstrapTokens, ClientCertificates, NodeAuthorizer, Rbac, RequestHeaders, Tokens,
};
use apiserver::{ApiServer, Deps, FRONT_PROXY, FrontProxy, Reader, ServiceNetwork, StartHook, Tls, TlsMaterial};
use base::{Clock, Random};
use client::{Client, ClientError, LeaderElection, LeaseConfig};
use controllers::{Facts, PodRange, QueueMetrics, TokenMaker};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use scheduler::SchedulerMetrics;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The server could not be started.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
    /// The data directory.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// Certificates and keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The port.
    #[error("failed to listen on {address}; is another server using the port? Choose another with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The API server refused its own beginnings.
    #[error("failed to start the API server: {0}")]
    Api(String),
    /// Default objects.
    #[error("failed to create the cluster's default objects")]
    Bootstrap(#[source] ClientError),
}

/// A running server half.
pub(crate) struct Server {
    /// For in-process callers.
    pub(crate) api: ApiServer,
    /// Acts as the system itself.
    pub(crate) client: Client,
    /// Where the API listens.
    pub(crate) address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    shutdown: CancellationToken,
    /// Where its objects are.
    pub(crate) storage: Storage,
    /// Who sends traces.
    spans: Option<spans::Sender>,
    /// Dropping it would end the loops.
    _leadership: watch::Sender<bool>,
}

/// How long history is kept at least (`--etcd-compaction-interval`).
const COMPACT_INTERVAL: Duration = Duration::from_secs(300);
/// How often certificates are looked at; they are renewed at two thirds of their life.
const RENEWAL_CHECK: Duration = Duration::from_secs(12 * 3600);

/// What is done when the default objects are there, as health checks name it.
const STARTS: [&str; 5] = [
    "poststarthook/bootstrap-controller",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
];

/// The first Service address: the API's own.
pub(crate) fn api_service_ip(config: &Config) -> IpAddr {
    config.service_cidr.hosts().next().unwrap_or(config.service_cidr.addr())
}

/// The certificate by which clients know the API server.
fn serving_leaf(config: &Config, node_ip: IpAddr) -> Leaf {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(String::from).into();
    names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    names.push(config.node_name.clone());
    let mut ips = vec![IpAddr::from([127, 0, 0, 1]), api_service_ip(config), node_ip];
    if !config.listen.ip().is_unspecified() {
        ips.push(config.listen.ip());
    }
    ips.sort();
    ips.dedup();
    Leaf::server("apiserver", "kube-apiserver", names, ips)
}

pub(crate) fn material(ca_pem: &str, pair: &KeyCert) -> Result<TlsMaterial, ServerError> {
    let bad = |e: rustls_pki_types::pem::Error| ServerError::Api(format!("a certificate of ours is no PEM: {e}"));
    let chain = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(bad);
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(bad)?;
    Ok(TlsMaterial { chain: chain(&pair.cert_pem)?, key, client_ca: chain(ca_pem)?, front_proxy_ca: Vec::new() })
}

/// What the API shows, and whose certificates it believes: clients', and front proxies'. It shows its CA, too: machines that
/// join know it by its hash only.
fn api_material(authority: &Authority, leaf: &Leaf) -> Result<TlsMaterial, ServerError> {
    let mut own = material(authority.ca_pem(), &authority.leaf(leaf)?)?;
    own.chain.extend(own.client_ca.iter().cloned());
    let proxies = front_proxy(authority)?;
    let ca = CertificateDer::pem_slice_iter(proxies.ca_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    own.front_proxy_ca = ca.map_err(|e| ServerError::Api(format!("the front-proxy CA is no PEM: {e}")))?;
    Ok(own)
}

/// Who we are for aggregated API servers.
fn front_proxy(authority: &Authority) -> Result<FrontProxy, ServerError> {
    let proxies = authority.front_proxy()?;
    let pair = proxies.leaf(&Leaf::client("front-proxy-client", FRONT_PROXY, None))?;
    let own = material(proxies.ca_pem(), &pair)?;
    Ok(FrontProxy {
        client_ca_pem: authority.ca_pem().into(),
        ca_pem: proxies.ca_pem().into(),
        chain: own.chain,
        key: own.key,
    })
}

/// TLS towards node agents: we show the API server's client certificate, they one of the cluster's CA.
fn node_client(authority: &Authority) -> Result<Arc<rustls::ClientConfig>, ServerError> {
    let pair = authority.leaf(&Leaf::client(
        "apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    ))?;
    let own = material(authority.ca_pem(), &pair)?;
    let failed = |e: rustls::Error| ServerError::Api(e.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for ca in own.client_ca {
        roots.add(ca).map_err(failed)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(own.chain, own.key).map_err(failed)?))
}

/// Starts everything; returns when the API answers and the default objects are there.
pub(crate) async fn start(
    config: &Config,
    authority: Arc<Authority>,
    node_ip: IpAddr,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    shutdown: CancellationToken,
) -> Result<Server, ServerError> {
    let storage = Storage::open(config).await?;
    let store = storage.as_store();
    base::tasks::detach("store-compactor", store::compact_periodically(store.clone(), COMPACT_INTERVAL));
    let reader = Reader::new(store.clone());
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let api_error = |e: &dyn std::error::Error| ServerError::Api(base::chain(e));
    let tokens = Tokens::new(&authority.token_key()?, &issuer, reader.clone(), clock.clone(), random.clone())
        .map_err(|e| api_error(&e))?;
    let rbac = Rbac::start(&reader).await.map_err(|e| api_error(&e))?;
    let audit = audit_log::start(&config.data_dir, config.audit_policy.as_deref(), shutdown.clone());
    let audit = audit.map_err(ServerError::Api)?;
    let admission = admission(config, &random)?;
    let reloads = |what| Reloads::new(what, &format!("apiserver-{}", config.node_name), &clock);
    let (authentication, authorization) = (reloads("authentication"), reloads("authorization"));
    let foreign = access::foreign_tokens(&config.access, &reader, &clock, &issuer, authentication.clone(), &shutdown);
    let foreign = foreign.map_err(ServerError::Api)?;
    let mut authenticators: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(RequestHeaders { allowed_names: vec![FRONT_PROXY.into()] }),
        Arc::new(ClientCertificates),
        tokens.clone(),
        Arc::new(BootstrapTokens::new(reader.clone(), clock.clone())),
    ];
    authenticators.extend(foreign.authenticators);
    let own = OwnAuthorizers { node: Arc::new(NodeAuthorizer::new(reader.clone())), rbac };
    let metrics = AuthorizationMetrics::default();
    let authorizer = access::authorizer(&config.access, own, &reader, &metrics, authorization.clone(), &shutdown);
    let authorizer = authorizer.map_err(ServerError::Api)?;
    let deps = Deps {
        store,
        authenticator: Arc::new(Authenticators(authenticators)),
        authorizer,
        admission,
        token_issuer: Some(tokens.clone()),
        services: ServiceNetwork {
            cidrs: vec![config.service_cidr],
            shared: storage.is_shared(),
            ..ServiceNetwork::default()
        },
        node_client: Some(node_client(&authority)?),
        audit: Some(audit),
        clock: clock.clone(),
        random: random.clone(),
    };
    let api = ApiServer::new(deps).await.map_err(|e| ServerError::Api(e.message))?;
    let of_access = [metrics.collectors(), foreign.metrics.collectors(), tokens.collectors()];
    let of_files = [authentication.collectors(), authorization.collectors()];
    of_access.into_iter().chain(of_files).flatten().for_each(|collector| api.register_metrics(collector));
    let spans = config.tracing_config.as_deref().map(|path| spans::start(path, &config.node_name)).transpose();
    let spans = spans.map_err(ServerError::Api)?.map(|(traces, sender)| {
        api.set_traces(traces);
        sender
    });
    api.set_flags(config.flags.clone());
    let started = STARTS.map(|name| api.begin_start(name));
    api.check_log(crate::logging::check);
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| ServerError::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| ServerError::Listen { address: config.listen, source })?;
    let leaf = serving_leaf(config, node_ip);
    let tls = Tls::new(api_material(&authority, &leaf)?).map_err(|e| api_error(&e))?;
    api.set_front_proxy(front_proxy(&authority)?);

    let client = Client::new(LocalTransport::new(&api, "system:apiserver", &["system:masters"]), "dhow");
    let network = Network::of(config).config_map();
    let at = ApiAddress {
        service_ip: api_service_ip(config),
        node_ip,
        port: address.port(),
        service_cidr: config.service_cidr.to_string(),
    };
    if storage.is_shared() {
        same_cluster(&client, &authority).await?;
    }
    objects::ensure(&client, &at, network).await.map_err(ServerError::Bootstrap)?;
    let server_url = format!("https://{}", SocketAddr::new(node_ip, address.port()));
    objects::cluster_info(&client, &server_url, authority.ca_pem()).await.map_err(ServerError::Bootstrap)?;
    objects::token_tracking(&client, clock.now()).await.map_err(ServerError::Bootstrap)?;
    started.iter().for_each(StartHook::done);

    let facts = Arc::new(Facts {
        root_ca_pem: authority.ca_pem().into(),
        server_names: leaf.dns_names.iter().cloned().chain(leaf.ips.iter().map(IpAddr::to_string)).collect(),
        pod_ranges: vec![PodRange { cluster: config.cluster_cidr, node_prefix: NODE_PREFIX }],
        signer: Some(authority.clone()),
        tokens: Some(Arc::new(SecretTokens(tokens.clone()))),
        queues: QueueMetrics::default(),
    });
    facts.queues.collectors().into_iter().for_each(|collector| api.register_metrics(collector));
    let mut tasks = vec![
        base::tasks::spawn("custom-resources", {
            let (api, shutdown) = (api.clone(), shutdown.clone());
            async move { api.serve_custom_resources(shutdown).await }
        }),
        base::tasks::spawn("api-listener", apiserver::serve(api.clone(), listener, tls.clone(), shutdown.clone())),
        base::tasks::spawn("certificates", renew(authority.clone(), leaf, tls, api.clone(), shutdown.clone())),
        base::tasks::spawn("legacy-tokens", api.clone().track_legacy_tokens(tokens.legacy_uses(), shutdown.clone())),
        base::tasks::spawn("flow-control", api.clone().run_flow_control(shutdown.clone())),
        base::tasks::spawn("aggregation", api.clone().run_aggregation(shutdown.clone())),
    ];
    let (leadership, always) = watch::channel(true);
    let leading = match storage.is_shared() {
        true => campaign(config, &api, &clock, &*random, &always, &shutdown),
        // One server on its own store leads without asking anybody.
        false => Leading { controllers: always.clone(), scheduler: always },
    };
    if storage.is_shared() {
        let leases = vec![
            ("kube-controller-manager", leading.controllers.clone()),
            ("kube-scheduler", leading.scheduler.clone()),
        ];
        api.register_metrics(Box::new(Leaders::new(leases)));
    }
    if storage.is_shared() {
        let name = config.node_name.clone();
        let presence = presence::run(client.clone(), name, at, clock.clone(), shutdown.clone());
        tasks.push(base::tasks::spawn("presence", presence));
    } else {
        objects::api_endpoints(&client, &[node_ip], address.port()).await.map_err(ServerError::Bootstrap)?;
    }
    tasks.extend(start_loops(config, &api, &facts, clock, random, &leading, &shutdown));
    Ok(Server { api, client, address, tasks, shutdown, storage, spans, _leadership: leadership })
}

/// Admission as the configuration wants it.
fn admission(config: &Config, random: &Arc<dyn Random>) -> Result<Vec<Box<dyn Admission>>, ServerError> {
    let settings = match &config.admission_config {
        None => Settings::default(),
        Some(path) => {
            let wrong =
                |why: String| ServerError::Api(format!("admission-control-config-file {}: {why}", path.display()));
            let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
            let dir = path.parent().unwrap_or(Path::new("/"));
            let text = read(path).map_err(wrong)?;
            Settings::parse(&text, &|name| read(&dir.join(name))).map_err(wrong)?
        }
    };
    apiserver::admission::plugins(random.clone(), &config.admission_plugins, settings).map_err(ServerError::Api)
}

/// The server's issuer, as controllers use it.
struct SecretTokens(Arc<Tokens>);

impl fmt::Debug for SecretTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretTokens") // Its key is nobody's to read.
    }
}

impl TokenMaker for SecretTokens {
    fn token(&self, account: &ServiceAccount, secret: &Secret) -> Result<String, String> {
        self.0.for_secret(account, secret).map_err(|status| status.message)
    }
}

/// Servers of one cluster have one CA: clients of the one are clients of the other, and nodes trust both.
async fn same_cluster(client: &Client, authority: &Authority) -> Result<(), ServerError> {
    let published = client.api::<ConfigMap>().find("kube-system", "extension-apiserver-authentication").await;
    let Some(published) = published.map_err(ServerError::Bootstrap)? else { return Ok(()) };
    let known = published.data.unwrap_or_default().remove("client-ca-file").unwrap_or_default();
    if known.contains(authority.ca_pem().trim()) {
        return Ok(());
    }
    Err(ServerError::Api(
        "the objects in etcd are a cluster's with another CA; copy pki/ of the data directory from its first server"
            .into(),
    ))
}

/// Which loops may act.
struct Leading {
    controllers: watch::Receiver<bool>,
    scheduler: watch::Receiver<bool>,
}

/// Several servers: one of them runs the controllers, one the scheduler, by upstream's leases. Where a program of upstream does that
/// work, the lease is its own; what is left of ours runs `always`.
fn campaign(
    config: &Config,
    api: &ApiServer,
    clock: &Arc<dyn Clock>,
    random: &dyn Random,
    always: &watch::Receiver<bool>,
    shutdown: &CancellationToken,
) -> Leading {
    let identity = format!("{}_{:016x}", config.node_name, random.next_u64());
    let elect = |name: &str, wanted: bool| {
        if !wanted {
            return always.clone();
        }
        let user = format!("system:{name}");
        let client = Client::new(LocalTransport::new(api, &user, &["system:authenticated"]), name);
        let lease = LeaseConfig {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.clone(),
            duration: Duration::from_secs(15),
            retry: Duration::from_secs(2),
        };
        LeaderElection::start(&client, lease, clock.clone(), shutdown.clone()).subscribe()
    };
    Leading {
        controllers: elect("kube-controller-manager", config.controllers),
        scheduler: elect("kube-scheduler", config.scheduler),
    }
}

/// Who a controller is to the API server, and its groups.
fn identity(runner: &controllers::Runner) -> (String, &'static [&'static str]) {
    if runner.of_api_server {
        return ("system:apiserver".into(), &["system:masters"]);
    }
    let groups = &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    (format!("system:serviceaccount:kube-system:{}", runner.account), groups)
}

/// Controllers, each as its own service account, and the scheduler, as far as they are wanted. All read through one set of caches.
fn start_loops(
    config: &Config,
    api: &ApiServer,
    facts: &Arc<Facts>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    leading: &Leading,
    shutdown: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let reader = LocalTransport::new(api, "system:kube-controller-manager", &["system:masters"]);
    let shared = Client::new(reader, "dhow-controllers");
    let mut tasks: Vec<JoinHandle<()>> = controllers::all()
        .iter()
        .filter(|runner| config.controllers || runner.of_api_server)
        .map(|runner| {
            let (user, groups) = identity(runner);
            let client = shared.acting(LocalTransport::new(api, &user, groups), runner.name);
            runner.start(client, facts, &clock, leading.controllers.clone(), shutdown)
        })
        .collect();
    if !config.scheduler {
        return tasks;
    }
    let client =
        shared.acting(LocalTransport::new(api, "system:kube-scheduler", &["system:authenticated"]), "kube-scheduler");
    let metrics = SchedulerMetrics::default();
    metrics.collectors().into_iter().for_each(|collector| api.register_metrics(collector));
    let deps = scheduler::run::Deps { client, clock, random, metrics };
    let run = scheduler::run::run(deps, leading.scheduler.clone(), shutdown.clone());
    tasks.push(base::tasks::spawn("scheduler", run));
    tasks
}

/// Renews the serving certificate while we run; connections that are open keep the old one.
async fn renew(authority: Arc<Authority>, leaf: Leaf, tls: Arc<Tls>, api: ApiServer, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RENEWAL_CHECK) => {}
        }
        match front_proxy(&authority) {
            Ok(proxy) => api.set_front_proxy(proxy),
            Err(error) => {
                tracing::error!(error = %base::chain(&error), "failed to renew the front proxy's certificate")
            }
        }
        match api_material(&authority, &leaf).map(|m| tls.reload(m)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %base::chain(&error), "failed to use the renewed certificate"),
            Err(error) => tracing::error!(error = %base::chain(&error), "failed to renew the serving certificate"),
        }
    }
}

impl Server {
    /// Ends watches, answers what is in flight, stops all loops.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.api.begin_shutdown();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task failed");
            }
        }
        if let Some(spans) = self.spans {
            spans.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use apiserver::auth::bootstrap::{DefaultObject, default_objects};

    /// Who has no role can do nothing, and says so only in the log.
    #[test]
    fn every_controller_has_a_role() {
        let bound: Vec<String> = default_objects()
            .into_iter()
            .filter_map(|object| match object {
                DefaultObject::ClusterRoleBinding(binding) => binding.subjects,
                DefaultObject::RoleBinding(binding) => binding.subjects,
                DefaultObject::ClusterRole(_) | DefaultObject::Role(_) => None,
            })
            .flatten()
            .map(|subject| subject.name)
            .collect();
        for runner in controllers::all() {
            let has_role = runner.of_api_server || bound.iter().any(|name| name == runner.account);
            assert!(has_role, "{} acts as {}, which may do nothing", runner.name, runner.account);
        }
    }
}
