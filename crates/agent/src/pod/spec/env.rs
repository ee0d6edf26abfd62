//! A container's environment (`makeEnvironmentVariables`, `pkg/kubelet/envvars`).
//!
//! Differs: the order is the order of the spec, then the services by name; upstream's is random.

use super::env_file;
use super::expand::expand;
use super::fields::{self, Facts, FieldError};
use crate::pod::view;
use api::k8s::api::core::v1::{ConfigMap, Container, EnvVarSource, FileKeySelector, Pod, Secret, Service};
use api::meta::MetaExt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// Why an environment cannot be formed, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvError {
    /// There is no such ConfigMap.
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    /// There is no such Secret.
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    /// The ConfigMap lacks the key.
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey {
        /// The key.
        key: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The Secret lacks the key.
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey {
        /// The key.
        key: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The downward API refuses.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The pod has no such volume, or none with files.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    /// The file is not there, or not a list of variables.
    #[error("couldn't parse env file")]
    BadFile,
    /// The file lacks the key.
    #[error("environment variable key {key:?} not found in file {file:?}")]
    NoFileKey {
        /// The key.
        key: String,
        /// The file, as the node sees it.
        file: PathBuf,
    },
}

/// A file of one of the pod's volumes.
#[derive(Debug, Clone)]
pub struct EnvFile {
    /// Where it is on the node.
    pub path: PathBuf,
    /// What is in it; `None` if it cannot be read.
    pub text: Option<String>,
}

/// The objects that a pod refers to; an absent key means "not there".
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// By name, in the pod's namespace.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name, in the pod's namespace.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Of the pod's namespace, and `default/kubernetes`.
    pub services: Vec<Arc<Service>>,
    /// By volume and path.
    pub files: BTreeMap<(String, String), EnvFile>,
}

/// Names of ConfigMaps and Secrets, in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

/// What a container's environment refers to.
pub fn references(c: &Container) -> References {
    let mut out = References::default();
    for from in c.env_from.iter().flatten() {
        out.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        out.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        out.config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        out.secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    out
}

/// Names in order, each once; a later value replaces an earlier one in its place.
#[derive(Default)]
struct Ordered {
    names: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Ordered {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.names.push(name.to_owned());
        }
    }
    fn into_pairs(mut self) -> Vec<(String, String)> {
        self.names.iter().map(|n| (n.clone(), self.values.remove(n).unwrap_or_default())).collect()
    }
}

/// The container's variables. Those of the image are not among them.
pub fn environment(
    pod: &Pod,
    c: &Container,
    sources: &Sources,
    facts: &Facts,
) -> Result<Vec<(String, String)>, EnvError> {
    let links = view::spec(pod).enable_service_links != Some(false);
    let services = service_variables(pod.namespace(), links, &sources.services);
    let mut out = Ordered::default();
    for (name, value) in env_from(c, sources)? {
        out.set(&name, value);
    }
    for var in c.env.iter().flatten() {
        let value = match (var.value.as_deref().filter(|v| !v.is_empty()), &var.value_from) {
            (Some(text), _) => {
                Some(expand(text, |name| out.values.get(name).or_else(|| services.values.get(name)).cloned()))
            }
            (None, Some(source)) => resolve(pod, c, source, sources, facts)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            out.set(&var.name, value);
        }
    }
    for (name, value) in services.into_pairs() {
        if !out.values.contains_key(&name) {
            out.set(&name, value);
        }
    }
    Ok(out.into_pairs())
}

fn env_from(c: &Container, sources: &Sources) -> Result<Vec<(String, String)>, EnvError> {
    let mut out = Vec::new();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match sources.config_maps.get(&r.name) {
                Some(map) => out.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone()))),
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(r.name.clone())),
            }
        } else if let Some(r) = &from.secret_ref {
            match sources.secrets.get(&r.name) {
                Some(secret) => out.extend(
                    secret
                        .data
                        .iter()
                        .flatten()
                        .map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())),
                ),
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(r.name.clone())),
            }
        }
    }
    Ok(out)
}

/// `None`: optional and absent, so the variable is not set.
fn resolve(
    pod: &Pod,
    c: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    facts: &Facts,
) -> Result<Option<String>, EnvError> {
    if let Some(selector) = &source.field_ref {
        return Ok(Some(fields::field(pod, selector, facts)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        return Ok(Some(fields::resource(pod, Some(c), selector, facts)?));
    }
    if let Some(r) = &source.config_map_key_ref {
        let Some(map) = sources.config_maps.get(&r.name) else {
            return if r.optional == Some(true) { Ok(None) } else { Err(EnvError::NoConfigMap(r.name.clone())) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if r.optional == Some(true) => Ok(None),
            None => Err(EnvError::NoConfigMapKey {
                key: r.key.clone(),
                namespace: pod.namespace().to_owned(),
                name: r.name.clone(),
            }),
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let Some(secret) = sources.secrets.get(&r.name) else {
            return if r.optional == Some(true) { Ok(None) } else { Err(EnvError::NoSecret(r.name.clone())) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if r.optional == Some(true) => Ok(None),
            None => Err(EnvError::NoSecretKey {
                key: r.key.clone(),
                namespace: pod.namespace().to_owned(),
                name: r.name.clone(),
            }),
        };
    }
    if let Some(r) = &source.file_key_ref {
        return file_key(r, sources);
    }
    Ok(Some(String::new()))
}

/// An empty value counts as none.
fn file_key(r: &FileKeySelector, sources: &Sources) -> Result<Option<String>, EnvError> {
    let file = sources.files.get(&(r.volume_name.clone(), r.path.clone()));
    let file = file.ok_or_else(|| EnvError::NoVolume(r.volume_name.clone()))?;
    let text = file.text.as_deref().ok_or(EnvError::BadFile)?;
    match env_file::value(text, &r.key).map_err(|_| EnvError::BadFile)? {
        Some(value) if !value.is_empty() => Ok(Some(value)),
        _ if r.optional == Some(true) => Ok(None),
        _ => Err(EnvError::NoFileKey { key: r.key.clone(), file: file.path.clone() }),
    }
}

/// Variables about the services that a pod of `namespace` sees (`getServiceEnvVarMap`, `envvars.FromServices`).
fn service_variables(namespace: &str, links: bool, services: &[Arc<Service>]) -> Ordered {
    let mut visible: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let is_master = service.namespace() == "default" && service.name() == "kubernetes";
        if is_master {
            visible.entry(service.name()).or_insert(service);
        } else if links && service.namespace() == namespace {
            visible.insert(service.name(), service);
        }
    }
    let mut out = Ordered::default();
    visible.values().for_each(|s| one_service(&mut out, s));
    out
}

fn one_service(out: &mut Ordered, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first().filter(|_| !ip.is_empty() && ip != "None") else { return };
    let upper = |s: &str| s.replace('-', "_").to_uppercase();
    let name = upper(service.name());
    out.set(&format!("{name}_SERVICE_HOST"), ip.to_owned());
    out.set(&format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(label) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.set(&format!("{name}_SERVICE_PORT_{}", upper(label)), port.port.to_string());
        }
    }
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            out.set(&format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.set(&prefix, url);
        out.set(&format!("{prefix}_PROTO"), protocol.to_lowercase());
        out.set(&format!("{prefix}_PORT"), port.port.to_string());
        out.set(&format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::{object, pod};
    use expect_test::{Expect, expect};

    fn check_env(container: &str, want: Expect) {
        let pod = pod(&format!(r#"{{"containers":[{container}],"nodeName":"n1"}}"#));
        let config: ConfigMap = object(r#"{"metadata":{"name":"cfg"},"data":{"color":"blue","size":"$(HOME)"}}"#);
        let secret: Secret = object(r#"{"metadata":{"name":"pw"},"data":{"key":"aHVudGVyMg=="}}"#);
        let service: Service = object(
            r#"{"metadata":{"name":"redis-master","namespace":"default"},
                "spec":{"clusterIP":"10.43.0.11","ports":[{"name":"p","port":6379,"protocol":"TCP"}]}}"#,
        );
        let sources = Sources {
            config_maps: [("cfg".to_owned(), Arc::new(config))].into(),
            secrets: [("pw".to_owned(), Arc::new(secret))].into(),
            services: vec![Arc::new(service)],
            files: [
                (("work", "env"), Some("A='1'\nEMPTY=''\n".to_owned())),
                (("work", "bad"), Some("noise".to_owned())),
                (("work", "gone"), None),
            ]
            .map(|((volume, path), text)| {
                ((volume.to_owned(), path.to_owned()), EnvFile { path: PathBuf::from("/v").join(path), text })
            })
            .into(),
        };
        let c = &view::app_containers(&pod)[0];
        let got = match environment(&pod, c, &sources, &Facts::default()) {
            Ok(env) => env.iter().map(|(k, v)| format!("{k}={v}\n")).collect(),
            Err(e) => format!("error: {e}\n"),
        };
        want.assert_eq(&got);
    }

    #[test]
    fn declared_variables_win_and_expand_earlier_ones_and_services() {
        check_env(
            r#"{"name":"a","envFrom":[{"prefix":"C_","configMapRef":{"name":"cfg"}}],
                "env":[{"name":"A","value":"1"},{"name":"B","value":"$(A)-$(C_color)-$(NOPE)-$(REDIS_MASTER_SERVICE_PORT)"},
                       {"name":"P","valueFrom":{"secretKeyRef":{"name":"pw","key":"key"}}},
                       {"name":"N","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}},
                       {"name":"O","valueFrom":{"configMapKeyRef":{"name":"absent","key":"k","optional":true}}},
                       {"name":"E"}]}"#,
            expect![[r#"
                C_color=blue
                C_size=$(HOME)
                A=1
                B=1-blue-$(NOPE)-6379
                P=hunter2
                N=n1
                E=
                REDIS_MASTER_SERVICE_HOST=10.43.0.11
                REDIS_MASTER_SERVICE_PORT=6379
                REDIS_MASTER_SERVICE_PORT_P=6379
                REDIS_MASTER_PORT=tcp://10.43.0.11:6379
                REDIS_MASTER_PORT_6379_TCP=tcp://10.43.0.11:6379
                REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
                REDIS_MASTER_PORT_6379_TCP_PORT=6379
                REDIS_MASTER_PORT_6379_TCP_ADDR=10.43.0.11
            "#]],
        );
    }

    #[test]
    fn missing_objects_and_keys_are_named() {
        check_env(
            r#"{"name":"a","envFrom":[{"configMapRef":{"name":"gone"}}]}"#,
            expect![[r#"
                error: configmap "gone" not found
            "#]],
        );
        check_env(
            r#"{"name":"a","env":[{"name":"X","valueFrom":{"secretKeyRef":{"name":"pw","key":"nope"}}}]}"#,
            expect![[r#"
                error: couldn't find key nope in Secret default/pw
            "#]],
        );
    }

    #[test]
    fn variables_come_from_files_of_volumes() {
        check_env(
            r#"{"name":"a","env":[{"name":"X","valueFrom":{"fileKeyRef":{"volumeName":"work","path":"env","key":"A"}}},
                {"name":"Y","valueFrom":{"fileKeyRef":{"volumeName":"work","path":"env","key":"B","optional":true}}}]}"#,
            expect![[r#"
                X=1
                REDIS_MASTER_SERVICE_HOST=10.43.0.11
                REDIS_MASTER_SERVICE_PORT=6379
                REDIS_MASTER_SERVICE_PORT_P=6379
                REDIS_MASTER_PORT=tcp://10.43.0.11:6379
                REDIS_MASTER_PORT_6379_TCP=tcp://10.43.0.11:6379
                REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
                REDIS_MASTER_PORT_6379_TCP_PORT=6379
                REDIS_MASTER_PORT_6379_TCP_ADDR=10.43.0.11
            "#]],
        );
        for (volume, path, key, want) in [
            (
                "work",
                "env",
                "EMPTY",
                expect![[r#"
                error: environment variable key "EMPTY" not found in file "/v/env"
            "#]],
            ),
            (
                "work",
                "bad",
                "A",
                expect![[r#"
                error: couldn't parse env file
            "#]],
            ),
            (
                "work",
                "gone",
                "A",
                expect![[r#"
                error: couldn't parse env file
            "#]],
            ),
            (
                "none",
                "env",
                "A",
                expect![[r#"
                error: cannot find the volume "none" referenced by FileKeyRef
            "#]],
            ),
        ] {
            let reference = format!(r#"{{"volumeName":"{volume}","path":"{path}","key":"{key}"}}"#);
            check_env(
                &format!(r#"{{"name":"a","env":[{{"name":"X","valueFrom":{{"fileKeyRef":{reference}}}}}]}}"#),
                want,
            );
        }
    }
}
