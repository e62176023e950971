//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than any port's bound and PostgreSQL's connections together need; without a bound at all some systems get slow.
const ENOUGH: u64 = 1 << 16;

/// Raises the soft bound as far as the hard one allows, up to what is ever needed: a shell's 1,024 are for programs that call `select`.
/// Gives the bound that then stands.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if current.is_some_and(|current| current < wanted)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok()
    {
        return wanted;
    }
    open_files()
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
