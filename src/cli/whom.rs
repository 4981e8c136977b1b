//! Whom `explain` answers for: the user, and the level that an interpreter is started at.

use super::failure::Failure;
use super::text;
use crate::base::user::User;
use crate::python::interpreter::Interpreter;

/// The user of `--user`; without it whoever runs this.
pub(crate) fn user(spec: Option<&str>) -> Result<User, Failure> {
    let Some(spec) = spec else { return Ok(User::caller()) };
    let found = User::find(spec).map_err(|cause| Failure::from(cause).during("cannot look for users in /etc/passwd and /etc/group"))?;
    found.ok_or_else(|| {
        Failure::new(format!("there is no user `{}`", text::message(spec)))
            .hint("name one of /etc/passwd, or give numbers: `--user UID` or `--user UID:GID`")
    })
}

/// At which level an interpreter looks for artifacts that `PYTHONOPTIMIZE` turns on so far.
pub(crate) fn level(python: &Interpreter, on: u32) -> Result<u8, Failure> {
    match u8::try_from(on) {
        Ok(level @ 0..=2) => Ok(level),
        // 2.7 has one name for all levels.
        _ if python.version.0 == 2 => Ok(2),
        _ => Err(Failure::new(format!("PYTHONOPTIMIZE makes the level {on}, and artifacts of a level above 2 are made by nobody"))
            .hint("set it to 2, or give `--optimize`")),
    }
}
