//! What the access reviews ask: whether their specs are as they must be, and as attributes for the authorizers
//! (`pkg/apis/authorization/validation/validation.go`, `pkg/registry/authorization/util/helpers.go`).

use crate::auth::{Attributes, UserInfo};
use api::k8s::api::authorization::v1::{
    FieldSelectorAttributes, LabelSelectorAttributes, LocalSubjectAccessReview, NonResourceAttributes,
    ResourceAttributes, SelfSubjectAccessReview, SubjectAccessReview, SubjectAccessReviewSpec,
};
use api::{AnyObject, ObjectMeta};
use machinery::field::{Errors, FieldError, Path};
use machinery::selector::{FieldRequirement, FieldSelector, LabelSelector, Operator, Requirement};
use machinery::validation::{validate_field_requirement, validate_label_requirement};
use serde_json::json;

/// A review, whichever of the three kinds it is of.
pub(crate) struct AccessReview<'a> {
    metadata: &'a ObjectMeta,
    resource: Option<&'a ResourceAttributes>,
    path: Option<&'a NonResourceAttributes>,
    /// Of whom it asks; `None` if of who asks.
    subject: Option<&'a SubjectAccessReviewSpec>,
    is_local: bool,
}

impl<'a> AccessReview<'a> {
    /// `None` if the object is no access review.
    pub(crate) fn of(object: &'a dyn AnyObject) -> Option<Self> {
        if let Some(review) = api::any::downcast_ref::<SelfSubjectAccessReview>(object) {
            let (resource, path) =
                (review.spec.resource_attributes.as_ref(), review.spec.non_resource_attributes.as_ref());
            return Some(AccessReview { metadata: &review.metadata, resource, path, subject: None, is_local: false });
        }
        let (metadata, spec, is_local) = match api::any::downcast_ref::<SubjectAccessReview>(object) {
            Some(review) => (&review.metadata, &review.spec, false),
            None => {
                let review = api::any::downcast_ref::<LocalSubjectAccessReview>(object)?;
                (&review.metadata, &review.spec, true)
            }
        };
        let (resource, path) = (spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
        Some(AccessReview { metadata, resource, path, subject: Some(spec), is_local })
    }

    /// The user it asks of, if it names one.
    pub(crate) fn user(&self) -> Option<UserInfo> {
        self.subject.map(|spec| UserInfo {
            name: text(&spec.user).into(),
            uid: text(&spec.uid).into(),
            groups: spec.groups.clone().unwrap_or_default(),
            extra: spec.extra.clone().unwrap_or_default(),
        })
    }

    /// What is wrong with it.
    pub(crate) fn validate(&self) -> Errors {
        let spec = Path::new("spec");
        let mut errors = Errors::new();
        match (self.resource, self.path) {
            (Some(_), Some(path)) => {
                let detail = "cannot be specified in combination with resourceAttributes";
                errors.push(FieldError::invalid(&spec.child("nonResourceAttributes"), &shown(path), detail));
            }
            (None, None) => {
                let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                errors.push(FieldError::invalid(&spec.child("resourceAttributes"), &json!(null), detail));
            }
            _ => {}
        }
        if self.user().is_some_and(|user| user.name.is_empty() && user.groups.is_empty()) {
            let detail = "at least one of user or group must be specified";
            errors.push(FieldError::invalid(&spec.child("user"), "", detail));
        }
        let resource = spec.child("resourceAttributes");
        errors.extend(self.resource.map(|r| validate_selectors(r, &resource)).unwrap_or_default());
        errors.extend(self.validate_metadata());
        if self.is_local {
            let given = self.resource.map(|r| text(&r.namespace));
            if let Some(given) = given.filter(|given| *given != text(&self.metadata.namespace)) {
                let at = resource.child("namespace");
                errors.push(FieldError::invalid(&at, given, "must match metadata.namespace"));
            }
            if let Some(path) = self.path {
                let detail = "disallowed on this kind of request";
                errors.push(FieldError::invalid(&spec.child("nonResourceAttributes"), &shown(path), detail));
            }
        }
        errors
    }

    fn validate_metadata(&self) -> Option<FieldError> {
        let mut rest = self.metadata.clone();
        rest.managed_fields = None;
        if self.is_local {
            rest.namespace = None;
        }
        let detail = if self.is_local { "must be empty except for namespace" } else { "must be empty" };
        let is_empty = rest == ObjectMeta::default();
        (!is_empty).then(|| FieldError::invalid(&Path::new("metadata"), &json!(self.metadata), detail))
    }

    /// The selectors it asks about.
    pub(crate) fn selectors(&self) -> Selectors {
        Selectors {
            fields: self.resource.and_then(|r| r.field_selector.as_ref()).map(of_fields).unwrap_or_default(),
            labels: self.resource.and_then(|r| r.label_selector.as_ref()).map(of_labels).unwrap_or_default(),
        }
    }

    /// What it asks about, as the authorizers see it.
    pub(crate) fn attributes<'s>(&'s self, user: &'s UserInfo, selectors: &'s Selectors) -> Attributes<'s> {
        let none = Attributes {
            user,
            verb: "",
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            is_resource_request: false,
            field_selector: &selectors.fields.text,
            label_selector: &selectors.labels.text,
        };
        match (self.resource, self.path) {
            (Some(asked), _) => Attributes {
                verb: text(&asked.verb),
                group: text(&asked.group),
                version: Some(text(&asked.version)).filter(|v| !v.is_empty()).unwrap_or("*"),
                resource: text(&asked.resource),
                subresource: text(&asked.subresource),
                namespace: text(&asked.namespace),
                name: text(&asked.name),
                is_resource_request: true,
                ..none
            },
            (None, Some(asked)) => Attributes { verb: text(&asked.verb), path: text(&asked.path), ..none },
            (None, None) => none,
        }
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Upstream prints its internal type, whose fields have no names for JSON.
fn shown(path: &NonResourceAttributes) -> serde_json::Value {
    json!({"Path": text(&path.path), "Verb": text(&path.verb)})
}

fn validate_selectors(asked: &ResourceAttributes, path: &Path) -> Errors {
    let mut errors = Errors::new();
    if let Some(selector) = &asked.field_selector {
        let path = path.child("fieldSelector");
        let requirements = selector.requirements.as_deref().unwrap_or_default();
        errors.extend(validate_one_form(text(&selector.raw_selector), requirements.len(), &path));
        let at = |i: usize| path.child("requirements").index(i);
        errors.extend(requirements.iter().enumerate().flat_map(|(i, r)| validate_field_requirement(r, &at(i))));
    }
    if let Some(selector) = &asked.label_selector {
        let path = path.child("labelSelector");
        let requirements = selector.requirements.as_deref().unwrap_or_default();
        errors.extend(validate_one_form(text(&selector.raw_selector), requirements.len(), &path));
        let at = |i: usize| path.child("requirements").index(i);
        errors.extend(requirements.iter().enumerate().flat_map(|(i, r)| validate_label_requirement(r, &at(i))));
    }
    errors
}

/// A selector is a text or requirements.
fn validate_one_form(raw: &str, requirements: usize, path: &Path) -> Option<FieldError> {
    match (raw, requirements) {
        ("", 0) => {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            Some(FieldError::required(&path.child("requirements"), &detail))
        }
        ("", _) | (_, 0) => None,
        (raw, _) => {
            let detail = "may not specified at the same time as requirements";
            Some(FieldError::invalid(&path.child("rawSelector"), raw, detail))
        }
    }
}

/// The selectors of a review in the words of a query.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    fields: Selector,
    labels: Selector,
}

#[derive(Debug, Default)]
struct Selector {
    /// What could be read. Requirements are all to be met, so that some are missing only asks for more.
    text: String,
    /// Not all could be read.
    is_partial: bool,
}

impl Selectors {
    /// What is said of selectors that could not be read, or not as a whole.
    pub(crate) fn problems(&self) -> Vec<String> {
        let both = [("fieldSelector", &self.fields), ("labelSelector", &self.labels)];
        let partial = both.into_iter().filter(|(_, selector)| selector.is_partial);
        let said = partial.map(|(name, selector)| {
            let how = if selector.text.is_empty() { "ignored" } else { "partially ignored" };
            format!("spec.resourceAttributes.{name} {how} due to parse error")
        });
        said.collect()
    }
}

fn of_labels(asked: &LabelSelectorAttributes) -> Selector {
    let Some(requirements) = asked.requirements.as_ref().filter(|r| !r.is_empty()) else {
        return read(text(&asked.raw_selector), LabelSelector::parse(text(&asked.raw_selector)));
    };
    let known = requirements.iter().filter_map(|r| {
        let operator = Operator::of(&r.operator)?;
        Requirement::new(&r.key, operator, r.values.clone().unwrap_or_default(), &Path::root()).ok()
    });
    let known: Vec<Requirement> = known.collect();
    Selector { is_partial: known.len() < requirements.len(), text: LabelSelector::of(known).to_string() }
}

fn of_fields(asked: &FieldSelectorAttributes) -> Selector {
    let Some(requirements) = asked.requirements.as_ref().filter(|r| !r.is_empty()) else {
        return read(text(&asked.raw_selector), FieldSelector::parse(text(&asked.raw_selector)));
    };
    let known = requirements.iter().filter_map(|r| match (r.operator.as_str(), r.values.as_deref()) {
        (operator @ ("In" | "NotIn"), Some([value])) => {
            Some(FieldRequirement { field: r.key.clone(), equal: operator == "In", value: value.clone() })
        }
        _ => None,
    });
    let known: Vec<FieldRequirement> = known.collect();
    Selector { is_partial: known.len() < requirements.len(), text: FieldSelector::of(known).to_string() }
}

fn read<T, E>(raw: &str, parsed: Result<T, E>) -> Selector {
    let is_partial = parsed.is_err();
    Selector { text: if is_partial { String::new() } else { raw.to_owned() }, is_partial }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use machinery::field::aggregate;

    fn review(spec: &str) -> SubjectAccessReview {
        let text = format!(r#"{{"metadata":{{}},"spec":{{"user":"u","resourceAttributes":{spec}}}}}"#);
        SubjectAccessReview::decode(text.as_bytes()).expect("a review")
    }

    #[test]
    fn selectors_are_asked_about_as_far_as_they_can_be_read() {
        let check = |spec: &str, fields: &str, labels: &str, problems: &[&str]| {
            let object = review(spec);
            let review = AccessReview::of(&object).expect("an access review");
            let (user, selectors) = (review.user().expect("a user"), review.selectors());
            let attributes = review.attributes(&user, &selectors);
            assert_eq!((attributes.field_selector, attributes.label_selector), (fields, labels), "{spec}");
            assert_eq!(selectors.problems(), problems, "{spec}");
        };
        check(r#"{"fieldSelector":{"rawSelector":"spec.nodeName=n"}}"#, "spec.nodeName=n", "", &[]);
        check(
            r#"{"fieldSelector":{"requirements":[{"key":"a","operator":"NotIn","values":["b"]},{"key":"c","operator":"Exists"}]}}"#,
            "a!=b",
            "",
            &["spec.resourceAttributes.fieldSelector partially ignored due to parse error"],
        );
        check(
            r#"{"labelSelector":{"requirements":[{"key":"a","operator":"In","values":["c","b"]},{"key":"d","operator":"DoesNotExist"}]}}"#,
            "",
            "a in (b,c),!d",
            &[],
        );
        check(
            r#"{"labelSelector":{"rawSelector":"a in ("}}"#,
            "",
            "",
            &["spec.resourceAttributes.labelSelector ignored due to parse error"],
        );
    }

    #[test]
    fn reviews_must_be_whole() {
        let check = |spec: &str, expected: &str| {
            let object = review(spec);
            let review = AccessReview::of(&object).expect("an access review");
            assert_eq!(aggregate(&review.validate()), expected, "{spec}");
        };
        check(r#"{"verb":"get"}"#, "[]");
        check(
            r#"{"labelSelector":{}}"#,
            "spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required",
        );
        check(
            r#"{"fieldSelector":{"rawSelector":"a=b","requirements":[{"key":"a","operator":"Later"}]}}"#,
            r#"spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements"#,
        );
        let nobody = SubjectAccessReview::default();
        assert_eq!(
            aggregate(&AccessReview::of(&nobody).expect("an access review").validate()),
            r#"[spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified, spec.user: Invalid value: "": at least one of user or group must be specified]"#
        );
    }
}
