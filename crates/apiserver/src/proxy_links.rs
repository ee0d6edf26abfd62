//! Links of what is seen through a proxy path: they name the proxied server's own paths, and must lead through the proxy.
//!
//! Follows `apimachinery/pkg/util/proxy/transport.go`: `Location` headers, and in HTML the attributes that hold a URL. HTML
//! streams through; nothing of it is kept. Differs: what comes compressed is left as it is, and is not asked for.

use crate::{Body, BoxError};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::response::Parts;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use lol_html::send::{Element, HtmlRewriter, Settings};
use lol_html::{MemorySettings, element};
use parking_lot::Mutex;
use std::sync::Arc;

/// Attributes with a URL, by element (`atomsToAttrs`).
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Headers that are about another origin than ours (`removeCORSHeaders`).
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];
/// The largest tag that is looked at; larger ones end the answer.
const LARGEST_TAG: usize = 1 << 20;

/// How a proxied server's links are changed.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    /// Path of the proxy, without a slash at its end: `/api/v1/namespaces/ns/pods/p/proxy`.
    pub(crate) prefix: String,
    /// The proxied server, `host:port`.
    pub(crate) target: String,
    /// What the client called us: its `Host` header.
    pub(crate) host: String,
}

impl Links {
    /// Prepares the request: says where it came from, and asks for an answer that can be read.
    pub(crate) fn prepare(&self, headers: &mut HeaderMap, path: &str) {
        headers.remove(header::ACCEPT_ENCODING);
        let path = path.split('?').next().unwrap_or_default();
        if let Ok(value) = HeaderValue::from_str(&format!("{}{path}", self.prefix)) {
            headers.insert("x-forwarded-uri", value);
        }
    }

    /// Changes the answer: its redirect, or its HTML.
    pub(crate) fn answer(self, head: &mut Parts, body: Body) -> Body {
        CORS.iter().for_each(|name| drop(head.headers.remove(*name)));
        if let Some(to) = head.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) {
            if let Some(value) = self.rewritten(to).and_then(|to| HeaderValue::from_str(&to).ok()) {
                head.headers.insert(header::LOCATION, value);
            }
            return body;
        }
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let is_html = kind.split(';').next().is_some_and(|k| k.trim() == "text/html");
        if !is_html || head.headers.contains_key(header::CONTENT_ENCODING) {
            return body;
        }
        head.headers.remove(header::CONTENT_LENGTH);
        self.stream(body)
    }

    /// `rewriteURL`; `None`: it stays.
    fn rewritten(&self, url: &str) -> Option<String> {
        let (scheme, rest) = match url.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || is_scheme(scheme) => (scheme, rest),
            _ => ("", ""),
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = if rest.is_empty() { ("", url) } else { rest.split_at(at) };
        let foreign = !host.is_empty() && host != self.target && host != self.host;
        if foreign || !path.starts_with('/') {
            return None;
        }
        // Links to us by name keep that name; others become links of this server.
        let origin = if host == self.host && !host.is_empty() { format!("{scheme}//{host}") } else { String::new() };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        Some(format!("{origin}{prefix}{path}"))
    }

    fn stream(self, body: Body) -> Body {
        let out = Arc::new(Mutex::new(Vec::new()));
        let sink = out.clone();
        let rewriter = HtmlRewriter::new(self.settings(), move |piece: &[u8]| sink.lock().extend_from_slice(piece));
        let state = (Some(rewriter), out, body);
        BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::unfold(
            state,
            |(rewriter, out, mut body)| async move {
                let mut rewriter = rewriter?;
                loop {
                    let ended = match body.frame().await {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => rewriter.write(&data).map(|()| false),
                            // Trailers are about the bytes that came, not about those that go.
                            Err(_) => Ok(false),
                        },
                        Some(Err(error)) => return Some((Err(error), (None, out, body))),
                        None => {
                            let ended = rewriter.end();
                            let piece = Bytes::from(std::mem::take(&mut *out.lock()));
                            let frame = ended.map(|()| Frame::data(piece)).map_err(|e| Box::new(e) as BoxError);
                            return Some((frame, (None, out, body)));
                        }
                    };
                    if let Err(error) = ended {
                        return Some((Err(Box::new(error) as BoxError), (None, out, body)));
                    }
                    let piece = Bytes::from(std::mem::take(&mut *out.lock()));
                    if !piece.is_empty() {
                        return Some((Ok(Frame::data(piece)), (Some(rewriter), out, body)));
                    }
                }
            },
        )))
    }

    fn settings(self) -> Settings<'static, 'static> {
        let memory = MemorySettings::new().with_max_allowed_memory_usage(LARGEST_TAG);
        Settings::new_send().with_memory_settings(memory).append_element_content_handler(element!(
            "*",
            move |element: &mut Element<'_, '_>| {
                let tag = element.tag_name();
                let names = ATTRIBUTES.iter().find(|(of, _)| *of == tag).map_or(&[][..], |(_, names)| names);
                for name in names {
                    if let Some(url) = element.get_attribute(name).and_then(|url| self.rewritten(&url)) {
                        element.set_attribute(name, &url)?;
                    }
                }
                Ok(())
            }
        ))
    }
}

fn is_scheme(text: &str) -> bool {
    text.strip_suffix(':').is_some_and(|s| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    fn links() -> Links {
        Links { prefix: "/p/proxy".into(), target: "10.0.0.1:80".into(), host: "here:6443".into() }
    }

    #[test]
    fn links_lead_through_the_proxy() {
        let check =
            |url: &str, expected: Option<&str>| assert_eq!(links().rewritten(url).as_deref(), expected, "{url}");
        check("/a", Some("/p/proxy/a"));
        check("/a/?q=//x", Some("/p/proxy/a/?q=//x"));
        check("/p/proxy/a", Some("/p/proxy/a"));
        check("http://10.0.0.1:80/a", Some("/p/proxy/a"));
        check("//10.0.0.1:80/a", Some("/p/proxy/a"));
        check("https://here:6443/a", Some("https://here:6443/p/proxy/a"));
        for same in
            ["a", "../a", "#top", "", "https://example.com/a", "mailto:a@b", "http://10.0.0.1:80", "?q=http://x/"]
        {
            check(same, None);
        }
    }

    async fn shown(kind: &'static str, pieces: &[&'static str]) -> (Option<String>, String) {
        let pieces: Vec<_> =
            pieces.iter().map(|p| Ok::<_, BoxError>(Frame::data(Bytes::from_static(p.as_bytes())))).collect();
        let body = BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::iter(pieces)));
        let response = Response::builder().header("content-type", kind).header("content-length", "7").body(body);
        let (mut head, body) = response.expect("literal").into_parts();
        let body = links().answer(&mut head, body).collect().await.expect("rewritten").to_bytes();
        let length = head.headers.get("content-length").map(|v| v.to_str().expect("digits").to_owned());
        (length, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn html_is_changed_as_it_streams_and_nothing_else_is() {
        let (length, text) =
            shown("text/html; charset=utf-8", &["<a hre", "f=\"/x\">t</a><p src=/x>", "<img src='/i'>"]).await;
        assert_eq!(text, "<a href=\"/p/proxy/x\">t</a><p src=/x><img src=\"/p/proxy/i\">");
        assert_eq!(length, None);
        let (length, text) = shown("text/plain", &["<a href='/x'>"]).await;
        assert_eq!((length.as_deref(), text.as_str()), (Some("7"), "<a href='/x'>"));
    }

    #[test]
    fn redirects_are_changed() {
        let response = Response::builder().status(302).header("location", "/next").body(());
        let (mut head, ()) = response.expect("literal").into_parts();
        links().answer(&mut head, crate::response::body_from(Bytes::new()));
        assert_eq!(head.headers["location"], "/p/proxy/next");
    }
}
