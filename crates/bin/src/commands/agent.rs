//! `dhow agent`: a node of a cluster whose server is elsewhere.

use super::{CommandError, require_root, start};
use crate::cli::Agent;
use crate::join::{self, Said};
use crate::system::Role;
use base::SystemClock;

/// Joins, if this machine is no node yet; then in the background unless told otherwise.
pub(crate) fn run(agent: Agent, args: &[String]) -> Result<(), CommandError> {
    require_root()?;
    let config = agent.up.settings.resolve()?;
    if !agent.up.foreground && start::runs_already(&config) {
        return Ok(());
    }
    let said = Said {
        server: agent.server,
        token: agent.token,
        ca_hash: agent.ca_hash,
        kubeconfig: agent.bootstrap_kubeconfig,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(join::ensure(&config, said, &SystemClock))?;
    drop(runtime);
    if agent.up.foreground {
        return start::foreground(&config, Role::Agent, agent.up.detached);
    }
    start::background(&config, &without_token(args))
}

/// Everybody on a machine can read the arguments of its processes.
fn without_token(args: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--token" {
            rest.next();
        } else if !arg.starts_with("--token=") {
            out.push(arg.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_token_does_not_stay_in_the_process_list() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let expected = args("agent --server s --node-name n");
        assert_eq!(super::without_token(&args("agent --server s --token a.b --node-name n")), expected);
        assert_eq!(super::without_token(&args("agent --server s --token=a.b --node-name n")), expected);
    }
}
