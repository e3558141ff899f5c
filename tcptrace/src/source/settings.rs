//! Reports the sysctls of network namespaces while tracing: those of new namespaces, and changes. A worker
//! thread reads them inside each namespace, so that the ring reader never waits.
//!
//! The seed reports the existing ones at the start; the first poll here repeats them.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    host, netns,
    poller::{PollBackoff, Poller, PollerEnded, PollerThread},
};
use crate::{
    model::{HookRecord, NetnsId, Record},
    privileges::CpuTimer,
};

/// The usual delay until a change is seen.
const POLL_INTERVAL: PollBackoff = PollBackoff { least: Duration::from_secs(5), share: 100 };
/// Pause before a poll for new namespaces.
const REQUEST_INTERVAL: PollBackoff = PollBackoff { least: Duration::from_millis(200), share: 100 };
/// Most namespaces remembered; beyond that the set is cleared, and they are polled again.
const KNOWN: usize = 1 << 14;

/// Requests settings and returns them.
pub struct SettingsReader {
    known: FxHashSet<u32>,
    last: u32,
    thread: PollerThread<SettingsPoller>,
}

impl SettingsReader {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let now = Instant::now();
        let thread = PollerThread::start(|findings| SettingsPoller {
            findings,
            reported: FxHashMap::default(),
            earliest: now,
            next: now + POLL_INTERVAL.least,
        })?;
        Ok(Self { known: FxHashSet::default(), last: 0, thread })
    }

    /// Requests a poll if a hook's record comes from a new namespace.
    pub fn observe_hook(&mut self, seen: &HookRecord) {
        if seen.raw.netns == self.last {
            return;
        }
        self.last = seen.raw.netns;
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        if self.known.insert(self.last) {
            // A poll covers every namespace that is new by then: one waiting request is enough.
            self.thread.request(());
        }
    }

    /// Settings found since the last call.
    pub fn found(&self) -> impl Iterator<Item = Record> {
        self.thread.findings.try_iter()
    }
}

struct SettingsPoller {
    findings: SyncSender<Record>,
    reported: FxHashMap<NetnsId, BTreeMap<String, String>>,
    /// When a requested poll is due.
    earliest: Instant,
    next: Instant,
}

impl Poller for SettingsPoller {
    const NAME: &'static str = "settings";
    type Request = ();
    type Finding = Record;

    fn due(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn request(&mut self, (): ()) {
        self.next = self.earliest;
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let began = CpuTimer::start();
        for record in changes(&mut self.reported) {
            self.findings.send(record)?;
        }
        let cost = began.elapsed();
        self.earliest = Instant::now() + REQUEST_INTERVAL.after(cost).min(POLL_INTERVAL.least);
        self.next = self.earliest + POLL_INTERVAL.after(cost);
        Ok(())
    }
}

/// Polls once: returns the differences from `reported`, and updates it.
fn changes(reported: &mut FxHashMap<NetnsId, BTreeMap<String, String>>) -> Vec<Record> {
    // Namespaces that can't be visited have no readable settings.
    let round = netns::visit_each(|_| true, |_| (host::monotonic_now(), host::sysctls()));
    let Ok(netns::Round { visited, refused, .. }) = round else { return Vec::new() };
    let refused = refused.iter().map(|error| error.netns.id);
    let there: FxHashSet<NetnsId> = visited.iter().map(|(netns, _)| netns.id).chain(refused).collect();
    let ts = host::monotonic_now();
    let gone = reported.extract_if(|netns, _| !there.contains(netns));
    let mut records: Vec<Record> =
        gone.map(|(netns, _)| Record::NetnsSettings { ts, netns, sysctls: BTreeMap::new() }).collect();
    for (netns, (ts, sysctls)) in visited {
        if reported.get(&netns.id) != Some(&sysctls) {
            reported.insert(netns.id, sysctls.clone());
            records.push(Record::NetnsSettings { ts, netns: netns.id, sysctls });
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_reported_once_until_they_change() {
        let mut reported = FxHashMap::default();
        let own = host::own_netns().expect("/proc is mounted");
        let of_own = |records: Vec<Record>| {
            records.into_iter().find_map(|record| match record {
                Record::NetnsSettings { netns, sysctls, .. } if netns == own => Some(sysctls),
                _ => None,
            })
        };
        let first = of_own(changes(&mut reported)).expect("the own namespace can be read");
        assert!(first.contains_key("net.ipv4.ip_local_port_range"), "{first:?}");
        assert_eq!(of_own(changes(&mut reported)), None);
        reported.get_mut(&own).expect("it was reported").clear();
        assert_eq!(of_own(changes(&mut reported)), Some(first));
    }
}
