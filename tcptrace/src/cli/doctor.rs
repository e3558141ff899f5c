//! `tcptrace doctor`: watches the host, then reports problems and their fixes. It changes nothing.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use super::{
    filter::FilterArgs,
    live::{self, Stop},
    source::{SnapshotMode, SnapshotSource, SourceArgs, Started},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::nearest,
    model::{
        Nanos,
        units::{self, parse_duration},
    },
    pipeline::{PipelinePlan, StackPlan},
    source::{PollKind, host, netns},
    view::doctor::{
        diagnose, ids, json,
        sysctl_facts::{self, HostSetting, SYSCTL_FACTS, SettingValue},
        text::{self, Commands, DoctorLayout, FindingDetail},
    },
};

/// Diagnose problems: findings with evidence, process and fix
///
/// It changes nothing.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an argument")]
pub struct DoctorArgs {
    /// Time to watch [default: 10s]; of a recording, read only this much
    ///
    /// Counters are compared over this time; by default all of a recording is read.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    watch: Option<Duration>,
    /// Capture the code that opens and closes connections
    ///
    /// Findings name it. Of a recording they do if it has stacks.
    #[arg(long)]
    stacks: bool,
    /// Show all details of every finding, with the reasons
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Explain what a setting really does: a name, or all
    ///
    /// With its value on this host.
    #[arg(long, value_name = "SETTING", conflicts_with_all = ["json", "from"])]
    explain: Option<String>,
    /// List the ids of all findings
    ///
    /// As `record --when` takes them.
    #[arg(long, conflicts_with_all = ["json", "from", "explain"])]
    list: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Output width if stdout is not a terminal.
const PIPE_WIDTH: u16 = 80;
/// Default watch time.
const DEFAULT_WATCH: Duration = Duration::from_secs(10);

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if args.list {
        let mut out = Vec::new();
        for id in ids() {
            writeln!(out, "{id}")?;
        }
        terminal::print(&out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = &args.explain {
        return explain(name);
    }
    let filter = args.filters.filter(args.source.recordings())?;
    let grouping: Grouping = "service,process".parse().unwrap_or(Grouping::SERVICE);
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let interval = Nanos(args.watch.unwrap_or(DEFAULT_WATCH).as_nanos() as u64);
        let peer_names = args.source.live.peer_names()?;
        // A finding is about one host.
        for (n, recordings) in args.source.open_each()?.into_iter().enumerate() {
            let plan = PipelinePlan {
                polls: PollKind::Host,
                may_only_poll: true,
                stacks: (args.stacks || !args.source.is_live()).then(StackPlan::for_findings),
                ..PipelinePlan::new(filter.clone(), grouping, Scope::TimewaitSockets, interval)
            };
            let peer_names = Arc::clone(&peer_names);
            let mut started =
                args.source.start_on(recordings, peer_names, plan, SnapshotMode::Newest, args.watch)?;
            let is_stopped = tokio::select! {
                () = watch(args, &mut started) => false,
                () = stop.signalled() => true,
            };
            let last = started.end()?;
            let findings = diagnose(&last);
            let mut out = Vec::new();
            if args.json {
                json::write(&mut out, &last, &findings)?;
            } else {
                if n > 0 {
                    out.push(b'\n');
                }
                text::write(&mut out, &last, &findings, layout(args))?;
            }
            terminal::print(&out)?;
            if is_stopped {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits until the watch time has passed or the recording ends.
async fn watch(args: &DoctorArgs, started: &mut Started) {
    if !args.source.is_live() {
        return started.ended().await;
    }
    if let SnapshotSource::Newest(newest) = &mut started.snapshots
        && newest.wait_for(Option::is_some).await.is_ok()
    {
        let watch = args.watch.unwrap_or(DEFAULT_WATCH);
        let seconds = Nanos(watch.as_nanos() as u64);
        eprintln!("tcptrace: tracing for {}", units::duration(seconds));
        tokio::time::sleep(watch).await;
    }
}

fn layout(args: &DoctorArgs) -> DoctorLayout {
    DoctorLayout {
        width: terminal::width().unwrap_or(PIPE_WIDTH).into(),
        paint: terminal::paint(),
        detail: if args.verbose { FindingDetail::Full } else { FindingDetail::Short },
        commands: Commands::Copyable,
    }
}

fn explain(name: &str) -> Result<ExitCode> {
    let mut out = Vec::new();
    let wanted: Vec<_> = if name == "all" {
        SYSCTL_FACTS.iter().collect()
    } else {
        sysctl_facts::find(name).into_iter().collect()
    };
    if wanted.is_empty() {
        return Err(unknown(name).into());
    }
    let facts = host::facts();
    let places = places();
    for (n, truth) in wanted.into_iter().enumerate() {
        let mut values: Vec<SettingValue> = Vec::new();
        for (place, sysctls) in &places {
            let Some(value) = sysctls.get(truth.name) else { continue };
            // Skip namespaces with the same value as this one.
            if values.first().is_none_or(|own| own.value != *value) {
                values.push(SettingValue { place: place.clone(), value: value.clone() });
            }
        }
        let lines = facts.sysctl_lines.iter().filter(|line| line.name == truth.name).collect();
        writeln!(out, "{}{}", if n > 0 { "\n" } else { "" }, truth.name)?;
        let width = terminal::width().unwrap_or(PIPE_WIDTH).into();
        sysctl_facts::write(&mut out, truth, &HostSetting { values, lines }, width)?;
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&out)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}

type Sysctls = std::collections::BTreeMap<String, String>;

/// Settings of every namespace that can be entered, the own one first.
fn places() -> Vec<(String, Sysctls)> {
    let round = netns::visit_each(|_| true, |_| host::sysctls());
    let own = || vec![("this network namespace".to_owned(), host::sysctls())];
    let Ok(round) = round else { return own() };
    let name =
        |netns: &netns::Netns| netns.name.as_ref().map_or_else(|| netns.id.to_string(), ToString::to_string);
    let mut places: Vec<_> = round
        .visited
        .into_iter()
        .map(|(netns, sysctls)| (format!("netns {}", name(&netns)), sysctls))
        .collect();
    match places.first_mut() {
        Some((place, _)) => "this network namespace".clone_into(place),
        None => return own(),
    }
    places
}

/// Error: `--explain` names a setting that has no explanation.
#[derive(Debug, thiserror::Error)]
#[error("no setting '{name}' is explained here{}; these are: {}", .nearest.as_ref().map(|near| format!(", did you mean {near}?")).unwrap_or_default(), .known.join(", "))]
pub struct UnknownSetting {
    name: String,
    nearest: Option<String>,
    known: Vec<String>,
}

fn unknown(name: &str) -> UnknownSetting {
    let known: Vec<String> = SYSCTL_FACTS.iter().map(|truth| sysctl_facts::short(truth.name)).collect();
    let dashed: Vec<String> = known.iter().map(|known| known.replace('_', "-")).collect();
    let nearest = nearest(&sysctl_facts::short(name), dashed.iter().map(String::as_str));
    UnknownSetting {
        name: crate::model::text::sanitise(name).into_owned(),
        nearest: nearest.map(|near| near.replace('-', "_")),
        known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_setting_gets_a_suggestion() {
        let message = unknown("tcp_tw_resue").to_string();
        assert!(message.contains("did you mean tcp_tw_reuse?"), "{message}");
        assert!(message.contains("tcp_max_tw_buckets"), "{message}");
        assert!(!unknown("banana\x1b").to_string().contains('\x1b'));
    }
}
