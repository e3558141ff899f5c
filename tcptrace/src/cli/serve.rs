//! `tcptrace serve`: serves metrics to Prometheus.

use std::{cell::RefCell, fmt, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use clap::{Args, error::ErrorKind};
use hyper::{StatusCode, body::Bytes};
use tokio::sync::watch;

use super::{
    by::GroupArgs,
    filter::FilterArgs,
    listen::{self, Listen},
    live::{self, LiveArgs, Stop},
    source::{SnapshotMode, SourceArgs},
};
use crate::{
    aggregate::{Grouping, Scope, Snapshot},
    http::{self, HttpRequest, Page},
    model::Nanos,
    pipeline::PipelinePlan,
    source::own_cost,
    view::metrics::{
        self, MetricsInput,
        format::{MetricsFormat, to_text},
    },
};

/// Serve metrics to Prometheus
///
/// /metrics, and /healthz, which is ready once all sockets are known.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Listen address; :PORT is every address
    ///
    /// Every client that can connect sees the peers of this host.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9435", value_parser = listen::parse)]
    listen: Listen,
    /// Number of services, and of destinations, with metrics of their own
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = most)]
    most: u16,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Rejected with an error: this command reads no recording
    #[arg(long, value_name = "FILE", hide = true)]
    from: Option<PathBuf>,
    #[command(flatten)]
    live: LiveArgs,
}

/// Snapshot interval: the maximum age of the served metrics.
const INTERVAL: Nanos = Nanos::SECOND;
/// Upper limit of `--most`: a snapshot holds this many groups per ranking.
const MOST: u16 = 250;

fn most(text: &str) -> Result<u16, String> {
    let expected = || format!("expected a number up to {MOST}");
    text.parse().ok().filter(|&n| n <= MOST).ok_or_else(expected)
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    if args.from.is_some() {
        let message = "serve reads the running kernel only: a recording does not change.\n\
                       For its numbers: tcptrace report FILE --json, tcptrace hist --from FILE --json\n";
        clap::Error::raw(ErrorKind::ArgumentConflict, message).exit();
    }
    let filter = args.filters.filter(&[])?;
    let grouping = args.groups.grouping(Grouping::SERVICE);
    live::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        // Bind first: a port in use fails before tracing starts.
        let listener = args.listen.bind()?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            eprintln!(
                "tcptrace: warning: {address} is not loopback: every client that can connect sees the peers of this host; \
                 there is neither encryption nor a password"
            );
        }
        let plan = PipelinePlan {
            places: args.most.into(),
            ..PipelinePlan::new(filter, grouping, Scope::Roles, INTERVAL)
        };
        let mut started = SourceArgs::running_kernel(args.live.clone()).start(plan, SnapshotMode::Newest, None)?;
        eprintln!("tcptrace: serving metrics at http://{address}/metrics");
        let pages = Pages::new(started.running.snapshots.clone());
        let served = tokio::select! {
            served = http::serve(listener, move |request| pages.page(request)) => served.context("can't serve"),
            () = stop.signalled() => Ok(()),
            () = started.ended() => Ok(()),
        };
        started.end()?;
        served?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Renders the metrics page once per snapshot, however many requests arrive.
struct Pages {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    made: RefCell<Option<RenderedPages>>,
}

/// The metrics page of one snapshot in both formats.
struct RenderedPages {
    ts: Nanos,
    open_metrics: Bytes,
    text: Bytes,
}

impl RenderedPages {
    fn of(snapshot: Arc<Snapshot>) -> Result<Self, fmt::Error> {
        let ts = snapshot.ts;
        let mut page = String::new();
        metrics::write(&mut page, MetricsInput { snapshot, cost: own_cost::now() })?;
        let text = to_text(&page).into();
        Ok(Self { ts, open_metrics: page.into(), text })
    }

    fn body(&self, format: MetricsFormat) -> Bytes {
        match format {
            MetricsFormat::OpenMetrics => self.open_metrics.clone(),
            MetricsFormat::Text => self.text.clone(),
        }
    }
}

/// The page at `/`.
const INDEX: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>tcptrace</title></head><body>\n\
                     <h1>tcptrace</h1>\n<ul>\n<li><a href=\"/metrics\">/metrics</a>: metrics for Prometheus</li>\n\
                     <li><a href=\"/healthz\">/healthz</a>: whether all sockets are known</li>\n</ul>\n\
                     </body></html>\n";

impl Pages {
    fn new(snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        Self { snapshots, made: RefCell::default() }
    }

    fn page(&self, request: &HttpRequest<'_>) -> Page {
        match request.path {
            "/" => Page::html(INDEX),
            "/metrics" => self.metrics(MetricsFormat::accepted(request.accept)),
            "/healthz" if self.snapshots.borrow().is_some() => Page::text(StatusCode::OK, "ready\n"),
            "/healthz" => not_ready(),
            _ => Page::text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }

    fn metrics(&self, format: MetricsFormat) -> Page {
        let Some(snapshot) = self.snapshots.borrow().clone() else { return not_ready() };
        let mut made = self.made.borrow_mut();
        if made.as_ref().is_none_or(|made| made.ts != snapshot.ts) {
            *made = RenderedPages::of(snapshot).ok();
        }
        let Some(made) = &*made else {
            return Page::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n");
        };
        Page { status: StatusCode::OK, content_type: format.content_type(), body: made.body(format) }
    }
}

fn not_ready() -> Page {
    Page::text(StatusCode::SERVICE_UNAVAILABLE, "existing sockets are still being read\n")
}
