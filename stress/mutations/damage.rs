//! How artifacts are damaged: as disks, memories and careless writers do it.

use std::fmt;

use bytekeep::python::magic;

use crate::run::Random;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    Bit,
    Byte,
    Cut,
    Magic,
    ZeroSector,
    ZeroPage,
    ZeroTail,
    ZeroTailPage,
    SwappedPages,
    OtherPage,
}

impl Damage {
    pub(super) const ALL: [Self; 10] = [
        Self::Bit,
        Self::Byte,
        Self::Cut,
        Self::Magic,
        Self::ZeroSector,
        Self::ZeroPage,
        Self::ZeroTail,
        Self::ZeroTailPage,
        Self::SwappedPages,
        Self::OtherPage,
    ];

    /// As a case names it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Bit => "bit",
            Self::Byte => "byte",
            Self::Cut => "cut",
            Self::Magic => "magic",
            Self::ZeroSector => "zero-sector",
            Self::ZeroPage => "zero-page",
            Self::ZeroTail => "zero-tail",
            Self::ZeroTailPage => "zero-tail-page",
            Self::SwappedPages => "swapped-pages",
            Self::OtherPage => "other-page",
        }
    }

    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Bit => "one bit",
            Self::Byte => "one byte",
            Self::Cut => "cut",
            Self::Magic => "one byte of the magic number",
            Self::ZeroSector => "zeros in a sector of 512",
            Self::ZeroPage => "zeros in a page of 4096",
            Self::ZeroTail => "zeros from anywhere to the end",
            Self::ZeroTailPage => "zeros from a page to the end",
            Self::SwappedPages => "two pages in each other's place",
            Self::OtherPage => "a page of another artifact",
        }
    }
}

/// A damaged artifact.
#[derive(Debug)]
pub(super) struct Mutant {
    pub(super) damage: Damage,
    /// Which artifact it was.
    pub(super) artifact: usize,
    pub(super) at: usize,
    pub(super) bytes: Vec<u8>,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} of {} bytes", self.damage.says(), self.at, self.bytes.len())
    }
}

impl Mutant {
    /// One that differs from the artifact that it was; damage that changes nothing is none, and is made anew elsewhere.
    pub(super) fn make(damage: Damage, artifacts: &[Vec<u8>], header: usize, random: &mut Random) -> Self {
        loop {
            let artifact = random.below(artifacts.len());
            let sound = &artifacts[artifact];
            let mut bytes = sound.clone();
            let at = spoil(damage, &mut bytes, header, artifacts, random);
            if bytes != *sound {
                return Self { damage, artifact, at, bytes };
            }
        }
    }
}

/// Damages the body, behind the header but for what is meant for that; answers where.
fn spoil(damage: Damage, bytes: &mut Vec<u8>, header: usize, artifacts: &[Vec<u8>], random: &mut Random) -> usize {
    let len = bytes.len();
    let anywhere = header + random.below(len - header);
    // A page as a disk has it: the header's own is damaged from the body on.
    let block = |size: usize, at: usize| (at / size * size).max(header)..(at / size * size + size).min(len);
    match damage {
        Damage::Bit => bytes[anywhere] ^= 1 << random.below(8),
        Damage::Byte => bytes[anywhere] = u8::try_from(random.below(256)).unwrap_or(0),
        Damage::Cut => bytes.truncate(anywhere),
        Damage::Magic => {
            let at = random.below(4);
            let tag = |bytes: &[u8]| magic::row_of(magic::number(*bytes.first_chunk()?)?).map(|row| row.tag);
            let (was, byte) = (tag(bytes), bytes[at]);
            bytes[at] = u8::try_from(random.below(256)).unwrap_or(0);
            // Two releases of one tag have two numbers, and either is right.
            if tag(bytes) == was {
                bytes[at] = !byte;
            }
            return at;
        }
        Damage::ZeroSector => bytes[block(SECTOR, anywhere)].fill(0),
        Damage::ZeroPage => bytes[block(PAGE, anywhere)].fill(0),
        Damage::ZeroTail => bytes[anywhere..].fill(0),
        Damage::ZeroTailPage => {
            let at = block(PAGE, anywhere).start;
            bytes[at..].fill(0);
            return at;
        }
        Damage::SwappedPages => {
            // whole ones, and not the first: its header would tell
            let pages = len / PAGE;
            if pages > 2 {
                let (one, other) = (1 + random.below(pages - 1), 1 + random.below(pages - 1));
                for at in 0..PAGE {
                    bytes.swap(one * PAGE + at, other * PAGE + at);
                }
                return one.min(other) * PAGE;
            }
        }
        Damage::OtherPage => {
            let range = block(PAGE, anywhere);
            let other = &artifacts[random.below(artifacts.len())];
            let from = other.get(range.clone()).unwrap_or_default();
            let start = range.start;
            bytes[start..start + from.len()].copy_from_slice(from);
            return start;
        }
    }
    anywhere
}
