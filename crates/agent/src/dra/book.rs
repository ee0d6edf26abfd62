//! [`Book`]: which claims the pods of this node use, and what their drivers have prepared for them
//! (`pkg/kubelet/cm/dra/claiminfo.go`). Pure; it is what is on disk, too.

use super::health::Healths;
use super::uses;
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};
use api::k8s::api::resource::v1::ResourceClaim;
use api::meta::MetaExt;
use jiff::Timestamp;
use machinery::resource_claims as claims;
use node_api::dra;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Namespace and name of a claim.
pub type Key = (String, String);

/// A claim that pods of this node use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// The pods, by uid.
    pub pods: BTreeSet<String>,
    /// What it has of each driver; nothing before it is prepared.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// Its drivers have prepared it since the agent started; after that of the machine they may have to do it again.
    #[serde(skip)]
    pub prepared: bool,
}

/// A device as its driver has described it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The driver's pool.
    pub pool: String,
    /// Its name in the pool.
    pub name: String,
    /// Which share of it.
    pub share: Option<String>,
    /// Requests of the claim that it is for; empty: all.
    pub requests: Vec<String>,
    /// What stands for it in CDI specs.
    pub cdi: Vec<String>,
}

impl From<dra::Device> for Device {
    fn from(device: dra::Device) -> Self {
        Device {
            pool: device.pool_name,
            name: device.device_name,
            share: device.share_id,
            requests: device.request_names,
            cdi: device.cdi_device_ids,
        }
    }
}

impl Device {
    fn is_for(&self, request: &str) -> bool {
        request.is_empty() || self.requests.is_empty() || self.requests.iter().any(|r| r == request)
    }
}

impl Claim {
    /// What the pod's node has to do for a claim, or why the pod may not use it.
    pub fn usable(pod: &Pod, claim: &ResourceClaim, made_for_pod: bool) -> Result<Claim, String> {
        if made_for_pod {
            claims::check_owner(pod, claim)?;
        }
        if !claims::is_reserved_for(claim, pod) {
            let (name, uid) = (claim.name(), claim.uid());
            return Err(format!(
                "pod {} ({}) is not allowed to use ResourceClaim {name} ({uid})",
                pod.name(),
                pod.uid()
            ));
        }
        let allocation = claims::allocation(claim);
        let allocation = allocation.ok_or_else(|| format!("ResourceClaim {}: not allocated", claim.name()))?;
        Ok(Claim {
            uid: claim.uid().to_owned(),
            namespace: claim.namespace().to_owned(),
            name: claim.name().to_owned(),
            drivers: claims::results([allocation]).map(|result| (result.driver.clone(), Vec::new())).collect(),
            ..Claim::default()
        })
    }

    /// Its place in the book.
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// As drivers are told of it.
    pub fn told(&self) -> dra::Claim {
        dra::Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }
}

/// Claims by the driver that has to do something for them.
pub fn by_driver(claims: &[Claim]) -> BTreeMap<String, Vec<dra::Claim>> {
    let mut out: BTreeMap<String, Vec<dra::Claim>> = BTreeMap::new();
    for claim in claims {
        for driver in claim.drivers.keys() {
            out.entry(driver.clone()).or_default().push(claim.told());
        }
    }
    out
}

/// Whether a driver has done `call` for all claims, given what it answered: their uids, with errors.
pub fn judge<'a>(
    call: &str,
    asked: &[dra::Claim],
    answered: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), String> {
    let mut missing = asked.len();
    for (uid, error) in answered {
        let claim = asked.iter().find(|c| c.uid == *uid);
        let claim = claim.ok_or_else(|| format!("{call} returned result for unknown claim UID {uid}"))?;
        if !error.is_empty() {
            return Err(format!("{call} failed for ResourceClaim {}: {error}", claim.name));
        }
        missing -= 1;
    }
    if missing == 0 { Ok(()) } else { Err(format!("{call} skipped {missing} ResourceClaims")) }
}

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book(BTreeMap<Key, Claim>);

impl FromIterator<Claim> for Book {
    fn from_iter<T: IntoIterator<Item = Claim>>(claims: T) -> Self {
        Book(claims.into_iter().map(|claim| (claim.key(), claim)).collect())
    }
}

impl Book {
    /// All of them.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.0.values()
    }

    /// The pod uses these from now on. Those that are still to be prepared, each once, even if the pod names it twice.
    pub fn refer(&mut self, pod: &str, wanted: &[Claim]) -> Result<Vec<Claim>, String> {
        let other = |claim: &&Claim| self.0.get(&claim.key()).filter(|known| known.uid != claim.uid);
        if let Some(known) = wanted.iter().find_map(|claim| other(&claim)) {
            return Err(format!(
                "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                known.name, known.uid
            ));
        }
        let mut todo = BTreeMap::new();
        for claim in wanted {
            let known = self.0.entry(claim.key()).or_insert_with(|| claim.clone());
            known.pods.insert(pod.to_owned());
            if !known.prepared {
                todo.insert(claim.key(), known.clone());
            }
        }
        Ok(todo.into_values().collect())
    }

    /// A driver has prepared what a claim has of it.
    pub fn set_devices(&mut self, uid: &str, driver: &str, devices: Vec<Device>) {
        if let Some(claim) = self.0.values_mut().find(|c| c.uid == uid) {
            claim.drivers.insert(driver.to_owned(), devices);
        }
    }

    /// All drivers have prepared them.
    pub fn set_prepared(&mut self, claims: &[Claim]) {
        for claim in claims {
            self.0.entry(claim.key()).and_modify(|known| known.prepared = true);
        }
    }

    /// Claims that a pod uses.
    pub fn of_pod(&self, pod: &str) -> BTreeSet<Key> {
        self.0.values().filter(|c| c.pods.contains(pod)).map(Claim::key).collect()
    }

    /// All pods that use any.
    pub fn pods(&self) -> BTreeSet<String> {
        self.0.values().flat_map(|c| c.pods.iter().cloned()).collect()
    }

    /// A pod does not use them any more. Those that it was the last to use stay until their drivers have had their say; if some of these
    /// refuse, the claim is no longer what it was for anybody else.
    pub fn let_go(&mut self, pod: &str) -> Vec<Claim> {
        let mut last = Vec::new();
        for claim in self.0.values_mut().filter(|c| c.pods.contains(pod)) {
            if claim.pods.len() > 1 {
                claim.pods.remove(pod);
            } else {
                claim.prepared = false;
                last.push(claim.clone());
            }
        }
        last
    }

    /// Nobody uses them, and no driver has anything of them.
    pub fn forget(&mut self, claims: &[Claim]) {
        claims.iter().for_each(|claim| drop(self.0.remove(&claim.key())));
    }

    /// How many are prepared by each driver, and by any of them (`claimsInUse`).
    pub fn in_use(&self) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::from([("<any>".to_owned(), 0)]);
        for claim in self.0.values().filter(|c| c.prepared) {
            for driver in claim.drivers.keys().map(String::as_str).chain(["<any>"]) {
                *out.entry(driver.to_owned()).or_default() += 1;
            }
        }
        out
    }

    /// The CDI devices of a container (`GetResources`).
    pub fn cdi_devices(&self, pod: &Pod, container: &Container) -> Result<BTreeSet<String>, String> {
        let mut out = BTreeSet::new();
        for (name, request) in uses::of_container(pod, container)? {
            let claim = self.0.get(&(pod.namespace().to_owned(), name.to_owned())).ok_or_else(|| {
                let namespace = pod.namespace();
                format!("internal error: unable to get claim info for ResourceClaim {name} in namespace {namespace}")
            })?;
            let devices = claim.drivers.values().flatten().filter(|d| d.is_for(request));
            out.extend(devices.flat_map(|d| d.cdi.iter().cloned()));
        }
        Ok(out)
    }

    /// The claims that a container uses (`GetContainerClaimInfos`).
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Vec<&Claim> {
        let names: BTreeSet<&str> =
            uses::of_container(pod, container).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        names.into_iter().filter_map(|name| self.0.get(&(pod.namespace().to_owned(), name.to_owned()))).collect()
    }

    /// Pods that have one of these devices of a driver.
    pub fn pods_with(&self, driver: &str, has: impl Fn(&Device) -> bool) -> BTreeSet<String> {
        let theirs = self.0.values().filter(|c| c.drivers.get(driver).is_some_and(|all| all.iter().any(&has)));
        theirs.flat_map(|c| c.pods.iter().cloned()).collect()
    }

    /// How the devices of a pod's containers are (`UpdateAllocatedResourcesStatus`).
    pub fn statuses(&self, pod: &Pod, healths: &Healths, now: Timestamp) -> Statuses {
        let mut out = Statuses::new();
        for container in view::app_containers(pod) {
            let asked = container.resources.iter().flat_map(|r| r.claims.iter().flatten());
            let of = |claim: &api::k8s::api::core::v1::ResourceClaim| {
                let request = claim.request.as_deref().unwrap_or_default();
                let named = view::spec(pod).resource_claims.iter().flatten().find(|c| c.name == claim.name)?;
                let used = uses::object_of(pod, named).ok()??;
                let known = self.0.get(&(pod.namespace().to_owned(), used.name.to_owned()))?;
                let resources = known.health(request, healths, now);
                let name = match request {
                    "" => format!("claim:{}", claim.name),
                    request => format!("claim:{}/{request}", claim.name),
                };
                (!resources.is_empty()).then_some(ResourceStatus { name, resources: Some(resources) })
            };
            let statuses: Vec<ResourceStatus> = asked.filter_map(of).collect();
            if !statuses.is_empty() {
                out.insert(container.name.clone(), statuses);
            }
        }
        out
    }
}

/// `allocatedResourcesStatus` by container.
pub type Statuses = BTreeMap<String, Vec<ResourceStatus>>;

impl Claim {
    fn health(&self, request: &str, healths: &Healths, now: Timestamp) -> Vec<ResourceHealth> {
        // Of a subrequest the driver names only the request.
        let request = request.split('/').next().unwrap_or_default();
        let devices = self.drivers.iter().flat_map(|(driver, all)| all.iter().map(move |d| (driver, d)));
        let mut out: Vec<ResourceHealth> = Vec::new();
        for (driver, device) in devices.filter(|(_, d)| d.is_for(request)) {
            let id = device.cdi.first().cloned();
            let id = id.unwrap_or_else(|| format!("{driver}/{}/{}", device.pool, device.name));
            if out.iter().all(|known| known.resource_id != id) {
                let (health, message) = healths.of(driver, &device.pool, &device.name, now);
                out.push(ResourceHealth { resource_id: id, health: Some(health.to_owned()), message });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;

    fn pod() -> Pod {
        object(
            r#"{"metadata":{"name":"p","namespace":"default","uid":"u"},"spec":{"containers":[
                {"name":"a","resources":{"claims":[{"name":"c","request":"one"}]}},
                {"name":"b","resources":{"claims":[{"name":"c"}]}},{"name":"x"}],
                "resourceClaims":[{"name":"c","resourceClaimName":"c"}]}}"#,
        )
    }

    fn claim(status: &str) -> ResourceClaim {
        object(&format!(
            r#"{{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{{"name":"c","namespace":"default","uid":"cu"}},"spec":{{}},"status":{status}}}"#
        ))
    }

    fn allocated() -> Claim {
        let status = r#"{"reservedFor":[{"resource":"pods","name":"p","uid":"u"}],"allocation":{"devices":{"results":[
            {"driver":"d","pool":"n","device":"g1","request":"one"},{"driver":"d","pool":"n","device":"g2","request":"two"}]}}}"#;
        Claim::usable(&pod(), &claim(status), false).expect("it may use it")
    }

    #[test]
    fn only_what_is_allocated_and_reserved_is_used() {
        let why = |status: &str, made| Claim::usable(&pod(), &claim(status), made).expect_err("it may not use it");
        assert_eq!(why("{}", false), "pod p (u) is not allowed to use ResourceClaim c (cu)");
        let reserved = r#"{"reservedFor":[{"resource":"pods","name":"p","uid":"u"}]}"#;
        assert_eq!(why(reserved, false), "ResourceClaim c: not allocated");
        let foreign = "ResourceClaim default/c was not created for Pod default/p (Pod is not owner)";
        assert_eq!(why(reserved, true), foreign);
        assert_eq!(allocated().drivers.keys().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn a_claim_is_prepared_once_and_undone_with_its_last_pod() {
        let mut book = Book::default();
        let todo = book.refer("u", &[allocated(), allocated()]).expect("it is new");
        assert_eq!(by_driver(&todo)["d"].len(), 1, "though the pod names it twice");
        assert_eq!(book.refer("v", &[allocated()]).expect("known").len(), 1, "nobody has prepared it yet");
        book.set_prepared(&todo);
        assert_eq!(book.in_use(), BTreeMap::from([("<any>".into(), 1), ("d".into(), 1)]));
        assert_eq!(book.refer("u", &[allocated()]), Ok(vec![]));
        let other = Claim { uid: "new".into(), ..allocated() };
        let error = book.refer("w", &[other]).expect_err("the old one is still here");
        assert!(error.starts_with("old ResourceClaim with same name c and different UID cu still exists"), "{error}");
        assert_eq!(book.let_go("v"), []);
        let last = book.let_go("u");
        assert_eq!(last.iter().map(|c| c.uid.as_str()).collect::<Vec<_>>(), ["cu"]);
        assert_eq!(book.pods(), BTreeSet::from(["u".to_owned()]), "its driver is still to be asked");
        book.forget(&last);
        assert_eq!(book.pods(), BTreeSet::new());
    }

    #[test]
    fn drivers_must_answer_for_every_claim() {
        let asked = [dra::Claim { namespace: "n".into(), uid: "1".into(), name: "c".into() }];
        let check = |answers: &[(&str, &str)]| {
            let answers: Vec<_> = answers.iter().map(|(u, e)| ((*u).to_owned(), (*e).to_owned())).collect();
            judge("Call", &asked, answers.iter().map(|(u, e)| (u, e))).err().unwrap_or_default()
        };
        assert_eq!(check(&[("1", "")]), "");
        assert_eq!(check(&[]), "Call skipped 1 ResourceClaims");
        assert_eq!(check(&[("1", "burnt")]), "Call failed for ResourceClaim c: burnt");
        assert_eq!(check(&[("2", "")]), "Call returned result for unknown claim UID 2");
    }

    #[test]
    fn containers_get_the_devices_of_their_requests() {
        let device = |name: &str, requests: &[&str]| Device {
            pool: "n".into(),
            name: name.into(),
            requests: requests.iter().map(|r| (*r).to_owned()).collect(),
            cdi: vec![format!("d/gpu={name}")],
            ..Device::default()
        };
        let mut book = Book::default();
        let pod = pod();
        let [a, b, x] = [0, 1, 2].map(|n| &view::app_containers(&pod)[n]);
        assert!(book.cdi_devices(&pod, a).expect_err("it is not there").starts_with("internal error"));
        book.refer("u", &[allocated()]).expect("new");
        book.set_devices("cu", "d", vec![device("g1", &["one"]), device("g2", &["two"]), device("any", &[])]);
        let cdi = |c| book.cdi_devices(&pod, c).expect("known").into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(cdi(a), "d/gpu=any d/gpu=g1");
        assert_eq!(cdi(b), "d/gpu=any d/gpu=g1 d/gpu=g2");
        assert_eq!(cdi(x), "");
        let now = Timestamp::from_second(10).expect("small");
        let statuses = book.statuses(&pod, &Healths::default(), now);
        assert_eq!(statuses.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(statuses["a"][0].name, "claim:c/one");
        let shown = |h: &ResourceHealth| format!("{} {}", h.resource_id, h.health.clone().unwrap_or_default());
        let health: Vec<String> = statuses["a"][0].resources.iter().flatten().map(shown).collect();
        assert_eq!(health, ["d/gpu=g1 Unknown", "d/gpu=any Unknown"]);
    }
}
