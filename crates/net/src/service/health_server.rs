//! [`HealthServer`]: answers load balancers over HTTP, on a port per Service and on one for the node.

use super::apply::ServiceProxy;
use super::health::{Answer, HealthCheck, HealthChecks, ServiceName, proxy_answer, service_answer};
use base::Clock;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Where kube-proxy answers `/healthz` and `/livez` by default.
pub const PROXY_HEALTH_PORT: u16 = 10256;
/// Who connects and asks nothing, is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Open connections of one port; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Until another try to listen on a Service's port.
const SERVICE_RETRY: Duration = Duration::from_secs(30);
/// Until another try to listen on the node's.
const NODE_RETRY: Duration = Duration::from_secs(5);

/// Is told of a Service's port that could not be listened on.
pub type OnFailure = dyn Fn(&ServiceName, u16, &io::Error) + Send + Sync;

/// Serves what [`ServiceProxy`] knows. Everybody may ask: there is nothing in it but numbers.
pub struct HealthServer {
    proxy: Arc<ServiceProxy>,
    clock: Arc<dyn Clock>,
    on_failure: Box<OnFailure>,
}

/// A port that is listened on.
struct Open {
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Open {
    fn new(port: u16, listener: TcpListener, answer: Arc<Answerer>, cancel: &CancellationToken) -> Open {
        let stop = cancel.child_token();
        Open { port, task: base::tasks::spawn("health-check", serve(listener, answer, stop.clone())), stop }
    }

    /// When this returns, another may listen there.
    async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, port = self.port, "a health check failed");
        }
    }
}

/// Makes the answer to a path.
type Answerer = dyn Fn(&str) -> Answer + Send + Sync;

impl HealthServer {
    /// Nothing is listened on yet.
    pub fn new(proxy: Arc<ServiceProxy>, clock: Arc<dyn Clock>, on_failure: Box<OnFailure>) -> Arc<Self> {
        Arc::new(HealthServer { proxy, clock, on_failure })
    }

    /// Listens on the Services' ports as they come and go, until cancelled.
    pub async fn services(self: Arc<Self>, cancel: CancellationToken) {
        let mut checks = self.proxy.health_checks();
        let mut open: BTreeMap<ServiceName, Open> = BTreeMap::new();
        loop {
            let wanted = checks.borrow_and_update().clone();
            let all_open = self.adjust(&wanted, &mut open, &cancel).await;
            let retry = async {
                match all_open {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(SERVICE_RETRY).await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = checks.changed() => if changed.is_err() { break },
                () = retry => {}
            }
        }
        for (_, one) in open {
            one.close().await;
        }
    }

    /// Closes what is no longer wanted, then opens what is; returns whether all is open.
    async fn adjust(
        self: &Arc<Self>,
        wanted: &HealthChecks,
        open: &mut BTreeMap<ServiceName, Open>,
        cancel: &CancellationToken,
    ) -> bool {
        let stale = |(service, one): &(&ServiceName, &mut Open)| wanted.get(service).is_none_or(|c| c.port != one.port);
        let gone: Vec<ServiceName> = open.iter_mut().filter(stale).map(|(service, _)| service.clone()).collect();
        for service in gone {
            if let Some(one) = open.remove(&service) {
                one.close().await;
            }
        }
        let mut all_open = true;
        for (service, HealthCheck { port, .. }) in wanted {
            if open.contains_key(service) {
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await {
                Ok(listener) => {
                    let answer = self.clone().of_service(service.clone());
                    open.insert(service.clone(), Open::new(*port, listener, answer, cancel));
                }
                Err(error) => {
                    tracing::error!(%service, port, %error, "failed to listen for a Service's health check");
                    (self.on_failure)(service, *port, &error);
                    all_open = false;
                }
            }
        }
        all_open
    }

    fn of_service(self: Arc<Self>, service: ServiceName) -> Arc<Answerer> {
        let checks = self.proxy.health_checks();
        Arc::new(move |_| {
            let local_endpoints = checks.borrow().get(&service).map_or(0, |c| c.local_endpoints);
            service_answer(&service, local_endpoints, self.proxy.health().healthy)
        })
    }

    /// Answers `/healthz` and `/livez` on `port`, until cancelled. While somebody else has the port, it is waited for.
    pub async fn node(self: Arc<Self>, port: u16, cancel: CancellationToken) {
        let mut complained = false;
        let listener = loop {
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(listener) => break listener,
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(port, %error, "failed to listen for health checks of the node; trying on");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(NODE_RETRY) => {}
            }
        };
        let answer = move |path: &str| {
            let (health, eligible) = (self.proxy.health(), self.proxy.node_eligible());
            proxy_answer(path, health, eligible, &self.proxy.family_names(), self.clock.now())
        };
        serve(listener, Arc::new(answer), cancel).await;
    }
}

/// Accepts connections until `stop`, which ends those that are open, too.
async fn serve(listener: TcpListener, answer: Arc<Answerer>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let ((stream, _), slot) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = base::accept::next(&slots, || listener.accept()) => accepted,
        };
        let (answer, stop) = (answer.clone(), stop.clone());
        base::tasks::detach("health-check-connection", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, answer) => {}
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, answer: Arc<Answerer>) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answer(request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a health check's connection ended");
    }
}
