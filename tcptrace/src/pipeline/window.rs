//! Source adapter that passes only a time window of a recording.
//!
//! The output looks like a recording that begins at the start of the window: it opens with the state known by then,
//! like a later file of a series, and earlier events are not counted. Of a file that begins before the end of the one
//! before it, such as those of two incidents within a few minutes, it passes the part after that end.

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;

use super::Engine;
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    model::{
        Flow, Nanos, Record, Source,
        record::{HostFacts, KernelLosses},
        units,
    },
    session::OVERLAP,
};

/// A point in time of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Offset from its first record.
    FromStart(Nanos),
    /// Wall clock time, nanoseconds since the epoch.
    Wall(u64),
}

impl Moment {
    fn at(self, start: Nanos, host: &HostFacts) -> Nanos {
        match self {
            Self::FromStart(length) => start.plus(length),
            Self::Wall(ns) => host.monotonic(ns),
        }
    }
}

/// Time window of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Start; default: start of the recording.
    pub since: Option<Moment>,
    /// End; default: end of the recording.
    pub until: Option<Moment>,
    /// Maximum length.
    pub length: Option<Nanos>,
}

/// A [`Window`] in timestamps of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First timestamp of the window; [`Nanos`] 0 if it has no start.
    pub since: Nanos,
    /// Last timestamp of the window.
    pub until: Nanos,
}

impl Window {
    /// Whether the window covers the whole recording.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Bounds in a recording whose first record is at `start`.
    pub fn bounds(&self, start: Nanos, host: &HostFacts) -> Result<Bounds> {
        let since = self.since.map_or(Nanos(0), |since| since.at(start, host));
        let until = self.until.map_or(Nanos(u64::MAX), |until| until.at(start, host));
        let wall = |ts: Nanos| {
            let ns = host.wall_ns(ts).into();
            Timestamp::from_nanosecond(ns).map_or_else(|_| "?".into(), |time| time.to_string())
        };
        ensure!(until >= start, "--until is {}, before the recording begins at {}", wall(until), wall(start));
        ensure!(until >= since, "--until is {}, before --since, which is {}", wall(until), wall(since));
        let end = self.length.map_or(until, |length| since.max(start).plus(length));
        Ok(Bounds { since, until: until.min(end) })
    }
}

/// A source that passes a window of another source.
pub struct Windowed<S> {
    source: S,
    /// Name of the recording, for errors.
    name: String,
    part: WindowPart,
}

impl<S: Source> Windowed<S> {
    /// A window of the recording called `name`.
    pub fn new(source: S, window: Window, name: String) -> Self {
        Self { source, name, part: WindowPart::new(window) }
    }
}

impl<S: Source> Source for Windowed<S> {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        let Self { source, name, part } = self;
        let mut done = Ok(());
        let flow = source.fill(&mut |record| {
            if done.is_ok() {
                done = part.take(record, take);
            }
        })?;
        done.with_context(|| name.clone())?;
        if part.is_over() {
            return Ok(Flow::Ended);
        }
        if flow == Flow::Ended {
            part.end().with_context(|| name.clone())?;
        }
        Ok(flow)
    }
}

/// Maximum number of records without a timestamp at the beginning.
const MOST_HELD: usize = 1024;

/// Progress through the window.
struct WindowPart {
    window: Window,
    host: HostFacts,
    /// Timestamp of the first record that has one.
    start: Nanos,
    bounds: Option<Bounds>,
    stage: WindowStage,
    newest: Nanos,
    /// What is earlier was passed on before.
    least: Nanos,
    /// At the start of the window the initial sockets were not complete yet.
    is_late: bool,
    /// Note about the late start, a sentence.
    note: Option<String>,
    /// The newest losses, and those that are not of the window.
    losses: KernelLosses,
    losses_before: KernelLosses,
    /// `losses` where the stage before began.
    losses_at_restart: KernelLosses,
    /// Whether the window has begun.
    has_begun: bool,
}

enum WindowStage {
    /// No record had a timestamp yet.
    Unknown(Vec<Record>),
    /// Before the window: the state is tracked.
    Before(Box<Engine>),
    Within,
    Over,
}

impl WindowPart {
    fn new(window: Window) -> Self {
        Self {
            window,
            host: HostFacts::default(),
            start: Nanos(0),
            bounds: None,
            stage: WindowStage::Unknown(Vec::new()),
            newest: Nanos(0),
            least: Nanos(0),
            is_late: false,
            note: None,
            losses: KernelLosses::default(),
            losses_before: KernelLosses::default(),
            losses_at_restart: KernelLosses::default(),
            has_begun: false,
        }
    }

    const fn is_over(&self) -> bool {
        matches!(self.stage, WindowStage::Over)
    }

    /// Processes one record and passes on the part within the window.
    fn take(&mut self, record: Record, out: &mut dyn FnMut(Record)) -> Result<()> {
        match &record {
            Record::Host(facts) => self.host = facts.after(&self.host),
            Record::ClockStep(step) => {
                self.host.step_clock(*step);
                // A clock step moves the wall clock bounds that are still ahead.
                if self.bounds.is_some() && !self.is_over() {
                    self.bounds = Some(self.bounds()?);
                }
            }
            Record::Loss { losses, .. } => self.losses = *losses,
            Record::Restart { ts } if ts.plus(OVERLAP) < self.newest && !self.is_over() => {
                return self.overlap();
            }
            _ => {}
        }
        if let WindowStage::Unknown(held) = &self.stage {
            ensure!(held.len() < MOST_HELD, "nothing at the beginning of the recording has a time");
        }
        if let (WindowStage::Unknown(held), Some(ts)) = (&mut self.stage, record.ts()) {
            let held = std::mem::take(held);
            self.start = ts;
            let bounds = self.bounds()?;
            self.bounds = Some(bounds);
            self.stage = if bounds.since <= ts {
                WindowStage::Within
            } else {
                WindowStage::Before(Box::new(uncounted_engine()))
            };
            for record in held {
                self.pass(record, out);
            }
        }
        self.newest = self.newest.max(record.ts().unwrap_or_default());
        self.pass(record, out);
        Ok(())
    }

    /// Begins with the state of a file that begins before the newest record, as of the time of that record.
    fn overlap(&mut self) -> Result<()> {
        self.least = self.newest.plus(Nanos(1));
        self.bounds = Some(self.bounds()?);
        self.stage = WindowStage::Before(Box::new(uncounted_engine()));
        self.is_late = false;
        self.losses_at_restart = self.losses;
        Ok(())
    }

    fn bounds(&self) -> Result<Bounds> {
        let bounds = self.window.bounds(self.start, &self.host)?;
        Ok(Bounds { since: bounds.since.max(self.least), ..bounds })
    }

    fn pass(&mut self, record: Record, out: &mut dyn FnMut(Record)) {
        let bounds = self.bounds.unwrap_or(Bounds { since: Nanos(0), until: Nanos(u64::MAX) });
        // Only hook records and ticks advance the time; other records may arrive late.
        let now = match record {
            Record::Kernel(_) | Record::Tick { .. } => record.ts(),
            _ => None,
        };
        if let WindowStage::Before(engine) = &mut self.stage
            && let Some(now) = now.filter(|&now| now >= bounds.since)
        {
            if engine.is_seeded() {
                engine.take(&Record::Tick { ts: bounds.since });
                self.note = self.is_late.then(|| {
                    let later = units::duration(now.since(bounds.since));
                    if self.has_begun {
                        format!("For {later} between two recordings the sockets that existed were not known.")
                    } else {
                        format!(
                            "The part begins {later} later than requested: until then the sockets that existed were \
                             not known."
                        )
                    }
                });
                let head = engine.head();
                if self.has_begun {
                    out(Record::Restart { ts: bounds.since });
                }
                self.losses_before = self.losses_before.plus(&self.losses.since(&self.losses_at_restart));
                self.stage = WindowStage::Within;
                for record in head {
                    out(self.noted(record));
                }
            } else {
                self.is_late = true;
            }
        }
        match &mut self.stage {
            WindowStage::Unknown(held) => held.push(record),
            WindowStage::Before(engine) => engine.take(&record),
            WindowStage::Within if now.is_some_and(|now| now > bounds.until) => {
                out(Record::Tick { ts: bounds.until });
                self.stage = WindowStage::Over;
            }
            WindowStage::Within => {
                self.has_begun = true;
                out(match record {
                    Record::Loss { ts, losses } => {
                        Record::Loss { ts, losses: losses.since(&self.losses_before) }
                    }
                    record => self.noted(record),
                });
            }
            WindowStage::Over => {}
        }
    }

    /// Adds the note about a late start to host facts.
    fn noted(&self, mut record: Record) -> Record {
        if let Record::Host(facts) = &mut record {
            facts.limits.extend(self.note.clone());
        }
        record
    }

    /// Handles the end of the recording; an error if it ends before the window.
    fn end(&self) -> Result<()> {
        let (WindowStage::Before(_), Some(bounds), false) = (&self.stage, self.bounds, self.has_begun) else {
            return Ok(());
        };
        let missing = units::duration(bounds.since.since(self.newest));
        bail!("the recording ends {missing} before --since")
    }
}

/// An engine that tracks state and counts nothing.
fn uncounted_engine() -> Engine {
    Engine::new(Filter::EVERYTHING, Grouping::NONE, Scope::Nothing, "".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ClockStep, TcpState},
        synthetic::{Shape, Traffic},
    };

    const OFFSET: u64 = 1_700_000_000_000_000_000;

    /// Emits records in batches.
    struct RecordSource(Vec<Record>);

    impl Source for RecordSource {
        fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
            self.0.drain(..self.0.len().min(100)).for_each(take);
            Ok(if self.0.is_empty() { Flow::Ended } else { Flow::Running })
        }
    }

    fn recorded() -> Vec<Record> {
        let shape = Shape { connections_per_s: 2_000, ..Shape::default() };
        let mut records: Vec<Record> = Traffic::new(shape, 7).take(40_000).collect();
        for record in &mut records {
            if let Record::Host(facts) = record {
                facts.clock_offset_ns = OFFSET;
            }
        }
        let ts = records.iter().filter_map(Record::ts).max().unwrap_or_default();
        records.push(Record::Loss { ts, losses: KernelLosses { ring_full: 9, ..KernelLosses::default() } });
        records.push(Record::Tick { ts });
        records
    }

    fn start(records: &[Record]) -> Nanos {
        records.iter().find_map(Record::ts).expect("a time")
    }

    /// Result of a window: sockets per state at the end, records, time, losses.
    fn seen(records: &[Record], window: Window) -> Result<([u64; TcpState::COUNT], u64, Nanos, u64)> {
        let mut source = Windowed::new(RecordSource(records.to_vec()), window, "a".into());
        let mut engine = engine_with_scope(Scope::Every);
        while source.fill(&mut |record| engine.take(&record))? == Flow::Running {}
        let losses = engine.losses().ring_full;
        Ok((engine.counts(), engine.records(), engine.now(), losses))
    }

    fn engine_with_scope(scope: Scope) -> Engine {
        Engine::new(Filter::EVERYTHING, Grouping::NONE, scope, "".into())
    }

    const fn ms(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    #[test]
    fn overlapping_files_of_a_series_add_up_to_the_recording() {
        let records = recorded();
        let whole = seen(&records, Window::default()).expect("a recording");
        let part = |since: u64, until: u64| {
            let moment = |at| Some(Moment::FromStart(ms(at)));
            let window = Window { since: moment(since), until: moment(until), ..Window::default() };
            let mut source = Windowed::new(RecordSource(records.clone()), window, "a".into());
            let mut part = vec![Record::Restart { ts: start(&records).plus(ms(since)) }];
            while source.fill(&mut |record| part.push(record)).expect("a window") == Flow::Running {}
            part
        };
        let first = part(0, 2_000).split_off(1);
        let all = 60_000;
        for later in [
            // The end of the first, twice, all of it, and the whole recording once more.
            vec![part(500, all)],
            vec![part(500, 3_000), part(500, all)],
            vec![part(0, 2_000), part(100, 1_700), part(900, all)],
            vec![part(0, all), part(0, all)],
        ] {
            let series = [vec![first.clone()], later].concat().concat();
            assert_eq!(seen(&series, Window::default()).expect("a series"), whole);
            let middle = Window { since: Some(Moment::FromStart(ms(2_500))), ..Window::default() };
            let expected = seen(&records, middle).expect("a window");
            assert_eq!(seen(&series, middle).expect("a window"), expected);
        }
    }

    #[test]
    fn two_adjacent_windows_add_up_to_the_recording() {
        let records = recorded();
        let whole = seen(&records, Window::default()).expect("a recording");
        let middle = ms(1_500);
        let before = Window { until: Some(Moment::FromStart(middle)), ..Window::default() };
        let before = seen(&records, before).expect("a recording");
        let after = Window { since: Some(Moment::FromStart(middle.plus(Nanos(1)))), ..Window::default() };
        let after = seen(&records, after).expect("a recording");
        assert!(before.1 > 1_000 && after.1 > 1_000, "{} and {}", before.1, after.1);
        assert_eq!(before.1 + after.1, whole.1, "each record is in one window");
        assert_eq!(before.2, start(&records).plus(middle), "the last tick is at the end of the window");
        assert_eq!((after.0, after.2, after.3), (whole.0, whole.2, whole.3), "both end alike");
        assert_ne!(before.0, whole.0);
    }

    #[test]
    fn clocks_agree_and_length_counts_from_window_start() {
        let records = recorded();
        let wall = |length: Nanos| Moment::Wall(start(&records).plus(length).0 + OFFSET);
        let by_start = Window {
            since: Some(Moment::FromStart(ms(500))),
            until: Some(Moment::FromStart(ms(900))),
            length: None,
        };
        let by_wall = Window { since: Some(wall(ms(500))), until: Some(wall(ms(900))), length: None };
        let by_length = Window { until: None, length: Some(ms(400)), ..by_start };
        let wanted = seen(&records, by_start).expect("a recording");
        assert!(wanted.1 > 100);
        assert_eq!(seen(&records, by_wall).expect("a recording"), wanted);
        assert_eq!(seen(&records, by_length).expect("a recording"), wanted);
        let shorter = Window { length: Some(ms(100)), ..by_start };
        assert!(seen(&records, shorter).expect("a recording").1 < wanted.1);
    }

    /// The same traffic with clock steps: an offset from each time on.
    fn stepped(steps: &[(Nanos, i64)]) -> Vec<Record> {
        let mut records = recorded();
        let start = start(&records);
        for &(after, by) in steps {
            let ts = start.plus(after);
            let is_later = |record: &Record| matches!(record, Record::Kernel(seen) if seen.raw.ts_ns >= ts.0);
            let at = records.iter().position(is_later).expect("traffic");
            let step = ClockStep { ts, offset_ns: OFFSET.saturating_add_signed(by) };
            records.insert(at, Record::ClockStep(step));
        }
        records
    }

    #[test]
    fn wall_clock_bounds_work_on_both_sides_of_a_step() {
        const HOUR: i64 = 3_600_000_000_000;
        let window = |since, until| Window { since: Some(since), until: Some(until), length: None };
        let from_start = |since, until| window(Moment::FromStart(ms(since)), Moment::FromStart(ms(until)));
        // Forward: the clock skips most of an hour.
        let records = stepped(&[(ms(1_000), HOUR)]);
        let began = start(&records).0 + OFFSET;
        let wall = |ms: u64, by: i64| Moment::Wall((began + ms * 1_000_000).saturating_add_signed(by));
        let of = |window| seen(&records, window).expect("a recording");
        assert_eq!(of(window(wall(400, 0), wall(1_500, HOUR))), of(from_start(400, 1_500)));
        assert_eq!(of(window(wall(1_200, HOUR), wall(1_500, HOUR))), of(from_start(1_200, 1_500)));
        assert_eq!(of(window(wall(400, 0), wall(1_000, HOUR / 2))), of(from_start(400, 1_000)));
        assert_eq!(of(window(wall(1_000, HOUR / 2), wall(1_500, HOUR))), of(from_start(1_000, 1_500)));
        // Back by 600 ms: the clock shows 400 to 1,000 ms twice; the first occurrence counts.
        let records = stepped(&[(ms(1_000), -600_000_000)]);
        let of = |window| seen(&records, window).expect("a recording");
        assert_eq!(of(window(wall(400, 0), wall(900, 0))), of(from_start(400, 900)));
        assert_eq!(of(window(wall(1_100, 0), wall(1_200, 0))), of(from_start(1_700, 1_800)));
    }

    #[test]
    fn window_before_the_seed_is_complete_starts_late() {
        let records = recorded();
        let seeded = records.iter().position(|record| matches!(record, Record::OwnersEnd { .. }));
        let mut late = records.clone();
        // The hooks report a second of traffic before the seed is complete.
        late[seeded.expect("a seed")..].rotate_left(4_000);
        let since = Window { since: Some(Moment::FromStart(ms(50))), ..Window::default() };
        let limits = |records: &[Record]| {
            let mut source = Windowed::new(RecordSource(records.to_vec()), since, "a".into());
            let mut limits = Vec::new();
            let mut take = |record| {
                if let Record::Host(facts) = record {
                    limits.clone_from(&facts.limits);
                }
            };
            while source.fill(&mut take).expect("a recording") == Flow::Running {}
            limits
        };
        assert!(limits(&records).is_empty());
        let text = limits(&late).concat();
        assert!(text.contains("later than requested"), "{text}");
    }

    #[test]
    fn window_outside_the_recording_is_an_error() {
        let records = recorded();
        let error = |window| seen(&records, window).expect_err("an empty window");
        let error = |window| format!("{:#}", error(window));
        let since = |since| Window { since: Some(since), ..Window::default() };
        assert!(error(since(Moment::FromStart(ms(3_600_000)))).ends_with("before --since"));
        let until = |until| Window { until: Some(until), ..Window::default() };
        assert!(error(until(Moment::Wall(5))).contains("before the recording begins at 20"));
        let turned = Window { until: Some(Moment::FromStart(ms(5))), ..since(Moment::FromStart(ms(9))) };
        assert!(error(turned).contains("before --since"));
        // A window that starts before the recording starts with it.
        let whole = seen(&records, Window::default()).expect("a recording");
        assert_eq!(seen(&records, since(Moment::Wall(5))).expect("a recording"), whole);
    }
}
