//! Starting processes beside open sockets: between fork and exec a child holds a copy of every descriptor, and a socket
//! that is closed meanwhile is closed later, by the child. So nothing is started while a scenario closes a socket.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};

static DESCRIPTORS: RwLock<()> = RwLock::new(());

/// What scenarios do with a [`Command`] instead of what `std` has.
pub trait Start {
    /// As `spawn()`, while no socket is being closed.
    fn start(&mut self) -> io::Result<Child>;

    /// As `output()`, likewise.
    fn finish(&mut self) -> io::Result<Output>;
}

impl Start for Command {
    fn start(&mut self) -> io::Result<Child> {
        // `spawn()` returns once the child has its own program, and no descriptor that is not meant for it.
        let _no_close = DESCRIPTORS.write().unwrap_or_else(PoisonError::into_inner);
        self.spawn()
    }

    fn finish(&mut self) -> io::Result<Output> {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()?.wait_with_output()
    }
}

/// Runs `close`, which closes sockets, while no process is being started.
pub fn while_none_starts<T>(close: impl FnOnce() -> T) -> T {
    let _no_start = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
    close()
}
