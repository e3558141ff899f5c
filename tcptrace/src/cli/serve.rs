//! `tcptrace serve`: metrics for Prometheus, as long as it runs.

use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::{Args, error::ErrorKind};
use hyper::{StatusCode, body::Bytes};
use tokio::sync::watch;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    live::{self, LiveArgs, Stop},
    source::{SourceArgs, Want},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    http::{self, Page},
    model::Nanos,
    pipeline::Plan,
    source::own_cost,
    view::metrics::{self, Shown},
};

/// Serve metrics to Prometheus: /metrics, and /healthz, which is ready when all sockets are known
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where to listen. Whoever can connect sees whom this host talks to
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9435")]
    listen: SocketAddr,
    /// Services, and destinations of the port budget, that have metrics of their own
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = most)]
    most: u16,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Only to say that it is not for this command
    #[arg(long, value_name = "FILE", hide = true)]
    from: Option<PathBuf>,
    #[command(flatten)]
    live: LiveArgs,
}

/// What is served is never older.
const INTERVAL: Nanos = Nanos::SECOND;
/// Groups in one snapshot by each ranking: more could not be told.
const MOST: u16 = 250;

fn most(text: &str) -> Result<u16, String> {
    let expected = || format!("expected a number up to {MOST}");
    text.parse().ok().filter(|&n| n <= MOST).ok_or_else(expected)
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    if args.from.is_some() {
        let message = "serve is about the running kernel: a recording does not change.\n\
                       For its numbers: tcptrace report FILE --json, tcptrace hist --from FILE --json\n";
        clap::Error::raw(ErrorKind::ArgumentConflict, message).exit();
    }
    let filter = args.filters.filter(None)?;
    let grouping = args.groups.grouping(Grouping::SERVICE);
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        // First: nothing is traced when the port is taken.
        let listener = TcpListener::bind(args.listen)
            .with_context(|| format!("can't listen on {}; another port: --listen", args.listen))?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            eprintln!(
                "tcptrace: warning: {address} is not loopback: whoever can connect sees whom this host talks to; \
                 there is neither encryption nor a password"
            );
        }
        let plan = Plan {
            places: args.most.into(),
            ..Plan::new(filter, grouping, Scope::Roles, INTERVAL)
        };
        let mut started = SourceArgs::running_kernel(args.live.clone()).start(plan, Want::Newest)?;
        eprintln!("tcptrace: serving metrics at http://{address}/metrics");
        let pages = Pages::new(started.running.snapshots.clone());
        let served = tokio::select! {
            served = http::serve(listener, move |path| pages.page(path)) => served.context("can't serve"),
            () = stop.signalled() => Ok(()),
            () = started.ended() => Ok(()),
        };
        started.end()?;
        served?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The pages, made once per snapshot however often somebody asks.
struct Pages {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    made: RefCell<Option<(Nanos, Bytes)>>,
}

impl Pages {
    fn new(snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        Self { snapshots, made: RefCell::default() }
    }

    fn page(&self, path: &str) -> Page {
        match path {
            "/metrics" => self.metrics(),
            "/healthz" if self.snapshots.borrow().is_some() => Page::text(StatusCode::OK, "ready\n"),
            "/healthz" => not_ready(),
            _ => Page::text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }

    fn metrics(&self) -> Page {
        let Some(snapshot) = self.snapshots.borrow().clone() else { return not_ready() };
        let mut made = self.made.borrow_mut();
        let body = match &*made {
            Some((ts, body)) if *ts == snapshot.ts => body.clone(),
            _ => {
                let ts = snapshot.ts;
                let mut text = String::new();
                let shown = Shown { snapshot, cost: own_cost::now() };
                if metrics::write(&mut text, shown).is_err() {
                    return Page::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n");
                }
                let body = Bytes::from(text);
                *made = Some((ts, body.clone()));
                body
            }
        };
        Page { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body }
    }
}

fn not_ready() -> Page {
    Page::text(StatusCode::SERVICE_UNAVAILABLE, "the sockets that were there before are still being read\n")
}
