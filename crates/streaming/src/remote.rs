//! exec, attach and run: the client's streams on one side, the engine's session on the other.
//!
//! A remote command ends when its process has ended and everything it wrote has been sent, or when the client goes away;
//! then the session is dropped, which detaches. Follows `cri-streaming/pkg/streaming/remotecommand`.

use super::spdy::{Connection, NewStream};
use super::streams::{Ended, Gone, Output, Remote, Sizes, Wanted};
use super::websocket;
use crate::answer::{Body, Refusal, empty};
use crate::session::{Io, Reader, Session, SessionControl, SessionError, StreamRequest, Writer};
use bytes::{Bytes, BytesMut};
use futures_util::future::join;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// A client opens its streams within this time (`DefaultStreamCreationTimeout`).
pub(crate) const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one read of output.
const CHUNK: usize = 32 * 1024;
/// What `/run` answers at most.
const RUN_OUTPUT_MAX: usize = 16 << 20;

/// Subprotocols of SPDY clients, ours first (`SupportedStreamingProtocols`).
const SPDY_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// Negotiates a subprotocol of a SPDY upgrade: the client's first that we know (`httpstream.Handshake`).
pub(crate) fn switch_to_spdy(
    headers: &HeaderMap,
    ours: &[&'static str],
) -> Result<(&'static str, Response<Body>), Refusal> {
    const VERSION: &str = "x-stream-protocol-version";
    const ACCEPTED: &str = "x-accept-stream-protocol-versions";
    let values = headers.get_all(VERSION).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect();
    if offered.is_empty() {
        let text = "unable to upgrade: header X-Stream-Protocol-Version does not exist in request\n";
        return Err(Refusal::new(400, text));
    }
    let Some(chosen) = offered.iter().find_map(|o| ours.iter().copied().find(|p| p == o)) else {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}\n"
        );
        let accepted = ours.iter().map(|p| (HeaderName::from_static(ACCEPTED), HeaderValue::from_static(p)));
        return Err(Refusal { headers: accepted.collect(), ..Refusal::new(403, text) });
    };
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        return Err(Refusal::new(400, "unable to upgrade: missing upgrade headers in request\n"));
    }
    let mut response = empty(101);
    let head = response.headers_mut();
    head.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    head.insert(HeaderName::from_static(VERSION), HeaderValue::from_static(chosen));
    Ok((chosen, response))
}

/// Which protocol the client gets on the upgraded connection.
#[derive(Debug, Clone, Copy)]
pub enum Protocol {
    /// With its subprotocol.
    WebSocket(websocket::Protocol),
    /// With its subprotocol.
    Spdy(&'static str),
}

/// Chooses the protocol and answers the handshake.
pub fn handshake(headers: &HeaderMap) -> Result<(Protocol, Response<Body>), Refusal> {
    if !websocket::is_request(headers) {
        let (name, response) = switch_to_spdy(headers, &SPDY_PROTOCOLS)?;
        return Ok((Protocol::Spdy(name), response));
    }
    let offered = websocket::offered(headers);
    let Some(protocol) = websocket::negotiate(&offered) else {
        let text = format!("requested protocol(s) are not supported: {offered:?}");
        return Err(Refusal::new(403, text));
    };
    let response = websocket::switch(headers, protocol.name)?;
    Ok((Protocol::WebSocket(protocol), response))
}

/// What is to be done with the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Run a command.
    Exec,
    /// See the first process.
    Attach,
}

/// Serves an upgraded connection to its end. `open` makes the session, with those of the wanted streams that the client has opened.
pub async fn serve<F, E>(
    io: impl Io + 'static,
    protocol: Protocol,
    what: What,
    wanted: Wanted,
    command: Vec<String>,
    open: impl FnOnce(StreamRequest) -> F,
) where
    F: Future<Output = Result<Session, E>>,
    E: std::fmt::Display,
{
    let remote = match protocol {
        Protocol::WebSocket(protocol) => websocket::remote(io, protocol, wanted).await,
        Protocol::Spdy(name) => spdy_remote(io, name, wanted).await,
    };
    let Ok(mut remote) = remote else {
        tracing::debug!("the client went away before its streams were there");
        return;
    };
    let request = StreamRequest {
        command: command.clone(),
        tty: wanted.tty,
        stdin: remote.stdin.is_some(),
        stdout: remote.stdout.is_some(),
        stderr: remote.stderr.is_some(),
    };
    let session = open(request).await;
    let doing = match what {
        What::Exec => "error executing command in container",
        What::Attach => "error attaching to container",
    };
    let gone = remote.gone.clone();
    let ended = match session {
        Err(error) => Ended::failed(doing, &error),
        Ok(session) => tokio::select! {
            ended = run(&mut remote, session, what, command) => ended.unwrap_or_else(|e| Ended::failed(doing, &e)),
            () = gone.cancelled() => return,
        },
    };
    let status = ended.encode(remote.json_status);
    let told = async {
        if !status.is_empty() {
            remote.error.write(status).await?;
        }
        remote.error.finish().await
    };
    if told.await.is_ok() {
        remote.close.await;
    }
}

/// Joins both sides until the process has ended and all of its output is on its way.
async fn run(remote: &mut Remote, session: Session, what: What, command: Vec<String>) -> Result<Ended, SessionError> {
    let Session { stdin, stdout, stderr, control } = session;
    let has_output = stdout.is_some() || stderr.is_some();
    let input = feed(remote.stdin.take(), stdin);
    let sizes = resize(remote.resize.take(), control.as_ref());
    let outputs = join(drain(stdout, remote.stdout.as_ref()), drain(stderr, remote.stderr.as_ref()));
    let process = async {
        match what {
            What::Exec => {
                let (code, _) = join(control.wait(), outputs).await;
                code.map(|code| if code == 0 { Ended::Success } else { Ended::Exit { command, code } })
            }
            // The output ends with the container; its exit code is not the client's.
            What::Attach if has_output => {
                outputs.await;
                Ok(Ended::Success)
            }
            What::Attach => control.wait().await.map(|_| Ended::Success),
        }
    };
    let aside = join(input, sizes);
    tokio::pin!(process, aside);
    tokio::select! {
        ended = &mut process => ended,
        _ = &mut aside => (&mut process).await,
    }
}

/// Client to process; then the process' input is closed.
async fn feed(from: Option<mpsc::Receiver<Bytes>>, to: Option<Writer>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(bytes) = from.recv().await {
        // A process that reads no more goes on without input.
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "closing standard input");
    }
}

async fn resize(from: Option<mpsc::Receiver<Bytes>>, control: &dyn SessionControl) {
    let Some(mut from) = from else { return };
    let mut sizes = Sizes::default();
    while let Some(bytes) = from.recv().await {
        match sizes.push(&bytes) {
            // Upstream, too, minds only sizes that are none (`HandleResizing`).
            Ok(Some((columns, rows))) if columns > 0 && rows > 0 => {
                if let Err(error) = control.resize(columns, rows).await {
                    tracing::debug!(%error, "failed to resize a terminal");
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Process to client. A client that is gone ends everything elsewhere, so the rest is not read.
async fn drain(from: Option<Reader>, to: Option<&Output>) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        // An output that breaks is an output that ends.
        let Ok(1..) = from.read_buf(&mut buffer).await else { break };
        let bytes = buffer.split().freeze();
        if let Some(to) = to
            && to.write(bytes).await.is_err()
        {
            return;
        }
    }
    if let Some(to) = to {
        // A client that is gone needs no end.
        to.finish().await.ok();
    }
}

// === SPDY ===

async fn spdy_remote(io: impl Io + 'static, protocol: &str, wanted: Wanted) -> Result<Remote, Gone> {
    let resizes = matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let mut expected = vec!["error"];
    let all = [
        (wanted.stdin, "stdin"),
        (wanted.stdout, "stdout"),
        (wanted.stderr, "stderr"),
        (wanted.tty && resizes, "resize"),
    ];
    expected.extend(all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name));
    let mut connection = Connection::new(io);
    let streams = tokio::time::timeout(STREAM_CREATION_TIMEOUT, collect(&mut connection, &expected)).await;
    let mut accepted = match streams {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return Err(Gone),
        Err(_) => {
            tracing::debug!("timed out waiting for client to create streams");
            connection.close().await;
            return Err(Gone);
        }
    };
    connection.refuse_more();
    let (_, error) = accepted.remove("error").ok_or(Gone)?;
    let mut output = |name| accepted.remove(name).map(|(_, writer)| Output::Spdy(writer));
    let (stdout, stderr) = (output("stdout"), output("stderr"));
    let mut input = |name| accepted.remove(name).map(|(input, _)| input);
    Ok(Remote {
        stdin: input("stdin"),
        stdout,
        stderr,
        resize: input("resize"),
        error: Output::Spdy(error),
        json_status: protocol == "v4.channel.k8s.io",
        gone: connection.gone(),
        close: Box::pin(connection.close()),
    })
}

type Accepted = (mpsc::Receiver<Bytes>, super::spdy::StreamWriter);

/// Waits for all expected streams, answering each at once: the client opens the next one only then.
async fn collect(connection: &mut Connection, expected: &[&'static str]) -> Option<BTreeMap<&'static str, Accepted>> {
    let mut streams = BTreeMap::new();
    while streams.len() < expected.len() {
        let stream: NewStream = connection.next().await?;
        let kind = stream.header("streamtype").to_owned();
        match expected.iter().find(|e| **e == kind) {
            Some(name) if !streams.contains_key(name) => drop(streams.insert(*name, stream.accept().await.ok()?)),
            _ => stream.refuse().await,
        }
    }
    Some(streams)
}

// === run ===

/// Lets a command of a session run to its end and returns what it wrote (`RunInContainer`).
pub async fn run_to_end(session: Session) -> Result<Vec<u8>, Refusal> {
    let internal = |e: SessionError| Refusal::new(500, e.to_string());
    let Session { stdin, stdout, stderr, control } = session;
    drop(stdin);
    let ((mut out, err), code) = join(join(read_all(stdout), read_all(stderr)), control.wait()).await;
    out.extend(err);
    match code.map_err(internal)? {
        0 => Ok(out),
        code => Err(Refusal::new(500, format!("command terminated with exit code {code}"))),
    }
}

async fn read_all(from: Option<Reader>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let mut chunk = vec![0; CHUNK];
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            // What is too much is read, so that the command can end, and dropped.
            let room = RUN_OUTPUT_MAX - bytes.len();
            bytes.extend_from_slice(&chunk[..n.min(room)]);
        }
    }
    bytes
}
