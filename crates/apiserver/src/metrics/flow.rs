//! Priority and fairness (`apiserver/pkg/util/flowcontrol/metrics/metrics.go`).

use super::Family;
use crate::flow::{Class, Flow};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};
use std::time::Duration;

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
    waited: HistogramVec,
    estimated: HistogramVec,
    nominal: IntGaugeVec,
    lower: IntGaugeVec,
    upper: IntGaugeVec,
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
            waited: family.histogram(
                &name("request_wait_duration_seconds"),
                "[BETA] Length of time a request spent waiting in its queue",
                &["priority_level", "flow_schema", "execute"],
                &SECONDS,
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
        }
    }

    /// A request begins to wait or goes on at once.
    pub(crate) fn waits(&self, class: &Class) -> super::Held {
        super::Held::new(self.waiting.with_label_values(&class.labels()))
    }

    /// A request got its seat, or none for this reason.
    pub(crate) fn seated(&self, class: &Class, refused: Option<&'static str>, waited: Duration) {
        let [level, schema] = class.labels();
        match refused {
            None => self.dispatched.with_label_values(&[level, schema]).inc(),
            Some(reason) => self.rejected.with_label_values(&[level, schema, reason]).inc(),
        }
        if level == EXEMPT {
            return;
        }
        let execute = if refused.is_none() { "true" } else { "false" };
        self.waited.with_label_values(&[level, schema, execute]).observe(waited.as_secs_f64());
    }

    /// A request runs on so many seats.
    pub(crate) fn executes(&self, class: &Class, seats: u32) -> Executing {
        let labels = class.labels();
        self.estimated.with_label_values(&labels).observe(seats.into());
        let held = self.executing_seats.with_label_values(&labels);
        held.add(seats.into());
        Executing { _request: super::Held::new(self.executing.with_label_values(&labels)), held, seats }
    }

    /// Takes over the limits in force.
    pub(super) fn read(&self, flow: &Flow) {
        for (level, limits) in flow.limits() {
            self.nominal.with_label_values(&[&level]).set(limits.nominal.into());
            self.lower.with_label_values(&[&level]).set(limits.lower.into());
            self.upper.with_label_values(&[&level]).set(limits.upper.into());
        }
    }
}

/// Counts down when dropped.
pub(crate) struct Executing {
    _request: super::Held,
    held: prometheus::IntGauge,
    seats: u32,
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.held.sub(self.seats.into());
    }
}
