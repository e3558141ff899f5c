//! Command line errors: invalid filters end with status 2 and an explanation, before any step that needs a privilege.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcptrace")).args(args).output().expect("the binary runs")
}

fn refuses(args: &[&str], message: &str) {
    for command in ["top", "events", "states"] {
        let output = run(&[&[command], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, message, "{command} {args:?}");
        assert_eq!(output.status.code(), Some(2), "{command} {args:?}");
        assert!(output.stdout.is_empty(), "{command} {args:?}");
    }
}

#[test]
fn invalid_value_prints_one_line() {
    let cases: &[(&[&str], &str)] = &[
        (&["--rport", "70000"], "--rport: column 1: expected a port (0-65535), found \"70000\""),
        (&["--lport", "80,x"], "--lport: column 4: expected a port (0-65535), found \"x\""),
        (
            &["--peer", "10.0.0.5/8"],
            "--peer: column 1: 10.0.0.5/8 has host bits set, the network is 10.0.0.0/8",
        ),
        (
            &["--state", "timewat"],
            "--state: column 1: expected a state, found \"timewat\", did you mean `time-wait`?",
        ),
        (&["--filter", "sate"], "--filter: column 1: unknown word \"sate\", did you mean `state`?"),
        (
            &["--filter", ""],
            "--filter: column 1: expected a test such as `rport 5432`, `not` or `(`, found the end",
        ),
        (
            &["--role", "\x1b[2Jx"],
            "--role: column 1: expected a role (inbound, outbound, listener, unknown), found \"?[2Jx\"",
        ),
    ];
    for (args, message) in cases {
        refuses(args, &format!("tcptrace: {message}\n"));
    }
}

#[test]
fn error_in_expression_is_marked() {
    refuses(
        &["--filter", "state time-wait and rprt 80"],
        "tcptrace: --filter: column 21: unknown word \"rprt\", did you mean `rport`?
  state time-wait and rprt 80
                      ^
",
    );
    refuses(
        &["--filter", "rport 80 or (lport 443"],
        "tcptrace: --filter: column 13: this `(` is never closed
  rport 80 or (lport 443
              ^
",
    );
    refuses(
        &["--rport", "80", "--filter", "rport 80 lport 443"],
        "tcptrace: --filter: column 10: expected `and`, `or` or the end, found \"lport\"
  rport 80 lport 443
           ^
",
    );
}

#[test]
fn unknown_namespace_is_a_usage_error() {
    let output = run(&["states", "--netns", "no such namespace"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let start = "tcptrace: no network namespace is called \"no such namespace\"; ";
    assert!(stderr.starts_with(start) && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn diff_names_the_unreadable_file() {
    let output = run(&["diff", "/nonexistent/a", "/nonexistent/b"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("tcptrace: /nonexistent/a: No such file"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
    let output = run(&["diff", "-", "-"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("only one of the recordings can be standard input"), "{stderr}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn replay_needs_a_file_and_a_terminal() {
    let cases = [("-", "top --from -"), ("some.tcptrace", "tcptrace top --from some.tcptrace --batch N")];
    for (file, instead) in cases {
        let output = run(&["replay", file]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(instead), "{stderr}");
        assert_eq!(output.status.code(), Some(2), "{file}");
        assert!(output.stdout.is_empty(), "{file}");
    }
}
