//! Upstream's behaviours (`managedfields/fieldmanager_test.go`, `structured-merge-diff/merge/*_test.go`) in our words.

use super::*;
use crate::schema::{Field, ListTopology, PatchStrategy, Scalar, Schema, Struct, Type, TypeId, builtin};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

/// An object and the clock, changed step by step.
struct World {
    schema: SchemaRef<'static>,
    api_version: &'static str,
    kind: &'static str,
    object: Option<Value>,
    second: i64,
}

impl World {
    fn new(api_version: &'static str, kind: &'static str) -> Self {
        let b = builtin();
        let ty = b.by_api_version(api_version, kind).expect("a built-in kind");
        World { schema: SchemaRef { schema: &b.schema, ty }, api_version, kind, object: None, second: 0 }
    }

    fn context<'a>(&mut self, manager: &'a str, filter: &'a Filter) -> Context<'a> {
        self.second += 1;
        Context {
            root: self.schema,
            api_version: self.api_version,
            kind: self.kind,
            subresource: "",
            manager,
            now: Timestamp::from_second(self.second).expect("a small number"),
            filter,
            convert: None,
        }
    }

    fn config(&self, fields: Value) -> Value {
        let mut config = json!({"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": "x", "namespace": "default"}});
        merge_into(&mut config, fields);
        config
    }

    fn apply(&mut self, manager: &str, fields: Value, force: bool) -> Result<(), String> {
        let config = self.config(fields);
        let ctx = self.context(manager, &Filter::All);
        let object = super::apply(&ctx, self.object.as_ref(), &config, force).map_err(|e| e.to_string())?;
        self.object = Some(object);
        Ok(())
    }

    fn write(&mut self, manager: &str, fields: Value) {
        let mut new = self.config(fields);
        self.put(manager, &mut new);
    }

    fn put(&mut self, manager: &str, new: &mut Value) {
        let ctx = self.context(manager, &Filter::All);
        super::update(&ctx, self.object.as_ref(), new);
        self.object = Some(new.clone());
    }

    fn object(&self) -> Value {
        self.object.clone().expect("it was written")
    }

    /// Everything but identity and owners.
    fn fields(&self) -> Value {
        let mut object = without_managed(&self.object());
        for key in ["apiVersion", "kind"] {
            object.as_object_mut().expect("an object").remove(key);
        }
        for key in ["name", "namespace"] {
            object["metadata"].as_object_mut().expect("metadata").remove(key);
        }
        object
    }

    /// One line per owner.
    fn owners(&self) -> String {
        let entries = self.object()["metadata"]["managedFields"].clone();
        let line = |e: &Value| {
            let set = FieldSet::from_value(&e["fieldsV1"]).expect("our own set");
            let sub = e["subresource"].as_str().map(|s| format!("/{s}")).unwrap_or_default();
            let time = e["time"].as_str().map_or("-", |t| &t[17..19]).to_owned();
            format!(
                "{}{sub} {} {time} {}\n",
                e["manager"].as_str().unwrap_or("?"),
                e["operation"].as_str().unwrap_or("?"),
                set.to_json()
            )
        };
        entries.as_array().map(|l| l.iter().map(line).collect()).unwrap_or_default()
    }

    fn check(&self, fields: Value, owners: Expect) {
        assert_eq!(self.fields(), fields);
        owners.assert_eq(&self.owners());
    }
}

fn merge_into(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge_into(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn a_created_deployment_is_owned_as_upstream_records_it() {
    let mut w = World::new("apps/v1", "Deployment");
    w.write(
        "kubectl-create",
        json!({"metadata": {"labels": {"app": "x"}, "uid": "u", "generation": 1}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "x"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "securityContext": {}, "dnsPolicy": "ClusterFirst",
            }},
        }, "status": {}}),
    );
    expect![[r#"
        kubectl-create Update 01 {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:replicas":{},"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{}},"f:type":{}},"f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{}}},"f:dnsPolicy":{},"f:securityContext":{}}}}}
    "#]]
    .assert_eq(&w.owners());
}

#[test]
fn two_appliers_share_what_they_agree_on_and_conflict_otherwise() {
    let mut w = World::new("apps/v1", "Deployment");
    w.apply("a", json!({"spec": {"replicas": 1, "paused": true}}), false).expect("a new object");
    w.apply("b", json!({"spec": {"replicas": 1}}), false).expect("the same value");
    let e = w.apply("c", json!({"spec": {"replicas": 2, "paused": false}}), false);
    assert_eq!(
        e,
        Err("Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.paused\n- .spec.replicas\nconflicts with \"b\":\n- .spec.replicas".to_owned())
    );
    w.apply("c", json!({"spec": {"replicas": 2}}), true).expect("forced");
    w.check(
        json!({"metadata": {}, "spec": {"paused": true, "replicas": 2}}),
        expect![[r#"
            a Apply 01 {"f:spec":{"f:paused":{}}}
            c Apply 04 {"f:spec":{"f:replicas":{}}}
        "#]],
    );
}

#[test]
fn a_conflict_with_an_updater_names_its_version() {
    let mut w = World::new("apps/v1", "Deployment");
    w.write("kubectl-client-side-apply", json!({"spec": {"replicas": 1}}));
    let config = w.config(json!({"spec": {"replicas": 2}}));
    let ctx = w.context("me", &Filter::All);
    let e = super::apply(&ctx, w.object.as_ref(), &config, false).expect_err("somebody owns it");
    let status = e.to_status();
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let causes = status.details.expect("causes").causes;
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].message, "conflict with \"kubectl-client-side-apply\" using apps/v1");
    assert_eq!(causes[0].field, ".spec.replicas");
}

#[test]
fn what_is_given_up_is_removed_unless_somebody_else_owns_it() {
    let mut w = World::new("v1", "ConfigMap");
    w.apply("a", json!({"data": {"x": "1", "y": "2", "z": "3"}}), false).expect("new");
    w.apply("b", json!({"data": {"y": "2"}}), false).expect("agreed");
    w.write("editor", json!({"data": {"x": "1", "y": "2", "z": "4"}}));
    w.apply("a", json!({"data": {}}), false).expect("nothing to fight over");
    w.check(
        json!({"metadata": {}, "data": {"y": "2", "z": "4"}}),
        expect![[r#"
            b Apply - {"f:data":{"f:y":{}}}
            a Apply 04 {"f:data":{}}
            editor Update 03 {"f:data":{"f:z":{}}}
        "#]],
    );
    w.apply("b", json!({}), false).expect("gives up everything");
    assert_eq!(w.fields(), json!({"metadata": {}, "data": {"z": "4"}}));
}

#[test]
fn list_items_are_merged_by_key_with_defaults_and_removed_when_given_up() {
    let ports = |ports: Value| json!({"spec": {"ports": ports}});
    let mut w = World::new("v1", "Service");
    w.apply("a", ports(json!([{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP", "name": "dns"}])), false)
        .expect("new");
    w.apply("b", ports(json!([{"port": 443, "name": "https"}, {"port": 80, "targetPort": 8080}])), false)
        .expect("other fields");
    w.check(
        json!({"metadata": {}, "spec": {"ports": [{"port": 443, "name": "https"}, {"port": 80, "name": "http", "targetPort": 8080}, {"port": 53, "protocol": "UDP", "name": "dns"}]}}),
        expect![[r#"
            a Apply 01 {"f:spec":{"f:ports":{"k:{\"port\":53,\"protocol\":\"UDP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{}},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}}}}
            b Apply 02 {"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:targetPort":{}},"k:{\"port\":443,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}}}}
        "#]],
    );
    w.apply("a", ports(json!([])), false).expect("gives up its ports");
    assert_eq!(
        w.fields(),
        json!({"metadata": {}, "spec": {"ports": [{"port": 443, "name": "https"}, {"port": 80, "targetPort": 8080}]}})
    );
}

#[test]
fn sets_merge_by_value_and_atomic_lists_as_a_whole() {
    let mut w = World::new("v1", "Namespace");
    w.apply("a", json!({"metadata": {"finalizers": ["x/a", "x/b"]}}), false).expect("new");
    w.apply("b", json!({"metadata": {"finalizers": ["x/c", "x/a"]}}), false).expect("a set");
    w.check(
        json!({"metadata": {"finalizers": ["x/c", "x/a", "x/b"]}}),
        expect![[r#"
            a Apply 01 {"f:metadata":{"f:finalizers":{"v:\"x/a\"":{},"v:\"x/b\"":{}}}}
            b Apply 02 {"f:metadata":{"f:finalizers":{"v:\"x/a\"":{},"v:\"x/c\"":{}}}}
        "#]],
    );
    let mut w = World::new("v1", "Pod");
    let args = |args: Value| json!({"spec": {"containers": [{"name": "c", "args": args}]}});
    w.apply("a", args(json!(["1"])), false).expect("new");
    assert_eq!(
        w.apply("b", args(json!(["1", "2"])), false),
        Err("Apply failed with 1 conflict: conflict with \"a\": .spec.containers[name=\"c\"].args".to_owned())
    );
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let mut w = World::new("apps/v1", "Deployment");
    let mut refused = |fields: Value, want: &str| {
        let prefix = "failed to create typed patch object (default/x; apps/v1, Kind=Deployment): ";
        assert_eq!(w.apply("a", fields, false), Err(format!("{prefix}{want}")));
    };
    refused(json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema");
    refused(json!({"spec": {"replicas": "x"}}), ".spec.replicas: expected numeric (int or float), got string");
    let containers = |c: Value| json!({"spec": {"template": {"spec": {"containers": c}}}});
    refused(
        containers(json!([{"name": "a"}, {"name": "a"}])),
        ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
    );
    refused(
        containers(json!([null])),
        ".spec.template.spec.containers: element 0: associative list with keys may not have a null element",
    );
    refused(
        containers(json!([{"name": "a", "image": 5}])),
        ".spec.template.spec.containers[name=\"a\"].image: expected string, got &value.valueUnstructured{Value:5}",
    );
    refused(
        json!({"metadata": {"labels": ["a"]}, "spec": {"paused": 1}}),
        "errors:\n  .metadata.labels: expected map, got &{[a]}\n  .spec.paused: expected boolean, got &{1}",
    );
    let bad = w.apply("a", json!({"metadata": {"managedFields": []}}), false);
    assert_eq!(bad, Err("metadata.managedFields must be nil".to_owned()));
    let wrong = json!({"apiVersion": "v1", "kind": "Pod"});
    assert_eq!(w.apply("a", wrong, false), Err("invalid object type: /v1, Kind=Pod".to_owned()));
}

#[test]
fn objects_without_owners_get_one_at_the_first_apply() {
    let mut w = World::new("v1", "ConfigMap");
    w.object = Some(w.config(json!({"metadata": {"uid": "u"}, "data": {"old": "1"}})));
    w.write("editor", json!({"metadata": {"uid": "u"}, "data": {"old": "2"}}));
    assert_eq!(w.owners(), "");
    w.apply("a", json!({"data": {"new": "1"}}), false).expect("no conflict");
    expect![[r#"
        a Apply 02 {"f:data":{"f:new":{}}}
        before-first-apply Update 02 {"f:data":{".":{},"f:old":{}}}
    "#]]
    .assert_eq(&w.owners());
}

#[test]
fn clients_may_forget_owners_but_not_by_accident() {
    let mut w = World::new("v1", "ConfigMap");
    w.apply("a", json!({"data": {"x": "1"}}), false).expect("new");
    let before = w.owners();
    w.write("naive", json!({"data": {"x": "1"}}));
    assert_eq!(w.owners(), before);
    for reset in [json!([]), json!([{}])] {
        w.object.as_mut().expect("it was written")["metadata"]["uid"] = "u".into();
        let mut new = w.config(json!({"metadata": {"managedFields": reset}, "data": {"x": "2"}}));
        w.put("naive", &mut new);
        assert_eq!(w.owners(), "");
        w.apply("a", json!({"data": {"x": "2"}}), false).expect("again");
    }
    // A subresource cannot change them.
    let ctx = Context { subresource: "status", ..w.context("s", &Filter::All) };
    let mut new = w.config(json!({"metadata": {"managedFields": []}, "data": {"x": "2"}}));
    super::update(&ctx, w.object.as_ref(), &mut new);
    assert_eq!(new["metadata"]["managedFields"], w.object()["metadata"]["managedFields"]);
}

#[test]
fn times_change_only_with_the_set() {
    let mut w = World::new("v1", "ConfigMap");
    w.write("a", json!({"data": {"x": "1"}}));
    w.write("a", json!({"data": {"x": "1"}}));
    assert_eq!(w.owners(), "a Update 01 {\"f:data\":{\".\":{},\"f:x\":{}}}\n");
    w.write("a", json!({"data": {"x": "2"}}));
    assert_eq!(w.owners(), "a Update 03 {\"f:data\":{\".\":{},\"f:x\":{}}}\n");
    w.apply("b", json!({"data": {"x": "2"}}), false).expect("agreed");
    w.apply("b", json!({"data": {"x": "2", "y": "1"}}), false).expect("new key");
    w.apply("b", json!({"data": {"x": "2", "y": "1"}}), false).expect("nothing new");
    assert!(w.owners().starts_with("b Apply 05 "), "{}", w.owners());
}

#[test]
fn only_what_the_endpoint_keeps_counts() {
    let mut w = World::new("apps/v1", "Deployment");
    let filter = Filter::Exclude(FieldSet::of_fields(&[&["status"]]));
    let mut new = w.config(json!({"spec": {"replicas": 1}, "status": {"replicas": 1}}));
    let ctx = w.context("a", &filter);
    super::update(&ctx, None, &mut new);
    assert_eq!(new["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_client_side() {
    let mut w = World::new("v1", "ConfigMap");
    let last = w.config(json!({"data": {"x": "1"}})).to_string();
    let annotated = json!({"metadata": {"annotations": {LAST_APPLIED: last}}, "data": {"x": "1", "y": "1"}});
    w.write("kubectl-client-side-apply", annotated);
    let conflict = w.apply("kubectl", json!({"data": {"x": "2", "y": "2"}}), false).expect_err("y was not applied");
    assert!(conflict.ends_with("using v1: .data.y"), "{conflict}");
    w.apply("kubectl", json!({"data": {"x": "2"}}), false).expect("x was");
    let refreshed = w.fields()["metadata"]["annotations"][LAST_APPLIED].clone();
    assert_eq!(refreshed, format!("{}\n", w.config(json!({"data": {"x": "2"}}))));
    assert_eq!(w.fields()["data"], json!({"x": "2", "y": "1"}));
}

#[test]
fn owners_in_other_versions_are_converted_or_forgotten() {
    let mut w = World::new("autoscaling/v2", "HorizontalPodAutoscaler");
    w.apply("a", json!({"spec": {"maxReplicas": 1}}), false).expect("new");
    let mut object = w.object();
    object["metadata"]["managedFields"][0]["apiVersion"] = "autoscaling/v1".into();
    let config = w.config(json!({"spec": {"maxReplicas": 2}}));
    let gone = super::apply(&w.context("b", &Filter::All), Some(&object), &config, false);
    assert_eq!(gone.expect("nobody is left to object")["metadata"]["managedFields"][0]["manager"], "b");
    let v1 = SchemaRef {
        schema: &builtin().schema,
        ty: builtin().by_kind("autoscaling", "v1", "HorizontalPodAutoscaler").expect("built in"),
    };
    let convert = move |o: &Value, version: &str| (version == "autoscaling/v1").then(|| (o.clone(), v1));
    let ctx = Context { convert: Some(&convert), ..w.context("b", &Filter::All) };
    let e = super::apply(&ctx, Some(&object), &config, false).expect_err("a still owns it");
    assert_eq!(e.to_string(), "Apply failed with 1 conflict: conflict with \"a\": .spec.maxReplicas");
}

#[test]
fn who_applies_in_another_version_than_before_gets_that_version() {
    let mut w = World::new("autoscaling/v2", "HorizontalPodAutoscaler");
    w.apply("a", json!({"spec": {"maxReplicas": 1, "minReplicas": 1}}), false).expect("new");
    let mut object = w.object();
    object["metadata"]["managedFields"][0]["apiVersion"] = "autoscaling/v9".into();
    let v9 = SchemaRef {
        schema: &builtin().schema,
        ty: builtin().by_kind("autoscaling", "v2", "HorizontalPodAutoscaler").expect("built in"),
    };
    let convert = move |o: &Value, version: &str| {
        let mut o = o.clone();
        o["apiVersion"] = version.into();
        (version == "autoscaling/v9").then_some((o, v9))
    };
    let ctx = Context { convert: Some(&convert), ..w.context("a", &Filter::All) };
    let config = w.config(json!({"spec": {"maxReplicas": 2}}));
    let applied = super::apply(&ctx, Some(&object), &config, false).expect("its own");
    assert_eq!(applied["apiVersion"], "autoscaling/v2");
    assert_eq!(applied["spec"], json!({"maxReplicas": 2}));
}

#[test]
fn times_alone_are_no_difference() {
    let mut w = World::new("v1", "ConfigMap");
    w.write("a", json!({"data": {"x": "1"}}));
    let then = w.object()["metadata"]["managedFields"].clone();
    let mut now = then.clone();
    now[0]["time"] = "2030-01-01T00:00:00Z".into();
    assert!(is_same_but_for_times(&Doc::of(&then), &Doc::of(&now)));
    now[0]["manager"] = "b".into();
    assert!(!is_same_but_for_times(&Doc::of(&then), &Doc::of(&now)));
    assert!(!is_same_but_for_times(&Doc::of(&then), &Doc::of(&json!([]))));
}

#[test]
fn configurations_are_yaml_or_json() {
    let parsed = |body: &[u8]| parse_config(body).map(|c| c.value).map_err(|e| e.to_string());
    let want = json!({"a": {"b": [1, "x"]}});
    assert_eq!(parsed(br#"{"a":{"b":[1,"x"]}}"#), Ok(want.clone()));
    assert_eq!(parsed(b"a:\n  b: [1, x]\n"), Ok(want));
    assert_eq!(parsed(b""), Ok(json!({})));
    for bad in [&b"[1]"[..], b"a: [", b"\xff"] {
        let e = parsed(bad).expect_err("not a configuration");
        assert!(e.starts_with("error decoding YAML: "), "{e}");
    }
    let twice = parse_config(br#"{"a":1,"a":2}"#).expect("only a strict server minds");
    assert_eq!(twice.problems, [r#"duplicate field "a""#]);
}

#[test]
fn managers_are_named_by_request_or_user_agent() {
    assert_eq!(manager_name("me", "kubectl/v1"), "me");
    assert_eq!(manager_name("", "kubectl/v1.36 (linux)"), "kubectl");
    assert_eq!(manager_name("", "a\u{7}b/c"), "ab");
    assert_eq!(manager_name("", &"é".repeat(100)).len(), 128);
}

/// `Item{any: Any, atomic: {}, items: [Item] by name, map: {string}, name, set: {string}, sub: Item}` without a name,
/// as in a custom resource.
fn custom() -> Schema {
    let types = vec![
        Type::Scalar(Scalar::String),
        Type::Any,
        Type::Map { value: TypeId(0), atomic: true },
        Type::List { item: TypeId(7), topology: ListTopology::Map(vec!["name".into()]) },
        Type::Map { value: TypeId(0), atomic: false },
        Type::List { item: TypeId(0), topology: ListTopology::Set },
        Type::List { item: TypeId(0), topology: ListTopology::Atomic },
    ];
    let fields = [
        ("a", 0),
        ("any", 1),
        ("atomic", 2),
        ("b", 0),
        ("c", 0),
        ("kind", 0),
        ("list", 3),
        ("map", 4),
        ("metadata", 1),
        ("name", 0),
        ("apiVersion", 0),
        ("set", 5),
        ("spec", 7),
        ("strings", 6),
    ];
    let mut fields: Vec<Field> = fields
        .into_iter()
        .map(|(name, ty)| Field {
            name: name.into(),
            ty: TypeId(ty),
            required: false,
            default: None,
            patch: PatchStrategy::default(),
            proto_number: 0,
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let item = Type::Struct(Struct { fields, ..Struct::default() });
    Schema { types: types.into_iter().chain([item]).collect() }
}

/// A value written so that it has no text in common with the same value in the usual form.
fn scrambled(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let members: Vec<String> =
                map.iter().rev().map(|(k, v)| format!("{} : {}", json!(k), scrambled(v))).collect();
            format!("{{ {} }}", members.join(" , "))
        }
        Value::Array(list) => format!("[ {} ]", list.iter().map(scrambled).collect::<Vec<_>>().join(" , ")),
        scalar => scalar.to_string(),
    }
}

proptest! {
    #[test]
    fn equal_texts_are_skipped_and_equal_values_do_not_count(old in crate::patch::any_json(), new in crate::patch::any_json()) {
        let schema = custom();
        let root = SchemaRef { schema: &schema, ty: TypeId(7) };
        let (old, new) = (json!({"spec": old, "list": [{"name": "x", "spec": old}]}), json!({"spec": new, "list": [{"name": "x", "spec": old}]}));
        let (before, after) = (Doc::of(&old), Doc::of(&new));
        let text = scrambled(&new);
        let other = Doc::parse(text.as_bytes()).expect("JSON");
        for side in [Side::Typed, Side::Plain] {
            let usual = compare(root, (before.root(), side), (after.root(), side));
            // Only items that have no name are looked at where texts differ alone.
            if let Ok(without_skipping) = compare(root, (before.root(), side), (other.root(), side)) {
                prop_assert_eq!(usual, Ok(without_skipping));
            }
        }
    }

    #[test]
    fn owners_that_are_kept_as_text_are_what_would_be_written_anew(specs in proptest::collection::vec(crate::patch::any_json(), 2..6)) {
        let schema = custom();
        let mut last: Option<(Value, Option<String>)> = None;
        for (i, spec) in specs.iter().enumerate() {
            let ctx = Context {
                root: SchemaRef { schema: &schema, ty: TypeId(7) },
                api_version: "v1", kind: "Item", subresource: "", manager: ["a", "b"][i % 2],
                now: Timestamp::from_second(i as i64).expect("small"), filter: &Filter::All, convert: None,
            };
            let new = json!({"spec": spec});
            let docs = last.as_ref().map(|(old, owners)| (Doc::of(old), owners.as_ref().map(|o| Doc::parse(o.as_bytes()).expect("JSON"))));
            let change = Change {
                old: docs.as_ref().map(|(old, owners)| (old, owners.as_ref())),
                new: &Doc::of(&new),
                given: Given::Unchanged,
            };
            let owners = owners_after(&ctx, &change);
            let given = docs.as_ref().and_then(|(_, owners)| owners.as_ref());
            // The client's entries are read and written anew.
            let anew = owners_after(&ctx, &Change { given: Given::Entries(given), ..change });
            prop_assert_eq!(&owners, &anew);
            last = Some((new, owners));
        }
    }

    #[test]
    fn any_objects_are_updated_without_panic(old in crate::patch::any_json(), new in crate::patch::any_json(), managed in crate::patch::any_json()) {
        let schema = custom();
        let ctx = Context {
            root: SchemaRef { schema: &schema, ty: TypeId(7) },
            api_version: "v1", kind: "Item", subresource: "", manager: "m",
            now: Timestamp::UNIX_EPOCH, filter: &Filter::All, convert: None,
        };
        let mut created = json!({"spec": new, "metadata": {"managedFields": managed}});
        update(&ctx, None, &mut created);
        let mut changed = json!({"spec": old, "metadata": {}});
        update(&ctx, Some(&created), &mut changed);
        let mut same = changed.clone();
        update(&ctx, Some(&changed), &mut same);
        prop_assert_eq!(same, changed);
    }

    #[test]
    fn applying_twice_is_applying_once_and_everything_applied_is_there(live in crate::patch::any_json(), first in crate::patch::any_json(), second in crate::patch::any_json()) {
        let schema = custom();
        let ctx = |manager| Context {
            root: SchemaRef { schema: &schema, ty: TypeId(7) },
            api_version: "v1", kind: "Item", subresource: "", manager,
            now: Timestamp::UNIX_EPOCH, filter: &Filter::All, convert: None,
        };
        let config = |spec: &Value| json!({"apiVersion": "v1", "kind": "Item", "spec": spec});
        let live = json!({"spec": live});
        let Ok(one) = apply(&ctx("a"), Some(&live), &config(&first), true) else { return Ok(()) };
        prop_assert_eq!(apply(&ctx("a"), Some(&one), &config(&first), false), Ok(one.clone()));
        let Ok(two) = apply(&ctx("b"), Some(&one), &config(&second), true) else { return Ok(()) };
        let wanted = typed::field_set(ctx("b").root, &config(&second));
        let there = typed::field_set(ctx("b").root, &without_managed(&two));
        // What is stored was valid when it was written; something of another type has no fields.
        let root = SchemaRef { schema: &schema, ty: TypeId(7) };
        let paths = if typed::validate(root, &live).is_ok() { wanted.paths() } else { Vec::new() };
        for path in paths {
            prop_assert!(there.has(&path) || there.paths().iter().any(|p| p.starts_with(&path)), "{} in {}", show_path(&path), two);
        }
        prop_assert_eq!(apply(&ctx("b"), Some(&two), &config(&second), false), Ok(two));
    }

    #[test]
    fn what_nobody_else_owns_goes_when_its_owner_leaves_it_out(spec in crate::patch::any_json(), kept in crate::patch::any_json()) {
        let schema = custom();
        let ctx = |manager| Context {
            root: SchemaRef { schema: &schema, ty: TypeId(7) },
            api_version: "v1", kind: "Item", subresource: "", manager,
            now: Timestamp::UNIX_EPOCH, filter: &Filter::All, convert: None,
        };
        let config = |spec: &Value| json!({"apiVersion": "v1", "kind": "Item", "spec": spec});
        let Ok(one) = apply(&ctx("a"), None, &config(&spec), false) else { return Ok(()) };
        let Ok(two) = apply(&ctx("b"), Some(&one), &config(&kept), true) else { return Ok(()) };
        let empty = json!({"apiVersion": "v1", "kind": "Item"});
        // No conflict: nothing is wanted. Only what b holds is left, and a holds nothing.
        let left = apply(&ctx("a"), Some(&two), &empty, false);
        let left = left.map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        prop_assert!(!left.to_string().contains(r#""manager":"a""#), "{}", left);
        let there = typed::field_set(ctx("b").root, &json!({"spec": left["spec"]}));
        let wanted = typed::field_set(ctx("b").root, &config(&kept));
        for path in there.paths() {
            let held = wanted.has(&path) || wanted.paths().iter().any(|p| p.starts_with(&path) || path.starts_with(p));
            prop_assert!(held, "{} is nobody's in {}", show_path(&path), left);
        }
    }
}
