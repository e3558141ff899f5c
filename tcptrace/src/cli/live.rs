//! What every command that traces has in common: start, signals, the end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    aggregate::{Key, Snapshot},
    filter::Filter,
    kernel::{Hook, Options, preflight::Preflight},
    model::Nanos,
    pipeline::{self, EventSink, Plan, Running},
    source::live::Live,
    view,
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

/// Attaches the hooks and starts the pipeline.
pub fn start(
    args: &LiveArgs,
    filter: Filter,
    key: Key,
    interval: Duration,
    events: Option<Box<dyn EventSink>>,
) -> Result<Running> {
    let types = Preflight::run().types()?;
    let live = Live::start(&types, &args.options(&filter))?;
    // BTF is some ten MiB in memory, and has done its work.
    drop(types);
    let interval = Nanos(interval.as_nanos() as u64);
    let plan = Plan { filter, key, interval, source: Arc::from("live"), events };
    pipeline::start(Box::new(live), plan).context("no thread for the pipeline")
}

/// Says on stderr how the trace went, when it ends.
pub fn end(running: Running) -> Result<Arc<Snapshot>> {
    let last = Arc::new(running.stop()?);
    eprintln!("{}", view::losses::at_the_end(&last));
    Ok(last)
}

/// The loop in which commands wait: one thread, with timers and signals.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no event loop")
}

/// Ctrl-C, SIGTERM and SIGHUP, which all end a command cleanly.
pub struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    /// Signals are caught from now on.
    pub fn listen() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals can't be caught");
        Ok(Self {
            signals: [
                catch(SignalKind::interrupt())?,
                catch(SignalKind::terminate())?,
                catch(SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for one.
    pub async fn signalled(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
