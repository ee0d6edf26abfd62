//! Probes and lifecycle hooks: asked once here; when to ask and what follows is the plan's ([`crate::pod::plan`]).
//!
//! Follows `pkg/kubelet/prober/prober.go`, `pkg/probe/*` and `lifecycle/handlers.go`. Connects from the node to the pod's
//! address. Failure texts are Go's where users see them in events.

mod grpc;
mod http;

pub use http::{HttpAnswer, HttpTarget};

use crate::engine::{Engine, EngineError};
use crate::pod::plan::go_duration;
use crate::pod::spec::expand;
use crate::pod::view;
use api::k8s::api::core::v1::{Container, LifecycleHandler, Probe};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// What a probe said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// Well, but somebody should look (a redirect elsewhere).
    Warning(String),
    /// Not well, and why.
    Failure(String),
    /// It could not be asked; the result does not count.
    Error(String),
}

/// Whom to ask.
pub struct Target<'a> {
    /// Runs commands in the container.
    pub engine: &'a dyn Engine,
    /// Its sandbox.
    pub sandbox: &'a str,
    /// The run's id.
    pub id: &'a str,
    /// Its spec.
    pub container: &'a Container,
    /// The pod's address.
    pub pod_ip: Option<IpAddr>,
}

/// Outputs and bodies are read up to here (`maxReadLength`, `maxRespBodyLength`).
const OUTPUT_MAX_BYTES: usize = 10 * 1024;

/// Asks once.
pub async fn probe(target: &Target<'_>, spec: &Probe) -> Outcome {
    let timeout = view::seconds(spec.timeout_seconds, 1).max(Duration::from_secs(1));
    if let Some(exec) = &spec.exec {
        let lookup = |name: &str| {
            let var = target.container.env.iter().flatten().find(|e| e.name == name)?;
            Some(var.value.clone().unwrap_or_default())
        };
        let command: Vec<String> = exec.command.iter().flatten().map(|a| expand::expand(a, lookup)).collect();
        return exec_probe(target, &command, timeout).await;
    }
    if let Some(get) = &spec.http_get {
        return match http::target(get, target.container, target.pod_ip, "probe") {
            Ok(request) => http_probe(&request, timeout).await,
            Err(why) => Outcome::Error(why),
        };
    }
    if let Some(tcp) = &spec.tcp_socket {
        let host = tcp.host.clone().filter(|h| !h.is_empty());
        return match (port(&tcp.port, target.container), host.or_else(|| target.pod_ip.map(|ip| ip.to_string()))) {
            (Ok(port), Some(host)) => match tokio::time::timeout(timeout, connect(&host, port)).await {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(e)) => Outcome::Failure(e),
                Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", join(&host, port))),
            },
            (Err(why), _) => Outcome::Error(why),
            (_, None) => Outcome::Error("the pod has no address yet".into()),
        };
    }
    match (&spec.grpc, target.pod_ip) {
        (Some(grpc), Some(ip)) => {
            let service = grpc.service.clone().unwrap_or_default();
            match u16::try_from(grpc.port) {
                Ok(port) => grpc::check(ip, port, &service, timeout).await,
                Err(_) => Outcome::Error(format!("invalid port number: {}", grpc.port)),
            }
        }
        (Some(_), None) => Outcome::Error("the pod has no address yet".into()),
        (None, _) => Outcome::Error(format!("missing probe handler for {}", target.container.name)),
    }
}

async fn exec_probe(target: &Target<'_>, command: &[String], timeout: Duration) -> Outcome {
    match target.engine.exec(target.sandbox, target.id, command, Some(timeout)).await {
        Ok(output) if output.code == 0 => Outcome::Success,
        Ok(output) => {
            let cut = output.output.len().min(OUTPUT_MAX_BYTES);
            Outcome::Failure(String::from_utf8_lossy(&output.output[..cut]).into_owned())
        }
        Err(EngineError::Timeout(_)) => {
            let text = command.join(" ");
            Outcome::Failure(format!("command timed out: \"{text}\" timed out after {}", go_duration(timeout)))
        }
        Err(e) => Outcome::Error(base::chain(&e)),
    }
}

async fn http_probe(request: &HttpTarget, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, http::get(request)).await {
        Err(_) => Outcome::Failure(format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            request.url
        )),
        Ok(Err(e)) => Outcome::Failure(format!("Get \"{}\": {e}", request.url)),
        Ok(Ok(answer)) => match answer.status {
            200..=299 => Outcome::Success,
            300..=399 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
            code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        },
    }
}

/// How a hook was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// As it says.
    AsAsked,
    /// Without the TLS that it asks for, which this server (host and port) does not know.
    WithoutTls(String),
}

/// Runs a hook. The error is the text for the waiting message (`PostStartHookError`); it may hold secrets, so events
/// do not carry it.
pub async fn run_hook(target: &Target<'_>, pod: &str, hook: &LifecycleHandler) -> Result<Ran, String> {
    let name = &target.container.name;
    if let Some(exec) = &hook.exec {
        let command: Vec<String> = exec.command.clone().unwrap_or_default();
        let listed = command.join(" ");
        return match target.engine.exec(target.sandbox, target.id, &command, None).await {
            Ok(output) if output.code == 0 => Ok(Ran::AsAsked),
            Ok(output) => Err(format!(
                "Exec lifecycle hook ([{listed}]) for Container \"{name}\" in Pod \"{pod}\" failed - error: command '{listed}' exited with {}: , message: {:?}",
                output.code,
                String::from_utf8_lossy(&output.output[..output.output.len().min(OUTPUT_MAX_BYTES)])
            )),
            Err(e) => Err(format!(
                "Exec lifecycle hook ([{listed}]) for Container \"{name}\" in Pod \"{pod}\" failed - error: {}, message: \"\"",
                base::chain(&e)
            )),
        };
    }
    if let Some(get) = &hook.http_get {
        let path = get.path.clone().unwrap_or_default();
        let failed = |e: String| {
            format!("HTTP lifecycle hook ({path}) for Container \"{name}\" in Pod \"{pod}\" failed - error: {e}")
        };
        let request = http::target(get, target.container, target.pod_ip, "lifecycle").map_err(&failed)?;
        return match http::get(&request).await {
            Ok(_) => Ok(Ran::AsAsked),
            // Asked again, plainly. The error that is told is the first one.
            Err(error @ http::GetError::NoTls) => match http::get(&request.plain()).await {
                Ok(_) => Ok(Ran::WithoutTls(request.authority())),
                Err(_) => Err(failed(format!("Get \"{}\": {error}", request.url))),
            },
            Err(e) => Err(failed(format!("Get \"{}\": {e}", request.url))),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(Ran::AsAsked);
    }
    Err(format!("Cannot run handler: invalid handler of container {name}"))
}

/// `ResolveContainerPort`.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => match name.parse() {
            Ok(n) => n,
            Err(_) => {
                let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
                named.map(|p| p.container_port).ok_or_else(|| format!("couldn't find port: {name}"))?
            }
        },
    };
    u16::try_from(number).ok().filter(|n| *n != 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A TCP connection; the error is Go's text.
async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = join(host, port);
    let text = |e: io::Error| match e.kind() {
        io::ErrorKind::ConnectionRefused => format!("dial tcp {address}: connect: connection refused"),
        io::ErrorKind::HostUnreachable => format!("dial tcp {address}: connect: no route to host"),
        io::ErrorKind::NetworkUnreachable => format!("dial tcp {address}: connect: network is unreachable"),
        _ => format!("dial tcp {address}: {e}"),
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await.map_err(text),
        Err(_) => TcpStream::connect((host, port)).await.map_err(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::testing::FakeEngine;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers each connection with the next of these and returns the port; ends with the test's runtime.
    async fn serve(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        base::tasks::detach("test server", async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.expect("a request"));
                }
                let answer = answer.replace("REQUEST", &String::from_utf8_lossy(&request).replace("\r\n", "|"));
                stream.write_all(answer.as_bytes()).await.expect("answered");
            }
        });
        port
    }

    async fn check_probe(spec: &str, want: Outcome) {
        let pod = pod(&format!(
            r#"{{"containers":[{{"name":"a","ports":[{{"name":"web","containerPort":1}}],"readinessProbe":{spec}}}]}}"#
        ));
        let container = &view::app_containers(&pod)[0];
        let engine = FakeEngine::default();
        let target = Target { engine: &engine, sandbox: "s", id: "c", container, pod_ip: "127.0.0.1".parse().ok() };
        let got = probe(&target, container.readiness_probe.as_ref().expect("given")).await;
        assert_eq!(got, want, "{spec}");
    }

    fn answer(head: &str, body: &str) -> String {
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn http() {
        let port = serve(vec![
            answer("200 OK", ""),
            answer("503 No", "x"),
            answer("302 Found\r\nLocation: http://example.com/", "go"),
        ])
        .await;
        let spec = format!(r#"{{"httpGet":{{"port":{port},"path":"/healthz?x=1"}}}}"#);
        check_probe(&spec, Outcome::Success).await;
        check_probe(&spec, Outcome::Failure("HTTP probe failed with statuscode: 503".into())).await;
        check_probe(&spec, Outcome::Warning("Probe terminated redirects, Response body: go".into())).await;
    }

    #[tokio::test]
    async fn http_follows_redirects_on_the_same_host() {
        let port = serve(vec![answer("302 Found\r\nLocation: /next", ""), answer("404 No", "")]).await;
        let spec = format!(r#"{{"httpGet":{{"port":{port},"path":"/"}}}}"#);
        check_probe(&spec, Outcome::Failure("HTTP probe failed with statuscode: 404".into())).await;
    }

    #[tokio::test]
    async fn refused_connections_are_failures_in_gos_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        check_probe(&format!(r#"{{"tcpSocket":{{"port":{port}}}}}"#), Outcome::Failure(refused.clone())).await;
        let url = format!("Get \"http://127.0.0.1:{port}/\": {refused}");
        check_probe(&format!(r#"{{"httpGet":{{"port":{port}}}}}"#), Outcome::Failure(url)).await;
        check_probe(r#"{"tcpSocket":{"port":"nope"}}"#, Outcome::Error("couldn't find port: nope".into())).await;
    }

    async fn check_hook(hook: &str, want: Result<Ran, &str>) {
        let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
        let container = &view::app_containers(&pod)[0];
        let engine = FakeEngine::default();
        let target = Target { engine: &engine, sandbox: "s", id: "c", container, pod_ip: "127.0.0.1".parse().ok() };
        let hook: LifecycleHandler = serde_json::from_str(hook).expect("a hook");
        let got = run_hook(&target, "ns/p", &hook).await;
        let prefix = "HTTP lifecycle hook (/) for Container \"a\" in Pod \"ns/p\" failed - error: ";
        let got = got.map_err(|e| e.strip_prefix(prefix).unwrap_or(&e).to_owned());
        assert_eq!(got, want.map_err(str::to_owned));
    }

    /// Answers the first connection with plain HTTP, whatever it says, and tells the head of the second one.
    async fn serve_plainly() -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let task = base::tasks::spawn("test server", async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.read_u8().await.expect("a hello");
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request").await.expect("answered");
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer("200 OK", "").as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&request).into_owned()
        });
        (port, task)
    }

    #[tokio::test]
    async fn hooks_fall_back_to_http_only_where_that_is_spoken_and_without_credentials() {
        let (port, second) = serve_plainly().await;
        let headers = r#"[{"name":"AUTHORIZATION","value":"Bearer secret"},{"name":"X-A","value":"b"}]"#;
        let hook = format!(r#"{{"httpGet":{{"port":{port},"path":"/","scheme":"HTTPS","httpHeaders":{headers}}}}}"#);
        check_hook(&hook, Ok(Ran::WithoutTls(format!("127.0.0.1:{port}")))).await;
        let head = second.await.expect("no panic").to_lowercase();
        assert!(head.contains("x-a: b") && !head.contains("secret"), "{head}");

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let refused =
            format!("Get \"https://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused");
        check_hook(&format!(r#"{{"httpGet":{{"port":{port},"path":"/","scheme":"HTTPS"}}}}"#), Err(&refused)).await;
    }

    #[tokio::test]
    async fn exec() {
        check_probe(r#"{"exec":{"command":["true"]}}"#, Outcome::Success).await;
        check_probe(r#"{"exec":{"command":["fail","why not"]}}"#, Outcome::Failure("why not".into())).await;
        let late = Outcome::Failure("command timed out: \"hang\" timed out after 2s".into());
        check_probe(r#"{"exec":{"command":["hang"]},"timeoutSeconds":2}"#, late).await;
    }

    #[tokio::test]
    async fn grpc_that_nobody_serves_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let want =
            format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded");
        check_probe(&format!(r#"{{"grpc":{{"port":{port}}}}}"#), Outcome::Failure(want)).await;
    }
}
