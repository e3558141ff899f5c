//! Local ports per destination: who holds how many, how fast that changes, and who runs out first.

pub mod columns;
pub mod json;
pub mod text;
mod words;

use crate::{
    aggregate::{DestinationPorts, NetnsPorts, Snapshot},
    model::{Nanos, text::sanitise},
};

/// What the rates were measured over; `None` where there was one look only, and there are none.
pub fn measured(snapshot: &Snapshot) -> Option<Nanos> {
    Some(snapshot.ts.since(snapshot.began)).filter(|span| span.0 > 0)
}

/// The remote end, and the network namespace where it is not tcptrace's own.
fn remote(snapshot: &Snapshot, row: &DestinationPorts) -> String {
    match snapshot.ports.netns_of(row) {
        Some(netns) if netns.netns.0 != snapshot.host.netns => format!("{} @{}", row.remote, name(netns)),
        _ => row.remote.to_string(),
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
