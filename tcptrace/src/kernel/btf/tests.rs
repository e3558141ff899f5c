//! Tests of offsets in real kernels. `cargo xtask btf` cuts the fixtures out of Debian's kernels; bpftool printed the
//! expected values from the same kernels' full BTF.

use tcptrace_common::config::ABSENT;

use super::*;

const LINUX_5_10: &[u8] = include_bytes!("../fixtures/5.10.btf");
const LINUX_6_1: &[u8] = include_bytes!("../fixtures/6.1.btf");
const LINUX_6_12: &[u8] = include_bytes!("../fixtures/6.12.btf");
const LINUX_7_2: &[u8] = include_bytes!("../fixtures/7.2.btf");
const ALL: [&[u8]; 4] = [LINUX_5_10, LINUX_6_1, LINUX_6_12, LINUX_7_2];
/// arm64 with pages of 16 KiB.
const LINUX_7_2_ARM64: &[u8] = include_bytes!("../fixtures/7.2-arm64.btf");

fn offsets(btf: &[u8]) -> Offsets {
    KernelTypes::parse(btf).unwrap().offsets().unwrap()
}

#[test]
fn stable_fields_have_their_offsets() {
    for btf in ALL.into_iter().chain([LINUX_7_2_ARM64]) {
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
            (offsets.num_retrans, 146),
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
fn moved_fields_have_their_offsets() {
    type Read = fn(&Offsets) -> u32;
    let fields: [(&str, Read, [u32; 4]); 10] = [
        ("sk_protocol", |offsets| offsets.sk_protocol, [540, 516, 574, 540]),
        ("sk_err", |offsets| offsets.sk_err, [568, 544, 284, 284]),
        ("sk_shutdown", |offsets| offsets.sk_shutdown, [626, 610, 571, 591]),
        ("sk_lingertime", |offsets| offsets.sk_lingertime, [544, 520, 576, 592]),
        ("inet_sport", |offsets| offsets.inet_sport, [776, 804, 806, 830]),
        ("net.ns.inum", |offsets| offsets.net_inum, [136, 144, 136, 280]),
        ("the count of net.ns", |offsets| offsets.net_count, [4, 148, 140, 192]),
        ("tw_entry_stamp", |offsets| offsets.tw_entry_stamp, [ABSENT, ABSENT, ABSENT, 156]),
        ("skb_head", |offsets| offsets.skb_head, [192, 200, 200, 200]),
        ("transport_header", |offsets| offsets.skb_transport_header, [178, 182, 182, 182]),
    ];
    for (name, field, expected) in fields {
        assert_eq!(ALL.map(|btf| field(&offsets(btf))), expected, "{name}");
    }
}

#[test]
fn only_arm64_counts_softirqs_in_the_task() {
    for btf in ALL {
        let offsets = offsets(btf);
        assert_eq!(offsets.task_preempt_count, ABSENT);
        assert_ne!(offsets.task_stack, ABSENT);
    }
    let offsets = offsets(LINUX_7_2_ARM64);
    assert_eq!(offsets.task_preempt_count, 8);
    assert_eq!((offsets.task_flags, offsets.sk_err, offsets.net_inum), (52, 284, 280));
}

#[test]
fn btf_shows_hooks_and_helpers() {
    let arguments = |name: &str| ALL.map(|btf| KernelTypes::parse(btf).unwrap().hook_arguments(name));
    assert_eq!(arguments("inet_sock_set_state"), [Some(3); 4]);
    assert_eq!(arguments("timer_start"), [3, 3, 2, 2].map(Some));
    assert_eq!(arguments("timer_cancel"), [Some(1); 4]);
    assert_eq!(arguments("timer_expire_entry"), [Some(2); 4]);
    // With a reason since 5.17, with the receiving socket since 6.11.
    assert_eq!(arguments("kfree_skb"), [2, 3, 4, 4].map(Some));
    // `(sk, arg)` since 6.10.
    assert_eq!(arguments("inet_csk_accept"), [4, 4, 2, 2].map(Some));
    assert_eq!(arguments("no_such_tracepoint"), [None; 4]);
    let helper = |name| ALL.map(|btf| KernelTypes::parse(btf).unwrap().has_function(name));
    assert_eq!(helper("bpf_get_socket_ptr_cookie"), [false, true, true, true]);
    let types = ALL.map(|btf| KernelTypes::parse(btf).unwrap());
    assert_eq!(types.each_ref().map(|types| types.has_recursion_guard), [false, true, true, true]);
    // Its memory is locked before 5.11.
    assert_eq!(types.each_ref().map(KernelTypes::counts_locked_memory), [true, false, false, false]);
    assert!(ALL.iter().all(|btf| offsets(btf).socket_inode != ABSENT));
}

#[test]
fn reset_reasons_have_each_kernels_numbers() {
    let number = |wanted| {
        ALL.map(|btf| {
            let types = KernelTypes::parse(btf).unwrap();
            types.reset_reasons().iter().find(|&&(_, reason)| reason == wanted).map(|&(number, _)| number)
        })
    };
    // Since 6.10; those of RSTs that a socket sends by itself since 6.12.
    assert_eq!(number(ResetReason::NotSpecified), [None, None, Some(0), Some(0)]);
    assert_eq!(number(ResetReason::AbortOnClose), [None, None, Some(11), Some(11)]);
    assert_eq!(number(ResetReason::State), [None, None, Some(14), Some(14)]);
    let arguments = |name| ALL.map(|btf| KernelTypes::parse(btf).unwrap().hook_arguments(name));
    assert_eq!(arguments("tcp_send_reset"), [2, 2, 3, 3].map(Some));
    assert_eq!(arguments("tcp_receive_reset"), [Some(1); 4]);
    // Since 5.14.
    assert_eq!(arguments("inet_sk_error_report"), [None, Some(1), Some(1), Some(1)]);
}

#[test]
fn a_missing_field_is_named() {
    let mut btf = LINUX_7_2.to_vec();
    let name = b"skc_v6_rcv_saddr";
    let at = btf.windows(name.len()).position(|window| window == name).unwrap();
    btf[at..at + 3].copy_from_slice(b"old");
    let error = KernelTypes::parse(&btf).unwrap().offsets().unwrap_err().to_string();
    assert_eq!(
        error,
        "this kernel's BTF does not say at which byte these begin: sock_common.skc_v6_rcv_saddr"
    );
}

/// BTF of one structure `sock_common`, whose unnamed members have the structure's own type.
fn inside_itself(members: u32) -> Vec<u8> {
    let mut types = vec![1, kind::STRUCT << 24 | members, 8];
    types.extend((0..members).flat_map(|_| [0, 1, 0]));
    btf(&types, b"\0sock_common\0")
}

fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let mut btf = vec![0x9f, 0xeb, 1, 0];
    let types_len = size_of_val(types) as u32;
    let header = [24, 0, types_len, types_len, strings.len() as u32];
    for word in header.iter().chain(types) {
        btf.extend(word.to_le_bytes());
    }
    btf.extend(strings);
    btf
}

fn format_error(btf: &[u8]) -> FormatError {
    KernelTypes::parse(btf).err().expect("a format error")
}

#[test]
fn type_containing_itself_ends_the_search() {
    // Two members at each of 32 levels would be four billion.
    for members in [1, 2, 0xffff] {
        let error = KernelTypes::parse(&inside_itself(members)).unwrap().offsets().unwrap_err().to_string();
        assert!(error.contains("sock_common.skc_daddr"), "{error}");
    }
}

#[test]
fn type_referring_to_itself_ends_the_chain() {
    let typedef = [1, kind::TYPEDEF << 24, 1];
    let types = KernelTypes::parse(&btf(&typedef, b"\0btf_trace_kfree_skb\0")).unwrap();
    assert_eq!(types.hook_arguments("kfree_skb"), None);
}

#[test]
fn format_errors_are_distinct() {
    assert_eq!(format_error(b""), FormatError::Magic);
    assert_eq!(format_error(b"\x7fELF"), FormatError::Magic);
    assert_eq!(format_error(&[0xeb, 0x9f, 1, 0]), FormatError::ByteOrder);
    assert_eq!(format_error(&LINUX_7_2[..20]), FormatError::Cut("its header"));
    assert_eq!(format_error(&LINUX_7_2[..1000]), FormatError::Cut("its types"));
    assert_eq!(format_error(&LINUX_7_2[..LINUX_7_2.len() - 1]), FormatError::Cut("its names"));
    let mut later = LINUX_7_2.to_vec();
    later[2] = 2;
    assert_eq!(format_error(&later), FormatError::Version(2));
    // More members than there are bytes, and a type of a future kind.
    assert_eq!(
        format_error(&btf(&[0, kind::STRUCT << 24 | 2, 8, 0, 1, 0], b"\0")),
        FormatError::Cut("its types")
    );
    assert_eq!(format_error(&btf(&[0, 20 << 24, 0], b"\0")), FormatError::Kind { id: 1, kind: 20 });
    let many: Vec<u32> = (0..=0xf_ffff).flat_map(|_| [0, kind::FWD << 24, 0]).collect();
    assert_eq!(format_error(&btf(&many, b"\0")), FormatError::TooManyTypes);
    assert!(KernelTypes::parse(&btf(&many[3..], b"\0")).is_ok());
}

#[test]
fn truncated_or_damaged_btf_does_not_panic() {
    for end in (0..LINUX_7_2.len()).step_by(7) {
        assert!(KernelTypes::parse(&LINUX_7_2[..end]).is_err());
    }
    let mut damaged = LINUX_7_2.to_vec();
    for at in (0..damaged.len()).step_by(7) {
        damaged[at] ^= 0xff;
        let _ = KernelTypes::parse(&damaged).map(|types| types.offsets());
        damaged[at] ^= 0xff;
    }
}

/// Lengths and offsets that overflow any sum.
#[test]
fn wrong_header_lengths_are_errors() {
    for word in 1..6 {
        let mut lying = LINUX_6_12.to_vec();
        lying[4 * word..][..4].copy_from_slice(&[0xff; 4]);
        assert!(matches!(format_error(&lying), FormatError::Cut(_)), "word {word}");
    }
}

/// A bit field is not read as a byte.
#[test]
fn field_beginning_inside_a_byte_is_missing() {
    let mut moved = LINUX_7_2.to_vec();
    let state = KernelTypes::parse(&moved).unwrap().offsets().unwrap().skc_state;
    let member = moved.windows(4).position(|window| window == (state * 8).to_le_bytes()).unwrap();
    moved[member] |= 1;
    let error = KernelTypes::parse(&moved).unwrap().offsets().unwrap_err().to_string();
    assert_eq!(error, "this kernel's BTF does not say at which byte these begin: sock_common.skc_state");
}

#[test]
fn hooks_keep_their_type_ids() {
    for btf in ALL {
        let types = KernelTypes::parse(btf).unwrap();
        let targets: Vec<(u32, String)> = HOOKS.iter().map(target).collect();
        let names: Vec<TypeName<'_>> =
            targets.iter().map(|&(kind, ref text)| TypeName { kind, text }).collect();
        let (whole, only) = (Blob::read(btf, &names).unwrap(), types.hooks_only());
        let only = Blob::read(&only, &names).unwrap();
        for TypeName { kind, text } in names {
            assert_eq!(whole.id_of(kind, text), only.id_of(kind, text), "{text}");
        }
    }
}

#[test]
fn newest_kernel_has_every_hook() {
    let types = KernelTypes::parse(LINUX_7_2).unwrap();
    for hook in HOOKS {
        assert!(types.has_hook(hook), "{}: not in the fixtures of `cargo xtask btf`", hook.tracepoint);
    }
}
