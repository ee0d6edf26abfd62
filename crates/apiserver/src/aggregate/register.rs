//! Local APIServices: one for each group version that is served here (`kube-aggregator/pkg/controllers/autoregister`,
//! `pkg/controlplane/controller/crdregistration`). Pure.
//!
//! Those of built-in kinds are made at start and then belong to the user; those of custom resources are kept.

use crate::kinds_table::KindTable;
use crate::reader::KindRef;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use api::prelude::{MetaExt, ObjectMeta};
use std::collections::BTreeMap;

/// How an APIService is looked after: [`ON_START`] or [`ALWAYS`].
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// Group version, group priority, version priority (`pkg/controlplane/apiserver/aggregator.go`, `cmd/kube-apiserver/app/aggregator.go`).
const PRIORITIES: [(&str, &str, i32, i32); 26] = [
    ("", "v1", 18000, 1),
    ("apiregistration.k8s.io", "v1", 20000, 20),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("admissionregistration.k8s.io", "v1beta1", 16700, 12),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
    ("internal.apiserver.k8s.io", "v1alpha1", 16000, 9),
    ("storagemigration.k8s.io", "v1beta1", 15800, 9),
    ("resource.k8s.io", "v1beta2", 16200, 15),
];
/// Of custom resources (`crdregistration_controller.go`).
const CUSTOM: (i32, i32) = (1000, 100);

/// The default priorities of a group version.
pub(super) fn priorities(group: &str, version: &str) -> (i32, i32) {
    let known = PRIORITIES.iter().find(|(g, v, ..)| (*g, *v) == (group, version));
    known.map_or(CUSTOM, |(_, _, of_group, of_version)| (*of_group, *of_version))
}

/// What is to be done with an APIService.
#[derive(Debug)]
pub(super) enum Change {
    Create(APIService),
    Update(APIService),
    Delete(String),
}

/// The APIServices for all that is served here. The group of APIServices itself needs none.
pub(super) fn wanted(kinds: &KindTable, crds: &[CustomResourceDefinition]) -> Vec<APIService> {
    let mut all: BTreeMap<(String, String), &str> = BTreeMap::new();
    for crd in crds {
        for version in crd.spec.versions.iter().filter(|v| v.served) {
            all.insert((crd.spec.group.clone(), version.name.clone()), ALWAYS);
        }
    }
    let built_in = kinds.all().iter().filter(|k| matches!(k, KindRef::BuiltIn(_))).map(|k| k.info());
    for info in built_in.filter(|i| i.group != "apiregistration.k8s.io") {
        all.insert((info.group.to_string(), info.version.to_string()), ON_START);
    }
    all.into_iter().map(|((group, version), managed)| local(&group, &version, managed)).collect()
}

fn local(group: &str, version: &str, managed: &str) -> APIService {
    let (group_priority_minimum, version_priority) = priorities(group, version);
    APIService {
        metadata: ObjectMeta {
            name: Some(format!("{version}.{group}")),
            labels: Some(BTreeMap::from([(MANAGED.to_owned(), managed.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: Some(group.to_owned()).filter(|g| !g.is_empty()),
            version: Some(version.to_owned()),
            group_priority_minimum,
            version_priority,
            ..APIServiceSpec::default()
        }),
        status: None,
    }
}

fn managed(service: &APIService) -> &str {
    service.label(MANAGED).unwrap_or_default()
}

/// `autoregister_controller.go`, `checkAPIService`: what nobody manages is left alone; `first` is the first time of this process.
pub(super) fn plan(wanted: &[APIService], existing: &[APIService], first: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    for want in wanted.iter().filter(|w| first || managed(w) == ALWAYS) {
        match existing.iter().find(|e| e.name() == want.name()) {
            None => changes.push(Change::Create(want.clone())),
            Some(have) if managed(have).is_empty() || same_spec(want, have) => {}
            Some(have) => {
                let mut next = have.clone();
                next.spec.clone_from(&want.spec);
                changes.push(Change::Update(next));
            }
        }
    }
    let gone = |have: &&APIService| {
        let kept = wanted.iter().any(|w| w.name() == have.name());
        !kept && (managed(have) == ALWAYS || (first && managed(have) == ON_START))
    };
    changes.extend(existing.iter().filter(gone).map(|have| Change::Delete(have.name().to_owned())));
    changes
}

fn same_spec(a: &APIService, b: &APIService) -> bool {
    // An empty group may be stored as text or be left out.
    let plain = |s: &APIService| {
        let mut spec = s.spec.clone().unwrap_or_default();
        spec.group = spec.group.filter(|g| !g.is_empty());
        spec
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(changes: &[Change]) -> Vec<String> {
        let show = |c: &Change| match c {
            Change::Create(s) => format!("+{}", s.name()),
            Change::Update(s) => format!("~{}", s.name()),
            Change::Delete(name) => format!("-{name}"),
        };
        changes.iter().map(show).collect()
    }

    #[test]
    fn built_in_groups_have_upstreams_priorities() {
        for service in wanted(&KindTable::built_in(), &[]) {
            let spec = service.spec.clone().unwrap_or_default();
            assert_ne!(spec.group_priority_minimum, CUSTOM.0, "{}", service.name());
        }
    }

    #[test]
    fn users_may_delete_built_in_ones_but_not_those_of_custom_resources() {
        let (kept, custom) = (local("apps", "v1", ON_START), local("example.com", "v1", ALWAYS));
        let all = [kept.clone(), custom.clone()];
        assert_eq!(show(&plan(&all, &[], true)), ["+v1.apps", "+v1.example.com"]);
        assert_eq!(show(&plan(&all, &[], false)), ["+v1.example.com"]);
        assert!(plan(&all, &all, true).is_empty());
        assert_eq!(show(&plan(std::slice::from_ref(&kept), &all, false)), ["-v1.example.com"]);
    }

    #[test]
    fn what_a_user_made_is_left_alone() {
        let mut taken = local("example.com", "v1", ALWAYS);
        taken.metadata.labels = None;
        taken.spec.get_or_insert_default().version_priority = 7;
        assert!(plan(&[local("example.com", "v1", ALWAYS)], &[taken.clone()], true).is_empty());
        assert!(plan(&[], &[taken], true).is_empty());
    }
}
