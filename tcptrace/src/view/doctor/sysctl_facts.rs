//! Facts about every setting: one table for `doctor --explain` and docs/time-wait.md.

use std::io::{self, Write};

use super::text::wrap;
use crate::model::{record::SysctlLine, text};

/// Facts about one setting.
#[derive(Debug)]
pub struct SysctlFact {
    /// Name for `sysctl`.
    pub name: &'static str,
    /// Default value.
    pub default: &'static str,
    /// Effect.
    pub truth: &'static str,
    /// Advice.
    pub advice: &'static str,
}

/// The eight settings of the tuning article that most people find.
pub const ARTICLE: [&str; 8] = [
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_recycle",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
];

/// Every setting that has an explanation.
pub const SYSCTL_FACTS: [SysctlFact; 24] = [
    SysctlFact {
        name: "net.ipv4.tcp_syncookies",
        default: "1",
        truth: "0 never, 1 when a listener's SYN queue overflows, 2 always (for tests). With a cookie the kernel \
                remembers nothing of the handshake, so some TCP options are lost. It has nothing to do with TIME_WAIT.",
        advice: "Leave it 1. It is the last resort against a flood, not capacity: if SyncookiesSent grows under \
                 honest load, the backlog is too short.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_tw_reuse",
        default: "2 (0 before 4.19)",
        truth: "Lets connect() take over a TIME_WAIT of its own side: 0 never, 1 always, 2 on loopback only. The old \
                one must be at least 1 s old, and both ends must use timestamps. Outgoing connections only: it \
                does nothing on a server, and nothing about an orphan FIN_WAIT2.",
        advice: "Set it to 1 on a client that runs out of local ports, after a pool of connections has been \
                 considered. TWRecycled counts its hits.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_tw_reuse_delay",
        default: "1000 (milliseconds; since 6.14)",
        truth: "How old a TIME_WAIT must be before tcp_tw_reuse may take it over. Earlier kernels have the second \
                as a constant.",
        advice: "Leave it. It must not be less than a tick of the peer's timestamp clock.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_tw_recycle",
        default: "none: removed in 4.12",
        truth: "Was dropped from Linux in 4.12. Before that it compared timestamps per address, and so dropped \
                connections from all but one client behind a NAT, at random.",
        advice: "Take the line out of your sysctl files. There is no replacement, and none is needed.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_tw_timeout",
        default: "none: Alibaba Cloud Linux only (60)",
        truth: "Length of TIME_WAIT in seconds, 1 to 600, on Alibaba Cloud Linux 2 and 3. In mainline Linux the \
                length is a constant, 60 s (TCP_TIMEWAIT_LEN), and no setting changes it.",
        advice: "Leave it 60: a shorter one lets old segments into new connections. Elsewhere the line does nothing.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_fin_timeout",
        default: "60",
        truth: "How long a FIN_WAIT2 lasts that no process holds (an orphan). It does not touch TIME_WAIT, which \
                always lasts 60 s, nor a half-closed socket that a process still has open.",
        advice: "Leave it 60. Lower it only for many orphans in FIN_WAIT2 whose peers can't be changed.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_max_tw_buckets",
        default: "half as many as the TCP hash table has buckets (131072 with 24 GiB)",
        truth: "How many timewait sockets a network namespace may have: TIME_WAIT and orphan FIN_WAIT2. Above it \
                connections get no TIME_WAIT at all, and TCPTimeWaitOverflow counts. Each costs about 250 bytes.",
        advice: "Never lower it: that trades a harmless table for corrupted connections. Raise it when \
                 TCPTimeWaitOverflow grows.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_keepalive_time",
        default: "7200 (seconds)",
        truth: "After how long without data the first keepalive probe goes out, and only of sockets with \
                SO_KEEPALIVE. It finds peers that vanished. It does not touch TIME_WAIT, nor a CLOSE_WAIT leak \
                while the peer's host answers.",
        advice: "Better set it in the application, per socket (TCP_KEEPIDLE). Lower it, to 600 say, where firewalls \
                 forget idle connections.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_keepalive_intvl",
        default: "75 (seconds)",
        truth: "Time between two keepalive probes that are not answered.",
        advice: "Leave it, or set TCP_KEEPINTVL per socket.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_keepalive_probes",
        default: "9",
        truth: "The kernel aborts the connection after this many unanswered keepalive probes.",
        advice: "Leave it, or set TCP_KEEPCNT per socket.",
    },
    SysctlFact {
        name: "net.ipv4.ip_local_port_range",
        default: "32768 60999 (28,232 ports)",
        truth: "The ports that connect() chooses from. The limit is per local address, remote address and remote \
                port, not per host: each destination can have all of them.",
        advice: "Widen it when one destination needs more than about 470 new connections a second, after a pool \
                 and tcp_tw_reuse=1. First and last should differ in parity, and services listen outside of it.",
    },
    SysctlFact {
        name: "net.ipv4.ip_local_reserved_ports",
        default: "empty",
        truth: "Ports of ip_local_port_range that are never chosen for an outgoing connection; bind() to them works.",
        advice: "List the ports of services that listen inside ip_local_port_range.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_max_syn_backlog",
        default: "128 to 4096, by memory",
        truth: "An upper limit of handshakes under way per listener when syncookies are off; with syncookies on, \
                the listener's own backlog is what counts. It is not the accept queue.",
        advice: "Leave it. When SYNs are dropped, the application's listen() backlog and somaxconn come first.",
    },
    SysctlFact {
        name: "net.core.somaxconn",
        default: "4096 (128 before 5.4)",
        truth: "The most that listen() gets as its backlog, which bounds the accept queue and the SYN queue of that \
                listener. A shorter backlog in the application wins.",
        advice: "Raise it together with the application's backlog when ListenOverflows grows; then restart the listener.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_abort_on_overflow",
        default: "0",
        truth: "1 answers with a RST when the accept queue is full; 0 drops the last ACK, and the client tries again.",
        advice: "Leave it 0: a short burst then costs a second, not an error.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_max_orphans",
        default: "as many as the TCP hash table has buckets",
        truth: "How many sockets without a process the host may have in FIN_WAIT1, LAST_ACK and CLOSING. Above \
                it they are reset (TCPAbortOnMemory). Timewait sockets do not count.",
        advice: "Leave it.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_orphan_retries",
        default: "0, which acts as 8",
        truth: "How often the FIN of a socket without a process is retransmitted, in FIN_WAIT1, LAST_ACK and \
                CLOSING. It does not touch FIN_WAIT2 or TIME_WAIT.",
        advice: "Leave it; 1 to 3 on a server whose clients vanish by the thousand.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_rfc1337",
        default: "0",
        truth: "0: a RST ends a TIME_WAIT early. 1: such a RST is ignored, as RFC 1337 proposes. It changes nothing \
                about how many there are.",
        advice: "Leave it, or set it to 1 where RSTs are forged.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_timestamps",
        default: "1",
        truth: "Timestamps of RFC 7323: they keep old segments out of a connection (PAWS), and show when a TIME_WAIT \
                may be reused. With 0 tcp_tw_reuse does nothing.",
        advice: "Leave it 1. Since 4.10 they are random per connection and do not reveal the uptime.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_syn_retries",
        default: "6 (about 131 s; before Linux 6.5, 127 s)",
        truth: "How often a SYN is sent again before connect() fails with ETIMEDOUT.",
        advice: "Leave it; give connect() a timeout in the application.",
    },
    SysctlFact {
        name: "net.ipv4.tcp_synack_retries",
        default: "5 (about 63 s)",
        truth: "How often a SYN-ACK is sent again before the handshake is forgotten.",
        advice: "Leave it; 2 or 3 under a flood that syncookies do not hold.",
    },
    SysctlFact {
        name: "net.ipv4.ip_autobind_reuse",
        default: "0",
        truth: "1 lets bind() to port 0 choose a port that is in use, when all are, for sockets with SO_REUSEADDR.",
        advice: "Leave it 0. Let the application set IP_BIND_ADDRESS_NO_PORT, or not bind() at all before connect().",
    },
    SysctlFact {
        name: "IP_BIND_ADDRESS_NO_PORT",
        default: "off (a socket option, since 4.2)",
        truth: "bind() to an address without a port, before connect(), reserves a port for all destinations; with this \
                option the port is chosen by connect(), and one port serves many destinations.",
        advice: "In the application: set it wherever an outgoing connection is bound to a local address.",
    },
    SysctlFact {
        name: "SO_LINGER",
        default: "off (a socket option)",
        truth: "With a time of 0 close() sends a RST instead of a FIN: no TIME_WAIT, and whatever was not delivered \
                yet is lost.",
        advice: "Not against TIME_WAIT. For health checks and load tests only.",
    },
];

/// Value of a setting in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingValue {
    /// The place: `this host`, `netns blue`.
    pub place: String,
    /// The value.
    pub value: String,
}

/// State of a setting on this host.
#[derive(Clone, Debug, Default)]
pub struct HostSetting<'a> {
    /// Its values, this namespace's first; empty if the kernel does not have the setting.
    pub values: Vec<SettingValue>,
    /// Lines of sysctl files that set it.
    pub lines: Vec<&'a SysctlLine>,
}

/// Finds a setting by name, in any spelling.
pub fn find(name: &str) -> Option<&'static SysctlFact> {
    let wanted = plain(name);
    SYSCTL_FACTS.iter().find(|truth| plain(truth.name) == wanted || short(truth.name) == wanted)
}

/// `name` in lower case, with dots.
fn plain(name: &str) -> String {
    name.trim().trim_start_matches("/proc/sys/").replace('/', ".").replace('-', "_").to_ascii_lowercase()
}

/// The last part: `tcp_tw_reuse`.
pub fn short(name: &str) -> String {
    plain(name.rsplit('.').next().unwrap_or(name))
}

/// Writes the facts of `truth` and its state on this host.
pub fn write(
    out: &mut impl Write,
    truth: &SysctlFact,
    known: &HostSetting<'_>,
    width: usize,
) -> io::Result<()> {
    const LABELS: usize = 10;
    let width = width.clamp(40, 100) - LABELS;
    let mut part = |label: &str, line: &str| -> io::Result<()> {
        for (n, line) in wrap(&text::sanitise(line), width, "").into_iter().enumerate() {
            writeln!(out, "  {:<8}{line}", if n == 0 { label } else { "" })?;
        }
        Ok(())
    };
    let is_option = !truth.name.contains('.');
    match known.values.as_slice() {
        [] if is_option => part("now", "an option of single sockets: no value for the host")?,
        [] => part("now", "this kernel does not have it")?,
        values => {
            for (n, SettingValue { place, value }) in values.iter().enumerate() {
                let value = if value.is_empty() { "(empty)" } else { value };
                part(if n == 0 { "now" } else { "" }, &format!("{value} ({place})"))?;
            }
        }
    }
    for (n, line) in known.lines.iter().enumerate() {
        part(if n == 0 { "set in" } else { "" }, &format!("{}:{}: {}", line.file, line.line, line.value))?;
    }
    part("default", truth.default)?;
    part("truth", truth.truth)?;
    part("advice", truth.advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(name: &str, values: &[(&str, &str)]) -> String {
        let truth = find(name).expect("a known setting");
        let values =
            values.iter().map(|&(place, value)| SettingValue { place: place.into(), value: value.into() });
        let mut out = Vec::new();
        let known = HostSetting { values: values.collect(), lines: Vec::new() };
        write(&mut out, truth, &known, 80).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn article_settings_have_value_truth_and_advice() {
        // Words that the text must contain.
        let must = [
            ("tcp_syncookies", "1", ["SYN queue overflows", "Leave it 1"]),
            ("tcp_tw_reuse", "2", ["Outgoing connections only", "Set it to 1 on a client"]),
            ("tcp_tw_recycle", "1", ["4.12", "Take the line out"]),
            ("tcp_fin_timeout", "30", ["does not touch TIME_WAIT", "Leave it 60"]),
            ("tcp_keepalive_time", "1200", ["SO_KEEPALIVE", "TCP_KEEPIDLE"]),
            ("ip_local_port_range", "1024 65000", ["not per host", "differ in parity"]),
            ("tcp_max_syn_backlog", "8192", ["not the accept queue", "somaxconn"]),
            ("tcp_max_tw_buckets", "5000", ["no TIME_WAIT at all", "Never lower it"]),
        ];
        assert_eq!(must.len(), ARTICLE.len());
        for (name, value, words) in must {
            assert!(ARTICLE.iter().any(|article| short(article) == name), "{name}");
            let text = explained(name, &[("this host", value)]);
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(&format!("now {value} (this host)")), "{text}");
            for word in words {
                assert!(flat.contains(word), "{name} does not say '{word}': {text}");
            }
        }
    }

    #[test]
    fn settings_are_found_in_any_spelling() {
        for name in [
            "tcp_tw_reuse",
            "net.ipv4.tcp_tw_reuse",
            "net/ipv4/tcp_tw_reuse",
            "TCP_TW_REUSE",
            "/proc/sys/net/ipv4/tcp_tw_reuse",
        ] {
            assert_eq!(find(name).map(|truth| truth.name), Some("net.ipv4.tcp_tw_reuse"), "{name}");
        }
        assert!(find("tcp_tw").is_none());
        assert!(find("so_linger").is_some());
    }

    #[test]
    fn missing_settings_are_reported() {
        assert!(explained("tcp_tw_recycle", &[]).contains("this kernel does not have it"));
        assert!(explained("SO_LINGER", &[]).contains("option of single sockets"));
    }

    #[test]
    fn lines_fit_80_columns() {
        for truth in &SYSCTL_FACTS {
            let text = explained(truth.name, &[("this host", "1")]);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    /// docs/time-wait.md repeats the text of every setting.
    #[test]
    fn time_wait_page_has_the_same_text() {
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let page = flat(include_str!("../../../../docs/time-wait.md"));
        for truth in &SYSCTL_FACTS {
            for part in [truth.truth, truth.advice] {
                assert!(page.contains(&flat(part)), "docs/time-wait.md on {}: {part}", truth.name);
            }
        }
    }
}
