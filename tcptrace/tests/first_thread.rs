//! Tests that a process whose first thread has exited still holds its sockets and keeps its namespace. Runs without the
//! usual harness: the program runs itself as that process, whose `main` ends only its own thread.

#![allow(clippy::disallowed_methods, reason = "threads of tests may do what the tests may")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::linux::fs::MetadataExt as _,
    panic::catch_unwind,
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use rustc_hash::FxHashSet;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tcptrace::source::{netns, owners};

const NAME: &str = "process_with_exited_first_thread_holds_its_sockets";
const CHILD: &str = "as-the-child";

fn main() -> ExitCode {
    let names: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if names == [CHILD] {
        child();
    }
    if !names.is_empty() && names.iter().all(|name| !NAME.contains(name)) {
        return ExitCode::SUCCESS;
    }
    let passed = catch_unwind(holds_its_sockets).is_ok();
    let (outcome, passed, failed) = if passed { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    println!("test {NAME} ... {outcome}\n");
    println!(
        "test result: {outcome}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the inode of its socket and its namespace, a new one if permitted; lives until its standard input closes.
fn child() -> ! {
    // SAFETY: this is the only thread, and no descriptor is shared with another.
    let _ = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    #[expect(clippy::disallowed_methods, reason = "a thread of the test")]
    thread::spawn(|| {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let socket = rustix::fs::fstat(&listener).expect("an open socket").st_ino;
        let netns = fs::metadata("/proc/thread-self/ns/net").expect("/proc is mounted").st_ino();
        println!("{socket} {netns}");
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    // SAFETY: nothing on this thread's stack is used by the other.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("this thread has exited")
}

struct ChildGuard(Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn holds_its_sockets() {
    let program = env::current_exe().expect("this program");
    let mut child = Command::new(program);
    let child = child.arg(CHILD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
    let mut child = ChildGuard(child);
    let pid = child.0.id();
    let mut line = String::new();
    let stdout = child.0.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line from the child");
    let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().expect("a number"));
    let (socket, inum) = (numbers.next().expect("a socket"), numbers.next().expect("a namespace"));
    while !fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running child").contains(") Z ") {
        thread::yield_now();
    }
    let found = owners::find(&FxHashSet::from_iter([socket])).expect("/proc is mounted");
    let holder = found.by_inode.get(&socket).expect("a process holds the socket");
    let own = fs::read_to_string("/proc/self/comm").expect("a name");
    assert_eq!((holder.process.pid, &*holder.process.comm), (pid, own.trim_end()));

    let round = netns::visit_each(|netns| netns.id.0 == inum, |_| ()).expect("a thread");
    let known =
        round.visited.iter().map(|(netns, ())| netns.id).chain(round.refused.iter().map(|e| e.netns.id));
    assert_eq!(known.map(|id| id.0).collect::<Vec<_>>(), [inum]);
}
