//! Image names: the grammar of `distribution/reference` (`reference.go`, `regexp.go`, `normalize.go`), parsed by hand.
//!
//! Always holds: a [`Reference`] is normalised (registry, `library/` and `latest` filled in), so equal images of one
//! registry have equal references, and none of its parts can leave a URL path or a directory.

use crate::Digest;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The registry of names without one.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// `registry/repository[:tag][@digest]`, normalised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and perhaps port: `docker.io`, `localhost:5000`.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    /// `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// Wins over the tag when pulling.
    pub digest: Option<Digest>,
}

/// Why text is no image reference.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// The grammar does not allow it.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// A common slip.
    #[error("invalid reference format: {0:?}: repository name must be lowercase")]
    Uppercase(String),
    /// It would be taken for an image id.
    #[error("invalid repository name {0:?}: 64 hexadecimal digits are an image id")]
    LooksLikeId(String),
    /// Too long.
    #[error("repository name {0:?} must not be more than 255 characters")]
    TooLong(String),
    /// The part after `@`.
    #[error("invalid reference {reference:?}")]
    Digest {
        /// What was given.
        reference: String,
        /// Why.
        #[source]
        source: crate::DigestError,
    },
}

impl Reference {
    /// What the registry calls it: the digest if there is one, else the tag.
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The short form that people type: without the default registry and `library/`, where it is understood as the same.
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        if split_registry(&self.repository).0.is_some() {
            return text;
        }
        let short = text.strip_prefix("docker.io/").unwrap_or(&text);
        match short.strip_prefix("library/") {
            Some(official) if !official.contains('/') && self.registry == DEFAULT_REGISTRY => official.to_owned(),
            _ => short.to_owned(),
        }
    }

    /// The same repository at `digest`, without a tag.
    pub fn at(&self, digest: &Digest) -> Reference {
        Reference { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = || ReferenceError::Format(text.to_owned());
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let parsed = digest.parse();
                let wrong = |source| ReferenceError::Digest { reference: text.to_owned(), source };
                (rest, Some(parsed.map_err(wrong)?))
            }
        };
        // A colon after the last slash begins the tag; before it, it is a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad());
        }
        let (registry, path) = split_registry(name);
        if registry.is_some_and(|registry| !is_registry(registry)) {
            return Err(bad());
        }
        let registry = match registry {
            None | Some("index.docker.io") => DEFAULT_REGISTRY,
            Some(other) => other,
        };
        if !path.split('/').all(is_path_component) {
            let lower = path.to_lowercase();
            let only_case = lower != path && lower.split('/').all(is_path_component);
            return Err(if only_case { ReferenceError::Uppercase(text.to_owned()) } else { bad() });
        }
        let official = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if official { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > 255 {
            return Err(ReferenceError::TooLong(name.to_owned()));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// The first component is a registry if it cannot be a part of a Docker Hub name.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first => {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') || address.is_empty() {
                return false;
            }
            (None, port.strip_prefix(':').or((!port.is_empty()).then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| !port.is_empty() && port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(alphanumeric).filter(|separator| !separator.is_empty());
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check_parse(text: &str, expected: Expect) {
        let shown = match text.parse::<Reference>() {
            Ok(reference) => {
                assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference), "printing is lossless");
                assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference), "so is the short form");
                format!("{reference} ({})", reference.familiar())
            }
            Err(error) => base::chain(&error),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn names_are_normalised() {
        check_parse("nginx", expect!["docker.io/library/nginx:latest (nginx:latest)"]);
        check_parse("nginx:1.27", expect!["docker.io/library/nginx:1.27 (nginx:1.27)"]);
        check_parse("index.docker.io/nginx", expect!["docker.io/library/nginx:latest (nginx:latest)"]);
        check_parse("grafana/grafana", expect!["docker.io/grafana/grafana:latest (grafana/grafana:latest)"]);
        check_parse("quay.io/a/b/c:v1", expect!["quay.io/a/b/c:v1 (quay.io/a/b/c:v1)"]);
        check_parse("localhost/x", expect!["localhost/x:latest (localhost/x:latest)"]);
        check_parse("localhost:5000/x:t", expect!["localhost:5000/x:t (localhost:5000/x:t)"]);
        check_parse("[::1]:5000/x", expect!["[::1]:5000/x:latest ([::1]:5000/x:latest)"]);
        check_parse("docker.io/a.b/x", expect!["docker.io/a.b/x:latest (docker.io/a.b/x:latest)"]);
        check_parse("docker.io/library/a/b", expect!["docker.io/library/a/b:latest (library/a/b:latest)"]);
    }

    #[test]
    fn digests_win_over_latest() {
        let digest = Digest::of(b"");
        let reference: Reference = format!("nginx@{digest}").parse().unwrap();
        assert_eq!((reference.tag.as_deref(), reference.identifier()), (None, digest.to_string()));
        let reference: Reference = format!("nginx:1@{digest}").parse().unwrap();
        assert_eq!((reference.tag.as_deref(), reference.identifier()), (Some("1"), digest.to_string()));
    }

    #[test]
    fn bad_names_say_why() {
        check_parse("", expect![[r#"invalid reference format: """#]]);
        check_parse("Nginx", expect![[r#"invalid reference format: "Nginx": repository name must be lowercase"#]]);
        check_parse("a//b", expect![[r#"invalid reference format: "a//b""#]]);
        check_parse("a/../b", expect![[r#"invalid reference format: "a/../b""#]]);
        check_parse("nginx:", expect![[r#"invalid reference format: "nginx:""#]]);
        check_parse("nginx:-x", expect![[r#"invalid reference format: "nginx:-x""#]]);
        check_parse("a b", expect![[r#"invalid reference format: "a b""#]]);
        check_parse("a.b:99999/x", expect![[r#"invalid reference format: "a.b:99999/x""#]]);
        check_parse("https://a.b/x", expect![[r#"invalid reference format: "https://a.b/x""#]]);
        check_parse("a___b", expect![[r#"invalid reference format: "a___b""#]]);
        check_parse(
            "nginx@sha256:abc",
            expect![[
                r#"invalid reference "nginx@sha256:abc": invalid digest "sha256:abc": expected sha256: and 64 lower-case hex digits"#
            ]],
        );
        check_parse(
            &"a".repeat(64),
            expect![[
                r#"invalid repository name "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": 64 hexadecimal digits are an image id"#
            ]],
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,40}|[a-z0-9.:/@_-]{0,30}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
