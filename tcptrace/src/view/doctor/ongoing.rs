//! The findings of the newest of many snapshots, and which of them are past.

use rustc_hash::FxHashMap;

use crate::{
    aggregate::Snapshot,
    model::Nanos,
    view::doctor::{Finding, Severity, diagnose},
};

/// A finding about events is past when none was counted for this long.
const CURRENT: Nanos = Nanos(60 * Nanos::SECOND.0);

/// Findings, and when the events of each were last counted.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    counted: FxHashMap<&'static str, (u64, Nanos)>,
    ts: Nanos,
}

impl Findings {
    /// Diagnoses `snapshot`.
    pub fn update(&mut self, snapshot: &Snapshot) {
        self.ts = snapshot.ts;
        self.list = diagnose(snapshot);
        for finding in &self.list {
            let Some(events) = finding.events else { continue };
            let (counted, at) = self.counted.entry(finding.id).or_insert((events, snapshot.ts));
            if *counted != events {
                (*counted, *at) = (events, snapshot.ts);
            }
        }
    }

    /// All findings.
    pub fn all(&self) -> &[Finding] {
        &self.list
    }

    /// Those of now that are more than notes, without those that follow from another.
    pub fn serious(&self) -> impl Iterator<Item = &Finding> {
        self.list.iter().filter(|finding| {
            finding.severity != Severity::Note && finding.follows_from.is_none() && !self.is_past(finding)
        })
    }

    /// How long ago the last event of a finding was counted, if that is long.
    pub fn past(&self, finding: &Finding) -> Option<Nanos> {
        finding.events?;
        let &(_, at) = self.counted.get(finding.id)?;
        Some(self.ts.since(at)).filter(|&ago| ago >= CURRENT)
    }

    /// Those of now.
    pub fn ongoing(&self) -> impl Iterator<Item = &Finding> {
        self.list.iter().filter(|finding| !self.is_past(finding))
    }

    fn is_past(&self, finding: &Finding) -> bool {
        self.past(finding).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::top::fixture;

    #[test]
    fn events_of_long_ago_are_past() {
        let at = |seconds: u64, failures| {
            let mut snapshot = fixture::busy();
            snapshot.stuck.clear();
            fixture::use_ports(&mut snapshot, None);
            snapshot.ts = Nanos(seconds * Nanos::SECOND.0);
            snapshot.ports.destinations[0].connect_failures = failures;
            snapshot
        };
        let mut findings = Findings::default();
        let serious = |findings: &Findings| findings.serious().map(|finding| finding.id).collect::<Vec<_>>();
        for (seconds, failures, expected) in
            [(100, 5, true), (159, 5, true), (160, 5, false), (161, 6, true), (250, 6, false)]
        {
            findings.update(&at(seconds, failures));
            assert_eq!(serious(&findings) == ["client_ports_exhausted"], expected, "at {seconds}");
            assert_eq!(findings.all()[0].id, "client_ports_exhausted");
        }
        assert_eq!(findings.past(&findings.all()[0]), Some(Nanos(89 * Nanos::SECOND.0)));
    }
}
