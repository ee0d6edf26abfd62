//! `dhow install`: a systemd unit.

use super::{CommandError, require_root, say};
use crate::bootstrap::files;
use crate::cli::{Install, InstallRole};
use crate::config::{CONFIG_FILE, Settings};
use std::path::{Path, PathBuf};

const UNIT: &str = "/etc/systemd/system/dhow.service";
/// Made by `systemctl enable`.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/dhow.service";

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

/// Removes the unit, if it starts the dhow whose data are in `data_dir`. True if it did.
pub(super) fn remove(data_dir: &Path) -> Result<bool, CommandError> {
    let Some(unit) = files::read(Path::new(UNIT))? else { return Ok(false) };
    let ours = data_of(&String::from_utf8_lossy(&unit)).as_deref() == Some(data_dir);
    if ours {
        files::remove(Path::new(ENABLED))?;
        files::remove(Path::new(UNIT))?;
    }
    Ok(ours)
}

/// The data directory of what a unit of [`unit()`] starts.
fn data_of(unit: &str) -> Option<PathBuf> {
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    let config = command.split_once(" --foreground")?.1.strip_prefix(" --config ").map(PathBuf::from);
    Some(Settings { config, ..Settings::default() }.resolve().ok()?.data_dir)
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
         # What ended because it was told to (`dhow down`, `dhow reset`) stays down.\n\
         Restart=on-failure\n\
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
        assert!(unit.contains("Restart=on-failure\n"), "`dhow down` means it");
    }

    #[test]
    fn a_unit_tells_whose_it_is() {
        let dir = tempfile::tempdir().expect("temp dir");
        let config = dir.path().join("config.yaml");
        let data = dir.path().join("data");
        std::fs::write(&config, format!("dataDir: {}\n", data.display())).expect("written");
        let unit = |config| super::unit("/usr/local/bin/dhow", crate::cli::InstallRole::Agent, config);
        assert_eq!(super::data_of(&unit(Some(&config))), Some(data));
        assert_eq!(super::data_of("[Service]\nExecStart=/usr/bin/other\n"), None);
        std::fs::remove_file(&config).expect("removed");
        assert_eq!(super::data_of(&unit(Some(&config))), None, "nobody knows");
    }
}
