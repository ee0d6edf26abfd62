//! [`Counters`]: what has happened on this node since the agent started and how long it took, for `/metrics`
//! (`pkg/kubelet/metrics/metrics.go`, `pkg/volume/util/metrics.go`). Labels are of few values, so this stays small. Differs: pulls that
//! fail are counted as starts that fail, as upstream does, but their back-off is not; making a container and starting it is one
//! operation, `start_container`; a worker's turn (`pod_worker`) does not wait for what it begins; volumes of which nothing is made, as
//! of hostPaths, are not measured when they go. Left out: what only PLEG, an evented CRI, cgroup and memory managers of the kubelet's kind
//! or its start do.

use crate::pod::view::Role;
use api::meta::MetaExt;
use api::prelude::Pod;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

macro_rules! families {
    ($table:ident: $family:ident; $($id:ident = $name:literal [$($label:literal),*] $($buckets:ident)? $help:literal;)*) => {
        $(#[doc = concat!("`", $name, "`")] pub static $id: $family =
            $family { name: $name, help: $help, labels: &[$($label),*], $(buckets: &$buckets)? };)*
        /// All of them.
        pub static $table: &[&$family] = &[$(&$id),*];
    };
}

families! {
    ALL: Counter;
    ADMISSION_REJECTIONS = "kubelet_admission_rejections_total" ["reason"]
        "[ALPHA] Cumulative number pod admission rejections by the Kubelet.";
    PREEMPTIONS = "kubelet_preemptions" ["preemption_signal"] "[ALPHA] Cumulative number of pod preemptions by preemption resource";
    EVICTIONS = "kubelet_evictions" ["eviction_signal"] "[ALPHA] Cumulative number of pod evictions by eviction signal";
    IMAGES_REMOVED = "kubelet_image_garbage_collected_total" ["reason"]
        "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
    IMAGE_VOLUMES_FAILED = "kubelet_image_volume_mounted_errors_total" [] "[BETA] Number of failed image volume mounts.";
    IMAGE_VOLUMES_MOUNTED = "kubelet_image_volume_mounted_succeed_total" []
        "[BETA] Number of successful image volume mounts.";
    IMAGE_VOLUMES_REQUESTED = "kubelet_image_volume_requested_total" [] "[BETA] Number of requested image volumes.";
    CONTAINERS_FAILED = "kubelet_started_containers_errors_total" ["container_type", "code"]
        "[ALPHA] Cumulative number of errors when starting containers";
    CONTAINERS_STARTED = "kubelet_started_containers_total" ["container_type"]
        "[ALPHA] Cumulative number of containers started";
    PODS_FAILED = "kubelet_started_pods_errors_total" [] "[ALPHA] Cumulative number of errors when starting pods";
    PODS_STARTED = "kubelet_started_pods_total" [] "[ALPHA] Cumulative number of pods started";
    USER_PODS_FAILED = "kubelet_started_user_namespaced_pods_errors_total" []
        "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.";
    USER_PODS_STARTED = "kubelet_started_user_namespaced_pods_total" []
        "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.";
    CONTAINERS_ENDED = "kubelet_terminated_containers_total" ["container_type", "exit_code", "reason"]
        "[ALPHA] Cumulative number of container terminations.";
    HOOKS_WITHOUT_TLS = "kubelet_lifecycle_handler_http_fallbacks_total" []
        "[ALPHA] The number of times lifecycle handlers successfully fell back to http from https.";
    CONTAINERS_ALIGNED = "kubelet_container_aligned_compute_resources_count" ["scope", "boundary"]
        "[ALPHA] Cumulative number of aligned compute resources allocated to containers by alignment type.";
    CONTAINERS_NOT_ALIGNED = "kubelet_container_aligned_compute_resources_failure_count" ["scope", "boundary"]
        "[ALPHA] Cumulative number of failures to allocate aligned compute resources to containers by alignment type.";
    STRANGERS = "kubelet_orphaned_runtime_pods_total" []
        "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.";
    RESIZES_INFEASIBLE = "kubelet_pod_infeasible_resizes_total" ["reason_detail"]
        "[ALPHA] Number of infeasible resizes for pods.";
    RESIZES_REQUESTED = "kubelet_container_requested_resizes_total" ["resource", "requirement", "operation"]
        "[ALPHA] Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'.";
    CPU_PINNINGS_FAILED = "kubelet_cpu_manager_pinning_errors_total" []
        "[ALPHA] The number of cpu core allocations which required pinning failed.";
    CPU_PINNINGS = "kubelet_cpu_manager_pinning_requests_total" []
        "[ALPHA] The number of cpu core allocations which required pinning.";
    DEVICE_PLUGINS_REGISTERED = "kubelet_device_plugin_registration_total" ["resource_name"]
        "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name.";
    MEMORY_PINNINGS_FAILED = "kubelet_memory_manager_pinning_errors_total" []
        "[ALPHA] The number of memory pages allocations which required pinning that failed.";
    MEMORY_PINNINGS = "kubelet_memory_manager_pinning_requests_total" []
        "[ALPHA] The number of memory pages allocations which required pinning.";
    POD_RESOURCES_GET_FAILED = "kubelet_pod_resources_endpoint_errors_get" ["server_api_version"]
        "[ALPHA] Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.";
    POD_RESOURCES_GET = "kubelet_pod_resources_endpoint_requests_get" ["server_api_version"]
        "[ALPHA] Number of requests to the PodResource Get endpoint. Broken down by server api version.";
    POD_RESOURCES_GET_ALLOCATABLE = "kubelet_pod_resources_endpoint_requests_get_allocatable" ["server_api_version"]
        "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.";
    POD_RESOURCES_LIST = "kubelet_pod_resources_endpoint_requests_list" ["server_api_version"]
        "[ALPHA] Number of requests to the PodResource List endpoint. Broken down by server api version.";
    POD_RESOURCES = "kubelet_pod_resources_endpoint_requests_total" ["server_api_version"]
        "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.";
    SANDBOXES_FAILED = "kubelet_run_podsandbox_errors_total" ["runtime_handler"]
        "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.";
    OPERATIONS_FAILED = "kubelet_runtime_operations_errors_total" ["operation_type"]
        "[ALPHA] Cumulative number of runtime operation errors by operation type.";
    OPERATIONS = "kubelet_runtime_operations_total" ["operation_type"]
        "[ALPHA] Cumulative number of runtime operations by operation type.";
    TOPOLOGY_FAILED = "kubelet_topology_manager_admission_errors_total" []
        "[ALPHA] The number of admission request failures where resources could not be aligned.";
    TOPOLOGY_ASKED = "kubelet_topology_manager_admission_requests_total" []
        "[ALPHA] The number of admission requests where resources have to be aligned.";
    ALLOCATIONS_FAILED = "resource_manager_allocation_errors_total" ["resource_name", "source"]
        "[ALPHA] Number of errors encountered during exclusive resource allocation.";
    ALLOCATIONS = "resource_manager_allocations_total" ["resource_name", "source"]
        "[ALPHA] Number of exclusive resource allocations performed by a resource manager.";
    ASSIGNMENTS = "resource_manager_container_assignments" ["resource_name", "assignment_type"]
        "[ALPHA] Number of containers with a specific type of resource assignment.";
}

families! {
    PROBES: Counter;
    PROBE_RESULTS = "prober_probe_total" ["probe_type", "result", "container", "pod", "namespace", "pod_uid"]
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
}

/// A family of histograms: how long something took.
#[derive(Debug, PartialEq)]
pub struct Histogram {
    /// Its name.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Upper bounds; the last bucket has none.
    pub buckets: &'static [f64],
}

/// `prometheus.ExponentialBuckets`
const fn exponential<const N: usize>(start: f64, factor: f64) -> [f64; N] {
    let (mut out, mut next, mut i) = ([0.0; N], start, 0);
    while i < N {
        out[i] = next;
        next *= factor;
        i += 1;
    }
    out
}

/// `prometheus.DefBuckets`
static USUAL: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
static CONTAINER_NUMBERS: [f64; 5] = exponential(1.0, 2.0);
static OPERATION: [f64; 14] = exponential(0.005, 2.5);
static TOPOLOGY_MS: [f64; 15] = exponential(0.05, 2.0);
static STATUS: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
static STORAGE: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
static PULL: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];
static START: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// `prometheus.ExponentialBucketsRange(.1, 40, 15)`
static DRA: [f64; 15] = [
    0.1,
    0.1534127404634391,
    0.23535468936502524,
    0.36106407876409946,
    0.5539182980610752,
    0.8497812409839363,
    1.303672689737678,
    1.9999999999999993,
    3.068254809268781,
    4.707093787300503,
    7.221281575281985,
    11.0783659612215,
    16.995624819678717,
    26.07345379475355,
    39.99999999999997,
];
static RESIZE_MS: [f64; 14] = [
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 30000.0, 60000.0, 120000.0, 300000.0, 600000.0,
];

families! {
    HISTOGRAMS: Histogram;
    CSI_OPERATION = "csi_operations_seconds" ["driver_name", "method_name", "grpc_status_code", "migrated"] STORAGE
        "[ALPHA] Container Storage Interface operation duration with gRPC error code status total";
    DRA_CALLS = "dra_grpc_operations_duration_seconds" ["driver_name", "method_name", "grpc_status_code"] DRA
        "[ALPHA] Duration in seconds of the DRA gRPC operations";
    DRA_OPERATIONS = "dra_operations_duration_seconds" ["operation_name", "is_error"] DRA
        "[ALPHA] Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation. The number of failed operations is provided through the histogram's overall count.";
    CONTAINERS_PER_POD = "kubelet_containers_per_pod_count" [] CONTAINER_NUMBERS
        "[ALPHA] The number of containers per pod.";
    DEVICE_ALLOCATION = "kubelet_device_plugin_alloc_duration_seconds" ["resource_name"] USUAL
        "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.";
    IMAGE_PULL = "kubelet_image_pull_duration_seconds" ["image_size_in_bytes"] PULL
        "[ALPHA] Duration in seconds to pull an image.";
    POD_RESIZE = "kubelet_pod_resize_duration_milliseconds" ["success"] RESIZE_MS
        "[ALPHA] Duration in milliseconds to actuate a pod resize";
    POD_START = "kubelet_pod_start_duration_seconds" [] START
        "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    POD_START_SLI = "kubelet_pod_start_sli_duration_seconds" [] START
        "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_START_TOTAL = "kubelet_pod_start_total_duration_seconds" [] START
        "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_STATUS = "kubelet_pod_status_sync_duration_seconds" [] STATUS
        "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.";
    POD_WORKER = "kubelet_pod_worker_duration_seconds" ["operation_type"] USUAL
        "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync";
    POD_WORKER_START = "kubelet_pod_worker_start_duration_seconds" [] USUAL
        "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.";
    SANDBOX = "kubelet_run_podsandbox_duration_seconds" ["runtime_handler"] USUAL
        "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.";
    OPERATION_TIME = "kubelet_runtime_operations_duration_seconds" ["operation_type"] OPERATION
        "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.";
    TOPOLOGY_TIME = "kubelet_topology_manager_admission_duration_ms" [] TOPOLOGY_MS
        "[ALPHA] Duration in milliseconds to serve a pod admission request.";
    STORAGE_OPERATION = "storage_operation_duration_seconds" ["volume_plugin", "operation_name", "status", "migrated"] STORAGE
        "[ALPHA] Storage operation duration";
}

families! {
    PROBE_HISTOGRAMS: Histogram;
    PROBE_TIME = "prober_probe_duration_seconds" ["probe_type", "container", "pod", "namespace"] USUAL
        "[ALPHA] Duration in seconds for a probe response.";
}

/// By name and values of labels.
type Series<T> = BTreeMap<(&'static str, Vec<String>), T>;

/// The values of one histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    /// How many were in each bucket of its family, and in none before.
    pub buckets: Vec<u64>,
    /// Of all values.
    pub sum: f64,
    /// How many in all.
    pub count: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<Series<u64>>,
    spreads: Mutex<Series<Spread>>,
}

fn key(name: &'static str, names: &[&str], labels: &[&str]) -> (&'static str, Vec<String>) {
    debug_assert_eq!(names.len(), labels.len(), "{name}");
    (name, labels.iter().map(|l| (*l).to_owned()).collect())
}

/// The series of one family; one without labels is there from the start.
fn of<T: Clone>(all: &Series<T>, name: &str, labels: &[&str], none: T) -> Vec<(Vec<String>, T)> {
    let of_it = all.iter().filter(|((n, _), _)| *n == name);
    let mut out: Vec<_> = of_it.map(|((_, labels), value)| (labels.clone(), value.clone())).collect();
    if out.is_empty() && labels.is_empty() {
        out.push((Vec::new(), none));
    }
    out
}

impl Counters {
    /// Counts one more.
    pub fn count(&self, counter: &Counter, labels: &[&str]) {
        *self.counts.lock().entry(key(counter.name, counter.labels, labels)).or_default() += 1;
    }

    /// Takes a value in.
    pub fn observe(&self, histogram: &Histogram, labels: &[&str], value: f64) {
        let mut spreads = self.spreads.lock();
        let spread = spreads.entry(key(histogram.name, histogram.labels, labels)).or_default();
        spread.buckets.resize(histogram.buckets.len(), 0);
        if let Some(bucket) = histogram.buckets.iter().position(|bound| value <= *bound) {
            spread.buckets[bucket] += 1;
        }
        spread.sum += value;
        spread.count += 1;
    }

    /// Nothing of a pod is probed any more, so nothing is told of its probes.
    pub fn forget_probes(&self, pod: &Pod) {
        let of_pod = |labels: &[String]| labels[2] == pod.name() && labels[3] == pod.namespace();
        self.counts.lock().retain(|(name, labels), _| *name != PROBE_RESULTS.name || labels[5] != pod.uid());
        self.spreads.lock().retain(|(name, labels), _| *name != PROBE_TIME.name || !of_pod(labels));
    }

    /// The values of one counter.
    pub fn of(&self, counter: &Counter) -> Vec<(Vec<String>, u64)> {
        of(&self.counts.lock(), counter.name, counter.labels, 0)
    }

    /// The values of one histogram.
    pub fn spreads_of(&self, histogram: &Histogram) -> Vec<(Vec<String>, Spread)> {
        let none = Spread { buckets: vec![0; histogram.buckets.len()], ..Spread::default() };
        of(&self.spreads.lock(), histogram.name, histogram.labels, none)
    }

    /// Does something that a container runtime does, by its name in `kuberuntime/instrumented_services.go`.
    pub async fn operation<T, E>(&self, name: &str, doing: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let done = doing.await;
        self.count(&OPERATIONS, &[name]);
        self.observe(&OPERATION_TIME, &[name], begun.elapsed().as_secs_f64());
        if done.is_err() {
            self.count(&OPERATIONS_FAILED, &[name]);
        }
        done
    }

    /// A CSI driver answered, or did not in time.
    pub fn csi(&self, driver: &str, method: &str, code: &str, took: Duration) {
        let method = format!("/csi.v1.Node/{method}");
        self.observe(&CSI_OPERATION, &[driver, &method, code, "false"], took.as_secs_f64());
    }

    /// Something was done with a volume, or failed (`OperationCompleteHook`).
    pub fn storage(&self, plugin: &str, operation: &str, done: bool, took: Duration) {
        let status = if done { "success" } else { "fail-unknown" };
        self.observe(&STORAGE_OPERATION, &[plugin, operation, status, "false"], took.as_secs_f64());
    }
}

/// `image_size_in_bytes` (`GetImageSizeBucket`)
pub fn image_size(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    const SIZES: [(u64, &str); 12] = [
        (100 << 10, "GT100GB"),
        (60 << 10, "60GB-100GB"),
        (40 << 10, "40GB-60GB"),
        (30 << 10, "30GB-40GB"),
        (20 << 10, "20GB-30GB"),
        (10 << 10, "10GB-20GB"),
        (5 << 10, "5GB-10GB"),
        (1 << 10, "1GB-5GB"),
        (500, "500MB-1GB"),
        (100, "100MB-500MB"),
        (10, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    SIZES.iter().find(|(more_than, _)| bytes > more_than * MIB).map_or("N/A", |(_, label)| label)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_images_are_few() {
        let got = [0, 1, 10 << 20, (10 << 20) + 1, 1 << 30, 101 << 30].map(image_size);
        assert_eq!(got, ["N/A", "0-10MB", "0-10MB", "10MB-100MB", "500MB-1GB", "GT100GB"]);
    }

    #[tokio::test]
    async fn operations_are_counted_and_measured() {
        let counters = Counters::default();
        counters.operation("pull_image", async { Ok::<(), ()>(()) }).await.expect("it works");
        counters.operation("pull_image", async { Err::<(), ()>(()) }).await.expect_err("it does not");
        let label = vec!["pull_image".to_owned()];
        assert_eq!(counters.of(&OPERATIONS), [(label.clone(), 2)]);
        assert_eq!(counters.of(&OPERATIONS_FAILED), [(label, 1)]);
        assert_eq!(counters.spreads_of(&OPERATION_TIME)[0].1.count, 2);
        counters.observe(&POD_START, &[], 0.7);
        counters.observe(&POD_START, &[], 1.0);
        counters.observe(&POD_START, &[], 9999.0);
        let spread = &counters.spreads_of(&POD_START)[0].1;
        assert_eq!((&spread.buckets[..3], spread.count), (&[0, 2, 0][..], 3));
    }
}
