//! Role, ClusterRole and their bindings (`pkg/registry/rbac/*/strategy.go`, `pkg/apis/rbac/validation/validation.go`).
//! What a user may grant (escalation) is the API server's question, not this file's.

use super::common::{age, age_column, column, name, name_column, str_of, wide};
use super::{Column, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::selector::from_label_selector;
use crate::validation::{
    Messages, Raw, invalid_each, is_dns1123_subdomain, is_path_segment_name, one_of, required, validate_label_selector,
};
use api::k8s::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use api::prelude::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What is particular about a Role.
pub(super) struct RoleKind;

impl Strategy for RoleKind {
    type Object = Role;

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(role: &Role) -> Errors {
        validate_rules(role.rules.as_deref(), true)
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;
}

/// What is particular about a ClusterRole: rules for paths, and rules gathered from others.
pub(super) struct ClusterRoleKind;

impl Strategy for ClusterRoleKind {
    type Object = ClusterRole;

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(role: &ClusterRole) -> Errors {
        let mut errors = validate_rules(role.rules.as_deref(), false);
        if let Some(aggregation) = &role.aggregation_rule {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
            if selectors.is_empty() {
                let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(FieldError::required(&path, detail));
            }
            for (i, selector) in selectors.iter().enumerate() {
                let path = path.index(i);
                errors.extend(validate_label_selector(Some(selector), &path));
                if from_label_selector(selector).is_err() {
                    // Upstream shows what did not come of the selector.
                    errors.push(FieldError::invalid(&path, &Value::Null, "invalid label selector."));
                }
            }
        }
        errors
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;
}

/// What is particular about a RoleBinding: the role it refers to stays.
pub(super) struct RoleBindingKind;

impl Strategy for RoleBindingKind {
    type Object = RoleBinding;

    fn default(binding: &mut RoleBinding) {
        default_binding(&mut binding.role_ref, binding.subjects.as_deref_mut());
    }

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(binding: &RoleBinding) -> Errors {
        validate_binding(&binding.role_ref, binding.subjects.as_deref(), true)
    }

    fn validate_update(new: &RoleBinding, old: &RoleBinding) -> Errors {
        validate_reference_change(&new.role_ref, &old.role_ref)
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn columns() -> Vec<Column> {
        binding_columns()
    }

    fn cells(binding: &RoleBinding, now: jiff::Timestamp) -> Vec<Value> {
        let mut cells = vec![name(binding), role_text(&binding.role_ref), age(binding, now)];
        cells.extend(subject_cells(binding.subjects.as_deref()));
        cells
    }
}

/// What is particular about a ClusterRoleBinding: the role it refers to stays.
pub(super) struct ClusterRoleBindingKind;

impl Strategy for ClusterRoleBindingKind {
    type Object = ClusterRoleBinding;

    fn default(binding: &mut ClusterRoleBinding) {
        default_binding(&mut binding.role_ref, binding.subjects.as_deref_mut());
    }

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(binding: &ClusterRoleBinding) -> Errors {
        validate_binding(&binding.role_ref, binding.subjects.as_deref(), false)
    }

    fn validate_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Errors {
        validate_reference_change(&new.role_ref, &old.role_ref)
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn columns() -> Vec<Column> {
        binding_columns()
    }

    fn cells(binding: &ClusterRoleBinding, now: jiff::Timestamp) -> Vec<Value> {
        let mut cells = vec![name(binding), role_text(&binding.role_ref), age(binding, now)];
        cells.extend(subject_cells(binding.subjects.as_deref()));
        cells
    }
}

fn default_binding(role: &mut RoleRef, subjects: Option<&mut [Subject]>) {
    super::common::text(&mut role.api_group, GROUP);
    for subject in subjects.into_iter().flatten() {
        if str_of(&subject.api_group).is_empty() && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

fn validate_rules(rules: Option<&[PolicyRule]>, namespaced: bool) -> Errors {
    let mut errors = Vec::new();
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        let path = Path::new("rules").index(i);
        if rule.verbs.is_empty() {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        if !empty(&rule.non_resource_urls) {
            let path = path.child("nonResourceURLs");
            let value = json!(rule.non_resource_urls);
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&path, &value, detail));
            }
            if !empty(&rule.api_groups) || !empty(&rule.resources) || !empty(&rule.resource_names) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&path, &value, detail));
            }
            continue;
        }
        if empty(&rule.api_groups) {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), detail));
        }
        if empty(&rule.resources) {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), detail));
        }
    }
    errors
}

fn validate_binding(role: &RoleRef, subjects: Option<&[Subject]>, namespaced: bool) -> Errors {
    let path = Path::new("roleRef");
    let mut errors = Vec::new();
    one_of(&mut errors, &path.child("apiGroup"), str_of(&role.api_group), &[GROUP]);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    one_of(&mut errors, &path.child("kind"), &role.kind, kinds);
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        errors.extend(invalid_each(&path.child("name"), &role.name, is_path_segment_name(&role.name)));
    }
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        errors.extend(validate_subject(subject, namespaced, &Path::new("subjects").index(i)));
    }
    errors
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    required(&mut errors, &path.child("name"), &subject.name);
    let group = str_of(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                let messages = is_dns1123_subdomain(&subject.name);
                errors.extend(invalid_each(&path.child("name"), &subject.name, messages));
            }
            one_of(&mut errors, &path.child("apiGroup"), group, &[""]);
            if !namespaced {
                required(&mut errors, &path.child("namespace"), str_of(&subject.namespace));
            }
        }
        "User" | "Group" => one_of(&mut errors, &path.child("apiGroup"), group, &[GROUP]),
        other => one_of(&mut errors, &path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
    errors
}

fn validate_reference_change(new: &RoleRef, old: &RoleRef) -> Errors {
    if new == old {
        return Vec::new();
    }
    let (group, kind, name) = (str_of(&new.api_group), &new.kind, &new.name);
    let value = Raw(format!(r#"{{"APIGroup":{group:?},"Kind":{kind:?},"Name":{name:?}}}"#));
    vec![FieldError::invalid(&Path::new("roleRef"), value, "cannot change roleRef")]
}

fn binding_columns() -> Vec<Column> {
    vec![name_column(), column("Role"), age_column(), wide("Users"), wide("Groups"), wide("ServiceAccounts")]
}

fn role_text(role: &RoleRef) -> Value {
    format!("{}/{}", role.kind, role.name).into()
}

fn subject_cells(subjects: Option<&[Subject]>) -> [Value; 3] {
    ["User", "Group", "ServiceAccount"].map(|kind| {
        let of_kind = subjects.unwrap_or_default().iter().filter(|s| s.kind == kind);
        let names: Vec<String> = of_kind
            .map(|s| match str_of(&s.namespace) {
                "" => s.name.clone(),
                namespace if kind == "ServiceAccount" => format!("{namespace}/{}", s.name),
                _ => s.name.clone(),
            })
            .collect();
        names.join(", ").into()
    })
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_row, check_update};
    use expect_test::expect;

    #[test]
    fn roles_and_bindings() {
        check_create(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a%b}, rules: [{nonResourceURLs: [/x]}]}",
            expect![[r#"
            metadata.name: Invalid value: "a%b": may not contain '%'
            rules[0].verbs: Required value: verbs must contain at least one value
            rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs"#]],
        );
        let binding = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: 'system:x'}
roleRef: {kind: ClusterRole, name: view}
subjects: [{kind: User, name: ann}, {kind: ServiceAccount, name: bot, namespace: ci}]";
        check_row(
            binding,
            expect![[r#"
            Name | Role | Age | Users | Groups | ServiceAccounts
            system:x | ClusterRole/view | <unknown> | ann |  | ci/bot"#]],
        );
        check_create(
            &binding.replace("kind: ClusterRole,", "kind: Role,").replace(", namespace: ci", ""),
            expect![[r#"
            roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"
            subjects[1].namespace: Required value"#]],
        );
        check_update(
            binding,
            &binding.replace("view", "edit"),
            None,
            expect![[
                r#"roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole","Name":"edit"}: cannot change roleRef"#
            ]],
        );
    }
}
