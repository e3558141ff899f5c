//! Recordings of older versions still give the same results.

use std::fmt::Write as _;

use super::*;
use crate::{
    filter::Filter,
    model::TcpState as S,
    session::{
        Ending, Reader,
        schema::{Column, KINDS},
    },
};

/// Written by the first version of the format: 41 connections over loopback, one refused; see docs/session-format.md.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/session-v1.tcptrace");
/// Output of `tcptrace export` for it at that time.
const WANTED: &str = include_str!("../../../tests/fixtures/session-v1.csv");
const DOCUMENT: &str = include_str!("../../../docs/session-format.md");

fn plan() -> PipelinePlan {
    PipelinePlan::new(Filter::EVERYTHING, Grouping::NONE, Scope::TimewaitSockets, Nanos(u64::MAX))
}

fn fixture() -> Reader {
    Reader::open(FIXTURE.as_ref(), AtEnd::Stop).expect("a recording")
}

#[test]
fn version_1_exports_the_same_rows() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("a.csv");
    let file = File::create(&path).expect("a file");
    let table = ExportFormat::Csv.table(&EVENTS, Box::new(file)).expect("a disk");
    let reader = fixture();
    let ending = reader.ending();
    let rows = events(Box::new(reader), table, plan()).expect("a disk");
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
fn version_1_gives_the_same_counts() {
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
fn document_lists_every_column_and_kind() {
    let columns = Column::ALL.map(Column::name);
    let exported = EVENTS.iter().chain(&RECORDS).map(|column| column.name);
    for name in columns.into_iter().chain(exported).chain(KINDS.map(|(name, _)| name)) {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn document_has_the_table_of_hooks() {
    use crate::model::hooks::HOOKS;
    let mut rows: Vec<_> = HOOKS
        .iter()
        .flat_map(|hook| hook.reports.iter().map(|reported| (reported.index, hook.tracepoint, reported)))
        .collect();
    rows.sort_unstable_by_key(|&(index, ..)| index);
    let mut table = String::from("| `kind` | Tracepoint | |\n|---|---|---|\n");
    for (_, tracepoint, reported) in rows {
        let since =
            if reported.since == 0 { String::new() } else { format!(" (since format 1.{})", reported.since) };
        writeln!(table, "| `{}` | `{tracepoint}` | {}{since} |", reported.name, reported.meaning)
            .expect("writing to a String cannot fail");
    }
    assert!(DOCUMENT.contains(&table), "docs/session-format.md lacks this table:\n{table}");
}
