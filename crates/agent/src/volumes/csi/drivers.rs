//! CSI drivers of this node: where those that registered serve, and calls to their node service
//! (`pkg/volume/csi/csi_client.go`, `csi_drivers_store.go`). Requests may hold secrets and are never logged.

use crate::counters::Counters;
use crate::plugins::{self, code_name, rpc_error, within};
use node_api::csi::node_client::NodeClient;
use node_api::csi::node_service_capability::{Type, rpc};
use node_api::csi::{
    NodeExpandVolumeRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeUsage,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long a call may take (`csiTimeout`).
const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) use rpc::Type as Capability;

/// Numbers of a version, most significant first.
type Version = Vec<u64>;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Drivers {
    known: Mutex<BTreeMap<String, (PathBuf, Version)>>,
    counters: Arc<Counters>,
}

/// Why a driver did not do as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct CallError {
    /// In upstream's words.
    pub text: String,
    /// What the driver answered; `None`: it was not asked.
    pub code: Option<Code>,
}

impl CallError {
    /// Whether nothing can be under way any more (`isFinalError`).
    pub(super) fn is_final(&self) -> bool {
        use Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
        self.code.is_some_and(|c| ![Cancelled, DeadlineExceeded, Unavailable, ResourceExhausted, Aborted].contains(&c))
    }

    /// Whether asking again cannot help (`isInfeasibleError`).
    pub(super) fn is_infeasible(&self) -> bool {
        matches!(self.code, Some(Code::InvalidArgument | Code::OutOfRange | Code::NotFound))
    }
}

fn answered(status: &Status) -> CallError {
    CallError { text: rpc_error(status), code: Some(status.code()) }
}

impl Drivers {
    /// None yet; what they are asked is counted.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Drivers { counters, ..Drivers::default() }
    }

    /// Whether a driver that speaks these versions could be registered (`validateVersions`); the highest of them.
    pub fn check(&self, caller: &str, name: &str, versions: &[String]) -> Result<Version, String> {
        let refused = |why: &str| Err(format!("kubernetes.io/csi: {caller} for CSI driver {name:?} failed. {why}"));
        if versions.is_empty() {
            return refused("Plugin returned an empty list for supported versions");
        }
        let highest = match highest(versions) {
            Ok(version) => version,
            Err(why) => {
                return refused(&format!("None of the versions specified {versions:?} are supported. err={why}"));
            }
        };
        match self.known.lock().get(name) {
            Some((_, other)) if *other >= highest => refused(&format!(
                "Another driver with the same name is already registered with a higher supported version: {:?}",
                shown(other)
            )),
            _ => Ok(highest),
        }
    }

    /// Takes a driver in.
    pub fn set(&self, name: &str, endpoint: &Path, version: Version) {
        self.known.lock().insert(name.to_owned(), (endpoint.to_path_buf(), version));
    }

    /// It is gone.
    pub fn remove(&self, name: &str) {
        self.known.lock().remove(name);
    }

    /// Whether it is there.
    pub fn has(&self, name: &str) -> bool {
        self.known.lock().contains_key(name)
    }

    /// Its node service.
    pub async fn node(&self, name: &str) -> Result<NodeService, CallError> {
        let endpoint = self.known.lock().get(name).map(|(endpoint, _)| endpoint.clone());
        let Some(endpoint) = endpoint else {
            let text = format!("driver name {name} not found in the list of registered CSI drivers");
            return Err(CallError { text, code: None });
        };
        let channel = plugins::connect(&endpoint).await.map_err(|text| CallError { text, code: None })?;
        let mut client = NodeClient::new(channel);
        let calls = Calls { driver: name.to_owned(), counters: self.counters.clone() };
        let asking = client.node_get_capabilities(NodeGetCapabilitiesRequest {});
        let types = calls.call("NodeGetCapabilities", asking).await?.capabilities.into_iter().filter_map(|c| c.r#type);
        let capabilities = types.map(|Type::Rpc(rpc)| rpc.r#type).collect();
        Ok(NodeService { client, calls, capabilities })
    }
}

/// `HighestSupportedVersion`: 1.x only.
fn highest(versions: &[String]) -> Result<Version, String> {
    let parsed: Vec<Version> = versions.iter().filter_map(|v| parse(v)).filter(|v| v[0] <= 1).collect();
    match parsed.into_iter().max() {
        None => Err(format!(
            "could not find a highest supported version from versions ({versions:?}) reported by this plugin"
        )),
        Some(version) if version[0] != 1 => {
            Err(format!("highest supported version reported is {}, must be v1.x", shown(&version)))
        }
        Some(version) => Ok(version),
    }
}

fn parse(text: &str) -> Option<Version> {
    let numbers: Option<Version> = text.trim().trim_start_matches('v').split('.').map(|n| n.parse().ok()).collect();
    numbers.filter(|n| n.len() >= 2)
}

fn shown(version: &Version) -> String {
    version.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Waits for a driver's answers and measures that (`pkg/volume/csi/csi_metrics.go`).
struct Calls {
    driver: String,
    counters: Arc<Counters>,
}

impl Calls {
    async fn call<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let begun = Instant::now();
        let answer = within(TIMEOUT, call).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.counters.csi(&self.driver, method, &code_name(code), begun.elapsed());
        answer.map_err(|e| answered(&e))
    }
}

/// A connection to a driver's node service, for one operation.
pub struct NodeService {
    client: NodeClient<Channel>,
    calls: Calls,
    capabilities: BTreeSet<i32>,
}

impl NodeService {
    /// Whether the driver can do something that not all can.
    pub(super) fn can(&self, what: Capability) -> bool {
        self.capabilities.contains(&(what as i32))
    }

    /// What the driver calls this node.
    pub async fn info(&mut self) -> Result<NodeGetInfoResponse, CallError> {
        self.calls.call("NodeGetInfo", self.client.node_get_info(NodeGetInfoRequest {})).await
    }

    pub(super) async fn stage(&mut self, request: NodeStageVolumeRequest) -> Result<(), CallError> {
        self.calls.call("NodeStageVolume", self.client.node_stage_volume(request)).await.map(drop)
    }

    pub(super) async fn unstage(&mut self, volume: &str, path: &Path) -> Result<(), CallError> {
        let request =
            NodeUnstageVolumeRequest { volume_id: volume.to_owned(), staging_target_path: path.display().to_string() };
        self.calls.call("NodeUnstageVolume", self.client.node_unstage_volume(request)).await.map(drop)
    }

    pub(super) async fn publish(&mut self, request: NodePublishVolumeRequest) -> Result<(), CallError> {
        self.calls.call("NodePublishVolume", self.client.node_publish_volume(request)).await.map(drop)
    }

    pub(super) async fn unpublish(&mut self, volume: &str, path: &Path) -> Result<(), CallError> {
        let request =
            NodeUnpublishVolumeRequest { volume_id: volume.to_owned(), target_path: path.display().to_string() };
        self.calls.call("NodeUnpublishVolume", self.client.node_unpublish_volume(request)).await.map(drop)
    }

    pub(super) async fn expand(&mut self, request: NodeExpandVolumeRequest) -> Result<(), CallError> {
        self.calls.call("NodeExpandVolume", self.client.node_expand_volume(request)).await.map(drop)
    }

    pub(super) async fn usage(&mut self, volume: &str, path: &Path) -> Result<Vec<VolumeUsage>, CallError> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume.to_owned(),
            volume_path: path.display().to_string(),
            staging_target_path: String::new(),
        };
        let answer = self.calls.call("NodeGetVolumeStats", self.client.node_get_volume_stats(request)).await;
        answer.map(|a| a.usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(drivers: &Drivers, versions: &[&str], want: &str) {
        let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
        let got = drivers.check("ValidatePlugin", "d", &versions).map_or_else(|e| e, |v| shown(&v));
        assert!(got.ends_with(want), "{got}");
    }

    #[test]
    fn one_dot_anything_is_spoken() {
        let drivers = Drivers::default();
        check(&drivers, &["1.0.0", "v1.9", "0.3.0", "2.0.0"], "1.9");
        check(&drivers, &["0.3.0"], "err=highest supported version reported is 0.3.0, must be v1.x");
        check(&drivers, &[], "Plugin returned an empty list for supported versions");
        drivers.set("d", Path::new("/s"), vec![1, 0, 0]);
        check(
            &drivers,
            &["1.0.0"],
            "Another driver with the same name is already registered with a higher supported version: \"1.0.0\"",
        );
    }
}
