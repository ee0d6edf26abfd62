//! The table: measured value, what the project promises, what was not ideal. No gates.

use crate::fail::{Result, io};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    group: &'static str,
    what: String,
    value: String,
    target: String,
    note: String,
}

/// All lines of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a line, and shows it at once on standard error: a run takes minutes.
    pub(crate) fn add(
        &mut self,
        group: &'static str,
        what: impl Into<String>,
        value: impl Into<String>,
        target: &str,
        note: impl Into<String>,
    ) {
        let row = Row { group, what: what.into(), value: value.into(), target: target.into(), note: note.into() };
        eprintln!("{:10} {:44} {:>28}  {}", row.group, row.what, row.value, row.note);
        self.rows.push(row);
    }

    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("| | Measured | Value | Target | Note |\n|---|---|---|---|---|\n");
        for r in &self.rows {
            out += &format!("| {} | {} | {} | {} | {} |\n", r.group, r.what, r.value, r.target, r.note);
        }
        out
    }

    /// Appends one JSON object to `path`.
    pub(crate) fn append_json(&self, path: &Path, about: &serde_json::Value) -> Result<()> {
        let what = || format!("append to {}", path.display());
        let mut file = std::fs::File::options().create(true).append(true).open(path).map_err(io(what()))?;
        let line = serde_json::json!({"about": about, "rows": self.rows});
        writeln!(file, "{line}").map_err(io(what()))
    }
}

/// Microseconds with sensible digits.
pub(crate) fn us(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.1} ms", v / 1000.0),
        v if v >= 1000.0 => format!("{:.2} ms", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0} µs"),
        v => format!("{v:.1} µs"),
    }
}

/// Bytes in MB of 1,000,000.
pub(crate) fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The value below which `share` of `sorted` lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// `p10 / p50 / p99` of microseconds.
pub(crate) fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let q = |share| us(quantile(&values, share));
    format!("p10 {} · **p50 {}** · p99 {}", q(0.1), q(0.5), q(0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=10).map(f64::from).collect();
        let got = [0.0, 0.1, 0.5, 0.9, 0.99, 1.0].map(|q| quantile(&sorted, q));
        assert_eq!(got, [1.0, 1.0, 5.0, 9.0, 10.0, 10.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
