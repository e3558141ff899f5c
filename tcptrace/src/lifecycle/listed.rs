//! Facts that follow from a `sock_diag` listing of a socket: kernel object, entry into TIME_WAIT, closer.

use super::{Closer, Phase};
use crate::model::{Nanos, SeedSocket, TcpState, record::SeedObject};

/// Kernel object of `listed`.
pub(super) const fn phase_of(listed: &SeedSocket) -> Phase {
    match listed.object {
        SeedObject::Full => Phase::Full,
        SeedObject::Timewait { .. } => Phase::Timewait,
        SeedObject::Request { .. } => Phase::Request,
    }
}

/// Duration of the TIME_WAIT timer (`TCP_TIMEWAIT_LEN`).
const TIMEWAIT: Nanos = Nanos(60_000_000_000);

/// When a timewait socket entered TIME_WAIT, computed from the time left; `None` for all other sockets.
pub(super) fn time_wait_entry(listed: &SeedSocket) -> Option<Nanos> {
    match listed.object {
        SeedObject::Timewait { left } if listed.state == TcpState::TimeWait => {
            Some(listed.ts.minus(TIMEWAIT.since(left)))
        }
        _ => None,
    }
}

/// The side that must have closed first for a socket to be in `state`.
pub(super) const fn closer_of(state: TcpState) -> Closer {
    match state {
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::TimeWait => Closer::Local,
        TcpState::Closing => Closer::Both,
        TcpState::CloseWait | TcpState::LastAck => Closer::Remote,
        _ => Closer::None,
    }
}
