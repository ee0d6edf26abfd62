//! Webhooks and policies through the whole pipeline.

use super::Fixture;
use crate::admission::{
    MutatingPolicies, MutatingWebhooks, NodeDeclaredFeatures, NodeRestriction, PodResize, Priority, ValidatingPolicies,
    ValidatingWebhooks,
};
use crate::auth::{MASTERS, Peer, UserInfo};
use crate::response::body_from;
use base::SeededRandom;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use expect_test::expect;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::sync::Arc;
use store::MemoryStore;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(super) async fn fixture() -> Fixture {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let random = || Arc::new(SeededRandom::new(7));
    let plugins: Vec<Box<dyn crate::admission::Admission>> = vec![
        Box::new(MutatingPolicies::new()),
        Box::new(MutatingWebhooks::new(random())),
        Box::new(ValidatingPolicies::new()),
        Box::new(ValidatingWebhooks::new(random())),
    ];
    Fixture::with(store, plugins, None).await
}

// === built-in plugins ===

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_replaced_keeps_its_priority() {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let f = Fixture::with(store, vec![Box::new(Priority)], None).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |image: &str| json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": image}]}});
    f.post(pods, pod("one")).await;
    let (code, body) = f.ask(&format!("PUT {pods}/a\n{}", pod("two"))).await;
    let after: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((code, &after["spec"]["priority"]), (200, &json!(0)), "{after}");
    assert_eq!(after["spec"]["preemptionPolicy"], "PreemptLowerPriority");
}

// === policies ===

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

fn rules(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [
        {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": [resource]},
    ]})
}

impl Fixture {
    pub(super) async fn post(&self, path: &str, object: Value) {
        let (code, body) = self.ask(&format!("POST {path}\n{object}")).await;
        assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
    }

    async fn policy(&self, name: &str, mut spec: Value, binding: Value) {
        if spec["matchConstraints"].is_null() {
            spec["matchConstraints"] = rules("", "configmaps");
        }
        self.post(POLICIES, json!({"metadata": {"name": name}, "spec": spec})).await;
        let mut of_binding = json!({"policyName": name, "validationActions": ["Deny"]});
        for (key, value) in binding.as_object().into_iter().flatten() {
            of_binding[key] = value.clone();
        }
        self.post(BINDINGS, json!({"metadata": {"name": format!("{name}-binding")}, "spec": of_binding})).await;
    }
}

#[tokio::test(start_paused = true)]
async fn policies_judge_objects() {
    let f = fixture().await;
    f.policy(
        "p",
        json!({
            "matchConditions": [{"name": "not-exempt", "expression": "!has(object.metadata.labels) || !('exempt' in object.metadata.labels)"}],
            "variables": [
                {"name": "size", "expression": "has(object.data) ? object.data.size() : 0"},
                {"name": "odd", "expression": "variables.size % 2 == 1"},
            ],
            "validations": [
                {"expression": "variables.size > 0", "message": "no data"},
                {"expression": "variables.odd", "messageExpression": "'wants an odd number, got ' + string(variables.size)", "reason": "Forbidden"},
                {"expression": "namespaceObject.metadata.name == 'default' && request.operation == 'CREATE'"},
                {"expression": "object.data.missing == 'x' || true"},
            ],
        }),
        json!({}),
    )
    .await;
    f.check_http(
        r#"
        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"}}

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"},"data":{"a":"","b":""}}

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"},"data":{"a":""}}

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"b","labels":{"exempt":""}}}

        POST /api/v1/namespaces/default/secrets
        {"metadata":{"name":"a"}}

        DELETE /api/v1/namespaces/default/configmaps/a
        "#,
        expect![[r#"
            422 Invalid: configmaps "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: no data
            403 Forbidden: configmaps "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: wants an odd number, got 2
            201 ConfigMap a@4 data={"a":""}
            201 ConfigMap b@5 labels={"exempt":""}
            201 Secret a@6
            422 Invalid: configmaps "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: expression '!has(object.metadata.labels) || !('exempt' in object.metadata.labels)' resulted in error: no such overload
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn policies_take_parameters_and_may_only_warn() {
    let f = fixture().await;
    f.post("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "limits"}, "data": {"max": "3"}}))
        .await;
    let spec = json!({
        "matchConstraints": rules("apps", "deployments"),
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)"}],
    });
    let reference = json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"});
    f.policy("p", spec.clone(), json!({"paramRef": reference})).await;
    let missing = json!({"name": "nothing", "namespace": "default", "parameterNotFoundAction": "Deny"});
    let selector = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}});
    f.policy("q", spec.clone(), json!({"paramRef": missing, "matchResources": selector})).await;
    f.policy("w", spec, json!({"paramRef": reference, "validationActions": ["Warn", "Audit"]})).await;
    let create = |replicas: i64| {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template});
        format!(
            "POST /apis/apps/v1/namespaces/default/deployments\n{}",
            json!({"metadata": {"name": "d"}, "spec": spec})
        )
    };
    let (code, body) = f.ask(&create(4)).await;
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(code, 422);
    let wanted = "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: failed expression: object.spec.replicas <= int(params.data.max)";
    assert_eq!(answer["message"], wanted);
    assert_eq!(f.ask(&create(3)).await.0, 201);
    let (code, _) = f.ask(&format!("DELETE {BINDINGS}/p-binding")).await;
    assert_eq!(code, 200);
    let response = f.send(&create(4).replace("\"d\"", "\"e\"")).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().expect("text");
    assert!(
        warning.contains("Validation failed for ValidatingAdmissionPolicy 'w' with binding 'w-binding'"),
        "{warning}"
    );
}

#[tokio::test(start_paused = true)]
async fn bad_expressions_are_refused() {
    let f = fixture().await;
    let rules = rules("", "pods");
    let policy = |spec: Value| format!("POST {POLICIES}\n{}", json!({"metadata": {"name": "p"}, "spec": spec}));
    let with = |validation: Value| policy(json!({"matchConstraints": rules, "validations": [validation]}));
    let script = [
        with(json!({"expression": "object.spec.x >"})),
        with(json!({"expression": "1 + 1"})),
        with(json!({"expression": "nothing"})),
        with(json!({"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"})),
        policy(json!({
            "matchConstraints": rules, "variables": [{"name": "a", "expression": "variables.b"}],
            "validations": [{"expression": "variables.a"}],
        })),
    ];
    f.check_http(&script.join("\n\n"), expect![[r#"
        422 Invalid: ValidatingAdmissionPolicy.admissionregistration.k8s.io "p" is invalid: spec.validations[0].expression: Invalid value: "object.spec.x >": compilation failed: ERROR: <input>:1:16: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
         | object.spec.x >
         | ...............^
        422 Invalid: ValidatingAdmissionPolicy.admissionregistration.k8s.io "p" is invalid: spec.validations[0].expression: Invalid value: "1 + 1": must evaluate to bool but got int
        422 Invalid: ValidatingAdmissionPolicy.admissionregistration.k8s.io "p" is invalid: spec.validations[0].expression: Invalid value: "nothing": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')
         | nothing
         | ^
        422 Invalid: ValidatingAdmissionPolicy.admissionregistration.k8s.io "p" is invalid: spec.validations[0].messageExpression: Invalid value: "authorizer.path('/').check('get').reason()": compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')
         | authorizer.path('/').check('get').reason()
         | ^
        422 Invalid: ValidatingAdmissionPolicy.admissionregistration.k8s.io "p" is invalid: [spec.variables[0].expression: Invalid value: "variables.b": compilation failed: ERROR: <input>:1:10: undefined field 'b'
         | variables.b
         | .........^, spec.validations[0].expression: Invalid value: "variables.a": must evaluate to bool but got dyn]
    "#]]).await;
}

#[tokio::test(start_paused = true)]
async fn policies_change_objects() {
    let f = fixture().await;
    let base = "/apis/admissionregistration.k8s.io/v1";
    let policy = |name: &str, resource: Value, mutations: Value| {
        let variables =
            json!([{"name": "team", "expression": "has(object.metadata.labels) ? object.metadata.labels : {}"}]);
        let spec = json!({
            "matchConstraints": {"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]},
            "variables": variables, "reinvocationPolicy": "IfNeeded", "mutations": mutations,
        });
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let apply = |text: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}});
    let patch = |text: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": text}});
    let configmaps = policy(
        "a",
        json!("configmaps"),
        json!([
            apply("Object{metadata: Object.metadata{annotations: {'by': 'policy', 'a/b': request.userInfo.username}}}"),
            patch(
                "[JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('c/d'), value: string(variables.team.size())}]"
            ),
            patch("[JSONPatch{op: 'test', path: '/data/no', value: 'x'}, JSONPatch{op: 'remove', path: '/data'}]"),
        ]),
    );
    let pods = policy("b", json!("pods"), json!([apply("Object{spec: Object.spec{tolerations: []}}")]));
    let services = policy("c", json!("services"), json!([apply("Object{spec: Object.wrong{type: 'NodePort'}}")]));
    for policy in [configmaps, pods, services] {
        let name = policy["metadata"]["name"].clone();
        f.post(&format!("{base}/mutatingadmissionpolicies"), policy).await;
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
        f.post(&format!("{base}/mutatingadmissionpolicybindings"), binding).await;
    }
    let path = "/api/v1/namespaces/default/configmaps";
    let made = f.json(&format!("POST {path}\n{}", json!({"metadata": {"name": "m"}, "data": {"k": "v"}}))).await;
    assert_eq!(made["metadata"]["annotations"], json!({"by": "policy", "a/b": "admin", "c/d": "0"}));
    assert_eq!(made["data"], json!({"k": "v"}));
    f.check_http(
        r#"
        POST /api/v1/namespaces/default/pods
        {"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}

        POST /api/v1/namespaces/default/services
        {"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}
        "#,
        expect![[r#"
            403 Invalid: policy 'b' with binding 'b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.tolerations
            403 Invalid: policy 'c' with binding 'c' denied request: type mismatch: unexpected type name "Object.wrong", expected "Object.spec", which matches field name path from root Object type
        "#]],
    )
    .await;
}

// === webhooks ===

/// A webhook on a port of its own; keeps the requests it got.
pub(super) struct Hook {
    url: String,
    ca: String,
    pub(super) seen: Arc<Mutex<Vec<Value>>>,
}

type Respond = fn(&Value) -> Value;

pub(super) async fn hook(respond: Respond) -> Hook {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("PEM");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://127.0.0.1:{}/", listener.local_addr().expect("bound").port());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    base::tasks::detach("test-hook", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, all) = (acceptor.clone(), all.clone());
            base::tasks::detach("test-hook-connection", async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let service = hyper::service::service_fn(|request| answer(request, all.clone(), respond));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                drop(served.await);
            });
        }
    });
    Hook { url, ca: BASE64.encode(pem), seen }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Value>>>,
    respond: Respond,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let traceparent = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = request.into_body().collect().await?.to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(traceparent) = traceparent {
        review["request"]["traceparent"] = traceparent.into();
    }
    seen.lock().push(review["request"].clone());
    let mut response = respond(&review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    let review = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    Ok(Response::new(Full::new(review.to_string().into())))
}

impl Hook {
    /// A configuration with this one hook.
    pub(super) fn configured(&self, kind: &str, name: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{name}.example.com"),
            "clientConfig": {"url": self.url, "caBundle": self.ca},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps", "pods/attach"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            hook[key] = value.clone();
        }
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]})
    }
}

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
pub(super) const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64.encode(operations.to_string())})
}

#[tokio::test]
async fn webhooks_judge_objects() {
    let f = fixture().await;
    let hook = hook(|request| match request["operation"].as_str() {
        Some("DELETE") => json!({"allowed": false}),
        _ if request["object"]["data"]["bad"].is_string() => {
            json!({"allowed": false, "status": {"message": "the data is bad", "reason": "no reason", "code": 499}})
        }
        _ => json!({"allowed": true, "warnings": ["take care"]}),
    })
    .await;
    let conditions = json!([{"name": "c", "expression": "request.name != 'free'"}]);
    f.post(
        VALIDATING,
        hook.configured("ValidatingWebhookConfiguration", "judge", json!({"matchConditions": conditions})),
    )
    .await;
    f.check_http(
        r#"
        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"},"data":{"bad":""}}

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"free"},"data":{"bad":""}}

        DELETE /api/v1/namespaces/default/configmaps/free

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"a"}}

        DELETE /api/v1/namespaces/default/configmaps/a
        "#,
        expect![[r#"
            499 no reason: admission webhook "judge.example.com" denied the request: the data is bad
            201 ConfigMap free@3 data={"bad":""}
            200 Success {"kind":"configmaps","name":"free","uid":"eccfc4ca-a8cd-4b63-87cb-56ff66cd60b5"}
            201 ConfigMap a@5
            400 : admission webhook "judge.example.com" denied the request without explanation
        "#]],
    )
    .await;
    let response = f.send("PUT /api/v1/namespaces/default/configmaps/a?dryRun=All\n{\"metadata\":{\"name\":\"a\"},\"data\":{\"x\":\"y\"}}").await;
    assert_eq!(response.headers()["warning"], "299 - \"take care\"");
    let seen = hook.seen.lock();
    let last = seen.last().expect("a request");
    assert_eq!((&last["operation"], &last["dryRun"]), (&json!("UPDATE"), &json!(true)));
    assert_eq!((&last["object"]["data"], &last["oldObject"]["data"]), (&json!({"x": "y"}), &Value::Null));
    assert_eq!(last["userInfo"]["username"], "admin");
    assert_eq!(last["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(last["options"]["kind"], "UpdateOptions");
}

#[tokio::test]
async fn webhooks_change_objects_in_order_and_again() {
    let f = fixture().await;
    // The first follows the second: it runs again because the second changed something.
    let first = hook(|request| match request["object"]["data"]["second"].is_string() {
        true => patch(json!([{"op": "add", "path": "/data/first", "value": "saw the second"}])),
        false => patch(json!([{"op": "add", "path": "/data/first", "value": "came first"}])),
    })
    .await;
    let second = hook(|request| match request["object"]["data"]["second"].is_string() {
        true => json!({"allowed": true}),
        false => patch(json!([
            {"op": "add", "path": "/data/second", "value": ""}, {"op": "add", "path": "/unknown", "value": 1},
        ])),
    })
    .await;
    let policy = json!({"reinvocationPolicy": "IfNeeded"});
    f.post(MUTATING, first.configured("MutatingWebhookConfiguration", "a", policy)).await;
    f.post(MUTATING, second.configured("MutatingWebhookConfiguration", "b", json!({}))).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let made = f.json(&format!("POST {path}\n{}", json!({"metadata": {"name": "m"}, "data": {"k": "v"}}))).await;
    assert_eq!(made["message"], Value::Null, "{made}");
    assert_eq!(made["data"], json!({"first": "saw the second", "k": "v", "second": ""}));
    assert_eq!(made["unknown"], Value::Null);
    assert_eq!((first.seen.lock().len(), second.seen.lock().len()), (2, 1));
}

#[tokio::test]
async fn failing_webhooks_fail_as_configured() {
    let f = fixture().await;
    let broken = hook(|_| json!({"allowed": true, "patch": "W10="})).await;
    let fails = broken.configured("ValidatingWebhookConfiguration", "v", json!({"failurePolicy": "Fail"}));
    let ignored = broken.configured("MutatingWebhookConfiguration", "m", json!({"failurePolicy": "Ignore"}));
    f.post(MUTATING, ignored).await;
    let create = "POST /api/v1/namespaces/default/configmaps\n{\"metadata\":{\"name\":\"a\"}}";
    assert_eq!(f.ask(create).await.0, 201);
    f.post(VALIDATING, fails).await;
    f.check_http(
        r#"
        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"b"}}

        DELETE /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/v

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"b"}}
        "#,
        expect![[r#"
            500 InternalError: Internal error occurred: failed calling webhook "v.example.com": received invalid webhook response: validating webhook may not return response.patch
            200 Success {"group":"admissionregistration.k8s.io","kind":"validatingwebhookconfigurations","name":"v","uid":"eccfc4ca-a8cd-4b63-87cb-56ff66cd60b5"}
            201 ConfigMap b@6
        "#]],
    )
    .await;
}

// === what a node can do ===

/// What node `n` is told when it asks for something.
async fn as_node(f: &Fixture, method: &str, path: &str, body: Value) -> String {
    let request = Request::builder().method(method).uri(path).body(body_from(body.to_string())).expect("a request");
    let user = UserInfo::new("system:node:n", &["system:nodes", MASTERS]);
    let answer = f.server.handle(request, Peer::local(user)).await;
    let answer = answer.into_body().collect().await.expect("a body").to_bytes();
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    answer["message"].as_str().unwrap_or("done").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_node_shows_pods_of_its_own_that_name_nothing() {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let f = Fixture::with(store, vec![Box::new(NodeRestriction)], None).await;
    f.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let node = f.json("GET /api/v1/nodes/n").await;
    let mirror = json!({
        "metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": node["metadata"]["uid"], "controller": true}]},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "i"}]},
    });
    let check = async |pointer: &str, value: Value, want: &str| {
        let mut pod = mirror.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        pod.pointer_mut(parent).expect("it is there")[key] = value;
        let told = as_node(&f, "POST", "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(told.strip_prefix("pods \"p\" is forbidden: node ").unwrap_or(&told), want, "{pointer}");
    };
    let own = "\"n\" can only create pods with an owner reference set to itself";
    check("/metadata/ownerReferences", json!([]), own).await;
    check("/metadata/ownerReferences/0/name", json!("m"), own).await;
    let controller = "\"n\" can only create pods with a controller owner reference set to itself";
    check("/metadata/ownerReferences/0/controller", json!(false), controller).await;
    let blocks = "\"n\" must not set blockOwnerDeletion on an owner reference";
    check("/metadata/ownerReferences/0/blockOwnerDeletion", json!(true), blocks).await;
    let uid = node["metadata"]["uid"].as_str().expect("it has one");
    check("/metadata/ownerReferences/0/uid", json!("u"), &format!("n UID mismatch: expected u got {uid}")).await;
    let secret = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    check("/spec/volumes", secret, "\"n\" can not create pods that reference secrets").await;
    check("/metadata/labels", json!({}), "done").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_offers_devices_of_its_own_only() {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let f = Fixture::with(store, vec![Box::new(NodeRestriction)], None).await;
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let as_node = async |method: &str, path: &str, body: Value| as_node(&f, method, path, body).await;
    let slice = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"driver": "d.example", "nodeName": node,
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "a"}]}})
    };
    assert_eq!(as_node("POST", slices, slice("own", "n")).await, "done");
    let refused = as_node("POST", slices, slice("foreign", "m")).await;
    let why = "is forbidden: can only create ResourceSlice with the same NodeName as the requesting node";
    assert_eq!(refused, format!("resourceslices.resource.k8s.io \"foreign\" {why}"));
    f.post(slices, slice("foreign", "m")).await;
    let refused = as_node("DELETE", slices, json!({})).await;
    let why = "is forbidden: can only delete ResourceSlice with the same NodeName as the requesting node";
    assert_eq!(refused, format!("resourceslices.resource.k8s.io \"foreign\" {why}"));
    assert_eq!(as_node("DELETE", &format!("{slices}?fieldSelector=spec.nodeName%3Dn"), json!({})).await, "done");

    f.post(
        "/api/v1/namespaces/default/pods",
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "i"}]}}),
    )
    .await;
    let pod = f.json("GET /api/v1/namespaces/default/pods/p").await;
    let mut changed = pod.clone();
    changed["status"]["resourceClaimStatuses"] = json!([{"name": "a", "resourceClaimName": "b"}]);
    let refused = as_node("PUT", "/api/v1/namespaces/default/pods/p/status", changed).await;
    assert_eq!(refused, "pods \"p\" is forbidden: node \"n\" cannot update resource claim statues");
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_resized_only_as_its_node_can() {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let f = Fixture::with(store, vec![Box::new(NodeDeclaredFeatures), Box::new(PodResize)], None).await;
    f.check_http(
        r#"
        POST /api/v1/nodes
        {"metadata":{"name":"n"}}

        PATCH /api/v1/nodes/n/status | content-type: application/merge-patch+json
        {"status":{"allocatable":{"cpu":"2","memory":"1Gi"}}}

        POST /api/v1/namespaces/default/pods
        {"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"a","image":"i","resources":{"requests":{"cpu":"1"}}}]}}

        POST /api/v1/namespaces/default/pods
        {"metadata":{"name":"whole"},"spec":{"nodeName":"n","resources":{"requests":{"cpu":"1"}},"containers":[{"name":"a","image":"i"}]}}

        POST /api/v1/namespaces/default/pods
        {"metadata":{"name":"lost"},"spec":{"nodeName":"gone","containers":[{"name":"a","image":"i","resources":{"requests":{"cpu":"1"}}}]}}

        PATCH /api/v1/namespaces/default/pods/p/resize | content-type: application/strategic-merge-patch+json
        {"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"2001m"}}}]}}

        PATCH /api/v1/namespaces/default/pods/p/resize | content-type: application/strategic-merge-patch+json
        {"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}]}}

        PATCH /api/v1/namespaces/default/pods/whole/resize | content-type: application/strategic-merge-patch+json
        {"spec":{"resources":{"requests":{"cpu":"2"}}}}

        PATCH /api/v1/nodes/n/status | content-type: application/merge-patch+json
        {"status":{"declaredFeatures":["InPlacePodLevelResourcesVerticalScaling"]}}

        PATCH /api/v1/namespaces/default/pods/whole/resize | content-type: application/strategic-merge-patch+json
        {"spec":{"resources":{"requests":{"cpu":"2"}}}}

        PATCH /api/v1/namespaces/default/pods/lost/resize | content-type: application/strategic-merge-patch+json
        {"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}]}}
        "#,
        expect![[r#"
            201 Node n@2 spec={}
            200 Node n@3 spec={}
            201 Pod p@4
            201 Pod whole@5
            201 Pod lost@6
            403 Forbidden: pods "p" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: 2000
            200 Pod p@7
            403 Forbidden: pods "whole" is forbidden: pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "n"
            200 Node n@8 spec={}
            200 Pod whole@9
            403 Forbidden: pods "lost" is forbidden: node "gone" not found
        "#]],
    )
    .await;
}
