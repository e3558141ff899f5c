//! A real Prometheus scrapes a busy tracer for a while: every scrape has its answer, memory does not grow, and the
//! number of series does not follow the number of peers.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::prometheus::Prometheus;
use super::recording::TempFolder;
use super::serve::Exporter;
use crate::clock::{is_emulated, soon, wait_for};
use crate::lab::Lab;
use crate::netns;

/// Environment variable with the duration in seconds; by default until every peer has connected.
const SECONDS: &str = "TCPTRACE_SCRAPE_SECONDS";
/// Memory is compared in spans of this length: the first begins when the TIME_WAIT of the first minute have ended.
const SPAN: Duration = Duration::from_secs(60);
const BEGIN: Duration = Duration::from_secs(90);
/// Memory at the end against memory when the number of sockets has settled.
const MOST_GROWTH: f64 = 1.1;
/// Resident at any time: half of what the unit and the `DaemonSet` grant.
const MOST_RESIDENT: f64 = 512.0 * 1024.0 * 1024.0;
/// Connections a second, so that the number of sockets settles at the same on every machine that can.
const PER_SECOND: u32 = 6_000;
/// Services, and destinations, with series of their own.
const MOST: u32 = 20;
/// Series of a page that are about a service or a destination: eleven states, four closers, three more; six of a port.
const SERIES_EACH: u32 = 11 + 4 + 3 + 6;
/// Series of all others: short lists.
const SERIES_FIXED: u32 = 700;
/// Services that ever have series, for each place: those that had one when the numbers of sockets were still small.
const MOST_HOLDERS: u32 = 4;

/// Clients, each with an address of its own.
fn peers() -> u32 {
    if is_emulated() { 5_000 } else { 100_000 }
}

/// A hundred thousand peers, and the samples of a Prometheus meanwhile.
pub fn busy(lab: &Lab) -> Result<()> {
    let seconds = std::env::var(SECONDS).ok().map(|text| text.parse().context(SECONDS)).transpose()?;
    netns::sysctl("tcp_max_tw_buckets", "2000000")?;
    let exporter = Exporter::start(lab, &["--by", "peer", "--most", &MOST.to_string()])?;
    let folder = TempFolder::new()?;
    let prometheus = Prometheus::start(&folder, "groups: []")?;
    prometheus.wait_for("a scrape", "tcptrace_records_total")?;

    let started = Instant::now();
    let clients = Clients::start()?;
    let least = Duration::from_secs(seconds.unwrap_or_default());
    wait_for("every peer to have been there", least + 12 * soon(), || {
        clients.check()?;
        Ok((clients.connections() >= peers() && started.elapsed() >= least).then_some(()))
    })?;
    // It tracks that many peers.
    prometheus.wait_for("every peer", &format!("tcptrace_services_other >= {}", peers() - MOST))?;
    let connections = clients.connections();
    let took = started.elapsed();
    clients.stop()?;

    // The metrics of Prometheus about itself give the number of scrapes that it attempted.
    let number = |query: &str| prometheus.number(query);
    let [of_tracer, of_itself] =
        ["tcptrace", "prometheus"].map(|job| number(&format!("sum_over_time(up{{job='{job}'}}[1h])")));
    let (of_tracer, of_itself) = (of_tracer?, of_itself?);
    let failed = number("count_over_time(up{job='tcptrace'}[1h]) - sum_over_time(up{job='tcptrace'}[1h])")?;
    ensure!(failed == 0.0, "{failed} scrapes failed");
    ensure!((of_tracer - of_itself).abs() <= 2.0, "{of_tracer} scrapes, {of_itself} of Prometheus itself");
    let fell = number(
        "sum(resets(tcptrace_transitions_total[1h])) + sum(resets(tcptrace_service_closes_total[1h]))",
    )?;
    ensure!(fell == 0.0, "counters fell {fell} times");

    let page = number("max_over_time(scrape_samples_scraped{job='tcptrace'}[1h])")?;
    ensure!(page <= f64::from(SERIES_FIXED + MOST * SERIES_EACH), "{page} samples in a page");
    let series = prometheus.series("{job='tcptrace'}")?;
    let services = prometheus.label_values("tcptrace_service_sockets", "service")?.len();
    ensure!(services <= (MOST_HOLDERS * MOST) as usize, "{services} services had series");
    let most_series = SERIES_FIXED + MOST_HOLDERS * MOST * SERIES_EACH;
    ensure!(series <= most_series as usize, "{series} series in all");
    let resident = number("max_over_time(process_resident_memory_bytes{job='tcptrace'}[1h])")?;
    ensure!(resident <= MOST_RESIDENT, "{resident} bytes resident");
    let cpu = number("process_cpu_seconds_total{job='tcptrace'}")? / took.as_secs_f64();
    println!(
        "    scrape::busy: {:.0} s, {connections} connections of {} peers; {of_tracer} scrapes, {failed} failed; at most {page} \
         samples a page, {series} series in all, of {services} services; at most {:.1} MiB resident; {cpu:.2} of a CPU",
        took.as_secs_f64(),
        peers(),
        resident / 1024.0 / 1024.0,
    );
    if let Some(since_settled) = took.checked_sub(BEGIN + SPAN).filter(|left| *left >= SPAN) {
        let span = SPAN.as_secs();
        let most = |ago: String| {
            number(&format!("max_over_time(process_resident_memory_bytes{{job='tcptrace'}}[{span}s]{ago})"))
        };
        let settled = most(format!(" offset {}s", since_settled.as_secs()))?;
        let at_end = most(String::new())?;
        println!("    scrape::busy: resident {settled} bytes when settled, {at_end} at the end");
        ensure!(
            at_end <= settled * MOST_GROWTH,
            "{settled} bytes resident when settled, {at_end} at the end"
        );
    }
    drop(prometheus);
    exporter.stop().map(drop)
}

/// Connections to a listener, each from the next address, closed by the listener's side: the TIME_WAIT are the peers'.
struct Clients {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Clients {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:7000")?;
        let target = listener.local_addr()?;
        let stop = Arc::<AtomicBool>::default();
        let connections = Arc::<AtomicU32>::default();
        let server = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                for connection in listener.incoming() {
                    drop(connection?);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(())
            }
        });
        let client = std::thread::spawn({
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            move || {
                let started = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let due = Duration::from_secs(1) * connections.load(Ordering::Relaxed) / PER_SECOND;
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                    connect(connections.fetch_add(1, Ordering::Relaxed) % peers(), target)?;
                }
                // Wakes the server, unless it ended before.
                TcpStream::connect(target).ok();
                Ok(())
            }
        });
        Ok(Self { stop, connections, threads: vec![server, client] })
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.threads.iter().any(JoinHandle::is_finished), "the clients ended");
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        self.threads.into_iter().try_for_each(join)
    }
}

/// One connection of a peer.
fn connect(number: u32, target: SocketAddr) -> Result<()> {
    // 127.0.0.1 is the listener's.
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
    socket.connect(&target.into()).with_context(|| format!("from {from}"))?;
    let end = TcpStream::from(socket).read(&mut [0])?;
    ensure!(end == 0, "no end of the stream");
    Ok(())
}
