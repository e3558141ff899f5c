//! Table of the processes that own sockets: one entry per process, while a socket refers to it.

use std::sync::Arc;

use hashbrown::HashMap;
use tcptrace_common::record::Task;

use crate::model::{Nanos, record::Process, text};

/// A process in the table; valid only for the [`Processes`] that issued it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId(u32);

#[derive(Clone, Debug)]
struct ProcessSlot {
    process: Arc<Process>,
    key: ProcessKey,
    sockets: u32,
    /// It moved to another cgroup, and its sockets are not counted there yet.
    moved: bool,
}

/// A process is identified by pid and name: pids are reused, and `exec` changes the name.
type ProcessKey = (u32, [u8; 16]);

/// All processes that own a tracked socket.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    slots: Vec<Option<ProcessSlot>>,
    free: Vec<u32>,
    /// Hashed with a random seed: a process chooses its name.
    by_key: HashMap<ProcessKey, ProcessId>,
    passes: Passes,
}

/// Schedules passes over all sockets, which move the counts of processes that changed their cgroup and of namespaces
/// whose settings changed: at most one pass per [`Passes::PAUSE`].
#[derive(Clone, Copy, Debug, Default)]
struct Passes {
    due: Option<Nanos>,
    /// Earliest time of the next pass.
    earliest: Nanos,
}

impl Passes {
    const PAUSE: Nanos = Nanos::SECOND;

    fn add(&mut self, ts: Nanos) {
        self.due.get_or_insert(ts.max(self.earliest));
    }

    /// Whether a pass is due. The pause begins at the due time, not at `now`, so that a replay, which has fewer ticks,
    /// computes the same times.
    fn begin_pass(&mut self, now: Nanos) -> bool {
        let Some(due) = self.due.filter(|&due| due <= now) else { return false };
        *self = Self { due: None, earliest: due.plus(Self::PAUSE) };
        true
    }
}

impl Processes {
    /// Number of processes.
    pub fn count(&self) -> usize {
        self.by_key.len()
    }

    /// Acquires the process of `task`, observed at `ts`, for one more socket.
    pub fn acquire_task(&mut self, task: &Task, ts: Nanos) -> ProcessId {
        self.acquire((task.tgid, task.comm), task.cgroup, ts, || Process {
            pid: task.tgid,
            comm: text::from_kernel(&task.comm).into(),
            cgroup: task.cgroup,
        })
    }

    /// Acquires `process`, observed at `ts`, for one more socket.
    pub fn acquire_process(&mut self, process: &Process, ts: Nanos) -> ProcessId {
        let mut comm = [0; 16];
        let bytes = process.comm.as_bytes();
        let length = bytes.len().min(comm.len());
        comm[..length].copy_from_slice(&bytes[..length]);
        self.acquire((process.pid, comm), process.cgroup, ts, || process.clone())
    }

    /// Acquires a process that is already in the table for one more socket.
    pub fn acquire_again(&mut self, id: ProcessId) -> ProcessId {
        if let Some(slot) = self.slot_mut(id) {
            slot.sockets += 1;
        }
        id
    }

    fn acquire(
        &mut self,
        key: ProcessKey,
        cgroup: u64,
        ts: Nanos,
        process: impl FnOnce() -> Process,
    ) -> ProcessId {
        if let Some(&id) = self.by_key.get(&key) {
            self.move_to(id, cgroup, ts);
            return self.acquire_again(id);
        }
        let slot = ProcessSlot { process: Arc::new(process()), key, sockets: 1, moved: false };
        let id = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = Some(slot);
            ProcessId(free)
        } else {
            self.slots.push(Some(slot));
            ProcessId(self.slots.len() as u32 - 1)
        };
        self.by_key.insert(key, id);
        id
    }

    /// Moves a process to the cgroup of its newest observation; 0 is unknown.
    fn move_to(&mut self, id: ProcessId, cgroup: u64, ts: Nanos) {
        let Some(slot) = self.slot_mut(id).filter(|slot| cgroup != 0 && slot.process.cgroup != cgroup) else {
            return;
        };
        slot.process = Arc::new(Process { cgroup, ..Process::clone(&slot.process) });
        slot.moved = true;
        self.passes.add(ts);
    }

    /// Schedules a pass for a change other than of a process.
    pub(super) fn request_pass(&mut self, ts: Nanos) {
        self.passes.add(ts);
    }

    /// Begins a pass if one is due: then the sockets of processes that [`Self::has_moved`] are counted again.
    pub(super) fn begin_pass(&mut self, now: Nanos) -> bool {
        self.passes.begin_pass(now)
    }

    /// Whether `id` moved to another cgroup since the last pass.
    pub(super) fn has_moved(&self, id: ProcessId) -> bool {
        self.slots.get(id.0 as usize).and_then(Option::as_ref).is_some_and(|slot| slot.moved)
    }

    /// Ends the pass.
    pub(super) fn end_pass(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            slot.moved = false;
        }
    }

    /// Releases one socket of `id`; the last one removes the process.
    pub fn release(&mut self, id: ProcessId) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.sockets -= 1;
        if slot.sockets == 0 {
            let key = slot.key;
            self.by_key.remove(&key);
            self.slots[id.0 as usize] = None;
            self.free.push(id.0);
        }
    }

    /// The process `id`.
    pub fn get(&self, id: ProcessId) -> Option<&Arc<Process>> {
        self.slots.get(id.0 as usize)?.as_ref().map(|slot| &slot.process)
    }

    fn slot_mut(&mut self, id: ProcessId) -> Option<&mut ProcessSlot> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Process {
        Process { pid, comm: "nginx".into(), cgroup: 1 }
    }

    #[test]
    fn process_is_kept_while_it_has_sockets() {
        let mut table = Processes::default();
        let first = table.acquire_process(&process(7), Nanos(0));
        assert_eq!(table.acquire_process(&process(7), Nanos(0)), first);
        table.release(first);
        assert!(table.get(first).is_some());
        table.release(first);
        assert!(table.get(first).is_none());
        // The slot is reused.
        assert_eq!(table.acquire_process(&process(8), Nanos(0)), first);
    }

    #[test]
    fn a_task_and_proc_name_the_same_process() {
        let mut table = Processes::default();
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"nginx");
        let seen = table.acquire_task(&Task { cgroup: 1, tgid: 7, tid: 9, comm }, Nanos(0));
        assert_eq!(table.acquire_process(&process(7), Nanos(0)), seen);
    }

    #[test]
    fn process_has_the_cgroup_of_its_newest_observation() {
        let mut table = Processes::default();
        let id = table.acquire_process(&process(7), Nanos(0));
        let seen = |cgroup| Process { cgroup, ..process(7) };
        assert_eq!(table.acquire_process(&seen(2), Nanos(5)), id);
        // An unreadable cgroup is not a move.
        assert_eq!(table.acquire_process(&seen(0), Nanos(6)), id);
        assert_eq!((table.get(id).map(|process| process.cgroup), table.count()), (Some(2), 1));
        assert!(table.has_moved(id));
    }

    #[test]
    fn passes_keep_their_pause_when_late() {
        let mut passes = Passes::default();
        let second = Passes::PAUSE;
        passes.add(Nanos(10));
        assert!(passes.begin_pass(Nanos(11)));
        passes.add(Nanos(12));
        passes.add(Nanos(900));
        assert!(!passes.begin_pass(Nanos(13)));
        // Late, as in a replay: the next pass is due as if this one had been on time.
        assert!(passes.begin_pass(second.plus(Nanos(700))));
        passes.add(second.plus(Nanos(800)));
        assert!(!passes.begin_pass(second.plus(Nanos(900))));
        assert!(passes.begin_pass(second.plus(second).plus(Nanos(10))));
        assert!(!passes.begin_pass(second.plus(second).plus(second)));
    }
}
