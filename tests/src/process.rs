//! Starts processes while sockets are open: until the end of exec a child holds a copy of every descriptor, and a socket
//! that is closed meanwhile is closed later, by the child. So nothing is started while a scenario closes a socket.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};

use rustix::io::DupFlags;

static DESCRIPTORS: RwLock<()> = RwLock::new(());

/// Replaces `spawn()` and `output()` of a [`Command`] in scenarios.
pub trait StartChild {
    /// As `spawn()`, while no socket is being closed.
    fn start(&mut self) -> io::Result<Child>;

    /// As `output()`, likewise.
    fn finish(&mut self) -> io::Result<Output>;
}

impl StartChild for Command {
    fn start(&mut self) -> io::Result<Child> {
        let _no_close = DESCRIPTORS.write().unwrap_or_else(PoisonError::into_inner);
        let held = ExecPipe::new()?;
        let child = self.spawn();
        held.wait_for_others()?;
        child
    }

    fn finish(&mut self) -> io::Result<Output> {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()?.wait_with_output()
    }
}

/// A process that is killed on drop. If it ended before, that does nothing.
pub struct KillOnDrop(pub Child);

impl Deref for KillOnDrop {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for KillOnDrop {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.kill().ok();
        self.wait().ok();
    }
}

/// A descriptor that was opened before every socket.
static FIRST: LazyLock<io::Result<Mutex<OwnedFd>>> =
    LazyLock::new(|| Ok(Mutex::new(File::open("/dev/null")?.into())));

/// A pipe that ends once no other process holds copies of this one's descriptors. `spawn()` may return earlier: exec
/// resumes the parent of a `vfork()` (`exec_mmap()`) before it closes descriptors (`do_close_on_exec()`), and it releases
/// the one with the lowest number last (`task_work_run()`), which is why [`FIRST`] becomes the pipe's write end.
struct ExecPipe {
    reader: io::PipeReader,
}

impl ExecPipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Self::put_in_place(&writer)?;
        Ok(Self { reader })
    }

    fn wait_for_others(mut self) -> io::Result<()> {
        Self::put_in_place(&File::open("/dev/null")?)?;
        io::copy(&mut self.reader, &mut io::sink()).map(drop)
    }

    fn put_in_place(file: &impl AsFd) -> io::Result<()> {
        let first = FIRST.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rustix::io::dup3(file, &mut first, DupFlags::CLOEXEC)?)
    }
}

/// Opens what must be opened before every socket.
pub fn prepare() -> io::Result<()> {
    ExecPipe::new()?.wait_for_others()
}

/// Runs `close`, which closes sockets, while no process is being started.
pub fn while_none_starts<T>(close: impl FnOnce() -> T) -> T {
    let _no_start = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
    close()
}

/// Closes sockets while no process is being started: their closer is this process, and the first one is closed first.
pub fn close<T>(sockets: T) {
    while_none_starts(|| drop(sockets));
}
