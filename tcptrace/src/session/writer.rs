//! The thread that writes a recording: portions of records in, batches in files out.

use std::{
    io,
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
    output::{Output, Unwritten, Written},
    recorder::{Failure, Portion, Status},
    schema::{FORMAT, key},
};
use crate::model::{
    Nanos, Record,
    record::{HostFacts, KernelLosses},
};

/// A batch is written at least so often, and spans no more time than that: the rest of a
/// second is for writing, however busy the host is. However little is in one, it takes some 3 KiB.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
const MOST_SPAN: Nanos = Nanos(500_000_000);
/// The same when there is so much in it that those 3 KiB are less than a byte for each.
const FLUSH_MUCH_EVERY: Duration = Duration::from_millis(250);
const MUCH: usize = 4096;
/// The same when there is nothing in it but the time.
const FLUSH_TICKS_EVERY: Duration = Duration::from_secs(10);
/// How often to look whether something else is wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The thread that writes.
pub struct Writer {
    encoder: Encoder,
    compressor: Compressor,
    output: Output,
    status: Arc<Status>,
    host: HostFacts,
    has_begun: bool,
    /// Compressed batches not yet written.
    bytes: Vec<u8>,
    /// Records of hooks since the last flush.
    records: u64,
    first: Option<Nanos>,
    ts: Nanos,
    flushed: Instant,
    dumped: usize,
    begun: Option<oneshot::Sender<()>>,
    tell: UnboundedSender<Result<Written, Unwritten>>,
}

impl Writer {
    /// One that has written nothing; `begun` is told when everything that was there at the beginning is written, `tell`
    /// of what was written out on request.
    pub fn new(
        output: Output,
        compressor: Compressor,
        status: Arc<Status>,
        begun: oneshot::Sender<()>,
        tell: UnboundedSender<Result<Written, Unwritten>>,
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
            begun: Some(begun),
            tell,
        }
    }

    /// Writes all there is until nobody hands anything over any more.
    pub fn run(mut self, portions: &Receiver<Portion>) -> Result<Written, Failure> {
        let done = self.write_all(portions).and_then(|()| self.output.finish());
        self.status.bytes.store(self.output.bytes(), Relaxed);
        done.map_err(|cause| Failure { cause, written: self.output.written() })
    }

    fn write_all(&mut self, portions: &Receiver<Portion>) -> Result<(), Unwritten> {
        loop {
            match portions.recv_timeout(LOOK_EVERY) {
                Ok(Portion::Records(records)) => {
                    for record in &records {
                        self.record(record)?;
                    }
                    self.status.queued.fetch_sub(1, Relaxed);
                }
                Ok(Portion::Head { losses_before, ts, records }) => {
                    self.begin_piece(ts, &losses_before, &records)?;
                    self.status.queued.fetch_sub(1, Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            let enough = match self.encoder.substance() {
                0 => FLUSH_TICKS_EVERY,
                1..MUCH => FLUSH_EVERY,
                MUCH.. => FLUSH_MUCH_EVERY,
            };
            if self.flushed.elapsed() >= enough {
                self.flush()?;
            }
            self.dump_when_asked()?;
        }
    }

    fn record(&mut self, record: &Record) -> Result<(), Unwritten> {
        if let Record::Host(facts) = record {
            self.host.clone_from(facts);
            if !self.has_begun {
                self.has_begun = true;
                self.encoder.set_clock_offset(facts.clock_offset_ns);
                self.begin_output()?;
                // However soon it ends, a recording says where it was made.
                self.encoder.record(record);
                return self.flush();
            }
        }
        self.encoder.record(record);
        self.records += u64::from(matches!(record, Record::Kernel(_)));
        if let Some(ts) = record.ts() {
            self.ts = self.ts.max(ts);
            self.first.get_or_insert(ts);
        }
        let first = self.first.unwrap_or(self.ts);
        let is_due = self.encoder.substance() > 0 && self.ts.since(first) >= MOST_SPAN;
        if is_due || self.encoder.is_full() {
            self.flush()?;
        }
        // The seed is complete, or what a recording that is recorded anew begins with.
        if let Record::OwnersEnd { .. } = record
            && let Some(begun) = self.begun.take()
        {
            self.flush()?;
            let _ = begun.send(());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Unwritten> {
        self.flushed = Instant::now();
        self.bytes.clear();
        self.compress()?;
        let first = self.first.take().unwrap_or(self.ts);
        self.output.append(&self.bytes, self.records, first, self.ts)?;
        self.status.records.fetch_add(std::mem::take(&mut self.records), Relaxed);
        self.status.bytes.store(self.output.bytes(), Relaxed);
        if self.output.wants_piece() {
            self.status.wants_head.store(true, Relaxed);
        }
        Ok(())
    }

    fn compress(&mut self) -> Result<(), Unwritten> {
        self.encoder
            .take_batch(&mut self.compressor, &mut self.bytes)
            .map_err(|why| Unwritten { path: self.output.written().path, why })
    }

    fn begin_piece(
        &mut self,
        ts: Nanos,
        losses_before: &KernelLosses,
        records: &[Record],
    ) -> Result<(), Unwritten> {
        self.flush()?;
        self.encoder.forget();
        self.ts = ts;
        self.begin_output()?;
        self.bytes.clear();
        self.encoder.losses_before(ts, losses_before);
        for record in records {
            self.encoder.record(record);
            if self.encoder.is_full() {
                self.compress()?;
            }
        }
        self.compress()?;
        self.output.head(&self.bytes)
    }

    fn begin_output(&mut self) -> Result<(), Unwritten> {
        let header = header(&self.host, &mut self.compressor)
            .map_err(|why| Unwritten { path: self.output.written().path, why })?;
        self.output.begin(&header, self.ts)
    }

    fn dump_when_asked(&mut self) -> Result<(), Unwritten> {
        if self.status.wants_dump.load(Relaxed) == self.dumped {
            return Ok(());
        }
        self.dumped = self.status.wants_dump.load(Relaxed);
        self.flush()?;
        if let Some(written) = self.output.dump() {
            let _ = self.tell.send(written);
        }
        Ok(())
    }
}

/// What a file begins with.
fn header(host: &HostFacts, compressor: &mut Compressor) -> io::Result<Vec<u8>> {
    let metadata = [
        (key::FORMAT, FORMAT.to_string()),
        (key::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (key::CLOCK_OFFSET_NS, host.clock_offset_ns.to_string()),
        (key::HOST, host.host.clone()),
        (key::KERNEL, host.kernel.clone()),
        (key::BOOT_ID, host.boot_id.clone()),
        (key::FILTER, host.filter.clone()),
        (key::SYSCTLS, serde_json::to_string(&host.sysctls)?),
    ];
    message::header(&metadata, compressor)
}
