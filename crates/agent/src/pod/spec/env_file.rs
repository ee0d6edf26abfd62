//! Files of `NAME='value'` lines that `fileKeyRef` reads (`pkg/kubelet/util/env/env_util.go`).
//!
//! A value is whatever stands between two single quotes, also over several lines; nothing is expanded. Anything that is
//! neither such a line, a comment nor blank spoils the file, but only as far as it is read: up to the wanted name.

use thiserror::Error;

/// What is wrong with a file, and on which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// No `=`.
    #[error("line {0}: missing '='")]
    NoEquals(usize),
    /// Nothing before the `=`.
    #[error("line {0}: empty variable name")]
    NoName(usize),
    /// `NAME =`.
    #[error("line {0}: whitespace before '=' is not allowed")]
    SpaceBeforeEquals(usize),
    /// No `'` after the `=`.
    #[error("line {0}: value must be enclosed in single quotes")]
    NotQuoted(usize),
    /// The file ends within a value that begins there.
    #[error("starting at line {0}: unclosed single quote")]
    Unclosed(usize),
    /// More than a comment after the value.
    #[error("line {0}: unexpected content after closing quote")]
    Trailing(usize),
}

const BLANK: [char; 2] = [' ', '\t'];

/// The first value of `key`; `None` if it has none.
pub fn value(text: &str, key: &str) -> Result<Option<String>, Malformed> {
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start_matches(BLANK);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once('=').ok_or(Malformed::NoEquals(number))?;
        if name.trim_end_matches(BLANK).is_empty() {
            return Err(Malformed::NoName(number));
        }
        if name.ends_with(BLANK) {
            return Err(Malformed::SpaceBeforeEquals(number));
        }
        // As in a shell, `NAME= 'value'` sets nothing.
        let found = if rest.starts_with(BLANK) {
            String::new()
        } else {
            let first = rest.strip_prefix('\'').ok_or(Malformed::NotQuoted(number))?;
            quoted(first, number, &mut lines)?
        };
        if name == key {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What stands before the closing quote, which may be on a later line.
fn quoted<'a>(
    first: &'a str,
    start: usize,
    lines: &mut impl Iterator<Item = (&'a str, usize)>,
) -> Result<String, Malformed> {
    let (mut line, mut number) = (first, start);
    let mut out = String::new();
    loop {
        if let Some((end, after)) = line.split_once('\'') {
            let after = after.trim_start_matches(BLANK);
            if !after.is_empty() && !after.starts_with('#') {
                return Err(Malformed::Trailing(number));
            }
            out.push_str(end);
            return Ok(out);
        }
        out.push_str(line);
        out.push('\n');
        (line, number) = lines.next().ok_or(Malformed::Unclosed(start))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, key: &str, want: Result<Option<&str>, Malformed>) {
        assert_eq!(value(text, key), want.map(|v| v.map(str::to_owned)), "{key} of {text:?}");
    }

    #[test]
    fn values_are_literal_and_may_span_lines() {
        let text = "# first\n\n  A='1' # one\nB='$A \\n \"x\"'\r\nC='two\n  lines'\nD= 'x'\nA='2'\n";
        check(text, "A", Ok(Some("1")));
        check(text, "B", Ok(Some("$A \\n \"x\"")));
        check(text, "C", Ok(Some("two\n  lines")));
        check(text, "D", Ok(Some("")));
        check(text, "E", Ok(None));
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_refused() {
        check("A='1'\nnoise", "A", Ok(Some("1")));
        check("A='1'\nnoise", "B", Err(Malformed::NoEquals(2)));
        check("='1'", "A", Err(Malformed::NoName(1)));
        check("A ='1'", "A", Err(Malformed::SpaceBeforeEquals(1)));
        check("A=1", "A", Err(Malformed::NotQuoted(1)));
        check("\nA='1\n2", "A", Err(Malformed::Unclosed(2)));
        check("A='1\n2'3", "A", Err(Malformed::Trailing(2)));
    }
}
