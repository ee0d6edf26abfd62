//! `/logs/?query=…`: logs of the node by the names of services or files (`NodeLogQuery`, `pkg/kubelet/kubelet_server_journal.go`).
//! [`resolve`] is pure.
//!
//! Differs: the journal is not read, so a service's log is what the log directory has of it; the kubelet is dhow; a file may be
//! named with a slash before it, as upstream's documentation has it.

use jiff::{Timestamp, civil::DateTime};
use machinery::field::{FieldError, Path, aggregate};
use streaming::answer::Refusal;

const TAIL_MAX: i64 = 100_000;
const SERVICE_BYTES_MAX: usize = 256;
const SERVICES_MAX: usize = 4;
const FORMATS: [&str; 7] = ["cat", "json", "short", "short-iso", "short-iso-precise", "short-precise", "short-unix"];
/// Options, by all their names; they mean something only to a journal.
const OPTIONS: [&str; 10] =
    ["boot", "grep", "output", "pattern", "since", "sinceTime", "tail", "tailLines", "until", "untilTime"];

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogWanted {
    /// The file or list that the path names.
    Path,
    /// This file.
    File(String),
    /// What there is of these services.
    Services(Vec<String>),
    /// Options that a log which is a file does not have; the answer.
    NoOptions(String),
}

/// The query of one request.
struct Query<'a>(&'a [(String, String)]);

impl Query<'_> {
    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The first value, if it says anything.
    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied().filter(|v| !v.is_empty())
    }

    /// The value of the first name that has one.
    fn either(&self, names: [&str; 2]) -> Option<&str> {
        names.into_iter().find_map(|n| self.get(n))
    }

    fn time(&self, name: &str, errors: &mut Vec<FieldError>) -> Option<Timestamp> {
        let value = self.get(name)?;
        let time = value.parse().ok();
        if time.is_none() {
            errors.push(FieldError::invalid(&Path::new(name), value, "invalid time format"));
        }
        time
    }

    fn number(&self, name: &str, value: Option<&str>, errors: &mut Vec<FieldError>) -> Option<i64> {
        let value = value?;
        let number = value.parse().ok();
        if number.is_none() {
            let detail = format!("strconv.Atoi: parsing {value:?}: invalid syntax");
            errors.push(FieldError::invalid(&Path::new(name), value, &detail));
        }
        number
    }
}

/// Understands a query; refuses one that makes no sense.
pub(super) fn resolve(query: &[(String, String)], path: &str) -> Result<LogWanted, Refusal> {
    let query = Query(query);
    let asked = query.all("query");
    let (files, names): (Vec<&str>, Vec<&str>) = asked.iter().partition(|q| q.contains(['/', '\\']));
    let services: Vec<&str> = names.into_iter().chain(query.all("unit")).filter(|s| !s.trim().is_empty()).collect();
    check(&query, &files, &services)?;
    if let [file] = files[..] {
        return Ok(LogWanted::File(file.replace('\\', "/").trim_start_matches('/').to_owned()));
    }
    let journal = matches!(path, "journal" | "journal/");
    if services.is_empty() && !journal {
        return Ok(LogWanted::Path);
    }
    if has_options(&query) {
        let shown = services.join(" ");
        return Ok(LogWanted::NoOptions(format!(
            "\noptions present and query resolved to log files for [{shown}]\ntry without specifying options\n"
        )));
    }
    Ok(LogWanted::Services(services.into_iter().map(str::to_owned).collect()))
}

fn has_options(query: &Query<'_>) -> bool {
    OPTIONS.iter().any(|name| query.get(name).is_some())
}

/// `newNodeLogQuery` and `validate`.
fn check(query: &Query<'_>, files: &[&str], services: &[&str]) -> Result<(), Refusal> {
    let mut errors = Vec::new();
    let invalid = |field: &str, value: &str, detail: &str| FieldError::invalid(&Path::new(field), value, detail);
    if !(query.all("query").is_empty() && query.all("unit").is_empty()) && files.is_empty() && services.is_empty() {
        errors.push(invalid("unit", query.get("query").unwrap_or_default(), "unit cannot be empty"));
    }
    let (since, until) = (query.time("sinceTime", &mut errors), query.time("untilTime", &mut errors));
    let boot = query.number("boot", query.get("boot"), &mut errors);
    let tail = query.number("tailLines", query.either(["tailLines", "tail"]), &mut errors);
    refuse(400, &errors)?;
    for service in services {
        if service.len() > SERVICE_BYTES_MAX {
            errors.push(invalid("query", service, &format!("length must be less than {SERVICE_BYTES_MAX}")));
        } else if !service.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:@".contains(&b)) {
            errors.push(invalid("query", service, "input contains unsupported characters"));
        }
    }
    if services.len() > SERVICES_MAX {
        errors.push(FieldError::too_many(&Path::new("query"), services.len(), SERVICES_MAX));
    }
    if !files.is_empty() && !services.is_empty() {
        let both = format!("[{}], [{}]", files.join(" "), services.join(" "));
        errors.push(invalid("query", &both, "cannot specify a file and service"));
    } else if files.len() > 1 {
        errors.push(invalid("query", &files.join(" "), "cannot specify more than one file"));
    } else if files.len() == 1 && has_options(query) {
        errors.push(invalid("query", files[0], "cannot specify file with options"));
    }
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        errors.push(invalid("untilTime", query.get("untilTime").unwrap_or_default(), "must be after `sinceTime`"));
    }
    if let Some(boot) = boot.filter(|b| *b > 0) {
        errors.push(FieldError::invalid(&Path::new("boot"), boot, "must be less than 1"));
    }
    if let Some(tail) = tail.filter(|t| !(0..=TAIL_MAX).contains(t)) {
        let detail = format!("must be between 0 and {TAIL_MAX}, inclusive");
        errors.push(FieldError::invalid(&Path::new("tailLines"), tail, &detail));
    }
    let relative = query.get("since").is_some() || query.get("until").is_some();
    for (name, time) in [("sinceTime", since), ("untilTime", until)] {
        if time.is_some() && relative {
            let detail = format!("`since or until` and `{name}` cannot be specified");
            errors.push(FieldError::forbidden(&Path::new(name), &detail));
        }
    }
    for name in ["since", "until"] {
        if let Some(date) = query.get(name).filter(|d| !is_date(d)) {
            let detail = "date must be a relative time of the form '(+|-)[0-9]+(s|m|h|d)' or a date in 'YYYY-MM-DD HH:MM:SS' form";
            errors.push(invalid(name, date, detail));
        }
    }
    if let Some(format) = query.get("output").filter(|f| !FORMATS.contains(f)) {
        errors.push(FieldError::not_supported(&Path::new("output"), format, &FORMATS));
    }
    refuse(406, &errors)
}

fn refuse(code: u16, errors: &[FieldError]) -> Result<(), Refusal> {
    if errors.is_empty() { Ok(()) } else { Err(Refusal::new(code, aggregate(errors) + "\n")) }
}

fn is_date(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).strip_suffix(['s', 'm', 'h', 'd']).unwrap_or_default();
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        || DateTime::strptime("%Y-%m-%d %H:%M:%S", text).is_ok()
}

/// Where a service's log may be, below the log directory (`heuristicsCopyFileLogs`).
pub(super) fn places(service: &str) -> [String; 3] {
    // The kubelet's part is ours.
    let name = if service == "kubelet" { "dhow" } else { service };
    [name.to_owned(), format!("{name}.log"), format!("{name}/{name}.log")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_query(query: &str, want: &str) {
        let query: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let got = match resolve(&query, "") {
            Ok(wanted) => format!("{wanted:?}"),
            Err(refusal) => format!("{}: {}", refusal.code, refusal.text.trim_end()),
        };
        assert_eq!(got, want, "{query:?}");
    }

    #[test]
    fn names_with_slashes_are_files_and_others_are_services() {
        check_query("", "Path");
        check_query("query=kubelet", r#"Services(["kubelet"])"#);
        check_query("query=a&unit=b", r#"Services(["a", "b"])"#);
        check_query("query=/dhow.log.1", r#"File("dhow.log.1")"#);
        check_query("query=pods\\x", r#"File("pods/x")"#);
    }

    #[test]
    fn queries_that_make_no_sense_are_refused_in_upstreams_words() {
        check_query("query=%20", r#"400: unit: Invalid value: " ": unit cannot be empty"#);
        check_query("query=a&sinceTime=now", r#"400: sinceTime: Invalid value: "now": invalid time format"#);
        let many = "query=a&query=b&query=c&query=d&query=e";
        check_query(many, "406: query: Too many: 5: must have at most 4 items");
        check_query("query=a;b", r#"406: query: Invalid value: "a;b": input contains unsupported characters"#);
        check_query("query=/a&query=b", r#"406: query: Invalid value: "[/a], [b]": cannot specify a file and service"#);
        check_query("query=/a&tail=5", r#"406: query: Invalid value: "/a": cannot specify file with options"#);
        check_query("query=a&boot=1", "406: boot: Invalid value: 1: must be less than 1");
        check_query(
            "query=a&tailLines=-1",
            "406: tailLines: Invalid value: -1: must be between 0 and 100000, inclusive",
        );
        check_query(
            "query=a&since=yesterday",
            "406: since: Invalid value: \"yesterday\": date must be a relative time of the form '(+|-)[0-9]+(s|m|h|d)' or a date \
             in 'YYYY-MM-DD HH:MM:SS' form",
        );
    }

    #[test]
    fn options_are_for_journals() {
        let answer = "\\noptions present and query resolved to log files for [a]\\ntry without specifying options\\n";
        for option in ["tailLines=5", "sinceTime=2026-01-02T03:04:05Z", "since=-1h", "since=2026-01-02 03:04:05"] {
            check_query(&format!("query=a&{option}"), &format!("NoOptions(\"{answer}\")"));
        }
    }
}
