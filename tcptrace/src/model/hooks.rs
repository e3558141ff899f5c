//! The table of hooks: where the eBPF programs are attached, and which kinds of records they report. The loader,
//! `tcptrace check`, the `--without` argument, recordings, exports and docs/session-format.md derive from it.

use tcptrace_common::record::{Kind, Reentrant};

/// A tracepoint, or a function, with the programs that are attached to it.
#[derive(Debug)]
pub struct Hook {
    /// Name of the tracepoint, or of the function.
    pub tracepoint: &'static str,
    /// The programs.
    pub programs: Programs,
    /// Whether tracing is possible without it.
    pub requirement: Requirement,
    /// The kinds of records that it reports.
    pub reports: &'static [ReportedKind],
}

/// The programs of a hook, by their functions in the eBPF object.
#[derive(Debug)]
pub enum Programs {
    /// The hook can't interrupt itself.
    One(&'static str),
    /// The hook may interrupt itself: two or three copies are attached, see `tcptrace-ebpf/src/hooks/mod.rs`.
    Copies(Reentrant, [&'static str; 3]),
    /// The same, at the end of a function: copies of one program, by the number of the function's arguments.
    FunctionEnd(Reentrant, [(usize, [&'static str; 3]); 2]),
}

/// Whether tracing is possible without a hook.
#[derive(Debug)]
pub enum Requirement {
    /// It is not.
    Needed,
    /// It is: the hook is attached where the kernel has it.
    Optional(OptionalHook),
    /// It is: attached together with the optional hook at this tracepoint, or neither is.
    With(&'static str),
    /// It is: attached together with the optional hook at this tracepoint, where the kernel has it.
    WithIfPresent(&'static str),
    /// It is: attached where user stacks are captured, if the kernel allows it.
    ForStacks,
}

/// An optional hook, in the words of `tcptrace check`.
#[derive(Debug)]
pub struct OptionalHook {
    /// Its name for `--without`.
    pub name: &'static str,
    /// The number of arguments that its tracepoint must have; `None` for any.
    pub arguments: Option<usize>,
    /// What it shows.
    pub shows: &'static str,
    /// What is unknown without it.
    pub lost_without: &'static str,
    /// Which kernels have it.
    pub available: &'static str,
}

/// A kind of records.
#[derive(Debug)]
pub struct ReportedKind {
    /// The kind.
    pub kind: Kind,
    /// Its name in recordings and exports.
    pub name: &'static str,
    /// Its index in the dictionary of new recordings: the next free one. Readers go by the name.
    pub index: u8,
    /// The minor version of the format that introduced it.
    pub since: u32,
    /// The kernel object that a record is about.
    pub object: KernelObject,
    /// Whether a record may be the last one about its socket.
    pub last: LastRecord,
    /// Its line in docs/session-format.md.
    pub meaning: &'static str,
}

/// A kernel object of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelObject {
    /// `struct sock`; identified by its cookie alone.
    Full,
    /// `struct inet_timewait_sock`.
    Timewait,
    /// `struct request_sock`; `arg0` is its listener's cookie.
    Request,
}

/// Whether a record may be the last one about its socket, whose number in a recording is then reused. A wrong answer
/// costs bytes, not correctness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRecord {
    /// Others follow.
    Never,
    /// If the socket is in CLOSE and no timewait socket continues it.
    InClose,
    /// None follows.
    Always,
}

/// The tracepoint of segments that the kernel frees.
pub const KFREE_SKB: &str = "kfree_skb";
/// The tracepoint of the RSTs that this host sends.
pub const SEND_RESET: &str = "tcp_send_reset";

/// The tracepoint of errors that a socket reports (5.14).
pub const ERROR_REPORT: &str = "inet_sk_error_report";

/// The function that returns a connection to `accept()`.
pub const ACCEPT: &str = "inet_csk_accept";

/// Every hook. Attached from the last to the first: attaching what ends sockets after what begins them would leave
/// sockets that never end, and a reason must precede the transition that it explains.
pub const HOOKS: &[Hook] = &[
    Hook {
        tracepoint: "inet_sock_set_state",
        programs: Programs::Copies(
            Reentrant::SetState,
            ["set_state_first", "set_state_second", "set_state_third"],
        ),
        requirement: Requirement::Needed,
        reports: &[ReportedKind {
            kind: Kind::Transition,
            name: "transition",
            index: 0,
            since: 0,
            object: KernelObject::Full,
            last: LastRecord::InClose,
            meaning: "a full socket changes its state; not its CLOSE when `minisocket_armed` has just reported the timewait socket \
                      that replaces it. `arg0`: `sk_err` with `to` = CLOSE; from SYN_SENT to ESTABLISHED \
                      `tcp_sock.srtt_us`, eight times the round trip of the SYN in microseconds, 0 where it is not known; with \
                      `to` = SYN_SENT, FIN_WAIT1 or LAST_ACK the number of the `stack` of the call, plus 2^31 where it stands for 64 \
                      calls (since format 1.6)",
        }],
    },
    Hook {
        tracepoint: "timer_start",
        programs: Programs::One("timer_start"),
        requirement: Requirement::Needed,
        reports: &[
            ReportedKind {
                kind: Kind::TimewaitArmed,
                name: "minisocket_armed",
                index: 1,
                since: 0,
                object: KernelObject::Timewait,
                last: LastRecord::Never,
                meaning: "the timer of a TIME_WAIT or orphan FIN_WAIT2 is set. `to`: its substate; `arg0`: ticks \
                          left; `arg1`: `tw_entry_stamp`",
            },
            ReportedKind {
                kind: Kind::RequestArmed,
                name: "request_armed",
                index: 5,
                since: 0,
                object: KernelObject::Request,
                last: LastRecord::Never,
                meaning: "the timer of a handshake is set. `arg0`: the listener's cookie (null: `listener`); \
                          `arg1`: SYN-ACK timeouts",
            },
        ],
    },
    Hook {
        tracepoint: "timer_cancel",
        programs: Programs::One("timer_cancel"),
        requirement: Requirement::Needed,
        reports: &[
            ReportedKind {
                kind: Kind::TimewaitCancelled,
                name: "minisocket_cancelled",
                index: 2,
                since: 0,
                object: KernelObject::Timewait,
                last: LastRecord::Never,
                meaning: "this timer is cancelled. As `minisocket_armed`, with the thread id in the upper half of `arg1`",
            },
            ReportedKind {
                kind: Kind::RequestCancelled,
                name: "request_cancelled",
                index: 6,
                since: 0,
                object: KernelObject::Request,
                last: LastRecord::Always,
                meaning: "this timer is cancelled. As `request_armed`",
            },
        ],
    },
    Hook {
        tracepoint: "timer_expire_entry",
        programs: Programs::One("timer_expire_entry"),
        requirement: Requirement::Needed,
        reports: &[
            ReportedKind {
                kind: Kind::TimewaitExpired,
                name: "minisocket_expired",
                index: 3,
                since: 0,
                object: KernelObject::Timewait,
                last: LastRecord::Always,
                meaning: "this timer expires. As `minisocket_armed`",
            },
            ReportedKind {
                kind: Kind::RequestExpired,
                name: "request_expired",
                index: 7,
                since: 0,
                object: KernelObject::Request,
                last: LastRecord::Never,
                meaning: "this timer expires. As `request_armed`",
            },
        ],
    },
    Hook {
        tracepoint: KFREE_SKB,
        programs: Programs::Copies(Reentrant::Segment, ["segment_first", "segment_second", "segment_third"]),
        requirement: Requirement::Optional(OptionalHook {
            name: "segment",
            // The fourth is the receiving socket.
            arguments: Some(4),
            shows: "Shows segments that reach a TIME_WAIT socket.",
            lost_without: "It does not name the receiving socket: when an orphan FIN_WAIT2 becomes TIME_WAIT may be \
                           found a second late, and what ended a TIME_WAIT early may stay unexplained.",
            available: "Linux 6.11 or later shows it.",
        }),
        reports: &[ReportedKind {
            kind: Kind::Segment,
            name: "segment",
            index: 4,
            since: 0,
            object: KernelObject::Timewait,
            last: LastRecord::Never,
            meaning: "a segment reached a timewait socket. `arg0`: TCP's flags",
        }],
    },
    Hook {
        tracepoint: SEND_RESET,
        programs: Programs::Copies(
            Reentrant::ResetSent,
            ["reset_sent_first", "reset_sent_second", "reset_sent_third"],
        ),
        requirement: Requirement::Optional(OptionalHook {
            name: "ends",
            arguments: None,
            shows: "Says why a RST is sent.",
            lost_without: "RSTs and errors are not seen where they are sent and reported: why a socket ended is inferred \
                           from its last state.",
            available: "A kernel with the tracepoints tcp_send_reset and tcp_receive_reset shows them.",
        }),
        reports: &[ReportedKind {
            kind: Kind::ResetSent,
            name: "reset_sent",
            index: 30,
            since: 2,
            object: KernelObject::Full,
            last: LastRecord::InClose,
            meaning: "this host sends a RST for a full socket. `arg0`: why (0 not specified, 1 `TCP_ABORT_ON_DATA`, \
                      2 `TCP_ABORT_ON_CLOSE`, 3 `TCP_ABORT_ON_LINGER`, 4 `TCP_ABORT_ON_MEMORY`, 5 `TCP_STATE`, \
                      6 `TCP_KEEPALIVE_TIMEOUT`, 7 `TCP_DISCONNECT_WITH_DATA`, 8 other); `arg1`: 1 when it answers a \
                      segment",
        }],
    },
    Hook {
        tracepoint: "tcp_receive_reset",
        programs: Programs::Copies(
            Reentrant::ResetReceived,
            ["reset_received_first", "reset_received_second", "reset_received_third"],
        ),
        requirement: Requirement::With(SEND_RESET),
        reports: &[ReportedKind {
            kind: Kind::ResetReceived,
            name: "reset_received",
            index: 31,
            since: 2,
            object: KernelObject::Full,
            last: LastRecord::Never,
            meaning: "a RST that ends a full socket arrived",
        }],
    },
    Hook {
        tracepoint: ERROR_REPORT,
        programs: Programs::One("error_reported"),
        requirement: Requirement::WithIfPresent(SEND_RESET),
        reports: &[ReportedKind {
            kind: Kind::ErrorReported,
            name: "error_reported",
            index: 32,
            since: 2,
            object: KernelObject::Full,
            last: LastRecord::InClose,
            meaning: "a closed full socket reports an error. `arg0`: `sk_err`",
        }],
    },
    Hook {
        tracepoint: ACCEPT,
        programs: Programs::FunctionEnd(
            Reentrant::Accepted,
            [
                (2, ["accepted_first", "accepted_second", "accepted_third"]),
                (4, ["accepted_by_flags_first", "accepted_by_flags_second", "accepted_by_flags_third"]),
            ],
        ),
        requirement: Requirement::ForStacks,
        reports: &[ReportedKind {
            kind: Kind::Accepted,
            name: "accepted",
            index: 40,
            since: 7,
            object: KernelObject::Full,
            last: LastRecord::Never,
            meaning: "`accept()` returned a full socket; the hook is the end of this function. `to`: its state; `arg0`: the stack of \
                      the call, as in `transition`. Only with `record --stacks`, where the kernel allows programs at functions",
        }],
    },
];

impl Hook {
    /// The tracepoint of the hook that decides whether this one is attached.
    pub const fn leader(&self) -> &'static str {
        match self.requirement {
            Requirement::With(leader) | Requirement::WithIfPresent(leader) => leader,
            Requirement::Needed | Requirement::Optional(_) | Requirement::ForStacks => self.tracepoint,
        }
    }

    /// Whether the hook at the tracepoint `leader` is attached only together with this one.
    pub fn is_part_of(&self, leader: &str) -> bool {
        self.leader() == leader && !matches!(self.requirement, Requirement::WithIfPresent(_))
    }

    /// The words for an optional hook; `None` for the others.
    pub const fn optional(&self) -> Option<&OptionalHook> {
        match &self.requirement {
            Requirement::Optional(optional) => Some(optional),
            Requirement::Needed
            | Requirement::With(_)
            | Requirement::WithIfPresent(_)
            | Requirement::ForStacks => None,
        }
    }

    /// Whether it is attached to the end of a function.
    pub const fn is_at_function(&self) -> bool {
        matches!(self.programs, Programs::FunctionEnd(..))
    }

    /// Functions of its programs at the tracepoint, where `copies` of those that may interrupt themselves are attached.
    pub fn functions(&self, copies: usize) -> &[&'static str] {
        match &self.programs {
            Programs::FunctionEnd(..) => &[],
            Programs::One(function) => std::slice::from_ref(function),
            Programs::Copies(_, functions) => &functions[..copies],
        }
    }
}

/// Every kind, in the order of [`HOOKS`].
pub const REPORTED: &[&ReportedKind; kind_count()] = &{
    let mut kinds = [&HOOKS[0].reports[0]; kind_count()];
    let (mut count, mut hook) = (0, 0);
    while hook < HOOKS.len() {
        let mut report = 0;
        while report < HOOKS[hook].reports.len() {
            kinds[count] = &HOOKS[hook].reports[report];
            count += 1;
            report += 1;
        }
        hook += 1;
    }
    kinds
};

const fn kind_count() -> usize {
    let (mut count, mut hook) = (0, 0);
    while hook < HOOKS.len() {
        count += HOOKS[hook].reports.len();
        hook += 1;
    }
    count
}

/// The entry of `kind`.
pub const fn reported(kind: Kind) -> &'static ReportedKind {
    REPORTED[BY_NUMBER[kind as usize] as usize]
}

/// Indices of [`REPORTED`] by the kinds' numbers. Does not compile unless every kind has one entry.
static BY_NUMBER: [u8; 1 << u8::BITS] = {
    const NONE: u8 = u8::MAX;
    let mut indices = [NONE; 1 << u8::BITS];
    let mut index = 0;
    while index < REPORTED.len() {
        let number = REPORTED[index].kind as usize;
        assert!(indices[number] == NONE, "a kind has two entries");
        indices[number] = index as u8;
        index += 1;
    }
    let mut number = 0;
    while number < indices.len() {
        let is_kind = Kind::from_raw(number as u8).is_some();
        assert!(
            is_kind == (indices[number] != NONE),
            "a kind has no entry here, or no number in Kind::from_raw"
        );
        number += 1;
    }
    indices
};
