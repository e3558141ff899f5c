//! Arbitrary streams of records in; what the tracker told adds up to its table, whatever came.

use super::*;
use proptest::prelude::*;

fn any_seed(cookie: u64, state: u8, object: u64) -> SeedSocket {
    let object = match object % 3 {
        0 => SeedObject::Full,
        1 => SeedObject::Minisocket { left: Nanos(object) },
        _ => SeedObject::Request { timeouts: 1 },
    };
    SeedSocket { inode: 0, ..seed(cookie, TcpState::from_kernel(state).unwrap_or(TcpState::Close), object) }
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    let states = (0_u8..14, 0_u8..14);
    (0_u64..100_000, 0_u8..14, states, 0_u64..6, 0_u64..4, any::<u8>(), any::<(u64, u64)>(), 0_u16..3)
        .prop_map(|(ms, kind, (old, new), cookie, object, flags, (arg0, arg1), port)| {
            let raw = raw::Record {
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
                _ => kernel(raw),
            }
        })
}

proptest! {
    /// Whatever comes: no panic, and the counts told are those of the table.
    #[test]
    fn the_counts_are_those_of_the_table(records in proptest::collection::vec(any_record(), 0..200)) {
        let mut run = Run::seeding();
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
            prop_assert_eq!(run.told.counts, counts);
        }
    }
}
