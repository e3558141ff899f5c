//! Landlock around those who read recordings: a file that came from elsewhere is taken apart where nothing else can be
//! opened, written or connected to. What is open already stays open.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, path_beneath_rules,
};

/// What may still be read: time zones.
const READABLE: [&str; 4] = ["/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone", "/usr/lib/zoneinfo"];
/// What may still be opened for both: the terminal's keys come from it when standard input is something else.
const TERMINAL: [&str; 1] = ["/dev/tty"];
/// The newest interface that is asked for; an older kernel forbids what it can.
const NEWEST: ABI = ABI::V5;

/// Closes the sandbox around the calling thread and those it makes from now on; `recordings` can still be read. Kernels
/// without Landlock go on without.
pub fn close(recordings: &[&Path]) {
    if let Err(error) = restrict(recordings) {
        log::debug!("no sandbox: {error}");
    }
}

fn restrict(recordings: &[&Path]) -> Result<(), RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(recordings, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(TERMINAL, AccessFs::from_all(NEWEST)))?
        .restrict_self()
        .map(drop)
}
