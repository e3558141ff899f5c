//! The whole path tried out: one own loopback connection, followed through every state up to TIME_WAIT.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{
    kernel::{Loopback, Options, Tracer, btf::KernelTypes},
    lifecycle::{Dwell, Event, Limits, Observer, Processes, Role, Socket, Tracker},
    model::{Nanos, Record, SocketId, TcpState},
    source::host,
};

/// How long the connection may take: it is a matter of microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(2);

/// The client closes first and ends in TIME_WAIT.
const CLIENT: [TcpState; 5] =
    [TcpState::SynSent, TcpState::Established, TcpState::FinWait1, TcpState::FinWait2, TcpState::TimeWait];
/// The server's end.
const SERVER: [TcpState; 5] =
    [TcpState::SynRecv, TcpState::Established, TcpState::CloseWait, TcpState::LastAck, TcpState::Close];

/// One step of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Which end.
    pub role: Role,
    /// The state it entered.
    pub state: TcpState,
    /// How long it was in the one before.
    pub dwell: Option<Dwell>,
}

/// What was seen of the connection.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The client's end.
    pub client: Vec<Step>,
    /// The server's end.
    pub server: Vec<Step>,
}

impl Outcome {
    /// Whether both ends went through every state, in order.
    pub fn is_complete(&self) -> bool {
        let states = |steps: &[Step]| steps.iter().map(|step| step.state).collect::<Vec<_>>();
        states(&self.client) == CLIENT && states(&self.server) == SERVER
    }
}

/// Attaches the hooks, makes the connection, and follows it.
pub fn run(types: &KernelTypes) -> Result<Outcome> {
    let mut hooks = Tracer::start(types, &Options::default())?;
    let mut tracker = Tracker::new(Limits::default());
    let connection = Loopback::prepare()?;
    let mut watch = Watch {
        client_port: connection.client_port()?,
        server_port: connection.server_port()?,
        outcome: Outcome::default(),
    };
    connection.run()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        hooks
            .drain(usize::MAX, host::monotonic_now(), |seen| tracker.take(&Record::Kernel(seen), &mut watch));
        if watch.outcome.is_complete() {
            return Ok(watch.outcome);
        }
        if Instant::now() > deadline {
            bail!("not every state was seen within {} s: {:?}", PATIENCE.as_secs(), watch.outcome);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Notes the steps of the one connection.
struct Watch {
    client_port: u16,
    server_port: u16,
    outcome: Outcome,
}

impl Observer for Watch {
    fn changed(&mut self, event: &Event<'_>, _: &mut Socket, _: &Processes) {
        let step = Step { role: event.role, state: event.to, dwell: event.dwell };
        // The client bound its port before it connected.
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

impl Step {
    /// How long the state before lasted, where that is known.
    pub fn before(&self) -> Option<Nanos> {
        self.dwell.map(|dwell| dwell.length)
    }
}
