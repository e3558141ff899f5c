//! Event lines on their way to stdout: the pipeline leaves them in a bounded queue, a thread of its own
//! writes them, and what a slow reader does not take in time is counted.

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
    view::events::{Format, Writer},
};

/// Lines that wait while the reader is slow.
const MOST_WAITING_BYTES: usize = 32 << 20;
/// Lines from a recording are handed over in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;
/// How often to look whether the reader is still there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to do when the reader of the output is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Leave lines out, and count them: the kernel does not wait.
    Drop,
    /// Wait: a file does.
    Wait,
}

/// Formats events and queues them.
pub struct Lines {
    format: Format,
    pace: Pace,
    writer: Option<Writer>,
    waiting: Vec<u8>,
    queue: SyncSender<Vec<u8>>,
    dropped: u64,
}

/// The other end: done when everything is written, or the reader is gone.
pub struct Output {
    /// Resolves when nothing more can be written.
    pub done: oneshot::Receiver<io::Result<()>>,
}

/// Opens stdout for events in `format`.
pub fn open(format: Format, pace: Pace) -> io::Result<(Lines, Output)> {
    let (queue, lines) = sync_channel(1);
    let (finish, done) = oneshot::channel();
    std::thread::Builder::new().name("output".into()).spawn(move || {
        privileges::keep_for(Work::Nothing);
        finish.send(write(&lines))
    })?;
    Ok((Lines { format, pace, writer: None, waiting: Vec::new(), queue, dropped: 0 }, Output { done }))
}

/// Writes until the queue ends; an error ends it early.
fn write(lines: &Receiver<Vec<u8>>) -> io::Result<()> {
    let stdout = io::stdout();
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(chunk) => {
                let mut out = stdout.lock();
                out.write_all(&chunk)?;
                out.flush()?;
            }
            Err(RecvTimeoutError::Timeout) => reader_is_there()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Fails when stdout is a pipe that nobody reads any more.
fn reader_is_there() -> io::Result<()> {
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

impl EventSink for Lines {
    fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        if self.pace == Pace::Wait && self.waiting.len() > CHUNK_BYTES {
            // The output has failed when nobody takes it, and says so itself.
            let _ = self.queue.send(std::mem::take(&mut self.waiting));
        }
        if self.waiting.len() > MOST_WAITING_BYTES {
            self.dropped += 1;
            return;
        }
        let waiting = &mut self.waiting;
        let writer = self.writer.get_or_insert_with(|| {
            let writer = Writer::new(self.format, TimeZone::system());
            // Writing to memory can't fail.
            let _ = writer.write_header(waiting);
            writer
        });
        let _ = writer.write(waiting, event, host.clock_offset_ns);
    }

    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        // The next will be about as long: it need not grow.
        let next = Vec::with_capacity(self.waiting.len());
        let chunk = std::mem::replace(&mut self.waiting, next);
        match self.queue.try_send(chunk) {
            Ok(()) => {}
            Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) => self.waiting = chunk,
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What waits is written out before the queue ends.
impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.queue.send(std::mem::take(&mut self.waiting));
    }
}
