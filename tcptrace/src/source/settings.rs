//! The settings of the network namespaces while tracing, as records: those of one that turns up, and those that
//! change. Read on a thread of its own, inside each namespace; the reader of the ring never waits for it.
//!
//! The seed tells those that there are at the start; the first look here tells them once more.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{host, netns};
use crate::model::{NetnsId, Observation, Record};

/// How often to look at all of them: an administrator's change is seen after so long.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Looks for the sake of a new namespace are so far apart.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// A look may take one part in so many of the time.
const SHARE: u32 = 100;
/// Namespaces remembered; beyond that all are forgotten, and told again.
const KNOWN: usize = 1 << 14;

/// Asks for settings and hands them out.
pub struct Settings {
    known: FxHashSet<u32>,
    last: u32,
    ask: SyncSender<()>,
    answers: Receiver<Record>,
}

impl Settings {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        // One look finds every namespace that is new by then.
        let (ask, asked) = sync_channel(1);
        let (tell, answers) = channel();
        std::thread::Builder::new().name("settings".into()).spawn(move || watch(&asked, &tell))?;
        Ok(Self { known: FxHashSet::default(), last: 0, ask, answers })
    }

    /// Looks for a new namespace in what a hook reported.
    pub fn look_at(&mut self, seen: &Observation) {
        if seen.raw.netns == self.last {
            return;
        }
        self.last = seen.raw.netns;
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        if self.known.insert(self.last) {
            // Full: a look is about to begin anyway.
            let _ = self.ask.try_send(());
        }
    }

    /// Settings found since the last call.
    pub fn found(&self) -> impl Iterator<Item = Record> {
        self.answers.try_iter()
    }
}

/// Looks until nobody wants to know any more.
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
        std::thread::sleep((took * SHARE).clamp(LEAST_PAUSE, LOOK_EVERY));
        pause = LOOK_EVERY.max(took * SHARE);
    }
}

/// What is new since `told`, which is brought up to date.
fn look(told: &mut FxHashMap<NetnsId, BTreeMap<String, String>>) -> Vec<Record> {
    // What can't be visited has no settings that could be told.
    let round = netns::in_each(|_| true, |_| (host::monotonic_now(), host::sysctls()));
    let visited = round.map(|round| round.visited).unwrap_or_default();
    let there: FxHashSet<NetnsId> = visited.iter().map(|(netns, _)| netns.id).collect();
    told.retain(|netns, _| there.contains(netns));
    let mut records = Vec::new();
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
    fn settings_are_told_once_until_they_change() {
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
        told.get_mut(&own).expect("it was told").clear();
        assert_eq!(of_own(look(&mut told)), Some(first));
    }
}
