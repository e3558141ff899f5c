//! What to group by: the arguments, in every command that groups.

use clap::{Args, error::ErrorKind};

use crate::aggregate::{Grouping, PeerPrefix};

/// What to group by.
#[derive(Args, Clone, Debug)]
pub struct GroupArgs {
    /// What to group by, one key or two: service, peer, rport, lport, process, comm, cgroup, netns, state
    #[arg(long, value_name = "KEY[,KEY]")]
    by: Option<Grouping>,
    /// With the key peer: take peers together that share so many bits of their address; for IPv6 64,
    /// unless a second number says otherwise
    #[arg(long, value_name = "V4[,V6]", requires = "by")]
    peer_prefix: Option<PeerPrefix>,
}

impl GroupArgs {
    /// Whether something was asked for.
    pub const fn is_given(&self) -> bool {
        self.by.is_some()
    }

    /// What was asked for, else `default`. Arguments that contradict each other end the process.
    pub fn grouping(&self, default: Grouping) -> Grouping {
        let grouping = self.by.unwrap_or(default);
        match self.peer_prefix {
            None => grouping,
            Some(prefix) => grouping.with_peers(prefix).unwrap_or_else(|| {
                let message =
                    format!("--peer-prefix needs the key peer, as in --by peer; found --by {grouping}\n");
                clap::Error::raw(ErrorKind::ArgumentConflict, message).exit()
            }),
        }
    }
}
