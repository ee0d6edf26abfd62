//! [`Selector`]: entries of a CRI log file in, text for the client out. Pure.

use super::options::LogOptions;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::server) enum Streams {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Whether more may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Stop,
}

/// One line of a log file: `<time> <stdout|stderr> <tags> <text>`.
struct Entry<'a> {
    time: &'a str,
    stderr: bool,
    /// With its newline if the line ends here.
    text: &'a [u8],
}

/// Chooses entries and puts partial lines together.
pub(super) struct Selector {
    options: LogOptions,
    /// Bytes that may still be sent.
    left: u64,
    /// Entries that may still be sent; only without `follow`.
    entries: Option<u64>,
    /// The last entry ended its line.
    at_line_start: bool,
}

impl Selector {
    pub(super) fn new(options: LogOptions) -> Self {
        let entries = options.tail.filter(|_| !options.follow);
        Selector { left: options.limit.unwrap_or(u64::MAX), entries, options, at_line_start: true }
    }

    /// Appends what the client gets of an entry. What is no entry is passed over, as upstream does.
    pub(super) fn entry(&mut self, line: &[u8], out: &mut Vec<u8>) -> Flow {
        if self.entries == Some(0) || self.left == 0 {
            return Flow::Stop;
        }
        let Some(entry) = parse(line) else { return Flow::Continue };
        if let Some(since) = self.options.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return self.passed();
        }
        let begins = std::mem::replace(&mut self.at_line_start, entry.text.last().is_none_or(|b| *b == b'\n'));
        let wanted = match self.options.streams {
            Streams::All => true,
            Streams::Stdout => !entry.stderr,
            Streams::Stderr => entry.stderr,
        };
        if wanted {
            let start = out.len();
            if self.options.timestamps && begins {
                out.extend_from_slice(fixed_width(entry.time).as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(entry.text);
            let length = (out.len() - start) as u64;
            out.truncate(start + usize::try_from(length.min(self.left)).unwrap_or(usize::MAX));
            self.left = self.left.saturating_sub(length);
        }
        self.passed()
    }

    fn passed(&mut self) -> Flow {
        if let Some(entries) = &mut self.entries {
            *entries -= 1;
        }
        if self.entries == Some(0) || self.left == 0 { Flow::Stop } else { Flow::Continue }
    }
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    if time.len() < 20 || !time.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = parts.next()?.split(|b| *b == b':').next() == Some(b"P");
    let text = parts.next()?;
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Entry { time, stderr, text })
}

/// Nine digits of a second, whatever the log has (`RFC3339NanoFixed`).
fn fixed_width(time: &str) -> String {
    if time.len() == 30 && time.ends_with('Z') {
        return time.to_owned();
    }
    match time.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
        Err(_) => time.to_owned(),
    }
}
