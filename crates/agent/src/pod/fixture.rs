//! Test pods from a line of JSON. Not part of the product.

use api::Codec;
use api::k8s::api::core::v1::Pod;

/// `default/web` with uid `1-2-3` and this spec.
pub(crate) fn pod(spec: &str) -> Pod {
    object(&format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"web","namespace":"default","uid":"1-2-3","generation":1}},"spec":{spec}}}"#
    ))
}

/// Any object.
pub(crate) fn object<K: Codec>(json: &str) -> K {
    let with_identity = if json.contains("\"kind\"") { json.to_owned() } else { identify::<K>(json) };
    K::decode(with_identity.as_bytes()).expect("the fixture is a valid object")
}

/// Decoding insists on `apiVersion` and `kind`.
fn identify<K: Codec>(json: &str) -> String {
    let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
    format!(r#"{{"apiVersion":"v1","kind":"{kind}",{}"#, &json[json.find('{').map_or(0, |i| i + 1)..])
}
