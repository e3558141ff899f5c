//! Section about ends: why sockets ended, and in which state.

use std::fmt::{self, Write};

use super::{
    Report,
    cell::Number,
    table::{TABLE_END, bar, table},
};
use crate::{lifecycle::EndReason, view::hist::closes};

/// Explains a reason.
const fn meaning(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Expired => "its timer ran out",
        EndReason::Reused => "a connect() took its ports over (tcp_tw_reuse)",
        EndReason::Reopened => "a SYN of the peer took its ports over",
        EndReason::Reset => "a RST ended it early",
        EndReason::Aborted => "data came after close(); a RST was the answer",
        EndReason::Killed => "ended by an administrator (ss -K)",
        EndReason::Purged => "its network namespace went away",
        EndReason::Unexplained => "nothing that was seen explains it",
        EndReason::Lost => "found gone: the records about its end were lost",
        EndReason::Closed => "closed in the ordinary way",
        EndReason::Overflow => "there was no room for its TIME_WAIT (tcp_max_tw_buckets)",
        EndReason::Refused => "the peer answered the SYN with a RST",
        EndReason::ResetReceived => "a RST came in",
        EndReason::ResetSentUnread => "close() with unread data: a RST went out",
        EndReason::ResetSentLinger => "close() with SO_LINGER 0: a RST went out",
        EndReason::Disconnected => "disconnected, or never accepted: a RST went out",
        EndReason::Timeout => "no answer to retransmission or keepalive",
        EndReason::NoPort => "connect() found no free port",
        EndReason::Abandoned => "given up before there was a connection",
        EndReason::Dropped => "the handshake was dropped: accept queue full, or listener closed",
        EndReason::ListenerClosed => "a listener was closed",
        EndReason::Unreachable => "an ICMP error ended the handshake",
        EndReason::ResetSentLinger2 => "close() with a negative TCP_LINGER2: a RST went out",
        EndReason::ResetSentMemory => {
            "too many orphans or no memory (tcp_max_orphans, tcp_mem): a RST went out"
        }
        EndReason::ResetSent => "a RST went out for another reason of the kernel's",
        EndReason::Silent => "nothing went out: TCP_REPAIR, or SO_LINGER 0 after the FIN",
    }
}

/// Writes all end reasons with their counts.
pub fn ends(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let all = &report.listed.all;
    out.write_str("<div class=\"cards\">")?;
    let full = |reason: EndReason| Some(all.ended[reason as usize]);
    reasons(out, "Sockets, before any TIME_WAIT", "/all/ended", full)?;
    reasons(out, "TIME_WAIT", "/all/time_wait/ended", |reason| all.time_wait.ended.of(reason))?;
    reasons(out, "FIN_WAIT2", "/all/fin_wait2/ended", |reason| all.fin_wait2.ended.of(reason))?;
    let skipped: Vec<(&str, u64)> = closes::skipped(all).filter(|(_, n)| *n > 0).collect();
    if !skipped.is_empty() {
        out.write_str("<div class=\"card\"><h3>Closes that left no TIME_WAIT on either side</h3>")?;
        table(out, "Closes without TIME_WAIT", &["Cause", "#Closes"])?;
        for (name, n) in skipped {
            let count = Number::count(n, format_args!("/skipped_time_wait/{name}"));
            writeln!(out, "<tr><th scope=\"row\">{name}</th><td class=\"n\">{count}</td></tr>")?;
        }
        out.write_str(TABLE_END)?;
        out.write_str("</div>")?;
    }
    out.write_str("</div>")
}

fn reasons(out: &mut String, title: &str, at: &str, of: impl Fn(EndReason) -> Option<u64>) -> fmt::Result {
    let mut rows: Vec<(EndReason, u64)> = EndReason::ALL
        .into_iter()
        .filter_map(|reason| Some((reason, of(reason)?)))
        .filter(|(_, n)| *n > 0)
        .collect();
    rows.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    write!(out, "<div class=\"card\"><h3>{title}</h3>")?;
    if rows.is_empty() {
        return out.write_str("<p>None ended.</p></div>");
    }
    let sum: u64 = rows.iter().map(|(_, n)| n).sum();
    table(out, &format!("How they ended: {title}"), &["Reason", "#How many", "", "Meaning"])?;
    for (reason, n) in rows {
        let count = Number::count(n, format_args!("{at}/{}", reason.name()));
        write!(out, "<tr><th scope=\"row\">{}</th><td class=\"n\">{count}</td>", reason.name())?;
        bar(out, &[("c-local", n)], sum)?;
        writeln!(out, "<td class=\"meaning\">{}</td></tr>", meaning(reason))?;
    }
    out.write_str(TABLE_END)?;
    out.write_str("</div>\n")
}
