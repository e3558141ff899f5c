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
