//! Who watches, counted: a write is work for every watcher of what it changes (`flowcontrol/watch_tracker.go`,
//! `flowcontrol/request/mutating_work_estimator.go`).

use super::Cost;
use crate::request_info::RequestInfo;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// So many watchers are the work of a seat (`watchesPerSeat`),
const WATCHERS_PER_SEAT: u32 = 10;
/// for so long after the write (`eventAdditionalDuration`).
const WORK_OF_EVENT: Duration = Duration::from_millis(5);
/// A write takes no more seats than this, but for longer (`MaximumMutatingSeatsLimit`).
const MOST_SEATS: u32 = 10;

/// What a watch looks at; empty texts stand for all.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Watched {
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

/// How many watch what.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<HashMap<Watched, u32>>);

/// A watch that is counted until this is dropped.
pub(crate) struct Watching {
    watchers: Arc<Watchers>,
    watched: Watched,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut counts = self.watchers.0.lock();
        let Some(count) = counts.get_mut(&self.watched) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.watched);
        }
    }
}

impl Watchers {
    /// Counts a watch. `node` is the one node whose pods it asks for: such a watch sees few of the events, and is not counted.
    pub(crate) fn begin(self: &Arc<Self>, info: &RequestInfo, node: Option<&str>) -> Option<Watching> {
        if info.resource == "pods" && node.is_some_and(|node| !node.is_empty()) {
            return None;
        }
        let watched = watched(info, &info.namespace, &info.name);
        *self.0.lock().entry(watched.clone()).or_default() += 1;
        Some(Watching { watchers: self.clone(), watched })
    }

    /// How many watch what a write changes.
    fn interested(&self, info: &RequestInfo) -> u32 {
        let counts = self.0.lock();
        let count = |namespace: &str, name: &str| counts.get(&watched(info, namespace, name)).copied().unwrap_or(0);
        let mut all = count("", "");
        if !info.namespace.is_empty() {
            all += count(&info.namespace, "");
        }
        if !info.name.is_empty() {
            all += count(&info.namespace, &info.name);
        }
        all
    }

    /// How many see a write; `None` of one that makes no event.
    pub(super) fn of_write(&self, info: &RequestInfo) -> Option<u32> {
        let is_token = info.resource == "serviceaccounts" && info.subresource == "token";
        (!is_token).then(|| self.interested(info))
    }
}

fn watched(info: &RequestInfo, namespace: &str, name: &str) -> Watched {
    Watched {
        group: info.group.clone(),
        resource: info.resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// What a write costs that so many see, on a level whose requests take at most `most` seats.
pub(super) fn cost(watchers: u32, most: impl FnOnce() -> u32) -> Cost {
    if watchers < WATCHERS_PER_SEAT {
        return Cost::ONE;
    }
    let wide = watchers.div_ceil(WATCHERS_PER_SEAT);
    let seats = wide.min(most().clamp(1, MOST_SEATS));
    Cost { seats, linger: WORK_OF_EVENT * wide / seats }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_watchers_make_a_write_wide_and_then_long() {
        let shown = |watchers, most| {
            let Cost { seats, linger } = cost(watchers, || most);
            (seats, linger.as_millis())
        };
        assert_eq!(shown(9, 10), (1, 0));
        assert_eq!(shown(10, 10), (1, 5));
        assert_eq!(shown(95, 10), (10, 5));
        assert_eq!(shown(1000, 10), (10, 50));
        assert_eq!(shown(1000, 4), (4, 125));
    }

    #[test]
    fn watchers_count_for_what_they_see() {
        let info = |namespace: &str, name: &str| RequestInfo {
            resource: "pods".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        let watchers = Arc::new(Watchers::default());
        let all: Vec<_> =
            [("", ""), ("a", ""), ("b", ""), ("a", "x")].map(|(n, x)| watchers.begin(&info(n, x), None)).into();
        assert!(watchers.begin(&info("", ""), Some("node-1")).is_none());
        let seen = [("a", "x"), ("a", "y"), ("b", "x"), ("c", "x")].map(|(n, x)| watchers.interested(&info(n, x)));
        assert_eq!(seen, [3, 2, 2, 1]);
        drop(all);
        assert_eq!(watchers.0.lock().len(), 0);
    }
}
