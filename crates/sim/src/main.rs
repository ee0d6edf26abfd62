//! `cargo run -p sim -- --seeds 500`: runs seeds, prints one line per failing one; `--seed N --trace` shows one in full.
#![expect(clippy::print_stdout, reason = "a command")]

use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs the deterministic cluster simulation.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole trace (with --seed).
    #[arg(long)]
    trace: bool,
    /// Show log lines of the product (with --seed), e.g. `debug`.
    #[arg(long)]
    log: Option<String>,
    /// Steps of each scenario.
    #[arg(long, default_value_t = 40)]
    steps: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn report(outcome: &sim::Outcome) {
    if let Some((what, lines)) = &outcome.violation {
        println!("seed {} FAILED after {:.1} s: {what}", outcome.seed, outcome.elapsed.as_secs_f64());
        lines.iter().for_each(|line| println!("    {line}"));
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(level) = &arguments.log {
        tracing_subscriber::fmt().with_env_filter(level).without_time().init();
    }
    if let Some(seed) = arguments.seed {
        let outcome = sim::run(seed, arguments.steps, arguments.trace);
        report(&outcome);
        println!(
            "seed {seed}: {} requests, {:.0} s simulated, trace {:016x} of {} lines",
            outcome.requests,
            outcome.elapsed.as_secs_f64(),
            outcome.trace.0,
            outcome.trace.1
        );
        return if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let started = Instant::now();
    let (next, failed, requests) = (AtomicU64::new(arguments.from), AtomicU64::new(0), AtomicU64::new(0));
    let end = arguments.from + arguments.seeds;
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    let outcome = sim::run(seed, arguments.steps, false);
                    requests.fetch_add(outcome.requests, Ordering::SeqCst);
                    if outcome.violation.is_some() {
                        failed.fetch_add(1, Ordering::SeqCst);
                        report(&outcome);
                    }
                }
            });
        }
    });
    let (failed, seconds) = (failed.into_inner(), started.elapsed().as_secs_f64());
    println!(
        "{} seeds, {failed} failed, {:.1} s, {:.2} seeds/s, {} requests",
        arguments.seeds,
        seconds,
        arguments.seeds as f64 / seconds,
        requests.into_inner()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
