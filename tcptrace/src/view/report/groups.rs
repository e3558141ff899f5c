//! Sections about groups of sockets: producers of TIME_WAIT, and closers.

use std::fmt::{self, Write};

use super::{
    Report, bound,
    cell::{Number, Text},
    ranking::connections_closed,
    summary::percent,
    table::{TABLE_END, bar, grouped_table, table},
};
use crate::{
    aggregate::Group,
    lifecycle::Closer,
    model::{TcpState, units},
    view::top::columns::role,
};

/// The grouping as a column head: `Service`.
fn key_head(report: &Report<'_>) -> String {
    let head = report.snapshot.grouping.head().to_lowercase();
    head[..1].to_uppercase() + &head[1..]
}

/// Writes the key, role and owner of a group.
fn names(out: &mut String, report: &Report<'_>, n: usize, group: &Group) -> fmt::Result {
    let is_rest = n + 1 == report.listed.groups.len() && report.listed.other_groups > 0;
    let role = if report.snapshot.grouping.has_roles() && !is_rest { role(group.role) } else { "" };
    let rest = if is_rest {
        format!(" <small>{} groups</small>", Number::count(report.listed.other_groups, "/other_groups"))
    } else {
        String::new()
    };
    write!(out, "<tr><th scope=\"row\" class=\"key\">{}{rest}</th><td>{role}</td><td>", Text(&group.key))?;
    if let Some(process) = &group.process {
        write!(out, "{} <small>{}</small>", Text(&process.comm), process.pid)?;
        if group.other_processes > 0 {
            write!(
                out,
                " <small>+{}</small>",
                Number::count(group.other_processes, format_args!("/groups/{n}/other_processes"))
            )?;
        }
    }
    out.write_str("</td>")
}

fn grouped_by(out: &mut String, report: &Report<'_>) -> fmt::Result {
    write!(out, "<p>Grouped by {}", Text(&report.snapshot.grouping.to_string()))?;
    if report.listed.other_groups > 0 {
        write!(
            out,
            "; {} groups with fewer sockets are counted together, as <i>other</i>",
            Number::count(report.listed.other_groups, "/other_groups")
        )?;
    }
    out.write_str(".</p>")
}

/// Writes the groups with the TIME_WAIT they produced and their other sockets.
pub fn producers(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let groups = &report.listed.groups;
    if groups.is_empty() {
        return out.write_str("<p>There were no sockets.</p>");
    }
    grouped_by(out, report)?;
    let head = key_head(report);
    let above = [
        ("", 3),
        ("TIME_WAIT", 6),
        ("FIN_WAIT2 at the end", 2),
        ("CLOSE_WAIT at the end", 2),
        ("ESTABLISHED", 1),
    ];
    let heads = [
        &head,
        "Role",
        "Process",
        "#entered",
        "",
        "#per s",
        "#at the end",
        "#p50",
        "#p99",
        "#orphan",
        "#held",
        "#sockets",
        "#oldest",
        "#at the end",
    ];
    grouped_table(out, "Groups, the most TIME_WAIT first", &above, &heads)?;
    let all = report.listed.all.time_wait.entered;
    for (n, group) in groups.iter().enumerate() {
        names(out, report, n, group)?;
        let time_wait = &group.time_wait;
        write!(
            out,
            "<td class=\"n\">{}</td>",
            Number::count(time_wait.entered, format_args!("/groups/{n}/time_wait/entered"))
        )?;
        bar(out, &[("s-TIME_WAIT", time_wait.entered)], all)?;
        for cell in producer_cells(report, n, group) {
            write!(out, "<td class=\"n\">{cell}</td>")?;
        }
        out.write_str("</tr>\n")?;
    }
    out.write_str(TABLE_END)
}

fn producer_cells(report: &Report<'_>, n: usize, group: &Group) -> [String; 9] {
    let dwell = &group.time_wait.dwell;
    let count = |n_of: u64, at: &str| Number::count(n_of, format_args!("/groups/{n}/{at}")).to_string();
    let length = |ns: u64, at: &str| match dwell.count {
        0 => "-".to_owned(),
        _ => Number::length(ns, format_args!("/groups/{n}/time_wait/dwell_ns/{at}")).to_string(),
    };
    let oldest = group.oldest_close_wait.and_then(|since| since.age(report.snapshot.ts)).map_or_else(
        || "-".into(),
        |age| {
            Number::length(age.length.0, format_args!("/groups/{n}/oldest_close_wait_ns"))
                .marked(bound(age))
                .to_string()
        },
    );
    let state = |state: TcpState| count(group.counts[state.index()], &format!("counts/{}", state.name()));
    [
        Number::rate(group.time_wait.entered_per_s, format_args!("/groups/{n}/time_wait/entered_per_s"))
            .to_string(),
        count(group.time_wait.now, "time_wait/now"),
        length(dwell.p50, "p50"),
        length(dwell.p99, "p99"),
        count(group.fin_wait2_orphan, "fin_wait2/orphan"),
        count(group.fin_wait2_held(), "fin_wait2/held"),
        state(TcpState::CloseWait),
        oldest,
        state(TcpState::Established),
    ]
}

/// Closers with their column heads and CSS classes.
const CLOSERS: [(Closer, &str, &str); 7] = [
    (Closer::Local, "this side", "c-local"),
    (Closer::Remote, "the peer", "c-remote"),
    (Closer::Both, "both", "c-both"),
    (Closer::ResetReceived, "RST in", "c-reset-in"),
    (Closer::ResetSent, "RST out", "c-reset-out"),
    (Closer::TimedOut, "timeout", "c-timeout"),
    (Closer::Refused, "refused", "c-refused"),
];

/// Writes which side closed the connections of each group.
pub fn closers(out: &mut String, report: &Report<'_>) -> fmt::Result {
    out.write_str(
        "<p>The side that closes first keeps the TIME_WAIT. <b>This side</b> is the end of the connection that the row is \
         about: where both ends are on this host, as over loopback, each has a row.</p>",
    )?;
    let mut heads = vec![key_head(report), "Role".into(), "Process".into(), "#Closed".into(), String::new()];
    heads.extend(CLOSERS.iter().map(|(_, name, _)| format!("#{name}")));
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let rows: Vec<(usize, &Group)> = report
        .listed
        .groups
        .iter()
        .enumerate()
        .map(|(n, group)| (n, &**group))
        .filter(|(_, group)| connections_closed(group) > 0)
        .collect();
    if rows.is_empty() {
        return out.write_str("<p>No connection was closed.</p>");
    }
    legend(out)?;
    table(out, "Connections by who closed first", &heads)?;
    for (n, group) in rows {
        names(out, report, n, group)?;
        let all = connections_closed(group);
        // The sum of the cells that follow; the document does not contain it.
        write!(out, "<td class=\"n\">{}</td>", units::count(all))?;
        bar(out, &CLOSERS.map(|(closer, _, class)| (class, group.closed[closer as usize])), all)?;
        for (closer, _, _) in CLOSERS {
            let n_of = group.closed[closer as usize];
            let share = if n_of > 0 { percent(n_of as f64 / all as f64) } else { String::new() };
            let count = Number::count(n_of, format_args!("/groups/{n}/closed/{}", closer.name()));
            write!(out, "<td class=\"n\">{count} <small>{share}</small></td>")?;
        }
        out.write_str("</tr>\n")?;
    }
    out.write_str(TABLE_END)
}

fn legend(out: &mut String) -> fmt::Result {
    out.write_str("<ul class=\"legend\">")?;
    for (_, name, class) in CLOSERS {
        write!(
            out,
            "<li><svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><path class=\"part {class}\" \
             d=\"M0 0h10v10h-10z\"/></svg>{name}</li>"
        )?;
    }
    out.write_str("</ul>")
}
