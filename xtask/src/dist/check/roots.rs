//! The Debian and RPM packages: in, their files; out, whether fresh roots of Debian releases install, run and remove them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::command;
use crate::dist::Release;
use crate::repo::Repo;

/// A Debian release, and whether its systemd checks units where it is not running (250 and later).
const SUITES: [(&str, bool); 3] = [("bullseye", false), ("bookworm", true), ("trixie", true)];
/// The release of the checks that are made once.
const ONCE: &str = "bookworm";
/// Packages beyond the minimal root: man reads pages, systemd checks and starts the unit, rpm installs the other package. No
/// root of a distribution of RPM packages can be made from Debian's archive.
const INCLUDE: &str = "--include=man-db,systemd,rpm";

const INSTALL_DEB: &str = "dpkg -i /tmp/tcptrace-bpf.deb\n";
/// Without a database of its own packages rpm finds no /bin/sh, which the scripts need: `--nodeps`.
const INSTALL_RPM: &str = "rpm -i --nodeps --nosignature /tmp/tcptrace-bpf.rpm
rpm -V --nodeps tcptrace-bpf
";

/// The program, a page, a completion, licences.
const USE: &str = "tcptrace --version
tcptrace states > /dev/null
tcptrace top --once > /dev/null
man tcptrace-top | grep -q -- --once
grep -q COMPLETE= /usr/share/bash-completion/completions/tcptrace
_CLAP_COMPLETE_INDEX=2 COMPLETE=bash tcptrace -- tcptrace serve --lis | grep -q -- --listen
grep -q 'Apache License' /usr/share/doc/tcptrace-bpf/THIRD-PARTY-LICENSES.txt
";
/// The exposure that systemd computes is 2.9 of 10, 2.7 by Debian 13. Not in a pipe, which
/// would hide the exit status.
const VERIFY_UNIT: &str = "systemd-analyze verify /usr/lib/systemd/system/tcptrace.service \
    /usr/lib/systemd/system/tcptrace-recorder.service
systemd-analyze security --offline=true --threshold=30 /usr/lib/systemd/system/tcptrace.service > /tmp/exposure
tail -n 1 /tmp/exposure
";

/// Debian's `tcptrace` neither replaces the installed package in an upgrade nor is installed beside it.
const CONFLICT: &str = "test \"$(dpkg-deb -f /tmp/tcptrace-bpf.deb Conflicts)\" = tcptrace
if apt-get -s dist-upgrade | grep tcptrace; then exit 1; fi
apt-get -s install tcptrace | grep '^Remv tcptrace-bpf '
";

const REMOVE_DEB: &str = "dpkg -r tcptrace-bpf
dpkg -P tcptrace-bpf
if dpkg -s tcptrace-bpf 2> /dev/null; then exit 1; fi
";
const REMOVE_RPM: &str = "rpm -e tcptrace-bpf
if rpm -q tcptrace-bpf; then exit 1; fi
";
/// No file may remain.
const NOTHING_LEFT: &str = "left=$(find / -xdev -name '*tcptrace*' -not -path '/tmp/*' -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' \
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

/// Runs the checks in roots made by debootstrap, which are kept for the next check.
pub fn check(repo: &Repo, release: &Release) -> Result<()> {
    let deb = release.file(&format!("_{}.deb", Arch::native().debian()))?;
    let rpm = release.file(&format!(".{}.rpm", Arch::native().machine()))?;
    for (suite, verifies_units) in SUITES {
        println!("Debian {suite}:");
        let root = root(repo, suite)?;
        fs::copy(deb, root.join("tmp/tcptrace-bpf.deb"))?;
        let unit_checks = if verifies_units { VERIFY_UNIT } else { "" };
        inside(&root, &[INSTALL_DEB, USE, unit_checks])?;
        if suite == ONCE {
            inside(&root, &[CONFLICT])?;
            unit(&root)?;
        }
        inside(&root, &[REMOVE_DEB, NOTHING_LEFT])?;
        // Not before: the systemd that starts the unit cleans /tmp.
        fs::copy(rpm, root.join("tmp/tcptrace-bpf.rpm"))?;
        inside(&root, &[INSTALL_RPM, USE, REMOVE_RPM, NOTHING_LEFT])?;
    }
    Ok(())
}

/// A root of the release `suite`.
fn root(repo: &Repo, suite: &str) -> Result<PathBuf> {
    let roots = repo.target.join("roots");
    let (root, incomplete) = (roots.join(suite), roots.join(format!("{suite}.incomplete")));
    if !root.exists() {
        if incomplete.exists() {
            fs::remove_dir_all(&incomplete)?;
        }
        fs::create_dir_all(&roots)?;
        // In a mount namespace: a debootstrap that is killed leaves no /proc mounted in the root.
        let mut debootstrap = Command::new("unshare");
        debootstrap.args(["--mount", "debootstrap", "--variant=minbase", INCLUDE, suite]);
        command::run(debootstrap.arg(&incomplete))?;
        fs::rename(&incomplete, &root)?;
    }
    Ok(root)
}

/// The root is a mount of its own, which the rpm of Debian 13 requires.
fn inside(root: &Path, scripts: &[&str]) -> Result<()> {
    let script =
        format!("set -ex\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n{}", scripts.concat());
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--pid", "--fork", "sh", "-c"]);
    inside.arg("mount --bind \"$0\" \"$0\" && exec chroot \"$0\" sh -c \"$1\"").arg(root).arg(script);
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
