//! Whether a certificate and a private key belong together, as Go's `tls.X509KeyPair` tells it: Secrets of type
//! `kubernetes.io/tls` are warned of that hold no pair.
//!
//! Differs: what a certificate has wrong is not told apart; a key on an elliptic curve that does not say its public half (those of
//! OpenSSL, Go and cert-manager do) belongs to every certificate of such keys.

use pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use pkcs8::der::{Decode, asn1::OctetStringRef};
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use ring::signature::{Ed25519KeyPair, KeyPair};
use sec1::EcPrivateKey;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What is wrong with the pair, in Go's words. Both are PEM.
pub fn check(certificates: &[u8], key: &[u8]) -> Result<(), String> {
    let leaf = leaf(certificates)?;
    let key = key_block(key)?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| "x509: malformed certificate".to_owned())?;
    let key = private_key(&key).ok_or("tls: failed to parse private key")?;
    let info = parsed.public_key();
    let shown: &[u8] = &info.subject_public_key.data;
    let algorithm = ObjectIdentifier::from_bytes(info.algorithm.algorithm.as_bytes());
    let same = match (algorithm, &key) {
        (Ok(RSA), Half::Rsa { modulus }) => {
            RsaPublicKeyRef::from_der(shown).ok().map(|public| public.modulus.as_bytes() == *modulus)
        }
        (Ok(EC), Half::Ec { point }) => point.map(|point| point == shown),
        (Ok(ED25519), Half::Ed25519 { public }) => Some(public == shown),
        (Ok(RSA | EC | ED25519), _) => return Err("tls: private key type does not match public key type".into()),
        _ => return Err("tls: unknown public key algorithm".into()),
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
    rsa(der).or_else(|| wrapped(der)).or_else(|| ec(der))
}

fn rsa(der: &[u8]) -> Option<Half<'_>> {
    let key = RsaPrivateKeyRef::from_der(der).ok()?;
    Some(Half::Rsa { modulus: key.modulus.as_bytes() })
}

fn wrapped(der: &[u8]) -> Option<Half<'_>> {
    let PrivateKeyInfoRef { algorithm, private_key, .. } = PrivateKeyInfoRef::from_der(der).ok()?;
    match algorithm.oid {
        RSA => rsa(private_key.as_bytes()),
        EC => ec(private_key.as_bytes()),
        ED25519 => {
            let seed: &OctetStringRef = private_key.decode_into().ok()?;
            let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).ok()?;
            Some(Half::Ed25519 { public: pair.public_key().as_ref().to_vec() })
        }
        _ => None,
    }
}

fn ec(der: &[u8]) -> Option<Half<'_>> {
    EcPrivateKey::from_der(der).ok().map(|key| Half::Ec { point: key.public_key })
}

#[cfg(test)]
mod tests {
    use super::check;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    /// A short RSA key, of nobody, as two kinds of PEM have it, and its certificate.
    const RSA_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBbzCCARmgAwIBAgIURUwBkr9V5CaTFRQ+3cR//QIVZiQwDQYJKoZIhvcNAQEL
BQAwDDEKMAgGA1UEAwwBYTAeFw0yNjExMjgxOTMwNTlaFw0zNjExMjUxOTMwNTla
MAwxCjAIBgNVBAMMAWEwXDANBgkqhkiG9w0BAQEFAANLADBIAkEAzNLVqVuBbJFg
hyPThY7kciqyoD+FVDXMKhaLRvcG/VpY4Cuy1xUFmlcvRGtRPKnskP0oJ8dj7T0Q
4T0008suswIDAQABo1MwUTAdBgNVHQ4EFgQUtTIePxTAxWiCqeeQGrIOuTK8Ubow
HwYDVR0jBBgwFoAUtTIePxTAxWiCqeeQGrIOuTK8UbowDwYDVR0TAQH/BAUwAwEB
/zANBgkqhkiG9w0BAQsFAANBAEEVVOSolDPqnDXB/jBXpJvLEp4yXSia1dteXbuG
0ihQRi9d3a+dpv9mW4wTbDOzRSixGS4W3UxM36rrpL+YYcM=
-----END CERTIFICATE-----
";
    const RSA_KEYS: [&str; 2] = [
        "-----BEGIN RSA PRIVATE KEY-----
MIIBOgIBAAJBAMzS1albgWyRYIcj04WO5HIqsqA/hVQ1zCoWi0b3Bv1aWOArstcV
BZpXL0RrUTyp7JD9KCfHY+09EOE9NNPLLrMCAwEAAQJAQsW029o17iPSmRvH2DGG
LeXXh8BNge9r2Iiy7PaZM7xLKn3XPJNZXcEwsK5HgZ4pKHbDEowxtyE6lqtnAu8I
+QIhAP+cX4xNDd353mTiGPTbLS6Bm7zJfemBmH+RrtR81tDlAiEAzSKqo7lvPrcf
oCX3uaO9rT3WJ9tXmiIuOQDJAlXNv7cCIAd9DU+O8lkOePV7qj+CLFCwe1+Mh6PP
qCgUnIqdHa4BAiEAouXzkd5wq+Hp2FguN5oCxu8DAFWbZEfeYt/vv835fFMCIGyZ
Kcw7Sh9AmOnTfRvAF+YPr9ziAsXaO7gzsZX8ymbA
-----END RSA PRIVATE KEY-----
",
        "-----BEGIN PRIVATE KEY-----
MIIBVAIBADANBgkqhkiG9w0BAQEFAASCAT4wggE6AgEAAkEAzNLVqVuBbJFghyPT
hY7kciqyoD+FVDXMKhaLRvcG/VpY4Cuy1xUFmlcvRGtRPKnskP0oJ8dj7T0Q4T00
08suswIDAQABAkBCxbTb2jXuI9KZG8fYMYYt5deHwE2B72vYiLLs9pkzvEsqfdc8
k1ldwTCwrkeBnikodsMSjDG3ITqWq2cC7wj5AiEA/5xfjE0N3fneZOIY9NstLoGb
vMl96YGYf5Gu1HzW0OUCIQDNIqqjuW8+tx+gJfe5o72tPdYn21eaIi45AMkCVc2/
twIgB30NT47yWQ549XuqP4IsULB7X4yHo8+oKBScip0drgECIQCi5fOR3nCr4enY
WC43mgLG7wMAVZtkR95i3++/zfl8UwIgbJkpzDtKH0CY6dN9G8AX5g+v3OICxdo7
uDOxlfzKZsA=
-----END PRIVATE KEY-----
",
    ];

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
        for rsa in RSA_KEYS {
            assert_eq!(try_out(RSA_CERTIFICATE, rsa), Ok(()));
            assert!(try_out(&certificate, rsa).is_err_and(|why| why.contains("type does not match")));
        }
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        assert_eq!(try_out(&certificate, &format!("{parameters}{key}")), Ok(()));
        let wrong = |certificate: &str, key: &str, why: &str| {
            assert_eq!(try_out(certificate, key), Err(format!("tls: {why}")));
        };
        wrong(&certificate, &pair(&PKCS_ECDSA_P256_SHA256).1, "private key does not match public key");
        wrong(&edwards, &pair(&PKCS_ED25519).1, "private key does not match public key");
        let other = RSA_KEYS[0].replace("S1albg", "S1albh");
        wrong(RSA_CERTIFICATE, &other, "private key does not match public key");
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
