//! `tcptrace doctor`: watches, then says what is wrong and what to do. It never changes anything.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use super::{
    filter::FilterArgs,
    live::{self, Stop},
    source::{Snapshots, SourceArgs, Started, Want},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::nearest,
    model::Nanos,
    pipeline::Plan,
    source::{Look, host, netns},
    view::doctor::{
        diagnose, json,
        text::{self, Detail, Layout},
        truths::{self, Known, TRUTHS, Value},
    },
};

/// Watch for a while, then say what is wrong, who does it, and what to do; never changes anything
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// How long to watch; counters are compared over this time
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = super::duration)]
    watch: Duration,
    /// Tell everything of every finding, with the reasons
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Say what a setting really does, with its value here: its name, or all
    #[arg(long, value_name = "SETTING", conflicts_with_all = ["json", "from"])]
    explain: Option<String>,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Columns where there is no terminal.
const PIPE_WIDTH: u16 = 80;

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if let Some(name) = &args.explain {
        return explain(name);
    }
    let filter = args.filters.filter(args.source.recording())?;
    let grouping: Grouping = "service,process".parse().unwrap_or(Grouping::SERVICE);
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let interval = Nanos(args.watch.as_nanos() as u64);
        let plan = Plan { look: Look::Host, ..Plan::new(filter, grouping, Scope::Minisockets, interval) };
        let mut started = args.source.start(plan, Want::Newest)?;
        tokio::select! {
            () = watch(args, &mut started) => {}
            () = stop.signalled() => {}
        }
        let last = started.end()?;
        let findings = diagnose(&last);
        let mut out = Vec::new();
        if args.json {
            json::write(&mut out, &last, &findings)?;
        } else {
            text::write(&mut out, &last, &findings, layout(args))?;
        }
        terminal::print(&out)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits until the time is up, or the recording ends.
async fn watch(args: &DoctorArgs, started: &mut Started) {
    if !args.source.is_live() {
        return started.ended().await;
    }
    if let Snapshots::Newest(newest) = &mut started.snapshots
        && newest.wait_for(Option::is_some).await.is_ok()
    {
        let seconds = Nanos(args.watch.as_nanos() as u64);
        eprintln!("tcptrace: tracing for {}", crate::model::units::duration(seconds));
        tokio::time::sleep(args.watch).await;
    }
}

fn layout(args: &DoctorArgs) -> Layout {
    Layout {
        width: terminal::width().unwrap_or(PIPE_WIDTH).into(),
        paint: terminal::paint(),
        detail: if args.verbose { Detail::Full } else { Detail::Short },
    }
}

fn explain(name: &str) -> Result<ExitCode> {
    let mut out = Vec::new();
    let wanted: Vec<_> =
        if name == "all" { TRUTHS.iter().collect() } else { truths::find(name).into_iter().collect() };
    if wanted.is_empty() {
        return Err(unknown(name).into());
    }
    let facts = host::facts();
    let places = places();
    for (n, truth) in wanted.into_iter().enumerate() {
        let mut values: Vec<Value> = Vec::new();
        for (place, sysctls) in &places {
            let Some(value) = sysctls.get(truth.name) else { continue };
            // Namespaces like this one go without saying.
            if values.first().is_none_or(|own| own.value != *value) {
                values.push(Value { place: place.clone(), value: value.clone() });
            }
        }
        let lines = facts.sysctl_lines.iter().filter(|line| line.name == truth.name).collect();
        writeln!(out, "{}{}", if n > 0 { "\n" } else { "" }, truth.name)?;
        let width = terminal::width().unwrap_or(PIPE_WIDTH).into();
        truths::write(&mut out, truth, &Known { values, lines }, width)?;
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&out)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}

type Sysctls = std::collections::BTreeMap<String, String>;

/// The settings of every namespace that can be entered, the own one's first.
fn places() -> Vec<(String, Sysctls)> {
    let round = netns::in_each(|_| true, |_| host::sysctls());
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

/// A setting that is not explained.
#[derive(Debug, thiserror::Error)]
#[error("no setting '{name}' is explained here{}; these are: {}", .nearest.as_ref().map(|near| format!(", did you mean {near}?")).unwrap_or_default(), .known.join(", "))]
pub struct UnknownSetting {
    name: String,
    nearest: Option<String>,
    known: Vec<String>,
}

fn unknown(name: &str) -> UnknownSetting {
    let known: Vec<String> = TRUTHS.iter().map(|truth| truths::short(truth.name)).collect();
    let dashed: Vec<String> = known.iter().map(|known| known.replace('_', "-")).collect();
    let nearest = nearest(&truths::short(name), dashed.iter().map(String::as_str));
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
