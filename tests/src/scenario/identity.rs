//! Socket identity, and sockets older than the tracer: shared cookies, an orphan that stays a full socket, a namespace that
//! no process can enter.

use anyhow::{Context, Result, ensure};
use tcptrace_common::state::TcpState::{Close, Established, FinWait1, FinWait2, TimeWait};

use crate::clock::{is_emulated, soon, wait_for};
use crate::event::EventEndReason;
use crate::lab::Lab;
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::scenario::seed::{SocketCounts, counts_by_kernel};
use crate::scenario::serve::{Exporter, scrape};
use crate::{kernel, netns, process};

/// Connections of one descriptor that end in `TIME_WAIT`, before it connects once more.
const ROUNDS: usize = 4;

/// One descriptor connects again and again: its timewait sockets and the full one share a cookie. All exist before
/// the tracer, and each is tracked.
pub fn one_cookie_many_sockets(lab: &Lab) -> Result<()> {
    let client = IpFamily::V4.socket()?;
    for _ in 0..ROUNDS {
        let mut listener = TestSocket::listen((IpFamily::V4.loopback(), 0).into())?;
        client.connect(&listener.local()?.into())?;
        let (server, _) = listener.socket()?.accept()?;
        let before = kernel::count(TimeWait)?;
        client.shutdown(std::net::Shutdown::Write)?;
        process::close(server);
        wait_for("TIME_WAIT", soon(), || Ok((kernel::count(TimeWait)? > before).then_some(())))?;
        rustix::net::connect_unspec(&client)?;
        listener.close();
    }
    let pair = ConnectedPair::open_to(TestSocket::listen((IpFamily::V4.loopback(), 0).into())?, client)?;
    let cookie = pair.client.id();
    let same: Vec<_> = kernel::sockets()?.into_iter().filter(|socket| socket.cookie == cookie).collect();
    let timewait: Vec<_> = same.iter().filter(|socket| socket.state == TimeWait).collect();
    ensure!((same.len(), timewait.len()) == (ROUNDS + 1, ROUNDS), "{same:?}");

    let before = counts_by_kernel()?;
    let tracer = lab.trace()?;
    if tracer.is_present() {
        let top = SocketCounts::query(lab, &["top", "--once"])?;
        ensure!(top.present() == before, "top: {:?}, kernel: {before:?}", top.present());
    }
    for socket in timewait {
        kernel::destroy(socket)?;
        let port = socket.remote.port();
        let reported = tracer
            .events(1, |event| event.netns == lab.netns() && event.dport == port && event.to == Close)?;
        ensure!(
            !tracer.is_present()
                || reported.len() == 1
                    && reported[0].from == TimeWait
                    && reported[0].end_reason == Some(EventEndReason::Killed),
            "the one to port {port}: {reported:?}"
        );
    }
    tracer.finish()
}

/// Held in `FIN_WAIT2`, then closed, with a `tcp_fin_timeout` for which the kernel keeps the full socket: no hook shows
/// that it lost its owner, and a sweep does.
pub fn full_orphan(lab: &Lab) -> Result<()> {
    // Above TCP_TIMEWAIT_LEN.
    netns::sysctl("tcp_fin_timeout", "100")?;
    let exporter = Exporter::start(lab, &[])?;
    let mut pair = ConnectedPair::open(IpFamily::V4)?;
    pair.client.shutdown_write()?;
    pair.client.wait(FinWait2)?;
    let becomes = |sockets: u64, orphans: u64| {
        wait_for(&format!("{sockets} in FIN_WAIT2, {orphans} of them orphans"), 3 * soon(), || {
            let samples = scrape()?;
            let of = |name: &str| samples.get(name).copied().with_context(|| format!("no {name}"));
            let in_state = of("tcptrace_sockets{state=\"FIN_WAIT2\"}")?;
            let now = [in_state, of("tcptrace_fin_wait2_orphans")?];
            Ok((now.map(|count| count as u64) == [sockets, orphans]).then_some(()))
        })
    };
    becomes(1, 0)?;
    pair.client.close();
    pair.client.ensure_orphan(true)?;
    becomes(1, 1)?;
    ensure!(pair.client.diag()?.state == FinWait2, "it did not stay in FIN_WAIT2");
    exporter.stop().map(drop)
}

/// Connections that are left in `FIN_WAIT1` when the last process leaves their namespace.
const LEFT: usize = 10;

/// The last sockets of a container that died are closing, in a namespace that no process can enter: they appear
/// when they end, and are neither lost nor healed.
pub fn namespace_nobody_can_enter(lab: &Lab) -> Result<()> {
    let ended = std::thread::spawn(leave_orphans).join().map_err(|_| anyhow::anyhow!("panicked"))??;
    let tracer = lab.trace()?;
    let given_up = tracer.count(ended, 2 * LEFT, |event| event.from == FinWait1 && event.to == Close)?;
    let stderr = tracer.stop()?;
    if !stderr.is_empty() {
        ensure!(given_up == 2 * LEFT, "{given_up} of {} gave up: {stderr}", 2 * LEFT);
        // Scenarios before this one may have left such sockets as well.
        let unseeded = stderr.split_once(" unseeded sockets; nothing lost").map(|(before, _)| before);
        let unseeded = unseeded.and_then(|before| before.rsplit_once(", ")?.1.parse().ok());
        ensure!(unseeded.is_some_and(|count: usize| count >= 2 * LEFT), "{stderr}");
    }
    Ok(())
}

/// Opens connections in a namespace of this thread's own, takes its loopback down, and closes them: no FIN arrives.
fn leave_orphans() -> Result<u32> {
    let netns = netns::enter_new()?;
    // The least that is long enough for the tracer to start, if many tracers do not start at the same time:
    // retransmissions after 0.2 s, 0.4 s, 0.8 s...
    netns::sysctl("tcp_orphan_retries", if is_emulated() { "6" } else { "4" })?;
    let pairs = (0..LEFT).map(|_| ConnectedPair::open(IpFamily::V4)).collect::<Result<Vec<_>>>()?;
    ensure!(kernel::count(Established)? == 2 * LEFT, "not all are connected");
    netns::set_loopback(netns::Link::Down)?;
    drop(pairs);
    let closing = kernel::count(FinWait1)?;
    ensure!(closing == 2 * LEFT, "{closing} of {} are in FIN_WAIT1", 2 * LEFT);
    Ok(netns)
}
