//! Landlock around those who read recordings: a file that came from elsewhere is taken apart where nothing else can be
//! opened, written or connected to. What is open already stays open.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, path_beneath_rules,
};

/// What may still be read: time zones.
const READABLE: [&str; 4] = ["/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone", "/usr/lib/zoneinfo"];
/// What may still be opened for both: the terminal's keys come from it when standard input is something else.
const TERMINAL: [&str; 1] = ["/dev/tty"];
/// The newest interface that is asked for; an older kernel forbids what it can.
const NEWEST: ABI = ABI::V5;

/// Closes the sandbox around the calling thread and those it makes from now on; `recordings` can still be read. Kernels
/// without Landlock go on without.
pub fn close(recordings: &[&Path]) {
    if let Err(error) = restrict(recordings) {
        log::debug!("no sandbox: {error}");
    }
}

fn restrict(recordings: &[&Path]) -> Result<(), RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(recordings, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(TERMINAL, AccessFs::from_all(NEWEST)))?
        .restrict_self()
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{ErrorKind, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Whether this kernel has Landlock, and how much of it: `landlock_create_ruleset()` told.
    fn forbids_files() -> bool {
        std::fs::read_to_string("/sys/kernel/security/lsm").map_or_else(
            |_| {
                std::fs::read_to_string("/proc/kallsyms")
                    .is_ok_and(|symbols| symbols.contains("landlock_put_ruleset"))
            },
            |modules| modules.contains("landlock"),
        )
    }

    #[test]
    fn nothing_but_what_is_open_is_left() {
        if !forbids_files() {
            eprintln!("no Landlock on this kernel: nothing to see");
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut output = File::create(folder.path().join("output")).expect("a file");
        let recording = folder.path().join("recording");
        File::create(&recording).expect("a file");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let folder_path = folder.path().to_owned();
        std::thread::spawn(move || {
            close(&[&recording]);
            assert!(File::open(&recording).is_ok(), "what is to be read");
            output.write_all(b"goes on").expect("it was open");
            let refused = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            refused(File::open("/etc/passwd").map(drop).expect_err("not to be read"));
            refused(File::create(folder_path.join("other")).map(drop).expect_err("not to be written"));
            // Since Linux 6.7.
            if let Err(error) = TcpStream::connect(addr) {
                refused(error);
            }
        })
        .join()
        .expect("no panic");
        assert!(File::open("/etc/passwd").is_ok(), "only that thread is in it");
    }
}
