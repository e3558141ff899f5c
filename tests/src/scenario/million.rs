//! A million sockets at once: counts equal to the kernel's, no losses, and the memory used.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};
use tcptrace_common::state::TcpState::TimeWait;

use crate::clock::{is_emulated, soon, wait_for};
use crate::hist::Hist;
use crate::json_snapshots::JsonSnapshots;
use crate::lab::{Lab, Skip};
use crate::scenario::seed::SocketCounts;
use crate::{kernel, netns};

const MILLION: usize = 1_000_000;
/// A TIME_WAIT lasts a minute: until then as many as can be made.
const TIME_TO_MAKE: Duration = Duration::from_secs(55);
/// One for each processor here, and one more for when it waits.
const THREADS: usize = 3;
/// Connections to one address before the next one's turn: a free port is found at once.
const OF_ADDRESS: usize = 30_000;
const PORT: u16 = 1_010;

/// A million TIME_WAIT, or as many as can be made before the first one ends, in a namespace of their own.
pub fn time_wait(lab: &Lab) -> Result<()> {
    lab.binary()?;
    if is_emulated() {
        return Err(Skip("an emulated machine makes a tenth of them in a minute".into()).into());
    }
    netns::sysctl("ip_local_port_range", "1024 65535")?;
    netns::sysctl("tcp_max_tw_buckets", "2000000")?;
    netns::keep_time_wait()?;
    // Rings that do not fill when something else takes the reader's CPU for a second.
    let netns = lab.netns().to_string();
    let arguments = ["--interval", "1s", "--by", "state", "--ring-size", "64", "--netns", &netns];
    let hist: Hist = JsonSnapshots::start(lab, &[&["hist", "--json"], &arguments[..]].concat())?;
    let began = Instant::now();
    let made = make()?;
    let took = began.elapsed();
    // No more come, so their number decreases: the reported count is between the kernel's before and after.
    let mut loss = BTreeMap::new();
    let mut reported_now = || {
        between(|| {
            let document = hist.next()?.context("no document")?;
            loss.clone_from(&document.loss);
            let time_wait =
                document.histograms.iter().find(|of| of.key.is_none() && of.state == TimeWait.name());
            Ok(time_wait.and_then(|of| of.open_now).context("no TIME_WAIT in the document")? as usize)
        })
    };
    // The tracer may be a moment late with the last ones.
    let mut last = None;
    let settled = wait_for("the count of the kernel", soon(), || {
        let (before, reported, after) = *last.insert(reported_now()?);
        Ok((after..=before).contains(&reported).then_some((before, reported, after)))
    });
    let (before, reported, after) = settled
        .with_context(|| format!("the kernel before, reported, the kernel after: {last:?}; {loss:?}"))?;
    let traced_kib = peak_kib(hist.pid().context("its process")?)?;
    let (seeded_before, seeded, seeded_after) =
        between(|| Ok(SocketCounts::query(lab, &["top", "--once"])?.of(TimeWait)))?;
    println!(
        "   {made} made in {:.0} s; traced: {before} >= {reported} >= {after}, {} MiB at the most; by a new trace: \
         {seeded_before} >= {seeded} >= {seeded_after}",
        took.as_secs_f64(),
        traced_kib >> 10
    );
    ensure!(
        (seeded_after..=seeded_before).contains(&seeded),
        "{seeded} reported, {seeded_before} to {seeded_after}"
    );
    hist.finish()
}

/// The count of `traced`, between two counts of the kernel.
fn between(traced: impl FnOnce() -> Result<usize>) -> Result<(usize, usize, usize)> {
    let before = kernel::count(TimeWait)?;
    let reported = traced()?;
    Ok((before, reported, kernel::count(TimeWait)?))
}

fn make() -> Result<usize> {
    let deadline = Instant::now() + TIME_TO_MAKE;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (1..=THREADS).map(|thread| scope.spawn(move || make_until(deadline, thread as u8))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<usize>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).sum()
    })
}

/// One connection after the other, both ends in one thread; the client closes first.
fn make_until(deadline: Instant, thread: u8) -> Result<usize> {
    let port = PORT + u16::from(thread);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    listener.listen(8)?;
    let mut made = 0;
    while made < MILLION / THREADS && (!made.is_multiple_of(256) || Instant::now() < deadline) {
        let address = Ipv4Addr::new(127, thread, (made / OF_ADDRESS) as u8, 1);
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        client.connect(&SocketAddr::from((address, port)).into()).context("connect()")?;
        let (server, _) = listener.accept()?;
        drop(client);
        // Its FIN must be there before ours goes out: else both ends are the first to close.
        rustix::net::recv(&server, &mut [0], RecvFlags::empty())?;
        drop(server);
        made += 1;
    }
    Ok(made)
}

/// Peak memory of a process.
fn peak_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
