//! Regular expressions as Go writes them (`regexp/syntax`), run by the `regex` crate. Schemas and expressions of users are in
//! that syntax.
//!
//! Both are RE2's children and run in linear time. Differs, and is rewritten here: `\d`, `\s`, `\w` and `\b` are ASCII's in Go;
//! in Go's classes `[`, `&&`, `--` and `~~` mean themselves, and so does `-` beside a class; `{` that begins no repetition means
//! itself; `\Q…\E`, octal escapes, and `\<` are the letters.

use regex::{Regex, RegexBuilder};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use thiserror::Error;

/// The largest automaton; expressions that need more are refused. `\p{L}{1,253}` needs 4 MiB.
const SIZE_LIMIT_BYTES: usize = 10 << 20;
/// The most repetitions (`maxRepeat`).
const MOST_REPETITIONS: u32 = 1000;
/// Patterns that are kept though nobody uses them. Schemas repeat the same few hundreds of times.
const KEPT: usize = 256;

/// Why a pattern does not compile.
#[derive(Debug, Clone, Error)]
pub enum BadPattern {
    /// In Go's words.
    #[error("error parsing regexp: {what}: `{part}`")]
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// With which part of the pattern.
        part: String,
    },
    /// In the `regex` crate's.
    #[error("error parsing regexp: {0}")]
    Refused(regex::Error),
}

/// A pattern, compiled when it is first matched or checked.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    compiled: OnceLock<Result<Regex, BadPattern>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// The pattern of this text. Users of equal patterns share one.
    pub fn new(text: &str) -> Arc<Self> {
        static KNOWN: LazyLock<Mutex<HashMap<String, Arc<Pattern>>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pattern) = known.get(text) {
            return pattern.clone();
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let pattern = Arc::new(Pattern { text: text.to_owned(), compiled: OnceLock::new() });
        known.insert(text.to_owned(), pattern.clone());
        pattern
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Ready to match.
    pub fn regex(&self) -> Result<&Regex, &BadPattern> {
        self.compiled.get_or_init(|| compile(&self.text)).as_ref()
    }
}

/// A pattern of Go's, ready to match.
pub fn compile(pattern: &str) -> Result<Regex, BadPattern> {
    let rewritten = Rewriter { rest: pattern, out: String::with_capacity(pattern.len() + 16), open: 0 }.run()?;
    RegexBuilder::new(&rewritten).size_limit(SIZE_LIMIT_BYTES).build().map_err(BadPattern::Refused)
}

fn wrong(what: &'static str, part: impl Into<String>) -> BadPattern {
    BadPattern::Syntax { what, part: part.into() }
}

/// What one of Perl's classes means in ASCII, without brackets.
fn perl_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' | 'D' => "0-9",
        's' | 'S' => r"\t\n\x0C\r ",
        'w' | 'W' => "0-9A-Za-z_",
        _ => return None,
    })
}

/// Reads Go's syntax, writes the `regex` crate's.
struct Rewriter<'p> {
    rest: &'p str,
    out: String,
    /// Groups that are open.
    open: usize,
}

impl<'p> Rewriter<'p> {
    fn run(mut self) -> Result<String, BadPattern> {
        let whole = self.rest;
        while let Some(c) = self.take() {
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                ')' if self.open == 0 => return Err(wrong("unexpected )", whole)),
                ')' => {
                    self.open -= 1;
                    self.out.push(c);
                }
                '{' => self.repetition()?,
                '}' | ']' => self.literal(c),
                c => self.out.push(c),
            }
        }
        if self.open > 0 {
            return Err(wrong("missing closing )", whole));
        }
        Ok(self.out)
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take_up_to(&mut self, end: usize) -> &'p str {
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A character that means itself, also in a class.
    fn literal(&mut self, c: char) {
        if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    /// After a backslash that is not in a class (`parser.parse`, case `\\`).
    fn escape(&mut self) -> Result<(), BadPattern> {
        let letter = self.rest.chars().next().ok_or_else(|| wrong("trailing backslash at end of expression", ""))?;
        match letter {
            'A' | 'z' => self.out.extend(['\\', letter]),
            'b' => self.out.push_str(r"(?-u:\b)"),
            'B' => self.out.push_str(r"(?-u:\B)"),
            'Q' => {
                self.take();
                let end = self.rest.find(r"\E").unwrap_or(self.rest.len());
                self.take_up_to(end).chars().for_each(|c| self.literal(c));
                self.rest = self.rest.strip_prefix(r"\E").unwrap_or(self.rest);
                return Ok(());
            }
            'p' | 'P' => return self.unicode_class(),
            _ => match perl_class(letter) {
                Some(class) => {
                    self.out.push_str(if letter.is_ascii_uppercase() { "[^" } else { "[" });
                    self.out.push_str(class);
                    self.out.push(']');
                }
                None => {
                    let c = self.character()?;
                    self.literal(c);
                    return Ok(());
                }
            },
        }
        self.take();
        Ok(())
    }

    /// `\pN`, `\p{Greek}`, `\P{^Greek}` after the backslash.
    fn unicode_class(&mut self) -> Result<(), BadPattern> {
        let bad = |part: &str| wrong("invalid character class range", format!(r"\{part}"));
        let whole = self.rest;
        let mut negative = self.take() == Some('P');
        let name = match self.take() {
            Some('{') => {
                let end = self.rest.find('}').ok_or_else(|| bad(whole))?;
                let name = self.take_up_to(end);
                self.take();
                name
            }
            Some(letter) => &whole[1..1 + letter.len_utf8()],
            None => return Err(bad(whole)),
        };
        let plain = name.strip_prefix('^');
        negative ^= plain.is_some();
        let name = plain.unwrap_or(name);
        // The `regex` crate knows more forms, as `Script=Greek`.
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
            return Err(bad(&whole[..whole.len() - self.rest.len()]));
        }
        self.out.push_str(if negative { r"\P{" } else { r"\p{" });
        self.out.push_str(name);
        self.out.push('}');
        Ok(())
    }

    /// The character that an escape stands for, after the backslash (`parser.parseEscape`).
    fn character(&mut self) -> Result<char, BadPattern> {
        let whole = self.rest;
        let first = self.take().ok_or_else(|| wrong("trailing backslash at end of expression", ""))?;
        let next_is_octal = self.rest.starts_with(|c: char| c.is_digit(8));
        let code = match first {
            'a' => 7,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            '0'..='7' if first == '0' || next_is_octal => {
                let more = self.rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let digits = self.take_up_to(more);
                digits.bytes().fold(first as u32 - 48, |code, digit| code * 8 + u32::from(digit - b'0'))
            }
            'x' => self.hex().unwrap_or(u32::MAX),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => u32::from(c),
            _ => u32::MAX,
        };
        let read = whole.len() - self.rest.len();
        char::from_u32(code).ok_or_else(|| wrong("invalid escape sequence", format!(r"\{}", &whole[..read])))
    }

    /// `41` or `{1F600}` after `\x`.
    fn hex(&mut self) -> Option<u32> {
        let digits = match self.rest.strip_prefix('{') {
            Some(rest) => {
                let end = rest.find('}')?;
                self.rest = &rest[end + 1..];
                &rest[..end]
            }
            None => {
                self.rest.get(..2)?;
                self.take_up_to(2)
            }
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u32::from_str_radix(digits, 16).ok()
    }

    /// After a `(`. Names are as in the `regex` crate; flags are fewer.
    fn group(&mut self) -> Result<(), BadPattern> {
        self.out.push('(');
        self.open += 1;
        let Some(rest) = self.rest.strip_prefix('?') else { return Ok(()) };
        if rest.starts_with("P<") || rest.starts_with('<') {
            return Ok(());
        }
        let flags = rest.find(|c: char| !matches!(c, 'i' | 'm' | 's' | 'U' | '-'));
        match flags.map(|end| rest[end..].starts_with([':', ')'])) {
            Some(true) => Ok(()),
            _ => {
                let end =
                    rest.char_indices().nth(flags.unwrap_or(rest.len())).map_or(rest.len(), |(i, c)| i + c.len_utf8());
                Err(wrong("invalid or unsupported Perl syntax", format!("(?{}", &rest[..end])))
            }
        }
    }

    /// After a `{`: `n}`, `n,}` or `n,m}`, or something that means itself (`parser.repeat`).
    fn repetition(&mut self) -> Result<(), BadPattern> {
        let number = |text: &str| {
            let leading_zero = text.len() > 1 && text.starts_with('0');
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !leading_zero)
                .then(|| text.parse::<u32>().unwrap_or(u32::MAX))
        };
        let inside = self.rest.find('}').map(|end| &self.rest[..end]);
        let bounds = inside.and_then(|inside| match inside.split_once(',') {
            None => number(inside).map(|n| (n, Some(n))),
            Some((least, "")) => number(least).map(|n| (n, None)),
            Some((least, most)) => Some((number(least)?, Some(number(most)?))),
        });
        let (Some((least, most)), Some(inside)) = (bounds, inside) else {
            self.literal('{');
            return Ok(());
        };
        if least > MOST_REPETITIONS || most.is_some_and(|most| most > MOST_REPETITIONS || most < least) {
            return Err(wrong("invalid repeat count", format!("{{{inside}}}")));
        }
        self.take_up_to(inside.len() + 1);
        self.out.push('{');
        self.out.push_str(inside);
        self.out.push('}');
        Ok(())
    }

    /// After a `[` (`parser.parseClass`).
    fn class(&mut self) -> Result<(), BadPattern> {
        let whole = self.rest;
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.rest = rest;
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let next = self.rest.chars().next().ok_or_else(|| wrong("missing closing ]", format!("[{whole}")))?;
            if next == ']' && !is_first {
                self.take();
                self.out.push(']');
                return Ok(());
            }
            is_first = false;
            if !self.named_class()? {
                self.range()?;
            }
        }
    }

    /// In a class: `[:alpha:]`, `\d` or `\pL`. Tells whether there is one.
    fn named_class(&mut self) -> Result<bool, BadPattern> {
        if let Some(end) = self.rest.strip_prefix("[:").and_then(|rest| rest.find(":]")) {
            let name = self.take_up_to(end + 4);
            let known = name.trim_matches(['[', ']', ':']);
            if !known.trim_start_matches('^').bytes().all(|b| b.is_ascii_lowercase()) {
                return Err(wrong("invalid character class range", name));
            }
            self.out.push_str(name);
            return Ok(true);
        }
        let Some(letter) = self.rest.strip_prefix('\\').and_then(|rest| rest.chars().next()) else { return Ok(false) };
        if matches!(letter, 'p' | 'P') {
            self.take();
            self.unicode_class()?;
            return Ok(true);
        }
        let Some(class) = perl_class(letter) else { return Ok(false) };
        self.take_up_to(2);
        match letter.is_ascii_uppercase() {
            true => self.out.extend(["[^", class, "]"]),
            false => self.out.push_str(class),
        }
        Ok(true)
    }

    /// In a class: one character, or two with a `-` between them.
    fn range(&mut self) -> Result<(), BadPattern> {
        let whole = self.rest;
        let low = self.class_character()?;
        self.literal(low);
        let is_range = self.rest.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(']'));
        if !is_range {
            return Ok(());
        }
        self.take();
        let high = self.class_character()?;
        if high < low {
            return Err(wrong("invalid character class range", &whole[..whole.len() - self.rest.len()]));
        }
        self.out.push('-');
        self.literal(high);
        Ok(())
    }

    fn class_character(&mut self) -> Result<char, BadPattern> {
        match self.take() {
            Some('\\') => self.character(),
            Some(c) => Ok(c),
            None => Err(wrong("missing closing ]", "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn matches(pattern: &str, yes: &[&str], no: &[&str]) {
        let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for text in yes {
            assert!(regex.is_match(text), "{pattern} should match {text:?}");
        }
        for text in no {
            assert!(!regex.is_match(text), "{pattern} should not match {text:?}");
        }
    }

    #[test]
    fn classes_of_perl_are_ascii_and_classes_of_unicode_are_known() {
        matches(r"^\d\s\w$", &["1 a"], &["٣ a", "1\u{a0}a", "1 ä"]);
        matches(r"^[\D\S]\W[^\d]$", &["a-b"], &["a-1", "aab"]);
        matches(r"\bä", &["aä"], &["ä"]);
        matches(r"^a\Bb", &["ab"], &["a b"]);
        matches(r"^\pL\p{Greek}\P{^Lu}[\p{Nd}x]$", &["äαB٣", "äαBx"], &["1αB1", "äab1"]);
        matches(r"^(?i)(abort|warn|straße)?$", &["WARN", "", "STRAßE", "ſTRAßE"], &["warned"]);
        matches(r"^[[:alpha:][:^ascii:]]+$", &["aä"], &["1"]);
    }

    #[test]
    fn what_has_a_meaning_in_rust_only_means_itself() {
        matches(r"^[\w-.]+$", &["a-.b"], &["a/b"]);
        matches(r"^[\w+--]$", &["-", "+", ",", "a"], &["."]);
        matches(r"^[^[]+$", &["abc"], &["a[b"]);
        matches(r"^[a&&b~~]+$", &["a&b~"], &["c"]);
        matches(r"^[]a]+$", &["]a"], &["b"]);
        matches(r"^[a-]$", &["-", "a"], &["b"]);
        matches(r"^\<a\>$", &["<a>"], &["a"]);
        matches(r"^{a}{2}{,3}$", &["{a}}{,3}"], &["{a}{2}{,3}"]);
        matches(r"^\Qa.b\E\101\x{42}\x43$", &["a.bABC"], &["axbABC"]);
        matches(r"^\/\-\_\@\#]$", &["/-_@#]"], &[]);
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        let why = |pattern: &str| compile(pattern).expect_err(pattern).to_string();
        assert_eq!(why(r"a{1001}"), "error parsing regexp: invalid repeat count: `{1001}`");
        assert_eq!(why(r"\y"), r"error parsing regexp: invalid escape sequence: `\y`");
        assert_eq!(why(r"(a)\1"), r"error parsing regexp: invalid escape sequence: `\1`");
        assert_eq!(why(r"(?=a)"), "error parsing regexp: invalid or unsupported Perl syntax: `(?=`");
        assert_eq!(why(r"(?x)a b"), "error parsing regexp: invalid or unsupported Perl syntax: `(?x`");
        assert_eq!(why(r"(a"), "error parsing regexp: missing closing ): `(a`");
        assert_eq!(why(r"a)"), "error parsing regexp: unexpected ): `a)`");
        assert_eq!(why(r"[a"), "error parsing regexp: missing closing ]: `[a`");
        assert_eq!(why(r"[z-a]"), "error parsing regexp: invalid character class range: `z-a`");
        assert_eq!(why("a\\"), "error parsing regexp: trailing backslash at end of expression: ``");
    }
}
