//! `authorizer`: questions to the authorizer (`apiserver/pkg/cel/library/authz.go`).
//!
//! Expressions are pure: what the authorizer says is given by whoever evaluates ([`crate::cel::Activation::decision`]), and
//! a check whose answer is not known yet ends the evaluation with [`crate::cel::EvalError::Undecided`].

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
use crate::validation::{is_dns1123_label, is_dns1123_subdomain};
use std::sync::Arc;

pub(super) const OVERLOADS: &[Def] = &[
    def("path", "authorizer_path", "Authorizer.(string) -> PathCheck", |a| match a {
        [Value::Authorizer(check), Value::String(path)] if !path.trim().is_empty() => {
            step(check, |q| q.path = Some(path.to_string()), Stage::Path)
        }
        _ => Err(EvalError::new("path must not be empty")),
    }),
    def("group", "authorizer_group", "Authorizer.(string) -> GroupCheck", |a| {
        with_text(a, |check, text| step(check, |q| q.group = text.to_owned(), Stage::Group))
    }),
    def("serviceAccount", "authorizer_serviceaccount", "Authorizer.(string, string) -> Authorizer", service_account),
    def("resource", "groupcheck_resource", "GroupCheck.(string) -> ResourceCheck", |a| {
        with_text(a, |check, text| match text.trim().is_empty() {
            true => Err(EvalError::new("resource must not be empty")),
            false => step(check, |q| q.resource = text.to_owned(), Stage::Resource),
        })
    }),
    def("subresource", "resourcecheck_subresource", "ResourceCheck.(string) -> ResourceCheck", |a| {
        with_text(a, |check, text| step(check, |q| q.subresource = text.to_owned(), Stage::Resource))
    }),
    def("namespace", "resourcecheck_namespace", "ResourceCheck.(string) -> ResourceCheck", |a| {
        with_text(a, |check, text| step(check, |q| q.namespace = text.to_owned(), Stage::Resource))
    }),
    def("name", "resourcecheck_name", "ResourceCheck.(string) -> ResourceCheck", |a| {
        with_text(a, |check, text| step(check, |q| q.name = text.to_owned(), Stage::Resource))
    }),
    def("fieldSelector", "authorizer_fieldselector", "ResourceCheck.(string) -> ResourceCheck", |a| {
        with_text(a, |check, text| step(check, |q| q.field_selector = text.to_owned(), Stage::Resource))
    }),
    def("labelSelector", "authorizer_labelselector", "ResourceCheck.(string) -> ResourceCheck", |a| {
        with_text(a, |check, text| step(check, |q| q.label_selector = text.to_owned(), Stage::Resource))
    }),
    // The evaluator answers these.
    def(CHECK, "pathcheck_check", "PathCheck.(string) -> Decision", |_| Err(EvalError::no_overload())),
    def(CHECK, "resourcecheck_check", "ResourceCheck.(string) -> Decision", |_| Err(EvalError::no_overload())),
    def("allowed", "decision_allowed", "Decision.() -> bool", |a| decision(a, |d| d.allowed.into())),
    def("reason", "decision_reason", "Decision.() -> string", |a| decision(a, |d| d.reason.as_str().into())),
    def("errored", "decision_errored", "Decision.() -> bool", |a| decision(a, |d| d.error.is_some().into())),
    def("error", "decision_error", "Decision.() -> string", |a| {
        decision(a, |d| d.error.clone().unwrap_or_default().into())
    }),
];

/// The function that asks.
pub(crate) const CHECK: &str = "check";

/// A question to the authorizer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Question {
    /// Namespace and name of the service account to ask for; the user of the request if `None`.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// Or empty.
    pub subresource: String,
    /// Or empty.
    pub namespace: String,
    /// Or empty.
    pub name: String,
    /// Or empty.
    pub field_selector: String,
    /// Or empty.
    pub label_selector: String,
    /// The verb.
    pub verb: String,
}

/// What the authorizer said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it allows.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// `authorizer` and what is made from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Check(State);

#[derive(Debug, Clone, PartialEq)]
enum State {
    Asking(Stage, Box<Question>),
    Decided(Decision),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
}

impl Check {
    /// `authorizer`
    pub fn authorizer() -> Value {
        Value::Authorizer(Arc::new(Check(State::Asking(Stage::Authorizer, Box::default()))))
    }

    /// `authorizer.requestResource`
    pub fn resource(question: Question) -> Value {
        Value::Authorizer(Arc::new(Check(State::Asking(Stage::Resource, Box::new(question)))))
    }

    pub(crate) fn decided(decision: Decision) -> Value {
        Value::Authorizer(Arc::new(Check(State::Decided(decision))))
    }

    /// The question, if this is one that can be asked, with its verb.
    pub(crate) fn question(&self, verb: &str) -> Option<Question> {
        match &self.0 {
            State::Asking(Stage::Path | Stage::Resource, question) => {
                Some(Question { verb: verb.to_owned(), ..(**question).clone() })
            }
            _ => None,
        }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match &self.0 {
            State::Asking(Stage::Authorizer, _) => "kubernetes.authorization.Authorizer",
            State::Asking(Stage::Path, _) => "kubernetes.authorization.PathCheck",
            State::Asking(Stage::Group, _) => "kubernetes.authorization.GroupCheck",
            State::Asking(Stage::Resource, _) => "kubernetes.authorization.ResourceCheck",
            State::Decided(_) => "kubernetes.authorization.Decision",
        }
    }
}

fn step(check: &Check, change: impl FnOnce(&mut Question), stage: Stage) -> Answer {
    let State::Asking(_, question) = &check.0 else { return Err(EvalError::no_overload()) };
    let mut question = question.clone();
    change(&mut question);
    Ok(Value::Authorizer(Arc::new(Check(State::Asking(stage, question)))))
}

fn with_text(args: &[Value], run: impl FnOnce(&Check, &str) -> Answer) -> Answer {
    match args {
        [Value::Authorizer(check), Value::String(text)] => run(check, text),
        _ => Err(EvalError::no_overload()),
    }
}

fn service_account(args: &[Value]) -> Answer {
    let [Value::Authorizer(check), Value::String(namespace), Value::String(name)] = args else {
        return Err(EvalError::no_overload());
    };
    if !is_dns1123_subdomain(name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !is_dns1123_label(namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let account = (namespace.to_string(), name.to_string());
    step(check, |q| q.service_account = Some(account), Stage::Authorizer)
}

fn decision(args: &[Value], read: impl FnOnce(&Decision) -> Value) -> Answer {
    match args {
        [Value::Authorizer(check)] => match &check.0 {
            State::Decided(decision) => Ok(read(decision)),
            State::Asking(..) => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}
