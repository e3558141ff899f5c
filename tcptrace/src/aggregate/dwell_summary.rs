//! Summaries of dwells, as the views render them.

use serde::Serialize;

use super::{Distribution, Split};
use crate::{
    lifecycle::{EndReason, Role},
    model::TcpState,
};

/// The dwells of some sockets in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDwells {
    /// The state.
    pub state: TcpState,
    /// Subset of the dwells; `None`: all.
    pub split: Option<Split>,
    /// Sockets in the state now, whose dwell has not ended; `None` if the subset is known only at the end.
    pub open_now: Option<u64>,
    /// Distribution of their lengths.
    pub distribution: Distribution,
}

/// The dwells of all sockets of one role in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleDwells {
    /// Role at the time the sockets left the state.
    pub role: Role,
    /// The state.
    pub state: TcpState,
    /// Distribution of their lengths.
    pub distribution: Distribution,
}

/// One of the two states that timewait sockets are in.
#[derive(Clone, Debug, Default)]
pub struct TimewaitSockets {
    /// Now.
    pub now: u64,
    /// Entered since tracing began.
    pub entered: u64,
    /// Entered per second over the interval.
    pub entered_per_s: f64,
    /// Ends by cause.
    pub ended: TimeWaitEnds,
    /// Lengths of exact dwells only.
    pub dwell: DwellQuantiles,
    /// Dwells known only as a bound (seeded or inferred), not in `dwell`.
    pub dwell_bounds: u64,
}

/// Ends of timewait sockets by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimeWaitEnds {
    /// The timer expired.
    pub expired: u64,
    /// Reused by a `connect()`.
    pub reused: u64,
    /// Reopened by a SYN.
    pub reopened: u64,
    /// Ended by a RST.
    pub reset: u64,
    /// Killed by an administrator.
    pub killed: u64,
    /// Purged with the namespace.
    pub purged: u64,
    /// Ended by data that no process could read any more.
    pub aborted: u64,
    /// No observed event explains the end.
    pub unexplained: u64,
    /// A sweep found the socket gone: the records of its end were lost.
    pub lost: u64,
}

impl TimeWaitEnds {
    /// Count for `reason`; `None` for a reason that never ends a timewait socket.
    pub const fn of(&self, reason: EndReason) -> Option<u64> {
        Some(match reason {
            EndReason::Expired => self.expired,
            EndReason::Reused => self.reused,
            EndReason::Reopened => self.reopened,
            EndReason::Reset => self.reset,
            EndReason::Killed => self.killed,
            EndReason::Purged => self.purged,
            EndReason::Aborted => self.aborted,
            EndReason::Unexplained => self.unexplained,
            EndReason::Lost => self.lost,
            _ => return None,
        })
    }

    /// Adds all of `other`.
    pub const fn add(&mut self, other: &Self) {
        self.expired += other.expired;
        self.reused += other.reused;
        self.reopened += other.reopened;
        self.reset += other.reset;
        self.killed += other.killed;
        self.purged += other.purged;
        self.aborted += other.aborted;
        self.unexplained += other.unexplained;
        self.lost += other.lost;
    }

    /// Counts `n` ends by `reason`; ignores a reason that never ends a timewait socket.
    pub(super) const fn count(&mut self, reason: EndReason, n: u64) {
        let counter = match reason {
            EndReason::Expired => &mut self.expired,
            EndReason::Reused => &mut self.reused,
            EndReason::Reopened => &mut self.reopened,
            EndReason::Reset | EndReason::ResetReceived => &mut self.reset,
            EndReason::Killed => &mut self.killed,
            EndReason::Purged => &mut self.purged,
            EndReason::Aborted => &mut self.aborted,
            EndReason::Unexplained => &mut self.unexplained,
            EndReason::Lost => &mut self.lost,
            _ => return,
        };
        *counter += n;
    }
}

/// Quantiles of a dwell, in nanoseconds. All 0 while `count` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DwellQuantiles {
    /// Number of dwells.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 0.9 quantile.
    pub p90: u64,
    /// 0.99 quantile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl DwellQuantiles {
    /// Quantiles of `distribution`.
    pub fn of(distribution: &Distribution) -> Self {
        if distribution.count == 0 {
            return Self::default();
        }
        Self {
            count: distribution.count,
            p50: distribution.quantile(0.5).0,
            p90: distribution.quantile(0.9).0,
            p99: distribution.quantile(0.99).0,
            max: distribution.longest.0,
        }
    }
}
