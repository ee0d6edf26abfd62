//! Logs go to standard error; `DHOW_LOG` filters them (`info`, `debug`, `apiserver=debug,info`). Where standard error is our own
//! file, it is bounded: a full one is renamed and a new one begun, a few old ones are kept.

use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tracing_subscriber::EnvFilter;

/// A log is full at this size.
const FULL: u64 = 16 << 20;
/// Old ones that are kept: `dhow.log.1` is the newest.
const KEPT: usize = 3;

/// Starts logging for the rest of the process. `file`: where standard error goes, if that is a file of ours.
pub(crate) fn start(file: Option<PathBuf>) {
    let filter = EnvFilter::try_new(crate::config::log_filter()).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    let log = Log(file.map(|path| Arc::new(Mutex::new(Bounded::of(path)))));
    LOG.set(log.clone()).ok();
    let writer = move || log.clone();
    // A second start (tests) keeps the first logger.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(writer).try_init());
}

/// Whether the last line could be written.
static WRITTEN: AtomicBool = AtomicBool::new(true);

/// The log, once it has begun.
static LOG: OnceLock<Log> = OnceLock::new();

/// What is wrong with the log: the last line of it was lost, and it still takes none.
pub(crate) fn check() -> Result<(), String> {
    check_of(LOG.get())
}

fn check_of(log: Option<&Log>) -> Result<(), String> {
    if !WRITTEN.load(Ordering::Relaxed)
        && let Some(log) = log
    {
        note(&log.try_again());
    }
    if WRITTEN.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err("the last line of the log could not be written".to_owned())
    }
}

/// Notes whether a line was written.
fn note(written: &io::Result<()>) {
    WRITTEN.store(written.is_ok(), Ordering::Relaxed);
}

/// Standard error, with its file if that is bounded.
#[derive(Clone)]
struct Log(Option<Arc<Mutex<Bounded>>>);

impl Log {
    fn put(&self, line: &[u8]) -> io::Result<()> {
        match &self.0 {
            Some(bounded) => bounded.lock().put(line, &mut io::stderr()),
            None => io::stderr().write_all(line),
        }
    }

    /// After a line was lost: a bounded log says by itself how many.
    fn try_again(&self) -> io::Result<()> {
        self.put(if self.0.is_some() { b"" } else { b"the log can be written again\n" })
    }
}

struct Bounded {
    path: PathBuf,
    written: u64,
    /// Lines that could not be written, as on a full disk.
    lost: u64,
}

impl Bounded {
    fn of(path: PathBuf) -> Self {
        let written = std::fs::metadata(&path).map_or(0, |found| found.len());
        Bounded { path, written, lost: 0 }
    }

    /// Writes a line to standard error, which is the file; the first one after some that were lost says so.
    fn put(&mut self, line: &[u8], stderr: &mut dyn Write) -> io::Result<()> {
        if self.written >= FULL
            && let Err(error) = self.turn()
        {
            // Nobody to tell but the log itself; it is tried again after as much again.
            drop(writeln!(stderr, "failed to begin a new log file: {error}"));
        }
        self.written += line.len() as u64;
        if self.lost > 0 {
            let told = writeln!(stderr, "{} lines of the log could not be written", self.lost);
            if told.is_err() {
                self.lost += u64::from(!line.is_empty());
                return told;
            }
            self.lost = 0;
        }
        let written = stderr.write_all(line);
        self.lost += u64::from(written.is_err());
        written
    }

    /// Begins a new file. Containers' supervisors, which have the old one open, go on writing there.
    fn turn(&mut self) -> io::Result<()> {
        self.written = 0;
        shift(&self.path, KEPT)?;
        let file = append(&self.path)?;
        Ok(rustix::stdio::dup2_stderr(&file)?)
    }
}

/// Never fails: tracing would complain on standard error, and panic if that is what cannot be written.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        note(&self.put(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that only root may read, at its end.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Renames `path` to `path.1`, what was there to `path.2`, and so on; the oldest goes.
pub(crate) fn shift(path: &Path, kept: usize) -> io::Result<()> {
    let numbered = |n: usize| {
        let mut name = path.as_os_str().to_owned();
        if n > 0 {
            name.push(format!(".{n}"));
        }
        PathBuf::from(name)
    };
    for n in (0..kept).rev() {
        match std::fs::rename(numbered(n), numbered(n + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes lines while it has room for them.
    struct Disk {
        room: usize,
        text: String,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let taken = line.len().min(self.room);
            if taken == 0 && !line.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.text += &String::from_utf8_lossy(&line[..taken]);
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_the_log_says_so() {
        let mut log = Bounded::of("/nonexistent".into());
        let mut disk = Disk { room: 2, text: String::new() };
        for (line, room) in
            [("a\n", None), ("b\n", None), ("c\n", None), ("", None), ("d\n", Some(1000)), ("e\n", None)]
        {
            disk.room = room.unwrap_or(disk.room);
            drop(log.put(line.as_bytes(), &mut disk));
        }
        assert_eq!(disk.text, "a\n2 lines of the log could not be written\nd\ne\n");
    }

    #[test]
    fn a_lost_line_fails_the_check_until_one_can_be_written() {
        assert_eq!(check_of(None), Ok(()));
        note(&Err(io::ErrorKind::StorageFull.into()));
        assert!(check_of(None).is_err());
        assert_eq!(check_of(Some(&Log(None))), Ok(()), "it is tried");
        assert_eq!(check_of(None), Ok(()));
        let mut log = Bounded::of("/nonexistent".into());
        log.lost = 2;
        let mut disk = Disk { room: 0, text: String::new() };
        assert!(log.put(b"", &mut disk).is_err(), "still full");
        disk.room = 1000;
        assert!(log.put(b"", &mut disk).is_ok());
        assert_eq!(disk.text, "2 lines of the log could not be written\n");
    }

    #[test]
    fn old_logs_move_up_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("log");
        for text in ["a", "b", "c", "d"] {
            std::fs::write(&path, text).expect("writes");
            shift(&path, 2).expect("renames");
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(
            [read("log"), read("log.1"), read("log.2"), read("log.3")],
            [None, Some("d".into()), Some("c".into()), None]
        );
    }
}
