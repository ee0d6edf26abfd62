//! The store in an etcd cluster, so that several servers share one (DESIGN D3).
//!
//! ```text
//!   commit ──▶ etcd transaction ──▶ revision r ──▶ wait until the follower has seen r ──▶ answer
//!   follower: one watch of everything ──▶ Mvcc (state, log, cursors) ──▶ reads and watches, as with the other backends
//!   read of the newest state ──▶ ask etcd for its revision (all readers at once), wait for the follower
//! ```
//!
//! etcd's first revision is 1 and belongs to no write; ours is one less. A value is kept with the place of its revision (four
//! bytes, then the bytes, sealed if there is a seal), since only etcd knows the revision. A deletion has no value there: this server's watchers see the
//! final value that was given, other servers' the one before with the deletion's revision.
//!
//! All keys are watched, not only ours: so every revision of etcd is seen, and "I have seen r" needs no progress messages
//! (which say too much before etcd 3.4.31). Share etcd with nothing that writes much.

use crate::mvcc::Mvcc;
use crate::plan::{Root, entry, expect, refuse_invalid};
use crate::{
    At, Change, Entry, Event, Key, Limits, Listing, Op, Page, Range, Read, Revision, Seal, Store, StoreError, Txn,
    Value, WatchStream,
};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use wire::{Compare, DELETE, DeleteRangeRequest, Etcd, KeyValue, MOD, PutRequest, RangeRequest, RequestOp, TxnRequest};

mod wire;

/// Keys in one answer while loading.
const LOAD_PAGE: i64 = 1000;
/// Between a broken watch and the next.
const RETRY: Duration = Duration::from_millis(500);
/// How often a transaction that failed for a state that is gone again is sent anew.
const ATTEMPTS: usize = 8;
/// The place of the revision in a value that has none.
const NO_SPLICE: u32 = u32::MAX;

/// How etcd is reached.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// `http://host:2379` or `https://…`, one per member.
    pub endpoints: Vec<String>,
    /// Roots of the members' certificates, PEM; none = the system's are not used either: then `https` is refused.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// All our keys begin with it.
    pub prefix: String,
    /// How much history is kept in memory.
    pub limits: Limits,
    /// What values look like in etcd; without one, as they are. All servers need the same.
    pub seal: Option<Arc<dyn Seal>>,
}

/// Why etcd cannot be used.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// The options are no addresses or certificates.
    #[error("cannot use the etcd servers {endpoints}: {why}")]
    Options {
        /// As given.
        endpoints: String,
        /// Why.
        why: String,
    },
    /// It does not answer, or refuses.
    #[error("etcd at {endpoints} does not answer: {why}; is it running, and do the certificates fit?")]
    Unreachable {
        /// As given.
        endpoints: String,
        /// Why.
        why: String,
    },
    /// Something else wrote below our prefix.
    #[error("etcd holds a key that is not dhow's: {0}; choose another --etcd-prefix")]
    Foreign(String),
    /// Another server sealed it with other keys.
    #[error(
        "etcd holds {key}, which cannot be opened: {why}; have all servers the same pki/ in their data directories?"
    )]
    Sealed {
        /// What.
        key: String,
        /// Why.
        why: String,
    },
}

/// A [`Store`] that many processes share.
pub struct EtcdStore {
    shared: Arc<Shared>,
    /// Who waits for a read of the newest state.
    readers: mpsc::UnboundedSender<oneshot::Sender<Result<(), StoreError>>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    etcd: Etcd,
    prefix: String,
    seal: Option<Arc<dyn Seal>>,
    mvcc: Arc<Mvcc>,
    /// The newest revision of ours that `mvcc` has.
    applied: watch::Sender<u64>,
    pending: Mutex<Pending>,
}

/// Writes under way: what their events will not tell.
#[derive(Default)]
struct Pending {
    next: u64,
    by_key: HashMap<Key, Vec<(u64, Own)>>,
}

enum Own {
    Put { kept: Bytes, value: Value },
    Delete { expected: Revision, last: Value },
}

impl EtcdStore {
    /// Connects and loads everything.
    pub async fn open(options: EtcdOptions) -> Result<EtcdStore, EtcdError> {
        let endpoints = options.endpoints.join(",");
        let channel = channel(&options).map_err(|why| EtcdError::Options { endpoints: endpoints.clone(), why })?;
        let etcd = Etcd::new(channel);
        let unreachable = |s: tonic::Status| EtcdError::Unreachable { endpoints, why: s.message().to_owned() };
        let loaded = load(&etcd, &options.prefix, options.seal.as_deref()).await.map_err(unreachable)?;
        let (root, revision) = loaded?;
        let (mvcc, _) = Mvcc::new(options.limits, root, revision, revision, Vec::new());
        let shared = Arc::new(Shared {
            etcd,
            prefix: options.prefix,
            seal: options.seal,
            mvcc,
            applied: watch::channel(revision.0).0,
            pending: Mutex::default(),
        });
        let (readers, waiting) = mpsc::unbounded_channel();
        let tasks = vec![
            base::tasks::spawn("etcd-follower", follow(shared.clone())),
            base::tasks::spawn("etcd-reader", answer_readers(shared.clone(), waiting)),
        ];
        Ok(EtcdStore { shared, readers, tasks })
    }

    /// Ends all watches and refuses all writes from now on.
    pub fn close(&self) {
        self.shared.mvcc.close();
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Returns once everything that was acknowledged before, by any server, is seen here.
    async fn catch_up(&self) -> Result<(), StoreError> {
        let (sender, receiver) = oneshot::channel();
        self.readers.send(sender).map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    async fn prepare(&self, at: At) -> Result<(), StoreError> {
        match at {
            At::Exactly(revision) if revision <= self.shared.mvcc.revision() => Ok(()),
            _ => self.catch_up().await,
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.close();
    }
}

fn channel(options: &EtcdOptions) -> Result<Channel, String> {
    let mut tls = ClientTlsConfig::new();
    if let Some(ca) = &options.ca_pem {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((cert, key)) = &options.identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let mut all = Vec::new();
    for address in &options.endpoints {
        let mut endpoint = Endpoint::from_shared(address.clone()).map_err(|e| e.to_string())?;
        endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        if address.starts_with("https://") {
            endpoint = endpoint.tls_config(tls.clone()).map_err(|e| base::chain(&e))?;
        }
        all.push(endpoint);
    }
    match all.len() {
        0 => Err("none is named".to_owned()),
        1 => Ok(all.remove(0).connect_lazy()),
        _ => Ok(Channel::balance_list(all.into_iter())),
    }
}

// === values and revisions ===

fn ours(revision: i64) -> Revision {
    Revision(u64::try_from(revision - 1).unwrap_or_default())
}

/// 0, "does not exist", stays 0.
fn theirs(revision: Revision) -> i64 {
    match revision.0 {
        0 => 0,
        some => i64::try_from(some).unwrap_or(i64::MAX - 1) + 1,
    }
}

fn kept(key: &Key, value: &Value, seal: Option<&dyn Seal>) -> Result<Bytes, StoreError> {
    let sealed = match seal {
        Some(seal) => seal.seal(key.as_str(), &value.bytes).map_err(StoreError::Backend)?,
        None => Cow::Borrowed(value.bytes.as_ref()),
    };
    let mut out = BytesMut::with_capacity(sealed.len() + 4);
    out.put_u32_le(value.splice.and_then(|at| u32::try_from(at).ok()).unwrap_or(NO_SPLICE));
    out.extend_from_slice(&sealed);
    Ok(out.freeze())
}

/// `Ok(None)`: nothing of ours.
fn unkept(key: &str, bytes: &Bytes, seal: Option<&dyn Seal>) -> Result<Option<Value>, String> {
    let Some((place, _)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let stored = bytes.slice(4..);
    let opened = match seal.map(|seal| seal.open(key, &stored)).transpose()? {
        Some(Cow::Owned(plain)) => Some(plain),
        // It was not sealed.
        Some(Cow::Borrowed(_)) | None => None,
    };
    Ok(with_place(*place, opened.map_or(stored, Bytes::from)))
}

fn with_place(place: [u8; 4], rest: Bytes) -> Option<Value> {
    let splice = match u32::from_le_bytes(place) {
        NO_SPLICE => None,
        at => Some(usize::try_from(at).ok().filter(|at| *at <= rest.len())?),
    };
    Some(Value { bytes: rest, splice, derived: None })
}

/// The smallest key after all that begin with `prefix`.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

impl Shared {
    fn key_of(&self, raw: &[u8]) -> Option<Key> {
        std::str::from_utf8(raw).ok()?.strip_prefix(&self.prefix).map(Key::new)
    }

    fn raw(&self, key: &Key) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    async fn reached(&self, revision: Revision) -> Result<(), StoreError> {
        let mut applied = self.applied.subscribe();
        let seen = applied.wait_for(|seen| *seen >= revision.0).await;
        if seen.is_err() || self.mvcc.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(())
    }
}

// === loading and following ===

/// Everything below the prefix at one revision; the inner error is a key that is not ours, or that cannot be opened.
async fn load(
    etcd: &Etcd,
    prefix: &str,
    seal: Option<&dyn Seal>,
) -> Result<Result<(Root, Revision), EtcdError>, tonic::Status> {
    let mut root = Root::new();
    let (mut revision, mut key) = (0, prefix.as_bytes().to_vec());
    loop {
        let request =
            RangeRequest { key, range_end: prefix_end(prefix), limit: LOAD_PAGE, revision, count_only: false };
        let page = etcd.range(request).await?;
        if revision == 0 {
            revision = page.header.map(|h| h.revision).unwrap_or_default();
        }
        key = page.kvs.last().map(|kv| [kv.key.as_slice(), &[0]].concat()).unwrap_or_default();
        for kv in page.kvs {
            let name = std::str::from_utf8(&kv.key).ok().and_then(|k| k.strip_prefix(prefix));
            let foreign = || EtcdError::Foreign(String::from_utf8_lossy(&kv.key).into_owned());
            let Some(name) = name else { return Ok(Err(foreign())) };
            let value = match unkept(name, &kv.value, seal) {
                Ok(Some(value)) => value,
                Ok(None) => return Ok(Err(foreign())),
                Err(why) => return Ok(Err(EtcdError::Sealed { key: name.to_owned(), why })),
            };
            let new = entry(Key::new(name), value, ours(kv.create_revision), ours(kv.mod_revision));
            root.insert(new.key.clone(), new);
        }
        if !page.more {
            return Ok(Ok((root, ours(revision))));
        }
    }
}

async fn follow(shared: Arc<Shared>) {
    loop {
        let seen = shared.mvcc.revision();
        // The revision after the one that was seen, in etcd's counting.
        let start = i64::try_from(seen.0).unwrap_or(i64::MAX - 2) + 2;
        match follow_from(&shared, start).await {
            Ended::Compacted => match load(&shared.etcd, &shared.prefix, shared.seal.as_deref()).await {
                Ok(Ok((root, revision))) => {
                    tracing::warn!(
                        revision = revision.0,
                        "etcd forgot what this server had not seen; watches start over"
                    );
                    shared.mvcc.reset(root, revision);
                    shared.applied.send_replace(revision.0);
                    continue;
                }
                Ok(Err(error)) => tracing::error!(error = %base::chain(&error), "failed to load from etcd"),
                Err(error) => tracing::warn!(error = error.message(), "failed to load from etcd"),
            },
            Ended::Broken(why) => tracing::warn!(why, "the watch of etcd broke"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

enum Ended {
    Compacted,
    Broken(String),
}

async fn follow_from(shared: &Shared, start: i64) -> Ended {
    let mut stream = match shared.etcd.watch(start).await {
        Ok(stream) => stream,
        Err(status) => return Ended::Broken(status.message().to_owned()),
    };
    loop {
        match stream.message().await {
            Ok(Some(answer)) if answer.compact_revision > 0 => return Ended::Compacted,
            Ok(Some(answer)) if answer.canceled => return Ended::Broken(answer.cancel_reason),
            Ok(Some(answer)) => shared.apply(answer.events),
            Ok(None) => return Ended::Broken("it ended".to_owned()),
            Err(status) => return Ended::Broken(status.message().to_owned()),
        }
    }
}

impl Shared {
    /// Publishes events, one revision at a time.
    fn apply(&self, events: Vec<wire::Event>) {
        let mut events = events.into_iter().filter_map(|e| Some((e.kind, e.kv?))).peekable();
        while let Some((_, first)) = events.peek() {
            let at = first.mod_revision;
            let (mut root, _) = self.mvcc.latest();
            let mut changes = Vec::new();
            while let Some((kind, kv)) = events.next_if(|(_, kv)| kv.mod_revision == at) {
                changes.extend(self.change(&mut root, kind, &kv).map(|change| Event { revision: ours(at), change }));
            }
            self.mvcc.publish(changes, root, ours(at));
            self.applied.send_replace(ours(at).0);
        }
    }

    fn change(&self, root: &mut Root, kind: i32, kv: &KeyValue) -> Option<Change> {
        let key = self.key_of(&kv.key)?;
        let at = ours(kv.mod_revision);
        if kind == DELETE {
            let old = root.remove(&key)?;
            let last = self.own_last(&old).unwrap_or_else(|| Value::plain(old.value.clone()));
            return Some(Change::Deleted { last: entry(old.key.clone(), last, old.created, at), old });
        }
        let mut value = match unkept(key.as_str(), &kv.value, self.seal.as_deref()) {
            Ok(Some(value)) => value,
            Ok(None) => {
                tracing::error!(%key, "a value in etcd is damaged");
                return None;
            }
            Err(why) => {
                tracing::error!(%key, %why, "a value in etcd cannot be opened");
                return None;
            }
        };
        value.derived = self.own_derived(&key, &kv.value);
        let old = root.get(&key).cloned();
        let name = old.as_ref().map_or(key, |old| old.key.clone());
        let new = entry(name, value, ours(kv.create_revision), at);
        root.insert(new.key.clone(), new.clone());
        Some(match old {
            Some(old) => Change::Updated { new, old },
            None => Change::Created(new),
        })
    }

    fn own_derived(&self, key: &Key, bytes: &Bytes) -> Option<Arc<dyn std::any::Any + Send + Sync>> {
        let pending = self.pending.lock();
        pending.by_key.get(key)?.iter().find_map(|(_, own)| match own {
            Own::Put { kept, value } if kept == bytes => value.derived.clone(),
            _ => None,
        })
    }

    fn own_last(&self, old: &Entry) -> Option<Value> {
        let pending = self.pending.lock();
        pending.by_key.get(&old.key)?.iter().find_map(|(_, own)| match own {
            Own::Delete { expected, last } if *expected == old.modified => Some(last.clone()),
            _ => None,
        })
    }
}

/// Asks etcd for its newest revision, once for all who wait.
async fn answer_readers(
    shared: Arc<Shared>,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<Result<(), StoreError>>>,
) {
    while let Some(first) = waiting.recv().await {
        let mut all = vec![first];
        while let Ok(more) = waiting.try_recv() {
            all.push(more);
        }
        let request = RangeRequest { key: vec![0], count_only: true, ..RangeRequest::default() };
        let result = match shared.etcd.range(request).await {
            Ok(answer) => shared.reached(ours(answer.header.map(|h| h.revision).unwrap_or_default())).await,
            Err(status) => Err(failure(&status)),
        };
        for reader in all {
            // Whoever went away does not need to know.
            drop(reader.send(match &result {
                Ok(()) => Ok(()),
                Err(StoreError::Closed) => Err(StoreError::Closed),
                Err(other) => Err(StoreError::Backend(other.to_string())),
            }));
        }
    }
}

fn failure(status: &tonic::Status) -> StoreError {
    if status.code() == tonic::Code::InvalidArgument {
        // E.g. more operations than its `--max-txn-ops`, or more bytes than its `--max-request-bytes`.
        return StoreError::Invalid(format!("etcd: {}", status.message()));
    }
    StoreError::Backend(format!("etcd: {}", status.message()))
}

// === writing ===

/// Registers what a transaction writes until it is dropped.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
    keys: Vec<Key>,
}

impl<'a> Registered<'a> {
    fn new(shared: &'a Shared, txn: &Txn, kept: &[Bytes]) -> Self {
        let mut pending = shared.pending.lock();
        pending.next += 1;
        let id = pending.next;
        let mut keys = Vec::new();
        for (op, kept) in txn.ops.iter().zip(kept) {
            let own = match op {
                Op::Create { value, .. } | Op::Update { value, .. } => {
                    Own::Put { kept: kept.clone(), value: value.clone() }
                }
                Op::Delete { expected, last, .. } => Own::Delete { expected: *expected, last: last.clone() },
                Op::Check { .. } => continue,
            };
            pending.by_key.entry(op.key().clone()).or_default().push((id, own));
            keys.push(op.key().clone());
        }
        Registered { shared, id, keys }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut pending = self.shared.pending.lock();
        for key in &self.keys {
            if let Some(list) = pending.by_key.get_mut(key) {
                list.retain(|(id, _)| *id != self.id);
                if list.is_empty() {
                    pending.by_key.remove(key);
                }
            }
        }
    }
}

impl Shared {
    /// What each op of a transaction writes; empty for those that write nothing.
    fn kept(&self, txn: &Txn) -> Result<Vec<Bytes>, StoreError> {
        let one = |op: &Op| match op {
            Op::Create { key, value } | Op::Update { key, value, .. } => kept(key, value, self.seal.as_deref()),
            Op::Delete { .. } | Op::Check { .. } => Ok(Bytes::new()),
        };
        txn.ops.iter().map(one).collect()
    }

    fn request(&self, txn: &Txn, kept: &[Bytes]) -> TxnRequest {
        let mut request = TxnRequest::default();
        for (op, kept) in txn.ops.iter().zip(kept) {
            let key = self.raw(op.key());
            let expected = match op {
                Op::Create { .. } => 0,
                // Must exist: no key ever has this revision.
                Op::Update { expected: Revision(0), .. } | Op::Delete { expected: Revision(0), .. } => -1,
                Op::Update { expected, .. } | Op::Delete { expected, .. } | Op::Check { expected, .. } => {
                    theirs(*expected)
                }
            };
            let mod_revision = Some(expected);
            request.compare.push(Compare { result: 0, target: MOD, key: key.clone(), mod_revision });
            request.success.extend(match op {
                Op::Create { .. } | Op::Update { .. } => {
                    Some(RequestOp { put: Some(PutRequest { key, value: kept.clone() }), delete_range: None })
                }
                Op::Delete { .. } => Some(RequestOp { put: None, delete_range: Some(DeleteRangeRequest { key }) }),
                Op::Check { .. } => None,
            });
        }
        request
    }

    /// What a commit of ours at `revision` wrote, in the order of its ops.
    fn written(&self, txn: &Txn, revision: Revision) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
        let events = self.mvcc.events_at(revision);
        let of = |key: &Key| {
            let event = events.iter().find(|e| e.change.key() == key)?;
            Some(match &event.change {
                Change::Created(new) | Change::Updated { new, .. } => new.clone(),
                Change::Deleted { last, .. } => last.clone(),
            })
        };
        let lost = || StoreError::Backend("the write was done, but its result is not in the log any more".into());
        txn.ops
            .iter()
            .map(|op| match op {
                Op::Check { .. } => Ok(None),
                _ => of(op.key()).map(Some).ok_or_else(lost),
            })
            .collect()
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key, at: At) -> Result<Read<Option<Arc<Entry>>>, StoreError> {
        self.prepare(at).await?;
        self.shared.mvcc.get(key, at)
    }

    async fn list(&self, range: &Range, at: At, page: Page) -> Result<Read<Listing>, StoreError> {
        self.prepare(at).await?;
        self.shared.mvcc.list(range, at, page)
    }

    async fn commit(&self, txn: Txn) -> Result<(Revision, Vec<Option<Arc<Entry>>>), StoreError> {
        refuse_invalid(&txn)?;
        if self.shared.mvcc.is_closed() {
            return Err(StoreError::Closed);
        }
        let shared = &self.shared;
        let writes = txn.ops.iter().any(|op| !matches!(op, Op::Check { .. }));
        let kept = shared.kept(&txn)?;
        for _ in 0..ATTEMPTS {
            let registered = Registered::new(shared, &txn, &kept);
            let answer = shared.etcd.txn(shared.request(&txn, &kept)).await.map_err(|s| failure(&s))?;
            let revision = ours(answer.header.map(|h| h.revision).unwrap_or_default());
            shared.reached(revision).await?;
            drop(registered);
            if answer.succeeded {
                let entries = if writes { shared.written(&txn, revision)? } else { vec![None; txn.ops.len()] };
                return Ok((revision, entries));
            }
            let (root, _) = shared.mvcc.latest();
            for op in &txn.ops {
                expect(&root, op)?;
            }
            // What was in the way is gone again.
        }
        Err(StoreError::Backend("etcd: the transaction met changing obstacles".into()))
    }

    async fn watch(&self, range: &Range, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        // A client may have the revision from another server.
        if after > self.shared.mvcc.revision() {
            self.catch_up().await?;
        }
        Ok(Box::new(self.shared.mvcc.watch(range, after)?))
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.shared.mvcc.compact(before)?;
        if before.0 == 0 {
            return Ok(());
        }
        match self.shared.etcd.compact(theirs(before)).await {
            // Another server was faster.
            Err(status) if status.code() == tonic::Code::OutOfRange => Ok(()),
            Err(status) => Err(failure(&status)),
            Ok(_) => Ok(()),
        }
    }

    fn revision(&self) -> Revision {
        self.shared.mvcc.revision()
    }

    async fn size(&self) -> Option<u64> {
        self.shared.etcd.status().await.ok().and_then(|status| u64::try_from(status.db_size).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_the_place_of_their_revision() {
        for splice in [None, Some(0), Some(2)] {
            let value = Value { splice, ..Value::plain("ab") };
            let key = Key::new("/x");
            let stored = kept(&key, &value, None).expect("no seal");
            let back = unkept("/x", &stored, None).expect("no seal").expect("ours");
            assert_eq!((back.bytes, back.splice), (value.bytes, splice));
        }
        let unkept = |bytes: &'static [u8]| unkept("/x", &Bytes::from_static(bytes), None).expect("no seal");
        assert!(unkept(b"abc").is_none());
        assert!(unkept(&[9, 0, 0, 0, 1]).is_none(), "outside of its bytes");
    }

    /// Turns all bits of secrets around.
    #[derive(Debug)]
    struct Around;

    impl Seal for Around {
        fn seal<'a>(&self, key: &str, value: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
            let turned = || value.iter().map(|byte| !byte).collect::<Vec<u8>>().into();
            Ok(if key.starts_with("/secrets/") { turned() } else { value.into() })
        }

        fn open<'a>(&self, key: &str, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
            self.seal(key, stored)
        }

        fn is_current(&self, _: &str, _: &[u8]) -> bool {
            true
        }
    }

    #[test]
    fn what_is_sealed_is_plain_here_and_not_there() {
        let value = Value { splice: Some(2), ..Value::plain("{}") };
        for (key, is_plain) in [("/secrets/a/b", false), ("/pods/a/b", true)] {
            let stored = kept(&Key::new(key), &value, Some(&Around)).expect("it seals");
            assert_eq!(stored.ends_with(b"{}"), is_plain, "{key}");
            let back = unkept(key, &stored, Some(&Around)).expect("it opens").expect("ours");
            assert_eq!((back.bytes.as_ref(), back.splice), (b"{}".as_slice(), Some(2)));
        }
    }

    #[test]
    fn prefixes_end_where_the_next_begins() {
        assert_eq!(prefix_end("/dhow"), b"/dhox");
        assert_eq!(prefix_end(""), [0]);
    }
}
