//! Links of pods to come. A network namespace that waits for its pod gets everything but addresses, which is most of the work: the kernel
//! waits for its readers whenever a link is made.
//!
//! Invariants: a namespace is furnished by one at a time, and not after its pod was attached. Nothing here must be found again after a
//! restart: a link lives as long as both namespaces, and one without a lease is an orphan.

use super::apply::Ends;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::linux::fs::MetadataExt;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Which namespace: its inode.
pub(super) type Id = u64;

/// A link that is being made or waits for its pod.
#[derive(Debug)]
struct Waiting {
    id: Id,
    link: String,
    /// Until somebody waits for it. Nothing comes if the link could not be made.
    ends: Option<Receiver<Ends>>,
}

#[derive(Debug, Default)]
pub(super) struct Advance {
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// Of pods: word of a namespace may come after its pod. Inodes are given again soon, so only until the pod is detached.
    attached: BTreeMap<String, Id>,
}

impl Advance {
    /// Begins to prepare, unless the pod was faster. Beyond `most` the oldest is forgotten: its pod does not come any more.
    pub(super) fn begin(&mut self, id: Id, link: String, most: usize) -> Option<Sender<Ends>> {
        if self.attached.values().any(|other| *other == id) || self.waiting.iter().any(|w| w.id == id) {
            return None;
        }
        while self.waiting.len() >= most.max(1) {
            self.waiting.pop_front();
        }
        let (sender, receiver) = channel();
        self.waiting.push_back(Waiting { id, link, ends: Some(receiver) });
        Some(sender)
    }

    /// What there is for a pod that is attached now: the name of its link, and what brings its ends. [`done`](Self::done) is due.
    pub(super) fn take(&mut self, pod_id: &str, id: Id) -> Option<(String, Receiver<Ends>)> {
        self.attached.insert(pod_id.to_owned(), id);
        let waiting = self.waiting.iter_mut().find(|w| w.id == id)?;
        Some((waiting.link.clone(), waiting.ends.take()?))
    }

    /// From now on a lease says whose link it is.
    pub(super) fn done(&mut self, id: Id) {
        self.waiting.retain(|w| w.id != id);
    }

    /// The pod and its namespace are gone.
    pub(super) fn detached(&mut self, pod_id: &str) {
        self.attached.remove(pod_id);
    }

    /// Names of links without a lease that are no orphans.
    pub(super) fn links(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(|w| &*w.link)
    }
}

/// The inode of a namespace, which no other one has at the same time.
pub(super) fn id_of(netns: BorrowedFd<'_>) -> io::Result<Id> {
    std::fs::metadata(format!("/proc/self/fd/{}", netns.as_raw_fd())).map(|m| m.st_ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(advance: &mut Advance, id: Id) -> bool {
        advance.begin(id, format!("link{id}"), 2).is_some()
    }

    #[test]
    fn a_namespace_is_prepared_once_and_for_its_pod_only() {
        let mut advance = Advance::default();
        assert!(begin(&mut advance, 1));
        assert!(!begin(&mut advance, 1), "twice");
        assert!(advance.take("g", 7).is_none(), "of nobody");
        assert_eq!(advance.take("a", 1).map(|(link, _)| link).as_deref(), Some("link1"));
        assert!(advance.take("a", 1).is_none(), "attached again");
        assert_eq!(advance.links().collect::<Vec<_>>(), ["link1"], "no orphan until there is a lease");
        advance.done(1);
        assert_eq!(advance.links().count(), 0);
        assert!(!begin(&mut advance, 1), "the word comes after its pod");
        assert!(!begin(&mut advance, 7), "the word comes after its pod");
        advance.detached("a");
        assert!(begin(&mut advance, 1), "another namespace with the inode of one that is gone");
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut advance = Advance::default();
        assert!((1..=3).all(|id| begin(&mut advance, id)));
        assert_eq!(advance.links().collect::<Vec<_>>(), ["link2", "link3"]);
        assert!(advance.take("a", 1).is_none());
    }
}
