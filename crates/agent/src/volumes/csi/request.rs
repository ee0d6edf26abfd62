//! What a CSI driver is asked, as pure functions of the objects (`pkg/volume/csi/csi_mounter.go`, `csi_util.go`).

use crate::engine::SeLinux;
use crate::pod::spec::security;
use crate::pod::view;
use api::k8s::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Container, SecretReference};
use api::k8s::api::storage::v1::CSIDriver;
use api::meta::MetaExt;
use api::prelude::*;
use machinery::csi::CsiVolume;
use machinery::digest::sha256_hex;
use node_api::csi::VolumeCapability;
use node_api::csi::volume_capability::access_mode::Mode;
use node_api::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use std::collections::HashMap;

/// Names and values, as gRPC has them.
pub(super) type Texts = HashMap<String, String>;

/// A volume of a pod that a CSI driver provides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) volume: CsiVolume,
    /// Of the PersistentVolume, or of the pod's volume (`spec.Name()`).
    pub(super) name: String,
    pub(super) ephemeral: bool,
    pub(super) block: bool,
    pub(super) read_only: bool,
    pub(super) fs_type: String,
    pub(super) access_modes: Option<Vec<String>>,
    pub(super) mount_options: Vec<String>,
    pub(super) attributes: Texts,
    pub(super) stage_secret: Option<SecretReference>,
    pub(super) publish_secret: Option<SecretReference>,
    pub(super) expand_secret: Option<SecretReference>,
    /// The SELinux label that all its files are mounted with; empty: each has its own.
    pub(super) label: String,
}

fn texts<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Texts {
    map.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

impl Wanted {
    /// A PersistentVolume's.
    pub(super) fn persistent(pv: &PersistentVolume, source: &CSIPersistentVolumeSource, read_only: bool) -> Self {
        let spec = pv.spec.clone().unwrap_or_default();
        Wanted {
            volume: CsiVolume { driver: source.driver.clone(), handle: source.volume_handle.clone() },
            name: pv.name().to_owned(),
            ephemeral: false,
            block: spec.volume_mode.as_deref() == Some("Block"),
            read_only,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            access_modes: spec.access_modes,
            mount_options: spec.mount_options.unwrap_or_default(),
            attributes: texts(source.volume_attributes.iter().flatten()),
            stage_secret: source.node_stage_secret_ref.clone(),
            publish_secret: source.node_publish_secret_ref.clone(),
            expand_secret: source.node_expand_secret_ref.clone(),
            label: String::new(),
        }
    }

    /// One that lives as long as its pod; nobody else knows its handle (`makeVolumeHandle`).
    pub(super) fn inline(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Self {
        let secret = source.node_publish_secret_ref.as_ref();
        Wanted {
            volume: CsiVolume {
                driver: source.driver.clone(),
                handle: format!("csi-{}", sha256_hex(&format!("{}{name}", pod.uid()))),
            },
            name: name.to_owned(),
            ephemeral: true,
            block: false,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            access_modes: None,
            mount_options: Vec::new(),
            attributes: texts(source.volume_attributes.iter().flatten()),
            stage_secret: None,
            publish_secret: secret
                .map(|s| SecretReference { name: Some(s.name.clone()), namespace: Some(pod.namespace().to_owned()) }),
            expand_secret: None,
            label: String::new(),
        }
    }

    /// `Persistent` or `Ephemeral`.
    pub(super) fn mode(&self) -> &'static str {
        if self.ephemeral { "Ephemeral" } else { "Persistent" }
    }

    fn has_access(&self, wanted: &[&str]) -> bool {
        self.access_modes.iter().flatten().any(|m| wanted.contains(&m.as_str()))
    }

    /// Whether one pod at a time may use it.
    pub(super) fn is_for_one_pod(&self) -> bool {
        self.has_access(&["ReadWriteOncePod"])
    }

    /// What it is to be used as. `group`: the driver gives it to the pod's group by itself.
    pub(super) fn capability(&self, multi_writer: bool, group: Option<u32>) -> VolumeCapability {
        let first = self.access_modes.iter().flatten().next().map_or("ReadWriteOnce", String::as_str);
        let mut mount_flags = self.mount_options.clone();
        if !self.label.is_empty() {
            // Quoted, because categories are separated by commas as options are (`AddSELinuxMountOption`).
            mount_flags.push(format!("context=\"{}\"", self.label));
        }
        let access_type = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags,
                volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
            })
        };
        let mode = access_mode(first, multi_writer) as i32;
        VolumeCapability { access_mode: Some(AccessMode { mode }), access_type: Some(access_type) }
    }

    /// What is said of the SELinux label that the whole volume can be mounted with instead of giving it to file by file
    /// (`pkg/volume/util/selinux.go`, `VolumeSupportsSELinuxMount` and `GetMountSELinuxLabel`): the driver can, one pod has it, and all
    /// its containers that do say the same. Differs: if they say different things the volume is labelled file by file, where upstream
    /// refuses the pod; and so it is without a level, for which upstream draws one that no container has.
    pub(super) fn selinux(&self, pod: &Pod, volume: &str, driver: Option<&CSIDriver>) -> Option<SeLinux> {
        let alone = self.access_modes.as_deref().is_some_and(|modes| modes == ["ReadWriteOncePod"]);
        let can = driver.is_some_and(|d| d.spec.se_linux_mount == Some(true));
        let context = view::spec(pod).security_context.as_ref();
        let recursive = context.and_then(|c| c.se_linux_change_policy.as_deref()) == Some("Recursive");
        if self.block || !alone || !can || recursive {
            return None;
        }
        let has = |c: &Container| c.volume_mounts.iter().flatten().any(|m| m.name == volume);
        let mut said = view::all_containers(pod)
            .into_iter()
            .filter(|(_, c)| has(c))
            .map(|(_, c)| security::selinux(security::effective(pod, &c).se_linux_options.as_ref()));
        let first = said.next().filter(|wish| !wish.level.is_empty())?;
        said.all(|other| other == first).then_some(first)
    }

    /// What the driver is told beside the volume's own attributes.
    pub(super) fn context(&self, pod: &Pod, driver: Option<&CSIDriver>) -> Texts {
        let mut out = self.attributes.clone();
        if driver.is_some_and(|d| d.spec.pod_info_on_mount == Some(true)) {
            let account = view::spec(pod).service_account_name.clone().unwrap_or_default();
            let info = [
                ("pod.name", pod.name().to_owned()),
                ("pod.namespace", pod.namespace().to_owned()),
                ("pod.uid", pod.uid().to_owned()),
                ("serviceAccount.name", account),
                ("ephemeral", self.ephemeral.to_string()),
            ];
            out.extend(info.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value)));
        }
        out
    }

    /// Whether the files are to be given to the pod's group by the node (`supportsFSGroup`).
    pub(super) fn takes_group(&self, driver: Option<&CSIDriver>) -> bool {
        let policy = driver.and_then(|d| d.spec.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType");
        let once = self.ephemeral || self.has_access(&["ReadWriteOnce", "ReadWriteOncePod"]);
        match policy {
            _ if self.read_only || self.block => false,
            "None" => false,
            "File" => true,
            _ => !self.fs_type.is_empty() && once,
        }
    }

    /// Whether the driver is for volumes of this life (`supportsVolumeLifecycleMode`).
    pub(super) fn check_mode(&self, driver: Option<&CSIDriver>) -> Result<(), String> {
        let (mode, name) = (self.mode(), &self.volume.driver);
        let refused = |why: String| Err(format!("volume mode {mode:?} not supported by driver {name} ({why})"));
        let Some(driver) = driver else {
            return if self.ephemeral { refused("no CSIDriver object".into()) } else { Ok(()) };
        };
        let modes = driver.spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
        if modes.iter().any(|m| m == mode) {
            return Ok(());
        }
        let quoted: Vec<String> = modes.iter().map(|m| format!("{m:?}")).collect();
        refused(format!("only supports [{}]", quoted.join(" ")))
    }
}

/// `asCSIAccessModeV1` and `asSingleNodeMultiWriterCapableCSIAccessModeV1`
fn access_mode(mode: &str, multi_writer: bool) -> Mode {
    match (mode, multi_writer) {
        ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        ("ReadWriteOnce" | "ReadWriteOncePod", false) => Mode::SingleNodeWriter,
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        _ => Mode::Unknown,
    }
}

/// Whether a volume of this driver is attached by the control plane first (the reverse of `skipAttach`).
pub(super) fn needs_attach(driver: Option<&CSIDriver>) -> bool {
    driver.is_none_or(|d| d.spec.attach_required != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::{object, pod};

    fn volume(fields: &str) -> Wanted {
        let pv: PersistentVolume = object(&format!(
            r#"{{"metadata":{{"name":"v"}},"spec":{{"csi":{{"driver":"d","volumeHandle":"h","fsType":"ext4","volumeAttributes":{{"a":"b"}}}},{fields}}}}}"#
        ));
        let source = pv.spec.as_ref().and_then(|s| s.csi.clone()).expect("it is one");
        Wanted::persistent(&pv, &source, false)
    }

    fn driver(fields: &str) -> CSIDriver {
        object(&format!(
            r#"{{"apiVersion":"storage.k8s.io/v1","kind":"CSIDriver","metadata":{{"name":"d"}},"spec":{{{fields}}}}}"#
        ))
    }

    #[test]
    fn access_modes_depend_on_what_the_driver_knows() {
        let mode = |modes: &str, multi| {
            let wanted = volume(&format!(r#""accessModes":[{modes}]"#)).capability(multi, None);
            Mode::try_from(wanted.access_mode.expect("set").mode).expect("known").as_str_name()
        };
        assert_eq!(mode(r#""ReadWriteOnce""#, false), "SINGLE_NODE_WRITER");
        assert_eq!(mode(r#""ReadWriteOnce""#, true), "SINGLE_NODE_MULTI_WRITER");
        assert_eq!(mode(r#""ReadWriteOncePod""#, true), "SINGLE_NODE_SINGLE_WRITER");
        assert_eq!(mode(r#""ReadOnlyMany","ReadWriteMany""#, true), "MULTI_NODE_READER_ONLY");
        assert_eq!(mode("", true), "SINGLE_NODE_MULTI_WRITER");
    }

    #[test]
    fn the_driver_object_says_what_is_told_and_who_owns_the_files() {
        let pod = pod(r#"{"serviceAccountName":"sa","containers":[]}"#);
        let wanted = volume(r#""accessModes":["ReadWriteOnce"]"#);
        assert_eq!(wanted.context(&pod, None), Texts::from([("a".into(), "b".into())]));
        let told = wanted.context(&pod, Some(&driver(r#""podInfoOnMount":true"#)));
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "sa");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "false");
        assert!(wanted.takes_group(None));
        assert!(!volume(r#""accessModes":["ReadWriteMany"]"#).takes_group(None));
        assert!(volume(r#""accessModes":["ReadWriteMany"]"#).takes_group(Some(&driver(r#""fsGroupPolicy":"File""#))));
        assert!(!wanted.takes_group(Some(&driver(r#""fsGroupPolicy":"None""#))));
        assert!(needs_attach(None) && !needs_attach(Some(&driver(r#""attachRequired":false"#))));
    }

    #[test]
    fn a_volume_of_one_pod_is_mounted_with_the_label_that_all_its_containers_say() {
        let check = |modes: &str, driver_fields: &str, of_pod: &str, of_second: &str| {
            let mount = r#""volumeMounts":[{"name":"data","mountPath":"/d"}]"#;
            let pod = pod(&format!(
                r#"{{"securityContext":{{{of_pod}}},"containers":[{{"name":"a",{mount}}},{{"name":"b",{mount},"securityContext":{{{of_second}}}}},{{"name":"c","securityContext":{{"seLinuxOptions":{{"level":"s0"}}}}}}]}}"#
            ));
            let wanted = volume(&format!(r#""accessModes":[{modes}]"#));
            wanted.selinux(&pod, "data", Some(&driver(driver_fields))).map(|wish| wish.level)
        };
        let (alone, can, level) =
            (r#""ReadWriteOncePod""#, r#""seLinuxMount":true"#, r#""seLinuxOptions":{"level":"s0:c1,c2"}"#);
        assert_eq!(check(alone, can, level, "").as_deref(), Some("s0:c1,c2"));
        assert_eq!(check(alone, can, level, level).as_deref(), Some("s0:c1,c2"));
        assert_eq!(check(alone, can, level, r#""seLinuxOptions":{"level":"s0:c3"}"#), None);
        assert_eq!(check(alone, can, r#""seLinuxOptions":{"type":"t"}"#, ""), None);
        assert_eq!(check(alone, can, &format!(r#"{level},"seLinuxChangePolicy":"Recursive""#), ""), None);
        assert_eq!(check(alone, r#""seLinuxMount":false"#, level, ""), None);
        assert_eq!(check(r#""ReadWriteOnce""#, can, level, ""), None);
        assert_eq!(check(r#""ReadWriteOncePod","ReadOnlyMany""#, can, level, ""), None);
        assert_eq!(check(alone, can, "", ""), None);
    }

    #[test]
    fn inline_volumes_need_a_driver_for_them() {
        let pod = pod(r#"{"containers":[]}"#);
        let inline =
            Wanted::inline(&pod, "data", &CSIVolumeSource { driver: "d".into(), ..CSIVolumeSource::default() });
        let refused = |d: Option<&CSIDriver>| inline.check_mode(d).expect_err("not for it");
        assert_eq!(refused(None), "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)");
        let persistent = driver(r#""volumeLifecycleModes":["Persistent"]"#);
        assert_eq!(
            refused(Some(&persistent)),
            "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])"
        );
        assert_eq!(inline.check_mode(Some(&driver(r#""volumeLifecycleModes":["Ephemeral"]"#))), Ok(()));
        assert_eq!(volume(r#""accessModes":[]"#).check_mode(None), Ok(()));
    }
}
