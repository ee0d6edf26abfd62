//! Annotations of pods that predate fields: AppArmor's are copied into the fields, seccomp's are only checked
//! (`pkg/registry/core/pod/strategy.go`, `applyAppArmorVersionSkew`; `ValidatePodSpecificAnnotations` and around in
//! `pkg/apis/core/validation/validation.go`).

use super::validate::{validate_app_armor, visit_containers};
use crate::field::{Errors, FieldError, Path};
use crate::pod_references::MIRROR;
use crate::validation::validate_local_descending_path;
use api::k8s::api::core::v1::{AppArmorProfile, Container, PodSpec, SeccompProfile};
use api::prelude::Pod;
use std::collections::BTreeMap;

pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
pub(super) const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const LOCALHOST: &str = "localhost/";

/// Annotations of an object.
pub(super) type Annotations = BTreeMap<String, String>;

/// `ApparmorFieldForAnnotation`, without profiles that the field could not have.
pub(super) fn profile_of(annotation: &str) -> Option<AppArmorProfile> {
    let (type_, localhost_profile) = match annotation {
        "unconfined" => ("Unconfined", None),
        "runtime/default" => ("RuntimeDefault", None),
        other => ("Localhost", Some(other.strip_prefix(LOCALHOST).filter(|name| !name.is_empty())?.to_owned())),
    };
    let profile = AppArmorProfile { type_: type_.to_owned(), localhost_profile };
    validate_app_armor(Some(&profile), &Path::root()).is_empty().then_some(profile)
}

fn is_windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

/// Gives containers that have no AppArmor profile the one of their annotation, unless that is the pod's.
pub(super) fn copy_app_armor(pod: &mut Pod) {
    let (Some(annotations), Some(spec)) = (&pod.metadata.annotations, &mut pod.spec) else { return };
    if annotations.is_empty() || is_windows(spec) {
        return;
    }
    let of_pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in all {
        let given = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
        let annotation = annotations.get(&format!("{APP_ARMOR}{}", container.name)).filter(|_| given.is_none());
        let Some(profile) = annotation.and_then(|a| profile_of(a)).filter(|p| Some(p) != of_pod.as_ref()) else {
            continue;
        };
        container.security_context.get_or_insert_default().app_armor_profile = Some(profile);
    }
}

/// Errors of the annotations of a pod or template (`ValidatePodSpecificAnnotations`). Not checked: tolerations.
pub(super) fn validate(annotations: Option<&Annotations>, spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let Some(annotations) = annotations else { return errors };
    if let Some(mirror) = annotations.get(MIRROR).filter(|_| spec.node_name.as_ref().is_none_or(String::is_empty)) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(&path.key(MIRROR), mirror, detail));
    }
    if let Some(cost) = annotations.get(DELETION_COST).filter(|cost| !is_cost(cost)) {
        errors.push(FieldError::invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer"));
    }
    let of_containers = annotations.iter().filter(|(key, _)| key.starts_with(SECCOMP));
    for (key, profile) in annotations.get_key_value(SECCOMP_OF_POD).into_iter().chain(of_containers) {
        errors.extend(validate_seccomp(profile, &path.child(key)));
    }
    for (key, profile) in annotations {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let path = path.key(key);
        if !has_container(spec, container) {
            errors.push(FieldError::invalid(&path, container, "container not found"));
        }
        let is_known = matches!(profile.as_str(), "" | "runtime/default" | "unconfined");
        if !is_known && !profile.starts_with(LOCALHOST) {
            let detail = format!("invalid AppArmor profile name: {}", crate::field::quote(profile));
            errors.push(FieldError::invalid(&path, profile, &detail));
        }
    }
    errors
}

/// `GetDeletionCostFromPodAnnotations`: no plus sign, no leading zeros.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = text == "0" || !digits.starts_with(['+', '0']);
    is_plain && text.parse::<i32>().is_ok()
}

fn has_container(spec: &PodSpec, name: &str) -> bool {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| &c.name);
    all.chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.name)).any(|n| n == name)
}

fn validate_seccomp(profile: &str, path: &Path) -> Errors {
    match profile.strip_prefix(LOCALHOST) {
        _ if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => Vec::new(),
        Some(file) => validate_local_descending_path(file, path),
        None => vec![FieldError::invalid(path, profile, "must be a valid seccomp profile")],
    }
}

/// Errors of annotations and fields that do not say the same (`validateSeccompAnnotationsAndFields`,
/// `validateAppArmorAnnotationsAndFieldsMatchOnCreate`).
pub(super) fn validate_match(annotations: Option<&Annotations>, spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = validate_seccomp_match(annotations, spec, path);
    errors.extend(validate_app_armor_match(annotations, spec, path));
    errors
}

fn validate_seccomp_match(annotations: Option<&Annotations>, spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let Some(annotations) = annotations else { return errors };
    let mut check = |field: Option<&SeccompProfile>, key: &str, path: &dyn Fn() -> Path| {
        let (Some(field), Some(annotation)) = (field, annotations.get(key)) else { return };
        let defaults = ["runtime/default", "docker/default"];
        let path = || path().child("securityContext").child("seccompProfile");
        let local = field.localhost_profile.as_deref();
        errors.extend(mismatch("seccomp", &field.type_, local, annotation, &defaults, path));
    };
    let of_pod = spec.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    check(of_pod, SECCOMP_OF_POD, &|| path.clone());
    visit_containers(spec, path, |container, path| {
        let field = container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
        check(field, &format!("{SECCOMP}{}", container.name), path);
    });
    errors
}

fn validate_app_armor_match(annotations: Option<&Annotations>, spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let Some(annotations) = annotations.filter(|_| !is_windows(spec)) else { return errors };
    let of_pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let of = |c: &Container| c.security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    visit_containers(spec, path, |container, path| {
        let annotation = annotations.get(&format!("{APP_ARMOR}{}", container.name));
        let (Some(field), Some(annotation)) = (of(container).or_else(|| of_pod.cloned()), annotation) else { return };
        let path = || path().child("securityContext").child("appArmorProfile");
        let local = field.localhost_profile.as_deref();
        errors.extend(mismatch("apparmor", &field.type_, local, annotation, &["runtime/default"], path));
    });
    errors
}

/// What differs between a field and an annotation, if anything. `defaults` is how annotations spell `RuntimeDefault`.
fn mismatch(
    what: &str,
    type_: &str,
    local: Option<&str>,
    annotation: &str,
    defaults: &[&str],
    path: impl Fn() -> Path,
) -> Option<FieldError> {
    let of_type = || {
        Some(FieldError::forbidden(&path().child("type"), &format!("{what} type in annotation and field must match")))
    };
    match (type_, annotation.strip_prefix(LOCALHOST)) {
        ("Unconfined", _) if annotation != "unconfined" => of_type(),
        ("RuntimeDefault", _) if !defaults.contains(&annotation) => of_type(),
        ("Localhost", None) => of_type(),
        ("Localhost", Some(name)) if local != Some(name) => {
            let detail = format!("{what} profile in annotation and field must match");
            Some(FieldError::forbidden(&path().child("localhostProfile"), &detail))
        }
        _ => None,
    }
}

/// Errors of changed annotations (`ValidatePodSpecificAnnotationUpdates`).
pub(super) fn validate_update(new: &Pod, old: &Pod) -> Errors {
    let none = Annotations::new();
    let path = Path::new("metadata").child("annotations");
    let [now, before] = [new, old].map(|pod| pod.metadata.annotations.as_ref().unwrap_or(&none));
    let mut errors = Vec::new();
    let mut forbid = |key: &str, how: &str| {
        if key.starts_with(APP_ARMOR) {
            errors.push(FieldError::forbidden(&path.key(key), &format!("may not {how} AppArmor annotations")));
        }
        if key == MIRROR {
            errors.push(FieldError::forbidden(&path.key(key), &format!("may not {how} mirror pod annotation")));
        }
    };
    before
        .iter()
        .filter(|(key, value)| now.get(*key) != Some(value))
        .for_each(|(key, _)| forbid(key, "remove or update"));
    now.keys().filter(|key| !before.contains_key(*key)).for_each(|key| forbid(key, "add"));
    let no_spec = PodSpec::default();
    errors.extend(validate(Some(now), new.spec.as_ref().unwrap_or(&no_spec), &path));
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_update, check_warnings, created};
    use expect_test::expect;

    fn pod(annotations: &str, rest: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, annotations: {{{annotations}}}}}, spec: {{containers: [{{name: c, image: i{rest}}}]}}}}"
        )
    }

    #[test]
    fn what_is_wrong_with_old_annotations() {
        let profiles = "container.apparmor.security.beta.kubernetes.io/c: foo, container.apparmor.security.beta.kubernetes.io/d: unconfined, container.seccomp.security.alpha.kubernetes.io/c: localhost/../x, seccomp.security.alpha.kubernetes.io/pod: bar, kubernetes.io/config.mirror: x, controller.kubernetes.io/pod-deletion-cost: '07'";
        check_create(
            &pod(profiles, ""),
            expect![[r#"
                metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set
                metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "07": must be a 32bit integer
                metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: "bar": must be a valid seccomp profile
                metadata.annotations.container.seccomp.security.alpha.kubernetes.io/c: Invalid value: "../x": must not contain '..'
                metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Invalid value: "foo": invalid AppArmor profile name: "foo"
                metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: "d": container not found"#]],
        );
    }

    #[test]
    fn an_annotation_of_apparmor_becomes_a_field() {
        let yaml = pod("container.apparmor.security.beta.kubernetes.io/c: localhost/x", "");
        let (_, object, errors) = created(&yaml);
        assert_eq!(errors, "");
        let pod = api::any::downcast_ref::<api::prelude::Pod>(&*object).expect("a pod");
        let context = pod.spec.as_ref().and_then(|s| s.containers[0].security_context.clone()).unwrap_or_default();
        let profile = context.app_armor_profile.expect("copied");
        assert_eq!((profile.type_.as_str(), profile.localhost_profile.as_deref()), ("Localhost", Some("x")));
        check_warnings(
            &yaml,
            None,
            expect![[
                r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead"#
            ]],
        );
    }

    #[test]
    fn fields_and_annotations_say_the_same() {
        let annotations = "container.apparmor.security.beta.kubernetes.io/c: unconfined, container.seccomp.security.alpha.kubernetes.io/c: localhost/y";
        let fields = ", securityContext: {appArmorProfile: {type: RuntimeDefault}, seccompProfile: {type: Localhost, localhostProfile: x}}";
        check_create(
            &pod(annotations, fields),
            expect![[r#"
                spec.containers[0].securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must match
                spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"#]],
        );
    }

    #[test]
    fn annotations_of_apparmor_stay() {
        let field = ", securityContext: {appArmorProfile: {type: Unconfined}}";
        let old = pod("container.apparmor.security.beta.kubernetes.io/c: unconfined", field);
        check_update(
            &old,
            &old.replace("unconfined", "runtime/default"),
            None,
            expect![
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: may not remove or update AppArmor annotations"
            ],
        );
    }
}
