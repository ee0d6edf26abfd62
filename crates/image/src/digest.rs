//! Content addresses.
//!
//! Always holds: a [`Digest`] is `sha256:` and 64 lower-case hex digits, so it is safe as a file name.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The SHA-256 of some content, as `sha256:…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Text that is no digest we can verify.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DigestError {
    /// Another algorithm: it cannot be checked, so it is refused.
    #[error("digest {0:?} uses an unsupported algorithm: only sha256 is supported")]
    Unsupported(String),
    /// Not a digest.
    #[error("invalid digest {0:?}: expected sha256: and 64 lower-case hex digits")]
    Malformed(String),
}

impl Digest {
    /// Of `content`.
    pub fn of(content: &[u8]) -> Self {
        Digest(sha2::Sha256::digest(content).into())
    }

    /// The 64 digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.to_owned());
        let (algorithm, digits) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            let known = matches!(algorithm, "sha384" | "sha512" | "blake3");
            return Err(if known { DigestError::Unsupported(text.to_owned()) } else { malformed() });
        }
        let mut bytes = [0; 32];
        let lower = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !lower || hex::decode_to_slice(digits, &mut bytes).is_err() {
            return Err(malformed());
        }
        Ok(Digest(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}
