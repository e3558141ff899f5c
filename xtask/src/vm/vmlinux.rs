//! The BTF of a kernel that is not running: in, its image; out, the section `.BTF` of the `vmlinux` inside.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::kernels::decompress;
use crate::arch::Arch;

/// First bytes of BTF: magic, version 1, no flags, and the length of the header.
const BTF_MAGIC: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
const BTF_HEADER_LEN: usize = 24;
/// Offsets in the boot protocol's header (Documentation/arch/x86/boot.rst).
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Compressors of Debian's kernels, by the first bytes of their streams.
const COMPRESSORS: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip"), (b"\x02\x21\x4c\x18", "lz4")];

/// The BTF of the kernel in `image`; `folder` is for temporary files.
pub fn btf(arch: Arch, image: &Path, folder: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let vmlinux = match arch {
        Arch::Amd64 => unpacked(&bytes, folder)?,
        // Debian's image is not compressed.
        Arch::Arm64 => bytes,
    };
    largest_btf(&vmlinux).map(<[u8]>::to_vec).context("no BTF in the image")
}

/// The kernel that an image of x86-64 unpacks when it boots.
fn unpacked(image: &[u8], folder: &Path) -> Result<Vec<u8>> {
    let payload = payload(image).context("the image has no payload where the boot protocol says")?;
    let known = COMPRESSORS.iter().find(|(magic, _)| payload.starts_with(magic));
    let (_, program) = known.context("the image is compressed in an unknown way")?;
    fs::create_dir_all(folder)?;
    let [packed, vmlinux] = ["vmlinux.packed", "vmlinux"].map(|name| folder.join(name));
    fs::write(&packed, payload)?;
    decompress(program, &packed, &vmlinux)?;
    Ok(fs::read(&vmlinux)?)
}

/// The longest part of `bytes` that is BTF: programs inside the kernel may have some of their own.
fn largest_btf(bytes: &[u8]) -> Option<&[u8]> {
    let starts = bytes.windows(BTF_MAGIC.len()).enumerate().filter(|(_, window)| *window == BTF_MAGIC);
    let sections = starts.filter_map(|(at, _)| {
        let section = &bytes[at..];
        let strings_end = number(section, 16)?.checked_add(number(section, 20)?)?;
        section.get(..BTF_HEADER_LEN.checked_add(strings_end)?)
    });
    sections.max_by_key(|section| section.len())
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}

/// The compressed kernel, without the length that the build appends.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let sectors = match *image.get(SETUP_SECTS)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * SECTOR + number(image, PAYLOAD_OFFSET)?;
    let length = number(image, PAYLOAD_LENGTH)?.checked_sub(4)?;
    image.get(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn btf_is_found_by_its_magic() {
        let section = |strings: &[u8]| {
            let mut bytes = BTF_MAGIC.to_vec();
            for word in [0, 4, 4, strings.len() as u32] {
                bytes.extend(word.to_le_bytes());
            }
            [bytes, vec![7; 4], strings.to_vec()].concat()
        };
        let (own, of_kernel) = (section(b"\0a"), section(b"\0sock_common"));
        let cut = &section(b"\0a much longer one that ends with the image")[..30];
        let image = [b"MZ".as_slice(), &own, b"code", &of_kernel, b"data", cut].concat();
        assert_eq!(largest_btf(&image), Some(of_kernel.as_slice()));
        assert_eq!(largest_btf(b"nothing"), None);
    }
}
