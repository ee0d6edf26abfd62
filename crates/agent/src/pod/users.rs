//! Which ids of the machine a pod with `hostUsers: false` has: 65536 of them, in a file of the pod's directory until that goes.
//!
//! Follows `pkg/kubelet/userns/userns_manager.go`, the file included. Nothing is remembered: who needs a range reads which are taken.
//! Differs: no `/etc/subuid` entry of a user `kubelet` is looked up; the first range is the one after the machine's own.

use crate::engine::IdRange;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// `userNsUnitLength`
const LENGTH: u32 = 1 << 16;
const FILE: &str = "userns";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// One pod at a time looks for a range.
#[derive(Debug, Default, Clone)]
pub struct Ranges(Arc<parking_lot::Mutex<()>>);

impl Ranges {
    /// The range of the pod whose directory is `uid` below `pods`: the one it has, or the first that nobody has.
    pub fn of(&self, pods: &Path, uid: &str) -> io::Result<IdRange> {
        let _alone = self.0.lock();
        let file = pods.join(uid).join(FILE);
        if let Some(range) = read(&file)? {
            return Ok(range);
        }
        let mut taken = BTreeSet::new();
        for pod in std::fs::read_dir(pods)? {
            taken.extend(read(&pod?.path().join(FILE))?.map(|range| range.first));
        }
        let free = (1..=u32::MAX / LENGTH).map(|n| n * LENGTH).find(|first| !taken.contains(first));
        let first =
            free.ok_or_else(|| io::Error::other("could not find an empty slot to allocate a user namespace"))?;
        let mapping = vec![Mapping { host_id: first, container_id: 0, length: LENGTH }];
        let text = serde_json::to_vec(&Mappings { uid_mappings: mapping.clone(), gid_mappings: mapping })?;
        base::files::replace(&file, &text)?;
        Ok(IdRange { first, length: LENGTH })
    }
}

fn read(file: &Path) -> io::Result<Option<IdRange>> {
    let text = match std::fs::read(file) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        other => other?,
    };
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", file.display()));
    let found: Mappings = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    match found.uid_mappings.as_slice() {
        [one @ Mapping { container_id: 0, length: LENGTH, .. }]
            if one.host_id != 0 && one.host_id % LENGTH == 0 && found.gid_mappings == [*one] =>
        {
            Ok(Some(IdRange { first: one.host_id, length: LENGTH }))
        }
        _ => Err(bad("invalid user namespace configuration".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_keeps_its_range_until_its_directory_goes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pod = |uid: &str| std::fs::create_dir(dir.path().join(uid)).expect("created");
        ["a", "b", "c"].into_iter().for_each(pod);
        let first = |uid: &str| Ranges::default().of(dir.path(), uid).map(|r| r.first).map_err(|e| e.to_string());
        assert_eq!([first("a"), first("b"), first("a")], [Ok(65536), Ok(131_072), Ok(65536)]);
        std::fs::remove_dir_all(dir.path().join("a")).expect("removed");
        assert_eq!(first("c"), Ok(65536));
        std::fs::write(dir.path().join("b/userns"), "{}").expect("written");
        assert!(first("b").is_err());
    }
}
