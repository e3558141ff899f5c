//! `tcptrace states`: counts every socket of every network namespace it may enter, or those that match a filter.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;

use super::by::GroupArgs;
use super::census::{self, Census};
use super::filter::FilterArgs;
use crate::aggregate::Grouping;
use crate::source::host;
use crate::source::netns::{self, Round};
use crate::source::sock_diag::{self, Summary};
use crate::view::explain;
use crate::view::states::{NetnsStates, States, write_json, write_text};

/// Count sockets by state, now. Needs no privilege for the own network namespace, root for all
#[derive(Args, Clone, Debug)]
pub struct StatesArgs {
    /// Say of every state what it means, what many of them mean, and who has to act
    #[arg(long, conflicts_with = "json")]
    pub explain: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Runs the command.
pub fn run(args: &StatesArgs) -> anyhow::Result<ExitCode> {
    let states = count(args)?;
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

fn count(args: &StatesArgs) -> anyhow::Result<States> {
    let filter = args.filters.filter()?;
    let grouping = args.groups.grouping(Grouping::NONE);
    let host = host::facts();
    let taken_at = host::monotonic_now();
    let census = if filter.is_everything() && grouping.is_none() {
        count_all()
    } else {
        census::count(&filter, grouping, &host)
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
        decode_errors: all.undecoded,
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
        let number = plural(round.refused.len(), "other network namespace", "other network namespaces");
        sentences.push(format!("{number} not visited ({}): that takes root (CAP_SYS_ADMIN).", first.source));
    }
    if round.unreadable_processes > 0 {
        let number = plural(round.unreadable_processes as usize, "process", "processes");
        sentences.push(format!(
            "other network namespaces, if any, of {number}: only root (CAP_SYS_PTRACE) may look there."
        ));
    }
    sentences
}

fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
