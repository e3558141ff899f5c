//! `tcptrace replay`: top over a recording, with time control.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    by::GroupArgs,
    config,
    exit::misuse,
    filter::FilterArgs,
    live::{self, Stop},
    names::PeerNameArgs,
    progress::Progress,
    recording::shown,
    terminal,
    window::WindowArgs,
};
use crate::{
    aggregate::{Grouping, Scope, detail::Query},
    model::{Nanos, units::parse_duration},
    replay::{self, Player, SeekTarget},
    sandbox,
    session::{Ending, Input},
    view::top::{self, ScreenSettings},
};

/// Show a recording in the top screen, with time control
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// The recording
    file: PathBuf,
    /// Speed: seconds of the recording per second
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    #[command(flatten)]
    groups: GroupArgs,
    /// Refresh interval
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    peers: PeerNameArgs,
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
            "replay must seek, and standard input can't: save it to a file first, or use `tcptrace top --from -`",
        );
    }
    if !terminal::can_place_cursor() {
        misuse(&format!(
            "replay needs a terminal that can place its cursor (TERM=dumb can't); for text use `tcptrace top --from {} --batch N`, `--once` or `--json`",
            shown(&args.file)
        ));
    }
    let filter = args.filters.filter(std::slice::from_ref(&args.file))?;
    let wanted = SeekTarget {
        filter,
        query: Query::new(args.groups.grouping(Grouping::SERVICE)),
        scope: Scope::TimewaitSockets,
        interval: Nanos(args.interval.as_nanos() as u64),
        source: shown(&args.file).into(),
        peer_names: args.peers.read()?,
        window: args.window.window(None),
    };
    let settings = ScreenSettings::new(&config::read()?, terminal::style(), TimeZone::system());
    let input = Input::open(&args.file).with_context(|| shown(&args.file))?;
    sandbox::confine();
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let file = args.file.clone();
        let reading = tokio::task::spawn_blocking(move || open(&file, input, wanted));
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

fn open(path: &Path, input: Input, wanted: SeekTarget) -> Result<Player> {
    let mut progress: Option<Progress> = None;
    Player::open(input, wanted, |position, length| {
        progress
            .get_or_insert_with(|| Progress::new(format!("reading {}", shown(path)), Some(length)))
            .at(position);
    })
    .with_context(|| shown(path))
}
