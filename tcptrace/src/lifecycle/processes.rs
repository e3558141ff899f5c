//! The processes that own sockets: each kept once, as long as a socket refers to it.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tcptrace_common::record::Task;

use crate::model::{record::Process, text};

/// A process in the table; only meaningful to the [`Processes`] that gave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId(u32);

#[derive(Clone, Debug)]
struct Slot {
    process: Arc<Process>,
    key: Key,
    sockets: u32,
}

/// A process is its pid and its name: a pid is reused, and `exec` changes the name.
type Key = (u32, [u8; 16]);

/// All processes that own a tracked socket.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_key: FxHashMap<Key, ProcessId>,
}

impl Processes {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_key.len()
    }

    /// The process `task` belongs to; counts one more socket for it.
    pub fn acquire_task(&mut self, task: &Task) -> ProcessId {
        self.acquire((task.tgid, task.comm), || Process {
            pid: task.tgid,
            comm: text::from_kernel(&task.comm).into(),
            cgroup: task.cgroup,
        })
    }

    /// `process`; counts one more socket for it.
    pub fn acquire_process(&mut self, process: &Process) -> ProcessId {
        let mut comm = [0; 16];
        let bytes = process.comm.as_bytes();
        let length = bytes.len().min(comm.len());
        comm[..length].copy_from_slice(&bytes[..length]);
        self.acquire((process.pid, comm), || process.clone())
    }

    /// Counts one more socket for a process that is already in the table.
    pub fn acquire_again(&mut self, id: ProcessId) -> ProcessId {
        if let Some(slot) = self.slot_mut(id) {
            slot.sockets += 1;
        }
        id
    }

    fn acquire(&mut self, key: Key, process: impl FnOnce() -> Process) -> ProcessId {
        if let Some(&id) = self.by_key.get(&key) {
            return self.acquire_again(id);
        }
        let slot = Slot { process: Arc::new(process()), key, sockets: 1 };
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

    /// One socket less for `id`; the last one removes it.
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

    fn slot_mut(&mut self, id: ProcessId) -> Option<&mut Slot> {
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
    fn a_process_lives_as_long_as_its_sockets() {
        let mut table = Processes::default();
        let first = table.acquire_process(&process(7));
        assert_eq!(table.acquire_process(&process(7)), first);
        table.release(first);
        assert!(table.get(first).is_some());
        table.release(first);
        assert!(table.get(first).is_none());
        // Its place is used again.
        assert_eq!(table.acquire_process(&process(8)), first);
    }

    #[test]
    fn a_task_and_proc_name_the_same_process() {
        let mut table = Processes::default();
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"nginx");
        let seen = table.acquire_task(&Task { cgroup: 1, tgid: 7, tid: 9, comm });
        assert_eq!(table.acquire_process(&process(7)), seen);
    }
}
