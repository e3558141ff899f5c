//! Tests the sandbox around readers of recordings on this kernel. Runs without the usual harness, which cannot report a
//! test as skipped; the output has the format of the harness.

#![allow(clippy::disallowed_methods, reason = "threads of tests may do what the tests may")]

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    net::{TcpListener, TcpStream},
    panic::catch_unwind,
    process::ExitCode,
    thread,
};

use tcptrace::sandbox;

const NAME: &str = "only_open_files_stay_usable";

fn main() -> ExitCode {
    // As in the standard harness, arguments select tests by name.
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if !names.is_empty() && names.iter().all(|name| !NAME.contains(name)) {
        return ExitCode::SUCCESS;
    }
    let (outcome, counts) = if !has_landlock() {
        (
            "ignored, no Landlock on this kernel",
            "ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
        )
    } else if catch_unwind(only_open_files_stay_usable).is_ok() {
        ("ok", "ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out")
    } else {
        ("FAILED", "FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out")
    };
    println!("test {NAME} ... {outcome}\n\ntest result: {counts}");
    if outcome == "FAILED" { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Checks the kernel directly, not through the sandbox under test.
fn has_landlock() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").map_or_else(
        |_| {
            fs::read_to_string("/proc/kallsyms").is_ok_and(|symbols| symbols.contains("landlock_put_ruleset"))
        },
        |modules| modules.contains("landlock"),
    )
}

fn only_open_files_stay_usable() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut output = File::create(folder.path().join("output")).expect("a file");
    let recording = folder.path().join("recording");
    fs::write(&recording, "all of it").expect("a file");
    let open = File::open(&recording).expect("the file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let folder_path = folder.path().to_owned();
    thread::spawn(move || {
        assert!(sandbox::confine().is_closed);
        assert_eq!(std::io::read_to_string(&open).expect("an open file"), "all of it");
        output.write_all(b"goes on").expect("an open file");
        assert!(File::open("/dev/urandom").is_ok(), "hash tables need random numbers");
        let refused = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        refused(File::open(&recording).map(drop).expect_err("reopening is denied"));
        refused(File::open("/etc/passwd").map(drop).expect_err("reading is denied"));
        refused(File::create(folder_path.join("other")).map(drop).expect_err("creating is denied"));
        // Since Linux 6.7.
        if let Err(error) = TcpStream::connect(addr) {
            refused(error);
        }
    })
    .join()
    .expect("no panic");
    assert!(File::open("/etc/passwd").is_ok(), "other threads are not confined");
}
