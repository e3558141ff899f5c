//! Reports the sysctls of network namespaces while tracing: those of new namespaces, and changes. A worker
//! thread reads them inside each namespace, so that the ring reader never waits.
//!
//! The seed reports the existing ones at the start; the first poll here repeats them.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{host, netns};
use crate::{
    model::{HookRecord, NetnsId, Record},
    privileges::{self, Work},
};

/// Poll interval, and so the usual delay until a change is seen.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Shortest pause between polls for new namespaces.
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// A poll may use at most one part in `SHARE` of the time.
const SHARE: u32 = 100;
/// Most namespaces remembered; beyond that the set is cleared, and they are polled again.
const KNOWN: usize = 1 << 14;

/// Requests settings and returns them.
pub struct SettingsReader {
    known: FxHashSet<u32>,
    last: u32,
    ask: SyncSender<()>,
    answers: Receiver<Record>,
}

impl SettingsReader {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        // One poll covers every namespace that is new by then.
        let (ask, asked) = sync_channel(1);
        let (tell, answers) = channel();
        privileges::spawn("settings", Work::Looking, move || watch(&asked, &tell))?;
        Ok(Self { known: FxHashSet::default(), last: 0, ask, answers })
    }

    /// Requests a poll if a hook's record comes from a new namespace.
    pub fn look_at(&mut self, seen: &HookRecord) {
        if seen.raw.netns == self.last {
            return;
        }
        self.last = seen.raw.netns;
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        if self.known.insert(self.last) {
            // Full: a poll is about to begin anyway.
            let _ = self.ask.try_send(());
        }
    }

    /// Settings found since the last call.
    pub fn found(&self) -> impl Iterator<Item = Record> {
        self.answers.try_iter()
    }
}

/// Polls until the receiver is dropped.
fn watch(asked: &Receiver<()>, tell: &Sender<Record>) {
    let mut told = FxHashMap::default();
    let mut pause = LOOK_EVERY;
    loop {
        match asked.recv_timeout(pause) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let began = Instant::now();
        for record in look(&mut told) {
            if tell.send(record).is_err() {
                return;
            }
        }
        let took = began.elapsed();
        std::thread::sleep((took * SHARE).clamp(MIN_PAUSE, LOOK_EVERY));
        pause = LOOK_EVERY.max(took * SHARE);
    }
}

/// Polls once: returns the differences from `told`, and updates it.
fn look(told: &mut FxHashMap<NetnsId, BTreeMap<String, String>>) -> Vec<Record> {
    // Namespaces that can't be visited have no readable settings.
    let round = netns::visit_each(|_| true, |_| (host::monotonic_now(), host::sysctls()));
    let Ok(netns::Round { visited, refused, .. }) = round else { return Vec::new() };
    let refused = refused.iter().map(|error| error.netns.id);
    let there: FxHashSet<NetnsId> = visited.iter().map(|(netns, _)| netns.id).chain(refused).collect();
    let ts = host::monotonic_now();
    let gone = told.extract_if(|netns, _| !there.contains(netns));
    let mut records: Vec<Record> =
        gone.map(|(netns, _)| Record::NetnsSettings { ts, netns, sysctls: BTreeMap::new() }).collect();
    for (netns, (ts, sysctls)) in visited {
        if told.get(&netns.id) != Some(&sysctls) {
            told.insert(netns.id, sysctls.clone());
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
        let mut told = FxHashMap::default();
        let own = host::own_netns().expect("/proc is mounted");
        let of_own = |records: Vec<Record>| {
            records.into_iter().find_map(|record| match record {
                Record::NetnsSettings { netns, sysctls, .. } if netns == own => Some(sysctls),
                _ => None,
            })
        };
        let first = of_own(look(&mut told)).expect("the own namespace can be read");
        assert!(first.contains_key("net.ipv4.ip_local_port_range"), "{first:?}");
        assert_eq!(of_own(look(&mut told)), None);
        told.get_mut(&own).expect("it was reported").clear();
        assert_eq!(of_own(look(&mut told)), Some(first));
    }
}
