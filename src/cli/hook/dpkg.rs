//! dpkg: as a trigger it hands over the names of what was triggered, as directories; called by dpkg itself at the end of a run
//! (`post-invoke`) it hands over nothing, and its lists of files say what changed ([`lists`](super::lists)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::settings::variable;
use super::places::Places;

/// Where Debian's packages have their modules.
const PUBLIC: &str = "/usr/lib/python3/dist-packages";

/// What the words of a postinst mean: `triggered "NAME NAME"`, or `configure` when our own package comes. Of all others there is
/// nothing to do, nor of those that a later dpkg may have.
pub(super) fn places(words: &[OsString]) -> Places {
    let mut places = Places::default();
    match words.first().and_then(|word| word.to_str()) {
        Some("triggered") => {
            let names = words.iter().skip(1).flat_map(|word| word.as_bytes().split(u8::is_ascii_whitespace));
            for name in names.filter(|name| name.starts_with(b"/")) {
                places.add_tree(OsStr::from_bytes(name));
            }
        }
        Some("configure") => {
            places.add_tree(OsStr::new(PUBLIC));
        }
        _ => {}
    }
    places
}

/// The root that a maintainer script is to work on: `--root`, else what dpkg says.
pub(super) fn root(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_path_buf).or_else(|| variable("DPKG_ROOT").map(PathBuf::from)).filter(|root| !is_same(root, Path::new("/")))
}

/// Did dpkg work on another system, or by another database, than the one that is looked at? Its own configuration makes it call us after
/// those runs too, and nothing of them is for this system.
pub(super) fn was_elsewhere(root: Option<&Path>) -> bool {
    let root = root.unwrap_or(Path::new("/"));
    let other = |name: &str, own: &Path| variable(name).is_some_and(|value| !is_same(Path::new(&value), own));
    let own_root = variable("DPKG_ROOT").is_none() && root != Path::new("/");
    // dpkg 1.18 and earlier say nothing of it; then the lists of this system are as they were, and that is answer enough.
    let told = variable("DPKG_ADMINDIR").is_some();
    (told && own_root) || other("DPKG_ROOT", root) || other("DPKG_ADMINDIR", &root.join("var/lib/dpkg"))
}

/// Is there nothing to look at before dpkg comes again? What was only unpacked may lack what its interpreter needs; the run that
/// configures it finds it by the same lists.
pub(super) fn is_unfinished() -> bool {
    variable("DPKG_HOOK_ACTION").is_some_and(|action| action == "unpack")
}

/// Do two paths lead to the same place?
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.components().collect());
    real(one) == real(other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_a_postinst_is_called_with() {
        let trees = |words: &[&str]| places(&words.iter().map(OsString::from).collect::<Vec<_>>()).trees;
        let set = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        assert_eq!(trees(&["triggered", "/usr/lib/python3/dist-packages /usr/lib/python3.12/"]), set(&[PUBLIC, "/usr/lib/python3.12"]));
        assert_eq!(trees(&["triggered", "python3-update /../x"]), set(&[]));
        assert_eq!(trees(&["configure", ""]), set(&[PUBLIC]));
        for words in [&["abort-upgrade", "1.0"][..], &["abort-remove", "in-favour", "x", "1"], &["later-word"], &[]] {
            assert_eq!(trees(words), set(&[]), "{words:?}");
        }
    }
}
