//! [`Counters`]: what has happened on this node since the agent started, for `/metrics` (`pkg/kubelet/metrics/metrics.go`). Differs:
//! pulls that fail are counted as starts that fail, as upstream does, but their back-off is not.

use crate::pod::view::Role;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A family of counters, as dashboards know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

macro_rules! counters {
    ($($id:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = concat!("`kubelet_", $name, "`")] pub static $id: Counter =
            Counter { name: concat!("kubelet_", $name), help: $help, labels: &[$($label),*] };)*
        /// All of them.
        pub static ALL: &[&Counter] = &[$(&$id),*];
    };
}

counters! {
    ADMISSION_REJECTIONS = "admission_rejections_total" ["reason"]
        "[ALPHA] Cumulative number pod admission rejections by the Kubelet.";
    EVICTIONS = "evictions" ["eviction_signal"] "[ALPHA] Cumulative number of pod evictions by eviction signal";
    IMAGES_REMOVED = "image_garbage_collected_total" ["reason"]
        "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
    IMAGE_VOLUMES_FAILED = "image_volume_mounted_errors_total" [] "[BETA] Number of failed image volume mounts.";
    IMAGE_VOLUMES_MOUNTED = "image_volume_mounted_succeed_total" []
        "[BETA] Number of successful image volume mounts.";
    IMAGE_VOLUMES_REQUESTED = "image_volume_requested_total" [] "[BETA] Number of requested image volumes.";
    CONTAINERS_FAILED = "started_containers_errors_total" ["container_type", "code"]
        "[ALPHA] Cumulative number of errors when starting containers";
    CONTAINERS_STARTED = "started_containers_total" ["container_type"]
        "[ALPHA] Cumulative number of containers started";
    PODS_FAILED = "started_pods_errors_total" [] "[ALPHA] Cumulative number of errors when starting pods";
    PODS_STARTED = "started_pods_total" [] "[ALPHA] Cumulative number of pods started";
    USER_PODS_FAILED = "started_user_namespaced_pods_errors_total" []
        "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.";
    USER_PODS_STARTED = "started_user_namespaced_pods_total" []
        "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.";
    CONTAINERS_ENDED = "terminated_containers_total" ["container_type", "exit_code", "reason"]
        "[ALPHA] Cumulative number of container terminations.";
}

/// Values, by name and values of labels.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<(&'static str, Vec<String>), u64>>);

impl Counters {
    /// Counts one more.
    pub fn count(&self, counter: &Counter, labels: &[&str]) {
        debug_assert_eq!(counter.labels.len(), labels.len(), "{}", counter.name);
        let key = (counter.name, labels.iter().map(|l| (*l).to_owned()).collect());
        *self.0.lock().entry(key).or_default() += 1;
    }

    /// The values of one; one without labels is there from the start.
    pub fn of(&self, counter: &Counter) -> Vec<(Vec<String>, u64)> {
        let all = self.0.lock();
        let of_it = all.iter().filter(|((name, _), _)| *name == counter.name);
        let mut out: Vec<_> = of_it.map(|((_, labels), n)| (labels.clone(), *n)).collect();
        if out.is_empty() && counter.labels.is_empty() {
            out.push((Vec::new(), 0));
        }
        out
    }
}

/// `container_type`
pub fn container_type(role: Role) -> &'static str {
    match role {
        Role::Init | Role::Sidecar => "init_container",
        Role::App => "container",
        Role::Ephemeral => "ephemeral_container",
    }
}

/// `reason` of a rejection: known ones, so that there are not too many (`admissionRejectionReasons` in `kubelet.go`).
pub fn rejection(reason: &str) -> &str {
    const KNOWN: [&str; 21] = [
        "AppArmor",
        "Evicted",
        "InitContainerRestartPolicyForbidden",
        "InvalidNodeInfo",
        "NodeShutdown",
        "OutOfcpu",
        "OutOfephemeral-storage",
        "OutOfmemory",
        "OutOfpods",
        "PodFeatureUnsupported",
        "PodLevelResourcesNotSupported",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SupplementalGroupsPolicyNotSupported",
        "SysctlForbidden",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
        "VolumeAttachmentLimitExceeded",
        "node(s) had taints that the pod didn't tolerate",
    ];
    match reason {
        known if KNOWN.contains(&known) => known,
        extended if extended.starts_with("OutOf") => "OutOfExtendedResources",
        _ => "Other",
    }
}
