//! Lists: pages, revisions, selectors, tables.

use super::*;

const CM: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(names: &[&str]) -> Fixture {
    let f = Fixture::new().await;
    for name in names {
        f.ask(&format!("POST {CM}\n{{\"metadata\":{{\"name\":\"{name}\",\"labels\":{{\"n\":\"{name}\"}}}}}}")).await;
    }
    f
}

#[tokio::test(start_paused = true)]
async fn pages_show_one_state() {
    let f = with_maps(&["a", "b", "c", "d", "e"]).await;
    let first = f.json(&format!("GET {CM}?limit=2")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().expect("more").to_owned();
    f.ask(&format!("DELETE {CM}/d")).await;
    f.ask(&format!("POST {CM}\n{{\"metadata\":{{\"name\":\"bb\"}}}}")).await;
    let second = f.json(&format!("GET {CM}?limit=2&continue={token}")).await;
    let token = second["metadata"]["continue"].as_str().expect("more").to_owned();
    let third = f.json(&format!("GET {CM}?limit=2&continue={token}")).await;
    let names = |v: &Value| show(v.to_string().as_bytes());
    expect![[r#"
        ConfigMapList@6 [a b]
        ConfigMapList@6 [c d]
        ConfigMapList@6 [e]"#]]
    .assert_eq(&[names(&first), names(&second), names(&third)].join("\n"));
    assert_eq!(third["metadata"].get("continue"), None);
    assert_eq!(f.ask(&format!("GET {CM}?limit=2&continue=nonsense")).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn compacted_pages_go_on_inconsistently() {
    let f = with_maps(&["a", "b", "c"]).await;
    let first = f.json(&format!("GET {CM}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().expect("more").to_owned();
    f.ask(&format!("POST {CM}\n{{\"metadata\":{{\"name\":\"aa\"}}}}")).await;
    f.server.reader().store().compact(f.server.reader().store().revision()).await.expect("compacts");
    let gone = f.json(&format!("GET {CM}?limit=1&continue={token}")).await;
    assert_eq!((&gone["code"], &gone["reason"]), (&410.into(), &"Expired".into()));
    let token = gone["metadata"]["continue"].as_str().expect("a token");
    f.check_http(
        &format!("GET {CM}?continue={token}"),
        expect![[r#"
        200 ConfigMapList@5 [aa b c]
    "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn revisions() {
    let f = with_maps(&["a", "b"]).await;
    f.check_http(
        &format!(
            "GET {CM}?resourceVersion=0

            GET {CM}?resourceVersion=2&resourceVersionMatch=Exact

            GET {CM}?resourceVersion=2

            GET {CM}?resourceVersion=2&limit=5

            GET {CM}?resourceVersion=99

            GET {CM}?resourceVersion=x

            GET {CM}?resourceVersionMatch=Exact

            GET {CM}?resourceVersion=0&resourceVersionMatch=Exact

            GET {CM}/a?resourceVersion=2

            GET {CM}/a?resourceVersion=99"
        ),
        expect![[r#"
            200 ConfigMapList@3 [a b]
            200 ConfigMapList@2 [a]
            200 ConfigMapList@3 [a b]
            200 ConfigMapList@2 [a]
            504 Timeout: Timeout: Too large resource version: 99, current: 3
            400 BadRequest: invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax
            422 Invalid: ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided
            422 Invalid: ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"
            200 ConfigMap a@2 labels={"n":"a"}
            504 Timeout: Timeout: Too large resource version: 99, current: 3
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn selectors() {
    let f = with_maps(&["a", "b", "c"]).await;
    f.check_http(
        &format!(
            "GET {CM}?labelSelector=n+in+(a,c)

            GET {CM}?labelSelector=n+in+(a,c)&limit=1

            GET {CM}?fieldSelector=metadata.name%3Db

            GET /api/v1/configmaps?fieldSelector=metadata.namespace!%3Ddefault

            GET {CM}?fieldSelector=spec.x%3Db

            GET /api/v1/pods?fieldSelector=spec.x%3Db

            GET {CM}?labelSelector=a+b"
        ),
        expect![[r#"
            200 ConfigMapList@4 [a c]
            200 ConfigMapList@4 [a]
            200 ConfigMapList@4 [b]
            200 ConfigMapList@4 []
            400 BadRequest: "spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"
            400 BadRequest: field label not supported: spec.x
            400 BadRequest: unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn tables_and_metadata() {
    let f = with_maps(&["a"]).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let value = f.json(&format!("GET {CM} | accept: {table}")).await;
    assert_eq!(value["kind"], "Table");
    expect![[r#"
        ["a",0,"0s"]
        "PartialObjectMetadata""#]]
    .assert_eq(&format!("{}\n{}", value["rows"][0]["cells"], value["rows"][0]["object"]["kind"]));
    let value = f.json(&format!("GET {CM}/a?includeObject=Object | accept: {table}")).await;
    assert_eq!(value["rows"][0]["object"]["kind"], "ConfigMap");
    let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    let value = f.json(&format!("GET {CM} | accept: {old}")).await;
    assert_eq!(
        [&value["apiVersion"], &value["rows"][0]["object"]["apiVersion"]],
        ["meta.k8s.io/v1beta1", "meta.k8s.io/v1beta1"]
    );
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let value = f.json(&format!("GET {CM} | accept: {partial}")).await;
    assert_eq!(
        (&value["kind"], &value["items"][0]["kind"]),
        (&"PartialObjectMetadataList".into(), &"PartialObjectMetadata".into())
    );
}

#[tokio::test(start_paused = true)]
async fn metadata_alone_in_protobuf() {
    let f = with_maps(&["a"]).await;
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let (code, one) = f.ask(&format!("GET {CM}/a | accept: {accept}")).await;
    assert_eq!((code, &one[..4]), (200, &b"k8s\0"[..]));
    // Unknown{ 2: PartialObjectMetadata{ 1: ObjectMeta } }, and the same without its envelope as the item of a list.
    let text = String::from_utf8_lossy(&one).into_owned();
    assert!(text.contains("PartialObjectMetadata") && text.contains("default"), "{text:?}");
    let accept = accept.replace("Metadata;", "MetadataList;");
    let (code, list) = f.ask(&format!("GET {CM} | accept: {accept}")).await;
    assert_eq!((code, &list[..4]), (200, &b"k8s\0"[..]));
    let metadata = &one[one.windows(4).position(|w| w == b"\n\x01a\x12").expect("the name")..one.len() - 4];
    assert!(list.windows(metadata.len()).any(|w| w == metadata), "{list:?} has no {metadata:?}");
}

#[tokio::test(start_paused = true)]
async fn items_of_lists_do_not_say_their_kind_again() {
    let f = with_maps(&["a"]).await;
    let list = f.json(&format!("GET {CM}")).await;
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&"ConfigMapList".into(), &"a".into()));
    assert_eq!([&list["items"][0]["kind"], &list["items"][0]["apiVersion"]], [&serde_json::Value::Null; 2]);
}

#[tokio::test(start_paused = true)]
async fn components() {
    let f = Fixture::new().await;
    let list = f.json("GET /api/v1/componentstatuses").await;
    assert_eq!(list["items"][0]["conditions"][0]["message"], "ok");
    let one = f.json("GET /api/v1/componentstatuses/etcd-0").await;
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&"ComponentStatus".into(), &"etcd-0".into()));
    assert_eq!(f.ask("GET /api/v1/componentstatuses/scheduler").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn big_lists_come_in_pieces_and_zipped_if_asked() {
    let f = Fixture::new().await;
    let data = "x".repeat(30_000);
    for i in 0..10 {
        f.ask(&format!("POST {CM}\n{{\"metadata\":{{\"name\":\"m{i}\"}},\"data\":{{\"k\":\"{data}\"}}}}")).await;
    }
    let mut body = f.send(&format!("GET {CM}")).await.into_body();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(frame.expect("a frame").into_data().expect("data"));
    }
    assert!(
        pieces.len() > 3 && pieces.iter().all(|p| p.len() < 100_000),
        "{:?}",
        pieces.iter().map(Bytes::len).collect::<Vec<_>>()
    );
    let plain = pieces.concat();
    let response = f.send(&format!("GET {CM} | accept-encoding: gzip")).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let zipped = response.into_body().collect().await.expect("a body").to_bytes();
    let mut unzipped = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped[..]), &mut unzipped).expect("gzip");
    assert_eq!(unzipped, plain);
}

#[tokio::test(start_paused = true)]
async fn forms_that_are_not_of_what_is_asked_for() {
    let f = with_maps(&["a"]).await;
    let one = "accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let list = "accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let table = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let unsaid = "accept: application/json;as=Table";
    let mut told = Vec::new();
    for (request, accept) in [
        (format!("GET {CM}"), one),
        (format!("GET {CM}/a"), list),
        (format!("GET {CM}?includeObject=Some"), table),
        (format!("GET {CM}?includeObject=Some"), list),
        (format!("GET {CM}/a?includeObject=Some"), table),
        (format!("GET {CM}/a?includeObject=Some"), one),
        (format!("GET {CM}/a"), unsaid),
    ] {
        let answer = f.json(&format!("{request} | {accept}")).await;
        let text = answer["message"].as_str().or(answer["kind"].as_str()).unwrap_or_default();
        told.push(format!("{} {text}", answer["code"]));
    }
    expect![[r#"
        406 you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)
        406 you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)
        400 Unable to convert to Table as requested: includeObject: Invalid value: "Some": must be 'Metadata', 'Object', 'None', or empty
        null PartialObjectMetadataList
        400 Unable to convert to Table as requested: includeObject: Invalid value: "Some": must be 'Metadata', 'Object', 'None', or empty
        null PartialObjectMetadata
        406 only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"#]].assert_eq(&told.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn options_that_cannot_be_read() {
    let f = with_maps(&["a"]).await;
    f.check_http(
        &format!(
            "GET {CM}?limit=

            GET {CM}?continue=abc&resourceVersion=5

            GET {CM}?resourceVersion=99999999999999999999999

            GET {CM}?watch=1&continue=abc

            DELETE {CM}/a?propagationPolicy=

            DELETE {CM}/a
            []

            DELETE {CM}/a
            5

            DELETE {CM}/a
            {{

            DELETE {CM}/a
            {{\"kind\":5}}

            DELETE {CM}/a
            {{\"kind\":\"Foo\"}}

            DELETE {CM}/a
            {{\"gracePeriodSeconds\":2.0}}

            PUT {CM}/a
            {{\"metadata\":{{\"name\":\"a\",\"namespace\":\"b\"}}}}"
        ),
        expect![[r#"
            400 BadRequest: strconv.ParseInt: parsing "": invalid syntax
            400 BadRequest: invalid continue token: continue key is not valid: invalid character 'i' looking for beginning of value
            400 BadRequest: invalid resource version: resourceVersion: Invalid value: "99999999999999999999999": strconv.ParseUint: parsing "99999999999999999999999": value out of range
            422 Invalid: ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided
            422 Invalid: DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "": supported values: "Foreground", "Background", "Orphan", "nil"
            400 BadRequest: couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }
            400 BadRequest: couldn't get version/kind; json parse error: json: cannot unmarshal number into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }
            400 BadRequest: couldn't get version/kind; json parse error: unexpected end of JSON input
            400 BadRequest: couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string
            400 BadRequest: no kind "Foo" is registered for version "meta.k8s.io/v1" in scheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27"
            400 BadRequest: json: cannot unmarshal number 2.0 into Go struct field DeleteOptions.gracePeriodSeconds of type int64
            400 BadRequest: the namespace of the provided object does not match the namespace sent on the request
        "#]],
    )
    .await;
}
