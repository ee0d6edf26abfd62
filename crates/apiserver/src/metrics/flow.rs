//! Priority and fairness (`apiserver/pkg/util/flowcontrol/metrics/metrics.go`). What upstream computes to move seats every ten seconds
//! and the virtual times of its queues have no meaning here (`flow/book.rs`).

use super::Family;
use crate::flow::Flow;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::Duration;
use tokio::time::Instant;

/// Requests of this level never wait.
const EXEMPT: &str = "exempt";
const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// See the file's head.
pub(crate) struct FlowMetrics {
    dispatched: IntCounterVec,
    rejected: IntCounterVec,
    executing: IntGaugeVec,
    executing_seats: IntGaugeVec,
    waiting: IntGaugeVec,
    waiting_seats: IntGaugeVec,
    waited: HistogramVec,
    executed: HistogramVec,
    queue_lengths: HistogramVec,
    estimated: HistogramVec,
    watchers: HistogramVec,
    nominal: IntGaugeVec,
    lower: IntGaugeVec,
    upper: IntGaugeVec,
    current: IntGaugeVec,
}

/// The numbers of one flow schema and its priority level, looked up once.
pub(crate) struct FlowNumbers {
    /// Level and schema.
    labels: [String; 2],
    dispatched: IntCounter,
    rejected: IntCounterVec,
    executing: IntGauge,
    executing_seats: IntGauge,
    waiting: IntGauge,
    waiting_seats: IntGauge,
    waited: HistogramVec,
    waited_and_ran: Histogram,
    executed: Histogram,
    watched: Histogram,
    queue_lengths: Histogram,
    estimated: Histogram,
    watchers: Histogram,
}

impl FlowMetrics {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let flow = ["priority_level", "flow_schema"];
        let name = |rest: &str| format!("apiserver_flowcontrol_{rest}");
        FlowMetrics {
            dispatched: family.counter(
                &name("dispatched_requests_total"),
                "[BETA] Number of requests executed by API Priority and Fairness subsystem",
                &flow,
            ),
            rejected: family.counter(
                &name("rejected_requests_total"),
                "[BETA] Number of requests rejected by API Priority and Fairness subsystem",
                &["priority_level", "flow_schema", "reason"],
            ),
            executing: family.gauge(
                &name("current_executing_requests"),
                "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                &flow,
            ),
            executing_seats: family.gauge(
                &name("current_executing_seats"),
                "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
                &flow,
            ),
            waiting: family.gauge(
                &name("current_inqueue_requests"),
                "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                &flow,
            ),
            waiting_seats: family.gauge(
                &name("current_inqueue_seats"),
                "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
                &flow,
            ),
            waited: family.histogram(
                &name("request_wait_duration_seconds"),
                "[BETA] Length of time a request spent waiting in its queue",
                &["priority_level", "flow_schema", "execute"],
                &SECONDS,
            ),
            executed: family.histogram(
                &name("request_execution_seconds"),
                "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
                &["priority_level", "flow_schema", "type"],
                &SECONDS,
            ),
            queue_lengths: family.histogram(
                &name("request_queue_length_after_enqueue"),
                "[ALPHA] Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
                &flow,
                &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0],
            ),
            watchers: family.histogram(
                &name("watch_count_samples"),
                "[ALPHA] count of watchers for mutating requests in API Priority and Fairness",
                &flow,
                &[0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0],
            ),
            estimated: family.histogram(
                &name("work_estimated_seats"),
                "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
                &flow,
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0],
            ),
            nominal: family.gauge(
                &name("nominal_limit_seats"),
                "[BETA] Nominal number of execution seats configured for each priority level",
                &flow[..1],
            ),
            lower: family.gauge(
                &name("lower_limit_seats"),
                "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
                &flow[..1],
            ),
            upper: family.gauge(
                &name("upper_limit_seats"),
                "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
                &flow[..1],
            ),
            current: family.gauge(
                &name("current_limit_seats"),
                "[ALPHA] current derived number of execution seats available to each priority level",
                &flow[..1],
            ),
        }
    }

    /// The numbers of a flow schema.
    pub(crate) fn of(&self, level: &str, schema: &str) -> FlowNumbers {
        let labels = [level, schema];
        FlowNumbers {
            labels: labels.map(str::to_owned),
            dispatched: self.dispatched.with_label_values(&labels),
            rejected: self.rejected.clone(),
            executing: self.executing.with_label_values(&labels),
            executing_seats: self.executing_seats.with_label_values(&labels),
            waiting: self.waiting.with_label_values(&labels),
            waiting_seats: self.waiting_seats.with_label_values(&labels),
            waited: self.waited.clone(),
            waited_and_ran: self.waited.with_label_values(&[level, schema, "true"]),
            executed: self.executed.with_label_values(&[level, schema, "regular"]),
            watched: self.executed.with_label_values(&[level, schema, "watch"]),
            queue_lengths: self.queue_lengths.with_label_values(&labels),
            estimated: self.estimated.with_label_values(&labels),
            watchers: self.watchers.with_label_values(&labels),
        }
    }

    /// Takes over the limits in force.
    pub(super) fn read(&self, flow: &Flow) {
        for (level, limits) in flow.limits() {
            self.nominal.with_label_values(&[&level]).set(limits.nominal.into());
            self.lower.with_label_values(&[&level]).set(limits.lower.into());
            self.upper.with_label_values(&[&level]).set(limits.upper.into());
            self.current.with_label_values(&[&level]).set(limits.current.into());
        }
    }
}

impl FlowNumbers {
    /// A request waits for so many seats, as this one of its queue.
    pub(crate) fn waits(&self, seats: u32, place: usize) -> HeldSeats {
        self.queue_lengths.observe(place as f64);
        HeldSeats::new(&self.waiting, &self.waiting_seats, seats)
    }

    /// A request got its seat, or none for this reason.
    pub(crate) fn seated(&self, refused: Option<&'static str>, waited: Duration) {
        let [level, schema] = &self.labels;
        match refused {
            None => self.dispatched.inc(),
            Some(reason) => self.rejected.with_label_values(&[level, schema, reason]).inc(),
        }
        match refused {
            _ if level == EXEMPT => {}
            None => self.waited_and_ran.observe(waited.as_secs_f64()),
            Some(_) => self.waited.with_label_values(&[level, schema, "false"]).observe(waited.as_secs_f64()),
        }
    }

    /// A write is seen by so many watchers.
    pub(crate) fn watched_by(&self, watchers: u32) {
        self.watchers.observe(watchers.into());
    }

    /// A request runs on so many seats.
    pub(crate) fn executes(&self, seats: u32, is_watch: bool) -> Executing {
        self.estimated.observe(seats.into());
        let durations = if is_watch { &self.watched } else { &self.executed };
        Executing {
            _seats: HeldSeats::new(&self.executing, &self.executing_seats, seats),
            begun: Instant::now(),
            durations: durations.clone(),
        }
    }
}

/// A request and its seats; counts down when dropped.
pub(crate) struct HeldSeats {
    _request: super::Held,
    gauge: IntGauge,
    seats: u32,
}

impl HeldSeats {
    fn new(requests: &IntGauge, gauge: &IntGauge, seats: u32) -> Self {
        gauge.add(seats.into());
        HeldSeats { _request: super::Held::new(requests.clone()), gauge: gauge.clone(), seats }
    }
}

impl Drop for HeldSeats {
    fn drop(&mut self) {
        self.gauge.sub(self.seats.into());
    }
}

/// A request that runs until this is dropped.
pub(crate) struct Executing {
    _seats: HeldSeats,
    begun: Instant,
    durations: Histogram,
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.durations.observe(self.begun.elapsed().as_secs_f64());
    }
}
