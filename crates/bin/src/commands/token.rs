//! `dhow token …`: tokens by which machines join, made by the running server.

use super::{CommandError, require_root, say};
use crate::cli::{Token, TokenCommand};
use crate::control::{self, Request};
use crate::process::Instance;
use crate::tokens::{TTL_MAX, TokenRequest};
use serde_json::Value;

/// Does the command and prints what came out.
pub(crate) fn run(token: Token) -> Result<(), CommandError> {
    require_root()?;
    let config = token.settings.resolve()?;
    let (request, show): (TokenRequest, fn(&Value)) = match token.command {
        TokenCommand::Create { ttl, description } => (TokenRequest::Create(seconds(&ttl)?, description), created),
        TokenCommand::List => (TokenRequest::List, list),
        TokenCommand::Delete { id } => {
            // Whoever pastes the whole token means its id.
            let id = id.split('.').next().unwrap_or_default().to_owned();
            (TokenRequest::Delete(id), |v| say(format_args!("Deleted {}.", text(v, "deleted"))))
        }
    };
    if Instance::find(&config.run_dir).is_none() {
        return Err("dhow does not run; tokens are made where the server runs".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let value = runtime.block_on(control::ask(&config.run_dir, &Request::Token(request), |_| {}))?;
    show(&value);
    Ok(())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn created(value: &Value) {
    say(format_args!(
        "dhow agent --server {} --token {} --ca-hash {}",
        text(value, "server"),
        text(value, "token"),
        text(value, "caHash")
    ));
}

fn list(value: &Value) {
    say(format_args!("{:<8} {:<22} {}", "ID", "EXPIRES", "DESCRIPTION"));
    for token in value.as_array().into_iter().flatten() {
        let expires = Some(text(token, "expires")).filter(|e| !e.is_empty()).unwrap_or("never");
        say(format_args!("{:<8} {expires:<22} {}", text(token, "id"), text(token, "description")));
    }
}

/// `90s`, `30m`, `24h`, `7d`; 0 is for ever.
fn seconds(ttl: &str) -> Result<Option<u64>, CommandError> {
    let wrong = || format!("ttl {ttl:?} is not a time like 30m, 24h or 7d (0: for ever)");
    let digits = ttl.trim_end_matches(['s', 'm', 'h', 'd']);
    let unit = match &ttl[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "" if digits == "0" => return Ok(None),
        _ => return Err(wrong().into()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit).filter(|s| *s <= TTL_MAX) {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(seconds)),
        None => Err(wrong().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live() {
        for (ttl, expected) in
            [("24h", Some(86400)), ("30m", Some(1800)), ("7d", Some(604_800)), ("0", None), ("0h", None)]
        {
            assert_eq!(seconds(ttl).expect(ttl), expected, "{ttl}");
        }
        for bad in ["", "h", "24", "1w", "-1h", "1hh", "99999999999999999999h", "999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
