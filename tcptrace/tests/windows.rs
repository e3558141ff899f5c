//! Windows of recordings: selection by --since, --until, --duration and --for, and their errors.

use std::process::{Command, Output};

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/session-v1.tcptrace");

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcptrace")).args(args).output().expect("the binary runs")
}

fn lines(args: &[&str]) -> Vec<String> {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The events selected by `args`, as JSON.
fn events(args: &[&str]) -> Vec<String> {
    lines(&[&["events", "--json", "--from", RECORDING], args].concat())
}

/// Time of an event, in nanoseconds since the epoch.
fn ts_ns(event: &str) -> u64 {
    let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
    event["ts_ns"].as_u64().expect("a time")
}

#[test]
fn adjacent_windows_add_up_to_the_recording() {
    let whole = events(&[]);
    let (before, after) = (events(&["--until", "1.5s"]), events(&["--since", "1.5s"]));
    assert!(!before.is_empty() && !after.is_empty());
    assert_eq!([before.clone(), after].concat(), whole);
    assert_eq!(events(&["--duration", "1.5s"]), before, "a length is in recording time");
    let after = ["--since", "1.4s"];
    assert_eq!(
        events(&[&after, &["--duration", "1s"][..]].concat()),
        events(&[&after, &["--until", "2.4s"][..]].concat())
    );
    // By wall clock: the last event but one is the first of the window.
    let at = ts_ns(&whole[whole.len() - 2]);
    let since = format!("{}.{:09}Z", seconds(at / 1_000_000_000), at % 1_000_000_000);
    let wanted: Vec<String> = whole.iter().filter(|event| ts_ns(event) >= at).cloned().collect();
    assert_eq!(events(&["--since", &since]), wanted);
}

/// Formats seconds since the epoch as date and time.
fn seconds(s: u64) -> String {
    let date = Command::new("date")
        .args(["-u", "-d", &format!("@{s}"), "+%Y-%m-%dT%H:%M:%S"])
        .output()
        .expect("date");
    String::from_utf8_lossy(&date.stdout).trim().to_owned()
}

#[test]
fn every_reading_command_accepts_a_window() {
    let records = |args: &[&str]| {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        let line = stderr.lines().find(|line| line.contains(" records in ")).expect("a summary").to_owned();
        line.split(' ').nth(1).expect("a number").replace(',', "").parse::<u64>().expect("a number")
    };
    for command in [
        &["top", "--once"][..],
        &["top", "--batch", "100"],
        &["hist"],
        &["ports"],
        &["doctor"],
        &["states"],
        &["events"],
    ] {
        let from = [command, &["--from", RECORDING]].concat();
        let whole = records(&from);
        let parts =
            [&["--until", "1.5s"][..], &["--since", "1.5s"]].map(|part| records(&[&from, part].concat()));
        assert_eq!(parts.iter().sum::<u64>(), whole, "{command:?}");
        assert!(parts.iter().all(|&part| part > 0 && part < whole), "{command:?}: {parts:?} of {whole}");
        let length = match command[0] {
            "hist" | "ports" | "events" => "--duration",
            "doctor" => "--for",
            _ => continue,
        };
        assert_eq!(records(&[&from, &[length, "1.5s"][..]].concat()), parts[0], "{command:?}");
    }
    let rows = |args: &[&str]| {
        lines(&[&["export", RECORDING, "--format", "csv", "-o", "-"], args].concat()).len() - 1
    };
    assert_eq!(rows(&["--until", "1.5s"]) + rows(&["--since", "1.5s"]), rows(&[]));
    let report = |args: &[&str]| lines(&[&["report", RECORDING, "--json"], args].concat()).concat();
    assert_ne!(report(&["--until", "1.5s"]), report(&[]));
    let diff =
        |args: &[&str]| lines(&[&["diff", RECORDING, RECORDING, "--json", "--all"], args].concat()).concat();
    assert_ne!(diff(&["--until", "1.5s"]), diff(&[]));
}

#[test]
fn invalid_window_is_an_error() {
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["events", "--from", RECORDING, "--since", "5s", "--until", "2s"],
            2,
            "--until must be later than --since",
        ),
        (&["events", "--from", RECORDING, "--since", "noon"], 2, "2026-11-22T18:03:20Z"),
        (&["events", "--from", RECORDING, "--since", "1h"], 1, "before --since"),
        (
            &["events", "--from", RECORDING, "--until", "2001-01-01T00:00:00Z"],
            1,
            "before the recording begins at 20",
        ),
        (&["states", "--since", "5s"], 2, "they need --from"),
        (&["top", "--once", "--since", "5s"], 2, "they need --from"),
    ];
    for (args, status, words) in cases {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
