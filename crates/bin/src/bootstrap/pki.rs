//! The cluster's certificate authority and the leaf certificates it signs (DESIGN D8).
//!
//! Layout of the folder: `ca.{crt,key}`, `front-proxy-ca.{crt,key}`, `sa.key` (signs service-account tokens), and one `NAME.{crt,key}` per leaf. A
//! leaf is made anew at two thirds of its life, or when its names are not those wanted any more.

use super::files::{self, FileError};
use base::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// The CA lives ten years, as kubeadm's does.
const CA_LIFE: Duration = Duration::days(3650);
/// Leaves are short-lived; the running server renews them.
const LEAF_LIFE: Duration = Duration::days(90);
/// Certificates are valid a little earlier than now, for clocks that differ.
const BACKDATE: Duration = Duration::minutes(5);

/// A certificate could not be made or read.
#[derive(Debug, Error)]
pub(crate) enum PkiError {
    /// Reading or writing a file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not hold what it should.
    #[error("{} is damaged: {why}; restore it from a backup, or run `dhow reset` to start a new cluster", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate request that cannot be signed.
    #[error("failed to sign the certificate {name}")]
    Sign {
        /// Which leaf.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// Only one of certificate and key is there.
    #[error("{} is missing beside {}; restore it from a backup, or run `dhow reset` to start a new cluster", missing.display(), present.display())]
    Half {
        /// The file that is not there.
        missing: PathBuf,
        /// The file that is.
        present: PathBuf,
    },
}

/// PEM of a certificate chain and its private key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyCert {
    /// Leaf first.
    pub(crate) cert_pem: String,
    /// PKCS #8.
    pub(crate) key_pem: String,
}

impl std::fmt::Debug for KeyCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key belongs in no log.
        f.debug_struct("KeyCert").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// What a leaf is for.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    /// File name without extension.
    pub(crate) file: String,
    /// User name for clients; display only for servers.
    pub(crate) common_name: String,
    /// Group for clients.
    pub(crate) organization: Option<String>,
    /// DNS names for servers.
    pub(crate) dns_names: Vec<String>,
    /// Addresses for servers.
    pub(crate) ips: Vec<IpAddr>,
    /// May it identify a server?
    pub(crate) server: bool,
    /// May it identify a client?
    pub(crate) client: bool,
}

impl Leaf {
    /// A client certificate for a user in a group.
    pub(crate) fn client(file: &str, user: &str, group: Option<&str>) -> Self {
        Leaf {
            file: file.to_owned(),
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            dns_names: Vec::new(),
            ips: Vec::new(),
            server: false,
            client: true,
        }
    }
    /// A server certificate for names and addresses.
    pub(crate) fn server(file: &str, name: &str, dns_names: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Leaf { dns_names, ips, server: true, client: false, ..Leaf::client(file, name, None) }
    }
}

/// The authority, on disk.
pub(crate) struct Authority {
    dir: PathBuf,
    pub(super) ca: KeyCert,
    clock: Arc<dyn Clock>,
}

impl Authority {
    /// Opens the authority in `dir`, or founds one if the folder has none.
    pub(crate) fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, PkiError> {
        files::private_dir(dir)?;
        Self::open_named(dir, "ca", "dhow-ca", clock)
    }

    /// The authority beside this one whose only leaf speaks for users at aggregated API servers.
    pub(crate) fn front_proxy(&self) -> Result<Self, PkiError> {
        Self::open_named(&self.dir, "front-proxy-ca", "dhow-front-proxy-ca", self.clock.clone())
    }

    fn open_named(dir: &Path, file: &str, common_name: &str, clock: Arc<dyn Clock>) -> Result<Self, PkiError> {
        let ca = match read_pair(dir, file)? {
            Some(ca) => ca,
            None => {
                let ca = found(file, common_name, &clock)?;
                write_pair(dir, file, &ca)?;
                ca
            }
        };
        Ok(Authority { dir: dir.to_owned(), ca, clock })
    }

    /// The CA's certificate, PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca.cert_pem
    }

    /// The leaf from disk if it is good for at least another third of its life, else a new one.
    pub(crate) fn leaf(&self, leaf: &Leaf) -> Result<KeyCert, PkiError> {
        if let Some(pair) = read_pair(&self.dir, &leaf.file)?
            && self.is_good(leaf, &pair)
        {
            return Ok(pair);
        }
        let pair = self.sign(leaf)?;
        write_pair(&self.dir, &leaf.file, &pair)?;
        Ok(pair)
    }

    /// The key that signs service-account tokens (ECDSA P-256, PKCS #8 PEM).
    pub(crate) fn token_key(&self) -> Result<String, PkiError> {
        let path = self.dir.join("sa.key");
        if let Some(key) = files::read(&path)? {
            return text(&path, key);
        }
        let key =
            KeyPair::generate().map_err(|source| PkiError::Sign { name: "sa.key".into(), source })?.serialize_pem();
        files::write(&path, key.as_bytes(), 0o600)?;
        Ok(key)
    }

    fn sign(&self, leaf: &Leaf) -> Result<KeyCert, PkiError> {
        let failed = |source| PkiError::Sign { name: leaf.file.clone(), source };
        let ca_key = KeyPair::from_pem(&self.ca.key_pem)
            .map_err(|e| PkiError::Damaged { path: self.dir.join("ca.key"), why: e.to_string() })?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca.cert_pem, ca_key)
            .map_err(|e| PkiError::Damaged { path: self.dir.join("ca.crt"), why: e.to_string() })?;
        let mut params = names_only(leaf).map_err(failed)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = [
            leaf.server.then_some(ExtendedKeyUsagePurpose::ServerAuth),
            leaf.client.then_some(ExtendedKeyUsagePurpose::ClientAuth),
        ]
        .into_iter()
        .flatten()
        .collect();
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = self.life(LEAF_LIFE);
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(KeyCert { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    fn life(&self, life: Duration) -> (OffsetDateTime, OffsetDateTime) {
        let now = now(&self.clock);
        (now - BACKDATE, now + life)
    }

    /// Signed by this CA, with the wanted names, and in the first two thirds of its life.
    fn is_good(&self, leaf: &Leaf, pair: &KeyCert) -> bool {
        state(&self.ca.cert_pem, leaf, pair, self.clock.now().as_second()) == State::Good
    }
}

/// How a leaf certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In the first two thirds of its life.
    Good,
    /// It can be used, and should be renewed.
    Ageing,
    /// Not signed by the CA, for other names, or not valid now.
    Bad,
}

/// How `pair` is at `now` (seconds), as the certificate for `leaf`.
pub(crate) fn state(ca_pem: &str, leaf: &Leaf, pair: &KeyCert, now: i64) -> State {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pair.cert_pem.as_bytes()) else { return State::Bad };
    let Ok(cert) = pem.parse_x509() else { return State::Bad };
    let Ok((_, ca_pem)) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes()) else { return State::Bad };
    let Ok(ca) = ca_pem.parse_x509() else { return State::Bad };
    if cert.verify_signature(Some(ca.public_key())).is_err() || names_of(&cert) != wanted_names(leaf) {
        return State::Bad;
    }
    let (start, end) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    match now {
        now if now < start || now >= end => State::Bad,
        now if now - start > (end - start) * 2 / 3 => State::Ageing,
        _ => State::Good,
    }
}

/// A new private key, PEM.
pub(crate) fn new_key(name: &str) -> Result<String, PkiError> {
    let key = KeyPair::generate().map_err(|source| PkiError::Sign { name: name.to_owned(), source })?;
    Ok(key.serialize_pem())
}

/// A request (PEM) for a certificate with the leaf's names and this key.
pub(crate) fn signing_request(leaf: &Leaf, key_pem: &str) -> Result<String, PkiError> {
    let failed = |source| PkiError::Sign { name: leaf.file.clone(), source };
    let key = KeyPair::from_pem(key_pem).map_err(failed)?;
    names_only(leaf).and_then(|params| params.serialize_request(&key)).and_then(|csr| csr.pem()).map_err(failed)
}

/// Names a key: the same key has the same name.
pub(crate) fn key_digest(key_pem: &str) -> Result<String, PkiError> {
    let failed = |source| PkiError::Sign { name: "a node's key".into(), source };
    let key = KeyPair::from_pem(key_pem).map_err(failed)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_pem().as_bytes());
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What signed and unsigned certificates of a leaf have in common.
fn names_only(leaf: &Leaf) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(leaf.dns_names.clone())?;
    params.subject_alt_names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = distinguished_name(&leaf.common_name, leaf.organization.as_deref());
    Ok(params)
}

/// Subject and alternative names in one comparable list.
fn names_of(cert: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let mut names: Vec<String> =
        cert.subject().iter_common_name().filter_map(|a| a.as_str().ok()).map(|s| format!("CN={s}")).collect();
    names.extend(cert.subject().iter_organization().filter_map(|a| a.as_str().ok()).map(|s| format!("O={s}")));
    if let Ok(Some(san)) = cert.subject_alternative_name() {
        names.extend(san.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            },
            _ => None,
        }));
    }
    names.sort();
    names
}

fn wanted_names(leaf: &Leaf) -> Vec<String> {
    let mut names = vec![format!("CN={}", leaf.common_name)];
    names.extend(leaf.organization.iter().map(|o| format!("O={o}")));
    names.extend(leaf.dns_names.iter().cloned());
    names.extend(leaf.ips.iter().map(IpAddr::to_string));
    names.sort();
    names
}

fn found(file: &str, common_name: &str, clock: &Arc<dyn Clock>) -> Result<KeyCert, PkiError> {
    let failed = |source| PkiError::Sign { name: file.into(), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = distinguished_name(common_name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = now(clock) - BACKDATE;
    params.not_after = now(clock) + CA_LIFE;
    let key = KeyPair::generate().map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok(KeyCert { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn now(clock: &Arc<dyn Clock>) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(clock.now().as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The pair called `name` in a folder.
pub(crate) fn read_pair(dir: &Path, name: &str) -> Result<Option<KeyCert>, PkiError> {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    match (files::read(&cert)?, files::read(&key)?) {
        (Some(c), Some(k)) => Ok(Some(KeyCert { cert_pem: text(&cert, c)?, key_pem: text(&key, k)? })),
        (None, None) => Ok(None),
        // The key is written first; a crash in between leaves a key that no certificate needs.
        (None, Some(_)) if !name.ends_with("ca") => Ok(None),
        (None, Some(_)) => Err(PkiError::Half { missing: cert, present: key }),
        (Some(_), None) => Err(PkiError::Half { missing: key, present: cert }),
    }
}

/// Writes a pair, its key first.
pub(crate) fn write_pair(dir: &Path, name: &str, pair: &KeyCert) -> Result<(), PkiError> {
    files::write(&dir.join(format!("{name}.key")), pair.key_pem.as_bytes(), 0o600)?;
    files::write(&dir.join(format!("{name}.crt")), pair.cert_pem.as_bytes(), 0o644)?;
    Ok(())
}

fn text(path: &Path, content: Vec<u8>) -> Result<String, PkiError> {
    String::from_utf8(content)
        .map_err(|_| PkiError::Damaged { path: path.to_owned(), why: "it is not PEM text".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;

    fn authority(dir: &Path, clock: &Arc<ManualClock>) -> Authority {
        Authority::open(dir, clock.clone()).expect("a temp folder is writable")
    }

    #[test]
    fn leaves_are_kept_until_two_thirds_of_their_life_or_new_names() {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).expect("in range"));
        let leaf = Leaf::client("admin", "kubernetes-admin", Some("system:masters"));
        let first = authority(dir.path(), &clock).leaf(&leaf).expect("signs");
        let again = authority(dir.path(), &clock).leaf(&leaf).expect("reads");
        assert_eq!(first.cert_pem, again.cert_pem);

        let renamed = Leaf { common_name: "other".into(), ..leaf.clone() };
        let other = authority(dir.path(), &clock).leaf(&renamed).expect("signs");
        assert_ne!(first.cert_pem, other.cert_pem);

        clock.advance(std::time::Duration::from_secs(61 * 24 * 3600));
        let late = authority(dir.path(), &clock).leaf(&renamed).expect("signs");
        assert_ne!(other.cert_pem, late.cert_pem);
    }

    #[test]
    fn a_certificate_ages_at_two_thirds_of_its_life_and_is_bad_at_its_end() {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).expect("in range"));
        let ours = authority(dir.path(), &clock);
        let leaf = Leaf::client("node-client", "system:node:a", Some("system:nodes"));
        let pair = ours.leaf(&leaf).expect("signs");
        let after = |days: i64| state(ours.ca_pem(), &leaf, &pair, 1_800_000_000 + days * 24 * 3600);
        assert_eq!(
            [after(-1), after(0), after(59), after(61), after(89), after(90)].map(|s| format!("{s:?}")),
            ["Bad", "Good", "Good", "Ageing", "Ageing", "Bad"]
        );
        let other = tempfile::tempdir().expect("temp dir");
        let theirs = authority(other.path(), &clock);
        assert_eq!(state(theirs.ca_pem(), &leaf, &pair, 1_800_000_000), State::Bad, "another authority");
    }

    #[test]
    fn a_lost_ca_key_is_an_error_not_a_new_cluster() {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).expect("in range"));
        authority(dir.path(), &clock);
        std::fs::remove_file(dir.path().join("ca.key")).expect("it was written");
        let error = Authority::open(dir.path(), clock.clone()).expect_err("must refuse");
        assert!(error.to_string().contains("ca.key is missing"), "{error}");
    }
}
