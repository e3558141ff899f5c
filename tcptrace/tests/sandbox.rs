//! The sandbox around readers of recordings, on this kernel. A test program without the usual harness, which has no way to
//! count as skipped what can't run here; its lines are those of the harness.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    net::{TcpListener, TcpStream},
    panic::catch_unwind,
    process::ExitCode,
    thread,
};

use tcptrace::sandbox;

const NAME: &str = "nothing_but_what_is_open_is_left";

fn main() -> ExitCode {
    // As with the harness, names choose.
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if !names.is_empty() && names.iter().all(|name| !NAME.contains(name)) {
        return ExitCode::SUCCESS;
    }
    let (outcome, counts) = if !has_landlock() {
        (
            "ignored, no Landlock on this kernel",
            "ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
        )
    } else if catch_unwind(nothing_but_what_is_open_is_left).is_ok() {
        ("ok", "ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out")
    } else {
        ("FAILED", "FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out")
    };
    println!("test {NAME} ... {outcome}\n\ntest result: {counts}");
    if outcome == "FAILED" { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Asks the kernel, not the sandbox that is to be tested.
fn has_landlock() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").map_or_else(
        |_| {
            fs::read_to_string("/proc/kallsyms").is_ok_and(|symbols| symbols.contains("landlock_put_ruleset"))
        },
        |modules| modules.contains("landlock"),
    )
}

fn nothing_but_what_is_open_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut output = File::create(folder.path().join("output")).expect("a file");
    let recording = folder.path().join("recording");
    File::create(&recording).expect("a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let folder_path = folder.path().to_owned();
    thread::spawn(move || {
        sandbox::close(&[&recording]);
        assert!(File::open(&recording).is_ok(), "what is to be read");
        output.write_all(b"goes on").expect("it was open");
        let refused = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        refused(File::open("/etc/passwd").map(drop).expect_err("not to be read"));
        refused(File::create(folder_path.join("other")).map(drop).expect_err("not to be written"));
        // Since Linux 6.7.
        if let Err(error) = TcpStream::connect(addr) {
            refused(error);
        }
    })
    .join()
    .expect("no panic");
    assert!(File::open("/etc/passwd").is_ok(), "only that thread is in it");
}
