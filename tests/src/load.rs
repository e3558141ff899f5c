//! Load for benchmarks: connections at the highest rate, messages over permanent ones, or many idle sockets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::netns;

/// Connections per destination: fewer than there are ports.
const PER_DESTINATION: u64 = 20_000;
/// State changes that `inet_sock_set_state` reports of one connection: five of either end.
const TRANSITIONS: u64 = 10;
/// Operations between two reads of the clock.
const BATCH: usize = 16;
/// Bytes of a message and of its answer.
const MESSAGE: [u8; 64] = [7; 64];

/// Moves this thread to a new network namespace with room for every connection of a run.
pub fn enter_namespace() -> Result<()> {
    netns::enter_new()?;
    netns::sysctl("ip_local_port_range", "1024 65535")?;
    netns::sysctl("tcp_max_tw_buckets", "8000000")
}

/// Raises the limit of descriptors to its maximum.
pub fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raise the limit of descriptors")
}

/// The result of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LoadResult {
    /// Connections made and closed, or messages sent and answered.
    pub done: u64,
    /// In this time.
    pub elapsed_ns: u64,
    /// State changes that `inet_sock_set_state` reported of all connections.
    pub transitions: u64,
}

/// A thread's listener, and the destinations that lead to it.
pub struct LoopbackLoad {
    listener: Socket,
    port: u16,
    thread: u8,
    connections: u64,
}

impl LoopbackLoad {
    /// Those of thread number `thread`, in the namespace of the caller.
    pub fn new(thread: u8) -> Result<Self> {
        let listener = tcp()?;
        listener.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
        listener.listen(128)?;
        let port = listener.local_addr()?.as_socket().context("a port")?.port();
        Ok(Self { listener, port, thread, connections: 0 })
    }

    /// One connection; both ends of it.
    fn connect(&mut self) -> Result<(Socket, Socket)> {
        let destination = u16::try_from(self.connections / PER_DESTINATION).context("no destination left")?;
        let [high, low] = (destination + 1).to_be_bytes();
        let address = Ipv4Addr::new(127, 1 + self.thread, high, low);
        let client = tcp()?;
        client.connect(&SockAddr::from(SocketAddrV4::new(address, self.port))).context("connect")?;
        let (server, _) = self.listener.accept().context("accept")?;
        self.connections += 1;
        Ok((client, server))
    }

    /// A connection that its client closes at once.
    pub fn connect_and_close(&mut self) -> Result<()> {
        let (client, server) = self.connect()?;
        drop(client);
        drop(server);
        Ok(())
    }
}

fn tcp() -> Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None).context("socket()")
}

/// Runs `work` in `threads` threads; returns the sum of their counts.
fn in_threads(threads: u8, work: impl Fn(u8) -> Result<u64> + Sync) -> Result<u64> {
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread of the load panicked"))?)
            .sum()
    })
}

/// Makes connections one after the other in each of `threads` threads for `time`; the client closes first. With
/// `per_namespace` each thread goes on in a new network namespace after so many; with `rate` all threads together make so
/// many a second, if they can.
pub fn churn(
    threads: u8,
    time: Duration,
    per_namespace: Option<u64>,
    rate: Option<f64>,
) -> Result<LoadResult> {
    let begun = Instant::now();
    let done = in_threads(threads, |thread| {
        let mut pair = LoopbackLoad::new(thread)?;
        let mut done = 0;
        while begun.elapsed() < time {
            if per_namespace.is_some_and(|most| pair.connections >= most) {
                enter_namespace()?;
                pair = LoopbackLoad::new(thread)?;
            }
            for _ in 0..BATCH {
                pair.connect_and_close()?;
                done += 1;
            }
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(done as f64 * f64::from(threads) / rate);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        Ok(done)
    })?;
    Ok(LoadResult { done, elapsed_ns: begun.elapsed().as_nanos() as u64, transitions: done * TRANSITIONS })
}

/// `connections` connections that stay, shared among `threads` threads: for `time` a message goes over one after the
/// other, and an answer comes back.
pub fn talk(threads: u8, connections: u64, time: Duration) -> Result<LoadResult> {
    ensure!(threads > 0, "no thread to talk");
    let held: Vec<Vec<(Socket, Socket)>> =
        (0..threads).map(|thread| hold(thread, connections / u64::from(threads))).collect::<Result<_>>()?;
    let begun = Instant::now();
    let done = in_threads(threads, |thread| {
        let mut done = 0;
        let mut answer = [0; MESSAGE.len()];
        for batch in held[usize::from(thread)].chunks(BATCH).cycle() {
            if begun.elapsed() >= time {
                break;
            }
            for (client, server) in batch {
                for (mut from, mut to) in [(client, server), (server, client)] {
                    from.write_all(&MESSAGE)?;
                    to.read_exact(&mut answer)?;
                }
                done += 1;
            }
        }
        Ok(done)
    })?;
    Ok(LoadResult {
        done,
        elapsed_ns: begun.elapsed().as_nanos() as u64,
        transitions: connections * TRANSITIONS,
    })
}

/// Leaves `sockets` sockets in TIME_WAIT.
pub fn rest(sockets: u64) -> Result<()> {
    let mut pair = LoopbackLoad::new(0)?;
    (0..sockets).try_for_each(|_| pair.connect_and_close())
}

/// `connections` connections that stay until the value is dropped.
pub fn hold(thread: u8, connections: u64) -> Result<Vec<(Socket, Socket)>> {
    let mut pair = LoopbackLoad::new(thread)?;
    (0..connections).map(|_| pair.connect()).collect()
}
