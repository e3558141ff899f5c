//! `tcptrace states`: counts every socket of every network namespace it may enter.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;

use super::by::GroupArgs;
use crate::aggregate::{self, Aggregate, Grouping, Names, Scope};
use crate::lifecycle::{Limits, Tracker};
use crate::model::{Record, record::HostFacts};
use crate::source::census::{self, Counted, Owners};
use crate::source::host;
use crate::source::netns::{self, Netns, Round};
use crate::source::sock_diag::{self, Summary};
use crate::view::explain;
use crate::view::states::{Groups, NetnsStates, States, write_json, write_text};

/// Count sockets by state, now. Needs no privilege for the own network namespace, root for all
#[derive(Args, Clone, Debug)]
pub struct StatesArgs {
    /// Say of every state what it means, what many of them mean, and who has to act
    #[arg(long, conflicts_with = "json")]
    pub explain: bool,
    #[command(flatten)]
    groups: GroupArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Count one network namespace only: its name in `ip netns`, or its inode number
    #[arg(long, value_name = "NAME|INUM")]
    pub netns: Option<String>,
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

/// Counts by state, and by group where that is asked for.
fn count(args: &StatesArgs) -> anyhow::Result<States> {
    let wanted = args.netns.as_deref();
    let host = host::facts();
    let taken_at = host::monotonic_now();
    let is_wanted = |netns: &Netns| wanted.is_none_or(|wanted| is_called(netns, wanted));
    let failed = "can't look for network namespaces; is /proc mounted?";
    let (round, groups) = if args.groups.is_given() {
        let grouping = args.groups.grouping(Grouping::SERVICE);
        let owners = if grouping.needs_owners() { Owners::Wanted } else { Owners::Unwanted };
        let mut grouped = Grouped::new(grouping);
        let census =
            census::take(is_wanted, owners, &host, &mut |record| grouped.take(record)).context(failed)?;
        (census.round, Some(grouped.groups(&host, census.unreadable_processes)))
    } else {
        let round = netns::in_each(is_wanted, |_| sock_diag::count_by_state()).context(failed)?;
        (round, None)
    };
    if let Some(wanted) = wanted {
        must_be_counted(wanted, &round)?;
    }
    let mut missing = if wanted.is_some() { Vec::new() } else { missing(&round) };
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
        groups: groups.map(|(groups, sentence)| {
            missing.extend(sentence);
            groups
        }),
        decode_errors: all.undecoded,
        missing,
    })
}

/// Sockets on their way into groups.
struct Grouped {
    tracker: Tracker,
    aggregate: Aggregate,
    names: Names,
}

impl Grouped {
    fn new(grouping: Grouping) -> Self {
        Self {
            tracker: Tracker::new(Limits::default()),
            aggregate: Aggregate::new(grouping, Scope::Minisockets),
            names: Names::default(),
        }
    }

    fn take(&mut self, record: &Record) {
        self.names.take(record);
        self.tracker.take(record, &mut self.aggregate);
    }

    /// The groups, and what is missing in them.
    fn groups(mut self, host: &HostFacts, unreadable_processes: u32) -> (Groups, Option<String>) {
        let context = aggregate::Context { host: Arc::new(host.clone()), ..aggregate::Context::default() };
        let snapshot = self.aggregate.snapshot(host::monotonic_now(), &self.tracker, &self.names, context);
        let groups = Groups {
            grouping: snapshot.grouping,
            groups: snapshot.groups,
            other_groups: snapshot.other_groups,
        };
        let sentence = (unreadable_processes > 0).then(|| {
            let number = plural(unreadable_processes as usize, "process", "processes");
            format!("the sockets of {number}, if any, have no owner here: that takes root (CAP_SYS_PTRACE).")
        });
        (groups, sentence)
    }
}

fn is_called(netns: &Netns, wanted: &str) -> bool {
    netns.name.as_deref() == Some(wanted) || wanted.parse() == Ok(netns.id.0)
}

/// Fails when the one namespace that was asked for could not be counted.
fn must_be_counted(wanted: &str, round: &Round<Counted>) -> anyhow::Result<()> {
    if !round.visited.is_empty() {
        return Ok(());
    }
    match round.refused.first() {
        Some(refused) => bail!("{refused}; run as root"),
        None if round.unreadable_processes > 0 => {
            bail!("no network namespace '{wanted}' in sight; root sees those of every process")
        }
        None => bail!("no network namespace '{wanted}'; `ip netns` and `lsns -t net` list them"),
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
