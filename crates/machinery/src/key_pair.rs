//! Whether a certificate and a private key belong together, as Go's `tls.X509KeyPair` tells it: Secrets of type
//! `kubernetes.io/tls` are warned of that hold no pair.
//!
//! Differs: what a certificate has wrong is not told apart; a key on an elliptic curve that does not say its public half (those of
//! OpenSSL, Go and cert-manager do) belongs to every certificate of such keys.

use ring::signature::{Ed25519KeyPair, KeyPair};
use x509_parser::asn1_rs::{Any, FromDer, Oid, Tag, oid};
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const EC: Oid<'static> = oid!(1.2.840.10045.2.1);
const ED25519: Oid<'static> = oid!(1.3.101.112);

/// What is wrong with the pair, in Go's words. Both are PEM.
pub fn check(certificates: &[u8], key: &[u8]) -> Result<(), String> {
    let leaf = leaf(certificates)?;
    let key = key_block(key)?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| "x509: malformed certificate".to_owned())?;
    let key = private_key(&key).ok_or("tls: failed to parse private key")?;
    let info = parsed.public_key();
    let shown: &[u8] = &info.subject_public_key.data;
    let algorithm = &info.algorithm.algorithm;
    let same = match &key {
        _ if ![RSA, EC, ED25519].contains(algorithm) => return Err("tls: unknown public key algorithm".into()),
        Half::Rsa { modulus } if *algorithm == RSA => parts(shown).and_then(|p| Some(p.first()?.data == *modulus)),
        Half::Ec { point } if *algorithm == EC => point.map(|point| point == shown),
        Half::Ed25519 { public } if *algorithm == ED25519 => Some(public == shown),
        _ => return Err("tls: private key type does not match public key type".into()),
    };
    if same == Some(false) { Err("tls: private key does not match public key".into()) } else { Ok(()) }
}

fn blocks(pem: &[u8]) -> impl Iterator<Item = Pem> {
    Pem::iter_from_buffer(pem).filter_map(Result::ok)
}

/// The first certificate, DER.
fn leaf(pem: &[u8]) -> Result<Vec<u8>, String> {
    let mut skipped = Vec::new();
    for block in blocks(pem) {
        if block.label == "CERTIFICATE" {
            return Ok(block.contents);
        }
        skipped.push(block.label);
    }
    Err(match skipped.as_slice() {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.ends_with("PRIVATE KEY") => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
        all => format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]", all.join(" ")),
    })
}

/// The first private key, DER.
fn key_block(pem: &[u8]) -> Result<Vec<u8>, String> {
    let mut skipped = Vec::new();
    for block in blocks(pem) {
        if block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY") {
            return Ok(block.contents);
        }
        skipped.push(block.label);
    }
    Err(match skipped.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        all => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            all.join(" ")
        ),
    })
}

/// What of a private key is public.
enum Half<'a> {
    Rsa { modulus: &'a [u8] },
    Ec { point: Option<&'a [u8]> },
    Ed25519 { public: Vec<u8> },
}

/// Of a key in PKCS #1, PKCS #8 or SEC 1 (`parsePrivateKey`).
fn private_key(der: &[u8]) -> Option<Half<'_>> {
    let all = parts(der)?;
    rsa(&all).or_else(|| wrapped(&all)).or_else(|| ec(&all))
}

fn rsa<'a>(all: &[Any<'a>]) -> Option<Half<'a>> {
    let is_key = all.len() >= 9 && all[..9].iter().all(|part| part.tag() == Tag::Integer);
    is_key.then(|| Half::Rsa { modulus: all[1].data })
}

fn wrapped<'a>(all: &[Any<'a>]) -> Option<Half<'a>> {
    let [version, algorithm, key, ..] = all else { return None };
    if (version.tag(), algorithm.tag(), key.tag()) != (Tag::Integer, Tag::Sequence, Tag::OctetString) {
        return None;
    }
    let (_, algorithm) = Oid::from_der(algorithm.data).ok()?;
    if algorithm == RSA {
        rsa(&parts(key.data)?)
    } else if algorithm == EC {
        ec(&parts(key.data)?)
    } else if algorithm == ED25519 {
        let (_, seed) = Any::from_der(key.data).ok()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.data).ok()?;
        Some(Half::Ed25519 { public: pair.public_key().as_ref().to_vec() })
    } else {
        None
    }
}

fn ec<'a>(all: &[Any<'a>]) -> Option<Half<'a>> {
    let [version, scalar, rest @ ..] = all else { return None };
    if (version.tag(), scalar.tag()) != (Tag::Integer, Tag::OctetString) {
        return None;
    }
    // `[1] BIT STRING`, whose first byte counts unused bits.
    let public = rest.iter().find(|part| part.tag() == Tag(1)).and_then(|part| Any::from_der(part.data).ok());
    Some(Half::Ec { point: public.and_then(|(_, bits)| bits.data.get(1..)) })
}

/// What a sequence is made of.
fn parts(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (_, sequence) = Any::from_der(der).ok()?;
    if sequence.tag() != Tag::Sequence {
        return None;
    }
    let mut all = Vec::new();
    let mut rest = sequence.data;
    while !rest.is_empty() {
        let (after, part) = Any::from_der(rest).ok()?;
        all.push(part);
        rest = after;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::check;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    /// A certificate and its key.
    fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_a_certificate_and_its_own_key() {
        let try_out = |certificate: &str, key: &str| check(certificate.as_bytes(), key.as_bytes());
        let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256);
        let (edwards, edwards_key) = pair(&PKCS_ED25519);
        assert_eq!(try_out(&certificate, &key), Ok(()));
        assert_eq!(try_out(&edwards, &edwards_key), Ok(()));
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        assert_eq!(try_out(&certificate, &format!("{parameters}{key}")), Ok(()));
        let wrong = |certificate: &str, key: &str, why: &str| {
            assert_eq!(try_out(certificate, key), Err(format!("tls: {why}")));
        };
        wrong(&certificate, &pair(&PKCS_ECDSA_P256_SHA256).1, "private key does not match public key");
        wrong(&edwards, &pair(&PKCS_ED25519).1, "private key does not match public key");
        wrong(&certificate, &edwards_key, "private key type does not match public key type");
        wrong("", &key, "failed to find any PEM data in certificate input");
        wrong(&certificate, "key", "failed to find any PEM data in key input");
        wrong(
            &key,
            &certificate,
            "failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched",
        );
        wrong(&certificate, &certificate, "found a certificate rather than a key in the PEM for the private key");
        let empty = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        wrong(&certificate, empty, "failed to parse private key");
    }
}
