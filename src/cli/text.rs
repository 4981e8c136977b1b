//! Names, numbers and times as people read them. Names come from trees that others filled: what could move the cursor, change the
//! terminal or look like another name is escaped before it gets there.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::base::sys::Time;

/// A path for people: relative to the working directory where it lies in it, and harmless.
pub(crate) fn path(path: &Path, cwd: Option<&Path>) -> String {
    let shorter = cwd.and_then(|cwd| path.strip_prefix(cwd).ok()).or_else(|| path.strip_prefix(".").ok());
    let shorter = shorter.filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path);
    name(shorter.as_os_str().as_bytes())
}

/// A name's bytes, harmless and without ambiguity: whatever is escaped begins with a backslash, and so is a backslash.
pub(crate) fn name(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' { text.push_str("\\\\") } else { push_harmless(&mut text, c) }
        }
        for byte in chunk.invalid() {
            text.extend([format!("\\x{byte:02x}")]);
        }
    }
    text
}

/// The same, no longer than a line.
pub(crate) fn short_name(bytes: &[u8]) -> String {
    let whole = name(bytes);
    match whole.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", whole.get(..end).unwrap_or_default()),
        None => whole,
    }
}

/// A message that may have several lines and quote a source: newlines and tabs stay, all else is made harmless.
pub(crate) fn message(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\n' | '\t') { clean.push(c) } else { push_harmless(&mut clean, c) }
    }
    clean
}

fn push_harmless(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if c.is_ascii_control() => text.extend([format!("\\x{:02x}", u32::from(c))]),
        // C1 controls, line separators, and what reorders or hides the text around it
        c if c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}') =>
        {
            text.extend([format!("\\u{{{:x}}}", u32::from(c))]);
        }
        c => text.push(c),
    }
}

/// Every line of a text with so many spaces before it.
pub(crate) fn indent(text: &str, spaces: usize) -> String {
    let lines: Vec<String> =
        text.lines().map(|line| if line.is_empty() { String::new() } else { format!("{:spaces$}{line}", "") }).collect();
    lines.join("\n")
}

/// `1 entry`, `2 entries`.
pub(crate) fn entries(number: u64) -> String {
    format!("{number} {}", if number == 1 { "entry" } else { "entries" })
}

/// How long something took, as people say it: `520ms`, `3.41s`, `2m 05s`.
pub(crate) fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        1..=59 => format!("{:.2}s", time.as_secs_f64()),
        seconds => format!("{}m {:02}s", seconds / 60, seconds % 60),
    }
}

/// A number of bytes, `12.3 MB`.
#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let number = bytes as f64;
    match units.iter().find(|(_, unit)| number >= *unit) {
        Some((word, unit)) => format!("{:.1} {word}", number / unit),
        None => format!("{bytes} bytes"),
    }
}

/// A time as a date of the calendar in UTC.
pub(crate) fn date(seconds: i64) -> String {
    let (day, time) = Time { sec: seconds, nsec: 0 }.calendar();
    format!("{day} {time} UTC")
}

/// Base64 with padding (RFC 4648), for paths that are no UTF-8.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_name_can_do_nothing_to_a_terminal() {
        for (bytes, shown) in [
            (&b"plain.py"[..], "plain.py"),
            ("größe.py".as_bytes(), "größe.py"),
            (b"a\nerror: b", "a\\nerror: b"),
            (b"\x1b[2J\x07", "\\x1b[2J\\x07"),
            (b"caf\xe9.py", "caf\\xe9.py"),
            (b"back\\slash", "back\\\\slash"),
            ("a\u{202e}yp.b\u{9b}".as_bytes(), "a\\u{202e}yp.b\\u{9b}"),
        ] {
            assert_eq!(name(bytes), shown);
        }
        assert_eq!(message("  line\n\t^\x1b"), "  line\n\t^\\x1b");
        assert_eq!((short_name(b"a\n").as_str(), short_name("ö".repeat(99).as_bytes())), ("a\\n", "ö".repeat(80) + "…"));
    }

    #[test]
    fn paths_are_relative_to_the_working_directory() {
        let cwd = Path::new("/home/u");
        for (full, shown) in
            [("/home/u/a/b.py", "a/b.py"), ("/home/u", "/home/u"), ("/etc/x", "/etc/x"), ("./a.py", "a.py"), (".", "."), ("../a", "../a")]
        {
            assert_eq!(path(Path::new(full), Some(cwd)), shown);
        }
        assert_eq!(path(Path::new(OsStr::from_bytes(b"\xff")), None), "\\xff");
    }

    #[test]
    fn numbers_and_times() {
        assert_eq!(elapsed(Duration::from_millis(520)), "520ms");
        assert_eq!(elapsed(Duration::from_millis(3410)), "3.41s");
        assert_eq!(elapsed(Duration::from_secs(125)), "2m 05s");
        assert_eq!((size(999), size(12_300_000)), ("999 bytes".to_owned(), "12.3 MB".to_owned()));
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (4_294_967_295, "2106-02-07 06:28:15 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn base64_as_the_rfc_has_it() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }
}
