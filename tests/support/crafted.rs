//! Artifacts made by hand: every kind of object in every layout of code that there is, and bombs. No interpreter writes the bombs; who
//! wants one to read much, hold much or go deep does. Shared with `stress/`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses a part of it")]

use bytekeep::python::magic;

/// 3.13, whose layout the bombs have.
const NUMBER: u16 = 3571;

/// How the code of a magic number is laid out, told apart from the product's own tables.
#[derive(Clone, Copy)]
struct Layout {
    number: u16,
    two: bool,
    pypy: bool,
}

impl Layout {
    fn of(number: u16) -> Self {
        Self { number, two: number >= 62000, pypy: number < 1000 }
    }

    /// Does a version have what `CPython` has from this number on, and PyPy from that?
    fn from(self, cpython: u16, pypy: u16) -> bool {
        !self.two && self.number >= if self.pypy { pypy } else { cpython }
    }
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_le_bytes()
}

/// A type code, a length, and so many bytes.
pub fn long(code: u8, bytes: &[u8]) -> Vec<u8> {
    [&[code][..], &word(bytes.len()), bytes].concat()
}

/// A container of the long form.
pub fn items(code: u8, items: &[Vec<u8>]) -> Vec<u8> {
    [&[code][..], &word(items.len()), &items.concat()].concat()
}

/// The same object so many times.
fn many(code: u8, count: usize, item: &[u8]) -> Vec<u8> {
    [&[code][..], &word(count), &item.repeat(count)].concat()
}

/// The parts of a code object that bombs exchange; the rest is that of an empty module.
#[derive(Clone)]
pub struct Code {
    number: u16,
    /// The type code, with its flag or without.
    pub letter: u8,
    pub flags: u32,
    pub stack: u32,
    pub instructions: Vec<u8>,
    pub consts: Vec<u8>,
    pub names: Vec<u8>,
    pub filename: Vec<u8>,
    pub name: Vec<u8>,
    pub lines: Vec<u8>,
    pub exceptions: Vec<u8>,
}

impl Code {
    /// An empty module of a magic number that has a layout of its own.
    pub fn new(number: u16) -> Self {
        let layout = Layout::of(number);
        let text = |text: &str| long(if layout.two { b's' } else { b'u' }, text.as_bytes());
        let (code, lines): (&[u8], &[u8]) = match number {
            62000.. => (b"d\0\0S", b""),
            3666 => (&[25, 0, 33, 0], &[0x80 | 15 << 3 | 1]),
            3627 => (&[27, 0, 35, 0], &[0x80 | 15 << 3 | 1]),
            NUMBER => (&[30, 0, 36, 0], &[0x80 | 15 << 3 | 1]),
            3495..=3570 => (&[9, 0, 83, 0], &[0x80 | 15 << 3 | 1]),
            3439 => (b"d\0S\0", &[4, 0]),
            3370..3439 | 320..3000 => (b"d\0S\0", b""),
            _ => (b"d\0\0S", b""),
        };
        Self {
            number,
            letter: b'c',
            flags: 0x40,
            stack: 1,
            instructions: long(b's', code),
            consts: items(b'(', &[b"N".to_vec()]),
            names: items(b'(', &[]),
            filename: text("a.py"),
            name: text("<module>"),
            lines: long(b's', lines),
            exceptions: long(b's', b""),
        }
    }

    pub fn consts(self, consts: Vec<u8>) -> Self {
        Self { consts, ..self }
    }

    /// The object as it stands in a file.
    pub fn object(&self) -> Vec<u8> {
        let layout = Layout::of(self.number);
        let (empty, new) = (items(b'(', &[]), layout.from(3495, u16::MAX));
        let mut all = vec![self.letter];
        let numbers = [(true, 0), (layout.from(3410, 256), 0), (!layout.two, 0), (!new, 0), (true, self.stack), (true, self.flags)];
        all.extend(numbers.iter().filter(|(there, _)| *there).flat_map(|(_, number)| number.to_le_bytes()));
        all.extend([&self.instructions[..], &self.consts, &self.names, &empty].concat());
        all.extend(if new { long(b's', b"") } else { [&empty[..], &empty].concat() });
        all.extend([&self.filename[..], &self.name].concat());
        if new || layout.from(u16::MAX, 416) {
            all.extend(&self.name);
        }
        all.extend([1, 0, 0, 0]);
        all.extend(&self.lines);
        if new || layout.from(u16::MAX, 416) {
            all.extend(&self.exceptions);
        }
        all
    }

    /// An artifact of it, by time.
    pub fn artifact(&self) -> Vec<u8> {
        [header(self.number), self.object()].concat()
    }
}

/// A header by time, of a source of no bytes.
pub fn header(number: u16) -> Vec<u8> {
    let mut header = magic::bytes(number).to_vec();
    header.resize(magic::header_len(number), 0);
    header
}

/// One magic number for each layout of header and code.
pub const NUMBERS: [u16; 17] = [62211, 3151, 3230, 3310, 3351, 3379, 3394, 3413, 3425, 3439, 3495, 3531, NUMBER, 3627, 3666, 336, 432];

/// Every kind of object that this version reads, as constants of a module, some shared.
pub fn shapes(number: u16) -> Vec<u8> {
    let layout = Layout::of(number);
    let mut all: Vec<Vec<u8>> =
        ["N", "T", "F", ".", "S", "i\u{1}\0\0\0", "g01234567", "y0123456701234567"].map(|one| one.as_bytes().to_vec()).to_vec();
    all.push(b"I\0\0\0\0\0\0\0\x80".to_vec());
    all.push(b"f\x031.5".to_vec());
    all.push(b"x\x031.5\x02-2".to_vec());
    all.push(b"l\x03\0\0\0\x01\0\xff\x7f\x01\0".to_vec());
    all.push(b"l\xfe\xff\xff\xff\0\0\x01\0".to_vec());
    all.push(long(b's', b"bytes \xff"));
    all.push(long(b'u', "é \u{1F40D}".as_bytes()));
    all.push(long(b'u', b"\xed\xa0\x80 \xed\xa0\xbd\xed\xb0\x8d"));
    all.push(long(b't', b"interned"));
    all.push(items(b'(', &[items(b'(', &[]), items(b'[', &[b"N".to_vec()]), b"{NT0".to_vec()]));
    all.push(items(b'<', &[b"i\x01\0\0\0".to_vec(), b"i\x02\0\0\0".to_vec()]));
    all.push(items(b'>', &[items(b'>', &[])]));
    all.push(Code::new(number).object());
    if layout.two {
        all.push(b"R\0\0\0\0".to_vec());
    }
    let mut letter = b'c';
    if layout.from(3250, 0) {
        all.extend(["\u{5a}\u{1}a", "z\u{1}b", "a\u{1}\0\0\0c", "A\u{1}\0\0\0d"].map(|one| one.as_bytes().to_vec()));
        // The module takes slot 0, these 1 to 3.
        all.extend([b"\xa9\x01N".to_vec(), b"r\x01\0\0\0".to_vec(), b"\xdb\x01\0\0\0\xda\x01e".to_vec(), b"r\x03\0\0\0".to_vec()]);
        letter = 0xE3;
    }
    if layout.from(3600, u16::MAX) {
        all.push(b":NNi\x02\0\0\0".to_vec());
    }
    if layout.from(3650, u16::MAX) {
        all.push(b"}Z\x01kN0".to_vec());
    }
    Code { letter, ..Code::new(number).consts(items(b'(', &all)) }.artifact()
}

/// A crafted artifact of 3.13, by a name.
pub struct Bomb {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Is it sound by what the interpreter reads? Else `verify` must not call it that.
    pub sound: bool,
}

/// What breaks careless readers, of about `size` bytes each where its nature allows.
pub fn bombs(size: usize) -> Vec<Bomb> {
    let mut all = Vec::new();
    let module = || Code::new(NUMBER);
    let of = |consts: Vec<u8>| module().consts(items(b'(', &[consts])).artifact();
    let mut add = |name, sound, bytes| all.push(Bomb { name, bytes, sound });
    let text = |len: usize| long(b'u', &"é".repeat(len.div_ceil(2)).into_bytes()[..len / 2 * 2]);

    // Counts that nothing stands behind.
    for (name, count) in [
        ("count-tuple", &b"(\xff\xff\xff\x7f"[..]),
        ("count-list", b"[\xff\xff\xff\x7f"),
        ("count-set", b"<\xff\xff\xff\x7f"),
        ("count-frozenset", b">\xff\xff\xff\x7f"),
        ("count-bytes", b"s\xff\xff\xff\x7f"),
        ("count-text", b"u\xff\xff\xff\x7f"),
        ("count-ascii", b"a\xff\xff\xff\x7f"),
        ("count-integer", b"l\xff\xff\xff\x7f"),
        ("count-integer-below-zero", b"l\x01\0\0\x80"),
        ("count-negative", b"(\xff\xff\xff\xff"),
        ("reference-to-nothing", b"r\xff\xff\xff\x7f"),
    ] {
        add(name, false, of([count, &vec![b'N'; size]].concat()));
    }
    // As many as there is room for, again and again.
    add("counts", false, of([&b"("[..], &word(size / 2)].concat().repeat(size / 5)));

    // Depth, always more than the 2000 that interpreters allow.
    let deeper = |each: usize| (size / each).max(2100);
    add("deep-tuples", false, of(b")\x01".repeat(deeper(2))));
    add("deep-lists", false, of(b"[\x01\0\0\0".repeat(deeper(5))));
    add("deep-dicts", false, of(b"{".repeat(deeper(1))));
    add("deep-code", false, [header(NUMBER), [&module().object()[..21 + 9], b")\x01"].concat().repeat(size / 32)].concat());
    let levels = (size / 100).clamp(3, 990);
    let nested = (0..levels).fold(b"N".to_vec(), |inner, _| Code { name: text(60), ..module().consts(items(b'(', &[inner])) }.object());
    add("deep-as-allowed", true, of(nested));

    // Numbers of objects.
    add("many-nones", true, of(many(b'(', size, b"N")));
    add("many-nones-in-a-set", true, of(many(b'<', size, b"N")));
    add("many-flagged", true, of(many(b'(', size / 2, b"\xa9\0")));
    add("many-flagged-open", false, of([&b"("[..], &word(size / 2), &b"\xa9\0".repeat(size / 2 - 1)].concat()));
    add("many-dicts", true, of(many(b'[', size / 2, b"{0")));
    add("many-names", true, Code { names: many(b'(', size / 2, b"z\0"), ..module() }.artifact());

    // References: slot 0 is the first flagged object.
    let shared = |first: Vec<u8>, count: usize, item: &[u8]| of(items(b'(', &[first, many(b'(', count, item)]));
    add("shared-text", true, shared(long(b'u' | 0x80, &vec![b'x'; size / 2]), size / 10, b"r\0\0\0\0"));
    add("shared-tuple", true, shared(many(b'(' | 0x80, size / 2, b"N"), size / 10, b"r\0\0\0\0"));
    let doubled: Vec<Vec<u8>> = (0..size / 12).map(|at| [&b"\xa9\x02r"[..], &word(at), b"r", &word(at)].concat()).collect();
    add("doubled", true, of([&b"("[..], &word(doubled.len() + 1), b"\xa9\0", &doubled.concat()].concat()));
    add("cycle", false, of(b"\xdb\x01\0\0\0r\0\0\0\0".to_vec()));
    add("cycle-of-itself", false, Code { letter: 0xE3, ..module().consts(b")\x01r\0\0\0\0".to_vec()) }.artifact());

    add("unhashable-in-a-set", false, of(b">\x01\0\0\0[\0\0\0\0".to_vec()));
    add("unhashable-key", false, of(b"{)\x01<\0\0\0\0N0".to_vec()));

    // Very many code objects that share what is long.
    let small = Code { letter: b'c', instructions: b"r\0\0\0\0".to_vec(), consts: b"r\x01\0\0\0".to_vec(), ..module() };
    let small = Code { flags: 0x7FFF_FFF3, filename: b"r\x02\0\0\0".to_vec(), name: b"r\x02\0\0\0".to_vec(), ..small };
    let small = Code { names: b")\0".to_vec(), lines: b"r\x03\0\0\0".to_vec(), ..small }.object();
    let words = size / 64 * 8;
    let parts = [
        long(b's' | 0x80, &[30, 0].repeat(words)),
        items(b'(' | 0x80, &vec![long(b'u', "\u{202e}\u{1}".repeat(40).as_bytes()); 8]),
        long(b'u' | 0x80, "\u{1F40D}".repeat(400.min(size / 8)).as_bytes()),
        long(b's' | 0x80, &vec![0xFF; words / 8]),
        many(b'(', size / small.len(), &small),
    ];
    add("many-codes", true, of(items(b'(', &parts)));

    // One long thing.
    add("long-name", true, Code { name: text(size / 2), ..module() }.artifact());
    add("long-filename", true, Code { filename: text(size), ..module() }.artifact());
    add("long-integer", true, of([&b"l"[..], &word(size / 2), &b"\x01\x40".repeat(size / 2)].concat()));
    let nops = size / 2 / 2 * 2;
    let lines = [&vec![0xFF; nops / 16][..], &[0x80 | 15 << 3 | 1]].concat();
    let instructions = [&[30, 0].repeat(nops / 16 * 8)[..], &[30, 0, 36, 0]].concat();
    add("long-instructions", true, Code { instructions: long(b's', &instructions), lines: long(b's', &lines), ..module() }.artifact());
    add("long-lines", false, Code { lines: long(b's', &vec![0xF8; size]), ..module() }.artifact());
    add("long-exceptions", false, Code { exceptions: long(b's', &[0x80, 1, 0, 0].repeat(size / 4)), ..module() }.artifact());
    add("absurd-stack", false, Code { stack: 0x7FFF_FFFF, ..module() }.artifact());

    // What is no code at all, behind a right header, and what looks like the beginning of something else everywhere.
    let mut random = 4711_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()[0]
    })
    .take(size)
    .collect();
    for (name, body) in [
        ("noise", noise),
        ("zeros", vec![0; size]),
        ("zeros-in-pieces", b"\0\0\0\0\0\0\0\x01".repeat(size / 8)),
        ("headers", [header(NUMBER), b"\xe3".to_vec()].concat().repeat(size / 17)),
        // Not at the very end: there it would be one, of a version that nobody knows.
        ("seals", [&b"\x8BBKSEAL\n".repeat(size / 8)[..], b"."].concat()),
        ("returns", b"\r\n".repeat(size / 2)),
    ] {
        add(name, false, [header(NUMBER), body].concat());
    }
    all
}
