//! Proxies on the way to a webhook (`proxy-url` of its kubeconfig): HTTP ones, with and without TLS, which are told to CONNECT, and
//! SOCKS 5.
//!
//! A proxy under TLS is trusted as the webhook is, and sees the same client certificate: Go has one configuration of TLS for both
//! (`net/http/transport.go`, `dialConn`).
//!
//! Differs: upstream asks an HTTP proxy itself for what is not under TLS.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;
use url::Url;

use super::{Pool, Stream, join, open};

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    /// Who we are for it.
    user: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Http,
    Https,
    Socks5,
}

impl Proxy {
    /// Reads a URL (`clientcmd`, `parseProxyURL`).
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| format!("could not parse: {text}"))?;
        let (kind, port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "socks5" => (Kind::Socks5, 1080),
            "https" => (Kind::Https, 443),
            other => return Err(format!("unsupported scheme {other:?}, must be http, https, or socks5")),
        };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user =
            (!url.username().is_empty()).then(|| (plain(url.username()), plain(url.password().unwrap_or_default())));
        Ok(Proxy { kind, host, port: url.port().unwrap_or(port), user })
    }

    /// A connection to a host behind it, for this pool.
    pub(super) async fn dial(&self, pool: &Pool, host: &str, port: u16) -> Result<Stream, String> {
        let refused = |why: String| format!("proxyconnect tcp: {why}");
        let tcp = open(&self.host, self.port).await.map_err(refused)?;
        match self.kind {
            Kind::Http => self.connect(Box::new(tcp), &join(host, port)).await,
            Kind::Https => {
                let tls = pool.secure(Box::new(tcp), self.host.clone()).await.map_err(refused)?;
                self.connect(tls, &join(host, port)).await
            }
            Kind::Socks5 => self.socks(tcp, (host, port)).await,
        }
    }

    async fn connect(&self, stream: Stream, to: &str) -> Result<Stream, String> {
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|e| base::chain(&e))?;
        base::tasks::detach("webhook-proxy", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %base::chain(&error), "connection to a proxy ended");
            }
        });
        let mut request = Request::connect(to).header(header::HOST, to);
        if let Some((name, password)) = &self.user {
            let shown = format!("Basic {}", BASE64.encode(format!("{name}:{password}")));
            request = request.header(header::PROXY_AUTHORIZATION, shown);
        }
        let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| base::chain(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(response.status().canonical_reason().unwrap_or("unknown status code").to_owned());
        }
        let tunnel = hyper::upgrade::on(response).await.map_err(|e| base::chain(&e))?;
        Ok(Box::new(TokioIo::new(tunnel)))
    }

    async fn socks(&self, tcp: TcpStream, to: (&str, u16)) -> Result<Stream, String> {
        let made = match &self.user {
            None => Socks5Stream::connect_with_socket(tcp, to).await,
            Some((name, password)) => Socks5Stream::connect_with_password_and_socket(tcp, to, name, password).await,
        };
        let address = join(&self.host, self.port);
        let stream = made.map_err(|error| format!("socks connect tcp {address}->{}: {error}", join(to.0, to.1)))?;
        Ok(Box::new(stream))
    }
}
