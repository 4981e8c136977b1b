//! `inspect`: the tree of code objects, each with what a programmer asks of it. Names and constants come from the file: nothing of it is
//! copied but the beginning, and no count in it is believed for more than to be shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::Serialize;

use crate::model::Head;
use crate::python::flags;
use crate::python::objects::{Code, Object, Objects};
use crate::python::shown::{items, shown};
use crate::python::way::Outlined;

/// The most code objects that are told, and the most that their texts may take, in bytes: names and constants may be one for very many.
const MOST: usize = 20_000;
const MOST_TEXT: usize = 4 << 20;
/// So many constants of each are told.
const CONSTANTS: usize = 8;
/// A file name that is longer is not compared with others.
const LONGEST_PATH: usize = 4096;

/// The code of one artifact.
#[derive(Serialize)]
pub(crate) struct CodeTold {
    /// `co_filename` of the module.
    pub(crate) filename: String,
    /// In how many code objects it is another.
    pub(crate) other_filenames: usize,
    /// How many code objects there are.
    pub(crate) count: usize,
    /// How many of them are not in the list.
    pub(crate) left_out: usize,
    /// In the order of the file: an outer one before those within it.
    pub(crate) objects: Vec<OneTold>,
}

/// One code object.
#[derive(Serialize)]
pub(crate) struct OneTold {
    /// How many are around it.
    pub(crate) depth: usize,
    pub(crate) name: String,
    pub(crate) first_line: u32,
    /// Where in the file it begins.
    pub(crate) offset: usize,
    /// Its length in the file, with what is within it.
    pub(crate) size: usize,
    /// The length of its instructions.
    pub(crate) instructions: usize,
    pub(crate) arguments: u32,
    pub(crate) positional_only: u32,
    pub(crate) keyword_only: u32,
    pub(crate) stack: u32,
    pub(crate) flags: Vec<String>,
    /// How many constants it has.
    pub(crate) constants: usize,
    /// The first of them.
    pub(crate) first_constants: Vec<String>,
}

/// Tells the code of an artifact that is sound; also its file name as bytes. `Err`: why not.
pub(crate) fn tell(head: &Head, payload: &[u8]) -> Result<(CodeTold, PathBuf), String> {
    let objects = Objects::read(head, payload).map_err(|broken| broken.flaw.text)?;
    let codes = || objects.codes();
    let count = codes().count();
    let own = objects.root().code().and_then(|root| root.field("co_filename"));
    let filename = own.and_then(Object::text).unwrap_or_default();
    let differs = |code: &Code<'_>| {
        let other = code.field("co_filename");
        let same_object = other.map(|other| other.resolved().number()) == own.map(|own| own.resolved().number());
        let text = other.and_then(Object::text).unwrap_or_default();
        !same_object && (text.len() != filename.len() || text.len() > LONGEST_PATH || text != filename)
    };
    let mut told = Vec::new();
    let mut taken = 0_usize;
    for one in objects.outline(MOST) {
        let one = tell_one(head, one);
        taken = taken.saturating_add(one.texts());
        if taken > MOST_TEXT {
            break;
        }
        told.push(one);
    }
    let start = &filename[..filename.len().min(LONGEST_PATH)];
    let code = CodeTold {
        filename: String::from_utf8_lossy(start).into_owned(),
        other_filenames: codes().filter(differs).count(),
        count,
        left_out: count.saturating_sub(told.len()),
        objects: told,
    };
    Ok((code, PathBuf::from(OsStr::from_bytes(start))))
}

fn tell_one(head: &Head, Outlined { code, depth, name }: Outlined<'_>) -> OneTold {
    let (numbers, object) = (code.numbers(), code.object());
    let consts = code.field("co_consts").map(Object::resolved);
    OneTold {
        depth,
        name,
        first_line: numbers.first_line,
        offset: object.place(),
        size: object.bytes().len(),
        instructions: code.field("co_code").and_then(Object::text).unwrap_or_default().len(),
        arguments: numbers.args,
        positional_only: numbers.positional_only,
        keyword_only: numbers.keyword_only,
        stack: numbers.stack,
        flags: flags::names(head.magic, numbers.flags),
        constants: consts.map_or(0, items),
        first_constants: consts.map_or(Vec::new(), |consts| consts.parts().take(CONSTANTS).map(|one| shown(one.resolved())).collect()),
    }
}

impl OneTold {
    /// How many bytes its texts have.
    fn texts(&self) -> usize {
        self.flags.iter().chain(&self.first_constants).chain([&self.name]).map(String::len).sum()
    }
}
