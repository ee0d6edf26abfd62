//! What upstream's samples (`tests/corpus.rs`) do not show.

use super::*;
use serde_json::json;

fn round_trip(object: Value) -> Value {
    decode(&encode(&object).expect("encodes"), None).expect("decodes").value
}

#[test]
fn zero_values_survive_behind_pointers_and_vanish_behind_omitempty() {
    let got = round_trip(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "namespace": ""},
        "spec": {"replicas": 0, "minReadySeconds": 0, "selector": {}, "template": {"spec": {"containers": [{"name": "c"}]}}},
    }));
    assert_eq!(
        got,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "status": {},
            "spec": {"replicas": 0, "selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {}}]}}},
        })
    );
}

#[test]
fn schemas_of_custom_resources_keep_their_shapes() {
    let schema = json!({
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "string", "default": "x", "enum": ["x", 1, null]}},
            "b": {"additionalProperties": false}, "c": {"additionalProperties": {"type": "number", "maximum": 1.5}},
            "d": {"x-kubernetes-preserve-unknown-fields": true},
        },
        "dependencies": {"a": ["b"], "b": {"type": "string"}},
        "x-kubernetes-list-map-keys": ["k"],
    });
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"},
        "spec": {
            "group": "g", "names": {"kind": "K", "plural": "ks"}, "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let got = round_trip(crd);
    assert_eq!(got["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema);
}

#[test]
fn lists_and_events_are_framed() {
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": []}});
    let items = [pod("a").to_string(), pod("b").to_string()];
    let bytes = encode_list("v1", "PodList", &json!({"resourceVersion": "7"}), &items).expect("encodes");
    let list = decode(&bytes, None).expect("decodes").value;
    assert_eq!(list["metadata"], json!({"resourceVersion": "7"}));
    assert_eq!(list["items"][1]["metadata"]["name"], "b");

    let mut object = pod("a");
    object["apiVersion"] = "v1".into();
    object["kind"] = "Pod".into();
    let frame = encode_watch_event("ADDED", &object).expect("encodes");
    let (len, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(len.try_into().expect("four bytes")) as usize, event.len());
    assert!(event.starts_with(b"\x0a\x05ADDED\x12"));
    assert!(event.ends_with(&encode(&object).expect("encodes")));
}

#[test]
fn kinds_without_an_encoding_are_named() {
    let error = encode(&json!({"apiVersion": "example.com/v1", "kind": "Foo"})).expect_err("foreign");
    assert_eq!(error, ProtobufError::Kind { api_version: "example.com/v1".to_owned(), kind: "Foo".to_owned() });
    assert!(is_supported("meta.k8s.io/v1", "PartialObjectMetadataList"));
    assert!(is_supported("apps/v1", "DeleteOptions"));
}

#[test]
fn a_body_without_kind_takes_the_default() {
    let with = encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}})).expect("encodes");
    let raw = decode::unknown(&with).expect("opens").raw;
    let mut without = MAGIC.to_vec();
    wire::put_bytes(&mut without, 2, raw);
    let got = decode(&without, Some(("v1", "ConfigMap"))).expect("decodes");
    assert_eq!((got.kind.as_str(), &got.value["data"]["a"]), ("ConfigMap", &json!("b")));
}

#[test]
fn no_input_panics() {
    use proptest::prelude::*;
    let pod = encode(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": "x"}}}]},
    }))
    .expect("encodes");
    for end in 0..pod.len() {
        if let Ok(decoded) = decode(&pod[..end], Some(("v1", "Pod"))) {
            assert!(decoded.value.is_object());
        }
    }
    proptest!(|(at in 0..pod.len(), byte: u8)| {
        let mut broken = pod.clone();
        broken[at] = byte;
        if let Ok(decoded) = decode(&broken, Some(("v1", "Pod"))) {
            prop_assert!(decoded.value.is_object());
        }
    });
    assert_eq!(decode(b"", None), Err(ProtobufError::Empty));
    assert_eq!(decode(b"{}", None), Err(ProtobufError::Magic));
    assert_eq!(decode(b"k8s\0", None), Err(ProtobufError::EmptyBody));
}
