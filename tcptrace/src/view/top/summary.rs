//! Summary above the groups, shared by plain text and the screen: host facts, record rate, sockets per state.

use super::columns::{count, rate};
use crate::{
    aggregate::Snapshot,
    model::{Nanos, TcpState, text, units},
    view::glyphs::Glyphs,
};

/// Header facts, most important first.
pub fn facts(snapshot: &Snapshot) -> Vec<String> {
    let host = &snapshot.host;
    let mut facts = vec![concat!("tcptrace ", env!("CARGO_PKG_VERSION")).to_owned()];
    if !host.host.is_empty() {
        facts.push(text::sanitise(&host.host).into_owned());
    }
    let traced = snapshot.ts.since(snapshot.began);
    if traced > Nanos(0) {
        facts.push(format!("traced {}", units::duration(traced)));
    }
    if !host.kernel.is_empty() {
        facts.push(format!("Linux {}", text::sanitise(&host.kernel)));
    }
    facts
}

/// Records per second, or `None` in the first snapshot.
pub fn records_per_s(snapshot: &Snapshot) -> Option<String> {
    rate(snapshot, snapshot.records_per_s).map(|per_s| format!("{} records/s", units::rate(per_s)))
}

/// All states in table order, the most interesting first. CLOSE is left out: a socket in it is no connection.
pub const STATES: [TcpState; 10] = [
    TcpState::TimeWait,
    TcpState::FinWait2,
    TcpState::CloseWait,
    TcpState::Established,
    TcpState::SynRecv,
    TcpState::SynSent,
    TcpState::FinWait1,
    TcpState::LastAck,
    TcpState::Closing,
    TcpState::Listen,
];

/// One column of the states' table.
pub struct StateCells {
    /// Its head, padded to the width.
    pub head: String,
    /// Current count, padded.
    pub now: String,
    /// Sockets that entered per second, padded.
    pub entered_per_s: String,
    /// The state.
    pub state: TcpState,
    /// Whether count and rate are 0.
    pub is_nothing: bool,
}

impl StateCells {
    /// Sparkline of the counts in the last snapshots, as wide as the other cells; blank while there are fewer than two.
    pub fn history(&self, snapshot: &Snapshot, glyphs: Glyphs) -> String {
        const FEWEST: usize = 2;
        let room = self.head.len() - 2;
        let first = snapshot.history.len().saturating_sub(room);
        let counts = snapshot.history[first..].iter().map(|sample| sample.counts[self.state.index()]);
        let line = if counts.len() < FEWEST { String::new() } else { glyphs.sparkline(counts) };
        format!("  {line:>room$}")
    }
}

/// The width of the labels `now` and `+/s`.
pub const LABEL_WIDTH: usize = 3;

/// The states that fit in `width` after the label.
pub fn states(snapshot: &Snapshot, width: usize) -> Vec<StateCells> {
    let mut left = width.saturating_sub(LABEL_WIDTH);
    let mut cells = Vec::with_capacity(STATES.len());
    for state in STATES {
        let total = &snapshot.states[state.index()];
        let (head, now) = match state {
            TcpState::FinWait2 => ("FIN_WAIT2 o/h", fin_wait2(snapshot)),
            _ => (state.name(), count(total.now, 10)),
        };
        let width = head.len().max(9);
        if width + 2 > left {
            break;
        }
        left -= width + 2;
        let per_s = rate(snapshot, total.entered_per_s).map_or_else(|| "-".into(), units::rate);
        cells.push(StateCells {
            head: format!("  {head:>width$}"),
            now: format!("  {now:>width$}"),
            entered_per_s: format!("  {per_s:>width$}"),
            state,
            is_nothing: total.now == 0 && total.entered_per_s < 0.05,
        });
    }
    cells
}

/// `FIN_WAIT2` as `orphans/held`.
fn fin_wait2(snapshot: &Snapshot) -> String {
    let now = snapshot.states[TcpState::FinWait2.index()].now;
    let orphans: u64 = snapshot.groups.iter().map(|group| group.fin_wait2_orphan).sum();
    let held = now.saturating_sub(orphans);
    super::columns::CellValue::Pair(orphans, held).text(13).into_owned()
}
