//! Real servers under real load, a connection per request: `postgres` with `pgbench -C`, `redis-server` with
//! `redis-benchmark -k 0`.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tcptrace_common::state::TcpState::{Listen, TimeWait};

use crate::clock::{hold, soon, wait_for};
use crate::hist::{self, HistDocument, HistGroup};
use crate::kernel;
use crate::lab::{Lab, Skip, run_to_end};
use crate::netns;
use crate::process::StartChild as _;

/// `nobody`: `postgres` refuses to be root.
const NOBODY: u32 = 65_534;
const POSTGRES_PORT: u16 = 5_432;
const REDIS_PORT: u16 = 6_379;
const TRANSACTIONS: u32 = 50;
const CLIENTS: u32 = 4;
const REQUESTS: u32 = 500;

/// Both at once: two services, whose connections the servers count themselves, the right programs at both ends, and the closer.
pub fn postgres_and_redis(lab: &Lab) -> Result<()> {
    let programs = ServerPrograms::find()?;
    // Each TIME_WAIT is to be there when they are counted.
    netns::keep_time_wait()?;
    let folder = ServersFolder::create(lab)?;
    let postgres = Postgres::start(&programs, &folder.0)?;
    let redis = Redis::start(&folder.0)?;
    let hist = hist::start(lab, "service,comm")?;

    std::thread::scope(|scope| {
        let pgbench = scope.spawn(|| run(programs.pgbench(&folder.0)));
        let redis_benchmark = scope.spawn(|| run(redis_benchmark()));
        [pgbench, redis_benchmark]
            .into_iter()
            .try_for_each(|load| load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;

    let time_waits = |test: fn(&kernel::DiagSocket) -> u16, port: u16| -> Result<u64> {
        let sockets = kernel::sockets()?;
        Ok(sockets.iter().filter(|socket| socket.state == TimeWait && test(socket) == port).count() as u64)
    };
    let loads = [
        (POSTGRES_PORT, all_lines_with(&postgres.log, "connection received:")?, "postgres", "pgbench"),
        (REDIS_PORT, all_lines_with(&redis.log, "Accepted 127.0.0.1")?, "redis-server", "redis-benchmark"),
    ];
    for (port, accepted, server, client) in loads {
        let least = u64::from(if port == POSTGRES_PORT { CLIENTS * TRANSACTIONS } else { REQUESTS });
        ensure!(accepted >= least, "{server} counts {accepted} connections");
        let service = format!("127.0.0.1:{port}");
        let inbound = HistGroup { service: &service, comm: Some(server), role: "inbound" };
        let outbound = HistGroup { service: &service, comm: Some(client), role: "outbound" };
        let closed = |document: &HistDocument, group| {
            document.closers(group).map_or(0, |of| of.local + of.remote + of.both)
        };
        let document = hist.wait(|document| {
            closed(document, inbound) == accepted && closed(document, outbound) == accepted
        })?;
        let Some(document) = document else { continue };
        for group in [inbound, outbound] {
            let established = document.histogram(group, "ESTABLISHED")?;
            ensure!(established.count == accepted, "{group:?}: {} of {accepted}", established.count);
        }
        // The kernel gives the TIME_WAIT to the end that closed first.
        let client_first = time_waits(|socket| socket.remote.port(), port)?;
        let server_first = time_waits(|socket| socket.local.port(), port)?;
        ensure!(client_first + server_first >= accepted, "{client_first} and {server_first} TIME_WAIT");
        let reported = document.closers(outbound)?;
        ensure!(
            (reported.local + reported.both, reported.remote + reported.both) == (client_first, server_first),
            "{outbound:?}: {reported:?}, but the kernel has {client_first} and {server_first} TIME_WAIT"
        );
        let reported = document.closers(inbound)?;
        ensure!(
            (reported.remote + reported.both, reported.local + reported.both) == (client_first, server_first),
            "{inbound:?}: {reported:?}, but the kernel has {client_first} and {server_first} TIME_WAIT"
        );
    }
    hist.finish()
}

/// Where the programs are.
struct ServerPrograms {
    postgres: PathBuf,
}

impl ServerPrograms {
    fn find() -> Result<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
        let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
        folders.sort();
        let has_all = |folder: &PathBuf| {
            ["initdb", "postgres", "pgbench"].iter().all(|program| folder.join(program).is_file())
        };
        let Some(postgres) = folders.into_iter().rfind(has_all) else {
            bail!(Skip("needs PostgreSQL: package postgresql".into()))
        };
        for (program, package) in [("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")] {
            let path = std::env::var_os("PATH").unwrap_or_default();
            if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
                bail!(Skip(format!("needs {program}: package {package}")));
            }
        }
        Ok(Self { postgres })
    }

    /// A program of the `postgres` package, run by somebody who is not root.
    fn postgres(&self, program: &str) -> Command {
        let mut command = Command::new(self.postgres.join(program));
        command.uid(NOBODY).gid(NOBODY).current_dir("/").env_remove("PGDATA");
        command
    }

    fn pgbench(&self, folder: &Path) -> Command {
        let mut command = self.postgres("pgbench");
        command
            .args(["--connect", "--no-vacuum", "--client", &CLIENTS.to_string()])
            .args(["--transactions", &TRANSACTIONS.to_string(), "--file"])
            .arg(folder.join("select.sql"))
            .args(["--host", "127.0.0.1", "--port", &POSTGRES_PORT.to_string(), "--username", "tester"])
            .arg("postgres");
        command
    }
}

fn redis_benchmark() -> Command {
    let mut command = Command::new("redis-benchmark");
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command.args(["-k", "0", "-q", "-t", "ping_mbulk", "-n", &REQUESTS.to_string()]);
    command.args(["-c", &CLIENTS.to_string(), "-h", "127.0.0.1", "-p", &REDIS_PORT.to_string()]);
    command
}

fn run(command: Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = run_to_end(command)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} ended with {}: {stderr}", program.display(), output.status);
    Ok(())
}

/// A folder owned by the user nobody, removed on drop.
struct ServersFolder(PathBuf);

impl ServersFolder {
    fn create(lab: &Lab) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tcptrace-servers-{}", lab.netns()));
        DirBuilder::new().mode(0o755).create(&path).context("a folder for the servers")?;
        let folder = Self(path);
        fs::write(folder.0.join("select.sql"), "SELECT 1;\n")?;
        chown(&folder.0, Some(NOBODY), Some(NOBODY))?;
        Ok(folder)
    }
}

impl Drop for ServersFolder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A server, stopped on drop.
struct ServerProcess(Child);

impl ServerProcess {
    fn start(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start();
        Ok(Self(child.with_context(|| format!("start {}", command.get_program().display()))?))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // For both an orderly end.
        kill_process(Pid::from_child(&self.0), Signal::INT).ok();
        let ended = wait_for("the server to end", soon(), || Ok(self.0.try_wait()?));
        if ended.is_err() {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

struct Postgres {
    log: PathBuf,
    _server: ServerProcess,
}

impl Postgres {
    fn start(programs: &ServerPrograms, folder: &Path) -> Result<Self> {
        let cluster = folder.join("postgres");
        let mut initdb = programs.postgres("initdb");
        initdb.args(["--auth", "trust", "--username", "tester", "--no-sync", "--pgdata"]).arg(&cluster);
        run(initdb)?;
        let mut server = programs.postgres("postgres");
        server.arg("-D").arg(&cluster);
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={POSTGRES_PORT}"),
            "unix_socket_directories=",
            "fsync=off",
            "logging_collector=on",
            "log_directory=.",
            "log_filename=server.log",
            "log_connections=on",
        ] {
            server.args(["-c", setting]);
        }
        let server = ServerProcess::start(server)?;
        // From its log: a query would be a connection.
        let status = cluster.join("postmaster.pid");
        wait_for("PostgreSQL to be ready", soon(), || {
            let status = fs::read_to_string(&status).unwrap_or_default();
            Ok(status.lines().any(|line| line.trim() == "ready").then_some(()))
        })?;
        Ok(Self { log: cluster.join("server.log"), _server: server })
    }
}

/// The same once no more lines come: `PostgreSQL` has a process of its own that writes them.
fn all_lines_with(log: &Path, text: &str) -> Result<u64> {
    wait_for("the log to be complete", soon(), || {
        let before = lines_with(log, text)?;
        hold(Duration::from_millis(500));
        Ok((lines_with(log, text)? == before).then_some(before))
    })
}

/// The number of lines with `text` in a server's log. A query to the server would be a connection.
fn lines_with(log: &Path, text: &str) -> Result<u64> {
    let content = fs::read_to_string(log).with_context(|| format!("the log {}", log.display()))?;
    Ok(content.lines().filter(|line| line.contains(text)).count() as u64)
}

struct Redis {
    log: PathBuf,
    _server: ServerProcess,
}

impl Redis {
    fn start(folder: &Path) -> Result<Self> {
        let log = folder.join("redis.log");
        let mut command = Command::new("redis-server");
        command.uid(NOBODY).gid(NOBODY).current_dir(folder);
        command.args(["--port", &REDIS_PORT.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--loglevel", "verbose", "--logfile"]).arg(&log);
        let server = ServerProcess::start(command)?;
        wait_for("Redis to listen", soon(), || {
            let sockets = kernel::sockets()?;
            let listens =
                |socket: &kernel::DiagSocket| socket.state == Listen && socket.local.port() == REDIS_PORT;
            Ok(sockets.iter().any(listens).then_some(()))
        })?;
        Ok(Self { log, _server: server })
    }
}
