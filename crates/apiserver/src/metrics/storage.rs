//! What is stored, and what lists read (`apiserver/pkg/storage/etcd3/metrics/metrics.go`).

use super::Family;
use crate::api_server::ApiServer;
use crate::reader::{KindRef, range_of};
use machinery::kinds::KindInfo;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use std::collections::BTreeSet;
use store::{At, Listing, Page, Read};

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

/// Counts the stored objects now.
pub(super) async fn objects(server: &ApiServer) -> Vec<MetricFamily> {
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        IntGaugeVec::new(Opts::new(name, help), labels).expect(super::WELL_FORMED)
    };
    let old = gauge(
        "apiserver_storage_objects",
        "[STABLE] [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        &["resource"],
    );
    let new = gauge(
        "apiserver_resource_objects",
        "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        &["group", "resource"],
    );
    let kinds = server.inner.kinds.load_full();
    let mut seen = BTreeSet::new();
    for kind in kinds.all().iter().filter(|k| is_stored(k) && seen.insert(k.info().storage.to_string())) {
        let info = kind.info();
        // `group/plural`, as which the object is stored, also where another group serves it.
        let (group, resource) = info.storage.rsplit_once('/').unwrap_or(("", &info.storage));
        let count = count(server, &info.storage).await;
        let name = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        old.with_label_values(&[&name]).set(count);
        new.with_label_values(&[group, resource]).set(count);
    }
    [old.collect(), new.collect()].concat()
}

fn is_stored(kind: &KindRef) -> bool {
    kind.info().verbs.iter().any(|verb| verb == "list")
}

async fn count(server: &ApiServer, storage: &str) -> i64 {
    let range = range_of(storage, "");
    // The store knows how many follow the first.
    match server.inner.deps.store.list(&range, At::Latest, Page { limit: 1 }).await {
        Ok(Read { value: Listing { entries, more, remaining }, .. }) => match (more, remaining) {
            (false, _) => i64::try_from(entries.len()).unwrap_or(-1),
            (true, Some(rest)) => i64::try_from(rest).map_or(-1, |rest| rest.saturating_add(1)),
            (true, None) => -1,
        },
        Err(_) => -1,
    }
}
