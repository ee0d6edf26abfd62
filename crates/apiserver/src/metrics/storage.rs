//! What is stored, what lists read, and what is written (`apiserver/pkg/storage/etcd3/metrics/metrics.go`).
//!
//! Metrics named after etcd are those of the store, whichever it is. Reads come from memory, so that only writes are requests to it.

use super::Family;
use crate::api_server::ApiServer;
use crate::flow::Stats;
use crate::reader::{KindRef, range_of};
use machinery::kinds::KindInfo;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};
use std::collections::BTreeSet;
use store::{At, Op, Page, StoreError, Txn};
use tokio::time::Instant;

/// So many objects of a resource are looked at for their size at each scrape.
const SAMPLE: usize = 500;

/// Of lists.
pub(crate) struct Lists {
    total: IntCounterVec,
    returned: IntCounterVec,
}

impl Lists {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let labels = ["group", "resource"];
        Lists {
            total: family.counter(
                "apiserver_storage_list_total",
                "[ALPHA] Number of LIST requests served from storage",
                &labels,
            ),
            returned: family.counter(
                "apiserver_storage_list_returned_objects_total",
                "[ALPHA] Number of objects returned for a LIST request from storage",
                &labels,
            ),
        }
    }

    /// A list found so many objects.
    pub(crate) fn found(&self, info: &KindInfo, returned: usize) {
        let labels = [&*info.group, &*info.plural];
        self.total.with_label_values(&labels).inc();
        self.returned.with_label_values(&labels).inc_by(returned as u64);
    }
}

/// Of writes to the store.
pub(crate) struct Commits {
    seconds: HistogramVec,
    total: IntCounterVec,
    errors: IntCounterVec,
}

impl Commits {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let labels = ["operation", "group", "resource"];
        Commits {
            seconds: family.histogram(
                "etcd_request_duration_seconds",
                "[ALPHA] Etcd request latency in seconds for each operation and object type.",
                &labels,
                &super::requests::DURATIONS,
            ),
            total: family.counter(
                "etcd_requests_total",
                "[ALPHA] Etcd request counts for each operation and object type.",
                &labels,
            ),
            errors: family.counter(
                "etcd_request_errors_total",
                "[ALPHA] Etcd failed request counts for each operation and object type.",
                &labels,
            ),
        }
    }

    /// A write begins.
    pub(crate) fn begin<'a>(&'a self, info: &'a KindInfo, txn: &Txn) -> Commit<'a> {
        let operation = txn.ops.iter().find_map(|op| match op {
            Op::Create { .. } => Some("create"),
            Op::Update { .. } => Some("update"),
            Op::Delete { .. } => Some("delete"),
            Op::Check { .. } => None,
        });
        let (group, resource) = named(&info.storage);
        Commit { of: self, labels: [operation.unwrap_or("get"), group, resource], begun: Instant::now() }
    }
}

/// A write that was begun.
pub(crate) struct Commit<'a> {
    of: &'a Commits,
    labels: [&'a str; 3],
    begun: Instant,
}

impl Commit<'_> {
    /// It is done. Others having been faster is an answer, no error.
    pub(crate) fn end<T>(self, result: &Result<T, StoreError>) {
        self.of.seconds.with_label_values(&self.labels).observe(self.begun.elapsed().as_secs_f64());
        self.of.total.with_label_values(&self.labels).inc();
        if matches!(result, Err(error) if !matches!(error, StoreError::Conflict { .. })) {
            self.of.errors.with_label_values(&self.labels).inc();
        }
    }
}

/// Group and resource of `group/plural`, as which objects are stored, also where another group serves them.
fn named(storage: &str) -> (&str, &str) {
    storage.rsplit_once('/').unwrap_or(("", storage))
}

/// How large the store is now.
pub(super) async fn size(server: &ApiServer) -> Vec<MetricFamily> {
    let help = "[STABLE] Size of the storage database file physically allocated in bytes.";
    let opts = Opts::new("apiserver_storage_size_bytes", help);
    let gauge = IntGaugeVec::new(opts, &["storage_cluster_id"]).expect(super::WELL_FORMED);
    if let Some(size) = server.inner.deps.store.size().await {
        // Upstream numbers its etcd clusters; there is one.
        gauge.with_label_values(&["etcd-0"]).set(i64::try_from(size).unwrap_or(i64::MAX));
    }
    gauge.collect()
}

/// Counts the stored objects now.
pub(super) async fn objects(server: &ApiServer) -> Vec<MetricFamily> {
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        IntGaugeVec::new(Opts::new(name, help), labels).expect(super::WELL_FORMED)
    };
    let old = gauge(
        "apiserver_storage_objects",
        "[STABLE] (Deprecated since 1.34.0) [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        &["resource"],
    );
    let new = gauge(
        "apiserver_resource_objects",
        "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        &["group", "resource"],
    );
    let sizes = gauge(
        "apiserver_resource_size_estimate_bytes",
        "[ALPHA] Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.",
        &["group", "resource"],
    );
    let kinds = server.inner.kinds.load_full();
    let mut seen = BTreeSet::new();
    for kind in kinds.all().iter().filter(|k| is_stored(k) && seen.insert(k.info().storage.to_string())) {
        let info = kind.info();
        let (group, resource) = named(&info.storage);
        let (count, bytes) = count(server, &info.storage).await;
        let name = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        old.with_label_values(&[&name]).set(count);
        new.with_label_values(&[group, resource]).set(count);
        sizes.with_label_values(&[group, resource]).set(bytes);
    }
    [old.collect(), new.collect(), sizes.collect()].concat()
}

fn is_stored(kind: &KindRef) -> bool {
    kind.info().verbs.iter().any(|verb| verb == "list")
}

/// How many there are, and about how many bytes they have. -1 if that cannot be found out.
async fn count(server: &ApiServer, storage: &str) -> (i64, i64) {
    let range = range_of(storage, "");
    let read = server.inner.deps.store.list(&range, At::Latest, Page { limit: SAMPLE }).await;
    let Ok(read) = read else { return (-1, -1) };
    if read.value.more && read.value.remaining.is_none() {
        return (-1, -1);
    }
    let Stats { objects, bytes } = Stats::of(&read.value);
    let number = |n: u64| i64::try_from(n).unwrap_or(-1);
    (number(objects), number(bytes))
}
