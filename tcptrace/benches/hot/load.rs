//! The load: made-up traffic and a recording of real traffic, as the bytes of a ring buffer.

use std::collections::VecDeque;

use tcptrace::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    kernel::decode,
    model::{Nanos, Record},
    pipeline::Engine,
    session::{AtEnd, Reader},
    source::{Flow, Source as _},
    synthetic::{Shape, Traffic},
};

/// Four services on loopback, 6,000 connections in a third of a second, followed to the end of their TIME_WAIT.
pub const LOOPBACK: &[u8] = include_bytes!("../loopback.tcptrace");

/// Connections of [`Traffic`] that go on to a TIME_WAIT here, of 100.
const LINGERING: u64 = 58;
/// How long that and the little before it takes, in seconds.
const LIFE_S: u64 = 62;

/// Records as a source hands them out: those of the hooks still as bytes.
#[derive(Default)]
pub struct Ring {
    bytes: Vec<u8>,
    /// The length of each in `bytes`; 0 stands for the next of `others`.
    lengths: Vec<u8>,
    others: VecDeque<Record>,
}

impl Ring {
    /// How many of the hooks' there are.
    pub fn len(&self) -> u64 {
        (self.lengths.len() - self.others.len()) as u64
    }

    /// Decodes every record and hands it on.
    pub fn each(&self, mut take: impl FnMut(&Record)) {
        let (mut at, mut others) = (0, self.others.iter());
        for &length in &self.lengths {
            let end = at + usize::from(length);
            if length == 0 {
                others.next().into_iter().for_each(&mut take);
            } else if let Some(seen) = decode(&self.bytes[at..end]) {
                take(&Record::Kernel(seen));
            }
            at = end;
        }
    }
}

impl FromIterator<Record> for Ring {
    fn from_iter<T: IntoIterator<Item = Record>>(records: T) -> Self {
        let mut ring = Self::default();
        for record in records {
            let before = ring.bytes.len();
            if let Record::Kernel(seen) = &record {
                ring.bytes.extend_from_slice(bytemuck::bytes_of(&seen.raw));
                ring.bytes.extend(seen.task.iter().flat_map(bytemuck::bytes_of));
            } else {
                ring.others.push_back(record);
            }
            ring.lengths.push((ring.bytes.len() - before) as u8);
        }
        ring
    }
}

/// The records of [`LOOPBACK`].
pub fn loopback() -> Vec<Record> {
    let mut reader = Reader::new(Box::new(LOOPBACK), AtEnd::Stop).expect("a recording");
    let mut records = Vec::new();
    while reader.fill(&mut |record| records.push(record)).expect("a recording") == Flow::Running {}
    records
}

/// Traffic that keeps some `sockets` alive once it has run for [`LIFE_S`].
pub fn traffic(sockets: u64, shape: Shape) -> Traffic {
    let connections_per_s = (sockets * 100 / LINGERING / 60).max(1);
    Traffic::new(Shape { connections_per_s, ..shape }, 1)
}

/// An engine that counts all sockets by `grouping`.
pub fn engine(grouping: Grouping) -> Engine {
    Engine::new(Filter::EVERYTHING, grouping, Scope::Minisockets, "bench".into())
}

/// The same after `traffic` has come to as many sockets as it will have.
pub fn grown(grouping: Grouping, traffic: &mut Traffic) -> Engine {
    let mut engine = engine(grouping);
    let mut began = None;
    for record in traffic {
        engine.take(&record);
        if let Record::Tick { ts } = record {
            let began = *began.get_or_insert(ts);
            if ts.since(began) > Nanos(LIFE_S * Nanos::SECOND.0) {
                break;
            }
        }
    }
    engine
}
