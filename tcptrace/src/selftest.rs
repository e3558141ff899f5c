//! End-to-end self test: traces one loopback connection through every state up to TIME_WAIT.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{
    kernel::{Loopback, Options, RingKind, Tracer, btf::KernelTypes},
    lifecycle::{Dwell, Event, Observer, Processes, Role, Socket, Tracker, TrackerLimits},
    model::{Nanos, Record, SocketId, TcpState},
    source::host,
};

/// Time limit for the connection, which takes microseconds.
const SELFTEST_TIMEOUT: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(2);

/// States of the client, which closes first and ends in TIME_WAIT.
const CLIENT: [TcpState; 5] =
    [TcpState::SynSent, TcpState::Established, TcpState::FinWait1, TcpState::FinWait2, TcpState::TimeWait];
/// States of the server.
const SERVER: [TcpState; 5] =
    [TcpState::SynRecv, TcpState::Established, TcpState::CloseWait, TcpState::LastAck, TcpState::Close];

/// One observed state change of the connection.
#[derive(Clone, Copy, Debug)]
pub struct SelftestStep {
    /// Side of the connection.
    pub role: Role,
    /// The new state.
    pub state: TcpState,
    /// Time in the previous state.
    pub dwell: Option<Dwell>,
}

/// Observed state changes of the connection.
#[derive(Clone, Debug)]
pub struct SelftestOutcome {
    /// How records reach user space.
    pub rings: RingKind,
    /// Changes of the client.
    pub client: Vec<SelftestStep>,
    /// Changes of the server.
    pub server: Vec<SelftestStep>,
}

impl SelftestOutcome {
    /// Whether both sides went through every state, in order.
    pub fn is_complete(&self) -> bool {
        let states = |steps: &[SelftestStep]| steps.iter().map(|step| step.state).collect::<Vec<_>>();
        states(&self.client) == CLIENT && states(&self.server) == SERVER
    }
}

/// Attaches the hooks, opens and closes the connection, and tracks it.
pub fn run(types: &KernelTypes) -> Result<SelftestOutcome> {
    let mut hooks = Tracer::start(types, &Options::default())?;
    let mut tracker = Tracker::new(TrackerLimits::default());
    let connection = Loopback::prepare()?;
    let mut watch = StepWatch {
        client_port: connection.client_port()?,
        server_port: connection.server_port()?,
        outcome: SelftestOutcome { rings: hooks.ring_kind(), client: Vec::new(), server: Vec::new() },
    };
    connection.run()?;
    let deadline = Instant::now() + SELFTEST_TIMEOUT;
    loop {
        hooks
            .drain(usize::MAX, host::monotonic_now(), |seen| tracker.take(&Record::Kernel(seen), &mut watch));
        if watch.outcome.is_complete() {
            return Ok(watch.outcome);
        }
        if Instant::now() > deadline {
            bail!("not every state was seen within {} s: {:?}", SELFTEST_TIMEOUT.as_secs(), watch.outcome);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Collects the state changes of the test connection.
struct StepWatch {
    client_port: u16,
    server_port: u16,
    outcome: SelftestOutcome,
}

impl Observer for StepWatch {
    fn changed(&mut self, event: &Event<'_>, _: &mut Socket, _: &Processes) {
        let step = SelftestStep { role: event.role, state: event.to, dwell: event.dwell };
        // The client binds its port before it connects, so the tuple is known from the first event on.
        match (event.tuple.sport, event.tuple.dport) {
            (sport, dport) if (sport, dport) == (self.client_port, self.server_port) => {
                self.outcome.client.push(step);
            }
            (sport, dport) if (sport, dport) == (self.server_port, self.client_port) => {
                self.outcome.server.push(step);
            }
            _ => {}
        }
    }

    fn appeared(&mut self, _: SocketId, _: &mut Socket, _: &Processes) {}
    fn corrected(&mut self, _: TcpState, _: &mut Socket, _: &Processes) {}
    fn identified(&mut self, _: &mut Socket, _: &Processes) {}
    fn orphaned(&mut self, _: &mut Socket) {}
}

impl SelftestStep {
    /// Length of the previous state, if known.
    pub fn before(&self) -> Option<Nanos> {
        self.dwell.map(|dwell| dwell.length)
    }
}
