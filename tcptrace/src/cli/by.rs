//! Arguments that select the grouping (`--by`, `--peer-prefix`), shared by every command that groups.

use clap::{Args, error::ErrorKind};

use crate::aggregate::{Grouping, PeerPrefix};

/// Grouping arguments.
#[derive(Args, Clone, Debug)]
pub struct GroupArgs {
    #[arg(
        long,
        value_name = "KEY[,KEY]",
        help = "Group by one or two keys: service, peer, pod, ...",
        long_help = format!("Group by one or two keys: {}", Grouping::names().join(", "))
    )]
    by: Option<Grouping>,
    /// With the key peer: group peers whose addresses share this many leading bits; IPv6 uses 64 unless
    /// a second number is given
    #[arg(long, value_name = "V4[,V6]", requires = "by", hide_short_help = true)]
    peer_prefix: Option<PeerPrefix>,
}

impl GroupArgs {
    /// The grouping of `--by`, else `default`. Exits the process if `--peer-prefix` is given without the key peer.
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
