//! Documents compared with upstream's (where the corpus is there) and with what clients look for.

use super::*;
use crate::kinds::table;
use std::path::Path;

fn served() -> Vec<Served<'static>> {
    table::all().iter().map(Served::from).collect()
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("a document is JSON")
}

/// Without prose and without what the tables do not tell.
fn facts(value: &Value) -> Value {
    match value {
        // Prose makes siblings, and siblings make an `allOf` around a reference.
        Value::Object(map) if map.keys().all(|k| k == "allOf" || k == "description") && map.contains_key("allOf") => {
            facts(&map["allOf"][0])
        }
        Value::Object(map) => map
            .iter()
            .filter(|(k, v)| !(k.as_str() == "description" && v.is_string()))
            .filter(|(k, _)| !["x-kubernetes-list-type", "x-kubernetes-group-version-kind"].contains(&k.as_str()))
            // Upstream's servers tell values, its published files do not.
            .filter(|(k, v)| !(k.as_str() == "enum" && v.is_array()))
            .filter(|(k, v)| !(k.as_str() == "x-kubernetes-patch-strategy" && *v == "replace"))
            .filter(|(k, v)| !(k.as_str() == "x-kubernetes-map-type" && *v == "granular"))
            .map(|(k, v)| {
                let mut v = facts(v);
                if let (true, Value::Array(items)) = (k == "required", &mut v) {
                    items.sort_by_key(Value::to_string);
                }
                (k.clone(), v)
            })
            .collect(),
        Value::Array(items) => items.iter().map(facts).collect(),
        other => other.clone(),
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped check must say so")]
fn definitions_are_upstreams() {
    let corpus = Path::new("/work/shared/api/1.36");
    if !corpus.is_dir() {
        println!("skipped: {} is not there", corpus.display());
        return;
    }
    let v2 = parse(&std::fs::read(corpus.join("openapi-v2.json")).expect("readable"));
    let ours_v2 = parse(&super::v2(&served()));
    let mut different = compare(&ours_v2["definitions"], &v2["definitions"]);
    for group in ["api__v1", "apis__apps__v1", "apis__apiextensions.k8s.io__v1", "apis__networking.k8s.io__v1"] {
        let theirs = parse(&std::fs::read(corpus.join(format!("openapi-v3/{group}_openapi.json"))).expect("readable"));
        let name = group.replace("__", "/");
        let (group, version) = name.trim_start_matches("apis/").rsplit_once('/').expect("a group version");
        let group = if group == "api" { "" } else { group };
        let ours = parse(&v3(group, version, &served()).expect("served"));
        different.extend(compare(&ours["components"]["schemas"], &theirs["components"]["schemas"]));
    }
    assert!(different.is_empty(), "{}:\n{}", different.len(), different.join("\n"));
}

fn compare(ours: &Value, theirs: &Value) -> Vec<String> {
    let ours = ours.as_object().expect("definitions");
    assert!(ours.len() > 30);
    ours.iter()
        .filter(|(name, schema)| facts(schema) != facts(&theirs[name.as_str()]))
        .map(|(name, schema)| format!("{name}\n  ours   {}\n  theirs {}", facts(schema), facts(&theirs[name.as_str()])))
        .collect()
}

#[test]
fn the_index_names_every_group_version() {
    let index = parse(&v3_index(&served()));
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("there");
    let hash = v3_hash("apps", "v1", &served()).expect("served");
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={hash}"));
    assert!(index["paths"]["api/v1"].is_object());
    assert_eq!(v3("apps", "v2", &served()), None);
}

/// What `kubectl apply` and `explain` look for.
#[test]
fn clients_find_what_they_look_for() {
    let document = parse(&v3("apps", "v1", &served()).expect("served"));
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    let names: Vec<&str> =
        patch["parameters"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let list = &document["paths"]["/apis/apps/v1/deployments"]["get"];
    assert_eq!(list["operationId"], "listAppsV1DeploymentForAllNamespaces");
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert!(strategy["description"].as_str().is_some_and(|d| d.starts_with("The deployment strategy")), "{strategy}");
}

#[test]
fn operations_say_what_they_do_in_upstreams_words() {
    let document = parse(&v2(&served()));
    let told = |path: &str, method: &str| {
        let operation = &document["paths"][path][method];
        format!(
            "{}: {}",
            operation["operationId"].as_str().unwrap_or("?"),
            operation["description"].as_str().unwrap_or("?")
        )
    };
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    assert_eq!(told(pod, "delete"), "deleteCoreV1NamespacedPod: delete a Pod");
    assert_eq!(
        told(&format!("{pod}/exec"), "get"),
        "connectCoreV1GetNamespacedPodExec: connect GET requests to exec of Pod"
    );
    assert_eq!(
        told("/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", "patch"),
        "patchAppsV1NamespacedDeploymentScale: partially update scale of the specified Deployment"
    );
    assert_eq!(
        told("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses", "post"),
        "createNetworkingV1NamespacedIngress: create an Ingress"
    );
    assert_eq!(
        told("/api/v1/namespaces/{namespace}/endpoints", "post"),
        "createCoreV1NamespacedEndpoints: create Endpoints"
    );
    let reference = |path: &str| document["paths"][path]["delete"]["responses"]["200"]["schema"]["$ref"].clone();
    assert_eq!(reference(pod), "#/definitions/io.k8s.api.core.v1.Pod");
    assert_eq!(
        reference("/api/v1/namespaces/{namespace}/configmaps/{name}"),
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status"
    );
    let definitions = &document["definitions"];
    let properties = |definition: &str| &definitions[format!("io.k8s.api.core.v1.{definition}")]["properties"];
    assert_eq!(properties("Toleration")["operator"]["enum"], json!(["Equal", "Exists", "Gt", "Lt"]));
    assert_eq!(properties("ServiceSpec")["ipFamilies"]["items"]["enum"], json!(["", "IPv4", "IPv6"]));
    assert!(
        properties("PersistentVolumeClaimStatus")["allocatedResourceStatuses"]["additionalProperties"]["enum"]
            .is_array()
    );
    assert_eq!(definitions["io.k8s.api.core.v1.PodCondition"]["required"], json!(["type", "status"]));
    assert!(definitions["io.k8s.api.core.v1.PodList"]["properties"]["items"].get("x-kubernetes-list-type").is_none());
}

#[test]
fn old_watches_and_what_connections_take_are_told() {
    let document = parse(&v3("", "v1", &served()).expect("served"));
    let operation = |path: &str, method: &str| {
        let path = &document["paths"][path];
        let names: Vec<&str> =
            path["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
        let operation = &path[method];
        let word = |key: &str| operation[key].as_str().unwrap_or_default();
        format!("{} {}: {}", word("x-kubernetes-action"), word("operationId"), names.join(" "))
    };
    assert_eq!(
        operation("/api/v1/watch/namespaces/{namespace}/pods/{name}", "get"),
        "watch watchCoreV1NamespacedPod: allowWatchBookmarks continue fieldSelector labelSelector limit name namespace pretty resourceVersion resourceVersionMatch sendInitialEvents shardSelector timeoutSeconds watch"
    );
    assert_eq!(
        operation("/api/v1/namespaces/{namespace}/pods/{name}/proxy/{path}", "head"),
        "connect connectCoreV1HeadNamespacedPodProxyWithPath: name namespace path path"
    );
    assert_eq!(
        operation("/api/v1/namespaces/{namespace}/pods/{name}/exec", "post"),
        "connect connectCoreV1PostNamespacedPodExec: command container name namespace stderr stdin stdout tty"
    );
    assert_eq!(
        operation("/api/v1/namespaces/{namespace}/bindings", "post"),
        "post createCoreV1NamespacedBinding: dryRun fieldManager fieldValidation namespace pretty"
    );
}

#[test]
fn every_reference_resolves() {
    let mut documents = vec![parse(&v2(&served()))];
    for (group, version) in served().iter().map(group_version).collect::<BTreeSet<_>>() {
        documents.push(parse(&v3(group, version, &served()).expect("served")));
    }
    for document in &documents {
        check_references(document, document);
    }
}

fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                let pointer = target.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            map.values().for_each(|v| check_references(document, v));
        }
        Value::Array(items) => items.iter().for_each(|v| check_references(document, v)),
        _ => {}
    }
}

#[test]
fn a_custom_resource_is_published_with_its_schema() {
    let mut info = table::info("apps", "v1", "Deployment").expect("served");
    info.group = "stable.example.com".into();
    info.kind = "CronTab".into();
    info.list_kind = "CronTabList".into();
    info.plural = "crontabs".into();
    info.subresources.clear();
    let schema = r#"{"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "default": {"type": "string", "default": "x", "nullable": true},
        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    }}}}"#;
    let schema = api::Codec::decode(schema.as_bytes()).expect("a schema");
    let published = Published::new(Some(&schema), &[]);
    let served = [Served { info: &info, custom: Some(&published) }];
    let document = parse(&v3("stable.example.com", "v1", &served).expect("served"));
    let crontab = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(crontab["properties"]["spec"]["properties"]["default"]["default"], "x");
    assert!(crontab["properties"]["metadata"]["allOf"][0]["$ref"].is_string());
    let path = &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"];
    assert!(path["patch"]["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null());
    check_references(&document, &document);
    assert!(document["paths"].as_object().is_some_and(|all| all.keys().all(|path| !path.contains("watch"))));

    let v2 = parse(&v2(&served));
    let spec = &v2["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"];
    assert_eq!(*spec, json!({"default": {"default": "x"}, "port": {"x-kubernetes-int-or-string": true}}));
    assert_ne!(
        v3_hash("stable.example.com", "v1", &served),
        v3_hash("stable.example.com", "v1", &[Served::from(&info)])
    );
}
