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
        let size = code.len().saturating_add(lines.0.len()).saturating_add(exceptions.0.len());
        let Some(left) = self.budget.checked_sub(size) else { return Ok(()) };
        self.budget = left;
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
