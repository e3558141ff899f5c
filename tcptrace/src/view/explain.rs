//! Explanations for `states --explain`: the meaning of every state, what many of them mean, and who has to act.

use std::io::{self, Write};

use crate::model::TcpState;

/// Explanation of one state. Lines have at most 72 characters, to fit 80 columns.
#[derive(Debug)]
pub struct Explanation {
    /// The state.
    pub state: TcpState,
    /// Meaning, and how long it lasts.
    pub is: &'static [&'static str],
    /// Meaning of a large or growing number.
    pub many: &'static [&'static str],
    /// Who has to act, and how.
    pub act: &'static [&'static str],
}

/// Every state, in the order of a connection's life.
pub const EXPLANATIONS: [Explanation; TcpState::COUNT] = [
    Explanation {
        state: TcpState::Listen,
        is: &["A program waits for connections on a port."],
        many: &["Nothing: one per port and address, with SO_REUSEPORT one per worker."],
        act: &["Nobody."],
    },
    Explanation {
        state: TcpState::SynSent,
        is: &[
            "Our SYN is sent; no answer yet. Lasts one round trip, else",
            "the SYN is sent again for a minute or two (tcp_syn_retries).",
        ],
        many: &["The peer is down, or a firewall or a full accept queue drops our SYN."],
        act: &["Network and peer. The application: a connect timeout of its own."],
    },
    Explanation {
        state: TcpState::SynRecv,
        is: &["A SYN came, our SYN-ACK is out. Lasts one round trip."],
        many: &[
            "Clients that are slow, far or blocked; a listener whose accept queue",
            "is full (ListenOverflows); or a SYN flood (SyncookiesSent).",
        ],
        act: &[
            "Accept queue full: the application accepts faster, or listens with a",
            "longer queue (its backlog, capped by somaxconn). Flood: leave",
            "tcp_syncookies=1 and filter upstream.",
        ],
    },
    Explanation {
        state: TcpState::Established,
        is: &["Connected; data may flow both ways. No limit in time."],
        many: &["Load; or, if it only grows, connections that no process closes."],
        act: &["The application: size of its pools, idle timeouts, keepalive."],
    },
    Explanation {
        state: TcpState::FinWait1,
        is: &["We closed; the peer has not acknowledged it. Lasts one round trip."],
        many: &["Peers that vanished, or that stopped reading while data is queued."],
        act: &[
            "Network and peer. The kernel gives up by itself; without a process",
            "it tries 8 times (tcp_orphan_retries, which shows 0 for 8).",
        ],
    },
    Explanation {
        state: TcpState::FinWait2,
        is: &[
            "We closed and the peer knows; it has not closed its side.",
            "Orphan (no process holds it): ends after tcp_fin_timeout, 60 s.",
            "Held (a process only shut down its side): no limit in time.",
        ],
        many: &[
            "Orphans: the peer is slow to close, and has as many CLOSE_WAIT.",
            "Held: our process half-closes and never finishes.",
        ],
        act: &[
            "Orphans: the application at the peer. Held: the application here",
            "reads to the end and calls close(). tcp_fin_timeout is for orphans only.",
        ],
    },
    Explanation {
        state: TcpState::Closing,
        is: &["Both sides closed at the same moment. Lasts one round trip."],
        many: &["Rare. The network loses segments."],
        act: &["Network."],
    },
    Explanation {
        state: TcpState::TimeWait,
        is: &[
            "We closed first; both FINs are acknowledged. 60 s, a constant of the",
            "kernel: old segments must not enter a new connection, and a lost",
            "last ACK must be answered.",
        ],
        many: &[
            "60 times the connections per second that this side closes first.",
            "Accepted connections: about 250 bytes of memory each, nothing else.",
            "Outgoing ones: each takes a local port for its destination address",
            "and port; 28,232 of them (ip_local_port_range) last for 470 a second.",
        ],
        act: &[
            "Accepted: nobody. Outgoing: the application keeps and reuses its",
            "connections, or lets the peer close first; then tcp_tw_reuse=1; then",
            "a wider range or more addresses. Never tcp_tw_recycle (removed in",
            "4.12), never a lower tcp_max_tw_buckets. tcp_fin_timeout does nothing.",
        ],
    },
    Explanation {
        state: TcpState::CloseWait,
        is: &["The peer closed; our process has not. No limit in time."],
        many: &["If they stay or grow: our process forgot close(). Descriptors leak."],
        act: &["The application here: nobody else, and no setting.", "Who: ss -tanp state close-wait"],
    },
    Explanation {
        state: TcpState::LastAck,
        is: &["The peer closed, then we; our FIN is not acknowledged. One round trip."],
        many: &["Peers that vanished after closing, or a network that loses segments."],
        act: &["Network and peer. The kernel gives up by itself."],
    },
    Explanation {
        state: TcpState::Close,
        is: &["No connection. Seen only in the instant between two states."],
        many: &["Nothing."],
        act: &["Nobody."],
    },
];

/// Writes all explanations.
pub fn write(out: &mut impl Write) -> io::Result<()> {
    for explanation in &EXPLANATIONS {
        writeln!(out, "\n{}", explanation.state.name())?;
        for (label, lines) in [("is", explanation.is), ("many", explanation.many), ("act", explanation.act)] {
            for (n, line) in lines.iter().enumerate() {
                writeln!(out, "  {:<5} {line}", if n == 0 { label } else { "" })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_explained_once_within_80_columns() {
        for state in TcpState::ALL {
            assert_eq!(EXPLANATIONS.iter().filter(|row| row.state == state).count(), 1, "{}", state.name());
        }
        let mut text = Vec::new();
        write(&mut text).expect("writing to memory");
        let text = String::from_utf8(text).expect("text");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
