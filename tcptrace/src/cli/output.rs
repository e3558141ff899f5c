//! Writes event lines to stdout: the pipeline puts them into a bounded queue and a separate thread writes them. Lines
//! that a slow reader does not read in time are dropped and counted.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    time::Duration,
};

use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::oneshot;

use crate::{
    lifecycle::Event,
    model::record::HostFacts,
    pipeline::EventSink,
    privileges::{self, Work},
    view::events::{EventFormat, EventWriter, HostColumn},
};

/// Maximum number of bytes that wait while the reader is slow.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// Lines from a recording are queued in chunks of this size.
const CHUNK_BYTES: usize = 1 << 20;
/// How often to check that the reader has not closed the pipe.
const READER_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Policy for a slow reader of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backpressure {
    /// Drop lines and count them: the kernel does not wait.
    Drop,
    /// Block: a recording can wait.
    Wait,
}

/// Lines that wait for the writer thread.
pub struct LineQueue {
    pace: Backpressure,
    waiting: Vec<u8>,
    queue: SyncSender<Vec<u8>>,
    dropped: u64,
}

/// Formats events and queues them.
pub struct EventQueue {
    format: EventFormat,
    hosts: HostColumn,
    writer: Option<EventWriter>,
    lines: LineQueue,
}

/// Result of the writer thread: everything is written, or the reader has closed.
pub struct OutputHandle {
    /// Resolves when nothing more can be written.
    pub done: oneshot::Receiver<io::Result<()>>,
}

/// Starts the thread that writes lines to stdout.
pub fn open(pace: Backpressure) -> io::Result<(LineQueue, OutputHandle)> {
    let (queue, lines) = sync_channel(1);
    let (finish, done) = oneshot::channel();
    privileges::spawn("output", Work::Nothing, move || finish.send(write(&lines)))?;
    Ok((LineQueue { pace, waiting: Vec::new(), queue, dropped: 0 }, OutputHandle { done }))
}

/// Writes chunks until the queue closes or a write fails.
fn write(lines: &Receiver<Vec<u8>>) -> io::Result<()> {
    let stdout = io::stdout();
    loop {
        match lines.recv_timeout(READER_CHECK_INTERVAL) {
            Ok(chunk) => {
                let mut out = stdout.lock();
                out.write_all(&chunk)?;
                out.flush()?;
            }
            Err(RecvTimeoutError::Timeout) => check_reader()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Fails if stdout is a pipe whose reader has closed.
fn check_reader() -> io::Result<()> {
    let stdout = io::stdout();
    let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
        && fds[0].revents().contains(PollFlags::ERR)
    {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

impl LineQueue {
    /// The buffer for the next line; `None` if the line is dropped.
    pub fn next(&mut self) -> Option<&mut Vec<u8>> {
        if self.pace == Backpressure::Wait && self.waiting.len() > CHUNK_BYTES {
            // This fails only if the writer thread has ended, which reports its own error.
            let _ = self.queue.send(std::mem::take(&mut self.waiting));
        }
        if self.waiting.len() > MAX_QUEUED_BYTES {
            self.dropped += 1;
            return None;
        }
        Some(&mut self.waiting)
    }

    /// Passes the lines on if the writer thread is ready.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        // The next chunk will be about as long: allocate it once.
        let next = Vec::with_capacity(self.waiting.len());
        let chunk = std::mem::replace(&mut self.waiting, next);
        match self.queue.try_send(chunk) {
            Ok(()) => {}
            Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) => self.waiting = chunk,
        }
    }

    /// Lines dropped so far.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Sends the waiting lines before the queue closes.
impl Drop for LineQueue {
    fn drop(&mut self) {
        let _ = self.queue.send(std::mem::take(&mut self.waiting));
    }
}

impl EventQueue {
    /// Queues events in `format` as `lines`.
    pub const fn new(lines: LineQueue, format: EventFormat, hosts: HostColumn) -> Self {
        Self { format, hosts, writer: None, lines }
    }
}

impl EventSink for EventQueue {
    fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        let Some(waiting) = self.lines.next() else { return };
        let writer = self.writer.get_or_insert_with(|| {
            let writer = EventWriter::new(self.format, TimeZone::system(), self.hosts);
            // Writing to memory can't fail.
            let _ = writer.write_header(waiting);
            writer
        });
        let _ = writer.write(waiting, event, host);
    }

    fn flush(&mut self) {
        self.lines.flush();
    }

    fn dropped(&self) -> u64 {
        self.lines.dropped()
    }
}
