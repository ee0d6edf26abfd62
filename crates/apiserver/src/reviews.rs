//! Kinds that are questions: nothing is stored, the answer is in the status of what was sent
//! (`pkg/registry/authorization/*`, `pkg/registry/authentication/*`).

use crate::access_reviews::AccessReview;
use crate::api_server::{ApiServer, Call};
use crate::auth::{Decision, UserInfo};
use crate::codec;
use crate::managed;
use crate::negotiate::{self, Form};
use crate::options::WriteOptions;
use crate::pipeline::write_of;
use crate::reader::KindRef;
use crate::response::Answer;
use crate::status;
use crate::write::ensure_namespace;
use api::{AnyObject, Status};
use bytes::Bytes;
use machinery::kinds::KindInfo;
use serde_json::{Value, json};

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
    let sent = codec::to_json(encoding, body, codec::Expected::of(&**kind))?;
    if kind.info().kind == "Binding" {
        return crate::subresources::bind_by_body(server, call, kind, &sent.json, &options).await;
    }
    let mut warnings = Vec::new();
    let mut object = codec::decode(&**kind, sent, options.field_validation, &mut warnings)?.object;
    call.warnings.add(warnings);
    ensure_namespace(object.meta_mut(), kind.info().namespaced, &call.info.namespace)?;
    let manager = machinery::apply::manager_name(&options.field_manager, call.user_agent());
    let write = write_of(call, kind, "", "", &options, &manager);
    managed::note(kind, &mut *object, write.manager_at(server))?;
    let mut review: Value = serde_json::from_slice(&object.encode()).map_err(status::internal)?;
    let status = match kind.info().kind.as_ref() {
        "SubjectAccessReview" | "LocalSubjectAccessReview" | "SelfSubjectAccessReview" => {
            access(server, call, &*object).await?
        }
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

/// Whether somebody may do something.
async fn access(server: &ApiServer, call: &Call, object: &dyn AnyObject) -> Result<Value, Status> {
    let review = AccessReview::of(object).ok_or_else(|| status::internal("not an access review"))?;
    let errors = review.validate();
    if !errors.is_empty() {
        // Upstream asks the object for its kind, which it does not know.
        return Err(status::invalid("authorization.k8s.io", "", "", &errors));
    }
    let named = review.user();
    let selectors = review.selectors();
    let decision = server.decide(&review.attributes(named.as_ref().unwrap_or(&call.user), &selectors)).await;
    let mut status = decision_json(&decision);
    let problems = selectors.problems();
    if !problems.is_empty() {
        status["evaluationError"] = problems.join("; ").into();
    }
    Ok(status)
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
        // Upstream's reader of bearer tokens says this of any that nobody knows.
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}
