//! Records of several hosts in one aggregate: the host that the sockets come from, and the tables that name them.

use std::sync::Arc;

use super::HostNames;
use crate::{lifecycle::Tracker, model::record::HostFacts};

/// The host of the sockets that are counted now.
#[derive(Clone, Debug)]
pub struct SocketOrigin {
    /// Name of the host.
    pub host: Arc<str>,
    /// Its stream, if records of several are merged.
    pub merged: Option<MergedOrigin>,
}

/// One of several merged streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedOrigin {
    /// Number of the stream: process ids, cgroup ids and network namespaces of two streams never mean the same.
    pub stream: u16,
    /// Network namespace of its tracer.
    pub own_netns: u32,
}

impl Default for SocketOrigin {
    fn default() -> Self {
        Self { host: "".into(), merged: None }
    }
}

/// The tables of one stream.
#[derive(Clone, Copy)]
pub struct StreamTables<'a> {
    /// Its sockets.
    pub tracker: &'a Tracker,
    /// Names of its ids.
    pub names: &'a HostNames,
    /// Facts about its host.
    pub host: &'a HostFacts,
}

/// Resolves the ids in group keys.
#[derive(Clone, Copy)]
pub(super) struct KeyNames<'a> {
    pub(super) streams: &'a [StreamTables<'a>],
    /// The tracer's network namespace; 0 in keys that are not of one stream.
    pub(super) own_netns: u32,
}

impl<'a> KeyNames<'a> {
    /// Names, own network namespace and host of the ids in a key of `stream`.
    pub(super) fn of(self, stream: Option<u16>) -> Option<(&'a HostNames, u32, Option<&'a str>)> {
        let Some(stream) = stream else {
            return self.streams.first().map(|first| (first.names, self.own_netns, None));
        };
        let tables = self.streams.get(usize::from(stream))?;
        Some((tables.names, tables.host.netns, Some(&*tables.host.host)))
    }
}
