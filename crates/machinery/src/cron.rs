//! Cron schedules: five fields, or `@daily` and such, or `@every 1h30m`, read as the library reads them that upstream uses
//! (`robfig/cron` v3, `ParseStandard`), with its errors.

use crate::field::quote;
use crate::schema::parse_go_duration;
use crate::time_zone;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    times: Times,
    /// Of a leading `TZ=` or `CRON_TZ=`.
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, PartialEq)]
enum Times {
    /// Points in time on a clock.
    Fields(Fields),
    /// The same distance again and again.
    Every(SignedDuration),
}

/// Bit sets of minutes, hours, …
#[derive(Debug, Clone, PartialEq)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Day and weekday are both restricted: either will do.
    either_day: bool,
}

/// What a field may hold.
struct Bounds {
    min: u32,
    max: u32,
    /// Names of the numbers from `min` on.
    names: &'static [&'static str],
}

/// How far ahead a next time is looked for.
const YEARS: i16 = 5;
const MINUTE: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOUR: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAY: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTH: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule. The error is the library's.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
            return Ok(Schedule { times: Times::parse(text)?, zone: None });
        };
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let zone = time_zone::find(name);
        let zone = zone.ok_or_else(|| format!("provided bad location {name}: unknown time zone {name}"))?;
        Ok(Schedule { times: Times::parse(rest.trim())?, zone: Some(zone) })
    }

    /// The first time after `after`, on the clock of `zone` if the schedule names none itself; `None` if there is none for years
    /// (31 February).
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let zone = self.zone.as_ref().unwrap_or(zone);
        match &self.times {
            Times::Every(distance) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*distance).ok()
            }
            Times::Fields(fields) => {
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

impl Times {
    fn parse(text: &str) -> Result<Self, String> {
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => match other.strip_prefix("@every ") {
                Some(duration) => return every(duration).map_err(|e| format!("failed to parse duration {text}: {e}")),
                None if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
                None => other,
            },
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        let (minute, _) = MINUTE.field(minute)?;
        let (hour, _) = HOUR.field(hour)?;
        let (day, any_day) = DAY.field(day)?;
        let (month, _) = MONTH.field(month)?;
        let (weekday, any_weekday) = WEEKDAY.field(weekday)?;
        let either_day = !any_day && !any_weekday;
        Ok(Times::Fields(Fields { minute, hour, day, month, weekday, either_day }))
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

impl Bounds {
    /// The set of a field, and whether there is a `*` in it.
    fn field(&self, text: &str) -> Result<(u64, bool), String> {
        let mut all = (0, false);
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (set, any) = self.range(part)?;
            all = (all.0 | set, all.1 | any);
        }
        Ok(all)
    }

    /// `first`, `first-last`, `*`, each maybe with `/step` (`getRange`).
    fn range(&self, text: &str) -> Result<(u64, bool), String> {
        let parts: Vec<&str> = text.split('/').collect();
        let ends: Vec<&str> = parts[0].split('-').collect();
        let mut any = matches!(ends[0], "*" | "?");
        let first = if any { self.min } else { self.number(ends[0])? };
        let mut last = match ends.as_slice() {
            _ if any => self.max,
            [_] => first,
            [_, last] => self.number(last)?,
            _ => return Err(format!("too many hyphens: {text}")),
        };
        let step = match parts.as_slice() {
            [_] => 1,
            [_, step] => {
                let step = number(step)?;
                // `N/step` means from N to the end.
                if ends.len() == 1 {
                    last = self.max;
                }
                any &= step <= 1;
                step
            }
            _ => return Err(format!("too many slashes: {text}")),
        };
        let Bounds { min, max, .. } = self;
        if first < *min {
            return Err(format!("beginning of range ({first}) below minimum ({min}): {text}"));
        }
        if last > *max {
            return Err(format!("end of range ({last}) above maximum ({max}): {text}"));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let values = (first..=last).filter(|value| (value - first).is_multiple_of(step));
        Ok((values.fold(0, |set, value| set | 1 << value), any))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().zip(self.min..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        named.map_or_else(|| number(text), |(_, number)| Ok(number))
    }
}

fn number(text: &str) -> Result<u32, String> {
    let failed = |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", quote(text));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(failed("invalid syntax"));
    }
    let value: i64 = text.parse().map_err(|_| failed("value out of range"))?;
    if value < 0 {
        return Err(format!("negative number ({value}) not allowed: {text}"));
    }
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Whole seconds, at least one (`cron.Every`).
fn every(text: &str) -> Result<Times, String> {
    let nanos = parse_go_duration(text).ok_or_else(|| why_no_duration(text))?;
    Ok(Times::Every(SignedDuration::from_secs((nanos / 1_000_000_000).max(1))))
}

/// What `time.ParseDuration` says.
fn why_no_duration(text: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    while rest.starts_with(is_number) {
        let after = rest.trim_start_matches(is_number);
        let (unit, next) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        match unit {
            "" => return format!("time: missing unit in duration {}", quote(text)),
            "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h" => rest = next,
            unit => return format!("time: unknown unit {} in duration {}", quote(unit), quote(text)),
        }
    }
    format!("time: invalid duration {}", quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// The next three times after a Thursday morning, or the error.
    fn check(schedules: &[&str], expected: Expect) {
        let line = |text: &&str| match Schedule::parse(text) {
            Err(why) => format!("{text}: {why}\n"),
            Ok(schedule) => {
                let start: Timestamp = "2026-01-01T10:07:30Z".parse().expect("a literal timestamp");
                let times = std::iter::successors(Some(start), |at| schedule.next(*at, &TimeZone::UTC));
                let times: Vec<String> = times.skip(1).take(3).map(|at| at.to_string()).collect();
                format!("{text} → {}\n", times.join(" "))
            }
        };
        expected.assert_eq(&schedules.iter().map(line).collect::<String>());
    }

    #[test]
    fn schedules_have_times() {
        check(
            &[
                "*/15 * * * *",
                "0 9-17/4 * * mon-fri",
                "30 6 13 * fri",
                "0 0 29 feb ?",
                "0 12 1,,15 */6 *",
                "5/20 0 * * *",
                "@monthly",
                "@every 1h30m",
                "@every 1.5s",
                "@every 10ms",
                "TZ=Europe/Berlin 0 9 * * *",
                "59 23 31 2 *",
            ],
            expect![[r#"
                */15 * * * * → 2026-01-01T10:15:00Z 2026-01-01T10:30:00Z 2026-01-01T10:45:00Z
                0 9-17/4 * * mon-fri → 2026-01-01T13:00:00Z 2026-01-01T17:00:00Z 2026-01-02T09:00:00Z
                30 6 13 * fri → 2026-01-02T06:30:00Z 2026-01-09T06:30:00Z 2026-01-13T06:30:00Z
                0 0 29 feb ? → 2028-02-29T00:00:00Z 2032-02-29T00:00:00Z 2036-02-29T00:00:00Z
                0 12 1,,15 */6 * → 2026-01-01T12:00:00Z 2026-01-15T12:00:00Z 2026-07-01T12:00:00Z
                5/20 0 * * * → 2026-01-02T00:05:00Z 2026-01-02T00:25:00Z 2026-01-02T00:45:00Z
                @monthly → 2026-02-01T00:00:00Z 2026-03-01T00:00:00Z 2026-04-01T00:00:00Z
                @every 1h30m → 2026-01-01T11:37:30Z 2026-01-01T13:07:30Z 2026-01-01T14:37:30Z
                @every 1.5s → 2026-01-01T10:07:31Z 2026-01-01T10:07:32Z 2026-01-01T10:07:33Z
                @every 10ms → 2026-01-01T10:07:31Z 2026-01-01T10:07:32Z 2026-01-01T10:07:33Z
                TZ=Europe/Berlin 0 9 * * * → 2026-01-02T08:00:00Z 2026-01-03T08:00:00Z 2026-01-04T08:00:00Z
                59 23 31 2 * → 
            "#]],
        );
    }

    #[test]
    fn mistakes_are_told_as_upstream_tells_them() {
        check(
            &[
                "",
                "* * *",
                "60 * * * *",
                "5-1 * * * *",
                "*/0 * * * *",
                "x * * * *",
                "+ * * * *",
                "-1 * * * *",
                "99999999999999999999 * * * *",
                "1-2-3 * * * *",
                "a-2-3 * * * *",
                "1/2/3 * * * *",
                "0 0 0 * *",
                "@often",
                "@every soon",
                "@every 5",
                "@every 1h5d",
                "TZ=Mars/Base 0 0 * * *",
            ],
            expect![[r#"
                : empty spec string
                * * *: expected exactly 5 fields, found 3: [* * *]
                60 * * * *: end of range (60) above maximum (59): 60
                5-1 * * * *: beginning of range (5) beyond end of range (1): 5-1
                */0 * * * *: step of range should be a positive number: */0
                x * * * *: failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax
                + * * * *: failed to parse int from +: strconv.Atoi: parsing "+": invalid syntax
                -1 * * * *: failed to parse int from : strconv.Atoi: parsing "": invalid syntax
                99999999999999999999 * * * *: failed to parse int from 99999999999999999999: strconv.Atoi: parsing "99999999999999999999": value out of range
                1-2-3 * * * *: too many hyphens: 1-2-3
                a-2-3 * * * *: failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax
                1/2/3 * * * *: too many slashes: 1/2/3
                0 0 0 * *: beginning of range (0) below minimum (1): 0
                @often: unrecognized descriptor: @often
                @every soon: failed to parse duration @every soon: time: invalid duration "soon"
                @every 5: failed to parse duration @every 5: time: missing unit in duration "5"
                @every 1h5d: failed to parse duration @every 1h5d: time: unknown unit "d" in duration "1h5d"
                TZ=Mars/Base 0 0 * * *: provided bad location Mars/Base: unknown time zone Mars/Base
            "#]],
        );
    }
}
