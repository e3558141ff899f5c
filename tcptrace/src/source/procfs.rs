//! Helpers for folders of `/proc` whose entries have numeric names.

use std::{mem::MaybeUninit, ops::ControlFlow};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, Mode, OFlags, RawDir},
    io::Errno,
};

/// Most threads examined in one process.
const THREADS: usize = 64;

/// Calls `each` with the open `/proc` and every process, by ascending pid (`proc_pid_readdir()`), until it
/// breaks.
pub(super) fn each_process(mut each: impl FnMut(&OwnedFd, u32) -> ControlFlow<()>) -> Result<(), Errno> {
    let proc = open(CWD, "/proc")?;
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    let mut entries = RawDir::new(&proc, &mut buffer);
    while let Some(entry) = entries.next() {
        if let Some(pid) = number(entry?.file_name().to_bytes())
            && each(&proc, pid).is_break()
        {
            break;
        }
    }
    Ok(())
}

/// Opens the folder `path` in `dir`.
pub(super) fn open(dir: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The threads of `pid` other than the first, oldest first; none if the process has ended. If the first thread
/// of a process has exited (`pthread_exit()` in `main`), its files in `/proc/PID` are empty or gone, while
/// those of the other threads (`/proc/PID/task/TID`) still show the resources of the process.
pub(super) fn other_threads(proc: &OwnedFd, pid: u32) -> Vec<u32> {
    let Ok(dir) = open(proc, format!("{pid}/task")) else { return Vec::new() };
    let mut buffer = [MaybeUninit::uninit(); 4 << 10];
    let mut entries = RawDir::new(&dir, &mut buffer);
    let mut threads = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        threads.extend(number(entry.file_name().to_bytes()).filter(|&tid| tid != pid));
        if threads.len() == THREADS {
            break;
        }
    }
    threads
}

/// The folder of a thread of `pid`, relative to `/proc`. The first thread uses the folder of the process.
pub(super) fn thread(pid: u32, tid: u32) -> String {
    if tid == pid { pid.to_string() } else { format!("{pid}/task/{tid}") }
}

/// Parses a numeric name.
pub(super) fn number(digits: &[u8]) -> Option<u32> {
    // `u32::from_str` would accept a sign.
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()
}
