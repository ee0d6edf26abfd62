//! [`Times`]: when the last shutdown that was waited for began and ended. On disk, since whoever asks comes after the boot
//! (`nodeshutdown/storage.go`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Its name in the agent's data directory.
const FILE: &str = "graceful_node_shutdown_state";

/// See the file's head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Times {
    /// When it began.
    pub start_time: Option<Timestamp>,
    /// When all pods had ended.
    pub end_time: Option<Timestamp>,
}

impl Times {
    /// Those of an earlier run; none if they cannot be read.
    pub fn load(data_dir: &Path) -> Self {
        let text = std::fs::read(data_dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// For later runs.
    pub fn save(&self, data_dir: &Path) {
        let file = data_dir.join(FILE);
        let written = serde_json::to_vec(self).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| base::files::replace(&file, &text)) {
            tracing::warn!(file = %file.display(), %error, "failed to save when the machine shut down");
        }
    }
}
