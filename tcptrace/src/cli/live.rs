//! What every command that traces has in common: its arguments, signals, the end.

use std::{sync::mpsc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    filter::Filter,
    kernel::{Hook, Options, preflight::Preflight},
    source::{Look, live::Live},
};

/// Arguments of every command that traces.
#[derive(Clone, Debug, clap::Args)]
pub struct LiveArgs {
    /// Size of the ring buffer between kernel and tcptrace, in MiB: a power of two
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = ring_mib, hide_short_help = true)]
    ring_size: u32,
    /// Trace as on a kernel that lacks a hook (for tests): segment, entry-stamp, kallsyms
    #[arg(long, value_name = "HOOK", value_delimiter = ',', hide = true)]
    without: Vec<Lacking>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Lacking {
    Segment,
    EntryStamp,
    Kallsyms,
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

    fn options(&self, filter: &Filter) -> Options {
        let hook = |lacking| if self.without.contains(&lacking) { Hook::Off } else { Hook::Auto };
        Options {
            ring_bytes: self.ring_size << 20,
            segments: hook(Lacking::Segment),
            entry_stamp: hook(Lacking::EntryStamp),
            kallsyms: hook(Lacking::Kallsyms),
            filter: filter.kernel_part(),
        }
    }
}

/// The loop in which commands wait: one thread, with timers and signals.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no event loop")
}

/// Ctrl-C, SIGTERM and SIGHUP, which all end a command cleanly.
///
/// They are caught on a thread of their own: a command that hangs in a write, because nobody reads its
/// output, must not hang for ever.
pub struct Stop {
    signalled: watch::Receiver<bool>,
}

/// How long a command may take to end; a second signal ends it at once.
const PATIENCE: Duration = Duration::from_secs(3);

impl Stop {
    /// Signals are caught from now on.
    pub fn listen() -> Result<Self> {
        let (tell, signalled) = watch::channel(false);
        let (ready, is_ready) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch_signals(&tell, &ready))
            .context("no thread for signals")?;
        is_ready.recv().context("the thread for signals ended")??;
        Ok(Self { signalled })
    }

    /// Waits for one.
    pub async fn signalled(&mut self) {
        if self.signalled.wait_for(|&signalled| signalled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn watch_signals(tell: &watch::Sender<bool>, ready: &mpsc::SyncSender<Result<()>>) {
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
        let _ = tell.send(true);
        tokio::select! {
            () = signals.next() => {}
            () = tokio::time::sleep(PATIENCE) => {}
        }
        eprintln!("tcptrace: ended before all of the output was taken: its reader is too slow");
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
}
