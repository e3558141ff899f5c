//! Checks the package in a fresh Debian root: installs it, runs it, starts its unit under another systemd, removes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::repo::Repo;

/// Packages beyond the minimal root: man reads pages, systemd checks and starts the unit.
const INCLUDE: &str = "--include=man-db,systemd";

/// The program, a page, a completion, the unit. The exposure that systemd computes is 2.9 of 10.
const INSTALL: &str = "dpkg -i /tmp/tcptrace-bpf.deb
tcptrace --version
tcptrace states > /dev/null
tcptrace top --once > /dev/null
MANWIDTH=160 man --no-justification tcptrace-top | grep -q 'Show which services have how many sockets'
systemd-analyze verify /usr/lib/systemd/system/tcptrace.service
systemd-analyze security --offline=true --threshold=30 /usr/lib/systemd/system/tcptrace.service | tail -n 1
grep -q -- --listen /usr/share/bash-completion/completions/tcptrace
";

/// Debian's `tcptrace` neither replaces the installed package in an upgrade nor is installed beside it.
const CONFLICT: &str = "test \"$(dpkg-deb -f /tmp/tcptrace-bpf.deb Conflicts)\" = tcptrace
if apt-get -s dist-upgrade | grep tcptrace; then exit 1; fi
apt-get -s install tcptrace | grep '^Remv tcptrace-bpf '
";

/// No file may remain.
const REMOVE: &str = "dpkg -r tcptrace-bpf
dpkg -P tcptrace-bpf
if dpkg -s tcptrace-bpf 2> /dev/null; then exit 1; fi
left=$(find / -xdev -name '*tcptrace*' -not -path '/tmp/*' -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' \
    -not -path '/var/cache/man/*' -not -path '/proc/*')
test -z \"$left\" || { echo \"left behind: $left\"; exit 1; }
";

/// Makes systemd process 1 of new namespaces whose root is `$0`, in a control group of its own, to start the unit `$1`
/// and what it needs. `PrivateDevices` needs a complete /dev, and `ProtectSystem` a root that is a mount.
const BOOT: &str = r#"set -e
groups=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)
group="$groups/tcptrace-check"
mkdir -p "$group"
status=0
(echo 0 > "$group/cgroup.procs" && exec unshare --mount --propagation private --pid --fork --kill-child --uts --ipc --net --cgroup sh -c '
set -e
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue dev/hugepages
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    mknod -m 666 "dev/${device%% *}" c ${device#* }
done
pivot_root . mnt
cd /
umount -l mnt
exec env -i container=namespace PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --system --unit="$1"
' "$0" "$1") || status=$?
find "$group" -depth -type d -exec rmdir {} +
exit $status"#;

/// The unit that [`BOOT`] starts, which starts tcptrace.service. When it ends, systemd ends with its exit status.
const ASK: (&str, &str) = (
    "ask.service",
    r#"[Unit]
Wants=tcptrace.service
After=tcptrace.service
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
TimeoutStartSec=120
StandardOutput=file:/tmp/asked
StandardError=file:/tmp/asked
ExecStart=bash -c 'ask() { exec 3<>/dev/tcp/127.0.0.1/9435 && printf "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n" >&3 \
    && grep -m 1 ^tcptrace_sockets <&3; }; until ask 2>/dev/null; do sleep 0.2; done; systemctl stop tcptrace.service \
    && systemctl show --property Result --value tcptrace.service | grep -qx success'
"#,
);

/// Runs the check in a root made by debootstrap, which is kept for the next check.
pub fn run(repo: &Repo, package: &Path) -> Result<()> {
    let root = repo.target.join("dist/debian");
    if !root.join("usr/bin/dpkg").exists() {
        let mut debootstrap = Command::new("debootstrap");
        command::run(debootstrap.args(["--variant=minbase", INCLUDE, "bookworm"]).arg(&root))?;
    }
    fs::copy(package, root.join("tmp/tcptrace-bpf.deb"))?;
    inside(&root, INSTALL)?;
    inside(&root, CONFLICT)?;
    unit(&root)?;
    inside(&root, REMOVE)
}

fn inside(root: &Path, script: &str) -> Result<()> {
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--pid", "--fork", "chroot"]).arg(root);
    inside.args([
        "sh",
        "-c",
        &format!("set -e\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n{script}"),
    ]);
    let status = inside.status().context("cannot start unshare")?;
    ensure!(status.success(), "in the fresh root: {status}");
    Ok(())
}

/// Starts the installed unit, reads its metrics, and stops it.
fn unit(root: &Path) -> Result<()> {
    let (name, text) = ASK;
    let (unit, asked) = (root.join("etc/systemd/system").join(name), root.join("tmp/asked"));
    fs::write(&unit, text)?;
    let status = Command::new("sh").args(["-c", BOOT]).arg(root).arg(name).status();
    fs::remove_file(&unit)?;
    let status = status.context("cannot start sh")?;
    let answer = fs::read_to_string(&asked).unwrap_or_default();
    ensure!(status.success(), "the unit was not started, or did not answer: {status}: {answer}");
    println!("the unit, started by systemd: {}", answer.trim());
    Ok(fs::remove_file(&asked)?)
}
