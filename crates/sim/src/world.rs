//! [`World`]: what everything in one simulation shares: time, dice, the faults that are on, the trace, and the first
//! violation that a checker saw.

use crate::check::Checker;
use crate::cluster::ApiProcess;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use testkit::{Dice, SimClock};

/// Lines of the trace that are kept for the report of a violation.
const KEPT: usize = 60;
/// More requests than any seed needs: somebody runs in circles.
const MOST_REQUESTS: u64 = 200_000;

/// How often things go wrong, in cases of 1000. Drawn per seed, so that seeds differ in kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A request never reaches the server.
    pub lost_request: usize,
    /// The server acts and the answer is lost.
    pub lost_answer: usize,
    /// A PUT or PATCH is answered with a conflict.
    pub conflict: usize,
    /// A commit fails and was not done.
    pub commit_fails: usize,
    /// A commit fails and was done.
    pub commit_fails_late: usize,
    /// A request or a piece of a watch is slow (up to seconds).
    pub slow: usize,
    /// A watch is cut after a while.
    pub cut_watch: usize,
}

impl Faults {
    /// How bad this seed is: some are calm, some are not.
    pub fn draw(dice: &Dice) -> Self {
        let level = [0, 3, 10, 30][dice.below(4)];
        let some = || if dice.chance(600) { dice.below(level + 1) } else { 0 };
        Faults {
            lost_request: some(),
            lost_answer: some(),
            conflict: some(),
            commit_fails: some(),
            commit_fails_late: some(),
            slow: some() * 3,
            cut_watch: some() * 20,
        }
    }
}

/// Everything that is shared. Held as `Arc`.
pub struct World {
    /// Wall time of the cluster.
    pub clock: Arc<SimClock>,
    /// Faults are drawn from these.
    pub dice: Dice,
    faults: Faults,
    on: AtomicBool,
    requests: AtomicU64,
    /// The running API server, if there is one.
    pub(crate) api: Mutex<Option<ApiProcess>>,
    /// What is checked after every commit.
    pub(crate) checker: Mutex<Checker>,
    trace: Mutex<Trace>,
    violation: Mutex<Option<String>>,
}

struct Trace {
    hash: u64,
    lines: u64,
    recent: VecDeque<String>,
    print: bool,
}

impl World {
    /// A world with `faults`, off at first.
    pub fn new(clock: Arc<SimClock>, dice: Dice, faults: Faults, print: bool) -> Arc<Self> {
        let trace = Trace { hash: 0xcbf2_9ce4_8422_2325, lines: 0, recent: VecDeque::new(), print };
        Arc::new(World {
            clock,
            dice,
            faults,
            on: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            api: Mutex::new(None),
            checker: Mutex::default(),
            trace: Mutex::new(trace),
            violation: Mutex::new(None),
        })
    }

    /// Switches faults on or off.
    pub fn set_faults(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    /// The faults that may happen now.
    pub fn faults(&self) -> Faults {
        if self.on.load(Ordering::SeqCst) { self.faults } else { Faults::default() }
    }

    /// Adds a line to the trace.
    #[expect(clippy::print_stdout, reason = "--trace")]
    pub fn note(&self, text: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", self.clock.elapsed().as_secs_f64(), text());
        let mut trace = self.trace.lock();
        if trace.print {
            println!("{line}");
        }
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        trace.lines += 1;
        if trace.recent.len() == KEPT {
            trace.recent.pop_front();
        }
        trace.recent.push_back(line);
    }

    /// Counts a request; too many are a violation.
    pub fn count_request(&self) {
        if self.requests.fetch_add(1, Ordering::SeqCst) == MOST_REQUESTS {
            self.violate("too many requests: somebody runs in circles".into());
        }
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Reports a violation; the first one counts.
    pub fn violate(&self, what: String) {
        self.note(|| format!("VIOLATION {what}"));
        self.violation.lock().get_or_insert(what);
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    /// Hash and number of lines of the trace, and its end.
    pub fn trace(&self) -> (u64, u64, Vec<String>) {
        let trace = self.trace.lock();
        (trace.hash, trace.lines, trace.recent.iter().cloned().collect())
    }
}

/// FNV-1a, for contents in the trace.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
