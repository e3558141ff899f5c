//! The executable memory of a process, from `/proc/PID/maps` and `/proc/PID/mem`.

use std::{
    fs::File,
    io::Read as _,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    sync::Arc,
};

use crate::model::text;

/// Bytes of `/proc/PID/maps` that are read.
const MAX_MAPS_BYTES: u64 = 16 << 20;

/// Device and inode number of a file.
pub(super) type FileId = (u64, u64);

/// The executable memory of a process.
pub(super) struct ProcessCode {
    pub pid: u32,
    regions: Vec<CodeRegion>,
    memory: Option<File>,
}

/// One executable mapping.
struct CodeRegion {
    range: Range<u64>,
    /// Its start in the file.
    offset: u64,
    file: FileId,
    /// File name; empty for memory without a file.
    module: Arc<str>,
}

impl ProcessCode {
    /// `None` if the process has ended, or may not be read.
    pub fn read(pid: u32) -> Option<Self> {
        let maps = File::open(format!("/proc/{pid}/maps")).ok()?;
        let mut text = Vec::new();
        maps.take(MAX_MAPS_BYTES).read_to_end(&mut text).ok()?;
        let regions = regions(&String::from_utf8_lossy(&text));
        let memory = File::open(format!("/proc/{pid}/mem")).ok();
        (!regions.is_empty()).then_some(Self { pid, regions, memory })
    }

    fn region(&self, address: u64) -> Option<&CodeRegion> {
        let after = self.regions.partition_point(|region| region.range.end <= address);
        self.regions.get(after).filter(|region| region.range.contains(&address))
    }

    /// Whether a call returns to `address`.
    pub fn is_after_call(&self, address: u64) -> bool {
        let Some(before) = address.checked_sub(CALL_BYTES as u64) else { return false };
        if self.region(address - 1).is_none() {
            return false;
        }
        let mut code = [0; CALL_BYTES];
        let memory = self.memory.as_ref();
        // Without the privilege to read memory, any code will do.
        memory.is_none_or(|memory| memory.read_exact_at(&mut code, before).is_err() || ends_in_call(code))
    }

    /// File name of the code at `address`.
    pub fn module(&self, address: u64) -> Arc<str> {
        self.region(address).map_or_else(|| "".into(), |region| Arc::clone(&region.module))
    }

    /// The file of the code at `address`, and its place in it.
    pub fn file_offset(&self, address: u64) -> Option<(FileId, u64)> {
        let region = self.region(address).filter(|region| region.file.1 != 0)?;
        Some((region.file, address - region.range.start + region.offset))
    }

    /// Opens the file of the code at `address`, also if it was deleted or is in another mount namespace.
    pub fn open(&self, address: u64) -> Option<File> {
        let Range { start, end } = self.region(address)?.range;
        let path = format!("/proc/{}/map_files/{start:x}-{end:x}", self.pid);
        // Only a regular file can be mapped as code, so this does not block.
        File::open(path).ok()
    }

    /// Whether the files of the mappings can be opened: `map_files` requires `CAP_SYS_ADMIN`.
    pub fn can_open_mappings(&self) -> bool {
        let with_file = self.regions.iter().find(|region| region.file.1 != 0);
        with_file.is_some_and(|region| self.open(region.range.start).is_some())
    }

    /// Whether the process has a list of the functions that it compiles at run time. Others may write into its `/tmp`: a file of
    /// another user, a link or a pipe is none.
    pub fn has_perf_map(&self) -> bool {
        const MAX_BYTES: u64 = 256 << 20;
        let read = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
            let value = |name| status.lines().find_map(|line| line.strip_prefix(name));
            let own_pid: u32 = value("NSpid:")?.split_ascii_whitespace().last()?.parse().ok()?;
            let uid: u32 = value("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
            let path = PathBuf::from(format!("/proc/{}/root/tmp/perf-{own_pid}.map", self.pid));
            let map = std::fs::symlink_metadata(path).ok()?;
            Some(map.is_file() && (map.uid() == uid || map.uid() == 0) && map.len() <= MAX_BYTES)
        };
        read().unwrap_or(false)
    }
}

/// The executable regions in the text of `maps`, by address.
fn regions(maps: &str) -> Vec<CodeRegion> {
    maps.lines().filter_map(region).collect()
}

/// `55d0c0a00000-55d0c0a21000 r-xp 00001000 fe:00 1837 /usr/bin/app`
fn region(line: &str) -> Option<CodeRegion> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    if !words.next()?.contains('x') {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    let offset = number(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let inode = words.next()?.parse().ok()?;
    let path = words.next().unwrap_or_default().trim_start();
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    Some(CodeRegion {
        range: number(start)?..number(end)?,
        offset,
        file: (number(major)? << 32 | number(minor)?, inode),
        module: text::bounded(path.rsplit('/').next().unwrap_or_default()),
    })
}

/// Length of the longest call.
#[cfg(not(target_arch = "aarch64"))]
const CALL_BYTES: usize = 7;
#[cfg(target_arch = "aarch64")]
const CALL_BYTES: usize = 4;

/// Whether the code ends in `call rel32`, or in `call r/m64` (`FF /2`) with any address.
#[cfg(not(target_arch = "aarch64"))]
fn ends_in_call(code: [u8; CALL_BYTES]) -> bool {
    let is_indirect = |length: usize| {
        let [opcode, operand] = [code[CALL_BYTES - length], code[CALL_BYTES - length + 1]];
        opcode == 0xff && operand >> 3 & 7 == 2
    };
    code[CALL_BYTES - 5] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(is_indirect)
}

/// Whether the code is `BL` or `BLR`, with or without pointer authentication.
#[cfg(target_arch = "aarch64")]
fn ends_in_call(code: [u8; CALL_BYTES]) -> bool {
    let code = u32::from_le_bytes(code);
    code & 0xfc00_0000 == 0x9400_0000 || code & 0xfeff_f000 == 0xd63f_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_regions_are_parsed() {
        let maps = "55d0c0a00000-55d0c0a01000 r--p 00000000 fe:00 1837 /usr/bin/app\n\
                    55d0c0a01000-55d0c0a21000 r-xp 00001000 fe:00 1837                       /usr/bin/a b (deleted)\n\
                    7f0000000000-7f0000001000 rwxp 00000000 00:00 0 \n\
                    7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]\n\
                    nonsense\n";
        let code = ProcessCode { pid: 1, regions: regions(maps), memory: None };
        assert_eq!(code.regions.len(), 3);
        assert_eq!(code.module(0x55d0_c0a0_1005).as_ref(), "a b");
        assert_eq!(code.file_offset(0x55d0_c0a0_1005), Some(((0xfe << 32, 1837), 0x1005)));
        assert_eq!((code.file_offset(0x7f00_0000_0005), code.module(0x55d0_c0a0_0005).as_ref()), (None, ""));
        assert!(code.is_after_call(0x7ffd_0000_2000) && !code.is_after_call(3));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_are_told_from_other_code() {
        let calls: [[u8; 7]; 4] = [
            [0, 0, 0xe8, 1, 2, 3, 4],
            [0, 0, 0, 0, 0, 0xff, 0xd0],
            [0, 0, 0, 0, 0x41, 0xff, 0xd4],
            [0, 0xff, 0x15, 1, 2, 3, 4],
        ];
        assert!(calls.into_iter().all(ends_in_call));
        assert!(![[0x90; 7], [0, 0, 0, 0, 0, 0xff, 0xe0]].into_iter().any(ends_in_call), "jmp");
    }

    #[test]
    fn this_process_has_code() {
        let code = ProcessCode::read(std::process::id()).expect("it runs");
        let here = this_process_has_code as fn() as usize as u64;
        assert!(code.region(here).is_some() && !code.module(here).is_empty());
        assert!(ProcessCode::read(u32::MAX).is_none());
    }
}
