//! Exec, attach and port-forward: a call answers an address, and whoever asks there gets the streams.
//!
//! The addresses are on the loopback interface, hold 128 bits that nobody can guess, and are good once, within a minute; at most a
//! thousand of them wait (`k8s.io/cri-streaming/pkg/streaming/request_cache.go`). A kubelet leads its clients there.

use crate::{Server, Shared, error};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use node_api::cri::{AttachRequest, ExecRequest};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use streaming::answer::Body;
use streaming::port_forward::{self, Dial, PodRef};
use streaming::remote::{self, What};
use streaming::{Refusal, Session, SessionError, StreamRequest, Wanted};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Status;

/// How long an address is good.
const LIFE: Duration = Duration::from_secs(60);
/// How many may wait.
const MAX_WAITING: usize = 1000;
/// Connections at once; who comes then waits.
const MAX_CONNECTIONS: usize = 4_000;
/// Longer than anybody waits.
const EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What an address stands for.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Remote { what: What, container: String, wanted: Wanted, command: Vec<String> },
    PortForward { sandbox: String },
}

impl Asked {
    fn path(&self) -> &'static str {
        match self {
            Asked::Remote { what: What::Exec, .. } => "exec",
            Asked::Remote { what: What::Attach, .. } => "attach",
            Asked::PortForward { .. } => "portforward",
        }
    }
}

/// Addresses that wait for somebody.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    base: Mutex<Option<SocketAddr>>,
    waiting: Mutex<HashMap<String, (Instant, Asked)>>,
}

impl Addresses {
    fn put(&self, token: String, asked: Asked, now: Instant) -> Result<String, Status> {
        let base = (*self.base.lock()).ok_or_else(|| Status::unavailable("the streaming server does not run"))?;
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (since, _)| now.duration_since(*since) < LIFE);
        if waiting.len() >= MAX_WAITING {
            return Err(Status::resource_exhausted("maximum number of in-flight requests exceeded"));
        }
        let url = format!("http://{base}/{}/{token}", asked.path());
        waiting.insert(token, (now, asked));
        Ok(url)
    }

    fn take(&self, path: &str, now: Instant) -> Option<Asked> {
        let (kind, token) = path.trim_start_matches('/').split_once('/')?;
        let (since, asked) = self.waiting.lock().remove(token)?;
        (asked.path() == kind && now.duration_since(since) < LIFE).then_some(asked)
    }
}

/// Which streams; a terminal has one output only (`validateExecRequest`).
fn wanted(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<Wanted, Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    if !stdin && !stdout && !stderr {
        return Err(Status::invalid_argument("one of stdin, stdout, or stderr must be set"));
    }
    Ok(Wanted { stdin, stdout, stderr, tty })
}

impl Shared {
    fn address(&self, asked: Asked) -> Result<String, Status> {
        let mut bytes = [0u8; 16];
        self.random.fill(&mut bytes);
        let token = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.addresses.put(token, asked, Instant::now())
    }

    pub(crate) fn exec_address(&self, request: ExecRequest) -> Result<String, Status> {
        let wanted = wanted(request.stdin, request.stdout, request.stderr, request.tty)?;
        let container = self.running(&request.container_id)?.id.clone();
        self.address(Asked::Remote { what: What::Exec, container, wanted, command: request.cmd })
    }

    pub(crate) fn attach_address(&self, request: &AttachRequest) -> Result<String, Status> {
        let wanted = wanted(request.stdin, request.stdout, request.stderr, request.tty)?;
        let container = self.running(&request.container_id)?.id.clone();
        self.address(Asked::Remote { what: What::Attach, container, wanted, command: Vec::new() })
    }

    pub(crate) fn port_forward_address(&self, sandbox: &str) -> Result<String, Status> {
        let record = self.state.sandbox(sandbox)?;
        self.state.pod(&record.id)?;
        self.address(Asked::PortForward { sandbox: record.id.clone() })
    }

    async fn open(
        self: Arc<Self>,
        what: What,
        container: String,
        request: StreamRequest,
    ) -> Result<Session, SessionError> {
        let record = self.running(&container)?;
        let pod = self.state.pod(&record.sandbox)?;
        let opened = match what {
            What::Exec => streaming::session::exec(&self.engine, &pod, &container, request).await,
            What::Attach => {
                let (shared, id) = (self.clone(), container.clone());
                let ended = Box::pin(async move {
                    shared.state.ended(&id, EVER).await;
                    shared.state.container(&id).ok().map(|c| c.exit_code)
                });
                streaming::session::attach(&self.engine, &pod, &container, &request, ended).await
            }
        };
        Ok(opened?)
    }

    async fn dial(self: Arc<Self>, sandbox: String, port: u16) -> Result<port_forward::Dialed, SessionError> {
        let netns = self.engine.netns(&self.state.pod(&sandbox)?).await.map_err(error::engine)?;
        port_forward::connect(netns, port).await
    }

    /// Answers one request for streams.
    fn answer(self: Arc<Self>, mut request: http::Request<Incoming>) -> Result<http::Response<Body>, Refusal> {
        let shutdown = self.shutdown.clone();
        let asked = self.addresses.take(request.uri().path(), Instant::now());
        let asked = asked.ok_or_else(|| Refusal::new(404, "404 page not found\n"))?;
        let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
        match asked {
            Asked::Remote { what, container, wanted, command } => {
                let (protocol, response) = remote::handshake(request.headers())?;
                streaming::upgraded(upgrade, response, shutdown, move |io| {
                    remote::serve(io, protocol, what, wanted, command, move |request| {
                        self.open(what, container, request)
                    })
                })
            }
            Asked::PortForward { sandbox } => {
                let query = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
                let ports: Vec<_> = query.filter(|(n, _)| n == "port").map(|(_, v)| v.into_owned()).collect();
                let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
                let (carrier, response) = port_forward::handshake(request.headers(), &ports)?;
                let name = sandbox.clone();
                let dial: Dial = Arc::new(move |port| Box::pin(self.clone().dial(sandbox.clone(), port)));
                let pod = PodRef { dial, name };
                streaming::upgraded(upgrade, response, shutdown, move |io| port_forward::serve(io, carrier, pod))
            }
        }
    }
}

impl Server {
    /// Serves streams on a port of the loopback interface until we end.
    pub(crate) async fn serve_streams(&self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        *self.0.addresses.base.lock() = Some(listener.local_addr()?);
        let shared = self.0.clone();
        base::tasks::detach("cri-streams", async move {
            let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let ((socket, _), slot) = tokio::select! {
                    accepted = base::accept::next(&slots, || listener.accept()) => accepted,
                    () = shared.shutdown.cancelled() => return,
                };
                let conversation = converse(shared.clone(), socket);
                base::tasks::detach("cri-stream", async move {
                    conversation.await;
                    drop(slot);
                });
            }
        });
        Ok(())
    }
}

async fn converse(shared: Arc<Shared>, socket: TcpStream) {
    let service = service_fn(|request| {
        let answered = shared.clone().answer(request).unwrap_or_else(Refusal::response);
        async move { Ok::<_, Infallible>(answered) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(LIFE)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a client that wanted streams went away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_good_once_and_not_for_ever() {
        let addresses = Addresses::default();
        let asked = || Asked::PortForward { sandbox: "s".into() };
        let now = Instant::now();
        assert_eq!(
            addresses.put("t".into(), asked(), now).expect_err("nobody listens").code(),
            tonic::Code::Unavailable
        );
        *addresses.base.lock() = Some(SocketAddr::from(([127, 0, 0, 1], 7)));
        let url = addresses.put("t".into(), asked(), now).expect("put");
        assert_eq!(url, "http://127.0.0.1:7/portforward/t");
        assert_eq!(addresses.take("/portforward/u", now), None);
        assert_eq!(addresses.take("/portforward/t", now), Some(asked()));
        assert_eq!(addresses.take("/portforward/t", now), None);
        addresses.put("t".into(), asked(), now).expect("put");
        assert_eq!(addresses.take("/portforward/t", now + LIFE), None);
        for n in 0..MAX_WAITING {
            addresses.put(n.to_string(), asked(), now).expect("put");
        }
        let full = addresses.put("more".into(), asked(), now).expect_err("too many");
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
        addresses.put("later".into(), asked(), now + LIFE).expect("the others are forgotten");
    }

    #[test]
    fn streams_that_contradict_each_other() {
        assert!(wanted(false, true, true, true).is_err());
        assert!(wanted(true, false, false, true).is_ok());
        assert!(wanted(false, false, false, true).is_err());
    }
}
