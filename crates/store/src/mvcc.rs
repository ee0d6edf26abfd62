//! The state in memory that every backend serves reads and watches from: the newest state as a persistent ordered map,
//! the recent events as one shared log, and the watchers.
//!
//! ```text
//!   root (newest) ── O(1) clone ──> readers
//!   log  [e5 e6 e7 e8 e9]           one for all
//!          ▲     ▲      ▲
//!   groups │  one per watched prefix: positions of its events in the log, who to wake
//!          └ cursors: a revision each
//! ```
//!
//! Always holds: root, log and revision change together under one lock, so no reader sees one without the others; the
//! log has every event after `floor`; a prefix nobody watches and a watcher nobody writes for cost nothing.

use crate::plan::{Root, undo};
use crate::{At, Change, Entry, Event, Key, Listing, Page, Range, Read, Revision, StoreError, WatchStream};
use async_trait::async_trait;
use parking_lot::RwLock;
use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::Notify;

/// Events a watcher gets at once: bounds what a slow one holds besides the log (revisions are not torn apart for it).
const WATCH_BATCH: usize = 256;

/// Bytes of values that it gets at once, or one revision: what is written for a slow one waits until it reads.
const WATCH_BATCH_BYTES: usize = 128 << 10;

/// Old states kept for lists that are being paged through. One costs what changed since; this many paged lists can be
/// under way at different revisions outside of the log's window, inside of it any number.
const PINNED_STATES: usize = 16;

/// What an event costs besides its values: itself, keys, two allocations, and what the layer above derives from a value, which is
/// some 400 bytes of a lease and a kilobyte of a pod.
const EVENT_OVERHEAD: usize = 640;

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most events in the log.
    pub events: usize,
    /// Most bytes that only the log keeps alive (values that are no longer current).
    pub bytes: usize,
}

impl Default for Limits {
    /// 50,000 events are 5 s at the highest write rate, minutes at a busy cluster's, a day at an idle one's; 32 MiB is
    /// 30 s of 300 writes/s of fat pods (`PERFORMANCE.md` B6) and half of what an idle server may use in all.
    fn default() -> Self {
        Limits { events: 50_000, bytes: 32 << 20 }
    }
}

/// The shared state. Backends call [`Mvcc::publish`] in commit order after the commit is durable.
pub(crate) struct Mvcc {
    limits: Limits,
    state: RwLock<State>,
}

struct State {
    revision: Revision,
    root: Root,
    /// Everything after it is in `log`. States before it are gone unless pinned.
    floor: Revision,
    log: VecDeque<Event>,
    /// Position of `log`'s first event since the start of the process.
    first: u64,
    bytes: usize,
    /// By prefix. See [`State::groups_of`].
    groups: HashMap<Arc<str>, Group>,
    /// Watched prefixes that do not end with `/`: nobody uses them today, so they are searched one by one.
    irregular: Vec<Arc<str>>,
    /// Newest last.
    pinned: VecDeque<(Revision, Root)>,
    closed: bool,
}

/// All watchers of one prefix.
struct Group {
    /// Positions in the log, ascending.
    positions: VecDeque<u64>,
    /// Revision of the newest event of this prefix that fell out of the log.
    lost: Revision,
    watchers: usize,
    wake: Arc<Notify>,
}

impl Mvcc {
    /// Starts from a state and the events that led to it since `floor`. Returns the events that are too many.
    pub(crate) fn new(
        limits: Limits,
        root: Root,
        revision: Revision,
        floor: Revision,
        log: Vec<Event>,
    ) -> (Arc<Self>, Vec<Event>) {
        let mut state = State {
            revision,
            root,
            floor,
            bytes: log.iter().map(cost).sum(),
            log: log.into(),
            first: 0,
            groups: HashMap::new(),
            irregular: Vec::new(),
            pinned: VecDeque::new(),
            closed: false,
        };
        let dropped = state.trim(limits);
        (Arc::new(Mvcc { limits, state: RwLock::new(state) }), dropped)
    }

    /// The newest state.
    pub(crate) fn latest(&self) -> (Root, Revision) {
        let state = self.state.read();
        (state.root.clone(), state.revision)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state.read().revision
    }

    /// Makes `events` visible, whose result is `root` at `revision`, and wakes whom they concern. Returns the events
    /// that fell out of the log for it.
    pub(crate) fn publish(&self, events: Vec<Event>, root: Root, revision: Revision) -> Vec<Event> {
        let mut wakes: Vec<Arc<Notify>> = Vec::new();
        let (dropped, old_root) = {
            let mut state = self.state.write();
            for event in events {
                state.append(event, &mut wakes);
            }
            state.revision = revision;
            let old_root = std::mem::replace(&mut state.root, root);
            (state.trim(self.limits), old_root)
        };
        drop(old_root); // Outside of the lock: it may free much.
        for wake in wakes {
            wake.notify_waiters();
        }
        dropped
    }

    /// Forgets history up to `before`. Returns the forgotten events.
    pub(crate) fn compact(&self, before: Revision) -> Result<Vec<Event>, StoreError> {
        let mut state = self.state.write();
        if before > state.revision {
            return Err(StoreError::Future { asked: before, current: state.revision });
        }
        let mut dropped = Vec::new();
        while state.log.front().is_some_and(|event| event.revision <= before) {
            dropped.extend(state.drop_first());
        }
        state.floor = state.floor.max(before);
        let floor = state.floor;
        state.pinned.retain(|(revision, _)| *revision >= floor);
        Ok(dropped)
    }

    /// The events of one revision, if the log still has them.
    pub(crate) fn events_at(&self, revision: Revision) -> Vec<Event> {
        self.state.read().events_between(Revision(revision.0.saturating_sub(1)), revision)
    }

    /// Starts over from a state whose history is not known: all watches end with "compacted".
    pub(crate) fn reset(&self, root: Root, revision: Revision) {
        let mut state = self.state.write();
        while state.drop_first().is_some() {}
        state.pinned.clear();
        (state.root, state.revision, state.floor) = (root, revision, revision);
        for group in state.groups.values_mut() {
            group.lost = revision;
            group.wake.notify_waiters();
        }
    }

    /// No event will ever come again: ends all watches. Reads go on.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.groups.values().for_each(|group| group.wake.notify_waiters());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.read().closed
    }

    pub(crate) fn get(&self, key: &Key, at: At) -> Result<Read<Option<Arc<Entry>>>, StoreError> {
        let (root, revision) = self.at(at)?;
        Ok(Read { value: root.get(key).cloned(), revision })
    }

    pub(crate) fn list(&self, range: &Range, at: At, page: Page) -> Result<Read<Listing>, StoreError> {
        let (root, revision) = self.at(at)?;
        let listing = list(&root, range, page);
        if listing.more {
            self.pin(revision, root);
        }
        Ok(Read { value: listing, revision })
    }

    /// The state that `at` names.
    fn at(&self, at: At) -> Result<(Root, Revision), StoreError> {
        let At::Exactly(asked) = at else {
            return Ok(self.latest());
        };
        let (mut root, to_undo) = {
            let state = self.state.read();
            match state.nearest(asked)? {
                (root, revision) if revision == asked => return Ok((root, asked)),
                (root, revision) => (root, state.events_between(asked, revision)),
            }
        };
        to_undo.iter().rev().for_each(|event| undo(&mut root, event));
        // Whoever asks for it once is likely to ask for the next page.
        self.pin(asked, root.clone());
        Ok((root, asked))
    }

    fn pin(&self, revision: Revision, root: Root) {
        let mut state = self.state.write();
        if let Some(known) = state.pinned.iter().position(|(pinned, _)| *pinned == revision) {
            state.pinned.remove(known);
        }
        state.pinned.push_back((revision, root));
        if state.pinned.len() > PINNED_STATES {
            state.pinned.pop_front();
        }
    }

    /// A cursor after `after`.
    pub(crate) fn watch(self: &Arc<Self>, range: &Range, after: Revision) -> Result<Cursor, StoreError> {
        let mut state = self.state.write();
        if state.closed {
            return Err(StoreError::Closed);
        }
        if after > state.revision {
            return Err(StoreError::Future { asked: after, current: state.revision });
        }
        if after < state.floor {
            return Err(StoreError::Compacted { asked: after, oldest: state.floor });
        }
        let wake = state.join(&range.prefix);
        Ok(Cursor { mvcc: self.clone(), range: range.clone(), at: after, wake })
    }
}

/// What nothing but the log keeps alive because of `event`.
fn cost(event: &Event) -> usize {
    EVENT_OVERHEAD
        + match &event.change {
            Change::Created(_) => 0,
            Change::Updated { old, .. } => old.value.len(),
            Change::Deleted { last, old } => last.value.len() + old.value.len(),
        }
}

fn list(root: &Root, range: &Range, page: Page) -> Listing {
    let end = prefix_end(&range.prefix);
    let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let lower = match &range.after {
        Some(after) if after.as_str() >= &*range.prefix => Bound::Excluded(after.as_str()),
        _ => Bound::Included(&*range.prefix),
    };
    let empty = Listing { entries: Vec::new(), more: false, remaining: Some(0) };
    let below = |key: &str| end.as_deref().is_none_or(|end| key < end);
    if let Bound::Excluded(after) = lower
        && !below(after)
    {
        return empty; // The map panics on a range whose start is behind its end.
    }
    let mut keys = root.range::<_, str>((lower, upper));
    if page.limit == 0 {
        return Listing { entries: keys.map(|(_, entry)| entry.clone()).collect(), ..empty };
    }
    let entries: Vec<_> = keys.by_ref().take(page.limit).map(|(_, entry)| entry.clone()).collect();
    // Counting walks leaves without looking at keys or values: 3 ns each.
    let remaining = keys.count() as u64;
    Listing { entries, more: remaining > 0, remaining: Some(remaining) }
}

/// The smallest text that is greater than every text with `prefix`; `None` if there is none.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars = prefix.chars();
    while let Some(last) = chars.next_back() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            let mut end = String::with_capacity(prefix.len() + next.len_utf8());
            end.push_str(chars.as_str());
            end.push(next);
            return Some(end);
        }
    }
    None
}

// === impl State ===

impl State {
    fn append(&mut self, event: Event, wakes: &mut Vec<Arc<Notify>>) {
        let position = self.first + self.log.len() as u64;
        self.bytes += cost(&event);
        self.each_group_of(&event.change.key().0, |group| {
            group.positions.push_back(position);
            if !wakes.iter().any(|known| Arc::ptr_eq(known, &group.wake)) {
                wakes.push(group.wake.clone());
            }
        });
        self.log.push_back(event);
    }

    /// Drops whole revisions from the log until it is within `limits`.
    fn trim(&mut self, limits: Limits) -> Vec<Event> {
        let mut dropped = Vec::new();
        while self.log.len() > limits.events || self.bytes > limits.bytes {
            let Some(revision) = self.log.front().map(|event| event.revision) else { break };
            while self.log.front().is_some_and(|event| event.revision == revision) {
                dropped.extend(self.drop_first());
            }
            self.floor = revision;
        }
        // A pinned state outlives the log by at most one more window, or it would keep all that was ever replaced.
        let oldest = self.floor.0.saturating_sub(limits.events as u64);
        self.pinned.retain(|(revision, _)| revision.0 >= oldest);
        dropped
    }

    fn drop_first(&mut self) -> Option<Event> {
        let event = self.log.pop_front()?;
        self.first += 1;
        self.bytes -= cost(&event);
        self.each_group_of(&event.change.key().0, |group| {
            group.positions.pop_front();
            group.lost = event.revision;
        });
        Some(event)
    }

    /// Calls `act` for every watched prefix of `key`: one look-up per segment, however many prefixes are watched.
    fn each_group_of(&mut self, key: &str, mut act: impl FnMut(&mut Group)) {
        if self.groups.is_empty() {
            return;
        }
        let ends = std::iter::once(0).chain(key.match_indices('/').map(|(slash, _)| slash + 1));
        for end in ends {
            if let Some(group) = self.groups.get_mut(&key[..end]) {
                act(group);
            }
        }
        for prefix in self.irregular.iter().filter(|prefix| key.starts_with(&***prefix)) {
            if let Some(group) = self.groups.get_mut(prefix) {
                act(group);
            }
        }
    }

    /// Adds a watcher to the group of `prefix`.
    fn join(&mut self, prefix: &Arc<str>) -> Arc<Notify> {
        if let Some(group) = self.groups.get_mut(prefix) {
            group.watchers += 1;
            return group.wake.clone();
        }
        let positions = (self.first..)
            .zip(&self.log)
            .filter(|(_, event)| event.change.key().0.starts_with(&**prefix))
            .map(|(position, _)| position)
            .collect();
        let group = Group { positions, lost: Revision(0), watchers: 1, wake: Arc::new(Notify::new()) };
        let wake = group.wake.clone();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            self.irregular.push(prefix.clone());
        }
        self.groups.insert(prefix.clone(), group);
        wake
    }

    fn leave(&mut self, prefix: &Arc<str>) {
        let Some(group) = self.groups.get_mut(prefix) else { return };
        group.watchers -= 1;
        if group.watchers == 0 {
            self.groups.remove(prefix);
            self.irregular.retain(|known| known != prefix);
        }
    }

    /// The kept state at `asked` or the first after it from which the log leads back.
    fn nearest(&self, asked: Revision) -> Result<(Root, Revision), StoreError> {
        if asked > self.revision {
            return Err(StoreError::Future { asked, current: self.revision });
        }
        let newer = self.pinned.iter().filter(|(revision, _)| *revision >= asked).min_by_key(|(revision, _)| *revision);
        match newer {
            Some((revision, root)) if *revision == asked || asked >= self.floor => Ok((root.clone(), *revision)),
            _ if asked >= self.floor => Ok((self.root.clone(), self.revision)),
            _ => Err(StoreError::Compacted { asked, oldest: self.floor }),
        }
    }

    fn events_between(&self, after: Revision, to: Revision) -> Vec<Event> {
        let start = self.log.partition_point(|event| event.revision <= after);
        let end = self.log.partition_point(|event| event.revision <= to);
        self.log.range(start..end).cloned().collect()
    }

    /// Index in `group.positions` of the first event after `after`.
    fn seek(&self, group: &Group, after: Revision) -> usize {
        group.positions.partition_point(|position| self.event(*position).revision <= after)
    }

    fn event(&self, position: u64) -> &Event {
        &self.log[(position - self.first) as usize]
    }
}

// === impl Cursor ===

/// A watcher: a range and a revision.
pub(crate) struct Cursor {
    mvcc: Arc<Mvcc>,
    range: Range,
    /// Everything up to here has been returned.
    at: Revision,
    wake: Arc<Notify>,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.mvcc.state.write().leave(&self.range.prefix);
    }
}

impl Cursor {
    /// Events after `self.at` (perhaps none) and the revision up to which they are complete.
    fn pending(&self) -> Result<(Vec<Event>, Revision), StoreError> {
        let state = self.mvcc.state.read();
        let group = state.groups.get(&self.range.prefix).ok_or(StoreError::Closed)?;
        if group.lost > self.at {
            return Err(StoreError::Compacted { asked: self.at, oldest: state.floor });
        }
        let (mut events, mut bytes) = (Vec::<Event>::new(), 0);
        for position in group.positions.range(state.seek(group, self.at)..) {
            let event = state.event(*position);
            let complete = events.last().map_or(self.at, |last| last.revision);
            if (events.len() >= WATCH_BATCH || bytes >= WATCH_BATCH_BYTES) && complete != event.revision {
                return Ok((events, complete));
            }
            if self.range.contains(&event.change.key().0) {
                bytes += event.change.value().len();
                events.push(event.clone());
            }
        }
        if events.is_empty() && state.closed {
            return Err(StoreError::Closed);
        }
        Ok((events, state.revision))
    }
}

#[async_trait]
impl WatchStream for Cursor {
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            let wake = self.wake.clone();
            let woken = wake.notified();
            tokio::pin!(woken);
            // Listen first, look second: what is published in between is seen by one of the two.
            woken.as_mut().enable();
            let (events, complete) = self.pending()?;
            self.at = complete;
            if !events.is_empty() {
                return Ok(events);
            }
            woken.await;
        }
    }

    fn progress(&self) -> Revision {
        let state = self.mvcc.state.read();
        match state.groups.get(&self.range.prefix) {
            Some(group) if group.lost <= self.at && state.seek(group, self.at) == group.positions.len() => {
                state.revision
            }
            _ => self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_the_next_text() {
        assert_eq!(prefix_end("/pods/").as_deref(), Some("/pods0"));
        assert_eq!(prefix_end("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(prefix_end("\u{D7FF}").as_deref(), Some("\u{E000}"));
        assert_eq!(prefix_end(""), None);
    }
}
