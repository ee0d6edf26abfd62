//! B8 of PERFORMANCE §4: server-side apply by three managers, one apply in ten a conflict. Who owns what is checked at the end.

use crate::api::Bench;
use crate::fail::{Result, check};
use crate::http::APPLY;
use crate::load::{Loop, closed};
use crate::report::{Report, us};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const MANAGERS: [&str; 3] = ["owner", "labels", "notes"];

/// Applies Deployments and what others say of them.
pub(crate) async fn run(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let count = (bench.load.objects / 10).max(10);
    let made = closed(bench.pids, 16, count, |i, worker| async move {
        send(bench, worker, i, MANAGERS[0], whole(&bench.objects.name(i)), StatusCode::CREATED).await
    });
    add(report, "new Deployment", &made.await?);
    let laps = closed(bench.pids, 16, count * 6, |i, worker| async move {
        let (index, lap) = (i % count, i / count);
        // Every tenth one is a second opinion about something that the owner has said.
        if (i + lap) % 10 == 9 {
            let opinion = json!({"spec": {"replicas": 7}});
            return send(bench, worker, index, MANAGERS[1], opinion, StatusCode::CONFLICT).await;
        }
        let (manager, said) = match lap % 2 {
            0 => (MANAGERS[1], json!({"metadata": {"labels": {"lap": format!("l{lap}")}}})),
            _ => (MANAGERS[2], json!({"metadata": {"annotations": {"lap": format!("n{lap}")}}})),
        };
        send(bench, worker, index, manager, said, StatusCode::OK).await
    });
    add(report, "change by others, 10 % conflicts", &laps.await?);
    for index in 0..count {
        let object = bench.pool.get(&path(bench, index)).await?;
        let mut owners: Vec<&str> = object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| m["manager"].as_str())
            .collect();
        // Controllers of a whole cluster write statuses.
        owners.retain(|owner| MANAGERS.contains(owner));
        owners.sort_unstable();
        check(owners == ["labels", "notes", "owner"], "managedFields", || format!("{owners:?}"))?;
        check(object["spec"]["replicas"] == 0, "a conflict", || format!("replicas {}", object["spec"]["replicas"]))?;
    }
    Ok(())
}

fn path(bench: &Bench<'_>, index: usize) -> String {
    let namespace = bench.namespace(index % bench.load.namespaces);
    format!("/apis/apps/v1/namespaces/{namespace}/deployments/{}", bench.objects.name(index))
}

async fn send(
    bench: &Bench<'_>,
    worker: usize,
    index: usize,
    manager: &str,
    mut said: Value,
    expected: StatusCode,
) -> Result<()> {
    said["apiVersion"] = "apps/v1".into();
    said["kind"] = "Deployment".into();
    said["metadata"]["name"] = bench.objects.name(index).into();
    let path = format!("{}?fieldManager={manager}", path(bench, index));
    let answer = bench.pool.call(worker, Method::PATCH, &path, APPLY, said.to_string().into()).await?;
    check(answer.status == expected, &path, || answer.text())
}

/// No replicas, so that no controller makes pods of it.
fn whole(name: &str) -> Value {
    let labels = json!({"app": name});
    let env: Vec<Value> = (0..10).map(|i| json!({"name": format!("E{i}"), "value": format!("value {i}")})).collect();
    json!({"spec": {
        "replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [
            {"name": "app", "image": "example.com/app:1", "env": env, "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"name": "side", "image": "example.com/side:1", "args": ["a", "b"]},
        ]}},
    }})
}

fn add(report: &mut Report, what: &str, done: &Loop) {
    report.add(
        "API",
        format!("B8 apply, {what}"),
        format!("**{}**", us(done.server_us())),
        "≤ 1/10 of the peer's",
        done.note(),
    );
}
