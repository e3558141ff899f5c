//! Compares the tracer's table of sockets with the kernel's, socket by socket.
//!
//! Each file of a rotated recording begins with a checkpoint of the tracer, read back here as a table. The checkpoint is
//! between two `sock_diag` dumps: sockets equal in both must be equal in it, sockets in neither must not be in it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tcptrace_common::state::TcpState;

use crate::clock::{now_ns, soon, wait_for};
use crate::expect::MADE_UP;
use crate::kernel;
use crate::lab::Lab;
use crate::scenario::recording::{RecorderProcess, TempFolder};

/// Length of a file.
const PIECE: Duration = Duration::from_secs(3);

/// The key of a socket: its cookie, or its ends for a handshake, which may have no cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SocketKey {
    Cookie(u64),
    Handshake(SocketAddr, SocketAddr),
}

/// The compared facts: state and ends.
type SocketFacts = (TcpState, SocketAddr, SocketAddr);
type SocketTable = HashMap<SocketKey, SocketFacts>;

/// A tracer whose table can be read.
pub struct TableFollower {
    recorder: RecorderProcess,
    folder: TempFolder,
    netns: u32,
}

/// One comparison.
#[derive(Debug)]
pub struct TableComparison {
    /// Sockets of the kernel that the tracer must have.
    pub sockets: usize,
    /// Descriptions of the differences.
    pub differ: Vec<String>,
}

impl TableFollower {
    /// Starts it, for this lab's namespace alone.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let folder = TempFolder::new()?;
        let netns = lab.netns().to_string();
        let piece = format!("{}s", PIECE.as_secs());
        let all = [&["--rotate", &piece, "--keep", "3", "--netns", &netns], args].concat();
        let recorder = RecorderProcess::start(lab, &folder.file("t.tcptrace"), &all)?;
        Ok(Self { recorder, folder, netns: lab.netns() })
    }

    /// The process.
    pub const fn recorder(&self) -> &RecorderProcess {
        &self.recorder
    }

    /// Ends it; returns its summary line.
    pub fn stop(self) -> Result<String> {
        self.recorder.signal(rustix::process::Signal::TERM)?;
        let (status, stderr) = self.recorder.wait()?;
        ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
        let line = stderr.lines().rev().find(|line| line.contains(" records in "));
        Ok(line.unwrap_or_default().to_owned())
    }

    /// Compares until nothing differs or `timeout` is over; returns the first comparison and the last.
    pub fn settle(&self, lab: &Lab, timeout: Duration) -> Result<(TableComparison, TableComparison)> {
        let deadline_ns = now_ns() + timeout.as_nanos() as u64;
        let first = self.compare(lab)?;
        let mut last = TableComparison { sockets: first.sockets, differ: first.differ.clone() };
        while !last.differ.is_empty() && now_ns() < deadline_ns {
            last = self.compare(lab)?;
        }
        Ok((first, last))
    }

    fn compare(&self, lab: &Lab) -> Result<TableComparison> {
        let newest = self.newest()?.0;
        let before = by_kernel()?;
        // The piece that begins from now on, once it is closed.
        let piece = wait_for("two more pieces of the recording", 20 * soon(), || {
            Ok((self.newest()?.0 >= newest + 2).then_some(self.folder.file(&name(newest + 1))))
        })?;
        let after = by_kernel()?;
        let tracer = self.by_tracer(lab, &piece, [&before, &after])?;
        let mut differ = Vec::new();
        let mut sockets = 0;
        for (name, known) in &before {
            if after.get(name) == Some(known) {
                sockets += 1;
                if tracer.get(name) != Some(known) {
                    differ.push(format!("{name:?}: kernel {known:?}, tracer {:?}", tracer.get(name)));
                }
            }
        }
        for (name, known) in &tracer {
            if !before.contains_key(name) && !after.contains_key(name) {
                differ.push(format!("{name:?}: kernel none, tracer {known:?}"));
            }
        }
        Ok(TableComparison { sockets, differ })
    }

    fn newest(&self) -> Result<(u32, PathBuf)> {
        let mut newest = (0, PathBuf::new());
        for entry in std::fs::read_dir(&self.folder.path)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if let Some(number) = stem.strip_prefix("t-").and_then(|number| number.parse().ok())
                && number > newest.0
            {
                newest = (number, path);
            }
        }
        Ok(newest)
    }

    /// The tracer's table. A made-up id is replaced by the cookie of the kernel's socket with these ends.
    fn by_tracer(&self, lab: &Lab, piece: &Path, kernels: [&SocketTable; 2]) -> Result<SocketTable> {
        #[derive(Deserialize)]
        struct ExportedRecord {
            kind: String,
            cookie: Option<u64>,
            netns: Option<u32>,
            saddr: Option<IpAddr>,
            sport: Option<u16>,
            daddr: Option<IpAddr>,
            dport: Option<u16>,
            to: Option<String>,
        }
        let table = self.folder.file("table.jsonl");
        let [from, to] = [piece, &table].map(|path| path.to_str().unwrap_or_default());
        let output = lab.run(&["export", "--raw", "--force", from, "-o", to])?;
        ensure!(output.status.success(), "export: {}", String::from_utf8_lossy(&output.stderr));
        let by_ends: HashMap<_, _> = kernels
            .into_iter()
            .flatten()
            .map(|(key, (_, local, remote))| ((*local, *remote), *key))
            .collect();
        let mut sockets = SocketTable::new();
        for line in std::fs::read_to_string(&table)?.lines() {
            let row: ExportedRecord = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let state = TcpState::ALL.into_iter().find(|state| row.to.as_deref() == Some(state.name()));
            let (true, Some(state)) = (row.kind == "carried" && row.netns == Some(self.netns), state) else {
                continue;
            };
            let end = |ip: Option<IpAddr>, port: Option<u16>| {
                Some(SocketAddr::new(normalize_unspecified(ip?.to_canonical()), port.unwrap_or(0)))
            };
            let (local, remote) = end(row.saddr, row.sport).zip(end(row.daddr, row.dport)).context("ends")?;
            if state != TcpState::Close {
                let cookie = row.cookie.unwrap_or(0);
                let by_ends = by_ends.get(&(local, remote)).filter(|_| MADE_UP.contains(&cookie));
                let name = match by_ends {
                    Some(&key @ SocketKey::Cookie(_)) => key,
                    _ => name_of(state, cookie, local, remote),
                };
                sockets.insert(name, (state, local, remote));
            }
        }
        Ok(sockets)
    }
}

fn name(number: u32) -> String {
    format!("t-{number:04}.tcptrace")
}

fn by_kernel() -> Result<SocketTable> {
    let sockets = kernel::sockets()?.into_iter().map(|socket| {
        let ends = [socket.local, socket.remote]
            .map(|end| SocketAddr::new(normalize_unspecified(end.ip().to_canonical()), end.port()));
        (name_of(socket.state, socket.cookie, ends[0], ends[1]), (socket.state, ends[0], ends[1]))
    });
    Ok(sockets.collect())
}

/// The unspecified address, `::` or `0.0.0.0`, as `::`.
fn normalize_unspecified(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() { IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) } else { ip }
}

fn name_of(state: TcpState, cookie: u64, local: SocketAddr, remote: SocketAddr) -> SocketKey {
    if state == TcpState::SynRecv { SocketKey::Handshake(local, remote) } else { SocketKey::Cookie(cookie) }
}
