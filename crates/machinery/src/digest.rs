//! SHA-256 as upstream shows it: in names and labels.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// In hexadecimal digits.
pub fn sha256_hex(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
        hex
    })
}
