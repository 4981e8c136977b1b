//! What package managers record of the files that they brought. It knows no language: who asks says how the names end that matter.
//!
//! Asked for one reason: an artifact that came in a package is the manager's to the byte (`rpm -V`, `pacman -Qkk`, `dpkg -V`, `apk audit`
//! and `conda doctor` compare it), so a seal behind it would look like damage. Records are only read; nothing here writes.

mod alpm;
mod apk;
mod conda;
mod dpkg;
pub mod listed;
mod reading;
mod rpm;

pub use listed::Listed;
