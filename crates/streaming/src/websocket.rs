//! WebSockets: the handshake, channels of a remote command or of forwarded ports (`*.channel.k8s.io`), and a tunnel of plain bytes.
//!
//! Every message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; with `base64.` as a digit and the
//! rest encoded. `v5.` adds 255: the channel in the next byte is at its end. Follows
//! `k8s.io/streaming/pkg/httpstream/wsstream/conn.go` and `cri-streaming/pkg/streaming/remotecommand/websocket.go`.

use super::streams::{Gone, Output, Remote, Wanted};
use crate::answer::{Body, Refusal, empty};
use crate::session::Io;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

/// Messages that wait for the socket.
const OUTPUT_QUEUE: usize = 32;
/// Messages that wait for the process.
const INPUT_QUEUE: usize = 32;
/// Longest message taken; kubectl's are 32 KiB.
const MAX_MESSAGE: usize = 4 << 20;
/// How long a client gets to close its side after we have closed ours.
const LINGER: Duration = Duration::from_secs(5);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Whether a request wants a WebSocket.
pub(crate) fn is_request(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The subprotocols the client offers, in its order.
pub(crate) fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

/// 101 with the chosen subprotocol (none: empty).
pub(crate) fn switch(headers: &HeaderMap, protocol: &str) -> Result<Response<Body>, Refusal> {
    let bad = |text: &str| Refusal::new(400, text);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("missing Sec-WebSocket-Key"))?;
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(bad("unsupported WebSocket version"));
    }
    let accept = derive_accept_key(key.as_bytes());
    let mut response = empty(101);
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let text = |v: &str| HeaderValue::from_str(v).map_err(|_| bad("malformed WebSocket headers"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, text(&accept)?);
    if !protocol.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, text(protocol)?);
    }
    Ok(response)
}

async fn accept(io: impl Io) -> WebSocketStream<impl Io> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

// === remote commands ===

/// How messages look and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// As in the handshake; empty: none was offered.
    pub(crate) name: &'static str,
    base64: bool,
    half_close: bool,
    pub(crate) json_status: bool,
}

const PROTOCOLS: [Protocol; 6] = [
    Protocol { name: "v5.channel.k8s.io", base64: false, half_close: true, json_status: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, half_close: false, json_status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, half_close: false, json_status: true },
    Protocol { name: "channel.k8s.io", base64: false, half_close: false, json_status: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, half_close: false, json_status: false },
    Protocol { name: "", base64: false, half_close: false, json_status: false },
];

/// The newest if the client knows it, otherwise the client's first that we know.
pub(crate) fn negotiate(offered: &[&str]) -> Option<Protocol> {
    let find = |name: &str| PROTOCOLS.into_iter().find(|p| p.name == name);
    let newest = PROTOCOLS[0];
    if offered.is_empty() {
        return find("");
    }
    if offered.contains(&newest.name) { Some(newest) } else { offered.iter().find_map(|name| find(name)) }
}

/// The same for forwarded ports (`cri-streaming/pkg/streaming/portforward/websocket.go`): the client's first that we know.
pub(crate) fn negotiate_ports(offered: &[&str]) -> Option<Protocol> {
    let find = |name: &str| PROTOCOLS.into_iter().find(|p| p.name == name);
    let known = |name: &&&str| matches!(**name, "v4.channel.k8s.io" | "v4.base64.channel.k8s.io");
    if offered.is_empty() { find("") } else { offered.iter().find(known).and_then(|name| find(name)) }
}

/// Our end of one channel.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    number: u8,
    base64: bool,
    out: mpsc::Sender<Message>,
    gone: CancellationToken,
}

impl Channel {
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        let message = pack(self.number, self.base64, &bytes);
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Gone),
            sent = self.out.send(message) => sent.map_err(|_| Gone),
        }
    }

    /// Waits until the client is gone.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

fn pack(number: u8, base64: bool, bytes: &[u8]) -> Message {
    if base64 {
        let mut text = char::from(b'0' + number).to_string();
        STANDARD.encode_string(bytes, &mut text);
        return Message::text(text);
    }
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(number);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Incoming {
    Data(u8, Bytes),
    /// The client ends this channel.
    End(u8),
    Nothing,
    Malformed,
}

fn unpack(protocol: Protocol, mut message: Bytes) -> Incoming {
    let Some(first) = message.first().copied() else { return Incoming::Nothing };
    if protocol.half_close && first == CLOSE {
        return match *message {
            [_, number] if number <= RESIZE => Incoming::End(number),
            _ => Incoming::Malformed,
        };
    }
    let body = message.split_off(1);
    if !protocol.base64 {
        return Incoming::Data(first, body);
    }
    match STANDARD.decode(&body) {
        Ok(bytes) => Incoming::Data(first.wrapping_sub(b'0'), bytes.into()),
        Err(_) => Incoming::Nothing,
    }
}

/// An upgraded connection that is served in the background.
pub(crate) struct Wire {
    base64: bool,
    out: mpsc::Sender<Message>,
    gone: CancellationToken,
}

impl Wire {
    /// Hands what comes on each of `inputs` to its sender; other channels are not for reading.
    async fn start(io: impl Io + 'static, protocol: Protocol, inputs: Inputs) -> Self {
        let socket = accept(io).await;
        let (out, messages) = mpsc::channel(OUTPUT_QUEUE);
        let gone = CancellationToken::new();
        base::tasks::detach("websocket", converse(socket, protocol, inputs, messages, gone.clone()));
        Wire { base64: protocol.base64, out, gone }
    }

    fn channel(&self, number: u8) -> Channel {
        Channel { number, base64: self.base64, out: self.out.clone(), gone: self.gone.clone() }
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        // A client that is gone needs no goodbye.
        if self.out.send(goodbye()).await.is_ok() {
            tokio::time::timeout(LINGER, self.gone.cancelled()).await.ok();
        }
        self.gone.cancel();
    }
}

/// Serves the channels of a remote command on an upgraded connection.
pub(crate) async fn remote(io: impl Io + 'static, protocol: Protocol, wanted: Wanted) -> Result<Remote, Gone> {
    let (stdin_sender, stdin) = mpsc::channel(INPUT_QUEUE);
    let (resize_sender, resize) = mpsc::channel(INPUT_QUEUE);
    let mut inputs = vec![(RESIZE, resize_sender)];
    if wanted.stdin {
        inputs.push((STDIN, stdin_sender));
    }
    let wire = Wire::start(io, protocol, Inputs(inputs)).await;
    // An empty message tells the client that all is set up.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    wire.channel(first).write(Bytes::new()).await?;
    Ok(Remote {
        stdin: wanted.stdin.then_some(stdin),
        stdout: wanted.stdout.then(|| Output::WebSocket(wire.channel(STDOUT))),
        stderr: wanted.stderr.then(|| Output::WebSocket(wire.channel(STDERR))),
        resize: Some(resize),
        error: Output::WebSocket(wire.channel(ERROR)),
        json_status: protocol.json_status,
        gone: wire.gone.clone(),
        close: Box::pin(wire.close()),
    })
}

/// The channels of one forwarded port.
pub(crate) struct PortChannels {
    pub(crate) port: u16,
    pub(crate) input: mpsc::Receiver<Bytes>,
    pub(crate) data: Output,
    pub(crate) error: Output,
}

/// Serves a pair of channels for each port: data, which the client writes too, and error. Both begin with the port's number.
pub(crate) async fn ports(
    io: impl Io + 'static,
    protocol: Protocol,
    ports: &[u16],
) -> Result<(Wire, Vec<PortChannels>), Gone> {
    let (senders, receivers): (Vec<_>, Vec<_>) = ports.iter().map(|_| mpsc::channel(INPUT_QUEUE)).unzip();
    let inputs = (0..).step_by(2).zip(senders).collect();
    let wire = Wire::start(io, protocol, Inputs(inputs)).await;
    let mut channels = Vec::with_capacity(ports.len());
    for ((number, port), input) in (0..).step_by(2).zip(ports).zip(receivers) {
        let (data, error) = (wire.channel(number), wire.channel(number + 1));
        for channel in [&data, &error] {
            channel.write(port.to_le_bytes().to_vec().into()).await?;
        }
        let (data, error) = (Output::WebSocket(data), Output::WebSocket(error));
        channels.push(PortChannels { port: *port, input, data, error });
    }
    Ok((wire, channels))
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Who takes what comes on a channel.
struct Inputs(Vec<(u8, mpsc::Sender<Bytes>)>);

impl Inputs {
    async fn deliver(&mut self, number: u8, bytes: Bytes) {
        let Some((_, sender)) = self.0.iter().find(|(n, _)| *n == number) else { return };
        if !bytes.is_empty() && sender.send(bytes).await.is_err() {
            self.end(number);
        }
    }

    fn end(&mut self, number: u8) {
        self.0.retain(|(n, _)| *n != number);
    }
}

/// Both directions, until the client has ended or is given up; then the connection is closed in good order.
async fn converse(
    socket: WebSocketStream<impl Io>,
    protocol: Protocol,
    inputs: Inputs,
    messages: mpsc::Receiver<Message>,
    gone: CancellationToken,
) {
    let (mut sink, mut stream) = socket.split();
    let ends = gone.clone().drop_guard();
    tokio::select! {
        () = read(&mut stream, protocol, inputs) => {}
        () = write(&mut sink, messages) => {}
        () = gone.cancelled() => {}
    }
    drop(ends);
    if let Ok(mut socket) = sink.reunite(stream) {
        // A client that is gone needs no goodbye.
        tokio::time::timeout(LINGER, socket.get_mut().shutdown()).await.ok();
    }
}

/// Hands out what comes in, until the client ends or errs.
async fn read<S>(stream: &mut S, protocol: Protocol, mut inputs: Inputs)
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    while let Some(message) = stream.next().await {
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => text.into(),
            Ok(Message::Close(_)) => continue, // The end follows.
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "WebSocket ended");
                return;
            }
        };
        match unpack(protocol, bytes) {
            Incoming::Data(number, bytes) => inputs.deliver(number, bytes).await,
            Incoming::End(number) => inputs.end(number),
            Incoming::Nothing => {}
            Incoming::Malformed => return,
        }
    }
}

/// Sends messages until the connection breaks. After a goodbye it is the client's turn: the reader sees its answer.
async fn write<S>(sink: &mut S, mut messages: mpsc::Receiver<Message>)
where
    S: futures_util::Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
{
    while let Some(message) = messages.recv().await {
        let mut result = sink.feed(message).await;
        while result.is_ok()
            && let Ok(more) = messages.try_recv()
        {
            result = sink.feed(more).await;
        }
        if result.is_ok() {
            result = sink.flush().await;
        }
        if let Err(error) = result {
            tracing::debug!(%error, "WebSocket cannot be written");
            return;
        }
    }
    std::future::pending().await
}

// === tunnel ===

/// A byte stream inside binary messages (`client-go/tools/portforward/tunneling_connection.go`).
pub(crate) async fn tunnel(io: impl Io + 'static) -> impl Io + 'static {
    const BUFFER: usize = 64 * 1024;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (mut sink, mut stream) = accept(io).await.split();
    let (mut reader, mut writer) = tokio::io::split(theirs);
    base::tasks::detach("websocket-tunnel", async move {
        let inbound = async {
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(bytes) if writer.write_all(&bytes).await.is_ok() => {}
                    Message::Binary(_) | Message::Text(_) => break,
                    _ => {}
                }
            }
            // The other half of a duplex pipe that is gone needs no end.
            writer.shutdown().await.ok();
        };
        let outbound = async {
            let mut buffer = vec![0; BUFFER];
            while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                if sink.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                    return;
                }
            }
            // A client that is gone needs no goodbye.
            sink.send(goodbye()).await.ok();
        };
        tokio::pin!(inbound, outbound);
        tokio::select! {
            // The client has ended: what we still have for it is of no use.
            () = &mut inbound => {}
            () = &mut outbound => {
                tokio::time::timeout(LINGER, inbound).await.ok();
            }
        }
    });
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_protocol_wins_otherwise_the_clients_first() {
        let name = |offered: &[&str]| negotiate(offered).map(|p| p.name);
        assert_eq!(name(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Some("v5.channel.k8s.io"));
        assert_eq!(name(&["x", "base64.channel.k8s.io", "v4.channel.k8s.io"]), Some("base64.channel.k8s.io"));
        assert_eq!(name(&[]), Some(""));
        assert_eq!(name(&["v6.channel.k8s.io"]), None);
    }

    #[test]
    fn messages_and_their_channels() {
        let [v5, v4, v4_base64, ..] = PROTOCOLS;
        let data = |n, b: &'static [u8]| Incoming::Data(n, Bytes::from_static(b));
        assert_eq!(unpack(v5, Bytes::from_static(b"\x00hi")), data(0, b"hi"));
        assert_eq!(unpack(v5, Bytes::from_static(&[255, 0])), Incoming::End(0));
        assert_eq!(unpack(v5, Bytes::from_static(&[255])), Incoming::Malformed);
        assert_eq!(unpack(v5, Bytes::from_static(&[255, 9])), Incoming::Malformed);
        assert_eq!(unpack(v4, Bytes::from_static(&[255, 0])), data(255, &[0]));
        assert_eq!(unpack(v4_base64, Bytes::from_static(b"0Zm9v")), data(0, b"foo"));
        assert_eq!(unpack(v4_base64, Bytes::from_static(b"0!")), Incoming::Nothing);
        assert_eq!(unpack(v4, Bytes::new()), Incoming::Nothing);
        assert_eq!(pack(1, true, b"foo"), Message::text("1Zm9v"));
        assert_eq!(pack(1, false, b"foo"), Message::binary(b"\x01foo".to_vec()));
    }
}
