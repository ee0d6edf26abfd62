//! Seats and queues: who runs, who waits, who is refused. Pure; waiters are whatever the caller wakes.
//!
//! A level may always use its nominal seats. Beyond them it borrows, up to its limit and as long as all seats in use leave the
//! others what they never lend; so a level that lends gets its own seats without waiting for anybody.
//!
//! Differs from upstream (`fairqueuing/queueset`, `conc_alloc.go`): borrowing is decided when a request comes, not every ten
//! seconds; queues of a level take turns, whatever their requests cost.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// What a priority level allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// Never waits, is never refused.
    pub(super) exempt: bool,
    /// Seats of its own.
    pub(super) nominal: u32,
    /// Of these, what it lends.
    pub(super) lendable: u32,
    /// Most seats with what others lend.
    pub(super) most: u32,
    /// `None` = full is refused.
    pub(super) queues: Option<Queues>,
}

/// A request takes no larger part of its level's own seats (`priorityLevelMaxSeatsPercent`).
const WIDEST_PERCENT: u32 = 15;
/// Most seats of any request (`MaximumListSeatsLimit`).
const WIDEST: u32 = 100;

impl Limits {
    /// Most seats that one request takes: a flow does not fill its level with it.
    pub(super) fn widest(&self) -> u32 {
        match &self.queues {
            None => WIDEST,
            Some(queues) => {
                let part = self.nominal.saturating_mul(WIDEST_PERCENT).div_ceil(100);
                part.min(self.nominal / queues.hand.max(1)).clamp(1, WIDEST)
            }
        }
    }
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queues {
    /// How many there are.
    pub(super) count: u32,
    /// How many of them a flow may use.
    pub(super) hand: u32,
    /// Most requests in one.
    pub(super) length: usize,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has a seat.
    Runs,
    /// It waits.
    Waits {
        /// Under this number,
        id: u64,
        /// as this one of its queue.
        place: usize,
    },
    /// Its queues are full, or its level has none.
    Refused(&'static str),
}

struct Level<W> {
    limits: Limits,
    used: u32,
    queues: BTreeMap<u32, VecDeque<Waiter<W>>>,
    /// Queues with waiters; the next one's turn first.
    turns: VecDeque<u32>,
    /// Its configuration is gone; it goes when it is empty.
    leaving: bool,
}

/// A request in a queue.
struct Waiter<W> {
    id: u64,
    seats: u32,
    waker: W,
}

/// All levels of a server.
pub(super) struct Book<W> {
    /// Seats of the server.
    total: u32,
    levels: HashMap<String, Level<W>>,
    next_id: u64,
}

impl<W> Book<W> {
    pub(super) fn new(total: u32) -> Self {
        Book { total, levels: HashMap::new(), next_id: 0 }
    }

    /// Takes over a configuration. Who runs or waits goes on. Returns who may run now.
    pub(super) fn configure(&mut self, wanted: HashMap<String, Limits>) -> Vec<W> {
        for (name, level) in &mut self.levels {
            level.leaving = !wanted.contains_key(name);
        }
        for (name, limits) in wanted {
            match self.levels.get_mut(&name) {
                Some(level) => level.limits = limits,
                None => {
                    let level =
                        Level { limits, used: 0, queues: BTreeMap::new(), turns: VecDeque::new(), leaving: false };
                    self.levels.insert(name, level);
                }
            }
        }
        self.forget_empty();
        self.dispatch()
    }

    /// A request of `flow` that takes so many seats comes. `waker` is kept if it has to wait.
    pub(super) fn enter(&mut self, name: &str, flow: u64, seats: u32, waker: W) -> Entry {
        if self.may_run(name, seats) {
            if let Some(level) = self.levels.get_mut(name) {
                level.used += seats;
            }
            return Entry::Runs;
        }
        let id = self.next_id;
        let Some(level) = self.levels.get_mut(name) else { return Entry::Refused("concurrency-limit") };
        let Some(queues) = level.limits.queues else { return Entry::Refused("concurrency-limit") };
        let length = |level: &Level<W>, queue: u32| level.queues.get(&queue).map_or(0, VecDeque::len);
        let shortest = hand(flow, queues).into_iter().min_by_key(|queue| length(level, *queue)).unwrap_or_default();
        if length(level, shortest) >= queues.length {
            return Entry::Refused("queue-full");
        }
        self.next_id += 1;
        let queue = level.queues.entry(shortest).or_default();
        if queue.is_empty() {
            level.turns.push_back(shortest);
        }
        queue.push_back(Waiter { id, seats, waker });
        Entry::Waits { id, place: queue.len() }
    }

    /// A request that ran on so many seats is done. Returns who may run now.
    pub(super) fn leave(&mut self, name: &str, seats: u32) -> Vec<W> {
        if let Some(level) = self.levels.get_mut(name) {
            level.used = level.used.saturating_sub(seats);
        }
        let woken = self.dispatch();
        self.forget_empty();
        woken
    }

    /// A request does not wait any longer; false if it had been given a seat already.
    pub(super) fn give_up(&mut self, name: &str, id: u64) -> bool {
        let Some(level) = self.levels.get_mut(name) else { return false };
        let Some((&number, queue)) = level.queues.iter_mut().find(|(_, q)| q.iter().any(|w| w.id == id)) else {
            return false;
        };
        queue.retain(|w| w.id != id);
        if queue.is_empty() {
            level.queues.remove(&number);
            level.turns.retain(|turn| *turn != number);
        }
        true
    }

    /// What a level allows.
    pub(super) fn limits_of(&self, name: &str) -> Option<&Limits> {
        self.levels.get(name).map(|level| &level.limits)
    }

    /// What each level allows, and how many seats that are now.
    pub(super) fn limits(&self) -> impl Iterator<Item = (&str, &Limits, u32)> {
        self.levels.iter().map(|(name, level)| (name.as_str(), &level.limits, self.current(level)))
    }

    /// Per level: seats in use, requests that wait.
    #[cfg(test)]
    pub(super) fn counts(&self) -> Vec<(String, u32, usize)> {
        let waiting = |level: &Level<W>| level.queues.values().map(VecDeque::len).sum();
        self.levels.iter().map(|(name, l)| (name.clone(), l.used, waiting(l))).collect()
    }

    fn may_run(&self, name: &str, seats: u32) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        let limits = &level.limits;
        if limits.exempt {
            return true;
        }
        if !level.turns.is_empty() {
            return false; // Those who wait come first.
        }
        self.has_seats(level, seats)
    }

    /// Who asks for more than there will ever be runs alone (`canAccommodateSeatsLocked`).
    fn has_seats(&self, level: &Level<W>, seats: u32) -> bool {
        level.used == 0 || level.used + seats <= level.limits.nominal || level.used + seats <= self.current(level)
    }

    /// What a level may use as others are now: its own seats, and those that nobody uses or keeps.
    fn current(&self, level: &Level<W>) -> u32 {
        let limits = &level.limits;
        if limits.exempt {
            return limits.nominal;
        }
        let kept = |l: &Level<W>| l.used.max(l.limits.nominal.saturating_sub(l.limits.lendable));
        let all: u32 = self.levels.values().filter(|l| !l.limits.exempt).map(kept).sum();
        let free = (self.total + kept(level)).saturating_sub(all);
        free.min(limits.most).max(limits.nominal)
    }

    /// Gives free seats to those who wait.
    fn dispatch(&mut self) -> Vec<W> {
        let mut woken = Vec::new();
        let waiting: Vec<String> =
            self.levels.iter().filter(|(_, l)| !l.turns.is_empty()).map(|(name, _)| name.clone()).collect();
        for name in waiting {
            while self.levels.get(&name).is_some_and(|l| l.next_seats().is_some_and(|seats| self.has_seats(l, seats))) {
                let Some(level) = self.levels.get_mut(&name) else { break };
                let Some(turn) = level.turns.pop_front() else { break };
                let Some(queue) = level.queues.get_mut(&turn) else { continue };
                if let Some(next) = queue.pop_front() {
                    level.used += next.seats;
                    woken.push(next.waker);
                }
                match queue.is_empty() {
                    true => drop(level.queues.remove(&turn)),
                    false => level.turns.push_back(turn),
                }
            }
        }
        woken
    }

    fn forget_empty(&mut self) {
        self.levels.retain(|_, l| !l.leaving || l.used > 0 || !l.turns.is_empty());
    }
}

impl<W> Level<W> {
    /// What the request asks for whose turn it is.
    fn next_seats(&self) -> Option<u32> {
        Some(self.queues.get(self.turns.front()?)?.front()?.seats)
    }
}

/// The queues that a flow may use, without repetition (`shufflesharding/dealer.go`): two flows rarely share all of them.
fn hand(flow: u64, queues: Queues) -> Vec<u32> {
    let size = queues.hand.clamp(1, queues.count.max(1));
    let mut rest = flow;
    let mut dealt: Vec<u32> = Vec::with_capacity(size as usize);
    for i in 0..size {
        let left = u64::from(queues.count.max(1) - i);
        let mut card = u32::try_from(rest % left).unwrap_or_default();
        rest /= left;
        // The card is counted among those that are not dealt yet.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for seen in sorted {
            if card >= seen {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(nominal: u32, lendable: u32, queues: Option<(u32, u32, usize)>) -> Limits {
        let queues = queues.map(|(count, hand, length)| Queues { count, hand, length });
        Limits { exempt: false, nominal, lendable, most: 100, queues }
    }

    fn book(total: u32, levels: &[(&str, Limits)]) -> Book<&'static str> {
        let mut book = Book::new(total);
        book.configure(levels.iter().map(|(n, l)| ((*n).to_owned(), l.clone())).collect());
        book
    }

    #[test]
    fn a_full_level_queues_and_then_refuses() {
        let mut book = book(1, &[("a", limits(1, 0, Some((1, 1, 2))))]);
        assert_eq!(book.enter("a", 7, 1, "1"), Entry::Runs);
        assert_eq!(book.enter("a", 7, 1, "2"), Entry::Waits { id: 0, place: 1 });
        assert_eq!(book.enter("a", 7, 1, "3"), Entry::Waits { id: 1, place: 2 });
        assert_eq!(book.enter("a", 7, 1, "4"), Entry::Refused("queue-full"));
        assert!(book.give_up("a", 0), "still waits");
        assert_eq!(book.leave("a", 1), ["3"]);
        assert!(!book.give_up("a", 1), "has a seat");
        assert!(book.leave("a", 1).is_empty());
    }

    #[test]
    fn a_level_without_queues_refuses() {
        let mut book = book(1, &[("catch-all", limits(1, 0, None))]);
        assert_eq!(book.enter("catch-all", 1, 1, ""), Entry::Runs);
        assert_eq!(book.enter("catch-all", 1, 1, ""), Entry::Refused("concurrency-limit"));
        assert_eq!(book.enter("unknown", 1, 1, ""), Entry::Refused("concurrency-limit"));
    }

    #[test]
    fn what_is_lent_is_borrowed_and_the_lender_never_waits() {
        let mut book = book(10, &[("low", limits(5, 5, Some((1, 1, 9)))), ("system", limits(5, 3, Some((1, 1, 9))))]);
        let runs = (0..9).filter(|_| book.enter("low", 1, 1, "low") == Entry::Runs).count();
        assert_eq!(runs, 8, "its own five and the three lent; two are the system's whatever comes");
        let system = (0..5).filter(|_| book.enter("system", 1, 1, "system") == Entry::Runs).count();
        assert_eq!(system, 5, "the lender has all of its own");
        assert_eq!(book.leave("low", 1), Vec::<&str>::new(), "the borrowed seat goes back first");
    }

    #[test]
    fn wide_requests_wait_for_their_seats_and_the_widest_run_alone() {
        let mut book = book(10, &[("a", limits(4, 0, Some((1, 1, 9))))]);
        book.levels.get_mut("a").expect("made above").limits.most = 4;
        assert_eq!(book.enter("a", 1, 3, "three"), Entry::Runs);
        assert_eq!(book.enter("a", 1, 2, "two"), Entry::Waits { id: 0, place: 1 });
        assert_eq!(book.enter("a", 1, 1, "one"), Entry::Waits { id: 1, place: 2 }, "who waits comes first");
        assert_eq!(book.leave("a", 3), ["two", "one"]);
        assert_eq!(book.enter("a", 1, 100, "all"), Entry::Waits { id: 2, place: 1 });
        assert!(book.leave("a", 1).is_empty());
        assert_eq!(book.leave("a", 2), ["all"]);
    }

    #[test]
    fn flows_take_turns() {
        let mut book = book(1, &[("a", limits(1, 0, Some((64, 1, 50))))]);
        book.enter("a", 0, 1, "");
        for _ in 0..3 {
            book.enter("a", 1, 1, "greedy");
        }
        book.enter("a", 2, 1, "modest");
        let order: Vec<&str> = (0..4).flat_map(|_| book.leave("a", 1)).collect();
        assert_eq!(order, ["greedy", "modest", "greedy", "greedy"]);
    }

    #[test]
    fn a_removed_level_serves_whom_it_has() {
        let mut book = book(1, &[("a", limits(1, 0, Some((1, 1, 9))))]);
        book.enter("a", 1, 1, "1");
        book.enter("a", 1, 1, "2");
        book.configure(HashMap::new());
        assert_eq!(book.leave("a", 1), ["2"]);
        book.leave("a", 1);
        assert!(book.counts().is_empty());
    }

    #[test]
    fn hands_have_no_repetition() {
        for flow in [0, 1, 12_345_678_901, u64::MAX] {
            let mut cards = hand(flow, Queues { count: 64, hand: 6, length: 1 });
            assert!(cards.iter().all(|c| *c < 64));
            cards.sort_unstable();
            cards.dedup();
            assert_eq!(cards.len(), 6);
        }
    }
}
