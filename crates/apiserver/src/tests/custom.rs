//! Custom resources from their definition to their last object.

use super::*;
use tokio_util::sync::CancellationToken;

const DEFINE: &str = r#"POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions
{"metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget","shortNames":["wd"]},"versions":[
{"name":"v1","served":true,"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas"}},"selectableFields":[{"jsonPath":".spec.color"}],
 "schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"color":{"type":"string"},"replicas":{"type":"integer","default":1},"list":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["n"],"items":{"type":"object","required":["n"],"properties":{"n":{"type":"string"},"v":{"type":"string"}}}}}},"status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}},
{"name":"v2","served":true,"storage":false,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}"#;

impl Fixture {
    /// Defines widgets and waits until they are established.
    async fn with_widgets() -> (Self, CancellationToken) {
        let f = Fixture::new().await;
        let shutdown = CancellationToken::new();
        let (server, stop) = (f.server.clone(), shutdown.clone());
        base::tasks::detach("test-custom-resources", async move { server.serve_custom_resources(stop).await });
        assert_eq!(f.ask(DEFINE).await.0, 201);
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
        let established = |crd: &Value| {
            crd["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
        };
        while !established(&f.json(&format!("GET {path}")).await) {
            tokio::task::yield_now().await;
        }
        (f, shutdown)
    }

    async fn gone(&self, path: &str) {
        while self.ask(&format!("GET {path}")).await.0 != 404 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

const ALL: &str = "/apis/example.com/v1/namespaces/default/widgets";

#[tokio::test(start_paused = true)]
async fn custom_resources_are_served_like_others() {
    let (f, _stop) = Fixture::with_widgets().await;
    f.check_http(
        r#"POST /apis/example.com/v1/namespaces/default/widgets
        {"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"color":"red","odd":1},"status":{"x":1}}

        POST /apis/example.com/v1/namespaces/default/widgets?fieldValidation=Strict
        {"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"b","bad":1},"spec":{"color":"red","odd":1}}

        POST /apis/example.com/v1/namespaces/default/widgets
        {"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"b"},"spec":{"color":1}}

        PATCH /apis/example.com/v1/namespaces/default/widgets/a | content-type: application/merge-patch+json
        {"spec":{"color":"blue"}}

        PATCH /apis/example.com/v1/namespaces/default/widgets/a | content-type: application/strategic-merge-patch+json
        {"spec":{"color":"blue"}}

        PUT /apis/example.com/v1/namespaces/default/widgets/a/scale
        {"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"a"},"spec":{"replicas":4}}

        GET /apis/example.com/v1/namespaces/default/widgets?fieldSelector=spec.color=blue

        GET /apis/example.com/v1/namespaces/default/widgets?fieldSelector=spec.size=1

        GET /apis/example.com/v2/namespaces/default/widgets/a

        GET /apis/example.com/v3/namespaces/default/widgets/a

        DELETE /apis/example.com/v1/namespaces/default/widgets/a"#,
        expect![[r#"
            201 Widget a@5 spec={"color":"red","replicas":1}
            400 BadRequest: Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "metadata.bad", unknown field "spec.odd"
            422 Invalid: Widget.example.com "b" is invalid: spec.color: Invalid value: "integer": spec.color in body must be of type string: "integer"
            200 Widget a@6 spec={"color":"blue","replicas":1}
            415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml
            200 Scale a@7 spec={"replicas":4}
            200 WidgetList@7 [a]
            400 BadRequest: field label not supported: spec.size
            200 Widget a@7 spec={"color":"blue","replicas":4}
            404 NotFound: the server could not find the requested resource
            200 Success {"group":"example.com","kind":"widgets","name":"a","uid":"54743dc5-e24d-4a41-bb15-9584c1226df6"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn fields_of_custom_resources_are_owned_as_their_schema_says() {
    let (f, _stop) = Fixture::with_widgets().await;
    let apply = |manager: &str, spec: &str| {
        format!(
            "PATCH {ALL}/a?fieldManager={manager} | content-type: application/apply-patch+yaml\n{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"metadata\":{{\"name\":\"a\"}},\"spec\":{spec}}}"
        )
    };
    let made = f.json(&apply("one", r#"{"color":"red","list":[{"n":"x","v":"1"}]}"#)).await;
    assert_eq!(made["spec"]["replicas"], 1);
    let both = f.json(&apply("two", r#"{"list":[{"n":"y","v":"2"}]}"#)).await;
    assert_eq!(both["spec"]["list"], serde_json::json!([{"n": "x", "v": "1"}, {"n": "y", "v": "2"}]));
    let conflict = f.json(&apply("two", r#"{"color":"blue"}"#)).await;
    assert_eq!(conflict["reason"], "Conflict");
    let unknown = f.json(&apply("one", r#"{"odd":1}"#)).await;
    assert!(
        unknown["message"].as_str().is_some_and(|m| m.ends_with(".spec.odd: field not declared in schema")),
        "{unknown}"
    );
}

#[tokio::test(start_paused = true)]
async fn definitions_are_discovered_and_published() {
    let (f, _stop) = Fixture::with_widgets().await;
    let group = f.json("GET /apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let list = f.json("GET /apis/example.com/v1").await;
    let names: Vec<&str> =
        list["resources"].as_array().expect("a list").iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    let schema = &f.json("GET /openapi/v3/apis/example.com/v1").await["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["type"], "string");
    let v2 = &f.json("GET /openapi/v2").await["definitions"]["com.example.v2.Widget"];
    assert_eq!(v2["properties"], Value::Null);
    assert_eq!(v2["type"], "object");
}

#[tokio::test(start_paused = true)]
async fn a_definition_takes_its_objects_along() {
    let (f, _stop) = Fixture::with_widgets().await;
    f.ask(&format!("POST {ALL}\n{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"metadata\":{{\"name\":\"a\",\"finalizers\":[\"example.com/f\"]}}}}")).await;
    let mut watch = f.send(&format!("GET {ALL}?watch=true")).await.into_body();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
    let deleted = f.json(&format!("DELETE {path}")).await;
    assert_eq!(deleted["metadata"]["finalizers"], serde_json::json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let refused = f
        .json(&format!(
            "POST {ALL}\n{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"metadata\":{{\"name\":\"b\"}}}}"
        ))
        .await;
    assert_eq!(
        refused["message"],
        "widgets.example.com \"b\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    while f.json(&format!("GET {ALL}/a")).await["metadata"]["deletionTimestamp"].is_null() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let free = "{\"metadata\":{\"finalizers\":null}}";
    f.ask(&format!("PATCH {ALL}/a | content-type: application/merge-patch+json\n{free}")).await;
    f.gone(path).await;
    f.gone(ALL).await;
    let seen = events(&mut watch, 10).await;
    let kinds: Vec<&str> = seen.lines().map(|l| l.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "end"]);
}

#[tokio::test(start_paused = true)]
async fn custom_resources_say_what_they_are() {
    let (f, _stop) = Fixture::with_widgets().await;
    f.check_http(
        &format!(
            r#"POST {ALL}
            {{"apiVersion":"example.com/v1","metadata":{{"name":"a"}}}}

            POST {ALL}
            {{"kind":"Widget","metadata":{{"name":"a"}}}}

            POST {ALL}
            {{"apiVersion":"example.com/v1","kind":"Gadget","metadata":{{"name":"a"}}}}"#
        ),
        expect![[r#"
            400 BadRequest: the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{"apiVersion":"example.com/v1","metadata":{"name":"a"}}' ({"apiVersion":"example.com/v1" ...)
            400 BadRequest: the API version in the data () does not match the expected API version (example.com/v1)
            422 Invalid: Gadget.example.com "a" is invalid: kind: Invalid value: "Gadget": must be Widget
        "#]],
    )
    .await;
}
