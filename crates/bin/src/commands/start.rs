//! What `dhow up`, `dhow server` and `dhow agent` share: in the background or not, ready, until a signal.

use super::{CommandError, say};
use crate::bootstrap::kubeconfig;
use crate::config::{self, Config};
use crate::process::{self, Instance};
use crate::system::{Role, System};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long open requests may take at the end.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How long the starter waits for what dhow itself waits for without end: an agent for its server, a server for its etcd.
const STARTER_PATIENCE: Duration = Duration::from_secs(60);
/// This long after the start, what only the start needed is not needed any more.
const SETTLED: Duration = Duration::from_secs(5);
/// How often code that does not run is let go after that.
const FORGET_CODE_EVERY: Duration = Duration::from_secs(600);

/// Says so if dhow runs already.
pub(super) fn runs_already(config: &Config) -> bool {
    let Some(pid) = Instance::find(&config.run_dir) else { return false };
    say(format_args!("dhow already runs as process {pid}. `dhow status` tells how it is, `dhow down` stops it."));
    true
}

/// Starts this binary again with `args`, and returns when it is ready.
pub(super) fn background(config: &Config, args: &[String]) -> Result<(), CommandError> {
    let mut args = args.to_vec();
    args.extend(["--foreground".to_owned(), "--detached".to_owned()]);
    Ok(process::start_in_background(&args, &log_file(config), |line| say(line))?)
}

/// The log of a background dhow.
fn log_file(config: &Config) -> std::path::PathBuf {
    config.data_dir.join("log/dhow.log")
}

/// Runs until a signal.
pub(super) fn foreground(config: &Config, role: Role, detached: bool) -> Result<(), CommandError> {
    if detached {
        process::detach();
    }
    crate::logging::start(detached.then(|| log_file(config)));
    let started = Instant::now();
    let instance = Instance::acquire(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let starting = async {
            let system = System::start(config, role, shutdown.clone()).await?;
            system.node_ready(config).await?;
            Ok::<System, CommandError>(system)
        };
        tokio::pin!(starting);
        let waits_for = match role {
            Role::Agent => Some("The server"),
            Role::Up | Role::Server => config.etcd.as_ref().map(|_| "etcd"),
        };
        let system = tokio::select! {
            system = &mut starting => system?,
            () = tokio::time::sleep(STARTER_PATIENCE), if detached && waits_for.is_some() => {
                let (log, other) = (log_file(config), waits_for.unwrap_or_default());
                say(format_args!("{other} does not answer; dhow waits for it in the background. Log: {}", log.display()));
                process::tell_ready()?;
                starting.await?
            }
        };
        tell(config, role, &system, started)?;
        if detached {
            process::tell_ready()?;
        }
        base::tasks::detach("forget-code", forget_code());
        wait_for_signal().await?;
        // Everything acknowledged is on disk and containers are not ours to stop, so nothing is lost by leaving late answers.
        if tokio::time::timeout(STOP_PATIENCE, system.stop()).await.is_err() {
            tracing::warn!("some requests were still open after {STOP_PATIENCE:?}");
        }
        Ok::<(), CommandError>(())
    })?;
    runtime.shutdown_timeout(STOP_PATIENCE);
    drop(instance);
    Ok(())
}

/// Keeps no more of the program mapped than runs: most of it are kinds, verbs and errors that come up once in a while, and the
/// kernel maps whatever is near to what did run.
async fn forget_code() {
    tokio::time::sleep(SETTLED).await;
    let page_by_page = sys::memory::map_code_page_by_page();
    if let Err(error) = &page_by_page {
        tracing::debug!(%error, "the kernel maps what is near to code that runs");
    }
    loop {
        if let Err(error) = sys::memory::forget_code() {
            tracing::debug!(%error, "the program's code stays mapped");
        }
        tokio::time::sleep(FORGET_CODE_EVERY).await;
    }
}

/// What was done, and what to do next.
fn tell(config: &Config, role: Role, system: &System, started: Instant) -> Result<(), CommandError> {
    let seconds = started.elapsed().as_secs_f64();
    let (url, node) = (system.server_url(), &config.node_name);
    let Some(ours) = system.kubeconfig() else {
        say(format_args!("Node {node} of the cluster at {url} is ready after {seconds:.1} s."));
        warn_of_pressure(system);
        return Ok(());
    };
    kubeconfig::write(&config.kubeconfig, ours)?;
    let mut uses = format!("export KUBECONFIG={}", config.kubeconfig.display());
    if config.merge_kubeconfig
        && let Some(home) = config::invoking_home()
    {
        let path = home.join(".kube/config");
        match kubeconfig::merge(&path, ours) {
            Ok(()) => uses = format!("kubectl --context {} get nodes", kubeconfig::NAME),
            Err(error) => say(format_args!("Note: {}", base::chain(&error))),
        }
    }
    let ready = match role {
        Role::Server => format!("ready after {seconds:.1} s, without a node"),
        Role::Up | Role::Agent => format!("node {node} ready after {seconds:.1} s"),
    };
    say(format_args!("Kubernetes {} runs at {url} ({ready}).", system.version()));
    warn_of_pressure(system);
    say(format_args!("Kubeconfig: {}", config.kubeconfig.display()));
    say(format_args!("Next: {uses}"));
    Ok(())
}

fn warn_of_pressure(system: &System) {
    for pressure in system.pressures() {
        say(format_args!(
            "Warning: {pressure}: no new pods will run here until there is more, or --eviction-hard allows less."
        ));
    }
}

pub(super) async fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
