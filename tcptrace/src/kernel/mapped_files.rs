//! Survives that another process shortens a file while this one reads a mapping of it: the kernel then sends SIGBUS, which would end
//! the program. The pages that are missing read as zeros instead.

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    mem,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

thread_local! {
    /// Without a destructor, so that the handler may read it at any time.
    static IS_READER: Cell<bool> = const { Cell::new(false) };
    /// Pages that were replaced.
    static REPLACED: Cell<u64> = const { Cell::new(0) };
}

static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// From now on the calling thread reads zeros where a mapped file has become too short.
pub fn survive_truncation() {
    static INSTALL: Once = Once::new();
    IS_READER.set(true);
    INSTALL.call_once(|| {
        // SAFETY: no preconditions; the handler is async-signal-safe.
        unsafe {
            PAGE_BYTES.store(libc::sysconf(libc::_SC_PAGESIZE).try_into().unwrap_or(0), Relaxed);
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = replace_page as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

/// Pages that the calling thread has found missing so far.
pub fn replaced_pages() -> u64 {
    REPLACED.get()
}

/// Handles SIGBUS: replaces the page that was read by one of zeros. Any other SIGBUS ends the program.
extern "C" fn replace_page(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes valid information. A page of a mapping that no longer exists in its file is replaced; nobody writes
    // through mappings of files. Only async-signal-safe calls; `errno` is restored.
    unsafe {
        let errno = *libc::__errno_location();
        let bytes = PAGE_BYTES.load(Relaxed);
        let page = (*info).si_addr().map_addr(|address| address & !bytes.wrapping_sub(1));
        let is_replaced = (*info).si_code == libc::BUS_ADRERR && IS_READER.get() && bytes > 0 && {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(page, bytes, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
        };
        if is_replaced {
            REPLACED.set(REPLACED.get() + 1);
        } else {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
        *libc::__errno_location() = errno;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    #[test]
    fn a_file_that_becomes_shorter_reads_as_zeros() {
        survive_truncation();
        let bytes = 4 * PAGE_BYTES.load(Relaxed);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![b'x'; bytes]).expect("space");
        // SAFETY: a new mapping, read within its length.
        unsafe {
            let at = mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::PRIVATE, &file, 0);
            let at = at.expect("a mapping").cast::<u8>();
            file.set_len(1).expect("shorter");
            let read = |offset| at.add(offset).read_volatile();
            assert_eq!([read(0), read(1), read(bytes / 2), read(bytes - 1)], [b'x', 0, 0, 0]);
            munmap(at.cast(), bytes).expect("its length");
        }
        assert_eq!(replaced_pages(), 2);
    }
}
