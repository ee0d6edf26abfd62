//! Operations of the served resources: which verbs each path has, of which kind, with which parameters.
//!
//! What clients look for: `kubectl explain` finds the kind of a resource on its collection path, `kubectl apply` looks
//! for `fieldValidation` and for strategic merge patch on the PATCH of a kind, others for `x-kubernetes-action`.
//! Differs from upstream: no deprecated `/watch/` paths; connect operations list GET and POST only as served.

use super::Served;
use super::definitions::{Flavor, META};
use crate::kinds::{KindInfo, Subresource};
use crate::schema::builtin;
use serde_json::{Map, Value, json};

const OBJECT: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Kinds that only describe the query of a connection.
const CONNECT: &[&str] = &[
    "PodAttachOptions",
    "PodExecOptions",
    "PodPortForwardOptions",
    "PodProxyOptions",
    "ServiceProxyOptions",
    "NodeProxyOptions",
];

type Parameter = (&'static str, &'static str);

const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[Parameter] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[Parameter] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[Parameter] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LOG: &[Parameter] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

/// `/api/v1` or `/apis/group/version`.
pub(super) fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The definition of the kind and of its list: upstream's names, or the group's domain backwards for custom resources.
pub(super) fn definition_names(served: &Served<'_>) -> (String, String) {
    let info = served.info;
    let name = kind_definition(served, &info.group, &info.version, &info.kind);
    let list = kind_definition(served, &info.group, &info.version, &info.list_kind);
    (name, list)
}

fn kind_definition(served: &Served<'_>, group: &str, version: &str, kind: &str) -> String {
    let b = builtin();
    let builtin_name = b.by_kind(group, version, kind).and_then(|id| b.structure(id)).map(|s| s.name.to_string());
    // A Scale is upstream's whoever has it.
    let own = served.custom.is_some() && group == served.info.group;
    match builtin_name {
        Some(name) if !own => name,
        _ => {
            let mut labels: Vec<&str> = group.split('.').collect();
            labels.reverse();
            format!("{}.{version}.{kind}", labels.join("."))
        }
    }
}

/// All paths of one resource, in order, with the definitions they refer to.
pub(super) fn of(served: &Served<'_>, flavor: Flavor, references: &mut Vec<String>) -> Vec<(String, Value)> {
    let info = served.info;
    let (name, list) = definition_names(served);
    let mut builder = Builder { served, info, flavor, name, list, references };
    let base = prefix(&info.group, &info.version);
    let scope = if info.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", info.plural);
    let item = format!("{collection}/{{name}}");
    let mut paths = Vec::new();
    if info.namespaced && builder.has("list") {
        let list = builder.list_operation("ForAllNamespaces");
        paths.push((format!("{base}/{}", info.plural), builder.path(&[], vec![("get", list)])));
    }
    paths.push((collection, builder.collection()));
    if ["get", "update", "patch", "delete"].iter().any(|v| builder.has(v)) {
        paths.push((item.clone(), builder.item()));
    }
    for sub in &info.subresources {
        paths.push((format!("{item}/{}", sub.name), builder.subresource(sub)));
    }
    paths.retain(|(_, path)| path.as_object().is_some_and(|p| p.len() > 1));
    paths
}

/// The path that lists a group version's resources.
pub(super) fn resource_list(
    group: &str,
    version: &str,
    flavor: Flavor,
    references: &mut Vec<String>,
) -> (String, Value) {
    let definition = format!("{META}APIResourceList");
    let mut operation = json!({
        "description": "get available resources",
        "operationId": format!("get{}{}APIResources", camel(group), capital(version)),
        "tags": [tag(group, version)],
        "responses": responses(flavor, &[200], &definition, OBJECT),
    });
    if flavor == Flavor::V2 {
        operation["consumes"] = json!(OBJECT);
        operation["produces"] = json!(OBJECT);
        operation["schemes"] = json!(["https"]);
    }
    references.push(definition);
    (format!("{}/", prefix(group, version)), json!({"get": operation}))
}

struct Builder<'a, 'r> {
    served: &'a Served<'a>,
    info: &'a KindInfo,
    flavor: Flavor,
    name: String,
    list: String,
    references: &'r mut Vec<String>,
}

/// One operation before it is written.
struct Operation<'a> {
    /// First word of the operation id.
    verb: &'a str,
    /// What follows the kind in the operation id.
    suffix: &'a str,
    action: &'a str,
    kind: (&'a str, &'a str, &'a str),
    parameters: Vec<Parameter>,
    body: Option<Body>,
    codes: &'a [u16],
    answer: &'a str,
    produces: Vec<&'static str>,
}

struct Body {
    definition: String,
    required: bool,
    types: &'static [&'static str],
}

impl<'a> Builder<'a, '_> {
    fn has(&self, verb: &str) -> bool {
        self.info.verbs.iter().any(|v| v == verb)
    }

    fn kind(&self) -> (&'a str, &'a str, &'a str) {
        (&self.info.group, &self.info.version, &self.info.kind)
    }

    fn object_body(definition: &str) -> Option<Body> {
        Some(Body { definition: definition.to_owned(), required: true, types: &["*/*"] })
    }

    fn delete_body() -> Option<Body> {
        Some(Body { definition: format!("{META}DeleteOptions"), required: false, types: &["*/*"] })
    }

    /// Custom resources know no strategic merge.
    fn patch_body(&self) -> Option<Body> {
        let types: &[&str] = &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        let of_custom: &[&str] =
            &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
        let types = if self.served.custom.is_some() { of_custom } else { types };
        Some(Body { definition: format!("{META}Patch"), required: true, types })
    }

    fn list_operation(&mut self, suffix: &str) -> Value {
        let list = self.list.clone();
        self.operation(Operation {
            verb: "list",
            suffix,
            action: "list",
            kind: self.kind(),
            parameters: LIST.to_vec(),
            body: None,
            codes: &[200],
            answer: &list,
            produces: OBJECT.iter().chain(STREAM).copied().collect(),
        })
    }

    fn collection(&mut self) -> Value {
        let name = self.name.clone();
        let status = format!("{META}Status");
        let mut operations = Vec::new();
        if self.has("list") {
            operations.push(("get", self.list_operation("")));
        }
        if self.has("create") {
            operations.push((
                "post",
                self.write("create", "", "post", &name, WRITE, Self::object_body(&name), &[200, 201, 202]),
            ));
        }
        if self.has("deletecollection") {
            let mut parameters: Vec<Parameter> =
                LIST.iter().filter(|(n, _)| *n != "watch" && *n != "allowWatchBookmarks").copied().collect();
            parameters.extend(DELETE);
            parameters.sort_unstable();
            let body = Self::delete_body();
            operations.push((
                "delete",
                self.write("deleteCollection", "", "deletecollection", &status, &parameters, body, &[200]),
            ));
        }
        self.path(&[], operations)
    }

    fn item(&mut self) -> Value {
        let name = self.name.clone();
        let mut operations = Vec::new();
        if self.has("get") {
            operations.push(("get", self.write("read", "", "get", &name, &[], None, &[200])));
        }
        if self.has("update") {
            operations
                .push(("put", self.write("replace", "", "put", &name, WRITE, Self::object_body(&name), &[200, 201])));
        }
        if self.has("patch") {
            let body = self.patch_body();
            operations.push(("patch", self.write("patch", "", "patch", &name, PATCH, body, &[200, 201])));
        }
        if self.has("delete") {
            let answer = if returns_deleted(self.info) { name.clone() } else { format!("{META}Status") };
            operations.push((
                "delete",
                self.write("delete", "", "delete", &answer, DELETE, Self::delete_body(), &[200, 202]),
            ));
        }
        self.path(&["name"], operations)
    }

    fn subresource(&mut self, sub: &'a Subresource) -> Value {
        let (group, version) = match (sub.group.as_ref(), sub.version.as_ref()) {
            ("", "") => (self.info.group.as_ref(), self.info.version.as_ref()),
            other => other,
        };
        let suffix = capital(&sub.name);
        let connect = CONNECT.contains(&sub.kind.as_ref());
        let definition = kind_definition(self.served, group, version, &sub.kind);
        let known = self.served.custom.is_some() || builtin().by_kind(group, version, &sub.kind).is_some();
        let mut operations = Vec::new();
        for verb in &sub.verbs {
            let (method, id, action, parameters, body): (&str, &str, &str, &[Parameter], Option<Body>) =
                match verb.as_ref() {
                    "get" if sub.name == "log" => ("get", "read", "get", LOG, None),
                    "get" => ("get", "read", "get", &[], None),
                    "create" => ("post", "create", "post", WRITE, Self::object_body(&definition)),
                    "update" => ("put", "replace", "put", WRITE, Self::object_body(&definition)),
                    "patch" => ("patch", "patch", "patch", PATCH, self.patch_body()),
                    "delete" => ("delete", "delete", "delete", DELETE, Self::delete_body()),
                    _ => continue,
                };
            let plain = connect || !known || sub.name == "log";
            let id_suffix = if connect { format!("{}{suffix}", capital(method)) } else { suffix.clone() };
            let operation = self.operation(Operation {
                verb: if connect { "connect" } else { id },
                suffix: &id_suffix,
                action: if connect { "connect" } else { action },
                kind: (group, version, &sub.kind),
                parameters: if connect { Vec::new() } else { parameters.to_vec() },
                body: if plain { None } else { body },
                codes: match method {
                    "post" if !plain => &[200, 201, 202],
                    "put" | "patch" if !plain => &[200, 201],
                    _ => &[200],
                },
                answer: if plain { "" } else { &definition },
                produces: if plain { vec!["*/*"] } else { OBJECT.to_vec() },
            });
            operations.push((method, operation));
        }
        self.path(&["name"], operations)
    }

    fn write(
        &mut self,
        verb: &str,
        suffix: &str,
        action: &str,
        answer: &str,
        parameters: &[Parameter],
        body: Option<Body>,
        codes: &[u16],
    ) -> Value {
        let kind = self.kind();
        self.operation(Operation {
            verb,
            suffix,
            action,
            kind,
            parameters: parameters.to_vec(),
            body,
            codes,
            answer,
            produces: OBJECT.to_vec(),
        })
    }

    fn operation(&mut self, op: Operation<'_>) -> Value {
        let (group, version) = (&self.info.group, &self.info.version);
        let scope = if self.info.namespaced && op.suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
        // Upstream writes deleteAppsV1CollectionNamespacedDeployment.
        let (verb, collection) = if op.verb == "deleteCollection" { ("delete", "Collection") } else { (op.verb, "") };
        let (group_name, version_name) = (camel(group), capital(version));
        // Of connections, the method stands before what is connected.
        let (method, suffix) = match op.verb {
            "connect" => op.suffix.split_at(op.suffix[1..].find(char::is_uppercase).map_or(0, |at| at + 1)),
            _ => ("", op.suffix),
        };
        let id = format!("{verb}{group_name}{version_name}{collection}{method}{scope}{}{suffix}", self.info.kind);
        let parameters: Vec<Value> = op.parameters.iter().map(|p| query(self.flavor, p)).collect();
        let mut operation = json!({
            "operationId": id,
            "tags": [tag(group, version)],
            "parameters": parameters,
            "responses": responses(self.flavor, op.codes, op.answer, &op.produces),
            "x-kubernetes-action": op.action,
            "x-kubernetes-group-version-kind": {"group": op.kind.0, "version": op.kind.1, "kind": op.kind.2},
        });
        if !op.answer.is_empty() {
            self.references.push(op.answer.to_owned());
        }
        operation["description"] = self.told(&op).into();
        if self.flavor == Flavor::V2 {
            operation["schemes"] = json!(["https"]);
            operation["produces"] = json!(op.produces);
            operation["consumes"] = json!(op.body.as_ref().map_or(&["*/*"][..], |b| b.types));
        }
        if let Some(body) = op.body {
            let schema = self.flavor.reference(&body.definition);
            if self.flavor == Flavor::V3 {
                let content: Map<String, Value> =
                    body.types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
                operation["requestBody"] = json!({"content": content});
                if body.required {
                    operation["requestBody"]["required"] = true.into();
                }
            } else if let Some(parameters) = operation["parameters"].as_array_mut() {
                let mut parameter = json!({"in": "body", "name": "body", "schema": schema});
                if body.required {
                    parameter["required"] = true.into();
                }
                parameters.insert(0, parameter);
            }
            self.references.push(body.definition);
        }
        // As `omitempty` has it.
        if operation["parameters"].as_array().is_some_and(Vec::is_empty)
            && let Some(fields) = operation.as_object_mut()
        {
            fields.remove("parameters");
        }
        operation
    }

    /// What an operation does, in upstream's words (`apiserver/pkg/endpoints/installer.go`).
    fn told(&self, op: &Operation<'_>) -> String {
        let kind = &self.info.kind;
        let sub = if op.suffix == "ForAllNamespaces" { String::new() } else { op.suffix.to_lowercase() };
        let of = if sub.is_empty() { String::new() } else { format!("{sub} of ") };
        match op.verb {
            "connect" => {
                let at = op.suffix[1..].find(char::is_uppercase).map_or(0, |at| at + 1);
                let (method, what) = op.suffix.split_at(at);
                format!("connect {} requests to {} of {kind}", method.to_uppercase(), what.to_lowercase())
            }
            "list" if self.has("watch") => format!("list or watch objects of kind {kind}"),
            "list" => format!("list objects of kind {kind}"),
            "read" => format!("read {of}the specified {kind}"),
            "replace" => format!("replace {of}the specified {kind}"),
            "patch" => format!("partially update {of}the specified {kind}"),
            "deleteCollection" => format!("delete collection of {kind}"),
            verb => format!("{verb} {of}{}", with_article(kind)),
        }
    }

    fn path(&self, names: &[&str], operations: Vec<(&'static str, Value)>) -> Value {
        let all_namespaces = operations
            .first()
            .is_some_and(|(_, op)| op["operationId"].as_str().is_some_and(|id| id.ends_with("ForAllNamespaces")));
        let of_name = format!("name of the {}", self.info.kind);
        let mut parameters: Vec<Value> = names.iter().map(|n| path_parameter(self.flavor, n, &of_name)).collect();
        if self.info.namespaced && !all_namespaces {
            let text = "object name and auth scope, such as for teams and projects";
            parameters.push(path_parameter(self.flavor, "namespace", text));
        }
        parameters.push(query(self.flavor, &("pretty", "string")));
        let mut path: Map<String, Value> = operations.into_iter().map(|(m, op)| (m.to_owned(), op)).collect();
        path.insert("parameters".to_owned(), parameters.into());
        Value::Object(path)
    }
}

fn responses(flavor: Flavor, codes: &[u16], definition: &str, produces: &[&str]) -> Value {
    let mut all = Map::new();
    for code in codes {
        let text = match code {
            201 => "Created",
            202 => "Accepted",
            _ => "OK",
        };
        let schema = if definition.is_empty() { json!({"type": "string"}) } else { flavor.reference(definition) };
        let response = if flavor == Flavor::V2 {
            json!({"description": text, "schema": schema})
        } else {
            let content: Map<String, Value> =
                produces.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
            json!({"description": text, "content": content})
        };
        all.insert(code.to_string(), response);
    }
    all.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}

fn query(flavor: Flavor, (name, ty): &Parameter) -> Value {
    match flavor {
        Flavor::V2 => json!({"in": "query", "name": name, "type": ty, "uniqueItems": true}),
        Flavor::V3 => json!({"in": "query", "name": name, "schema": {"type": ty, "uniqueItems": true}}),
    }
}

fn path_parameter(flavor: Flavor, name: &str, text: &str) -> Value {
    let mut parameter = json!({"in": "path", "name": name, "required": true, "description": text});
    match flavor {
        Flavor::V2 => {
            parameter["type"] = "string".into();
            parameter["uniqueItems"] = true.into();
        }
        Flavor::V3 => parameter["schema"] = json!({"type": "string", "uniqueItems": true}),
    }
    parameter
}

/// Kinds whose deletion is answered with the object instead of a Status (`ReturnDeletedObject` of their stores).
fn returns_deleted(info: &KindInfo) -> bool {
    match (&*info.group, &*info.plural) {
        (
            "",
            "persistentvolumeclaims"
            | "persistentvolumes"
            | "pods"
            | "podtemplates"
            | "resourcequotas"
            | "serviceaccounts"
            | "services",
        ) => true,
        ("resource.k8s.io", _) => true,
        ("storage.k8s.io", plural) => plural != "csistoragecapacities",
        _ => false,
    }
}

/// `a Pod`, `an Event`, `Endpoints`.
fn with_article(kind: &str) -> String {
    match kind.chars().next() {
        _ if kind.ends_with('s') && !kind.ends_with("ss") => kind.to_owned(),
        Some('A' | 'E' | 'I' | 'O' | 'U') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// `apps_v1`, `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let group = camel(group);
    let (first, rest) = group.split_at(group.len().min(1));
    format!("{}{rest}_{version}", first.to_ascii_lowercase())
}

/// `Core`, `Apps`, `RbacAuthorization`: the labels of a group without upstream's own domain.
fn camel(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    group.strip_suffix(".k8s.io").unwrap_or(group).split(['.', '-']).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
