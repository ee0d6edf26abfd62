//! What stands in the audit log after requests.

use super::Fixture;
use crate::audit::{Audit, Policy};
use expect_test::expect;
use serde_json::Value;
use std::sync::Arc;
use store::MemoryStore;

#[tokio::test(start_paused = true)]
async fn the_policy_says_what_is_noted() {
    let policy = Policy::parse(
        "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [
            {level: RequestResponse, resources: [{resources: [configmaps]}], omitManagedFields: true},
            {level: Metadata, resources: [{resources: [secrets]}]}]}",
    )
    .expect("a literal policy");
    let (audit, mut lines) = Audit::new(policy);
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let f = Fixture::with(store, Vec::new(), Some(audit)).await;
    for request in [
        "POST /api/v1/namespaces/default/configmaps\n{\"metadata\":{\"name\":\"a\"}}",
        "GET /api/v1/namespaces/default/configmaps/b",
        "POST /api/v1/namespaces/default/secrets\n{\"metadata\":{\"name\":\"s\"},\"stringData\":{\"k\":\"hidden\"}}",
        "GET /api/v1/namespaces/default/pods",
    ] {
        f.ask(request).await;
    }
    drop(f.send("GET /api/v1/namespaces/default/configmaps?watch=true").await);
    let mut text = String::new();
    while let Ok(line) = lines.try_recv() {
        let mut event: Value = serde_json::from_slice(&line).expect("JSON");
        assert!(!line.windows(6).any(|w| w == b"hidden"), "bodies are not metadata");
        assert_eq!(event["responseObject"]["metadata"]["managedFields"], Value::Null);
        let whole = ["requestObject", "responseObject"].map(|field| event[field].take()["kind"].take());
        text.push_str(&format!(
            "{} {} {} {} {} {}/{} {}\n",
            event["level"].as_str().unwrap_or_default(),
            event["stage"].as_str().unwrap_or_default(),
            event["verb"].as_str().unwrap_or_default(),
            event["requestURI"].as_str().unwrap_or_default(),
            event["responseStatus"]["code"],
            whole[0],
            whole[1],
            event["annotations"],
        ));
    }
    expect![[r#"
        RequestResponse ResponseComplete create /api/v1/namespaces/default/configmaps 201 null/"ConfigMap" {"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}
        RequestResponse ResponseComplete get /api/v1/namespaces/default/configmaps/b 404 null/"Status" {"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}
        Metadata ResponseComplete create /api/v1/namespaces/default/secrets 201 null/null {"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}
        RequestResponse ResponseStarted watch /api/v1/namespaces/default/configmaps?watch=true 200 null/null {"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}
        RequestResponse ResponseComplete watch /api/v1/namespaces/default/configmaps?watch=true 200 null/null {"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}
    "#]].assert_eq(&text);
}
