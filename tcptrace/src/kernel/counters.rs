//! Reads the kernel's per-program counters with `bpf()`, so that the ring reader does not wait for `/proc`.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// `BPF_OBJ_GET_INFO_BY_FD`.
const GET_INFO: libc::c_int = 15;

/// The part of `union bpf_attr` that this command uses.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to the counters. Older kernels fill in less of it.
#[derive(Clone, Copy)]
#[repr(C)]
struct ProgInfo {
    /// From `type` to `prog_tags`.
    before: [u64; 24],
    run_time_ns: u64,
    run_cnt: u64,
    recursion_misses: u64,
}

/// Length of `struct bpf_prog_info` without `recursion_misses`.
const RUN_COUNTERS_END: usize = std::mem::offset_of!(ProgInfo, recursion_misses);

/// Number of events that the kernel withheld because the program was already active on the CPU. 0 before 5.12, which
/// neither counts nor withholds any.
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = ProgInfo { before: [0; 24], run_time_ns: 0, run_cnt: 0, recursion_misses: 0 };
    let mut attr = InfoAttr {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of::<ProgInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` and `info` outlive the call and have the given lengths; all pointers and counts in `info` are 0,
    // so the kernel writes nowhere else.
    let result = unsafe { libc::syscall(libc::SYS_bpf, GET_INFO, &raw mut attr, size_of::<InfoAttr>()) };
    match result {
        // Where the kernel fills in less, the count remains 0.
        0 if attr.info_len as usize >= RUN_COUNTERS_END => Ok(info.recursion_misses),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
