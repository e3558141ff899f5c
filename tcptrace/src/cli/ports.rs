//! `tcptrace ports`: local port usage per destination, and when ports run out.

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    filter::FilterArgs,
    live::{self, Stop},
    socket_count,
    source::{SnapshotMode, SourceArgs},
    terminal::{self, FramePosition},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    filter::Filter,
    model::{Nanos, record::HostFacts, text, units::parse_duration},
    pipeline::PipelinePlan,
    source::{PollKind, bound_ports, host},
    view::ports::{json, text as ports_text},
};

/// Show local ports per destination: used, rates, time until none is left
///
/// Traces for 5s to measure the rates.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Without the privilege to trace it takes one snapshot: levels and budgets, no rates.")]
pub struct PortsArgs {
    /// Measure for this time; default 5s, or until Ctrl-C with --interval. Of a recording, read only this much
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Print a snapshot at this interval and one at the end; without it only the last
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Print only the translated ports of gateways (SNAT, masquerade)
    #[arg(long)]
    nat: bool,
    /// Print JSON, one document per snapshot
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Default time to measure: rates are stable after it.
const DURATION: Duration = Duration::from_secs(5);
/// Snapshot interval without `--interval`, when only the last snapshot is printed.
const UNSEEN: Duration = Duration::from_secs(1);
/// Maximum number of destinations in text output.
const MAX_ROWS: usize = 40;
/// Output width if stdout is not a terminal.
const PIPE_WIDTH: u16 = 120;

/// Runs the command.
pub fn run(args: &PortsArgs) -> Result<ExitCode> {
    let filter = args.filters.filter(args.source.recordings())?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let interval = args.interval.unwrap_or(UNSEEN);
        let interval = Nanos(interval.as_nanos() as u64);
        let want = if args.interval.is_some() { SnapshotMode::Every } else { SnapshotMode::Newest };
        let missing = missing(&filter);
        let peer_names = args.source.live.peer_names()?;
        let each = args.source.open_each()?;
        let hosts = if each.len() > 1 { PortsHost::Named } else { PortsHost::Only };
        // Ports are of one host.
        for recordings in each {
            let plan = PipelinePlan {
                polls: PollKind::Ports,
                ..PipelinePlan::new(filter.clone(), Grouping::NONE, Scope::TimewaitSockets, interval)
            };
            let peer_names = Arc::clone(&peer_names);
            let mut started = match args.source.start_on(recordings, peer_names, plan, want, args.duration) {
                Err(error) if args.source.is_live() && super::exit::cannot_trace(&error) => {
                    return args.dump(&filter, missing, &error);
                }
                started => started?,
            };
            let running = |snapshot: &Snapshot| args.running(snapshot, &missing, hosts);
            let (shown, is_stopped) = tokio::select! {
                shown = started.each(args.duration(), running) => (shown, false),
                () = stop.signalled() => (Ok(()), true),
            };
            let last = started.end()?;
            shown.and_then(|()| args.print(&last, &missing, FramePosition::Last, hosts))?;
            if is_stopped {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Whether the name of the host precedes its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortsHost {
    /// There is only one.
    Only,
    /// There are several.
    Named,
}

/// Sentences about information that a filter hides.
fn missing(filter: &Filter) -> Vec<String> {
    let sentence = "with a filter, ports that bind() or listen() took for other connections may be missing: then \
                    fewer are available than shown.";
    if filter.is_everything() { Vec::new() } else { vec![sentence.into()] }
}

impl PortsArgs {
    fn duration(&self) -> Option<Duration> {
        let default = (self.interval.is_none() && self.source.is_live()).then_some(DURATION);
        self.duration.or(default)
    }

    /// Prints an intermediate snapshot if `--interval` is given.
    fn running(&self, snapshot: &Snapshot, missing: &[String], hosts: PortsHost) -> Result<()> {
        if self.interval.is_none() {
            return Ok(());
        }
        self.print(snapshot, missing, FramePosition::Running, hosts)
    }

    /// Prints one `sock_diag` snapshot if tracing is impossible: levels, and what is missing without tracing.
    fn dump(&self, filter: &Filter, mut missing: Vec<String>, error: &anyhow::Error) -> Result<ExitCode> {
        let (options, peer_names) = (self.source.live.name_options(), self.source.live.peer_names()?);
        let facts = HostFacts { bound: bound_ports::is_listed(), ..host::facts() };
        let (snapshot, unseen) = socket_count::snapshot(filter, Grouping::NONE, &facts, &options, peer_names)
            .context("can't search for network namespaces; is /proc mounted?")?;
        let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        missing.push(format!("rates and failed connects, which need tracing: {reason}"));
        missing.extend(unseen);
        self.print(&snapshot, &missing, FramePosition::Last, PortsHost::Only)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(
        &self,
        snapshot: &Snapshot,
        missing: &[String],
        place: FramePosition,
        hosts: PortsHost,
    ) -> Result<()> {
        let mut output = Vec::new();
        if self.json {
            json::write(&mut output, snapshot, missing)?;
        } else {
            let layout = ports_text::PortsLayout {
                tables: if self.nat { ports_text::PortsTables::Nat } else { ports_text::PortsTables::All },
                width: terminal::width().unwrap_or(PIPE_WIDTH),
                max_rows: MAX_ROWS,
                zone: TimeZone::system(),
            };
            if hosts == PortsHost::Named {
                writeln!(output, "{}", text::sanitise(&snapshot.host.host))?;
            }
            ports_text::write(&mut output, snapshot, missing, &layout)?;
            if hosts == PortsHost::Named {
                writeln!(output)?;
            }
            if self.interval.is_some() {
                output = terminal::redraw(output, place);
            }
        }
        Ok(terminal::print(&output)?)
    }
}
