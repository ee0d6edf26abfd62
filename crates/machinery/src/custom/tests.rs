//! Definitions in, what their kinds do to objects out.

use super::*;
use api::Codec;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use expect_test::{Expect, expect};
use serde_json::json;

const SCHEMA: &str = r#"{"type":"object","properties":{
  "spec":{"type":"object","required":["name"],"properties":{
    "name":{"type":"string","maxLength":5,"pattern":"^[a-z]+$"},
    "replicas":{"type":"integer","format":"int32","minimum":0,"default":1},
    "color":{"type":"string","enum":["red","blue"]},
    "level":{"type":"number","enum":[1.0,2.5]},
    "port":{"x-kubernetes-int-or-string":true},
    "tags":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
    "items":{"type":"array","maxItems":2,"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["id"],
      "items":{"type":"object","required":["id"],"properties":{"id":{"type":"string"},"size":{"type":"number","maximum":10}}}},
    "labels":{"type":"object","additionalProperties":{"type":"string"}},
    "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"known":{"type":"object","properties":{"a":{"type":"string"}}}}},
    "template":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true},
    "maybe":{"type":"string","nullable":true},
    "choice":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"oneOf":[{"required":["a"]},{"required":["b"]}]}}},
  "status":{"type":"object","properties":{"ready":{"type":"boolean"},"replicas":{"type":"integer"}}}}}"#;

fn definition(schema: &str) -> CustomResourceDefinition {
    let json = format!(
        r#"{{"metadata":{{"name":"widgets.example.com"}},"spec":{{"group":"example.com","scope":"Namespaced",
        "names":{{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList"}},"versions":[
        {{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{schema}}},
          "subresources":{{"status":{{}},"scale":{{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas"}}}},
          "selectableFields":[{{"jsonPath":".spec.color"}}],
          "additionalPrinterColumns":[{{"name":"Color","type":"string","jsonPath":".spec.color"}},
            {{"name":"Replicas","type":"integer","jsonPath":".spec.replicas"}},
            {{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}}]}},
        {{"name":"v1beta1","served":true,"storage":false,"deprecated":true,"schema":{{"openAPIV3Schema":{{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}}]}}}}"#
    );
    CustomResourceDefinition::decode(json.as_bytes()).expect("a definition")
}

fn accepted() -> Definition {
    let mut crd = definition(SCHEMA);
    crd.status.get_or_insert_default().accepted_names = Some(crd.spec.names.clone());
    Definition::new(&crd).expect("names were accepted")
}

fn object(spec: Value) -> Vec<u8> {
    let meta = json!({"name": "w", "namespace": "n", "resourceVersion": "1", "generation": 1});
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": meta, "spec": spec}).to_string().into_bytes()
}

fn kind() -> Arc<CustomKind> {
    accepted().version("v1").expect("a version").clone()
}

fn decoded(spec: Value) -> Box<dyn AnyObject> {
    let kind = kind();
    let mut object = kind.decode(&object(spec)).expect("an object");
    kind.default(&mut *object);
    object
}

fn lines(errors: &Errors) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn check_create(spec: Value, expected: Expect) {
    expected.assert_eq(&lines(&kind().validate_create(&*decoded(spec))));
}

fn check_update(old: Value, new: Value, expected: Expect) {
    expected.assert_eq(&lines(&kind().validate_update(&*decoded(new), &*decoded(old), None)));
}

fn spec_of(object: &dyn AnyObject) -> Value {
    of(object).body["spec"].clone()
}

#[test]
fn bodies_are_pruned_and_defaulted() {
    let spec = json!({
        "name": "a", "unknown": 1, "maybe": null, "color": null, "replicas": null, "labels": {"x": "y"},
        "free": {"any": {"thing": 1}, "known": {"a": "x", "b": "y"}},
        "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "nonsense": 1}, "spec": {"x": 1.0}},
    });
    let expected = json!({
        "name": "a", "maybe": null, "replicas": 1, "labels": {"x": "y"},
        "free": {"any": {"thing": 1}, "known": {"a": "x"}},
        "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1.0}},
    });
    let read = decoded(spec.clone());
    assert_eq!(spec_of(&*read), expected);
    // What is written has no point.
    let written = String::from_utf8(kind().encode(&*read)).expect("text");
    assert!(written.contains(r#""spec":{"x":1}"#), "{written}");
    let mut body: Value = serde_json::from_slice(&object(spec)).expect("JSON");
    body["metadata"]["bad"] = 1.into();
    body["top"] = 1.into();
    let problems = kind().check(body.to_string().as_bytes()).expect("JSON").problems;
    expect![[r#"
        unknown field "metadata.bad"
        unknown field "spec.free.known.b"
        unknown field "spec.unknown"
        unknown field "top"
        unknown field "spec.template.metadata.nonsense""#]]
    .assert_eq(&problems.join("\n"));
    let doubled = br#"{"metadata":{"name":"w"},"spec":{"name":"a","name":"b"}}"#;
    assert_eq!(kind().check(doubled).expect("JSON").problems, [r#"duplicate field "spec.name""#]);
}

#[test]
fn what_is_wrong_with_new_objects() {
    check_create(json!({"name": "ok", "replicas": 3, "port": "http", "choice": {"a": "x"}}), expect![""]);
    check_create(json!({}), expect!["spec.name: Required value"]);
    check_create(
        json!({"name": "toolong", "replicas": -1, "color": "green", "level": 2, "port": true, "labels": {"a": 1}}),
        expect![[r#"
            spec.color: Unsupported value: "green": supported values: "red", "blue"
            spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer"
            spec.level: Unsupported value: 2: supported values: "1", "2.5"
            spec.name: Too long: may not be more than 5 bytes
            spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"
            spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0
            .spec.replicas: Invalid value: -1: should be a non-negative integer"#]],
    );
    check_create(
        json!({"name": "A", "tags": ["a", "b", "a"], "items": [{"id": "x"}, {"id": "x", "size": 11.5}, {"id": "y"}]}),
        expect![[r#"
            spec.items[1].size: Invalid value: 11.5: spec.items[1].size in body should be less than or equal to 10
            spec.items: Too many: 3: must have at most 2 items
            spec.name: Invalid value: "A": spec.name in body should match '^[a-z]+$'
            spec.items[1]: Duplicate value: {"id":"x"}
            spec.tags[2]: Duplicate value: "a""#]],
    );
    check_create(
        json!({"name": "a", "choice": {"a": "x", "b": "y"}, "template": {"kind": "Pod", "metadata": {"name": "-/"}}}),
        expect![[r#"
            <nil>: Invalid value: "": "spec.choice" must validate one and only one schema (oneOf). Found 2 valid alternatives
            spec.template.apiVersion: Required value
            spec.template.metadata.name: Invalid value: "-/": may not contain '/'"#]],
    );
    check_create(
        json!("text"),
        expect![[r#"spec: Invalid value: "string": spec in body must be of type object: "string""#]],
    );
}

#[test]
fn what_was_wrong_may_stay() {
    let old = json!({"name": "TOO", "color": "green", "items": [{"id": "x", "size": 99}], "tags": ["a", "a"]});
    let mut new = old.clone();
    new["replicas"] = 5.into();
    check_update(old.clone(), new.clone(), expect![""]);
    new["color"] = "pink".into();
    new["items"] = json!([{"id": "y", "size": 98}, {"id": "x", "size": 99}]);
    check_update(
        old,
        new,
        expect![[r#"
            spec.color: Unsupported value: "pink": supported values: "red", "blue"
            spec.items[0].size: Invalid value: 98: spec.items[0].size in body should be less than or equal to 10"#]],
    );
}

#[test]
fn a_new_object_has_the_defaults_of_status_and_none_of_its_own() {
    let schema = r#"{"type":"object","properties":{"status":{"type":"object","default":{"phase":"Pending"},"properties":{
        "phase":{"type":"string"}}}}}"#;
    let mut crd = definition(schema);
    crd.status.get_or_insert_default().accepted_names = Some(crd.spec.names.clone());
    let kind = Definition::new(&crd).expect("names were accepted").versions[0].clone();
    let given = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "status": {"phase": "Ready"}});
    let mut object = kind.decode(given.to_string().as_bytes()).expect("an object");
    kind.default(&mut *object);
    kind.prepare_create(&mut *object);
    assert_eq!(of(&*object).body["status"], json!({"phase": "Pending"}));
}

#[test]
fn status_is_written_by_its_subresource_only() {
    let kind = kind();
    let mut old = decoded(json!({"name": "a"}));
    of_mut(&mut *old).body.insert("status".into(), json!({"ready": true}));
    let mut new = decoded(json!({"name": "b"}));
    kind.prepare_update(&mut *new, &*old, None);
    assert_eq!((&of(&*new).body["status"], new.meta().generation), (&json!({"ready": true}), Some(2)));
    let mut state = decoded(json!({"name": "c"}));
    of_mut(&mut *state).body.insert("status".into(), json!({"ready": "no"}));
    kind.prepare_update(&mut *state, &*old, Some("status"));
    assert_eq!((&of(&*state).body["spec"]["name"], state.meta().generation), (&json!("a"), Some(1)));
    expect![[r#"status.ready: Invalid value: "string": ready in body must be of type boolean: "string""#]]
        .assert_eq(&lines(&kind.validate_update(&*state, &*old, Some("status"))));
}

#[test]
fn objects_are_shown_as_columns_and_selected_by_fields() {
    let kind = kind();
    let names: Vec<&str> = kind.columns().iter().map(|c| c.name.as_ref()).collect();
    assert_eq!(names, ["Name", "Color", "Replicas", "Age"]);
    let mut object = decoded(json!({"name": "a", "color": "red", "replicas": 2}));
    object.meta_mut().creation_timestamp = Some(api::Time("2026-01-01T00:00:00Z".parse().expect("a time")));
    let now = "2026-01-01T01:00:00Z".parse().expect("a time");
    assert_eq!(kind.cells(&*object, now), [json!("w"), json!("red"), json!(2), json!("60m")]);
    assert_eq!(kind.selectable_fields(&*object), [("spec.color".into(), "red".to_owned())]);
}

#[test]
fn versions_are_converted_by_renaming() {
    let all = accepted();
    let beta = all.version("example.com/v1beta1").expect("a version");
    assert_eq!(beta.deprecation(), Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"));
    let value = serde_json::from_slice(&object(json!({"name": "a", "odd": 1}))).expect("JSON");
    let seen = beta.adopt(value).expect("an object").to_value();
    assert_eq!((&seen["apiVersion"], &seen["spec"]["odd"]), (&json!("example.com/v1beta1"), &json!(1)));
    let back = all.storage().expect("stored").adopt(seen).expect("an object").to_value();
    assert_eq!(back["spec"], json!({"name": "a", "replicas": 1}));
    let order = |a: &str, b: &str| compare_versions(a, b);
    assert!(order("v2", "v10") == Ordering::Less && order("v1", "v1beta2") == Ordering::Greater);
    assert!(order("v1alpha1", "foo") == Ordering::Greater && order("foo", "bar") == Ordering::Less);
}

#[test]
fn names_are_accepted_once_and_then_established() {
    let now = api::Time("2026-01-01T00:00:00Z".parse().expect("a time"));
    let show = |crd: &CustomResourceDefinition| {
        let conditions = crd.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let line =
            |c: &api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition| {
                format!(
                    "{}={} {}: {}",
                    c.type_,
                    c.status,
                    c.reason.clone().unwrap_or_default(),
                    c.message.clone().unwrap_or_default()
                )
            };
        conditions.map(line).collect::<Vec<_>>().join("\n")
    };
    let step = |crd: &CustomResourceDefinition, others: &[&CustomResourceDefinition]| {
        let all: Vec<Arc<Outline>> =
            [&[crd], others].concat().into_iter().map(|c| Arc::new(Outline::of(c.clone()))).collect();
        let status = names::next_status(&all[0], &all, &now)?;
        Some(CustomResourceDefinition { status: Some(status), ..crd.clone() })
    };
    let new = definition(SCHEMA);
    let first = step(&new, &[]).expect("a change");
    expect![[r#"
        NamesAccepted=True NoConflicts: no conflicts found
        Established=False Installing: the initial names have been accepted"#]]
    .assert_eq(&show(&first));
    let second = step(&first, &[]).expect("a change");
    expect![[r#"
        NamesAccepted=True NoConflicts: no conflicts found
        Established=True InitialNamesAccepted: the initial names have been accepted"#]]
    .assert_eq(&show(&second));
    assert!(step(&second, &[]).is_none());
    let mut rival = definition(SCHEMA);
    rival.metadata.name = Some("gadgets.example.com".into());
    rival.spec.names.plural = "gadgets".into();
    rival.spec.names.singular = Some("gadget".into());
    let lost = step(&rival, &[&second]).expect("a change");
    expect![[r#"
        NamesAccepted=False ListKindConflict: "WidgetList" is already in use
        Established=False NotAccepted: not all names are accepted"#]]
    .assert_eq(&show(&lost));
}

fn check_schema(schema: &str, expected: Expect) {
    let crd = definition(schema);
    let path = Path::new("schema");
    let errors = check::schema_errors(&crd.spec.versions[0], &path, check::Strictness::FULL);
    expected.assert_eq(&lines(&errors));
}

#[test]
fn schemas_must_be_structural() {
    check_schema(SCHEMA, expect![""]);
    check_schema(
        r#"{"type":"object","properties":{"a":{"description":"no type"},"l":{"type":"array"},"metadata":{"type":"object","properties":{"labels":{"type":"object"}}}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields
            schema.openAPIV3Schema.properties[l].items: Required value: must be specified
            schema.openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"#]],
    );
    check_schema(
        r#"{"type":"object","properties":{"a":{"type":"object","anyOf":[{"properties":{"b":{"type":"string"}}}]},"p":{"type":"string","pattern":"("}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[a].anyOf[0].properties[b].type: Forbidden: must be empty to be structural
            schema.openAPIV3Schema.properties[a].properties[b]: Required value: because it is defined in schema.openAPIV3Schema.properties[a].anyOf[0].properties[b]
            schema.openAPIV3Schema.properties[p].pattern: Invalid value: "(": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`"#]],
    );
}

#[test]
fn defaults_keep_the_rules_they_are_under() {
    check_schema(
        r#"{"type":"object","properties":{"spec":{"type":"object","default":{"a":1,"b":"x"},"x-kubernetes-validations":[{"rule":"self.a > 1","message":"a is too small"},{"rule":"oldSelf.hasValue() && self.a == 1","optionalOldSelf":true},{"rule":"self.a == oldSelf.a"}],"properties":{
            "a":{"type":"integer"},
            "b":{"type":"string","default":"y","maxLength":5,"x-kubernetes-validations":[{"rule":"self == 'x'"}]},
            "c":{"type":"integer","default":"no","x-kubernetes-validations":[{"rule":"self > 100"}]}
        }},"new":{"type":"integer","default":1,"x-kubernetes-validations":[{"rule":"oldSelf.hasValue()","optionalOldSelf":true}]}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[new].default: Invalid value: 1: failed rule: oldSelf.hasValue()
            schema.openAPIV3Schema.properties[spec].default: Invalid value: a is too small
            schema.openAPIV3Schema.properties[spec].properties[b].default: Invalid value: "y": failed rule: self == 'x'
            schema.openAPIV3Schema.properties[spec].properties[c].default: Invalid value: "string":  in body must be of type integer: "string""#]],
    );
}

#[test]
fn schemas_say_only_what_they_may() {
    check_schema(
        r#"{"type":"object","properties":{"a":{"type":"integer","default":"x"},"o":{"type":"object","properties":{"x":{"type":"string"}},"additionalProperties":{"type":"string"},"default":{"y":1}},"t":{"type":"strin"}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[a].default: Invalid value: "string":  in body must be of type integer: "string"
            schema.openAPIV3Schema.properties[o].default.y: Invalid value: "integer": .y in body must be of type string: "integer"
            schema.openAPIV3Schema.properties[o].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive
            schema.openAPIV3Schema.properties[t].type: Unsupported value: "strin": supported values: "array", "boolean", "integer", "number", "object", "string""#]],
    );
    check_schema(
        r#"{"type":"object","properties":{"l":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["a","b"],"items":{"type":"object","properties":{"a":{"type":"string"}}}},"s":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"object"}},"u":{"type":"array","uniqueItems":true,"items":{"type":"string"}}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[l].x-kubernetes-list-map-keys: Invalid value: ["a","b"]: entries must all be names of item properties
            schema.openAPIV3Schema.properties[l].items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property
            schema.openAPIV3Schema.properties[s].items.x-kubernetes-map-type: Invalid value: "null": must be atomic as item of a list with x-kubernetes-list-type=set
            schema.openAPIV3Schema.properties[u].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"#]],
    );
}

#[test]
fn a_webhook_converts_and_changes_no_metadata_but_labels() {
    let all = accepted();
    let to = all.version("v1beta1").expect("a version");
    let old = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "uid": "u", "labels": {"a": "b"}}});
    let check = |converted: Value, expected: &str| {
        let review = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response":
            {"uid": "1", "result": {"status": "Success"}, "convertedObjects": [converted]}});
        let answer = convert::answer("v1", "1", to, std::slice::from_ref(&old), review.to_string().as_bytes());
        assert_eq!(answer.map_or_else(|e| e, |v| v[0].to_string()), expected);
    };
    let meta = json!({"name": "w", "uid": "u", "labels": {"c": "d"}, "generation": 7});
    let new = json!({"apiVersion": "example.com/v1beta1", "kind": "Widget", "metadata": meta, "x": 1});
    check(
        new.clone(),
        r#"{"apiVersion":"example.com/v1beta1","kind":"Widget","metadata":{"labels":{"c":"d"},"name":"w","uid":"u"},"x":1}"#,
    );
    let mut other = new.clone();
    other["metadata"]["name"] = "x".into();
    check(other, "returned invalid object: must have the same name: w != x");
    check(
        old.clone(),
        "returned invalid object at index 0: invalid groupVersion (expected example.com/v1beta1, received example.com/v1)",
    );
}

const RULED: &str = r#"{"type": "object", "properties": {"spec": {
    "type": "object",
    "x-kubernetes-validations": [
        {"rule": "self.min <= self.max", "messageExpression": "self.name + ' is wrong'", "fieldPath": ".min"},
        {"rule": "self.max >= oldSelf.max", "message": "max only grows", "reason": "FieldValueForbidden"},
        {"rule": "oldSelf.hasValue() || self.min == 0", "optionalOldSelf": true}],
    "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string", "maxLength": 5}}}}}"#;

#[test]
fn rules_are_run_on_objects_and_their_changes() {
    let schema = serde_json::from_str::<Value>(RULED).expect("JSON");
    let props = JSONSchemaProps::decode(schema.to_string().as_bytes()).expect("a schema");
    let rules = rules::Rules::compile(Some(&props));
    let run = |new: Value, old: Option<Value>| {
        let wrap = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {}, "spec": spec});
        lines(&rules.evaluate(&Structural::of(&props), &wrap(new), old.map(wrap).as_ref()))
    };
    expect![""].assert_eq(&run(json!({"min": 0, "max": 2}), None));
    expect![[r#"
        spec.min: Invalid value: foo is wrong
        spec: Invalid value: failed rule: oldSelf.hasValue() || self.min == 0"#]]
    .assert_eq(&run(json!({"min": 3, "max": 2, "name": "foo"}), None));
    expect!["spec: Forbidden: max only grows"]
        .assert_eq(&run(json!({"min": 1, "max": 2}), Some(json!({"min": 1, "max": 5}))));
    // What was wrong may stay, but for what compares with before.
    expect![""].assert_eq(&run(json!({"min": 3, "max": 2}), Some(json!({"min": 3, "max": 2}))));
}

#[test]
fn rules_must_compile_and_be_cheap() {
    check_schema(RULED, expect![""]);
    // The length of keys is not counted.
    check_schema(
        r#"{"type": "object", "properties": {"labels": {"type": "object", "maxProperties": 4096,
            "additionalProperties": {"type": "string", "maxLength": 63},
            "x-kubernetes-validations": [{"rule": "self.all(k, !k.contains('*') && k.size() != 0)"}]}}}"#,
        expect![""],
    );
    // Nor that of what is in lists without a path.
    check_schema(
        r#"{"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "addresses": {"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 64}}},
            "x-kubernetes-validations": [{"rule": "(has(self.addresses) ? self.addresses : []).exists(k, k.contains('/'))"}]}}}"#,
        expect![""],
    );
    check_schema(
        r#"{"type": "object", "properties": {"list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [
            {"rule": "self == oldSelf"}, {"rule": "self.contains(1) && true"}, {"rule": "self"},
            {"rule": "true", "messageExpression": "1", "optionalOldSelf": true}]}}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot be used on the uncorrelatable portion of the schema within schema.openAPIV3Schema.properties[list]
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[1].rule: Invalid value: {"Rule":"self.contains(1) \u0026\u0026 true","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:14: found no matching overload for 'contains' applied to 'string.(int)'
             | self.contains(1) && true
             | .............^
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[2].rule: Invalid value: {"Rule":"self","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: cel expression must evaluate to a bool
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[3].messageExpression: Invalid value: {"Rule":"true","Message":"","MessageExpression":"1","Reason":null,"FieldPath":"","OptionalOldSelf":true}: messageExpression must evaluate to a string
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[3].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[3].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema
            schema.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"#]],
    );
    check_schema(
        r#"{"type": "object", "properties": {"list": {"type": "array", "items": {"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a.contains(b)))"}]}}}}"#,
        expect![[r#"
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)
            schema.openAPIV3Schema.properties[list].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema
            schema.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"#]],
    );
}

proptest::proptest! {
    #[test]
    fn pruning_and_defaults_settle(spec in crate::patch::any_json(), status in crate::patch::any_json()) {
        let kind = kind();
        let mut body: Value = serde_json::from_slice(&object(spec)).expect("JSON");
        body["status"] = status;
        let text = body.to_string();
        kind.check(text.as_bytes()).ok();
        let Ok(mut once) = kind.decode(text.as_bytes()) else { return Ok(()) };
        kind.default(&mut *once);
        let mut twice = kind.decode(&once.encode()).expect("what we wrote");
        kind.default(&mut *twice);
        proptest::prop_assert_eq!(once.encode(), twice.encode());
        kind.validate_create(&*once);
        kind.validate_update(&*once, &*twice, Some("status"));
        proptest::prop_assert_eq!(kind.cells(&*once, jiff::Timestamp::UNIX_EPOCH).len(), kind.columns().len());
    }
}
