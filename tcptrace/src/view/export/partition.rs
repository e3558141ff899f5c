//! Writes events as Parquet files, one per host and hour, in bounded memory.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{
    events::{EVENTS, row},
    parquet::{GROUP, Parquet},
    schema_version,
    table::Table as _,
};
use crate::{lifecycle::Event, model::record::HostFacts};

/// Files open at once; the one whose last row is oldest is completed first.
const MAX_OPEN: usize = 512;
const HOUR_NS: u64 = 3_600_000_000_000;

/// The file that a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Number of the host, as the caller counts.
    pub host: usize,
    /// Hours since the epoch.
    pub hour: u64,
}

/// A row group that is being collected, and when it got its last row.
struct OpenPartition<W: Write + Send> {
    file: Parquet<W>,
    last_row: u64,
}

/// Writes events to the files that `create` returns. A file that was completed early is created again under another name.
pub struct PartitionedEvents<W: Write + Send, F> {
    create: F,
    /// Further metadata of the files of each host.
    metadata: Vec<(&'static str, String)>,
    open: BTreeMap<PartitionKey, OpenPartition<W>>,
    /// Rows in memory, of all files.
    held: usize,
    rows: u64,
}

impl<W: Write + Send, F: FnMut(PartitionKey) -> io::Result<W>> PartitionedEvents<W, F> {
    /// Starts without a file. `metadata` has one entry for each host.
    pub const fn new(metadata: Vec<(&'static str, String)>, create: F) -> Self {
        Self { create, metadata, open: BTreeMap::new(), held: 0, rows: 0 }
    }

    /// Rows so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes one event of the host with this number.
    pub fn event(&mut self, number: usize, event: &Event<'_>, facts: &HostFacts) -> io::Result<()> {
        let row = row(event, facts);
        // The last column is the host, which is in the name of the folder.
        let Some((_, row)) = row.split_last() else { return Ok(()) };
        let key = PartitionKey { host: number, hour: facts.wall_ns(event.ts) / HOUR_NS };
        self.rows += 1;
        self.open(key)?.push(row);
        self.held += 1;
        if self.held >= GROUP { self.write_largest() } else { Ok(()) }
    }

    /// Completes all files.
    pub fn finish(mut self) -> io::Result<u64> {
        while let Some((_, partition)) = self.open.pop_first() {
            Box::new(partition.file).finish()?;
        }
        Ok(self.rows)
    }

    fn open(&mut self, key: PartitionKey) -> io::Result<&mut Parquet<W>> {
        if !self.open.contains_key(&key) {
            if self.open.len() >= MAX_OPEN {
                self.complete_oldest()?;
            }
            let metadata = [Some(schema_version()), self.metadata.get(key.host).cloned()];
            let metadata: Vec<_> = metadata.into_iter().flatten().collect();
            let columns = &EVENTS[..EVENTS.len() - 1];
            let file = Parquet::new(columns, &metadata, (self.create)(key)?)?;
            self.open.insert(key, OpenPartition { file, last_row: 0 });
        }
        let Some(partition) = self.open.get_mut(&key) else {
            return Err(io::Error::other("the file was just opened"));
        };
        partition.last_row = self.rows;
        Ok(&mut partition.file)
    }

    /// Writes the largest row group: memory holds the rows of one group, however many files there are.
    fn write_largest(&mut self) -> io::Result<()> {
        let largest = self.open.values_mut().max_by_key(|partition| partition.file.held());
        let Some(OpenPartition { file, .. }) = largest else { return Ok(()) };
        self.held -= file.held();
        file.write_group().map_err(io::Error::other)
    }

    fn complete_oldest(&mut self) -> io::Result<()> {
        let oldest = self.open.iter().min_by_key(|(_, partition)| partition.last_row).map(|(key, _)| *key);
        let Some(partition) = oldest.and_then(|key| self.open.remove(&key)) else { return Ok(()) };
        self.held -= partition.file.held();
        Box::new(partition.file).finish()
    }
}
