//! Short labels: the role of a socket, its closer, the source of its owner.

use crate::lifecycle::{Closer, OwnerKind, Role};

/// Label for the source of an owner.
pub const fn owner(owner: OwnerKind) -> &'static str {
    match owner {
        OwnerKind::Unknown => "-",
        OwnerKind::Listener => "listener",
        OwnerKind::Proc => "proc",
        OwnerKind::Exact => "call",
    }
}

/// Label of a role, in at most four columns.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Unknown => "?",
        Role::Inbound => "in",
        Role::Outbound => "out",
        Role::Listener => "lstn",
    }
}

/// Label of the closer.
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
