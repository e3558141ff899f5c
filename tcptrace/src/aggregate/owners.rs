//! Which processes own the sockets of a group: processes in, the one with the most out.

use std::sync::Arc;

use crate::model::record::Process;

/// Counts which processes own the sockets of a group: the few with the most are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    most: Vec<(Arc<Process>, u64)>,
    others: u64,
}

impl Owners {
    const KEPT: usize = 4;

    pub(super) fn note(&mut self, process: &Arc<Process>) {
        if let Some((_, count)) =
            self.most.iter_mut().find(|(known, _)| known.pid == process.pid && known.comm == process.comm)
        {
            *count += 1;
        } else if self.most.len() < Self::KEPT {
            self.most.reserve_exact(1);
            self.most.push((Arc::clone(process), 1));
        } else if let Some(least) = self.most.iter_mut().min_by_key(|(_, count)| *count) {
            // Space-saving: the newcomer takes the place, and the count, of the least.
            *least = (Arc::clone(process), least.1 + 1);
            self.others += 1;
        }
    }

    pub(super) fn main(&self) -> Option<Process> {
        self.most.iter().max_by_key(|(_, count)| *count).map(|(process, _)| Process::clone(process))
    }

    /// Those kept, the ones with the most first.
    pub(super) fn most(&self) -> Vec<Process> {
        let mut most: Vec<_> = self.most.iter().collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        most.into_iter().map(|(process, _)| Process::clone(process)).collect()
    }

    /// How many there are beside [`Self::most`].
    pub(super) const fn beyond(&self) -> u64 {
        self.others
    }

    pub(super) fn others(&self) -> u64 {
        (self.most.len() as u64).saturating_sub(1) + self.others
    }
}
