//! The findings of `doctor` against the provoked conditions and the kernel's counters.

use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use socket2::Socket;
use tcptrace_common::state::TcpState::{CloseWait, FinWait2, SynRecv, SynSent, TimeWait};

use crate::clock::{hold, now_ns, soon, wait_for};
use crate::doctor::{Doctor, DoctorDocument, DoctorFinding};
use crate::event::EventRole;
use crate::lab::{Lab, Skip};
use crate::pair::{ConnectedPair, IpFamily, TestSocket};
use crate::precision::Precision;
use crate::scenario::recording::{RecorderProcess, TempFolder};
use crate::wire::{Segment, Wire, forge, forge_with_timestamp};
use crate::{filter, kernel, netns, process};

/// Longer than half of the short time that a scenario is watched, and than a second.
const LONG: Duration = Duration::from_millis(2_500);

/// A listener with a backlog of this.
fn listener(family: IpFamily, backlog: i32) -> Result<TestSocket> {
    let socket = family.socket()?;
    socket.bind(&std::net::SocketAddr::new(family.loopback(), 0).into())?;
    socket.listen(backlog)?;
    TestSocket::new("listener", EventRole::Listener, socket)
}

/// Begins to connect and does not wait.
fn start_connect(listener: &TestSocket) -> Result<Socket> {
    let client = IpFamily::V4.socket()?;
    client.set_nonblocking(true)?;
    // It is in progress, and may stay so.
    let _ = client.connect(&listener.local()?.into());
    Ok(client)
}

fn is_mine(finding: &DoctorFinding) -> Result<()> {
    let who = finding.first()?;
    ensure!(who.pid == Some(std::process::id()), "it is pid {}: {finding:#?}", std::process::id());
    Ok(())
}

/// The table of timewait sockets is full: kernel and tracer count each missing TIME_WAIT.
pub fn time_wait_overflow(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_max_tw_buckets", "50")?;
    netns::keep_time_wait()?;
    let doctor = Doctor::start(lab)?;
    let before = kernel::counter("TCPTimeWaitOverflow")?;
    let mut ends = Vec::new();
    for _ in 0..80 {
        let mut pair = ConnectedPair::open(IpFamily::V4)?;
        pair.client.close();
        pair.server.wait(CloseWait)?;
        pair.server.close();
        ends.push(pair.listener);
    }
    let overflow = wait_for("the last sockets to end", soon(), || {
        let overflow = kernel::counter("TCPTimeWaitOverflow")? - before;
        let left = kernel::sockets()?.iter().filter(|socket| socket.inode == 0).count();
        Ok((left as u64 + overflow == 80).then_some(overflow))
    })?;
    ensure!(overflow >= 30, "the kernel counts {overflow}");
    let report = doctor.finish()?;
    let found = report.finding("time_wait_overflow")?;
    let numbers =
        (found.number("overflow_counted")?, found.number("overflow_traced")?, found.number("limit")?);
    ensure!(numbers == (overflow, overflow, 50), "{numbers:?}, the kernel counts {overflow}: {found:#?}");
    ensure!(found.severity == "critical", "{found:#?}");
    let set = format!("nsenter -t {} -n sysctl -w net.ipv4.tcp_max_tw_buckets=", std::process::id());
    let is_present = found.fix.iter().any(|line| line.starts_with(&set) || line.starts_with("sysctl -w"));
    ensure!(is_present, "no line that sets it: {found:#?}");
    report.finding("tw_buckets_lowered")?;
    Ok(())
}

/// A program forgets `close()`: it is named with its descriptors, and the age is right.
pub fn forgotten_close(lab: &Lab) -> Result<()> {
    let mut before = ConnectedPair::open(IpFamily::V6)?;
    before.client.close();
    before.server.wait(CloseWait)?;
    let doctor = Doctor::start(lab)?;
    let mut leaks = Vec::new();
    let began_ns = now_ns();
    for _ in 0..3 {
        let mut pair = ConnectedPair::open(IpFamily::V4)?;
        pair.client.close();
        pair.server.wait(CloseWait)?;
        leaks.push(pair);
    }
    let ended_ns = now_ns();
    hold(LONG);
    let least_ns = now_ns() - ended_ns;
    let report = doctor.finish()?;
    let most_ns = now_ns() - began_ns;
    let found = report.finding("close_wait_leak")?;
    ensure!(found.number("old")? == 4, "four are leaked: {found:#?}");
    let service = |pair: &ConnectedPair| Ok::<_, anyhow::Error>(pair.server.local()?.to_string());
    let mut fds = 0;
    for who in &found.who {
        ensure!(who.pid == Some(std::process::id()), "{who:?}");
        let oldest_ns = who.oldest_ns.context("an age")?;
        if who.service == service(&before)? {
            ensure!(
                who.at_least == Some(true)
                    && who.fds == [before.server.socket()?.as_raw_fd().cast_unsigned()],
                "{who:?}"
            );
            ensure!(oldest_ns >= least_ns, "{who:?}, but it is {least_ns} ns at least");
            fds += who.fds.len();
            continue;
        }
        let pair = leaks.iter().find(|pair| service(pair).is_ok_and(|service| service == who.service));
        let fd = pair.context("one of them")?.server.socket()?.as_raw_fd().cast_unsigned();
        ensure!(who.fds == [fd] && who.at_least == Some(false), "descriptor {fd}: {who:?}");
        ensure!((least_ns..=most_ns).contains(&oldest_ns), "{who:?}, not {least_ns} .. {most_ns}");
        fds += who.fds.len();
    }
    ensure!(fds == 3, "three of four are named: {found:#?}");
    Ok(())
}

/// SYNs with an old timestamp or sequence number meet a TIME_WAIT: the kernel refuses them, until the client's next one.
pub fn syn_meets_time_wait(lab: &Lab) -> Result<()> {
    if Precision::of(lab.binary()?)? != Precision::Segments {
        return Err(Skip("this kernel does not show segments to a TIME_WAIT".into()).into());
    }
    netns::keep_time_wait()?;
    // Timestamps are milliseconds of uptime: without an offset 1 is older than any other.
    netns::sysctl("tcp_timestamps", "2")?;
    let doctor = Doctor::start(lab)?;
    let paws = || -> Result<u64> {
        Ok(kernel::counter("PAWSEstab")? + kernel::counter("PAWSTimewait").unwrap_or_default())
    };
    let (before, mut stalls, mut listeners) = (paws()?, Vec::new(), Vec::new());
    for family in IpFamily::BOTH {
        let wire = Wire::open(family.loopback())?;
        let mut pair = ConnectedPair::open_from_own_port(family)?;
        pair.server.close_to_orphan()?;
        pair.client.wait(CloseWait)?;
        pair.client.close();
        pair.server.wait(TimeWait)?;
        pair.client.wait_end(soon())?;
        let (source, target) = (pair.client.local()?, pair.server.local()?);
        let fin = wire.wait(source, target, filter::FIN)?;
        let syn = Segment { flags: filter::SYN, ack: 0, ..fin };
        let start_ns = now_ns();
        forge_with_timestamp(Segment { seq: fin.next_seq.wrapping_add(100_000), ..syn }, 1)?;
        let refused_ns = now_ns();
        for back in [1, 100_000] {
            forge(Segment { seq: fin.next_seq.wrapping_sub(back), ..syn })?;
        }
        ensure!(pair.server.find_diag()?.is_some_and(|socket| socket.state == TimeWait), "no TIME_WAIT");
        hold(Duration::from_millis(300));
        let client = pair.same_client(family)?;
        let connect_ns = now_ns();
        let again = ConnectedPair::open_to(pair.listener, client)?;
        stalls.push((connect_ns - refused_ns, now_ns() - start_ns));
        listeners.push(again);
    }
    let grown = paws()? - before;
    ensure!(grown == 2, "the kernel counts {grown} older timestamps");
    let report = doctor.finish()?;
    let found = report.finding("syns_refused_by_time_wait")?;
    let numbers = (found.number("syns")?, found.number("connects")?, found.number("accepted")?);
    ensure!(numbers == (6, 2, 2), "{numbers:?}: {found:#?}");
    let stall_ns = found.number("longest_stall_ns")?;
    let (least, most) =
        stalls.iter().fold((0, 0), |(least, most), stall| (least.max(stall.0), most.max(stall.1)));
    ensure!((least..=most).contains(&stall_ns), "{stall_ns} ns, not {least} .. {most}");
    is_mine(found)?;
    let mut named: Vec<_> = found.who.iter().map(|who| who.service.clone()).collect();
    let mut expected: Vec<_> =
        listeners.iter().map(|pair| Ok(pair.listener.local()?.to_string())).collect::<Result<_>>()?;
    named.sort();
    expected.sort();
    ensure!(named == expected, "{named:?}, not {expected:?}");
    Ok(())
}

/// A listener that does not accept: it is named with its backlog.
pub fn accept_queue(lab: &Lab) -> Result<()> {
    let listener = listener(IpFamily::V4, 2)?;
    let doctor = Doctor::start(lab)?;
    let before = kernel::counter("ListenOverflows")?;
    let clients: Vec<Socket> = (0..8).map(|_| start_connect(&listener)).collect::<Result<_>>()?;
    hold(LONG);
    let report = doctor.finish()?;
    let after = kernel::counter("ListenOverflows")?;
    let found = report.finding("accept_queue_overflow")?;
    let counted = found.number("overflows")?;
    // SYNs are sent again meanwhile: the kernel may count more after the last poll.
    ensure!(counted > 0 && counted <= after - before, "{counted} of {}: {found:#?}", after - before);
    ensure!((found.number("backlog")?, found.number("queue")?) == (2, 3), "{found:#?}");
    is_mine(found)?;
    ensure!(found.first()?.service == listener.local()?.to_string(), "{found:#?}");
    drop(clients);
    Ok(())
}

/// Handshakes that do not end fill the SYN queue: cookies are sent, and SYN-ACKs again.
pub fn syn_queue(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_syncookies", "1")?;
    let listener = listener(IpFamily::V4, 8)?;
    filter::accept_only(listener.socket()?, filter::SYN)?;
    let doctor = Doctor::start(lab)?;
    let before = kernel::counter("SyncookiesSent")?;
    let clients: Vec<Socket> = (0..20).map(|_| start_connect(&listener)).collect::<Result<_>>()?;
    ensure!(kernel::count(SynRecv)? >= 8, "no handshakes under way");
    hold(LONG);
    let cookies = kernel::counter("SyncookiesSent")? - before;
    ensure!(cookies > 0, "no cookies were sent");
    let report = doctor.finish()?;
    let found = report.finding("syn_queue_overflow")?;
    ensure!(found.number("cookies_sent")? >= cookies, "{cookies} cookies: {found:#?}");
    let again = report.finding("syn_acks_again")?;
    ensure!(again.number("synacks_again")? >= 8, "{again:#?}");
    is_mine(again)?;
    drop(clients);
    Ok(())
}

/// Closes by RST, refusals, and connects that nobody answers.
pub fn bad_ends(lab: &Lab) -> Result<()> {
    let closed = {
        let mut listener = listener(IpFamily::V4, 8)?;
        listener.close();
        listener
    };
    let unresponsive = listener(IpFamily::V4, 8)?;
    filter::drop_segments(unresponsive.socket()?)?;
    let doctor = Doctor::start(lab)?;
    let unread = || -> Result<()> {
        for _ in 0..6 {
            let mut pair = ConnectedPair::open(IpFamily::V4)?;
            pair.client.write()?;
            pair.server.wait_readable()?;
            pair.server.close();
        }
        Ok(())
    };
    kernel::counts("TCPAbortOnClose", 6, unread)?;
    let aborted = || -> Result<()> {
        for _ in 0..7 {
            let mut pair = ConnectedPair::open(IpFamily::V4)?;
            pair.client.close_with_reset()?;
        }
        Ok(())
    };
    kernel::counts("TCPAbortOnData", 7, aborted)?;
    for _ in 0..5 {
        ensure!(IpFamily::V4.socket()?.connect(&closed.local()?.into()).is_err(), "no process listens");
    }
    let waiting: Vec<Socket> = (0..3).map(|_| start_connect(&unresponsive)).collect::<Result<_>>()?;
    hold(LONG);
    ensure!(kernel::count(SynSent)? == 3, "three wait");
    let report = doctor.finish()?;
    for (id, number, expected) in [
        ("closes_unread_data", "traced", 6),
        ("closes_linger_zero", "traced", 7),
        ("peer_resets", "traced", 6 + 7),
        ("connects_refused", "traced", 5),
        ("connects_unanswered", "waiting", 3),
    ] {
        let found = report.finding(id)?;
        ensure!(found.number(number)? == expected, "{number} is not {expected}: {found:#?}");
        is_mine(found)?;
    }
    let service = |id: &str| Ok::<_, anyhow::Error>(report.finding(id)?.first()?.service.clone());
    ensure!(service("connects_refused")? == closed.local()?.to_string(), "the destination is named");
    ensure!(service("connects_unanswered")? == unresponsive.local()?.to_string(), "the destination is named");
    drop(waiting);
    Ok(())
}

/// FIN_WAIT2 that a process holds, and a pile of those that none does.
pub fn half_closed(lab: &Lab) -> Result<()> {
    let doctor = Doctor::start(lab)?;
    let held = ConnectedPair::open(IpFamily::V4)?;
    held.client.shutdown_write()?;
    held.client.wait(FinWait2)?;
    let mut orphans = Vec::new();
    for _ in 0..210 {
        let mut pair = ConnectedPair::open(IpFamily::V4)?;
        pair.client.close();
        orphans.push(pair);
    }
    hold(LONG);
    let report = doctor.finish()?;
    let found = report.finding("fin_wait2_held")?;
    ensure!(found.number("old")? == 1, "{found:#?}");
    is_mine(found)?;
    let fd = held.client.socket()?.as_raw_fd().cast_unsigned();
    ensure!(found.first()?.fds == [fd], "descriptor {fd}: {found:#?}");
    let found = report.finding("fin_wait2_orphans")?;
    ensure!(found.number("orphans")? == 210, "{found:#?}");
    ensure!(report.finding("close_wait_leak")?.severity == "critical", "{report:#?}");
    Ok(())
}

/// Unusual settings, each reported for its namespace.
pub fn settings(lab: &Lab) -> Result<()> {
    let healthy = Doctor::start(lab)?.finish()?;
    ensure!(healthy.schema == "tcptrace.doctor.v1" && healthy.seen.len() >= 4, "{healthy:#?}");
    let wrong: Vec<_> = healthy.findings.iter().filter(|finding| finding.severity != "note").collect();
    ensure!(wrong.is_empty(), "nothing is wrong yet: {wrong:#?}");
    for (name, value) in [
        ("tcp_timestamps", "0"),
        ("tcp_fin_timeout", "30"),
        ("tcp_rfc1337", "1"),
        ("tcp_max_tw_buckets", "1000"),
        ("ip_local_port_range", "42000 43000"),
    ] {
        netns::sysctl(name, value)?;
    }
    let _listener = listener(IpFamily::V4, 8)?;
    let report = Doctor::start(lab)?.finish()?;
    for id in [
        "timestamps_off",
        "fin_timeout_shortened",
        "rfc1337",
        "tw_buckets_lowered",
        "port_range",
        "port_range_listeners",
    ] {
        let found = report.finding(id)?;
        ensure!(!found.title.is_empty() && !found.evidence.is_empty() && !found.fix.is_empty(), "{found:#?}");
    }
    Ok(())
}

/// A recording read with `--from` gives the findings of the live run.
pub fn from_recording(lab: &Lab) -> Result<()> {
    netns::sysctl("tcp_max_tw_buckets", "10")?;
    let folder = TempFolder::new()?;
    let file = folder.file("a.tcptrace");
    let path = file.to_str().context("a path")?;
    let netns = lab.netns().to_string();
    let recorder = RecorderProcess::start(lab, &file, &[])?;
    let doctor = Doctor::start(lab)?;
    let mut leak = ConnectedPair::open(IpFamily::V4)?;
    leak.client.close();
    for _ in 0..20 {
        let mut pair = ConnectedPair::open(IpFamily::V4)?;
        pair.client.close();
        pair.server.wait(CloseWait)?;
        pair.server.close();
    }
    hold(Duration::from_secs(6));
    let live = doctor.finish()?;
    recorder.signal(Signal::TERM)?;
    recorder.wait()?;
    let output = lab.run(&["doctor", "--json", "--from", path, "--netns", &netns])?;
    let replayed = DoctorDocument::parse(&output.stdout)?;
    ensure!(!live.findings.is_empty(), "nothing was found");
    let ids = |report: &DoctorDocument| -> Vec<String> {
        report.findings.iter().map(|found| found.id.clone()).collect()
    };
    ensure!(ids(&live) == ids(&replayed), "{:?} live, {:?} from the recording", ids(&live), ids(&replayed));
    for id in ["time_wait_overflow", "close_wait_leak"] {
        let (live, replayed) = (live.finding(id)?, replayed.finding(id)?);
        ensure!(
            live.numbers == replayed.numbers && live.title == replayed.title,
            "{live:#?} live, {replayed:#?} later"
        );
        ensure!(
            live.who.iter().map(|who| &who.fds).eq(replayed.who.iter().map(|who| &who.fds)),
            "{replayed:#?}"
        );
    }
    Ok(())
}

/// Without privilege it reports what it can, and names the rest.
pub fn ordinary_user(lab: &Lab) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Skip("only root can become somebody else".into()).into());
    }
    let copy = lab.public_copy()?;
    let mut pair = ConnectedPair::open(IpFamily::V4)?;
    pair.client.close();
    pair.server.wait(CloseWait)?;
    let mut command = std::process::Command::new(&copy.0);
    command.args(["doctor", "--json", "--for", "3s"]);
    std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    let output = crate::lab::run_to_end(command)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "it ended with {}: {stderr}", output.status);
    let report = DoctorDocument::parse(&output.stdout)?;
    let found = report.finding("close_wait_leak")?;
    ensure!(found.number("old")? == 1, "{found:#?}");
    ensure!(
        String::from_utf8_lossy(&output.stdout).contains("Nothing is traced"),
        "it does not report what it cannot see"
    );
    Ok(())
}

/// A client that runs out of ports: destination and process are named; then reuse cures it, and both counts agree.
pub fn ports_exhausted(lab: &Lab) -> Result<()> {
    netns::sysctl("ip_local_port_range", "42000 42099")?;
    netns::keep_time_wait()?;
    let mut listener = TestSocket::listen((IpFamily::V4.loopback(), 7_000).into())?;
    let doctor = Doctor::start(lab)?;
    let mut failures = 0;
    for _ in 0..110 {
        let client = IpFamily::V4.socket()?;
        match client.connect(&listener.local()?.into()) {
            Ok(()) => listener = close_client_first(listener, client)?,
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => failures += 1,
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(failures == 10, "{failures} connects found no port");
    let found = doctor.finish()?.finding("client_ports_exhausted")?.clone();
    let numbers = [found.number("failures")?, found.number("available")?, found.number("time_wait")?];
    // Where segments are not visible, a sweep about once a second finds the sockets that left FIN_WAIT2.
    let time_wait = match Precision::of(lab.binary()?)? {
        Precision::Segments => 100..=100,
        Precision::Timers => 0..=100,
    };
    ensure!(numbers[..2] == [10, 100] && time_wait.contains(&numbers[2]), "{numbers:?}: {found:#?}");
    is_mine(&found)?;
    ensure!(found.first()?.service == listener.local()?.to_string(), "{found:#?}");
    ensure!(found.fix.iter().any(|line| line.contains("sysctl -w net.ipv4.tcp_tw_reuse=1")), "{found:#?}");

    // The cure, once the last of them is old enough.
    netns::sysctl("tcp_tw_reuse", "1")?;
    hold(Duration::from_millis(1_200));
    let doctor = Doctor::start(lab)?;
    let reuse = || -> Result<()> {
        for _ in 0..60 {
            let client = IpFamily::V4.socket()?;
            client.connect(&listener.local()?.into()).context("reuse does not help")?;
            let (server, _) = listener.socket()?.accept()?;
            process::close((client, server));
        }
        Ok(())
    };
    kernel::counts("TWRecycled", 60, reuse)?;
    let report = doctor.finish()?;
    let found = report.finding("tw_reuse")?;
    let numbers = [found.number("recycled_counted")?, found.number("reused_traced")?];
    ensure!(numbers == [60, 60], "{numbers:?}: {found:#?}");
    ensure!(report.finding("client_ports_exhausted").is_err(), "it is cured: {report:#?}");
    Ok(())
}

/// Leaves a TIME_WAIT on the client's side.
fn close_client_first(listener: TestSocket, client: Socket) -> Result<TestSocket> {
    let (server, _) = listener.socket()?.accept()?;
    let client = TestSocket::new("client", EventRole::Outbound, client)?;
    let mut server = TestSocket::new("server", EventRole::Inbound, server)?;
    let mut client = client;
    client.close();
    server.wait(CloseWait)?;
    server.close();
    client.wait(TimeWait)?;
    Ok(listener)
}
