//! Many recordings at once: time and peak memory of the commands that read the recordings of a fleet.
//!
//! `cargo bench -p tcptrace --bench fleet -- [--hosts 100] [--bytes 10000000] [--program PATH] [--only hist]`; needs
//! `/usr/bin/time`. The recordings are of synthetic traffic, one host each, in the target folder, and removed afterwards.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering::Relaxed,
};

use tcptrace::{
    model::Record,
    output_file::Existing,
    session::{self, Keep},
    synthetic::{Shape, Traffic},
};

const PORTION: usize = 32 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let argument = |name, usual: u64| value(name).map_or(usual, |value| value.parse().expect("a number"));
    let program = value("--program").map_or(env!("CARGO_BIN_EXE_tcptrace"), String::as_str);
    let (hosts, bytes) = (argument("--hosts", 100), argument("--bytes", 10_000_000));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let recordings = folder.path().join("recordings");
    fs::create_dir(&recordings).expect("a folder");
    let records: u64 =
        (0..hosts).map(|host| record(&recordings.join(format!("{host}.tcptrace")), host, bytes)).sum();
    println!("{hosts} recordings of {} MB: {records} records", bytes / 1_000_000);
    let from = recordings.to_str().expect("UTF-8");
    let events = folder.path().join("events");
    let events = events.to_str().expect("UTF-8");
    let commands: [&[&str]; 4] = [
        &["hist", "--from", from],
        &["top", "--once", "--from", from],
        &["events", "--joined", "--format", "csv", "--from", from],
        &["export", "--partition", from, "-o", events],
    ];
    let only = value("--only").map_or("", String::as_str);
    for command in commands.into_iter().filter(|command| command[0].starts_with(only)) {
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["--format", "%e s, %U s of CPU time, at most %M KiB", program]);
        let output = timed.args(command).stdout(Stdio::null()).output().expect("/usr/bin/time");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        println!("{}: {}", command[..2].join(" "), stderr.lines().last().unwrap_or_default());
    }
}

/// Writes at least `bytes` of a host's records; returns how many.
fn record(path: &Path, host: u64, bytes: u64) -> u64 {
    let plan = session::RecordPlan { path: path.to_owned(), keep: Keep::All, existing: Existing::Replace };
    let (mut recorder, recording) = session::start(&plan).expect("a file");
    let mut traffic = Traffic::new(Shape { connections_per_s: 1_000, ..Shape::default() }, host + 1);
    while recording.status.bytes.load(Relaxed) < bytes {
        for record in traffic.by_ref().take(PORTION) {
            recorder.push(match record {
                Record::Host(mut facts) => {
                    facts.host = format!("web-{host}");
                    facts.boot_id = format!("boot-{host}");
                    Record::Host(facts)
                }
                record => record,
            });
        }
        recorder.flush();
        while !(recorder.is_empty() && recording.status.is_idle()) {
            std::thread::sleep(std::time::Duration::from_micros(50));
            recorder.flush();
        }
    }
    let records = recording.status.records.load(Relaxed);
    drop(recorder);
    recording.done.blocking_recv().expect("the writer").expect("a disk");
    records
}
