//! Claims that a token does not hold: it names an endpoint where another token has them (OpenID Connect Core 5.6.2; `claimResolver` in
//! `plugin/pkg/authenticator/token/oidc/oidc.go`). Pure.

use super::claims::Claims;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a claim is.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Endpoint {
    #[serde(rename = "endpoint", default)]
    pub(super) url: String,
    /// Empty: it is everybody's to ask.
    #[serde(default)]
    pub(super) access_token: String,
}

/// Where `claim` is; `None` if it is here, or nowhere. Claims in a token within the token have no URL, and are left out as upstream
/// does.
pub(super) fn endpoint_of(claim: &str, claims: &Claims) -> Result<Option<Endpoint>, String> {
    let Some(names) = claims.get("_claim_names").filter(|_| !claims.contains_key(claim)) else { return Ok(None) };
    let names: BTreeMap<String, String> = read(names, "oidc: error parsing distributed claim names")?;
    let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
    let mut sources: BTreeMap<String, Endpoint> = read(sources, "oidc: could not parse claim sources")?;
    let Some(name) = names.get(claim) else { return Ok(None) };
    let missing = || format!("id token _claim_names contained a source {name} missing in _claims_sources");
    let endpoint = sources.remove(name).ok_or_else(missing)?;
    Ok(Some(endpoint).filter(|endpoint| !endpoint.url.is_empty()))
}

fn read<T: DeserializeOwned>(value: &Value, failure: &str) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("{failure}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_found_by_the_name_of_the_claim() {
        let check = |claims: Value| match claims {
            Value::Object(claims) => endpoint_of("groups", &claims),
            _ => panic!("claims are an object"),
        };
        let (names, source) = (json!({"groups": "a"}), json!({"endpoint": "https://e", "access_token": "t"}));
        let endpoint = Endpoint { url: "https://e".into(), access_token: "t".into() };
        let both = json!({"_claim_names": names, "_claim_sources": {"a": source}});
        assert_eq!(check(both.clone()), Ok(Some(endpoint)));
        let mut own = both;
        own["groups"] = json!(["x"]);
        assert_eq!(check(own), Ok(None));
        assert_eq!(check(json!({})), Ok(None));
        assert_eq!(check(json!({"_claim_names": {"roles": "a"}, "_claim_sources": {}})), Ok(None));
        assert_eq!(check(json!({"_claim_names": names, "_claim_sources": {"a": {"JWT": "x.y.z"}}})), Ok(None));
        assert_eq!(check(json!({"_claim_names": names})), Err("oidc: no claim sources".into()));
        let lost = "id token _claim_names contained a source a missing in _claims_sources";
        assert_eq!(check(json!({"_claim_names": names, "_claim_sources": {}})), Err(lost.into()));
    }
}
