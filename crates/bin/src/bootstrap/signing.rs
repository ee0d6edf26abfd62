//! Certificates for others' keys: what the `certificate-controller` approved, signed by our authority
//! (`pkg/controller/certificates/authority`, `Sign`). Written by hand in DER because a subject may have many organizations,
//! which rcgen's names cannot hold; the request's subject and key go in byte for byte, its alternative names anew.

use super::pki::Authority;
use controllers::{Life, Signer};
use machinery::certificates::CertificateRequest;
use rcgen::{KeyPair, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::net::IpAddr;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, DERWriterSeq, Tag};

/// Usages as bits of KeyUsage, the first bit first (`keyUsageDict`).
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// Usages as purposes of ExtendedKeyUsage, below 1.3.6.1.5.5.7.3 (`extKeyUsageDict`). Others are refused.
const PURPOSES: [(&str, u64); 10] = [
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("ipsec end system", 5),
    ("ipsec tunnel", 6),
    ("ipsec user", 7),
    ("timestamping", 8),
    ("ocsp signing", 9),
];

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority") // Its key is nobody's to read.
    }
}

impl Signer for Authority {
    fn sign(&self, request: &CertificateRequest, usages: &[String], life: Life) -> Result<Vec<u8>, String> {
        let key = KeyPair::from_pem(&self.ca.key_pem).map_err(|e| format!("the authority's key: {e}"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.ca.cert_pem.as_bytes()).map_err(|e| e.to_string())?;
        let (_, ca) = X509Certificate::from_der(&pem.contents).map_err(|e| e.to_string())?;
        let mut serial = [0u8; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| "no random numbers".to_owned())?;
        let der = certificate(request, usages, life, &Issuer { ca: &ca, key: &key, serial: &serial })?;
        Ok(to_pem(&der))
    }

    fn expires(&self) -> jiff::Timestamp {
        let end = || {
            let (_, pem) = x509_parser::pem::parse_x509_pem(self.ca.cert_pem.as_bytes()).ok()?;
            let (_, ca) = X509Certificate::from_der(&pem.contents).ok()?;
            jiff::Timestamp::from_second(ca.validity().not_after.timestamp()).ok()
        };
        // What cannot be read signs nothing.
        end().unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

struct Issuer<'a> {
    ca: &'a X509Certificate<'a>,
    key: &'a KeyPair,
    serial: &'a [u8],
}

/// RFC 5280: `SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }`.
fn certificate(
    request: &CertificateRequest,
    usages: &[String],
    life: Life,
    issuer: &Issuer<'_>,
) -> Result<Vec<u8>, String> {
    let algorithm = signature_algorithm(issuer.key)?;
    let extensions = extensions(request, usages, issuer)?;
    let (start, end) = (moment(life.start), moment(life.end));
    let to_sign = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
            w.next().write_bigint_bytes(issuer.serial, true);
            w.next().write_der(&algorithm);
            w.next().write_der(issuer.ca.subject().as_raw());
            w.next().write_sequence(|w| {
                write_time(w.next(), start);
                write_time(w.next(), end);
            });
            w.next().write_der(&request.subject);
            w.next().write_der(&request.public_key);
            w.next().write_tagged(Tag::context(3), |w| {
                w.write_sequence(|w| extensions.iter().for_each(|e| e.write(w.next())));
            });
        });
    });
    let signature = issuer.key.sign(&to_sign).map_err(|e| e.to_string())?;
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_der(&to_sign);
            w.next().write_der(&algorithm);
            w.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

struct Extension {
    /// Below 2.5.29.
    id: u64,
    critical: bool,
    value: Vec<u8>,
}

impl Extension {
    fn write(&self, w: DERWriter<'_>) {
        w.write_sequence(|w| {
            w.next().write_oid(&oid(&[2, 5, 29, self.id]));
            if self.critical {
                w.next().write_bool(true);
            }
            w.next().write_bytes(&self.value);
        });
    }
}

fn extensions(request: &CertificateRequest, usages: &[String], issuer: &Issuer<'_>) -> Result<Vec<Extension>, String> {
    let bit = |u: &String| KEY_USAGES.iter().find(|(name, _)| name == u).map(|(_, bit)| *bit);
    let purpose = |u: &String| PURPOSES.iter().find(|(name, _)| name == u).map(|(_, id)| *id);
    if let Some(unknown) = usages.iter().find(|u| bit(u).is_none() && purpose(u).is_none()) {
        return Err(format!("unrecognized usage values: [{unknown:?}]"));
    }
    let mut all = Vec::new();
    let bits: Vec<u16> = usages.iter().filter_map(bit).collect();
    if let Some(last) = bits.iter().max() {
        let word = bits.iter().fold(0u16, |word, bit| word | (0x8000 >> bit));
        let length = usize::from(last + 1);
        let bytes = word.to_be_bytes();
        let value = yasna::construct_der(|w| w.write_bitvec_bytes(&bytes[..length.div_ceil(8)], length));
        all.push(Extension { id: 15, critical: true, value });
    }
    let mut purposes: Vec<u64> = usages.iter().filter_map(purpose).collect();
    purposes.sort_unstable();
    purposes.dedup();
    if !purposes.is_empty() {
        let value = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                purposes.iter().for_each(|id| w.next().write_oid(&oid(&[1, 3, 6, 1, 5, 5, 7, 3, *id])));
            });
        });
        all.push(Extension { id: 37, critical: false, value });
    }
    // No authority of its own.
    all.push(Extension { id: 19, critical: true, value: yasna::construct_der(|w| w.write_sequence(|_| {})) });
    if let Some(id) = subject_key_id(issuer.ca) {
        let value = yasna::construct_der(|w| {
            w.write_sequence(|w| w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id)));
        });
        all.push(Extension { id: 35, critical: false, value });
    }
    let names = alternative_names(request);
    if !names.is_empty() {
        let value = yasna::construct_der(|w| w.write_sequence(|w| names.iter().for_each(|n| n.write(w))));
        // An empty sequence: nobody but the alternative names says whom it is for.
        all.push(Extension { id: 17, critical: request.subject == [0x30, 0], value });
    }
    Ok(all)
}

fn subject_key_id<'a>(ca: &'a X509Certificate<'a>) -> Option<&'a [u8]> {
    ca.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// A GeneralName: its tag and text or bytes.
enum Name<'a> {
    Text(u64, &'a str),
    Ip(Vec<u8>),
}

impl Name<'_> {
    fn write(&self, w: &mut DERWriterSeq<'_>) {
        match self {
            Name::Text(tag, text) => {
                w.next().write_tagged_implicit(Tag::context(*tag), |w| w.write_ia5_string(text));
            }
            Name::Ip(bytes) => w.next().write_tagged_implicit(Tag::context(7), |w| w.write_bytes(bytes)),
        }
    }
}

fn alternative_names(request: &CertificateRequest) -> Vec<Name<'_>> {
    let octets = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let dns = request.dns_names.iter().map(|n| Name::Text(2, n));
    let emails = request.emails.iter().map(|n| Name::Text(1, n));
    let ips = request.ips.iter().map(|ip| Name::Ip(octets(ip)));
    dns.chain(emails).chain(ips).chain(request.uris.iter().map(|n| Name::Text(6, n))).collect()
}

/// The AlgorithmIdentifier of what `key` signs.
fn signature_algorithm(key: &KeyPair) -> Result<Vec<u8>, String> {
    let (id, null): (&[u64], bool) = match key.algorithm() {
        a if *a == rcgen::PKCS_ECDSA_P256_SHA256 => (&[1, 2, 840, 10045, 4, 3, 2], false),
        a if *a == rcgen::PKCS_ECDSA_P384_SHA384 => (&[1, 2, 840, 10045, 4, 3, 3], false),
        a if *a == rcgen::PKCS_ED25519 => (&[1, 3, 101, 112], false),
        a if *a == rcgen::PKCS_RSA_SHA256 => (&[1, 2, 840, 113_549, 1, 1, 11], true),
        _ => return Err("the authority's key is of an unsupported kind".into()),
    };
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_oid(&oid(id));
            if null {
                w.next().write_null();
            }
        });
    }))
}

fn oid(parts: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(parts)
}

fn moment(at: jiff::Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// UTCTime until 2049, as the standard wants it.
fn write_time(w: DERWriter<'_>, at: OffsetDateTime) {
    if (1950..2050).contains(&at.year()) {
        w.write_utctime(&UTCTime::from_datetime(at));
    } else {
        w.write_generalized_time(&GeneralizedTime::from_datetime(at));
    }
}

fn to_pem(der: &[u8]) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;

    #[test]
    fn what_is_signed_is_what_was_asked_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = jiff::Timestamp::from_second(1_800_000_000).expect("in range");
        let authority = Authority::open(dir.path(), ManualClock::new(now)).expect("a temp folder is writable");
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        params.subject_alt_names.push(rcgen::SanType::IpAddress(IpAddr::from([10, 0, 0, 1])));
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:a");
        let key = KeyPair::generate().expect("a key");
        let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let request = CertificateRequest::parse(request.as_bytes()).expect("what rcgen wrote");
        let usages = ["digital signature", "key encipherment", "server auth"].map(str::to_owned);
        let life = Life { start: now, end: authority.expires() };
        let pem = authority.sign(&request, &usages, life).expect("signs");

        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
        let cert = pem.parse_x509().expect("a certificate");
        let (_, ca) = x509_parser::pem::parse_x509_pem(authority.ca_pem().as_bytes()).expect("PEM");
        let ca = ca.parse_x509().expect("a certificate");
        cert.verify_signature(Some(ca.public_key())).expect("signed by the authority");
        assert_eq!(cert.subject().as_raw(), request.subject);
        assert_eq!(cert.public_key().raw, request.public_key);
        assert_eq!(cert.validity().not_after, ca.validity().not_after);
        let uses = cert.key_usage().expect("well formed").expect("present").value;
        assert!(uses.digital_signature() && uses.key_encipherment() && !uses.key_cert_sign());
        let purposes = cert.extended_key_usage().expect("well formed").expect("present").value;
        assert!(purposes.server_auth && !purposes.client_auth);
        let names = cert.subject_alternative_name().expect("well formed").expect("present");
        assert_eq!(names.value.general_names.len(), 2);
        let wrong = authority.sign(&request, &["any".to_owned()], life);
        assert_eq!(wrong.expect_err("no purpose of ours"), "unrecognized usage values: [\"any\"]");
    }
}
