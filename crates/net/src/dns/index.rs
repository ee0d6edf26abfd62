//! [`DnsIndex`]: Services and EndpointSlices by what is asked of DNS. Pure.

use crate::service::Protocol;
use crate::{Apply, Change};
use api::meta::MetaExt;
use api::prelude::{EndpointSlice, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

type Key = (String, String);

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// What kind of name a Service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Its own addresses.
    Addresses(Vec<IpAddr>),
    /// Those of its endpoints.
    Headless,
    /// Another name.
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceEntry {
    pub(super) target: Target,
    pub(super) ports: Vec<Port>,
}

/// A ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndpointEntry {
    pub(super) ip: IpAddr,
    pub(super) hostname: Option<String>,
}

impl EndpointEntry {
    /// Its label below the Service's name.
    pub(super) fn label(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.ip.to_string().replace(['.', ':'], "-"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceEntry {
    service: String,
    pub(super) ports: Vec<Port>,
    pub(super) endpoints: Vec<EndpointEntry>,
}

/// Everything that cluster DNS knows.
#[derive(Debug, Default)]
pub struct DnsIndex {
    services: BTreeMap<Key, ServiceEntry>,
    slices: BTreeMap<Key, SliceEntry>,
    slices_by_service: BTreeMap<Key, BTreeSet<String>>,
    services_by_ip: BTreeMap<IpAddr, BTreeSet<Key>>,
    slices_by_ip: BTreeMap<IpAddr, BTreeSet<Key>>,
    serial: u32,
}

impl DnsIndex {
    /// Knows nothing yet.
    pub fn new() -> Self {
        DnsIndex::default()
    }

    /// Grows with every change; the zone's serial.
    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether any Service is in the namespace: then its name exists, though it has no records.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        self.services.range(first..).next().is_some_and(|((n, _), _)| n == namespace)
    }

    /// The slices of a Service.
    pub(super) fn slices(&self, namespace: &str, service: &str) -> impl Iterator<Item = &SliceEntry> {
        let names = self.slices_by_service.get(&(namespace.to_owned(), service.to_owned()));
        let namespace = namespace.to_owned();
        names.into_iter().flatten().filter_map(move |name| self.slices.get(&(namespace.clone(), name.clone())))
    }

    /// Names below `svc` that an address has: of a Service, or else of endpoints.
    pub(super) fn names_of(&self, ip: &IpAddr) -> Vec<String> {
        if let Some(services) = self.services_by_ip.get(ip) {
            return services.iter().map(|(namespace, name)| format!("{name}.{namespace}")).collect();
        }
        let slices = self.slices_by_ip.get(ip).into_iter().flatten();
        let names: BTreeSet<String> = slices
            .filter_map(|key| Some((key, self.slices.get(key)?)))
            .flat_map(|((namespace, _), slice)| {
                let of_ip = slice.endpoints.iter().filter(move |e| e.ip == *ip);
                of_ip.map(move |e| format!("{}.{}.{namespace}", e.label(), slice.service))
            })
            .collect();
        names.into_iter().collect()
    }
}

impl Apply<Service> for DnsIndex {
    fn apply(&mut self, change: Change<'_, Service>) -> bool {
        let key = change.key();
        let new = change.object().and_then(parse_service);
        let old = self.services.get(&key);
        if old == new.as_ref() {
            return false;
        }
        if let Some(ServiceEntry { target: Target::Addresses(ips), .. }) = old.cloned() {
            ips.iter().for_each(|ip| unlink(&mut self.services_by_ip, ip, &key));
        }
        match new {
            Some(new) => {
                if let Target::Addresses(ips) = &new.target {
                    for ip in ips {
                        self.services_by_ip.entry(*ip).or_default().insert(key.clone());
                    }
                }
                self.services.insert(key, new);
            }
            None => {
                self.services.remove(&key);
            }
        }
        self.serial = self.serial.wrapping_add(1);
        true
    }
}

impl Apply<EndpointSlice> for DnsIndex {
    fn apply(&mut self, change: Change<'_, EndpointSlice>) -> bool {
        let key = change.key();
        let new = change.object().and_then(parse_slice);
        if self.slices.get(&key) == new.as_ref() {
            return false;
        }
        if let Some(old) = self.slices.remove(&key) {
            old.endpoints.iter().for_each(|e| unlink(&mut self.slices_by_ip, &e.ip, &key));
            let service = (key.0.clone(), old.service);
            if let Some(names) = self.slices_by_service.get_mut(&service) {
                names.remove(&key.1);
                if names.is_empty() {
                    self.slices_by_service.remove(&service);
                }
            }
        }
        if let Some(new) = new {
            for endpoint in &new.endpoints {
                self.slices_by_ip.entry(endpoint.ip).or_default().insert(key.clone());
            }
            let service = (key.0.clone(), new.service.clone());
            self.slices_by_service.entry(service).or_default().insert(key.1.clone());
            self.slices.insert(key, new);
        }
        self.serial = self.serial.wrapping_add(1);
        true
    }
}

fn unlink(map: &mut BTreeMap<IpAddr, BTreeSet<Key>>, ip: &IpAddr, key: &Key) {
    if let Some(keys) = map.get_mut(ip) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(ip);
        }
    }
}

fn parse_service(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        Some(Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: Protocol::from_api(p.protocol.as_deref())?,
            number: u16::try_from(p.port).ok()?,
        })
    });
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let texts: Vec<&str> = match listed {
        [] => spec.cluster_ip.as_deref().into_iter().collect(),
        listed => listed.iter().map(String::as_str).collect(),
    };
    let target = if spec.type_.as_deref() == Some("ExternalName") {
        Target::Name(spec.external_name.clone()?)
    } else if texts.first() == Some(&"None") {
        Target::Headless
    } else {
        let ips: Vec<IpAddr> = texts.iter().filter_map(|t| t.parse().ok()).collect();
        // Not allocated yet.
        if ips.is_empty() {
            return None;
        }
        Target::Addresses(ips)
    };
    Some(ServiceEntry { target, ports: ports.collect() })
}

/// Only ready endpoints; the EndpointSlice controller marks all ready for `publishNotReadyAddresses`.
fn parse_slice(slice: &EndpointSlice) -> Option<SliceEntry> {
    if slice.address_type == "FQDN" {
        return None;
    }
    let ports = slice.ports.iter().flatten().filter_map(|p| {
        Some(Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: Protocol::from_api(p.protocol.as_deref())?,
            number: u16::try_from(p.port?).ok()?,
        })
    });
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        .filter_map(|e| {
            let hostname = e.hostname.clone().filter(|h| !h.is_empty());
            Some(EndpointEntry { ip: e.addresses.first()?.parse().ok()?, hostname })
        });
    Some(SliceEntry {
        service: slice.label(SERVICE_NAME_LABEL)?.to_owned(),
        ports: ports.collect(),
        endpoints: ready.collect(),
    })
}
