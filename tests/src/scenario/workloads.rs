//! Pods and containers by name: processes in cgroups as a kubelet and Docker make them, whose names are in log files and
//! state files below a folder that stands for the host's root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::clock::{soon, wait_for};
use crate::hidden_events::HiddenEvents;
use crate::lab::{Lab, Skip};
use crate::netns;
use crate::process::{self, KillOnDrop, StartChild as _};
use crate::scenario::churn::{MIB, cgroup_root, resident};
use crate::scenario::nat::ip;
use crate::scenario::recording::{RecorderProcess, TempFolder};
use crate::scenario::serve::{Exporter, scrape};
use crate::tracer::nothing_is_lost;

/// Set for a process in a container: the folder of its cgroup, its port, and how many of its connections end.
pub(super) const CHILD: &str = "TCPTRACE_WORKLOAD_CHILD";
/// Instead of the folder.
pub(super) const IN_CONTAINER: &str = "-";
/// Connections that a client leaves in TIME_WAIT, and that a server holds in CLOSE_WAIT.
pub(super) const TIME_WAIT: u64 = 500;
pub(super) const CLOSE_WAIT: usize = 5;
/// Containers that come and go, their ports, and their connections that end.
const CONTAINERS: u16 = 200;
const PORTS: u16 = 10;
const FEW: u64 = 3;
const MANY: u64 = 40;
/// Parts after which memory is compared, and the most that it may grow after the first.
const PARTS: u16 = 4;
const MOST_GROWTH: f64 = 1.1;
/// Groups that have metrics of their own.
const PLACES: usize = 8;

const POD: &str = "shop/checkout-7d9f";
const UID: &str = "1b2c3d4e-5f60-7182-93a4-b5c6d7e8f901";
/// A name that no runtime would accept, as it is in the file, and as it is shown.
const HOSTILE: &str = r#"/..\/\u001b[2J\"evil\n"#;
const HOSTILE_SHOWN: &str = "../?[2J\"evil?";

/// A folder that stands for the root of the host, and one for cgroups, removed on drop.
struct ContainerHost {
    root: TempFolder,
    cgroups: PathBuf,
}

impl ContainerHost {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = cgroup_root().ok_or_else(|| Skip("no cgroup v2 here".into()))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroups = root.join(format!("tcptrace-workloads-{}-{number}", std::process::id()));
        fs::create_dir(&cgroups).map_err(|error| Skip(format!("no cgroups can be made: {error}")))?;
        Ok(Self { root: TempFolder::new()?, cgroups })
    }

    fn root(&self) -> String {
        self.root.file("host").to_string_lossy().into_owned()
    }

    fn file(&self, path: &str, content: &str) -> Result<PathBuf> {
        let path = self.root.file("host").join(path);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(&path, content)?;
        Ok(path)
    }

    /// Starts a process in the container `id`, which may be in a pod, and waits for its connections.
    fn start(&self, folder: &str, id: &str, port: u16, ends: u64) -> Result<Container> {
        let cgroup = self.cgroups.join(folder).join(id);
        fs::create_dir_all(&cgroup)?;
        let child = Command::new(std::env::current_exe()?)
            .env(CHILD, format!("{port} {ends} {}", cgroup.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .start();
        let mut child = KillOnDrop(child?);
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its stdout")?).read_line(&mut line)?;
        ensure!(line == "connected\n", "the process in {}: {line}", cgroup.display());
        Ok(Container { child, cgroup })
    }

    /// Starts a process in a container that has a network namespace of its own, with this address.
    fn start_at(&self, address: &str, id: &str) -> Result<Container> {
        let start = || {
            netns::enter_new()?;
            ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
            self.start("docker", id, 7001, 0)
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(start);
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for ContainerHost {
    fn drop(&mut self) {
        for folder in ["docker", &format!("pod{UID}")] {
            fs::remove_dir(self.cgroups.join(folder)).ok();
        }
        fs::remove_dir(&self.cgroups).ok();
    }
}

/// A process in a cgroup of its own, both removed on drop.
struct Container {
    child: KillOnDrop,
    cgroup: PathBuf,
}

impl Container {
    /// Ends it, and removes its cgroup.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        wait_for("the process to end", soon(), || Ok(self.child.try_wait()?))?;
        let cgroup = self.cgroup.clone();
        wait_for("the cgroup to be empty", soon(), || Ok(fs::remove_dir(&cgroup).ok()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir(&self.cgroup).ok();
    }
}

/// In a process of a container: makes its connections; `None` in any other process.
pub fn as_child() -> Option<ExitCode> {
    let args = std::env::var(CHILD).ok()?;
    Some(match connect(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Connections that the client closes first: the server closes most of them, too, and holds the others.
fn connect(args: &str) -> Result<()> {
    let mut args = args.splitn(3, ' ');
    let mut next = || args.next().context("an argument");
    let (port, ends): (u16, u64) = (next()?.parse()?, next()?.parse()?);
    let cgroup = next()?;
    // A runtime has put it into its own.
    if cgroup != IN_CONTAINER {
        fs::write(Path::new(cgroup).join("cgroup.procs"), "0").context("enter the cgroup")?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let target: SocketAddr = listener.local_addr()?;
    let mut held = Vec::new();
    for n in 0..ends + CLOSE_WAIT as u64 {
        let client = TcpStream::connect(target)?;
        let (mut server, _) = listener.accept()?;
        process::close(client);
        ensure!(server.read(&mut [0])? == 0, "no end of the stream");
        if n >= ends {
            held.push(server);
        }
    }
    println!("connected");
    // Until the scenario closes it.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A container of podman, with a storage of its own below the folder that stands for the host's root.
pub(super) struct Podman {
    /// Its options.
    options: Vec<String>,
    storage: PathBuf,
}

impl Podman {
    pub(super) const IMAGE: &str = "localhost/shop:1";

    fn new(host: &TempFolder) -> Result<Self> {
        let storage = host.file("host/var/lib/containers/storage");
        fs::create_dir_all(&storage)?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut options =
            vec!["--root".to_owned(), path(&storage), "--runroot".into(), path(&host.file("run"))];
        let same = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"];
        options.extend(same.map(str::to_owned));
        let podman = Self { options, storage };
        let version = podman.command(&["--version"]).finish();
        ensure!(version.is_ok_and(|done| done.status.success()), Skip("no podman here".into()));
        Ok(podman)
    }

    /// A root with nothing but places for the host's programs, as [`Self::IMAGE`], and proof that it runs.
    pub(super) fn with_image(folder: &TempFolder) -> Result<Self> {
        let podman = Self::new(folder)?;
        let tree = folder.file("tree");
        for place in ["usr", "proc", "sys", "dev", "etc", "tmp", "run"] {
            fs::create_dir_all(tree.join(place))?;
        }
        for link in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), tree.join(link))?;
        }
        let archive = folder.file("tree.tar").to_string_lossy().into_owned();
        let packed = Command::new("tar")
            .args(["--create", "--file", &archive, "--directory"])
            .arg(&tree)
            .arg(".")
            .finish()?;
        ensure!(packed.status.success(), "tar: {}", String::from_utf8_lossy(&packed.stderr));
        podman.run(&["import", "--quiet", &archive, "localhost/shop:1"])?;
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let probe = ["--network", "host", "--volume", "/usr:/usr:ro", "localhost/shop:1", "/usr/bin/true"];
        podman
            .run(&[&["run", "--rm"], &limits[..], &probe].concat())
            .map_err(|error| Skip(format!("podman can't run a container here: {error:#}")))?;
        Ok(podman)
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.args(&self.options).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let done = self.command(args).finish()?;
        ensure!(done.status.success(), "podman {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]).ok();
        self.run(&["rmi", "--all", "--force"]).ok();
        fs::remove_dir_all(&self.storage).ok();
    }
}

/// A container that podman runs: its name and image, exact counts, also after podman has removed it.
pub fn podman(lab: &Lab) -> Result<()> {
    netns::keep_time_wait()?;
    let folder = TempFolder::new()?;
    let podman = Podman::with_image(&folder)?;
    let (netns, root) = (lab.netns().to_string(), folder.file("host").to_string_lossy().into_owned());
    let args =
        ["top", "--json", "--interval", "1s", "--netns", &netns, "--host-root", &root, "--by", "container"];
    let top = TopRun::start(lab, &args)?;
    let exe = format!("{}:/child:ro", std::env::current_exe()?.display());
    let child = format!("{CHILD}=7001 {TIME_WAIT} {IN_CONTAINER}");
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
    let run = ["run", "--interactive", "--name", "shop-db", "--network", "host", "--env", &child];
    let run =
        [&run[..], &limits, &["--volume", "/usr:/usr:ro", "--volume", &exe, "localhost/shop:1", "/child"]];
    let mut container =
        KillOnDrop(podman.command(&run.concat()).stdin(Stdio::piped()).stdout(Stdio::piped()).start()?);
    let mut line = String::new();
    BufReader::new(container.stdout.take().context("its stdout")?).read_line(&mut line)?;
    ensure!(line == "connected\n", "the container: {line}");
    let held = CLOSE_WAIT as u64;
    let is = |document: &TopDocument, counts: (u64, u64)| document.counts() == [("shop-db", counts)].into();
    let document = top.wait(|document| is(document, (TIME_WAIT, held)))?;
    let image = document.groups.iter().find_map(|group| group.process.as_ref()?.image.as_deref());
    ensure!(image == Some("localhost/shop:1"), "the image is {image:?}");
    drop(container.stdin.take());
    wait_for("the container to end", 3 * soon(), || Ok(container.try_wait()?))?;
    podman.run(&["rm", "shop-db"])?;
    top.wait(|document| is(document, (TIME_WAIT + held, 0)))?;
    top.finish()
}

/// A document of `tcptrace top`.
#[derive(Debug, Deserialize)]
pub(super) struct TopDocument {
    groups: Vec<TopGroup>,
}

#[derive(Debug, Deserialize)]
struct TopGroup {
    key: String,
    peer_name: Option<String>,
    counts: BTreeMap<String, u64>,
    process: Option<TopProcess>,
}

#[derive(Debug, Deserialize)]
struct TopProcess {
    container: Option<String>,
    image: Option<String>,
    exe: Option<String>,
    uid: Option<u32>,
}

impl TopDocument {
    /// Sockets in `TIME_WAIT` and `CLOSE_WAIT` by group.
    pub(super) fn counts(&self) -> BTreeMap<&str, (u64, u64)> {
        let of = |group: &TopGroup, state: &str| group.counts.get(state).copied().unwrap_or_default();
        let counts = |group| (of(group, "TIME_WAIT"), of(group, "CLOSE_WAIT"));
        let groups = self.groups.iter().map(|group| (group.key.as_str(), counts(group)));
        groups.filter(|(_, counts)| *counts != (0, 0)).collect()
    }

    /// Names of the groups that are peers.
    fn peer_names(&self) -> BTreeMap<&str, Option<&str>> {
        self.groups.iter().map(|group| (group.key.as_str(), group.peer_name.as_deref())).collect()
    }
}

/// A running `tcptrace top --json`.
pub(super) struct TopRun {
    child: KillOnDrop,
    /// Its documents so far.
    lines: Arc<Mutex<Vec<String>>>,
    stderr: ChildStderr,
    hidden: HiddenEvents,
}

impl TopRun {
    /// Starts it, and waits for its first document: then it traces.
    pub(super) fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let hidden = HiddenEvents::now();
        let mut command = Command::new(lab.binary()?);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = KillOnDrop(command.start()?);
        let stdout = BufReader::new(child.stdout.take().context("its stdout")?);
        let stderr = child.stderr.take().context("its stderr")?;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let shared = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let run = Self { child, lines, stderr, hidden };
        wait_for("the first document", 3 * soon(), || Ok(run.newest()))?;
        Ok(run)
    }

    fn newest(&self) -> Option<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// The first document that `is_complete` accepts; after a time-out an error with the newest.
    pub(super) fn wait(&self, is_complete: impl Fn(&TopDocument) -> bool) -> Result<TopDocument> {
        let newest = || serde_json::from_str::<TopDocument>(&self.newest().unwrap_or_default());
        let complete = wait_for("the document to be complete", soon(), || {
            Ok(Some(newest()?).filter(|document| is_complete(document)))
        });
        complete.with_context(|| format!("{:#?}", newest().map(|document| document.groups)))
    }

    /// Ends it and checks that nothing was lost.
    pub(super) fn finish(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = wait_for("top to end", soon(), || Ok(self.child.try_wait()?))?;
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr)?;
        let hidden = self.hidden.count();
        let is_whole = status.success() && nothing_is_lost(&stderr, hidden);
        ensure!(is_whole, "{status}, {hidden} events hidden by the kernel: {stderr}");
        Ok(())
    }
}

/// A pod, a container of Docker and one with a hostile name: exact counts by name, live and from the recording, also
/// after their end and where their files are absent.
pub fn named(lab: &Lab) -> Result<()> {
    netns::keep_time_wait()?;
    let host = ContainerHost::new()?;
    let root = host.root();
    let [app, web, evil] = ["a", "b", "c"].map(|digit| digit.repeat(64));
    let files = [
        host.file(&format!("var/log/containers/checkout-7d9f_shop_app-{app}.log"), "")?,
        host.file(&format!("var/log/pods/shop_checkout-7d9f_{UID}/app/0.log"), "")?,
        host.file(
            &format!("var/lib/docker/containers/{web}/config.v2.json"),
            r#"{"Name": "/web-1", "Config": {"Image": "nginx:1"}}"#,
        )?,
        host.file(
            &format!("var/lib/docker/containers/{evil}/config.v2.json"),
            &format!(r#"{{"Name": "{HOSTILE}", "Config": {{"Image": "{}"}}}}"#, "x".repeat(10_000)),
        )?,
    ];
    let folder = TempFolder::new()?;
    let file = folder.file("names.tcptrace");
    let netns = lab.netns().to_string();
    let recorder = RecorderProcess::start(lab, &file, &["--netns", &netns, "--host-root", &root])?;
    let top = |by: &'static str| {
        let args = ["top", "--json", "--interval", "1s", "--netns", &netns, "--host-root", &root, "--by", by];
        TopRun::start(lab, &args)
    };
    let (pods, containers) = (top("pod")?, top("container")?);
    let of_pod = top("pod,k8s-namespace")?;

    let pod = format!("pod{UID}");
    let started = [
        host.start(&pod, &app, 7001, TIME_WAIT)?,
        host.start("docker", &web, 7002, TIME_WAIT)?,
        host.start("docker", &evil, 7003, FEW)?,
    ];
    let held = CLOSE_WAIT as u64;
    let label = format!("{POD} (app)");
    let is = |document: &TopDocument, expected: &[(&str, (u64, u64))]| {
        document.counts() == expected.iter().copied().collect()
    };
    let expect = |top: &TopRun, expected: &[(&str, (u64, u64))]| top.wait(|document| is(document, expected));
    let other = (TIME_WAIT + FEW, 2 * held);
    expect(&pods, &[(POD, (TIME_WAIT, held)), ("no pod", other)])?;
    expect(&of_pod, &[(&format!("{POD} / shop"), (TIME_WAIT, held)), ("no pod / no k8s-namespace", other)])?;
    let named = [(&*label, (TIME_WAIT, held)), ("web-1", (TIME_WAIT, held)), (HOSTILE_SHOWN, (FEW, held))];
    check_processes(&expect(&containers, &named)?)?;

    // They are deleted, and nothing on the host names them any more: their TIME_WAIT have their names.
    for container in started {
        container.end()?;
    }
    for file in files {
        fs::remove_file(file)?;
    }
    // Their clients' FIN_WAIT2 has become TIME_WAIT, too.
    let (many, few) = ((TIME_WAIT + held, 0), (FEW + held, 0));
    expect(&pods, &[(POD, many), ("no pod", (many.0 + few.0, 0))])?;
    let gone = [(&*label, many), ("web-1", many), (HOSTILE_SHOWN, few)];
    expect(&containers, &gone)?;
    [pods, of_pod, containers].into_iter().try_for_each(TopRun::finish)?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");

    let file = file.to_string_lossy();
    let from = |args: &[&str]| {
        let output = lab.run(&[&["top", "--once", "--json", "--from", &file], args].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice::<TopDocument>(&output.stdout).context(stderr)
    };
    let document = from(&["--by", "container"])?;
    ensure!(is(&document, &gone), "from the recording: {document:#?}");
    for filter in [["--pod", "checkout*"], ["--container", "app"], ["--k8s-namespace", "shop"]] {
        let document = from(&[&["--by", "pod"][..], &filter].concat())?;
        ensure!(is(&document, &[(POD, many)]), "{filter:?}: {document:#?}");
    }
    Ok(())
}

/// Peers by name: an address in the namespace of a container, one in `/etc/hosts`, one in a file of the user; live, from
/// the recording where none of them exists, and after another container got the address.
///
/// Names follow from addresses alone, so the loopback device stands for the link between the namespaces: of a network that
/// it has, every address answers. This kernel may have no pairs of devices.
pub fn peers(lab: &Lab) -> Result<()> {
    netns::keep_time_wait()?;
    // Another run of this scenario has other addresses.
    let own = lab.netns() % 256;
    let address = |net: u8, host: u8| format!("10.{net}.{own}.{host}");
    for local in [address(73, 1), address(74, 1)] {
        ip(&["addr", "add", &format!("{local}/24"), "dev", "lo"])
            .map_err(|error| Skip(format!("{error:#}")))?;
    }
    let [container, printer, database] = [address(73, 2), address(73, 3), address(74, 9)];
    let [container, printer, database] = [&*container, &*printer, &*database];
    let host = ContainerHost::new()?;
    let root = host.root();
    let [web, other] = ["d", "e"].map(|digit| digit.repeat(64));
    let docker = |id: &str, name: &str| {
        host.file(
            &format!("var/lib/docker/containers/{id}/config.v2.json"),
            &format!(r#"{{"Name": "/{name}"}}"#),
        )
    };
    let hosts = format!("127.0.0.1 localhost\n{printer} printer.example printer\n{container} not-this\n");
    let files = [docker(&web, "web-1")?, host.file("etc/hosts", &hosts)?];
    let lan = host.file("lan", "# ours\n10.0.0.0/8 lan\n10.74.0.0/16 db \u{1b}subnet\n")?;
    // The longer prefix wins, and a name of the user wins over one of the host.
    let subnets = host.file("subnets", "10.74.0.0/16 db \u{1b}subnet\n10.74.0.0/15 lan\n")?;
    let (lan, subnets) = (lan.to_string_lossy(), subnets.to_string_lossy());

    let folder = TempFolder::new()?;
    let file = folder.file("peers.tcptrace");
    let netns = lab.netns().to_string();
    let common = ["--netns", &netns, "--host-root", &root, "--names", &subnets];
    let recorder = RecorderProcess::start(lab, &file, &common)?;
    let top =
        TopRun::start(lab, &[&["top", "--json", "--interval", "1s", "--by", "peer"], &common[..]].concat())?;
    let first = host.start_at(container, &web)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    for peer in [container, printer, database] {
        for _ in 0..FEW {
            let client = TcpStream::connect((peer, port))?;
            let (mut server, _) = listener.accept()?;
            process::close(client);
            ensure!(server.read(&mut [0])? == 0, "no end of the stream");
        }
    }
    let is = |document: &TopDocument, peers: &[(&str, &str)]| {
        let counts = document.counts();
        let names = document.peer_names();
        peers
            .iter()
            .all(|&(peer, name)| counts.get(peer) == Some(&(FEW, 0)) && names.get(peer) == Some(&Some(name)))
    };
    let expected = [(container, "web-1"), (printer, "printer.example"), (database, "db ?subnet")];
    top.wait(|document| is(document, &expected))?;
    let service = lab.run(&[&["states", "--json", "--by", "service"], &common[..]].concat())?;
    let service = serde_json::from_slice::<TopDocument>(&service.stdout)?;
    let key = format!("{container}:{port}");
    ensure!(service.peer_names().get(&*key) == Some(&Some("web-1")), "{key}: {service:#?}");

    // Its TIME_WAIT outlive the container. Then another gets its address.
    first.end()?;
    let names_of = |name| [(container, name), expected[1], expected[2]];
    top.wait(|document| is(document, &expected))?;
    let second = docker(&other, "web-2").and_then(|_| host.start_at(container, &other))?;
    top.wait(|document| is(document, &names_of("web-2")))?;
    second.end()?;
    files.into_iter().try_for_each(fs::remove_file)?;
    top.finish()?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");

    let file = file.to_string_lossy();
    let from = |args: &[&str]| {
        let output = lab.run(&[args, &["--json", "--from", &file]].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice::<TopDocument>(&output.stdout).context(stderr)
    };
    // The recorder read `/etc/hosts` again, or not: without its line the printer has no name.
    for view in [&["top", "--once", "--by", "peer"][..], &["states", "--by", "peer"]] {
        let document = from(view)?;
        ensure!(is(&document, &[(container, "web-2"), expected[2]]), "{view:?}: {document:#?}");
    }
    // The names of this run win over those of the recording's.
    let document = from(&["top", "--once", "--by", "peer", "--names", &lan])?;
    ensure!(is(&document, &[(container, "lan"), (printer, "lan"), expected[2]]), "{document:#?}");
    Ok(())
}

/// Program, user and image of the containers' processes.
fn check_processes(document: &TopDocument) -> Result<()> {
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    for group in document.groups.iter().filter(|group| group.counts.values().sum::<u64>() > 0) {
        let process = group.process.as_ref().with_context(|| format!("no process: {group:?}"))?;
        ensure!(process.exe.as_deref() == Some(&exe) && process.uid == Some(0), "{process:?}, not {exe}");
        let image = process.image.as_deref().map(str::len);
        let expected = match process.container.as_deref() {
            Some("web-1") => Some("nginx:1".len()),
            Some(HOSTILE_SHOWN) => Some(512),
            _ => None,
        };
        ensure!(image == expected, "{process:?}");
    }
    Ok(())
}

/// Containers come and go under `tcptrace serve`: memory, tables and series stay bounded, and each has its own name.
pub fn come_and_go(lab: &Lab) -> Result<()> {
    let host = ContainerHost::new()?;
    let root = host.root();
    let places = PLACES.to_string();
    let args = ["--by", "container", "--host-root", &root, "--most", &places];
    let exporter = Exporter::start(lab, &args)?;
    let services = |samples: &BTreeMap<String, f64>| -> BTreeSet<String> {
        let named = samples.keys().filter_map(|series| series.split_once("service=\"")?.1.split_once('"'));
        named.map(|(name, _)| name.to_owned()).collect()
    };
    let count = if crate::clock::is_emulated() { CONTAINERS / 10 } else { CONTAINERS };
    let part = count / PARTS;
    let before = resident(&scrape()?);
    let mut parts = Vec::new();
    for number in 0..count {
        let id = format!("{number:064x}");
        let path = format!("var/lib/docker/containers/{id}/config.v2.json");
        let file = host.file(&path, &format!(r#"{{"Name": "/box-{number}"}}"#))?;
        // A busier group takes the place of one that has ended.
        let ends = if number % part == 0 { MANY } else { FEW };
        // Each has the port of one before, whose TIME_WAIT remain.
        let container = host.start("docker", &id, 10_000 + number % PORTS, ends)?;
        if number % part == 0 {
            let name = format!("box-{number}");
            let of_it = format!("tcptrace_service_sockets{{service=\"{name}\",");
            let mut last = BTreeSet::new();
            let found = wait_for(&name, soon(), || {
                let samples = scrape()?;
                last = services(&samples);
                let is_held = |series: &str| series.starts_with(&of_it) && series.contains("\"CLOSE_WAIT\"");
                Ok(samples.iter().find(|(series, _)| is_held(series)).map(|(_, &value)| value))
            });
            let found = found.with_context(|| format!("the names are {last:?}"))?;
            ensure!(found.to_bits() == (CLOSE_WAIT as f64).to_bits(), "{found} in CLOSE_WAIT in {name}");
        }
        container.end()?;
        fs::remove_file(file)?;
        if (number + 1) % part == 0 {
            parts.push(resident(&scrape()?));
        }
    }
    let mib: Vec<_> = parts.iter().map(|bytes| format!("{:.1}", bytes / MIB)).collect();
    println!(
        "    workloads::come_and_go: {:.1} MiB resident before, then after each {part} of {count} containers {}",
        before / MIB,
        mib.join(", ")
    );
    let first = parts[0];
    ensure!(
        first > 0.0 && parts.iter().all(|&part| part <= first * MOST_GROWTH),
        "resident: {parts:?} bytes"
    );
    let samples = scrape()?;
    let names = services(&samples);
    ensure!(names.len() <= 2 * PLACES + 1, "{} names: {names:?}", names.len());
    let is_own =
        |name: &String| name.starts_with("box-") || ["unknown", "no container", "other"].contains(&&**name);
    let foreign: Vec<_> = names.iter().filter(|name| !is_own(name) && !name.starts_with("docker ")).collect();
    ensure!(foreign.is_empty(), "{foreign:?}");
    let rows = |table: &str| samples.get(&format!("tcptrace_table_rows{{table=\"{table}\"}}")).copied();
    for table in ["workloads", "process_facts", "cgroup_paths"] {
        let rows = rows(table).with_context(|| format!("no table {table}"))?;
        ensure!(rows <= 8192.0, "{rows} {table}");
    }
    let evicted = samples.get("tcptrace_lost_total{cause=\"evicted\"}").copied().unwrap_or_default();
    ensure!(evicted == 0.0, "{evicted} evicted");
    exporter.stop().map(drop)
}
