//! A response body as WebSocket messages, for clients that cannot read a stream (`k8s.io/streaming/pkg/httpstream/wsstream`).
//!
//! The first message is empty, then every piece is one; what the client sends is thrown away. `base64.binary.k8s.io` sends
//! text, `binary.k8s.io` and no subprotocol send bytes.

use crate::api_server::Call;
use crate::response::plain;
use crate::{Body, status};
use api::Status;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

const BASE64: &str = "base64.binary.k8s.io";
const BINARY: &str = "binary.k8s.io";

/// Whether a request wants a WebSocket.
pub(crate) fn is_request(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The subprotocol for a stream of bytes: the client's first that we know; `None` if it offers only others.
fn choose(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect();
    if offered.is_empty() {
        return Some("");
    }
    offered.into_iter().find_map(|o| [BINARY, BASE64].into_iter().find(|known| *known == o))
}

/// 101, and the body as messages after it.
pub(crate) fn answer(call: &Call, body: Body) -> Result<Response<Body>, Status> {
    let headers = &call.head.headers;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| status::bad_request("missing Sec-WebSocket-Key"))?;
    let protocol = choose(headers).ok_or_else(|| status::bad_request("no WebSocket subprotocol is supported"))?;
    let upgrade = call.head.extensions.get::<hyper::upgrade::OnUpgrade>().cloned();
    let upgrade = upgrade.ok_or_else(|| status::bad_request("this connection cannot be upgraded"))?;
    let mut response = plain(101, "text/plain", Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().remove(header::CONTENT_TYPE);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(status::internal)?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    base::tasks::detach("websocket-stream", async move {
        match upgrade.await {
            Ok(io) => {
                stream(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await, body, protocol)
                    .await
            }
            Err(error) => tracing::debug!(%error, "the client went away during the upgrade"),
        }
    });
    Ok(response)
}

async fn stream<S>(socket: WebSocketStream<S>, mut body: Body, protocol: &str)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let message = |bytes: Bytes| match protocol {
        BASE64 => Message::Text(base64::engine::general_purpose::STANDARD.encode(&bytes).into()),
        _ => Message::Binary(bytes),
    };
    let mut next = message(Bytes::new());
    loop {
        if sink.send(next).await.is_err() {
            return;
        }
        next = tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => message(data),
                    Err(_) => continue_with_nothing(),
                },
                // A stream that breaks ends; the client cannot be told why.
                Some(Err(_)) | None => break,
            },
            // The client's end ends it; whatever else it says means nothing.
            said = source.next() => match said {
                None | Some(Err(_) | Ok(Message::Close(_))) => break,
                Some(Ok(_)) => continue_with_nothing(),
            },
        };
    }
    // The client may be gone already.
    sink.close().await.ok();
}

/// Keeps the connection warm without saying anything.
fn continue_with_nothing() -> Message {
    Message::Pong(Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(offered: &str, want: Option<&str>) {
        let mut headers = HeaderMap::new();
        if !offered.is_empty() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(offered).expect("a header"));
        }
        assert_eq!(choose(&headers), want, "{offered}");
    }

    #[test]
    fn the_clients_first_known_subprotocol_wins() {
        check("", Some(""));
        check("binary.k8s.io", Some("binary.k8s.io"));
        check("v5.channel.k8s.io, base64.binary.k8s.io, binary.k8s.io", Some("base64.binary.k8s.io"));
        check("v5.channel.k8s.io", None);
    }

    #[tokio::test]
    async fn a_body_becomes_messages_and_a_close() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let body =
            http_body_util::Full::new(Bytes::from_static(b"alive\n")).map_err(|never| match never {}).boxed_unsync();
        let sent = async { stream(server, body, BASE64).await };
        let received = async {
            let mut out = Vec::new();
            while let Some(Ok(message)) = client.next().await {
                out.push(format!("{message:?}"));
                if message.is_close() {
                    break;
                }
            }
            out
        };
        let ((), received) = tokio::join!(sent, received);
        assert_eq!(received.len(), 3, "{received:?}");
        assert!(received[1].contains("YWxpdmUK"), "{received:?}");
        assert!(received[2].starts_with("Close"), "{received:?}");
    }
}
