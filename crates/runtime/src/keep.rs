//! The descriptors that the agent keeps for the supervisors of its pods, so that the death of one ends no container.
//!
//! Invariants: what is kept of a container comes in the packet that says it has started, so none runs that is known but not kept; it is
//! dropped with the word of its end; the agent reads and writes none of it.

use crate::protocol::{ContainerRecord, ContainerState, Exit, Part, Started};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Descriptors by what they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts(BTreeMap<Part, Arc<OwnedFd>>);

impl Parts {
    /// As received; nothing if names and descriptors do not fit together.
    pub(crate) fn new(names: &[Part], fds: Vec<OwnedFd>) -> Self {
        if names.len() != fds.len() {
            return Parts::default();
        }
        Parts(names.iter().copied().zip(fds.into_iter().map(Arc::new)).collect())
    }

    pub(crate) fn names(&self) -> Vec<Part> {
        self.0.keys().copied().collect()
    }

    pub(crate) fn fds(&self) -> Vec<Arc<OwnedFd>> {
        self.0.values().cloned().collect()
    }

    /// Takes one out, for its only user.
    pub(crate) fn take(&mut self, part: Part) -> Option<OwnedFd> {
        Arc::into_inner(self.0.remove(&part)?)
    }
}

/// A container as it can be handed to another supervisor.
#[derive(Debug, Clone)]
pub(crate) struct KeptContainer {
    pub(crate) record: ContainerRecord,
    pub(crate) state: ContainerState,
    pub(crate) parts: Parts,
}

/// A pod as it can be handed to another supervisor.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// When it was made, and its namespaces; none if its supervisor is too old to tell.
    pub(crate) pod: Option<(i64, Parts)>,
    /// In the order of their starts.
    pub(crate) containers: Vec<KeptContainer>,
}

impl Kept {
    /// The pod's network namespace, if it has one of its own.
    pub(crate) fn network(&self) -> Option<BorrowedFd<'_>> {
        let (_, parts) = self.pod.as_ref()?;
        parts.0.get(&Part::Network).map(|fd| fd.as_fd())
    }

    pub(crate) fn started(&mut self, record: ContainerRecord, started: Started, parts: Parts) {
        self.put(KeptContainer { record, state: ContainerState::Running(started), parts });
    }

    pub(crate) fn put(&mut self, container: KeptContainer) {
        self.removed(&container.record.id);
        self.containers.push(container);
    }

    pub(crate) fn exited(&mut self, id: &str, exit: &Exit) {
        if let Some(c) = self.containers.iter_mut().find(|c| c.record.id == id) {
            c.state = ContainerState::Exited(exit.clone());
            c.parts = Parts::default();
        }
    }

    pub(crate) fn removed(&mut self, id: &str) {
        self.containers.retain(|c| c.record.id != id);
    }

    pub(crate) fn runs(&self, id: &str) -> bool {
        self.containers.iter().any(|c| c.record.id == id && matches!(c.state, ContainerState::Running(_)))
    }
}
