//! `persistentVolumeClaim` and `ephemeral` volumes: what a claim is bound to, on this node.
//!
//! [`resolve`] is pure: pod, claim and volume become a [`Backing`]. Where the data are is written down beside the pod's
//! checkpoint ([`Places`]), and containers mount it from there: nothing is mounted on the node for a directory or a device,
//! so taking a pod down cannot touch data. Only NFS and file systems of local block devices are mounted, once per pod; volumes of CSI
//! drivers are their own (`csi/`).
//!
//! Follows `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go` and `pkg/volume/{local,host_path,nfs}`.
//! Differs: volumes of other kinds are refused by name.

use super::VolumeError;
use crate::pod::view;
use api::k8s::api::core::v1::{
    Container, HostPathVolumeSource, NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use api::meta::MetaExt;
use machinery::quantity::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// On a PersistentVolume: who made it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Makes volumes that are directories of a node; the node makes and removes them.
const LOCAL_PROVISIONER: &str = "dhow.dev/local";

/// The claim that a pod's volume uses, and whether it is made for this pod (`component-helpers/storage/ephemeral`).
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.name(), volume.name), true))
}

/// What stands behind a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Backing {
    /// Which kind.
    pub kind: Kind,
    /// A device instead of a file system.
    pub block: bool,
    /// Never written, whatever the mount says.
    pub read_only: bool,
    /// Made by the built-in provisioner: the directory is ours to make.
    pub ours: bool,
    /// Bytes that it may take, if it is ours.
    pub size: Option<u64>,
}

impl Backing {
    /// Upstream's name of what sets it up (`GetFullQualifiedPluginNameForVolume`).
    pub fn plugin(&self) -> String {
        match &self.kind {
            Kind::HostPath(_) => "kubernetes.io/host-path".into(),
            Kind::Local(_) => "kubernetes.io/local-volume".into(),
            Kind::Nfs(_) => "kubernetes.io/nfs".into(),
            Kind::Csi(persistent) => {
                let source = persistent.volume.spec.as_ref().and_then(|s| s.csi.as_ref());
                super::csi::plugin(source.map_or("", |s| &s.driver))
            }
        }
    }
}

/// Kinds of volumes that are built.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A path of the node, as a user wrote it.
    HostPath(HostPathVolumeSource),
    /// A directory or device of the node.
    Local(Local),
    /// A directory of a server.
    Nfs(Nfs),
    /// What a CSI driver provides.
    Csi(Box<super::csi::Persistent>),
}

/// A directory, or a device and the file system that is, or is to be, on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// On the node.
    pub path: PathBuf,
    /// Such as `xfs`; empty: what is there, or ext4.
    pub fs_type: String,
    /// As in `mountOptions`.
    pub options: Vec<String>,
}

/// What is mounted from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nfs {
    /// Name or address.
    pub server: String,
    /// Exported directory.
    pub path: String,
    /// As in `mountOptions`.
    pub options: Vec<String>,
    /// Not writable.
    pub read_only: bool,
}

impl Nfs {
    /// From a volume's source.
    pub fn new(source: &NFSVolumeSource, options: &[String]) -> Self {
        Nfs {
            server: source.server.clone(),
            path: source.path.clone(),
            options: options.to_vec(),
            read_only: source.read_only == Some(true),
        }
    }
}

/// The claim's name as errors begin.
fn processing(claim: &str, namespace: &str, why: String) -> VolumeError {
    VolumeError::Claim(format!("error processing PVC {namespace}/{claim}: {why}"))
}

/// Whether the claim can be used by this pod; gives the name of its volume.
pub fn volume_of(
    pod: &Pod,
    name: &str,
    for_this_pod: bool,
    claim: Option<&PersistentVolumeClaim>,
) -> Result<String, VolumeError> {
    let failed = |why: String| processing(name, pod.namespace(), why);
    let claim = claim.ok_or_else(|| {
        failed(format!("failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found"))
    })?;
    let owned =
        || claim.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == pod.uid());
    if for_this_pod && !owned() {
        let (ns, pod) = (pod.namespace(), pod.name());
        return Err(failed(format!("PVC {ns}/{name} was not created for pod {ns}/{pod} (pod is not owner)")));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(failed("PVC is being deleted".into()));
    }
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    match claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| bound && !n.is_empty()) {
        Some(volume) => Ok(volume),
        None => Err(failed("PVC is not bound".into())),
    }
}

/// What a pod's volume is, when claim and volume are known.
pub fn resolve(
    pod: &Pod,
    volume: &Volume,
    claim: &PersistentVolumeClaim,
    pv: Option<&PersistentVolume>,
) -> Result<Backing, VolumeError> {
    let failed = |why: String| processing(claim.name(), pod.namespace(), why);
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default();
    let missing = || format!("failed to fetch PV {wanted} from API server: persistentvolumes \"{wanted}\" not found");
    let pv = pv.ok_or_else(|| failed(missing()))?;
    let spec = pv.spec.clone().unwrap_or_default();
    match spec.claim_ref.as_ref().map(|r| r.uid.clone().unwrap_or_default()) {
        None => {
            let text = "with nil pv.Spec.ClaimRef indicating it is not yet bound to the claim";
            return Err(failed(format!("found PV object {wanted} {text}")));
        }
        Some(uid) if uid != claim.uid() => {
            let text = "that does not point to the expected claim UID";
            return Err(failed(format!(
                "found PV object {wanted} with a pv.Spec.ClaimRef.UID {uid} {text} {}",
                claim.uid()
            )));
        }
        Some(_) => {}
    }
    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    check_use(pod, &volume.name, mode)?;
    let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|s| s.read_only == Some(true));
    let options = spec.mount_options.as_deref().unwrap_or_default();
    let kind = if let Some(source) = &spec.host_path {
        Kind::HostPath(source.clone())
    } else if let Some(source) = &spec.local {
        let fs_type = source.fs_type.clone().unwrap_or_default();
        Kind::Local(Local { path: source.path.clone().into(), fs_type, options: options.to_vec() })
    } else if let Some(source) = &spec.nfs {
        Kind::Nfs(Nfs::new(source, options))
    } else if spec.csi.is_some() {
        Kind::Csi(Box::new(super::csi::Persistent { volume: pv.clone(), claim: claim.clone() }))
    } else {
        return Err(VolumeError::Unsupported(format!("the kind of PersistentVolume {wanted}")));
    };
    let ours = pv.annotation(PROVISIONED_BY) == Some(LOCAL_PROVISIONER);
    let access = claim.spec.as_ref().and_then(|s| s.access_modes.clone()).unwrap_or_default();
    let only_reads = !access.is_empty() && access.iter().all(|m| m == "ReadOnlyMany");
    let size = spec.capacity.as_ref().and_then(|c| Quantity::parse(&c.get("storage")?.0).ok());
    let size = size.and_then(|q| u64::try_from(q.value()).ok()).filter(|_| ours);
    Ok(Backing { kind, block: mode == "Block", read_only: read_only || only_reads, ours, size })
}

/// A device cannot be mounted, and a file system is no device.
fn check_use(pod: &Pod, volume: &str, mode: &str) -> Result<(), VolumeError> {
    let mut all = view::all_containers(pod).into_iter();
    let wrong = if mode == "Block" {
        all.any(|(_, c)| c.volume_mounts.iter().flatten().any(|m| m.name == volume)).then_some("volumeMounts")
    } else {
        all.any(|(_, c)| c.volume_devices.iter().flatten().any(|d| d.name == volume)).then_some("volumeDevices")
    };
    match wrong {
        None => Ok(()),
        Some(field) => {
            Err(VolumeError::Claim(format!("volume {volume} has volumeMode {mode}, but is specified in {field}")))
        }
    }
}

/// Where the data of a volume are on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Directory, file or device.
    pub path: PathBuf,
    /// Never written.
    pub read_only: bool,
    /// A device.
    pub block: bool,
    /// Upstream's name of what set it up, for `/metrics`.
    #[serde(default)]
    pub plugin: String,
    /// Bytes that it should not exceed, and nobody keeps it from that.
    #[serde(default)]
    pub watched: Option<u64>,
}

/// By the volume's name in the pod.
pub type Places = BTreeMap<String, Place>;

const FILE: &str = "volumes.json";

/// Writes the places of a pod down, if there are any.
pub fn save(pod_dir: &Path, places: &Places) -> Result<(), VolumeError> {
    let path = pod_dir.join(FILE);
    if places.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec(places).map_err(|e| VolumeError::io("encode", &path, e.into()))?;
    fs::create_dir_all(pod_dir).map_err(|e| VolumeError::io("create", pod_dir, e))?;
    base::files::replace(&path, &text).map_err(|e| VolumeError::io("write", &path, e))
}

/// Reads them again; none if there are none.
pub fn load(pod_dir: &Path) -> Places {
    let text = fs::read(pod_dir.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Makes a local volume's directory if it is ours to make. Whether there is a device that has a file system.
pub fn make_local(path: &Path, backing: &Backing) -> Result<bool, VolumeError> {
    if backing.ours && !backing.block && !path.exists() {
        fs::create_dir_all(path).map_err(|e| VolumeError::io("create", path, e))?;
        // Whoever the containers run as, and without a group of the pod, may write.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))
            .map_err(|e| VolumeError::io("open up", path, e))?;
    }
    let Ok(meta) = fs::metadata(path) else {
        return Err(VolumeError::Claim(format!("path {:?} does not exist", path.display().to_string())));
    };
    match (backing.block, meta.file_type().is_block_device()) {
        (true, false) => {
            Err(VolumeError::Claim(format!("path {:?} is not a block device", path.display().to_string())))
        }
        (block, device) => Ok(device && !block),
    }
}

/// What of a local volume has to be given to the pod's group, which can take long.
pub fn to_be_owned(
    pod: &Pod,
    path: &Path,
    backing: &Backing,
    group: Option<u32>,
) -> Result<Option<(PathBuf, u32)>, VolumeError> {
    let Some(group) = group.filter(|_| !backing.block && !backing.read_only) else { return Ok(None) };
    let meta = fs::metadata(path).map_err(|e| VolumeError::io("look at", path, e))?;
    if !needs_group(pod, &meta, group) {
        return Ok(None);
    }
    // The path may be a link; those inside the volume are not followed.
    let root = fs::canonicalize(path).map_err(|e| VolumeError::io("resolve", path, e))?;
    Ok(Some((root, group)))
}

/// `fsGroupChangePolicy` (`requiresPermissionChange` in `pkg/volume/volume_linux.go`).
pub(super) fn needs_group(pod: &Pod, root: &fs::Metadata, group: u32) -> bool {
    const WANTED: u32 = 0o2770;
    let context = view::spec(pod).security_context.as_ref();
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref()).unwrap_or("Always");
    policy != "OnRootMismatch" || root.gid() != group || root.mode() & WANTED != WANTED
}

/// The devices of one container.
pub fn devices(pod: &Pod, c: &Container, places: &Places) -> Result<Vec<crate::engine::Device>, VolumeError> {
    let device = |d: &api::k8s::api::core::v1::VolumeDevice| {
        let missing = || VolumeError::NoVolume { volume: d.name.clone(), container: c.name.clone() };
        let volume = view::volume(pod, &d.name).ok_or_else(missing)?;
        let place = places.get(&volume.name).filter(|p| p.block).ok_or_else(missing)?;
        let meta = fs::metadata(&place.path).map_err(|e| VolumeError::io("look at", &place.path, e))?;
        Ok(crate::engine::Device {
            source: place.path.clone(),
            target: d.device_path.clone().into(),
            kind: 'b',
            major: rustix::fs::major(meta.rdev()),
            minor: rustix::fs::minor(meta.rdev()),
            mode: 0o660,
            owner: (0, 0),
            access: if place.read_only { "rm" } else { "rwm" }.to_owned(),
        })
    };
    c.volume_devices.iter().flatten().map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::{object, pod};

    const CLAIM: &str = r#"{"metadata":{"name":"c","namespace":"default","uid":"u"},"spec":{"volumeName":"v"},
        "status":{"phase":"Bound"}}"#;

    fn check(volume: &str, claim: &str, pv: Option<&str>, want: &str) {
        let pod = pod(&format!(
            r#"{{"volumes":[{{"name":"data",{volume}}}],"containers":[{{"name":"a","volumeMounts":[{{"name":"data","mountPath":"/d"}}]}}]}}"#
        ));
        let claim: PersistentVolumeClaim = object(claim);
        let pv: Option<PersistentVolume> = pv.map(object);
        let volume = view::volume(&pod, "data").expect("there is one");
        let (name, own) = claim_of(&pod, volume).expect("a claim");
        let got = volume_of(&pod, &name, own, Some(&claim)).and_then(|_| resolve(&pod, volume, &claim, pv.as_ref()));
        let got = match got {
            Ok(b) => format!("{:?} block={} read_only={} ours={}", b.kind, b.block, b.read_only, b.ours),
            Err(e) => e.to_string(),
        };
        assert_eq!(got, want);
    }

    fn pv(source: &str) -> String {
        format!(r#"{{"metadata":{{"name":"v"}},"spec":{{"claimRef":{{"uid":"u"}},{source}}}}}"#)
    }

    #[test]
    fn claims_lead_to_places() {
        let claim = r#""persistentVolumeClaim":{"claimName":"c","readOnly":true}"#;
        let local = pv(r#""local":{"path":"/data/v"}"#);
        let want =
            r#"Local(Local { path: "/data/v", fs_type: "", options: [] }) block=false read_only=true ours=false"#;
        check(claim, CLAIM, Some(&local), want);
        let nfs = pv(r#""mountOptions":["hard"],"nfs":{"server":"s","path":"/e"}"#);
        let want = r#"Nfs(Nfs { server: "s", path: "/e", options: ["hard"], read_only: false }) block=false read_only=true ours=false"#;
        check(claim, CLAIM, Some(&nfs), want);
        let iscsi = pv(r#""iscsi":{"targetPortal":"t","iqn":"i","lun":0}"#);
        check(claim, CLAIM, Some(&iscsi), "the kind of PersistentVolume v is not supported by dhow");
    }

    #[test]
    fn claims_that_cannot_be_used_say_why() {
        let claim = r#""persistentVolumeClaim":{"claimName":"c"}"#;
        let begin = "error processing PVC default/c: ";
        check(claim, &CLAIM.replace("Bound", "Pending"), None, &format!("{begin}PVC is not bound"));
        let missing = "failed to fetch PV v from API server: persistentvolumes \"v\" not found";
        check(claim, CLAIM, None, &format!("{begin}{missing}"));
        let other = pv(r#""local":{"path":"/x"}"#).replace(r#""uid":"u""#, r#""uid":"w""#);
        let text = "found PV object v with a pv.Spec.ClaimRef.UID w that does not point to the expected claim UID u";
        check(claim, CLAIM, Some(&other), &format!("{begin}{text}"));
        let block = pv(r#""volumeMode":"Block","local":{"path":"/dev/x"}"#);
        check(claim, CLAIM, Some(&block), "volume data has volumeMode Block, but is specified in volumeMounts");
        let text = "PVC default/web-data was not created for pod default/web (pod is not owner)";
        check(r#""ephemeral":{}"#, CLAIM, None, &format!("error processing PVC default/web-data: {text}"));
    }

    fn own_local(pod: &Pod, path: &Path, backing: &Backing, group: Option<u32>) -> Result<(), VolumeError> {
        if let Some((root, group)) = to_be_owned(pod, path, backing, group)? {
            crate::volumes::atomic::own_tree(&root, group, false).expect("may be given");
        }
        Ok(())
    }

    #[test]
    fn the_group_is_given_to_what_a_link_leads_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::create_dir(&target).expect("made");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        let backing = Backing {
            kind: Kind::Local(Local { path: link.clone(), fs_type: String::new(), options: Vec::new() }),
            block: false,
            read_only: false,
            ours: false,
            size: None,
        };
        own_local(&pod(r#"{"containers":[]}"#), &link, &backing, Some(1234)).expect("given");
        let meta = fs::metadata(&target).expect("there");
        assert_eq!((meta.gid(), meta.mode() & 0o2070), (1234, 0o2070));
    }

    #[test]
    fn the_group_is_given_once_if_the_root_says_so() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("v");
        let local = Local { path: path.clone(), fs_type: String::new(), options: Vec::new() };
        let backing = Backing { kind: Kind::Local(local), block: false, read_only: false, ours: true, size: None };
        let pod = pod(r#"{"securityContext":{"fsGroup":7,"fsGroupChangePolicy":"OnRootMismatch"},"containers":[]}"#);
        assert!(!make_local(&path, &backing).expect("made"), "it is a directory");
        own_local(&pod, &path, &backing, Some(7)).expect("given");
        let meta = fs::metadata(&path).expect("it is there");
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (7, 0o2777));
        fs::write(path.join("f"), "").expect("written");
        own_local(&pod, &path, &backing, Some(7)).expect("there already");
        assert_eq!(fs::metadata(path.join("f")).expect("it is there").mode() & 0o060, 0o040, "not touched again");
        let not_ours = Backing { ours: false, ..backing };
        let error = make_local(&dir.path().join("none"), &not_ours).expect_err("missing");
        assert!(error.to_string().ends_with("does not exist"), "{error}");
    }
}
