//! [`PodTerms`]: affinity and anti-affinity to other pods, ready for matching (`framework.AffinityTerm`).

use api::k8s::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};
use api::meta::MetaExt;
use api::prelude::Pod;
use machinery::selector::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};

/// Labels, as objects have them.
pub(crate) type LabelMap = BTreeMap<String, String>;

/// Which pods are meant, and what counts as the same place.
#[derive(Debug, Clone)]
pub struct Term {
    namespaces: BTreeSet<String>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
    /// Label of nodes.
    pub topology_key: String,
}

impl Term {
    /// `getAffinityTerm`, `newAffinityTerm`. A selector that cannot be read selects nothing (validation refuses such).
    fn of(pod: &Pod, term: &PodAffinityTerm) -> Self {
        let read = |s| LabelSelector::from_api(s).unwrap_or_else(|_| LabelSelector::nothing());
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(pod.namespace().to_owned());
        }
        Term {
            namespaces,
            namespace_selector: read(term.namespace_selector.as_ref()),
            selector: read(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether it means a pod of this namespace (with the namespace's labels) and these labels.
    pub(crate) fn matches(&self, namespace: &str, of_namespace: &LabelMap, labels: &LabelMap) -> bool {
        (self.namespaces.contains(namespace) || self.namespace_selector.matches(of_namespace))
            && self.selector.matches(labels)
    }

    /// The namespaces it looks into, if that does not depend on namespaces' labels.
    pub(crate) fn fixed_namespaces(&self) -> Option<&BTreeSet<String>> {
        self.namespace_selector.is_nothing().then_some(&self.namespaces)
    }
}

/// All of a pod's terms.
#[derive(Debug, Clone, Default)]
pub struct PodTerms {
    /// Must be near such pods.
    pub required: Vec<Term>,
    /// Must not be near such pods.
    pub required_anti: Vec<Term>,
    /// Weights of being near such pods; negative ones for anti-affinity.
    pub preferred: Vec<(i64, Term)>,
}

impl PodTerms {
    /// Reads them.
    pub(crate) fn of(pod: &Pod) -> Self {
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let hard = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|t| Term::of(pod, t)).collect()
        };
        let soft = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, Term)> {
            let terms = terms.into_iter().flatten();
            terms.map(|t| (sign * i64::from(t.weight), Term::of(pod, &t.pod_affinity_term))).collect()
        };
        let mut preferred = soft(near.and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferred.extend(soft(far.and_then(|f| f.preferred_during_scheduling_ignored_during_execution.as_ref()), -1));
        PodTerms {
            required: hard(near.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref())),
            required_anti: hard(far.and_then(|f| f.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred,
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}
