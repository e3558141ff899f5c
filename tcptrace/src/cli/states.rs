//! `tcptrace states`: counts every socket of every network namespace it may enter, those that match a filter, or what
//! a recording tells.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;

use super::by::GroupArgs;
use super::census::{self, Census, why_unreadable};
use super::filter::FilterArgs;
use super::source::{self, shown};
use crate::aggregate::{Grouping, Losses, Scope};
use crate::filter::Filter;
use crate::model::record::HostFacts;
use crate::model::units::plural;
use crate::pipeline::Engine;
use crate::sandbox;
use crate::session::Ending;
use crate::source::host;
use crate::source::netns::{self, Round};
use crate::source::sock_diag::{self, Summary};
use crate::view::states::{Groups, NetnsStates, States, write_json, write_text};
use crate::view::{explain, losses};

/// Count sockets by state, now. Needs no privilege for the own network namespace, root for all
#[derive(Args, Clone, Debug)]
pub struct StatesArgs {
    /// Say of every state what it means, what many of them mean, and who has to act
    #[arg(long, conflicts_with = "json")]
    pub explain: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Count at the end of a recording, or of what is in it by now; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Runs the command.
pub fn run(args: &StatesArgs) -> anyhow::Result<ExitCode> {
    let filter = args.filters.filter(args.from.as_deref())?;
    let grouping = args.groups.grouping(Grouping::NONE);
    let states = match &args.from {
        None => count(&filter, grouping)?,
        Some(path) => recorded(path, filter, grouping)?,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        write_json(&states, &mut out)?;
    } else {
        write_text(&states, &mut out)?;
    }
    if args.explain {
        explain::write(&mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What a recording tells of its last moment.
fn recorded(path: &Path, filter: Filter, grouping: Grouping) -> anyhow::Result<States> {
    sandbox::close(&[path]);
    let mut engine = Engine::new(filter, grouping, Scope::Minisockets, shown(path).into());
    let ending = source::read_to_end(path, &mut engine)?;
    let last = engine.snapshot();
    eprintln!("{}", losses::at_the_end(&last));
    let netns =
        engine.counts_by_netns().into_iter().map(|(id, name, counts)| NetnsStates { id, name, counts });
    let groups = Groups { grouping, groups: last.groups, other_groups: last.other_groups };
    Ok(States {
        host: HostFacts::clone(&last.host),
        taken_at: last.ts,
        source: last.source.to_string(),
        netns: netns.collect(),
        groups: (!grouping.is_none()).then_some(groups),
        losses: last.losses,
        missing: ending.and_then(Ending::sentence).into_iter().collect(),
    })
}

fn count(filter: &Filter, grouping: Grouping) -> anyhow::Result<States> {
    let host = host::facts();
    let taken_at = host::monotonic_now();
    let census = if filter.is_everything() && grouping.is_none() {
        count_all()
    } else {
        census::count(filter, grouping, &host)
    };
    let Census { round, names_netns, groups, missing: unknown } =
        census.context("can't look for network namespaces; is /proc mounted?")?;
    if round.visited.is_empty() {
        return Err(nothing_to_count(&round));
    }

    let mut missing = if names_netns { Vec::new() } else { missing(&round) };
    missing.extend(unknown);
    let mut all = Summary::default();
    let mut counted = Vec::with_capacity(round.visited.len());
    let mut failure = None;
    for (netns, result) in round.visited {
        match result {
            Ok((counts, summary)) => {
                all = all.and(summary);
                counted.push(NetnsStates { id: netns.id, name: netns.name, counts });
            }
            Err(error) => {
                missing.push(format!("network namespace {} was not counted: {error}.", netns.id));
                failure = Some(error);
            }
        }
    }
    if let (true, Some(error)) = (counted.is_empty(), failure) {
        return Err(error.into());
    }
    if all.undecoded > 0 {
        missing
            .push(format!("{} sockets were described in a way this version does not know.", all.undecoded));
    }
    if all.interrupted {
        missing.push("the kernel's tables changed while they were read: counts may be a little off.".into());
    }
    Ok(States {
        host,
        taken_at,
        source: "live".into(),
        netns: counted,
        groups,
        losses: Losses { decode_errors: all.undecoded, ..Losses::default() },
        missing,
    })
}

/// Every socket, by its state alone: nothing is kept of them.
fn count_all() -> io::Result<Census> {
    let round = netns::in_each(|_| true, |_| sock_diag::count_by_state())?;
    Ok(Census { round, names_netns: false, groups: None, missing: Vec::new() })
}

/// Why none of the namespaces that were asked for was counted.
fn nothing_to_count<T>(round: &Round<T>) -> anyhow::Error {
    match round.refused.first() {
        Some(refused) => anyhow!("{refused}; run as root"),
        None if round.unreadable_processes > 0 => {
            anyhow!("no such network namespace in sight; root sees those of every process")
        }
        None => anyhow!("no such network namespace; `ip netns` and `lsns -t net` list them"),
    }
}

/// What was left out, a sentence for each cause.
fn missing<T>(round: &Round<T>) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(first) = round.refused.first() {
        let number =
            plural(round.refused.len() as u64, "other network namespace", "other network namespaces");
        sentences.push(format!("{number} not visited ({}): that takes root (CAP_SYS_ADMIN).", first.source));
    }
    if round.unreadable_processes > 0 {
        let number = plural(round.unreadable_processes.into(), "process", "processes");
        sentences.push(format!("other network namespaces, if any, of {number}: {}.", why_unreadable()));
    }
    sentences
}
