//! `config`: the settings that count and where each comes from, as a table for people, as one object a line for programs.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::args_common::{FormatArg, Global};
use super::config_file::{File, Whose};
use super::json::{self, VERSION};
use super::out::Out;
use super::settings::{Origin, Setting, Settings, word_of};
use super::text;

/// A setting, ready to be shown.
struct Row<'a> {
    key: &'static str,
    /// For people.
    shown: String,
    /// For programs.
    value: Value,
    value_b64: Option<String>,
    origin: &'a Origin,
}

#[derive(Serialize)]
struct SettingLine<'a> {
    v: u8,
    kind: &'static str,
    key: &'static str,
    value: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<&'a str>,
    origin: &'static str,
    name: Option<&'static str>,
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    line: Option<usize>,
}

#[derive(Serialize)]
struct ConfigurationLine {
    v: u8,
    kind: &'static str,
    whose: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    there: bool,
}

/// Tells all of them.
pub(crate) fn tell(settings: &Settings, global: &Global, out: &Out) {
    let rows = rows(settings);
    match global.format {
        FormatArg::Json => write_json(settings, &rows, out),
        FormatArg::Human => out.data(&table(settings, &rows)),
    }
}

/// In the order of [`KEYS`](super::settings::KEYS), which a test compares.
fn rows(settings: &Settings) -> Vec<Row<'_>> {
    fn row<'a, T>(key: &'static str, setting: &'a Setting<T>, shown: String, value: Value) -> Row<'a> {
        Row { key, shown, value, value_b64: None, origin: &setting.origin }
    }
    fn dir<'a, T>(key: &'static str, setting: &'a Setting<T>, path: Option<&Path>) -> Row<'a> {
        let (text, value_b64) = path.map(json::path).unzip();
        let shown = path.map_or("nowhere: HOME is not set".to_owned(), |path| text::path(path, None));
        Row { value_b64: value_b64.flatten(), ..row(key, setting, shown, text.into()) }
    }
    let durability = word_of(&settings.durability.value);
    let jobs = settings.jobs.value;
    let link_mode = word_of(&settings.link_mode.value);
    let enabled = settings.store_enabled.value;
    let size = settings.store_max_size.value;
    let shown_jobs = if jobs == 0 { format!("0 (here {})", settings.width()) } else { jobs.to_string() };
    vec![
        row("durability", &settings.durability, durability.clone(), durability.into()),
        row("jobs", &settings.jobs, shown_jobs, jobs.into()),
        row("link-mode", &settings.link_mode, link_mode.clone(), link_mode.into()),
        dir("store.dir", &settings.store_dir, settings.store_dir.value.as_deref()),
        row("store.enabled", &settings.store_enabled, enabled.to_string(), enabled.into()),
        row("store.max-size", &settings.store_max_size, exact_size(size), size.into()),
        dir("store.system-dir", &settings.store_system_dir, Some(&settings.store_system_dir.value)),
    ]
}

/// A size as it is written in a file: whole, whatever the unit.
fn exact_size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.iter().find(|(_, shift)| bytes >> shift << shift == bytes);
    whole.map_or(format!("{bytes} bytes"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

fn table(settings: &Settings, rows: &[Row<'_>]) -> String {
    let origin = |origin: &Origin| match origin {
        Origin::Default => "default".to_owned(),
        Origin::File(path, line) => format!("{}:{line}", text::path(path, None)),
        Origin::Variable(name) | Origin::Option(name) => (*name).to_owned(),
    };
    let head = ["setting".to_owned(), "value".to_owned(), "from".to_owned()];
    let lines: Vec<[String; 3]> =
        std::iter::once(head).chain(rows.iter().map(|row| [row.key.to_owned(), row.shown.clone(), origin(row.origin)])).collect();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut table = String::new();
    table.extend(lines.iter().map(|[key, value, from]| format!("{key:first$}  {value:second$}  {from}\n")));
    for file in &settings.files {
        let state = if file.there { "read" } else { "not there" };
        table.extend([format!("{}: {}, {state}\n", owner(file), text::path(&file.path, None))]);
    }
    if settings.files.is_empty() {
        table.push_str("no configuration is read\n");
    }
    table
}

fn owner(file: &File) -> &'static str {
    match file.whose {
        Whose::System => "the system's configuration",
        Whose::User => "the user's configuration",
        Whose::Named => "the configuration that was named",
    }
}

fn write_json(settings: &Settings, rows: &[Row<'_>], out: &Out) {
    for file in &settings.files {
        let (path, path_b64) = json::path(&file.path);
        let whose = file.whose.word();
        json::write(out, &ConfigurationLine { v: VERSION, kind: "configuration", whose, path, path_b64, there: file.there });
    }
    for row in rows {
        let (origin, name, file) = match row.origin {
            Origin::Default => ("default", None, None),
            Origin::File(path, line) => ("file", None, Some((path, *line))),
            Origin::Variable(name) => ("variable", Some(*name), None),
            Origin::Option(name) => ("option", Some(*name), None),
        };
        let (path, path_b64) = file.map(|(path, _)| json::path(path)).unzip();
        json::write(
            out,
            &SettingLine {
                v: VERSION,
                kind: "setting",
                key: row.key,
                value: &row.value,
                value_b64: row.value_b64.as_deref(),
                origin,
                name,
                path,
                path_b64: path_b64.flatten(),
                line: file.map(|(_, line)| line),
            },
        );
    }
}

/// All that it can write, for the test of the manual.
#[cfg(test)]
pub(crate) fn sample() -> String {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    let (out, stdout, _) = super::out::capture::plain();
    let odd = PathBuf::from(OsStr::from_bytes(b"/\xff"));
    let mut settings = Settings::load(Vec::new(), super::settings::Given::default(), &|_| None).unwrap();
    settings.files = vec![File { whose: Whose::Named, path: odd.clone(), there: true }];
    settings.store_dir = Setting { value: Some(odd.clone()), origin: Origin::File(odd, 3) };
    write_json(&settings, &rows(&settings), &out);
    stdout.text()
}

#[cfg(test)]
mod tests {
    use super::super::settings::KEYS;
    use super::*;

    #[test]
    fn every_key_has_its_row() {
        let settings = Settings::load(Vec::new(), super::super::settings::Given::default(), &|_| None).unwrap();
        let rows: Vec<&str> = rows(&settings).iter().map(|row| row.key).collect();
        assert_eq!(rows, KEYS.map(|(key, _)| key));
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in [(2 << 30, "2GiB"), (1536 << 20, "1536MiB"), (1 << 10, "1KiB"), (1_000, "1000 bytes"), (1, "1 bytes")] {
            assert_eq!(exact_size(bytes), text);
        }
    }

    #[test]
    fn lines_for_programs() {
        let text = sample();
        assert!(
            text.starts_with(
                "{\"v\":1,\"kind\":\"configuration\",\"whose\":\"named\",\"path\":\"/\u{fffd}\",\"path_b64\":\"L/8=\",\"there\":true}\n"
            ),
            "{text}"
        );
        let dir = text.lines().find(|line| line.contains("store.dir")).unwrap();
        assert_eq!(
            dir,
            "{\"v\":1,\"kind\":\"setting\",\"key\":\"store.dir\",\"value\":\"/\u{fffd}\",\"value_b64\":\"L/8=\",\"origin\":\"file\",\"name\":null,\
             \"path\":\"/\u{fffd}\",\"path_b64\":\"L/8=\",\"line\":3}"
        );
    }
}
