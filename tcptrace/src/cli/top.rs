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
    filter::FilterArgs,
    live::{self, LiveArgs, Stop},
};
use crate::{
    aggregate::{Key, Snapshot},
    view::top::{self, json, plain},
};

/// Show which services have how many sockets in which state: a live screen, or text
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// What to group by
    #[arg(long, value_name = "KEY", default_value = "service", value_parser = key)]
    by: Key,
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

fn key(name: &str) -> Result<Key, String> {
    Key::from_name(name).ok_or_else(|| {
        format!("unknown key; expected one of {}", Key::names().collect::<Vec<_>>().join(", "))
    })
}

/// Groups shown in one picture of plain text.
const MAX_GROUPS: usize = 40;

/// Runs the command.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    let filter = args.filters.filter()?;
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let running = live::start(&args.live, filter, args.by, args.interval, None)?;
        let show = async {
            let snapshots = running.snapshots.clone();
            if args.wants_screen() { top::run(snapshots, look()).await } else { args.print(snapshots).await }
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
            plain::Layout { width: terminal_width(), max_groups: MAX_GROUPS, zone: TimeZone::system() };
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

/// What the terminal can show, as the environment says.
fn look() -> top::Look {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
    top::Look::new(variable("NO_COLOR").as_deref(), variable("TERM").as_deref(), locale.as_deref())
}

/// Columns of the terminal that text goes to; `None` for a file or a pipe.
fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|&columns| columns > 0)
}
