//! `tcptrace states`: counts the sockets of every network namespace that it may enter, those that match a filter, or
//! those of a recording.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;

use super::by::GroupArgs;
use super::filter::FilterArgs;
use super::names::NameArgs;
use super::recordings::{HostOrder, Recordings};
use super::socket_count::{self, SocketCount, unreadable_reason};
use super::source;
use super::window::WindowArgs;
use crate::aggregate::{Grouping, Losses, Scope};
use crate::filter::Filter;
use crate::model::record::HostFacts;
use crate::model::units::plural;
use crate::pipeline::{Engine, NetnsCounts};
use crate::session::AtEnd;
use crate::source::host;
use crate::source::netns::{self, Round};
use crate::source::sock_diag::{self, Summary};
use crate::view::states::{GroupedCounts, States, write_json, write_text};
use crate::view::{explain, losses};

/// Count sockets by state, now
///
/// The network namespace that it runs in needs no privilege, all of them need root.
#[derive(Args, Clone, Debug)]
pub struct StatesArgs {
    /// Explain what each state and many sockets in it mean, and who has to act
    #[arg(long, conflicts_with = "json")]
    pub explain: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Count at the end of a recording: a file, a folder of files, or - for standard input
    ///
    /// Of a file that is being written: at its current end. Repeat it to count the sockets of several hosts.
    #[arg(long, value_name = "FILE")]
    pub(super) from: Vec<PathBuf>,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Runs the command.
pub fn run(args: &StatesArgs) -> anyhow::Result<ExitCode> {
    let filter = args.filters.filter(&args.from)?;
    let grouping = args.groups.grouping(Grouping::NONE);
    let states = if args.from.is_empty() {
        args.window.reject_without_recording();
        count(&filter, grouping, &args.names)?
    } else {
        recorded(args, filter, grouping)?
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

/// Counts at the end of a recording.
fn recorded(args: &StatesArgs, filter: Filter, grouping: Grouping) -> anyhow::Result<States> {
    let peer_names = args.names.peers()?;
    let recordings = Recordings::open(&args.from, AtEnd::Stop)?.watched();
    let engine = Engine::new(filter, grouping, Scope::TimewaitSockets, Arc::clone(recordings.name()));
    let mut engine = engine.with_peer_names(peer_names);
    let endings =
        source::read_to_end(recordings, args.window.window(None), HostOrder::HostByHost, &mut engine)?;
    let last = engine.snapshot();
    eprintln!("{}", losses::at_the_end(&last));
    let groups = GroupedCounts {
        grouping,
        groups: last.groups,
        other_groups: last.other_groups,
        peer_names: last.peer_names,
    };
    Ok(States {
        host: HostFacts::clone(&last.host),
        taken_at: last.ts,
        source: last.source.to_string(),
        netns: engine.counts_by_netns(),
        groups: (!grouping.is_none()).then_some(groups),
        losses: last.losses,
        missing: endings.sentences(),
    })
}

fn count(filter: &Filter, grouping: Grouping, names: &NameArgs) -> anyhow::Result<States> {
    let host = host::facts();
    let taken_at = host::monotonic_now();
    let count = if filter.is_everything() && grouping.is_none() {
        count_all()
    } else {
        socket_count::count(filter, grouping, &host, &names.options(), names.peers()?)
    };
    let SocketCount { round, names_netns, groups, missing: unknown } =
        count.context("can't search for network namespaces; is /proc mounted?")?;
    if round.visited.is_empty() {
        return Err(no_namespace_error(&round));
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
                counted.push(NetnsCounts {
                    host: host.host.clone(),
                    is_own: netns.id.0 == host.netns,
                    id: netns.id,
                    name: netns.name,
                    counts,
                });
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
        missing.push(format!("{} sockets have a format that this version does not know.", all.undecoded));
    }
    if all.interrupted {
        missing.push("the kernel's tables changed during the read: counts may be slightly wrong.".into());
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

/// Counts every socket by state alone, without storing sockets.
fn count_all() -> io::Result<SocketCount> {
    let round = netns::visit_each(|_| true, |_| sock_diag::count_by_state())?;
    Ok(SocketCount { round, names_netns: false, groups: None, missing: Vec::new() })
}

/// Error: no namespace that the filter selects was counted.
fn no_namespace_error<T>(round: &Round<T>) -> anyhow::Error {
    match round.refused.first() {
        Some(refused) => anyhow!("{refused}; run as root"),
        None if round.unreadable_processes > 0 => {
            anyhow!("no such network namespace found; root sees those of every process")
        }
        None => anyhow!("no such network namespace; `ip netns` and `lsns -t net` list them"),
    }
}

/// Gaps in the counts, one sentence per cause.
fn missing<T>(round: &Round<T>) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(first) = round.refused.first() {
        let number =
            plural(round.refused.len() as u64, "other network namespace", "other network namespaces");
        sentences.push(format!("{number} not visited ({}): this needs root (CAP_SYS_ADMIN).", first.source));
    }
    if round.unreadable_processes > 0 {
        let number = plural(round.unreadable_processes.into(), "process", "processes");
        sentences.push(format!("other network namespaces, if any, of {number}: {}.", unreadable_reason()));
    }
    sentences
}
