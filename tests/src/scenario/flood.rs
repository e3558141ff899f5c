//! Connections at the highest rate of this machine, with and without a stopped reader: afterwards the tracer's table
//! equals the kernel's, socket by socket.
//!
//! `TCPTRACE_FLOOD_SECONDS` is the duration; 6 by default.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::clock::{soon, wait_for};
use crate::lab::Lab;
use crate::netns;
use crate::table::TableFollower;

/// As many as can keep two processors busy while one waits for the other.
const THREADS: u8 = 4;
/// Sweeps wait a hundred times as long as they take.
const PATIENCE: Duration = Duration::from_secs(300);

fn length() -> Duration {
    let wanted = std::env::var("TCPTRACE_FLOOD_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(wanted.unwrap_or(6))
}

/// The load alone, at the highest rate.
pub fn highest_rate(lab: &Lab) -> Result<()> {
    lab.binary()?;
    make_room()?;
    let follower = TableFollower::start(lab, &[])?;
    let flood = Flood::of(length(), |_| Ok(()))?;
    conclude(lab, follower, &flood, |_| Ok(()))
}

/// Connections of which a ring of 1 MiB can't hold all the records: five of 88 bytes each at the least.
const TOO_MANY_FOR_THE_RING: u64 = (1 << 20) / 88 / 5;

/// A ring of the smallest size, and a reader that is stopped for a quarter of the time: records are lost for sure.
pub fn stopped_reader(lab: &Lab) -> Result<()> {
    lab.binary()?;
    make_room()?;
    let follower = TableFollower::start(lab, &["--ring-size", "1"])?;
    let flood = Flood::of(length() / 2, |connections| {
        std::thread::sleep(length() / 8);
        follower.recorder().signal(Signal::STOP)?;
        let before = connections.load(Ordering::Relaxed);
        wait_for("more connections than the ring has room for", 20 * soon(), || {
            Ok((connections.load(Ordering::Relaxed) - before > TOO_MANY_FOR_THE_RING).then_some(()))
        })?;
        std::thread::sleep(length() / 8);
        follower.recorder().signal(Signal::CONT)
    })?;
    conclude(lab, follower, &flood, |line| {
        ensure!(line.contains("ring full"), "nothing was lost: {line}");
        ensure!(line.contains("healed"), "nothing was healed: {line}");
        Ok(())
    })
}

fn make_room() -> Result<()> {
    netns::sysctl("ip_local_port_range", "1024 65535")?;
    netns::sysctl("tcp_max_tw_buckets", "1048576")?;
    // A connection may reuse a TIME_WAIT that is older than a second.
    netns::sysctl("tcp_tw_reuse", "1")
}

fn conclude(
    lab: &Lab,
    follower: TableFollower,
    flood: &Flood,
    check: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let (first, last) = follower.settle(lab, PATIENCE)?;
    let line = follower.stop()?;
    println!(
        "   {} connections in {:.1} s, {:.0}/s; {} sockets compared: {} differed, {} differ; {line}",
        flood.connections,
        flood.took.as_secs_f64(),
        flood.connections as f64 / flood.took.as_secs_f64(),
        last.sockets,
        first.differ.len(),
        last.differ.len(),
    );
    let shown = last.differ.iter().take(10).cloned().collect::<Vec<_>>().join("\n    ");
    ensure!(last.differ.is_empty(), "{} sockets differ; {line}\n    {shown}", last.differ.len());
    ensure!(last.sockets > 100, "only {} sockets were compared", last.sockets);
    check(&line)
}

/// The connections made.
struct Flood {
    connections: u64,
    took: Duration,
    /// Made in between and still open, both ends: to be compared when every TIME_WAIT has ended.
    _open: Vec<Socket>,
}

impl Flood {
    /// Connections from several threads for `length`, while `during` runs.
    fn of(length: Duration, during: impl FnOnce(&AtomicU64) -> Result<()>) -> Result<Self> {
        let began = Instant::now();
        let stop = AtomicBool::new(false);
        let connections = AtomicU64::new(0);
        let open = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=THREADS)
                .map(|thread| {
                    let (stop, connections) = (&stop, &connections);
                    scope.spawn(move || connect_until(stop, thread, connections))
                })
                .collect();
            let during = during(&connections);
            std::thread::sleep(length.saturating_sub(began.elapsed()));
            stop.store(true, Ordering::Relaxed);
            let mut open = Vec::new();
            for thread in threads {
                open.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            during.map(|()| open)
        })?;
        Ok(Self { connections: connections.into_inner(), took: began.elapsed(), _open: open })
    }
}

/// Connections to one address before the next one's turn: a free port is found at once.
const OF_ADDRESS: u64 = 16_384;
/// One in so many leaves a TIME_WAIT; a RST closes the others.
const LEAVES: u64 = 4;

/// One in so many stays open, up to a number.
const STAYS: u64 = 256;
const MOST_OPEN: usize = 200;

/// One connection after the other, both ends in one thread; returns those that stay open.
fn connect_until(stop: &AtomicBool, thread: u8, connections: &AtomicU64) -> Result<Vec<Socket>> {
    let port = 1_000 + u16::from(thread);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    listener.listen(64)?;
    let mut made = 0_u64;
    let mut open = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let address = Ipv4Addr::new(127, thread, (made / OF_ADDRESS % 256) as u8, 1);
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        client.connect(&SocketAddr::from((address, port)).into()).context("connect()")?;
        let (server, _) = listener.accept()?;
        if made.is_multiple_of(STAYS) && open.len() < MOST_OPEN {
            open.extend([client, server]);
        } else {
            if !made.is_multiple_of(LEAVES) {
                client.set_linger(Some(Duration::ZERO))?;
            }
            drop(client);
            drop(server);
        }
        made += 1;
        connections.fetch_add(1, Ordering::Relaxed);
    }
    Ok(open)
}
