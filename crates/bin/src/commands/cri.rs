//! `dhow cri`: the engine as a container runtime for a kubelet, on a socket of the Container Runtime Interface.

use super::{CommandError, require_root, say, start};
use crate::cli::Cri;
use crate::cri::{self, Config};
use crate::process::{self, Instance};
use crate::traces;
use tokio_util::sync::CancellationToken;

/// Serves until a signal; containers go on. With `--reset`, removes all that was made.
pub(crate) fn run(args: Cri) -> Result<(), CommandError> {
    require_root()?;
    let reset = args.reset;
    let config = Config::of(args)?;
    if reset { remove(&config) } else { serve(&config) }
}

fn serve(config: &Config) -> Result<(), CommandError> {
    crate::logging::start(None);
    let instance = Instance::acquire(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let serving = cri::serve(config, shutdown.clone()).await?;
        say(format_args!("Serving CRI v1 on unix://{}", config.socket.display()));
        start::wait_for_signal().await?;
        shutdown.cancel();
        // Open streams would keep it for ever.
        if let Ok(ended) = tokio::time::timeout(start::STOP_PATIENCE, serving).await {
            ended??;
        }
        Ok::<(), CommandError>(())
    })?;
    runtime.shutdown_timeout(start::STOP_PATIENCE);
    drop(instance);
    Ok(())
}

fn remove(config: &Config) -> Result<(), CommandError> {
    if let Some(pid) = Instance::find(&config.run_dir) {
        process::end(pid)?;
    }
    let _instance = Instance::acquire(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let place = config.place();
    runtime.block_on(traces::stop_containers(&place.engine))?;
    traces::remove_all(&place)?;
    say("Removed all pods, networks, images and data of `dhow cri`.");
    Ok(())
}
