//! Timestamps and durations: `timestamp()`, `duration()` and their parts (`cel-go/common/types/{timestamp,duration}.go`).

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
pub(crate) use crate::schema::time::parse_go_duration as parse_duration;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

pub(super) const OVERLOADS: &[Def] = &[
    def("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", |a| Ok(a[0].clone())),
    def("timestamp", "int64_to_timestamp", "(int) -> timestamp", to_timestamp),
    def("timestamp", "string_to_timestamp", "(string) -> timestamp", to_timestamp),
    def("duration", "duration_to_duration", "(duration) -> duration", |a| Ok(a[0].clone())),
    def("duration", "int64_to_duration", "(int) -> duration", to_duration),
    def("duration", "string_to_duration", "(string) -> duration", to_duration),
    def("getFullYear", "timestamp_to_year", "timestamp.() -> int", |a| part(a, |t| i64::from(t.year()))),
    def("getFullYear", "timestamp_to_year_with_tz", "timestamp.(string) -> int", |a| part(a, |t| i64::from(t.year()))),
    def("getMonth", "timestamp_to_month", "timestamp.() -> int", |a| part(a, |t| i64::from(t.month()) - 1)),
    def("getMonth", "timestamp_to_month_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.month()) - 1)
    }),
    def("getDayOfYear", "timestamp_to_day_of_year", "timestamp.() -> int", |a| {
        part(a, |t| i64::from(t.day_of_year()) - 1)
    }),
    def("getDayOfYear", "timestamp_to_day_of_year_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.day_of_year()) - 1)
    }),
    def("getDayOfMonth", "timestamp_to_day_of_month", "timestamp.() -> int", |a| part(a, |t| i64::from(t.day()) - 1)),
    def("getDayOfMonth", "timestamp_to_day_of_month_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.day()) - 1)
    }),
    def("getDate", "timestamp_to_day_of_month_1_based", "timestamp.() -> int", |a| part(a, |t| i64::from(t.day()))),
    def("getDate", "timestamp_to_day_of_month_1_based_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.day()))
    }),
    def("getDayOfWeek", "timestamp_to_day_of_week", "timestamp.() -> int", |a| part(a, day_of_week)),
    def("getDayOfWeek", "timestamp_to_day_of_week_with_tz", "timestamp.(string) -> int", |a| part(a, day_of_week)),
    def("getHours", "timestamp_to_hours", "timestamp.() -> int", |a| part(a, |t| i64::from(t.hour()))),
    def("getHours", "timestamp_to_hours_with_tz", "timestamp.(string) -> int", |a| part(a, |t| i64::from(t.hour()))),
    def("getHours", "duration_to_hours", "duration.() -> int", |a| span(a, 3_600_000_000_000)),
    def("getMinutes", "timestamp_to_minutes", "timestamp.() -> int", |a| part(a, |t| i64::from(t.minute()))),
    def("getMinutes", "timestamp_to_minutes_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.minute()))
    }),
    def("getMinutes", "duration_to_minutes", "duration.() -> int", |a| span(a, 60_000_000_000)),
    def("getSeconds", "timestamp_to_seconds", "timestamp.() -> int", |a| part(a, |t| i64::from(t.second()))),
    def("getSeconds", "timestamp_to_seconds_tz", "timestamp.(string) -> int", |a| part(a, |t| i64::from(t.second()))),
    def("getSeconds", "duration_to_seconds", "duration.() -> int", |a| span(a, 1_000_000_000)),
    def("getMilliseconds", "timestamp_to_milliseconds", "timestamp.() -> int", |a| {
        part(a, |t| i64::from(t.millisecond()))
    }),
    def("getMilliseconds", "timestamp_to_milliseconds_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.millisecond()))
    }),
    def("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", |a| span(a, 1_000_000)),
];

/// CEL's years are 1 to 9999.
pub(super) fn in_range(time: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&time.as_second())
}

fn to_timestamp(args: &[Value]) -> Answer {
    let time = match &args[0] {
        Value::Int(seconds) => Timestamp::from_second(*seconds).ok().filter(in_range),
        Value::String(text) => return timestamp_of(text).map(Value::Timestamp),
        _ => return Err(EvalError::no_overload()),
    };
    time.map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn timestamp_of(text: &str) -> Result<Timestamp, EvalError> {
    // RFC 3339 only; jiff takes more.
    let well_formed = text.len() >= 20 && text.as_bytes()[10] == b'T';
    let time: Option<Timestamp> = text.parse().ok().filter(|_| well_formed);
    time.filter(in_range).ok_or_else(|| {
        EvalError::new(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05.999999999Z07:00\": cannot parse {text:?} as \"2006\""
        ))
    })
}

fn to_duration(args: &[Value]) -> Answer {
    match &args[0] {
        Value::Int(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => match parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => Err(EvalError::new(format!("time: invalid duration {text:?}"))),
        },
        _ => Err(EvalError::no_overload()),
    }
}

/// What is wrong with a text literal of `timestamp()` or `duration()`, found when the expression is compiled.
pub(crate) fn literal_problem(function: &str, text: &str) -> Option<String> {
    let failed = match function {
        "timestamp" => timestamp_of(text).is_err(),
        "duration" => parse_duration(text).is_none(),
        _ => false,
    };
    failed.then(|| format!("invalid {function} argument"))
}

/// As CEL shows a duration: seconds, with a fraction if there is one.
pub(crate) fn show_duration(nanos: i64) -> String {
    let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let mut out = String::new();
    if nanos < 0 {
        out.push('-');
    }
    out.push_str(&seconds.to_string());
    if rest > 0 {
        let fraction = format!("{rest:09}");
        out.push('.');
        out.push_str(fraction.trim_end_matches('0'));
    }
    out.push('s');
    out
}

fn day_of_week(time: &Zoned) -> i64 {
    i64::from(time.weekday().to_sunday_zero_offset())
}

fn part(args: &[Value], read: fn(&Zoned) -> i64) -> Answer {
    let (time, zone) = match args {
        [Value::Timestamp(time)] => (time, TimeZone::UTC),
        [Value::Timestamp(time), Value::String(zone)] => (time, zone_of(zone)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(read(&time.to_zoned(zone))))
}

/// `UTC`, `Europe/Berlin`, `-08:00`.
fn zone_of(text: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {text}"));
    if let Some((hours, minutes)) = text.split_once(':') {
        let (hours, minutes): (i32, i32) = match (hours.parse(), minutes.parse()) {
            (Ok(hours), Ok(minutes)) => (hours, minutes),
            _ => return Err(unknown()),
        };
        let seconds = hours * 3600 + if text.starts_with('-') { -minutes * 60 } else { minutes * 60 };
        return Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown());
    }
    match text {
        "UTC" | "" => Ok(TimeZone::UTC),
        name => TimeZone::get(name).map_err(|_| unknown()),
    }
}

fn span(args: &[Value], unit: i64) -> Answer {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => Err(EvalError::no_overload()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(parse_duration("1h1m1.5s"), Some(3_661_500_000_000));
        assert_eq!(parse_duration("-100ms"), Some(-100_000_000));
        assert_eq!(parse_duration("1"), None);
        assert_eq!(parse_duration("1d"), None);
        assert_eq!(show_duration(3_661_500_000_000), "3661.5s");
        assert_eq!(show_duration(-1), "-0.000000001s");
    }
}
