//! What is wrong with a cron schedule, in the words of the library that upstream uses (`robfig/cron` v3,
//! `ParseStandard`).

/// What is wrong with `schedule`, if anything. A leading `TZ=` or `CRON_TZ=` is accepted here.
pub fn cron_error(schedule: &str) -> Option<String> {
    check(schedule).err()
}

fn check(schedule: &str) -> Result<(), String> {
    let mut text = schedule;
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        text = text.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if text.starts_with('@') {
        return check_descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(i64, i64, &[&str], i64); 5] =
        [(0, 59, &[], 0), (0, 23, &[], 0), (1, 31, &[], 0), (1, 12, MONTHS, 1), (0, 6, DAYS, 0)];
    for (field, (min, max, names, first)) in fields.iter().zip(bounds) {
        for range in field.split(',').filter(|r| !r.is_empty()) {
            check_range(range, min, max, |text| {
                let lower = text.to_lowercase();
                names.iter().position(|n| *n == lower).and_then(|i| i64::try_from(i).ok()).map(|i| i + first)
            })?;
        }
    }
    Ok(())
}

fn check_descriptor(text: &str) -> Result<(), String> {
    const KNOWN: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if KNOWN.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) if is_go_duration(duration) => Ok(()),
        Some(duration) => Err(format!("failed to parse duration {text}: time: invalid duration {duration:?}")),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        if digits == 0 {
            return false;
        }
        rest = &rest[digits..];
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        // The longest unit first: `ms` before `m`.
        let Some(unit) = units.iter().filter(|u| rest.starts_with(**u)).max_by_key(|u| u.len()) else { return false };
        rest = &rest[unit.len()..];
    }
    true
}

fn check_range(text: &str, min: i64, max: i64, named: impl Fn(&str) -> Option<i64>) -> Result<(), String> {
    let number = |part: &str| named(part).map_or_else(|| parse(part), Ok);
    let (range, step) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some((range, step)) => (range, Some(step)),
        None => (text, None),
    };
    let (low, mut high) = match range.split_once('-') {
        _ if range == "*" || range == "?" => (min, max),
        Some((_, high)) if high.contains('-') => return Err(format!("too many hyphens: {text}")),
        Some((low, high)) => (number(low)?, number(high)?),
        None => {
            let one = number(range)?;
            (one, one)
        }
    };
    if let Some(step) = step {
        // `N/step` means from N to the end.
        if !range.contains('-') {
            high = max;
        }
        if parse(step)? == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
    }
    if low < min {
        return Err(format!("beginning of range ({low}) below minimum ({min}): {text}"));
    }
    if high > max {
        return Err(format!("end of range ({high}) above maximum ({max}): {text}"));
    }
    if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
    }
    Ok(())
}

fn parse(text: &str) -> Result<i64, String> {
    let number: i64 = text
        .parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    if number < 0 { Err(format!("negative number ({number}) not allowed: {text}")) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn schedules() {
        let inputs = [
            "*/5 * * * *",
            "0 0 1 jan mon",
            "@hourly",
            "@every 1h30m",
            "",
            "* * *",
            "60 * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "@often",
            "@every soon",
            "1-2-3 * * * *",
            "0 0 0 * *",
        ];
        let lines: Vec<String> =
            inputs.iter().map(|i| format!("{i:?}: {}", cron_error(i).unwrap_or_default())).collect();
        expect![[r#"
            "*/5 * * * *": 
            "0 0 1 jan mon": 
            "@hourly": 
            "@every 1h30m": 
            "": empty spec string
            "* * *": expected exactly 5 fields, found 3: [* * *]
            "60 * * * *": end of range (60) above maximum (59): 60
            "5-1 * * * *": beginning of range (5) beyond end of range (1): 5-1
            "*/0 * * * *": step of range should be a positive number: */0
            "x * * * *": failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax
            "@often": unrecognized descriptor: @often
            "@every soon": failed to parse duration @every soon: time: invalid duration "soon"
            "1-2-3 * * * *": too many hyphens: 1-2-3
            "0 0 0 * *": beginning of range (0) below minimum (1): 0"#]]
        .assert_eq(&lines.join("\n"));
    }
}
