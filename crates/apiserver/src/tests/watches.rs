//! Watches: order, selectors, initial events, bookmarks, history that is gone.

use super::*;

const CM: &str = "/api/v1/namespaces/default/configmaps";

async fn make(f: &Fixture, name: &str, label: &str) {
    let body = format!("{{\"metadata\":{{\"name\":\"{name}\",\"labels\":{{\"x\":\"{label}\"}}}}}}");
    assert_eq!(f.ask(&format!("POST {CM}\n{body}")).await.0, 201);
}

async fn relabel(f: &Fixture, name: &str, label: &str) {
    let body = format!("{{\"metadata\":{{\"labels\":{{\"x\":\"{label}\"}}}}}}");
    assert_eq!(f.ask(&format!("PATCH {CM}/{name} | content-type: application/merge-patch+json\n{body}")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn from_a_revision_in_order() {
    let f = Fixture::new().await;
    make(&f, "a", "1").await;
    let mut watch = f.send(&format!("GET {CM}?watch=true&resourceVersion=2")).await.into_body();
    make(&f, "b", "1").await;
    relabel(&f, "a", "2").await;
    f.ask(&format!("DELETE {CM}/b")).await;
    expect![[r#"
        ADDED ConfigMap b@3 labels={"x":"1"}
        MODIFIED ConfigMap a@4 labels={"x":"2"}
        DELETED ConfigMap b@5 labels={"x":"1"}
    "#]]
    .assert_eq(&events(&mut watch, 3).await);
}

#[tokio::test(start_paused = true)]
async fn selectors_turn_changes_into_comings_and_goings() {
    let f = Fixture::new().await;
    make(&f, "a", "1").await;
    let mut watch = f.send(&format!("GET {CM}?watch=true&resourceVersion=2&labelSelector=x%3D2")).await.into_body();
    relabel(&f, "a", "2").await;
    relabel(&f, "a", "3").await;
    relabel(&f, "a", "4").await;
    relabel(&f, "a", "2").await;
    f.ask(&format!("DELETE {CM}/a")).await;
    expect![[r#"
        ADDED ConfigMap a@3 labels={"x":"2"}
        DELETED ConfigMap a@4 labels={"x":"2"}
        ADDED ConfigMap a@6 labels={"x":"2"}
        DELETED ConfigMap a@7 labels={"x":"2"}
    "#]]
    .assert_eq(&events(&mut watch, 4).await);
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_bookmark() {
    let f = Fixture::new().await;
    make(&f, "a", "1").await;
    make(&f, "b", "1").await;
    let uri =
        format!("GET {CM}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut watch = f.send(&uri).await.into_body();
    make(&f, "c", "1").await;
    expect![[r#"
        ADDED ConfigMap a@2 labels={"x":"1"}
        ADDED ConfigMap b@3 labels={"x":"1"}
        BOOKMARK ConfigMap @3 {"k8s.io/initial-events-end": String("true")}
        ADDED ConfigMap c@4 labels={"x":"1"}
    "#]]
    .assert_eq(&events(&mut watch, 4).await);
    let mut old_way = f.send(&format!("GET {CM}?watch=1")).await.into_body();
    assert_eq!(events(&mut old_way, 3).await.matches("ADDED").count(), 3);
    let (code, _) = f.ask(&format!("GET {CM}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(code, 422);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_every_minute_and_the_end_on_time() {
    let f = Fixture::new().await;
    let uri = format!("GET {CM}?watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=90");
    let mut watch = f.send(&uri).await.into_body();
    let started = tokio::time::Instant::now();
    f.ask("POST /api/v1/namespaces\n{\"metadata\":{\"name\":\"elsewhere\"}}").await;
    expect![[r#"
        BOOKMARK ConfigMap @2
        end
    "#]]
    .assert_eq(&events(&mut watch, 9).await);
    assert_eq!(started.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn history_that_is_gone_is_an_error_event() {
    let f = Fixture::new().await;
    make(&f, "a", "1").await;
    make(&f, "b", "1").await;
    f.server.reader().store().compact(f.server.reader().store().revision()).await.expect("compacts");
    let mut watch = f.send(&format!("GET {CM}?watch=1&resourceVersion=1")).await.into_body();
    expect![[r#"
        ERROR Expired: too old resource version: 1 (3)
        end
    "#]]
    .assert_eq(&events(&mut watch, 2).await);
}

#[tokio::test(start_paused = true)]
async fn tables_carry_their_columns_once() {
    let f = Fixture::new().await;
    make(&f, "a", "1").await;
    make(&f, "b", "1").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = f.send(&format!("GET {CM}?watch=1 | accept: {accept}")).await.into_body();
    let data = watch.frame().await.expect("a frame").expect("data").into_data().expect("data");
    let lines: Vec<Value> = data
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0]["object"]["columnDefinitions"].is_array() && lines[1]["object"]["columnDefinitions"].is_null());
}

/// PERFORMANCE §5.1 no. 4: a list and the watch from its revision give the state at any later time.
#[tokio::test(start_paused = true)]
async fn list_and_watch_add_up() {
    let f = Fixture::new().await;
    for i in 0..5 {
        make(&f, &format!("m{i}"), "1").await;
    }
    let list = f.json(&format!("GET {CM}")).await;
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let mut state: std::collections::BTreeMap<String, Value> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|i| (i["metadata"]["name"].as_str().expect("a name").to_owned(), i.clone()))
        .collect();
    let mut watch = f.send(&format!("GET {CM}?watch=1&resourceVersion={revision}")).await.into_body();
    let mut last = 0;
    for i in 0..20 {
        match i % 4 {
            0 => make(&f, &format!("n{i}"), "1").await,
            1 => relabel(&f, &format!("m{}", i % 5), &format!("v{i}")).await,
            2 => {
                f.ask(&format!("DELETE {CM}/n{}", i - 2)).await;
            }
            _ => make(&f, &format!("o{i}"), "2").await,
        }
    }
    for _ in 0..20 {
        let frame = watch.frame().await.expect("open").expect("a frame").into_data().expect("data");
        for line in frame.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let event: Value = serde_json::from_slice(line).expect("JSON");
            let mut object = event["object"].clone();
            let revision: u64 =
                object["metadata"]["resourceVersion"].as_str().expect("text").parse().expect("a number");
            assert!(revision > last, "order");
            last = revision;
            // As the items of a list are.
            let fields = object.as_object_mut().expect("an object");
            fields.retain(|name, _| name != "apiVersion" && name != "kind");
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            match event["type"].as_str().expect("text") {
                "DELETED" => drop(state.remove(&name)),
                _ => drop(state.insert(name, object)),
            }
        }
        if last >= f.server.reader().store().revision().0 {
            break;
        }
    }
    let now = f.json(&format!("GET {CM}")).await;
    assert_eq!(Value::from(state.into_values().collect::<Vec<_>>()), now["items"]);
}
