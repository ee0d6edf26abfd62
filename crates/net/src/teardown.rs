//! [`teardown`]: the node as it was before, for `dhow reset`.

use crate::NetConfig;
use crate::overlay::VXLAN_LINK_SUFFIX;
use crate::pod::pod_links;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use sys::netlink::{NetlinkError, Route, RouteEntry, netns};
use sys::nft::{Family, Nft, NftError};
use thiserror::Error;

/// Why something of the network is left.
#[derive(Debug, Error)]
pub enum TeardownError {
    /// A table could not be removed.
    #[error("failed to remove the packet rules")]
    Rules(#[from] NftError),
    /// A link, route or setting could not be removed.
    #[error("failed to remove the network")]
    Netlink(#[from] NetlinkError),
    /// The state directory could not be removed.
    #[error("failed to remove {path}")]
    State {
        /// The directory.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// Removes every trace: tables, links of pods, bridge, tunnel, routes, leases; puts kernel settings back. What is not there is no
/// error, so it may be called at any time and again.
pub fn teardown(config: &NetConfig) -> Result<(), TeardownError> {
    let mut nft = Nft::open()?;
    let tables = nft.tables()?;
    for table in [Family::Ip, Family::Ip6].map(|f| config.nft_table(f)) {
        if tables.contains(&table) {
            nft.delete_table(&table)?;
        }
    }
    let mut route = Route::open()?;
    for link in pod_links(&mut route, &config.link_prefix)? {
        route.link_delete(link.index)?;
    }
    route.link_delete_named(&format!("{}{VXLAN_LINK_SUFFIX}", config.link_prefix))?;
    route.link_delete_named(&config.bridge)?;
    // A node that has all addresses itself has no routes to others; those that there are belong to somebody beside it.
    let alone = config.pod_cidrs == config.cluster_cidrs;
    let ours = |r: &&RouteEntry| !alone && [RouteEntry::OURS, RouteEntry::OURS_PODS].contains(&r.protocol);
    for entry in route.routes()?.iter().filter(ours) {
        route.route_delete(entry)?;
    }
    for (path, value) in settings(config) {
        netns::write_sysctl(&path, &value)?;
    }
    match std::fs::remove_dir_all(&config.state_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TeardownError::State { path: config.state_dir.clone(), source })
        }
        _ => Ok(()),
    }
}

/// Notes the values of global settings from before we changed them. The first note stays: later ones would be ours.
pub(crate) fn remember_settings(config: &NetConfig, before: Vec<(String, String)>) -> io::Result<()> {
    let path = settings_path(config);
    if path.exists() {
        return Ok(());
    }
    let before: BTreeMap<String, String> = before.into_iter().collect();
    std::fs::create_dir_all(&config.state_dir)?;
    std::fs::write(path, serde_json::to_vec(&before).expect("strings only"))
}

fn settings(config: &NetConfig) -> BTreeMap<String, String> {
    let bytes = std::fs::read(settings_path(config)).unwrap_or_default();
    // An unreadable note means that nothing is known to put back.
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn settings_path(config: &NetConfig) -> PathBuf {
    config.state_dir.join("settings.json")
}
