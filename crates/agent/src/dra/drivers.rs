//! [`Drivers`]: how to reach the drivers of this node's devices (`pkg/kubelet/cm/dra/plugin`). There may be several plugins of one
//! driver, while it is updated; each has one connection, which comes about with the first call and again after it broke.

use crate::counters::{self, Counters};
use crate::plugins::{code_name, rpc_error, within};
use hyper_util::rt::TokioIo;
use node_api::dra::dra_plugin_client::DraPluginClient;
use node_api::dra::{
    Claim, NodePrepareResourcesRequest, NodePrepareResourcesResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse,
};
use node_api::dra_v1beta1 as v1beta1;
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// `defaultClientCallTimeout`
const ANSWER: Duration = Duration::from_secs(45);

/// A version of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1`
    V1,
    /// `v1beta1`: the same messages, but for shares of devices.
    V1Beta1,
}

/// What drivers say that they serve.
const SERVICES: [(&str, Version); 2] = [("v1.DRAPlugin", Version::V1), ("v1beta1.DRAPlugin", Version::V1Beta1)];

/// The first of a plugin's services that is known here (`validateSupportedServices`).
pub fn choose(driver: &str, endpoint: &Path, services: &[String]) -> Result<Version, String> {
    let known = |service: &String| SERVICES.iter().find(|(name, _)| name == service).map(|(_, version)| *version);
    let why = match services.iter().find_map(known) {
        Some(version) => return Ok(version),
        None if services.is_empty() => "empty list of supported gRPC services (aka supported versions)".to_owned(),
        None => {
            let list = |names: &[&str]| names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(" ");
            let theirs: Vec<&str> = services.iter().map(String::as_str).collect();
            format!(
                "none of services supported by the plugin ([{}]) are supported by the kubelet ([{}])",
                list(&theirs),
                list(&SERVICES.map(|(name, _)| name))
            )
        }
    };
    let at = endpoint.display();
    Err(format!("invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {at}: {why}"))
}

/// A plugin of a driver.
#[derive(Debug, Clone)]
pub struct Driver {
    /// The driver's name.
    pub name: String,
    endpoint: PathBuf,
    version: Version,
    channel: Channel,
    lines: watch::Receiver<usize>,
}

impl Driver {
    fn new(name: &str, endpoint: &Path, version: Version) -> Result<Driver, String> {
        let (told, lines) = watch::channel(0);
        let connector = Connector { path: endpoint.to_owned(), lines: Arc::new(told) };
        // The address is not used: the connector knows where to go.
        let channel = Endpoint::try_from("http://localhost").map_err(|e| base::chain(&e))?;
        let channel = channel.connect_with_connector_lazy(connector);
        Ok(Driver { name: name.to_owned(), endpoint: endpoint.to_owned(), version, channel, lines })
    }

    /// For what else it serves.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// How many connections there are to it, now and later.
    pub fn lines(&self) -> watch::Receiver<usize> {
        self.lines.clone()
    }

    fn is_connected(&self) -> bool {
        *self.lines.borrow() > 0
    }

    /// `NodePrepareResources`
    pub async fn prepare(
        &self,
        claims: Vec<Claim>,
        counters: &Counters,
    ) -> Result<NodePrepareResourcesResponse, String> {
        let request = NodePrepareResourcesRequest { claims };
        let channel = self.channel();
        let call = async {
            match self.version {
                Version::V1 => DraPluginClient::new(channel).node_prepare_resources(request).await,
                Version::V1Beta1 => {
                    let request: v1beta1::NodePrepareResourcesRequest = same(&request)?;
                    translated(
                        v1beta1::dra_plugin_client::DraPluginClient::new(channel).node_prepare_resources(request).await,
                    )
                }
            }
        };
        self.measured("NodePrepareResources", call, counters).await
    }

    /// `NodeUnprepareResources`
    pub async fn unprepare(
        &self,
        claims: Vec<Claim>,
        counters: &Counters,
    ) -> Result<NodeUnprepareResourcesResponse, String> {
        let request = NodeUnprepareResourcesRequest { claims };
        let channel = self.channel();
        let call = async {
            match self.version {
                Version::V1 => DraPluginClient::new(channel).node_unprepare_resources(request).await,
                Version::V1Beta1 => {
                    let request: v1beta1::NodeUnprepareResourcesRequest = same(&request)?;
                    translated(
                        v1beta1::dra_plugin_client::DraPluginClient::new(channel)
                            .node_unprepare_resources(request)
                            .await,
                    )
                }
            }
        };
        self.measured("NodeUnprepareResources", call, counters).await
    }

    async fn measured<T>(
        &self,
        call: &str,
        calling: impl Future<Output = Result<Response<T>, Status>>,
        counters: &Counters,
    ) -> Result<T, String> {
        let begun = Instant::now();
        let answer = within(ANSWER, calling).await;
        let code = answer.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        let service = match self.version {
            Version::V1 => node_api::dra::dra_plugin_server::SERVICE_NAME,
            Version::V1Beta1 => v1beta1::dra_plugin_server::SERVICE_NAME,
        };
        let labels = [self.name.as_str(), &format!("/{service}/{call}"), &code_name(code)];
        counters.observe(&counters::DRA_CALLS, &labels, begun.elapsed().as_secs_f64());
        answer.map_err(|e| format!("{call}: {}", rpc_error(&e)))
    }
}

/// A message of one version as that of another.
fn same<A: Message, B: Message + Default>(message: &A) -> Result<B, Status> {
    B::decode(message.encode_to_vec().as_slice()).map_err(|e| Status::internal(base::chain(&e)))
}

fn translated<A: Message, B: Message + Default>(answer: Result<Response<A>, Status>) -> Result<Response<B>, Status> {
    same(answer?.get_ref()).map(Response::new)
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Drivers(Mutex<BTreeMap<String, Vec<Driver>>>);

impl Drivers {
    /// A plugin is there.
    pub fn add(&self, name: &str, endpoint: &Path, version: Version) -> Result<Driver, String> {
        let mut all = self.0.lock();
        let plugins = all.entry(name.to_owned()).or_default();
        if plugins.iter().any(|p| p.endpoint == endpoint) {
            let at = endpoint.display();
            return Err(format!("endpoint {at} already registered for DRA driver plugin {name}"));
        }
        let driver = Driver::new(name, endpoint, version)?;
        plugins.push(driver.clone());
        Ok(driver)
    }

    /// It is gone.
    pub fn remove(&self, name: &str, endpoint: &Path) {
        let mut all = self.0.lock();
        if let Some(plugins) = all.get_mut(name) {
            plugins.retain(|p| p.endpoint != endpoint);
        }
        all.retain(|_, plugins| !plugins.is_empty());
    }

    /// The newest plugin of a driver, if possible one that is connected.
    pub fn get(&self, name: &str) -> Result<Driver, String> {
        if name.is_empty() {
            return Err("DRA driver name is empty".into());
        }
        let all = self.0.lock();
        let plugins = all.get(name).map(Vec::as_slice).unwrap_or_default();
        let connected = plugins.iter().rev().find(|p| p.is_connected());
        connected.or(plugins.last()).cloned().ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// Whether a driver could be called now.
    pub fn is_usable(&self, name: &str) -> bool {
        self.0.lock().get(name).is_some_and(|plugins| plugins.iter().any(Driver::is_connected))
    }
}

/// Makes connections that are counted: a new one may be there before the old one is gone.
struct Connector {
    path: PathBuf,
    lines: Arc<watch::Sender<usize>>,
}

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<Line>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Line>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (path, lines) = (self.path.clone(), self.lines.clone());
        Box::pin(async move {
            let stream = UnixStream::connect(path).await?;
            lines.send_modify(|lines| *lines += 1);
            Ok(TokioIo::new(Line { stream, lines }))
        })
    }
}

/// A connection.
struct Line {
    stream: UnixStream,
    lines: Arc<watch::Sender<usize>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.lines.send_modify(|lines| *lines -= 1);
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(services: &[&str], want: Result<Version, &str>) {
        let services: Vec<String> = services.iter().map(|s| (*s).to_owned()).collect();
        let got = choose("d", Path::new("/s"), &services);
        let head = "invalid supported gRPC versions of DRA driver plugin d at endpoint /s: ";
        assert_eq!(got, want.map_err(|why| format!("{head}{why}")));
    }

    #[test]
    fn the_first_version_that_is_known_is_spoken() {
        check(&["v2.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAPlugin"], Ok(Version::V1Beta1));
        check(&["v1.DRAPlugin", "v1alpha1.DRAResourceHealth"], Ok(Version::V1));
        check(&[], Err("empty list of supported gRPC services (aka supported versions)"));
        let why = r#"none of services supported by the plugin (["1.0.0"]) are supported by the kubelet (["v1.DRAPlugin" "v1beta1.DRAPlugin"])"#;
        check(&["1.0.0"], Err(why));
    }

    #[tokio::test]
    async fn connections_are_noticed_when_they_begin_and_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("d.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
        let drivers = Drivers::default();
        let driver = drivers.add("d", &socket, Version::V1).expect("it is new");
        let mut lines = driver.lines();
        let call = base::tasks::spawn("call", async move { driver.prepare(Vec::new(), &Counters::default()).await });
        let (line, _) = listener.accept().await.expect("it calls");
        lines.wait_for(|lines| *lines == 1).await.expect("it lives");
        assert!(drivers.is_usable("d"));
        drop(line);
        let error = call.await.expect("no panic").expect_err("it hangs up");
        assert!(error.starts_with("NodePrepareResources: rpc error: code = "), "{error}");
        lines.wait_for(|lines| *lines == 0).await.expect("it lives");
        assert!(!drivers.is_usable("d"));
    }

    #[tokio::test]
    async fn an_old_connection_that_ends_does_not_hide_the_new_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("d.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
        let (told, lines) = watch::channel(0);
        let mut connector = Connector { path: socket, lines: Arc::new(told) };
        let mut connect = || tower_service::Service::call(&mut connector, http::Uri::default());
        let old = connect().await.expect("somebody listens");
        let new = connect().await.expect("somebody listens");
        drop(old);
        assert_eq!(*lines.borrow(), 1);
        drop(new);
        assert_eq!(*lines.borrow(), 0);
    }

    #[tokio::test]
    async fn plugins_of_a_driver_come_and_go() {
        let drivers = Drivers::default();
        let missing = |drivers: &Drivers| drivers.get("d").map(|d| d.endpoint).expect_err("none is there");
        assert_eq!(missing(&drivers), "DRA driver d is not registered");
        for endpoint in ["/old", "/new"] {
            drivers.add("d", Path::new(endpoint), Version::V1).expect("it is new");
        }
        let again = drivers.add("d", Path::new("/new"), Version::V1).map(|d| d.endpoint);
        assert_eq!(again, Err("endpoint /new already registered for DRA driver plugin d".into()));
        assert_eq!(drivers.get("d").map(|d| d.endpoint), Ok("/new".into()));
        assert!(!drivers.is_usable("d"), "nobody listens there");
        drivers.remove("d", Path::new("/new"));
        assert_eq!(drivers.get("d").map(|d| d.endpoint), Ok("/old".into()));
        drivers.remove("d", Path::new("/old"));
        assert_eq!(missing(&drivers), "DRA driver d is not registered");
    }
}
