//! The environments of admission: what match conditions of webhooks, and the expressions of policies, may name
//! (`apiserver/pkg/admission/plugin/cel/compile.go`, `…/composition.go`).

use super::types::{Decl, ObjectType, Type};
use super::{Env, Program, compile};

/// What an expression of admission sees.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sees {
    /// `params`
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`
    pub authorizer: bool,
    /// `Object{…}`, `JSONPatch{…}`
    pub patch_types: bool,
}

/// The environment with `object` and `oldObject` of any type.
pub fn env(sees: Sees) -> Env {
    typed_env(sees, Type::Dyn, Type::Dyn)
}

/// The environment for checking a policy against a kind.
pub fn typed_env(sees: Sees, object: impl Into<Decl>, params: impl Into<Decl>) -> Env {
    let object = object.into();
    let mut env = Env::new()
        .with("object", object.clone())
        .with("oldObject", object)
        .with("namespaceObject", namespace())
        .with("request", request());
    if sees.params {
        env = env.with("params", params);
    }
    if sees.authorizer {
        env = env
            .with("authorizer", Type::Library("kubernetes.authorization.Authorizer"))
            .with("authorizer.requestResource", Type::Library("kubernetes.authorization.ResourceCheck"));
    }
    if sees.patch_types {
        env = env.with_patch_types();
    }
    env
}

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), Decl::from(ty.clone())));
    Type::Object(std::sync::Arc::new(ObjectType::new(name, fields)))
}

fn request() -> Type {
    use Type::{Bool, Dyn, String};
    let kind = object("kubernetes.GroupVersionKind", &[("group", String), ("version", String), ("kind", String)]);
    let resource =
        object("kubernetes.GroupVersionResource", &[("group", String), ("version", String), ("resource", String)]);
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", String),
            ("uid", String),
            ("groups", Type::list(String)),
            ("extra", Type::map(String, Type::list(String))),
        ],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", String),
            ("name", String),
            ("namespace", String),
            ("operation", String),
            ("userInfo", user),
            ("dryRun", Bool),
            ("options", Dyn),
        ],
    )
}

fn namespace() -> Type {
    use Type::{Int, String, Timestamp};
    let texts = || Type::map(String, String);
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", String),
            ("generateName", String),
            ("namespace", String),
            ("labels", texts()),
            ("annotations", texts()),
            ("UID", String),
            ("creationTimestamp", Timestamp),
            ("deletionGracePeriodSeconds", Int),
            ("deletionTimestamp", Timestamp),
            ("generation", Int),
            ("resourceVersion", String),
            ("finalizers", Type::list(String)),
        ],
    );
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", String),
            ("type", String),
            ("lastTransitionTime", Timestamp),
            ("message", String),
            ("reason", String),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(String))]);
    let status = object("kubernetes.NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", String)]);
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
}

/// The prefix of variables that a policy defines.
pub const VARIABLES: &str = "variables";

/// `env` with what a policy defined so far: names with their types; [`Type::Dyn`] for those that did not compile.
pub fn with_variables(mut env: Env, defined: &[(String, Type)]) -> Env {
    let fields = defined.iter().map(|(name, ty)| (name.clone(), Decl::from(ty.clone())));
    env = env.with(VARIABLES, Decl::object(ObjectType::new("kubernetes.variables", fields)));
    for (name, ty) in defined {
        env = env.with(&format!("{VARIABLES}.{name}"), ty.clone());
    }
    env
}

/// Compiles an expression that must be of one of these types; none means any. The error is upstream's text.
pub fn compile_as(source: &str, env: &Env, wanted: &[Type]) -> Result<Program, String> {
    let program = compile(source, env).map_err(|error| format!("compilation failed: {error}"))?;
    let found = program.output_type();
    if wanted.is_empty() || wanted.contains(found) {
        return Ok(program);
    }
    let found = found.name_with_parameters();
    let wanted: Vec<String> = wanted.iter().map(Type::name_with_parameters).collect();
    Err(match wanted.as_slice() {
        [one] => format!("must evaluate to {one} but got {found}"),
        many => format!("must evaluate to one of [{}] but got {found}", many.join(" ")),
    })
}

/// `JSONPatch`, of which a mutation makes a list.
pub fn json_patch_type() -> Type {
    Type::Object(super::library::json_patch_type())
}
