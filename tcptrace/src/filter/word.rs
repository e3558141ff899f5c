//! The words that begin a test, and the values that each accepts.

use super::{
    ast::{NetnsRef, Test, is_number},
    cidr::Cidr,
    error::excerpt,
    pattern::Pattern,
    quote::unescape,
    ranges::Ranges,
};
use crate::model::{Closer, OwnerKind, Role, Set, TcpState, name_set::Choice, process::NameKind};

/// A word that begins a test with values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// `state`
    State,
    /// `port`
    Port,
    /// `lport`
    Lport,
    /// `rport`
    Rport,
    /// `peer`
    Peer,
    /// `local`
    Local,
    /// `pid`
    Pid,
    /// `comm`
    Comm,
    /// `pod`
    Pod,
    /// `container`
    Container,
    /// `k8s-namespace`
    K8sNamespace,
    /// `unit`
    Unit,
    /// `exe`
    Exe,
    /// `uid`
    Uid,
    /// `netns`
    Netns,
    /// `role`
    Role,
    /// `closer`
    Closer,
    /// `owner`
    Owner,
}

struct WordRow {
    word: Word,
    name: &'static str,
    expects: &'static str,
    example: &'static str,
}

const fn row(word: Word, name: &'static str, expects: &'static str, example: &'static str) -> WordRow {
    WordRow { word, name, expects, example }
}

const A_PORT: &str = "a port (0-65535)";
const A_NETWORK: &str = "an address or a network such as 10.0.0.0/8";
const A_PID: &str = "a process id (1-4294967295)";
const A_COMM: &str = "a process name";
const A_NETNS: &str = "a network namespace's name or inode number";

/// In the order of [`Word`]'s variants.
const ROWS: [WordRow; 18] = [
    row(Word::State, "state", TcpState::DESCRIPTION, "time-wait"),
    row(Word::Port, "port", A_PORT, "443"),
    row(Word::Lport, "lport", A_PORT, "443"),
    row(Word::Rport, "rport", A_PORT, "5432"),
    row(Word::Peer, "peer", A_NETWORK, "10.0.0.0/8"),
    row(Word::Local, "local", A_NETWORK, "10.0.0.5"),
    row(Word::Pid, "pid", A_PID, "4242"),
    row(Word::Comm, "comm", A_COMM, "nginx"),
    row(Word::Pod, NameKind::Pod.name(), "a pod's name", "shop/checkout*"),
    row(Word::Container, NameKind::Container.name(), "a container's name", "app"),
    row(Word::K8sNamespace, NameKind::K8sNamespace.name(), "a Kubernetes namespace", "shop"),
    row(Word::Unit, NameKind::Unit.name(), "a systemd unit", "nginx.service"),
    row(Word::Exe, NameKind::Exe.name(), "a program or its path", "java"),
    row(Word::Uid, NameKind::Uid.name(), "a user's name or number", "www-data"),
    row(Word::Netns, "netns", A_NETNS, "blue"),
    row(Word::Role, "role", Role::DESCRIPTION, "outbound"),
    row(Word::Closer, "closer", Closer::DESCRIPTION, "local"),
    row(Word::Owner, "owner", OwnerKind::DESCRIPTION, "exact"),
];

/// Names in other tools, for suggestions.
const FOREIGN_NAMES: [(&str, &str); 21] = [
    ("sport", "lport"),
    ("dport", "rport"),
    ("saddr", "local"),
    ("daddr", "peer"),
    ("src", "local"),
    ("dst", "peer"),
    ("laddr", "local"),
    ("raddr", "peer"),
    ("source", "local"),
    ("dest", "peer"),
    ("remote", "peer"),
    ("host", "peer"),
    ("net", "peer"),
    ("process", "comm"),
    ("name", "comm"),
    ("namespace", "netns"),
    ("user", "uid"),
    ("service", "unit"),
    ("program", "exe"),
    ("inet", "ipv4"),
    ("inet6", "ipv6"),
];

impl Word {
    /// The word itself: `lport`.
    pub const fn name(self) -> &'static str {
        ROWS[self as usize].name
    }

    /// Describes a valid value: `a port (0-65535)`.
    pub(super) const fn expects(self) -> &'static str {
        ROWS[self as usize].expects
    }

    pub(super) const fn example(self) -> &'static str {
        ROWS[self as usize].example
    }

    /// The word with the name `name`, ignoring case.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.word)
    }

    /// The word for a name that another tool uses.
    pub(super) fn from_foreign_name(name: &str) -> Option<&'static str> {
        FOREIGN_NAMES.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(name)).map(|&(_, ours)| ours)
    }

    /// Every word that may begin a test.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        ROWS.iter().map(|row| row.name).chain(["ipv4", "ipv6"])
    }
}

impl Test {
    /// The test of `word` before its first value is added.
    pub(super) fn without_values(word: Word) -> Self {
        match word {
            Word::State => Self::State(Set::EMPTY),
            Word::Port => Self::Port(Ranges::default()),
            Word::Lport => Self::Lport(Ranges::default()),
            Word::Rport => Self::Rport(Ranges::default()),
            Word::Peer => Self::Peer(Vec::new()),
            Word::Local => Self::Local(Vec::new()),
            Word::Pid => Self::Pid(Vec::new()),
            Word::Comm => Self::Comm(Vec::new()),
            Word::Pod => Self::Named(NameKind::Pod, Vec::new()),
            Word::Container => Self::Named(NameKind::Container, Vec::new()),
            Word::K8sNamespace => Self::Named(NameKind::K8sNamespace, Vec::new()),
            Word::Unit => Self::Named(NameKind::Unit, Vec::new()),
            Word::Exe => Self::Named(NameKind::Exe, Vec::new()),
            Word::Uid => Self::Named(NameKind::Uid, Vec::new()),
            Word::Netns => Self::Netns(Vec::new()),
            Word::Role => Self::Role(Set::EMPTY),
            Word::Closer => Self::Closer(Set::EMPTY),
            Word::Owner => Self::Owner(Set::EMPTY),
        }
    }

    /// Adds the value `text`. An error states what was expected.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        match self {
            Self::State(states) => *states = *states | Set::parse(text)?,
            Self::Port(ranges) | Self::Lport(ranges) | Self::Rport(ranges) => {
                let (low, high) = ports(text)?;
                ranges.add(low, high);
            }
            Self::Peer(networks) | Self::Local(networks) => networks.push(Cidr::parse(text)?),
            Self::Pid(pids) => pids.push(pid(text)?),
            Self::Comm(names) => names.push(comm(Pattern::plain(text))?),
            Self::Named(_, names) => names.push(Pattern::plain(text)),
            Self::Netns(refs) => refs.push(netns(text)?),
            Self::Role(roles) => *roles = *roles | Set::parse(text)?,
            Self::Closer(closers) => *closers = *closers | Set::parse(text)?,
            Self::Owner(kinds) => *kinds = *kinds | Set::parse(text)?,
            Self::Family(_) => return Err("it takes no value".into()),
        }
        Ok(())
    }

    /// Adds a quoted value; quotes only matter for names.
    pub(super) fn add_quoted(&mut self, text: &str) -> Result<(), String> {
        match self {
            Self::Comm(names) => names.push(comm(Pattern::quoted(text))?),
            Self::Named(_, names) => names.push(Pattern::quoted(text)),
            Self::Netns(refs) => refs.push(NetnsRef::Name(unescape(text))),
            _ => self.add(text)?,
        }
        Ok(())
    }
}

fn ports(text: &str) -> Result<(u32, u32), String> {
    let port = |text: &str| number(text).and_then(|n| u16::try_from(n).ok()).map(u32::from);
    let expected = |found: &str| format!("expected {A_PORT}, found {}", excerpt(found));
    let Some((low, high)) = text.split_once('-') else {
        return port(text).map(|port| (port, port)).ok_or_else(|| expected(text));
    };
    match (port(low), port(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        (Some(low), Some(high)) => {
            Err(format!("a range goes from the lower to the higher port: {high}-{low}"))
        }
        (None, _) => Err(expected(low)),
        (_, None) => Err(expected(high)),
    }
}

fn pid(text: &str) -> Result<u32, String> {
    number(text).filter(|&pid| pid > 0).ok_or_else(|| format!("expected {A_PID}, found {}", excerpt(text)))
}

fn netns(text: &str) -> Result<NetnsRef, String> {
    // The notation of `readlink /proc/PID/ns/net`.
    let text = text.strip_prefix("net:[").and_then(|inum| inum.strip_suffix(']')).unwrap_or(text);
    match number(text) {
        Some(inum) => Ok(NetnsRef::Inum(inum)),
        None if is_number(text) => Err(format!("expected {A_NETNS}, found {}", excerpt(text))),
        None => Ok(NetnsRef::Name(text.to_owned())),
    }
}

/// Rejects names that can't match: the kernel keeps 15 bytes of a name.
fn comm(pattern: Pattern) -> Result<Pattern, String> {
    const KEPT: usize = 15;
    if pattern.shortest() <= KEPT {
        return Ok(pattern);
    }
    let kept: String = pattern.exact().unwrap_or_default().chars().take(KEPT).collect();
    let hint = if kept.is_empty() { String::new() } else { format!(", here {}", excerpt(&kept)) };
    Err(format!("the kernel keeps only {KEPT} characters of a process name{hint}"))
}

/// A number made of digits only: no sign.
fn number(text: &str) -> Option<u32> {
    is_number(text).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_words() {
        for (i, row) in ROWS.iter().enumerate() {
            assert_eq!(row.word as usize, i, "{}", row.name);
        }
    }
}
