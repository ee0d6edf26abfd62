//! [`Owners`]: whose pods a pod belongs to, for the spreading that nobody asked for (`plugins/helper/spread.go`).

use crate::affinity::LabelMap;
use api::meta::MetaExt;
use api::prelude::Pod;
use machinery::selector::LabelSelector;
use std::collections::BTreeMap;

/// Selectors of Services and of controllers.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// By namespace and name.
    services: BTreeMap<String, BTreeMap<String, LabelMap>>,
    /// By the controller's UID.
    controllers: BTreeMap<String, LabelSelector>,
}

impl Owners {
    /// A Service with its selector; `None`: it is gone or selects nothing.
    pub fn apply_service(&mut self, namespace: &str, name: &str, selector: Option<LabelMap>) {
        let services = self.services.entry(namespace.to_owned()).or_default();
        match selector.filter(|s| !s.is_empty()) {
            Some(selector) => services.insert(name.to_owned(), selector),
            None => services.remove(name),
        };
        if services.is_empty() {
            self.services.remove(namespace);
        }
    }

    /// A ReplicationController, ReplicaSet or StatefulSet with its selector.
    pub fn apply_controller(&mut self, uid: &str, selector: Option<LabelSelector>) {
        match selector {
            Some(selector) => self.controllers.insert(uid.to_owned(), selector),
            None => self.controllers.remove(uid),
        };
    }

    /// What selects the pod and its siblings (`DefaultSelector`); everything if nobody does.
    pub(crate) fn selector_for(&self, pod: &Pod) -> LabelSelector {
        let mut labels = LabelMap::new();
        for selector in self.services.get(pod.namespace()).into_iter().flat_map(BTreeMap::values) {
            if LabelSelector::from_set(selector).matches(&pod.metadata.labels) {
                labels.extend(selector.clone());
            }
        }
        let owner = pod.controller().and_then(|o| self.controllers.get(&o.uid));
        match owner {
            None => LabelSelector::from_set(&labels),
            Some(owner) => {
                let own = LabelSelector::from_set(&labels);
                LabelSelector::of([own.requirements(), owner.requirements()].concat())
            }
        }
    }
}
