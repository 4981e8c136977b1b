//! Where the code of two artifacts differs: in which function, and in which of its fields.
//!
//! Functions are paired by their names within the function or class around them; those of equal value pair first, so that one that was
//! put in between does not shift the rest. Each is compared once, whatever refers to it: time is linear in the two files.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use crate::base::Flaw;
use crate::model::{Compared, Head};

use super::equal::{Digest, Filename, Values, same_code};
use super::objects::{Code, Object, Objects, Value};
use super::shown::{common, shown, shown_from, text};

/// So many steps into nested tuples are told.
const STEPS: usize = 4;

/// What differs between two artifacts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// In the code, outer functions before inner ones.
    pub found: Vec<Difference>,
    /// Were there more than were asked for?
    pub more: bool,
    /// The names of the source that they carry (`co_filename`), where these differ. Apart from the others: code that was compiled under
    /// another path is the same code.
    pub filenames: Option<(String, String)>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The function or class: `Class.method`; `<module>` for the module itself.
    pub function: String,
    /// Its first line in the first artifact that has it.
    pub line: u32,
    /// Which field: `co_consts[3]`, `co_firstlineno`; `None`: the function is only in one of the two.
    pub field: Option<String>,
    /// What the first artifact holds there; `None`: nothing.
    pub first: Option<String>,
    /// What the second one holds.
    pub second: Option<String>,
}

impl fmt::Display for Difference {
    /// `Class.method (line 7): co_consts[3] is 1 and 2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}): ", self.function, self.line)?;
        match (&self.field, &self.first, &self.second) {
            (Some(field), Some(first), Some(second)) => write!(f, "{field} is {first} and {second}"),
            (Some(field), Some(first), None) => write!(f, "{field} is {first} in the first alone"),
            (Some(field), None, Some(second)) => write!(f, "{field} is {second} in the second alone"),
            (Some(field), None, None) => write!(f, "{field} differs"),
            (None, Some(_), _) => write!(f, "only in the first"),
            (None, None, _) => write!(f, "only in the second"),
        }
    }
}

/// Says where the code of two artifacts differs, at most `most` times; nothing where [`same_code`] says that it is the same.
///
/// ```
/// use bytekeep::model::Format;
/// use bytekeep::python::Pyc;
/// use bytekeep::python::differences::differences;
/// use bytekeep::python::objects::Objects;
///
/// # let artifact = std::fs::read("tests/data/pyc/cpython-313.pyc").unwrap();
/// let head = Pyc.head(&artifact[..16], None, None).unwrap();
/// let mut touched = artifact.clone();
/// // The docstring of a class.
/// let at = artifact.windows(11).position(|text| text == b"a docstring").unwrap();
/// touched[at] = b'A';
/// let (one, other) = (Objects::read(&head, &artifact).unwrap(), Objects::read(&head, &touched).unwrap());
/// let told: Vec<String> = differences(&one, &other, 10).found.iter().map(ToString::to_string).collect();
/// assert_eq!(told, ["Class (line 10): co_consts[2] is 'With a docstring.' and 'With A docstring.'"]);
/// ```
#[must_use]
pub fn differences(a: &Objects<'_>, b: &Objects<'_>, most: usize) -> Differences {
    let mut told = Differences::default();
    if a.magic() != b.magic() {
        let number = |objects: &Objects<'_>| objects.magic().first_chunk().map(|two| u16::from_le_bytes(*two).to_string());
        let (function, field) = (MODULE.to_owned(), Some("magic".to_owned()));
        told.found.push(Difference { function, line: 0, field, first: number(a), second: number(b) });
        return told;
    }
    let (first, second) = (Values::of(a, Filename::Aside), Values::of(b, Filename::Aside));
    let (Some(one), Some(other)) = (a.root().code(), b.root().code()) else { return told };
    let is_same = first.digest(a.root()) == second.digest(b.root());
    if is_same {
        drop((first, second));
    } else {
        let pairs = vec![Pair { one, other, above: None }];
        let mut comparison = Comparison { first, second, pairs, seen: <(HashSet<_>, HashSet<_>)>::default(), most, told };
        comparison.run();
        told = comparison.told;
    }
    let names = || a.codes().zip(b.codes()).map(|(one, other)| (filename(one), filename(other)));
    if !is_same || !same_code(a, b, Filename::Counts) {
        told.filenames = names().find(|(one, other)| one != other).map(|(one, other)| (text(one), text(other)));
    }
    told
}

/// How many differences a sentence names.
const NAMED: usize = 3;

/// Compares an artifact with code that was just compiled: [`Format::compare`](crate::model::Format::compare).
pub(super) fn compare(head: &Head, artifact: &[u8], code: &[u8]) -> Result<Compared, Flaw> {
    if artifact.get(head.len..) == Some(code) {
        return Ok(Compared::Same);
    }
    let made = [artifact.get(..head.len).unwrap_or_default(), code].concat();
    let there = Objects::read(head, artifact).map_err(|broken| broken.flaw)?;
    let made = Objects::read(head, &made).map_err(|broken| broken.flaw)?;
    there.fits_beside(&made)?;
    let told = differences(&there, &made, NAMED);
    Ok(match (told.found.is_empty(), told.filenames) {
        (true, None) => Compared::Same,
        (true, Some((name, _))) => Compared::Renamed(name),
        (false, _) => {
            let named: Vec<String> = told.found.iter().map(ToString::to_string).collect();
            let more = if told.more { "; and more" } else { "" };
            Compared::Other(format!(
                "its code is not that of its source (first as it is, then as compiled again): {}{more}",
                named.join("; ")
            ))
        }
    })
}

const MODULE: &str = "<module>";

/// Two code objects that are one function's.
#[derive(Clone, Copy)]
struct Pair<'a, 'b> {
    one: Code<'a>,
    other: Code<'b>,
    /// The pair that holds them.
    above: Option<usize>,
}

struct Comparison<'a, 'b> {
    first: Values,
    second: Values,
    pairs: Vec<Pair<'a, 'b>>,
    /// What was gone through in each artifact: once is enough, else references to something long would take long.
    seen: (HashSet<usize>, HashSet<usize>),
    most: usize,
    told: Differences,
}

impl<'a, 'b> Comparison<'a, 'b> {
    fn run(&mut self) {
        let mut at = 0;
        while let Some(pair) = self.pairs.get(at).copied() {
            if self.told.more {
                return;
            }
            let before = (self.told.found.len(), self.pairs.len());
            self.compare(at, pair);
            if before == (self.told.found.len(), self.pairs.len()) && !self.told.more {
                // Nothing but the places of the same constants.
                self.tell(at, Some("co_consts".to_owned()), None, None);
            }
            at = at.saturating_add(1);
        }
    }

    fn compare(&mut self, at: usize, Pair { one, other, .. }: Pair<'a, 'b>) {
        for ((name, one), (_, other)) in one.numbers().named().into_iter().zip(other.numbers().named()) {
            if one != other {
                let shown = |number| Some(if name == "co_flags" { format!("{number:#x}") } else { format!("{number}") });
                self.tell(at, Some(name.to_owned()), shown(one), shown(other));
            }
        }
        for ((name, one), (_, other)) in one.fields().zip(other.fields()) {
            if self.is_same(one, other) || name == "co_filename" {
                continue;
            }
            if name == "co_consts" {
                self.constants(at, one.resolved(), other.resolved());
            } else {
                self.field(at, name.to_owned(), one, other);
            }
        }
    }

    fn is_same(&self, one: Object<'a>, other: Object<'b>) -> bool {
        self.first.digest(one) == self.second.digest(other)
    }

    /// Was neither gone through before?
    fn is_new(&mut self, one: Object<'a>, other: Object<'b>) -> bool {
        let first = self.seen.0.insert(one.number());
        self.seen.1.insert(other.number()) && first
    }

    /// The code objects among the constants are paired; of the others the first that differs is told.
    fn constants(&mut self, at: usize, one: Object<'a>, other: Object<'b>) {
        if !self.is_new(one, other) {
            return self.tell(at, Some("co_consts".to_owned()), None, None);
        }
        let plain = |object: &(usize, Object<'_>)| object.1.code().is_none();
        let items = |object: Object<'a>| object.parts().map(Object::resolved).enumerate();
        let others = |object: Object<'b>| object.parts().map(Object::resolved).enumerate();
        let (mut left, mut right) = (items(one).filter(plain), others(other).filter(plain));
        loop {
            match (left.next(), right.next()) {
                (None, None) => break,
                (Some((_, one)), Some((_, other))) if self.is_same(one, other) => {}
                (Some((index, one)), Some((_, other))) => {
                    self.field(at, format!("co_consts[{index}]"), one, other);
                    break;
                }
                (Some((index, one)), None) => {
                    self.tell(at, Some(format!("co_consts[{index}]")), Some(shown(one)), None);
                    break;
                }
                (None, Some((index, other))) => {
                    self.tell(at, Some(format!("co_consts[{index}]")), None, Some(shown(other)));
                    break;
                }
            }
        }
        let codes: Vec<Code<'a>> = items(one).filter_map(|(_, object)| object.code()).collect();
        let against: Vec<Code<'b>> = others(other).filter_map(|(_, object)| object.code()).collect();
        let known: HashSet<Digest> = codes.iter().map(|code| self.first.digest(code.object())).collect();
        let mut queues: HashMap<Digest, VecDeque<Code<'b>>> = HashMap::new();
        for code in against.iter().filter(|code| !known.contains(&self.second.digest(code.object()))) {
            queues.entry(name_of(&self.second, *code)).or_default().push_back(*code);
        }
        let equal: HashSet<Digest> = against.iter().map(|code| self.second.digest(code.object())).collect();
        let mut paired = HashSet::new();
        for one in codes {
            if equal.contains(&self.first.digest(one.object())) {
                continue;
            }
            match queues.get_mut(&name_of(&self.first, one)).and_then(VecDeque::pop_front) {
                Some(other) => {
                    paired.insert(other.object().number());
                    if self.is_new(one.object(), other.object()) {
                        self.pairs.push(Pair { one, other, above: Some(at) });
                    }
                }
                None => self.tell_alone(at, one, true),
            }
        }
        for other in against {
            let is_left = !known.contains(&self.second.digest(other.object())) && !paired.contains(&other.object().number());
            if is_left {
                self.tell_alone(at, other, false);
            }
        }
    }

    /// Two values that differ, and within tuples and bytes where.
    fn field(&mut self, at: usize, mut field: String, one: Object<'a>, other: Object<'b>) {
        let (mut one, mut other) = (one.resolved(), other.resolved());
        for _ in 0..STEPS {
            let is_tuple = one.value() == Value::Tuple && other.value() == Value::Tuple;
            if !is_tuple || !self.is_new(one, other) {
                break;
            }
            let mut items = one.parts().zip(other.parts()).map(|(one, other)| (one.resolved(), other.resolved())).enumerate();
            let Some((index, next)) = items.find(|(_, (one, other))| !self.is_same(*one, *other)) else { break };
            field.extend([format!("[{index}]")]);
            (one, other) = next;
        }
        if let (Value::Bytes(left), Value::Bytes(right)) = (one.value(), other.value())
            && matches!(field.as_str(), "co_code" | "co_linetable" | "co_lnotab" | "co_exceptiontable" | "co_localspluskinds")
        {
            let same = common(left, right);
            let shown = |bytes: &[u8]| match bytes.get(same) {
                Some(byte) => format!("{byte:#04x} (of {} bytes)", bytes.len()),
                None => "at its end".to_owned(),
            };
            return self.tell(at, Some(format!("{field} from byte {same}")), Some(shown(left)), Some(shown(right)));
        }
        let same = match (one.value(), other.value()) {
            (Value::Str(left), Value::Str(right)) | (Value::Bytes(left), Value::Bytes(right)) => common(left, right),
            _ => 0,
        };
        let (left, right) = (shown_from(one, same), shown_from(other, same));
        // Two sets of so many items: no words for how they differ.
        let (left, right) = if left == right { (None, None) } else { (Some(left), Some(right)) };
        self.tell(at, Some(field), left, right);
    }

    fn tell(&mut self, at: usize, field: Option<String>, first: Option<String>, second: Option<String>) {
        let has_room = self.has_room();
        if let Some(pair) = self.pairs.get(at).copied().filter(|_| has_room) {
            let (function, line) = (self.path(at), pair.one.numbers().first_line);
            self.told.found.push(Difference { function, line, field, first, second });
        }
    }

    fn tell_alone(&mut self, above: usize, code: Code<'_>, in_first: bool) {
        if !self.has_room() {
            return;
        }
        let name = name(code);
        let path = self.path(above);
        let function = if path == MODULE { name } else { format!("{path}.{name}") };
        let here = || Some(shown(code.object()));
        let (first, second) = if in_first { (here(), None) } else { (None, here()) };
        self.told.found.push(Difference { function, line: code.numbers().first_line, field: None, first, second });
    }

    /// May one more be told? If not, it is remembered that there was one.
    fn has_room(&mut self) -> bool {
        self.told.more |= self.told.found.len() >= self.most;
        !self.told.more
    }

    /// The names from the module down to a pair.
    fn path(&self, at: usize) -> String {
        let mut names = Vec::new();
        let mut next = Some(at);
        while let Some(pair) = next.and_then(|at| self.pairs.get(at)) {
            if pair.above.is_some() {
                names.push(name(pair.one));
            }
            next = pair.above;
        }
        names.reverse();
        if names.is_empty() { MODULE.to_owned() } else { names.join(".") }
    }
}

fn name_of(values: &Values, code: Code<'_>) -> Digest {
    code.field("co_name").map(|name| values.digest(name)).unwrap_or_default()
}

fn name(code: Code<'_>) -> String {
    text(code.field("co_name").and_then(Object::text).unwrap_or_default())
}

fn filename(code: Code<'_>) -> &[u8] {
    code.field("co_filename").and_then(Object::text).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::model::Format;
    use crate::python::Pyc;

    #[test]
    fn of_long_texts_the_place_is_shown_where_they_differ() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pyc/cpython-313.pyc");
        #[allow(clippy::disallowed_methods, reason = "a test's own file")]
        let artifact = std::fs::read(path).unwrap();
        let head = Pyc.head(&artifact[..16], None, None).unwrap();
        let touched = |text: &[u8], by: &[u8]| {
            let at = artifact.windows(text.len()).position(|window| window == text).unwrap();
            [&artifact[..at], by, &artifact[at.checked_add(text.len()).unwrap()..]].concat()
        };
        let told = |text: &[u8], by: &[u8]| {
            let touched = touched(text, by);
            differences(&Objects::read(&head, &artifact).unwrap(), &Objects::read(&head, &touched).unwrap(), 9).found
        };
        let [one] = &told(b"goes into an artifact", b"goes into an Artifact")[..] else { panic!("one") };
        assert!(one.first.as_ref().unwrap().contains("that goes into an artifact."), "{one}");
        assert!(one.first.as_ref().unwrap().starts_with("'…") && one.second.as_ref().unwrap().contains("an Artifact"), "{one}");
        // Many of one letter: cut, in characters.
        let long = [&b"x"[..]; 300].concat();
        let mut other = long.clone();
        other[200] = b'y';
        let [one] = &told(&long, &other)[..] else { panic!("one") };
        assert_eq!(one.second.as_ref().unwrap(), &format!("'…{}y{}…' (300 bytes)", "x".repeat(24), "x".repeat(23)));
        assert!(one.field.as_ref().unwrap().starts_with("co_consts["), "{one}");
    }

    #[test]
    #[allow(clippy::disallowed_methods, clippy::arithmetic_side_effects, reason = "a test's own files")]
    fn what_is_told_and_what_is_equal_never_contradict_each_other() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pyc");
        let mut dice = 1u64;
        let mut below = |most: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(dice >> 33).unwrap() % most
        };
        let (mut same, mut other) = (0, 0);
        let mut paths: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|end| end == "pyc"));
        paths.sort();
        for path in paths {
            let artifact = std::fs::read(&path).unwrap();
            let head = Pyc.head(&artifact[..16], None, None).unwrap();
            let whole = Objects::read(&head, &artifact).unwrap();
            for _ in 0..100 {
                let mut touched = artifact.clone();
                touched[head.len + below(artifact.len() - head.len)] ^= 1 << below(8);
                let Ok(changed) = Objects::read(&head, &touched) else { continue };
                for (one, two) in [(&whole, &changed), (&changed, &whole)] {
                    let told = differences(one, two, 1000);
                    let (aside, counts) = (same_code(one, two, Filename::Aside), same_code(one, two, Filename::Counts));
                    assert_eq!((told.found.is_empty(), told.more), (aside, false), "{} {told:?}", path.display());
                    assert_eq!(told.found.is_empty() && told.filenames.is_none(), counts, "{} {told:?}", path.display());
                    if counts { same += 1 } else { other += 1 }
                }
            }
        }
        assert!(same > 0 && other > 500, "{same} {other}");
    }
}
