//! The deterministic simulation (DESIGN D7, STYLE P8): the real API server over the memory store, the real scheduler, all
//! controllers, and nodes that only pretend, in one thread with paused time; every crash, delay and loss comes from a seed.
//!
//! ```text
//!   scenario (users, breakage) ──> cluster (processes) ──> net (wires) ──> API server ──> disk (store) ──> check
//! ```
//!
//! Always holds: the same seed gives the same trace, byte for byte ([`run`] twice; the meta test). Nothing here or below
//! reads the machine's clock or randomness; `select!` is `biased` everywhere on the way.
//!
//! Differs from a real cluster: requests do not go through HTTP and TLS, and everybody is authorized.

pub mod check;
pub mod cluster;
pub mod disk;
pub mod net;
pub mod scenario;
pub mod world;

use scenario::Scenario;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::time::Duration;
use testkit::{Dice, SimClock};
use world::{Faults, World};

/// How a seed ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash of the whole trace, and its lines.
    pub trace: (u64, u64),
    /// Requests that were sent.
    pub requests: u64,
    /// Simulated time.
    pub elapsed: Duration,
    /// What went wrong, and the end of the trace.
    pub violation: Option<(String, Vec<String>)>,
}

thread_local! {
    /// Panics on this thread during a run; `None` outside of runs.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Panics inside of a simulation are findings: tasks and the API server catch them, so a hook takes them down.
fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let taken = PANICS.with(|p| p.borrow_mut().as_mut().map(|list| list.push(panic.to_string())).is_some());
            if !taken {
                before(panic);
            }
        }));
    });
}

/// Runs a seed with so many steps of its scenario. `print` writes the trace to standard output.
pub fn run(seed: u64, steps: usize, print: bool) -> Outcome {
    watch_panics();
    PANICS.set(Some(Vec::new()));
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| simulate(seed, steps, print)));
    let panics = PANICS.take().unwrap_or_default();
    let mut outcome = outcome.unwrap_or_else(|_| Outcome {
        seed,
        trace: (0, 0),
        requests: 0,
        elapsed: Duration::ZERO,
        violation: Some(("the simulation panicked".into(), Vec::new())),
    });
    if let Some(panic) = panics.first() {
        let lines = outcome.violation.take().map(|(_, lines)| lines).unwrap_or_default();
        outcome.violation = Some((panic.clone(), lines));
    }
    outcome
}

fn simulate(seed: u64, steps: usize, print: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the machine");
    runtime.block_on(async {
        let dice = Dice::new(seed);
        let clock = SimClock::new("2026-01-01T00:00:00Z".parse().expect("a time"));
        let world = World::new(clock, dice.split(), Faults::draw(&dice), print);
        let result = match Scenario::start(&world, &dice).await {
            Ok(mut scenario) => scenario.run(steps).await,
            Err(error) => Err(error),
        };
        let result = result.and(world.violation().map_or(Ok(()), Err));
        // Its store holds the world, which holds it: nothing of a seed would ever be freed.
        drop(world.api.lock().take());
        let (hash, lines, recent) = world.trace();
        Outcome {
            seed,
            trace: (hash, lines),
            requests: world.requests(),
            elapsed: world.clock.elapsed(),
            violation: result.err().map(|what| (what, recent)),
        }
    })
}
