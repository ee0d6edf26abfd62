//! What stands under `/metrics` after requests.

use super::Fixture;
use expect_test::expect;

#[tokio::test(start_paused = true)]
async fn requests_are_counted_under_upstreams_names() {
    let f = Fixture::new().await;
    for request in [
        "POST /api/v1/namespaces/default/configmaps?dryRun=All\n{\"metadata\":{\"name\":\"a\"}}",
        "POST /api/v1/namespaces/default/configmaps\n{\"metadata\":{\"name\":\"a\"}}",
        "GET /api/v1/configmaps",
        "GET /apis/nobody/v1/knows",
        "GET /readyz",
    ] {
        f.ask(request).await;
    }
    drop(f.send("GET /api/v1/namespaces/default/configmaps?watch=true").await);
    let (code, text) = f.ask("GET /metrics").await;
    assert_eq!(code, 200);
    let text = String::from_utf8(text.to_vec()).expect("text");
    let wanted = [
        "apiserver_request_total{",
        "TYPE apiserver_request_total",
        "HELP apiserver_current_inflight",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"}",
        "apiserver_storage_objects{resource=\"deployments.apps\"}",
        "apiserver_longrunning_requests{",
        "authorization_attempts_total{",
        "apiserver_admission_step_admission_duration_seconds_count{",
        "apiserver_storage_list_returned_objects_total{",
    ];
    let lines = text.lines().filter(|line| wanted.iter().any(|w| line.contains(w)));
    let shown: String = lines.map(|line| format!("{line}\n")).collect();
    expect![[r#"
        apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="false",type="admit"} 3
        apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="false",type="validate"} 3
        # HELP apiserver_current_inflight_requests [STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.
        apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 0
        # TYPE apiserver_request_total counter
        apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/readyz",verb="GET",version=""} 1
        apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="cluster",subresource="",verb="LIST",version="v1"} 1
        apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 1
        apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"} 1
        apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="namespaces",scope="resource",subresource="",verb="POST",version="v1"} 1
        apiserver_request_total{code="201",component="apiserver",dry_run="All",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"} 1
        apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="",scope="cluster",subresource="",verb="LIST",version=""} 1
        apiserver_resource_objects{group="",resource="configmaps"} 1
        apiserver_storage_list_returned_objects_total{group="",resource="configmaps"} 1
        apiserver_storage_objects{resource="deployments.apps"} 0
        authorization_attempts_total{result="allowed"} 8
    "#]].assert_eq(&shown);
}
