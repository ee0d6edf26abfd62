//! `dhow install`: a systemd unit.

use super::{CommandError, require_root, say};
use crate::bootstrap::files;
use crate::cli::{Install, InstallRole};
use crate::config::CONFIG_FILE;
use std::path::Path;

const UNIT: &str = "/etc/systemd/system/dhow.service";

/// Writes the unit for this binary. A stop of the unit ends dhow's processes only: containers go on.
pub(crate) fn run(install: Install) -> Result<(), CommandError> {
    require_root()?;
    let Install { role, settings } = install;
    let config = settings.config.clone();
    settings.resolve()?;
    let program = std::env::current_exe()?;
    files::write(Path::new(UNIT), unit(&program.display().to_string(), role, config.as_deref()).as_bytes(), 0o644)?;
    say(format_args!("Wrote {UNIT}."));
    say("Next: systemctl daemon-reload && systemctl enable --now dhow");
    if config.is_none() {
        say(format_args!(
            "Settings go into {CONFIG_FILE}; flags given to `dhow install` other than --config are not kept."
        ));
    }
    Ok(())
}

fn unit(program: &str, role: InstallRole, config: Option<&Path>) -> String {
    let config = config.map(|c| format!(" --config {}", c.display())).unwrap_or_default();
    let command = match role {
        InstallRole::Up => "up",
        InstallRole::Server => "server",
        InstallRole::Agent => "agent",
    };
    format!(
        "[Unit]\n\
         Description=dhow: containers and Kubernetes\n\
         After=network-online.target\n\
         Wants=network-online.target\n\
         \n\
         [Service]\n\
         ExecStart={program} {command} --foreground{config}\n\
         Restart=always\n\
         RestartSec=1\n\
         # Containers live in processes of their own and outlive a restart of dhow.\n\
         KillMode=process\n\
         Delegate=yes\n\
         LimitNOFILE=1048576\n\
         TasksMax=infinity\n\
         OOMScoreAdjust=-999\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn stopping_the_unit_stops_no_container() {
        let unit = super::unit("/usr/local/bin/dhow", crate::cli::InstallRole::Up, None);
        assert!(unit.contains("ExecStart=/usr/local/bin/dhow up --foreground\n"));
        assert!(unit.contains("KillMode=process\n"));
    }
}
