//! Bootstrap tokens: secrets of kube-system by which a new machine proves that it may join
//! (`k8s.io/cluster-bootstrap/{token/api,util/secrets}`).

use api::prelude::Secret;
use jiff::{SignedDuration, Timestamp};

/// The type of such secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The secret of the token `abcdef` is called `bootstrap-token-abcdef`.
pub const NAME_PREFIX: &str = "bootstrap-token-";
/// Who shows the token `abcdef` is the user `system:bootstrap:abcdef`.
pub const USER_PREFIX: &str = "system:bootstrap:";
/// Every such user is in this group, or one below.
pub const GROUP: &str = "system:bootstrappers";

/// When a token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Not by itself.
    Never,
    /// After this time.
    In(SignedDuration),
    /// It has, or nobody can say when.
    Over,
}

/// `ID.SECRET`, six and sixteen small letters and digits.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// A value of the secret, or the empty string.
pub fn value<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|d| d.get(key));
    bytes.and_then(|b| std::str::from_utf8(&b.0).ok()).unwrap_or_default()
}

/// `GetExpiration`
pub fn expiry(secret: &Secret, now: Timestamp) -> Expiry {
    match value(secret, "expiration") {
        "" => Expiry::Never,
        text => match text.parse::<Timestamp>() {
            Ok(at) if at > now => Expiry::In(at.duration_since(now)),
            _ => Expiry::Over,
        },
    }
}

/// The groups a token gives, sorted; `None` if one of them is not allowed (`GetGroups`).
pub fn groups(secret: &Secret) -> Option<Vec<String>> {
    let mut groups = vec![GROUP.to_owned()];
    let more = value(secret, "auth-extra-groups");
    for group in more.split(',').filter(|_| !more.is_empty()) {
        let name = group.strip_prefix("system:bootstrappers:")?;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-';
        let ends = name.bytes().last().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if name.len() > 256 || !ends || !name.bytes().all(allowed) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::ByteString;

    #[test]
    fn tokens_have_one_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for wrong in ["abcdef0123456789abcdef", "abcde.0123456789abcdef", "abcdeF.0123456789abcdef", "a.b.c"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn groups_are_below_one() {
        let with = |text: &str| {
            let data = Some([("auth-extra-groups".to_owned(), ByteString(text.into()))].into());
            groups(&Secret { data, ..Secret::default() })
        };
        let list = |l: &[&str]| Some(l.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>());
        assert_eq!(with(""), list(&[GROUP]));
        assert_eq!(with("system:bootstrappers:b:a"), list(&[GROUP, "system:bootstrappers:b:a"]));
        assert_eq!(with("system:masters"), None);
        assert_eq!(with("system:bootstrappers:a,"), None);
    }
}
