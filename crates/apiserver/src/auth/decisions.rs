//! Decisions, counted by who makes them (`apiserver/pkg/authorization/metrics/metrics.go`).

use super::{Authorizer, Decision};
use prometheus::{IntCounter, IntCounterVec, Opts};
use std::sync::Arc;

/// All decisions.
#[derive(Clone)]
pub struct Decisions(IntCounterVec);

impl Default for Decisions {
    fn default() -> Self {
        let opts = Opts::new(
            "apiserver_authorization_decisions_total",
            "[ALPHA] Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision.",
        );
        Decisions(IntCounterVec::new(opts, &["type", "name", "decision"]).expect("the name is well-formed"))
    }
}

impl Decisions {
    /// For whoever shows them.
    pub fn collector(&self) -> IntCounterVec {
        self.0.clone()
    }

    /// This authorizer, counted as one of this type and name.
    pub fn of(&self, kind: &str, name: &str, authorizer: Arc<dyn Authorizer>) -> Counted {
        let counter = |decision| self.0.with_label_values(&[kind, name, decision]);
        Counted { authorizer, allowed: counter("allowed"), denied: counter("denied") }
    }
}

/// An authorizer whose decisions are counted. That it has no opinion is none.
pub struct Counted {
    pub(super) authorizer: Arc<dyn Authorizer>,
    allowed: IntCounter,
    denied: IntCounter,
}

impl Counted {
    pub(super) fn count(&self, decision: &Decision) {
        match decision {
            Decision::Allow(_) => self.allowed.inc(),
            Decision::Deny(_) => self.denied.inc(),
            Decision::NoOpinion(_) => {}
        }
    }
}
