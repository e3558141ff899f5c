//! `tcptrace top`: which services have how many sockets in which state, now.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    live::{self, LiveArgs, Stop, Wanted},
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    view::top::{self, json, plain},
};

/// Show which services have how many sockets in which state: a live screen, or text
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    groups: GroupArgs,
    /// Print one picture and end: after one interval, so that it has rates
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Print this many pictures, one per interval, and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Time between two pictures
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::duration)]
    interval: Duration,
    /// Print JSON, one document per picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    live: LiveArgs,
}

/// Groups shown in one picture of plain text.
const MAX_GROUPS: usize = 40;

/// Runs the command.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    let filter = args.filters.filter()?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let wanted = Wanted {
            filter,
            grouping: args.groups.grouping(Grouping::SERVICE),
            scope: Scope::Minisockets,
            interval: args.interval,
            events: None,
        };
        let running = live::start(&args.live, wanted)?;
        let show = async {
            let snapshots = running.snapshots.clone();
            if args.wants_screen() {
                top::run(snapshots, terminal::look()).await
            } else {
                args.print(snapshots).await
            }
        };
        let shown = tokio::select! {
            shown = show => shown,
            () = stop.signalled() => Ok(()),
        };
        live::end(running)?;
        shown?;
        Ok(ExitCode::SUCCESS)
    })
}

impl TopArgs {
    fn wants_screen(&self) -> bool {
        !self.once && self.batch.is_none() && !self.json && io::stdout().is_terminal()
    }

    /// Prints pictures until there were enough. The first snapshot has no rates: the next one is
    /// the first to print.
    async fn print(&self, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> io::Result<()> {
        let mut left = if self.once { Some(1) } else { self.batch };
        let layout =
            plain::Layout { width: terminal::width(), max_groups: MAX_GROUPS, zone: TimeZone::system() };
        if snapshots.wait_for(Option::is_some).await.is_err() {
            // The pipeline ended with an error, which the end tells.
            return Ok(());
        }
        while left != Some(0) && snapshots.changed().await.is_ok() {
            let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
            let mut picture = Vec::new();
            if self.json {
                json::write(&mut picture, &snapshot)?;
            } else {
                plain::write(&mut picture, &snapshot, &layout)?;
                if left != Some(1) {
                    picture.push(b'\n');
                }
            }
            let mut out = io::stdout().lock();
            out.write_all(&picture)?;
            out.flush()?;
            left = left.map(|left| left - 1);
        }
        Ok(())
    }
}
