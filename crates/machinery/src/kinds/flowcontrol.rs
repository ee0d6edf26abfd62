//! FlowSchema and PriorityLevelConfiguration (`pkg/registry/flowcontrol/*/strategy.go`,
//! `pkg/apis/flowcontrol/validation/validation.go`). That the mandatory objects
//! keep their fixed spec is not checked: the API server puts it back.

use super::common::{age, age_column, bump_if_spec_changed, column, name, name_column, nonzero, set, str_of};
use super::metadata::reset_for_status;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, one_of, required};
use api::k8s::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, FlowSchemaStatus, LimitResponse, LimitedPriorityLevelConfiguration,
    NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
    PriorityLevelConfigurationStatus, QueuingConfiguration, ResourcePolicyRule, Subject,
};
use api::prelude::MetaExt;
use serde_json::{Value, json};

/// What is particular about a FlowSchema.
pub(super) struct FlowSchemaKind;

impl Strategy for FlowSchemaKind {
    type Object = FlowSchema;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(schema: &mut FlowSchema) {
        nonzero(&mut schema.spec.get_or_insert_default().matching_precedence, 1000);
    }

    fn prepare_create(schema: &mut FlowSchema) {
        schema.status = Some(FlowSchemaStatus::default());
        schema.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut FlowSchema, old: &FlowSchema) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut FlowSchema, old: &FlowSchema) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_status_update(new: &FlowSchema, _old: &FlowSchema) -> Errors {
        let conditions = new.status.iter().flat_map(|s| s.conditions.iter().flatten());
        validate_conditions(conditions.map(|c| str_of(&c.type_)))
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(schema: &FlowSchema) -> Errors {
        let spec = schema.spec.clone().unwrap_or_default();
        validate_schema(&spec, schema.name(), &Path::new("spec"))
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("PriorityLevel"),
            column("MatchingPrecedence"),
            column("DistinguisherMethod"),
            age_column(),
            column("MissingPL"),
        ]
    }

    fn cells(schema: &FlowSchema, now: jiff::Timestamp) -> Vec<Value> {
        let spec = schema.spec.clone().unwrap_or_default();
        let conditions = schema.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let dangling = conditions.iter().find(|c| str_of(&c.type_) == "Dangling");
        vec![
            name(schema),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or(0).into(),
            spec.distinguisher_method.map_or_else(|| "<none>".to_owned(), |m| m.type_).into(),
            age(schema, now),
            dangling.map_or("?", |c| str_of(&c.status)).into(),
        ]
    }
}

fn validate_schema(spec: &FlowSchemaSpec, name: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let precedence = spec.matching_precedence.unwrap_or(0);
    let mut wrong =
        |detail: &str| errors.push(FieldError::invalid(&path.child("matchingPrecedence"), precedence, detail));
    if precedence <= 0 {
        wrong("must be a positive value");
    }
    if precedence > 10_000 {
        wrong("must not be greater than 10000");
    }
    if precedence == 1 && name != "exempt" {
        wrong("only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = &spec.distinguisher_method {
        let known = ["ByNamespace", "ByUser"];
        if !known.contains(&method.type_.as_str()) {
            // Upstream shows the struct around the type.
            let shown = Raw::go_struct(&[("Type", &json!(method.type_))]);
            errors.push(FieldError::not_supported(&path.child("distinguisherMethod").child("type"), shown, &known));
        }
    }
    let level = spec.priority_level_configuration.name.as_str();
    let level_path = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errors.push(FieldError::required(&level_path, "must reference a priority level"));
    } else {
        errors.extend(invalid_each(&level_path, level, is_dns1123_subdomain(level)));
    }
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        errors.extend(validate_rule(rule, &path.child("rules").index(i)));
    }
    errors
}

fn validate_rule(rule: &PolicyRulesWithSubjects, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if rule.subjects.is_empty() {
        errors.push(FieldError::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        errors.extend(validate_subject(subject, &path.child("subjects").index(i)));
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let paths = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && paths.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    for (i, rule) in resources.iter().enumerate() {
        errors.extend(validate_resource_rule(rule, &path.child("resourceRules").index(i)));
    }
    for (i, rule) in paths.iter().enumerate() {
        errors.extend(validate_path_rule(rule, &path.child("nonResourceRules").index(i)));
    }
    errors
}

fn validate_subject(subject: &Subject, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let kind = subject.kind.as_str();
    let forms = [
        ("serviceAccount", "ServiceAccount", subject.service_account.as_ref().map(|s| s.name.as_str())),
        ("user", "User", subject.user.as_ref().map(|s| s.name.as_str())),
        ("group", "Group", subject.group.as_ref().map(|s| s.name.as_str())),
    ];
    if !forms.iter().any(|form| form.1 == kind) {
        return vec![FieldError::not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"])];
    }
    for (field, of, name) in forms {
        let at = path.child(field);
        match name {
            None if of == kind => {
                let detail = format!("{field} is required when subject kind is '{of}'");
                errors.push(FieldError::required(&at, &detail));
            }
            Some(name) if of == kind => required(&mut errors, &at.child("name"), name),
            Some(_) => {
                let detail = format!("{field} is forbidden when subject kind is not '{of}'");
                errors.push(FieldError::forbidden(&at, &detail));
            }
            None => {}
        }
    }
    if let Some(account) = subject.service_account.as_ref().filter(|_| kind == "ServiceAccount") {
        let path = path.child("serviceAccount");
        if !account.name.is_empty() && account.name != "*" {
            errors.extend(invalid_each(&path.child("name"), &account.name, is_dns1123_subdomain(&account.name)));
        }
        if account.namespace.is_empty() {
            let detail = "must specify namespace for service account";
            errors.push(FieldError::required(&path.child("namespace"), detail));
        } else {
            let wrong = is_dns1123_label(&account.namespace);
            errors.extend(invalid_each(&path.child("namespace"), &account.namespace, wrong));
        }
    }
    errors
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path) -> Errors {
    let mut errors = validate_verbs(&rule.verbs, &path.child("verbs"));
    let lists = [
        ("apiGroups", &rule.api_groups, "api group", "api groups"),
        ("resources", &rule.resources, "resource", "resources"),
    ];
    for (field, values, one, many) in lists {
        if values.is_empty() {
            let detail = format!("resource rules must supply at least one {one}");
            errors.push(FieldError::required(&path.child(field), &detail));
        }
        errors.extend(validate_lone_star(values, many, &path.child(field)));
    }
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let path = path.child("namespaces");
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&path, detail));
    }
    if has_star(namespaces) {
        errors.extend(validate_lone_star(namespaces, "namespaces", &path));
        return errors;
    }
    for (i, namespace) in namespaces.iter().enumerate() {
        for message in is_dns1123_label(namespace) {
            let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
            errors.push(FieldError::invalid(&path.index(i), namespace, &detail));
        }
    }
    errors
}

fn validate_path_rule(rule: &NonResourcePolicyRule, path: &Path) -> Errors {
    let mut errors = validate_verbs(&rule.verbs, &path.child("verbs"));
    let urls = &rule.non_resource_urls;
    let path = path.child("nonResourceURLs");
    if urls.is_empty() {
        errors.push(FieldError::required(&path, "nonResourceURLs must contain at least one value"));
    } else if has_star(urls) {
        errors.extend(validate_lone_star(urls, "non-resource URLs", &path));
    } else {
        let wrong = urls.iter().enumerate().filter_map(|(i, url)| Some((i, url, why_not_path(url)?)));
        errors.extend(wrong.map(|(i, url, why)| FieldError::invalid(&path.index(i), url, why)));
    }
    errors
}

fn why_not_path(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match () {
        () if url.is_empty() => Some("must not be empty"),
        () if url == "/" => None,
        () if !url.starts_with('/') => Some("must start with slash"),
        () if url.contains(' ') => Some("must not contain white-space"),
        () if url.contains("//") => Some("must not contain double slash"),
        () if stars > 1 || (stars == 1 && !url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        () => None,
    }
}

fn has_star(values: &[String]) -> bool {
    values.iter().any(|v| v == "*")
}

fn validate_lone_star(values: &[String], what: &str, path: &Path) -> Errors {
    if values.len() < 2 || !has_star(values) {
        return Vec::new();
    }
    let detail = format!("if '*' is present, must not specify other {what}");
    vec![FieldError::invalid(path, &json!(values), &detail)]
}

fn validate_verbs(verbs: &[String], path: &Path) -> Errors {
    const VERBS: [&str; 9] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
    if verbs.is_empty() {
        return vec![FieldError::required(path, "verbs must contain at least one value")];
    }
    if has_star(verbs) {
        return validate_lone_star(verbs, "verbs", path);
    }
    if verbs.iter().all(|v| VERBS.contains(&v.as_str())) {
        return Vec::new();
    }
    vec![FieldError::not_supported(path, &json!(verbs), &VERBS)]
}

/// Errors of the types of a status' conditions: each is named, and there once.
fn validate_conditions<'a>(types: impl Iterator<Item = &'a str>) -> Errors {
    let path = Path::new("status").child("conditions");
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, ty) in types.enumerate() {
        let path = path.index(i).child("type");
        if seen.contains(&ty) {
            errors.push(FieldError::duplicate(&path, ty));
        }
        required(&mut errors, &path, ty);
        seen.push(ty);
    }
    errors
}

/// What is particular about a PriorityLevelConfiguration.
pub(super) struct PriorityLevelConfigurationKind;

impl Strategy for PriorityLevelConfigurationKind {
    type Object = PriorityLevelConfiguration;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(level: &mut PriorityLevelConfiguration) {
        let Some(spec) = &mut level.spec else { return };
        if let Some(exempt) = &mut spec.exempt {
            set(&mut exempt.nominal_concurrency_shares, 0);
            set(&mut exempt.lendable_percent, 0);
        }
        if let Some(limited) = &mut spec.limited {
            set(&mut limited.nominal_concurrency_shares, 30);
            set(&mut limited.lendable_percent, 0);
            if let Some(queuing) = limited.limit_response.as_mut().and_then(|r| r.queuing.as_mut()) {
                nonzero(&mut queuing.hand_size, 8);
                nonzero(&mut queuing.queues, 64);
                nonzero(&mut queuing.queue_length_limit, 50);
            }
        }
    }

    fn prepare_create(level: &mut PriorityLevelConfiguration) {
        level.status = Some(PriorityLevelConfigurationStatus::default());
        level.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut PriorityLevelConfiguration, old: &PriorityLevelConfiguration) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut PriorityLevelConfiguration, old: &PriorityLevelConfiguration) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_status_update(new: &PriorityLevelConfiguration, _old: &PriorityLevelConfiguration) -> Errors {
        let conditions = new.status.iter().flat_map(|s| s.conditions.iter().flatten());
        validate_conditions(conditions.map(|c| str_of(&c.type_)))
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(level: &PriorityLevelConfiguration) -> Errors {
        let spec = level.spec.clone().unwrap_or_default();
        validate_level(&spec, level.name(), &Path::new("spec"))
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Type"),
            column("NominalConcurrencyShares"),
            column("Queues"),
            column("HandSize"),
            column("QueueLengthLimit"),
            age_column(),
        ]
    }

    fn cells(level: &PriorityLevelConfiguration, now: jiff::Timestamp) -> Vec<Value> {
        let spec = level.spec.clone().unwrap_or_default();
        let limited = spec.limited.unwrap_or_default();
        let shown = |number: Option<i32>| number.map_or_else(|| Value::from("<none>"), Value::from);
        let queuing = limited.limit_response.and_then(|r| r.queuing).unwrap_or_default();
        vec![
            name(level),
            spec.type_.into(),
            shown(limited.nominal_concurrency_shares),
            shown(queuing.queues),
            shown(queuing.hand_size),
            shown(queuing.queue_length_limit),
            age(level, now),
        ]
    }
}

fn validate_level(spec: &PriorityLevelConfigurationSpec, name: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let ty = spec.type_.as_str();
    if (name == "exempt") != (ty == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(&path.child("type"), ty, detail));
    }
    match (ty, &spec.limited, &spec.exempt) {
        ("Exempt", Some(_), _) => {
            errors.push(FieldError::forbidden(&path.child("limited"), "must be nil if the type is not Limited"));
        }
        ("Exempt", None, Some(exempt)) => {
            let path = path.child("exempt");
            errors.extend(validate_shares(exempt.nominal_concurrency_shares, exempt.lendable_percent, &path));
        }
        ("Exempt", None, None) => {}
        ("Limited", limited, exempt) => {
            if exempt.is_some() {
                errors.push(FieldError::forbidden(&path.child("exempt"), "must be nil if the type is Limited"));
            }
            match limited {
                Some(limited) => errors.extend(validate_limited(limited, &path.child("limited"))),
                None => {
                    let detail = "must not be empty when type is Limited";
                    errors.push(FieldError::required(&path.child("limited"), detail));
                }
            }
        }
        _ => one_of(&mut errors, &path.child("type"), ty, &["Exempt", "Limited"]),
    }
    errors
}

fn validate_shares(shares: Option<i32>, lendable: Option<i32>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(shares) = shares.filter(|s| *s < 0) {
        let path = path.child("nominalConcurrencyShares");
        errors.push(FieldError::invalid(&path, shares, "must be a non-negative integer"));
    }
    if let Some(lendable) = lendable.filter(|l| !(0..=100).contains(l)) {
        let path = path.child("lendablePercent");
        errors.push(FieldError::invalid(&path, lendable, "must be between 0 and 100, inclusive"));
    }
    errors
}

fn validate_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path) -> Errors {
    let mut errors = validate_shares(limited.nominal_concurrency_shares, limited.lendable_percent, path);
    let response = limited.limit_response.clone().unwrap_or_default();
    errors.extend(validate_response(&response, &path.child("limitResponse")));
    if let Some(limit) = limited.borrowing_limit_percent.filter(|l| *l < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(&path.child("borrowingLimitPercent"), limit, detail));
    }
    errors
}

fn validate_response(response: &LimitResponse, path: &Path) -> Errors {
    let queuing_path = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", None) => Vec::new(),
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            vec![FieldError::forbidden(&queuing_path, detail)]
        }
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            vec![FieldError::required(&queuing_path, detail)]
        }
        ("Queue", Some(queuing)) => validate_queuing(queuing, &queuing_path),
        (other, _) => vec![FieldError::not_supported(&path.child("type"), other, &["Queue", "Reject"])],
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path) -> Errors {
    const MOST_QUEUES: i32 = 10_000_000;
    let mut errors = Vec::new();
    let mut wrong =
        |field: &str, value: i32, detail: &str| errors.push(FieldError::invalid(&path.child(field), value, detail));
    let (length, queues) = (queuing.queue_length_limit.unwrap_or(0), queuing.queues.unwrap_or(0));
    if length <= 0 {
        wrong("queueLengthLimit", length, "must be positive");
    }
    if queues <= 0 {
        wrong("queues", queues, "must be positive");
    } else if queues > MOST_QUEUES {
        wrong("queues", queues, &format!("must not be greater than {MOST_QUEUES}"));
    }
    let hand = queuing.hand_size.unwrap_or(0);
    if hand <= 0 {
        wrong("handSize", hand, "must be positive");
    } else if hand > queues {
        wrong("handSize", hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > 60 {
        let detail =
            format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60");
        wrong("handSize", hand, &detail);
    }
    errors
}

/// Bits of hash that dealing a hand from the deck takes (`shufflesharding.RequiredEntropyBits`).
fn entropy_bits(deck: i32, hand: i32) -> u32 {
    let bits = f64::from(deck).log2() * f64::from(hand);
    let bits = if bits.is_finite() { bits.ceil() } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small range")]
    let bits = bits.clamp(0.0, 1e6) as u32;
    bits
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update};
    use expect_test::expect;

    const LEVEL: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}
";

    #[test]
    fn conditions_are_named_and_there_once() {
        let with = |conditions: &str| format!("{LEVEL}status: {{conditions: [{conditions}]}}");
        check_update(
            LEVEL,
            &with("{type: A}, {type: A}, {}"),
            Some("status"),
            expect![[r#"
            status.conditions[1].type: Duplicate value: "A"
            status.conditions[2].type: Required value"#]],
        );
    }

    #[test]
    fn levels() {
        check_defaults(
            LEVEL,
            expect![[r#"
            spec.limited.lendablePercent: 0
            spec.limited.limitResponse.queuing.handSize: 8
            spec.limited.limitResponse.queuing.queueLengthLimit: 50
            spec.limited.limitResponse.queuing.queues: 64
            spec.limited.nominalConcurrencyShares: 30"#]],
        );
        check_row(
            LEVEL,
            expect![[r#"
            Name | Type | NominalConcurrencyShares | Queues | HandSize | QueueLengthLimit | Age
            a | Limited | <none> | <none> | <none> | <none> | 60m"#]],
        );
        check_create(
            &LEVEL.replace("queuing: {}", "queuing: {handSize: 70, queueLengthLimit: -1}"),
            expect![[r#"
            spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive
            spec.limited.limitResponse.queuing.handSize: Invalid value: 70: should not be greater than queues (64)"#]],
        );
        check_create(
            &LEVEL.replace("type: Limited", "type: Exempt"),
            expect![[r#"
            spec.type: Invalid value: "Exempt": must be 'Exempt' if and only if `name` is 'exempt'
            spec.limited: Forbidden: must be nil if the type is not Limited"#]],
        );
    }

    #[test]
    fn schemas() {
        let schema = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
spec:
  matchingPrecedence: 1
  priorityLevelConfiguration: {name: ''}
  rules: [{subjects: [{kind: User, group: {name: a}}], nonResourceRules: [{verbs: [see], nonResourceURLs: [a]}]}]
";
        check_create(
            schema,
            expect![[r#"
            spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1
            spec.priorityLevelConfiguration.name: Required value: must reference a priority level
            spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'
            spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'
            spec.rules[0].nonResourceRules[0].verbs: Unsupported value: ["see"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"
            spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: "a": must start with slash"#]],
        );
        check_row(
            schema,
            expect![[r#"
            Name | PriorityLevel | MatchingPrecedence | DistinguisherMethod | Age | MissingPL
            a |  | 1 | <none> | 60m | ?"#]],
        );
    }
}
