//! URLs as Go's `net/url` reads them (`url.go`), which takes more and refuses other things than the WHATWG's rules that the `url` crate follows.

use crate::field::quote;
use std::net::Ipv6Addr;

/// The most parameters of a query (`defaultMaxParams`); of more, none is read.
const MOST_PARAMETERS: usize = 10_000;

/// A URL in parts. Equal ones print equally (`URL.String`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Url {
    /// In lower case, maybe empty.
    pub scheme: String,
    /// What follows the scheme where no `/` does, as in `mailto:me@example.com`.
    pub opaque: String,
    /// Whether `//` stood before the host.
    has_authority: bool,
    /// Name and password, decoded.
    user: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// With the port, decoded.
    pub host: String,
    /// Percent-encoded (`URL.EscapedPath`).
    pub path: String,
    /// As it stands in the text; without a `?` it is `None`.
    query: Option<String>,
    /// Percent-encoded.
    fragment: String,
}

/// What a part of a URL may hold (`encoding_table.go`).
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Path,
    Host,
    Zone,
    User,
    Query,
    Fragment,
}

impl Part {
    /// What may stand in it unescaped, other than letters and digits.
    fn plain(self) -> &'static [u8] {
        match self {
            Part::Path => b"$&+,-./:;=@_~",
            Part::Host | Part::Zone => b"!\"$&'()*+,-.:;<=>[]_~",
            Part::User => b"$&+,-.;=_~",
            Part::Query => b"-._~",
            Part::Fragment => b"!$&()*+,-./:;=?@_~",
        }
    }

    fn may_hold(self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || self.plain().contains(&byte)
    }
}

impl Url {
    /// `url.ParseRequestURI`: an absolute URL or a path; a `#` begins no fragment. Errors are Go's.
    pub fn parse_request(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(in_url(text, "empty url"));
        }
        Self::parts(text, true).map_err(|why| in_url(text, &why))
    }

    /// `url.Parse`: with a fragment, and also relative.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Self::parts(before, false).map_err(|why| in_url(before, &why))?;
        url.fragment = escaped(fragment, Part::Fragment).map_err(|why| in_url(text, &why))?;
        Ok(url)
    }

    fn parts(text: &str, of_request: bool) -> Result<Self, String> {
        if text.chars().any(|c| c.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".into());
        }
        if text == "*" {
            return Ok(Url { path: text.into(), ..Url::default() });
        }
        let (scheme, rest) = match text.split_once(':') {
            Some(("", _)) => return Err("missing protocol scheme".into()),
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            _ => (String::new(), text),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        let mut url = Url { scheme, query, ..Url::default() };
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                url.opaque = rest.into();
                return Ok(url);
            }
            if of_request {
                return Err("invalid URI for request".into());
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        let may_have_authority = !url.scheme.is_empty() || !of_request && !rest.starts_with("///");
        let path = match rest.strip_prefix("//").filter(|_| may_have_authority) {
            Some(after) => {
                let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
                url.set_authority(authority)?;
                path
            }
            None => rest,
        };
        url.path = escaped(path, Part::Path)?;
        Ok(url)
    }

    fn set_authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        self.has_authority = true;
        self.host = read_host(&self.scheme, host)?;
        if let Some(user) = user {
            if !user.bytes().all(is_user_byte) {
                return Err("net/url: invalid userinfo".into());
            }
            let (name, password) = match user.split_once(':') {
                Some((name, password)) => (name, Some(unescape(password, Part::User)?)),
                None => (user, None),
            };
            self.user = Some((unescape(name, Part::User)?, password));
        }
        Ok(())
    }

    /// The host without its port and the brackets of an IPv6 address.
    pub fn hostname(&self) -> &str {
        let (host, _) = self.host_and_port();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// As text; empty if there is none.
    pub fn port(&self) -> &str {
        self.host_and_port().1
    }

    fn host_and_port(&self) -> (&str, &str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
            _ => (&self.host, ""),
        }
    }

    /// The parameters, in their order; those that are none are left out (`URL.Query`).
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.query.as_deref().unwrap_or_default();
        if query.split('&').count() > MOST_PARAMETERS {
            return Vec::new();
        }
        let text = |part| unescape(part, Part::Query).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        pairs
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((text(key)?, text(value)?))
            })
            .collect()
    }
}

fn in_url(text: &str, why: &str) -> String {
    format!("parse {}: {why}", quote(text))
}

/// `getScheme`
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `validUserinfo`
fn is_user_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte)
}

/// The host, decoded (`parseHost`).
fn read_host(scheme: &str, host: &str) -> Result<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match host.rfind('[') {
        Some(0) => {
            let end = host.rfind(']').ok_or("missing ']' in host")?;
            let (address, port) = (&host[1..end], &host[end + 1..]);
            check_port(port)?;
            let zone = address.find("%25").unwrap_or(address.len());
            let mut decoded = unescape(&address[..zone], Part::Host)?;
            decoded.extend(unescape(&address[zone..], Part::Zone)?);
            let decoded = text(decoded);
            check_address(&decoded)?;
            Ok(format!("[{decoded}]{port}"))
        }
        Some(_) => Err("invalid IP-literal".into()),
        None => {
            // Web servers have one colon; databases' URLs have lists of hosts with ports.
            let colon = if matches!(scheme, "http" | "https") { host.find(':') } else { host.rfind(':') };
            check_port(&host[colon.unwrap_or(host.len())..])?;
            unescape(host, Part::Host).map(text)
        }
    }
}

fn check_port(port: &str) -> Result<(), String> {
    let fine = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if fine { Ok(()) } else { Err(format!("invalid port {} after host", quote(port))) }
}

/// IPv6, maybe with a zone (`netip.ParseAddr`).
fn check_address(text: &str) -> Result<(), String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    if zone.is_none() && text.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err("invalid IP-literal".into());
    }
    let why = match (address.parse::<Ipv6Addr>(), zone) {
        (Ok(_), Some("")) => "zone must be a non-empty string",
        (Ok(_), _) => return Ok(()),
        (Err(_), _) => "unable to parse IP",
    };
    Err(format!("invalid host: ParseAddr({}): {why}", quote(text)))
}

/// A part as it is printed: as it stands, unless it holds what must be escaped (`EscapedPath`, `EscapedFragment`).
fn escaped(part: &str, of: Part) -> Result<String, String> {
    let bytes = unescape(part, of)?;
    if part.bytes().all(|b| of.may_hold(b) || b"!$&'()*+,;=:@[]%".contains(&b)) {
        return Ok(part.to_owned());
    }
    let mut out = String::with_capacity(part.len() + 16);
    for byte in bytes {
        match of.may_hold(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

/// A part without its escapes (`unescape`).
fn unescape(part: &str, of: Part) -> Result<Vec<u8>, String> {
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let digits = bytes.get(at..at + 2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let value = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
                let may = |value: u8| match of {
                    // Only what cannot be written otherwise, and the `%` of a zone.
                    Part::Host => value >= 0x80 || value == b'%',
                    Part::Zone => value == b'%' || value == b' ' || Part::Host.may_hold(value),
                    _ => true,
                };
                let Some(value) = value.filter(|value| may(*value)) else {
                    let escape = String::from_utf8_lossy(&bytes[at - 1..bytes.len().min(at + 2)]);
                    return Err(format!("invalid URL escape {}", quote(&escape)));
                };
                out.push(value);
                at += 2;
            }
            b'+' if of == Part::Query => out.push(b' '),
            byte if matches!(of, Part::Host | Part::Zone) && byte.is_ascii() && !of.may_hold(byte) => {
                let bad = char::from(byte).to_string();
                return Err(format!("invalid character {} in host name", quote(&bad)));
            }
            byte => out.push(byte),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    /// Texts, and what is in them, or why they are none.
    fn read(texts: &[&str], parse: fn(&str) -> Result<Url, String>) -> String {
        let line = |text: &&str| match parse(text) {
            Ok(url) => format!(
                "{text} → {:?} {:?} host {:?} {:?} path {:?} query {:?} fragment {:?}\n",
                url.scheme,
                url.opaque,
                url.hostname(),
                url.port(),
                url.path,
                url.query(),
                url.fragment,
            ),
            Err(why) => format!("{why}\n"),
        };
        texts.iter().map(line).collect()
    }

    #[test]
    fn parts_are_gos() {
        expect![[r#"
            https://me:a%20b@example.com:80/a b?x=1&x=2;3&y&z=%zz&w=a+b#f → "https" "" host "example.com" "80" path "/a%20b" query [("x", "1"), ("y", ""), ("w", "a b")] fragment "f"
            HTTP://a<b>"c/é%2F%2f x#a b%21 → "http" "" host "a<b>\"c" "" path "/%C3%A9//%20x" query [] fragment "a%20b!"
            http://[fe80::1%25en%200]:80/ → "http" "" host "fe80::1%en 0" "80" path "/" query [] fragment ""
            http://a%C3%A9/(b) → "http" "" host "aé" "" path "/(b)" query [] fragment ""
            mailto:me@example.com?subject=x → "mailto" "me@example.com" host "" "" path "" query [("subject", "x")] fragment ""
            postgres://a:1,b:2/db → "postgres" "" host "a:1,b" "2" path "/db" query [] fragment ""
            //host/path → "" "" host "host" "" path "/path" query [] fragment ""
            ///path → "" "" host "" "" path "///path" query [] fragment ""
            rel/a:b → "" "" host "" "" path "rel/a:b" query [] fragment ""
            * → "" "" host "" "" path "*" query [] fragment ""
            http://a? → "http" "" host "a" "" path "" query [] fragment ""
        "#]]
        .assert_eq(&read(
            &[
                "https://me:a%20b@example.com:80/a b?x=1&x=2;3&y&z=%zz&w=a+b#f",
                "HTTP://a<b>\"c/é%2F%2f x#a b%21",
                "http://[fe80::1%25en%200]:80/",
                "http://a%C3%A9/(b)",
                "mailto:me@example.com?subject=x",
                "postgres://a:1,b:2/db",
                "//host/path",
                "///path",
                "rel/a:b",
                "*",
                "http://a?",
            ],
            Url::parse,
        ));
    }

    #[test]
    fn requests_have_no_fragment() {
        expect![[r#"
            http://a/b#c → "http" "" host "a" "" path "/b%23c" query [] fragment ""
            //host/path → "" "" host "" "" path "//host/path" query [] fragment ""
            /a#b?c#d → "" "" host "" "" path "/a%23b" query [("c#d", "")] fragment ""
            mailto: → "mailto" "" host "" "" path "" query [] fragment ""
        "#]]
        .assert_eq(&read(&["http://a/b#c", "//host/path", "/a#b?c#d", "mailto:"], Url::parse_request));
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        expect![[r##"
            parse "": empty url
            parse "nonsense": invalid URI for request
            parse "a\tb:": net/url: invalid control character in URL
            parse ":a": missing protocol scheme
            parse "http://#%x#@": net/url: invalid userinfo
            parse "http://a#b/": invalid character "#" in host name
            parse "http://a b@c/": net/url: invalid userinfo
            parse "http://%zz@c/": invalid URL escape "%zz"
            parse "http://a:b/": invalid port ":b" after host
            parse "http://a:1:2/": invalid port ":1:2" after host
            parse "http://[::1/": missing ']' in host
            parse "http://[10.0.0.1]/": invalid IP-literal
            parse "http://[nonsense]/": invalid host: ParseAddr("nonsense"): unable to parse IP
            parse "http://[fe80::1%25]/": invalid host: ParseAddr("fe80::1%"): zone must be a non-empty string
            parse "http://a[b]/": invalid IP-literal
            parse "http://%41/": invalid URL escape "%41"
            parse "http://a/%+1": invalid URL escape "%+1"
            parse "http://a/%": invalid URL escape "%"
        "##]]
        .assert_eq(&read(
            &[
                "",
                "nonsense",
                "a\tb:",
                ":a",
                "http://#%x#@",
                "http://a#b/",
                "http://a b@c/",
                "http://%zz@c/",
                "http://a:b/",
                "http://a:1:2/",
                "http://[::1/",
                "http://[10.0.0.1]/",
                "http://[nonsense]/",
                "http://[fe80::1%25]/",
                "http://a[b]/",
                "http://%41/",
                "http://a/%+1",
                "http://a/%",
            ],
            Url::parse_request,
        ));
        expect![[r#"
            a:b:c/d → "a" "b:c/d" host "" "" path "" query [] fragment ""
            parse "1:2": first path segment in URL cannot contain colon
            parse "http://a?#%zz": invalid URL escape "%zz"
        "#]]
        .assert_eq(&read(&["a:b:c/d", "1:2", "http://a?#%zz"], Url::parse));
    }

    #[test]
    fn what_prints_equally_is_equal() {
        let equal = |a, b| Url::parse(a).expect(a) == Url::parse(b).expect(b);
        assert!(equal("HTTP://%6de@a/x y", "http://me@a/x%20y"));
        assert!(!equal("http://a#b", "http://a#c"));
        assert!(!equal("http://a", "http://a?"));
        assert!(!equal("http:/a", "http:///a"));
    }
}
