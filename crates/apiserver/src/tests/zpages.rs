//! `/statusz` and `/flagz` through the whole pipeline.

use super::*;

#[tokio::test]
async fn pages_are_text_for_people_and_objects_for_programs() {
    let f = Fixture::new().await;
    f.clock.advance(Duration::from_secs(3725));
    assert_eq!(f.ask("GET /flagz").await.0, 404, "nobody said what the flags are");
    f.server.set_flags([("listen".to_owned(), "0.0.0.0:6443".to_owned())].into());
    let (code, text) = f.ask("GET /statusz").await;
    let text = String::from_utf8(text.to_vec()).expect("text");
    assert_eq!(code, 200);
    assert!(text.starts_with("\napiserver statusz\nWarning: This endpoint"), "{text}");
    assert!(text.contains("1 hr 02 min 05 sec\n") && text.contains("Thu Jan  1 00:00:00 UTC 2026\n"), "{text}");
    let object = |kind: &str, version: &str| format!("application/json;as={kind};v={version};g=config.k8s.io");
    let found = f.json(&format!("GET /statusz | accept: {}", object("Statusz", "v1beta1"))).await;
    assert_eq!(
        found,
        serde_json::json!({
            "kind": "Statusz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "apiserver"},
            "startTime": "2026-01-01T00:00:00Z", "uptimeSeconds": 3725, "goVersion": "none",
            "binaryVersion": "1.36.2+dhow", "emulationVersion": "1.36",
            "paths": ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/version"],
        })
    );
    let old = f.send(&format!("GET /flagz | accept: {}", object("Flagz", "v1alpha1"))).await;
    let warning = "299 - \"This version of the flagz endpoint is deprecated. Please use a newer version.\"";
    assert_eq!(old.headers()[http::header::WARNING], warning);
    let body = old.into_body().collect().await.expect("a body").to_bytes();
    let flags: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(flags["flags"], serde_json::json!({"listen": "0.0.0.0:6443"}));
    f.check_http(
        "GET /flagz | accept: application/json",
        expect![[r#"
            406 NotAcceptable: only the following media types are accepted: application/json, application/yaml, text/plain
        "#]],
    )
    .await;
}
