//! Streams after an upgrade: SPDY frames, remote commands over WebSocket and SPDY, forwarded ports.

use async_trait::async_trait;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use streaming::port_forward::{self, Carrier, PodRef};
use streaming::remote::{self, What};
use streaming::session::{Session, SessionControl, SessionError};
use streaming::spdy::{Decoder, Encoder, Frame};
use streaming::{StreamRequest, Wanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

// === frames ===

fn opening(id: u32, pairs: &[(&str, &str)]) -> Frame {
    let headers: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Frame::SynStream { id, fin: false, headers }
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    frames.iter().for_each(|frame| encoder.encode(frame, &mut out));
    out.to_vec()
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    vec![
        encoded(&[opening(1, &[("streamtype", "stdin")]), opening(3, &[("streamtype", "error"), ("port", "80")])]),
        encoded(&[Frame::Ping { id: 1 }, Frame::RstStream { id: 1, status: 5 }]),
    ]
}

/// Frames that were read, written and read again are the same.
pub(crate) fn frames(input: &[u8]) {
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let (mut back, mut written) = (Decoder::new(), BytesMut::new());
    let mut input = BytesMut::from(input);
    while let Ok(Some(frame)) = decoder.decode(&mut input) {
        if frame == Frame::Ignored {
            continue;
        }
        encoder.encode(&frame, &mut written);
        let again = back.decode(&mut written).expect("what was written").expect("a whole frame");
        assert_eq!(again, frame);
    }
}

// === conversations ===

/// A process that says what it hears, until it hears no more.
struct Echo(tokio::sync::watch::Receiver<bool>);

#[async_trait]
impl SessionControl for Echo {
    async fn resize(&self, _: u16, _: u16) -> Result<(), SessionError> {
        Ok(())
    }
    async fn wait(&self) -> Result<i32, SessionError> {
        self.0.clone().wait_for(|ended| *ended).await?;
        Ok(0)
    }
}

fn echo(request: &StreamRequest) -> Session {
    let (stdin, mut heard) = tokio::io::duplex(256);
    let (stdout, mut said) = tokio::io::duplex(256);
    let (end, ended) = tokio::sync::watch::channel(false);
    base::tasks::detach("echo", async move {
        tokio::io::copy(&mut heard, &mut said).await.ok();
        drop(said);
        end.send(true).ok();
    });
    Session {
        stdin: request.stdin.then(|| Box::new(stdin) as _),
        stdout: request.stdout.then(|| Box::new(stdout) as _),
        stderr: None,
        control: Box::new(Echo(ended)),
    }
}

/// Says `input` to a server and hangs up; the server must have ended within some minutes (that cost no time).
fn converse<F: Future<Output = ()> + Send + 'static>(input: &[u8], serve: impl FnOnce(DuplexStream) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (client, server) = tokio::io::duplex(512);
        let served = base::tasks::spawn("server", serve(server));
        let (mut from, mut to) = tokio::io::split(client);
        let hearing = base::tasks::spawn("client", async move {
            let mut sink = Vec::new();
            from.read_to_end(&mut sink).await.ok();
        });
        // A server that has hung up hears no more.
        to.write_all(input).await.ok();
        to.shutdown().await.ok();
        let ended = tokio::time::timeout(Duration::from_secs(600), served).await;
        ended.expect("the server ends when its client is gone").expect("no panic");
        hearing.abort();
    });
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
}

fn websocket_headers(protocol: &'static str) -> HeaderMap {
    headers(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", protocol),
    ])
}

fn spdy_headers(protocol: &'static str) -> HeaderMap {
    headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)])
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend([0; 4]); // A mask of zeros changes nothing.
    frame.extend(payload);
    frame
}

const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];

/// The first byte chooses the protocol and the streams.
pub(crate) fn remote_seeds() -> Vec<Vec<u8>> {
    let websocket =
        [masked(2, b"\0hello"), masked(2, b"\x04{\"Width\":80,\"Height\":24}"), masked(2, b"\xff\0")].concat();
    let base64 = [masked(1, b"0aGVsbG8="), masked(9, b"ping"), masked(8, b"\x03\xe8")].concat();
    let streams = ["error", "stdin", "stdout", "resize"];
    let mut open: Vec<Frame> = (1..).step_by(2).zip(streams).map(|(id, s)| opening(id, &[("streamtype", s)])).collect();
    open.push(Frame::Ping { id: 1 });
    let first = |byte: u8, rest: &[u8]| [&[byte], rest].concat();
    vec![first(0x70, &websocket), first(0x32, &base64), first(0x77, &encoded(&open))]
}

pub(crate) fn remote(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let has = |bit: u8| choice & bit != 0;
    let wanted = Wanted { stdin: has(0x10), stdout: has(0x20), tty: has(0x40), stderr: has(0x80) };
    let head = match PROTOCOLS.get(usize::from(choice & 7)) {
        Some(protocol) => websocket_headers(protocol),
        None => spdy_headers("v4.channel.k8s.io"),
    };
    let (protocol, _) = remote::handshake(&head).expect("protocols that we know");
    converse(rest, |io| {
        let open = |request: StreamRequest| async move { Ok::<_, SessionError>(echo(&request)) };
        remote::serve(io, protocol, What::Exec, wanted, vec!["cat".into()], open)
    });
}

pub(crate) fn forward_seeds() -> Vec<Vec<u8>> {
    let open = |id, kind, request| opening(id, &[("streamtype", kind), ("port", "80"), ("requestid", request)]);
    let spdy = encoded(&[open(1, "error", "0"), open(3, "data", "0"), open(5, "data", "1"), Frame::Ping { id: 1 }]);
    let tunnelled = masked(2, &spdy);
    vec![[&[0], spdy.as_slice()].concat(), [&[1], tunnelled.as_slice()].concat()]
}

/// The first byte says whether SPDY comes in a WebSocket.
pub(crate) fn forward(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let carrier = if choice & 1 == 1 { Carrier::Tunnel } else { Carrier::Spdy };
    let dial: port_forward::Dial = Arc::new(|port| {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(256);
            let (mut from, mut to) = tokio::io::split(theirs);
            base::tasks::detach("echo", async move {
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
            if port == 1 { Err("refused".into()) } else { Ok(Box::new(ours) as port_forward::Dialed) }
        })
    });
    let pod = PodRef { dial, name: "web".into() };
    converse(rest, |io| port_forward::serve(io, carrier, pod));
}
