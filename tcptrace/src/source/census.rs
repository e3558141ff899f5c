//! One look at every socket there is, without a trace: counts per network namespace, and the records
//! that a tracker makes groups from.

use std::io;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    host, names,
    netns::{self, Netns, Round},
    owners::{self, Effort},
    sock_diag::{self, DumpError, StateMask, Summary},
};
use crate::model::{Record, StateCounts, TcpState, record::HostFacts};

/// The counts of one namespace.
pub type Counted = Result<(StateCounts, Summary), DumpError>;

/// Whose the sockets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// To be found: every process is looked into.
    Wanted,
    /// Of no interest.
    Unwanted,
}

/// What a look at the sockets found.
pub struct Census {
    /// The namespaces that were visited.
    pub round: Round<Counted>,
    /// Processes that the caller may not look into.
    pub unreadable_processes: u32,
}

/// Hands every socket of the namespaces that `select` wants to `take`, then the owners and names.
/// Fails where `/proc` can't be read.
pub fn take(
    select: impl Fn(&Netns) -> bool + Send,
    owners: Owners,
    facts: &HostFacts,
    take: &mut (dyn FnMut(&Record) + Send),
) -> io::Result<Census> {
    let began = host::monotonic_now();
    take(&Record::Host(Box::new(facts.clone())));
    let mut inodes = FxHashMap::default();
    let round = netns::in_each(select, |netns| {
        let mut counts = StateCounts::default();
        let summary = sock_diag::for_each(StateMask::ALL, netns.id, |socket| {
            match socket.state {
                TcpState::FinWait2 if socket.inode == 0 => counts.add_orphan_fin_wait2(),
                state => counts.add(state),
            }
            if socket.inode != 0 {
                inodes.insert(socket.inode, socket.id);
            }
            take(&Record::Seed(socket));
        })?;
        Ok((counts, summary))
    })?;
    for (netns, _) in &round.visited {
        if let Some(name) = &netns.name {
            let name = name.clone();
            take(&Record::NetnsName { ts: host::monotonic_now(), netns: netns.id, name });
        }
    }
    take(&Record::SeedEnd { ts: host::monotonic_now(), began });
    let unreadable_processes = match owners {
        Owners::Unwanted => 0,
        Owners::Wanted => {
            let wanted: FxHashSet<u32> = inodes.keys().copied().collect();
            let found = owners::find(&wanted, Effort::UntilFound)?;
            let ts = host::monotonic_now();
            let mut cgroups = FxHashSet::default();
            for (inode, holder) in found.by_inode {
                if let Some(&id) = inodes.get(&inode) {
                    cgroups.insert(holder.process.cgroup);
                    take(&Record::Owner { ts, id, process: holder.process });
                }
            }
            names::of_cgroups(cgroups).iter().for_each(&mut *take);
            found.unreadable_processes
        }
    };
    take(&Record::OwnersEnd { ts: host::monotonic_now() });
    Ok(Census { round, unreadable_processes })
}
