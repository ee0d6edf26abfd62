//! Regular expressions as Go writes them (`regexp/syntax`), run by the `regex` crate. Schemas and expressions of users are in
//! that syntax.
//!
//! Both are RE2's children and run in linear time. Differs, and is rewritten here: `\d`, `\s`, `\w` and `\b` are ASCII's in Go;
//! in Go's classes `[`, `&&`, `--` and `~~` mean themselves, and so does `-` beside a class; `{` that begins no repetition means
//! itself; `\Q…\E`, octal escapes, and `\<` are the letters.

use regex::{Regex, RegexBuilder};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use thiserror::Error;

/// The largest automaton of a pattern in a schema; expressions that need more are refused. `\p{L}{1,253}` needs 4 MiB.
const SIZE_LIMIT_BYTES: usize = 10 << 20;
/// The most repetitions, also of what is repeated within (`maxRepeat`).
const MOST_REPETITIONS: u32 = 1000;
/// Classes of POSIX (`posixGroup`).
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];
/// With fewer known patterns, it is not looked for those that nobody uses any more.
const FEW: usize = 256;

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
    /// The pattern of this text. Users of equal patterns share one: schemas repeat the same few hundreds of times.
    pub fn new(text: &str) -> Arc<Self> {
        static KNOWN: LazyLock<Mutex<HashMap<String, Weak<Pattern>>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pattern) = known.get(text).and_then(Weak::upgrade) {
            return pattern;
        }
        if known.len() >= FEW && known.len() == known.capacity() {
            known.retain(|_, pattern| pattern.strong_count() > 0);
        }
        let pattern = Arc::new(Pattern { text: text.to_owned(), compiled: OnceLock::new() });
        known.insert(text.to_owned(), Arc::downgrade(&pattern));
        pattern
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Ready to match.
    pub fn regex(&self) -> Result<&Regex, &BadPattern> {
        self.compiled.get_or_init(|| compile(&self.text, SIZE_LIMIT_BYTES)).as_ref()
    }
}

/// A pattern of Go's, ready to match, if its automaton is not larger than this.
pub fn compile(pattern: &str, size_limit_bytes: usize) -> Result<Regex, BadPattern> {
    let out = String::with_capacity(pattern.len() + 16);
    let rewritten = Rewriter { rest: pattern, out, open: Vec::new(), group: 1, atom: 0, flags: String::new() }.run()?;
    RegexBuilder::new(&rewritten).size_limit(size_limit_bytes).build().map_err(BadPattern::Refused)
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
    /// Of the groups that are open, from outside in, what `group` was before them.
    open: Vec<u32>,
    /// How often at most something within the current group is repeated.
    group: u32,
    /// The same of what was read last, and could be repeated next; 0 if nothing could.
    atom: u32,
    /// What sets flags and was read since. It is nothing that could be repeated, so it is written before what comes next.
    flags: String,
}

impl<'p> Rewriter<'p> {
    fn run(mut self) -> Result<String, BadPattern> {
        let whole = self.rest;
        // Where the repetition began that was read last, if nothing was since.
        let mut repeated: Option<&str> = None;
        loop {
            let before = self.rest;
            let Some(c) = self.take() else { break };
            let bounds = if c == '{' { self.bounds()? } else { None };
            if bounds.is_none() && !matches!(c, '*' | '+' | '?') {
                repeated = None;
                self.one(c, whole)?;
                continue;
            }
            let is_missing = self.atom == 0;
            self.repetition(c, bounds);
            let end = |from: &str| from.len() - self.rest.len();
            if is_missing {
                return Err(wrong("missing argument to repetition operator", &before[..end(before)]));
            }
            if let Some(first) = repeated {
                return Err(wrong("invalid nested repetition operator", &first[..end(first)]));
            }
            if self.atom > MOST_REPETITIONS {
                return Err(wrong("invalid repeat count", &before[..end(before)]));
            }
            repeated = Some(before);
        }
        match self.open.is_empty() {
            true => Ok(self.out),
            false => Err(wrong("missing closing )", whole)),
        }
    }

    /// What is no repetition.
    fn one(&mut self, c: char, whole: &str) -> Result<(), BadPattern> {
        if c == '(' {
            return self.open_group();
        }
        self.out.push_str(&std::mem::take(&mut self.flags));
        if c == '\\' && self.rest.starts_with('Q') {
            self.quoted();
            return Ok(());
        }
        self.atom = if c == '|' { 0 } else { 1 };
        match c {
            '\\' => self.escape()?,
            '[' => self.class()?,
            ')' => {
                let outside = self.open.pop().ok_or_else(|| wrong("unexpected )", whole))?;
                self.atom = self.group;
                self.group = outside.max(self.group);
                self.out.push(c);
            }
            '{' | '}' | ']' => self.literal(c),
            c => self.out.push(c),
        }
        Ok(())
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

    /// After a backslash: `Q`, and what means itself up to a `\E`. If that is nothing, what was before can still be repeated.
    fn quoted(&mut self) {
        self.take();
        let end = self.rest.find(r"\E").unwrap_or(self.rest.len());
        self.take_up_to(end).chars().for_each(|c| {
            self.literal(c);
            self.atom = 1;
        });
        self.rest = self.rest.strip_prefix(r"\E").unwrap_or(self.rest);
    }

    /// After a backslash that is not in a class (`parser.parse`, case `\\`).
    fn escape(&mut self) -> Result<(), BadPattern> {
        let letter = self.rest.chars().next().ok_or_else(|| wrong("trailing backslash at end of expression", ""))?;
        match letter {
            'A' | 'z' => self.out.extend(['\\', letter]),
            'b' => self.out.push_str(r"(?-u:\b)"),
            'B' => self.out.push_str(r"(?-u:\B)"),
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
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | ' ')) {
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

    /// After a `(` (`parser.parsePerlFlags`). Nobody asks for names.
    fn open_group(&mut self) -> Result<(), BadPattern> {
        let whole = self.rest;
        let Some(rest) = whole.strip_prefix('?') else {
            self.begin_group("(");
            return Ok(());
        };
        if let Some(rest) = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<')) {
            let bad = |part: &str| wrong("invalid named capture", format!("({part}"));
            let (name, _) = rest.split_once('>').ok_or_else(|| bad(whole))?;
            let end = whole.len() - rest.len() + name.len() + 1;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(bad(&whole[..end]));
            }
            self.take_up_to(end);
            self.begin_group("(");
            return Ok(());
        }
        self.take();
        let (flags, end) = self.flags().ok_or_else(|| {
            wrong("invalid or unsupported Perl syntax", format!("({}", &whole[..whole.len() - self.rest.len()]))
        })?;
        match end {
            ':' => self.begin_group(&format!("(?{flags}:")),
            _ if flags.is_empty() => {}
            _ => self.flags.extend(["(?", &flags, ")"]),
        }
        Ok(())
    }

    fn begin_group(&mut self, text: &str) {
        self.out.push_str(&std::mem::take(&mut self.flags));
        self.out.push_str(text);
        self.atom = 0;
        self.open.push(std::mem::replace(&mut self.group, 1));
    }

    /// Flags after `(?`, each once, and what ends them: `:` or `)`.
    fn flags(&mut self) -> Option<(String, char)> {
        const FLAGS: [char; 4] = ['i', 'm', 's', 'U'];
        let (mut set, mut on, mut named) = ([None; 4], true, false);
        loop {
            let c = self.take()?;
            match FLAGS.iter().position(|flag| *flag == c) {
                Some(flag) => (set[flag], named) = (Some(on), true),
                None if c == '-' && on => (on, named) = (false, false),
                None if matches!(c, ':' | ')') && (on || named) => {
                    let of =
                        |wanted| FLAGS.iter().zip(set).filter(move |(_, on)| *on == Some(wanted)).map(|(flag, _)| flag);
                    let off: String = of(false).collect();
                    let dash = if off.is_empty() { "" } else { "-" };
                    return Some((of(true).collect::<String>() + dash + &off, c));
                }
                None => return None,
            }
        }
    }

    /// After a `{`: the bounds of a repetition and the text of both, or `None` if it means itself (`parser.parseRepeat`).
    fn bounds(&self) -> Result<Option<(u32, &'p str)>, BadPattern> {
        let number = |text: &str| {
            let leading_zero = text.len() > 1 && text.starts_with('0');
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !leading_zero)
                .then(|| text.parse::<u32>().unwrap_or(u32::MAX))
        };
        let Some(inside) = self.rest.find('}').map(|end| &self.rest[..end]) else { return Ok(None) };
        let bounds = match inside.split_once(',') {
            None => number(inside).map(|n| (n, n)),
            Some((least, "")) => number(least).map(|n| (n, n)),
            Some((least, most)) => number(least).zip(number(most)),
        };
        match bounds {
            None => Ok(None),
            Some((least, most)) if most <= MOST_REPETITIONS && least <= most => Ok(Some((most, inside))),
            Some(_) => Err(wrong("invalid repeat count", format!("{{{inside}}}"))),
        }
    }

    /// A repetition that begins with `c`, greedy or not (`parser.repeat`).
    fn repetition(&mut self, c: char, bounds: Option<(u32, &str)>) {
        self.out.push(c);
        if let Some((most, inside)) = bounds {
            self.take_up_to(inside.len() + 1);
            self.out.push_str(inside);
            self.out.push('}');
            // What is repeated no time at all does not count.
            self.atom = if most == 0 { 1 } else { self.atom.saturating_mul(most) };
        }
        self.group = self.group.max(self.atom);
        if let Some(rest) = self.rest.strip_prefix('?') {
            self.rest = rest;
            self.out.push('?');
        }
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
            let known = &name[2..name.len() - 2];
            if !POSIX_CLASSES.contains(&known.strip_prefix('^').unwrap_or(known)) {
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
        let regex = compile(pattern, SIZE_LIMIT_BYTES).unwrap_or_else(|error| panic!("{pattern}: {error}"));
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
        matches(r"^(?P<1>a)(?<_b>b)(?ii-m)(?)(?s-ii:C.)$", &["abC\n"], &["abc\n"]);
        matches(r"^a*?b{2}?(c+)?{d?$", &["bb{", "aabbcc{d"], &["b{"]);
        matches(r"^(a{30}){33}(b{1000}){0,1}$", &[&"a".repeat(990)], &["a"]);
        matches(r"^\p{Old_Italic}\p{Old-Italic}$", &["𐌀𐌁"], &["ab"]);
        matches(r"^a(?i){2}b\Q\E*$", &["aaBB"], &["aA"]);
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        let why = |pattern: &str| compile(pattern, SIZE_LIMIT_BYTES).expect_err(pattern).to_string();
        assert_eq!(why(r"a{1001}"), "error parsing regexp: invalid repeat count: `{1001}`");
        assert_eq!(why(r"((a{11}){10}b){10,}"), "error parsing regexp: invalid repeat count: `{10,}`");
        for pattern in ["*?b", "a|*?", "(*?)", "(?i)*?", r"\Q\E*?"] {
            assert_eq!(why(pattern), "error parsing regexp: missing argument to repetition operator: `*?`");
        }
        assert_eq!(why(r"a**"), "error parsing regexp: invalid nested repetition operator: `**`");
        assert_eq!(why(r"a{2}+?b"), "error parsing regexp: invalid nested repetition operator: `{2}+?`");
        assert_eq!(why(r"a???"), "error parsing regexp: invalid nested repetition operator: `???`");
        assert_eq!(why(r"[[:foo:]]"), "error parsing regexp: invalid character class range: `[:foo:]`");
        assert_eq!(why(r"[[:^^alpha:]]"), "error parsing regexp: invalid character class range: `[:^^alpha:]`");
        assert_eq!(why(r"(?P<a.b>x)"), "error parsing regexp: invalid named capture: `(?P<a.b>`");
        assert_eq!(why(r"(?i-)a"), "error parsing regexp: invalid or unsupported Perl syntax: `(?i-)`");
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
