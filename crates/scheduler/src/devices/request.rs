//! [`Wanted`]: what a claim asks for, read once per attempt to place its pod.

use super::capacity::{self, Capacity};
use super::{Class, Compiled, Devices, compile};
use api::k8s::api::resource::v1::{CapacityRequirements, DeviceClaim, DeviceRequest, DeviceToleration, ResourceClaim};
use api::meta::MetaExt;
use std::sync::Arc;

/// A claim without devices.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) claim: Arc<ResourceClaim>,
    pub(super) requests: Vec<Request>,
}

/// A request of it.
#[derive(Debug)]
pub(super) struct Request {
    /// Of these, in the order of preference, one; a single one if the request is exact.
    pub(super) alternatives: Vec<Ask>,
    /// Whether they are subrequests.
    pub(super) is_list: bool,
}

/// An exact request or an alternative of a request.
#[derive(Debug)]
pub(super) struct Ask {
    /// The request's name.
    pub(super) request: String,
    /// The same, or `request/alternative`.
    pub(super) name: String,
    /// Its own name, without the request's.
    pub(super) short: String,
    pub(super) class: Arc<Class>,
    pub(super) selectors: Compiled,
    pub(super) mode: Mode,
    pub(super) admin_access: bool,
    pub(super) tolerations: Option<Vec<DeviceToleration>>,
    pub(super) capacity: Capacity,
}

/// How many devices.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Exactly(usize),
    All,
}

/// What exact requests and alternatives have in common.
struct Parts<'a> {
    class: &'a str,
    selectors: Compiled,
    mode: Option<&'a str>,
    count: Option<i64>,
    tolerations: Option<&'a Vec<DeviceToleration>>,
    capacity: Option<&'a CapacityRequirements>,
    admin_access: bool,
}

static NOTHING: DeviceClaim = DeviceClaim { config: None, constraints: None, requests: None };

impl Wanted {
    /// Reads it. `Err`: what makes it impossible to find devices on any node, e.g. a class that does not exist.
    pub(crate) fn read(claim: &Arc<ResourceClaim>, devices: &Devices) -> Result<Self, String> {
        let spec = claim.spec.devices.as_ref().unwrap_or(&NOTHING);
        let full = format!("{}/{}", claim.namespace(), claim.name());
        let mut selectors = devices.selectors(claim).into_iter();
        let requests = spec.requests.iter().flatten().map(|request| read(&full, request, &mut selectors, devices));
        Ok(Wanted { claim: claim.clone(), requests: requests.collect::<Result<_, _>>()? })
    }

    pub(super) fn spec(&self) -> &DeviceClaim {
        self.claim.spec.devices.as_ref().unwrap_or(&NOTHING)
    }

    /// `namespace/name`
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.claim.namespace(), self.claim.name())
    }
}

/// The selectors of each request or each of its alternatives, in the order in which these are read.
pub(super) fn selectors(claim: &ResourceClaim) -> Vec<Compiled> {
    let mut all = Vec::new();
    for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        match &request.exactly {
            Some(exact) => all.push(compile(exact.selectors.as_deref())),
            None => all.extend(request.first_available.iter().flatten().map(|a| compile(a.selectors.as_deref()))),
        }
    }
    all
}

fn read(
    claim: &str,
    request: &DeviceRequest,
    selectors: &mut impl Iterator<Item = Compiled>,
    devices: &Devices,
) -> Result<Request, String> {
    if let Some(exact) = &request.exactly {
        let parts = Parts {
            class: &exact.device_class_name,
            selectors: selectors.next().unwrap_or_default(),
            mode: exact.allocation_mode.as_deref(),
            count: exact.count,
            tolerations: exact.tolerations.as_ref(),
            capacity: exact.capacity.as_ref(),
            admin_access: exact.admin_access == Some(true),
        };
        let ask = ask(claim, &request.name, None, &parts, devices)?;
        return Ok(Request { alternatives: vec![ask], is_list: false });
    }
    let listed = request.first_available.as_deref().unwrap_or_default();
    if listed.is_empty() {
        return Err(format!("resource claim {claim}, request {}: unknown request type", request.name));
    }
    let alternatives = listed.iter().map(|alternative| {
        let parts = Parts {
            class: &alternative.device_class_name,
            selectors: selectors.next().unwrap_or_default(),
            mode: alternative.allocation_mode.as_deref(),
            count: alternative.count,
            tolerations: alternative.tolerations.as_ref(),
            capacity: alternative.capacity.as_ref(),
            admin_access: false,
        };
        ask(claim, &request.name, Some(&alternative.name), &parts, devices)
    });
    Ok(Request { alternatives: alternatives.collect::<Result<_, _>>()?, is_list: true })
}

fn ask(
    claim: &str,
    request: &str,
    alternative: Option<&str>,
    parts: &Parts<'_>,
    devices: &Devices,
) -> Result<Ask, String> {
    let name = alternative.map_or_else(|| request.to_owned(), |alternative| format!("{request}/{alternative}"));
    let short = alternative.unwrap_or(request).to_owned();
    let missing = || format!("request {name}: device class {} does not exist", parts.class);
    let class = devices.class(parts.class).ok_or_else(missing)?.clone();
    let mode = match parts.mode {
        None | Some("ExactCount") => Mode::Exactly(usize::try_from(parts.count.unwrap_or(1)).unwrap_or(usize::MAX)),
        Some("All") => Mode::All,
        Some(other) => return Err(format!("claim {claim}, request {short}: unsupported count mode {other}")),
    };
    Ok(Ask {
        request: request.to_owned(),
        name,
        short,
        class,
        selectors: parts.selectors.clone(),
        mode,
        admin_access: parts.admin_access,
        tolerations: parts.tolerations.cloned(),
        capacity: capacity::read(parts.capacity.and_then(|c| c.requests.as_ref())),
    })
}
