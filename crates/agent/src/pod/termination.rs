//! The last words of a container: its termination message file, or the end of its log
//! (`getTerminationMessage`, `readLastStringFromContainerLogs`).

use api::k8s::api::core::v1::Container;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const MESSAGE_MAX_BYTES: u64 = 4096;
const LOG_MAX_BYTES: usize = 2048;
const LOG_MAX_LINES: usize = 80;
/// Enough for 80 lines of a log in CRI format.
const LOG_TAIL_BYTES: u64 = 256 * 1024;

/// The message of a run that ended with `code`.
pub fn message(container: &Container, file: &Path, log: &Path, code: i32) -> String {
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
    let text = match end_of(file, MESSAGE_MAX_BYTES) {
        Ok(text) => text,
        // No file is an empty message.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return format!("Error on reading termination log {}: {e}", file.display()),
    };
    if text.is_empty() && fall_back {
        return tail(log).unwrap_or_else(|e| format!("Error on reading termination message from logs: {e}"));
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn tail(log: &Path) -> std::io::Result<String> {
    Ok(last_lines(&String::from_utf8_lossy(&end_of(log, LOG_TAIL_BYTES)?)))
}

/// At most so many of a file's last bytes (`pkg/util/tail`).
fn end_of(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of the last lines of a log in CRI format: `<time> <stream> <F|P> <text>`.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let mut out = String::new();
    for line in &lines[lines.len().saturating_sub(LOG_MAX_LINES)..] {
        let mut parts = line.splitn(4, ' ');
        let (flag, text) = (parts.nth(2).unwrap_or_default(), parts.next().unwrap_or_default());
        out += text;
        if flag != "P" {
            out.push('\n');
        }
    }
    let cut = out.len().saturating_sub(LOG_MAX_BYTES);
    let cut = (cut..=out.len()).find(|at| out.is_char_boundary(*at)).unwrap_or(0);
    out.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(policy: &str) -> Container {
        Container { name: "a".into(), termination_message_policy: Some(policy.into()), ..Container::default() }
    }

    #[test]
    fn the_file_first_then_the_log_if_asked_for_and_failed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (file, log) = (dir.path().join("m"), dir.path().join("0.log"));
        let time = "2026-11-20T13:00:00.000000000Z";
        std::fs::write(&log, format!("{time} stdout F one\n{time} stderr P tw\n{time} stderr F o\n")).expect("write");
        std::fs::write(&file, "").expect("write");
        assert_eq!(message(&container("File"), &file, &log, 1), "");
        assert_eq!(message(&container("FallbackToLogsOnError"), &file, &log, 0), "");
        assert_eq!(message(&container("FallbackToLogsOnError"), &file, &log, 1), "one\ntwo\n");
        std::fs::write(&file, "last words").expect("write");
        assert_eq!(message(&container("FallbackToLogsOnError"), &file, &log, 1), "last words");
        std::fs::write(&file, "x".repeat(5000) + "the cause").expect("write");
        let end = message(&container("File"), &file, &log, 1);
        assert!(end.len() == 4096 && end.ends_with("xthe cause"), "{}: {end}", end.len());
    }

    #[test]
    fn long_logs_are_cut_at_the_front() {
        let line = format!("t stdout F {}\n", "é".repeat(100));
        let text = last_lines(&line.repeat(200));
        assert!(text.len() <= 2048 && text.ends_with("é\n"), "{}", text.len());
    }
}
