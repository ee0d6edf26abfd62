//! Kinds that are questions: nothing is stored, the answer is in the status of what was sent
//! (`pkg/registry/authorization/*`, `pkg/registry/authentication/*`).

use crate::api_server::{ApiServer, Call};
use crate::auth::{Attributes, Decision, UserInfo};
use crate::codec;
use crate::negotiate::{self, Form};
use crate::options::WriteOptions;
use crate::reader::KindRef;
use crate::response::Answer;
use crate::status;
use api::Status;
use bytes::Bytes;
use machinery::field::{FieldError, Path};
use machinery::kinds::KindInfo;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn is_review(info: &KindInfo) -> bool {
    matches!(info.group.as_ref(), "authorization.k8s.io" | "authentication.k8s.io")
}

/// Whether objects of the kind are never stored.
pub(crate) fn is_virtual(info: &KindInfo) -> bool {
    match info.group.as_ref() {
        "authorization.k8s.io" | "authentication.k8s.io" => true,
        "" => matches!(info.kind.as_ref(), "Binding" | "ComponentStatus"),
        _ => false,
    }
}

/// POST of a review.
pub(crate) async fn answer(server: &ApiServer, call: &Call, kind: &KindRef, body: Bytes) -> Result<Answer, Status> {
    if call.info.verb != "create" {
        return component_statuses(server, call, kind).await;
    }
    // Reviews have no columns (`registry/authorization`: no TableConvertor).
    let output = negotiate::output(&call.head.headers, &call.query, false)?;
    if is_review(kind.info()) && matches!(output.form, Form::Table(_)) {
        return Err(negotiate::refusal());
    }
    let encoding = negotiate::input(&call.head.headers)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let json = codec::to_json(encoding, body, codec::Expected::of(&**kind))?;
    if kind.info().kind == "Binding" {
        return crate::subresources::bind_by_body(server, call, kind, &json, &options).await;
    }
    let mut warnings = Vec::new();
    let object = codec::decode(&**kind, &json, options.field_validation, &mut warnings)?;
    call.warnings.add(warnings);
    let mut review: Value = serde_json::from_slice(&object.encode()).map_err(status::internal)?;
    let status = match kind.info().kind.as_ref() {
        "SubjectAccessReview" => subject_access(server, &review, "", &kind.info().kind).await?,
        "LocalSubjectAccessReview" => subject_access(server, &review, &call.info.namespace, &kind.info().kind).await?,
        "SelfSubjectAccessReview" => self_access(server, call, &review).await?,
        "SelfSubjectRulesReview" => self_rules(server, call, &review).await?,
        "SelfSubjectReview" => json!({"userInfo": user_json(&call.user)}),
        "TokenReview" => token(server, &review).await?,
        other => return Err(status::unsupported(&format!("review kind {other}"))),
    };
    review["status"] = status;
    Ok(Answer::Plain { code: 201, bytes: review.to_string().into() })
}

/// ComponentStatus is deprecated. Upstream asks its scheduler, controller manager and etcd; here only the store is a component, and
/// its name is upstream's, whatever it is (`pkg/registry/core/componentstatus/rest.go`).
async fn component_statuses(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<Answer, Status> {
    const STORE: &str = "etcd-0";
    call.warnings.add(["v1 ComponentStatus is deprecated in v1.19+".to_owned()]);
    let condition = match crate::health::store(server).await {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why}),
    };
    let status = json!({
        "apiVersion": "v1", "kind": "ComponentStatus",
        "metadata": {"name": STORE}, "conditions": [condition],
    });
    match &*call.info.verb {
        "get" if call.info.name == STORE => {
            Ok(Answer::Object { code: 200, kind: kind.clone(), bytes: status.to_string().into() })
        }
        "get" => Err(status::not_found(kind.info(), &call.info.name)),
        "list" => crate::list::of_virtual(server, call, kind, vec![status.to_string().into()]),
        _ => Err(status::method_not_allowed()),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What a spec asks about, as authorizer attributes.
fn attributes<'a>(user: &'a UserInfo, spec: &'a Value) -> Attributes<'a> {
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
        field_selector: "",
        label_selector: "",
    };
    if let Some(resource) = spec.get("resourceAttributes").filter(|v| v.is_object()) {
        return Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: match text(resource, "version") {
                "" => "*",
                version => version,
            },
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            is_resource_request: true,
            ..none
        };
    }
    let path = spec.get("nonResourceAttributes").unwrap_or(&Value::Null);
    Attributes { verb: text(path, "verb"), path: text(path, "path"), ..none }
}

fn check_attributes(spec: &Value, kind: &str) -> Result<(), Status> {
    let is_set = |name: &str| spec.get(name).is_some_and(|v| v.is_object());
    let path = Path::new("spec").child("resourceAttributes");
    let error = match (is_set("resourceAttributes"), is_set("nonResourceAttributes")) {
        (true, true) => FieldError::invalid(
            &Path::new("spec").child("nonResourceAttributes"),
            spec,
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => FieldError::invalid(
            &path,
            spec,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => return Ok(()),
    };
    Err(status::invalid("authorization.k8s.io", kind, "", &vec![error]))
}

fn decision_json(decision: &Decision) -> Value {
    let mut value = json!({"allowed": decision.is_allowed()});
    if matches!(decision, Decision::Deny(_)) {
        value["denied"] = true.into();
    }
    if !decision.reason().is_empty() {
        value["reason"] = decision.reason().into();
    }
    value
}

async fn subject_access(server: &ApiServer, review: &Value, namespace: &str, kind: &str) -> Result<Value, Status> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    check_attributes(spec, kind)?;
    let groups: Vec<String> = spec
        .get("groups")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(Into::into)
        .collect();
    let user = UserInfo { name: text(spec, "user").into(), uid: text(spec, "uid").into(), groups, extra: extra(spec) };
    if user.name.is_empty() && user.groups.is_empty() {
        let error = FieldError::invalid(
            &Path::new("spec").child("user"),
            "",
            "at least one of user or group must be specified",
        );
        return Err(status::invalid("authorization.k8s.io", kind, "", &vec![error]));
    }
    let attributes = attributes(&user, spec);
    if !namespace.is_empty() && attributes.namespace != namespace {
        let why = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
        return Err(status::bad_request(why));
    }
    Ok(decision_json(&server.decide(&attributes).await))
}

fn extra(spec: &Value) -> BTreeMap<String, Vec<String>> {
    let entries = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    entries
        .map(|(key, values)| {
            let values = values.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect();
            (key.to_lowercase(), values)
        })
        .collect()
}

async fn self_access(server: &ApiServer, call: &Call, review: &Value) -> Result<Value, Status> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    check_attributes(spec, "SelfSubjectAccessReview")?;
    Ok(decision_json(&server.decide(&attributes(&call.user, spec)).await))
}

async fn self_rules(server: &ApiServer, call: &Call, review: &Value) -> Result<Value, Status> {
    let namespace = text(review.get("spec").unwrap_or(&Value::Null), "namespace");
    if namespace.is_empty() {
        return Err(status::bad_request("no namespace on request"));
    }
    let rules = server.inner.deps.authorizer.rules_for(&call.user, namespace).await;
    let resource: Vec<Value> = rules
        .resource
        .iter()
        .map(|r| {
            let mut rule = json!({"verbs": r.verbs, "apiGroups": r.api_groups, "resources": r.resources});
            if !r.resource_names.is_empty() {
                rule["resourceNames"] = json!(r.resource_names);
            }
            rule
        })
        .collect();
    let paths: Vec<Value> =
        rules.non_resource.iter().map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.urls})).collect();
    let mut value =
        json!({"resourceRules": resource, "nonResourceRules": paths, "incomplete": rules.incomplete.is_some()});
    if let Some(why) = rules.incomplete {
        value["evaluationError"] = why.into();
    }
    Ok(value)
}

fn user_json(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

async fn token(server: &ApiServer, review: &Value) -> Result<Value, Status> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = spec
        .get("audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(Into::into)
        .collect();
    Ok(match server.inner.deps.authenticator.review_token(token, &audiences).await {
        Ok(Some((mut user, audiences))) => {
            if !user.is_in(crate::auth::AUTHENTICATED) {
                user.groups.push(crate::auth::AUTHENTICATED.into());
            }
            json!({"authenticated": true, "user": user_json(&user), "audiences": audiences})
        }
        Ok(None) => json!({"user": {}}),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}
