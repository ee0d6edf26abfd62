//! `matches` and Kubernetes' `find` and `findAll` (`apiserver/pkg/cel/library/regex.go`). Both engines know RE2's syntax and
//! run in linear time.

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
use crate::go_regex;
use ::regex::Regex;

/// The largest automaton: patterns may come with objects, and are compiled at every evaluation then.
const SIZE_LIMIT_BYTES: usize = 1 << 20;

pub(super) const OVERLOADS: &[Def] = &[
    def("matches", "matches", "(string, string) -> bool", |a| compiled("matches", a)),
    def("matches", "matches_string", "string.(string) -> bool", |a| compiled("matches", a)),
    def("find", "string_find_string", "string.(string) -> string", |a| compiled("find", a)),
    def("findAll", "string_find_all_string", "string.(string) -> list(string)", |a| compiled("findAll", a)),
    def("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", |a| compiled("findAll", a)),
];

/// A pattern, ready to match.
pub(crate) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    go_regex::compile(pattern, SIZE_LIMIT_BYTES).map_err(|error| EvalError::new(format!("Illegal regex: {error}")))
}

/// One of these functions with its pattern compiled before.
pub(crate) fn run(function: &str, regex: &Regex, args: &[Value]) -> Answer {
    let (text, limit) = match args {
        [Value::String(text), Value::String(_)] => (text, -1),
        [Value::String(text), Value::String(_), Value::Int(limit)] => (text, *limit),
        _ => return Err(EvalError::no_overload()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(match function {
        "matches" => regex.is_match(text).into(),
        "find" => regex.find(text).map_or("", |m| m.as_str()).into(),
        _ => regex.find_iter(text).take(limit).map(|m| Value::from(m.as_str())).collect::<Vec<_>>().into(),
    })
}

fn compiled(function: &str, args: &[Value]) -> Answer {
    match args.get(1) {
        Some(Value::String(pattern)) => run(function, &compile(pattern)?, args),
        _ => Err(EvalError::no_overload()),
    }
}
