//! Server-side apply and field ownership.
//!
//! ```text
//! apply:   live + configuration ─merge→ ─prune (fields given up)→ ─compare→ conflicts, or owners and the new object
//! update:  old, new ─compare→ what changed is now the writer's, and no longer anybody else's
//! ```
//!
//! Follows `structured-merge-diff/v6/merge/update.go` and the chain of managers in
//! `apimachinery/pkg/util/managedfields/internal` (fieldmanager.go lists them), all in one place here. Always holds:
//! `metadata.managedFields` is the only field these functions write besides what the configuration says.
//!
//! Differs: conflicts come sorted by manager, where upstream's order of causes is random.

mod compare;
mod conflict;
mod managers;
mod merge;
mod path;
pub(crate) mod presence;
mod scale;
mod set;
mod typed;

pub use conflict::{ApplyError, Conflicts};
pub use managers::{ManagerId, Operation};
pub use path::{PathElement, show_path};
pub use scale::ScaleFields;
pub use set::{FieldSet, Filter, Matcher};
pub use typed::{SchemaRef, TypeErrors};

use crate::json::{Doc, Json};
use crate::schema::check::{Checked, parse_json};
use crate::schema::yaml;
use compare::{Comparison, Side, compare};
use jiff::Timestamp;
use managers::{Managers, Owned, Source};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use typed::{Ref, Types};

/// Upstream's `LastAppliedConfigAnnotation`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Upstream's `TotalAnnotationSizeLimitB`.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Upstream's `FieldManagerMaxLength`.
const MANAGER_MAX_BYTES: usize = 128;

/// Nobody owns these (stripmeta.go).
static STRIPPED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// An object in another version of its kind, and that version's type; `None` if the version is not served (any more).
pub type Convert<'a> = dyn Fn(&Value, &str) -> Option<(Value, SchemaRef<'a>)> + 'a;

/// Who writes what kind of object, where and when.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The type of the object.
    pub root: SchemaRef<'a>,
    /// `group/version` in which objects are given and sets are recorded.
    pub api_version: &'a str,
    /// CamelCase kind.
    pub kind: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// The writer; empty becomes `unknown`. See [`manager_name`].
    pub manager: &'a str,
    /// The time of the request.
    pub now: Timestamp,
    /// Which changes count at this endpoint.
    pub filter: &'a Filter,
    /// Other versions of the kind. Without it, owners in other versions are forgotten, as if those were not served.
    pub convert: Option<&'a Convert<'a>>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Context { api_version, kind, subresource, manager, .. } = self;
        write!(f, "{manager:?} writes {api_version} {kind} {subresource:?}")
    }
}

/// The writer's name: what the request says, or else the beginning of its user agent (handlers/create.go).
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut name = String::new();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        name.push(c);
    }
    name
}

/// The body of an apply request, YAML or JSON, and what a strict server complains about in it. Upstream puts
/// `error strict decoding YAML: ` before the latter.
pub fn parse_config(body: &[u8]) -> Result<Checked, ApplyError> {
    let bad = |why: &dyn std::fmt::Display| ApplyError::BadRequest(format!("error decoding YAML: {why}"));
    let mut read = match parse_json(body) {
        Ok(read) => read,
        Err(_) => yaml::parse(body).map_err(|e| bad(&format_args!("error converting YAML to JSON: {e}")))?,
    };
    // Upstream reads it as YAML, whatever it is.
    crate::json::make_whole(&mut read.value);
    match read.value {
        Value::Object(_) => Ok(read),
        Value::Null => {
            read.value = Value::Object(Map::new());
            Ok(read)
        }
        other => {
            let why = crate::json::cannot_unmarshal(&other, "map[string]interface {}");
            Err(bad(&format!("error unmarshaling JSON: while decoding JSON: {why}")))
        }
    }
}

/// An object before and after a create, update or patch, as text and without its managedFields, which stand beside it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The object before, and its managedFields; `None` for a create.
    pub old: Option<(&'a Doc<'a>, Option<&'a Doc<'a>>)>,
    /// The object that is wanted.
    pub new: &'a Doc<'a>,
    /// The managedFields that came with it.
    pub given: Given<'a>,
}

/// What a client says about managedFields.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// Nothing: they are as they were.
    Unchanged,
    /// These, or none.
    Entries(Option<&'a Doc<'a>>),
}

/// The managedFields after a write that is no apply, as text; `None`: the object has none.
///
/// Clients may edit managedFields, and forget all owners with `[]` or `[{}]`; through a subresource they may not. If the
/// fields of an object cannot be told apart, it is left without managedFields, as upstream does.
pub fn owners_after(ctx: &Context<'_>, change: &Change<'_>) -> Option<String> {
    let old_entries = change.old.and_then(|(_, entries)| entries).map(Doc::root);
    let of_old = || Managers::decode(old_entries, Source::Ours).unwrap_or_default();
    let old = change.old.map_or(Json::EMPTY_OBJECT, |(old, _)| old.root());
    let (old, new) = ((old, Side::Typed), (change.new.root(), Side::Typed));
    let comparison = ctx.compare(old, new).ok()?;
    let managers = match change.given {
        Given::Entries(given) if ctx.subresource.is_empty() => {
            let given = given.map(Doc::root);
            if managers::is_reset(given) {
                Managers::default()
            } else {
                // Clients that do not know managedFields drop them by accident.
                let edited = Managers::decode(given, Source::Client).ok();
                edited.filter(|m| !m.0.is_empty()).unwrap_or_else(of_old)
            }
        }
        _ => match old_entries.and_then(|entries| ctx.undisputed(entries, &comparison)) {
            Some(managers) => return managers.encode(),
            None => of_old(),
        },
    };
    // Objects without owners stay so; only a create or an apply starts to count.
    let uid = change.old.and_then(|(old, _)| old.root().get("metadata")?.get("uid")?.text());
    if managers.0.is_empty() && uid.is_some_and(|uid| !uid.is_empty()) {
        return None;
    }
    ctx.update(old, new, comparison, managers, ctx.manager).ok()?.encode()
}

/// [`owners_after`] for objects in hand: sets `new.metadata.managedFields`.
pub fn update(ctx: &Context<'_>, old: Option<&Value>, new: &mut Value) {
    let given = take_managed(new).as_ref().map(Doc::of);
    let entries = old.and_then(|o| o.get("metadata")?.get("managedFields")).map(Doc::of);
    let before = old.map(|old| Doc::of(&without_managed(old)));
    let change = Change {
        old: before.as_ref().map(|old| (old, entries.as_ref())),
        new: &Doc::of(new),
        given: Given::Entries(given.as_ref()),
    };
    put_managed(new, owners_after(ctx, &change));
}

/// Whether two texts of managedFields differ in nothing but times.
pub fn is_same_but_for_times(a: &Doc<'_>, b: &Doc<'_>) -> bool {
    managers::is_same_but_for_times(a.root(), b.root())
}

/// Merges a configuration into the live object (`None` if there is none yet): the new object with its managedFields.
pub fn apply(ctx: &Context<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, ApplyError> {
    ctx.check_config(config)?;
    let entries = live.and_then(|o| o.get("metadata")?.get("managedFields"));
    let managers = decode_entries(entries);
    let mut managers = managers.map_err(|e| ApplyError::Live(format!("failed to decode managed fields: {e}")))?;
    let mut live = live.map_or_else(|| Value::Object(Map::new()), without_managed);
    // What Go does not show of the live object nobody can own or keep.
    presence::drop_hidden(ctx.root, &mut live);
    if managers.0.is_empty() {
        let doc = Doc::of(&live);
        let (nothing, all) = ((Json::EMPTY_OBJECT, Side::Typed), (doc.root(), Side::Typed));
        managers = ctx
            .compare(nothing, all)
            .and_then(|comparison| ctx.update(nothing, all, comparison, managers, "before-first-apply"))
            .map_err(|e| ApplyError::Live(format!("failed to create manager for existing fields: {e}")))?;
    }
    let result = ctx.apply(&live, config, managers.clone(), force);
    let (mut object, managers) = match result {
        // kubectl moves from client-side to server-side apply without conflicts about what it had applied itself.
        Err(ApplyError::Conflict(conflicts)) if ctx.manager == "kubectl" => {
            let allowed = ctx.last_applied_fields(&live);
            match allowed.map(|allowed| conflicts.without(&allowed)) {
                None => return Err(conflicts.into()),
                Some(Some(left)) => return Err(left.into()),
                Some(None) => ctx.apply(&live, config, managers, true)?,
            }
        }
        other => other?,
    };
    if ctx.manager == "kubectl" {
        refresh_last_applied(&mut object, config);
    }
    put_managed(&mut object, managers.encode());
    Ok(object)
}

/// `live` with everything that a policy's `Object{…}` says, without owners (`plugin/policy/mutating/patch/smd.go`). What is
/// atomic may not be changed so: whoever wants to set a part would remove the rest.
pub fn merge_policy_patch(root: SchemaRef<'_>, live: &Value, patch: &Value) -> Result<Value, String> {
    let of_patch = |e: &TypeErrors| format!("failed to convert patch object to typed object: {e}");
    typed::validate(root, patch).map_err(|e| of_patch(&e))?;
    let atomics = typed::atomics(root, patch);
    if !atomics.is_empty() {
        let atomics = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomics}"));
    }
    merge::merge(root, live, patch).map_err(|e| format!("failed to merge patch: {e}"))
}

// === the chain, from outside in ===

impl<'a> Context<'a> {
    fn id(&self, manager: &str, operation: Operation) -> ManagerId {
        ManagerId {
            manager: if manager.is_empty() { "unknown".to_owned() } else { manager.to_owned() },
            operation,
            api_version: if operation == Operation::Apply { String::new() } else { self.api_version.to_owned() },
            subresource: self.subresource.to_owned(),
        }
    }

    fn check_config(&self, config: &Value) -> Result<(), ApplyError> {
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion") != self.api_version || text("kind") != self.kind {
            let gvk = show_gvk(text("apiVersion"), text("kind"));
            return Err(ApplyError::BadRequest(format!("invalid object type: {gvk}")));
        }
        if config.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        typed::validate(self.root, config).map_err(|source| {
            let meta = |key: &str| config.get("metadata").and_then(|m| m.get(key)?.as_str()).unwrap_or_default();
            let gvk = show_gvk(self.api_version, self.kind);
            ApplyError::Typed { object: format!("{}/{}; {gvk}", meta("namespace"), meta("name")), source }
        })
    }

    /// The owners after a write that changes nothing of what others own, as most writes do: their sets stay the texts that they
    /// are. `None`: it is not such a write, or cannot be told to be. (Sets of types that have become atomic since stay as they are
    /// until somebody changes something in them.)
    fn undisputed(&self, entries: Json<'_>, comparison: &Comparison) -> Option<Managers> {
        let Comparison { removed, changed } = comparison;
        let id = self.id(self.manager, Operation::Update);
        let (mut managers, mut own) = (Managers::default(), None);
        for (owner, owned, fields) in Managers::unread(entries)? {
            if owned.api_version != self.api_version {
                return None;
            }
            if owner == id {
                own = Some((owned, fields));
            } else if changed.is_apart_from(fields) && removed.is_apart_from(fields) {
                managers.0.insert(owner, owned);
            } else {
                return None;
            }
        }
        let merit = Merit::of(comparison.clone());
        let time = (!merit.gained.is_empty()).then_some(self.now);
        let owned = match own {
            None => Owned::new(self.api_version, merit.gained, time),
            Some((mut owned, fields)) => {
                owned.time = time.or(owned.time);
                if !(merit.gained.is_within(fields) && merit.lost.is_apart_from(fields)) {
                    let set = FieldSet::from_json(fields).ok()?;
                    let set = self.reconciled(&set).unwrap_or(set);
                    owned.replace(merit.added_to(&set));
                }
                owned
            }
        };
        if !owned.is_empty() {
            managers.0.insert(id, owned);
        }
        managers.is_few().then_some(managers)
    }

    fn update(
        &self,
        old: (Json<'_>, Side),
        new: (Json<'_>, Side),
        comparison: Comparison,
        mut managers: Managers,
        manager: &str,
    ) -> Result<Managers, TypeErrors> {
        self.reconcile(&mut managers);
        let id = self.id(manager, Operation::Update);
        let Disowned { mut managers, comparison, .. } = self.disown(old, new, comparison, managers, Some(&id))?;
        let merit = Merit::of(comparison);
        if let Some(owned) = managers.0.get_mut(&id) {
            let set = owned.set();
            if !(set.contains_all(&merit.gained) && set.is_disjoint(&merit.lost)) {
                owned.replace(merit.added_to(set));
            }
        }
        if !merit.gained.is_empty() {
            managers.0.entry(id).or_insert_with(|| Owned::new(self.api_version, merit.gained, None)).time =
                Some(self.now);
        }
        managers.drop_empty();
        managers.cap_updaters();
        Ok(managers)
    }

    fn apply(
        &self,
        live: &Value,
        config: &Value,
        mut managers: Managers,
        force: bool,
    ) -> Result<(Value, Managers), ApplyError> {
        self.reconcile(&mut managers);
        let live_error = |e: TypeErrors| ApplyError::Live(format!("failed to merge config: {e}"));
        let merged = merge::merge(self.root, live, config).map_err(live_error)?;
        let id = self.id(self.manager, Operation::Apply);
        let last = managers.0.remove(&id);
        let time = last.as_ref().and_then(|l| l.time);
        let set = self.filter.apply(typed::field_set(self.root, config));
        managers.0.insert(id.clone(), Owned::new(self.api_version, set, time));
        let object = match last {
            Some(last) if !last.set().is_empty() => self.prune(merged, &managers, &last),
            _ => merged,
        };
        let (before, after) = (Doc::of(live), Doc::of(&object));
        let (before, after) = ((before.root(), Side::Typed), (after.root(), Side::Merged));
        let disowned = self.compare(before, after);
        let disowned = disowned.and_then(|ours| self.disown(before, after, ours, managers, Some(&id)));
        let disowned = disowned.map_err(|e| ApplyError::Live(format!("failed to compare objects: {e}")))?;
        if !force && !disowned.taken.is_empty() {
            return Err(Conflicts::of(disowned.taken).into());
        }
        let mut managers = disowned.managers;
        if let Some(owned) = managers.0.get_mut(&id) {
            owned.replace(owned.set().difference(&STRIPPED));
            // An apply that changes nothing leaves the time alone.
            if !path::same_value(live, &object) {
                owned.time = Some(self.now);
            }
        }
        managers.drop_empty();
        Ok((object, managers))
    }

    /// Takes from everybody but `writer` what changed; `ours` says what did in the version of the request.
    fn disown(
        &self,
        old: (Json<'_>, Side),
        new: (Json<'_>, Side),
        ours: Comparison,
        managers: Managers,
        writer: Option<&ManagerId>,
    ) -> Result<Disowned, TypeErrors> {
        let mut others: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        for owned in managers.0.values().filter(|o| o.api_version != self.api_version) {
            if !others.contains_key(&owned.api_version) {
                let comparison = self.compare_in(&owned.api_version, old, new)?;
                others.insert(owned.api_version.clone(), comparison);
            }
        }
        let mut all_taken = BTreeMap::new();
        let mut kept = Managers::default();
        for (id, mut owned) in managers.0 {
            if Some(&id) == writer {
                kept.0.insert(id, owned);
                continue;
            }
            let comparison = match others.get(&owned.api_version) {
                None => &ours,
                Some(Some(comparison)) => comparison,
                // The version is gone, and with it what was owned in it.
                Some(None) => continue,
            };
            let taken = owned.set().intersection(&comparison.changed);
            if !(taken.is_empty() && owned.set().is_disjoint(&comparison.removed)) {
                owned.replace(owned.set().difference(&taken).difference(&comparison.removed));
            }
            if !taken.is_empty() {
                all_taken.insert(id.clone(), taken);
            }
            kept.0.insert(id, owned);
        }
        kept.drop_empty();
        Ok(Disowned { managers: kept, comparison: ours, taken: all_taken })
    }

    /// What changed, in the version of the request.
    fn compare(&self, old: (Json<'_>, Side), new: (Json<'_>, Side)) -> Result<Comparison, TypeErrors> {
        Ok(compare(self.root, old, new)?.filter(self.filter))
    }

    /// What changed, in another version.
    fn compare_in(
        &self,
        version: &str,
        old: (Json<'_>, Side),
        new: (Json<'_>, Side),
    ) -> Result<Option<Comparison>, TypeErrors> {
        let here = |object: Json<'_>| self.in_version(&object.to_value(), version);
        let Some(((before, root), (after, _))) = here(old.0).zip(here(new.0)) else { return Ok(None) };
        compare(root, (Doc::of(&before).root(), old.1), (Doc::of(&after).root(), new.1)).map(Some)
    }

    fn in_version(&self, object: &Value, version: &str) -> Option<(Value, SchemaRef<'a>)> {
        if version != self.api_version {
            return self.convert?(object, version);
        }
        let mut object = object.clone();
        if let Some(text) = object.get_mut("apiVersion") {
            *text = version.into();
        }
        Some((object, self.root))
    }

    /// Adapts sets to types that have become atomic since.
    fn reconcile(&self, managers: &mut Managers) {
        for owned in managers.0.values_mut().filter(|o| o.api_version == self.api_version) {
            if let Some(set) = self.reconciled(owned.set()) {
                owned.replace(set);
            }
        }
    }

    /// A set without what is now inside of something atomic, if there is such a thing in it.
    fn reconciled(&self, set: &FieldSet) -> Option<FieldSet> {
        typed::reconcile(Types(self.root.schema), Ref::Type(self.root.ty), set)
    }

    /// Removes what the writer applied last time, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, last: &Owned) -> Value {
        let Some((merged, root)) = self.in_version(&merged, &last.api_version) else {
            return merged;
        };
        let named =
            |root: SchemaRef<'_>, set: &FieldSet| typed::with_named_fields(Types(root.schema), Ref::Type(root.ty), set);
        let mut pruned = merge::remove(root, &merged, &named(root, last.set()));
        // Put back what somebody owns, version by version, the last applied one first.
        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for o in managers.0.values() {
            let set = owned.entry(&o.api_version).or_default();
            *set = std::mem::take(set).union(o.set().clone());
        }
        let first = owned.remove_entry(last.api_version.as_str());
        for (version, set) in first.into_iter().chain(owned) {
            let here = |object: &Value, from: &str| {
                if from == version { Some((object.clone(), root)) } else { self.in_version(object, version) }
            };
            let Some(((all, root), (left, _))) = here(&merged, &last.api_version).zip(here(&pruned, &last.api_version))
            else {
                continue;
            };
            let keep = named(root, &typed::field_set(root, &left)).union(named(root, &set));
            let put_back = merge::remove(root, &all, &named(root, &typed::field_set(root, &all)).difference(&keep));
            pruned = match (version == last.api_version).then(|| put_back.clone()) {
                Some(value) => value,
                None => self.in_version(&put_back, &last.api_version).map_or(pruned, |(value, _)| value),
            };
        }
        // Only what the writer itself owned may go.
        let kept = named(root, &typed::field_set(root, &pruned));
        let gone = named(root, &typed::field_set(root, &merged)).difference(&kept);
        let object = merge::remove(root, &merged, &gone.intersection(&named(root, last.set())));
        self.in_version(&object, self.api_version).map_or(object, |(object, _)| object)
    }

    /// What the client-side apply annotation says and the object still has.
    fn last_applied_fields(&self, live: &Value) -> Option<FieldSet> {
        let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last.get("apiVersion")?.as_str()? != self.api_version {
            return None;
        }
        typed::validate(self.root, &last).ok()?;
        let (before, after) = (Doc::of(&last), Doc::of(live));
        let changed = compare(self.root, (before.root(), Side::Plain), (after.root(), Side::Typed)).ok()?;
        let set = typed::field_set(self.root, &last);
        Some(set.difference(&changed.changed).difference(&changed.removed))
    }
}

/// What a write does to its writer's own set. Mostly nothing: a writer changes what it owns anyway.
struct Merit {
    gained: FieldSet,
    /// Also what nobody owns, if a client put it there.
    lost: FieldSet,
}

impl Merit {
    fn of(comparison: Comparison) -> Self {
        let Comparison { removed, changed: mut gained } = comparison;
        let stripped = gained.intersection(&STRIPPED);
        gained.take_away(&stripped);
        Merit { gained, lost: stripped.union(removed) }
    }

    fn added_to(&self, set: &FieldSet) -> FieldSet {
        set.difference(&self.lost).union(self.gained.clone())
    }
}

/// What a change did to the owners.
struct Disowned {
    /// Everybody's sets without what changed, but the writer's.
    managers: Managers,
    comparison: Comparison,
    /// What was taken from others.
    taken: BTreeMap<ManagerId, FieldSet>,
}

// === metadata ===

fn take_managed(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    drop(take_managed(&mut object));
    object
}

fn put_managed(object: &mut Value, entries: Option<String>) {
    drop(take_managed(object));
    let entries = entries.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let (Some(entries), Value::Object(object)) = (entries, object) else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

fn decode_entries(entries: Option<&Value>) -> Result<Managers, String> {
    Managers::decode(entries.map(Doc::of).as_ref().map(Doc::root), Source::Client)
}

fn encode_entries(managers: &Managers) -> Option<Value> {
    managers.encode().and_then(|text| serde_json::from_str(&text).ok())
}

/// Keeps the annotation of client-side apply in step, if there is one (lastappliedupdater.go).
fn refresh_last_applied(object: &mut Value, config: &Value) {
    let Some(Value::Object(annotations)) = object.get_mut("metadata").and_then(|m| m.get_mut("annotations")) else {
        return;
    };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(own)) = config.get_mut("metadata").and_then(|m| m.get_mut("annotations")) {
        own.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), format!("{config}\n").into());
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(size).sum::<usize>() > ANNOTATIONS_MAX_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

/// `group/version, Kind=kind`, with the slash even for the core group.
fn show_gvk(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

#[cfg(test)]
mod tests;
