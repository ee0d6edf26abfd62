//! Places in compact JSON, found by running over the text: nothing is built, and no more is read than is needed.
//!
//! For text that was written here or by another API server. In text with spaces, and behind a flaw, nothing is found. Where
//! all values are looked at, there is [`crate::json::Doc`].

use std::ops::Range;

/// Where the value of a member of the outermost object begins; what comes after that is not read.
pub fn begin(bytes: &[u8], name: &[u8]) -> Option<usize> {
    let mut start = 1;
    if bytes.first() != Some(&b'{') {
        return None;
    }
    loop {
        let key = skip(bytes, start).filter(|end| bytes.get(*end) == Some(&b':'))?;
        if bytes.get(start + 1..key - 1) == Some(name) {
            return Some(key + 1);
        }
        start = skip(bytes, key + 1).filter(|end| bytes.get(*end) == Some(&b','))? + 1;
    }
}

/// The value of a member of the object that begins at `at`. Compact JSON only.
pub fn member(bytes: &[u8], at: usize, name: &[u8]) -> Option<Range<usize>> {
    members(bytes, at).find(|m| m.name(bytes) == name).map(|m| m.value)
}

/// A member of an object, as places in its JSON.
pub struct Member {
    /// Its name, with quotes.
    pub key: Range<usize>,
    /// Its value.
    pub value: Range<usize>,
}

impl Member {
    /// Its name as it is written, without quotes.
    pub fn name<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.key.start + 1..self.key.end - 1).unwrap_or_default()
    }
}

/// The members of the object that begins at `at`, up to a flaw.
pub fn members(bytes: &[u8], at: usize) -> impl Iterator<Item = Member> {
    let mut next = (bytes.get(at) == Some(&b'{')).then_some(at + 1);
    std::iter::from_fn(move || {
        let start = next.take().filter(|start| bytes.get(*start) == Some(&b'"'))?;
        let key = skip(bytes, start).filter(|end| bytes.get(*end) == Some(&b':'))?;
        let value = skip(bytes, key + 1)?;
        next = (bytes.get(value) == Some(&b',')).then_some(value + 1);
        Some(Member { key: start..key, value: key + 1..value })
    })
}

/// The JSON without a member of the object that begins at `at`, and where the value of that was.
pub fn cut(bytes: &[u8], at: usize, name: &[u8]) -> Option<(Vec<u8>, Range<usize>)> {
    let Member { key, value } = members(bytes, at).find(|m| m.name(bytes) == name)?;
    let (mut start, mut end) = (key.start, value.end);
    // One comma goes with it.
    match (bytes.get(end), bytes.get(start - 1)) {
        (Some(b','), _) => end += 1,
        (_, Some(b',')) => start -= 1,
        _ => {}
    }
    Some(([&bytes[..start], &bytes[end..]].concat(), value))
}

/// The end of the JSON value that begins at `at`.
pub(crate) fn skip(bytes: &[u8], mut at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => skip_text(bytes, at),
        b'{' | b'[' => skip_nested(bytes, at),
        _ => {
            while !matches!(bytes.get(at), None | Some(b',' | b'}' | b']' | b':')) {
                at += 1;
            }
            Some(at)
        }
    }
}

/// The end of the object or list that begins at `at`.
fn skip_nested(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = skip_text(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// The end of the text that begins, with its quote, at `at`.
pub fn skip_text(bytes: &[u8], at: usize) -> Option<usize> {
    text_at(bytes, at).map(|(end, _)| end)
}

/// [`skip_text`], and whether something in it is escaped.
pub(crate) fn text_at(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let (mut at, mut has_escapes) = (at + 1, false);
    loop {
        at = find_quote(bytes, at)?;
        match bytes[at] {
            b'"' => return Some((at + 1, has_escapes)),
            _ => at += 2,
        }
        has_escapes = true;
    }
}

/// Words looked at before memchr is called: most texts are shorter than what a call costs.
const WORDS: usize = 4;

/// The next quote or backslash.
fn find_quote(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let (words, _) = rest.as_chunks::<8>();
    let mut looked_at = 0;
    for word in words.iter().take(WORDS) {
        let word = u64::from_le_bytes(*word);
        let found = marks(word, b'"') | marks(word, b'\\');
        if found != 0 {
            return Some(at + looked_at + found.trailing_zeros() as usize / 8);
        }
        looked_at += 8;
    }
    memchr::memchr2(b'"', b'\\', &rest[looked_at..]).map(|found| at + looked_at + found)
}

/// The highest bit of the first byte of a word that is `byte`, and perhaps bits behind it; nothing if there is none.
fn marks(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let zero_there = word ^ (LOW * u64::from(byte));
    zero_there.wrapping_sub(LOW) & !zero_there & (LOW << 7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_member_is_cut_with_one_comma() {
        let cut = |text: &str| {
            let (rest, was) = super::cut(text.as_bytes(), begin(text.as_bytes(), b"m")?, b"x")?;
            Some((String::from_utf8(rest).expect("text"), text[was].to_owned()))
        };
        let found = |rest: &str, was: &str| Some((rest.to_owned(), was.to_owned()));
        assert_eq!(cut(r#"{"a":{"x":1},"m":{"x":[{"x":"]}"}]}}"#), found(r#"{"a":{"x":1},"m":{}}"#, r#"[{"x":"]}"}]"#));
        assert_eq!(cut(r#"{"m":{"x":1,"y":2},"x":3}"#), found(r#"{"m":{"y":2},"x":3}"#, "1"));
        assert_eq!(cut(r#"{"m":{"\"":0,"x":{}}}"#), found(r#"{"m":{"\"":0}}"#, "{}"));
        for without in
            [r#"{"m":{"y":1}}"#, r#"{"x":1}"#, r#"{"m":[1]}"#, r#"{ "m": {"x":1}}"#, r#"{"m":{"x":"#, "", "{:"]
        {
            assert_eq!(cut(without), None, "{without}");
        }
    }

    #[test]
    fn texts_end_where_their_quote_is() {
        for length in 0..70 {
            for escape in ["", "\\\\", "\\\""] {
                let text = format!("\"{}{escape}ü\",\"", "a".repeat(length));
                assert_eq!(skip_text(text.as_bytes(), 0), Some(text.len() - 2), "{text}");
                assert_eq!(skip_text(&text.as_bytes()[..text.len() - 3], 0), None, "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\xm1".to_vec()), 0..40)) {
            drop(begin(&bytes, b"m").and_then(|at| cut(&bytes, at, b"x")));
            prop_assert!(members(&bytes, 0).all(|member| member.value.end <= bytes.len()));
        }
    }
}
