//! PodLogOptions as the query says them (`pkg/apis/core/v1/conversion.go`, `ValidatePodLogOptions`).

use super::select::Streams;
use jiff::{SignedDuration, Timestamp};
use streaming::Refusal;

/// Which lines, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct LogOptions {
    pub(in crate::server) follow: bool,
    pub(in crate::server) previous: bool,
    pub(super) timestamps: bool,
    /// Only lines of this time and later.
    pub(super) since: Option<Timestamp>,
    /// Only so many lines from the end.
    pub(super) tail: Option<u64>,
    /// Only so many bytes.
    pub(super) limit: Option<u64>,
    pub(super) streams: Streams,
}

impl LogOptions {
    pub(in crate::server) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, Refusal> {
        let invalid = || Refusal::new(422, r#"{"message": "Invalid request."}"#);
        let malformed = || Refusal::new(400, r#"{"message": "Unable to decode query."}"#);
        let get = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty());
        let flag = |name: &str| match get(name) {
            None => Ok(query.iter().any(|(n, _)| n == name)),
            // As Go reads booleans in queries (`Convert_Slice_string_To_bool`).
            Some(value) => Ok(!matches!(value, "0") && !value.eq_ignore_ascii_case("false")),
        };
        let number = |name: &str| get(name).map(|v| v.parse::<i64>().map_err(|_| malformed())).transpose();
        let at_least = |value: Option<i64>, least: i64| match value {
            Some(n) if n < least => Err(invalid()),
            other => Ok(other.and_then(|n| u64::try_from(n).ok())),
        };
        let tail = match get("tail") {
            Some("all") => None,
            Some(_) => number("tail")?,
            None => number("tailLines")?,
        };
        let since = match (number("sinceSeconds")?, get("sinceTime")) {
            (Some(_), Some(_)) => return Err(invalid()),
            (Some(seconds), None) if seconds < 1 => return Err(invalid()),
            (Some(seconds), None) => {
                Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, Some(time)) => Some(time.parse::<Timestamp>().map_err(|_| malformed())?),
            (None, None) => None,
        };
        let streams = match get("stream") {
            None | Some("All") => Streams::All,
            Some("Stdout") => Streams::Stdout,
            Some("Stderr") => Streams::Stderr,
            Some(_) => return Err(invalid()),
        };
        if streams != Streams::All && tail.is_some() {
            // Upstream refuses it: the tail is counted before lines are chosen.
            return Err(invalid());
        }
        Ok(LogOptions {
            follow: flag("follow")?,
            previous: flag("previous")?,
            timestamps: flag("timestamps")?,
            since,
            tail: at_least(tail, 0)?,
            limit: at_least(number("limitBytes")?, 1)?,
            streams,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<LogOptions, u16> {
        let query: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        LogOptions::parse(&query, "2026-01-02T03:04:05Z".parse().expect("time")).map_err(|s| s.code)
    }

    #[test]
    fn options_of_kubectl() {
        let options = parse("follow=true&tailLines=5&timestamps=true&sinceSeconds=65&limitBytes=9").expect("valid");
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail, options.limit), (Some(5), Some(9)));
        assert_eq!(options.since.map(|t| t.to_string()).as_deref(), Some("2026-01-02T03:03:00Z"));
    }

    #[test]
    fn what_is_refused() {
        for (query, code) in [
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z", 422),
            ("stream=Both", 422),
            ("stream=Stdout&tailLines=3", 422),
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
        ] {
            assert_eq!(parse(query), Err(code), "{query}");
        }
        assert_eq!(parse("tail=all").map(|o| o.tail), Ok(None));
    }
}
