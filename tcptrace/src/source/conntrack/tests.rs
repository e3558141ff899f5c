//! Tests decoding with answers of Linux 6.18, and with random bytes.

use proptest::prelude::*;

use super::{
    rules::decode as decode_rule,
    table::{ConntrackEntry, EntryTuple, parse_line},
    *,
};
use crate::{
    model::{
        Addr,
        nat::{AddrRange, Backend, SnatRule, TranslatedSource, Translation},
    },
    source::netlink::{Message, Messages, SEQ, attribute, tests::message},
};

/// 80 connections of two clients through `MASQUERADE --to-ports 40000-40099`.
const CONNTRACK: &[u8] = include_bytes!("../fixtures/conntrack.bin");
/// That rule, as `iptables-nft` writes it.
const RULES: &[u8] = include_bytes!("../fixtures/snat_rules.bin");

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

#[test]
fn a_real_answer_is_counted_by_destination_and_client() {
    let (conntrack, entries) = read_datagram(CONNTRACK).expect("an answer");
    let source = |saddr, used| TranslatedSource { saddr: addr(saddr), used, time_wait: 0 };
    let expected = Translation {
        snat_addr: addr("10.72.0.1"),
        daddr: addr("10.72.0.2"),
        dport: 7_000,
        zone: 0,
        used: 80,
        time_wait: 0,
        close: 0,
        ports: conntrack.translations[0].ports,
        sources: vec![source("10.71.0.2", 60), source("10.71.0.3", 20)],
        other_sources: 0,
    };
    assert_eq!((conntrack.translations, conntrack.other_entries, entries), (vec![expected.clone()], 0, 80));
    assert!(expected.ports.0 >= 40_000 && expected.ports.1 <= 40_099, "{:?}", expected.ports);
}

#[test]
fn the_rule_of_iptables_is_read() {
    let rules: Vec<_> = Messages::new(RULES, SEQ)
        .filter_map(|message| match message {
            Message::Answer(kind, body) => decode_rule(kind, body),
            _ => None,
        })
        .collect();
    assert_eq!(rules, [SnatRule { addrs: None, ports: Some((40_000, 40_099)) }]);
}

/// A rule of these expressions: name and data.
fn rule(expressions: &[(&str, Vec<u8>)]) -> Option<SnatRule> {
    let expressions: Vec<u8> = expressions
        .iter()
        .flat_map(|(name, data)| {
            let name = attribute(1, &[name.as_bytes(), &[0]].concat());
            attribute(1, &[name, attribute(2, data)].concat())
        })
        .collect();
    let body = [vec![2, 0, 0, 0], attribute(4, &expressions)].concat();
    decode_rule((10 << 8) | 6, &body)
}

#[test]
fn rules_of_nft_load_their_ranges_into_registers() {
    let number = |kind, value: u32| attribute(kind, &value.to_be_bytes());
    let immediate = |register, value: &[u8]| {
        ("immediate", [number(1, register), attribute(2, &attribute(1, value))].concat())
    };
    let masquerade =
        |data: Vec<u8>| rule(&[immediate(9, &[0x9c, 0x40]), immediate(10, &[0x9c, 0xa3]), ("masq", data)]);
    assert_eq!(
        masquerade([number(2, 9), number(3, 10)].concat()),
        Some(SnatRule { addrs: None, ports: Some((40_000, 40_099)) })
    );
    assert_eq!(masquerade(Vec::new()), Some(SnatRule::default()));
    let snat = |kind| {
        let data = [number(1, kind), number(2, 2), number(3, 1), number(4, 2)].concat();
        rule(&[immediate(1, &[10, 0, 0, 1]), immediate(2, &[10, 0, 0, 4]), ("nat", data)])
    };
    let addrs = Some(AddrRange(addr("10.0.0.1"), addr("10.0.0.4")));
    assert_eq!((snat(0), snat(1)), (Some(SnatRule { addrs, ports: None }), None), "DNAT is no such rule");
    assert_eq!(rule(&[("counter", Vec::new())]), None);
}

#[test]
fn a_line_of_the_proc_file_is_parsed() {
    let line = "ipv4     2 tcp      6 117 TIME_WAIT src=10.1.0.2 dst=10.2.0.2 sport=34691 dport=80 src=10.3.0.9 \
                dst=10.2.0.1 sport=8080 dport=40011 [ASSURED] mark=0 zone=7 use=2";
    let entry = parse_line(line).expect("an entry");
    assert_eq!((entry.state, entry.zone, entry.reply.dport), (7, 7, 40_011));
    assert_eq!((entry.reply.saddr, entry.reply.sport), (addr("10.3.0.9"), 8_080), "the backend behind DNAT");
    assert!(entry.has_translated_source());
    let mut table = TranslationTable::default();
    table.add_destination(entry);
    table.add_destination(entry);
    let backend = Backend {
        saddr: addr("10.1.0.2"),
        daddr: addr("10.2.0.2"),
        dport: 80,
        addr: addr("10.3.0.9"),
        port: 8_080,
        used: 2,
    };
    assert_eq!(table.backends(), [backend]);
    let untranslated = ConntrackEntry { original: entry.original, reply: entry.original, ..entry };
    let reversed = EntryTuple {
        saddr: untranslated.original.daddr,
        daddr: untranslated.original.saddr,
        sport: untranslated.original.dport,
        dport: untranslated.original.sport,
    };
    table.add_destination(ConntrackEntry { reply: reversed, ..untranslated });
    assert_eq!(table.backends(), [backend]);
    assert_eq!(parse_line("ipv4 2 udp 17 29 src=10.1.0.2 dst=10.2.0.2 sport=1 dport=2"), None);
    assert_eq!(parse_line(&line.replace(" dport=40011", "")), None);
}

#[test]
fn many_destinations_and_clients_are_bounded() {
    let mut table = TranslationTable::default();
    for number in 0..100_000_u32 {
        let [a, b, c, d] = number.to_be_bytes();
        let line = format!(
            "ipv4 2 tcp 6 9 ESTABLISHED src=10.{b}.{c}.{d} dst=11.{a}.{b}.{c} sport=1 dport=80 src=11.{a}.{b}.{c} \
             dst=10.2.0.1 sport=80 dport=2 zone=0"
        );
        table.add_source(parse_line(&line).expect("an entry"));
    }
    let (translations, others) = table.finish();
    let counted: u64 = translations.iter().map(|row| row.used).sum();
    assert_eq!((translations.len(), counted + others), (crate::model::nat::MAX_TRANSLATIONS, 100_000));
    for row in &translations {
        let of_sources: u64 = row.sources.iter().map(|source| source.used).sum();
        assert_eq!((row.sources.len(), of_sources + row.other_sources), (8, row.used));
    }
}

#[test]
fn versions_are_compared_by_number() {
    let releases: [&[u8]; 6] = [b"5.10.0-36-amd64", b"6.4.9", b"6.5.0-rc1", b"6.18.5+", b"7.2", b"?"];
    let evicts = releases.map(|release| is_at_least(release, EVICTS_SINCE));
    assert_eq!(evicts, [false, false, true, true, true, false]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(kind in any::<u16>(), bytes in proptest::collection::vec(any::<u8>(), 0..300), line in "\\PC{0,80}") {
        let _ = read_datagram(&bytes);
        let _ = read_datagram(&message(1 << 8, 0, &bytes));
        decode_rule(kind, &bytes);
        decode_rule((10 << 8) | 6, &[vec![2, 0, 0, 0], attribute(4, &bytes)].concat());
        parse_line(&line);
    }

    #[test]
    fn a_changed_answer_never_panics(at in 0..CONNTRACK.len(), with in any::<u8>(), rule_at in 0..RULES.len()) {
        let mut bytes = CONNTRACK.to_vec();
        bytes[at] = with;
        let _ = read_datagram(&bytes);
        let mut rules = RULES.to_vec();
        rules[rule_at] = with;
        for message in Messages::new(&rules, SEQ) {
            if let Message::Answer(kind, body) = message {
                decode_rule(kind, body);
            }
        }
    }
}
