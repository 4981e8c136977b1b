//! Artifacts beside their sources, with the name that 2.7 gave them (`compileall -b`): the same bytes in another place.

use super::Pyc;
use crate::base::Flaw;
use crate::base::seal::Digest;
use crate::base::sys::{Name, Stat};
use crate::model::{Compared, Format, Head, Layout, Loading, Mode, Recognised, Target};

/// `.pyc` files beside their sources, whoever makes them.
#[derive(Debug, Clone, Copy)]
pub struct Legacy;

impl Format for Legacy {
    fn layout(&self, _target: &Target) -> Layout {
        Layout::Beside
    }

    fn knows_prefix(&self, _target: &Target) -> bool {
        false
    }

    fn artifact_name(&self, source: &Name, _target: &Target, _level: u8) -> Option<Name> {
        self.is_source(source).then(|| Name::from_bytes(&[source.as_bytes(), b"c"].concat()))?
    }

    // All else is as ever.

    fn cache_dir(&self) -> &Name {
        Pyc.cache_dir()
    }

    fn is_source(&self, name: &Name) -> bool {
        Pyc.is_source(name)
    }

    fn kept_mode(&self, target: &Target, wanted: Mode) -> Mode {
        Pyc.kept_mode(target, wanted)
    }

    fn recognise(&self, name: &Name, layout: Layout) -> Recognised {
        Pyc.recognise(name, layout)
    }

    fn writes_in_place(&self, target: &Target) -> bool {
        Pyc.writes_in_place(target)
    }

    fn example(&self) -> &Name {
        Pyc.example()
    }

    fn head(&self, head: &[u8], tag: Option<&str>, here: Option<&Target>) -> Result<Head, Flaw> {
        Pyc.head(head, tag, here)
    }

    fn agrees(&self, head: &Head, source: &Stat) -> bool {
        Pyc.agrees(head, source)
    }

    fn is_in_vain(&self, head: &Head, source: &Stat) -> bool {
        Pyc.is_in_vain(head, source)
    }

    fn source_hash(&self, magic: [u8; 4], source: &[u8]) -> [u8; 8] {
        Pyc.source_hash(magic, source)
    }

    fn body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
        Pyc.body(head, artifact)
    }

    fn deep_body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
        Pyc.deep_body(head, artifact)
    }

    fn way(&self, head: &Head, payload: &[u8], offset: u64, source: Option<&Name>) -> Option<String> {
        Pyc.way(head, payload, offset, source)
    }

    fn beginnings(&self, bytes: &[u8]) -> Vec<usize> {
        Pyc.beginnings(bytes)
    }

    fn knows_deep(&self, head: &Head) -> bool {
        Pyc.knows_deep(head)
    }

    fn compare(&self, head: &Head, artifact: &[u8], code: &[u8]) -> Result<Compared, Flaw> {
        Pyc.compare(head, artifact, code)
    }

    fn loading(&self, flaw: &Flaw) -> Loading {
        Pyc.loading(flaw)
    }

    fn label(&self, tag: &str, level: u8, variant: &str) -> [u8; 8] {
        Pyc.label(tag, level, variant)
    }

    fn variants(&self) -> &'static [&'static str] {
        Pyc.variants()
    }

    fn placeholder(&self, target: &Target, source: &Digest) -> Option<Vec<u8>> {
        Pyc.placeholder(target, source)
    }

    fn named(&self, target: &Target, code: &[u8], source: &Digest, filename: &[u8]) -> Option<Vec<u8>> {
        Pyc.named(target, code, source, filename)
    }

    fn dress(&self, target: &Target, mode: Mode, source: &Stat, bytes: &[u8], code: &[u8]) -> Vec<u8> {
        Pyc.dress(target, mode, source, bytes, code)
    }
}
