//! Selectors: label selectors ([`LabelSelector`], this file), field selectors ([`FieldSelector`]) and node selectors
//! ([`NodeSelector`]).
//!
//! Follows `apimachinery/pkg/labels/selector.go`, `apimachinery/pkg/fields/selector.go` and
//! `component-helpers/scheduling/corev1/nodeaffinity`, error texts included. Always holds: a selector that exists is
//! valid, so matching cannot fail; `Display` gives the canonical text, which parses to an equal selector.

mod fields;
mod nodes;
mod syntax;
mod taints;

pub use fields::{FieldRequirement, FieldSelector};
pub use nodes::{NodeSelector, PreferredTerms, RequiredNodeAffinity};
pub use syntax::{label_key_errors, label_value_errors};
pub use taints::tolerates;

use crate::field::{Errors, FieldError, Path, aggregate};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// A selector that cannot be read. The text is what the API server answers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// The text does not follow the grammar.
    #[error("{0}")]
    Syntax(String),
    /// A requirement in a text breaks the rules for keys, operators and values.
    #[error("unable to parse requirement: {}", aggregate(.0))]
    Requirement(Errors),
    /// A requirement in a struct breaks them.
    #[error("{}", aggregate(.0))]
    Invalid(Errors),
    /// metav1.LabelSelector with an operator that is not one of its four.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

/// What relates a key to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The value is one of these.
    In,
    /// The key is absent or its value is none of these.
    NotIn,
    /// `=`
    Equals,
    /// `==`, the same as `=`.
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer greater than this one.
    GreaterThan,
    /// The value is an integer less than this one.
    LessThan,
}

impl Operator {
    /// Of the word in a metav1.LabelSelector, which knows four.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "In" => Some(Operator::In),
            "NotIn" => Some(Operator::NotIn),
            "Exists" => Some(Operator::Exists),
            "DoesNotExist" => Some(Operator::DoesNotExist),
            _ => None,
        }
    }
}

/// One condition on one label. Exists only if valid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// Checks key, operator and values (`labels.NewRequirement`). Errors lie below `path`.
    pub fn new(key: &str, operator: Operator, values: Vec<String>, path: &Path) -> Result<Self, Errors> {
        let mut errors = Errors::new();
        let key_errors = label_key_errors(key);
        if !key_errors.is_empty() {
            errors.push(FieldError::invalid(&path.child("key"), key, &key_errors.join("; ")));
        }
        let at = path.child("values");
        if let Some(problem) = wrong_count(operator, values.len()) {
            errors.push(FieldError::invalid(&at, &serde_json::json!(values), problem));
        }
        for (i, value) in values.iter().enumerate() {
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && go_int(value).is_none() {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&at.index(i), value, detail));
            }
        }
        for (i, value) in values.iter().enumerate() {
            let problems = label_value_errors(value);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(&at.index(i).key(key), value, &problems.join("; ")));
            }
        }
        if errors.is_empty() { Ok(Requirement { key: key.to_owned(), operator, values }) } else { Err(errors) }
    }

    /// The label it is about.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// The relation.
    pub fn operator(&self) -> Operator {
        self.operator
    }
    /// The values, as given.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (`None` = absent) satisfies it.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        let compared = |wanted: fn(&i64, &i64) -> bool| {
            let ours = self.values.first().and_then(|v| go_int(v));
            value.and_then(go_int).zip(ours).is_some_and(|(theirs, ours)| wanted(&theirs, &ours))
        };
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compared(i64::gt),
            Operator::LessThan => compared(i64::lt),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator, values } = self;
        let mut sorted: Vec<&str> = values.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let list = sorted.join(",");
        match operator {
            Operator::In => write!(f, "{key} in ({list})"),
            Operator::NotIn => write!(f, "{key} notin ({list})"),
            Operator::Equals => write!(f, "{key}={list}"),
            Operator::DoubleEquals => write!(f, "{key}=={list}"),
            Operator::NotEquals => write!(f, "{key}!={list}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{list}"),
            Operator::LessThan => write!(f, "{key}<{list}"),
        }
    }
}

fn wrong_count(operator: Operator, count: usize) -> Option<&'static str> {
    match operator {
        Operator::In | Operator::NotIn if count == 0 => Some("for 'in', 'notin' operators, values set can't be empty"),
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if count != 1 => {
            Some("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if count != 0 => {
            Some("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan if count != 1 => {
            Some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        _ => None,
    }
}

/// Go's `strconv.ParseInt(s, 10, 64)`, which agrees with Rust's parser.
fn go_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Something that has labels or looks like it.
pub trait Labels {
    /// The value of a label.
    fn value(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Option<BTreeMap<String, String>> {
    fn value(&self, key: &str) -> Option<&str> {
        self.as_ref()?.value(key)
    }
}

impl Labels for Option<&BTreeMap<String, String>> {
    fn value(&self, key: &str) -> Option<&str> {
        self.as_ref()?.get(key).map(String::as_str)
    }
}

/// Conditions on labels that must all hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// Sorted by key.
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        LabelSelector::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the text form: `a=b, c in (d,e), !f, g>3`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::of(syntax::parse(text)?))
    }

    /// All of these conditions.
    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Exactly these labels, unchecked (`SelectorFromSet`): `spec.selector` of a Service.
    pub fn from_set(set: &BTreeMap<String, String>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::of(set.iter().map(equals).collect())
    }

    /// metav1.LabelSelectorAsSelector: an absent selector selects nothing, an empty one everything.
    pub fn from_api(selector: Option<&api::LabelSelector>) -> Result<Self, SelectorError> {
        selector.map_or_else(|| Ok(Self::nothing()), from_label_selector)
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it was made to select nothing. (`a=1,a=2` is not detected.)
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Its conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches_value(labels.value(&r.key)))
    }

    /// As [`Self::matches`], with labels behind a function.
    pub fn matches_by<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches_value(value(&r.key)))
    }

    /// The one value that a label must have, if there is one: for indexes.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|r| r.key == key)?;
        match (found.operator, found.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// The selector that a metav1.LabelSelector stands for.
pub fn from_label_selector(selector: &api::LabelSelector) -> Result<LabelSelector, SelectorError> {
    let mut requirements = Vec::new();
    let mut add = |key: &str, operator, values| -> Result<(), SelectorError> {
        let r = Requirement::new(key, operator, values, &Path::root()).map_err(SelectorError::Invalid)?;
        requirements.push(r);
        Ok(())
    };
    for (key, value) in selector.match_labels.iter().flatten() {
        add(key, Operator::Equals, vec![value.clone()])?;
    }
    for expression in selector.match_expressions.iter().flatten() {
        let operator =
            Operator::of(&expression.operator).ok_or_else(|| SelectorError::Operator(expression.operator.clone()))?;
        add(&expression.key, operator, expression.values.clone().unwrap_or_default())?;
    }
    Ok(LabelSelector::of(requirements))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn set(text: &str) -> BTreeMap<String, String> {
        let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        text.split(',').filter_map(pair).collect()
    }

    /// Canonical text of a selector text, or its error.
    #[track_caller]
    fn check_parse(cases: &[(&str, &str)]) {
        for (text, want) in cases {
            let got = LabelSelector::parse(text).map_or_else(|e| e.to_string(), |s| s.to_string());
            assert_eq!(&got, want, "{text}");
        }
    }

    #[test]
    fn texts_have_a_canonical_form() {
        check_parse(&[
            ("", ""),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("z = c , a == b", "a==b,z=c"),
            ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
            ("x in (b,a,a)", "x in (a,b)"),
            ("!a, b != c", "!a,b!=c"),
            ("in in (in,notin)", "in in (in,notin)"),
            ("a=", "a="),
            ("a=,b", "a=,b"),
            ("a>5,b<7", "a>5,b<7"),
            ("example.com/role in (x)", "example.com/role in (x)"),
        ]);
    }

    #[test]
    fn mistakes_are_told_in_upstreams_words() {
        let key = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        check_parse(&[
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("x in", "unable to parse requirement: found '' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("x in (=", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
            ("a,", "found '', expected: identifier after ','"),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a&b=c", &format!("unable to parse requirement: <nil>: Invalid value: \"a&b\": {key}")),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a=b&c",
                "unable to parse requirement: values[0][a]: Invalid value: \"b&c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
        ]);
    }

    #[test]
    fn matching_is_upstreams() {
        let cases = [
            ("", "x=y", true),
            ("x=y", "x=y", true),
            ("x=y", "x=z", false),
            ("x!=y", "", true),
            ("notin=in", "notin=in", true),
            ("x in (a,b)", "x=b", true),
            ("x notin (a)", "y=1", true),
            ("x", "x=", true),
            ("!x", "x=", false),
            ("x>1", "x=2", true),
            ("x>1", "x=a", false),
            ("x<1", "", false),
            ("x=a,y=b", "x=a", false),
        ];
        for (selector, labels, want) in cases {
            let selector = LabelSelector::parse(selector).expect("a valid selector");
            assert_eq!(selector.matches(&set(labels)), want, "{selector} on {labels}");
        }
        assert!(!LabelSelector::nothing().matches(&set("a=b")));
        assert_eq!(LabelSelector::parse("a in (b),c=d").expect("valid").exact("a"), Some("b"));
    }

    #[test]
    fn struct_form_converts() {
        let of = |json: &str| {
            let selector = <api::LabelSelector as api::Codec>::decode(json.as_bytes()).expect("a LabelSelector");
            LabelSelector::from_api(Some(&selector)).map_or_else(|e| e.to_string(), |s| s.to_string())
        };
        assert_eq!(
            of(r#"{"matchLabels":{"b":"c"},"matchExpressions":[{"key":"a","operator":"In","values":["z","y"]}]}"#),
            "a in (y,z),b=c"
        );
        assert_eq!(
            of(r#"{"matchExpressions":[{"key":"a","operator":"Gt","values":["1"]}]}"#),
            "\"Gt\" is not a valid label selector operator"
        );
        assert_eq!(
            of(r#"{"matchExpressions":[{"key":"a","operator":"In"}]}"#),
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
        );
        assert!(LabelSelector::from_api(None).expect("absent is fine").is_nothing());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,40}") {
            drop(LabelSelector::parse(&text));
        }

        #[test]
        fn canonical_text_parses_to_the_same(text in "[!]?[a-c]{1,3}( in | notin |=|!=|==|>|<|)([(][a-c,]{0,4}[)]|[a-c0-9]{0,3})(,[a-c])?") {
            if let Ok(first) = LabelSelector::parse(&text) {
                let again = LabelSelector::parse(&first.to_string());
                prop_assert_eq!(again.map(|s| s.to_string()), Ok(first.to_string()));
            }
        }
    }
}
