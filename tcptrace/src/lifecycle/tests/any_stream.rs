//! Property test: for arbitrary record streams the reported counts equal those of the table.

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::*;

fn any_seed(cookie: u64, state: u8, object: u64) -> SeedSocket {
    let object = match object % 3 {
        0 => SeedObject::Full,
        1 => SeedObject::Timewait { left: Nanos(object) },
        _ => SeedObject::Request { timeouts: 1 },
    };
    SeedSocket { inode: 0, ..seed(cookie, TcpState::from_kernel(state).unwrap_or(TcpState::Close), object) }
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    let states = (0_u8..14, 0_u8..14);
    (0_u64..100_000, 0_u8..18, states, 0_u64..6, 0_u64..4, any::<u8>(), any::<(u64, u64)>(), 0_u16..3)
        .prop_map(|(ms, kind, (old, new), cookie, object, flags, (arg0, arg1), port)| {
            let raw = raw::RawRecord {
                kind,
                old,
                new,
                cookie,
                object,
                arg0,
                arg1,
                flags: flags & !flag::TASK,
                sport: port,
                ..record(ms, Kind::Transition)
            };
            match kind {
                0 => Record::Tick { ts: Nanos(ms * MS) },
                9 => Record::Seed(any_seed(cookie, new, arg0)),
                10 => Record::Found(any_seed(cookie, new, arg0)),
                11 | 12 => Record::Missing {
                    ts: Nanos(ms * MS),
                    id: SocketId(cookie),
                    netns: NetnsId(1),
                    tuple: any_seed(cookie, new, 0).tuple,
                    from: if kind == 11 { Sweep::Whole } else { Sweep::FinWait2 },
                },
                13 => {
                    let sockets = vec![any_seed(cookie, new, arg0)];
                    let ts = Nanos(ms * MS);
                    let end = SweepEnd { ts, began: ts, netns: vec![NetnsId(1)] };
                    let sweep = if arg1 % 4 == 0 { Sweep::FinWait2 } else { Sweep::Whole };
                    Record::Listing(Box::new(Listing { sweep, sockets, end: Some(end) }))
                }
                // The kinds whose numbers the records above have.
                14.. => kernel(raw::RawRecord { kind: kind - 5, ..raw }),
                _ => kernel(raw),
            }
        })
}

proptest! {
    /// Any stream: no panic, and the reported counts equal those of the table.
    #[test]
    fn reported_counts_equal_the_table(records in proptest::collection::vec(any_record(), 0..200)) {
        let mut run = TrackerRun::seeding();
        for (i, record) in records.into_iter().enumerate() {
            if i == 50 {
                run.take(Record::SeedEnd { ts: Nanos(0), began: Nanos(0) });
            }
            match record {
                Record::Listing(listing) => {
                    for found in run.tracker.compare(&listing) {
                        run.take(found);
                    }
                }
                record => drop(run.take(record)),
            }
            let mut counts = [0_i64; TcpState::COUNT];
            for (_, socket) in run.tracker.sockets() {
                counts[socket.state.index()] += i64::from(socket.state != TcpState::Close);
            }
            prop_assert_eq!(run.log.counts, counts);
        }
    }
}

/// Counts equal descriptions of observed changes.
#[derive(Default)]
struct EventCounts(BTreeMap<String, u64>);

impl EventCounts {
    fn count(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }
}

impl Observer for EventCounts {
    fn appeared(&mut self, _: SocketId, socket: &mut Socket, _: &Processes) {
        let known = if socket.closed_before { "closed before" } else { "not closed before" };
        self.count(format!("appears in {}, {}, {known}", socket.state.name(), socket.role.name()));
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, _: &Processes) {
        let reason = event.end_reason.map_or("", super::super::EndReason::name);
        let sign = if event.reason_inferred { "~" } else { "" };
        let (from, to, role) = (event.from.name(), event.to.name(), event.role.name());
        let (phase, closer) = (socket.phase, event.closer.name());
        self.count(format!("{from}>{to} {sign}{reason}, {phase:?}, by {closer}"));
        let bound = event.dwell.map(|dwell| dwell.bound);
        self.count(format!("{from} left as {role}, begins {}, {bound:?}", event.begins));
        if from == "FIN_WAIT2" || to == "FIN_WAIT2" {
            self.count(format!(
                "{from}>{to} orphan {:?}, some time {}",
                event.orphan,
                event.orphan_for.is_some()
            ));
        }
        if event.extended {
            self.count(format!("{from}>{to} extended"));
        }
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, _: &Processes) {
        self.count(format!("corrected {} to {}, {}", from.name(), socket.state.name(), socket.closer.name()));
    }

    fn identified(&mut self, socket: &mut Socket, _: &Processes) {
        self.count(format!("identified as {}", socket.role.name()));
    }

    fn orphaned(&mut self, _: &mut Socket) {
        self.count("orphaned".into());
    }
}

/// The streams are the same in every run, so any change in the tracker's output fails this test.
#[test]
fn same_streams_give_the_same_events() {
    let mut runner = TestRunner::deterministic();
    let streams = proptest::collection::vec(any_record(), 200);
    let mut counted = EventCounts::default();
    for turn in 0..60 {
        let mut records = streams.new_tree(&mut runner).expect("a stream").current();
        // Every other stream is in order, as most real ones are.
        if turn % 2 == 0 {
            records.sort_by_key(Record::ts);
        }
        let mut tracker = Tracker::new(TrackerLimits::default());
        let facts = HostFacts { segments: turn % 3 != 0, ends: turn % 5 != 0, ..HostFacts::default() };
        tracker.take(&Record::Host(Box::new(facts)), &mut counted);
        for (n, record) in records.iter().enumerate() {
            if n == 20 {
                tracker.take(&Record::SeedEnd { ts: Nanos(0), began: Nanos(0) }, &mut counted);
            }
            match record {
                Record::Listing(listing) => {
                    for found in tracker.compare(listing) {
                        tracker.take(&found, &mut counted);
                    }
                }
                record => tracker.take(record, &mut counted),
            }
        }
        let counters = tracker.counters();
        for (what, n) in
            [("healed", counters.healed), ("unseeded", counters.unseeded), ("evicted", counters.evicted)]
        {
            *counted.0.entry(what.into()).or_default() += n;
        }
        for (table, rows) in tracker.side_tables() {
            *counted.0.entry(format!("rows of {table} at the end")).or_default() += rows as u64;
        }
    }
    let lines: Vec<String> = counted.0.iter().map(|(what, n)| format!("{n} {what}")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}
