//! Port-forward: pairs of streams (data, error), each joined to a connection into the pod.
//!
//! The connection is SPDY/3.1 with one `requestID` for a pair, either by itself or inside the binary messages of a WebSocket
//! (`SPDY/3.1+portforward.k8s.io`); or, from older clients, a WebSocket with a pair of channels for each port of the query.
//! Follows `cri-streaming/pkg/streaming/portforward/{httpstream,websocket}.go`. A stream whose partner does not come is given up
//! after a while; so are all streams when the client goes away.

use super::remote::{STREAM_CREATION_TIMEOUT, switch_to_spdy};
use super::spdy::{Connection, NewStream, StreamWriter};
use super::streams::{Gone, Output};
use super::websocket::{self, PortChannels};
use crate::answer::{Body, Refusal};
use crate::session::{Io, SessionError};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// Of one WebSocket: a channel is one byte, in `base64.` protocols one character.
const MAX_PORTS: usize = 32;
/// Bytes of one read from the pod.
const CHUNK: usize = 32 * 1024;

/// A connection into a pod.
pub type Dialed = Box<dyn Io>;

/// Connects to `localhost:port` inside the pod's network namespace.
pub type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<Dialed, SessionError>> + Send + Sync>;

/// Which pod.
#[derive(Clone)]
pub struct PodRef {
    /// The way into it.
    pub dial: Dial,
    /// For messages: `web, uid 1-2-3`.
    pub name: String,
}

/// [`Dial`] for those who have the network namespace.
pub async fn connect(netns: OwnedFd, port: u16) -> Result<Dialed, SessionError> {
    let connected = tokio::task::spawn_blocking(move || net::pod::connect_local(netns, port)).await;
    let failed = |error: &dyn std::fmt::Display| {
        format!("failed to connect to localhost:{port} inside the pod's network namespace: {error}")
    };
    let stream = connected.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    stream.set_nonblocking(true).map_err(|e| failed(&e))?;
    Ok(Box::new(TcpStream::from_std(stream).map_err(|e| failed(&e))?))
}

/// What the streams are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// The connection itself.
    Spdy,
    /// SPDY inside a WebSocket.
    Tunnel,
    /// Channels of a WebSocket, for these ports.
    Channels(websocket::Protocol, Vec<u16>),
}

/// What the streams come in, and the answer to the handshake. `ports` are the values of the query's `port`.
pub fn handshake(headers: &HeaderMap, ports: &[&str]) -> Result<(Carrier, Response<Body>), Refusal> {
    if !websocket::is_request(headers) {
        return switch_to_spdy(headers, &[PROTOCOL]).map(|(_, response)| (Carrier::Spdy, response));
    }
    let offered = websocket::offered(headers);
    if offered.contains(&TUNNELLED) {
        return Ok((Carrier::Tunnel, websocket::switch(headers, TUNNELLED)?));
    }
    let bad = |text: String| Refusal::new(400, text);
    let ports = parse_ports(ports).map_err(bad)?;
    let protocol = websocket::negotiate_ports(&offered)
        .ok_or_else(|| bad(format!("port-forward over WebSocket with {offered:?} is not supported\n")))?;
    let response = websocket::switch(headers, protocol.name)?;
    Ok((Carrier::Channels(protocol, ports), response))
}

/// `NewV4Options`.
fn parse_ports(values: &[&str]) -> Result<Vec<u16>, String> {
    if values.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let mut ports = Vec::new();
    for value in values {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for text in value.split(',') {
            match text.parse() {
                Ok(0) => return Err(format!("port {text:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(_) => return Err(format!("unable to parse {value:?} as a port")),
            }
        }
    }
    if ports.len() > MAX_PORTS {
        return Err(format!("{} ports in one WebSocket are too many, at most {MAX_PORTS}", ports.len()));
    }
    Ok(ports)
}

/// Serves an upgraded connection to its end.
pub async fn serve(io: impl Io + 'static, carrier: Carrier, pod: PodRef) {
    match carrier {
        Carrier::Spdy => serve_spdy(Connection::new(io), pod).await,
        Carrier::Tunnel => serve_spdy(Connection::new(websocket::tunnel(io).await), pod).await,
        Carrier::Channels(protocol, ports) => serve_channels(io, protocol, &ports, pod).await,
    }
}

async fn serve_channels(io: impl Io + 'static, protocol: websocket::Protocol, ports: &[u16], pod: PodRef) {
    // A client that is gone already needs nothing.
    let Ok((wire, channels)) = websocket::ports(io, protocol, ports).await else { return };
    let forwards = channels
        .into_iter()
        .map(|PortChannels { port, input, data, error }| forward(pod.clone(), Pair { port, input, data, error }));
    futures_util::future::join_all(forwards).await;
    wire.close().await;
}

async fn serve_spdy(mut connection: Connection, pod: PodRef) {
    let forwards = TaskTracker::new();
    let mut pairs: HashMap<String, Half> = HashMap::new();
    loop {
        let deadline = pairs.values().map(|half| half.deadline).min();
        let stream = tokio::select! {
            stream = connection.next() => stream,
            () = sleep_until(deadline) => {
                give_up(&mut pairs).await;
                continue;
            }
        };
        let Some(stream) = stream else { break };
        if let Some(pair) = take(&mut pairs, stream).await {
            base::tasks::detach("port-forward", forwards.track_future(forward(pod.clone(), pair)));
        }
    }
    connection.close().await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// The first stream of a pair.
struct Half {
    kind: Kind,
    stream: (mpsc::Receiver<Bytes>, StreamWriter),
    port: u16,
    deadline: Instant,
}

struct Pair {
    port: u16,
    input: mpsc::Receiver<Bytes>,
    data: Output,
    error: Output,
}

/// Which pair a stream belongs to; `None`: it is to be refused (`httpStreamReceived`, `requestID`).
fn classify(stream: &NewStream) -> Option<(String, Kind, u16)> {
    let port = stream.header("port").parse::<u16>().ok().filter(|p| *p > 0)?;
    let kind = match stream.header("streamtype") {
        "data" => Kind::Data,
        "error" => Kind::Error,
        _ => return None,
    };
    // Old clients give no id: they open the error stream, then the data stream with the next odd number.
    let request = match (stream.header("requestid"), kind) {
        ("", Kind::Error) => stream.id.to_string(),
        ("", Kind::Data) => stream.id.checked_sub(2)?.to_string(),
        (id, _) => id.to_owned(),
    };
    Some((request, kind, port))
}

async fn take(pairs: &mut HashMap<String, Half>, stream: NewStream) -> Option<Pair> {
    let Some((request, kind, port)) = classify(&stream) else {
        stream.refuse().await;
        return None;
    };
    // If the client is gone, the connection says so next.
    let accepted = stream.accept().await.ok()?;
    match pairs.remove(&request) {
        None => {
            let deadline = Instant::now() + STREAM_CREATION_TIMEOUT;
            pairs.insert(request, Half { kind, stream: accepted, port, deadline });
            None
        }
        Some(half) if half.kind == kind => {
            // Twice the same: the second one is wrong.
            accepted.1.reset().await.ok();
            pairs.insert(request, half);
            None
        }
        Some(half) => {
            let (data, error, port) =
                if kind == Kind::Data { (accepted, half.stream, port) } else { (half.stream, accepted, half.port) };
            Some(Pair { port, input: data.0, data: Output::Spdy(data.1), error: Output::Spdy(error.1) })
        }
    }
}

/// Streams whose partners did not come.
async fn give_up(pairs: &mut HashMap<String, Half>) {
    let now = Instant::now();
    let late: Vec<String> = pairs.iter().filter(|(_, h)| h.deadline <= now).map(|(id, _)| id.clone()).collect();
    for id in late {
        if let Some(half) = pairs.remove(&id) {
            if half.kind == Kind::Error {
                // A client that is gone needs no explanation.
                half.stream.1.write(Bytes::from_static(b"timed out waiting for streams")).await.ok();
            }
            half.stream.1.reset().await.ok();
        }
    }
}

/// Joins a pair to a connection into the pod.
async fn forward(pod: PodRef, pair: Pair) {
    let Pair { port, input, data, error } = pair;
    // Both streams end whatever happened; a client that is gone needs no end.
    match (pod.dial)(port).await {
        Ok(dialed) => {
            tokio::select! {
                () = copy(dialed, input, &data) => {}
                () = data.gone() => {}
            }
            data.finish().await.ok();
            error.finish().await.ok();
        }
        Err(why) => {
            let text = format!("error forwarding port {port} to pod {}: {why}", pod.name);
            tracing::debug!("{text}");
            error.write(text.into()).await.ok();
            error.finish().await.ok();
            data.reset().await.ok();
        }
    }
}

/// Both ways at once, until the pod has ended its side. A client that ends its side still gets the answer.
async fn copy(dialed: Dialed, input: mpsc::Receiver<Bytes>, data: &Output) {
    let (reader, writer) = tokio::io::split(dialed);
    let inbound = into_pod(input, writer);
    let outbound = out_of_pod(reader, data);
    tokio::pin!(inbound, outbound);
    tokio::select! {
        _ = &mut outbound => {}
        () = &mut inbound => drop(outbound.await),
    }
}

async fn into_pod(mut input: mpsc::Receiver<Bytes>, mut writer: WriteHalf<Dialed>) {
    while let Some(bytes) = input.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            // The pod reads no more; it may still write.
            return;
        }
    }
    // A connection that is gone needs no end.
    writer.shutdown().await.ok();
}

async fn out_of_pod(mut reader: ReadHalf<Dialed>, data: &Output) -> Result<(), Gone> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        // A connection that breaks is a connection that ends.
        let Ok(1..) = reader.read_buf(&mut buffer).await else { return Ok(()) };
        data.write(buffer.split().freeze()).await?;
    }
}
