//! Deployment (`pkg/registry/apps/deployment/strategy.go`, `ValidateDeployment*`).

use super::common::{age, age_column, bump_if_spec_changed, column, name, name_column, set, str_of, text, wide};
use super::pod::defaults;
use super::workload::{
    go_int_or_string, int_or_percent, int_or_string_value, selector_cell, selector_value, template_cells,
    validate_at_most, validate_at_most_100_percent, validate_collisions, validate_counts, validate_immutable,
    validate_int_or_percent, validate_selector_and_template, workload_warnings,
};
use super::{Column, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, Raw, is_dns1123_subdomain, validate_non_negative};
use api::k8s::api::apps::v1::{DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment};
use api::k8s::api::core::v1::PodSpec;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::Deployment;
use serde_json::Value;

/// What is particular about a Deployment: a change of its annotations counts as one of its spec.
pub(super) struct DeploymentKind;

impl Strategy for DeploymentKind {
    type Object = Deployment;

    fn pod_spec(object: &mut Deployment) -> Option<&mut PodSpec> {
        object.spec.as_mut()?.template.spec.as_mut()
    }

    fn default(deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        set(&mut spec.replicas, 1);
        let strategy = spec.strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            set(&mut rolling.max_unavailable, IntOrString::String("25%".to_owned()));
            set(&mut rolling.max_surge, IntOrString::String("25%".to_owned()));
        }
        set(&mut spec.revision_history_limit, 10);
        set(&mut spec.progress_deadline_seconds, 600);
        defaults::template(&mut spec.template);
    }

    fn prepare_create(deployment: &mut Deployment) {
        deployment.status = Some(DeploymentStatus::default());
        deployment.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut Deployment, old: &Deployment) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
        let annotations = |d: &Deployment| d.metadata.annotations.clone().unwrap_or_default();
        if annotations(new) != annotations(old) {
            new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
        }
    }

    fn prepare_status_update(new: &mut Deployment, old: &Deployment) {
        new.spec = old.spec.clone();
        new.metadata.labels = old.metadata.labels.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(deployment: &Deployment) -> Errors {
        let no_spec = DeploymentSpec::default();
        validate_spec(deployment.spec.as_ref().unwrap_or(&no_spec), &Path::new("spec"))
    }

    fn validate_update(new: &Deployment, old: &Deployment) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
        let path = Path::new("spec").child("selector");
        validate_immutable(&new.selector, &old.selector, || selector_value(&new.selector), &path)
    }

    fn validate_status_update(new: &Deployment, old: &Deployment) -> Errors {
        let path = Path::new("status");
        let Some(status) = &new.status else { return Vec::new() };
        let mut errors =
            validate_non_negative(status.observed_generation.unwrap_or(0), &path.child("observedGeneration"));
        let counts = [
            ("replicas", status.replicas),
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
            ("unavailableReplicas", status.unavailable_replicas),
            ("terminatingReplicas", status.terminating_replicas),
        ];
        errors.extend(validate_counts(counts, &path));
        let (replicas, ready) = (status.replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0));
        let limits = [
            ("updatedReplicas", status.updated_replicas, "status.replicas", replicas),
            ("readyReplicas", status.ready_replicas, "status.replicas", replicas),
            ("availableReplicas", status.available_replicas, "status.replicas", replicas),
            ("availableReplicas", status.available_replicas, "readyReplicas", ready),
        ];
        errors.extend(validate_at_most(limits, &path));
        let before = old.status.as_ref().and_then(|s| s.collision_count);
        errors.extend(validate_collisions(status.collision_count, before, &path));
        errors
    }

    fn warnings(deployment: &Deployment, old: Option<&Deployment>) -> Vec<String> {
        workload_warnings(deployment, old, deployment.spec.as_ref().map(|s| &s.template))
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Ready"),
            column("Up-to-date"),
            column("Available"),
            age_column(),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(deployment: &Deployment, now: jiff::Timestamp) -> Vec<Value> {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.clone().unwrap_or_default();
        let desired = spec.and_then(|s| s.replicas).unwrap_or(0);
        let [names, images] = template_cells(spec.map(|s| &s.template));
        vec![
            name(deployment),
            format!("{}/{desired}", status.ready_replicas.unwrap_or(0)).into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
            age(deployment, now),
            names,
            images,
            selector_cell(spec.map(|s| &s.selector)),
        ]
    }

    fn quantities(deployment: &mut Deployment, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = deployment.spec.as_mut().and_then(|s| s.template.spec.as_mut()) {
            defaults::quantities(spec, visit);
        }
    }
}

fn validate_spec(spec: &DeploymentSpec, path: &Path) -> Errors {
    let mut errors = validate_counts([("replicas", spec.replicas)], path);
    errors.extend(validate_selector_and_template(&spec.selector, &spec.template, path));
    let no_strategy = DeploymentStrategy::default();
    errors.extend(validate_strategy(spec.strategy.as_ref().unwrap_or(&no_strategy), &path.child("strategy")));
    let counts = [
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
        ("progressDeadlineSeconds", spec.progress_deadline_seconds),
    ];
    errors.extend(validate_counts(counts, path));
    if let Some(deadline) = spec.progress_deadline_seconds.filter(|d| *d <= spec.min_ready_seconds.unwrap_or(0)) {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(&path.child("progressDeadlineSeconds"), deadline, detail));
    }
    errors
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path) -> Errors {
    let path_of_rolling = path.child("rollingUpdate");
    match (str_of(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            vec![FieldError::forbidden(&path_of_rolling, detail)]
        }
        ("Recreate", None) => Vec::new(),
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &path_of_rolling),
        ("RollingUpdate", None) => {
            vec![FieldError::required(&path_of_rolling, "this should be defaulted and never be nil")]
        }
        (other, _) => {
            // Upstream prints the internal struct.
            let rolling = strategy.rolling_update.as_ref().map(|r| {
                let [most, surge] = [&r.max_unavailable, &r.max_surge].map(go_int_or_string);
                format!(r#"{{"MaxUnavailable":{most},"MaxSurge":{surge}}}"#)
            });
            let rolling = rolling.as_deref().unwrap_or("null");
            let value = Raw(format!(r#"{{"Type":{other:?},"RollingUpdate":{rolling}}}"#));
            vec![FieldError::not_supported(path, value, &["Recreate", "RollingUpdate"])]
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path) -> Errors {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let mut errors = validate_int_or_percent(unavailable, &path.child("maxUnavailable"));
    errors.extend(validate_int_or_percent(surge, &path.child("maxSurge")));
    if int_or_percent(unavailable) == 0 && int_or_percent(surge) == 0 {
        let detail = "may not be 0 when `maxSurge` is 0";
        let value = int_or_string_value(unavailable);
        errors.push(FieldError::invalid(&path.child("maxUnavailable"), &value, detail));
    }
    errors.extend(validate_at_most_100_percent(unavailable, &path.child("maxUnavailable")));
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update};
    use expect_test::expect;

    const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'nginx:1'}]}";

    #[test]
    fn a_minimal_deployment_gets_upstreams_defaults() {
        check_defaults(
            WEB,
            expect![[r#"
            spec.progressDeadlineSeconds: 600
            spec.replicas: 1
            spec.revisionHistoryLimit: 10
            spec.strategy.rollingUpdate.maxSurge: "25%"
            spec.strategy.rollingUpdate.maxUnavailable: "25%"
            spec.strategy.type: "RollingUpdate"
            spec.template.spec.containers[0].imagePullPolicy: "IfNotPresent"
            spec.template.spec.containers[0].resources: {}
            spec.template.spec.containers[0].terminationMessagePath: "/dev/termination-log"
            spec.template.spec.containers[0].terminationMessagePolicy: "File"
            spec.template.spec.dnsPolicy: "ClusterFirst"
            spec.template.spec.restartPolicy: "Always"
            spec.template.spec.schedulerName: "default-scheduler"
            spec.template.spec.securityContext: {}
            spec.template.spec.terminationGracePeriodSeconds: 30"#]],
        );
    }

    #[test]
    fn mistakes() {
        check_create(
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}",
            expect![[r#"
            spec.selector: Required value
            spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`
            spec.template.spec.containers: Required value"#]],
        );
        check_create(
            &WEB.replace("labels: {app: web}", "labels: {app: other}"),
            expect![[
                r#"spec.template.metadata.labels: Invalid value: {"app":"other"}: `selector` does not match template `labels`"#
            ]],
        );
        check_create(
            &WEB.replace(
                "  selector",
                "  strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}\n  replicas: -1\n  selector",
            ),
            expect![[r#"
            spec.replicas: Invalid value: -1: must be greater than or equal to 0
            spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"#]],
        );
        check_create(
            &WEB.replace("  selector", "  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: '0%'}}\n  selector"),
            expect![[
                r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0"#
            ]],
        );
        check_create(
            &WEB.replace(
                "  selector",
                "  strategy: {rollingUpdate: {maxSurge: x, maxUnavailable: '120%'}}\n  selector",
            ),
            expect![[r#"
            spec.strategy.rollingUpdate.maxSurge: Invalid value: "x": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
            spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "120%": must not be greater than 100%"#]],
        );
    }

    #[test]
    fn changes_bump_the_generation_and_the_selector_stays() {
        check_update(WEB, WEB, None, expect!["generation 1"]);
        check_update(WEB, &WEB.replace("nginx:1", "nginx:2"), None, expect!["generation 2"]);
        check_update(
            WEB,
            &WEB.replace("{name: web}", "{name: web, annotations: {a: b}}"),
            None,
            expect!["generation 2"],
        );
        check_update(
            WEB,
            &WEB.replace("app: web", "app: x"),
            None,
            expect![[r#"spec.selector: Invalid value: {"matchLabels":{"app":"x"}}: field is immutable"#]],
        );
        check_update(WEB, &WEB.replace("nginx:1", "nginx:2"), Some("status"), expect!["generation 1"]);
    }

    #[test]
    fn row() {
        check_row(
            &format!(
                "{WEB}\n  replicas: 3\nstatus: {{replicas: 3, readyReplicas: 2, updatedReplicas: 3, availableReplicas: 2}}"
            ),
            expect![[r#"
            Name | Ready | Up-to-date | Available | Age | Containers | Images | Selector
            web | 2/3 | 3 | 2 | <unknown> | c | nginx:1 | app=web"#]],
        );
    }
}
