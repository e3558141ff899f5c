//! What made a recorder write a file.

use serde::{Deserialize, Serialize};

use super::text;

/// Most incidents kept of a recording.
const MAX_INCIDENTS: usize = 64;
/// Longest title kept, in characters.
const MAX_TITLE: usize = 200;

/// A finding that began while a recorder ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Id of the finding: `close_wait_leak`.
    pub finding: String,
    /// Its title at that time. Untrusted.
    pub title: String,
    /// When it was first seen, by the wall clock, nanoseconds since the epoch.
    pub ts_ns: u64,
}

impl Incident {
    /// The incidents in the metadata of a recording, bounded and sanitised: a file may contain any text. None if it is no such
    /// list.
    pub fn of_metadata(json: &str) -> Vec<Self> {
        let all: Vec<Self> = serde_json::from_str(json).unwrap_or_default();
        let bounded = |text: &str| text::sanitise(text).chars().take(MAX_TITLE).collect();
        let clean = |incident: Self| Self {
            finding: bounded(&incident.finding),
            title: bounded(&incident.title),
            ts_ns: incident.ts_ns,
        };
        all.into_iter().take(MAX_INCIDENTS).map(clean).collect()
    }

    /// Adds `more` to `known` in order of time, each once.
    pub fn merge(known: &mut Vec<Self>, more: &[Self]) {
        for incident in more {
            if known.len() < MAX_INCIDENTS && !known.contains(incident) {
                known.push(incident.clone());
            }
        }
        known.sort_by_key(|incident| incident.ts_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_from_a_file_is_bounded_and_sanitised() {
        let one = r#"{"finding":"close_wait_leak","title":"leak \u001b[2J","ts_ns":7}"#;
        let read = Incident::of_metadata(&format!("[{}]", [one; 100].join(",")));
        assert_eq!(read.len(), MAX_INCIDENTS);
        assert!(!read[0].title.contains('\u{1b}') && read[0].ts_ns == 7, "{:?}", read[0]);
        assert!(Incident::of_metadata("no JSON").is_empty() && Incident::of_metadata("{}").is_empty());
    }

    #[test]
    fn merged_lists_have_each_incident_once_in_order() {
        let at = |ts_ns| Incident { finding: "f".into(), title: "t".into(), ts_ns };
        let mut known = vec![at(5)];
        Incident::merge(&mut known, &[at(3), at(5)]);
        assert_eq!(known, [at(3), at(5)]);
    }
}
