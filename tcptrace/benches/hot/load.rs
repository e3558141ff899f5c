//! The load: synthetic traffic and a recording of real traffic, as the bytes of a ring buffer.

use std::collections::VecDeque;

use tcptrace::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    kernel::decode,
    model::{Flow, Nanos, Record, Source as _},
    pipeline::Engine,
    session::{AtEnd, Reader},
    synthetic::{Shape, Traffic},
};

/// Four services on loopback, 6,000 connections in a third of a second, recorded to the end of their TIME_WAIT.
pub const LOOPBACK: &[u8] = include_bytes!("../loopback.tcptrace");

/// Percentage of [`Traffic`] connections that end in a TIME_WAIT on this side.
const TIME_WAIT_PERCENT: u64 = 58;
/// Duration of such a connection including TIME_WAIT, in seconds.
const LIFE_S: u64 = 62;

/// Records as a source delivers them: hook records still as bytes.
#[derive(Default)]
pub struct RecordRing {
    bytes: Vec<u8>,
    /// Length of each record in `bytes`; 0 refers to the next of `others`.
    lengths: Vec<u8>,
    others: VecDeque<Record>,
}

impl RecordRing {
    /// Number of hook records.
    pub fn len(&self) -> u64 {
        (self.lengths.len() - self.others.len()) as u64
    }

    /// Decodes every record and passes it to `take`.
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

impl FromIterator<Record> for RecordRing {
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
    let connections_per_s = (sockets * 100 / TIME_WAIT_PERCENT / 60).max(1);
    Traffic::new(Shape { connections_per_s, ..shape }, 1)
}

/// An engine that groups all sockets by `grouping`.
pub fn engine(grouping: Grouping) -> Engine {
    Engine::new(Filter::EVERYTHING, grouping, Scope::TimewaitSockets, "bench".into())
}

/// An engine after `traffic` has reached its stable number of sockets.
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
