//! Confines the threads that read recordings: they parse untrusted files without any capability, and can't
//! open, write or connect to anything (Landlock). Files that are open already stay usable.

use std::{cell::Cell, marker::PhantomData};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, path_beneath_rules,
};

use crate::privileges::{self, Work};

/// Readable paths: time zones, and random numbers, which the crate getrandom reads where it finds no `getrandom()` by name, as in
/// a static program.
const READABLE: [&str; 6] = [
    "/usr/share/zoneinfo",
    "/etc/localtime",
    "/etc/timezone",
    "/usr/lib/zoneinfo",
    "/dev/random",
    "/dev/urandom",
];
/// Paths open for reading and writing: the terminal provides the keys when standard input is redirected.
const TERMINAL: [&str; 1] = ["/dev/tty"];
/// The newest Landlock version to use; an older kernel enforces what it supports.
const NEWEST: ABI = ABI::V5;

/// Proof that the calling thread is confined; it can't be sent to another thread.
pub struct Confined {
    /// Whether this kernel enforces the sandbox.
    pub is_closed: bool,
    of_this_thread: PhantomData<*const ()>,
}

/// Drops every capability of the calling thread and confines it, together with the threads it starts later.
/// Without Landlock in the kernel only the capabilities are dropped.
pub fn confine() -> Confined {
    thread_local! {
        /// A thread that reads many recordings confines itself once: the kernel stacks at most 16 rulesets.
        static IS_CLOSED: Cell<Option<bool>> = const { Cell::new(None) };
    }
    if let Some(is_closed) = IS_CLOSED.get() {
        return Confined { is_closed, of_this_thread: PhantomData };
    }
    privileges::keep_for(Work::Nothing);
    let is_closed = restrict().unwrap_or_else(|error| {
        log::debug!("no sandbox: {error}");
        false
    });
    IS_CLOSED.set(Some(is_closed));
    Confined { is_closed, of_this_thread: PhantomData }
}

fn restrict() -> Result<bool, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(TERMINAL, AccessFs::from_all(NEWEST)))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
