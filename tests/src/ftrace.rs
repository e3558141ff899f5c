//! An independent observer of TCP: the kernel's own trace events as text (ftrace), in an
//! instance of this process.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tcptrace_common::state::TcpState;

use crate::lab::Skip;

/// Per CPU. The file of the instance is in kilobytes.
const BUFFER_KB: &str = "16384";

/// Records state changes until it is dropped.
pub struct Ftrace {
    mounted: PathBuf,
    instance: PathBuf,
}

/// One `sock:inet_sock_set_state` of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Local port; 0 if none is chosen yet.
    pub sport: u16,
    /// Remote port.
    pub dport: u16,
    /// The state before.
    pub from: TcpState,
    /// The state after.
    pub to: TcpState,
}

impl Ftrace {
    /// Records the state changes of sockets with a port in `ports`.
    pub fn start(ports: RangeInclusive<u16>) -> Result<Self> {
        let mounted = std::env::temp_dir().join(format!("tcptrace-tracefs-{}", std::process::id()));
        fs::create_dir_all(&mounted)?;
        let name = format!("tcptrace-odd-{}", std::process::id());
        let instance = mounted.join("instances").join(name);
        let started = Self { mounted, instance };
        mount("none", &started.mounted, "tracefs", MountFlags::empty(), None)
            .map_err(|error| Skip(format!("tracefs can't be mounted: {error}")))?;
        fs::create_dir(&started.instance).context("an instance of ftrace")?;
        started.write("buffer_size_kb", BUFFER_KB)?;
        let among = |port| format!("{port} >= {} && {port} <= {}", ports.start(), ports.end());
        let filter = format!("({}) || ({})", among("sport"), among("dport"));
        started.write("events/sock/inet_sock_set_state/filter", &filter)?;
        started.write("events/sock/inet_sock_set_state/enable", "1")?;
        Ok(started)
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
    }

    /// Every change of state so far.
    pub fn changes(&self) -> Result<Vec<StateChange>> {
        let text = fs::read_to_string(self.instance.join("trace")).context("read the trace")?;
        Ok(text.lines().filter_map(change).collect())
    }

    /// Events lost because the buffer was full.
    pub fn overrun(&self) -> Result<u64> {
        let mut overrun = 0;
        for cpu in fs::read_dir(self.instance.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            let counts = stats.lines().filter_map(|line| line.strip_prefix("overrun: ")?.parse::<u64>().ok());
            overrun += counts.sum::<u64>();
        }
        Ok(overrun)
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        // It fails if there is no instance.
        fs::remove_dir(&self.instance).ok();
        unmount_and_remove(&self.mounted);
    }
}

fn unmount_and_remove(mounted: &Path) {
    unmount(mounted, UnmountFlags::DETACH).ok();
    fs::remove_dir(mounted).ok();
}

fn change(line: &str) -> Option<StateChange> {
    let (_, fields) = line.split_once("inet_sock_set_state: ")?;
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name));
    if field("protocol=")? != "IPPROTO_TCP" {
        return None;
    }
    let state = |name: &str| TcpState::ALL.into_iter().find(|state| Some(state.name()) == plain(name));
    Some(StateChange {
        sport: field("sport=")?.parse().ok()?,
        dport: field("dport=")?.parse().ok()?,
        from: state(field("oldstate=")?)?,
        to: state(field("newstate=")?)?,
    })
}

fn plain(name: &str) -> Option<&str> {
    name.strip_prefix("TCP_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed() {
        let line = "  live-12 [001] ..... 3.25: inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=0 \
                    dport=80 saddr=127.0.0.1 daddr=127.0.0.1 saddrv6=::ffff:127.0.0.1 daddrv6=::ffff:127.0.0.1 \
                    oldstate=TCP_CLOSE newstate=TCP_SYN_SENT";
        let expected = StateChange { sport: 0, dport: 80, from: TcpState::Close, to: TcpState::SynSent };
        assert_eq!(change(line), Some(expected));
        assert_eq!(change(&line.replace("IPPROTO_TCP", "IPPROTO_MPTCP")), None);
    }
}
