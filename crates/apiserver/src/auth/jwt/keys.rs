//! The keys of an issuer, and whether one of them signed a token (RFC 7515, 7517, 7518; `go-oidc`'s `jwks.go` and `verify.go`).
//! Pure.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use p521::ecdsa::signature::Verifier;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What issuers may sign with.
pub(crate) const ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];
/// More keys of one issuer are not kept.
const MAX_KEYS: usize = 256;
/// Clocks may differ by this much (`verify.go`, `leeway` of nbf).
const LEEWAY_SECONDS: i64 = 300;

/// A token taken apart; nothing of it is proven.
pub(super) struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: String,
    key_id: String,
    pub(super) claims: Map<String, Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl<'a> Token<'a> {
    /// `None` if this is no signed token at all.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| B64.decode(part).ok();
        let Header { alg, kid } = serde_json::from_slice(&json(header)?).ok()?;
        let claims = serde_json::from_slice(&json(claims)?).ok()?;
        Some(Token { signed, signature: B64.decode(signature).ok()?, algorithm: alg, key_id: kid, claims })
    }

    /// Who says to have signed it.
    pub(super) fn issuer(&self) -> &str {
        match self.claims.get("iss").and_then(Value::as_str).unwrap_or_default() {
            // Google's older name for itself.
            "accounts.google.com" => "https://accounts.google.com",
            issuer => issuer,
        }
    }

    /// Whom it is for.
    pub(super) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// What can be said without keys.
    pub(super) fn check(&self, audiences: &[String], algorithms: &[String], now: i64) -> Result<(), String> {
        let own = self.audiences();
        if !audiences.iter().any(|a| own.contains(&a.as_str())) {
            return Err(format!("oidc: expected audience in {audiences:?} got {own:?}"));
        }
        let seconds = |claim: &str| self.claims.get(claim).and_then(Value::as_f64).map(|s| s as i64);
        let expires = seconds("exp").unwrap_or(0);
        if now > expires {
            return Err(format!("oidc: token is expired (Token Expiry: {expires})"));
        }
        if let Some(from) = seconds("nbf").filter(|from| now + LEEWAY_SECONDS < *from) {
            return Err(format!("oidc: current time {now} before the nbf (not before) time: {from}"));
        }
        if !algorithms.contains(&self.algorithm) {
            let known = algorithms;
            return Err(format!(
                "oidc: id token signed with unsupported algorithm, expected {known:?} got {:?}",
                self.algorithm
            ));
        }
        Ok(())
    }
}

/// The published keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: String,
    /// Empty: any that fits the kind of key.
    algorithm: String,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point, on the curve of so many bits.
    Ec {
        bits: u32,
        point: Vec<u8>,
    },
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    alg: String,
    #[serde(rename = "use", default)]
    usage: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Keys {
    /// Of a JWK set. Keys of unknown kinds are skipped.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(body).map_err(|e| format!("oidc: failed to decode keys: {e}"))?;
        let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        Ok(Keys(known.filter(|k| k.usage != "enc").filter_map(Key::of).take(MAX_KEYS).collect()))
    }

    /// Whether one of them signed it.
    pub(super) fn verify(&self, token: &Token<'_>) -> bool {
        let fits = |key: &&Key| token.key_id.is_empty() || key.id.is_empty() || key.id == token.key_id;
        self.0.iter().filter(fits).any(|key| key.verifies(token))
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        let bytes = |text: &str| B64.decode(text.trim_end_matches('=')).ok();
        let material = match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => Material::Rsa { n: bytes(&jwk.n)?, e: bytes(&jwk.e)? },
            ("EC", "P-256") => Material::Ec { bits: 256, point: point(&bytes(&jwk.x)?, &bytes(&jwk.y)?, 32)? },
            ("EC", "P-384") => Material::Ec { bits: 384, point: point(&bytes(&jwk.x)?, &bytes(&jwk.y)?, 48)? },
            ("EC", "P-521") => Material::Ec { bits: 521, point: point(&bytes(&jwk.x)?, &bytes(&jwk.y)?, 66)? },
            _ => return None,
        };
        Some(Key { id: jwk.kid, algorithm: jwk.alg, material })
    }

    fn verifies(&self, token: &Token<'_>) -> bool {
        if !self.algorithm.is_empty() && self.algorithm != token.algorithm {
            return false;
        }
        let message = token.signed.as_bytes();
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters = match token.algorithm.as_str() {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, &token.signature).is_ok()
            }
            Material::Ec { bits, point } => {
                let algorithm = match (token.algorithm.as_str(), bits) {
                    ("ES512", 521) => return verifies_p521(point, message, &token.signature),
                    ("ES256", 256) => &signature::ECDSA_P256_SHA256_FIXED,
                    ("ES384", 384) => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, &token.signature).is_ok()
            }
        }
    }
}

/// `ring` has no P-521.
fn verifies_p521(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
    let signature = p521::ecdsa::Signature::from_slice(signature);
    matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
}

/// `0x04`, x and y in `size` bytes each.
fn point(x: &[u8], y: &[u8], size: usize) -> Option<Vec<u8>> {
    let padded = |part: &[u8]| {
        let missing = size.checked_sub(part.len())?;
        Some([vec![0; missing].as_slice(), part].concat())
    };
    Some([vec![4], padded(x)?, padded(y)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p521::ecdsa::signature::Signer;
    use p521::ecdsa::{Signature, SigningKey};
    use serde_json::json;

    #[test]
    fn es512_is_checked_on_its_curve() {
        let key = SigningKey::from_slice(&[[0].as_slice(), &[7; 65]].concat()).expect("a number below the order");
        let point = key.verifying_key().to_sec1_point(false);
        let bytes = point.as_bytes();
        let set = json!({"keys": [{
            "kty": "EC", "crv": "P-521", "kid": "k", "x": B64.encode(&bytes[1..67]), "y": B64.encode(&bytes[67..]),
        }]});
        let keys = Keys::parse(set.to_string().as_bytes()).expect("a set");
        let check = |algorithm: &str, altered: bool| {
            let header = B64.encode(json!({"alg": algorithm, "kid": "k"}).to_string());
            let signed = format!("{header}.{}", B64.encode("{}"));
            let signature: Signature = key.sign(signed.as_bytes());
            let mut signature = signature.to_bytes().to_vec();
            signature[100] ^= u8::from(altered);
            let text = format!("{signed}.{}", B64.encode(signature));
            keys.verify(&Token::parse(&text).expect("a token"))
        };
        assert!(check("ES512", false));
        assert!(!check("ES512", true), "another signature");
        assert!(!check("ES384", false), "another curve");
    }
}
