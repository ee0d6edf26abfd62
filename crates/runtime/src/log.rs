//! Container output as a CRI log file: `<RFC 3339 time> stdout F line`. Cutting and formatting are pure; [`LogFile`] writes.
//!
//! Invariants: a file ends at a line border whenever it is renamed; a line longer than [`MAX_LINE`] is cut into `P` entries and
//! a last `F` one, as containerd does (`internal/cri/io/logger.go`); what cannot be written is counted, not silently lost.

use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Longer lines are cut (containerd's max_container_log_line_size).
const MAX_LINE: usize = 16 * 1024;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Collects bytes of one stream and turns whole lines into log entries.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    partial: Vec<u8>,
    /// The last entry was a `P`: the next belongs to the same line.
    continued: bool,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Self {
        Self::resumed(stream, false)
    }

    /// What comes next may continue a line whose beginning was an entry already.
    pub(crate) fn resumed(stream: Stream, continued: bool) -> Self {
        Lines { stream, partial: Vec::new(), continued }
    }

    /// How many of the last bytes are in no entry yet.
    pub(crate) fn partial_len(&self) -> usize {
        self.partial.len()
    }

    /// Whether the file may be cut after what was produced so far.
    pub(crate) fn at_border(&self) -> bool {
        !self.continued
    }

    /// Appends the entries that `data` completes to `out`.
    pub(crate) fn push(&mut self, mut data: &[u8], now_ns: i64, out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &data[..data.len().min(room)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                self.entry(true, &data[..end], now_ns, out);
                data = &data[end + 1..];
            } else if data.len() >= room {
                // A newline right after a full line ends it without an empty entry.
                let full = data.get(room) == Some(&b'\n');
                self.entry(full, &data[..room], now_ns, out);
                data = &data[room + usize::from(full)..];
            } else {
                self.partial.extend_from_slice(data);
                return;
            }
        }
    }

    /// Appends what is left when the stream ends without a newline: a part of a line, as containerd has it
    /// (`internal/cri/io/logger.go`), so that readers add no newline.
    pub(crate) fn finish(&mut self, now_ns: i64, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.entry(false, &[], now_ns, out);
        }
        self.continued = false;
    }

    fn entry(&mut self, full: bool, rest: &[u8], now_ns: i64, out: &mut Vec<u8>) {
        format_time(now_ns, out);
        out.extend_from_slice(if self.stream == Stream::Stdout { b" stdout " } else { b" stderr " });
        out.extend_from_slice(if full { b"F " } else { b"P " });
        out.append(&mut self.partial);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.continued = !full;
    }
}

/// Year, month, day of a day number since 1970 (Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// RFC 3339 in UTC with nine digits.
fn format_time(ns: i64, out: &mut Vec<u8>) {
    let (seconds, nanos) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    // Writing to a Vec cannot fail.
    write!(out, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", s / 3600, s / 60 % 60, s % 60).ok();
}

/// The end of a rotated file's name: `20060102-150405` as the kubelet names them (pkg/kubelet/logs/container_log_manager.go), and
/// nanoseconds, because output can fill several files in a second and their names must sort by age.
fn rotated_suffix(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    let nanos = ns.rem_euclid(1_000_000_000);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}.{nanos:09}", s / 3600, s / 60 % 60, s % 60)
}

/// The file behind the lines.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    file: Option<std::fs::File>,
    size: u64,
    /// Bytes that could not be written since the last success.
    lost: u64,
    /// When the last file was rotated: the next name must sort after it.
    last_rotation_ns: i64,
}

impl LogFile {
    pub(crate) fn open(path: &Path, max_size: u64, max_files: u32) -> io::Result<Self> {
        let mut log = Self::new(path, max_size, max_files);
        log.reopen()?;
        Ok(log)
    }

    /// One that is opened when there is something to write.
    pub(crate) fn new(path: &Path, max_size: u64, max_files: u32) -> Self {
        let (path, max_files) = (path.to_owned(), max_files.max(1));
        LogFile { path, max_size, max_files, file: None, size: 0, lost: 0, last_rotation_ns: 0 }
    }

    /// The last bytes of the log. The file may just have been cut: then they are at the end of older ones.
    pub(crate) fn tail(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut tail = end_of(&self.path, len)?;
        for old in self.old()?.iter().rev() {
            if tail.len() >= len {
                break;
            }
            let mut before = end_of(old, len - tail.len())?;
            before.append(&mut tail);
            tail = before;
        }
        Ok(tail)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path anew: after somebody renamed the file, or it could not be opened before.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes whole entries. `border`: no stream is in the middle of a long line, so the file may be cut before and between them.
    pub(crate) fn write(&mut self, mut entries: &[u8], border: bool, now_ns: i64) -> io::Result<()> {
        while !entries.is_empty() {
            let fits = if self.max_size == 0 { entries.len() } else { self.fitting(entries, border) };
            if fits == 0 {
                self.rotate(now_ns)?;
                continue;
            }
            let (now, later) = entries.split_at(fits);
            if let Err(e) = self.append(now, now_ns) {
                self.lost += entries.len() as u64;
                return Err(e);
            }
            entries = later;
        }
        Ok(())
    }

    /// How many bytes go into this file; none if it is full. A new file takes at least one line.
    fn fitting(&self, entries: &[u8], border: bool) -> usize {
        let room = self.max_size.saturating_sub(self.size) as usize;
        // A line of endless parts must not keep the file from being cut for ever.
        if entries.len() <= room || (!border && self.size <= 2 * self.max_size) {
            return entries.len();
        }
        let mut best = 0;
        let mut end = 0;
        for entry in entries.split_inclusive(|b| *b == b'\n') {
            let last_of_line = entry.splitn(4, |b| *b == b' ').nth(2) == Some(b"F");
            end += entry.len();
            if end > room && (best > 0 || self.size > 0) {
                break;
            }
            if last_of_line {
                best = end;
            }
            if end > room {
                break;
            }
        }
        if best == 0 && self.size == 0 { entries.len() } else { best }
    }

    fn append(&mut self, entries: &[u8], now_ns: i64) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.lost > 0 {
            let mut note = Vec::new();
            format_time(now_ns, &mut note);
            writeln!(note, " stderr F [dhow: {} bytes of output were lost: the log could not be written]", self.lost)?;
            file.write_all(&note)?;
            self.size += note.len() as u64;
            self.lost = 0;
        }
        file.write_all(entries)?;
        self.size += entries.len() as u64;
        Ok(())
    }

    /// Renames the file to `<path>.<time>`, starts a new one and removes the oldest beyond the limit.
    pub(crate) fn rotate(&mut self, now_ns: i64) -> io::Result<()> {
        if self.max_files == 1 {
            std::fs::remove_file(&self.path).or_else(ignore_missing)?;
        } else {
            self.last_rotation_ns = now_ns.max(self.last_rotation_ns + 1);
            // A predecessor that was killed in the same write may have cut the file at the same time.
            while self.rotated(self.last_rotation_ns).exists() {
                self.last_rotation_ns += 1;
            }
            std::fs::rename(&self.path, self.rotated(self.last_rotation_ns)).or_else(ignore_missing)?;
        }
        self.file = None;
        self.reopen()?;
        self.remove_oldest()
    }

    fn rotated(&self, ns: i64) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(rotated_suffix(ns));
        name.into()
    }

    /// The files that were cut off, oldest first.
    fn old(&self) -> io::Result<Vec<PathBuf>> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(Vec::new()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
            .collect();
        old.sort();
        Ok(old)
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let old = self.old()?;
        let keep = self.max_files as usize - 1;
        let surplus = old.len().saturating_sub(keep);
        old.iter().take(surplus).try_for_each(|p| std::fs::remove_file(p).or_else(ignore_missing))
    }
}

/// The part of `entries` that was not written by somebody who was killed while writing them; `tail` is the end of the log, as long as
/// `entries` if there is so much. What was written ends the log: nobody else writes, and no other entry has their time. What was cut
/// off while they were written may be gone; then the log holds nothing else.
pub(crate) fn missing<'a>(tail: &[u8], entries: &'a [u8]) -> &'a [u8] {
    let written = |n: &usize| {
        let done = &entries[..*n];
        tail.ends_with(done) || (!tail.is_empty() && tail.len() < *n && done.ends_with(tail))
    };
    let written = (1..=entries.len()).rev().find(written).unwrap_or(0);
    &entries[written..]
}

/// The last bytes of a file; none of one that is not there.
fn end_of(path: &Path, len: usize) -> io::Result<Vec<u8>> {
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let size = file.metadata()?.len();
    let mut end = vec![0; len.min(usize::try_from(size).unwrap_or(len))];
    let from = size - end.len() as u64;
    file.read_exact_at(&mut end, from)?;
    Ok(end)
}

fn ignore_missing(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const T: i64 = 1_700_000_000_123_456_789;

    fn check_lines(chunks: &[&str], want: expect_test::Expect) {
        let (mut lines, mut out) = (Lines::new(Stream::Stdout), Vec::new());
        for chunk in chunks {
            lines.push(chunk.as_bytes(), T, &mut out);
        }
        lines.finish(T, &mut out);
        want.assert_eq(&String::from_utf8(out).unwrap().replace("2023-11-14T22:13:20.123456789Z ", ""));
    }

    #[test]
    fn lines_are_cut_at_newlines_wherever_reads_end() {
        check_lines(
            &["a\nb", "c\n", "\n", "end"],
            expect![[r#"
            stdout F a
            stdout F bc
            stdout F 
            stdout P end
        "#]],
        );
    }

    #[test]
    fn long_lines_are_parts_of_one() {
        let (mut lines, mut out) = (Lines::new(Stream::Stderr), Vec::new());
        lines.push(&[b'x'; MAX_LINE], T, &mut out);
        assert!(!lines.at_border());
        lines.push(b"y\n", T, &mut out);
        assert!(lines.at_border());
        lines.push(&[b'z'; MAX_LINE], T, &mut out);
        let text = String::from_utf8(out).unwrap();
        let tags: Vec<String> = text.lines().map(|l| l.split(' ').nth(2).unwrap().to_owned()).collect();
        assert_eq!(tags, ["P", "F", "P"]);
        let (mut lines, mut out) = (Lines::new(Stream::Stderr), Vec::new());
        lines.push(&[&[b'x'; MAX_LINE][..], b"\n"].concat(), T, &mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(lines.at_border());
    }

    #[test]
    fn time_is_rfc3339() {
        let time = |ns| {
            let mut out = Vec::new();
            format_time(ns, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(951_782_400_000_000_005), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(time(1_798_761_599_999_999_999), "2026-12-31T23:59:59.999999999Z");
        assert_eq!(rotated_suffix(T), "20231114-221320.123456789");
    }

    #[test]
    fn rotation_keeps_so_many_files_and_loses_no_line_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/0.log");
        let mut log = LogFile::open(&path, 20, 3).unwrap();
        for i in 0..3 {
            log.write(format!("t stdout F {}\nt stdout F {}\n", 2 * i, 2 * i + 1).as_bytes(), true, T).unwrap();
        }
        let mut files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let text: Vec<String> = files.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
        assert_eq!(text, ["t stdout F 5\n", "t stdout F 3\n", "t stdout F 4\n"]);
        assert!(files[1].to_string_lossy().ends_with("0.log.20231114-221320.123456792"), "{files:?}");
    }

    #[test]
    fn only_what_is_missing_is_written_again() {
        let entries = b"9 stdout F y\n9 stdout F y\n9 stdout F z\n";
        for (tail, want) in [
            ("", "9 stdout F y\n9 stdout F y\n9 stdout F z\n"),
            ("8 stdout F y\n8 stderr F other\n", "9 stdout F y\n9 stdout F y\n9 stdout F z\n"),
            ("F other\n9 stdout F y\n", "9 stdout F y\n9 stdout F z\n"),
            ("F other\n9 stdout F y\n9 std", "out F y\n9 stdout F z\n"),
            ("9 stdout F y\n9 stdout F y\n9 stdout F z\n", ""),
            // The file was cut after the second entry.
            ("9 stdout F z\n", ""),
            ("9 stdout F y\n9 stdout F ", "z\n"),
        ] {
            assert_eq!(missing(tail.as_bytes(), entries), want.as_bytes(), "{tail:?}");
        }
    }

    #[test]
    fn the_tail_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::new(&path, 0, 0);
        assert_eq!(log.tail(5).unwrap(), b"");
        log.write(b"abc\n", true, T).unwrap();
        assert_eq!((log.tail(2).unwrap(), log.tail(10).unwrap()), (b"c\n".to_vec(), b"abc\n".to_vec()));
    }

    #[test]
    fn a_successor_that_cuts_at_the_same_time_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for text in [b"a\n", b"b\n"] {
            let mut log = LogFile::new(&path, 0, 5);
            log.write(text, true, T).unwrap();
            log.rotate(T).unwrap();
        }
        assert_eq!(LogFile::new(&path, 0, 5).tail(9).unwrap(), b"a\nb\n");
    }

    /// Whoever cut the file may have been killed before anything was in the new one.
    #[test]
    fn the_tail_of_a_log_that_was_just_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(&dir.path().join("0.log"), 0, 5);
        log.write(b"abc\n", true, T).unwrap();
        log.rotate(T).unwrap();
        assert_eq!(log.tail(3).unwrap(), b"bc\n");
        log.write(b"d\n", true, T).unwrap();
        log.rotate(T).unwrap();
        log.write(b"e\n", true, T).unwrap();
        assert_eq!((log.tail(5).unwrap(), log.tail(99).unwrap()), (b"\nd\ne\n".to_vec(), b"abc\nd\ne\n".to_vec()));
    }

    #[test]
    fn a_file_renamed_by_somebody_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 0, 0).unwrap();
        log.write(b"a\n", true, T).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.write(b"b\n", true, T).unwrap();
        log.reopen().unwrap();
        log.write(b"c\n", true, T).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("old")).unwrap(), "a\nb\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "c\n");
    }
}
