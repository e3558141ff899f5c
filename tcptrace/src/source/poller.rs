//! Runs what must read the host while the ring reader goes on: each [`Poller`] has a thread, which polls when a
//! poll is due and ends when its [`PollerThread`] is dropped.

use std::{
    io,
    sync::mpsc::{
        Receiver, RecvTimeoutError, SendError, SyncSender, TryRecvError, TrySendError, sync_channel,
    },
    time::{Duration, Instant},
};

use crate::privileges::{self, Work};

/// Reads something from the host repeatedly, and sends its findings.
pub trait Poller: Send + 'static {
    /// Name of the thread.
    const NAME: &'static str;
    /// Its work.
    const WORK: Work = Work::InspectHost;
    /// Most requests that wait for the poller.
    const REQUESTS: usize = 1;
    /// Most findings that wait for the reader.
    const FINDINGS: usize = 64;
    /// A message from the reader.
    type Request: Send + 'static;
    /// A message to the reader.
    type Finding: Send + 'static;

    /// When the next poll is due; `None` if not before a request.
    fn due(&self) -> Option<Instant>;
    /// Handles a request, which may change when the next poll is due.
    fn request(&mut self, request: Self::Request);
    /// Polls once.
    fn poll(&mut self) -> Result<(), PollerEnded>;
}

/// Requests one last poll, after which the poller ends.
pub struct LastPoll;

/// Time limit for the last poll.
pub const LAST_POLL_TIMEOUT: Duration = Duration::from_secs(3);

/// The receiver was dropped, or nothing remains to be polled.
pub struct PollerEnded;

impl<T> From<SendError<T>> for PollerEnded {
    fn from(_: SendError<T>) -> Self {
        Self
    }
}

/// The reader's end of a poller; none of its methods waits.
pub struct PollerThread<P: Poller> {
    pub(super) requests: SyncSender<P::Request>,
    /// Closes when the poller has ended.
    pub(super) findings: Receiver<P::Finding>,
}

impl<P: Poller> PollerThread<P> {
    /// Starts the thread of the poller that `new` creates.
    pub fn start(new: impl FnOnce(SyncSender<P::Finding>) -> P) -> io::Result<Self> {
        let (requests, requested) = sync_channel(P::REQUESTS);
        let (sender, findings) = sync_channel(P::FINDINGS);
        let poller = new(sender);
        privileges::spawn(P::NAME, P::WORK, move || run(poller, requested))?;
        Ok(Self { requests, findings })
    }

    /// Returns `request` if too many wait, and drops it if the poller has ended.
    pub fn request_or_return(&self, request: P::Request) -> Option<P::Request> {
        match self.requests.try_send(request) {
            Err(TrySendError::Full(request)) => Some(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
        }
    }

    /// Returns whether the poller will receive `request`: not if too many wait, or if it has ended.
    pub fn request(&self, request: P::Request) -> bool {
        self.requests.try_send(request).is_ok()
    }
}

/// Findings that wait in `thread`, at most `most`. Drops the thread if the poller has ended.
pub fn receive<P: Poller>(thread: &mut Option<PollerThread<P>>, most: usize) -> Vec<P::Finding> {
    let mut received = Vec::new();
    while received.len() < most {
        let Some(running) = thread else { break };
        match running.findings.try_recv() {
            Ok(finding) => received.push(finding),
            Err(TryRecvError::Empty) => break,
            Err(TryRecvError::Disconnected) => *thread = None,
        }
    }
    received
}

fn run<P: Poller>(mut poller: P, requests: Receiver<P::Request>) {
    loop {
        let request = match poller.due() {
            Some(due) => requests.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => requests.recv().map_err(RecvTimeoutError::from),
        };
        match request {
            Ok(request) => poller.request(request),
            Err(RecvTimeoutError::Timeout) if poller.poll().is_ok() => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    // Before the poller closes its findings: once a receiver sees that it has ended, no request is accepted.
    drop(requests);
}

/// When a poller that ends with a [`LastPoll`] polls.
#[derive(Debug)]
pub struct PollSchedule {
    interval: PollBackoff,
    next: Instant,
    is_last: bool,
}

impl PollSchedule {
    /// The first poll is due now.
    pub fn new(interval: PollBackoff) -> Self {
        Self { interval, next: Instant::now(), is_last: false }
    }

    /// When the next poll is due.
    pub fn due(&self) -> Instant {
        if self.is_last { Instant::now() } else { self.next }
    }

    /// The next poll follows after the shortest pause, whatever the cost.
    pub fn pause(&mut self) {
        self.next = Instant::now() + self.interval.least;
    }

    /// One more poll, now.
    pub const fn request_last(&mut self) {
        self.is_last = true;
    }

    /// A poll of this cost is over; fails if it was the last one.
    pub fn polled(&mut self, cost: Duration) -> Result<(), PollerEnded> {
        if self.is_last {
            return Err(PollerEnded);
        }
        self.next = Instant::now() + self.interval.after(cost);
        Ok(())
    }
}

/// Pause between two polls, depending on the cost of the first: its [CPU time](crate::privileges::CpuTimer).
#[derive(Clone, Copy, Debug)]
pub struct PollBackoff {
    /// The shortest pause.
    pub least: Duration,
    /// A poll may use at most one part in `share` of one CPU.
    pub share: u32,
}

impl PollBackoff {
    pub fn after(self, cost: Duration) -> Duration {
        self.least.max(cost.saturating_mul(self.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls only when requested, and finds the request.
    struct Echo {
        requested: Option<u32>,
        findings: SyncSender<u32>,
    }

    impl Poller for Echo {
        const NAME: &'static str = "test";
        type Request = u32;
        type Finding = u32;

        fn due(&self) -> Option<Instant> {
            self.requested.map(|_| Instant::now())
        }

        fn request(&mut self, request: u32) {
            self.requested = Some(request);
        }

        fn poll(&mut self) -> Result<(), PollerEnded> {
            match self.requested.take() {
                Some(0) | None => Err(PollerEnded),
                Some(request) => Ok(self.findings.send(request)?),
            }
        }
    }

    #[test]
    fn a_poller_runs_until_it_ends() {
        let echo = PollerThread::start(|findings| Echo { requested: None, findings }).expect("a thread");
        for request in [7, 8] {
            assert!(echo.request(request));
            assert_eq!(echo.findings.recv(), Ok(request));
        }
        assert!(echo.request(0));
        assert!(echo.findings.recv().is_err());
        assert!(!echo.request(9));
    }
}
