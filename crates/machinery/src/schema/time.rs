//! Times and durations as Go reads them, with Go's messages (`time/format.go`, `Parse`; `apis/meta/v1/time.go`).
//!
//! Differs from Go: only the two layouts of the Kubernetes API; the value after `cannot parse` is what remains of the
//! text at the element that failed, as there.

/// RFC 3339 with seconds: `metav1.Time`.
pub(crate) const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
/// RFC 3339 with six digits: `metav1.MicroTime`.
pub(crate) const MICROSECONDS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Seconds and nanoseconds since 1970, or Go's message.
pub(crate) fn parse(text: &str, layout: &str) -> Result<(i64, i32), String> {
    let mut cursor = Cursor { text, rest: text, layout };
    let year = cursor.digits(4, "2006")?;
    cursor.literal("-")?;
    let month = cursor.digits(2, "01")?;
    cursor.range(month, 1, 12, "month")?;
    cursor.literal("-")?;
    let day = cursor.digits(2, "02")?;
    cursor.literal("T")?;
    let hour = cursor.digits(2, "15")?;
    cursor.range(hour, 0, 23, "hour")?;
    cursor.literal(":")?;
    let minute = cursor.digits(2, "04")?;
    cursor.range(minute, 0, 59, "minute")?;
    cursor.literal(":")?;
    let second = cursor.digits(2, "05")?;
    cursor.range(second, 0, 59, "second")?;
    let nanos = cursor.fraction(layout == MICROSECONDS)?;
    let offset = cursor.zone()?;
    if !cursor.rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {:?}", cursor.rest));
    }
    if day < 1 || day > days_in(year, month) {
        return Err(format!("parsing time {text:?}: day out of range"));
    }
    let days = days_from_civil(year, month, day);
    Ok((days * 86400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// RFC 3339 in UTC, with six digits of a second or none.
pub(crate) fn format(seconds: i64, nanos: i32, micros: bool) -> String {
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let (year, month, day) = civil_from_days(days);
    let fraction = if micros { format!(".{:06}", nanos / 1000) } else { String::new() };
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Whether Go's `time.ParseDuration` takes it.
pub(crate) fn is_go_duration(text: &str) -> bool {
    parse_go_duration(text).is_some()
}

/// Nanoseconds of a Go duration text such as `1h2m3.5s`.
pub fn parse_go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, scale)?)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
        return None;
    }
    let mut value = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()?.checked_mul(scale)? };
    let mut unit = scale;
    for digit in fraction.bytes() {
        unit /= 10;
        value += i128::from(digit - b'0') * unit;
    }
    Some(value)
}

/// Go's `Duration.String`.
pub(crate) fn format_go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |n: u64, unit: u64, digits: usize| {
        let text = format!("{}.{:0digits$}", n / unit, n % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(n, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000, 6)),
        _ => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = fraction(n % 60_000_000_000, 1_000_000_000, 9);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'a str,
}

impl Cursor<'_> {
    fn fail<T>(&self, element: &str) -> Result<T, String> {
        Err(format!("parsing time {:?} as {:?}: cannot parse {:?} as {element:?}", self.text, self.layout, self.rest))
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<i64, String> {
        match self.rest.get(..count) {
            Some(d) if d.bytes().all(|b| b.is_ascii_digit()) => {
                self.rest = &self.rest[count..];
                Ok(d.parse().unwrap_or_default())
            }
            _ => self.fail(element),
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        match self.rest.strip_prefix(literal) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.fail(literal),
        }
    }

    fn range(&self, value: i64, low: i64, high: i64, what: &str) -> Result<(), String> {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(format!("parsing time {:?}: {what} out of range", self.text))
    }

    /// A fraction may follow the seconds in either layout; the second layout wants six digits.
    fn fraction(&mut self, exact: bool) -> Result<i32, String> {
        let Some(rest) = self.rest.strip_prefix('.') else {
            return if exact { self.fail(".000000") } else { Ok(0) };
        };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if end == 0 || (exact && end < 6) {
            return if exact { self.fail(".000000") } else { self.fail("Z07:00") };
        }
        let digits = if exact { 6 } else { end };
        let mut nanos = 0;
        for i in 0..9 {
            nanos = nanos * 10 + rest.as_bytes().get(i).filter(|_| i < digits).map_or(0, |b| i32::from(b - b'0'));
        }
        self.rest = &rest[digits..];
        Ok(nanos)
    }

    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let b = self.rest.as_bytes();
        let shaped = b.len() >= 6 && (b[0] == b'+' || b[0] == b'-') && b[3] == b':';
        let two = |i: usize| match (b.get(i), b.get(i + 1)) {
            (Some(x @ b'0'..=b'9'), Some(y @ b'0'..=b'9')) => Some(i64::from(x - b'0') * 10 + i64::from(y - b'0')),
            _ => None,
        };
        match (shaped, two(1), two(4)) {
            (true, Some(h), Some(m)) if h <= 24 && m < 60 => {
                let offset = h * 3600 + m * 60;
                let offset = if b[0] == b'-' { -offset } else { offset };
                self.rest = &self.rest[6..];
                Ok(offset)
            }
            _ => self.fail("Z07:00"),
        }
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar; years begin in March here, so leap days are last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2004-02-29T23:59:59Z", 1_078_099_199),
            ("1966-01-02T00:00:00Z", -126_144_000),
        ] {
            assert_eq!(parse(text, SECONDS), Ok((seconds, 0)), "{text}");
            assert_eq!(format(seconds, 0, false), text);
        }
        assert_eq!(parse("1970-01-01T01:00:00.5+01:00", SECONDS), Ok((0, 500_000_000)));
        assert_eq!(parse("1970-01-01T00:00:00.000007Z", MICROSECONDS), Ok((0, 7_000)));
        assert_eq!(format(0, 7_000, true), "1970-01-01T00:00:00.000007Z");
    }

    #[test]
    fn errors_are_in_gos_words() {
        let fail = |text| parse(text, SECONDS).expect_err("not a time");
        assert_eq!(fail("x"), r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#);
        assert_eq!(
            fail("2020-01-01"),
            r#"parsing time "2020-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#
        );
        assert_eq!(fail("2021-02-29T00:00:00Z"), r#"parsing time "2021-02-29T00:00:00Z": day out of range"#);
    }

    #[test]
    fn durations_go_both_ways() {
        for (text, nanos) in
            [("0s", 0), ("1h0m0s", 3_600_000_000_000), ("1m1.5s", 61_500_000_000), ("-2ms", -2_000_000)]
        {
            assert_eq!(parse_go_duration(text), Some(nanos), "{text}");
            assert_eq!(format_go_duration(nanos), text);
        }
        for bad in ["", "5", "x", "1h2", "."] {
            assert_eq!(parse_go_duration(bad), None, "{bad}");
        }
    }
}
