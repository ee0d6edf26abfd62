//! Cron schedules: five fields, or `@daily` and such, or `@every 1h30m` (as `github.com/robfig/cron/v3` ParseStandard). Pure.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Points in time on the clock of a time zone.
    Fields(Fields),
    /// The same distance again and again.
    Every(SignedDuration),
}

/// Bit sets of minutes, hours, …
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Day and weekday are both restricted: either will do.
    either_day: bool,
}

/// How far ahead a next time is looked for.
const YEARS: i16 = 5;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Fails with a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fields = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => match other.strip_prefix("@every ") {
                Some(duration) => return every(duration).map(Schedule::Every),
                None => other,
            },
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {parts:?}", parts.len()));
        };
        let (day, any_day) = field(day, 1, 31, &[])?;
        let (weekday, any_weekday) = field(weekday, 0, 6, &WEEKDAYS)?;
        Ok(Schedule::Fields(Fields {
            minute: field(minute, 0, 59, &[])?.0,
            hour: field(hour, 0, 23, &[])?.0,
            day,
            month: field(month, 1, 12, &MONTHS)?.0,
            weekday,
            either_day: !any_day && !any_weekday,
        }))
    }

    /// The first time after `after`; `None` if there is none for years (31 February).
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(distance) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*distance).ok()
            }
            Schedule::Fields(fields) => {
                let mut from = zone.to_datetime(after);
                // Where the clock is put back a time of day comes twice; go on until it is later.
                for _ in 0..4 {
                    from = fields.next(from)?;
                    let found = zone.to_timestamp(from).ok()?;
                    if found > after {
                        return Some(found);
                    }
                }
                None
            }
        }
    }
}

impl Fields {
    fn next(&self, after: DateTime) -> Option<DateTime> {
        let has = |set: u64, value: i8| u32::try_from(value).is_ok_and(|v| set & (1 << v) != 0);
        let minute = Time::new(after.hour(), after.minute(), 0, 0).ok()?;
        let mut at = after.date().to_datetime(minute).checked_add(1.minute()).ok()?;
        let end = at.year().checked_add(YEARS)?;
        while at.year() <= end {
            let date = at.date();
            if !has(self.month, at.month()) {
                at = date.first_of_month().checked_add(1.month()).ok()?.to_datetime(Time::midnight());
            } else if !self.has_day(has(self.day, at.day()), has(self.weekday, date.weekday().to_sunday_zero_offset()))
            {
                at = date.tomorrow().ok()?.to_datetime(Time::midnight());
            } else if !has(self.hour, at.hour()) {
                let hour = date.to_datetime(Time::new(at.hour(), 0, 0, 0).ok()?);
                at = hour.checked_add(1.hour()).ok()?;
            } else if !has(self.minute, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                return Some(at);
            }
        }
        None
    }

    fn has_day(&self, day: bool, weekday: bool) -> bool {
        if self.either_day { day || weekday } else { day && weekday }
    }
}

/// A field's set, and whether it is `*`.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let mut set = 0;
    let mut any = false;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().map_err(|_| bad(part))?)),
            None => (part, None),
        };
        let value = |word: &str| {
            let named = names.iter().position(|n| *n == word.to_lowercase()).and_then(|i| u32::try_from(i).ok());
            named.map(|i| i + min).or_else(|| word.parse().ok()).ok_or_else(|| bad(word))
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => {
                any |= step.is_none_or(|s| s <= 1);
                (min, max)
            }
            Some((first, last)) => (value(first)?, value(last)?),
            None if step.is_some() => (value(range)?, max),
            None => (value(range)?, value(range)?),
        };
        if first < min {
            return Err(format!("beginning of range ({first}) below minimum ({min}): {part}"));
        }
        if last > max {
            return Err(format!("end of range ({last}) above maximum ({max}): {part}"));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
        }
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        (first..=last).step_by(usize::try_from(step).unwrap_or(1)).for_each(|v| set |= 1 << v);
    }
    Ok((set, any))
}

fn bad(part: &str) -> String {
    format!("failed to parse int from {part}")
}

/// A Go duration of whole seconds and more: `1h30m10s`.
fn every(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("failed to parse duration @every {text}");
    let (mut seconds, mut number) = (0i64, String::new());
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let value: i64 = number.parse().map_err(|_| wrong())?;
        seconds = value.checked_mul(unit).and_then(|v| seconds.checked_add(v)).ok_or_else(wrong)?;
        number.clear();
    }
    if !number.is_empty() || seconds < 1 { Err(wrong()) } else { Ok(SignedDuration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// The next three times after a Thursday morning.
    fn check_next(schedule: &str, expected: Expect) {
        let text = match Schedule::parse(schedule) {
            Err(e) => e,
            Ok(s) => {
                let mut at: Timestamp = "2026-01-01T10:07:30Z".parse().expect("a literal timestamp");
                let mut out = Vec::new();
                while out.len() < 3
                    && let Some(next) = s.next(at, &TimeZone::UTC)
                {
                    out.push(next.to_string());
                    at = next;
                }
                out.join(" ")
            }
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn times() {
        check_next("*/15 * * * *", expect!["2026-01-01T10:15:00Z 2026-01-01T10:30:00Z 2026-01-01T10:45:00Z"]);
        check_next("0 9-17/4 * * mon-fri", expect!["2026-01-01T13:00:00Z 2026-01-01T17:00:00Z 2026-01-02T09:00:00Z"]);
        check_next("30 6 13 * fri", expect!["2026-01-02T06:30:00Z 2026-01-09T06:30:00Z 2026-01-13T06:30:00Z"]);
        check_next("0 0 29 feb ?", expect!["2028-02-29T00:00:00Z 2032-02-29T00:00:00Z 2036-02-29T00:00:00Z"]);
        check_next("@monthly", expect!["2026-02-01T00:00:00Z 2026-03-01T00:00:00Z 2026-04-01T00:00:00Z"]);
        check_next("@every 1h30m", expect!["2026-01-01T11:37:30Z 2026-01-01T13:07:30Z 2026-01-01T14:37:30Z"]);
        check_next("59 23 31 2 *", expect![""]);
    }

    #[test]
    fn mistakes() {
        check_next("* * * *", expect![[r#"expected exactly 5 fields, found 4: ["*", "*", "*", "*"]"#]]);
        check_next("60 * * * *", expect!["end of range (60) above maximum (59): 60"]);
        check_next("5-1 * * * *", expect!["beginning of range (5) beyond end of range (1): 5-1"]);
        check_next("*/0 * * * *", expect!["step of range should be a positive number: */0"]);
        check_next("a * * * *", expect!["failed to parse int from a"]);
        check_next("@every 5", expect!["failed to parse duration @every 5"]);
    }
}
