//! Finding about connections that a pool would have saved.

use super::{
    evidence::Case,
    finding::{Found, Severity, Who},
};
use crate::{
    aggregate::{PoolDemand, StackCall},
    model::{
        text,
        units::{self, plural},
    },
};

/// Fewer saved connects a second are no finding.
const MIN_SAVED_PER_S: f64 = 2.0;
/// From this many saved connects a second on, the finding is a warning.
const MANY_SAVED_PER_S: f64 = 50.0;

/// The setting of a client that keeps connections; `{n}` stands for the number of idle ones.
struct ClientPool {
    /// The beginning of its process name.
    comm: &'static str,
    setting: &'static str,
}

const CLIENTS: &[ClientPool] = &[
    ClientPool {
        comm: "nginx",
        setting: "nginx: keepalive {n}; in the upstream block, with proxy_http_version 1.1; and proxy_set_header Connection \"\";",
    },
    ClientPool {
        comm: "haproxy",
        setting: "HAProxy: http-reuse safe (or always) in the backend, and pool-max-conn {n} or more on its server lines",
    },
    ClientPool {
        comm: "envoy",
        setting: "Envoy: no max_requests_per_connection on the cluster, and an idle_timeout above the pause between requests",
    },
    ClientPool {
        comm: "php",
        setting: "PHP: persistent connections, which each worker keeps: PDO::ATTR_PERSISTENT, pfsockopen(), Redis::pconnect()",
    },
    ClientPool {
        comm: "python",
        setting: "Python: one requests.Session() for the whole process, its HTTPAdapter with pool_maxsize={n}; SQLAlchemy: pool_size={n}",
    },
    ClientPool {
        comm: "gunicorn",
        setting: "Python: one requests.Session() for each worker, its HTTPAdapter with pool_maxsize={n}; SQLAlchemy: pool_size={n}",
    },
    ClientPool {
        comm: "uwsgi",
        setting: "Python: one requests.Session() for each worker, its HTTPAdapter with pool_maxsize={n}; SQLAlchemy: pool_size={n}",
    },
    ClientPool {
        comm: "node",
        setting: "Node.js: one http.Agent({ keepAlive: true, maxFreeSockets: {n} }) for all requests; pg: one Pool({ max: {n} })",
    },
    ClientPool {
        comm: "java",
        setting: "Java: one shared client with setDefaultMaxPerRoute({n}) or more (Apache HttpClient); HikariCP: minimumIdle={n}",
    },
];

/// A client of another name, which may be written in anything.
const ANY_CLIENT: &str = "In the application: one pool for the whole process, with {n} idle connections or more. Go: Transport.MaxIdleConnsPerHost={n} \
                          (2 by default), and read each Body to its end; database/sql: SetMaxIdleConns({n})";

/// Finding: many connections of one process to one destination, one after the other, closed by this side.
pub fn too_small(case: &Case<'_>) -> Option<Found> {
    let seconds = case.snapshot.ts.since(case.snapshot.began).as_secs_f64();
    let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let is_wasteful = |demand: &&PoolDemand| {
        demand.saved * 2 >= demand.opened && demand.short * 2 >= demand.closed_here + demand.closed_there
    };
    let all: Vec<_> = case.snapshot.pools.iter().filter(is_wasteful).collect();
    // Workers of one program to one destination are one finding, which each of them repeats.
    let first = all.first()?;
    let is_same = |other: &&&PoolDemand| {
        (other.netns, other.remote, &other.process.comm) == (first.netns, first.remote, &first.process.comm)
    };
    let workers: Vec<_> = all.iter().filter(is_same).collect();
    let sum = |count: fn(&PoolDemand) -> u64| -> u64 { workers.iter().map(|demand| count(demand)).sum() };
    let (opened, saved, short) =
        (sum(|demand| demand.opened), sum(|demand| demand.saved), sum(|demand| demand.short));
    let (here, there) = (sum(|demand| demand.closed_here), sum(|demand| demand.closed_there));
    if per_s(saved) < MIN_SAVED_PER_S {
        return None;
    }
    let idle = workers.iter().map(|demand| demand.idle).max()?;
    let most_open: u64 = sum(|demand| u64::from(demand.most_open));
    let comm = text::sanitise(&first.process.comm).into_owned();
    let each = match workers.len() as u64 {
        1 => String::new(),
        n => format!(" in each of {} processes", units::count(n)),
    };
    let would = format!(
        "{}{each} would have saved {} of {} connects/s",
        plural(idle, "idle connection", "idle connections"),
        units::rate(per_s(saved)),
        units::rate(per_s(opened)),
    );
    Some(Found {
        severity: if per_s(saved) >= MANY_SAVED_PER_S { Severity::Warning } else { Severity::Note },
        title: format!(
            "{} makes new connections to {} where a pool would reuse them",
            first.process.shown(),
            case.remote(first.remote)
        ),
        evidence: [
            would,
            format!(
                "{} in {}, {} of them for less than 1 s; at most {} open at once{}",
                plural(opened, "connection", "connections"),
                case.watched(),
                units::count(short),
                units::count(most_open),
                case.place(first.netns)
            ),
            format!(
                "this side closed {} first, the other {}; without keep-alive an HTTP client asks it to",
                units::count(here),
                units::count(there)
            ),
        ]
        .into_iter()
        .chain(case.code(StackCall::Connect, &first.process))
        .collect(),
        numbers: vec![
            ("opened", opened),
            ("saved", saved),
            ("idle", idle),
            ("most_open", most_open),
            ("closed_here", here),
            ("closed_there", there),
        ],
        why: "Each connection costs a handshake, a local port and, on the side that closes first, a TIME_WAIT of 60 s. The \
              numbers come from the times of the connects and closes that were traced: a pool of that size, whose idle \
              connections the other side does not close, would have had one ready.",
        who: all.iter().map(|demand| who(case, demand)).collect(),
        fix: vec![
            setting(&comm).replace("{n}", &idle.to_string()),
            "The other side must keep idle connections for longer than the pauses between requests.".into(),
        ],
        dont: "No setting of the kernel replaces a pool: not tcp_tw_reuse, not a wider port range; they only move the limit.",
        verify: "tcptrace hist --state established   # fewer, longer; and tcptrace doctor".into(),
    })
}

fn setting(comm: &str) -> &'static str {
    CLIENTS.iter().find(|client| comm.starts_with(client.comm)).map_or(ANY_CLIENT, |client| client.setting)
}

fn who(case: &Case<'_>, demand: &PoolDemand) -> Who {
    Who { count: demand.opened, ..case.destination(demand.netns, demand.remote, &demand.process) }
}
