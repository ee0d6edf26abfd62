//! Records as clients see them, and which of them a client wants to see. Pure.

use crate::record::{ContainerRecord, SandboxRecord};
use crate::spec::container::signal_word;
use node_api::cri::LinuxPodSandboxStatus;
use node_api::cri::{
    Container, ContainerFilter, ContainerResources, ContainerStatus, Namespace, PodIp, PodSandbox, PodSandboxFilter,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use std::collections::HashMap;

fn sandbox_state(record: &SandboxRecord) -> PodSandboxState {
    if record.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

pub(crate) fn sandbox(record: &SandboxRecord) -> PodSandbox {
    let config = &record.config;
    PodSandbox {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: sandbox_state(record).into(),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn sandbox_status(record: &SandboxRecord) -> PodSandboxStatus {
    let config = &record.config;
    let ips = if record.ready { record.ips.as_slice() } else { &[] };
    let options = config.linux.as_ref().and_then(|l| l.security_context.as_ref()?.namespace_options.clone());
    PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: sandbox_state(record).into(),
        created_at: record.created_at,
        network: Some(PodSandboxNetworkStatus {
            ip: ips.first().cloned().unwrap_or_default(),
            additional_ips: ips.iter().skip(1).map(|ip| PodIp { ip: ip.clone() }).collect(),
        }),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn container(record: &ContainerRecord) -> Container {
    let config = &record.config;
    Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        state: record.state().into(),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
    }
}

pub(crate) fn container_status(record: &ContainerRecord) -> ContainerStatus {
    let config = &record.config;
    let linux = config.linux.as_ref().and_then(|l| l.resources.clone());
    ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: record.state().into(),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record.log_path.clone(),
        resources: linux.map(|linux| ContainerResources { linux: Some(linux), windows: None }),
        user: record.user.clone(),
        stop_signal: signal_word(&record.stop_signal).into(),
    }
}

/// Whether `labels` has all of `selector`.
pub(crate) fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(crate) fn wants_sandbox(filter: &PodSandboxFilter, record: &SandboxRecord) -> bool {
    record.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|s| s.state() == sandbox_state(record))
        && selects(&filter.label_selector, &record.config.labels)
}

pub(crate) fn wants_container(filter: &ContainerFilter, record: &ContainerRecord) -> bool {
    record.id.starts_with(&filter.id)
        && record.sandbox.starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|s| s.state() == record.state())
        && selects(&filter.label_selector, &record.config.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::cri::{ContainerConfig, ContainerState, ContainerStateValue, PodSandboxStateValue};

    #[test]
    fn filters_must_all_fit() {
        let labels = HashMap::from([("app".to_owned(), "web".to_owned())]);
        let config = ContainerConfig { labels: labels.clone(), ..ContainerConfig::default() };
        let c = ContainerRecord { id: "abc".into(), sandbox: "s1".into(), config, ..ContainerRecord::default() };
        let state = |s: ContainerState| Some(ContainerStateValue { state: s.into() });
        let all = ContainerFilter {
            id: "ab".into(),
            state: state(ContainerState::ContainerCreated),
            pod_sandbox_id: "s1".into(),
            label_selector: labels,
        };
        assert!(wants_container(&all, &c) && wants_container(&ContainerFilter::default(), &c));
        let others = [
            ContainerFilter { id: "b".into(), ..all.clone() },
            ContainerFilter { state: state(ContainerState::ContainerRunning), ..all.clone() },
            ContainerFilter { pod_sandbox_id: "s2".into(), ..all.clone() },
            ContainerFilter { label_selector: HashMap::from([("app".into(), "db".into())]), ..all },
        ];
        assert!(others.iter().all(|f| !wants_container(f, &c)));
        let stopped = PodSandboxFilter {
            state: Some(PodSandboxStateValue { state: PodSandboxState::SandboxNotready.into() }),
            ..Default::default()
        };
        assert!(wants_sandbox(&stopped, &SandboxRecord::default()));
        assert!(!wants_sandbox(&stopped, &SandboxRecord { ready: true, ..SandboxRecord::default() }));
    }

    #[test]
    fn a_stopped_sandbox_has_no_address() {
        let mut s = SandboxRecord { ready: true, ips: vec!["10.0.0.2".into(), "fd::2".into()], ..Default::default() };
        let network = sandbox_status(&s).network.expect("one");
        assert_eq!((network.ip.as_str(), network.additional_ips.len()), ("10.0.0.2", 1));
        s.ready = false;
        assert_eq!(sandbox_status(&s).network.expect("one").ip, "");
    }
}
