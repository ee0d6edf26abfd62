//! `bench`: what dhow promises in speed and memory, measured in release builds and printed as one table (PERFORMANCE §4).
//!
//! ```text
//! bench all --dhow PATH                       everything below, with servers of its own; leaves nothing
//! bench start --dhow PATH                     start to Ready, idle memory and CPU, size
//! bench containers                            our engine against Debian's runc and crun
//! bench api --kubeconfig F --server-pid N     any Kubernetes; without flags: our API server alone
//! bench pods --kubeconfig F                   any Kubernetes with an image that is on its node
//! bench slow --kubeconfig F --server-pid N    slow watchers, and resumed ones: any Kubernetes, or our API server alone
//! bench overload --kubeconfig F …             a noisy tenant, a quiet one, node leases: likewise
//! bench crash                                 our API server alone, killed while it writes
//! ```
//!
//! Invariants: no gate, only numbers; no number after a wrong answer; whatever a run made is gone when it ends. As in the product,
//! `main` is entered as the zygote first.

mod api;
mod apply;
mod bystanders;
mod cluster;
mod containers;
mod crash;
mod fail;
mod http;
mod image;
mod load;
mod measure;
mod objects;
mod oci;
mod overload;
mod program;
mod report;
mod serve;
mod servers;
mod slow;
mod watchers;

use clap::{Parser, Subcommand};
use fail::{Fail, Result, io, refused};
use http::Pool;
use nix::sched::{CloneFlags, unshare};
use report::Report;
use servers::{Server, directory};
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures dhow
#[derive(Debug, Parser)]
#[command(name = "bench", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Also append the table as a line of JSON to this file
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Of the generated objects [default: from the clock]
    #[arg(long, global = true)]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything, with servers of its own
    All {
        /// The release binary
        #[arg(long)]
        dhow: PathBuf,
        #[command(flatten)]
        loads: Loads,
    },
    /// Start to node Ready, idle memory and CPU, binary size
    Start {
        /// The release binary
        #[arg(long)]
        dhow: PathBuf,
    },
    /// Container create to first instruction, against runc and crun
    Containers(containers::Rounds),
    /// CPU of the server per API operation
    Api {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        load: api::Load,
    },
    /// Watchers that hardly read, and watchers that resume
    Slow {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        slow: slow::SlowLoad,
    },
    /// A tenant that asks for too much, beside others
    Overload {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        overload: overload::OverloadLoad,
    },
    /// Our API server alone, killed while it writes
    Crash(crash::CrashLoad),
    /// Pod create to Running
    Pods {
        /// Of the cluster to measure
        #[arg(long, conflicts_with = "dhow")]
        kubeconfig: Option<PathBuf>,
        /// The release binary, to start a cluster of it
        #[arg(long, required_unless_present = "kubeconfig")]
        dhow: Option<PathBuf>,
        #[command(flatten)]
        pods: cluster::PodCounts,
    },
    /// The API server and its store alone, until a signal
    Serve {
        /// Where its data and `kubeconfig` go
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Used by `containers`
    #[command(hide = true)]
    CrunHelper,
}

/// How much of each.
#[derive(Debug, clap::Args)]
struct Loads {
    #[command(flatten)]
    api: api::Load,
    #[command(flatten)]
    rounds: containers::Rounds,
    #[command(flatten)]
    pods: cluster::PodCounts,
    #[command(flatten)]
    slow: slow::SlowLoad,
    #[command(flatten)]
    overload: overload::OverloadLoad,
    #[command(flatten)]
    crash: crash::CrashLoad,
}

/// The server to measure.
#[derive(Debug, clap::Args)]
struct Target {
    /// Of the server to measure; without it the API server alone is started
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// All processes of the server
    #[arg(long = "server-pid", requires = "kubeconfig")]
    server_pids: Vec<i32>,
}

impl Target {
    /// Runs `work` with a client of the server and its processes; a server of ours ends with it.
    async fn measure(self, work: impl AsyncFnOnce(&Pool, &[i32]) -> Result<()>) -> Result<()> {
        if let Some(path) = self.kubeconfig {
            return unless_interrupted(work(&Pool::open(&path)?, &self.server_pids)).await;
        }
        let dir = directory()?;
        let server = Server::alone(dir.path())?;
        unless_interrupted(work(&server.pool()?, &[server.pid()])).await?;
        server.stop()
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((word, rest)) = args.split_first()
        && word == "zygote"
    {
        std::process::exit(runtime::zygote::main(rest));
    }
    if let Err(error) = run(Cli::parse()) {
        eprintln!("bench: {}", base::chain(&error));
        std::process::exit(1);
    }
}

fn run(cli: Cli) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build; its numbers mean nothing");
    }
    // Before the first thread: what a run makes in the network must not meet what is there, and goes with its namespace.
    let own_network = match &cli.command {
        Command::All { .. } | Command::Start { .. } | Command::Containers(_) => true,
        Command::Pods { dhow, .. } => dhow.is_some(),
        _ => false,
    };
    if own_network {
        enter_own_network()?;
    }
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.map_err(io("start threads"))?.block_on(execute(cli))
}

fn enter_own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(refused("make a network namespace; is this root?"))?;
    let mut route = sys::netlink::Route::open().map_err(refused("set up loopback"))?;
    route.link_set_up(1, true).map_err(refused("set up loopback"))
}

async fn execute(cli: Cli) -> Result<()> {
    let seed = cli.seed.unwrap_or_else(|| base::Clock::now(&base::SystemClock).as_nanosecond() as u64);
    let mut report = Report::default();
    let mut about = measure::machine();
    let quiet = matches!(cli.command, Command::Serve { .. } | Command::CrunHelper);
    let outcome = measured(cli.command, seed, &mut report).await;
    if quiet {
        return outcome;
    }
    about["seed"] = seed.into();
    about["loadAtEnd"] = measure::machine()["load"].clone();
    println_all(&about, &report);
    if let Some(path) = &cli.json {
        report.append_json(path, &about)?;
    }
    outcome
}

async fn measured(command: Command, seed: u64, report: &mut Report) -> Result<()> {
    match command {
        Command::Serve { data_dir } => serve::run(&data_dir).await,
        Command::CrunHelper => oci::crun_helper(),
        Command::All { dhow, loads } => all(&dhow, &loads, seed, report).await,
        Command::Containers(rounds) => containers::run(&rounds, report).await,
        Command::Start { dhow } => unless_interrupted(cluster::start(&dhow, report)).await,
        Command::Api { target, load } => {
            target.measure(async |pool, pids| api::run(pool, pids, &load, seed, report).await).await
        }
        Command::Slow { target, slow } => {
            target.measure(async |pool, pids| slow::run(pool, pids, &slow, seed, report).await).await
        }
        Command::Overload { target, overload } => {
            target.measure(async |pool, pids| overload::run(pool, pids, &overload, seed, report).await).await
        }
        Command::Crash(load) => unless_interrupted(crash::run(&load, seed, report)).await,
        Command::Pods { dhow: Some(dhow), pods, .. } => {
            unless_interrupted(cluster::start_pods(&dhow, &pods, report)).await
        }
        Command::Pods { kubeconfig: Some(path), pods, .. } => {
            let pool = Pool::open(&path)?;
            unless_interrupted(cluster::pods(&pool, None, &pods, report)).await
        }
        Command::Pods { .. } => Ok(()),
    }
}

/// Ends `work` on an interrupt or SIGTERM; what it started ends with its values.
async fn unless_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(io("wait for a signal"))?;
    let mut int = signal(SignalKind::interrupt()).map_err(io("wait for a signal"))?;
    tokio::select! {
        outcome = work => outcome,
        _ = term.recv() => Err(Fail::Interrupted),
        _ = int.recv() => Err(Fail::Interrupted),
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the tool is for")]
fn println_all(about: &serde_json::Value, report: &Report) {
    println!("\n{about}\n\n{}", report.markdown());
}

/// What fails is told in the table; the rest is measured all the same.
async fn all(dhow: &Path, loads: &Loads, seed: u64, report: &mut Report) -> Result<()> {
    let mut outcome = Ok(());
    for stage in ["Start", "Pod", "Container", "API", "Watch", "Overload", "Crash"] {
        let result = match stage {
            "Start" => unless_interrupted(cluster::start(dhow, report)).await,
            "Pod" => unless_interrupted(cluster::start_pods(dhow, &loads.pods, report)).await,
            "Container" => containers::run(&loads.rounds, report).await,
            "Crash" => unless_interrupted(crash::run(&loads.crash, seed, report)).await,
            _ => unless_interrupted(of_dhow(dhow, stage, loads, seed, report)).await,
        };
        if let Err(error) = result {
            report.add(stage, "no number", "–", "", base::chain(&error));
            let stop = matches!(error, Fail::Interrupted);
            outcome = Err(error);
            if stop {
                break;
            }
        }
    }
    outcome
}

/// The shipped binary: controllers, scheduler and agent watch what is written, and their share is counted.
async fn of_dhow(dhow: &Path, stage: &str, loads: &Loads, seed: u64, report: &mut Report) -> Result<()> {
    let place = servers::Place::new(dhow)?;
    let server = Server::dhow(&place)?;
    let (pool, pids) = (server.pool()?, [server.pid()]);
    let result = match stage {
        "Watch" => slow::run(&pool, &pids, &loads.slow, seed, report).await,
        "Overload" => overload::run(&pool, &pids, &loads.overload, seed, report).await,
        _ => api::run(&pool, &pids, &loads.api, seed, report).await,
    };
    server.stop()?;
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
