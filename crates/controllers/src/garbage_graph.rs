//! Who owns whom, over all kinds, from metadata alone (`pkg/controller/garbagecollector/graph_builder.go`). Pure: events in,
//! the UIDs to look at out.

use crate::garbage_collector::{FOREGROUND, ORPHAN};
use crate::raw::Resource;
use api::{ObjectMeta, OwnerReference, meta::MetaExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// How many answers about owners outside the graph are remembered (upstream's `absentOwnerCache` has 500).
const REMEMBERED: usize = 4096;

/// An object, as far as ownership is concerned.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// `resourceVersion`
    pub(crate) revision: String,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) deleting: bool,
}

impl Node {
    pub(crate) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }
    /// Whether nothing in this namespace can have it as owner.
    fn is_apart_from(&self, namespace: &str) -> bool {
        !self.namespace.is_empty() && self.namespace != namespace
    }
    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }
    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerState {
    /// It exists.
    Solid,
    /// It exists, and is being deleted in the foreground.
    WaitsForDependents,
    /// The API server has no such object.
    Absent,
    /// The graph does not know it; nobody has asked.
    Unknown,
}

/// An owner of an item.
pub(crate) struct Owner {
    pub(crate) reference: OwnerReference,
    pub(crate) state: OwnerState,
    /// The graph has it, in another namespace than the item's.
    pub(crate) wrong_namespace: bool,
}

/// An object that an item owns.
pub(crate) struct Dependent {
    pub(crate) node: Arc<Node>,
    /// `blockOwnerDeletion`
    pub(crate) blocks: bool,
}

/// An owner as a reference names it: UID, namespace of the item, API group, kind, name.
type Named = (String, String, String, String, String);

/// See the module.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<String, Arc<Node>>,
    /// Owner's UID → UIDs of what it owns, whether the owner is in the graph or not.
    dependents: HashMap<String, BTreeSet<String>>,
    by_resource: BTreeMap<(String, String), BTreeSet<String>>,
    verified: BTreeMap<Named, OwnerState>,
    served: Vec<Arc<Resource>>,
}

impl Graph {
    pub(crate) fn clear(&mut self) {
        *self = Graph::default();
    }

    /// What is served now.
    pub(crate) fn serve(&mut self, served: Vec<Arc<Resource>>) {
        self.served = served;
    }

    /// The resource of a kind; any version of its group.
    pub(crate) fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.served.iter().find(|r| r.kind == kind && r.group == group(api_version)).cloned()
    }

    /// An item, its owners and what it owns.
    pub(crate) fn around(&self, uid: &str) -> Option<(Arc<Node>, Vec<Owner>, Vec<Dependent>)> {
        let item = self.nodes.get(uid)?.clone();
        let owners = item.owners.iter().map(|o| self.owner(&item, o)).collect();
        let owned = self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d));
        let dependents = owned.map(|node| Dependent { blocks: node.blocks(uid), node: node.clone() }).collect();
        Some((item, owners, dependents))
    }

    fn owner(&self, item: &Node, reference: &OwnerReference) -> Owner {
        let known = self.nodes.get(&reference.uid);
        let wrong_namespace = known.is_some_and(|n| n.is_apart_from(&item.namespace));
        let state = match self.named_by(&item.namespace, reference) {
            Some(node) if node.waits_for_dependents() => OwnerState::WaitsForDependents,
            Some(_) => OwnerState::Solid,
            None => self.verified.get(&named(&item.namespace, reference)).copied().unwrap_or(OwnerState::Unknown),
        };
        Owner { reference: reference.clone(), state, wrong_namespace }
    }

    /// The object that a reference names, if the graph has it.
    fn named_by(&self, namespace: &str, reference: &OwnerReference) -> Option<&Arc<Node>> {
        let fits = |n: &&Arc<Node>| {
            n.name == reference.name
                && n.resource.kind == reference.kind
                && n.resource.group == group(&reference.api_version)
        };
        self.nodes.get(&reference.uid).filter(|n| !n.is_apart_from(namespace)).filter(fits)
    }

    /// Remembers what the API server said of an owner that the graph does not have.
    pub(crate) fn verified(&mut self, namespace: &str, reference: &OwnerReference, state: OwnerState) {
        // The watches may have told meanwhile that it came, or that it went; the answer is older than that.
        if self.named_by(namespace, reference).is_some() {
            return;
        }
        if self.verified.len() >= REMEMBERED {
            self.verified.clear();
        }
        let known = self.verified.entry(named(namespace, reference)).or_insert(state);
        if *known != OwnerState::Absent {
            *known = state;
        }
    }

    /// An object is there in this state. Returns whom that concerns.
    pub(crate) fn present(&mut self, resource: &Arc<Resource>, meta: ObjectMeta) -> Vec<String> {
        let text = |t: Option<String>| t.unwrap_or_default();
        let node = Arc::new(Node {
            resource: resource.clone(),
            deleting: meta.is_deleting(),
            namespace: text(meta.namespace),
            name: text(meta.name),
            uid: text(meta.uid),
            revision: text(meta.resource_version),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
        });
        let uid = node.uid.clone();
        let old = self.nodes.insert(uid.clone(), node.clone());
        if old.is_none() {
            self.by_resource.entry(key(resource)).or_default().insert(uid.clone());
            // What was said of it while it was unknown is of no use any more.
            self.forget_answers(&uid);
        }
        let mut concerned = BTreeSet::new();
        let old_owners = old.as_ref().map(|o| o.owners.as_slice()).unwrap_or_default();
        for owner in old_owners {
            let still_blocks = node.blocks(&owner.uid);
            if !node.owners.iter().any(|o| o.uid == owner.uid) {
                self.forget_dependent(&owner.uid, &uid);
            }
            if owner.block_owner_deletion == Some(true) && !still_blocks {
                concerned.extend(self.waiting(&owner.uid));
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if node.waits_for_dependents() || (node.deleting && node.has(ORPHAN)) {
            concerned.insert(uid.clone());
            if node.waits_for_dependents() {
                concerned.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            }
        } else if !node.owners.is_empty() && !node.deleting {
            concerned.insert(uid);
        }
        concerned.into_iter().collect()
    }

    /// An object is gone. Returns whom that concerns: what it owned, and owners that wait for it.
    pub(crate) fn gone(&mut self, uid: &str) -> Vec<String> {
        let concerned = self.lose(uid);
        let owned: Vec<Arc<Node>> = concerned.iter().filter_map(|other| self.nodes.get(other)).cloned().collect();
        for dependent in owned {
            for reference in dependent.owners.iter().filter(|o| o.uid == uid) {
                self.verified(&dependent.namespace, reference, OwnerState::Absent);
            }
        }
        concerned
    }

    /// A resource is not watched any more: nothing is known of its objects. Returns whom that concerns.
    pub(crate) fn unwatched(&mut self, resource: &Resource) -> Vec<String> {
        let unknown = self.by_resource.remove(&key(resource)).unwrap_or_default();
        let concerned: BTreeSet<String> = unknown.iter().flat_map(|uid| self.lose(uid)).collect();
        concerned.into_iter().collect()
    }

    /// The graph has an object no longer, wherever that is. Returns whom that concerns.
    fn lose(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        if let Some(of) = self.by_resource.get_mut(&key(&node.resource)) {
            of.remove(uid);
        }
        let mut concerned: BTreeSet<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.forget_dependent(&owner.uid, uid);
            concerned.extend(self.waiting(&owner.uid));
        }
        concerned.into_iter().collect()
    }

    /// These, and no others, are the objects of a resource. Returns whom the difference concerns.
    pub(crate) fn replace(&mut self, resource: &Arc<Resource>, items: Vec<ObjectMeta>) -> Vec<String> {
        let mut gone = self.by_resource.get(&key(resource)).cloned().unwrap_or_default();
        let mut concerned = BTreeSet::new();
        for item in items {
            gone.remove(item.uid());
            concerned.extend(self.present(resource, item));
        }
        for uid in gone {
            concerned.extend(self.gone(&uid));
        }
        concerned.into_iter().collect()
    }

    fn waiting(&self, owner: &str) -> Option<String> {
        self.nodes.get(owner).filter(|n| n.waits_for_dependents()).map(|n| n.uid.clone())
    }

    fn forget_dependent(&mut self, owner: &str, uid: &str) {
        if let Some(owned) = self.dependents.get_mut(owner) {
            owned.remove(uid);
            if owned.is_empty() {
                self.dependents.remove(owner);
                self.forget_answers(owner);
            }
        }
    }

    fn forget_answers(&mut self, owner: &str) {
        let first = (owner.to_owned(), String::new(), String::new(), String::new(), String::new());
        let of_it = self.verified.range(first..).map(|(named, _)| named).take_while(|named| named.0 == owner);
        for named in of_it.cloned().collect::<Vec<_>>() {
            self.verified.remove(&named);
        }
    }
}

fn key(resource: &Resource) -> (String, String) {
    (resource.group.clone(), resource.plural.clone())
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn named(namespace: &str, r: &OwnerReference) -> Named {
    (r.uid.clone(), namespace.to_owned(), group(&r.api_version).to_owned(), r.kind.clone(), r.name.clone())
}
