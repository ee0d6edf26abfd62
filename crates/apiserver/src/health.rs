//! `/livez`, `/readyz`, `/healthz`: named checks, alone or all (`apiserver/pkg/server/healthz/healthz.go`,
//! `apiserver/pkg/server/healthz.go`).
//!
//! The hooks have the names of upstream's parts that do the same work, since monitors ask for them; several names may stand for one
//! part here. Differs from upstream: parts that this server does not have are not listed. `log` asks whoever writes the log
//! ([`ApiServer::check_log`]), and passes where nobody does.

use crate::api_server::{ApiServer, Call};
use crate::reader::key_of;
use crate::response::{Answer, no_such_page, plain};
use api::Status;
use http::{HeaderValue, Response};
use machinery::healthz::{Check, report};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::At;

/// The store answers within this time, or is not healthy (`DefaultHealthcheckTimeout`, `DefaultReadinessTimeout`).
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Says what is wrong with the log.
pub type LogCheck = fn() -> Result<(), String>;

/// Begun parts of the start, in order; and whom to ask about the log.
#[derive(Default)]
pub(crate) struct Hooks {
    begun: Mutex<Vec<(&'static str, Arc<AtomicBool>)>>,
    log: OnceLock<LogCheck>,
}

/// A part of the start that has begun. Health checks fail until it is done.
#[must_use]
pub struct StartHook(Arc<AtomicBool>);

impl StartHook {
    /// From now on the check passes.
    pub fn done(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Hooks {
    fn begin(&self, name: &'static str) -> StartHook {
        let mut list = self.begun.lock();
        if let Some((_, done)) = list.iter().find(|(known, _)| *known == name) {
            return StartHook(done.clone());
        }
        let done = Arc::new(AtomicBool::new(false));
        list.push((name, done.clone()));
        StartHook(done)
    }

    fn results(&self) -> Vec<Check> {
        let result = |done: &AtomicBool| match done.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("not finished".to_owned()),
        };
        self.begun.lock().iter().map(|(name, done)| (*name, result(done))).collect()
    }

    fn log(&self) -> Result<(), String> {
        self.log.get().map_or(Ok(()), |check| check())
    }
}

impl ApiServer {
    /// Begins a part of the start, named as in the URL: `poststarthook/rbac/bootstrap-roles`.
    pub fn begin_start(&self, name: &'static str) -> StartHook {
        self.inner.hooks.begin(name)
    }

    /// The same for a part that has several names.
    pub(crate) fn begin_starts(&self, names: &[&'static str]) -> Vec<StartHook> {
        names.iter().map(|name| self.begin_start(name)).collect()
    }

    /// From now on `log` asks this. The first one stays.
    pub fn check_log(&self, check: LogCheck) {
        self.inner.hooks.log.set(check).ok();
    }
}

/// What is done when the definitions of custom resources and the addresses of Services are read, and admission is ready.
pub(crate) const OF_SERVER: [&str; 6] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-service-ip-repair-controllers",
];

/// What is done when the APIServices are there and their state is known.
pub(crate) const OF_AGGREGATION: [&str; 7] = [
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
];

/// `/readyz?verbose`, `/readyz/etcd` and so on.
pub(crate) async fn answer(server: &ApiServer, call: &Call, group: &str, one: &str) -> Result<Answer, Status> {
    let checks = checks(server, group, store(server).await);
    for (name, result) in &checks {
        server.inner.metrics.health.observe(name, group, result.is_ok());
        if let Err(why) = result {
            tracing::debug!(check = name, %why, "a health check failed");
        }
    }
    if !one.is_empty() {
        let Some((_, result)) = checks.into_iter().find(|(name, _)| *name == one) else {
            return Ok(no_such_page());
        };
        return Ok(match result {
            Ok(()) => Answer::text("ok"),
            Err(why) => failure(format!("internal server error: {why}\n")),
        });
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let (well, text) = report(group, &checks, &excluded);
    Ok(match (well, call.query.get("verbose")) {
        (false, _) => failure(text),
        (true, None) => success("ok".to_owned()),
        (true, Some(_)) => success(text),
    })
}

/// What is checked.
pub(crate) fn names(server: &ApiServer, group: &str) -> Vec<&'static str> {
    checks(server, group, Ok(())).into_iter().map(|(name, _)| name).collect()
}

/// All checks of a group, given how the store is.
fn checks(server: &ApiServer, group: &str, store: Result<(), String>) -> Vec<Check> {
    let hooks = server.inner.hooks.results();
    let mut checks = vec![("ping", Ok(())), ("log", server.inner.hooks.log()), ("etcd", store.clone())];
    if group == "readyz" {
        checks.push(("etcd-readiness", store.clone()));
        let waiting = hooks.iter().any(|(_, result)| result.is_err());
        checks.push(("informer-sync", if waiting { Err("not all caches are read".to_owned()) } else { Ok(()) }));
    }
    checks.push(("poststarthook/storage-readiness", store));
    checks.extend(hooks);
    if group == "readyz" {
        let stopping = server.inner.shutdown.is_cancelled();
        checks.push(("shutdown", if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
    }
    checks
}

/// Whether a read of a key that nobody has is answered. The name is upstream's, whatever the store is.
pub(crate) async fn store(server: &ApiServer) -> Result<(), String> {
    let key = key_of("health", "", "probe");
    match tokio::time::timeout(STORE_PATIENCE, server.inner.deps.store.get(&key, At::Latest)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(base::chain(&error)),
        Err(_) => Err("error getting data from etcd: context deadline exceeded".to_owned()),
    }
}

fn success(text: String) -> Answer {
    Answer::Raw(no_sniffing(plain(200, "text/plain; charset=utf-8", text.into())))
}

fn failure(text: String) -> Answer {
    Answer::Raw(no_sniffing(plain(500, "text/plain; charset=utf-8", text.into())))
}

fn no_sniffing(mut response: Response<crate::Body>) -> Response<crate::Body> {
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
