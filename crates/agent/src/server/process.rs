//! What the node tells of its process: `/healthz` and how its checks went (`/metrics/slis`), `/statusz` and `/flagz`.
//!
//! Follows `InstallAuthNotRequiredHandlers` and `InstallZPages` of `pkg/kubelet/server/server.go`, `component-base/metrics/prometheus/slis`.

use crate::stats::prometheus::{self, HealthCount};
use http::{HeaderMap, HeaderValue, Response, header};
use machinery::accept;
use machinery::healthz::{self, Check};
use machinery::zpages::{MEDIA, Page, Process, View};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use streaming::answer::{Body, Refusal, of_type, text};

/// Where people find more (`RegisteredHandlePaths`).
pub(super) const PATHS: [&str; 8] = [
    "/configz",
    "/flagz",
    "/healthz",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/probes",
    "/metrics/resource",
    "/metrics/slis",
];

/// The process of a node.
pub struct NodeProcess {
    /// As `/statusz` shows it.
    pub process: Process,
    /// What it was told, for `/flagz`.
    pub flags: BTreeMap<String, String>,
    /// Says what is wrong with the log.
    pub check_log: fn() -> Result<(), String>,
    counts: Mutex<BTreeMap<&'static str, HealthCount>>,
}

impl NodeProcess {
    /// Nobody has asked for its health yet.
    pub fn new(process: Process, flags: BTreeMap<String, String>, check_log: fn() -> Result<(), String>) -> Self {
        NodeProcess { process, flags, check_log, counts: Mutex::default() }
    }

    /// `/healthz`, or one check below it. `pods`: whether pods are looked after.
    pub(super) fn health(&self, pods: Result<(), String>, one: &str, query: &[(String, String)]) -> Response<Body> {
        let checks: Vec<Check> = vec![("ping", Ok(())), ("log", (self.check_log)()), ("syncloop", pods)];
        let answer = |well: bool, lines: String| {
            let mut response = text(if well { 200 } else { 500 }, lines);
            response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
            response
        };
        if !one.is_empty() {
            let Some(check) = checks.iter().find(|(name, _)| *name == one) else {
                return text(404, "404 page not found\n");
            };
            self.count(std::slice::from_ref(check));
            return match &check.1 {
                Ok(()) => text(200, "ok"),
                Err(why) => answer(false, format!("internal server error: {why}\n")),
            };
        }
        self.count(&checks);
        let excluded: Vec<&str> = query.iter().filter(|(n, _)| n == "exclude").map(|(_, v)| v.as_str()).collect();
        let (well, lines) = healthz::report("healthz", &checks, &excluded);
        let short = well && !query.iter().any(|(n, _)| n == "verbose");
        answer(well, if short { "ok".to_owned() } else { lines })
    }

    fn count(&self, checks: &[Check]) {
        let mut counts = self.counts.lock();
        for (name, result) in checks {
            if let Err(why) = result {
                tracing::debug!(check = name, %why, "a health check failed");
            }
            counts.entry(name).or_default().add(result.is_ok());
        }
    }

    /// `/metrics/slis`
    pub(super) fn slis(&self) -> String {
        prometheus::slis(&self.counts.lock(), self.process.started)
    }
}

/// A page in the form that the client asked for; `drawn` is any number.
pub(super) fn page(page: &Page, headers: &HeaderMap, pretty: bool, drawn: u64) -> Result<Response<Body>, Refusal> {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let (version, yaml) = match page.view(&accept::clauses(accepted)) {
        None => return Ok(not_acceptable()),
        Some(View::Text) => return Ok(text(200, page.text(drawn))),
        Some(View::Object { version, yaml }) => (version, yaml),
    };
    let object = page.object(version);
    let (media, body) =
        if yaml { ("application/yaml", yaml_of(&object)?) } else { ("application/json", json(&object, pretty)) };
    let mut response = of_type(200, media, body);
    let warning = page.warning(version).and_then(|w| HeaderValue::from_str(&format!("299 - {w:?}")).ok());
    if let Some(warning) = warning {
        response.headers_mut().insert(header::WARNING, warning);
    }
    Ok(response)
}

fn json(object: &Value, pretty: bool) -> String {
    if pretty { format!("{object:#}\n") } else { object.to_string() }
}

fn yaml_of(object: &Value) -> Result<String, Refusal> {
    serde_saphyr::to_string(object).map_err(|e| Refusal::new(500, e.to_string()))
}

fn not_acceptable() -> Response<Body> {
    let message = format!("only the following media types are accepted: {}", MEDIA.join(", "));
    let status = api::Status::failure(406, "NotAcceptable", message);
    of_type(406, "application/json", serde_json::to_vec(&status).unwrap_or_default())
}
