//! What drivers for tests have in common: a socket with services, and the registration that a registrar beside them would do.

use async_trait::async_trait;
use node_api::plugin_registration::registration_server::{Registration, RegistrationServer};
use node_api::plugin_registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use std::convert::Infallible;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::{Request, Response, Status};

pub(crate) type Answer<T> = Result<Response<T>, Status>;

pub(crate) fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

pub(crate) fn listen<S>(socket: &Path, service: S) -> std::io::Result<JoinHandle<()>>
where
    S: tower_service::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let listener = UnixListener::bind(socket)?;
    let incoming = UnixListenerStream::new(listener);
    Ok(base::tasks::spawn("driver", async move {
        let served = tonic::transport::Server::builder().serve_with_incoming(service, incoming).await;
        // Whoever asks sees that nobody answers.
        drop(served);
    }))
}

/// The service that a request is for: the beginning of its path.
pub(crate) fn service_of(request: &http::Request<Body>) -> String {
    request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned()
}

/// Offers a driver for registration at `socket`.
pub(crate) fn register(socket: &Path, driver: PluginInfo) -> std::io::Result<JoinHandle<()>> {
    listen(socket, RegistrationServer::new(Registrar(driver)))
}

struct Registrar(PluginInfo);

#[async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        answer(self.0.clone())
    }

    async fn notify_registration_status(&self, _: Request<RegistrationStatus>) -> Answer<RegistrationStatusResponse> {
        answer(RegistrationStatusResponse {})
    }
}
