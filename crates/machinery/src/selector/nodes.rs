//! Node selectors and node affinity, as the scheduler, DaemonSets and volumes use them.
//!
//! Follows `component-helpers/scheduling/corev1/nodeaffinity/nodeaffinity.go`: terms are ORed, an empty term selects
//! nothing, and a term that cannot be read is an error only if no other term matches.

use super::{FieldRequirement, FieldSelector, LabelSelector, Labels, Operator, Requirement};
use crate::field::{Errors, FieldError, Path};
use api::k8s::api::core::v1 as core;

/// A core/v1 NodeSelector ready for matching.
#[derive(Debug, Clone, Default)]
pub struct NodeSelector {
    terms: Vec<Result<Term, Errors>>,
}

#[derive(Debug, Clone)]
struct Term {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl NodeSelector {
    /// Reads it; mistakes wait until [`Self::matches`] needs the term.
    pub fn new(selector: &core::NodeSelector, path: &Path) -> Self {
        let path = path.child("nodeSelectorTerms");
        let terms = selector.node_selector_terms.iter().enumerate();
        let terms = terms.filter(|(_, t)| !is_empty(t)).map(|(i, t)| Term::read(t, &path.index(i))).collect();
        NodeSelector { terms }
    }

    /// Reads it and reports all mistakes at once.
    pub fn try_new(selector: &core::NodeSelector, path: &Path) -> Result<Self, Errors> {
        let read = Self::new(selector, path);
        let errors: Errors = read.terms.iter().filter_map(|t| t.as_ref().err()).flatten().cloned().collect();
        if errors.is_empty() { Ok(read) } else { Err(errors) }
    }

    /// Whether a node with this name and these labels is selected. Fails only if no term matches and some cannot be read.
    pub fn matches(&self, name: &str, labels: &impl Labels) -> Result<bool, Errors> {
        let mut errors = Errors::new();
        for term in &self.terms {
            match term {
                Ok(term) if term.matches(name, labels) => return Ok(true),
                Ok(_) => {}
                Err(e) => errors.extend(e.iter().cloned()),
            }
        }
        if errors.is_empty() { Ok(false) } else { Err(errors) }
    }
}

impl Term {
    fn read(term: &core::NodeSelectorTerm, path: &Path) -> Result<Term, Errors> {
        let mut errors = Errors::new();
        let mut labels = Vec::new();
        for (i, r) in term.match_expressions.iter().flatten().enumerate() {
            match label_requirement(r, &path.child("matchExpressions").index(i)) {
                Ok(requirement) => labels.push(requirement),
                Err(e) => errors.extend(e),
            }
        }
        let mut fields = Vec::new();
        for (i, r) in term.match_fields.iter().flatten().enumerate() {
            match field_requirement(r, &path.child("matchFields").index(i)) {
                Ok(requirement) => fields.push(requirement),
                Err(e) => errors.push(e),
            }
        }
        if errors.is_empty() {
            Ok(Term { labels: LabelSelector::of(labels), fields: FieldSelector::of(fields) })
        } else {
            Err(errors)
        }
    }

    fn matches(&self, name: &str, labels: &impl Labels) -> bool {
        let field = |f: &str| (f == "metadata.name").then_some(name);
        // A node without a name has no fields to look at.
        self.labels.matches(labels) && (name.is_empty() || self.fields.matches_by(field))
    }
}

fn is_empty(term: &core::NodeSelectorTerm) -> bool {
    let none = |list: &Option<Vec<_>>| list.as_ref().is_none_or(Vec::is_empty);
    none(&term.match_expressions) && none(&term.match_fields)
}

fn label_requirement(r: &core::NodeSelectorRequirement, path: &Path) -> Result<Requirement, Errors> {
    let operator = match r.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        other => {
            let known = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
            return Err(vec![FieldError::not_supported(&path.child("operator"), other, &known)]);
        }
    };
    Requirement::new(&r.key, operator, r.values.clone().unwrap_or_default(), path)
}

fn field_requirement(r: &core::NodeSelectorRequirement, path: &Path) -> Result<FieldRequirement, FieldError> {
    let equal = match r.operator.as_str() {
        "In" => true,
        "NotIn" => false,
        other => return Err(FieldError::not_supported(&path.child("operator"), other, &["In", "NotIn"])),
    };
    match r.values.as_deref().unwrap_or_default() {
        [value] => Ok(FieldRequirement { field: r.key.clone(), equal, value: value.clone() }),
        values => Err(FieldError::invalid(&path.child("values"), &serde_json::json!(values), "must have one element")),
    }
}

/// What a pod asks of its node: `spec.nodeSelector` and the required node affinity.
#[derive(Debug, Clone, Default)]
pub struct RequiredNodeAffinity {
    labels: LabelSelector,
    affinity: Option<NodeSelector>,
}

impl RequiredNodeAffinity {
    /// Reads both from a pod.
    pub fn of(spec: &core::PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
        RequiredNodeAffinity {
            labels: spec.node_selector.as_ref().map(LabelSelector::from_set).unwrap_or_default(),
            affinity: required.map(|selector| NodeSelector::new(selector, &Path::root())),
        }
    }

    /// Whether the pod may run on a node with this name and these labels.
    pub fn matches(&self, name: &str, labels: &impl Labels) -> Result<bool, Errors> {
        if !self.labels.matches(labels) {
            return Ok(false);
        }
        self.affinity.as_ref().map_or(Ok(true), |selector| selector.matches(name, labels))
    }

    /// Whether it accepts every node.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.affinity.is_none()
    }
}

/// Preferred node affinity: weights of terms.
#[derive(Debug, Clone, Default)]
pub struct PreferredTerms {
    terms: Vec<(Term, i64)>,
}

impl PreferredTerms {
    /// Reads them and reports all mistakes at once. Terms without weight or condition are skipped.
    pub fn try_new(terms: &[core::PreferredSchedulingTerm], path: &Path) -> Result<Self, Errors> {
        let mut errors = Errors::new();
        let mut read = Vec::new();
        for (i, term) in terms.iter().enumerate() {
            if term.weight == 0 || is_empty(&term.preference) {
                continue;
            }
            match Term::read(&term.preference, &path.index(i)) {
                Ok(t) => read.push((t, i64::from(term.weight))),
                Err(e) => errors.extend(e),
            }
        }
        if errors.is_empty() { Ok(PreferredTerms { terms: read }) } else { Err(errors) }
    }

    /// The sum of the weights of the terms that select the node.
    pub fn score(&self, name: &str, labels: &impl Labels) -> i64 {
        self.terms.iter().filter(|(term, _)| term.matches(name, labels)).map(|(_, weight)| weight).sum()
    }

    /// Whether there is nothing to prefer.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::set;
    use super::*;
    use crate::field::aggregate;

    fn requirement(text: &str) -> core::NodeSelectorRequirement {
        let mut words = text.split(' ').map(str::to_owned);
        core::NodeSelectorRequirement {
            key: words.next().unwrap_or_default(),
            operator: words.next().unwrap_or_default(),
            values: Some(words.collect()),
        }
    }

    fn term(labels: &[&str], fields: &[&str]) -> core::NodeSelectorTerm {
        let list = |texts: &[&str]| Some(texts.iter().map(|t| requirement(t)).collect());
        core::NodeSelectorTerm { match_expressions: list(labels), match_fields: list(fields) }
    }

    #[track_caller]
    fn check(terms: Vec<core::NodeSelectorTerm>, node: &str, labels: &str, want: &str) {
        let selector = NodeSelector::new(&core::NodeSelector { node_selector_terms: terms }, &Path::root());
        let got = selector.matches(node, &set(labels)).map_or_else(|e| aggregate(&e), |m| m.to_string());
        assert_eq!(got, want);
    }

    #[test]
    fn terms_are_ored_and_empty_ones_select_nothing() {
        check(vec![], "n", "a=b", "false");
        check(vec![term(&[], &[])], "n", "a=b", "false");
        check(vec![term(&["a In c"], &[]), term(&["a Exists"], &["metadata.name In n"])], "n", "a=b", "true");
        check(vec![term(&["a Gt 3"], &[])], "n", "a=4", "true");
        check(vec![term(&[], &["metadata.name NotIn n"])], "n", "", "false");
    }

    #[test]
    fn bad_terms_matter_only_if_none_matches() {
        let bad = || term(&["a Nope b"], &[]);
        let text = "nodeSelectorTerms[0].matchExpressions[0].operator: Unsupported value: \"Nope\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\", \"Gt\", \"Lt\"";
        check(vec![bad()], "n", "", text);
        check(vec![bad(), term(&["a Exists"], &[])], "n", "a=b", "true");
        check(
            vec![term(&[], &["metadata.name In a b"])],
            "n",
            "",
            "nodeSelectorTerms[0].matchFields[0].values: Invalid value: [\"a\",\"b\"]: must have one element",
        );
    }

    #[test]
    fn preferences_add_up() {
        let prefer = |weight, label: &str| core::PreferredSchedulingTerm { weight, preference: term(&[label], &[]) };
        let terms = [prefer(5, "a Exists"), prefer(0, "a Nope"), prefer(7, "b Exists"), prefer(3, "a In b")];
        let preferred = PreferredTerms::try_new(&terms, &Path::root()).expect("the bad one has no weight");
        assert_eq!(preferred.score("n", &set("a=b")), 8);
    }
}
