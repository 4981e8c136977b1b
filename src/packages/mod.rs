//! What package managers record of the files that they brought: read, and never written.
//!
//! Asked for two reasons. [`distinfo`] says which sources and artifacts belong to the distributions of an environment. [`listed`] says what
//! stays as it came, and knows no language (who asks says how the names end that matter): an artifact that came in a package is the manager's to the byte (`rpm -V`, `pacman -Qkk`, `dpkg -V`, `apk audit`
//! and `conda doctor` compare it), so a seal behind it would look like damage.

mod alpm;
mod apk;
mod conda;
pub mod distinfo;
mod dpkg;
pub mod listed;
mod reading;
mod record;
mod rpm;

pub use listed::Listed;
