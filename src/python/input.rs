//! The bytes of a body, read from front to back: no number in them is believed beyond the bytes that are left.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::marshal::{Fault, Step};

/// The bytes, and how far they are read.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Input<'a> {
    #[inline]
    pub(super) fn byte(&mut self) -> Step<u8> {
        let Some(&byte) = self.bytes.get(self.at) else { return Err(Fault::cut(self.bytes.len())) };
        self.at = self.at.saturating_add(1);
        Ok(byte)
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..len)) {
            Some(data) => {
                self.at = self.at.saturating_add(len);
                Ok(data)
            }
            None => Err(Fault::cut(self.bytes.len())),
        }
    }

    #[inline]
    pub(super) fn int(&mut self) -> Step<i32> {
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => {
                self.at = self.at.saturating_add(4);
                Ok(i32::from_le_bytes(*bytes))
            }
            None => Err(Fault::cut(self.bytes.len())),
        }
    }

    /// A number that is never negative.
    #[inline]
    pub(super) fn natural(&mut self, code: &'static str, text: &'static str) -> Step<u32> {
        let at = self.at;
        u32::try_from(self.int()?).map_err(|_| Fault::corrupt(code, text, at))
    }

    #[inline]
    pub(super) fn size(&mut self) -> Step<usize> {
        self.natural("size", "a size in it is negative").map(|size| size as usize)
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }
}
