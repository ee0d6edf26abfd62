//! [`Session`]: streams of a process, and how the engine gives them.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use runtime::{Engine, EngineError, ExecSession, ExecSpec, Pod, StdioStreams, Stream, Terminal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

/// A byte stream both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What streams a caller wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// For exec.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// Wants to write.
    pub stdin: bool,
    /// Wants standard output.
    pub stdout: bool,
    /// Wants standard error.
    pub stderr: bool,
}

/// Reads from a process.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Writes to a process.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;
/// Shown to the client.
pub type SessionError = Box<dyn std::error::Error + Send + Sync>;

/// Streams of a process. Dropping it detaches.
pub struct Session {
    /// To its standard input; dropping closes it.
    pub stdin: Option<Writer>,
    /// From its standard output (and standard error, with a terminal).
    pub stdout: Option<Reader>,
    /// From its standard error.
    pub stderr: Option<Reader>,
    /// Terminal size and end.
    pub control: Box<dyn SessionControl>,
}

/// The rest of a session.
#[async_trait]
pub trait SessionControl: Send + Sync {
    /// Changes the terminal's size.
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), SessionError>;
    /// Waits for the process to end; for attach, for the container's first process.
    async fn wait(&self) -> Result<i32, SessionError>;
}

/// Runs a command with streams.
pub async fn exec(engine: &Engine, pod: &Pod, container: &str, request: StreamRequest) -> Result<Session, EngineError> {
    let spec = ExecSpec { args: request.command, tty: request.tty, process: None };
    let mut session = engine.exec(pod, container, spec, request.stdin).await?;
    let streams = std::mem::take(&mut session.streams);
    let terminal = session.terminal.take();
    Ok(session_of(streams, Box::new(ExecControl { terminal, session: Mutex::new(session) })))
}

/// Streams of a container's first process. `ended` is ready when it has ended, with its exit code if that is known.
pub async fn attach(
    engine: &Engine,
    pod: &Pod,
    container: &str,
    request: &StreamRequest,
    ended: BoxFuture<'static, Option<i32>>,
) -> Result<Session, EngineError> {
    let streams = engine.attach(pod, container, request.stdin, request.stdout, request.stderr).await?;
    let control = AttachControl {
        engine: engine.clone(),
        pod: pod.clone(),
        container: container.to_owned(),
        ended: Mutex::new(ended),
    };
    Ok(session_of(streams, Box::new(control)))
}

fn session_of(streams: StdioStreams, control: Box<dyn SessionControl>) -> Session {
    let reader = |s: Option<Stream>| s.map(|s| Box::new(s) as Reader);
    Session {
        stdin: streams.stdin.map(|s| Box::new(s) as Writer),
        stdout: reader(streams.stdout),
        stderr: reader(streams.stderr),
        control,
    }
}

struct ExecControl {
    terminal: Option<Terminal>,
    session: Mutex<ExecSession>,
}

#[async_trait]
impl SessionControl for ExecControl {
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), SessionError> {
        match &self.terminal {
            Some(terminal) => Ok(terminal.resize(columns, rows)?),
            None => Err("resizing what is no terminal is not supported by dhow".into()),
        }
    }
    async fn wait(&self) -> Result<i32, SessionError> {
        Ok(self.session.lock().await.wait().await?)
    }
}

struct AttachControl {
    engine: Engine,
    pod: Pod,
    container: String,
    ended: Mutex<BoxFuture<'static, Option<i32>>>,
}

#[async_trait]
impl SessionControl for AttachControl {
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), SessionError> {
        Ok(self.engine.resize(&self.pod, &self.container, columns, rows).await?)
    }
    async fn wait(&self) -> Result<i32, SessionError> {
        let ended = self.ended.lock().await.as_mut().await;
        ended.ok_or_else(|| format!("container {} not found", self.container).into())
    }
}
