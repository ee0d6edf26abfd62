//! Controllers: each a pure `plan` over what the caches show, run by the one loop in [`run`].
//!
//! `all()` is the table. A controller never loops, sleeps, retries or spawns, and sees nothing but [`client`].

mod attach_detach;
mod attributes_class_protection;
mod autoscaler;
mod bootstrap_signer;
mod certificates;
mod clusterrole_aggregation;
mod cronjob;
mod daemonset;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod event_ttl;
mod expand;
mod garbage_collector;
mod garbage_graph;
mod history;
mod job;
mod legacy_token_cleaner;
mod metrics;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod plan;
mod pod_gc;
mod pods;
mod raw;
mod replicaset;
mod replication_controller;
mod resource_claim;
mod resource_quota;
mod root_ca;
pub mod run;
mod service_account;
mod service_addresses;
mod service_cidr;
mod statefulset;
#[cfg(test)]
mod testing;
mod token_cleaner;
mod token_secrets;
mod ttl_after_finished;
mod validatingadmissionpolicy_status;
mod volume_binder;
mod volume_protection;

pub use certificates::{Life, Signer};
pub use metrics::QueueMetrics;
pub use plan::{Done, Key, Kinds, Plan, PlannedEvent, Target, Task, Write};
pub use run::{Context, Controller, Facts, PodRange, Runner, Source, Watches};
pub use token_secrets::TokenMaker;

/// Every controller, in the order they are started.
pub fn all() -> Vec<Runner> {
    vec![
        Runner::of::<deployment::Deployments>(),
        Runner::of::<replicaset::ReplicaSets>(),
        Runner::of::<service_account::ServiceAccounts>(),
        Runner::of::<root_ca::RootCa>(),
        Runner::of::<endpointslice::EndpointSlices>(),
        Runner::of::<endpoints::EndpointsKeeper>(),
        Runner::of::<endpointslice_mirroring::Mirroring>(),
        Runner::of::<namespace::Namespaces>(),
        Runner::of::<garbage_collector::GarbageCollector>(),
        Runner::of::<job::Jobs>(),
        Runner::of::<ttl_after_finished::TtlAfterFinished>(),
        Runner::of::<pod_gc::PodGc>(),
        Runner::of::<node_lifecycle::NodeLifecycle>(),
        Runner::of::<node_ipam::NodeIpam>(),
        Runner::of::<clusterrole_aggregation::ClusterRoleAggregation>(),
        Runner::of::<replication_controller::ReplicationControllers>(),
        Runner::of::<daemonset::DaemonSets>(),
        Runner::of::<statefulset::StatefulSets>(),
        Runner::of::<cronjob::CronJobs>(),
        Runner::of::<disruption::Disruption>(),
        Runner::of::<resource_quota::ResourceQuotas>(),
        Runner::of::<validatingadmissionpolicy_status::PolicyStatus>(),
        Runner::of::<certificates::Certificates>(),
        Runner::of::<token_cleaner::TokenCleaner>(),
        Runner::of::<bootstrap_signer::BootstrapSigner>(),
        Runner::of::<token_secrets::TokenSecrets>(),
        Runner::of::<legacy_token_cleaner::LegacyTokenCleaner>(),
        Runner::of::<event_ttl::EventTtl>(),
        Runner::of::<volume_binder::VolumeBinder>(),
        Runner::of::<volume_protection::ClaimProtection>(),
        Runner::of::<volume_protection::VolumeProtection>(),
        Runner::of::<ephemeral_volume::EphemeralVolumes>(),
        Runner::of::<resource_claim::PodClaims>(),
        Runner::of::<resource_claim::ClaimReservations>(),
        Runner::of::<device_taint_eviction::DeviceTaintEviction>(),
        Runner::of::<attach_detach::AttachDetach>(),
        Runner::of::<expand::Expand>(),
        Runner::of::<autoscaler::HorizontalPodAutoscalers>(),
        Runner::of::<attributes_class_protection::AttributesClassProtection>(),
        Runner::of::<service_cidr::ServiceCidrs>(),
        Runner::of::<service_addresses::ServiceAddresses>(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_those_of_accounts_and_unique() {
        let names: Vec<&str> = super::all().iter().map(|r| r.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        for name in super::all().iter().map(|r| r.account) {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name} is no account name");
        }
    }
}
