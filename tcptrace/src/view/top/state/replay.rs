//! Replay control of the screen: position in a recording, and its timeline.

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::{
    model::{Nanos, TcpState},
    replay::{Here, Index, Mark, ReplayCommand, ReplayStatus},
    session::Ending,
    view::clock,
};

/// States that can have a line in the timeline, most important first.
const LINES: [TcpState; 6] = [
    TcpState::TimeWait,
    TcpState::Established,
    TcpState::CloseWait,
    TcpState::FinWait2,
    TcpState::SynRecv,
    TcpState::LastAck,
];

/// Index of the recording and status of the replay.
#[derive(Debug)]
pub struct Replay {
    index: Arc<Index>,
    status: ReplayStatus,
    zone: TimeZone,
    /// States with a line in the timeline.
    states: Vec<TcpState>,
    timeline: ReplayTimeline,
}

/// The recording divided into one part per column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayTimeline {
    columns: usize,
    /// Peak number of sockets per state in each part.
    pub lines: Vec<(TcpState, Vec<u64>)>,
    /// The mark of each part.
    pub marks: Vec<Mark>,
}

impl Replay {
    /// Creates the control of a replay at `status`.
    pub fn new(index: Arc<Index>, status: ReplayStatus, zone: TimeZone) -> Self {
        let is_wanted = |state: &TcpState| {
            *state == TcpState::TimeWait || index.most(*state, 1).into_iter().flatten().any(|most| most > 0)
        };
        let lines = LINES.into_iter().filter(is_wanted).collect();
        Self { index, status, zone, states: lines, timeline: ReplayTimeline::default() }
    }

    /// Updates the status.
    pub fn take(&mut self, status: ReplayStatus) {
        self.status = status;
    }

    /// Status of the replay.
    pub const fn status(&self) -> &ReplayStatus {
        &self.status
    }

    /// The time of the shown snapshot.
    pub fn now(&self) -> Nanos {
        self.time_of(self.status.frame)
    }

    /// The time that the replay seeks to.
    pub fn target(&self) -> Option<Nanos> {
        self.status.target.map(|frame| self.time_of(frame))
    }

    fn time_of(&self, frame: usize) -> Nanos {
        self.index.frame(frame).map_or(Nanos(0), |frame| frame.ts)
    }

    /// First and last time of the recording.
    pub fn span(&self) -> (Nanos, Nanos) {
        self.index.span()
    }

    /// Index of the part, of `columns` equal ones, that contains `ts`.
    pub fn column(&self, ts: Nanos, columns: usize) -> usize {
        self.index.column(ts, columns).min(columns.saturating_sub(1))
    }

    /// Number of states with a line in the timeline.
    pub const fn states(&self) -> usize {
        self.states.len()
    }

    /// The timeline in `columns` parts, cached.
    pub fn timeline(&mut self, columns: usize) -> &ReplayTimeline {
        if self.timeline.columns != columns || self.timeline.lines.is_empty() {
            let line = |&state: &TcpState| {
                let most = self.index.most(state, columns);
                (state, most.into_iter().map(Option::unwrap_or_default).collect())
            };
            self.timeline = ReplayTimeline {
                columns,
                lines: self.states.iter().map(line).collect(),
                marks: self.index.marks(columns),
            };
        }
        &self.timeline
    }

    /// The command that goes to the time in `text`.
    pub fn go_to(&self, text: &str) -> Result<ReplayCommand, String> {
        let here = Here {
            now: self.now(),
            span: self.span(),
            host: Arc::clone(&self.index.host),
            zone: self.zone.clone(),
        };
        here.parse(text).map(ReplayCommand::Go)
    }

    /// The command that goes to a column of the timeline as last drawn.
    pub fn go_to_column(&self, column: usize) -> ReplayCommand {
        let (first, last) = self.span();
        let part = (column as f64 + 0.5) / self.timeline.columns.max(1) as f64;
        ReplayCommand::Go(first.plus(Nanos((last.since(first).0 as f64 * part) as u64)))
    }

    /// The time of day at `ts`.
    pub fn clock(&self, ts: Nanos) -> String {
        let time = clock::wall(&self.index.host, ts);
        time.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }

    /// Label for an incomplete recording.
    pub fn missing(&self) -> Option<&'static str> {
        self.index.ending.and_then(Ending::word)
    }

    /// `x1`, `x0.25`, `x500`.
    pub fn speed(&self) -> String {
        format!("x{}", self.status.speed)
    }
}
