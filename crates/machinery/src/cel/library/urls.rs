//! `url('https://…')` and its parts (`apiserver/pkg/cel/library/urls.go`).

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::{Key, Map, Value};
use crate::go_url::Url;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const OVERLOADS: &[Def] = &[
    def("url", "string_to_url", "(string) -> URL", |a| match a {
        // Only what may be requested, but with a fragment of its own.
        [Value::String(text)] => Url::parse_request(text)
            .and_then(|_| Url::parse(text))
            .map(|url| Value::Url(Arc::new(url)))
            .map_err(|why| EvalError::new(format!("URL parse error during conversion from string: {why}"))),
        _ => Err(EvalError::no_overload()),
    }),
    def("isURL", "is_url_string", "(string) -> bool", |a| match a {
        [Value::String(text)] => Ok(Url::parse_request(text).is_ok().into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("getScheme", "url_get_scheme", "URL.() -> string", |a| part(a, |u| &u.scheme)),
    def("getHost", "url_get_host", "URL.() -> string", |a| part(a, |u| &u.host)),
    def("getHostname", "url_get_hostname", "URL.() -> string", |a| part(a, Url::hostname)),
    def("getPort", "url_get_port", "URL.() -> string", |a| part(a, Url::port)),
    def("getEscapedPath", "url_get_escaped_path", "URL.() -> string", |a| part(a, |u| &u.path)),
    def("getQuery", "url_get_query", "URL.() -> map(string, list(string))", |a| match a {
        [Value::Url(url)] => Ok(query(url).into()),
        _ => Err(EvalError::no_overload()),
    }),
];

fn part(args: &[Value], read: fn(&Url) -> &str) -> Answer {
    match args {
        [Value::Url(url)] => Ok(read(url).to_owned().into()),
        _ => Err(EvalError::no_overload()),
    }
}

fn query(url: &Url) -> Map {
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (key, value) in url.query() {
        values.entry(key).or_default().push(value.into());
    }
    values.into_iter().map(|(key, values)| (Key::String(key.into()), values.into())).collect()
}
