//! Triggers of a recorder: the findings that make it write a file, when, and how often.

use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::net::UnixDatagram,
    path::Path,
    str::FromStr,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    aggregate::Snapshot,
    filter::nearest,
    model::{Nanos, incident::Incident, text, units},
    view::doctor::{self, ongoing::Findings},
};

/// Findings of the first seconds are older than the recorder, or about a time too short to judge.
const WARM_UP: Nanos = Nanos(10 * Nanos::SECOND.0);
/// A finding begins again after this long without it.
const QUIET: Nanos = Nanos(60 * Nanos::SECOND.0);
/// Socket of journald.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The id of a finding.
pub fn finding(text: &str) -> Result<&'static str, String> {
    doctor::ids().find(|id| *id == text).ok_or_else(|| {
        let near = nearest(text, doctor::ids()).map(|near| format!(", did you mean {near}?"));
        format!("no such finding{}; `tcptrace doctor --list` lists them", near.unwrap_or_default())
    })
}

/// So many times per time: `1/10m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    most: usize,
    per: Duration,
}

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(most, per)| {
            let most = most.parse().ok().filter(|&most| most > 0)?;
            Some(Self { most, per: units::parse_duration(per).ok()? })
        });
        parsed.ok_or_else(|| "expected a number and a time: 1/10m".into())
    }
}

/// Findings, and the file that is to be written.
pub struct Triggers {
    wanted: Vec<&'static str>,
    after: Duration,
    limit: RateLimit,
    findings: Findings,
    /// When each was last seen.
    seen: BTreeMap<&'static str, Nanos>,
    /// What the next file is about, and when to write it.
    waiting: Vec<Incident>,
    due: Option<Instant>,
    /// The latest files.
    written: VecDeque<Instant>,
}

/// A finding that began.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// The finding.
    pub incident: Incident,
    /// Whether it is in a file; otherwise there were too many.
    pub is_recorded: bool,
}

impl Triggers {
    /// Triggers on the findings `wanted`; a file is written `after` one began.
    pub fn new(wanted: &[&'static str], after: Duration, limit: RateLimit) -> Self {
        Self {
            wanted: wanted.to_vec(),
            after,
            limit,
            findings: Findings::default(),
            seen: BTreeMap::new(),
            waiting: Vec::new(),
            due: None,
            written: VecDeque::new(),
        }
    }

    /// Judges `snapshot` at `now`; returns what began.
    pub fn update(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<Begun> {
        self.findings.update(snapshot);
        let is_warm = snapshot.ts.since(snapshot.began) >= WARM_UP;
        let mut begun = Vec::new();
        for finding in self.findings.ongoing().filter(|finding| self.wanted.contains(&finding.id)) {
            let before = self.seen.insert(finding.id, snapshot.ts);
            if is_warm && before.is_none_or(|before| snapshot.ts.since(before) >= QUIET) {
                let ts_ns = snapshot.host.wall_ns(snapshot.ts);
                let title = text::sanitise(&finding.title).into_owned();
                begun.push(Incident { finding: finding.id.into(), title, ts_ns });
            }
        }
        begun.into_iter().map(|incident| self.begin(incident, now)).collect()
    }

    /// A finding while a file is to be written anyway becomes part of it.
    fn begin(&mut self, incident: Incident, now: Instant) -> Begun {
        let is_recorded = !self.waiting.is_empty() || self.allows(now);
        if is_recorded {
            self.due.get_or_insert(now + self.after);
            self.waiting.push(incident.clone());
        }
        Begun { incident, is_recorded }
    }

    fn allows(&mut self, now: Instant) -> bool {
        let per = self.limit.per;
        self.written.retain(|&written| now.duration_since(written) < per);
        let allows = self.written.len() < self.limit.most;
        if allows {
            self.written.push_back(now);
        }
        allows
    }

    /// Waits until the file is to be written; never returns if there is none.
    pub async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// The incidents of the file, which no longer wait.
    pub fn take(&mut self) -> Vec<Incident> {
        self.due = None;
        std::mem::take(&mut self.waiting)
    }
}

impl Begun {
    /// One line about it.
    fn message(&self, after: Duration) -> String {
        let Incident { finding, title, .. } = &self.incident;
        let after = units::duration(Nanos(after.as_nanos() as u64));
        if self.is_recorded {
            format!("{finding}: {title}; a file is written in {after}")
        } else {
            format!("{finding}: {title}; not written: --at-most")
        }
    }
}

impl Triggers {
    /// Reports what began to the journal, where there is one, else on stderr.
    pub fn report(&self, begun: &Begun) {
        let message = begun.message(self.after);
        if !send(Path::new(JOURNAL), &message, &begun.incident.finding) {
            eprintln!("tcptrace: {message}");
        }
    }
}

/// Sends one entry by journald's native protocol; returns whether it was received.
fn send(socket: &Path, message: &str, finding: &str) -> bool {
    let entry =
        format!("MESSAGE={message}\nPRIORITY=4\nSYSLOG_IDENTIFIER=tcptrace\nTCPTRACE_FINDING={finding}\n");
    UnixDatagram::unbound().and_then(|sender| sender.send_to(entry.as_bytes(), socket)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::top::fixture;

    fn at(seconds: u64, failures: u64) -> Snapshot {
        let mut snapshot = fixture::busy();
        snapshot.stuck.clear();
        fixture::use_ports(&mut snapshot, None);
        snapshot.began = Nanos(0);
        snapshot.ts = Nanos(seconds * Nanos::SECOND.0);
        snapshot.ports.destinations[0].connect_failures = failures;
        snapshot
    }

    #[test]
    fn a_finding_triggers_when_it_begins_and_not_too_often() {
        let limit = "1/10m".parse().expect("a limit");
        let mut triggers = Triggers::new(&["client_ports_exhausted"], Duration::from_secs(5), limit);
        let start = Instant::now();
        let mut begins = |seconds: u64, failures: u64| {
            let begun = triggers.update(&at(seconds, failures), start + Duration::from_secs(seconds));
            let taken = if seconds.is_multiple_of(100) { triggers.take().len() } else { 0 };
            (begun.iter().map(|begun| begun.is_recorded).collect::<Vec<_>>(), taken)
        };
        // It is older than the recorder.
        assert_eq!(begins(5, 3), (vec![], 0));
        assert_eq!(begins(11, 4), (vec![], 0));
        // Past, then again.
        assert_eq!(begins(90, 4), (vec![], 0));
        assert_eq!(begins(150, 5), (vec![true], 0));
        assert_eq!(begins(151, 6), (vec![], 0));
        assert_eq!(begins(200, 6), (vec![], 1), "one file");
        assert_eq!(begins(300, 6), (vec![], 0));
        // Too early for another file; then not.
        assert_eq!(begins(400, 7), (vec![false], 0));
        assert_eq!(begins(500, 7), (vec![], 0));
        assert_eq!(begins(800, 8), (vec![true], 1));
    }

    #[test]
    fn other_findings_do_not_trigger() {
        let limit = "9/1s".parse().expect("a limit");
        let mut triggers = Triggers::new(&["close_wait_leak"], Duration::from_secs(5), limit);
        assert!(triggers.update(&at(100, 5), Instant::now()).is_empty());
        assert!("0/1s".parse::<RateLimit>().is_err() && "5".parse::<RateLimit>().is_err());
        assert_eq!(finding("close_wait_leak"), Ok("close_wait_leak"));
        assert!(
            finding("close_wait_leek").is_err_and(|error| error.contains("did you mean close_wait_leak?"))
        );
    }

    #[test]
    fn the_journal_gets_the_finding_as_a_field() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("socket");
        assert!(!send(&path, "a message", "close_wait_leak"), "nobody listens");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        assert!(send(&path, "a message", "close_wait_leak"));
        let mut entry = [0; 200];
        let length = journal.recv(&mut entry).expect("an entry");
        let entry = std::str::from_utf8(&entry[..length]).expect("UTF-8");
        assert!(
            entry.contains("MESSAGE=a message\n") && entry.contains("TCPTRACE_FINDING=close_wait_leak\n")
        );
    }
}
