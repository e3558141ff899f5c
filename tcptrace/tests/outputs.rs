//! Output files: no command destroys its input or an existing file, and a failed one leaves no partial file.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/session-v1.tcptrace");

/// A folder with a recording.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(TempDir::new().expect("a folder"));
        fs::copy(RECORDING, folder.file("a.tcptrace")).expect("a file");
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).expect("the file")
    }

    /// Runs the command in the folder.
    fn run(&self, args: &[&str]) -> Output {
        self.run_to(args, Stdio::piped())
    }

    fn run_to(&self, args: &[&str], stdout: Stdio) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcptrace"));
        command.current_dir(&self.0).args(args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        command.spawn().and_then(std::process::Child::wait_with_output).expect("the binary runs")
    }

    /// Names of the files besides the recording.
    fn others(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into()).collect();
        names.retain(|name| name != "a.tcptrace");
        names.sort_unstable();
        names
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn output_that_is_the_input_is_refused() {
    let folder = Folder::new();
    symlink("a.tcptrace", folder.file("link.csv")).expect("a link");
    fs::hard_link(folder.file("a.tcptrace"), folder.file("hard.csv")).expect("a link");
    let recording = folder.read("a.tcptrace");
    for name in ["a.tcptrace", "./a.tcptrace", "link.csv", "hard.csv"] {
        for args in [
            &["hist", "--from", "a.tcptrace", "--force", "--hlog"][..],
            &["hist", "--from", "a.tcptrace", "--hlog"],
            &["export", "a.tcptrace", "--format", "csv", "--force", "-o"],
            &["report", "a.tcptrace", "--force", "-o"],
        ] {
            let output = folder.run(&[args, &[name]].concat());
            assert_eq!(output.status.code(), Some(2), "{args:?} {name}: {}", stderr(&output));
            assert!(stderr(&output).contains("the same file as the input"), "{}", stderr(&output));
            assert!(folder.read("a.tcptrace") == recording, "{args:?} {name}");
        }
    }
    for args in [
        &["export", "a.tcptrace", "--format", "csv", "-o", "-"][..],
        &["report", "a.tcptrace", "-o", "-"],
        &["events", "--from", "a.tcptrace"],
        &["states", "--from", "a.tcptrace"],
    ] {
        let appended = fs::OpenOptions::new().append(true).open(folder.file("a.tcptrace")).expect("the file");
        let output = folder.run_to(args, appended.into());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(folder.read("a.tcptrace") == recording, "{args:?}");
    }
    assert_eq!(folder.others(), ["hard.csv", "link.csv"]);
}

#[test]
fn existing_file_is_replaced_only_with_force() {
    let folder = Folder::new();
    let commands = [
        (&["hist", "--from", "a.tcptrace", "--hlog"][..], "out.hlog"),
        (&["export", "a.tcptrace", "-o"], "out.csv"),
        (&["report", "a.tcptrace", "-o"], "out.html"),
    ];
    for (args, name) in commands {
        let run = |more: &[&str]| folder.run(&[args, &[name], more].concat());
        fs::write(folder.file(name), "precious").expect("a file");
        let output = run(&[]);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains("--force replaces it"), "{}", stderr(&output));
        assert_eq!(folder.read(name), b"precious", "{args:?}");
        let output = run(&["--force"]);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert!(folder.read(name).len() > 100, "{args:?}");
        let mode = folder.file(name).metadata().expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{args:?}");
    }
    assert_eq!(folder.others(), ["out.csv", "out.hlog", "out.html"]);
}

#[test]
fn failed_forced_export_keeps_the_old_file() {
    let folder = Folder::new();
    fs::write(folder.file("out.jsonl"), "precious").expect("a file");
    // Limits the size of every file the process writes to 16 KiB.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 32; exec \"$0\" export a.tcptrace --force -o out.jsonl"])
        .arg(env!("CARGO_BIN_EXE_tcptrace"))
        .current_dir(&folder.0)
        .output()
        .expect("a shell");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("was not completed"), "{}", stderr(&output));
    assert_eq!(folder.read("out.jsonl"), b"precious");
    assert_eq!(folder.others(), ["out.jsonl"], "no partial file remains");
}

#[test]
fn unknown_extension_is_a_usage_error() {
    let folder = Folder::new();
    let output = folder.run(&["export", "a.tcptrace", "-o", "out.xlsx"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "error: out.xlsx: unknown format: the name must end in .parquet, .csv or .jsonl, or give --format\n"
    );
    assert!(!Path::new(&folder.file("out.xlsx")).exists());
}
