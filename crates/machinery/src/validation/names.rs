//! Names: DNS labels and subdomains, ports, environment variables, config keys, path segments.

use super::Messages;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// Longest DNS label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

/// `must be no more than 63 characters`
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// `must be no more than 63 bytes`: what the newer checks (labels) say.
pub(super) fn max_bytes_error(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// `<message> (e.g. 'a',  or 'b', regex used for validation is '…')`, spaced as upstream does.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn looks_like_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            is_lower_alnum(first) && is_lower_alnum(last) && bytes.iter().all(|&b| is_lower_alnum(b) || b == b'-')
        }
        _ => false,
    }
}

fn looks_like_subdomain(value: &str) -> bool {
    value.split('.').all(looks_like_label)
}

/// `IsDNS1123Label`.
pub fn is_dns1123_label(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !looks_like_label(value) {
        if looks_like_subdomain(value) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_error(LABEL_MESSAGE, LABEL_FMT, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// `IsDNS1123Subdomain`.
pub fn is_dns1123_subdomain(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !looks_like_subdomain(value) {
        errors.push(regex_error(SUBDOMAIN_MESSAGE, SUBDOMAIN_FMT, &["example.com"]));
    }
    errors
}

/// `IsDNS1123SubdomainWithUnderscore`: DNS search paths.
pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Messages {
    const FMT: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    const MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
    let label = |label: &str| {
        let bytes = label.strip_prefix('_').unwrap_or(label).as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(&first), Some(&last)) => {
                is_lower_alnum(first)
                    && is_lower_alnum(last)
                    && bytes.iter().all(|&b| is_lower_alnum(b) || b == b'-' || b == b'_')
            }
            _ => false,
        }
    };
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(label) {
        errors.push(regex_error(MESSAGE, FMT, &["example.com"]));
    }
    errors
}

/// `IsDNS1035Label`.
pub fn is_dns1035_label(value: &str) -> Messages {
    const FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
    const MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !looks_like_label(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        errors.push(regex_error(MESSAGE, FMT, &["my-name", "abc-123"]));
    }
    errors
}

/// `IsWildcardDNS1123Subdomain`: `*.` and a subdomain.
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Messages {
    const MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(looks_like_subdomain) {
        errors.push(regex_error(MESSAGE, &format!(r"\*\.{SUBDOMAIN_FMT}"), &["*.example.com"]));
    }
    errors
}

/// `IsValidPathSegmentName`: names that only have to fit into a URL (RBAC).
pub fn is_path_segment_name(name: &str) -> Messages {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|part| name.contains(**part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// `IsValidPortName`: an IANA service name.
pub fn is_valid_port_name(port: &str) -> Messages {
    let mut errors = Vec::new();
    if port.len() > 15 {
        errors.push(max_len_error(15));
    }
    if port.is_empty() || !port.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !port.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if port.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if port.starts_with('-') || port.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `IsValidPercent`.
pub fn is_valid_percent(percent: &str) -> Messages {
    const MESSAGE: &str = "a valid percent string must be a numeric string followed by an ending '%'";
    match percent.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Vec::new(),
        _ => vec![regex_error(MESSAGE, "[0-9]+%", &["1%", "93%"])],
    }
}

/// `IsHTTPHeaderName`.
pub fn is_http_header_name(value: &str) -> Messages {
    const MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-'";
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error(MESSAGE, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `IsRelaxedEnvVarName`: printable ASCII without `=` (the rule of 1.36 for containers).
pub fn is_relaxed_env_var_name(value: &str) -> Messages {
    const MESSAGE: &str =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![MESSAGE.to_owned()]
}

/// `IsEnvVarName`: the strict rule, still asked of `envFrom` prefixes elsewhere.
pub fn is_env_var_name(value: &str) -> Messages {
    const MESSAGE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
    let mut errors = Vec::new();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if value.is_empty() || value.as_bytes()[0].is_ascii_digit() || !value.bytes().all(allowed) {
        errors.push(regex_error(MESSAGE, "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    errors.extend(parent_dir_errors(value));
    errors
}

/// `IsConfigMapKey`.
pub fn is_config_map_key(value: &str) -> Messages {
    const MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        errors.push(regex_error(MESSAGE, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(parent_dir_errors(value));
    errors
}

/// `IsCIdentifier`.
pub fn is_c_identifier(value: &str) -> Messages {
    const MESSAGE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    let ok = value.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if ok {
        Vec::new()
    } else {
        vec![regex_error(MESSAGE, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
    }
}

fn parent_dir_errors(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A generated name ends in random text: a trailing dash of the prefix is fine (`maskTrailingDash`).
pub fn mask_trailing_dash(name: &str) -> String {
    // Upstream cuts two bytes; a prefix with a multi-byte end is invalid either way and must only not panic here.
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut kept = rest.to_owned();
            kept.pop();
            kept.push('a');
            kept
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check_messages(check: fn(&str) -> Messages, inputs: &[&str], expected: Expect) {
        let lines: Vec<String> = inputs.iter().map(|i| format!("{i:?} => {}", check(i).join(" & "))).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn dns_labels_are_refused_with_upstreams_words() {
        check_messages(
            is_dns1123_label,
            &["a", "a-b", "a.b", "A", ""],
            expect![[r#"
            "a" => 
            "a-b" => 
            "a.b" => must not contain dots
            "A" => a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            "" => a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#]],
        );
    }

    #[test]
    fn port_and_env_names() {
        check_messages(
            is_valid_port_name,
            &["http", "a--b", "-", "12"],
            expect![[r#"
            "http" => 
            "a--b" => must not contain consecutive hyphens
            "-" => must contain at least one letter (a-z) & must not begin or end with a hyphen
            "12" => must contain at least one letter (a-z)"#]],
        );
        check_messages(
            is_relaxed_env_var_name,
            &["A", "1 x", "a=b", ""],
            expect![[r#"
            "A" => 
            "1 x" => 
            "a=b" => a valid environment variable name must consist only of printable ASCII characters other than '='
            "" => environment variable name must be non-empty"#]],
        );
    }
}
