//! A pod of a real containerd, made through its CRI as a kubelet does: named with exact counts, live and from a recording, also
//! after the pod is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::churn::cgroup_root;
use super::recording::{RecorderProcess, TempFolder};
use super::workloads::{CHILD, CLOSE_WAIT, IN_CONTAINER, TIME_WAIT, TopDocument, TopRun};
use crate::clock::{soon, wait_for};
use crate::lab::{Lab, Skip};
use crate::netns;
use crate::process::{KillOnDrop, StartChild as _};

/// The kubelet's part: the image, and the calls.
const KUBELET: &str = include_str!("containerd.py");
/// Debian's: the packages are for this one.
const PYTHON: &str = "/usr/bin/python3";
const UID: &str = "5d6e7f80-1122-3344-5566-778899aabbcc";
const POD: &str = "shop/basket-0";

/// containerd with a root, a state and a socket of its own.
struct Containerd {
    folder: TempFolder,
    /// The pod's parent cgroup.
    cgroup: String,
    daemon: KillOnDrop,
}

impl Containerd {
    fn start() -> Result<Self> {
        let skip = |what: &str| Skip(format!("needs {what}"));
        cgroup_root().ok_or_else(|| skip("cgroup v2"))?;
        let has = |program: &str, args: &[&str]| {
            Command::new(program).args(args).finish().is_ok_and(|done| done.status.success())
        };
        ensure!(has("containerd", &["--version"]), skip("containerd: package containerd"));
        ensure!(has(PYTHON, &["-c", "import grpc"]), skip("gRPC: package python3-grpcio"));
        ensure!(Path::new(BUSYBOX).is_file(), skip("busybox: package busybox-static"));
        let folder = TempFolder::new()?;
        let path = |name: &str| folder.file(name).to_string_lossy().into_owned();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"localhost/shop:1\"\n\
             disable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
            path("host/var/lib/containerd"),
            path("host/run/containerd"),
            path("socket"),
        );
        fs::write(folder.file("config.toml"), config)?;
        fs::write(folder.file("kubelet.py"), KUBELET)?;
        let mut daemon = Command::new("containerd");
        daemon.arg("--config").arg(folder.file("config.toml"));
        let log = fs::File::create(folder.file("log"))?;
        let daemon = daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).start()?;
        let cgroup = format!("/tcptrace-containerd-{}", std::process::id());
        let containerd = Self { folder, cgroup, daemon: KillOnDrop(daemon) };
        wait_for("containerd to listen", 3 * soon(), || {
            Ok(containerd.folder.file("socket").exists().then_some(()))
        })?;
        containerd.kubelet(&["image", &path_of(&containerd, "shop.tar"), BUSYBOX])?;
        let import = ["--namespace", "k8s.io", "images", "import", &path_of(&containerd, "shop.tar")];
        let mut ctr = Command::new("ctr");
        ctr.args(["--address", &path_of(&containerd, "socket")]).args(import);
        let done = ctr.finish()?;
        ensure!(done.status.success(), "ctr: {}", String::from_utf8_lossy(&done.stderr));
        Ok(containerd)
    }

    /// Runs the kubelet's part; returns its answer.
    fn kubelet(&self, args: &[&str]) -> Result<String> {
        let done = Command::new(PYTHON).arg(self.folder.file("kubelet.py")).args(args).finish()?;
        let log = || fs::read_to_string(self.folder.file("log")).unwrap_or_default();
        ensure!(
            done.status.success(),
            "{args:?}: {}\n{}",
            String::from_utf8_lossy(&done.stderr),
            log().lines().rev().take(5).collect::<Vec<_>>().join("\n")
        );
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }

    /// Makes the pod and its logs; returns the id of the sandbox.
    fn run_pod(&self) -> Result<String> {
        let logs = self.folder.file(&format!("host/var/log/pods/shop_basket-0_{UID}"));
        fs::create_dir_all(logs.join("app"))?;
        let out = self.folder.file("out");
        fs::create_dir_all(&out)?;
        // The end of sleep ends the container's program.
        let script = "sleep 100000 | /child >/out/ready";
        let pod = json!({
            "name": "basket-0", "uid": UID, "namespace": "shop", "container": "app",
            "logs": logs, "log": "app/0.log", "cgroup": format!("{}/kubepods/pod{UID}", self.cgroup),
            "command": ["/usr/bin/dash", "-c", script],
            "env": {CHILD: format!("7001 {TIME_WAIT} {IN_CONTAINER}"), "PATH": "/usr/bin"},
            "mounts": [
                ["/usr", "/usr", true], ["/lib", "/usr/lib", true], ["/lib64", "/usr/lib64", true],
                ["/child", std::env::current_exe()?, true], ["/out", out, false],
            ],
        });
        let config = self.folder.file("pod.json");
        fs::write(&config, pod.to_string())?;
        let ids = self.kubelet(&["run", &path_of(self, "socket"), &config.to_string_lossy()]);
        let ids = ids.map_err(|error| Skip(format!("containerd can't run a pod here: {error:#}")))?;
        let (sandbox, container) = ids.split_once(' ').context("two ids")?;
        // The kubelet links the log once the container runs.
        let links = self.folder.file("host/var/log/containers");
        fs::create_dir_all(&links)?;
        let link = links.join(format!("basket-0_shop_app-{container}.log"));
        std::os::unix::fs::symlink(logs.join("app/0.log"), link)?;
        let ready = self.folder.file("out/ready");
        wait_for("the pod's connections", 3 * soon(), || {
            let said = fs::read_to_string(&ready).unwrap_or_default();
            ensure!(said.is_empty() || said == "connected\n", "the pod: {said}");
            Ok((!said.is_empty()).then_some(()))
        })?;
        Ok(sandbox.to_owned())
    }
}

const BUSYBOX: &str = "/usr/bin/busybox";

fn path_of(containerd: &Containerd, name: &str) -> String {
    containerd.folder.file(name).to_string_lossy().into_owned()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The pod, unless it was removed: the shims outlive their daemon.
        let tasks = self.folder.file("host/run/containerd/io.containerd.runtime.v2.task/k8s.io");
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let id = task.file_name().to_string_lossy().into_owned();
            self.kubelet(&["remove", &path_of(self, "socket"), &id]).ok();
        }
        self.daemon.kill().ok();
        self.daemon.wait().ok();
        // A host with both versions of control groups has the pod's in each.
        for mount in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
            if let [_, root, "cgroup" | "cgroup2", ..] = mount.split(' ').collect::<Vec<_>>()[..] {
                remove_cgroups(&Path::new(root).join(self.cgroup.trim_start_matches('/')));
            }
        }
    }
}

fn remove_cgroups(folder: &PathBuf) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    fs::remove_dir(folder).ok();
}

/// See the module.
pub fn pod(lab: &Lab) -> Result<()> {
    netns::keep_time_wait()?;
    let runtime = Containerd::start()?;
    let netns = lab.netns().to_string();
    let root = path_of(&runtime, "host");
    let file = runtime.folder.file("pod.tcptrace");
    let recorder = RecorderProcess::start(lab, &file, &["--netns", &netns, "--host-root", &root])?;
    let top = |by: &str| {
        let args = ["top", "--json", "--interval", "1s", "--netns", &netns, "--host-root", &root, "--by", by];
        TopRun::start(lab, &args)
    };
    let (pods, containers) = (top("pod")?, top("container")?);
    let sandbox = runtime.run_pod()?;
    let label = format!("{POD} (app)");
    let held = CLOSE_WAIT as u64;
    let is = |document: &TopDocument, name: &str, counts| document.counts() == [(name, counts)].into();
    pods.wait(|document| is(document, POD, (TIME_WAIT, held)))?;
    containers.wait(|document| is(document, &label, (TIME_WAIT, held)))?;

    runtime.kubelet(&["remove", &path_of(&runtime, "socket"), &sandbox])?;
    fs::remove_dir_all(runtime.folder.file("host/var/log"))?;
    // The clients' FIN_WAIT2 has become TIME_WAIT, too.
    let all = (TIME_WAIT + held, 0);
    pods.wait(|document| is(document, POD, all))?;
    containers.wait(|document| is(document, &label, all))?;
    [pods, containers].into_iter().try_for_each(TopRun::finish)?;
    recorder.signal(Signal::TERM)?;
    let (status, stderr) = recorder.wait()?;
    ensure!(status == Some(0), "it ended with {status:?}: {stderr}");
    for (by, name) in [("pod", POD), ("container", &*label)] {
        let output = lab.run(&["top", "--once", "--json", "--by", by, "--from", &file.to_string_lossy()])?;
        let document: TopDocument = serde_json::from_slice(&output.stdout)?;
        ensure!(is(&document, name, all), "from the recording: {document:#?}");
    }
    Ok(())
}
