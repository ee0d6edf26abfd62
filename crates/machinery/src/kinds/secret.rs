//! Secret and ServiceAccount (`pkg/registry/core/{secret,serviceaccount}/strategy.go`, `ValidateSecret*`).

use super::common::{age, age_column, column, name, name_column, str_of, text, typed_column};
use super::configmap::MAX_DATA;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::key_pair;
use crate::schema::check::parse_json;
use crate::validation::{IMMUTABLE, Messages, invalid_each, is_config_map_key, is_dns1123_subdomain};
use api::k8s::ByteString;
use api::k8s::api::core::v1::ObjectReference;
use api::prelude::{MetaExt, Secret, ServiceAccount};
use serde_json::Value;

const TLS: &str = "kubernetes.io/tls";

/// What is particular about a Secret: its type asks for certain keys, and an immutable one stays as it is.
pub(super) struct SecretKind;

impl Strategy for SecretKind {
    type Object = Secret;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(secret: &mut Secret) {
        // `stringData` is how clients write text; it is never read back.
        for (key, value) in secret.string_data.take().into_iter().flatten() {
            secret.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
        text(&mut secret.type_, "Opaque");
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(secret: &Secret) -> Errors {
        let path = Path::new("data");
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in secret.data.iter().flatten() {
            errors.extend(invalid_each(&path.key(key), key, is_config_map_key(key)));
            size += value.0.len();
        }
        if size > MAX_DATA {
            errors.push(FieldError::too_long(&path, MAX_DATA));
        }
        errors.extend(validate_type(secret, &path));
        errors
    }

    fn validate_update(new: &Secret, old: &Secret) -> Errors {
        let mut errors = Vec::new();
        if str_of(&new.type_) != str_of(&old.type_) {
            errors.push(FieldError::invalid(&Path::new("type"), str_of(&new.type_), IMMUTABLE));
        }
        if old.immutable == Some(true) {
            let detail = "field is immutable when `immutable` is set";
            if new.immutable != Some(true) {
                errors.push(FieldError::forbidden(&Path::new("immutable"), detail));
            }
            if new.data.iter().flatten().ne(old.data.iter().flatten()) {
                errors.push(FieldError::forbidden(&Path::new("data"), detail));
            }
        }
        errors
    }

    fn warnings(secret: &Secret, _old: Option<&Secret>) -> Vec<String> {
        if str_of(&secret.type_) != TLS {
            return Vec::new();
        }
        let value =
            |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice()).unwrap_or_default();
        key_pair::check(value("tls.crt"), value("tls.key")).err().into_iter().collect()
    }

    const SELECTABLE: &'static [&'static str] = &["type"];

    fn selectable_fields(secret: &Secret) -> Vec<(&'static str, String)> {
        vec![("type", str_of(&secret.type_).to_owned())]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Type"), typed_column("Data", "string"), age_column()]
    }

    fn cells(secret: &Secret, now: jiff::Timestamp) -> Vec<Value> {
        let count = secret.data.as_ref().map_or(0, |d| d.len());
        vec![name(secret), str_of(&secret.type_).into(), count.into(), age(secret, now)]
    }
}

fn validate_type(secret: &Secret, path: &Path) -> Errors {
    let has = |key: &str| secret.data.as_ref().is_some_and(|d| d.contains_key(key));
    let missing = |keys: &[&str]| -> Errors {
        keys.iter().filter(|k| !has(k)).map(|k| FieldError::required(&path.key(k), "")).collect()
    };
    match str_of(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if secret.annotation(ACCOUNT).unwrap_or_default().is_empty() {
                return vec![FieldError::required(&Path::new("metadata").child("annotations").key(ACCOUNT), "")];
            }
            Vec::new()
        }
        "kubernetes.io/dockercfg" => validate_json(secret, ".dockercfg", path),
        "kubernetes.io/dockerconfigjson" => validate_json(secret, ".dockerconfigjson", path),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => missing(&["username", "password"]),
        "kubernetes.io/ssh-auth" => {
            let key = secret.data.as_ref().and_then(|d| d.get("ssh-privatekey"));
            if key.is_none_or(|k| k.0.is_empty()) {
                return vec![FieldError::required(&path.key("ssh-privatekey"), "")];
            }
            Vec::new()
        }
        TLS => missing(&["tls.crt", "tls.key"]),
        _ => Vec::new(),
    }
}

fn validate_json(secret: &Secret, key: &str, path: &Path) -> Errors {
    let path = path.key(key);
    let Some(bytes) = secret.data.as_ref().and_then(|d| d.get(key)) else {
        return vec![FieldError::required(&path, "")];
    };
    let why = match parse_json(&bytes.0).map(|parsed| parsed.value) {
        Ok(Value::Object(_) | Value::Null) => return Vec::new(),
        Ok(Value::Array(_)) => "json: cannot unmarshal array into Go value of type map[string]interface {}".to_owned(),
        Ok(Value::String(_)) => {
            "json: cannot unmarshal string into Go value of type map[string]interface {}".to_owned()
        }
        Ok(Value::Bool(_)) => "json: cannot unmarshal bool into Go value of type map[string]interface {}".to_owned(),
        Ok(Value::Number(_)) => {
            "json: cannot unmarshal number into Go value of type map[string]interface {}".to_owned()
        }
        Err(error) => error.to_string(),
    };
    vec![FieldError::invalid(&path, "<secret contents redacted>", &why)]
}

/// What is particular about a ServiceAccount: of its secrets only names are kept.
pub(super) struct ServiceAccountKind;

impl Strategy for ServiceAccountKind {
    type Object = ServiceAccount;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn prepare_create(account: &mut ServiceAccount) {
        clean_references(account);
    }

    fn prepare_update(new: &mut ServiceAccount, _old: &ServiceAccount) {
        clean_references(new);
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), age_column()]
    }

    fn cells(account: &ServiceAccount, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(account), age(account, now)]
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(account: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
        const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
        let is_new = account.annotation(ENFORCE).is_some() && old.is_none_or(|old| old.annotation(ENFORCE).is_none());
        let text = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        is_new.then(|| format!("metadata.annotations[{ENFORCE}]: {text}")).into_iter().collect()
    }

    fn validate(_account: &ServiceAccount) -> Errors {
        Vec::new()
    }
}

fn clean_references(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference { name: secret.name.take(), ..ObjectReference::default() };
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_update, check_warnings};
    use expect_test::expect;

    #[test]
    fn secrets() {
        let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}";
        check_defaults(
            secret,
            expect![[r#"
            data.a: "Yg=="
            type: "Opaque""#]],
        );
        check_create(
            &secret.replace("stringData", "type: kubernetes.io/tls, stringData"),
            expect![[r#"
            data[tls.crt]: Required value
            data[tls.key]: Required value"#]],
        );
        check_create(
            &secret.replace("a: b", "'a/b': c"),
            expect![[
                r#"data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"#
            ]],
        );
        check_update(
            secret,
            &secret.replace("stringData", "type: other, stringData"),
            None,
            expect![[r#"type: Invalid value: "other": field is immutable"#]],
        );
        let fixed = secret.replace("stringData", "immutable: true, stringData");
        check_update(
            &fixed,
            &fixed.replace("a: b", "a: c"),
            None,
            expect!["data: Forbidden: field is immutable when `immutable` is set"],
        );
    }

    #[test]
    fn enforced_mountable_secrets_are_warned_of() {
        let plain = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: b}}";
        let enforcing =
            &plain.replace("name: a", "name: a, annotations: {kubernetes.io/enforce-mountable-secrets: 'true'}");
        check_warnings(
            enforcing,
            Some(plain),
            expect![
                "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
            ],
        );
        check_warnings(enforcing, Some(enforcing), expect![""]);
    }
}
