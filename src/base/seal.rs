//! The seal: 96 bytes behind a payload that prove it. Pure: bytes in, bytes out. The format is drawn in `man/bytekeep-seal.5`.
//!
//! Invariants:
//! - **S1** A payload with its seal, cut at any byte, is never taken for a sealed artifact. (Cut by exactly 96 bytes it is the payload
//!   without a seal: sound, and *unsealed*.)
//! - **S2** Any changed byte, in the payload or in the seal, is found by [`Artifact::prove`].
//! - **S3** A newer version or an unknown flag is told as such and never as damage.

use super::{Flaw, FlawKind, seam};

/// A BLAKE3 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// As 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

/// Length of a seal in bytes.
pub const SEAL_LEN: usize = 96;
/// The last eight bytes of every sealed artifact.
pub const MAGIC: [u8; 8] = *b"\x8BBKSEAL\n";
/// The version that this program writes.
pub const VERSION: u16 = 1;

const FLAG_KEYED: u16 = 1;
const FLAG_ADOPTED: u16 = 1 << 1;

/// What a seal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// Digest of the source that was compiled.
    pub source: Digest,
    /// Digest of the payload and of every other byte of the seal.
    pub proof: Digest,
    /// Sealed where it stood, not compiled by us: proves the bytes since then, not their origin.
    pub adopted: bool,
    /// Id of the key of a keyed seal. No keyed seal belongs into a tree.
    pub key: Option<u32>,
    /// What the artifact is: see [`crate::model::Format::label`].
    pub label: [u8; 8],
}

impl Seal {
    /// The seal of a payload.
    pub fn over(payload: &[u8], source: Digest, label: [u8; 8], adopted: bool) -> Self {
        let mut seal = Self { payload_len: payload.len() as u64, source, proof: Digest([0; 32]), adopted, key: None, label };
        seal.proof = seal.digest(payload);
        seal
    }

    fn flags(&self) -> u16 {
        (if self.key.is_some() { FLAG_KEYED } else { 0 }) | (if self.adopted { FLAG_ADOPTED } else { 0 })
    }

    /// The digest that [`Seal::proof`] should be, for this payload.
    fn digest(&self, payload: &[u8]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(payload);
        self.finish(hasher)
    }

    fn finish(&self, mut payload: blake3::Hasher) -> Digest {
        let bytes = self.to_bytes();
        payload.update(&bytes[..40]);
        payload.update(&bytes[72..]);
        Digest(*payload.finalize().as_bytes())
    }

    /// Begins to prove a payload that comes in pieces.
    pub fn proving(&self) -> Proving<'_> {
        Proving { seal: self, payload: blake3::Hasher::new() }
    }

    /// The 96 bytes.
    pub fn to_bytes(&self) -> [u8; SEAL_LEN] {
        let mut bytes = [0; SEAL_LEN];
        bytes[0..8].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.source.0);
        bytes[40..72].copy_from_slice(&self.proof.0);
        bytes[72..74].copy_from_slice(&VERSION.to_le_bytes());
        bytes[74..76].copy_from_slice(&self.flags().to_le_bytes());
        bytes[76..80].copy_from_slice(&self.key.unwrap_or(0).to_le_bytes());
        bytes[80..88].copy_from_slice(&self.label);
        bytes[88..96].copy_from_slice(&MAGIC);
        bytes
    }

    /// Reads the last bytes of an artifact of `file_len` bytes. `Ok(None)`: there is no seal. Nothing is hashed: this is the quick look.
    pub fn parse(tail: &[u8], file_len: u64) -> Result<Option<Self>, Flaw> {
        let Some(bytes) = tail.last_chunk::<SEAL_LEN>() else { return Ok(None) };
        if bytes[88..96] != MAGIC {
            return Ok(None);
        }
        let version = u16::from_le_bytes(part(bytes, 72));
        if version == 0 {
            return Err(Flaw::new(FlawKind::Corrupt, "version", "its seal has version 0, which there never was"));
        }
        if version != VERSION {
            let text = format!("it has a seal of version {version}; this program reads version {VERSION}");
            return Err(Flaw::new(FlawKind::Unknown, "newer-seal", text));
        }
        let flags = u16::from_le_bytes(part(bytes, 74));
        if flags & !(FLAG_KEYED | FLAG_ADOPTED) != 0 {
            return Err(Flaw::new(
                FlawKind::Unknown,
                "newer-seal",
                format!("its seal has flags that this program does not know ({flags:#06x})"),
            ));
        }
        let key = u32::from_le_bytes(part(bytes, 76));
        if flags & FLAG_KEYED == 0 && key != 0 {
            return Err(Flaw::new(FlawKind::Corrupt, "key", "its seal names a key and is not keyed"));
        }
        let seal = Self {
            payload_len: u64::from_le_bytes(part(bytes, 0)),
            source: Digest(part(bytes, 8)),
            proof: Digest(part(bytes, 40)),
            adopted: flags & FLAG_ADOPTED != 0,
            key: (flags & FLAG_KEYED != 0).then_some(key),
            label: part(bytes, 80),
        };
        let here = file_len.saturating_sub(SEAL_LEN as u64);
        if seal.payload_len > here {
            let text = format!("its seal says {} bytes of payload, and there are {here}", seal.payload_len);
            return Err(Flaw::new(FlawKind::Truncated, "length", text));
        }
        if seal.payload_len < here {
            let text = format!("its seal says {} bytes of payload, and there are {here}", seal.payload_len);
            return Err(Flaw::new(FlawKind::Corrupt, "length", text));
        }
        Ok(Some(seal))
    }
}

#[allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "all callers name constant ranges within the 96 bytes")]
fn part<const N: usize>(bytes: &[u8; SEAL_LEN], from: usize) -> [u8; N] {
    bytes[from..from + N].try_into().unwrap()
}

/// A proof under way: the payload need not be held as a whole.
pub struct Proving<'s> {
    seal: &'s Seal,
    payload: blake3::Hasher,
}

impl Proving<'_> {
    /// Takes the next bytes of the payload.
    pub fn feed(&mut self, piece: &[u8]) {
        self.payload.update(piece);
    }

    /// Compares, after the last one.
    pub fn end(self) -> Result<(), Flaw> {
        if self.seal.key.is_some() {
            return Err(Flaw::new(
                FlawKind::Corrupt,
                "keyed-seal",
                "it carries a keyed seal, which belongs into a remote store and proves nothing here",
            ));
        }
        if self.seal.finish(self.payload) == self.seal.proof || seam::without("proof") {
            Ok(())
        } else {
            Err(Flaw::new(FlawKind::Corrupt, "digest", "its bytes are not those that were sealed"))
        }
    }
}

/// An artifact's bytes, split.
#[derive(Debug, Clone, Copy)]
pub struct Artifact<'a> {
    /// The bytes without the seal.
    pub payload: &'a [u8],
    /// The seal, where there is one.
    pub seal: Option<Seal>,
}

impl<'a> Artifact<'a> {
    /// Splits an artifact. Nothing is hashed yet.
    pub fn split(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let seal = Seal::parse(bytes, bytes.len() as u64)?;
        let payload = if seal.is_some() { &bytes[..bytes.len() - SEAL_LEN] } else { bytes };
        Ok(Self { payload, seal })
    }

    /// Hashes everything and compares. An artifact without a seal proves nothing and is no error here.
    pub fn prove(&self) -> Result<(), Flaw> {
        let Some(seal) = &self.seal else { return Ok(()) };
        let mut proving = seal.proving();
        proving.feed(self.payload);
        proving.end()
    }
}

/// A whole artifact: the payload with its seal behind it.
pub fn sealed(mut payload: Vec<u8>, source: Digest, label: [u8; 8], adopted: bool) -> Vec<u8> {
    let seal = Seal::over(&payload, source, label, adopted);
    payload.extend_from_slice(&seal.to_bytes());
    payload
}

/// The length of the payload that the seal at the end of these bytes says, whether or not that is so: for whoever tells damage. `None`:
/// they do not end with a seal of this version.
pub fn claimed_payload(bytes: &[u8]) -> Option<u64> {
    let seal = bytes.last_chunk::<SEAL_LEN>()?;
    let is_one = seal[88..96] == MAGIC && u16::from_le_bytes(part(seal, 72)) == VERSION;
    is_one.then(|| u64::from_le_bytes(part(seal, 0)))
}

/// How many bytes at the end of an unsealed artifact look like a piece of a seal, for whoever says what is behind a payload.
///
/// A walk over the payload finds its end; what follows is either a whole seal (then this is not asked), a cut one, or garbage.
pub fn is_cut_seal(rest: &[u8], payload_len: u64) -> bool {
    !rest.is_empty() && rest.len() < SEAL_LEN && {
        let len = payload_len.to_le_bytes();
        let seen = rest.len().min(8);
        rest[..seen] == len[..seen]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL: [u8; 8] = *b"labelled";

    #[test]
    fn no_cut_is_taken_for_sealed() {
        let whole = sealed(b"the payload of it".to_vec(), Digest::of(b"src"), LABEL, false);
        for cut in 0..whole.len() {
            let split = Artifact::split(&whole[..cut]);
            assert!(matches!(split, Ok(Artifact { seal: None, .. })), "cut at {cut}");
        }
        assert!(Artifact::split(&whole).unwrap().prove().is_ok());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let whole = sealed(b"payload".to_vec(), Digest::of(b"src"), LABEL, true);
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = match Artifact::split(&bad) {
                Err(_) | Ok(Artifact { seal: None, .. }) => true,
                Ok(artifact) => artifact.prove().is_err(),
            };
            assert!(found, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_seal_is_not_damage() {
        let mut newer = sealed(b"payload".to_vec(), Digest::of(b"src"), LABEL, false);
        let at = newer.len() - SEAL_LEN + 72;
        newer[at] = 2;
        assert_eq!(Artifact::split(&newer).unwrap_err().kind, FlawKind::Unknown);
        newer[at] = 1;
        newer[at + 3] = 0x80;
        assert_eq!(Artifact::split(&newer).unwrap_err().kind, FlawKind::Unknown);
    }

    #[test]
    fn a_length_that_is_off_is_cut_or_corrupt() {
        let whole = sealed(b"0123456789".to_vec(), Digest::of(b"src"), LABEL, false);
        let shorter = [&whole[..4], &whole[10..]].concat();
        assert_eq!(Artifact::split(&shorter).unwrap_err().kind, FlawKind::Truncated);
        let longer = [&whole[..10], b"xx", &whole[10..]].concat();
        assert_eq!(Artifact::split(&longer).unwrap_err().kind, FlawKind::Corrupt);
    }

    proptest! {
        #[test]
        fn any_bytes_split_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(artifact) = Artifact::split(&bytes) {
                drop(artifact.prove());
            }
        }

        #[test]
        fn what_is_sealed_proves(payload in proptest::collection::vec(any::<u8>(), 0..300), adopted: bool) {
            let whole = sealed(payload.clone(), Digest::of(&payload), LABEL, adopted);
            let artifact = Artifact::split(&whole).unwrap();
            prop_assert_eq!(artifact.payload, &payload[..]);
            prop_assert!(artifact.prove().is_ok());
            prop_assert_eq!(artifact.seal.unwrap().adopted, adopted);
        }
    }
}
