//! An authorization webhook on a port of its own, over plain HTTP, asked as an AuthorizationConfiguration and a kubeconfig say.

use super::access::{AuthorizationConfiguration, AuthorizationMetrics, AuthorizerKind, WebhookAuthorizer};
use super::kubeconfig;
use crate::auth::{AllowAll, Attributes, Authorizer, Authorizers, Decision, UserInfo};
use crate::reader::Reader;
use crate::webhook_client::WebhookClient;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Allows ann, denies eve, has no opinion of others; of `broken` and `silent` it says nothing useful.
struct Hook {
    url: String,
    /// Whom it was asked about.
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("a review");
    let user = review["spec"]["user"].as_str().unwrap_or_default().to_owned();
    asked.lock().push(user.clone());
    let status = match user.as_str() {
        "silent" => std::future::pending().await,
        "broken" => json!("broken"),
        "ann" => json!({"allowed": true, "reason": "it is ann"}),
        "eve" => json!({"allowed": false, "denied": true, "reason": "it is eve"}),
        _ => json!({"allowed": false, "reason": "who is that?"}),
    };
    let review = json!({"apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status});
    Ok(Response::new(Full::new(review.to_string().into())))
}

impl Hook {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/authorize", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = asked.clone();
        base::tasks::detach("test-authorizer", async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let all = all.clone();
                let service = service_fn(move |request| answer(request, all.clone()));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
                base::tasks::detach("test-authorizer-connection", async { drop(connection.await) });
            }
        });
        Hook { url, asked }
    }

    /// The authorizer with these settings beside the usual ones.
    fn authorizer(&self, settings: &str, metrics: &AuthorizationMetrics) -> Arc<WebhookAuthorizer> {
        let text = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration, authorizers: [{{type: Node, name: node}}, {{type: RBAC, name: rbac}}, {{type: Webhook, name: hook, webhook: {{authorizedTTL: 5m, unauthorizedTTL: 30s, subjectAccessReviewVersion: v1, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /k}}, {settings}}}}}]}}"
        );
        let config = AuthorizationConfiguration::parse(&text).expect("is well-formed");
        let kubeconfig = format!(
            "{{current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}], clusters: [{{name: k, cluster: {{server: '{}'}}}}]}}",
            self.url
        );
        let reached = kubeconfig::parse(&kubeconfig, &|_| Ok(Vec::new())).expect("is well-formed");
        let store = Arc::new(store::MemoryStore::new(store::Limits::default()));
        let client = Arc::new(WebhookClient::new(Reader::new(store)));
        let entry = &config.authorizers[2];
        let AuthorizerKind::Webhook(webhook) = entry.kind() else { panic!("it is a webhook") };
        Arc::new(WebhookAuthorizer::new(&entry.name, webhook, reached, client, metrics.clone()))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

async fn ask(authorizer: &dyn Authorizer, user: &str) -> String {
    let user = UserInfo::new(user, &["devs"]);
    let attributes = Attributes {
        user: &user,
        verb: "get",
        group: "",
        version: "v1",
        resource: "pods",
        subresource: "",
        namespace: "a",
        name: "p",
        path: "",
        is_resource_request: true,
        field_selector: "",
        label_selector: "",
    };
    let decision = authorizer.authorize(&attributes).await;
    let name = match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(_) => "deny",
        Decision::NoOpinion(_) => "no opinion",
    };
    format!("{name} {}", decision.reason()).trim_end().to_owned()
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// What was counted under a name, per labels.
fn counted(metrics: &AuthorizationMetrics, name: &str) -> Vec<String> {
    let families = metrics.collectors().into_iter().flat_map(|c| c.collect()).collect::<Vec<_>>();
    let family = families.iter().find(|f| f.name().ends_with(name)).expect("is counted");
    let labels = |m: &prometheus::proto::Metric| {
        let values: Vec<String> = m.get_label().iter().map(|l| l.value().to_owned()).collect();
        let count = m.get_counter().get_value();
        (count > 0.0).then(|| format!("{} {count}", values.join(" ")))
    };
    let mut all: Vec<String> = family.get_metric().iter().filter_map(labels).collect();
    all.sort();
    all
}

#[tokio::test]
async fn answers_are_kept_for_their_time() {
    let hook = Hook::start().await;
    let authorizer = hook.authorizer("timeout: 3s, failurePolicy: Deny", &AuthorizationMetrics::default());
    for (user, wanted) in [("ann", "allow it is ann"), ("bob", "no opinion who is that?"), ("eve", "deny it is eve")] {
        assert_eq!(ask(&*authorizer, user).await, wanted);
        assert_eq!(ask(&*authorizer, user).await, wanted);
    }
    assert_eq!(hook.asked(), ["ann", "bob", "eve"]);
    pass(Duration::from_secs(31)).await;
    for user in ["ann", "bob", "eve"] {
        ask(&*authorizer, user).await;
    }
    assert_eq!(hook.asked(), ["bob", "eve"], "refusals are kept for less long");
    pass(Duration::from_secs(300)).await;
    ask(&*authorizer, "ann").await;
    assert_eq!(hook.asked(), ["ann"]);

    let forgets = "timeout: 3s, failurePolicy: Deny, cacheAuthorizedRequests: false, cacheUnauthorizedRequests: true";
    let authorizer = hook.authorizer(forgets, &AuthorizationMetrics::default());
    for user in ["ann", "ann", "bob", "bob"] {
        ask(&*authorizer, user).await;
    }
    assert_eq!(hook.asked(), ["ann", "ann", "bob"]);
}

#[tokio::test]
async fn the_failure_policy_decides_where_the_webhook_does_not() {
    let hook = Hook::start().await;
    for (policy, wanted, open) in
        [("Deny", "deny", vec![]), ("NoOpinion", "no opinion", vec!["hook error 2", "hook timeout 1"])]
    {
        let metrics = AuthorizationMetrics::default();
        let authorizer = hook.authorizer(&format!("timeout: 100ms, failurePolicy: {policy}"), &metrics);
        for user in ["broken", "silent"] {
            assert_eq!(ask(&*authorizer, user).await, wanted, "{policy} {user}");
        }
        assert_eq!(ask(&*authorizer, "broken").await, wanted);
        assert_eq!(hook.asked(), ["broken", "silent", "broken"], "failures are not kept, nor tried again");
        assert_eq!(counted(&metrics, "webhook_evaluations_total"), ["hook error 2", "hook timeout 1"]);
        assert_eq!(counted(&metrics, "fail_open_total"), open);
    }
}

#[tokio::test]
async fn conditions_say_what_the_webhook_is_asked_about() {
    let hook = Hook::start().await;
    let conditions = |expression: &str| {
        format!(
            "timeout: 3s, failurePolicy: Deny, matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{{expression: \"{expression}\"}}]"
        )
    };
    let metrics = AuthorizationMetrics::default();
    let authorizer = hook.authorizer(&conditions("request.user != 'bob'"), &metrics);
    assert_eq!(ask(&*authorizer, "ann").await, "allow it is ann");
    assert_eq!(ask(&*authorizer, "bob").await, "no opinion");
    assert_eq!(hook.asked(), ["ann"]);
    assert_eq!(counted(&metrics, "exclusions_total"), ["hook Webhook 1"]);
    let broken = hook.authorizer(&conditions("request.nonResourceAttributes.path == '/x'"), &metrics);
    assert_eq!(ask(&*broken, "ann").await, "deny");
    assert!(hook.asked().is_empty());
}

#[tokio::test]
async fn authorizers_are_asked_in_order_until_one_decides() {
    let hook = Hook::start().await;
    let metrics = AuthorizationMetrics::default();
    let webhook = hook.authorizer("timeout: 3s, failurePolicy: NoOpinion", &metrics);
    let chain = Authorizers(vec![
        metrics.decisions.of("Webhook", "hook", webhook),
        metrics.decisions.of("RBAC", "rbac", Arc::new(AllowAll)),
        metrics.decisions.of("RBAC", "late", Arc::new(AllowAll)),
    ]);
    assert_eq!(ask(&chain, "ann").await, "allow it is ann");
    assert_eq!(ask(&chain, "eve").await, "deny it is eve");
    assert_eq!(ask(&chain, "bob").await, "allow");
    let wanted = ["allowed hook Webhook 1", "allowed rbac RBAC 1", "denied hook Webhook 1"];
    assert_eq!(counted(&metrics, "decisions_total"), wanted);
}
