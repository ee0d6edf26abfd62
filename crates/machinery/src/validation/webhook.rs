//! How to call a webhook (`apiserver/pkg/util/webhook/validation.go`).

use super::{is_dns1035_label, is_dns1123_subdomain, is_valid_port, required};
use crate::field::{Errors, FieldError, Path, quote};
use serde_json::json;

/// A webhook's service, of any API's type.
pub struct WebhookService<'a> {
    /// Name.
    pub name: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Path, if not `/`.
    pub path: Option<&'a str>,
    /// Port.
    pub port: i32,
}

/// A client config: either a URL or a service.
pub fn validate_webhook_client(url: Option<&str>, service: Option<WebhookService<'_>>, path: &Path) -> Errors {
    match (url, service) {
        (Some(url), None) => validate_url(url, &path.child("url")),
        (None, Some(service)) => validate_service(&service, &path.child("service")),
        _ => vec![FieldError::required(path, "exactly one of url or service is required")],
    }
}

fn validate_url(url: &str, path: &Path) -> Errors {
    const FORM: &str = "; desired format: https://host[/path]";
    if let Some(escape) = bad_escape(url) {
        let url = quote(url);
        let detail = format!("url must be a valid URL: parse {url}: invalid URL escape {}{FORM}", quote(escape));
        return vec![FieldError::required(path, &detail)];
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once(':').unwrap_or(("", rest));
    let authority = rest.strip_prefix("//").map(|r| r.split('/').next().unwrap_or_default()).unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut errors = Vec::new();
    let mut wrong = |value: &str, detail: &str| errors.push(FieldError::invalid(path, value, detail));
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "https" {
        wrong(&scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        wrong(host, &format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        wrong(user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        wrong(fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        wrong(query, "query parameters are not permitted in the URL");
    }
    errors
}

/// The first percent sign, with what follows, that stands for no byte.
fn bad_escape(url: &str) -> Option<&str> {
    url.match_indices('%').find_map(|(at, _)| {
        let rest = &url[at..];
        let digits = rest.bytes().skip(1).take(2).filter(u8::is_ascii_hexdigit).count();
        (digits < 2).then(|| rest.get(..3).unwrap_or(rest))
    })
}

fn validate_service(service: &WebhookService<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    // Upstream takes one for the other.
    required(&mut errors, &path.child("name"), service.namespace);
    required(&mut errors, &path.child("namespace"), service.name);
    let wrong = is_valid_port(i64::from(service.port));
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), service.port, &detail));
    }
    if let Some(target) = service.path {
        errors.extend(validate_service_path(target, &path.child("path")));
    }
    errors
}

fn validate_service_path(target: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match target {
        "" | "/" => return errors,
        "//" => return vec![FieldError::invalid(path, target, "segment[0] may not be empty")],
        _ => {}
    }
    if !target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must start with a '/'"));
    }
    let mut rest = target.chars();
    rest.next();
    let steps = rest.as_str();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errors.push(FieldError::invalid(path, target, &format!("segment[{i}] may not be empty")));
            continue;
        }
        let wrong = is_dns1123_subdomain(step);
        errors.extend(wrong.iter().map(|m| FieldError::invalid(path, target, &format!("segment[{i}]: {m}"))));
    }
    errors
}

/// The versions of the review that a webhook understands: at least one of ours. `missing` is the detail for none.
pub fn validate_review_versions(versions: &[String], missing: &str, path: &Path) -> Errors {
    if versions.is_empty() {
        return vec![FieldError::required(path, missing)];
    }
    let mut errors: Errors = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.push(FieldError::invalid(&path.index(i), version, "duplicate version"));
            continue;
        }
        errors.extend(super::invalid_each(&path.index(i), version, is_dns1035_label(version)));
    }
    if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.push(FieldError::invalid(path, &json!(versions), "must include at least one of v1, v1beta1"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(url: Option<&str>, service: Option<WebhookService<'_>>, expected: Expect) {
        let errors = validate_webhook_client(url, service, &Path::new("client"));
        expected.assert_eq(&errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn urls_are_read_as_go_reads_them() {
        check(Some("HTTPS://a.example.com/x"), None, expect![""]);
        check(
            Some("https://a/50%x"),
            None,
            expect![[
                r#"client.url: Required value: url must be a valid URL: parse "https://a/50%x": invalid URL escape "%x"; desired format: https://host[/path]"#
            ]],
        );
    }

    #[test]
    fn a_missing_name_is_taken_for_the_namespace() {
        let service = WebhookService { name: "", namespace: "n", path: None, port: 443 };
        check(None, Some(service), expect!["client.service.namespace: Required value"]);
    }
}
