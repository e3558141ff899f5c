//! Properties of every expression: its text parses back, parsing never panics, and the kernel part drops no
//! matching record.

use proptest::{collection::vec, prelude::*, sample::select};
use tcptrace_common::{
    filter::Ends,
    record::{Kind, RawRecord},
};

use super::*;
use crate::model::{
    name_set::{Choice, Set},
    process::NameKind,
};

const NAMES: [NameKind; 6] = [
    NameKind::Pod,
    NameKind::Container,
    NameKind::K8sNamespace,
    NameKind::Unit,
    NameKind::Exe,
    NameKind::Uid,
];
const V4: [&str; 5] = ["10.0.0.5", "10.1.2.3", "127.0.0.1", "192.0.2.1", "0.0.0.1"];
const V6: [&str; 5] = ["2001:db8::1", "2001:db8:1::1", "fe80::1", "::1", "::fffe:10.0.0.5"];

fn port() -> impl Strategy<Value = u32> {
    prop_oneof![select(&[0, 1, 80, 443, 5432, 8000, 8001, 65534, 65535][..]), 0..=65535_u32]
}

fn ranges() -> impl Strategy<Value = Ranges> {
    let range = prop_oneof![
        port().prop_map(|port| (port, port)),
        (port(), port()).prop_map(|(a, b)| (a.min(b), a.max(b)))
    ];
    vec(range, 1..12).prop_map(Ranges::new)
}

fn networks() -> impl Strategy<Value = Vec<Cidr>> {
    let address = prop_oneof![select(&V4[..]), select(&V6[..])].prop_map(addr);
    let prefix = prop_oneof![select(&[0, 8, 24, 80, 96, 128][..]), 0..=128_u32];
    vec((address, prefix).prop_map(|(address, prefix)| Cidr::new(address, prefix)), 1..4)
}

fn set<T: Choice>() -> impl Strategy<Value = Set<T>> {
    vec(0..T::NAMES.len(), 1..4).prop_map(|picked| picked.into_iter().map(|i| T::NAMES[i].1).collect())
}

fn test() -> impl Strategy<Value = Test> {
    let name = any::<String>().prop_map(|name| Pattern::quoted(&name));
    let name = name.prop_filter("too long", |name| name.shortest() <= 15);
    let name = prop_oneof![Just(Pattern::plain("nginx")), name];
    let netns = prop_oneof![(1..4_u32).prop_map(NetnsRef::Inum), any::<String>().prop_map(NetnsRef::Name)];
    prop_oneof![
        set().prop_map(Test::State),
        ranges().prop_map(Test::Port),
        ranges().prop_map(Test::Lport),
        ranges().prop_map(Test::Rport),
        networks().prop_map(Test::Peer),
        networks().prop_map(Test::Local),
        vec(1..4_u32, 1..3).prop_map(Test::Pid),
        vec(name, 1..3).prop_map(Test::Comm),
        (select(&NAMES[..]), vec(any::<String>().prop_map(|name| Pattern::quoted(&name)), 1..3))
            .prop_map(|(kind, names)| Test::Named(kind, names)),
        vec(netns, 1..3).prop_map(Test::Netns),
        set().prop_map(Test::Role),
        set().prop_map(Test::Closer),
        set().prop_map(Test::Owner),
        select(&[Test::Family(Family::Ipv4), Test::Family(Family::Ipv6)][..]),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    test().prop_map(Expr::Test).prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|operand| Expr::Not(Box::new(operand))),
            vec(inner.clone(), 2..4).prop_map(Expr::And),
            vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

/// A socket at the end of its life.
#[derive(Clone, Copy, Debug)]
struct FinalSocket {
    tuple: Tuple,
    netns: NetnsId,
    role: Role,
    closer: Closer,
    /// The address of the listener that accepted it.
    listener: Addr,
}

fn connection() -> impl Strategy<Value = FinalSocket> {
    let ends = any::<bool>().prop_flat_map(|v4| {
        let pool = if v4 { &V4[..] } else { &V6[..] };
        (select(pool).prop_map(addr), select(pool).prop_map(addr), Just(v4), any::<bool>())
    });
    let roles = &[Role::Inbound, Role::Outbound, Role::Unknown][..];
    (ends, port(), port(), 1..4_u32, select(roles), select(&Closer::ALL[..])).prop_map(
        |((saddr, daddr, v4, dual_stack), sport, dport, netns, role, closer)| {
            let (sport, dport) = (sport.max(1) as u16, dport.max(1) as u16);
            let any = if v4 && !dual_stack { addr("0.0.0.0") } else { Addr::ANY };
            let listener = if dual_stack && v4 { saddr } else { any };
            let tuple = Tuple { saddr, daddr, sport, dport, ifindex: 0 };
            FinalSocket { tuple, netns: NetnsId(netns), role, closer, listener }
        },
    )
}

fn listener() -> impl Strategy<Value = FinalSocket> {
    let address = select(&["0.0.0.0", "::", "10.0.0.5", "2001:db8::1"][..]).prop_map(addr);
    (address, port(), 1..4_u32).prop_map(|(saddr, port, netns)| {
        let daddr = if saddr.is_ipv4() { addr("0.0.0.0") } else { Addr::ANY };
        let tuple = Tuple { saddr, daddr, sport: port.max(1) as u16, dport: 0, ifindex: 0 };
        let (role, closer) = (Role::Listener, Closer::None);
        FinalSocket { tuple, netns: NetnsId(netns), role, closer, listener: saddr }
    })
}

impl FinalSocket {
    fn subject<'a>(&self, tuple: Tuple, process: Option<&'a Process>) -> Subject<'a> {
        let owner = if process.is_some() { OwnerKind::Exact } else { OwnerKind::Unknown };
        Subject { tuple, netns: self.netns, role: self.role, closer: self.closer, owner, process }
    }

    fn record(&self, tuple: Tuple, kind: Kind, old: TcpState, new: TcpState) -> RawRecord {
        RawRecord {
            saddr: tuple.saddr.0,
            daddr: tuple.daddr.0,
            sport: tuple.sport,
            dport: tuple.dport,
            netns: self.netns.0,
            kind: kind as u8,
            old: old as u8,
            new: new as u8,
            ..bytemuck::Zeroable::zeroed()
        }
    }

    /// Its records before and when its port is chosen.
    fn first_records(&self) -> Vec<RawRecord> {
        let portless = Tuple { sport: 0, ..self.tuple };
        vec![
            self.record(portless, Kind::Transition, TcpState::Close, TcpState::SynSent),
            self.record(self.tuple, Kind::Transition, TcpState::SynSent, TcpState::Established),
            self.record(portless, Kind::Transition, TcpState::SynSent, TcpState::Close),
        ]
    }

    /// Its later records, and those of its listener.
    fn later_records(&self) -> Vec<RawRecord> {
        let any = if self.listener.is_ipv4() { addr("0.0.0.0") } else { Addr::ANY };
        let listener = Tuple { saddr: self.listener, daddr: any, dport: 0, ..self.tuple };
        let unreadable = Self { netns: NetnsId(0), ..*self };
        vec![
            self.record(self.tuple, Kind::Transition, TcpState::Established, TcpState::FinWait1),
            self.record(self.tuple, Kind::TimewaitArmed, TcpState::Close, TcpState::TimeWait),
            self.record(self.tuple, Kind::RequestArmed, TcpState::Close, TcpState::SynRecv),
            self.record(listener, Kind::Transition, TcpState::Close, TcpState::Listen),
            self.record(listener, Kind::Transition, TcpState::Listen, TcpState::SynRecv),
            unreadable.record(self.tuple, Kind::Segment, TcpState::Close, TcpState::TimeWait),
        ]
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_text_of_an_expression_parses_back(expr in expr()) {
        let text = expr.to_string();
        prop_assert_eq!(parse("--filter", &text), Ok(expr), "{}", text);
    }

    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        if let Err(error) = parse("--filter", &text) {
            let _ = error.pointer();
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn parsing_words_in_any_order_never_panics(words in vec(select(&[
        "state", "port", "peer", "comm", "netns", "not", "and", "or", "(", ")", "!", "&&", "||", ",", "80", "-",
        "8-9", "10.0.0.0/8", "::/0", "/", "time-wait", "'", "\"", "\\", "*", " ", "=", "ä", "\u{1b}", "\u{2028}",
    ][..]), 0..40)) {
        let text = words.concat();
        if let Err(error) = parse("--filter", &text) {
            let _ = error.pointer();
            prop_assert!(error.column <= text.chars().count() + 1);
            prop_assert!(!error.to_string().contains(char::is_control));
        }
        let _ = parse_values("--comm", Word::Comm, &text);
        let _ = parse_values("--port", Word::Port, &text);
    }

    #[test]
    fn the_kernel_part_drops_no_match(
        expr in expr(),
        socket in prop_oneof![4 => connection(), 1 => listener()],
        owned in any::<bool>(),
    ) {
        let filter = Filter { expr: Some(expr) };
        let kernel_part = filter.kernel_part();
        let process = Process::new(1, "nginx", 0);
        let states = |tuple| {
            let states = filter.states(&socket.subject(tuple, owned.then_some(&process)));
            // Only a listener is in LISTEN.
            let listen = StateSet::of(TcpState::Listen);
            if socket.role == Role::Listener { states } else { states & !listen }
        };
        let matches = !states(socket.tuple).is_empty();
        let portless = Tuple { sport: 0, ..socket.tuple };
        let matched_first = socket.role != Role::Listener && states(portless).contains(TcpState::SynSent);

        let mut needed = Vec::new();
        if matches || matched_first {
            needed.extend(socket.first_records());
        }
        if matches {
            needed.extend(socket.later_records());
        }
        for record in needed {
            prop_assert!(kernel_part.passes(&Ends::of(&record)), "{} drops {:?}", filter, record);
        }
    }
}
