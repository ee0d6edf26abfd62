//! Which of the loops that servers share act here, under upstream's name
//! (`component-base/metrics/prometheus/clientgo/leaderelection/metrics.go`).

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use tokio::sync::watch;

/// See the file's head.
pub(crate) struct Leaders {
    gauge: IntGaugeVec,
    leases: Vec<(&'static str, watch::Receiver<bool>)>,
}

impl Leaders {
    /// Leases by name, and whether we hold them.
    pub(crate) fn new(leases: Vec<(&'static str, watch::Receiver<bool>)>) -> Self {
        let help = "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.";
        let opts = Opts::new("leader_election_master_status", help);
        Leaders { gauge: IntGaugeVec::new(opts, &["name"]).expect("the name is well-formed"), leases }
    }
}

impl Collector for Leaders {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (name, leads) in &self.leases {
            self.gauge.with_label_values(&[*name]).set(i64::from(*leads.borrow()));
        }
        self.gauge.collect()
    }
}
