//! Objects of the API in all their encodings, and what is done with them: decoding, the rules of their kinds, patches, server-side
//! apply, definitions of custom resources.

use crate::parts;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use jiff::Timestamp;
use machinery::apply::{Context, Filter};
use machinery::custom::{Definition, Outline};
use machinery::json::Doc;
use machinery::kinds::{self, Kind};
use machinery::patch::{Patch, PatchType};
use machinery::schema::builtin;
use machinery::schema::check::{check_json, parse_json, type_meta};
use machinery::schema::yaml;
use machinery::schema::{Schema, TypeId};
use serde_json::{Value, json};

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"default","labels":{"a":"b"}},
"spec":{"containers":[{"name":"c","image":"i:1","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":80,"protocol":"UDP"}],
"env":[{"name":"A","value":"1"},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],
"resources":{"requests":{"cpu":"100m","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":"http"}}}],
"tolerations":[{"key":"k","operator":"Exists","tolerationSeconds":5}],"volumes":[{"name":"v","emptyDir":{}}]},
"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;

const OTHERS: [&str; 6] = [
    r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","finalizers":["a/b"]},"spec":{"replicas":3,
"selector":{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]},
"strategy":{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":1}},
"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
    r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"type":"NodePort","clusterIP":"10.96.0.7",
"ports":[{"port":80,"targetPort":"http","nodePort":30080}],"selector":{"a":"b"},"externalIPs":["1.2.3.4"]}}"#,
    r#"{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"c"},"spec":{"schedule":"*/5 1-3 * * MON","timeZone":"Europe/Berlin",
"jobTemplate":{"spec":{"backoffLimit":1,"podFailurePolicy":{"rules":[{"action":"Ignore","onExitCodes":{"operator":"In","values":[1]}}]},
"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}}}"#,
    r#"{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"p"},"spec":{"failurePolicy":"Fail",
"matchConstraints":{"resourceRules":[{"apiGroups":["apps"],"apiVersions":["v1"],"operations":["CREATE"],"resources":["deployments"]}]},
"variables":[{"name":"n","expression":"object.spec.replicas"}],"validations":[{"expression":"variables.n <= 5","messageExpression":"'n'"}]}}"#,
    r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"n"},"spec":{"podSelector":{},
"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"port":80,"endPort":90}]}],"policyTypes":["Ingress"]}}"#,
    r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"r"},"aggregationRule":{"clusterRoleSelectors":
[{"matchLabels":{"a":"b"}}]},"rules":[{"apiGroups":["*"],"resources":["pods/log"],"verbs":["get"]},{"nonResourceURLs":["/x*"],"verbs":["get"]}]}"#,
];

fn pod_type() -> (&'static Schema, TypeId) {
    (&builtin().schema, builtin().by_kind("", "v1", "Pod").expect("pods are built in"))
}

// === decoding ===

pub(crate) fn json_seeds() -> Vec<Vec<u8>> {
    OTHERS.iter().chain([&POD]).map(|text| text.as_bytes().to_vec()).collect()
}

/// What is understood, written and read again is the same and needs no remark; the index of a text says what the value says.
pub(crate) fn json(input: &[u8]) {
    let (schema, ty) = pod_type();
    if let Ok(read) = check_json(schema, ty, input) {
        let again = check_json(schema, ty, read.value.to_string().as_bytes()).expect("what was read");
        assert_eq!(again.value, read.value);
    }
    let value = serde_json::from_slice::<Value>(input);
    if let (Some(doc), Ok(value)) = (Doc::parse(input), value) {
        assert_eq!(doc.root().to_value(), value);
    }
}

pub(crate) fn yaml_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {a: 'b', c: \"d\\n\"}}\nspec:\n  containers:\n  - name: c\n    args: [1, ~, yes, 0x1f]\n",
        "a: &x [1, 2]\nb: *x\nc: |\n  text\n   more\nd: >-\n  folded\n  text\n? e\n: !!str 5\n",
        "--- # one\na: 1\n...\n---\nb: 2\n",
        "a: 1\na: 2\n<<: {b: 3}\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// YAML is a way to write JSON: what it says can be said so.
pub(crate) fn yaml(input: &[u8]) {
    if let Ok(read) = yaml::parse(input) {
        let text = read.value.to_string();
        let again = parse_json(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(again.value, read.value);
    }
    machinery::apply::parse_config(input).ok();
}

pub(crate) fn protobuf_seeds() -> Vec<Vec<u8>> {
    let encode = |text: &Vec<u8>| machinery::protobuf::encode(&serde_json::from_slice(text).ok()?).ok();
    json_seeds().iter().filter_map(encode).collect()
}

/// What is understood, written and read again is the same.
pub(crate) fn protobuf(input: &[u8]) {
    let Ok(read) = machinery::protobuf::decode(input, None) else { return };
    let Ok(bytes) = machinery::protobuf::encode(&read.value) else { return };
    let again = machinery::protobuf::decode(&bytes, None).expect("what was written").value;
    assert_eq!(machinery::protobuf::encode(&again).expect("what was read"), bytes);
}

// === kinds ===

fn kind_of(input: &[u8]) -> Option<&'static dyn Kind> {
    let (api_version, kind) = type_meta(input).ok()?;
    kinds::all().iter().copied().find(|k| k.info().api_version() == api_version && k.info().kind == kind)
}

/// An object lives through the rules of its kind; defaults settle.
pub(crate) fn kinds(input: &[u8]) {
    let Some(kind) = kind_of(input) else { return };
    live_through(kind, input);
}

fn live_through(kind: &dyn Kind, input: &[u8]) {
    if kind.check(input).is_err() {
        return;
    }
    let Ok(mut object) = kind.decode(input) else { return };
    kind.default(&mut *object);
    let once = object.encode();
    kind.default(&mut *object);
    assert!(object.encode() == once, "defaults do not settle: {}", String::from_utf8_lossy(&once));
    let old = object.clone();
    kind.prepare_create(&mut *object);
    kind.validate_create(&*object);
    kind.warnings(&*object, Some(&*old));
    for subresource in [None, Some("status")] {
        let mut new = old.clone();
        kind.prepare_update(&mut *new, &*object, subresource);
        kind.validate_update(&*new, &*object, subresource);
    }
    assert_eq!(kind.cells(&*old, Timestamp::UNIX_EPOCH).len(), kind.columns().len());
    kind.selectable_fields(&*old);
}

pub(crate) fn definition_seeds() -> Vec<Vec<u8>> {
    let definition = |schema: &str| {
        format!(
            r#"{{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{{"name":"foos.example.com"}},
"spec":{{"group":"example.com","names":{{"plural":"foos","singular":"foo","kind":"Foo","listKind":"FooList"}},"scope":"Namespaced",
"versions":[{{"name":"v1","served":true,"storage":true,"subresources":{{"status":{{}},"scale":{{"specReplicasPath":".spec.n","statusReplicasPath":".status.n"}}}},
"additionalPrinterColumns":[{{"name":"N","type":"integer","jsonPath":".spec.n"}}],"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#
        )
    };
    let schemas = [
        r#"{"type":"object","properties":{"spec":{"type":"object","required":["n"],"properties":{"n":{"type":"integer","minimum":1,"default":3},
"s":{"type":"string","pattern":"^a+$","enum":["a","aa"],"nullable":true},"t":{"type":"string","format":"date-time"}},
"x-kubernetes-validations":[{"rule":"self.n > 1 && self.n >= oldSelf.n","messageExpression":"'n is ' + string(self.n)"}]}}}"#,
        r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"list":{"type":"array","x-kubernetes-list-type":"map",
"x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","default":"x"}}}},
"m":{"type":"object","additionalProperties":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]}},
"e":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}}}"#,
    ];
    let objects = [
        r#"{"apiVersion":"example.com/v1","kind":"Foo","metadata":{"name":"a"},"spec":{"n":2,"s":"aa","x":1},"status":{"n":1}}"#,
        r#"{"apiVersion":"example.com/v1","kind":"Foo","metadata":{"name":"a"},"list":[{"k":"a"},{}],"m":{"a":1,"b":"2"},"e":{"apiVersion":"v1","kind":"Pod"}}"#,
    ];
    let pairs = schemas.iter().zip(objects);
    pairs.map(|(schema, object)| format!("{}\0{object}", definition(schema)).into_bytes()).collect()
}

/// A definition that is valid makes a kind that lives with any object.
pub(crate) fn definitions(input: &[u8]) {
    let [definition, object] = parts(input);
    let Some(kind) = kind_of(definition).filter(|k| k.info().kind == "CustomResourceDefinition") else { return };
    live_through(kind, definition);
    let Ok(mut decoded) = kind.decode(definition) else { return };
    kind.default(&mut *decoded);
    kind.prepare_create(&mut *decoded);
    if !kind.validate_create(&*decoded).is_empty() {
        return;
    }
    let Ok(crd) = serde_json::from_slice::<CustomResourceDefinition>(&decoded.encode()) else { return };
    // Named, then established.
    let now = api::Time(Timestamp::UNIX_EPOCH);
    let mut crd = crd;
    for _ in 0..2 {
        let next = machinery::custom::names::next_status(&Outline::of(crd.clone()), &[], &now);
        crd.status = next.or(crd.status);
    }
    let Some(made) = Definition::new(&crd) else { return };
    if let Some(custom) = made.storage() {
        live_through(&**custom, object);
    }
}

// === patches ===

fn pairs(patches: &[&str]) -> Vec<Vec<u8>> {
    patches.iter().map(|patch| format!("{POD}\0{patch}").into_bytes()).collect()
}

pub(crate) fn json_patch_seeds() -> Vec<Vec<u8>> {
    pairs(&[
        r#"[{"op":"add","path":"/metadata/labels/x~1y","value":"z"},{"op":"remove","path":"/spec/volumes/0"}]"#,
        r#"[{"op":"test","path":"/spec/containers/0/name","value":"c"},{"op":"replace","path":"/spec/containers/0/image","value":null}]"#,
        r#"[{"op":"move","from":"/metadata/labels/a","path":"/metadata/labels/b"},{"op":"copy","from":"/spec/volumes/0","path":"/spec/volumes/-"}]"#,
    ])
}

pub(crate) fn merge_patch_seeds() -> Vec<Vec<u8>> {
    pairs(&[
        r#"{"metadata":{"labels":{"a":null,"c":"d"}},"spec":{"containers":[{"name":"c","env":[{"name":"B","$patch":"delete"}]}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"d","image":"x"}],"volumes":[{"$patch":"replace"}]}}"#,
        r#"{"spec":{"tolerations":[{"key":"z"}],"$retainKeys":["containers"],"$deleteFromPrimitiveList/finalizers":["a"]},"status":{"$patch":"delete"}}"#,
    ])
}

/// Patching a text is patching its value; the result.
fn patched(kind: PatchType, input: &[u8]) -> Option<(Patch, Value)> {
    let [current, patch] = parts(input);
    let current: Value = serde_json::from_slice(current).ok().filter(Value::is_object)?;
    let patch = Patch::parse(kind, patch).ok()?;
    let schema = Some(pod_type());
    let value = patch.apply(schema, &current);
    let text = patch.apply_text(schema, &Doc::of(&current)).map(|patched| patched.text);
    let text = text.map(|text| serde_json::from_slice::<Value>(&text).expect("JSON"));
    assert_eq!(text, value);
    Some((patch, value.ok()?))
}

pub(crate) fn json_patch(input: &[u8]) {
    patched(PatchType::Json, input);
}

/// Once is enough.
pub(crate) fn merge_patch(input: &[u8]) {
    if let Some((patch, once)) = patched(PatchType::Merge, input) {
        assert_eq!(patch.apply(None, &once), Ok(once));
    }
}

pub(crate) fn strategic_patch(input: &[u8]) {
    patched(PatchType::Strategic, input);
}

// === server-side apply ===

pub(crate) fn apply_seeds() -> Vec<Vec<u8>> {
    let configs = [
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x":"y"}},"spec":{"containers":[{"name":"c","env":[{"name":"B","value":"2"}]}]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80}]},{"name":"d"}]}}"#,
    ];
    vec![format!("{POD}\0{}\0{}", configs[0], configs[1]).into_bytes()]
}

/// Applying twice is applying once, also after somebody else did.
pub(crate) fn apply(input: &[u8]) {
    let [live, first, second] = parts(input);
    let (schema, ty) = pod_type();
    // As the server does: an object is stored as Go shows it.
    let shown = |bytes| check_json(schema, ty, bytes).ok().map(|read| read.value).filter(Value::is_object);
    let Some(mut live) = shown(live) else { return };
    live["apiVersion"] = "v1".into();
    live["kind"] = "Pod".into();
    let context = |manager| Context {
        root: machinery::apply::SchemaRef { schema, ty },
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        manager,
        now: Timestamp::UNIX_EPOCH,
        filter: &Filter::All,
        convert: None,
    };
    for (manager, config) in [("one", first), ("two", second)] {
        let Ok(config) = machinery::apply::parse_config(config) else { return };
        let Ok(applied) = machinery::apply::apply(&context(manager), Some(&live), &config.value, true) else { return };
        let again = machinery::apply::apply(&context(manager), Some(&applied), &config.value, false);
        assert_eq!(again, Ok(applied.clone()), "{manager}: {}", config.value);
        live = applied;
    }
    let mut same = live.clone();
    machinery::apply::update(&context("three"), Some(&live), &mut same);
    assert_eq!(same, live, "an update that changes nothing: {}", json!(null));
}
