//! Paths to handlers, and answers as HTTP. Parsing a path is pure ([`Route::parse`]).
//!
//! Refusals are plain text, as the kubelet's are (`go-restful`'s `WriteErrorString`): the API server makes a Status of them.

use super::NodeApi;
use super::auth::{self, User};
use super::log_query::{self, LogWanted};
use super::logs::{self, LogOptions};
use super::node_logs;
use super::process;
use super::relay::{self, Asked};
use super::seams::Place;
use crate::agent::LookupError;
use crate::engine::StreamRequest;
use crate::stats::{Also, prometheus, summary};
use api::Codec;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use machinery::zpages::{self, Page};
use std::sync::Arc;
use streaming::answer::{Body, of_type, text};
use streaming::port_forward::{self, Dial, PodRef};
use streaming::remote::{self, What};
use streaming::{Refusal, Wanted};
use tokio_util::sync::CancellationToken;
use url::Url;

/// A pod or container in a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct At {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
}

/// Which metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metrics {
    Own,
    Slis,
    Resource,
    Cadvisor,
    Probes,
}

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    /// All checks, or the one of this name.
    Healthz(String),
    Pods,
    RunningPods,
    Checkpoint(At),
    Statusz,
    Flagz,
    Logs(At),
    Exec(At),
    Attach(At),
    Run(At),
    PortForward(At),
    Summary,
    Metrics(Metrics),
    Configz,
    /// A path below the node's log directory.
    NodeLogs(String),
    /// The kubelet has it, we do not.
    Unsupported(&'static str),
    MethodNotAllowed,
    NotFound,
}

impl Route {
    fn parse(method: &Method, path: &str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let at = |namespace: &str, pod: &str, uid: &str, container: &str| At {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: uid.into(),
            container: container.into(),
        };
        let (get, post) = (method == Method::GET, method == Method::POST);
        let when = |allowed: bool, route: Route| if allowed { route } else { Route::MethodNotAllowed };
        match parts.as_slice() {
            ["healthz", one @ ..] => when(get, Route::Healthz(one.join("/"))),
            ["pods"] => when(get, Route::Pods),
            ["runningpods"] => when(get, Route::RunningPods),
            ["checkpoint", n, p, c] => when(post, Route::Checkpoint(at(n, p, "", c))),
            ["statusz"] => when(get, Route::Statusz),
            ["flagz"] => when(get, Route::Flagz),
            ["containerLogs", n, p, c] => when(get, Route::Logs(at(n, p, "", c))),
            ["exec", n, p, c] => when(get || post, Route::Exec(at(n, p, "", c))),
            ["exec", n, p, u, c] => when(get || post, Route::Exec(at(n, p, u, c))),
            ["attach", n, p, c] => when(get || post, Route::Attach(at(n, p, "", c))),
            ["attach", n, p, u, c] => when(get || post, Route::Attach(at(n, p, u, c))),
            ["run", n, p, c] => when(post, Route::Run(at(n, p, "", c))),
            ["run", n, p, u, c] => when(post, Route::Run(at(n, p, u, c))),
            ["portForward", n, p] => when(get || post, Route::PortForward(at(n, p, "", ""))),
            ["portForward", n, p, u] => when(get || post, Route::PortForward(at(n, p, u, ""))),
            ["stats", "summary"] => when(get || post, Route::Summary),
            ["stats", ..] => Route::NotFound,
            ["metrics"] => when(get, Route::Metrics(Metrics::Own)),
            ["metrics", "resource"] => when(get, Route::Metrics(Metrics::Resource)),
            ["metrics", "cadvisor"] => when(get, Route::Metrics(Metrics::Cadvisor)),
            ["metrics", "slis"] => when(get, Route::Metrics(Metrics::Slis)),
            ["metrics", "probes"] => when(get, Route::Metrics(Metrics::Probes)),
            ["logs", rest @ ..] => when(get, Route::NodeLogs(rest.join("/"))),
            ["configz"] => when(get, Route::Configz),
            // Go's own.
            ["debug", "pprof", ..] => Route::Unsupported("debug/pprof"),
            ["debug", "flags", "v"] => Route::Unsupported("debug/flags/v"),
            _ => Route::NotFound,
        }
    }
}

/// Answers one request; never fails.
pub(super) async fn answer(
    server: &NodeApi,
    certificate: Option<&User>,
    request: Request<Incoming>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let route = Route::parse(&head.method, path);
    if let Err(refused) = auth::admit(server, certificate, &head.method, path, &head.headers).await {
        return refused.response();
    }
    // No request has a body that matters; hyper reads what comes.
    drop(body);
    let call = Call {
        server,
        method: &head.method,
        headers: &head.headers,
        query: url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect(),
        upgrade: head.extensions.get::<OnUpgrade>().cloned(),
        shutdown,
    };
    let answered = match route {
        Route::Healthz(one) => Ok(call.health(&one)),
        Route::Pods => Ok(pod_list(server.pods.all().iter().map(|pod| pod.encode()))),
        Route::RunningPods => Ok(pod_list(server.pods.running().iter().map(Codec::encode))),
        Route::Checkpoint(at) => call.checkpoint(&at).await,
        Route::Statusz => {
            call.page(&zpages::status(&server.process.process, process::PATHS.into_iter(), server.clock.now()))
        }
        Route::Flagz => call.page(&zpages::flags(server.process.process.component, &server.process.flags)),
        Route::Logs(at) => call.logs(&at).await,
        Route::Exec(at) => call.remote(What::Exec, at).await,
        Route::Attach(at) => call.remote(What::Attach, at).await,
        Route::Run(at) => call.run(&at).await,
        Route::PortForward(at) => call.port_forward(at).await,
        Route::Summary => call.summary().await,
        Route::Metrics(which) => call.metrics(which).await,
        Route::Configz => Ok(json(&server.numbers.settings())),
        Route::NodeLogs(path) => call.node_logs(&path).await,
        Route::Unsupported(what) => Ok(text(501, format!("{what} is not supported by dhow\n"))),
        Route::MethodNotAllowed => Ok(text(405, "405: Method Not Allowed")),
        Route::NotFound => Ok(text(404, "404 page not found\n")),
    };
    answered.unwrap_or_else(Refusal::response)
}

struct Call<'a> {
    server: &'a NodeApi,
    method: &'a Method,
    headers: &'a HeaderMap,
    query: Vec<(String, String)>,
    upgrade: Option<OnUpgrade>,
    shutdown: CancellationToken,
}

impl Call<'_> {
    fn health(&self, one: &str) -> Response<Body> {
        let pods = self.server.numbers.fault().map_or(Ok(()), Err);
        self.server.process.health(pods, one, &self.query)
    }

    fn page(&self, page: &Page) -> Result<Response<Body>, Refusal> {
        let pretty = self.query.iter().any(|(n, v)| n == "pretty" && (v == "true" || v == "1"));
        process::page(page, self.headers, pretty, self.server.random.next_u64())
    }

    async fn checkpoint(&self, at: &At) -> Result<Response<Body>, Refusal> {
        let At { namespace, pod, container, .. } = at;
        let failed = |why: &dyn std::fmt::Display| {
            Refusal::new(500, format!("checkpointing of {namespace}/{pod}/{container} failed ({why})"))
        };
        let target = match self.server.pods.container(namespace, pod, "", container) {
            Err(LookupError::NoPod(_)) => return Err(not_found("pod does not exist".into())),
            Err(LookupError::NoContainer { .. }) => {
                return Err(not_found(format!("container {container} does not exist")));
            }
            other => other,
        };
        let timeout = self.query.iter().rfind(|(n, _)| n == "timeout").map_or(Ok(0), |(_, v)| v.parse());
        let timeout = timeout.map_err(|_| not_found("cannot parse value of timeout parameter".into()))?;
        let target = target.map_err(|_| failed(&format!("container {container} not found")))?;
        let now = self.server.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let file = format!("checkpoint-{pod}_{namespace}-{container}-{now}.tar");
        let path = self.server.pods.checkpoint(&target, &file, timeout).await;
        let path = path.map_err(|e| failed(&base::chain(&e)))?;
        Ok(json(&serde_json::json!({"items": [path]})))
    }

    async fn summary(&self) -> Result<Response<Body>, Refusal> {
        let only_cpu = self.query.iter().any(|(n, v)| n == "only_cpu_and_memory" && v == "true");
        let also = if only_cpu { Also::Nothing } else { Also::Disks };
        let sample = self.server.numbers.collect(also).await;
        Ok(json(&summary::summary(&sample.map_err(|e| unreadable(&e))?)))
    }

    async fn metrics(&self, which: Metrics) -> Result<Response<Body>, Refusal> {
        let numbers = &self.server.numbers;
        let body = match which {
            Metrics::Own => numbers.own().await,
            Metrics::Slis => self.server.process.slis(),
            Metrics::Resource => {
                prometheus::resource(&numbers.collect(Also::Nothing).await.map_err(|e| unreadable(&e))?)
            }
            Metrics::Probes => numbers.probes(),
            Metrics::Cadvisor => {
                prometheus::cadvisor(&numbers.collect(Also::Processes).await.map_err(|e| unreadable(&e))?)
            }
        };
        Ok(of_type(200, "text/plain; version=0.0.4; charset=utf-8", body))
    }

    async fn node_logs(&self, path: &str) -> Result<Response<Body>, Refusal> {
        let dir = self.server.numbers.log_dir();
        match log_query::resolve(&self.query, path)? {
            LogWanted::Path => node_logs::answer(&dir, path).await,
            LogWanted::File(file) => node_logs::answer(&dir, &file).await,
            LogWanted::Services(services) => node_logs::of_services(&dir, &services).await,
            LogWanted::NoOptions(answer) => Ok(text(200, answer)),
        }
    }

    async fn logs(&self, at: &At) -> Result<Response<Body>, Refusal> {
        let options = LogOptions::parse(&self.query, self.server.clock.now())?;
        let source = self.server.pods.log(&at.namespace, &at.pod, &at.container, options.previous);
        let source = source.map_err(|e| match e {
            LookupError::NoPod(_) => not_found(format!("pod {:?} does not exist", at.pod)),
            LookupError::NoContainer { .. } => {
                not_found(format!("container {:?} not found in pod {:?}", at.container, at.pod))
            }
            LookupError::NotRunning(_) | LookupError::NoLog(_) => Refusal::new(400, e.to_string()),
        })?;
        let body = logs::body(source, options, self.shutdown.clone()).await;
        let mut response = Response::new(body.map_err(|e| Refusal::new(400, base::chain(&e).to_string()))?);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    /// Gives the client's connection to whoever serves such streams itself.
    async fn relay(self, to: &Url) -> Result<Response<Body>, Refusal> {
        let asked = Asked { method: self.method, headers: self.headers, upgrade: self.upgrade };
        relay::relay(asked, to, self.shutdown).await
    }

    async fn remote(self, what: What, at: At) -> Result<Response<Body>, Refusal> {
        let wanted = Wanted::parse(&self.query)?;
        let pods = self.server.pods.clone();
        let target = pods.container(&at.namespace, &at.pod, &at.uid, &at.container).map_err(|e| no_target(&e))?;
        let command: Vec<String> = self.query.iter().filter(|(n, _)| n == "command").map(|(_, v)| v.clone()).collect();
        if what == What::Exec && command.is_empty() {
            return Err(Refusal::new(400, "you must specify a command"));
        }
        let Wanted { tty, stdin, stdout, stderr } = wanted;
        let request = StreamRequest { command: command.clone(), tty, stdin, stdout, stderr };
        let place = match what {
            What::Exec => Place::Exec(&target, &request),
            What::Attach => Place::Attach(&target, &request),
        };
        if let Some(to) = pods.streams_at(&place).await.map_err(|e| Refusal::new(500, e.to_string()))? {
            return self.relay(&to).await;
        }
        let (protocol, response) = remote::handshake(self.headers)?;
        streaming::upgraded(self.upgrade, response, self.shutdown, move |io| {
            remote::serve(io, protocol, what, wanted, command, async move |request| match what {
                What::Exec => pods.exec(&target, request).await,
                What::Attach => pods.attach(&target, request).await,
            })
        })
    }

    async fn run(&self, at: &At) -> Result<Response<Body>, Refusal> {
        let pods = &self.server.pods;
        let target = pods.container(&at.namespace, &at.pod, &at.uid, &at.container).map_err(|e| no_target(&e))?;
        let command = self.query.iter().find(|(n, _)| n == "cmd").map_or("", |(_, v)| v.as_str());
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let request = StreamRequest { command, stdout: true, stderr: true, ..StreamRequest::default() };
        let session = pods.exec(&target, request).await.map_err(|e| Refusal::new(500, e.to_string()))?;
        Ok(text(200, remote::run_to_end(session).await?))
    }

    async fn port_forward(self, at: At) -> Result<Response<Body>, Refusal> {
        let pods = self.server.pods.clone();
        pods.find(&at.namespace, &at.pod, &at.uid).map_err(|e| no_target(&e))?;
        let place = Place::PortForward(&at.namespace, &at.pod, &at.uid);
        if let Some(to) = pods.streams_at(&place).await.map_err(|e| Refusal::new(500, e.to_string()))? {
            return self.relay(&to).await;
        }
        let ports: Vec<&str> = self.query.iter().filter(|(n, _)| n == "port").map(|(_, v)| v.as_str()).collect();
        let (carrier, response) = port_forward::handshake(self.headers, &ports)?;
        let name = format!("{}, uid {}", at.pod, at.uid);
        let dial: Dial = Arc::new(move |port| {
            let (pods, at) = (pods.clone(), at.clone());
            Box::pin(async move { Ok(pods.dial(&at.namespace, &at.pod, &at.uid, port).await?) })
        });
        let pod = PodRef { dial, name };
        streaming::upgraded(self.upgrade, response, self.shutdown, move |io| port_forward::serve(io, carrier, pod))
    }
}

/// A list of pods that are JSON already.
fn pod_list(pods: impl Iterator<Item = Vec<u8>>) -> Response<Body> {
    let mut json = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (i, pod) in pods.enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend(pod);
    }
    json.extend(b"]}");
    of_type(200, "application/json", json)
}

fn json(value: &serde_json::Value) -> Response<Body> {
    of_type(200, "application/json", value.to_string())
}

fn unreadable(error: &std::io::Error) -> Refusal {
    Refusal::new(500, format!("failed to read what this node uses: {error}"))
}

fn not_found(text: String) -> Refusal {
    Refusal::new(404, text)
}

/// Upstream answers 500 for containers that cannot be talked to (`streaming.WriteError`).
fn no_target(error: &LookupError) -> Refusal {
    match error {
        LookupError::NoPod(_) => not_found("pod does not exist".into()),
        other => Refusal::new(500, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(namespace: &str, pod: &str, uid: &str, container: &str) -> At {
        At { namespace: namespace.into(), pod: pod.into(), uid: uid.into(), container: container.into() }
    }

    #[test]
    fn paths() {
        let get = |path| Route::parse(&Method::GET, path);
        assert_eq!(get("/healthz/ping"), Route::Healthz("ping".into()));
        assert_eq!(get("/pods/"), Route::Pods);
        assert_eq!(get("/containerLogs/a/b/c"), Route::Logs(at("a", "b", "", "c")));
        assert_eq!(get("/exec/a/b/u/c"), Route::Exec(at("a", "b", "u", "c")));
        assert_eq!(get("/portForward/a/b"), Route::PortForward(at("a", "b", "", "")));
        assert_eq!(get("/run/a/b/c"), Route::MethodNotAllowed);
        assert_eq!(get("/metrics/cadvisor"), Route::Metrics(Metrics::Cadvisor));
        assert_eq!(get("/logs/pods/x"), Route::NodeLogs("pods/x".into()));
        assert_eq!(get("/logs/"), Route::NodeLogs(String::new()));
        assert_eq!(get("/exec/a"), Route::NotFound);
        assert_eq!(Route::parse(&Method::DELETE, "/exec/a/b/c"), Route::MethodNotAllowed);
    }
}
