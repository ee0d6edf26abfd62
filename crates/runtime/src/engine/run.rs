//! [`Engine::run`]: a command to its end, and the beginning of what it wrote.

use super::{Engine, Pod, Result};
use crate::protocol::ExecSpec;
use crate::stream::Stream;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// After a command has ended, somebody else may hold its streams; what comes later is not waited for.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
const CHUNK: usize = 16 * 1024;

/// Takes the beginning of what a process writes; the rest is read, so that the process can go on, and dropped. Clones share it.
#[derive(Debug, Clone)]
pub struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl Capture {
    /// Takes at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Capture { bytes: Arc::default(), limit }
    }

    /// What was taken so far.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock())
    }

    async fn fill(self, mut stream: Stream) {
        let mut chunk = vec![0u8; CHUNK];
        // A stream that breaks has said all it will.
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            let mut bytes = self.bytes.lock();
            let room = self.limit.saturating_sub(bytes.len());
            bytes.extend_from_slice(&chunk[..n.min(room)]);
        }
    }
}

impl Engine {
    /// Runs a command in a running container to its end; standard output and standard error go to the captures, which may be one.
    /// `None` instead of an exit code: it took longer than `timeout` and was killed.
    pub async fn run(
        &self,
        pod: &Pod,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
        captures: [&Capture; 2],
    ) -> Result<Option<i32>> {
        let spec = ExecSpec { args: command.to_vec(), tty: false, process: None };
        let mut session = self.exec(pod, container, spec, false).await?;
        let streams = std::mem::take(&mut session.streams);
        let readers: Vec<_> = [streams.stdout, streams.stderr]
            .into_iter()
            .zip(captures)
            .filter_map(|(stream, capture)| Some(base::tasks::spawn("exec output", capture.clone().fill(stream?))))
            .collect();
        let ended = match timeout {
            Some(limit) => tokio::time::timeout(limit, session.wait()).await.ok(),
            None => Some(session.wait().await),
        };
        let code = match ended {
            Some(code) => code.map(Some),
            None => self.kill_exec(pod, session.exec, crate::signal::KILL).await.map(|()| None),
        };
        for mut reader in readers {
            if tokio::time::timeout(OUTPUT_GRACE, &mut reader).await.is_err() {
                reader.abort();
            }
        }
        code
    }
}
