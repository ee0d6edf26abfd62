//! What the server answers where no object is asked for, or not in a form that it has: codes, texts and headers, as the real one.

use super::*;
use flate2::read::GzDecoder;
use serde_json::json;
use std::io::Read;

/// Code, some headers and the text of the answer to somebody outside.
async fn outside(f: &Fixture, request: &str) -> String {
    let (head, headers) = request.split_once(" | ").unwrap_or((request, ""));
    let (method, uri) = head.split_once(' ').expect("METHOD uri");
    let mut builder = Request::builder().method(method).uri(uri);
    for header in headers.split(" | ").filter(|h| !h.is_empty()) {
        let (name, value) = header.split_once(": ").expect("name: value");
        builder = builder.header(name, value);
    }
    let request = builder.body(response::body_from(Bytes::new())).expect("a request");
    let peer = Peer { address: "127.0.0.1:1".parse().ok(), ..Peer::local(UserInfo::new("admin", &[MASTERS])) };
    let answer = f.server.handle(request, peer).await;
    let (head, body) = answer.into_parts();
    let names = ["audit-id", "cache-control", "content-type", "expires", "location", "x-content-type-options"];
    let mut text = head.status.as_u16().to_string();
    for name in names {
        if let Some(value) = head.headers.get(name) {
            text.push_str(&format!(" {name}={}", value.to_str().expect("text")));
        }
    }
    let body = body.collect().await.expect("a body").to_bytes();
    let body: String = String::from_utf8_lossy(&body).chars().take(90).collect();
    format!("{text}\n  {body:?}\n")
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_its_audit_id_and_is_not_kept() {
    let f = Fixture::new().await;
    let mut shown = String::new();
    for request in [
        "GET /readyz/ping",
        "GET /nothing | audit-id: mine",
        "GET /api/v1/namespaces/none | audit-id: mine",
        "GET /openapi/v3/apis/none/v1 | audit-id: mine",
    ] {
        shown.push_str(&outside(&f, request).await);
    }
    expect![[r#"
        200 audit-id=dac94832-5ac1-4f6d-9325-64371735f32c cache-control=no-cache, private content-type=text/plain; charset=utf-8
          "ok"
        404 audit-id=mine cache-control=no-cache, private content-type=text/plain; charset=utf-8 x-content-type-options=nosniff
          "404 page not found\n"
        404 audit-id=mine cache-control=no-cache, private content-type=application/json
          "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"namespaces "
        404 audit-id=mine cache-control=no-cache, private content-type=application/json
          ""
    "#]].assert_eq(&shown);
}

#[tokio::test(start_paused = true)]
async fn paths_take_the_methods_and_slashes_of_upstream() {
    let f = Fixture::new().await;
    f.check_http(
        "POST /healthz

        DELETE /apis/

        PUT /metrics/

        GET /healthz/

        OPTIONS /version

        GET /apis/nobody

        GET /apis/nobody/v1/things

        GET /apis/apps/v9/things

        HEAD /api/v1/namespaces

        POST /api/v1",
        expect![[r#"
            200 ok
            200 APIGroupList@ []
            404 404 page not found

            404 404 page not found

            405 MethodNotAllowed: the server does not allow this method on the requested resource
            404 404 page not found

            404 404 page not found

            404 NotFound: the server could not find the requested resource
            405 MethodNotAllowed: the server does not allow this method on the requested resource
            405 MethodNotAllowed: the server does not allow this method on the requested resource
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn types_that_nobody_knows_are_refused_as_go_restful_does() {
    let f = Fixture::new().await;
    f.check_http(
        "GET /api/v1/namespaces | accept: application/*

        GET /api/v1 | accept: text/html

        GET /apis | accept: application/json;as=Table;v=v1;g=meta.k8s.io

        GET /apis | accept: application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList

        GET /version | accept: application/yaml

        GET /api/v1/pods?watch=1 | accept: application/yaml

        PATCH /api/v1/namespaces/default | content-type: text/plain
        {}

        GET /api/v1/pods | impersonate-group: x | impersonate-extra-a: y

        GET /api/v1/pods?continue=!",
        expect![[r#"
            406 NotAcceptable: 406: Not Acceptable

            Available representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch
            406 NotAcceptable: 406: Not Acceptable

            Available representations: application/json, application/yaml, application/vnd.kubernetes.protobuf
            406 NotAcceptable: only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf
            406 NotAcceptable: only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf
            406 NotAcceptable: 406: Not Acceptable

            Available representations: application/json
            406 NotAcceptable: only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch
            415 UnsupportedMediaType: 415: Unsupported Media Type
            400 BadRequest: requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"x"}, Extra:map[string][]string{"a":[]string{"y"}}} without impersonating a user name
            400 BadRequest: invalid continue token: continue key is not valid: Invalid symbol 33, offset 0.
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_document_that_was_asked_for_by_its_hash_may_be_kept() {
    let f = Fixture::new().await;
    let index = f.json("GET /openapi/v3 | accept: text/html").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("there").to_owned();
    let kept = f.send(&format!("GET {url} | accept-encoding: gzip")).await;
    assert_eq!(kept.headers()["cache-control"], "public, immutable");
    assert_eq!(kept.headers()["expires"], "Fri, 01 Jan 2027 00:00:00 UTC");
    assert_eq!(kept.headers()["content-encoding"], "gzip");
    let zipped = kept.into_body().collect().await.expect("a body").to_bytes();
    let mut text = String::new();
    GzDecoder::new(&*zipped).read_to_string(&mut text).expect("gzip");
    let plain = f.ask(&format!("GET {url}")).await.1;
    assert_eq!(text.as_bytes(), &*plain);
    assert!(zipped.len() * 3 < plain.len(), "{} of {}", zipped.len(), plain.len());
    let old = f.send("GET /openapi/v3/apis/apps/v1?hash=OLD").await;
    assert_eq!((old.status().as_u16(), &old.headers()["location"]), (301, &url.parse().expect("a header")));
}

#[tokio::test(start_paused = true)]
async fn kinds_of_answers_are_told_only_where_they_differ() {
    let f = Fixture::new().await;
    let all = f.json("GET /apis | accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await;
    let apps = all["items"].as_array().expect("a list").iter().find(|g| g["metadata"]["name"] == "apps").expect("apps");
    let resources = apps["versions"][0]["resources"].as_array().expect("a list");
    let names: Vec<&str> = resources.iter().filter_map(|r| r["resource"].as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    let deployments = resources.iter().find(|r| r["resource"] == "deployments").expect("there");
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    assert_eq!(deployments["responseKind"], kind("", "", "Deployment"));
    let subresources = deployments["subresources"].as_array().expect("a list");
    let kinds: Vec<&Value> = subresources.iter().map(|s| &s["responseKind"]).collect();
    assert_eq!(kinds, [&kind("autoscaling", "v1", "Scale"), &kind("", "", "Deployment")]);
}
