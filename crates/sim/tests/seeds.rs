//! The meta test, and a handful of seeds; CI runs hundreds with the program.

/// A seed that does not reproduce is worthless.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2] {
        let (first, second) = (sim::run(seed, 15, false), sim::run(seed, 15, false));
        assert!(first.trace.1 > 100, "the trace has {} lines: nothing happened", first.trace.1);
        assert_eq!(first, second);
    }
    // Most of what could differ does so while everything starts: often, and short.
    let short = sim::run(3, 1, false);
    for _ in 0..6 {
        assert_eq!(sim::run(3, 1, false), short);
    }
    assert_ne!(sim::run(1, 15, false).trace, sim::run(2, 15, false).trace);
}

#[test]
fn seeds_hold_their_promises() {
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for seed in (half..12).step_by(2) {
                    let violation = sim::run(seed, 15, false).violation;
                    assert!(
                        violation.is_none(),
                        "cargo run -p sim -- --seed {seed} --steps 15 --trace: {violation:#?}"
                    );
                }
            });
        }
    });
}
