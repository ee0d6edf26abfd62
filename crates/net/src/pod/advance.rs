//! Links of pods to come. A network namespace that waits for its pod gets everything but addresses, which is most of the work: the kernel
//! waits for its readers whenever a link is made.
//!
//! Invariants: a namespace is furnished by one at a time, and not after its pod was attached. What keeps a namespace alive here goes soon
//! after its process. Nothing here must be found again after a restart: a link lives as long as both namespaces, and one without a lease
//! is an orphan.

use super::apply::Ends;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use sys::fd::PollFd;

/// Which namespace: its inode.
pub(super) type Id = u64;

/// A link that is being made or waits for its pod.
#[derive(Debug)]
struct Waiting {
    id: Id,
    link: String,
    /// The pidfd of the supervisor that waits for the pod.
    owner: OwnedFd,
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
    /// Begins to prepare, unless the pod was faster. Beyond `most` the oldest is forgotten: its pod is being made.
    pub(super) fn begin(&mut self, id: Id, link: String, owner: OwnedFd, most: usize) -> Option<Sender<Ends>> {
        self.forget_dead();
        if self.attached.values().any(|other| *other == id) || self.waiting.iter().any(|w| w.id == id) {
            return None;
        }
        while self.waiting.len() >= most.max(1) {
            self.waiting.pop_front();
        }
        let (sender, receiver) = channel();
        self.waiting.push_back(Waiting { id, link, owner, ends: Some(receiver) });
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
        self.forget_dead();
    }

    /// Forgets the namespaces of supervisors that have ended: their pods do not come any more.
    pub(super) fn forget_dead(&mut self) {
        self.waiting.retain(|w| {
            let mut owner = [PollFd::new(w.owner.as_fd(), true, false)];
            // What cannot be asked lives on: it is forgotten when it is the oldest.
            !sys::fd::poll(&mut owner, Some(0)).is_ok_and(|ready| ready > 0)
        });
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
    use std::io::PipeWriter;

    /// The process is there as long as what is returned, if there was something to begin.
    fn begin(advance: &mut Advance, id: Id) -> Option<PipeWriter> {
        let (owner, process) = std::io::pipe().expect("pipe");
        advance.begin(id, format!("link{id}"), owner.into(), 2).map(|_| process)
    }

    #[test]
    fn a_namespace_is_prepared_once_and_for_its_pod_only() {
        let mut advance = Advance::default();
        let _first = begin(&mut advance, 1).expect("it begins");
        assert!(begin(&mut advance, 1).is_none(), "twice");
        assert!(advance.take("g", 7).is_none(), "of nobody");
        assert_eq!(advance.take("a", 1).map(|(link, _)| link).as_deref(), Some("link1"));
        assert!(advance.take("a", 1).is_none(), "attached again");
        assert_eq!(advance.links().collect::<Vec<_>>(), ["link1"], "no orphan until there is a lease");
        advance.done(1);
        assert_eq!(advance.links().count(), 0);
        assert!(begin(&mut advance, 1).is_none(), "the word comes after its pod");
        assert!(begin(&mut advance, 7).is_none(), "the word comes after its pod");
        advance.detached("a");
        assert!(begin(&mut advance, 1).is_some(), "another namespace with the inode of one that is gone");
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut advance = Advance::default();
        let _processes = [1, 2, 3].map(|id| begin(&mut advance, id).expect("it begins"));
        assert_eq!(advance.links().collect::<Vec<_>>(), ["link2", "link3"]);
        assert!(advance.take("a", 1).is_none());
    }

    #[test]
    fn what_is_dead_is_forgotten_before_the_oldest() {
        let mut advance = Advance::default();
        let [oldest, newer] = [1, 2].map(|id| begin(&mut advance, id).expect("it begins"));
        drop(newer);
        let _newest = begin(&mut advance, 3).expect("it begins");
        assert_eq!(advance.links().collect::<Vec<_>>(), ["link1", "link3"]);
        drop(oldest);
        advance.detached("another pod");
        assert_eq!(advance.links().collect::<Vec<_>>(), ["link3"]);
    }
}
