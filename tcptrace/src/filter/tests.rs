//! Tables for the language, and properties that must hold for every expression.

use std::collections::BTreeMap;

use super::*;
use crate::model::{
    Addr, Closer, OwnerKind, Role, Tuple,
    record::{Process, ProcessFacts},
    workload::Workload,
};

mod properties;

fn read(text: &str) -> Expr {
    parse("--filter", text).unwrap_or_else(|error| panic!("{error}"))
}

fn filter(text: &str) -> Filter {
    Filter::new(Some(read(text)), &BTreeMap::new()).expect("no names")
}

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

fn tuple(saddr: &str, sport: u16, daddr: &str, dport: u16) -> Tuple {
    Tuple { saddr: addr(saddr), sport, daddr: addr(daddr), dport, ifindex: 0 }
}

fn subject(tuple: Tuple, process: Option<&Process>) -> Subject<'_> {
    let owner = if process.is_some() { OwnerKind::Exact } else { OwnerKind::Unknown };
    let (netns, role, closer) = (NetnsId(4_026_531_840), Role::Outbound, Closer::Local);
    Subject { tuple, netns, role, closer, owner, process }
}

#[test]
fn expressions_are_printed_in_canonical_form() {
    let cases = [
        ("state TIME_WAIT", "state time-wait"),
        ("STATE FinWait2, time-wait", "state fin-wait2,time-wait"),
        ("port 443,80,81-90", "port 80-90,443"),
        (
            "state time-wait and (rport 5432 or peer 10.0.0.0/8) and not comm nginx",
            "state time-wait and (rport 5432 or peer 10.0.0.0/8) and not comm nginx",
        ),
        ("ipv4&&!ipv6||pid 1", "(ipv4 and not ipv6) or pid 1"),
        ("lport 1 or lport 2 and lport 3", "lport 1 or (lport 2 and lport 3)"),
        ("((lport 1))", "lport 1"),
        ("lport 1 AND (lport 2 And lport 3)", "lport 1 and (lport 2 and lport 3)"),
        ("not not (ipv4 or ipv6)", "not not (ipv4 or ipv6)"),
        ("comm 'my app', redis*,\"a\\*b\"", "comm \"my app\",redis*,\"a\\*b\""),
        ("netns blue,4026531840,'net:[7]'", "netns blue,4026531840,\"net:[7]\""),
        ("netns net:[4026531840],'42'", "netns 4026531840,\"42\""),
        ("closer reset or closer none", "closer reset-received,reset-sent or closer none"),
        ("owner exact,proc", "owner exact,proc"),
        ("local ::1,2001:db8::/32", "local ::1,2001:db8::/32"),
    ];
    for (text, expected) in cases {
        let expr = read(text);
        assert_eq!(expr.to_string(), expected);
        assert_eq!(read(expected), expr);
    }
}

#[test]
fn errors_are_one_line_with_advice() {
    let cases = [
        ("", "column 1: expected a test such as `rport 5432`, `not` or `(`, found the end"),
        ("lport 80,70000", "column 10: expected a port (0-65535), found \"70000\""),
        ("lport", "column 6: expected a port (0-65535), found the end"),
        ("lport 80,", "column 10: expected a port (0-65535), found the end"),
        ("lport and", "column 7: expected a port (0-65535), found `and`"),
        ("lport +80", "column 7: expected a port (0-65535), found \"+80\""),
        ("lport 80-x", "column 7: expected a port (0-65535), found \"x\""),
        ("lport 90-80", "column 7: a range goes from the lower to the higher port: 80-90"),
        ("lport=80", "column 6: no `=` here, write `lport 443`"),
        ("stat time-wait", "column 1: unknown word \"stat\", did you mean `state`?"),
        ("5432", "column 1: unknown word \"5432\", did you mean `port 5432`?"),
        ("CLOSE_WAIT", "column 1: unknown word \"CLOSE_WAIT\", did you mean `state CLOSE_WAIT`?"),
        ("10.0.0.0/8", "column 1: unknown word \"10.0.0.0/8\", did you mean `peer 10.0.0.0/8`?"),
        ("dport 80", "column 1: unknown word \"dport\", did you mean `rport`?"),
        (
            "banana 80",
            "column 1: unknown word \"banana\", for a process name `comm banana`; the words are state, port, lport, rport, peer, local, pid, comm, \
             pod, container, k8s-namespace, unit, exe, uid, netns, role, closer, owner, ipv4, ipv6",
        ),
        ("state time-wiat", "column 7: expected a state, found \"time-wiat\", did you mean `time-wait`?"),
        ("role boss", "column 6: expected a role (inbound, outbound, listener, unknown), found \"boss\""),
        ("ipv4 and peer 10.0.0.5/8", "column 15: 10.0.0.5/8 has host bits set, the network is 10.0.0.0/8"),
        ("pid 0", "column 5: expected a process id (1-4294967295), found \"0\""),
        ("ipv4 ipv6", "column 6: expected `and`, `or` or the end, found \"ipv6\""),
        ("(ipv4 ipv6)", "column 7: expected `and`, `or` or `)`, found \"ipv6\""),
        ("ipv6 and (ipv4", "column 10: this `(` is never closed"),
        ("ipv4)", "column 5: this `)` closes nothing"),
        ("ipv4 & ipv6", "column 6: expected `and`, `or` or the end, found `&`"),
        ("comm \"nginx", "column 6: this quote is never closed"),
        (
            "comm systemd-resolved",
            "column 6: the kernel keeps only 15 characters of a process name, here \"systemd-resolve\"",
        ),
        (
            "comm ä,ö and x",
            "column 14: unknown word \"x\", for a process name `comm x`; the words are state, port, lport, rport, peer, local, \
             pid, comm, pod, container, k8s-namespace, unit, exe, uid, netns, role, closer, owner, ipv4, ipv6",
        ),
        (
            "netns 99999999999",
            "column 7: expected a network namespace's name or inode number, found \"99999999999\"",
        ),
    ];
    for (text, expected) in cases {
        let error = parse("--filter", text).expect_err(text);
        assert_eq!(error.to_string(), format!("--filter: {expected}"), "{text}");
    }
}

#[test]
fn a_caret_points_at_the_fault() {
    let pointer = |text: &str| parse("--filter", text).expect_err(text).pointer();
    assert_eq!(pointer("stat"), None);
    assert_eq!(
        pointer("ipv4 and rport 70000 or ipv6").as_deref(),
        Some("  ipv4 and rport 70000 or ipv6\n                 ^")
    );
    let long = format!("{}rport x and {}", "rport 80 or ".repeat(10), "rport 80 or ".repeat(10));
    assert_eq!(
        pointer(&long).as_deref(),
        Some(concat!(
            "  ...t 80 or rport 80 or rport 80 or rport 80 or rport x and rport 80 or rp...\n",
            "                                                       ^"
        ))
    );
    assert_eq!(pointer("comm \u{1b}[2J and x").as_deref(), Some("  comm ?[2J and x\n                ^"));
}

#[test]
fn no_text_can_exhaust_the_stack_or_the_memory() {
    let deep = "(".repeat(10_000);
    assert_eq!(
        parse("--filter", &deep).expect_err("too deep").to_string(),
        "--filter: column 65: nested more than 64 deep"
    );
    assert!(parse("--filter", &"!".repeat(10_000)).is_err());
    assert_eq!(
        parse("--filter", &"(".repeat(100_000)).expect_err("too long").to_string(),
        "--filter: column 1: longer than 16384 bytes"
    );
    let deepest = format!("{}ipv4{}", "(".repeat(64), ")".repeat(64));
    assert_eq!(read(&deepest).to_string(), "ipv4");
    let wide = vec!["not port 1,3,5"; 900].join(" or ");
    assert!(filter(&wide).matches(&subject(tuple("::1", 2, "::1", 2), None), TcpState::Close));
    assert!(!filter(&wide).kernel_part().is_everything());
}

#[test]
fn sockets_match_by_their_known_properties() {
    let nginx = Process::new(42, "nginx", 0);
    let v4 = tuple("10.0.0.5", 40000, "10.1.2.3", 5432);
    let v6 = tuple("2001:db8::1", 40000, "2001:db8::2", 443);
    let cases = [
        ("rport 5432", v4, true),
        ("lport 5432", v4, false),
        ("port 5432", v4, true),
        ("port 40000-40010", v4, true),
        ("not port 5432", v4, false),
        ("peer 10.0.0.0/8", v4, true),
        ("peer ::ffff:10.0.0.0/104", v4, true),
        ("peer ::/0", v4, false),
        ("peer ::/0", v6, true),
        ("local 10.0.0.5", v4, true),
        ("ipv4", v4, true),
        ("ipv4", v6, false),
        ("ipv6", v6, true),
        ("comm ngi*", v4, true),
        ("comm apache2", v4, false),
        ("pid 1,42", v4, true),
        ("netns 4026531840", v4, true),
        ("netns 1", v4, false),
        ("role outbound,listener", v4, true),
        ("closer local", v4, true),
        ("closer reset", v4, false),
        ("owner exact", v4, true),
        ("state established", v4, true),
        ("state time-wait", v4, false),
        ("not state time-wait", v4, true),
        ("state time-wait or rport 5432", v4, true),
        ("state teardown and rport 5432", v4, false),
    ];
    for (text, tuple, expected) in cases {
        let seen = filter(text).matches(&subject(tuple, Some(&nginx)), TcpState::Established);
        assert_eq!(seen, expected, "{text} on {tuple:?}");
    }
    let unowned = subject(v4, None);
    assert!(!filter("pid 42").matches(&unowned, TcpState::TimeWait));
    assert!(filter("not pid 42 and not comm nginx").matches(&unowned, TcpState::TimeWait));
}

#[test]
fn owners_match_by_their_names() {
    let workload = Workload {
        pod: Some("checkout-7d9f".into()),
        k8s_namespace: Some("shop".into()),
        container: Some("app".into()),
        ..Workload::default()
    };
    let facts = ProcessFacts {
        exe: Some("/opt/jdk/bin/java".into()),
        uid: Some(33),
        user: Some("www-data".into()),
        ..ProcessFacts::default()
    };
    let java = Process {
        workload: Some(workload.labelled().into()),
        facts: Some(facts.labelled().into()),
        ..Process::new(42, "java", 7)
    };
    let unnamed = Process::new(42, "java", 7);
    let v4 = tuple("10.0.0.5", 40000, "10.1.2.3", 5432);
    for (text, expected) in [
        ("pod checkout-7d9f", true),
        ("pod shop/checkout*", true),
        ("pod checkout", false),
        ("container app", true),
        ("container \"shop/checkout-7d9f (app)\"", true),
        ("k8s-namespace shop and not unit *", true),
        ("unit nginx.service", false),
        ("exe java", true),
        ("exe /opt/*/java", true),
        ("exe jav", false),
        ("uid 33", true),
        ("uid 3", false),
        ("uid root,www-data", true),
    ] {
        let filter = filter(text);
        assert_eq!(filter.matches(&subject(v4, Some(&java)), TcpState::Established), expected, "{text}");
        let is_positive = !text.contains("not");
        assert!(
            !is_positive || !filter.matches(&subject(v4, Some(&unnamed)), TcpState::Established),
            "{text}"
        );
        assert!(filter.tests_owners() && filter.kernel_part().is_everything(), "{text}");
    }
}

#[test]
fn all_matching_states_are_found_at_once() {
    let connection = subject(tuple("10.0.0.5", 40000, "10.1.2.3", 5432), None);
    let cases = [
        ("state time-wait,fin-wait2 and rport 5432", "fin-wait2,time-wait"),
        ("state time-wait and rport 80", ""),
        ("not (state synchronized and rport 5432)", "syn-sent,close,listen"),
        ("state close-wait or state last-ack", "close-wait,last-ack"),
    ];
    for (text, expected) in cases {
        assert_eq!(filter(text).states(&connection).to_string(), expected, "{text}");
    }
    assert_eq!(Filter::EVERYTHING.states(&connection), StateSet::ALL);
}

#[test]
fn namespaces_are_looked_up_by_name() {
    let known = BTreeMap::from([("blue".to_owned(), NetnsId(7)), ("evil\u{1b}".to_owned(), NetnsId(8))]);
    let resolved = Filter::new(Some(read("not (netns blue or netns 9)")), &known).expect("known");
    assert_eq!(resolved.to_string(), "not (netns 7 or netns 9)");
    let error = Filter::new(Some(read("ipv4 and netns green")), &known).expect_err("unknown");
    assert_eq!(error.to_string(), "no network namespace is called \"green\"; there are: blue, evil?");
    let error = Filter::new(Some(read("netns green")), &BTreeMap::new()).expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "no network namespace is called \"green\"; none has a name here, give its inode number (readlink \
         /proc/PID/ns/net)"
    );
}

/// The kernel part as text: one clause per line.
fn shown(text: &str) -> String {
    use tcptrace_common::filter::test;
    let terms = filter(text).kernel_part().terms.into_iter().take_while(|term| term.test != test::NONE);
    let shown = terms.map(|term| {
        let range = format!("{}-{}", term.low, term.high);
        let prefix: u32 = term.mask.iter().map(|word| word.count_ones()).sum();
        let address: Vec<u8> = term.network.into_iter().flat_map(u64::to_ne_bytes).collect();
        let network = format!("{}/{prefix}", Addr(address.try_into().expect("16 bytes")));
        let end = if term.ends_clause == 1 { ";" } else { " |" };
        match term.test {
            test::LOCAL_PORT => format!("lport {range}{end}"),
            test::REMOTE_PORT => format!("rport {range}{end}"),
            test::NETNS => format!("netns {range}{end}"),
            test::LOCAL_IN => format!("local {network}{end}"),
            test::LOCAL_OUTSIDE => format!("local not {network}{end}"),
            test::REMOTE_IN => format!("peer {network}{end}"),
            _ => format!("peer not {network}{end}"),
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_kernel_side_gets_the_part_it_can_test() {
    let cases = [
        ("state time-wait", ""),
        ("comm nginx or rport 80", ""),
        ("comm nginx and rport 80", "rport 80-80;"),
        (
            "state time-wait and (rport 5432 or peer 10.0.0.0/8) and not comm nginx",
            "rport 5432-5432 | peer 10.0.0.0/104;",
        ),
        ("port 80", "lport 80-80 | rport 80-80;"),
        ("not port 80", "lport 0-79 | lport 81-65535; rport 0-79 | rport 81-65535;"),
        ("not (lport 80 and state listen)", ""),
        ("not (lport 80 or state listen)", "lport 0-79 | lport 81-65535;"),
        ("role listener", "rport 1-0;"),
        ("role listener,inbound", ""),
        ("not role inbound,outbound,unknown", "rport 1-0;"),
        ("ipv4", "local 0.0.0.0/96 | peer 0.0.0.0/96;"),
        ("ipv6", "local not 0.0.0.0/96; peer not 0.0.0.0/96;"),
        ("not peer 127.0.0.0/8,::1", "peer not 127.0.0.0/104; peer not ::1/128;"),
        ("not peer ::/0", ""),
        ("netns 7,9", "netns 7-7 | netns 9-9;"),
        ("not netns 7", "netns 0-6 | netns 8-4294967295;"),
        ("lport 0-65535 and not lport 0-65535", "lport 0-65535; lport 1-0;"),
        (
            "(lport 1 and lport 2) or (lport 3 and state close)",
            "lport 1-1 | lport 3-3; lport 2-2 | lport 3-3;",
        ),
        (
            "lport 1,3,5,7,9,11,13,15,100,200",
            "lport 1-5 | lport 7-7 | lport 9-9 | lport 11-11 | lport 13-13 | lport 15-15 | lport 100-100 | lport \
             200-200;",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(text), expected, "{text}");
    }
}
