//! A value: sealed code under a placeholder for its file name, with 16 bytes before it.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic number of the interpreter |
//! | 4 | 4 | zero |
//! | 8 | 8 | how long compiling took, microseconds, little-endian |
//! | 16 | | code |
//! | | 96 | seal: of the source, its label the first bytes of the key |

use std::time::Duration;

use super::Key;
use crate::base::seal::{self, Artifact, Digest, SEAL_LEN};
use crate::base::{Flaw, FlawKind, seam};

const HEADER: usize = 16;

/// A value that was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    bytes: Vec<u8>,
}

impl Value {
    pub(super) fn bytes(key: &Key, source: &Digest, magic: [u8; 4], took: Duration, code: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(HEADER + code.len() + SEAL_LEN);
        payload.extend_from_slice(&magic);
        payload.extend_from_slice(&[0; 4]);
        payload.extend_from_slice(&u64::try_from(took.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
        payload.extend_from_slice(code);
        seal::sealed(payload, *source, key.label(), false)
    }

    /// Proves a value: all its bytes, its key, and its source where that is known.
    pub(super) fn prove(bytes: Vec<u8>, key: &Key, source: Option<&Digest>) -> Result<Self, Flaw> {
        let corrupt = |code, text: &str| Flaw::new(FlawKind::Corrupt, code, text);
        let artifact = Artifact::split(&bytes)?;
        let Some(seal) = artifact.seal else { return Err(corrupt("no-seal", "it has no seal, which every value has")) };
        artifact.prove()?;
        if seal.label != key.label() && !seam::without("value-key") {
            return Err(corrupt("label", "it was sealed as the value of another key"));
        }
        if source.is_some_and(|source| seal.source != *source) && !seam::without("value-key") {
            return Err(corrupt("source", "it was made from another source"));
        }
        // An adopted seal says nothing of where the bytes come from.
        if seal.adopted {
            return Err(corrupt("adopted", "its seal was put on code of unknown origin"));
        }
        if artifact.payload.len() < HEADER {
            return Err(corrupt("short", "it is shorter than what stands before the code"));
        }
        Ok(Self { bytes })
    }

    /// The code, under the placeholder for its file name.
    pub fn code(&self) -> &[u8] {
        &self.bytes[HEADER..self.bytes.len() - SEAL_LEN]
    }

    /// The magic number of the interpreter that made it.
    pub fn magic(&self) -> [u8; 4] {
        [self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]]
    }

    /// How long compiling it took.
    pub fn took(&self) -> Duration {
        let mut micros = [0; 8];
        micros.copy_from_slice(&self.bytes[8..HEADER]);
        Duration::from_micros(u64::from_le_bytes(micros))
    }
}
