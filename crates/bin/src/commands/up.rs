//! `dhow up`: server and node in one process.

use super::{CommandError, require_root, say};
use crate::bootstrap::kubeconfig;
use crate::cli::Up;
use crate::config::{self, Config};
use crate::process::{self, Instance};
use crate::system::System;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long open requests may take at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// In the background unless told otherwise.
pub(crate) fn run(up: Up, args: &[String]) -> Result<(), CommandError> {
    require_root()?;
    let config = up.settings.resolve()?;
    if up.foreground {
        return foreground(&config, up.detached);
    }
    if let Some(pid) = Instance::find(&config.run_dir) {
        say(format_args!("dhow already runs as process {pid}. `dhow status` tells how it is, `dhow down` stops it."));
        return Ok(());
    }
    let mut args = args.to_vec();
    args.extend(["--foreground".to_owned(), "--detached".to_owned()]);
    Ok(process::start_in_background(&args, &log_file(&config), |line| say(line))?)
}

/// The log of a background dhow.
pub(crate) fn log_file(config: &Config) -> std::path::PathBuf {
    config.data_dir.join("log/dhow.log")
}

fn foreground(config: &Config, detached: bool) -> Result<(), CommandError> {
    if detached {
        process::detach();
    }
    crate::logging::start();
    let started = Instant::now();
    let instance = Instance::acquire(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let system = System::start(config, shutdown.clone()).await?;
        system.node_ready(config).await?;
        tell(config, &system, started)?;
        if detached {
            process::tell_ready()?;
        }
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

/// What was done, and what to do next.
fn tell(config: &Config, system: &System, started: Instant) -> Result<(), CommandError> {
    kubeconfig::write(&config.kubeconfig, system.kubeconfig())?;
    let mut uses = format!("export KUBECONFIG={}", config.kubeconfig.display());
    if config.merge_kubeconfig
        && let Some(home) = config::invoking_home()
    {
        let path = home.join(".kube/config");
        match kubeconfig::merge(&path, system.kubeconfig()) {
            Ok(()) => uses = format!("kubectl --context {} get nodes", kubeconfig::NAME),
            Err(error) => say(format_args!("Note: {}", base::chain(&error))),
        }
    }
    say(format_args!(
        "Kubernetes {} runs at {} (node {} ready after {:.1} s).",
        system.version(),
        system.server_url(),
        config.node_name,
        started.elapsed().as_secs_f64()
    ));
    for pressure in system.pressures() {
        say(format_args!(
            "Warning: {pressure}: no new pods will run here until there is more, or --eviction-hard allows less."
        ));
    }
    say(format_args!("Kubeconfig: {}", config.kubeconfig.display()));
    say(format_args!("Next: {uses}"));
    Ok(())
}

async fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
