//! A JSON reader that is led by a type: it finds unknown and duplicate fields and wrong types while it builds the value.
//!
//! Messages are a Go server's (`sigs.k8s.io/json/internal/golang/encoding/json/{scanner,decode}.go`), since clients and
//! tests compare them. As there: syntax errors come first, then the error of a type that reads itself (quantities,
//! times), then the first wrong type; unknown and duplicate fields are collected beside.
//!
//! Differs from upstream: nesting ends at [`MAX_DEPTH`].

use super::check::BodyError;
use super::go_names;
use super::{Scalar, Schema, Struct, Type, TypeId, builtin};
use crate::apply::presence;
use crate::quantity::Quantity;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::HashSet;

/// Deepest nesting of a body. Upstream allows 10000; `serde_json`, which reads typed objects, allows 127.
pub const MAX_DEPTH: usize = 127;

/// Most unknown and duplicate fields that are reported (`kubernetes_patch.go`, `saveStrictError`).
const MAX_PROBLEMS: usize = 100;

/// What the value being read is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// A value of this type.
    Typed(TypeId),
    /// Kept as it is; duplicates are found.
    Free,
    /// Kept as it is, nothing checked: a type that reads itself.
    Opaque,
    /// Read and dropped.
    Skip,
}

/// What came out besides the value.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) value: Value,
    pub(super) problems: Vec<String>,
    pub(super) adjusted: bool,
}

/// Reads the whole of `bytes`.
pub(super) fn read(schema: &Schema, target: Target, bytes: &[u8]) -> Result<Outcome, BodyError> {
    read_all(schema, target, bytes, Makes::Shown)
}

/// [`read`] with lists and maps of built-in types that are empty, which Go reads although it would not show them.
pub(super) fn read_sent(schema: &Schema, target: Target, bytes: &[u8]) -> Result<Outcome, BodyError> {
    read_all(schema, target, bytes, Makes::Sent)
}

/// [`read`] without making the value.
pub(super) fn check(schema: &Schema, target: Target, bytes: &[u8]) -> Result<Outcome, BodyError> {
    read_all(schema, target, bytes, Makes::Nothing)
}

fn read_all(schema: &Schema, target: Target, bytes: &[u8], makes: Makes) -> Result<Outcome, BodyError> {
    let mut reader = Reader {
        makes,
        schema,
        bytes,
        at: 0,
        depth: 0,
        path: String::new(),
        go_path: String::new(),
        root: target,
        go_struct: "",
        saved: None,
        fatal: None,
        problems: Vec::new(),
        adjusted: false,
        quiet: 0,
        seen: HashSet::new(),
    };
    reader.space();
    let value = reader.value(target).map_err(BodyError::Syntax)?;
    reader.space();
    if reader.at < bytes.len() {
        return Err(BodyError::Syntax(reader.unexpected("after top-level value")));
    }
    match reader.fatal.or(reader.saved) {
        Some(message) => Err(BodyError::Type(message)),
        None => Ok(Outcome { value, problems: reader.problems, adjusted: reader.adjusted }),
    }
}

/// Which values are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Makes {
    /// None: texts, lists and maps that are not empty are [`SOMETHING`].
    Nothing,
    /// What Go would show.
    Shown,
    /// What Go would show, and what is empty.
    Sent,
}

struct Reader<'a> {
    makes: Makes,
    schema: &'a Schema,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// `spec.containers[0]`, for unknown and duplicate fields.
    path: String,
    /// `spec.containers`, for wrong types: Go leaves out indexes and keys.
    go_path: String,
    /// What is read as a whole.
    root: Target,
    /// The definition that the last part of `go_path` is a field of.
    go_struct: &'a str,
    saved: Option<String>,
    fatal: Option<String>,
    problems: Vec<String>,
    /// The value is not what the text says, but what Go makes of it.
    adjusted: bool,
    /// Within how many types that read themselves we are: Go tells no problems of what is in them.
    quiet: usize,
    seen: HashSet<String>,
}

type Syntax = String;

/// Stands for a value that nobody wants.
const SOMETHING: Value = Value::Bool(true);

/// What was read of an object.
#[derive(Default)]
struct Members<'a> {
    map: Map<String, Value>,
    /// Keys alone, where values are not wanted: few are searched faster in a row.
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

/// More keys than this are hashed.
const FEW: usize = 32;

impl<'a> Members<'a> {
    fn has(&self, key: &str) -> bool {
        self.map.contains_key(key) || self.few.iter().any(|k| k == key) || self.many.contains(key)
    }

    fn note(&mut self, key: Cow<'a, str>) {
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
    }
}

// === syntax ===

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// The syntax error at this place.
    fn unexpected(&self, context: &str) -> Syntax {
        match self.peek() {
            Some(c) => format!("invalid character {} {context}", quote_char(c)),
            None => "unexpected end of JSON input".to_owned(),
        }
    }

    fn deeper(&mut self) -> Result<(), Syntax> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.unexpected("exceeded max depth")) } else { Ok(()) }
    }

    fn value(&mut self, target: Target) -> Result<Value, Syntax> {
        match self.peek() {
            Some(b'{') => self.object(target),
            Some(b'[') => self.array(target),
            Some(b'"') => {
                let text = self.string()?;
                Ok(self.text(target, text))
            }
            Some(b't') => self.literal("true").map(|()| self.boolean(target, true)),
            Some(b'f') => self.literal("false").map(|()| self.boolean(target, false)),
            Some(b'n') => self.literal("null").map(|()| Value::Null),
            Some(b'-' | b'0'..=b'9') => {
                let text = self.number()?;
                Ok(self.numeric(target, text))
            }
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), Syntax> {
        self.at += 1;
        for expected in word.bytes().skip(1) {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", expected as char)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Syntax> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default())
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<(), Syntax> {
        match self.peek() {
            Some(b'0'..=b'9') => {
                self.digits();
                Ok(())
            }
            _ => Err(self.unexpected(context)),
        }
    }

    /// A string; broken UTF-8 and lone surrogates become U+FFFD, as in Go.
    fn string(&mut self) -> Result<Cow<'a, str>, Syntax> {
        self.at += 1;
        let start = self.at;
        let plain = self.run();
        if plain == Some(b'"') {
            let text = &self.bytes[start..self.at];
            self.at += 1;
            return Ok(match std::str::from_utf8(text) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => {
                    self.adjusted = true;
                    String::from_utf8_lossy(text)
                }
            });
        }
        let mut text = self.bytes[start..self.at].to_vec();
        loop {
            let start = self.at;
            let stop = self.run();
            text.extend_from_slice(&self.bytes[start..self.at]);
            match stop {
                Some(b'"') => {
                    self.at += 1;
                    self.adjusted |= std::str::from_utf8(&text).is_err();
                    return Ok(Cow::Owned(String::from_utf8_lossy(&text).into_owned()));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    /// Moves to the next quote, backslash or control character.
    fn run(&mut self) -> Option<u8> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let control = rest[..end].iter().position(|c| *c < 0x20);
        self.at += control.unwrap_or(end);
        self.peek()
    }

    fn escape(&mut self) -> Result<char, Syntax> {
        let c = match self.peek() {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(c @ (b'\\' | b'/' | b'"')) => c as char,
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode(&mut self) -> Result<char, Syntax> {
        let high = self.hex4()?;
        if !(0xd800..0xdc00).contains(&high) || !self.bytes[self.at..].starts_with(b"\\u") {
            self.adjusted |= char::from_u32(high).is_none();
            return Ok(char::from_u32(high).unwrap_or('\u{fffd}'));
        }
        let back = self.at;
        self.at += 2;
        let low = self.hex4()?;
        if (0xdc00..0xe000).contains(&low) {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
        }
        self.at = back;
        self.adjusted = true;
        Ok('\u{fffd}')
    }

    fn hex4(&mut self) -> Result<u32, Syntax> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|c| (c as char).to_digit(16));
            let Some(digit) = digit else { return Err(self.unexpected("in \\u hexadecimal character escape")) };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

// === objects and arrays ===

fn merge(first: &mut Map<String, Value>, second: Value) {
    let Value::Object(second) = second else { return };
    for (key, value) in second {
        match first.get_mut(&key) {
            Some(Value::Object(inner)) if value.is_object() => merge(inner, value),
            _ => drop(first.insert(key, value)),
        }
    }
}

/// How the fields of an object are found.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Struct(&'a Struct),
    Map(TypeId),
    All(Target),
}

impl<'a> Reader<'a> {
    fn object(&mut self, target: Target) -> Result<Value, Syntax> {
        let reads_itself = matches!(target, Target::Typed(id) if matches!(self.schema.get(id), Type::Any));
        self.quiet += usize::from(reads_itself);
        let object = self.members(target);
        self.quiet -= usize::from(reads_itself);
        object
    }

    fn members(&mut self, target: Target) -> Result<Value, Syntax> {
        let shape = self.object_shape(target);
        self.deeper()?;
        self.at += 1;
        self.space();
        let mut members = Members::default();
        let (mut nulls, mut only_nulls) = (false, true);
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(Value::Object(members.map));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.space();
            let is_absent = self.member(shape, key, &mut members)?;
            nulls |= is_absent;
            only_nulls &= is_absent;
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b'}') => break,
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
        self.at += 1;
        self.depth -= 1;
        if nulls {
            members.map.retain(|_, value| !value.is_null());
        }
        Ok(if self.makes != Makes::Nothing || only_nulls { Value::Object(members.map) } else { SOMETHING })
    }

    /// Reads one value into `members`; tells whether it is one that counts as absent: a null, or of no field.
    fn member(&mut self, shape: Shape<'a>, key: Cow<'a, str>, members: &mut Members<'a>) -> Result<bool, Syntax> {
        let (path_len, go_len, go_struct) = (self.path.len(), self.go_path.len(), self.go_struct);
        let mut target = Target::Free;
        match shape {
            Shape::Struct(s) => match s.field(&key) {
                Some(field) => {
                    target = Target::Typed(field.ty);
                    self.push_go(&key);
                    self.go_struct = &s.name;
                }
                None if s.preserve_unknown => {}
                None => {
                    self.problem("unknown field", &key);
                    self.value(Target::Skip)?;
                    return Ok(true);
                }
            },
            Shape::Map(value) => target = Target::Typed(value),
            Shape::All(Target::Skip) => {
                self.value(Target::Skip)?;
                return Ok(false);
            }
            Shape::All(all) => target = all,
        }
        let twice = !matches!(target, Target::Opaque) && members.has(&key);
        if twice {
            self.problem("duplicate field", &key);
        }
        self.push(&key);
        let mut value = self.value(target)?;
        let null_is_absent = value.is_null() && matches!(shape, Shape::Struct(_));
        if let (true, Shape::Map(ty)) = (value.is_null(), shape) {
            value = zero(self.schema, ty);
            self.adjusted = true;
        }
        if let (true, Shape::Struct(s)) = (self.makes != Makes::Shown, shape)
            && is_selector_that_must_be(self.schema, s, &key)
            && value.as_object().is_some_and(Map::is_empty)
        {
            value = empty_selector();
            self.adjusted = true;
        }
        let is_hidden = match shape {
            Shape::Struct(_) if self.makes == Makes::Sent && (value.is_object() || value.is_array()) => false,
            // Whoever sends none forgets all owners.
            Shape::Struct(s) => key != "managedFields" && presence::hides(s, &key, &value),
            _ => false,
        };
        self.adjusted |= is_hidden || twice && matches!(target, Target::Typed(_));
        match members.map.get_mut(key.as_ref()) {
            _ if is_hidden || self.makes == Makes::Nothing => members.note(key),
            // Go reads a second object into what it has.
            Some(Value::Object(first)) if value.is_object() && matches!(target, Target::Typed(_)) => {
                merge(first, value)
            }
            _ => drop(members.map.insert(key.into_owned(), value)),
        }
        self.path.truncate(path_len);
        self.go_path.truncate(go_len);
        self.go_struct = go_struct;
        Ok(null_is_absent)
    }

    /// Whether `[]` stands where bytes do, which Go takes for none.
    fn is_no_bytes(&self, target: Target) -> bool {
        let is_bytes = |id| matches!(self.schema.get(id), Type::Scalar(Scalar::Bytes));
        let rest = || self.bytes.get(self.at + 1..).unwrap_or_default().trim_ascii_start();
        matches!(target, Target::Typed(id) if is_bytes(id)) && rest().first() == Some(&b']')
    }

    fn array(&mut self, target: Target) -> Result<Value, Syntax> {
        if self.is_no_bytes(target) {
            self.at += 1;
            self.space();
            self.at += 1;
            self.adjusted = true;
            return Ok(Value::String(String::new()));
        }
        let item = self.array_item(target);
        self.deeper()?;
        self.at += 1;
        self.space();
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(Value::Array(items));
        }
        let path_len = self.path.len();
        for i in 0.. {
            self.push_index(i, item);
            let mut value = self.value(item)?;
            self.path.truncate(path_len);
            if let (true, Target::Typed(ty)) = (value.is_null(), item) {
                value = zero(self.schema, ty);
                self.adjusted = true;
            }
            if self.makes != Makes::Nothing && !matches!(item, Target::Skip) {
                items.push(value);
            }
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b']') => break,
                _ => return Err(self.unexpected("after array element")),
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(if self.makes != Makes::Nothing { Value::Array(items) } else { SOMETHING })
    }

    fn object_shape(&mut self, target: Target) -> Shape<'a> {
        let Target::Typed(id) = target else { return Shape::All(target) };
        match self.schema.get(id) {
            Type::Struct(s) => Shape::Struct(s),
            Type::Map { value, .. } => Shape::Map(*value),
            Type::Any => match self.inner(id) {
                Some(schema) => self.object_shape(Target::Typed(schema)),
                None => Shape::All(Target::Opaque),
            },
            Type::List { .. } => {
                self.mismatch("object", id);
                Shape::All(Target::Skip)
            }
            Type::Scalar(scalar) => {
                self.scalar_mismatch(*scalar, "object");
                Shape::All(Target::Skip)
            }
        }
    }

    /// The struct that an untyped value is of, if it is an object.
    fn inner(&self, id: TypeId) -> Option<TypeId> {
        let builtin = builtin();
        std::ptr::eq(self.schema, &builtin.schema).then(|| builtin.inner(id)).flatten()
    }

    fn array_item(&mut self, target: Target) -> Target {
        let Target::Typed(id) = target else { return target };
        match self.schema.get(id) {
            Type::List { item, .. } => Target::Typed(*item),
            Type::Any => Target::Opaque,
            Type::Struct(_) | Type::Map { .. } => {
                self.mismatch("array", id);
                Target::Skip
            }
            Type::Scalar(scalar) => {
                self.scalar_mismatch(*scalar, "array");
                Target::Skip
            }
        }
    }
}

// === leaves ===

impl<'a> Reader<'a> {
    fn text(&mut self, target: Target, text: Cow<'a, str>) -> Value {
        let Target::Typed(id) = target else { return keep(target, || self.string_value(text)) };
        match self.schema.get(id) {
            Type::Any => {}
            Type::Scalar(scalar) => return self.scalar_text(*scalar, text),
            _ => self.mismatch("string", id),
        }
        self.string_value(text)
    }

    fn string_value(&self, text: Cow<'a, str>) -> Value {
        if self.makes != Makes::Nothing || text.is_empty() { Value::String(text.into_owned()) } else { SOMETHING }
    }

    fn scalar_text(&mut self, scalar: Scalar, text: Cow<'a, str>) -> Value {
        match scalar {
            Scalar::String | Scalar::IntOrString => {}
            Scalar::Quantity => self.check_quantity(&text),
            Scalar::Bytes => return Value::String(self.check_base64(&text)),
            Scalar::Time => self.check_time(&text, super::time::SECONDS),
            Scalar::MicroTime => self.check_time(&text, super::time::MICROSECONDS),
            Scalar::Duration => {
                if !super::time::is_go_duration(&text) {
                    self.fatal(format!("time: invalid duration {text:?}"));
                }
            }
            Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Double => self.scalar_mismatch(scalar, "string"),
        }
        self.string_value(text)
    }

    fn boolean(&mut self, target: Target, value: bool) -> Value {
        if let Target::Typed(id) = target {
            match self.schema.get(id) {
                Type::Any | Type::Scalar(Scalar::Bool) => {}
                Type::Scalar(scalar) => self.scalar_mismatch(*scalar, "bool"),
                _ => self.mismatch("bool", id),
            }
        }
        Value::Bool(value)
    }

    fn numeric(&mut self, target: Target, text: &str) -> Value {
        self.adjusted |= text == "-0";
        let Target::Typed(id) = target else {
            return match target {
                Target::Free => self.free_number(text),
                other => keep(other, || any_number(text).unwrap_or(Value::Null)),
            };
        };
        match self.schema.get(id) {
            Type::Any => any_number(text).unwrap_or(Value::Null),
            Type::Scalar(scalar) => self.scalar_number(*scalar, text),
            _ => {
                self.mismatch("number", id);
                Value::Null
            }
        }
    }

    fn scalar_number(&mut self, scalar: Scalar, text: &str) -> Value {
        let whole = text.parse::<i64>().ok();
        match scalar {
            Scalar::Int64 if let Some(n) = whole => return n.into(),
            Scalar::Int32 | Scalar::IntOrString if let Some(n) = whole.and_then(|n| i32::try_from(n).ok()) => {
                return n.into();
            }
            Scalar::Int64 | Scalar::Int32 => self.scalar_mismatch(scalar, &format!("number {text}")),
            Scalar::IntOrString => self.scalar_mismatch(scalar, &format!("number {text}")),
            Scalar::Double => match text.parse::<f64>() {
                Ok(n) if n.is_finite() => return any_number(text).unwrap_or(Value::Null),
                _ => self.scalar_mismatch(scalar, &format!("number {text}")),
            },
            Scalar::Quantity => {
                self.check_quantity(text);
                return any_number(text).unwrap_or(Value::Null);
            }
            _ => self.scalar_mismatch(scalar, "number"),
        }
        Value::Null
    }

    fn free_number(&mut self, text: &str) -> Value {
        any_number(text).unwrap_or_else(|| {
            self.save(format!("number {text}"), "float64");
            Value::Null
        })
    }

    fn check_quantity(&mut self, text: &str) {
        if let Err(error) = Quantity::parse(text.trim()) {
            self.fatal(error.to_string());
        }
    }

    /// Go ignores line breaks in base64; we take them out, since not every reader does.
    /// Neither does it look at bits behind the last byte.
    fn check_base64(&mut self, text: &str) -> String {
        use base64::engine::{Engine, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
        );
        let clean: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
        match LENIENT.decode(&clean) {
            Ok(bytes) => {
                let canonical = STANDARD.encode(bytes);
                self.adjusted |= canonical != text;
                canonical
            }
            Err(_) => {
                // Go tells the first byte that is none, or where the group of four began that is not whole.
                let is_digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
                let at = clean.bytes().position(|b| !is_digit(b)).unwrap_or(clean.len() - clean.len() % 4);
                if self.saved.is_none() {
                    self.saved = Some(format!("illegal base64 data at input byte {at}"));
                }
                clean
            }
        }
    }

    fn check_time(&mut self, text: &str, layout: &str) {
        if let Err(message) = super::time::parse(text, layout) {
            self.fatal(message);
        }
    }
}

// === problems ===

impl Reader<'_> {
    fn push(&mut self, key: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(key);
    }

    fn push_go(&mut self, key: &str) {
        if !self.go_path.is_empty() {
            self.go_path.push('.');
        }
        self.go_path.push_str(key);
    }

    fn push_index(&mut self, i: usize, item: Target) {
        if matches!(item, Target::Typed(_) | Target::Free) {
            self.path.push('[');
            self.path.push_str(&i.to_string());
            self.path.push(']');
        }
    }

    fn problem(&mut self, what: &str, key: &str) {
        if self.quiet > 0 || self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let len = self.path.len();
        self.push(key);
        let problem = format!("{what} {}", quote(&self.path));
        self.path.truncate(len);
        if self.seen.insert(problem.clone()) {
            self.problems.push(problem);
        }
    }

    fn mismatch(&mut self, found: &str, id: TypeId) {
        let wanted = go_type(self.schema, id);
        self.save(found.to_owned(), &wanted);
    }

    /// Plain values are noted and reading goes on; types that read themselves end it.
    fn scalar_mismatch(&mut self, scalar: Scalar, found: &str) {
        match scalar {
            // The first is told; to say it takes a look through tables.
            _ if self.fatal.is_some() => {}
            Scalar::Time | Scalar::MicroTime | Scalar::Duration => self.fatal(self.unmarshal_error(found, "string")),
            Scalar::IntOrString => self.fatal(self.unmarshal_error(found, "int32")),
            Scalar::Quantity => self.fatal(crate::quantity::QuantityError::Format.to_string()),
            plain => self.save(found.to_owned(), go_scalar(plain)),
        }
    }

    fn save(&mut self, found: String, wanted: &str) {
        if self.saved.is_none() {
            self.saved = Some(self.unmarshal_error(&found, wanted));
        }
    }

    fn fatal(&mut self, message: String) {
        if self.fatal.is_none() {
            self.fatal = Some(message);
        }
    }

    fn unmarshal_error(&self, found: &str, wanted: &str) -> String {
        if self.go_path.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        let field = self.go_path.rsplit('.').next().unwrap_or_default();
        let wanted = go_names::of_type(self.go_struct, field, wanted);
        let path = match self.root {
            Target::Typed(root) => go_names::of_path(self.schema, root, &self.go_path),
            _ => self.go_path.clone(),
        };
        let structure = short(self.go_struct);
        format!("json: cannot unmarshal {found} into Go struct field {structure}.{path} of type {wanted}")
    }
}

// === helpers ===

fn keep(target: Target, make: impl FnOnce() -> Value) -> Value {
    if matches!(target, Target::Skip) { Value::Null } else { make() }
}

/// An integer if it looks like one and fits, else a double; nothing if it is too large for that.
fn any_number(text: &str) -> Option<Value> {
    if let Ok(n) = text.parse::<i64>() {
        return Some(n.into());
    }
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}

/// Our types cannot tell a selector that must be there from an absent one if it is empty.
fn is_selector_that_must_be(schema: &Schema, s: &Struct, key: &str) -> bool {
    const SELECTOR: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector";
    key == "selector"
        && s.field(key).is_some_and(|field| {
            field.required && matches!(schema.get(field.ty), Type::Struct(s) if s.name == SELECTOR)
        })
}

/// So one that was sent has labels, none of them.
fn empty_selector() -> Value {
    Value::Object(Map::from_iter([("matchLabels".to_owned(), Value::Object(Map::new()))]))
}

/// What Go leaves in a map or list where JSON has null.
fn zero(schema: &Schema, id: TypeId) -> Value {
    match schema.get(id) {
        Type::Scalar(Scalar::String | Scalar::Bytes) => Value::String(String::new()),
        Type::Scalar(Scalar::Bool) => Value::Bool(false),
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => 0.into(),
        Type::Scalar(Scalar::Quantity) => Value::String("0".to_owned()),
        Type::Scalar(Scalar::Duration) => Value::String("0s".to_owned()),
        Type::Scalar(Scalar::Time | Scalar::MicroTime) | Type::Any => Value::Null,
        Type::Struct(_) | Type::Map { .. } => Value::Object(Map::new()),
        Type::List { .. } => Value::Array(Vec::new()),
    }
}

/// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn short(definition: &str) -> &str {
    definition.rsplit_once('.').map_or(definition, |(_, name)| name)
}

pub(super) fn go_scalar(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "string",
        Scalar::Bool => "bool",
        Scalar::Int32 => "int32",
        Scalar::Int64 => "int64",
        Scalar::Double => "float64",
        Scalar::Bytes => "[]uint8",
        Scalar::Time => "v1.Time",
        Scalar::MicroTime => "v1.MicroTime",
        Scalar::Duration => "v1.Duration",
        Scalar::Quantity => "resource.Quantity",
        Scalar::IntOrString => "intstr.IntOrString",
    }
}

pub(super) fn go_type(schema: &Schema, id: TypeId) -> String {
    match schema.get(id) {
        Type::Scalar(scalar) => go_scalar(*scalar).to_owned(),
        Type::Any => "runtime.RawExtension".to_owned(),
        Type::Map { value, .. } => format!("map[string]{}", go_type(schema, *value)),
        Type::List { item, .. } => format!("[]{}", go_type(schema, *item)),
        Type::Struct(s) => {
            let mut parts = s.name.rsplitn(3, '.');
            let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{name}")
        }
    }
}

/// Go's `strconv.Quote`, as far as field names need it.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            c => quote_into(&mut out, c),
        }
    }
    out.push('"');
    out
}

/// `quoteChar` of scanner.go.
fn quote_char(c: u8) -> String {
    let mut out = String::from("'");
    match c {
        b'\'' => out.push_str("\\'"),
        c => quote_into(&mut out, c as char),
    }
    out.push('\'');
    out
}

fn quote_into(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
        c if (0x80..=0xa0).contains(&(c as u32)) || c as u32 == 0xad => {
            out.push_str(&format!("\\u{:04x}", c as u32));
        }
        c => out.push(c),
    }
}
