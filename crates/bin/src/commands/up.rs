//! `dhow up`: server and node in one process. `dhow server`: the server alone.

use super::{CommandError, require_root, start};
use crate::cli::Up;
use crate::system::Role;

/// In the background unless told otherwise.
pub(crate) fn run(up: Up, role: Role, args: &[String]) -> Result<(), CommandError> {
    require_root()?;
    let config = up.settings.resolve()?;
    if up.foreground {
        return start::foreground(&config, role, up.detached);
    }
    if start::runs_already(&config) {
        return Ok(());
    }
    start::background(&config, args)
}
