//! Writes the audit log: `<data>/log/audit.log`, an event a line, on a thread of its own. Bounded: a full file is renamed.
//! A kill loses what was noted in the last [`PAUSE`].

use crate::logging::{append, shift};
use apiserver::audit::{Audit, Policy};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// A log is full at this size.
const FULL: u64 = 64 << 20;
/// Old ones that are kept.
const KEPT: usize = 4;
/// Written at once.
const BATCH: usize = 256 << 10;
/// Events are gathered for so long: to wake this thread for each of them would cost more than to note it.
const PAUSE: Duration = Duration::from_millis(20);

/// Begins to note requests by the policy in the file, or by the default one. Errors are for the user. After `shutdown` nothing
/// is gathered any more.
pub(crate) fn start(data_dir: &Path, policy: Option<&Path>, shutdown: CancellationToken) -> Result<Arc<Audit>, String> {
    let policy = match policy {
        None => Policy::default(),
        Some(path) => {
            let wrong = |why: String| format!("audit-policy {}: {why}", path.display());
            let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
            Policy::parse(&text).map_err(wrong)?
        }
    };
    let path = data_dir.join("log/audit.log");
    let failed = |e: io::Error| format!("failed to open {}: {e}", path.display());
    crate::bootstrap::files::private_dir(&data_dir.join("log")).map_err(|e| base::chain(&e))?;
    let file = append(&path).map_err(failed)?;
    let written = file.metadata().map_err(failed)?.len();
    let mut log = Log { path: path.clone(), file, written };
    let (audit, mut lines) = Audit::new(policy);
    let run = move || {
        while let Some(batch) = next(&mut lines, &shutdown) {
            if let Err(error) = log.write(&batch) {
                tracing::error!(%error, path = %log.path.display(), "events are missing in the audit log");
            }
        }
    };
    std::thread::Builder::new().name("audit-log".into()).spawn(run).map_err(failed)?;
    Ok(audit)
}

/// What waits, up to a batch; `None` at the end.
fn next(lines: &mut Receiver<Vec<u8>>, shutdown: &CancellationToken) -> Option<Vec<u8>> {
    let mut batch = lines.blocking_recv()?;
    if !shutdown.is_cancelled() {
        std::thread::sleep(PAUSE);
    }
    while batch.len() < BATCH
        && let Ok(line) = lines.try_recv()
    {
        batch.extend(line);
    }
    Some(batch)
}

struct Log {
    path: PathBuf,
    file: File,
    written: u64,
}

impl Log {
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.written >= FULL {
            shift(&self.path, KEPT)?;
            self.file = append(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(batch)?;
        self.written += batch.len() as u64;
        Ok(())
    }
}
