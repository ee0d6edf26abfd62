//! `semver('1.2.3')` (`apiserver/pkg/cel/library/semverlib.go`; the rules are semver.org's, as in `blang/semver`).

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
use std::cmp::Ordering;
use std::sync::Arc;

pub(super) const OVERLOADS: &[Def] = &[
    def("semver", "string_to_semver", "(string) -> Semver", make),
    def("semver", "string_bool_to_semver", "(string, bool) -> Semver", make),
    def("isSemver", "is_semver_string", "(string) -> bool", |a| Ok(version_of(a)?.is_ok().into())),
    def("isSemver", "is_semver_string_bool", "(string, bool) -> bool", |a| Ok(version_of(a)?.is_ok().into())),
    def("isGreaterThan", "semver_is_greater_than", "Semver.(Semver) -> bool", |a| {
        compare(a, |order| (order == Ordering::Greater).into())
    }),
    def("isLessThan", "semver_is_less_than", "Semver.(Semver) -> bool", |a| {
        compare(a, |order| (order == Ordering::Less).into())
    }),
    def("compareTo", "semver_compare_to", "Semver.(Semver) -> int", |a| compare(a, |order| Value::Int(order as i64))),
    def("major", "semver_major", "Semver.() -> int", |a| number(a, 0)),
    def("minor", "semver_minor", "Semver.() -> int", |a| number(a, 1)),
    def("patch", "semver_patch", "Semver.() -> int", |a| number(a, 2)),
];

/// A version.
#[derive(Debug, Clone)]
pub struct Version {
    numbers: [u64; 3],
    /// Before a release; empty for a release.
    pre: Vec<String>,
}

fn version_of(args: &[Value]) -> Result<Result<Version, String>, EvalError> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Ok(Version::parse(text)),
        [Value::String(text), Value::Bool(true)] => Ok(normalize(text).and_then(|text| Version::parse(&text))),
        _ => Err(EvalError::no_overload()),
    }
}

fn make(args: &[Value]) -> Answer {
    match version_of(args)? {
        Ok(version) => Ok(Value::Semver(Arc::new(version))),
        Err(why) => Err(EvalError::new(why)),
    }
}

fn compare(args: &[Value], answer: impl FnOnce(Ordering) -> Value) -> Answer {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(answer(a.compare(b))),
        _ => Err(EvalError::no_overload()),
    }
}

fn number(args: &[Value], which: usize) -> Answer {
    match args {
        [Value::Semver(version)] => Ok(Value::Int(version.numbers[which] as i64)),
        _ => Err(EvalError::no_overload()),
    }
}

/// Drops a `v`, fills up missing numbers, strips leading zeros.
fn normalize(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in parts.iter_mut().filter(|p| p.len() > 1) {
        let rest = part.trim_start_matches('0');
        *part = if rest.starts_with(|c: char| c.is_ascii_digit()) { rest.to_owned() } else { format!("0{rest}") };
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|p| p.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".into());
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}

impl Version {
    pub(in crate::cel) fn parse(text: &str) -> Result<Version, String> {
        if text.is_empty() {
            return Err("Version string empty".into());
        }
        let (text, build) = text.split_once('+').map_or((text, None), |(t, b)| (t, Some(b)));
        let (core, pre) = text.split_once('-').map_or((text, None), |(t, p)| (t, Some(p)));
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts.as_slice() else { return Err("No Major.Minor.Patch elements found".into()) };
        let read = |part: &str, what: &str| {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Invalid character(s) found in {what} number {part:?}"));
            }
            if part.len() > 1 && part.starts_with('0') {
                return Err(format!("{what} number must not contain leading zeroes {part:?}"));
            }
            part.parse::<u64>().map_err(|error| error.to_string())
        };
        let numbers = [read(major, "major")?, read(minor, "minor")?, read(patch, "patch")?];
        let identifiers = |text: Option<&str>, what: &str| -> Result<Vec<String>, String> {
            let list: Vec<String> = text.into_iter().flat_map(|t| t.split('.')).map(str::to_owned).collect();
            match list.iter().find(|i| i.is_empty() || !i.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')) {
                Some(bad) => Err(format!("Invalid character(s) found in {what} {bad:?}")),
                None => Ok(list),
            }
        };
        identifiers(build, "build meta data")?;
        let pre = identifiers(pre, "prerelease")?;
        let numeric = |i: &&String| i.bytes().all(|b| b.is_ascii_digit());
        match pre.iter().filter(numeric).find(|i| i.len() > 1 && i.starts_with('0')) {
            Some(bad) => Err(format!("Numeric PreRelease version must not contain leading zeroes {bad:?}")),
            None => Ok(Version { numbers, pre }),
        }
    }

    pub(crate) fn compare(&self, other: &Version) -> Ordering {
        let by_numbers = self.numbers.cmp(&other.numbers);
        by_numbers.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let order = self.pre.iter().zip(&other.pre).map(|(a, b)| compare_identifiers(a, b));
                order.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

fn compare_identifiers(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    }
}
