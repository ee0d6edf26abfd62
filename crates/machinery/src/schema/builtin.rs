//! The built-in types, loaded once from `data/schema.txt` (made by `cargo xtask codegen`, which documents the format).
//!
//! Invariant: every name borrows from the text compiled into the binary; a type that occurs twice is kept once.
//! Differs from upstream: no generated code per type; OpenAPI and protobuf share one table.

use super::{Field, ListTopology, PatchStrategy, Scalar, Schema, Struct, Type, TypeId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The types of the built-in API with their indexes.
#[derive(Debug)]
pub struct Builtin {
    /// All types.
    pub schema: Schema,
    names: HashMap<&'static str, TypeId>,
    kinds: HashMap<(&'static str, &'static str, &'static str), TypeId>,
    everywhere: Vec<(&'static str, TypeId)>,
    messages: HashMap<TypeId, Message>,
    untyped: HashMap<TypeId, Untyped>,
}

/// `Any` types that protobuf tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Untyped {
    RawExtension,
    FieldsV1,
    Json,
    JsonSchemaPropsOrArray,
    JsonSchemaPropsOrBool,
    JsonSchemaPropsOrStringArray,
}

/// The protobuf side of a [`Struct`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    /// Sorted by number.
    pub(crate) fields: Vec<ProtoField>,
}

/// One field of a [`Message`].
#[derive(Debug, Clone)]
pub(crate) struct ProtoField {
    pub(crate) number: u32,
    pub(crate) content: Content,
}

/// What a field of a message holds.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A field of the struct.
    Field {
        /// Index into [`Struct::fields`].
        index: usize,
        presence: Presence,
        /// A list in a message of its own (a named slice type in Go).
        wrapped: bool,
    },
    /// A message whose fields JSON inlines.
    Inline(Message),
}

/// Whether Go can tell "zero" from "absent", and what JSON shows of a zero value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// A pointer: absent or there, zero or not.
    Pointer,
    /// A plain value that JSON leaves out when zero.
    OmitZero,
    /// A plain value that is always in JSON.
    Always,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| load(include_str!("../../data/schema.txt")));

/// The built-in types.
pub fn builtin() -> &'static Builtin {
    &BUILTIN
}

// === impl Builtin ===

impl Builtin {
    /// The type of an OpenAPI definition, e.g. `io.k8s.api.core.v1.Pod`.
    pub fn by_name(&self, definition: &str) -> Option<TypeId> {
        self.names.get(definition).copied()
    }

    /// The type of a kind. `DeleteOptions` and `WatchEvent` are found in every group and version.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let found = self.kinds.get(&(group, version, kind)).copied();
        found.or_else(|| self.everywhere.iter().find(|(k, _)| *k == kind).map(|(_, id)| *id))
    }

    /// Like [`Builtin::by_kind`], from an object's `apiVersion` and `kind`.
    pub fn by_api_version(&self, api_version: &str, kind: &str) -> Option<TypeId> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.by_kind(group, version, kind)
    }

    /// The struct behind an id, if it is one.
    pub fn structure(&self, id: TypeId) -> Option<&Struct> {
        match self.schema.get(id) {
            Type::Struct(s) => Some(s),
            _ => None,
        }
    }

    /// Definition names with their types, in no particular order.
    pub fn definitions(&self) -> impl Iterator<Item = (&'static str, TypeId)> + '_ {
        self.names.iter().map(|(name, id)| (*name, *id))
    }

    /// Groups, versions and kinds with their types, without the kinds of every group; in no particular order.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, TypeId)> + '_ {
        self.kinds.iter().map(|((g, v, k), id)| (*g, *v, *k, *id))
    }

    /// Kinds that belong to every group and version (`DeleteOptions`, `WatchEvent`).
    pub fn everywhere(&self) -> &[(&'static str, TypeId)] {
        &self.everywhere
    }

    pub(crate) fn message(&self, id: TypeId) -> Option<&Message> {
        self.messages.get(&id)
    }

    /// The struct of a schema that stands where something else could, too (`items`, `additionalProperties`).
    pub(crate) fn inner(&self, id: TypeId) -> Option<TypeId> {
        const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let is_schema = |u| matches!(u, Untyped::JsonSchemaPropsOrArray | Untyped::JsonSchemaPropsOrBool);
        self.untyped(id).filter(|u| is_schema(*u)).and_then(|_| self.by_name(SCHEMA))
    }

    pub(crate) fn untyped(&self, id: TypeId) -> Option<Untyped> {
        self.untyped.get(&id).copied()
    }
}

// === loading ===

/// The table is committed beside this file and tested, so a flaw in it is a bug of ours and panics.
fn load(text: &'static str) -> Builtin {
    let mut loader = Loader::default();
    loader.name_definitions(text);
    loader.read_definitions(text);
    loader.finish()
}

#[derive(Default)]
struct Loader {
    types: Vec<Type>,
    names: HashMap<&'static str, TypeId>,
    kinds: HashMap<(&'static str, &'static str, &'static str), TypeId>,
    everywhere: Vec<(&'static str, TypeId)>,
    messages: HashMap<TypeId, Message>,
    untyped: HashMap<TypeId, Untyped>,
    /// Types already made: their shape letter and keys, and the type inside.
    interned: HashMap<(&'static str, TypeId), TypeId>,
    /// Granular variants of atomic structs, filled in at the end.
    granular: HashMap<TypeId, TypeId>,
    scratch: String,
}

const NOTHING: TypeId = TypeId(u32::MAX);

impl Loader {
    fn name_definitions(&mut self, text: &'static str) {
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("D ").and_then(|l| l.split(' ').next()) {
                let id = self.push(Type::Any);
                self.names.insert(name, id);
            }
        }
    }

    fn read_definitions(&mut self, text: &'static str) {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(head) = line.strip_prefix("D ") else { continue };
            let (name, flags) = head.split_once(' ').expect("a definition has flags");
            let id = self.names[name];
            let package = name.rsplit_once('.').map_or("", |(package, _)| package);
            let mut fields = Vec::new();
            let mut message = Message::default();
            while let Some(line) = lines.next_if(|l| !l.starts_with('D')) {
                if let Some(kind) = line.strip_prefix("G ") {
                    self.kind(kind, id);
                } else if let Some(line) = line.strip_prefix('\t') {
                    let field = self.field(line, package, fields.len(), &mut message);
                    fields.push(field);
                }
            }
            self.messages.insert(id, message);
            self.types[id.0 as usize] = Type::Struct(Struct {
                name: Cow::Borrowed(name),
                fields,
                atomic: flags.contains('a'),
                preserve_unknown: false,
                proto: Cow::Owned(proto_name(package, name)),
            });
        }
    }

    fn kind(&mut self, text: &'static str, id: TypeId) {
        let mut parts = text.split('/');
        let mut next = || parts.next().expect("a kind has group, version and name");
        match (next(), next(), next()) {
            ("*", _, kind) => self.everywhere.push((kind, id)),
            (group, version, kind) => {
                self.kinds.insert((group, version, kind), id);
            }
        }
    }

    fn field(&mut self, line: &'static str, package: &str, index: usize, message: &mut Message) -> Field {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or("");
        let (name, ty, number, flags, default, patch) = (next(), next(), next(), next(), next(), next());
        let presence = match (flags.contains('p'), flags.contains('e')) {
            (true, _) => Presence::Pointer,
            (false, true) => Presence::OmitZero,
            (false, false) => Presence::Always,
        };
        let content = Content::Field { index, presence, wrapped: flags.contains('w') };
        let proto_number = place(message, number, content);
        Field {
            name: Cow::Borrowed(name),
            ty: self.ty(ty, package),
            required: flags.contains('!'),
            default: (!default.is_empty()).then(|| serde_json::from_str(default).expect("a default is JSON")),
            patch: patch_strategy(patch),
            proto_number,
        }
    }

    fn ty(&mut self, expression: &'static str, package: &str) -> TypeId {
        if let Some(rest) = expression.strip_prefix('[') {
            let (keys, item) = rest.split_once(']').expect("a list closes its bracket");
            let item = self.ty(item, package);
            return self.intern(keys, item, || Type::List { item, topology: topology(keys) });
        }
        if let Some(rest) = expression.strip_prefix('{') {
            let (flag, value) = rest.split_once('}').expect("a map closes its brace");
            let value = self.ty(value, package);
            let shape = if flag == "a" { "{a}" } else { "{}" };
            return self.intern(shape, value, || Type::Map { value, atomic: flag == "a" });
        }
        if let Some(target) = expression.strip_prefix('~') {
            let target = self.reference(target, package);
            if let Some(variant) = self.granular.get(&target) {
                return *variant;
            }
            let variant = self.push(Type::Any);
            self.granular.insert(target, variant);
            return variant;
        }
        if expression.len() > 1 { self.reference(expression, package) } else { self.leaf(expression) }
    }

    fn reference(&mut self, name: &'static str, package: &str) -> TypeId {
        if !name.starts_with('.') {
            return self.names[name];
        }
        self.scratch.clear();
        self.scratch.push_str(package);
        self.scratch.push_str(name);
        self.names[self.scratch.as_str()]
    }

    fn leaf(&mut self, letter: &'static str) -> TypeId {
        let scalar = |s| (Type::Scalar(s), None);
        let untyped = |u| (Type::Any, Some(u));
        let (ty, untyped) = match letter {
            "s" => scalar(Scalar::String),
            "b" => scalar(Scalar::Bool),
            "i" => scalar(Scalar::Int32),
            "l" => scalar(Scalar::Int64),
            "d" => scalar(Scalar::Double),
            "y" => scalar(Scalar::Bytes),
            "t" => scalar(Scalar::Time),
            "m" => scalar(Scalar::MicroTime),
            "u" => scalar(Scalar::Duration),
            "q" => scalar(Scalar::Quantity),
            "x" => scalar(Scalar::IntOrString),
            "R" => untyped(Untyped::RawExtension),
            "F" => untyped(Untyped::FieldsV1),
            "J" => untyped(Untyped::Json),
            "A" => untyped(Untyped::JsonSchemaPropsOrArray),
            "B" => untyped(Untyped::JsonSchemaPropsOrBool),
            "S" => untyped(Untyped::JsonSchemaPropsOrStringArray),
            other => panic!("unknown type letter {other}"),
        };
        let id = self.intern(letter, NOTHING, || ty);
        if let Some(untyped) = untyped {
            self.untyped.insert(id, untyped);
        }
        id
    }

    fn intern(&mut self, shape: &'static str, inner: TypeId, make: impl FnOnce() -> Type) -> TypeId {
        if let Some(id) = self.interned.get(&(shape, inner)) {
            return *id;
        }
        let id = self.push(make());
        self.interned.insert((shape, inner), id);
        id
    }

    fn push(&mut self, ty: Type) -> TypeId {
        let id = TypeId(u32::try_from(self.types.len()).expect("fewer than 2^32 types"));
        self.types.push(ty);
        id
    }

    fn finish(mut self) -> Builtin {
        for (target, variant) in &self.granular {
            let mut copy = self.types[target.0 as usize].clone();
            if let Type::Struct(s) = &mut copy {
                s.atomic = false;
            }
            self.types[variant.0 as usize] = copy;
            if let Some(message) = self.messages.get(target).cloned() {
                self.messages.insert(*variant, message);
            }
        }
        self.types.shrink_to_fit();
        Builtin {
            schema: Schema { types: self.types },
            names: self.names,
            kinds: self.kinds,
            everywhere: self.everywhere,
            messages: self.messages,
            untyped: self.untyped,
        }
    }
}

/// Puts a field at `2.1` into the messages it is inlined in; returns the number if it is a direct field.
fn place(message: &mut Message, path: &str, content: Content) -> u32 {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let number: u32 = first.parse().expect("a protobuf number is a number");
    if number == 0 {
        return 0;
    }
    let at = message.fields.binary_search_by_key(&number, |f| f.number);
    let Some(rest) = rest else {
        let at = at.expect_err("a number belongs to one field");
        message.fields.insert(at, ProtoField { number, content });
        return number;
    };
    let at = at.unwrap_or_else(|at| {
        message.fields.insert(at, ProtoField { number, content: Content::Inline(Message::default()) });
        at
    });
    if let Content::Inline(inner) = &mut message.fields[at].content {
        place(inner, rest, content);
    }
    0
}

fn topology(keys: &'static str) -> ListTopology {
    match keys {
        "a" => ListTopology::Atomic,
        "s" => ListTopology::Set,
        keys => ListTopology::Map(keys.split(',').map(Cow::Borrowed).collect()),
    }
}

fn patch_strategy(text: &'static str) -> PatchStrategy {
    let (strategies, key) = text.split_once(':').unwrap_or((text, ""));
    PatchStrategy {
        merge: strategies.split(',').any(|s| s == "merge"),
        retain_keys: strategies.split(',').any(|s| s == "retainKeys"),
        merge_key: Cow::Borrowed(key),
    }
}

/// `io.k8s.api.core.v1` and `….Pod` to `k8s.io.api.core.v1.Pod`.
fn proto_name(package: &str, name: &str) -> String {
    format!("{}{}", package.replacen("io.k8s.", "k8s.io.", 1).replace('-', "_"), &name[package.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// One line per field: name, type, number, flags.
    fn check(definition: &str, expected: Expect) {
        let b = builtin();
        let s = b.structure(b.by_name(definition).expect("defined")).expect("a struct");
        let mut text = format!("{} atomic={}\n", s.proto, s.atomic);
        for f in &s.fields {
            let required = if f.required { " required" } else { "" };
            let default = f.default.as_ref().map(|d| format!(" default={d}")).unwrap_or_default();
            let patch = match (&f.patch.merge, &f.patch.retain_keys) {
                (false, false) => String::new(),
                (merge, retain) => format!(" merge={merge} retainKeys={retain} key={:?}", f.patch.merge_key),
            };
            text.push_str(&format!("{} {}{required}{default}{patch}\n", f.name, show(b, f.ty)));
        }
        expected.assert_eq(&text);
    }

    fn show(b: &Builtin, id: TypeId) -> String {
        match b.schema.get(id) {
            Type::Scalar(s) => format!("{s:?}"),
            Type::Any => "Any".to_owned(),
            Type::Struct(s) => s.name.rsplit('.').next().unwrap_or_default().to_owned(),
            Type::Map { value, atomic } => format!("map(atomic={atomic}) of {}", show(b, *value)),
            Type::List { item, topology } => format!("list({topology:?}) of {}", show(b, *item)),
        }
    }

    #[test]
    fn a_struct_has_types_required_defaults_and_patch_keys() {
        check(
            "io.k8s.api.apps.v1.DeploymentSpec",
            expect![[r#"
                k8s.io.api.apps.v1.DeploymentSpec atomic=false
                minReadySeconds Int32
                paused Bool
                progressDeadlineSeconds Int32
                replicas Int32
                revisionHistoryLimit Int32
                selector LabelSelector required
                strategy DeploymentStrategy default={} merge=false retainKeys=true key=""
                template PodTemplateSpec required default={}
            "#]],
        );
        check(
            "io.k8s.api.core.v1.ServiceSpec",
            expect![[r#"
                k8s.io.api.core.v1.ServiceSpec atomic=false
                allocateLoadBalancerNodePorts Bool
                clusterIP String
                clusterIPs list(Atomic) of String
                externalIPs list(Atomic) of String
                externalName String
                externalTrafficPolicy String
                healthCheckNodePort Int32
                internalTrafficPolicy String
                ipFamilies list(Atomic) of String
                ipFamilyPolicy String
                loadBalancerClass String
                loadBalancerIP String
                loadBalancerSourceRanges list(Atomic) of String
                ports list(Map(["port", "protocol"])) of ServicePort merge=true retainKeys=false key="port"
                publishNotReadyAddresses Bool
                selector map(atomic=true) of String
                sessionAffinity String
                sessionAffinityConfig SessionAffinityConfig
                trafficDistribution String
                type String
            "#]],
        );
    }

    #[test]
    fn kinds_find_their_types() {
        let b = builtin();
        let name = |g, v, k| b.by_kind(g, v, k).and_then(|id| b.structure(id)).map(|s| s.name.as_ref());
        assert_eq!(name("", "v1", "Pod"), Some("io.k8s.api.core.v1.Pod"));
        assert_eq!(name("", "v1", "PodList"), Some("io.k8s.api.core.v1.PodList"));
        assert_eq!(name("batch", "v1", "DeleteOptions"), Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"));
        assert_eq!(name("batch", "v1", "Pod"), None);
        for k in crate::kinds::table::all() {
            let query_only = ["NodeProxyOptions", "PodProxyOptions", "ServiceProxyOptions"];
            let id = b.by_kind(&k.group, &k.version, &k.kind);
            assert!(id.is_some() || query_only.contains(&k.kind.as_ref()), "{} {}", k.api_version(), k.kind);
        }
    }

    #[test]
    fn the_table_is_sound() {
        let b = builtin();
        for (name, id) in b.definitions() {
            let s = b.structure(id).unwrap_or_else(|| panic!("{name} is a struct"));
            assert!(s.fields.is_sorted_by(|a, b| a.name < b.name), "{name}");
            for f in &s.fields {
                assert!((f.ty.0 as usize) < b.schema.types.len(), "{name}.{}", f.name);
            }
        }
    }

    #[test]
    fn claim_ref_is_granular_although_object_reference_is_atomic() {
        let b = builtin();
        let of = |d: &str, f: &str| {
            let s = b.structure(b.by_name(d).expect("defined")).expect("a struct");
            b.structure(s.field(f).expect("there").ty).expect("a struct").atomic
        };
        assert!(!of("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef"));
        assert!(of("io.k8s.api.core.v1.Event", "involvedObject"));
    }
}
