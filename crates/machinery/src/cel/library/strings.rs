//! Text functions (`cel-go/ext/strings.go`, version 2). Places and lengths count characters.

use super::std::to_string;
use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::{Key, Value};

/// What `%e` and `%f` show without a precision.
const PRECISION: usize = 6;
/// The longest text that `replace`, `format` and `join` make; requests are smaller.
const MAX_RESULT_BYTES: usize = 16 << 20;
/// The largest precision of `format`.
const MAX_PRECISION: usize = 1000;

pub(super) const OVERLOADS: &[Def] = &[
    def("charAt", "string_char_at_int", "string.(int) -> string", char_at),
    def("indexOf", "string_index_of_string", "string.(string) -> int", index_of),
    def("indexOf", "string_index_of_string_int", "string.(string, int) -> int", index_of),
    def("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of),
    def("lastIndexOf", "string_last_index_of_string_int", "string.(string, int) -> int", last_index_of),
    def("lowerAscii", "string_lower_ascii", "string.() -> string", |a| one(a, |t| t.to_ascii_lowercase())),
    def("upperAscii", "string_upper_ascii", "string.() -> string", |a| one(a, |t| t.to_ascii_uppercase())),
    def("trim", "string_trim", "string.() -> string", |a| one(a, |t| t.trim().to_owned())),
    def("replace", "string_replace_string_string", "string.(string, string) -> string", replace),
    def("replace", "string_replace_string_string_int", "string.(string, string, int) -> string", replace),
    def("split", "string_split_string", "string.(string) -> list(string)", split),
    def("split", "string_split_string_int", "string.(string, int) -> list(string)", split),
    def("substring", "string_substring_int", "string.(int) -> string", substring),
    def("substring", "string_substring_int_int", "string.(int, int) -> string", substring),
    def("format", "string_format", "string.(list(dyn)) -> string", format),
    def("strings.quote", "strings_quote", "(string) -> string", |a| one(a, quote)),
    def("join", "list_join", "list(string).() -> string", join),
    def("join", "list_join_string", "list(string).(string) -> string", join),
];

fn one(args: &[Value], run: impl FnOnce(&str) -> String) -> Answer {
    match args {
        [Value::String(text)] => Ok(run(text).into()),
        _ => Err(EvalError::no_overload()),
    }
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::new(format!("index out of range: {at}"))
}

fn char_at(args: &[Value]) -> Answer {
    let [Value::String(text), Value::Int(at)] = args else { return Err(EvalError::no_overload()) };
    let index = usize::try_from(*at).map_err(|_| out_of_range(*at))?;
    match text.chars().nth(index) {
        Some(c) => Ok(c.to_string().into()),
        None if index == text.chars().count() => Ok("".into()),
        None => Err(out_of_range(*at)),
    }
}

fn index_of(args: &[Value]) -> Answer {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return Err(EvalError::no_overload()),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let skip = usize::try_from(offset).map_err(|_| out_of_range(offset))?;
    let Some((start, _)) = text.char_indices().nth(skip) else { return Ok(Value::Int(-1)) };
    let found = text[start..].find(&**part);
    Ok(Value::Int(found.map_or(-1, |at| text[..start + at].chars().count() as i64)))
}

fn last_index_of(args: &[Value]) -> Answer {
    let length = |text: &str| text.chars().count() as i64;
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] if part.is_empty() => return Ok(Value::Int(length(text))),
        [Value::String(text), Value::String(part)] if text.len() < part.len() => return Ok(Value::Int(-1)),
        [Value::String(text), Value::String(part)] => (text, part, length(text) - 1),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return Err(EvalError::no_overload()),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    if offset < 0 {
        return Err(out_of_range(offset));
    }
    if offset >= length(text) {
        return Ok(Value::Int(-1));
    }
    // The last place that is not after the offset.
    let end = offset + length(part);
    let end = text.char_indices().nth(end as usize).map_or(text.len(), |(at, _)| at);
    Ok(Value::Int(text[..end].rfind(&**part).map_or(-1, |at| length(&text[..at]))))
}

fn replace(args: &[Value]) -> Answer {
    let (text, old, new, limit) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => (text, old, new, -1),
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(limit)] => (text, old, new, *limit),
        _ => return Err(EvalError::no_overload()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let count = if old.is_empty() { text.chars().count() + 1 } else { text.matches(&**old).count() }.min(limit);
    bounded(text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(text.replacen(&**old, new, limit).into())
}

fn bounded(bytes: usize) -> Result<(), EvalError> {
    match bytes <= MAX_RESULT_BYTES {
        true => Ok(()),
        false => Err(EvalError::new("the result is too long")),
    }
}

fn split(args: &[Value]) -> Answer {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(limit)] => (text, separator, *limit),
        _ => return Err(EvalError::no_overload()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<Value> = match (limit, separator.is_empty()) {
        (0, _) => Vec::new(),
        (_, false) => text.splitn(limit, &**separator).map(Value::from).collect(),
        // Go takes a text without separator apart into characters, the rest in one piece.
        (_, true) => {
            let mut parts: Vec<Value> = Vec::new();
            let mut rest: &str = text;
            while let Some(c) = rest.chars().next() {
                if parts.len() + 1 == limit {
                    parts.push(rest.into());
                    break;
                }
                parts.push(rest[..c.len_utf8()].into());
                rest = &rest[c.len_utf8()..];
            }
            parts
        }
    };
    Ok(parts.into())
}

fn substring(args: &[Value]) -> Answer {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, text.chars().count() as i64),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, *end),
        _ => return Err(EvalError::no_overload()),
    };
    let length = text.chars().count() as i64;
    if start > end && args.len() == 3 {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    for at in [start, end] {
        if !(0..=length).contains(&at) {
            return Err(out_of_range(at));
        }
    }
    let part: String = text.chars().skip(start as usize).take((end - start) as usize).collect();
    Ok(part.into())
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn join(args: &[Value]) -> Answer {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(EvalError::no_overload()),
    };
    let mut out = String::new();
    for (i, item) in list.items.iter().enumerate() {
        let Value::String(text) = item else {
            return Err(EvalError::new(format!("join: invalid input: {}", show(item)?)));
        };
        if i > 0 {
            out.push_str(separator);
        }
        bounded(out.len() + text.len())?;
        out.push_str(text);
    }
    Ok(out.into())
}

// === format ===

fn format(args: &[Value]) -> Answer {
    let [Value::String(template), Value::List(values)] = args else { return Err(EvalError::no_overload()) };
    let mut out = String::new();
    let mut values = values.items.iter();
    let mut used = 0;
    let mut rest: &str = template;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = PRECISION;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let given = after[..end].parse().ok().filter(|p| *p <= MAX_PRECISION);
            precision = given.ok_or_else(|| EvalError::new("error parsing precision"))?;
            rest = &after[end..];
        }
        let Some(verb) = rest.chars().next() else {
            return Err(EvalError::new("unexpected end of string"));
        };
        rest = &rest[verb.len_utf8()..];
        let value = values.next().ok_or_else(|| EvalError::new(format!("index {used} out of range")))?;
        used += 1;
        out.push_str(&clause(verb, precision, value)?);
        bounded(out.len())?;
    }
    out.push_str(rest);
    bounded(out.len())?;
    Ok(out.into())
}

fn clause(verb: char, precision: usize, value: &Value) -> Result<String, EvalError> {
    let wrong = |what: &str| Err(EvalError::new(format!("{what}, was given {}", value.type_name())));
    match (verb, value) {
        ('s', value) => show(value),
        ('d', Value::Int(number)) => Ok(number.to_string()),
        ('d', Value::Uint(number)) => Ok(number.to_string()),
        ('d', _) => wrong("error during formatting: decimal clause can only be used on integers"),
        ('f', Value::Double(number)) => Ok(match number.is_finite() {
            true => format!("{number:.precision$}"),
            false => special(*number).to_owned(),
        }),
        ('f', _) => wrong("error during formatting: fixed-point clause can only be used on doubles"),
        ('e', Value::Double(number)) if number.is_finite() => {
            let text = format!("{number:.precision$e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            Ok(format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()))
        }
        ('e', Value::Double(number)) => Ok(special(*number).to_owned()),
        ('e', _) => wrong("error during formatting: scientific clause can only be used on doubles"),
        ('b', Value::Int(number)) => Ok(format!("{}{:b}", if *number < 0 { "-" } else { "" }, number.unsigned_abs())),
        ('b', Value::Uint(number)) => Ok(format!("{number:b}")),
        ('b', Value::Bool(truth)) => Ok(if *truth { "1" } else { "0" }.to_owned()),
        ('b', _) => wrong("error during formatting: only integers and bools can be formatted as binary"),
        ('o', Value::Int(number)) => Ok(format!("{}{:o}", if *number < 0 { "-" } else { "" }, number.unsigned_abs())),
        ('o', Value::Uint(number)) => Ok(format!("{number:o}")),
        ('o', _) => wrong("error during formatting: octal clause can only be used on integers"),
        ('x' | 'X', value) => {
            let text = match value {
                Value::Int(number) => format!("{}{:x}", if *number < 0 { "-" } else { "" }, number.unsigned_abs()),
                Value::Uint(number) => format!("{number:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => {
                    return wrong(
                        "error during formatting: only integers, byte buffers, and strings can be formatted as hex",
                    );
                }
            };
            Ok(if verb == 'X' { text.to_uppercase() } else { text })
        }
        (verb, _) => {
            Err(EvalError::new(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")))
        }
    }
}

fn special(number: f64) -> &'static str {
    match number {
        n if n.is_nan() => "NaN",
        n if n > 0.0 => "∞",
        _ => "-∞",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `%s` of a value.
fn show(value: &Value) -> Result<String, EvalError> {
    match value {
        Value::Null => Ok("null".to_owned()),
        Value::List(list) => {
            let items = list.items.iter().map(show_inner).collect::<Result<Vec<_>, _>>()?;
            Ok(format!("[{}]", items.join(", ")))
        }
        Value::Map(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map.iter() {
                let key = match key {
                    Key::String(text) => format!("{text:?}"),
                    other => other.to_string(),
                };
                entries.push(format!("{key}:{}", show_inner(value)?));
            }
            entries.sort();
            Ok(format!("{{{}}}", entries.join(", ")))
        }
        other => match to_string(std::slice::from_ref(other)) {
            Ok(Value::String(text)) => Ok(text.to_string()),
            _ => Err(EvalError::new(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            ))),
        },
    }
}

/// A value within a list or map.
fn show_inner(value: &Value) -> Result<String, EvalError> {
    let text = show(value)?;
    Ok(match value {
        Value::String(_) => format!("{text:?}"),
        Value::Bytes(_) => format!("b{text:?}"),
        Value::Timestamp(_) => format!("timestamp({text:?})"),
        Value::Duration(_) => format!("duration({text:?})"),
        Value::Double(number) if number.is_finite() => format!("{number:.PRECISION$}"),
        _ => text,
    })
}
