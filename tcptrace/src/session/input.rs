//! Opens a recording as a stream of bytes, without reading any of it.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Read},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

/// How long to wait for more of a recording that is still being written.
pub const WAIT: Duration = Duration::from_millis(50);

/// An open recording. Only a [confined](crate::sandbox) thread reads its contents.
pub struct Input {
    file: File,
    length: Option<u64>,
}

impl Input {
    /// Opens the recording at `path`, `-` for standard input. Also opens a FIFO that has no writer yet.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = if path == Path::new("-") {
            standard_input()?
        } else {
            // Without it, open() blocks until there is a writer, and a caught signal does not end it.
            OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?
        };
        let meta = file.metadata()?;
        Ok(Self { file, length: meta.is_file().then_some(meta.len()) })
    }

    /// Size of a regular file at opening time; `None` for anything else.
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// The bytes from the beginning, of a file that can be [rewound](Self::rewind).
    pub(super) fn beginning(&self) -> io::Result<Box<dyn Read + Send>> {
        if self.length.is_none() {
            let what = "it is no regular file: a pipe can only be read alone";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Box::new(self.file.try_clone()?))
    }

    /// Goes back to the beginning.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        io::Seek::rewind(&mut self.file)
    }

    /// The regular file and its length; `None` for anything else.
    pub fn into_file(self) -> Option<(File, u64)> {
        let length = self.length?;
        Some((self.file, length))
    }

    /// The bytes. A pipe without data returns [`io::ErrorKind::WouldBlock`].
    pub(super) fn into_stream(self) -> Box<dyn Read + Send> {
        if self.length.is_some() { Box::new(self.file) } else { Box::new(Pipe(self.file)) }
    }
}

fn standard_input() -> io::Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let what = "it is a terminal; send it a recording";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    stdin.as_fd().try_clone_to_owned().map(File::from)
}

/// A pipe or similar; reading it times out while nobody writes.
struct Pipe(File);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(WAIT.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            // Readable, or at its end because the writer closed it.
            _ => self.0.read(buffer),
        }
    }
}
