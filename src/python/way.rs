//! Names for places: which function a byte of a body belongs to, and which part of it.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::objects::{Code, Object, Objects};
use super::shown::text;
use crate::model::Head;

/// Longer names are cut: one name may stand for very many code objects, and names of what is nested grow with the depth.
const LONGEST: usize = 200;
/// `CO_OPTIMIZED`: a function, no class body and no module.
const FUNCTION: u32 = 0x01;

/// A code object, as it stands in the tree of them.
#[derive(Debug, Clone)]
pub struct Outlined<'o> {
    /// Itself.
    pub code: Code<'o>,
    /// How many code objects are around it.
    pub depth: usize,
    /// Its qualified name; versions before 3.11 do not keep it, and it is put together as they do when they make the function.
    pub name: String,
}

impl Objects<'_> {
    /// The code objects with their qualified names, an outer one before those within it; no more than `most`.
    pub fn outline(&self, most: usize) -> Vec<Outlined<'_>> {
        let mut all: Vec<Outlined<'_>> = Vec::new();
        // Where in `all` those stand that are around the next one.
        let mut around: Vec<usize> = Vec::new();
        for code in self.codes().take(most) {
            let place = code.object().place();
            while around.last().and_then(|index| all.get(*index)).is_some_and(|outer| outer.code.object().end() <= place) {
                around.pop();
            }
            let outer = around.last().and_then(|index| all.get(*index));
            let name = qualified(code, outer.map(|outer| (outer.code, outer.name.as_str())));
            let depth = around.len();
            around.push(all.len());
            all.push(Outlined { code, depth, name });
        }
        all
    }

    /// The innermost code object around a byte and the part of it that the byte belongs to: `("Class.method", "co_consts[3]")`. The part
    /// is empty for its numbers. `None`: the byte is not in the body.
    pub fn way_to(&self, offset: u64) -> Option<(String, String)> {
        let offset = usize::try_from(offset).ok()?;
        let holds = |object: &Object<'_>| object.place() <= offset && offset < object.end();
        let mut object = Some(self.root()).filter(holds)?;
        let mut around = object.code()?;
        let mut name = qualified(around, None);
        let mut part = String::new();
        loop {
            let next = object.parts().enumerate().find(|(_, part)| holds(part));
            let Some((index, inner)) = next else { return Some((name, part)) };
            match (object.code(), inner.code()) {
                (Some(code), _) => part = code.fields().nth(index).map(|(field, _)| field.to_owned()).unwrap_or_default(),
                (None, _) if part.len() < LONGEST => part = format!("{part}[{index}]"),
                (None, _) => {}
            }
            if let Some(code) = inner.code() {
                name = qualified(code, Some((around, name.as_str())));
                around = code;
                part.clear();
            }
            object = inner;
        }
    }
}

fn qualified(code: Code<'_>, outer: Option<(Code<'_>, &str)>) -> String {
    let own = harmless(code.name());
    let has_own = code.field("co_qualname").is_some();
    let name = match outer {
        // The module is nobody's prefix, and neither is what a version keeps itself.
        Some((outer, around)) if !has_own && around != "<module>" => {
            let locals = if outer.numbers().flags & FUNCTION == 0 { "" } else { ".<locals>" };
            format!("{around}{locals}.{own}")
        }
        _ => own,
    };
    cut(name)
}

/// A name, which may hold anything, as one line.
fn harmless(bytes: &[u8]) -> String {
    text(bytes.get(..bytes.len().min(LONGEST.saturating_mul(2))).unwrap_or_default())
}

fn cut(name: String) -> String {
    match name.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", name.get(..at).unwrap_or_default()),
        None => name,
    }
}

/// Where in the tree of code objects a flaw lies, for people: `textwrap.TextWrapper.wrap → co_consts[3]`; where the body is broken there,
/// so that the names are not read yet, by positions: `<module> → co_consts[3] → co_code`.
pub(super) fn way(head: &Head, payload: &[u8], offset: u64, module: Option<&[u8]>) -> Option<String> {
    match Objects::read(head, payload) {
        Ok(objects) => {
            let (name, part) = objects.way_to(offset)?;
            let prefix = module.filter(|_| name != "<module>").map(|module| harmless(module) + ".").unwrap_or_default();
            let arrow = if part.is_empty() { "" } else { " → " };
            Some(format!("{prefix}{name}{arrow}{part}"))
        }
        // In the module's own numbers the way is empty; what lies behind the module has none.
        Err(broken) if broken.flaw.offset == Some(offset) => {
            let is_within = !broken.way.is_empty() || matches!(broken.flaw.code, "cut" | "code-field");
            is_within.then(|| positions(&broken.way))
        }
        Err(_) => None,
    }
}

fn positions(way: &[String]) -> String {
    let mut text = "<module>".to_owned();
    let most = 24;
    for (index, word) in way.iter().enumerate().take(most) {
        // What stands in brackets belongs to the word before it; the root has no items of its own.
        if index == 0 || !word.starts_with(['[', '{']) {
            text.push_str(" → ");
        }
        text.push_str(word);
    }
    if way.len() > most { text + " → …" } else { text }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::super::Pyc;
    use super::*;
    use crate::model::Format;

    /// A code object of 3.10, which keeps no qualified names.
    fn code(name: &str, flags: u8, consts: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![b'c'];
        body.extend([0; 20]);
        body.extend([flags, 0, 0, 0]);
        body.extend(b"s\x02\0\0\0d\0");
        body.extend([b')', u8::try_from(consts.len()).unwrap()]);
        body.extend(consts.concat());
        body.extend(b")\0)\0)\0)\0z\x04a.py");
        body.extend([&[b'z', u8::try_from(name.len()).unwrap()][..], name.as_bytes(), &[1, 0, 0, 0], b"s\0\0\0\0"].concat());
        body
    }

    fn artifact() -> Vec<u8> {
        let inner = code("inner", 3, &[b"z\x07deepest".to_vec()]);
        let method = code("method\n", 3, &[b"N".to_vec(), [b")\x01".to_vec(), inner].concat()]);
        let class = code("Class", 0, &[method]);
        let root = code("<module>", 0x40, &[b"i\x01\0\0\0".to_vec(), class, b"N".to_vec()]);
        [&super::super::magic::bytes(3439)[..], &[0; 12], &root].concat()
    }

    fn at(artifact: &[u8], text: &[u8]) -> u64 {
        artifact.windows(text.len()).position(|window| window == text).unwrap() as u64
    }

    #[test]
    fn names_are_qualified_where_the_version_does_not_keep_them() {
        let artifact = artifact();
        let objects = Objects::read(&Pyc.head(&artifact[..16], None, None).unwrap(), &artifact).unwrap();
        let outline: Vec<_> = objects.outline(99).into_iter().map(|one| (one.depth, one.name)).collect();
        let wanted = ["<module>", "Class", "Class.method\\n", "Class.method\\n.<locals>.inner"];
        assert_eq!(outline, wanted.iter().enumerate().map(|(depth, name)| (depth, (*name).to_owned())).collect::<Vec<_>>());
        assert_eq!(objects.outline(2).len(), 2);
    }

    #[test]
    fn the_way_to_a_byte_names_the_function_around_it() {
        let artifact = artifact();
        let head = Pyc.head(&artifact[..16], None, None).unwrap();
        let way = |offset| way(&head, &artifact, offset, Some(b"mod"));
        assert_eq!(way(at(&artifact, b"deepest")).unwrap(), "mod.Class.method\\n.<locals>.inner → co_consts[0]");
        assert_eq!(way(at(&artifact, b"i\x01\0\0\0")).unwrap(), "<module> → co_consts[0]");
        assert_eq!(way(at(&artifact, b"Class")).unwrap(), "mod.Class → co_name");
        assert_eq!(way(17).unwrap(), "<module>");
        assert_eq!(way(3), None);
        assert_eq!(way(artifact.len() as u64), None);
    }

    #[test]
    fn where_names_are_not_read_yet_the_way_tells_positions() {
        let mut artifact = artifact();
        let broken = at(&artifact, b"z\x07deepest");
        artifact[usize::try_from(broken).unwrap()] = 1;
        let head = Pyc.head(&artifact[..16], None, None).unwrap();
        let way = way(&head, &artifact, broken, Some(b"mod")).unwrap();
        assert_eq!(way, "<module> → co_consts[1] → co_consts[0] → co_consts[1][0] → co_consts[0]");
    }

    #[test]
    fn what_is_wrong_in_the_module_itself_lies_in_it_and_what_follows_it_nowhere() {
        let mut artifact = artifact();
        let head = Pyc.head(&artifact[..16], None, None).unwrap();
        artifact.push(b'x');
        let behind = Pyc.body(&head, &artifact).unwrap_err().offset.unwrap();
        assert_eq!(way(&head, &artifact, behind, None), None);
        artifact[20] = 0xFF;
        let number = Pyc.body(&head, &artifact).unwrap_err().offset.unwrap();
        assert_eq!(way(&head, &artifact, number, None).unwrap(), "<module>");
    }

    #[test]
    fn names_that_are_long_are_cut() {
        let long = "x".repeat(120);
        let chain = (0..50).fold(code("leaf", 3, &[]), |inner, _| code(&long, 3, &[inner]));
        let artifact = [&super::super::magic::bytes(3439)[..], &[0; 12], &chain].concat();
        let objects = Objects::read(&Pyc.head(&artifact[..16], None, None).unwrap(), &artifact).unwrap();
        let outline = objects.outline(99);
        assert!(outline.len() == 51 && outline.iter().all(|one| one.name.chars().count() <= LONGEST + 1));
    }
}
