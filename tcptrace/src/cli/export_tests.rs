//! Recordings of older versions: what they tell stays the same.

use super::*;
use crate::{
    filter::Filter,
    model::TcpState as S,
    session::schema::{Column, KINDS},
};

/// Made by the first version of the format: 41 connections over loopback, one refused; see docs/session-format.md.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/session-v1.tcptrace");
/// What `tcptrace export` made of it then.
const WANTED: &str = include_str!("../../../tests/fixtures/session-v1.csv");
const DOCUMENT: &str = include_str!("../../../docs/session-format.md");

fn plan() -> Plan {
    Plan::new(Filter::EVERYTHING, Grouping::NONE, Scope::Minisockets, Nanos(u64::MAX))
}

fn fixture() -> Reader {
    Reader::open(FIXTURE.as_ref(), AtEnd::Stop).expect("a recording")
}

#[test]
fn the_first_version_reads_as_it_did() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("a.csv");
    let file = session::create(&path, Existing::Keep).expect("a file");
    let table = Format::Csv.table(&EVENTS, Box::new(file)).expect("a disk");
    let reader = fixture();
    let ending = reader.ending();
    let rows = events(reader, table, plan()).expect("a disk");
    let written = std::fs::read_to_string(&path).expect("the file");
    for (n, (written, wanted)) in written.lines().zip(WANTED.lines()).enumerate() {
        assert_eq!(written, wanted, "line {n}");
    }
    assert_eq!(
        (rows as usize + 1, written.lines().count()),
        (WANTED.lines().count(), WANTED.lines().count())
    );
    assert_eq!(*ending.lock().expect("no panic"), Some(Ending::Closed));
}

#[test]
fn the_first_version_counts_as_it_did() {
    let last = pipeline::start(Box::new(fixture()), plan()).expect("a thread").finish().expect("a recording");
    let count = |state: S| {
        let total = &last.states[state.index()];
        (total.now, total.entered)
    };
    assert_eq!(last.records, 534);
    assert_eq!(last.losses.total(), 0);
    assert_eq!(count(S::TimeWait), (40, 40));
    assert_eq!(count(S::Established), (0, 82));
    assert_eq!(count(S::SynRecv), (0, 41));
    assert_eq!(count(S::SynSent), (0, 42));
    assert_eq!(&*last.host.host, "fixture");
}

#[test]
fn the_document_has_every_column_and_kind() {
    let columns = Column::ALL.map(Column::name);
    let exported = EVENTS.iter().chain(&RECORDS).map(|column| column.name);
    for name in columns.into_iter().chain(exported).chain(KINDS.map(|(name, _)| name)) {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}
