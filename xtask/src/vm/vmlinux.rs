//! A kernel's own BTF without booting it: in, its compressed image; out, the section `.BTF` of the `vmlinux` inside.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// Places in the boot protocol's header (Documentation/arch/x86/boot.rst).
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Compressors that Debian's kernels use, by how their streams begin.
const COMPRESSORS: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip"), (b"\x02\x21\x4c\x18", "lz4")];

/// The BTF of the kernel in `image`; `folder` is for files in between.
pub fn btf(image: &Path, folder: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes).context("the image has no payload where the boot protocol says")?;
    let known = COMPRESSORS.iter().find(|(magic, _)| payload.starts_with(magic));
    let Some((_, program)) = known else { bail!("the image is compressed in an unknown way") };
    fs::create_dir_all(folder)?;
    let (packed, vmlinux) = (folder.join("vmlinux.packed"), folder.join("vmlinux"));
    fs::write(&packed, payload)?;
    let to = fs::File::create(&vmlinux)?;
    command::run(Command::new(program).arg("-dc").stdin(fs::File::open(&packed)?).stdout(to))?;
    let elf = fs::read(&vmlinux)?;
    Ok(section(&elf, b".BTF").context("the kernel has no BTF")?.to_vec())
}

/// The compressed kernel, without the length that the build puts behind it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let sectors = match *image.get(SETUP_SECTS)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * SECTOR + number::<4>(image, PAYLOAD_OFFSET)?;
    let length = number::<4>(image, PAYLOAD_LENGTH)?.checked_sub(4)?;
    image.get(start..start + length)
}

/// A section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let table = number::<8>(elf, 0x28)?;
    let (size, count, names) = (number::<2>(elf, 0x3a)?, number::<2>(elf, 0x3c)?, number::<2>(elf, 0x3e)?);
    let header = |index: usize| elf.get(table + index * size..table + (index + 1) * size);
    let contents = |header: &[u8]| {
        let start = number::<8>(header, 0x18)?;
        elf.get(start..start + number::<8>(header, 0x20)?)
    };
    let names = contents(header(names)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let found = names.get(number::<4>(header, 0)?..)?.split(|&byte| byte == 0).next()?;
        if found == name { contents(header) } else { None }
    })
}

/// The little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let mut all = [0; 8];
    all[..N].copy_from_slice(bytes.get(at..at + N)?);
    usize::try_from(u64::from_le_bytes(all)).ok()
}
