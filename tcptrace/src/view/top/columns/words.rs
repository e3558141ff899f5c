//! What is told in a word or two: the role of a socket, who closed it, how its owner is known.

use crate::lifecycle::{Closer, OwnerKind, Role};

/// How an owner is known, in a column.
pub const fn owner(owner: OwnerKind) -> &'static str {
    match owner {
        OwnerKind::Unknown => "-",
        OwnerKind::Listener => "listener",
        OwnerKind::Proc => "proc",
        OwnerKind::Exact => "call",
    }
}

/// A role in four columns.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Unknown => "?",
        Role::Inbound => "in",
        Role::Outbound => "out",
        Role::Listener => "lstn",
    }
}

/// Who closed first, in a column.
pub fn closer(closer: Closer) -> &'static str {
    match closer {
        Closer::None => "-",
        Closer::Local => "local",
        Closer::Remote => "remote",
        Closer::Both => "both",
        Closer::ResetReceived => "rst-in",
        Closer::ResetSent => "rst-out",
        Closer::TimedOut => "timeout",
        Closer::Refused => "refused",
    }
}
