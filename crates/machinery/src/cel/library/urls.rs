//! `url('https://…')` and its parts (`apiserver/pkg/cel/library/urls.go`), parsed as Go's `url.ParseRequestURI` does.

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::{Key, Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const OVERLOADS: &[Def] = &[
    def("url", "string_to_url", "(string) -> URL", |a| match a {
        [Value::String(text)] => match Url::parse(text) {
            Ok(url) => Ok(Value::Url(Arc::new(url))),
            Err(why) => {
                Err(EvalError::new(format!("URL parse error during conversion from string: parse {text:?}: {why}")))
            }
        },
        _ => Err(EvalError::no_overload()),
    }),
    def("isURL", "is_url_string", "(string) -> bool", |a| match a {
        [Value::String(text)] => Ok(Url::parse(text).is_ok().into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("getScheme", "url_get_scheme", "URL.() -> string", |a| part(a, |u| u.scheme.clone())),
    def("getHost", "url_get_host", "URL.() -> string", |a| part(a, |u| u.host.clone())),
    def("getHostname", "url_get_hostname", "URL.() -> string", |a| part(a, |u| u.hostname().to_owned())),
    def("getPort", "url_get_port", "URL.() -> string", |a| part(a, |u| u.port().to_owned())),
    def("getEscapedPath", "url_get_escaped_path", "URL.() -> string", |a| part(a, |u| u.path.clone())),
    def("getQuery", "url_get_query", "URL.() -> map(string, list(string))", |a| match a {
        [Value::Url(url)] => Ok(url.query().into()),
        _ => Err(EvalError::no_overload()),
    }),
];

/// A URL in parts, as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Url {
    scheme: String,
    user: Option<String>,
    /// With the port.
    host: String,
    /// Percent-encoded.
    path: String,
    query: Option<String>,
}

fn part(args: &[Value], read: fn(&Url) -> String) -> Answer {
    match args {
        [Value::Url(url)] => Ok(read(url).into()),
        _ => Err(EvalError::no_overload()),
    }
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        if text.is_empty() {
            return Err("empty url".into());
        }
        if text.chars().any(|c| c.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".into());
        }
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            Some(("", _)) => return Err("missing protocol scheme".into()),
            _ => (String::new(), text),
        };
        // Only absolute URLs and paths may be requested.
        if !rest.starts_with('/') && scheme.is_empty() {
            return Err("invalid URI for request".into());
        }
        if !rest.starts_with('/') {
            return Err("invalid URI for request".into());
        }
        // As in a request there is no fragment: a `#` is one character of many (`url.ParseRequestURI`).
        let (rest, query) = cut(rest, '?');
        let (authority, path) = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() || !rest.starts_with("///") => {
                let end = after.find('/').unwrap_or(after.len());
                (&after[..end], &after[end..])
            }
            _ => ("", rest),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, _)) if !user.bytes().all(is_user_byte) => return Err("net/url: invalid userinfo".into()),
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        check_host(host)?;
        check_escapes(path)?;
        Ok(Url { scheme, user, host: host.to_owned(), path: encode(path), query })
    }

    fn hostname(&self) -> &str {
        if let Some(inner) = self.host.strip_prefix('[') {
            return inner.split(']').next().unwrap_or_default();
        }
        self.host.rsplit_once(':').map_or(self.host.as_str(), |(host, _)| host)
    }

    fn port(&self) -> &str {
        let after = self.host.rsplit(']').next().unwrap_or_default();
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    fn query(&self) -> Map {
        let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for pair in self.query.as_deref().unwrap_or_default().split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(key), Some(value)) = (decode(key), decode(value)) {
                values.entry(key).or_default().push(value.into());
            }
        }
        values.into_iter().map(|(key, values)| (Key::String(key.into()), values.into())).collect()
    }
}

fn cut(text: &str, at: char) -> (&str, Option<String>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after.to_owned())),
        None => (text, None),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `validUserinfo`
fn is_user_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte)
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((name, port)) => (name, port),
            None => return Err("missing ']' in host".into()),
        },
        None => match host.split_once(':') {
            Some((name, _)) => (name, &host[name.len()..]),
            None => (host, ""),
        },
    };
    let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !port_is_fine {
        return Err(format!("invalid port {port:?} after host"));
    }
    match name.chars().find(|c| matches!(c, ' ' | '#' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        Some(bad) => Err(format!("invalid character {:?} in host name", bad.to_string())),
        None => Ok(()),
    }
}

fn check_escapes(path: &str) -> Result<(), String> {
    for (at, _) in path.match_indices('%') {
        let digits = path.get(at + 1..at + 3);
        if !digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit())) {
            let end = path.len().min(at + 3);
            return Err(format!("invalid URL escape {:?}", path.get(at..end).unwrap_or("%")));
        }
    }
    Ok(())
}

/// Percent-encodes what may not stand in a path.
fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%[]".contains(&byte);
        match plain {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}
