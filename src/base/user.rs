//! Who runs something, and what a file's owner, group and mode let them do. Pure but for [`User::caller`], [`User::find`] and [`names`], which read `/etc/passwd` and
//! `/etc/group` themselves: whoever asks about a container's user asks about the files of that container, and no directory service.
//!
//! Access control lists, capabilities and security modules are not looked at.

use std::io;

use super::sys::{self, Stat};

/// Somebody who runs programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Their name, where one is known.
    pub name: Option<String>,
    /// Their number.
    pub uid: u32,
    /// Their groups, the first one first.
    pub gids: Vec<u32>,
}

/// What somebody may want to do with a file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Read the file; list the directory.
    Read,
    /// Write the file; make and remove names in the directory.
    Write,
    /// Reach what is in the directory.
    Search,
}

impl User {
    /// Whoever runs this process.
    pub fn caller() -> Self {
        let uid = sys::effective_user();
        let name = std::fs::read("/etc/passwd").ok().and_then(|table| Account::of_uid(&table, uid)).map(|account| account.name);
        Self { name, uid, gids: sys::effective_groups() }
    }

    /// The user of a name, of a number, or of two numbers (`1000:1000`, user and group). A number that has no name is in group 0 alone, as
    /// container engines have it. `None`: there is no such name.
    ///
    /// # Errors
    /// `/etc/passwd` or `/etc/group` is there and cannot be read.
    pub fn find(spec: &str) -> io::Result<Option<Self>> {
        let read = |path| match std::fs::read(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            answer => answer,
        };
        Ok(Self::parse(spec, &read("/etc/passwd")?, &read("/etc/group")?))
    }

    fn parse(spec: &str, passwd: &[u8], group: &[u8]) -> Option<Self> {
        let (who, gid) = match spec.split_once(':') {
            Some((who, gid)) => (who, Some(gid.parse::<u32>().ok()?)),
            None => (spec, None),
        };
        let account = match who.parse::<u32>() {
            Ok(uid) => Account::of_uid(passwd, uid).map_or(Account { name: String::new(), uid, gid: 0 }, |account| account),
            Err(_) => accounts(passwd).find(|account| account.name == who)?,
        };
        let mut gids = vec![gid.unwrap_or(account.gid)];
        // A group that is named stands alone, as container engines have it.
        if gid.is_none() && !account.name.is_empty() {
            for group in groups_of(group, &account.name) {
                if !gids.contains(&group) {
                    gids.push(group);
                }
            }
        }
        Some(Self { name: Some(account.name).filter(|name| !name.is_empty()), uid: account.uid, gids })
    }

    /// May they do this with what `stat` describes? The way to it is another question. Root may do everything.
    pub fn may(&self, stat: &Stat, right: Right) -> bool {
        let bit = match right {
            Right::Read => 4,
            Right::Write => 2,
            Right::Search => 1,
        };
        // The first class that fits decides alone: an owner without a right does not have it as one of the others.
        let class = if self.uid == stat.uid {
            6
        } else if self.gids.contains(&stat.gid) {
            3
        } else {
            0
        };
        self.uid == 0 || stat.mode >> class & bit != 0
    }
}

/// The names of a user and of a group, as `/etc/passwd` and `/etc/group` have them; `None` where they do not, or cannot be read: a number
/// says enough.
pub fn names(uid: u32, gid: u32) -> (Option<String>, Option<String>) {
    let read = |path| std::fs::read(path).unwrap_or_default();
    (Account::of_uid(&read("/etc/passwd"), uid).map(|account| account.name), group_name(&read("/etc/group"), gid))
}

/// A line of `/etc/passwd`.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    fn of_uid(passwd: &[u8], uid: u32) -> Option<Self> {
        accounts(passwd).find(|account| account.uid == uid)
    }
}

fn fields(line: &[u8]) -> Option<Vec<&str>> {
    Some(std::str::from_utf8(line).ok()?.split(':').collect())
}

fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account> + '_ {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| match fields(line)?[..] {
        [name, _, uid, gid, ..] if !name.is_empty() => {
            Some(Account { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        }
        _ => None,
    })
}

fn group_name(group: &[u8], gid: u32) -> Option<String> {
    group.split(|byte| *byte == b'\n').find_map(|line| match fields(line)?[..] {
        [name, _, number, ..] if !name.is_empty() && number.parse() == Ok(gid) => Some(name.to_owned()),
        _ => None,
    })
}

fn groups_of<'g>(group: &'g [u8], name: &'g str) -> impl Iterator<Item = u32> + 'g {
    group.split(|byte| *byte == b'\n').filter_map(move |line| match fields(line)?[..] {
        [_, _, gid, members, ..] if members.split(',').any(|member| member == name) => gid.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::sys::{Kind, Time};
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# no line\napp:x:1000:1001:,,,:/app:/bin/sh\nbad:x:y:z:\nother:x:1000:7::/:\n\xff:x:9:9\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:web,app\nown:x:1001:app\nx:x:y:app\n";

    #[test]
    fn users_by_name_and_by_number() {
        let user = |name: &str, uid, gids: &[u32]| User { name: Some(name.to_owned()), uid, gids: gids.to_vec() };
        let nameless = |uid, gids: &[u32]| User { name: None, uid, gids: gids.to_vec() };
        for (spec, wanted) in [
            ("app", Some(user("app", 1000, &[1001, 50]))),
            ("1000", Some(user("app", 1000, &[1001, 50]))),
            ("1000:3", Some(user("app", 1000, &[3]))),
            ("other", Some(user("other", 1000, &[7]))),
            ("4242", Some(nameless(4242, &[0]))),
            ("4242:4243", Some(nameless(4242, &[4243]))),
            ("root", Some(user("root", 0, &[0]))),
            ("bad", None),
            ("nobody-here", None),
            ("app:staff", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(User::parse(spec, PASSWD, GROUP), wanted, "{spec}");
        }
        assert_eq!(User::parse("5", b"", b"").unwrap().gids, [0]);
    }

    #[test]
    fn groups_by_number() {
        for (gid, wanted) in [(0, Some("root")), (50, Some("staff")), (1001, Some("own")), (7, None)] {
            assert_eq!(group_name(GROUP, gid).as_deref(), wanted, "{gid}");
        }
        assert_eq!(group_name(b":x:5:\nlate:x:5", 5).as_deref(), Some("late"));
        let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let root = table.lines().any(|line| line.starts_with("root:") && line.split(':').nth(2) == Some("0"));
        assert_eq!(names(0, u32::MAX), (root.then(|| "root".to_owned()), None));
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let time = Time::default();
        let stat = |mode| Stat { dev: 1, ino: 2, kind: Kind::Dir, mode, uid: 10, gid: 20, nlink: 1, size: 0, mtime: time, ctime: time };
        let user = |uid, gids: &[u32]| User { name: None, uid, gids: gids.to_vec() };
        for (who, mode, right, wanted) in [
            (user(10, &[5]), 0o200, Right::Write, true),
            (user(10, &[20]), 0o077, Right::Read, false),
            (user(11, &[5, 20]), 0o050, Right::Search, true),
            (user(11, &[20]), 0o707, Right::Write, false),
            (user(11, &[5]), 0o001, Right::Search, true),
            (user(11, &[5]), 0o771, Right::Write, false),
            (user(0, &[0]), 0o000, Right::Write, true),
        ] {
            assert_eq!(who.may(&stat(mode), right), wanted, "{who:?} {mode:o} {right:?}");
        }
    }
}
