//! Owners of the sockets of a group: an approximate top 4 (space-saving).

use std::sync::Arc;

use crate::{
    lifecycle::{Processes, Socket},
    model::record::Process,
};

/// Socket counts of the processes with the most sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnerCounts {
    most: Vec<(Arc<Process>, u64)>,
    others: u64,
}

impl OwnerCounts {
    const KEPT: usize = 4;

    /// Counts a socket for its owner.
    pub(super) fn note(&mut self, socket: &Socket, processes: &Processes) {
        let Some(process) = owner(socket, processes) else { return };
        if let Some((known, count)) = self.find(process) {
            *known = Arc::clone(process);
            *count += 1;
        } else if self.most.len() < Self::KEPT {
            self.most.reserve_exact(1);
            self.most.push((Arc::clone(process), 1));
        } else if let Some(least) = self.most.iter_mut().min_by_key(|(_, count)| *count) {
            // Space-saving: the newcomer replaces the smallest and inherits its count.
            *least = (Arc::clone(process), least.1 + 1);
            self.others += 1;
        }
    }

    /// Updates the process of a socket that is already counted for it.
    pub(super) fn renew(&mut self, socket: &Socket, processes: &Processes) {
        if let Some(process) = owner(socket, processes)
            && let Some((known, _)) = self.find(process)
        {
            *known = Arc::clone(process);
        }
    }

    /// Ignores the cgroup: a process is the same in every cgroup.
    fn find(&mut self, process: &Process) -> Option<&mut (Arc<Process>, u64)> {
        self.most.iter_mut().find(|(known, _)| known.pid == process.pid && known.comm == process.comm)
    }

    pub(super) fn main(&self) -> Option<Process> {
        self.most.iter().max_by_key(|(_, count)| *count).map(|(process, _)| Process::clone(process))
    }

    /// The kept processes, most sockets first.
    pub(super) fn most(&self) -> Vec<Process> {
        let mut most: Vec<_> = self.most.iter().collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        most.into_iter().map(|(process, _)| Process::clone(process)).collect()
    }

    /// Number of processes besides [`Self::most`].
    pub(super) const fn beyond(&self) -> u64 {
        self.others
    }

    pub(super) fn others(&self) -> u64 {
        (self.most.len() as u64).saturating_sub(1) + self.others
    }
}

fn owner<'a>(socket: &Socket, processes: &'a Processes) -> Option<&'a Arc<Process>> {
    socket.process.and_then(|id| processes.get(id))
}
