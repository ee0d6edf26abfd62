//! What a connection writes in one turn goes out together.
//!
//! HTTP/2 flushes every frame of data by itself, and streams get ready one by one: many answers at a time, or an event for
//! many watches, would be a TLS record, a system call and a packet each. Here frames are gathered, and sent when the
//! connection's task has had its turn; where that has paid before, it lets the tasks of other streams have theirs first.
//! Nothing waits for time to pass.

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than this is sent at once.
const MOST: usize = 64 << 10;
/// A piece of this size is worth a record of its own, and is not copied for others to come along.
const LARGE: usize = 8 << 10;
/// After it was in vain to let others have their turn, so many turns go without.
const PATIENCE: u8 = 15;

/// A stream that a [`Gatherer`] sends for.
pub(crate) struct Gathered<S> {
    shared: Arc<Mutex<Shared<S>>>,
}

/// Sends what was gathered.
pub(crate) struct Gatherer<S> {
    shared: Arc<Mutex<Shared<S>>>,
    others: Arc<Others>,
    /// Bytes there were when others were let have their turn.
    before: Option<usize>,
    /// Turns to go without that.
    hurried: u8,
}

/// Whether all tasks that were ready have run.
#[derive(Default)]
struct Others {
    have_run: AtomicBool,
    connection: AtomicWaker,
}

impl Others {
    fn begin(self: &Arc<Self>, connection: &Waker) {
        self.have_run.store(false, Ordering::Relaxed);
        self.connection.register(connection);
        // Its first poll has us woken when nothing else is left to run, or has run for long.
        let asked: Poll<()> = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&self.clone().into()));
        debug_assert!(asked.is_pending());
    }
}

impl Wake for Others {
    fn wake(self: Arc<Self>) {
        self.have_run.store(true, Ordering::Release);
        self.connection.wake();
    }
}

struct Shared<S> {
    stream: S,
    gathers: bool,
    buffer: Vec<u8>,
    /// Of the buffer, sent already.
    sent: usize,
    /// The stream may have kept some of what it was given.
    unflushed: bool,
}

/// The two halves of a stream that `gathers`, or passes on everything at once. Whoever gathers must be polled through
/// [`Gatherer::turn`].
pub(crate) fn gather<S>(stream: S, gathers: bool) -> (Gathered<S>, Gatherer<S>) {
    let shared = Shared { stream, gathers, buffer: Vec::new(), sent: 0, unflushed: false };
    let shared = Arc::new(Mutex::new(shared));
    (Gathered { shared: shared.clone() }, Gatherer { shared, others: Arc::default(), before: None, hurried: 0 })
}

impl<S: AsyncWrite + Unpin> Gatherer<S> {
    /// Polls the connection that writes; while it goes on, what it wrote is sent.
    pub(crate) fn turn<T, E: From<io::Error>>(
        &mut self,
        cx: &mut Context<'_>,
        connection: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Poll<Result<T, E>> {
        if let Poll::Ready(outcome) = connection.poll(cx) {
            return Poll::Ready(outcome);
        }
        let mut shared = self.shared.lock();
        if !shared.gathers || (shared.buffer.is_empty() && !shared.unflushed) {
            return Poll::Pending;
        }
        match self.before {
            None if self.hurried > 0 => self.hurried -= 1,
            None => {
                self.before = Some(shared.buffer.len());
                self.others.begin(cx.waker());
                return Poll::Pending;
            }
            Some(before) => {
                self.others.connection.register(cx.waker());
                // Perhaps one of them has woken us.
                if !self.others.have_run.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
                if before == shared.buffer.len() {
                    self.hurried = PATIENCE;
                }
            }
        }
        self.before = None;
        match shared.flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    /// Gives the stream what was gathered.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        // Most connections are idle most of the time.
        (self.buffer, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.shared.lock();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if !shared.gathers || length >= LARGE {
            ready!(shared.send(cx))?;
            shared.unflushed = true;
            return Pin::new(&mut shared.stream).poll_write_vectored(cx, bufs);
        }
        if shared.buffer.len() >= MOST {
            ready!(shared.send(cx))?;
        }
        bufs.iter().for_each(|buf| shared.buffer.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        // The end of the turn does it.
        if shared.gathers { Poll::Ready(Ok(())) } else { shared.flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        ready!(shared.flush(cx))?;
        Pin::new(&mut shared.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Notes every write.
    #[derive(Default)]
    struct Noted(Vec<usize>);

    impl AsyncWrite for Noted {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A connection that writes what comes on a channel, a flush for each.
    async fn connection<S: AsyncWrite + Unpin>(
        mut io: Gathered<S>,
        mut frames: tokio::sync::mpsc::UnboundedReceiver<usize>,
    ) -> io::Result<()> {
        while let Some(length) = frames.recv().await {
            io.write_all(&vec![1; length]).await?;
            io.flush().await?;
        }
        io.shutdown().await
    }

    #[tokio::test]
    async fn what_others_write_meanwhile_goes_along() {
        let (io, mut gatherer) = gather(Noted::default(), true);
        let shared = io.shared.clone();
        let (frames, coming) = tokio::sync::mpsc::unbounded_channel();
        let mut connection = Box::pin(connection(io, coming));
        frames.send(10).expect("open");
        let others = async move {
            for length in [20, 30] {
                frames.send(length).expect("open");
            }
        };
        let ended = poll_fn(|cx| gatherer.turn(cx, connection.as_mut()));
        let (ended, ()) = tokio::join!(ended, others);
        ended.expect("sent");
        assert_eq!(shared.lock().stream.0, [60]);
    }

    #[tokio::test]
    async fn much_does_not_wait_and_all_of_it_arrives() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let (io, mut gatherer) = gather(ours, true);
        let (frames, coming) = tokio::sync::mpsc::unbounded_channel();
        let lengths = [3, MOST, LARGE - 1, 1, 70_000];
        lengths.iter().for_each(|length| frames.send(*length).expect("open"));
        drop(frames);
        let mut connection = Box::pin(connection(io, coming));
        let ended = poll_fn(|cx| gatherer.turn(cx, connection.as_mut()));
        let mut all = Vec::new();
        let (ended, read) = tokio::join!(ended, theirs.read_to_end(&mut all));
        ended.expect("sent");
        assert_eq!((read.expect("read"), all.len()), (lengths.iter().sum(), lengths.iter().sum()));
    }

    #[tokio::test]
    async fn who_is_alone_soon_does_not_wait_for_others() {
        let (io, mut gatherer) = gather(Noted::default(), true);
        let shared = io.shared.clone();
        let (frames, coming) = tokio::sync::mpsc::unbounded_channel();
        let mut connection = Box::pin(connection(io, coming));
        let mut polls = 0;
        for sent in 1..=5 {
            frames.send(sent).expect("open");
            while shared.lock().stream.0.len() < sent {
                polls += 1;
                let turn = poll_fn(|cx| Poll::Ready(gatherer.turn(cx, connection.as_mut())));
                assert!(turn.await.is_pending());
                tokio::task::yield_now().await;
            }
        }
        assert_eq!((polls, shared.lock().stream.0.clone()), (6, vec![1, 2, 3, 4, 5]));
    }

    #[tokio::test]
    async fn a_failure_ends_the_connection() {
        let (ours, theirs) = tokio::io::duplex(1000);
        drop(theirs);
        let (io, mut gatherer) = gather(ours, true);
        let (frames, coming) = tokio::sync::mpsc::unbounded_channel();
        frames.send(1).expect("open");
        let mut connection = Box::pin(connection(io, coming));
        let ended = poll_fn(|cx| gatherer.turn(cx, connection.as_mut())).await;
        assert_eq!(ended.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    }
}
