//! What packages hold, without building them: `.ci/packages` does that.

#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

#[path = "support/pages.rs"]
mod pages;

use pages::text;

const COMPLETIONS: [&str; 3] = ["bash-completion/completions/bytekeep", "_bytekeep", "bytekeep.fish"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `bytekeep-seal.5` and its section.
fn man_pages() -> Vec<(String, String)> {
    let names = std::fs::read_dir(top().join("man")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), name.rsplit('.').next().unwrap().to_owned())).collect()
}

/// What stands between this line and the next heading of a table.
fn table<'a>(manifest: &'a str, heading: &str) -> &'a str {
    let (_, rest) = manifest.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n[").next().unwrap()
}

/// The `.deb` has its own list of what goes in.
#[test]
fn the_deb_has_everything() {
    let manifest = text("Cargo.toml");
    let deb = table(&manifest, "[package.metadata.deb]");
    let assets: Vec<(&str, &str)> = deb
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[\""))
        .map(|line| {
            let mut words = line.split('"').step_by(2);
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect();
    assert!(assets.contains(&("target/release/bytekeep", "usr/bin/")), "{assets:?}");
    for (page, section) in man_pages() {
        let asset = (format!("man/*.{section}"), format!("usr/share/man/man{section}/"));
        assert!(assets.iter().any(|(from, to)| (*from, *to) == (asset.0.as_str(), asset.1.as_str())), "{page}: {assets:?}");
    }
    for shell in ["bytekeep.bash", "_bytekeep", "bytekeep.fish"] {
        assert!(assets.iter().any(|(from, _)| *from == format!("target/packages/completions/{shell}")), "{shell}");
    }
    for (from, _) in assets.iter().filter(|(from, _)| !from.starts_with("target/") && !from.contains('*')) {
        assert!(top().join(from).exists(), "{from}");
    }
    // Each script is one that dpkg understands, and postinst hands on every word that it gets.
    let mut there: Vec<String> =
        std::fs::read_dir(top().join(".packages/deb")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(there, ["postinst", "postrm", "triggers"]);
    assert!(text(".packages/deb/postinst").contains("bytekeep hook run dpkg -- \"$@\""));
    let triggers = text(".packages/deb/triggers");
    let names: Vec<&str> = triggers.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(names.contains(&"interest-noawait /usr/lib/python3/dist-packages"));
    assert!(names.iter().all(|line| line.starts_with("interest-noawait /usr/lib/py")), "{names:?}");
}

/// Every other package is packed from what one function lays out; here it does so.
#[test]
fn what_is_laid_out_is_everything_and_its_hooks_are_those_that_are_printed() {
    if !pages::have(&["bash", "strip", "gzip", "install"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let command = env!("CARGO_BIN_EXE_bytekeep");
    let done = Command::new(top().join(".packages/build")).args(["layout", command]).arg(dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut there = BTreeSet::new();
    let mut left = vec![dir.path().join("usr")];
    while let Some(dir_below) = left.pop() {
        for entry in std::fs::read_dir(&dir_below).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                there.insert(path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut expected: BTreeSet<String> =
        man_pages().into_iter().map(|(page, section)| format!("usr/share/man/man{section}/{page}.gz")).collect();
    expected.extend(["README.md", "CHANGELOG.md"].map(|name| format!("usr/share/doc/bytekeep/{name}")));
    expected.extend(["LICENSE-MIT", "LICENSE-APACHE"].map(|name| format!("usr/share/licenses/bytekeep/{name}")));
    expected.extend(["compile", "remove"].map(|name| format!("usr/share/libalpm/hooks/bytekeep-{name}.hook")));
    expected.extend(
        ["bash-completion/completions/bytekeep", "zsh/site-functions/_bytekeep", "fish/vendor_completions.d/bytekeep.fish"]
            .map(|name| format!("usr/share/{name}")),
    );
    expected.insert("usr/bin/bytekeep".to_owned());
    assert_eq!(there, expected);
    for completion in there.iter().filter(|path| COMPLETIONS.iter().any(|end| path.ends_with(end))) {
        assert!(std::fs::metadata(dir.path().join(completion)).unwrap().len() > 1000, "{completion}");
    }
    let printed = |kind: &str| String::from_utf8(Command::new(command).args(["hook", "print", kind]).output().unwrap().stdout).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("triggers.spec")).unwrap(), printed("rpm"));
    let pacman = printed("pacman");
    for name in ["compile", "remove"] {
        let hook = std::fs::read_to_string(dir.path().join(format!("usr/share/libalpm/hooks/bytekeep-{name}.hook"))).unwrap();
        assert!(pacman.contains(&hook) && hook.contains("\nExec = /usr/bin/bytekeep hook run pacman"), "{hook}");
    }
    // And what each package lists is what was laid out.
    let spec = text(".packages/bytekeep.spec");
    for path in there.iter().filter(|path| !path.contains("/libalpm/") && !path.contains("/man/")) {
        let listed = ["licenses/bytekeep", "doc/bytekeep"].into_iter().find(|dir| path.contains(dir));
        let listed = listed.map_or(format!("/{path}"), |dir| format!("/usr/share/{dir}"));
        assert!(spec.lines().any(|line| line.split(' ').next_back() == Some(&listed)), "{path} is not in the spec");
    }
    assert!(spec.contains("\n/usr/share/man/man*/*\n") && spec.contains("\n%include %{triggers}"));
    assert!(text(".packages/PKGBUILD").contains("cp -r --no-preserve=ownership \"$bytekeep_image/.\" \"$pkgdir/\""));
}

#[test]
fn every_package_says_the_same_of_itself() {
    let (manifest, project) = (text("Cargo.toml"), text("pyproject.toml"));
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    for key in ["name", "description", "license", "readme"] {
        assert_eq!(value(&manifest, key), value(&project, key), "{key}");
    }
    assert!(project.contains("dynamic = [\"version\"]"), "the version stands in Cargo.toml");
    let licence = value(&manifest, "license");
    let licence = licence.trim_matches('"');
    assert!(text(".packages/bytekeep.spec").contains(&format!("License:  {licence}\n")));
}
