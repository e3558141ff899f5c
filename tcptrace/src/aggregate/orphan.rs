//! Distinguishes a FIN_WAIT2 without an owner from a held one.

use crate::{
    lifecycle::{Event, Socket},
    model::TcpState,
};

/// Whether a socket was counted as a FIN_WAIT2 without an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orphan {
    Yes,
    No,
}

impl Orphan {
    /// For a socket counted in `state`.
    pub(super) fn in_state(state: TcpState, socket: &Socket) -> Self {
        let orphan = state == TcpState::FinWait2 && socket.orphan_since.is_some();
        if orphan { Self::Yes } else { Self::No }
    }

    /// For a socket that left a state by `event`.
    pub(super) fn before(event: &Event<'_>) -> Self {
        let orphan = event.from == TcpState::FinWait2 && event.orphan == Some(true);
        if orphan { Self::Yes } else { Self::No }
    }

    pub(super) const fn count(self) -> u64 {
        match self {
            Self::Yes => 1,
            Self::No => 0,
        }
    }
}
