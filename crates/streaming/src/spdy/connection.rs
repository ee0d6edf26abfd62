//! Two tasks per connection: one reads frames and hands them to streams, one writes frames. Both end with the socket, or
//! when the [`Connection`] is closed or dropped.

use super::frame::{Decoder, Encoder, Frame, FrameError, Headers, Reset};
use crate::session::Io;
use crate::streams::Gone;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces that wait for a stream's reader; then the connection waits.
const INPUT_QUEUE: usize = 32;
/// Frames that wait for the socket.
const OUTPUT_QUEUE: usize = 32;
/// Streams that wait to be accepted.
const ACCEPT_QUEUE: usize = 16;
/// Streams of one connection at one time.
const MAX_STREAMS: usize = 2000;
/// Bytes of one read, and the most that is collected before a write.
const CHUNK: usize = 64 * 1024;
/// How long a peer gets to close its side after we have closed ours.
const LINGER: Duration = Duration::from_secs(5);

enum Command {
    Frame(Frame),
    /// GOAWAY and the end.
    Close,
}

/// A connection on which the peer opens streams.
pub(crate) struct Connection {
    accepted: mpsc::Receiver<NewStream>,
    out: mpsc::Sender<Command>,
    gone: CancellationToken,
}

/// A stream that the peer has opened and that has not been answered yet.
pub(crate) struct NewStream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    /// What the peer sends; ends when the peer ends it.
    pub(crate) input: mpsc::Receiver<Bytes>,
    writer: StreamWriter,
}

/// Our half of a stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamWriter {
    id: u32,
    out: mpsc::Sender<Command>,
    /// The peer gave up this stream, or the connection is gone.
    gone: CancellationToken,
    /// Tells the reader that somebody still holds this half.
    _held: Arc<()>,
}

#[derive(Debug, Error)]
enum ReadError {
    #[error("failed to read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("too many streams")]
    TooManyStreams,
}

impl Connection {
    pub(crate) fn new(io: impl Io + 'static) -> Self {
        let (reader, writer) = tokio::io::split(io);
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (out, commands) = mpsc::channel(OUTPUT_QUEUE);
        let gone = CancellationToken::new();
        let state = Reader { accept, out: out.downgrade(), gone: gone.clone(), streams: HashMap::new(), last: 0 };
        let (ends, token) = (gone.clone(), gone.clone());
        base::tasks::detach("spdy-reader", async move {
            let _ends = ends.drop_guard();
            if let Err(error) = state.run(reader).await {
                tracing::debug!(error = %base::chain(&error), "SPDY connection ended");
            }
        });
        base::tasks::detach("spdy-writer", async move {
            let _ends = token.clone().drop_guard();
            if let Err(error) = write(writer, commands, token).await {
                tracing::debug!(%error, "SPDY connection cannot be written");
            }
        });
        Connection { accepted, out, gone }
    }

    /// The next stream; `None`: the peer is gone.
    pub(crate) async fn next(&mut self) -> Option<NewStream> {
        tokio::select! {
            biased;
            stream = self.accepted.recv() => stream,
            () = self.gone.cancelled() => None,
        }
    }

    /// Whatever the peer opens from now on is refused.
    pub(crate) fn refuse_more(&mut self) {
        self.accepted.close();
    }

    /// Ready when the peer is gone.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Says goodbye and waits until everything is written and the peer has closed, but not for ever.
    pub(crate) async fn close(self) {
        // If the writer is gone, so is the peer.
        if self.out.send(Command::Close).await.is_ok() {
            tokio::time::timeout(LINGER, self.gone.cancelled()).await.ok();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl NewStream {
    /// A header by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Answers the stream. Before this, the peer drops what we send.
    pub(crate) async fn accept(self) -> Result<(mpsc::Receiver<Bytes>, StreamWriter), Gone> {
        let reply = Frame::SynReply { id: self.id, fin: false, headers: Headers::new() };
        self.writer.send(reply).await?;
        Ok((self.input, self.writer))
    }

    /// Refuses the stream.
    pub(crate) async fn refuse(self) {
        // A peer that is gone needs no answer.
        self.writer.reset().await.ok();
    }
}

impl StreamWriter {
    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Gone),
            sent = self.out.send(Command::Frame(frame)) => sent.map_err(|_| Gone),
        }
    }

    /// Sends data.
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        self.send(Frame::Data { id: self.id, fin: false, bytes }).await
    }

    /// Ends our half.
    pub(crate) async fn finish(&self) -> Result<(), Gone> {
        self.send(Frame::Data { id: self.id, fin: true, bytes: Bytes::new() }).await
    }

    /// Gives up both halves.
    pub(crate) async fn reset(&self) -> Result<(), Gone> {
        self.send(Frame::RstStream { id: self.id, status: Reset::Cancel as u32 }).await
    }

    /// Ready when the peer has given up this stream.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

struct Entry {
    /// `None`: the peer has ended its half.
    input: Option<mpsc::Sender<Bytes>>,
    gone: CancellationToken,
    held: Weak<()>,
}

impl Entry {
    /// Nobody writes, and nobody reads what the peer may still send.
    fn is_over(&self) -> bool {
        self.gone.is_cancelled()
            || self.held.strong_count() == 0 && self.input.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

struct Reader {
    accept: mpsc::Sender<NewStream>,
    // Weak: a connection that nobody writes to any more must end.
    out: mpsc::WeakSender<Command>,
    gone: CancellationToken,
    streams: HashMap<u32, Entry>,
    last: u32,
}

impl Reader {
    async fn run(mut self, mut socket: ReadHalf<impl Io>) -> Result<(), ReadError> {
        let gone = self.gone.clone();
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::with_capacity(CHUNK);
        loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                let goes_on = tokio::select! {
                    biased;
                    () = gone.cancelled() => return Ok(()),
                    goes_on = self.take(frame) => goes_on?,
                };
                if !goes_on {
                    return Ok(());
                }
            }
            buffer.reserve(CHUNK);
            let read = tokio::select! {
                biased;
                () = gone.cancelled() => return Ok(()),
                read = socket.read_buf(&mut buffer) => read?,
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    async fn take(&mut self, frame: Frame) -> Result<bool, ReadError> {
        match frame {
            Frame::SynStream { id, fin, headers } => self.open(id, fin, headers).await?,
            Frame::Data { id, fin, bytes } => self.data(id, fin, bytes).await,
            Frame::RstStream { id, .. } => {
                if let Some(entry) = self.streams.remove(&id) {
                    entry.gone.cancel();
                }
            }
            // Ours would be even; the peer's odd ones are sent back.
            Frame::Ping { id } if id % 2 == 1 => self.reply(Frame::Ping { id }).await,
            Frame::GoAway { .. } => return Ok(false),
            Frame::Ping { .. } | Frame::SynReply { .. } | Frame::Ignored => {}
        }
        Ok(true)
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), ReadError> {
        self.streams.retain(|_, entry| !entry.is_over());
        if self.streams.len() >= MAX_STREAMS {
            return Err(ReadError::TooManyStreams);
        }
        if id <= self.last || id.is_multiple_of(2) {
            self.reply(Frame::RstStream { id, status: Reset::ProtocolError as u32 }).await;
            return Ok(());
        }
        self.last = id;
        let Some(out) = self.out.upgrade() else { return Ok(()) };
        let (sender, input) = mpsc::channel(INPUT_QUEUE);
        let gone = self.gone.child_token();
        let held = Arc::new(());
        let entry = Entry { input: (!fin).then_some(sender), gone: gone.clone(), held: Arc::downgrade(&held) };
        self.streams.insert(id, entry);
        let stream = NewStream { id, headers, input, writer: StreamWriter { id, out, gone, _held: held } };
        if self.accept.send(stream).await.is_err() {
            self.reply(Frame::RstStream { id, status: Reset::RefusedStream as u32 }).await;
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        if let Some(input) = &entry.input
            && !bytes.is_empty()
        {
            tokio::select! {
                () = entry.gone.cancelled() => {}
                // The error gives the bytes back; nobody is there to read them.
                sent = input.send(bytes) => drop(sent),
            }
        }
        if fin {
            entry.input = None;
        }
    }

    async fn reply(&self, frame: Frame) {
        if let Some(out) = self.out.upgrade() {
            // If the writer is gone, the reader is about to end, too.
            out.send(Command::Frame(frame)).await.ok();
        }
    }
}

async fn write(
    mut socket: WriteHalf<impl Io>,
    mut commands: mpsc::Receiver<Command>,
    gone: CancellationToken,
) -> io::Result<()> {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        let command = tokio::select! {
            biased;
            command = commands.recv() => command,
            () = gone.cancelled() => None,
        };
        let mut closing = !put(&mut encoder, command, &mut buffer);
        while !closing && buffer.len() < CHUNK {
            match commands.try_recv() {
                Ok(command) => closing = !put(&mut encoder, Some(command), &mut buffer),
                Err(_) => break,
            }
        }
        socket.write_all(&buffer).await?;
        socket.flush().await?;
        buffer.clear();
        if closing {
            socket.shutdown().await?;
            // The reader goes on until the peer has closed its side; Connection::close waits for that.
            drop(commands);
            gone.cancelled().await;
            return Ok(());
        }
    }
}

/// Whether the connection goes on.
fn put(encoder: &mut Encoder, command: Option<Command>, buffer: &mut BytesMut) -> bool {
    match command {
        Some(Command::Frame(frame)) => {
            encoder.encode(&frame, buffer);
            true
        }
        Some(Command::Close) => {
            encoder.encode(&Frame::GoAway { last: 0 }, buffer);
            false
        }
        None => false,
    }
}
