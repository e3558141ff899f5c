use super::*;
use crate::{
    lifecycle::{Bound, Dwell, Event, Processes, Role, Since},
    model::{Addr, NetnsId, Tuple},
};

const fn tuple() -> Tuple {
    Tuple { saddr: Addr::ANY, daddr: Addr::ANY, sport: 40_000, dport: 5432, ifindex: 0 }
}

fn change(id: u64, ts: u64, from: TcpState, to: TcpState) -> Event<'static> {
    Event {
        ts: Nanos(ts),
        id: SocketId(id),
        netns: NetnsId(1),
        tuple: tuple(),
        role: Role::Outbound,
        role_guessed: false,
        from,
        to,
        begins: from == TcpState::Close,
        dwell: None,
        closer: crate::lifecycle::Closer::None,
        end_reason: None,
        reason_inferred: false,
        orphan: None,
        orphan_for: None,
        search: None,
        extended: false,
        owner: crate::lifecycle::OwnerKind::Unknown,
        process: None,
    }
}

fn times(steps: &[StateChange]) -> Vec<u64> {
    steps.iter().map(|step| step.ts.0).collect()
}

#[test]
fn journal_keeps_latest_changes_and_time_of_last_drop() {
    use TcpState::{Close, Established, FinWait1, SynSent};
    let mut journal = Journal::cramped();
    for event in
        [change(1, 10, Close, SynSent), change(2, 20, Close, SynSent), change(1, 30, SynSent, Established)]
    {
        journal.take(&event);
    }
    assert_eq!((times(&journal.of(SocketId(1))), journal.kept_since()), (vec![10, 30], None));
    journal.take(&change(2, 40, SynSent, Established));
    assert_eq!((times(&journal.of(SocketId(1))), journal.kept_since()), (vec![30], Some(Nanos(10))));
    assert_eq!(times(&journal.of(SocketId(2))), [20, 40]);
    // From here on all changes of one socket are kept, regardless of the others.
    journal.follow(Some(SocketId(1)));
    journal.take(&change(1, 50, Established, FinWait1));
    for ts in 60..80 {
        journal.take(&change(3, ts, Close, SynSent));
    }
    assert_eq!((times(&journal.of(SocketId(1))), journal.kept_since()), (vec![30, 50], Some(Nanos(10))));
    journal.follow(None);
    assert!(journal.of(SocketId(1)).is_empty());
    assert_eq!(journal.kept_since(), Some(Nanos(76)));
}

fn socket(state: TcpState, since: u64) -> Socket {
    Socket::new(tuple(), NetnsId(1), state, Since::Exact(Nanos(since)))
}

#[test]
fn oldest_sockets_of_every_state_are_picked() {
    let many: Vec<Socket> = (0..1_000).map(|n| socket(TcpState::TimeWait, (n * 7_919) % 1_000)).collect();
    let young = socket(TcpState::CloseWait, 5_000);
    let all = many.iter().chain([&young]).enumerate().map(|(id, socket)| (SocketId(id as u64), socket));
    let (rows, total) = pick(all, &Processes::default());
    assert_eq!((rows.len(), total), (PER_STATE + 1, 1_001));
    let oldest = |row: &SocketRow| row.since.time().is_some_and(|since| since.0 < PER_STATE as u64);
    assert!(rows.iter().all(|row| row.state == TcpState::CloseWait || oldest(row)));
}

#[test]
fn time_wait_left_has_the_bound_of_its_start() {
    let at = |state, since, now: u64| {
        let socket = Socket::new(tuple(), NetnsId(1), state, since);
        row_of(SocketId(1), &socket, &Processes::default()).time_left(Nanos(now * 1_000_000_000))
    };
    let left = |s: u64, bound| Some(Dwell { length: Nanos(s * 1_000_000_000), bound });
    let zero = Nanos(0);
    assert_eq!(at(TcpState::TimeWait, Since::Exact(zero), 20), left(40, Bound::Exact));
    assert_eq!(at(TcpState::TimeWait, Since::Inferred(zero), 20), left(40, Bound::Inferred));
    assert_eq!(at(TcpState::TimeWait, Since::Exact(zero), 61), left(0, Bound::Exact));
    assert_eq!(at(TcpState::TimeWait, Since::Unknown, 61), None);
    assert_eq!(at(TcpState::CloseWait, Since::Exact(zero), 61), None);
}
