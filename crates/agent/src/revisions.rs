//! [`Revisions`]: which images the workloads of the cluster ran from on this node, in their newest revision and in the newest one
//! before it that was ready. Those are what a rollback, a scale-up or the next run needs, so they outlive other unused images.
//!
//! A node may read no Deployments (the Node authorizer sees to that), so it remembers what it ran, on disk. Differs from upstream,
//! which forgets.

use crate::images::Image;
use crate::pod::seen::{ContainerSeen, Run};
use crate::pod::worker::PodView;
use api::k8s::api::core::v1::Pod;
use api::meta::MetaExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

/// Its name in the agent's data directory.
const FILE: &str = "revisions.json";
/// More workloads than this and the one that changed longest ago is forgotten.
const WORKLOADS_MAX: usize = 1000;

/// What a workload ran from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Revision {
    /// `imageID`s of its containers, and ids of the images that are volumes of them.
    images: BTreeSet<String>,
    /// A pod of it was ready, or came to its end well.
    good: bool,
}

/// A Deployment, StatefulSet, DaemonSet or CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Workload {
    /// `namespace/Kind/name`
    name: String,
    /// The newest first; at most two.
    revisions: Vec<Revision>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Revisions {
    file: PathBuf,
    /// The one that changed last comes last.
    known: VecDeque<Workload>,
}

impl Revisions {
    /// What an earlier run remembered; nothing, and a line in the log, if that cannot be read.
    pub fn load(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        let known = read(&file).unwrap_or_else(|error| {
            tracing::error!(file = %file.display(), %error, "failed to read which images workloads need");
            VecDeque::new()
        });
        Revisions { file, known }
    }

    /// Looks at the pods of the node.
    pub fn look(&mut self, views: &[PodView]) {
        let before = self.known.clone();
        let mut views: Vec<&PodView> = views.iter().collect();
        views.sort_by_key(|v| v.pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
        for view in views {
            let images: BTreeSet<String> = view.seen.containers.values().flat_map(images_of).collect();
            if let Some(name) = workload(&view.pod)
                && !images.is_empty()
            {
                self.note(name, Revision { images, good: is_good(&view.pod) });
            }
        }
        if self.known != before {
            self.save();
        }
    }

    fn note(&mut self, name: String, seen: Revision) {
        let Some(at) = self.known.iter().position(|w| w.name == name) else {
            self.known.push_back(Workload { name, revisions: vec![seen] });
            self.known.drain(..self.known.len().saturating_sub(WORKLOADS_MAX));
            return;
        };
        let next = with(&self.known[at].revisions, seen);
        if next == self.known[at].revisions {
            return;
        }
        self.known.remove(at);
        self.known.push_back(Workload { name, revisions: next });
    }

    /// Whether a workload may want the image again.
    pub fn need(&self, image: &Image) -> bool {
        let is = |id: &String| *id == image.id || *id == image.digest_reference || image.names.contains(id);
        self.known.iter().flat_map(|w| &w.revisions).flat_map(|r| &r.images).any(is)
    }

    fn save(&self) {
        let written = serde_json::to_vec(&self.known).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| base::files::replace(&self.file, &text)) {
            tracing::error!(file = %self.file.display(), %error, "failed to save which images workloads need");
        }
    }
}

/// The revisions to remember once `seen` is the newest. A pod whose containers have not all started shows a part of its images.
fn with(known: &[Revision], seen: Revision) -> Vec<Revision> {
    let same = |r: &&Revision| r.images.is_subset(&seen.images) || seen.images.is_subset(&r.images);
    let before = known.iter().find(same);
    let newest = Revision {
        good: seen.good || before.is_some_and(|r| r.good),
        images: before.map(|r| r.images.union(&seen.images).cloned().collect()).unwrap_or(seen.images.clone()),
    };
    let last_good = known.iter().find(|r| r.good && !same(r)).cloned();
    std::iter::once(newest).chain(last_good).collect()
}

/// What a container that has run ran from.
fn images_of(container: &ContainerSeen) -> BTreeSet<String> {
    let id = match &container.run {
        Run::None => return BTreeSet::new(),
        Run::Running(run) => &run.image_id,
        Run::Exited(exit) => &exit.image_id,
    };
    let own = Some(id.clone()).filter(|id| !id.is_empty());
    own.into_iter().chain(container.volume_images.iter().cloned()).collect()
}

fn is_good(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let ready = |s: &api::k8s::api::core::v1::PodStatus| {
        s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    status.is_some_and(|s| s.phase.as_deref() == Some("Succeeded") || ready(s))
}

/// What a pod is one of many of.
fn workload(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true))?;
    let (kind, name) = match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = pod.metadata.labels.as_ref().and_then(|l| l.get("pod-template-hash"));
            let deployment = hash.and_then(|h| owner.name.strip_suffix(h.as_str())?.strip_suffix('-'));
            deployment.map_or(("ReplicaSet", owner.name.as_str()), |name| ("Deployment", name))
        }
        "DaemonSet" | "StatefulSet" => (owner.kind.as_str(), owner.name.as_str()),
        // A CronJob calls its Jobs `name-<minutes since 1970>`; the image of any other Job has done its work.
        "Job" => {
            let (name, minutes) = owner.name.rsplit_once('-')?;
            ("CronJob", Some(name).filter(|_| minutes.len() >= 8 && minutes.bytes().all(|b| b.is_ascii_digit()))?)
        }
        _ => return None,
    };
    Some(format!("{}/{kind}/{name}", pod.namespace()))
}

fn read(file: &Path) -> io::Result<VecDeque<Workload>> {
    match std::fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(VecDeque::new()),
        other => Ok(serde_json::from_slice(&other?)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;
    use crate::pod::seen::{Exit, Seen};
    use std::sync::Arc;

    /// A pod of `owner` (`Kind/name`) that was made at second `made` and whose only container ran from `image`.
    fn view(owner: &str, hash: &str, made: u32, image: &str, ready: bool) -> PodView {
        let (kind, name) = owner.split_once('/').expect("Kind/name");
        let pod: Pod = object(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p","namespace":"ns","creationTimestamp":"2026-01-01T00:00:{made:02}Z",
            "labels":{{"pod-template-hash":"{hash}"}},
            "ownerReferences":[{{"apiVersion":"apps/v1","kind":"{kind}","name":"{name}","uid":"u","controller":true}}]}},
            "status":{{"conditions":[{{"type":"Ready","status":"{}"}}]}}}}"#,
            if ready { "True" } else { "False" }
        ));
        let exit = Exit {
            id: "c".into(),
            image: String::new(),
            image_id: image.into(),
            code: 0,
            reason: String::new(),
            message: String::new(),
            started_at: None,
            finished_at: None,
            restart: false,
            replaced: false,
            user: None,
        };
        let mut seen = Seen::default();
        seen.containers.insert("a".into(), ContainerSeen { run: Run::Exited(exit), ..ContainerSeen::default() });
        PodView { pod: Arc::new(pod), seen: Arc::new(seen) }
    }

    fn needed(revisions: &Revisions) -> String {
        let need = |id: &&str| revisions.need(&Image { id: (*id).into(), ..Image::default() });
        ["v1", "v2", "v3", "v4"].into_iter().filter(need).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_newest_and_the_last_good_revision_are_needed_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut revisions = Revisions::load(dir.path());
        let pod =
            |hash: &str, made, image: &str, ready| view(&format!("ReplicaSet/web-{hash}"), hash, made, image, ready);
        revisions.look(&[pod("a", 1, "v1", true)]);
        revisions.look(&[pod("b", 2, "v2", false), pod("a", 1, "v1", true)]);
        assert_eq!(needed(&revisions), "v1 v2");
        revisions.look(&[pod("c", 3, "v3", false)]);
        assert_eq!(needed(&revisions), "v1 v3", "the second one never was ready");
        revisions.look(&[pod("c", 3, "v3", true)]);
        revisions.look(&[pod("d", 4, "v4", false)]);
        assert_eq!(needed(&revisions), "v3 v4");
        revisions.look(&[]);
        assert_eq!(needed(&Revisions::load(dir.path())), "v3 v4");
    }

    #[test]
    fn images_that_are_volumes_are_needed_like_those_of_containers() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut revisions = Revisions::load(dir.path());
        let pod = |hash: &str, made, volume: &str| {
            let mut view = view(&format!("ReplicaSet/web-{hash}"), hash, made, "v1", true);
            let mut seen = (*view.seen).clone();
            seen.containers.get_mut("a").expect("it has one").volume_images.insert(volume.into());
            view.seen = Arc::new(seen);
            view
        };
        revisions.look(&[pod("a", 1, "v2")]);
        revisions.look(&[pod("b", 2, "v3")]);
        revisions.look(&[pod("c", 3, "v4")]);
        assert_eq!(needed(&revisions), "v1 v3 v4");
    }

    #[test]
    fn pods_are_told_apart_by_what_made_them() {
        for (owner, want) in [
            ("ReplicaSet/web-abc", Some("ns/Deployment/web")),
            ("ReplicaSet/alone", Some("ns/ReplicaSet/alone")),
            ("StatefulSet/db", Some("ns/StatefulSet/db")),
            ("Job/tidy-29000000", Some("ns/CronJob/tidy")),
            ("Job/once", None),
            ("Job/part-2", None),
            ("Node/n1", None),
        ] {
            assert_eq!(workload(&view(owner, "abc", 0, "v1", true).pod).as_deref(), want, "{owner}");
        }
    }

    #[test]
    fn containers_that_start_one_by_one_are_one_revision() {
        let set = |text: &str| Revision { images: text.split(' ').map(str::to_owned).collect(), good: false };
        let known = with(&[set("a b")], set("c"));
        assert_eq!(with(&known, set("c d")), [set("c d")]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut revisions = Revisions::default();
        for n in 0..WORKLOADS_MAX + 5 {
            revisions.note(format!("w{n}"), Revision { images: BTreeSet::new(), good: true });
        }
        assert_eq!((revisions.known.len(), revisions.known[0].name.as_str()), (WORKLOADS_MAX, "w5"));
    }
}
