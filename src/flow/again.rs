//! Is the code of an artifact what its source gives? It is compiled again, and compared by value: bytes of one source differ.

use crate::base::sys::Dir;
use crate::model::{Cause, Compared, Entry, Verdict};

use super::Run;
use super::act::Trouble;
use super::find::Found;
use super::folder::Folder;
use super::job::Command;
use super::reread::Sound;
use super::stored::other_stored;

/// Nobody here can compile what has this tag.
pub(super) fn no_interpreter(tag: Option<&str>) -> Cause {
    let tag = tag.map(|tag| format!(" ({tag})")).unwrap_or_default();
    Cause::new("no-interpreter", format!("no interpreter for it{tag} was named"))
}

/// Nobody here can compile what is misstamped, and its seal does not say from which source bytes it was compiled.
pub(super) fn only_compiled(tag: Option<&str>) -> Cause {
    let why = "only its header is wrong, but it is an adopted artifact, which is not restamped before it was compiled again";
    Cause { text: format!("{why}; {}", no_interpreter(tag).text), ..no_interpreter(tag) }
}

impl Run<'_> {
    /// `verify`, `add`: compiles the source of a sound artifact again, where somebody here can, and puts into `found` what that shows.
    pub(super) fn compile_again(&self, folder: &Folder, artifacts: Option<&Dir>, entry: &Entry, found: &mut Found) {
        let Some(dir) = artifacts.filter(|_| matches!(found.judged.verdict, Verdict::Ok | Verdict::Unsealed)) else { return };
        if self.maker_for(entry, found).is_none() {
            let cause = no_interpreter(found.tag.as_deref());
            self.note_once("not-recompiled", &folder.path.join(&entry.artifact), &format!("not compiled again: {}", cause.text));
            found.judged.cause.get_or_insert(cause);
            return;
        }
        let compared = self.reread_sound(folder, dir, entry).and_then(|sound| self.compare(folder, entry, found, &sound));
        let cause = match compared {
            Ok(Compared::Same) => return,
            Ok(Compared::Renamed(name)) => {
                let text = format!("its code is that of its source, but for the file name that it carries: `{name}`");
                found.judged.cause.get_or_insert(Cause::new("other-filename", text));
                return;
            }
            Ok(Compared::Other(text)) => Cause::new("other-code", text),
            // It went away since it was judged: then this says nothing of it.
            Err(Trouble::Skip(cause)) => {
                found.judged.cause.get_or_insert(cause);
                return;
            }
            Err(Trouble::Cause(cause)) => cause,
            Err(Trouble::System(error)) => Cause::from(&error),
            Err(Trouble::Gone | Trouble::Claimed(_) | Trouble::Stop) => {
                found.stopped = true;
                return;
            }
        };
        found.wrong = true;
        found.judged.cause = Some(cause);
    }

    /// `seal`: the build variant of who has compiled it again to equal code; an error where the code is another.
    pub(super) fn prove_code(&self, folder: &Folder, entry: &Entry, found: &Found, sound: &Sound) -> Result<&str, Trouble> {
        match self.compare(folder, entry, found, sound)? {
            // Import sets the file name right as it loads.
            Compared::Same | Compared::Renamed(_) => {}
            Compared::Other(text) => return Err(Trouble::Cause(Cause::new("other-code", text))),
        }
        Ok(self.maker_for(entry, found).map_or("", |maker| &maker.compiler.target().variant))
    }

    fn compare(&self, folder: &Folder, entry: &Entry, found: &Found, sound: &Sound) -> Result<Compared, Trouble> {
        let flaw = |flaw| Trouble::Cause(Cause::from(&flaw));
        let maker = self.maker_for(entry, found).filter(|maker| maker.compiler.target().magic == sound.head.magic);
        let Some(maker) = maker else { return Err(Trouble::Skip(no_interpreter(found.tag.as_deref()))) };
        let Some(level) = found.level else {
            let text = "its name does not say which optimisation level it has, so it cannot be compiled again";
            return Err(Trouble::Skip(Cause::new("level", text)));
        };
        if self.job.command == Command::Add {
            return self.add(maker, folder, entry, sound, level);
        }
        let made = self.compile(maker, folder, entry, &sound.source, level)?;
        let compared = self.job.format.compare(&sound.head, &sound.payload, &made.code).map_err(flaw)?;
        // It never takes from the store what it shall prove; but it says where the store would have given something else.
        let name = self.code_name_of(folder, entry);
        let stored = self.compare_stored(maker, &sound.head, &sound.payload, &sound.source.digest, level, &name);
        match (&compared, stored) {
            (Compared::Same | Compared::Renamed(_), Some(Compared::Other(text))) => Err(Trouble::Cause(other_stored(&text))),
            _ => Ok(compared),
        }
    }
}
