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

#[tokio::test(start_paused = true)]
async fn sizes_writes_and_facts_are_shown() {
    let f = Fixture::new().await;
    f.ask("POST /api/v1/namespaces/default/endpoints\n{\"metadata\":{\"name\":\"a\"}}").await;
    f.ask("POST /api/v1/namespaces/default/configmaps?dryRun=All\n{\"metadata\":{\"name\":\"a\"}}").await;
    f.ask("DELETE /api/v1/namespaces/default/endpoints/a").await;
    f.ask("GET /api/v1/namespaces/default/configmaps").await;
    f.ask("POST /api/v1/namespaces/default/services\n{\"metadata\":{\"name\":\"a\"},\"spec\":{\"ports\":[{\"port\":80}]}}").await;
    let (_, text) = f.ask("GET /metrics").await;
    let text = String::from_utf8(text.to_vec()).expect("text");
    let wanted = [
        "etcd_requests_total{",
        "etcd_request_errors",
        "apiserver_requested_deprecated_apis{",
        "allocator_a",
        "apiserver_response_sizes_count{",
        "apiserver_response_sizes_sum{",
        "request_sli_duration_seconds_count{",
        "request_body_size_bytes_sum{",
        "resource_size_estimate_bytes{group=\"\",resource=\"endpoints\"",
        "storage_size",
    ];
    let lines = text.lines().filter(|line| !line.starts_with('#') && wanted.iter().any(|w| line.contains(w)));
    let shown: String = lines.map(|line| format!("{line}\n")).collect();
    expect![[r#"
        apiserver_request_body_size_bytes_sum{group="",resource="configmaps",verb="create"} 25
        apiserver_request_body_size_bytes_sum{group="",resource="endpoints",verb="create"} 25
        apiserver_request_body_size_bytes_sum{group="",resource="endpoints",verb="delete"} 0
        apiserver_request_body_size_bytes_sum{group="",resource="namespaces",verb="create"} 31
        apiserver_request_body_size_bytes_sum{group="",resource="services",verb="create"} 56
        apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 1
        apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="endpoints",scope="resource",subresource="",verb="DELETE",version="v1"} 1
        apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="endpoints",scope="resource",subresource="",verb="POST",version="v1"} 1
        apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="namespaces",scope="resource",subresource="",verb="POST",version="v1"} 1
        apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="services",scope="resource",subresource="",verb="POST",version="v1"} 1
        apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1
        apiserver_resource_size_estimate_bytes{group="",resource="endpoints"} 0
        apiserver_response_sizes_sum{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 88
        apiserver_response_sizes_count{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 1
        etcd_requests_total{group="",operation="create",resource="endpoints"} 1
        etcd_requests_total{group="",operation="create",resource="namespaces"} 1
        etcd_requests_total{group="",operation="create",resource="services"} 1
        etcd_requests_total{group="",operation="delete",resource="endpoints"} 1
        kube_apiserver_clusterip_allocator_allocated_ips{cidr="10.43.0.0/16"} 1
        kube_apiserver_clusterip_allocator_available_ips{cidr="10.43.0.0/16"} 65533
        kube_apiserver_nodeport_allocator_allocated_ports 0
        kube_apiserver_nodeport_allocator_available_ports 2768
    "#]].assert_eq(&shown);
}
