//! The BTF of a kernel that is not running: in, its compressed image; out, the section `.BTF` of the `vmlinux` inside.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::kernels::decompress;
use crate::command;

/// Offsets in the boot protocol's header (Documentation/arch/x86/boot.rst).
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Compressors of Debian's kernels, by the first bytes of their streams.
const COMPRESSORS: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip"), (b"\x02\x21\x4c\x18", "lz4")];

/// The BTF of the kernel in `image`; `folder` is for temporary files.
pub fn btf(image: &Path, folder: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes).context("the image has no payload where the boot protocol says")?;
    let known = COMPRESSORS.iter().find(|(magic, _)| payload.starts_with(magic));
    let (_, program) = known.context("the image is compressed in an unknown way")?;
    fs::create_dir_all(folder)?;
    let [packed, vmlinux, btf] = ["vmlinux.packed", "vmlinux", "btf"].map(|name| folder.join(name));
    fs::write(&packed, payload)?;
    decompress(program, &packed, &vmlinux)?;
    let section = ["--output-target=binary", "--only-section=.BTF"];
    command::run(Command::new("objcopy").args(section).args([&vmlinux, &btf]))?;
    Ok(fs::read(&btf)?)
}

/// The compressed kernel, without the length that the build appends.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
    let sectors = match *image.get(SETUP_SECTS)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * SECTOR + number(PAYLOAD_OFFSET)?;
    let length = number(PAYLOAD_LENGTH)?.checked_sub(4)?;
    image.get(start..start + length)
}
