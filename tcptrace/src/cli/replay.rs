//! `tcptrace replay`: top over a recording, with time control.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, error::ErrorKind};
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    config,
    filter::FilterArgs,
    live::{self, Stop},
    progress::Progress,
    source::shown,
    terminal,
};
use crate::{
    aggregate::{Grouping, Scope},
    inspect::Query,
    model::Nanos,
    replay::{self, Player, Wanted},
    sandbox,
    session::Ending,
    view::top::{self, Settings},
};

/// Show top over a recording, and go back and forth in it
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// The recording
    file: PathBuf,
    /// Seconds of the recording per second
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    #[command(flatten)]
    groups: GroupArgs,
    /// Time between two pictures
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::duration)]
    interval: Duration,
    #[command(flatten)]
    filters: FilterArgs,
}

fn speed(text: &str) -> Result<f64, String> {
    let number = text.strip_prefix('x').or(text.strip_suffix('x')).unwrap_or(text);
    let (slowest, fastest) = (0.01, 10_000.0);
    let speed = number.parse().ok().filter(|speed| (slowest..=fastest).contains(speed));
    speed.ok_or_else(|| format!("expected a number from {slowest} to {fastest}"))
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> Result<ExitCode> {
    if args.file == Path::new("-") {
        misuse(
            "replay goes back and forth, which standard input can't: save it to a file first, or use `tcptrace top --from -`",
        );
    }
    if !io::stdout().is_terminal() {
        misuse(&format!(
            "replay needs a terminal; for text use `tcptrace top --from {} --batch N`, `--once` or `--json`",
            shown(&args.file)
        ));
    }
    let filter = args.filters.filter(Some(&args.file))?;
    let wanted = Wanted {
        filter,
        query: Query::new(args.groups.grouping(Grouping::SERVICE)),
        scope: Scope::Minisockets,
        interval: Nanos(args.interval.as_nanos() as u64),
        source: shown(&args.file).into(),
    };
    let settings = Settings::new(&config::read()?, terminal::look(), TimeZone::system());
    sandbox::close(&[&args.file]);
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let file = args.file.clone();
        let reading = tokio::task::spawn_blocking(move || open(&file, wanted));
        let player = tokio::select! {
            player = reading => player.context("reading the recording panicked")??,
            () = stop.signalled() => std::process::exit(0),
        };
        let ending = player.index().ending;
        let drive = replay::drive(player, args.speed).context("no thread for the replay")?;
        let outcome = tokio::select! {
            shown = top::replay(&drive, settings) => shown,
            () = stop.signalled() => Ok(()),
        };
        drive.finish()?;
        if let Some(sentence) = ending.and_then(Ending::sentence) {
            eprintln!("tcptrace: {}: {sentence}", shown(&args.file));
        }
        outcome?;
        Ok(ExitCode::SUCCESS)
    })
}

fn open(path: &Path, wanted: Wanted) -> Result<Player> {
    let mut progress: Option<Progress> = None;
    Player::open(path, wanted, |position, length| {
        progress
            .get_or_insert_with(|| Progress::new(format!("reading {}", shown(path)), Some(length)))
            .at(position);
    })
    .with_context(|| shown(path))
}

/// Ends the process: the arguments can't be followed.
fn misuse(message: &str) -> ! {
    clap::Error::raw(ErrorKind::InvalidValue, format!("{message}\n")).exit()
}
