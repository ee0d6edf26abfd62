//! Addresses and node ports of Services: unique, taken when a Service is written, given back when it goes
//! (`pkg/registry/core/service/storage/alloc.go`, `…/ipallocator`, `…/portallocator`).
//!
//! What is taken is rebuilt from the stored Services at start; nothing else is kept. A reservation that is not kept gives
//! back what it took. Beside the server's own ranges those of ServiceCIDRs that are ready count. Differs from upstream:
//! IPAddress objects only show what is taken, a controller keeps them (`controllers/src/service_addresses.rs`).
//!
//! Servers that share a store share a guard, too: an entry that changes in the same commit as every Service. Whose guard is old
//! when it commits is refused, reads the Services anew and reserves again; so no two give out the same ([`Guard`]).

use crate::reader::Reader;
use crate::status;
use api::k8s::api::core::v1::ServiceSpec;
use api::k8s::api::networking::v1::ServiceCIDR;
use api::prelude::{MetaExt, Service};
use api::{AnyObject, Status};
use base::Random;
use ipnet::IpNet;
use machinery::field::{Errors, FieldError, Path};
use machinery::services::{addresses, is_external_name, ranges};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use store::{At, Key, Op, Revision, Value};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Where Services get their addresses and ports.
#[derive(Debug, Clone)]
pub struct ServiceNetwork {
    /// At most one per family; the first is the default family.
    pub cidrs: Vec<IpNet>,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Other servers use the same store.
    pub shared: bool,
}

impl Default for ServiceNetwork {
    fn default() -> Self {
        let cidr = IpNet::new(IpAddr::from([10, 43, 0, 0]), 16).expect("16 bits fit IPv4");
        ServiceNetwork { cidrs: vec![cidr], node_ports: 30000..=32767, shared: false }
    }
}

#[derive(Debug, Default)]
struct Taken {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// How much of a range is in use.
pub(crate) struct RangeUse {
    pub(crate) cidr: String,
    pub(crate) taken: u128,
    pub(crate) free: u128,
}

/// Gives out addresses and ports.
pub(crate) struct Allocator {
    network: ServiceNetwork,
    /// Ranges of ServiceCIDRs beside those.
    more: Mutex<Vec<IpNet>>,
    random: Arc<dyn Random>,
    taken: Arc<Mutex<Taken>>,
    /// The guard's revision at which we know what is taken.
    known_at: Arc<AsyncMutex<Revision>>,
}

/// Where the guard is.
const GUARD: &str = "/dhow/service-allocations";

/// What a commit of a Service must change beside it. One is held at a time, so that nothing is reserved while Services are read anew.
pub(crate) struct Guard {
    known_at: OwnedMutexGuard<Revision>,
    expected: Revision,
    value: Value,
}

impl Guard {
    /// For the commit.
    pub(crate) fn op(&self) -> Op {
        let (key, value) = (Key::new(GUARD), self.value.clone());
        match self.expected {
            Revision(0) => Op::Create { key, value },
            expected => Op::Update { key, expected, value },
        }
    }

    /// The commit with this revision is ours.
    pub(crate) fn committed(&mut self, revision: Revision) {
        *self.known_at = revision;
    }

    /// Whether a commit was refused because of the guard at this key.
    pub(crate) fn is_at(key: &Key) -> bool {
        key.as_str() == GUARD
    }
}

/// What a write took and, once it is committed, gives up.
#[must_use]
#[derive(Default)]
pub(crate) struct Reservation {
    pool: Option<Arc<Mutex<Taken>>>,
    took: Taken,
    frees: Taken,
}

impl Reservation {
    /// The write is committed.
    pub(crate) fn keep(mut self) {
        if let Some(pool) = self.pool.take() {
            let mut taken = pool.lock();
            for address in &self.frees.addresses {
                taken.addresses.remove(address);
            }
            for port in &self.frees.ports {
                taken.ports.remove(port);
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut taken = pool.lock();
            for address in &self.took.addresses {
                taken.addresses.remove(address);
            }
            for port in &self.took.ports {
                taken.ports.remove(port);
            }
        }
    }
}

/// Whether addresses of a range may be given out: it is ready, and stays.
fn gives_out(range: &ServiceCIDR) -> bool {
    let mut conditions = range.status.iter().flat_map(|s| s.conditions.iter().flatten());
    range.metadata.deletion_timestamp.is_none() && conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What the stored Services hold.
async fn taken(reader: &Reader) -> Result<Taken, Status> {
    let mut taken = Taken::default();
    for service in reader.list::<Service>("").await? {
        if let Some(spec) = &service.spec {
            taken.addresses.extend(addresses(spec));
            taken.ports.extend(ports(spec));
        }
    }
    Ok(taken)
}

impl Allocator {
    /// Knows what the stored Services hold.
    pub(crate) async fn repair(
        network: ServiceNetwork,
        random: Arc<dyn Random>,
        reader: &Reader,
    ) -> Result<Self, Status> {
        let taken = Arc::new(Mutex::new(taken(reader).await?));
        Ok(Allocator { network, more: Mutex::default(), random, taken, known_at: Arc::default() })
    }

    /// How many addresses of each range are taken and free, without those that are no hosts.
    pub(crate) fn uses(&self) -> Vec<RangeUse> {
        let taken = self.taken.lock();
        let range_use = |cidr: &IpNet| {
            let held = taken.addresses.iter().filter(|address| cidr.contains(*address)).count() as u128;
            let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
            let hosts = 1u128.checked_shl(bits).unwrap_or(u128::MAX).saturating_sub(2);
            RangeUse { cidr: cidr.to_string(), taken: held, free: hosts.saturating_sub(held) }
        };
        self.cidrs().iter().map(range_use).collect()
    }

    /// How many node ports are taken and free.
    pub(crate) fn port_uses(&self) -> (usize, usize) {
        let taken = self.taken.lock().ports.len();
        (taken, self.network.node_ports.len().saturating_sub(taken))
    }

    /// Whether others may give out what this object takes.
    pub(crate) fn is_guarded(&self, object: &dyn AnyObject) -> bool {
        self.network.shared && api::any::downcast_ref::<Service>(object).is_some()
    }

    /// Before a Service is written in a store that others write to: afterwards it is known what they gave out until now. `None` if
    /// the store is ours alone, or the object is no Service.
    pub(crate) async fn guard(&self, object: &dyn AnyObject, reader: &Reader) -> Result<Option<Guard>, Status> {
        if !self.is_guarded(object) {
            return Ok(None);
        }
        let mut known_at = self.known_at.clone().lock_owned().await;
        let found = reader.store().get(&Key::new(GUARD), At::Latest).await.map_err(status::from_store)?;
        let expected = found.value.map(|entry| entry.modified).unwrap_or_default();
        if *known_at != expected {
            let fresh = taken(reader).await?;
            *self.taken.lock() = fresh;
            *known_at = expected;
        }
        Ok(Some(Guard { known_at, expected, value: Value::plain(self.random.uuid()) }))
    }

    /// Before a Service is written: afterwards it is known which ranges there are now.
    pub(crate) async fn look_at_ranges(&self, object: &dyn AnyObject, reader: &Reader) -> Result<(), Status> {
        if api::any::downcast_ref::<Service>(object).is_some() {
            let ready =
                reader.list::<ServiceCIDR>("").await?.iter().filter(|c| gives_out(c)).flat_map(ranges).collect();
            *self.more.lock() = ready;
        }
        Ok(())
    }

    /// The server's own ranges come first.
    fn cidrs(&self) -> Vec<IpNet> {
        let more = self.more.lock();
        let new = more.iter().filter(|c| !self.network.cidrs.contains(c));
        self.network.cidrs.iter().chain(new).copied().collect()
    }

    /// Takes what a new Service needs. Other kinds need nothing.
    pub(crate) fn reserve_create(&self, object: &mut dyn AnyObject, dry_run: bool) -> Result<Reservation, Status> {
        match api::any::downcast_mut::<Service>(object) {
            Some(service) => self.reserve(service, None, dry_run),
            None => Ok(Reservation::default()),
        }
    }

    /// Takes what a changed Service needs beyond what it has.
    pub(crate) fn reserve_update(
        &self,
        object: &mut dyn AnyObject,
        old: &dyn AnyObject,
        dry_run: bool,
    ) -> Result<Reservation, Status> {
        match (api::any::downcast_mut::<Service>(object), api::any::downcast_ref::<Service>(old)) {
            (Some(service), Some(old)) => self.reserve(service, Some(old), dry_run),
            _ => Ok(Reservation::default()),
        }
    }

    /// Gives back what a deleted Service held.
    pub(crate) fn release(&self, object: &dyn AnyObject) {
        let Some(spec) = api::any::downcast_ref::<Service>(object).and_then(|s| s.spec.as_ref()) else { return };
        let mut taken = self.taken.lock();
        for address in addresses(spec) {
            taken.addresses.remove(&address);
        }
        for port in ports(spec) {
            taken.ports.remove(&port);
        }
    }

    fn reserve(&self, service: &mut Service, old: Option<&Service>, dry_run: bool) -> Result<Reservation, Status> {
        let name = service.name().to_owned();
        let old = old.and_then(|s| s.spec.as_ref());
        let Some(spec) = &mut service.spec else { return Ok(Reservation::default()) };
        let invalid = |errors: Errors| status::invalid("", "Service", &name, &errors);
        carry_over(spec, old);
        self.settle_families(spec).map_err(invalid)?;
        let cidrs = self.cidrs();
        let mut taken = self.taken.lock();
        let mut took = Taken::default();
        let mut session = Session {
            network: &self.network,
            cidrs: &cidrs,
            random: &*self.random,
            taken: &taken,
            took: &mut took,
            old,
            dry_run,
        };
        session.take_addresses(spec, &name)?;
        session.take_ports(spec, &name)?;
        let mut frees = Taken::default();
        if let Some(old) = old {
            let (now, now_ports): (Vec<_>, Vec<_>) = (addresses(spec).collect(), ports(spec).collect());
            frees.addresses = addresses(old).filter(|a| !now.contains(a)).collect();
            frees.ports = ports(old).filter(|p| !now_ports.contains(p)).collect();
        }
        if dry_run {
            return Ok(Reservation::default());
        }
        taken.addresses.extend(took.addresses.iter().copied());
        taken.ports.extend(took.ports.iter().copied());
        drop(taken);
        Ok(Reservation { pool: Some(self.taken.clone()), took, frees })
    }

    /// `initIPFamilyFields`: families and policy from what is asked and what the cluster has.
    fn settle_families(&self, spec: &mut ServiceSpec) -> Result<(), Errors> {
        if is_external_name(spec) {
            return Ok(());
        }
        let headless = is_headless(spec);
        let selectorless = spec.selector.as_ref().is_none_or(|s| s.is_empty());
        let inferred = if headless && selectorless { "RequireDualStack" } else { "SingleStack" };
        let policy = spec.ip_family_policy.get_or_insert_with(|| inferred.into()).clone();
        let path = Path::new("spec");
        let mut errors = machinery::kinds::validate_cluster_ips(spec, &path);
        if !errors.is_empty() {
            return Err(errors);
        }
        let configured: Vec<&str> = self.network.cidrs.iter().map(|c| family_of(c.addr())).collect();
        let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        if policy == "SingleStack" {
            let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
            if count(&spec.cluster_ips) == 2 {
                let detail = format!("{detail} cluster IPs are specified");
                errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &policy, &detail));
            }
            if count(&spec.ip_families) == 2 {
                let detail = format!("{detail} IP families are specified");
                errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &policy, &detail));
            }
        }
        let families = spec.ip_families.get_or_insert_default();
        for (i, ip) in spec.cluster_ips.iter().flatten().enumerate().skip(families.len()) {
            let Ok(address) = ip.parse::<IpAddr>() else { break };
            let family = family_of(address);
            if configured.contains(&family) {
                families.push(family.into());
            } else {
                let value = serde_json::json!(spec.cluster_ips);
                let detail = format!("{family} is not configured on this cluster");
                errors.push(FieldError::invalid(&path.child("clusterIPs").index(i), &value, &detail));
            }
        }
        let default = configured.first().copied().unwrap_or("IPv4");
        if families.is_empty() {
            families.push(default.into());
        }
        let dual = policy != "SingleStack";
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        if headless && selectorless {
            if dual && families.len() < 2 {
                families.push(other.into());
            }
            return if errors.is_empty() { Ok(()) } else { Err(errors) };
        }
        if policy == "RequireDualStack" && configured.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &policy, detail));
        }
        for (i, family) in families.iter().enumerate() {
            if !configured.contains(&family.as_str()) {
                let path = path.child("ipFamilies").index(i);
                errors.push(FieldError::invalid(&path, family, "not configured on this cluster"));
            }
        }
        if dual && families.len() == 1 && configured.len() == 2 {
            families.push(other.into());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// An update that says nothing about addresses keeps them (`patchAllocatedValues` in `…/service/strategy.go`).
fn carry_over(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let Some(old) = old else { return };
    if is_external_name(spec) || is_external_name(old) {
        return;
    }
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
        spec.cluster_ip = old.cluster_ip.clone();
    }
    if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) && spec.cluster_ip == old.cluster_ip {
        spec.cluster_ips = old.cluster_ips.clone();
    }
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy = old.ip_family_policy.clone();
    }
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families = old.ip_families.clone();
    }
    if wants_node_ports(spec) && wants_node_ports(old) {
        let kept: Vec<_> = old.ports.iter().flatten().cloned().collect();
        let asked: Vec<i32> = spec.ports.iter().flatten().filter_map(|p| p.node_port).collect();
        for port in spec.ports.iter_mut().flatten() {
            if port.node_port.unwrap_or(0) != 0 {
                continue;
            }
            let same = |o: &&api::k8s::api::core::v1::ServicePort| o.port == port.port && o.protocol == port.protocol;
            port.node_port = kept.iter().find(same).and_then(|o| o.node_port).filter(|n| !asked.contains(n));
        }
    }
    if spec.health_check_node_port.unwrap_or(0) == 0 && needs_health_port(spec) && needs_health_port(old) {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// One allocation: sees what is taken and collects what it takes.
struct Session<'a> {
    network: &'a ServiceNetwork,
    cidrs: &'a [IpNet],
    random: &'a dyn Random,
    taken: &'a Taken,
    took: &'a mut Taken,
    old: Option<&'a ServiceSpec>,
    /// Ports out of range are then left to validation (`portallocator/operation.go`).
    dry_run: bool,
}

impl Session<'_> {
    fn take_addresses(&mut self, spec: &mut ServiceSpec, name: &str) -> Result<(), Status> {
        if is_external_name(spec) {
            return Ok(());
        }
        if is_headless(spec) {
            spec.cluster_ip = Some("None".into());
            spec.cluster_ips = Some(vec!["None".into()]);
            return Ok(());
        }
        let held: Vec<IpAddr> = self.old.map(|o| addresses(o).collect()).unwrap_or_default();
        let mut ips = spec.cluster_ips.clone().unwrap_or_default();
        if ips.is_empty() {
            ips.extend(spec.cluster_ip.clone().filter(|ip| !ip.is_empty()));
        }
        let families = spec.ip_families.clone().unwrap_or_default();
        ips.truncate(families.len().max(1));
        for (i, family) in families.iter().enumerate() {
            match ips.get(i).filter(|ip| !ip.is_empty()).cloned() {
                Some(ip) => self.take_asked(&ip, &held, spec, name)?,
                None => {
                    let address = self.next_address(family).ok_or_else(|| {
                        status::internal(format!("failed to allocate a serviceIP for Service {name:?}: range is full"))
                    })?;
                    self.took.addresses.insert(address);
                    ips.truncate(i);
                    ips.push(address.to_string());
                }
            }
        }
        spec.cluster_ip = ips.first().cloned();
        spec.cluster_ips = Some(ips);
        Ok(())
    }

    fn take_asked(&mut self, ip: &str, held: &[IpAddr], spec: &ServiceSpec, name: &str) -> Result<(), Status> {
        // What is no address at all is validation's to say.
        let Ok(address) = ip.parse::<IpAddr>() else { return Ok(()) };
        if held.contains(&address) {
            return Ok(());
        }
        let in_range = self.cidrs.iter().find(|c| c.contains(&address));
        let why = match in_range {
            None => {
                let cidr = self.cidrs.iter().find(|c| family_of(c.addr()) == family_of(address));
                let range = cidr.or(self.cidrs.first()).map(ToString::to_string).unwrap_or_default();
                Some(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"))
            }
            Some(_) if self.taken.addresses.contains(&address) => Some("provided IP is already allocated".into()),
            Some(_) => None,
        };
        if let Some(why) = why {
            let value = serde_json::json!(spec.cluster_ips.clone().unwrap_or_else(|| vec![ip.to_owned()]));
            let detail = format!("failed to allocate IP {ip}: {why}");
            let error = FieldError::invalid(&Path::new("spec").child("clusterIPs"), &value, &detail);
            return Err(status::invalid("", "Service", name, &vec![error]));
        }
        self.took.addresses.insert(address);
        Ok(())
    }

    /// A free address of the first range that has one.
    fn next_address(&self, family: &str) -> Option<IpAddr> {
        self.cidrs.iter().filter(|c| family_of(c.addr()) == family).find_map(|cidr| self.next_of(cidr))
    }

    /// A free address; the lower band is left to people who ask for one (`calculateRangeOffset`).
    fn next_of(&self, cidr: &IpNet) -> Option<IpAddr> {
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(16);
        // Neither the network's own address nor, in IPv4, the broadcast address.
        let size = (1u64 << bits).saturating_sub(if cidr.addr().is_ipv4() { 2 } else { 1 });
        let offset = if size + 2 <= 16 { 0 } else { ((size + 2) / 16).clamp(16, 256) };
        let free = |n: u64| {
            let address = nth(cidr.network(), n + 1)?;
            (!self.taken.addresses.contains(&address) && !self.took.addresses.contains(&address)).then_some(address)
        };
        scan(size, offset, self.random).find_map(free)
    }

    fn take_ports(&mut self, spec: &mut ServiceSpec, name: &str) -> Result<(), Status> {
        let held: Vec<u16> = self.old.map(|o| ports(o).collect()).unwrap_or_default();
        let path = Path::new("spec").child("ports");
        let allocate = wants_node_ports(spec) && allocates_node_ports(spec);
        if !wants_node_ports(spec) && self.old.is_some_and(wants_node_ports) {
            // What a NodePort Service was given goes with the type (`dropTypeDependentFields`).
            let old: Vec<Option<i32>> =
                self.old.iter().flat_map(|o| o.ports.iter().flatten()).map(|p| p.node_port).collect();
            for port in spec.ports.iter_mut().flatten().filter(|p| old.contains(&p.node_port)) {
                port.node_port = None;
            }
        }
        let mut by_port: Vec<(i32, i32)> = Vec::new();
        let mut pairs: Vec<(Option<String>, i32)> = Vec::new();
        let list = spec.ports.get_or_insert_default();
        for (i, port) in list.iter_mut().enumerate() {
            let wanted = port.node_port.unwrap_or(0);
            if wanted == 0 {
                if !allocate {
                    continue;
                }
                // TCP and UDP of one port share a node port.
                let shared = by_port.iter().find(|(p, _)| *p == port.port).map(|(_, n)| *n);
                let number = match shared {
                    Some(number) => number,
                    None => i32::from(self.next_port()?),
                };
                port.node_port = Some(number);
                by_port.push((port.port, number));
                continue;
            }
            by_port.push((port.port, wanted));
            let pair = (port.protocol.clone(), wanted);
            if self.old.is_some_and(wants_node_ports) && pairs.contains(&pair) {
                let protocol = pair.0.unwrap_or_default();
                let why = format!("duplicate nodePort: {{{protocol} {wanted}}}");
                return Err(Status::failure(500, "", &why));
            }
            pairs.push(pair);
            if let Err(why) = self.take_port(wanted, &held) {
                let error = FieldError::invalid(&path.index(i).child("nodePort"), wanted, &why);
                return Err(status::invalid("", "Service", name, &vec![error]));
            }
        }
        if list.is_empty() {
            spec.ports = None;
        }
        self.take_health_port(spec, &held)
    }

    fn take_health_port(&mut self, spec: &mut ServiceSpec, held: &[u16]) -> Result<(), Status> {
        // A Service that had one keeps it; whoever asks for another is refused.
        if !needs_health_port(spec) || self.old.is_some_and(needs_health_port) {
            return Ok(());
        }
        match spec.health_check_node_port.unwrap_or(0) {
            0 => spec.health_check_node_port = Some(i32::from(self.next_port()?)),
            asked => self.take_port(asked, held).map_err(|why| {
                status::internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"))
            })?,
        }
        Ok(())
    }

    fn take_port(&mut self, wanted: i32, held: &[u16]) -> Result<(), String> {
        let range = &self.network.node_ports;
        let port = u16::try_from(wanted).ok().filter(|p| range.contains(p));
        let Some(port) = port else {
            if self.dry_run {
                return Ok(());
            }
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            ));
        };
        if held.contains(&port) || self.took.ports.contains(&port) {
            return Ok(());
        }
        if self.taken.ports.contains(&port) {
            return Err("provided port is already allocated".into());
        }
        self.took.ports.insert(port);
        Ok(())
    }

    fn next_port(&mut self) -> Result<u16, Status> {
        let (start, end) = (*self.network.node_ports.start(), *self.network.node_ports.end());
        let size = u64::from(end.saturating_sub(start)) + 1;
        let offset = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        let free = |n: u64| {
            let port = start.checked_add(u16::try_from(n).ok()?)?;
            (!self.taken.ports.contains(&port) && !self.took.ports.contains(&port)).then_some(port)
        };
        let found = scan(size, offset, self.random).find_map(free);
        let port = found.ok_or_else(|| status::internal("failed to allocate a nodePort: range is full"))?;
        self.took.ports.insert(port);
        Ok(port)
    }
}

/// All numbers below `size`: first those from `offset` on, from a random one and around; then those below.
fn scan(size: u64, offset: u64, random: &dyn Random) -> impl Iterator<Item = u64> {
    let upper = size.saturating_sub(offset);
    let (begin, begin_low) = (random.next_u64() % upper.max(1), random.next_u64() % offset.max(1));
    let high = (0..upper).map(move |i| offset + (begin + i) % upper.max(1));
    let low = (0..offset.min(size)).map(move |i| (begin_low + i) % offset.max(1));
    high.chain(low)
}

fn nth(network: IpAddr, n: u64) -> Option<IpAddr> {
    Some(match network {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).checked_add(u32::try_from(n).ok()?)?.into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).checked_add(u128::from(n))?.into()),
    })
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.as_ref().and_then(|l| l.first()).is_some_and(|ip| ip == "None")
}

fn wants_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
}

fn allocates_node_ports(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("LoadBalancer") || spec.allocate_load_balancer_node_ports.unwrap_or(true)
}

fn needs_health_port(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn ports(spec: &ServiceSpec) -> impl Iterator<Item = u16> {
    let list = spec.ports.iter().flatten().filter_map(|p| p.node_port).chain(spec.health_check_node_port);
    list.filter_map(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use base::SeededRandom;
    use expect_test::{Expect, expect};

    fn allocator() -> Allocator {
        Allocator {
            more: Mutex::default(),
            network: ServiceNetwork::default(),
            random: Arc::new(SeededRandom::new(1)),
            taken: Arc::default(),
            known_at: Arc::default(),
        }
    }

    fn create(allocator: &Allocator, spec: &str) -> Result<Service, Status> {
        let json = format!(r#"{{"metadata":{{"name":"a"}},"spec":{spec}}}"#);
        let mut service = Service::decode(json.as_bytes()).expect("a literal");
        allocator.reserve_create(&mut service, false)?.keep();
        Ok(service)
    }

    fn check(allocator: &Allocator, spec: &str, expected: Expect) {
        let got = match create(allocator, spec) {
            Ok(service) => String::from_utf8(
                service
                    .spec
                    .map(|s| {
                        serde_json::to_vec(&serde_json::json!({
                "ip": s.cluster_ip, "ips": s.cluster_ips, "families": s.ip_families, "policy": s.ip_family_policy,
                "ports": s.ports.iter().flatten().map(|p| p.node_port).collect::<Vec<_>>(),
            })).expect("JSON")
                    })
                    .unwrap_or_default(),
            )
            .expect("text"),
            Err(status) => status.message,
        };
        expected.assert_eq(&got);
    }

    #[test]
    fn asked_and_free_ones() {
        let a = allocator();
        check(
            &a,
            r#"{"type":"ClusterIP","clusterIP":"10.43.0.9","clusterIPs":["10.43.0.10"]}"#,
            expect![[
                r#"Service "a" is invalid: spec.clusterIPs: Invalid value: ["10.43.0.10"]: first value must match `clusterIP`"#
            ]],
        );
        check(
            &a,
            r#"{"type":"ClusterIP","clusterIP":"10.43.0.10","clusterIPs":["10.43.0.10"]}"#,
            expect![[
                r#"{"families":["IPv4"],"ip":"10.43.0.10","ips":["10.43.0.10"],"policy":"SingleStack","ports":[]}"#
            ]],
        );
        check(
            &a,
            r#"{"type":"ClusterIP","clusterIP":"10.43.0.10","clusterIPs":["10.43.0.10"]}"#,
            expect![[
                r#"Service "a" is invalid: spec.clusterIPs: Invalid value: ["10.43.0.10"]: failed to allocate IP 10.43.0.10: provided IP is already allocated"#
            ]],
        );
        check(
            &a,
            r#"{"type":"ClusterIP","clusterIP":"1.2.3.4","clusterIPs":["1.2.3.4"]}"#,
            expect![[
                r#"Service "a" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is 10.43.0.0/16"#
            ]],
        );
        check(
            &a,
            r#"{"type":"ClusterIP","clusterIP":"None","clusterIPs":["None"],"selector":{"a":"b"}}"#,
            expect![[r#"{"families":["IPv4"],"ip":"None","ips":["None"],"policy":"SingleStack","ports":[]}"#]],
        );
        check(
            &a,
            r#"{"type":"NodePort","ports":[{"port":80,"nodePort":30080}]}"#,
            expect![[
                r#"{"families":["IPv4"],"ip":"10.43.158.254","ips":["10.43.158.254"],"policy":"SingleStack","ports":[30080]}"#
            ]],
        );
        check(
            &a,
            r#"{"type":"NodePort","ports":[{"port":80,"nodePort":30080}]}"#,
            expect![[
                r#"Service "a" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"#
            ]],
        );
        check(
            &a,
            r#"{"type":"NodePort","ports":[{"port":80,"nodePort":80}]}"#,
            expect![[
                r#"Service "a" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"#
            ]],
        );
    }

    #[test]
    fn everything_is_given_out_once_and_comes_back() {
        let cidr = "10.0.0.0/27".parse().expect("a literal");
        let a = Allocator {
            network: ServiceNetwork { cidrs: vec![cidr], node_ports: 30000..=30001, shared: false },
            ..allocator()
        };
        let services: Vec<Service> = (0..30).map(|_| create(&a, r#"{"type":"ClusterIP"}"#).expect("free")).collect();
        assert_eq!(a.taken.lock().addresses.len(), 30);
        assert_eq!(create(&a, r#"{"type":"ClusterIP"}"#).map(drop).map_err(|s| s.code), Err(500));
        services.iter().for_each(|s| a.release(s));
        assert!(a.taken.lock().addresses.is_empty());
        // A range more is more room.
        services.iter().for_each(|_| drop(create(&a, r#"{"type":"ClusterIP"}"#).expect("free")));
        *a.more.lock() = vec!["10.9.0.0/24".parse().expect("a literal")];
        let other = create(&a, r#"{"type":"ClusterIP"}"#).expect("free").spec.and_then(|s| s.cluster_ip);
        assert!(other.is_some_and(|ip| ip.starts_with("10.9.0.")));
        a.taken.lock().addresses.clear();
        // What is not kept comes back.
        let mut service = Service::decode(br#"{"spec":{"type":"NodePort","ports":[{"port":1}]}}"#).expect("a literal");
        drop(a.reserve_create(&mut service, false).expect("free"));
        assert!(a.taken.lock().addresses.is_empty() && a.taken.lock().ports.is_empty());
    }
}
