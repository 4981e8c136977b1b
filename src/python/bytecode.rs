//! The deeper look: into the instructions of each code object and the tables beside them.
//!
//! [`Deep`] listens to the walk of [`super::marshal`] and looks at each code object once its fields are read: every opcode is one that
//! compilers of this version write, every index lies within what it counts, every jump leads to an instruction, caches are zero, and
//! the tables of lines and exceptions fit the instructions to the last one. That is what bit rot breaks first that the structure does
//! not show; a changed constant stays unseen, and so does one index for another: that takes a seal.
//!
//! It keeps two bits for each byte of 2.7's instructions, and nothing for those of later versions: an instruction there begins at each
//! word that is not a cache, caches are zero, and zero is no opcode. Time is linear: instructions that are looked at again through
//! references count against a budget, behind which nothing more is checked, nor held against the artifact.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::code_object::{Dialect, FIELDS, Fields};
use super::line_table;
use super::magic;
use super::marshal::{Fault, Listener, Shape, Step};
use super::opcodes::{LIMITS, Lines, More, Opcode, Operand, Table};

const CODE: &str = "bytecode";
const NO_JUMP: &str = "a jump in it leads to no instruction";

/// Looks into every code object that the walk meets.
#[derive(Debug)]
pub(super) struct Deep {
    table: &'static Table,
    at: Places,
    /// So many bytes may still be looked at.
    budget: usize,
    /// 2.7: where an instruction begins, and where a jump leads.
    starts: Vec<u64>,
    targets: Vec<u64>,
}

/// Where the fields stand that are looked at, in the dialect's order.
#[derive(Debug)]
struct Places {
    code: usize,
    consts: usize,
    names: usize,
    locals: usize,
    /// Up to 3.10.
    shared: Option<(usize, usize)>,
    lines: usize,
    exceptions: Option<usize>,
    /// File name, name, qualified name.
    texts: Vec<usize>,
}

impl Places {
    fn of(dialect: Dialect) -> Option<Self> {
        let find = |wanted: &str| dialect.fields.iter().position(|(name, _)| *name == wanted).filter(|at| *at < FIELDS);
        Some(Self {
            code: find("co_code")?,
            consts: find("co_consts")?,
            names: find("co_names")?,
            locals: find("co_varnames").or_else(|| find("co_localsplusnames"))?,
            shared: find("co_freevars").zip(find("co_cellvars")),
            lines: find("co_lnotab").or_else(|| find("co_linetable"))?,
            exceptions: find("co_exceptiontable"),
            texts: ["co_filename", "co_name", "co_qualname"].into_iter().filter_map(find).collect(),
        })
    }
}

/// Instructions, and what their operands count.
struct Code<'a> {
    table: &'static Table,
    bytes: &'a [u8],
    /// Where in the artifact they begin.
    place: usize,
    limits: [u32; LIMITS],
}

impl Deep {
    /// For artifacts of this magic number and this length. `None`: its instructions are not known.
    pub(super) fn of(found: [u8; 4], len: usize) -> Option<Self> {
        let table = Table::of(magic::number(found)?)?;
        let at = Places::of(Dialect::of(found)?)?;
        Some(Self { table, at, budget: len.saturating_mul(2), starts: Vec::new(), targets: Vec::new() })
    }
}

impl Listener for Deep {
    fn code(&mut self, fields: &Fields, bytes: &[u8]) -> Step<()> {
        let Self { table, ref at, .. } = *self;
        let field = |at: usize| fields.shapes.get(at).copied().unwrap_or(Shape::OPEN);
        let data = |at: usize| field(at).bytes(bytes).zip(field(at).place().and_then(|place| place.checked_add(5)));
        let count = |at: usize| field(at).len(bytes).and_then(|len| u32::try_from(len).ok()).unwrap_or(u32::MAX);
        let Some((code, place)) = data(at.code) else { return Ok(()) };
        let lines = data(at.lines).unwrap_or_default();
        let exceptions = at.exceptions.and_then(data).unwrap_or_default();
        let texts = || at.texts.iter().filter_map(|at| field(*at).text(bytes).zip(field(*at).place()));
        let sizes = [code.len(), lines.0.len(), exceptions.0.len()].into_iter().chain(texts().map(|(text, _)| text.len()));
        let size = sizes.fold(0, usize::saturating_add);
        let Some(left) = self.budget.checked_sub(size) else { return Ok(()) };
        self.budget = left;
        // PyPy refuses it, and no compiler takes such a name.
        if let Some((_, place)) = texts().find(|(text, _)| text.contains(&0)) {
            return Err(Fault::corrupt(CODE, "a name in a code object holds a NUL", place));
        }
        let locals = count(at.locals);
        let free = at.shared.map_or(locals, |(free, cells)| count(free).saturating_add(count(cells)));
        // By `Operand`: nothing is an invalid instruction's operand, anything is one, and more is looked at apart.
        let limits = [0, u32::MAX, 1, count(at.consts), count(at.names), locals, free, 0];
        let code = Code { table, bytes: code, place, limits };
        let looked = if table.words { code.words() } else { code.bytes(&mut self.starts, &mut self.targets) };
        looked.map_err(|fault| fault.within("co_code"))?;
        match table.lines {
            Lines::Lnotab => line_table::lnotab(lines, code.bytes.len()),
            Lines::Deltas => line_table::deltas(lines, code.bytes.len()),
            Lines::Locations => line_table::locations(lines, code.bytes.len())
                .and_then(|()| line_table::exceptions(exceptions, fields.stack, code.bytes.len(), |at| code.begins(at))),
            Lines::Own => Ok(()),
        }
    }
}

impl Code<'_> {
    #[cold]
    fn fault(&self, text: &'static str, at: usize) -> Fault {
        Fault::corrupt(CODE, text, self.place.saturating_add(at))
    }

    /// Does an instruction begin at this word, the bytes that extend its operand included?
    fn begins(&self, word: usize) -> bool {
        let units = self.bytes.as_chunks::<2>().0;
        let before = word.checked_sub(1).and_then(|before| units.get(before));
        matches!(units.get(word), Some([opcode, _]) if *opcode != 0)
            && !matches!(before, Some([opcode, _]) if *opcode == self.table.extended)
    }

    /// Instructions of one word each, and their caches.
    fn words(&self) -> Step<()> {
        let units = self.bytes.as_chunks::<2>().0;
        let (mut at, mut extended) = (0_usize, 0_u32);
        while let Some(&[opcode, low]) = units.get(at) {
            let Some(&opcode) = self.table.opcodes.get(usize::from(opcode)) else { break };
            let operand = extended | u32::from(low);
            let next = at.saturating_add(1).saturating_add(usize::from(opcode.caches));
            let limit = self.limits.get(opcode.operand as usize).copied().unwrap_or(0);
            if operand >> opcode.shift >= limit {
                extended = self.look(opcode, operand, at, next)?;
            } else {
                extended = 0;
            }
            if opcode.caches > 0 && !units.get(at.saturating_add(1)..next).is_some_and(|caches| caches.iter().all(|cache| *cache == [0, 0]))
            {
                return Err(self.fault("the cache behind an instruction in it is not empty", at.saturating_mul(2)));
            }
            at = next;
        }
        match units.last() {
            Some([opcode, _]) if *opcode == self.table.extended => Err(self.fault("its last instruction lacks its end", self.bytes.len())),
            _ => Ok(()),
        }
    }

    /// What no limit decides. Answers the high bits of the next operand.
    fn look(&self, opcode: Opcode, operand: u32, at: usize, next: usize) -> Step<u32> {
        let wrong = |text| Err(self.fault(text, at.saturating_mul(2)));
        let distance = operand as usize;
        let target = match (opcode.operand, opcode.more) {
            (Operand::Invalid, _) => return wrong("an instruction in it is none"),
            // u32::MAX itself: the limit is one less than it should be.
            (Operand::Any, _) => return Ok(0),
            (_, More::No) => return wrong("the operand of an instruction in it is out of range"),
            (_, More::Extended) => {
                if operand >> 24 != 0 {
                    return wrong("the operand of an instruction in it is too long");
                }
                return Ok(operand << 8);
            }
            (_, More::Below(limit)) => {
                return if operand < u32::from(limit) { Ok(0) } else { wrong("the operand of an instruction in it is out of range") };
            }
            (_, More::Locals) => {
                let locals = self.limits.get(Operand::Local as usize).copied().unwrap_or(0);
                let fits = operand >> 4 < locals && operand & 15 < locals;
                return if fits { Ok(0) } else { wrong("the operand of an instruction in it is out of range") };
            }
            (_, More::Backward) => next.checked_sub(distance),
            (_, More::Forward) if self.table.jumps_in_words => next.checked_add(distance),
            (_, More::To) if self.table.jumps_in_words => Some(distance),
            (_, More::Forward) if distance.is_multiple_of(2) => next.checked_add(distance / 2),
            (_, More::To) if distance.is_multiple_of(2) => Some(distance / 2),
            (_, More::Forward | More::To) => None,
        };
        if target.is_some_and(|target| self.begins(target)) { Ok(0) } else { wrong(NO_JUMP) }
    }

    /// Instructions of one byte, or of three with an operand.
    fn bytes(&self, starts: &mut Vec<u64>, targets: &mut Vec<u64>) -> Step<()> {
        let words = (self.bytes.len() / 64).saturating_add(1);
        for bits in [&mut *starts, &mut *targets] {
            bits.clear();
            if bits.try_reserve(words).is_err() {
                return Ok(());
            }
            bits.resize(words, 0);
        }
        let set = |bits: &mut Vec<u64>, at: usize| {
            if let Some(word) = bits.get_mut(at / 64) {
                *word |= 1 << (at % 64);
            }
        };
        let (mut at, mut extended, mut is_extended) = (0_usize, 0_u32, 0_u32);
        while let Some(&byte) = self.bytes.get(at) {
            let wrong = |text| Err(self.fault(text, at));
            let Some(&opcode) = self.table.opcodes.get(usize::from(byte)) else { break };
            if is_extended == 0 {
                set(starts, at);
            }
            let rest = self.bytes.get(at.saturating_add(1)..).unwrap_or_default();
            let (operand, next) = match rest.first_chunk() {
                _ if !opcode.has_operand && opcode.operand != Operand::Invalid => (0, at.saturating_add(1)),
                Some(low) => (extended << 16 | u32::from(u16::from_le_bytes(*low)), at.saturating_add(3)),
                None => return wrong("its last instruction lacks its end"),
            };
            let limit = self.limits.get(opcode.operand as usize).copied().unwrap_or(0);
            (extended, is_extended) = (0, 0);
            if operand >> opcode.shift >= limit {
                let target = match (opcode.operand, opcode.more) {
                    (Operand::Any, _) => None,
                    (Operand::Invalid, _) => return wrong("an instruction in it is none"),
                    (_, More::Extended) if operand >> 16 == 0 => {
                        (extended, is_extended) = (operand, 1);
                        None
                    }
                    (_, More::Below(limit)) if operand < u32::from(limit) => None,
                    (_, More::Forward) => Some(next.saturating_add(operand as usize)),
                    (_, More::To) => Some(operand as usize),
                    _ => return wrong("the operand of an instruction in it is out of range"),
                };
                match target {
                    Some(target) if target >= self.bytes.len() => return wrong(NO_JUMP),
                    Some(target) => set(targets, target),
                    None => {}
                }
            }
            at = next;
        }
        if is_extended > 0 {
            return Err(self.fault("its last instruction lacks its end", self.bytes.len()));
        }
        match starts.iter().zip(&*targets).position(|(starts, targets)| targets & !starts != 0) {
            Some(word) => Err(self.fault(NO_JUMP, word.saturating_mul(64))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use crate::model::Format;
    use crate::python::objects::Objects;
    use crate::python::{Pyc, magic};
    use proptest::prelude::*;

    fn long(bytes: &[u8]) -> Vec<u8> {
        [b"s", &u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat()
    }

    /// An artifact of two constants, two names and one local.
    fn artifact(number: u16, code: &[u8], lines: &[u8], exceptions: &[u8]) -> Vec<u8> {
        let (new, two) = (number == 3571, number == 62211);
        let int = |number: u32| number.to_le_bytes().to_vec();
        let text =
            |text: &str| if two { long(text.as_bytes()) } else { [b"z", &[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat() };
        let tuple = |items: &[Vec<u8>]| [vec![b'('], int(u32::try_from(items.len()).unwrap()), items.concat()].concat();
        // Arguments of up to three kinds; up to 3.10 the locals are counted; then the stack and the flags.
        let mut numbers = match number {
            3571 => vec![0, 0, 0],
            3351 => vec![0, 0, 1],
            62211 => vec![0, 1],
            _ => vec![0, 0, 0, 1],
        };
        numbers.extend([2, 0]);
        let mut all = [&magic::bytes(number)[..], &vec![0; magic::header_len(number) - 4], b"c"].concat();
        all.extend(numbers.into_iter().flat_map(int));
        all.extend(long(code));
        all.extend(tuple(&[b"N".to_vec(), b"N".to_vec()]));
        all.extend(tuple(&[text("a"), text("b")]));
        all.extend(tuple(&[text("x")]));
        all.extend(if new { long(&[0x20]) } else { [tuple(&[]), tuple(&[])].concat() });
        all.extend([text("a.py"), text("m")].concat());
        all.extend(if new { text("m") } else { Vec::new() });
        all.extend(int(1));
        all.extend(long(lines));
        all.extend(if new { long(exceptions) } else { Vec::new() });
        all
    }

    fn told(artifact: &[u8]) -> String {
        let head = Pyc.head(&artifact[..artifact.len().min(16)], None, None).unwrap();
        assert_eq!(Pyc.body(&head, artifact), Ok(()), "the structure is sound");
        let deep = Pyc.deep_body(&head, artifact).map_err(|flaw| (flaw.code, flaw.offset));
        let read = Objects::read_deep(&head, artifact);
        assert_eq!(read.as_ref().map(drop).map_err(|broken| (broken.flaw.code, broken.flaw.offset)), deep);
        match read {
            Ok(_) => "sound".to_owned(),
            Err(broken) => format!("{} {} {}", broken.way.join("."), broken.flaw.code, broken.flaw.text),
        }
    }

    /// 3.13, with a line table that fits.
    fn new(code: &[u8]) -> String {
        let mut lines = vec![0xFF; code.len() / 16];
        if !code.len().is_multiple_of(16) {
            lines.push(0xF8 | u8::try_from(code.len() % 16 / 2 - 1).unwrap());
        }
        told(&artifact(3571, code, &lines, b""))
    }

    #[test]
    fn instructions_of_words() {
        // RESUME 0, LOAD_GLOBAL b, JUMP_BACKWARD to the first, RETURN_CONST 1.
        let good = [149, 0, 91, 3, 0, 0, 0, 0, 0, 0, 0, 0, 77, 8, 0, 0, 103, 1];
        assert_eq!(new(&good), "sound");
        let with = |at: usize, byte: u8| {
            let mut bad = good;
            bad[at] = byte;
            new(&bad)
        };
        for (at, byte, wanted) in [
            (0, 255, "an instruction in it is none"),
            // Instrumented: the interpreter dies of it.
            (0, 247, "an instruction in it is none"),
            (0, 0, "an instruction in it is none"),
            (3, 4, "the operand of an instruction in it is out of range"),
            (17, 2, "the operand of an instruction in it is out of range"),
            (5, 1, "the cache behind an instruction in it is not empty"),
            (10, 9, "the cache behind an instruction in it is not empty"),
            (13, 9, "a jump in it leads to no instruction"),
            (13, 3, "a jump in it leads to no instruction"),
            (16, 91, "the cache behind an instruction in it is not empty"),
            (16, 71, "its last instruction lacks its end"),
        ] {
            assert_eq!(with(at, byte), format!("co_code bytecode {wanted}"), "{at} {byte}");
        }
        assert_eq!(with(13, 7), "sound");
    }

    #[test]
    fn operands_that_are_extended_or_packed() {
        for (code, sound) in [
            // LOAD_CONST 0x100 of two constants; LOAD_CONST 1 with nothing to extend it by.
            (&[71, 1, 83, 0][..], false),
            (&[71, 0, 83, 1], true),
            // A jump into the middle of an extended instruction, and to its beginning.
            (&[79, 1, 71, 0, 83, 1, 30, 0], false),
            (&[79, 0, 71, 0, 83, 1, 30, 0], true),
            (&[71, 255, 71, 255, 71, 255, 149, 255], true),
            (&[71, 1, 71, 0, 71, 0, 71, 0, 149, 0], false),
            // Two locals in one operand; there is one.
            (&[88, 0x00], true),
            (&[88, 0x01], false),
            (&[88, 0x10], false),
            // BINARY_OP 26, NOP 1.
            (&[45, 26, 0, 0], false),
            (&[45, 25, 0, 0], true),
            (&[30, 1], false),
            // Forward to the end is nowhere.
            (&[79, 0], false),
        ] {
            assert_eq!(new(code) == "sound", sound, "{code:?}: {}", new(code));
        }
    }

    #[test]
    fn instructions_that_jump_by_bytes() {
        let old = |code: &[u8]| told(&artifact(3413, code, b"", b""));
        assert_eq!(old(&[110, 2, 9, 0, 113, 0]), "sound");
        for bad in [[110, 1, 9, 0, 113, 0], [110, 4, 9, 0, 113, 0], [110, 2, 9, 0, 113, 3], [110, 2, 9, 1, 113, 0]] {
            assert!(old(&bad).starts_with("co_code bytecode"), "{bad:?}");
        }
    }

    #[test]
    fn instructions_of_one_or_three_bytes() {
        let old = |code: &[u8]| told(&artifact(62211, code, b"", b""));
        // LOAD_CONST 1, JUMP_FORWARD over a NOP, JUMP_ABSOLUTE to the first, RETURN_VALUE.
        let good = [100, 1, 0, 110, 1, 0, 9, 113, 0, 0, 83];
        assert_eq!(old(&good), "sound");
        for (at, byte) in [(0, 255), (1, 2), (2, 1), (4, 2), (5, 1), (8, 1), (8, 11), (10, 100)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(old(&bad).starts_with("co_code bytecode"), "{at} {byte}: {}", old(&bad));
        }
        assert_eq!(old(&[145, 0, 0, 100, 1, 0]), "sound");
        for bad in [&[145, 1, 0, 100, 1, 0][..], &[145, 0, 0], &[113, 3, 0, 145, 0, 0, 100, 1, 0, 113, 6, 0], &[100, 1]] {
            assert!(old(bad).starts_with("co_code bytecode"), "{bad:?}");
        }
    }

    #[test]
    fn tables_of_lines() {
        let new = |lines: &[u8]| told(&artifact(3571, &[30, 0, 30, 0, 30, 0], lines, b""));
        for good in [&[0xFA][..], &[0x82, 0x11], &[0xF8, 0xD1, 1, 2], &[0xE9, 0x41, 0, 0xF8], &[0xF1, 0, 0, 0, 1, 0xF8]] {
            assert_eq!(new(good), "sound", "{good:x?}");
        }
        for bad in
            [&[][..], &[0xFB], &[0x7A], &[0x82], &[0x82, 0x91], &[0xD2, 1], &[0xEA, 0x41], &[0xF2, 0, 0, 0], &[0xFA, 0], &[0xFA, 0xF8]]
        {
            assert!(new(bad).starts_with("co_linetable line-table"), "{bad:x?}");
        }
        for (number, good, bad) in [(3413, &[4, 1][..], &[&[8, 1][..], &[4]][..]), (3439, &[6, 1], &[&[4, 1], &[8, 1], &[6], &[]])] {
            let old = |lines| told(&artifact(number, &[9, 0, 9, 0, 9, 0], lines, b""));
            assert_eq!(old(good), "sound");
            for bad in bad {
                assert!(old(bad).starts_with("co_lnotab line-table"), "{number} {bad:?}");
            }
        }
    }

    #[test]
    fn tables_of_exceptions() {
        let new = |exceptions: &[u8]| told(&artifact(3571, &[30, 0, 40, 0, 0, 0, 0, 0, 0, 0, 30, 0], &[0xFD], exceptions));
        for good in [&[][..], &[0x80, 1, 5, 5], &[0x80, 1, 5, 0, 0x81, 5, 0, 4], &[0xC0, 0, 1, 5, 0x40, 1]] {
            assert_eq!(new(good), "sound", "{good:x?}");
        }
        for bad in [
            &[0x80, 1, 5][..],
            &[0x00, 1, 5, 0],
            &[0x80, 0x81, 5, 0],
            // Too deep for the stack; into a cache; over the end; no length; out of order.
            &[0x80, 1, 5, 6],
            &[0x80, 1, 3, 0],
            &[0x80, 3, 5, 0],
            &[0x80, 7, 5, 0],
            &[0x80, 0, 5, 0],
            &[0x81, 4, 0, 0, 0x80, 1, 5, 0],
            &[0xC0, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0],
        ] {
            assert!(new(bad).starts_with("co_exceptiontable exception-table"), "{bad:x?}: {}", new(bad));
        }
    }

    #[test]
    fn what_is_not_known_is_left_alone() {
        // No interpreter of 3.5 has been asked: it keeps even what no version knows.
        assert_eq!(told(&artifact(3351, &[255], &[9], b"")), "sound");
        let known = |number: u16| {
            let bytes = [&magic::bytes(number)[..], &[0; 12]].concat();
            Pyc.knows_deep(&Pyc.head(&bytes, None, None).unwrap())
        };
        assert!(known(62211) && known(62212) && known(3571) && known(336));
        assert!(!known(3351) && !known(384) && !known(416) && !known(62218));
    }

    #[test]
    fn instructions_that_are_referred_to_often_are_looked_at_a_few_times() {
        // Each of many code objects refers to the same long instructions and their table of lines; one refers to a wrong table.
        let (instructions, lines) = (long(&[30, 0].repeat(1 << 16)), long(&[0xFF; 1 << 13]));
        let small = artifact(3571, b"??", b"", b"");
        let (head, numbers, rest) = (&small[..16], &small[16..16 + 21], &small[16 + 21 + 7..]);
        let names = rest.windows(5).rposition(|five| five == b"(\x02\0\0\0").unwrap();
        let (consts, rest) = rest.split_at(names);
        let rest = &rest[..rest.len() - 10];
        let inner = |lines: &[u8]| [numbers, b"r\0\0\0\0", consts, rest, lines, b"s\0\0\0\0"].concat();
        let with = |bad: u32| {
            let count = 4000_u32;
            let mut all = [head, numbers, &instructions, b"(", &(count + 1).to_le_bytes(), &lines].concat();
            all[16 + 21] |= 0x80;
            all[16 + 21 + instructions.len() + 5] |= 0x80;
            all.extend((0..count).flat_map(|at| inner(if at == bad { b"r\0\0\0\0" } else { b"r\x01\0\0\0" })));
            all.extend([rest, b"r\x01\0\0\0", b"s\0\0\0\0"].concat());
            told(&all)
        };
        assert!(with(0).ends_with("an entry of its table of lines is broken"), "{}", with(0));
        assert!(with(2).ends_with("an entry of its table of lines is broken"), "{}", with(2));
        // The budget is spent long before: nothing is checked, and nothing is held against the artifact.
        assert_eq!(with(3999), "sound");
    }

    proptest! {
        #[test]
        fn any_instructions_and_tables_are_answered(
            number in proptest::sample::select(&[62211_u16, 3413, 3439, 3571][..]),
            code in proptest::collection::vec(any::<u8>(), 1..40),
            lines in proptest::collection::vec(any::<u8>(), 0..20),
            exceptions in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let code = if number == 62211 { &code[..] } else { &[&code[..], &code].concat() };
            let artifact = artifact(number, code, &lines, &exceptions);
            told(&artifact);
        }
    }
}
