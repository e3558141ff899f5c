//! Tests that a panic while `top` uses the terminal restores it and leaves the panic message readable. Runs without the
//! usual harness: the program runs itself on a separate terminal as the process that panics.

#![allow(clippy::disallowed_methods, reason = "threads of tests may do what the tests may")]

use std::{
    fs::File,
    io::{IsTerminal as _, Read as _},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tcptrace::{
    aggregate::{Grouping, Scope, detail::Query},
    filter::Filter,
    pipeline::Engine,
    view::top::{self, Environment, ScreenConfig, ScreenSettings, TerminalStyle},
};
use tokio::sync::watch;

const NAME: &str = "panic_restores_the_terminal";
/// Argument that makes this program the panicking process.
const PANICS: &str = "--panics";
const MESSAGE: &str = "on purpose";
/// Time limit on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == PANICS) {
        return panic_behind_screen();
    }
    // As in the standard harness, arguments select tests by name.
    let mut names = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    if names.peek().is_some() && names.all(|name| !NAME.contains(name.as_str())) {
        return ExitCode::SUCCESS;
    }
    let outcome = std::panic::catch_unwind(panic_restores_the_terminal);
    let (word, passed) = if outcome.is_ok() { ("ok", 1) } else { ("FAILED", 0) };
    println!("test {NAME} ... {word}\n");
    println!(
        "test result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        1 - passed
    );
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Draws a screen, and panics on another thread as soon as the screen is up.
fn panic_behind_screen() -> ExitCode {
    assert!(std::io::stdout().is_terminal());
    let everything = Filter::default();
    let mut engine = Engine::new(everything, Grouping::SERVICE, Scope::TimewaitSockets, "".into());
    let (_snapshots, shown) = watch::channel(Some(Arc::new(engine.snapshot())));
    // Differs from the first query of a screen, so that the query is seen to change once the screen has the terminal.
    let (queries, asked) = watch::channel(Query { resets: 1, ..Query::new(Grouping::SERVICE) });
    let settings = ScreenSettings::new(
        &ScreenConfig::default(),
        TerminalStyle::new(Environment::default()),
        TimeZone::UTC,
    );
    thread::spawn(move || {
        while !asked.has_changed().expect("a running screen") {
            thread::sleep(Duration::from_millis(1));
        }
        panic!("{MESSAGE}");
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(top::run(shown, queries, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for a process to exit; kills it and fails after the time limit.
fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > until {
            child.kill().expect("a running process");
            child.wait().expect("a killed process");
            panic!("the screen does not exit");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn panic_restores_the_terminal() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let line =
        || open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("its line");
    // Kept open to read the final mode of the line.
    let kept = line();
    tcsetwinsize(&kept, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .arg(PANICS)
        .env("TERM", "xterm-256color")
        .stdin(Stdio::from(line()))
        .stdout(Stdio::from(line()))
        .stderr(Stdio::from(line()))
        .spawn()
        .expect("a child process");
    let status = wait_for_exit(&mut child);
    let is_raw = !tcgetattr(&kept).expect("the line").local_modes.contains(LocalModes::ICANON);
    drop(kept);
    let mut output = Vec::new();
    // All other users of the line are gone: reading ends with an error.
    let _ = File::from(master).read_to_end(&mut output);
    let output = String::from_utf8_lossy(&output);

    assert_eq!(status.code(), Some(1), "{output:?}");
    assert!(!is_raw, "the line is still raw");
    let (entered, left, at_message) = ("\x1b[?1049h", "\x1b[?1049l", output.find(MESSAGE));
    assert_eq!(output.matches(entered).count(), 1, "{output:?}");
    assert_eq!(output.matches(left).count(), 1, "{output:?}");
    assert!(
        output.find(left) < at_message && at_message.is_some(),
        "the message is lost with the screen: {output:?}"
    );
    assert!(output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l"), "the cursor is hidden: {output:?}");
    assert!(output.contains("took the terminal"), "{output:?}");
}
