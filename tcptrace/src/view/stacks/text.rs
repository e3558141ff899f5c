//! Writes stacks as text: a line with process, function, source line and count per stack, then its frames, innermost first.

use std::io::{self, Write};

use super::listed::{StackLayout, StackSubject, mark, name, traced};
use crate::{
    aggregate::{LeakGroup, Snapshot, StackCall, StackGroup},
    model::{
        Nanos,
        record::Process,
        stack::{StackFrame, UserStack},
        text::sanitise,
        units::{self, plural},
    },
    view::{
        clock,
        losses::{filter, losses},
        top::summary,
    },
};

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, layout: &StackLayout) -> io::Result<()> {
    let time = clock::date(&snapshot.host, snapshot.ts, &layout.zone);
    writeln!(out, "{}  {time}", summary::facts(snapshot).join("  "))?;
    writeln!(
        out,
        "{}: {} records in {}  {}",
        sanitise(&snapshot.source),
        units::count(snapshot.records),
        units::duration(traced(snapshot)),
        losses(&snapshot.losses).as_deref().unwrap_or("lost 0")
    )?;
    if let Some(filter) = filter(snapshot) {
        writeln!(out, "{filter}")?;
    }
    for limit in &snapshot.host.limits {
        writeln!(out, "note: {}", sanitise(limit))?;
    }
    writeln!(out)?;
    let shown = match layout.on {
        StackSubject::Leak => leaks(out, snapshot, layout.most)?,
        StackSubject::Close | StackSubject::Connect | StackSubject::Accept => calls(out, snapshot, layout)?,
    };
    if shown > layout.most {
        writeln!(
            out,
            "\nand {} more: --top shows them",
            plural((shown - layout.most) as u64, "stack", "stacks")
        )?;
    }
    Ok(())
}

/// Returns the number of stacks.
fn calls(out: &mut impl Write, snapshot: &Snapshot, layout: &StackLayout) -> io::Result<usize> {
    let stacks = &snapshot.stacks;
    let Some(call) = layout.on.call() else { return Ok(0) };
    let total = stacks.totals[call as usize];
    let (one, many) = match layout.on {
        StackSubject::Connect => ("connection opened here", "connections opened here"),
        StackSubject::Accept => ("connection accepted here", "connections accepted here"),
        _ => ("connection closed here first", "connections closed here first"),
    };
    let seconds = traced(snapshot).as_secs_f64();
    write!(
        out,
        "{} ({}/s)",
        plural(total.calls, one, many),
        units::rate(total.calls as f64 / seconds.max(1e-9))
    )?;
    match (total.calls, total.captured) {
        (0, _) => return writeln!(out, ".").map(|()| 0),
        (_, 0) => {
            let hint = if snapshot.is_live() { "" } else { ": `tcptrace record --stacks` records them" };
            return writeln!(out, "; no stacks{hint}.").map(|()| 0);
        }
        (_, captured) if captured < total.with_stack => {
            writeln!(out, "; {} captured, ~ marks estimates", plural(captured, "stack", "stacks"))?;
        }
        (calls, captured) if captured < calls => {
            writeln!(out, "; {} without a stack, as when a process exits", units::count(calls - captured))?;
        }
        _ => writeln!(out)?,
    }
    if stacks.missed > 0 {
        writeln!(out, "{} not captured", plural(stacks.missed, "stack was", "stacks were"))?;
    }
    let groups: Vec<&StackGroup> = stacks.groups.iter().filter(|group| group.call == call).collect();
    let of = groups.iter().map(|group| group.calls).sum::<u64>() + stacks.evicted;
    for group in groups.iter().take(layout.most) {
        writeln!(
            out,
            "\n{}{} ({:.0}%, {}/s)  {}  {}",
            mark(group.is_estimate()),
            units::count(group.calls),
            group.calls as f64 * 100.0 / of.max(1) as f64,
            units::rate(group.calls as f64 / seconds.max(1e-9)),
            program(Some(&group.process), group.processes),
            place(Some(&group.stack)),
        )?;
        for (state, dwell) in &group.dwells {
            writeln!(
                out,
                "  {:<11} p50 {}, p99 {}, longest {}",
                state.name(),
                units::duration(Nanos(dwell.p50)),
                units::duration(Nanos(dwell.p99)),
                units::duration(Nanos(dwell.max))
            )?;
        }
        frames(out, &group.stack)?;
    }
    Ok(groups.len())
}

/// Returns the number of stacks.
fn leaks(out: &mut impl Write, snapshot: &Snapshot, most: usize) -> io::Result<usize> {
    let stacks = &snapshot.stacks;
    let sockets = |group: &LeakGroup| group.close_wait + group.fin_wait2;
    let total: u64 = stacks.leaks.iter().map(sockets).sum();
    writeln!(
        out,
        "{} for longer than {} for a process to close {}",
        plural(total, "socket waits", "sockets wait"),
        units::duration(stacks.older),
        if total == 1 { "it" } else { "them" },
    )?;
    let why_none = if !snapshot.is_live() && stacks.totals.iter().all(|total| total.captured == 0) {
        "the recording has none, `tcptrace record --stacks` records them"
    } else {
        "opened before the trace, not in the sample, or by an accept() that was not seen"
    };
    for group in stacks.leaks.iter().take(most) {
        let mut states = Vec::new();
        for (count, state) in [(group.close_wait, "CLOSE_WAIT"), (group.fin_wait2, "FIN_WAIT2")] {
            if count > 0 {
                states.push(format!("{} {state}", units::count(count)));
            }
        }
        writeln!(
            out,
            "\n{}, longest {}  {}  {}",
            states.join(", "),
            units::duration(group.longest),
            program(group.process.as_ref(), group.processes),
            place(group.stack.as_deref()),
        )?;
        if group.stack.is_some() && group.call != StackCall::Connect {
            let what = match group.call {
                StackCall::Accept => "the stack that accepted them",
                _ => "the stack that shut them down: connect() was not seen",
            };
            writeln!(out, "  ({what})")?;
        }
        match &group.stack {
            Some(stack) => frames(out, stack)?,
            None => writeln!(out, "    no stack: {why_none}")?,
        }
    }
    Ok(stacks.leaks.len())
}

/// `nginx[812] and 3 more`, with its workload.
fn program(process: Option<&Process>, processes: usize) -> String {
    let Some(process) = process else { return "unknown process".into() };
    let mut program = format!("{}[{}]", sanitise(&process.comm), process.pid);
    if let Some(workload) = process.workload().and_then(|workload| workload.shown()) {
        program = format!("{program} ({})", sanitise(workload));
    }
    if processes > 1 {
        program = format!("{program} and {} more", processes - 1);
    }
    program
}

/// `release_to_pool src/pool.c:12`.
fn place(stack: Option<&UserStack>) -> String {
    stack.and_then(UserStack::caller).map(StackFrame::with_source).unwrap_or_default()
}

fn frames(out: &mut impl Write, stack: &UserStack) -> io::Result<()> {
    if stack.frames.is_empty() {
        return writeln!(out, "    no names: the process ended too soon, or may not be read");
    }
    let names: Vec<String> = stack.frames.iter().map(frame_name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(60);
    for (frame, name) in stack.frames.iter().zip(names) {
        let mut line = format!("    {name:<width$}  {}", sanitise(&frame.module));
        if let Some(source) = frame.source() {
            line = format!("{line}  {}", sanitise(&source));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if stack.is_cut {
        writeln!(
            out,
            "    Outer frames unknown: the program has no frame pointers (-fno-omit-frame-pointer adds them)."
        )?;
    }
    Ok(())
}

fn frame_name(frame: &StackFrame) -> String {
    match (frame.is_inlined, frame.function.is_empty()) {
        (true, _) => format!("{} (inlined)", name(frame)),
        (false, false) if frame.offset != 0 => format!("{}+{:#x}", name(frame), frame.offset),
        (false, _) => name(frame),
    }
}
