//! The offsets in real kernels. `cargo xtask btf` cuts the fixtures out of Debian's kernels; the expected values were read
//! from the same kernels' whole BTF with bpftool.

use tcptrace_common::config::ABSENT;

use super::*;

const LINUX_5_10: &[u8] = include_bytes!("fixtures/5.10.btf");
const LINUX_6_1: &[u8] = include_bytes!("fixtures/6.1.btf");
const LINUX_6_12: &[u8] = include_bytes!("fixtures/6.12.btf");
const LINUX_7_2: &[u8] = include_bytes!("fixtures/7.2.btf");
const ALL: [&[u8]; 4] = [LINUX_5_10, LINUX_6_1, LINUX_6_12, LINUX_7_2];

fn offsets(btf: &[u8]) -> Offsets {
    KernelTypes::parse(btf).unwrap().offsets().unwrap()
}

#[test]
fn fields_that_never_moved() {
    for btf in ALL {
        let offsets = offsets(btf);
        let common = [
            (offsets.skc_daddr, 0),
            (offsets.skc_rcv_saddr, 4),
            (offsets.skc_dport, 12),
            (offsets.skc_num, 14),
            (offsets.skc_family, 16),
            (offsets.skc_state, 18),
            (offsets.skc_bound_dev_if, 20),
            (offsets.skc_net, 48),
            (offsets.skc_v6_daddr, 56),
            (offsets.skc_v6_rcv_saddr, 72),
            (offsets.skc_cookie, 88),
            (offsets.skc_flags, 96),
            (offsets.tw_substate, 140),
            (offsets.tw_timer, 160),
            (offsets.rsk_timer, 152),
            (offsets.num_timeout, 147),
            (offsets.num_timeout_shift, 1),
            (offsets.timer_expires, 16),
            (offsets.timer_function, 24),
            (offsets.sock_dead, 0),
            (offsets.sock_done, 1),
            (offsets.sock_linger, 4),
        ];
        for (place, (found, expected)) in common.into_iter().enumerate() {
            assert_eq!(found, expected, "field {place}");
        }
    }
}

#[test]
fn fields_that_moved() {
    type Read = fn(&Offsets) -> u32;
    let fields: [(&str, Read, [u32; 4]); 10] = [
        ("sk_protocol", |offsets| offsets.sk_protocol, [540, 516, 574, 540]),
        ("sk_err", |offsets| offsets.sk_err, [568, 544, 284, 284]),
        ("sk_shutdown", |offsets| offsets.sk_shutdown, [626, 610, 571, 591]),
        ("sk_lingertime", |offsets| offsets.sk_lingertime, [544, 520, 576, 592]),
        ("inet_sport", |offsets| offsets.inet_sport, [776, 804, 798, 830]),
        ("net.ns.inum", |offsets| offsets.net_inum, [136, 144, 136, 280]),
        ("the count of net.ns", |offsets| offsets.net_count, [ABSENT, 148, 140, 192]),
        ("tw_entry_stamp", |offsets| offsets.tw_entry_stamp, [ABSENT, ABSENT, ABSENT, 156]),
        ("skb_head", |offsets| offsets.skb_head, [192, 200, 200, 200]),
        ("transport_header", |offsets| offsets.skb_transport_header, [178, 182, 182, 182]),
    ];
    for (name, field, expected) in fields {
        assert_eq!(ALL.map(|btf| field(&offsets(btf))), expected, "{name}");
    }
}

#[test]
fn hooks_and_helpers_are_told_from_btf() {
    let arguments = |name: &str| ALL.map(|btf| KernelTypes::parse(btf).unwrap().tracepoint_arguments(name));
    assert_eq!(arguments("inet_sock_set_state"), [Some(3); 4]);
    assert_eq!(arguments("timer_start"), [3, 3, 2, 2].map(Some));
    assert_eq!(arguments("timer_cancel"), [Some(1); 4]);
    assert_eq!(arguments("timer_expire_entry"), [Some(2); 4]);
    // With a reason since 5.17, with the receiving socket since 6.11.
    assert_eq!(arguments("kfree_skb"), [2, 3, 4, 4].map(Some));
    assert_eq!(arguments("no_such_tracepoint"), [None; 4]);
    let helper = |name| ALL.map(|btf| KernelTypes::parse(btf).unwrap().has_function(name));
    assert_eq!(helper("bpf_get_socket_ptr_cookie"), [false, true, true, true]);
}

#[test]
fn a_missing_field_is_named() {
    let mut btf = LINUX_7_2.to_vec();
    let name = b"skc_v6_rcv_saddr";
    let at = btf.windows(name.len()).position(|window| window == name).unwrap();
    btf[at..at + 3].copy_from_slice(b"old");
    let error = KernelTypes::parse(&btf).unwrap().offsets().unwrap_err().to_string();
    assert_eq!(error, "this kernel's BTF does not have sock_common.skc_v6_rcv_saddr");
}

/// A struct `sock_common` whose only member has no name and is itself.
#[test]
fn a_type_inside_itself_is_not_followed_for_ever() {
    const STRUCT: u32 = 4 << 24;
    let strings = b"\0sock_common\0";
    let types: [u32; 6] = [1, STRUCT | 1, 8, 0, 1, 0];
    let mut btf = vec![0x9f, 0xeb, 1, 0];
    let types_len = size_of_val(&types) as u32;
    for word in [24, 0, types_len, types_len, strings.len() as u32].into_iter().chain(types) {
        btf.extend(word.to_le_bytes());
    }
    btf.extend(strings);
    let error = KernelTypes::parse(&btf).unwrap().offsets().unwrap_err().to_string();
    assert!(error.contains("sock_common.skc_daddr"), "{error}");
}
