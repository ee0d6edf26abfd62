//! From the claims of a token that is good to the user it names (`plugin/pkg/authenticator/token/oidc/oidc.go`,
//! `apiserver/pkg/authentication/cel`). Pure.

use super::config::{Rules, Source};
use crate::auth::UserInfo;
use machinery::cel::policy::compile_as;
use machinery::cel::{Budget, Decl, Env, ObjectType, Program, REQUEST_BUDGET, Type, Value};
use machinery::json::cannot_unmarshal;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The claims of a token.
pub(super) type Claims = Map<String, Json>;

/// An expression that compiled.
#[derive(Debug)]
pub(super) struct Expression {
    text: String,
    program: Program,
}

impl Expression {
    pub(super) fn new(text: &str, env: &Env, wanted: &[Type]) -> Result<Self, String> {
        Ok(Expression { text: text.to_owned(), program: compile_as(text, env, wanted)? })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it reads this claim by name.
    pub(super) fn selects(&self, claim: &str) -> bool {
        self.program.selects("claims", claim)
    }

    fn eval(&self, name: &'static str, value: &Value) -> Result<Value, String> {
        let variables = [(name, value.clone())];
        let result = self.program.eval(&variables, &mut Budget::new(REQUEST_BUDGET));
        result.map_err(|error| format!("expression '{}' resulted in error: {error}", self.text))
    }

    fn holds(&self, message: &str, name: &'static str, value: &Value) -> Result<(), String> {
        match self.eval(name, value)? {
            Value::Bool(true) => Ok(()),
            Value::Bool(false) => Err(format!("validation expression '{}' failed: {message}", self.text)),
            _ => Err("validation expression must return a boolean".into()),
        }
    }
}

/// What expressions over claims see.
pub(super) fn claims_env() -> Env {
    Env::new().with("claims", Type::map(Type::String, Type::Dyn))
}

/// What expressions over the user see.
pub(super) fn user_env() -> Env {
    let texts = || Type::list(Type::String);
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    let fields = fields.map(|(name, ty)| (name.to_owned(), Decl::from(ty)));
    Env::new().with("user", Type::Object(Arc::new(ObjectType::new("kubernetes.UserInfo", fields))))
}

/// The user, if the rules let it pass.
pub(super) fn user_of(rules: &Rules, claims: &Claims) -> Result<UserInfo, String> {
    let value = Value::from_json(&Json::Object(claims.clone()));
    let user = UserInfo {
        name: username(rules, claims, &value)?,
        groups: groups(rules, claims, &value)?,
        uid: uid(rules, claims, &value)?,
        extra: extra(rules, claims, &value)?,
    };
    for (claim, wanted) in &rules.required {
        let Some(value) = claims.get(claim) else {
            return Err(format!("oidc: required claim {claim} not present in ID token"));
        };
        let Some(text) = value.as_str() else {
            return Err(format!("oidc: parse claim {claim}: {}", cannot_unmarshal(value, "string")));
        };
        if text != wanted {
            return Err(format!("oidc: required claim {claim} value does not match. Got = {text}, want = {wanted}"));
        }
    }
    for (expression, message) in &rules.claims {
        let held = expression.holds(message, "claims", &value);
        held.map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
    }
    if !rules.user.is_empty() {
        let seen = user_value(&user);
        for (expression, message) in &rules.user {
            let held = expression.holds(message, "user", &seen);
            held.map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        }
    }
    Ok(user)
}

fn username(rules: &Rules, claims: &Claims, value: &Value) -> Result<String, String> {
    match &rules.username {
        Source::Expression(expression) => {
            let failed = |why: String| format!("oidc: error evaluating username claim expression: {why}");
            let found = expression.eval("claims", value).map_err(failed)?;
            match found.as_str() {
                Some("") => Err("oidc: empty username via CEL expression is not allowed".into()),
                Some(name) => Ok(name.to_owned()),
                None => Err(failed("username claim expression must return a string".into())),
            }
        }
        Source::Claim { name, prefix } => {
            let wrong = |why: &str| format!("oidc: parse username claims {name:?}: {why}");
            let found = claims.get(name).ok_or_else(|| wrong("claim not present"))?;
            let text = found.as_str().ok_or_else(|| wrong(&cannot_unmarshal(found, "string")))?;
            if name == "email" {
                match claims.get("email_verified") {
                    None | Some(Json::Bool(true)) => {}
                    Some(Json::Bool(false)) => return Err("oidc: email not verified".into()),
                    Some(_) => return Err("oidc: parse 'email_verified' claim: not a boolean".into()),
                }
            }
            Ok(format!("{prefix}{text}"))
        }
    }
}

fn groups(rules: &Rules, claims: &Claims, value: &Value) -> Result<Vec<String>, String> {
    match &rules.groups {
        None => Ok(Vec::new()),
        Some(Source::Expression(expression)) => {
            let found = expression.eval("claims", value).and_then(|found| texts_of(&found));
            found.map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))
        }
        Some(Source::Claim { name, prefix }) => {
            let wrong =
                |value: &Json| format!("oidc: parse groups claim {name:?}: {}", cannot_unmarshal(value, "string"));
            let text = |value: &Json| value.as_str().map(|t| format!("{prefix}{t}")).ok_or_else(|| wrong(value));
            match claims.get(name) {
                None => Ok(Vec::new()),
                Some(Json::Array(list)) => list.iter().map(text).collect(),
                Some(one) => Ok(vec![text(one)?]),
            }
        }
    }
}

fn uid(rules: &Rules, claims: &Claims, value: &Value) -> Result<String, String> {
    match &rules.uid {
        None => Ok(String::new()),
        Some(Source::Claim { name, .. }) => {
            let wrong = |why: &str| format!("oidc: parse uid claim {name:?}: {why}");
            let found = claims.get(name).ok_or_else(|| wrong("claim not present"))?;
            found.as_str().map(str::to_owned).ok_or_else(|| wrong(&cannot_unmarshal(found, "string")))
        }
        Some(Source::Expression(expression)) => {
            let failed = |why: String| format!("oidc: error evaluating uid claim expression: {why}");
            let found = expression.eval("claims", value).map_err(failed)?;
            let text = found.as_str().map(str::to_owned);
            text.ok_or_else(|| failed("uid claim expression must return a string".into()))
        }
    }
}

fn extra(rules: &Rules, claims: &Claims, value: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut all = BTreeMap::new();
    if let Some(id) = claims.get("jti").and_then(Json::as_str).filter(|id| !id.is_empty()) {
        all.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
    }
    for (key, expression) in &rules.extra {
        let failed =
            |why: String| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text());
        let found = expression.eval("claims", value).and_then(|found| texts_of(&found)).map_err(failed)?;
        if !found.is_empty() {
            all.insert(key.clone(), found);
        }
    }
    Ok(all)
}

/// A text, a list of texts, or nothing (`convertCELValueToStringList`).
fn texts_of(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.to_string()]),
        Value::List(list) => {
            let texts = list.items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong));
            texts.filter(|text| text.as_ref().map_or(true, |t| !t.is_empty())).collect()
        }
        _ => Err(wrong()),
    }
}

fn user_value(user: &UserInfo) -> Value {
    Value::from_json(&serde_json::json!({
        "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
    }))
}
