//! Containers start and end, with hostile peers in them, while `tcptrace serve` runs: its tables return to their size, and
//! its memory does not grow.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use socket2::{Domain, Socket, Type};

use super::serve::{Exporter, MetricSamples, address, scrape};
use crate::clock::{hold, is_emulated, soon, wait_for};
use crate::lab::{Lab, Skip};
use crate::netns;
use crate::process::StartChild as _;

/// Environment variable with the duration in seconds; without it the number of containers ends the run.
const SECONDS: &str = "TCPTRACE_CHURN_SECONDS";
/// Set for the process that makes the containers: the folder of their cgroups.
const CHILD: &str = "TCPTRACE_CHURN_CHILD";
/// Where `ip netns` has its names.
const NAMES: &str = "/run/netns";
/// Address of both ends of every connection in a container: a filter excludes the rest of the host.
const ADDRESSES: &str = "127.64.0.0/10";
const LISTENER: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);
/// Containers that exist at a time.
const WINDOW: usize = 64;
/// Connections in each.
const CONNECTIONS: usize = 8;
/// Containers made between two reads of the clock.
const PORTION: usize = 50;
/// Memory after any later part against memory after the first, where a part is a minute: tables of 8,192 names take
/// more than one to fill.
const MOST_GROWTH: f64 = 1.1;
/// Memory at the end against memory after half of the parts.
const MOST_GROWTH_LATER: f64 = 1.03;
/// The same where a part is over before every table has reached its limit.
const MOST_GROWTH_WHILE_FILLING: f64 = 1.25;
/// CPU time for a container in any later part against the first.
const MOST_SLOWER: f64 = 2.0;
/// Entries that other processes of the host may add to a table meanwhile.
const OTHERS: f64 = 50.0;
/// Tables whose entries must be removed with their container.
const TABLES: [&str; 8] = [
    "netns_settings",
    "processes",
    "listeners",
    "handshakes",
    "connects",
    "pending_ends",
    "minisockets_set_aside",
    "synacks_again",
];
/// Rows of the tables of names and of what has ended.
const MOST_ROWS: f64 = (1 << 14) as f64;

/// Where there are two parts, each ends after so many containers, or when its time is over.
fn short_part() -> (usize, Duration) {
    (if is_emulated() { 100 } else { 2_000 }, 2 * soon())
}

/// With a longer duration.
const LONG_PART: Duration = Duration::from_secs(60);

/// Many containers start and end while an exporter runs.
pub fn containers(lab: &Lab) -> Result<()> {
    let seconds: Option<u64> =
        std::env::var(SECONDS).ok().map(|text| text.parse().context(SECONDS)).transpose()?;
    let exporter = Exporter::start_for(lab, &format!("local {ADDRESSES}"), &[])?;
    let before = scrape()?;
    let stop = AtomicBool::new(false);
    let parts = std::thread::scope(|scope| {
        let scrapers = scope.spawn(|| hostile_scrapers(&stop));
        let churned = churn(seconds.map(Duration::from_secs));
        stop.store(true, Ordering::Relaxed);
        scrapers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        churned
    })?;
    print(&before, &parts);

    // A sweep finds the ends.
    let mut last = String::new();
    // It pauses for a hundred times as long as one takes.
    let returned = wait_for("the tables to return to their size", 12 * soon(), || {
        let now = scrape()?;
        let grown: Vec<_> =
            TABLES.iter().filter(|table| rows(&now, table) > rows(&before, table) + OTHERS).collect();
        last =
            grown.iter().map(|table| format!("{table} {}", rows(&now, table))).collect::<Vec<_>>().join(", ");
        Ok(grown.is_empty().then_some(now))
    });
    let end = returned.context(last)?;
    for table in ["netns_names", "cgroup_paths", "groups", "destinations"] {
        ensure!(rows(&end, table) <= MOST_ROWS, "{} {table}", rows(&end, table));
    }
    let (first, later) = parts.split_first().context("no part")?;
    let made = rows(&first.samples, "netns_settings") > rows(&before, "netns_settings");
    ensure!(first.resident() > 0.0 && made, "it knew of no container: {:?}", first.samples);
    ensure!(rows(&end, "cgroup_paths") > rows(&before, "cgroup_paths"), "no container had a name");
    let most_growth = if seconds.is_some() { MOST_GROWTH } else { MOST_GROWTH_WHILE_FILLING };
    let at_first = first.cpu_per_container(&before);
    for (part, last) in later.iter().zip(&parts) {
        let (early, late) = (first.resident(), part.resident());
        ensure!(late <= early * most_growth, "{early} bytes resident after the first part, {late} later");
        let late = part.cpu_per_container(&last.samples);
        ensure!(late <= at_first * MOST_SLOWER, "{at_first} s of CPU per container at first, {late} s later");
    }
    let half = &parts[parts.len() / 2];
    ensure!(
        parts.len() < 6 || parts.iter().all(|part| part.resident() <= half.resident() * MOST_GROWTH_LATER),
        "memory still grew in the second half"
    );
    let evicted = end.get("tcptrace_lost_total{cause=\"evicted\"}").copied().unwrap_or_default();
    ensure!(evicted == 0.0, "{evicted} evicted");
    exporter.stop().map(drop)
}

/// Memory, CPU time and the largest tables after each part.
fn print(before: &MetricSamples, parts: &[ChurnPart]) {
    println!("    churn::containers: {:.1} MiB resident before", resident(before) / MIB);
    let mut last = before;
    for part in parts {
        let mut tables: Vec<_> = part.samples.iter().filter_map(table_rows).collect();
        tables.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let tables: Vec<_> = tables.iter().take(6).map(|(table, rows)| format!("{table} {rows}")).collect();
        println!(
            "    {} containers in {:.0} s: {:.1} MiB resident, {:.2} of a CPU; {}",
            part.containers,
            part.took.as_secs_f64(),
            part.resident() / MIB,
            part.cpu_per_container(last) * part.containers as f64 / part.took.as_secs_f64(),
            tables.join(", "),
        );
        last = &part.samples;
    }
}

pub(super) const MIB: f64 = 1_048_576.0;
const TABLE_ROWS: &str = "tcptrace_table_rows{table=\"";

fn table_rows<'a>((series, &rows): (&'a String, &f64)) -> Option<(&'a str, f64)> {
    Some((series.strip_prefix(TABLE_ROWS)?.strip_suffix("\"}")?, rows))
}

/// Resident memory of the exporter, in bytes.
pub(super) fn resident(samples: &MetricSamples) -> f64 {
    samples.get("process_resident_memory_bytes").copied().unwrap_or_default()
}

fn cpu_seconds(samples: &MetricSamples) -> f64 {
    samples.get("process_cpu_seconds_total").copied().unwrap_or_default()
}

fn rows(samples: &MetricSamples, table: &str) -> f64 {
    samples.get(&format!("{TABLE_ROWS}{table}\"}}")).copied().unwrap_or(f64::INFINITY)
}

/// One part of the churn.
struct ChurnPart {
    containers: usize,
    took: Duration,
    /// At its end.
    samples: MetricSamples,
}

impl ChurnPart {
    fn resident(&self) -> f64 {
        resident(&self.samples)
    }

    /// Seconds of CPU per container, where `before` was scraped when the part began.
    fn cpu_per_container(&self, before: &MetricSamples) -> f64 {
        (cpu_seconds(&self.samples) - cpu_seconds(before)) / self.containers as f64
    }
}

/// Two parts; or parts of a minute, for `time`.
fn churn(time: Option<Duration>) -> Result<Vec<ChurnPart>> {
    let mut host = ContainerHost::start()?;
    let (most, longest) = if time.is_some() { (usize::MAX, LONG_PART) } else { short_part() };
    let began = Instant::now();
    let mut parts = Vec::new();
    while parts.len() < 2 || time.is_some_and(|time| began.elapsed() < time) {
        let began = Instant::now();
        let mut containers = 0;
        while containers < most && began.elapsed() < longest {
            host.make(PORTION)?;
            containers += PORTION;
        }
        parts.push(ChurnPart { containers, took: began.elapsed(), samples: scrape()? });
    }
    Ok(parts)
}

/// Scrapers that send nothing, too much, or garbage.
fn hostile_scrapers(stop: &AtomicBool) {
    let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    let requests = ["", "GET /metrics HTTP/1.1\r\n", "\x16\x03\x01", &long];
    let mut open = VecDeque::new();
    for request in requests.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(mut stream) = TcpStream::connect(address()) {
            // The server may have closed the connection.
            stream.write_all(request.as_bytes()).ok();
            open.push_back(stream);
        }
        // Few enough that others get their answer.
        if open.len() > 8 {
            open.pop_front();
        }
        hold(Duration::from_millis(20));
    }
}

/// The process that makes the containers, and the folder of their cgroups, removed on drop.
struct ContainerHost {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl ContainerHost {
    fn start() -> Result<Self> {
        let root = cgroup_root().ok_or_else(|| Skip("no cgroup v2 here".into()))?;
        let folder = root.join(format!("tcptrace-churn-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| Skip(format!("no cgroups can be made: {error}")))?;
        let child = Command::new(std::env::current_exe()?)
            .env(CHILD, &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .start();
        let mut child = child.inspect_err(|_| drop(fs::remove_dir(&folder)))?;
        let (to, from) = (child.stdin.take(), child.stdout.take().context("its stdout")?);
        Ok(Self { child, to, from: BufReader::new(from), folder })
    }

    fn make(&mut self, containers: usize) -> Result<()> {
        writeln!(self.to.as_mut().context("its stdin")?, "{containers}")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        ensure!(line == "made\n", "the containers could not be made: {line}");
        Ok(())
    }
}

impl Drop for ContainerHost {
    fn drop(&mut self) {
        // It removes what it made.
        self.to = None;
        let ended = wait_for("the containers to end", soon(), || Ok(self.child.try_wait()?));
        if ended.is_err() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        // After a kill this is the only clean-up.
        for name in entries(Path::new(NAMES)) {
            if name.to_string_lossy().contains(&format!("tcptrace-{}-", self.child.id())) {
                unname(&name);
            }
        }
        entries(&self.folder).filter(|entry| entry.is_dir()).for_each(|cgroup| remove_cgroup(&cgroup));
        remove_cgroup(&self.folder);
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Where cgroup v2 is mounted.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    mount.split(' ').nth(1).map(PathBuf::from)
}

/// In the process that makes the containers: makes the number in each line of its input; `None` in any other process.
pub fn as_child() -> Option<ExitCode> {
    let folder = PathBuf::from(std::env::var_os(CHILD)?);
    Some(match serve_parent(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn serve_parent(folder: &Path) -> Result<()> {
    fs::create_dir_all(NAMES)?;
    let home = folder.join("home");
    fs::create_dir(&home)?;
    let mut window = VecDeque::new();
    let mut number = 0;
    let made = (|| {
        for line in std::io::stdin().lines() {
            for _ in 0..line?.parse::<usize>()? {
                number += 1;
                window.push_back(Container::run(folder, number)?);
                if window.len() > WINDOW {
                    window.pop_front();
                }
            }
            println!("made");
        }
        Ok(())
    })();
    fs::write(home.join("cgroup.procs"), "0")?;
    drop(window);
    fs::write(folder.join("../cgroup.procs"), "0")?;
    remove_cgroup(&home);
    made
}

/// A network namespace with a name, and a cgroup; both removed on drop.
struct Container {
    cgroup: PathBuf,
    name: PathBuf,
}

impl Container {
    /// Makes it, runs what is in it, and leaves it.
    fn run(folder: &Path, number: u32) -> Result<Self> {
        let comm = format!("box-{number}");
        let container = Self {
            cgroup: folder.join(&comm),
            name: Path::new(NAMES).join(format!("tcptrace-{}-{number}", std::process::id())),
        };
        fs::create_dir(&container.cgroup)?;
        fs::write(container.cgroup.join("cgroup.procs"), "0").context("enter the cgroup")?;
        fs::write("/proc/self/comm", &comm)?;
        netns::enter_new()?;
        File::create(&container.name)?;
        mount_bind("/proc/thread-self/ns/net", &container.name).context("name the namespace")?;
        talk(number)?;
        fs::write(folder.join("home/cgroup.procs"), "0").context("leave the cgroup")?;
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        unname(&self.name);
        remove_cgroup(&self.cgroup);
    }
}

fn unname(path: &Path) {
    unmount(path, UnmountFlags::DETACH).ok();
    fs::remove_file(path).ok();
}

fn remove_cgroup(path: &Path) {
    for _ in 0..100 {
        if fs::remove_dir(path).is_ok() {
            return;
        }
        hold(Duration::from_millis(1));
    }
}

/// Connections from peers of different addresses, which end in different ways, and one that is refused.
fn talk(number: u32) -> Result<()> {
    let listener = TcpListener::bind((LISTENER, 0))?;
    let target = listener.local_addr()?;
    for n in 0..CONNECTIONS {
        let client = peer(number, n)?;
        client.connect(&target.into())?;
        let (mut server, _) = listener.accept()?;
        match n % 4 {
            // The peer closes first, the server does, the peer resets, the server forgets to read.
            0 => drop(client),
            1 => {
                drop(server);
                continue;
            }
            2 => {
                client.set_linger(Some(Duration::ZERO))?;
                drop(client);
            }
            _ => {
                client.send(b"unread")?;
                drop(server);
                continue;
            }
        }
        let mut end = [0];
        // A reset is an end as well.
        server.read_exact(&mut end).ok();
    }
    drop(listener);
    if peer(number, CONNECTIONS)?.connect(&target.into()).is_ok() {
        bail!("nobody listens at {target}");
    }
    Ok(())
}

/// A socket of the `n`-th peer of a container.
fn peer(number: u32, n: usize) -> Result<Socket> {
    let [_, _, a, b] = number.to_be_bytes();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 65 + n as u8, a, b), 0)).into())?;
    Ok(socket)
}
