//! One request at a time through `io_uring`, each run by a worker thread of the kernel's (`IOSQE_ASYNC`).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use rustix::io::Errno;
use rustix::io_uring::{IoringEnterFlags, io_uring_enter, io_uring_params, io_uring_setup};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use socket2::{SockAddr, Socket};

use crate::lab::Skip;

const CONNECT: u8 = 16;
const SHUTDOWN: u8 = 34;
const ASYNC: u8 = 1 << 4;
const OFFSET_OF_ENTRIES: u64 = 0x1000_0000;
/// `struct io_uring_sqe` and `struct io_uring_cqe`.
const ENTRY: usize = 64;
const RESULT: u32 = 16;
const RESULT_CODE: u32 = 8;
const SHUT_WR: u32 = 1;
/// Large enough for both queues; the kernel returns the real size.
const LENGTH: usize = 4096;

/// A submission queue and a completion queue.
pub struct IoUring {
    descriptor: OwnedFd,
    params: io_uring_params,
    queues: *mut u32,
    entries: *mut u8,
}

impl IoUring {
    /// Creates one.
    pub fn new() -> Result<Self> {
        let mut params = io_uring_params::default();
        // SAFETY: without flags the kernel writes to `params` alone.
        let descriptor = unsafe { io_uring_setup(1, &mut params) }
            .map_err(|error| Skip(format!("io_uring is refused: {error}")))?;
        let map = |offset| {
            // SAFETY: the kernel chooses a place where nothing is.
            unsafe {
                mmap(
                    ptr::null_mut(),
                    LENGTH,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED,
                    &descriptor,
                    offset,
                )
            }
        };
        let queues = map(0)?.cast();
        let entries = map(OFFSET_OF_ENTRIES)?.cast();
        Ok(Self { descriptor, params, queues, entries })
    }

    /// Connects.
    pub fn connect(&mut self, socket: &Socket, target: SocketAddr) -> Result<()> {
        let address = SockAddr::from(target);
        self.run(CONNECT, socket, u64::from(address.len()), address.as_ptr() as u64, 0)
    }

    /// Sends the FIN.
    pub fn shut_down(&mut self, socket: &Socket) -> Result<()> {
        self.run(SHUTDOWN, socket, 0, 0, SHUT_WR)
    }

    /// `address` must be valid until the call returns.
    fn run(&mut self, operation: u8, socket: &Socket, offset: u64, address: u64, length: u32) -> Result<()> {
        let mut entry = [0_u8; ENTRY];
        entry[..2].copy_from_slice(&[operation, ASYNC]);
        entry[4..8].copy_from_slice(&socket.as_raw_fd().to_ne_bytes());
        entry[8..16].copy_from_slice(&offset.to_ne_bytes());
        entry[16..24].copy_from_slice(&address.to_ne_bytes());
        entry[24..28].copy_from_slice(&length.to_ne_bytes());
        let (sent, done) = (self.params.sq_off, self.params.cq_off);
        // SAFETY: the offsets are the kernel's, within what is mapped; there is one entry, and index 0 names it.
        let result = unsafe {
            ptr::copy_nonoverlapping(entry.as_ptr(), self.entries, ENTRY);
            self.place(sent.array).write_volatile(0);
            self.number(sent.tail).fetch_add(1, Ordering::Release);
            io_uring_enter(&self.descriptor, 1, 1, IoringEnterFlags::GETEVENTS)?;
            let head = self.number(done.head);
            ensure!(
                head.load(Ordering::Acquire) != self.number(done.tail).load(Ordering::Acquire),
                "no answer"
            );
            let slot = head.load(Ordering::Acquire) & (self.params.cq_entries - 1);
            let result = self.place(done.cqes + slot * RESULT + RESULT_CODE).read_volatile().cast_signed();
            head.fetch_add(1, Ordering::Release);
            result
        };
        ensure!(result == 0, "io_uring: {}", Errno::from_raw_os_error(-result));
        Ok(())
    }

    /// SAFETY: `offset` is one of the kernel's, in bytes.
    unsafe fn place(&self, offset: u32) -> *mut u32 {
        // SAFETY: by the contract of this function.
        unsafe { self.queues.add(offset as usize / size_of::<u32>()) }
    }

    /// SAFETY: `offset` is one of the kernel's, in bytes.
    unsafe fn number(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: by the contract of this function; the mapping lives as long as `self` and is aligned.
        unsafe { AtomicU32::from_ptr(self.place(offset)) }
    }
}

impl Drop for IoUring {
    fn drop(&mut self) {
        // SAFETY: nothing points into the mappings any more.
        unsafe {
            munmap(self.queues.cast(), LENGTH).ok();
            munmap(self.entries.cast(), LENGTH).ok();
        }
    }
}
