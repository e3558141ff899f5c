//! The time control of a recording: where it stands and what was when, as the screen shows it.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    model::{Nanos, TcpState},
    replay::{Command, Here, Index, Mark, Status},
};

/// States that the timeline can have a line for, the most wanted first.
const LINES: [TcpState; 6] = [
    TcpState::TimeWait,
    TcpState::Established,
    TcpState::CloseWait,
    TcpState::FinWait2,
    TcpState::SynRecv,
    TcpState::LastAck,
];

/// What is known of the recording, and where the replay stands.
#[derive(Debug)]
pub struct Replay {
    index: Arc<Index>,
    status: Status,
    zone: TimeZone,
    /// The states that the timeline has a line for.
    states: Vec<TcpState>,
    timeline: Timeline,
}

/// The recording in as many parts as there are columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    columns: usize,
    /// The most sockets in a state in every part.
    pub lines: Vec<(TcpState, Vec<u64>)>,
    /// What is to be said about every part.
    pub marks: Vec<Mark>,
}

impl Replay {
    /// A replay that stands as `status` says.
    pub fn new(index: Arc<Index>, status: Status, zone: TimeZone) -> Self {
        let is_wanted = |state: &TcpState| {
            *state == TcpState::TimeWait || index.most(*state, 1).into_iter().flatten().any(|most| most > 0)
        };
        let lines = LINES.into_iter().filter(is_wanted).collect();
        Self { index, status, zone, states: lines, timeline: Timeline::default() }
    }

    /// Where it stands now.
    pub fn take(&mut self, status: Status) {
        self.status = status;
    }

    /// Where it stands.
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// The moment that is shown.
    pub fn now(&self) -> Nanos {
        self.moment(self.status.picture)
    }

    /// The moment that it is on the way to.
    pub fn target(&self) -> Option<Nanos> {
        self.status.target.map(|picture| self.moment(picture))
    }

    fn moment(&self, picture: usize) -> Nanos {
        self.index.frame(picture).map_or(Nanos(0), |frame| frame.ts)
    }

    /// The first and the last moment.
    pub fn span(&self) -> (Nanos, Nanos) {
        self.index.span()
    }

    /// Which of `columns` equal parts holds the moment `ts`.
    pub fn column(&self, ts: Nanos, columns: usize) -> usize {
        self.index.column(ts, columns).min(columns.saturating_sub(1))
    }

    /// How many states the timeline has a line for.
    pub const fn states(&self) -> usize {
        self.states.len()
    }

    /// What was when, in `columns` parts.
    pub fn timeline(&mut self, columns: usize) -> &Timeline {
        if self.timeline.columns != columns || self.timeline.lines.is_empty() {
            let line = |&state: &TcpState| {
                let most = self.index.most(state, columns);
                (state, most.into_iter().map(Option::unwrap_or_default).collect())
            };
            self.timeline = Timeline {
                columns,
                lines: self.states.iter().map(line).collect(),
                marks: self.index.marks(columns),
            };
        }
        &self.timeline
    }

    /// What leads to the moment that `text` means.
    pub fn go_to(&self, text: &str) -> Result<Command, String> {
        let here = Here {
            now: self.now(),
            span: self.span(),
            clock_offset_ns: self.index.clock_offset_ns,
            zone: self.zone.clone(),
        };
        here.parse(text).map(Command::Go)
    }

    /// What leads to the moment in a column of the timeline as it was drawn last.
    pub fn go_to_column(&self, column: usize) -> Command {
        let (first, last) = self.span();
        let part = (column as f64 + 0.5) / self.timeline.columns.max(1) as f64;
        Command::Go(first.plus(Nanos((last.since(first).0 as f64 * part) as u64)))
    }

    /// The time of day at `ts`.
    pub fn clock(&self, ts: Nanos) -> String {
        let wall_ns = i128::from(self.index.clock_offset_ns) + i128::from(ts.0);
        let time = Timestamp::from_nanosecond(wall_ns).unwrap_or_default();
        time.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }

    /// `x1`, `x0.25`, `x500`.
    pub fn speed(&self) -> String {
        format!("x{}", self.status.speed)
    }
}
