//! The command: arguments to a job, events to lines, a summary to an exit code. The only part that prints.
//!
//! Reading starts in `args` (what can be said), goes on in `setup` (what it means), and ends in `human` and `json` (what is told).

mod args;
mod args_common;
mod args_hook;
mod args_store;
mod compileall;
mod config;
mod config_file;
mod differ;
mod env;
mod exclude;
mod exit;
mod explain;
mod failure;
mod hints;
mod hook;
mod human;
mod inspect;
mod inspect_code;
mod inspect_render;
mod inspect_source;
mod json;
mod out;
mod packages;
mod placed;
mod roots;
mod settings;
mod setup;
mod signals;
mod store;
mod store_command;
mod summary;
mod text;
mod until;
mod whom;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::FromArgMatches;

use self::args::{Cli, Command};
use self::args_common::{ColorArg, FormatArg, Global};
use self::config_file::Reach;
use self::exit::Exit;
use self::explain::Answers;
use self::failure::{Failure, error_block, usage_block};
use self::human::{Human, Loudness};
use self::json::Json;
use self::out::Out;
use self::settings::Settings;
use self::setup::Plan;
use crate::flow::{self, Action, EntryEvent, Event, Report, Summary};
use crate::model::{Cause, Verdict};

/// Runs the command with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(run(&arguments).code())
}

/// The definition of the command line, for whoever renders manuals from it.
pub fn command() -> clap::Command {
    args::definition()
}

/// A generated table of the README, by its name.
#[doc(hidden)]
pub fn readme_table(name: &str) -> Option<String> {
    summary::readme_table(name)
}

fn run(arguments: &[OsString]) -> Exit {
    // What stands behind is not ours to read: `-q` means something else there.
    let (arguments, behind) = args::split_compileall(arguments);
    let parsed = args::definition_here(arguments).try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let out = Out::of_process(ColorArg::Auto);
            let exit = refuse(&error, arguments, &out);
            return told(exit, &out);
        }
    };
    let out = Out::of_process(cli.global.color);
    let exit = match listen_to_library(&cli.global).and_then(|()| act(&cli, behind, &out)) {
        Ok(exit) => exit,
        Err(failure) => {
            out.message(&failure.render(out.style));
            Exit::Unable
        }
    };
    told(exit, &out)
}

/// The end, where all that was asked for could be written; else that is told, and counts.
fn told(exit: Exit, out: &Out) -> Exit {
    if let Some(kind) = out.data_failure() {
        out.message(&error_block(out.style, "cannot write to standard output", &[std::io::Error::from(kind).to_string()], None));
        return exit.at_least_wrong();
    }
    exit
}

/// Help and version are answers; everything else is an error in the shape of all errors.
fn refuse(error: &clap::Error, arguments: &[OsString], out: &Out) -> Exit {
    use clap::error::ErrorKind as Kind;
    let rendered = error.render();
    match error.kind() {
        Kind::DisplayHelp | Kind::DisplayVersion => {
            out.data(&if out.data_style.0 { rendered.ansi().to_string() } else { rendered.to_string() });
            Exit::Good
        }
        Kind::DisplayHelpOnMissingArgumentOrSubcommand => {
            out.message(&if out.style.0 { rendered.ansi().to_string() } else { rendered.to_string() });
            Exit::Unable
        }
        _ => {
            let definition = args::definition();
            let named =
                arguments.iter().skip(1).filter_map(|argument| argument.to_str()).find(|word| definition.find_subcommand(word).is_some());
            out.message(&usage_block(out.style, &rendered.to_string(), named));
            Exit::Unable
        }
    }
}

fn act(cli: &Cli, behind: &[OsString], out: &Out) -> Result<Exit, Failure> {
    let cwd = std::env::current_dir().ok();
    match &cli.command {
        Command::Completions(args) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut args::definition(), "bytekeep", &mut text);
            out.data(&String::from_utf8_lossy(&text));
            Ok(Exit::Good)
        }
        Command::Inspect(args) if args.diff => inspect_two(args, &cli.global, out, cwd.as_deref()),
        Command::Inspect(args) => Ok(inspect_all(args, &cli.global, out, cwd.as_deref())),
        Command::Compileall(args) => compileall::run(args, behind, &settings_of(cli)?, out),
        Command::Config(_) => {
            config::tell(&settings_of(cli)?, &cli.global, out);
            Ok(Exit::Good)
        }
        Command::Hook(args) => hook::run(&args.command, cli.command.given(), &cli.global, out),
        chosen => {
            let settings = settings_of(cli)?;
            let stop = signals::listen().map_err(|cause| Failure::from(cause).during("cannot listen to signals"))?;
            if let Command::Store(args) = chosen
                && let Some(done) = store_command::run(&args.command, &settings, &cli.global, out, &stop)
            {
                return done;
            }
            let plan = match Plan::new(chosen, &settings, &setup::Environment::of_process(), &stop) {
                // Whatever went wrong: it was to end.
                Err(_) if stop.load(Ordering::SeqCst) => {
                    if !cli.global.quiet {
                        out.message("Interrupted before anything was begun\n");
                    }
                    return Ok(Exit::Interrupted);
                }
                plan => plan?,
            };
            plan.map_or(Ok(Exit::Good), |plan| work(&plan, &cli.global, out, cwd, &stop))
        }
    }
}

fn settings_of(cli: &Cli) -> Result<Settings, Failure> {
    Settings::of_process(&cli.global, cli.command.given(), Reach::User)
}

fn inspect_all(args: &args::Inspect, global: &Global, out: &Out, cwd: Option<&Path>) -> Exit {
    let mut told = 0;
    let mut exit = Exit::Good;
    for path in &args.files {
        match inspect::look(path, args.max_size.0, setup::format()) {
            Ok(artifact) => {
                told += 1;
                match global.format {
                    FormatArg::Json => inspect::write_json(out, &artifact),
                    FormatArg::Human => out.data(&inspect_render::render(&artifact, path, cwd, args.code, out.data_style)),
                }
                if !artifact.is_good() {
                    exit = Exit::Wrong;
                }
            }
            Err(failure) => {
                out.message(&failure.render(out.style));
                exit = Exit::Wrong;
            }
        }
    }
    if told == 0 { Exit::Unable } else { exit.forgiving(global.exit_zero) }
}

fn inspect_two(args: &args::Inspect, global: &Global, out: &Out, cwd: Option<&Path>) -> Result<Exit, Failure> {
    let [first, second] = args.files.as_slice() else {
        return Err(Failure::new(format!("`--diff` compares two artifacts, and {} are named", args.files.len())));
    };
    let told = differ::look(first, second, args.max_size.0, setup::format())?;
    match global.format {
        FormatArg::Json => differ::write_json(out, &told),
        FormatArg::Human => out.data(&differ::render(&told, first, second, cwd, out.data_style)),
    }
    Ok(if told.is_same() { Exit::Good } else { Exit::Wrong.forgiving(global.exit_zero) })
}

fn work(plan: &Plan, global: &Global, out: &Out, cwd: Option<PathBuf>, stop: &AtomicBool) -> Result<Exit, Failure> {
    let loudness = Loudness { quiet: global.quiet, verbose: global.verbose > 0 };
    let json = (global.format == FormatArg::Json).then(|| Json::new(out));
    let mut human = Human::new(out, plan.command, plan.is_dry_run(), loudness, cwd.clone());
    if plan.command == flow::Command::Status {
        human = human.by_package(plan.roots.iter().map(|root| root.dir.clone()).collect(), plan.owners.clone());
    }
    let lines: &dyn Report = json.as_ref().map_or(&human as &dyn Report, |json| json);
    let answers = plan.asked.clone().map(|asked| Answers::new(out, asked, json.is_some(), loudness.verbose, cwd));
    let report = &|event: &Event<'_>| match (event, &answers) {
        (Event::Answer(answer), Some(answers)) => answers.take(answer),
        _ => lines.event(event),
    };
    for note in &plan.notes {
        report.event(&Event::Note { code: "setup", text: note, path: Path::new("") });
    }
    let terminal = std::io::stderr().is_terminal();
    if json.is_none() && !global.quiet && out::Environment::of_process().allows_bar(terminal) {
        human.show_progress();
    }
    let answer = plan.with_job(stop, |job| flow::run(job, report));
    let mut summary = answer.inspect_err(|_| human.finish())?;
    tidy(plan, report, stop, &mut summary).inspect_err(|_| human.finish())?;
    plan.unusable.iter().for_each(|(path, cause)| tell_unusable(path, cause, report, &mut summary));
    // Where there was nothing to do but compiling, nothing could be done at all: then that is what is told.
    let unable = plan.lacking.clone().filter(|_| summary.entries == summary.action(Action::Failed));
    if unable.is_some() {
        human.leave_out("no-interpreter");
    }
    human.finish();
    if let Some(answers) = &answers {
        answers.conclude(&summary, loudness.quiet);
        return Ok(Exit::of(&summary).forgiving(global.exit_zero));
    }
    match &json {
        Some(json) => json.summary(plan.command, plan.is_dry_run(), &summary),
        None => conclude(plan, out, &human, &summary, loudness),
    }
    match unable {
        Some(error) => Err(setup::lacks_interpreter(plan.command, error)),
        None => Ok(Exit::of(&summary).forgiving(global.exit_zero)),
    }
}

/// Takes away what distributions left that are gone, as far as there is time. Directories go last: an artifact that stays keeps its own.
fn tidy(plan: &Plan, report: &dyn Report, stop: &AtomicBool, summary: &mut Summary) -> Result<(), Failure> {
    if plan.remains.is_empty() || summary.stopped || summary.out_of_time {
        return Ok(());
    }
    let spent = summary.elapsed;
    summary.absorb(&plan.with_tidying(stop, spent, |job| flow::run(job, report))?);
    if !plan.is_dry_run() && !summary.stopped {
        let emptied = plan.remains.remove_emptied();
        tracing::debug!(emptied, "directories that held nothing but artifacts were removed");
    }
    Ok(())
}

fn conclude(plan: &Plan, out: &Out, human: &Human<'_>, summary: &Summary, loudness: Loudness) {
    if plan.command == flow::Command::Status {
        out.data(&summary::table(summary, out.data_style));
        out.data(&human.packages(out.data_style));
    }
    // Of a run that was out of time nothing else tells why it failed.
    if loudness.quiet && !summary.out_of_time {
        return;
    }
    out.message(&summary::line(plan.command, plan.is_dry_run(), summary, out.style));
    if let Some(hint) = summary::next(plan.command, summary) {
        out.message(&format!("{}: {hint}\n", out.style.hint("hint")));
    }
}

/// A path that cannot be used: an entry like any other that fails, so that it neither stops the rest nor goes unseen.
fn tell_unusable(path: &Path, cause: &Cause, report: &dyn Report, summary: &mut Summary) {
    let event = EntryEvent {
        artifact: path,
        source: Some(path),
        tag: None,
        level: None,
        verdict: Verdict::Unreadable,
        action: Action::Failed,
        cause: Some(cause),
        warnings: &[],
        wrong: true,
        bytes: 0,
        stored: false,
    };
    summary.count(&event);
    report.event(&Event::Entry(event));
}

/// Shows what the library traces: with `-v` each error that it goes on after, with its cause; with more, more.
fn listen_to_library(global: &Global) -> Result<(), Failure> {
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;

    let asked = std::env::var_os("BYTEKEEP_LOG").filter(|word| !word.is_empty());
    let level_of = |word: OsString| word.to_str().and_then(|word| word.parse::<LevelFilter>().ok()).ok_or(word);
    let asked = asked.map(level_of).transpose().map_err(|word| {
        let text = format!("`BYTEKEEP_LOG={}` is no level", text::message(&word.to_string_lossy()));
        Failure::new(text).hint("levels are `off`, `error`, `warn`, `info`, `debug` and `trace`")
    })?;
    let level = asked.unwrap_or(match global.verbose {
        0 => LevelFilter::OFF,
        1 | 2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    });
    if level == LevelFilter::OFF {
        return Ok(());
    }
    let only_ignored = asked.is_none() && global.verbose == 1;
    let wanted = filter_fn(move |event| *event.level() <= level && (!only_ignored || event.fields().field("cause").is_some()));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_ansi(false).with_filter(wanted);
    // There is one command in a process, so nobody else has set it.
    drop(tracing_subscriber::registry().with(lines).try_init());
    Ok(())
}
