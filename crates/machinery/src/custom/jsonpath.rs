//! JSONPath as printer columns and selectable fields use it (`client-go/util/jsonpath`): fields, indexes, slices, unions,
//! wildcards, recursive descent and filters; no `range`.

use serde_json::Value;
use std::cmp::Ordering;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    Recursive,
    Slice { from: Option<i64>, to: Option<i64>, step: Option<i64>, one: bool },
    Union(Vec<JsonPath>),
    Filter { left: JsonPath, operator: String, right: JsonPath },
    Constant(Value),
}

/// Why a path cannot be read.
type Wrong = String;

impl JsonPath {
    /// Reads a path like `.spec.ports[0].name`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let mut steps = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(inner) = rest.strip_prefix("[?(") {
                let (filter, after) = filter(inner)?;
                steps.push(filter);
                rest = after;
            } else if let Some(after) = rest.strip_prefix("..") {
                if steps.last() == Some(&Step::Recursive) {
                    return Err("invalid multiple recursive descent".into());
                }
                steps.push(Step::Recursive);
                rest = after;
                if rest.starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
                    let (step, after) = field(rest);
                    steps.push(step);
                    rest = after;
                }
            } else if c == '[' {
                let end = rest.find([']', '\n']).ok_or("unterminated array")?;
                if !rest[end..].starts_with(']') {
                    return Err("unterminated array".into());
                }
                steps.extend(array(&rest[1..end])?);
                rest = &rest[end + 1..];
            } else if c == '.' {
                let (step, after) = field(&rest[1..]);
                steps.push(step);
                rest = after;
            } else if c == '"' || c == '\'' {
                let (text, after) = quoted(rest, c)?;
                steps.push(Step::Constant(text.into()));
                rest = after;
            } else if matches!(c, ' ' | '@' | '$') {
                rest = &rest[1..];
            } else if c == '+' || c == '-' || c.is_ascii_digit() {
                let end = rest[1..].find(|c: char| c != '.' && !c.is_ascii_digit()).map_or(rest.len(), |i| i + 1);
                let (number, after) = rest.split_at(end);
                let wrong = || format!("cannot parse number {number}");
                let whole = number.parse::<i64>().map(Value::from);
                steps.push(Step::Constant(
                    whole.or_else(|_| number.parse::<f64>().map(Value::from)).map_err(|_| wrong())?,
                ));
                rest = after;
            } else if c == '_' || c.is_alphanumeric() {
                let end = rest.find(is_terminator).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                match word {
                    "true" | "false" => steps.push(Step::Constant((word == "true").into())),
                    other => return Err(format!("unrecognized identifier {other}")),
                }
                rest = after;
            } else {
                return Err(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c)));
            }
        }
        Ok(JsonPath(steps))
    }

    /// All values there; missing keys give none. An error is a path that does not fit the value.
    pub fn find<'v>(&self, value: &'v Value) -> Result<Vec<std::borrow::Cow<'v, Value>>, Wrong> {
        let mut current = vec![std::borrow::Cow::Borrowed(value)];
        for step in &self.0 {
            current = step.apply(current)?;
        }
        Ok(current)
    }
}

fn is_terminator(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn field(text: &str) -> (Step, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            name.extend(chars.next().map(|(_, escaped)| escaped));
        } else if is_terminator(c) {
            end = at;
            break;
        } else {
            name.push(c);
        }
    }
    let step = if name == "*" { Step::Wildcard } else { Step::Field(name) };
    (step, &text[end..])
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), Wrong> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, escaped)| match escaped {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            })),
            '\n' => break,
            c if c == quote => return Ok((out, &text[at + 1..])),
            c => out.push(c),
        }
    }
    Err("unterminated quoted string".into())
}

fn array(text: &str) -> Result<Vec<Step>, Wrong> {
    if text.contains(',') {
        let parts = text.split(',').map(|part| JsonPath::parse(&format!("[{}]", part.trim_matches(' '))));
        return Ok(vec![Step::Union(parts.collect::<Result<_, _>>()?)]);
    }
    if let Some(key) = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|k| !k.contains('\'')) {
        return Ok(JsonPath::parse(&format!(".{key}"))?.0);
    }
    let text = if text == "*" { ":" } else { text };
    let wrong = || format!("invalid array index {text}");
    let mut parts = Vec::new();
    for part in text.split(':') {
        let number = if part.is_empty() { None } else { Some(part.parse::<i64>().map_err(|_| wrong())?) };
        parts.push(number);
    }
    if parts.len() > 3 || text.is_empty() {
        return Err(wrong());
    }
    let of = |i: usize| parts.get(i).copied().flatten();
    Ok(vec![Step::Slice { from: of(0), to: of(1), step: of(2), one: parts.len() == 1 }])
}

fn filter(text: &str) -> Result<(Step, &str), Wrong> {
    let mut quote = None;
    let end = text.char_indices().find_map(|(at, c)| match (quote, c) {
        (None, '"' | '\'') => {
            quote = Some(c);
            None
        }
        (Some(open), c) if c == open && !text[..at].ends_with('\\') => {
            quote = None;
            None
        }
        (None, ')') => Some(at),
        _ => None,
    });
    let end = end.ok_or("unterminated filter")?;
    let after = text[end + 1..].strip_prefix(']').ok_or("unclosed array expect ]")?;
    let inner = &text[..end];
    let is_operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
    let step = match inner.find(is_operator).filter(|at| *at > 0) {
        None => Step::Filter { left: JsonPath::parse(inner)?, operator: "exists".into(), right: JsonPath(Vec::new()) },
        Some(at) => {
            let rest = &inner[at..];
            let length = rest.find(|c| !is_operator(c)).unwrap_or(rest.len());
            let (operator, right) = rest.split_at(length);
            Step::Filter {
                left: JsonPath::parse(&inner[..at])?,
                operator: operator.to_owned(),
                right: JsonPath::parse(right)?,
            }
        }
    };
    Ok((step, after))
}

type Cow<'v> = std::borrow::Cow<'v, Value>;

impl Step {
    fn apply<'v>(&self, input: Vec<Cow<'v>>) -> Result<Vec<Cow<'v>>, Wrong> {
        let mut out = Vec::new();
        match self {
            Step::Constant(value) => out.extend(input.iter().map(|_| Cow::Owned(value.clone()))),
            Step::Field(name) => out.extend(input.into_iter().filter_map(|value| key(value, name))),
            Step::Wildcard => input.into_iter().for_each(|value| out.extend(children(value))),
            Step::Recursive => input.into_iter().for_each(|value| descend(value, &mut out)),
            Step::Union(paths) => {
                for path in paths {
                    let mut current = input.clone();
                    for step in &path.0 {
                        current = step.apply(current)?;
                    }
                    out.extend(current);
                }
            }
            Step::Slice { from, to, step, one } => {
                for value in input.into_iter().filter(|v| !v.is_null()) {
                    let range = range(items(&value)?.len(), *from, *to, *one)?;
                    let step = match step {
                        None => 1,
                        Some(step) => usize::try_from(*step).ok().filter(|s| *s > 0).ok_or("step must be > 0")?,
                    };
                    out.extend(range.step_by(step).filter_map(|i| item(&value, i)));
                }
            }
            Step::Filter { left, operator, right } => {
                for value in input {
                    for i in 0..items(&value)?.len() {
                        let Some(candidate) = item(&value, i) else { continue };
                        if passes(&candidate, left, operator, right)? {
                            out.push(candidate);
                        }
                    }
                }
            }
        }
        Ok(out)
    }
}

fn key<'v>(value: Cow<'v>, name: &str) -> Option<Cow<'v>> {
    match value {
        Cow::Borrowed(value) => value.get(name).map(Cow::Borrowed),
        Cow::Owned(value) => value.get(name).cloned().map(Cow::Owned),
    }
}

fn item<'v>(value: &Cow<'v>, index: usize) -> Option<Cow<'v>> {
    match value {
        Cow::Borrowed(value) => value.get(index).map(Cow::Borrowed),
        Cow::Owned(value) => value.get(index).cloned().map(Cow::Owned),
    }
}

fn items(value: &Value) -> Result<&Vec<Value>, Wrong> {
    value.as_array().ok_or_else(|| "value is not array or slice".to_owned())
}

fn children(value: Cow<'_>) -> Vec<Cow<'_>> {
    match value {
        Cow::Borrowed(Value::Object(map)) => map.values().map(Cow::Borrowed).collect(),
        Cow::Borrowed(Value::Array(list)) => list.iter().map(Cow::Borrowed).collect(),
        Cow::Owned(Value::Object(map)) => map.into_iter().map(|(_, v)| Cow::Owned(v)).collect(),
        Cow::Owned(Value::Array(list)) => list.into_iter().map(Cow::Owned).collect(),
        _ => Vec::new(),
    }
}

/// Every object and list, the value itself included.
fn descend<'v>(value: Cow<'v>, out: &mut Vec<Cow<'v>>) {
    let inner = children(value.clone());
    if inner.is_empty() {
        return;
    }
    out.push(value);
    inner.into_iter().for_each(|child| descend(child, out));
}

fn range(length: usize, from: Option<i64>, to: Option<i64>, one: bool) -> Result<std::ops::Range<usize>, Wrong> {
    let count = i64::try_from(length).unwrap_or(i64::MAX);
    let given = from.unwrap_or(0);
    let start = if given < 0 { given + count } else { given };
    let end = match to {
        _ if one => start + 1,
        None => count,
        Some(end) if end < 0 => end + count,
        Some(end) => end,
    };
    if start == end {
        return Ok(0..0);
    }
    let outside = |index: i64| format!("array index out of bounds: index {index}, length {count}");
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(from), _) if from >= length => Err(outside(start)),
        (Err(_), _) => Err(outside(start)),
        (_, Ok(to)) if to > length => Err(outside(end - 1)),
        (_, Err(_)) => Err(outside(end - 1)),
        (Ok(from), Ok(to)) if from > to => Err(format!("starting index {start} is greater than ending index {end}")),
        (Ok(from), Ok(to)) => Ok(from..to),
    }
}

fn passes(candidate: &Value, left: &JsonPath, operator: &str, right: &JsonPath) -> Result<bool, Wrong> {
    let lefts = match left.find(candidate) {
        Ok(found) => found,
        Err(_) if operator == "exists" => return Ok(false),
        Err(error) => return Err(error),
    };
    if operator == "exists" {
        return Ok(!lefts.is_empty());
    }
    let rights = right.find(candidate)?;
    let (left, right) = match (lefts.as_slice(), rights.as_slice()) {
        ([], _) | (_, []) => return Ok(false),
        ([left], [right]) => (left, right),
        _ => return Err("can only compare one element at a time".into()),
    };
    let ordering = order(left, right);
    let compared = || ordering.ok_or_else(|| "incompatible types for comparison".to_owned());
    match operator {
        "==" => Ok(compared()? == Ordering::Equal),
        "!=" => Ok(compared()? != Ordering::Equal),
        "<" => Ok(compared()? == Ordering::Less),
        ">" => Ok(compared()? == Ordering::Greater),
        "<=" => Ok(compared()? != Ordering::Greater),
        ">=" => Ok(compared()? != Ordering::Less),
        other => Err(format!("unrecognized filter operator {other}")),
    }
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(path: &str, expected: &str) {
        let value =
            json!({"a": {"b.c": 1, "d": [10, 20, 30]}, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}], "n": null});
        let shown = match JsonPath::parse(path).and_then(|p| {
            p.find(&value).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }) {
            Ok(text) => text,
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(shown, expected, "{path}");
    }

    #[test]
    fn paths_find_what_upstream_finds() {
        check(".a.d[1]", "20");
        check(".a.d[-1]", "30");
        check(".a.d[0:2]", "10 20");
        check(".a.d[*]", "10 20 30");
        check(".a.d[0,2]", "10 30");
        check(".a.d[7]", "error: array index out of bounds: index 7, length 3");
        check(r".a.b\.c", "1");
        check(".a['d'][0]", "10");
        check(r#".l[?(@.t=="y")].v"#, "2");
        check(".l[?(@.v>1)].t", r#""y""#);
        check("..v", "1 2");
        check(".missing.too", "");
        check(".n", "null");
        check(".a.d[", "error: unterminated array");
        check(".a.d[x]", "error: invalid array index x");
    }
}
