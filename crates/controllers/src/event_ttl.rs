//! EventTtl: events go an hour after they were last written, as upstream's leases in etcd make them
//! (`--event-ttl`, `pkg/registry/core/event/storage`).
//!
//! Watches   nothing: it looks when the oldest one is due. A cache of all events would cost more than it saves.
//! Writes    Event delete.

use crate::plan::{Done, Key, Plan, Task, Write};
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError, DeleteParams, ListParams};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const TTL: SignedDuration = SignedDuration::from_hours(1);
/// The shortest and the longest time between two looks.
const LOOKS: (SignedDuration, SignedDuration) = (SignedDuration::from_mins(1), SignedDuration::from_mins(30));

pub(crate) struct EventTtl;

impl Controller for EventTtl {
    const NAME: &'static str = "event-ttl-controller";
    const OF_API_SERVER: bool = true;
    type View = ();

    fn watches(watches: &mut Watches<'_>) {
        watches.once(Key::new("", "events"));
    }

    fn view(_key: &Key, _ctx: &Context) -> Option<()> {
        Some(())
    }

    fn plan(_view: &(), now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        plan.writes.push(Write::run(Sweep { now }));
        plan
    }
}

/// Deletes what is due and says when the next is.
struct Sweep {
    now: Timestamp,
}

#[async_trait]
impl Task for Sweep {
    fn title(&self) -> String {
        "delete old events".into()
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let api = client.api::<Event>();
        let (events, _) = api.list(&ListParams::all()).await?;
        for event in events.iter().filter(|e| due(e) <= self.now) {
            let params = DeleteParams { uid: Some(event.uid().to_owned()), ..DeleteParams::default() };
            match api.delete(event.namespace(), event.name(), &params).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(Done::again(next_look(&events, self.now)))
    }
}

fn next_look(events: &[Event], now: Timestamp) -> Duration {
    let next = events.iter().map(due).filter(|at| *at > now).min();
    let wait = next.map_or(LOOKS.1, |at| at.duration_since(now)).clamp(LOOKS.0, LOOKS.1);
    Duration::try_from(wait).unwrap_or_default()
}

/// An hour after the last time it says of itself.
fn due(event: &Event) -> Timestamp {
    let times = [
        event.metadata.creation_timestamp.as_ref().map(|t| t.0),
        event.last_timestamp.as_ref().map(|t| t.0),
        event.event_time.as_ref().map(|t| t.0),
        event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0),
    ];
    // What has no time at all is as old as can be.
    times.into_iter().flatten().max().unwrap_or(Timestamp::UNIX_EPOCH) + TTL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::json;

    #[test]
    fn the_last_time_counts_and_the_next_look_is_when_the_oldest_is_due() {
        let event = |created: &str, last: &str| {
            object::<Event>(
                json!({"metadata": {"creationTimestamp": created}, "lastTimestamp": last, "involvedObject": {}}),
            )
            .as_ref()
            .clone()
        };
        let old = event("2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z");
        let young = event("2026-01-01T00:00:00Z", "2026-01-01T00:59:00Z");
        assert!(due(&old) == at(4200) && due(&young) > at(4200));
        assert_eq!(next_look(&[old.clone(), young], at(3600)), Duration::from_secs(600));
        assert_eq!(next_look(&[old], at(4200)), Duration::from_secs(1800));
    }
}
