//! `scale`: the replicas of a workload as an `autoscaling/v1` Scale (`pkg/registry/apps/deployment/storage/storage.go` and its
//! siblings). A write is an ordinary update of the workload.

use crate::api_server::{ApiServer, Call};
use crate::codec::{self, Expected};
use crate::managed::{Manager, Owners, Wish};
use crate::options::{FieldValidation, WriteOptions};
use crate::patch::{How, judged, schema_for};
use crate::pipeline::{self, write_of};
use crate::reader::KindRef;
use crate::response::Answer;
use crate::write::{Change, Existing, Wanted};
use crate::{Body, negotiate, status};
use api::Status;
use jiff::Timestamp;
use machinery::apply::{self, Context, Filter, ScaleFields, SchemaRef};
use machinery::field::{FieldError, Path};
use machinery::selector::LabelSelector;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SCALE: Expected<'_> = Expected { group: "autoscaling", version: "v1", kind: "Scale" };

/// GET, PUT and PATCH of `scale`.
pub(crate) async fn answer(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    negotiate::output(&call.head.headers, &call.query, false)?;
    if call.info.verb == "get" {
        let stored = pipeline::existing(server, call, kind).await?;
        let object: Value = serde_json::from_slice(stored.bytes()).map_err(status::internal)?;
        let paths = Paths::of(kind);
        if kind.scale().is_some() && paths.replicas(&object)?.is_none() {
            let at = paths.spec.join(".");
            return Err(status::internal(format!("the spec replicas field \".{at}\" does not exist")));
        }
        return shown_to_clients(&object, kind);
    }
    let is_patch = call.info.verb == "patch";
    let options = WriteOptions::parse(&call.query, if is_patch { "PatchOptions" } else { "UpdateOptions" })?;
    let manager = apply::manager_name(&options.field_manager, call.user_agent());
    let write = write_of(call, kind, "scale", &call.info.name, &options, &manager);
    let body = pipeline::read(body).await?;
    let by = write.manager_at(server);
    let asked = if is_patch {
        Asked::Patch(How::parse(negotiate::media_type(&call.head.headers), &body, &write, by)?)
    } else {
        let sent = codec::to_json(negotiate::input(&call.head.headers)?, body, SCALE)?;
        let mut warnings = Vec::new();
        let scale = codec::decode_value(SCALE, sent, options.field_validation, &mut warnings)?;
        call.warnings.add(warnings);
        check_names(&scale, &call.info.namespace, &call.info.name)?;
        Asked::Put(scale)
    };
    let change = ScaleChange {
        asked,
        kind: kind.clone(),
        namespace: call.info.namespace.clone(),
        name: call.info.name.clone(),
        manager: by.name.into(),
        now: by.now,
        validation: options.field_validation,
        warnings: Mutex::default(),
    };
    let written = server.modify_object(&write, &change).await?;
    let object: Value = serde_json::from_slice(written.bytes()).map_err(status::internal)?;
    shown_to_clients(&object, kind)
}

fn check_names(scale: &Value, namespace: &str, url: &str) -> Result<(), Status> {
    let given = scale["metadata"]["namespace"].as_str().unwrap_or_default();
    if !given.is_empty() && given != namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(status::bad_request(why));
    }
    pipeline::check_name(scale["metadata"]["name"].as_str().unwrap_or_default(), url)
}

/// Owners of a Scale's fields count while it is changed, but are not shown.
fn shown_to_clients(object: &Value, kind: &KindRef) -> Result<Answer, Status> {
    let mut scale = shown(object, kind)?;
    if let Some(meta) = scale["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    Ok(Answer::json(scale.to_string()))
}

/// Where an object has what its Scale shows.
struct Paths<'a> {
    spec: Vec<&'a str>,
    status: Vec<&'a str>,
    /// A LabelSelector or map in built-in kinds, text in custom resources.
    selector: Option<Vec<&'a str>>,
}

impl<'a> Paths<'a> {
    fn of(kind: &'a KindRef) -> Self {
        match kind.scale() {
            None => Paths {
                spec: vec!["spec", "replicas"],
                status: vec!["status", "replicas"],
                selector: Some(vec!["spec", "selector"]),
            },
            Some(paths) => {
                let names = |path: &'a Vec<String>| path.iter().map(String::as_str).collect();
                Paths {
                    spec: names(&paths.spec),
                    status: names(&paths.status),
                    selector: paths.selector.as_ref().map(names),
                }
            }
        }
    }

    fn at<'v>(object: &'v Value, path: &[&str]) -> Option<&'v Value> {
        path.iter().try_fold(object, |value, name| value.get(name)).filter(|v| !v.is_null())
    }

    /// The wanted replicas, if the object says.
    fn replicas(&self, object: &Value) -> Result<Option<i64>, Status> {
        let wrong =
            |v: &Value| status::internal(format!(".{} accessor error: {v} is not an integer", self.spec.join(".")));
        Self::at(object, &self.spec).map(|v| v.as_i64().ok_or_else(|| wrong(v))).transpose()
    }

    fn set_replicas(&self, object: &mut Value, replicas: i64) {
        let mut at = object;
        for name in &self.spec {
            if !at.is_object() {
                *at = json!({});
            }
            at = &mut at[*name];
        }
        *at = replicas.into();
    }
}

enum Asked {
    Put(Value),
    Patch(How),
}

struct ScaleChange {
    asked: Asked,
    kind: KindRef,
    /// Of the URL.
    namespace: String,
    name: String,
    manager: String,
    now: Timestamp,
    validation: FieldValidation,
    warnings: Mutex<Vec<String>>,
}

impl Change for ScaleChange {
    fn wanted(&self, existing: Option<&Existing<'_>>) -> Result<Wanted, Status> {
        let Some(existing) = existing else {
            return Err(status::not_found(self.kind.info(), &self.name));
        };
        let object: Value = serde_json::from_slice(existing.whole).map_err(status::internal)?;
        let api_version = self.kind.info().api_version();
        let paths = Paths::of(&self.kind);
        let old = scale_of(&object, &api_version, &paths)?;
        let new = self.scale_after(&old)?;
        if paths.replicas(&object)?.is_none() && new["spec"]["replicas"].is_null() && self.kind.scale().is_some() {
            let at = paths.spec.join(".");
            return Err(status::bad_request(format!("the spec replicas field \".{at}\" cannot be empty")));
        }
        let replicas = check(&new, &self.name)?;
        let fields = ScaleFields { api_version: &api_version, replicas: &paths.spec };
        let entries = fields.to_object(object["metadata"].get("managedFields"), new["metadata"].get("managedFields"));
        let mut changed = object;
        paths.set_replicas(&mut changed, replicas);
        // Without one of its own the change is made on what there is.
        if new["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
            changed["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"].clone();
        }
        if let Some(map) = changed["metadata"].as_object_mut() {
            map.remove("managedFields");
        }
        let bytes = serde_json::to_vec(&changed).map_err(status::internal)?;
        let object = self.kind.decode(&bytes).map_err(status::internal)?;
        let uid = new["metadata"]["uid"].as_str().filter(|u| !u.is_empty()).map(str::to_owned);
        Ok(Wanted { object, owners: Wish::Decided(Owners::of_value(entries.as_ref())), uid, sent: None })
    }

    fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}

impl ScaleChange {
    /// The Scale that is asked for, with its owners.
    fn scale_after(&self, old: &Value) -> Result<Value, Status> {
        let by = Manager { name: &self.manager, subresource: "scale", now: self.now };
        match &self.asked {
            Asked::Put(new) => {
                let mut new = new.clone();
                new["apiVersion"] = "autoscaling/v1".into();
                new["kind"] = "Scale".into();
                with_context(by, |ctx| apply::update(ctx, Some(old), &mut new));
                Ok(new)
            }
            Asked::Patch(How::Patch(patch)) => {
                let patched = patch.apply(schema_for(SCALE), old).map_err(|e| e.to_status())?;
                let patched = patched.to_string().into_bytes();
                let read = codec::read_value(SCALE, &patched);
                let (mut new, warnings) = judged(patch, schema_for(SCALE), &patched, read, self.validation)?;
                *self.warnings.lock() = warnings;
                check_names(&new, &self.namespace, &self.name)?;
                with_context(by, |ctx| apply::update(ctx, Some(old), &mut new));
                Ok(new)
            }
            Asked::Patch(How::Apply { config, force, .. }) => {
                let applied = with_context(by, |ctx| apply::apply(ctx, Some(old), config, *force));
                let new = applied.ok_or_else(|| status::internal("Scale has no schema"))?.map_err(|e| e.to_status())?;
                check_names(&new, &self.namespace, &self.name)?;
                Ok(new)
            }
        }
    }
}

fn with_context<T>(manager: Manager<'_>, f: impl FnOnce(&Context<'_>) -> T) -> Option<T> {
    let (schema, ty) = schema_for(SCALE)?;
    Some(f(&Context {
        root: SchemaRef { schema, ty },
        api_version: "autoscaling/v1",
        kind: "Scale",
        subresource: manager.subresource,
        manager: manager.name,
        now: manager.now,
        filter: &Filter::All,
        convert: None,
    }))
}

/// `ValidateScale`, and the replicas.
fn check(scale: &Value, name: &str) -> Result<i64, Status> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| status::bad_request("spec.replicas must be an integer"))?,
    };
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(status::invalid("autoscaling", "Scale", name, &vec![error]));
    }
    Ok(replicas)
}

/// The Scale that an object of `kind` shows, for admission.
pub(crate) fn shown(object: &Value, kind: &KindRef) -> Result<Value, Status> {
    scale_of(object, &kind.info().api_version(), &Paths::of(kind))
}

/// Puts the replicas of a Scale that admission changed into its object.
pub(crate) fn put_back(scale: &Value, object: &mut Value, kind: &KindRef) {
    Paths::of(kind).set_replicas(object, scale["spec"]["replicas"].as_i64().unwrap_or(0));
}

/// The Scale of a workload.
fn scale_of(object: &Value, api_version: &str, paths: &Paths<'_>) -> Result<Value, Status> {
    let meta = &object["metadata"];
    let mut own = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[field].is_null() {
            own[field] = meta[field].clone();
        }
    }
    let fields = ScaleFields { api_version, replicas: &paths.spec };
    if let Some(entries) = fields.to_scale(meta.get("managedFields")) {
        own["managedFields"] = entries;
    }
    let mut spec = json!({});
    if let Some(replicas) = paths.replicas(object)?.filter(|r| *r != 0) {
        spec["replicas"] = replicas.into();
    }
    let replicas = Paths::at(object, &paths.status).and_then(Value::as_i64).unwrap_or(0);
    let mut state = json!({"replicas": replicas});
    let selector = match paths.selector.as_ref().and_then(|path| Paths::at(object, path)) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(selector) => selector_text(selector)?,
    };
    if !selector.is_empty() {
        state["selector"] = selector.into();
    }
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": own, "spec": spec, "status": state}))
}

/// A LabelSelector, or the bare map of a ReplicationController, as text.
fn selector_text(selector: &Value) -> Result<String, Status> {
    if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        let parsed =
            <api::LabelSelector as api::Codec>::decode(selector.to_string().as_bytes()).map_err(status::internal)?;
        return Ok(LabelSelector::from_api(Some(&parsed)).map_err(status::internal)?.to_string());
    }
    let pairs = selector.as_object().into_iter().flatten();
    let set: BTreeMap<String, String> = pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
    Ok(LabelSelector::from_set(&set).to_string())
}
