//! Two servers on one store give Services different addresses and ports.

use super::Fixture;
use crate::ServiceNetwork;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;
use store::MemoryStore;

#[tokio::test(start_paused = true)]
async fn two_servers_give_out_no_address_twice() {
    let store: Arc<dyn store::Store> = Arc::new(MemoryStore::new(store::Limits::default()));
    let cidr = IpNet::new([10, 43, 0, 0].into(), 28).expect("a range");
    let network = ServiceNetwork { cidrs: vec![cidr], node_ports: 30000..=30011, shared: true };
    let servers =
        [Fixture::with_network(store.clone(), network.clone()).await, Fixture::with_network(store, network).await];
    let create = |i: usize| {
        let body = format!(r#"{{"metadata":{{"name":"s{i}"}},"spec":{{"type":"NodePort","ports":[{{"port":80}}]}}}}"#);
        let request = format!("POST /api/v1/namespaces/default/services\n{body}");
        let server = &servers[i % 2];
        async move { server.json(&request).await }
    };
    // Both at once: whoever commits second has to reserve again.
    let made = futures_util::future::join_all((0..12).map(create)).await;
    let all = |field: &dyn Fn(&serde_json::Value) -> String| made.iter().map(field).collect::<BTreeSet<String>>();
    let addresses = all(&|service| service["spec"]["clusterIP"].to_string());
    let ports = all(&|service| service["spec"]["ports"][0]["nodePort"].to_string());
    assert_eq!((addresses.len(), ports.len()), (12, 12), "{made:#?}");
    // What one gives back, the other gives out: the ports are used up.
    assert_eq!(servers[0].ask("DELETE /api/v1/namespaces/default/services/s3").await.0, 200);
    let again = servers[1].json("POST /api/v1/namespaces/default/services\n{\"metadata\":{\"name\":\"n\"},\"spec\":{\"ports\":[{\"port\":80}]}}").await;
    assert!(again["spec"]["clusterIP"].is_string(), "{again}");
}
