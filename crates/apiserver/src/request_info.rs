//! What a URL and a method ask for (`apiserver/pkg/endpoints/request/requestinfo.go`). Pure.

use crate::auth::{Attributes, UserInfo};
use http::Method;
use std::borrow::Cow;

/// A parsed query: names with values, decoded, in order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Query(pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }
    /// The first value, or `None`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    /// The first value if it is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    /// As upstream's parameter codec reads booleans: `?watch`, `?watch=`, `1`, `true` and anything but `false` and `0`.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }
}

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// `get`, `list`, …; the lower-case method for paths that are no resources.
    pub(crate) verb: Cow<'static, str>,
    /// API group.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Plural.
    pub(crate) resource: String,
    /// Subresource, or empty.
    pub(crate) subresource: String,
    /// Name, or empty.
    pub(crate) name: String,
    /// What follows the subresource (proxy paths), without leading slash.
    pub(crate) rest: String,
    /// The path itself.
    pub(crate) path: String,
    /// Whether the path is a resource's.
    pub(crate) is_resource: bool,
    /// `/api/v1/watch/…`, the old way.
    pub(crate) watch_prefix: bool,
}

impl RequestInfo {
    /// Takes a request apart. Anything is some request; nonsense is a non-resource path that no route serves.
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = RequestInfo {
            verb: method.as_str().to_ascii_lowercase().into(),
            path: path.to_owned(),
            ..RequestInfo::default()
        };
        let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        let trimmed = path.trim_start_matches('/');
        let mut parts: Vec<&str> = trimmed.split('/').collect();
        while parts.last() == Some(&"") {
            parts.pop();
        }
        let mut rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = decode(version);
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = decode(group);
                info.version = decode(version);
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = verb_of(method);
        if rest.len() > 1 && rest[0] == "watch" {
            info.watch_prefix = true;
            info.verb = "watch".into();
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = decode(rest[1]);
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                rest = &rest[2..];
            }
        }
        info.resource = rest.first().map(|p| decode(p)).unwrap_or_default();
        info.name = rest.get(1).map(|p| decode(p)).unwrap_or_default();
        info.subresource = rest.get(2).map(|p| decode(p)).unwrap_or_default();
        if rest.len() > 3 {
            // The exact rest of the path, slashes and escapes as they came.
            let skipped: usize = trimmed.len() - trailing_len(trimmed, &parts, rest);
            info.rest = trimmed[skipped..].to_owned();
        }
        info.settle_collection(query);
        info
    }

    fn settle_collection(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_ref() {
            "get" => {
                self.verb = if query.flag("watch") == Some(true) { "watch" } else { "list" }.into();
                if let Some(name) = query.text("fieldSelector").and_then(exact_name) {
                    self.name = name;
                }
            }
            "delete" => self.verb = "deletecollection".into(),
            _ => {}
        }
    }

    /// For the authorizer.
    pub(crate) fn attributes<'a>(&'a self, user: &'a UserInfo, query: &'a Query) -> Attributes<'a> {
        let selects = matches!(self.verb.as_ref(), "list" | "watch" | "deletecollection");
        Attributes {
            user,
            verb: &self.verb,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: &self.path,
            is_resource_request: self.is_resource,
            field_selector: if selects { query.get("fieldSelector").unwrap_or_default() } else { "" },
            label_selector: if selects { query.get("labelSelector").unwrap_or_default() } else { "" },
        }
    }
}

/// How many bytes of `trimmed` follow the slash after the subresource.
fn trailing_len(trimmed: &str, parts: &[&str], rest: &[&str]) -> usize {
    let before = parts.len() - rest.len() + 3;
    trimmed.splitn(before + 1, '/').nth(before).map_or(0, str::len)
}

fn verb_of(method: &Method) -> Cow<'static, str> {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
    .into()
}

/// The name that a field selector demands, if it demands one.
fn exact_name(selector: &str) -> Option<String> {
    let term = selector.split(',').find_map(|term| {
        let rest = term.strip_prefix("metadata.name=")?;
        Some(rest.strip_prefix('=').unwrap_or(rest))
    })?;
    (!term.is_empty() && !term.contains(['/', '%', '\\'])).then(|| term.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(method: Method, uri: &str, expected: Expect) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let i = RequestInfo::parse(&method, path, &Query::parse(query));
        let text = format!(
            "{} {:?} {}/{} ns={} {}/{}/{} rest={}",
            i.verb, i.is_resource, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest
        );
        expected.assert_eq(&text);
    }

    #[test]
    fn urls() {
        check(Method::GET, "/api/v1/namespaces", expect!["list true /v1 ns= namespaces// rest="]);
        check(Method::GET, "/api/v1/namespaces/a", expect!["get true /v1 ns=a namespaces/a/ rest="]);
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            expect!["update true /v1 ns=a namespaces/a/finalize rest="],
        );
        check(Method::GET, "/api/v1/namespaces/a/pods?watch=1", expect!["watch true /v1 ns=a pods// rest="]);
        check(
            Method::GET,
            "/api/v1/pods?watch=0&fieldSelector=metadata.name%3Dx",
            expect!["list true /v1 ns= pods/x/ rest="],
        );
        check(
            Method::GET,
            "/api/v1/namespaces/a/pods/p/proxy/x//y%20z/",
            expect!["get true /v1 ns=a pods/p/proxy rest=x//y%20z/"],
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/deployments",
            expect!["deletecollection true apps/v1 ns= deployments// rest="],
        );
        check(Method::GET, "/apis/apps/v1", expect!["get false / ns= // rest="]);
        check(Method::POST, "/api/v1/watch/pods", expect!["watch true /v1 ns= pods// rest="]);
    }
}
