//! [`Doc`]: a JSON text whose values were found once and are then looked at in place, without copies.
//!
//! For text that was written here or checked before: a flaw in it gives `None` without a reason, and of equal keys the
//! first is found. Where a client has to be told what is wrong, [`crate::schema::check`] reads.

use crate::scan::text_at;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;

/// Deeper nesting is refused, so that no text exhausts the stack.
const MAX_DEPTH: usize = 200;

/// The JSON of a value or text in hand. `Value`'s own `to_string` goes through `fmt`, which costs several times as much.
pub(crate) fn to_text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("values and texts are JSON")
}

/// What Go's reader of JSON calls the type of a value in its errors.
pub(crate) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What Go's reader of JSON says of a value that is not of the type `wanted`.
pub fn cannot_unmarshal(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", go_kind(value))
}

/// Go writes floats from here on with an exponent (`encoding/json`); below, there are integers of ours for nearly all.
const WITHOUT_EXPONENT: f64 = 18_446_744_073_709_551_616.0;

fn whole_float(value: &Value) -> Option<f64> {
    let Value::Number(number) = value else { return None };
    let float = number.as_f64().filter(|_| number.is_f64())?;
    (float.fract() == 0.0 && float.abs() < WITHOUT_EXPONENT).then_some(float)
}

/// Whether there is a whole number in it that is written as a float.
pub(crate) fn has_whole_floats(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().any(has_whole_floats),
        Value::Array(items) => items.iter().any(has_whole_floats),
        other => whole_float(other).is_some(),
    }
}

/// Makes integers of whole numbers that are written as floats, as Go does when it writes them, and when it reads YAML.
pub fn make_whole(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(make_whole),
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        other => {
            let Some(float) = whole_float(other) else { return };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
            let whole = if float < 0.0 { Value::from(float as i64) } else { Value::from(float as u64) };
            *other = whole;
        }
    }
}

/// JSON as Go's `encoding/json` writes it: what HTML could take for its own is escaped.
pub(crate) fn escaped_for_html(json: String) -> String {
    if !json.contains(['&', '<', '>', '\u{2028}', '\u{2029}']) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '&' => escaped.push_str("\\u0026"),
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number.
    Number,
    /// Text.
    String,
    /// A list.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// The kind of a value in hand.
    pub fn of(value: &Value) -> Kind {
        match value {
            Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Bool,
            Value::Number(_) => Kind::Number,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::Object(_) => Kind::Object,
        }
    }
}

/// What is between two quotes.
#[derive(Debug, Clone, Copy)]
struct Quoted {
    start: u32,
    end: u32,
    has_escapes: bool,
}

impl Quoted {
    const NONE: Quoted = Quoted { start: 0, end: 0, has_escapes: false };

    fn raw(self, text: &str) -> &str {
        &text[self.start as usize..self.end as usize]
    }

    fn read(self, text: &str) -> Cow<'_, str> {
        let raw = self.raw(text);
        if self.has_escapes { unescaped(raw) } else { Cow::Borrowed(raw) }
    }
}

/// One value: a stretch of the text.
#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    start: u32,
    end: u32,
    /// What is between the quotes of its key; empty in lists.
    key: Quoted,
    /// The index after everything inside of it.
    next: u32,
}

/// A JSON text and where its values are.
#[derive(Debug)]
pub struct Doc<'t> {
    text: Cow<'t, str>,
    nodes: Vec<Node>,
}

impl<'t> Doc<'t> {
    /// Reads a whole text.
    pub fn parse(bytes: &'t [u8]) -> Option<Self> {
        Doc::read(Cow::Borrowed(std::str::from_utf8(bytes).ok()?), MAX_DEPTH)
    }

    fn read(text: Cow<'t, str>, depth: usize) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let mut parser = Parser { bytes: text.as_bytes(), at: 0, nodes: Vec::with_capacity(text.len() / 16 + 1) };
        parser.space();
        parser.value(Quoted::NONE, depth)?;
        parser.space();
        let Parser { at, nodes, .. } = parser;
        (at == text.len()).then_some(Doc { text, nodes })
    }

    /// The text of a value in hand.
    pub fn of(value: &Value) -> Doc<'static> {
        Doc::read(to_text(value).into(), usize::MAX).expect("serde_json writes JSON")
    }

    /// The outermost value.
    pub fn root(&self) -> Json<'_> {
        Json { text: &self.text, nodes: &self.nodes, at: 0 }
    }
}

/// A value within a [`Doc`].
#[derive(Debug, Clone, Copy)]
pub struct Json<'d> {
    text: &'d str,
    nodes: &'d [Node],
    at: usize,
}

macro_rules! constants {
    ($($name:ident $kind:ident $text:literal $doc:literal)*) => {
        impl Json<'static> {$(
            #[doc = $doc]
            pub const $name: Json<'static> = Json {
                text: $text,
                nodes: &[Node { kind: Kind::$kind, start: 0, end: $text.len() as u32, key: Quoted::NONE, next: 1 }],
                at: 0,
            };
        )*}
    };
}

constants! {
    NULL Null "null" "`null`"
    FALSE Bool "false" "`false`"
    ZERO Number "0" "`0`"
    EMPTY_TEXT String "\"\"" "`\"\"`"
    ZERO_TEXT String "\"0\"" "`\"0\"`"
    EMPTY_OBJECT Object "{}" "`{}`"
}

impl<'d> Json<'d> {
    fn node(self) -> &'d Node {
        &self.nodes[self.at]
    }

    /// What it is.
    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// Its JSON, as it stands in the text.
    pub fn json(self) -> &'d str {
        let Node { start, end, .. } = self.node();
        &self.text[*start as usize..*end as usize]
    }

    /// Where it stands in the text.
    pub fn span(self) -> std::ops::Range<usize> {
        self.node().start as usize..self.node().end as usize
    }

    /// Text, if it is one.
    pub fn text(self) -> Option<Cow<'d, str>> {
        let json = self.json();
        (self.kind() == Kind::String).then(|| unquoted(&json[1..json.len() - 1]))
    }

    /// The members of an object, in the order of the text; nothing if it is none.
    pub fn members(self) -> impl Iterator<Item = (Cow<'d, str>, Json<'d>)> + use<'d> {
        self.children(Kind::Object).map(|child| (child.node().key.read(child.text), child))
    }

    /// The items of a list; nothing if it is none.
    pub fn items(self) -> impl Iterator<Item = Json<'d>> + use<'d> {
        self.children(Kind::Array)
    }

    fn children(self, kind: Kind) -> impl Iterator<Item = Json<'d>> + use<'d> {
        let end = if self.kind() == kind { self.node().next as usize } else { 0 };
        let mut at = self.at + 1;
        std::iter::from_fn(move || {
            let child = (at < end).then_some(Json { at, ..self })?;
            at = child.node().next as usize;
            Some(child)
        })
    }

    /// A member of an object.
    pub fn get(self, key: &str) -> Option<Json<'d>> {
        self.children(Kind::Object).find(|child| child.is_called(key))
    }

    fn is_called(self, key: &str) -> bool {
        let own = self.node().key;
        if own.has_escapes { own.read(self.text) == key } else { own.raw(self.text) == key }
    }

    /// Whether it is an object or a list without anything in it.
    pub fn is_empty(self) -> bool {
        matches!(self.kind(), Kind::Object | Kind::Array) && self.node().next as usize == self.at + 1
    }

    /// A copy.
    pub fn to_value(self) -> Value {
        match self.kind() {
            Kind::Null => Value::Null,
            Kind::Array => self.items().map(Json::to_value).collect(),
            Kind::Object => Value::Object(self.members().map(|(k, v)| (k.into_owned(), v.to_value())).collect()),
            Kind::String => self.text().map_or(Value::Null, |text| Value::String(text.into_owned())),
            Kind::Bool | Kind::Number => serde_json::from_str(self.json()).unwrap_or_default(),
        }
    }
}

/// The text between two quotes.
fn unquoted(raw: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw.as_bytes()).is_none() { Cow::Borrowed(raw) } else { unescaped(raw) }
}

fn unescaped(raw: &str) -> Cow<'_, str> {
    serde_json::from_str(&format!("\"{raw}\"")).map_or(Cow::Borrowed(raw), Cow::Owned)
}

struct Parser<'t> {
    bytes: &'t [u8],
    at: usize,
    nodes: Vec<Node>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn value(&mut self, key: Quoted, depth: usize) -> Option<()> {
        let (index, start) = (self.nodes.len(), self.at as u32);
        self.nodes.push(Node { kind: Kind::Null, start, end: start, key, next: 0 });
        let kind = match self.peek()? {
            b'{' => self.object(depth.checked_sub(1)?)?,
            b'[' => self.array(depth.checked_sub(1)?)?,
            b'"' => self.string().map(|_| Kind::String)?,
            b't' => self.word(b"true", Kind::Bool)?,
            b'f' => self.word(b"false", Kind::Bool)?,
            b'n' => self.word(b"null", Kind::Null)?,
            b'-' | b'0'..=b'9' => {
                while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.peek() {
                    self.at += 1;
                }
                Kind::Number
            }
            _ => return None,
        };
        let next = self.nodes.len() as u32;
        let node = &mut self.nodes[index];
        (node.kind, node.end, node.next) = (kind, self.at as u32, next);
        Some(())
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Option<Kind> {
        self.bytes[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            kind
        })
    }

    /// Where the text between the quotes is.
    fn string(&mut self) -> Option<Quoted> {
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let (end, has_escapes) = text_at(self.bytes, self.at)?;
        self.at = end;
        Some(Quoted { start: start as u32, end: end as u32 - 1, has_escapes })
    }

    fn object(&mut self, depth: usize) -> Option<Kind> {
        self.at += 1;
        self.space();
        if self.take(b'}').is_some() {
            return Some(Kind::Object);
        }
        loop {
            let key = self.string()?;
            self.space();
            self.take(b':')?;
            self.space();
            self.value(key, depth)?;
            self.space();
            if self.take(b'}').is_some() {
                return Some(Kind::Object);
            }
            self.take(b',')?;
            self.space();
        }
    }

    fn array(&mut self, depth: usize) -> Option<Kind> {
        self.at += 1;
        self.space();
        if self.take(b']').is_some() {
            return Some(Kind::Array);
        }
        loop {
            self.value(Quoted::NONE, depth)?;
            self.space();
            if self.take(b']').is_some() {
                return Some(Kind::Array);
            }
            self.take(b',')?;
            self.space();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_found_where_they_stand() {
        let text = r#" {"a":[1, {"b\n":null},"x\"y"],"c":{},"d":-1.5e3} "#;
        let doc = Doc::parse(text.as_bytes()).expect("JSON");
        let root = doc.root();
        let a = root.get("a").expect("there");
        assert_eq!(a.items().map(Json::json).collect::<Vec<_>>(), ["1", r#"{"b\n":null}"#, r#""x\"y""#]);
        assert_eq!(a.items().nth(1).and_then(|b| b.get("b\n")).map(Json::kind), Some(Kind::Null));
        assert_eq!(a.items().nth(2).and_then(Json::text).as_deref(), Some("x\"y"));
        assert!(root.get("c").is_some_and(|c| c.is_empty() && c.members().next().is_none()));
        assert_eq!(&text[root.get("d").expect("there").span()], "-1.5e3");
        assert_eq!(root.get("nothing").map(Json::kind), None);
        assert_eq!(a.get("no object").map(Json::kind), None);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "[1", "{\"a\"}", "{\"a\":}", "{a:1}", "[1 2]", "\"", "\"\\", "nul", "1 2", "[,]", "\u{0}"]
        {
            assert!(Doc::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Doc::parse(b"\"\xff\"").is_none());
        assert!(Doc::parse("[".repeat(100_000).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn every_value_is_read_as_it_was_written(value in crate::patch::any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.expect("JSON");
            prop_assert_eq!(Doc::parse(&text).expect("JSON").root().to_value(), value);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\u0e1-+.tfn ".to_vec()), 0..40)) {
            if let Some(doc) = Doc::parse(&bytes) {
                drop(doc.root().to_value());
            }
        }
    }
}
