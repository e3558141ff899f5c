//! All odd connections with one tracer, in one namespace: the kernel's counters and ftrace against the events of tcptrace.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use tcptrace_common::state::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};

use super::{ALL, CaseOutcomes, OddCase, OddLab, UnendedCount};
use crate::clock::{soon, wait_for};
use crate::event::EventEndReason::{
    self, Aborted, Disconnected, Killed, Overflow, Refused, ResetSent, ResetSentLinger, ResetSentLinger2,
    ResetSentMemory, ResetSentUnread, Reused, Timeout, Unexplained, Unreachable,
};
use crate::event::EventLine;
use crate::ftrace::Ftrace;
use crate::lab::Lab;
use crate::{kernel, netns};

/// A counter of the kernel and the ends that it counts.
struct CounterRule {
    counter: &'static str,
    counts: fn(&EventLine, EventEndReason) -> bool,
    in_words: &'static str,
}

const fn nothing(_: &EventLine, _: EventEndReason) -> bool {
    false
}

/// `tcp_abort()` sends a RST where there is a peer (`tcp_need_reset()`).
fn killed_with_a_reset(event: &EventLine, reason: EventEndReason) -> bool {
    reason == Killed && [Established, CloseWait, FinWait1, SynRecv].contains(&event.from)
}

const RULES: &[CounterRule] = &[
    CounterRule {
        counter: "TCPAbortOnClose",
        counts: |_, reason| reason == ResetSentUnread,
        in_words: "reset_sent_unread",
    },
    CounterRule {
        counter: "TCPAbortOnData",
        // A timewait socket is not counted; an orphan in FIN_WAIT2 is one nearly always.
        counts: |event, reason| reason == ResetSentLinger || reason == Aborted && event.orphan != Some(true),
        in_words: "reset_sent_linger + aborted before an orphan FIN_WAIT2",
    },
    CounterRule {
        counter: "TCPAbortOnLinger",
        counts: |event, reason| reason == ResetSentLinger2 && event.orphan != Some(true),
        in_words: "reset_sent_linger2 at close()",
    },
    CounterRule {
        counter: "TCPAbortOnMemory",
        counts: |_, reason| reason == ResetSentMemory,
        in_words: "reset_sent_memory",
    },
    CounterRule {
        counter: "TCPAbortOnTimeout",
        counts: |event, reason| reason == Timeout && event.from != SynRecv,
        in_words: "timeout, but of a handshake",
    },
    CounterRule {
        counter: "OutRsts",
        counts: |event, reason| {
            [
                ResetSentUnread,
                ResetSentLinger,
                ResetSentLinger2,
                ResetSentMemory,
                ResetSent,
                Disconnected,
                Aborted,
                Refused,
            ]
            .contains(&reason)
                || killed_with_a_reset(event, reason)
        },
        in_words: "reset_sent* + aborted + disconnected + killed with a peer + refused",
    },
    CounterRule {
        counter: "EstabResets",
        counts: |event, _| [Established, CloseWait].contains(&event.from),
        in_words: "every end in ESTABLISHED and CLOSE_WAIT",
    },
    CounterRule {
        counter: "AttemptFails",
        counts: |event, reason| {
            event.from == SynSent
                && [Refused, Unreachable, Timeout, Killed, EventEndReason::ResetReceived].contains(&reason)
        },
        in_words: "refused + unreachable + timeout + killed in SYN_SENT",
    },
    CounterRule { counter: "TWRecycled", counts: |_, reason| reason == Reused, in_words: "reused" },
    CounterRule {
        counter: "TCPTimeWaitOverflow",
        counts: |_, reason| reason == Overflow,
        in_words: "overflow",
    },
    CounterRule { counter: "PAWSActive", counts: nothing, in_words: "ends nothing" },
    CounterRule { counter: "PAWSEstab", counts: nothing, in_words: "ends nothing" },
];

/// One line of the table.
struct CounterComparison {
    kernel: u64,
    tcptrace: u64,
    unended: u64,
    line: String,
}

impl CounterComparison {
    /// The kernel did not report the reason of `unsure` ends: each may be another.
    const fn agrees(&self, unsure: u64) -> bool {
        self.kernel.abs_diff(self.tcptrace + self.unended) <= unsure
    }
}

fn compare(
    rule: &CounterRule,
    before: u64,
    events: &[EventLine],
    unended: &[UnendedCount],
) -> Result<CounterComparison> {
    let kernel = kernel::counter(rule.counter)? - before;
    let counts = |event: &&EventLine| event.end_reason.is_some_and(|reason| (rule.counts)(event, reason));
    let tcptrace = events.iter().filter(counts).count() as u64;
    let others: Vec<_> =
        unended.iter().filter(|unended| unended.counter == rule.counter && unended.by > 0).collect();
    let by = others.iter().map(|unended| unended.by).sum();
    let mut line = format!("{:<20} {kernel:>6} {tcptrace:>8} {by:>7}  {}", rule.counter, rule.in_words);
    for other in others {
        write!(line, "; {} {}", other.by, other.why)?;
    }
    Ok(CounterComparison { kernel, tcptrace, unended: by, line })
}

/// Changes that `inet_sock_set_state` and tcptrace both show of a full socket.
const SHARED: &[(TcpState, TcpState)] = &[
    (Close, SynSent),
    (Close, Listen),
    (SynSent, Established),
    (SynSent, SynRecv),
    (SynSent, Close),
    (SynRecv, Established),
    (Established, FinWait1),
    (Established, CloseWait),
    (Established, Close),
    (FinWait1, FinWait2),
    (FinWait1, Closing),
    (FinWait1, Close),
    (CloseWait, LastAck),
    (CloseWait, Close),
    (LastAck, Close),
    (Listen, Close),
];

fn tally(changes: impl Iterator<Item = (TcpState, TcpState)>) -> BTreeMap<usize, u64> {
    let mut counts = BTreeMap::new();
    for change in changes {
        if let Some(row) = SHARED.iter().position(|shared| *shared == change) {
            *counts.entry(row).or_default() += 1;
        }
    }
    counts
}

/// The ports of this run, outside the default range of other namespaces: they identify its events in ftrace.
fn own_ports(netns: u32) -> (u16, u16) {
    let first = 10_000 + (netns % 20) as u16 * 1_000;
    (first, first + 999)
}

/// See the module.
pub fn counters(lab: &Lab) -> Result<()> {
    let (first, last) = own_ports(lab.netns());
    netns::sysctl("ip_local_port_range", &format!("{first} {last}"))?;
    let ftrace = Ftrace::start(first..=last);
    let stage = OddLab::new(lab)?;
    let before = RULES.iter().map(|rule| kernel::counter(rule.counter)).collect::<Result<Vec<_>>>()?;
    let cases: Vec<OddCase> = ALL.concat();
    let outcomes = CaseOutcomes::of(&stage, &cases);
    println!("{} odd connections, {} of them not here", cases.len(), outcomes.skipped.len());
    let events = || stage.events(0, |event| event.netns == lab.netns());
    let settle = |compare: &dyn Fn(&[EventLine]) -> Result<String>| settled(&stage, || compare(&events()?));
    let counted = settle(&|events| compare_counters(&before, events, &stage.unended()));
    let states = ftrace.and_then(|ftrace| settle(&|events| compare_states(&ftrace, events)));
    for table in [&counted, &states].into_iter().flatten() {
        println!("{}", table.trim_end());
    }
    outcomes.verdict().and(counted.map(drop)).and(states.map(drop))?;
    stage.tracer.finish()
}

/// Compares until nothing differs: the last events arrive late. Without a tracer everything differs.
fn settled(stage: &OddLab, compare: impl Fn() -> Result<String>) -> Result<String> {
    let mut last = compare();
    if !stage.tracer.is_present() {
        return last.or_else(|error| Ok(format!("{error:#}")));
    }
    let agree = wait_for("the last events", soon(), || {
        last = compare();
        Ok(last.is_ok().then_some(()))
    });
    // The last difference is a better message than the time-out.
    drop(agree);
    last
}

fn compare_counters(before: &[u64], events: &[EventLine], unended: &[UnendedCount]) -> Result<String> {
    let unsure = |event: &&EventLine| event.reason_inferred || event.end_reason == Some(Unexplained);
    let unsure = events.iter().filter(unsure).count() as u64;
    let rows = RULES.iter().zip(before).map(|(rule, before)| compare(rule, *before, events, unended));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let mut table = format!(
        "{:<20} kernel tcptrace unended  end reasons; unended counts ({unsure} inferred or unexplained)\n",
        "counter"
    );
    rows.iter().try_for_each(|row| writeln!(table, "{}", row.line))?;
    ensure!(rows.iter().all(|row| row.agrees(unsure)), "the kernel counts otherwise:\n{table}");
    Ok(table)
}

fn compare_states(ftrace: &Ftrace, events: &[EventLine]) -> Result<String> {
    let changes = ftrace.changes()?;
    ensure!(ftrace.overrun()? == 0, "ftrace had no room");
    let by_kernel = tally(changes.iter().map(|change| (change.from, change.to)));
    let by_tracer = tally(events.iter().map(|event| (event.from, event.to)));
    let mut table = format!("{:<28} ftrace tcptrace\n", "change of state");
    let mut agree = true;
    for (row, (from, to)) in SHARED.iter().enumerate() {
        let [kernel, tracer] =
            [&by_kernel, &by_tracer].map(|counts| counts.get(&row).copied().unwrap_or_default());
        writeln!(table, "{:<28} {kernel:>6} {tracer:>8}", format!("{} -> {}", from.name(), to.name()))?;
        agree &= kernel == tracer;
    }
    ensure!(agree, "ftrace saw otherwise:\n{table}");
    Ok(table)
}
