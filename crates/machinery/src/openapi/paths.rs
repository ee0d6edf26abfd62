//! Operations of the served resources: which verbs each path has, of which kind, with which parameters.
//!
//! What clients look for: `kubectl explain` finds the kind of a resource on its collection path, `kubectl apply` looks
//! for `fieldValidation` and for strategic merge patch on the PATCH of a kind, others for `x-kubernetes-action`.

use super::Served;
use super::definitions::{Flavor, META};
use crate::kinds::{KindInfo, Subresource};
use crate::schema::builtin;
use serde_json::{Map, Value, json};

const OBJECT: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

type Parameter = (&'static str, &'static str);

/// What is connected to through a subresource, whose kind only describes the query.
struct Connection {
    methods: &'static [&'static str],
    parameters: &'static [Parameter],
    /// What follows in the path belongs to the other end.
    takes_path: bool,
}

/// Of the kind of a subresource.
fn connection(kind: &str) -> Option<Connection> {
    const STREAMS: &[&str] = &["get", "post"];
    const ALL: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch"];
    let streams = |parameters| Connection { methods: STREAMS, parameters, takes_path: false };
    Some(match kind {
        "PodAttachOptions" => streams(&PROCESS[1..]),
        "PodExecOptions" => streams(PROCESS),
        "PodPortForwardOptions" => streams(&[("ports", "integer")]),
        "PodProxyOptions" | "ServiceProxyOptions" | "NodeProxyOptions" => {
            Connection { methods: ALL, parameters: &[("path", "string")], takes_path: true }
        }
        _ => return None,
    })
}

const PROCESS: &[Parameter] = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];

const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
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
        paths.push((format!("{base}/{}", info.plural), builder.path(&info.kind, &[], vec![("get", list)])));
    }
    paths.push((collection, builder.collection()));
    if ["get", "update", "patch", "delete"].iter().any(|v| builder.has(v)) {
        paths.push((item.clone(), builder.item()));
    }
    for sub in &info.subresources {
        let path = format!("{item}/{}", sub.name);
        let Some(connection) = connection(&sub.kind) else {
            paths.push((path, builder.subresource(sub)));
            continue;
        };
        if connection.takes_path {
            paths.push((format!("{path}/{{path}}"), builder.connection(sub, &connection, "WithPath")));
        }
        paths.push((path, builder.connection(sub, &connection, "")));
    }
    // Upstream's documents of custom resources have no such paths.
    if builder.has("watch") && served.custom.is_none() {
        paths.extend(builder.watches(&base, scope));
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

    /// The paths by which watches began before lists had the parameter.
    fn watches(&mut self, base: &str, scope: &str) -> Vec<(String, Value)> {
        let plural = &self.info.plural;
        let mut paths = Vec::new();
        if self.info.namespaced {
            paths.push((format!("{base}/watch/{plural}"), self.watch(&[], "ListForAllNamespaces", "watchlist")));
        }
        let collection = format!("{base}/watch{scope}/{plural}");
        if self.has("get") {
            paths.push((format!("{collection}/{{name}}"), self.watch(&["name"], "", "watch")));
        }
        paths.push((collection, self.watch(&[], "List", "watchlist")));
        paths
    }

    fn watch(&mut self, names: &[&str], suffix: &str, action: &str) -> Value {
        let operation = self.operation(Operation {
            verb: "watch",
            suffix,
            action,
            kind: self.kind(),
            parameters: Vec::new(),
            body: None,
            codes: &[200],
            answer: &format!("{META}WatchEvent"),
            produces: OBJECT.iter().chain(STREAM).copied().collect(),
        });
        let mut path = self.path(&self.info.kind, names, vec![("get", operation)]);
        if let Value::Array(mut parameters) = path["parameters"].take() {
            parameters.extend(LIST.iter().map(|p| query(self.flavor, p)));
            path["parameters"] = by_name(parameters);
        }
        path
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
        self.path(&self.info.kind, &[], operations)
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
        self.path(&self.info.kind, &["name"], operations)
    }

    fn subresource(&mut self, sub: &'a Subresource) -> Value {
        let (group, version) = match (sub.group.as_ref(), sub.version.as_ref()) {
            ("", "") => (self.info.group.as_ref(), self.info.version.as_ref()),
            other => other,
        };
        let suffix = capital(&sub.name);
        let definition = kind_definition(self.served, group, version, &sub.kind);
        let known = self.served.custom.is_some() || builtin().by_kind(group, version, &sub.kind).is_some();
        let is_log = sub.name == "log";
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
            let plain = !known || is_log;
            let operation = self.operation(Operation {
                verb: id,
                suffix: &suffix,
                action,
                kind: (group, version, &sub.kind),
                parameters: parameters.to_vec(),
                body: if plain { None } else { body },
                codes: match method {
                    "post" if !plain => &[200, 201, 202],
                    "put" | "patch" if !plain => &[200, 201],
                    _ => &[200],
                },
                answer: if plain { "" } else { &definition },
                produces: match (is_log, plain) {
                    (true, _) => std::iter::once("text/plain").chain(OBJECT.iter().copied()).collect(),
                    (false, true) => vec!["*/*"],
                    (false, false) => OBJECT.to_vec(),
                },
            });
            operations.push((method, operation));
        }
        // Upstream names the object after what is read or written.
        let kind = if is_log { &self.info.kind } else { &sub.kind };
        self.path(kind, &["name"], operations)
    }

    fn connection(&mut self, sub: &'a Subresource, connection: &Connection, with: &str) -> Value {
        let kind = (self.info.group.as_ref(), self.info.version.as_ref(), sub.kind.as_ref());
        let mut path = Map::new();
        for method in connection.methods {
            let operation = self.operation(Operation {
                verb: "connect",
                suffix: &format!("{}{}{with}", capital(method), capital(&sub.name)),
                action: "connect",
                kind,
                parameters: Vec::new(),
                body: None,
                codes: &[200],
                answer: "",
                produces: vec!["*/*"],
            });
            path.insert((*method).to_owned(), operation);
        }
        let mut parameters = self.path_parameters(&["name"], &sub.kind, self.info.namespaced);
        if !with.is_empty() {
            parameters.push(path_parameter(self.flavor, "path", "path to the resource"));
        }
        parameters.extend(connection.parameters.iter().map(|p| query(self.flavor, p)));
        path.insert("parameters".to_owned(), by_name(parameters));
        Value::Object(path)
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
        let scope = if self.info.namespaced && !op.suffix.ends_with("ForAllNamespaces") { "Namespaced" } else { "" };
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
                let what = what.trim_end_matches("WithPath").to_lowercase();
                format!("connect {} requests to {what} of {kind}", method.to_uppercase())
            }
            "watch" if op.suffix.is_empty() => format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
            "watch" => format!(
                "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
            ),
            "list" if self.has("watch") => format!("list or watch objects of kind {kind}"),
            "list" => format!("list objects of kind {kind}"),
            "read" => format!("read {of}the specified {kind}"),
            "replace" => format!("replace {of}the specified {kind}"),
            "patch" => format!("partially update {of}the specified {kind}"),
            "deleteCollection" => format!("delete collection of {kind}"),
            verb => format!("{verb} {of}{}", with_article(kind)),
        }
    }

    fn path_parameters(&self, names: &[&str], kind: &str, namespaced: bool) -> Vec<Value> {
        let of_name = format!("name of the {kind}");
        let mut parameters: Vec<Value> = names.iter().map(|n| path_parameter(self.flavor, n, &of_name)).collect();
        if namespaced {
            let text = "object name and auth scope, such as for teams and projects";
            parameters.push(path_parameter(self.flavor, "namespace", text));
        }
        parameters
    }

    /// What all operations of a path take in their queries, stands with the path.
    fn path(&self, kind: &str, names: &[&str], mut operations: Vec<(&'static str, Value)>) -> Value {
        let all_namespaces = operations
            .first()
            .is_some_and(|(_, op)| op["operationId"].as_str().is_some_and(|id| id.ends_with("ForAllNamespaces")));
        let mut parameters = self.path_parameters(names, kind, self.info.namespaced && !all_namespaces);
        parameters.push(query(self.flavor, &("pretty", "string")));
        parameters.extend(take_common(&mut operations));
        let parameters = by_name(parameters);
        let mut path: Map<String, Value> = operations.into_iter().map(|(m, op)| (m.to_owned(), op)).collect();
        path.insert("parameters".to_owned(), parameters);
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

/// Takes the parameters of queries that all operations have.
fn take_common(operations: &mut [(&'static str, Value)]) -> Vec<Value> {
    let all: Vec<Vec<Value>> =
        operations.iter().map(|(_, op)| op["parameters"].as_array().cloned().unwrap_or_default()).collect();
    let Some((first, others)) = all.split_first() else { return Vec::new() };
    let everywhere = |p: &Value| p["in"] == "query" && others.iter().all(|other| other.contains(p));
    let common: Vec<Value> = first.iter().filter(|p| everywhere(p)).cloned().collect();
    for (_, operation) in operations.iter_mut().filter(|_| !common.is_empty()) {
        let Some(fields) = operation.as_object_mut() else { continue };
        if let Some(Value::Array(parameters)) = fields.get_mut("parameters") {
            parameters.retain(|p| !common.contains(p));
            // As `omitempty` has it.
            if parameters.is_empty() {
                fields.remove("parameters");
            }
        }
    }
    common
}

fn by_name(mut parameters: Vec<Value>) -> Value {
    parameters.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    parameters.into()
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
