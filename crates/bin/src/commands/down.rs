//! `dhow down`: the processes of dhow and all containers of this machine. Data, images and logs stay.

use super::{CommandError, require_root, say};
use crate::config::{Config, Settings};
use crate::process::{self, Instance};
use crate::traces;

/// Stops and tells.
pub(crate) fn run(settings: Settings) -> Result<(), CommandError> {
    require_root()?;
    let config = settings.resolve()?;
    stop(&config)?;
    say("Data stays. `dhow up` starts the cluster again, `dhow reset` removes everything.");
    Ok(())
}

/// Used by `dhow reset`, too.
pub(crate) fn stop(config: &Config) -> Result<(), CommandError> {
    match Instance::find(&config.run_dir) {
        Some(pid) => {
            process::end(pid)?;
            say("Stopped dhow.");
        }
        None => say("dhow does not run."),
    }
    // Nobody else may start while we look at containers.
    let _instance = Instance::acquire(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let pods = runtime.block_on(traces::stop_all(config))?;
    if pods > 0 {
        say(format_args!("Stopped the containers of {pods} pods."));
    }
    Ok(())
}
