//! Limits from shares, and waiting for real.

use super::*;

#[test]
fn seats_follow_shares() {
    let limits = limits(&defaults::levels());
    let mut text: Vec<String> =
        limits.iter().map(|(name, l)| format!("{name} {} lends {}", l.nominal, l.lendable)).collect();
    text.sort();
    assert_eq!(
        text,
        [
            "catch-all 13 lends 0",
            "exempt 0 lends 0",
            "global-default 49 lends 25",
            "leader-election 25 lends 0",
            "node-high 98 lends 25",
            "system 74 lends 24",
            "workload-high 98 lends 49",
            "workload-low 245 lends 221",
        ]
    );
}

#[test]
fn a_schema_says_whether_its_level_exists() {
    let schemas = defaults::schemas();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let found = with_condition(&schemas[0], &defaults::levels(), now).expect("new");
    assert!(with_condition(&found, &defaults::levels(), now).is_none());
    let lost = with_condition(&found, &[], now).expect("changed");
    let shown = lost.status.and_then(|s| s.conditions).expect("conditions");
    assert_eq!(
        (shown.len(), shown[0].status.as_deref(), shown[0].reason.as_deref()),
        (1, Some("True"), Some("NotFound"))
    );
}

/// Of the level `a`.
fn class() -> Class {
    counted(&crate::metrics::Metrics::new())
}

fn counted(metrics: &crate::metrics::Metrics) -> Class {
    let numbers = metrics.flow.of("a", "s").into();
    Class { schema_uid: "".into(), level: "a".into(), level_uid: "".into(), numbers }
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_leaves_no_seat_behind() {
    let flow = Arc::new(Flow::default());
    let queues = Some(Queues { count: 1, hand: 1, length: 9 });
    let limits = Limits { exempt: false, nominal: 1, lendable: 0, most: 1, queues };
    flow.book.lock().configure(HashMap::from([("a".to_owned(), limits)]));
    let class = class();
    let seat = flow.seat(&class, 1, Cost::ONE, false).await.expect("free");
    assert_eq!(flow.seat(&class, 1, Cost::ONE, false).await.err(), Some("time-out"));
    // A seat that comes to one that is dropped goes on to the next.
    let mut first = Box::pin(flow.seat(&class, 1, Cost::ONE, false));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(flow.seat(&class, 1, Cost::ONE, false));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(seat);
    drop(first);
    let seat = second.await.expect("comes");
    assert_eq!(flow.counts(), [("a".to_owned(), 1, 0)]);
    drop(seat);
    assert_eq!(flow.counts(), [("a".to_owned(), 0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn waiting_and_running_are_counted() {
    let flow = Arc::new(Flow::default());
    let queues = Some(Queues { count: 1, hand: 1, length: 9 });
    let limits = Limits { exempt: false, nominal: 4, lendable: 0, most: 4, queues };
    flow.book.lock().configure(HashMap::from([("a".to_owned(), limits)]));
    let metrics = crate::metrics::Metrics::new();
    let class = counted(&metrics);
    let cost = Cost { seats: 3, linger: Duration::ZERO };
    let seat = flow.seat(&class, 1, cost, true).await.expect("free");
    let mut next = Box::pin(flow.seat(&class, 1, cost, false));
    assert!(futures_util::poll!(next.as_mut()).is_pending());
    let shown = |name: &str| {
        let lines = metrics.lines(&format!("{name}{{"));
        lines.iter().filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect::<Vec<_>>().join(" ")
    };
    let gauges = ["executing_requests", "executing_seats", "inqueue_requests", "inqueue_seats"];
    assert_eq!(gauges.map(shown), ["1", "3", "1", "3"]);
    assert_eq!(shown("request_queue_length_after_enqueue_sum"), "1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(seat);
    drop(next.await.expect("comes"));
    assert_eq!(gauges.map(shown), ["0"; 4]);
    let durations = metrics.lines("request_execution_seconds_sum");
    let flow = r#"apiserver_flowcontrol_request_execution_seconds_sum{flow_schema="s",priority_level="a""#;
    assert_eq!(durations, [format!(r#"{flow},type="regular"}} 0"#), format!(r#"{flow},type="watch"}} 2"#)]);
}

#[test]
fn a_level_may_use_what_nobody_keeps() {
    let flow = Flow::default();
    flow.book.lock().configure(limits(&defaults::levels()));
    let mut now = flow.limits();
    now.sort_by(|a, b| a.0.cmp(&b.0));
    let shown: Vec<String> = now.iter().map(|(name, l)| format!("{name} {} of {}", l.current, l.upper)).collect();
    // Of 600 seats, others keep what they do not lend.
    assert_eq!(
        shown,
        [
            "catch-all 355 of 600",
            "exempt 0 of 600",
            "global-default 366 of 600",
            "leader-election 367 of 600",
            "node-high 415 of 600",
            "system 392 of 600",
            "workload-high 391 of 600",
            "workload-low 366 of 600",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_nobody_reads_gives_its_seat_back_in_time() {
    let flow = Arc::new(Flow::default());
    let queues = Some(Queues { count: 1, hand: 1, length: 9 });
    let limits = Limits { exempt: false, nominal: 1, lendable: 0, most: 1, queues };
    flow.book.lock().configure(HashMap::from([("a".to_owned(), limits)]));
    let class = class();
    let held = |seat| hold_until_written(crate::response::body_from("[]"), seat);
    let unread = held(flow.seat(&class, 1, Cost::ONE, false).await.expect("free"));
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(flow.counts(), [("a".to_owned(), 1, 0)]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(flow.counts(), [("a".to_owned(), 0, 0)]);
    let read = held(flow.seat(&class, 1, Cost::ONE, false).await.expect("free"));
    drop((unread, read));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(flow.counts(), [("a".to_owned(), 0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_many_watch_keeps_its_seats_for_a_while() {
    let flow = Arc::new(Flow::default());
    let queues = Some(Queues { count: 1, hand: 1, length: 9 });
    let limits = Limits { exempt: false, nominal: 4, lendable: 0, most: 4, queues };
    flow.book.lock().configure(HashMap::from([("a".to_owned(), limits)]));
    let class = class();
    let cost = Cost { seats: 3, linger: Duration::from_millis(5) };
    drop(flow.seat(&class, 1, cost, false).await.expect("free"));
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert_eq!(flow.counts(), [("a".to_owned(), 3, 0)]);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(flow.counts(), [("a".to_owned(), 0, 0)]);
}
