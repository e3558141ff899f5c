//! A headless Chromium: in, a page; out, its contents, messages and requests. Controlled by the pipes of its `DevTools` protocol.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::clock::soon;
use crate::lab::Skip;
use crate::process::StartChild as _;

/// The program, which Debian's package of the same name brings.
const PROGRAM: &str = "chromium";
/// Without network requests of its own, first-run dialogs, and a sandbox, which root cannot have.
const ARGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "about:blank",
];
/// Its pipes are the descriptors 3 and 4.
const SCRIPT: &str = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1"#;
/// Messages end in a NUL.
const END: u8 = 0;

/// The browser with one page; it ends with the value.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: String,
    sent: u64,
    complaints: Vec<String>,
    fetched: Vec<String>,
    profile: PathBuf,
}

impl Browser {
    /// Starts it.
    pub fn start(profile: &Path) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file()) {
            bail!(Skip(format!("needs {PROGRAM}: package {PROGRAM}")));
        }
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, PROGRAM])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(ARGS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .start()?;
        let to = child.stdin.take().context("its stdin")?;
        let answers = BufReader::new(child.stdout.take().context("its stdout")?);
        let (send, from) = channel();
        std::thread::spawn(move || {
            for message in answers.split(END).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { return };
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            to,
            from,
            session: String::new(),
            sent: 0,
            complaints: Vec::new(),
            fetched: Vec::new(),
            profile: profile.to_owned(),
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach)?;
        browser.session = session["sessionId"].as_str().context("no session")?.into();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Sends a command and waits for its answer; stores events that arrive before it.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(END);
        self.to.write_all(&bytes).with_context(|| format!("{PROGRAM} has ended"))?;
        loop {
            let mut answer = self.next().with_context(|| format!("no answer to {method}"))?;
            if answer["id"] == self.sent {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].take());
            }
        }
    }

    /// The next message; an event is stored.
    fn next(&mut self) -> Result<Value> {
        let message = self.from.recv_timeout(6 * soon())?;
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => {
                self.complaints.push(params.to_string());
            }
            "Network.requestWillBeSent" => {
                self.fetched.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
        Ok(message)
    }

    /// Opens `page` and waits until it has loaded.
    pub fn open(&mut self, page: &Path) -> Result<()> {
        self.call("Page.navigate", &json!({"url": format!("file://{}", page.display())}))?;
        while self.next().context("the page did not load")?["method"] != "Page.loadEventFired" {}
        Ok(())
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", &params)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].take())
    }

    /// Moves the mouse, or presses or releases its button.
    pub fn mouse(&mut self, what: &str, (x, y): (f64, f64)) -> Result<()> {
        let button = if what == "mouseMoved" { "none" } else { "left" };
        let params = json!({"type": what, "x": x, "y": y, "button": button, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", &params).map(drop)
    }

    /// Errors, warnings and console messages of the page so far.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Every requested address.
    pub fn fetched(&self) -> &[String] {
        &self.fetched
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Its other processes end after it, and may write until then.
        for _ in 0..20 {
            if std::fs::remove_dir_all(&self.profile).is_ok() || !self.profile.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}
