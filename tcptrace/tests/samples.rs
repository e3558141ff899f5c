//! The recordings in `docs/samples` show their incidents.

use std::process::Command;

use serde_json::Value;

#[test]
fn each_sample_has_its_finding_and_its_program() {
    for (sample, finding, program) in
        [("ports", "client_ports_exhausted", "checkout"), ("close-wait", "close_wait_leak", "orders")]
    {
        let file = format!("{}/../docs/samples/{sample}.tcptrace", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(env!("CARGO_BIN_EXE_tcptrace"))
            .args(["doctor", "--json", "--from", &file])
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
        let first = &document["findings"][0];
        assert_eq!(
            (first["id"].as_str(), first["who"][0]["comm"].as_str()),
            (Some(finding), Some(program)),
            "{first}"
        );
        assert_eq!(document["loss"]["ring_full"], 0);
    }
}

#[test]
fn a_condition_fails_the_comparison() {
    let sample = |name: &str| format!("{}/../docs/samples/{name}.tcptrace", env!("CARGO_MANIFEST_DIR"));
    let diff = |conditions: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tcptrace"))
            .args(["diff", &sample("ports"), &sample("close-wait"), "--json"])
            .args(conditions.iter().flat_map(|condition| ["--fail-on", condition]))
            .output()
            .expect("it starts");
        (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, document, stderr) = diff(&["close_wait.sockets_mean > 1", "time_wait.sockets_mean > +20%"]);
    assert_eq!(status, Some(1), "{stderr}");
    let failed: Vec<&str> = stderr.lines().filter(|line| line.starts_with("tcptrace: failed: ")).collect();
    assert_eq!(failed.len(), 1, "{stderr}");
    assert!(
        failed[0].starts_with("tcptrace: failed: close_wait.sockets_mean > 1: 0.00 before, "),
        "{stderr}"
    );
    let document: Value = serde_json::from_slice(&document).expect("one document");
    assert_eq!(document["fail_on"][0]["failed"], true);
    assert_eq!(document["fail_on"][1]["failed"], false);
    assert_eq!(diff(&["close_wait.sockets_mean > 1000000"]).0, Some(0));
    for wrong in ["close_wait.sockets > 1", "nobody:1 close_wait.sockets_mean > 1", "close_wait.sockets_mean"]
    {
        let (status, document, stderr) = diff(&[wrong]);
        assert!(status == Some(2) && document.is_empty(), "{wrong}: {status:?}, {stderr}");
    }
}
