//! Finds the lines in this host's sysctl files that set the sysctls that matter to TCP's states.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::model::{record::SysctlLine, text};

/// Settings that limit the duration of a state, the sockets in it, or the available ports.
pub(super) const SYSCTLS: [&str; 26] = [
    "net.core.somaxconn",
    "net.ipv4.ip_autobind_reuse",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_challenge_ack_limit",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_orphan_retries",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_rfc1337",
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_timestamps",
    // Removed in 4.12; doctor reports a kernel or sysctl file that still has it.
    "net.ipv4.tcp_tw_recycle",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_reuse_delay",
    // Alibaba Cloud Linux.
    "net.ipv4.tcp_tw_timeout",
];

/// Boot-time configuration, in the order of sysctl.d(5).
const PLACES: [&str; 6] = [
    "etc/sysctl.conf",
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
];
/// Larger files are ignored.
const MAX_SYSCTL_FILE_BYTES: u64 = 256 << 10;
/// Further lines are dropped.
const MAX_SYSCTL_LINES: usize = 256;

/// The lines of this host's sysctl files that set one of [`SYSCTLS`].
pub fn lines() -> Vec<SysctlLine> {
    lines_below(Path::new("/"))
}

fn lines_below(root: &Path) -> Vec<SysctlLine> {
    let mut lines = Vec::new();
    let mut seen = Vec::new();
    for path in PLACES.iter().flat_map(|place| files(&root.join(place))) {
        // `/lib` usually is a link to `/usr/lib`, and a file in `sysctl.d` may be a link to `/etc/sysctl.conf`.
        let Ok(whole) = path.canonicalize() else { continue };
        if seen.contains(&whole) || !whole.metadata().is_ok_and(|meta| meta.len() <= MAX_SYSCTL_FILE_BYTES) {
            continue;
        }
        let Ok(content) = fs::read(&whole) else { continue };
        seen.push(whole);
        let shown = Path::new("/").join(path.strip_prefix(root).unwrap_or(&path));
        let file = text::sanitise(&shown.to_string_lossy()).into_owned();
        lines.extend(lines_of(&file, &String::from_utf8_lossy(&content)));
    }
    lines.truncate(MAX_SYSCTL_LINES);
    lines
}

fn files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort_unstable();
    files
}

fn lines_of(file: &str, content: &str) -> Vec<SysctlLine> {
    let line = |(number, line): (usize, &str)| {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            return None;
        }
        let (name, value) = line.trim_start_matches('-').split_once('=')?;
        let name = name.trim().replace('/', ".");
        SYSCTLS.contains(&&*name).then(|| SysctlLine {
            file: file.to_owned(),
            line: number as u32 + 1,
            name,
            value: plain(value),
        })
    };
    content.lines().enumerate().filter_map(line).collect()
}

/// The value on one line, with single spaces.
fn plain(value: &str) -> String {
    let words: Vec<&str> = value.split_whitespace().collect();
    text::sanitise(&words.join(" ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_every_location() {
        let root = tempfile::TempDir::new().expect("a folder");
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        };
        write("etc/sysctl.conf", "# net.ipv4.tcp_tw_recycle = 1\n\nnet.ipv4.tcp_tw_recycle = 1\n");
        write("etc/sysctl.d/99-tuning.conf", "-net/ipv4/tcp_fin_timeout=30\nvm.swappiness = 1\n");
        write("etc/sysctl.d/readme.txt", "net.ipv4.tcp_tw_recycle = 1\n");
        write("usr/lib/sysctl.d/10.conf", "net.ipv4.ip_local_port_range = 1024\t65535\x1b[2J\n");
        std::os::unix::fs::symlink(root.path().join("usr/lib"), root.path().join("lib")).expect("a link");
        let lines: Vec<String> = lines_below(root.path())
            .iter()
            .map(|line| format!("{}:{}: {}={}", line.file, line.line, line.name, line.value))
            .collect();
        assert_eq!(
            lines[..2],
            [
                "/etc/sysctl.conf:3: net.ipv4.tcp_tw_recycle=1",
                "/etc/sysctl.d/99-tuning.conf:1: net.ipv4.tcp_fin_timeout=30",
            ]
        );
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].starts_with("/usr/lib/sysctl.d/10.conf:1: net.ipv4.ip_local_port_range=1024 65535"));
        assert!(!lines[2].contains('\x1b'));
    }
}
