//! Expectations as rows: the expected transitions of a socket against its events.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tcptrace_common::state::TcpState;

use crate::clock::{Span, is_emulated, jiffy, late};
use crate::event::{EventCloser, EventEndReason, EventLine, EventOwner, EventRole};
use crate::precision::Precision;

/// How long every `TIME_WAIT` lasts that nothing ends (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_LEAST: Duration = Duration::from_secs(60);

/// Longer than any run.
const ANY_LENGTH: Duration = Duration::from_secs(86_400);

/// The socket that a test expects.
#[derive(Clone, Debug)]
pub struct ExpectedSocket {
    /// Its name in messages.
    pub label: &'static str,
    /// Its cookie; `None` for a handshake that never becomes a socket: then the tuple names it.
    pub id: Option<u64>,
    /// Its namespace.
    pub netns: u32,
    /// The local end; `None` while it has no port.
    pub local: Option<SocketAddr>,
    /// The remote end; `None` for a listener.
    pub remote: Option<SocketAddr>,
    /// When its first event came, as far as it is needed. Of a socket that was accepted: a request socket has no cookie yet, so
    /// the event `LISTEN` -> `SYN_RECV` carries an id of its own and is known by its addresses and its time. And of one that
    /// ended before the test knew its addresses.
    pub began: Option<Span>,
    /// Its role; `None` where the tracer can only guess.
    pub role: Option<EventRole>,
    /// When it had its addresses; a later socket may have the same.
    pub known_ns: u64,
}

/// The ids of a tracer that can't learn cookies from the kernel.
pub const MADE_UP: std::ops::Range<u64> = 1 << 50..1 << 51;

impl ExpectedSocket {
    /// Whether the event is about this socket by its id.
    pub fn owns(&self, event: &EventLine) -> bool {
        match self.id {
            Some(id) => event.id == id || self.began.is_some_and(|span| self.began_with(event, span)),
            None => event.netns == self.netns && self.at_its_addresses(event),
        }
    }

    fn began_with(&self, event: &EventLine, span: Span) -> bool {
        (event.from, event.to) == (TcpState::Listen, TcpState::SynRecv)
            && event.netns == self.netns
            && self.at_its_addresses(event)
            && span.holds(event.ts_ns, Duration::ZERO)
    }

    fn at_its_addresses(&self, event: &EventLine) -> bool {
        self.local.is_none_or(|local| local == SocketAddr::new(event.saddr, event.sport))
            && self.remote.is_none_or(|remote| remote == SocketAddr::new(event.daddr, event.dport))
    }
}

/// The events of one socket. A made-up id is that of the socket if one of its events has the addresses of the socket; of
/// several sockets with these addresses, the last one that began before they were known. (The clock may have been set.)
pub struct SocketEvents<'a> {
    socket: &'a ExpectedSocket,
    /// Positions of the events with its own id.
    own: Vec<usize>,
    made_up: HashMap<u64, MadeUpSocket>,
}

/// A socket with a made-up id.
struct MadeUpSocket {
    began_ns: u64,
    ended_ns: Option<u64>,
    has_addresses: bool,
    positions: Vec<usize>,
}

impl<'a> SocketEvents<'a> {
    /// No event yet.
    pub fn new(socket: &'a ExpectedSocket) -> Self {
        Self { socket, own: Vec::new(), made_up: HashMap::new() }
    }

    /// Adds the event at `position`, if it may be one of the socket.
    pub fn add(&mut self, position: usize, event: &EventLine) {
        let socket = self.socket;
        if socket.owns(event) {
            self.own.push(position);
        }
        if socket.id.is_some() && MADE_UP.contains(&event.id) && event.netns == socket.netns {
            let is_role = socket.role.is_none_or(|role| role == event.role);
            let of = self.made_up.entry(event.id).or_insert(MadeUpSocket {
                began_ns: event.ts_ns,
                ended_ns: None,
                has_addresses: false,
                positions: Vec::new(),
            });
            of.has_addresses |= is_role && socket.at_its_addresses(event);
            of.positions.push(position);
            if event.to == TcpState::Close {
                of.ended_ns = Some(event.ts_ns);
            }
        }
    }

    /// Whether it may be the socket by its time: where it is not known when it began, a socket with both addresses was open
    /// when these were known.
    fn may_be(&self, of: &MadeUpSocket) -> bool {
        let ExpectedSocket { began, local, remote, known_ns, .. } = *self.socket;
        let was_open = || of.ended_ns.is_none_or(|ended_ns| ended_ns >= known_ns);
        began.map_or_else(
            || was_open() || local.is_none() || remote.is_none(),
            |span| span.holds(of.began_ns, Duration::ZERO),
        )
    }

    /// The positions of its events so far.
    pub fn positions(&self) -> Vec<usize> {
        let known_ns = self.socket.known_ns;
        let same = || self.made_up.values().filter(|of| of.has_addresses && self.may_be(of));
        let made_up = same().filter(|of| of.began_ns <= known_ns).max_by_key(|of| of.began_ns);
        let made_up = made_up.or_else(|| same().min_by_key(|of| of.began_ns));
        let mut all = self.own.clone();
        all.extend(made_up.iter().flat_map(|of| &of.positions));
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// One expected transition. Made by [`step`]; by default by this process, not seeded, without an end reason.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ExpectedStep {
    from: TcpState,
    to: TcpState,
    within: Span,
    dwell: Option<(Duration, Duration)>,
    owner: Option<(EventOwner, u32)>,
    /// The process, from any source.
    pid: Option<u32>,
    closer: Option<EventCloser>,
    end_reason: Option<EventEndReason>,
    orphan: Option<bool>,
    seeded: bool,
    /// `None` if it cannot be known.
    extended: Option<bool>,
    inferred: bool,
    by_segment: bool,
}

/// The transition `from` -> `to` somewhere in `within`.
pub fn step(from: TcpState, to: TcpState, within: Span) -> ExpectedStep {
    ExpectedStep {
        from,
        to,
        within,
        dwell: None,
        owner: Some((EventOwner::Exact, std::process::id())),
        pid: None,
        closer: None,
        end_reason: None,
        orphan: None,
        seeded: false,
        extended: Some(false),
        inferred: false,
        by_segment: false,
    }
}

impl ExpectedStep {
    /// The dwell in `from` is `least` to `most`. By default it is the time between the two transitions.
    pub const fn dwelt(self, least: Duration, most: Duration) -> Self {
        Self { dwell: Some((least, most)), ..self }
    }

    /// The known process is `pid`, with this source.
    pub const fn owner(self, owner: EventOwner, pid: u32) -> Self {
        Self { owner: Some((owner, pid)), ..self }
    }

    /// The known process is the listener's: this one.
    pub fn by_listener(self) -> Self {
        self.owner(EventOwner::Listener, std::process::id())
    }

    /// The known process is `pid`, with a source that depends on the kernel.
    pub const fn pid(self, pid: u32) -> Self {
        Self { owner: None, pid: Some(pid), ..self }
    }

    /// Which side ended the connection, as far as it is known here.
    pub const fn closer(self, closer: EventCloser) -> Self {
        Self { closer: Some(closer), ..self }
    }

    /// The owner is unknown.
    pub const fn any_owner(self) -> Self {
        Self { owner: None, ..self }
    }

    /// The end reason of the socket.
    pub const fn ended(self, reason: EventEndReason) -> Self {
        Self { end_reason: Some(reason), ..self }
    }

    /// The `FIN_WAIT2` on either side of the arrow has no owner.
    pub const fn orphan(self) -> Self {
        Self { orphan: Some(true), ..self }
    }

    /// A process still has the `FIN_WAIT2` on either side of the arrow open.
    pub const fn held(self) -> Self {
        Self { orphan: Some(false), ..self }
    }

    /// The state before is known from the snapshot only.
    pub const fn seeded(self) -> Self {
        Self { seeded: true, ..self }
    }

    /// The dwell is computed, as its beginning was not seen. On kernels with fewer events other dwells may be too.
    pub const fn inferred(self) -> Self {
        Self { inferred: true, ..self }
    }

    /// A segment changes a timewait socket, which its timer shows only when it moves to another bucket. Where segments are not
    /// visible, the time of a step to `TIME_WAIT` is exact or an upper bound, marked inferred, and an end is unexplained.
    pub const fn by_segment(self) -> Self {
        Self { by_segment: true, ..self }
    }

    /// The expectation of `event` on a kernel with fewer events.
    fn at(self, precision: Precision, event: &EventLine) -> Self {
        if precision == Precision::Segments {
            return self;
        }
        if self.extended == Some(true) {
            // The first FIN was not visible: the first one that armed the timer counts.
            let dwell = self.dwell.map(|(least, most)| (least.min(TIME_WAIT_LEAST), most));
            return Self { extended: None, dwell, ..self };
        }
        if !self.by_segment {
            return self;
        }
        if self.to == TcpState::Close {
            return Self { end_reason: self.end_reason.map(|_| EventEndReason::Unexplained), ..self };
        }
        if !event.inferred {
            // The timer moved to another bucket: that is the time of the segment.
            return self;
        }
        let within = Span { end_ns: u64::MAX / 2, ..self.within };
        // With an unknown begin and an upper bound of the end, the dwell is no lower bound either.
        Self { within, seeded: false, dwell: self.dwell.map(|(least, _)| (least, ANY_LENGTH)), ..self }
    }

    /// The timer of this `TIME_WAIT` was armed again.
    pub const fn extended(self) -> Self {
        Self { extended: Some(true), ..self }
    }

    fn problems(&self, socket: &ExpectedSocket, event: &EventLine) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |right: bool, problem: &dyn Fn() -> String| {
            if !right {
                problems.push(problem());
            }
        };
        check((event.from, event.to) == (self.from, self.to), &|| "other states".into());
        // An inferred time comes from jiffies, which lag while an emulated machine has no CPU.
        let lag = if event.inferred && is_emulated() { late() } else { jiffy() };
        check(self.within.holds(event.ts_ns, lag), &|| {
            format!("not within {} .. {}", self.within.start_ns, self.within.end_ns)
        });
        check(event.end_reason == self.end_reason, &|| format!("end reason is not {:?}", self.end_reason));
        check(event.seeded == self.seeded, &|| format!("seeded is not {}", self.seeded));
        check(self.extended.is_none_or(|extended| event.extended == extended), &|| {
            format!("extended is not {:?}", self.extended)
        });
        check(event.inferred || !self.inferred, &|| "not inferred".into());
        check(event.netns == socket.netns, &|| format!("namespace is not {}", socket.netns));
        check(socket.role.is_none_or(|role| role == event.role), &|| {
            format!("role is not {:?}", socket.role)
        });
        let addresses_known = event.from != TcpState::Close && event.to != TcpState::Listen;
        check(!addresses_known || socket.at_its_addresses(event), &|| {
            format!("addresses are {}:{} {}:{}", event.saddr, event.sport, event.daddr, event.dport)
        });
        if let Some((owner, pid)) = self.owner {
            check((event.owner, event.pid) == (owner, Some(pid)), &|| {
                format!("owner is not {owner:?} {pid}")
            });
        }
        if let Some(pid) = self.pid {
            check(event.pid == Some(pid), &|| format!("process is not {pid}"));
        }
        if let Some(closer) = self.closer {
            check(event.closer == closer, &|| format!("closer is not {closer:?}"));
        }
        if let Some((least, most)) = self.dwell {
            let dwell = event.dwell_ns.map(Duration::from_nanos);
            let right = dwell.is_some_and(|dwell| dwell + lag >= least && dwell <= most + lag);
            check(right, &|| format!("dwell is not {least:?} .. {most:?}"));
        }
        let about_fin_wait2 = [event.from, event.to].contains(&TcpState::FinWait2);
        check(event.orphan.is_some() == about_fin_wait2, &|| {
            "orphan reported in another state, or missing".into()
        });
        if about_fin_wait2 && self.orphan.is_some() {
            check(event.orphan == self.orphan, &|| format!("orphan is not {:?}", self.orphan));
        }
        problems
    }
}

/// Checks that the socket had exactly these transitions. The error compares them with the events row by row.
pub fn check_steps(
    socket: &ExpectedSocket,
    steps: &[ExpectedStep],
    seen: &[EventLine],
    precision: Precision,
) -> Result<()> {
    let mut report =
        format!("{} ({:?} -> {:?}, id {:?}):\n", socket.label, socket.local, socket.remote, socket.id);
    let mut right = true;
    for row in 0..steps.len().max(seen.len()) {
        let problems = match (steps.get(row), seen.get(row)) {
            (Some(step), Some(event)) => {
                let mut problems = step.at(precision, event).problems(socket, event);
                problems.extend(row.checked_sub(1).and_then(|before| wrong_dwell(&seen[before], event)));
                problems
            }
            (Some(step), None) => vec![format!("missing: {} -> {}", step.from.name(), step.to.name())],
            (None, _) => vec!["not expected".into()],
        };
        right &= problems.is_empty();
        let event = seen.get(row).map_or_else(|| "-".into(), ToString::to_string);
        let verdict =
            if problems.is_empty() { "ok".into() } else { format!("WRONG: {}", problems.join("; ")) };
        writeln!(report, "    {event}  [{verdict}]")?;
    }
    if !right {
        bail!(report);
    }
    Ok(())
}

/// A dwell between two transitions that were both seen is the time between them.
fn wrong_dwell(before: &EventLine, event: &EventLine) -> Option<String> {
    let apart_ns = event.ts_ns.checked_sub(before.ts_ns);
    let exact = !event.seeded && !event.inferred && !before.inferred && event.from != TcpState::Close;
    let wrong = exact && (apart_ns.is_none() || event.dwell_ns != apart_ns);
    wrong.then(|| format!("dwells {:?} ns, but is {apart_ns:?} ns apart from the one before", event.dwell_ns))
}

/// Checks an invariant of every socket: each transition starts in the state where the previous one ended, and the dwell is
/// the time between the two.
pub fn check_chains<'a>(events: impl Iterator<Item = &'a EventLine>) -> Result<()> {
    let mut last: HashMap<u64, &EventLine> = HashMap::new();
    let mut problems = Vec::new();
    for event in events {
        if event.from == event.to {
            problems.push(format!("{}: no change: {event}", event.id));
        }
        if let Some(before) = last.insert(event.id, event) {
            if before.to != event.from {
                problems.push(format!("{}: a hole between [{before}] and [{event}]", event.id));
            }
            problems
                .extend(wrong_dwell(before, event).map(|wrong| format!("{}: {event}: {wrong}", event.id)));
        }
    }
    if !problems.is_empty() {
        let shown: Vec<_> = problems.iter().take(10).cloned().collect();
        bail!("{} broken chains:\n    {}", problems.len(), shown.join("\n    "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::event::EventRole;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7_000);

    fn event(id: u64, ts_ns: u64, from: TcpState, to: TcpState) -> EventLine {
        EventLine {
            ts_ns,
            id,
            netns: 1,
            role: EventRole::Outbound,
            saddr: PEER.ip(),
            sport: 41_000,
            daddr: PEER.ip(),
            dport: PEER.port(),
            from,
            to,
            dwell_ns: None,
            seeded: false,
            closer: EventCloser::None,
            end_reason: None,
            reason_inferred: false,
            pid: None,
            comm: None,
            owner: EventOwner::Exact,
            orphan: None,
            extended: false,
            inferred: false,
        }
    }

    /// Without visible segments an exact time must be right, and an inferred one is an upper bound.
    #[test]
    fn a_step_by_segment_is_exact_or_inferred() {
        let socket = ExpectedSocket {
            label: "client",
            id: Some(3),
            netns: 1,
            local: Some(PEER),
            remote: Some(PEER),
            began: None,
            role: None,
            known_ns: 0,
        };
        let second = 1_000_000_000;
        let within = Span { start_ns: 5 * second, end_ns: 6 * second };
        let expected = step(TcpState::FinWait2, TcpState::TimeWait, within).any_owner().orphan().by_segment();
        for (ts_ns, inferred, is_right) in [
            (5 * second, false, true),
            (9 * second, false, false),
            (9 * second, true, true),
            (4 * second, true, false),
        ] {
            let seen = EventLine {
                inferred,
                sport: PEER.port(),
                orphan: Some(true),
                ..event(3, ts_ns, TcpState::FinWait2, TcpState::TimeWait)
            };
            let checked = check_steps(&socket, &[expected], &[seen], Precision::Timers);
            assert_eq!(checked.is_ok(), is_right, "{ts_ns}, {inferred}: {checked:?}");
        }
    }

    /// Events are printed late: until those of a socket that never had a local address are there, its neighbour's with the
    /// same remote address must not count as its own.
    #[test]
    fn a_socket_without_a_local_address_is_not_its_neighbour() {
        let socket = ExpectedSocket {
            label: "client",
            id: Some(3),
            netns: 1,
            local: None,
            remote: Some(PEER),
            began: Some(Span { start_ns: 300, end_ns: 400 }),
            role: Some(EventRole::Outbound),
            known_ns: 450,
        };
        let mut events = SocketEvents::new(&socket);
        let neighbour = MADE_UP.start + 2;
        events.add(0, &event(neighbour, 290, TcpState::Close, TcpState::SynSent));
        events.add(1, &event(neighbour, 299, TcpState::SynSent, TcpState::Established));
        assert_eq!(events.positions(), Vec::<usize>::new());
        let own = MADE_UP.start + 3;
        events.add(2, &event(own, 310, TcpState::Close, TcpState::SynSent));
        events.add(3, &event(own, 320, TcpState::SynSent, TcpState::Close));
        assert_eq!(events.positions(), vec![2, 3]);
    }
}
