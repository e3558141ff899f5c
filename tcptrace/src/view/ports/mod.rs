//! Local ports per destination: which processes hold them, how fast their number changes, and which destination runs
//! out first.

pub mod binds;
pub mod columns;
pub mod json;
pub mod nat;
pub mod text;
mod wording;

pub use wording::{free_ports, used};

use crate::{
    aggregate::{DestinationPorts, NetnsPorts, Snapshot},
    model::{Endpoint, Nanos, NetnsId, text::sanitise},
};

/// The time over which rates were measured; `None` for a single snapshot, which has no rates.
pub fn measured(snapshot: &Snapshot) -> Option<Nanos> {
    Some(snapshot.ts.since(snapshot.began)).filter(|span| span.0 > 0)
}

/// The remote end, with its backend if NAT translates it, the network namespace if it is not tcptrace's own, and the name
/// of its address.
fn remote(snapshot: &Snapshot, row: &DestinationPorts) -> String {
    let remote = match row.backends.as_slice() {
        [] => row.remote.to_string(),
        [backend, others @ ..] => {
            let backend = Endpoint { addr: backend.addr, port: backend.port, ifindex: 0 };
            let others = if others.is_empty() { String::new() } else { format!(" +{}", others.len()) };
            format!("{} -> {backend}{others}", row.remote)
        }
    };
    snapshot.peer_names.with_name(row.remote.addr, with_netns(snapshot, row.netns, remote))
}

/// `shown`, with the network namespace if it is not tcptrace's own.
fn with_netns(snapshot: &Snapshot, netns: NetnsId, shown: String) -> String {
    match snapshot.ports.netns(netns) {
        Some(netns) if netns.netns.0 != snapshot.host.netns => format!("{shown} @{}", name(netns)),
        _ => shown,
    }
}

/// The local address.
fn local(row: &DestinationPorts) -> String {
    row.local.addr.to_string()
}

/// The name of a namespace, or its number.
fn name(netns: &NetnsPorts) -> String {
    netns.name.as_ref().map_or_else(|| netns.netns.to_string(), |name| sanitise(name).into_owned())
}
