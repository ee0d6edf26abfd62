//! Quotas through the whole pipeline: one commit for the object and its charge.

use super::Fixture;
use crate::admission::ResourceQuotas;
use expect_test::expect;
use std::sync::Arc;
use store::MemoryStore;

async fn with_quota(hard: &str) -> Fixture {
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let f = Fixture::with(store, vec![Box::new(ResourceQuotas::default())], None).await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    f.ask(&format!("POST {quotas}\n{{\"metadata\":{{\"name\":\"q\"}},\"spec\":{{\"hard\":{hard}}}}}")).await;
    let zero = hard.replace("\"2\"", "\"0\"");
    let status = format!("{{\"status\":{{\"hard\":{hard},\"used\":{zero}}}}}");
    let patch = "content-type: application/merge-patch+json";
    let (code, _) = f.ask(&format!("PATCH {quotas}/q/status | {patch}\n{status}")).await;
    assert_eq!(code, 200);
    f
}

#[tokio::test(start_paused = true)]
async fn creates_at_the_same_time_stay_within_the_quota() {
    let f = with_quota(r#"{"count/configmaps":"2"}"#).await;
    let create = |i: usize| {
        let body = format!(r#"{{"metadata":{{"name":"m{i}"}}}}"#);
        let f = &f;
        async move { f.ask(&format!("POST /api/v1/namespaces/default/configmaps\n{body}")).await.0 }
    };
    let codes = futures_util::future::join_all((0..20).map(create)).await;
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 2, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == 403).count(), 18, "{codes:?}");
    let quota = f.json("GET /api/v1/namespaces/default/resourcequotas/q").await;
    assert_eq!(quota["status"]["used"]["count/configmaps"], "2");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_created_is_not_charged() {
    let f = with_quota(r#"{"services":"2","services.nodeports":"2"}"#).await;
    f.check_http(
        r#"
        POST /api/v1/namespaces/default/services
        {"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"port":80}]}}

        POST /api/v1/namespaces/default/services
        {"metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}

        POST /api/v1/namespaces/default/services?dryRun=All
        {"metadata":{"name":"b"},"spec":{"ports":[{"port":80}]}}

        PATCH /api/v1/namespaces/default/services/a | content-type: application/json-patch+json
        [{"op":"add","path":"/spec/ports/-","value":{"port":81,"name":"b"}},{"op":"add","path":"/spec/ports/0/name","value":"a"},{"op":"add","path":"/spec/ports/-","value":{"port":82,"name":"c"}}]
        "#,
        expect![[r#"
            201 Service a@4 spec={"clusterIP":"10.43.23.33","clusterIPs":["10.43.23.33"],"externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{"nodePort":30120,"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"NodePort"}
            409 AlreadyExists: services "a" already exists
            201 Service b@ spec={"clusterIP":"10.43.20.60","clusterIPs":["10.43.20.60"],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"ClusterIP"}
            403 Forbidden: services "a" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2
        "#]],
    )
    .await;
    let quota = f.json("GET /api/v1/namespaces/default/resourcequotas/q").await;
    assert_eq!(quota["status"]["used"].to_string(), r#"{"services":"1","services.nodeports":"1"}"#);
}
