//! Table of the processes that own sockets: one entry per process, while a socket refers to it; and the names of their
//! workloads and programs, which come before or after them.

use std::sync::Arc;

use hashbrown::HashMap;
use tcptrace_common::record::Task;

use super::recent_names::RecentNames;
use crate::model::{
    Nanos, Record,
    process::{comm_key, comm_of_task},
    record::{Process, ProcessFacts},
    text,
    workload::Workload,
};

/// A process in the table; valid only for the [`Processes`] that issued it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId(u32);

#[derive(Clone, Debug)]
struct ProcessSlot {
    process: Arc<Process>,
    key: ProcessKey,
    sockets: u32,
    /// It moved to another cgroup or got a name, and its sockets are not counted there yet.
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
    /// By cgroup.
    workloads: RecentNames<u64, Arc<Workload>>,
    facts: RecentNames<ProcessKey, Arc<ProcessFacts>>,
    passes: Passes,
}

/// Schedules passes over all sockets, which move the counts of processes that changed their cgroup or got a name, and
/// of namespaces whose settings changed: at most one pass per [`Passes::PAUSE`].
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

    /// Number of cgroups with names.
    pub(super) fn named_cgroups(&self) -> usize {
        self.workloads.len()
    }

    /// Number of processes whose program is remembered.
    pub(super) fn known_facts(&self) -> usize {
        self.facts.len()
    }

    /// Acquires the process of `task`, observed at `ts`, for one more socket.
    pub fn acquire_task(&mut self, task: &Task, ts: Nanos) -> ProcessId {
        let key = (task.tgid, comm_of_task(&task.comm));
        self.acquire(key, task.cgroup, ts, || {
            Process::new(task.tgid, text::from_kernel(&task.comm), task.cgroup)
        })
    }

    /// Acquires `process`, observed at `ts`, for one more socket.
    pub fn acquire_process(&mut self, process: &Process, ts: Nanos) -> ProcessId {
        let key = (process.pid, comm_key(&process.comm));
        self.acquire(key, process.cgroup, ts, || process.clone())
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
        let mut process = process();
        process.facts = self.facts.get(&key).cloned();
        process.workload = self.workloads.get(&process.cgroup).cloned();
        let slot = ProcessSlot { process: Arc::new(process), key, sockets: 1, moved: false };
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
        let workload = self.workloads.get(&cgroup).cloned();
        let Some(slot) = self.slot_mut(id).filter(|slot| cgroup != 0 && slot.process.cgroup != cgroup) else {
            return;
        };
        slot.process = Arc::new(Process { cgroup, workload, ..Process::clone(&slot.process) });
        slot.moved = true;
        self.passes.add(ts);
    }

    /// Takes names of workloads and programs.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            // The names that follow a path are those of files, which know more.
            Record::CgroupPath { ts, cgroup, path } if self.workloads.get(cgroup).is_none() => {
                self.name_cgroup(*cgroup, Arc::new(Workload::from_path(path)), *ts);
            }
            Record::Workload { ts, cgroup, workload } => self.name_cgroup(*cgroup, Arc::clone(workload), *ts),
            Record::ProcessFacts { ts, pid, comm, facts } => {
                let key = (*pid, comm_key(comm));
                self.facts.insert(key, Arc::clone(facts));
                let Some(&id) = self.by_key.get(&key) else { return };
                let Some(slot) = self.slot_mut(id) else { return };
                if slot.process.facts.as_ref() != Some(facts) {
                    let process = Process::clone(&slot.process);
                    slot.process = Arc::new(Process { facts: Some(Arc::clone(facts)), ..process });
                    slot.moved = true;
                    self.passes.add(*ts);
                }
            }
            _ => {}
        }
    }

    /// Stores the workload of a cgroup; a pass names the processes in it.
    fn name_cgroup(&mut self, cgroup: u64, workload: Arc<Workload>, ts: Nanos) {
        self.workloads.insert(cgroup, workload);
        if !self.by_key.is_empty() {
            self.passes.add(ts);
        }
    }

    /// Gives every process the newest workload of its cgroup.
    fn name_processes(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            let Some(workload) = self.workloads.get(&slot.process.cgroup) else { continue };
            if slot.process.workload.as_ref() != Some(workload) {
                let process = Process::clone(&slot.process);
                slot.process = Arc::new(Process { workload: Some(Arc::clone(workload)), ..process });
                slot.moved = true;
            }
        }
    }

    /// The names as records, for the start of a recording: workloads, then programs.
    pub(super) fn names(&self, ts: Nanos) -> (Vec<Record>, Vec<Record>) {
        let workloads = self.workloads.iter();
        let workloads = workloads.map(|(&cgroup, workload)| Record::Workload {
            ts,
            cgroup,
            workload: Arc::clone(workload),
        });
        let live = self.slots.iter().flatten();
        let live = live.filter_map(|slot| Some((&slot.key, slot.process.facts.as_ref()?)));
        let recent = self.facts.iter().filter(|(key, _)| !self.by_key.contains_key(*key));
        let facts = recent.chain(live).map(|((pid, comm), facts)| Record::ProcessFacts {
            ts,
            pid: *pid,
            comm: text::from_kernel(comm).into(),
            facts: Arc::clone(facts),
        });
        (workloads.collect(), facts.collect())
    }

    /// Schedules a pass for a change other than of a process.
    pub(super) fn request_pass(&mut self, ts: Nanos) {
        self.passes.add(ts);
    }

    /// Begins a pass if one is due: then the sockets of processes that [`Self::has_moved`] are counted again.
    pub(super) fn begin_pass(&mut self, now: Nanos) -> bool {
        let begins = self.passes.begin_pass(now);
        if begins {
            self.name_processes();
        }
        begins
    }

    /// Whether any process has moved, see [`Self::has_moved`].
    pub(super) fn any_moved(&self) -> bool {
        self.slots.iter().flatten().any(|slot| slot.moved)
    }

    /// Whether `id` moved to another cgroup or got a name since the last pass.
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
        Process::new(pid, "nginx", 1)
    }

    fn facts(exe: &str) -> Record {
        let facts = ProcessFacts { exe: Some(exe.into()), ..ProcessFacts::default() };
        Record::ProcessFacts { ts: Nanos(5), pid: 7, comm: "nginx".into(), facts: Arc::new(facts) }
    }

    fn path(cgroup: u64, path: &str) -> Record {
        Record::CgroupPath { ts: Nanos(5), cgroup, path: path.into() }
    }

    /// Workload and program of a process.
    fn names(table: &Processes, id: ProcessId) -> [Option<String>; 2] {
        let process = table.get(id).expect("a process");
        let exe = process.facts.as_ref().and_then(|facts| facts.exe.as_deref());
        [process.workload().and_then(|workload| workload.shown()), exe].map(|name| name.map(str::to_owned))
    }

    #[test]
    fn names_come_before_or_after_a_process() {
        let mut table = Processes::default();
        let first = table.acquire_process(&process(7), Nanos(0));
        table.take(&path(1, "/system.slice/nginx.service"));
        table.take(&facts("/usr/sbin/nginx"));
        assert!(table.begin_pass(Nanos(5)) && table.has_moved(first));
        table.end_pass();
        let named = [Some("nginx.service".to_owned()), Some("/usr/sbin/nginx".to_owned())];
        assert_eq!(names(&table, first), named);
        // A path does not replace the names from files.
        let workload = Workload { container: Some("web".into()), ..Workload::default() }.labelled();
        table.take(&Record::Workload { ts: Nanos(6), cgroup: 1, workload: Arc::new(workload) });
        table.take(&path(1, "/system.slice/nginx.service"));
        assert!(table.begin_pass(Nanos::SECOND.plus(Nanos(6))));
        assert_eq!(names(&table, first)[0].as_deref(), Some("web"));
        table.end_pass();
        // Its last socket ends; the next one has the names at once.
        table.release(first);
        let again = table.acquire_process(&process(7), Nanos(0));
        assert_eq!(names(&table, again), [Some("web".to_owned()), named[1].clone()]);
        assert!(!table.any_moved());
        // In another cgroup nothing of this one remains.
        let seen = Process { cgroup: 2, ..process(7) };
        assert_eq!(table.acquire_process(&seen, Nanos(7)), again);
        assert_eq!(names(&table, again)[0], None);
    }

    #[test]
    fn a_table_has_the_names_of_another_from_its_records() {
        let mut table = Processes::default();
        let id = table.acquire_process(&process(7), Nanos(0));
        table.take(&path(1, "/system.slice/nginx.service"));
        table.take(&facts("/usr/sbin/nginx"));
        table.begin_pass(Nanos(5));
        let (workloads, facts) = table.names(Nanos(9));
        let mut copy = Processes::default();
        for record in &workloads {
            copy.take(record);
        }
        let copied = copy.acquire_process(&process(7), Nanos(9));
        for record in &facts {
            copy.take(record);
        }
        assert_eq!(names(&copy, copied), names(&table, id));
    }

    #[test]
    fn a_name_that_is_no_text_finds_its_process() {
        let mut comm = [0; 16];
        comm[..3].copy_from_slice(b"a\x1b\xff");
        let mut table = Processes::default();
        let id = table.acquire_task(&Task { cgroup: 1, tgid: 7, tid: 7, comm }, Nanos(0));
        let comm = Arc::clone(&table.get(id).expect("a process").comm);
        let facts = Arc::new(ProcessFacts { uid: Some(33), ..ProcessFacts::default() });
        table.take(&Record::ProcessFacts { ts: Nanos(1), pid: 7, comm, facts });
        assert!(table.get(id).is_some_and(|process| process.facts.is_some()));
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
