//! Code for any file name: compiled under a placeholder, and given its name later, without looking at anything else in it.
//!
//! Twin of [`super::rewrite::rename`], which takes any code and must read all of it. Here the one name to replace is known, and is nowhere
//! else: it holds a digest of the source, so no source can spell it, in whatever way it puts its strings together.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::code_object::Dialect;
use super::rewrite::{as_text, encode_name};
use crate::base::seal::Digest;

/// The file name that code is compiled under for whoever comes: short, ASCII, and of a form that no interpreter takes for an identifier.
pub(super) fn placeholder(source: &Digest) -> String {
    let hex = source.hex();
    format!("<bytekeep {}>", hex.get(..32).unwrap_or(&hex))
}

/// `code`, compiled under [`placeholder`], as a compile under `filename` gives it, byte for byte (with the limits that
/// [`rename`](super::rewrite::rename) has). `None`: the placeholder is not there, or not in a form that a dump has for it.
pub(super) fn named(dialect: Dialect, code: &[u8], source: &Digest, filename: &[u8]) -> Option<Vec<u8>> {
    let placeholder = placeholder(source);
    let name = if dialect.two { filename.to_vec() } else { as_text(filename) };
    let mut result = Vec::with_capacity(code.len().saturating_add(name.len()).saturating_add(8));
    let mut done = 0;
    for at in memchr::memmem::find_iter(code, placeholder.as_bytes()) {
        let start = start_of(code, at, placeholder.len())?;
        result.extend_from_slice(code.get(done..start)?);
        let &byte = code.get(start)?;
        encode_name(byte, &name, dialect, &mut result);
        done = at.checked_add(placeholder.len())?;
    }
    result.extend_from_slice(code.get(done..)?);
    (done > 0).then_some(result)
}

/// Where the object begins whose text of `len` bytes begins at `at`: a type, and the length in one byte or in four.
fn start_of(code: &[u8], at: usize, len: usize) -> Option<usize> {
    let short = at.checked_sub(2)?;
    if let [kind, length] = *code.get(short..at)?
        && matches!(kind & 0x7F, b'z' | b'Z')
        && usize::from(length) == len
    {
        return Some(short);
    }
    let long = at.checked_sub(5)?;
    let (kind, length) = code.get(long..at)?.split_first()?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    (matches!(kind & 0x7F, b's' | b't' | b'u' | b'a' | b'A') && length as usize == len).then_some(long)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::python::magic;
    use proptest::prelude::*;

    fn dialect(number: u16) -> Dialect {
        Dialect::of(magic::bytes(number)).unwrap()
    }

    #[test]
    fn each_form_is_replaced_and_nothing_else() {
        let source = Digest::of(b"x = 1\n");
        let marker = placeholder(&source);
        let old = |form: &[u8]| [b"before", form, marker.as_bytes(), b"between", form, marker.as_bytes(), b"behind"].concat();
        let new = |form: &[u8]| [b"before", form, b"between", form, b"behind"].concat();
        let (short, long) = (u8::try_from(marker.len()).unwrap(), u32::try_from(marker.len()).unwrap().to_le_bytes());
        let three = dialect(3571);
        for (form, to, wanted) in [
            (&[0xFA, short][..], "a.py", &b"\xfa\x04a.py"[..]),
            (&[b'Z', short], "a.py", b"Z\x04a.py"),
            (&[0xDA, short], "\u{e9}", b"\xf4\x02\0\0\0\xc3\xa9"),
        ] {
            assert_eq!(named(three, &old(form), &source, to.as_bytes()).unwrap(), new(wanted));
        }
        let two = dialect(62211);
        let form = [&b"t"[..], &long].concat();
        assert_eq!(named(two, &old(&form), &source, b"a.py").unwrap(), new(b"t\x04\0\0\0a.py"));
        for bad in [&b"(\x01"[..], b"z\x01", b"", b"s\0\0\0\0"] {
            assert_eq!(named(three, &old(bad), &source, b"a.py"), None);
        }
        assert_eq!(named(three, b"nothing of that name", &source, b"a.py"), None);
    }

    proptest! {
        #[test]
        fn any_code_is_answered(before: Vec<u8>, behind: Vec<u8>, name: Vec<u8>) {
            let source = Digest::of(&before);
            let code = [&before, placeholder(&source).as_bytes(), &behind].concat();
            let _: Option<Vec<u8>> = named(dialect(3571), &code, &source, &name);
        }
    }
}
