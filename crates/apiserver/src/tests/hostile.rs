//! What no decent client sends, and upstream's answers to it (measured side by side with kube-apiserver 1.36.2).

use super::*;

const CM: &str = "/api/v1/namespaces/default/configmaps";

impl Fixture {
    /// A dry-run create with this body; the answer's code and its text, cut.
    async fn offer(&self, content_type: &str, body: &[u8]) -> String {
        let request = Request::builder().method("POST").uri(format!("{CM}?dryRun=All"));
        let request = request.header("content-type", content_type).body(response::body_from(body.to_vec()));
        let answer =
            self.server.handle(request.expect("a request"), Peer::local(UserInfo::new("admin", &[MASTERS]))).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let text = show(&body);
        format!("{code} {}", text.chars().take(150).collect::<String>())
    }

    async fn check_bodies(&self, content_type: &str, bodies: &[&[u8]], expected: Expect) {
        let mut out = String::new();
        for body in bodies {
            out.push_str(&self.offer(content_type, body).await);
            out.push('\n');
        }
        expected.assert_eq(&out);
    }
}

#[tokio::test(start_paused = true)]
async fn json_is_read_as_go_reads_it() {
    let f = Fixture::new().await;
    f.check_bodies(
        "application/json",
        &[
            b"",
            b"null",
            b"[]",
            b"{",
            br#"{"metadata":{"name":"d"}}x"#,
            br#"{"metadata":{"name":"d"},"metadata":{"labels":{"a":"b"}}}"#,
            br#"{"metadata":{"name":"d"},"data":{"a":null}}"#,
            br#"{"metadata":{"name":"d","labels":{},"generation":0},"data":{},"kind":"ConfigMap","apiVersion":""}"#,
            br#"{"metadata":{"name":"\ud800"}}"#,
            b"{\"metadata\":{\"name\":\"\xff\"}}",
            br#"{"metadata":{"name":"a\u0000b"}}"#,
            br#"{"metadata":{"name":"d","generation":1e400}}"#,
            br#"{"metadata":{"name":"d","generation":99999999999999999999}}"#,
        ],
        expect![[r#"
            400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input
            422 Invalid: ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required
            400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array
            400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input
            400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'x' after 
            201 ConfigMap d@ labels={"a":"b"}
            201 ConfigMap d@ data={"a":""}
            201 ConfigMap d@
            422 Invalid: ConfigMap "�" is invalid: metadata.name: Invalid value: "�": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric character
            422 Invalid: ConfigMap "�" is invalid: metadata.name: Invalid value: "�": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric character
            422 Invalid: ConfigMap "a\x00b" is invalid: metadata.name: Invalid value: "a\x00b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric
            400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number 1e400 into Go struct field ObjectMeta.metadata.g
            400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number 99999999999999999999 into Go struct field Object
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn depth_is_bounded_in_every_encoding() {
    let f = Fixture::new().await;
    let deep = |open: &str, close: &str| {
        format!(r#"{{"metadata":{{"name":"d"}},"x":{}1{}}}"#, open.repeat(100_000), close.repeat(100_000))
    };
    for body in [deep("[", "]"), deep(r#"{"a":"#, "}"), "[".repeat(1 << 20)] {
        for content_type in ["application/json", "application/yaml"] {
            let answer = f.offer(content_type, body.as_bytes()).await;
            assert!(answer.starts_with("400 "), "{answer}");
        }
    }
    // A message in a message in a message …
    let mut body = Vec::new();
    for _ in 0..100_000 {
        body.splice(0..0, [0x0a, 0x7f]);
    }
    body.splice(0..0, *b"k8s\0");
    let answer = f.offer("application/vnd.kubernetes.protobuf", &body).await;
    assert!(answer.starts_with("400 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_yaml_bomb_is_refused() {
    let f = Fixture::new().await;
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in b'b'..b'k' {
        let (this, before) = (char::from(i), char::from(i - 1));
        let nine = [format!("*{before}").as_str(); 9].join(",");
        bomb.push_str(&format!("{this}: &{this} [{nine}]\n"));
    }
    bomb.push_str("metadata: {name: d}\n");
    let answer = f.offer("application/yaml", bomb.as_bytes()).await;
    assert!(answer.starts_with("400 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_the_url_does_not_allow() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            "
            PUT {CM}
            {{}}

            PATCH {CM} | content-type: application/merge-patch+json
            {{}}

            POST /api/v1/configmaps
            {{}}

            DELETE /api/v1/configmaps

            POST {CM}/a
            {{}}

            GET {CM}/%2e%2e

            GET {CM}?limit=-1

            GET {CM}?limit=99999999999999999999

            POST {CM}?dryRun=x
            {{}}

            POST {CM} | content-type: ;;
            {{}}

            POST {CM}?dryRun=All | content-type: APPLICATION/JSON
            {{\"metadata\":{{\"name\":\"d\"}}}}"
        ),
        expect![[r#"
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            400 BadRequest: Name parameter invalid: "..": may not be '..'
            200 ConfigMapList@1 []
            400 BadRequest: strconv.ParseInt: parsing "99999999999999999999": value out of range
            422 Invalid: CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["x"]: supported values: "All"
            415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf
            201 ConfigMap d@
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn patches_answer_for_what_they_make() {
    let f = Fixture::new().await;
    f.ask(&format!("POST {CM}\n{{\"metadata\":{{\"name\":\"h\"}},\"data\":{{\"a\":\"b\"}}}}")).await;
    let (merge, strategic, apply) =
        ("application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml");
    f.check_http(
        &format!(
            "
            PATCH {CM}/h?dryRun=All | content-type: {merge}
            {{\"metadata\":{{\"name\":\"other\"}}}}

            PATCH {CM}/h?dryRun=All&fieldValidation=Strict | content-type: {merge}
            {{\"unknown\":1}}

            PATCH {CM}/h?dryRun=All | content-type: {merge}
            {{\"data\":{{\"a\":1}}}}

            PATCH {CM}/h?dryRun=All | content-type: {strategic}
            {{\"kind\":\"Pod\",\"data\":{{\"a\":null}}}}

            PATCH {CM}/h?dryRun=All&fieldManager=m | content-type: {apply}
            {{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"data\":{{\"b\":\"c\"}}}}

            PATCH {CM}/h?dryRun=All&fieldManager=m | content-type: {apply}
            {{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"h\",\"namespace\":\"other\"}}}}"
        ),
        expect![[r#"
            400 BadRequest: the name of the object (other) does not match the name on the URL (h)
            422 Invalid:  "" is invalid: patch: Invalid value: "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"data\":{\"a\":\"b\"},\"metadata\":{\"creationTimestamp\":\"2026-01-01T00:00:00Z\",\"name\":\"h\",\"namespace\":\"default\",\"resourceVersion\":\"2\",\"uid\":\"dac94832-5ac1-4f6d-9325-64371735f32c\"},\"unknown\":1}": strict decoding error: unknown field "unknown"
            422 Invalid:  "" is invalid: patch: Invalid value: "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"data\":{\"a\":1},\"metadata\":{\"creationTimestamp\":\"2026-01-01T00:00:00Z\",\"name\":\"h\",\"namespace\":\"default\",\"resourceVersion\":\"2\",\"uid\":\"dac94832-5ac1-4f6d-9325-64371735f32c\"}}": json: cannot unmarshal number into Go struct field ConfigMap.data of type string
            200 ConfigMap h@2
            200 ConfigMap h@2 data={"a":"b","b":"c"}
            400 BadRequest: the namespace of the provided object does not match the namespace sent on the request
        "#]],
    )
    .await;
}
