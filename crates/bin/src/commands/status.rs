//! `dhow status`: asks the running dhow.

use super::{CommandError, say};
use crate::config::Settings;
use crate::control::{self, Request};
use crate::process::Instance;

/// Exit code 3 if nothing runs, as service managers have it.
pub(crate) fn run(settings: Settings) -> Result<(), CommandError> {
    let config = settings.resolve()?;
    let Some(pid) = Instance::find(&config.run_dir) else {
        say("dhow does not run. Start it with `dhow up`.");
        std::process::exit(3);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(control::ask(&config.run_dir, &Request::Status, |_| {}))?;
    let text = |key: &str| status[key].as_str().unwrap_or("unknown").to_owned();
    say(format_args!("dhow runs as process {pid}."));
    if status["cri"].is_string() {
        say(format_args!("  CRI      {}", text("cri")));
        return Ok(());
    }
    say(format_args!("  API      {} (Kubernetes {})", text("server"), text("version")));
    if status["node"].is_string() {
        say(format_args!("  Node     {} ({})", text("node"), text("nodeState")));
        say(format_args!("  Pods     {} here", status["pods"]));
        say(format_args!("  Images   {}", status["images"]));
    } else {
        say("  Node     none here");
    }
    say(format_args!("  Memory   {} MiB resident", status["residentMib"]));
    Ok(())
}
