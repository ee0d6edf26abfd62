//! Create, update, patch.

use super::*;

const CM: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(start_paused = true)]
async fn create_get_and_the_refusals() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {CM}
            {{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}},"data":{{"k":"v"}}}}

            GET {CM}/a

            POST {CM}
            {{"metadata":{{"name":"a"}}}}

            GET {CM}/b

            POST {CM}
            {{"metadata":{{"name":"A_"}}}}

            POST {CM}
            {{"metadata":{{"name":"c","namespace":"other"}}}}

            POST /api/v1/namespaces/nowhere/configmaps
            {{"metadata":{{"name":"a"}}}}

            POST {CM}
            {{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"a"}}}}

            POST {CM}
            {{"apiVersion":"v9","kind":"Foo"}}

            POST {CM}
            {{"metadata":

            POST {CM}
            {{"metadata":{{"name":"c","resourceVersion":"7"}}}}

            POST {CM}/a
            {{}}

            POST /api/v1/namespaces/default/foos
            {{}}"#
        ),
        expect![[r#"
            201 ConfigMap a@2 data={"k":"v"}
            200 ConfigMap a@2 data={"k":"v"}
            409 AlreadyExists: configmaps "a" already exists
            404 NotFound: configmaps "b" not found
            422 Invalid: ConfigMap "A_" is invalid: metadata.name: Invalid value: "A_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            400 BadRequest: the namespace of the provided object does not match the namespace sent on the request
            404 NotFound: namespaces "nowhere" not found
            400 BadRequest: Deployment in version "v1" cannot be handled as a ConfigMap: converting (v1.Deployment) to (core.ConfigMap): unknown conversion
            400 BadRequest: Foo in version "v9" cannot be handled as a ConfigMap: no kind "Foo" is registered for version "v9" in scheme "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30"
            400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({"metadata":)
            500 : resourceVersion should not be set on objects to be created
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            404 NotFound: the server could not find the requested resource
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn generated_names() {
    let f = Fixture::new().await;
    let a = f.json(&format!("POST {CM}\n{{\"metadata\":{{\"generateName\":\"x-\"}}}}")).await;
    let name = a["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    assert_eq!(a["metadata"]["generateName"], "x-");
    assert_eq!(a["metadata"]["uid"].as_str().expect("a uid").len(), 36);
}

#[tokio::test(start_paused = true)]
async fn update_needs_the_newest_revision_or_none() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {CM}
            {{"metadata":{{"name":"a"}},"data":{{"k":"1"}}}}

            PUT {CM}/a
            {{"metadata":{{"name":"a","resourceVersion":"2"}},"data":{{"k":"2"}}}}

            PUT {CM}/a
            {{"metadata":{{"name":"a","resourceVersion":"2"}},"data":{{"k":"3"}}}}

            PUT {CM}/a
            {{"metadata":{{"name":"a"}},"data":{{"k":"4"}}}}

            PUT {CM}/a
            {{"metadata":{{"name":"a"}},"data":{{"k":"4"}}}}

            PUT {CM}/a
            {{"metadata":{{"name":"b"}}}}

            PUT {CM}/a
            {{"metadata":{{"name":"a","uid":"wrong"}}}}

            PUT {CM}/z
            {{"metadata":{{"name":"z"}}}}

            PUT {CM}/a?dryRun=All
            {{"metadata":{{"name":"a"}},"data":{{"k":"5"}}}}

            GET {CM}/a"#
        ),
        expect![[r#"
            201 ConfigMap a@2 data={"k":"1"}
            200 ConfigMap a@3 data={"k":"2"}
            409 Conflict: Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again
            200 ConfigMap a@4 data={"k":"4"}
            200 ConfigMap a@4 data={"k":"4"}
            400 BadRequest: the name of the object (b) does not match the name on the URL (a)
            409 Conflict: Operation cannot be fulfilled on configmaps "a": Precondition failed: UID in precondition: wrong, UID in object meta: dac94832-5ac1-4f6d-9325-64371735f32c
            404 NotFound: configmaps "z" not found
            200 ConfigMap a@4 data={"k":"5"}
            200 ConfigMap a@4 data={"k":"4"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn patches() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {CM}
            {{"metadata":{{"name":"a"}},"data":{{"k":"1"}}}}

            PATCH {CM}/a | content-type: application/merge-patch+json
            {{"data":{{"k":null,"l":"2"}}}}

            PATCH {CM}/a | content-type: application/json-patch+json
            [{{"op":"add","path":"/metadata/labels","value":{{"x":"y"}}}}]

            PATCH {CM}/a | content-type: application/strategic-merge-patch+json
            {{"metadata":{{"labels":{{"z":"1"}}}}}}

            PATCH {CM}/a | content-type: application/strategic-merge-patch+json
            {{"metadata":{{"labels":"invalid"}}}}

            PATCH {CM}/a?fieldValidation=Strict | content-type: application/strategic-merge-patch+json
            {{"metadata":{{"label":{{}}}}}}

            PATCH {CM}/a | content-type: application/merge-patch+json
            {{"metadata":{{"resourceVersion":"1"}},"data":{{"k":"9"}}}}

            PATCH {CM}/a | content-type: text/plain
            {{}}

            PATCH {CM}/z | content-type: application/merge-patch+json
            {{}}

            PATCH {CM}/a?force=true | content-type: application/merge-patch+json
            {{}}"#
        ),
        expect![[r#"
            201 ConfigMap a@2 data={"k":"1"}
            200 ConfigMap a@3 data={"l":"2"}
            200 ConfigMap a@4 labels={"x":"y"} data={"l":"2"}
            200 ConfigMap a@5 labels={"x":"y","z":"1"} data={"l":"2"}
            422 Invalid:  "" is invalid: patch: Invalid value: "map[metadata:map[labels:invalid]]": cannot restore map from string
            422 Invalid:  "" is invalid: patch: Invalid value: "map[metadata:map[label:map[]]]": strict decoding error: unknown field "metadata.label"
            409 Conflict: Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again
            415 UnsupportedMediaType: 415: Unsupported Media Type
            404 NotFound: configmaps "z" not found
            422 Invalid: PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_are_the_same_wherever_they_are_read() {
    let f = Fixture::new().await;
    let (_, created) = f.ask(&format!("POST {CM}\n{{\"metadata\":{{\"name\":\"a\"}},\"data\":{{\"k\":\"1\"}}}}")).await;
    let (_, got) = f.ask(&format!("GET {CM}/a")).await;
    let (_, listed) = f.ask(&format!("GET {CM}")).await;
    assert_eq!(created, got);
    let text = |b: &Bytes| String::from_utf8(b.to_vec()).expect("text");
    // An item of a list is the same but for its kind and version.
    let (_, item) =
        text(&got).split_once(r#""kind":"ConfigMap","#).map(|(a, b)| (a.to_owned(), b.to_owned())).expect("its kind");
    assert!(text(&listed).contains(&format!("[{{{item}]}}")), "{}", text(&listed));
}

#[tokio::test(start_paused = true)]
async fn a_big_body_is_refused() {
    let f = Fixture::new().await;
    let body = format!("POST {CM}\n{{\"metadata\":{{\"name\":\"a\"}},\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(4 << 20));
    let (code, answer) = f.ask(&body).await;
    assert_eq!(
        (code, show(&answer).as_str()),
        (413, "RequestEntityTooLarge: Request entity too large: limit is 3145728")
    );
}

#[tokio::test(start_paused = true)]
async fn yaml_in_and_out() {
    let f = Fixture::new().await;
    let (code, answer) =
        f.ask(&format!("POST {CM} | content-type: application/yaml | accept: application/yaml\nmetadata: {{name: a}}\ndata: {{k: v}}")).await;
    let text = String::from_utf8(answer.to_vec()).expect("text");
    assert_eq!(code, 201, "{text}");
    assert!(text.contains("kind: ConfigMap"), "{text}");
    let twice = "metadata: {name: b}\ndata: {yes: v, k: a, k: b}\nimmutable: on\n---\nno: more";
    let post = |query: &str| format!("POST {CM}{query} | content-type: application/yaml\n{twice}");
    let (code, answer) = f.ask(&post("?fieldValidation=Strict")).await;
    expect![[r#"
        400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:
          line 2: key "k" already set in map"#]]
    .assert_eq(&format!("{code} {}", show(&answer)));
    let (code, answer) = f.ask(&post("")).await;
    let stored: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!((code, &stored["data"]), (201, &serde_json::json!({"true": "v", "k": "b"})));
    assert_eq!(stored["immutable"], true);
    let (code, answer) = f.ask(&format!("POST {CM} | content-type: application/yaml\ndata: [")).await;
    expect![[r#"400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): yaml: line 1: unclosed bracket '[' (646174613a205b)"#]]
    .assert_eq(&format!("{code} {}", show(&answer)));
}

/// What is not stored still decides about an update, and whose it is, but does not count as a change.
#[tokio::test(start_paused = true)]
async fn updates_tell_empty_lists_from_absent_ones() {
    let f = Fixture::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    f.check_http(
        &format!(
            r#"POST {rbac}
            {{"metadata":{{"name":"r"}},"rules":[]}}

            PATCH {rbac}/r?fieldManager=m | content-type: application/merge-patch+json
            {{"rules":[]}}"#
        ),
        expect![[r#"
            201 Role r@2
            200 Role r@3
        "#]],
    )
    .await;
    let role = f.json(&format!("GET {rbac}/r")).await;
    assert_eq!(role["rules"], Value::Null);
    assert_eq!(role["metadata"]["managedFields"][0]["fieldsV1"], serde_json::json!({"f:rules": {}}));

    let d = "/apis/apps/v1/namespaces/default/deployments";
    let web = |pods: &str, selector: &str| {
        format!(
            r#"{{"metadata":{{"name":"w"}},"spec":{{"selector":{selector},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{{pods}"containers":[{{"name":"c","image":"i"}}]}}}}}}}}"#
        )
    };
    let (plain, selector) = (web("", r#"{"matchLabels":{"a":"b"}}"#), r#"{"matchLabels":{"a":"b"}}"#);
    assert_eq!(f.ask(&format!("POST {d}\n{plain}")).await.0, 201);
    let same = f.json(&format!("PUT {d}/w\n{}", web(r#""tolerations":[],"nodeSelector":{},"#, selector))).await;
    assert_eq!(same["metadata"]["generation"], 1);
    assert_eq!(same["metadata"]["resourceVersion"], "4");
    let refused = f.json(&format!("PUT {d}/w\n{}", web("", "{}"))).await;
    let why = "spec.selector: Invalid value: {}: empty selector is invalid for deployment";
    assert!(refused["message"].as_str().is_some_and(|m| m.contains(why)), "{refused}");

    let hpa = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = r#"{"metadata":{"name":"h"},"spec":{"maxReplicas":2,"scaleTargetRef":{"kind":"Deployment","name":"w","apiVersion":"apps/v1"}}}"#;
    assert_eq!(f.ask(&format!("POST {hpa}\n{scaler}")).await.0, 201);
    let patch = r#"{"spec":{"behavior":{"scaleUp":{"policies":[]}}}}"#;
    let refused = f.json(&format!("PATCH {hpa}/h | content-type: application/merge-patch+json\n{patch}")).await;
    let why = "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy";
    assert!(refused["message"].as_str().is_some_and(|m| m.contains(why)), "{refused}");
}
