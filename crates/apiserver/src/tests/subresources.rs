//! Subresources, apply, reviews, encodings.

use super::*;
use crate::auth::{Attributes, Decision, Rules};

const NS: &str = "/api/v1/namespaces/default";
const POD: &str = r#"{"metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;

#[tokio::test(start_paused = true)]
async fn binding_assigns_once() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {NS}/pods
            {POD}

            POST {NS}/pods/p/binding
            {{"metadata":{{"name":"p","uid":"wrong"}},"target":{{"kind":"Node","name":"n1"}}}}

            POST {NS}/pods/p/binding
            {{"metadata":{{"name":"p"}},"target":{{"kind":"Node","name":"n1"}}}}

            POST {NS}/pods/p/binding
            {{"metadata":{{"name":"p"}},"target":{{"kind":"Node","name":"n2"}}}}

            POST {NS}/pods/q/binding
            {{"metadata":{{"name":"q"}},"target":{{"name":"n1"}}}}

            POST {NS}/pods/p/binding
            {{"metadata":{{"name":"p"}},"target":{{}}}}"#
        ),
        expect![[r#"
            201 Pod p@2 labels={"a":"b"}
            409 Conflict: Operation cannot be fulfilled on pods/binding "p": Precondition failed: UID in precondition: wrong, UID in object meta: dac94832-5ac1-4f6d-9325-64371735f32c
            201 Success null
            409 Conflict: Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"
            404 NotFound: pods "q" not found
            500 : target.name: Required value
        "#]],
    )
    .await;
    let pod = f.json(&format!("GET {NS}/pods/p")).await;
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
}

#[tokio::test(start_paused = true)]
async fn evictions_ask_the_budget() {
    let f = Fixture::new().await;
    let evict = format!(
        "POST {NS}/pods/p/eviction\n{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"p\"}}}}"
    );
    let other = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":{"preconditions":{"uid":"other"}}}"#;
    let merge = "content-type: application/merge-patch+json";
    f.check_http(
        &format!(
            r#"POST {NS}/pods
            {POD}

            POST {NS}/pods/p/eviction
            {other}

            PATCH {NS}/pods/p/status | {merge}
            {{"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True"}}]}}}}

            POST /apis/policy/v1/namespaces/default/poddisruptionbudgets
            {{"metadata":{{"name":"b"}},"spec":{{"minAvailable":1,"selector":{{"matchLabels":{{"a":"b"}}}}}}}}

            {evict}

            PATCH /apis/policy/v1/namespaces/default/poddisruptionbudgets/b/status | {merge}
            {{"status":{{"observedGeneration":1,"disruptionsAllowed":0,"currentHealthy":1,"desiredHealthy":1,"expectedPods":1}}}}

            {evict}

            PATCH /apis/policy/v1/namespaces/default/poddisruptionbudgets/b/status | {merge}
            {{"status":{{"observedGeneration":1,"disruptionsAllowed":1,"currentHealthy":2,"desiredHealthy":1,"expectedPods":2}}}}

            {evict}

            GET {NS}/pods/p"#
        ),
        expect![[r#"
            201 Pod p@2 labels={"a":"b"}
            409 Conflict: Operation cannot be fulfilled on Pod "p": the UID in the precondition (other) does not match the UID in record (dac94832-5ac1-4f6d-9325-64371735f32c). The object might have been deleted and then recreated
            200 Pod p@3 labels={"a":"b"}
            201 PodDisruptionBudget b@4 spec={"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}}
            429 TooManyRequests: Cannot evict pod as it would violate the pod's disruption budget.
            200 PodDisruptionBudget b@5 spec={"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}}
            429 TooManyRequests: Cannot evict pod as it would violate the pod's disruption budget.
            200 PodDisruptionBudget b@6 spec={"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}}
            201 Success null
            404 NotFound: pods "p" not found
        "#]],
    )
    .await;
    let budget = f.json("GET /apis/policy/v1/namespaces/default/poddisruptionbudgets/b").await;
    assert_eq!(
        (&budget["status"]["disruptionsAllowed"], budget["status"]["disruptedPods"]["p"].is_string()),
        (&0.into(), true)
    );
}

#[tokio::test(start_paused = true)]
async fn scale_is_a_view_of_replicas() {
    let f = Fixture::new().await;
    let d = "/apis/apps/v1/namespaces/default/deployments";
    f.check_http(
        &format!(
            r#"POST {d}
            {{"metadata":{{"name":"w"}},"spec":{{"replicas":2,"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}}}}}

            PATCH {d}/w/scale | content-type: application/merge-patch+json
            {{"spec":{{"replicas":5}}}}

            PUT {d}/w/scale
            {{"metadata":{{"name":"w"}},"spec":{{"replicas":-1}}}}

            PUT {d}/w/scale
            {{"metadata":{{"name":"w"}},"spec":{{"replicas":99999999999}}}}

            PUT {d}/w/scale
            {{"metadata":{{"name":"v"}},"spec":{{"replicas":1}}}}

            PUT {d}/w/scale
            {{"metadata":{{"name":"w","resourceVersion":"1"}},"spec":{{"replicas":1}}}}

            GET {d}/x/scale

            PATCH {d}/w/scale?fieldValidation=Strict | content-type: application/merge-patch+json
            {{"spec":{{"replicas":1}},"speck":1}}

            PATCH {d}/w/scale | content-type: application/merge-patch+json
            {{"metadata":{{"name":"v"}}}}

            PATCH {d}/w/scale?fieldManager=m&force=true | content-type: application/apply-patch+yaml
            {{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{{"name":"v"}},"spec":{{"replicas":1}}}}"#
        ),
        expect![[r#"
            201 Deployment w@2 spec={"progressDeadlineSeconds":600,"replicas":2,"revisionHistoryLimit":10,"selector":{"matchLabels":{"a":"b"}},"strategy":{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"image":"i","imagePullPolicy":"Always","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}}
            200 Scale w@3 spec={"replicas":5}
            422 Invalid: Scale.autoscaling "w" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0
            400 BadRequest: Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal number 99999999999 into Go struct field ScaleSpec.spec.replicas of type int32
            400 BadRequest: the name of the object (v) does not match the name on the URL (w)
            409 Conflict: Operation cannot be fulfilled on deployments.apps "w": the object has been modified; please apply your changes to the latest version and try again
            404 NotFound: deployments.apps "x" not found
            422 Invalid:  "" is invalid: patch: Invalid value: "{\"apiVersion\":\"autoscaling/v1\",\"kind\":\"Scale\",\"metadata\":{\"creationTimestamp\":\"2026-01-01T00:00:00Z\",\"managedFields\":[{\"apiVersion\":\"autoscaling/v1\",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{\"f:spec\":{\"f:replicas\":{}}},\"manager\":\"unknown\",\"operation\":\"Update\",\"subresource\":\"scale\"}],\"name\":\"w\",\"namespace\":\"default\",\"resourceVersion\":\"3\",\"uid\":\"dac94832-5ac1-4f6d-9325-64371735f32c\"},\"spec\":{\"replicas\":1},\"speck\":1,\"status\":{\"replicas\":0,\"selector\":\"a=b\"}}": strict decoding error: unknown field "speck"
            400 BadRequest: the name of the object (v) does not match the name on the URL (w)
            400 BadRequest: the name of the object (v) does not match the name on the URL (w)
        "#]],
    )
    .await;
    let scale = f.json(&format!("GET {d}/w/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&"Scale".into(), &5.into(), &"a=b".into())
    );
    assert_eq!(f.json(&format!("GET {d}/w")).await["metadata"]["generation"], 2);
}

#[tokio::test(start_paused = true)]
async fn apply_owns_fields() {
    let f = Fixture::new().await;
    let uri = |manager: &str| {
        format!("PATCH {NS}/configmaps/a?fieldManager={manager} | content-type: application/apply-patch+yaml")
    };
    let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: one}";
    let (code, _) = f.ask(&format!("{}\n{one}", uri("x"))).await;
    assert_eq!(code, 201);
    let (code, body) = f.ask(&format!("{}\n{}", uri("y"), one.replace("one", "two"))).await;
    expect![[r#"409 Conflict: Apply failed with 1 conflict: conflict with "x": .data.k"#]]
        .assert_eq(&format!("{code} {}", show(&body)));
    let forced = uri("y").replace("?", "?force=true&");
    let (code, body) = f.ask(&format!("{forced}\n{}", one.replace("one", "two"))).await;
    assert_eq!((code, show(&body).as_str()), (200, r#"ConfigMap a@3 data={"k":"two"}"#));
    let value = f.json(&format!("GET {NS}/configmaps/a")).await;
    expect![[r#"[{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:k":{}}},"manager":"y","operation":"Apply","time":"2026-01-01T00:00:00Z"}]"#]].assert_eq(&value["metadata"]["managedFields"].to_string());
    // Nothing changes: nothing is written.
    f.clock.advance(Duration::from_secs(60));
    let (_, body) = f.ask(&format!("{forced}\n{}", one.replace("one", "two"))).await;
    assert!(show(&body).starts_with("ConfigMap a@3"));
}

#[tokio::test(start_paused = true)]
async fn unknown_fields_are_told() {
    let f = Fixture::new().await;
    let body = r#"{"metadata":{"name":"a"},"dat":{"k":"v"},"data":{"a":"1","a":"2"}}"#;
    let response = f.send(&format!("POST {NS}/configmaps\n{body}")).await;
    let warnings: Vec<_> =
        response.headers().get_all("warning").iter().map(|w| w.to_str().expect("text").to_owned()).collect();
    expect![[r#"
        299 - "unknown field \"dat\""
        299 - "duplicate field \"data.a\"""#]]
    .assert_eq(&warnings.join("\n"));
    f.check_http(
        &format!("POST {NS}/configmaps?fieldValidation=Strict\n{body}\n\nPOST {NS}/configmaps?fieldValidation=Nonsense\n{body}\n\nPOST {NS}/configmaps\n{{\"metadata\":{{\"name\":5}}}}"),
        expect![[r#"
            400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dat", duplicate field "data.a"
            422 Invalid: CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Nonsense": supported values: "", "Ignore", "Strict", "Warn"
            400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn reviews_answer_in_their_status() {
    let f = Fixture::new().await;
    let authz = "/apis/authorization.k8s.io/v1";
    let value = f.json(&format!("POST {authz}/selfsubjectaccessreviews\n{{\"spec\":{{\"resourceAttributes\":{{\"verb\":\"get\",\"resource\":\"pods\"}}}}}}")).await;
    assert_eq!(value["status"]["allowed"], true);
    let value = f.json("POST /apis/authentication.k8s.io/v1/selfsubjectreviews\n{}").await;
    assert_eq!(value["status"]["userInfo"]["username"], "admin");
    let (code, _) = f.ask(&format!("POST {authz}/subjectaccessreviews\n{{\"spec\":{{}}}}")).await;
    assert_eq!(code, 422);
    let value = f.json(&format!("POST {authz}/namespaces/default/localsubjectaccessreviews\n{{\"spec\":{{\"user\":\"u\",\"resourceAttributes\":{{\"namespace\":\"default\",\"labelSelector\":{{\"rawSelector\":\"a in (\"}}}}}}}}")).await;
    let why = "spec.resourceAttributes.labelSelector ignored due to parse error";
    assert_eq!(value["status"]["evaluationError"], why);
    assert_eq!(value["metadata"]["namespace"], "default");
    assert_eq!(value["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:user"], serde_json::json!({}));
}

#[tokio::test(start_paused = true)]
async fn services_get_addresses() {
    let f = Fixture::new().await;
    let made = f.json(&format!("POST {NS}/services\n{{\"metadata\":{{\"name\":\"s\"}},\"spec\":{{\"type\":\"NodePort\",\"ports\":[{{\"port\":80}}]}}}}")).await;
    let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(ip.starts_with("10.43."), "{made}");
    assert!(made["spec"]["ports"][0]["nodePort"].as_i64().expect("a port") >= 30000);
    // An update that does not say keeps what there is; a second server over the same store knows what is taken.
    let kept = f.json(&format!("PATCH {NS}/services/s | content-type: application/merge-patch+json\n{{\"metadata\":{{\"labels\":{{\"x\":\"y\"}}}}}}")).await;
    assert_eq!(kept["spec"]["clusterIP"], ip.as_str());
    let again = Fixture::over(f.server.reader().store().clone()).await;
    let body =
        format!("{{\"metadata\":{{\"name\":\"t\"}},\"spec\":{{\"clusterIP\":\"{ip}\",\"ports\":[{{\"port\":80}}]}}}}");
    let (code, _) = again.ask(&format!("POST {NS}/services\n{body}")).await;
    assert_eq!(code, 422);
    f.ask(&format!("DELETE {NS}/services/s")).await;
    let (code, _) = f.ask(&format!("POST {NS}/services\n{body}")).await;
    assert_eq!(code, 201);
}

#[tokio::test(start_paused = true)]
async fn protobuf_both_ways() {
    let f = Fixture::new().await;
    let proto = "application/vnd.kubernetes.protobuf";
    let (code, body) = f.ask(&format!("POST {NS}/configmaps | accept: {proto},application/json\n{{\"metadata\":{{\"name\":\"a\"}},\"data\":{{\"k\":\"v\"}}}}")).await;
    assert_eq!((code, &body[..4]), (201, &b"k8s\0"[..]));
    let decoded = machinery::protobuf::decode(&body, None).expect("protobuf");
    assert_eq!(decoded.value["data"]["k"], "v");
    let response = f.send(&format!("GET {NS}/configmaps | accept: {proto}")).await;
    assert_eq!(response.headers()["content-type"], proto);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let list = machinery::protobuf::decode(&body, None).expect("protobuf");
    assert_eq!((list.kind.as_str(), &list.value["items"][0]["metadata"]["name"]), ("ConfigMapList", &"a".into()));
    let mut watch = f.send(&format!("GET {NS}/configmaps?watch=1 | accept: {proto}")).await.into_body();
    let frame = watch.frame().await.expect("open").expect("a frame").into_data().expect("data");
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().expect("4")) as usize, frame.len() - 4);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reached_is_said() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {NS}/pods
            {POD}

            GET {NS}/pods/p/log

            GET {NS}/pods/p/log?container=x

            POST {NS}/pods/p/exec?command=ls

            GET {NS}/pods/q/log

            GET {NS}/services/s/proxy/x

            GET {NS}/pods/p/nothing

            POST {NS}/serviceaccounts/x/token
            {{"spec":{{"audiences":[]}}}}"#
        ),
        expect![[r#"
            201 Pod p@2 labels={"a":"b"}
            200 
            400 BadRequest: container x is not valid for pod p
            400 BadRequest: pod p does not have a host assigned
            404 NotFound: pods "q" not found
            404 NotFound: services "s" not found
            404 NotFound: the server could not find the requested resource
            501 NotImplemented: unsupported: serviceaccounts/token without a token issuer
        "#]],
    )
    .await;
}

/// A user may do what the name says: `VERB RESOURCE/SUBRESOURCE NAME,…` in whichever namespace.
struct AsNamed;

#[async_trait::async_trait]
impl Authorizer for AsNamed {
    async fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let wanted = format!("{} {}/{} {}", a.verb, a.resource, a.subresource, a.name);
        match a.user.name.split(',').any(|right| right == wanted.trim_end()) {
            true => Decision::ALLOW,
            false => Decision::NoOpinion(String::new()),
        }
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> Rules {
        Rules::default()
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_claims_status_are_rights_of_their_own() {
    let f = Fixture::guarded(Arc::new(AsNamed)).await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let exact = r#"{"deviceClassName":"any","allocationMode":"ExactCount","count":1}"#;
    f.json(&format!(
        r#"POST {claims}
{{"metadata":{{"name":"c"}},"spec":{{"devices":{{"requests":[{{"name":"r","exactly":{exact}}}]}}}}}}"#
    ))
    .await;
    let patch = async |rights: &str, status: &str| {
        let rights = format!("patch resourceclaims/status c,{rights}");
        let request =
            format!("PATCH {claims}/c/status | content-type: application/merge-patch+json\n{{\"status\":{status}}}");
        let answer = f.send_as(UserInfo::new(&rights, &[]), &request).await;
        let (code, body) = (answer.status(), answer.into_body().collect().await.expect("a body").to_bytes());
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        let told = answer["details"]["causes"].as_array().into_iter().flatten().map(|cause| {
            format!(
                " {}: {}",
                cause["field"].as_str().unwrap_or_default(),
                cause["message"].as_str().unwrap_or_default()
            )
        });
        format!("{}{}", code.as_u16(), told.collect::<String>().replace(&rights, "U"))
    };
    let allocation =
        r#"{"allocation":{"devices":{"results":[{"request":"r","driver":"d.x","pool":"p","device":"a"}]}}}"#;
    expect![[r#"422 status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="patch" permission: resourceclaims.resource.k8s.io is forbidden: User "U" cannot patch resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope"#]].assert_eq(&patch("", allocation).await);
    assert_eq!(patch("patch resourceclaims/binding", allocation).await, "200");
    let devices = r#"{"devices":[{"driver":"d.x","pool":"p","device":"a","data":{"x":1}}]}"#;
    expect![[r#"422 status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:patch]" permission: resourceclaims.resource.k8s.io "d.x" is forbidden: User "U" cannot arbitrary-node:patch resource "resourceclaims/driver" in API group "resource.k8s.io" in the namespace "default""#]].assert_eq(
        &patch("patch resourceclaims/binding,arbitrary-node:patch resourceclaims/driver e.x", devices).await,
    );
    assert_eq!(patch("arbitrary-node:patch resourceclaims/driver d.x", devices).await, "200");
    // What goes with the allocation needs no right of its own.
    assert_eq!(patch("patch resourceclaims/binding", r#"{"allocation":null}"#).await, "200");
}
