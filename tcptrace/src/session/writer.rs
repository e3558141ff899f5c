//! The worker thread that writes a recording: encodes portions of records and writes batches to files.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{
    encode::Encoder,
    message::{self, Compressor},
    output::RecordingOutput,
    portion::{Portion, RecorderStatus},
    schema::{FORMAT, key},
    written::{Failure, WriteError, Written},
};
use crate::model::{
    Nanos, Record,
    incident::Incident,
    record::{HostFacts, KernelLosses},
};

/// Longest time between two writes of a batch, and longest time a batch spans: of the one second that may be
/// lost, the rest is left for writing on a busy host. Even an almost empty batch takes about 3 KiB.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
const MAX_BATCH_SPAN: Nanos = Nanos(500_000_000);
/// The interval once a batch has so many rows that those 3 KiB are less than a byte per row.
const BUSY_FLUSH_INTERVAL: Duration = Duration::from_millis(250);
const BUSY_ROWS: usize = 4096;
/// The interval for a batch that has only ticks.
const TICKS_FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// How often to check for a flush or a dump request.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The writer thread's state.
pub struct RecordingWriter {
    encoder: Encoder,
    compressor: Compressor,
    output: RecordingOutput,
    status: Arc<RecorderStatus>,
    host: HostFacts,
    has_begun: bool,
    /// Compressed batches that are not written yet.
    bytes: Vec<u8>,
    /// Hook records since the last flush.
    records: u64,
    first: Option<Nanos>,
    ts: Nanos,
    flushed: Instant,
    dumped: usize,
    /// A new piece was requested and has not begun.
    wants_head: bool,
    begun: Option<oneshot::Sender<PathBuf>>,
    dump_results: UnboundedSender<Result<Written, Failure>>,
}

impl RecordingWriter {
    /// Creates a writer. `begun` receives the path once the initial state is written, `dump_results` the results of
    /// requested dumps.
    pub fn new(
        output: RecordingOutput,
        compressor: Compressor,
        status: Arc<RecorderStatus>,
        begun: oneshot::Sender<PathBuf>,
        dump_results: UnboundedSender<Result<Written, Failure>>,
    ) -> Self {
        Self {
            encoder: Encoder::default(),
            compressor,
            output,
            status,
            host: HostFacts::default(),
            has_begun: false,
            bytes: Vec::new(),
            records: 0,
            first: None,
            ts: Nanos(0),
            flushed: Instant::now(),
            dumped: 0,
            wants_head: false,
            begun: Some(begun),
            dump_results,
        }
    }

    /// Writes until all senders are gone.
    pub fn run(mut self, portions: &Receiver<Portion>) -> Result<Written, Failure> {
        let done = match self.write_all(portions) {
            Ok(()) => self.output.finish(),
            Err(cause) => Err(Failure { cause, written: self.output.written() }),
        };
        self.status.bytes.store(self.output.bytes(), Relaxed);
        done
    }

    fn write_all(&mut self, portions: &Receiver<Portion>) -> Result<(), WriteError> {
        loop {
            match portions.recv_timeout(LOOK_EVERY) {
                Ok(Portion::Records(records)) => {
                    for record in &records {
                        self.record(record)?;
                    }
                    self.status.queued.fetch_sub(1, Relaxed);
                }
                Ok(Portion::Head { losses_before, ts, records }) => {
                    self.begin_piece(ts, &losses_before, records())?;
                    self.status.queued.fetch_sub(1, Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush()?;
                    // An incident that waits for its end is written now.
                    return if self.output.is_for_incidents() { self.dump_if_requested() } else { Ok(()) };
                }
            }
            let enough = match self.encoder.non_tick_rows() {
                0 => TICKS_FLUSH_INTERVAL,
                1..BUSY_ROWS => FLUSH_INTERVAL,
                BUSY_ROWS.. => BUSY_FLUSH_INTERVAL,
            };
            if self.flushed.elapsed() >= enough {
                self.flush()?;
            }
            self.dump_if_requested()?;
        }
    }

    fn record(&mut self, record: &Record) -> Result<(), WriteError> {
        if let Record::Host(facts) = record {
            self.host = facts.after(&self.host);
            if !self.has_begun {
                self.has_begun = true;
                self.encoder.set_clock_offset(facts.clock_offset_ns);
                self.begin_output()?;
                // Even the shortest recording identifies its host.
                self.encoder.record(record);
                return self.flush();
            }
        }
        if let Record::ClockStep(step) = record {
            self.host.step_clock(*step);
        }
        self.encoder.record(record);
        self.records += u64::from(matches!(record, Record::Kernel(_)));
        if let Some(ts) = record.ts() {
            self.ts = self.ts.max(ts);
            self.first.get_or_insert(ts);
        }
        let first = self.first.unwrap_or(self.ts);
        let is_due = self.encoder.non_tick_rows() > 0 && self.ts.since(first) >= MAX_BATCH_SPAN;
        if is_due || self.encoder.is_full() || self.wants_piece() {
            self.flush()?;
        }
        // Ends the seed, or the initial state of a recording that is recorded again.
        if let Record::OwnersEnd { .. } = record
            && let Some(begun) = self.begun.take()
        {
            self.flush()?;
            let _ = begun.send(self.output.path().to_owned());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.flushed = Instant::now();
        self.bytes.clear();
        self.compress()?;
        let first = self.first.take().unwrap_or(self.ts);
        self.output.append(&self.bytes, self.records, first, self.ts)?;
        self.status.records.fetch_add(std::mem::take(&mut self.records), Relaxed);
        self.status.bytes.store(self.output.bytes(), Relaxed);
        if self.wants_piece() {
            self.wants_head = true;
            self.status.wants_head.store(true, Relaxed);
        }
        Ok(())
    }

    /// Whether to request a new piece: once only, because records written before it begins belong to this one.
    fn wants_piece(&self) -> bool {
        !self.wants_head && self.output.wants_piece(self.ts)
    }

    fn compress(&mut self) -> Result<(), WriteError> {
        self.encoder
            .take_batch(&mut self.compressor, &mut self.bytes)
            .map_err(|why| WriteError { path: self.output.path().to_owned(), why })
    }

    fn begin_piece(
        &mut self,
        ts: Nanos,
        losses_before: &KernelLosses,
        records: impl Iterator<Item = Record>,
    ) -> Result<(), WriteError> {
        self.flush()?;
        self.wants_head = false;
        self.encoder.forget();
        self.ts = ts;
        let mut records = records.peekable();
        if let Some(Record::Host(facts)) = records.peek() {
            self.host = facts.after(&self.host);
        }
        if self.output.has_header_per_piece() {
            // In a file that begins after a clock step, `ts` must be the time of day for any reader.
            self.encoder.set_clock_offset(self.host.clock_offset_at(ts));
        }
        self.begin_output()?;
        self.bytes.clear();
        self.encoder.losses_before(ts, losses_before);
        for record in records {
            self.encoder.record(&record);
            if self.encoder.is_full() {
                self.compress()?;
            }
        }
        self.compress()?;
        self.output.head(&self.bytes)
    }

    fn begin_output(&mut self) -> Result<(), WriteError> {
        let header = header(&self.host, self.encoder.clock_offset_ns(), &[], &mut self.compressor)
            .map_err(|why| WriteError { path: self.output.path().to_owned(), why })?;
        self.output.begin(&header, self.ts)
    }

    fn dump_if_requested(&mut self) -> Result<(), WriteError> {
        if self.status.wants_dump.load(Relaxed) == self.dumped {
            return Ok(());
        }
        self.dumped = self.status.wants_dump.load(Relaxed);
        self.flush()?;
        let incidents = self.status.take_incidents();
        let header = header(&self.host, self.encoder.clock_offset_ns(), &incidents, &mut self.compressor)
            .map_err(|why| WriteError { path: self.output.path().to_owned(), why })?;
        if let Some(written) = self.output.dump(&header) {
            let _ = self.dump_results.send(written);
        }
        Ok(())
    }
}

/// Builds the start of a file: schema and fixed dictionaries.
fn header(
    host: &HostFacts,
    clock_offset_ns: u64,
    incidents: &[Incident],
    compressor: &mut Compressor,
) -> io::Result<Vec<u8>> {
    let mut metadata = vec![
        (key::FORMAT, FORMAT.to_string()),
        (key::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (key::CLOCK_OFFSET_NS, clock_offset_ns.to_string()),
        (key::HOST, host.host.clone()),
        (key::KERNEL, host.kernel.clone()),
        (key::BOOT_ID, host.boot_id.clone()),
        (key::FILTER, host.filter.clone()),
        (key::SYSCTLS, serde_json::to_string(&host.sysctls)?),
    ];
    if !incidents.is_empty() {
        metadata.push((key::INCIDENTS, serde_json::to_string(incidents)?));
    }
    message::header(&metadata, compressor)
}
