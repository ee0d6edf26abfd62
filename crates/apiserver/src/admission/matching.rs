//! Which requests a webhook or policy is for: rules, selectors, equivalent resources
//! (`apiserver/pkg/admission/plugin/webhook/predicates`, `…/plugin/policy/matching/matching.go`).

use super::{Operation, Request};
use crate::reader::KindRef;
use crate::status;
use api::k8s::api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations};
use api::prelude::Namespace;
use api::{AnyObject, LabelSelector as ApiSelector, Status};
use machinery::kinds::KindInfo;
use machinery::selector::LabelSelector;

/// A rule of a webhook or policy.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
    /// Empty: all.
    names: Vec<String>,
}

impl From<&RuleWithOperations> for Rule {
    fn from(rule: &RuleWithOperations) -> Self {
        Rule {
            operations: rule.operations.clone().unwrap_or_default(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            scope: rule.scope.clone(),
            names: Vec::new(),
        }
    }
}

impl From<&NamedRuleWithOperations> for Rule {
    fn from(rule: &NamedRuleWithOperations) -> Self {
        Rule {
            operations: rule.operations.clone().unwrap_or_default(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            scope: rule.scope.clone(),
            names: rule.resource_names.clone().unwrap_or_default(),
        }
    }
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
struct Target<'a> {
    operation: Operation,
    info: &'a KindInfo,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Rule {
    fn matches(&self, target: Target<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let in_resources = || {
            self.resources.iter().any(|text| {
                let (resource, subresource) = text.split_once('/').unwrap_or((text, ""));
                (resource == "*" || resource == target.info.plural)
                    && (subresource == "*" || subresource == target.subresource)
            })
        };
        self.in_scope(target)
            && any(&self.operations, target.operation.as_str())
            && any(&self.groups, &target.info.group)
            && any(&self.versions, &target.info.version)
            && in_resources()
            && (self.names.is_empty() || self.names.iter().any(|name| name == target.name))
    }

    fn in_scope(&self, target: Target<'_>) -> bool {
        // A namespace is "in" itself, but cluster-scoped.
        let in_namespace = !is_namespaces(target.info) && !target.namespace.is_empty();
        match self.scope.as_deref() {
            None | Some("*") => true,
            Some("Namespaced") => in_namespace,
            Some("Cluster") => !in_namespace,
            Some(_) => false,
        }
    }
}

fn is_namespaces(info: &KindInfo) -> bool {
    info.group.is_empty() && info.plural == "namespaces"
}

/// All that decides whether a request concerns a webhook or policy.
#[derive(Debug, Clone)]
pub(super) struct Criteria {
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
    /// `None`: everything.
    rules: Option<Vec<Rule>>,
    exclude: Vec<Rule>,
    /// `matchPolicy: Equivalent`
    equivalent: bool,
}

impl Criteria {
    pub(super) fn of_webhook(
        namespaces: Option<&ApiSelector>,
        objects: Option<&ApiSelector>,
        rules: Option<&[RuleWithOperations]>,
        match_policy: Option<&str>,
    ) -> Self {
        Criteria {
            namespaces: selector(namespaces),
            objects: selector(objects),
            rules: Some(rules.unwrap_or_default().iter().map(Rule::from).collect()),
            exclude: Vec::new(),
            equivalent: match_policy == Some("Equivalent"),
        }
    }

    pub(super) fn of_policy(resources: &MatchResources) -> Self {
        let rules = |list: &Option<Vec<NamedRuleWithOperations>>| -> Vec<Rule> {
            list.iter().flatten().map(Rule::from).collect()
        };
        Criteria {
            namespaces: selector(resources.namespace_selector.as_ref()),
            objects: selector(resources.object_selector.as_ref()),
            rules: Some(rules(&resources.resource_rules)).filter(|rules| !rules.is_empty()),
            exclude: rules(&resources.exclude_resource_rules),
            equivalent: resources.match_policy.as_deref() == Some("Equivalent"),
        }
    }

    /// The resource as which the request concerns us: its own, or an equivalent one that a rule names.
    pub(super) async fn matches(&self, request: &Request<'_>) -> Result<Option<KindRef>, Status> {
        // Whether the selectors can be read at all matters only for requests that a rule is for.
        let in_namespace = self.matches_namespace(request).await;
        if matches!(in_namespace, Ok(false)) {
            return Ok(None);
        }
        let of_object = self.matches_object(request);
        if matches!(of_object, Ok(false)) {
            return Ok(None);
        }
        if by_rules(&self.exclude, self.equivalent, request).is_some() {
            return Ok(None);
        }
        let found = match &self.rules {
            None => Some(request.kind.clone()),
            Some(rules) => by_rules(rules, self.equivalent, request),
        };
        if found.is_some() {
            in_namespace?;
            of_object?;
        }
        Ok(found)
    }

    async fn matches_namespace(&self, request: &Request<'_>) -> Result<bool, Status> {
        if request.namespace.is_empty() && !is_namespaces(request.info()) {
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(status::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        let itself = is_namespaces(request.info()) && request.subresource.is_empty();
        if itself && matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(request.object.as_deref().is_some_and(|o| selector.matches(&o.meta().labels)));
        }
        let found = request.reader().stored("namespaces", "", request.namespace).await.map_err(status::from_store)?;
        match found {
            Some(namespace) => Ok(selector.matches(&namespace.header().labels)),
            None => Err(status::not_found_in("", "namespaces", request.namespace)),
        }
    }

    fn matches_object(&self, request: &Request<'_>) -> Result<bool, Status> {
        let selector = self.objects.as_ref().map_err(status::internal)?;
        let matches = |object: Option<&dyn AnyObject>| object.is_some_and(|o| selector.matches(&o.meta().labels));
        Ok(selector.is_everything() || matches(request.object.as_deref()) || matches(request.old_object))
    }
}

fn selector(selector: Option<&ApiSelector>) -> Result<LabelSelector, String> {
    LabelSelector::from_api(selector).map_err(|error| error.to_string())
}

fn by_rules(rules: &[Rule], equivalent: bool, request: &Request<'_>) -> Option<KindRef> {
    let target = Target {
        operation: request.operation,
        info: request.info(),
        subresource: request.subresource,
        namespace: request.namespace,
        name: request.name,
    };
    if rules.iter().any(|rule| rule.matches(target)) {
        return Some(request.kind.clone());
    }
    if !equivalent || rules.is_empty() {
        return None;
    }
    let others = request.cluster.equivalents(request.kind);
    let first = |rule: &Rule| others.iter().find(|kind| rule.matches(Target { info: kind.info(), ..target }));
    rules.iter().find_map(first).cloned()
}

/// Kinds that configure admission are exempt from it, or a mistake could not be undone
/// (`IsExemptAdmissionConfigurationResource`).
pub(super) fn is_exempt(info: &KindInfo) -> bool {
    info.group == "admissionregistration.k8s.io"
}

/// The namespace that an object of the request is in, for expressions; `None` for cluster-scoped ones and namespaces.
pub(super) async fn namespace_of(request: &Request<'_>) -> Result<Option<Namespace>, Status> {
    if request.namespace.is_empty() || is_namespaces(request.info()) {
        return Ok(None);
    }
    let found = request.reader().get::<Namespace>("", request.namespace).await?;
    found.map(Some).ok_or_else(|| status::not_found_in("", "namespaces", request.namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, expected: bool) {
        let rule: Rule = serde_json::from_str::<RuleWithOperations>(rule).map(|r| Rule::from(&r)).expect("a rule");
        let pods = machinery::kinds::find("", "v1", "pods").expect("pods").info();
        let target =
            Target { operation: Operation::Connect, info: pods, subresource: "attach", namespace: "ns", name: "p" };
        assert_eq!(rule.matches(target), expected, "{rule:?}");
    }

    #[test]
    fn rules_name_resources_and_their_parts() {
        let rule = |resources: &str, more: &str| {
            format!(
                r#"{{"operations":["CONNECT"],"apiGroups":[""],"apiVersions":["v1"],"resources":[{resources}]{more}}}"#
            )
        };
        check(&rule(r#""pods/attach""#, ""), true);
        check(&rule(r#""pods/*""#, ""), true);
        check(&rule(r#""*/attach""#, ""), true);
        check(&rule(r#""pods""#, ""), false);
        check(&rule(r#""*""#, ""), false);
        check(&rule(r#""*/*""#, r#","scope":"Cluster""#), false);
        check(&rule(r#""*/*""#, r#","scope":"Namespaced""#), true);
        check(r#"{"operations":["CREATE"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*/*"]}"#, false);
        check(r#"{"operations":["*"],"apiGroups":["apps"],"apiVersions":["*"],"resources":["*/*"]}"#, false);
    }
}
