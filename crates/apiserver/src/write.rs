//! Creating and changing stored objects: everything between a decoded object and the commit, in upstream's order
//! (`apiserver/pkg/registry/generic/registry/store.go`, `…/registry/rest/{create,update}.go`).
//!
//! Invariant: an object is written only as a change of the revision it was made from; a lost race starts over from the newer
//! object or is the caller's 409.

use crate::admission::{self, Operation, Request, Together};
use crate::api_server::ApiServer;
use crate::auth::{Attributes, UserInfo};
use crate::custom::view;
use crate::delete_plan::{ends_with_update, truncate};
use crate::managed::{self, Manager, NO_OWNERS, Owners, Wish};
use crate::options::WriteOptions;
use crate::reader::{Header, KindRef, Stored, key_of};
use crate::remarks::Remarks;
use crate::services::Guard;
use crate::{codec, convert, device_rights, devices, encode, status};
use api::k8s::api::certificates::v1::CertificateSigningRequest;
use api::k8s::api::core::v1::{LimitRange, PersistentVolume};
use api::{AnyObject, ObjectMeta, Status, Time};
use bytes::Bytes;
use machinery::json::Doc;
use serde_json::Value;
use std::sync::Arc;
use store::{Op, StoreError, Txn};

/// How often a generated name is drawn anew.
const GENERATE_NAME_ATTEMPTS: usize = 8;
/// How often a change is made anew on a newer object before the client gets the conflict.
const RACE_ATTEMPTS: usize = 100;

/// One write: where, by whom, how.
pub(crate) struct Write<'a> {
    pub(crate) kind: &'a KindRef,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) user: &'a UserInfo,
    pub(crate) options: &'a WriteOptions,
    pub(crate) manager: &'a str,
    pub(crate) warnings: &'a Remarks,
}

/// What came of a write.
pub(crate) enum Written {
    /// It is stored (or was already just so).
    Stored { stored: Stored, created: bool },
    /// A dry run: what would be stored.
    DryRun { bytes: Bytes, created: bool },
    /// The change ended a deletion: the object's last state.
    Removed { stored: Stored },
}

impl Written {
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Written::Stored { stored, .. } | Written::Removed { stored } => stored.bytes(),
            Written::DryRun { bytes, .. } => bytes,
        }
    }
    pub(crate) fn created(&self) -> bool {
        matches!(self, Written::Stored { created: true, .. } | Written::DryRun { created: true, .. })
    }
}

/// A change, as a function of the object there is.
pub(crate) trait Change: Send + Sync {
    /// The object that is wanted. Called again when somebody else wrote in between.
    fn wanted(&self, existing: Option<&Existing<'_>>) -> Result<Wanted, Status>;

    /// What there is to warn of in the object that was wanted last.
    fn take_warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What it is called where rights are asked for.
    fn verb(&self) -> &'static str {
        "update"
    }

    /// Whether the change may create the object where its kind alone does not allow it (apply).
    fn may_create(&self) -> bool {
        false
    }
}

/// The object there is.
pub(crate) struct Existing<'a> {
    /// All of it.
    pub(crate) whole: &'a [u8],
    /// Without its owners.
    pub(crate) bare: &'a Doc<'a>,
}

/// The object that is wanted.
pub(crate) struct Wanted {
    /// Without owners.
    pub(crate) object: Box<dyn AnyObject>,
    /// What is to become of the owners.
    pub(crate) owners: Wish,
    /// The UID the client expects the existing object to have.
    pub(crate) uid: Option<String>,
    /// As it was sent ([`codec::Read`]).
    pub(crate) sent: Option<Value>,
}

/// PUT: the object as it was sent.
pub(crate) struct Replace {
    read: codec::Read,
    owners: Owners,
}

impl Replace {
    pub(crate) fn new(mut read: codec::Read) -> Self {
        let owners = Owners::take(read.object.meta_mut());
        Replace { read, owners }
    }
}

impl Change for Replace {
    fn wanted(&self, _existing: Option<&Existing<'_>>) -> Result<Wanted, Status> {
        let codec::Read { object, sent } = &self.read;
        let uid = object.meta().uid.clone().filter(|u| !u.is_empty());
        let owners = Wish::Given(self.owners.clone());
        Ok(Wanted { object: object.boxed_clone(), owners, uid, sent: sent.clone() })
    }
}

enum Attempt {
    Done(Written),
    /// Somebody else wrote first.
    Raced,
}

/// An object on its way to the store.
struct Draft {
    /// Without owners.
    object: Box<dyn AnyObject>,
    owners: Owners,
    /// The client or admission had a hand in the owners.
    edited: bool,
}

impl Attempt {
    fn done(self, w: &Write<'_>) -> Result<Written, Status> {
        match self {
            Attempt::Done(written) => Ok(written),
            Attempt::Raced => Err(status::stale(w.kind.info(), w.name)),
        }
    }
}

impl ApiServer {
    /// A new object. Its metadata is the client's; everything the server owns is wiped and set here.
    pub(crate) async fn create_object(&self, w: &Write<'_>, mut object: Box<dyn AnyObject>) -> Result<Written, Status> {
        wipe_system_fields(object.meta_mut());
        ensure_namespace(object.meta_mut(), w.kind.info().namespaced, w.namespace)?;
        dedup_owners(object.meta_mut(), w.warnings, false);
        let given = Owners::take(object.meta_mut());
        self.complete(w, &mut *object);
        let draft = self.drafted(w, None, object, Wish::Given(given))?;
        let draft = self.admit_new(w, draft).await?;
        let meta = draft.object.meta();
        let is_set = |field: &Option<String>| field.as_ref().is_some_and(|t| !t.is_empty());
        let generated = is_set(&meta.generate_name) && !is_set(&meta.name);
        if !generated && !self.inner.allocator.is_guarded(&*draft.object) {
            return self.create_once(w, draft, false).await?.done(w);
        }
        let mut attempt = 1;
        loop {
            let draft = Draft { object: draft.object.boxed_clone(), owners: draft.owners.clone(), ..draft };
            match self.create_once(w, draft, generated).await {
                Err(s) if generated && s.reason == "AlreadyExists" && attempt < GENERATE_NAME_ATTEMPTS => attempt += 1,
                Ok(Attempt::Raced) if attempt < RACE_ATTEMPTS => attempt += 1,
                other => return other?.done(w),
            }
        }
    }

    /// Fills defaults.
    fn complete(&self, w: &Write<'_>, object: &mut dyn AnyObject) {
        w.kind.default(object);
        devices::stamp_taints(object, truncate(self.clock_now()));
    }

    /// An object with the owners it has after this write. `old` is the object before and its owners.
    fn drafted(
        &self,
        w: &Write<'_>,
        old: Option<(&Doc<'_>, &Owners)>,
        object: Box<dyn AnyObject>,
        wish: Wish,
    ) -> Result<Draft, Status> {
        let before = old.map_or(&NO_OWNERS, |(_, owners)| owners);
        // Whoever sends none leaves them as they are.
        let edited = matches!(&wish, Wish::Given(given) if given.json().is_some() && given != before);
        let owners = managed::record(w.kind, old, &*object, wish, w.manager_at(self))?;
        Ok(Draft { object, owners, edited })
    }

    async fn admit_new(&self, w: &Write<'_>, draft: Draft) -> Result<Draft, Status> {
        let name = draft.object.meta().name.clone().unwrap_or_default();
        if matches!(w.kind, KindRef::Custom(custom) if custom.terminating) {
            let info = w.kind.info();
            let why = "create not allowed while custom resource definition is terminating";
            return Err(status::forbidden(&info.group, &info.plural, &name, why));
        }
        self.admit_draft(w, Operation::Create, &name, draft, None).await
    }

    /// Runs the mutating plugins.
    async fn admit_draft(
        &self,
        w: &Write<'_>,
        operation: Operation,
        name: &str,
        draft: Draft,
        old: Option<(&dyn AnyObject, &Owners)>,
    ) -> Result<Draft, Status> {
        let before = draft.owners.clone();
        let mut request = w.admission(self, operation, name, Some(draft.object), old.map(|(object, _)| object));
        request.owners = draft.owners;
        request.old_owners = old.map_or(&NO_OWNERS, |(_, owners)| owners);
        self.admit(&mut request).await?;
        let mut object = request.object.take().ok_or_else(|| status::internal("admission dropped the object"))?;
        dedup_owners(object.meta_mut(), w.warnings, true);
        self.complete(w, &mut *object);
        let edited = draft.edited || request.owners != before;
        Ok(Draft { object, owners: request.owners, edited })
    }

    async fn create_once(&self, w: &Write<'_>, draft: Draft, generated: bool) -> Result<Attempt, Status> {
        let Draft { mut object, owners, edited } = draft;
        let meta = object.meta_mut();
        meta.creation_timestamp = Some(Time(truncate(self.clock_now())));
        meta.uid = Some(self.inner.deps.random.uuid());
        if generated {
            meta.name = Some(self.generate_name(meta.generate_name.as_deref().unwrap_or_default()));
        }
        w.kind.prepare_create(&mut *object);
        self.name_limits(&mut *object);
        note_requester(&mut *object, w.user);
        self.inner.allocator.look_at_ranges(&*object, &self.inner.reader).await?;
        let mut guard = self.inner.allocator.guard(&*object, &self.inner.reader).await?;
        let reservation = self.inner.allocator.reserve_create(&mut *object, w.options.dry_run)?;
        let name = object.meta().name.clone().unwrap_or_default();
        let info = w.kind.info();
        let mut errors = devices::validate_admin_access(&self.inner.reader, &*object, None).await?;
        errors.extend(managed::checked(&mut *object, edited.then_some(&owners), |o| w.kind.validate_create(o))?);
        if !errors.is_empty() {
            return Err(status::invalid(info.error_group(), &info.kind, &name, &errors));
        }
        w.warnings.add(w.kind.warnings(&*object, None));
        let object = self.admit_final_object(w, Operation::Create, &name, object, &owners, None).await?;
        let attempt = self.commit_new(w, &name, object, &owners, generated, guard.as_mut()).await?;
        if matches!(attempt, Attempt::Done(_)) {
            reservation.keep();
        }
        Ok(attempt)
    }

    async fn commit_new(
        &self,
        w: &Write<'_>,
        name: &str,
        mut object: Box<dyn AnyObject>,
        owners: &Owners,
        generated: bool,
        mut guard: Option<&mut Guard>,
    ) -> Result<Attempt, Status> {
        let info = w.kind.info();
        let key = key_of(&info.storage, w.stored_namespace(), name);
        let taken = |found: Option<Stored>| {
            let mut answer = match generated {
                true => status::generate_name_conflict(info, name),
                false => status::already_exists(info, name),
            };
            if found.is_some_and(|f| f.header().deletion_timestamp.is_some()) {
                answer.message = format!("object is being deleted: {}", answer.message);
            }
            Err(answer)
        };
        for _ in 0..RACE_ATTEMPTS {
            let mut together = Together::default();
            if self.is_joined(w, Operation::Create) {
                (object, together) = self.together(w, Operation::Create, name, object, None).await?;
            }
            if w.options.dry_run {
                let found = self.inner.reader.stored(&info.storage, w.stored_namespace(), name).await;
                return match found.map_err(status::from_store)? {
                    Some(found) => taken(Some(found)),
                    None => {
                        let value = encode::to_value(&**w.kind, &mut *object, owners)?;
                        Ok(Attempt::Done(Written::DryRun { bytes: encode::unrevised(&value), created: true }))
                    }
                };
            }
            // The storage says this (`ErrResourceVersionSetOnCreate`), after all that may refuse the object for other reasons.
            if object.meta().resource_version.as_ref().is_some_and(|v| !v.is_empty()) {
                return Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created"));
            }
            let value = view::to_stored(self, w.kind, &mut *object, owners).await?;
            let mut ops = vec![Op::Create { key: key.clone(), value }];
            ops.extend(together.ops()?);
            ops.extend(guard.as_ref().map(|guard| guard.op()));
            match self.commit(info, Txn { ops }).await {
                Ok((revision, entries)) => {
                    if let Some(guard) = &mut guard {
                        guard.committed(revision);
                    }
                    let stored = view::stored(self, w.kind, first(entries)?).await?;
                    return Ok(Attempt::Done(Written::Stored { stored, created: true }));
                }
                Err(StoreError::Conflict { found, key: at, .. }) if at == key => {
                    return taken(found.map(|entry| Stored { entry }));
                }
                Err(StoreError::Conflict { key: at, .. }) if Guard::is_at(&at) => return Ok(Attempt::Raced),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(status::from_store(error)),
            }
        }
        Err(status::stale(info, name))
    }

    /// Limits without a name get one (`limitrangeStrategy.PrepareForCreate`).
    fn name_limits(&self, object: &mut dyn AnyObject) {
        let is_limits = api::any::downcast_ref::<LimitRange>(object).is_some();
        let meta = object.meta_mut();
        if is_limits && meta.name.as_ref().is_none_or(String::is_empty) {
            meta.name = Some(self.inner.deps.random.uuid());
        }
    }

    fn generate_name(&self, prefix: &str) -> String {
        // `apiserver/pkg/storage/names/generate.go`: five random characters, 63 in all.
        let prefix: String = prefix.chars().take(58).collect();
        format!("{prefix}{}", self.inner.deps.random.suffix(5))
    }

    /// Changes the object, or creates it where that is allowed.
    pub(crate) async fn modify_object(&self, w: &Write<'_>, change: &dyn Change) -> Result<Written, Status> {
        let info = w.kind.info();
        for _ in 0..RACE_ATTEMPTS {
            let found = self.inner.reader.stored(&info.storage, w.stored_namespace(), w.name).await;
            let attempt = match found.map_err(status::from_store)? {
                Some(stored) => self.modify_once(w, change, stored).await?,
                None => self.create_by_update(w, change).await?,
            };
            if let Attempt::Done(written) = attempt {
                return Ok(written);
            }
        }
        Err(status::stale(info, w.name))
    }

    async fn create_by_update(&self, w: &Write<'_>, change: &dyn Change) -> Result<Attempt, Status> {
        let info = w.kind.info();
        if !w.subresource.is_empty() || !(w.kind.allow_create_on_update() || change.may_create()) {
            return Err(status::not_found(info, w.name));
        }
        let Wanted { mut object, owners, uid, .. } = change.wanted(None)?;
        if let Some(uid) = uid {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(status::conflict(info, w.name, &why));
        }
        // Changing is one right, creating another (`withAuthorization` in handlers/update.go).
        self.authorize(&w.attributes("create")).await?;
        wipe_system_fields(object.meta_mut());
        object.meta_mut().name = Some(w.name.to_owned());
        ensure_namespace(object.meta_mut(), info.namespaced, w.namespace)?;
        self.complete(w, &mut *object);
        let draft = self.drafted(w, None, object, owners)?;
        let draft = self.admit_new(w, draft).await?;
        self.create_once(w, draft, false).await
    }

    async fn modify_once(&self, w: &Write<'_>, change: &dyn Change, stored: Stored) -> Result<Attempt, Status> {
        let info = w.kind.info();
        let seen = view::stored(self, w.kind, stored.clone()).await?;
        let whole = convert::view(&**w.kind, seen.bytes());
        let (bare, old_owners) = Owners::cut(&whole);
        let doc = managed::doc(&bare)?;
        let wanted = change.wanted(Some(&Existing { whole: &whole, bare: &doc }));
        w.warnings.add(change.take_warnings());
        let Wanted { mut object, owners, uid, sent } = wanted?;
        let old = old_beside(w.kind, &bare, sent.as_ref())?;
        check_same_object(w, object.meta_mut(), &*old, uid)?;
        check_revision(w, &*object, &stored)?;
        dedup_owners(object.meta_mut(), w.warnings, false);
        self.complete(w, &mut *object);
        let draft = self.drafted(w, Some((&doc, &old_owners)), object, owners)?;
        let draft = self.admit_draft(w, Operation::Update, w.name, draft, Some((&*old, &old_owners))).await?;
        let Draft { mut object, owners, edited } = draft;

        // A Scale is another view of the spec; the object changes as by an ordinary update.
        let subresource = Some(w.subresource).filter(|s| !s.is_empty() && *s != "scale");
        w.kind.prepare_update(&mut *object, &*old, subresource);
        if subresource == Some("status") {
            note_phase(&mut *object, &*old, Time(truncate(self.clock_now())));
        }
        self.inner.allocator.look_at_ranges(&*object, &self.inner.reader).await?;
        let mut guard = self.inner.allocator.guard(&*object, &self.inner.reader).await?;
        let reservation = self.inner.allocator.reserve_update(&mut *object, &*old, w.options.dry_run)?;
        let mut errors = devices::validate_admin_access(&self.inner.reader, &*object, Some(&*old)).await?;
        if subresource == Some("status") {
            errors.extend(device_rights::validate(self, w, change.verb(), &*object, &*old).await);
        }
        errors.extend(managed::checked(&mut *object, edited.then_some(&owners), |object| {
            w.kind.validate_update(object, &*old, subresource)
        })?);
        if !errors.is_empty() {
            return Err(status::invalid(info.error_group(), &info.kind, w.name, &errors));
        }
        if subresource.is_none() {
            w.warnings.add(w.kind.warnings(&*object, Some(&*old)));
        }
        let new = encode::Bare::of(&**w.kind, &mut *object)?;
        // What was stored in another version may have its members in another order.
        let is_foreign = || convert::is_foreign(&**w.kind, stored.bytes());
        let is_same = new.is_same(&bare) || (is_foreign() && new.is_same(&w.kind.encode(&*old)));
        let owners = managed::unless_only_times(owners, &old_owners, is_same)?;
        let before = Some((&*old, &old_owners));
        let object = self.admit_final_object(w, Operation::Update, w.name, object, &owners, before).await?;
        let attempt = self.commit_change(w, object, new, &owners, &*old, stored, guard.as_mut()).await?;
        if matches!(attempt, Attempt::Done(_)) {
            reservation.keep();
        }
        Ok(attempt)
    }

    /// Changes the stored object without its kind's rules for updates: for the server's own steps (binding, eviction).
    pub(crate) async fn rewrite(
        &self,
        kind: &KindRef,
        namespace: &str,
        name: &str,
        dry_run: bool,
        change: &(dyn Fn(&mut dyn AnyObject) -> Result<(), Status> + Send + Sync),
    ) -> Result<Stored, Status> {
        let info = kind.info();
        for _ in 0..RACE_ATTEMPTS {
            let found = self.inner.reader.stored(&info.storage, namespace, name).await.map_err(status::from_store)?;
            let stored = found.ok_or_else(|| status::not_found(info, name))?;
            let (bare, owners) = Owners::cut(stored.bytes());
            let mut object = kind.decode(&bare).map_err(status::internal)?;
            change(&mut *object)?;
            let mut value = encode::to_value(&**kind, &mut *object, &owners)?;
            if dry_run || encode::is_same(&value, stored.bytes()) {
                return Ok(stored);
            }
            value.derived = Some(Arc::new(Header::of(&*object, &**kind)));
            let op = Op::Update { key: stored.entry.key.clone(), expected: stored.revision(), value };
            match self.commit(info, Txn { ops: vec![op] }).await {
                Ok((_, entries)) => return first(entries),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(status::from_store(error)),
            }
        }
        Err(status::stale(info, name))
    }

    async fn commit_change(
        &self,
        w: &Write<'_>,
        mut object: Box<dyn AnyObject>,
        bare: encode::Bare,
        owners: &Owners,
        old: &dyn AnyObject,
        stored: Stored,
        guard: Option<&mut Guard>,
    ) -> Result<Attempt, Status> {
        let ends = ends_with_update(&*object, old);
        let mut together = Together::default();
        if self.is_joined(w, Operation::Update) {
            (object, together) = self.together(w, Operation::Update, w.name, object, Some(old)).await?;
        }
        let revision = stored.revision();
        if w.options.dry_run {
            let bytes = encode::splice(&bare.with(owners), &revision.0.to_string());
            return Ok(Attempt::Done(Written::DryRun { bytes, created: false }));
        }
        let value = view::bare_to_stored(self, w.kind, &*object, bare, owners).await?;
        if !ends && encode::is_same(&value, stored.bytes()) {
            let stored = view::stored(self, w.kind, stored).await?;
            return Ok(Attempt::Done(Written::Stored { stored, created: false }));
        }
        let key = stored.entry.key.clone();
        let op = match ends {
            true => Op::Delete { key, expected: revision, last: value },
            false => Op::Update { key, expected: revision, value },
        };
        let mut ops = vec![op];
        ops.extend(together.ops()?);
        ops.extend(guard.as_ref().map(|guard| guard.op()));
        let committed = self.commit(w.kind.info(), Txn { ops }).await;
        if let (Ok((revision, _)), Some(guard)) = (&committed, guard) {
            guard.committed(*revision);
        }
        match committed {
            Ok((_, entries)) if ends => {
                self.inner.allocator.release(&*object);
                let stored = view::stored(self, w.kind, first(entries)?).await?;
                Ok(Attempt::Done(Written::Removed { stored }))
            }
            Ok((_, entries)) => {
                let stored = view::stored(self, w.kind, first(entries)?).await?;
                Ok(Attempt::Done(Written::Stored { stored, created: false }))
            }
            Err(StoreError::Conflict { .. }) => Ok(Attempt::Raced),
            Err(error) => Err(status::from_store(error)),
        }
    }

    /// Whether some plugin may want to write something together with such writes.
    fn is_joined(&self, w: &Write<'_>, operation: Operation) -> bool {
        let info = w.kind.info();
        self.inner.deps.admission.iter().any(|p| p.joins(operation, info, w.subresource))
    }

    /// Asks the plugins what goes with an object and hands it back.
    async fn together(
        &self,
        w: &Write<'_>,
        operation: Operation,
        name: &str,
        object: Box<dyn AnyObject>,
        old: Option<&dyn AnyObject>,
    ) -> Result<(Box<dyn AnyObject>, Together), Status> {
        let mut request = w.admission(self, operation, name, Some(object), old);
        let together = admission::together(&self.inner.deps.admission, &request).await?;
        let object = request.object.take().ok_or_else(|| status::internal("admission dropped the object"))?;
        Ok((object, together))
    }

    /// Runs the validating plugins over an object and hands it back.
    async fn admit_final_object(
        &self,
        w: &Write<'_>,
        operation: Operation,
        name: &str,
        object: Box<dyn AnyObject>,
        owners: &Owners,
        old: Option<(&dyn AnyObject, &Owners)>,
    ) -> Result<Box<dyn AnyObject>, Status> {
        let mut request = w.admission(self, operation, name, Some(object), old.map(|(object, _)| object));
        request.owners = owners.clone();
        request.old_owners = old.map_or(&NO_OWNERS, |(_, owners)| owners);
        self.admit_final(&request).await?;
        request.object.take().ok_or_else(|| status::internal("admission dropped the object"))
    }
}

impl<'a> Write<'a> {
    /// The namespace part of the storage key.
    pub(crate) fn stored_namespace(&self) -> &'a str {
        if self.kind.info().namespaced { self.namespace } else { "" }
    }

    pub(crate) fn manager_at(&self, server: &ApiServer) -> Manager<'a> {
        Manager { name: self.manager, subresource: self.subresource, now: truncate(server.clock_now()) }
    }

    /// For asking the authorizer about another verb on the same object.
    pub(crate) fn attributes(&self, verb: &'a str) -> Attributes<'a> {
        let info = self.kind.info();
        Attributes {
            user: self.user,
            verb,
            group: &info.group,
            version: &info.version,
            resource: &info.plural,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            path: "",
            is_resource_request: true,
            field_selector: "",
            label_selector: "",
        }
    }

    pub(crate) fn admission<'r>(
        &'r self,
        server: &'r ApiServer,
        operation: Operation,
        name: &'r str,
        object: Option<Box<dyn AnyObject>>,
        old_object: Option<&'r dyn AnyObject>,
    ) -> Request<'r> {
        Request {
            operation,
            kind: self.kind,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            user: self.user,
            dry_run: self.options.dry_run,
            options: &self.options.json,
            object,
            old_object,
            owners: Owners::default(),
            old_owners: &NO_OWNERS,
            remarks: self.warnings,
            reinvocation: Default::default(),
            cluster: server,
        }
    }
}

/// The object there is, to be compared with what was sent.
fn old_beside(kind: &KindRef, bare: &[u8], sent: Option<&Value>) -> Result<Box<dyn AnyObject>, Status> {
    let Some((sent, schema)) = sent.zip(kind.schema()) else { return kind.decode(bare).map_err(status::internal) };
    let mut old: Value = serde_json::from_slice(bare).map_err(status::internal)?;
    machinery::schema::adopt_empties(schema.schema, schema.ty, sent, &mut old);
    kind.decode(old.to_string().as_bytes()).map_err(status::internal)
}

/// Who asks for a certificate is in the request (`csrStrategy.PrepareForCreate`).
fn note_requester(object: &mut dyn AnyObject, user: &UserInfo) {
    let Some(request) = api::any::downcast_mut::<CertificateSigningRequest>(object) else { return };
    let spec = &mut request.spec;
    let given = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    (spec.username, spec.uid) = (given(&user.name), given(&user.uid));
    spec.groups = Some(user.groups.clone()).filter(|g| !g.is_empty());
    spec.extra = Some(user.extra.clone()).filter(|e| !e.is_empty());
}

/// When a volume came into its phase, unless the client says so (`persistentvolumeStatusStrategy.PrepareForUpdate`).
fn note_phase(new: &mut dyn AnyObject, old: &dyn AnyObject, now: Time) {
    let Some((new, old)) =
        api::any::downcast_mut::<PersistentVolume>(new).zip(api::any::downcast_ref::<PersistentVolume>(old))
    else {
        return;
    };
    let (new, old) = (new.status.get_or_insert_default(), old.status.clone().unwrap_or_default());
    let since = &mut new.last_phase_transition_time;
    let phase = |phase: &Option<String>| phase.clone().unwrap_or_default();
    if phase(&new.phase) == phase(&old.phase) {
        *since = since.take().or(old.last_phase_transition_time);
    } else if since.is_none() || *since == old.last_phase_transition_time {
        *since = Some(now);
    }
}

/// A body must be about the object of the URL (`checkName`), and about the one that is stored.
fn check_same_object(
    w: &Write<'_>,
    new: &mut ObjectMeta,
    old: &dyn AnyObject,
    uid: Option<String>,
) -> Result<(), Status> {
    if let Some(uid) = uid {
        let stored = old.meta().uid.clone().unwrap_or_default();
        if uid != stored {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
            return Err(status::conflict(w.kind.info(), w.name, &why));
        }
    }
    ensure_namespace(new, w.kind.info().namespaced, w.namespace)
}

/// Optimistic concurrency: the new object must be made from the stored revision, or not care.
fn check_revision(w: &Write<'_>, object: &dyn AnyObject, stored: &Stored) -> Result<(), Status> {
    let text = object.meta().resource_version.as_deref().unwrap_or_default();
    if text.is_empty() || text == "0" {
        if w.kind.allow_unconditional_update() {
            return Ok(());
        }
        let info = w.kind.info();
        let path = machinery::field::Path::new("metadata").child("resourceVersion");
        let error = machinery::field::FieldError {
            kind: machinery::field::ErrorType::Invalid,
            path,
            body: "Invalid value: 0: must be specified for an update".to_owned(),
        };
        return Err(status::invalid(&info.group, &info.plural, w.name, &vec![error]));
    }
    if crate::options::parse_revision(text)? != stored.revision().0 {
        return Err(status::stale(w.kind.info(), w.name));
    }
    Ok(())
}

/// What clients cannot set on a new object (`WipeObjectMetaSystemFields`).
pub(crate) fn wipe_system_fields(meta: &mut ObjectMeta) {
    meta.creation_timestamp = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.uid = None;
    meta.self_link = None;
}

/// `EnsureObjectNamespaceMatchesRequestNamespace`
pub(crate) fn ensure_namespace(meta: &mut ObjectMeta, namespaced: bool, requested: &str) -> Result<(), Status> {
    let requested = if namespaced { requested } else { "" };
    let given = meta.namespace.as_deref().unwrap_or_default();
    if given == requested {
        return Ok(());
    }
    if given.is_empty() {
        meta.namespace = Some(requested.to_owned());
        return Ok(());
    }
    if requested.is_empty() {
        // Cluster-scoped objects have no namespace; validation would only say so again.
        meta.namespace = None;
        return Ok(());
    }
    Err(status::other_namespace())
}

/// Equal owner references count once (`dedupOwnerReferencesAndAddWarning`).
fn dedup_owners(meta: &mut ObjectMeta, warnings: &Remarks, after_admission: bool) {
    let Some(owners) = &mut meta.owner_references else { return };
    let before = owners.len();
    let mut doubles: Vec<String> = Vec::new();
    let mut seen: Vec<api::OwnerReference> = Vec::with_capacity(before);
    for owner in owners.drain(..) {
        if seen.contains(&owner) {
            doubles.push(owner.uid.clone());
        } else {
            seen.push(owner);
        }
    }
    *owners = seen;
    if !doubles.is_empty() {
        let uids = doubles.join(", ");
        let how = if after_admission { " after mutating admission" } else { "" };
        warnings.add([format!(
            ".metadata.ownerReferences contains duplicate entries{how}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
        )]);
    }
}

fn first(entries: Vec<Option<Arc<store::Entry>>>) -> Result<Stored, Status> {
    let entry = entries.into_iter().next().flatten();
    entry.map(|entry| Stored { entry }).ok_or_else(|| status::internal("the store returned no entry for a write"))
}
