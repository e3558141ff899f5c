//! Finds the return address of a function that has no frame pointer: the call frame information (`.eh_frame`) of its file tells
//! how far above the stack pointer it is.

use std::{fs::File, os::unix::fs::FileExt as _};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EndianSlice, LittleEndian, RegisterRule, UnwindContext,
    UnwindSection as _, X86_64,
};

/// Most sections, program headers and bytes of call frame information in a file.
const MAX_SECTIONS: usize = 1 << 10;
const MAX_HEADERS: usize = 1 << 7;
const MAX_CFI_BYTES: u64 = 32 << 20;

/// Index of the word above the stack pointer that holds the return address, where the instruction at this offset of the
/// file is next. `None` if the file does not tell, or the function has a frame pointer.
pub(super) fn caller_word(file: &File, offset: u64) -> Option<usize> {
    let elf = Elf::read(file)?;
    let address = elf.address(offset)?;
    let (start, section) = elf.section(b".eh_frame")?;
    let frames = EhFrame::new(&section, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(start);
    let entry = frames
        .fde_for_address(&bases, address, EhFrame::<EndianSlice<'_, LittleEndian>>::cie_from_offset)
        .ok()?;
    let mut context = UnwindContext::new();
    let row = entry.unwind_info_for_address(&frames, &bases, &mut context, address).ok()?;
    let CfaRule::RegisterAndOffset { register: X86_64::RSP, offset: frame } = *row.cfa() else { return None };
    let Some(RegisterRule::Offset(saved)) = row.register(X86_64::RA) else { return None };
    let bytes = usize::try_from(frame.checked_add(saved)?).ok()?;
    (bytes % size_of::<u64>() == 0).then_some(bytes / size_of::<u64>())
}

/// The headers of a 64-bit little-endian ELF file.
struct Elf<'a> {
    file: &'a File,
    /// Offset in the file, address, size.
    segments: Vec<(u64, u64, u64)>,
    sections: Vec<ElfSection>,
    names: Vec<u8>,
}

struct ElfSection {
    name: usize,
    address: u64,
    offset: u64,
    size: u64,
}

impl<'a> Elf<'a> {
    fn read(file: &'a File) -> Option<Self> {
        const LOAD: u64 = 1;
        let header = bytes(file, 0, 64)?;
        if header.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let half = |at| Some(field(&header, at, 2)? as usize);
        let headers = table(file, field(&header, 32, 8)?, half(54)?, half(56)?.min(MAX_HEADERS))?;
        let segments = headers
            .chunks_exact(half(54)?.max(1))
            .filter(|header| field(header, 0, 4) == Some(LOAD))
            .filter_map(|header| Some((field(header, 8, 8)?, field(header, 16, 8)?, field(header, 32, 8)?)))
            .collect();
        let headers = table(file, field(&header, 40, 8)?, half(58)?, half(60)?.min(MAX_SECTIONS))?;
        let sections: Vec<ElfSection> = headers
            .chunks_exact(half(58)?.max(1))
            .filter_map(|header| {
                Some(ElfSection {
                    name: field(header, 0, 4)? as usize,
                    address: field(header, 16, 8)?,
                    offset: field(header, 24, 8)?,
                    size: field(header, 32, 8)?,
                })
            })
            .collect();
        let names = sections.get(half(62)?)?;
        let names = bytes(file, names.offset, names.size.min(1 << 16))?;
        Some(Self { file, segments, sections, names })
    }

    /// The address of the byte at `offset` in the file.
    fn address(&self, offset: u64) -> Option<u64> {
        let (start, address, _) = self
            .segments
            .iter()
            .find(|(start, _, size)| offset.checked_sub(*start).is_some_and(|at| at < *size))?;
        address.checked_add(offset - start)
    }

    /// Address and content of a section.
    fn section(&self, name: &[u8]) -> Option<(u64, Vec<u8>)> {
        let is_named = |section: &&ElfSection| {
            self.names
                .get(section.name..)
                .is_some_and(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)))
        };
        let section = self.sections.iter().find(is_named)?;
        Some((section.address, bytes(self.file, section.offset, section.size)?))
    }
}

fn table(file: &File, at: u64, size: usize, count: usize) -> Option<Vec<u8>> {
    bytes(file, at, u64::try_from(size.checked_mul(count)?).ok()?)
}

fn bytes(file: &File, at: u64, size: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok().filter(|_| size <= MAX_CFI_BYTES)?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

/// A little-endian number of `size` bytes.
fn field(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn damaged_files_have_no_information() {
        let program = std::fs::read(std::env::current_exe().expect("a path")).expect("this program");
        for change in [0, 4, 32, 40, 54, 56, 58, 60, 62] {
            let mut bytes = program[..4096].to_vec();
            bytes[change] ^= 0xff;
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&bytes).expect("space");
            assert_eq!(caller_word(&file, 0x1000), None);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn at_its_first_instruction_a_function_returns_to_the_first_word() {
        let code = super::super::ProcessCode::read(std::process::id()).expect("it runs");
        let here = libc::close as *const () as usize as u64;
        let (_, offset) = code.file_offset(here).expect("the C library is a file");
        let Some(file) = code.open(here) else { return eprintln!("skipped: needs CAP_SYS_ADMIN") };
        assert_eq!(caller_word(&file, offset), Some(0));
    }
}
