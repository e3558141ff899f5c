//! Dwells of known length: the output of `hist` against the scenario's own clock.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::{Span, hold, now_ns};
use crate::hist::{self, CloserCounts, DwellHistogram, Hist, HistGroup};
use crate::lab::Lab;
use crate::netns;
use crate::process::while_none_starts;

/// How many connections of each length a service gets.
const OF_EACH: usize = 30;
/// The connections of a service begin one after the other: on two emulated CPUs, 180 threads at once take seconds to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);
/// The relative error of a histogram with three significant digits.
const PRECISION: f64 = 1e-3;

/// A service: how long its connections are open, in equal parts, and how long it keeps the closed ones.
struct DwellService {
    open: &'static [Duration],
    close_wait: Duration,
}

const SERVICES: [DwellService; 2] = [
    DwellService {
        open: &[Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)],
        close_wait: Duration::from_millis(50),
    },
    DwellService { open: &[Duration::from_millis(30)], close_wait: Duration::from_millis(5) },
];

/// The times of one connection by the scenario's clock: each step happened within its span.
struct ConnectionTimes {
    connect: Span,
    accept_end_ns: u64,
    client_close: Span,
    received_end_ns: u64,
    server_close: Span,
}

/// The shortest and the longest that a dwell can have been.
type DwellBounds = (u64, u64);

impl ConnectionTimes {
    fn client_established(&self) -> DwellBounds {
        between(self.connect, self.client_close)
    }

    /// The handshake's last segment arrives after `connect()` began and before `accept()` returned.
    fn server_established(&self) -> DwellBounds {
        let began = Span { start_ns: self.connect.start_ns, end_ns: self.accept_end_ns };
        let ended = Span { start_ns: self.client_close.start_ns, end_ns: self.received_end_ns };
        between(began, ended)
    }

    fn close_wait(&self) -> DwellBounds {
        let began = Span { start_ns: self.client_close.start_ns, end_ns: self.received_end_ns };
        between(began, self.server_close)
    }
}

const fn between(began: Span, ended: Span) -> DwellBounds {
    (ended.start_ns.saturating_sub(began.end_ns), ended.end_ns - began.start_ns)
}

/// ESTABLISHED for 10, 100 and 1000 ms in thirds and CLOSE_WAIT for 50 ms at one service, others at another: counts
/// must be exact, quantiles within the precision of the histogram.
pub fn known_dwells(lab: &Lab) -> Result<()> {
    netns::keep_time_wait()?;
    let hist = hist::start(lab, "service")?;
    let runs: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = SERVICES.iter().map(|service| scope.spawn(move || serve(service))).collect();
        runs.into_iter().map(join).collect::<Result<_>>()
    })?;
    let checked =
        runs.iter().try_for_each(|(address, connections)| check_service(&hist, *address, connections));
    match (checked, hist.finish()) {
        // Losses explain a wrong count.
        (Err(error), Err(losses)) => Err(error.context(losses)),
        (checked, finished) => checked.and(finished),
    }
}

fn check_service(hist: &Hist, address: SocketAddr, connections: &[ConnectionTimes]) -> Result<()> {
    let service = address.to_string();
    let [inbound, outbound] =
        ["inbound", "outbound"].map(|role| HistGroup { service: &service, comm: None, role });
    let count = connections.len() as u64;
    // Where segments are not visible, a sweep finds TIME_WAIT a little later.
    let document = hist.wait(|document| {
        document.histogram(inbound, "LAST_ACK").is_ok_and(|of| of.count == count)
            && document.histogram(outbound, "TIME_WAIT").is_ok_and(|of| of.open_now == Some(count))
    })?;
    let Some(document) = document else { return Ok(()) };
    let check = |group, state, bounds: fn(&ConnectionTimes) -> DwellBounds| {
        let histogram = document.histogram(group, state)?;
        let bounds: Vec<DwellBounds> = connections.iter().map(bounds).collect();
        check_quantiles(histogram, &bounds).with_context(|| format!("{group:?} {state}"))
    };
    check(outbound, "ESTABLISHED", ConnectionTimes::client_established)?;
    check(inbound, "ESTABLISHED", ConnectionTimes::server_established)?;
    check(inbound, "CLOSE_WAIT", ConnectionTimes::close_wait)?;
    let time_wait = document.histogram(outbound, "TIME_WAIT")?;
    ensure!((time_wait.count, time_wait.open_now) == (0, Some(count)), "{time_wait:?}");
    let closed = |group| document.closers(group);
    let (by_client, by_peer) = (
        CloserCounts { local: count, ..CloserCounts::default() },
        CloserCounts { remote: count, ..CloserCounts::default() },
    );
    ensure!(closed(outbound)? == by_client, "{:?}", closed(outbound)?);
    ensure!(closed(inbound)? == by_peer, "{:?}", closed(inbound)?);
    Ok(())
}

/// Compares with the real dwells, each known within bounds: a quantile is between that of the lower and that of the upper
/// bounds.
fn check_quantiles(histogram: &DwellHistogram, bounds: &[DwellBounds]) -> Result<()> {
    let count = bounds.len();
    ensure!(histogram.count == count as u64, "{} dwells, not {count}: {histogram:?}", histogram.count);
    let in_buckets: u64 = histogram.buckets.iter().map(|(_, n)| n).sum();
    ensure!(in_buckets == histogram.count, "{in_buckets} in the buckets, {} in all", histogram.count);
    let sorted = |of: fn(&DwellBounds) -> u64| {
        let mut sorted: Vec<u64> = bounds.iter().map(of).collect();
        sorted.sort_unstable();
        sorted
    };
    let (shortest, longest) = (sorted(|bounds| bounds.0), sorted(|bounds| bounds.1));
    let quantiles = [
        ("min", 0.0, histogram.min_ns),
        ("p50", 0.5, histogram.p50_ns),
        ("p90", 0.9, histogram.p90_ns),
        ("p99", 0.99, histogram.p99_ns),
        ("p99.9", 0.999, histogram.p999_ns),
        ("max", 1.0, histogram.max_ns),
    ];
    for (name, q, reported_ns) in quantiles {
        let rank = ((q * count as f64).ceil() as usize).clamp(1, count) - 1;
        let (least, most) = (shortest[rank] as f64, longest[rank] as f64);
        let reported = reported_ns as f64;
        ensure!(
            reported >= least * (1.0 - PRECISION) && reported <= most * (1.0 + PRECISION),
            "{name} is {reported_ns} ns, not between {least} and {most}"
        );
    }
    Ok(())
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs the connections of a service; returns where it was.
fn serve(service: &DwellService) -> Result<(SocketAddr, Vec<ConnectionTimes>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let count = service.open.len() * OF_EACH;
    let connections = thread::scope(|scope| {
        let servers = scope.spawn(|| {
            let accepted: Vec<_> = (0..count)
                .map(|_| {
                    let accepted = listener.accept();
                    let accept_end_ns = now_ns();
                    scope.spawn(move || answer(accepted?, accept_end_ns, service.close_wait))
                })
                .collect();
            accepted.into_iter().map(join).collect::<Result<Vec<_>>>()
        });
        let clients: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn(move || {
                    hold(CONNECT_INTERVAL * n as u32);
                    call(address, service.open[n % service.open.len()])
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(join).collect::<Result<_>>()?;
        let servers = join(servers)?;
        let connection = |client: ClientTimes| {
            let server = servers.iter().find(|server| server.peer == client.local);
            let server = server.context("every client was accepted")?;
            Ok(ConnectionTimes {
                connect: client.connect,
                accept_end_ns: server.accept_end_ns,
                client_close: client.close,
                received_end_ns: server.received_end_ns,
                server_close: server.close,
            })
        };
        clients.into_iter().map(connection).collect::<Result<_>>()
    })?;
    Ok((address, connections))
}

struct ClientTimes {
    local: SocketAddr,
    connect: Span,
    close: Span,
}

fn call(address: SocketAddr, open: Duration) -> Result<ClientTimes> {
    let (stream, connect) = Span::of(|| TcpStream::connect(address));
    let stream = stream?;
    let local = stream.local_addr()?;
    hold(open);
    let ((), close) = while_none_starts(|| Span::of(|| drop(stream)));
    Ok(ClientTimes { local, connect, close })
}

struct ServerTimes {
    peer: SocketAddr,
    accept_end_ns: u64,
    received_end_ns: u64,
    close: Span,
}

fn answer(
    (mut stream, peer): (TcpStream, SocketAddr),
    accept_end_ns: u64,
    keep: Duration,
) -> Result<ServerTimes> {
    let length = stream.read(&mut [0])?;
    let received_end_ns = now_ns();
    ensure!(length == 0, "no end of the stream");
    hold(keep);
    let ((), close) = while_none_starts(|| Span::of(|| drop(stream)));
    Ok(ServerTimes { peer, accept_end_ns, received_end_ns, close })
}
