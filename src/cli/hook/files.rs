//! The files by which a manager knows of us: printed, installed, taken away, looked at.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use super::super::args_common::{FormatArg, Global};
use super::super::args_hook::{FilesCommand, Kind, Place};
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::out::Out;
use super::super::text;
use super::git_hooks;
use super::states::{self, Line, State};
use super::template::{self, Author, COMMAND, Template};
use crate::base::memo;
use crate::base::place::{self, Found};
use crate::base::sys::{self, Dir, Name};

/// `print`, `install`, `uninstall`, `status`.
pub(super) fn run(command: &FilesCommand, global: &Global, out: &Out) -> Result<Exit, Failure> {
    match command {
        FilesCommand::Print(args) => Ok(print(args.kind, global, out)),
        FilesCommand::Install(args) => install(args, global, out),
        FilesCommand::Uninstall(args) => uninstall(args, global, out),
        FilesCommand::Status(args) => status(args.kind, args.root.as_deref(), global, out),
    }
}

fn print(kind: Kind, global: &Global, out: &Out) -> Exit {
    let files: Vec<(PathBuf, String)> = match template::words(kind) {
        Some((text, _)) => vec![(PathBuf::new(), text)],
        None => template::files_of(kind).map(|file| (place_of(kind, file, Path::new("/")), file.render(COMMAND))).collect(),
    };
    if global.format == FormatArg::Json {
        let lines = files.into_iter().map(|(path, text)| Line { text: Some(text), ..Line::new(kind, &path) });
        states::write_json(out, &lines.collect::<Vec<_>>());
        return Exit::Good;
    }
    let several = files.len() > 1;
    for (number, (path, text)) in files.iter().enumerate() {
        if several {
            // As `head` does for several files.
            out.data(&format!("{}==> {} <==\n", if number > 0 { "\n" } else { "" }, path.display()));
        }
        out.data(text);
    }
    Exit::Good
}

fn place_of(kind: Kind, file: &Template, root: &Path) -> PathBuf {
    if kind == Kind::Git { PathBuf::from(".git/hooks").join(file.name()) } else { root.join(file.place) }
}

/// A file and its directory, where that is there.
struct Spot {
    file: &'static Template,
    path: PathBuf,
    dir: Option<Arc<Dir>>,
    name: Name,
    found: Found,
}

impl Spot {
    /// What stands there, seen by whoever would put this text there.
    fn state(&self, command: &str) -> (State, Option<String>) {
        let (bytes, mode) = match &self.found {
            Found::Absent => return (State::Absent, None),
            Found::Null => return (State::Disabled, None),
            Found::Other => return (State::Foreign, None),
            Found::File(bytes, mode) => (bytes, *mode),
        };
        let is_current = |text: &str| bytes == text.as_bytes() && mode & 0o111 == self.file.mode & 0o111;
        match template::author(bytes) {
            Author::Foreign => (State::Foreign, None),
            Author::Edited(version) => (State::Edited, Some(version)),
            Author::Ours(version) if [command, COMMAND].iter().any(|command| is_current(&self.file.render(command))) => {
                (State::Current, Some(version))
            }
            Author::Ours(version) => (State::Outdated, Some(version)),
        }
    }
}

/// Where the files of a manager stand, or would.
fn spots(kind: Kind, root: Option<&Path>, make: bool) -> Result<Vec<Spot>, Failure> {
    let hooks = if kind == Kind::Git { Some(git_hooks::directory(root.unwrap_or(Path::new(".")), make)?) } else { None };
    let mut spots = Vec::new();
    for file in template::files_of(kind) {
        let (path, dir) = if let Some((at, dir)) = &hooks {
            (at.join(file.name()), dir.clone())
        } else {
            let top = root.unwrap_or(Path::new("/"));
            (top.join(file.place), place::dir_below(top, Path::new(file.dir()), make)?)
        };
        let Some(name) = Name::new(file.name()) else { continue };
        let found = dir.as_deref().map_or(Ok(Found::Absent), |dir| place::read(dir, &name))?;
        spots.push(Spot { file, path, dir, name, found });
    }
    Ok(spots)
}

/// The path of the command that a hook will call.
fn command_for(kind: Kind, root: Option<&Path>) -> Result<String, Failure> {
    if root.is_some() && kind != Kind::Git {
        return Ok(COMMAND.to_owned());
    }
    let own = std::env::current_exe().map_err(|cause| Failure::from(cause).during("cannot tell where this command is"))?;
    // Neither a shell nor a hook file of pacman has one way to quote that the other understands.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    own.to_str().filter(|path| path.chars().all(plain)).map(str::to_owned).ok_or_else(|| {
        Failure::new(format!("no hook can name `{}`: it is no plain path", text::path(&own, None)))
            .hint("install the command where its path has letters, digits and `/._+-` alone")
    })
}

/// The same, to compare by alone: nothing will be written.
fn command_or_usual(kind: Kind, root: Option<&Path>) -> String {
    command_for(kind, root).unwrap_or_else(|_| COMMAND.to_owned())
}

/// A hook of a package manager runs as root, so what it calls must be root's alone.
fn trusted(command: &str) -> Result<(), Failure> {
    let path = Path::new(command);
    let look = || {
        let dir = memo::roots_dir(path.parent().unwrap_or(Path::new("/")))?;
        memo::only_of(0, &sys::look_up(path)?, path).map(|()| drop(dir))
    };
    look().map_err(|error: crate::base::Error| {
        Failure::from(error)
            .during(format!("`{}` is not for a hook that root runs", text::path(path, None)))
            .hint("install bytekeep as a package, or copy it to /usr/local/bin, and call `hook install` from there")
    })
}

fn packaged(file: &Template, root: Option<&Path>) -> Option<PathBuf> {
    let (dir, name) = file.packaged?.rsplit_once('/')?;
    let top = root.unwrap_or(Path::new("/"));
    let dir = place::dir_below(top, Path::new(dir), false).ok()??;
    let found = place::read(&dir, &Name::new(name)?).ok()?;
    matches!(found, Found::File(..)).then(|| dir.path().join(name))
}

fn unsupported(kind: Kind) -> Result<(), Failure> {
    match template::words(kind) {
        None => Ok(()),
        Some((_, why)) => Err(Failure::new(format!("there is nothing to install for {}: {why}", kind.word()))
            .hint(format!("`bytekeep hook print {}` says what to do instead", kind.word()))),
    }
}

fn install(args: &Place, global: &Global, out: &Out) -> Result<Exit, Failure> {
    let (kind, root) = (args.kind, args.root.as_deref());
    unsupported(kind)?;
    let command = command_for(kind, root)?;
    if kind != Kind::Git && root.is_none() {
        trusted(&command)?;
        there(kind)?;
    }
    // All of them are looked at before one is written.
    let seen = spots(kind, root, false)?;
    seen.iter().try_for_each(disabled)?;
    if !args.force && template::files_of(kind).all(|file| packaged(file, root).is_some()) {
        told(global, out, &format!("A package has the hook of {} already: nothing to do\n", kind.word()));
        return report(kind, root, global, out);
    }
    for spot in &seen {
        refused(spot, spot.state(&command).0, args.force)?;
    }
    let written = seen.iter().filter(|spot| spot.state(&command).0 != State::Current).count();
    if written > 0 {
        write(kind, root, &command, args.force).map_err(|failure| failure.hint(unwritable(kind)))?;
    }
    for spot in &seen {
        let what = if spot.state(&command).0 == State::Current { "Current already" } else { "Installed" };
        told(global, out, &format!("{what}: {}\n", text::path(&spot.path, None)));
    }
    report(kind, root, global, out)
}

/// Is this manager here at all? Only asked of the system that runs: an image may be filled in any order.
fn there(kind: Kind) -> Result<(), Failure> {
    let sign = match kind {
        Kind::Dpkg => "/etc/dpkg",
        Kind::Pacman => "/etc/pacman.conf",
        Kind::Apk => "/etc/apk",
        _ => return Ok(()),
    };
    if sys::look_up(Path::new(sign)).is_ok() {
        return Ok(());
    }
    Err(Failure::new(format!("{} is not here: there is no `{sign}`", kind.word())).hint("`--root DIR` installs it in the system below DIR"))
}

/// The administrator's word, which `--force` does not overrule either.
fn disabled(spot: &Spot) -> Result<(), Failure> {
    if spot.found != Found::Null {
        return Ok(());
    }
    let path = text::path(&spot.path, None);
    Err(Failure::new(format!("the hook is disabled: `{path}` is a link to /dev/null, and stays"))
        .hint("remove the link to enable it again"))
}

fn refused(spot: &Spot, state: State, force: bool) -> Result<(), Failure> {
    disabled(spot)?;
    let path = text::path(&spot.path, None);
    if spot.found == Found::Other {
        return Err(Failure::new(format!("`{path}` is no file of a moderate size")).hint("look at it, and remove it if it may go"));
    }
    match state {
        State::Foreign if !force => {
            let name = spot.file.name();
            let hint = match spot.file.kind {
                Kind::Git => {
                    format!("add this line to it: `bytekeep hook run git -- {name} \"$@\" || true`; `--force` replaces it instead")
                }
                _ => "look whose it is; `--force` replaces it".to_owned(),
            };
            Err(Failure::new(format!("`{path}` is there and is not bytekeep's")).hint(hint))
        }
        State::Edited if !force => {
            Err(Failure::new(format!("`{path}` was edited since bytekeep made it")).hint("`--force` replaces it by a new one"))
        }
        _ => Ok(()),
    }
}

fn write(kind: Kind, root: Option<&Path>, command: &str, force: bool) -> Result<(), Failure> {
    for spot in spots(kind, root, true)? {
        let state = spot.state(command).0;
        // Looked at again: what was put there meanwhile is not overwritten either.
        refused(&spot, state, force)?;
        if let Some(dir) = spot.dir.as_deref().filter(|_| state != State::Current) {
            place::put(dir, &spot.name, spot.file.render(command).as_bytes(), spot.file.mode)?;
        }
    }
    Ok(())
}

fn unwritable(kind: Kind) -> String {
    match kind {
        Kind::Git => "the owner of the repository can".to_owned(),
        kind => format!(
            "root can, where it is mounted for writing; an image-based system gets it as the image is built: `bytekeep hook install {} --root DIR`",
            kind.word()
        ),
    }
}

fn uninstall(args: &Place, global: &Global, out: &Out) -> Result<Exit, Failure> {
    let (kind, root) = (args.kind, args.root.as_deref());
    unsupported(kind)?;
    let command = command_or_usual(kind, root);
    let (mut exit, mut removed) = (Exit::Good, 0);
    for spot in spots(kind, root, false)? {
        let path = text::path(&spot.path, None);
        match (spot.state(&command).0, spot.dir.as_deref()) {
            (State::Edited, _) if !args.force => {
                out.message(&format!("left: {path}: it was edited since bytekeep made it; `--force` removes it\n"));
                exit = Exit::Wrong;
            }
            // Whoever made it keeps it: `--force` is for what was ours.
            (State::Foreign, _) => out.message(&format!("left: {path}: it is not bytekeep's\n")),
            (State::Disabled, _) => out.message(&format!("left: {path}: a link to /dev/null, by which the hook is disabled\n")),
            (State::Absent, _) | (_, None) => {}
            (_, Some(dir)) => {
                place::remove(dir, &spot.name).map_err(|error| Failure::from(error).hint(unwritable(kind)))?;
                told(global, out, &format!("Removed: {path}\n"));
                removed += 1;
            }
        }
    }
    if removed == 0 && exit == Exit::Good {
        told(global, out, &format!("No hook of {} was installed by `hook install`\n", kind.word()));
    }
    if global.format == FormatArg::Json {
        states::write_json(out, &lines_of(kind, root, &command)?);
    }
    Ok(exit.forgiving(global.exit_zero))
}

fn told(global: &Global, out: &Out, text: &str) {
    if !global.quiet {
        out.message(text);
    }
}

fn report(kind: Kind, root: Option<&Path>, global: &Global, out: &Out) -> Result<Exit, Failure> {
    if global.format == FormatArg::Json {
        states::write_json(out, &lines_of(kind, root, &command_for(kind, root)?)?);
    }
    Ok(Exit::Good)
}

/// What `status` says of one manager.
fn lines_of(kind: Kind, root: Option<&Path>, command: &str) -> Result<Vec<Line>, Failure> {
    if template::words(kind).is_some() {
        return Ok(vec![Line { state: Some(State::Unsupported), ..Line::new(kind, Path::new("")) }]);
    }
    let mut lines = Vec::new();
    for spot in spots(kind, root, false)? {
        let (state, version) = spot.state(command);
        lines.push(Line { state: Some(state), version, ..Line::new(kind, &spot.path) });
        if let Some(path) = packaged(spot.file, root) {
            lines.push(Line { state: Some(State::Packaged), ..Line::new(kind, &path) });
        }
    }
    Ok(lines)
}

fn status(asked: Option<Kind>, root: Option<&Path>, global: &Global, out: &Out) -> Result<Exit, Failure> {
    let (mut all, mut is_wrong) = (Vec::new(), false);
    for kind in Kind::value_variants() {
        if asked.is_some_and(|asked| asked != *kind) {
            continue;
        }
        // Outside a repository, or without git, there is nothing to say of it unless it was asked for.
        if asked.is_none() && *kind == Kind::Git && !git_hooks::is_here(root.unwrap_or(Path::new("."))) {
            continue;
        }
        match lines_of(*kind, root, &command_or_usual(*kind, root)) {
            Ok(lines) => all.extend(lines),
            Err(failure) if asked.is_some() => return Err(failure),
            // A place that cannot be looked at is no reason to keep quiet of the others.
            Err(failure) => {
                out.message(&failure.render(out.style));
                is_wrong = true;
            }
        }
    }
    match global.format {
        FormatArg::Json => states::write_json(out, &all),
        FormatArg::Human => out.data(&states::table(&all)),
    }
    is_wrong |= all.iter().any(|line| matches!(line.state, Some(State::Outdated | State::Edited)));
    Ok(if is_wrong { Exit::Wrong.forgiving(global.exit_zero) } else { Exit::Good })
}
