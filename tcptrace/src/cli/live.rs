//! What every command that traces has in common: its arguments, signals, the end.

use std::{io, os::fd::AsFd, sync::mpsc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    filter::Filter,
    kernel::{Hook, LoadError, Options, preflight::CannotTrace, preflight::Preflight},
    privileges::{self, Work},
    source::{Look, Source, live::Live, still::Still},
};

/// Arguments of every command that traces.
#[derive(Clone, Debug, clap::Args)]
pub struct LiveArgs {
    /// Size of the ring buffers between kernel and tcptrace together, in MiB: a power of two
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = ring_mib, hide_short_help = true)]
    ring_size: u32,
    /// Trace as on a kernel that lacks a hook (for tests): segment, entry-stamp, kallsyms. Without everything: the
    /// programs run and report nothing, which shows what the hooks cost
    #[arg(long, value_name = "HOOK", value_delimiter = ',', hide = true)]
    without: Vec<Lacking>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Lacking {
    Segment,
    EntryStamp,
    Kallsyms,
    Everything,
}

fn ring_mib(text: &str) -> Result<u32, String> {
    let mib: u32 = text.parse().map_err(|_| format!("'{text}' is not a number"))?;
    if mib.is_power_of_two() && mib <= 1024 {
        Ok(mib)
    } else {
        Err("expected a power of two up to 1024".into())
    }
}

impl LiveArgs {
    /// Attaches the hooks, with what of `filter` they can test.
    pub fn open(&self, filter: &Filter, look: Look) -> Result<Live> {
        let types = Preflight::run().types()?;
        // BTF is some ten MiB in memory, and has done its work when this returns.
        Live::start(&types, &self.options(filter), filter.to_string(), look)
    }

    /// The same; where nothing may be traced and a look will do, a look from time to time.
    pub fn source(&self, filter: &Filter, look: Look) -> Result<Box<dyn Source>> {
        let error = match self.open(filter, look) {
            Ok(live) => return Ok(Box::new(live)),
            Err(error) => error,
        };
        if look == Look::States || !(error.is::<CannotTrace>() || error.is::<LoadError>()) {
            return Err(error);
        }
        let reasons = error.to_string();
        // One reason a line: what is missing, and what for.
        let reasons: Vec<&str> = reasons.lines().skip(1).filter_map(|line| line.strip_prefix("  ")).collect();
        let why = reasons.iter().filter_map(|reason| reason.split(':').next()).collect::<Vec<_>>().join(", ");
        let why = if why.is_empty() { error.to_string() } else { why };
        Ok(Box::new(Still::start(&filter.kernel_part(), filter.to_string(), &why)?))
    }

    fn options(&self, filter: &Filter) -> Options {
        let hook = |lacking| if self.without.contains(&lacking) { Hook::Off } else { Hook::Auto };
        Options {
            ring_bytes: self.ring_size << 20,
            segments: hook(Lacking::Segment),
            entry_stamp: hook(Lacking::EntryStamp),
            kallsyms: hook(Lacking::Kallsyms),
            reports: hook(Lacking::Everything),
            filter: filter.kernel_part(),
        }
    }
}

/// Descriptors without which there is not even a loop to wait in; what the rest takes is told where it is opened.
const FEWEST_DESCRIPTORS: u64 = 20;

/// Takes as many descriptors as the user may have; an error when these are too few.
fn enough_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // What can't be raised stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        now >= FEWEST_DESCRIPTORS,
        "Too many open files: this process may have {now} at a time, and tracing takes about 40; raise `ulimit -n`"
    );
    Ok(())
}

/// The loop in which commands wait: one thread, with timers and signals.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    enough_descriptors()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no event loop")
}

/// Ends after `duration`; without one it never does.
pub async fn time_is_up(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C, SIGTERM and SIGHUP, which all end a command cleanly.
///
/// They are caught on a thread of their own: a command that hangs in a write, because nobody reads its
/// output, must not hang for ever.
pub struct Stop {
    /// How many came.
    signals: watch::Receiver<u32>,
}

/// Who sees to it that a command which was asked to end does end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterSignal {
    /// The thread that catches signals: on the second one, or when [`PATIENCE`] is over.
    EndSoon,
    /// The command itself, which is told of the second one.
    EndItself,
}

/// How long a command that was asked to end waits for somebody to take its output. What it does itself may take longer, on
/// a slow machine; a second signal ends it at once.
const PATIENCE: Duration = Duration::from_secs(3);

impl Stop {
    /// Signals are caught from now on. What is left after the first one is output for somebody to take.
    pub fn listen() -> Result<Self> {
        Self::listen_and(AfterSignal::EndSoon)
    }

    /// The same for a command that has more to do at its end than to print: it takes the time it needs.
    pub fn listen_patiently() -> Result<Self> {
        Self::listen_and(AfterSignal::EndItself)
    }

    fn listen_and(then: AfterSignal) -> Result<Self> {
        let (tell, signals) = watch::channel(0);
        let (ready, is_ready) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                privileges::keep_for(Work::Nothing);
                watch_signals(then, &tell, &ready);
            })
            .context("no thread for signals")?;
        is_ready.recv().context("the thread for signals ended")??;
        Ok(Self { signals })
    }

    /// Waits for one.
    pub async fn signalled(&mut self) {
        self.signalled_times(1).await;
    }

    /// Waits for another one after the first.
    pub async fn signalled_again(&mut self) {
        self.signalled_times(2).await;
    }

    async fn signalled_times(&mut self, times: u32) {
        if self.signals.wait_for(|&signals| signals >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn watch_signals(then: AfterSignal, tell: &watch::Sender<u32>, ready: &mpsc::SyncSender<Result<()>>) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let mut signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let _ = ready.send(Ok(()));
        signals.next().await;
        // Nobody listens when the command is ending already.
        let _ = tell.send(1);
        if then == AfterSignal::EndItself {
            signals.next().await;
            let _ = tell.send(2);
        }
        let what = signals.lost_patience().await;
        if !is_stuck(io::stderr()) {
            eprintln!("tcptrace: ended before {what}");
        }
        std::process::exit(1);
    });
}

/// The signals that end a command.
struct Signals([Signal; 3]);

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals can't be caught");
        Ok(Self([
            catch(SignalKind::interrupt())?,
            catch(SignalKind::terminate())?,
            catch(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// Waits until a command that was asked to end has to be ended; says before what.
    async fn lost_patience(&mut self) -> &'static str {
        loop {
            let asked_again = tokio::select! {
                () = self.next() => true,
                () = tokio::time::sleep(PATIENCE) => false,
            };
            match (is_stuck(io::stdout()) || is_stuck(io::stderr()), asked_again) {
                (true, _) => return "all of the output was taken: its reader is too slow",
                (false, true) => return "it was done: asked twice",
                (false, false) => {}
            }
        }
    }
}

/// Whether what is written to `out` now would wait for a reader.
fn is_stuck(out: impl AsFd) -> bool {
    let mut ready = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::OUT)];
    // An error, or a reader that is gone: a write ends at once.
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
}
