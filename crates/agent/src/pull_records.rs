//! Who may use images that were pulled for pods: a pod whose image is on the node already gets it only if anybody could have it, or if it has a
//! login that the registry took for it before; others have to ask the registry (`KubeletEnsureSecretPulledImages`, `pkg/kubelet/images/pullmanager`).
//!
//! `Records` is pure. [`PullRecords`] keeps them in a file, which is on the disk before a pull begins and after it ended: an image whose
//! pull broke off is not taken for one that was there before. Those that nobody pulled for a pod are everybody's (`NeverVerifyPreloadedImages`).
//! Who writes the file waits for the disk, and nobody else: neither who only asks, nor other tasks.
//!
//! Differs: a name that was given to an image on this machine (`dhow image import`, `tag`) is everybody's, even if pods pulled the same image by
//! another name; one file for all images; service accounts cannot be a source of logins here, so none are recorded.

use crate::images::{Credential, SecretId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Its name in the agent's data directory.
const FILE: &str = "image_pulls.json";
/// So many logins are remembered of one image; who comes later asks the registry again (`writeRecordWhileMatchingLimit`).
const LOGINS_MAX: usize = 100;

/// A login from a Secret. The password is not in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Login {
    secret: SecretId,
    /// SHA-256 in hex of user name and password.
    hash: String,
}

/// Who may use an image under the name of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Access {
    everybody: bool,
    logins: BTreeSet<Login>,
}

/// What is known of images that were pulled for pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Records {
    /// By the image's id and the repository (`registry/name`) that it came from.
    pulled: BTreeMap<String, BTreeMap<String, Access>>,
    /// Names whose pulls have begun, and how many of each have not ended.
    pulling: BTreeMap<String, u32>,
}

/// Whether a pod may use an image that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Whoever it is.
    Free,
    /// If it has one of the logins that are known.
    WithLogin,
    /// Only if the registry says so now.
    Ask,
}

/// An image's name in full, and the repository in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    full: String,
    repository: String,
    /// It says which image, wherever that came from, and not only what the image is called.
    digest: bool,
}

impl Name {
    /// One that is no name is its own repository.
    pub fn of(text: &str) -> Self {
        let Ok(reference) = text.parse::<image::Reference>() else {
            return Name { full: text.to_owned(), repository: text.to_owned(), digest: true };
        };
        Name { full: reference.to_string(), repository: reference.name(), digest: reference.digest.is_some() }
    }
}

impl Records {
    /// `MustAttemptImagePull`, as far as no login is needed for it.
    fn may_use(&self, name: &Name, id: &str) -> Use {
        match self.pulled.get(id) {
            None if self.pulling.contains_key(&name.full) => Use::Ask,
            None => Use::Free,
            Some(known) => match known.get(&name.repository) {
                Some(Access { everybody: true, .. }) => Use::Free,
                Some(Access { logins, .. }) if !logins.is_empty() => Use::WithLogin,
                // No pod's pull gave it this name: who imported it or tagged it on this machine did, for everybody.
                None if !name.digest && !self.pulling.contains_key(&name.full) => Use::Free,
                _ => Use::Ask,
            },
        }
    }

    /// Whether one of these logins was good before, or is of a Secret whose login was; it is remembered as it is now.
    fn knows(&mut self, name: &Name, id: &str, credentials: &[&Credential]) -> bool {
        let Some(access) = self.pulled.get_mut(id).and_then(|known| known.get_mut(&name.repository)) else {
            return false;
        };
        let ours: Vec<Login> = credentials.iter().filter_map(|c| Login::of(c)).collect();
        let found = ours.into_iter().find(|l| access.logins.iter().any(|k| k.hash == l.hash || k.secret == l.secret));
        found.is_some_and(|login| {
            access.remember(login);
            true
        })
    }

    fn begin(&mut self, name: &Name) {
        *self.pulling.entry(name.full.clone()).or_insert(0) += 1;
    }

    fn fail(&mut self, name: &Name) {
        if let Some(count) = self.pulling.get_mut(&name.full) {
            *count -= 1;
            if *count == 0 {
                self.pulling.remove(&name.full);
            }
        }
    }

    /// Without a login, or with one that is the node's, everybody could have had it.
    fn end(&mut self, name: &Name, id: &str, with: Option<&Credential>) {
        self.pulling.remove(&name.full);
        let access = self.pulled.entry(id.to_owned()).or_default().entry(name.repository.clone()).or_default();
        match with.and_then(Login::of) {
            Some(login) if !access.everybody => access.remember(login),
            Some(_) => {}
            None => *access = Access { everybody: true, logins: BTreeSet::new() },
        }
    }

    fn forget(&mut self, ids: &BTreeSet<String>) {
        self.pulled.retain(|id, _| !ids.contains(id));
    }
}

impl Access {
    fn remember(&mut self, login: Login) {
        // A Secret has one login for an image, the newest.
        self.logins.retain(|known| known.secret != login.secret);
        if self.logins.len() < LOGINS_MAX {
            self.logins.insert(login);
        }
    }
}

impl Login {
    /// None, if it is the node's.
    fn of(credential: &Credential) -> Option<Login> {
        let secret = credential.secret.clone()?;
        let mut hash = Sha256::new();
        hash.update(credential.username.len().to_le_bytes());
        hash.update(&credential.username);
        hash.update(&credential.password);
        Some(Login { secret, hash: hash.finalize().iter().map(|b| format!("{b:02x}")).collect() })
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct PullRecords(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    file: PathBuf,
    records: Mutex<Records>,
    /// What was last read or written. Who writes holds it, so that others do not wait for the disk.
    written: Mutex<Vec<u8>>,
}

impl PullRecords {
    /// What earlier runs wrote. A file that cannot be read is as good as none, and says so in the log.
    pub fn load(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        let read = std::fs::read(&file).and_then(|text| Ok((serde_json::from_slice(&text)?, text)));
        let (records, text) = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(file = %file.display(), %error, "cannot read who may use which images");
            }
            Default::default()
        });
        PullRecords(Arc::new(Kept { file, records: Mutex::new(records), written: Mutex::new(text) }))
    }

    /// Whether a pod may use the image with this id, which it calls `name`.
    pub fn may_use(&self, name: &Name, id: &str) -> Use {
        self.0.records.lock().may_use(name, id)
    }

    /// Where that needs a login: whether one of these is one.
    pub async fn knows(&self, name: &Name, id: &str, credentials: &[&Credential]) -> bool {
        let known = self.0.records.lock().knows(name, id, credentials);
        self.0.save().await;
        known
    }

    /// A pull begins.
    pub async fn begin(&self, name: Name) -> Pulling {
        self.0.records.lock().begin(&name);
        let pulling = Pulling { kept: self.0.clone(), name, failed: true };
        self.0.save().await;
        pulling
    }

    /// Images of which something is known.
    pub fn known(&self) -> BTreeSet<String> {
        self.0.records.lock().pulled.keys().cloned().collect()
    }

    /// These images are gone. Who says so has asked for [`Self::known`] ones before looking, lest one be forgotten that has just come.
    pub async fn forget(&self, ids: &BTreeSet<String>) {
        self.0.records.lock().forget(ids);
        self.0.save().await;
    }
}

/// A pull that has begun: it has failed unless it says otherwise, also if nobody waits for it any more.
#[derive(Debug)]
pub struct Pulling {
    kept: Arc<Kept>,
    name: Name,
    failed: bool,
}

impl Pulling {
    /// It has given the image with this id, with this login.
    pub async fn end(mut self, id: &str, with: Option<&Credential>) {
        self.failed = false;
        self.kept.records.lock().end(&self.name, id, with);
        self.kept.save().await;
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        if !self.failed {
            return;
        }
        self.kept.records.lock().fail(&self.name);
        let kept = self.kept.clone();
        match tokio::runtime::Handle::try_current() {
            // Nobody waits for it. If the agent ends first, the pull broke off.
            Ok(runtime) => drop(runtime.spawn_blocking(move || kept.write())),
            Err(_) => kept.write(),
        }
    }
}

impl Kept {
    /// What is known now is on the disk when this returns.
    async fn save(self: &Arc<Self>) {
        let kept = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || kept.write()).await {
            tracing::error!(file = %self.file.display(), %error, "failed to keep who may use which images");
        }
    }

    fn write(&self) {
        let mut written = self.written.lock();
        let encoded = serde_json::to_vec(&*self.records.lock());
        let replaced = encoded.map_err(io::Error::from).and_then(|text| {
            if text != *written {
                base::files::replace_durably(&self.file, base::files::PRIVATE, |file| file.write_all(&text))?;
                *written = text;
            }
            Ok(())
        });
        if let Err(error) = replaced {
            tracing::error!(file = %self.file.display(), %error, "failed to keep who may use which images");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(secret: Option<&str>, password: &str) -> Credential {
        let secret = secret.map(|name| SecretId { namespace: "ns".into(), name: name.into(), uid: name.into() });
        Credential { registry: "r.example".into(), username: "u".into(), password: password.into(), secret }
    }

    #[test]
    fn images_are_for_those_for_whom_they_were_pulled() {
        let (name, other) = (Name::of("r.example/app:1"), Name::of("r.example/other"));
        let mut records = Records::default();
        assert_eq!(records.may_use(&name, "i"), Use::Free, "it was there before");
        records.begin(&name);
        assert_eq!((records.may_use(&name, "i"), records.may_use(&other, "i")), (Use::Ask, Use::Free));
        records.end(&name, "i", Some(&credential(Some("a"), "p")));
        assert_eq!((records.may_use(&name, "i"), records.may_use(&other, "i")), (Use::WithLogin, Use::Free));
        let digest = format!("r.example/other@sha256:{}", "0".repeat(64));
        assert_eq!(records.may_use(&Name::of(&digest), "i"), Use::Ask, "a name that anybody can make up");
        records.begin(&other);
        assert_eq!(records.may_use(&other, "i"), Use::Ask, "a pull that may have broken off");
        records.fail(&other);
        assert_eq!(records.may_use(&Name::of("r.example/app:2"), "i"), Use::WithLogin, "the same repository");
        let mut knows = |secret, password| records.knows(&name, "i", &[&credential(secret, password)]);
        assert!(!knows(None, "p") && !knows(Some("b"), "q"));
        assert!(knows(Some("b"), "p"), "the same login from another Secret");
        assert!(knows(Some("b"), "new"), "a known Secret with a new login");
        assert!(knows(Some("c"), "new"), "which is known from now on");
        records.end(&name, "i", None);
        assert_eq!(records.may_use(&name, "i"), Use::Free, "everybody could have it");
        records.end(&name, "i", Some(&credential(Some("a"), "p")));
        assert_eq!(records.may_use(&name, "i"), Use::Free);
        records.forget(&["i".to_owned()].into());
        assert_eq!(records, Records::default());
    }

    #[tokio::test]
    async fn pulls_that_fail_or_break_off() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let name = Name::of("app");
        assert_eq!(name, Name::of("docker.io/library/app:latest"));
        let records = PullRecords::load(dir.path());
        let first = records.begin(name.clone()).await;
        let second = records.begin(name.clone()).await;
        drop(second);
        // The agent is killed here.
        std::mem::forget(first);
        let again = PullRecords::load(dir.path());
        assert_eq!(again.may_use(&name, "i"), Use::Ask);
        again.begin(name.clone()).await.end("i", Some(&credential(Some("a"), "secret"))).await;
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("written");
        assert!(!text.contains("secret\":\"secret") && !text.contains("\"u\""), "{text}");
        assert_eq!(PullRecords::load(dir.path()).may_use(&name, "i"), Use::WithLogin);
    }

    #[tokio::test]
    async fn the_file_is_written_only_for_what_is_new() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let name = Name::of("app");
        let login = credential(Some("a"), "secret");
        PullRecords::load(dir.path()).begin(name.clone()).await.end("i", Some(&login)).await;
        let file = || std::fs::metadata(dir.path().join(FILE)).expect("written").ino();
        let before = file();
        let again = PullRecords::load(dir.path());
        assert!(again.knows(&name, "i", &[&login]).await);
        again.forget(&BTreeSet::new()).await;
        assert_eq!(file(), before);
        again.forget(&["i".to_owned()].into()).await;
        assert_ne!(file(), before);
    }

    #[test]
    fn a_pull_that_nobody_waits_for_has_failed_on_the_disk_too() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (records, name) = (PullRecords::load(dir.path()), Name::of("app"));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().expect("a runtime");
        let begin = || runtime.block_on(records.begin(name.clone()));
        let after = || PullRecords::load(dir.path()).may_use(&name, "i");
        let pulling = begin();
        assert_eq!(after(), Use::Ask);
        drop(pulling);
        assert_eq!(after(), Use::Free, "without a runtime");
        let pulling = begin();
        runtime.block_on(async {
            drop(pulling);
            // There is one thread for what blocks, so this is behind it.
            tokio::task::spawn_blocking(|| ()).await.expect("no panic");
        });
        assert_eq!(after(), Use::Free, "in one");
    }
}
