//! A running `tcptrace doctor`: the document it prints when it stops.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::clock::soon;
use crate::lab::Lab;
use crate::process::StartChild as _;

/// Its document.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct DoctorDocument {
    pub schema: String,
    pub findings: Vec<DoctorFinding>,
    pub seen: Vec<String>,
}

/// One finding.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct DoctorFinding {
    pub id: String,
    pub severity: String,
    pub title: String,
    pub evidence: Vec<String>,
    pub numbers: BTreeMap<String, u64>,
    pub who: Vec<FindingProcess>,
    pub fix: Vec<String>,
    pub dont: String,
    pub verify: String,
}

/// A process or service of a finding.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[expect(missing_docs, reason = "the contract's names")]
pub struct FindingProcess {
    pub netns: Option<String>,
    pub comm: Option<String>,
    pub pid: Option<u32>,
    pub service: String,
    pub count: u64,
    #[serde(default)]
    pub fds: Vec<u32>,
    pub oldest_ns: Option<u64>,
    pub at_least: Option<bool>,
}

/// A `tcptrace doctor` that watches the scenario's namespace until SIGTERM.
pub struct Doctor {
    child: Option<Child>,
    stderr_lines: Receiver<String>,
}

impl Doctor {
    /// Starts it and waits until it traces.
    pub fn start(lab: &Lab) -> Result<Self> {
        let netns = lab.netns().to_string();
        let mut child = Command::new(lab.binary()?)
            .args(["doctor", "--json", "--for", "10m", "--netns", &netns])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start()
            .context("start doctor")?;
        let stderr = child.stderr.take().context("its stderr")?;
        let (sender, stderr_lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let doctor = Self { child: Some(child), stderr_lines };
        loop {
            let line =
                doctor.stderr_lines.recv_timeout(3 * soon()).context("doctor does not start tracing")?;
            if line.starts_with("tcptrace: tracing") {
                return Ok(doctor);
            }
        }
    }

    /// Stops it and reads its document.
    pub fn finish(mut self) -> Result<DoctorDocument> {
        let child = self.child.take().context("it runs")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let output = child.wait_with_output()?;
        let stderr_lines: Vec<String> = self.stderr_lines.try_iter().collect();
        ensure!(output.status.success(), "it ended with {}: {stderr_lines:?}", output.status);
        DoctorDocument::parse(&output.stdout)
    }
}

impl Drop for Doctor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl DoctorDocument {
    /// Reads a document.
    pub fn parse(document: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(document);
        serde_json::from_str(&text).with_context(|| format!("a document: {text}"))
    }

    /// The finding called `id`.
    pub fn finding(&self, id: &str) -> Result<&DoctorFinding> {
        let found = self.findings.iter().find(|finding| finding.id == id);
        found.with_context(|| format!("no {id} among {:#?}", self.findings))
    }
}

impl DoctorFinding {
    /// One of its numbers.
    pub fn number(&self, name: &str) -> Result<u64> {
        self.numbers.get(name).copied().with_context(|| format!("no number {name} in {self:#?}"))
    }

    /// The process with the most sockets.
    pub fn first(&self) -> Result<&FindingProcess> {
        self.who.first().with_context(|| format!("no process in {self:#?}"))
    }
}
