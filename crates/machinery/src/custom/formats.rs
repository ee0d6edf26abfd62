//! String formats (`kube-openapi/pkg/validation/strfmt`, which is go-openapi's with govalidator's rules).

use crate::go_url::Url;
use crate::validation::{parse_cidr_sloppy, parse_ip_sloppy};
use base64::Engine;
use regex::Regex;
use std::sync::LazyLock;

/// Formats that values are checked for (`apiserver/validation/formats.go`), without dashes.
const KNOWN: [&str; 27] = [
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "",
];

/// Whether values are checked for the format. Dashes do not count.
pub(super) fn is_known(format: &str) -> bool {
    !format.is_empty() && KNOWN.contains(&format.replace('-', "").as_str())
}

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("a literal expression compiles"));
    };
}

pattern!(
    HOSTNAME,
    r"^([a-zA-Z0-9\w]((-?[a-zA-Z0-9\w]{0,62})?)|([a-zA-Z0-9\w](([a-zA-Z0-9\-\w]{0,61}[a-zA-Z0-9\w])?)(\.)){1,}([a-zA-Z\w]){2,63})$"
);
pattern!(UUID, r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$");
pattern!(UUID3, r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?3[0-9a-fA-F]{3}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$");
pattern!(UUID4, r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?4[0-9a-fA-F]{3}-?[89abAB][0-9a-fA-F]{3}-?[0-9a-fA-F]{12}$");
pattern!(UUID5, r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?5[0-9a-fA-F]{3}-?[89abAB][0-9a-fA-F]{3}-?[0-9a-fA-F]{12}$");
pattern!(EMAIL, r"^[^\s@<>]+@[^\s@<>]+$");
pattern!(MAC, r"^([0-9a-fA-F]{2}([:-])[0-9a-fA-F]{2}(([:-])[0-9a-fA-F]{2}){4}|([0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4})$");
pattern!(
    CREDIT_CARD,
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$"
);
pattern!(SSN, r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$");
pattern!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
pattern!(
    RGB_COLOR,
    r"^rgb\( *(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5]) *, *(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5]) *, *(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5]) *\)$"
);
pattern!(SHORT_NAME, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
pattern!(LONG_NAME, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$");
pattern!(OBJECT_ID, r"^[0-9a-fA-F]{24}$");
pattern!(
    SCALA_DURATION,
    r"(?i)[0-9]+\s*(d|day|days|h|hour|hours|hr|hrs|m|min|mins|minute|minutes|s|sec|secs|second|seconds|ms|milli|millis|millisecond|milliseconds|us|micro|micros|microsecond|microseconds|ns|nano|nanos|nanosecond|nanoseconds|w|week|weeks)"
);
pattern!(
    GO_DURATION,
    r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*)$"
);

/// Whether a text has the format.
pub(super) fn matches(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => OBJECT_ID.is_match(text),
        "uri" => Url::parse_request(text).is_ok(),
        "email" => EMAIL.is_match(address(text)),
        "hostname" => HOSTNAME.is_match(text) && text.len() <= 255 && text.split('.').all(|p| p.len() <= 63),
        "ipv4" => text.contains('.') && parse_ip_sloppy(text).is_some(),
        "ipv6" => text.contains(':') && text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => parse_cidr_sloppy(text).is_some(),
        "mac" => is_mac(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID3.is_match(text),
        "uuid4" => UUID4.is_match(text),
        "uuid5" => UUID5.is_match(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => text.len() == 11 && SSN.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "byte" => !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" => is_date_time(text),
        "duration" => GO_DURATION.is_match(text) || SCALA_DURATION.is_match(text),
        "k8sshortname" => text.len() <= 63 && SHORT_NAME.is_match(text),
        "k8slongname" => text.len() <= 253 && LONG_NAME.is_match(text),
        _ => true,
    }
}

/// The address in `Name <address>`, or the text itself.
fn address(text: &str) -> &str {
    text.rsplit_once('<').and_then(|(_, rest)| rest.strip_suffix('>')).unwrap_or(text)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let bytes = parts.len() == 8 || parts.len() == 20;
    let separators: Vec<char> = text.chars().filter(|c| matches!(c, ':' | '-')).collect();
    let uniform = separators.windows(2).all(|pair| pair[0] == pair[1]);
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    uniform && (MAC.is_match(text) || (bytes && parts.iter().all(hex)))
}

fn digits(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits(text);
    let sum = |total: u32, (i, c): (usize, char)| {
        let value = if i == 9 && c == 'X' { Some(10) } else { c.to_digit(10) };
        value.map(|v| total + (u32::try_from(i).unwrap_or(0) + 1) * v)
    };
    text.len() == 10 && text.chars().enumerate().try_fold(0, sum).is_some_and(|total| total.is_multiple_of(11))
}

fn is_isbn13(text: &str) -> bool {
    let text = digits(text);
    let sum = |total: u32, (i, c): (usize, char)| c.to_digit(10).map(|v| total + v * if i % 2 == 0 { 1 } else { 3 });
    text.len() == 13 && text.chars().enumerate().try_fold(0, sum).is_some_and(|total| total.is_multiple_of(10))
}

fn is_credit_card(text: &str) -> bool {
    let text: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn: u32 = text
        .chars()
        .rev()
        .filter_map(|c| c.to_digit(10))
        .enumerate()
        .map(|(i, d)| if i % 2 == 0 { d } else { d * 2 / 10 + d * 2 % 10 })
        .sum();
    CREDIT_CARD.is_match(&text) && luhn.is_multiple_of(10)
}

/// RFC 3339, a space or nothing for the offset's colon as go-openapi allows.
fn is_date_time(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    let Some((date, time)) = upper.split_once('T') else { return false };
    let date_fits = date.parse::<jiff::civil::Date>().is_ok();
    let at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, offset) = time.split_at(at);
    let clock_fits = clock.parse::<jiff::civil::Time>().is_ok();
    let offset_fits = match offset.strip_prefix(['+', '-']) {
        None => offset == "Z" || offset.is_empty(),
        Some(rest) => {
            let digits: String = rest.chars().filter(|c| *c != ':').collect();
            digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())
        }
    };
    date_fits && clock_fits && offset_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_formats() {
        let yes = [
            ("ipv4", "10.0.0.1"),
            ("ipv6", "::1"),
            ("cidr", "10.0.0.0/8"),
            ("uuid", "A6B3E4C2-1111-4f00-8aaa-0123456789ab"),
            ("email", "Joe <a@b.c>"),
            ("date", "2024-02-29"),
            ("date-time", "2024-01-01T10:00:00.5Z"),
            ("duration", "1h30m"),
            ("duration", "22 ns"),
            ("hostname", "a-b.example.com"),
            ("uri", "https://a/b"),
            ("byte", "aGk="),
            ("mac", "00:00:5e:00:53:01"),
            ("isbn10", "0321751043"),
            ("isbn13", "978-0321751041"),
            ("creditcard", "4111 1111 1111 1111"),
            ("hexcolor", "#FFF"),
            ("rgbcolor", "rgb(255,255,25)"),
            ("k8s-short-name", "a-b"),
            ("unheard-of", "x"),
        ];
        for (format, text) in yes {
            assert!(matches(format, text), "{format} {text}");
        }
        let no = [
            ("ipv4", "::1"),
            ("ipv6", "10.0.0.1"),
            ("date", "2023-02-29"),
            ("date-time", "2024-01-01"),
            ("uuid", "x"),
            ("email", "a"),
            ("hostname", "a_b.c!"),
            ("uri", "a b"),
            ("byte", "%"),
            ("mac", "00:00"),
            ("isbn10", "0321751044"),
            ("creditcard", "4111111111111112"),
            ("k8s-short-name", "A"),
            ("duration", "soon"),
        ];
        for (format, text) in no {
            assert!(!matches(format, text), "{format} {text}");
        }
        assert!(is_known("date-time") && !is_known("int-or-string") && !is_known(""));
    }
}
